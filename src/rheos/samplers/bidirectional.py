"""BDIA: bidirectional integration, a rule that runs back exactly.

With one step of a first-order rule, Phi(i -> j), that asks the field at x_i only, forwards and backwards:
  x_{i+1} = Phi(i -> i+1) + gamma (x_{i-1} - Phi(i -> i-1))
begun by a plain step. It is linear in x_{i-1}, x_i and one prediction at x_i, so from the last two points the one before follows by a
division by gamma, at one call a step and exact to rounding: `Table.inverse`, `invert`. What the backward step missed is, up to its sign, what
the forward step will miss: with gamma = 1 the rule is of order 2, at no extra call.

Paper: Zhang et al., Exact diffusion inversion via bi-directional integration approximation, 2023, arXiv:2307.10829.
"""
from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from rheos.core import checks
from rheos.paths import Path, T, Times
from rheos.samplers.exponential import DDIM
from rheos.samplers.ordinary import Euler
from rheos.samplers.tables import Row, Rule, Table

__all__ = ["BDIA"]


@dataclass(frozen=True)
class BDIA:
    """Bidirectional integration of a first-order rule; exactly invertible.

    gamma: in (0, 1]. 1 is of order 2 and carries rounding back as it is; below 1 the order is 1 and each step back divides rounding by
    gamma, so that 0.5 loses half its digits in 25 steps. base: a rule of one prediction a step: `DDIM` of either kind, or `Euler`.
    """

    gamma: float = 1.0
    base: Rule = field(default_factory=DDIM)
    calls_per_step: ClassVar[int] = 1

    def __post_init__(self):
        checks.between("gamma", self.gamma, 0.0, 1.0, low_open=True)
        if isinstance(self.base, type) or not callable(getattr(self.base, "plan", None)):
            raise TypeError(f"base must be a rule such as DDIM(), got {self.base!r}")
        if self.base.calls_per_step != 1 or self.base.order != 1:
            raise ValueError(f"base must be of order 1 with one call a step, such as DDIM(), got {self.base}")

    @property
    def order(self) -> int:
        return 2 if self.gamma == 1 else 1

    @property
    def kind(self) -> str:
        """The kind of prediction that the base asks for, where it tells."""
        return getattr(self.base, "kind", "")

    @classmethod
    def examples(cls) -> list[BDIA]:
        return [cls(), cls(0.8), cls(base=DDIM(kind="noise")), cls(0.7, Euler())]

    def times(self, path: Path, steps: int) -> Times:
        """Equal steps in t between the base's own ends: steps that differ in length from one to the next are what gamma = 1 bears badly."""
        ends = self.base.times(path, steps).t
        return Times.uniform(path, steps, T, start=float(ends[0]), end=float(ends[-1]))

    def plan(self, times: Times) -> Table:
        """The table for these times. ValueError for a base that draws noise or weighs more than one point and one prediction."""
        onward, t = self.base.plan(times), times.t.tolist()
        if onward.stochastic or any(onward.correct) or onward.depth != (1, 1) or onward.nfe != times.steps:
            raise ValueError(f"BDIA needs a base whose rows weigh one point and one prediction, without fresh noise, got {self.base}")
        rows = [onward.predict[0]]
        for i in range(1, times.steps):
            ahead, back = onward.predict[i], self.base.plan(Times(times.path, [t[i], t[i - 1]])).predict[0]
            rows.append(Row((ahead.a[0] - self.gamma * back.a[0], self.gamma), (ahead.w[0] - self.gamma * back.w[0],)))
        return Table(times, onward.kind, tuple(rows), epsilon=onward.epsilon, origin={"rule": "BDIA", "gamma": self.gamma, "of": onward.origin})
