"""Losses: what is regressed, when, and in which norm. Objectives add and scale."""
from rheos.objectives.gaps import L2, Metric, Perceptual, PseudoHuber
from rheos.objectives.matching import Loss, Matching, Objective
from rheos.objectives.when import LogitNormal, LogNormal, Ordered, Stratified, TimeLaw, Uniform, UShaped

__all__ = [
    "L2", "LogNormal", "LogitNormal", "Loss", "Matching", "Metric", "Objective", "Ordered", "Perceptual", "PseudoHuber", "Stratified", "TimeLaw",
    "UShaped", "Uniform",
]
