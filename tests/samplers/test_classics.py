"""The classic rules against diffusers on the same input, against the path's own posterior, and by the laws that they must keep."""
import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rheos.core import Draws
from rheos.data import skewed
from rheos.distill import straightness
from rheos.paths import LAM, QUADRATIC, RHO7, VE, Coefficients, ExactField, Field, Path, Student, T, Times, U
from rheos.samplers import (
    DDIM,
    DDPM,
    DEIS,
    PLMS,
    AdamsBashforth,
    AdaptiveRungeKutta,
    DPMSolverPP,
    Exponential,
    Multistep,
    Row,
    RungeKutta,
    Singlestep,
    Table,
    UniPC,
    default_rule,
    dynamic_threshold,
    public_rules,
    sample,
)

F64 = torch.float64
PATH = Path.from_betas(torch.linspace(1e-4, 0.02, 1000, dtype=F64))
FIELD, START = ExactField(PATH, skewed()), Draws(0).rows("start", 0, (16, 2), dtype=F64)


# -- peers ---------------------------------------------------------------------------------------------------------------------

def scheduler(name, **kinds):
    diffusers = pytest.importorskip("diffusers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return getattr(diffusers, name)(num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02, beta_schedule="linear", **kinds)


def theirs(made, steps, **given):
    """Their samples and the times they stopped at."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made.set_timesteps(steps)
        x, times = START, []
        for t in made.timesteps:
            times.append(float(PATH.schedule.time_of(float(t))))
            x = made.step(FIELD(x, times[-1]).noise, t, x, **given).prev_sample
    times = sorted(set(times))
    return x, times if times[-1] == 1 else [*times, 1.0]


SIGMA_MIN = {"final_sigmas_type": "sigma_min"}
PEERS = [
    ("DPMSolverMultistepScheduler", {"solver_order": 2, "solver_type": "midpoint", **SIGMA_MIN}, DPMSolverPP(2, form="midpoint", lower_at_end=False), 20, 6e-5),
    ("DPMSolverMultistepScheduler", {"solver_order": 2, "solver_type": "midpoint", **SIGMA_MIN}, DPMSolverPP(2, form="midpoint"), 9, 6e-5),
    ("DPMSolverMultistepScheduler", {"solver_order": 2, "solver_type": "heun", **SIGMA_MIN}, DPMSolverPP(2), 9, 6e-5),
    ("UniPCMultistepScheduler", {"solver_order": 1, **SIGMA_MIN}, UniPC(1), 9, 2e-6),
    ("UniPCMultistepScheduler", {"solver_order": 2, **SIGMA_MIN}, UniPC(2), 20, 2e-6),
    ("UniPCMultistepScheduler", {"solver_order": 2, "solver_type": "bh1", **SIGMA_MIN}, UniPC(2, variant="bh1"), 9, 2e-6),
    ("UniPCMultistepScheduler", {"solver_order": 3, **SIGMA_MIN}, UniPC(3), 20, 2e-6),
    ("UniPCMultistepScheduler", {"solver_order": 3, "solver_type": "bh1", **SIGMA_MIN}, UniPC(3, variant="bh1"), 9, 2e-6),
    ("PNDMScheduler", {"skip_prk_steps": True, "set_alpha_to_one": False}, PLMS(), 20, 2e-6),
    ("PNDMScheduler", {"skip_prk_steps": True, "set_alpha_to_one": False}, PLMS(), 6, 2e-6),
]


@pytest.mark.parametrize(("name", "kinds", "rule", "steps", "tolerance"), PEERS, ids=[f"{n}-{k}" for k, (n, *_) in enumerate(PEERS)])
def test_equals_diffusers_on_the_same_input(name, kinds, rule, steps, tolerance):
    found, times = theirs(scheduler(name, **kinds), steps)
    ours = sample(FIELD, start=START, rule=rule, times=Times(PATH, times))
    assert float((ours - found).abs().max()) < tolerance         # diffusers keeps its levels, and adds up its weights, in float32


@pytest.mark.parametrize("form", ["exact", "midpoint"])
def test_the_sde_is_diffusers_step_by_step(form):
    """Their step with the noise handed in: the same drift, and the same weight of the noise."""
    made = scheduler("DPMSolverMultistepScheduler", algorithm_type="sde-dpmsolver++", solver_order=2, solver_type="heun" if form == "exact" else form,
                     lower_order_final=False, **SIGMA_MIN)
    still, times = theirs(made, 8, variance_noise=torch.zeros_like(START))
    table = DPMSolverPP(2, tau=1.0, form=form, lower_at_end=False).plan(Times(PATH, times))
    silent = replace(table, predict=tuple(replace(row, s=0.0) for row in table.predict))
    assert float((sample(FIELD, start=START, rule=silent) - still).abs().max()) < 5e-5
    made.set_timesteps(8)
    for i, (row, t) in enumerate(zip(table.predict, made.timesteps, strict=False)):
        eps = FIELD(START, times[i]).noise
        ends = []
        for noise in (0.0, 1.0):
            made.set_timesteps(8)
            made._step_index = i
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                made.lower_order_nums = 0
                ends.append(made.step(eps, t, START, variance_noise=torch.full_like(START, noise)).prev_sample)
        assert float((ends[1] - ends[0] - row.s).abs().max()) < 1e-5


def test_single_steps_are_diffusers_singlestep_on_equal_steps_in_lam():
    """Where levels are even in lam, its second-order scheduler asks at the middle of a double step."""
    made = scheduler("DPMSolverSinglestepScheduler", solver_order=2, solver_type="midpoint", algorithm_type="dpmsolver++", lower_order_final=True,
                     use_exponential_sigmas=True, **SIGMA_MIN)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made.set_timesteps(8)
    levels = made.sigmas.double()
    times = PATH.time_at(-levels.log()).clamp(0, 1)
    x = START
    for i, t in enumerate(made.timesteps):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            x = made.step(FIELD(x, float(times[i])).noise, t, x).prev_sample
    table = Singlestep(2).plan(Times(PATH, times[::2]))
    rows = table.predict
    ours = sample(FIELD, start=START, rule=table)
    assert len(rows) == 8 and float((ours - x).abs().max()) < 2e-2        # theirs: middle by rounding levels to whole timesteps


# -- the posterior and the laws that must be kept --------------------------------------------------------------------------------

@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_ddpm_draws_from_the_paths_posterior(eta):
    table = DDPM(eta=eta).plan(Times.uniform(PATH, 5, T))
    x1 = Draws(1).rows("x1", 0, (16, 2), dtype=F64)
    for row, t, s in zip(table.predict, table.times.t[:-1], table.times.t[1:], strict=True):
        mean, std = PATH.posterior(START, x1, float(t), float(s), eta)
        torch.testing.assert_close(row.a[0] * START + row.w[0] * x1, mean, rtol=1e-11, atol=1e-12)
        assert abs(row.s - float(std)) < 1e-12


def test_ancestral_steps_have_the_published_coefficients():
    """Ho et al., equations 7 and 11, between neighbouring steps k and k - 1 of a thousand."""
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=F64)
    bars = torch.cumprod(1 - betas, 0)
    for k in (1, 300, 999):
        table = DDPM().plan(Times(PATH, PATH.schedule.time_of(torch.tensor([k, k - 1.0], dtype=F64))))
        row, bar, before, beta = table.predict[0], bars[k], bars[k - 1], betas[k]
        assert abs(row.s**2 - float(beta * (1 - before) / (1 - bar))) < 1e-12
        assert abs(row.w[0] - float(before.sqrt() * beta / (1 - bar))) < 1e-10
        assert abs(row.a[0] - float((1 - beta).sqrt() * (1 - before) / (1 - bar))) < 1e-10


def test_ddpm_is_ddim_without_noise_and_the_first_order_sde_with_all():
    times = Times.uniform(PATH, 7, T)
    rows = lambda rule: np.array([(*row.a, *row.w, row.s) for row in rule.plan(times).predict])
    np.testing.assert_allclose(rows(DDPM(eta=0.0)), rows(DDIM()), atol=1e-12)
    np.testing.assert_allclose(rows(DDPM()), rows(Exponential(1, tau=1.0)), atol=1e-12)


@given(st.floats(0, 3), st.integers(1, 3), st.sampled_from(["linear", "vp", "ve"]))
def test_every_tau_keeps_the_path(tau, order, name):
    """Where the prediction is the data itself, a step carries N(b x1, c^2) of one time to that of the next, whatever the noise it adds."""
    path = getattr(Path, name)()
    times = Times.uniform(path, 4, T, start=0.2, end=0.9)
    for row, now, then in zip(Exponential(order, tau=tau).plan(times).predict, times.each, times.each[1:], strict=False):
        assert abs(row.a[0] * now.b + sum(row.w) - then.b) < 1e-9
        assert abs((row.a[0] * now.c) ** 2 + row.s**2 - then.c**2) < 1e-9 * then.c**2 + 1e-12


@pytest.mark.parametrize("rule", [DDPM(), DPMSolverPP(3, tau=1.0), DPMSolverPP(2, tau=1.0, form="midpoint"), Exponential(2, tau=0.5), DDPM(eta=0.5)], ids=str)
def test_stochastic_rules_reach_the_target(rule, seed):
    """Mean and second moments within five standard errors, and the bias of 60 steps."""
    target, n, path = skewed(), 4000, Path.vp()
    x = sample(ExactField(path, target), n, rule=rule, steps=60, seed=seed)
    mean, covariance = target.mean(), target.covariance_matrix()
    assert bool(((x.mean(0) - mean).abs() < 5 * (covariance.diagonal() / n).sqrt() + 0.03).all())
    assert bool(((x.T.cov() - covariance).abs() < 5 * 1.5 * covariance.abs().max() / n**0.5 + 0.05).all())


def test_plms_weighs_what_is_there():
    """Weights of a row add up to DDIM's one weight; the point made again takes the mean of both ends; without that, calls are steps."""
    times = Times.uniform(PATH, 7, T, start=0.05)
    ddim = Exponential(1, "noise").plan(times).predict
    plain, redone = PLMS(redo_first=False).plan(times), PLMS().plan(times)
    assert plain.nfe == 7 and redone.nfe == 8 and redone.times.t[1] == redone.times.t[2]
    for row, one in zip(plain.predict, ddim, strict=True):
        assert abs(sum(row.w) - one.w[0]) < 1e-14 and row.a == one.a
    assert redone.predict[1].a == (0.0, *ddim[0].a) and redone.predict[1].w == (ddim[0].w[0] / 2,) * 2
    np.testing.assert_allclose(np.array(plain.predict[5].w) / ddim[5].w[0] * 24, [55, -59, 37, -9])


@pytest.mark.parametrize(("kind", "order"), [("noise", 2), ("noise", 3), ("data", 2), ("data", 3)])
def test_single_steps_are_exact_where_the_prediction_is_linear_in_lam(kind, order):
    """x1 (or noise) = p + q lam: the order-3 rule's last stage integrates a line exactly; the order-2 rule does not, but order 3 in h."""
    path, p, q = Path.vp(), 0.3, -0.2
    field = Field(lambda x, t, cond: (p + q * path.lam(t.double()))[:, None].expand_as(x).to(x), path, kind)
    fine = Exponential(2, kind, LAM, lower_at_end=False)
    start = torch.tensor([[1.0]], dtype=F64)
    # Two nodes determine a line: a multistep rule begun on it is exact from its second step on; reference by very many steps.
    truth = sample(field, start=start, rule=fine, times=Times.uniform(path, 4000, LAM, start=0.3, end=0.8))
    gap = lambda n: float((sample(field, start=start, rule=Singlestep(order, kind), times=Times.uniform(path, n, LAM, start=0.3, end=0.8)) - truth).abs())
    assert gap(2) < 1e-6 if order == 3 else gap(16) < gap(4) / 10


# -- edits -----------------------------------------------------------------------------------------------------------------------

def test_thresholding_by_hand():
    x = torch.tensor([[-3.0, 0.5, 1.0, 2.0], [0.2, -0.4, 0.6, 0.1]], dtype=F64)
    out = dynamic_threshold(-1.0, 1.0, quantile=2 / 3)(x, x, 0.5)
    # |x| sorted 0.5, 1, 2, 3: the 2/3 quantile is the third of four, 2; the second row lies inside and stays.
    torch.testing.assert_close(out, torch.tensor([[-1.0, 0.25, 0.5, 1.0], [0.2, -0.4, 0.6, 0.1]], dtype=F64))
    shifted = dynamic_threshold(0.0, 4.0, quantile=2 / 3)(2 * x + 2, x, 0.5)
    torch.testing.assert_close(shifted, 2 * out + 2)


def test_an_edit_of_the_data_acts_on_every_kind_of_table():
    """Whatever the rule extrapolates, the data prediction is what is edited: first-order rules of both kinds still agree."""
    path = Path.vp()
    field, edit, times = ExactField(path, skewed()), dynamic_threshold(-0.5, 0.5, 0.9), Times.uniform(path, 6, LAM)
    runs = [sample(field, start=START, rule=rule, times=times, edit=edit) for rule in (DDIM(), DDIM(kind="noise"))]
    torch.testing.assert_close(*runs, rtol=1e-9, atol=1e-9)
    assert float(runs[0].abs().max()) < 0.6 < float(sample(field, start=START, rule=DDIM(), times=times).abs().max())


@pytest.mark.parametrize("rule", [AdaptiveRungeKutta(1e-4, 1e-4), RungeKutta(2), None], ids=str)
def test_edited_data_are_not_asked_for_where_x_is_the_data(rule):
    """A rule that asks at t = 1 of the linear path stops a little before: there the velocity cannot be read off edited data."""
    x = sample(ExactField(Path.linear(), skewed()), start=START, rule=rule, steps=8, edit=dynamic_threshold(-0.8, 0.8, 0.9))
    assert float(x.abs().max()) < 0.85


# -- times and mends -------------------------------------------------------------------------------------------------------------

def test_spacing_sets_the_default_times():
    times = DEIS(2, clock=LAM, spacing=RHO7).times(Path.edm(0.01, 40.0), 9)
    steps = RHO7.value(times.path, times.t).diff()
    torch.testing.assert_close(steps, steps.mean().expand(9), rtol=1e-9, atol=1e-12)
    begun = UniPC(3, spacing=LAM).times(Path.linear(), 5)          # lam is infinite at both ends of the linear path
    assert begun.t[0] == 1e-3 and begun.t[-1] == 1 - 1e-3


def test_times_from_lam():
    times = Times.from_lam(Path.vp(), [-3.0, -1.0, 0.5, 2.0])
    torch.testing.assert_close(times.lam, torch.tensor([-3.0, -1.0, 0.5, 2.0], dtype=F64), rtol=1e-9, atol=1e-9)
    assert Times.from_lam(Path.ve(), Path.ve().lam(torch.tensor([0.0, 1.0], dtype=F64))).t.tolist() == [0.0, 1.0]
    with pytest.raises(ValueError, match=r"lam must lie in \[-3.912.*, 4.605.*\] on this path, got 6"):
        Times.from_lam(Path.ve(), [0.0, 6.0])


@pytest.mark.parametrize("rule", [UniPC(2), UniPC(3), Exponential(3, "noise", LAM, 2)], ids=str)
def test_mending_by_what_changes_equals_mending_anew(rule):
    table = rule.plan(Times.uniform(PATH, 9, LAM))
    assert all(change is not None for change in table.mends[:-1])
    by_change = sample(FIELD, start=START, rule=table)
    run = Multistep(FIELD, table)
    object.__setattr__(run, "_mends", (None,) * table.nfe)
    state = run.init(START)
    for _ in range(table.nfe):
        state = run.step(state)
    torch.testing.assert_close(by_change, state.x, rtol=1e-12, atol=1e-12)


def test_a_network_may_return_or_keep_what_it_is_shown():
    """A step never writes into a tensor that the network has seen."""
    kept, path = [], Path.linear()

    def net(x, t, cond):
        kept.append((x, x.clone()))
        return x

    sample(Field(net, path, "data"), start=START, rule=UniPC(2), times=Times.uniform(path, 5, T, start=0.1, end=0.9))
    assert all(torch.equal(a, b) for a, b in kept)


# -- the adaptive rule from `sample` ---------------------------------------------------------------------------------------------

def test_the_adaptive_rule_samples():
    path = Path.vp()
    field = ExactField(path, skewed())
    fine = sample(field, start=START, rule=Exponential(3, "data", LAM, 3), times=Times.uniform(path, 300, LAM))
    x = sample(field, start=START, rule=AdaptiveRungeKutta(1e-8, 1e-8), batch=5)
    torch.testing.assert_close(x, fine, rtol=1e-5, atol=1e-5)
    half = Times(path, [0.3, 0.5, 0.8])
    there = sample(field, start=START, rule=AdaptiveRungeKutta(1e-9, 1e-9), times=half)
    back = sample(field, start=there, rule=AdaptiveRungeKutta(1e-9, 1e-9), times=half.reversed())
    torch.testing.assert_close(back, START, rtol=1e-6, atol=1e-6)


# -- every schedule --------------------------------------------------------------------------------------------------------------

SCHEDULES = {"cosine": Path.cosine(), "ve": Path.ve(), "edm": Path.edm(), "betas": PATH}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=["float32", "float64"])
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 50])
def test_every_rule_is_finite_on_every_schedule(name, dtype, steps):
    path = SCHEDULES[name]
    field = ExactField(path, skewed().to(dtype=dtype))
    for rule in public_rules():
        x = sample(field, 3, rule=rule, steps=steps, seed=1)
        assert x.dtype == dtype and bool(torch.isfinite(x).all()), rule


@pytest.mark.parametrize(("call", "message"), [
    (lambda: DDPM(eta=1.5), r"eta must lie in \[0, 1\], got 1.5"),
    (lambda: DDPM(order=2), "order of DDPM is 1, got 2"),
    (lambda: Exponential(2, "noise", tau=1.0), "tau above 0 needs kind data, got kind noise"),
    (lambda: Exponential(2, corrector=1, tau=1.0), "tau above 0 needs corrector = 0"),
    (lambda: Exponential(2, tau=-0.5), "tau must lie in"),
    (lambda: DPMSolverPP(3, form="midpoint"), "order must be at most 2 in the form midpoint, got 3"),
    (lambda: DPMSolverPP(2, "noise"), "DPMSolverPP has kind data, got kind noise"),
    (lambda: DPMSolverPP(2, form="midpoint", clock=U), "clock must be lam in the form midpoint, got u"),
    (lambda: Path.edm(rho=0.01), "rho must be at least 0.1, got 0.01"),
    (lambda: straightness(Field(lambda x, t, c: x, Path.linear()), START, rule=PLMS()), "rule must take steps of given length"),
    (lambda: UniPC(variant="bh3"), "variant must be one of bh1, bh2, solved, got 'bh3'"),
    (lambda: UniPC(kind="noise"), "UniPC has kind data and clock lam"),
    (lambda: PLMS(5), "predictions must be one of 1, 2, 3, 4, got 5"),
    (lambda: Singlestep(4), "order must be one of 2, 3, got 4"),
    (lambda: Singlestep().plan(Times.uniform(Path.linear(), 3)), "lam is infinite at t = 0 of this path"),
    (lambda: PLMS().plan(Times.uniform(Path.interpolant(), 3)), "PLMS needs a one-sided path"),
    (lambda: DDPM().plan(Times(Path.vp(), [0.9, 0.5])), "DDPM runs from noise to data, got times from 0.9 to 0.5"),
    (lambda: DPMSolverPP(tau=1.0).plan(Times(Path.vp(), [0.9, 0.5])), "runs from noise to data, got times from 0.9 to 0.5"),
    (lambda: DDPM().plan(Times.uniform(Path.vp(noise=Student(5.0)), 4)), "DDPM needs a path with Gaussian noise, this one has Student"),
    (lambda: DPMSolverPP(tau=1.0).plan(Times.uniform(Path.vp(noise=Student(5.0)), 4)), "with fresh noise needs a path with Gaussian noise"),
    (lambda: dynamic_threshold(1.0, -1.0), "high must be above low = 1.0, got -1.0"),
    (lambda: dynamic_threshold(-1.0, 1.0, 0.0), r"quantile must lie in \(0, 1\], got 0.0"),
    (lambda: Times(Path.vp(), [0.1, 0.5, 0.4]), "times must be strictly monotone"),
    (lambda: DDIM().plan(Times(Path.linear(), [1.0, 0.5])),
     r"cannot carry on from a time without noise \(sigma = 0\)"),
])
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_step_far_longer_than_the_ones_before_is_refused():
    """A parabola through three points 1e-4 apart, carried on by a thousand times that."""
    times = Times(Path.vp(), [0.3, 0.3001, 0.3002, 0.9])
    with pytest.raises(ValueError, match="step 3 is so much longer than the ones before that a polynomial of degree 2 explodes"):
        DPMSolverPP(3, lower_at_end=False).plan(times)
    DPMSolverPP(3).plan(times)          # the last step is of order 1 then


def test_networks_that_predict_loud_noise_get_levels_even_in_rho7():
    """Where alpha is 1 and the noise is large: on the velocity, or with the first step a long one, such networks' errors would be carried on."""
    for path in (Path.ve(), Path.edm()):
        for kind in ("noise", "score"):
            rule = default_rule(Field(lambda x, t, cond: x, path, kind))
            assert rule == Exponential(2, "data", LAM, corrector=2, spacing=RHO7)
        assert default_rule(Field(lambda x, t, cond: x, path, "v")) == Exponential(2, "data", U, corrector=2)
    wrong = lambda field, path: Field(lambda x, t, cond: field(x, t).noise * 1.01, path, "noise")
    path = Path.ve(0.02, 20.0)
    field = wrong(ExactField(path, skewed()), path)
    start = path.prior((64, 2), dtype=F64)
    truth = sample(field, start=start, rule=Exponential(3, "data", LAM, 3, spacing=LAM), steps=200)
    error = lambda rule: float((sample(field, start=start, rule=rule, steps=10) - truth).square().mean(1).sqrt().median())
    assert error(None) < error(AdamsBashforth(2, QUADRATIC)) / 10


# -- what strangers bring --------------------------------------------------------------------------------------------------------

class Mine:
    """A schedule of one's own: alpha is 1 throughout, given as a float; it cannot be hashed."""

    two_sided, interval, __hash__ = False, (0.0, 1.0), None

    def __eq__(self, other):
        return isinstance(other, Mine)

    def coefficients(self, t):
        sigma = 8 * torch.exp(-5 * t)
        return Coefficients(0.0, 1.0, sigma, 0.0, 0.0, -5 * sigma, -5 * sigma * sigma)

    def time_at(self, lam):
        return (lam + math.log(8)) / 5


def test_a_schedule_of_ones_own_may_hold_constants_and_be_unhashable():
    path = Path(Mine())
    field = ExactField(path, skewed())
    start = path.prior((32, 2), dtype=F64)
    truth = sample(field, start=start, rule=Exponential(3, "data", LAM, 3, spacing=LAM), steps=200)
    torch.testing.assert_close(path.lam(0.4), torch.tensor(2 - math.log(8), dtype=F64))
    assert float((sample(field, start=start, steps=20) - truth).square().mean(1).sqrt().median()) < 0.01
    mean, std = path.posterior(start, start * 0, 0.1, 0.5)
    again, other = Path(VE(8 * math.exp(-5), 8.0)).posterior(start, start * 0, 0.1, 0.5)
    torch.testing.assert_close((mean, std), (again, other), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("rule", [PLMS(), RungeKutta(2, "noise"), RungeKutta(4, "noise")], ids=str)
@pytest.mark.parametrize("steps", [1, 6])
def test_rules_that_ask_for_noise_at_the_end_sample_velocity_networks(rule, steps):
    """On the linear path a velocity does not tell the noise at t = 1; the rules stop a little before."""
    field = Field(lambda x, t, cond: -x, Path.linear())
    assert bool(torch.isfinite(sample(field, start=START, rule=rule, steps=steps)).all())


def test_edits_are_checked():
    field = Field(lambda x, t, cond: -x, Path.linear())
    with pytest.raises(TypeError, match="edit"):
        sample(field, start=START, edit=3)
    for wrong in (lambda p, x, t: p[:1], lambda p, x, t: None):
        with pytest.raises(ValueError, match=r"edit must return the shape of the prediction, \(16, 2\)"):
            sample(field, start=START, steps=4, edit=wrong)


def test_a_corrector_with_points_of_its_own_is_taken_as_it_is():
    """Where predictor and corrector weigh earlier points differently, the mended point is the corrector's own sum."""
    times = Times.uniform(Path.linear(), 3, T, start=0.1, end=0.9)
    rows = (Row((1.0,), (0.5,)), Row((0.7, 0.3), (0.2, 0.1)), Row((1.0,), (0.25,)))
    table = Table(times, "velocity", rows, (Row((0.9,), (0.2, 0.4)), None, None))
    assert table.mends == (None, None, None)
    seen = []
    v = lambda x: torch.sin(x) + 1
    field = Field(lambda x, t, cond: seen.append(x.clone()) or v(x), Path.linear())
    out = sample(field, start=START, rule=table)
    x0, p0 = START, v(START)
    guess = x0 + 0.5 * p0
    p1 = v(guess)
    x1 = 0.9 * x0 + 0.2 * p1 + 0.4 * p0
    x2 = 0.7 * x1 + 0.3 * x0 + 0.2 * p1 + 0.1 * p0
    torch.testing.assert_close(seen[1], guess)
    torch.testing.assert_close(out, x2 + 0.25 * v(x2))


def test_networks_that_predict_v_begin_where_the_path_does():
    """From v the data can be read at alpha = 0, so that nothing need be left out there, as it must be for noise."""
    told = {}
    for kind in ("v", "velocity", "data", "noise"):
        times = told.setdefault(kind, [])
        net = lambda x, t, cond, times=times: times.append(float(t[0])) or -x
        sample(Field(net, Path.linear(), kind), start=START, steps=6)
    assert [told[kind][0] for kind in ("v", "velocity", "data")] == [0.0, 0.0, 0.0] and 0 < told["noise"][0] <= 1e-3
