"""Precision and recall, density and coverage, and Hausdorff against brute force and known laws."""
from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from scipy.spatial.distance import directed_hausdorff
from sklearn.neighbors import NearestNeighbors

from rheos.core import Draws
from rheos.data import ring
from rheos.data.mixtures import GaussianMixture
from rheos.metrics import density_coverage, hausdorff, precision_recall

F64 = torch.float64


def rows(seed, n, dim=3, purpose="x"):
    """Skewed rows: cubed normals, shifted."""
    z = Draws(seed).rows(purpose, 0, (n, dim), dtype=F64)
    return z + 0.2 * z**3 + torch.arange(dim, dtype=F64)


def by_loops(points, centres, k):
    """For each point in how many balls it lies, for each ball how many points."""
    gap = lambda a, b: math.dist(a.tolist(), b.tolist())
    radii = [sorted(gap(c, o) for j, o in enumerate(centres) if j != i)[k - 1] for i, c in enumerate(centres)]
    inside = [[gap(p, c) <= r for c, r in zip(centres, radii, strict=True)] for p in points]
    return [sum(row) for row in inside], [sum(column) for column in zip(*inside, strict=True)]


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("chunk", [1, 50, 1 << 22])
def test_equal_brute_force_whatever_the_chunk(seed, monkeypatch, k, chunk):
    monkeypatch.setattr("rheos.metrics.pairs._CHUNK_NUMBERS", chunk)
    x, y = 0.7 * rows(seed, 23), rows(seed, 17, purpose="y")
    balls, samples = by_loops(x, y, k)
    back, _ = by_loops(y, x, k)
    share = lambda counts: sum(c > 0 for c in counts) / len(counts)
    assert [v.item() for v in precision_recall(x, y, k=k)] == pytest.approx([share(balls), share(back)], rel=1e-12)
    assert [v.item() for v in density_coverage(x, y, k=k)] == pytest.approx([sum(balls) / 23 / k, share(samples)], rel=1e-12)


def test_precision_equals_scikit_learns_neighbours(seed):
    x, y = rows(seed, 300, 5) + 0.5, rows(seed, 240, 5, "y")
    radius = torch.from_numpy(NearestNeighbors(n_neighbors=3).fit(y.numpy()).kneighbors()[0][:, -1])
    expected = (torch.cdist(x, y) <= radius).any(1).double().mean()
    assert precision_recall(x, y).precision.item() == expected.item()


def test_swapping_the_sets_swaps_precision_and_recall(seed):
    x, y = rows(seed, 40) * 0.4, rows(seed, 31, purpose="y")
    assert precision_recall(x, y) == precision_recall(y, x)[::-1]
    assert precision_recall(x, y).precision.item() > precision_recall(x, y).recall.item()       # narrow samples: inside, but not covering


def test_a_dropped_mode_costs_recall_and_an_invented_one_precision(seed):
    whole, n = ring(8, 4.0, 0.2), 1600
    data = whole.sample(n, seed=seed)
    part = GaussianMixture(torch.full((6,), 1 / 6, dtype=F64), whole.means[:6], whole.covariance[:6]).sample(n, seed=seed + 1000)
    dropped, invented = precision_recall(part, data), precision_recall(data, part)
    truth = precision_recall(whole.sample(n, seed=seed + 2000), data)
    error = 5 * math.sqrt(0.25 * 0.75 / n)
    for value, same in ((dropped.recall, truth.recall), (invented.precision, truth.precision)):
        assert abs(value.item() - 0.75 * same.item()) < error + 0.03             # a quarter of the data is lost, whole; 0.03: denser balls
    assert min(dropped.precision.item(), invented.recall.item()) > 0.9
    assert abs(density_coverage(part, data).coverage.item() - 0.75) < error + 0.03


def test_density_and_coverage_between_samples_of_one_law(seed):
    # x takes each rank among x and the m - 1 other rows of y alike: density 1 on average. A ball is empty if the k + 1 first of the
    # n + m - 1 other rows in order of distance begin with k of y: about 2^-k for equal sizes.
    found = [density_coverage(rows(seed, 150, purpose=f"x{i}"), rows(seed, 150, purpose=f"y{i}"), k=2) for i in range(40)]
    for values, truth in ((torch.stack([v.density for v in found]), 1.0), (torch.stack([v.coverage for v in found]), 1 - 149 * 148 / (299 * 298))):
        assert abs(values.mean().item() - truth) < 5 * values.std().item() / math.sqrt(40)


def test_a_stray_sample_leads_recall_astray_but_not_coverage(seed):
    data = rows(seed, 200, 2)
    collapsed = torch.cat([data[:1] + 0.01 * rows(seed, 197, 2, "x"), torch.tensor([[50.0, 50.0], [-50.0, 30.0], [0.0, -60.0]], dtype=F64)])
    assert precision_recall(collapsed, data).recall.item() == 1.0 and density_coverage(collapsed, data).coverage.item() < 0.2


def test_rows_on_the_edge_of_a_ball_are_inside(seed):
    y = rows(seed, 60, 40) * 1e-3 + 1e3
    assert precision_recall(y.flip(0), y, k=1) == (1.0, 1.0)
    nearest = NearestNeighbors(n_neighbors=1).fit(y.numpy()).kneighbors()[1][:, 0]
    assert density_coverage(y[torch.from_numpy(nearest)], y, k=1).coverage.item() == 1.0


# -- Hausdorff --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n, m", [(30, 30), (7, 41), (1, 5)])
@pytest.mark.parametrize("chunk", [1, 60, 1 << 22])
def test_hausdorff_equals_scipy(seed, monkeypatch, n, m, chunk):
    monkeypatch.setattr("rheos.metrics.pairs._CHUNK_NUMBERS", chunk)
    x, y = rows(seed, n), 2 * rows(seed, m, purpose="y")
    expected = max(directed_hausdorff(x, y)[0], directed_hausdorff(y, x)[0])
    assert hausdorff(x, y).item() == pytest.approx(expected, rel=1e-9)
    assert hausdorff(y, x).item() == pytest.approx(expected, rel=1e-9)


def test_hausdorff_invariants_and_gradient(seed):
    x, y = rows(seed, 9, 2).requires_grad_(), rows(seed, 7, 2, "y").requires_grad_()
    assert torch.autograd.gradcheck(hausdorff, (x, y))
    assert torch.autograd.gradcheck(lambda a: hausdorff(a, y.detach(), features=lambda v: torch.tanh(v @ v.new_tensor([[1.0, -0.4], [0.3, 2.0]]))), (x,))
    torch.testing.assert_close(hausdorff(3 * x + 7, 3 * y + 7), 3 * hausdorff(x, y), rtol=1e-8, atol=0)
    at_zero = hausdorff(x, x.detach().flip(0).repeat(2, 1))
    (gradient,) = torch.autograd.grad(at_zero, x)
    assert at_zero.item() == 0.0 and torch.equal(gradient, torch.zeros_like(x))
    assert math.isnan(hausdorff(torch.tensor([[0.0], [math.nan]]), torch.tensor([[0.0]])).item())
    assert hausdorff(x.float(), y.float()).dtype == torch.float32


def test_events_are_flattened_put_through_features_and_reordered_at_will(seed):
    x, y = rows(seed, 24, 4), rows(seed, 18, 4, "y")
    for metric in (partial(precision_recall, k=2), partial(density_coverage, k=2), lambda a, b, **kw: (hausdorff(a, b, **kw),)):
        torch.testing.assert_close(metric(x.reshape(24, 2, 2), y.reshape(18, 2, 2)), metric(x, y))
        torch.testing.assert_close(metric(x.flip(0), y.roll(5, 0)), metric(x, y))
        torch.testing.assert_close(metric(x, y, features=lambda v: v[:, 1:].square()), metric(x[:, 1:].square(), y[:, 1:].square()))
        assert metric(x.float(), y.float())[0].dtype == torch.float32 and metric(x.float(), y)[0].dtype == F64


X, NAN = torch.arange(12.0).reshape(4, 3), torch.tensor([[0.0], [math.nan], [1.0], [2.0]])


@pytest.mark.parametrize("call, message", [
    (lambda: precision_recall(X, torch.ones(4, 2)), r"same event shape, got \(3,\) and \(2,\)"),
    (lambda: precision_recall(X, X[:3]), "k must be less than the 3 rows of y, got 3"),
    (lambda: density_coverage(X, X), "k must be less than the 4 rows of x, got 5"),
    (lambda: precision_recall(X, X, k=0), "k must be at least 1, got 0"),
    (lambda: precision_recall(NAN, NAN), r"x must be finite, got 1 of 4 entries that are not, the first at \(1, 0\)"),
    (lambda: density_coverage(X, X, k=1, features=lambda v: v / 0 * 0), "features of x must be finite"),
    (lambda: hausdorff(X, X[:0]), "y must have at least one row"),
    (lambda: hausdorff(X, torch.ones(4, 3, 1)), "same event shape"),
])
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
