"""Steered Diffusion: an energy on the clean estimate, its gradient through the network, and levels walked more than once.

x <- x - s sigma_t g / rms(g), g = grad_x sum_c w_c |F_c(x1_hat(x)) - y_c|^2 / 2, then one step of the chain; in the middle of the way each step is taken
back by fresh noise and made again, `loops` times in all.

Paper: Nair et al., Steered Diffusion: a generalized framework for plug-and-play conditional image synthesis, 2023, arXiv:2310.00224. Where F_c is linear
its target is put in the range of the data prediction as well, as there in the restoration tasks. Ours: the step's size in units of sigma_t over the
gradient's root mean square, with s = 0.3; the range of the loops; and where steering ends, 5% before the end, for what is moved last stays.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from rheos.core import checks
from rheos.guidance.nudges import Misfit, Nudge
from rheos.guidance.operators import LinearOperator
from rheos.guidance.projection import Projections, project
from rheos.guidance.time_travel import Steering
from rheos.paths import Field

__all__ = ["steered"]


def steered(field: Field, conditions: Sequence[tuple[Any, Tensor, float]], *, scale: float = 0.3, loops: int = 2, eta: float = 1.0,
            through: str = "network", exact: bool = True, begin: float = 0.2, end: float = 0.8, stop: float = 0.95) -> Steering:
    """`field` steered to conditions; call `.sample(n, steps=50, seed=0)` on it. Batches are cut with their targets.

    conditions: (F, target, weight) each: F a linear operator such as `Pool(2)`, or any frozen differentiable function of the data; target (rows, ...), what
        F should give, one a sample or one for all.
    scale: step in units of sigma_t. loops: how often a step between times `begin` and `end` is made. eta: noise of the steps, 0 none, 1 the full chain.
    through: "network", the exact chain rule, or "data", without it, at less than half the cost. exact: whether linear conditions are also imposed on the
        data prediction: samples meet them to rounding where the path ends without noise, as linear and cosine do, and up to what is left of it
        elsewhere. Of conditions that see the same pixels only the last is met so; make them one by `Dense.of`. stop: steering ends there.
    A step costs one call and, through the network, one backward pass. The push adds up over the steps: with many of them take a smaller scale. On trained
    image networks 20 steps at a scale of 0.2, made three times from 0.05 to 0.95, restored well throughout. ValueError for conditions that do not fit.

    >>> import torch
    >>> from rheos.data import GaussianMixture
    >>> from rheos.guidance.operators import Mask
    >>> from rheos.paths import ExactField, Path
    >>> field = ExactField(Path.linear(), GaussianMixture(torch.ones(1), torch.tensor([[1.0, 2.0]]), torch.tensor([0.5])))
    >>> half_seen = Mask(torch.tensor([True, False]))
    >>> steered(field, [(half_seen, torch.tensor([[0.25, 0.0]]), 1.0)]).sample(3, steps=10)[:, 0]
    tensor([0.2500, 0.2500, 0.2500])
    """
    checks.flag("exact", exact)
    energy = Misfit(tuple(conditions))
    linear = [project(operator, target) for operator, target, _ in energy.parts if isinstance(operator, LinearOperator)] if exact else []
    edit = None if not linear else linear[0] if len(linear) == 1 else Projections(tuple(linear))
    # Where alpha is nearly 0 no data is foreseen, and a noise prediction read as data is only the network's error, made large.
    nudge = Nudge(energy, scale, through=through, units="sigma", stop=stop, least_alpha=0.02)
    return Steering(field, nudge=nudge, edit=edit, eta=eta, loops=loops, begin=begin, end=end)
