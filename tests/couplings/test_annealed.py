"""Annealed pairs: the law of the starts at each share of fresh noise, what stays of the pairs, both limits, turned images; the suite; refusals."""
import math

import pytest
import torch

from rheos.core import Draws
from rheos.couplings import Annealed, Independent, Paired
from rheos.data import skewed, two_moons
from rheos.testing.couplings import COUPLING_LINES, check_coupling
from rheos.training import Cosine, Linear

F64 = torch.float64
N = 4000
X0 = Draws(7).rows("x0", 0, (N, 2), dtype=F64)
X1 = X0 @ torch.tensor([[1.5, -0.4], [0.2, 0.7]], dtype=F64) + torch.tensor([3.0, -1.0], dtype=F64)
PAIRS = Paired(X0, X1, torch.arange(N))


def at(beta):
    return lambda step: beta


def own(pair):
    """The start that belongs to each end."""
    return X0[pair.cond]


# -- closed form -------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("beta", [0.2, 0.6, 0.9])
def test_rotated_starts_have_unit_variance_and_remember_by_the_cosine(beta, seed):
    pair = Annealed(PAIRS, None, at(beta)).sample(N, seed=seed, step=3)
    error = 5 * math.sqrt(2 / N)
    assert bool((pair.x0.var(0) - 1).abs().max() < error + 0.03)            # the 4000 starts themselves have a variance of their own
    kept = (pair.x0 * own(pair)).mean(0) / own(pair).square().mean(0)
    assert float((kept - math.sqrt(1 - beta**2)).abs().max()) < 5 * beta / math.sqrt(N)
    left = pair.x0 - kept * own(pair)
    assert float((left.std(0) / beta - 1).abs().max()) < error


@pytest.mark.parametrize("beta", [0.25, 0.7])
def test_starts_of_another_law_are_replaced_with_that_probability(beta, seed):
    law = two_moons()
    starts = law.sample(N, seed=3)
    pair = Annealed(Paired(starts, X1, torch.arange(N)), law, at(beta)).sample(N, seed=seed, step=2)
    fresh = (pair.x0 != starts[pair.cond]).any(1)
    assert abs(float(fresh.double().mean()) - beta) < 5 * math.sqrt(beta * (1 - beta) / N)
    truth = law.sample(100_000, seed=4)
    renewed = pair.x0[fresh]
    assert bool(((renewed.mean(0) - truth.mean(0)).abs() < 5 * truth.std(0) / math.sqrt(len(renewed))).all())
    assert float((renewed - starts[pair.cond][fresh]).square().sum(1).mean()) > 1.0                     # of its own, not a neighbour


# -- limits ------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("source", [None, skewed()], ids=["noise", "law"])
def test_without_fresh_noise_they_are_the_pairs(source, seed):
    made, pair = (c.sample(50, seed=seed, step=4) for c in (Annealed(PAIRS, source, at(0.0)), PAIRS))
    assert torch.equal(made.x0, pair.x0) and torch.equal(made.x1, pair.x1) and torch.equal(made.cond, pair.cond)


@pytest.mark.parametrize("source", [None, skewed()], ids=["noise", "law"])
def test_with_fresh_noise_alone_nothing_is_left_of_the_pairing(source, seed):
    pair = Annealed(PAIRS, source, at(1.0)).sample(N, seed=seed)
    centred = lambda v: (v - v.mean(0)) / v.std(0)
    assert float((centred(pair.x0).T @ centred(own(pair)) / N).abs().max()) < 5 / math.sqrt(N)
    assert torch.equal(pair.x1, X1[pair.cond])


@pytest.mark.parametrize(("schedule", "betas"), [(Linear(10), [1.0, 0.7, 0.0, 0.0]), (Cosine(10), [1.0, (1 + math.cos(0.3 * math.pi)) / 2, 0.0, 0.0]),
                                                 (lambda step: math.exp(-step / 4), [1.0, math.exp(-0.75), math.exp(-2.5), math.exp(-5)])],
                         ids=["linear", "cosine", "exponential"])
def test_schedules(schedule, betas, seed):
    coupling = Annealed(PAIRS, None, schedule)
    for step, beta in zip((0, 3, 10, 20), betas, strict=True):
        assert coupling.beta(step) == pytest.approx(beta, abs=1e-12)
        pair = coupling.sample(N, seed=seed, step=step)
        kept = (pair.x0 * own(pair)).mean() / own(pair).square().mean()
        assert abs(float(kept) - math.sqrt(1 - beta**2)) < 5 * beta / math.sqrt(2 * N) + 1e-12


# -- invariants --------------------------------------------------------------------------------------------------------------

def test_fresh_noise_is_fresh_at_each_step_and_follows_the_seed(seed):
    coupling = Annealed(Paired(0 * X0, X1), None, at(0.5))
    a, b, c, again = (coupling.sample(30, seed=s, step=k).x0 for s, k in ((seed, 1), (seed, 2), (seed + 1, 1), (Draws(seed), 1)))
    assert torch.equal(a, again) and float((a - b).abs().min()) > 0 and float((a - c).abs().min()) > 0


@pytest.mark.parametrize("axis", [-1, 2])
def test_both_ends_are_turned_over_together_in_half_the_pairs(axis, seed):
    x0 = Draws(1).rows("x0", 0, (600, 1, 3, 4), dtype=F64)
    x1 = 2 * x0 + torch.arange(4.0, dtype=F64)                                 # x1 - 2 x0 tells whether, and which way, a pair was turned
    pair = Annealed(Paired(x0, x1, torch.arange(600)), None, at(0.0), flip=axis).sample(600, seed=seed)
    over = torch.stack([(one - x0[i]).abs().max() > 0 for one, i in zip(pair.x0, pair.cond, strict=True)])
    assert abs(float(over.double().mean()) - 0.5) < 5 * 0.5 / math.sqrt(600)
    for rows, turn in ((over, lambda v: v.flip(axis)), (~over, lambda v: v)):
        assert torch.equal(pair.x0[rows], turn(x0[pair.cond[rows]])) and torch.equal(pair.x1[rows], turn(x1[pair.cond[rows]]))


@pytest.mark.parametrize("line", COUPLING_LINES, ids=lambda line: line.name)
def test_it_meets_the_suite(line):
    check_coupling(Annealed, [line])


@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda: Annealed(PAIRS, None, at(1.2)), ValueError, r"beta at step 0 must lie in \[0, 1\], got 1.2"),
    (lambda: Annealed(PAIRS, None, at(-0.1)), ValueError, r"beta at step 0 must lie in \[0, 1\], got -0.1"),
    (lambda: Annealed(PAIRS, None, lambda step: 1 + step).sample(3, step=4), ValueError, r"beta at step 4 must lie in \[0, 1\], got 5.0"),
    (lambda: Annealed(PAIRS, None, at(math.nan)), ValueError, r"beta at step 0 must lie in \[0, 1\], got nan"),
    (lambda: Annealed(PAIRS, None, 0.5), TypeError, None),
    (lambda: Annealed(X0, None, at(0.5)), TypeError, None),
    (lambda: Annealed(PAIRS, X0, at(0.5)), TypeError, "source must be None, .* got Tensor"),
    (lambda: Annealed(Independent(X1), None, at(0.5)).sample(3), ValueError, "coupling must give pairs with an x0 each"),
    (lambda: Annealed(PAIRS, skewed(4), at(0.5)).sample(3), (ValueError, TypeError), None),
    (lambda: Annealed(PAIRS, None, at(0.5), flip=0), ValueError, "flip must be an axis of the events, got 0"),
    (lambda: Annealed(PAIRS, None, at(0.5), flip=2).sample(3), ValueError, r"flip must be an axis of events \(2,\) counted from the batch, got 2"),
    (lambda: Annealed(PAIRS, None, at(0.5), flip=-2).sample(3), ValueError, "flip must be an axis of events"),
    (lambda: Annealed(PAIRS, None, at(0.5), flip=1.0), TypeError, None),
])
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call()
