"""Few-step students: straightening flows by their own pairs."""
from rheos.distill.rectify import Straightness, one_step, rectify, straightness

__all__ = ["Straightness", "one_step", "rectify", "straightness"]
