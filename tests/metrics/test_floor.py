"""The sampling floor of a distance."""
from __future__ import annotations

import math

import pytest
import torch

from rheos.core import Draws
from rheos.data import skewed
from rheos.metrics import floor, frechet, sliced_w2

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
