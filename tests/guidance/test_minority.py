"""Minority scores against their closed form on Gaussians, classifier guidance against Bayes' rule, and guidance to a bin on a plane mixture."""
import math

import pytest
import torch

from rheos.core import Draws
from rheos.data import GaussianMixture
from rheos.guidance.classifier import ClassifierGuided
from rheos.guidance.classifier_free import classifier_free
from rheos.guidance.minority import MinorityGuidance, NoisyClassifier, minority_score, quantile_bins
from rheos.paths import ExactField, Field, Path
from rheos.samplers import DDIM, sample

F64 = torch.float64
PATHS = {"linear": Path.linear(), "vp": Path.vp(), "edm": Path.edm()}
MEAN, SPREAD = torch.tensor([[0.7, -1.2]], dtype=F64), torch.tensor([[0.3, 1.7]], dtype=F64)
GAUSS = GaussianMixture(torch.ones(1, dtype=F64), MEAN, SPREAD)
PLANE = GaussianMixture(torch.tensor([0.9, 0.1], dtype=F64), torch.tensor([[-2.0, 0.0], [2.0, 0.0]], dtype=F64), torch.tensor([0.09, 0.09], dtype=F64),
                        torch.tensor([0, 1]))


# -- the score ------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS.keys())
def test_the_score_on_a_gaussian(path, seed):
    """x - E[x1 | x_t] = (1 - k b) (x - m) - k c z, k = b v / (b^2 v + c^2): its mean square is known. 4,000 numbers: 5 standard errors."""
    t = float(path.time_at(0.2))
    at, x = path.coefficients(t), torch.tensor([[0.7, -1.2], [2.5, 0.3], [-1.0, 4.0]], dtype=F64)
    gain = at.b * SPREAD / (at.b**2 * SPREAD + at.c**2)
    bias, noise = (1 - gain * at.b) * (x - MEAN), (gain * at.c) ** 2
    expected = (bias**2 + noise).sum(1)
    error = (2 * noise**2 + 4 * bias**2 * noise).sum(1).sqrt() / math.sqrt(4000)
    scores = minority_score(ExactField(path, GAUSS), x.repeat(800, 1), t, seed=seed).reshape(800, 3)
    assert bool(((scores.mean(0) - expected).abs() < 5 * error).all())


def test_what_is_rare_scores_high(seed):
    x, y = PLANE.sample_with_labels(600, seed=seed)
    field = ExactField(Path.vp(), PLANE)
    scores = minority_score(field, x, 0.5, seed=seed)
    # One in ten thousand of the 54 x 546 pairs may be out of order.
    assert float((scores[y == 1][:, None] > scores[y == 0]).double().mean()) > 0.995
    early = minority_score(field, x, 0.8, seed=seed)
    assert float((early[y == 1][:, None] > early[y == 0]).double().mean()) < 0.8
    torch.testing.assert_close(minority_score(field, x, seed=seed), minority_score(field, x, float(Path.vp().time_at(-1.0)), seed=seed))


def test_the_score_does_not_depend_on_the_batch(seed):
    field, x = ExactField(Path.vp(), PLANE), PLANE.sample(50, seed=seed)
    labels = torch.arange(50) % 2
    whole = minority_score(field, x, 0.6, cond=labels, seed=seed)
    torch.testing.assert_close(minority_score(field, x, 0.6, cond=labels, batch=7, seed=seed), whole, rtol=1e-10, atol=0)
    assert not torch.allclose(whole, minority_score(field, x, 0.6, seed=seed))


def test_a_distance_of_ones_own():
    field, x = ExactField(Path.vp(), GAUSS), torch.tensor([[0.3, 0.1], [1.0, -2.0]], dtype=F64)
    first = minority_score(field, x, 0.5, 1, lambda a, b: (a - b)[:, 0])
    second = minority_score(field, x, 0.5, 1, lambda a, b: (a - b)[:, 1])
    torch.testing.assert_close(first**2 + second**2, minority_score(field, x, 0.5, 1))


def test_a_score_on_an_edge_is_of_the_rarer_bin():
    edges, labels = quantile_bins(torch.tensor([5.0, 3.0, 1.0, 4.0, 2.0], dtype=F64), 2)
    assert edges.tolist() == [3.0] and labels.tolist() == [1, 1, 0, 1, 0]


def test_quantile_bins():
    scores = torch.tensor([5.0, 1.0, 4.0, 2.0, 3.0, 6.0], dtype=F64)
    edges, labels = quantile_bins(scores, 3)
    assert labels.tolist() == [2, 0, 1, 0, 1, 2]
    assert 2 < edges[0] < 3.01 and 4 < edges[1] < 5.01


# -- classifier guidance --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS.keys())
def test_a_true_classifier_gives_the_conditional_field(path, seed):
    """Bayes' rule: with p(y | x_t) of the mixture itself and scale 1 the guided field is the field of the class; with scale 0 the plain one."""
    law = GaussianMixture(torch.tensor([0.2, 0.5, 0.3], dtype=F64), torch.tensor([[1.0, -2.0], [0.3, 0.7], [-1.5, 0.2]], dtype=F64),
                          torch.tensor([0.3, 0.8, 0.5], dtype=F64), torch.tensor([0, 1, 0]))
    field, t = ExactField(path, law), float(path.time_at(0.1))
    at = path.coefficients(t)
    joint = law.given(0).scaled(float(at.b), float(at.c))

    def log_prob(x, times):
        assert times.shape == (6,) and float(times[0]) == t
        return joint.log_prob(x) - law.scaled(float(at.b), float(at.c)).log_prob(x)

    x = Draws(seed).rows("x", 0, (6, 2), dtype=F64)
    guided = ClassifierGuided(field, log_prob, 1.0)
    zeros = torch.zeros(6, dtype=torch.int64)
    torch.testing.assert_close(guided.score(x, t), field.score(x, t, zeros), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(guided.velocity(x, t), field.velocity(x, t, zeros), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(ClassifierGuided(field, log_prob, 0.0).data(x, t), field.data(x, t), rtol=1e-8, atol=1e-8)
    asked = 2.5 * (field.score(x, t, zeros) - field.score(x, t))
    torch.testing.assert_close(ClassifierGuided(field, log_prob, 2.5).score(x, t) - field.score(x, t), asked, rtol=1e-8, atol=1e-8)
    assert guided.nfe == 2


def test_gradients_pass_where_the_start_asks_for_them():
    guided = ClassifierGuided(ExactField(Path.vp(), GAUSS), lambda x, t: -(x**4).sum(1), 0.5)
    x = torch.tensor([[0.4, -0.3]], dtype=F64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: guided.score(x, 0.5), x)
    assert not guided.score(x.detach(), 0.5).requires_grad


# -- guidance to a bin ----------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted():
    x = PLANE.sample(800, seed=3)
    return MinorityGuidance.fit(ExactField(Path.vp(), PLANE), x.float(), bins=10, t=0.5, steps=300, seed=1)


def test_bins_are_even_and_the_classifier_learns_them(fitted):
    assert torch.bincount(fitted.labels).tolist() == [80] * 10 and fitted.bins == 10
    x = PLANE.sample(400, seed=9)
    log_prob = fitted.log_prob(x, torch.full((400,), 0.9, dtype=F64))
    torch.testing.assert_close(log_prob.exp().sum(1), torch.ones(400, dtype=F64), rtol=1e-5, atol=1e-5)
    # At t = 0.9 sides are plain to see: the far one is the last bin's, with the tail of the tenth.
    rare = x[:, 0] > 0
    assert float(log_prob[rare, -1].exp().mean()) > 0.7 > 0.2 > float(log_prob[~rare, -1].exp().mean())


def test_the_rarest_bin_is_the_rare_component(fitted, seed):
    """A tenth of the samples lies on the rare side without guidance; asked for the rarest bin most do, for a common one next to none."""
    share = lambda field: float((sample(field, 200, shape=(2,), rule=DDIM(), steps=25, seed=seed)[:, 0] > 0).double().mean())
    assert share(fitted.inner) < 0.25
    assert share(fitted.field(scale=2.0)) > 0.6
    assert share(fitted.field(2, 2.0)) < 0.05


def test_a_seed_makes_the_same_classifier():
    x = PLANE.sample(60, seed=3).float()
    make = lambda seed: MinorityGuidance.fit(ExactField(Path.vp(), PLANE), x, bins=3, steps=3, seed=seed)
    made = [make(seed) for seed in (1, 1, 2)]
    assert torch.equal(made[0].scores, made[1].scores) and not bool((made[0].scores == made[2].scores).any())
    states = [fit.classifier.state_dict() for fit in made]
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    assert any(not torch.equal(states[0][k], states[2][k]) for k in states[0])


def test_a_network_of_ones_own_is_trained_and_put_to_evaluation():
    x, net = PLANE.sample(60, seed=3).float(), NoisyClassifier((2,), 3, width=8, depth=1)
    before = net.leave.weight.clone()
    made = MinorityGuidance.fit(ExactField(Path.vp(), PLANE), x, bins=3, steps=2, net=net)
    torch.testing.assert_close(made.log_prob(x, 0.4), made.log_prob(x, torch.full((60,), 0.4, dtype=F64)))
    assert made.classifier is net and not net.training and not torch.equal(before, net.leave.weight) and not net.leave.weight.requires_grad


# -- refusals --------------------------------------------------------------------------------------------------------------------------------------

FIELD, ROWS = ExactField(Path.vp(), PLANE), PLANE.sample(20, seed=0)


@pytest.mark.parametrize(("call", "error", "told"), [
    (lambda: minority_score(lambda x: x, ROWS), TypeError, "field"),
    (lambda: minority_score(ExactField(Path.interpolant(), GAUSS, GAUSS), ROWS), ValueError, "one-sided"),
    (lambda: minority_score(FIELD, ROWS, 1.0), ValueError, "t must lie in"),
    (lambda: minority_score(FIELD, ROWS, 0.0), ValueError, "t must lie in"),
    (lambda: minority_score(FIELD, ROWS, 0.5, 0), ValueError, "draws must be at least 1"),
    (lambda: minority_score(FIELD, ROWS[:0], 0.5), ValueError, "at least one row"),
    (lambda: minority_score(FIELD, ROWS, 0.5, batch=0), ValueError, "batch must be at least 1"),
    (lambda: minority_score(FIELD, ROWS, 0.5, distance=lambda a, b: (a - b).abs()), ValueError, r"distance must return shape \(20,\)"),
    (lambda: minority_score(FIELD, ROWS.index_fill(0, torch.tensor([3]), math.nan), 0.5), ValueError, r"x must be finite.*\(3, 0\)"),
    (lambda: minority_score(FIELD, ROWS, 0.5, distance=lambda a, b: (a / 0)[:, 0]), ValueError, "distance must be finite"),
    (lambda: MinorityGuidance.fit(FIELD, ROWS, bins=4, net=NoisyClassifier((2,), 3).double(), steps=1), ValueError,
     r"net must return logits of shape \(batch, 4\)"),
    (lambda: MinorityGuidance.fit(FIELD, ROWS, bins=4, net=NoisyClassifier((2,), 5).double(), steps=1), ValueError, "net must return logits"),
    (lambda: MinorityGuidance.fit(FIELD, ROWS, bins=1), ValueError, "bins must be at least 2"),
    (lambda: MinorityGuidance.fit(FIELD, ROWS, bins=21), ValueError, "bins must be at most the 20 rows"),
    (lambda: MinorityGuidance.fit(FIELD, ROWS, bins=4, distance=lambda a, b: torch.zeros(len(a)), steps=1), ValueError, r"\[0, 0, 0, 20\] rows"),
    (lambda: MinorityGuidance.fit(FIELD, ROWS, bins=4, steps=0), ValueError, "steps must be at least 1"),
    (lambda: MinorityGuidance.fit(FIELD, ROWS, bins=4, rate=0.0), ValueError, "rate must lie in"),
    (lambda: MinorityGuidance(FIELD, NoisyClassifier((2,), 4), torch.zeros(3), torch.zeros(9), torch.zeros(9)).field(4), ValueError, "bin must lie in"),
    (lambda: ClassifierGuided(lambda x: x, lambda x, t: x, 1.0), TypeError, "field"),
    (lambda: ClassifierGuided(FIELD, 3.0, 1.0), TypeError, "log_prob"),
    (lambda: ClassifierGuided(FIELD, lambda x, t: x[:, 0], math.inf), ValueError, "scale must lie in"),
    (lambda: ClassifierGuided(ExactField(Path.interpolant(), GAUSS, GAUSS), lambda x, t: x[:, 0], 1.0), ValueError, "one-sided"),
    (lambda: ClassifierGuided(FIELD, lambda x, t: x, 1.0).score(ROWS, 0.5), ValueError, r"log_prob must return shape \(20,\)"),
    (lambda: ClassifierGuided(FIELD, lambda x, t: x[:, 0].detach(), 1.0).score(ROWS, 0.5), ValueError, "log_prob must depend on x through operations"),
    (lambda: ClassifierGuided(FIELD, lambda x, t: torch.ones(20, dtype=F64, requires_grad=True), 1.0).score(ROWS, 0.5), ValueError, "log_prob must depend on x"),
    (lambda: ClassifierGuided(FIELD, lambda x, t: 3.0, 1.0).score(ROWS, 0.5), ValueError, r"log_prob must return shape \(20,\).* got 3.0"),
    (lambda: classifier_free(3, 2.0), TypeError, "field"),
    (lambda: classifier_free(classifier_free(FIELD, 2.0), 1.0), ValueError, "guidance must be given once: the field is guided already, by 2"),
    (lambda: MinorityGuidance(FIELD, NoisyClassifier((2,), 4), torch.zeros(3), torch.zeros(9), torch.zeros(9)).log_prob(ROWS, 1.5), ValueError, "t must lie in"),
    (lambda: NoisyClassifier((2,), 1), ValueError, "classes must be at least 2"),
])
def test_refusals(call, error, told):
    with pytest.raises(error, match=told):
        call()


def test_a_network_without_a_shape_needs_no_event():
    assert ClassifierGuided(Field(lambda x, t, cond: x, Path.linear(), "noise"), lambda x, t: x[:, 0], 1.0).event is None
