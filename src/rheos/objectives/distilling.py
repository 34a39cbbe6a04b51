"""Distill: a one-step map from pairs, min E D(x0 + v(x0, 0), x1), which is `Matching` that looks at t = 0 alone.

Paper: Liu et al., InstaFlow, 2023, arXiv:2309.06380, equation 8; Liu, Gong and Liu, 2022, arXiv:2209.03003.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rheos.core import Draws
from rheos.couplings import Pair
from rheos.objectives.gaps import L2, STRAIGHT, Metric, PointMetric
from rheos.objectives.matching import Loss, Matching, _Adding
from rheos.objectives.when import At
from rheos.paths import Path

__all__ = ["Distill"]


@dataclass(frozen=True, eq=False)
class Distill(_Adding):
    """How far one Euler step from x0, with the velocity at t = 0, ends from the pair's x1.

    path: Path.linear() or Path.interpolant("none"); on others the velocity at t = 0 is not x1 - x0: ValueError. metric: of the gap, `L2()` unless told
    otherwise; features of the end are compared by `OnData(Perceptual(features))`. The pairs should be deterministic, as `Reflow`'s are: of
    others only the mean end of each start can be learned.

    >>> import torch
    >>> import torch
    >>> from rheos.couplings import Paired
    >>> pairs = Paired(torch.zeros(4, 2), torch.ones(4, 2))
    >>> Distill()(lambda x, t, cond: x + 3.0, pairs.sample(4)).value.item()             # (0 + 3 - 1)^2
    4.0
    """

    path: Path = Path.linear()
    metric: Metric | PointMetric = L2()

    def __post_init__(self):
        if not isinstance(self.path, Path):
            raise TypeError(f"path must be a Path, got {self.path!r}")
        if self.path not in STRAIGHT:
            raise ValueError(f"path must be Path.linear() or Path.interpolant('none'), got {self.path.schedule}")
        object.__setattr__(self, "_matching", Matching(self.path, when=At(), metric=self.metric))

    def __call__(self, net: Callable, pair: Pair, *, seed: int | Draws = 0, step: int = 0) -> Loss:
        """The loss of `net` on minibatch `pair`. ValueError for pairs without x0."""
        if pair.x0 is None:
            raise ValueError("distillation needs pairs with an x0 each, such as Reflow's; without it there is nothing to map from")
        return self._matching(net, pair, seed=seed, step=step)
