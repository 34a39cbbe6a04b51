"""Samples as pictures: which events are images, and how a batch of them becomes a sheet."""
from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

__all__ = ["as_map", "as_pixels", "data_uri", "is_image", "is_map", "pairs", "png", "sheet"]

CHEQUER = (0.94, 0.80)      # the two greys that see-through pixels show
ON_PAPER = (("digits", (1, 8, 8)),)         # data whose high values are ink: shown dark on light
TARGET, GAP = 48, 2         # a tile's shorter side is enlarged to about so many pixels; pixels between tiles
ACCENT, PAPER = (37, 99, 235), (255, 255, 255)


def is_image(event: Sequence[int], bounds: tuple[float, float] | None) -> bool:
    """Whether events are pictures of values with known bounds: (channels, height, width), (height, width, channels) or (height, width).

    Channels: 1 grey, 3 colours, or 4: colours and opacity.
    """
    from rheos.metrics import channel_axis

    return bounds is not None and (len(event) == 2 or channel_axis(event) is not None)


def as_pixels(x: Tensor, bounds: tuple[float, float], name: str = "") -> np.ndarray:
    """(n, height, width, 3) uint8. name: of the data; digits are shown as ink on paper. A fourth channel is opacity: a light chequer shows through."""
    import numpy as np

    from rheos.metrics import channel_axis

    low, high = bounds
    grey = ((x.detach().cpu().double() - low) / (high - low)).clamp(0, 1).numpy()
    if (name, tuple(x.shape[1:])) in ON_PAPER:
        grey = 1 - grey
    if grey.ndim == 3:
        grey = grey[..., None]
    elif channel_axis(grey.shape[1:]) == 0:
        grey = np.moveaxis(grey, 1, -1)
    if grey.shape[-1] == 4:
        grey = _on_chequer(grey)
    pixels = np.round(grey * 255).astype(np.uint8)
    return np.repeat(pixels, 3, -1) if pixels.shape[-1] == 1 else pixels


def is_map(event: Sequence[int]) -> bool:
    """Whether events without known bounds can be shown as maps: a grid of two axes, alone or with channels, at least 4 points a side."""
    from rheos.nets.layouts import first_event, guess_layout

    if len(event) not in (2, 3):
        return False
    _, *grid = first_event(event, guess_layout(event))
    return len(grid) == 2 and min(grid) >= 4


def as_map(x: Tensor, low: float, high: float) -> np.ndarray:
    """The first channel of fields (n, *event) as colours (n, height, width, 3) uint8, from dark (low) to bright (high)."""
    import numpy as np
    from matplotlib import colormaps

    from rheos.nets.layouts import channels_first, guess_layout

    first = channels_first(x.detach().cpu().double(), guess_layout(tuple(x.shape[1:])))[:, 0]
    share = ((first - low) / max(high - low, 1e-300)).clamp(0, 1).numpy()
    return np.round(colormaps["viridis"](share)[..., :3] * 255).astype(np.uint8)


def _on_chequer(colours: np.ndarray) -> np.ndarray:
    """Colours and opacity (n, height, width, 4) in [0, 1] as colours over squares of two greys, eight along the shorter side."""
    import numpy as np

    high, wide = colours.shape[1:3]
    side = max(1, min(high, wide) // 8)
    odd = (np.arange(high)[:, None] // side + np.arange(wide) // side) % 2
    opacity = colours[..., 3:]
    return opacity * colours[..., :3] + (1 - opacity) * np.array(CHEQUER)[odd][..., None]


def _enlarged(pixels: np.ndarray) -> np.ndarray:
    """Every tile enlarged by a whole factor, so that pixels stay square."""
    factor = max(1, round(TARGET / min(pixels.shape[1:3])))
    return pixels.repeat(factor, 1).repeat(factor, 2)


def sheet(pixels: np.ndarray, columns: int | None = None) -> np.ndarray:
    """All tiles (n, h, w, 3) side by side on one picture (height, width, 3)."""
    import numpy as np

    tiles = _enlarged(pixels)
    n, high, wide, _ = tiles.shape
    columns = min(n, columns or max(1, round(n**0.5)))
    rows = -(-n // columns)
    canvas = np.full((rows * (high + GAP) + GAP, columns * (wide + GAP) + GAP, 3), 225, np.uint8)
    for i, tile in enumerate(tiles):
        top, left = GAP + i // columns * (high + GAP), GAP + i % columns * (wide + GAP)
        canvas[top : top + high, left : left + wide] = tile
    return canvas


def pairs(samples: np.ndarray, neighbours: np.ndarray) -> list[np.ndarray]:
    """One picture a sample: the sample in a coloured frame, its neighbour in a grey one beside it."""
    import numpy as np

    made = []
    for sample, neighbour in zip(_enlarged(samples), _enlarged(neighbours), strict=True):
        framed = [np.pad(tile, ((3, 3), (3, 3), (0, 0))) for tile in (sample, neighbour)]
        for tile, colour in zip(framed, (ACCENT, (205, 205, 205)), strict=True):
            for edge in (tile[:3], tile[-3:], tile[:, :3], tile[:, -3:]):
                edge[:] = colour
        made.append(np.concatenate(framed, 1))
    return made


def png(pixels: np.ndarray) -> bytes:
    """One picture (height, width, 3) as a PNG file."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def data_uri(content: bytes, kind: str = "image/png") -> str:
    """A file as an address that holds the file itself."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
