"""Data as rows of token ids: text is that already, a table's columns become it, each with a vocabulary of its own.

category: its level.   number, date: one of at most 32 bins of about equally many training rows, from which it is drawn uniformly; a number
that has at most 32 different values has a token for each and comes back exactly.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from rheos.core import Draws, checks
from rheos.data.bins import MOST_BINS, Bins
from rheos.data.columns import Category, Columns
from rheos.data.dataset import Dataset
from rheos.data.tokens import Tokens

__all__ = ["Discrete", "TableTokens", "discrete"]


@runtime_checkable
class Discrete(Protocol):
    """Encoded rows x (n, *event) and token ids (n, length), both ways.

    vocab: how many tokens there are, or one number a position. ids: never fails on finite rows of the event's shape. from_ids: rows whose ids
    are these; what the ids leave open is drawn, row by row, from (seed, first + row).
    """

    @property
    def vocab(self) -> int | tuple[int, ...]: ...

    def ids(self, x: Tensor) -> Int64[Tensor, "n length"]: ...

    def from_ids(self, ids: Int64[Tensor, "n length"], *, seed: int | Draws = 0, first: int = 0) -> Tensor: ...

    def to_json(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class TableTokens:
    """A table's rows as one token a column that varies.

    columns: the table's encoding. bins: one for each column that varies, None for a category.
    ValueError if they do not fit each other.
    """

    columns: Columns
    bins: Sequence[Bins | None]

    def __post_init__(self):
        object.__setattr__(self, "bins", tuple(self.bins))
        if len(self.bins) != len(self.varying):
            raise ValueError(f"bins must be one for each of the {len(self.varying)} columns that vary, got {len(self.bins)}")
        for column, bins in zip(self.varying, self.bins, strict=True):
            if isinstance(column, Category) != (bins is None):
                raise ValueError(f"column {column.name} is a {column.kind}, so it must have {'no bins' if bins else 'bins'}")

    @classmethod
    def fit(cls, columns: Columns, x: Float[Tensor, "n d"], most: int = MOST_BINS) -> TableTokens:
        """Bins of the numbers and dates in x, encoded training rows."""
        checks.shape_of("x", x, (None, columns.dim))
        slices = columns.slices
        return cls(columns, [None if isinstance(column, Category) else Bins.fit(x[:, slices[column.name]][:, 0], most)
                             for column in columns.columns if column.width])

    @property
    def varying(self) -> tuple:
        """The columns that a row has a token for, in order: all but constants."""
        return tuple(column for column in self.columns.columns if column.width)

    @property
    def names(self) -> tuple[str, ...]:
        """Their names, in the order of the positions."""
        return tuple(column.name for column in self.varying)

    @property
    def vocab(self) -> tuple[int, ...]:
        return tuple(column.width if bins is None else len(bins) for column, bins in zip(self.varying, self.bins, strict=True))

    def ids(self, x: Float[Tensor, "n d"]) -> Int64[Tensor, "n length"]:
        """The level with the largest entry, or the nearest bin, of every column."""
        checks.shape_of("x", x, (None, self.columns.dim))
        x, slices = checks.finite("x", x).detach().cpu(), self.columns.slices
        parts = [x[:, slices[column.name]].argmax(1) if bins is None else bins.ids(x[:, slices[column.name]][:, 0])
                 for column, bins in zip(self.varying, self.bins, strict=True)]
        return torch.stack(parts, 1)

    def from_ids(self, ids: Int64[Tensor, "n length"], *, seed: int | Draws = 0, first: int = 0) -> Float[Tensor, "n d"]:
        """Encoded rows; numbers are uniform inside their bins. ValueError for another length and for ids out of range."""
        ids = checks.shape_of("ids", ids, (None, len(self.bins))).cpu()
        u = Draws.of(seed).uniform("place in a bin", 0, tuple(ids.shape), first=first, dtype=torch.float64)
        x = torch.empty(len(ids), self.columns.dim)
        for k, (column, bins, place) in enumerate(zip(self.varying, self.bins, (self.columns.slices[name] for name in self.names), strict=True)):
            if bins is not None:
                x[:, place] = bins.values(ids[:, k], u[:, k]).float()[:, None]
                continue
            if ids.numel() and not 0 <= int(ids[:, k].min()) <= int(ids[:, k].max()) < column.width:
                raise ValueError(f"ids of column {column.name} must lie in 0..{column.width - 1}, got {int(ids[:, k].min())} to {int(ids[:, k].max())}")
            x[:, place] = 2.0 * (ids[:, k, None] == torch.arange(column.width)) - 1
        return x

    def to_json(self) -> dict[str, Any]:
        return {"bins": [None if bins is None else bins.to_json() for bins in self.bins]}

    @classmethod
    def from_json(cls, columns: Columns, described: Mapping[str, Any]) -> TableTokens:
        """What `to_json` described. ValueError if something is missing or wrong."""
        try:
            return cls(columns, [None if bins is None else Bins.from_json(bins) for bins in described["bins"]])
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"bins of a table are damaged ({type(error).__name__} {error})") from None


def discrete(data: Dataset) -> Discrete:
    """The tokens of a data set: text by its bytes, a table by its columns. ValueError for anything else."""
    if isinstance(data.encoding, Tokens):
        return data.encoding
    if isinstance(data.encoding, Columns):
        return TableTokens.fit(data.encoding, data.x)
    raise ValueError(f"{data.name}: a masked path is for text and tables, whose rows are tokens; rows of {data.name} are arrays of shape {data.event}")
