"""Stream batches against runs of one request each; LCM's rule; the similarity filter's law; refusals."""
import math

import pytest
import torch

from rheos.core import Draws, NonFinite, load_state, save_state
from rheos.data import GaussianMixture
from rheos.guidance import classifier_free
from rheos.guidance.residual import ResidualCFG
from rheos.nets import ResidualMLP, UNet
from rheos.paths import ExactField, Field, Path, T, Times
from rheos.samplers import DDIM, DDPM, DEIS, AdamsBashforth, DPMSolverPP, Euler, EulerMaruyama, Exponential, RungeKutta, UniPC, sample
from rheos.samplers.consistency import LCM
from rheos.samplers.similarity import SimilarityFilter, skip_probability
from rheos.samplers.stream import StreamBatch, StreamState
from rheos.samplers.tables import planned

F64 = torch.float64
MIXTURE = GaussianMixture(torch.tensor([0.7, 0.3], dtype=F64), torch.tensor([[1.0, -2.0, 0.3], [-1.5, 0.5, 0.9]], dtype=F64),
                          torch.tensor([0.2, 0.4], dtype=F64), labels=torch.tensor([0, 1]))
RULES = [LCM(), LCM(0.1), DDIM(), DDIM(kind="noise"), DDPM(), DDPM(eta=0.4), Euler(), EulerMaruyama(0.5), Exponential(1, "data", tau=0.5)]
VP = Times(Path.vp(), [0.35, 0.55, 0.7, 0.9, 0.99])
LINEAR = Times(Path.linear(), [0.3, 0.5, 0.65, 0.9, 0.97])
STARTS = Draws(7).rows("starts", 0, (6, 3), dtype=F64)


def streamed(stream, starts, cond=None):
    out = [stream.push(x, None if cond is None else cond[i]) for i, x in enumerate(starts)]
    assert all(x is None for x in out[: stream.levels - 1]) and all(x is not None for x in out[stream.levels - 1 :])
    return torch.stack([*(x for x in out if x is not None), *stream.drain()])


# -- equalities --------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("times", [VP, LINEAR], ids=["vp", "linear"])
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{type(rule).__name__}-{RULES.index(rule)}")
def test_every_request_gets_the_numbers_of_its_own_run(rule, times, seed):
    field = ExactField(times.path, MIXTURE)
    found = streamed(StreamBatch(field, times, rule, seed=seed), STARTS)
    alone = torch.cat([sample(field, start=STARTS[i : i + 1], times=times, rule=rule, seed=seed, first=i) for i in range(6)])
    torch.testing.assert_close(found, alone, rtol=1e-12, atol=1e-12)
    together = sample(field, start=STARTS, times=times, rule=rule, seed=seed)
    torch.testing.assert_close(found, together, rtol=1e-12, atol=1e-12)


def net(kind, classes=None):
    with Draws(0).scope(0):
        made = ResidualMLP((1, 6, 6), width=24, depth=2, classes=classes) if kind == "mlp" else UNet((1, 8, 8), widths=(16, 32), depth=1, classes=classes)
        for parameter in made.parameters():             # last layers begin at zero, and such a network answers nothing
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.05)
    return made


@pytest.mark.parametrize("rule", [LCM(), DDIM(), DDPM(eta=0.7)], ids=["lcm", "ddim", "ddpm"])
@pytest.mark.parametrize("kind", ["mlp", "unet"])
def test_networks_in_float32(kind, rule):
    """Matrices of other sizes may round otherwise; beyond that nothing differs."""
    field = Field(net(kind, 3), Path.linear(), "velocity")
    starts, labels = Draws(1).rows("starts", 0, (7, *field.event)), torch.tensor([2, 0, 1, 1, 0, 2, 2])
    found = streamed(StreamBatch(field, LINEAR, rule, seed=5), starts, labels)
    alone = torch.cat([sample(field, start=starts[i : i + 1], times=LINEAR, rule=rule, cond=labels[i : i + 1], seed=5, first=i) for i in range(7)])
    torch.testing.assert_close(found, alone, rtol=0, atol=2e-6)
    assert float((found - starts).abs().mean()) > 0.1


def test_an_elementwise_network_gives_the_same_bits():
    """Where the batch does not change the network's rounding, nothing else changes a bit."""
    field = Field(lambda x, t, cond: torch.sin(3 * x) - t[:, None] * x, Path.linear(), "velocity")
    starts = Draws(2).rows("starts", 0, (9, 5))
    for rule in RULES:
        found = streamed(StreamBatch(field, LINEAR, rule, seed=3), starts)
        assert torch.equal(found, sample(field, start=starts, times=LINEAR, rule=rule, seed=3))


@pytest.mark.parametrize("make", [lambda f: classifier_free(f, 2.5), lambda f: f], ids=["guided", "plain"])
def test_conditions_and_guidance_stay_with_their_requests(make):
    labels, field = torch.tensor([1, 0, 0, 1, 1, 0]), make(ExactField(Path.vp(), MIXTURE))
    found = streamed(StreamBatch(field, VP, DDPM(), seed=2), STARTS, labels)
    torch.testing.assert_close(found, sample(field, start=STARTS, times=VP, rule=DDPM(), cond=labels, seed=2), rtol=1e-9, atol=1e-9)


def test_anchors_travel_with_their_requests():
    inner, labels = ExactField(Path.vp(), MIXTURE), torch.tensor([1, 0, 0, 1, 1, 0])
    guided = ResidualCFG(inner, 1.4)
    cond = guided.onetime_negative(labels, STARTS, float(VP.t[0]))
    stream = StreamBatch(guided, VP, DDIM())
    out = [stream.push(x, {"cond": labels[i], "anchor": cond["anchor"][i]}) for i, x in enumerate(STARTS)]
    found = torch.stack([*(x for x in out if x is not None), *stream.drain()])
    torch.testing.assert_close(found, sample(guided, start=STARTS, times=VP, rule=DDIM(), cond=cond), rtol=1e-9, atol=1e-9)


def test_one_call_a_tick():
    field = ExactField(Path.vp(), MIXTURE)
    stream = StreamBatch(field, VP, LCM())
    for x in STARTS:
        stream.push(x)
    assert field.nfe == 6
    list(stream.drain())
    assert field.nfe == 9 and stream.tick() is None and field.nfe == 9


def test_requests_may_pause():
    """A tick without a request carries the others on, and the next ones are none the worse."""
    field = ExactField(Path.vp(), MIXTURE)
    stream, out = StreamBatch(field, VP, DDPM(), seed=4), []
    for i, x in enumerate(STARTS):
        out.append(stream.push(x))
        if i in (1, 2):
            out.append(stream.tick())
    found = torch.stack([*(x for x in out if x is not None), *stream.drain()])
    torch.testing.assert_close(found, sample(field, start=STARTS, times=VP, rule=DDPM(), seed=4), rtol=1e-12, atol=1e-12)


def test_frames_are_noised_by_the_path():
    field = ExactField(Path.vp(), MIXTURE)
    stream = StreamBatch(field, VP, DDIM(), seed=9)
    found = [stream(x) for x in STARTS]
    z = Draws(9).rows("stream start", 0, (6, 3), dtype=F64)
    starts = Path.vp().sample(STARTS, VP.t[:1].expand(6), z=z).x
    truth = sample(field, start=starts, times=VP, rule=DDIM())
    torch.testing.assert_close(torch.stack(found[3:]), truth[:3], rtol=1e-12, atol=1e-12)


def test_frozen_noise_keeps_a_still_video_still():
    stream = StreamBatch(ExactField(Path.vp(), MIXTURE), VP, LCM(), seed=1, frozen=True)
    frames = [x for x in (stream(STARTS[0]) for _ in range(8)) if x is not None]
    assert len(frames) == 5 and all(torch.equal(x, frames[0]) for x in frames)
    moving = StreamBatch(ExactField(Path.vp(), MIXTURE), VP, LCM(), seed=1)
    frames = [x for x in (moving(STARTS[0]) for _ in range(8)) if x is not None]
    assert float((frames[0] - frames[1]).abs().max()) > 1e-3


def test_a_saved_state_goes_on(tmp_path):
    field, labels = ExactField(Path.vp(), MIXTURE), torch.tensor([1, 0, 0, 1, 1, 0])
    stream, other = (StreamBatch(field, VP, DDPM(), seed=6) for _ in range(2))
    whole = streamed(StreamBatch(field, VP, DDPM(), seed=6), STARTS, labels)
    for i in range(3):
        stream.push(STARTS[i], labels[i])
    other.state = load_state(save_state(tmp_path / "stream.safetensors", stream.state), StreamState())
    out = [other.push(STARTS[i], labels[i]) for i in (3, 4, 5)]
    assert torch.equal(torch.stack([*out, *other.drain()]), whole)
    stream.reset()
    assert stream.state == StreamState()


# -- errors ------------------------------------------------------------------------------------------------------------------

class Flaky:
    """x' by the condition of each row; calls listed in `broken` fail, and rows of condition -7 are not numbers after time `astray`."""

    def __init__(self, broken=(), astray=0.4):
        self.calls, self.broken, self.astray = 0, broken, astray

    def __call__(self, x, t, cond):
        self.calls += 1
        if self.calls - 1 in self.broken:
            raise ConnectionError("no answer")
        answer = torch.sin(3 * x) - (t + cond)[:, None] * x
        return torch.where(((cond == -7) & (t > self.astray))[:, None], torch.nan, answer)


CONDS = torch.tensor([0.3, -1.2, 0.8, 0.1, 1.9, -0.4], dtype=F64)


@pytest.mark.parametrize("rule", [DDIM(), DDPM(), LCM()], ids=["ddim", "ddpm", "lcm"])
def test_after_an_error_all_goes_on_as_if_it_had_not_been(rule):
    """The network fails at the first push, in the middle, at an arrival and while draining; requests that cannot join are tried in between."""
    whole = sample(Field(Flaky(), Path.linear(), "velocity"), start=STARTS, times=LINEAR, rule=rule, cond=CONDS, seed=4)
    stream = StreamBatch(Field(Flaky(broken=(0, 3, 4, 7, 10)), Path.linear(), "velocity"), LINEAR, rule, seed=4)
    out, failed = [], 0
    for x, cond in zip(STARTS, CONDS, strict=True):
        if stream.state.levels:
            for bad in (lambda x=x: stream.push(x, {"other": torch.ones(())}), lambda x=x: stream.push(x), lambda x=x: stream.push(x * math.nan, CONDS[0])):
                before = stream.state
                with pytest.raises(ValueError, match="cond must be like|start must be finite"):
                    bad()
                assert stream.state is before
        while True:
            before = stream.state
            try:
                out.append(stream.push(x, cond))
                break
            except ConnectionError:
                failed += 1
                assert stream.state is before
    with pytest.raises(ConnectionError):
        out.extend(stream.drain())
    out.extend(stream.drain())
    assert failed == 4 and stream.state.taken == 6
    torch.testing.assert_close(torch.stack([x for x in out if x is not None]), whole, rtol=1e-12, atol=1e-12)


def test_a_condition_that_the_network_refuses_does_not_join():
    field, labels = Field(net("mlp", 3), Path.linear(), "velocity"), torch.tensor([2, 0, 1, 1, 0, 2])
    starts = Draws(1).rows("starts", 0, (6, 1, 6, 6))
    stream = StreamBatch(field, LINEAR, DDPM(), seed=5)
    out = []
    for x, label in zip(starts, labels, strict=True):
        with pytest.raises((IndexError, ValueError)):
            stream.push(x, torch.tensor(17))
        out.append(stream.push(x, label))
    found = torch.stack([*(x for x in out if x is not None), *stream.drain()])
    torch.testing.assert_close(found, sample(field, start=starts, times=LINEAR, rule=DDPM(), cond=labels, seed=5), rtol=0, atol=2e-6)


@pytest.mark.parametrize(("lost", "astray", "kept", "levels"), [(2, 0.4, [0, 1], [3, 2]), (1, 0.6, [0, 2], [3, 1])], ids=["the last", "one between"])
def test_a_request_that_leaves_the_finite_numbers_is_dropped_and_the_others_go_on(lost, astray, kept, levels):
    """It goes astray in the tick of request 3's push, which does not count; request 3 is pushed again."""
    conds = CONDS.clone()
    conds[lost] = -7
    stream = StreamBatch(Field(Flaky(astray=astray), Path.linear(), "velocity"), LINEAR, DDPM(), seed=4)
    out = [stream.push(STARTS[i], conds[i]) for i in range(3)]
    with pytest.raises(NonFinite, match=f"request {lost} is not finite at step 3"):
        stream.push(STARTS[3], conds[3])
    assert (stream.state.numbers, stream.state.levels, stream.state.taken) == (kept, levels, 3) and torch.equal(stream.state.cond, conds[kept])
    out.extend(stream.push(STARTS[i], conds[i]) for i in range(3, 6))
    out.extend(stream.drain())
    whole = sample(Field(Flaky(), Path.linear(), "velocity"), start=STARTS, times=LINEAR, rule=DDPM(), cond=CONDS, seed=4)
    torch.testing.assert_close(torch.stack([x for x in out if x is not None]), whole[[*kept, 3, 4, 5]], rtol=1e-12, atol=1e-12)


def test_a_request_that_is_not_finite_from_the_first_does_not_join():
    stream = StreamBatch(Field(Flaky(), Path.linear(), "velocity"), LINEAR, DDIM())
    stream.push(STARTS[0], CONDS[0])
    with pytest.raises(NonFinite, match="request 1 is not finite at step 1"):
        stream.push(STARTS[1], torch.tensor(math.nan, dtype=F64))
    assert (stream.state.numbers, stream.state.levels, stream.state.taken, stream.state.step) == ([0], [1], 1, 1)
    out = [stream.push(x, cond) for x, cond in zip(STARTS[1:], CONDS[1:], strict=True)]
    whole = sample(Field(Flaky(), Path.linear(), "velocity"), start=STARTS, times=LINEAR, rule=DDIM(), cond=CONDS)
    torch.testing.assert_close(torch.stack([*(x for x in out if x is not None), *stream.drain()]), whole, rtol=1e-12, atol=1e-12)


# -- LCM ---------------------------------------------------------------------------------------------------------------------

def test_lcm_is_the_data_and_noise_anew():
    path, field = Path.vp(), ExactField(Path.vp(), MIXTURE)
    times = Times(path, [0.2, 0.6, 0.95])
    found = sample(field, start=STARTS, times=times, rule=LCM(0.0), seed=3)
    x = STARTS
    for i, (t, s) in enumerate(((0.2, 0.6), (0.6, 0.95))):
        at = path.coefficients(torch.tensor(s, dtype=F64))
        x = at.b * field.data(x, t) + at.c * Draws(3).rows("sampling noise", i, (6, 3), dtype=F64)
    torch.testing.assert_close(found, x, rtol=1e-12, atol=1e-12)


def test_lcm_holds_the_data_fast_at_the_boundary():
    """c_skip + c_out^2 = 1; far from the data only the prediction counts, near to it only x."""
    times = Times(Path.linear(), [0.5, 0.9, 1 - 1e-6, 1.0])
    rows = LCM(1e-3).plan(times).predict
    for row, at in zip(rows, times.each[1:], strict=True):
        assert abs(row.a[0] / at.b + (row.w[0] / at.b) ** 2 - 1) < 1e-12 and row.s == at.c
    assert rows[0].a[0] < 1e-5 and rows[2].a[0] > 0.999 and rows[2].w[0] < 2e-3


def test_lcm_has_the_scalings_of_its_peer():
    """diffusers 0.42's LCMScheduler: c_skip and c_out of timestep 1000 (1 - t), with its scaling 10 and sigma_data 0.5."""
    scheduler = pytest.importorskip("diffusers").LCMScheduler()
    for timestep in (1.0, 19.0, 999.0):
        skip, out = scheduler.get_scalings_for_boundary_condition_discrete(torch.tensor(timestep, dtype=F64))
        row = LCM().plan(Times(Path.linear(), [1 - timestep / 1000, 1.0])).predict[0]
        assert abs(row.a[0] - float(skip)) < 1e-9 and abs(row.w[0] - float(out)) < 1e-9


@pytest.mark.parametrize("examples", [LCM.examples()])
def test_examples_of_lcm_plan(examples):
    for rule in examples:
        assert planned(rule, rule.times(Path.vp(), 4)).nfe == 4 and float(rule.times(Path.linear(), 4).t[1]) == 0.25


# -- the filter --------------------------------------------------------------------------------------------------------------

def test_skip_probability_by_hand():
    assert skip_probability(1.0) == 1.0 and skip_probability(0.98) == 0.0 and skip_probability(0.5) == 0.0
    assert skip_probability(0.995, 0.98) == pytest.approx(0.75) and skip_probability(0.0, -0.6) == pytest.approx(0.375)


def pair(similarity):
    return torch.tensor([1.0, 0.0], dtype=F64), torch.tensor([similarity, math.sqrt(1 - similarity**2)], dtype=F64)


def test_the_filter_skips_at_its_rate(seed):
    """The same two frames asked 4000 times: a share of 1 - (1 - s) / (1 - eta) is skipped."""
    first, second = pair(0.995)
    skipped = 0
    for k in range(4000):
        watch = SimilarityFilter(lambda frame: frame, seed=Draws(seed).child(k))
        watch(first)
        skipped += watch.skips(second)
    assert abs(skipped / 4000 - 0.75) < 5 * math.sqrt(0.75 * 0.25 / 4000)


def test_a_still_video_is_refreshed_now_and_then():
    calls = []
    still = SimilarityFilter(lambda frame: (calls.append(still.state.step), len(calls))[1], longest=10)
    results = [still(torch.ones(3, 4)) for _ in range(200)]
    assert calls == list(range(0, 200, 11)) and results == [i // 11 + 1 for i in range(200)]
    assert still.state.skipped == 200 - len(calls)
    off = SimilarityFilter(lambda frame: frame, longest=0)
    for _ in range(5):
        off(torch.ones(2))
    assert off.state.skipped == 0


def test_changes_are_never_skipped_and_measured_against_the_last_processed_frame():
    """A slow drift: each frame is like its neighbour, yet the sum of changes is seen."""
    seen = []
    watch = SimilarityFilter(seen.append, threshold=0.999, longest=1000)
    for k in range(60):
        watch(torch.tensor([math.cos(0.02 * k), math.sin(0.02 * k)], dtype=F64))
    # cos 0.02 is 0.9998, above the threshold; after three frames the angle 0.06 is beyond it.
    assert 20 <= len(seen) <= 60 and all(float(a @ b) < 1 - 1e-4 for a, b in zip(seen, seen[1:], strict=False))
    flip = SimilarityFilter(lambda frame: frame, seed=1)
    for k in range(20):
        flip((-1.0) ** k * torch.ones(3))
    assert flip.state.skipped == 0


def test_frames_of_zeros():
    zero = SimilarityFilter(lambda frame: frame, longest=3)
    zero(torch.zeros(3))
    assert zero.skips(torch.zeros(3)) and not zero.skips(torch.ones(3))


def test_a_stream_behind_the_filter():
    stream = StreamBatch(ExactField(Path.vp(), MIXTURE), VP, LCM(), frozen=True)
    watch = SimilarityFilter(stream, longest=4)
    out = [watch(STARTS[0]) for _ in range(20)]
    assert out[:15] == [None] * 15 and out[15] is not None and torch.equal(out[15], out[19])
    assert stream.state.taken == 4


def test_frames_that_wait_in_the_pipe_can_be_carried_on():
    """What the docstring says of skips: no tick, unless the caller has one; and what comes is what would have come."""
    field = ExactField(Path.vp(), MIXTURE)
    stream, alone = (StreamBatch(field, VP, DDPM(), seed=3) for _ in range(2))
    watch = SimilarityFilter(stream, longest=4)
    expected = [x for x in [alone(STARTS[0]), alone(-STARTS[0]), *alone.drain()] if x is not None]
    watch(STARTS[0])
    watch(-STARTS[0])
    calls = field.nfe
    assert watch(-STARTS[0]) is None and stream.state.step == 2 and field.nfe == calls
    assert watch(-STARTS[0]) is None and stream.state.levels == [2, 1]
    carried = [stream.tick() for _ in range(3)]
    assert carried[0] is None and torch.equal(carried[1], expected[0]) and torch.equal(carried[2], expected[1]) and stream.state.x is None


@pytest.mark.parametrize(("kept", "other"), [
    ((torch.tensor(3),), (torch.tensor(4),)), ((torch.tensor(3),), (torch.tensor(3.0),)), ((torch.tensor(3),), ()), ((3,), (4,)), ((1,), (True,)), ((None,), (3,)),
    (({"a": torch.ones(2), "b": 1},), ({"a": torch.tensor([1.0, 2.0]), "b": 1},)), (({"a": 1},), ({"b": 1},)), ((3,), (3, 3)), (([1, 2],), ([1, 3],)),
], ids=["tensor", "dtype", "left out", "number", "kind", "none", "dict", "names", "more", "list"])
def test_another_condition_is_no_skip(kept, other):
    seen = []
    watch = SimilarityFilter(lambda frame, *rest: (seen.append(rest), len(seen))[1], longest=100)
    x = torch.tensor([1.0, -2.0, 0.5])
    same = tuple({name: v.clone() if isinstance(v, torch.Tensor) else v for name, v in part.items()} if isinstance(part, dict) else part for part in kept)
    assert [watch(x, *kept), watch(x, *same)] == [1, 1] and watch.skips(x, *kept) and not watch.skips(x, *other)
    assert [watch(x, *other), watch(x, *other), watch(x, *kept)] == [2, 2, 3] and watch.state.skipped == 2


def test_a_condition_written_into_is_another():
    watch, cond = SimilarityFilter(lambda frame, cond: float(cond.sum()), longest=100), torch.ones(2)
    assert watch(torch.ones(3), cond) == watch(torch.ones(3), cond) == 2
    cond += 1
    assert watch(torch.ones(3), cond) == 4 and watch.state.skipped == 1


# -- refusals ----------------------------------------------------------------------------------------------------------------

FIELD = ExactField(Path.vp(), MIXTURE)


@pytest.mark.parametrize("rule", [DPMSolverPP(2), DEIS(3), UniPC(2), AdamsBashforth(2), RungeKutta(2), Exponential(1, "data", corrector=1), UniPC(1)],
                         ids=lambda rule: f"{type(rule).__name__}{rule.order}")
def test_rules_with_history_are_refused(rule):
    with pytest.raises(ValueError, match="rule must have no history"):
        StreamBatch(FIELD, rule.times(Path.vp(), 4), rule)
    with pytest.raises(ValueError, match="rule must have no history"):
        StreamBatch(FIELD, rule=planned(rule, rule.times(Path.vp(), 4)))


def _after_one(start, cond=None, first=None):
    stream = StreamBatch(FIELD, VP, LCM())
    stream.push(STARTS[0], first)
    return stream.push(start, cond)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: Times(Path.vp(), [0.3, 0.7, 0.6]), "times must be strictly monotone"),
    (lambda: StreamBatch(FIELD, Times(Path.vp(), [0.9, 0.6, 0.3]), LCM()), "LCM runs from noise to data"),
    (lambda: StreamBatch(FIELD, Times(Path.vp(), [0.9, 0.6, 0.3]), DDPM()), "DDPM runs from noise to data"),
    (lambda: StreamBatch(FIELD, LINEAR, LCM()), "times were made for"),
    (lambda: StreamBatch(FIELD, VP, planned(DDIM(), VP)), "a table brings its own times"),
    (lambda: LCM(-0.1), r"boundary must lie in \[0, 1\], got -0.1"),
    (lambda: _after_one(STARTS[0, :2]), r"a request must be like those on their way, \(3,\)"),
    (lambda: _after_one(STARTS[0].float()), "a request must be like those on their way"),
    (lambda: _after_one(STARTS[0], 1), "cond must be like that of the requests on their way, none"),
    (lambda: _after_one(STARTS[0], None, 1), "cond must be like that of the requests on their way"),
    (lambda: StreamBatch(FIELD, VP)(STARTS[0] * float("nan")), "frame must be finite"),
    (lambda: StreamBatch(FIELD, VP).push(STARTS[0] / 0), "start must be finite, got 3 of 3 entries"),
    (lambda: SimilarityFilter(len, threshold=1.0), r"threshold must lie in \[-1, 1\), got 1.0"),
    (lambda: SimilarityFilter(len, longest=-1), "longest must be at least 0, got -1"),
    (lambda: skip_probability(1.2), r"similarity must lie in \[-1, 1\], got 1.2"),
])
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_wrong_kinds_are_refused():
    for make in (lambda: StreamBatch(FIELD, VP, DDIM), lambda: StreamBatch(FIELD, VP, "lcm"), lambda: StreamBatch(FIELD), lambda: StreamBatch(len, VP),
                 lambda: SimilarityFilter(3), lambda: _after_one(STARTS[0], "three")):
        with pytest.raises(TypeError):
            make()
    watch = SimilarityFilter(lambda frame: frame)
    watch(torch.ones(3))
    with pytest.raises(ValueError, match=r"frame must have the shape of those before, \(3,\)"):
        watch(torch.ones(4))


def test_what_leaves_the_finite_numbers_is_told():
    stream = StreamBatch(Field(lambda x, t, cond: x / 0, Path.linear(), "velocity"), Times.uniform(Path.linear(), 2, T), Euler())
    with pytest.raises(NonFinite, match="request 0 is not finite at step 0"):
        stream.push(torch.ones(2))
    assert stream.state == StreamState()
