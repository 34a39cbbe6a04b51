"""The toy targets: where their mass lies, and that densities integrate to one."""
from __future__ import annotations

import math

import pytest
import torch

from rheos.data import Checkerboard, eight_gaussians, ring, skewed, two_moons

F64 = torch.float64
TARGETS = {"ring": ring, "eight gaussians": eight_gaussians, "two moons": lambda: two_moons(components=40), "skewed": skewed, "checkerboard": Checkerboard}


@pytest.mark.parametrize("name", TARGETS)
def test_the_density_integrates_to_one(name):
    side = torch.linspace(-6, 6, 481, dtype=F64)[:-1] + 0.0125            # midpoints, 0.025 apart: under a third of the smallest width
    board = torch.cartesian_prod(side, side)
    # Midpoints are exact for the board's jumps (at multiples of 2) and spectrally accurate for Gaussians whose tails end inside.
    assert TARGETS[name]().log_prob(board).exp().sum().item() * 0.025**2 == pytest.approx(1, abs=1e-6)


def test_ring_has_its_modes_in_order_and_at_their_distance():
    target = ring(modes=5, radius=2.0, std=0.3)
    torch.testing.assert_close(target.means.norm(dim=1), torch.full((5,), 2.0, dtype=F64))
    angles = torch.atan2(target.means[:, 1], target.means[:, 0]) % (2 * math.pi)
    torch.testing.assert_close(angles, 2 * math.pi * torch.arange(5, dtype=F64) / 5)
    at_mode = target.given(3).log_prob(target.means[3:4]).item()
    assert at_mode == pytest.approx(-math.log(2 * math.pi * 0.09), abs=1e-12)
    assert target.labels.tolist() == [0, 1, 2, 3, 4]


def test_eight_gaussians_is_the_ring_of_eight():
    target = eight_gaussians()
    assert target.components == 8
    torch.testing.assert_close(target.means[2], torch.tensor([0.0, 4.0], dtype=F64))
    assert target.eigen()[0].unique().tolist() == pytest.approx([0.04])


def test_two_moons_lie_on_their_half_circles():
    target = two_moons(components=30, std=0.05)
    upper, lower = target.given(0).means, target.given(1).means
    torch.testing.assert_close(upper.norm(dim=1), torch.ones(30, dtype=F64))
    torch.testing.assert_close((lower - torch.tensor([1.0, 0.5], dtype=F64)).norm(dim=1), torch.ones(30, dtype=F64))
    assert bool((upper[:, 1] > 0).all()) and bool((lower[:, 1] < 0.5).all())


def test_two_moons_are_smooth_along_the_arc():
    angle = torch.linspace(0.5, 2.6, 200, dtype=F64)
    along = two_moons().given(0).log_prob(torch.stack([angle.cos(), angle.sin()], 1))
    assert (along.max() - along.min()).item() < 0.01


def test_skewed_has_no_symmetry():
    target = skewed()
    c = target.covariance_matrix()
    assert len(set(target.weights.tolist())) == 3 and bool((target.mean().abs() > 0.1).all())
    assert abs(c[0, 1].item()) > 0.1 and abs((c[0, 0] - c[1, 1]).item()) > 0.1
    assert target.labels.tolist() == [0, 1, 1]


def test_checkerboard_density_in_closed_form():
    board = Checkerboard(cells=3, half_width=1.5)           # 5 dark squares of area 1, corners dark
    x = torch.tensor([[-1.0, -1.0], [0.0, -1.0], [0.0, 0.0], [1.5, 1.5], [1.6, 1.0]], dtype=F64)
    expected = [-math.log(5), -math.inf, -math.log(5), -math.log(5), -math.inf]
    assert board.log_prob(x).tolist() == pytest.approx(expected)


def test_checkerboard_draws_fill_the_dark_squares_evenly(seed):
    board, n = Checkerboard(cells=3, half_width=1.5), 20_000
    x = board.sample(n, seed=seed)
    assert bool(torch.isfinite(board.log_prob(x)).all())
    square = ((x + 1.5).floor() @ torch.tensor([3.0, 1.0], dtype=F64)).long().bincount(minlength=9)
    error = 5 * math.sqrt(0.2 * 0.8 / n)
    assert bool(((square[::2] / n - 0.2).abs() < error).all()) and int(square[1::2].sum()) == 0
    within = (x + 1.5) % 1.0
    assert bool(((within.mean(0) - 0.5).abs() < 5 * math.sqrt(1 / 12 / n)).all())
    assert torch.equal(x[70:90], board.sample(20, seed=seed, first=70))
    assert not torch.equal(x[:20], board.sample(20, seed=seed + 1))


@pytest.mark.parametrize("make, message", [
    (lambda: ring(modes=0), "modes must be at least 1"),
    (lambda: ring(std=0.0), "std must lie in"),
    (lambda: eight_gaussians(radius=-1.0), "radius must lie in"),
    (lambda: two_moons(components=0), "components must be at least 1"),
    (lambda: two_moons(std=math.inf), "std must lie in"),
    (lambda: Checkerboard(cells=0), "cells must be at least 1"),
    (lambda: Checkerboard(half_width=0.0), "half_width must lie in"),
])
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()
