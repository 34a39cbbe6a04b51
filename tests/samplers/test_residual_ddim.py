"""ResidualDDIM: DDIM where the source is 0, by diffusers and by our own; the law of its noise; the marginals of exact bridges; what it refuses."""
import math
import warnings

import pytest
import torch
from scipy import stats

from rheos.core import Draws
from rheos.data import GaussianMixture, skewed
from rheos.nets import ResidualMLP
from rheos.paths import LAM, VP, Cosine, ExactField, Field, Path, T, Times
from rheos.samplers import DDIM, ResidualDDIM, Rule, RungeKutta, Table, sample

F64 = torch.float64
BETAS = Path.from_betas(torch.linspace(1e-4, 0.02, 1000, dtype=F64))
START = Draws(0).rows("start", 0, (16, 2), dtype=F64)


def from_nothing(path, exact):
    """A one-sided field on a two-sided path whose source is 0: the residual is minus the data."""
    def answers(x, t, cond):
        told = exact(x, float(t[0]))
        return -told.data, told.noise

    return Field(answers, path, ("residual", "noise"))


# -- DDIM --------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("steps", [10, 50])
def test_equals_the_ddim_of_diffusers(steps):
    diffusers = pytest.importorskip("diffusers")
    exact = ExactField(BETAS, skewed())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = diffusers.DDIMScheduler(num_train_timesteps=1000, beta_start=1e-4, beta_end=0.02, beta_schedule="linear", clip_sample=False, set_alpha_to_one=False)
        # Its products of alphas are of single precision.
        theirs.alphas_cumprod = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=F64), 0)
        theirs.final_alpha_cumprod = theirs.alphas_cumprod[0]
        theirs.set_timesteps(steps)
        x, times = START, []
        for t in theirs.timesteps:
            times.append(float(BETAS.schedule.time_of(float(t))))
            x = theirs.step(exact(x, times[-1]).noise, t, x).prev_sample
    path = Path.residual(1.0, like=BETAS.schedule)
    times = sorted(set(times))
    times = times if times[-1] == 1 else [*times, 1.0]
    ours = sample(from_nothing(path, exact), start=START, rule=ResidualDDIM(), times=Times(path, times))
    torch.testing.assert_close(ours, x, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("schedule", [BETAS.schedule, VP(), Cosine()], ids=["betas", "vp", "cosine"])
@pytest.mark.parametrize("clock", [T, LAM], ids=["t", "lam"])
def test_equals_our_ddim(schedule, clock):
    plain, path = Path(schedule), Path.residual(1.0, like=schedule)
    exact = ExactField(plain, skewed())
    times = Times.uniform(plain, 37, clock, start=0.05, end=0.95)
    wanted = sample(exact, start=START, rule=DDIM(), times=times)
    ours = sample(from_nothing(path, exact), start=START, rule=ResidualDDIM(), times=Times(path, times.t))
    torch.testing.assert_close(ours, wanted, rtol=1e-12, atol=1e-12)


def test_with_a_source_it_is_ddim_about_the_source(seed):
    """x less what the source has in it, a x0, is a one-sided path: the residual of a known source is x0 less the data."""
    plain, path = Path(VP()), Path.residual(1.0, like=VP())
    exact, x0 = ExactField(plain, skewed()), Draws(seed).rows("source", 0, (16, 2), dtype=F64)

    def answers(x, t, cond):
        told = exact(x - float(path.coefficients(float(t[0])).a) * x0, float(t[0]))
        return x0 - told.data, told.noise

    times = Times.uniform(plain, 20, T, start=0.1, end=0.9)
    first, last = (float(path.coefficients(t).a) for t in (0.1, 0.9))
    ours = sample(Field(answers, path, ("residual", "noise")), start=START + first * x0, rule=ResidualDDIM(), times=Times(path, times.t))
    torch.testing.assert_close(ours - last * x0, sample(exact, start=START, rule=DDIM(), times=times), rtol=1e-11, atol=1e-11)


def test_one_step_by_hand():
    """Equation 13 of the paper: take away the share of the residual and of the noise."""
    path = Path.residual(0.5)
    res, noise, x = torch.tensor([[2.0, -1.0]], dtype=F64), torch.tensor([[0.3, 0.7]], dtype=F64), torch.tensor([[1.0, 4.0]], dtype=F64)
    field = Field(lambda x, t, cond: (res, noise), path, ("residual", "noise"))
    found = sample(field, start=x, rule=ResidualDDIM(), times=Times(path, [0.2, 0.6]))
    torch.testing.assert_close(found, x - (0.96 - 0.64) * res - (0.4 - 0.2) * noise, rtol=1e-13, atol=1e-13)
    whole = sample(field, start=x, rule=ResidualDDIM(), steps=1)
    torch.testing.assert_close(whole, x - res - 0.5 * noise, rtol=1e-13, atol=1e-13)


# -- noise drawn anew --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_the_law_of_the_noise(eta, seed):
    """With residual and noise known, x_s is a x0 + b x1 + c z' again, z' standard normal; fresh is the share eta (c_t^2 - c_s^2) c_s^2 / c_t^2."""
    path, n = Path.residual(0.8), 4000
    x0, x1 = torch.tensor([1.5, -2.0], dtype=F64), torch.tensor([0.3, 1.0], dtype=F64)
    z = Draws(seed).rows("z", 0, (n, 2), dtype=F64)
    t, s = 0.3, 0.65
    of = lambda at: (1 - at * at, at * at, 0.8 * (1 - at))
    (a, b, c), (a_s, b_s, c_s) = of(t), of(s)
    field = Field(lambda x, t, cond: ((x0 - x1).expand_as(x), z[: len(x)]), path, ("residual", "noise"))
    found = sample(field, start=a * x0 + b * x1 + c * z, rule=ResidualDDIM(eta), times=Times(path, [t, s]), seed=seed)
    left = (found - a_s * x0 - b_s * x1) / c_s
    for column in left.T:
        assert stats.kstest(column.numpy(), stats.norm.cdf).pvalue > 1e-6
    spread = math.sqrt(eta * (c**2 - c_s**2) * c_s**2 / c**2) / c_s
    kept = math.sqrt(1 - spread**2)
    fresh = left - kept * z
    if eta == 0:
        torch.testing.assert_close(left, z, rtol=0, atol=1e-12)
    else:
        assert abs(float(fresh.std()) / spread - 1) < 5 / math.sqrt(2 * 2 * n) and abs(float((fresh * z).mean())) < 5 * spread / math.sqrt(2 * n)


def test_eta_one_forgets_as_the_posterior_of_a_diffusion_does():
    """From a source of zeros, the standard deviation is the DDPM posterior's where its signal goes along with the paper's product."""
    path = Path.residual(1.0)
    table = ResidualDDIM(1.0).plan(Times(path, [0.0, 0.5, 1.0]))
    assert table.predict[0].s == pytest.approx(math.sqrt((1 - 0.25) * 0.25)) and table.predict[1].s == 0 and table.stochastic


def test_fresh_noise_splits_with_the_batch(seed):
    path = Path.residual(0.5)
    field = Field(lambda x, t, cond: (x, 0.1 * x), path, ("residual", "noise"))
    for dtype in (torch.float32, F64):
        start = Draws(1).rows("start", 0, (7, 2, 3), dtype=dtype)
        whole = sample(field, start=start, rule=ResidualDDIM(0.7), steps=4, seed=seed)
        assert whole.dtype == dtype and torch.equal(whole, sample(field, start=start, rule=ResidualDDIM(0.7), steps=4, seed=seed, batch=3))


# -- exact bridges -----------------------------------------------------------------------------------------------------------

M0, M1, S0, S1 = (torch.tensor(v, dtype=F64) for v in ([[1.0, -2.0]], [[0.5, 3.0]], [[0.3, 1.4]], [[2.0, 0.2]]))
ONE = torch.ones(1, dtype=F64)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("path", [Path.residual(0.5), Path.residual(1.0), Path.residual(1.0, like=Cosine()), Path.interpolant("sin2", "trigonometric")],
                         ids=["half", "one", "cosine", "trigonometric"])
def test_many_steps_on_an_exact_field_keep_the_marginals(path, eta, seed):
    """From one Gaussian to another, in 100 steps: mean and deviation at the end, and half way."""
    field = ExactField(path, GaussianMixture(ONE, M1, S1), GaussianMixture(ONE, M0, S0))
    n, low = 2000, path.interval[0]
    x0 = M0 + S0.sqrt() * Draws(seed).rows("x0", 0, (n, 2), dtype=F64)
    x = path.start(x0, seed=seed)
    if path.schedule == Path.interpolant("sin2", "trigonometric").schedule:
        x = path.sample(M1 + S1.sqrt() * Draws(seed).rows("x1", 0, (n, 2), dtype=F64), torch.full((n,), low, dtype=F64), x0=x0, seed=seed).x
    high = 0.999 if path.interval[1] == 1.0 else path.interval[1]
    for end in (0.6, high):
        at = path.coefficients(end)
        begun = torch.linspace(low, end, 101, dtype=F64)
        if path.schedule == Path.residual(1.0, like=Cosine()).schedule and low == 0.0:
            begun[0] = 1e-4
        found = sample(field, start=x, rule=ResidualDDIM(eta), times=Times(path, begun), seed=seed)
        mean = at.a * M0 + at.b * M1
        std = (at.a**2 * S0 + at.b**2 * S1 + at.c**2).sqrt()
        error = 5 / math.sqrt(n) + 0.04
        assert float(((found.mean(0) - mean) / std).abs().max()) < error, end
        assert float((found.std(0) / std - 1).abs().max()) < error, end


def test_the_error_falls_with_the_number_of_steps():
    """Order 1, against Heun's rule with many steps, on a mixture."""
    path = Path.residual(0.6)
    source = GaussianMixture.points(Draws(2).rows("source", 0, (6, 2), dtype=F64), std=0.5)
    field = ExactField(path, GaussianMixture.points(2 * Draws(3).rows("target", 0, (5, 2), dtype=F64), std=0.3), source)
    start = path.start(source.sample(8, seed=1), seed=1)
    whole = lambda rule, steps: sample(field, start=start, rule=rule, times=Times.uniform(path, steps, T, start=0.02, end=0.97))
    truth = whole(RungeKutta(4), 150)
    errors = [float((whole(ResidualDDIM(), steps) - truth).square().mean().sqrt()) for steps in (80, 160, 320)]
    assert 1.7 < errors[0] / errors[1] < 2.6 and 1.8 < errors[1] / errors[2] < 2.3


def test_it_runs_back_without_fresh_noise():
    """From the data to the source and back again, nearer with more steps."""
    path = Path.residual(0.6)
    field = ExactField(path, GaussianMixture(ONE, M1, S1), GaussianMixture(ONE, M0, S0))
    gaps = []
    for steps in (30, 120):
        there = sample(field, start=START, rule=ResidualDDIM(), times=Times.uniform(path, steps, T, start=0.1, end=0.9))
        gaps.append(float((sample(field, start=there, rule=ResidualDDIM(), times=Times.uniform(path, steps, T, start=0.9, end=0.1)) - START).abs().max()))
    assert gaps[1] < 0.4 * gaps[0]


# -- the plan ----------------------------------------------------------------------------------------------------------------

def test_the_plan_is_a_rule_and_its_table_is_saved():
    path = Path.residual(0.5)
    for rule in ResidualDDIM.examples():
        assert isinstance(rule, Rule) and rule.order == 1 and rule.calls_per_step == 1
        table = rule.plan(rule.times(path, 6))
        assert Table.from_json(table.to_json()) == table and table.nfe == 6 and table.kind == "residual" and rule.plan(rule.times(path, 6)) == table
        field = Field(lambda x, t, cond: (x, 0.1 * x), path, ("residual", "noise"))
        start = Draws(1).rows("start", 0, (3, 4), dtype=F64)
        assert torch.equal(sample(field, start=start, rule=table, seed=4), sample(field, start=start, rule=rule, steps=6, seed=4)) and field.nfe == 12


def test_a_network_of_velocity_and_noise_serves_inside(seed):
    with Draws(seed).scope(0):
        net = ResidualMLP((2,), width=8, depth=1, heads=2)
    field = Field(net.double().eval(), Path.interpolant(), ("velocity", "noise"))
    assert bool(sample(field, start=START, rule=ResidualDDIM(), steps=5).isfinite().all())


CONSTANT = Field(lambda x, t, c: (x, x), Path.residual(0.3), ("residual", "noise"))
REFUSALS = [
    (lambda: ResidualDDIM(-0.1), ValueError, r"eta must lie in \[0, 1\], got -0\.1"),
    (lambda: ResidualDDIM(1.5), ValueError, r"eta must lie in \[0, 1\], got 1\.5"),
    (lambda: ResidualDDIM(math.nan), ValueError, "eta"),
    (lambda: ResidualDDIM().plan(Times.uniform(Path.linear(), 4)), ValueError, "ResidualDDIM needs a two-sided path, got a one-sided path; use DDIM"),
    (lambda: ResidualDDIM(0.5).plan(Times.uniform(Path.residual(), 4, T, start=0.9, end=0.1)), ValueError, r"ResidualDDIM with eta runs from source to data"),
    (lambda: ResidualDDIM().times(Path.residual(), 0), ValueError, "steps"),
    (lambda: sample(CONSTANT, 5, shape=(2,), rule=ResidualDDIM()), ValueError, "start must be given: a two-sided path begins at samples of its source"),
    (lambda: sample(Field(lambda x, t, c: x, Path.residual(0.3), "velocity"), start=START, rule=ResidualDDIM()), ValueError, "predict two kinds"),
    (lambda: sample(Field(lambda x, t, c: (x, x), Path.residual(0.3), ("velocity", "noise")), start=START, rule=ResidualDDIM()), ValueError,
     "data cannot be read off a velocity where the shares of source and data stand still"),
]


@pytest.mark.parametrize(("make", "error", "says"), REFUSALS, ids=[str(k) for k in range(len(REFUSALS))])
def test_what_cannot_be_is_refused(make, error, says):
    with pytest.raises(error, match=says):
        make()
