"""Momentum: the direction of a step is filtered, so that strong guidance in few steps does not throw samples off.

Every rule of one call a step goes x_{i+1} = a_i x_i + W_i d_i: W_i is the exact integral of a prediction of 1, d_i a mean of the newest
predictions whose weights sum to 1. With the direction u_{i-1} = (x_i - a_{i-1} x_{i-1}) / W_{i-1} that was really taken,
  HB    u_i = (1 - beta) u_{i-1} + beta d_i
  GHVB  u_i = (1 - beta) (u_{i-1} - m_i) + d_i,  m_i the mean over the step before of the polynomial whose mean over this one is d_i
both starting with u_0 = d_0. So a row weighs two points, and beta = 1 is the rule itself. HB lags behind by (1 - beta) / beta steps and is of order 1;
GHVB takes up only what its polynomial has missed, and keeps the order.

Paper: Wizadwongsa et al., Diffusion sampling with momentum for mitigating divergence artifacts, 2023, arXiv:2307.11118. GHVB is there the filter
v_i = (1 - beta) v_{i-1} + beta eps_i of the predictions with Adams-Bashforth weights for it; applying 1 - (1 - beta) shift to its step gives the form above.
"""
from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from rheos.core import checks
from rheos.paths import LAM, Clock, Path, T, Times
from rheos.samplers.combinations import Combination
from rheos.samplers.exponential import DPMSolverPP, Exponential, UniPC
from rheos.samplers.pseudo import PLMS
from rheos.samplers.tables import LARGEST_RATIO, Row, Rule, Table

__all__ = ["GHVB", "HeavyBall"]


@dataclass(frozen=True)
class HeavyBall:
    """Polyak's heavy ball around a rule of one call a step: every combined direction is filtered, correctors' too.

    beta: 1 is the rule itself; less makes its interval of stability (2 - beta) / beta times as long, and the order 1. The paper
    has 0.8 around PLMS. nesterov: the step looks ahead with the newest direction, u = (1 - beta) v + beta d for the filtered v.
    """

    rule: Rule = PLMS()
    beta: float = 0.8
    nesterov: bool = False
    calls_per_step: ClassVar[int] = 1

    def __post_init__(self):
        if isinstance(self.rule, type) or not callable(getattr(self.rule, "plan", None)):
            raise TypeError(f"rule must be a rule such as PLMS(), got {self.rule!r}")
        if self.rule.calls_per_step != 1:
            raise ValueError(f"rule must make one call a step, {self.rule} makes {self.rule.calls_per_step}")
        checks.between("beta", self.beta, 0.0, 1.0, low_open=True)
        checks.flag("nesterov", self.nesterov)

    @property
    def order(self) -> int:
        return self.rule.order if self.beta == 1 else 1

    @property
    def extra_calls(self) -> int:
        """Calls beyond one a step: the rule's."""
        return getattr(self.rule, "extra_calls", 0)

    @property
    def kind(self) -> str:
        """The kind of prediction that the rule asks for, where it tells."""
        return getattr(self.rule, "kind", "")

    @classmethod
    def examples(cls) -> list[HeavyBall]:
        return [cls(), cls(DPMSolverPP(2), 0.9), cls(UniPC(2), 0.9), cls(PLMS(3, False), 0.7, nesterov=True)]

    def times(self, path: Path, steps: int) -> Times:
        """The rule's own."""
        return self.rule.times(path, steps)

    def plan(self, times: Times) -> Table:
        """The rule's table with its directions filtered. ValueError for tables with fresh noise, and for rows that weigh several points."""
        plain = self.rule.plan(times)
        predict: list[Row] = []
        correct: list[Row | None] = []
        before: dict[int, _Step] = {}           # by the number of the point that a step led to, as it was corrected
        for i, (row, mend) in enumerate(zip(plain.predict, plain.correct, strict=True)):
            step = _Step.of(row, i, i)
            last = before.get(step.base)
            predict.append(row if last is None else self._filtered(step, last).row(i))
            before[i + 1] = step
            correct.append(None)
            if mend is not None:
                mended = _Step.of(mend, i, i + 1)
                # The step's length is the predictor's to rounding: as one number, so that the corrector's row carries the same points on.
                same = math.isclose(mended.whole, step.whole, rel_tol=1e-9) and mended.keep == step.keep
                before[i + 1] = mended = replace(mended, whole=step.whole) if same else mended
                correct[-1] = mend if last is None else self._filtered(mended, last).row(i, ahead=True)
        origin = {"rule": "HeavyBall", "beta": self.beta, "nesterov": self.nesterov, "of": plain.origin}
        return Table(plain.times, plain.kind, tuple(predict), tuple(correct), plain.epsilon, origin)

    def _filtered(self, step: _Step, last: _Step) -> Combination:
        beta = self.beta
        if self.nesterov:
            # u = (1 - beta) v + beta d with v filtered; v of the step before is read off its u.
            taken = (1 - beta) * (last.taken(step.base) - beta * last.direction) + beta * (2 - beta) * step.direction
        else:
            taken = (1 - beta) * last.taken(step.base) + beta * step.direction
        return step.keep * Combination.point(step.base) + step.whole * taken


@dataclass(frozen=True, eq=False)
class _Step:
    """x_{end} = keep x_base + whole direction, the direction's weights summing to 1."""

    base: int
    keep: float
    whole: float
    direction: Combination

    @classmethod
    def of(cls, row: Row, newest: int, latest: int) -> _Step:
        """A row whose points end with number `newest` and whose predictions end with number `latest`."""
        if row.s:
            raise ValueError("momentum needs a rule without fresh noise, this one draws some")
        lags = [j for j, v in enumerate(row.a) if isinstance(v, Tensor) or v]
        if len(lags) > 1 or row.tensors or row.c:
            raise ValueError(f"momentum needs a rule whose rows weigh one point and predictions by plain numbers, row {newest} of this one does not")
        whole = float(sum(row.w))
        if whole == 0 or max(map(abs, row.w)) > LARGEST_RATIO * abs(whole):
            raise ValueError(f"momentum needs weights whose sum tells the length of the step, those of row {newest} sum to {whole:g}")
        # A step that keeps nothing of its point ends without noise: it still begins at the newest one.
        lag = lags[0] if lags else 0
        direction = Combination({}, {latest - j: v / whole for j, v in enumerate(row.w)})
        return cls(newest - lag, float(row.a[lag]) if row.a else 0.0, whole, direction)

    def taken(self, end: int) -> Combination:
        """The direction that was really taken, if this step led to point `end`."""
        return (Combination.point(end) - self.keep * Combination.point(self.base)) / self.whole


# Means over the newest step and over the one before it of the polynomial through the newest predictions at equal steps: Adams-Bashforth, Adams-Moulton.
_NEXT = {1: (1.0,), 2: (3 / 2, -1 / 2), 3: (23 / 12, -16 / 12, 5 / 12), 4: (55 / 24, -59 / 24, 37 / 24, -9 / 24)}
_LAST = {1: (1.0,), 2: (1 / 2, 1 / 2), 3: (5 / 12, 8 / 12, -1 / 12), 4: (9 / 24, 19 / 24, -5 / 24, 1 / 24)}


def _mean(weights: tuple[float, ...], newest: int) -> Combination:
    return Combination({}, {newest - j: w for j, w in enumerate(weights)})


@dataclass(frozen=True)
class GHVB:
    """Generalised heavy ball: momentum that keeps the order.

    order: predictions that the polynomial runs through, 1 to 4. The paper's names add beta to order - 1: "3.5" is order 4, beta 0.5.
    beta: 1 is the multistep rule without momentum; less trades error for stability. clock: None takes the paper's weights, which suppose equal
    steps; no order above 2 is seen then where steps in rho are unequal, as for `PLMS`, which beta 1 is without its doubled first step. A clock
    such as LAM fits the weights to the times (ours), which gives the order on any times; beta 1 is then `DEIS`. kind: "noise" as in the paper, or "data".
    """

    order: int = 4
    beta: float = 0.5
    clock: Clock | None = None
    kind: str = "noise"
    calls_per_step: ClassVar[int] = 1

    def __post_init__(self):
        checks.one_of("order", self.order, _NEXT)
        checks.between("beta", self.beta, 0.0, 1.0, low_open=True)
        checks.one_of("kind", self.kind, ("noise", "data"))
        if self.clock is not None and not isinstance(self.clock, Clock):
            raise TypeError(f"clock must be None or a Clock such as LAM, got {self.clock!r}")

    @property
    def exempt(self) -> dict[str, str]:
        return {"order": "the paper's weights suppose equal steps in rho"} if self.clock is None and self.order > 2 else {}

    @classmethod
    def examples(cls) -> list[GHVB]:
        return [cls(), cls(2, 0.7), cls(3, 0.5, T), cls(2, 0.8, LAM, "data")]

    def times(self, path: Path, steps: int) -> Times:
        """Equal steps in t, from where the path holds a little data; with a clock, the times of the rule without momentum."""
        return PLMS().times(path, steps) if self.clock is None else self._rule().times(path, steps)

    def _rule(self) -> Exponential:
        """The rule without momentum, its corrector the same polynomial's integral over the step before."""
        return Exponential(self.order, self.kind, self.clock, corrector=self.order - 1, lower_at_end=False)

    def plan(self, times: Times) -> Table:
        if times.path.two_sided:
            raise ValueError("GHVB needs a one-sided path, got a two-sided one; use HeavyBall(AdamsBashforth(2))")
        steps = [_Step.of(row, i, i) for i, row in enumerate(Exponential(1, self.kind).plan(times).predict)]
        fitted = None if self.clock is None else self._rule().plan(times)
        rows: list[Row] = []
        # The paper begins as if the first prediction had always been so, its filter v running over fewer predictions than the order at first.
        begun, filtered = self.order if fitted is None else 1, [Combination.prediction(0)]
        for i, step in enumerate(steps):
            if fitted is None:
                count = min(self.order, i + 1)
                ahead, behind = (_mean(weights[count], i) for weights in (_NEXT, _LAST))
            else:
                ahead = _Step.of(fitted.predict[i], i, i).direction
                behind = ahead if i == 0 or self.order == 1 else _Step.of(fitted.correct[i - 1], i - 1, i).direction
            change = ahead - (1 - self.beta) * behind
            if i < begun:
                filtered += [(1 - self.beta) * filtered[-1] + self.beta * Combination.prediction(i)] if i else []
                taken = sum(((w / self.beta) * filtered[k] for k, w in change.predictions.items()), Combination())
            else:
                taken = (1 - self.beta) * steps[i - 1].taken(i) + change
            rows.append((step.keep * Combination.point(i) + step.whole * taken).row(i))
        return Table(times, self.kind, tuple(rows), origin={"rule": "GHVB", "order": self.order, "beta": self.beta})
