"""The simplest model of any data, which every other one must beat: a Gaussian with the data's mean and covariance."""
from __future__ import annotations

import math

from jaxtyping import Float
from torch import Tensor

from rheos.core import Draws, checks
from rheos.data.mixtures import GaussianMixture

__all__ = ["gaussian_fit"]

# A root of a covariance of d numbers costs some 10 d^3; above so many numbers, and with fewer than so many rows a number, none is taken.
MOST_ROOTED, ROWS_A_NUMBER = 1024, 4


def gaussian_fit(x: Float[Tensor, "n *event"], n: int, *, seed: int | Draws = 0, bounds: tuple[float, float] | None = None) -> Float[Tensor, "m *event"]:
    """`n` draws of the full-covariance Gaussian of greatest likelihood for the rows of `x`, in x's dtype.

    bounds: (low, high) to clamp the draws to, or None to leave them as they fall. Row i is a function of (x, seed, i) alone, up to rounding.

    For events of more than 1,024 numbers and at most four rows a number, each draw is a mixture of the N centred rows with independent
    normal weights, mean + sum_j z_j (x_j - mean) / sqrt(N), whose law is the same; otherwise it comes from a root of the covariance.
    """
    dim = math.prod(x.shape[1:])
    if MOST_ROOTED < dim and len(x) <= ROWS_A_NUMBER * dim:
        drawn = _mixed(checks.finite("x", checks.tensor("x", x, floating=True)), checks.integer("n", n, least=0), Draws.of(seed))
    else:
        drawn = GaussianMixture.fit(x).sample(n, seed=seed).to(x.dtype)
    return drawn if bounds is None else drawn.clamp(*bounds)


def _mixed(x: Tensor, n: int, draws: Draws) -> Tensor:
    mean = x.double().mean(0).to(x)
    z = draws.rows("gaussian fit", 0, (n, len(x)), dtype=x.dtype).to(x.device)
    return mean + (z @ (x - mean).flatten(1) / math.sqrt(len(x))).reshape(n, *x.shape[1:])
