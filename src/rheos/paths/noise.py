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

__all__ = ["GAUSSIAN", "Base", "Gaussian", "NoiseLaw", "Student", "transfer_sigma"]


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


def transfer_sigma(sigma: float, dof: float) -> float:
    """The radius r = sigma sqrt(D) that noise level sigma has in PFGM++ with D = `dof` extra dimensions, so that settings carry over (arXiv:2302.04265).

    Here levels are sigma throughout, whatever D is, and nothing need be carried over; r is for comparing with code that counts in radii.

    >>> transfer_sigma(80.0, 16)
    320.0
    """
    return checks.positive("sigma", sigma, zero=True) * math.sqrt(checks.positive("dof", dof))


@dataclass(frozen=True)
class Base:
    """A base of its own: z = mean + std g, g standard normal. Training and every deterministic sampler place points through it.

    mean: a number, or nested tuples of the event's shape (or one that broadcasts to it); `Base.of(tensor)` makes them. std: above 0. mask: where the
    base differs, as nested tuples of True and False; elsewhere z = g. Such paths tell velocity, data and noise, but no score: -z / c is not the score of
    noise that has a mean. Used for flows that begin at a trigger or a template (Chou et al., 2023, arXiv:2306.06874).
    """

    mean: float | tuple = 0.0
    std: float = 1.0
    mask: tuple | None = None

    def __post_init__(self):
        checks.positive("std", self.std)
        checks.finite("mean", torch.as_tensor(self.mean, dtype=torch.float64))

    @classmethod
    def of(cls, mean: Tensor, std: float = 1.0, mask: Tensor | None = None) -> Base:
        """The base around a tensor (*event)."""
        freeze = lambda v: tuple(map(freeze, v)) if isinstance(v, list) else v
        return cls(freeze(mean.tolist()), std, None if mask is None else freeze(mask.bool().tolist()))

    @property
    def gaussian(self) -> bool:
        return self.mean == 0.0 and self.std == 1.0

    def draw(self, shape: Sequence[int], *, seed: int | Draws = 0, purpose: str = "noise", step: int = 0, first: int = 0,
             like: Tensor | None = None, ahead: bool = False) -> Tensor:
        """(rows, *event) draws."""
        g = Gaussian().draw(shape, seed=seed, purpose=purpose, step=step, first=first, like=like, ahead=ahead)
        mean, mask = torch.as_tensor(self.mean).to(g), torch.as_tensor(True if self.mask is None else self.mask, device=g.device)
        for name, value in (("mean", mean), ("mask", mask)):
            if value.ndim > len(shape) - 1 or any(own not in (1, size) for own, size in zip(reversed(value.shape), reversed(shape[1:]), strict=False)):
                raise ValueError(f"{name} must broadcast to events of shape {tuple(shape[1:])}, got {tuple(value.shape)}")
        return torch.where(mask, mean + self.std * g, g)
