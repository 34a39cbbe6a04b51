"""Running a table: `Multistep`, the dynamics behind every multistep and Runge-Kutta sampler."""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Inexact
from torch import Tensor

from rheos.core import Draws, Example, NonFinite, checks
from rheos.paths import ExactField, Field, Path
from rheos.samplers.tables import Number, Row, Table, planned

__all__ = ["Multistep", "MultistepState", "combined", "mended"]

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
    often the samples are checked to be finite (None: at the last step). keep: how many earlier points the last state still holds.
    """

    field: Field
    table: Table
    cond: Any = None
    edit: Edit | None = None
    seed: int | Draws = 0
    first: int = 0
    finite_every: int | None = None
    keep: int = 0

    def __post_init__(self):
        checks.integer("keep", self.keep, least=0)
        if self.finite_every is not None:
            checks.integer("finite_every", self.finite_every, least=1)
        # Draws of its own: what is drawn ahead is let go with the run, however many batches there are.
        object.__setattr__(self, "_draws", Draws(Draws.of(self.seed).seed))

    def init(self, x: Inexact[Tensor, "batch *event"], before: Sequence[Tensor] = ()) -> MultistepState:
        """The state at the table's first time, from x (batch, *event) and as many earlier points, newest first, as the table asks for."""
        checks.tensor("x", x, floating=True)
        if len(before) != self.table.before:
            raise ValueError(f"before must hold {self.table.before} earlier points for this table, got {len(before)}")
        for point in before:
            checks.shape_of("before", point, x.shape)
        shape = self.table.event
        event = x.shape[1:]
        if shape is not None and (len(shape) > len(event) or any(own not in (1, size) for own, size in zip(shape[::-1], event[::-1], strict=False))):
            raise ValueError(f"the table has numbers of shape {shape}, which do not fit samples of shape {tuple(event)}")
        return MultistepState(x, list(before))

    def step(self, state: MultistepState) -> MultistepState:
        i, x, table = state.step, state.x, self.table
        if i >= table.nfe:
            raise ValueError(f"the table has {table.nfe} rows, and the samples have passed them all")
        points, predictions = state.points, state.predictions
        asked, moved = self._ask(x, i)
        x = mended(table, i, x, asked, points, predictions)
        x = x if moved is None else x + moved
        deep_points, deep_predictions = table.depth
        points = [x, *points[: deep_points - 1]]
        predictions = [asked, *predictions[: deep_predictions - 1]]
        row, basis = table.predict[i], table.basis
        if basis is None:
            x = combined(row, points, predictions)
        else:
            x = basis.inverse(combined(row, [basis.forward(v) for v in points], [basis.forward(v) for v in predictions]))
        if row.s:
            noise = self._draws.rows("sampling noise", i, x.shape, first=self.first, device=x.device, dtype=x.dtype, ahead=True)
            x = x.add_(noise, alpha=row.s)
        last = i + 1 == table.nfe
        if last or (self.finite_every is not None and (i + 1) % self.finite_every == 0):
            self._check(x, i)
        return MultistepState(x, points[: self.keep] if last else points, [] if last else predictions, i + 1)

    def _check(self, x: Tensor, i: int) -> None:
        # One sum tells nearly always; it is not finite where an entry is not, or, seldom, where it overflows itself.
        total = x.detach().sum()
        if math.isfinite(abs(total.item())):
            return
        good = torch.isfinite(x)
        if not bool(good.all()):
            raise NonFinite(i, f"sample {int((~good).flatten(1).any(1).nonzero()[0])} of {len(x)}", "not finite", good=self.finite_every == 1)

    def _ask(self, x: Tensor, i: int) -> tuple[Tensor, Tensor | None]:
        """The prediction as the table's kind; and, if the field answers for another point than x (`TimeShift`), the way there: steps go on from it."""
        times, kind = self.table.times, self.table.kind
        t = float(times.t[i])
        answer = self.field(x, t, self.cond, at=times.each[i])
        moved, x = None if answer.x is x else answer.x - x, answer.x
        if self.edit is not None and getattr(self.edit, "kind", kind) != kind:
            told = answer.of(self.edit.kind)
            edited = self._edited(told, x, t)
            if edited is not told:          # an edit that only looks leaves the answer as it is
                answer = self.field.path.prediction({self.edit.kind: edited}, x, times.each[i])
        value = self.table.told(answer, i)
        return value if self.edit is None or getattr(self.edit, "kind", kind) != kind else self._edited(value, x, t), moved

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


def mended(table: Table, i: int, x: Tensor, asked: Tensor, points: list[Tensor], predictions: list[Tensor]) -> Tensor:
    """The point before row i, once the prediction `asked` at it is there: corrected by the row before where that has a corrector, else x itself.

    points, predictions: the earlier ones, newest first. The prediction that mends a point is the one its own next step needs: no call of its own.
    """
    if i == 0 or table.correct[i - 1] is None:
        return x
    change = table.mends[i - 1]
    return combined(table.correct[i - 1], points, [asked, *predictions]) if change is None else _add(x, change, (asked, *predictions))


def combined(row: Row, points: list[Tensor], predictions: list[Tensor]) -> Tensor:
    """sum a_j points_j + sum w_j predictions_j + c as a new tensor."""
    total: Tensor | None = None
    for weights, tensors in ((row.a, points), (row.w, predictions)):
        for weight, value in zip(weights, tensors, strict=False):
            total = _plus(total, weight, value)
    if isinstance(row.c, Tensor) or row.c:
        total = _plus(total, row.c, torch.ones_like(points[0]))
    return torch.zeros_like(points[0]) if total is None else total


def _plus(total: Tensor | None, weight: Number, value: Tensor) -> Tensor | None:
    """total + weight value; `total` is ours to change."""
    if isinstance(weight, Tensor):
        weight = weight.to(device=value.device, dtype=value.real.dtype if value.is_complex() else value.dtype)
        return value * weight if total is None else torch.addcmul(total, value, weight)
    if weight == 0.0:
        return total
    return value * weight if total is None else total.add_(value, alpha=weight)


def _add(x: Tensor, weights: tuple[Number, ...], tensors: tuple[Tensor, ...]) -> Tensor:
    """x + sum w_j tensors_j as a new tensor: the network may have kept x."""
    total: Tensor | None = None
    for weight, value in zip(weights, tensors, strict=False):
        if total is not None or isinstance(weight, Tensor):
            total = _plus(x * 1.0 if total is None else total, weight, value)
        elif weight != 0.0:
            total = torch.add(x, value, alpha=weight)
    return x if total is None else total
