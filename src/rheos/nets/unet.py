"""A U-Net for images, series and volumes: blocks on ever coarser grids and back, with what was seen on the way down joined on the way up.

Paper: Ronneberger, Fischer and Brox, U-Net, 2015, arXiv:1505.04597; residual blocks, time and class as in Dhariwal and Nichol, 2021,
arXiv:2105.05233. Pixels are folded into channels first (space to depth), which on a CPU buys most quality for the time.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rheos.core import checks
from rheos.nets.attention import SelfAttention
from rheos.nets.condition import Condition
from rheos.nets.layouts import channels_first, first_event, restored
from rheos.nets.patches import fold, unfold
from rheos.nets.skips import Skip, skip_from_json

__all__ = ["UNet", "UNetFeatures"]

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
GROUP = 16      # channels normalised together


class UNetFeatures(NamedTuple):
    """What the first half of a `UNet` hands to the second: `bottom` (batch, channels, *grid) from the middle, `kept` from each block on the way down."""

    bottom: Tensor
    kept: tuple[Tensor, ...]

    def times(self, count: int) -> UNetFeatures:
        """The same rows `count` times over, one copy after the other."""
        again = lambda h: h if count == 1 else torch.cat([h] * count)
        return UNetFeatures(again(self.bottom), tuple(map(again, self.kept)))


class UNet(nn.Module):
    """net(x, t, cond): x (batch, *event), t (batch,) in [0, 1] -> the same shape, or `heads` of them as a tuple.

    event:   channels and one to three axes of grid. Sizes that do not divide evenly are padded with zeros inside and cut off again.
    layout:  where the channels are: "first" (channels, *grid), "last" (*grid, channels) or "none" (*grid).
    widths:  channels on each level; every further level halves the grid. depth: residual blocks a level, each way.
    patch:   so many grid points along each axis become channels of one. attention: levels (0 is the finest) that attend to all their points.
    classes or features: the condition, see `Condition`. dropout: inside the blocks. heads: how many predictions are returned.
    skip: how much of what the way down kept is joined on the way up, `ConstantSkip(0.7)` or `LearnedSkip()`, or their `to_json()`; None is all of it.
    ValueError for shapes and settings that do not fit.
    """

    def __init__(self, event: Sequence[int], *, widths: Sequence[int] = (64, 128), depth: int = 2, patch: int = 2, attention: Sequence[int] = (),
                 layout: str = "first", classes: int | None = None, features: int | None = None, dropout: float = 0.0, heads: int = 1,
                 skip: Skip | dict[str, Any] | None = None):
        super().__init__()
        self.event, self.layout = tuple(event), layout
        channels, *grid = first_event(event, layout)
        widths = tuple(checks.integer("widths", width, least=1) for width in widths)
        if not widths:
            raise ValueError("widths must name at least one level, got none")
        attention = tuple(checks.integer("attention", level, least=0) for level in attention)
        if any(level >= len(widths) for level in attention):
            raise ValueError(f"attention must name levels from 0 to {len(widths) - 1}, got {list(attention)}")
        checks.between("dropout", dropout, 0.0, 1.0, high_open=True)
        self.patch, self.heads = checks.integer("patch", patch, least=1), checks.integer("heads", heads, least=1)
        depth = checks.integer("depth", depth, least=1)
        self.settings: dict[str, Any] = {"event": list(self.event), "widths": list(widths), "depth": depth, "patch": patch, "attention": list(attention),
                                         "layout": layout, "classes": classes, "features": features, "dropout": dropout, "heads": heads}
        if isinstance(skip, dict):
            skip = skip_from_json(skip)
        if skip is not None:
            if isinstance(skip, type) or not isinstance(skip, Skip):
                raise TypeError(f"skip must be a rule such as ConstantSkip(0.7), got {skip!r}")
            self.settings["skip"] = skip.to_json()
        axes = len(grid)
        conv, cells = CONVOLUTIONS[axes], patch**axes
        # The grid must divide by the patch and by two for every level below the first.
        unit = patch * 2 ** (len(widths) - 1)
        self.padding = [0 if size % unit == 0 else unit - size % unit for size in grid]
        self.grid = tuple(grid)
        told = 4 * max(8, widths[0])
        self.condition = Condition(told, classes=classes, features=features)
        self.enter = conv(channels * cells, widths[0], 3, padding=1)
        block = lambda i, o, level: _Block(axes, i, o, told, dropout, attend=level in attention)
        self.down, self.lower, width = nn.ModuleList(), nn.ModuleList(), widths[0]
        for level, wide in enumerate(widths):
            self.down.append(nn.ModuleList(block(width if i == 0 else wide, wide, level) for i in range(depth)))
            width = wide
            if level + 1 < len(widths):
                self.lower.append(conv(width, width, 3, stride=2, padding=1))
        self.middle = block(width, width, len(widths) - 1)
        # Widths change on the coarser side of each step between levels, where it costs least.
        self.up, self.higher = nn.ModuleList(), nn.ModuleList()
        for level, wide in reversed(list(enumerate(widths))):
            self.up.append(nn.ModuleList(block(2 * wide, wide, level) for _ in range(depth)))
            if level:
                self.higher.append(conv(wide, widths[level - 1], 3, padding=1))
        width = widths[0]
        self.norm = _norm(width)
        self.leave = conv(width, heads * channels * cells, 3, padding=1)
        self.skip = nn.Linear(told, heads)      # the answer may lean on x itself, as much as the time says
        for layer in (self.leave, self.skip):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        # Made last, so that all else begins as it would without.
        self.joins = None if skip is None else skip.scaling([wide for wide in widths for _ in range(depth)])

    def forward(self, x: Float[Tensor, "batch *event"], t: Float[Tensor, " batch"], cond: Tensor | None = None) -> Tensor | tuple[Tensor, ...]:
        self._fits(x)
        told = self._told(t, cond)
        return self._decode(self._encode(x, told), x, told)

    def encode(self, x: Float[Tensor, "batch *event"], t: Float[Tensor, " batch"], cond: Tensor | None = None) -> UNetFeatures:
        """The first half: what the way down and the middle make of x. `decode` of it, at the same x, t and cond, is the whole network's answer."""
        self._fits(x)
        return self._encode(x, self._told(t, cond))

    def decode(self, features: UNetFeatures, x: Float[Tensor, "batch *event"], t: Float[Tensor, " batch"],
               cond: Tensor | None = None) -> Tensor | tuple[Tensor, ...]:
        """The second half: the way up, told of t and cond, from `features` of this or of another time, which stay as they are.

        It sees x only in the sum at the end, answer = decode(features, 0, t, cond) + leaning(t, cond) x.
        """
        self._fits(x)
        if len(features.bottom) != len(x):
            raise ValueError(f"features must have {len(x)} rows as x has, got {len(features.bottom)}")
        return self._decode(features, x, self._told(t, cond))

    def leaning(self, t: Float[Tensor, " batch"], cond: Tensor | None = None) -> Float[Tensor, "batch heads"]:
        """How much of x itself each answer holds."""
        return self.skip(self._told(t, cond))

    def _fits(self, x: Tensor) -> None:
        if tuple(x.shape[1:]) != self.event:
            raise ValueError(f"x must have event shape {self.event}, got {tuple(x.shape[1:])}")

    def _told(self, t: Tensor, cond: Tensor | None) -> Tensor:
        return nn.functional.silu(self.condition(t, cond))

    def _encode(self, x: Tensor, told: Tensor) -> UNetFeatures:
        first = channels_first(x, self.layout)
        whole = nn.functional.pad(first, [n for size in reversed(self.padding) for n in (0, size)]) if any(self.padding) else first
        h = fold(whole, self.patch)
        if h.ndim == 4:
            h = h.contiguous(memory_format=torch.channels_last)
        h = self.enter(h)
        kept = []
        for level, blocks in enumerate(self.down):
            for block in blocks:
                h = block(h, told)
                kept.append(h)
            if level < len(self.lower):
                h = self.lower[level](h)
        return UNetFeatures(self.middle(h, told), tuple(kept))

    def _decode(self, features: UNetFeatures, x: Tensor, told: Tensor) -> Tensor | tuple[Tensor, ...]:
        first, h, kept = channels_first(x, self.layout), features.bottom, list(features.kept)
        for level, blocks in enumerate(self.up):
            for block in blocks:
                left = kept.pop()       # the number of those still kept is its place, 0 the outermost
                h = block(torch.cat([h, left], 1), told, None if self.joins is None else self.joins(left, len(kept)))
            if level < len(self.higher):
                h = nn.functional.interpolate(self.higher[level](h), scale_factor=2.0, mode="nearest")
        out = self.leave(nn.functional.silu(self.norm(h)))
        leaning = self.skip(told)
        answers = []
        for head, part in enumerate(out.chunk(self.heads, 1)):
            part = unfold(part, self.patch)
            if any(self.padding):
                part = part[(slice(None), slice(None), *(slice(size) for size in self.grid))]
            answers.append(restored(torch.addcmul(part, leaning[:, head].reshape(-1, *(1,) * (first.ndim - 1)), first), self.layout))
        return answers[0] if len(answers) == 1 else tuple(answers)


class _Block(nn.Module):
    """x + conv(silu(scale(c) * norm(conv(silu(norm(x)))) + shift(c))), and attention after it where that is wanted; it begins as the identity.

    factors (1 or batch, channels): what its layers read of the last so many channels is multiplied by them, behind the norm, whose groups may
    hold no other channels and would undo it.
    """

    def __init__(self, axes: int, width: int, out: int, told: int, dropout: float, attend: bool = False):
        super().__init__()
        conv = CONVOLUTIONS[axes]
        self.first, self.second = _norm(width), _norm(out, affine=False)
        self.widen, self.settle = conv(width, out, 3, padding=1), conv(out, out, 3, padding=1)
        self.modulate = nn.Linear(told, 2 * out)
        self.dropout = nn.Dropout(dropout)
        self.match = conv(width, out, 1) if width != out else None
        self.attend = SelfAttention(out) if attend else None
        for layer in (self.modulate, self.settle):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, told: Tensor, factors: Tensor | None = None) -> Tensor:
        h = nn.functional.silu(self.first(x))
        if factors is not None:
            whole = factors.new_ones((len(factors), x.shape[1] - factors.shape[1]))
            factors = torch.cat([whole, factors], 1).reshape(len(factors), -1, *(1,) * (x.ndim - 2))
            h, x = factors * h, factors * x
        h = self.widen(h)
        scale, shift = self.modulate(told).reshape(len(x), -1, *(1,) * (x.ndim - 2)).chunk(2, 1)
        h = torch.addcmul(shift, self.second(h), 1 + scale)
        h = self.settle(self.dropout(nn.functional.silu(h)))
        h = h + (x if self.match is None else self.match(x))
        if self.attend is not None:
            h = h + self.attend(h.flatten(2).mT).mT.reshape(h.shape)
        return h


def _norm(width: int, affine: bool = True) -> nn.GroupNorm:
    """Group normalisation with about 16 channels a group."""
    groups = max(1, width // GROUP)
    while width % groups:
        groups -= 1
    return nn.GroupNorm(groups, width, affine=affine)
