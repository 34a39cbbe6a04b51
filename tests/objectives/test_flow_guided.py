"""Distillation, flow guidance and norms that see the path: closed forms on affine fields, gradients, frozen teachers, refusals."""
from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from rheos.core import Draws
from rheos.couplings import Pair, Paired
from rheos.data import skewed, two_moons
from rheos.objectives import L2, Distill, FlowGuided, Matching, OnData, Perceptual, PerceptualHuber, PseudoHuber
from rheos.paths import Field, Path

F64 = torch.float64
LINEAR, JOINED = Path.linear(), Path.interpolant("none")
X0, X1 = Draws(1).rows("x0", 0, (6, 2), dtype=F64), Draws(2).rows("x1", 0, (6, 2), dtype=F64) - 0.7
A = torch.tensor([[0.4, -1.0], [0.3, 0.8]], dtype=F64)


def field(net, path=LINEAR):
    return Field(net, path)


class Scaled(nn.Module):
    """s x + 0.2 + t, and what it was asked."""

    def __init__(self, s):
        super().__init__()
        self.s = nn.Parameter(torch.tensor(s, dtype=F64))
        self.drop = nn.Dropout(0.5)
        self.asked = []

    def forward(self, x, t, cond=None):
        self.asked.append((x, t, cond, self.training))
        return self.drop(self.s * x) + 0.2 + t[:, None]


# -- distillation ------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("path", [LINEAR, JOINED], ids=["linear", "joined"])
def test_distillation_is_the_distance_of_one_euler_step(path):
    net = Scaled(0.5).eval()
    loss = Distill(path)(net, Pair(X1, X0))
    torch.testing.assert_close(loss.per_sample, (X0 + 0.5 * X0 + 0.2 - X1).square().mean(1))
    assert bool((net.asked[0][1] == 0).all()) and torch.equal(net.asked[0][0], X0)


@pytest.mark.parametrize("path", [LINEAR, JOINED], ids=["linear", "joined"])
def test_distillation_measures_ends_by_their_features(path):
    features = lambda x: torch.sin(x @ A)
    loss = Distill(path, OnData(Perceptual(features, 0.0)))(Scaled(0.5).eval(), Pair(X1, X0))
    torch.testing.assert_close(loss.per_sample, (features(1.5 * X0 + 0.2) - features(X1)).square().mean(1))


# -- flow guidance -----------------------------------------------------------------------------------------------------------

def test_the_guide_in_closed_form(seed):
    """Student 0.5 x + 0.2, teacher A x + t: every number of the loss from what the teacher was asked."""
    seen = []
    teacher = field(lambda x, t, cond: seen.append((x, t)) or x @ A + t[:, None])
    student = Scaled(0.5).eval()
    loss = FlowGuided(teacher)(student, Pair(X1), seed=seed, step=3)
    start = student.asked[0][0]
    (x, t), line = seen[0], 0.5 * start + 0.2
    assert bool((student.asked[0][1] == 0).all()) and bool(((t > 0.2) & (t < 0.8)).all()) and len(set(t.tolist())) == 6
    torch.testing.assert_close(x, start + t[:, None] * line)
    ends = x + (1 - t[:, None]) * (x @ A + t[:, None])
    torch.testing.assert_close(loss.value, (start + line - ends).square().mean())
    torch.testing.assert_close(loss.per_sample, (start + line - ends).square().mean(1))


def test_a_student_that_is_its_straight_teacher_has_nothing_to_learn(seed):
    """v = (x1 - x0) along straight lines x1 = 3 x0 + 1: v(x, t) = (2 x + 1) / (1 + 2 t)."""
    straight = lambda x, t, cond=None: (2 * x + 1) / (1 + 2 * t[:, None])
    assert float(FlowGuided(field(straight))(straight, Pair(X1), seed=seed).value) < 1e-25
    assert float(FlowGuided(field(lambda x, t, cond: 2 * x + 1))(straight, Pair(X1), seed=seed).value) > 0.1


def test_no_gradient_through_the_point_or_the_teacher(seed):
    """The slope is that of |end - constant|^2: by hand 2 (end - target) x0, where the target, which moves with s, is held."""
    student, inner = Scaled(0.5).eval(), Scaled(-0.9).eval()
    guide = FlowGuided(field(inner))
    guide(student, Pair(X1), seed=seed).value.backward()
    start = student.asked[0][0]
    t = 0.2 + 0.6 * Draws(seed).uniform("guided time", 0, (6,), dtype=F64)[:, None]
    line = 0.5 * start + 0.2
    x = start + t * line
    target = x + (1 - t) * (-0.9 * x + 0.2 + t)
    torch.testing.assert_close(student.s.grad, (2 * (start + line - target) * start).mean().detach())
    assert inner.s.grad is None


def test_the_teacher_is_a_frozen_copy_in_evaluation_mode(seed):
    net = Scaled(0.5).train()
    guide = FlowGuided(field(net))
    assert net.training and net.s.requires_grad
    before = guide(lambda x, t, cond: x, Pair(X1), seed=seed).value
    assert before == guide(lambda x, t, cond: x, Pair(X1), seed=seed).value              # no dropout
    with torch.no_grad():
        net.s += 5.0
    assert torch.equal(guide(lambda x, t, cond: x, Pair(X1), seed=seed).value, before)
    assert not any(p.requires_grad for p in guide._frozen.net.parameters()) and not guide._frozen.net.training


def test_starts_are_fresh_normal_and_a_function_of_seed_and_step(seed):
    starts = lambda guide, s, k, n=4000: (net := Scaled(1.0).eval(), guide(net, Pair(torch.zeros(n, 2, dtype=F64)), seed=s, step=k), net.asked[0][0])[2]
    guide = FlowGuided(field(lambda x, t, cond: x))
    a = starts(guide, seed, 1)
    assert torch.equal(a, starts(guide, Draws(seed), 1)) and not torch.equal(a, starts(guide, seed, 2)) and not torch.equal(a, starts(guide, seed + 1, 1))
    assert float((a.T @ a / len(a) - torch.eye(2, dtype=F64)).abs().max()) < 5 * math.sqrt(2 / len(a))
    law = two_moons()
    b = starts(FlowGuided(field(lambda x, t, cond: x, JOINED), law), seed, 1)
    truth = law.sample(100_000, seed=9)
    assert bool(((b.mean(0) - truth.mean(0)).abs() < 5 * truth.std(0) / math.sqrt(len(b))).all())


def test_conditions_reach_both_and_it_adds_to_distillation(seed):
    asked = []
    teacher = field(lambda x, t, cond: asked.append(cond) or 0 * x)
    student, pair = Scaled(0.5).eval(), Paired(X0, X1, torch.arange(6)).sample(6)
    whole = (2.0 * FlowGuided(teacher) + Distill())(student, pair, seed=seed)
    assert torch.equal(asked[0], pair.cond) and torch.equal(student.asked[0][2], pair.cond)
    parts = 2 * FlowGuided(teacher)(student, pair, seed=seed).value + Distill()(student, pair).value
    torch.testing.assert_close(whole.value, parts)


def test_between_and_metric(seed):
    seen = []
    guide = FlowGuided(field(lambda x, t, cond: seen.append(t) or x), between=(0.9, 1.0), metric=PseudoHuber(0.3))
    loss = guide(lambda x, t, cond: 0 * x, Pair(torch.zeros(500, 2)), seed=seed)
    assert float(seen[0].min()) >= 0.9 and loss.errors.shape == (500,) and abs(float(seen[0].mean()) - 0.95) < 5 * 0.1 / math.sqrt(12 * 500)


# -- norms that see the path ---------------------------------------------------------------------------------------------------

FEATURES = lambda x: torch.tanh(x @ A)


@pytest.mark.parametrize("path", [LINEAR, JOINED], ids=["linear", "joined"])
def test_features_weigh_by_the_noise(path, seed):
    """Where the share of noise is s: (1 - s) Huber of the velocity, by `PseudoHuber`, and 1 / s of the features where the straight line ends."""
    asked = []

    def net(x, t, cond=None):
        asked.append((x, t))
        return 0.3 * x - t[:, None]

    loss = Matching(path, metric=PerceptualHuber(FEATURES, 0.1))(net, Pair(X1, X0), seed=seed)
    (x, t) = asked[0]
    s, answer = 1 - t, 0.3 * x - t[:, None]
    ends = x + s[:, None] * answer
    expected = t * PseudoHuber(0.1)(answer, X1 - X0) + (FEATURES(ends) - FEATURES(X1)).square().mean(1) / s
    torch.testing.assert_close(loss.per_sample, expected, rtol=1e-9, atol=1e-12)


def test_features_have_one_size_at_all_times():
    """A velocity that errs by e: near the data the second term is s |e|^2 for features that keep distances, and at t = 0 it is all."""
    errors = {}
    for t in (0.0, 0.5, 1 - 1e-3, 1.0):
        point = LINEAR.sample(X1, torch.full((6,), t, dtype=F64), z=X0)
        errors[t] = PerceptualHuber(lambda x: x, 1e3).on(point, "velocity", point.velocity + 0.6)
    torch.testing.assert_close(errors[0.0], torch.full((6,), 0.36, dtype=F64))
    huber = PseudoHuber(1e3)(torch.full((6, 2), 0.6), torch.zeros(6, 2)).double()
    torch.testing.assert_close(errors[0.5], 0.5 * 0.36 + 0.5 * huber)
    torch.testing.assert_close(errors[1 - 1e-3], 1e-3 * 0.36 + (1 - 1e-3) * huber, rtol=1e-6, atol=0)
    assert bool(errors[1.0].isfinite().all())


@pytest.mark.parametrize("kind", ["velocity", "noise", "data", "v"])
def test_any_kind_is_measured_on_the_data(kind):
    path, t = Path.vp(), torch.linspace(0.2, 0.9, 6, dtype=F64)
    point = path.sample(X1, t, z=X0)
    errors = OnData(L2()).on(point, kind, point.target(kind))
    assert float(errors.abs().max()) < 1e-20
    off = path.prediction({"data": X1 + 0.3, "noise": (point.x - path.coefficients(t).b[:, None] * (X1 + 0.3)) / path.coefficients(t).c[:, None]}, point.x,
                          point.at).of(kind)
    torch.testing.assert_close(OnData(L2()).on(point, kind, off), torch.full_like(X1, 0.09), rtol=1e-7, atol=0)


def test_its_gradient_reaches_the_network_in_float32():
    net = nn.Linear(2, 2)
    loss = Matching(LINEAR, metric=PerceptualHuber(lambda x: torch.sin(x)))(lambda x, t, cond: net(x), Pair(X1.float(), X0.float()), seed=1)
    loss.value.backward()
    assert bool(net.weight.grad.isfinite().all()) and float(net.weight.grad.abs().min()) > 0


@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda: FlowGuided(lambda x: x), TypeError, None),
    (lambda: FlowGuided(field(Scaled(1.0), Path.vp())), ValueError, "teacher must live on Path.linear"),
    (lambda: FlowGuided(field(Scaled(1.0), JOINED)), ValueError, "source must be given: a two-sided path"),
    (lambda: FlowGuided(field(Scaled(1.0)), X0), TypeError, "source must have a method sample"),
    (lambda: FlowGuided(field(Scaled(1.0)), between=(0.8, 0.2)), ValueError, "between must be two times that rise"),
    (lambda: FlowGuided(field(Scaled(1.0)), between=(0.2, 1.8)), ValueError, r"between must lie in \[0, 1\], got 1.8"),
    (lambda: FlowGuided(field(Scaled(1.0)), metric=L2), TypeError, None),
    (lambda: FlowGuided(field(Scaled(1.0)), skewed())(lambda x, t, cond: x, Pair(torch.zeros(4, 3, dtype=F64))), ValueError, "a draw of source must have shape"),
    (lambda: FlowGuided(field(Scaled(1.0)))(lambda x, t, cond: x[:, :1], Pair(X1)), ValueError, "the answer of net must have shape"),
    (lambda: FlowGuided(field(Scaled(1.0)), between=(0.2, 0.5, 0.8)), ValueError, r"between must be two times that rise, got \(0.2, 0.5, 0.8\)"),
    (lambda: FlowGuided(field(Scaled(1.0)), between=0.5), (ValueError, TypeError), "between"),
    (lambda: FlowGuided(field(Scaled(1.0)))(lambda x, t, cond: (x, x), Pair(X1)), TypeError, "the answer of net must be a torch.Tensor, got tuple"),
    (lambda: Distill("linear"), TypeError, "path"),
    (lambda: Distill(Path.vp()), ValueError, "path must be Path.linear"),
    (lambda: Distill()(Scaled(1.0), Pair(X1)), ValueError, "distillation needs pairs with an x0 each"),
    (lambda: Distill(metric=L2), TypeError, None),
    (lambda: PerceptualHuber(3), TypeError, None),
    (lambda: PerceptualHuber(FEATURES, -1.0), ValueError, "c must lie in"),
    (lambda: PerceptualHuber(FEATURES, least=0.0), ValueError, "least must lie in"),
    (lambda: Matching(Path.vp(), metric=PerceptualHuber(FEATURES))(Scaled(1.0), Pair(X1)), ValueError, "PerceptualHuber measures a velocity on .* got velocity"),
    (lambda: Matching(LINEAR, "noise", metric=PerceptualHuber(FEATURES))(Scaled(1.0), Pair(X1)), ValueError, "got noise on"),
    (lambda: OnData(L2), TypeError, None),
    (lambda: OnData(PerceptualHuber(FEATURES)), TypeError, None),
    (lambda: Matching(Path.interpolant(), metric=OnData(L2()))(Scaled(1.0), Pair(X1, X0)), ValueError, "data of a two-sided path cannot be read off velocity"),
    (lambda: Matching(LINEAR, metric=object()), TypeError, None),
])
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call()
