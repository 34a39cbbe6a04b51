"""The classifier's two-sample test against the accuracy of the best classifier there is."""
from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier

from rheos.core import Draws
from rheos.data import GaussianMixture, load, skewed, two_moons
from rheos.metrics import classifier_two_sample, digit_features

F64 = torch.float64


def test_one_half_between_samples_of_one_law(seed):
    values = [classifier_two_sample(skewed().sample(200, seed=Draws(seed).child(f"x{k}")), skewed().sample(150, seed=Draws(seed).child(f"y{k}"))).item()
              for k in range(12)]
    # 300 judged rows a value; rows are judged by classifiers that share rows, so the spread is taken from the values too
    spread = torch.tensor(values).std().item()
    assert abs(sum(values) / 12 - 0.5) < 5 * max(spread, 0.5 / math.sqrt(300)) / math.sqrt(12)


@pytest.mark.parametrize("shift", [1.0, 2.5])
def test_the_best_accuracy_between_shifted_normals(seed, shift):
    n, direction = 1500, torch.tensor([0.6, -0.8], dtype=F64)
    x, y = Draws(seed).rows("x", 0, (n, 2), dtype=F64), Draws(seed).rows("y", 0, (n, 2), dtype=F64) + shift * direction
    best = norm.cdf(shift / 2)
    error = 5 * math.sqrt(best * (1 - best) / (2 * n))
    linear = classifier_two_sample(x, y, classifier=LogisticRegression()).item()
    assert abs(linear - best) < error + 0.003                   # 0.003: the boundary is learned from 2,400 rows
    assert best - 0.03 - error < classifier_two_sample(x, y).item() < best + error


def test_sees_what_two_moments_do_not(seed):
    moons = two_moons().sample(400, seed=seed)
    twin = GaussianMixture.fit(moons).sample(400, seed=seed)
    assert classifier_two_sample(moons, twin).item() > 0.62
    assert classifier_two_sample(moons, twin, classifier=LogisticRegression()).item() < 0.6


def test_sees_a_little_noise_on_digits_and_features_that_do_not_carry_it(seed):
    data = load("digits")
    x = data.x[:300] + 0.2 * Draws(seed).rows("noise", 0, (300, 1, 8, 8))
    value, seen = classifier_two_sample(x, data.held_out.x[:250]), classifier_two_sample(x, data.held_out.x[:250], features=digit_features())
    assert value.item() > 0.95 > seen.item() + 0.1 and value.dtype == torch.float32


class Recorder(DecisionTreeClassifier):
    """A tree that keeps what it is shown."""

    seen: list = []                                             # noqa: RUF012  (shared by clones on purpose)

    def fit(self, X, y):
        self.seen.append(("fit", X[:, 0].tolist(), y.tolist(), self.random_state))
        return super().fit(X, y)

    def predict(self, X):
        self.seen.append(("predict", X[:, 0].tolist()))
        return super().predict(X)


def test_every_row_is_judged_once_and_never_by_who_has_seen_it(seed):
    Recorder.seen = []
    x, y = torch.arange(10.0)[:, None], 100 + torch.arange(17.0)[:, None]
    value = classifier_two_sample(x, y, folds=3, seed=seed, classifier=Recorder(max_depth=1))
    fits, predictions = Recorder.seen[::2], Recorder.seen[1::2]
    judged = sum((p[1] for p in predictions), [])
    assert len(fits) == 3 and len(judged) == 20 == len(set(judged)) and sorted(v for v in judged if v < 100) == list(range(10))
    for (_, shown, labels, state), (_, asked) in zip(fits, predictions, strict=True):
        assert not set(shown) & set(asked) and sum(labels) * 2 == len(labels) and isinstance(state, int)
        assert [v >= 100 for v in shown] == [label == 1 for label in labels]
    assert len({state for *_, state in fits}) == 3 and value.item() == 1.0
    fixed = Recorder(random_state=7)
    classifier_two_sample(x, y, folds=2, classifier=fixed)
    assert Recorder.seen[-2][3] == 7 and not hasattr(fixed, "tree_")        # a state of one's own stays, and the original is not trained


def test_the_seed_is_used_and_the_value_is_a_function_of_it(seed):
    x, y = skewed().sample(90, seed=seed), skewed().sample(130, seed=seed + 1000)
    values = [classifier_two_sample(x, y, seed=s).item() for s in range(4)]
    assert values == [classifier_two_sample(x, y, seed=s).item() for s in range(4)] and len(set(values)) > 1
    assert classifier_two_sample(x, y, seed=Draws(3)).item() == values[3]
    state = torch.get_rng_state()
    classifier_two_sample(x, y)
    assert torch.equal(torch.get_rng_state(), state)


X, NAN = torch.arange(24.0).reshape(8, 3), torch.tensor([[0.0], [math.nan]])


@pytest.mark.parametrize("call, message", [
    (lambda: classifier_two_sample(X, torch.ones(8, 2)), r"same event shape, got \(3,\) and \(2,\)"),
    (lambda: classifier_two_sample(X, X[:4]), "folds must be at most the 4 rows of y, got 5"),
    (lambda: classifier_two_sample(X, X, folds=1), "folds must be at least 2, got 1"),
    (lambda: classifier_two_sample(NAN, NAN, folds=2), "x must be finite"),
    (lambda: classifier_two_sample(X[:0], X), "x must have at least one row"),
])
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_name_is_no_classifier():
    with pytest.raises(TypeError):
        classifier_two_sample(X, X, classifier="forest")
