"""Edits of the data prediction, applied to every stored prediction of a run: `sample(..., edit=dynamic_threshold(-1, 1))`."""
from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from rheos.core import checks

__all__ = ["DynamicThreshold", "dynamic_threshold"]


@dataclass(frozen=True)
class DynamicThreshold:
    """Pixels drawn back into [low, high] (Saharia et al., 2022, arXiv:2205.11487): clipped at their `quantile` and scaled into the range.

    Only for data that live in a known range: what has none (latents, standardised tables) would be spoilt, so both ends must be given,
    in the units that the network sees. `kind`: the prediction it acts on, whatever the rule's own.
    """

    low: float
    high: float
    quantile: float = 0.995
    kind: ClassVar[str] = "data"

    def __post_init__(self):
        for name in ("low", "high"):
            checks.between(name, getattr(self, name), -float("inf"), float("inf"), low_open=True, high_open=True)
        if self.low >= self.high:
            raise ValueError(f"high must be above low = {self.low}, got {self.high}")
        checks.between("quantile", self.quantile, 0.0, 1.0, low_open=True)

    def __call__(self, data: Float[Tensor, "batch *event"], x: Tensor, t: float | Tensor) -> Float[Tensor, "batch *event"]:
        middle, half = 0.5 * (self.low + self.high), 0.5 * (self.high - self.low)
        gap = data - middle
        far = torch.quantile(gap.abs().flatten(1), self.quantile, dim=1).clamp_min(half).reshape(-1, *(1,) * (data.ndim - 1))
        return middle + gap.clamp(-far, far) * (half / far)


def dynamic_threshold(low: float, high: float, quantile: float = 0.995) -> DynamicThreshold:
    """An edit that keeps pixel data in [low, high], see `DynamicThreshold`. ValueError for an empty range or a quantile outside (0, 1]."""
    return DynamicThreshold(low, high, quantile)
