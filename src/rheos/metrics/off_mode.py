"""Hallucination: the share of samples that lie in no mode of the data.

A sample is hallucinated where |x - m_k| > radius * sd_k for every mode k of a mixture. Diffusion models draw such samples between neighbouring modes: the
exact score jumps there, and a smooth network goes from one side to the other.

Paper: Aithal, Maini, Lipton and Kolter, Understanding hallucinations in diffusion models through mode interpolation, 2024, arXiv:2406.09358.
"""
from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rheos.core import checks
from rheos.data import GaussianMixture
from rheos.metrics.pairs import blocks, squared_distances

__all__ = ["hallucinated", "hallucination"]


@torch.no_grad()
def hallucinated(x: Float[Tensor, "n *event"], modes: GaussianMixture, *, radius: float = 6.0) -> Bool[Tensor, " n"]:
    """Whether each sample x (n, *event) lies outside every mode's ball, (n,).

    modes:  round Gaussians (one variance each), in the units of x; their weights are not used.
    radius: of a ball, in standard deviations of its mode. 6 for a few dimensions, as in the paper; in d of them a mode's own samples lie about sqrt(d)
        away from its middle, so that radius has to be well above that.
    Computed in float64. No gradient. ValueError for other events, entries that are not finite, modes that are not round or are points, and for balls that
    all hang together, so that nothing lies between modes.

    >>> modes = GaussianMixture.points(torch.tensor([[1.0], [2.0], [3.0]]), std=0.05)
    >>> hallucinated(torch.tensor([[1.2], [1.5], [3.4]]), modes)
    tensor([False,  True,  True])
    """
    radius = checks.positive("radius", radius)
    if not isinstance(modes, GaussianMixture):
        raise TypeError(f"modes must be a GaussianMixture, got {type(modes).__name__}")
    if modes.covariance.ndim != 1:
        raise ValueError(f"modes must be round, with one variance each, got covariances of shape {tuple(modes.covariance.shape)}")
    if not bool((modes.covariance > 0).all()):
        raise ValueError("modes must have positive variances, got points: a ball around a point holds nothing else")
    if tuple(x.shape[1:]) != modes.event:
        raise ValueError(f"x must have the modes' event shape {modes.event}, got {tuple(x.shape[1:])}")
    if not len(x):
        raise ValueError("x must have at least one row, got none")
    checks.finite("x", x)
    middles, reach = modes.means.double().reshape(modes.components, -1).to(x.device), radius * modes.covariance.double().sqrt().to(x.device)
    if modes.components > 1 and _one_piece(middles, reach):
        raise ValueError(f"radius must leave gaps between the modes, got {radius:g} standard deviations, at which all their balls hang together")
    outside = [(squared_distances(rows, middles) > reach.square()).all(1) for _, rows in blocks(x.double().reshape(len(x), -1), modes.components)]
    return torch.cat(outside)


def hallucination(x: Float[Tensor, "n *event"], modes: GaussianMixture, *, radius: float = 6.0) -> Float[Tensor, ""]:
    """The share of samples x (n, *event) outside every mode's ball, in [0, 1], in the dtype of x. Arguments and errors of `hallucinated`.

    >>> hallucination(torch.tensor([[1.2], [1.5], [3.4], [2.0]]), GaussianMixture.points(torch.tensor([[1.0], [2.0], [3.0]]), std=0.05))
    tensor(0.5000)
    """
    return hallucinated(x, modes, radius=radius).double().mean().to(x.dtype)


def _one_piece(middles: Tensor, reach: Tensor) -> bool:
    """Whether from every ball one can walk to every other without leaving them."""
    touching = squared_distances(middles, middles) <= (reach[:, None] + reach).square()
    found = touching[0]
    while True:
        more = touching[found].any(0)
        if bool((more == found).all()):
            return bool(found.all())
        found = more
