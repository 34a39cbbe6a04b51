"""BDIA and exact inversion: the rule against its formula, there and back on exact fields and networks, edits, refusals."""
import json
import math
import warnings
from dataclasses import replace

import pytest
import torch

from rheos.core import Draws
from rheos.data import GaussianMixture, digits_mixture, skewed
from rheos.guidance import classifier_free
from rheos.nets import ResidualMLP
from rheos.paths import ExactField, Field, Path, T, Times
from rheos.samplers import DDIM, DDPM, PLMS, AdaptiveRungeKutta, DPMSolverPP, Euler, EulerMaruyama, RungeKutta, Table, UniPC, dynamic_threshold, sample
from rheos.samplers.bidirectional import BDIA
from rheos.samplers.inversion import Pair, invert, sample_pair
from rheos.testing import observed_order

F64 = torch.float64
PATH, LINEAR = Path.vp(), Path.linear()
START = torch.tensor([[1.0, -0.5], [-2.0, 0.3], [0.1, 2.2]], dtype=F64)
UNEVEN = Times(PATH, [0.06, 0.17, 0.25, 0.4, 0.47, 0.6, 0.78, 0.86, 0.97])
MEAN, SPREAD = torch.tensor([[0.7, -1.2]], dtype=F64), torch.tensor([[0.3, 1.7]], dtype=F64)
GAUSSIAN = ExactField(PATH, GaussianMixture(torch.ones(1, dtype=F64), MEAN, SPREAD))


def network(dtype=F64, classes=10):
    with Draws(1).scope(0):
        return ResidualMLP((1, 5, 3), width=32, depth=2, classes=classes).to(dtype).eval().requires_grad_(False)


# -- the rule ------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("gamma", [1.0, 0.7])
@pytest.mark.parametrize("kind", ["data", "noise"])
def test_bdia_by_its_formula(gamma, kind):
    """x_{i+1} = x_{i-1} - (1 - gamma)(x_{i-1} - x_i) - gamma (Phi(i -> i-1) - x_i) + (Phi(i -> i+1) - x_i), Phi = alpha x1 + sigma z from x_i."""
    field, alpha, sigma = ExactField(PATH, skewed()), UNEVEN.alpha.tolist(), UNEVEN.sigma.tolist()
    points = [START]
    for i in range(UNEVEN.steps):
        answer = field(points[-1], float(UNEVEN.t[i]))
        phi = lambda j, answer=answer: alpha[j] * answer.data + sigma[j] * answer.noise
        if i == 0:
            points.append(phi(1))
            continue
        old, here = points[-2:]
        points.append(old - (1 - gamma) * (old - here) - gamma * (phi(i - 1) - here) + (phi(i + 1) - here))
    found = sample_pair(field, start=START, rule=BDIA(gamma, DDIM(kind=kind)), times=UNEVEN)
    torch.testing.assert_close(found.x, points[-1], rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(found.beside, points[-2], rtol=1e-11, atol=1e-11)


def test_around_euler_it_is_the_midpoint_rule_on_equal_steps():
    """x_{i+1} = x_{i-1} + 2 h v(x_i): Nystrom's explicit midpoint rule."""
    field, times = ExactField(LINEAR, skewed()), Times.uniform(LINEAR, 8, T, start=0.1, end=0.9)
    x, h = [START, START + 0.1 * field.velocity(START, 0.1)], 0.1
    for i in range(1, 8):
        x.append(x[-2] + 2 * h * field.velocity(x[-1], float(times.t[i])))
    torch.testing.assert_close(sample(field, start=START, rule=BDIA(base=Euler()), times=times), x[-1], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(("rule", "order"), [(BDIA(), 2), (BDIA(0.6), 1), (BDIA(base=DDIM(kind="noise")), 2), (BDIA(0.6, Euler()), 1)], ids=str)
def test_order(rule, order):
    a, b = PATH.coefficients(0.3), PATH.coefficients(0.9)
    width = lambda at: torch.sqrt(at.b**2 * SPREAD + at.c**2)
    truth = b.b * MEAN + (START - a.b * MEAN) * width(b) / width(a)
    run = lambda n: sample(GAUSSIAN, start=START, rule=rule, times=Times.uniform(PATH, n, T, start=0.3, end=0.9))
    assert rule.order == order
    assert order - 0.3 < observed_order(run, truth, [32, 64, 128]) < order + 0.4


def test_one_call_a_step_and_back():
    field = ExactField(PATH, skewed())
    there = sample_pair(field, start=START, times=UNEVEN)
    assert field.nfe == 8
    invert(field, there)
    assert field.nfe == 8 + 7
    invert(field, START, times=UNEVEN)
    assert field.nfe == 15 + 8          # one more for the point that is not known
    invert(field, START, before=START + 0.01, times=UNEVEN)
    assert field.nfe == 23 + 7


# -- there and back ----------------------------------------------------------------------------------------------------------------

PATHS = {"linear": LINEAR, "vp": PATH, "cosine": Path.cosine(), "edm": Path.edm(0.01, 40.0), "betas": Path.from_betas(torch.linspace(1e-3, 0.2, 100, dtype=F64))}


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize(("dtype", "limit"), [(F64, 1e-11), (torch.float32, 2e-3)], ids=["float64", "float32"])
def test_starts_come_back(name, dtype, limit, seed):
    path = PATHS[name]
    field = ExactField(path, skewed())
    start = path.prior((6, 2), seed=seed, dtype=dtype)
    there = sample_pair(field, start=start, steps=20)
    assert there.x.dtype == dtype and len(there) == 6
    scale = float(start.abs().max())
    assert float((invert(field, there).x - start).abs().max()) < limit * scale
    # The way on lands where `sample` lands, to the bit.
    assert torch.equal(there.x, sample(field, start=start, rule=BDIA(), steps=20))


@pytest.mark.parametrize("name", PATHS)
def test_samples_come_back_whatever_the_point_before_them(name, seed):
    """Real data, of which no run is known: the point before is made by one step back, or given; both ways there and back are exact."""
    path = PATHS[name]
    field, x = ExactField(path, skewed()), Draws(seed).rows("x", 0, (5, 2), dtype=F64) + 0.5
    there = invert(field, x, steps=20)
    again = invert(field, there)
    assert (again.place, there.place) == ("end", "start")
    assert float((again.x - x).abs().max()) < 1e-10
    other = invert(field, x, before=again.beside, steps=20)
    torch.testing.assert_close(other.x, there.x, rtol=1e-9, atol=1e-9)
    assert torch.equal(invert(field, x, before=x, steps=20).beside.isfinite(), torch.ones(5, 2, dtype=torch.bool))


@pytest.mark.parametrize(("path", "end"), [(PATH, 0.97), (LINEAR, 0.9), (LINEAR, 1.0)])
def test_the_point_made_before_real_data_is_one_step_of_ddim_backwards(path, end):
    """alpha x1 + sigma z one step earlier, of what the field says at the data; at the linear path's end that is a step along the velocity."""
    field, times = ExactField(path, GAUSSIAN.target), Times.uniform(path, 10, T, start=0.05, end=end)
    made = invert(field, invert(field, START, times=times)).beside
    answer, at = field(START, end), times.each[-2]
    data, noise = (START, START - answer.velocity) if end == 1.0 else (answer.data, answer.noise)
    torch.testing.assert_close(made, at.b * data + at.c * noise, rtol=1e-10, atol=1e-10)


def test_starts_of_data_are_those_of_the_flow():
    """Inverted data lie where the exact flow backwards takes them: of a Gaussian they are (x - m) / sqrt(v), and closer with more steps."""
    field = ExactField(LINEAR, GAUSSIAN.target)
    truth = (START - MEAN) / SPREAD.sqrt()
    far, near = (float((invert(field, START, steps=n).x - truth).abs().max()) for n in (25, 200))
    assert near < 0.02 and near < 0.3 * far


@pytest.mark.parametrize("rule", [BDIA(), BDIA(0.9), BDIA(base=DDIM(kind="noise"))], ids=str)
@pytest.mark.parametrize(("path", "kind"), [(LINEAR, "velocity"), (PATH, "noise"), (PATH, "v"), (LINEAR, "data")], ids=lambda v: v if isinstance(v, str) else "")
def test_networks_with_classes_and_guidance_there_and_back(rule, path, kind, seed):
    field, labels = Field(network(), path, kind), torch.tensor([3, 0, 9, 4])
    times = Times.uniform(path, 50, T, start=0.01, end=0.99)
    start = path.prior((4, 1, 5, 3), seed=seed, start=0.01, dtype=F64)
    there = sample_pair(field, start=start, rule=rule, times=times, cond=labels, guidance=2.0)
    back = invert(field, there, cond=labels, guidance=2.0)
    assert float((back.x - start).abs().max()) < 1e-6
    image = Draws(seed).rows("image", 0, (4, 1, 5, 3), dtype=F64)
    again = invert(field, invert(field, image, times=times, rule=rule, cond=3), cond=3)
    assert float((again.x - image).abs().max()) < 1e-6


def test_ddim_reversed_is_near_but_not_exact():
    """The baseline, by `sample` on reversed times; what BDIA is for."""
    field, times = ExactField(PATH, skewed()), Times.uniform(PATH, 20, T, start=0.02, end=0.99)
    near = sample(field, start=sample(field, start=START, rule=DDIM(), times=times), rule=DDIM(), times=times.reversed())
    exact = invert(field, sample_pair(field, start=START, times=times))
    assert 1e-2 < float((near - START).abs().max()) < 3.0
    assert float((exact.x - START).abs().max()) < 1e-11


def test_an_edit_comes_back_too():
    """Threes inverted as threes become eights, and threes again, to rounding; and they really were other digits in between."""
    field = ExactField(PATH, digits_mixture(axes=8))
    three, eight = torch.full((4,), 3), torch.full((4,), 8)
    drawn = sample_pair(field, 4, shape=(8,), steps=20, cond=three, seed=5)
    noise = invert(field, drawn, cond=three)
    eights = invert(field, noise, cond=eight, guidance=4.0)
    again = invert(field, invert(field, eights, cond=eight, guidance=4.0), cond=three)
    assert float((again.x - drawn.x).abs().max()) < 1e-10
    assert float((eights.x - drawn.x).abs().max()) > 0.3
    assert float((eights.x - sample(classifier_free(field, 4.0), start=noise.x, rule=BDIA(), steps=20, cond=eight)).abs().max()) < 0.5


def test_edits_of_predictions_keep_it_exact():
    """Thresholding asks nothing but the prediction at x_i, so the way back meets the same."""
    field, edit = ExactField(PATH, skewed()), dynamic_threshold(-0.8, 0.8)
    there = sample_pair(field, start=START, times=UNEVEN, edit=edit)
    assert float((invert(field, there, edit=edit).x - START).abs().max()) < 1e-11
    assert float((invert(field, there).x - START).abs().max()) > 1e-2


def test_batches_and_settings_change_nothing(seed):
    field, labels = Field(network(), LINEAR, "velocity"), torch.tensor([3, 0, 9, 4, 1])
    whole, parts = (sample_pair(field, 5, seed=seed, shape=(1, 5, 3), steps=6, cond=labels, batch=size) for size in (None, 2))
    torch.testing.assert_close(whole.x, parts.x, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(*(invert(field, whole, cond=labels, batch=size).x for size in (None, 3)), rtol=1e-10, atol=1e-10)
    other = sample_pair(field, 5, seed=seed + 1, shape=(1, 5, 3), steps=6, cond=labels)
    assert float((whole.x - other.x).abs().min()) > 0
    assert not whole.x.requires_grad


def test_gradients_pass_through_the_way_back():
    field, x = ExactField(LINEAR, GAUSSIAN.target), START.clone().requires_grad_()
    (slope,) = torch.autograd.grad(invert(field, x, steps=150).x.sum(), x)
    torch.testing.assert_close(slope, (1 / SPREAD.sqrt()).expand(3, 2), rtol=2e-2, atol=2e-2)


def test_a_small_gamma_loses_digits_and_says_so():
    field, times = ExactField(PATH, skewed()), Times.uniform(PATH, 60, T, start=0.05, end=0.97)
    there = sample_pair(field, start=START, rule=BDIA(0.5), times=times)
    with pytest.warns(UserWarning, match="59 steps back multiply rounding by 6e"):
        back = invert(field, there)
    assert float((back.x - START).abs().max()) > 1e-6
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert float((invert(field, sample_pair(field, start=START, times=times)).x - START).abs().max()) < 1e-11
    with pytest.warns(UserWarning, match="or float64"):
        invert(field, START.float(), rule=BDIA(0.8), times=times)


def test_tables_of_ones_own_are_inverted():
    """An edited table, and one read from JSON."""
    field, table = ExactField(PATH, skewed()), BDIA().plan(UNEVEN)
    table = Table.from_json(json.loads(json.dumps(table.edited(4, w=(1.1 * table.predict[4].w[0],)).to_json())))
    there = sample_pair(field, start=START, rule=table)
    assert float((invert(field, there).x - START).abs().max()) < 1e-11
    assert float((there.x - sample(field, start=START, rule=BDIA(), times=UNEVEN)).abs().max()) > 1e-3


def test_two_sided_paths_there_and_back():
    path = Path.interpolant("none")
    field = ExactField(path, GAUSSIAN.target, GaussianMixture(torch.ones(1, dtype=F64), -MEAN, SPREAD))
    there = invert(field, START, rule=BDIA(base=Euler()), steps=20)
    assert float((invert(field, there).x - START).abs().max()) < 1e-11


# -- refusals ----------------------------------------------------------------------------------------------------------------------------

FIELD = ExactField(PATH, skewed())
THERE = sample_pair(FIELD, start=START, times=UNEVEN)


@pytest.mark.parametrize(("make", "error", "message"), [
    (lambda: BDIA(0.0), ValueError, r"gamma must lie in \(0, 1\], got 0"),
    (lambda: BDIA(1.2), ValueError, "gamma must lie"),
    (lambda: BDIA(math.nan), ValueError, "gamma must lie"),
    (lambda: BDIA(1.0, DDIM), TypeError, "base must be a rule"),
    (lambda: BDIA(1.0, DPMSolverPP(2)), ValueError, "base must be of order 1 with one call"),
    (lambda: BDIA(1.0, RungeKutta(2)), ValueError, "base must be of order 1 with one call"),
    (lambda: BDIA(1.0, UniPC(1)).plan(UNEVEN), ValueError, "one point and one prediction"),
    (lambda: BDIA(1.0, DDPM()).plan(UNEVEN), ValueError, "fresh noise"),
    (lambda: BDIA().plan(Times.uniform(Path.interpolant(), 4)), ValueError, "one-sided path"),
    (lambda: invert(FIELD, START, rule=DDIM()), ValueError, r"DDIM cannot be inverted exactly: .*BDIA can be, and sample"),
    (lambda: invert(FIELD, START, rule=UniPC(2)), ValueError, "UniPC cannot be inverted exactly"),
    (lambda: invert(FIELD, START, rule=PLMS()), ValueError, "PLMS cannot be inverted exactly"),
    (lambda: invert(FIELD, START, rule=DDPM()), ValueError, "DDPM cannot be inverted exactly"),
    (lambda: sample_pair(FIELD, start=START, rule=EulerMaruyama()), ValueError, "EulerMaruyama cannot be inverted exactly"),
    (lambda: invert(FIELD, START, rule=AdaptiveRungeKutta()), (ValueError, TypeError), "AdaptiveRungeKutta"),
    (lambda: invert(FIELD, START, steps=1), ValueError, "steps must be at least 2"),
    (lambda: invert(FIELD, START, steps=0), ValueError, "steps must be at least 2"),
    (lambda: invert(FIELD, START, before=START[:2]), (ValueError, TypeError), "before"),
    (lambda: invert(FIELD, START * math.nan), ValueError, "x must be finite"),
    (lambda: invert(FIELD, START[:0]), ValueError, "at least one sample"),
    (lambda: invert(FIELD, THERE, steps=8), ValueError, "steps must be left out for a Pair"),
    (lambda: invert(FIELD, THERE, rule=BDIA()), ValueError, "rule must be left out for a Pair"),
    (lambda: invert(ExactField(LINEAR, skewed()), THERE), ValueError, "the pair was made on"),
    (lambda: invert(FIELD, THERE, cond=torch.tensor([1])), ValueError, "cond must have 3 rows"),
    (lambda: invert(FIELD, START, times=Times.uniform(LINEAR, 5)), ValueError, "times were made for"),
    (lambda: invert(FIELD, START, edit=3), TypeError, "edit"),
    (lambda: invert(FIELD, START, batch=0), ValueError, "batch must be at least 1"),
    (lambda: invert(lambda x, t: x, START), TypeError, "field|Field"),
    (lambda: sample_pair(FIELD, steps=5), ValueError, "start must be given, or n"),
    (lambda: sample_pair(FIELD, 4, start=START), ValueError, "n must be left out or equal the 3 rows"),
    (lambda: Pair(START, START[:1], THERE.table), ValueError, "beside must have shape"),
    (lambda: replace(THERE, place="middle"), ValueError, "place must be one of"),
    (lambda: Pair(START, START, DDIM().plan(UNEVEN)).leaving(), ValueError, "cannot be solved"),
    (lambda: invert(Field(lambda x, t, cond: x, LINEAR, "data"), START, steps=5), ValueError, "neither noise nor velocity at t = 1"),
])
def test_refusals(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_an_edit_is_cut_with_the_batch():
    """A projection has one measurement a row: split batches see their own."""
    from rheos.guidance import Mask, project

    field, seen = ExactField(LINEAR, skewed()), torch.tensor([[0.5, 0.0], [-1.0, 0.0], [2.0, 0.0]], dtype=F64)
    edit, times = project(Mask(torch.tensor([True, False])), seen), Times.uniform(LINEAR, 12, start=0.0, end=0.95)
    whole = sample_pair(field, start=START, times=times, edit=edit)
    split = sample_pair(field, start=START, times=times, edit=edit, batch=2)
    torch.testing.assert_close(split.x, whole.x, rtol=0, atol=1e-12)
    torch.testing.assert_close(invert(field, split, edit=edit, batch=2).x, START, rtol=0, atol=1e-9)


def test_a_field_that_moves_samples_has_no_exact_inverse():
    from rheos.samplers import AdaptiveRungeKutta, Reference, TimeShift

    shifted = TimeShift(ExactField(PATH, digits_mixture()), data_variance=0.5)
    start = PATH.prior((8, 16), dtype=F64)
    for tried in (lambda: sample_pair(shifted, start=start), lambda: sample(shifted, start=start, rule=AdaptiveRungeKutta()),
                  lambda: Reference.of(shifted, start, fine=10)):
        with pytest.raises(ValueError, match="cannot follow a TimeShift"):
            tried()
