"""A solver is a table of numbers: x_{i+1} = sum_j a_j x_{i-j} + sum_j w_j p_{i-j} + c + s z, newest first, p the field's predictions.

A rule looks at the times only and plans a `Table` once; sampling is then a dumb loop (`Multistep`). Tables can be printed, saved as
JSON, edited, differentiated, inverted and searched (`tune`). A row may be followed by a corrector row, which weighs the prediction at the new
point as well and so costs no extra call: the point is mended when that prediction is there.
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path as FilePath
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from rheos.core import checks
from rheos.core.files import load_json, save_json
from rheos.paths import Basis, Path, Prediction, Times

__all__ = ["Number", "Row", "Rule", "Table", "planned", "same"]

TABLE_KINDS = ("velocity", "noise", "data", "score", "drift", "residual")
FORMAT = 1               # of files of tables
LARGEST_RATIO = 1e3      # weights this large against their sum mean that a polynomial is extrapolated far beyond its nodes


Number = float | Tensor


@dataclass(frozen=True, eq=False)
class Row:
    """One linear step: `a` weighs the points, `w` the predictions, newest first; `c` is added; `s` is the standard deviation of fresh noise.

    Numbers of a and w, and c, may also be tensors that broadcast to an event: one number a coordinate, or numbers that gradients are asked of.
    """

    a: tuple[Number, ...]
    w: tuple[Number, ...]
    s: float = 0.0
    c: Number = 0.0

    def __post_init__(self):
        for name in ("a", "w"):
            given = getattr(self, name)
            if isinstance(given, str) or any(isinstance(v, str | bool) for v in given):
                raise TypeError(f"{name} of a table row must hold numbers, got {given!r}")
            object.__setattr__(self, name, tuple(_number(v) for v in given))
        object.__setattr__(self, "c", _number(self.c))
        for value in (*self.a, *self.w, self.c, float(self.s)):
            if not (bool(value.isfinite().all()) if isinstance(value, Tensor) else math.isfinite(value)):
                raise ValueError(f"the numbers of a table row must be finite, got {value}")
        checks.positive("s", self.s, zero=True)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Row):
            return NotImplemented
        mine, theirs = (self.a, self.w, (self.s, self.c)), (other.a, other.w, (other.s, other.c))
        return all(len(u) == len(v) and all(map(same, u, v)) for u, v in zip(mine, theirs, strict=True))

    def __hash__(self) -> int:
        return hash((len(self.a), len(self.w), self.s))

    @property
    def tensors(self) -> list[Tensor]:
        """Those of its numbers that are tensors."""
        return [v for v in (*self.a, *self.w, self.c) if isinstance(v, Tensor)]

    def to_json(self) -> dict:
        """Numbers, and tensors as nested lists."""
        plain = lambda v: v.tolist() if isinstance(v, Tensor) else v
        return {"a": list(map(plain, self.a)), "w": list(map(plain, self.w)), "s": self.s} | ({} if same(self.c, 0.0) else {"c": plain(self.c)})

    @classmethod
    def from_json(cls, content: dict) -> Row:
        """The row that `to_json` described."""
        read = lambda v: torch.tensor(v, dtype=torch.float64) if isinstance(v, list) else v
        return cls(tuple(map(read, content["a"])), tuple(map(read, content["w"])), content["s"], read(content.get("c", 0.0)))


def _number(value: Any) -> Number:
    """A float, or a tensor where there are several numbers or gradients are asked of one."""
    if isinstance(value, Tensor) and (value.numel() != 1 or value.requires_grad):
        return value
    return float(value)


def same(u: Number, v: Number) -> bool:
    """Whether two numbers of a table are equal."""
    if isinstance(u, Tensor) and isinstance(v, Tensor):
        return u is v or torch.equal(u, v)
    return not isinstance(u, Tensor) and not isinstance(v, Tensor) and u == v


@dataclass(frozen=True, eq=False)
class Table:
    """The whole plan of a sampling run.

    times: the evaluation points and the end, one more than rows; they may stand still or turn between the stages of one step.
    kind: what the weights `w` multiply. predict: a row a field call. correct: rows that mend the point of the row beside them, or None;
    their first weight belongs to the prediction at that point. epsilon: a number a row, for the kinds that join two predictions: "drift" is
    velocity + epsilon score, "residual" is residual + epsilon noise. before: how many earlier points, newest first, a run must be begun with
    beside its start (`Table.inverse` needs one).

    On a path with a basis, numbers that differ by coordinate belong to the coordinates of the basis.
    """

    times: Times
    kind: str
    predict: tuple[Row, ...]
    correct: tuple[Row | None, ...] = ()
    epsilon: tuple[float, ...] = ()
    origin: dict = field(default_factory=dict)
    before: int = 0

    def __post_init__(self):
        checks.one_of("kind", self.kind, TABLE_KINDS)
        checks.integer("before", self.before, least=0)
        object.__setattr__(self, "predict", tuple(self.predict))
        object.__setattr__(self, "correct", tuple(self.correct) or (None,) * len(self.predict))
        object.__setattr__(self, "epsilon", tuple(self.epsilon) or (0.0,) * len(self.predict))
        for name, size in (("times", len(self.times) - 1), ("correct", len(self.correct)), ("epsilon", len(self.epsilon))):
            if size != len(self.predict):
                raise ValueError(f"table.{name} must fit its {len(self.predict)} rows, got {size}")
        for level in self.epsilon:
            checks.between("table.epsilon", level, -math.inf, math.inf, low_open=True, high_open=True)
        if not self.predict:
            raise ValueError("table.predict must hold at least one row")
        for i, row in enumerate(self.predict):
            if len(row.a) > i + 1 + self.before or len(row.w) > i + 1:
                raise ValueError(f"row {i} of the table reaches further back than the {i + 1 + self.before} points there are")
        if self.correct[-1] is not None:
            raise ValueError("the last row of a table cannot be corrected: the field is not called at the end")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Table):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in ("times", "kind", "predict", "correct", "epsilon", "before"))

    def __hash__(self) -> int:
        return hash((self.times, self.kind, self.predict))

    @property
    def nfe(self) -> int:
        """Field calls a sample."""
        return len(self.predict)

    def told(self, answer: Prediction, row: int) -> Tensor:
        """What the weights of a row multiply, read off a field's answer."""
        level = self.epsilon[row]
        if self.kind == "drift":
            return answer.drift(level)
        return answer.residual + level * answer.noise if self.kind == "residual" and level else answer.of(self.kind)

    @cached_property
    def basis(self) -> Basis | None:
        """The basis in which rows are applied: the path's, where numbers differ by coordinate."""
        return None if self.event is None else self.times.path.basis

    @cached_property
    def mends(self) -> tuple[tuple[Number, ...] | None, ...]:
        """Corrector rows as what they add to the predicted point, by weights of the predictions; None where there is no such form.

        Predictor and corrector of a step mostly carry the same earlier points on, which then need not be weighed twice.
        """
        found: list[tuple[Number, ...] | None] = []
        for row, mend in zip(self.predict, self.correct, strict=True):
            if mend is None or row.s or len(mend.a) != len(row.a) or not all(map(same, (*mend.a, mend.c), (*row.a, row.c))):
                found.append(None)
                continue
            before = (0.0, *row.w)
            size = max(len(before), len(mend.w))
            wide = lambda w, size=size: (*w, *(0.0,) * (size - len(w)))
            found.append(tuple(after - old for after, old in zip(wide(mend.w), wide(before), strict=True)))
        return tuple(found)

    @cached_property
    def depth(self) -> tuple[int, int]:
        """How many points and how many predictions the rows look back on."""
        every = [*self.predict, *(r for r in self.correct if r is not None)]
        return max(len(r.a) for r in every), max(len(r.w) for r in every)

    @property
    def stochastic(self) -> bool:
        return any(row.s > 0 for row in self.predict)

    @property
    def event(self) -> tuple[int, ...] | None:
        """The shape that samples must have, or broadcast to, where numbers differ by coordinate; else None."""
        shapes = [v.shape for row in (*self.predict, *self.correct) if row is not None for v in row.tensors if v.ndim]
        return tuple(np.broadcast_shapes(*shapes)) if shapes else None

    @cached_property
    def differentiable(self) -> bool:
        """Whether gradients are asked of one of its numbers; `sample` then records them."""
        return any(v.requires_grad for row in (*self.predict, *self.correct) if row is not None for v in row.tensors)

    def edited(self, row: int, **changes: Any) -> Table:
        """A table with the numbers `a`, `w`, `c` or `s` of one predictor row replaced."""
        if not -self.nfe <= checks.integer("row", row) < self.nfe:
            raise ValueError(f"row must be one of the table's {self.nfe}, got {row}")
        rows = list(self.predict)
        rows[row] = replace(rows[row], **changes)
        return replace(self, predict=tuple(rows))

    def inverse(self) -> Table:
        """The table that runs back from the last two points to the first, undoing this one to rounding.

        It exists where every row but the first is x_{i+1} = a_1 x_{i-1} + a_0 x_i + w p_i + c, with a_1 nowhere 0, as in `BDIA`. It calls the
        field where this one did, at the points in between, so it is begun with the last point but one and, as the point before it, the last.
        ValueError for tables with fresh noise, correctors or other rows.
        """
        if self.nfe < 2 or self.before or self.stochastic or any(self.correct):
            raise ValueError("an exactly invertible table has two rows and more, no fresh noise, no corrector and nothing before its start")
        rows = []
        for i, row in reversed(list(enumerate(self.predict))[1:]):
            if len(row.a) != 2 or len(row.w) != 1 or (bool((row.a[1] == 0).any()) if isinstance(row.a[1], Tensor) else row.a[1] == 0):
                raise ValueError(f"row {i} of the table cannot be solved for its earlier point: it needs weights of two points and of one prediction")
            newest, oldest = row.a
            rows.append(Row((-newest / oldest, 1 / oldest), (-row.w[0] / oldest,), c=-row.c / oldest))
        t = self.times.t[:-1].flip(0)
        return Table(Times(self.times.path, t, _repeats=True), self.kind, tuple(rows), origin={"inverse of": self.origin}, before=1)

    def to_json(self) -> dict:
        """A JSON-able description; `Table.from_json` gives the table back to the bit."""
        plain = lambda row: None if row is None else row.to_json()
        return {
            "path": self.times.path.to_json(), "t": self.times.t.tolist(), "kind": self.kind, "predict": [plain(r) for r in self.predict],
            "correct": [plain(r) for r in self.correct], "epsilon": list(self.epsilon), "origin": self.origin, "before": self.before,
        }

    @classmethod
    def from_json(cls, content: dict) -> Table:
        """The table that `to_json` described. ValueError for a description that is not one."""
        try:
            path = Path.from_json(content["path"])
            row = lambda r: None if r is None else Row.from_json(r)
            return cls(Times(path, content["t"], _repeats=True), content["kind"], tuple(map(row, content["predict"])),
                       tuple(map(row, content["correct"])), tuple(content["epsilon"]), dict(content["origin"]), content.get("before", 0))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a sampler table: {type(error).__name__} {error}") from None

    def save(self, file: str | FilePath, **about: Any) -> FilePath:
        """Write the table as JSON, with anything JSON-able that should be known about it; whole or not at all."""
        return save_json(file, {"format": FORMAT, "about": about, "table": self.to_json()})

    @classmethod
    def load(cls, file: str | FilePath) -> Table:
        """The table in a file that `save` wrote. FileNotFoundError without one; ValueError that names the file for any other content."""
        content = load_json(file)
        if not isinstance(content, dict) or content.get("format") != FORMAT or not isinstance(content.get("table"), dict):
            raise ValueError(f"{file} holds no sampler table of format {FORMAT}")
        try:
            return cls.from_json(content["table"])
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from None

    def __str__(self) -> str:
        show = lambda numbers: " ".join(f"{v.mean():+.5f} (of {v.numel()})" if isinstance(v, Tensor) and v.numel() > 1 else f"{float(v):+.5f}" for v in numbers)
        lines = [f"{self.nfe} calls, kind {self.kind}, t from {self.times.t[0]:g} to {self.times.t[-1]:g}"]
        for i, (row, mend) in enumerate(zip(self.predict, self.correct, strict=True)):
            noise = (f"  c {show((row.c,))}" if isinstance(row.c, Tensor) or row.c else "") + (f"  s {row.s:.5f}" if row.s else "")
            after = "" if mend is None else f"   then a {show(mend.a)}  w {show(mend.w)}"
            lines.append(f"{self.times.t[i]:.6f}  a {show(row.a)}  w {show(row.w)}{noise}{after}")
        return "\n".join(lines)


@runtime_checkable
class Rule(Protocol):
    """A solver: plans a table for given times. `order` is its order of convergence; `calls_per_step` its field calls a step."""

    order: int
    calls_per_step: ClassVar[int]

    def plan(self, times: Times) -> Table: ...

    def times(self, path: Path, steps: int) -> Times: ...

    @classmethod
    def examples(cls) -> Sequence[Rule]: ...


def planned(rule: Rule, times: Times) -> Table:
    """The table of a rule at these times, planned once; anew each time where the rule, or a schedule of the user's own, cannot be hashed."""
    try:
        hash((rule, times))
    except TypeError:
        return rule.plan(times)
    return _kept(rule, times)


@lru_cache(maxsize=256)
def _kept(rule: Rule, times: Times) -> Table:
    return rule.plan(times)
