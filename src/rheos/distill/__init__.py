"""Few-step students: straightening flows by their own pairs."""
from rheos.distill.distillation import Budget, reflow_distill
from rheos.distill.rectify import Straightness, one_step, rectify, straightness

__all__ = [
    "Budget", "Straightness", "one_step", "rectify", "reflow_distill", "straightness",
]
