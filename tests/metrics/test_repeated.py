"""Coverage at k: every subset enumerated, urns, unbiasedness, the fitted law, refusals."""
import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import hypergeom

from rheos.core import Draws
from rheos.metrics.repeated import PowerLaw, _counts, coverage_at, fit_power_law, pass_at_k


@pytest.mark.parametrize("n", [1, 4, 7])
def test_every_subset_enumerated(n):
    for c in range(n + 1):
        marks = [True] * c + [False] * (n - c)
        for k in range(1, n + 1):
            subsets = list(itertools.combinations(marks, k))
            share = sum(map(any, subsets)) / len(subsets)
            assert abs(float(pass_at_k(torch.tensor([c]), n, k)) - share) < 1e-14


def test_an_urn_of_many():
    """Against scipy's hypergeometric law, where factorials have thousands of digits; and problems with attempts of their own."""
    c, n = torch.tensor([0, 3, 170, 1999, 40]), torch.tensor([2000, 2000, 1500, 2000, 300])
    for k in (1, 17, 256, 300):
        truth = 1 - hypergeom.pmf(0, n.numpy(), c.numpy(), k)
        np.testing.assert_allclose(pass_at_k(c, n, k).numpy(), truth, rtol=1e-9, atol=1e-12)


def test_small_chances_keep_their_digits():
    """One right attempt of n is among k of them with probability k / n."""
    found = pass_at_k(torch.tensor([1]), 10**9, 3)
    assert abs(float(found) * 10**9 / 3 - 1) < 1e-12
    assert pass_at_k(torch.tensor([0]), 10, 4).tolist() == [0.0] and math.copysign(1, float(pass_at_k(torch.tensor([0]), 10, 4))) == 1


def test_certain_where_too_few_are_wrong():
    assert pass_at_k(torch.tensor([3, 5]), 6, 4).tolist() == [1.0, 1.0]
    assert float(pass_at_k(torch.tensor([3]), 6, 3)) == pytest.approx(1 - 1 / 20, abs=1e-15)


def test_no_bias(seed):
    """The mean over many sets of 6 attempts is 1 - (1 - p)^4; the plug-in 1 - (1 - c/n)^4 lies elsewhere."""
    p, sets = 0.23, 200_000
    c = (Draws(seed).uniform("attempts", 0, (sets, 6)) < p).sum(1)
    found = pass_at_k(c, 6, 4)
    error = float(found.std()) / math.sqrt(sets)
    truth = 1 - (1 - p) ** 4
    assert abs(float(found.mean()) - truth) < 5 * error
    assert abs(float((1 - (1 - c / 6) ** 4).mean()) - truth) > 5 * error


def test_coverage_is_the_mean_over_problems():
    c = torch.tensor([0, 2, 9, 5])
    ks = [5, 1, 3]
    assert torch.allclose(coverage_at(c, 9, ks), torch.stack([pass_at_k(c, 9, k).mean() for k in ks]), rtol=0, atol=1e-15)
    assert float(coverage_at(c, 9, [1])) == pytest.approx(16 / 36, abs=1e-15)


# -- the law -----------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("a", "b"), [(1.1, 0.35), (-0.4, 0.8), (0.2, 0.05)])
def test_the_law_is_found_again(a, b):
    k = [2**i for i in range(11)]
    coverage = [math.exp(-math.exp(a) * n**-b) for n in k]
    law = fit_power_law(k, coverage)
    assert abs(law.a - a) < 1e-7 and abs(law.b - b) < 1e-7 and law.residual < 1e-9
    torch.testing.assert_close(law.predict(k), torch.tensor(coverage, dtype=torch.float64), rtol=1e-9, atol=0)


def test_the_fit_is_the_least_of_squares_in_log_coverage(seed):
    """No neighbour of the fitted (a, b) has a smaller sum."""
    k = torch.tensor([1.0, 3.0, 9.0, 30.0, 100.0], dtype=torch.float64)
    coverage = torch.exp(-1.4 * k**-0.5 * (1 + 0.2 * Draws(seed).rows("errors", 0, (5,), dtype=torch.float64).clamp(-3, 3)))
    law = fit_power_law(k, coverage)
    squares = lambda a, b: float((coverage.log() + math.exp(a) * k**-b).square().sum())
    least = squares(law.a, law.b)
    for da, db in ((1e-3, 0), (-1e-3, 0), (0, 1e-3), (0, -1e-3), (1e-3, 1e-3), (-1e-3, 1e-3)):
        assert squares(law.a + da, law.b + db) > least
    assert abs(law.residual - float((law.predict(k) - coverage).abs().max())) < 1e-15


def test_the_tail_of_the_chances_is_the_exponent(seed):
    """Chances of density g p^(g - 1): what is left open falls like k^-g, and b estimates g."""
    g = 0.4
    p = Draws(seed).uniform("chances", 0, (200_000,), dtype=torch.float64) ** (1 / g)
    k = [2**i for i in range(8, 15)]
    coverage = [float((1 - (1 - p) ** n).mean()) for n in k]
    assert abs(fit_power_law(k, coverage).b - g) < 0.03


def test_saturated_points_are_left_out():
    k = [1, 4, 16, 64, 256]
    coverage = PowerLaw(0.3, 0.6, 0.0).predict(k)
    coverage[-1] = 1.0
    law = fit_power_law(k, coverage)
    assert abs(law.a - 0.3) < 1e-7 and abs(law.b - 0.6) < 1e-7 and law.residual > 1e-3


# -- refusals ----------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("make", "message"), [
    (lambda: pass_at_k(torch.tensor([1]), 5, 6), "k must be at most the 5 attempts there were, got 6"),
    (lambda: pass_at_k(torch.tensor([1, 1]), torch.tensor([9, 3]), 4), "k must be at most the 3 attempts"),
    (lambda: pass_at_k(torch.tensor([1]), 5, 0), "k must be at least 1, got 0"),
    (lambda: pass_at_k(torch.tensor([1, -2]), 5, 1), "correct must be at least 0, got -2 of 5 for problem 1"),
    (lambda: pass_at_k(torch.tensor([1, 6]), 5, 1), "correct must be at most the attempts, got 6 of 5 for problem 1"),
    (lambda: pass_at_k(torch.tensor([], dtype=torch.int64), 5, 1), "correct must hold at least one problem"),
    (lambda: pass_at_k(torch.tensor([1]), 0, 1), "attempts must be at least 1, got 0"),
    (lambda: coverage_at(torch.tensor([1]), 5, []), "ks must name at least one"),
    (lambda: coverage_at(torch.tensor([1]), 5, [1, 6]), "k must be at most the 5 attempts"),
    (lambda: _counts(torch.tensor([[1, 2], [0, 1]]), 5, 1), r"correct must hold one count a problem, \(problems,\), got shape \(2, 2\)"),
    (lambda: fit_power_law([1, math.inf], [0.1, 0.2]), "k must be finite and at least 1, got inf"),
    (lambda: fit_power_law([1, math.nan], [0.1, 0.2]), "k must be finite and at least 1, got nan"),
    (lambda: PowerLaw(0.5, 0.4, 0.0).predict([1, -1]), "k must be finite and at least 1, got -1"),
    (lambda: fit_power_law([1, 2], [0.1, 0.2, 0.3]), "coverage must have one value a k"),
    (lambda: fit_power_law([1, 2], [0.0, 0.2]), r"coverage must lie in \(0, 1\], got 0"),
    (lambda: fit_power_law([1, 2], [0.3, 1.2]), r"coverage must lie in \(0, 1\], got 1.2"),
    (lambda: fit_power_law([0.5, 2], [0.1, 0.2]), "k must be finite and at least 1, got 0.5"),
    (lambda: fit_power_law([1, 2], [0.3, 1.0]), "at two different k or more, got 1"),
    (lambda: fit_power_law([2, 2], [0.3, 0.4]), "at two different k or more"),
])
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_counts_that_are_none():
    """Behind the annotations, as a caller without them meets it."""
    for bad, told in ((torch.tensor([[True, False]]), r"correct must hold counts, one a problem.*correct.sum\(1\)"), (torch.tensor([1.5]), "whole numbers"),
                      (torch.tensor([math.nan]), "whole numbers")):
        with pytest.raises(TypeError, match=told):
            _counts(bad, 5, 1)
    with pytest.raises(TypeError, match="attempts must hold whole numbers"):
        _counts(torch.tensor([1]), torch.tensor([5.0]), 1)
    for bad in (1.5, math.nan, True):
        with pytest.raises(TypeError):
            _counts(torch.tensor([1]), bad, 1)


def test_small_integers_hold_many_attempts():
    """One of 1,000 attempts was right: among 10 of them with probability 1/100, in whatever kind the count is kept."""
    for kind in (torch.uint8, torch.int16, torch.int64):
        c, n = _counts(torch.tensor([1], dtype=kind), 1000, 10)
        assert abs(float(pass_at_k(c, n, 10)) - 0.01) < 1e-14
