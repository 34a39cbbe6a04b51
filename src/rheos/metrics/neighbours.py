"""The nearest known example: what a sample is laid beside, to see whether a model remembers or makes."""
from __future__ import annotations

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from rheos.core import checks

__all__ = ["nearest"]

_PAIRS = 1 << 15        # differences of two rows that are made at a time


@torch.no_grad()
def nearest(x: Float[Tensor, "n *event"], reference: Float[Tensor, "m *other"], *, chunk: int = 4096) -> tuple[Float[Tensor, " n"], Int64[Tensor, " n"]]:
    """For each row of x, the Euclidean distance to the nearest row of `reference` and that row's number (the first, if several tie).

    chunk: rows of either set that are compared at once; memory is chunk^2 numbers at most, the answer does not depend on it.
    Exact search: a matrix product in float64 finds the rows that may be nearest, up to its rounding, and the differences of those few are
    squared and summed, so that equal rows are at distance 0.
    No gradient. ValueError for an empty set, different events, or entries that are not finite.

    >>> nearest(torch.tensor([[0.0, 0.0], [5.0, 5.0]]), torch.tensor([[1.0, 9.0], [3.0, 4.0]]))
    (tensor([5.0000, 2.2361]), tensor([1, 1]))
    """
    chunk = checks.integer("chunk", chunk, least=1)
    for name, rows in (("x", x), ("reference", reference)):
        if rows.ndim < 1 or rows.numel() == 0:
            raise ValueError(f"{name} must have at least one row, got shape {tuple(rows.shape)}")
        checks.finite(name, rows)
    if x.shape[1:] != reference.shape[1:]:
        raise ValueError(f"x and reference must have the same event shape, got {tuple(x.shape[1:])} and {tuple(reference.shape[1:])}")
    dtype = torch.promote_types(x.dtype, reference.dtype)
    middle = reference.double().mean(0).flatten()
    points, known = (rows.double().reshape(len(rows), -1) - middle for rows in (x, reference))
    distances, places = [], []
    for rows in points.split(chunk):
        best = torch.full_like(rows[:, 0], torch.inf)
        place = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
        for start in range(0, len(known), chunk):
            gap, found = _nearest(rows, known[start : start + chunk])
            closer = gap < best                     # strictly, so that an earlier chunk keeps a tie
            best, place = torch.where(closer, gap, best), torch.where(closer, found + start, place)
        distances.append(best)
        places.append(place)
    return torch.cat(distances).to(dtype), torch.cat(places)


def _nearest(rows: Float64[Tensor, "n d"], known: Float64[Tensor, "m d"]) -> tuple[Float64[Tensor, " n"], Int64[Tensor, " n"]]:
    """For each row the distance to the nearest known one and its number, the first if several tie."""
    sizes = rows.square().sum(1)[:, None] + known.square().sum(1)
    table = torch.addmm(sizes, rows, known.mT, alpha=-2.0)
    noise = 2 * (rows.shape[1] + 8) * torch.finfo(table.dtype).eps * sizes
    row, column = (table - noise <= (table + noise).amin(1, keepdim=True)).nonzero(as_tuple=True)
    exact = torch.cat([(rows[i] - known[j]).square().sum(1) for i, j in zip(row.split(_PAIRS), column.split(_PAIRS), strict=True)])
    best = torch.full_like(rows[:, 0], torch.inf).scatter_reduce_(0, row, exact, "amin")
    tied = torch.where(exact == best[row], column, len(known))
    place = torch.full_like(row[: len(rows)], len(known)).scatter_reduce_(0, row, tied, "amin")
    return best.sqrt(), place
