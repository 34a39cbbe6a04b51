r"""Searched solvers: every step with its own time, order, kind, polynomial and corrector, found by evolution.

Paper: Liu et al., A unified sampling framework for solver searching of diffusion probabilistic models, 2023, arXiv:2312.07243.

A schedule is a list of decisions, planned into one table. At each step a polynomial through the newest predictions is integrated:
  kind data or noise: as in `Exponential`;  kind ems: the g of `EMS`, where statistics are given.
Its higher terms may be relaxed, p(u) <- p(u_i) + (1 + relax) (p(u) - p(u_i)), and each of them read off no more predictions than it needs ("plain").
Predictions are stored once and read as the kind that a step asks for. A first step without a call ("free start"), which takes the data as 0, is a
start at a later time: x_t = (sigma_t / sigma_s) x_s, so that a schedule's times may begin late; see `begun`.
Ours: the polynomial's clock is a decision too. Left out: the paper's learned predictor of scores, without which the search meets its budget.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rheos.core import Draws, NonFinite, checks
from rheos.guidance import classifier_free
from rheos.paths import LAM, QUADRATIC, SQRT_U, Clock, Field, Path, T, Times, U
from rheos.paths.asking import spread
from rheos.samplers.combinations import Combination, History
from rheos.samplers.compensation import exact_points
from rheos.samplers.exponential import Exponential, default_times
from rheos.samplers.model_statistics import ModelStatistics, weighed
from rheos.samplers.sampling import sample
from rheos.samplers.tables import Table

__all__ = ["Decision", "Mixed", "begun", "search_schedule", "uniform_schedules"]

KINDS = ("data", "noise", "ems")
MOST = 4                        # order of a step, from the paper's lists
RELAX = 0.15                    # standard deviation of the change of a relaxation; half of the changes set it to 0
CROSSED, CHANGED = 0.3, 0.3     # chances of a crossover and of a change of each decision, the paper's
PARENTS = 15                    # of the best so far, from which children are made
JITTER = (0.03, 0.15)           # of a step: standard deviations of the moves of times, drawn between the two
CLOCKS = (LAM, U, SQRT_U, T)    # of polynomials
LATEST = 0.3                    # of the first step: how much later a free start may begin


@dataclass(frozen=True)
class Decision:
    """What one step does.

    kind: "data", "noise" or "ems". order: predictions of the polynomial, 1 to 4, fewer where there are not so many. clock: its variable. corrector: how
    many earlier predictions mend the step's end; 0 for none. relax: by how much more, or less, the terms beyond the constant count. plain: whether
    each term is read off the fewest predictions.
    """

    kind: str = "data"
    order: int = 2
    clock: Clock = LAM
    corrector: int = 0
    relax: float = 0.0
    plain: bool = False

    def __post_init__(self):
        checks.one_of("kind", self.kind, KINDS)
        if checks.integer("order", self.order, least=1) > MOST or checks.integer("corrector", self.corrector, least=0) > MOST:
            raise ValueError(f"order and corrector must be at most {MOST}, got {self.order} and {self.corrector}")
        checks.between("relax", self.relax, -1.0, 1.0)
        checks.flag("plain", self.plain)
        if not isinstance(self.clock, Clock):
            raise TypeError(f"clock must be a Clock such as LAM, got {self.clock!r}")

    def to_json(self) -> dict:
        return {"kind": self.kind, "order": self.order, "clock": self.clock.name, "corrector": self.corrector, "relax": self.relax, "plain": self.plain}


@dataclass(frozen=True)
class Mixed:
    """A rule whose steps differ.

    decisions: one a step; a run of another number of steps takes them in the same proportions. t: its times, one more than decisions; None for the
    default spacing. statistics: of the field, needed by steps of the kind "ems".

    >>> Mixed((Decision("data", 1), Decision("noise", 2), Decision("data", 3, corrector=2))).order
    1
    """

    decisions: tuple[Decision, ...]
    t: tuple[float, ...] | None = None
    statistics: ModelStatistics | None = None
    calls_per_step: ClassVar[int] = 1

    def __post_init__(self):
        object.__setattr__(self, "decisions", tuple(self.decisions))
        if not self.decisions or not all(isinstance(d, Decision) for d in self.decisions):
            raise TypeError(f"decisions must hold Decisions, one a step, got {self.decisions!r}")
        if self.t is not None:
            object.__setattr__(self, "t", tuple(float(v) for v in self.t))
            if len(self.t) != len(self.decisions) + 1:
                raise ValueError(f"t must have one entry more than the {len(self.decisions)} decisions, got {len(self.t)}")
            checks.monotone("t", torch.tensor(self.t, dtype=torch.float64))
        if self.statistics is None and any(d.kind == "ems" for d in self.decisions):
            raise ValueError("statistics must be given for steps of the kind ems: measure them with model_statistics(field, data)")

    @property
    def order(self) -> int:
        """The least of its steps, 1 where one is relaxed."""
        return min(1 if d.relax else d.order for d in self.decisions)

    @classmethod
    def examples(cls) -> list[Mixed]:
        wide = ModelStatistics.gaussian(torch.tensor(0.2), torch.tensor(0.5), -9.5, 9.5)
        return [cls((Decision("data", 2, U), Decision("noise", 2, corrector=2), Decision("data", 3, plain=True))),
                cls((Decision("ems", 2, U, 2), Decision("data", 2, LAM, 1)), statistics=wide),
                cls((Decision("data", 2, relax=0.1), Decision("data", 2)))]

    def times(self, path: Path, steps: int) -> Times:
        """Its own times, those between by interpolation; without any, equal steps in sqrt(u)."""
        if self.t is None:
            return default_times(path, steps)
        share = np.linspace(0, len(self.decisions), checks.integer("steps", steps, least=1) + 1)
        return Times(path, np.interp(share, np.arange(len(self.t)), self.t).tolist())

    def plan(self, times: Times) -> Table:
        """One table of kind "data". Orders and correctors are cut to what there is; ValueError for a noise kind that must begin without data."""
        if times.path.two_sided:
            raise ValueError("Mixed needs a one-sided path, got a two-sided one; use Euler, RungeKutta or EulerMaruyama")
        steps = times.steps
        chosen = [self.decisions[i * len(self.decisions) // steps] for i in range(steps)]
        seen, readings = History("data", times), {d.clock: d.clock.value(times.path, times.t).numpy() for d in chosen}
        for i, decision in enumerate(chosen):
            reading = readings[decision.clock]
            # A polynomial runs through points at which its clock can be read.
            usable = [k for k in range(i, -1, -1) if math.isfinite(reading[k])] if math.isfinite(reading[i + 1]) else []
            step = lambda nodes, i=i, decision=decision, reading=reading: self._stepped(decision, seen, times, i, nodes, reading)
            nodes = (usable if usable[:1] == [i] else [i])[: decision.order]
            mend = None
            if decision.corrector and i + 1 < steps and usable[:1] == [i]:
                mend = lambda step=step, nodes=[i + 1, *usable[: decision.corrector]]: step(nodes)
            seen.add(step(nodes), mend)
        return seen.table(times, rule="Mixed", decisions=[d.to_json() for d in chosen])

    def _stepped(self, decision: Decision, seen: History, times: Times, i: int, nodes: list[int], reading: np.ndarray) -> Combination:
        share = lambda weights: _relaxed(weights, reading[nodes], decision)
        if decision.kind == "ems":
            return weighed(self.statistics, seen, times, i, nodes, reading, decision.clock, share)
        rule = Exponential(len(nodes), decision.kind, decision.clock)
        row = rule._row(times, np.where(np.isfinite(reading), reading, 0.0), i, nodes)
        told = seen.data if decision.kind == "data" else seen.noise
        moved = zip(share(np.array(row.w)), nodes, strict=True)
        return sum((float(w) * told(k) for w, k in moved), row.a[0] * Combination.point(i))


def _relaxed(weights: np.ndarray, at: np.ndarray, decision: Decision) -> np.ndarray:
    """The weights (nodes, ...) of a polynomial through predictions at `at`, its own terms relaxed and, if plain, read off the fewest of them.

    The polynomial through all nodes integrates (u - u_0)^m exactly, so its weights tell these integrals. Around the newest node.
    """
    if len(at) == 1 or not (decision.relax or decision.plain):
        return weights
    away = at - at[0]
    if decision.plain:
        integrals = [np.tensordot(away**m, weights, 1) for m in range(len(at))]
        weights = np.zeros_like(weights)
        for m, integral in enumerate(integrals):
            for j in range(m + 1):      # the m-th divided difference of the newest m + 1
                weights[j] += integral / math.prod(at[j] - at[k] for k in range(m + 1) if k != j)
    moved = (1 + decision.relax) * weights
    moved[0] -= decision.relax * weights.sum(0)
    return moved


def begun(table: Table, start: Tensor, at: float) -> Tensor:
    """`start`, drawn at time `at` of the table's path, as it is where the table begins: scaled by what is left of the noise, the data taken as 0."""
    sigma = lambda t: float(table.times.path.coefficients(t).c)
    first = float(table.times.t[0])
    return start if first == at else start * (sigma(first) / sigma(at))


def uniform_schedules(path: Path, steps: int, *, ems: ModelStatistics | None = None, clocks: Sequence[Clock] = (LAM, U),
                      span: tuple[float, float] | None = None) -> list[Mixed]:
    """Schedules whose steps are all alike: four spacings x orders 1 to 3 x kinds x corrector or none x clocks, those that can be planned on this path."""
    start, end = path.interval if span is None else span
    made = []
    for spacing in (T, LAM, SQRT_U, QUADRATIC):
        try:
            t = tuple(Times.uniform(path, steps, spacing, start=start, end=end).t.tolist())
        except ValueError:
            continue
        for kind in KINDS if ems is not None else KINDS[:2]:
            for order in (2, 3, 1):
                for corrector in (order, 0):
                    for clock in clocks:
                        # Order 1 without a corrector has no polynomial.
                        if order > 1 or corrector or clock == clocks[0]:
                            made.append(Mixed(tuple(Decision(kind, min(order, steps - i), clock, corrector) for i in range(steps)), t, ems))
    return [one for one in made if _plannable(one, path)]


def _plannable(schedule: Mixed, path: Path) -> bool:
    try:
        schedule.plan(schedule.times(path, len(schedule.decisions)))
    except ValueError:
        return False
    return True


def search_schedule(field: Field, start: Float[Tensor, "rows *event"], steps: int, budget: int = 400, *, cond: Any = None, guidance: float | None = None,
                    score: Callable[[Table], float] | None = None, reference: Float[Tensor, "ends *shape"] | None = None,
                    statistics: ModelStatistics | None = None, begin: Iterable[Mixed] = (), span: tuple[float, float] | None = None,
                    clocks: Sequence[Clock] = CLOCKS, free_start: bool = False, seed: int | Draws = 0) -> Mixed:
    """The schedule of `steps` calls with the least score among `budget` that are tried: uniform ones first, then children of the best 15.

    start: starts (rows, *event) at the beginning of `span`, by default the path's interval. cond, guidance: what will be sampled with. score:
    table -> number, the less the better; by default the geometric mean over starts of each one's root mean square distance to `reference`, the
    exact ends (solved for if not given): as little ruled by the few that end in another class as the median, and less by the few in the middle.
    statistics: allow the kind "ems". clocks: of polynomials, the paper has lam alone. begin: schedules to try first. free_start: whether times may
    begin late, see `begun`.
    Score on other starts than those that judge. Tables that blow up score infinity. ValueError for a budget or a number of steps below 1.

    >>> from rheos.data import skewed
    >>> from rheos.paths import ExactField
    >>> field = ExactField(Path.vp(), skewed())
    >>> best = search_schedule(field, field.path.prior((8, 2), seed=1), 3, budget=20)
    >>> len(best.decisions)
    3
    """
    if not isinstance(field, Field):
        raise TypeError(f"field must be a Field, got {type(field).__name__}; wrap a network as Field(net, path, predicts)")
    steps, budget = checks.integer("steps", steps, least=1), checks.integer("budget", budget, least=1)
    path, draws = field.path, Draws.of(seed)
    checks.finite("start", checks.tensor("start", start, floating=True))
    if not len(start):
        raise ValueError("start must hold at least one row, got 0")
    span = path.interval if span is None else span
    if statistics is not None and not isinstance(statistics, ModelStatistics):
        raise TypeError(f"statistics must be ModelStatistics, got {type(statistics).__name__}")
    if score is None:
        cond = spread(cond, len(start), start.device)
        field = field if guidance is None else classifier_free(field, guidance)
        if reference is None:
            fine = default_times(path, 12, *span)
            reference = exact_points(field, start, fine, cond, substeps=10)[-1]
        checks.shape_of("reference", reference, start.shape)
        score = lambda table: float((sample(field, start=begun(table, start, span[0]), rule=table, cond=cond) - reference)
                                    .flatten(1).double().square().mean(1).log().mean().mul(0.5).exp())
    tried: dict[Mixed, float] = {}

    def judged(schedule: Mixed) -> None:
        if schedule not in tried and len(tried) < budget:
            try:
                value = float(score(schedule.plan(schedule.times(path, steps))))
            except (ValueError, ArithmeticError, NonFinite):
                value = math.inf
            tried[schedule] = value if value == value else math.inf

    begin = list(begin)
    for one in begin:
        if len(one.decisions) != steps:
            raise ValueError(f"begin must hold schedules of {steps} steps, got one of {len(one.decisions)}")
        judged(one)
    clocks = tuple(clocks)
    if not clocks or not all(isinstance(c, Clock) for c in clocks):
        raise TypeError(f"clocks must hold Clocks such as LAM, got {clocks!r}")
    plain = uniform_schedules(path, steps, ems=statistics, clocks=clocks[:2], span=span)
    if not plain and not begin:
        raise ValueError("no uniform schedule can be planned between these times; give schedules to begin with")
    # At most half of the budget on schedules whose steps are alike, and then each of all of them with the same chance.
    for k in draws.permutation("uniform schedules", 0, len(plain)).tolist()[: max(1, budget // 2)] if plain else []:
        judged(plain[k])
    rounds = 0
    while len(tried) < budget and rounds < 20 * budget:
        best = sorted(tried, key=tried.get)[:PARENTS]
        judged(_child(best, path, span, draws.child(rounds), KINDS if statistics is not None else KINDS[:2], clocks, free_start))
        rounds += 1
    best = min(tried, key=tried.get)
    if tried[best] == math.inf:
        raise ValueError(f"score gave no finite number for any of the {len(tried)} schedules that were tried")
    return best


def _child(best: list[Mixed], path: Path, span: tuple[float, float], draws: Draws, kinds: tuple[str, ...], clocks: tuple[Clock, ...],
           free_start: bool) -> Mixed:
    """One of the best, perhaps crossed with another, with some decisions changed and its times moved."""
    steps = len(best[0].decisions)
    u = draws.uniform("child", 0, (steps + 2, 12), dtype=torch.float64).numpy()
    # The better ones have more children.
    pick = lambda v: best[int(v * v * len(best))]
    parent, other = pick(u[0, 0]), pick(u[0, 1])
    moves, normal = draws.rows("moves", 0, (2, steps + 1), dtype=torch.float64).numpy()
    decisions, t = list(parent.decisions), np.array(parent.t if parent.t is not None else parent.times(path, steps).t)
    if u[0, 2] < CROSSED:
        cut = int(u[0, 3] * steps)
        decisions = decisions[:cut] + list(other.decisions[cut:])
        t = t if u[0, 4] < 0.5 else np.array(other.t if other.t is not None else other.times(path, steps).t)
    rate = CHANGED * (0.3 if u[0, 5] < 0.5 else 1.0)       # half of the children stay near
    among = lambda options, v: options[int(v * len(options))]
    for i in range(steps):
        v, d = u[i + 1], decisions[i]
        if v[0] < rate:
            d = replace(d, order=among(range(1, MOST + 1), v[1]))
        if v[2] < rate:
            d = replace(d, kind=among(kinds, v[3]))
        if v[4] < rate:
            d = replace(d, corrector=among(range(MOST), v[5]))
        if v[6] < rate:
            d = replace(d, clock=among(clocks, v[7]))
        if v[8] < rate:
            d = replace(d, relax=0.0 if v[9] < 0.5 else float(np.clip(d.relax + RELAX * normal[i], -1.0, 1.0)))
        if v[10] < 0.5 * rate:
            d = replace(d, plain=not d.plain)
        decisions[i] = d
    if u[0, 6] < 0.8:
        # In sqrt(u), which is finite at both ends of every path.
        place = SQRT_U.value(path, torch.from_numpy(t)).numpy()
        size = JITTER[0] + (JITTER[1] - JITTER[0]) * u[0, 7]
        gaps = np.abs(np.diff(place))
        chosen = u[:, 11][: steps + 1] < (0.4 if u[0, 8] < 0.5 else 1.0)
        inner = place.copy()
        inner[1:-1] += (size * np.minimum(gaps[1:], gaps[:-1]) * moves[1:-1]) * chosen[1:-1]
        moved = np.sort(SQRT_U.time(path, torch.from_numpy(inner[1:-1])).clamp(*sorted(span)).numpy())
        first = span[0] + (LATEST * abs(moves[0]) * (moved[0] - span[0]) if free_start and steps > 1 and u[0, 9] < 0.5 else t[0] - span[0])
        new = np.concatenate([[first], moved if t[0] < t[-1] else moved[::-1], [t[-1]]])
        if (np.diff(new) * (t[-1] - t[0]) > 1e-9).all():
            t = new
    return Mixed(tuple(decisions), tuple(t.tolist()), best[0].statistics)
