"""How far apart a field's two samplers end: its probability flow, and its SDE of the same marginals.

dX = v dt and dX = (v + epsilon s) dt + sqrt(2 epsilon) dW carry one and the same density if v and s fit together, as those of exact fields do. A
network's do not quite, and what separates the two laws is bounded by the Fokker-Planck residual, see `rheos.objectives.FokkerPlanckResidual`.

Paper: Deveney et al., Closing the ODE-SDE gap in score-based diffusion models through the Fokker-Planck equation, 2023, arXiv:2311.15996.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from rheos.core import Draws, checks
from rheos.metrics import sliced_w2
from rheos.paths import Field, Path, Times
from rheos.samplers.sampling import sample
from rheos.samplers.stochastic import EulerMaruyama

__all__ = ["OdeSdeGap", "diffusion_level", "ode_sde_gap"]


class OdeSdeGap(NamedTuple):
    """2-Wasserstein distances (sliced, unless events are single numbers), in the units of x. `ode` and `sde` are nan where no data were given.

    between: of the flow's samples to the SDE's. ode, sde: of each to the data.
    """

    between: float
    ode: float
    sde: float


def diffusion_level(path: Path, t: float) -> float:
    """g^2 / 2 of a one-sided path's own diffusion at time t: sigma^2 dlam/dt, half the beta of a variance-preserving path.

    Infinite where alpha is 0. ValueError for two-sided paths, which have none of their own.

    >>> round(diffusion_level(Path.vp(0.1, 10.0), 0.0), 6)      # beta is 10 at the noise
    5.0
    """
    path.lam(t)         # says what is wrong with two-sided and spectral paths
    at = path.coefficients(t)
    b, c, db, cdc = (float(v) for v in (at.b, at.c, at.db, at.cdc))
    return math.inf if b == 0 else c * c * db / b - cdc


def ode_sde_gap(field: Field, n: int | None = None, steps: int = 200, *, data: Tensor | None = None, start: Tensor | None = None,
                shape: Sequence[int] | None = None, times: Times | None = None, epsilon: float | Callable[[float], float] | None = None,
                cond: Any = None, directions: int = 200, seed: int | Draws = 0, batch: int | None = None) -> OdeSdeGap:
    """Draw `n` samples by the flow and by the SDE, both from the same starts and by Euler's rule in the same steps, and measure how far they lie apart.

    data:    (rows, *event), to measure both against. start, shape, times, cond, batch: as in `rheos.sample`.
    epsilon: the SDE's level, a number or a function of t. None is the path's own, `diffusion_level`; for two-sided paths and those that begin
             without any data (linear, cosine), where that is infinite, sigma(t).
    directions: of the sliced distance; single numbers need one, and are exact.
    The distances have a floor: two samples of one law are not at distance 0, see `rheos.metrics.floor`. Cost: 2 steps field calls a sample.
    ValueError for a level of 0 throughout, which would compare the flow with itself, for times that run back to the noise, and as `rheos.sample` has it.

    >>> import torch
    >>> from rheos.data import GaussianMixture
    >>> from rheos.paths import ExactField
    >>> target = GaussianMixture(torch.ones(1), torch.tensor([[1.0]]), torch.tensor([0.25]))
    >>> gap = ode_sde_gap(ExactField(Path.vp(), target), 2000, 100, data=target.sample(2000, seed=1))
    >>> max(gap) < 0.1
    True
    """
    if not isinstance(field, Field):
        raise TypeError(f"field must be a Field, got {type(field).__name__}; wrap a network as Field(net, path, predicts)")
    directions, draws = checks.integer("directions", directions, least=1), Draws.of(seed)
    if isinstance(times, Times) and float(times.t[0]) > float(times.t[-1]):
        raise ValueError(f"times must run from noise to data, got {float(times.t[0]):g} to {float(times.t[-1]):g}")
    if epsilon is None:
        epsilon = _own(field.path, float((field.path.interval if times is None else times.t)[0]))
    elif not callable(epsilon) and checks.positive("epsilon", epsilon, zero=True) == 0:
        raise ValueError("epsilon must be above 0: at 0 the SDE is the flow itself")
    elif callable(epsilon):
        asked = (EulerMaruyama(epsilon).times(field.path, checks.integer("steps", steps, least=1)) if times is None else times).t[:-1]
        if not any(float(epsilon(t)) != 0 for t in asked.tolist()):
            raise ValueError("epsilon must be above 0 somewhere: at 0 throughout the SDE is the flow itself")
    ode, sde = (sample(field, n, steps=steps, rule=EulerMaruyama(level), start=start, shape=shape, times=times, cond=cond, seed=draws, batch=batch)
                for level in (0.0, epsilon))
    count = 1 if ode[0].numel() == 1 else directions
    distance = lambda x, y: float(sliced_w2(x, y, directions=count, seed=draws))
    if data is None:
        return OdeSdeGap(distance(ode, sde), math.nan, math.nan)
    checks.finite("data", checks.tensor("data", data, floating=True))
    if data.shape[1:] != ode.shape[1:]:
        raise ValueError(f"data must have the event shape of samples, {tuple(ode.shape[1:])}, got {tuple(data.shape[1:])}")
    return OdeSdeGap(distance(ode, sde), distance(ode, data), distance(sde, data))


def _own(path: Path, begin: float) -> Callable[[float], float]:
    if not path.two_sided and math.isfinite(diffusion_level(path, begin)):
        return lambda t: diffusion_level(path, t)
    return lambda t: float(path.coefficients(t).c)
