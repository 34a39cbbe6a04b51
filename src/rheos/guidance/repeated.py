"""Repeated sampling: many attempts at a problem, and a verifier that knows a right one. Its worth is `rheos.metrics.coverage_at`.

Paper: Brown et al., Large language monkeys: scaling inference compute with repeated sampling, 2024, arXiv:2407.21787.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from rheos.core import Draws, checks

__all__ = ["RepeatedSampling", "Solved"]


class Solved(NamedTuple):
    """The first answer that the verifier let pass, or None, and the attempts that were made until then."""

    answer: Any
    attempts: int


@dataclass(frozen=True, eq=False)
class RepeatedSampling:
    """Attempts by `solver`, judged by `verifier`.

    solver: (problem, count, draws) -> answers, something of length `count` that can be indexed; all randomness from `draws`, a `Draws`.
    verifier: (problem, answers) -> (count,) bool, whether each is right.

    >>> guess = RepeatedSampling(lambda goal, n, draws: draws.integers("guess", 0, (n,), 10), lambda goal, answers: answers == goal)
    >>> right = guess.attempts([3, 7], 1000, seed=0)
    >>> tuple(right.shape), bool((right.sum(1) - 100).abs().max() < 50), guess.solve(7, 1000).answer.item()
    ((2, 1000), True, 7)
    """

    solver: Callable[[Any, int, Draws], Any]
    verifier: Callable[[Any, Any], Tensor]

    def __post_init__(self):
        for name in ("solver", "verifier"):
            if not callable(getattr(self, name)):
                raise TypeError(f"{name} must be callable, got {type(getattr(self, name)).__name__}")

    def attempts(self, problems: Iterable[Any], n: int, *, seed: int | Draws = 0) -> Bool[Tensor, "problems n"]:
        """Whether each of `n` attempts at each problem is right. The attempts at a problem depend on the seed and its place only."""
        n, draws = checks.integer("n", n, least=1), Draws.of(seed)
        rows = [self._tried(problem, n, draws.child(number))[1] for number, problem in enumerate(problems)]
        if not rows:
            raise ValueError("problems must hold at least one, got none")
        return torch.stack(rows)

    def solve(self, problem: Any, budget: int, *, batch: int = 64, seed: int | Draws = 0) -> Solved:
        """Attempts, `batch` at a time, until one is right or `budget` of them are made."""
        budget, batch, draws, made = checks.integer("budget", budget, least=1), checks.integer("batch", batch, least=1), Draws.of(seed), 0
        while made < budget:
            answers, right = self._tried(problem, min(batch, budget - made), draws.child(made))
            if bool(right.any()):
                first = int(right.nonzero()[0])
                return Solved(answers[first], made + first + 1)
            made += len(right)
        return Solved(None, made)

    def _tried(self, problem: Any, count: int, draws: Draws) -> tuple[Any, Tensor]:
        answers = self.solver(problem, count, draws)
        right = self.verifier(problem, answers)
        if not isinstance(right, Tensor) or right.dtype != torch.bool or right.shape != (count,):
            got = f"{tuple(right.shape)} of {right.dtype}" if isinstance(right, Tensor) else repr(right)
            raise ValueError(f"verifier must return one bool an answer, ({count},), got {got}")
        return answers, right
