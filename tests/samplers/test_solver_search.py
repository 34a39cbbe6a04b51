"""Searched schedules: equal decisions are the fixed rules, relaxations by hand, mixed kinds by a loop, the search, refusals."""
import math

import pytest
import torch

from rheos.core import Draws
from rheos.data import digits_mixture, skewed
from rheos.paths import LAM, ExactField, Path, T, Times, U
from rheos.samplers import Exponential, sample
from rheos.samplers.model_statistics import EMS, ModelStatistics
from rheos.samplers.solver_search import Decision, Mixed, begun, search_schedule, uniform_schedules
from rheos.samplers.tables import Table
from rheos.testing.rules import RULE_LINES

F64 = torch.float64
PATH = Path.vp()
FIELD = ExactField(PATH, skewed())
START = torch.tensor([[1.0, -0.5], [-2.0, 0.3], [0.1, 2.2]], dtype=F64)
TIMES = Times(PATH, [0.05, 0.2, 0.33, 0.5, 0.71, 0.8, 0.95])
WIDE = ModelStatistics.gaussian(torch.tensor(0.2, dtype=F64), torch.tensor(0.5, dtype=F64), -6.0, 6.0)


def carried(rule, times=TIMES):
    return sample(FIELD, start=START, rule=rule, times=times)


# -- limits and equalities -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("clock", [LAM, U], ids=["lam", "u"])
@pytest.mark.parametrize("kind", ["data", "noise", "ems"])
@pytest.mark.parametrize("order, corrector", [(1, 0), (3, 0), (2, 2)])
def test_steps_that_are_all_alike_are_the_fixed_rules(kind, order, corrector, clock):
    mine = Mixed((Decision(kind, order, clock, corrector),) * 6, statistics=WIDE)
    fixed = EMS(WIDE, order, corrector, clock, False) if kind == "ems" else Exponential(order, kind, clock, corrector, False)
    torch.testing.assert_close(carried(mine), carried(fixed), rtol=1e-11, atol=1e-11)


def test_mixed_kinds_by_a_hand_written_loop():
    """DDIM of the data, then two-point steps of noise and data in turn: predictions are stored at their points and read as either kind."""
    kinds = ("data", "noise", "data", "noise", "noise", "data")
    mine = carried(Mixed(tuple(Decision(kind, 2) for kind in kinds)))
    x, told = START, []
    for i, kind in enumerate(kinds):
        answer = FIELD(x, float(TIMES.t[i]))
        told.insert(0, {"data": answer.data, "noise": answer.noise})
        row = Exponential(2, kind, LAM, lower_at_end=False).plan(TIMES).predict[i]
        x = row.a[0] * x + sum(w * p[kind] for w, p in zip(row.w, told, strict=False))
    torch.testing.assert_close(mine, x, rtol=1e-10, atol=1e-10)


def test_relaxed_and_plain_terms_by_their_taylor_form():
    """A step of three points: d1 and d2 are differences at the newest, integrals int e^lam (lam - lam_i)^m dlam by a fine sum."""
    i, relax = 3, 0.25
    lam = TIMES.lam.tolist()
    near, far = lam[i] - lam[i - 1], lam[i] - lam[i - 2]
    for plain in (False, True):
        row = Mixed((Decision("data", 3, relax=relax, plain=plain),) * 6).plan(TIMES).predict[i]
        told = [0.4, -1.3, 0.9]                         # newest first
        first, second = (told[0] - told[1]) / near, (told[0] - told[2]) / far
        half = (first - second) / (far - near)          # half of the second derivative
        slope = first if plain else first + half * near
        pieces, end = 20000, lam[i + 1] - lam[i]
        total = 0.0
        for k in range(pieces):
            d = (k + 0.5) * end / pieces
            # Plain: the second term leans on the first one's difference, Newton's form read as Taylor's.
            value = told[0] + (1 + relax) * (slope * d + half * d * d)
            total += math.exp(lam[i] + d) * value * end / pieces
        assert sum(w * p for w, p in zip(row.w, told, strict=True)) == pytest.approx(TIMES.each[i + 1].c * total, rel=1e-6)


def test_relaxing_by_minus_one_is_order_one():
    torch.testing.assert_close(carried(Mixed((Decision("noise", 3, relax=-1.0),) * 6)), carried(Exponential(1, "noise")), rtol=1e-11, atol=1e-11)


def test_orders_are_cut_where_a_clock_is_infinite():
    """From no data to no noise on the linear path with polynomials in lam: the first and the last step have one point, those between theirs."""
    path = Path.linear()
    times = Times.uniform(path, 5, T)
    table = Mixed((Decision("data", 3, corrector=2),) * 5).plan(times)
    assert [len(row.w) for row in table.predict] == [1, 1, 2, 3, 1]
    assert [row is not None for row in table.correct] == [False, True, True, True, False]
    x = sample(ExactField(path, skewed()), start=START, rule=table)
    assert bool(x.isfinite().all())


def test_a_schedule_serves_other_numbers_of_steps():
    kinds = (Decision("data", 1), Decision("noise", 2))
    stretched = Mixed(kinds, (0.1, 0.4, 0.9))
    assert stretched.times(PATH, 4).t.tolist() == pytest.approx([0.1, 0.25, 0.4, 0.65, 0.9])
    twice = Mixed((kinds[0], kinds[0], kinds[1], kinds[1]))
    assert stretched.plan(stretched.times(PATH, 4)).predict == twice.plan(stretched.times(PATH, 4)).predict


def test_a_free_start_is_ddim_with_the_data_taken_as_zero():
    table = Mixed((Decision("data", 1),) * 2, (0.2, 0.5, 0.9)).plan(Times(PATH, [0.2, 0.5, 0.9]))
    row = Exponential(1, "data").plan(Times(PATH, [0.0, 0.2])).predict[0]
    torch.testing.assert_close(begun(table, START, 0.0), row.a[0] * START, rtol=1e-12, atol=1e-12)
    assert begun(table, START, 0.2) is START


def test_tables_survive_files():
    table = Mixed(Mixed.examples()[1].decisions, statistics=WIDE).plan(TIMES)
    assert torch.equal(carried_by(Table.from_json(table.to_json())), carried_by(table))


def carried_by(table):
    return sample(FIELD, start=START, rule=table)


@pytest.mark.parametrize("line", RULE_LINES, ids=lambda line: line.name.replace(" ", "_"))
@pytest.mark.parametrize("number", [0, 2])
def test_conformance(number, line):
    line.check(lambda: Mixed.examples()[number])


# -- the search --------------------------------------------------------------------------------------------------------------------

def test_the_search_keeps_its_budget_and_returns_the_best_it_saw(seed):
    seen = []

    def score(table):
        seen.append((float((sample(FIELD, start=START, rule=table) - 1.0).square().mean()), table))
        return seen[-1][0]

    best = search_schedule(FIELD, START, 3, budget=20, score=score, seed=seed)
    assert len(seen) == 20
    plan = best.plan(best.times(PATH, 3))
    assert plan.predict == min(seen, key=lambda pair: pair[0])[1].predict
    again = search_schedule(FIELD, START, 3, budget=20, score=lambda table: float((sample(FIELD, start=START, rule=table) - 1.0).square().mean()), seed=seed)
    assert again == best
    assert search_schedule(FIELD, START, 3, budget=20, score=score, seed=seed + 1) != best


def test_a_searched_schedule_errs_less_than_the_fixed_ones_it_began_with(seed):
    """On the digits, 5 calls, 60 tried, begun with the best fixed one; on the starts that it was scored on."""
    field = ExactField(PATH, digits_mixture())
    start = PATH.prior((12, 16), seed=seed, dtype=F64)
    truth = sample(field, start=start, rule=Exponential(3, "data", LAM, 3), times=Times.uniform(PATH, 40, LAM))
    error = lambda one: float((sample(field, start=start, rule=one.plan(one.times(PATH, 5))) - truth).square().mean(1).log().mean())
    fixed = uniform_schedules(PATH, 5, clocks=(LAM,))
    ahead = min(fixed, key=error)
    best = search_schedule(field, start, 5, 60, reference=truth, clocks=(LAM,), begin=[ahead], seed=seed)
    assert error(best) < error(ahead) - 0.02
    assert all(d.clock == LAM for d in best.decisions)


def test_schedules_to_begin_with_and_a_table_that_blows_up():
    given = Mixed((Decision("data", 2),) * 3, (0.0, 0.5, 0.8, 0.99))
    assert search_schedule(FIELD, START, 3, budget=1, begin=[given], score=lambda table: 1.0) is given
    worst = search_schedule(FIELD, START, 3, budget=8, begin=[given], score=lambda table: math.nan if table.origin["decisions"][0]["order"] != 2 else 2.0)
    assert worst.decisions[0].order == 2


def test_a_late_start_is_searched_where_it_is_allowed():
    late = lambda allowed: {search_schedule(FIELD, START, 3, budget=24, free_start=allowed, seed=k, score=lambda t: -float(t.times.t[0])).t[0] for k in range(3)}
    assert late(False) == {0.0} and max(late(True)) > 0


def test_uniform_schedules_have_no_two_alike():
    made = uniform_schedules(PATH, 5, ems=WIDE)
    assert len(set(made)) == len(made) and {d.kind for one in made for d in one.decisions} == {"data", "noise", "ems"}
    assert all(len(one.t) == 6 and one.t[0] == 0.0 for one in made)
    start = Draws(0).rows("start", 0, (3, 2), dtype=F64)
    assert all(bool(sample(FIELD, start=start, rule=one.plan(one.times(PATH, 5))).isfinite().all()) for one in made[::19])


# -- refusals ----------------------------------------------------------------------------------------------------------------------

D = Decision()
REFUSALS = [
    (lambda: Decision("velocity"), "kind must be one of data, noise, ems"),
    (lambda: Decision(order=0), "order must be at least 1, got 0"),
    (lambda: Decision(order=5), "order and corrector must be at most 4, got 5"),
    (lambda: Decision(corrector=-1), "corrector must be at least 0"),
    (lambda: Decision(relax=1.5), r"relax must lie in \[-1, 1\], got 1.5"),
    (lambda: Decision(clock="lam"), "clock"),
    (lambda: Mixed(()), "decisions must hold Decisions"),
    (lambda: Mixed((D, D), (0.1, 0.9)), "t must have one entry more than the 2 decisions, got 2"),
    (lambda: Mixed((D, D), (0.1, 0.9, 0.5)), "t must be strictly monotone"),
    (lambda: Mixed((Decision("ems"),)), "statistics must be given"),
    (lambda: Mixed((Decision("noise"),)).plan(Times.uniform(Path.linear(), 2)), "noise prediction cannot carry on"),
    (lambda: Mixed((D,)).plan(Times.uniform(Path.interpolant(), 2)), "one-sided path"),
    (lambda: search_schedule(FIELD, START, 3, budget=0), "budget must be at least 1, got 0"),
    (lambda: search_schedule(FIELD, START, 0), "steps must be at least 1, got 0"),
    (lambda: search_schedule(FIELD, START[:0], 3), "start must hold at least one row"),
    (lambda: search_schedule(FIELD, START * math.inf, 3), "start must be finite"),
    (lambda: search_schedule(FIELD, START, 3, reference=START[:1]), r"reference must have shape \(3, 2\)"),
    (lambda: search_schedule(FIELD, START, 3, begin=[Mixed((D,))]), "begin must hold schedules of 3 steps, got one of 1"),
    (lambda: search_schedule(FIELD, START, 3, clocks=()), "clocks"),
]


@pytest.mark.parametrize("number", range(len(REFUSALS)))
def test_refusals(number):
    call, message = REFUSALS[number]
    with pytest.raises((ValueError, TypeError), match=message):
        call()


def test_a_score_that_never_tells_is_told():
    field = ExactField(Path.vp(), skewed())
    start = field.path.prior((8, 2), seed=1, dtype=torch.float64)
    with pytest.raises(ValueError, match="score gave no finite number for any of the 5 schedules"):
        search_schedule(field, start, 3, budget=5, score=lambda table: float("nan"))
    with pytest.raises(TypeError, match="field"):
        search_schedule(lambda x, t, cond: x, start, 3, budget=5)
