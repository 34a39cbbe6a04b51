"""Multistep consistency sampling: the data predicted, and noise anew, as latent consistency models are run.

  f = c_skip x + c_out x1(x, t),  x' = alpha' f + sigma' z,  c_skip = d^2 / (r^2 + d^2),  c_out = r / sqrt(r^2 + d^2),  r = 1 - t

Papers: Song et al., Consistency models, 2023, arXiv:2303.01469; Luo et al., Latent consistency models, 2023, arXiv:2310.04378.
"""
from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from rheos.core import checks
from rheos.paths import Path, T, Times
from rheos.samplers.tables import Row, Table

__all__ = ["LCM"]


@dataclass(frozen=True)
class LCM:
    """One evaluation a step and no history: what `StreamBatch` takes. For fields whose data prediction is a consistency function, in 1 to 8 steps.

    boundary: the d above, in units of t, which makes f the identity at the data. The default is the authors' own, 0.5 / 10 in the thousand steps of
    their clock; it matters only where a step begins nearer to the data than that. 0 takes the data prediction as it is.
    On an ordinary field it does not follow the flow: each step keeps nothing of x but the predicted data.
    """

    boundary: float = 5e-5
    order: ClassVar[int] = 1
    calls_per_step: ClassVar[int] = 1

    def __post_init__(self):
        checks.between("boundary", self.boundary, 0.0, 1.0)

    @classmethod
    def examples(cls) -> list[LCM]:
        return [cls(), cls(0.2)]

    def times(self, path: Path, steps: int) -> Times:
        return Times.uniform(path, steps, T)

    def plan(self, times: Times) -> Table:
        """The table for these times. ValueError for two-sided paths, noise that is not Gaussian and times that run from data to noise."""
        path, t = times.path, times.t.tolist()
        if path.two_sided or getattr(path.schedule, "spectral", False) or not path.noise.gaussian:
            raise ValueError("LCM needs a one-sided path with Gaussian noise and one alpha and sigma for all coordinates")
        if t[-1] < t[0]:
            raise ValueError(f"LCM runs from noise to data, got times from {t[0]:g} to {t[-1]:g}")
        rows = []
        for start, there in zip(t, times.each[1:], strict=False):
            far = math.hypot(1 - start, self.boundary)
            skip, out = (self.boundary / far) ** 2, (1 - start) / far
            rows.append(Row((there.b * skip,), (there.b * out,), there.c))
        return Table(times, "data", tuple(rows), origin={"rule": "LCM", "order": self.order})
