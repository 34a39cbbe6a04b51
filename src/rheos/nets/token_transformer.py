"""A transformer of tokens that sees both ways: hidden tokens attend to those that are shown, on either side.

Paper: Vaswani et al., Attention is all you need, 2017, arXiv:1706.03762, its encoder with norms before the layers. As a model of masked tokens:
Devlin et al., BERT, 2018, arXiv:1810.04805; without a time, arXiv:2406.03736. Ours: a short convolution before the blocks, as in text a token's
neighbours say most, and attention learns slowly from sines who they are.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from rheos.core import checks
from rheos.nets.attention import SelfAttention, positions
from rheos.nets.condition import Condition

__all__ = ["TokenTransformer"]

NEAR = 5        # tokens that the convolution before the blocks mixes, where their number is not given
PLACED = 0.1    # how loud positions begin beside embeddings of standard deviation 0.5: louder ones drown what the tokens say


class TokenTransformer(nn.Module):
    """net(x, t, cond): ids x (batch, length) int64, t (batch,) -> logits (batch, length, V).

    vocab:   V, ids 0..V-1 and the mask V; or one number a position, V the largest, and every position has embeddings and logits of its own.
    width, depth: features of a token, and blocks. heads: of attention, one for every 32 features by default. dropout: inside the blocks.
    near: tokens, itself in their middle, that are mixed before the blocks, odd; 1 for none. By default 5 where all positions have one vocabulary, and
    otherwise 1, as positions of which each has its own (a table's columns) have no neighbours.
    classes or features: the condition, see `Condition`. timed: whether t is read; without, it may be None.
    The condition, and the time, are added to every token. ValueError for ids and shapes that do not fit.
    """

    def __init__(self, length: int, vocab: int | Sequence[int], *, width: int = 128, depth: int = 2, heads: int | None = None,
                 near: int | None = None, classes: int | None = None, features: int | None = None, timed: bool = False, dropout: float = 0.0):
        super().__init__()
        length, own = checks.integer("length", length, least=1), not isinstance(vocab, int)
        sizes = [checks.integer("vocab", size, least=1) for size in vocab] if own else [checks.integer("vocab", vocab, least=2)]
        if own and len(sizes) != length:
            raise ValueError(f"vocab must be one number, or one for each of the {length} positions, got {len(sizes)}")
        width, depth = checks.integer("width", width, least=2), checks.integer("depth", depth, least=1)
        checks.between("dropout", dropout, 0.0, 1.0, high_open=True)
        near = (1 if own else NEAR) if near is None else checks.integer("near", near, least=1)
        if near % 2 == 0:
            raise ValueError(f"near must be odd, with as many tokens before as after, got {near}")
        self.settings: dict[str, Any] = {"length": length, "vocab": sizes if own else vocab, "width": width, "depth": depth, "heads": heads,
                                         "near": near, "classes": classes, "features": features, "timed": checks.flag("timed", timed), "dropout": dropout}
        self.event, self.timed, self.mask, self.own = (length,), timed, max(sizes), own
        tables = length if own else 1
        self.enter = nn.Embedding(tables * (self.mask + 1), width)
        nn.init.normal_(self.enter.weight, std=0.5)
        self.place = nn.Parameter(PLACED * positions(length, width))
        self.mix = nn.Conv1d(width, width, near, padding=near // 2) if near > 1 else None
        self.condition = Condition(width, classes=classes, features=features) if timed or classes is not None or features is not None else None
        self.blocks = nn.ModuleList(_Block(width, heads, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.leave = nn.Parameter(torch.zeros(tables, width, self.mask))
        self.bias = nn.Parameter(torch.zeros(tables, 1, self.mask))

    def forward(self, x: Int64[Tensor, "batch length"], t: Tensor | None = None, cond: Tensor | None = None) -> Float[Tensor, "batch length V"]:
        if tuple(x.shape[1:]) != self.event:
            raise ValueError(f"x must have event shape {self.event}, got {tuple(x.shape[1:])}")
        if self.own:
            x = x + (self.mask + 1) * torch.arange(x.shape[1], device=x.device)
        h = self.enter(x) + self.place
        if self.condition is not None:
            if self.timed and t is None:
                raise ValueError("t must be given: this network was built with timed=True")
            clock = t.to(h.dtype) if self.timed else torch.zeros(len(x), dtype=h.dtype, device=x.device)
            h = h + self.condition(clock, cond)[:, None]
        elif cond is not None:
            raise ValueError("cond was given, but this network was built without a condition")
        if self.mix is not None:
            h = h + self.mix(h.transpose(1, 2)).transpose(1, 2)
        for block in self.blocks:
            h = block(h)
        h = self.norm(h)
        if not self.own:
            return nn.functional.linear(h, self.leave[0].T, self.bias[0, 0])
        return torch.baddbmm(self.bias, h.transpose(0, 1), self.leave).transpose(0, 1)


class _Block(nn.Module):
    """Attention and then a two-layer perceptron 4 times as wide, each normalised first and added; both begin at zero."""

    def __init__(self, width: int, heads: int | None, dropout: float):
        super().__init__()
        self.attend = SelfAttention(width, heads=heads)
        self.ff = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU("tanh"), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)
        nn.init.zeros_(self.ff[-1].weight)
        nn.init.zeros_(self.ff[-1].bias)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.attend(x))
        return x + self.dropout(self.ff(x))
