"""Averaged weights: a slow copy of a network that samples better than the fast one."""
from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rheos.core import checks

__all__ = ["Average"]


@dataclass(frozen=True)
class Average:
    """Exponential moving average of parameters: slow <- decay slow + (1 - decay) fast; buffers (batch norm) are copied.

    decay: in [0, 1). warm_up: begin with decay (1 + k) / (10 + k) at step k while that is smaller, so that the random start is forgotten.
    """

    decay: float = 0.999
    warm_up: bool = True

    def __post_init__(self):
        checks.between("decay", self.decay, 0.0, 1.0, high_open=True)

    def start(self, net: nn.Module) -> nn.Module:
        """The slow copy, equal to `net`, with no gradients."""
        return copy.deepcopy(net).requires_grad_(False)

    def decay_at(self, step: int) -> float:
        return min(self.decay, (1 + step) / (10 + step)) if self.warm_up else self.decay

    @torch.no_grad()
    def update(self, slow: nn.Module, net: nn.Module, step: int, *, hold: Tensor | None = None) -> None:
        """Move `slow` towards `net`, in place. hold: a device scalar, 1 to leave everything as it is."""
        share = 1 - self.decay_at(step)
        slow_parameters, parameters = list(slow.parameters()), [p.detach() for p in net.parameters()]
        if slow_parameters:
            torch._foreach_lerp_(slow_parameters, parameters, share if hold is None else share * (1 - hold))
        for kept, value in zip(slow.buffers(), net.buffers(), strict=True):
            kept.copy_(value)
