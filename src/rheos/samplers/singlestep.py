"""DPM-Solver and DPM-Solver++ as single-step rules: every step asks the field anew at stages inside it and keeps no history.

DPM-Solver (Lu et al., 2022, arXiv:2206.00927) takes the noise prediction, DPM-Solver++ 2S (arXiv:2211.01095) the data prediction. With h the
step in lam, y the kind that is predicted and phi(h) the weight of a constant y over it, the stages at r h are x(r) = keep x + phi(r h) y_0 +
(a second-order term in the differences y(r) - y_0).
"""
from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from rheos.core import checks
from rheos.paths import Coefficients, Path, Times
from rheos.samplers.exponential import Exponential
from rheos.samplers.tables import Row, Table

__all__ = ["Singlestep"]


@dataclass(frozen=True)
class Singlestep:
    """`order` field calls a step: order 2 asks at the middle of the step in lam, order 3 at a third and two thirds.

    kind "noise" is DPM-Solver-2 and -3, "data" DPM-Solver++ 2S and its third-order kin.
    """

    order: int = 2
    kind: str = "data"
    asks_at_end: ClassVar[bool] = False

    def __post_init__(self):
        checks.one_of("order", self.order, (2, 3))
        checks.one_of("kind", self.kind, ("data", "noise"))

    @property
    def calls_per_step(self) -> int:
        return self.order

    @classmethod
    def examples(cls) -> list[Singlestep]:
        return [cls(2, "data"), cls(3, "data"), cls(2, "noise"), cls(3, "noise")]

    def times(self, path: Path, steps: int) -> Times:
        """The default spacing, kept clear of times where lam is infinite."""
        return Exponential(2, self.kind).times(path, steps)

    def plan(self, times: Times) -> Table:
        if times.path.two_sided:
            raise ValueError("Singlestep needs a one-sided path, got a two-sided one; use RungeKutta")
        lam = times.lam.tolist()
        if not all(map(math.isfinite, lam)):
            worst = next(i for i, v in enumerate(lam) if not math.isfinite(v))
            raise ValueError(f"lam is infinite at t = {times.t[worst]:g} of this path; start or end the times a little inside")
        inner = (0.0, 0.5) if self.order == 2 else (0.0, 1 / 3, 2 / 3)
        points = [t for i in range(times.steps) for t in self._stages(times, lam, i, inner)] + [float(times.t[-1])]
        planned = Times(times.path, points, _repeats=True)
        rows = []
        for i in range(times.steps):
            first = i * self.order
            start = planned.each[first]
            for j, r in enumerate((*inner[1:], 1.0)):
                keep, whole, bend = self._weights(start, planned.each[first + j + 1], r * (lam[i + 1] - lam[i]))
                w = [0.0] * (j + 1)           # oldest first: the step's own start, then its stages
                w[0] = whole
                if j:
                    # Order 2 leans on its one stage by the middle form; order 3 by the first stage, then by the second.
                    stage = 1 if self.order == 2 or j == 1 else 2
                    share = 0.5 * whole / inner[1] if self.order == 2 else bend * r / inner[stage]
                    w[stage] += share
                    w[0] -= share
                rows.append(Row((*(0.0,) * j, keep), tuple(reversed(w))))
        return Table(planned, self.kind, tuple(rows), origin={"rule": "Singlestep", "order": self.order})

    def _stages(self, times: Times, lam: list[float], i: int, inner: tuple[float, ...]) -> list[float]:
        step = lam[i + 1] - lam[i]
        inside = torch.tensor([lam[i] + r * step for r in inner[1:]], dtype=torch.float64)
        return [float(times.t[i]), *times.path.time_at(inside).tolist()]

    def _weights(self, start: Coefficients, end: Coefficients, h: float) -> tuple[float, float, float]:
        """Weights of x, of a constant prediction, and of one that rises linearly from 0 to 1 over the step h."""
        if self.kind == "data":
            return end.c / start.c, -end.b * math.expm1(-h), end.b * (math.expm1(-h) / h + 1)
        return end.b / start.b, -end.c * math.expm1(h), -end.c * (math.expm1(h) / h - 1)
