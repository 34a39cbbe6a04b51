"""Bases in which a path's coefficients may differ by coordinate: a frequency of an image may fade before another."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["Basis", "Fourier2d"]


@runtime_checkable
class Basis(Protocol):
    """A linear orthonormal map of events (batch, *event) and its inverse, so that white noise stays white."""

    def forward(self, x: Tensor) -> Tensor: ...

    def inverse(self, x: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Fourier2d:
    """Discrete Hartley transform of the last two axes, orthonormal and real: Re F(x) - Im F(x), its own inverse.

    Coordinate (i, j) holds the two-dimensional frequencies (i, j) and (-i, -j); `frequencies` gives their length.
    """

    def forward(self, x: Float[Tensor, "batch *event"]) -> Float[Tensor, "batch *event"]:
        if x.ndim < 3:
            raise ValueError(f"Fourier2d needs events of two axes or more, got shape {tuple(x.shape)}")
        if x.is_complex():
            raise TypeError(f"Fourier2d needs real events, got {x.dtype}")
        turned = torch.fft.fft2(x, norm="ortho")
        return turned.real - turned.imag

    inverse = forward

    @staticmethod
    def frequencies(height: int, width: int) -> Float[Tensor, "height width"]:
        """Cycles a pixel of each coordinate, (height, width) float64, 0 to 0.71."""
        rows, columns = (torch.fft.fftfreq(size, dtype=torch.float64) for size in (height, width))
        return (rows[:, None].square() + columns.square()).sqrt()
