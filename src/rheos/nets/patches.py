"""Space to depth: the points of small patches of a grid become channels of one point, and back."""
from __future__ import annotations

from jaxtyping import Shaped
from torch import Tensor, nn

__all__ = ["fold", "unfold"]


def fold(x: Shaped[Tensor, "batch channels *grid"], patch: int) -> Shaped[Tensor, "batch folded *coarse"]:
    """(batch, channels, *grid) -> (batch, channels patch^axes, *grid / patch), along every axis of the grid; a copy of one point's patch is
    ordered channel first, then the place inside the patch."""
    if patch == 1:
        return x
    if x.ndim == 4:
        return nn.functional.pixel_unshuffle(x, patch)
    batch, channels, *grid = x.shape
    split = x.reshape(batch, channels, *(n for size in grid for n in (size // patch, patch)))
    axes = range(2, split.ndim)
    return split.permute(0, 1, *axes[1::2], *axes[0::2]).reshape(batch, -1, *(size // patch for size in grid))


def unfold(x: Shaped[Tensor, "batch folded *coarse"], patch: int) -> Shaped[Tensor, "batch channels *grid"]:
    """The inverse of `fold`."""
    if patch == 1:
        return x
    if x.ndim == 4:
        return nn.functional.pixel_shuffle(x, patch)
    batch, wide, *grid = x.shape
    axes = len(grid)
    split = x.reshape(batch, wide // patch**axes, *[patch] * axes, *grid)
    order = [n for axis in range(axes) for n in (2 + axes + axis, 2 + axis)]
    return split.permute(0, 1, *order).reshape(batch, -1, *(size * patch for size in grid))
