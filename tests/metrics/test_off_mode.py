"""Balls of modes by brute force, and refusals."""
import math

import pytest
import torch

from rheos.core import Draws
from rheos.data import GaussianMixture, skewed
from rheos.metrics import hallucinated, hallucination

F64 = torch.float64
MODES = GaussianMixture(torch.tensor([0.2, 0.5, 0.3], dtype=F64), torch.tensor([[0.0, 1.0], [4.0, -1.0], [-3.0, 2.5]], dtype=F64),
                        torch.tensor([0.01, 0.09, 0.04], dtype=F64))


def test_every_ball_by_hand(seed):
    x = 3 * Draws(seed).rows("x", 0, (400, 2), dtype=F64)
    truth = [all(math.dist(row, middle) > 6 * math.sqrt(variance) for middle, variance in zip(MODES.means.tolist(), MODES.covariance.tolist(), strict=True))
             for row in x.tolist()]
    assert hallucinated(x, MODES).tolist() == truth and 0 < sum(truth) < 400
    assert abs(float(hallucination(x, MODES)) - sum(truth) / 400) < 1e-12
    assert hallucination(x.float(), MODES).dtype == torch.float32


def test_each_mode_has_a_ball_of_its_own():
    """Just inside and just outside along one direction, of modes of different width."""
    direction = torch.tensor([0.6, -0.8], dtype=F64)
    for middle, variance in zip(MODES.means, MODES.covariance, strict=True):
        at = lambda far, middle=middle, variance=variance: (middle + far * variance.sqrt() * direction)[None]
        assert hallucinated(torch.cat([at(3.99), at(4.01)]), MODES, radius=4.0).tolist() == [False, True]


def test_the_share_outside_one_ball_is_the_tail_of_a_chi():
    """In the plane P(|z| > r) = exp(-r^2 / 2)."""
    one = GaussianMixture.points(torch.tensor([[2.0, -7.0]]), std=0.3)
    share = float(hallucination(one.sample(20_000, seed=3), one, radius=1.5))
    truth = math.exp(-0.5 * 1.5**2)
    assert abs(share - truth) < 5 * math.sqrt(truth * (1 - truth) / 20_000)


def test_pictures_are_flattened():
    modes = GaussianMixture.points(torch.stack([torch.zeros(1, 2, 3), torch.full((1, 2, 3), 9.0)]), std=0.5)
    x = torch.stack([torch.full((1, 2, 3), 1.2), torch.full((1, 2, 3), 1.3)])                  # |x| = 2.94, 3.18
    assert hallucinated(x, modes).tolist() == [False, True]


X = torch.zeros(3, 2, dtype=F64)


@pytest.mark.parametrize(("call", "error", "told"), [
    (lambda: hallucinated(X, MODES, radius=0.0), ValueError, "radius must lie in"),
    (lambda: hallucinated(X, MODES, radius=math.inf), ValueError, "radius must lie in"),
    (lambda: hallucinated(X, MODES, radius=30.0), ValueError, "radius must leave gaps between the modes, got 30"),
    (lambda: hallucinated(X, MODES.means), TypeError, "modes"),
    (lambda: hallucinated(X, skewed()), ValueError, r"modes must be round.*\(3, 2, 2\)"),
    (lambda: hallucinated(X, GaussianMixture.points(X[:1])), ValueError, "modes must have positive variances"),
    (lambda: hallucinated(X[:, :1], MODES), ValueError, r"event shape \(2,\), got \(1,\)"),
    (lambda: hallucinated(X[:0], MODES), ValueError, "at least one row"),
    (lambda: hallucinated(X / 0, MODES), ValueError, "x must be finite"),
])
def test_refusals(call, error, told):
    with pytest.raises(error, match=told):
        call()


def test_some_modes_may_hang_together():
    """Two of three balls overlap: there is still something between them and the third."""
    modes = GaussianMixture.points(torch.tensor([[0.0], [0.2], [3.0]]), std=0.1)
    assert hallucinated(torch.tensor([[0.1], [1.5]]), modes).tolist() == [False, True]
    with pytest.raises(ValueError, match="hang together"):
        hallucinated(torch.tensor([[0.1]]), GaussianMixture.points(torch.tensor([[0.0], [1.0], [2.0]]), std=0.1))      # a chain of balls
