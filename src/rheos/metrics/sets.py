"""Distances between two sets of examples: sliced Wasserstein and Fréchet.

Both take (n, *event) and (m, *event), need not have n = m, flatten the events, and return one number as a 0-d tensor.
"""
from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from rheos.core import Draws, checks
from rheos.metrics.pairs import Features, least_rows, pair

__all__ = ["frechet", "sliced_w2", "unit_directions"]


def unit_directions(count: int, dim: int, *, seed: int | Draws = 0) -> Float[Tensor, "count dim"]:
    """`count` independent directions, uniform on the unit sphere, float64 on the CPU. The first k of them do not depend on `count`."""
    count, dim = checks.integer("directions", count, least=1), checks.integer("dim", dim, least=1)
    directions = Draws.of(seed).rows("sliced directions", 0, (count, dim), dtype=torch.float64)
    return directions / directions.norm(dim=1, keepdim=True)


def sliced_w2(x: Float[Tensor, "n *event"], y: Float[Tensor, "m *other"], *, directions: int = 200, seed: int | Draws = 0,
              features: Features | None = None) -> Float[Tensor, ""]:
    """Sliced 2-Wasserstein distance, in the units of x.

    SW2^2 = mean over directions u and levels q in (0, 1) of (F_{u.x}^{-1}(q) - F_{u.y}^{-1}(q))^2

    directions: how many fixed unit vectors, drawn from `seed`: the same for every call, so that values can be compared.
    features:   applied to both sets first, (rows, *event) -> (rows, ...); None compares the events themselves.
    Set sizes may differ: the two step functions are integrated exactly. Differentiable in both sets; at distance 0 the gradient is
    taken as 0. In one dimension this is W2 itself. Cost: directions * (n + m) * (d + log). The dtype is the wider one of x and y.
    ValueError for empty sets or different events. Not-a-number in, not-a-number out: as a loss it never waits for the device.

    >>> round(sliced_w2(torch.tensor([[0.0], [1.0]]), torch.tensor([[2.0], [5.0]])).item(), 4)      # sqrt((2**2 + 4**2) / 2)
    3.1623
    """
    a, b = pair(x, y, features)
    dtype = a.dtype
    u = unit_directions(directions, a.shape[1], seed=seed).to(device=a.device, dtype=dtype)
    a, b = (a @ u.T).sort(0).values, (b @ u.T).sort(0).values
    n, m = len(a), len(b)
    if n == m:
        squared = (a - b).square().mean()
    else:
        # Both quantile functions are constant between neighbouring marks; whole multiples of 1 / (n m) place the marks exactly.
        marks = torch.cat([torch.arange(n, device=a.device) * m, torch.arange(m, device=a.device) * n]).unique()
        width = torch.diff(marks, append=marks.new_tensor([n * m])).to(torch.float64).div(n * m).to(dtype)
        squared = width @ (a[marks // m] - b[marks // n]).square().mean(1)
    positive = squared > 0
    return torch.where(positive, torch.where(positive, squared, 1.0).sqrt(), squared)


@torch.no_grad()
def frechet(x: Float[Tensor, "n *event"], y: Float[Tensor, "m *other"], *, features: Features | None = None) -> Float[Tensor, ""]:
    """Squared Fréchet distance (2-Wasserstein, squared) between Gaussians fitted to the two sets, float64, squared units.

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^{1/2}), C with divisor n - 1.

    features: applied to both sets in batches before anything else, (rows, *event) -> (rows, ...); None compares the events themselves.
    Covariances are never formed: with the triangular factors R of the centred rows (C = R^T R), the trace of the root is the sum of
    the singular values of R1 R2^T. No square root is taken of a rounding error, so singular covariances lose no digits.
    No gradient. ValueError if events differ, a set has fewer than two rows, or a feature is not finite.

    The value falls with the number of rows even between samples of one law: put `floor` beside it.

    >>> x = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 2.0]])
    >>> round(frechet(x, 3 * x).item(), 4)          # means 2 apart on each axis, standard deviations s and 3 s, s^2 = 4/3
    18.6667
    """
    a, b = pair(x, y, features)
    least_rows(2, a, b)
    (mean1, root1), (mean2, root2) = (_moments(name if features is None else f"features of {name}", rows) for name, rows in (("x", a), ("y", b)))
    cross = torch.linalg.svdvals(root1 @ root2.mT).sum()
    gap = (mean1 - mean2).square().sum() + root1.square().sum() + root2.square().sum() - 2 * cross
    return gap.clamp_min(0.0)       # rounding of the four terms may leave -1e-15 at equality


def _moments(name: str, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (d,) and a factor R (min(n, d), d) of the covariance R^T R, float64."""
    flat = checks.finite(name, rows).double()
    mean = flat.mean(0)
    return mean, torch.linalg.qr((flat - mean) / (len(flat) - 1) ** 0.5, mode="r").R
