r"""Semi-discrete optimal transport: the map of least cost from a density to finitely many weighted points, cell by cell.

  u(x) = max_i (<x, y_i> + h_i),   T(x) = y_i where the maximum is,   h minimises E(h) = E_x u(x) - sum_i nu_i h_i,   dE/dh_i = P(T = y_i) - nu_i

E is convex, and T has the least E |x - T(x)|^2 of all maps that bring a share nu_i to each y_i; |y_i|^2 / 2 is absorbed by h_i.
Paper: Li et al., DPM-OT: A New Diffusion Probabilistic Model Based on Optimal Transport, 2023, arXiv:2307.11308, where the points are noised data;
there T is continued between the two best cells, and draws at a singularity, between unlike points, are rejected: they would mix modes.
Ours: heights begin where a stretch between Gaussians would have them, and Adam's rate falls along a cosine over a fixed number of minibatches, of which the
heights are an average; the paper doubles the minibatch instead when the gradient stalls.
"""
from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from functools import partial
from pathlib import Path as FilePath
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from rheos.core import Draws, Watcher, checks, evolve, raising_interrupts
from rheos.core.files import load_tensors, save_tensors
from rheos.couplings.independent import Independent
from rheos.couplings.pairs import Pair, checked_law, checked_precision, checked_rows, mean_cost, rows_of
from rheos.training import Average, Cosine, Descent
from rheos.training.descent import known_settings

__all__ = ["Continued", "SemiDiscrete"]

NUMBERS = 1 << 22           # of the table rows x points that are looked at in one go
PER_POINT = 50              # draws a point from which a fit measures shares, cells' centres and angles at its end
FILE = "semi-discrete map"  # what a saved one calls itself
ROUNDS = 200                # of drawing anew what was rejected


class Continued(NamedTuple):
    """A map continued between cells: y (n, *event), and which rows to keep (n,); the others lie at a singularity."""

    y: Tensor
    kept: Tensor


class Heights(nn.Module):
    """h over a unit, so that steps have none, (points,)."""

    def __init__(self, values: Tensor):
        super().__init__()
        self.values = nn.Parameter(values.clone())


def _centred(net: Heights) -> None:
    with torch.no_grad():
        net.values -= net.values.mean()


class SemiDiscrete:
    """The optimal map from a source to weighted points, as a coupling: x1 = T(x0).

    source: None for standard normal noise, a tensor (rows, *event), or anything with `sample(n, seed=...)`. points: (n, *event), two at least.
    weights: (n,), positive and summing to 1; even unless given. cond: belongs to the points. angle: None for the map itself, or in (0, 1] to continue
    it between the two best cells i, j of an x, in proportion to the inverse distances to the cells' centres, where the angle between (y_i, -1) and (y_j, -1)
    lies in the lower so large part of the range found in fitting, 0.7 in the paper; `sample` draws the other x0 anew. Angles and so what is
    rejected depend on where the origin of the data lies and on their scale.

    `fit` gives a fitted map and leaves the one that was asked as it is. Memory is n numbers and a block of rows x points at a time; time is
    O(steps batch n d), for n up to some ten thousand. Without `angle` every x1 is one of the points: what is new in a sample must come from elsewhere.
    ValueError for fewer than 2 points, weights that are no probabilities, and shapes or dtypes that differ;
    TypeError for points that are not float32 or float64.

    >>> points = torch.tensor([[-1.0, 0.0], [0.0, 0.0], [2.0, 1.0]])
    >>> fitted = SemiDiscrete(None, points, torch.tensor([0.5, 0.3, 0.2])).fit(steps=200)
    >>> bool((fitted.shares(20_000) - fitted.weights).abs().max() < 0.02)
    True
    """

    exempt: ClassVar[dict[str, str]] = {"marginals": "points come in proportion to their weights, by the cell x0 falls in, not once an epoch"}
    papers: ClassVar[tuple[str, ...]] = ("2307.11308",)

    def __init__(self, source: Any, points: Float[Tensor, "n *event"], weights: Float[Tensor, " m"] | None = None, *, cond: Any = None,
                 angle: float | None = None):
        self.target = self.points = checked_law("points", checked_precision("points", points))
        if len(points) < 2:
            raise ValueError(f"points must hold at least 2 rows, got {len(points)}")
        self.weights = torch.full((len(points),), 1 / len(points), dtype=torch.float64, device=points.device)
        if weights is not None:
            checks.finite("weights", checks.shape_of("weights", weights, (len(points),)))
            if not bool((weights > 0).all()) or abs(float(weights.double().sum()) - 1) > 1e-4:
                total = float(weights.double().sum())
                raise ValueError(f"weights must be positive and sum to 1, got the smallest {float(weights.min()):g} and the sum {total:g}")
            self.weights = (weights / weights.sum()).to(points.device, torch.float64)
        self.source = None if source is None else checked_law("source", source)
        if source is not None:
            some = source[:1] if isinstance(source, Tensor) else source.sample(1, seed=0)
            if some.shape[1:] != points.shape[1:] or some.dtype != points.dtype:
                raise ValueError(f"source must have the event shape and dtype of points, {tuple(points.shape[1:])} of {points.dtype}, "
                                 f"got {tuple(some.shape[1:])} of {some.dtype}")
        self.cond = checked_rows(cond, "points", len(points))
        self.angle = None if angle is None else checks.between("angle", angle, 0.0, 1.0, low_open=True)
        self._heights: Tensor | None = None

    def fit(self, steps: int = 1500, batch: int = 1024, rate: float = 0.1, *, seed: int | Draws = 0, watch: Iterable[Watcher] = (),
            **settings: Any) -> SemiDiscrete:
        """A fitted map: h by Adam on minibatches of the source, averaged; a fitted map goes on from where it is.

        rate: of Adam at the start, falling to 0 along a cosine; in units of the spread of <x, y>. settings: others of `Descent`. watch: watchers of the
        training. Ctrl-C raises at once: unfinished heights would be taken for the map's. How it ended: `residual`.
        """
        steps, rate, draws = checks.integer("steps", steps, least=1), checks.positive("rate", rate), Draws.of(seed)
        known_settings("fit", settings, "batch")
        begin, unit = self._begin(draws)
        points, weights = self._flat_points, self.weights.to(self.points)

        def objective(net: Heights, x: Pair, **_: Any) -> Tensor:
            flat = x.x1.reshape(len(x.x1), -1)
            cell = _best(flat, points, unit * net.values.detach(), 1)[:, 0]
            # Beside h_i only <x, y_i> is left, on which no gradient depends.
            return (flat * points[cell]).sum(1).mean() / unit + net.values[cell].mean() - (weights * net.values).sum()

        defaults = {"optimizer": partial(torch.optim.Adam, lr=rate, betas=(0.9, 0.99)), "rate": Cosine(steps, min(steps // 20, 20)), "average": Average(0.95),
                    "project": _centred, "seed": draws}
        descent = Descent(objective, _Drawn(self), batch, **(defaults | settings))
        with raising_interrupts():
            end = evolve(descent, descent.init(Heights(begin / unit)), steps, watch=watch, donate=True)
        fitted = copy.copy(self)
        fitted._heights = unit * end.averaged.values.detach()
        fitted._heights -= fitted._heights.mean()
        fitted._look(draws.child("look"))
        return fitted

    @property
    def heights(self) -> Float[Tensor, " n"]:
        """h, of mean 0."""
        return self._fitted()

    @property
    def residual(self) -> float:
        """Half of sum |P(T = y_i) - nu_i| after the fit, on 50 fresh draws a point: about 0.4 / sqrt(50) of it is those draws' own noise."""
        self._fitted()
        return 0.5 * float((self._shares - self.weights).abs().sum())

    def cells(self, x: Float[Tensor, "rows *event"]) -> Int64[Tensor, " rows"]:
        """The number of the point that each row of x goes to."""
        return self._two(x, 1)[:, 0]

    def map(self, x: Float[Tensor, "rows *event"]) -> Float[Tensor, "rows *event"]:
        """T(x): the point that each row of x goes to."""
        return self.points[self.cells(x)]

    def continued(self, x: Float[Tensor, "rows *event"]) -> Continued:
        """T continued between the two best cells, and which rows are not at a singularity. ValueError without `angle`."""
        if self.angle is None:
            raise ValueError("angle was not given: without it the map is not continued between cells, use map")
        cell = self._two(x, 2)
        low, high = self._angles
        kept = self._between(cell) <= low + self.angle * (high - low)
        # A distance to a cell nobody fell into is infinite; where both are such cells, the best one alone is left.
        near = 1 / (x.reshape(len(x), 1, -1) - self._centres[cell]).norm(dim=2).clamp_min(torch.finfo(x.dtype).tiny)
        near = torch.where(near.sum(1, keepdim=True) > 0, near, torch.tensor([1.0, 0.0]).to(near))
        share = (near / near.sum(1, keepdim=True)).reshape(len(x), 2, *(1,) * (x.ndim - 1))
        return Continued((share * self.points[cell]).sum(1), kept)

    def shares(self, n: int | None = None, *, seed: int | Draws = 0) -> Float[Tensor, " n"]:
        """The share of `n` draws of the source that goes to each point, float64; 50 draws a point unless told otherwise."""
        n = PER_POINT * len(self.points) if n is None else checks.integer("n", n, least=1)
        return torch.bincount(self.cells(self._source(n, Draws.of(seed), 0)), minlength=len(self.points)).double() / n

    def sample(self, n: int, *, seed: int | Draws = 0, step: int = 0) -> Pair:
        """Minibatch `step` of `n` pairs: x0 from the source, x1 = T(x0) or, with `angle`, the map continued at x0 that are not rejected."""
        draws = Draws.of(seed)
        self._fitted()
        x0 = self._source(n, draws, step)
        if self.angle is None:
            cell = self.cells(x0)
            return Pair(self.points[cell], x0, rows_of(self.cond, cell))
        made = self.continued(x0)
        x1, missing = made.y, (~made.kept).nonzero()[:, 0]
        for k in range(ROUNDS):
            if not len(missing):
                return Pair(x1, x0, rows_of(self.cond, self.cells(x0)))
            # A row's own number in each round: what it becomes does not depend on the others.
            again = self._source(n, draws.child(f"again {k}"), step)[missing]
            made = self.continued(again)
            x0, x1 = (old.index_copy(0, missing[made.kept], new[made.kept]) for old, new in ((x0, again), (x1, made.y)))
            missing = missing[~made.kept]
        raise ValueError(f"angle = {self.angle:g} rejects nearly all draws: {len(missing)} of {n} were rejected {ROUNDS} times; raise it")

    def cost(self, p: float = 2.0, *, n: int = 10_000, seed: int | Draws = 0) -> float:
        """E |x1 - x0|^p, by `n` pairs."""
        pair = self.sample(checks.integer("n", n, least=1), seed=seed)
        return mean_cost(pair.x0, pair.x1, p)

    def save(self, file: str | FilePath) -> FilePath:
        """Write the map, its points, weights and conditions, but not the source, as one safetensors file, in one move."""
        cond = {f"cond.{name}": value for name, value in self.cond.items()} if isinstance(self.cond, dict) else {} if self.cond is None else {"cond": self.cond}
        tensors = {"heights": self._fitted(), "points": self.points, "weights": self.weights, "shares": self._shares, "centres": self._centres,
                   "angles": torch.tensor(self._angles, dtype=torch.float64)}
        return save_tensors(file, tensors | cond, {"rheos": FILE, "angle": repr(self.angle)})

    @classmethod
    def load(cls, file: str | FilePath, source: Any = None, *, device: torch.device | str = "cpu") -> SemiDiscrete:
        """The fitted map that `save` wrote, with the source it was fitted to, which the file does not hold.

        FileNotFoundError if it is not there, ValueError if it is another file or `source` has other events.
        """
        tensors, about = load_tensors(file)
        if about.get("rheos") != FILE or not {"heights", "points", "weights", "shares", "centres", "angles"} <= set(tensors):
            raise ValueError(f"{file} does not hold a semi-discrete map")
        tensors = {name: value.to(device) for name, value in tensors.items()}
        named = {name.removeprefix("cond."): value for name, value in tensors.items() if name.startswith("cond.")}
        angle = None if about["angle"] == "None" else float(about["angle"])
        made = cls(source, tensors["points"], tensors["weights"], cond=tensors.get("cond", named or None), angle=angle)
        made._heights, made._shares, made._centres = (tensors[name] for name in ("heights", "shares", "centres"))
        made._angles = tuple(tensors["angles"].tolist())
        return made

    @classmethod
    def examples(cls) -> list[SemiDiscrete]:
        """Noise to uneven points with conditions; rows to points; and a law, continued between cells."""
        from rheos.data import skewed, two_moons

        points = skewed().sample(24, seed=3)
        weights = torch.linspace(1, 3, 24, dtype=torch.float64)
        cond = {"row": torch.arange(24), "place": points[:, :1]}
        quick = {"steps": 20, "batch": 128}
        return [cls(None, points, weights / weights.sum(), cond=cond).fit(**quick),
                cls(1.5 * two_moons().sample(84, seed=4).float() - 2, points.float()).fit(**quick),
                cls(two_moons(), points, angle=0.7).fit(**quick)]

    @property
    def _flat_points(self) -> Tensor:
        """Points as rows, centred: <x, c> is the same for all of them."""
        flat = self.points.reshape(len(self.points), -1)
        return flat - flat.mean(0)

    def _fitted(self) -> Tensor:
        if self._heights is None:
            raise ValueError("this map is not fitted yet: use what fit() gives, fitted = SemiDiscrete(source, points).fit()")
        return self._heights

    def _two(self, x: Tensor, count: int) -> Tensor:
        """The best `count` cells of each row of x, (rows, count)."""
        heights = self._fitted()
        if checked_precision("x", x).shape[1:] != self.points.shape[1:]:
            raise ValueError(f"x must hold events of shape {tuple(self.points.shape[1:])}, got {tuple(x.shape[1:])}")
        return _best(checks.finite("x", x).reshape(len(x), -1), self._flat_points.to(x.dtype), heights.to(x.dtype), count)

    def _source(self, n: int, draws: Draws, step: int) -> Tensor:
        if self.source is None:
            return draws.rows("source noise", step, (n, *self.points.shape[1:]), device=self.points.device, dtype=self.points.dtype)
        return Independent(self.source).sample(n, seed=draws, step=step).x1

    def _begin(self, draws: Draws) -> tuple[Tensor, float]:
        """Heights to begin with, and their unit: the spread of <x, y>.

        From x to y = c + s x the potential is u(x) = s |x|^2 / 2, whose conjugate |y - c|^2 / (2 s) is -h; s is the ratio of the two laws' scales.
        Where the source is not centred, <x, y> is more by <m, y>, which -h takes up too.
        """
        x, y = self._source(4096, draws.child("scale"), 0).reshape(4096, -1), self._flat_points
        mean = x.mean(0)
        wide, far = (x - mean).square().sum(1).mean().sqrt(), y.square().sum(1).mean().sqrt()
        if not float(far) > 0 or not float(wide) > 0:
            raise ValueError("source and points must not stand still in one place")
        unit = float(wide * far) / math.sqrt(y.shape[1])
        if self._heights is not None:
            return self._heights, unit
        return -0.5 * y.square().sum(1) * wide / far - y @ mean, unit

    def _look(self, draws: Draws) -> None:
        """Shares, cells' centres and the range of angles between best cells, measured on fresh draws."""
        n = PER_POINT * len(self.points)
        x = self._source(n, draws, 0)
        cell = self._two(x, 2)
        flat, counts = x.reshape(n, -1), torch.bincount(cell[:, 0], minlength=len(self.points))
        self._shares = counts.double() / n
        sums = torch.zeros_like(self._flat_points).index_add_(0, cell[:, 0], flat)
        # A cell that nobody fell into lies infinitely far from all: nothing is continued towards it.
        self._centres = torch.where((counts > 0)[:, None], sums / counts[:, None], math.inf)
        angles = self._between(cell)
        self._angles = float(angles.min()), float(angles.max())

    def _between(self, cell: Tensor) -> Tensor:
        """The angle between (y_i, -1) and (y_j, -1) for rows of two cells, (rows,)."""
        flat = self.points.reshape(len(self.points), -1)
        one, other = flat[cell[:, 0]], flat[cell[:, 1]]
        lengths = (one.square().sum(1) + 1) * (other.square().sum(1) + 1)
        return torch.arccos((((one * other).sum(1) + 1) / lengths.sqrt()).clamp(-1, 1))


class _Drawn:
    """Minibatches of a map's source alone."""

    def __init__(self, plan: SemiDiscrete):
        self.plan = plan

    def sample(self, n: int, *, seed: int | Draws = 0, step: int = 0) -> Pair:
        return Pair(self.plan._source(n, Draws.of(seed), step))


def _best(x: Tensor, points: Tensor, heights: Tensor, count: int) -> Tensor:
    """The `count` points i of largest <x, y_i> + h_i, best first, (rows, count), some rows at a time."""
    parts = []
    for rows in x.split(max(1, NUMBERS // len(points))):
        value = torch.addmm(heights, rows, points.T)
        parts.append(value.argmax(1, keepdim=True) if count == 1 else value.topk(count, 1).indices)
    return torch.cat(parts)
