"""Probability paths from noise to data, and the fields that live on them."""
from rheos.paths.exact import ExactField
from rheos.paths.field import Field
from rheos.paths.path import Path, PathPoint
from rheos.paths.predictions import KINDS, Prediction
from rheos.paths.schedules import VP, Coefficients, Interpolant, Linear, Schedule
from rheos.paths.times import LAM, QUADRATIC, RHO, SQRT_U, Clock, T, Times, U

__all__ = [
    "KINDS", "LAM", "QUADRATIC", "RHO", "SQRT_U", "VP", "Clock", "Coefficients", "ExactField", "Field", "Interpolant", "Linear", "Path",
    "PathPoint", "Prediction", "Schedule", "T", "Times", "U",
]
