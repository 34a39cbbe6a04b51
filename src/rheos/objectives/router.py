"""Cross-entropy at noisy points: the loss of a network that tells, from a point on a path and its time, of which part of the data it came.

  loss = - E log p(k | x_t, t),   x_t = alpha x1 + sigma z,  k the part of x1

Its minimum is the posterior of the parts, and so the router of `paths.Mixture`: rows must come as often as they do in the data, since the
parts' sizes enter by nothing else. It is the loss of noise-aware classifiers too, which steer a field (`guidance.ClassifierGuided`).

Paper: McAllister et al., Decentralized Diffusion Models, 2025, arXiv:2501.05450.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from rheos.core import Draws, checks
from rheos.couplings import Pair
from rheos.nets import keep_condition
from rheos.objectives.matching import Loss, _Adding
from rheos.objectives.when import TimeLaw, Uniform
from rheos.paths import Path

__all__ = ["CrossEntropy"]


@dataclass(frozen=True, eq=False)
class CrossEntropy(_Adding):
    """- log softmax(net(x_t, t))_k, averaged over the batch, in nats.

    path: makes x_t. when: the law of t on the path's interval; uniform, as in the paper. unit_input: whether the network is shown
    x / sqrt(alpha^2 + sigma^2), see `Field`. drop_condition: the chance with which a row's condition is left out.

    The network is called as net(x, t, cond) and returns logits (batch, parts). A pair's cond is the part's number k, (batch,) int64; or a dict
    {"part": k, "cond": c}, where the network is told c as well. TypeError and ValueError for anything else, and for a k without a logit.
    """

    path: Path
    when: TimeLaw = Uniform()
    unit_input: bool = False
    drop_condition: float = 0.0
    papers: ClassVar[tuple[str, ...]] = ("2501.05450",)

    def __post_init__(self):
        if not isinstance(self.path, Path):
            raise TypeError(f"path must be a Path, got {type(self.path).__name__}")
        if isinstance(self.when, type) or not callable(getattr(self.when, "sample", None)):
            raise TypeError(f"when must be a law of times such as Uniform(), got {self.when!r}")
        if checks.flag("unit_input", self.unit_input) and self.path.two_sided:
            raise ValueError("unit_input needs a one-sided path, got a two-sided one")
        checks.between("drop_condition", self.drop_condition, 0.0, 1.0)

    def __call__(self, net: Callable, pair: Pair, *, seed: int | Draws = 0, step: int = 0) -> Loss:
        """The loss of `net` on minibatch `pair`; times, noise and dropped conditions are functions of (seed, step)."""
        draws, x1 = Draws.of(seed), pair.x1
        part, cond = (pair.cond.get("part"), pair.cond.get("cond")) if isinstance(pair.cond, dict) else (pair.cond, None)
        if not isinstance(part, Tensor) or part.dtype != torch.int64:
            raise TypeError(f"cond must be the number of each row's part, int64, got {part.dtype if isinstance(part, Tensor) else type(part).__name__}")
        checks.shape_of("cond", part, (len(x1),))
        t, low, high = self._times(len(x1), draws, step, x1), *self.path.interval
        if getattr(self.when, "place", None) is None and (low, high) != (0.0, 1.0):
            t = low + (high - low) * t
        coupled = pair.x0 is not None and not self.path.two_sided
        z = checks.shape_of("x0", pair.x0, x1.shape) if coupled else self.path.noise.draw(x1.shape, seed=draws, step=step, like=x1, ahead=True)
        if self.drop_condition and cond is not None:
            cond = keep_condition(cond, draws.uniform("kept condition", step, (len(x1),), device=x1.device, ahead=True) >= self.drop_condition)
        at = self.path.schedule.coefficients(t)
        x = self.path.sample(x1, t, x0=pair.x0 if self.path.two_sided else None, z=z, at=at).x
        logits = net(self.path.unit(x, at) if self.unit_input else x, t.to(x.dtype), cond)
        if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(x1):
            got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(f"net must return logits ({len(x1)}, parts), got {got}")
        if len(part) and not bool(((part >= 0) & (part < logits.shape[1])).all()):
            raise ValueError(f"cond must number the parts 0 .. {logits.shape[1] - 1}, one a logit, got {int(part.min())} to {int(part.max())}")
        errors = torch.nn.functional.cross_entropy(logits, part, reduction="none")
        return Loss(errors.mean(), errors)

    def _times(self, n: int, draws: Draws, step: int, like: Tensor) -> Tensor:
        kind = torch.float64 if like.dtype == torch.float64 else torch.float32
        t = self.when.sample(n, seed=draws, step=step, device=like.device, dtype=kind)
        place: Any = getattr(self.when, "place", None)
        return t if place is None else place(self.path, t)
