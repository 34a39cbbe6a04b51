r"""Residual denoising: residual and noise leave an image at paces of their own.

  x_s = x_t + (a_s - a_t) res + (sqrt(c_s^2 - sd^2) - c_t) z + sd n,    sd^2 = eta (c_t^2 - c_s^2) c_s^2 / c_t^2

on a two-sided path x = a x0 + b x1 + c z with a + b = 1; where a + b moves, x_t less its own share of res and z is rescaled. res = x0 - x1 and z are the
field's predictions. With x0 = 0 on `Path.residual(1.0, like=schedule)` this is DDIM on that schedule.
Paper: Liu et al., Residual denoising diffusion models, 2023, arXiv:2308.13712, equations 13 and 14.
"""
from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from rheos.core import checks
from rheos.paths import Path, T, Times
from rheos.samplers.tables import Row, Table

__all__ = ["ResidualDDIM"]


@dataclass(frozen=True)
class ResidualDDIM:
    """Steps that take away their share of the predicted residual and noise. For two-sided paths; the field must tell residual and noise.

    eta: 0 keeps the noise that x holds (to restore), 1 draws it anew as far as the path allows.
    """

    eta: float = 0.0
    order: ClassVar[int] = 1
    calls_per_step: ClassVar[int] = 1
    exempt: ClassVar[dict[str, str]] = {}

    def __post_init__(self):
        checks.between("eta", self.eta, 0.0, 1.0)

    @classmethod
    def examples(cls) -> list[ResidualDDIM]:
        return [cls(), cls(0.5)]

    def times(self, path: Path, steps: int) -> Times:
        return Times.uniform(path, steps, T)

    def plan(self, times: Times) -> Table:
        """The table for these times. ValueError for one-sided paths, and with eta for times that fall."""
        if not times.path.two_sided:
            raise ValueError("ResidualDDIM needs a two-sided path, got a one-sided path; use DDIM")
        if self.eta and float(times.t[-1]) < float(times.t[0]):
            raise ValueError(f"ResidualDDIM with eta runs from source to data, got times from {times.t[0]:g} to {times.t[-1]:g}")
        rows, shares = [], []
        for now, then in zip(times.each, times.each[1:], strict=False):
            # Where noise grows on the way (an interpolant's first half) none can be drawn anew.
            fresh = self.eta * max(0.0, now.c**2 - then.c**2) * then.c**2 / now.c**2 if now.c > 0 else 0.0
            kept = math.sqrt(max(0.0, then.c**2 - fresh))
            ratio = (then.a + then.b) / (now.a + now.b)
            moved, quieter = then.a - ratio * now.a, kept - ratio * now.c
            if moved == 0:
                raise ValueError(f"the source's share does not change between t = {times.t[len(rows)]:g} and {times.t[len(rows) + 1]:g} of this path")
            rows.append(Row((ratio,), (moved,), math.sqrt(fresh)))
            shares.append(quieter / moved)
        return Table(times, "residual", tuple(rows), epsilon=tuple(shares), origin={"rule": type(self).__name__, "eta": self.eta})
