"""Dynamic compensation: ratios of 1, a hand-written loop, gradients, the search, the regression, refusals."""
import math

import pytest
import torch

from rheos.core import Draws
from rheos.data import digits_mixture, skewed
from rheos.guidance import classifier_free
from rheos.paths import LAM, ExactField, Path, T, Times
from rheos.samplers import DPMSolverPP, Exponential, RungeKutta, UniPC, sample
from rheos.samplers.compensation import Compensated, CompensationRegression, compensated, exact_points, fit_compensation
from rheos.testing.rules import RULE_LINES

F64 = torch.float64
PATH = Path.vp()
FIELD = ExactField(PATH, skewed())
START = torch.tensor([[1.0, -0.5], [-2.0, 0.3], [0.1, 2.2]], dtype=F64)
TIMES = Times(PATH, [0.05, 0.2, 0.33, 0.5, 0.71, 0.8, 0.95])
RATIOS = (1.0, 1.0, 1.3, 0.6, 0.9, 1.8)


# -- limits and equalities -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("rule", [UniPC(3), DPMSolverPP(2), Exponential(3, "noise", LAM, 2)], ids=str)
def test_ratios_of_one_change_nothing(rule):
    plain = rule.plan(TIMES)
    for same in (Compensated(rule, 1.0).plan(TIMES), Compensated(rule, (1.0,) * 6).plan(TIMES)):
        assert same.predict == plain.predict and same.correct == plain.correct


@pytest.mark.parametrize("corrector", [0, 2])
@pytest.mark.parametrize("kind", ["data", "noise"])
def test_a_table_is_a_hand_written_loop(kind, corrector):
    """Predictions are kept in a list, the newest replaced before each step by numpy's polynomial through the last three, and used as kept."""
    import numpy as np

    rule = Exponential(3, kind, LAM, corrector, False)
    table, t = rule.plan(TIMES), TIMES.t.tolist()
    x, points, kept, mend = START, [], [], None
    for i, row in enumerate(table.predict):
        asked = FIELD(x, t[i]).of(kind)
        if mend is not None:
            x = mend.a[0] * points[0] + mend.w[0] * asked + sum(w * p for w, p in zip(mend.w[1:], kept, strict=False))
        points, kept = [x, *points], [asked, *kept]
        if i >= 2:
            at = t[i - 1] + RATIOS[i] * (t[i] - t[i - 1])
            values = torch.stack(kept[:3]).reshape(3, -1).numpy()
            kept[0] = torch.from_numpy(np.stack([np.polyval(np.polyfit([t[i], t[i - 1], t[i - 2]], v, 2), at) for v in values.T])).reshape(x.shape)
        x, mend = row.a[0] * x + sum(w * p for w, p in zip(row.w, kept, strict=False)), table.correct[i]
    mine = sample(FIELD, start=START, rule=Compensated(rule, RATIOS), times=TIMES)
    torch.testing.assert_close(mine, x, rtol=1e-9, atol=1e-9)
    assert float((mine - sample(FIELD, start=START, rule=table)).abs().max()) > 1e-3


def test_a_prediction_that_is_a_parabola_in_t_is_read_where_the_ratio_says():
    """Weights of the newest prediction: a field whose data prediction is t^2 has every kept one equal to t'^2."""
    table = Exponential(1, "data", LAM).plan(TIMES)
    moved = compensated(table, RATIOS)
    t = TIMES.t.tolist()
    kept = []
    for i, row in enumerate(moved.predict):
        told = sum(w * t[i - j] ** 2 for j, w in enumerate(row.w)) / table.predict[i].w[0]
        at = t[i] if i < 2 else t[i - 1] + RATIOS[i] * (t[i] - t[i - 1])
        if i <= 2:                      # later ones stand on replaced predictions
            assert told == pytest.approx(at**2, rel=1e-10)
        kept.append(told)
    assert kept[3] != pytest.approx((t[2] + RATIOS[3] * (t[3] - t[2])) ** 2, rel=1e-6)


def test_gradients_flow_through_ratios(seed):
    """Against central differences."""
    start = Draws(seed).rows("start", 0, (4, 2), dtype=F64)
    end = lambda ratios: sample(FIELD, start=start, rule=compensated(UniPC(2).plan(TIMES), ratios)).square().sum()
    free = [torch.tensor(r, dtype=F64, requires_grad=i >= 2) for i, r in enumerate(RATIOS)]
    found = torch.autograd.grad(end(free), free[2:])
    for i in range(2, 6):
        near = [float(end([r + (h if k == i else 0.0) for k, r in enumerate(RATIOS)])) for h in (1e-5, -1e-5)]
        assert float(found[i - 2]) == pytest.approx((near[0] - near[1]) / 2e-5, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("line", RULE_LINES, ids=lambda line: line.name.replace(" ", "_"))
@pytest.mark.parametrize("number", range(len(Compensated.examples())))
def test_conformance(number, line):
    line.check(lambda: Compensated.examples()[number])


# -- the search ------------------------------------------------------------------------------------------------------------------

def test_exact_points_follow_the_flow(seed):
    start = Draws(seed).rows("start", 0, (3, 2), dtype=F64)
    points = exact_points(FIELD, start, TIMES, substeps=40)
    finer = sample(FIELD, start=start, rule=RungeKutta(4), times=Times.uniform(PATH, 400, T, start=0.05, end=0.71))
    torch.testing.assert_close(points[4], finer, rtol=1e-3, atol=1e-3)
    assert len(points) == 7 and torch.equal(points[0], start)


def test_a_search_finds_the_best_ratio_of_the_last_step(seed):
    """With all other ratios as found, no other last ratio on a fine grid ends nearer to the exact points."""
    start = Draws(seed).rows("start", 0, (10, 2), dtype=F64)
    times = Times.uniform(PATH, 5, T, start=0.05, end=0.97)
    exact = exact_points(FIELD, start, times)
    found = fit_compensation(FIELD, start, times, UniPC(2), exact=exact)
    loss = lambda last: float((sample(FIELD, start=start, rule=Compensated(UniPC(2), (*found[:-1], last)), times=times) - exact[-1]).square().mean())
    assert found[:2] == (1.0, 1.0)
    assert loss(found[-1]) <= min(loss(r) for r in torch.linspace(-1, 5, 49).tolist()) * (1 + 1e-2) + 1e-12


def test_it_helps_under_guidance_on_other_starts(seed):
    """Guidance 4, 6 equal steps in t, the specification's case; its threshold on 128 starts is 0.5."""
    field, times = classifier_free(ExactField(PATH, digits_mixture()), 4.0), Times.uniform(PATH, 6, T)
    starts = PATH.prior((58, 16), seed=seed, dtype=F64)
    found = fit_compensation(field, starts[:10], times, UniPC(3), cond=3, substeps=15)
    truth = sample(field, start=starts[10:], rule=Exponential(3, "data", LAM, 3), times=Times.uniform(PATH, 60, LAM), cond=3)
    error = lambda rule: float((sample(field, start=starts[10:], rule=rule, times=times, cond=3) - truth).square().mean(1).sqrt().median())
    assert error(Compensated(UniPC(3), found)) < 0.6 * error(UniPC(3))


def test_guidance_is_the_guided_field(seed):
    exact = ExactField(PATH, digits_mixture())
    start, times = PATH.prior((4, 16), seed=seed, dtype=F64), Times.uniform(PATH, 4, T)
    inner = fit_compensation(exact, start, times, UniPC(2), cond=3, guidance=3.0, substeps=5)
    assert inner == fit_compensation(classifier_free(exact, 3.0), start, times, UniPC(2), cond=torch.full((4,), 3), substeps=5)


# -- the regression --------------------------------------------------------------------------------------------------------------

def test_regression_gives_back_ratios_that_are_such_polynomials():
    rule = lambda s, n: tuple(1.0 if k < 3 else 0.8 + 0.3 * (k / n) ** 2 * (s / 12) - 0.5 * (n / 50) ** 2 + 0.2 * (k / n) * (s / 12) ** 2 for k in range(1, n + 1))
    model = CompensationRegression.fit([(s, rule(s, n)) for s in (1.0, 3.0, 5.0, 8.0) for n in (5, 8, 13, 20)])
    for s, n in ((2.0, 6), (7.0, 17), (4.0, 10)):
        assert model(s, n) == pytest.approx(rule(s, n), abs=1e-6)
    assert model(4.0, 1) == (1.0,) and model(4.0, 2) == (1.0, 1.0)
    assert model.numbers.shape == (3, 3, 3) and max(CompensationRegression(torch.full((3, 3, 3), 9.0))(5.0, 20)) == 5.0


# -- refusals --------------------------------------------------------------------------------------------------------------------

TABLE = UniPC(2).plan(TIMES)
REFUSALS = [
    (lambda: compensated(TABLE, (1.0, 1.0, 1.2)), "ratios must have one entry a row of the table, 6, got 3"),
    (lambda: compensated(TABLE, (1.0, 1.1, 1.0, 1.0, 1.0, 1.0)), "ratios must begin with 2 ones"),
    (lambda: compensated(RungeKutta(2).plan(TIMES), (1.0,) * 12), "must not stand still or turn"),
    (lambda: Compensated(UniPC(2), (1.0, 1.0, 1.2)).plan(TIMES), "one entry a row"),
    (lambda: Compensated(RungeKutta(2), 1.0), "rule must make one call a step, got RungeKutta"),
    (lambda: Compensated(UniPC(2), 7.0), r"ratios must lie in \[-1, 5\], got 7"),
    (lambda: Compensated(UniPC(2), (1.0, 1.0, math.nan)), "ratios must lie in"),
    (lambda: Compensated(UniPC, 1.0), "rule"),
    (lambda: fit_compensation(FIELD, START[:0], TIMES, UniPC(2)), "start must hold at least one row"),
    (lambda: fit_compensation(FIELD, START * math.nan, TIMES, UniPC(2)), "start must be finite"),
    (lambda: fit_compensation(FIELD, START, Times.uniform(Path.cosine(), 4), UniPC(2)), "times were made for"),
    (lambda: fit_compensation(FIELD, START, TIMES, DPMSolverPP(2, tau=1.0)), "rule must be deterministic"),
    (lambda: fit_compensation(FIELD, START, TIMES, UniPC(2), exact=[START]), "exact must hold the points at all 7 times, got 1"),
    (lambda: fit_compensation(FIELD, START, TIMES, UniPC(2), exact=[START[:2]] * 7), r"exact must have shape \(3, 2\)"),
    (lambda: fit_compensation(FIELD, START, TIMES, UniPC(2), substeps=0), "substeps must be at least 1, got 0"),
    (lambda: fit_compensation(FIELD, START, TIMES, UniPC(2), cond=torch.zeros(2)), "cond must have 3 rows"),
    (lambda: CompensationRegression.fit([(1.0, (1.0, 1.0))]), "found must hold ratios of at least 3 steps"),
    (lambda: CompensationRegression(torch.zeros(3, 3)), r"numbers must have shape \(3, 3, 3\)"),
    (lambda: CompensationRegression(torch.zeros(3, 3, 3))(1.0, 0), "calls must be at least 1, got 0"),
    (lambda: CompensationRegression(torch.zeros(3, 3, 3))(-1.0, 5), "guidance must lie in"),
]


@pytest.mark.parametrize("number", range(len(REFUSALS)))
def test_refusals(number):
    call, message = REFUSALS[number]
    with pytest.raises((ValueError, TypeError), match=message):
        call()
