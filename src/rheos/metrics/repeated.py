r"""What repeated attempts are worth: coverage at k, the share of problems that at least one of k attempts solves, and the law it follows.

From c correct of n attempts at a problem, coverage at k is estimated without bias by
  pass@k = 1 - C(n - c, k) / C(n, k) = 1 - prod_{j < k} (1 - c / (n - j)),
the chance that k of the n, drawn without replacement, hold a correct one. Over many problems it is well described by log c(k) = -exp(a) k^-b.

Papers: Chen et al., Evaluating large language models trained on code, 2021, arXiv:2107.03374 (the estimate); Brown et al., Large language monkeys,
2024, arXiv:2407.21787 (the law, written there as c = exp(a' k^b') with a' = -exp(a), b' = -b).
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float64, Int, Num
from torch import Tensor

from rheos.core import checks

__all__ = ["PowerLaw", "coverage_at", "fit_power_law", "pass_at_k"]


def pass_at_k(correct: Int[Tensor, " problems"], attempts: int | Int[Tensor, " problems"], k: int) -> Float64[Tensor, " problems"]:
    """The chance that k attempts at each problem hold a correct one, estimated without bias from `correct` of `attempts`, (problems,) float64.

    correct: how many attempts were right. attempts: how many there were, one number or one a problem. k: at most the fewest attempts.
    (Putting c / n into 1 - (1 - p)^k instead is biased.) Cost: k a distinct pair of counts.
    ValueError for counts below 0 or above the attempts, and for a k beyond them.

    >>> pass_at_k(torch.tensor([0, 1, 3]), 4, 2).round(decimals=6).tolist()      # of the 6 pairs, 0, 3 and all hold a correct one
    [0.0, 0.5, 1.0]
    """
    k = checks.integer("k", k, least=1)
    return _passes(*_counts(correct, attempts, k), k)[:, k - 1]


def coverage_at(correct: Int[Tensor, " problems"], attempts: int | Int[Tensor, " problems"], ks: Sequence[int]) -> Float64[Tensor, " ks"]:
    """`pass_at_k` for each k of `ks`, averaged over the problems, (len(ks),) float64.

    >>> coverage_at(torch.tensor([0, 1, 3]), 4, [1, 2, 4]).round(decimals=6).tolist()        # (0 + 1/4 + 3/4) / 3, (0 + 1/2 + 1) / 3, (0 + 1 + 1) / 3
    [0.333333, 0.5, 0.666667]
    """
    if not len(ks):
        raise ValueError("ks must name at least one number of attempts, got none")
    ks = [checks.integer("k", k, least=1) for k in ks]
    c, n = _counts(correct, attempts, max(ks))
    return _passes(c, n, max(ks))[:, torch.tensor(ks) - 1].mean(0)


def _counts(correct: Tensor, attempts: int | Tensor, k: int) -> tuple[Tensor, Tensor]:
    c = _whole("correct", correct)
    if c.ndim != 1:
        raise ValueError(f"correct must hold one count a problem, (problems,), got shape {tuple(c.shape)}")
    if not len(c):
        raise ValueError("correct must hold at least one problem, got none")
    n = _whole("attempts", attempts) if isinstance(attempts, Tensor) else torch.full_like(c, checks.integer("attempts", attempts, least=1))
    if n.shape != c.shape:
        raise ValueError(f"attempts must be one number or one a problem, ({len(c)},), got shape {tuple(n.shape)}")
    for name, bad in (("at least 0", c < 0), ("at most the attempts", c > n)):
        if bool(bad.any()):
            at = int(bad.nonzero()[0])
            raise ValueError(f"correct must be {name}, got {int(c[at])} of {int(n[at])} for problem {at}")
    if k > int(n.min()):
        raise ValueError(f"k must be at most the {int(n.min())} attempts there were, got {k}")
    return c, n


def _whole(name: str, value: Any) -> Tensor:
    """Counts as int64. TypeError for what holds no whole numbers."""
    kind = checks.tensor(name, value).dtype
    if kind == torch.bool:
        raise TypeError(f"{name} must hold counts, one a problem, got {kind}; where each attempt is marked, count the right ones: {name}.sum(1)")
    if kind.is_floating_point or kind.is_complex:
        raise TypeError(f"{name} must hold whole numbers, got {kind}")
    return value.long()


def _passes(c: Tensor, n: Tensor, most: int) -> Tensor:
    """1 - prod_{j < k} (1 - c / (n - j)) for k = 1 .. most, (problems, most). Summed logarithms: no factorials, and small chances keep their digits."""
    pairs, which = torch.stack([c, n], 1).unique(dim=0, return_inverse=True)
    j = torch.arange(most, device=c.device, dtype=torch.float64)
    # From the step on at which fewer attempts are left than correct ones the product is 0, and log1p(-1) says so.
    missing = torch.log1p(-(pairs[:, :1].double() / (pairs[:, 1:].double() - j)).clamp(max=1.0)).cumsum(1)
    return 0.0 - torch.expm1(missing)[which]        # 0 and not -0 for what was never solved


class PowerLaw(NamedTuple):
    """log c(k) = -exp(a) k^-b, fitted. `residual`: the largest distance of the law to the coverage it was fitted to.

    Where problems are solved with probability p and the density of p goes like p^(g - 1) near 0, the share left open falls like k^-g: b estimates g.
    """

    a: float
    b: float
    residual: float

    def predict(self, k: Sequence[float] | Num[Tensor, " ks"]) -> Float64[Tensor, " ks"]:
        """The coverage that the law promises at k attempts, (len(k),) float64. ValueError for a k below 1 or not finite."""
        k = torch.as_tensor(k, dtype=torch.float64)
        _attempts(k.reshape(-1))
        return torch.exp(-math.exp(self.a) * k**-self.b)


def _attempts(k: Tensor) -> None:
    good = torch.isfinite(k) & (k >= 1)
    if not bool(good.all()):
        raise ValueError(f"k must be finite and at least 1, got {float(k[~good][0]):g}")


def fit_power_law(k: Sequence[float] | Num[Tensor, " ks"], coverage: Sequence[float] | Num[Tensor, " ks"]) -> PowerLaw:
    """The law log c(k) = -exp(a) k^-b through coverages, by least squares in log c.

    k: numbers of attempts, at least 1. coverage: in (0, 1], as `coverage_at` gives it. Points at 1 hold nothing of the law and are left out.
    ValueError for coverages outside (0, 1], for a k below 1 or not finite, and for fewer than two points below 1 at different k.

    >>> law = fit_power_law([1, 10, 100, 1000], PowerLaw(0.5, 0.4, 0.0).predict([1, 10, 100, 1000]))
    >>> round(law.a, 6), round(law.b, 6)
    (0.5, 0.4)
    """
    from scipy.optimize import least_squares

    at, share = (torch.as_tensor(v, dtype=torch.float64).detach().cpu().numpy() for v in (k, coverage))
    if at.shape != share.shape or at.ndim != 1:
        raise ValueError(f"coverage must have one value a k, got {share.shape} for k {at.shape}")
    _attempts(torch.from_numpy(at))
    if not ((share > 0) & (share <= 1)).all():
        raise ValueError(f"coverage must lie in (0, 1], got {share[~((share > 0) & (share <= 1))][0]:g}; leave out what was never solved")
    kept = share < 1
    x, y = np.log(at[kept]), np.log(share[kept])
    if len(np.unique(x)) < 2:
        raise ValueError(f"coverage must lie below 1 at two different k or more, got {int(kept.sum())} such points")
    slope, height = np.polyfit(x, np.log(-y), 1)            # a straight line in log(-log c), which weighs the points otherwise, is near
    found = least_squares(lambda v: y + np.exp(v[0] - v[1] * x), [height, -slope], xtol=1e-14, ftol=1e-14, gtol=1e-14).x
    law = PowerLaw(float(found[0]), float(found[1]), 0.0)
    return law._replace(residual=float((law.predict(torch.from_numpy(at)) - torch.from_numpy(share)).abs().max()))
