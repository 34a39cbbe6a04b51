"""Sampling problems whose exact ends are known, so that every error is the solver's own: a field, starts, and where the flow carries them."""
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rheos.data import digits_mixture
from rheos.guidance import classifier_free
from rheos.paths import LAM, Clock, ExactField, Field, Path, Times
from rheos.samplers import Exponential, Rule, Table, sample

__all__ = ["Problem", "digits_problem"]

REFERENCE = Exponential(3, "data", LAM, corrector=3)       # 200 equal steps in lam err by 9e-6 of 100 steps on the digits' field


class Problem:
    """A field with starts (rows, *event), their condition, and their ends by `fine` steps of a reference rule, even in lam."""

    def __init__(self, field: Field, start: Tensor, cond: Any = None, *, fine: int = 200, reference: Rule = REFERENCE):
        self.field, self.start, self.cond = field, start, cond
        self.truth = self.run(reference, Times.uniform(field.path, fine, LAM))

    def run(self, rule: Rule | Table, times: Times | None = None, **settings: Any) -> Tensor:
        """The starts carried along by a rule on these times, or by a table on its own, (rows, *event)."""
        return sample(self.field, start=self.start, rule=rule, times=times, cond=self.cond, **settings)

    def distance(self, x: Tensor) -> float:
        """The median over samples of each one's root mean square distance to its exact end.

        The mean is ruled by the few starts on a boundary between classes, which end elsewhere.
        """
        return float((x - self.truth).flatten(1).square().mean(1).sqrt().median())

    def error(self, rule: Rule | Table, calls: int | None = None, clock: Clock = LAM, **settings: Any) -> float:
        """`distance` of a rule in `calls` field calls on times even in `clock`, or of a table."""
        if isinstance(rule, Table):
            return self.distance(self.run(rule, **settings))
        if calls is None:
            raise ValueError("calls must be given for a rule; only a table brings its own times")
        steps = (calls - getattr(rule, "extra_calls", 0)) // rule.calls_per_step
        return self.distance(self.run(rule, Times.uniform(self.field.path, steps, clock), **settings))


def digits_problem(rows: int = 128, *, seed: int = 0, guidance: float | None = None, label: int = 3, axes: int | None = 16, ridge: float = 0.1,
                   path: Path | None = None, fine: int = 200) -> Problem:
    """The exact field of real digits (see `digits_mixture`), by default on the variance-preserving path; with `guidance`, steered to `label`."""
    path = Path.vp() if path is None else path
    exact = ExactField(path, digits_mixture(axes, ridge))
    start = path.prior((rows, *exact.event), seed=seed, dtype=torch.float64)
    if guidance is None:
        return Problem(exact, start, fine=fine)
    return Problem(classifier_free(exact, guidance), start, torch.full((rows,), label), fine=fine)
