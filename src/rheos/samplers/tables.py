"""A solver is a table of numbers: x_{i+1} = sum_j a_j x_{i-j} + sum_j w_j p_{i-j} + s z, newest first, p the field's predictions.

A rule looks at the times only and plans a `Table` once; sampling is then a dumb loop (`Multistep`). Tables can be printed, saved as
JSON, compared and edited. A row may be followed by a corrector row, which weighs the prediction at the new point as well and so costs
no extra call: the point is mended when that prediction is there.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch

from rheos.core import checks
from rheos.paths import Path, Times

__all__ = ["Row", "Rule", "Table", "planned"]

TABLE_KINDS = ("velocity", "noise", "data", "score", "drift")
LARGEST_RATIO = 1e3      # weights this large against their sum mean that a polynomial is extrapolated far beyond its nodes


@dataclass(frozen=True)
class Row:
    """One linear step: `a` weighs the points, `w` the predictions, newest first; `s` is the standard deviation of fresh noise."""

    a: tuple[float, ...]
    w: tuple[float, ...]
    s: float = 0.0

    def __post_init__(self):
        for name in ("a", "w"):
            object.__setattr__(self, name, tuple(float(v) for v in getattr(self, name)))
        numbers = torch.tensor([*self.a, *self.w, self.s], dtype=torch.float64)
        checks.finite("the numbers of a table row", numbers)
        checks.positive("s", self.s, zero=True)


@dataclass(frozen=True, eq=False)
class Table:
    """The whole plan of a sampling run.

    times: the evaluation points and the end, one more than rows; they may stand still or turn between the stages of one step.
    kind: what the weights `w` multiply. predict: a row a field call. correct: rows that mend the point of the row beside them, or None;
    their first weight belongs to the prediction at that point. epsilon: noise level a row, for the kind "drift".
    """

    times: Times
    kind: str
    predict: tuple[Row, ...]
    correct: tuple[Row | None, ...] = ()
    epsilon: tuple[float, ...] = ()
    origin: dict = field(default_factory=dict)

    def __post_init__(self):
        checks.one_of("kind", self.kind, TABLE_KINDS)
        object.__setattr__(self, "predict", tuple(self.predict))
        object.__setattr__(self, "correct", tuple(self.correct) or (None,) * len(self.predict))
        object.__setattr__(self, "epsilon", tuple(self.epsilon) or (0.0,) * len(self.predict))
        for name, size in (("times", len(self.times) - 1), ("correct", len(self.correct)), ("epsilon", len(self.epsilon))):
            if size != len(self.predict):
                raise ValueError(f"table.{name} must fit its {len(self.predict)} rows, got {size}")
        if not self.predict:
            raise ValueError("table.predict must hold at least one row")
        for i, row in enumerate(self.predict):
            if len(row.a) > i + 1 or len(row.w) > i + 1:
                raise ValueError(f"row {i} of the table reaches further back than the {i + 1} points there are")
        if self.correct[-1] is not None:
            raise ValueError("the last row of a table cannot be corrected: the field is not called at the end")

    @property
    def nfe(self) -> int:
        """Field calls a sample."""
        return len(self.predict)

    @cached_property
    def mends(self) -> tuple[tuple[float, ...] | None, ...]:
        """Corrector rows as what they add to the predicted point, by weights of the predictions; None where there is no such form.

        Predictor and corrector of a step mostly carry the same earlier points on, which then need not be weighed twice.
        """
        found: list[tuple[float, ...] | None] = []
        for row, mend in zip(self.predict, self.correct, strict=True):
            if mend is None or mend.a != row.a or row.s:
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

    def edited(self, row: int, **changes: Any) -> Table:
        """A table with the numbers `a`, `w` or `s` of one predictor row replaced."""
        rows = list(self.predict)
        rows[row] = replace(rows[row], **changes)
        return replace(self, predict=tuple(rows))

    def to_json(self) -> dict:
        """A JSON-able description; `Table.from_json` gives the table back to the bit."""
        plain = lambda row: None if row is None else {"a": row.a, "w": row.w, "s": row.s}
        return {
            "path": self.times.path.to_json(), "t": self.times.t.tolist(), "kind": self.kind, "predict": [plain(r) for r in self.predict],
            "correct": [plain(r) for r in self.correct], "epsilon": list(self.epsilon), "origin": self.origin,
        }

    @classmethod
    def from_json(cls, content: dict) -> Table:
        """The table that `to_json` described. ValueError for a description that is not one."""
        try:
            path = Path.from_json(content["path"])
            row = lambda r: None if r is None else Row(tuple(r["a"]), tuple(r["w"]), r["s"])
            return cls(Times(path, content["t"], _repeats=True), content["kind"], tuple(map(row, content["predict"])),
                       tuple(map(row, content["correct"])), tuple(content["epsilon"]), dict(content["origin"]))
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a sampler table: {type(error).__name__} {error}") from None

    def __str__(self) -> str:
        show = lambda numbers: " ".join(f"{v:+.5f}" for v in numbers)
        lines = [f"{self.nfe} calls, kind {self.kind}, t from {self.times.t[0]:g} to {self.times.t[-1]:g}"]
        for i, (row, mend) in enumerate(zip(self.predict, self.correct, strict=True)):
            noise = f"  s {row.s:.5f}" if row.s else ""
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
