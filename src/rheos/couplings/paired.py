"""Fixed pairs: what belongs together stays together."""
from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from rheos.core import Draws, checks
from rheos.couplings.pairs import Pair, checked_law, checked_rows, mean_cost, rows_of

__all__ = ["Paired"]


class Paired:
    """Row i of the source belongs to row i of the target; pairs are visited in epochs of random order.

    source, target: tensors (rows, *event) of one shape. cond: a tensor or a dict of tensors, one row a pair.
    ValueError for shapes that differ, for empty or non-finite tensors, and for a cond whose rows do not fit.

    >>> pairs = Paired(torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[10.0], [11.0], [12.0]]))
    >>> batch = pairs.sample(3)
    >>> (batch.x1 - batch.x0).flatten().tolist(), pairs.cost(2)
    ([10.0, 10.0, 10.0], 100.0)
    >>> len(pairs + Paired(torch.zeros(2, 1), torch.ones(2, 1)))
    5
    """

    exempt: ClassVar[dict[str, str]] = {"cost at most independent": "the pairs are the caller's, good or bad"}

    def __init__(self, source: Tensor, target: Tensor, cond: Any = None):
        self.source = checked_law("source", checks.tensor("source", source))
        self.target = checked_law("target", checks.tensor("target", target))
        if source.shape != target.shape:
            raise ValueError(f"source and target must have one shape, row i belonging to row i, got {tuple(source.shape)} and {tuple(target.shape)}")
        self.cond = checked_rows(cond, "target", len(target))

    def __len__(self) -> int:
        return len(self.target)

    def sample(self, n: int, *, seed: int | Draws = 0, step: int = 0) -> Pair:
        """Minibatch `step` of `n` pairs."""
        rows = Draws.of(seed).batch("rows of pairs", step, len(self), n, device=self.target.device)
        return Pair(self.target.index_select(0, rows), self.source.index_select(0, rows), rows_of(self.cond, rows))

    def cost(self, p: float = 2.0) -> float:
        """E |x1 - x0|^p over all pairs."""
        return mean_cost(self.source, self.target, p)

    def __add__(self, other: Paired) -> Paired:
        """The pairs of both, each as often as there are of it. ValueError where events, or the kinds, shapes or dtypes of their conditions, differ."""
        if not isinstance(other, Paired):
            return NotImplemented
        if self.source.shape[1:] != other.source.shape[1:]:
            raise ValueError(f"pairs to be joined must have one event shape, got {tuple(self.source.shape[1:])} and {tuple(other.source.shape[1:])}")
        names = [sorted(made.cond) if isinstance(made.cond, dict) else type(made.cond).__name__ for made in (self, other)]
        if names[0] != names[1]:
            raise ValueError(f"pairs to be joined must have conditions of one kind, got {names[0]} and {names[1]}")
        kinds = [{name: (tuple(v.shape[1:]), v.dtype) for name, v in (made.cond.items() if isinstance(made.cond, dict) else [("cond", made.cond)])
                  if v is not None} for made in (self, other)]
        for name, kind in kinds[0].items():
            if kinds[1][name] != kind:
                raise ValueError(f"pairs to be joined must have conditions of one shape and dtype, got {name} of {kind[0]} in {kind[1]} and of "
                                 f"{kinds[1][name][0]} in {kinds[1][name][1]}")
        both = lambda a, b: {k: both(a[k], b[k]) for k in a} if isinstance(a, dict) else None if a is None else torch.cat([a, b])
        return Paired(both(self.source, other.source), both(self.target, other.target), both(self.cond, other.cond))

    @classmethod
    def examples(cls) -> list[Paired]:
        """Pairs that no transport would choose: both sides in opposite orders; and flat events without conditions."""
        from rheos.data import skewed, two_moons

        along = lambda x: x[x[:, 0].argsort()]
        x0, x1 = along(two_moons().sample(60, seed=4)), along(skewed().sample(60, seed=3)).flip(0)
        return [cls(x0, x1, {"row": torch.arange(60), "place": x1[:, :1]}), cls(x0.float()[:, 0], x1.float()[:, 0])]
