"""Offset noise: a share of the noise that all pixels of a channel have in common.

  z = g + strength * o,  g standard normal, o one standard normal number a channel

A network trained with it learns to move whole channels, so that pictures may become dark or bright though the schedule ends with some of the data left.
An ad-hoc remedy (N. Guttenberg, Diffusion with offset noise, 2023) beside zero terminal SNR and `OneMoreStep` (arXiv:2311.15744).
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from rheos.core import Draws, checks
from rheos.paths.noise import Gaussian

__all__ = ["Offset"]


@dataclass(frozen=True)
class Offset:
    """Normal noise whose pixels share a part, channel by channel: for events (channels, *space).

    strength: standard deviation of the shared part, 0.1 as it became known; 0 is `Gaussian`. Samplers begin where the path does, with such noise too.
    Paths with it tell velocity, data and noise, but no score: it is not white.
    """

    strength: float = 0.1

    def __post_init__(self):
        checks.positive("strength", self.strength, zero=True)

    @property
    def gaussian(self) -> bool:
        return self.strength == 0

    def draw(self, shape: Sequence[int], *, seed: int | Draws = 0, purpose: str = "noise", step: int = 0, first: int = 0,
             like: Tensor | None = None, ahead: bool = False) -> Tensor:
        """(rows, channels, *space) draws. ValueError for events without space."""
        z = Gaussian().draw(shape, seed=seed, purpose=purpose, step=step, first=first, like=like, ahead=ahead)
        if self.gaussian:
            return z
        if z.ndim < 3:
            raise ValueError(f"shape must be (rows, channels, *space) for an offset that pixels share, got {tuple(shape)}")
        shared = Draws.of(seed).rows(f"{purpose} offset", step, z.shape[:2], first=first, dtype=z.dtype, device=z.device, ahead=ahead)
        return z.add_(shared.reshape(*shared.shape, *(1,) * (z.ndim - 2)), alpha=self.strength)
