"""A residual multilayer perceptron with adaptive layer norm: the backbone for tables, points and tiny images."""
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rheos.core import checks
from rheos.nets.condition import Condition

__all__ = ["ResidualMLP"]


class _Block(nn.Module):
    """x + gate(c) * MLP(scale(c) * norm(x) + shift(c)); the gate starts at zero, so a fresh network is shallow."""

    def __init__(self, width: int, told: int, dropout: float):
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulate = nn.Linear(told, 3 * width)
        self.up, self.down = nn.Linear(width, width), nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        nn.init.zeros_(self.modulate.weight)
        nn.init.zeros_(self.modulate.bias)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        shift, scale, gate = self.modulate(told).chunk(3, -1)
        inner = torch.addcmul(shift, self.norm(x), 1 + scale)
        return torch.addcmul(x, gate, self.down(self.dropout(nn.functional.silu(self.up(inner)))))


class ResidualMLP(nn.Module):
    """net(x, t, cond): x (batch, *event), t (batch,) in [0, 1] -> (batch, *event), or `heads` of them as a tuple.

    event: shape of one sample. width, depth: features and residual blocks. classes or features: the condition, see `Condition`.
    dropout: inside the blocks. heads: how many predictions are returned.
    Adaptive layer norm is from Peebles and Xie, 2022, arXiv:2212.09748. ValueError for shapes that do not fit.
    """

    def __init__(self, event: Sequence[int], *, width: int = 256, depth: int = 3, classes: int | None = None, features: int | None = None,
                 dropout: float = 0.0, heads: int = 1):
        super().__init__()
        self.event = tuple(checks.integer("event", size, least=1) for size in event)
        self.settings: dict[str, Any] = {"event": list(self.event), "width": checks.integer("width", width, least=1), "classes": classes,
                                         "depth": checks.integer("depth", depth, least=1), "features": features, "dropout": dropout,
                                         "heads": checks.integer("heads", heads, least=1)}
        checks.between("dropout", dropout, 0.0, 1.0, high_open=True)
        size, told = math.prod(self.event), max(8, width // 2)
        self.condition = Condition(told, classes=classes, features=features)
        self.enter = nn.Linear(size, width)
        self.blocks = nn.ModuleList(_Block(width, told, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, heads * size)
        self.skip = nn.Linear(told, heads)      # the answer may lean on x itself, as much as the time says
        for layer in (self.leave, self.skip):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Float[Tensor, "batch *event"], t: Float[Tensor, " batch"], cond: Tensor | None = None) -> Tensor | tuple[Tensor, ...]:
        if tuple(x.shape[1:]) != self.event:
            raise ValueError(f"x must have event shape {self.event}, got {tuple(x.shape[1:])}")
        told = nn.functional.silu(self.condition(t, cond))
        flat = x.flatten(1)
        h = self.enter(flat)
        for block in self.blocks:
            h = block(h, told)
        out = self.leave(self.norm(h)).unflatten(-1, (self.settings["heads"], -1))
        out = out + self.skip(told)[:, :, None] * flat[:, None, :]
        answers = out.unflatten(-1, self.event).unbind(1)
        return answers[0] if len(answers) == 1 else answers
