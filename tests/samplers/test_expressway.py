"""Shallow starts: the law they give, the steps they take, what they carry along, refusals."""
import pytest
import torch

from rheos.core import Draws
from rheos.couplings import Independent, SemiDiscrete
from rheos.data import GaussianMixture, skewed, two_moons
from rheos.metrics import sliced_w2
from rheos.paths import QUADRATIC, ExactField, Field, Path, Times
from rheos.samplers import AdamsBashforth, AdaptiveRungeKutta, DPMSolverPP, Euler, Exponential, Expressway, RungeKutta, sample

F = torch.float64
PATH = Path.linear()
FIELD = ExactField(PATH, two_moons())


def latents(n, t, seed):
    return PATH.sample(two_moons().sample(n, seed=seed), torch.full((n,), t, dtype=F), seed=seed).x


def test_a_start_that_is_right_needs_few_steps(seed):
    points = latents(400, 0.8, seed)
    plan = SemiDiscrete(None, points).fit(300, 512, seed=seed)
    truth, short = two_moons().sample(3000, seed=seed + 1), Euler()
    made = Expressway(FIELD, plan, 0.8)(1500, steps=3, rule=short, seed=seed)
    plain = sample(FIELD, 1500, steps=3, rule=short, seed=seed)
    assert float(sliced_w2(made, truth)) < 0.6 * float(sliced_w2(plain, truth))


def test_it_is_sample_from_the_couplings_points(seed):
    points, rule = latents(50, 0.7, seed), Exponential(2, "data")
    way = Expressway(FIELD, Independent(points), 0.7)
    made = way(20, steps=4, rule=rule, seed=seed)
    start = Independent(points).sample(20, seed=Draws(seed).child("expressway")).x1
    times = way.times(4, rule)
    assert torch.equal(made, sample(FIELD, start=start, rule=rule, times=times, seed=seed))
    assert float(times.t[0]) == 0.7 and times.t[-1] == rule.times(PATH, 4).t[-1] and times.steps == 4 and float(way.times(4, Euler()).t[-1]) == 1.0
    assert torch.equal(made, way(20, rule=rule, times=times, seed=seed)) and not torch.equal(made, way(20, steps=4, rule=rule, seed=seed + 1))
    torch.testing.assert_close(way(20, steps=4, rule=rule, seed=seed, batch=7), made, rtol=1e-10, atol=1e-10)


def test_every_call_is_spent_after_the_start():
    asked = []
    field = Field(lambda x, t, cond: asked.append(float(t[0])) or -x, PATH)
    Expressway(field, Independent(torch.ones(5, 2)), 0.6)(5, steps=8, rule=Euler())
    assert field.nfe == 8 == len(asked) and asked == pytest.approx([0.6 + 0.05 * k for k in range(8)])


def test_conditions_go_with_their_points():
    labels = torch.tensor([0, 1, 1])
    points = torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, 3.0]])
    seen = []
    field = Field(lambda x, t, cond: seen.append((x.clone(), cond)) or 0 * x, PATH)
    way = Expressway(field, Independent(points, cond=labels), 0.5)
    way(9, steps=1, rule=Euler())
    x, cond = seen[0]
    assert torch.equal((x[:, 0] == 0).long(), cond)
    Expressway(field, Independent(points), 0.5)(4, steps=1, rule=Euler(), cond=3)
    assert seen[1][1].tolist() == [3] * 4


def test_a_network_that_predicts_data_is_not_asked_without_noise():
    field = Field(lambda x, t, cond: 0.5 * x, PATH, "data")
    way = Expressway(field, Independent(torch.ones(5, 2)), 0.6)
    assert bool(torch.isfinite(way(3, steps=4, rule=RungeKutta(2))).all())


GAUSS = ExactField(PATH, GaussianMixture(torch.ones(1, dtype=F), torch.tensor([[2.0, -1.0]], dtype=F), torch.tensor([[0.3, 1.7]], dtype=F)))


def test_the_flow_from_the_exact_law_at_start_has_the_targets_law(seed):
    at, rows = PATH.coefficients(0.4), Draws(seed).rows("exact", 0, (4000, 2), dtype=F)
    std = (at.b**2 * GAUSS.target.covariance[0] + at.c**2).sqrt()
    way = Expressway(GAUSS, Independent(at.b * GAUSS.target.means[0] + std * rows), 0.4)
    x = way(4000, steps=20, rule=RungeKutta(4), seed=seed)
    torch.testing.assert_close(x.mean(0), GAUSS.target.means[0], rtol=0, atol=5 * (1.7 / 4000) ** 0.5)
    torch.testing.assert_close(x.var(0), GAUSS.target.covariance[0], rtol=5 * (2 / 4000) ** 0.5, atol=0)


@pytest.mark.parametrize("rule", [DPMSolverPP(2), AdamsBashforth(2, spacing=QUADRATIC), Euler()], ids=lambda rule: type(rule).__name__)
def test_its_own_times_are_even_in_the_rules_clock(rule):
    path = Path.vp()
    times = Expressway(ExactField(path, two_moons()), Independent(torch.ones(5, 2)), 0.6).times(5, rule)
    at = [path.coefficients(float(t)) for t in times.t]
    share = torch.tensor([(float(a.c) / (float(a.b) + float(a.c))) ** 0.5 for a in at], dtype=F)       # sqrt(rho / (1 + rho))
    place = {"DPMSolverPP": share, "AdamsBashforth": (1 - times.t).sqrt(), "Euler": times.t}[type(rule).__name__]
    torch.testing.assert_close(place.diff(), place.diff().mean().expand(5), rtol=1e-6, atol=1e-9)


class Law:
    """Draws tensors, not pairs."""

    def sample(self, n, *, seed=0, step=0):
        return torch.ones(n, 2)


WAY = Expressway(FIELD, Independent(skewed().sample(9, seed=0)), 0.5)


@pytest.mark.parametrize(("make", "error", "words"), [
    (lambda: Expressway(FIELD, WAY.coupling, 0.0), ValueError, r"start must lie in \(0, 1\), got 0"),
    (lambda: Expressway(FIELD, WAY.coupling, 1.0), ValueError, r"start must lie in \(0, 1\), got 1"),
    (lambda: Expressway(FIELD, WAY.coupling, -2.0), ValueError, r"start must lie in \(0, 1\), got -2"),
    (lambda: Expressway(lambda x, t: x, WAY.coupling, 0.5), TypeError, "field must be a Field, got function|Type-check error"),
    (lambda: Expressway(FIELD, torch.ones(3, 2), 0.5), TypeError, "coupling must have a method sample|Type-check error"),
    (lambda: Expressway(FIELD, SemiDiscrete(None, latents(5, 0.5, 0)), 0.5)(3), ValueError, "not fitted yet"),
    (lambda: WAY(0), ValueError, "n must be at least 1, got 0"),
    (lambda: WAY(3, steps=0), ValueError, "steps must be at least 1, got 0"),
    (lambda: WAY(3, times=Times.uniform(PATH, 4)), ValueError, "times must begin at start = 0.5, got 0"),
    (lambda: WAY(3, rule=AdaptiveRungeKutta()), TypeError, "rule must be a rule that takes steps of given length|Type-check error"),
    (lambda: WAY(3, rule=Euler), TypeError, r"rule must be an instance such as Euler\(\), got the class Euler|Type-check error"),
    (lambda: WAY(3, steps=4, times=Times.uniform(PATH, 4, start=0.5)), ValueError, "steps must be left out where times are given, got 4"),
    (lambda: Expressway(FIELD, Law(), 0.5)(3), TypeError, "coupling must give a Pair .* got Tensor"),
    (lambda: WAY(3, start=torch.zeros(3, 2)), ValueError, "start must be left out"),
    (lambda: WAY(3, shape=(2,)), ValueError, "shape must be left out"),
    (lambda: Expressway(FIELD, Independent(torch.ones(3, 2), cond=torch.zeros(3)), 0.5)(3, cond=1), ValueError, "cond must be left out"),
])
def test_refusals(make, error, words):
    with pytest.raises(error, match=words):
        make()
