"""PLMS: the classical Adams-Bashforth weights for the noise prediction, followed by DDIM's step.

Paper: Liu et al., Pseudo numerical methods for diffusion models on manifolds, 2022, arXiv:2202.09778 (S-PNDM's start, then four predictions).
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rheos.core import checks
from rheos.paths import Path, T, Times
from rheos.samplers.exponential import INSIDE, Exponential
from rheos.samplers.tables import Row, Table

__all__ = ["PLMS"]

# Adams-Bashforth on equal steps, newest first.
_WEIGHTS = {1: (1.0,), 2: (3 / 2, -1 / 2), 3: (23 / 12, -16 / 12, 5 / 12), 4: (55 / 24, -59 / 24, 37 / 24, -9 / 24)}


@dataclass(frozen=True)
class PLMS:
    """Linear multistep rule through the newest `predictions` of the noise, whose weights suppose equal steps in t.

    predictions: 1 (DDIM) to 4. redo_first: the first step is made again with the mean of the noise at both its ends, one call more than there
    are steps; False starts with fewer predictions instead. The order of convergence is at most 2: the step that follows the
    extrapolation is DDIM's.
    """

    predictions: int = 4
    redo_first: bool = True
    calls_per_step: ClassVar[int] = 1

    def __post_init__(self):
        checks.one_of("predictions", self.predictions, _WEIGHTS)
        checks.flag("redo_first", self.redo_first)

    @property
    def order(self) -> int:
        return min(self.predictions, 2)

    @property
    def extra_calls(self) -> int:
        """Calls beyond one a step."""
        return int(self.redo_first and self.predictions > 1)

    @classmethod
    def examples(cls) -> list[PLMS]:
        return [cls(), cls(2, False)]

    def times(self, path: Path, steps: int) -> Times:
        """Equal steps in t, from where the path holds a little data."""
        singular = not path.two_sided and float(path.coefficients(path.interval[0]).b) == 0
        return Times.uniform(path, steps, T, start=INSIDE if singular else None)

    def plan(self, times: Times) -> Table:
        if times.path.two_sided:
            raise ValueError("PLMS needs a one-sided path, got a two-sided one; use AdamsBashforth")
        redo = self.extra_calls > 0 and times.steps > 1      # a single step ends where the noise may not be known
        steps = Exponential(1, "noise").plan(times).predict      # DDIM: x, and one noise for the whole step
        points, rows = times.t.tolist(), []
        for i, row in enumerate(steps):
            kept, whole = row.a[0], row.w[0]
            weights = list(_WEIGHTS[min(self.predictions, i + 1)])
            if redo and i == 0:
                rows += [Row((kept,), (whole,)), Row((0.0, kept), (whole / 2, whole / 2))]
                continue
            if redo and len(weights) > i:
                weights.insert(i, 0.0)      # the noise at the first end of the first step made before it was made again
            rows.append(Row((kept,), tuple(whole * w for w in weights)))
        if redo:
            points.insert(1, points[1])
        return Table(Times(times.path, points, _repeats=True), "noise", tuple(rows), origin={"rule": "PLMS", "order": self.order})
