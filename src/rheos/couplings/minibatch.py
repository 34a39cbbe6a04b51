"""Minibatch optimal transport: each minibatch drawn independently and paired anew, so that paths cross less.

Papers: Tong et al., Improving and Generalizing Flow-Based Generative Models with Minibatch Optimal Transport, 2023, arXiv:2302.00482; Pooladian et al.,
Multisample Flow Matching, 2023, arXiv:2304.14772.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from rheos.core import Draws, checks
from rheos.couplings.independent import Independent
from rheos.couplings.pairs import Pair, mean_cost
from rheos.couplings.plans import assignment, entropic

__all__ = ["MinibatchOT"]

BLUR = 0.5      # half a standard deviation of the usual noise


class MinibatchOT:
    """Source and target drawn as by `Independent` and, inside each minibatch, paired by optimal transport.

    target, source, cond: as of `Independent`, but without a source x0 is standard normal noise of the target's event shape: on a one-sided
        path it takes the noise's place. x1 and its conditions keep the order in which they were drawn; x0 is what is put in order.
    plan: "exact" is the assignment of least cost, a permutation, so that both marginals are those of the draws, without repetition.
        "sinkhorn" is the entropic plan: each x1 draws its x0 by it, and an x0 may serve twice or not at all.
    blur: of "sinkhorn", in the data's units, 0.5 unless told otherwise: the plan minimises E cost + 2 blur^2 KL(plan | independent), which for
        the default cost is that of the Schrodinger bridge of a Brownian motion with standard deviation `blur` at time 1. The smaller the longer it takes.
    cost: "sqeuclidean", or (x0, x1) -> (n, n) of what it costs to pair row i of x0 with row j of x1.
    within: pair rows of the same condition only, so that x0 does not tell it and guidance stays right; where cond is labels, whole numbers (rows,),
        that is so unless told otherwise.

    What it is good for fades with the dimension: n points of a minibatch are far from all there are. And x0 depends on x1's condition here, unless
    `within` is set: asked for one condition, a network that learned from these pairs would need the noise that came with it.
    The noise is not independent of the data either, so of what a field tells, velocity, data and noise are right and the score is not.
    ValueError as of `Independent`, for events of different shape, and for an entropic plan that does not converge.

    >>> pairs = MinibatchOT(torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[12.0], [11.0], [10.0]]))
    >>> batch = pairs.sample(3)
    >>> (batch.x1 - batch.x0).flatten().tolist()
    [-10.0, -10.0, -10.0]
    """

    def __init__(self, target: Any, source: Any = None, *, cond: Any = None, plan: str = "exact", blur: float | None = None,
                 cost: str | Callable[[Tensor, Tensor], Tensor] = "sqeuclidean", within: bool | None = None):
        self.plan = checks.one_of("plan", plan, ("exact", "sinkhorn"))
        if blur is not None and plan == "exact":
            raise ValueError(f"blur belongs to plan 'sinkhorn', got {blur} for plan 'exact'")
        self.blur = None if plan == "exact" else BLUR if blur is None else checks.positive("blur", blur)
        self.pair_cost = cost if callable(cost) else checks.one_of("cost", cost, ("sqeuclidean",))
        labelled = isinstance(cond, Tensor) and cond.ndim == 1 and not cond.is_floating_point()
        self.within = labelled if within is None else checks.flag("within", within)
        if self.within and not labelled:
            got = f"{cond.dtype} of shape {tuple(cond.shape)}" if isinstance(cond, Tensor) else type(cond).__name__
            raise ValueError(f"within needs labels, a cond of whole numbers (rows,), got {got}")
        self._drawn = Independent(target, source, cond=cond)

    target = property(lambda self: self._drawn.target)
    source = property(lambda self: self._drawn.source)
    cond = property(lambda self: self._drawn.cond)

    def sample(self, n: int, *, seed: int | Draws = 0, step: int = 0) -> Pair:
        """Minibatch `step` of `n` pairs."""
        draws = Draws.of(seed)
        pair = self._drawn.sample(n, seed=draws, step=step)
        x0 = draws.rows("source noise", step, pair.x1.shape, device=pair.x1.device, dtype=pair.x1.dtype) if pair.x0 is None else pair.x0
        if not self.within:
            return Pair(pair.x1, x0.index_select(0, self.partners(x0, pair.x1, seed=draws, step=step)), pair.cond)
        order = torch.empty(n, dtype=torch.int64, device=x0.device)
        for label in pair.cond.unique().tolist():
            rows = (pair.cond == label).nonzero()[:, 0]
            order[rows] = rows[self.partners(x0[rows], pair.x1[rows], seed=draws.child(f"label {label}"), step=step)]
        return Pair(pair.x1, x0.index_select(0, order), pair.cond)

    def partners(self, x0: Tensor, x1: Tensor, *, seed: int | Draws = 0, step: int = 0) -> Int64[Tensor, " n"]:
        """Which row of x0 (n, *event) goes with each row of x1 (n, *event): for rows that come from elsewhere."""
        cost = self._costs(x0, x1)
        if self.plan == "exact":
            return assignment(cost.T)
        return Draws.of(seed).categorical("partner", step, self._entropic(cost).T)

    def transport(self, x0: Tensor, x1: Tensor) -> Float[Tensor, "n n"]:
        """The plan between x0 (n, *event) and x1 (n, *event): entry (i, j) is the share of all mass that goes from row i to row j, float64."""
        cost = self._costs(x0, x1)
        if self.plan == "sinkhorn":
            return self._entropic(cost).exp()
        to = assignment(cost)
        return torch.zeros_like(cost, dtype=torch.float64).scatter_(1, to[:, None], 1 / len(to))

    def cost(self, p: float = 2.0, *, n: int = 256, batches: int = 20, seed: int | Draws = 0) -> float:
        """E |x1 - x0|^p in minibatches of `n`, over so many of them: what a minibatch's own size makes of the pairs."""
        n, draws = checks.integer("n", n, least=1), Draws.of(seed)
        pairs = [self.sample(n, seed=draws, step=step) for step in range(checks.integer("batches", batches, least=1))]
        return sum(mean_cost(pair.x0, pair.x1, p) for pair in pairs) / len(pairs)

    def _costs(self, x0: Tensor, x1: Tensor) -> Tensor:
        """(n, n), up to what is the same for a whole row or column."""
        if x0.shape != x1.shape:
            raise ValueError(f"x0 and x1 must have one shape, got {tuple(x0.shape)} and {tuple(x1.shape)}")
        if callable(self.pair_cost):
            return checks.shape_of("the result of cost", self.pair_cost(x0, x1), (len(x0), len(x1)))
        if x0.dtype != x1.dtype:
            raise ValueError(f"x0 and x1 must share a dtype, got {x0.dtype} and {x1.dtype}")
        # |x - y|^2 = |x|^2 + |y|^2 - 2 x.y, of which only the last decides; centred, so that an offset costs no digits.
        x, y = x0.reshape(len(x0), -1), x1.reshape(len(x1), -1)
        return -2 * (x - x.mean(0)) @ (y - y.mean(0)).T

    def _entropic(self, cost: Tensor) -> Tensor:
        made = entropic(cost, 2 * self.blur**2)
        if not made.converged:
            raise ValueError(f"blur {self.blur:g} is too small for these points: the plan's marginal is still {made.residual:.2g} off after "
                             f"{made.iterations} sweeps; raise blur or use plan 'exact'")
        return made.log_plan

    @classmethod
    def examples(cls) -> list[MinibatchOT]:
        """Rows with conditions, laws, data whose base is noise; and the entropic plan of each kind."""
        from rheos.data import skewed, two_moons

        points, moons = skewed().sample(60, seed=3), 1.5 * two_moons().sample(84, seed=4) - 2
        cond = {"row": torch.arange(60), "place": points[:, :1]}
        return [cls(points, moons, cond=cond), cls(skewed().to(torch.float32), two_moons().to(torch.float32)), cls(points.float(), cond=torch.arange(60)),
                cls(points, moons, cond=cond, plan="sinkhorn"), cls(points.float(), plan="sinkhorn", blur=1.0)]
