"""Energy distance and MMD against closed forms, brute force, scipy and scikit-learn."""
from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics.pairwise import polynomial_kernel, rbf_kernel

from rheos.core import Draws
from rheos.data import skewed, two_moons
from rheos.metrics import RBF, Polynomial, energy, mmd
from rheos.metrics.kernels import median_distance
from rheos.metrics.pairs import squared_distances

F64 = torch.float64
TILT = torch.tensor([[1.0, 0.3, 0.0], [-0.5, 2.0, 0.1], [0.2, 0.0, 0.4]], dtype=F64)
WIDTHS = RBF((0.5, 2.0))


def rows(seed, n, dim=3, purpose="x"):
    """Skewed rows: cubed normals, tilted and shifted."""
    z = Draws(seed).rows(purpose, 0, (n, dim), dtype=F64)
    return (z + 0.2 * z**3) @ TILT[:dim, :dim] + torch.arange(dim, dtype=F64)


def normal_draws(seed, purpose, n, mean, std):
    return torch.tensor(mean, dtype=F64) + std * Draws.of(seed).rows(purpose, 0, (n, len(mean)), dtype=F64)


def near(values, truth):
    values = torch.stack(values)
    assert abs(values.mean().item() - truth) < 5 * values.std().item() / math.sqrt(len(values))


# -- the laws, in closed form -----------------------------------------------------------------------------------------


def folded(mean, std):
    """E|z|, z normal."""
    return std * math.sqrt(2 / math.pi) * math.exp(-(mean**2) / (2 * std**2)) + mean * (1 - 2 * stats.norm.cdf(-mean / std))


def test_unbiased_energy_between_two_normals_on_the_line(seed):
    draws = Draws(seed)
    values = [energy(normal_draws(draws.child(k), "x", 150, [0.7], 0.5), normal_draws(draws.child(k), "y", 90, [0.0], 1.5), unbiased=True) for k in range(60)]
    near(values, 2 * folded(0.7, math.hypot(0.5, 1.5)) - folded(0.0, 0.5 * math.sqrt(2)) - folded(0.0, 1.5 * math.sqrt(2)))


def test_unbiased_mmd_between_two_normals_in_the_plane(seed):
    draws, h, shift = Draws(seed), 0.8, [0.6, -0.3]
    expected = lambda gap, variance: h**2 / (h**2 + variance) * math.exp(-gap / (2 * (h**2 + variance)))       # E exp(-|z|^2 / 2 h^2), two dimensions
    values = [mmd(normal_draws(draws.child(k), "x", 150, shift, 0.5), normal_draws(draws.child(k), "y", 90, [0.0, 0.0], 1.2), kernel=RBF((h,))) for k in range(60)]
    near(values, expected(0, 0.5) + expected(0, 2 * 1.44) - 2 * expected(0.45, 0.25 + 1.44))


@pytest.mark.parametrize("metric", [partial(energy, unbiased=True), partial(mmd, kernel=WIDTHS), partial(mmd, kernel=Polynomial())])
def test_unbiased_forms_between_samples_of_one_law_are_zero_on_average_and_not_clamped(seed, metric):
    values = [metric(rows(seed, 60, purpose=f"x{k}"), rows(seed, 40, purpose=f"y{k}")) for k in range(60)]
    near(values, 0.0)
    assert sum(v.item() < 0 for v in values) > 10


# -- brute force and peers --------------------------------------------------------------------------------------------


def by_loops(value, x, y, unbiased):
    def mean(a, b, same):
        pairs = [value(a[i], b[j]) for i in range(len(a)) for j in range(len(b)) if not (same and unbiased and i == j)]
        return math.fsum(pairs) / len(pairs)
    return mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("chunk", [1, 40, 1 << 22])
def test_equals_double_loops_whatever_the_chunk(seed, monkeypatch, unbiased, chunk):
    monkeypatch.setattr("rheos.metrics.pairs._CHUNK_NUMBERS", chunk)
    x, y = rows(seed, 11), rows(seed, 7, purpose="y")
    values = {
        1.0: -energy(x, y, unbiased=unbiased), 0.5: -energy(x, y, power=0.5, unbiased=unbiased), 1.6: -energy(x, y, power=1.6, unbiased=unbiased),
    }
    for power, value in values.items():
        assert value.item() == pytest.approx(by_loops(lambda a, b: math.dist(a.tolist(), b.tolist()) ** power, x, y, unbiased), rel=1e-9)
    gauss = lambda a, b: sum(math.exp(-math.dist(a.tolist(), b.tolist()) ** 2 / (2 * h * h)) for h in WIDTHS.bandwidths) / 2
    assert mmd(x, y, kernel=WIDTHS, unbiased=unbiased).item() == pytest.approx(by_loops(gauss, x, y, unbiased), rel=1e-9)


@pytest.mark.parametrize("n, m", [(50, 50), (31, 70)])
def test_energy_on_the_line_is_the_square_of_scipys(seed, n, m):
    x, y = rows(seed, n, 1), rows(seed, m, 1, "y")
    assert energy(x, y).sqrt().item() == pytest.approx(stats.energy_distance(x[:, 0].numpy(), y[:, 0].numpy()), rel=1e-9)


def test_grams_equal_scikit_learns(seed):
    x, y = rows(seed, 13), rows(seed, 9, purpose="y")
    ours = lambda kernel: kernel.on(x, y)(x, y).numpy()
    np.testing.assert_allclose(ours(RBF((0.7,))), rbf_kernel(x.numpy(), y.numpy(), gamma=1 / (2 * 0.49)), rtol=1e-10)
    np.testing.assert_allclose(ours(Polynomial()), polynomial_kernel(x.numpy(), y.numpy(), degree=3, gamma=1 / 3, coef0=1), rtol=1e-12)
    np.testing.assert_allclose(ours(Polynomial(2, 0.3, 0.5)), polynomial_kernel(x.numpy(), y.numpy(), degree=2, gamma=0.3, coef0=0.5), rtol=1e-12)


def test_the_linear_kernel_sees_the_means_alone(seed):
    x, y = rows(seed, 20), rows(seed, 33, purpose="y") + 0.5
    noise = sum(torch.cov(v.mT).trace() / len(v) for v in (x, y))
    gap = (x.mean(0) - y.mean(0)).square().sum()
    assert mmd(x, y, kernel=Polynomial(1, 2.0, 7.0), unbiased=False).item() == pytest.approx(2 * gap.item(), rel=1e-9)
    assert mmd(x, y, kernel=Polynomial(1, 2.0)).item() == pytest.approx(2 * (gap - noise).item(), rel=1e-9)


# -- the bandwidth ----------------------------------------------------------------------------------------------------


def test_the_median_is_that_of_all_pairs_that_differ():
    x, y = torch.tensor([[0.0], [1.0], [1.0]]), torch.tensor([[4.0], [11.0]])
    assert median_distance(x, y).item() == 4.0                      # 1 1 3 3 4 7 10 10 11 and one 0, which does not count
    assert median_distance(x[:2], y).item() == 4.0                  # 1 3 4 7 10 11: the lower of two


def test_the_median_of_many_rows_needs_few_and_no_order(seed):
    x, y = rows(seed, 2500, 2), rows(seed, 1800, 2, "y") * 2
    found = median_distance(x, y)
    assert torch.equal(found, median_distance(y, x[Draws(seed).permutation("order", 0, len(x))]))
    exact = torch.pdist(torch.cat([x, y])).median().item()
    assert found.item() == pytest.approx(exact, rel=0.02)           # 2,000 of 4,300 rows at even ranks


def test_the_default_kernel_is_five_widths_about_the_median_and_a_change_of_units_does_not_matter(seed):
    x, y = rows(seed, 30), rows(seed, 21, purpose="y") + 0.3
    middle = torch.pdist(torch.cat([x, y])).median().item()
    value = mmd(x, y)
    assert value.item() == pytest.approx(mmd(x, y, kernel=RBF(tuple(s * middle for s in (0.25, 0.5, 1.0, 2.0, 4.0)))).item(), rel=1e-9)
    assert mmd(1000 * x - 3, 1000 * y - 3).item() == pytest.approx(value.item(), rel=1e-7)


def test_no_gradient_flows_through_the_bandwidth(seed):
    x, y = rows(seed, 8).requires_grad_(), rows(seed, 6, purpose="y")
    middle = median_distance(x, y).item()
    fixed = RBF(tuple(s * middle for s in (0.25, 0.5, 1.0, 2.0, 4.0)))
    torch.testing.assert_close(torch.autograd.grad(mmd(x, y), x), torch.autograd.grad(mmd(x, y, kernel=fixed), x), rtol=1e-9, atol=1e-12)


# -- invariants -------------------------------------------------------------------------------------------------------

ALL = {"energy": energy, "energy 0.7": partial(energy, power=0.7), "energy unbiased": partial(energy, unbiased=True), "mmd": mmd,
       "mmd widths": partial(mmd, kernel=WIDTHS, unbiased=False), "mmd cubic": partial(mmd, kernel=Polynomial())}


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=15, deadline=None, derandomize=True)
@given(n=st.integers(2, 12), m=st.integers(2, 12), dim=st.integers(1, 3), seed=st.integers(0, 99))
def test_symmetry_order_and_events(name, n, m, dim, seed):
    metric, x, y = ALL[name], rows(seed, n, dim), rows(seed, m, dim, "y")
    value = metric(x, y)
    close = lambda other: torch.testing.assert_close(other, value, rtol=1e-8, atol=1e-9)
    close(metric(y, x))
    close(metric(x.flip(0), y.roll(1, 0)))
    close(metric(x.reshape(n, 1, dim), y.reshape(m, 1, dim)))


def test_energy_does_not_move_with_the_origin_and_scales_with_its_power(seed):
    x, y = rows(seed, 9), rows(seed, 14, purpose="y")
    for power in (0.5, 1.0, 1.5):
        torch.testing.assert_close(energy(3 * x + 50, 3 * y + 50, power=power), 3**power * energy(x, y, power=power), rtol=1e-8, atol=0)


@pytest.mark.parametrize("metric", [energy, partial(mmd, kernel=WIDTHS, unbiased=False)])
def test_biased_forms_are_zero_between_a_set_and_itself_and_blind_to_repetition(seed, metric):
    x, y = rows(seed, 9) + 1e3, rows(seed, 6, purpose="y") + 1e3
    assert abs(metric(x, x.flip(0)).item()) < 1e-9 and metric(x, y).item() > 0.01
    torch.testing.assert_close(metric(x.repeat_interleave(2, 0), y.repeat(3, 1)), metric(x, y), rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("name", ALL)
def test_gradient_equals_finite_differences(seed, name):
    x, y = rows(seed, 5, 2).requires_grad_(), rows(seed, 4, 2, "y").requires_grad_()
    kernel = {"kernel": RBF((0.6, 1.5))} if name == "mmd" else {}        # the median's own derivative is left out on purpose
    assert torch.autograd.gradcheck(lambda a, b: ALL[name](a, b, **kernel), (x, y))
    assert torch.autograd.gradcheck(lambda a: ALL[name](a, y.detach(), features=lambda v: torch.tanh(v @ TILT[:2]), **kernel), (x,))


@pytest.mark.parametrize("name", ALL)
def test_gradients_are_finite_where_rows_coincide(name):
    x = torch.tensor([[0.0, 1.0], [2.0, 0.5], [2.0, 0.5]], requires_grad=True)
    ALL[name](x, x.detach()[:2]).backward()
    assert torch.isfinite(x.grad).all()
    assert ALL[name](x, x.detach()[:2]).dtype == torch.float32 and ALL[name](x, x.double()).dtype == F64


def test_squared_distances_of_near_and_far_rows(seed):
    x, far = rows(seed, 12), rows(seed, 9, purpose="y") + 1e6
    exact = (far[:, None] - far).square().sum(2)
    torch.testing.assert_close(squared_distances(far, far), exact, rtol=1e-8, atol=0)
    assert torch.equal(squared_distances(x, x).diagonal(), torch.zeros(12, dtype=F64))
    assert squared_distances(x.float(), x.float()).dtype == F64


@pytest.mark.parametrize("name", ALL)
def test_not_a_number_comes_through(name):
    x = torch.tensor([[0.0, 1.0], [math.nan, 0.0], [2.0, 3.0]])
    assert math.isnan(ALL[name](x, torch.ones(4, 2)).item())


def test_both_tell_a_wrong_law_from_the_right_one(seed):
    n = 600
    truth, other, wrong = skewed().sample(n, seed=seed), skewed().sample(n, seed=seed + 1000), two_moons().sample(n, seed=seed)
    for metric in ALL.values():
        assert metric(truth, wrong).item() > 5 * metric(truth, other).item()


X = torch.arange(12.0).reshape(4, 3)


@pytest.mark.parametrize("call, message", [
    (lambda: energy(X, torch.ones(4, 2)), r"x and y must have the same event shape, got \(3,\) and \(2,\)"),
    (lambda: energy(X, X[:0]), "y must have at least one row"),
    (lambda: energy(X, X[:1], unbiased=True), "y must have at least 2 rows, got 1"),
    (lambda: mmd(X[:1], X), "x must have at least 2 rows, got 1"),
    (lambda: energy(X, X, power=2.0), r"power must lie in \(0, 2\), got 2.0"),
    (lambda: mmd(0 * X, 0 * X), "bandwidths must be given when no two rows"),
    (lambda: RBF(()), "bandwidths must be a tuple of at least one number"),
    (lambda: RBF((1.0, 0.0)), "bandwidths must lie in"),
    (lambda: Polynomial(0), "degree must be at least 1, got 0"),
    (lambda: Polynomial(gamma=-1.0), "gamma must lie in"),
    (lambda: Polynomial(offset=-1.0), "offset must lie in"),
    (lambda: energy(X, X, features=lambda v: v[:1]), "features must return one row for each of theirs, got 1 for 4 rows of x"),
    (lambda: mmd(X, X[:2], features=lambda v: v[:, : len(v)]), r"features must give both sets the same shape, got \(3,\) and \(2,\)"),
])
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_wrong_types_are_refused():
    for call in (lambda: mmd(X, X, kernel="rbf"), lambda: energy(X, X, unbiased=1), lambda: energy(X.long(), X), lambda: energy(X, X, features=lambda v: v.long())):
        with pytest.raises(TypeError):
            call()
