"""Running a table: `Multistep`, the dynamics behind every multistep and Runge-Kutta sampler."""
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Inexact
from torch import Tensor

from rheos.core import Draws, Example, NonFinite, checks
from rheos.paths import ExactField, Field, Path
from rheos.samplers.tables import Row, Table, planned

__all__ = ["Multistep", "MultistepState"]

Edit = Callable[[Tensor, Tensor, Any], Tensor]      # (prediction, x, t): t is a number, or (rows,) where every sample has a time of its own


@dataclass
class MultistepState:
    """x (batch, *event) at table row `step`; earlier points and predictions, newest first, as far as the table looks back."""

    x: Tensor
    points: list[Tensor] = field(default_factory=list)
    predictions: list[Tensor] = field(default_factory=list)
    step: int = 0


@dataclass(frozen=True, eq=False)
class Multistep:
    """Carries samples along a table: one field call a step.

    field: what is asked. table: the plan. cond: passed to the field, batch first. edit: (prediction, x, t) -> prediction, applied to every
    stored prediction (thresholding, projections); it is handed the table's kind, or the kind it names in an attribute `kind`. seed: of the
    noise of stochastic tables; first: number of the first row of the batch, so that split batches draw the same noise. finite_every: how
    often the samples are checked to be finite (None: at the last step).
    """

    field: Field
    table: Table
    cond: Any = None
    edit: Edit | None = None
    seed: int | Draws = 0
    first: int = 0
    finite_every: int | None = None

    def __post_init__(self):
        if self.finite_every is not None:
            checks.integer("finite_every", self.finite_every, least=1)
        # Draws of its own: what is drawn ahead is let go with the run, however many batches there are.
        object.__setattr__(self, "_draws", Draws(Draws.of(self.seed).seed))
        object.__setattr__(self, "_mends", self.table.mends)

    def init(self, x: Inexact[Tensor, "batch *event"]) -> MultistepState:
        """The state at the table's first time, from x (batch, *event)."""
        checks.tensor("x", x, floating=True)
        return MultistepState(x)

    def step(self, state: MultistepState) -> MultistepState:
        i, x, table = state.step, state.x, self.table
        if i >= table.nfe:
            raise ValueError(f"the table has {table.nfe} rows, and the samples have passed them all")
        points, predictions = state.points, state.predictions
        asked = self._ask(x, i)
        row, (deep_points, deep_predictions) = table.predict[i], table.depth
        # The prediction just made at the old point also serves to mend that point, one step late: no call of its own.
        change = self._mends[i - 1] if i else None
        if change is not None:
            x = _add(x, change, (asked, *predictions))
        elif i and table.correct[i - 1] is not None:
            x = _combine(table.correct[i - 1], points, [asked, *predictions])
        points = [x, *points[: deep_points - 1]]
        predictions = [asked, *predictions[: deep_predictions - 1]]
        x = _combine(row, points, predictions)
        if row.s:
            noise = self._draws.rows("sampling noise", i, x.shape, first=self.first, device=x.device, dtype=x.dtype, ahead=True)
            x = x.add_(noise, alpha=row.s)
        last = i + 1 == table.nfe
        if last or (self.finite_every is not None and (i + 1) % self.finite_every == 0):
            self._check(x, i)
        return MultistepState(x, [] if last else points, [] if last else predictions, i + 1)

    def _check(self, x: Tensor, i: int) -> None:
        # One sum tells nearly always; it is not finite where an entry is not, or, seldom, where it overflows itself.
        total = x.detach().sum()
        if math.isfinite(abs(total.item())):
            return
        good = torch.isfinite(x)
        if not bool(good.all()):
            raise NonFinite(i, f"sample {int((~good).flatten(1).any(1).nonzero()[0])} of {len(x)}", "not finite", good=self.finite_every == 1)

    def _ask(self, x: Tensor, i: int) -> Tensor:
        times, kind = self.table.times, self.table.kind
        t = float(times.t[i])
        answer = self.field(x, t, self.cond, at=times.each[i])
        if self.edit is not None and getattr(self.edit, "kind", kind) != kind:
            answer = self.field.path.prediction({self.edit.kind: self._edited(answer.of(self.edit.kind), x, t)}, x, times.each[i])
        value = answer.drift(self.table.epsilon[i]) if kind == "drift" else answer.of(kind)
        return value if self.edit is None or getattr(self.edit, "kind", kind) != kind else self._edited(value, x, t)

    def _edited(self, value: Tensor, x: Tensor, t: float) -> Tensor:
        edited = self.edit(value, x, t)
        if not isinstance(edited, Tensor) or edited.shape != value.shape:
            got = tuple(edited.shape) if isinstance(edited, Tensor) else type(edited).__name__
            raise ValueError(f"edit must return the shape of the prediction, {tuple(value.shape)}, got {got}")
        return edited

    @classmethod
    def examples(cls) -> list[Example]:
        """Every public rule on the exact field of a skewed Gaussian; the answer is known where the flow can be solved by hand."""
        from rheos.data import GaussianMixture
        from rheos.samplers.catalogue import public_rules

        mean, spread = torch.tensor([[0.7, -1.2]], dtype=torch.float64), torch.tensor([[0.3, 1.7]], dtype=torch.float64)
        target = GaussianMixture(torch.ones(1, dtype=torch.float64), mean, spread)
        x = torch.tensor([[1.0, -0.5], [-2.0, 0.3], [0.1, 2.2]], dtype=torch.float64)
        path, made = Path.vp(), []
        for rule in public_rules():
            times = rule.times(path, 32)
            plan = cls(ExactField(path, target), planned(rule, times), seed=3)
            one = times.each[-1]
            start = times.each[0]
            # The flow of a Gaussian is affine: it keeps (x - b m) / sqrt(b^2 v + c^2).
            width = lambda at: torch.sqrt(at.b**2 * spread + at.c**2)
            truth = one.b * mean + (x - start.b * mean) * width(one) / width(start)
            answer = None if plan.table.stochastic else (lambda state, truth=truth: (state.x, truth))
            loose = 3e-1 if rule.order == 1 else 6e-2
            made.append(Example(plan, plan.init(x), plan.table.nfe, answer, loose, type(rule).__name__ + str(rule.order)))
        return made


def _combine(row: Row, points: list[Tensor], predictions: list[Tensor]) -> Tensor:
    """sum a_j points_j + sum w_j predictions_j as a new tensor."""
    total: Tensor | None = None
    for weights, tensors in ((row.a, points), (row.w, predictions)):
        for weight, value in zip(weights, tensors, strict=False):
            if weight == 0.0:
                continue
            total = value * weight if total is None else total.add_(value, alpha=weight)
    return torch.zeros_like(points[0]) if total is None else total


def _add(x: Tensor, weights: tuple[float, ...], tensors: tuple[Tensor, ...]) -> Tensor:
    """x + sum w_j tensors_j as a new tensor: the network may have kept x."""
    total: Tensor | None = None
    for weight, value in zip(weights, tensors, strict=False):
        if weight != 0.0:
            total = torch.add(x, value, alpha=weight) if total is None else total.add_(value, alpha=weight)
    return x if total is None else total
