"""RePaint: known pixels, noised to the level reached, put in place after every step, and every step made many times so that the rest joins in.

x <- keep (alpha_s x_known + sigma_s z) + (1 - keep) x_s, z fresh each time; each block of `length` steps is taken back by noise and made again.

Paper: Lugmayr et al., RePaint: inpainting using denoising diffusion probabilistic models, 2022, arXiv:2201.09865, with jumps of 10 steps made 10 times.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Inexact
from torch import Tensor

from rheos.core import checks
from rheos.guidance.operators import Mask
from rheos.guidance.time_travel import Steering
from rheos.paths import Field, Path

__all__ = ["Known", "repaint"]


@dataclass(frozen=True, eq=False)
class Known:
    """Overwrites what is known with draws of the path from it.

    path: of the field. keep: bool, True where known, of the event's shape or broadcast to it. reference: (rows, *event), one a sample or one for all.
    """

    path: Path
    keep: Bool[Tensor, "..."]
    reference: Inexact[Tensor, "rows *event"]

    def __post_init__(self):
        Mask(self.keep).forward(checks.tensor("reference", self.reference, floating=True)[:1])      # refuses what does not fit

    def __call__(self, x: Tensor, t: float, noise: Callable[[], Tensor]) -> Tensor:
        one_a_sample("reference", self.reference, x)
        at = self.path.coefficients(t)
        return torch.where(self.keep.to(x.device), float(at.b) * self.reference.to(x) + float(at.c) * noise(), x)

    def rows(self, start: int, stop: int) -> Known:
        """That of samples start .. stop - 1 alone."""
        return self if len(self.reference) == 1 else Known(self.path, self.keep, self.reference[start:stop])


def repaint(field: Field, keep: Tensor, reference: Tensor, *, loops: int = 10, length: int = 10, eta: float = 1.0, begin: float = 0.0,
            end: float = 1.0) -> Steering:
    """`field` bound to the pixels of `reference` (rows, *event) where `keep`; call `.sample(n, steps=250, seed=0)` on it.

    loops, length: how often blocks of how many steps are made, between times `begin` and `end`; eta: noise of the steps.
    """
    return Steering(field, overwrite=Known(field.path, keep, reference), eta=eta, loops=loops, begin=begin, end=end, length=length)


def one_a_sample(name: str, value: Tensor, x: Tensor) -> None:
    """ValueError unless `value` (rows, *event) has the events of x and one row a sample, or one for all."""
    if value.shape[1:] != x.shape[1:] or len(value) not in (1, len(x)):
        raise ValueError(f"{name} must have shape {tuple(x.shape)}, or one row for all samples, got {tuple(value.shape)}")
