"""Objectives: weights of time enter where they should, and the parts of a sum see numbers of their own."""
import math
from itertools import combinations

import pytest
import torch

from rheos.core import Draws
from rheos.couplings import Independent, Pair
from rheos.objectives import LogitNormal, Matching
from rheos.paths import Path

F64 = torch.float64
N = 4000


class Spy:
    """A net that answers 0.3 x + t and remembers where it was asked."""

    def __init__(self, heads=1):
        self.heads, self.seen = heads, []

    def __call__(self, x, t, cond=None):
        self.seen.append((x, t))
        answer = 0.3 * x + t.reshape(-1, *(1,) * (x.ndim - 1))
        return answer if self.heads == 1 else tuple((k + 1) * answer for k in range(self.heads))


def pair(n=N, event=(2, 3), source=False):
    x1 = Draws(1).rows("x1", 0, (n, *event), dtype=F64) * 0.5 + 2
    return Pair(x1, Draws(1).rows("x0", 0, (n, *event), dtype=F64) - 1 if source else None)


# -- weights -------------------------------------------------------------------------------------------------------------------------

PATHS = {"linear": (Path.linear(), "velocity"), "vp": (Path.vp(), "noise"), "two-sided": (Path.interpolant(), ("velocity", "noise"))}


@pytest.mark.parametrize(("path", "predicts"), PATHS.values(), ids=PATHS.keys())
@pytest.mark.parametrize("weight", [2.5, 3], ids=str)
def test_a_number_multiplies_the_loss(path, predicts, weight):
    net, data = Spy(1 if isinstance(predicts, str) else 2), pair(50, source=path.two_sided)
    plain, weighted = Matching(path, predicts)(net, data, seed=2), Matching(path, predicts, weight=weight)(net, data, seed=2)
    torch.testing.assert_close(weighted.value, weight * plain.value, rtol=1e-12, atol=0)
    torch.testing.assert_close(weighted.per_sample, weight * plain.per_sample, rtol=1e-12, atol=0)
    assert float(plain.value) > 0.1


@pytest.mark.parametrize(("path", "predicts"), PATHS.values(), ids=PATHS.keys())
@pytest.mark.parametrize("antithetic", [False, True])
def test_a_function_weighs_each_row_by_the_time_that_the_net_saw(path, predicts, antithetic):
    net, data = Spy(1 if isinstance(predicts, str) else 2), pair(50, source=path.two_sided)
    weight = lambda t: 1 + 10 * t**3
    kinds = {"predicts": predicts, "when": LogitNormal(0.4, 1.3), "antithetic": antithetic}
    plain = Matching(path, **kinds)(net, data, seed=2)
    weighted = Matching(path, **kinds, weight=weight)(net, data, seed=2)
    t = net.seen[0][1]
    assert torch.equal(net.seen[-1][1], t) and float(t.max() - t.min()) > 0.5
    ratio = weighted.per_sample / plain.per_sample
    torch.testing.assert_close(ratio, weight(t), rtol=1e-12, atol=0)
    torch.testing.assert_close(weighted.value, weighted.per_sample.mean(), rtol=1e-12, atol=0)


def test_a_weighted_loss_in_closed_form(seed):
    """Noise predicted as 0 on the linear path: the loss is E w(t) z^2 = int w = 1/4 for w = t^3. z^2 has mean 1 and variance 2, t^6 mean 1/7."""
    loss = Matching(Path.linear(), "noise", weight=lambda t: t**3)(lambda x, t, cond=None: 0 * x, pair(N, (1,)), seed=seed)
    sd = math.sqrt(3 / 7 - 1 / 16)
    assert abs(float(loss.value) - 0.25) < 5 * sd / math.sqrt(N)


def test_weights_reach_the_gradient():
    """d/dscale of w (scale x - target)^2 is w times that without w."""
    scale, data = torch.tensor(0.7, dtype=F64, requires_grad=True), pair(1)
    net, seen = lambda x, t, cond=None: (seen.append(t), scale * x)[1], []
    gradients = [torch.autograd.grad(Matching(Path.linear(), "data", weight=w)(net, data, seed=4).value, scale)[0] for w in (1.0, lambda t: 5 * t, 0.0)]
    torch.testing.assert_close(gradients[1], 5 * seen[0][0] * gradients[0], rtol=1e-12, atol=0)
    assert gradients[2] == 0 and gradients[0] != 0


# -- sums ----------------------------------------------------------------------------------------------------------------------------

def noise_of(x, t, data):
    """z read off a point of the linear path, x = t x1 + (1 - t) z."""
    wide = t[:, None, None]
    return (x - wide * data.x1) / (1 - wide)


@pytest.mark.parametrize("sum_of", [lambda a, b, c: a + b + c, lambda a, b, c: a + (b + c), lambda a, b, c: 0.5 * (a + 2.0 * b) + c], ids=["plain", "nested", "scaled"])
def test_parts_draw_noise_and_times_of_their_own(sum_of, seed):
    """Uncorrelated times (variance 1/12) and noise between all parts: a mean of n products of standardised numbers is off by 1 / sqrt(n)."""
    path, net, data = Path.linear(), Spy(), pair()
    sum_of(Matching(path), Matching(path, "data"), Matching(path, "noise"))(net, data, seed=seed, step=3)
    assert len(net.seen) == 3
    times = [t for _, t in net.seen]
    noises = [noise_of(x, t, data) for x, t in net.seen]
    for t, z in zip(times, noises, strict=True):
        assert abs(float(t.mean()) - 0.5) < 5 * math.sqrt(1 / 12 / N)
        assert abs(float(z.mean())) < 5 / math.sqrt(z.numel()) and abs(float(z.var()) - 1) < 5 * math.sqrt(2 / z.numel())
    for t, s in combinations(times, 2):
        assert abs(float(12 * ((t - 0.5) * (s - 0.5)).mean())) < 5 / math.sqrt(N)
    for z, y in combinations(noises, 2):
        assert abs(float((z * y).mean())) < 5 / math.sqrt(z.numel())


def test_parts_drop_conditions_of_their_own(seed):
    """Two coins of chance 0.3 agree with chance 0.58; one and the same coin always does."""
    seen, coupling = [], Independent(torch.ones(N, 2), cond=torch.zeros(N, dtype=torch.int64))
    part = Matching(Path.linear(), drop_condition=0.3)
    (part + part)(lambda x, t, cond: (seen.append(cond == -1), x)[1], coupling.sample(N, seed=seed), seed=seed)
    agree = float((seen[0] == seen[1]).double().mean())
    assert abs(agree - 0.58) < 5 * math.sqrt(0.58 * 0.42 / N)
    assert all(abs(float(dropped.double().mean()) - 0.3) < 5 * math.sqrt(0.21 / N) for dropped in seen)


def test_a_sum_twice_over_is_the_mean_of_two_looks(seed):
    """0.5 a + 0.5 a has the mean of a and half the variance of its rows; with shared numbers it would have all of it."""
    part = Matching(Path.linear(), "noise")
    data, net = pair(N, (1,)), lambda x, t, cond=None: 0 * x
    rows = (0.5 * part + 0.5 * part)(net, data, seed=seed).per_sample
    assert abs(float(rows.mean()) - 1) < 5 * math.sqrt(1 / N)           # z^2 has variance 2, a mean of two of them 1
    # The variance of (y^2 + z^2) / 2, an exponential of mean 1, is 1; that of its sample variance is (mu_4 - 1) / n = 8 / n.
    assert abs(float(rows.var()) - 1) < 5 * math.sqrt(8 / N)


def test_weights_of_a_sum_multiply_through(seed):
    """Value and rows are linear in the weights, from either side of the brackets; a part on its own is seen with the sum's own seed."""
    path, net, data = Path.linear(), Spy(), pair(40)
    a, b = Matching(path), Matching(path, "data", weight=lambda t: t)
    both, scaled, apart = (a + b)(net, data, seed=seed), (4.0 * (a + b))(net, data, seed=seed), (4.0 * a + 4.0 * b)(net, data, seed=seed)
    torch.testing.assert_close(scaled.value, 4 * both.value, rtol=1e-12, atol=0)
    torch.testing.assert_close(apart.per_sample, scaled.per_sample, rtol=1e-12, atol=0)
    first = a(net, data, seed=seed).per_sample
    second = both.per_sample - first
    torch.testing.assert_close((a + 3.0 * b)(net, data, seed=seed).per_sample, first + 3 * second, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close((3.0 * a)(net, data, seed=seed).per_sample, 3 * first, rtol=1e-12, atol=0)
    torch.testing.assert_close((0.5 * (3.0 * a + b))(net, data, seed=seed).per_sample, 1.5 * first + 0.5 * second, rtol=1e-11, atol=1e-12)
    assert float(second.min()) > 0
