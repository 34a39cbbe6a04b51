"""A minibatch of pairs, and what every coupling promises."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from rheos.core import Draws, checks

__all__ = ["Coupling", "Pair"]


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


def checked_law(name: str, value: Any) -> Any:
    """`value` if it is a tensor of rows or can be drawn from. ValueError for an empty or non-finite tensor, TypeError for anything else."""
    if isinstance(value, Tensor):
        if value.ndim < 1 or not len(value):
            raise ValueError(f"{name} must hold at least one row, got shape {tuple(value.shape)}")
        return checks.finite(name, value)
    if not callable(getattr(value, "sample", None)):
        raise TypeError(f"{name} must be a tensor or have a method sample(n, seed=...), got {type(value).__name__}")
    return value


def checked_precision(name: str, value: Any) -> Tensor:
    """`value` if it is a tensor of float32 or float64. TypeError otherwise."""
    if checks.tensor(name, value, floating=True).dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{name} must hold real numbers in float32 or float64, got {value.dtype}")
    return value


def checked_rows(cond: Any, owner: str, rows: int | None) -> Any:
    """`cond` if each of its tensors has `rows` rows; None stands for an owner that has no rows."""
    for name, value in (cond.items() if isinstance(cond, dict) else [("cond", cond)] if cond is not None else []):
        if rows is None:
            raise ValueError(f"{name} was given, but a {owner} that is not a tensor has no rows it could belong to")
        if checks.tensor(name, value).ndim < 1 or len(value) != rows:
            raise ValueError(f"{name} must have {rows} rows, one a row of {owner}, got shape {tuple(value.shape)}")
    return cond


def rows_of(cond: Any, rows: Tensor) -> Any:
    """The `rows` of a condition: a tensor, a dict of tensors or None."""
    if isinstance(cond, dict):
        return {name: value[rows] for name, value in cond.items()}
    return None if cond is None else cond[rows]


def mean_cost(x0: Tensor, x1: Tensor, p: float) -> float:
    """The mean of |x1 - x0|^p over the rows, summed in float64."""
    p = checks.positive("p", p)
    return float((x1 - x0).reshape(len(x1), -1).double().norm(dim=1).pow(p).mean())
