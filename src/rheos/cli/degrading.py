"""What a task leaves of an image, as a linear operator: for `rheos restore`, and for paths that learn to undo it."""
from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rheos.cli.errors import Failure, Usage

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["operator_of", "read_picture"]


def operator_of(task: str, event: tuple[int, ...], mask: Path | None, hole: float, factor: int) -> Any:
    """What the task leaves of an image."""
    import torch

    from rheos.guidance import Grey, Mask, Pool

    channels, height, width = event
    if task == "colour":
        if channels != 3:
            raise Usage(f"--task colour needs a model of three colours; this one's images have {channels} channel")
        return Grey.luma()      # what grey pictures are made by
    if task == "superres":
        if height % factor or width % factor:
            raise Usage(f"--factor must divide the images' size, {height} x {width}, got {factor}")
        return Pool(factor)
    if mask is None:
        keep = torch.ones(height, width, dtype=torch.bool)
        tall, wide = max(1, round(hole * height)), max(1, round(hole * width))
        top, left = (height - tall) // 2, (width - wide) // 2
        keep[top : top + tall, left : left + wide] = False
    else:
        keep = read_picture(mask, 1)[0] > 0
        if tuple(keep.shape) != (height, width):
            raise Usage(f"--mask must be {width} pixels wide and {height} high as the images are, got {keep.shape[1]} x {keep.shape[0]}")
    if bool(keep.all()) or not bool(keep.any()):
        raise Usage("the mask must keep some of the image and hide some of it")
    return Mask(keep)


def read_picture(file: Path, channels: int) -> Tensor:
    """A picture as (channels, height, width) in [-1, 1]."""
    import numpy as np
    import torch
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as image:
            deep = image.mode.startswith("I")       # 16 bits a pixel, which a conversion to 8 would cut off
            flat = image if deep else image.convert("L" if channels == 1 else "RGB")
            pixels = np.asarray(flat, dtype=np.float32) / (257.0 if deep else 1.0)
            if deep and channels == 3:
                pixels = np.repeat(pixels[..., None], 3, -1)
    except FileNotFoundError:
        raise Failure(f"{file} does not exist") from None
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise Failure(f"{file} is not a picture that can be read: {error}") from None
    return torch.from_numpy(pixels / 127.5 - 1).reshape(*pixels.shape[:2], channels).permute(2, 0, 1)
