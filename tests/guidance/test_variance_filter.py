"""Which samples are kept, how many are drawn, and refusals."""
import math

import pytest
import torch

from rheos.guidance import RandomFilter, VarianceFilter
from rheos.metrics import TrajectoryVariance

SPEED = torch.tensor([3.0, 0.5, 9.0, 1.0, 0.1, 4.0, 2.0, 7.0])


def moving(count: int, edit) -> torch.Tensor:
    """Samples whose predictions move by SPEED."""
    x = torch.arange(count).float()[:, None]
    for t in (0.9, 0.95, 1.0):
        if edit is not None:
            edit(SPEED[:count, None] * t, x, t)
    return x


def test_the_calmest_are_kept_in_their_order():
    made = VarianceFilter(0.75)(moving, 6)
    assert made.rows.tolist() == [0, 1, 3, 4, 5, 6][:6] and made.x.flatten().tolist() == made.rows.tolist()
    # Three values a step of 0.05 apart: variance (0.05 speed)^2 * 2 / 3.
    torch.testing.assert_close(made.variance, (0.05 * SPEED.double()).square() * 2 / 3, atol=0, rtol=1e-5)


@pytest.mark.parametrize(("n", "keep", "drawn"), [(96, 0.96, 100), (97, 0.96, 102), (1, 0.5, 2), (7, 1.0, 7), (9, 0.9, 10), (3, 0.01, 300)])
def test_how_many_are_drawn(n, keep, drawn):
    assert VarianceFilter(keep).drawn(n) == RandomFilter(keep).drawn(n) == drawn


def test_shares_of_variances():
    variance = torch.tensor([0.3, 0.1, 0.2, 0.1, 0.9])
    assert VarianceFilter(0.6).kept(variance).tolist() == [1, 2, 3]
    assert VarianceFilter(0.6).kept(variance, 1).tolist() == [1]              # the first of two that tie
    assert VarianceFilter(1.0).kept(variance).tolist() == [0, 1, 2, 3, 4]
    assert VarianceFilter(0.01).kept(variance).tolist() == [1]


def test_random_rows_whatever_their_variance():
    made = [RandomFilter(0.5, seed)(moving, 4) for seed in range(40)]
    assert all(len(one.rows) == 4 and one.variance is None and one.rows.tolist() == sorted(set(one.rows.tolist())) for one in made)
    counts = torch.bincount(torch.cat([one.rows for one in made]), minlength=8)
    assert counts.sum() == 160 and int(counts.min()) >= 4       # 20 are expected of each, standard deviation 3.2
    assert torch.equal(made[3].rows, RandomFilter(0.5, 3)(moving, 4).rows)


@pytest.mark.parametrize(("call", "error", "told"), [
    (lambda: VarianceFilter(0.0), ValueError, r"keep must lie in \(0, 1\], got 0.0"),
    (lambda: VarianceFilter(1.01), ValueError, "keep must lie in"),
    (lambda: VarianceFilter(math.nan), ValueError, "keep must lie in"),
    (lambda: VarianceFilter(True), TypeError, "keep must be a number"),
    (lambda: VarianceFilter(0.9, 0.8, 0.7), ValueError, "end must lie after begin"),
    (lambda: VarianceFilter(0.9)(moving, 0), ValueError, "n must be at least 1"),
    (lambda: VarianceFilter(0.9)(3, 2), TypeError, "draw"),
    (lambda: VarianceFilter(0.5)(lambda count, edit: moving(count, edit)[1:], 2), ValueError, "draw must return 4 samples, got"),
    (lambda: VarianceFilter(0.5)(lambda count, edit: None, 2), ValueError, "draw must return 4 samples, got NoneType"),
    (lambda: VarianceFilter(0.5)(lambda count, edit: moving(count, None), 2), ValueError, "at least 2 predictions"),
    (lambda: VarianceFilter(0.5)(lambda count, edit: moving(1, edit).repeat(count, 1), 2), ValueError, "draw must use the edit it is given for all 4 samples"),
    (lambda: VarianceFilter(0.5).kept(torch.tensor([0.1, math.nan])), ValueError, "variance must be finite"),
    (lambda: VarianceFilter(0.5).kept([0.1, 0.2]), TypeError, "variance"),
    (lambda: VarianceFilter(0.5).kept(torch.ones(3, 2)), (TypeError, ValueError), "variance"),
    (lambda: VarianceFilter(0.5).kept(torch.arange(3)), TypeError, "variance"),
    (lambda: VarianceFilter(0.5).kept(torch.empty(0)), ValueError, "at least one row"),
    (lambda: VarianceFilter(0.5).kept(torch.ones(3), 4), ValueError, "n must be at most the 3 samples drawn, got 4"),
    (lambda: RandomFilter(0.0), ValueError, "keep must lie in"),
    (lambda: RandomFilter(0.5, 1.5), TypeError, "seed"),
    (lambda: RandomFilter(0.5)(None, 1), TypeError, "draw"),
])
def test_refusals(call, error, told):
    with pytest.raises(error, match=told):
        call()


def test_the_watcher_of_a_draw_is_a_trajectory_variance():
    seen = []
    VarianceFilter(0.5, 0.2, 0.95)(lambda count, edit: (seen.append(edit), moving(count, edit))[1], 3)
    assert isinstance(seen[0], TrajectoryVariance) and (seen[0].begin, seen[0].end) == (0.2, 0.95)
