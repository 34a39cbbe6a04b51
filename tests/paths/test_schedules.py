"""Schedules against the libraries they come from, monotone curves against SciPy, and properties that hold for all settings."""
from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import PchipInterpolator

from rheos.core import Draws
from rheos.paths import EDM, KINDS, LAM, RHO7, VE, VP, Betas, Coefficients, Interpolant, KineticOptimal, Linear, Path, Student, T, Times
from rheos.paths.curves import MonotoneCubic

F64 = torch.float64
UNEVEN = (0.02, 0.31, 0.0007, 0.6, 0.11, 0.93, 0.4)       # neither rising nor falling
FAST = settings(max_examples=30, deadline=None, derandomize=True)


def knots_x_and_y():
    return torch.tensor([-1.0, -0.2, 0.1, 1.4, 1.5, 3.0], dtype=F64), torch.tensor([0.3, 1.9, 2.0, 2.1, 2.2, 5.5], dtype=F64)


# -- discrete paths ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("betas", [np.linspace(1e-4, 0.02, 1000), np.array(UNEVEN), np.array([0.5, 0.1]), np.geomspace(1e-8, 0.999, 60)],
                         ids=["linear", "uneven", "two", "wide"])
def test_at_whole_steps_alpha_is_the_product_of_what_each_step_keeps(betas):
    path = Path.from_betas(torch.from_numpy(betas))
    steps = torch.arange(len(betas), dtype=F64)
    at = path.coefficients(path.schedule.time_of(steps))
    kept = np.cumprod(1 - betas)
    torch.testing.assert_close(at.b, torch.from_numpy(np.sqrt(kept)), rtol=1e-10, atol=1e-13)
    # What is lost, summed from the data's end: 1 - kept_k = beta_k + (1 - beta_k)(1 - kept_{k-1}), without cancellation.
    lost = [betas[0]]
    for beta in betas[1:]:
        lost.append(beta + (1 - beta) * lost[-1])
    torch.testing.assert_close(at.c, torch.from_numpy(np.sqrt(lost)), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_at_whole_steps_alpha_is_that_of_diffusers(name):
    from diffusers import DDPMScheduler

    peer = DDPMScheduler(num_train_timesteps=300, beta_schedule=name)
    path = Path.from_betas(peer.betas)
    k = torch.tensor([0, 1, 17, 150, 298, 299])
    found = path.coefficients(path.schedule.time_of(k)).b ** 2
    torch.testing.assert_close(found.float(), peer.alphas_cumprod[k], rtol=2e-5, atol=1e-8)        # theirs is a product of float32 numbers


def test_the_noisiest_step_is_at_zero_and_the_first_at_one():
    schedule = Path.from_betas(UNEVEN).schedule
    assert schedule.time_of(6) == 0 and schedule.time_of(0) == 1 and schedule.time_of(1.5) == 0.75
    assert schedule.time_of(torch.tensor([3, 0])).tolist() == [0.5, 1.0]
    ends = schedule.coefficients(torch.tensor([0.0, 1.0], dtype=F64))
    assert ends.c[0] > ends.c[1] and abs(ends.c[1] - math.sqrt(0.02)) < 1e-14


def test_between_the_steps_lam_is_scipys_curve_and_the_rest_follows_from_it():
    """alpha^2 + sigma^2 = 1 with lam given, so alpha = 1 / sqrt(1 + e^{-2 lam}); derivatives by central differences of that."""
    path = Path.from_betas(UNEVEN)
    lost = -np.expm1(np.cumsum(np.log1p(-np.array(UNEVEN))))
    curve = PchipInterpolator(np.linspace(0, 1, 7), (0.5 * np.log((1 - lost) / lost))[::-1])
    t = np.linspace(0.013, 0.987, 52)
    alpha = lambda t: 1 / np.sqrt(1 + np.exp(-2 * curve(t)))
    sigma = lambda t: 1 / np.sqrt(1 + np.exp(2 * curve(t)))
    at, h = path.coefficients(torch.from_numpy(t)), 1e-5
    for found, true in ((at.b, alpha(t)), (at.c, sigma(t))):
        torch.testing.assert_close(found, torch.from_numpy(true), rtol=1e-12, atol=1e-14)
    for found, value in ((at.db, alpha), (at.dc, sigma)):
        torch.testing.assert_close(found, torch.from_numpy((value(t + h) - value(t - h)) / (2 * h)), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(at.cdc, -at.b * at.db, rtol=1e-12, atol=1e-14)


def test_derivatives_go_on_across_the_steps():
    path, e = Path.from_betas(UNEVEN), 1e-9
    steps = path.schedule.time_of(torch.arange(1, 6))
    before, after = path.coefficients(steps - e), path.coefficients(steps + e)
    for a, b in ((before.db, after.db), (before.dc, after.dc), (before.cdc, after.cdc)):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    # The second derivative does jump: the knots are where we think they are.
    second = [(path.coefficients(steps + d).db - path.coefficients(steps).db) / d for d in (-1e-6, 1e-6)]
    assert float((second[0] - second[1]).abs().max()) > 0.1


def test_where_lam_stands_still_a_velocity_tells_no_data():
    """The curve through these steps begins flat (SciPy's end rule): at t = 0 the velocity is 0 whatever x1, and data is 0 / 0."""
    path = Path.from_betas(UNEVEN)
    assert float(path.coefficients(0.0).db) == 0 and path.amplification("velocity") == math.inf
    for t in (0.0, torch.zeros(1, dtype=F64)):
        with pytest.raises(ValueError, match="data cannot be read off a velocity"):
            path.convert(torch.ones(1, 2, dtype=F64), torch.ones(1, 2, dtype=F64), t, of="velocity", to="data")


def test_betas_may_come_as_a_list_or_in_float32():
    listed, single = Path.from_betas(list(UNEVEN)), Path.from_betas(torch.tensor(UNEVEN))
    assert listed == Path(Betas(UNEVEN)) and hash(listed) == hash(Path(Betas(UNEVEN))) and listed != single
    torch.testing.assert_close(listed.lam(0.3), single.lam(0.3), rtol=1e-5, atol=1e-6)
    assert repr(listed.schedule) == "Betas(7 steps from 0.02 to 0.4)"


# -- monotone curves ---------------------------------------------------------------------------------------------------------

def test_the_curve_is_scipys():
    x, y = knots_x_and_y()
    peer, at = PchipInterpolator(x.numpy(), y.numpy()), torch.cat([x, torch.linspace(-1, 3, 77, dtype=F64)])
    value, slope = MonotoneCubic(x, y)(at)
    torch.testing.assert_close(value, torch.from_numpy(peer(at.numpy())), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(slope, torch.from_numpy(peer(at.numpy(), 1)), rtol=1e-11, atol=1e-11)


def test_outside_the_curve_goes_on_straight():
    x, y = knots_x_and_y()
    curve = MonotoneCubic(x, y)
    (low, high), (slope_low, slope_high) = curve(x[[0, -1]])
    assert slope_low > 0.5 and slope_high > 0.5
    value, slope = curve(torch.tensor([[-3.0, 4.5], [-1.5, 3.1]], dtype=F64))
    torch.testing.assert_close(value, torch.stack([low + slope_low * torch.tensor([-2.0, -0.5], dtype=F64), high + slope_high * torch.tensor([1.5, 0.1], dtype=F64)], 1))
    torch.testing.assert_close(slope, torch.stack([slope_low, slope_high]).expand(2, 2))
    torch.testing.assert_close(curve.inverse(value), torch.tensor([[-3.0, 4.5], [-1.5, 3.1]], dtype=F64), rtol=1e-12, atol=1e-12)


@FAST
@given(st.lists(st.tuples(st.floats(0.05, 3), st.floats(0.05, 3)), min_size=1, max_size=8), st.lists(st.floats(-0.5, 1.5), min_size=1, max_size=20))
def test_the_curve_rises_and_its_inverse_brings_back(moves, places):
    x, y = (torch.tensor([0.2, *(m[i] for m in moves)], dtype=F64).cumsum(0) for i in (0, 1))
    at = x[0] + (x[-1] - x[0]) * torch.tensor(sorted(places), dtype=F64)
    curve = MonotoneCubic(x, y)
    value, slope = curve(at)
    assert bool((slope >= 0).all()) and bool((value.diff() >= -1e-13).all())
    steep = slope > 1e-3
    torch.testing.assert_close(curve.inverse(value)[steep], at[steep], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(curve(curve.inverse(value))[0], value, rtol=1e-11, atol=1e-11)


def test_where_the_knots_stand_still_the_curve_does_too():
    curve = MonotoneCubic(torch.tensor([0.0, 1.0, 2.5, 3.0], dtype=F64), torch.tensor([-1.0, 2.0, 2.0, 7.0], dtype=F64))
    value, slope = curve(torch.linspace(1, 2.5, 11, dtype=F64))
    assert value.tolist() == [2.0] * 11 and slope.abs().max() == 0
    around = torch.tensor([0.5, 2.7], dtype=F64)
    torch.testing.assert_close(curve.inverse(curve(around)[0]), around, rtol=1e-10, atol=1e-10)


def test_the_inverse_of_a_flat_piece_is_its_later_end():
    curve = MonotoneCubic(torch.tensor([0.0, 1.0, 2.5, 3.0], dtype=F64), torch.tensor([-1.0, 2.0, 2.0, 7.0], dtype=F64))
    assert curve.inverse(torch.tensor([2.0], dtype=F64)).item() == pytest.approx(2.5, abs=1e-8)       # a root of a curve that is flat there


# -- continuous paths --------------------------------------------------------------------------------------------------------

def test_edm_levels_are_diffusers_karras_levels():
    from diffusers import EDMEulerScheduler

    peer = EDMEulerScheduler(sigma_min=0.03, sigma_max=45.0, rho=5.0)
    peer.set_timesteps(12)
    times = Times.uniform(Path.edm(0.03, 45.0, 5.0), 11)
    torch.testing.assert_close(times.sigma.float(), peer.sigmas[:-1], rtol=1e-5, atol=0)
    assert torch.equal(times.alpha, torch.ones(12, dtype=F64))
    assert abs(float(times.sigma[0]) - 45) < 1e-12 and abs(float(times.sigma[-1]) - 0.03) < 1e-14
    # Even steps in the clock named after that spacing are even steps in t here, for its rho 7.
    torch.testing.assert_close(Times.uniform(Path.edm(), 9, RHO7).t, Times.uniform(Path.edm(), 9, T).t, rtol=0, atol=1e-12)


def test_rho7_spaces_any_path_by_karras_levels():
    from diffusers import EDMEulerScheduler

    times = Times.uniform(Path.vp(), 8, RHO7)
    ends = times.sigma[[0, -1]] / times.alpha[[0, -1]]
    peer = EDMEulerScheduler(sigma_min=float(ends[1]), sigma_max=float(ends[0]))
    peer.set_timesteps(9)
    torch.testing.assert_close((times.sigma / times.alpha).float(), peer.sigmas[:-1], rtol=2e-5, atol=0)


def test_ve_levels_are_geometric_and_diffusers():
    from diffusers import ScoreSdeVeScheduler

    peer = ScoreSdeVeScheduler(sigma_min=0.02, sigma_max=30.0)
    peer.set_timesteps(10)
    peer.set_sigmas(10)
    sigma = Times.uniform(Path.ve(0.02, 30.0), 9).sigma
    torch.testing.assert_close(sigma.flip(0).float(), peer.discrete_sigmas, rtol=1e-5, atol=0)
    torch.testing.assert_close(sigma[1:] / sigma[:-1], torch.full((9,), (0.02 / 30) ** (1 / 9), dtype=F64), rtol=1e-12, atol=0)


def test_cosine_turns_at_constant_speed_and_is_nicholas_schedule_without_its_offset():
    from diffusers import DDPMScheduler

    t = torch.linspace(0, 1, 33, dtype=F64)
    at = Path.cosine().coefficients(t)
    torch.testing.assert_close(torch.atan2(at.b, at.c), 0.5 * math.pi * t, rtol=1e-14, atol=1e-15)
    torch.testing.assert_close(at.b**2 + at.c**2, torch.ones(33, dtype=F64))
    torch.testing.assert_close(at.db**2 + at.dc**2, torch.full((33,), math.pi**2 / 4, dtype=F64))
    assert at.c[-1] == 0 and at.b[0] == 0
    kept = DDPMScheduler(num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2").alphas_cumprod
    k = torch.tensor([99, 499, 799])
    # Their offset 0.008 moves the angle by at most 0.008 pi / 2, and alpha^2 by half of 0.008 pi at most.
    assert float((Path.cosine().coefficients(1 - (k + 1) / 1000).b ** 2 - kept[k]).abs().max()) < 0.5 * 0.008 * math.pi


RATES = st.floats(0.01, 5)
SETTINGS = st.one_of(
    st.tuples(st.just("vp"), RATES, st.floats(0.1, 40)), st.tuples(st.just("ve"), RATES, st.floats(1.5, 1e5)),
    st.tuples(st.just("edm"), RATES, st.floats(1.5, 1e5), st.floats(0.5, 12)),
    st.tuples(st.just("betas"), st.lists(st.floats(1e-3, 0.9), min_size=2, max_size=30)),
)
MAKERS = {"vp": lambda low, more: VP(low, low + more), "ve": lambda low, times: VE(low, low * times),
          "edm": lambda low, times, rho: EDM(low, low * times, rho), "betas": lambda betas: Betas(tuple(betas))}


@FAST
@given(SETTINGS, st.lists(st.floats(1e-3, 1 - 1e-3), min_size=2, max_size=12, unique=True))
def test_whatever_the_settings_lam_rises_and_has_an_inverse(known, times):
    path, t = Path(MAKERS[known[0]](*known[1:])), torch.tensor(sorted(times), dtype=F64)
    lam = path.lam(t)
    apart = t.diff() > 1e-6
    assert bool((lam.diff()[apart] > 0).all()) and bool(lam.isfinite().all())
    torch.testing.assert_close(path.lam(path.time_at(lam)), lam, rtol=1e-8, atol=1e-8)
    at, h = path.coefficients(t), 1e-7
    slope = (path.lam(t + h) - path.lam(t - h)) / (2 * h)
    torch.testing.assert_close(at.db / at.b - at.dc / at.c, slope, rtol=1e-3, atol=1e-3 * float(slope.max()))


# -- how an error of a prediction grows ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "residual"])
@pytest.mark.parametrize("path", [Path.linear(), Path.vp(), Path.cosine(), Path.ve(0.05, 9.0), Path.edm(), Path.from_betas(np.linspace(1e-3, 0.3, 20).tolist())],
                         ids=["linear", "vp", "cosine", "ve", "edm", "betas"])
def test_amplification_is_the_slope_of_the_data_in_the_prediction(path, kind):
    x = torch.tensor([[0.7, -1.2]], dtype=F64)
    expected = path.amplification(kind)
    if kind in ("noise", "score") and float(path.coefficients(0.0).b) < 1e-12:
        assert expected == math.inf or expected > 1e12
        return
    if kind == "velocity" and path.schedule == Path.cosine().schedule:
        assert expected == pytest.approx(2 / math.pi, rel=1e-12)       # alpha' is pi / 2 at t = 0, where alpha is 0
        return
    read = lambda value: path.convert(value, x, 0.0, of=kind, to="data")
    slope = (read(torch.full_like(x, 3.0)) - read(torch.full_like(x, 1.0))).abs() / 2
    torch.testing.assert_close(slope, torch.full_like(x, expected), rtol=1e-9, atol=0)


# -- files -------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("path", [Path.from_betas(UNEVEN), Path.edm(noise=Student(3.5)), Path.linear(noise=Student(math.inf))], ids=["betas", "student", "student of infinity"])
def test_paths_are_written_as_plain_json(path):
    """No Infinity: files are strict JSON."""
    again = Path.from_json(json.loads(json.dumps(path.to_json(), allow_nan=False)))
    assert again.noise.gaussian == path.noise.gaussian and again.schedule == path.schedule


# -- refusals ----------------------------------------------------------------------------------------------------------------

class Fading:
    """A schedule whose coefficients differ by coordinate of a basis."""

    two_sided, spectral, interval = False, True, (0.0, 1.0)

    def coefficients(self, t):
        power = torch.tensor([[1.0, 2.0, 3.0], [2.0, 3.0, 1.5]], dtype=F64)
        b, db = t[..., None, None] ** power, power * t[..., None, None] ** (power - 1)
        return Coefficients(0.0, b, 1 - b, 0.0, db, -db, (b - 1) * db)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: Path.from_betas([0.1]), "betas must hold at least 2 numbers, got 1"),
    (lambda: Path.from_betas([]), "betas must hold at least 2 numbers, got 0"),
    (lambda: Path.from_betas([0.1, 0.0, 0.2]), r"betas must lie in \(0, 1\), got 0 at step 1"),
    (lambda: Path.from_betas([0.1, 0.2, 1.0]), r"betas must lie in \(0, 1\), got 1 at step 2"),
    (lambda: Path.from_betas([-0.1, 0.2]), r"betas must lie in \(0, 1\), got -0.1 at step 0"),
    (lambda: Betas((0.1, math.nan)), r"betas must lie in \(0, 1\), got nan at step 1"),
    (lambda: Path.from_betas([0.1, 0.2]).schedule.time_of(2), r"step must lie in \[0, 1\], got 2"),
    (lambda: Path.from_betas([0.1, 0.2, 0.3]).schedule.time_of(torch.tensor([1.0, -0.5])), r"step must lie in \[0, 2\], got -0.5"),
    (lambda: Path.from_betas([0.1, 0.2]).schedule.time_of(torch.tensor([0.0, math.nan])), r"step must lie in \[0, 1\], got nan"),
    (lambda: Path.from_betas([0.1, 0.2]).coefficients(1.5), r"t must lie in \[0, 1\], got values from 1.5 to 1.5"),
    (lambda: MonotoneCubic(torch.tensor([0.0, 0.0]), torch.tensor([0.0, 1.0])), "knots must rise: x strictly, y without falling"),
    (lambda: MonotoneCubic(torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.9])), "knots must rise: x strictly, y without falling"),
    (lambda: MonotoneCubic(torch.tensor([0.0, 1.0]), torch.tensor([1.0, math.nan])), "knots must rise"),
    (lambda: VP(0.0), r"beta_min must lie in \(0, inf\), got 0.0"),
    (lambda: VP(1.0, 1.0), "beta_max must be above beta_min = 1.0, got 1.0"),
    (lambda: VE(-1.0), r"sigma_min must lie in \(0, inf\), got -1.0"),
    (lambda: VE(2.0, 1.0), "sigma_max must be above sigma_min = 2.0, got 1.0"),
    (lambda: EDM(2.0, 2.0), "sigma_max must be above sigma_min = 2.0, got 2.0"),
    (lambda: EDM(rho=0.0), r"rho must lie in \(0, inf\), got 0.0"),
    (lambda: EDM(sigma_max=math.inf), r"sigma_max must lie in \(0, inf\), got inf"),
    (lambda: Interpolant(mixing="circular"), "mixing must be one of linear, trigonometric, got 'circular'"),
    (lambda: Path.interpolant().time_at(0.0), "time_at exists for one-sided paths only; this path is two-sided"),
    (lambda: Path.interpolant().amplification("data"), "amplification exists for one-sided paths only"),
    (lambda: Path.interpolant().prior((2, 3)), "prior exists for one-sided paths only"),
    (lambda: Path.linear().amplification("eps"), "kind must be one of velocity, score, noise, data, v, got 'eps'"),
    (lambda: Path.linear().sample(torch.ones(2, 3), torch.full((2,), 0.5)).target("eps"), "kind must be one of velocity, score, noise, data, v, residual, got 'eps'"),
    (lambda: Path.linear().sample(torch.ones(2, 3), torch.full((2,), 0.5), z=torch.ones(3, 2)), r"z must have shape \(2, 3\), got \(3, 2\)"),
    (lambda: Path.interpolant().sample(torch.ones(2, 3), torch.full((2,), 0.5), x0=torch.ones(3, 2)), r"x0 must have shape \(2, 3\), got \(3, 2\)"),
    (lambda: Path(Fading()), "basis must be given: the coefficients of .* differ by coordinate"),
    (lambda: Path.from_json([1]), r"not a path: \[1\]"),
    (lambda: Path.from_json({"class": "rheos.paths.Student", "dof": 3.0}), "class 'rheos.paths.Student' in the file is not a schedule"),
    (lambda: Path.from_json({"class": "rheos.paths.VP", "gamma": 3.0}), "not a path: .*unexpected keyword argument 'gamma'"),
    (lambda: Path.from_json({"class": "rheos.paths.Linear", "noise": {"class": "rheos.paths.Linear"}}), "class 'rheos.paths.Linear' in the file is not a noise law"),
    (lambda: Path.from_json({"class": "rheos.paths.Linear", "basis": {"class": "rheos.paths.Gaussian"}}), "class 'rheos.paths.Gaussian' in the file is not a basis"),
    (lambda: Times.uniform(Path.vp(), 4, start=-0.5), r"start must lie in \[0, 1\], got -0.5"),
    (lambda: Times.uniform(Path.vp(), 4, end=1.5), r"end must lie in \[0, 1\], got 1.5"),
    (lambda: Times.uniform(Path.vp(), 4, start=0.3, end=0.3), "times must be strictly monotone"),
    (lambda: Times(Path.vp(), [0.3]), "times must be one-dimensional with at least 2 entries"),
    (lambda: Times.uniform(Path.interpolant(), 4, LAM), "lam exists for one-sided paths only"),
])
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("call", [
    lambda: Path("linear"), lambda: Path(Linear(), "normal"), lambda: Path(Linear(), basis="fourier"), lambda: VP("0.1"), lambda: EDM(rho=True),
    lambda: Times("linear", [0.0, 1.0]), lambda: Times.uniform(Path.linear(), 3, "lam"), lambda: Times.uniform(Path.linear(), 2.5),
    lambda: Path(lambda t: t), lambda: KineticOptimal.of("x"),
], ids=["schedule", "noise", "basis", "beta_min", "rho", "path", "clock", "steps", "function", "separation"])
def test_wrong_types_are_type_errors(call):
    with pytest.raises(TypeError):
        call()


def test_an_unknown_row_draws_nothing_new():
    """z is a function of (seed, step): the same points again, and others at another step."""
    path, x1, t = Path.edm(), torch.ones(3, 2, dtype=F64), torch.tensor([0.1, 0.5, 0.9], dtype=F64)
    first, again, other = (path.sample(x1, t, seed=Draws(4), step=s) for s in (2, 2, 3))
    assert torch.equal(first.x, again.x) and not torch.equal(first.z, other.z)
