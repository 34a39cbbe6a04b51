"""A Markov chain of letters, whose every conditional is known: what models and samplers of tokens are tried on."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from rheos.core import Draws, checks

__all__ = ["MarkovChain"]


@dataclass(frozen=True, eq=False)
class MarkovChain:
    """P(x) = start[x_1] transition[x_1, x_2] ... transition[x_{L-1}, x_L] over letters 0..V-1.

    start: (V,), transition: (V, V), float64, rows summing to 1; zeros are allowed. ValueError for anything else.
    Called as net(x, t, cond), in a network's place, it gives the exact conditionals of what is hidden, by passing messages both ways.

    >>> chain = MarkovChain(torch.tensor([0.9, 0.1], dtype=torch.float64), torch.tensor([[0.5, 0.5], [0.0, 1.0]], dtype=torch.float64))
    >>> chain(torch.tensor([[2, 0]])).exp()[0, 0]               # only 0 goes on with 0
    tensor([1., 0.], dtype=torch.float64)
    """

    start: Tensor
    transition: Tensor

    def __post_init__(self):
        checks.shape_of("start", checks.tensor("start", self.start, floating=True), (None,))
        v = len(self.start)
        checks.shape_of("transition", checks.tensor("transition", self.transition, floating=True), (v, v))
        for name, rows in (("start", self.start[None]), ("transition", self.transition)):
            if rows.dtype != torch.float64 or bool((rows < 0).any()) or not bool(((rows.sum(1) - 1).abs() < 1e-9).all()):
                raise ValueError(f"{name} must hold float64 laws, rows that sum to 1, got sums {rows.sum(1).tolist()[:5]} of {rows.dtype}")

    @classmethod
    def fit(cls, rows: Int64[Tensor, "rows length"], letters: int, *, extra: float = 0.0) -> MarkovChain:
        """The chain of the frequencies in `rows`, `extra` added to every count. ValueError for a letter that never goes on, without `extra`."""
        letters = checks.integer("letters", letters, least=2)
        extra = checks.positive("extra", extra, zero=True)
        pairs = torch.bincount((rows[:, :-1] * letters + rows[:, 1:]).flatten(), minlength=letters**2).double().view(letters, letters) + extra
        if bool((pairs.sum(1) == 0).any()):
            raise ValueError(f"letter {int((pairs.sum(1) == 0).nonzero()[0])} is never followed by another: give extra > 0")
        first = torch.bincount(rows[:, 0], minlength=letters).double() + extra
        return cls(first / first.sum(), pairs / pairs.sum(1, keepdim=True))

    def sample(self, n: int, length: int, *, seed: int | Draws = 0) -> Int64[Tensor, "n length"]:
        """n rows of `length` letters."""
        draws, x = Draws.of(seed), torch.zeros(checks.integer("n", n, least=1), checks.integer("length", length, least=1), dtype=torch.int64)
        law = self.start.log().expand(n, -1)
        for i in range(length):
            x[:, i] = draws.categorical("letters", i, law)
            law = self.transition.log()[x[:, i]]
        return x

    def log_prob(self, x: Int64[Tensor, "rows length"]) -> Float64[Tensor, " rows"]:
        """log P(x), nats; -inf for rows that cannot be."""
        return self.start.log()[x[:, 0]] + self.transition.log()[x[:, :-1], x[:, 1:]].sum(1)

    def __call__(self, x: Int64[Tensor, "rows length"], t: Any = None, cond: Any = None) -> Float64[Tensor, "rows length V"]:
        """log P(x_i = v | what is shown), ids from V on counting as hidden. ValueError for a row whose shown letters cannot be."""
        v, length = len(self.start), x.shape[1]
        fits = (x[..., None] == torch.arange(v)) | (x[..., None] >= v)
        before, after = [self.start.expand(len(x), v)], [torch.ones(len(x), v, dtype=torch.float64)]
        for i in range(length - 1):
            known = before[-1] * fits[:, i] @ self.transition
            before.append(known / known.sum(1, keepdim=True))
            known = (after[-1] * fits[:, length - 1 - i]) @ self.transition.T
            after.append(known / known.sum(1, keepdim=True))
        joint = torch.stack(before, 1) * torch.stack(after[::-1], 1) * fits
        total = joint.sum(-1, keepdim=True)
        if not bool((total > 0).all()):
            raise ValueError(f"x must be possible for this chain, row {int((~(total > 0)).nonzero()[0, 0])} is not")
        return (joint / total).log()
