"""Tables made for one field: the times are searched, and the numbers of every row are fitted to where the flow really goes.

Step i goes to x_{i+1} = a x_i + sum_j w_j p_{i-j}, p_0 .. p_i all predictions so far; a and w are the least-squares solution for the points of
some starts' exact trajectories at t_{i+1}, from the points and predictions that these very steps have led to. So every step mends what
the ones before it did wrong, no gradient goes through the network, and fitting costs what sampling costs. The family of tables is that of
bespoke non-stationary solvers (Shaul et al., 2024, arXiv:2403.01329), which find them by gradient descent.
"""
from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from rheos.core import Draws, Example, NonFinite, Watcher, checks, evolve
from rheos.paths import Field, Times
from rheos.paths.asking import evaluating
from rheos.samplers.defaults import default_rule
from rheos.samplers.exponential import Exponential
from rheos.samplers.multistep import Multistep
from rheos.samplers.ordinary import AdamsBashforth
from rheos.samplers.tables import Row, Rule, Table

__all__ = ["WORST", "TableSearch", "TableSearchState", "fine_times", "trajectory"]

POWERS = (0.7, 1.0, 1.4, 1.8, 2.4, 3.0)      # of the even share of the fine steps, with which the search begins
WORST = torch.finfo(torch.float64).max        # a state is finite, so what stands for no score is too
KEPT, PARENTS = 32, 4                        # so many of the best times are remembered, and one of so many is changed
REACH = 0.35                                 # of the gap between its neighbours, within which a time is moved
RIDGE = 1e-9                                 # of the normal equations' diagonal: predictions of neighbouring times are nearly parallel


def trajectory(field: Field, start: Float[Tensor, "rows *event"], times: Times, cond: Any = None, *, rule: Rule | None = None,
               watch: Iterable[Watcher] = ()) -> Float[Tensor, "times rows *event"]:
    """Where the flow carries `start`, at every one of `times`; by default by a rule of order 3, in as many steps."""
    rule = _exact(field) if rule is None else rule
    points = [start]
    run = Multistep(field, rule.plan(times), cond)
    if run.table.nfe != times.steps:
        raise ValueError(f"rule must make one field call a step to show every point, {type(rule).__name__} makes {run.table.nfe} in {times.steps}")
    with torch.no_grad(), evaluating(getattr(field, "net", None)):
        evolve(run, run.init(start), times.steps, watch=[lambda step, state: points.append(state.x), *watch], donate=True)
    return torch.stack(points)


def _exact(field: Field) -> Rule:
    """The default rule's kind, of order 3."""
    rule = default_rule(field)
    if isinstance(rule, Exponential):
        return replace(rule, order=3, corrector=3)
    return AdamsBashforth(3)


def fine_times(field: Field, steps: int) -> Times:
    """About `steps` times: half of them even in t, half in the default spacing of the path's own rule."""
    rule = _exact(field)
    even = rule.times(field.path, (steps + 1) // 2).t
    both = torch.cat([even, torch.linspace(float(even[0]), float(even[-1]), steps // 2 + 1, dtype=torch.float64)]).sort().values
    apart = torch.cat([both[:1], both[1:][both.diff() > 0.1 / steps]])
    return Times(field.path, torch.cat([apart[:-1], both[-1:]]))


@dataclass
class TableSearchState:
    """The best times so far, as places among the fine ones (kept, calls + 1), and their scores (kept,), the best first; what is not there yet scores
    `WORST`. tried: sets of times scored; step: candidates looked at, those met before included."""

    places: Int64[Tensor, "kept points"]
    scores: Float[Tensor, " kept"]
    tried: int = 0
    step: int = 0


@dataclass(frozen=True, eq=False)
class TableSearch:
    """A search for the times of a fitted table; a step tries one set of them.

    field: what is sampled. times: the fine times, among which the table's are chosen. points: the exact trajectories at them (times, rows,
    *event). calls: rows of the table. fit: rows of `points` that the numbers are fitted to; the others choose between times. cond: of all rows.
    kind: of the table's predictions. seed: of the search.
    """

    field: Field
    times: Times
    points: Tensor
    calls: int
    fit: int
    cond: Any = None
    kind: str = "velocity"
    seed: int | Draws = 0

    def __post_init__(self):
        checks.integer("calls", self.calls, least=1)
        checks.one_of("kind", self.kind, ("velocity", "data", "noise", "score"))
        if len(self.points) != len(self.times):
            raise ValueError(f"points must have one entry a time, {len(self.times)}, got {len(self.points)}")
        if self.calls > self.times.steps:
            raise ValueError(f"calls must be at most the {self.times.steps} fine steps that are searched, got {self.calls}")
        rows = self.points.shape[1]
        if not 1 <= checks.integer("fit", self.fit) < rows:
            raise ValueError(f"fit must leave some of the {rows} rows to choose by, got {self.fit}")

    def init(self) -> TableSearchState:
        """Nothing tried yet."""
        return TableSearchState(torch.full((KEPT, self.calls + 1), -1), torch.full((KEPT,), WORST, dtype=torch.float64))

    def step(self, state: TableSearchState) -> TableSearchState:
        place = self._begun(state.step) if state.step < len(POWERS) else self._moved(state)
        if place is None or bool((state.places == place).all(1).any()):
            return replace(state, step=state.step + 1)
        places, scores = torch.cat([state.places, place[None]]), torch.cat([state.scores, torch.tensor([self.score(place)], dtype=torch.float64)])
        order = scores.argsort(stable=True)[:KEPT]
        return TableSearchState(places[order], scores[order], state.tried + 1, state.step + 1)

    def score(self, place: Tensor) -> float:
        """The median over the choosing rows of each one's root mean square distance to its exact end; `WORST` for tables that blow up."""
        try:
            found = float(self.distances(self.fitted(place)[1])[self.fit :].median())
        except (NonFinite, torch.linalg.LinAlgError):
            return WORST
        return found if math.isfinite(found) else WORST

    def distances(self, x: Tensor) -> Float[Tensor, " rows"]:
        """Each row's root mean square distance to its exact end."""
        return (x - self.points[-1]).flatten(1).double().square().mean(1).sqrt()

    def fitted(self, place: Tensor) -> tuple[Table, Tensor]:
        """The table on these times, its numbers fitted to the first `fit` rows, and where it carries all rows."""
        times, rows = Times(self.field.path, self.times.t[place]), []
        x, predictions = self.points[0], []
        for i in range(self.calls):
            answer = self.field(x, float(times.t[i]), self.cond, at=times.each[i])
            predictions.insert(0, answer.of(self.kind))
            seen = [x, *predictions]
            numbers = _least_squares([v[: self.fit] for v in seen], self.points[place[i + 1], : self.fit])
            if not all(map(math.isfinite, numbers)):
                raise NonFinite(i, "fitted numbers of a row", "not finite", good=False)
            rows.append(Row((numbers[0],), tuple(numbers[1:])))
            x = sum((value * number for value, number in zip(seen[1:], numbers[1:], strict=True)), x * numbers[0])
        return Table(times, self.kind, tuple(rows), origin={"rule": "tuned", "calls": self.calls}), x

    def _begun(self, number: int) -> Tensor | None:
        last, share = self.times.steps, torch.linspace(0, 1, self.calls + 1, dtype=torch.float64)
        place = (last * share ** POWERS[number]).round().long()
        for i in range(1, self.calls + 1):        # steps too short for the fine times are moved on
            place[i] = max(int(place[i]), int(place[i - 1]) + 1)
        return place if int(place[-1]) == last else None

    def _moved(self, state: TableSearchState) -> Tensor | None:
        """One of the best times with up to half of the inner ones moved."""
        known = int((state.scores < WORST).sum())
        if self.calls == 1 or not known:
            return None
        u = Draws.of(self.seed).uniform("table search", state.step, (self.calls + 1, 2), dtype=torch.float64)
        place = state.places[int(u[0, 0] * min(PARENTS, known))].clone()
        count = 1 + int(u[0, 1] * max(1, self.calls // 2))
        for i in (u[1:-1, 0].argsort()[:count] + 1 if self.calls > 2 else torch.tensor([1])).tolist():
            reach = max(1, round(REACH * int(place[i + 1] - place[i - 1])))
            place[i] += int(u[i, 1] * (2 * reach + 1)) - reach
        inner = place[1:-1].clamp(1, self.times.steps - 1).unique()
        return None if len(inner) != self.calls - 1 else torch.cat([place[:1], inner, place[-1:]])

    @classmethod
    def examples(cls) -> list[Example]:
        from rheos.data import GaussianMixture
        from rheos.paths import ExactField, Path

        target = GaussianMixture(torch.tensor([0.3, 0.7]).double(), torch.tensor([[-1.0, 0.5], [1.5, 2.0]]).double(), torch.tensor([0.2, 0.5]).double())
        exact = ExactField(Path.vp(), target)
        times = fine_times(exact, 24)
        start = exact.path.prior((12, 2), seed=1, dtype=torch.float64)
        search = cls(exact, times, trajectory(exact, start, times), 3, 8)
        return [Example(search, search.init(), 9, None)]


def _least_squares(seen: list[Tensor], wanted: Tensor) -> list[float]:
    """The numbers whose sum of `seen` comes nearest to `wanted`."""
    columns = torch.stack([v.flatten().double() for v in seen])
    square = columns @ columns.T
    square += RIDGE * torch.diag(square.diagonal() + 1e-6 * square.diagonal().mean())       # the latter for predictions that are all 0
    # By elimination: LAPACK's least squares of torch differ in the last digits from call to call.
    return torch.linalg.solve(square, columns @ wanted.flatten().double()).tolist()
