"""The simplest model of any data, which every other one must beat: a Gaussian with the data's mean and covariance."""
from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from rheos.core import Draws
from rheos.data.mixtures import GaussianMixture

__all__ = ["gaussian_fit"]


def gaussian_fit(x: Float[Tensor, "n *event"], n: int, *, seed: int | Draws = 0, bounds: tuple[float, float] | None = None) -> Float[Tensor, "m *event"]:
    """`n` draws of the full-covariance Gaussian of greatest likelihood for the rows of `x`, in x's dtype.

    bounds: (low, high) to clamp the draws to, or None to leave them as they fall. Row i is a function of (x, seed, i) alone, up to rounding.
    """
    drawn = GaussianMixture.fit(x).sample(n, seed=seed).to(x.dtype)
    return drawn if bounds is None else drawn.clamp(*bounds)
