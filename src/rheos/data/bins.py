"""A column of numbers as a few ordered bins of about equally many rows, and back: uniform inside the bin."""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from rheos.core import checks

__all__ = ["MOST_BINS", "Bins"]

MOST_BINS = 32


@dataclass(frozen=True)
class Bins:
    """Bin k is the numbers from lows[k] to highs[k]; what lies between two bins belongs to the nearer one.

    Rising and apart: lows[k] <= highs[k] < lows[k + 1]. A bin of one value gives it back exactly.

    >>> bins = Bins.fit(torch.tensor([0.0, 0.0, 0.0, 1.0, 2.0, 7.0, 9.0]), most=3)
    >>> bins.lows, bins.highs                                    # the value that is a third of all stands alone
    ((0.0, 1.0, 7.0), (0.0, 2.0, 9.0))
    >>> bins.ids(torch.tensor([-5.0, 0.4, 0.6, 8.1])).tolist(), bins.values(torch.tensor([1, 2]), torch.tensor([0.5, 0.0])).tolist()
    ([0, 0, 1, 2], [1.5, 7.0])
    """

    lows: Sequence[float]
    highs: Sequence[float]

    def __post_init__(self):
        object.__setattr__(self, "lows", tuple(float(value) for value in self.lows))
        object.__setattr__(self, "highs", tuple(float(value) for value in self.highs))
        whole = [value for bin in zip(self.lows, self.highs, strict=False) for value in bin]
        rising = all(low <= high for low, high in zip(self.lows, self.highs, strict=False)) and all(
            high < low for high, low in zip(self.highs, self.lows[1:], strict=False))
        if not self.lows or len(self.lows) != len(self.highs) or not rising or not all(map(math.isfinite, whole)):
            raise ValueError(f"bins must be finite, rising and apart, got {whole[:8]}")

    @classmethod
    def fit(cls, values: Float[Tensor, " n"], most: int = MOST_BINS) -> Bins:
        """At most `most` bins: a value that is at least 1/most of all rows has one alone, the others share theirs with their neighbours;
        at most `most` different values have one each. ValueError for no values, or some that are not finite."""
        most = checks.integer("most", most, least=1)
        if not checks.finite("values", values).numel():
            raise ValueError("values must hold at least one number, got none")
        different, counts = values.unique(return_counts=True)
        different, counts = different.tolist(), counts.tolist()
        if len(different) <= most:
            return cls(different, different)
        groups, held, left, rows = [[different[0]]], counts[0], most, len(values)
        for value, count in zip(different[1:], counts[1:], strict=True):
            share = rows / left             # of the rows that are not in closed bins, for each bin that is left
            if left == 1 or (held + 0.5 * count <= share and max(count, held) < share):
                groups[-1].append(value)
                held += count
            else:
                groups.append([value])
                rows, left, held = rows - held, left - 1, count
        return cls([group[0] for group in groups], [group[-1] for group in groups])

    def __len__(self) -> int:
        return len(self.lows)

    def ids(self, values: Float[Tensor, " n"]) -> Int64[Tensor, " n"]:
        """The nearest bin of each value, (n,) int64."""
        lows, highs = (torch.tensor(ends, dtype=torch.float64) for ends in (self.lows, self.highs))
        return torch.searchsorted((highs[:-1] + lows[1:]) / 2, values.detach().cpu().double())

    def values(self, ids: Int64[Tensor, " n"], u: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """low + u (high - low), u in [0, 1), of u's dtype. ValueError for ids that are no bins."""
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < len(self):
            raise ValueError(f"ids must lie in 0..{len(self) - 1}, got {int(ids.min())} to {int(ids.max())}")
        lows, highs = (torch.tensor(ends, dtype=torch.float64)[ids] for ends in (self.lows, self.highs))
        return (lows + u.double() * (highs - lows)).to(u.dtype)

    def to_json(self) -> dict[str, Any]:
        return {"lows": list(self.lows), "highs": list(self.highs)}

    @classmethod
    def from_json(cls, described: Mapping[str, Any]) -> Bins:
        return cls(described["lows"], described["highs"])
