"""Toy targets in the plane with exact densities: what samplers, paths and losses are tried on."""
from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from rheos.core import Draws, checks
from rheos.data.mixtures import GaussianMixture

__all__ = ["Checkerboard", "eight_gaussians", "ring", "skewed", "two_moons"]


def ring(modes: int = 8, radius: float = 1.0, std: float = 0.08) -> GaussianMixture:
    """`modes` equal round Gaussians on a circle, the first at angle 0, counted anticlockwise; labels are their numbers."""
    modes = checks.integer("modes", modes, least=1)
    radius, std = checks.positive("radius", radius), checks.positive("std", std)
    angle = torch.arange(modes, dtype=torch.float64) * (2 * math.pi / modes)
    means = radius * torch.stack([angle.cos(), angle.sin()], 1)
    return _round(means, std, torch.arange(modes))


def eight_gaussians(radius: float = 4.0, std: float = 0.2) -> GaussianMixture:
    """The ring of eight far-apart modes that multi-modal methods are usually shown on."""
    return ring(8, radius, std)


def two_moons(components: int = 100, std: float = 0.1) -> GaussianMixture:
    """Two interlocking half circles of radius 1, as a mixture of `components` small Gaussians a moon, so that the density is exact.

    The upper moon (label 0) is (cos a, sin a), the lower one (label 1) is (1 - cos a, 1/2 - sin a), a in (0, pi).
    """
    components, std = checks.integer("components", components, least=1), checks.positive("std", std)
    angle = (torch.arange(components, dtype=torch.float64) + 0.5) * (math.pi / components)
    upper = torch.stack([angle.cos(), angle.sin()], 1)
    lower = torch.stack([1 - angle.cos(), 0.5 - angle.sin()], 1)
    return _round(torch.cat([upper, lower]), std, torch.arange(2).repeat_interleave(components))


def skewed() -> GaussianMixture:
    """Three tilted Gaussians without any symmetry: uneven weights, mean off the origin, classes 0 and 1 of one and two components.

    A formula with a wrong sign, a transposed matrix or swapped axes cannot pass on it.
    """
    return GaussianMixture(
        torch.tensor([0.55, 0.3, 0.15], dtype=torch.float64),
        torch.tensor([[1.4, -0.3], [-1.1, 0.9], [0.2, 2.1]], dtype=torch.float64),
        torch.tensor([[[0.30, 0.18], [0.18, 0.20]], [[0.12, -0.07], [-0.07, 0.25]], [[0.05, 0.02], [0.02, 0.09]]], dtype=torch.float64),
        torch.tensor([0, 1, 1]),
    )


@dataclass(frozen=True)
class Checkerboard:
    """Uniform on the dark squares of a board: a density with jumps, which no Gaussian mixture has.

    cells:      squares a side; square (column i, row j), counted from the lower left, is dark where i + j is even.
    half_width: the board is [-half_width, half_width]^2.

    >>> Checkerboard(4, 4.0).log_prob(torch.tensor([[-3.0, -3.0], [-1.0, -3.0]])).exp()        # 8 dark squares of area 4
    tensor([0.0312, 0.0000])
    """

    cells: int = 4
    half_width: float = 4.0
    event: ClassVar[tuple[int, ...]] = (2,)
    dim: ClassVar[int] = 2

    def __post_init__(self):
        checks.integer("cells", self.cells, least=1)
        checks.positive("half_width", self.half_width)

    def _side(self) -> float:
        return 2 * self.half_width / self.cells

    def _dark(self) -> Tensor:
        """(dark squares, 2) their columns and rows."""
        board = torch.cartesian_prod(torch.arange(self.cells), torch.arange(self.cells))
        return board[board.sum(1) % 2 == 0]

    def log_prob(self, x: Float[Tensor, "n 2"]) -> Float[Tensor, " n"]:
        """Logarithm of the density: one constant on the dark squares, -inf elsewhere. The board's upper edges belong to it."""
        inside = (x.abs() <= self.half_width).all(1)
        square = ((x + self.half_width) / self._side()).floor().clamp(0, self.cells - 1)
        dark = inside & (square.sum(1) % 2 == 0)
        return torch.where(dark, -math.log(len(self._dark()) * self._side() ** 2), -math.inf).to(x.dtype)

    def sample(self, n: int, *, seed: int | Draws = 0, first: int = 0) -> Float[Tensor, "n 2"]:
        """`n` independent draws, float64. Row i is a function of (seed, first + i) alone."""
        n, draws, dark = checks.integer("n", n, least=0), Draws.of(seed), self._dark()
        square = dark[draws.integers("checkerboard square", 0, (n,), len(dark), first=first)]
        return (square + draws.uniform("checkerboard place", 0, (n, 2), first=first, dtype=torch.float64)) * self._side() - self.half_width


def _round(means: Tensor, std: float, labels: Tensor) -> GaussianMixture:
    """Equally likely Gaussians of one standard deviation."""
    return GaussianMixture(torch.full_like(means[:, 0], 1 / len(means)), means, torch.full_like(means[:, 0], std**2), labels)
