"""The path that a Schrödinger bridge takes between given ends: x_t = (1 - t) x0 + t x1 + sqrt(epsilon t (1 - t)) z, a Brownian bridge."""
from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rheos.core import checks
from rheos.paths import Coefficients

__all__ = ["BrownianBridge"]


@dataclass(frozen=True)
class BrownianBridge:
    """A two-sided schedule: sqrt(epsilon) times a Brownian motion, pinned to both ends; `Path(BrownianBridge(epsilon))`.

    epsilon: variance of the motion at time 1, above 0; 2 is the schedule of `Path.interpolant("sqrt")`. margin: samplers keep so far from both ends
    unless told otherwise, below 1/2. Fields that tell the score themselves need none; a network that predicts noise does (1e-3), for c is 0 there.

    >>> from rheos.paths import Path
    >>> at = Path(BrownianBridge(0.64)).coefficients(0.5)
    >>> float(at.a), float(at.b), float(at.c), float(at.cdc)
    (0.5, 0.5, 0.4, 0.0)
    """

    epsilon: float
    margin: float = 0.0
    two_sided: ClassVar[bool] = True

    def __post_init__(self):
        checks.positive("epsilon", self.epsilon)
        checks.between("margin", self.margin, 0.0, 0.5, high_open=True)

    @property
    def interval(self) -> tuple[float, float]:
        return self.margin, 1.0 - self.margin

    def coefficients(self, t: Tensor) -> Coefficients:
        c, cdc = torch.sqrt(self.epsilon * t * (1 - t)), 0.5 * self.epsilon * (1 - 2 * t)
        return Coefficients(1 - t, t, c, -1.0, 1.0, cdc / c, cdc)
