"""Whether each set lies where the other does: precision and recall, density and coverage, by balls to the k-th neighbour; Hausdorff.

The ball of a row reaches to the k-th nearest other row of its own set: together the balls of a set estimate its support
(Kynkäänniemi et al., arXiv:1904.06991; Naeem et al., arXiv:2002.09797).
"""
from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from rheos.core import checks
from rheos.metrics.pairs import Features, blocks, pair, powers, squared_distances

__all__ = ["DensityCoverage", "PrecisionRecall", "density_coverage", "hausdorff", "precision_recall"]


class PrecisionRecall(NamedTuple):
    """Shares in [0, 1], 0-d tensors."""

    precision: Tensor
    recall: Tensor


class DensityCoverage(NamedTuple):
    """Density (1 is expected, more is possible) and coverage in [0, 1], 0-d tensors."""

    density: Tensor
    coverage: Tensor


@torch.no_grad()
def precision_recall(x: Float[Tensor, "n *event"], y: Float[Tensor, "m *other"], *, k: int = 3, features: Features | None = None) -> PrecisionRecall:
    """Precision, the share of samples x inside some ball of the data y, and recall, the share of the data inside some ball of the samples.

    k:        a ball reaches to the k-th nearest other row of its set. Both shares grow with k.
    features: applied to both sets first, (rows, *event) -> (rows, ...); None compares the events themselves.
    Between samples of one law both stay below 1, and the more so the higher the dimension: put the values of two halves of the data
    beside them. One outlier has a wide ball and can raise the other set's share; `density_coverage` is less easily led.
    Swapping x and y swaps the two. Computed in float64 (a distance within 1e-9 of the radius counts as inside), returned in the
    wider dtype of the two. Cost: (n + m)^2 d, memory is bounded. No gradient.
    ValueError if a set has no k + 1 rows, events differ, or entries are not finite.

    >>> data, samples = torch.tensor([[0.0], [1.0], [9.0], [10.0]]), torch.tensor([[0.2], [0.5], [5.0]])
    >>> p = precision_recall(samples, data, k=1)
    >>> round(p.precision.item(), 4), p.recall.item()                       # 5 is no data; the ball of 5 is 4.5 wide and reaches 1 and 9
    (0.6667, 0.75)
    """
    a, b = _finite_pair(x, y, k, features)
    precision = _memberships(a, b, _radii(b, k))[0] > 0
    recall = _memberships(b, a, _radii(a, k))[0] > 0
    return PrecisionRecall(precision.double().mean().to(a.dtype), recall.double().mean().to(a.dtype))


@torch.no_grad()
def density_coverage(x: Float[Tensor, "n *event"], y: Float[Tensor, "m *other"], *, k: int = 5, features: Features | None = None) -> DensityCoverage:
    """Density, how many balls of the data y a sample of x lies in on average, over k; coverage, the share of those balls with a sample inside.

    Only the data's balls are used, so a stray sample covers nothing. Between samples of one law the density is 1 on average whatever
    the dimension, and the coverage about 1 - 2^-k for equal sizes. The arguments, errors, cost and dtypes of `precision_recall`.

    >>> data, samples = torch.tensor([[0.0], [1.0], [9.0], [10.0]]), torch.tensor([[0.2], [0.5], [5.0]])
    >>> d = density_coverage(samples, data, k=1)
    >>> round(d.density.item(), 4), d.coverage.item()                       # 0.2 and 0.5 are each in two balls
    (1.3333, 0.5)
    """
    a, b = _finite_pair(x, y, k, features)
    balls, samples = _memberships(a, b, _radii(b, k))
    return DensityCoverage((balls.double().mean() / k).to(a.dtype), (samples > 0).double().mean().to(a.dtype))


def hausdorff(x: Float[Tensor, "n *event"], y: Float[Tensor, "m *other"], *, features: Features | None = None) -> Float[Tensor, ""]:
    """Hausdorff distance: the farthest that a row of either set is from the nearest row of the other, in the units of x.

    H = max(max_i min_j |x_i - y_j|, max_j min_i |x_i - y_j|)

    features: applied to both sets first, (rows, *event) -> (rows, ...); None compares the events themselves.
    It speaks of the worst row alone. Differentiable in both sets, through that row and its neighbour (ties share the gradient; at
    distance 0 it is taken as 0). Computed in float64, returned in the wider dtype of the two. Cost: n m d, memory is bounded unless
    a gradient is asked for: then n m numbers. ValueError for empty sets or different events. Not-a-number in, not-a-number out.

    >>> hausdorff(torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([[0.0, 0.0], [1.0, 3.0]]))
    tensor(3.)
    """
    a, b = pair(x, y, features)
    rows, columns = [], []
    for _, part in blocks(a, len(b)):
        squared = squared_distances(part, b)
        rows.append(squared.amin(1))
        columns.append(squared.amin(0))
    return powers(torch.maximum(torch.cat(rows).amax(), torch.stack(columns).amin(0).amax()), 1.0).to(a.dtype)


def _finite_pair(x: Tensor, y: Tensor, k: int, features: Features | None) -> tuple[Tensor, Tensor]:
    k = checks.integer("k", k, least=1)
    a, b = pair(x, y, features)
    for name, rows in (("x", a), ("y", b)):
        checks.finite(name if features is None else f"features of {name}", rows)
        if len(rows) <= k:
            raise ValueError(f"k must be less than the {len(rows)} rows of {name}, got {k}")
    return a, b


def _radii(rows: Tensor, k: int) -> Float64[Tensor, " n"]:
    """Squared distance of each row to its k-th nearest other row."""
    found = []
    for start, part in blocks(rows, len(rows)):
        squared = squared_distances(part, rows)
        squared.diagonal(start).fill_(torch.inf)
        found.append(squared.kthvalue(k, 1).values)
    return torch.cat(found)


def _memberships(points: Tensor, centres: Tensor, radii: Tensor) -> tuple[Tensor, Tensor]:
    """In how many balls each point lies, and how many points lie in each ball."""
    reach, balls, members = radii * (1 + 2e-9), [], 0       # the same distance may be rounded differently in two tables
    for _, part in blocks(points, len(centres)):
        inside = squared_distances(part, centres) <= reach
        balls.append(inside.sum(1))
        members = members + inside.sum(0)
    return torch.cat(balls), members
