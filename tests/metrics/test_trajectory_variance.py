"""The variance of predictions against one kept list, over rules, batches and tables; windows; refusals."""
import math

import pytest
import torch

from rheos.core import evolve
from rheos.data import skewed
from rheos.metrics import TrajectoryVariance
from rheos.paths import LAM, ExactField, Field, Path, Times
from rheos.samplers import DDIM, DDPM, DEIS, AdamsBashforth, AdaptiveRungeKutta, DPMSolverPP, Multistep, RungeKutta, UniPC, dynamic_threshold, sample
from rheos.samplers.tables import planned

F64 = torch.float64
FIELD = ExactField(Path.vp(), skewed())


class Kept:
    """All predictions of a run, which is what the watched sum stands for."""

    kind = "data"

    def __init__(self):
        self.seen: list[tuple[float, torch.Tensor]] = []

    def __call__(self, data, x, t):
        self.seen.append((t, data.clone()))
        return data

    def variance(self, begin: float, end: float = 1.0) -> torch.Tensor:
        inside = torch.stack([data for t, data in self.seen if begin <= t <= end])
        return inside.var(0, correction=0).flatten(1).mean(1)


@pytest.mark.parametrize("rule", [None, DDIM(), DDPM(), DEIS(3), DPMSolverPP(3), UniPC(), RungeKutta(2), AdamsBashforth(2)], ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("batch", [None, 5])
def test_the_same_as_a_kept_list_for_every_rule(rule, batch, seed):
    kept, look = Kept(), TrajectoryVariance(0.6, 0.95)
    draw = lambda edit, batch=None: sample(FIELD, 13, rule=rule, steps=15, seed=seed, edit=edit, batch=batch)
    plain = draw(None)
    draw(kept)
    # It looks and changes nothing, but for the rounding of reading a velocity as data and back.
    torch.testing.assert_close(draw(look, batch), plain, atol=1e-9, rtol=1e-9)
    truth = kept.variance(0.6, 0.95)
    assert look.variance.shape == (13,) and look.count == sum(0.6 <= t <= 0.95 for t, _ in kept.seen)
    torch.testing.assert_close(look.variance, truth, atol=1e-12, rtol=1e-8)


def test_tables_and_plain_runs():
    table = planned(DDIM(), Times.uniform(Path.vp(), 12, LAM))
    kept, look = Kept(), TrajectoryVariance(0.3)
    x = Path.vp().prior((4, 2), seed=1, dtype=F64)
    sample(FIELD, start=x, rule=table, edit=kept)
    run = Multistep(FIELD, table, edit=look)
    evolve(run, run.init(x), table.nfe)
    torch.testing.assert_close(look.variance, kept.variance(0.3), atol=1e-12, rtol=1e-9)


def test_last_calls_are_the_last_calls():
    times = Times.uniform(Path.vp(), 20, LAM)
    kept, look = Kept(), TrajectoryVariance.last(times.t, 6)
    for edit in (kept, look):
        sample(FIELD, 3, rule=DDIM(), times=times, edit=edit, seed=2)
    truth = torch.stack([data for _, data in kept.seen[-6:]]).var(0, correction=0).mean(1)
    assert look.count == 6
    by_times = TrajectoryVariance.last(times, 6)
    assert (by_times.begin, by_times.end) == (look.begin, look.end)
    torch.testing.assert_close(look.variance, truth, atol=1e-12, rtol=1e-9)


def test_the_clean_prediction_and_not_the_point():
    """Under a field whose data prediction stands still, x moves all the way and the variance is 0."""
    still = Field(lambda x, t, cond: torch.full_like(x, 0.7), Path.linear(), "data")
    look = TrajectoryVariance(0.1)
    x = sample(still, 5, shape=(2,), rule=DDIM(), times=Times.uniform(Path.linear(), 9, end=0.99), edit=look)
    assert float((x - 0.7).abs().max()) < 0.05 and float(look.variance.max()) < 1e-14


def test_large_means_lose_no_digits():
    """A sum of squares less the square of a sum would be 0 or negative here."""
    look, values = TrajectoryVariance(0.0), torch.tensor([[1e8, -1e8], [1e8 + 1, -1e8 + 3], [1e8 + 2, -1e8]], dtype=F64)
    for k, value in enumerate(values):
        look(value[None], value[None], k / 10)
    assert abs(float(look.variance) - (2 / 3 + 2) / 2) < 1e-9


def test_looks_before_another_edit_and_windows_side_by_side():
    """What a threshold hides is seen; the samples are the threshold's; two windows in one run are two runs' windows."""
    clip = dynamic_threshold(-0.2, 0.2)
    draw = lambda edit: sample(FIELD, 7, rule=DDIM(), steps=10, seed=3, edit=edit, batch=4)
    inner = TrajectoryVariance(0.8, edit=clip)
    both = TrajectoryVariance(0.5, edit=inner)
    assert torch.equal(draw(both), draw(clip)) and not torch.equal(draw(both), draw(None))
    alone = TrajectoryVariance(0.5, edit=clip)
    draw(alone)
    assert torch.equal(alone.variance, both.variance)
    single = TrajectoryVariance(0.8, edit=clip)
    draw(single)
    draw(both)
    assert torch.equal(inner.variance, single.variance) and not torch.equal(inner.variance, alone.variance)
    unclipped = TrajectoryVariance(0.8)
    draw(unclipped)
    assert float((unclipped.variance - single.variance).abs().max()) > 0


def test_a_second_run_begins_anew():
    look, fresh = TrajectoryVariance(0.5), TrajectoryVariance(0.5)
    sample(FIELD, 9, steps=8, edit=look, seed=1, batch=2)
    sample(FIELD, 4, steps=8, edit=look, seed=2, batch=3)
    sample(FIELD, 4, steps=8, edit=fresh, seed=2)
    torch.testing.assert_close(look.variance, fresh.variance, atol=1e-13, rtol=1e-10)


def ran(look: TrajectoryVariance, **settings) -> TrajectoryVariance:
    sample(FIELD, 3, edit=look, **settings)
    return look


ROWS = torch.zeros(3, 2)
TIMES = Times.uniform(Path.linear(), 5).t


@pytest.mark.parametrize(("call", "error", "told"), [
    (lambda: TrajectoryVariance(-0.1), ValueError, "begin must lie in"),
    (lambda: TrajectoryVariance(0.5, 1.2), ValueError, "end must lie in"),
    (lambda: TrajectoryVariance(0.9, 0.1), ValueError, r"end must lie after begin = 0.9 \(time runs to the data, at 1\), got 0.1"),
    (lambda: TrajectoryVariance(math.nan), ValueError, "begin must lie in"),
    (lambda: TrajectoryVariance("late"), TypeError, "begin"),
    (lambda: TrajectoryVariance(edit=3), TypeError, "edit"),
    (lambda: TrajectoryVariance(edit=lambda data, x, t: data), ValueError, "edit must say that it acts on the data prediction"),
    (lambda: TrajectoryVariance().variance, ValueError, r"at least 2 predictions of a run between them, got 0 in \[0.9, 1\]"),
    (lambda: ran(TrajectoryVariance(0.9999), steps=5).variance, ValueError, "at least 2 predictions"),
    (lambda: TrajectoryVariance.last(TIMES, 6), ValueError, "count must be at most the 5 calls"),
    (lambda: TrajectoryVariance.last([0.0, 0.5, 1.0], 2), TypeError, "times"),
    (lambda: TrajectoryVariance.last(TIMES, 1), ValueError, "count must be at least 2"),
    (lambda: TrajectoryVariance.last(TIMES.flip(0), 2), ValueError, "times must run from noise to data"),
    (lambda: ran(TrajectoryVariance(0.0), rule=AdaptiveRungeKutta()), ValueError, "t must be one number for all samples"),
])
def test_refusals(call, error, told):
    with pytest.raises(error, match=told):
        call()


def test_rows_that_change_during_a_run_are_refused():
    look = TrajectoryVariance(0.0)
    look(ROWS, ROWS, 0.5)
    with pytest.raises(ValueError, match=r"data must keep their shape \(3, 2\) during a run, got \(2, 2\)"):
        look(ROWS[:2], ROWS[:2], 0.6)
