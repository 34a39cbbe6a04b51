"""Kinetic-optimal paths: closed forms of one Gaussian, of two points and of w = 1, energies against the exact field's velocity, and refusals."""
import json
import math

import pytest
import torch

from rheos.core import Draws
from rheos.data import GaussianMixture
from rheos.paths import ExactField, Field, KineticOptimal, Path, Separation, Student, data_separation, kinetic_energy
from rheos.samplers import sample

F64 = torch.float64
HALF_PI = 0.5 * math.pi
INSIDE = torch.tensor([0.004, 0.03, 0.2, 0.5, 0.77, 0.98, 0.9995], dtype=F64)


def separation(curve, count=400, scale=1.0) -> Separation:
    """Of a curve w(angle) known in closed form."""
    angles = torch.linspace(0, 1, count, dtype=F64) * HALF_PI
    return Separation(tuple(angles.tolist()), tuple(curve(angles).tolist()), scale)


def path_of(known: Separation, **settings) -> Path:
    return Path(KineticOptimal.of(known, **settings))


def skewed_points() -> torch.Tensor:
    """Seven points in the plane without any symmetry, off the origin, two of them equal."""
    return torch.tensor([[1.4, -0.3], [-1.1, 0.9], [0.2, 2.1], [3.0, 0.4], [0.2, 2.1], [-0.6, -2.5], [0.1, 0.3]], dtype=F64)


WAVY = separation(lambda th: 0.55 + 0.4 * torch.sin(3 * th + 0.5), scale=1.7)
FLAT_IN_PARTS = Separation((0.0, 0.3, 0.5, 0.9, 1.3, HALF_PI), (0.0, 0.0, 0.6, 0.6, 0.0, 0.0), 0.4)
UNEVEN = Separation((0.0, 0.1, 0.7, 1.0, HALF_PI), (0.9, 0.2, 1.0, 0.3, 0.7))
KNOWN = {"wavy": WAVY, "flat in parts": FLAT_IN_PARTS, "uneven": UNEVEN}


# -- closed forms --------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_where_points_are_told_apart_the_optimum_is_the_linear_path(scale):
    path = path_of(separation(torch.ones_like, 5, scale))
    t = torch.linspace(0, 1, 41, dtype=F64)
    at, line = path.coefficients(t), Path.linear().coefficients(t)
    for ours, theirs in ((at.b, line.b), (at.c, scale * line.c), (at.db, torch.ones_like(t)), (at.dc, -scale * torch.ones_like(t))):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-14)
    known = separation(torch.ones_like, 5, scale)
    assert abs(known.least_energy - 2) < 1e-14 and abs(kinetic_energy(path, known) - 2) < 1e-12


def test_as_w_vanishes_the_path_becomes_the_cosine_path_and_costs_nothing():
    gaussian = separation(torch.zeros_like, 7)
    t = torch.linspace(0, 1, 41, dtype=F64)
    ours, cosine = path_of(gaussian, least=1e-3).coefficients(t), Path.cosine().coefficients(t)
    torch.testing.assert_close(ours.b, cosine.b, rtol=0, atol=1e-6)
    torch.testing.assert_close(ours.c, cosine.c, rtol=0, atol=1e-6)
    assert gaussian.least_energy == 0
    # What is left is r'^2: the chord comes (1 - r) <= least^2 near the origin.
    assert kinetic_energy(path_of(gaussian, least=1e-3), gaussian) < 1e-5
    # One Gaussian of the noise's own law stands still along the cosine path, and along no other shipped path.
    assert kinetic_energy(Path.cosine(), gaussian) < 1e-12 and kinetic_energy(Path.linear(), gaussian) > 0.1


def test_the_energy_of_one_gaussian_along_the_linear_path():
    """Data N(0, 1): v = x (2 t - 1) / (t^2 + (1 - t)^2), so the energy is int (2 t - 1)^2 / (t^2 + (1 - t)^2) dt = 2 - pi / 2."""
    assert abs(kinetic_energy(Path.linear(), separation(torch.zeros_like, 7)) - (2 - HALF_PI)) < 1e-10


def test_energies_of_a_wide_gaussian_by_its_standard_deviation():
    """Data N(0, diag(v)): along any path coordinate i has the deviation s_i(t) and the velocity x s_i' / s_i, hence the energy int s_i'^2 dt."""
    v = torch.tensor([0.2, 1.1, 1.7], dtype=F64)                        # of mean 1
    known = separation(lambda th: (1 - (v / (th.cos()[:, None] ** 2 + v * th.sin()[:, None] ** 2)).mean(1)).clamp_min(0).sqrt(), 2000)
    t = torch.linspace(0, 1, 20001, dtype=F64)
    for path in (Path.linear(), Path.cosine(), path_of(WAVY)):
        at = path.coefficients(t)
        speed = (torch.sqrt(at.b[:, None] ** 2 * v + at.c[:, None] ** 2).diff(dim=0) / t.diff()[:, None]).square()
        assert abs(kinetic_energy(path, known) / float(speed.mean()) - 1) < 2e-4


def test_two_points_on_a_line():
    """Points +-1: E[x1 | s x1 + z] = tanh(s x), so mmse(s) = 1 - E tanh(s (s + z)), by Gauss-Hermite quadrature."""
    node, weight = (torch.tensor(v, dtype=F64) for v in __import__("numpy").polynomial.hermite_e.hermegauss(120))
    measured = data_separation(torch.tensor([[1.0], [-1.0]]), angles=60, draws=4000)
    for angle, w in list(zip(measured.angles, measured.w, strict=True))[1:-1:7]:
        s = math.tan(angle)
        mmse = 1 - float((torch.tanh(s * (s + node)) * weight).sum() / weight.sum()) if s < 5 else 0.0
        assert abs(w**2 - (1 - mmse / math.cos(angle) ** 2)) < 0.04     # 4000 copies: a standard error is below 0.008
    assert measured.scale == 1 and measured.w[0] == 0 and measured.w[-1] == 1


def test_a_gaussian_cloud_needs_nearly_no_energy(seed):
    """In one dimension 1500 points have hardly a gap, so that w is small except at the data's very end."""
    cloud = 3 * torch.special.ndtri((torch.arange(1500, dtype=F64) + 0.5) / 1500)[:, None]
    measured = data_separation(cloud, angles=60, draws=400, seed=seed)
    assert measured.least_energy < 0.02 and max(measured.w[:50]) < 0.12
    assert abs(measured.scale - 3) < 0.01


# -- the best path is the best, and energies are energies ------------------------------------------------------------------------

@pytest.mark.parametrize("name", KNOWN)
def test_the_energy_along_the_best_path_is_that_of_the_chord(name):
    known = KNOWN[name]
    energy = kinetic_energy(path_of(known, least=1e-3), known)
    assert abs(energy / known.least_energy - 1) < 5e-3
    for rival in (Path.linear(), Path.cosine(), Path.vp(), path_of(KNOWN["wavy" if name != "wavy" else "uneven"])):
        at_scale = Path(Scaled(rival, known.scale))
        assert kinetic_energy(at_scale, known) > energy


class Scaled:
    """A schedule with its noise multiplied."""

    two_sided = False

    def __init__(self, path, scale):
        self.path, self.scale, self.interval = path, scale / getattr(path.schedule, "scale", 1.0), path.interval

    def coefficients(self, t):
        at = self.path.coefficients(t)
        return at._replace(c=self.scale * at.c, dc=self.scale * at.dc, cdc=self.scale**2 * at.cdc)


def test_no_path_nearby_needs_less():
    """The coefficients pushed aside by a bump that keeps the ends: energy grows, by the second order."""
    known = WAVY

    class Pushed(Scaled):
        def coefficients(self, t):
            at, push, d_push = self.path.coefficients(t), torch.sin(math.pi * t) ** 2, math.pi * torch.sin(2 * math.pi * t)
            c, dc = at.c + self.scale * push, at.dc + self.scale * d_push
            return at._replace(b=at.b + 0.7 * self.scale * push, db=at.db + 0.7 * self.scale * d_push, c=c, dc=dc, cdc=c * dc)

    def energy(size: float) -> float:
        schedule = Pushed(path_of(known), 1.0)
        schedule.scale = size
        return kinetic_energy(Path(schedule), known)

    rise = [energy(size) - energy(0.0) for size in (-0.02, 0.02, 0.04)]
    assert min(rise) > 0
    assert 3.5 < rise[2] / rise[1] < 4.5


@pytest.mark.parametrize("name", ["linear", "cosine", "vp", "wavy"])
def test_energy_is_the_mean_square_of_the_exact_velocity(name, seed):
    """Brute force: E|v|^2 at random points of the path, v from the posterior over the data."""
    x = skewed_points() - 0.4
    path = {"linear": Path.linear(), "cosine": Path.cosine(), "vp": Path.vp(), "wavy": path_of(WAVY)}[name]
    count, (start, end) = 40000, path.interval
    field, draws = ExactField(path, GaussianMixture.points(x)), Draws(seed)
    u = (torch.arange(count, dtype=F64) + draws.uniform("u", 0, (count,), dtype=F64)) / count
    t = (start + (end - start) * u).clamp_max(1 - 1e-9)
    x1 = x[draws.integers("which", 0, (count,), len(x))]
    speed = field.velocity(path.sample(x1, t, seed=draws).x, t).square().mean(1)
    brute, error = float(speed.mean()) * (end - start), float(speed.std()) * (end - start) / count**0.5
    mean_square = float(x.square().mean())
    ours = kinetic_energy(path, data_separation(x, draws=4000, seed=seed)) * mean_square
    assert abs(ours - brute) < 5 * error + 0.02 * brute                 # 0.02: the separation's own Monte Carlo and its 200 knots


# -- the measured separation -----------------------------------------------------------------------------------------------------

def test_separation_does_not_see_units_order_or_repetition():
    x = skewed_points()
    one = data_separation(x, draws=3000, angles=40)
    assert one.scale == pytest.approx(float(x.square().mean().sqrt()), rel=1e-12)
    assert one.w[0] == pytest.approx(float(x.mean(0).square().mean().sqrt()) / one.scale, rel=1e-9)
    scaled = data_separation(1000 * x.reshape(7, 1, 2), draws=3000, angles=40)
    torch.testing.assert_close(torch.tensor(scaled.w), torch.tensor(one.w), rtol=1e-6, atol=1e-6)
    assert scaled.scale == pytest.approx(1000 * one.scale, rel=1e-12)
    twice = data_separation(torch.cat([x.flip(0), x]), draws=3000, angles=40)
    assert max(abs(a**2 - b**2) for a, b in zip(twice.w, one.w, strict=True)) < 0.05
    same = data_separation(torch.full((5, 3), 0.7, dtype=F64), angles=10)      # one point five times: the mean is all there is
    torch.testing.assert_close(torch.tensor(same.w), torch.ones(10))


def test_a_field_that_knows_the_points_measures_what_the_points_do(seed):
    x = skewed_points().reshape(7, 1, 2)
    exact = ExactField(Path.vp(), GaussianMixture.points(x))
    by_field, by_points = (data_separation(x, field=f, angles=30, draws=2000, seed=seed) for f in (exact, None))
    assert max(abs(a**2 - b**2) for a, b in zip(by_field.w, by_points.w, strict=True)) < 0.12
    assert abs(by_field.least_energy / by_points.least_energy - 1) < 0.1


def test_a_field_measures_the_law_where_points_would_measure_the_sample(seed):
    """One Gaussian: w^2 = 1 - mean v / (cos^2 + v sin^2), small everywhere, while 300 points of it are told apart in the end."""
    v = torch.tensor([0.2, 1.0, 1.3, 1.5], dtype=F64)
    law = GaussianMixture(torch.ones(1, dtype=F64), torch.zeros(1, 4, dtype=F64), v[None])
    x = law.sample(300, seed=seed)
    x = x / x.square().mean(0).sqrt() * v.sqrt()
    measured = data_separation(x, field=ExactField(Path.cosine(), law), angles=30, draws=3000, seed=seed)
    angle = torch.tensor(measured.angles, dtype=F64)[1:-1, None]
    exact = 1 - (v / (angle.cos() ** 2 + v * angle.sin() ** 2)).mean(1)
    assert float((torch.tensor(measured.w, dtype=F64)[1:-1] ** 2 - exact).abs().max()) < 0.1
    assert data_separation(x, angles=30, draws=300).w[-2] > 0.9


def test_seeds_are_used_and_repeat():
    x = skewed_points()
    first, again, other = (data_separation(x, angles=8, draws=50, seed=s) for s in (3, Draws(3), 4))
    assert first == again and first != other and hash(first) == hash(again)


# -- the schedule ----------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", KNOWN)
def test_derivatives_are_derivatives(name):
    path, h = path_of(KNOWN[name]), 1e-7
    at, up, down = (path.coefficients(INSIDE + d) for d in (0, h, -h))
    torch.testing.assert_close(at.db, (up.b - down.b) / (2 * h), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(at.dc, (up.c - down.c) / (2 * h), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(at.cdc, at.c * at.dc)


@pytest.mark.parametrize("name", KNOWN)
def test_ends_are_exact_and_finite(name):
    path = path_of(KNOWN[name])
    at = path.coefficients(torch.tensor([0.0, 1.0], dtype=F64))
    assert at.b[0] == 0 and at.c[1] == 0
    assert abs(at.b[1] - 1) < 1e-15 and abs(at.c[0] - KNOWN[name].scale) < 1e-15
    assert all(bool(torch.isfinite(torch.as_tensor(v)).all()) for v in at)
    assert float(at.db.abs().max()) < 1.5 / 0.02 + 1
    near = path.coefficients(torch.tensor(1 - 1e-12, dtype=F64))        # sigma keeps its digits: it is -c' (1 - t) there
    assert float(near.c) == pytest.approx(float(-at.dc[1]) * 1e-12, rel=2e-4)
    assert path.lam(0.0) == -math.inf and path.lam(1.0) == math.inf
    assert path.time_at(-math.inf) == 0 and path.time_at(math.inf) == 1


@pytest.mark.parametrize("name", KNOWN)
def test_lam_rises_and_its_inverse_is_its_inverse(name):
    path, t = path_of(KNOWN[name]), torch.linspace(1e-5, 1 - 1e-5, 301, dtype=F64)
    lam = path.lam(t)
    assert bool((lam.diff() > 0).all())
    torch.testing.assert_close(path.time_at(lam), t, rtol=1e-10, atol=1e-12)


def test_float32_times_are_taken_in_float64():
    at = path_of(WAVY).schedule.coefficients(torch.tensor([0.25, 0.5]))
    assert at.b.dtype == F64
    torch.testing.assert_close(at.b, path_of(WAVY).coefficients(torch.tensor([0.25, 0.5], dtype=F64)).b, rtol=0, atol=0)


def test_it_can_be_saved():
    path = path_of(FLAT_IN_PARTS, least=0.05)
    again = Path.from_json(json.loads(json.dumps(path.to_json())))
    assert again == path and hash(again.schedule) == hash(path.schedule) and again.schedule.least == 0.05
    assert path != path_of(FLAT_IN_PARTS) and "least energy" in repr(path)


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_sampling_ends_at_the_law_of_the_data(scale, seed):
    """Coarse against fine times from one start, and the fine end has the weights and the spread of the mixture."""
    law = GaussianMixture(torch.tensor([0.3, 0.7], dtype=F64), scale * torch.tensor([[1.5, 0.4], [-0.7, -0.5]], dtype=F64),
                          scale**2 * torch.tensor([[0.02, 0.03], [0.04, 0.01]], dtype=F64))
    path = path_of(data_separation(law.sample(400, seed=seed), draws=400, angles=60, seed=seed))
    field, start = ExactField(path, law), path.prior((400, 2), seed=seed, dtype=F64)
    ends = [sample(field, start=start, steps=steps) for steps in (12, 24, 300)]
    errors = [float((end - ends[2]).norm(dim=1).median()) / scale for end in ends[:2]]
    assert errors[1] < 0.4 * errors[0] < 0.03
    right = (ends[2][:, 0] > 0.4 * scale).double().mean()
    assert abs(float(right) - 0.3) < 5 * math.sqrt(0.21 / 400)
    left = ends[2][ends[2][:, 0] < 0]
    assert abs(float(left[:, 1].std()) / scale - 0.1) < 0.025 and abs(float(left[:, 0].std()) / scale - 0.2) < 0.05


# -- refusals --------------------------------------------------------------------------------------------------------------------

FIELD = Field(lambda x, t, cond: x, Path.linear(), predicts="data")
BAD_DATA = {
    "no point": (torch.zeros(0, 2), {}, "x must hold at least 2 points"),
    "one point": (torch.ones(1, 2), {}, "x must hold at least 2 points, got shape (1, 2)"),
    "no axis": (torch.zeros(4, 0), {}, "x must hold at least 2 points"),
    "all 0": (torch.zeros(4, 2), {}, "x must not be all 0"),
    "not finite": (torch.tensor([[1.0], [math.nan]]), {}, "x must be finite"),
    "too large": (torch.full((3, 1), 1e200, dtype=F64), {}, "x must have squares"),
    "angles": (torch.ones(2, 1), {"angles": 2}, "angles must be at least 3, got 2"),
    "draws": (torch.ones(2, 1), {"draws": 0}, "draws must be at least 1, got 0"),
    "two-sided field": (torch.ones(2, 1), {"field": Field(lambda x, t, cond: x, Path.interpolant("none"))}, "field.path must be one-sided"),
    "Student field": (torch.ones(2, 1), {"field": Field(lambda x, t, cond: x, Path.linear(noise=Student(3.0)))}, "field.path must have Gaussian noise"),
    "field of another shape": (torch.ones(2, 1), {"field": ExactField(Path.linear(), GaussianMixture.points(torch.eye(2)))}, "event shape of x, (1,), got (2,)"),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_refuses_data(case):
    x, settings, message = BAD_DATA[case]
    with pytest.raises(ValueError) as refusal:
        data_separation(x, **settings)
    assert message in str(refusal.value)


BAD_CURVES = {
    "different lengths": (((0.0, HALF_PI), (1.0,)), "equally many numbers, at least 2, got 2 and 1"),
    "one knot": (((0.0,), (1.0,)), "at least 2"),
    "begins late": (((0.1, HALF_PI), (1.0, 1.0)), "angles must run from 0 to pi / 2, got 0.1 to 1.5708"),
    "ends early": (((0.0, 1.5), (1.0, 1.0)), "angles must run from 0 to pi / 2, got 0 to 1.5"),
    "turns": (((0.0, 1.0, 0.5, HALF_PI), (1.0, 1.0, 1.0, 1.0)), "angles must be strictly monotone"),
    "w above 1": (((0.0, HALF_PI), (1.0, 1.1)), "w must lie in [0, 1], got 1.1 at knot 1"),
    "w below 0": (((0.0, HALF_PI), (-0.1, 1.0)), "w must lie in [0, 1], got -0.1 at knot 0"),
    "w not a number": (((0.0, HALF_PI), (math.nan, 1.0)), "w must be finite"),
    "scale 0": (((0.0, HALF_PI), (1.0, 1.0), 0.0), "scale must lie in (0, inf), got 0.0"),
}


@pytest.mark.parametrize("case", BAD_CURVES)
@pytest.mark.parametrize("kind", [Separation, KineticOptimal])
def test_refuses_curves(kind, case):
    arguments, message = BAD_CURVES[case]
    with pytest.raises(ValueError) as refusal:
        kind(*arguments)
    assert message in str(refusal.value)


@pytest.mark.parametrize("least", [0.0, 1.5, -0.1])
def test_refuses_a_least_w(least):
    with pytest.raises(ValueError, match=r"least must lie in \(0, 1\]"):
        KineticOptimal.of(WAVY, least=least)


def test_refuses_paths_whose_energy_it_does_not_know():
    for path, message in ((Path.interpolant(), "path must be one-sided"), (Path.linear(noise=Student(3.0)), "path must have Gaussian noise")):
        with pytest.raises(ValueError, match=message):
            kinetic_energy(path, WAVY)
