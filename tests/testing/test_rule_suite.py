"""Every public sampling rule meets the suite; and broken ones turn it red, each on the line that its fault belongs to."""
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest

from rheos.samplers import DDIM, DDPM, AdamsBashforth, DPMSolverPP, EulerMaruyama, Exponential, Row, Rule, RungeKutta, public_rules
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


class QuietAncestor(DDPM):
    """A tenth of the noise is missing."""

    def plan(self, times):
        return changed(super().plan(times), s=lambda s: 0.9 * s)


class ForgetsWhichWay(EulerMaruyama):
    """Backwards it takes the score with the forward SDE's sign."""

    def plan(self, times):
        table = super().plan(times)
        return replace(table, epsilon=tuple(abs(v) for v in table.epsilon))


class LostOnLoudPaths(Exponential):
    """A third of each step is lost where the noise outgrows the data."""

    def plan(self, times):
        table = super().plan(times)
        return changed(table, w=lambda w: tuple(0.7 * v for v in w)) if float(times.sigma[0]) > 2 else table


class MiscountsItsSteps(Exponential):
    def times(self, path, steps):
        return super().times(path, steps + 1)


class AsksAtTheEnd(RungeKutta):
    """Does not say that its last stage lies where x is the data."""

    asks_at_end: ClassVar[bool] = False


class ExemptForNoReason(Exponential):
    exempt: ClassVar[dict[str, str]] = {"order": "so it says"}


BROKEN = [(LosesAWeight(2), "order"), (LosesAWeight(2), "goes back"), (ForgetsItsHistory(), "order"), (TooNoisy(1.0), "keeps the law"),
          (MiscountsItsCalls(), "field calls"), (SwapsItsPredictions(2), "order"), (OnlyForwards(), "goes back"), (ExemptForNoReason(), "order"),
          (QuietAncestor(), "moments"), (ForgetsWhichWay(1.0), "moments"), (LostOnLoudPaths(2), "right on every schedule"),
          (MiscountsItsSteps(2), "right on every schedule"), (AsksAtTheEnd(2), "every kind of network")]


@pytest.mark.parametrize(("rule", "name"), BROKEN, ids=[f"{type(rule).__name__}-{name}" for rule, name in BROKEN])
def test_a_broken_rule_turns_its_line_red(rule, name):
    assert isinstance(rule, Rule)
    with pytest.raises(AssertionError, match=name):
        check_rule(rule, tuple(line for line in RULE_LINES if line.name == name))


def test_an_unknown_exemption_is_named():
    with pytest.raises(AssertionError, match="unknown lines"):
        check_rule(type("Odd", (DDIM,), {"exempt": {"ordre": "a slip"}})())
