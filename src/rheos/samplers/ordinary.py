"""x' = v(x, t) by rules that know nothing of noise: Adams-Bashforth and Runge-Kutta, for any path, forwards or backwards."""
from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from rheos.core import checks
from rheos.paths import RHO, Clock, Path, T, Times
from rheos.samplers.exponential import Exponential
from rheos.samplers.quadrature import gauss, lagrange
from rheos.samplers.tables import Row, Table

__all__ = ["AdamsBashforth", "Euler", "RungeKutta"]


@dataclass(frozen=True)
class AdamsBashforth:
    """x' = v(x, t) by variable-step Adams-Bashforth: the velocity is extrapolated by a polynomial in t through the newest `order` ones.

    spacing: the clock in which the default times are evenly spaced.
    """

    order: int = 2
    spacing: Clock = T
    calls_per_step: ClassVar[int] = 1

    def __post_init__(self):
        checks.integer("order", self.order, least=1)

    @classmethod
    def examples(cls) -> list[AdamsBashforth]:
        return [cls(2), cls(3)]

    def times(self, path: Path, steps: int) -> Times:
        return Times.uniform(path, steps, self.spacing)

    def plan(self, times: Times) -> Table:
        t = times.t.numpy()
        rows = []
        for i in range(times.steps):
            nodes = [i - j for j in range(min(self.order, i + 1))]
            points, weights = gauss(t[i], t[i + 1])
            rows.append(Row((1.0,), tuple(lagrange(t[nodes], points) @ weights)))
        return Table(times, "velocity", tuple(rows), origin={"rule": type(self).__name__, "order": self.order})


@dataclass(frozen=True)
class Euler(AdamsBashforth):
    """Euler's rule for the flow: x + h v(x, t)."""

    order: int = 1

    @classmethod
    def examples(cls) -> list[Euler]:
        return [cls()]


def _time(clock: Clock, path: Path, value: float) -> float:
    return float(clock.time(path, torch.tensor(value, dtype=torch.float64)))


def _inside(t: float, times: Times, i: int) -> float:
    """A stage's time, which the clock's inverse may have rounded out of its step."""
    low, high = sorted((float(times.t[i]), float(times.t[i + 1])))
    return min(max(t, low), high)


# stages: rows of Butcher's matrix for stages 2, 3, ...; then the weights.
_BUTCHER: dict[int, tuple[tuple[tuple[float, ...], ...], tuple[float, ...]]] = {
    2: (((1.0,),), (1 / 2, 1 / 2)),                                                        # Heun
    3: (((1 / 2,), (-1.0, 2.0)), (1 / 6, 2 / 3, 1 / 6)),                                   # Kutta
    4: (((1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),          # the classical rule
}


@dataclass(frozen=True)
class RungeKutta:
    """Heun's, Kutta's and the classical Runge-Kutta rule, `order` field calls a step; several rows of the table make one step.

    kind "velocity" steps x' = v in t. kind "noise" is rhoRK-DEIS (arXiv:2204.13902): d(x / alpha) / drho = eps, so the linear part is exact.
    """

    order: int = 2
    kind: str = "velocity"
    asks_at_end: ClassVar[bool] = True      # the last stage of some lies at the end of the step

    def __post_init__(self):
        checks.one_of("order", self.order, _BUTCHER)
        checks.one_of("kind", self.kind, ("velocity", "noise"))

    @property
    def calls_per_step(self) -> int:
        return self.order

    @classmethod
    def examples(cls) -> list[RungeKutta]:
        return [cls(2), cls(3, "noise"), cls(4)]

    def times(self, path: Path, steps: int) -> Times:
        if self.kind == "velocity":
            return Times.uniform(path, steps, T)
        return Exponential(1, "noise").times(path, steps)

    def plan(self, times: Times) -> Table:
        if self.kind == "noise" and times.path.two_sided:
            raise ValueError("RungeKutta with kind noise needs a one-sided path, got a two-sided one; use kind velocity")
        stages, weights = _BUTCHER[self.order]
        clock = T if self.kind == "velocity" else RHO
        value = clock.value(times.path, times.t).tolist()
        if not all(math.isfinite(v) for v in value):
            raise ValueError("a noise prediction cannot carry on from or to a time without data (alpha = 0); start the times a little after")
        points: list[float] = []
        moves: list[tuple[int, int, tuple[float, ...], float]] = []      # row, points back to the step's own start, weights, length
        for i in range(times.steps):
            step = value[i + 1] - value[i]
            for j, row in enumerate((*stages, weights)):
                points.append(float(times.t[i]) if j == 0 else _inside(_time(clock, times.path, value[i] + sum(stages[j - 1]) * step), times, i))
                moves.append((len(points) - 1, j, row, step))
        points.append(float(times.t[-1]))
        planned = Times(times.path, points, _repeats=True)
        scale = [1.0] * len(points) if self.kind == "velocity" else planned.alpha.tolist()
        rows = [Row((*(0.0,) * back, scale[i + 1] / scale[i - back]), tuple(scale[i + 1] * step * v for v in reversed(row))) for i, back, row, step in moves]
        return Table(planned, self.kind, tuple(rows), origin={"rule": type(self).__name__, "order": self.order})


