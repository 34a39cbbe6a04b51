"""Cyclic One-Way Diffusion: the pixels of a reference kept while a picture forms around them.

Noise up in one jump, x <- (alpha_h / alpha_l) x + sqrt(sigma_h^2 - (alpha_h sigma_l / alpha_l)^2) z, walk down again, and after every step put the
reference's own latents R_t where it is to be kept: what is known flows out of the mask, and never in.

Paper: Wang et al., Diffusion in Diffusion: Cyclic One-Way Diffusion for text-vision-conditioned generation, 2023, arXiv:2306.08247. Its fractions of the
noise's end, .7, .5 and .4, are the times .3, .5 and .6 here. R_t are latents of the reference by DDIM backwards. RePaint is the case of fresh noise in
their place, see `repaint`.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Inexact
from torch import Tensor

from rheos.core import checks
from rheos.guidance.operators import Mask
from rheos.guidance.repaint import one_a_sample
from rheos.guidance.time_travel import INSIDE, travel
from rheos.paths import Field

__all__ = ["CyclicOneWay", "Latents"]


@dataclass(frozen=True, eq=False)
class Latents:
    """Overwrites x where `keep` with what is kept for the time reached, and leaves it alone at other times.

    keep: bool, of the event's shape or broadcast to it. at: time -> latents (rows, *event), one a sample or one row for all.
    """

    keep: Bool[Tensor, "..."]
    at: dict[float, Tensor]

    def __call__(self, x: Tensor, t: float, noise: Callable[[], Tensor]) -> Tensor:
        if t not in self.at:
            return x
        one_a_sample("reference", self.at[t], x)
        return torch.where(self.keep.to(x.device), self.at[t].to(x), x)

    def rows(self, start: int, stop: int) -> Latents:
        """Those of samples start .. stop - 1 alone."""
        return Latents(self.keep, {t: v if len(v) == 1 else v[start:stop] for t, v in self.at.items()})


@dataclass(frozen=True, eq=False)
class CyclicOneWay:
    """Samples that hold a reference's pixels inside a mask.

    field: what is asked. keep: bool, True inside, of the event's shape or broadcast to it. reference: (rows, *event), one a sample or one for all, in the
        network's units; outside the mask it is not read but to find the latents.
    high, low: the times of much and of less noise between which it cycles. cycles: how often; 0 only walks down from `low`. keep_until: the time at which
        the latents are put in place once more, on the last way down.
    eta, last_eta: noise of the steps in the cycles and on the last way down. canvas: the value around the reference where it begins.
    invert_steps: steps of the way back to the latents, which errs by their size.
    """

    field: Field
    keep: Bool[Tensor, "..."]
    reference: Inexact[Tensor, "rows *event"]
    high: float = 0.3
    low: float = 0.5
    cycles: int = 10
    keep_until: float = 0.6
    eta: float = 1.0
    last_eta: float = 0.1
    canvas: float = 0.0
    invert_steps: int = 100

    def __post_init__(self):
        checks.finite("reference", checks.tensor("reference", self.reference, floating=True))
        Mask(self.keep).forward(self.reference[:1])
        checks.between("low", self.low, 0.0, 1.0, low_open=True, high_open=True)
        checks.between("high", self.high, 0.0, self.low, low_open=True, high_open=True)
        checks.between("keep_until", self.keep_until, self.low, 1.0, high_open=True)
        checks.integer("cycles", self.cycles, least=0)
        checks.integer("invert_steps", self.invert_steps, least=1)
        for name in ("eta", "last_eta"):
            checks.between(name, getattr(self, name), 0.0, 1.0)

    def sample(self, n: int | None = None, *, steps: int = 50, **settings: Any) -> Inexact[Tensor, "rows *event"]:
        """Samples (n, *event), by default one a row of the reference. steps: that many would lead from noise to data; the other keywords of `travel`
        but start, times, eta and overwrite, which are made here (ValueError).

        Calls: about steps (cycles (low - high) + 1 - low), and 2 invert_steps of one row of the reference each.
        """
        for name in ("start", "times", "eta", "overwrite"):
            if name in settings:
                raise ValueError(f"{name} must be left out of sample: CyclicOneWay makes it from its own settings")
        n = len(self.reference) if n is None else checks.integer("n", n, least=1)
        if len(self.reference) not in (1, n):
            raise ValueError(f"n must be the {len(self.reference)} rows of the reference, or the reference one row, got {n}")
        steps, end = checks.integer("steps", steps, least=1), self.field.path.interval[1]
        up, middle, down = _even(self.high, self.low, steps), _even(self.low, self.keep_until, steps), _even(self.keep_until, end, steps)
        begin, latents = self.latents(up)
        walk = [self.low]
        for _ in range(self.cycles):
            walk += up
        walk += middle[1:] + down[1:]
        return travel(self.field, start=begin.expand(n, *begin.shape[1:]), times=walk, eta=lambda t: self.eta if t < self.low else self.last_eta,
                      overwrite=Latents(self.keep, latents), **settings)

    def latents(self, levels: list[float]) -> tuple[Tensor, dict[float, Tensor]]:
        """(where samples begin: the reference on its canvas, at time `low`; the reference's latents by time, at `levels` and `keep_until`)."""
        canvas = torch.where(self.keep.to(self.reference.device), self.reference, self.canvas)
        both = torch.cat([self.reference, canvas])
        # Of data without noise no noise can be told, so the way back begins a little inside.
        inside = min(self.field.path.interval[1], 1 - INSIDE)
        marks, walk = sorted({*levels, self.keep_until, self.low}, reverse=True), [inside]
        for mark in marks:
            walk += _even(walk[-1], mark, self.invert_steps)[1:]
        at = self.field.path.coefficients(inside)
        found: dict[float, Tensor] = {}

        def note(step: int, state: Any) -> None:
            if walk[step] in marks:
                found[walk[step]] = state.x.clone()

        travel(self.field, start=float(at.b) * both, times=walk, turn="flow", watch=[note])
        rows = len(self.reference)
        return found[self.low][rows:], {t: x[:rows] for t, x in found.items() if t != self.low or self.low in levels}


def _even(start: float, end: float, steps: int) -> list[float]:
    """Equal steps from `start` to `end`, of about 1 / `steps` each."""
    count = max(1, round(abs(end - start) * steps))
    return [start, *(start + (end - start) * k / count for k in range(1, count)), end] if start != end else [start]
