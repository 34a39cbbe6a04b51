"""Argument checks at the public boundary: one sentence that names the argument, the rule and the value received."""
from __future__ import annotations

import difflib
import math
import numbers
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["between", "finite", "flag", "integer", "monotone", "one_of", "positive", "shape_of", "tensor"]


def integer(name: str, value: Any, *, least: int | None = None) -> int:
    """Return `value` as an int. TypeError if it is not a whole number (bools are not), ValueError if below `least`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be a whole number, got {value!r}")
    if least is not None and value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")
    return int(value)


def positive(name: str, value: Any, *, zero: bool = False) -> float:
    """Return `value` as a float. TypeError if it is not a real number, ValueError if not finite and positive (or zero where allowed)."""
    return between(name, value, 0.0, math.inf, low_open=not zero, high_open=True)


def between(name: str, value: Any, low: float, high: float, *, low_open: bool = False, high_open: bool = False) -> float:
    """Return `value` as a float inside the interval. TypeError if it is not a real number, ValueError if it lies outside."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    number = float(value)
    inside = (number > low if low_open else number >= low) and (number < high if high_open else number <= high)
    if not inside:
        interval = f"{'(' if low_open else '['}{low:g}, {high:g}{')' if high_open else ']'}"
        raise ValueError(f"{name} must lie in {interval}, got {value}")
    return number


def flag(name: str, value: Any) -> bool:
    """Return `value` if it is True or False. TypeError otherwise."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return value


def one_of(name: str, value: Any, options: Iterable[Any]) -> Any:
    """Return `value` if it is among `options`. ValueError that lists them, and the nearest, if not."""
    known = list(options)
    if value in known:
        return value
    near = difflib.get_close_matches(str(value), [str(o) for o in known], n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    raise ValueError(f"{name} must be one of {', '.join(map(str, known))}, got {value!r}{hint}")


def tensor(name: str, value: Any, *, floating: bool = False) -> Tensor:
    """Return `value` if it is a Tensor (of floating or complex dtype where asked). TypeError otherwise."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    if floating and not (value.is_floating_point() or value.is_complex()):
        raise TypeError(f"{name} must hold floating-point numbers, got {value.dtype}")
    return value


def shape_of(name: str, value: Any, expected: Sequence[int | None]) -> Tensor:
    """Return `value` if its shape fits `expected` (None stands for any size). TypeError if it is no Tensor, ValueError if it does not fit."""
    fits = tensor(name, value).ndim == len(expected) and all(e is None or e == s for e, s in zip(expected, value.shape, strict=True))
    if not fits:
        wanted = "(" + ", ".join("any" if e is None else str(e) for e in expected) + ")"
        raise ValueError(f"{name} must have shape {wanted}, got {tuple(value.shape)}")
    return value


def finite(name: str, value: Tensor) -> Tensor:
    """Return `value` if every entry is finite. ValueError with the count and the first bad place otherwise."""
    good = torch.isfinite(value)
    if not bool(good.all()):
        bad = (~good).nonzero()
        raise ValueError(f"{name} must be finite, got {len(bad)} of {value.numel()} entries that are not, the first at {tuple(bad[0].tolist())}")
    return value


def monotone(name: str, grid: Tensor) -> Tensor:
    """Return `grid` if it is one-dimensional, has two entries or more and is strictly monotone either way. ValueError otherwise."""
    if grid.ndim != 1 or len(grid) < 2:
        raise ValueError(f"{name} must be one-dimensional with at least 2 entries, got shape {tuple(grid.shape)}")
    steps = grid[1:] - grid[:-1]
    if not bool((steps > 0).all() or (steps < 0).all()):
        raise ValueError(f"{name} must be strictly monotone, got {[round(v, 6) for v in grid.tolist()[:12]]}")
    return grid
