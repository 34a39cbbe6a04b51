"""Exact inversion: from samples back to where their run began, and onward again, without losing a digit that rounding has not lost.

A rule whose rows are x_{i+1} = a_1 x_{i-1} + a_0 x_i + w p_i (`BDIA`) is undone from the last two points: every step back asks the field where the
step onward did. So what travels is a `Pair`: the last point, the one next to it, and the table they belong to.
  there = invert(field, x)         # images, or whatever the field makes, to their starts
  again = invert(field, there)     # the same images, to rounding
"""
from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Inexact
from torch import Tensor

from rheos.core import Draws, checks, evolve, raising_interrupts
from rheos.guidance import classifier_free
from rheos.paths import Field, Times
from rheos.paths.asking import cut, cut_hook, evaluating, spread
from rheos.samplers.bidirectional import BDIA
from rheos.samplers.exponential import DDIM
from rheos.samplers.multistep import Edit, Multistep
from rheos.samplers.ordinary import Euler
from rheos.samplers.sampling import planned_for, still
from rheos.samplers.tables import Rule, Table

__all__ = ["Pair", "invert", "sample_pair"]

GROWN_AT_MOST = 1e-3      # of rounding, on the way back: from there on a warning is due


@dataclass(frozen=True, eq=False)
class Pair:
    """Both points that a run along an exactly invertible table ended with: all that it takes to undo it.

    x: (rows, *event), the last point: samples at the table's end, starts at its start. beside: the point next to it. table: of the
    whole way, from base to data. place: "end" or "start", where of the table the two lie.
    """

    x: Tensor
    beside: Tensor
    table: Table
    place: str = "end"

    def __post_init__(self):
        checks.tensor("x", self.x, floating=True)
        checks.shape_of("beside", checks.tensor("beside", self.beside, floating=True), self.x.shape)
        if not isinstance(self.table, Table):
            raise TypeError(f"table must be a Table, got {type(self.table).__name__}")
        checks.one_of("place", self.place, ("end", "start"))

    def __len__(self) -> int:
        return len(self.x)

    def leaving(self) -> Table:
        """The table that leads from here to the other end, begun at `beside` with `x` before it. ValueError if the table cannot be inverted."""
        back = self.table.inverse()
        if self.place == "end":
            return back
        t = self.table.times
        return Table(Times(t.path, t.t[1:], _repeats=True), self.table.kind, self.table.predict[1:], epsilon=self.table.epsilon[1:],
                     origin=self.table.origin, before=1)


def sample_pair(
    field: Field,
    n: int | None = None,
    *,
    start: Inexact[Tensor, "rows *event"] | None = None,
    shape: Sequence[int] | None = None,
    steps: int = 50,
    rule: Rule | Table | None = None,
    times: Times | None = None,
    cond: Any = None,
    guidance: float | None = None,
    seed: int | Draws = 0,
    batch: int | None = None,
    edit: Edit | None = None,
) -> Pair:
    """`sample` with a rule that can be undone, by default `BDIA`: the samples, `.x`, with what `invert` needs to bring back their starts.

    The arguments are those of `sample`. ValueError for rules without an exact inverse and for fewer than 2 steps.

    >>> from rheos.data import skewed
    >>> from rheos.paths import ExactField, Path
    >>> field, start = ExactField(Path.linear(), skewed()), torch.tensor([[0.3, -1.0]], dtype=torch.float64)
    >>> there = sample_pair(field, start=start)
    >>> (invert(field, there).x - start).abs().max().item() < 1e-12
    True
    """
    table = _table(field, rule, steps, times, edit)
    if start is None:
        n = checks.integer("n", n, least=1) if n is not None else 0
        event = tuple(shape) if shape is not None else field.event
        if not n or event is None or field.path.two_sided:
            raise ValueError("start must be given, or n and, where the network does not tell it, shape; a two-sided path has no start of its own")
        start = field.path.prior((n, *event), seed=seed, start=float(table.times.t[0]), dtype=field.like.dtype, device=field.like.device)
    elif n is not None and n != len(start):
        raise ValueError(f"n must be left out or equal the {len(start)} rows of start, got {n}")
    x, beside = _along(field, table, _checked("start", start), None, cond, guidance, edit, batch)
    return Pair(x, beside, table, "end")


def invert(
    field: Field,
    x: Inexact[Tensor, "rows *event"] | Pair,
    *,
    before: Inexact[Tensor, "rows *event"] | None = None,
    steps: int | None = None,
    rule: Rule | Table | None = None,
    times: Times | None = None,
    cond: Any = None,
    guidance: float | None = None,
    batch: int | None = None,
    edit: Edit | None = None,
) -> Pair:
    """Carry `x` to the other end of its way, exactly: what comes back is a `Pair` there, and inverting that gives x again.

    x: a `Pair`, from either end, which brings its table; or samples (rows, *event), say real images, which lie at the end of 50 `steps`, or of `times`, of
        `rule`, by default `BDIA()`. One call a step.
    before: the point before the samples, where it is known. Where it is not, it is made from them by one step of DDIM backwards, at
        one call; the way there and back is exact whatever it is.
    cond, guidance: of the field on this way. With others on the way back the samples come back edited. edit: as in `sample`; it may use
        its own prediction and x only.

    UserWarning where the way back multiplies rounding so much that the start is lost: many steps with a small gamma.
    ValueError for rules without an exact inverse; `sample(field, start=x, rule=rule, times=times.reversed())` undoes any deterministic one nearly.

    >>> from rheos.data import skewed
    >>> from rheos.paths import ExactField, Path
    >>> field, x = ExactField(Path.linear(), skewed()), torch.tensor([[0.3, -1.0]], dtype=torch.float64)
    >>> there = invert(field, x, steps=20)
    >>> (invert(field, there).x - x).abs().max().item() < 1e-12
    True
    """
    if not isinstance(field, Field):
        raise TypeError(f"field must be a Field, got {type(field).__name__}; wrap a network as Field(net, path, predicts)")
    still(field, "invert")
    if isinstance(x, Pair):
        for name, value in (("before", before), ("steps", steps), ("rule", rule), ("times", times)):
            if value is not None:
                raise ValueError(f"{name} must be left out for a Pair, which brings its own table")
        if field.path != x.table.times.path:
            raise ValueError(f"the pair was made on {x.table.times.path.schedule}, but the field lives on {field.path.schedule}")
        here = x
    else:
        table = _table(field, rule, 50 if steps is None else steps, times, edit)
        _checked("x", x)
        if before is None:
            beside = _made_beside(field, x, table, cond, guidance)
        else:
            beside = _checked("before", checks.shape_of("before", before, x.shape))
        here = Pair(x, beside, table, "end")
    away = here.leaving()
    if here.place == "end":
        _warn_of_growth(away, here.x)
    ends = _along(field, away, here.beside, here.x, cond, guidance, edit, batch)
    return Pair(*ends, here.table, "start" if here.place == "end" else "end")


def _table(field: Field, rule: Rule | Table | None, steps: int, times: Times | None, edit: Edit | None) -> Table:
    """The plan, known to be invertible."""
    if not isinstance(field, Field):
        raise TypeError(f"field must be a Field, got {type(field).__name__}; wrap a network as Field(net, path, predicts)")
    if edit is not None and not callable(edit):
        raise TypeError(f"edit must be callable as edit(prediction, x, t), got {type(edit).__name__}")
    still(field, "an exact inverse")
    rule = BDIA() if rule is None else rule
    if times is None and not isinstance(rule, Table) and checks.integer("steps", steps) < 2:
        raise ValueError(f"steps must be at least 2, of which all but the first can be solved back, got {steps}")
    plan = planned_for(field, rule, steps, times, edit)
    try:
        if not isinstance(plan, Table):
            raise ValueError("it chooses its steps as it goes")
        plan.inverse()
    except ValueError as error:
        name = "this table" if isinstance(rule, Table) else type(rule).__name__
        raise ValueError(f"{name} cannot be inverted exactly: {error}; BDIA can be, and sample(field, start=x, rule=rule, "
                         "times=times.reversed()) goes back along any rule without fresh noise, nearly") from None
    return plan


def _checked(name: str, x: Tensor) -> Tensor:
    checks.finite(name, checks.tensor(name, x, floating=True))
    if not x.numel():
        raise ValueError(f"{name} must hold at least one sample, got shape {tuple(x.shape)}")
    return x


def _along(field: Field, table: Table, x: Tensor, before: Tensor | None, cond: Any, guidance: float | None, edit: Edit | None,
           batch: int | None) -> tuple[Tensor, Tensor]:
    """The last two points, newest first, of a run from x, with the point before it where the table wants one."""
    cond = spread(cond, len(x), x.device)
    asked = field if guidance is None else classifier_free(field, guidance)
    size = len(x) if batch is None else checks.integer("batch", batch, least=1)
    parts = []
    with torch.set_grad_enabled(x.requires_grad or table.differentiable), evaluating(getattr(field, "net", None)), raising_interrupts():
        for first in range(0, len(x), size):
            rows = slice(first, first + size)
            run = Multistep(asked, table, cut(cond, first, min(size, len(x) - first)), cut_hook(edit, first, first + size), keep=1)
            end = evolve(run, run.init(x[rows], [] if before is None else [before[rows]]), table.nfe, donate=True)
            parts.append((end.x, end.points[0]))
    newest, earlier = zip(*parts, strict=True)
    return torch.cat(newest), torch.cat(earlier)


def _made_beside(field: Field, x: Tensor, table: Table, cond: Any, guidance: float | None) -> Tensor:
    """The point before x, by one step of DDIM backwards; by one of Euler's where the field tells no noise at the end."""
    times, asked = table.times, field if guidance is None else classifier_free(field, guidance)
    last = Times(times.path, times.t[[-1, -2]])
    with torch.set_grad_enabled(x.requires_grad), evaluating(getattr(field, "net", None)):
        answer = asked(x, float(last.t[0]), spread(cond, len(x), x.device), at=last.each[0])
        for rule in (DDIM(kind="noise"), Euler()):
            try:
                step = rule.plan(last)
                told = answer.of(step.kind)
            except ValueError:
                continue
            return step.predict[0].a[0] * x + step.predict[0].w[0] * told
    raise ValueError(f"this field tells neither noise nor velocity at t = {last.t[0]:g}, where no noise is left: end the times a little before, or give before")


def _warn_of_growth(back: Table, x: Tensor) -> None:
    """Each row back divides by the weight that its row onward gave the older point."""
    factor = math.prod(float(torch.as_tensor(row.a[1]).abs().max()) for row in back.predict)
    lost = factor * torch.finfo(x.dtype).eps
    if lost > GROWN_AT_MOST:
        warnings.warn(f"{back.nfe} steps back multiply rounding by {factor:.1g}, to {lost:.1g} of the samples: take a gamma nearer 1, fewer steps"
                      + ("" if x.dtype == torch.float64 else " or float64"), stacklevel=3)
