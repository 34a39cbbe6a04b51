r"""DDIM and DPM-Solver++(2M) coordinate by coordinate: for paths on which each frequency has a signal-to-noise ratio of its own.

  x_s = (c_s / c_t) x_t + (b_s - b_t c_s / c_t) d,    d = data_i   or   data_i + (data_i - data_{i-1}) h_i / (2 h_{i-1}),   h_i the step in log(b / c)

in the coordinates of the path's basis. Papers: Song et al., 2020, arXiv:2010.02502; Lu et al., 2022, arXiv:2211.01095; for a path whose frequencies fade
at their own pace Das et al., 2023, arXiv:2306.00501.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from rheos.core import checks
from rheos.paths import Path, Times
from rheos.samplers.tables import Row, Table

__all__ = ["SpectralDDIM"]


@dataclass(frozen=True)
class SpectralDDIM:
    """Data prediction on one-sided paths whose coefficients differ by coordinate, such as `Path.shortest`.

    order: 1 holds the data prediction over a step (DDIM), 2 extrapolates it in each coordinate's own log(b / c), but not in the last step.
    Where all coordinates share their coefficients order 1 is `DDIM()` and order 2 is `DPMSolverPP(2, form="midpoint")`, which holds the line through the last
    two predictions at its value in the middle of the step; `DPMSolverPP(2)` integrates that line exactly.
    Default times do equal shares of the way on `Path.shortest`, and are even in t elsewhere.
    """

    order: int = 1
    calls_per_step: ClassVar[int] = 1

    def __post_init__(self):
        if checks.integer("order", self.order, least=1) > 2:
            raise ValueError(f"order must be 1 or 2, got {self.order}")

    @classmethod
    def examples(cls) -> list[SpectralDDIM]:
        return [cls(1), cls(2)]

    def times(self, path: Path, steps: int) -> Times:
        low, high = path.interval
        even = torch.linspace(low, high, checks.integer("steps", steps, least=1) + 1, dtype=torch.float64)
        place = getattr(path.schedule, "time_of", None) if getattr(path.schedule, "spectral", False) else None
        return Times(path, even if place is None else place(even))

    def plan(self, times: Times) -> Table:
        """The table for these times. ValueError for two-sided paths, and for a time without noise before the end."""
        if times.path.two_sided:
            raise ValueError("SpectralDDIM needs a one-sided path, got a two-sided one")
        rows: list[Row] = []
        each = [(torch.as_tensor(at.b, dtype=torch.float64), torch.as_tensor(at.c, dtype=torch.float64)) for at in times.each]
        for i in range(times.steps):
            (b, c), (b_s, c_s) = each[i], each[i + 1]
            if bool((c == 0).any()):
                raise ValueError(f"t = {times.t[i]:g} leaves no noise in x, and the times go on from there")
            keep = c_s / c
            weight = b_s - b * keep
            rows.append(Row((_plain(keep),), tuple(map(_plain, (weight,) if self.order == 1 or i in (0, times.steps - 1)
                                                       else self._extrapolated(weight, each[i - 1], each[i], each[i + 1])))))
        return Table(times, "data", tuple(rows), origin={"rule": type(self).__name__, "order": self.order})

    @staticmethod
    def _extrapolated(weight: Tensor, before: tuple[Tensor, Tensor], now: tuple[Tensor, Tensor], then: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Weights of the newest two predictions. A coordinate that was all noise before has no slope yet: it is held."""
        lam = [b.log() - c.log() for b, c in (before, now, then)]
        share = 0.5 * (lam[2] - lam[1]) / (lam[1] - lam[0])
        share = torch.where(share.isfinite(), share, torch.zeros_like(share))
        return weight * (1 + share), -weight * share


def _plain(value: Tensor) -> Tensor | float:
    """A tensor (1 or channels, height, width), or the number that it is."""
    return float(value) if value.numel() == 1 else value.squeeze(0) if value.ndim == 4 else value
