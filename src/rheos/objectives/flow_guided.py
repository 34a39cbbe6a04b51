r"""FlowGuided: a one-step student learns two-step ends of its teacher from starts that no pair holds.

  min E |x0 + v_S(x0, 0) - stop(x_t + (1 - t) v_T(x_t, t))|^2,   x_t = x0 + t v_S(x0, 0),  t ~ U[0.2, 0.8],  x0 drawn anew

Each pair of `Distill` costs a whole simulation of the teacher; a two-step end costs one call, so that every step can have fresh starts. It keeps a small
student from learning few pairs by heart. Paper: Zhu et al., SlimFlow, 2024, arXiv:2407.12718.
"""
from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rheos.core import Draws, checks
from rheos.couplings import Pair
from rheos.objectives.gaps import L2, STRAIGHT, Metric
from rheos.objectives.matching import Loss, _Adding
from rheos.paths import Field
from rheos.paths.predictions import shaped

__all__ = ["FlowGuided"]


@dataclass(frozen=True, eq=False)
class FlowGuided(_Adding):
    """The distance of the student's end from its teacher's two-step end, at fresh starts; add it to `Distill`.

    teacher: a straight flow's field on Path.linear() or Path.interpolant("none"); a rectified one, whose second step ends well. A frozen copy in
        evaluation mode is kept, so that the student may begin as the same network and is free to move. No gradient passes through it or x_t.
    source: what starts are drawn from, anything with `sample(n, seed=...)`; None: the path's noise. between: the law of t is uniform there; (0.2, 0.8)
        as in the paper. metric: of the two ends.
    Conditions are those of the pair. One call of the student and one of the teacher a minibatch.

    >>> from rheos.paths import Path
    >>> teacher = Field(lambda x, t, cond: -x, Path.linear())
    >>> pair = Pair(torch.zeros(5, 2))
    >>> FlowGuided(teacher)(lambda x, t, cond: 0 * x, pair).value < FlowGuided(teacher)(lambda x, t, cond: x, pair).value
    tensor(True)
    """

    teacher: Field
    source: Any = None
    between: Sequence[float] = (0.2, 0.8)
    metric: Metric = L2()

    def __post_init__(self):
        if not isinstance(self.teacher, Field):
            raise TypeError(f"teacher must be a Field, got {type(self.teacher).__name__}; wrap a network as Field(net, path, predicts)")
        path = self.teacher.path
        if path not in STRAIGHT:
            raise ValueError(f"teacher must live on Path.linear() or Path.interpolant('none'), got {path.schedule}")
        if self.source is not None and not callable(getattr(self.source, "sample", None)):
            raise TypeError(f"source must have a method sample(n, seed=...), got {type(self.source).__name__}")
        if self.source is None and path.two_sided:
            raise ValueError("source must be given: a two-sided path has no noise to begin at")
        if not isinstance(self.between, Sequence) or len(self.between) != 2:
            raise ValueError(f"between must be two times that rise, got {self.between!r}")
        low, high = (checks.between("between", t, 0.0, 1.0) for t in self.between)
        if not low < high:
            raise ValueError(f"between must be two times that rise, got {self.between}")
        if isinstance(self.metric, type) or not callable(self.metric):
            raise TypeError(f"metric must be a metric of two events such as L2(), got {self.metric!r}")
        frozen = copy.deepcopy(self.teacher)
        if isinstance(frozen.net, nn.Module):
            frozen.net.eval().requires_grad_(False)
        object.__setattr__(self, "_frozen", frozen)

    def __call__(self, net: Callable, pair: Pair, *, seed: int | Draws = 0, step: int = 0) -> Loss:
        """The loss of `net`; starts and times are functions of (seed, step), as many as `pair` has rows and with its conditions."""
        draws, like, n = Draws.of(seed), pair.x1, len(pair.x1)
        if self.source is None:
            x0 = self.teacher.path.noise.draw(tuple(like.shape), seed=draws, purpose="guided start", step=step, like=like, ahead=True)
        else:
            x0 = checks.shape_of("a draw of source", self.source.sample(n, seed=draws.child(f"guided start {step}")), like.shape).to(like)
        low, high = self.between
        t = low + (high - low) * draws.uniform("guided time", step, (n,), device=like.device, dtype=like.dtype, ahead=True)
        moved = net(x0, torch.zeros_like(t), pair.cond)
        checks.shape_of("the answer of net", moved, x0.shape)
        target = self._end(x0, moved.detach(), t, pair.cond)
        errors = self.metric(x0 + moved, target)
        return Loss(errors.mean(), errors)

    @torch.no_grad()
    def _end(self, x0: Tensor, moved: Tensor, t: Tensor, cond: Any) -> Tensor:
        """Where the student's line to time t and the teacher's straight on from there end."""
        wide = shaped(t, x0)
        x = x0 + wide * moved
        return x + (1 - wide) * self._frozen.velocity(x, t, cond)
