"""Averaged weights: the moving average in closed form, and what is copied as it is."""
from functools import partial

import pytest
import torch
from torch import nn

from rheos.core import Draws, evolve
from rheos.training import Average, Descent

SCALE, SHIFT = torch.tensor([1.0, 3.0, 0.2]), torch.tensor([5.0, -2.0, 0.5])


class Skewed:
    """Columns of different means and variances, and none that begins where batch norm does."""

    def sample(self, n, *, seed, step):
        return seed.rows("x", step, (n, 3), dtype=torch.float32) * SCALE + SHIFT


def normed():
    with Draws(3).scope(0):
        return nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Linear(2, 1))


def statistics(net):
    return {name: value.clone() for name, value in net.named_buffers()}


# -- closed forms ----------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("decay", [0.0, 0.6, 0.99])
def test_the_average_of_a_net_that_jumps_once_approaches_it_geometrically(decay):
    """What is left of the start after k updates is decay^k."""
    slow, fast, average = nn.Linear(2, 3).double(), nn.Linear(2, 3).double(), Average(decay, warm_up=False)
    kept, begun = average.start(slow), slow.weight.detach().clone()
    for k in range(7):
        average.update(kept, fast, k)
    torch.testing.assert_close(kept.weight - fast.weight, (begun - fast.weight) * decay**7, rtol=1e-10, atol=1e-12)


def test_warm_up_forgets_the_start_as_a_product_of_its_decays():
    """prod (1 + k) / (10 + k) over k < n telescopes to 9! n! / (n + 9)!, for as long as it stays below the decay."""
    slow, fast, average = nn.Linear(1, 1).double(), nn.Linear(1, 1).double(), Average(0.9)
    nn.init.constant_(slow.weight, 5.0)
    nn.init.constant_(fast.weight, -1.0)
    kept, left = average.start(slow), 6.0
    for n in range(1, 21):
        average.update(kept, fast, n - 1)
        left *= n / (n + 9)
        assert float(kept.weight.detach()) + 1 == pytest.approx(left, rel=1e-9)


# -- buffers -----------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("hold", [None, torch.zeros(())], ids=["free", "not held"])
def test_running_statistics_are_copied_not_averaged(hold):
    """One pass of batch norm in closed form: momentum 0.1 moves the running mean from 0 to 0.1 batch mean, the variance from 1 to 0.9 + 0.1 batch variance."""
    net, x = nn.BatchNorm1d(3), Skewed().sample(64, seed=Draws(0), step=0)
    average = Average(0.99, warm_up=False)
    slow = average.start(net)
    net.train()(x)
    average.update(slow, net, 0, hold=hold)
    torch.testing.assert_close(slow.running_mean, 0.1 * x.mean(0))
    torch.testing.assert_close(slow.running_var, 0.9 + 0.1 * x.var(0))
    assert int(slow.num_batches_tracked) == 1
    net.train()(x)
    assert int(slow.num_batches_tracked) == 1           # a copy, not the same memory
    torch.testing.assert_close(slow.running_mean, 0.1 * x.mean(0))


@pytest.mark.parametrize("optimizer", [partial(torch.optim.SGD, lr=0.1), partial(torch.optim.Adam, lr=0.1, fused=True)], ids=["plain", "fused"])
def test_a_trained_average_has_the_statistics_of_the_fast_net_and_weights_of_its_own(optimizer, seed):
    run = Descent(lambda net, x, **_: (net(x) - 1).square().mean(), Skewed(), 32, optimizer, average=Average(0.9), seed=seed,
                  finite_every=2 if optimizer.keywords.get("fused") else None)
    start = run.init(normed())
    begun = statistics(start.net)
    end = evolve(run, start, 12)
    slow, fast = statistics(end.averaged), statistics(end.net)
    assert len(slow) == 6
    for name in fast:
        assert torch.equal(slow[name], fast[name]) and not torch.equal(slow[name], begun[name]), name
    assert int(slow["0.num_batches_tracked"]) == 12
    assert not torch.equal(end.averaged[3].weight, end.net[3].weight)
    # Batch norm forgets its start like 0.9^k; the columns of the input have known means.
    # Its standard deviation: sum_k (0.1 0.9^k)^2 = 0.1 / 1.9 times that of a mean of 32 rows.
    assert bool(((slow["0.running_mean"] - (1 - 0.9**12) * SHIFT).abs() < 5 * SCALE * (0.1 / 1.9 / 32) ** 0.5).all())


def test_buffers_that_no_layer_knows_are_copied_too():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))
            self.register_buffer("seen", torch.zeros(2, dtype=torch.int64))

        def forward(self, x):
            self.seen += torch.tensor([1, len(x)])
            return x * self.weight

    run = Descent(lambda net, x, **_: net(x).square().mean(), Skewed(), 5, partial(torch.optim.SGD, lr=1e-3), average=Average(0.5), accumulate=2)
    assert evolve(run, run.init(Counting()), 3).averaged.seen.tolist() == [6, 30]
