"""Drawing tokens, and what becomes of a token law when they are drawn in too short a number.

Gumbel's maximum with uniforms k / 2^24 truncates the Gumbel law at -log(-log(1 - 2^-24)) = 16.64. A sampler that draws "stay hidden" and the
token in one go gives token v a chance of p_v r a step, r about 1 / steps, and where that is near 2^-24 the token is drawn too seldom, by

rho(A) = (1 + A) 2^-24 sum_{k < 2^24} (k / 2^24)^A = a / (e^a - 1) to first order in 2^-24,  A = (1 - r) / (p_v r),  a = (1 + A) / 2^24.

Paper: Zheng et al., Masked diffusion models are secretly time-agnostic masked models and exploit inaccurate categorical sampling, 2024,
arXiv:2409.02908, section 4. Ours: the closed form. A token beats a continuous Gumbel of the other outcome, of location log A above its own,
with chance u^A at uniform u (exp(-e^c e^-g), e^-g = -log u), which leaves the left Riemann sum of u^A over the grid.
"""
from __future__ import annotations

import math

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from rheos.core import Draws, NonFinite, checks

__all__ = ["categorical", "inverted", "predicted_token_law", "suppression"]

BITS = {torch.float32: 24, torch.float64: 53}       # of torch.rand in these dtypes
CHUNK = 1 << 20


def categorical(logp: Float[Tensor, "rows *shape V"], *, seed: int | Draws = 0, purpose: str = "token", step: int = 0, first: int = 0,
                dtype: torch.dtype = torch.float64) -> Int64[Tensor, "rows *shape"]:
    """One class for every entry, by inversion of the distribution function in `dtype`: one uniform number each, row by row.

    logp: log-probabilities, not necessarily normalised; -inf forbids a class. dtype: float64 tells apart chances down to 2^-52; float32 draws
    no class below 2^-23 as often as it should, and is here to be compared.
    TypeError for another dtype; NonFinite for an entry that is nan, above all numbers, or allows no class.

    >>> draws = categorical(torch.tensor([0.5, 0.25, 0.0, 0.25]).log().expand(8000, 4))
    >>> (torch.bincount(draws, minlength=4) / 8000 - torch.tensor([0.5, 0.25, 0.0, 0.25])).abs().max().item() < 0.03
    True
    """
    if dtype not in BITS:
        raise TypeError(f"dtype must be torch.float64 or torch.float32, got {dtype}")
    checks.tensor("logp", logp, floating=True)
    u = Draws.of(seed).uniform(purpose, step, tuple(logp.shape[:-1]), first=first, device=logp.device, dtype=dtype)
    return inverted(logp, u)


def inverted(logp: Float[Tensor, "*shape V"], u: Float[Tensor, "*shape"], *, step: int = 0) -> Int64[Tensor, "*shape"]:
    """The first class whose distribution function is above u, computed in u's dtype. step: for the message of NonFinite."""
    logp = logp.to(u.dtype)
    most = logp.amax(-1, keepdim=True)
    if not bool(torch.isfinite(most).all()):
        raise NonFinite(step, "the largest log-probability of a token", float(most[~torch.isfinite(most)][0]))
    below = (logp - most).exp().cumsum(-1)
    total = below[..., -1:]
    # u is below 1, but its product with the total may round to it.
    point = torch.minimum(u[..., None] * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(below, point, right=True)[..., 0]


def suppression(odds: Float64[Tensor, "*shape"], *, dtype: torch.dtype = torch.float32) -> Float64[Tensor, "*shape"]:
    """rho: how much too seldom Gumbel's maximum in `dtype` draws an outcome against one that is `odds` times as likely. 1 is right.

    TypeError for another dtype than float32 and float64, ValueError for negative odds.

    >>> [round(suppression(torch.tensor(1 / q, dtype=torch.float64) - 1).item(), 3) for q in (1e-6, 1e-7, 1e-8)]
    [0.97, 0.731, 0.015]
    """
    if dtype not in BITS:
        raise TypeError(f"dtype must be torch.float32 or torch.float64, got {dtype}")
    if bool((odds < 0).any()):
        raise ValueError(f"odds must not be negative, got {float(odds.min())}")
    a = torch.ldexp(1 + odds, torch.tensor(-BITS[dtype], device=odds.device))
    # Beyond 700 the exponential overflows, and nothing is drawn; below 1e-8 the ratio is 1 - a / 2.
    return torch.where(a < 700, a / torch.expm1(a.clamp(max=700)), 0.0)


@torch.no_grad()
def predicted_token_law(p: Float[Tensor, " V"], steps: int, dtype: torch.dtype = torch.float32) -> Float64[Tensor, " V"]:
    """The law of one token after `steps` steps of ancestral sampling that draws "stay hidden" and the token by one Gumbel maximum in `dtype`.

    p: what the network says at every step, positive or 0, summing to 1. In step j of n the token is shown with chance r = 1 / (n - j), by right:
    then v comes up with chance p_v r rho((1 - r) / (p_v r)), and the rest stays hidden; in the last step r is 1.
    ValueError for p that is no law, TypeError for another dtype.

    >>> law = predicted_token_law(torch.tensor([0.99, 0.01 - 1e-7, 1e-7], dtype=torch.float64), 64)
    >>> bool(law[2] < 0.5e-7), bool(abs(law.sum() - 1) < 1e-12)
    (True, True)
    """
    if dtype not in BITS:
        raise TypeError(f"dtype must be torch.float32 or torch.float64, got {dtype}")
    steps, p = checks.integer("steps", steps, least=1), checks.finite("p", checks.tensor("p", p, floating=True)).double()
    if p.ndim != 1 or bool((p < 0).any()) or abs(float(p.sum()) - 1) > 1e-6:
        raise ValueError(f"p must be a law of shape (V,), got shape {tuple(p.shape)} with sum {float(p.sum()):g} and least {float(p.min()):g}")
    p, law, hidden = p / p.sum(), torch.zeros_like(p), 1.0
    scale = 2.0 ** -BITS[dtype]
    likely, rare = p > 0, torch.empty_like(p)
    q = p[likely]
    law_likely = torch.zeros_like(q)
    rare = torch.empty_like(q)
    for j in range(steps - 1):
        r = 1 / (steps - j)
        # a = (1 + (1 - r) / (q r)) 2^-b;  q r a / (e^a - 1), in place: this runs over a whole vocabulary for every step
        torch.reciprocal(q, out=rare).mul_(scale * (1 - r) / r).add_(scale).clamp_(max=700.0)
        shown = rare.div(torch.expm1(rare)).mul_(q).mul_(r)
        law_likely.add_(shown, alpha=hidden)
        hidden *= 1 - float(shown.sum())
    law[likely] = law_likely.add_(q, alpha=hidden)
    return law


def expected_calls(steps: int, length: int) -> float:
    """How many steps of n show at least one of L tokens, on average: n (1 - (1 - 1/n)^L), below n and L (arXiv:2406.03736)."""
    steps, length = checks.integer("steps", steps, least=1), checks.integer("length", length, least=1)
    return -steps * math.expm1(length * math.log1p(-1 / steps)) if steps > 1 else 1.0
