r"""Frames that hardly differ need not be made anew: skipped with a probability that rises with their likeness.

  P(skip) = max(0, 1 - (1 - s) / (1 - eta)),  s the cosine of a frame and the last one that was processed

Paper: Kodaira et al., StreamDiffusion, 2023, arXiv:2312.12491 (stochastic similarity filter).
"""
from __future__ import annotations

from collections.abc import Callable, Mapping
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
    """The last frame that was processed, its result, how many were skipped since, in all, how many frames there were, and what came with the last one."""

    frame: Tensor | None = None
    result: Any = None
    waited: int = 0
    skipped: int = 0
    step: int = 0
    rest: Any = ()


class SimilarityFilter:
    """`process` behind a filter: called with frames like it, it gives the last result again for frames that are skipped.

    What comes after the frame, such as a condition, is handed on to `process`; a frame with another one than the last that was processed is never
    skipped.

    Before a `StreamBatch` of n levels a skip is no tick. What a skipped frame gets is what the last tick gave, the result of a frame processed
    n - 1 before, or None while the first is on its way; and the requests in the pipe wait, on a still video `longest` frames for each level. Where
    they should not, `stream.tick()` carries them on without a new frame, at one smaller field call each, and nothing that arrives later is changed
    by it.

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

    def skips(self, frame: Inexact[Tensor, "*event"], *rest: Any) -> bool:
        """Whether this frame would be skipped, with these arguments after it. Asking changes nothing."""
        checks.finite("frame", checks.tensor("frame", frame, floating=True))
        state = self.state
        if state.frame is None or state.waited >= self.longest:
            return False
        if state.frame.shape != frame.shape:
            raise ValueError(f"frame must have the shape of those before, {tuple(state.frame.shape)}, got {tuple(frame.shape)}")
        if not _same(rest, tuple(state.rest)):
            return False
        chance = float(self.seed.uniform("similarity", state.step, (1,), dtype=torch.float64))
        return chance < skip_probability(cosine(frame, state.frame), self.threshold)

    def __call__(self, frame: Inexact[Tensor, "*event"], *rest: Any) -> Any:
        """The result for this frame, or the last one again."""
        state = self.state
        if self.skips(frame, *rest):
            self.state = SimilarityState(state.frame, state.result, state.waited + 1, state.skipped + 1, state.step + 1, state.rest)
        else:
            result = self.process(frame, *rest)
            self.state = SimilarityState(frame.detach().clone(), result, 0, state.skipped, state.step + 1, _copied(rest))
        return self.state.result


def _same(a: Any, b: Any) -> bool:
    """Whether two arguments say the same. Where it cannot be told they do not."""
    if isinstance(a, Tensor) or isinstance(b, Tensor):
        return isinstance(a, Tensor) and isinstance(b, Tensor) and a.dtype == b.dtype and a.device == b.device and torch.equal(a, b)
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_same(a[name], b[name]) for name in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    if a is None or isinstance(a, bool | int | float | complex | str):
        return type(a) is type(b) and a == b
    return a is b


def _copied(value: Any) -> Any:
    """Tensors as they are now: the caller may write into its own."""
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, Mapping):
        return {name: _copied(part) for name, part in value.items()}
    return tuple(map(_copied, value)) if isinstance(value, list | tuple) else value
