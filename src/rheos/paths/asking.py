"""Asking a field for a batch: conditions row by row, and its network as it answers, not as it learns."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["cut", "cut_hook", "evaluating", "spread"]


def spread(cond: Any, n: int, device: torch.device) -> Any:
    """A single number for all rows becomes a tensor (n,); tensors are checked to have n rows."""
    if cond is None:
        return None
    if isinstance(cond, dict):
        return {name: spread(value, n, device) for name, value in cond.items()}
    if isinstance(cond, bool) or not isinstance(cond, int | float | Tensor):
        raise TypeError(f"cond must be a Tensor, a dict of Tensors or one number, got {type(cond).__name__}")
    cond = torch.as_tensor(cond, device=device)
    if cond.ndim == 0:
        return cond.expand(n)
    if len(cond) != n:
        raise ValueError(f"cond must have {n} rows, one a sample, got {len(cond)}")
    return cond


def cut(cond: Any, first: int, rows: int) -> Any:
    """Rows first .. first + rows - 1 of a condition."""
    if isinstance(cond, dict):
        return {name: cut(value, first, rows) for name, value in cond.items()}
    return None if cond is None else cond[first : first + rows]


def cut_hook(hook: Any, start: int, stop: int) -> Any:
    """An edit or another hook for rows start .. stop - 1 alone, where it has a method `rows(start, stop)`; else as it is."""
    return hook.rows(start, stop) if hook is not None and callable(getattr(hook, "rows", None)) else hook


@contextmanager
def evaluating(net: Any) -> Iterator[None]:
    """Evaluation mode for the time being, each sub-module's own mode restored afterwards."""
    modes = [(m, m.training) for m in net.modules()] if isinstance(net, nn.Module) else []
    if modes:
        net.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
