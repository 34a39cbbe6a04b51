"""Losses: what is regressed, when, and in which norm. Objectives add and scale."""
from rheos.objectives.distilling import Distill
from rheos.objectives.flow_guided import FlowGuided
from rheos.objectives.fokker_planck import FokkerPlanckResidual, fokker_planck_residual
from rheos.objectives.gaps import L1, L2, Metric, OnData, Perceptual, PerceptualHuber, PointMetric, PseudoHuber
from rheos.objectives.masked_tokens import MaskedTokens, nll_bound
from rheos.objectives.matching import Loss, Matching, Objective
from rheos.objectives.router import CrossEntropy
from rheos.objectives.when import At, LogitNormal, LogNormal, Ordered, Stratified, TimeLaw, Uniform, UShaped

__all__ = [
    "L1", "L2", "At", "CrossEntropy", "Distill", "FlowGuided", "FokkerPlanckResidual", "LogNormal", "LogitNormal", "Loss", "MaskedTokens", "Matching",
    "Metric", "Objective", "OnData", "Ordered", "Perceptual", "PerceptualHuber", "PointMetric", "PseudoHuber", "Stratified", "TimeLaw", "UShaped", "Uniform",
    "fokker_planck_residual", "nll_bound",
]
