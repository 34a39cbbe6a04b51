r"""Dynamic compensation: the newest stored prediction is replaced by what the newest few say of a time a little earlier or later.

Paper: Zhao et al., DC-Solver: improving predictor-corrector diffusion sampler via dynamic compensation, 2024, arXiv:2409.03755.

A corrector mends the point, but the prediction that is kept was made at the unmended one. Before step i the kept prediction becomes
  p_i <- sum_j l_j(t'_i) p_{i-j},   t'_i = t_{i-1} + r_i (t_i - t_{i-1}),
l_j the Lagrange basis through the newest 3 times; r_i = 1 changes nothing, and the first two steps have no other. What was replaced stays so for
the steps to come. All this is linear, so it is an edit of the table. The ratios are searched step by step on a few starts, such that each
point, mended if the rule mends it, comes closest to the exact one. Ours: a search over the whole range in three rounds, batched, where the
paper follows a gradient from 1; so a ratio is never worse than 1 for its own step on these starts.
"""
from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from rheos.core import NonFinite, checks
from rheos.guidance import classifier_free
from rheos.paths import Field, Path, Times, U
from rheos.paths.asking import evaluating, spread
from rheos.samplers.combinations import Combination
from rheos.samplers.exponential import Exponential, UniPC
from rheos.samplers.multistep import combined, mended
from rheos.samplers.sampling import sample
from rheos.samplers.tables import Number, Row, Rule, Table

__all__ = ["Compensated", "CompensationRegression", "compensated", "exact_points", "fit_compensation"]

NODES = 3                   # predictions that the replaced one is read off, K + 1 of the paper
LOWEST, HIGHEST = -1.0, 5.0  # ratios; the last step's is often far from 1
COARSE, FINE, ROUNDS = 25, 9, 3
SUBSTEPS = 40               # of the reference, an interval
STRENGTH, CALLS = 12.0, 50.0  # by which the regression divides guidance and calls


def compensated(table: Table, ratios: Sequence[Number] | Tensor) -> Table:
    """The table with its stored predictions replaced by those at the compensated times; `ratios` one a row, the first two 1.

    Ratios may be tensors that gradients are asked of. ValueError for tables whose times stand still or turn, and for another number of ratios.
    """
    t = table.times.t.tolist()
    steps = [b - a for a, b in zip(t, t[1:], strict=False)]
    if min(steps) <= 0 <= max(steps):
        raise ValueError("compensation reads predictions between times, so those of the table must not stand still or turn")
    ratios = list(ratios)
    if len(ratios) != table.nfe:
        raise ValueError(f"ratios must have one entry a row of the table, {table.nfe}, got {len(ratios)}")
    for i, ratio in enumerate(ratios[: NODES - 1]):
        if float(ratio) != 1.0:
            raise ValueError(f"ratios must begin with {NODES - 1} ones, since nothing is there to read between, got {float(ratio):g} at step {i}")
    kept: list[Combination] = []
    predict, correct = [], []
    for i, (row, mend) in enumerate(zip(table.predict, table.correct, strict=True)):
        kept.append(Combination.prediction(i))
        if i >= NODES - 1 and not _is_one(ratios[i]):
            at = t[i - 1] + ratios[i] * steps[i - 1]
            nodes = range(i, i - NODES, -1)
            kept[i] = sum((math.prod((at - t[k]) * (1 / (t[j] - t[k])) for k in nodes if k != j) * kept[j] for j in nodes), Combination())
        predict.append(_carried(row, i, kept).row(i, row.s))
        correct.append(None if mend is None else _carried(mend, i, [*kept, Combination.prediction(i + 1)]).row(i, mend.s, ahead=True))
    return replace(table, predict=tuple(predict), correct=tuple(correct), origin={**table.origin, "compensated": [float(r) for r in ratios]})


def _is_one(ratio: Number) -> bool:
    return not (isinstance(ratio, Tensor) and ratio.requires_grad) and float(ratio) == 1.0


def _carried(row: Row, i: int, kept: list[Combination]) -> Combination:
    """A row of points up to i and of the predictions, newest first, as they are kept."""
    total = Combination({i - j: v for j, v in enumerate(row.a)}, {}, row.c)
    return sum((weight * value for weight, value in zip(row.w, reversed(kept), strict=False)), total)


@dataclass(frozen=True)
class Compensated:
    """A rule whose stored predictions are moved in time.

    rule: of one call a step. ratios: one a step, the first two 1, as `fit_compensation` finds them; or one number for all steps but those.
    Its order is that of the rule only where all ratios are 1, else 1: a prediction moved by a share of a step errs by that.

    >>> Compensated(UniPC(2), (1.0, 1.0, 1.2, 0.9)).order
    1
    """

    rule: Rule
    ratios: float | tuple[float, ...]
    calls_per_step: ClassVar[int] = 1

    def __post_init__(self):
        if not callable(getattr(self.rule, "plan", None)) or isinstance(self.rule, type):
            raise TypeError(f"rule must be a rule such as UniPC(), got {self.rule!r}")
        if self.rule.calls_per_step != 1 or getattr(self.rule, "extra_calls", 0):
            raise ValueError(f"rule must make one call a step, got {type(self.rule).__name__}")
        if isinstance(self.ratios, Tensor | list):
            object.__setattr__(self, "ratios", tuple(float(r) for r in self.ratios))
        for ratio in self.ratios if isinstance(self.ratios, tuple) else (self.ratios,):
            checks.between("ratios", ratio, LOWEST, HIGHEST)

    @property
    def order(self) -> int:
        ratios = self.ratios if isinstance(self.ratios, tuple) else (self.ratios,)
        return self.rule.order if all(r == 1 for r in ratios) else 1

    @classmethod
    def examples(cls) -> list[Compensated]:
        return [cls(UniPC(2), 1.1), cls(Exponential(3, "data", U, lower_at_end=False), 1.0)]

    def times(self, path: Path, steps: int) -> Times:
        """Those of the rule."""
        return self.rule.times(path, steps)

    def plan(self, times: Times) -> Table:
        """The rule's table, compensated. ValueError unless there is one ratio a step, or one number."""
        table = self.rule.plan(times)
        ratios = self.ratios
        if not isinstance(ratios, tuple):
            ratios = (1.0,) * min(NODES - 1, table.nfe) + (ratios,) * (table.nfe - NODES + 1)
        return compensated(table, ratios)


def exact_points(field: Field, start: Float[Tensor, "rows *event"], times: Times, cond: Any = None, *, substeps: int = SUBSTEPS) -> list[Tensor]:
    """Where the flow carries `start` at each of the times, by `substeps` steps of a rule of order 3 in every interval."""
    points, rule = [start], Exponential(3, "data", U, corrector=3)
    for begin, end in zip(times.t.tolist(), times.t[1:].tolist(), strict=False):
        fine = Times.uniform(field.path, substeps, U, start=begin, end=end)
        points.append(sample(field, start=points[-1], rule=rule, times=fine, cond=cond))
    return points


def fit_compensation(field: Field, start: Float[Tensor, "rows *event"], times: Times, rule: Rule, *, cond: Any = None, guidance: float | None = None,
                     exact: Sequence[Tensor] | None = None, substeps: int = SUBSTEPS) -> tuple[float, ...]:
    """The ratios, one a step, that bring each step's end closest to the flow, searched one after the other on a few starts (rows, *event).

    rule: as in `Compensated`. cond, guidance: what will be sampled with. exact: the exact points at every one of the times, if known, else
    `exact_points` with `substeps`. Ten starts are enough. Cost: about 45 field calls a step and row, and the reference's.
    ValueError for rules with fresh noise and for points that do not fit.
    """
    checks.finite("start", checks.tensor("start", start, floating=True))
    if not len(start):
        raise ValueError("start must hold at least one row, got 0")
    if times.path != field.path:
        raise ValueError(f"times were made for {times.path.schedule}, but the field lives on {field.path.schedule}")
    plain = Compensated(rule, 1.0).plan(times)
    if plain.stochastic:
        raise ValueError(f"rule must be deterministic, {type(rule).__name__} adds fresh noise")
    cond = spread(cond, len(start), start.device)
    field = field if guidance is None else classifier_free(field, guidance)
    points = exact_points(field, start, times, cond, substeps=checks.integer("substeps", substeps, least=1)) if exact is None else list(exact)
    if len(points) != len(times):
        raise ValueError(f"exact must hold the points at all {len(times)} times, got {len(points)}")
    for point in points:
        checks.shape_of("exact", point, start.shape)
    ratios = [1.0] * plain.nfe
    with torch.no_grad(), evaluating(getattr(field, "net", None)):
        x, passed, told = start, [], []
        for i in range(plain.nfe):
            asked = _told(field, plain, x, i, cond)
            x = mended(compensated(plain, ratios), i, x, asked, passed, told)
            passed, told = [x, *passed], [asked, *told]
            if i >= NODES - 1:
                ratios[i] = _searched(lambda tried, i=i, passed=passed, told=told: _ends(field, plain, ratios, i, tried, passed, told, cond), points[i + 1])
            x = combined(compensated(plain, ratios).predict[i], passed, told)
    return tuple(ratios)


def _told(field: Field, table: Table, x: Tensor, i: int, cond: Any) -> Tensor:
    return field(x, float(table.times.t[i]), cond, at=table.times.each[i]).of(table.kind)


def _ends(field: Field, plain: Table, ratios: list[float], i: int, tried: list[float], passed: list[Tensor], told: list[Tensor], cond: Any) -> Tensor:
    """(tried, rows, *event): the end of step i under each ratio, mended by the prediction there where the rule mends it."""
    # Of a table so tried only the row of this step, and the one that mends its end, are looked at.
    size = min(i + 2, plain.nfe)
    until = replace(plain, times=Times(plain.times.path, plain.times.t[: size + 1]), predict=plain.predict[:size], correct=(*plain.correct[: size - 1], None),
                    epsilon=plain.epsilon[:size])
    tables = [compensated(until, [*ratios[:i], ratio, 1.0][:size]) for ratio in tried]
    ends = torch.stack([combined(table.predict[i], passed, told) for table in tables])
    if plain.correct[i] is None:
        return ends
    asked = _told(field, plain, ends.flatten(0, 1), i + 1, _repeated(cond, len(tried))).unflatten(0, (len(tried), -1))
    return torch.stack([mended(table, i + 1, end, one, passed, told) for table, end, one in zip(tables, ends, asked, strict=True)])


def _repeated(cond: Any, times: int) -> Any:
    if isinstance(cond, dict):
        return {name: _repeated(value, times) for name, value in cond.items()}
    return None if cond is None else cond.repeat(times, *(1,) * (cond.ndim - 1))


def _searched(ends: Any, wanted: Tensor) -> float:
    """The ratio whose mean squared distance is least, by ever finer rounds over the whole range, 1 among them."""
    best, error, low, high, count = 1.0, math.inf, LOWEST, HIGHEST, COARSE
    for _ in range(ROUNDS):
        tried = sorted({1.0, *torch.linspace(low, high, count, dtype=torch.float64).tolist()})
        errors = (ends(tried) - wanted).double().flatten(1).square().mean(1).nan_to_num(math.inf)
        k = int(errors.argmin())
        if float(errors[k]) < error:
            best, error = tried[k], float(errors[k])
        width = (high - low) / (count - 1)
        low, high, count = max(LOWEST, best - width), min(HIGHEST, best + width), FINE
    if not math.isfinite(error):
        raise NonFinite(0, "every ratio", "not finite")
    return best


@dataclass(frozen=True, eq=False)
class CompensationRegression:
    """Ratios for guidance and calls that none were fitted for: r = sum numbers[a, b, c] (k / n)^a (s / 12)^b (n / 50)^c at step k = 1 .. n of n.

    numbers: (3, 3, 3), float64.
    """

    numbers: Tensor

    def __post_init__(self):
        checks.finite("numbers", checks.tensor("numbers", self.numbers, floating=True))
        checks.shape_of("numbers", self.numbers, (3, 3, 3))

    @classmethod
    def fit(cls, found: Iterable[tuple[float, Sequence[float]]]) -> CompensationRegression:
        """By least squares from (guidance, ratios) of several runs; of equally good numbers the smallest. ValueError if no step of any is free."""
        rows, wanted = [], []
        for guidance, ratios in found:
            for k in range(NODES, len(ratios) + 1):
                rows.append(_powers(k, float(guidance), len(ratios)).flatten())
                wanted.append(float(ratios[k - 1]))
        if not rows:
            raise ValueError(f"found must hold ratios of at least {NODES} steps")
        solved = torch.linalg.lstsq(torch.stack(rows), torch.tensor(wanted, dtype=torch.float64)[:, None], driver="gelsd").solution
        return cls(solved.reshape(3, 3, 3))

    def __call__(self, guidance: float, calls: int) -> tuple[float, ...]:
        """The ratios of `calls` steps under this guidance, within the range that a search has."""
        calls, guidance = checks.integer("calls", calls, least=1), checks.positive("guidance", guidance, zero=True)
        free = [float((self.numbers.double() * _powers(k, guidance, calls)).sum()) for k in range(NODES, calls + 1)]
        return (1.0,) * min(NODES - 1, calls) + tuple(min(max(r, LOWEST), HIGHEST) for r in free)


def _powers(k: int, guidance: float, calls: int) -> Tensor:
    up = lambda v: torch.tensor([1.0, v, v * v], dtype=torch.float64)
    return torch.einsum("a,b,c->abc", up(k / calls), up(guidance / STRENGTH), up(calls / CALLS))
