"""Rules and tables: closed forms, equalities between rules, orders of convergence, peers (diffusers), finiteness, refusals."""
import json
import math
import warnings

import numpy as np
import pytest
import torch

from rheos.core import Draws, StopWhen, evolve
from rheos.data import GaussianMixture, skewed
from rheos.guidance import classifier_free
from rheos.metrics import floor, sliced_w2
from rheos.paths import LAM, QUADRATIC, RHO, SQRT_U, ExactField, Field, Path, T, Times, U
from rheos.samplers import (
    DDIM,
    DEIS,
    AdamsBashforth,
    DPMSolverPP,
    Euler,
    EulerMaruyama,
    Exponential,
    Multistep,
    MultistepState,
    ResidualDDIM,
    Row,
    RungeKutta,
    Table,
    default_rule,
    public_rules,
    sample,
)
from rheos.testing import observed_order

F64 = torch.float64
MEAN, SPREAD = torch.tensor([[0.7, -1.2]], dtype=F64), torch.tensor([[0.3, 1.7]], dtype=F64)
GAUSSIAN = GaussianMixture(torch.ones(1, dtype=F64), MEAN, SPREAD)
START = torch.tensor([[1.0, -0.5], [-2.0, 0.3], [0.1, 2.2]], dtype=F64)
EXPONENTIALS = [DDIM(), DDIM(kind="noise"), DEIS(1), DEIS(2), DEIS(3), DEIS(4), DEIS(2, clock=RHO), DEIS(3, clock=LAM), DPMSolverPP(1), DPMSolverPP(2),
                DPMSolverPP(3), Exponential(2, "data", U), Exponential(3, "data", SQRT_U), Exponential(3, "noise", U), Exponential(2, "score", LAM)]


def flowed(path, start, t0, t1):
    """The flow of a Gaussian is affine: (x - b m) / sqrt(b^2 v + c^2) does not change."""
    a, b = path.coefficients(t0), path.coefficients(t1)
    width = lambda at: torch.sqrt(at.b**2 * SPREAD + at.c**2)
    return b.b * MEAN + (start - a.b * MEAN) * width(b) / width(a)


# -- closed forms ------------------------------------------------------------------------------------------------------------

def test_ddim_by_its_formula():
    """x_t = alpha_t x1 + sigma_t z with x1, z read off x_s: written in alphas and sigmas, no integrals."""
    path = Path.vp()
    times = Times(path, [0.1, 0.35, 0.8])
    for kind in ("data", "noise"):
        for i, row in enumerate(DDIM(kind=kind).plan(times).predict):
            s, t = times.each[i], times.each[i + 1]
            expected = (t.c / s.c, t.b - s.b * t.c / s.c) if kind == "data" else (t.b / s.b, t.c - s.c * t.b / s.b)
            np.testing.assert_allclose([row.a[0], row.w[0]], expected, rtol=1e-12)


def test_dpm_solver_pp_2_by_its_formula():
    """Data prediction, linear in lam: first weight of the difference is alpha_t ((e^-h - 1) / h + 1) / r, integrated by hand."""
    times = Times(Path.vp(), [0.1, 0.35, 0.8, 0.9])
    lam = times.lam.tolist()
    row = DPMSolverPP(2, lower_at_end=False).plan(times).predict[1]
    h, before = lam[2] - lam[1], lam[1] - lam[0]
    difference = times.each[2].b * (math.expm1(-h) / h + 1) * h / before
    np.testing.assert_allclose(row.w, (-times.each[2].b * math.expm1(-h) + difference, -difference), rtol=1e-12)
    assert row.a[0] == pytest.approx(times.each[2].c / times.each[1].c, rel=1e-14)


def test_rho_deis_is_variable_step_adams_bashforth_in_rho():
    times = Times(Path.vp(), [0.2, 0.35, 0.8])
    rho = (times.sigma / times.alpha).tolist()
    h, before = rho[2] - rho[1], rho[1] - rho[0]
    newest = h * (1 + h / (2 * before))
    np.testing.assert_allclose(DEIS(2, clock=RHO).plan(times).predict[1].w, np.array([newest, h - newest]) * float(times.alpha[2]), rtol=1e-12)


def test_adams_bashforth_has_the_textbook_weights_on_equal_steps():
    plan = AdamsBashforth(4).plan(Times.uniform(Path.linear(), 8))
    np.testing.assert_allclose(plan.predict[5].w, np.array([55, -59, 37, -9]) / 24 / 8, rtol=1e-12)
    assert Euler().plan(Times.uniform(Path.linear(), 4)).predict[2] == Row((1.0,), (0.25,))


@pytest.mark.parametrize("rule", EXPONENTIALS[:-1], ids=str)
def test_weights_sum_to_the_exact_integral_of_a_constant(rule):
    """A constant prediction is integrated exactly, whatever the order: sum w = alpha_t - alpha_s sigma_t / sigma_s, and its like."""
    times = Times(Path.vp(), [0.05, 0.2, 0.3, 0.55, 0.8, 0.97])
    plan = rule.plan(times)
    for i, row in enumerate(plan.predict):
        s, t = times.each[i], times.each[i + 1]
        exact = t.b - s.b * t.c / s.c if rule.kind == "data" else t.c - s.c * t.b / s.b
        assert sum(row.w) == pytest.approx(exact, rel=1e-11, abs=1e-13)


def test_quadrature_against_adaptive_integration():
    from scipy.integrate import quad

    times = Times(Path.vp(), [0.02, 0.3, 0.7, 0.95])
    lam, alpha, sigma = times.lam.tolist(), times.alpha.tolist(), times.sigma.tolist()
    u = (1 / (1 + times.lam.exp())).tolist()
    basis = lambda j, v: math.prod((v - u[k]) / (u[j] - u[k]) for k in (0, 1, 2) if k != j)
    of = lambda lam: 1 / (1 + math.exp(lam))
    data = Exponential(3, "data", U, lower_at_end=False).plan(times).predict[2].w
    noise = Exponential(3, "noise", U, lower_at_end=False).plan(times).predict[2].w
    for weight, other, j in zip(data, noise, (2, 1, 0), strict=True):
        assert weight == pytest.approx(sigma[3] * quad(lambda x: math.exp(x) * basis(j, of(x)), lam[2], lam[3], epsabs=1e-13)[0], rel=1e-10)
        assert other == pytest.approx(-alpha[3] * quad(lambda x: math.exp(-x) * basis(j, of(x)), lam[2], lam[3], epsabs=1e-13)[0], rel=1e-10)


@pytest.mark.parametrize(("rule", "kind", "degree", "clock"), [
    (Exponential(3, "data", U), "data", 2, U), (Exponential(3, "noise", RHO), "noise", 2, RHO), (Exponential(2, "data", LAM, corrector=2), "data", 1, LAM),
    (DEIS(4), "noise", 3, T), (AdamsBashforth(3), "velocity", 2, T)], ids=str)
def test_exact_when_the_prediction_is_a_polynomial_of_the_clock(rule, kind, degree, clock):
    """One step, on uneven times, of a prediction that the rule can represent: no error but rounding."""
    path, value = Path.vp(), lambda t: sum((0.3 + k) * clock.value(path, t) ** k for k in range(degree + 1))
    times = Times(path, [0.1, 0.15, 0.22, 0.31, 0.4, 0.55, 0.9])
    plan, x = replace_end(rule).plan(times), torch.tensor([[1.0, -2.0]], dtype=F64)
    field = Field(lambda x, t, cond: value(t)[:, None].expand_as(x), path, kind)
    truth = sample(field, start=x, rule=RungeKutta(4), times=Times.uniform(path, 400, T, start=0.4, end=0.55))
    rows = [(plan.predict[4], 4)] + ([(plan.correct[4], 5)] if plan.correct[4] else [])
    for row, newest in rows:
        predictions = [value(times.t[newest - j]) for j in range(len(row.w))]
        torch.testing.assert_close(row.a[0] * x + sum(w * p for w, p in zip(row.w, predictions, strict=True)), truth, rtol=1e-9, atol=1e-9)


def replace_end(rule):
    from dataclasses import replace

    return replace(rule, lower_at_end=False) if isinstance(rule, Exponential) else rule


# -- limits --------------------------------------------------------------------------------------------------------------------

def test_the_linear_path_is_sampled_from_end_to_end():
    """alpha = 0 at the start and sigma = 0 at the end: the limits of the weights, not a division by a small number."""
    path = Path.linear()
    truth = flowed(path, START, 0.0, 1.0)
    for rule in (Exponential(2, "data", U, 2), Exponential(3, "data", U), DDIM()):
        plan = rule.plan(Times.uniform(path, 400))
        assert plan.predict[-1].a == (0.0,)
        torch.testing.assert_close(sample(ExactField(path, GAUSSIAN), start=START, rule=plan), truth, rtol=0, atol=2e-2 if rule.order == 1 else 5e-4)
    nearly = Times(path, [0.0, 0.5, 1 - 1e-9])
    exactly = Times(path, [0.0, 0.5, 1.0])
    for a, b in zip(Exponential(2, "data", U).plan(nearly).predict, Exponential(2, "data", U).plan(exactly).predict, strict=True):
        np.testing.assert_allclose(a.w, b.w, atol=1e-7)
    nearly = Times(path, [1e-9, 0.5, 0.9])
    np.testing.assert_allclose(Exponential(2, "data", U).plan(nearly).predict[0].w,
                               Exponential(2, "data", U).plan(Times(path, [0.0, 0.5, 0.9])).predict[0].w, atol=1e-7)


def test_first_orders_are_one_rule():
    times = Times.uniform(Path.vp(), 6, LAM)
    runs = [sample(ExactField(Path.vp(), skewed()), start=START, times=times, rule=rule) for rule in (DDIM(), DDIM(kind="noise"), DEIS(1), DPMSolverPP(1), Exponential(1))]
    for other in runs[1:]:
        torch.testing.assert_close(other, runs[0], rtol=1e-10, atol=1e-10)


def test_euler_maruyama_without_noise_is_euler():
    field, times = ExactField(Path.linear(), skewed()), Times.uniform(Path.linear(), 7)
    assert torch.equal(sample(field, start=START, times=times, rule=EulerMaruyama(0.0)), sample(field, start=START, times=times, rule=Euler()))


# -- orders ----------------------------------------------------------------------------------------------------------------------

ORDERS = [(rule, rule.order) for rule in (DDIM(), DEIS(2), DEIS(3), DEIS(4), DEIS(2, clock=RHO), DEIS(3, clock=LAM), DPMSolverPP(2), DPMSolverPP(3),
                                          Exponential(2, "data", U), Exponential(3, "noise", U), Exponential(2, "score", T), Euler(), AdamsBashforth(2), AdamsBashforth(3),
                                          RungeKutta(2), RungeKutta(3), RungeKutta(4), RungeKutta(2, "noise"), RungeKutta(4, "noise"))]
# A corrector through the new prediction and the k before it lifts the order to k + 1.
ORDERS += [(Exponential(2, "data", U, 2), 3), (Exponential(2, "data", LAM, 1), 2), (Exponential(3, "noise", LAM, 3), 4)]


@pytest.mark.parametrize(("rule", "order"), ORDERS, ids=lambda v: str(v))
@pytest.mark.parametrize("direction", ["forward", "reversed"])
def test_order_of_convergence(rule, order, direction):
    """Smoothly uneven times, an uneven Gaussian, history begun on the exact trajectory, since the order is the rule's and not its warm-up's."""
    path, rule = Path.vp(), replace_end(rule)
    first, last = (0.35, 0.8) if direction == "forward" else (0.8, 0.35)
    field = ExactField(path, GAUSSIAN)

    def run(n):
        w = torch.linspace(0, 1, n + 1, dtype=F64)
        plan = rule.plan(Times(path, first + (last - first) * (0.75 * w + 0.25 * w * w)))
        begun = 0 if isinstance(rule, RungeKutta) else order
        x = [flowed(path, START, first, float(t)) for t in plan.times.t[: begun + 1]]
        history = [field(x[j], float(plan.times.t[j])).of(plan.kind) for j in range(begun)]
        state = MultistepState(x[begun], x[:begun][::-1], history[::-1], begun)
        return evolve(Multistep(field, plan), state, plan.nfe - begun).x

    observed = observed_order(run, flowed(path, START, first, last), [16, 32, 64] if order < 3 else [24, 48, 96])
    assert observed > order - 0.35, observed
    assert observed < order + 0.8 or getattr(rule, "corrector", 0), observed        # by luck a corrector may do better on this problem


# -- peers -----------------------------------------------------------------------------------------------------------------------

def diffusers_run(scheduler, steps, net, start):
    scheduler.set_timesteps(steps)
    x = start.clone()
    for t in scheduler.timesteps:
        x = scheduler.step(net(x, t), t, x).prev_sample
    return x


def peer(name, **kinds):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        diffusers = pytest.importorskip("diffusers")
        return getattr(diffusers, name)(num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02, beta_schedule="linear", **kinds)


@pytest.mark.parametrize(("name", "kinds", "rule", "tolerance"), [
    ("DDIMScheduler", {"set_alpha_to_one": False, "timestep_spacing": "leading", "clip_sample": False}, DDIM(kind="noise"), 1e-5),
    ("DEISMultistepScheduler", {"solver_order": 2, "lower_order_final": False}, DEIS(2, clock=LAM), 1e-5),
    ("DEISMultistepScheduler", {"solver_order": 3, "lower_order_final": False}, DEIS(3, clock=LAM), 2e-5),
    ("DPMSolverMultistepScheduler", {"solver_order": 2, "solver_type": "heun", "final_sigmas_type": "sigma_min", "lower_order_final": False},
     DPMSolverPP(2, lower_at_end=False), 3e-5),
])
def test_equals_diffusers_on_the_same_input(name, kinds, rule, tolerance):
    """The same network, start and noise levels: diffusers' discrete levels are read off its scheduler and placed on our path."""
    steps, scheduler = 12, peer(name, **kinds)
    target = skewed()
    x = Draws(0).rows("x", 0, (32, 2), dtype=F64)
    levels = scheduler.alphas_cumprod.double()

    path = Path.vp(0.1, 21.0)       # reaches a little beyond diffusers' last level; only noise levels matter to these rules
    time = lambda alpha_squared: path.time_at(0.5 * torch.log(alpha_squared / (1 - alpha_squared)))
    field = ExactField(path, target)
    net = lambda x, t: field(x, time(levels[int(t)])).noise
    theirs = diffusers_run(scheduler, steps, net, x)
    ts = [int(t) for t in scheduler.timesteps]
    if name == "DDIMScheduler":
        ends = levels[ts]                    # its last step goes from the lowest level to the same level
    else:
        # the multistep schedulers keep their levels as sigma / alpha, one more than there are timesteps
        ends = 1 / (1 + scheduler.sigmas.double() ** 2)
    ours = sample(field, start=x, rule=rule, times=Times(path, time(ends)))
    assert float((ours - theirs).square().mean().sqrt()) < tolerance         # diffusers keeps its levels in float32


# -- sampling --------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("path", [Path.linear(), Path.vp()], ids=["linear", "vp"])
@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=["float32", "float64"])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 10, 50])
def test_every_rule_is_finite_at_every_number_of_steps(path, dtype, steps):
    field = ExactField(path, skewed().to(dtype=dtype))
    for rule in [*public_rules(), *EXPONENTIALS]:
        x = sample(field, 4, rule=rule, steps=steps, seed=1)
        assert x.dtype == dtype and bool(torch.isfinite(x).all()), rule


@pytest.mark.parametrize("path", [Path.linear(), Path.vp()], ids=["linear", "vp"])
@pytest.mark.parametrize("rule", [None, EulerMaruyama(0.5)], ids=["default", "sde"])
def test_samples_have_the_targets_law(path, rule, seed):
    target = skewed()
    x = sample(ExactField(path, target), 3000, rule=rule, steps=20 if rule is None else 150, seed=seed)
    truth = target.sample(3000, seed=seed + 1)
    least = floor(sliced_w2, lambda n, s: target.sample(n, seed=s), n=3000, repeats=5, seed=seed)
    assert float(sliced_w2(x, truth)) < least.mean * 1.3 + 6 * least.std


@pytest.mark.parametrize("rule", [None, EulerMaruyama(0.7), DEIS(3)], ids=str)
def test_any_split_of_the_batch_draws_the_same_samples(rule):
    field = ExactField(Path.vp(), skewed())
    whole = sample(field, 23, rule=rule, steps=6, seed=9)
    for batch in (1, 7, 22, 23, 100):
        torch.testing.assert_close(sample(field, 23, rule=rule, steps=6, seed=9, batch=batch), whole, rtol=1e-12, atol=1e-12)
    assert not torch.equal(sample(field, 23, rule=rule, steps=6, seed=10), whole)


@pytest.mark.parametrize(("rule", "calls"), [(None, 8), (DDIM(), 8), (Euler(), 8), (Exponential(3, "data", LAM, 3), 8), (RungeKutta(2), 16), (RungeKutta(4, "noise"), 32)], ids=str)
def test_field_calls_are_counted_and_are_what_the_rule_says(rule, calls):
    field = ExactField(Path.vp(), GAUSSIAN)
    sample(field, 2, rule=rule, steps=8)
    assert field.nfe == calls and (rule is None or calls == 8 * rule.calls_per_step)


def test_classifier_free_guidance_is_one_batched_call_of_the_network():
    target = GaussianMixture(torch.tensor([0.5, 0.5], dtype=F64), torch.tensor([[2.0, 0.0], [-1.0, 1.0]], dtype=F64), torch.tensor([0.3, 0.5], dtype=F64), torch.tensor([0, 1]))
    exact, x, cond = ExactField(Path.vp(), target), Draws(0).rows("x", 0, (5, 2), dtype=F64), torch.tensor([0, 1, 0, 0, 1])
    guided = classifier_free(exact, 2.5)
    answer = guided(x, 0.6, cond)
    assert (guided.nfe, exact.nfe) == (1, 1)
    with_cond, without = exact(x, 0.6, cond), exact(x, 0.6)
    for kind in ("data", "noise", "velocity", "score"):
        torch.testing.assert_close(answer.of(kind), without.of(kind) + 2.5 * (with_cond.of(kind) - without.of(kind)), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(classifier_free(exact, 1.0)(x, 0.6, cond).data, with_cond.data)
    torch.testing.assert_close(classifier_free(exact, 0.0)(x, 0.6, cond).data, without.data)


def test_guidance_counts_and_samples_end_to_end():
    target = GaussianMixture(torch.tensor([0.5, 0.5], dtype=F64), torch.tensor([[2.0, 0.0], [-1.0, 1.0]], dtype=F64), torch.tensor([0.05, 0.05], dtype=F64), torch.tensor([0, 1]))
    x = sample(ExactField(Path.linear(), target), 200, cond=1, guidance=1.5, steps=10)
    assert float((x - torch.tensor([-1.0, 1.0], dtype=F64)).abs().mean(0).max()) < 0.4


def test_an_edit_acts_on_every_prediction():
    seen = []
    field = ExactField(Path.linear(), GAUSSIAN)
    clip = lambda data, x, t: (seen.append(t), data.clamp(-0.1, 0.1))[1]
    x = sample(field, start=START, rule=DDIM(), steps=4, edit=clip)
    assert seen == Times.uniform(Path.linear(), 4, SQRT_U).t[:-1].tolist() and float(x.abs().max()) <= 0.1


def test_gradients_flow_to_the_start_only_if_asked():
    field = ExactField(Path.linear(), GAUSSIAN)
    start = START.clone().requires_grad_(True)
    sample(field, start=start, steps=5).sum().backward()
    assert float(start.grad.abs().min()) > 0
    assert not sample(field, start=START, steps=5).requires_grad


def test_a_networks_own_mode_comes_back():
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout(0.5))
    net[1].eval()
    seen = []
    field = Field(lambda x, t, c: (seen.append(net[1].training), net(x))[1], Path.linear())
    field.net = type("Net", (torch.nn.Module,), {"__init__": lambda s: (torch.nn.Module.__init__(s), setattr(s, "inner", net))[0],
                                                 "forward": lambda s, x, t, c=None: (seen.append(s.training), net(x))[1]})()
    field.net.train()
    net[1].eval()
    sample(field, start=torch.ones(3, 2), steps=2, rule=Euler())
    assert seen == [False, False] and field.net.training and net[0].training and not net[1].training


def test_the_default_suits_what_the_network_tells():
    of = lambda path, *kinds: default_rule(Field(lambda x, t, c: x, path, kinds))
    best = Exponential(2, "data", U, corrector=2)
    assert of(Path.linear(), "velocity") == of(Path.vp(), "data") == of(Path.vp(), "noise", "data") == default_rule(FIELD) == best
    steady = AdamsBashforth(2, spacing=QUADRATIC)
    assert of(Path.vp(), "noise") == of(Path.vp(), "velocity") == of(Path.linear(), "noise") == of(Path.vp(), "score") == steady
    assert of(Path.interpolant(), "velocity", "noise") == RungeKutta(2)
    assert of(Path.interpolant(), "residual", "noise") == of(Path.residual(0.1), "noise", "residual") == ResidualDDIM()
    assert of(Path.residual(1.0), "residual", "noise") == AdamsBashforth(2)


@pytest.mark.parametrize("predicts", ["noise", "velocity"])
def test_an_imperfect_networks_default_is_the_better_one(predicts):
    """A network is off by a little everywhere; judged against its own flow, solved finely, the default beats the data rule it replaces."""
    exact = ExactField(Path.vp(), skewed())
    field = Field(lambda x, t, c: exact(x, t).of(predicts) + 0.03 * torch.sin(2 * x + 1), Path.vp(), predicts)
    start = Draws(0).rows("x", 0, (200, 2), dtype=F64)
    truth = sample(field, start=start, rule=RungeKutta(4), steps=300)
    error = lambda rule: float((sample(field, start=start, rule=rule, steps=10) - truth).square().mean(1).sqrt().median())
    assert error(None) < 0.5 * error(Exponential(2, "data", U, corrector=2))


@pytest.mark.parametrize("predicts", ["noise", "score", "data", "velocity"])
@pytest.mark.parametrize("path", [Path.linear(), Path.vp()], ids=["linear", "vp"])
def test_every_kind_of_network_is_sampled_on_every_path(path, predicts):
    """A noise network on the linear path says nothing of the data at t = 0: its times begin a little later."""
    exact = ExactField(path, GAUSSIAN)
    field = Field(lambda x, t, c: exact(x, t.double()).of(predicts), path, predicts)
    for rule in (None, Euler(), DDIM(), DEIS(2), RungeKutta(2)):
        x = sample(field, 2000, shape=(2,), rule=rule, steps=40, seed=1)
        assert float((x.mean(0) - MEAN[0]).abs().max()) < 0.2 and float((x.var(0) / SPREAD[0] - 1).abs().max()) < 0.25, rule


# -- tables ----------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("rule", public_rules(), ids=lambda r: type(r).__name__ + str(r.order))
def test_tables_survive_json_to_the_bit(rule):
    times = rule.times(Path.vp(), 9)
    plan = rule.plan(times)
    back = Table.from_json(json.loads(json.dumps(plan.to_json())))
    field = ExactField(Path.vp(), GAUSSIAN)
    assert back.predict == plan.predict and back.correct == plan.correct and str(back) == str(plan)
    assert torch.equal(sample(field, start=START, rule=back, seed=2), sample(field, start=START, rule=plan, seed=2))


def test_tables_are_edited_and_printed():
    plan = DDIM().plan(Times.uniform(Path.vp(), 3))
    edited = plan.edited(1, w=(0.5,))
    assert edited.predict[1].w == (0.5,) and edited.predict[1].a == plan.predict[1].a and plan.predict[1].w != (0.5,)
    assert str(plan).startswith("3 calls, kind data, t from 0 to 0.999")


def test_a_run_stops_at_the_first_sample_that_is_not_finite():
    from rheos.core import NonFinite

    field = Field(lambda x, t, c: torch.where(torch.arange(4)[:, None] == 2, torch.inf, x), Path.linear())
    plan = Euler().plan(Times.uniform(Path.linear(), 5))
    with pytest.raises(NonFinite, match="sample 2 of 4 is not finite at step 4"):
        sample(field, start=torch.ones(4, 2), rule=plan)
    run = Multistep(field, plan, finite_every=1)
    with pytest.raises(NonFinite, match="at step 0"):
        evolve(run, run.init(torch.ones(4, 2)), 5)


# -- refusals --------------------------------------------------------------------------------------------------------------------

FIELD = ExactField(Path.vp(), skewed())


@pytest.mark.parametrize(("call", "message"), [
    (lambda: sample(FIELD, 0), "n must be at least 1, got 0"),
    (lambda: sample(FIELD), "n or start must be given"),
    (lambda: sample(FIELD, 3, steps=0), "steps must be at least 1, got 0"),
    (lambda: sample(FIELD, 3, batch=0), "batch must be at least 1"),
    (lambda: sample(FIELD, 3, start=torch.ones(2, 2)), "n must be left out or equal the 2 rows of start, got 3"),
    (lambda: sample(FIELD, start=torch.tensor([[float("nan"), 0.0]])), r"start must be finite, got 1 of 2 entries that are not, the first at \(0, 0\)"),
    (lambda: sample(FIELD, 3, times=Times.uniform(Path.linear(), 3)), "times were made for Linear"),
    (lambda: sample(FIELD, 3, rule=DDIM().plan(Times.uniform(Path.linear(), 3))), "the table was planned for Linear.*, but the field lives on VP"),
    (lambda: sample(FIELD, 3, rule=DDIM().plan(Times.uniform(Path.vp(), 3)), times=Times.uniform(Path.vp(), 3)), "a table brings its own times"),
    (lambda: sample(FIELD, 3, times=Times.uniform(Path.vp(), 3), steps=0), "steps must be at least 1, got 0"),
    (lambda: sample(FIELD, 3, watch=[StopWhen(lambda s: s.step == 2)], steps=8), "a watcher ended the run after 2 of 8 calls"),
    (lambda: sample(FIELD, start=torch.zeros(0, 2, dtype=F64)), "start must hold at least one sample"),
    (lambda: sample(FIELD, 3, cond=torch.zeros(2, dtype=torch.int64)), "cond must have 3 rows"),
    (lambda: sample(FIELD, 3, guidance=2.0), "guidance needs a condition"),
    (lambda: sample(FIELD, 3, cond=0, guidance=-1.0), "guidance must lie in"),
    (lambda: sample(Field(lambda x, t, c: x, Path.linear()), 3), "shape must be given"),
    (lambda: sample(Field(lambda x, t, c: x, Path.interpolant()), 3, shape=(2,)), "start must be given"),
    (lambda: DDIM().plan(Times.uniform(Path.interpolant(), 3)), "DDIM needs a one-sided path"),
    (lambda: DEIS().plan(Times.uniform(Path.linear(), 3)), r"cannot carry on from or to a time without data \(alpha = 0\)"),
    (lambda: DPMSolverPP().plan(Times.uniform(Path.linear(), 3)), "clock lam is infinite at t = 0"),
    (lambda: DPMSolverPP().plan(Times(Path.linear(), [1.0, 0.5])), "clock lam is infinite at t = 1"),
    (lambda: Exponential(1, "data", U).plan(Times(Path.linear(), [1.0, 0.5])), r"a data prediction cannot carry on from a time without noise"),
    (lambda: Exponential(0), "order must be at least 1, got 0"),
    (lambda: Exponential(2, "velocity"), "kind must be one of data, noise, score, got 'velocity'"),
    (lambda: RungeKutta(5), "order must be one of 2, 3, 4, got 5"),
    (lambda: EulerMaruyama(-0.1), "epsilon must lie in"),
    (lambda: Exponential(4, "data", T, lower_at_end=False).plan(Times(Path.vp(), [0.1, 0.1001, 0.1002, 0.1003, 0.9])), "step 4 is so much longer than the ones before"),
    (lambda: Row((1.0,), (float("inf"),)), "the numbers of a table row must be finite"),
    (lambda: Table(Times.uniform(Path.vp(), 2), "data", (Row((1.0,), (1.0,)),)), "table.times must fit its 1 rows, got 2"),
    (lambda: Table(Times.uniform(Path.vp(), 1), "data", (Row((1.0,), (1.0, 2.0)),)), "reaches further back"),
    (lambda: Table.from_json({"kind": "data"}), "not a sampler table"),
    (lambda: Table.from_json({**DDIM().plan(Times.uniform(Path.vp(), 2)).to_json(), "path": {"class": "os.system"}}), "not a rheos class"),
])
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_types_that_cannot_be_right_are_named():
    for call, message in ((lambda: sample(FIELD, 3, rule=DDIM), "rule"), (lambda: Times.uniform(Path.vp(), 3, "lam"), "clock"), (lambda: Path(3), "schedule")):
        with pytest.raises(TypeError, match=message):
            call()


def test_a_rule_of_ones_own_need_not_be_hashable():
    class Own:
        __hash__ = None
        order, calls_per_step = 1, 1

        @classmethod
        def examples(cls):
            return [cls()]

        def plan(self, times):
            return Euler().plan(times)

        def times(self, path, steps):
            return Times.uniform(path, steps)

    assert torch.equal(sample(FIELD, start=START, rule=Own(), steps=5), sample(FIELD, start=START, rule=Euler(), steps=5))


def test_quadratic_times_are_dense_near_the_data():
    t = Times.uniform(Path.vp(), 10, QUADRATIC).t
    assert float(t[1] - t[0]) > 5 * float(t[-1] - t[-2])
