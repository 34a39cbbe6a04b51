"""The gap between a field's flow and its SDE: nothing but the floor where the score fits the velocity, in closed form where it does not."""
import math

import pytest
import torch

from rheos.core import Draws
from rheos.data import GaussianMixture
from rheos.metrics import sliced_w2
from rheos.paths import ExactField, Field, Path, Times
from rheos.samplers import EulerMaruyama, OdeSdeGap, diffusion_level, ode_sde_gap, sample

F64 = torch.float64
TARGET = GaussianMixture(torch.ones(1, dtype=F64), torch.tensor([[0.8]], dtype=F64), torch.tensor([0.3], dtype=F64))
PATHS = {"linear": Path.linear(), "cosine": Path.cosine(), "vp": Path.vp(), "ve": Path.ve(0.02, 30.0)}


def test_the_paths_own_level_in_closed_form():
    """beta / 2 of a variance-preserving path, -(sigma^2)' / 2 of an exploding one, (1 - t) / t of the linear one."""
    for t in (0.1, 0.35, 0.9):
        assert diffusion_level(Path.vp(0.3, 7.0), t) == pytest.approx(0.5 * (0.3 + (1 - t) * 6.7), rel=1e-12)
        assert diffusion_level(Path.ve(0.1, 3.0), t) == pytest.approx(math.log(30) * 9 * 30 ** (-2 * t), rel=1e-12)
        assert diffusion_level(Path.linear(), t) == pytest.approx((1 - t) / t, rel=1e-12)
    assert diffusion_level(Path.linear(), 0.0) == math.inf


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS.keys())
def test_an_exact_field_has_no_gap(path, seed):
    """Two samples of one Gaussian of N rows lie sd sqrt(2 / N) (mean) and as much (spread) apart; Euler's 200 steps err by a few hundredths."""
    n = 4000
    gap = ode_sde_gap(ExactField(path, TARGET), n, 200, data=TARGET.sample(n, seed=seed + 100), seed=seed)
    assert max(gap) < 5 * math.sqrt(0.3) * math.sqrt(2 / n) + 0.04


def test_a_score_that_does_not_fit_has_the_gap_that_the_sde_says(seed):
    """Velocity 0 and score -(x - 2) on a path of its own making: the flow stays, the SDE of level 3 goes to N(2, 1) but for exp(-3)."""
    field = Field(lambda x, t, cond: (0 * x, -(x - 2) * (1 - t[:, None])), Path.interpolant(), ("velocity", "score"))
    # Only the difference of the two drifts matters: at level e(t) = 3 / (1 - t) the pull is 3 (x - 2), and the noise sqrt(2 e).
    start = Draws(seed).rows("start", 0, (4000, 1), dtype=F64) * 0.1
    times = Times.uniform(field.path, 100, start=0.0, end=0.5)
    gap = ode_sde_gap(field, start=start, times=times, epsilon=lambda t: 3.0 / (1 - t), data=start, seed=seed)
    assert gap.ode == 0.0
    # dX = -3 (X - 2) dt + sqrt(6 / (1 - t)) dW from X = 0: mean 2 (1 - e^{-3 / 2}), variance int_0^{1/2} 6 / (1 - t) e^{-6 (1/2 - t)} dt.
    t = (torch.arange(20000, dtype=F64) + 0.5) / 40000
    variance = float((6 / (1 - t) * torch.exp(-6 * (0.5 - t))).mean()) / 2 + 0.01 * math.exp(-3)
    known = math.hypot(2 * (1 - math.exp(-1.5)), math.sqrt(variance) - 0.1)
    assert abs(gap.between - known) < 5 * math.sqrt(variance) * math.sqrt(2 / 4000) + 0.03
    assert gap.sde == pytest.approx(gap.between, rel=1e-12)


def test_it_is_the_distance_of_what_sample_gives(seed):
    target = GaussianMixture(torch.tensor([0.3, 0.7], dtype=F64), torch.tensor([[1.0, 0.0], [-1.0, 2.0]], dtype=F64), torch.tensor([0.1, 0.5], dtype=F64))
    field, path = ExactField(Path.vp(), target), Path.vp()
    data = target.sample(150, seed=seed)
    gap = ode_sde_gap(field, 100, 20, data=data, directions=30, seed=seed)
    ode = sample(field, 100, steps=20, rule=EulerMaruyama(0.0), seed=seed)
    sde = sample(field, 100, steps=20, rule=EulerMaruyama(lambda t: diffusion_level(path, t)), seed=seed)
    distance = lambda x, y: float(sliced_w2(x, y, directions=30, seed=seed))
    assert gap == OdeSdeGap(distance(ode, sde), distance(ode, data), distance(sde, data))
    assert gap == ode_sde_gap(field, 100, 20, data=data, directions=30, seed=seed, batch=33)
    assert gap != ode_sde_gap(field, 100, 20, data=data, directions=30, seed=seed + 1)


def test_on_the_line_it_is_exact_and_without_data_it_says_nothing_of_them(seed):
    field = ExactField(Path.linear(), TARGET)
    ode, sde = (sample(field, 80, steps=10, rule=EulerMaruyama(level), seed=seed) for level in (0.0, 2.0))
    gap = ode_sde_gap(field, 80, 10, epsilon=2.0, seed=seed)
    known = float((ode[:, 0].sort().values - sde[:, 0].sort().values).square().mean().sqrt())      # in one dimension ranks are paired
    assert gap.between == pytest.approx(known, rel=1e-9)
    assert math.isnan(gap.ode) and math.isnan(gap.sde)


def test_without_a_level_it_is_the_paths_own(seed):
    """sigma(t) = 1 - t on the linear path, whose own is infinite at the noise; beta / 2 of the variance-preserving one."""
    for path, level in ((Path.linear(), lambda t: 1 - t), (Path.vp(0.3, 7.0), lambda t: 0.5 * (0.3 + (1 - t) * 6.7))):
        gap, same, half = (ode_sde_gap(ExactField(path, TARGET), 50, 8, epsilon=e, seed=seed) for e in (None, level, lambda t, level=level: 0.5 * level(t)))
        assert gap.between == pytest.approx(same.between, rel=1e-9) and gap.between != pytest.approx(half.between, rel=1e-3)


FIELD = ExactField(Path.linear(), TARGET)


@pytest.mark.parametrize(("settings", "error", "says"), [
    ({"n": 10, "epsilon": 0.0}, ValueError, "epsilon must be above 0"),
    ({"n": 10, "epsilon": -1.0}, ValueError, "epsilon must lie in"),
    ({"n": 10, "epsilon": lambda t: 0.0}, ValueError, "epsilon must be above 0 somewhere"),
    ({"n": 10, "times": Times.uniform(Path.linear(), 4).reversed()}, ValueError, "times must run from noise to data, got 1 to 0"),
    ({"n": 0}, ValueError, "n must be at least 1, got 0"),
    ({}, ValueError, "n or start must be given"),
    ({"n": 10, "steps": 0}, ValueError, "steps must be at least 1, got 0"),
    ({"n": 10, "directions": 0}, ValueError, "directions must be at least 1, got 0"),
    ({"n": 10, "data": torch.zeros(5, 2)}, ValueError, r"data must have the event shape of samples, \(1,\), got \(2,\)"),
    ({"n": 10, "data": torch.full((5, 1), math.nan)}, ValueError, "data must be finite"),
], ids=lambda v: "-".join(v) if isinstance(v, dict) else None)
def test_refusals(settings, error, says):
    with pytest.raises(error, match=says):
        ode_sde_gap(FIELD, **{"steps": 3, **settings})


def test_other_refusals():
    with pytest.raises(TypeError, match="field"):
        ode_sde_gap(lambda x, t: x, 10)
    with pytest.raises(ValueError, match="two-sided"):
        diffusion_level(Path.interpolant(), 0.5)
    with pytest.raises(ValueError, match=r"t must lie in \[0, 1\]"):
        diffusion_level(Path.vp(), 1.5)
