r"""Annealed: pairs whose start turns, step by step, from fresh noise into the start that belongs to the end.

  x0^beta = sqrt(1 - beta^2) x0 + beta x0',  x0' ~ N(0, I) drawn anew,  beta(step) falling from 1 to 0

beta = 1 is the independent coupling, of which a first flow is learned; beta = 0 is the given one, reflow. In between the law of the starts stays that of
the noise. For students too small to begin with their teacher's weights. Paper: Zhu et al., SlimFlow, 2024, arXiv:2407.12718.
"""
from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from rheos.core import Draws, checks
from rheos.couplings.paired import Paired
from rheos.couplings.pairs import Coupling, Pair
from rheos.training import Linear

__all__ = ["Annealed"]


class Annealed:
    """The pairs of `coupling` with starts drawn anew by a share that depends on the step.

    coupling: pairs with an x0 each, usually a `Reflow`; it is what to validate on, its pairs being those of beta = 0.
    source: None where starts are standard normal: they are rotated, which keeps their law. For starts of any other law that law, anything with
        `sample(n, seed=...)`: a rotation would change it, so a start is replaced by a fresh one with probability beta (our choice; the paper has noise only).
    schedule: step -> beta in [0, 1], such as `rheos.training.Linear(600)` or `Cosine(600)`, which fall from 1 at step 0 to 0 at step 600, or
        `lambda step: math.exp(-step / 200)`. The paper's part of all steps is best tried out; a good beginning is a linear fall over 60% of them.
    flip: an axis of the pairs' tensors, -1 for the columns of images: half the pairs have both ends turned over along it. None: none.

    ValueError, when sampled, for pairs without x0 and for a beta outside [0, 1].

    >>> pairs = Annealed(Paired(torch.zeros(1000, 3), torch.ones(1000, 3)), None, Linear(10))
    >>> [round(pairs.sample(1000, step=step).x0.square().mean().item(), 1) for step in (0, 2, 10)]        # beta^2: 1, 0.64, 0
    [1.0, 0.6, 0.0]
    """

    exempt: ClassVar[dict[str, str]] = {"cost is measured": "what a pair costs falls from step to step; that of the last ones is coupling.cost(p)"}

    def __init__(self, coupling: Coupling, source: Any, schedule: Callable[[int], float], *, flip: int | None = None):
        if not callable(getattr(coupling, "sample", None)):
            raise TypeError(f"coupling must have a method sample(n, seed=, step=), got {type(coupling).__name__}")
        if source is not None and not callable(getattr(source, "sample", None)):
            raise TypeError(f"source must be None, for standard normal starts, or have a method sample(n, seed=...), got {type(source).__name__}")
        if not callable(schedule):
            raise TypeError(f"schedule must be callable as schedule(step), got {type(schedule).__name__}")
        if flip is not None and checks.integer("flip", flip) == 0:
            raise ValueError("flip must be an axis of the events, got 0, which is the batch")
        self.coupling, self.source, self.schedule, self.flip = coupling, source, schedule, flip
        self.beta(0)

    @property
    def target(self) -> Any:
        return getattr(self.coupling, "target", None)

    @property
    def cond(self) -> Any:
        return getattr(self.coupling, "cond", None)

    def beta(self, step: int) -> float:
        """The share of fresh noise at `step`. ValueError if the schedule leaves [0, 1]."""
        return checks.between(f"beta at step {step}", float(self.schedule(step)), 0.0, 1.0)

    def sample(self, n: int, *, seed: int | Draws = 0, step: int = 0) -> Pair:
        """Minibatch `step` of `n` pairs."""
        draws, beta = Draws.of(seed), self.beta(step)
        pair = self.coupling.sample(n, seed=draws, step=step)
        if pair.x0 is None:
            raise ValueError("coupling must give pairs with an x0 each: fresh noise has nothing to turn into")
        x0 = pair.x0 if beta == 0 else self._renewed(pair.x0, beta, draws, step)
        return self._turned_over(Pair(pair.x1, x0, pair.cond), draws, step)

    def _renewed(self, x0: Tensor, beta: float, draws: Draws, step: int) -> Tensor:
        if self.source is None:
            fresh = draws.rows("annealed noise", step, tuple(x0.shape), device=x0.device, dtype=x0.dtype)
            return torch.add(math.sqrt((1 - beta) * (1 + beta)) * x0, fresh, alpha=beta)
        fresh = checks.shape_of("a draw of source", self.source.sample(len(x0), seed=draws.child(f"annealed source {step}")), x0.shape).to(x0)
        return torch.where(self._chosen("annealed row", beta, x0, draws, step), fresh, x0)

    def _turned_over(self, pair: Pair, draws: Draws, step: int) -> Pair:
        if self.flip is None:
            return pair
        if not -pair.x1.ndim < self.flip < pair.x1.ndim:
            raise ValueError(f"flip must be an axis of events {tuple(pair.x1.shape[1:])} counted from the batch, got {self.flip}")
        over = self._chosen("turned over", 0.5, pair.x1, draws, step)
        turn = lambda x: torch.where(over, x.flip(self.flip), x)
        return Pair(turn(pair.x1), turn(pair.x0), pair.cond)

    @staticmethod
    def _chosen(purpose: str, chance: float, like: Tensor, draws: Draws, step: int) -> Tensor:
        """(batch, 1, ...): rows taken with a chance."""
        u = draws.uniform(purpose, step, (len(like),), device=like.device, dtype=torch.float64)
        return (u < chance).reshape(-1, *(1,) * (like.ndim - 1))

    @classmethod
    def examples(cls) -> list[Annealed]:
        """Noise that is rotated, with conditions; and starts of another law, which are replaced."""
        from rheos.data import skewed, two_moons

        noise = Draws(5).rows("noise", 0, (1200, 2), dtype=torch.float64)
        along = noise[noise[:, 0].argsort()]
        x1 = skewed().sample(1200, seed=3)
        x1 = x1[x1[:, 0].argsort()]
        starts = two_moons().sample(1200, seed=4)
        return [cls(Paired(along, x1, {"row": torch.arange(1200), "place": x1[:, :1]}), None, Linear(40)),
                cls(Paired(starts[starts[:, 0].argsort()], x1), two_moons(), Linear(40))]
