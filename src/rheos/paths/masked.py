"""The absorbing path of token sequences: a token is either shown or hidden behind one mask id, and what is shown stays.

P(x_t,i = x1_i) = alpha(t), else the mask, independently for every i;  from t to s > t a hidden token is shown with probability
(alpha(s) - alpha(t)) / (1 - alpha(t)).

Papers: Ou et al., Your absorbing discrete diffusion secretly models the conditional distributions of clean data, 2024, arXiv:2406.03736; Austin
et al., Structured denoising diffusion models in discrete state-spaces, 2021, arXiv:2107.03006 (absorbing transitions). Ours: time runs from
0 (all hidden) to 1 (data), and positions may have vocabularies of their own, as the columns of a table do.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from rheos.core import Draws, checks

__all__ = ["MaskedPath"]

MOST_VOCAB = 1 << 20


@dataclass(frozen=True)
class MaskedPath:
    """Tokens 0..V-1 and the mask id V; rows are (length,) int64.

    vocab: V for all positions, or a tuple of one V_i a position: ids of position i are 0..V_i - 1, and the mask is the largest V_i.
    eps:   the share that is shown at t = 0 in training. alpha(t) = eps + (1 - eps) t: 0 is linear, and with 1e-3 exp(-sigma) is the paper's
           log-linear schedule. How a sampler unmasks does not depend on it.
    ValueError for vocabularies below 1 (V itself below 2) or eps outside [0, 1).

    >>> path = MaskedPath(27)
    >>> path.mask, path.corrupt_exactly(torch.tensor([[7, 4, 11, 11, 14]]), 3, seed=1).eq(27).sum().item()
    (27, 3)
    >>> path.unmask_probability(0.5, 0.75).item()               # half of what is still hidden
    0.5
    """

    vocab: int | Sequence[int]
    eps: float = 0.0
    papers: ClassVar[tuple[str, ...]] = ("2406.03736",)

    def __post_init__(self):
        if isinstance(self.vocab, Sequence):
            sizes = tuple(checks.integer("vocab", size, least=1) for size in self.vocab)
            if not sizes or max(sizes) < 2:
                raise ValueError(f"vocab must hold one number of tokens a position, and one above 1, got {sizes}")
            object.__setattr__(self, "vocab", sizes)
        else:
            object.__setattr__(self, "vocab", checks.integer("vocab", self.vocab, least=2))
        if self.mask > MOST_VOCAB:
            raise ValueError(f"vocab must be at most {MOST_VOCAB:,}, got {self.mask:,}")
        checks.between("eps", self.eps, 0.0, 1.0, high_open=True)

    @cached_property
    def mask(self) -> int:
        """The id that hides a token: the number of tokens, the largest if positions have vocabularies of their own."""
        return max(self.vocab) if isinstance(self.vocab, tuple) else self.vocab

    @property
    def length(self) -> int | None:
        """Positions of a row, where each has a vocabulary of its own; else None."""
        return len(self.vocab) if isinstance(self.vocab, tuple) else None

    # -- time ------------------------------------------------------------------------------------------------------------

    def alpha(self, t: Tensor | float) -> Tensor:
        """The share of tokens that are shown at time t, float64, of t's shape. ValueError for times outside [0, 1]."""
        return self.eps + (1 - self.eps) * _times("t", t)

    def time_at(self, alpha: Tensor | float) -> Tensor:
        """The time at which a share alpha is shown; 0 for shares below eps. ValueError for shares outside [0, 1]."""
        return ((_times("alpha", alpha) - self.eps) / (1 - self.eps)).clamp_min(0.0)

    def unmask_probability(self, t: Tensor | float, s: Tensor | float) -> Tensor:
        """The chance that a token hidden at time t is shown at time s, float64; 1 at s = 1. ValueError for s before t."""
        t, s = _times("t", t), _times("s", s)
        if bool((s < t).any()):
            raise ValueError(f"s must not lie before t, got t = {t.tolist()} and s = {s.tolist()}")
        # 1 - alpha is (1 - eps)(1 - t): eps cancels. At t = 1 nothing is hidden, and whatever is would be shown.
        return torch.where(t < 1, (s - t) / (1 - t).clamp_min(torch.finfo(torch.float64).tiny), 1.0)

    # -- hiding ----------------------------------------------------------------------------------------------------------

    def corrupt(self, x1: Int64[Tensor, "rows length"], t: Tensor | float, *, seed: int | Draws = 0, step: int = 0,
                first: int = 0) -> Int64[Tensor, "rows length"]:
        """x_t: each token of x1 stays with probability alpha(t), t a number or (rows,). Row by row a function of (seed, step, first + row)."""
        self.checked("x1", x1, hidden=False)
        shown = self.alpha(t)
        if shown.shape not in ((), x1.shape[:1]):
            raise ValueError(f"t must be one number or have shape ({len(x1)},), one time a row of x1, got shape {tuple(shown.shape)}")
        u = Draws.of(seed).uniform("mask", step, tuple(x1.shape), first=first, device=x1.device, dtype=torch.float64)
        return torch.where(u < shown.to(x1.device).reshape(-1, 1), x1, self.mask)

    def corrupt_exactly(self, x1: Int64[Tensor, "rows length"], k: int | Int64[Tensor, " k"], *, seed: int | Draws = 0, step: int = 0,
                        first: int = 0) -> Int64[Tensor, "rows length"]:
        """x1 with k random tokens of each row hidden, k one number or (rows,), 0 <= k <= length. Row by row a function of (seed, step, first + row)."""
        self.checked("x1", x1, hidden=False)
        count = torch.as_tensor(k, device=x1.device)
        if count.is_floating_point() or count.dtype == torch.bool:
            raise TypeError(f"k must count tokens in whole numbers, got {count.dtype}")
        if count.shape not in ((), x1.shape[:1]):
            raise ValueError(f"k must be one number or have shape ({len(x1)},), one a row of x1, got shape {tuple(count.shape)}")
        if count.numel() and not 0 <= int(count.min()) <= int(count.max()) <= x1.shape[1]:
            raise ValueError(f"k must lie in 0..{x1.shape[1]}, the tokens of a row, got {int(count.min())} to {int(count.max())}")
        u = Draws.of(seed).uniform("mask", step, tuple(x1.shape), first=first, device=x1.device, dtype=torch.float64)
        rank = u.argsort(dim=1, stable=True).argsort(1)
        return torch.where(rank < count.reshape(-1, 1), self.mask, x1)

    # -- ids -------------------------------------------------------------------------------------------------------------

    def possible(self, length: int, device: torch.device | str | None = None) -> Bool[Tensor, "length V"]:
        """Which ids each position can have; the mask is none of them. ValueError for another length than the vocabularies tell."""
        if self.length is None:
            return torch.ones(length, self.mask, dtype=torch.bool, device=device)
        if length != self.length:
            raise ValueError(f"length must be {self.length}, one position a vocabulary, got {length}")
        return torch.arange(self.mask, device=device) < torch.tensor(self.vocab, device=device)[:, None]

    def checked(self, name: str, x: Tensor, *, hidden: bool = True) -> Tensor:
        """`x` if it is (rows, length) int64 of ids that the positions can have, or the mask where `hidden` allows it. TypeError, ValueError."""
        if checks.tensor(name, x).dtype != torch.int64:
            raise TypeError(f"{name} must hold int64 token ids, got {x.dtype}")
        if x.ndim != 2 or not x.shape[1] or self.length not in (None, x.shape[1]):
            raise ValueError(f"{name} must have shape (rows, {self.length or 'length'}), got {tuple(x.shape)}")
        most = self.mask - 1 if self.length is None else torch.tensor(self.vocab, device=x.device) - 1
        bad = (x < 0) | (x > most)
        if hidden:
            bad &= x != self.mask
        if bool(bad.any()):
            row, place = bad.nonzero()[0].tolist()
            top = most if isinstance(most, int) else int(most[place])
            ends = f" or the mask id {self.mask}" if hidden else f" (the mask id is {self.mask})" if int(x[row, place]) == self.mask else ""
            raise ValueError(f"{name} must hold token ids 0..{top}{ends}, got {int(x[row, place])} at row {row}, position {place}")
        return x

    def log_probabilities(self, logits: Float[Tensor, "rows length ids"]) -> Float[Tensor, "rows length V"]:
        """A network's answer as log-probabilities of tokens: the mask, and ids that a position does not have, get none.

        logits: of V ids a position, or of V + 1, the last for the mask, which is dropped. ValueError for any other number.
        """
        if logits.shape[-1] not in (self.mask, self.mask + 1):
            raise ValueError(f"net must return {self.mask} (or {self.mask + 1}) numbers a position, got shape {tuple(logits.shape)}")
        logits = logits[..., : self.mask]
        if logits.dtype in (torch.bfloat16, torch.float16):         # 8 bits would round away what rare tokens differ by
            logits = logits.float()
        if self.length is not None:
            logits = logits.masked_fill(~self.possible(logits.shape[1], logits.device), -torch.inf)
        return torch.log_softmax(logits, -1)

    # -- files -----------------------------------------------------------------------------------------------------------

    def to_json(self) -> dict[str, Any]:
        return {"class": "rheos.paths.MaskedPath", "vocab": list(self.vocab) if isinstance(self.vocab, tuple) else self.vocab, "eps": self.eps}

    @classmethod
    def from_json(cls, content: Any) -> MaskedPath:
        """The path that `to_json` described. ValueError for anything else."""
        if not isinstance(content, Mapping) or content.get("class") != "rheos.paths.MaskedPath" or set(content) != {"class", "vocab", "eps"}:
            raise ValueError(f"not a masked path: {content!r}")
        try:
            return cls(tuple(content["vocab"]) if isinstance(content["vocab"], list) else content["vocab"], content["eps"])
        except TypeError as error:
            raise ValueError(f"not a masked path: {error}") from None


def _times(name: str, value: Tensor | float) -> Tensor:
    """float64, in [0, 1]."""
    value = torch.as_tensor(value, dtype=torch.float64)
    if value.numel() and not bool(((value >= 0) & (value <= 1)).all()):
        raise ValueError(f"{name} must lie in [0, 1], got values from {float(value.min()):g} to {float(value.max()):g}")
    return value
