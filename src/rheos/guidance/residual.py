r"""Residual classifier-free guidance: the unconditional noise is not asked for, it is read off an anchor.

  e_v(x) = (x - alpha a) / sigma,  e = d e_v + w (e_c - d e_v)

with an anchor a, a guess of the data: the frame that is edited (self-negative, no extra call), or what the unconditional field says of the data at the
first level (onetime-negative, one extra call). Classifier-free guidance asks twice a step.

Paper: Kodaira et al., StreamDiffusion, 2023, arXiv:2312.12491.
"""
from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Inexact
from torch import Tensor

from rheos.core import checks
from rheos.nets import without_condition
from rheos.paths import Coefficients, Field
from rheos.paths.asking import spread
from rheos.paths.predictions import shaped

__all__ = ["ResidualCFG"]


class ResidualCFG(Field):
    """A field steered away from an anchor that travels with the condition, {"cond": ..., "anchor": (batch, *event)}; it predicts noise.

    field: conditional. scale: w above; 1 changes nothing. The default 1.25 is lower than is usual for classifier-free guidance: with the anchor
        in place of the unconditional answer, which follows x, more of it overshoots. moderation: d above, 1 the authors' default.

    `self_negative` and `onetime_negative` make the condition. For paths that begin with some data left, as images that are edited do: the noise
    is not known at sigma = 0.
    """

    def __init__(self, field: Field, scale: float = 1.25, moderation: float = 1.0):
        if not isinstance(field, Field):
            raise TypeError(f"field must be a Field, got {type(field).__name__}")
        if field.path.two_sided or getattr(field.path.schedule, "spectral", False):
            raise ValueError("ResidualCFG needs a one-sided path with one alpha and sigma for all coordinates")
        self.field = field
        self.scale = checks.between("scale", scale, 0.0, float("inf"), high_open=True)
        self.moderation = checks.positive("moderation", moderation, zero=True)
        super().__init__(field.net, field.path, "noise", unit_input=field.unit_input)

    @property
    def event(self) -> tuple[int, ...] | None:
        return self.field.event

    @property
    def like(self) -> Tensor:
        return self.field.like

    def self_negative(self, cond: Any, frame: Inexact[Tensor, "batch *event"]) -> dict[str, Any]:
        """The condition, batch first or one number, with the frames themselves as anchors: no extra call."""
        return {"cond": _needed(cond, frame), "anchor": checks.finite("frame", frame)}

    def onetime_negative(self, cond: Any, x: Inexact[Tensor, "batch *event"], t: float, negative: Any = None) -> dict[str, Any]:
        """The condition with anchors from one extra call: the data that the field sees in x (batch, *event) at the first time t.

        cond: batch first, or one number. negative: the condition to steer away from, likewise; None is none.
        """
        cond = _needed(cond, x)
        against = without_condition(cond) if negative is None else spread(negative, len(x), x.device)
        with torch.no_grad():
            return {"cond": cond, "anchor": self.field.data(x, t, against)}

    def _ask(self, x: Tensor, t: Tensor, cond: Any, at: Coefficients) -> dict[str, Tensor]:
        if not isinstance(cond, dict) or cond.keys() != {"cond", "anchor"}:
            raise ValueError("ResidualCFG needs a condition with an anchor: make it with self_negative or onetime_negative")
        anchor = cond["anchor"]
        if anchor.shape != x.shape:
            raise ValueError(f"anchor must have the shape of x, {tuple(x.shape)}, got {tuple(anchor.shape)}")
        if bool((torch.as_tensor(at.c) == 0).any()):
            raise ValueError("ResidualCFG steers the noise, and none is left at sigma = 0; end the times a little before")
        self.nfe += 1
        told = self.path.prediction(self.field._ask(x, t, cond["cond"], at), x, at).noise
        virtual = (x - shaped(at.b, x) * anchor) / shaped(at.c, x)
        return {"noise": self.scale * told + (1 - self.scale) * self.moderation * virtual}


def _needed(cond: Any, x: Tensor) -> Any:
    if cond is None:
        raise ValueError("guidance needs a condition, got None")
    return spread(cond, len(x), x.device)
