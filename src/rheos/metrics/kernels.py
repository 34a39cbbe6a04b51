"""Distances between sets by what pairs of their rows have in common: the energy distance and the maximum mean discrepancy.

Both are  2 E k(x, y) - E k(x, x') - E k(y, y')  up to sign: energy with k the distance (Székely and Rizzo, J. Stat. Plan. Inference
143, 2013), MMD with minus a positive definite kernel (Gretton et al., JMLR 13, 2012; with polynomial kernels of features it is the
KID of Bińkowski et al., arXiv:1801.01401).
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from rheos.core import checks
from rheos.metrics.pairs import Features, least_rows, mean_over_pairs, pair, powers, squared_distances
from rheos.metrics.sets import unit_directions

__all__ = ["RBF", "Kernel", "Polynomial", "energy", "median_distance", "mmd"]

_MEDIAN_ROWS = 2000         # up to this many rows the median is that of all pairs


def energy(x: Float[Tensor, "n *event"], y: Float[Tensor, "m *other"], *, power: float = 1.0, unbiased: bool = False,
           features: Features | None = None) -> Float[Tensor, ""]:
    """Energy distance in the squared convention, in the units of x to the `power`.

    D = 2 E|x - y|^power - E|x - x'|^power - E|y - y'|^power

    power:    in (0, 2). At 1, on the line, D is twice the integral of (F - G)^2, and its root is scipy.stats.energy_distance.
    unbiased: leave out the pairs of a row with itself. The mean over samples is then that of the laws, single values may be
              negative and are never clamped. Otherwise D >= 0, too large by O(1/n + 1/m), and 0 between a set and itself.
    features: applied to both sets first, (rows, *event) -> (rows, ...); None compares the events themselves.
    Differentiable in both sets; where rows coincide the gradient of their distance is taken as 0. Computed in float64, returned in
    the wider dtype of the two. Cost: (n + m)^2 d / 2, memory is bounded unless a gradient is asked for: then (n + m)^2 numbers.
    ValueError for empty sets (fewer than 2 rows if unbiased) or different events. Not-a-number in, not-a-number out.

    >>> energy(torch.tensor([[0.0], [2.0]]), torch.tensor([[5.0]]))          # 2 (5 + 3) / 2 - (0 + 2 + 2 + 0) / 4 - 0
    tensor(7.)
    """
    power, unbiased = checks.between("power", power, 0.0, 2.0, low_open=True, high_open=True), checks.flag("unbiased", unbiased)
    a, b = pair(x, y, features)
    return _two_within_between(lambda rows, others: powers(squared_distances(rows, others), power), a, b, unbiased)


def mmd(x: Float[Tensor, "n *event"], y: Float[Tensor, "m *other"], *, kernel: Kernel | None = None, unbiased: bool = True,
        features: Features | None = None) -> Float[Tensor, ""]:
    """Squared maximum mean discrepancy, in the units of the kernel's values (none for RBF).

    MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y)

    kernel:   RBF() by default; `mmd(x, y, kernel=Polynomial(), features=f)` is the kernel distance of features (KID) on whole sets.
    unbiased: leave out the pairs of a row with itself. The mean over samples is then that of the laws, single values may be
              negative and are never clamped: as a loss, the biased form rewards a set that collapses.
    features: applied to both sets first, (rows, *event) -> (rows, ...); None compares the events themselves.
    Differentiable in both sets, the kernel's settings held fixed. Computed in float64, returned in the wider dtype of the two. Cost:
    (n + m)^2 (d + bandwidths) / 2, memory is bounded unless a gradient is asked for: then (n + m)^2 numbers a bandwidth.
    ValueError for empty sets (fewer than 2 rows if unbiased) or different events. Not-a-number in, not-a-number out.

    >>> x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[2.0], [3.0]])
    >>> round(mmd(x, y, kernel=Polynomial(degree=1)).item(), 4)              # (1 + 0 1) + (1 + 2 3) - 2 (1 + 0.5 2.5)
    3.5
    """
    kernel, unbiased = RBF() if kernel is None else kernel, checks.flag("unbiased", unbiased)
    if not isinstance(kernel, Kernel):
        raise TypeError(f"kernel must have a method on(a, b), such as RBF or Polynomial, got {kernel!r}")
    a, b = pair(x, y, features)
    return -_two_within_between(kernel.on(a, b), a, b, unbiased)


def _two_within_between(value: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor, unbiased: bool) -> Tensor:
    if unbiased:
        least_rows(2, a, b)
    within = (mean_over_pairs(value, rows, diagonal=not unbiased) for rows in (a, b))
    return (2 * mean_over_pairs(value, a, b) - sum(within)).to(a.dtype)


@runtime_checkable
class Kernel(Protocol):
    """A positive definite kernel: `on` reads what was left open off the two sets and gives k as a function of blocks of rows.

    on(a (n, d), b (m, d)) -> k, and k(rows (r, d), others (s, d)) -> (r, s) float64, differentiable in both.
    """

    def on(self, a: Tensor, b: Tensor) -> Callable[[Tensor, Tensor], Tensor]: ...


@dataclass(frozen=True)
class RBF:
    """Gaussian kernel, k(a, b) = mean over h of exp(-|a - b|^2 / (2 h^2)), so that k(a, a) = 1.

    bandwidths: the h, in the units of the rows, each positive. None: the median distance between two rows of either set (Gretton et
                al., section 8) times 1/4, 1/2, 1, 2 and 4. It moves with the sets, so give numbers where values are to be compared
                between models; no gradient flows through it. ValueError if no two rows differ.
    """

    bandwidths: tuple[float, ...] | None = None

    def __post_init__(self):
        if self.bandwidths is None:
            return
        if not isinstance(self.bandwidths, tuple) or not self.bandwidths:
            raise ValueError(f"bandwidths must be a tuple of at least one number, or None, got {self.bandwidths!r}")
        for h in self.bandwidths:
            checks.positive("bandwidths", h)

    def on(self, a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> Callable[[Tensor, Tensor], Tensor]:
        h = self.bandwidths if self.bandwidths is not None else [scale * median_distance(a, b) for scale in (0.25, 0.5, 1.0, 2.0, 4.0)]

        def k(rows: Tensor, others: Tensor) -> Tensor:
            squared = squared_distances(rows, others)
            return sum(torch.exp(squared / (-2 * width**2)) for width in h) / len(h)

        return k


@dataclass(frozen=True)
class Polynomial:
    """k(a, b) = (gamma a . b + offset)^degree. The defaults are those of the kernel distance of features (KID).

    degree: at least 1. It sees the moments up to this order and nothing else.
    gamma:  positive, in 1 / units^2 of the rows; None: 1 / d, one over their width.
    offset: at least 0.
    """

    degree: int = 3
    gamma: float | None = None
    offset: float = 1.0

    def __post_init__(self):
        checks.integer("degree", self.degree, least=1)
        checks.positive("offset", self.offset, zero=True)
        if self.gamma is not None:
            checks.positive("gamma", self.gamma)

    def on(self, a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> Callable[[Tensor, Tensor], Tensor]:
        gamma = 1 / a.shape[1] if self.gamma is None else self.gamma
        return lambda rows, others: (gamma * (rows.double() @ others.double().mT) + self.offset) ** self.degree


@torch.no_grad()
def median_distance(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> Float64[Tensor, ""]:
    """Median (the lower, if two) of the positive distances between two rows of the sets taken together, in their units. No gradient.

    Of all pairs up to 2,000 rows. Of more rows, 2,000 are taken at even ranks along one fixed direction: no order of the rows, no
    random number and neither set's place among the arguments changes them. ValueError if no two rows differ.
    """
    rows = torch.cat([a, b]).double()
    if len(rows) > _MEDIAN_ROWS:
        place = (rows * unit_directions(1, rows.shape[1]).to(rows.device)).sum(1)
        ranks = torch.linspace(0, len(rows) - 1, _MEDIAN_ROWS, dtype=torch.float64, device=rows.device).round().long()
        rows = rows[place.argsort()[ranks]]
    squared = squared_distances(rows, rows)         # every pair twice, which leaves the median where it is
    squared = squared[squared != 0]
    if not len(squared):
        raise ValueError("bandwidths must be given when no two rows of x and y differ: their median distance is 0")
    return squared.median().sqrt()
