"""The SDE of a path by Euler and Maruyama's rule, at any level of noise."""
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from rheos.core import checks
from rheos.paths import Path, T, Times
from rheos.samplers.tables import Row, Table

__all__ = ["EulerMaruyama"]


def _falling(t: float) -> float:
    return 1 - t


@dataclass(frozen=True)
class EulerMaruyama:
    """dX = (v + epsilon score) dt + sqrt(2 epsilon) dW: an SDE with the path's marginals for every epsilon >= 0 (arXiv:2303.08797).

    epsilon: a number, or a function of t. 0 is the probability flow by Euler's rule. On times that fall, the backward SDE is meant.
    """

    epsilon: float | Callable[[float], float] = 1.0
    order: ClassVar[int] = 1
    calls_per_step: ClassVar[int] = 1

    def __post_init__(self):
        if not callable(self.epsilon):
            checks.positive("epsilon", self.epsilon, zero=True)

    @classmethod
    def examples(cls) -> list[EulerMaruyama]:
        return [cls(0.5), cls(_falling)]

    def times(self, path: Path, steps: int) -> Times:
        return Times.uniform(path, steps, T)

    def plan(self, times: Times) -> Table:
        rows, levels = [], []
        for start, end in zip(times.t.tolist(), times.t[1:].tolist(), strict=False):
            level = checks.positive("epsilon", self.epsilon(start), zero=True) if callable(self.epsilon) else float(self.epsilon)
            step = end - start
            rows.append(Row((1.0,), (step,), math.sqrt(2 * level * abs(step))))
            levels.append(math.copysign(level, step))
        return Table(times, "drift", tuple(rows), epsilon=tuple(levels), origin={"rule": type(self).__name__})


