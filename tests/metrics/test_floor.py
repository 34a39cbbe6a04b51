"""The sampling floor of a distance."""
from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from rheos.core import Draws
from rheos.data import skewed
from rheos.metrics import (
    Polynomial,
    classifier_two_sample,
    density_coverage,
    energy,
    floor,
    frechet,
    hausdorff,
    mmd,
    precision_recall,
    sinkhorn,
    sliced_w2,
    wasserstein,
)

F64 = torch.float64


def mean_gap(x, y, power=1.0):
    return (x.mean() - y.mean()).abs() ** power


def test_the_floor_of_a_mean_gap_in_closed_form(seed):
    n, repeats = 50, 400
    draw = lambda n, seed: Draws(seed).rows("draw", 0, (n, 1), dtype=F64)
    # difference of two means of n normals: N(0, 2 / n); its square has mean 2 / n and standard deviation sqrt(2) * 2 / n
    squared = floor(mean_gap, draw, n=n, repeats=repeats, seed=seed, power=2.0)
    assert abs(squared.mean - 2 / n) < 5 * math.sqrt(2) * 2 / n / math.sqrt(repeats)
    plain = floor(mean_gap, draw, n=n, repeats=repeats, seed=seed)
    spread = math.sqrt(2 / n)
    assert abs(plain.mean - spread * math.sqrt(2 / math.pi)) < 5 * spread / math.sqrt(repeats)
    # half-normal: variance (1 - 2 / pi) of the normal's, its sample standard deviation known to about 1 / sqrt(2 repeats) * 1.2
    assert plain.std == pytest.approx(spread * math.sqrt(1 - 2 / math.pi), rel=5 * 1.2 / math.sqrt(2 * repeats))


def test_halves_of_a_tensor_are_disjoint_and_random(seed):
    x, seen = torch.arange(11.0)[:, None], []
    def metric(a, b):
        seen.append(a.flatten().tolist() + b.flatten().tolist())
        return torch.tensor(float(len(a)))
    assert floor(metric, x, repeats=3, seed=seed) == (5.0, 0.0)
    assert floor(metric, x, n=2, repeats=2, seed=seed).mean == 2.0
    assert all(len(set(rows)) == len(rows) for rows in seen) and len({tuple(rows) for rows in seen[:3]}) == 3


def test_every_sample_has_a_seed_of_its_own(seed):
    seeds = []
    def draw(n, seed):
        seeds.append(seed)
        return torch.full((n, 1), float(seed % 97))
    first = floor(mean_gap, draw, n=2, repeats=4, seed=seed)
    assert len(set(seeds)) == 8 and all(0 <= s < 2**32 for s in seeds)
    assert floor(mean_gap, draw, n=2, repeats=4, seed=seed) == first and seeds[8:] == seeds[:8]


def test_a_callable_and_a_tensor_agree_on_the_same_law(seed):
    target = skewed()
    drawn = floor(sliced_w2, lambda n, seed: target.sample(n, seed=seed), n=500, repeats=20, seed=seed, directions=30)
    split = floor(sliced_w2, target.sample(20_000, seed=seed), n=500, repeats=20, seed=seed, directions=30)
    assert abs(drawn.mean - split.mean) < 5 * math.hypot(drawn.std, split.std) / math.sqrt(20)
    assert floor(frechet, target.sample(400, seed=seed)).mean > 0


def chance(a, b):
    return (classifier_two_sample(a, b) - 0.5).abs()


def uncovered(a, b):
    return 1 - density_coverage(a, b, k=1 + len(a) // 20).coverage


@pytest.mark.parametrize("metric, settings", [
    (sliced_w2, {"directions": 30}), (frechet, {}), (energy, {}), (energy, {"power": 0.5}), (mmd, {"unbiased": False}),
    (mmd, {"kernel": Polynomial(), "unbiased": False}), (sinkhorn, {"blur": 0.3}), (sinkhorn, {"blur": 0.3, "power": 1.0}), (wasserstein, {}),
    (hausdorff, {}), (chance, {}), (uncovered, {}), (energy, {"features": torch.tanh}), (partial(sliced_w2, seed=3), {}),
], ids=lambda v: getattr(v, "__name__", None) or ("bound" if isinstance(v, partial) else "-".join(v) or "plain"))
def test_every_distance_has_a_floor_that_falls_with_the_rows(seed, metric, settings):
    draw = lambda n, seed: skewed().sample(n, seed=seed)
    few, many = (floor(metric, draw, n=n, repeats=6, seed=seed, **settings) for n in (25, 400))
    assert 0 <= many.mean < few.mean


def test_an_unbiased_floor_is_about_zero_and_its_spread_falls(seed):
    draw = lambda n, seed: skewed().sample(n, seed=seed)
    for metric in (mmd, partial(energy, unbiased=True)):
        few, many = (floor(metric, draw, n=n, repeats=25, seed=seed) for n in (20, 320))
        assert abs(many.mean) < 5 * many.std / 5 and many.std < few.std / 4


@pytest.mark.parametrize("metric", [precision_recall, density_coverage, lambda a, b: a[:, 0]])
def test_several_numbers_are_refused_and_one_of_them_is_not(seed, metric):
    x = skewed().sample(60, seed=seed)
    with pytest.raises(TypeError, match="metric must return one number, got (PrecisionRecall|DensityCoverage|Tensor): choose one"):
        floor(metric, x)
    assert 0 <= floor(lambda a, b: metric(a, b)[0].abs() / (1 + metric(a, b)[0].abs()), x).mean <= 1


@pytest.mark.parametrize("call, message", [
    (lambda: floor(mean_gap, torch.zeros(1, 2)), "at least 2 rows"),
    (lambda: floor(mean_gap, torch.zeros(9, 2), n=5), "n must be at most 4, half the rows of sample, got 5"),
    (lambda: floor(mean_gap, torch.zeros(9, 2), n=0), "n must be at least 1"),
    (lambda: floor(mean_gap, lambda n, seed: torch.zeros(n, 1)), "n must be given"),
    (lambda: floor(mean_gap, torch.zeros(9, 2), repeats=1), "repeats must be at least 2"),
])
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
