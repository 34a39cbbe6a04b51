"""Attention of a set of points to itself: softmax(q k^T / sqrt(d)) v, in several heads.

Paper: Vaswani et al., Attention is all you need, 2017, arXiv:1706.03762; queries and keys normalised as in Henry et al., 2020, arXiv:2010.04245.
"""
from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rheos.core import checks

__all__ = ["SelfAttention", "positions"]

HEAD = 32       # features of a head, where their number is not given


class SelfAttention(nn.Module):
    """(batch, points, width) -> the same shape: what the points tell each other.

    heads: how many, by default one for every 32 features, or fewer so that they divide the width. normed: whether the input is normalised
    first (not where the caller has).
    silent: it begins at zero, so that a sum with its input is the input (not where the caller has a gate).
    ValueError if the width does not divide by the heads.
    """

    def __init__(self, width: int, *, heads: int | None = None, normed: bool = True, silent: bool = True):
        super().__init__()
        if heads is None:
            heads = max(1, width // HEAD)
            while width % heads:
                heads -= 1
        checks.integer("heads", heads, least=1)
        if width % heads:
            raise ValueError(f"heads must divide the width {width}, got {heads}")
        self.heads = heads
        self.norm = nn.LayerNorm(width) if normed else None
        self.ask, self.leave = nn.Linear(width, 3 * width), nn.Linear(width, width)
        if silent:
            nn.init.zeros_(self.leave.weight)
            nn.init.zeros_(self.leave.bias)

    def forward(self, x: Float[Tensor, "batch points width"]) -> Float[Tensor, "batch points width"]:
        h = x if self.norm is None else self.norm(x)
        q, k, v = self.ask(h).unflatten(-1, (3, self.heads, -1)).transpose(1, 3).unbind(2)
        shape = q.shape[-1:]
        mixed = nn.functional.scaled_dot_product_attention(nn.functional.rms_norm(q, shape), nn.functional.rms_norm(k, shape), v)
        return self.leave(mixed.transpose(1, 2).flatten(2))


def positions(points: int, width: int) -> Float[Tensor, "points width"]:
    """Sines and cosines of the places 0 .. points - 1, periods from 2 pi to 10,000 x 2 pi (arXiv:1706.03762)."""
    half = (width + 1) // 2
    angles = torch.arange(points, dtype=torch.float64)[:, None] * 1e4 ** (-torch.arange(half, dtype=torch.float64) / half)
    return torch.cat([angles.sin(), angles.cos()], 1)[:, :width].float()
