"""How a user's numbers become what a network sees, and back."""
from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from rheos.core import checks

__all__ = ["Standardise"]


@dataclass(frozen=True, eq=False)
class Standardise:
    """(x - mean) / std, and its inverse, clamped to `bounds` (what the data can be: pixels in [-1, 1]) if there are any.

    mean, std: () for images and other arrays, one scale for all; (columns,) for tables, where a constant column has std 1.
    """

    mean: Tensor
    std: Tensor
    bounds: tuple[float, float] | None = None

    def __post_init__(self):
        checks.finite("mean", self.mean)
        if self.std.shape != self.mean.shape or not bool((checks.finite("std", self.std) > 0).all()):
            raise ValueError(f"std must be positive and of the mean's shape {tuple(self.mean.shape)}, got shape {tuple(self.std.shape)}")
        if self.bounds is not None and (len(self.bounds) != 2 or not float(self.bounds[0]) < float(self.bounds[1])):
            raise ValueError(f"bounds must be (low, high) with low < high, got {self.bounds}")

    @classmethod
    def fit(cls, x: Float[Tensor, "rows *event"], bounds: tuple[float, float] | None = None) -> Standardise:
        """The transform that gives `x` mean 0 and variance 1. ValueError if all its entries are equal."""
        checks.finite("data", x)
        over = (0,) if x.ndim == 2 else tuple(range(x.ndim))
        mean, std = x.double().mean(over), x.double().std(over, correction=0)
        if not bool((std > 0).any()):
            raise ValueError(f"data is constant, all entries are {float(x.flatten()[0]):g}: there is nothing to learn")
        return cls(mean, torch.where(std > 0, std, 1.0), bounds)

    @classmethod
    def none(cls, x: Float[Tensor, "rows *event"]) -> Standardise:
        """The transform that leaves `x` as it is: for rows that an encoding has brought to a network's scale already."""
        checks.finite("data", x)
        return cls(torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64))

    def forward(self, x: Float[Tensor, "rows *event"]) -> Float[Tensor, "rows *event"]:
        return (x - self.mean.to(x)) / self.std.to(x)

    def inverse(self, x: Float[Tensor, "rows *event"]) -> Float[Tensor, "rows *event"]:
        x = x * self.std.to(x) + self.mean.to(x)
        return x if self.bounds is None else x.clamp(*self.bounds)
