"""Every public dynamics meets the suite; and broken ones turn it red, each on the line that its fault belongs to."""
from dataclasses import dataclass, field
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from rheos.core import Draws, Example
from rheos.testing import LINES, check_dynamics, discover, observed_order, rows

TABLE = rows(discover())


@pytest.mark.parametrize(("cls", "number", "line"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_public_dynamics(cls, number, line):
    check_dynamics(cls, number, [line])


@dataclass
class Walk:
    x: Tensor
    step: int = 0


@dataclass(frozen=True, eq=False)
class Good:
    """A random walk that draws as it should."""

    seed: int = 0
    calls: list = field(default_factory=list)
    exempt: ClassVar[dict[str, str]] = {}

    def step(self, state):
        return Walk(state.x + Draws(self.seed).rows("walk", state.step, (3, 2)), state.step + 1)

    @classmethod
    def examples(cls):
        return [Example(cls(), Walk(torch.zeros(3, 2)), 6)]


class GlobalStream(Good):
    def step(self, state):
        return Walk(state.x + torch.randn(3, 2), state.step + 1)


class RemembersOutsideTheState(Good):
    def step(self, state):
        self.calls.append(1)
        return Walk(state.x + len(self.calls), state.step + 1)


class HidesACounter(Good):
    """Keeps a number in a private attribute: a fresh object does not have it."""

    def step(self, state):
        count = getattr(self, "_count", 0)
        object.__setattr__(self, "_count", count + 1)
        return Walk(state.x + count, state.step + 1)


class Promotes(Good):
    def step(self, state):
        return Walk(state.x.double() + 1, state.step + 1)


class Reshapes(Good):
    def step(self, state):
        return Walk(state.x.reshape(2, 3) + 1 if state.x.shape[0] == 3 else state.x + 1, state.step + 1)


class Explodes(Good):
    def step(self, state):
        return Walk((state.x + 1) * 1e30, state.step + 1)


class StandsStill(Good):
    def step(self, state):
        return Walk(state.x, state.step + 1)


class Miscounts(Good):
    def step(self, state):
        return Walk(state.x + 1, state.step + 2 if state.step == 2 else state.step + 1)


class WrongAnswer(Good):
    def step(self, state):
        return Walk(state.x + 1.001, state.step + 1)

    @classmethod
    def examples(cls):
        return [Example(cls(), Walk(torch.zeros(3, 2)), 6, lambda s: (s.x, torch.full((3, 2), 6.0)))]


def test_the_planted_good_method_meets_every_line():
    check_dynamics(Good)


@pytest.mark.parametrize(("broken", "line"), [
    (GlobalStream, "examples repeat"), (GlobalStream, "split run = whole run"), (GlobalStream, "resumed run = whole run"),
    (RemembersOutsideTheState, "resumed run = whole run"), (RemembersOutsideTheState, "settings unchanged"),
    (HidesACounter, "resumed run = whole run"), (Promotes, "keeps dtype, device, shape"), (Reshapes, "keeps dtype, device, shape"),
    (Miscounts, "keeps dtype, device, shape"), (Explodes, "stays finite"), (StandsStill, "moves"), (WrongAnswer, "gives the answer"),
])
def test_planted_broken_methods_turn_the_suite_red(broken, line):
    with pytest.raises(AssertionError, match=f"{broken.__name__}, example 0, {line}"):
        check_dynamics(broken, 0, [entry for entry in LINES if entry.name == line])


def test_a_declared_exemption_holds_the_suite_off_and_a_needless_one_is_red():
    class Declared(Miscounts):
        exempt: ClassVar[dict[str, str]] = {"keeps dtype, device, shape": "counts as it likes"}

    class Needless(Good):
        exempt: ClassVar[dict[str, str]] = {"moves": "says so"}

    class Misspelt(Good):
        exempt: ClassVar[dict[str, str]] = {"move": "says so"}

    check_dynamics(Declared)
    with pytest.raises(AssertionError, match="declares itself exempt from 'moves' but meets it"):
        check_dynamics(Needless)
    with pytest.raises(AssertionError, match="unknown lines"):
        check_dynamics(Misspelt)


def test_examples_too_short_to_be_cut_are_refused():
    class Short(Good):
        @classmethod
        def examples(cls):
            return [Example(cls(), Walk(torch.zeros(3, 2)), 2)]

    with pytest.raises(AssertionError, match="examples need 3 steps or more"):
        check_dynamics(Short)


def test_a_public_dynamics_without_examples_is_refused(monkeypatch):
    import rheos.core

    class Bare:
        def step(self, state): ...

    monkeypatch.setattr(rheos.core, "Bare", Bare, raising=False)
    monkeypatch.setattr(rheos.core, "__all__", [*rheos.core.__all__, "Bare"])
    with pytest.raises(TypeError, match="Bare is a public dynamics without examples"):
        discover(["core"])


def test_observed_order_of_a_known_error():
    assert abs(observed_order(lambda n: torch.tensor([1 + 3.0 / n**2], dtype=torch.float64), torch.ones(1, dtype=torch.float64), [8, 16, 32]) - 2) < 1e-6
    with pytest.raises(ValueError, match="errors must be positive"):
        observed_order(lambda n: torch.ones(1), torch.ones(1), [1, 2])
