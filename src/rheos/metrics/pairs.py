"""Two sets of events made comparable (checked, put through features, flattened), and the distances between their rows.

|a_i - b_j|^2 = |a_i|^2 + |b_j|^2 - 2 a_i . b_j  in float64 about the middle of the second set: one matrix product instead of
n m d differences. What is below the rounding of the right-hand side is 0, so that equal rows are at distance 0 exactly.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from rheos.core import checks

__all__ = ["Features", "blocks", "distance_table", "least_rows", "mean_over_pairs", "pair", "powers", "squared_distances"]

Features = Callable[[Tensor], Tensor]

_BATCH = 1024               # rows that `features` sees at a time
_CHUNK_NUMBERS = 1 << 22    # entries of a table of distances that are made at a time


def pair(x: Tensor, y: Tensor, features: Features | None = None) -> tuple[Float[Tensor, "n d"], Float[Tensor, "m d"]]:
    """Both sets, or their features, flattened to rows of one dtype: the wider of the two, at least float32.

    features: (rows, *event) -> (rows, ...), called on 1,024 rows at a time. Gradients flow through it.
    ValueError for an empty set, different events, or features that do not give a row for a row; TypeError for other than floats.
    """
    for name, rows in (("x", x), ("y", y)):
        _at_least_one(name, rows)
    if x.shape[1:] != y.shape[1:]:
        raise ValueError(f"x and y must have the same event shape, got {tuple(x.shape[1:])} and {tuple(y.shape[1:])}")
    if features is not None:
        if not callable(features):
            raise TypeError(f"features must be callable, got {type(features).__name__}")
        x, y = (_applied(name, features, rows) for name, rows in (("x", x), ("y", y)))
        if x.shape[1:] != y.shape[1:]:
            raise ValueError(f"features must give both sets the same shape, got {tuple(x.shape[1:])} and {tuple(y.shape[1:])}")
    dtype = torch.promote_types(torch.promote_types(x.dtype, y.dtype), torch.float32)
    return x.to(dtype).reshape(len(x), -1), y.to(dtype).reshape(len(y), -1)


def _at_least_one(name: str, rows: Tensor) -> Tensor:
    checks.tensor(name, rows, floating=True)
    if rows.ndim < 1 or rows.numel() == 0:
        raise ValueError(f"{name} must have at least one row, got shape {tuple(rows.shape)}")
    return rows


def _applied(name: str, features: Features, rows: Tensor) -> Tensor:
    parts = []
    for part in rows.split(_BATCH):
        made = _at_least_one(f"features of {name}", features(part))
        if len(made) != len(part):
            raise ValueError(f"features must return one row for each of theirs, got {len(made)} for {len(part)} rows of {name}")
        parts.append(made)
    return torch.cat(parts)


def least_rows(least: int, x: Tensor, y: Tensor) -> None:
    """ValueError if either set has fewer rows than `least`."""
    for name, rows in (("x", x), ("y", y)):
        if len(rows) < least:
            raise ValueError(f"{name} must have at least {least} rows, got {len(rows)}")


def blocks(a: Tensor, width: int) -> Iterator[tuple[int, Tensor]]:
    """Successive rows of `a` and the number of their first, so few at a time that a table of them with `width` columns is small."""
    size = max(1, _CHUNK_NUMBERS // width)
    return ((start, a[start : start + size]) for start in range(0, len(a), size))


def squared_distances(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> Float64[Tensor, "n m"]:
    """|a_i - b_j|^2, float64, differentiable; 0 with gradient 0 for rows that coincide to rounding (1e-7 of their size or nearer)."""
    middle = b.detach().double().mean(0)
    a, b = a.double() - middle, b.double() - middle
    sizes = a.square().sum(1)[:, None] + b.square().sum(1)
    gap = torch.addmm(sizes, a, b.mT, alpha=-2.0)
    noise = (a.shape[1] + 8) * torch.finfo(gap.dtype).eps * sizes.detach()
    return torch.where(gap.detach() <= noise, 0.0, gap)        # not `gap > noise`: not-a-number stays


def powers(squared: Float64[Tensor, "*shape"], power: float) -> Float64[Tensor, "*shape"]:
    """|a - b|^power of squared distances. Where they are 0 the gradient is taken as 0, also where the power has none there."""
    if power == 2.0:
        return squared
    apart = squared != 0
    away = torch.where(apart, squared, 1.0)
    return torch.where(apart, away.sqrt() if power == 1.0 else away.pow(power / 2), 0.0)


@torch.no_grad()
def distance_table(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"], power: float) -> Float64[Tensor, "n m"]:
    """|a_i - b_j|^power as one table, for what needs all of it. No gradient."""
    return torch.cat([powers(squared_distances(part, b), power) for _, part in blocks(a, len(b))])


def mean_over_pairs(value: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor | None = None, *, diagonal: bool = True) -> Float64[Tensor, ""]:
    """Mean of value(rows, columns) -> (rows, columns) over all pairs of a row of `a` and one of `b`, block by block.

    Without `b`: over the pairs of rows of `a`, where value must be symmetric; `diagonal=False` leaves out those of a row with itself.
    """
    if b is not None:
        return sum(value(part, b).sum() for _, part in blocks(a, len(b))) / (len(a) * len(b))
    total, own = 0.0, 0.0
    for start, part in blocks(a, len(a)):
        table = value(part, a[start:])                          # every pair of different blocks once
        total = total + table[:, : len(part)].sum() + 2 * table[:, len(part) :].sum()
        own = own + table.diagonal().sum()
    return total / len(a) ** 2 if diagonal else (total - own) / (len(a) * (len(a) - 1))
