"""Moments of noise with a shared part, its splits, what paths do with it, and refusals."""
import math

import pytest
import torch

from rheos.core import Draws
from rheos.couplings import Pair
from rheos.data import skewed
from rheos.objectives import Matching
from rheos.paths import ExactField, Gaussian, Offset, Path

F64 = torch.float64


def test_pixels_of_a_channel_share_a_part_and_channels_do_not(seed):
    n, strength = 20_000, 0.6
    z = Offset(strength).draw((n, 2, 2, 3), seed=seed, like=torch.empty(0, dtype=F64)).flatten(1)
    covariance = z.T @ z / n
    truth = torch.eye(12, dtype=F64) + strength**2 * torch.block_diag(torch.ones(6, 6), torch.ones(6, 6)).double()
    # The variance of an entry of a sample covariance is (C_ii C_jj + C_ij^2) / n.
    error = ((truth.diagonal()[:, None] * truth.diagonal() + truth**2) / n).sqrt()
    assert float(((covariance - truth) / error).abs().max()) < 5.5 and float(z.mean(0).abs().max()) < 5.5 * math.sqrt(1.36 / n)


def test_rows_do_not_depend_on_the_split_and_steps_may_be_drawn_ahead():
    law, draws = Offset(0.3), Draws(4)
    whole = law.draw((9, 1, 4, 5), seed=draws, purpose="start", step=2)
    assert torch.equal(whole[3:7], law.draw((4, 1, 4, 5), seed=draws, purpose="start", step=2, first=3))
    assert torch.equal(whole, law.draw((9, 1, 4, 5), seed=draws, purpose="start", step=2, ahead=True))
    for other in (law.draw((9, 1, 4, 5), seed=5, purpose="start", step=2), law.draw((9, 1, 4, 5), seed=draws, purpose="start", step=3),
                  law.draw((9, 1, 4, 5), seed=draws, purpose="noise", step=2)):
        assert not bool((other == whole).any())


def test_no_strength_is_the_normal_law():
    assert Offset(0.0).gaussian and not Offset(0.1).gaussian
    assert torch.equal(Offset(0.0).draw((5, 3), seed=1), Gaussian().draw((5, 3), seed=1))


def test_the_offset_comes_on_top():
    """The same pixels, moved by one number a row and channel."""
    moved = (Offset(0.5).draw((6, 3, 2, 2), seed=2) - Gaussian().draw((6, 3, 2, 2), seed=2)).flatten(2)
    torch.testing.assert_close(moved, moved[:, :, :1].expand_as(moved), atol=1e-6, rtol=0)
    assert float(moved[:, :, 0].std()) > 0.2


def test_a_path_trains_and_begins_with_it():
    path = Path.linear(noise=Offset(3.0))
    x1 = torch.zeros(4000, 1, 3, 3)
    point = path.sample(x1, torch.zeros(4000), seed=1)
    begun = path.prior((4000, 1, 3, 3), seed=2)
    for z in (point.x, begun):
        assert abs(float(z.mean((1, 2, 3)).var()) / (9 + 1 / 9) - 1) < 5 * math.sqrt(2 / 4000)
    loss = Matching(path)(lambda x, t, cond: -x / (1 - t)[:, None, None, None], Pair(x1), seed=3)
    assert float(loss.value) < 1e-8                    # to points at 0 the velocity is -x / (1 - t), whatever the noise
    with pytest.raises(ValueError, match="score cannot be had"):
        path.convert(x1[:2], x1[:2], 0.5, of="noise", to="score")


@pytest.mark.parametrize(("call", "error", "told"), [
    (lambda: Offset(-0.1), ValueError, "strength must lie in"),
    (lambda: Offset(math.inf), ValueError, "strength must lie in"),
    (lambda: Offset(True), TypeError, "strength"),
    (lambda: Offset(0.1).draw((4, 3)), ValueError, r"shape must be \(rows, channels, \*space\).* got \(4, 3\)"),
    (lambda: ExactField(Path.linear(noise=Offset(0.1)), skewed()), ValueError, "Gaussian and Student noise"),
])
def test_refusals(call, error, told):
    with pytest.raises(error, match=told):
        call()
