"""Momentum: against its filters written out, its orders and intervals of stability, diffusers without it, and guided digits."""
import json
import math
import warnings

import pytest
import torch

from rheos.core import Draws, evolve
from rheos.data import GaussianMixture, digits_mixture, skewed
from rheos.guidance import classifier_free
from rheos.nets import ResidualMLP
from rheos.paths import LAM, RHO, ExactField, Field, Path, T, Times
from rheos.samplers import (
    DDIM,
    DDPM,
    DEIS,
    PLMS,
    AdamsBashforth,
    DPMSolverPP,
    Exponential,
    Multistep,
    MultistepState,
    RungeKutta,
    Singlestep,
    Table,
    UniPC,
    sample,
)
from rheos.samplers.bidirectional import BDIA
from rheos.samplers.momentum import GHVB, HeavyBall
from rheos.testing import observed_order

F64 = torch.float64
PATH = Path.vp()
FIELD = ExactField(PATH, skewed())
START = torch.tensor([[1.0, -0.5], [-2.0, 0.3], [0.1, 2.2]], dtype=F64)
UNEVEN = Times(PATH, [0.06, 0.17, 0.25, 0.4, 0.47, 0.6, 0.78, 0.86, 0.97])
ADAMS = {1: [1.0], 2: [1.5, -0.5], 3: [23 / 12, -4 / 3, 5 / 12], 4: [55 / 24, -59 / 24, 37 / 24, -3 / 8]}
# The paper's weights of the filtered predictions, times beta, newest first.
FILTERED = {1: lambda b: [b], 2: lambda b: [(2 + b) / 2, -(2 - b) / 2], 3: lambda b: [(18 + 5 * b) / 12, -(24 - 8 * b) / 12, (6 - b) / 12],
            4: lambda b: [(46 + 9 * b) / 24, -(78 - 19 * b) / 24, (42 - 5 * b) / 24, -(10 - b) / 24]}


def dot(weights, values):
    return sum(w * v for w, v in zip(weights, values, strict=True))


# -- the filters, written out -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("beta", [1.0, 0.8, 0.35])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_ghvb_is_the_papers_filter_of_the_predictions(order, beta):
    """In x / alpha and rho: v <- (1 - beta) v + beta eps, then x / alpha += (step of rho / beta) sum_j c_j v_j, begun with v = eps."""
    alpha, rho = UNEVEN.alpha.tolist(), (UNEVEN.sigma / UNEVEN.alpha).tolist()
    bar, filtered = START / alpha[0], []
    for i in range(UNEVEN.steps):
        told = FIELD(bar * alpha[i], float(UNEVEN.t[i])).noise
        filtered.insert(0, told if not filtered else (1 - beta) * filtered[0] + beta * told)
        count = min(order, i + 1)
        bar = bar + (rho[i + 1] - rho[i]) / beta * dot(FILTERED[count](beta), filtered[:count])
    torch.testing.assert_close(sample(FIELD, start=START, rule=GHVB(order, beta), times=UNEVEN), bar * alpha[-1], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("beta", [0.8, 0.35])
def test_heavy_ball_is_the_papers_filter_of_the_direction(beta, nesterov):
    """In x / alpha and rho, around the classical Adams-Bashforth combination of the noise."""
    alpha, rho = UNEVEN.alpha.tolist(), (UNEVEN.sigma / UNEVEN.alpha).tolist()
    bar, told, v = START / alpha[0], [], None
    for i in range(UNEVEN.steps):
        told.insert(0, FIELD(bar * alpha[i], float(UNEVEN.t[i])).noise)
        count = min(4, i + 1)
        combined = dot(ADAMS[count], told[:count])
        v = combined if v is None else (1 - beta) * v + beta * combined
        bar = bar + (rho[i + 1] - rho[i]) * ((1 - beta) * v + beta * combined if nesterov else v)
    rule = HeavyBall(PLMS(redo_first=False), beta, nesterov)
    torch.testing.assert_close(sample(FIELD, start=START, rule=rule, times=UNEVEN), bar * alpha[-1], rtol=1e-10, atol=1e-10)


def by_memory(table, beta, nesterov, field, x):
    """Heavy ball with its velocity kept in a variable, around any table of one point a row: predictor and corrector filter their own directions.

    points[k] is what number k was after its correction; v[k] the velocity of the step that led there.
    """
    points, told, v = [x], [], {}

    def moved(row, base, end):
        direction = dot(row.w, told[: len(row.w)]) / sum(row.w)
        v[end] = direction if base not in v else (1 - beta) * v[base] + beta * direction
        return sum(row.w) * ((1 - beta) * v[end] + beta * direction if nesterov else v[end])

    for i, row in enumerate(table.predict):
        told.insert(0, field(x, float(table.times.t[i]), at=table.times.each[i]).of(table.kind))
        before = table.correct[i - 1] if i else None
        if before is not None:
            points[i] = x = before.a[0] * points[i - 1] + moved(before, i - 1, i)
        lag = max(range(len(row.a)), key=lambda j: abs(row.a[j]))
        x = row.a[lag] * points[i - lag] + moved(row, i - lag, i + 1)
        points.append(x)
    return x


@pytest.mark.parametrize("rule", [PLMS(), DPMSolverPP(2), DPMSolverPP(3, lower_at_end=False), UniPC(2), UniPC(3), DEIS(3), AdamsBashforth(3),
                                  Exponential(2, "score", LAM)], ids=lambda r: f"{type(r).__name__}{r.order}{getattr(r, 'kind', '')}")
@pytest.mark.parametrize("nesterov", [False, True])
def test_heavy_ball_filters_directions_of_any_kind_and_of_correctors(rule, nesterov):
    truth = by_memory(rule.plan(UNEVEN), 0.4, nesterov, FIELD, START)
    found = sample(FIELD, start=START, rule=HeavyBall(rule, 0.4, nesterov), times=UNEVEN)
    torch.testing.assert_close(found, truth, rtol=1e-9, atol=1e-9)
    assert float((found - sample(FIELD, start=START, rule=rule, times=UNEVEN)).abs().max()) > 1e-3


@pytest.mark.parametrize(("rule", "plain"), [
    (HeavyBall(PLMS(), 1.0), PLMS()), (HeavyBall(PLMS(3, False), 1.0, nesterov=True), PLMS(3, False)), (HeavyBall(UniPC(3), 1.0), UniPC(3)),
    (HeavyBall(AdamsBashforth(2), 1.0), AdamsBashforth(2)), (GHVB(4, 1.0), PLMS(4, False)), (GHVB(2, 1.0), PLMS(2, False)), (GHVB(1, 1.0), DDIM()),
    (GHVB(4, 1.0, T), DEIS(4)), (GHVB(3, 1.0, LAM, "data"), DPMSolverPP(3, lower_at_end=False)), (HeavyBall(DDIM(), 0.6), GHVB(1, 0.6))],
    ids=lambda r: f"{type(r).__name__}{r.order}")
def test_without_momentum_a_rule_is_itself(rule, plain):
    ends = [sample(FIELD, start=START, rule=r, times=UNEVEN) for r in (rule, plain)]
    torch.testing.assert_close(*ends, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("rule", [HeavyBall(), HeavyBall(UniPC(3), 0.6), HeavyBall(PLMS(3, False), 0.5, True), GHVB(4, 0.3), GHVB(3, 0.3, LAM), GHVB(2, 0.5, LAM, "data")],
                         ids=str)
def test_a_constant_prediction_is_integrated_exactly(rule):
    """Data and noise that do not change are a straight way from alpha_0 x1 + sigma_0 z to alpha_1 x1 + sigma_1 z, with any memory."""
    data, noise = torch.tensor([[0.4, -3.0]], dtype=F64), torch.tensor([[1.5, 0.2]], dtype=F64)
    table = rule.plan(UNEVEN)
    told = data if table.kind == "data" else noise
    field = Field(lambda x, t, cond: told.expand_as(x), PATH, table.kind)
    first, last = UNEVEN.each[0], UNEVEN.each[-1]
    end = sample(field, start=first.b * data + first.c * noise, rule=table)
    torch.testing.assert_close(end, last.b * data + last.c * noise, rtol=1e-11, atol=1e-11)


def test_rows_weigh_two_points_and_their_own_predictions():
    """However long the run, a step looks back on two points (three where the first step was made twice), since they tell the velocity."""
    times = Times.uniform(PATH, 30, T, start=0.01)
    assert HeavyBall(PLMS(redo_first=False)).plan(times).depth == (2, 4)
    assert HeavyBall(PLMS()).plan(times).depth == (3, PLMS().plan(times).depth[1])
    assert HeavyBall(PLMS(redo_first=False), nesterov=True).plan(times).depth == (2, 5)
    assert GHVB(4, 0.3).plan(times).depth == GHVB(4, 0.3, T).plan(times).depth == (2, 4)
    table = HeavyBall(UniPC(3), 0.7).plan(times)
    assert all(mend is not None for mend in table.mends[:-1])        # the quick form of a corrector holds


# -- order and stability ---------------------------------------------------------------------------------------------------------------

MEAN, SPREAD = torch.tensor([[0.7, -1.2]], dtype=F64), torch.tensor([[0.3, 1.7]], dtype=F64)
GAUSSIAN = ExactField(PATH, GaussianMixture(torch.ones(1, dtype=F64), MEAN, SPREAD))


def flowed(t0, t1):
    """Where the flow of a Gaussian takes START: it keeps (x - b m) / sqrt(b^2 v + c^2)."""
    a, b = PATH.coefficients(t0), PATH.coefficients(t1)
    width = lambda at: torch.sqrt(at.b**2 * SPREAD + at.c**2)
    return b.b * MEAN + (START - a.b * MEAN) * width(b) / width(a)


def order_of(rule, clock, span=(0.62, 0.82)):
    """From exact earlier points and predictions, so that it is the rule's own order and not its first steps'."""
    def run(n):
        table = rule.plan(Times.uniform(PATH, n, clock, start=span[0], end=span[1]))
        t, begun = table.times.t.tolist(), max(table.depth)
        x = [flowed(span[0], t[j]) for j in range(begun + 1)]
        told = [GAUSSIAN(x[j], t[j]).of(table.kind) for j in range(begun)]
        return evolve(Multistep(GAUSSIAN, table), MultistepState(x[begun], x[:begun][::-1], told[::-1], begun), table.nfe - begun).x

    return observed_order(run, flowed(*span), [40, 80, 160])


@pytest.mark.parametrize("beta", [0.8, 0.5, 0.3])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_ghvb_keeps_its_order_on_equal_steps_of_rho(order, beta):
    assert order - 0.35 < order_of(GHVB(order, beta), RHO) < order + 0.8


@pytest.mark.parametrize(("order", "kind", "clock"), [(2, "noise", LAM), (3, "noise", T), (4, "noise", LAM), (3, "data", LAM)])
def test_with_a_clock_ghvb_keeps_its_order_on_any_times(order, kind, clock):
    assert order - 0.35 < order_of(GHVB(order, 0.5, clock, kind), T) < order + 0.8


def test_the_papers_weights_reach_order_two_where_steps_of_rho_differ():
    assert 1.65 < order_of(GHVB(4, 0.5), T) < 2.4


@pytest.mark.parametrize("rule", [HeavyBall(PLMS(redo_first=False), 0.8), HeavyBall(UniPC(3), 0.5), HeavyBall(PLMS(redo_first=False), 0.8, True)], ids=str)
def test_heavy_ball_is_of_order_one(rule):
    assert 0.7 < order_of(rule, T) < 1.4
    assert rule.order == 1 and HeavyBall(rule.rule, 1.0).order == rule.rule.order


@pytest.mark.parametrize(("order", "interval"), [(1, 2.0), (2, 1.0), (3, 6 / 11), (4, 3 / 10)])
@pytest.mark.parametrize("beta", [1.0, 0.8, 0.5])
def test_heavy_ball_is_stable_for_longer_steps(order, interval, beta):
    """x' = -z x: Adams-Bashforth's textbook interval of z h grows by (2 - beta) / beta, neither more nor less."""
    steps = 400
    for share, stable in ((0.97, True), (1.03, False)):
        rate = share * interval * (2 - beta) / beta * steps
        field = Field(lambda x, t, cond, rate=rate: -rate * x, Path.linear(), "velocity")
        end = sample(field, start=torch.ones(1, 1, dtype=F64), rule=HeavyBall(AdamsBashforth(order), beta), steps=steps)
        assert (float(end.abs()) < 1.0) == stable


# -- guidance, networks, peers ------------------------------------------------------------------------------------------------------------

def test_momentum_tames_guided_steps_and_ghvb_is_as_good_where_nothing_needs_taming(seed):
    """Digits guided by 8 in 8 calls, the median of distances to the exact ends; and unguided in 20."""
    start = PATH.prior((24, 16), seed=seed, dtype=F64)
    exact = ExactField(PATH, digits_mixture())
    plms, held, kept = PLMS(redo_first=False), HeavyBall(PLMS(redo_first=False), 0.8), GHVB(4, 0.5)

    def errors(field, steps, cond):
        truth = sample(field, start=start, rule=Exponential(3, "data", LAM, corrector=3), times=Times.uniform(PATH, 40, LAM), cond=cond)
        ends = [sample(field, start=start, rule=rule, times=Times.uniform(PATH, steps, T), cond=cond) for rule in (plms, held, kept)]
        return [float((x - truth).square().mean(1).sqrt().median()) for x in ends]

    plain, ball, generalised = errors(classifier_free(exact, 8.0), 8, 3)
    assert ball < 0.6 * plain and generalised < 0.7 * plain
    plain, ball, generalised = errors(exact, 20, None)
    assert generalised < 1.6 * plain and ball > 3 * plain


@pytest.mark.parametrize("steps", [10, 6])
def test_equals_diffusers_pndm_without_momentum(steps):
    """Their PLMS starts by doing the first step twice, as ours."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from diffusers import PNDMScheduler
    made = PNDMScheduler(num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02, skip_prk_steps=True, set_alpha_to_one=False)
    made.set_timesteps(steps)
    path, x, at = Path.from_betas(torch.linspace(1e-4, 0.02, 1000, dtype=F64)), START, set()
    field = ExactField(path, skewed())
    for k in made.timesteps:
        at.add(float(path.schedule.time_of(float(k))))
        x = made.step(field(x, float(path.schedule.time_of(float(k)))).noise, k, x).prev_sample
    ours = sample(field, start=START, rule=HeavyBall(PLMS(), 1.0), times=Times(path, sorted(at | {1.0})))
    assert float((ours - x).abs().max()) < 2e-6           # diffusers keeps its levels in float32


@pytest.mark.parametrize("rule", [HeavyBall(UniPC(3), 0.8), GHVB(4, 0.5), GHVB(3, 0.5, LAM)], ids=str)
def test_on_a_network_float32_follows_float64(rule):
    with Draws(1).scope(0):
        net = ResidualMLP((1, 5, 3), width=32, depth=2)
    start, ends = PATH.prior((4, 1, 5, 3), seed=2, dtype=F64), []
    for dtype in (torch.float32, F64):
        ends.append(sample(Field(net.to(dtype), PATH, "v"), start=start.to(dtype), rule=rule, steps=12))
    assert ends[0].dtype == torch.float32
    assert float((ends[0] - ends[1]).abs().max()) < 1e-3 * float(ends[1].abs().max())


def test_two_sided_paths_take_momentum_on_the_velocity():
    path = Path.interpolant("none")
    source = GaussianMixture(torch.ones(1, dtype=F64), -MEAN.flip(1), SPREAD.flip(1))
    field, rule = ExactField(path, GAUSSIAN.target, source), HeavyBall(AdamsBashforth(2), 0.8)
    truth = sample(field, start=START, rule=RungeKutta(4), steps=100)
    far, near = (float((sample(field, start=START, rule=rule, steps=n) - truth).abs().max()) for n in (50, 200))
    assert near < 0.4 * far and near < 0.05


def test_tables_tell_where_they_come_from_and_survive_json():
    table = HeavyBall(UniPC(2), 0.7).plan(UNEVEN)
    assert table.origin["rule"] == "HeavyBall" and table.origin["beta"] == 0.7 and table.origin["of"]["rule"] == "UniPC"
    again = Table.from_json(json.loads(json.dumps(table.to_json())))
    assert again.predict == table.predict and again.correct == table.correct


# -- refusals -------------------------------------------------------------------------------------------------------------------------------

class Odd(DDIM):
    """A rule whose weights sum to nothing."""

    def plan(self, times):
        return super().plan(times).edited(1, w=(1.0, -1.0))


@pytest.mark.parametrize(("make", "error", "message"), [
    (lambda: HeavyBall(PLMS(), 0.0), ValueError, r"beta must lie in \(0, 1\], got 0"),
    (lambda: HeavyBall(PLMS(), 1.5), ValueError, "beta must lie"),
    (lambda: HeavyBall(PLMS(), math.nan), ValueError, "beta must lie"),
    (lambda: HeavyBall(PLMS), TypeError, "rule must be a rule such as PLMS"),
    (lambda: HeavyBall(RungeKutta(2)), ValueError, "one call a step"),
    (lambda: HeavyBall(Singlestep(2)), ValueError, "one call a step"),
    (lambda: HeavyBall(PLMS(), 0.5, 1), TypeError, "nesterov|int"),
    (lambda: HeavyBall(DDPM()).plan(UNEVEN), ValueError, "without fresh noise"),
    (lambda: HeavyBall(BDIA()).plan(UNEVEN), ValueError, "weigh one point"),
    (lambda: HeavyBall(HeavyBall()).plan(UNEVEN), ValueError, "weigh one point"),
    (lambda: HeavyBall(Odd()).plan(UNEVEN), ValueError, "those of row 1 sum to 0"),
    (lambda: GHVB(5), ValueError, "order must be one of"),
    (lambda: GHVB(2, 0.0), ValueError, "beta must lie"),
    (lambda: GHVB(2, 0.5, "lam"), TypeError, "clock"),
    (lambda: GHVB(2, 0.5, None, "velocity"), ValueError, "kind must be one of"),
    (lambda: GHVB().plan(Times.uniform(Path.interpolant(), 4)), ValueError, "one-sided path"),
    (lambda: GHVB().plan(Times.uniform(Path.linear(), 4)), ValueError, "alpha = 0"),
])
def test_refusals(make, error, message):
    with pytest.raises(error, match=message):
        make()
