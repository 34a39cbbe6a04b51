"""How a number of a table becomes an entry near the size of a standard normal one, and back.

standard: x = (v - mean) / std
rank:     x = Phi^{-1}(F(v)), F(v) = share of values below v + half the share equal to v, on at most 200 knots, straight lines between
"""
from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

__all__ = ["SCALES", "Rank", "Standard"]

SCALES = ("standard", "rank")
MOST_KNOTS = 200


@dataclass(frozen=True)
class Standard:
    """x = (v - mean) / std."""

    mean: float
    std: float
    kind: ClassVar[str] = "standard"

    def __post_init__(self):
        if not (math.isfinite(self.mean) and math.isfinite(self.std) and self.std > 0):
            raise ValueError(f"mean must be finite and std positive, got {self.mean} and {self.std}")

    @classmethod
    def fit(cls, values) -> Standard:
        """values: float64, at least two different."""
        import numpy as np

        size = float(np.abs(values - values[0]).max())          # squares of tiny or huge gaps would leave float64
        gaps = (values - values[0]) / size
        return cls(float(values[0] + size * gaps.mean()), float(size * gaps.std()))

    def forward(self, values):
        return (values - self.mean) / self.std

    def inverse(self, x):
        return self.mean + self.std * x

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "mean": self.mean, "std": self.std}

    @classmethod
    def from_json(cls, described: Mapping[str, Any]) -> Standard:
        return cls(float(described["mean"]), float(described["std"]))


@dataclass(frozen=True)
class Rank:
    """Straight lines between (values[i], scores[i]); both rise. Beyond the ends, the ends."""

    values: tuple[float, ...]
    scores: tuple[float, ...]
    kind: ClassVar[str] = "rank"

    def __post_init__(self):
        for name, knots in (("values", self.values), ("scores", self.scores)):
            if len(knots) < 2 or not all(a < b for a, b in zip(knots, knots[1:], strict=False)) or not all(map(math.isfinite, knots)):
                raise ValueError(f"{name} must be two or more rising numbers, got {knots[:5]}")
        if len(self.values) != len(self.scores):
            raise ValueError(f"values and scores must be as many, got {len(self.values)} and {len(self.scores)}")

    @classmethod
    def fit(cls, values, low: float, high: float) -> Rank:
        """values: float64, at least two different. low, high: ends of a range around them; where it is wider, a knot of half the outermost
        rank is put at its end, so that values between are told apart."""
        import numpy as np
        from scipy.special import ndtri

        different, counts = np.unique(values, return_counts=True)
        middle = (counts.cumsum() - counts / 2) / len(values)
        if low < different[0]:
            different, middle = np.insert(different, 0, low), np.insert(middle, 0, middle[0] / 2)
        if high > different[-1]:
            different, middle = np.append(different, high), np.append(middle, (1 + middle[-1]) / 2)
        scores = ndtri(middle)
        if len(different) > MOST_KNOTS:                     # half of the knots even in rank, half even in score, for the tails
            half = MOST_KNOTS // 2
            places = np.concatenate([np.searchsorted(middle, np.linspace(middle[0], middle[-1], half)),
                                     np.searchsorted(scores, np.linspace(scores[0], scores[-1], half))])
            chosen = np.unique(np.append(places.clip(0, len(different) - 1), [0, len(different) - 1]))
            different, scores = different[chosen], scores[chosen]
        return cls(tuple(different.tolist()), tuple(scores.tolist()))

    def forward(self, values):
        import numpy as np

        return np.interp(values, self.values, self.scores)

    def inverse(self, x):
        import numpy as np

        return np.interp(x, self.scores, self.values)

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "values": list(self.values), "scores": list(self.scores)}

    @classmethod
    def from_json(cls, described: Mapping[str, Any]) -> Rank:
        return cls(tuple(map(float, described["values"])), tuple(map(float, described["scores"])))
