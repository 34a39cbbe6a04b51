"""GaussianMixture against scipy's densities, sample moments and its own derived laws."""
from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from rheos.core import Draws
from rheos.data import GaussianMixture, load, skewed

F64 = torch.float64
MEANS = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]], dtype=F64)
WEIGHTS = torch.tensor([0.3, 0.7], dtype=F64)
COVARIANCES = {
    "one variance": torch.tensor([0.5, 2.0], dtype=F64),
    "diagonal": torch.tensor([[0.5, 1.0, 2.0], [3.0, 0.2, 0.7]], dtype=F64),
    "full": torch.tensor([[[1.0, 0.4, -0.2], [0.4, 0.8, 0.1], [-0.2, 0.1, 0.5]], [[2.0, -0.6, 0.3], [-0.6, 0.7, 0.0], [0.3, 0.0, 0.4]]], dtype=F64),
}


def dense(covariance, k):
    if covariance.ndim == 1:
        return covariance[k] * torch.eye(3, dtype=F64)
    return torch.diag(covariance[k]) if covariance.ndim == 2 else covariance[k]


@pytest.fixture(params=COVARIANCES)
def mixture(request):
    return GaussianMixture(WEIGHTS, MEANS, COVARIANCES[request.param], torch.tensor([4, 2]))


def density(mixture, x):
    """Peer: scipy's multivariate normal, summed over the components."""
    parts = [float(w) * multivariate_normal(m.numpy(), dense(mixture.covariance, k).numpy()).pdf(x.numpy())
             for k, (w, m) in enumerate(zip(mixture.weights, mixture.means, strict=True))]
    return torch.from_numpy(np.log(sum(parts)))


def test_log_prob_equals_scipys(mixture, seed):
    x = 2 * Draws(seed).rows("x", 0, (17, 3), dtype=F64)
    torch.testing.assert_close(mixture.log_prob(x), density(mixture, x), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(mixture.to(torch.float32).log_prob(x.float()), density(mixture, x).float(), rtol=1e-5, atol=1e-4)


def test_log_prob_in_pieces_is_log_prob_whole(mixture, monkeypatch):
    x = Draws(1).rows("x", 0, (23, 3), dtype=F64)
    whole = mixture.log_prob(x)
    monkeypatch.setattr("rheos.data.mixtures._CHUNK_NUMBERS", 30)
    torch.testing.assert_close(mixture.log_prob(x), whole, rtol=1e-12, atol=1e-12)
    assert mixture.log_prob(x[:0]).tolist() == []


def test_far_away_the_density_stays_finite(mixture):
    assert mixture.log_prob(torch.full((1, 3), 1e3, dtype=F64)).item() < -1e4


def test_eigen_rebuilds_the_covariance(mixture):
    values, vectors = mixture.eigen()
    for k in range(2):
        axes = torch.eye(3, dtype=F64) if vectors is None else vectors[k]
        torch.testing.assert_close(axes @ torch.diag(values[k]) @ axes.mT, dense(mixture.covariance, k), rtol=1e-12, atol=1e-12)
    assert (vectors is None) == (mixture.covariance.ndim < 3)


def test_overall_moments_in_closed_form(mixture):
    mean = 0.3 * MEANS[0] + 0.7 * MEANS[1]
    gap = MEANS[0] - MEANS[1]
    spread = 0.3 * dense(mixture.covariance, 0) + 0.7 * dense(mixture.covariance, 1) + 0.21 * torch.outer(gap, gap)
    torch.testing.assert_close(mixture.mean(), mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(mixture.covariance_matrix(), spread, rtol=1e-12, atol=1e-12)


def test_samples_have_each_components_moments(mixture, seed):
    n = 40_000
    x, y = mixture.sample_with_labels(n, seed=seed)
    assert torch.equal(x, mixture.sample(n, seed=seed))
    for k, label in enumerate((4, 2)):
        rows, w = x[y == label], float(WEIGHTS[k])
        assert abs(len(rows) / n - w) < 5 * math.sqrt(w * (1 - w) / n)
        c = dense(mixture.covariance, k)
        assert bool(((rows.mean(0) - MEANS[k]).abs() < 5 * (c.diagonal() / len(rows)).sqrt()).all())
        # variance of a sample covariance entry of a Gaussian: (c_ii c_jj + c_ij^2) / n
        error = ((torch.outer(c.diagonal(), c.diagonal()) + c.square()) / len(rows)).sqrt()
        assert bool(((torch.cov(rows.mT) - c).abs() < 5 * error).all())


def test_a_row_does_not_depend_on_the_rows_around_it(mixture, seed):
    whole, part = mixture.sample(50, seed=seed), mixture.sample(20, seed=seed, first=13)
    if mixture.covariance.ndim < 3:
        assert torch.equal(whole[13:33], part)
    torch.testing.assert_close(whole[13:33], part, rtol=1e-12, atol=1e-12)
    assert not torch.equal(whole, mixture.sample(50, seed=seed + 1))
    assert torch.equal(whole, mixture.sample(50, seed=Draws(seed)))


def test_given_a_class(mixture, seed):
    x = Draws(seed).rows("x", 0, (5, 3), dtype=F64)
    part = mixture.given(2)
    expected = multivariate_normal(MEANS[1].numpy(), dense(mixture.covariance, 1).numpy()).logpdf(x.numpy())
    torch.testing.assert_close(part.log_prob(x), torch.from_numpy(expected), rtol=1e-10, atol=1e-10)
    target = skewed()
    x = x[:, :2]
    joined = torch.logaddexp(target.given(0).log_prob(x) + math.log(0.55), target.given(1).log_prob(x) + math.log(0.45))
    torch.testing.assert_close(joined, target.log_prob(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("b, c", [(0.6, 0.8), (-1.5, 0.25), (0.0, 2.0), (3.0, 0.0)])
def test_scaled_has_the_moments_of_bx_plus_cz(mixture, b, c):
    law = mixture.scaled(b, c)
    torch.testing.assert_close(law.mean(), b * mixture.mean(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(law.covariance_matrix(), b**2 * mixture.covariance_matrix() + c**2 * torch.eye(3, dtype=F64), rtol=1e-12, atol=1e-11)
    assert torch.equal(law.labels, mixture.labels) and torch.equal(law.weights, mixture.weights)


def test_scaled_without_noise_changes_variables(mixture, seed):
    x = Draws(seed).rows("x", 0, (5, 3), dtype=F64)
    torch.testing.assert_close(mixture.scaled(-2.0).log_prob(-2 * x), mixture.log_prob(x) - 3 * math.log(2), rtol=1e-10, atol=1e-10)


def test_events_of_any_shape_are_flattened_in_order(seed):
    flat = GaussianMixture(WEIGHTS, torch.arange(12.0, dtype=F64).reshape(2, 6), torch.arange(1.0, 13.0, dtype=F64).reshape(2, 6))
    image = GaussianMixture(flat.weights, flat.means.reshape(2, 1, 2, 3), flat.covariance)
    x = flat.sample(7, seed=seed)
    assert torch.equal(image.sample(7, seed=seed), x.reshape(7, 1, 2, 3))
    torch.testing.assert_close(image.log_prob(x.reshape(7, 1, 2, 3)), flat.log_prob(x), rtol=1e-12, atol=1e-12)
    assert torch.equal(image.mean(), flat.mean().reshape(1, 2, 3)) and (image.dim, image.event, image.components) == (6, (1, 2, 3), 2)


def test_fit_is_the_maximum_likelihood_of_each_class():
    data = load("digits")
    target = GaussianMixture.fit(data.x, data.y, 0.1)
    for label in (3, 8):
        rows = data.x[data.y == label].flatten(1).double()
        k = target.labels.tolist().index(label)
        torch.testing.assert_close(target.means[k].flatten(), rows.mean(0), rtol=1e-12, atol=1e-12)
        expected = torch.from_numpy(np.cov(rows.numpy().T, bias=True)) + 0.01 * torch.eye(64, dtype=F64)
        torch.testing.assert_close(target.covariance[k], expected, rtol=1e-10, atol=1e-12)
        assert float(target.weights[k]) == pytest.approx(len(rows) / len(data), abs=1e-15)
    whole = GaussianMixture.fit(data.x)
    torch.testing.assert_close(whole.covariance[0], GaussianMixture.fit(data.x, data.y).covariance_matrix(), rtol=1e-9, atol=1e-12)
    assert whole.labels is None


def test_points_are_the_empirical_law(seed):
    x, y = torch.tensor([[0.0, 1.0], [2.0, -3.0], [5.0, 0.5]]), torch.tensor([1, 0, 1])
    law = GaussianMixture.points(x, y)
    drawn, labels = law.sample_with_labels(2000, seed=seed)
    for row, label in zip(x.double(), y, strict=True):
        hit = (drawn == row).all(1)
        assert abs(int(hit.sum()) / 2000 - 1 / 3) < 5 * math.sqrt(2 / 9 / 2000) and bool((labels[hit] == label).all())
    assert set(map(tuple, drawn.tolist())) <= set(map(tuple, x.tolist()))
    one = multivariate_normal([5.0, 0.5], 0.04 * np.eye(2)).logpdf([5.1, 0.3]) - math.log(3)
    assert GaussianMixture.points(x, y, std=0.2).log_prob(torch.tensor([[5.1, 0.3]], dtype=F64)).item() == pytest.approx(one, abs=1e-7)
    with pytest.raises(ValueError, match="component 0 has a variance of 0"):
        law.log_prob(x.double())


def test_a_singular_covariance_is_sampled_on_its_plane_and_has_no_density(seed):
    line = torch.tensor([1.0, -2.0, 2.0], dtype=F64) / 3
    law = GaussianMixture(torch.ones(1, dtype=F64), torch.zeros(1, 3, dtype=F64), 9 * torch.outer(line, line)[None])
    x = law.sample(200, seed=seed)
    torch.testing.assert_close(x, (x @ line)[:, None] * line, rtol=0, atol=1e-7)
    with pytest.raises(ValueError, match="component 0 has a variance of 0"):
        law.log_prob(x)


def test_to_moves_every_part(mixture):
    law = mixture.to(torch.float32)
    assert law.sample(3).dtype == torch.float32
    torch.testing.assert_close(law.to(F64).means, mixture.means, rtol=1e-6, atol=0)
    assert torch.equal(law.labels, mixture.labels)


def mixed(weights=WEIGHTS, means=MEANS, covariance=COVARIANCES["full"], labels=None):
    return GaussianMixture(weights, means, covariance, labels)


SKEW = COVARIANCES["full"].clone()
SKEW[1, 0, 2] += 0.1
REFUSED = [
    (lambda: mixed(weights=torch.tensor([0.3, 0.6], dtype=F64)), "weights must be positive and sum to 1, got the smallest 0.3 and the sum 0.9"),
    (lambda: mixed(weights=torch.tensor([-0.5, 1.5], dtype=F64)), "weights must be positive"),
    (lambda: mixed(weights=torch.tensor([0.0, 1.0], dtype=F64)), "weights must be positive"),
    (lambda: mixed(weights=torch.tensor([torch.nan, 1.0], dtype=F64)), "weights must be finite"),
    (lambda: mixed(weights=WEIGHTS.float()), "must share a dtype"),
    (lambda: mixed(weights=torch.ones(2, 1, dtype=F64)), r"weights must have shape \(components,\)"),
    (lambda: mixed(means=MEANS[:1]), r"means must have shape \(2, \*event\)"),
    (lambda: mixed(covariance=COVARIANCES["full"][:, :2, :2]), r"covariance must have shape \(2,\), \(2, 3\) or \(2, 3, 3\), got \(2, 2, 2\)"),
    (lambda: mixed(covariance=SKEW), "covariance must be symmetric, component 1 is not"),
    (lambda: mixed(covariance=-COVARIANCES["full"]), "covariance must be positive semi-definite"),
    (lambda: mixed(covariance=torch.tensor([1.0, -0.5], dtype=F64)), "component 1 has the variance -0.5"),
    (lambda: mixed(labels=torch.tensor([0, 1, 2])), r"labels must be int64 of shape \(2,\)"),
    (lambda: mixed(labels=torch.tensor([0.0, 1.0])), "labels must be int64"),
    (lambda: mixed().given(0), "given needs a mixture with labels"),
    (lambda: mixed().sample_with_labels(3), "sample_with_labels needs a mixture with labels"),
    (lambda: mixed(labels=torch.tensor([2, 5])).given(3), "label must be one of 2, 5, got 3"),
    (lambda: mixed().log_prob(torch.zeros(4, 2, dtype=F64)), r"x must have shape \(n, 3\), got \(4, 2\)"),
    (lambda: mixed().sample(-1), "n must be at least 0"),
    (lambda: GaussianMixture.fit(torch.zeros(0, 2)), "at least one row"),
    (lambda: GaussianMixture.fit(torch.tensor([[torch.inf]])), "x must be finite"),
    (lambda: GaussianMixture.fit(torch.zeros(3, 2), torch.tensor([0, 1])), r"y must have shape \(3\)"),
    (lambda: GaussianMixture.fit(torch.zeros(3, 2), ridge=-1.0), "ridge must lie in"),
    (lambda: GaussianMixture.points(torch.zeros(3, 2), std=-1.0), "std must lie in"),
]


@pytest.mark.parametrize("make, message", REFUSED)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_fit_to_rows_that_fill_no_space_is_a_law_on_their_plane():
    """One-hot columns: their sum is constant, so one variance is 0, which rounding over many rows may make slightly negative."""
    level = torch.arange(60_000) % 7 % 3
    x = torch.cat([2 * torch.nn.functional.one_hot(level).double() - 1, 1e3 * level[:, None].double() + 0.1], 1)
    drawn = GaussianMixture.fit(x).sample(500, seed=1)
    torch.testing.assert_close(drawn[:, :3].sum(1), torch.full((500,), -1.0, dtype=torch.float64), rtol=0, atol=1e-2)
    torch.testing.assert_close(drawn.mean(0), x.mean(0), rtol=0.2, atol=0.2)
