"""How far an answer is from its target: the norms of regression losses."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Inexact, Shaped
from torch import Tensor

from rheos.core import checks
from rheos.paths import Path, PathPoint

__all__ = ["L1", "L2", "Metric", "OnData", "Perceptual", "PerceptualHuber", "PointMetric", "PseudoHuber"]

STRAIGHT = (Path.linear(), Path.interpolant("none"))       # x_t = (1 - t) x0 + t x1, so that the velocity is x1 - x0 throughout


@runtime_checkable
class Metric(Protocol):
    """(answer, target), both (batch, *event), to errors with the batch first, which the loss averages."""

    def __call__(self, answer: Tensor, target: Tensor) -> Tensor: ...


@runtime_checkable
class PointMetric(Protocol):
    """A metric that sees where on the path it measures: (point, kind, answer) to errors with the batch first, `answer` being what a network that
    predicts `kind` says at `point`."""

    def on(self, point: PathPoint, kind: str, answer: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class L1:
    """The absolute difference, entry by entry: large errors weigh no more than their size, and the best answer is the median."""

    def __call__(self, answer: Inexact[Tensor, "batch *event"], target: Inexact[Tensor, "batch *event"]) -> Tensor:
        return (answer - target).abs()


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


@dataclass(frozen=True, eq=False)
class OnData:
    """A metric of data, whatever the network predicts: its answer is read as the data x1 and measured against those.

    metric: of two events, such as `Perceptual(features)`. On paths with noise and a source two kinds would be needed: ValueError, on use.
    """

    metric: Metric

    def __post_init__(self):
        if isinstance(self.metric, type) or not callable(self.metric):
            raise TypeError(f"metric must be a metric of two events such as Perceptual(features), got {self.metric!r}")

    def on(self, point: PathPoint, kind: str, answer: Tensor) -> Tensor:
        """Errors with the batch first."""
        return self.metric(point.path.prediction({kind: answer}, point.x, point.at).data, point.x1)


@dataclass(frozen=True, eq=False)
class PerceptualHuber:
    r"""(1 - s) Huber(v) + |features(x1_hat) - features(x1)|^2 / s, s = 1 - t the share of noise: a rectified flow's norm of images.

    x1_hat = x_t + (1 - t) v is where the straight line on from here ends. Near the data it errs by s times the velocity's error, so that the second term
    has one size at all times; near the noise, where one step must do it all, it is the only term (Lee et al., 2024, arXiv:2405.20320, "LPIPS-Huber-1/t";
    their clock runs the other way, s is their t).
    features: (batch, *event) -> (batch, ...), differentiable and frozen, such as `rheos.metrics.digit_features()`; LPIPS there. c: see `PseudoHuber`.
    least: what s is at least in 1 / s; 1e-5 as there. ValueError, on use, for anything but a velocity on Path.linear() or Path.interpolant("none").
    """

    features: Callable[[Tensor], Tensor]
    c: float = 0.00054
    least: float = 1e-5

    def __post_init__(self):
        Perceptual(self.features, 0.0), PseudoHuber(self.c)
        checks.between("least", self.least, 0.0, 1.0, low_open=True)

    def on(self, point: PathPoint, kind: str, answer: Tensor) -> Shaped[Tensor, " batch"]:
        """Errors (batch,)."""
        if kind != "velocity" or point.path not in STRAIGHT:
            raise ValueError(f"PerceptualHuber measures a velocity on Path.linear() or Path.interpolant('none'), got {kind} on {point.path.schedule}")
        noise = (1 - point.t).to(point.x.dtype)
        felt = OnData(Perceptual(self.features, 0.0)).on(point, kind, answer)
        return (1 - noise) * PseudoHuber(self.c)(answer, point.velocity) + felt / noise.clamp_min(self.least)
