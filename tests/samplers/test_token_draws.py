"""Drawing tokens: exact in float64, and what float32 does to rare ones."""
import math

import numpy as np
import pytest
import torch

from rheos.core import Draws, NonFinite
from rheos.metrics import token_entropy
from rheos.samplers.categories import categorical, inverted, predicted_token_law, suppression

F64 = torch.float64


def zipf(v: int) -> torch.Tensor:
    p = 1 / torch.arange(1, v + 1, dtype=F64)
    return p / p.sum()


def entropy(p: torch.Tensor) -> float:
    return float(-(p[p > 0] * p[p > 0].log()).sum())


def test_classes_come_as_often_as_they_should(seed):
    p = torch.tensor([[0.5, 0.0, 0.25, 0.25], [0.01, 0.9, 0.09, 0.0]], dtype=F64)
    draws = categorical(p.log().repeat(10_000, 1) + 3.7, seed=seed).reshape(-1, 2)          # any constant may be added
    for k in range(2):
        share = torch.bincount(draws[:, k], minlength=4).double() / 10_000
        assert (share - p[k]).abs().max() < 5 * math.sqrt(0.25 / 10_000) and bool((share[p[k] == 0] == 0).all())


def test_inversion_is_numpys_search_in_the_distribution_function(seed):
    logp = 4 * Draws(seed).rows("logits", 0, (50, 3, 30), dtype=F64)
    u = Draws(seed).uniform("u", 0, (50, 3), dtype=F64)
    p = np.exp(logp.numpy() - logp.numpy().max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    expected = [[np.searchsorted(np.cumsum(p[i, j]), u[i, j].item(), side="right") for j in range(3)] for i in range(50)]
    assert inverted(logp, u).tolist() == expected


def test_the_ends_of_the_uniform_numbers_give_possible_classes():
    logp = torch.tensor([-math.inf, 0.0, -40.0, -math.inf]).double()
    for u in (2.0**-53, 0.5, 1 - 2.0**-53):
        assert inverted(logp, torch.tensor(u, dtype=F64)) in (1, 2)
    assert inverted(logp.float(), torch.tensor(1 - 2.0**-24)) in (1, 2)
    # A class of chance 2^-40 has numbers of its own in float64, and none in float32.
    rare = torch.tensor([math.log1p(-(2.0**-40)), -40 * math.log(2)], dtype=F64)
    assert inverted(rare, torch.tensor(1 - 2.0**-42, dtype=F64)) == 1
    assert inverted(rare.float(), torch.tensor(1 - 2.0**-24)) == 0


def test_rows_are_drawn_alike_however_they_are_split():
    logp = Draws(1).rows("logits", 0, (9, 4, 5))
    whole = categorical(logp, seed=3, step=2)
    assert torch.equal(torch.cat([categorical(logp[:4], seed=3, step=2), categorical(logp[4:], seed=3, step=2, first=4)]), whole)
    assert not torch.equal(categorical(logp, seed=3, step=3), whole)


@pytest.mark.parametrize("q", [3e-3, 1e-6, 1e-7, 3e-8])
def test_suppression_is_the_sum_over_every_float32_uniform(q):
    """Brute force: each of the 2^24 numbers that torch.rand can give, against a Gumbel that wins with chance 1 - q."""
    odds = (1 - q) / q
    k = np.arange(1, 1 << 24) / 2.0**24
    with np.errstate(under="ignore"):
        wins = np.exp(-np.exp(math.log(odds) + np.log(-np.log(k))))         # P(G' + log odds < g),  g = -log(-log u)
    rho = (1 + odds) * wins.sum() / 2.0**24
    assert abs(float(suppression(torch.tensor(odds, dtype=F64))) - rho) < 1e-6 * max(1, odds / 1e4)


def test_suppression_is_what_was_measured_elsewhere_and_float64_has_none():
    # The specification's enumeration, to its digits.
    for q, rho in ((1e-6, 0.9705), (3e-7, 0.9040), (1e-7, 0.7313), (3e-8, 0.3156), (1e-8, 0.0154)):
        odds = torch.tensor(1 / q - 1, dtype=F64)
        assert abs(float(suppression(odds)) - rho) < 2e-4
        assert abs(float(suppression(odds, dtype=F64)) - 1) < 1e-7
    assert float(suppression(torch.tensor(1e13, dtype=F64))) == 0.0 and float(suppression(torch.tensor(0.0, dtype=F64))) == pytest.approx(1)


def test_the_predicted_law_is_the_simulated_one(seed):
    """Against steps of a real sampler: stay hidden or show a token, by one Gumbel maximum in float32, with chances near the end of its grid."""
    n, steps, p = 400_000, 3, torch.tensor([1 - 2e-6, 2e-6], dtype=F64)
    # Chances are scaled up: a grid of 2^-24 and p r near it would need 1e9 draws, which the claim takes.
    law = predicted_token_law(p, steps, F64)
    torch.testing.assert_close(law, p, rtol=1e-6, atol=0)
    hidden, shown = torch.ones(n, dtype=torch.bool), torch.zeros(3, dtype=F64)
    generator = Draws(seed).generator("uniforms")
    common = torch.tensor([0.7, 0.3])
    for j in range(steps):
        r = 1 / (steps - j)
        logits = torch.cat([common * r, torch.tensor([1 - r])]).log()
        u = torch.rand(n, 3, generator=generator)
        choice = (logits - torch.log(-torch.log(u.clamp_min(2.0**-25)))).argmax(1)
        now = hidden & (choice < 2)
        shown[:2] += torch.bincount(choice[now], minlength=2).double()
        hidden &= ~now
    expected = predicted_token_law(common.double(), steps)
    assert (shown[:2] / n - expected).abs().max() < 5 * math.sqrt(0.25 / n) and not bool(hidden.any())


@pytest.mark.parametrize(("v", "steps", "expected"), [(1000, 64, 5.188), (1000, 1024, 5.150), (1000, 4096, 5.034), (50257, 64, 7.363)])
def test_entropies_are_those_of_the_specifications_enumeration(v, steps, expected):
    law = predicted_token_law(zipf(v), steps)
    assert abs(entropy(law) - expected) < 1.5e-3 and abs(float(law.sum()) - 1) < 1e-9
    assert abs(entropy(predicted_token_law(zipf(v), min(steps, 256), F64)) - entropy(zipf(v))) < 1e-6


def test_a_single_step_and_impossible_tokens():
    p = torch.tensor([0.5, 0.0, 0.5 - 1e-9, 1e-9], dtype=F64)
    torch.testing.assert_close(predicted_token_law(p, 1), p, rtol=1e-12, atol=0)
    law = predicted_token_law(p, 500)
    assert law[1] == 0 and law[3] < 0.1e-9


def test_token_entropy_is_that_of_the_counts(seed):
    x = Draws(seed).integers("x", 0, (7, 50), 9)
    expected = [entropy(torch.bincount(row).double() / 50) for row in x]
    torch.testing.assert_close(token_entropy(x), torch.tensor(expected, dtype=F64))


REFUSALS = [
    (lambda: categorical(torch.zeros(2, 3), dtype=torch.bfloat16), TypeError, "dtype must be torch.float64 or torch.float32, got torch.bfloat16"),
    (lambda: categorical(torch.zeros(2, 3, dtype=torch.int64)), TypeError, None),
    (lambda: categorical(torch.tensor([[0.0, math.nan]])), NonFinite, "the largest log-probability of a token is nan"),
    (lambda: categorical(torch.tensor([[-math.inf, -math.inf]])), NonFinite, "the largest log-probability of a token is -inf"),
    (lambda: suppression(torch.tensor(-1.0, dtype=F64)), ValueError, "odds must not be negative"),
    (lambda: suppression(torch.tensor(1.0, dtype=F64), dtype=torch.float16), TypeError, "dtype must be torch.float32 or torch.float64"),
    (lambda: predicted_token_law(torch.tensor([0.5, 0.6]), 4), ValueError, r"p must be a law of shape \(V,\)"),
    (lambda: predicted_token_law(torch.tensor([1.5, -0.5]), 4), ValueError, r"p must be a law of shape \(V,\)"),
    (lambda: predicted_token_law(torch.tensor([0.5, 0.5]), 0), ValueError, "steps must be at least 1"),
    (lambda: predicted_token_law(torch.tensor([0.5, 0.5]), 4, torch.float16), TypeError, "dtype must be torch.float32 or torch.float64"),
    (lambda: token_entropy(torch.zeros(2, 3)), TypeError, None),
    (lambda: token_entropy(torch.zeros(2, 0, dtype=torch.int64)), ValueError, "x must have shape"),
]


@pytest.mark.parametrize(("call", "error", "match"), REFUSALS, ids=[str(i) for i in range(len(REFUSALS))])
def test_refuses(call, error, match):
    with pytest.raises(error, match=match):
        call()
