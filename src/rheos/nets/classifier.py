"""A perceptron that gives logits: the backbone of routers and of classifiers of noisy points."""
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from rheos.core import checks
from rheos.nets.condition import Condition
from rheos.nets.mlp import _Block

__all__ = ["MLPClassifier"]


class MLPClassifier(nn.Module):
    """net(x, t, cond): x (batch, *event), t (batch,) in [0, 1] -> logits (batch, outputs).

    event: shape of one sample. outputs: how many logits. width, depth: features and residual blocks. dropout: inside the blocks.
    classes or features: the condition, see `Condition`. A fresh network gives logits 0: all outputs alike.
    """

    def __init__(self, event: Sequence[int], outputs: int, *, width: int = 128, depth: int = 2, dropout: float = 0.0, classes: int | None = None,
                 features: int | None = None):
        super().__init__()
        self.event = tuple(checks.integer("event", size, least=1) for size in event)
        self.settings: dict[str, Any] = {"event": list(self.event), "outputs": checks.integer("outputs", outputs, least=1),
                                         "width": checks.integer("width", width, least=1), "depth": checks.integer("depth", depth, least=1),
                                         "dropout": checks.between("dropout", dropout, 0.0, 1.0, high_open=True), "classes": classes, "features": features}
        told = max(8, width // 2)
        self.condition = Condition(told, classes=classes, features=features)
        self.enter = nn.Linear(math.prod(self.event), width)
        self.blocks = nn.ModuleList(_Block(width, told, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Linear(width, outputs)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, x: Float[Tensor, "batch *event"], t: Float[Tensor, " batch"], cond: Tensor | None = None) -> Float[Tensor, "batch outputs"]:
        if tuple(x.shape[1:]) != self.event:
            raise ValueError(f"x must have event shape {self.event}, got {tuple(x.shape[1:])}")
        told = nn.functional.silu(self.condition(t, cond))
        h = self.enter(x.flatten(1))
        for block in self.blocks:
            h = block(h, told)
        return self.leave(self.norm(h))
