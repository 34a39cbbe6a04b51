r"""Frames that hardly differ need not be made anew: skipped with a probability that rises with their likeness.

  P(skip) = max(0, 1 - (1 - s) / (1 - eta)),  s the cosine of a frame and the last one that was processed

Paper: Kodaira et al., StreamDiffusion, 2023, arXiv:2312.12491 (stochastic similarity filter).
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Inexact
from torch import Tensor

from rheos.core import Draws, checks

__all__ = ["SimilarityFilter", "SimilarityState", "skip_probability"]


def skip_probability(similarity: float, threshold: float = 0.98) -> float:
    """max(0, 1 - (1 - s) / (1 - eta)): 0 up to the threshold eta, 1 where nothing has changed."""
    similarity = checks.between("similarity", similarity, -1.0, 1.0)
    threshold = checks.between("threshold", threshold, -1.0, 1.0, high_open=True)
    return max(0.0, 1 - (1 - similarity) / (1 - threshold))


def cosine(x: Tensor, y: Tensor) -> float:
    """The cosine of two frames as vectors, in float64. Two frames of zeros are alike, a frame of zeros and another are not."""
    a, b = x.detach().double().flatten(), y.detach().double().flatten()
    size = float(a.norm() * b.norm())
    return max(-1.0, min(1.0, float(a @ b) / size)) if size else float(bool(torch.equal(a, b)))


@dataclass
class SimilarityState:
    """The last frame that was processed, its result, how many were skipped since, in all, and how many frames there were."""

    frame: Tensor | None = None
    result: Any = None
    waited: int = 0
    skipped: int = 0
    step: int = 0


class SimilarityFilter:
    """`process` behind a filter: called with frames like it, it gives the last result again for frames that are skipped.

    process: (frame, ...) -> result, such as a `StreamBatch`. threshold: the eta above, 0.98 the authors'. longest: after so many skips in a row a
    frame is processed whatever it shows. seed: of the chances taken, one uniform number a frame.

    >>> still = SimilarityFilter(lambda frame: frame * 2, longest=4)
    >>> [still(torch.ones(3)).sum().item() for _ in range(10)], still.state.skipped
    ([6.0, 6.0, 6.0, 6.0, 6.0, 6.0, 6.0, 6.0, 6.0, 6.0], 8)
    """

    def __init__(self, process: Callable[..., Any], threshold: float = 0.98, longest: int = 10, *, seed: int | Draws = 0):
        if not callable(process):
            raise TypeError(f"process must be callable as process(frame), got {type(process).__name__}")
        self.process, self.threshold = process, checks.between("threshold", threshold, -1.0, 1.0, high_open=True)
        self.longest, self.seed = checks.integer("longest", longest, least=0), Draws(Draws.of(seed).seed)
        self.state = SimilarityState()

    def skips(self, frame: Inexact[Tensor, "*event"]) -> bool:
        """Whether this frame would be skipped. Asking changes nothing."""
        checks.finite("frame", checks.tensor("frame", frame, floating=True))
        state = self.state
        if state.frame is None or state.waited >= self.longest:
            return False
        if state.frame.shape != frame.shape:
            raise ValueError(f"frame must have the shape of those before, {tuple(state.frame.shape)}, got {tuple(frame.shape)}")
        chance = float(self.seed.uniform("similarity", state.step, (1,), dtype=torch.float64))
        return chance < skip_probability(cosine(frame, state.frame), self.threshold)

    def __call__(self, frame: Inexact[Tensor, "*event"], *rest: Any) -> Any:
        """The result for this frame, or the last one again."""
        state = self.state
        if self.skips(frame):
            self.state = SimilarityState(state.frame, state.result, state.waited + 1, state.skipped + 1, state.step + 1)
        else:
            result = self.process(frame, *rest)
            self.state = SimilarityState(frame.detach().clone(), result, 0, state.skipped, state.step + 1)
        return self.state.result
