"""Search over noise: the law of random search, neighbours on the shell, a way that is walked by hand, budgets counted, held-out judges, refusals."""
import math

import pytest
import torch

from rheos.core import Draws, StopWhen, evolve
from rheos.data import GaussianMixture
from rheos.guidance.repeated import RepeatedSampling
from rheos.guidance.residual import ResidualCFG
from rheos.guidance.search import BestOf, OverPaths, PathSearch, StartSearch, ZeroOrder, search
from rheos.paths import ExactField, Field, Path, Times
from rheos.samplers import DDIM, Euler, sample
from rheos.testing import check_dynamics

F64 = torch.float64
TARGET = GaussianMixture(torch.tensor([0.8, 0.2], dtype=F64), torch.tensor([[1.0, -2.0], [-3.0, 0.5]], dtype=F64), torch.tensor([0.1, 0.3], dtype=F64))
TEN = Times.uniform(Path.linear(), 10)
double = lambda z: 2.0 * z + 1.0
height = lambda x: x[:, 0] - 0.3 * x[:, 1].square()
like = torch.empty(0, dtype=F64)


def way(field, cond=None):
    return lambda x, times: sample(field, start=x, times=times, rule=DDIM(), cond=None if cond is None else cond.repeat(len(x) // len(cond)))


# -- closed forms ------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("budget", [1, 2, 8, 21])
def test_random_search_succeeds_as_its_law_says(seed, budget):
    """Of N candidates one lies in a set of mass p with probability 1 - (1 - p)^N."""
    problems, p = 4000, 0.1587                                                # P(z > 1)
    found = search(lambda z: z, lambda x: x[:, 0], (1,), budget, method=BestOf(5), problems=problems, seed=seed)
    law = 1 - (1 - p) ** budget
    share = float((found.x[:, 0] > 1).double().mean())
    assert abs(share - law) < 5 * math.sqrt(law * (1 - law) / problems) + 1e-4


def test_neighbours_keep_the_law_of_the_noise(seed):
    """z' is standard normal again and correlates with z by sqrt(1 - l^2)."""
    rows, step = 200_000, 0.6
    z, u = Draws(seed).rows("z", 0, (rows, 1), dtype=F64), Draws(seed).rows("u", 0, (3, rows, 1), dtype=F64)
    moved = ZeroOrder(3, step).propose(z, u)
    assert moved.shape == (3, rows, 1)
    for k in range(3):
        assert abs(float(moved[k].square().mean()) - 1) < 5 * math.sqrt(2 / rows)
        assert abs(float((moved[k] * z).mean()) - 0.8) < 5 * math.sqrt(1.64 / rows)
    assert abs(float((moved[0] * moved[1]).mean()) - 0.64) < 5 * math.sqrt(2 / rows)


def test_zero_order_climbs_to_the_top():
    """A small step on a smooth verifier in five dimensions, from the outside to its maximum."""
    top = torch.tensor([0.5, -1.0, 0.2, 0.8, -0.3], dtype=F64)
    found = search(lambda z: z, lambda x: -(x - top).square().sum(1), (5,), 4000, method=ZeroOrder(8, 0.05), like=like, seed=1)
    assert float(found.score) > -0.01


# -- equalities --------------------------------------------------------------------------------------------------------------

def test_best_of_is_the_best_of_the_same_candidates(seed):
    """Batches do not change the candidates, and a larger budget goes on where a smaller one ended."""
    runs = [search(double, height, (3,), 23, method=BestOf(batch), problems=4, like=like, seed=seed) for batch in (1, 4, 22, 100)]
    every = Draws(seed).rows("search start", 0, (23 * 4, 3), dtype=F64).reshape(23, 4, 3)
    scores = height(double(every).flatten(0, 1)).reshape(23, 4)
    best, at = scores.max(0)
    for found in runs:
        assert torch.equal(found.score, best) and torch.equal(found.start, every[at, torch.arange(4)]) and torch.equal(found.x, double(found.start))
    small = search(double, height, (3,), 9, method=BestOf(4), problems=4, like=like, seed=seed)
    assert torch.equal(small.score, scores[:9].amax(0)) and bool((small.score <= best).all())


def test_rows_are_candidates_by_candidates_of_all_problems():
    """A condition a problem, repeated, meets the rows of its own problem, in every round."""
    goal = torch.tensor([-2.0, 0.0, 1.5], dtype=F64)
    found = search(lambda z: z[:, 0] - goal.repeat(len(z) // 3), lambda x: -x.abs(), (1,), 300, method=ZeroOrder(7, 0.3), problems=3, like=like)
    assert float(found.x.abs().max()) < 0.05


def test_never_worse_than_the_pivot(seed):
    for method in (BestOf(3), ZeroOrder(2, 0.9), ZeroOrder(1, 1.0)):
        trace = search(double, height, (2,), 40, method=method, problems=5, like=like, seed=seed).trace
        scores = torch.stack([score for _, score in trace])
        assert len(trace) > 10 and bool((scores.diff(dim=0) >= 0).all()) and bool((scores[-1] > scores[0]).any())
        assert trace[0][0] == 1 and trace[-1][0] == 40


def test_zero_order_of_step_one_is_best_of():
    a, b = (search(double, height, (2,), 31, method=method, like=like, seed=4) for method in (ZeroOrder(5, 1.0), BestOf(5)))
    assert torch.equal(a.x, b.x) and torch.equal(a.score, b.score)


def test_over_paths_by_hand():
    """One path, two draws, two rounds: noised back by the transition, carried on, the better kept, written out."""
    field, t = ExactField(Path.linear(), TARGET), TEN.t.tolist()
    method = OverPaths(field, TEN, paths=1, draws=2, begin=6, back=2, forward=4)
    verify, go = height, way(field)
    found = search(go, verify, (2,), method.nfe, method=method, like=like, seed=3)
    x = go(Path.linear().prior((1, 2), seed=Draws(3), dtype=F64), Times(Path.linear(), t[:7]))
    for round_, (at, back, then) in enumerate([(6, 4, 8), (8, 6, 10)]):
        ratio = t[back] / t[at]
        spread = math.sqrt((1 - t[back]) ** 2 - (ratio * (1 - t[at])) ** 2)
        x = ratio * x.repeat(2, 1) + spread * Draws(3).rows("search paths", round_, (2, 2), dtype=F64)
        x = go(x, Times(Path.linear(), t[back : then + 1]))
        promised = x if then == 10 else field.data(x, t[then])
        x = x[int(verify(promised).argmax())][None]
    torch.testing.assert_close(found.x, x, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.score, verify(x), rtol=0, atol=1e-12)


def test_over_paths_finds_the_rare_component_and_keeps_the_law_of_its_samples(seed):
    """The verifier likes the component that holds a fifth; what is found lies there, and not beyond the data."""
    field = ExactField(Path.linear(), TARGET)
    method = OverPaths(field, Times.uniform(Path.linear(), 20), paths=3, draws=3, begin=2, back=1, forward=3)
    rare = lambda x: -(x - TARGET.means[1]).square().sum(1)
    found = search(way(field), rare, (2,), method.nfe, method=method, problems=40, like=like, seed=seed)
    plain = sample(field, 400, steps=20, rule=Euler(), seed=seed)
    assert float((rare(plain) > -3).double().mean()) < 0.4
    assert float((rare(found.x) > -3).double().mean()) > 0.8
    assert found.start is None and found.x.shape == (40, 2)


# -- counts ------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("budget", [5, 19, 20, 57])
def test_the_budget_is_counted_in_field_calls(budget):
    """Five calls a sample: told or counted, as many samples as fit, and the field says the same."""
    field = ExactField(Path.linear(), TARGET)
    runs = []
    for calls in (5, field):
        seen, field.nfe = [], 0
        go = lambda z, seen=seen: (seen.append(len(z)), sample(field, start=z, steps=5, rule=Euler()))[1]
        found = search(go, height, (2,), budget, method=BestOf(2), calls=calls, like=like, seed=2)
        assert sum(seen) == budget // 5 == found.verified and found.nfe == 5 * sum(seen) == sum(5 * n for n in seen)
        assert field.nfe == 5 * len(seen)                       # a batch is one call
        runs.append(found)
    assert torch.equal(runs[0].x, runs[1].x)


@pytest.mark.parametrize("settings", [(1, 2, 6, 2, 4), (2, 3, 2, 1, 2), (3, 1, 9, 3, 5)])
def test_over_paths_knows_its_cost(settings):
    """Counted by the field, row by row, per problem: carrying on and looking ahead."""
    rows = []

    class Counting(ExactField):
        def _ask(self, x, t, cond, at):
            rows.append(len(x))
            return super()._ask(x, t, cond, at)

    field = Counting(Path.linear(), TARGET)
    paths, draws, begin, back, forward = settings
    method = OverPaths(field, TEN, paths, draws, begin, back, forward)
    seen = []
    verify = lambda x: (seen.append(len(x)), height(x))[1]
    found = search(way(field), verify, (2,), method.nfe + 3, method=method, problems=2, like=like)
    assert sum(rows) == 2 * method.nfe == 2 * found.nfe
    assert sum(seen) == 2 * found.verified
    with pytest.raises(ValueError, match=f"budget must be at least {method.nfe} field calls"):
        search(way(field), height, (2,), method.nfe - 1, method=method, problems=2, like=like)


def test_conditions_of_problems_over_paths():
    labels = torch.tensor([0, 1])
    field = ExactField(Path.linear(), GaussianMixture(TARGET.weights, TARGET.means, TARGET.covariance, labels=labels))
    method = OverPaths(field, TEN, paths=2, draws=2, begin=3, cond=labels)
    found = search(way(field, labels), lambda x: -x[:, 1].abs(), (2,), method.nfe, method=method, problems=2, like=like)
    assert abs(float(found.x[0, 0]) - 1) < 1.5 and abs(float(found.x[1, 0]) + 3) < 2


def test_the_held_out_judge_does_not_choose():
    seen = []
    judge = lambda x: (seen.append(len(x)), -x.sum(1))[1]
    found = search(double, height, (2,), 50, problems=3, held_out=judge, like=like)
    assert seen == [3] and torch.equal(found.held_out, -found.x.sum(1))
    assert torch.equal(found.x, search(double, height, (2,), 50, problems=3, like=like).x)


@pytest.mark.parametrize(("cls", "number"), [(StartSearch, 0), (StartSearch, 1), (PathSearch, 0)])
def test_conformance(cls, number):
    check_dynamics(cls, number)


def test_other_seeds_find_others():
    found = [search(double, height, (2,), 20, like=like, seed=seed).x for seed in (0, 1)]
    assert not torch.equal(*found)
    field = ExactField(Path.linear(), TARGET)
    method = OverPaths(field, TEN)
    assert not torch.equal(*(search(way(field), height, (2,), 999, method=method, like=like, seed=seed).x for seed in (0, 1)))


@pytest.mark.parametrize("batch", [1, 4, 16])
def test_a_generate_that_cuts_its_batch_spends_no_more_than_it_says(batch):
    """Five calls a row, whatever the pieces: 40 candidates of a budget of 200, counted row by row."""
    field, rows = ExactField(Path.linear(), TARGET), []
    inner = field._ask
    field._ask = lambda x, t, cond, at: (rows.append(len(x)), inner(x, t, cond, at))[1]
    go = lambda z: sample(field, start=z, steps=5, rule=Euler(), batch=batch)
    found = search(go, height, (2,), 200, calls=field, like=like, seed=2)
    assert found.nfe == sum(rows) == 200 and found.verified == 40
    told = search(go, height, (2,), 200, calls=5, like=like, seed=2)
    assert torch.equal(found.x, told.x)


@pytest.mark.parametrize(("problems", "calls"), [(1, {1: 5, 16: 7}), (1, {1: 5, 16: 85}), (3, {3: 5, 48: 7}), (3, {3: 5, 48: 15})], ids=str)
def test_a_cost_that_cannot_be_read_is_refused(problems, calls):
    """Calls that grow with what is generated: steps that adapt, or several problems in pieces."""
    field = Field(lambda x, t, cond: -x, Path.linear(), "velocity")

    def go(z):
        for _ in range(calls[len(z)]):
            field.velocity(z, 0.5)
        return z

    with pytest.raises(ValueError, match=f"calls must be a number here: generate took 5 field calls for {problems} samples and"):
        search(go, height, (2,), 200, calls=field, problems=problems, like=like)


def test_over_paths_takes_one_number_as_its_condition():
    labels = torch.tensor([0, 1])
    field = ExactField(Path.linear(), GaussianMixture(TARGET.weights, TARGET.means, TARGET.covariance, labels=labels))
    one, rows = (OverPaths(field, TEN, paths=2, draws=2, begin=3, cond=cond) for cond in (1, torch.tensor([1, 1])))
    a, b = (search(way(field, torch.tensor([1, 1])), lambda x: -x[:, 1].abs(), (2,), m.nfe, method=m, problems=2, like=like, seed=3) for m in (one, rows))
    assert torch.equal(a.x, b.x)


def test_onetime_negative_takes_one_number():
    inner, x = ExactField(Path.vp(), LABELLED), torch.tensor([[0.3, -1.0], [1.2, 0.4]], dtype=F64)
    guided = ResidualCFG(inner, 1.7)
    for one, rows in ((guided.onetime_negative(1, x, 0.4, 0), guided.onetime_negative(torch.tensor([1, 1]), x, 0.4, torch.tensor([0, 0]))),
                      (guided.self_negative(1, x), guided.self_negative(torch.tensor([1, 1]), x))):
        torch.testing.assert_close(guided.noise(x, 0.4, one), guided.noise(x, 0.4, rows))
    with pytest.raises(ValueError, match="cond must have 2 rows"):
        guided.onetime_negative(torch.tensor([1, 1, 0]), x, 0.4)


# -- residual guidance -------------------------------------------------------------------------------------------------------

LABELLED = GaussianMixture(TARGET.weights, TARGET.means, TARGET.covariance, labels=torch.tensor([0, 1]))


def test_residual_guidance_by_its_formula():
    path = Path.vp()
    inner = ExactField(path, LABELLED)
    x, cond, anchor = torch.tensor([[0.3, -1.0], [1.2, 0.4]], dtype=F64), torch.tensor([1, 0]), torch.tensor([[0.5, 0.1], [-0.7, 0.9]], dtype=F64)
    t = torch.tensor([0.3, 0.8], dtype=F64)
    at = path.coefficients(t)
    conditional, virtual = inner.noise(x, t, cond), (x - at.b[:, None] * anchor) / at.c[:, None]
    for scale, moderation in ((1.25, 1.0), (2.0, 0.7), (0.0, 1.0)):
        guided = ResidualCFG(inner, scale, moderation)
        told = guided.noise(x, t, guided.self_negative(cond, anchor))
        torch.testing.assert_close(told, moderation * virtual + scale * (conditional - moderation * virtual), rtol=1e-12, atol=1e-12)
    plain = ResidualCFG(inner, 1.0)
    torch.testing.assert_close(plain.data(x, t, plain.self_negative(cond, anchor)), inner.data(x, t, cond), rtol=1e-9, atol=1e-9)


def test_onetime_negative_is_full_guidance_at_the_first_level():
    """There the anchor is the unconditional answer itself; and it costs one call, not one a step."""
    from rheos.guidance import classifier_free

    inner, x, cond = ExactField(Path.vp(), LABELLED), torch.tensor([[0.3, -1.0], [1.2, 0.4]], dtype=F64), torch.tensor([1, 0])
    guided = ResidualCFG(inner, 1.7)
    told = guided.onetime_negative(cond, x, 0.4)
    assert inner.nfe == 1
    torch.testing.assert_close(guided.noise(x, 0.4, told), classifier_free(inner, 1.7).noise(x, 0.4, cond), rtol=1e-9, atol=1e-9)
    inner.nfe = 0
    sample(guided, start=x, times=Times(Path.vp(), [0.4, 0.6, 0.8, 1.0]), rule=DDIM(), cond=guided.onetime_negative(cond, x, 0.4))
    assert inner.nfe == 4


@pytest.mark.parametrize(("make", "message"), [
    (lambda f, c, x: ResidualCFG(f, -0.1), "scale must lie in"),
    (lambda f, c, x: ResidualCFG(f, 1.0, -1.0), "moderation must lie in"),
    (lambda f, c, x: ResidualCFG(f).self_negative(None, x), "guidance needs a condition"),
    (lambda f, c, x: ResidualCFG(f).noise(x, 0.5, c), "needs a condition with an anchor"),
    (lambda f, c, x: ResidualCFG(f).noise(x, 0.5, {"cond": c, "anchor": x[:1]}), r"anchor must have the shape of x, \(2, 2\)"),
    (lambda f, c, x: ResidualCFG(f).noise(x, 1.0, {"cond": c, "anchor": x}), "none is left at sigma = 0"),
])
def test_refusals_of_residual_guidance(make, message):
    with pytest.raises(ValueError, match=message):
        make(ExactField(Path.linear(), LABELLED), torch.tensor([1, 0]), torch.tensor([[0.3, -1.0], [1.2, 0.4]], dtype=F64))


# -- repeated sampling -------------------------------------------------------------------------------------------------------

GUESS = RepeatedSampling(lambda goal, n, draws: draws.integers("guess", 0, (n,), 20), lambda goal, answers: answers == goal)


def test_repeated_sampling_succeeds_at_the_chance_of_its_solver(seed):
    right = GUESS.attempts([3, 11, 19], 20_000, seed=seed)
    assert right.shape == (3, 20_000) and not torch.equal(right[0], right[1])
    assert float((right.double().mean(1) - 0.05).abs().max()) < 5 * math.sqrt(0.05 * 0.95 / 20_000)


def test_solve_stops_at_the_first_right_answer(seed):
    """The number of attempts until then is geometric."""
    tries = [GUESS.solve(7, 1000, batch=8, seed=Draws(seed).child(k)) for k in range(2000)]
    assert all(int(found.answer) == 7 for found in tries)
    mean = sum(found.attempts for found in tries) / len(tries)
    assert abs(mean - 20) < 5 * math.sqrt(380 / 2000)
    assert GUESS.solve(99, 33, batch=10) == (None, 33)


@pytest.mark.parametrize("batch", [1, 4, 14, 100])
def test_the_attempts_until_the_first_right_one_are_counted(batch):
    """A solver that counts upwards finds 13 at its 14th attempt, whatever the batches."""
    numbers = iter(range(1000))
    counting = RepeatedSampling(lambda goal, n, draws: torch.tensor([next(numbers) for _ in range(n)]), GUESS.verifier)
    assert counting.solve(13, 200, batch=batch) == (13, 14)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: GUESS.attempts([3], 0), "n must be at least 1, got 0"),
    (lambda: GUESS.attempts([], 5), "problems must hold at least one"),
    (lambda: GUESS.solve(3, 0), "budget must be at least 1, got 0"),
    (lambda: GUESS.solve(3, 5, batch=0), "batch must be at least 1, got 0"),
    (lambda: RepeatedSampling(GUESS.solver, lambda goal, answers: answers).attempts([3], 5), r"one bool an answer, \(5,\)"),
])
def test_refusals_of_repeated_sampling(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# -- refusals ----------------------------------------------------------------------------------------------------------------

FIELD = ExactField(Path.linear(), TARGET)


@pytest.mark.parametrize(("change", "message"), [
    ({"budget": 0}, "budget must be at least 1, got 0"),
    ({"budget": 4, "calls": 5}, "budget must hold at least one sample, which takes 5 field calls, got 4"),
    ({"budget": 4, "calls": FIELD, "generate": lambda z: sample(FIELD, start=z, steps=5, rule=Euler())}, "which takes 5 field calls, got 4"),
    ({"calls": FIELD}, "a field that generate does not use"),
    ({"calls": 0}, "calls must be at least 1, got 0"),
    ({"problems": 0}, "problems must be at least 1, got 0"),
    ({"shape": (2, 0)}, "shape must be at least 1, got 0"),
    ({"verify": lambda x: x}, r"verify must return one score a sample"),
    ({"verify": lambda x: x[:, 0] * float("nan")}, "verify must return numbers, got nan for sample 0"),
    ({"held_out": lambda x: x}, "held_out must return one score a sample"),
    ({"generate": lambda z: z[:1], "problems": 3}, "generate must return 3 samples, one a start"),
    ({"watch": [StopWhen(lambda state: True)]}, "a watcher ended the search after 17 field calls"),
])
def test_refusals(change, message):
    given = {"generate": double, "verify": height, "shape": (2,), "budget": 40, "like": like} | change
    with pytest.raises(ValueError, match=message):
        search(given.pop("generate"), given.pop("verify"), given.pop("shape"), given.pop("budget"), **given)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: BestOf(0), "batch must be at least 1, got 0"),
    (lambda: ZeroOrder(0), "neighbours must be at least 1, got 0"),
    (lambda: ZeroOrder(4, 0.0), r"step must lie in \(0, 1\], got 0"),
    (lambda: ZeroOrder(4, 1.5), r"step must lie in \(0, 1\], got 1.5"),
    (lambda: OverPaths(FIELD, TEN, paths=0), "paths must be at least 1, got 0"),
    (lambda: OverPaths(FIELD, TEN, back=2, begin=3, forward=2), "forward must be more than back = 2"),
    (lambda: OverPaths(FIELD, TEN, begin=10), r"begin must lie in \[1, 9\]"),
    (lambda: OverPaths(FIELD, TEN, begin=2, back=3, forward=4), r"begin must lie in \[3, 9\]"),
    (lambda: OverPaths(FIELD, Times.uniform(Path.vp(), 10)), "times were made for"),
    (lambda: OverPaths(FIELD, TEN.reversed()), "times must run from noise to data"),
    (lambda: search(lambda x, times: x[:1], height, (2,), 999, method=OverPaths(FIELD, TEN), like=like), "generate must return the shape of x"),
])
def test_refusals_of_methods(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_wrong_kinds_are_refused():
    for bad in ({"method": "best"}, {"calls": 1.5}):
        with pytest.raises(TypeError):
            search(double, height, (2,), 40, **bad)
    with pytest.raises(TypeError):
        search(3, height, (2,), 40)
    with pytest.raises(TypeError):
        OverPaths(lambda x: x, TEN)


def test_a_spent_budget_is_told():
    run = StartSearch(double, height, (2,), 3, BestOf(2), like=like)
    end = evolve(run, run.init(), until=run.done)
    with pytest.raises(ValueError, match="the budget of 3 field calls is spent"):
        run.step(end)


def test_a_field_of_a_network_is_counted():
    field = Field(lambda x, t, cond: -x, Path.linear(), "velocity")
    found = search(lambda z: sample(field, start=z, steps=3, rule=Euler()), height, (2,), 10, calls=field)
    assert found.nfe == 9 and found.verified == 3
