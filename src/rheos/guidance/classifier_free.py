"""Classifier-free guidance: p_u + scale (p_c - p_u), conditional and unconditional answers from one batched network call.

Paper: Ho and Salimans, Classifier-free diffusion guidance, 2022, arXiv:2207.12598 (their w is scale - 1).
"""
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rheos.core import checks
from rheos.nets import without_condition
from rheos.paths import Coefficients, Field

__all__ = ["ClassifierFree", "classifier_free"]


class ClassifierFree(Field):
    """A field steered towards its condition. `nfe` counts calls of this field; the inner field's counts the network's, one batched each.

    field: trained with its condition left out now and then. scale: 0 unconditional, 1 conditional, above 1 beyond.
    """

    def __init__(self, field: Field, scale: float):
        if not isinstance(field, Field):
            raise TypeError(f"field must be a Field, got {type(field).__name__}")
        checks.between("guidance", scale, 0.0, float("inf"), high_open=True)
        if isinstance(field, ClassifierFree):
            raise ValueError(f"guidance must be given once: the field is guided already, by {field.scale:g}")
        self.field, self.scale = field, float(scale)
        super().__init__(field.net, field.path, field.predicts, unit_input=field.unit_input)

    @property
    def event(self) -> tuple[int, ...] | None:
        return self.field.event

    @property
    def like(self) -> Tensor:
        return self.field.like

    def _ask(self, x: Tensor, t: Tensor, cond: Any, at: Coefficients) -> dict[str, Tensor]:
        if cond is None:
            raise ValueError("guidance needs a condition: pass cond, or leave guidance out")
        self.nfe += 1
        if self.scale == 1.0:
            return self.field._ask(x, t, cond, at)
        both = Coefficients(*(torch.cat([v, v]) if isinstance(v, Tensor) and v.ndim else v for v in at))
        answers = self.field._ask(torch.cat([x, x]), torch.cat([t, t]), _pair(cond), both)
        steered = {}
        for kind, value in answers.items():
            with_cond, without = value.chunk(2)
            steered[kind] = torch.lerp(without, with_cond, self.scale)
        return steered


def _pair(cond: Any) -> Any:
    if isinstance(cond, dict):
        return {name: _pair(value) for name, value in cond.items()}
    return torch.cat([cond, without_condition(cond)])


def classifier_free(field: Field, scale: float) -> ClassifierFree:
    """`field` guided with `scale` (1 changes nothing). ValueError if scale is negative or the field guided already, on use if no condition is given."""
    return ClassifierFree(field, scale)
