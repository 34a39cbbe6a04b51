"""At which times a loss looks: laws on (0, 1), stretched over the path's interval."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from rheos.core import Draws, checks

__all__ = ["LogitNormal", "TimeLaw", "Uniform"]


@runtime_checkable
class TimeLaw(Protocol):
    def sample(self, n: int, *, seed: int | Draws, step: int, device: torch.device | str | None, dtype: torch.dtype) -> Tensor: ...


@dataclass(frozen=True)
class Uniform:
    """Every time alike."""

    def sample(self, n: int, *, seed: int | Draws = 0, step: int = 0, device: torch.device | str | None = None,
               dtype: torch.dtype = torch.float64) -> Float[Tensor, " n"]:
        """(n,) numbers in (0, 1)."""
        return Draws.of(seed).uniform("time", step, (n,), device=device, dtype=dtype, ahead=True)


@dataclass(frozen=True)
class LogitNormal:
    """logit t ~ N(mean, std): most times in the middle, where the field is hardest (Esser et al., 2024, arXiv:2403.03206)."""

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self):
        checks.positive("std", self.std)

    def sample(self, n: int, *, seed: int | Draws = 0, step: int = 0, device: torch.device | str | None = None,
               dtype: torch.dtype = torch.float64) -> Float[Tensor, " n"]:
        """(n,) numbers in (0, 1)."""
        normal = Draws.of(seed).rows("time", step, (n,), device=device, dtype=dtype, ahead=True)
        return torch.sigmoid(normal * self.std + self.mean)
