"""Model statistics and the rule that uses them: the two old kinds, exactness on a Gaussian, a hand-written loop, files, refusals."""
import math

import pytest
import torch

from rheos.core import Draws
from rheos.data import GaussianMixture, digits_mixture, skewed
from rheos.guidance import classifier_free
from rheos.paths import LAM, SQRT_U, ExactField, Field, Path, T, Times, U
from rheos.samplers import Exponential, UniPC, sample
from rheos.samplers.model_statistics import EMS, ModelStatistics, diagonal, model_statistics
from rheos.samplers.tables import Table
from rheos.testing.rules import RULE_LINES, flowed, rule_paths

F64 = torch.float64
MEAN, SPREAD = torch.tensor([0.7, -1.2], dtype=F64), torch.tensor([0.3, 1.7], dtype=F64)
GAUSSIAN = GaussianMixture(torch.ones(1, dtype=F64), MEAN[None], SPREAD[None])
START = torch.tensor([[1.0, -0.5], [-2.0, 0.3], [0.1, 2.2]], dtype=F64)


def closed(low=-6.9, high=6.9, points=240):
    return ModelStatistics.gaussian(MEAN, SPREAD, low, high, points)


# -- closed forms ------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["linear", "cosine", "vp", "ve", "edm", "betas"])
def test_one_step_is_exact_on_a_gaussian(name):
    """There f = -l m does not depend on x, so that the statistics know the whole flow: one call, from noise to data."""
    path = rule_paths()[name]
    for rule in (EMS(closed(), 1, 0), EMS(closed(), 3, 0, U)):
        times = rule.times(path, 1)
        start = START * float(times.sigma[0])
        end = sample(ExactField(path, GAUSSIAN), start=start, rule=rule, times=times)
        torch.testing.assert_close(end, flowed(path, start, float(times.t[0]), float(times.t[-1])), rtol=1e-5, atol=1e-5)


def test_the_end_without_noise_is_reached_exactly_too():
    """The linear path from no data at all to no noise at all, in one step; DDIM would arrive at the mean. Beyond lam = 6.9 l is taken as 0: it is 3e-6."""
    path = Path.linear()
    end = sample(ExactField(path, GAUSSIAN), start=START, rule=EMS(closed(), 1, 0), times=Times(path, [0.0, 1.0]))
    torch.testing.assert_close(end, MEAN + START * SPREAD.sqrt(), rtol=5e-5, atol=5e-5)


@pytest.mark.parametrize("name", ["vp", "linear", "edm"])
def test_measured_statistics_of_a_gaussian_are_the_closed_ones(name, seed):
    path = rule_paths()[name]
    found = model_statistics(ExactField(path, GAUSSIAN), GAUSSIAN.sample(16, seed=seed), 80, seed=seed)
    known = closed(float(found.lam[0]), float(found.lam[-1]), 80)
    torch.testing.assert_close(found.l, known.l, rtol=0, atol=1e-7)
    torch.testing.assert_close(found.b[3:-3], known.b[3:-3], rtol=0, atol=1e-4)
    assert float(found.s.abs().max()) < 1e-4


def test_statistics_of_a_full_gaussian_against_its_matrices(seed):
    """D = m + alpha V S^-1 (x - alpha m), S = alpha^2 V + sigma^2, known without the field: l is the diagonal, s and b the regression of moments."""
    turn = torch.tensor([[0.8, -0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]], dtype=F64)
    full = turn @ torch.diag(torch.tensor([0.2, 2.0, 0.7], dtype=F64)) @ turn.T
    mean = torch.tensor([0.5, -0.3, 0.1], dtype=F64)
    field = ExactField(Path.vp(), GaussianMixture(torch.ones(1, dtype=F64), mean[None], full[None]))
    rows = 1500
    found = model_statistics(field, field.target.sample(rows, seed=seed), 32, span=(-2.0, 2.0), seed=seed)
    lam = found.lam
    ratio = torch.exp(lam)                                  # alpha / sigma; all is a function of it
    inverse = torch.linalg.inv(ratio[:, None, None] ** 2 * full + torch.eye(3, dtype=F64))
    torch.testing.assert_close(found.l, inverse.diagonal(dim1=1, dim2=2), rtol=1e-9, atol=1e-9)
    # f = M (x - alpha m) / alpha - l m, M = inverse - diag l: its law by matrices, its derivative along the flow by differences of M and l.
    l, m = found.l, inverse - torch.diag_embed(found.l)
    law = full + torch.diag_embed(torch.ones(3, dtype=F64)) / ratio[:, None, None] ** 2
    speed = lambda v: torch.stack([(v[k + 1] - v[k - 1]) / (lam[k + 1] - lam[k - 1]) for k in range(1, 31)])
    # (x / alpha - m)' = -inverse (x - alpha m) / alpha along the flow.
    moved = speed(m) - m[1:-1] @ inverse[1:-1]
    spread = (m @ law @ m.mT).diagonal(dim1=1, dim2=2)[1:-1]
    together = (m[1:-1] @ law[1:-1] @ moved.mT).diagonal(dim1=1, dim2=2)
    coupled = spread > 1e-4                                 # the third coordinate is independent: nothing to regress on
    expected = (together / spread)[coupled]
    assert bool(coupled[:, :2].all()) and not bool(coupled[:, 2].any())
    torch.testing.assert_close(found.s[1:-1][coupled], expected, rtol=0.05, atol=0.12)
    drift = -speed(l) * mean + found.s[1:-1] * l[1:-1] * mean       # E f' - s E f, E f = -l m
    assert float((found.b[1:-1] - drift).abs().max()) < 0.15


def test_the_diagonal_by_signs_is_the_exact_one(seed):
    """On a map with 100 coordinates, more than are done one by one; mean over 400 rows, five standard errors."""
    from rheos.core import Draws

    matrix = Draws(7).rows("matrix", 0, (100, 100), dtype=F64) / 10 + 3 * torch.diag(torch.linspace(-1, 1, 100, dtype=F64))
    x = torch.zeros(400, 10, 10, dtype=F64, requires_grad=True)
    found = diagonal((x.flatten(1) @ matrix.T).reshape(x.shape), x, 3, Draws(seed)).mean(0).flatten()
    off = (matrix - torch.diag(matrix.diagonal())).square().sum(0).sqrt()
    assert bool(((found - matrix.diagonal()).abs() < 5 * off / math.sqrt(1200)).all())
    small = torch.zeros(3, 4, dtype=F64, requires_grad=True)
    torch.testing.assert_close(diagonal(small @ matrix[:4, :4].T, small, 1, Draws(0)), matrix.diagonal()[:4].expand(3, 4))


# -- limits and equalities -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("clock", [LAM, U], ids=["lam", "u"])
@pytest.mark.parametrize("order, corrector", [(1, 0), (2, 0), (3, 3), (2, 1)])
def test_constant_numbers_are_the_two_old_kinds(order, corrector, clock):
    path = Path.vp()
    times, field = Times.uniform(path, 6, T, start=0.05, end=0.97), ExactField(path, skewed())
    for numbers, kind in (({"l": 1.0}, "data"), ({"l": 0.0, "s": -1.0}, "noise")):
        mine = sample(field, start=START, rule=EMS(ModelStatistics.constant(-6, 6, **numbers), order, corrector, clock), times=times)
        torch.testing.assert_close(mine, sample(field, start=START, rule=Exponential(order, kind, clock, corrector), times=times), rtol=1e-11, atol=1e-11)


def test_a_run_through_history_is_a_hand_written_loop():
    """Order 2 without corrector, statistics that are constants of their own: g and its line by their definitions, integrals by a fine sum."""
    l, s, b = 0.4, -0.7, 0.3
    path = Path.vp()
    times, field = Times.uniform(path, 5, T, start=0.1, end=0.9), ExactField(path, skewed())
    mine = sample(field, start=START, rule=EMS(ModelStatistics.constant(-6, 6, l=l, s=s, b=b), 2, 0, lower_at_end=False), times=times)
    x, seen, lam = START, [], times.lam.tolist()
    for i in range(5):
        at, then = times.each[i], times.each[i + 1]
        f = (at.c * field.noise(x, float(times.t[i])) - l * x) / at.b
        seen.insert(0, f)
        h = lam[i + 1] - lam[i]
        offset = lambda d: b * (1 - math.exp(-s * d)) / s                        # B at lam_i + d
        g = [math.exp(-s * (lam[i - j] - lam[i])) * v - offset(lam[i - j] - lam[i]) for j, v in enumerate(seen[:2])]
        total, pieces = torch.zeros_like(x), 4000
        for k in range(pieces):
            d = (k + 0.5) * h / pieces
            line = g[0] if len(g) == 1 else g[0] + (g[0] - g[1]) * d / (lam[i] - lam[i - 1])
            total += math.exp((l + s) * d) * (line + offset(d)) * (h / pieces)
        x = then.b * math.exp(-l * h) * (x / at.b - total)
    torch.testing.assert_close(mine, x, rtol=1e-6, atol=1e-6)


def test_it_does_not_matter_on_which_path_statistics_were_measured(seed):
    """They depend on lam alone."""
    data = skewed().sample(200, seed=seed)
    found = [model_statistics(ExactField(path, skewed()), data, 20, span=(-3.0, 3.0), seed=seed) for path in (Path.vp(), Path.linear(), Path.edm())]
    for other in found[1:]:
        for name in "lsb":
            torch.testing.assert_close(getattr(other, name), getattr(found[0], name), rtol=1e-4, atol=1e-4)


def test_batches_do_not_change_the_statistics(seed):
    field, data = ExactField(Path.vp(), skewed()), skewed().sample(50, seed=seed)
    whole, parts = (model_statistics(field, data, 16, batch=batch) for batch in (50, 7))
    torch.testing.assert_close(whole.b, parts.b, rtol=1e-9, atol=1e-9)


def test_integrals_are_those_of_the_curves():
    statistics = closed(-3.0, 4.0, 30)
    lam = torch.linspace(-3.5, 4.5, 20001, dtype=F64).numpy()
    l, s, _, big_l, big_s = statistics.at(lam)
    step = lam[1] - lam[0]
    for curve, total in ((l, big_l), (s, big_s)):
        torch.testing.assert_close(torch.from_numpy(total[1:] - total[:-1]), torch.from_numpy((curve[1:] + curve[:-1]) / 2 * step), rtol=0, atol=5e-4 * step + 5e-4)
        torch.testing.assert_close(float(total[-1, 0] - total[0, 0]), float(((curve[1:, 0] + curve[:-1, 0]) / 2 * step).sum()), rtol=1e-3, atol=1e-3)
    assert float(abs(statistics.at(lam[:1])[0] - 1).max()) == 0 and float(abs(statistics.at(lam[-1:])[1] + 1).max()) == 0


def test_reduced_and_measured_with_one_number(seed):
    field, data = ExactField(Path.vp(), digits_mixture(None)), digits_mixture(None).sample(6, seed=seed)
    shapes = {reduce: model_statistics(field, data, 16, reduce=reduce, seed=seed) for reduce in ("coordinate", "channel", "one")}
    assert [one.shape for one in shapes.values()] == [(1, 8, 8), (1, 1, 1), ()]
    torch.testing.assert_close(shapes["coordinate"].reduced("one").l, shapes["one"].l, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(shapes["coordinate"].reduced("channel").l, shapes["channel"].l, rtol=1e-6, atol=1e-9)
    table = EMS(shapes["one"], 2).plan(EMS(shapes["one"], 2).times(field.path, 4))
    assert table.event is None                      # plain numbers: such a table fits any event


# -- what it is for --------------------------------------------------------------------------------------------------------------

def test_it_errs_less_than_unipc_on_the_guided_digits(seed):
    field = classifier_free(ExactField(Path.vp(), digits_mixture()), 4.0)
    law, start = digits_mixture().given(3), field.path.prior((48, 16), seed=seed, dtype=F64)
    truth = sample(field, start=start, rule=Exponential(3, "data", LAM, 3), times=Times.uniform(field.path, 80, LAM), cond=3)
    statistics = model_statistics(field, law.sample(128, seed=seed), 40, cond=3, seed=seed)
    error = lambda rule: float((sample(field, start=start, rule=rule, times=Times.uniform(field.path, 8, LAM), cond=3) - truth).square().mean(1).sqrt().median())
    assert error(EMS(statistics, 2)) < 0.6 * error(UniPC(2))


@pytest.mark.parametrize("line", RULE_LINES, ids=lambda line: line.name.replace(" ", "_"))
@pytest.mark.parametrize("number", range(3))
def test_conformance(number, line):
    """With statistics that are not the field's own: with those it would be exact at once, and no order could be seen."""
    line.check(lambda: EMS.examples()[number])


# -- files -------------------------------------------------------------------------------------------------------------------------

def test_files_and_tables_come_back_to_the_bit(tmp_path):
    statistics = closed(points=20)
    again = ModelStatistics.load(statistics.save(tmp_path / "statistics.safetensors"))
    assert all(torch.equal(getattr(again, name), getattr(statistics, name)) for name in ("lam", "l", "s", "b"))
    table = EMS(statistics, 2).plan(EMS(statistics, 2).times(Path.vp(), 3))
    assert table.event == (2,) and all(isinstance(row.c, torch.Tensor) for row in table.predict)
    back = Table.from_json(table.to_json())
    field = ExactField(Path.vp(), GAUSSIAN)
    assert torch.equal(sample(field, start=START, rule=back), sample(field, start=START, rule=table))


def test_times_reach_as_far_as_path_and_statistics():
    assert EMS(closed(-3.0, 2.0)).times(Path.vp(), 4).lam[[0, -1]].tolist() == pytest.approx([-3.0, 2.0], abs=1e-9)
    assert EMS(closed(-3.0, 2.0), 2, 1, U, spacing=SQRT_U).times(Path.linear(), 4).t[[0, -1]].tolist() == [0.0, 1.0]
    assert EMS(closed()).times(Path.linear(), 4).t[[0, -1]].tolist() == pytest.approx([1.0077e-3, 1 - 1.0077e-3], rel=1e-3)


# -- refusals ----------------------------------------------------------------------------------------------------------------------

VP, FIELD = Path.vp(), ExactField(Path.vp(), GAUSSIAN)
DATA = GAUSSIAN.sample(8, seed=0)
REFUSALS = [
    (lambda: EMS(closed(-2.0, 2.0)).plan(Times(VP, [0.1, 0.5])), "times must begin and end inside the statistics, lam from -2 to 2, got lam = -4"),
    (lambda: EMS(closed(-2.0, 2.0)).plan(Times(VP, [0.6, 0.99])), "times must begin and end inside the statistics"),
    (lambda: EMS(closed()).plan(Times(Path.linear(), [0.0, 0.5, 1.0])), "clock lam is infinite at t = 0 of this path"),
    (lambda: EMS(closed(), 1, 0).plan(Times(Path.linear(), [1.0, 0.5])), "cannot carry on from a time without noise"),
    (lambda: EMS(closed(), 3, 0).plan(Times.from_lam(VP, [0.0, 0.001, 0.002, 3.0, 4.0])), "step 3 is so much longer"),
    (lambda: EMS(closed()).plan(Times.uniform(Path.interpolant(), 3)), "one-sided path"),
    (lambda: EMS("numbers"), "statistics"),
    (lambda: EMS(closed(), 0), "order must be at least 1, got 0"),
    (lambda: EMS(closed(), 2, -1), "corrector must be at least 0, got -1"),
    (lambda: EMS(closed(), clock="lam"), "clock"),
    (lambda: ModelStatistics(torch.tensor([0.0, 1.0]), *(torch.zeros(2) for _ in range(3))), "lam must rise and have at least 3 entries, got 2"),
    (lambda: ModelStatistics(torch.tensor([2.0, 1.0, 0.0]), *(torch.zeros(3) for _ in range(3))), "lam must rise"),
    (lambda: ModelStatistics(torch.arange(3.0), torch.zeros(3, 2), torch.zeros(3, 2), torch.zeros(3, 1)), r"b must have shape \(3, 2\), got \(3, 1\)"),
    (lambda: ModelStatistics(torch.arange(3.0), torch.full((3,), math.nan), torch.zeros(3), torch.zeros(3)), "l must be finite"),
    (lambda: model_statistics(FIELD, DATA, 8), "points must be at least 16, got 8"),
    (lambda: model_statistics(FIELD, DATA[:1], 16), "data must hold at least 2 rows, got 1"),
    (lambda: model_statistics(FIELD, DATA, 16, probes=0), "probes must be at least 1, got 0"),
    (lambda: model_statistics(FIELD, DATA, 16, batch=0), "batch must be at least 1, got 0"),
    (lambda: model_statistics(FIELD, DATA, 16, span=(-9.0, 1.0)), "span must rise inside this path's lam, from -5"),
    (lambda: model_statistics(FIELD, DATA, 16, span=(1.0, -1.0)), "span must rise"),
    (lambda: model_statistics(FIELD, DATA, 16, reduce="pixel"), "reduce must be one of coordinate, channel, one"),
    (lambda: model_statistics(FIELD, DATA, 16, reduce="channel"), "reduce = channel needs events with a channel axis"),
    (lambda: model_statistics(FIELD, DATA * math.inf, 16), "data must be finite"),
    (lambda: model_statistics(classifier_free(FIELD, 2.0), DATA, 16), "guidance needs a condition"),
    (lambda: model_statistics(Field(lambda x, t, cond: -x, Path.interpolant("none")), DATA, 16), "one-sided paths only"),
    (lambda: model_statistics(FIELD, DATA, 16, cond=torch.zeros(3)), "cond must have 8 rows"),
]


@pytest.mark.parametrize("number", range(len(REFUSALS)))
def test_refusals(number):
    call, message = REFUSALS[number]
    with pytest.raises((ValueError, TypeError), match=message):
        call()


def test_a_file_of_something_else_is_refused(tmp_path):
    from rheos.core.files import save_tensors

    with pytest.raises(ValueError, match="does not hold model statistics"):
        ModelStatistics.load(save_tensors(tmp_path / "other.safetensors", {"l": torch.zeros(2)}))
    with pytest.raises(FileNotFoundError):
        ModelStatistics.load(tmp_path / "nothing.safetensors")


def test_batches_do_not_change_random_probes():
    """Above 64 coordinates the diagonal is met by random signs, which belong to rows, not to batches."""
    path = Path.vp()
    class Net(torch.nn.Linear):
        def forward(self, x, t, cond=None):
            return torch.tanh(super().forward(x))

    with Draws(3).scope(0):
        field = Field(Net(70, 70).double().requires_grad_(False), path, "noise")
    data = Draws(5).rows("data", 0, (9, 70), dtype=torch.float64)
    whole, split = (model_statistics(field, data, 16, batch=size) for size in (9, 4))
    for name in ("l", "s", "b"):
        torch.testing.assert_close(getattr(split, name), getattr(whole, name), rtol=1e-9, atol=1e-9)
