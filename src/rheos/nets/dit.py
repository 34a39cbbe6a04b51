"""A diffusion transformer: patches of an image, or the tokens of a text, attend to each other under the time and the condition.

Paper: Peebles and Xie, Scalable diffusion models with transformers, 2022, arXiv:2212.09748 (adaLN-Zero).
"""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rheos.core import checks
from rheos.nets.attention import SelfAttention, positions
from rheos.nets.condition import Condition
from rheos.nets.layouts import channels_first, first_event, restored
from rheos.nets.patches import fold, unfold

__all__ = ["DiT"]


class DiT(nn.Module):
    """net(x, t, cond): x (batch, *event), t (batch,) in [0, 1] -> the same shape, or `heads` of them as a tuple.

    event:  channels and one to three axes of grid, each divisible by `patch`; for text (channels, length) and patch 1.
    layout: where the channels are: "first" (channels, *grid), "last" (*grid, channels) or "none" (*grid).
    patch:  so many grid points along each axis make one token. width, depth: features of a token, and blocks.
    ff:     width -> the module between two attentions, called on (batch, tokens, width); default a two-layer perceptron 4 times as wide. It
            is part of a saved model only where it is the default.
    classes or features: the condition, see `Condition`. dropout: inside the blocks. heads: how many predictions are returned.
    ValueError for shapes and settings that do not fit.
    """

    def __init__(self, event: Sequence[int], *, patch: int = 2, width: int = 192, depth: int = 6, layout: str = "first", classes: int | None = None,
                 features: int | None = None, dropout: float = 0.0, heads: int = 1, ff: Callable[[int], nn.Module] | None = None):
        super().__init__()
        self.event, self.layout = tuple(event), layout
        channels, *grid = first_event(event, layout)
        self.patch, self.heads = checks.integer("patch", patch, least=1), checks.integer("heads", heads, least=1)
        if any(size % patch for size in grid):
            raise ValueError(f"patch must divide the grid {tuple(grid)}, got {patch}")
        width, depth = checks.integer("width", width, least=2), checks.integer("depth", depth, least=1)
        checks.between("dropout", dropout, 0.0, 1.0, high_open=True)
        self.settings: dict[str, Any] = {"event": list(self.event), "patch": patch, "width": width, "depth": depth, "layout": layout, "classes": classes,
                                         "features": features, "dropout": dropout, "heads": heads}
        tokens = math.prod(size // patch for size in grid)
        size = channels * patch ** len(grid)
        self.condition = Condition(width, classes=classes, features=features)
        self.enter = nn.Linear(size, width)
        self.place = nn.Parameter(positions(tokens, width))
        self.blocks = nn.ModuleList(_Block(width, dropout, ff) for _ in range(depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulate = nn.Linear(width, 2 * width)
        self.leave = nn.Linear(width, heads * size)
        self.skip = nn.Linear(width, heads)     # the answer may lean on x itself, as much as the time says
        for layer in (self.modulate, self.leave, self.skip):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Float[Tensor, "batch *event"], t: Float[Tensor, " batch"], cond: Tensor | None = None) -> Tensor | tuple[Tensor, ...]:
        if tuple(x.shape[1:]) != self.event:
            raise ValueError(f"x must have event shape {self.event}, got {tuple(x.shape[1:])}")
        told = nn.functional.silu(self.condition(t, cond))
        first = channels_first(x, self.layout)
        folded = fold(first, self.patch)
        h = self.enter(folded.flatten(2).mT) + self.place
        for block in self.blocks:
            h = block(h, told)
        shift, scale = self.modulate(told)[:, None].chunk(2, -1)
        out = self.leave(torch.addcmul(shift, self.norm(h), 1 + scale)).mT.unflatten(-1, folded.shape[2:])
        leaning = self.skip(told).unflatten(-1, (-1, *(1,) * (first.ndim - 1)))
        heads = enumerate(out.chunk(self.heads, 1))
        answers = [restored(torch.addcmul(unfold(part, self.patch), leaning[:, head], first), self.layout) for head, part in heads]
        return answers[0] if len(answers) == 1 else tuple(answers)


class _Block(nn.Module):
    """Attention and then `ff`, each of them normalised, shifted and scaled by what the network is told, and let in through a gate that starts at 0."""

    def __init__(self, width: int, dropout: float, ff: Callable[[int], nn.Module] | None):
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.attend = SelfAttention(width, normed=False, silent=False)
        self.ff = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width)) if ff is None else ff(width)
        self.dropout = nn.Dropout(dropout)
        self.modulate = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.modulate.weight)
        nn.init.zeros_(self.modulate.bias)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        shift, scale, gate, shift_ff, scale_ff, gate_ff = self.modulate(told)[:, None].chunk(6, -1)
        x = torch.addcmul(x, gate, self.dropout(self.attend(torch.addcmul(shift, self.norm(x), 1 + scale))))
        return torch.addcmul(x, gate_ff, self.dropout(self.ff(torch.addcmul(shift_ff, self.norm(x), 1 + scale_ff))))
