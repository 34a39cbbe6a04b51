"""Paths and fields: closed forms, both clocks, conversions there and back, the singular ends, and the exact field against brute force."""
import math
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from rheos.core import Draws
from rheos.data import GaussianMixture, skewed
from rheos.paths import KINDS, LAM, QUADRATIC, RHO, SQRT_U, Clock, Coefficients, ExactField, Field, Path, Prediction, T, Times, U

NAMED = [kind for kind in KINDS if kind != "residual"]     # a residual needs a source

F64 = torch.float64
ONE_SIDED = {"linear": Path.linear(), "vp": Path.vp(), "steep vp": Path.vp(0.3, 7.0), "cosine": Path.cosine(), "ve": Path.ve(0.05, 9.0),
             "edm": Path.edm(0.02, 30.0, 5.0), "betas": Path.from_betas(torch.linspace(1e-4, 0.03, 400, dtype=F64) ** 1.1)}
TWO_SIDED = {"sqrt": Path.interpolant(), "none": Path.interpolant("none"), "sin2": Path.interpolant("sin2", "trigonometric"),
             "own": Path.interpolant(lambda t: t * t * (1 - t))}
ALL = ONE_SIDED | TWO_SIDED
INSIDE = torch.tensor([0.03, 0.2, 0.5, 0.77, 0.98], dtype=F64)


def mixture(**kinds):
    return GaussianMixture(torch.tensor([0.2, 0.5, 0.3], dtype=F64), torch.tensor([[1.0, -2.0], [0.3, 0.4], [-1.5, 2.5]], dtype=F64),
                           torch.tensor([[0.3, 0.05], [0.1, 0.4], [0.2, 0.2]], dtype=F64), torch.tensor([0, 1, 1]), **kinds)


# -- schedules ---------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", ALL)
def test_derivatives_are_derivatives(name):
    path, h = ALL[name], 1e-6
    at, up, down = path.coefficients(INSIDE), path.coefficients(INSIDE + h), path.coefficients(INSIDE - h)
    for value, high, low in ((at.da, up.a, down.a), (at.db, up.b, down.b), (at.dc, up.c, down.c)):
        assert (abs(value - (high - low) / (2 * h)) < 1e-7 + 1e-7 * abs(torch.as_tensor(value))).all() if isinstance(high, torch.Tensor) else value == high - low
    torch.testing.assert_close(at.cdc, at.c * at.dc)


def test_ends_have_the_laws_they_should():
    for path in TWO_SIDED.values():
        at = path.coefficients(torch.tensor([0.0, 1.0]))
        torch.testing.assert_close(torch.stack([at.a, at.b, at.c]), torch.tensor([[1.0, 0], [0, 1], [0, 0]], dtype=F64), atol=1e-15, rtol=0)
    at = Path.linear().coefficients(torch.tensor([0.0, 1.0]))
    assert at.b.tolist() == [0, 1] and at.c.tolist() == [1, 0]
    at = Path.vp().coefficients(torch.tensor([0.0, 1.0]))
    assert at.b[1] == 1 and at.c[1] == 0 and abs(at.b[0] - math.exp(-(0.05 + 19.9 / 4))) < 1e-15
    torch.testing.assert_close(at.b**2 + at.c**2, torch.ones(2, dtype=F64))


def test_the_square_root_gamma_keeps_a_finite_product_at_the_ends():
    at = Path.interpolant().coefficients(torch.tensor([0.0, 1.0]))
    assert at.cdc.tolist() == [1.0, -1.0] and torch.isinf(at.dc).all()


def test_vp_is_the_discrete_schedule_it_stands_for():
    """The continuous rate 0.1..20 against the product of 1 - beta_k, beta 1e-4..0.02 in 1000 steps."""
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=F64)
    log_alphas = 0.5 * torch.cumsum(torch.log1p(-betas), 0)
    ours = Path.vp().coefficients(1 - torch.arange(1, 1001, dtype=F64) / 1000).b.log()
    # log(1 - beta) = -beta - beta^2 / 2 - ...: the continuous path leaves the second term out. What is left is the difference between the
    # integral and its sum of 1000 terms, at most 0.0199 / 16.
    second = 0.25 * torch.cumsum(betas**2, 0)
    torch.testing.assert_close(ours - log_alphas, second, rtol=0, atol=0.0199 / 16 * 1.1)


@pytest.mark.parametrize("name", ONE_SIDED)
def test_lam_rises_and_its_inverse_is_its_inverse(name):
    path, t = ONE_SIDED[name], torch.linspace(1e-4, 1 - 1e-4, 101, dtype=F64)
    lam = path.lam(t)
    assert bool((lam[1:] > lam[:-1]).all())
    torch.testing.assert_close(path.time_at(lam), t, rtol=1e-11, atol=1e-12)


def test_the_clock_runs_from_noise_to_data_and_the_linear_velocity_is_data_minus_noise():
    """Pins the sign: the other clock, common in papers, has noise minus data."""
    x1, z = torch.tensor([[2.0, -1.0]]), torch.tensor([[0.5, 3.0]])
    point = Path.linear().sample(x1, torch.tensor([0.25]), z=z)
    assert point.x.tolist() == [[0.875, 2.0]] and point.velocity.tolist() == [[1.5, -4.0]]
    h = 1e-3
    later = Path.linear().sample(x1, torch.tensor([0.25 + h]), z=z)
    torch.testing.assert_close((later.x - point.x) / h, point.velocity, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ALL)
def test_the_velocity_of_a_point_is_its_time_derivative(name):
    path = ALL[name]
    x1, z, h = Draws(1).rows("x1", 0, (5, 3), dtype=F64), Draws(1).rows("z", 0, (5, 3), dtype=F64), 1e-6
    x0 = Draws(1).rows("x0", 0, (5, 3), dtype=F64) if path.two_sided else None
    points = [path.sample(x1, INSIDE + d, x0=x0, z=z) for d in (-h, 0, h)]
    torch.testing.assert_close((points[2].x - points[0].x) / (2 * h), points[1].velocity, rtol=1e-6, atol=1e-6)


# -- conversions -------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", ONE_SIDED)
@pytest.mark.parametrize("of", NAMED)
@pytest.mark.parametrize("to", NAMED)
def test_conversions_give_what_made_the_point(name, of, to):
    """x and v are made from x1 and z; every kind read off every other must be the one that went in."""
    path, x1, z = ONE_SIDED[name], Draws(2).rows("x1", 0, (5, 2, 3), dtype=F64), Draws(2).rows("z", 0, (5, 2, 3), dtype=F64)
    point = path.sample(x1, INSIDE, z=z)
    at = path.coefficients(INSIDE)
    angle = torch.atan2(at.b, at.c)[:, None, None]         # v is the rate at which x / |(b, c)| turns from data to noise
    kinds = {"velocity": point.velocity, "data": x1, "noise": z, "score": -z / at.c[:, None, None], "v": angle.sin() * z - angle.cos() * x1}
    torch.testing.assert_close(point.target(of), kinds[of], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(path.convert(kinds[of], point.x, INSIDE, of=of, to=to), kinds[to], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["sqrt", "sin2", "own"])
@pytest.mark.parametrize("second", ["noise", "score"])
def test_two_sided_conversions_from_velocity_and_noise(name, second):
    path = TWO_SIDED[name]
    x1, z, x0 = (Draws(3).rows(k, 0, (5, 3), dtype=F64) for k in ("x1", "z", "x0"))
    point = path.sample(x1, INSIDE, x0=x0, z=z)
    kinds = {"noise": z, "score": -z / path.coefficients(INSIDE).c[:, None]}
    known = {"velocity": point.velocity, second: kinds[second]}
    answer = Prediction(known, point.x, path.coefficients(INSIDE), two_sided=True)
    for kind, truth in {"data": x1, "source": x0, **kinds}.items():
        torch.testing.assert_close(answer.of(kind), truth, rtol=1e-8, atol=1e-8)
    back = Prediction({"data": x1, "source": x0}, point.x, path.coefficients(INSIDE), two_sided=True)
    torch.testing.assert_close(back.velocity, point.velocity, rtol=1e-8, atol=1e-8)


def test_two_sided_conversions_from_data_and_noise():
    path = TWO_SIDED["sin2"]
    x1, z, x0 = (Draws(3).rows(k, 0, (5, 3), dtype=F64) for k in ("x1", "z", "x0"))
    point = path.sample(x1, INSIDE, x0=x0, z=z)
    for known in ({"data": x1, "noise": z}, {"data": x1, "score": -z / path.coefficients(INSIDE).c[:, None]}):
        answer = Prediction(known, point.x, path.coefficients(INSIDE), two_sided=True)
        torch.testing.assert_close(answer.source, x0, rtol=1e-8, atol=1e-8)
        torch.testing.assert_close(answer.velocity, point.velocity, rtol=1e-7, atol=1e-7)


def test_a_noiseless_two_sided_path_reads_both_ends_off_the_velocity():
    path, x0, x1 = TWO_SIDED["none"], torch.tensor([[1.0, 2.0]], dtype=F64), torch.tensor([[-3.0, 0.5]], dtype=F64)
    point = path.sample(x1, torch.tensor([0.3], dtype=F64), x0=x0)
    assert point.z is None
    torch.testing.assert_close(path.convert(point.velocity, point.x, 0.3, of="velocity", to="data"), x1)
    torch.testing.assert_close(path.convert(point.velocity, point.x, 0.3, of="velocity", to="source"), x0)
    with pytest.raises(ValueError, match="no noise to predict"):
        point.target("noise")


def test_the_ends_give_the_finite_member_or_a_clear_error():
    linear, x = Path.linear(), torch.tensor([[2.0, -1.0]], dtype=F64)
    v = torch.tensor([[0.5, 3.0]], dtype=F64)
    at0 = Prediction({"velocity": v}, x, linear.coefficients(0.0))
    torch.testing.assert_close(at0.noise, x)                     # x is the noise at t = 0
    torch.testing.assert_close(at0.data, x + v)                  # and x1 = z + v
    torch.testing.assert_close(at0.score, -x)
    assert torch.equal(Prediction({"velocity": v}, x, linear.coefficients(1.0)).data, x)         # x is the data at t = 1
    for kind in ("noise", "score"):
        with pytest.raises(ValueError, match="where no noise is left|end of the path"):
            Prediction({"velocity": v}, x, linear.coefficients(1.0)).of(kind)
    assert torch.equal(Prediction({"noise": v}, x, linear.coefficients(1.0)).data, x)
    with pytest.raises(ValueError, match=r"data cannot be read off a noise prediction at t = 0"):
        Prediction({"noise": v}, x, linear.coefficients(0.0)).of("data")
    with pytest.raises(ValueError, match="velocity cannot be read off a data prediction at an end"):
        Prediction({"data": v}, x, linear.coefficients(1.0)).of("velocity")
    # the velocity of VP at t = 1 is infinite as a sum, but finite read off the score
    vp = Path.vp().coefficients(1.0)
    torch.testing.assert_close(Prediction({"score": v}, x, vp).velocity, float(vp.db) * x - float(vp.cdc) * v)


def test_a_time_for_each_row_equals_row_by_row():
    field, x = ExactField(Path.vp(), mixture()), Draws(0).rows("x", 0, (5, 2), dtype=F64)
    whole = field(x, INSIDE)
    for i, t in enumerate(INSIDE):
        one = field(x[i : i + 1], t)
        for kind in NAMED:
            torch.testing.assert_close(whole.of(kind)[i : i + 1], one.of(kind), rtol=1e-12, atol=1e-12)


# -- fields ------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("predicts", NAMED)
def test_a_field_answers_every_kind_from_what_its_network_predicts(predicts):
    exact, x = ExactField(Path.vp(), mixture()), Draws(0).rows("x", 0, (5, 2), dtype=F64)
    told = []

    def net(x, t, cond):
        told.append((t.dtype, tuple(t.shape), cond))
        return exact(x, t).of(predicts)

    field = Field(net, Path.vp(), predicts)
    for kind in NAMED:
        torch.testing.assert_close(getattr(field, kind)(x, 0.4, "told"), exact(x, 0.4).of(kind), rtol=1e-9, atol=1e-9)
    assert field.nfe == len(NAMED) and told[0] == (F64, (5,), "told")
    torch.testing.assert_close(field.drift(x, 0.4, epsilon=0.7), exact.velocity(x, 0.4) + 0.7 * exact.score(x, 0.4))


@pytest.mark.parametrize("path", [Path.linear(), Path.vp()])
@pytest.mark.parametrize("shape", ["isotropic", "diagonal", "full"])
def test_exact_fields_against_brute_force(path, shape):
    """E[x1 | x_t] by self-normalised sums over a fine grid of x1; the score by differentiating the log density."""
    full = torch.tensor([[[0.5, 0.2], [0.2, 0.3]], [[0.2, -0.1], [-0.1, 0.4]], [[0.3, 0.0], [0.0, 0.1]]], dtype=F64)
    covariance = {"isotropic": torch.tensor([0.3, 0.1, 0.5], dtype=F64), "diagonal": torch.diagonal(full, dim1=1, dim2=2).clone(), "full": full}[shape]
    target = GaussianMixture(torch.tensor([0.2, 0.5, 0.3], dtype=F64), torch.tensor([[1.0, -2.0], [0.3, 0.4], [-1.5, 2.5]], dtype=F64), covariance)
    line = torch.linspace(-6, 6, 241, dtype=F64)
    grid = torch.cartesian_prod(line, line)
    x, t = torch.tensor([[0.4, -0.8], [-1.0, 1.5]], dtype=F64), 0.45
    at = path.coefficients(t)
    log_weight = target.log_prob(grid)[None] - ((x[:, None] - at.b * grid) ** 2).sum(-1) / (2 * at.c**2)
    answer = ExactField(path, target)(x, t)
    torch.testing.assert_close(answer.data, torch.softmax(log_weight, 1) @ grid, rtol=1e-6, atol=1e-6)
    leaf = x.clone().requires_grad_(True)
    score = torch.autograd.grad(target.scaled(float(at.b), float(at.c)).log_prob(leaf).sum(), leaf)[0]
    torch.testing.assert_close(answer.score, score, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(ExactField(path, target).log_prob(x, t), target.scaled(float(at.b), float(at.c)).log_prob(x))
    derived = Prediction({"data": answer.data}, x, at)
    torch.testing.assert_close(derived.velocity, answer.velocity, rtol=1e-9, atol=1e-9)


def test_the_exact_velocity_carries_the_density():
    """d/dt log rho along dx/dt = v is minus the divergence of v: the continuity equation, by finite differences."""
    for path, source in [(Path.linear(), None), (Path.vp(), None), (Path.interpolant(), skewed_source()), (Path.interpolant("sin2", "trigonometric"), skewed_source())]:
        field, x, t, h = ExactField(path, mixture(), source), torch.tensor([[0.3, -0.7], [1.0, 0.2]], dtype=F64), 0.6, 1e-5
        v = field.velocity(x, t)
        total = (field.log_prob(x + h * v, t + h) - field.log_prob(x - h * v, t - h)) / (2 * h)
        divergence = sum(((field.velocity(x + h * e, t) - field.velocity(x - h * e, t)) / (2 * h))[:, i] for i, e in enumerate(torch.eye(2, dtype=F64)))
        torch.testing.assert_close(total, -divergence, rtol=1e-6, atol=1e-6)


def skewed_source():
    return GaussianMixture(torch.tensor([0.3, 0.7], dtype=F64), torch.tensor([[2.0, 1.0], [-1.0, -0.5]], dtype=F64), torch.tensor([0.4, 0.2], dtype=F64))


def test_the_two_sided_exact_field_is_the_regression_of_its_path(seed):
    """E[velocity | x_t] against the mean of sampled velocities over points that fall near x."""
    path, target, source = Path.interpolant(), mixture(), skewed_source()
    n, t = 400_000, 0.5
    draws = Draws(seed)
    point = path.sample(target.sample(n, seed=draws.child(1)), torch.full((n,), t, dtype=F64), x0=source.sample(n, seed=draws.child(2)), seed=draws)
    centre = torch.tensor([[0.2, 0.1]], dtype=F64)
    near = ((point.x - centre) ** 2).sum(1) < 0.15**2
    field = ExactField(path, target, source)
    gap = point.velocity[near] - field.velocity(point.x[near], t)
    standard_error = gap.std(0) / math.sqrt(int(near.sum()))
    assert int(near.sum()) > 300 and bool((gap.mean(0).abs() < 5 * standard_error).all())


def test_a_finite_data_set_is_its_own_field():
    """Close to the data the posterior is the nearest point."""
    points = Draws(0).rows("p", 0, (50, 3), dtype=F64)
    field = ExactField(Path.linear(), GaussianMixture.points(points))
    near = 0.999 * points[7:8] + 0.001 * torch.ones(1, 3, dtype=F64)
    torch.testing.assert_close(field.data(near, 0.999), points[7:8])


def test_labels_select_components():
    field, x = ExactField(Path.linear(), mixture()), Draws(0).rows("x", 0, (4, 2), dtype=F64)
    cond = torch.tensor([0, 1, -1, 0])
    mixed = field.data(x, 0.5, cond)
    torch.testing.assert_close(mixed[1:2], ExactField(Path.linear(), mixture().given(1)).data(x[1:2], 0.5))
    torch.testing.assert_close(mixed[2:3], field.data(x[2:3], 0.5))
    with pytest.raises(ValueError, match="cond must be a label of the target or -1, got 5"):
        field.data(x, 0.5, torch.tensor([0, 5, 1, 0]))


def test_chunks_do_not_change_the_field(monkeypatch):
    from rheos.paths import exact

    field, x, t = ExactField(Path.vp(), mixture()), Draws(0).rows("x", 0, (7, 2), dtype=F64), torch.linspace(0.1, 0.9, 7, dtype=F64)
    cond = torch.tensor([0, 1, -1, 0, 1, 1, -1])
    whole = field(x, t, cond).velocity
    monkeypatch.setattr(exact, "_CHUNK_NUMBERS", 12)
    torch.testing.assert_close(field(x, t, cond).velocity, whole)


# -- times -------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("clock", [T, LAM, RHO, U, SQRT_U, QUADRATIC], ids=lambda c: c.name)
def test_times_are_evenly_spaced_in_their_clock(clock):
    times = Times.uniform(Path.vp(), 7, clock)
    value = clock.value(Path.vp(), times.t)
    assert times.t[0] == 0 and times.t[-1] == 1 - 1e-3
    torch.testing.assert_close(value[1:] - value[:-1], ((value[-1] - value[0]) / 7).expand(7), rtol=1e-6, atol=1e-9)


def test_u_is_the_linear_flows_own_clock():
    torch.testing.assert_close(U.value(Path.linear(), INSIDE), 1 - INSIDE)
    torch.testing.assert_close(SQRT_U.time(Path.vp(), SQRT_U.value(Path.vp(), INSIDE)), INSIDE)
    assert Times.uniform(Path.linear(), 4, SQRT_U).t.tolist() == [0.0, 0.4375, 0.75, 0.9375, 1.0]


def test_times_hold_the_coefficients_and_turn_round():
    times = Times(Path.vp(), [0.1, 0.5, 0.9])
    assert times.steps == 2 and times.each[1].b == float(Path.vp().coefficients(0.5).b)
    assert times.reversed().t.tolist() == [0.9, 0.5, 0.1] and times == Times(Path.vp(), [0.1, 0.5, 0.9]) != times.reversed()


def test_integers_are_not_points_of_a_flow():
    with pytest.raises(TypeError, match="x must hold floating-point numbers, got torch.int64"):
        Field(lambda x, t, c: x, Path.linear())(torch.ones(2, 2, dtype=torch.int64), 0.5)


@dataclass(frozen=True)
class Own:
    """A two-sided schedule of a user's own: a = 1 - t^2, b = t^2, c = t (1 - t)."""

    two_sided: ClassVar[bool] = True
    interval: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def coefficients(self, t):
        c, dc = t * (1 - t), 1 - 2 * t
        return Coefficients(1 - t * t, t * t, c, -2 * t, 2 * t, dc, c * dc)


def test_a_schedule_of_ones_own_makes_a_path_that_no_file_can_hold():
    x0, x1, z = torch.tensor([[1.0, 2.0]], dtype=F64), torch.tensor([[-3.0, 0.5]], dtype=F64), torch.tensor([[2.0, -1.0]], dtype=F64)
    point = Path(Own()).sample(x1, torch.tensor([0.5], dtype=F64), x0=x0, z=z)
    assert point.x.tolist() == [[0.5, 1.375]] and point.velocity.tolist() == [[-4.0, -1.5]]
    with pytest.raises(TypeError, match="a schedule of your own, Own, cannot be saved"):
        Path(Own()).to_json()


# -- refusals ----------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("call", "message"), [
    (lambda: Times(Path.vp(), [0.0, 0.5, 0.2]), "times must be strictly monotone, got"),
    (lambda: Times(Path.vp(), [0.0, 0.5, 0.5]), "times must be strictly monotone"),
    (lambda: Times(Path.vp(), [0.0, 1.5]), r"t must lie in \[0, 1\], got values from 0 to 1.5"),
    (lambda: Times.uniform(Path.linear(), 5, LAM), "clock lam is -inf at t = 0"),
    (lambda: Times.uniform(Path.linear(), 0), "steps must be at least 1, got 0"),
    (lambda: Path.linear().coefficients(-0.1), r"t must lie in \[0, 1\]"),
    (lambda: Path.linear().coefficients(float("nan")), r"t must lie in \[0, 1\]"),
    (lambda: Path.linear().sample(torch.ones(3, 2), torch.ones(2)), r"t must have shape \(3,\)"),
    (lambda: Path.linear().sample(torch.ones(3, 2), torch.ones(3), x0=torch.ones(3, 2)), "on a one-sided path the base is the noise"),
    (lambda: Path.interpolant().sample(torch.ones(3, 2), torch.ones(3)), "x0 is missing"),
    (lambda: Path.interpolant().lam(0.5), "lam exists for one-sided paths only"),
    (lambda: Path.interpolant("cube"), "gamma must be one of sqrt, none, sin2, got 'cube'"),
    (lambda: Path.interpolant(lambda t: t), "gamma must vanish at t = 0 and t = 1"),
    (lambda: Path.interpolant(lambda t: -t * (1 - t)), r"gamma must be positive inside \(0, 1\), got -0.25"),
    (lambda: Path.vp(20.0, 0.1), "beta_max must be above beta_min = 20.0, got 0.1"),
    (lambda: Path.vp(-1.0), "beta_min must lie in"),
    (lambda: Clock("rhoo"), r"clock must be one of .*did you mean rho"),
    (lambda: Field(lambda x, t, c: x, Path.linear(), "eps"), "predicts must be one of velocity, score, noise, data, v, residual, got 'eps'"),
    (lambda: Field(lambda x, t, c: x[:1], Path.linear())(torch.ones(3, 2), 0.5), r"net must return the shape of x, \(3, 2\), got \(1, 2\)"),
    (lambda: Field(lambda x, t, c: (x, x), Path.linear())(torch.ones(3, 2), 0.5), "net must return 1 tensors"),
    (lambda: Field(lambda x, t, c: x, Path.linear())(torch.ones(3, 2), torch.ones(2)), "t must be one number or have shape"),
    (lambda: Field(lambda x, t, c: x, Path.linear()).drift(torch.ones(1, 2), 0.5, epsilon=-1.0), "epsilon must lie in"),
    (lambda: Field(lambda x, t, c: x, Path.linear(), ()), "predicts must be one of"),
    (lambda: Field(lambda x, t, c: x, Path.interpolant(), ("noise", "score")), "does not tell the velocity of a two-sided path"),
    (lambda: ExactField(Path.linear(), GaussianMixture.points(torch.ones(2, 2, dtype=F64)))(torch.ones(1, 2, dtype=F64), 1.0), "no density where no noise is left"),
    (lambda: Field(lambda x, t, c: x, Path.interpolant()).score(torch.ones(1, 2), 0.5), "predict two kinds"),
    (lambda: ExactField(Path.interpolant(), skewed()), "source must be given for a two-sided path"),
    (lambda: ExactField(Path.linear(), skewed(), skewed()), "a one-sided path begins at noise"),
    (lambda: ExactField(Path.interpolant(), skewed(), skewed()), "two-sided exact fields need isotropic or diagonal"),
    (lambda: ExactField(Path.linear(), skewed())(torch.ones(1, 3, dtype=F64), 0.5), r"x must have event shape \(2,\), got \(3,\)"),
])
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
