"""Every public coupling meets the suite; and broken ones turn it red, each on the line that its fault belongs to."""
from typing import ClassVar

import pytest
import torch

from rheos.core import Draws
from rheos.couplings import Independent, MinibatchOT, Pair, Paired
from rheos.data import skewed, two_moons
from rheos.testing.couplings import COUPLING_LINES, check_coupling, coupling_rows, public_couplings

TABLE = coupling_rows(public_couplings())


@pytest.mark.parametrize(("cls", "line"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_public_coupling(cls, line):
    check_coupling(cls, [line])


def test_the_room_is_found():
    assert {cls.__name__ for cls in public_couplings()} >= {"Independent", "Paired", "MinibatchOT", "Reflow"}


X0, X1 = two_moons().sample(60, seed=4), skewed().sample(60, seed=3)


class Broken(Independent):
    @classmethod
    def examples(cls):
        return [cls(X1, X0, cond={"row": torch.arange(60), "place": X1[:, :1]})]


class GlobalStream(Broken):
    def sample(self, n, *, seed=0, step=0):
        pair = super().sample(n, seed=seed, step=step)
        return Pair(pair.x1, pair.x0[torch.randperm(n)], pair.cond)


class Counts(Broken):
    calls = 0

    def sample(self, n, *, seed=0, step=0):
        self.calls += 1
        return super().sample(n, seed=seed, step=step + self.calls)


class ForgetsTheStep(Broken):
    def sample(self, n, *, seed=0, step=0):
        return super().sample(n, seed=seed)


class ForgetsTheSeed(Broken):
    def sample(self, n, *, seed=0, step=0):
        return super().sample(n, step=step)


class Promotes(Broken):
    def sample(self, n, *, seed=0, step=0):
        pair = super().sample(n, seed=seed, step=step)
        return Pair(pair.x1.float(), pair.x0.float(), pair.cond)


class TooMany(Broken):
    def sample(self, n, *, seed=0, step=0):
        return super().sample(max(n, 2), seed=seed, step=step)


class WithReplacement(Broken):
    def sample(self, n, *, seed=0, step=0):
        rows = Draws.of(seed).integers("rows", step, (n,), 60)
        return Pair(X1[rows], X0[rows], {"row": rows, "place": X1[rows, :1]})


class Jitters(Broken):
    def sample(self, n, *, seed=0, step=0):
        pair = super().sample(n, seed=seed, step=step)
        return Pair(pair.x1 + 1e-6, pair.x0, pair.cond)


class Shrinks(Broken):
    """Noise of the wrong size in the source's place."""

    def sample(self, n, *, seed=0, step=0):
        return super().sample(n, seed=seed, step=step)

    @classmethod
    def examples(cls):
        made = MinibatchOT(X1)
        take = made.sample
        made.sample = lambda n, *, seed=0, step=0: (lambda p: Pair(p.x1, 0.7 * p.x0, p.cond))(take(n, seed=seed, step=step))
        return [made]


class LosesConditions(Broken):
    def sample(self, n, *, seed=0, step=0):
        pair = super().sample(n, seed=seed, step=step)
        return Pair(pair.x1, pair.x0)


class MovesTargetsWithoutConditions(MinibatchOT):
    """Puts x1 in order instead of x0 and leaves the conditions behind."""

    def sample(self, n, *, seed=0, step=0):
        pair = super().sample(n, seed=seed, step=step)
        order = pair.x1[:, 0].argsort()
        return Pair(pair.x1[order], pair.x0[order], pair.cond)

    @classmethod
    def examples(cls):
        return [cls(X1, X0, cond=torch.arange(60))]


class TakesPairsApart(Paired):
    exempt: ClassVar[dict[str, str]] = {}

    def sample(self, n, *, seed=0, step=0):
        pair = super().sample(n, seed=seed, step=step)
        return Pair(pair.x1, pair.x0.flip(0), pair.cond)


class Pessimal(MinibatchOT):
    """The dearest pairs."""

    def _costs(self, x0, x1):
        return -super()._costs(x0, x1)

    @classmethod
    def examples(cls):
        return [cls(X1, X0)]


class WrongPower(Paired):
    def cost(self, p=2.0):
        return super().cost(p) ** (1 / p)


class LooksAtTheOrder(MinibatchOT):
    def _costs(self, x0, x1):
        return super()._costs(x0, x1) + 3.0 * torch.arange(len(x0)).outer(torch.arange(len(x1)))

    @classmethod
    def examples(cls):
        return [cls(X1, X0)]


@pytest.mark.parametrize(("broken", "line"), [
    (GlobalStream, "function of seed and step"), (Counts, "function of seed and step"), (ForgetsTheStep, "steps and seeds differ"),
    (ForgetsTheSeed, "steps and seeds differ"), (Promotes, "counts and kinds"), (TooMany, "counts and kinds"), (WithReplacement, "marginals"),
    (Jitters, "marginals"), (Shrinks, "marginals"), (LosesConditions, "conditions stay"), (MovesTargetsWithoutConditions, "conditions stay"),
    (TakesPairsApart, "fixed pairs stay"), (Pessimal, "cost at most independent"), (WrongPower, "cost is measured"), (LooksAtTheOrder, "plan is a plan"),
])
def test_planted_broken_couplings_turn_the_suite_red(broken, line):
    with pytest.raises(AssertionError, match=f"{broken.__name__}, example 0, {line}"):
        check_coupling(broken, [entry for entry in COUPLING_LINES if entry.name == line])


def test_a_declared_exemption_holds_the_suite_off_and_a_needless_one_is_red():
    class Declared(ForgetsTheSeed):
        exempt: ClassVar[dict[str, str]] = {"steps and seeds differ": "one order for all", "function of seed and step": "none"}

    class Misspelt(Broken):
        exempt: ClassVar[dict[str, str]] = {"marginal": "says so"}

    entry = {line.name: line for line in COUPLING_LINES}
    check_coupling(Declared, [entry["steps and seeds differ"]])
    with pytest.raises(AssertionError, match="declares itself exempt from 'function of seed and step' but meets it"):
        check_coupling(Declared, [entry["function of seed and step"]])
    with pytest.raises(AssertionError, match="unknown lines"):
        check_coupling(Misspelt)


def test_a_public_coupling_without_examples_is_refused(monkeypatch):
    import rheos.couplings

    class Bare:
        def sample(self, n, *, seed=0, step=0): ...

    monkeypatch.setattr(rheos.couplings, "Bare", Bare, raising=False)
    monkeypatch.setattr(rheos.couplings, "__all__", [*rheos.couplings.__all__, "Bare"])
    with pytest.raises(TypeError, match="Bare is a public coupling without examples"):
        public_couplings()
