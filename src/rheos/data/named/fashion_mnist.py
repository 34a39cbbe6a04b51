"""Fashion-MNIST: 70,000 pictures of clothes, as four idx files."""
from __future__ import annotations

import gzip
import math
import zlib
from functools import partial
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from rheos.data.cache import cached
from rheos.data.dataset import Dataset
from rheos.data.named.named import Named
from rheos.data.named.parcels import DebianPackage

__all__ = ["FASHION_MNIST", "idx", "read"]

LABELS = ("t-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
FILES = {
    "x": "train-images-idx3-ubyte.gz", "y": "train-labels-idx1-ubyte.gz",
    "held_out_x": "t10k-images-idx3-ubyte.gz", "held_out_y": "t10k-labels-idx1-ubyte.gz",
}


def idx(path: Path) -> UInt8[Tensor, "*shape"]:
    """The array of unsigned bytes in a gzipped idx file: two zero bytes, 8 (the type), the number of axes, their lengths as big-endian words, the values.

    ValueError that names the file if it is missing, no whole gzip file, or does not hold what its head says.
    """
    try:
        content = gzip.decompress(path.read_bytes())
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such file") from None
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: is no whole gzip file ({error})") from error
    if len(content) < 4 or content[:3] != b"\0\0\x08":
        raise ValueError(f"{path}: is no idx file of unsigned bytes, it begins with {content[:4].hex() or 'nothing'} and not with 000008")
    head = 4 + 4 * content[3]
    shape = [int.from_bytes(content[i:i + 4], "big") for i in range(4, min(head, len(content)), 4)]
    if len(content) != head + math.prod(shape):
        raise ValueError(f"{path}: must hold {math.prod(shape):,} bytes of shape {tuple(shape)}, got {len(content) - head:,}")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=head).reshape(shape)


def read(folder: Path) -> Dataset:
    """x (60,000, 1, 28, 28) in [-1, 1], y the kind of garment; its own 10,000 test pictures held out."""
    files = {name: folder / file for name, file in FILES.items()}
    arrays, _ = cached("fashion-mnist", files, {}, lambda: ({name: idx(file) for name, file in files.items()}, {}))
    for images, labels in (("x", "y"), ("held_out_x", "held_out_y")):
        if arrays[images].ndim != 3 or arrays[labels].shape != arrays[images].shape[:1]:
            raise ValueError(f"{files[labels]}: must hold one label for each picture of {files[images].name}, "
                             f"got shapes {tuple(arrays[labels].shape)} and {tuple(arrays[images].shape)}")
        if int(arrays[labels].max()) >= len(LABELS):
            raise ValueError(f"{files[labels]}: labels must lie in 0..{len(LABELS) - 1}, got {int(arrays[labels].max())}")
    about = {"bounds": (-1.0, 1.0), "classes": len(LABELS), "labels": LABELS}
    pixels = lambda x: (x.float() / 127.5 - 1).unsqueeze(1)
    held_out = Dataset("fashion_mnist (held out)", pixels(arrays["held_out_x"]), arrays["held_out_y"].long(), **about)
    return Dataset("fashion_mnist", pixels(arrays["x"]), arrays["y"].long(), held_out, **about)


FASHION_MNIST = Named(
    name="fashion_mnist",
    what="grey pictures of clothes",
    meaning="pictures of clothes, 28 x 28 grey pixels from -1 (background) to 1; the label is the kind of garment",
    licence="MIT",
    source="Xiao, Rasul and Vollgraf, Fashion-MNIST: a novel image dataset for benchmarking machine learning algorithms, 2017, arXiv:1708.07747",
    rows="70,000",
    shape="(1, 28, 28)",
    apart="its own test part, 10,000",
    reader=read,
    files=tuple(FILES.values()),
    place=partial(Path, "/usr/share/datasets/fashion-mnist"),
    under=("", "usr/share/datasets/fashion-mnist"),
    parcel=DebianPackage("dataset-fashion-mnist", (("usr/share/datasets/fashion-mnist", "*.gz"), ("usr/share/doc/*", "copyright")), 120),
)
