"""A set of examples in memory, with what a reader must know about it, and its division by content into training and held-out."""
from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rheos.core import checks
from rheos.data.encodings import Encoding

__all__ = ["Dataset", "divided", "falls_below"]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Examples, their labels, and the examples kept apart to judge a model.

    name:     how messages and reports call it.
    x:        (n, *event) float32, finite, at least one row, in `bounds` where there are any.
    y:        (n,) int64 labels in 0..classes-1, or None.
    held_out: a Dataset of the same events and classes that no training may see, or None.
    bounds:   (low, high) that every true value respects (pixels), or None.
    classes:  number of classes, given exactly when `y` is.
    labels:   the classes' names, in the order of their numbers, or None.
    captions: a text for every row, or None.
    encoding: how rows came from things that are not arrays (a table's columns, text), and how they go back; None for arrays. Encoded
              rows are already on a network's scale (entries of size 1), so a model does not standardise them again.
    meaning:  one sentence: what a row is and in which units.
    licence:  under which terms the data may be used; "" if not known.
    source:   where it came from: a citation, or the file.

    ValueError says which of these is broken and where. `len(data)` is n.

    >>> data = Dataset("pairs", torch.tensor([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]), y=torch.tensor([0, 2, 1]), classes=3)
    >>> len(data), data.event
    (3, (2,))
    """

    name: str
    x: Tensor
    y: Tensor | None = None
    held_out: Dataset | None = None
    bounds: tuple[float, float] | None = None
    classes: int | None = None
    labels: tuple[str, ...] | None = None
    captions: tuple[str, ...] | None = None
    encoding: Encoding | None = None
    meaning: str = ""
    licence: str = ""
    source: str = ""

    def __post_init__(self):
        x = checks.tensor("x", self.x)
        if x.dtype != torch.float32:
            raise ValueError(f"{self.name}: x must be float32, got {x.dtype}")
        if x.ndim < 2 or x.numel() == 0:
            raise ValueError(f"{self.name}: x must have shape (n, *event) with no empty axis, got {tuple(x.shape)}")
        checks.finite(f"{self.name}: x", x)
        if self.bounds is not None:
            low, high = self.bounds
            if not low < high:
                raise ValueError(f"{self.name}: bounds must be (low, high) with low < high, got {self.bounds}")
            least, most = x.aminmax()
            if least < low or most > high:
                raise ValueError(f"{self.name}: x must lie in its bounds [{low:g}, {high:g}], got values from {least:g} to {most:g}")
        if (self.y is None) != (self.classes is None):
            raise ValueError(f"{self.name}: y and classes go together, got {'classes' if self.y is None else 'y'} alone")
        if self.y is not None:
            self._check_labels()
        if self.labels is not None:
            object.__setattr__(self, "labels", tuple(map(str, self.labels)))
            if len(self.labels) != self.classes or len(set(self.labels)) != len(self.labels):
                raise ValueError(f"{self.name}: labels must be different names for its {self.classes} classes, got {self.labels}")
        if self.captions is not None:
            object.__setattr__(self, "captions", tuple(map(str, self.captions)))
            if len(self.captions) != len(x):
                raise ValueError(f"{self.name}: captions must be one text for each of the {len(x)} rows of x, got {len(self.captions)}")
        if self.held_out is not None and (self.held_out.event, self.held_out.classes) != (self.event, self.classes):
            raise ValueError(f"{self.name}: held_out must have the events {self.event} and classes {self.classes} of the training part, "
                             f"got {self.held_out.event} and {self.held_out.classes}")

    def _check_labels(self) -> None:
        y = checks.tensor("y", self.y)
        checks.integer("classes", self.classes, least=1)
        if y.dtype != torch.int64:
            raise ValueError(f"{self.name}: y must be int64, got {y.dtype}")
        if tuple(y.shape) != (len(self.x),):
            raise ValueError(f"{self.name}: y must hold one label for each of the {len(self.x)} rows of x, got shape {tuple(y.shape)}")
        outside = ((y < 0) | (y >= self.classes)).nonzero()
        if len(outside):
            place = int(outside[0])
            raise ValueError(f"{self.name}: y must lie in 0..{self.classes - 1}, got {int(y[place])} at row {place}")

    def __len__(self) -> int:
        return len(self.x)

    @property
    def event(self) -> tuple[int, ...]:
        """Shape of one example."""
        return tuple(self.x.shape[1:])


def falls_below(x: Float[Tensor, "n *event"], fraction: float) -> Bool[Tensor, " n"]:
    """Which rows have a content hash in the lowest `fraction` of its range.

    The hash (blake2b of the row's float32 bytes, little-endian, -0 counted as 0) is the same on every machine and knows neither a
    row's place nor its neighbours: rows added to a file never move others across, and equal rows always fall on the same side.
    The share of rows is therefore near `fraction`, not equal to it.
    """
    limit = int(fraction * 2.0**64)
    rows = (x.detach().cpu().float().flatten(1) + 0.0).numpy().astype("<f4")
    below = [int.from_bytes(hashlib.blake2b(row.tobytes(), digest_size=8).digest(), "little") < limit for row in rows]
    return torch.tensor(below, dtype=torch.bool)


def divided(name: str, x: Tensor, y: Tensor | None, fraction: float, *, captions: Sequence[str] | None = None,
            apart: Bool[Tensor, " n"] | None = None, **about) -> Dataset:
    """A Dataset whose `held_out` is the `fraction` of rows chosen by content (None if that is no row at all).

    apart: which rows to hold out, where that is decided otherwise (files of one family kept together). about: the remaining fields of
    Dataset. ValueError if every row would be held out.
    """
    apart = falls_below(x, fraction) if apart is None else apart
    if bool(apart.all()):
        raise ValueError(f"{name}: all {len(x)} rows fall into the held-out part, none is left to train on: lower held_out ({fraction:g})")

    def part(rows: Tensor, **more) -> Dataset:
        said = None if captions is None else tuple(captions[i] for i in rows.nonzero().flatten().tolist())
        return Dataset(x=x[rows], y=None if y is None else y[rows], captions=said, **about, **more)

    held_out = part(apart, name=f"{name} (held out)") if bool(apart.any()) else None
    return part(~apart, name=name, held_out=held_out)
