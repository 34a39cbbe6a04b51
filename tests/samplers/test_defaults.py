"""What samples when nothing is said: the rule, its times and its accuracy; and how long the rows of a table are."""
import math

import numpy as np
import pytest
import torch

from rheos.data import ring, skewed
from rheos.paths import LAM, ExactField, Path, Times
from rheos.samplers import Euler, Exponential, RungeKutta, default_rule, sample

F64 = torch.float64


def asked_at(path, steps, **kinds):
    """The times at which `sample` without a rule looks at predictions."""
    seen = []
    sample(ExactField(path, skewed()), 2, steps=steps, edit=lambda value, x, t: (seen.append(t), value)[1], **kinds)
    return seen


# -- the default rule ------------------------------------------------------------------------------------------------------------

def test_default_rows_integrate_polynomials_in_u():
    """On the linear path u = 1 - t, and the integrals of 1, u and u^2 are done by hand: sigma_t int e^lam u^k dlam = sigma_t int (1 - t)^(k - 2) dt.

    The predictor knows two predictions and is right for 1 and u; the corrector knows three and is right for u^2 as well.
    """
    path = Path.linear()
    times = Times(path, [0.0, 0.1, 0.25, 0.45, 0.7, 0.9])
    plan = default_rule(ExactField(path, skewed())).plan(times)
    u, steps = 1 - times.t.numpy(), times.steps
    assert plan.kind == "data"
    for i in range(steps):
        exact = [u[i + 1] * v for v in (1 / u[i + 1] - 1 / u[i], math.log(u[i] / u[i + 1]), u[i] - u[i + 1])]
        rows = [(plan.predict[i], u[: i + 1][::-1], 1 if i in (0, steps - 1) else 2)]
        if i + 1 < steps:
            rows.append((plan.correct[i], u[: i + 2][::-1], 2 if i == 0 else 3))
        else:
            assert plan.correct[i] is None
        for row, nodes, exact_for in rows:
            assert len(row.w) == exact_for
            moments = [sum(w * v**k for w, v in zip(row.w, nodes, strict=False)) for k in range(3)]
            np.testing.assert_allclose(moments[:exact_for], exact[:exact_for], rtol=1e-11, atol=1e-13)
            assert exact_for == 3 or abs(moments[exact_for] - exact[exact_for]) > 1e-4
            assert row.a == pytest.approx((u[i + 1] / u[i],), rel=1e-14)


# RMSE (of each number) of x / alpha at 5, 10 and 20 calls from sigma / alpha = 157 down to 0.01 on the ring, as the design asks.
@pytest.mark.parametrize(("steps", "most"), [(5, 0.040), (10, 0.010), (20, 0.0025)])
def test_default_accuracy_on_the_ring(steps, most):
    path, target = Path.vp(), ring()
    field, start = ExactField(path, target), path.prior((512, 2), seed=0, dtype=F64)
    end = float(path.time_at(math.log(100.0)))
    assert float(torch.exp(-path.lam(0.0))) > 150
    rule = default_rule(field)
    ours = sample(field, start=start, rule=rule, times=spaced(rule, path, steps, end))
    truth = sample(field, start=start, rule=Exponential(3, "data", LAM, corrector=3), times=Times.uniform(path, 300, LAM, start=0.0, end=end))
    alpha = float(path.coefficients(end).b)
    assert float(((ours - truth) / alpha).square().mean().sqrt()) < most


def spaced(rule, path, steps, end):
    """The rule's own times, in their own spacing of sqrt(u), carried on to `end`: linear in sqrt(u), so they may be stretched there."""
    root = lambda t: torch.sqrt(torch.sigmoid(-path.lam(t)))
    v = root(rule.times(path, steps).t)
    share = (v - v[0]) / (v[-1] - v[0])
    v = v[0] + share * (root(torch.tensor(end, dtype=F64)) - v[0])
    t = path.time_at(-torch.logit(v * v))
    t[0], t[-1] = 0.0, end
    return Times(path, t)


# -- the default times ---------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("path", [Path.linear(), Path.vp(), Path.vp(0.3, 7.0)], ids=["linear", "vp", "steep vp"])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_three_steps_or_fewer_are_even_in_t(path, steps):
    rule, (low, high) = default_rule(ExactField(path, skewed())), path.interval
    assert rule.times(path, steps) == Times.uniform(path, steps)
    expected = [low + (high - low) * i / steps for i in range(steps + 1)]
    np.testing.assert_allclose(rule.times(path, steps).t, expected, rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(asked_at(path, steps), expected[:-1], rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("path", [Path.linear(), Path.vp(), Path.vp(0.3, 7.0)], ids=["linear", "vp", "steep vp"])
@pytest.mark.parametrize("steps", [4, 5, 20])
def test_more_steps_are_even_in_the_root_of_u(path, steps):
    times = default_rule(ExactField(path, skewed())).times(path, steps)
    assert times.t[[0, -1]].tolist() == list(path.interval) and asked_at(path, steps) == times.t[:-1].tolist()
    at = path.coefficients(times.t)
    root = torch.sqrt(at.c / (at.b + at.c))
    torch.testing.assert_close(root[1:] - root[:-1], ((root[-1] - root[0]) / steps).expand(steps), rtol=1e-9, atol=1e-12)


def test_four_steps_on_the_linear_path_by_hand():
    """u = 1 - t there, so sqrt(u) = 1, 3/4, 1/2, 1/4, 0."""
    assert asked_at(Path.linear(), 4) == [0.0, 1 - 9 / 16, 1 - 1 / 4, 1 - 1 / 16]


def test_two_sided_paths_get_heun_and_even_times():
    path = Path.interpolant()
    field = ExactField(path, ring(3), ring(5, 2.0))
    rule, start = default_rule(field), ring(5, 2.0).sample(16, seed=1)
    assert rule == RungeKutta(2)
    torch.testing.assert_close(rule.times(path, 8).t, torch.linspace(1e-3, 1 - 1e-3, 9, dtype=F64), rtol=1e-13, atol=0)
    assert torch.equal(sample(field, start=start, steps=8), sample(field, start=start, rule=RungeKutta(2), times=Times.uniform(path, 8)))
    assert field.nfe == 32


# -- how many predictions a row weighs -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("rule", "counts"), [
    (Exponential(3, "data", LAM), [1, 2, 3, 3, 2, 1]),
    (Exponential(3, "data", LAM, lower_at_end=False), [1, 2, 3, 3, 3, 3]),
    (Exponential(2, "noise", LAM), [1, 2, 2, 2, 2, 1]),
    (Exponential(4, "data", LAM), [1, 2, 3, 3, 2, 1]),
    (Exponential(1, "data", LAM), [1, 1, 1, 1, 1, 1])], ids=str)
def test_orders_rise_at_the_start_and_fall_at_the_end(rule, counts):
    """A row that weighs m predictions is right for polynomials of degree m - 1 in lam, by moments integrated with SciPy."""
    from scipy.integrate import quad

    times = Times(Path.vp(), [0.1, 0.2, 0.33, 0.5, 0.65, 0.8, 0.93])
    lam, alpha, sigma = times.lam.tolist(), times.alpha.tolist(), times.sigma.tolist()
    rows = rule.plan(times).predict
    assert [len(row.w) for row in rows] == counts
    for i, row in enumerate(rows):
        for k in range(len(row.w) + 1):
            weigh = (lambda v, k=k: math.exp(v) * v**k) if rule.kind == "data" else (lambda v, k=k: -math.exp(-v) * v**k)
            exact = (sigma if rule.kind == "data" else alpha)[i + 1] * quad(weigh, lam[i], lam[i + 1], epsabs=1e-13, epsrel=1e-12)[0]
            gap = abs(sum(w * lam[i - j] ** k for j, w in enumerate(row.w)) - exact)
            assert gap < 1e-9 if k < len(row.w) else gap > 1e-5, (i, k)


@pytest.mark.parametrize(("corrector", "counts"), [(1, [2, 2, 2, 2, 2]), (2, [2, 3, 3, 3, 3]), (3, [2, 3, 4, 4, 4])])
def test_every_point_but_the_last_is_mended(corrector, counts):
    """Constants stay exact: the weights of a corrector row sum to alpha_t - alpha_s sigma_t / sigma_s like those of its predictor."""
    times = Times(Path.vp(), [0.1, 0.2, 0.33, 0.5, 0.65, 0.8, 0.93])
    plan = Exponential(2, "data", LAM, corrector).plan(times)
    assert [len(row.w) for row in plan.correct[:-1]] == counts and plan.correct[-1] is None
    for i, (row, mended) in enumerate(zip(plan.predict[:-1], plan.correct[:-1], strict=True)):
        s, t = times.each[i], times.each[i + 1]
        assert sum(mended.w) == pytest.approx(t.b - s.b * t.c / s.c, rel=1e-11) == sum(row.w)
        assert mended.a == row.a and mended.w[0] > 0


# -- where a run begins --------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("path", "t", "scale"), [(Path.linear(), 0.0, 1.0), (Path.linear(), 0.3, 0.7), (Path.vp(), 0.9, None)], ids=["from 0", "linear", "vp"])
def test_a_run_that_begins_later_begins_with_less_noise(path, t, scale, seed):
    """A field at rest leaves the start as it is: c(t) z. On VP c = sqrt(1 - alpha^2)."""
    n = 4000

    class Still(ExactField):
        def _ask(self, x, t, cond, at):
            return {"velocity": torch.zeros_like(x)}

    scale = math.sqrt(1 - float(path.coefficients(t).b) ** 2) if scale is None else scale
    x = sample(Still(path, skewed()), n, times=Times(path, [t, 0.95]), rule=Euler(), seed=seed)
    assert bool(((x.var(0) / scale**2 - 1).abs() < 5 * math.sqrt(2 / n)).all())
    torch.testing.assert_close(path.prior((n, 2), seed=seed, start=t, dtype=F64), x, rtol=1e-12, atol=1e-12)
    at_rest = path.prior((n, 2), seed=seed, start=0.0, dtype=F64) * (scale / float(path.coefficients(0.0).c))
    torch.testing.assert_close(x, at_rest, rtol=1e-12, atol=1e-12)
