"""Sliced W2 and Fréchet against closed forms, POT and scipy."""
from __future__ import annotations

import math
from functools import partial

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import sqrtm

from rheos.core import Draws
from rheos.data import skewed, two_moons
from rheos.metrics import frechet, sliced_w2
from rheos.metrics.sets import unit_directions

F64 = torch.float64
TILT = torch.tensor([[1.0, 0.3, 0.0], [-0.5, 2.0, 0.1], [0.2, 0.0, 0.4]], dtype=F64)


def rows(seed, n, dim=3, purpose="x"):
    """Skewed rows: cubed normals, tilted and shifted."""
    z = Draws(seed).rows(purpose, 0, (n, dim), dtype=F64)
    return (z + 0.2 * z**3) @ TILT[:dim, :dim] + torch.arange(dim, dtype=F64)


# -- sliced W2 ---------------------------------------------------------------------------------------------------------


def test_one_dimension_is_w2_by_quantiles_of_gaussians():
    q = (torch.arange(20_000, dtype=F64) + 0.5) / 20_000
    z = torch.special.ndtri(q)[:, None]
    # W2 between N(m1, s1^2) and N(m2, s2^2): sqrt((m1 - m2)^2 + (s1 - s2)^2); the tails that the quantiles cut off are under 1e-3
    assert sliced_w2(1 + 0.5 * z, -2 + 3 * z, directions=2).item() == pytest.approx(math.sqrt(9 + 6.25), abs=1e-3)


@pytest.mark.parametrize("n, m", [(3, 3), (2, 5), (7, 4), (1, 6), (6, 4)])
def test_one_dimension_equals_brute_force_optimal_transport(seed, n, m):
    x, y = rows(seed, n, 1), rows(seed, m, 1, "y")
    cost = (x - y.T).square().numpy()
    exact = math.sqrt(ot.emd2(np.full(n, 1 / n), np.full(m, 1 / m), cost))
    assert sliced_w2(x, y, directions=4).item() == pytest.approx(exact, rel=1e-10)


@pytest.mark.parametrize("n, m", [(50, 50), (31, 70)])
def test_equals_pot_on_the_same_directions(seed, n, m):
    x, y = rows(seed, n), rows(seed, m, purpose="y")
    u = unit_directions(40, 3, seed=5)
    peer = ot.sliced_wasserstein_distance(x.numpy(), y.numpy(), projections=u.T.numpy(), p=2)
    assert sliced_w2(x, y, directions=40, seed=5).item() == pytest.approx(float(peer), rel=1e-9)


def test_directions_are_uniform_unit_vectors(seed):
    u = unit_directions(20_000, 3, seed=seed)
    torch.testing.assert_close(u.norm(dim=1), torch.ones(20_000, dtype=F64))
    # E[u u^T] = I / 3; Var u_i^2 = 4 / 45 and Var u_i u_j = 1 / 15 on the sphere
    second = u.mT @ u / 20_000 - torch.eye(3, dtype=F64) / 3
    assert second.abs().max().item() < 5 * math.sqrt(4 / 45 / 20_000) and u.mean(0).abs().max().item() < 5 * math.sqrt(1 / 3 / 20_000)
    assert torch.equal(u[:7], unit_directions(7, 3, seed=seed))


def test_a_shift_moves_it_by_the_shift_along_the_directions(seed):
    x, shift = rows(seed, 20), torch.tensor([3.0, -1.0, 0.5], dtype=F64)
    expected = (unit_directions(200, 3) @ shift).square().mean().sqrt()
    torch.testing.assert_close(sliced_w2(x, x + shift), expected, rtol=1e-10, atol=0)
    assert expected.item() == pytest.approx(shift.norm().item() / math.sqrt(3), rel=0.3)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(n=st.integers(1, 12), m=st.integers(1, 12), dim=st.integers(1, 3), scale=st.floats(0.1, 10.0), seed=st.integers(0, 99))
def test_symmetry_scaling_order_and_repetition(n, m, dim, scale, seed):
    x, y = rows(seed, n, dim), rows(seed, m, dim, "y")
    value = sliced_w2(x, y, directions=6)
    close = lambda other: torch.testing.assert_close(other, value, rtol=1e-9, atol=1e-9)
    close(sliced_w2(y, x, directions=6))
    close(sliced_w2(x.flip(0), y, directions=6))
    close(sliced_w2(scale * x + 3, scale * y + 3, directions=6) / scale)
    close(sliced_w2(x.repeat_interleave(3, 0), y.repeat(2, 1), directions=6))
    assert sliced_w2(x, x.flip(0), directions=6).item() < 1e-12


def test_events_are_flattened_and_float32_agrees(seed):
    x, y = rows(seed, 30), rows(seed, 40, purpose="y")
    value = sliced_w2(x, y)
    torch.testing.assert_close(sliced_w2(x.reshape(30, 1, 3, 1), y.reshape(40, 1, 3, 1)), value)
    torch.testing.assert_close(sliced_w2(x.float(), y.float()), value.float(), rtol=1e-5, atol=0)
    assert sliced_w2(x.float(), y).dtype == F64
    assert sliced_w2(x, y, seed=1).item() != value.item()


@pytest.mark.parametrize("n, m", [(5, 5), (4, 6)])
def test_gradient_equals_finite_differences(seed, n, m):
    x, y = rows(seed, n, 2).requires_grad_(), rows(seed, m, 2, "y").requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: sliced_w2(a, b, directions=5), (x, y))


def test_sliced_distances_of_features_and_their_gradient(seed):
    x, y = rows(seed, 8, 2), rows(seed, 5, 2, "y")
    features = lambda v: torch.tanh(v @ TILT[:2])
    torch.testing.assert_close(sliced_w2(x, y, features=features), sliced_w2(features(x), features(y)))
    assert torch.autograd.gradcheck(lambda a: sliced_w2(a, y, directions=5, features=features), (x.requires_grad_(),))


def test_gradient_at_equality_is_zero(seed):
    x = rows(seed, 6).requires_grad_()
    sliced_w2(x, x.detach()).backward()
    assert torch.equal(x.grad, torch.zeros_like(x))


def test_not_a_number_comes_through():
    assert math.isnan(sliced_w2(torch.tensor([[0.0], [math.nan]]), torch.tensor([[0.0], [1.0]])).item())


# -- Fréchet -----------------------------------------------------------------------------------------------------------


def test_frechet_between_axis_aligned_fits_in_closed_form():
    z = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]], dtype=F64) * math.sqrt(3 / 4)     # unit covariance, divisor n - 1
    a, b = torch.tensor([2.0, 0.5], dtype=F64), torch.tensor([0.25, 3.0], dtype=F64)
    shift = torch.tensor([1.0, -4.0], dtype=F64)
    assert frechet(a * z, b * z + shift).item() == pytest.approx(17 + (1.75**2 + 2.5**2), rel=1e-12)


@pytest.mark.parametrize("n, m", [(40, 60), (500, 30)])
def test_frechet_equals_the_formula_with_scipys_root(seed, n, m):
    x, y = rows(seed, n), 0.5 * rows(seed, m, purpose="y").flip(1) + 1
    c1, c2 = np.cov(x.numpy().T), np.cov(y.numpy().T)
    gap = (x.mean(0) - y.mean(0)).square().sum().item()
    expected = gap + np.trace(c1 + c2 - 2 * sqrtm(c1 @ c2).real)
    assert frechet(x, y).item() == pytest.approx(expected, rel=1e-9)


def test_frechet_of_equal_sets_is_zero_even_with_fewer_rows_than_dimensions(seed):
    x = Draws(seed).rows("x", 0, (9, 40), dtype=F64)
    assert frechet(x, x.flip(0)).item() < 1e-10
    assert frechet(x, x + 1).item() == pytest.approx(40, rel=1e-10)


def test_frechet_turns_with_the_axes_and_is_symmetric(seed):
    x, y = rows(seed, 50), rows(seed, 33, purpose="y") * 2
    turn = torch.linalg.qr(TILT).Q
    value = frechet(x, y)
    torch.testing.assert_close(frechet(y, x), value, rtol=1e-10, atol=0)
    torch.testing.assert_close(frechet(x @ turn + 5, y @ turn + 5), value, rtol=1e-9, atol=0)
    torch.testing.assert_close(frechet(3 * x, 3 * y), 9 * value, rtol=1e-10, atol=0)


def test_features_are_applied_to_both_sets_in_batches(seed, monkeypatch):
    monkeypatch.setattr("rheos.metrics.pairs._BATCH", 16)
    x, y, seen = rows(seed, 40), rows(seed, 33, purpose="y"), []
    def features(part):
        seen.append(len(part))
        return torch.tanh(part)[:, :2]
    torch.testing.assert_close(frechet(x, y, features=features), frechet(torch.tanh(x)[:, :2], torch.tanh(y)[:, :2]))
    assert seen == [16, 16, 8, 16, 16, 1]


def test_both_tell_a_wrong_law_from_the_right_one(seed):
    n = 20_000
    truth, other, wrong = skewed().sample(n, seed=seed), skewed().sample(n, seed=seed + 1000), two_moons().sample(n, seed=seed)
    for metric in (partial(sliced_w2, directions=20), frechet):
        assert metric(truth, wrong).item() > 5 * metric(truth, other).item()


X, NAN = torch.ones(4, 3), torch.tensor([[0.0], [math.nan]])


@pytest.mark.parametrize("call, message", [
    (lambda: sliced_w2(X, torch.ones(4, 2)), r"same event shape, got \(3,\) and \(2,\)"),
    (lambda: frechet(X, torch.ones(4, 3, 1)), "same event shape"),
    (lambda: sliced_w2(X[:0], X), "x must have at least one row"),
    (lambda: sliced_w2(X, X[:0]), "y must have at least one row"),
    (lambda: sliced_w2(X, X, directions=0), "directions must be at least 1"),
    (lambda: frechet(X, X[:1]), "y must have at least 2 rows"),
    (lambda: frechet(NAN, NAN), r"x must be finite, got 1 of 2 entries that are not, the first at \(1, 0\)"),
    (lambda: frechet(X, X, features=lambda v: v / 0 * 0), "features of x must be finite"),
])
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_numbers_are_events_too():
    """Plain numbers: the distance of two normal fits is the gap of means squared plus that of deviations squared."""
    x, y = torch.tensor([0.0, 1.0, 2.0, 5.0]), torch.tensor([3.0, 3.5, 9.0])
    torch.testing.assert_close(frechet(x, y), (x.mean() - y.mean()).square().double() + (x.double().std() - y.double().std()).square(), rtol=1e-6, atol=1e-6)
