"""Checks and verdicts: a claim measures, `judge` decides.

A `Check` is one measured number, the bound it should keep, and the same number measured with the paper's own idea taken away.
`judge` looks at the rows of all seeds together and says whether the paper's point holds here.
"""
from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import no_type_check

__all__ = ["DOES_NOT_HOLD", "HOLDS", "IN_PART", "NOT_MEASURABLE", "Check", "RowVerdict", "Scale", "Verdict", "judge"]

HOLDS, IN_PART, DOES_NOT_HOLD, NOT_MEASURABLE = "holds", "holds in part", "does not hold here", "not measurable here"


class Scale(enum.Enum):
    """How much a claim spends: FULL answers the question (up to 90 CPU seconds a seed), SMOKE only shows that it runs (up to 1.5)."""

    FULL = "full"
    SMOKE = "smoke"


@no_type_check          # ints, arrays and 0-d tensors are welcome: __post_init__ looks at them and keeps floats
@dataclass(frozen=True)
class Check:
    """One row of a claim: `value` should be `relation` `threshold`, and `control` should not.

    name:      what is measured, with its unit; the same for every seed.
    value:     the measurement: a number, a 0-d tensor or a 0-d array. NaN and infinities are kept and never pass.
    relation:  "<=" or ">=".
    threshold: the bound, a finite number, written down before the run.
    control:   the same measurement with the paper's idea taken away, measured in the same run; None only where core is False.
    core:      whether the row carries the paper's point; a supporting row is shown and does not decide.

    ValueError for another relation, a threshold that is not finite, a value that is no number, or a core row without a control.

    >>> row = Check("error, ratio to Euler", 0.2, "<=", 0.5, control=1.01)
    >>> row.passes, row.control_passes
    (True, False)
    """

    name: str
    value: float
    relation: str
    threshold: float
    control: float | None
    core: bool = True

    def __post_init__(self):
        if not isinstance(self.name, str) or not self.name.strip():
            raise ValueError(f"check.name must say what is measured, got {self.name!r}")
        if self.relation not in ("<=", ">="):
            raise ValueError(f"check.relation must be '<=' or '>=', got {self.relation!r} in {self.name!r}")
        for field in ("value", "threshold", "control"):
            given = getattr(self, field)
            if field != "control" or given is not None:
                object.__setattr__(self, field, _number(f"check.{field}", given, self.name))
        if not math.isfinite(self.threshold):
            raise ValueError(f"check.threshold must be finite, got {self.threshold} in {self.name!r}")
        if not isinstance(self.core, bool):
            raise ValueError(f"check.core must be True or False, got {self.core!r} in {self.name!r}")
        if self.core and self.control is None:
            raise ValueError(f"check.control must be measured in a core row, got None in {self.name!r}; a supporting row has core=False")

    def _keeps(self, number: float) -> bool:
        if not math.isfinite(number):
            return False
        return number <= self.threshold if self.relation == "<=" else number >= self.threshold

    @property
    def passes(self) -> bool:
        """Whether the value is finite and keeps the bound."""
        return self._keeps(self.value)

    @property
    def control_passes(self) -> bool:
        """Whether the control keeps the bound too, so that the row measures nothing; False without a control."""
        return self.control is not None and self._keeps(self.control)

    @property
    def bound(self) -> tuple[str, str, float, bool]:
        """What must be the same for every seed: name, relation, threshold, core."""
        return self.name, self.relation, self.threshold, self.core


@dataclass(frozen=True)
class RowVerdict:
    """What all seeds say about one row: `outcome` is "pass", "fail" or "unclear"."""

    name: str
    outcome: str
    core: bool


@dataclass(frozen=True)
class Verdict:
    """What all rows say about a paper: `paper` is one of the four sentences at the head of this module, `rows` in the claim's order."""

    paper: str
    rows: tuple[RowVerdict, ...]

    def __str__(self) -> str:
        return self.paper


def judge(rows_by_seed: Mapping[int, Sequence[Check]]) -> Verdict:
    """The verdict of one claim from the rows of each of its seeds.

    A row passes if it passes for every seed and fails if it fails for every seed. It is unclear if seeds disagree, if its control passes
    for some seed (then it measures nothing), or if a control is not finite (then nothing was compared).
    All core rows pass: holds. Some pass and some fail: holds in part. None passes and one fails: does not hold here.
    Otherwise: not measurable here. Supporting rows get an outcome and decide nothing.

    ValueError without seeds, without a core row, for two rows of one name, and when seeds differ in a row's name, relation, threshold
    or core.

    >>> judge({0: [Check("ratio", 0.2, "<=", 0.5, 1.0)], 1: [Check("ratio", 0.3, "<=", 0.5, 1.1)]}).paper
    'holds'
    """
    if not rows_by_seed:
        raise ValueError("rows_by_seed must hold at least one seed, got none")
    seeds = list(rows_by_seed)
    first = {check.name: check for check in rows_by_seed[seeds[0]]}
    by_name: dict[str, list[Check]] = {name: [] for name in first}
    for seed in seeds:
        rows = {check.name: check for check in rows_by_seed[seed]}
        if len(rows) != len(rows_by_seed[seed]):
            names = [check.name for check in rows_by_seed[seed]]
            twice = sorted({name for name in names if names.count(name) > 1})
            raise ValueError(f"rows must have names of their own, got {twice} more than once for seed {seed}")
        odd = sorted({bound[0] for bound in {check.bound for check in rows.values()} ^ {check.bound for check in first.values()}})
        if odd:
            raise ValueError("seeds must give rows of the same name, relation, threshold and core, "
                             f"but seeds {seeds[0]} and {seed} differ in {odd}")
        for name in by_name:
            by_name[name].append(rows[name])
    if not any(check.core for check in first.values()):
        raise ValueError("a claim must have at least one core row, got none")

    verdicts = tuple(RowVerdict(name, _outcome(checks), checks[0].core) for name, checks in by_name.items())
    core = [row.outcome for row in verdicts if row.core]
    if all(outcome == "pass" for outcome in core):
        paper = HOLDS
    elif "pass" in core and "fail" in core:
        paper = IN_PART
    elif "pass" not in core and "fail" in core:
        paper = DOES_NOT_HOLD
    else:
        paper = NOT_MEASURABLE
    return Verdict(paper, verdicts)


def _outcome(checks: Sequence[Check]) -> str:
    if any(check.control_passes or (check.control is not None and not math.isfinite(check.control)) for check in checks):
        return "unclear"
    passes = [check.passes for check in checks]
    return "pass" if all(passes) else "unclear" if any(passes) else "fail"


def _number(argument: str, given: object, row: str) -> float:
    """A float from a number, a 0-d tensor or a 0-d array, without importing either library."""
    item = given.item() if getattr(given, "ndim", None) == 0 and hasattr(given, "item") else given
    # True is an int to Python, but "it worked" is not a measurement: the number behind it should be shown.
    if isinstance(item, bool) or not isinstance(item, (int, float)):
        raise ValueError(f"{argument} must be a number or a 0-d tensor, got {type(given).__name__} in {row!r}")
    return float(item)
