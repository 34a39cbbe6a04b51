"""The nearest known example: what a sample is laid beside, to see whether a model remembers or makes."""
from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from rheos.core import checks

__all__ = ["nearest"]


@torch.no_grad()
def nearest(x: Float[Tensor, "n *event"], reference: Float[Tensor, "m *other"], *, chunk: int = 4096) -> tuple[Float[Tensor, " n"], Int64[Tensor, " n"]]:
    """For each row of x, the Euclidean distance to the nearest row of `reference` and that row's number (the first, if several tie).

    chunk: rows of either set that are compared at once; memory is chunk^2 numbers at most, the answer does not depend on it.
    Exact search: differences are squared and summed, not expanded into products, so that equal rows are at distance 0.
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
    points, known = x.to(dtype).reshape(len(x), -1), reference.to(dtype).reshape(len(reference), -1)
    distances, places = [], []
    for rows in points.split(chunk):
        best = torch.full_like(rows[:, 0], torch.inf)
        place = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
        for start in range(0, len(known), chunk):
            gaps = torch.cdist(rows, known[start : start + chunk], compute_mode="donot_use_mm_for_euclid_dist")
            found = gaps.argmin(1)
            gap = gaps.gather(1, found[:, None])[:, 0]
            closer = gap < best                     # strictly, so that an earlier chunk keeps a tie
            best, place = torch.where(closer, gap, best), torch.where(closer, found + start, place)
        distances.append(best)
        places.append(place)
    return torch.cat(distances), torch.cat(places)
