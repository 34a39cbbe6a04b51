"""Every public sampling rule meets the suite; and broken ones turn it red, each on the line that its fault belongs to."""
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest

from rheos.samplers import DDIM, AdamsBashforth, DPMSolverPP, EulerMaruyama, Exponential, Row, Rule, public_rules
from rheos.testing import RULE_LINES, check_rule

NAMED = [(f"{type(rule).__name__} {number}", rule) for number, rule in enumerate(public_rules())]


@pytest.mark.parametrize("rule", [rule for _, rule in NAMED], ids=[name for name, _ in NAMED])
@pytest.mark.parametrize("line", RULE_LINES, ids=[line.name for line in RULE_LINES])
def test_public_rules(rule, line):
    check_rule(rule, (line,))


def changed(table, **rows):
    return replace(table, predict=tuple(replace(row, **{name: change(getattr(row, name)) for name, change in rows.items()}) for row in table.predict))


class LosesAWeight(Exponential):
    """One part in fifty of the step is lost."""

    def plan(self, times):
        return changed(super().plan(times), w=lambda w: tuple(0.98 * v for v in w))


class ForgetsItsHistory(DPMSolverPP):
    """Declares order 2 and is DDIM."""

    def plan(self, times):
        return DDIM().plan(times)


class TooNoisy(EulerMaruyama):
    """Noise with the variance of a standard deviation: 2 epsilon instead of its root."""

    def plan(self, times):
        return changed(super().plan(times), s=lambda s: s**2 * 8)


class MiscountsItsCalls(AdamsBashforth):
    calls_per_step: ClassVar[int] = 2


class SwapsItsPredictions(Exponential):
    """The newest prediction gets the oldest one's weight."""

    def plan(self, times):
        return changed(super().plan(times), w=lambda w: tuple(reversed(w)))


@dataclass(frozen=True)
class OnlyForwards(AdamsBashforth):
    """Takes the length of a step for the step."""

    def plan(self, times):
        table = super().plan(times)
        return table if times.t[1] > times.t[0] else replace(table, predict=tuple(Row(row.a, tuple(-v for v in row.w)) for row in table.predict))


class ExemptForNoReason(Exponential):
    exempt: ClassVar[dict[str, str]] = {"order": "so it says"}


BROKEN = [(LosesAWeight(2), "order"), (LosesAWeight(2), "goes back"), (ForgetsItsHistory(), "order"), (TooNoisy(1.0), "keeps the law"),
          (MiscountsItsCalls(), "field calls"), (SwapsItsPredictions(2), "order"), (OnlyForwards(), "goes back"), (ExemptForNoReason(), "order")]


@pytest.mark.parametrize(("rule", "name"), BROKEN, ids=[f"{type(rule).__name__}-{name}" for rule, name in BROKEN])
def test_a_broken_rule_turns_its_line_red(rule, name):
    assert isinstance(rule, Rule)
    with pytest.raises(AssertionError, match=name):
        check_rule(rule, tuple(line for line in RULE_LINES if line.name == name))


def test_an_unknown_exemption_is_named():
    with pytest.raises(AssertionError, match="unknown lines"):
        check_rule(type("Odd", (DDIM,), {"exempt": {"ordre": "a slip"}})())
