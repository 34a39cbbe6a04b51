"""What a network is told beside x: the time, and a class or a vector. "Not given" is -1 for classes and NaN for vectors."""
from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rheos.core import checks

__all__ = ["Condition", "FourierTime", "keep_condition", "without_condition"]


def without_condition(cond: Any) -> Any:
    """The same structure with every entry marked as not given."""
    if isinstance(cond, dict):
        return {name: without_condition(value) for name, value in cond.items()}
    return torch.full_like(cond, math.nan if cond.is_floating_point() else -1)


def keep_condition(cond: Any, keep: Tensor) -> Any:
    """`cond` where keep (batch,) is true, not given elsewhere."""
    if cond is None:
        return None
    if isinstance(cond, dict):
        return {name: keep_condition(value, keep) for name, value in cond.items()}
    return torch.where(keep.reshape(-1, *(1,) * (cond.ndim - 1)), cond, without_condition(cond))


class FourierTime(nn.Module):
    """t (batch,) in [0, 1] -> (batch, 2 frequencies): sines and cosines at frequencies from 1/4 to `highest` periods per unit time."""

    def __init__(self, frequencies: int = 16, highest: float = 16.0):
        super().__init__()
        self.register_buffer("rates", 2 * math.pi * torch.logspace(math.log10(0.25), math.log10(highest), frequencies), persistent=False)

    def forward(self, t: Float[Tensor, " batch"]) -> Float[Tensor, "batch features"]:
        angles = t[:, None] * self.rates.to(t)
        return torch.cat([angles.sin(), angles.cos()], -1)


class Condition(nn.Module):
    """Time, and optionally a class or a vector, -> (batch, width).

    classes: number of classes; cond is then (batch,) int64 with -1 for not given. features: length of a vector; cond is then
    (batch, features), a row of NaN for not given. ValueError if a condition is given that this network was not built for.
    """

    def __init__(self, width: int, *, classes: int | None = None, features: int | None = None):
        super().__init__()
        if classes is not None and features is not None:
            raise ValueError("a Condition takes classes or features, not both")
        self.classes, self.features = classes, features
        self.time = FourierTime()
        self.mix = nn.Sequential(nn.Linear(2 * len(self.time.rates), width), nn.SiLU(), nn.Linear(width, width))
        if classes is not None:
            self.label = nn.Embedding(checks.integer("classes", classes, least=1) + 1, width)      # the last row stands for not given
        elif features is not None:
            self.vector = nn.Linear(checks.integer("features", features, least=1), width)
            self.nothing = nn.Parameter(torch.zeros(width))

    def forward(self, t: Float[Tensor, " batch"], cond: Tensor | None = None) -> Float[Tensor, "batch width"]:
        told = self.mix(self.time(t))
        if self.classes is not None:
            if cond is None:
                cond = torch.full((len(t),), -1, dtype=torch.int64, device=t.device)
            if cond.is_floating_point() or cond.ndim != 1:
                raise ValueError(f"cond must be class numbers of shape ({len(t)},), got {cond.dtype} {tuple(cond.shape)}")
            if cond.device.type == "cpu" and not bool(((cond >= -1) & (cond < self.classes)).all()):
                raise ValueError(f"cond must be a class from 0 to {self.classes - 1}, or -1 for none, got {int(cond.min())} to {int(cond.max())}")
            return told + self.label(torch.where(cond < 0, self.classes, cond))
        if self.features is not None:
            if cond is None:
                return told + self.nothing
            given = ~cond.isnan().any(-1, keepdim=True)
            return told + torch.where(given, self.vector(torch.nan_to_num(cond)), self.nothing)
        if cond is not None:
            raise ValueError("cond was given, but this network was built without a condition")
        return told
