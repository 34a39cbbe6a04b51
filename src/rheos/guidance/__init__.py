"""Steering a field: guidance takes a field and gives a field, or walks along one with hooks, weighs particles on it, or searches its starts."""
from rheos.guidance.boundary import Boundary, best_boundary, boundary_scores, rms_distance
from rheos.guidance.classifier import ClassifierGuided
from rheos.guidance.classifier_free import ClassifierFree, classifier_free
from rheos.guidance.cyclic import CyclicOneWay, Latents
from rheos.guidance.feynman_kac import FeynmanKac, FeynmanKacState, Weighing, effective_size, sample_tilted, systematic
from rheos.guidance.flow_chef import flow_chef
from rheos.guidance.minority import MinorityGuidance, NoisyClassifier, minority_score
from rheos.guidance.nudges import Misfit, Nudge
from rheos.guidance.operators import Blur, Dense, Grey, LinearOperator, Mask, Pool
from rheos.guidance.projection import Projection, Projections, project
from rheos.guidance.repaint import Known, repaint
from rheos.guidance.repeated import RepeatedSampling, Solved
from rheos.guidance.residual import ResidualCFG
from rheos.guidance.search import BestOf, Found, OverPaths, PathSearch, PathSearchState, StartSearch, StartSearchState, ZeroOrder, search
from rheos.guidance.steered import steered
from rheos.guidance.tilt import Reward, Tilted, Weighed, tilt
from rheos.guidance.time_travel import Nudging, Overwrite, Steering, TimeTravel, TimeTravelState, travel, travelled
from rheos.guidance.variance_filter import Filtered, RandomFilter, VarianceFilter

__all__ = [
    "BestOf", "Blur", "Boundary", "ClassifierFree", "ClassifierGuided", "CyclicOneWay", "Dense", "FeynmanKac", "FeynmanKacState", "Filtered", "Found", "Grey",
    "Known", "Latents", "LinearOperator", "Mask", "MinorityGuidance", "Misfit", "NoisyClassifier", "Nudge", "Nudging", "OverPaths", "Overwrite", "PathSearch",
    "PathSearchState", "Pool", "Projection", "Projections", "RandomFilter", "RepeatedSampling", "ResidualCFG", "Reward", "Solved", "StartSearch",
    "StartSearchState", "Steering", "Tilted", "TimeTravel", "TimeTravelState", "VarianceFilter", "Weighed", "Weighing", "ZeroOrder", "best_boundary",
    "boundary_scores", "classifier_free", "effective_size", "flow_chef", "minority_score", "project", "repaint", "rms_distance", "sample_tilted", "search",
    "steered", "systematic", "tilt", "travel", "travelled",
]
