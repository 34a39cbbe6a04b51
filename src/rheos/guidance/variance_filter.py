"""Drawing more samples than are needed, and dropping those whose clean prediction still moved near the end of their run.

n / keep samples are drawn and the n of least `TrajectoryVariance` kept: for far modes, samples between them go first.

Paper: Aithal, Maini, Lipton and Kolter, Understanding hallucinations in diffusion models through mode interpolation, 2024, arXiv:2406.09358.
"""
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Float, Int64
from torch import Tensor

from rheos.core import Draws, checks
from rheos.metrics.trajectory_variance import TrajectoryVariance

__all__ = ["Filtered", "RandomFilter", "VarianceFilter"]

Draw = Callable[[int, TrajectoryVariance | None], Tensor]       # (count, edit) -> samples (count, *event), drawn with that edit


class Filtered(NamedTuple):
    """x (n, *event), the samples kept, in the order in which they were drawn; their numbers (n,) among all that were; variance (drawn,) of all, or None."""

    x: Tensor
    rows: Tensor
    variance: Tensor | None


@dataclass(frozen=True)
class VarianceFilter:
    """Keeps the share `keep` of samples whose clean prediction moved least for begin <= t <= end.

    keep: 0.96 as in the paper. begin, end: see `TrajectoryVariance`.
    Where some classes are harder than others, samples of all of them in one draw are dropped unevenly: filter class by class.

    >>> import torch
    >>> steady = lambda count, edit: [edit(torch.arange(count)[:, None] * t, torch.zeros(count, 1), t) for t in (0.9, 1.0)][-1]    # row k moves by k / 10
    >>> VarianceFilter(keep=0.75)(steady, 3).rows
    tensor([0, 1, 2])
    """

    keep: float = 0.96
    begin: float = 0.9
    end: float = 1.0

    def __post_init__(self):
        checks.between("keep", self.keep, 0.0, 1.0, low_open=True)
        TrajectoryVariance(self.begin, self.end)        # which checks them

    def drawn(self, n: int) -> int:
        """How many samples are drawn for n to be kept."""
        return _drawn(n, self.keep)

    def kept(self, variance: Float[Tensor, " drawn"], n: int | None = None) -> Int64[Tensor, " kept"]:
        """The numbers, rising, of the n samples of least variance, by default round(keep * drawn) of them, at least one.
        ValueError for a variance that is not finite and for more samples than there are."""
        checks.shape_of("variance", checks.tensor("variance", variance, floating=True), (None,))
        if not len(checks.finite("variance", variance)):
            raise ValueError("variance must have at least one row, got none")
        n = max(1, round(self.keep * len(variance))) if n is None else checks.integer("n", n, least=1)
        if n > len(variance):
            raise ValueError(f"n must be at most the {len(variance)} samples drawn, got {n}")
        return variance.argsort(stable=True)[:n].sort().values

    def __call__(self, draw: Draw, n: int) -> Filtered:
        """n samples. draw: (count, edit) -> (count, *event), as `lambda count, edit: sample(field, count, edit=edit)`. ValueError for a `draw` that gives
        another number of samples, or draws them without the edit."""
        look = TrajectoryVariance(self.begin, self.end)
        x = _asked(draw, self.drawn(n), look)
        variance = look.variance
        if len(variance) != len(x):
            raise ValueError(f"draw must use the edit it is given for all {len(x)} samples in one run, got {len(variance)} that it saw")
        rows = self.kept(variance, n)
        return Filtered(x[rows], rows, variance)


@dataclass(frozen=True)
class RandomFilter:
    """Draws as many samples as `VarianceFilter` and keeps as many, whichever: what a filter is to be compared with."""

    keep: float = 0.96
    seed: int = 0

    def __post_init__(self):
        checks.between("keep", self.keep, 0.0, 1.0, low_open=True)
        checks.integer("seed", self.seed)

    def drawn(self, n: int) -> int:
        """How many samples are drawn for n to be kept."""
        return _drawn(n, self.keep)

    def __call__(self, draw: Draw, n: int) -> Filtered:
        """n samples; see `VarianceFilter`."""
        x = _asked(draw, self.drawn(n), None)
        rows = Draws(self.seed).permutation("kept", 0, len(x), device=x.device)[:n].sort().values
        return Filtered(x[rows], rows, None)


def _drawn(n: int, keep: float) -> int:
    # A share such as 0.96 is a little more or less in binary: 96 of 100 are 96.
    return max(n, math.ceil(round(checks.integer("n", n, least=1) / keep, 9)))


def _asked(draw: Draw, count: int, edit: TrajectoryVariance | None) -> Tensor:
    if not callable(draw):
        raise TypeError(f"draw must be callable as draw(count, edit), got {type(draw).__name__}")
    x = draw(count, edit)
    if not isinstance(x, Tensor) or x.ndim < 1 or len(x) != count:
        raise ValueError(f"draw must return {count} samples, got {tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__}")
    return x
