"""Where an event has its channels: first (channels, *grid), last (*grid, channels), or nowhere (*grid)."""
from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from rheos.core import checks

__all__ = ["LAYOUTS", "channel_axis", "channels_first", "first_event", "guess_layout", "restored"]

LAYOUTS = ("first", "last", "none")
MOST_CHANNELS = 8       # an axis up to so long, beside longer ones, is taken for channels


def guess_layout(event: Sequence[int]) -> str:
    """The layout that an event of this shape most likely has: (3, 32, 32) first, (32, 32, 3) last, (28, 28) none, (2, 50) first."""
    few = lambda axis: event[axis] <= MOST_CHANNELS < max(event)
    if len(event) == 2:
        return "first" if few(0) else "last" if few(1) else "none"
    if len(event) == 3 and (axis := channel_axis(event)) is not None:
        return "first" if axis == 0 else "last"
    return "last" if few(-1) and not few(0) else "first"


def channel_axis(event: Sequence[int]) -> int | None:
    """Which axis of an image's shape counts channels: 0, 2, or None for (height, width) and for what is no image.

    1 grey, 3 colours, 4 colours and opacity; a shape that could be read in two ways has 1 or 3 channels rather than 4, first rather than last.

    >>> channel_axis((3, 32, 32)), channel_axis((4, 5, 3)), channel_axis((32, 32, 4)), channel_axis((2, 8, 8))
    (0, 2, 2, None)
    """
    if len(event) != 3:
        return None
    return next((axis for counts in ((1, 3), (4,)) for axis in (0, 2) if event[axis] in counts), None)


def first_event(event: Sequence[int], layout: str) -> tuple[int, ...]:
    """The event's shape with channels first. ValueError unless that has one to three axes of grid."""
    checks.one_of("layout", layout, LAYOUTS)
    event = tuple(checks.integer("event", size, least=1) for size in event)
    first = (1, *event) if layout == "none" else (event[-1], *event[:-1]) if layout == "last" else event
    if len(first) not in (2, 3, 4):
        raise ValueError(f"event must have channels {layout} and one to three axes of grid, got {event}")
    return first


def channels_first(x: Tensor, layout: str) -> Tensor:
    """(batch, *event) -> (batch, channels, *grid)."""
    return x.unsqueeze(1) if layout == "none" else x.movedim(-1, 1) if layout == "last" else x


def restored(x: Tensor, layout: str) -> Tensor:
    """The inverse of `channels_first`."""
    return x.squeeze(1) if layout == "none" else x.movedim(1, -1) if layout == "last" else x
