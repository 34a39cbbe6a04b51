"""Losses: what is regressed, when, and in which norm. Objectives add and scale."""
from rheos.objectives.matching import Loss, Matching, Objective
from rheos.objectives.when import LogitNormal, Uniform

__all__ = ["LogitNormal", "Loss", "Matching", "Objective", "Uniform"]
