"""Orders of convergence, measured."""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import Tensor

__all__ = ["observed_order"]


def observed_order(run: Callable[[int], Tensor], exact: Tensor, steps: Sequence[int]) -> float:
    """The slope of log error against log step size, by least squares, of `run(n)` for each n in `steps` against `exact`.

    ValueError if fewer than two step counts are given or an error is zero (then the order cannot be seen).
    """
    if len(steps) < 2:
        raise ValueError(f"steps must hold at least 2 step counts, got {list(steps)}")
    errors = [float((run(n) - exact).abs().max()) for n in steps]
    if min(errors) <= 0:
        raise ValueError(f"errors must be positive to show an order, got {errors}")
    xs, ys = [math.log(1 / n) for n in steps], [math.log(e) for e in errors]
    mx, my = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((x - mx) * (y - my) for x, y in zip(xs, ys, strict=True)) / sum((x - mx) ** 2 for x in xs)
