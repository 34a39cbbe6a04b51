"""The stochastic rule keeps the path's marginals, forwards and backwards: means and variances of Gaussians in closed form."""
import math

import pytest
import torch

from rheos.core import Draws
from rheos.data import GaussianMixture
from rheos.paths import ExactField, Path, Times
from rheos.samplers import EulerMaruyama, sample

F64 = torch.float64
MEAN, SPREAD = torch.tensor([0.7, -1.2], dtype=F64), torch.tensor([0.3, 1.7], dtype=F64)
FROM_MEAN, FROM_SPREAD = torch.tensor([-0.5, 2.0], dtype=F64), torch.tensor([0.9, 0.4], dtype=F64)
PATHS = {"linear": Path.linear(), "vp": Path.vp(), "two-sided": Path.interpolant()}
N, STEPS = 8000, 200


def gaussian(mean, spread):
    return GaussianMixture(torch.ones(1, dtype=F64), mean[None], spread[None])


def field_on(path):
    return ExactField(path, gaussian(MEAN, SPREAD), gaussian(FROM_MEAN, FROM_SPREAD) if path.two_sided else None)


def law(path, t):
    """Mean and variance of x_t = a x0 + b x1 + c z, all independent."""
    at = path.coefficients(t)
    return at.a * FROM_MEAN + at.b * MEAN, at.a**2 * FROM_SPREAD + at.b**2 * SPREAD + at.c**2


def drawn(path, t, seed):
    mean, variance = law(path, t)
    return mean + variance.sqrt() * Draws(seed).rows("start", 0, (N, 2), dtype=F64)


def check_law(x, path, t, discretisation):
    """Five standard errors (of a mean: sd / sqrt n; of a variance: var sqrt(2 / n)), and the relative error of Euler's steps."""
    mean, variance = law(path, t)
    assert bool(((x.mean(0) - mean).abs() < variance.sqrt() * (5 / math.sqrt(N) + discretisation)).all()), (x.mean(0), mean)
    assert bool(((x.var(0) / variance - 1).abs() < 5 * math.sqrt(2 / N) + discretisation).all()), (x.var(0), variance)


# The SDE pulls towards the marginal at the rate epsilon / variance, so that a step h leaves an error of about h epsilon / variance.
def coarseness(path, epsilon, t0, t1):
    return abs(t1 - t0) / STEPS * epsilon / min(float(law(path, t)[1].min()) for t in (t0, 0.5 * (t0 + t1), t1))


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS.keys())
@pytest.mark.parametrize(("t0", "t1"), [(0.4, 0.55), (0.4, 0.8), (0.9, 0.3)], ids=["a little", "forward", "backward"])
def test_marginals_are_kept(path, t0, t1, seed):
    """Noise of half the power would lose half of the variance; a score of the wrong sign would blow it up."""
    times = Times.uniform(path, STEPS, start=t0, end=t1)
    x = sample(field_on(path), start=drawn(path, t0, seed), times=times, rule=EulerMaruyama(3.0), seed=seed)
    check_law(x, path, t1, coarseness(path, 3.0, t0, t1))


@pytest.mark.parametrize(("t0", "t1"), [(0.4, 0.8), (0.9, 0.3)], ids=["forward", "backward"])
def test_marginals_are_kept_by_a_level_that_changes(t0, t1, seed):
    """epsilon(t) = 8 t^2: read at the step's own time, in both directions."""
    path = Path.linear()
    times = Times.uniform(path, STEPS, start=t0, end=t1)
    x = sample(field_on(path), start=drawn(path, t0, seed), times=times, rule=EulerMaruyama(lambda t: 8 * t * t), seed=seed)
    check_law(x, path, t1, coarseness(path, 8 * max(t0, t1) ** 2, t0, t1))


def test_a_wrong_start_is_forgotten_only_by_the_noise(seed):
    """Far from the marginal at first: a deviation d of the mean shrinks by exp(-epsilon int dt / variance) beyond what the flow does to it."""
    path, epsilon, shift = Path.linear(), 1.0, torch.tensor([1.0, -2.0], dtype=F64)
    t0, t1 = 0.4, 0.6
    start = drawn(path, t0, seed) + shift
    x = sample(field_on(path), start=start, times=Times.uniform(path, STEPS, start=t0, end=t1), rule=EulerMaruyama(epsilon), seed=seed)
    grid = torch.linspace(t0, t1, 2001, dtype=F64)
    variance = torch.stack([law(path, float(t))[1] for t in grid])
    decay = torch.exp(-epsilon * torch.trapezoid(1 / variance, grid, dim=0))
    expected = law(path, t1)[0] + shift * decay * (variance[-1] / variance[0]).sqrt()
    bound = 5 * variance[-1].sqrt() / math.sqrt(N) + shift.abs() * coarseness(path, epsilon, t0, t1)
    assert bool(((x.mean(0) - expected).abs() < bound).all())


def test_from_noise_to_the_target(seed):
    """A path's whole length with a large epsilon: the variance of the target, whatever was there before."""
    path = Path.linear()
    x = sample(field_on(path), N, times=Times.uniform(path, 2 * STEPS), rule=EulerMaruyama(4.0), seed=seed)
    check_law(x, path, 1.0, 0.5 * coarseness(path, 4.0, 0.0, 1.0))


@pytest.mark.parametrize("t", [[0.1, 0.15, 0.5, 0.8], [0.9, 0.5, 0.35, 0.3]], ids=["forward", "backward"])
def test_noise_is_that_of_a_brownian_motion(t):
    """Variances add up to 2 int epsilon dt, whatever the steps and the direction; for epsilon = t left sums of n steps are off by length^2 / n."""
    path, length = Path.linear(), abs(t[-1] - t[0])
    total = lambda plan: sum(row.s**2 for row in plan.predict)
    assert total(EulerMaruyama(0.7).plan(Times(path, t))) == pytest.approx(1.4 * length, rel=1e-12)
    fine = EulerMaruyama(lambda t: t).plan(Times.uniform(path, 1000, start=t[0], end=t[-1]))
    assert total(fine) == pytest.approx(abs(t[-1] ** 2 - t[0] ** 2), abs=1.001 * length**2 / 1000)


def test_noise_of_the_steps_is_independent(seed):
    """A field at rest adds up the noise alone: variance 2 epsilon (t1 - t0) only if the steps' noises are not the same numbers."""
    path, event = Path.linear(), (3,)

    class Still(ExactField):
        def _ask(self, x, t, cond, at):
            return dict.fromkeys(("velocity", "score"), torch.zeros_like(x))

    still = Still(path, gaussian(torch.zeros(3, dtype=F64), torch.ones(3, dtype=F64)))
    x = sample(still, start=torch.zeros(N, *event, dtype=F64), times=Times(path, [0.1, 0.2, 0.5, 0.6]), rule=EulerMaruyama(0.8), seed=seed)
    assert bool((x.var(0) / 0.8 - 1).abs().max() < 5 * math.sqrt(2 / N))
    assert bool(torch.corrcoef(x.T).fill_diagonal_(0).abs().max() < 5 / math.sqrt(N))
