"""Walks that turn: equal to plain samplers where they do not, true to the path's laws where they do, however batches are split; and refusals."""
from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from rheos.core import Draws, NonFinite, evolve
from rheos.data import GaussianMixture, skewed
from rheos.guidance.classifier_free import classifier_free
from rheos.guidance.operators import Dense, Mask
from rheos.guidance.projection import project
from rheos.guidance.time_travel import Steering, TimeTravel, travel, travelled
from rheos.paths import ExactField, Field, Fourier2d, Path, Student, Times
from rheos.samplers import DDIM, sample
from rheos.testing import check_dynamics

F64 = torch.float64
PATHS = {"linear": Path.linear(), "vp": Path.vp(), "edm": Path.edm(0.02, 20.0)}
MEAN, VARIANCE = torch.tensor([[0.7, -1.2]], dtype=F64), torch.tensor([[0.3, 1.7]], dtype=F64)
GAUSSIAN = GaussianMixture(torch.ones(1, dtype=F64), MEAN, VARIANCE)
SEES = Dense(torch.tensor([[2.0, -1.0]], dtype=F64), (2,))


def rows(name, n=7):
    return Draws(4).rows(name, 0, (n, 2), dtype=F64)


@pytest.mark.parametrize("number", range(len(TimeTravel.examples())))
def test_meets_the_conformance_suite(number):
    check_dynamics(TimeTravel, number)


# -- equalities --------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", PATHS)
def test_a_walk_that_does_not_turn_is_ddim(name):
    path = PATHS[name]
    times = Times.uniform(path, 9)
    start = path.prior((7, 2), seed=3, dtype=F64)
    for edit in (None, project(SEES, rows("y")[:, :1])):
        ours = travel(ExactField(path, skewed()), start=start, times=times, edit=edit)
        torch.testing.assert_close(ours, sample(ExactField(path, skewed()), start=start, times=times, rule=DDIM(), edit=edit), rtol=1e-9, atol=1e-9)


def test_a_walk_back_along_the_flow_is_ddim_backwards_and_leads_there_and_back():
    path, x1 = Path.linear(), rows("x1")
    down = Times.uniform(path, 12, start=0.99, end=0.2)
    field = ExactField(path, skewed())
    ours = travel(field, start=x1, times=down, turn="flow")
    torch.testing.assert_close(ours, sample(field, start=x1, times=down, rule=DDIM()), rtol=1e-9, atol=1e-9)
    gaps = []
    for steps in (40, 80):
        fine = Times.uniform(path, steps, start=0.9, end=0.2)
        walk = (*fine.t.tolist(), *fine.reversed().t.tolist()[1:])
        gaps.append(float((travel(ExactField(path, GAUSSIAN), start=x1, times=walk, turn="flow") - x1).square().mean().sqrt()))
    assert 0.4 * gaps[0] < gaps[1] < 0.6 * gaps[0] < 0.05       # DDIM's order is 1


def test_times_are_asked_once_a_forward_step_and_never_on_the_way_back():
    asked = []
    field = Field(lambda x, t, cond: asked.append(float(t[0])) or -x, Path.linear(), "velocity")
    travel(field, 3, shape=(2,), times=(0.0, 0.5, 0.25, 0.375, 0.75, 0.0, 1.0))
    assert asked == [0.0, 0.25, 0.375, 0.0] and field.nfe == 4


def test_travelled_repeats_the_steps_within_its_range():
    times = Times.uniform(Path.linear(), 4)
    assert travelled(times, 1) == (0.0, 0.25, 0.5, 0.75, 1.0)
    assert travelled(times, 3, start=0.5, stop=0.8) == (0.0, 0.25, 0.5, 0.75, 0.5, 0.75, 0.5, 0.75, 1.0)
    assert travelled(times, 2, length=2) == (0.0, 0.25, 0.75, 0.25, 0.75, 1.0)[:1] + (0.25, 0.5, 0.75, 0.25, 0.5, 0.75, 1.0, 0.75, 1.0)
    assert travelled(times, 2, stop=0.5) == (0.0, 0.25, 0.5, 0.25, 0.5, 0.75, 1.0)


def test_travelled_turns_where_diffusers_repaint_turns():
    diffusers = pytest.importorskip("diffusers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = diffusers.RePaintScheduler(num_train_timesteps=1000)
        peer.set_timesteps(20, jump_length=4, jump_n_sample=3)
    levels = sorted(set(peer.timesteps.tolist()), reverse=True)       # theirs fall from the noise
    theirs = [levels.index(v) for v in peer.timesteps.tolist()]
    # They turn back level by level, we in one jump of the same law; and they never repeat the first steps, nor the last one, to no noise.
    theirs = [v for k, v in enumerate(theirs) if not 0 < k < len(theirs) - 1 or not theirs[k - 1] > v > theirs[k + 1]]
    t = [k / 20 for k in range(21)]
    assert [round(20 * v) for v in travelled(t, 3, start=t[3], stop=t[19], length=4)] == [*theirs, 20]


# -- laws --------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", PATHS)
def test_a_step_back_has_the_paths_law(name, seed):
    """alpha m and alpha^2 v + sigma^2 at the level reached, from points of the level left; within 5 standard errors."""
    path, n = PATHS[name], 20_000
    x1 = GAUSSIAN.sample(n, seed=seed)
    x1 = x1[0] if isinstance(x1, tuple) else x1
    x = path.sample(x1, torch.full((n,), 0.7, dtype=F64), seed=seed).x
    x = evolve(TimeTravel(ExactField(path, GAUSSIAN), (0.7, 0.4), seed=seed), TimeTravel(ExactField(path, GAUSSIAN), (0.7, 0.4)).init(x), 1).x
    at = path.coefficients(0.4)
    variance = at.b**2 * VARIANCE[0] + at.c**2
    assert float(((x.mean(0) - at.b * MEAN[0]) / variance.sqrt()).abs().max()) < 5 / math.sqrt(n)
    assert float((x.var(0) / variance - 1).abs().max()) < 5 * math.sqrt(2 / n)


@pytest.mark.parametrize(("eta", "bias"), [(0.0, 0.02), (1.0, 0.06)])
def test_a_turning_walk_keeps_the_law_of_the_data(eta, bias, seed):
    """Here and there and back again, the samples are the target's: within 5 standard errors and the steps' own bias, of first order."""
    n = 6000
    walk = travelled(Times.uniform(Path.linear(), 80), 2, start=0.3, stop=0.7, length=5)
    x = travel(ExactField(Path.linear(), GAUSSIAN), n, times=walk, eta=eta, seed=seed)
    assert float(((x.mean(0) - MEAN[0]) / VARIANCE[0].sqrt()).abs().max()) < 5 / math.sqrt(n) + bias
    assert float((x.var(0) / VARIANCE[0] - 1).abs().max()) < 5 * math.sqrt(2 / n) + bias


def test_repeated_levels_harmonise_what_a_projection_tears():
    """Two numbers, nearly equal, one measured: a plain projection leaves the other too free, walks that turn bring it to its conditional mean."""
    covariance = torch.tensor([[[1.0, 0.95], [0.95, 1.0]]], dtype=F64)
    field = ExactField(Path.linear(), GaussianMixture(torch.ones(1, dtype=F64), torch.zeros(1, 2, dtype=F64), covariance))
    y = torch.tensor([[1.5, 0.0]], dtype=F64)
    edit = project(Mask(torch.tensor([True, False])), y)
    far = []
    for loops in (1, 4, 12):
        x = travel(field, 400, times=travelled(Times.uniform(Path.linear(), 20), loops), eta=1.0, edit=edit, seed=1)
        far.append(abs(float(x[:, 1].mean()) - 0.95 * 1.5))
    assert far[0] > 1.5 * far[1] > 1.5 * far[2]


# -- batches, seeds, hooks ---------------------------------------------------------------------------------------------------

def test_batches_may_be_split_and_hooks_are_cut_with_them():
    field, y = ExactField(Path.linear(), skewed()), rows("y")[:, :1]
    walk = travelled(Times.uniform(Path.linear(), 6), 2)
    settings = {"times": walk, "eta": 0.7, "edit": project(SEES, y), "seed": 11}
    whole = travel(field, 7, **settings)
    assert torch.equal(travel(field, 7, batch=3, **settings), whole)
    part = travel(field, 3, **{**settings, "edit": project(SEES, y[2:5])}, first=2)
    assert torch.equal(part, whole[2:5])
    assert not torch.allclose(travel(field, 7, **{**settings, "seed": 12}), whole)
    torch.testing.assert_close(SEES.forward(whole), y, rtol=0, atol=1e-9)


def test_overwrite_is_told_the_time_reached_and_given_fresh_noise():
    seen = []

    def overwrite(x, t, noise):
        seen.append((t, noise(), x.clone()))
        return torch.full_like(x, t)

    x = travel(Field(lambda x, t, cond: -x, Path.linear(), "velocity"), 4, shape=(2,), times=(0.0, 0.5, 0.25, 1.0), eta=1.0, overwrite=overwrite, seed=3)
    assert [t for t, _, _ in seen] == [0.5, 0.25, 1.0] and x.tolist() == [[1.0, 1.0]] * 4
    noises = [noise for _, noise, _ in seen]
    assert not torch.equal(noises[0], noises[1]) and noises[0].std() > 0.3
    # The step's own noise is another: from 0.5 back to 0.25, x is 0.5 / 2 plus noise.
    assert not torch.allclose((seen[1][2] - 0.25) / (seen[1][2] - 0.25).std(), noises[1] / noises[1].std(), atol=0.1)


def test_eta_may_depend_on_time_and_edits_may_name_another_kind():
    field, start = ExactField(Path.linear(), skewed()), rows("start")
    plain = travel(field, start=start, steps=5)
    assert torch.equal(travel(field, start=start, steps=5, eta=lambda t: 0.0, seed=9), plain)
    assert not torch.allclose(travel(field, start=start, steps=5, eta=lambda t: float(t < 0.5), seed=9), plain)

    @dataclass(frozen=True)
    class Still:
        kind: str = "velocity"

        def __call__(self, value, x, t):
            return torch.zeros_like(value)

    torch.testing.assert_close(travel(field, start=start, steps=5, edit=Still()), start)


def test_guidance_and_conditions_are_those_of_sample():
    mixture = GaussianMixture(torch.tensor([0.4, 0.6], dtype=F64), torch.tensor([[2.0, 0.0], [-1.0, 1.0]], dtype=F64), torch.tensor([0.1, 0.2], dtype=F64),
                              labels=torch.tensor([0, 1]))
    field, start, times = ExactField(Path.linear(), mixture), rows("start"), Times.uniform(Path.linear(), 6)
    ours = travel(field, start=start, times=times, cond=1, guidance=2.0)
    torch.testing.assert_close(ours, sample(field, start=start, times=times, rule=DDIM(), cond=1, guidance=2.0), rtol=1e-9, atol=1e-9)
    labels = torch.tensor([0, 1, 0, 1, 1, 0, 1])
    torch.testing.assert_close(travel(classifier_free(field, 2.0), start=start, times=times, cond=labels, batch=2)[labels == 1], ours[labels == 1])


def test_the_network_is_evaluated_without_gradients_and_left_as_it_was():
    class Net(nn.Module):
        event = (2,)

        def __init__(self):
            super().__init__()
            self.inner, self.drop, self.seen = nn.Linear(2, 2), nn.Dropout(0.5), []

        def forward(self, x, t, cond=None):
            self.seen.append((self.drop.training, torch.is_grad_enabled()))
            return self.drop(self.inner(x))

    net = Net()
    net.inner.eval()
    x = travel(Field(net, Path.linear()), 3, steps=4)
    assert set(net.seen) == {(False, False)} and not x.requires_grad
    assert net.drop.training and not net.inner.training


def test_a_network_that_tells_noise_is_not_asked_where_no_data_is_left():
    inner = ExactField(Path.linear(), GAUSSIAN)
    field = Field(lambda x, t, cond: inner(x, t).noise, Path.linear(), "noise")
    field.net.event = (2,)
    x = travel(field, 2000, steps=40, seed=1)
    assert float((x.mean(0) - MEAN[0]).abs().max()) < 0.15


def test_steering_is_travel_with_its_settings():
    field, edit = ExactField(Path.linear(), skewed()), project(SEES, rows("y")[:, :1])
    ours = Steering(field, edit=edit, eta=0.5, loops=3, begin=0.2, end=0.7, length=2).sample(7, steps=10, seed=4)
    walk = travelled(Times.uniform(Path.linear(), 10), 3, start=0.2, stop=0.7, length=2)
    assert torch.equal(ours, travel(field, 7, times=walk, eta=0.5, edit=edit, seed=4))


# -- refusals ----------------------------------------------------------------------------------------------------------------

FIELD = ExactField(Path.linear(), skewed())
NOISELESS = Field(lambda x, t, cond: x / 0, Path.linear(), "velocity")


@pytest.mark.parametrize(("call", "error", "words"), [
    (lambda: TimeTravel(FIELD, (0.5,)), ValueError, "times must hold two times or more"),
    (lambda: TimeTravel(FIELD, (0.0, 0.5, 0.5, 1.0)), ValueError, "times must move at every step, got 0.5 twice"),
    (lambda: TimeTravel(FIELD, (0.0, 1.5)), ValueError, r"t must lie in \[0, 1\]"),
    (lambda: TimeTravel(FIELD, (0.0, 1.0, 0.5, 1.0), turn="flow"), ValueError, "no noise is left, got a step from 1 to 0.5"),
    (lambda: TimeTravel(ExactField(Path.vp(), skewed()), (0.0, 1.0), eta=1.5), ValueError, "eta must lie in"),
    (lambda: TimeTravel(FIELD, (0.0, 1.0), turn="round"), ValueError, "turn must be one of noise, flow"),
    (lambda: TimeTravel(FIELD, (0.0, 1.0), first=-1), ValueError, "first must be at least 0"),
    (lambda: TimeTravel(FIELD, (0.0, 1.0), finite_every=0), ValueError, "finite_every must be at least 1"),
    (lambda: TimeTravel(ExactField(Path.interpolant(), GAUSSIAN, GAUSSIAN), (0.0, 1.0)), ValueError, "field must live on a one-sided path"),
    (lambda: TimeTravel(ExactField(Path.linear(noise=Student(4.0)), GaussianMixture.points(MEAN)), (0.0, 1.0)), ValueError, "Gaussian noise"),
    (lambda: evolve(TimeTravel(FIELD, (0.0, 1.0)), TimeTravel(FIELD, (0.0, 1.0)).init(rows("x")), 2), ValueError, "the walk has 1 steps"),
    (lambda: travelled((0.0, 0.5, 0.25), 2), ValueError, "times must rise"),
    (lambda: travelled((0.0, 1.0), 0), ValueError, "loops must be at least 1"),
    (lambda: travelled((0.0, 1.0), 2, start=0.6, stop=0.5), ValueError, "stop must not lie before start = 0.6"),
    (lambda: travelled((0.0, 1.0), 2, length=0), ValueError, "length must be at least 1"),
    (lambda: travel(FIELD), ValueError, "n or start must be given"),
    (lambda: travel(FIELD, 3, start=rows("x")), ValueError, "n must be left out or equal the 7 rows"),
    (lambda: travel(Field(lambda x, t, cond: x, Path.linear()), 3), ValueError, "shape must be given"),
    (lambda: travel(FIELD, 3, steps=0), ValueError, "steps must be at least 1"),
    (lambda: travel(FIELD, 3, steps=10**7), ValueError, "steps must be at most"),
    (lambda: travel(FIELD, 3, times=Times.uniform(Path.vp(), 3)), ValueError, "times were made for"),
    (lambda: travel(FIELD, 3, batch=0), ValueError, "batch must be at least 1"),
    (lambda: travel(FIELD, 3, cond=torch.zeros(2)), ValueError, "cond must have 3 rows"),
    (lambda: travel(FIELD, start=rows("x") / 0), ValueError, "start must be finite"),
    (lambda: travel(FIELD, start=rows("x")[:0]), ValueError, "start must hold at least one sample"),
    (lambda: travel(FIELD, 3, guidance=2.0), ValueError, "guidance needs a condition"),
    (lambda: travel(FIELD, 3, edit=lambda data, x, t: data[:, :1]), ValueError, r"edit must return the shape of the samples, \(3, 2\), got \(3, 1\)"),
    (lambda: travel(FIELD, 3, edit=lambda data, x, t: None), ValueError, "edit must return the shape of the samples, .3, 2., got NoneType"),
    (lambda: travel(FIELD, 3, overwrite=lambda x, t, noise: x[:1]), ValueError, "overwrite must return"),
    (lambda: travel(FIELD, 3, nudge=lambda x, t, ask: (x[:1], ask(x))), ValueError, "nudge must return"),
    (lambda: travel(FIELD, 3, edit=project(SEES, torch.zeros(2, 1))), ValueError, "y must have as many rows as the batch, 3"),
    (lambda: travel(NOISELESS, 3, shape=(2,), steps=3), NonFinite, "sample 0 of 3 is not finite"),
    (lambda: travel(FIELD, 3, steps=3, watch=[lambda step, state: step == 2]), ValueError, "a watcher ended the run after 2 of 3 steps"),
    (lambda: Steering(FIELD, loops=0), ValueError, "loops must be at least 1"),
])
def test_refusals(call, error, words):
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize("hook", ["nudge", "edit", "overwrite"])
def test_hooks_must_be_callable(hook):
    for wrong in (3, Mask):
        with pytest.raises(TypeError):
            TimeTravel(FIELD, (0.0, 1.0), **{hook: wrong})


def test_paths_whose_coefficients_differ_by_coordinate_are_refused():
    @dataclass(frozen=True)
    class Spectral:
        two_sided: bool = False
        interval: tuple = (0.0, 1.0)
        spectral: bool = True

        def coefficients(self, t):
            raise AssertionError("never asked")

    with pytest.raises(ValueError, match="whose coordinates share their coefficients"):
        TimeTravel(Field(lambda x, t, cond: x, Path(Spectral(), basis=Fourier2d())), (0.0, 1.0))
