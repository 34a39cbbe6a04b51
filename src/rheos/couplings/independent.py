"""Pairs of source and target, drawn independently; the plain coupling of flow matching and diffusion."""
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rheos.core import Draws, checks
from rheos.couplings.pairs import Pair, checked_law, checked_rows, mean_cost, rows_of

__all__ = ["Independent"]


class Independent:
    """Source and target drawn independently.

    target, source: a tensor (rows, *event), visited in epochs of random order; or anything with `sample(n, seed=...)` (a mixture). Without
    a source the path's own noise is the base. cond: belongs to the rows of a tensor target.
    ValueError for empty or non-finite tensors, and for a cond whose rows do not fit.
    """

    def __init__(self, target: Any, source: Any = None, *, cond: Any = None):
        self.target, self.source = checked_law("target", target), None if source is None else checked_law("source", source)
        self.cond = checked_rows(cond, "target", len(target) if isinstance(target, Tensor) else None)

    def sample(self, n: int, *, seed: int | Draws = 0, step: int = 0) -> Pair:
        """Minibatch `step` of `n` pairs."""
        draws = Draws.of(seed)
        x1, rows = self._take("target", self.target, n, draws, step)
        x0 = None if self.source is None else self._take("source", self.source, n, draws, step)[0]
        return Pair(x1, x0, None if rows is None else rows_of(self.cond, rows))

    @staticmethod
    def _take(name: str, value: Any, n: int, draws: Draws, step: int) -> tuple[Tensor, Tensor | None]:
        if isinstance(value, Tensor):
            rows = draws.batch(f"rows of {name}", step, len(value), n, device=value.device)
            return value.index_select(0, rows), rows
        return value.sample(n, seed=draws.child(f"{name} {step}")), None

    def cost(self, p: float = 2.0, *, n: int = 10_000, seed: int | Draws = 0) -> float:
        """E |x1 - x0|^p, by `n` pairs. ValueError without a source."""
        if self.source is None:
            raise ValueError("cost needs a source: without one the base is a path's noise")
        pair = self.sample(checks.integer("n", n, least=1), seed=seed)
        return mean_cost(pair.x0, pair.x1, p)

    @classmethod
    def examples(cls) -> list[Independent]:
        """Rows with conditions of two kinds; laws instead of rows; and data whose base is a path's own noise."""
        from rheos.data import skewed, two_moons

        points = skewed().sample(60, seed=3)
        return [cls(points, 1.5 * two_moons().sample(84, seed=4) - 2, cond={"row": torch.arange(60), "place": points[:, :1]}),
                cls(skewed().to(torch.float32), two_moons().to(torch.float32)),
                cls(points.float(), cond=torch.arange(60))]
