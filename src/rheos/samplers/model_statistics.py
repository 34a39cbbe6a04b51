r"""DPM-Solver-v3: a solver fitted to the field by three curves of numbers that are measured on data once, and the rule that uses them.

Paper: Zheng et al., DPM-Solver-v3: improved diffusion ODE solver with empirical model statistics, 2023, arXiv:2310.13268.

With f = (sigma eps - l x) / alpha and f' about s f + b along the flow, L = int l, S = int s dlam, the flow is exactly
  x_t = (alpha_t / alpha_s) e^{L_s - L_t} x_s - alpha_t e^{-L_t} int_s^t e^{L + S - S_s} (g + B) dlam,   B = int_s^lam e^{S_s - S} b,
where g = e^{S_s - S} f - B hardly moves, and is replaced by its polynomial through the newest predictions. l, s and b are numbers a coordinate
and functions of lam: l = E diag(sigma d eps / dx) takes out of the prediction what is linear in x, s and b are the regression of f' on f.
(l, s, b) = (1, 0, 0) is the data kind, (0, -1, 0) the noise kind. They depend on lam alone, not on the path that a network was trained on.
On the field of a Gaussian with independent coordinates f does not depend on x at all, so that one step of order 1 is exact.
Ours: cubic curves between the measured points, so that orders are kept; before the first the data kind, after the last the noise kind, which
are the limits of every field, so that runs may begin without any data and end without any noise; f' by a central difference along the flow.
"""
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path as FilePath
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Inexact
from torch import Tensor

from rheos.core import Draws, checks
from rheos.core.files import load_tensors, save_tensors
from rheos.paths import LAM, SQRT_U, Clock, Coefficients, Field, Path, Times, U
from rheos.paths.asking import cut, evaluating, spread
from rheos.samplers.combinations import Combination, History
from rheos.samplers.exponential import INSIDE
from rheos.samplers.quadrature import gauss, lagrange
from rheos.samplers.tables import LARGEST_RATIO, Table

__all__ = ["EMS", "ModelStatistics", "diagonal", "model_statistics"]

LARGEST_EXACT = 64          # coordinates up to which the diagonal is computed one by one, from the specification
LEAST_SPREAD = 1e-6         # of E[f f]: where f does not vary, as at the noise end, nothing is to be learned of s
FEWEST = 16                 # points of a measurement: s is regressed with l's own slope, which fewer do not give
STEEPEST = 3.0              # |s| at most: its limits are 1 at the noise end and -2 at the data end; beyond is what few samples give
ROUNDING = 1e-10            # of the squares whose difference the variance of f is
DIFFERENCE = {torch.float64: 1e-3}      # step in lam of the difference along the flow; 1e-2 in lower precision, where rounding would rule
_WIDEST = 0.25              # in lam, of an interval with its own eight Gauss points
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(8)
# _UPTO[i, j]: weight of the value at Gauss point j in the integral from -1 to point i.
_POWERS = np.vander(_NODES, 8, increasing=True)
_UPTO = np.stack([(_NODES ** (k + 1) - (-1.0) ** (k + 1)) / (k + 1) for k in range(8)], 1) @ np.linalg.inv(_POWERS)


@dataclass(frozen=True, eq=False)
class ModelStatistics:
    """l, s and b of a field at rising values of lam = log(alpha / sigma).

    lam: (points,), at least 3. l, s, b: (points, *shape); shape broadcasts to an event, () is one number for all coordinates. float64.

    >>> plain = ModelStatistics.constant(-6.0, 6.0, l=1.0)
    >>> plain.lam.shape, plain.shape
    (torch.Size([3]), ())
    """

    lam: Tensor
    l: Tensor
    s: Tensor
    b: Tensor

    def __post_init__(self):
        for name in ("lam", "l", "s", "b"):
            value = checks.finite(name, checks.tensor(name, getattr(self, name), floating=True)).detach().cpu().double()
            object.__setattr__(self, name, value)
        if bool((checks.monotone("lam", self.lam)[1:] < self.lam[:-1]).any()) or len(self.lam) < 3:
            raise ValueError(f"lam must rise and have at least 3 entries, got {len(self.lam)} from {self.lam[0]:g} to {self.lam[-1]:g}")
        for name in ("l", "s", "b"):
            checks.shape_of(name, getattr(self, name), (len(self.lam), *self.shape))

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.l.shape[1:])

    @classmethod
    def constant(cls, low: float, high: float, *, l: float = 1.0, s: float = 0.0, b: float = 0.0) -> ModelStatistics:
        """The same numbers for all coordinates and all lam from low to high: (1, 0, 0) is the data kind, (0, -1, 0) the noise kind."""
        lam = torch.linspace(low, high, 3, dtype=torch.float64)
        return cls(lam, *(torch.full_like(lam, v) for v in (l, s, b)))

    @classmethod
    def gaussian(cls, mean: Tensor, variance: Tensor, low: float, high: float, points: int = 120) -> ModelStatistics:
        """Those of the field of a Gaussian with independent coordinates, in closed form: l = 1 / (1 + v e^{2 lam}), f = -l m."""
        lam = torch.linspace(low, high, checks.integer("points", points, least=3), dtype=torch.float64)
        mean, variance = torch.broadcast_tensors(mean.double(), variance.double())
        l = 1 / (1 + variance * torch.exp(2 * lam).reshape(-1, *(1,) * mean.ndim))
        return cls(lam, l, torch.zeros_like(l), 2 * l * (1 - l) * mean)

    def at(self, lam: np.ndarray) -> tuple[np.ndarray, ...]:
        """(l, s, b, L, S) at lam (m,), each (m, *shape), L and S from the first measured point on."""
        grid, inner = self.lam.numpy(), np.clip(lam, *self.lam[[0, -1]].tolist())
        cell = np.clip(np.searchsorted(grid, inner, side="right") - 1, 0, len(grid) - 2)
        wide = lambda v: v.reshape(-1, *(1,) * len(self.shape))
        step = grid[cell + 1] - grid[cell]
        q, h, before, after = wide((inner - grid[cell]) / step), wide(step), wide(lam < grid[0]), wide(lam > grid[-1])
        found = []
        for values, slopes, total in self._curves:
            v0, v1, d0, d1 = values[cell], values[cell + 1], h * slopes[cell], h * slopes[cell + 1]
            here = v0 + q * (d0 + q * (3 * (v1 - v0) - 2 * d0 - d1 + q * (2 * (v0 - v1) + d0 + d1)))
            area = q * (v0 + q * (d0 / 2 + q * ((v1 - v0) - (2 * d0 + d1) / 3 + q * (2 * (v0 - v1) + d0 + d1) / 4)))
            found.append((here, total[cell] + h * area))
        (l, big_l), (s, big_s), (b, _) = found
        # Finite times only: what is infinite is never multiplied, see EMS.
        beyond = wide(np.where(np.isfinite(lam), lam - inner, 0.0))
        big_l, big_s = big_l + np.where(before, beyond, 0.0), big_s - np.where(after, beyond, 0.0)
        return np.where(before, 1.0, np.where(after, 0.0, l)), np.where(before, 0.0, np.where(after, -1.0, s)), np.where(before | after, 0.0, b), big_l, big_s

    @cached_property
    def _curves(self) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Values, slopes and integrals of l, s and b at the measured points."""
        grid = self.lam.numpy()
        step = np.diff(grid).reshape(-1, *(1,) * len(self.shape))
        made = []
        for curve in (self.l.numpy(), self.s.numpy(), self.b.numpy()):
            slope = slopes(curve, grid)
            cells = step / 2 * (curve[1:] + curve[:-1]) + step**2 / 12 * (slope[:-1] - slope[1:])
            made.append((curve, slope, np.concatenate([np.zeros_like(curve[:1]), np.cumsum(cells, 0)])))
        return made

    def reduced(self, reduce: str) -> ModelStatistics:
        """Means over coordinates: "channel" (over all axes of an event but the first) or "one". For saved statistics; those measured so fit better."""
        axes = _pooled(reduce, len(self.shape), 1)
        mean = lambda v: v.mean(axes, keepdim=reduce == "channel") if axes else v
        return ModelStatistics(self.lam, mean(self.l), mean(self.s), mean(self.b))

    def save(self, file: str | FilePath) -> FilePath:
        """Write one safetensors file, in one move."""
        return save_tensors(file, {name: getattr(self, name) for name in ("lam", "l", "s", "b")}, {"rheos": "model statistics"})

    @classmethod
    def load(cls, file: str | FilePath) -> ModelStatistics:
        """What `save` wrote. FileNotFoundError if it is not there, ValueError if it is another file."""
        tensors, about = load_tensors(file)
        if about.get("rheos") != "model statistics" or set(tensors) != {"lam", "l", "s", "b"}:
            raise ValueError(f"{file} does not hold model statistics")
        return cls(**tensors)


def slopes(curve: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Slopes at the points of a curve (points, ...): those of the parabolas through neighbours, and of the cubic spline from five points on."""
    plain = np.gradient(curve, grid, axis=0, edge_order=2)
    if len(grid) < 5:
        return plain
    h = np.diff(grid)
    rise = np.diff(curve, axis=0) / h.reshape(-1, *(1,) * (curve.ndim - 1))
    matrix, right = np.zeros((len(grid), len(grid))), np.empty_like(curve)
    for i in range(1, len(grid) - 1):
        matrix[i, i - 1 : i + 2] = h[i], 2 * (h[i - 1] + h[i]), h[i - 1]
        right[i] = 3 * (h[i] * rise[i - 1] + h[i - 1] * rise[i])
    # The third derivative does not jump at the second point from either end.
    for end, (a, b), (first, second) in ((0, h[:2], rise[:2]), (-1, h[:-3:-1], rise[:-3:-1])):
        matrix[end, [end, 1 if end == 0 else -2]] = b, a + b
        right[end] = ((a + 2 * (a + b)) * b * first + a * a * second) / (a + b)
    return np.linalg.solve(matrix, right.reshape(len(grid), -1)).reshape(curve.shape)


def _pooled(reduce: str, axes: int, first: int) -> tuple[int, ...]:
    """The axes over which numbers are pooled, those of the event beginning at `first`."""
    checks.one_of("reduce", reduce, ("coordinate", "channel", "one"))
    if reduce == "channel" and axes < 2:
        raise ValueError(f"reduce = channel needs events with a channel axis and others, got {axes} axes")
    return {"coordinate": (), "channel": tuple(range(first + 1, first + axes)), "one": tuple(range(first, first + axes))}[reduce]


def diagonal(value: Tensor, x: Tensor, probes: int, draws: Draws, first: int = 0) -> Tensor:
    """The diagonal of d value / d x, row by row, (batch, *event): exact for small events, else its mean over random signs v of v (J^T v)."""
    flat, size = value.flatten(1), value[0].numel()
    if size <= LARGEST_EXACT:
        ask = lambda k: torch.autograd.grad(flat[:, k].sum(), x, retain_graph=k + 1 < size)[0].flatten(1)[:, k]
        return torch.stack([ask(k) for k in range(size)], 1).reshape(x.shape)
    total = torch.zeros_like(x)
    for k in range(probes):
        v = 2.0 * draws.integers("probes", k, tuple(x.shape), 2, first=first, device=x.device).to(x.dtype) - 1.0
        total += v * torch.autograd.grad((value * v).sum(), x, retain_graph=k + 1 < probes)[0]
    return total / probes


def model_statistics(field: Field, data: Inexact[Tensor, "rows *event"], points: int = 120, *, cond: Any = None, span: tuple[float, float] | None = None,
                     reduce: str = "coordinate", probes: int = 1, batch: int = 256, seed: int | Draws = 0) -> ModelStatistics:
    """Measure l, s and b of a field on data (rows, *event), in the network's units, noised at `points` equally spaced lam, 16 at least.

    field: as it will be sampled: guided where it will be guided, with its condition. cond: as in `sample`. span: least and largest lam (default:
    the path's, a little inside where it is infinite). reduce: "coordinate", "channel" or "one" number for so much of an event. probes: random signs
    a row where an event has more than 64 coordinates. batch: rows at once. One noise serves all lam, so that the curves are smooth.
    Cost: points x rows x (three network calls, and as many backward passes as coordinates or probes).
    ValueError for two-sided paths and spans beyond the path.
    """
    if not isinstance(field, Field):
        raise TypeError(f"field must be a Field, got {type(field).__name__}")
    path, draws = field.path, Draws.of(seed)
    path.lam(path.interval[0])        # two-sided paths, and those whose coefficients differ by coordinate, are refused here
    checks.finite("data", checks.tensor("data", data, floating=True))
    if len(data) < 2:
        raise ValueError(f"data must hold at least 2 rows, got {len(data)}")
    points, probes, batch = checks.integer("points", points, least=FEWEST), checks.integer("probes", probes, least=1), checks.integer("batch", batch, least=1)
    pooled = (0, *_pooled(reduce, data.ndim - 1, 1))
    low, high = _span(path, span)
    like = field.like
    data, cond = data.to(device=like.device, dtype=like.dtype), spread(cond, len(data), like.device)
    z = draws.rows("statistics noise", 0, tuple(data.shape), device=like.device, dtype=like.dtype)
    lam, edge = torch.linspace(low, high, points, dtype=torch.float64), path.lam(torch.tensor(path.interval, dtype=torch.float64)).tolist()
    mean = lambda v: v.mean(pooled, keepdim=reduce == "channel")[0] if reduce == "channel" else v.mean(pooled)
    h, moments = DIFFERENCE.get(like.dtype, 1e-2), []
    with evaluating(getattr(field, "net", None)):
        for here in lam.tolist():
            at = [_coefficients(path, v) for v in (max(here - h, edge[0]), here, min(here + h, edge[1]))]
            told = [_measure(field, at, data[k : k + batch], z[k : k + batch], cut(cond, k, batch), probes, draws, k)
                    for k in range(0, len(data), batch)]
            scaled, heard, moved, slope = (torch.cat(parts) for parts in zip(*told, strict=True))
            away = [v - mean(v) for v in (scaled, heard, moved)]
            pair = lambda i, j, away=away: mean(away[i] * away[j])
            moments.append(torch.stack([mean(v) for v in (scaled, heard, moved, slope)] + [pair(0, 0), pair(0, 1), pair(1, 1), pair(0, 2), pair(1, 2)]).cpu())
    return _regressed(lam, torch.stack(moments, 1))


def _measure(field: Field, at: list[tuple[float, Coefficients]], data: Tensor, z: Tensor, cond: Any, probes: int, draws: Draws,
             first: int) -> tuple[Tensor, ...]:
    """x / alpha, the data prediction D, its derivative along the flow by lam, and the diagonal of d(alpha D)/dx; float64, (batch, *event)."""
    (t, now), wide = at[1], torch.float64
    x = (now.b * data + now.c * z).requires_grad_(True)
    with torch.enable_grad():
        heard = field(x, t, cond).of("data")
        slope = now.b * diagonal(heard, x, probes, draws, first)
    x, heard = x.detach().to(wide), heard.detach().to(wide)

    def carried(there: tuple[float, Coefficients]) -> Tensor:
        time, then = there
        if time == t:
            return heard
        moved = then.c / now.c * x + (then.b - now.b * then.c / now.c) * heard
        with torch.no_grad():
            return field(moved.to(data.dtype), time, cond).of("data").to(wide)

    length = math.log(at[2][1].b / at[2][1].c) - math.log(at[0][1].b / at[0][1].c)
    return x / now.b, heard, (carried(at[2]) - carried(at[0])) / length, slope.detach().to(wide)


def _regressed(lam: Tensor, moments: Tensor) -> ModelStatistics:
    """l, s, b from the means of X = x / alpha, D, D' and the slope, and from the covariances XX, XD, DD, XD', DD'; X' = D - X along the flow."""
    x, d, d1, slope, xx, xd, dd, xd1, dd1 = moments
    l = 1 - slope
    turn = torch.from_numpy(slopes(l.numpy(), lam.numpy()))
    c = 1 - l                                   # f = c X - D, f' = -(c + l') X + c D - D'
    f, f1 = c * x - d, -(c + turn) * x + c * d - d1
    varied = c * c * xx - 2 * c * xd + dd
    together = -c * (c + turn) * xx + (c * c + c + turn) * xd - c * dd - c * xd1 + dd1
    floor = LEAST_SPREAD * (varied + f * f) + ROUNDING * (c * c * xx + dd)
    s = (together / torch.maximum(varied, floor).clamp_min(1e-300)).clamp(-STEEPEST, STEEPEST)
    return ModelStatistics(lam, l, s, f1 - s * f)


def _span(path: Path, span: tuple[float, float] | None) -> tuple[float, float]:
    ends = path.lam(torch.tensor(path.interval, dtype=torch.float64)).tolist()
    inside = path.lam(torch.tensor([INSIDE, 1 - INSIDE], dtype=torch.float64)).tolist()
    if span is None:
        return tuple(v if math.isfinite(v) else w for v, w in zip(ends, inside, strict=True))
    low, high = (checks.between("span", v, -math.inf, math.inf, low_open=True, high_open=True) for v in span)
    if not ends[0] - 1e-9 <= low < high <= ends[1] + 1e-9:
        raise ValueError(f"span must rise inside this path's lam, from {ends[0]:g} to {ends[1]:g}, got {low:g} to {high:g}")
    return low, high


def _coefficients(path: Path, lam: float) -> tuple[float, Coefficients]:
    times = Times(path, [float(path.time_at(lam).clamp(0, 1))], _repeats=True)
    return float(times.t[0]), times.each[0]


@dataclass(frozen=True)
class EMS:
    """The exponential rule of DPM-Solver-v3, whose kind is what the statistics make of it.

    statistics: of the field that is sampled, guided if it is guided. order: predictions that the polynomial runs through (2 where guided, else 3 is
    the paper's). corrector: how many earlier predictions mend a point together with the one there, by default `order`; 0 for none. lower_at_end: the
    last steps use lower orders. clock: the polynomial's variable; spacing: the clock in which the default times are evenly spaced.
    A run may begin where there is no data and end where there is no noise; else it must begin and end inside the statistics' lam.
    """

    statistics: ModelStatistics
    order: int = 3
    corrector: int | None = None
    clock: Clock = LAM
    lower_at_end: bool = True
    spacing: Clock = LAM
    calls_per_step: ClassVar[int] = 1

    def __post_init__(self):
        if not isinstance(self.statistics, ModelStatistics):
            raise TypeError(f"statistics must be ModelStatistics, as model_statistics(field, data) measures, got {type(self.statistics).__name__}")
        checks.integer("order", self.order, least=1)
        object.__setattr__(self, "corrector", self.order if self.corrector is None else checks.integer("corrector", self.corrector, least=0))
        checks.flag("lower_at_end", self.lower_at_end)
        for name in ("clock", "spacing"):
            if not isinstance(getattr(self, name), Clock):
                raise TypeError(f"{name} must be a Clock such as LAM, got {getattr(self, name)!r}")

    @classmethod
    def examples(cls) -> list[EMS]:
        wide = ModelStatistics.gaussian(torch.tensor(0.2), torch.tensor(0.5), -9.5, 9.5)
        return [cls(wide, 2), cls(wide, 3, 0), cls(wide, 2, 1, U, spacing=SQRT_U)]

    def times(self, path: Path, steps: int) -> Times:
        """Equal steps of `spacing` over what the path and the statistics share; to the path's singular ends where the clocks reach them."""
        path.lam(path.interval[0])
        lam = path.lam(torch.tensor(path.interval, dtype=torch.float64)).tolist()
        reach, ends = self.statistics.lam[[0, -1]].tolist(), list(path.interval)
        inside = path.lam(torch.tensor([INSIDE, 1 - INSIDE], dtype=torch.float64)).tolist()
        for k, tighter in ((0, max), (1, min)):
            finite = all(math.isfinite(float(c.value(path, torch.tensor(ends[k], dtype=torch.float64)))) for c in (self.clock, self.spacing))
            if math.isfinite(lam[k]) or not finite:
                wanted = lam[k] if math.isfinite(lam[k]) else inside[k]
                if tighter(wanted, reach[k]) != wanted or not math.isfinite(lam[k]):
                    ends[k] = float(path.time_at(tighter(wanted, reach[k])))
        return Times.uniform(path, steps, self.spacing, start=ends[0], end=ends[1])

    def plan(self, times: Times) -> Table:
        """The table for these times, of kind "data". ValueError for times outside the statistics and clocks that are infinite at one of them."""
        if times.path.two_sided:
            raise ValueError("EMS needs a one-sided path, got a two-sided one; use Euler, RungeKutta or EulerMaruyama")
        lam, clock = times.lam.numpy(), self.clock.value(times.path, times.t).numpy()
        low, high = self.statistics.lam[[0, -1]].tolist()
        for end in lam[[0, -1]]:
            if math.isfinite(end) and not low - 1e-9 <= end <= high + 1e-9:
                raise ValueError(f"times must begin and end inside the statistics, lam from {low:g} to {high:g}, got lam = {end:g}; "
                                 "measure them on a wider span")
        if lam[0] == math.inf:
            raise ValueError("EMS cannot carry on from a time without noise (sigma = 0); start a little before")
        if self.order > 1 or self.corrector:
            bad = ~np.isfinite(clock)
            if bad.any():
                raise ValueError(f"clock {self.clock.name} is infinite at t = {times.t[int(np.argmax(bad))]:g} of this path; start or end the times a little "
                                 "inside, or use clock u")
        seen = History("data", times)
        for i in range(times.steps):
            order = min(self.order, i + 1, times.steps - i if self.lower_at_end else times.steps)
            step = lambda nodes, i=i: weighed(self.statistics, seen, times, i, nodes, clock, self.clock)
            count, mend = min(self.corrector, i + 1), None
            if count and i + 1 < times.steps:
                mend = lambda i=i, count=count, step=step: step([i + 1] + [i - j for j in range(count)])
            seen.add(step([i - j for j in range(order)]), mend)
        return seen.table(times, rule="EMS", order=self.order)


def weighed(statistics: ModelStatistics, seen: History, times: Times, i: int, nodes: list[int], readings: np.ndarray, clock: Clock,
            edited: Callable[[np.ndarray], np.ndarray] | None = None) -> Combination:
    """Step i, from time i to i + 1, by the polynomial of g through the predictions `nodes` in `clock`, whose readings at the times are given.

    edited: changes the weights (nodes, *shape) of the polynomial, as the relaxations of `Decision` do.
    """
    lam, shape = times.lam.numpy(), statistics.shape
    low, high = statistics.lam[[0, -1]].tolist()
    wide = lambda v: v.reshape(*v.shape, *(1,) * len(shape))
    ends = np.clip(lam[[i, i + 1, *nodes]], low, high)
    grid = statistics.lam.numpy()
    edges = np.unique(np.concatenate([ends, grid[(grid > ends.min()) & (grid < ends.max())]]))
    if len(edges) > 1:
        edges = np.concatenate([np.linspace(a, b, max(1, math.ceil((b - a) / _WIDEST)), endpoint=False) for a, b in zip(edges, edges[1:], strict=False)]
                               + [edges[-1:]])
    half = np.diff(edges) / 2
    places = edges[:-1, None] + half[:, None] * (_NODES + 1)
    _, _, b, big_l, big_s = (v.reshape(*places.shape, *shape) for v in statistics.at(places.reshape(-1)))
    l_at, _, _, big_l_at, big_s_at = statistics.at(np.concatenate([lam[[i, i + 1]], lam[nodes]]))
    # S at infinity, where only runs end, is not asked for: B has come to rest before.
    origin = big_s_at[0]
    flow = np.exp(origin - big_s) * b
    grown = np.concatenate([np.zeros((1, *shape)), np.cumsum((wide(half)) * np.tensordot(_WEIGHTS, np.moveaxis(flow, 1, 0), 1), 0)])
    reached = lambda value: grown[np.searchsorted(edges, np.clip(value, low, high) - 1e-13)]
    start = reached(lam[i])
    rising = grown[:-1, None] - start + wide(half)[:, None] * np.moveaxis(np.tensordot(_UPTO, np.moveaxis(flow, 1, 0), 1), 0, 1)

    # The pieces of the step: inside the statistics, and before and after them in e^lam and e^-lam, which are finite where lam is not.
    first, last = sorted((lam[i], lam[i + 1]))
    way = 1.0 if lam[i + 1] > lam[i] else -1.0
    inner = (edges[:-1] >= max(first, low) - 1e-13) & (edges[1:] <= min(last, high) + 1e-13)
    pieces = [(places[inner].reshape(-1), (np.exp(big_l + big_s - origin) * wide(half[:, None] * _WEIGHTS))[inner].reshape(-1, *shape),
               rising[inner].reshape(-1, *shape))]
    if first < low:
        e, w = gauss(math.exp(first), math.exp(min(last, low)))
        rest = np.exp(statistics.at(np.log(e))[4] - origin)
        pieces.append((np.log(e), wide(w) * math.exp(-low) * rest, np.broadcast_to(reached(low) - start, (len(e), *shape))))
    if last > high:
        e, w = gauss(math.exp(-last), math.exp(-max(first, high)))
        _, _, _, top_l, top_s = statistics.at(np.array([high]))
        pieces.append((-np.log(e), wide(w) * math.exp(high) * np.exp(top_l + top_s - origin), np.broadcast_to(reached(high) - start, (len(e), *shape))))
    at, measure, offset = (np.concatenate(v) for v in zip(*pieces, strict=True))
    reading = clock.value(times.path, times.path.time_at(torch.from_numpy(at))).numpy() if clock != LAM and len(nodes) > 1 else at
    basis = lagrange(readings[nodes], reading) if len(nodes) > 1 else np.ones((1, len(at)))
    shares = way * np.tensordot(basis, measure, 1)
    if np.abs(shares).max() > LARGEST_RATIO * max(np.abs(shares.sum(0)).max(), 1e-300):
        raise ValueError(f"step {i + 1} is so much longer than the ones before that a polynomial of degree {len(nodes) - 1} explodes; "
                         "use a lower order or times whose steps change more slowly")
    if edited is not None:
        shares = edited(shares)
    scale = [_kept(times.each[k], float(lam[k]), low, np.asarray(big_l_at[n])) for n, k in enumerate((i, i + 1))]
    number = (lambda v: torch.as_tensor(v, dtype=torch.float64)) if shape else float
    total = Combination(constant=number(way * (measure * offset).sum(0)))
    for n, k in enumerate(nodes):
        l = l_at[2 + n]
        f = -seen.data(k)
        if (l != 1).any():
            f = number((1 - l) / times.each[k].b) * seen.evaluated(k) + f
        total = total + number(shares[n]) * (number(np.exp(origin - big_s_at[2 + n])) * f + -number(reached(lam[k]) - start))
    return number(scale[1] / scale[0]) * Combination.point(i) + -(number(scale[1]) * total)


def _kept(at: Coefficients, lam: float, low: float, big_l: np.ndarray) -> np.ndarray:
    """alpha e^-L: before the first measured point, where L = lam - low, it is sigma e^low, also without data."""
    return np.full_like(big_l, at.c * math.exp(low)) if lam <= low else np.asarray(at.b * np.exp(-big_l))
