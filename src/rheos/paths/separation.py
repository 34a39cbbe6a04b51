"""Measuring what a path costs on data: the separation curve of a data set, and the kinetic energy of any one-sided Gaussian path.

    w(th)^2 = 1 - mmse(tan th) / cos(th)^2,    energy = int r'^2 + r^2 th'^2 w(th)^2 dt    (Shaul et al., 2023, arXiv:2306.06626; see `kinetic`)
"""
from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from rheos.core import Draws, checks
from rheos.paths.field import Field
from rheos.paths.kinetic import HALF_PI, Separation
from rheos.paths.path import Path

__all__ = ["data_separation", "kinetic_energy"]

_CHUNK_NUMBERS = 1 << 16      # small blocks stay in the processor's cache
_PANELS, _NODES = 100, 8      # of the quadrature in time


@torch.no_grad()
def data_separation(x: Float[Tensor, "n *event"], *, field: Field | None = None, angles: int = 200, draws: int = 1000,
                    seed: int | Draws = 0) -> Separation:
    """How well noisy copies of the data x (n, *event) can be told apart at each ratio of signal to noise, by Monte Carlo in float64.

    The law of the data is taken to be these n points, whose posterior is a softmax: pass the sample that the path is meant for; fewer
    points count as better separated. With a `field` it is the law that this trained (unconditional) field knows, through its data
    predictions, and x are draws from it. angles: knots from 0 to pi / 2. draws: noisy copies, each taken with its noise and against it.

    Cost: 2 angles * draws * n exponentials after two products of (draws, d) by (n, d): 2 s of one core for a thousand points;
    with a field, 2 angles * draws rows through the network. Repeated points are fine.
    ValueError for fewer than two points, data that are all 0 or not finite, a field of another event shape, or one whose path is
    two-sided or has other noise than Gaussian.

    >>> data_separation(torch.tensor([[1.0], [-1.0]]), angles=50)
    Separation(50 angles, least energy 0.4479, scale 1)
    """
    checks.tensor("x", x, floating=True)
    if x.ndim < 1 or len(x) < 2 or not x.numel():
        raise ValueError(f"x must hold at least 2 points, got shape {tuple(x.shape)}")
    angles, draws = checks.integer("angles", angles, least=3), checks.integer("draws", draws, least=1)
    flat = checks.finite("x", x).double().reshape(len(x), -1)
    scale = float(flat.square().mean().sqrt())
    if not scale > 0:
        raise ValueError("x must not be all 0: then there is nothing to move")
    if math.isinf(scale):
        raise ValueError(f"x must have squares that are finite in float64, got {float(flat.abs().max()):g} as the largest magnitude")
    family = Draws.of(seed)
    # Every point equally often: what is left to chance is the noise alone.
    chosen = family.permutation("separation points", 0, len(flat)).repeat(-(-draws // len(flat)))[:draws].to(x.device)
    z = family.rows("separation noise", 0, (draws, flat.shape[1]), dtype=torch.float64, device=x.device)
    angle = torch.linspace(0, 1, angles, dtype=torch.float64) * HALF_PI
    first = float((flat.mean(0) / scale).square().mean())           # without a signal all that is known is the mean
    if field is None:
        squared = _from_points(flat / scale, chosen, z, angle[1:-1])
        last = 1.0                                       # points that differ are told apart in the end
    else:
        squared = _from_field(field, x[chosen], z.reshape(draws, *x.shape[1:]), angle[1:-1], scale)
        last = float(squared[-1])
    squared = torch.cat([squared.new_tensor([first]), squared, squared.new_tensor([last])])
    # Outside [0, 1] by Monte Carlo, or for a field that is worse than none.
    return Separation(tuple(angle.tolist()), tuple(squared.clamp(0, 1).sqrt().tolist()), scale)


def _from_points(points: Tensor, chosen: Tensor, z: Tensor, angle: Tensor) -> Tensor:
    """w(th)^2, (angles,), for points (n, d) of mean square 1, from noisy copies x = sin(th) x1 + cos(th) z of points[chosen].

    Two estimates a copy, both from the posterior p. (1) The copied point is itself a draw from p, so that half its mean squared distance to
    another draw, sum_k p_k |x_k - x1|^2 / 2, has the error of the posterior mean as its expectation: never negative, exact where points are told
    apart. (2) w^2 is E[u . v] / d, u = cos(th) x1 - sin(th) z and v = E[u | x]: exact where the flow stands still, where (1) is the small
    difference of two large numbers. Their mix of least variance is taken at each angle.
    """
    draws, d = z.shape
    squares, dot = points.square().sum(1), torch.linalg.vecdot
    by_error, by_flow = torch.empty(2, len(angle), draws, dtype=torch.float64)
    rows = max(1, _CHUNK_NUMBERS // len(points))
    for begin in range(0, draws, rows):
        cut = slice(begin, begin + rows)
        own, noise = points[chosen[cut]], z[cut]
        overlap, push = own @ points.mT, noise @ points.mT
        apart = (squares[chosen[cut], None] + squares - 2 * overlap).clamp_min_(0)
        stretch = squares[chosen[cut]] - dot(noise, noise)
        for k, th in enumerate(angle.tolist()):
            sin, cos, tan = math.sin(th), math.cos(th), math.tan(th)
            error, flow = 0.0, 0.0
            for sign in (1, -1):
                p = torch.softmax(torch.add(apart * (-0.5 * tan * tan), push, alpha=sign * tan), 1)
                error = error + 0.5 * dot(p, apart)
                flow = flow + cos * dot(p, overlap) - sign * sin * dot(p, push)
            by_error[k, cut] = (1 - 0.5 * error / (d * cos * cos)).cpu()
            # v = (E[x1 | x] - sin x) / cos; of u . x the part with x1 . z cancels between the noise and its opposite.
            by_flow[k, cut] = ((0.5 * flow - sin * sin * cos * stretch) / (d * cos)).cpu()
    gap = by_error - by_flow
    spread = gap - gap.mean(1, keepdim=True)
    weight = (spread * by_error).sum(1) / spread.square().sum(1).clamp_min(torch.finfo(torch.float64).tiny)
    return by_error.mean(1) - weight * gap.mean(1)


def _from_field(field: Field, x1: Tensor, z: Tensor, angle: Tensor, scale: float) -> Tensor:
    """w(th)^2, (angles,), by the mean squared error of a field's data prediction."""
    path = field.path
    _refuse(path, "field.path")
    if field.event is not None and field.event != tuple(x1.shape[1:]):
        raise ValueError(f"field must have the event shape of x, {tuple(x1.shape[1:])}, got {field.event}")
    found, like = [], field.like
    x1, z = x1.to(like), z.to(like)
    for ratio in angle.tan().tolist():
        # A path that never reaches this ratio is asked at its nearest.
        t = path.time_at(math.log(ratio / scale)).clamp(*path.interval)
        at = path.coefficients(t)
        noisy = float(at.c) ** 2 / (float(at.c) ** 2 + (scale * float(at.b)) ** 2)
        times = t.to(x1.device).expand(len(x1))
        errors = [(field.data(path.sample(x1, times, z=sign * z).x, t) - x1).double().square().mean() for sign in (1, -1)]
        found.append(1 - float(errors[0] + errors[1]) / (2 * noisy * scale**2))
    return torch.tensor(found, dtype=torch.float64)


@torch.no_grad()
def kinetic_energy(path: Path, data: Separation | Float[Tensor, "n *event"], *, seed: int | Draws = 0) -> float:
    """int E|v(x_t, t)|^2 dt over `path.interval`, a dimension and in units of the data's mean square, of a one-sided Gaussian path.

    data: their separation, or the points (n, *event) themselves, whose separation is measured then (with `seed`).
    For a variance-preserving path the interval matters: its integrand is like 1 / (1 - t) at the end, so that the integral up to t = 1 is infinite.
    Cost: microseconds once the separation is known. ValueError for paths that are two-sided or have other noise than Gaussian.

    >>> from rheos.data import two_moons
    >>> separation = data_separation(two_moons().sample(300), draws=100)
    >>> kinetic_energy(Path.cosine(), separation) < kinetic_energy(Path.linear(), separation)
    True
    """
    _refuse(path, "path")
    separation = data if isinstance(data, Separation) else data_separation(data, seed=seed)
    t, weight = _quadrature(*path.interval)
    _, b, c, _, db, dc, cdc = (torch.as_tensor(v, dtype=torch.float64) for v in path.coefficients(t))
    scale = separation.scale
    squared = b**2 + (c / scale) ** 2
    outward, around = b * db + cdc / scale**2, (db * c - b * dc) / scale          # r r' and r^2 th'
    _, w = separation.arc(torch.atan2(b, c / scale))
    return float(weight @ ((outward**2 + (around * w) ** 2) / squared))


def _quadrature(start: float, end: float) -> tuple[Tensor, Tensor]:
    """Gauss's nodes and weights in pieces that grow finer towards both ends, where the integrands may be steep."""
    from numpy.polynomial.legendre import leggauss

    node, weight = (torch.from_numpy(v) for v in leggauss(_NODES))
    u = ((torch.arange(_PANELS, dtype=torch.float64)[:, None] + 0.5 * (1 + node)) / _PANELS).flatten()
    return start + (end - start) * u * u * (3 - 2 * u), (end - start) * 6 * u * (1 - u) * weight.repeat(_PANELS) / (2 * _PANELS)


def _refuse(path: Path, name: str) -> None:
    if not isinstance(path, Path):
        raise TypeError(f"{name} must be a Path, got {type(path).__name__}")
    if path.two_sided:
        raise ValueError(f"{name} must be one-sided: kinetic energy is known in this form for noise to data only")
    if not path.noise.gaussian:
        raise ValueError(f"{name} must have Gaussian noise, got {path.noise}")
    if getattr(path.schedule, "spectral", False):
        raise ValueError(f"{name} must have one pair of coefficients for all coordinates, those of {path.schedule!r} differ")
