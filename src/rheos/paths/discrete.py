"""Paths of discrete diffusion models, from their betas."""
from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from rheos.paths.curves import MonotoneCubic
from rheos.paths.schedules import Coefficients

__all__ = ["Betas"]


@dataclass(frozen=True)
class Betas:
    """Variance preserving, known at T steps: alpha_k^2 = (1 - beta_0) ... (1 - beta_k) (Ho et al., 2020, arXiv:2006.11239).

    Step k of T sits at t = 1 - k / (T - 1), so step T - 1, the noisiest, at 0 and step 0 at 1; in between lam runs along a monotone cubic.
    betas: T >= 2 numbers in (0, 1), first the data's end. ValueError for others.
    """

    betas: tuple[float, ...]
    two_sided: ClassVar[bool] = False
    interval: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def __post_init__(self):
        betas = torch.as_tensor(self.betas, dtype=torch.float64).flatten().tolist()
        object.__setattr__(self, "betas", tuple(betas))
        if len(betas) < 2:
            raise ValueError(f"betas must hold at least 2 numbers, got {len(betas)}")
        for k, beta in enumerate(betas):
            if not 0 < beta < 1:
                raise ValueError(f"betas must lie in (0, 1), got {beta:g} at step {k}")

    @cached_property
    def _lam(self) -> MonotoneCubic:
        log_alpha2 = torch.log1p(-torch.tensor(self.betas, dtype=torch.float64)).cumsum(0)
        lam = 0.5 * (log_alpha2 - torch.log(-torch.expm1(log_alpha2)))
        return MonotoneCubic(torch.linspace(0, 1, len(lam), dtype=torch.float64), lam.flip(0))

    def coefficients(self, t: Tensor) -> Coefficients:
        lam, rate = self._lam(t.double())
        signal, noise = torch.sigmoid(2 * lam), torch.sigmoid(-2 * lam)
        alpha, sigma = signal.sqrt(), noise.sqrt()
        return Coefficients(0.0, alpha, sigma, 0.0, alpha * noise * rate, -sigma * signal * rate, -noise * signal * rate)

    def time_at(self, lam: Tensor) -> Tensor:
        return self._lam.inverse(lam)

    def time_of(self, step: Tensor | float) -> Tensor:
        """The time of step k, 0 <= k <= T - 1, whole or not. ValueError for steps outside."""
        step, last = torch.as_tensor(step, dtype=torch.float64), len(self.betas) - 1
        bad = ~((step >= 0) & (step <= last))
        if bool(bad.any()):
            raise ValueError(f"step must lie in [0, {last}], got {float(step[bad][0] if step.ndim else step):g}")
        return 1 - step / last

    def __repr__(self) -> str:
        return f"Betas({len(self.betas)} steps from {self.betas[0]:g} to {self.betas[-1]:g})"
