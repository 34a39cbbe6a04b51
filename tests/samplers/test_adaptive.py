"""Integration to a tolerance: order conditions, closed forms, one step size a sample, counts, what ends a run, peers (SciPy, torchdiffeq)."""
import dataclasses
import math
from itertools import combinations_with_replacement

import numpy as np
import pytest
import torch

from rheos.core import NonFinite, evolve
from rheos.data import GaussianMixture, ring, skewed
from rheos.guidance import classifier_free
from rheos.paths import ExactField, Field, Path
from rheos.samplers import adaptive
from rheos.samplers.adaptive import BOGACKI_SHAMPINE, DORMAND_PRINCE, Adaptive, AdaptiveRungeKutta, EmbeddedPair
from rheos.testing import LINES, check_dynamics

F64 = torch.float64
PAIRS = {"5(4)": DORMAND_PRINCE, "3(2)": BOGACKI_SHAMPINE}
A = torch.tensor([[-0.5, 2.0], [0.0, -1.0]], dtype=F64)        # not normal, not symmetric
START = torch.tensor([[1.0, -2.0], [0.3, 0.7], [-4.0, 0.1]], dtype=F64)


def net_field(net, path=None):
    return Field(net, path or Path.linear(), predicts="velocity")


def linear_field():
    return net_field(lambda x, t, cond: x @ A.T.to(x))


def run(field, x, rtol=1e-8, atol=None, start=0.0, end=1.0, cond=None, edit=None, **settings):
    dynamics = AdaptiveRungeKutta(rtol, rtol if atol is None else atol, **settings).dynamics(field, start, end, cond=cond, edit=edit)
    return evolve(dynamics, dynamics.init(x), until=dynamics.done)


# -- the pairs of rules ------------------------------------------------------------------------------------------------------------

def rooted_trees(nodes):
    """All rooted trees with so many nodes, a tree being the sorted tuple of the trees that hang on its root."""
    if nodes == 1:
        return [()]
    found = set()
    for parts in partitions(nodes - 1):
        groups = [list(combinations_with_replacement(rooted_trees(size), parts.count(size))) for size in sorted(set(parts))]
        forests = [()]
        for group in groups:
            forests = [(*forest, *more) for forest in forests for more in group]
        found |= {tuple(sorted(forest)) for forest in forests}
    return sorted(found)


def partitions(total, largest=None):
    if total == 0:
        return [[]]
    return [[part, *rest] for part in range(min(total, largest or total), 0, -1) for rest in partitions(total - part, part)]


def size(tree):
    return 1 + sum(map(size, tree))


def density(tree):
    return size(tree) * math.prod(map(density, tree))


def stage_weights(tree, matrix):
    """Phi_i: the product over the branches of sum_j a_ij Phi_j."""
    return math.prod((matrix @ stage_weights(branch, matrix) for branch in tree), start=np.ones(len(matrix)))


def worst_condition(pair, weights, order):
    """The largest gap of sum_i b_i Phi_i(tree) = 1 / density(tree) over the trees of `order` nodes (Butcher)."""
    matrix = np.zeros((len(pair.lower), len(pair.lower)))
    for i, row in enumerate(pair.rows):
        matrix[i + 1, : len(row)] = row
    return max(abs(np.dot(weights, stage_weights(tree, matrix)) - 1 / density(tree)) for tree in rooted_trees(order))


def test_there_are_as_many_rooted_trees_as_cayley_counted():
    assert [len(rooted_trees(n)) for n in range(1, 7)] == [1, 1, 2, 4, 9, 20]


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS.keys())
def test_order_conditions(pair):
    """Both rules of a pair have their order, and no more; the last stage is the first of the next step."""
    weights = (*pair.rows[-1], 0.0)
    for rule, order in ((weights, pair.order), (pair.lower, pair.order - 1)):
        for m in range(1, order + 1):
            assert worst_condition(pair, rule, m) < 1e-14, m
        assert worst_condition(pair, rule, order + 1) > 1e-5
    np.testing.assert_allclose(pair.error, np.array(weights) - pair.lower, rtol=0, atol=0)
    assert pair.nodes[-1] == pytest.approx(1.0, abs=1e-15)


# -- closed forms -------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("pair", "tolerance"), [(DORMAND_PRINCE, 1e-9), (BOGACKI_SHAMPINE, 1e-6)], ids=PAIRS.keys())
@pytest.mark.parametrize(("start", "end"), [(0.0, 1.0), (0.8, 0.15)], ids=["forward", "backward"])
def test_a_linear_flow_that_is_not_normal(pair, tolerance, start, end):
    end_state = run(linear_field(), START, tolerance, start=start, end=end, pair=pair)
    torch.testing.assert_close(end_state.x, START @ torch.linalg.matrix_exp(A * (end - start)).T, rtol=0, atol=10 * tolerance)
    torch.testing.assert_close(end_state.k1, end_state.x @ A.T, rtol=1e-12, atol=1e-12)
    assert bool((end_state.t == end).all())


MEAN, SPREAD = torch.tensor([[0.7, -1.2]], dtype=F64), torch.tensor([[0.3, 1.7]], dtype=F64)
FROM_MEAN, FROM_SPREAD = torch.tensor([[-0.5, 2.0]], dtype=F64), torch.tensor([[0.9, 0.4]], dtype=F64)
PATHS = {"linear": Path.linear(), "vp": Path.vp(), "two-sided": Path.interpolant(), "trigonometric": Path.interpolant("none", "trigonometric")}


def gaussian(mean, spread):
    return GaussianMixture(torch.ones(1, dtype=F64), mean, spread)


def affine(path, x, start, end):
    """The flow from one Gaussian to another with the same axes keeps (x - mean) / standard deviation."""
    def law(t):
        at = path.coefficients(t)
        return at.a * FROM_MEAN + at.b * MEAN, torch.sqrt(torch.as_tensor(at.a**2 * FROM_SPREAD + at.b**2 * SPREAD + at.c**2))

    (m0, s0), (m1, s1) = law(start), law(end)
    return m1 + (x - m0) / s0 * s1


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS.keys())
@pytest.mark.parametrize("turned", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (F64, 1e-9)], ids=["float32", "float64"])
def test_the_flow_of_a_gaussian(path, turned, dtype, tolerance):
    """Every path, each over its own interval and back: one-sided and two-sided, with times of their own a sample."""
    field = ExactField(path, gaussian(MEAN, SPREAD), gaussian(FROM_MEAN, FROM_SPREAD) if path.two_sided else None)
    rule = AdaptiveRungeKutta(tolerance, tolerance)
    start, end = rule.span(path)[::-1] if turned else rule.span(path)
    x = run(field, START.to(dtype), tolerance, start=start, end=end).x
    assert x.dtype == dtype and rule.span(path) == path.interval
    truth = affine(path, START, start, end)
    assert float((x - truth).abs().max()) < 30 * tolerance * max(1.0, float((truth / START).abs().max()))


def test_complex_numbers_spiral(seed):
    """x' = (i w - 1) x with a rate of its own a number."""
    w = torch.tensor([1.0, -3.0, 7.0], dtype=torch.complex128)
    field = net_field(lambda x, t, cond: (1j * w - 1).to(x) * x)
    x = torch.randn(4, 3, dtype=torch.complex128, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(run(field, x, 1e-10).x, x * torch.exp(1j * w - 1), rtol=0, atol=1e-9)
    single = run(field, x.to(torch.complex64), 1e-5).x
    assert single.dtype == torch.complex64
    torch.testing.assert_close(single, (x * torch.exp(1j * w - 1)).to(torch.complex64), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("pair", "degree"), [(DORMAND_PRINCE, 4), (BOGACKI_SHAMPINE, 2)], ids=PAIRS.keys())
def test_exact_for_polynomials_of_time(pair, degree):
    """Order p integrates t^(p - 1) exactly, every stage being asked at its own time; one power more is not."""
    powers = lambda m: net_field(lambda x, t, cond: (t[:, None] - 0.3) ** m + 0 * x)
    exact = lambda m: (0.6 ** (m + 1) - (-0.2) ** (m + 1)) / (m + 1)
    x = torch.zeros(2, 1, dtype=F64)
    step = lambda m: float(run(powers(m), x, 1.0, start=0.1, end=0.9, pair=pair, first_step=0.8).x[0] - exact(m))
    assert abs(step(degree)) < 1e-15 < 1e-5 < abs(step(degree + 2))


@pytest.mark.parametrize("shape", [(), (1,), (3, 2)], ids=str)
def test_samples_of_any_shape(shape):
    """x' = -2 t x, solved by hand; the error is a mean over the event, so a repeated number changes nothing."""
    field = net_field(lambda x, t, cond: -2 * t.reshape(-1, *(1,) * (x.ndim - 1)) * x)
    x = torch.tensor([0.5, -3.0, 20.0], dtype=F64).reshape(-1, *(1,) * len(shape)).expand(3, *shape).contiguous()
    torch.testing.assert_close(run(field, x).x, x * math.exp(-1), rtol=1e-7, atol=1e-7)
    same = run(field, x[:, None].expand(3, 4, *shape).contiguous())
    torch.testing.assert_close(same.h, run(field, x).h, rtol=1e-6, atol=0)


# -- error against tolerance ---------------------------------------------------------------------------------------------------------

def slope(tolerances, errors):
    return np.polyfit(np.log(tolerances), np.log(errors), 1)[0]


@pytest.mark.parametrize(("pair", "tolerances"), [(DORMAND_PRINCE, (1e-3, 1e-5, 1e-7, 1e-8, 1e-10)), (BOGACKI_SHAMPINE, (1e-3, 1e-4, 1e-6))], ids=PAIRS.keys())
def test_error_is_proportional_to_the_tolerance(pair, tolerances):
    """x' = (4 cos 9t + w) x, solved by hand, over seven decades."""
    w = torch.tensor([1.0, -0.5, 0.2], dtype=F64)
    field = net_field(lambda x, t, cond: (4 * torch.cos(9 * t)[:, None] + w) * x)
    truth = START[:2, :1] * torch.exp(4 / 9 * math.sin(9.0) + w)
    errors = [float((run(field, START[:2, :1].expand(2, 3).contiguous(), tolerance, pair=pair).x - truth).abs().max()) for tolerance in tolerances]
    assert 0.85 < slope(tolerances, errors) < 1.2, errors
    assert all(error < 3 * tolerance for error, tolerance in zip(errors, tolerances, strict=True)), errors


def test_error_of_a_sampler_follows_the_tolerance():
    """Noise carried to a mixture: the median error stays below the tolerance and falls with it."""
    path, tolerances = Path.linear(), (1e-3, 1e-5, 1e-7)
    field, x = ExactField(path, skewed()), path.prior((9, 2), seed=0, dtype=F64)
    truth = run(field, x, 1e-9).x
    errors = [float((run(field, x, tolerance).x - truth).abs().amax(1).median()) for tolerance in tolerances]
    assert 0.85 < slope(tolerances, errors) < 1.25, errors
    assert all(error < tolerance for error, tolerance in zip(errors, tolerances, strict=True)), errors


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS.keys())
def test_steps_grow_with_the_root_of_the_tolerance(pair):
    """On a smooth flow the number of steps goes with tolerance^(-1 / order)."""
    tolerances = {5: (1e-5, 1e-9), 3: (1e-3, 1e-6)}[pair.order]
    steps = [int(run(linear_field(), START, tolerance, pair=pair).accepted.max()) for tolerance in tolerances]
    assert math.log(steps[1] / steps[0]) / math.log(tolerances[0] / tolerances[1]) == pytest.approx(1 / pair.order, abs=0.25 / pair.order)


def test_absolute_and_relative_tolerance(seed):
    """Without atol a sample and its thousandfold take the same steps; without rtol the large one takes more."""
    x = torch.cat([START, 1024.0 * START])
    relative, absolute = run(linear_field(), x, 1e-7, 0.0), run(linear_field(), x, 0.0, 1e-7)
    torch.testing.assert_close(relative.x[:3] * 1024, relative.x[3:], rtol=1e-12, atol=0)
    assert torch.equal(relative.calls[:3], relative.calls[3:])
    assert bool((absolute.calls[3:] > 2 * absolute.calls[:3]).all())


def test_the_error_of_a_step_is_the_difference_of_the_two_rules():
    """One step by hand, with both rules written as polynomials of h A (from the conditions on trees without branches, and the seventh stage)."""
    h, allowed = 0.37, 1e-5      # in which the first number of this sample grows and the second one falls
    z = (h * A).numpy()
    matrix = np.zeros((7, 7))
    for i, row in enumerate(DORMAND_PRINCE.rows):
        matrix[i + 1, : len(row)] = row
    stages = np.linalg.solve(np.eye(14) - np.kron(matrix, z), np.kron(np.ones((7, 1)), START[1].numpy()[:, None]))       # the x that each stage asks at
    change = lambda weights: (np.kron(np.array(weights)[None], z) @ stages)[:, 0]
    high, low = (START[1].numpy() + change(w) for w in ((*DORMAND_PRINCE.rows[-1], 0.0), DORMAND_PRINCE.lower))
    r = np.sqrt(np.mean((np.abs(high - low) / (allowed + 3 * allowed * np.maximum(np.abs(START[1].numpy()), np.abs(high)))) ** 2))
    dynamics = AdaptiveRungeKutta(3 * allowed, allowed, first_step=h).dynamics(linear_field(), 0.0, 1.0)
    state = dynamics.step(dynamics.init(START[1:2]))
    np.testing.assert_allclose(state.x[0].numpy(), high, rtol=1e-13)
    assert float(state.error) == pytest.approx(r, rel=1e-9) and 0.01 < r < 1


@pytest.mark.parametrize(("r", "accept", "expected"), [
    (0.0, True, 10.0), (1e-30, True, 10.0), (math.inf, False, 0.2), (math.nan, False, 0.2), (1e12, False, 0.2), (32.0, False, 0.8 / 2**0.7),
    (1.0, True, 0.8 * 0.01**0.08), (0.8 ** (5 / 0.3), True, None)], ids=str)
def test_the_next_step(r, accept, expected):
    """Limits; a rejected step looks at its own error only; r settles where both errors are 0.8^(5 / 0.3)."""
    last = r if expected is None else 0.01
    assert float(adaptive._factor(np.array([r]), np.array([last]), np.array([accept]), 5)[0]) == pytest.approx(1.0 if expected is None else expected, rel=1e-12)


# -- one step size a sample ------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=["float32", "float64"])
@pytest.mark.parametrize("event", [(1,), (5,), (3, 7)], ids=str)
def test_alone_as_in_a_batch(dtype, event, seed):
    """To the bit where the field works number by number: x, times and counts of a sample do not know its neighbours."""
    field = net_field(lambda x, t, cond: torch.sin(3 * x) * (2 + x * x) * (1 + t.reshape(-1, *(1,) * (x.ndim - 1))))
    x = Path.linear().prior((13, *event), seed=seed, dtype=dtype)
    together = run(field, x, 1e-5)
    assert together.calls.unique().numel() > 1
    for rows in (slice(0, 1), slice(4, 5), slice(6, 13)):
        apart = run(field, x[rows], 1e-5)
        assert torch.equal(apart.x, together.x[rows]) and torch.equal(apart.calls, together.calls[rows])


def test_alone_as_in_a_batch_through_a_mixture(seed):
    path = Path.vp()
    field, x = ExactField(path, ring()), path.prior((20, 2), seed=seed, dtype=F64)
    together = run(field, x, 1e-6, end=path.interval[1])
    for i in (0, 7, 19):
        torch.testing.assert_close(run(field, x[i : i + 1], 1e-6, end=path.interval[1]).x, together.x[i : i + 1], rtol=1e-9, atol=1e-9)


def pulled(rows_asked):
    """x' = -cond (x - cos 3t): the larger cond, the stiffer; how many rows are asked is written down."""
    def net(x, t, cond):
        assert len(x) == len(t) == len(cond)
        rows_asked.append(len(x))
        return -cond[:, None] * (x - torch.cos(3 * t)[:, None])
    return net_field(net)


def pulled_answer(x, rate):
    """x(1) by hand: the particular solution rate (rate cos 3t + 3 sin 3t) / (rate^2 + 9), and what is left of the rest."""
    at = lambda t: rate * (rate * math.cos(3 * t) + 3 * math.sin(3 * t)) / (rate**2 + 9)
    return at(1.0) + (x - at(0.0)) * math.exp(-rate)


RATES = torch.tensor([1.0, 200.0, 3.0, 0.0, 30.0, 2.0, 1.0, 5.0], dtype=F64)


def test_easy_samples_do_not_pay_for_a_stiff_one():
    asked = []
    x = torch.linspace(-1.5, 2.0, 8, dtype=F64)[:, None]
    state = run(pulled(asked), x, 1e-6, cond=RATES)
    truth = torch.tensor([pulled_answer(float(v), float(rate)) for v, rate in zip(x, RATES, strict=True)], dtype=F64)
    torch.testing.assert_close(state.x[:, 0], truth, rtol=0, atol=1e-5)
    # Rows that the network saw, against the whole batch at the pace of the stiffest: counted twice over, by the network and by the state.
    assert sum(asked) == int(state.calls.sum()) < 0.35 * 8 * int(state.calls.max())
    assert int(state.calls.max()) == int(state.calls[1]) > 5 * int(state.calls[[0, 2, 3, 5, 6, 7]].max())
    assert torch.equal(state.calls, 2 + 6 * (state.accepted + state.rejected)) and state.step == int((state.accepted + state.rejected).max())


@pytest.mark.parametrize("kind", [lambda rate: {"rate": rate, "shift": {"by": 3 * rate}}, lambda rate: rate], ids=["nested", "tensor"])
def test_conditions_follow_their_samples(kind):
    """Samples that arrive early leave with their conditions: x' = rate x + 3 rate, shuffled rates, solved by hand."""
    def net(x, t, cond):
        rate, shift = (cond["rate"], cond["shift"]["by"]) if isinstance(cond, dict) else (cond, 3 * cond)
        return rate[:, None] * x + shift[:, None]

    rate = torch.tensor([-30.0, 1.0, -0.2, 2.0, -7.0], dtype=F64)
    x = torch.tensor([[1.0], [2.0], [-1.0], [0.5], [4.0]], dtype=F64)
    expected = (x + 3) * rate[:, None].exp() - 3
    torch.testing.assert_close(run(net_field(net), x, 1e-9, cond=kind(rate)).x, expected, rtol=1e-7, atol=1e-7)


def test_labels_and_guidance_reach_the_field(seed):
    """The exact field of a labelled target, with samples of both classes that take different numbers of calls."""
    target, path = skewed(), Path.linear()
    x, cond = path.prior((6, 2), seed=seed, dtype=F64), torch.arange(6) % 3
    each = GaussianMixture(target.weights, target.means, target.covariance, torch.arange(len(target.weights)) % 3)
    state = run(ExactField(path, each), x, 1e-6, cond=cond)
    for label in range(3):
        alone = run(ExactField(path, each.given(label)), x[cond == label], 1e-6)
        torch.testing.assert_close(state.x[cond == label], alone.x, rtol=1e-9, atol=1e-9)
    guided = run(classifier_free(ExactField(path, each), 2.0), x, 1e-6, cond=cond).x
    assert float((guided - state.x).abs().max()) > 0.05


def test_there_and_back(seed):
    path = Path.linear()
    field, x = ExactField(path, ring()), path.prior((8, 2), seed=seed, dtype=F64)
    there = run(field, x, 1e-9)
    torch.testing.assert_close(run(field, there.x, 1e-9, start=1.0, end=0.0).x, x, rtol=0, atol=1e-5)


# -- what is asked ---------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("start", "end"), [(0.0, 1.0), (1.0, 0.0), (0.1, 0.7), (0.7, 0.1)], ids=str)
def test_never_asks_outside(start, end):
    """Both ends are asked, exactly; nothing beyond, whatever rounding does."""
    seen = []
    field = net_field(lambda x, t, cond: (seen.append(t.clone()), torch.cos(9 * t)[:, None] * x)[1])
    state = run(field, START, 1e-6, start=start, end=end)
    t = torch.cat(seen)
    assert {float(t.min()), float(t.max())} == {start, end} and bool((state.t == end).all())
    assert len(seen) == field.nfe == 2 + 6 * state.step


def test_rounding_does_not_carry_a_stage_outside():
    """Numbers whose t + (end - t) lies beyond the end, in one step of the whole way."""
    ends = [(i / 200, j / 200) for i in range(200) for j in range(i + 1, 201) if i / 200 + (j / 200 - i / 200) > j / 200]
    assert ends
    for start, end in ends[:3]:
        seen = []
        run(net_field(lambda x, t, cond: (seen.append(float(t.max())), 0 * x)[1]), START, 1.0, start=start, end=end, first_step=end - start)
        assert max(seen) == end


def test_a_singular_end_is_not_passed():
    """x' = -x / (2 (1 - t)) has x = x0 sqrt(1 - t), and is not a number beyond 1."""
    field = net_field(lambda x, t, cond: -x / (2 * (1 - t[:, None])))
    torch.testing.assert_close(run(field, START, end=1 - 1e-4).x, START * 1e-2, rtol=1e-5, atol=1e-6)


def test_every_prediction_may_be_edited():
    """Half the velocity carries half as far; the times are those of the rows still on their way."""
    def halved(value, x, t):
        assert t.shape == x.shape[:1] == value.shape[:1]
        return 0.5 * value

    torch.testing.assert_close(run(linear_field(), START, edit=halved).x, START @ torch.linalg.matrix_exp(A / 2).T, rtol=0, atol=1e-7)


def test_an_edit_of_the_data():
    """A data prediction replaced by m: x' = (m - x) / (1 - t) on the linear path, so that x - m shrinks with 1 - t."""
    def replaced(value, x, t):
        return torch.full_like(value, 5.0)

    replaced.kind = "data"
    torch.testing.assert_close(run(linear_field(), START, end=0.75, edit=replaced).x, 5 + (START - 5) / 4, rtol=1e-7, atol=1e-7)


def test_the_network_reads_the_clock_of_its_samples():
    for x in (START.float(), START, START.to(torch.complex64)):
        dtypes = set()
        field = net_field(lambda x, t, cond: (dtypes.add(t.dtype), -x)[1])
        run(field, x, 1e-4)
        assert dtypes == {x.real.dtype}


def test_gradients_pass_through():
    """d x(1) / d x(0) of the linear flow, with a sample that has arrived long before the last."""
    x = torch.cat([START, torch.tensor([[900.0, -300.0]], dtype=F64)]).requires_grad_(True)
    state = run(linear_field(), x, 1e-9)
    assert state.calls.unique().numel() > 1
    (gradient,) = torch.autograd.grad(state.x[:, 0].sum(), x)
    torch.testing.assert_close(gradient, torch.linalg.matrix_exp(A)[0].expand(4, 2), rtol=0, atol=1e-7)


def test_a_given_first_step_saves_a_call():
    state = run(linear_field(), START, 1e-6, first_step=0.01)
    assert torch.equal(state.calls, 1 + 6 * (state.accepted + state.rejected))
    torch.testing.assert_close(state.x, run(linear_field(), START, 1e-6).x, rtol=0, atol=1e-5)
    dynamics = AdaptiveRungeKutta(first_step=0.25).dynamics(linear_field(), 0.9, 0.1)
    assert dynamics.init(START).h.tolist() == [-0.25] * 3


def test_a_step_after_the_end_changes_nothing():
    dynamics = AdaptiveRungeKutta().dynamics(linear_field(), 0.0, 1.0)
    end = evolve(dynamics, dynamics.init(START), until=dynamics.done)
    after = evolve(dynamics, end, 3)
    assert after.step == end.step + 3 and torch.equal(after.x, end.x) and torch.equal(after.calls, end.calls)


# -- what goes wrong -------------------------------------------------------------------------------------------------------------------

def broken_beyond(limit):
    """x' = 2 x, and not a number where x lies beyond the limit."""
    return net_field(lambda x, t, cond: torch.where(x.abs() > limit, math.nan, 2 * x))


def test_a_step_too_long_is_taken_back():
    """A trial beyond the limit is not finite and is tried again, shorter; the flow itself stays inside (e^2 = 7.39)."""
    state = run(broken_beyond(7.5), torch.ones(2, 1, dtype=F64), 1e-6, first_step=1.0)
    torch.testing.assert_close(state.x, torch.full((2, 1), math.exp(2), dtype=F64), rtol=1e-5, atol=0)
    assert bool((state.rejected > 0).all())


def test_leaving_the_finite_numbers():
    """The flow reaches the limit of the second sample at t = log(3) / 2."""
    x = torch.tensor([[0.1], [2.0], [0.2]], dtype=F64)
    with pytest.raises(NonFinite, match=r"velocity of sample 1 of 3 beyond t = 0\.549306 is not finite") as caught:
        run(broken_beyond(6.0), x, 1e-6)
    good = caught.value.state
    assert caught.value.good and bool(torch.isfinite(good.x).all()) and float(good.t[1]) == pytest.approx(math.log(3) / 2, abs=1e-7)
    with pytest.raises(NonFinite, match=r"sample 2 of 3 at t = 0 is not finite"):
        run(broken_beyond(6.0), torch.tensor([[0.1], [2.0], [9.0]], dtype=F64), 1e-6)


def test_an_overflow_at_the_end_is_seen():
    """A velocity that is finite while the samples overflow."""
    with pytest.raises(NonFinite, match="sample 1 of 2 is not finite"):
        run(net_field(lambda x, t, cond: torch.where(x > 1, 1e36, 0.0).to(x)), torch.tensor([[0.5], [3.4e38]], dtype=torch.float32), 1e-2)


def test_a_flow_that_blows_up_is_given_up():
    """x' = x^2 from 2 is infinite at t = 1/2."""
    with pytest.raises((RuntimeError, NonFinite), match=r"sample 1.* t = 0\.5"):
        run(net_field(lambda x, t, cond: x * x), torch.tensor([[0.1], [2.0]], dtype=F64), 1e-4)


def test_the_limit_of_calls_names_the_sample_that_stands():
    with pytest.raises(RuntimeError, match=r"largest_calls = 100 do not carry sample 1 of 8 from 0 to 1: after 98 calls it stands at t = 0\.\d+"):
        run(pulled([]), torch.ones(8, 1, dtype=F64), 1e-3, cond=RATES, largest_calls=100)
    needed = int(run(pulled([]), torch.ones(8, 1, dtype=F64), 1e-3, cond=RATES).calls.max())
    assert int(run(pulled([]), torch.ones(8, 1, dtype=F64), 1e-3, cond=RATES, largest_calls=needed).calls.max()) == needed
    with pytest.raises(RuntimeError, match="largest_calls"):
        run(pulled([]), torch.ones(8, 1, dtype=F64), 1e-3, cond=RATES, largest_calls=needed - 1)


def test_a_jump_is_passed():
    """A velocity that jumps from 1 to 50 at t = 0.37: the steps shrink there, and grow again."""
    field = net_field(lambda x, t, cond: torch.where(t < 0.37, 1.0, 50.0)[:, None] + 0 * x)
    state = run(field, torch.zeros(1, 1, dtype=F64), 1e-8)
    assert float(state.x) == pytest.approx(0.37 + 0.63 * 50, rel=1e-6) and int(state.rejected) > 5


FIELD = linear_field()
REFUSALS = {
    "rtol below zero": (lambda: AdaptiveRungeKutta(rtol=-1e-3), ValueError, r"rtol must lie in \[0, inf\), got -0\.001"),
    "atol infinite": (lambda: AdaptiveRungeKutta(atol=math.inf), ValueError, r"atol must lie in \[0, inf\), got inf"),
    "rtol text": (lambda: AdaptiveRungeKutta(rtol="1e-3"), TypeError, "rtol"),
    "both zero": (lambda: AdaptiveRungeKutta(0.0, 0.0), ValueError, "rtol or atol must be positive, got 0 for both"),
    "pair by name": (lambda: AdaptiveRungeKutta(pair="dopri5"), TypeError, "pair"),
    "no calls": (lambda: AdaptiveRungeKutta(largest_calls=7), ValueError, "largest_calls must be at least 8, got 7"),
    "first step zero": (lambda: AdaptiveRungeKutta(first_step=0.0), ValueError, r"first_step must lie in \(0, inf\), got 0\.0"),
    "first step too long": (lambda: AdaptiveRungeKutta(first_step=0.5).dynamics(FIELD, 0.2, 0.6), ValueError, "first_step must be at most the whole way from 0.2 to 0.6, got 0.5"),
    "no way": (lambda: AdaptiveRungeKutta().dynamics(FIELD, 0.3, 0.3), ValueError, "start and end must differ, got 0.3"),
    "beyond the path": (lambda: AdaptiveRungeKutta().dynamics(FIELD, 0.0, 1.5), ValueError, r"end must lie in \[0, 1\], got 1\.5"),
    "before the path": (lambda: AdaptiveRungeKutta().dynamics(FIELD, -0.5, 1.0), ValueError, r"start must lie in \[0, 1\], got -0\.5"),
    "whole numbers": (lambda: run(FIELD, torch.ones(2, 2, dtype=torch.int64)), TypeError, "x"),
    "no samples": (lambda: run(FIELD, torch.ones(0, 2)), ValueError, r"x must hold at least one sample, got shape \(0, 2\)"),
    "more than the dtype": (lambda: run(FIELD, START.float(), 1e-9), ValueError, r"rtol = 1e-09 and atol = 1e-09 ask for more than torch.float32 holds, whose rounding is 1\.2e-07"),
    "more than bfloat16": (lambda: run(FIELD, START.bfloat16(), 1e-3), ValueError, "ask for more than torch.bfloat16 holds"),
    "conditions of others": (lambda: run(FIELD, START, cond={"y": torch.ones(4)}), ValueError, r"cond must have 3 rows, one a sample, got shape \(4,\)"),
    "one condition": (lambda: run(FIELD, START, cond=torch.tensor(4)), ValueError, "cond must have 3 rows"),
    "condition as text": (lambda: run(FIELD, START, cond="cat"), TypeError, "cond must be a torch.Tensor, got str"),
    "implicit rows": (lambda: EmbeddedPair("mine", 2, ((1.0,), (0.5,)), (0.5, 0.5, 0.0)), ValueError, "rows must hold 1, 2, 3"),
    "lower too short": (lambda: EmbeddedPair("mine", 2, ((1.0,), (0.5, 0.5)), (1.0, 0.0)), ValueError, "lower must hold 3 weights, one a stage, got 2"),
    "weights of less": (lambda: EmbeddedPair("mine", 2, ((1.0,), (0.5, 0.4)), (1.0, 0.0, 0.0)), ValueError, "the last of rows must sum to 1, got 0.9"),
    "lower of less": (lambda: EmbeddedPair("mine", 2, ((1.0,), (0.5, 0.5)), (1.0, 0.5, 0.0)), ValueError, "lower must sum to 1, got 1.5"),
}


@pytest.mark.parametrize(("make", "error", "text"), REFUSALS.values(), ids=REFUSALS.keys())
def test_refusals(make, error, text):
    with pytest.raises(error, match=text):
        make()


def test_defaults_are_the_documented_ones():
    rule = AdaptiveRungeKutta()
    assert (rule.rtol, rule.atol, rule.pair, rule.largest_calls, rule.first_step) == (1e-5, 1e-5, DORMAND_PRINCE, 10_000, None)
    assert (rule.order, rule.calls_per_step) == (5, 6)
    assert (AdaptiveRungeKutta(pair=BOGACKI_SHAMPINE).order, AdaptiveRungeKutta(pair=BOGACKI_SHAMPINE).calls_per_step) == (3, 3)
    assert dataclasses.replace(rule, rtol=1e-3) == AdaptiveRungeKutta(rtol=1e-3)


def test_a_pair_of_ones_own():
    """Heun's rule with Euler's to estimate: x' = x needs few digits and gives them."""
    heun = EmbeddedPair("Heun-Euler 2(1)", 2, ((1.0,), (0.5, 0.5)), (1.0, 0.0, 0.0))
    field = net_field(lambda x, t, cond: x)
    state = run(field, torch.ones(1, 1, dtype=F64), 1e-5, pair=heun)
    assert float(state.x) == pytest.approx(math.e, rel=1e-4) and int(state.calls) == 2 + 2 * state.step


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.name)
@pytest.mark.parametrize("number", range(3))
def test_conformance(number, line):
    check_dynamics(Adaptive, number, [line])


# -- peers -----------------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("tolerance", [1e-4, 1e-8])
@pytest.mark.parametrize(("start", "end"), [(0.0, 1.0), (1.0, 0.25)], ids=["forward", "backward"])
def test_against_scipy(tolerance, start, end, seed):
    """The first step by the same rule, to rounding; the end within a few tolerances of a much finer one, at less than three times its calls."""
    from scipy.integrate import RK45, solve_ivp

    path = Path.linear()
    field, x = ExactField(path, skewed()), path.prior((1, 2), seed=seed, dtype=F64)
    velocity = lambda t, y: field.velocity(torch.from_numpy(y)[None], t)[0].numpy()
    dynamics = AdaptiveRungeKutta(tolerance, tolerance).dynamics(field, start, end)
    begun = dynamics.init(x)
    assert abs(float(begun.h)) == pytest.approx(RK45(velocity, start, x[0].numpy(), end, rtol=tolerance, atol=tolerance).h_abs, rel=1e-9)
    state = evolve(dynamics, begun, until=dynamics.done)
    theirs = solve_ivp(velocity, (start, end), x[0].numpy(), rtol=tolerance, atol=tolerance)
    truth = solve_ivp(velocity, (start, end), x[0].numpy(), rtol=1e-12, atol=1e-12, method="DOP853").y[:, -1]
    assert np.abs(state.x[0].numpy() - truth).max() < 5 * tolerance
    assert int(state.calls) < 3 * theirs.nfev


@pytest.mark.parametrize("tolerance", [1e-4, 1e-8])
def test_against_torchdiffeq(tolerance):
    """On the linear flow, where its step for the whole batch is no handicap: both are right, and ours is no further off."""
    torchdiffeq = pytest.importorskip("torchdiffeq")
    theirs = torchdiffeq.odeint(lambda t, x: x @ A.T, START, torch.tensor([0.0, 1.0], dtype=F64), rtol=tolerance, atol=tolerance, method="dopri5")[-1]
    truth = START @ torch.linalg.matrix_exp(A).T
    ours = run(linear_field(), START, tolerance).x
    assert float((ours - truth).abs().max()) < max(float((theirs - truth).abs().max()), tolerance)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=50 * tolerance)
