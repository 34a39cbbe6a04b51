"""Pairs of source and target, drawn independently; the plain coupling of flow matching and diffusion."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from rheos.core import Draws, checks

__all__ = ["Coupling", "Independent", "Pair"]


@dataclass(frozen=True, eq=False)
class Pair:
    """A minibatch: x1 (batch, *event) data, x0 its partner (None where the base is a path's own noise), cond with batch first."""

    x1: Tensor
    x0: Tensor | None = None
    cond: Any = None

    def to(self, device: torch.device | str) -> Pair:
        move = lambda v: v if v is None else {k: move(w) for k, w in v.items()} if isinstance(v, dict) else v.to(device)
        return Pair(move(self.x1), move(self.x0), move(self.cond))


@runtime_checkable
class Coupling(Protocol):
    """`sample(n, seed, step)` is minibatch `step`: a function of its arguments, so that a resumed run sees what the first would have."""

    def sample(self, n: int, *, seed: int | Draws = 0, step: int = 0) -> Pair: ...


class Independent:
    """Source and target drawn independently.

    target, source: a tensor (rows, *event), visited in epochs of random order; or anything with `sample(n, seed=...)` (a mixture). Without
    a source the path's own noise is the base. cond: belongs to the rows of a tensor target.
    ValueError for empty or non-finite tensors, and for a cond whose rows do not fit.
    """

    def __init__(self, target: Any, source: Any = None, *, cond: Any = None):
        self.target, self.source, self.cond = self._checked("target", target), self._checked("source", source), cond
        for name, value in (cond.items() if isinstance(cond, dict) else [("cond", cond)] if cond is not None else []):
            if not isinstance(target, Tensor):
                raise ValueError(f"{name} was given, but a target that is not a tensor has no rows it could belong to")
            if len(checks.tensor(name, value)) != len(target):
                raise ValueError(f"{name} must have {len(target)} rows, one a row of target, got {len(value)}")

    @staticmethod
    def _checked(name: str, value: Any) -> Any:
        if isinstance(value, Tensor):
            if not len(value):
                raise ValueError(f"{name} must hold at least one row, got shape {tuple(value.shape)}")
            return checks.finite(name, value)
        if value is not None and not callable(getattr(value, "sample", None)):
            raise TypeError(f"{name} must be a tensor or have a method sample(n, seed=...), got {type(value).__name__}")
        return value

    def sample(self, n: int, *, seed: int | Draws = 0, step: int = 0) -> Pair:
        """Minibatch `step` of `n` pairs."""
        draws = Draws.of(seed)
        x1, rows = self._take("target", self.target, n, draws, step)
        x0 = None if self.source is None else self._take("source", self.source, n, draws, step)[0]
        if self.cond is None or rows is None:
            return Pair(x1, x0)
        cond = {k: v[rows] for k, v in self.cond.items()} if isinstance(self.cond, dict) else self.cond[rows]
        return Pair(x1, x0, cond)

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
        pair = self.sample(n, seed=seed)
        return float((pair.x1 - pair.x0).flatten(1).norm(dim=1).pow(p).mean())
