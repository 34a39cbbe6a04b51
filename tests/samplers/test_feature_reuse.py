"""Reusing a U-Net's first half: all keys are the plain field, steps between keys by hand, batching ahead, guidance, prior noise, refusals."""
import pytest
import torch

import rheos
from rheos.core import Draws
from rheos.data import GaussianMixture, skewed
from rheos.guidance import classifier_free
from rheos.nets import ResidualMLP, UNet
from rheos.paths import ExactField, Field, Path, Times
from rheos.samplers import DDIM, DPMSolverPP, Euler, Exponential, RungeKutta, sample
from rheos.samplers.feature_reuse import DENSE_EARLY, Every, FeatureReuse, every, prior_noise

EVENT = (2, 8, 12)


def field_of(seed, path=None, predicts="velocity", **settings):
    """A network that says something at every layer."""
    with Draws(seed).scope(0):
        net = UNet(EVENT, widths=(8, 12), depth=1, classes=3, **settings)
    with torch.no_grad():
        for name, value in net.named_parameters():
            value += 0.1 * Draws(seed).rows(name, 0, value.shape)
    return Field(net.requires_grad_(False), path or Path.linear(), predicts)


def begun(seed, field, rows=5):
    return field.path.prior((rows, *EVENT), seed=seed), torch.arange(rows) % 3


@pytest.mark.parametrize("rule", [DDIM(), DPMSolverPP(3, tau=0.0), RungeKutta(2), Euler()], ids=lambda rule: type(rule).__name__)
@pytest.mark.parametrize("ahead", [True, False])
def test_with_all_steps_as_keys_it_is_the_plain_field_to_the_bit(rule, ahead, seed):
    field = field_of(seed, Path.vp(), "v")
    start, cond = begun(seed, field)
    times = rule.times(field.path, 7)
    plan = rule.plan(times)
    reuse = FeatureReuse(field, plan.times, every(1), ahead=ahead)
    fast, plain = (sample(f, start=start, rule=plan, cond=cond, seed=seed) for f in (reuse, field))
    assert torch.equal(fast, plain) and reuse.nfe == reuse.encodings == plan.nfe


@pytest.mark.parametrize("ahead", [True, False])
def test_steps_between_keys_by_hand(ahead, seed):
    """Euler's loop written out: the first half at steps 0, 2 and 3, the second half at its own time, what leans on x of the x there."""
    field = field_of(seed)
    start, cond = begun(seed, field)
    times, keys = Times(field.path, [0.0, 0.15, 0.3, 0.55, 0.6, 0.9, 1.0]), (0, 2, 3)
    x, net = start.clone(), field.net
    with torch.no_grad():
        for i, (now, then) in enumerate(zip(times.t[:-1].tolist(), times.t[1:].tolist(), strict=True)):
            t = torch.full((5,), now)
            if i in keys:
                features = net.encode(x, t, cond)
            x = x + (then - now) * net.decode(features, x, t, cond)
    reuse = FeatureReuse(field, times, keys, ahead=ahead)
    got = sample(reuse, start=start, rule=Euler(), times=times, cond=cond)
    torch.testing.assert_close(got, x, rtol=1e-4, atol=1e-5)
    assert (reuse.nfe, reuse.encodings) == (6, 3)
    assert not torch.allclose(got, sample(field, start=start, rule=Euler(), times=times, cond=cond), atol=1e-3)


def test_decoding_ahead_is_one_call_a_key_and_changes_nothing(seed):
    field, rule = field_of(seed, Path.vp(), ("noise", "data"), heads=2), Exponential(2, "data", corrector=2)
    start, cond = begun(seed, field)
    times = rule.times(field.path, 12)
    calls = []
    handle = field.net.up[0][0].register_forward_hook(lambda _, given, __: calls.append(len(given[0])))
    runs = [sample(FeatureReuse(field, times, (0, 1, 4, 9), ahead=ahead), start=start, rule=rule, times=times, cond=cond) for ahead in (True, False)]
    handle.remove()
    torch.testing.assert_close(runs[0], runs[1], rtol=1e-3, atol=1e-4)
    assert calls == [5, 15, 25, 15, *[5] * 12]


@pytest.mark.parametrize("ahead", [True, False])
def test_parts_of_a_batch_are_runs_of_their_own(ahead, seed):
    field = field_of(seed)
    start, cond = begun(seed, field, 7)
    times = Times.uniform(field.path, 9)
    reuse = FeatureReuse(field, times, every(4), ahead=ahead)
    whole = sample(reuse, start=start, rule=DDIM(), times=times, cond=cond)
    parts = sample(reuse, start=start, rule=DDIM(), times=times, cond=cond, batch=3)
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5)
    assert reuse.encodings == 3 + 9


def test_guidance_reuses_the_features_of_both_halves_of_its_batch(seed):
    field = field_of(seed)
    start, cond = begun(seed, field)
    times = Times.uniform(field.path, 8)
    reuse = FeatureReuse(field, times, every(3))
    guided = sample(reuse, start=start, rule=Euler(), times=times, cond=cond, guidance=2.5)
    alone = [FeatureReuse(field, times, every(3)) for _ in range(2)]
    x = start.clone()
    with torch.no_grad():
        for now, then in zip(times.t[:-1].tolist(), times.t[1:].tolist(), strict=True):
            given, free = alone[0](x, now, cond).velocity, alone[1](x, now, torch.full_like(cond, -1)).velocity
            x = x + (then - now) * (free + 2.5 * (given - free))
    torch.testing.assert_close(guided, x, rtol=1e-3, atol=1e-4)
    assert (reuse.nfe, reuse.encodings) == (8, 3)


def test_inputs_brought_to_unit_scale_are_reused_in_that_scale(seed):
    """Networks with `unit_input` are shown x / sqrt(alpha^2 + sigma^2), the first half and the sum at the end alike."""
    field = field_of(seed, Path.ve(0.1, 3.0), "v")
    shown = Field(field.net, field.path, "v", unit_input=True)
    start, cond = begun(seed, shown)
    times = Times.uniform(shown.path, 5)
    assert torch.equal(sample(FeatureReuse(shown, times, every(1)), start=start, rule=DDIM(), times=times, cond=cond),
                       sample(shown, start=start, rule=DDIM(), times=times, cond=cond))
    runs = [sample(FeatureReuse(shown, times, (0, 2), ahead=ahead), start=start, rule=DDIM(), times=times, cond=cond) for ahead in (True, False)]
    torch.testing.assert_close(runs[0], runs[1], rtol=1e-4, atol=1e-4)


# -- keys and prior noise ----------------------------------------------------------------------------------------------------------

def test_keys():
    assert Every(5).of(12) == (0, 5, 10) and every(1).of(3) == (0, 1, 2) and every(9).of(4) == (0,)
    assert DENSE_EARLY[0] == 0 and len(DENSE_EARLY) == 9 and DENSE_EARLY[-1] < 50


@pytest.mark.parametrize("rule", [Euler(), Exponential(3, "data", corrector=2)], ids=["Euler", "multistep with corrector"])
def test_prior_noise_is_added_to_every_point_of_the_second_half(rule):
    """The rows against a loop that adds the start to x by hand: x, at times above one half and before the last, where the field is asked."""
    path = Path.vp()
    exact, times, strength = ExactField(path, skewed()), Times.uniform(path, 9, start=0.05), 0.02
    start, asked = Draws(0).rows("x", 0, (4, 2), dtype=torch.float64), []
    watched = Field(lambda x, t, cond: (asked.append((float(t[0]), x.clone())), exact(x, t).data)[1], path, "data")
    plan = rule.plan(times)
    got = sample(watched, start=start, rule=prior_noise(plan, strength, 0.5))
    seen, asked = asked, []
    # The loop: the point that the field is asked at is that of the plain rows plus the noise; a mended point was predicted with it too.
    points, predictions, x = [], [], start
    for i, (row, t) in enumerate(zip(plan.predict, times.t.tolist(), strict=False)):
        extra = strength * start if i and t > 0.5 else 0.0
        x = x + extra
        torch.testing.assert_close(x, seen[i][1], rtol=1e-9, atol=1e-9)
        value = exact(x, t).of(plan.kind)
        if i and plan.correct[i - 1] is not None:
            mend = plan.correct[i - 1]
            x = extra + sum(a * p for a, p in zip(mend.a, points, strict=False)) + sum(w * p for w, p in zip(mend.w, [value, *predictions], strict=False))
        points, predictions = [x, *points], [value, *predictions]
        x = sum(a * p for a, p in zip(row.a, points, strict=False)) + sum(w * p for w, p in zip(row.w, predictions, strict=False))
    torch.testing.assert_close(got, x, rtol=1e-9, atol=1e-9)
    same = prior_noise(plan, 0.0)
    torch.testing.assert_close(sample(watched, start=start, rule=same), sample(watched, start=start, rule=plan))


def test_prior_noise_raises_what_is_left_of_the_start():
    """Where the field says nothing (data 0) DDIM shrinks x towards 0: what is left is the noise that was added."""
    path = Path.linear()
    field, start = Field(lambda x, t, cond: torch.zeros_like(x), path, "data"), torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    table = DDIM().plan(Times(path, [0.0, 0.4, 0.6, 0.8, 0.9]))
    assert torch.allclose(sample(field, start=start, rule=table), 0.1 * start)
    left = 0.1 + 0.01 * (0.1 / 0.4 + 0.1 / 0.2)      # added at t = 0.6 and 0.8, and shrunk from there
    torch.testing.assert_close(sample(field, start=start, rule=prior_noise(table, 0.01)), left * start)


# -- refusals ----------------------------------------------------------------------------------------------------------------------

FIELD = field_of(0)
TIMES = Times.uniform(FIELD.path, 6)
X = torch.zeros(2, *EVENT)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: FeatureReuse(Field(ResidualMLP((4,)), Path.linear()), TIMES), "field must have a network with the halves encode and decode, such as UNet, got ResidualMLP"),
    (lambda: FeatureReuse(ExactField(Path.linear(), GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.ones(1, 2))), TIMES), "field must be a plain Field, got ExactField"),
    (lambda: FeatureReuse(classifier_free(FIELD, 2.0), TIMES), "reuse features first, guide what comes out"),
    (lambda: FeatureReuse(FIELD, Times.uniform(Path.vp(), 3)), "times were made for VP.*, but the field lives on Linear"),
    (lambda: FeatureReuse(FIELD, TIMES), r"keys must rise from 0 and stay below the 6 steps of the run, got \[0, 1, 2, 3, 5, 10"),
    (lambda: FeatureReuse(FIELD, TIMES, (1, 3)), r"keys must rise from 0 .*, got \[1, 3\]"),
    (lambda: FeatureReuse(FIELD, TIMES, (0, 3, 2)), r"keys must rise from 0 .*, got \[0, 3, 2\]"),
    (lambda: FeatureReuse(FIELD, TIMES, ()), "keys must rise from 0"),
    (lambda: FeatureReuse(FIELD, TIMES, (0, -1)), "keys must be at least 0, got -1"),
    (lambda: every(0), "stride must be at least 1, got 0"),
    (lambda: FeatureReuse(FIELD, TIMES, every(2))(X, 0.4), "t must be one of the 6 times that features are reused along, got 0.4"),
    (lambda: FeatureReuse(FIELD, TIMES, every(2))(X, TIMES.t[1]), "t = 0.166667 is no key step, and no key step was asked before it"),
    (lambda: FeatureReuse(FIELD, TIMES, every(2))(X, torch.tensor([0.0, 0.5])), "t must be one for all samples"),
    (lambda: (f := FeatureReuse(FIELD, TIMES, every(2)), f(X, 0.0), f(X[:1], TIMES.t[1])), r"x must have the shape it had at the key step, \(2, 2, 8, 12\), got \(1, 2, 8, 12\)"),
    (lambda: (f := FeatureReuse(FIELD, TIMES, every(2), ahead=False), f(X, 0.0), f(X[:1], TIMES.t[1])), "features must have 1 rows as x has, got 2"),
    (lambda: prior_noise(DDIM().plan(TIMES), 2.0), r"strength must lie in \[-1, 1\], got 2.0"),
    (lambda: prior_noise(DDIM().plan(TIMES), after=1.5), r"after must lie in \[0, 1\], got 1.5"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("call", [lambda: FeatureReuse(FIELD.net, TIMES), lambda: FeatureReuse(FIELD, TIMES.t), lambda: rheos.samplers.feature_reuse.Every(1.5)],
                         ids=["a network", "a tensor of times", "half a step"])
def test_refuses_other_types(call):
    with pytest.raises(TypeError):
        call()
