"""Laws of the noise z on a path: standard normal unless told otherwise."""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from rheos.core import Draws, checks

__all__ = ["GAUSSIAN", "Gaussian", "NoiseLaw", "Student"]


@runtime_checkable
class NoiseLaw(Protocol):
    """`gaussian`: whether z is standard normal, so that the score of x_t is -E[z | x_t] / c."""

    @property
    def gaussian(self) -> bool: ...

    def draw(self, shape: Sequence[int], *, seed: int | Draws = 0, purpose: str = "noise", step: int = 0, first: int = 0,
             like: Tensor | None = None, ahead: bool = False) -> Tensor:
        """z (rows, *event), row by row a function of (seed, purpose, step, first + row), of the dtype and device of `like`.

        ahead: whether coming steps may be drawn in one go (same bits)."""
        ...


@dataclass(frozen=True)
class Gaussian:
    """z ~ N(0, I)."""

    @property
    def gaussian(self) -> bool:
        return True

    def draw(self, shape: Sequence[int], *, seed: int | Draws = 0, purpose: str = "noise", step: int = 0, first: int = 0,
             like: Tensor | None = None, ahead: bool = False) -> Tensor:
        """(rows, *event) standard normal numbers."""
        dtype, device = (None, None) if like is None else (like.dtype, like.device)
        return Draws.of(seed).rows(purpose, step, shape, first=first, dtype=dtype, device=device, ahead=ahead)


GAUSSIAN = Gaussian()


@dataclass(frozen=True)
class Student:
    """Multivariate Student t: z = g sqrt(dof / chi2), g normal and one chi2 of `dof` degrees of freedom a row.

    The noise of PFGM++ (Xu et al., 2023, arXiv:2302.04265), whose kernel is (|x - x1|^2 + r^2)^{-(N + D) / 2} with r = sigma sqrt(D), D = dof:
    dof 1 is the Poisson flow, infinity the Gaussian. Such paths tell velocity, data and noise, but no score.
    """

    dof: float

    def __post_init__(self):
        if not (isinstance(self.dof, int | float) and self.dof == math.inf):
            checks.positive("dof", self.dof)

    @property
    def gaussian(self) -> bool:
        return self.dof == math.inf

    def draw(self, shape: Sequence[int], *, seed: int | Draws = 0, purpose: str = "noise", step: int = 0, first: int = 0,
             like: Tensor | None = None, ahead: bool = False) -> Tensor:
        """(rows, *event) draws; all numbers of a row share one chi2."""
        z = Gaussian().draw(shape, seed=seed, purpose=purpose, step=step, first=first, like=like, ahead=ahead)
        if self.gaussian:
            return z
        from scipy.special import gammaincinv

        u = Draws.of(seed).uniform(f"{purpose} radius", step, (shape[0],), first=first, dtype=torch.float64).numpy()
        # Far in the lower tail a chi2 of few degrees of freedom rounds to 0: the least positive number keeps z finite,
        chi2 = 2 * np.maximum(gammaincinv(0.5 * self.dof, u), np.finfo(np.float64).tiny)
        # and so does a scale that z's dtype can hold with room for normal numbers, which stay below 9.
        most = torch.finfo(z.dtype).max / 16
        scale = torch.from_numpy(np.sqrt(self.dof / chi2)).clamp(max=most).to(z)
        return z * scale.reshape(-1, *(1,) * (z.ndim - 1))
