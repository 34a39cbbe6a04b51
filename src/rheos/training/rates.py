"""Learning-rate schedules: functions of the step that multiply the optimiser's own rate."""
from __future__ import annotations

import math
from dataclasses import dataclass

from rheos.core import checks

__all__ = ["Constant", "Cosine", "Linear"]


@dataclass(frozen=True)
class Constant:
    """Linear warm-up over `warm_up` steps, then 1."""

    warm_up: int = 0

    def __post_init__(self):
        checks.integer("warm_up", self.warm_up, least=0)

    def __call__(self, step: int) -> float:
        return min(1.0, (step + 1) / max(1, self.warm_up))


@dataclass(frozen=True)
class Linear:
    """Linear warm-up over `warm_up` steps, then a straight line from 1 down to `floor` at step `steps` (and `floor` after it)."""

    steps: int
    warm_up: int = 0
    floor: float = 0.0

    def __post_init__(self):
        _check(self)

    def __call__(self, step: int) -> float:
        if step < self.warm_up:
            return (step + 1) / self.warm_up
        return 1 - (1 - self.floor) * min(1.0, (step - self.warm_up) / (self.steps - self.warm_up))


@dataclass(frozen=True)
class Cosine:
    """Linear warm-up over `warm_up` steps, then half a cosine from 1 down to `floor` at step `steps` (and `floor` after it)."""

    steps: int
    warm_up: int = 0
    floor: float = 0.0

    def __post_init__(self):
        _check(self)

    def __call__(self, step: int) -> float:
        if step < self.warm_up:
            return (step + 1) / self.warm_up
        done = min(1.0, (step - self.warm_up) / (self.steps - self.warm_up))
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * done))


def _check(schedule: Linear | Cosine) -> None:
    checks.integer("steps", schedule.steps, least=1)
    if checks.integer("warm_up", schedule.warm_up, least=0) >= schedule.steps:
        raise ValueError(f"warm_up must be below steps = {schedule.steps}, got {schedule.warm_up}")
    checks.between("floor", schedule.floor, 0.0, 1.0)
