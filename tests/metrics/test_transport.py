"""Exact transport and Sinkhorn divergences against scipy, POT, brute force and their limits."""
from __future__ import annotations

import itertools
import math

import numpy as np
import ot
import pytest
import torch
from scipy import stats

from rheos.core import Draws
from rheos.data import load, skewed, two_moons
from rheos.metrics import energy, sinkhorn, sliced_w2, wasserstein
from rheos.metrics.transport import potentials, soft_minimum, symmetric_potential

F64 = torch.float64
TILT = torch.tensor([[1.0, 0.3, 0.0], [-0.5, 2.0, 0.1], [0.2, 0.0, 0.4]], dtype=F64)


def rows(seed, n, dim=3, purpose="x"):
    """Skewed rows: cubed normals, tilted and shifted."""
    z = Draws(seed).rows(purpose, 0, (n, dim), dtype=F64)
    return (z + 0.2 * z**3) @ TILT[:dim, :dim] + torch.arange(dim, dtype=F64)


def cost(x, y, power):
    return (x[:, None] - y).square().sum(2).pow(power / 2)


# -- exact ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n, m", [(50, 50), (31, 70), (1, 9)])
def test_the_line_equals_scipy_and_the_quantiles(seed, n, m):
    x, y = rows(seed, n, 1), rows(seed, m, 1, "y")
    assert wasserstein(x, y, power=1.0).item() == pytest.approx(stats.wasserstein_distance(x[:, 0].numpy(), y[:, 0].numpy()), rel=1e-9)
    torch.testing.assert_close(wasserstein(x, y), sliced_w2(x, y, directions=1), rtol=1e-9, atol=0)


@pytest.mark.parametrize("power", [1.0, 2.0, 3.5])
def test_equal_sizes_equal_the_best_of_all_assignments(seed, power):
    x, y = rows(seed, 5), rows(seed, 5, purpose="y")
    table = cost(x, y, power)
    best = min(sum(table[i, j].item() for i, j in enumerate(order)) for order in itertools.permutations(range(5)))
    assert wasserstein(x, y, power=power).item() == pytest.approx((best / 5) ** (1 / power), rel=1e-9)


@pytest.mark.parametrize("n, m", [(40, 40), (31, 70)])
def test_equals_pot_and_repetition_does_not_matter(seed, n, m):
    x, y = rows(seed, n), rows(seed, m, purpose="y")
    expected = math.sqrt(ot.emd2(np.full(n, 1 / n), np.full(m, 1 / m), cost(x, y, 2.0).numpy()))
    assert wasserstein(x, y).item() == pytest.approx(expected, rel=1e-9)
    assert wasserstein(x.repeat_interleave(2, 0), y.repeat(3, 1)).item() == pytest.approx(expected, rel=1e-9)


def test_exact_invariants(seed):
    x, y, shift = rows(seed, 30), rows(seed, 22, purpose="y"), torch.tensor([30.0, -7.0, 2.0], dtype=F64)
    value = wasserstein(x, y)
    torch.testing.assert_close(wasserstein(y, x), value, rtol=1e-9, atol=0)
    torch.testing.assert_close(wasserstein(x.flip(0), y.roll(3, 0)), value, rtol=1e-9, atol=0)
    torch.testing.assert_close(wasserstein(1e-6 * x, 1e-6 * y), 1e-6 * value, rtol=1e-7, atol=0)
    torch.testing.assert_close(wasserstein(x, x.flip(0) + shift), shift.norm(), rtol=1e-8, atol=0)
    assert wasserstein(x, x.flip(0)).item() == 0.0
    torch.testing.assert_close(wasserstein(x, y, features=lambda v: v[:, :2]), wasserstein(x[:, :2], y[:, :2]), rtol=1e-9, atol=0)
    assert wasserstein(x.float(), y.float()).dtype == torch.float32 and not wasserstein(x.requires_grad_(), y).requires_grad


# -- the divergence's value -------------------------------------------------------------------------------------------


def penalised(x, y, eps, power):
    """OT_eps by POT's plan: <P, C> + eps KL(P | uniform)."""
    n, m = len(x), len(y)
    table = cost(x, y, power).numpy()
    plan = ot.sinkhorn(np.full(n, 1 / n), np.full(m, 1 / m), table, eps, method="sinkhorn_log", stopThr=1e-12, numItermax=3000, warn=False)
    return float((plan * table).sum() + eps * (plan * np.log(np.maximum(plan * n * m, 1e-300))).sum())


@pytest.mark.parametrize("power, blur", [(2.0, 1.0), (2.0, 4.0), (1.0, 0.7), (1.5, 1.5)])
def test_equals_the_definition_with_pots_plans(seed, power, blur):
    x, y = 0.4 * rows(seed, 13), 0.4 * rows(seed, 9, purpose="y") + 0.2        # so near that POT converges too
    parts = [penalised(a, b, power * blur**power, power) for a, b in ((x, y), (x, x), (y, y))]
    assert sinkhorn(x, y, blur=blur, power=power, tolerance=1e-10).item() == pytest.approx(parts[0] - (parts[1] + parts[2]) / 2, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("power", [1.0, 1.5, 2.0])
def test_goes_to_the_exact_distance_as_the_blur_goes_to_zero(seed, power):
    x, y = rows(seed, 12), rows(seed, 8, purpose="y")
    exact = wasserstein(x, y, power=power).item() ** power
    # the penalty of a plan lies between 0 and eps log(n m): the three together move the value by at most 1.5 eps log(96)
    for blur in (0.2, 0.05):
        assert abs(sinkhorn(x, y, blur=blur, power=power).item() - exact) <= 1.5 * power * blur**power * math.log(96) + 1e-3 * exact
    assert sinkhorn(x, y, blur=0.05, power=power).item() == pytest.approx(exact, rel=0.05)


def test_goes_to_the_mean_shift_and_to_half_the_energy_as_the_blur_grows(seed):
    x, y = rows(seed, 12), rows(seed, 8, purpose="y") + 2
    assert sinkhorn(x, y, blur=1e4).item() == pytest.approx((x.mean(0) - y.mean(0)).square().sum().item(), rel=1e-4)
    assert sinkhorn(x, y, blur=1e5, power=1.0).item() == pytest.approx(energy(x, y).item() / 2, rel=1e-4)


@pytest.mark.parametrize("blur", [0.3, 1.0, 5.0])
def test_a_shift_adds_its_square_and_the_gap_of_means(seed, blur):
    x, y, shift = rows(seed, 15), rows(seed, 11, purpose="y"), torch.tensor([3.0, -1.0, 0.5], dtype=F64)
    settings = dict(blur=blur, tolerance=1e-9)
    moved = sinkhorn(x, y + shift, **settings) - sinkhorn(x, y, **settings)
    expected = shift.square().sum() + 2 * (y.mean(0) - x.mean(0)) @ shift
    torch.testing.assert_close(moved, expected, rtol=1e-6, atol=1e-6)
    assert sinkhorn(x, x.flip(0) + shift, **settings).item() == pytest.approx(10.25, rel=1e-8)


def test_invariants(seed):
    x, y = rows(seed, 15), rows(seed, 11, purpose="y")
    value = sinkhorn(x, y, blur=0.5, tolerance=1e-9)
    close = lambda other: torch.testing.assert_close(other, value, rtol=1e-6, atol=1e-8)
    close(sinkhorn(y, x, blur=0.5, tolerance=1e-9))
    close(sinkhorn(x.flip(0), y.roll(4, 0), blur=0.5, tolerance=1e-9))
    close(sinkhorn(10 * x + 100, 10 * y + 100, blur=5.0, tolerance=1e-9) / 100)
    close(sinkhorn(x.repeat_interleave(2, 0), y.repeat(3, 1), blur=0.5, tolerance=1e-9))
    close(sinkhorn(x.reshape(15, 3, 1), y.reshape(11, 3, 1), blur=0.5, tolerance=1e-9))
    torch.testing.assert_close(sinkhorn(x.float(), y.float(), blur=0.5), value.float(), rtol=1e-4, atol=0)
    assert abs(sinkhorn(x, x.flip(0), blur=0.5, tolerance=1e-9).item()) < 1e-7 and value.item() > 0
    assert sinkhorn(x, x[:1].expand(4, 3), blur=0.5).item() > 0 and sinkhorn(x[:1], x[:1].expand(4, 3)).item() == 0.0


def test_the_error_of_the_value_is_far_below_the_tolerance(seed):
    x, y = two_moons().sample(150, seed=seed), skewed().sample(120, seed=seed)
    exact = sinkhorn(x, y, blur=0.1, tolerance=1e-10).item()
    assert sinkhorn(x, y, blur=0.1).item() == pytest.approx(exact, rel=1e-5)


# -- potentials -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blur, chunk", [(0.03, 1 << 22), (0.2, 90), (2.0, 1)])
def test_plans_have_the_marginals_that_the_tolerance_promises(seed, monkeypatch, blur, chunk):
    monkeypatch.setattr("rheos.metrics.pairs._CHUNK_NUMBERS", chunk)
    x, y, eps = two_moons().sample(60, seed=seed), skewed().sample(41, seed=seed), 2 * blur**2
    table = cost(x, y, 2.0)
    f, g = potentials(table, eps, 1e-6, 10_000)
    plan = torch.exp((f[:, None] + g - table) / eps) / table.numel()
    torch.testing.assert_close(plan.sum(1), torch.full_like(f, 1 / 60), rtol=1e-9, atol=0)
    assert (plan.sum(0) - 1 / 41).abs().sum().item() <= 1.001e-6
    own = cost(x, x, 2.0)
    f = symmetric_potential(own, eps, 1e-8, 1000)
    torch.testing.assert_close(f, soft_minimum(own, f, eps), rtol=0, atol=1e-6 * eps)


def test_costs_that_overflow_the_scaling_vectors_do_no_harm():
    x = torch.tensor([[0.0], [1.0], [1000.0]], dtype=F64)
    y = torch.tensor([[0.0], [999.0]], dtype=F64)
    exact = wasserstein(x, y).item() ** 2
    assert sinkhorn(x, y, blur=1.0).item() == pytest.approx(exact, rel=1e-4)


# -- gradients --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("power", [1.0, 1.5, 2.0])
@pytest.mark.parametrize("blur", [0.4, 3.0])
def test_gradient_equals_finite_differences(seed, power, blur):
    x, y = rows(seed, 5, 2).requires_grad_(), (rows(seed, 4, 2, "y") + 0.3).requires_grad_()
    loss = lambda a, b, **kw: sinkhorn(a, b, blur=blur, power=power, tolerance=1e-12, **kw)
    assert torch.autograd.gradcheck(loss, (x, y), atol=1e-5, rtol=1e-4)
    assert torch.autograd.gradcheck(lambda a: loss(a, y.detach(), features=lambda v: torch.tanh(v @ TILT[:2])), (x,), atol=1e-5, rtol=1e-4)


def test_the_gradient_of_a_shifted_copy_points_along_the_shift_and_descent_recovers_the_data(seed):
    y = rows(seed, 14, 2)
    x = (y.flip(0) + torch.tensor([3.0, -1.0], dtype=F64)).requires_grad_()
    (gradient,) = torch.autograd.grad(sinkhorn(x, y, blur=0.5, tolerance=1e-10), x)
    torch.testing.assert_close(gradient.sum(0), torch.tensor([6.0, -2.0], dtype=F64), rtol=1e-6, atol=1e-6)
    moved = (x - 14 / 2 * gradient).detach()                        # one full step of the quadratic cost
    assert sinkhorn(moved, y, blur=0.5).item() < 0.02 * sinkhorn(x.detach(), y, blur=0.5).item()


def test_gradients_are_finite_at_equality_and_second_ones_are_refused(seed):
    x = rows(seed, 6).requires_grad_()
    for power in (1.0, 2.0):
        (gradient,) = torch.autograd.grad(sinkhorn(x, x.detach(), blur=0.5, power=power, tolerance=1e-9), x, create_graph=True)
        assert gradient.abs().max().item() < 1e-6
        with pytest.raises(RuntimeError, match="differentiated once only"):
            gradient.sum().backward()


# -- peers, data, refusals --------------------------------------------------------------------------------------------


def test_digits_at_a_blur_below_their_neighbours_distance(seed):
    data = load("digits")
    x, y = data.x[:200], data.held_out.x[:150]
    exact = wasserstein(x, y).item() ** 2
    parts = [wasserstein(x, x).item(), wasserstein(y, y).item()]
    assert parts == [0.0, 0.0] and sinkhorn(x, y, blur=0.2).item() == pytest.approx(exact, rel=0.1)


def test_what_does_not_converge_says_so(seed):
    x, y = rows(seed, 40), rows(seed, 30, purpose="y")
    with pytest.raises(RuntimeError, match=r"sinkhorn did not converge: .* more than tolerance=1e-06, after max_iterations=40 at eps = 0.0002; raise blur"):
        sinkhorn(x, y, blur=0.01, tolerance=1e-6, max_iterations=40)


X, NAN = torch.ones(4, 3), torch.tensor([[0.0], [math.nan]])


@pytest.mark.parametrize("call, message", [
    (lambda: sinkhorn(X, torch.ones(4, 2)), r"same event shape, got \(3,\) and \(2,\)"),
    (lambda: wasserstein(X, torch.ones(4, 3, 1)), "same event shape"),
    (lambda: wasserstein(X[:0], X), "x must have at least one row"),
    (lambda: sinkhorn(X, X[:0]), "y must have at least one row"),
    (lambda: wasserstein(NAN, NAN), r"x must be finite, got 1 of 2 entries that are not, the first at \(1, 0\)"),
    (lambda: sinkhorn(torch.ones(2, 1), NAN), "y must be finite"),
    (lambda: sinkhorn(X, X, features=lambda v: v / 0 * 0), "features of x must be finite"),
    (lambda: sinkhorn(X, X, blur=0.0), "blur must lie in"),
    (lambda: sinkhorn(X, X, tolerance=0.0), "tolerance must lie in"),
    (lambda: sinkhorn(X, X, power=2.5), r"power must lie in \[1, 2\], got 2.5"),
    (lambda: sinkhorn(X, X, max_iterations=0), "max_iterations must be at least 1"),
    (lambda: wasserstein(X, X, power=0.5), "power must lie in"),
])
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
