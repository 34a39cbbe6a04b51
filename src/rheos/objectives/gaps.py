"""How far an answer is from its target: the norms of regression losses."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Inexact, Shaped
from torch import Tensor

from rheos.core import checks

__all__ = ["L2", "Metric", "Perceptual", "PseudoHuber"]


@runtime_checkable
class Metric(Protocol):
    """(answer, target), both (batch, *event), to errors with the batch first, which the loss averages."""

    def __call__(self, answer: Tensor, target: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class L2:
    """The squared difference, entry by entry."""

    def __call__(self, answer: Inexact[Tensor, "batch *event"], target: Inexact[Tensor, "batch *event"]) -> Tensor:
        gap = answer - target
        return gap.abs().square() if gap.is_complex() else gap.square()


@dataclass(frozen=True)
class PseudoHuber:
    """sqrt(|e|^2 + k^2) - k over the whole event, divided by d, with k = c d (Lee et al., 2024, arXiv:2405.20320).

    c: 0.00054 as there; d numbers in an event. Square near 0, linear far away, so that a few large errors do not rule.
    """

    c: float = 0.00054

    def __post_init__(self):
        checks.positive("c", self.c)

    def __call__(self, answer: Inexact[Tensor, "batch *event"], target: Inexact[Tensor, "batch *event"]) -> Shaped[Tensor, " batch"]:
        gap = (answer - target).flatten(1)
        size = gap.shape[1]
        k = self.c * size
        squared = gap.abs().square().sum(1)
        # sqrt(s + k^2) - k without cancellation where the error s is small.
        return squared / (torch.sqrt(squared + k * k) + k) / size


@dataclass(frozen=True, eq=False)
class Perceptual:
    """The squared difference of frozen features, plus `pixels` times that of the events themselves.

    features: (batch, *event) -> (batch, ...), differentiable, such as `rheos.metrics.digit_features()`; meant for networks that predict data.
    """

    features: Callable[[Tensor], Tensor]
    pixels: float = 1.0

    def __post_init__(self):
        if not callable(self.features):
            raise TypeError(f"features must be callable, got {type(self.features).__name__}")
        checks.positive("pixels", self.pixels, zero=True)

    def __call__(self, answer: Inexact[Tensor, "batch *event"], target: Inexact[Tensor, "batch *event"]) -> Shaped[Tensor, " batch"]:
        with torch.no_grad():
            seen = self.features(target)
        felt = (self.features(answer) - seen).flatten(1).square().mean(1)
        return felt if self.pixels == 0 else felt + self.pixels * (answer - target).flatten(1).square().mean(1)
