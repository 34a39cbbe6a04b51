"""Which backbone for which event: `net_for` builds the one that was found to give most for the time on CPUs."""
from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from rheos.core import checks
from rheos.nets.dit import DiT
from rheos.nets.layouts import first_event, guess_layout
from rheos.nets.mlp import ResidualMLP
from rheos.nets.unet import UNet

__all__ = ["NETS", "net_for"]

NETS = ("auto", "mlp", "unet", "dit")
SMALL = 128             # numbers in an event, up to which a perceptron sees all of it at once
MOST_WIDTH, MOST_DEPTH = 1 << 16, 1024
TOKENS = 256            # a transformer's patches are made so large that there are at most so many
MOST_PATCH = 8


def net_for(event: Sequence[int], net: str = "auto", *, width: int | None = None, depth: int | None = None, classes: int | None = None,
            features: int | None = None, dropout: float | None = None, tokens: bool = False, heads: int = 1) -> nn.Module:
    """A backbone for events of this shape.

    net:    "mlp", "unet", "dit", or "auto": a perceptron for flat and for small events (up to 128 numbers), else a U-Net. Where the channels
            are is told by the shape: (3, 32, 32), (32, 32, 3), (28, 28) and a series (2, 50) are all understood.
    tokens: whether the event is a text (channels, length): never small, and nothing of it is folded.
    width:  features of the perceptron (160) or of a token (192); the U-Net's finest level (32, on a text 64), the next level has twice as many.
    depth:  blocks (3 of the perceptron, 6 of the transformer), or blocks a level of the U-Net (1).
    dropout: 0.1 in a perceptron, which would learn small sets by heart, 0 in the others. classes, features: the condition, see `Condition`.
    heads: how many predictions it returns.
    ValueError for a network that cannot take such events.
    """
    event = tuple(checks.integer("event", size, least=1) for size in event)
    checks.one_of("net", net, NETS)
    for name, value, most in (("width", width, MOST_WIDTH), ("depth", depth, MOST_DEPTH)):
        if value is not None and checks.integer(name, value, least=1) > most:
            raise ValueError(f"{name} must be at most {most:,}, got {value:,}")
    if net == "auto":
        net = "mlp" if len(event) == 1 or len(event) > 4 or (math.prod(event) <= SMALL and not tokens) else "unet"
    condition = {"classes": classes, "features": features, "heads": heads}
    given = lambda value, usual: usual if value is None else value
    if net == "mlp":
        return ResidualMLP(event, width=given(width, 160), depth=given(depth, 3), dropout=given(dropout, 0.1), **condition)
    if len(event) not in (2, 3, 4):
        raise ValueError(f"net {net!r} needs events of channels and one to three axes of grid, got {event}: use mlp")
    condition["layout"] = "first" if tokens else guess_layout(event)
    grid = first_event(event, condition["layout"])[1:]
    dropout = given(dropout, 0.0)
    if net == "dit":
        return DiT(event, patch=1 if tokens else _patch(grid), width=given(width, 192), depth=given(depth, 6), dropout=dropout, **condition)
    width, smallest = checks.integer("width", given(width, 64 if tokens else 32), least=1), min(grid)
    patch = 2 if smallest >= 16 and not tokens else 1
    # Halve the grid until its shorter side is about four points, at most three times.
    levels = 2 if tokens else max(1, min(3, int(math.log2(smallest / patch)) - 1))
    return UNet(event, widths=[width * 2 ** min(level, 2) for level in range(levels)], depth=given(depth, 1), patch=patch, dropout=dropout, **condition)


def _patch(grid: Sequence[int]) -> int:
    """The smallest patch that divides the grid and leaves at most `TOKENS` tokens. ValueError if that is larger than `MOST_PATCH` points."""
    for patch in range(1, MOST_PATCH + 1):
        if all(size % patch == 0 for size in grid) and math.prod(size // patch for size in grid) <= TOKENS:
            return patch
    raise ValueError(f"net 'dit' would have to see the grid {tuple(grid)} in patches, and none of 1 to {MOST_PATCH} points a side divides it into at most "
                     f"{TOKENS}: use unet")
