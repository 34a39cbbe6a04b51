"""What a distance reads between two samples of one and the same law: no model can be expected to go below it."""
from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from rheos.core import Draws, checks

__all__ = ["Floor", "floor"]


class Floor(NamedTuple):
    """Mean and standard deviation (divisor repeats - 1) of a distance over the repeats."""

    mean: float
    std: float


def floor(metric: Callable[..., Tensor | float], sample: Tensor | Callable[[int, int], Tensor], *, n: int | None = None, repeats: int = 5,
          seed: int | Draws = 0, **settings) -> Floor:
    """`metric(a, b, **settings)` between pairs a, b of independent samples of `n` rows each.

    sample:  a Tensor (rows, *event), of which a and b are random disjoint parts, `n` at most and by default half the rows; or a
             callable (n, seed) -> (n, *event), called with a fresh 32-bit seed for each sample: then `n` is required.
    repeats: pairs, at least 2. Parts of one Tensor overlap from pair to pair, so `std` then speaks of the split, not of new data.

    A metric's own `seed` cannot be among the settings: the floor uses the name. Bind it where it matters, as in
    `floor(functools.partial(classifier_two_sample, seed=3), x)`; not bound, it is the metric's default for every pair.
    TypeError for a metric that returns several numbers: choose one, as in `floor(lambda a, b: precision_recall(a, b).recall, x)`.

    >>> from rheos.metrics.sets import sliced_w2
    >>> draw = lambda n, seed: Draws(seed).rows("example", 0, (n, 2))
    >>> floor(sliced_w2, draw, n=4000).mean < floor(sliced_w2, draw, n=40).mean
    True
    """
    repeats, draws = checks.integer("repeats", repeats, least=2), Draws.of(seed)
    if isinstance(sample, Tensor):
        if len(sample) < 2:
            raise ValueError(f"sample must have at least 2 rows to be halved, got {len(sample)}")
        n = len(sample) // 2 if n is None else checks.integer("n", n, least=1)
        if 2 * n > len(sample):
            raise ValueError(f"n must be at most {len(sample) // 2}, half the rows of sample, got {n}")
    elif n is None:
        raise ValueError("n must be given when sample is a callable, got None")
    values = []
    for repeat in range(repeats):
        if isinstance(sample, Tensor):
            order = draws.permutation("floor", repeat, len(sample), device=sample.device)
            a, b = sample[order[:n]], sample[order[n : 2 * n]]
        else:
            a, b = (sample(n, draws.child(f"floor {repeat} {side}").seed & 0xFFFFFFFF) for side in ("a", "b"))
        value = metric(a, b, **settings)
        if isinstance(value, tuple) or (isinstance(value, Tensor) and value.numel() != 1):
            raise TypeError(f"metric must return one number, got {type(value).__name__}: choose one, such as lambda a, b: metric(a, b)[0]")
        values.append(float(value))
    numbers = torch.tensor(values, dtype=torch.float64)
    return Floor(float(numbers.mean()), float(numbers.std()))
