"""Pictures with see-through pixels as bytes: read, and laid over a background."""
from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

__all__ = ["BACKGROUNDS", "laid", "open_picture"]

BACKGROUNDS = {"black": 0, "white": 255}


def open_picture(path: Path) -> UInt8[Tensor, "4 h w"]:
    """A picture's red, green, blue and opacity. ValueError that names the file if it is missing or cannot be read."""
    import numpy as np
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            return torch.from_numpy(np.array(picture.convert("RGBA"))).permute(2, 0, 1).contiguous()
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such file") from None
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: cannot be read as a picture ({' '.join(str(error).split())})") from error


def laid(x: UInt8[Tensor, "n 4 h w"], background: str) -> UInt8[Tensor, "n c h w"]:
    """Colours over a background, o c + (1 - o) b with opacity o = alpha / 255, rounded to bytes. "keep" leaves all four channels; colours where nothing is
    seen of them are 0."""
    if background == "keep":
        return torch.where(x[:, 3:] == 0, 0, x)
    opacity = x[:, 3:].float() / 255
    return (opacity * x[:, :3].float() + (1 - opacity) * BACKGROUNDS[background]).round().byte()
