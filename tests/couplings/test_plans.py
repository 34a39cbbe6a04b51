"""The assignment and the entropic plan: brute force, closed forms, POT as the peer, invariances, refusals."""
from itertools import permutations

import numpy as np
import ot
import pytest
import torch

from rheos.core import Draws
from rheos.couplings import assignment, entropic


def costs(n, seed, dim=2, dtype=torch.float64):
    x = Draws(seed).rows("x", 0, (n, dim), dtype=dtype)
    y = Draws(seed).rows("y", 0, (n, dim), dtype=dtype) ** 3 + 0.3
    return torch.cdist(x, y) ** 2


def total(cost, to):
    return float(cost[torch.arange(len(cost)), to].double().sum())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_the_assignment_is_the_best_of_all_permutations(n, dtype, seed):
    for k in range(8):
        cost = Draws(seed).rows("cost", k, (n, n), dtype=dtype).exp() - 2
        best = min(permutations(range(n)), key=lambda to: total(cost, list(to)))
        assert assignment(cost).tolist() == list(best)


def test_a_difference_in_the_last_digits_of_float64_decides():
    cost = torch.tensor([[1.0, 2.0], [3.0, 4.0 - 1e-12]], dtype=torch.float64)
    assert assignment(cost).tolist() == [0, 1] and assignment(cost.flip(1)).tolist() == [1, 0]
    assert assignment(cost + torch.tensor([[0.0, 0.0], [0.0, 2e-12]], dtype=torch.float64)).tolist() == [1, 0]


@pytest.mark.parametrize(("n", "dim"), [(40, 1), (150, 2), (90, 17), (200, 64)])
def test_the_assignment_costs_what_pot_says(n, dim, seed):
    cost = costs(n, seed, dim)
    even = np.full(n, 1 / n)
    to = assignment(cost)
    assert sorted(to.tolist()) == list(range(n))
    assert total(cost, to) / n == pytest.approx(ot.emd2(even, even, cost.numpy()), rel=1e-10)


def test_hard_costs():
    assert sorted(assignment(torch.zeros(7, 7)).tolist()) == list(range(7))
    far = costs(30, 3)
    far[4], far[:, 9] = 1e12, 1e-12                  # one point a world away, one at no cost
    even = np.full(30, 1 / 30)
    assert total(far, assignment(far)) / 30 == pytest.approx(ot.emd2(even, even, far.numpy()), rel=1e-9)
    whole = torch.tensor([[3, 1, 2], [1, 2, 5], [9, 4, 1]])
    assert assignment(whole.double()).tolist() == [1, 0, 2]


def test_what_is_the_same_for_a_row_or_a_column_does_not_matter(seed):
    cost = costs(25, seed)
    rows, columns = 50 * Draws(seed).rows("r", 0, (25, 1), dtype=torch.float64), 50 * Draws(seed).rows("c", 0, (1, 25), dtype=torch.float64)
    assert torch.equal(assignment(cost + rows + columns), assignment(cost))
    eps = 0.5 * float(cost.std())
    a, b = (entropic(given, eps, tolerance=1e-8, sweeps=50_000) for given in (cost, cost + rows + columns))
    assert a.converged and b.converged
    torch.testing.assert_close(a.log_plan.exp(), b.log_plan.exp(), rtol=0, atol=1e-7)


def test_the_costs_are_left_as_they_were():
    cost = costs(12, 0)
    kept = cost.clone()
    assignment(cost), entropic(cost, 1.0)
    assert torch.equal(cost, kept)


def test_the_entropic_plan_of_two_points_in_closed_form():
    gap, eps = 0.8, 0.5                              # both diagonals cost 0, both others `gap`: P = sigmoid(gap / eps) / 2 on the diagonal
    made = entropic(torch.tensor([[0.0, gap], [gap, 0.0]], dtype=torch.float64), eps)
    stay = 0.5 / (1 + np.exp(-gap / eps))
    torch.testing.assert_close(made.log_plan.exp(), torch.tensor([[stay, 0.5 - stay], [0.5 - stay, stay]], dtype=torch.float64), rtol=1e-12, atol=0)
    assert made.converged and made.residual <= 1e-2


@pytest.mark.parametrize("eps", [3.0, 0.5, 0.2])
def test_the_entropic_plan_is_pots(eps, seed):
    cost = costs(30, seed)
    cost /= cost.std()
    even = np.full(30, 1 / 30)
    peer = ot.sinkhorn(even, even, cost.numpy(), eps, method="sinkhorn_log", numItermax=5000, stopThr=1e-10)
    made = entropic(cost, eps, tolerance=1e-8, sweeps=20_000)
    assert made.converged and made.residual <= 1e-8
    np.testing.assert_allclose(made.log_plan.exp().numpy(), peer, rtol=0, atol=1e-8)


def test_limits_of_the_entropic_plan(seed):
    cost = costs(20, seed)
    torch.testing.assert_close(entropic(cost, 1e9).log_plan.exp(), torch.full((20, 20), 1 / 400, dtype=torch.float64), rtol=1e-6, atol=0)
    sharp = entropic(cost, 1e-3 * float(cost.std()))
    assert sharp.converged and sharp.iterations < 2000             # falling eps and absorbed scalings: plain sweeps would need millions
    # The entropy of a plan is at most log n, so its cost is within eps log n of the least, and a marginal 1e-2 off adds little here.
    least = total(cost, assignment(cost)) / 20
    assert float((sharp.log_plan.exp() * cost).sum()) == pytest.approx(least, abs=1e-3 * float(cost.std()) * np.log(20) + 1e-2 * least)
    torch.testing.assert_close(sharp.log_plan.logsumexp(0).exp(), torch.full((20,), 1 / 20, dtype=torch.float64), rtol=1e-12, atol=0)


def test_a_plan_that_does_not_converge_says_so():
    made = entropic(costs(40, 1), 1e-5, sweeps=60)
    assert not made.converged and made.residual > 1e-2 and made.iterations >= 60
    assert bool(torch.isfinite(made.log_plan[made.log_plan > -1e300]).all())


@pytest.mark.parametrize(("call", "message"), [
    (lambda: assignment(torch.tensor([[1.0, torch.nan], [0.0, 1.0]])), "cost must be finite"),
    (lambda: entropic(torch.tensor([[1.0, torch.inf], [0.0, 1.0]]), 1.0), "cost must be finite"),
    (lambda: entropic(torch.zeros(2, 2), 0.0), "eps must lie in"),
    (lambda: entropic(torch.zeros(2, 2), 1.0, sweeps=0), "sweeps must be at least 1"),
    (lambda: entropic(torch.zeros(2, 2), 1.0, tolerance=-1.0), "tolerance must lie in"),
])
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_cost_that_is_not_square_is_refused():
    with pytest.raises((TypeError, ValueError)):
        assignment(torch.zeros(2, 3))
