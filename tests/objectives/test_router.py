"""Cross-entropy at noisy points: its value is that of the exact posterior, its minimum the posterior, sizes included."""
import math
from functools import partial

import pytest
import torch
from torch import nn

from rheos.core import Draws, evolve
from rheos.couplings import Independent, Pair
from rheos.data import GaussianMixture
from rheos.nets.classifier import MLPClassifier
from rheos.objectives import LogNormal, Uniform
from rheos.objectives.router import CrossEntropy
from rheos.paths import ExactField, Path
from rheos.paths.mixture import PosteriorRouter
from rheos.training import Cosine, Descent

F64 = torch.float64
X = torch.tensor([[-1.5, 0.2], [-1.0, -0.4], [-0.8, 0.9], [1.2, 0.5], [2.0, -1.0], [0.3, 0.1]], dtype=F64)
PART = torch.tensor([0, 0, 0, 0, 1, 1])


def test_the_value_is_the_negative_log_probability_of_the_part(seed):
    """A network of constant logits: whatever the point, the loss is log(sum e^l) - l_k."""
    logits = torch.tensor([0.3, -1.2, 2.0], dtype=F64)
    loss = CrossEntropy(Path.vp())(lambda x, t, cond: logits.expand(len(x), 3), Pair(X[:4], None, torch.tensor([2, 0, 1, 2])), seed=seed)
    z = math.log(sum(math.exp(v) for v in logits.tolist()))
    expected = torch.tensor([z - 2.0, z - 0.3, z + 1.2, z - 2.0], dtype=F64)
    torch.testing.assert_close(loss.per_sample, expected)
    torch.testing.assert_close(loss.value, expected.mean())


def test_the_exact_posterior_has_the_least_loss(seed):
    path = Path.linear()
    parts = [ExactField(path, GaussianMixture.points(X[PART == k])) for k in (0, 1)]
    objective = CrossEntropy(path, Uniform(0.02))
    rows = Draws(seed).integers("row", 0, (20_000,), 6)
    pair = Pair(X[rows], None, PART[rows])
    of = lambda router: objective(router, pair, seed=seed)
    best = of(PosteriorRouter(parts, [4.0, 2.0]))
    for rival in (PosteriorRouter(parts, [1.0, 1.0]), PosteriorRouter(parts, [2.0, 4.0]), lambda x, t, cond: torch.tensor([2 / 3, 1 / 3], dtype=F64).log().expand(len(x), 2)):
        gap = of(rival).per_sample - best.per_sample
        assert float(gap.mean()) > 5 * float(gap.std()) / math.sqrt(len(gap))       # Gibbs' inequality, 5 standard errors clear


def test_points_and_times_are_those_of_the_path(seed):
    path, seen = Path.vp(), []
    net = lambda x, t, cond: seen.append((x, t)) or torch.zeros(len(x), 2, dtype=F64)
    objective = CrossEntropy(path)
    far = torch.full((4000, 1), 3.0, dtype=F64)
    objective(net, Pair(far, None, torch.zeros(4000, dtype=torch.int64)), seed=seed, step=2)
    x, t = seen[0]
    at = path.coefficients(t)
    z = (x[:, 0] - 3.0 * at.b) / at.c               # standard normal if x is alpha x1 + sigma z at these times
    assert abs(float(z.mean())) < 5 / math.sqrt(4000) and abs(float(z.var()) - 1) < 5 * math.sqrt(2 / 4000)
    assert abs(float(t.mean()) - 0.5) < 5 / math.sqrt(12 * 4000) and abs(float(t.var()) - 1 / 12) < 5 / math.sqrt(180 * 4000)
    objective(net, Pair(far, None, torch.zeros(4000, dtype=torch.int64)), seed=seed, step=2)
    objective(net, Pair(far, None, torch.zeros(4000, dtype=torch.int64)), seed=seed, step=3)
    assert torch.equal(seen[1][0], x) and not torch.equal(seen[2][0], x)
    loud = Path.edm(0.01, 40.0)
    CrossEntropy(loud, LogNormal(-0.5, 1.2), unit_input=True)(net, Pair(far, None, torch.zeros(4000, dtype=torch.int64)), seed=seed)
    x, t = seen[3]
    assert float(x.abs().max()) < 3 + 7 and float(loud.coefficients(t).c.log().mean()) == pytest.approx(-0.5, abs=5 * 1.2 / math.sqrt(4000))


def test_a_pairs_source_is_used_and_conditions_are_told(seed):
    seen = []
    net = lambda x, t, cond: seen.append((x, t, cond)) or torch.zeros(len(x), 2, dtype=F64)
    x0 = -2 * X
    CrossEntropy(Path.linear())(net, Pair(X, x0, {"part": PART, "cond": torch.arange(6)}), seed=seed)
    x, t, cond = seen[0]
    torch.testing.assert_close(x, t[:, None] * X + (1 - t)[:, None] * x0)
    assert torch.equal(cond, torch.arange(6))
    many = Pair(X.repeat(500, 1), None, {"part": PART.repeat(500), "cond": torch.arange(3000) % 7})
    CrossEntropy(Path.linear(), drop_condition=0.25)(net, many, seed=seed)
    dropped = float((seen[1][2] == -1).double().mean())
    assert abs(dropped - 0.25) < 5 * math.sqrt(0.25 * 0.75 / 3000)


class Logistic(nn.Module):
    """Logits of two points at -1 and 1 on the linear path, (slope * 2 t x / (1 - t)^2, prior)."""

    def __init__(self):
        super().__init__()
        self.slope, self.prior = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))

    def forward(self, x, t, cond=None):
        return torch.stack([self.slope * 2 * t * x[:, 0] / (1 - t) ** 2, self.prior.expand(len(x))], 1)


def test_what_is_learned_is_the_posterior_with_the_parts_sizes(seed):
    """log p(0 | x, t) - log p(1 | x, t) = log(1 / 3) - 2 t x / (1 - t)^2 by Bayes' rule, so that slope is -1 and prior log 3."""
    x, part = torch.tensor([[-1.0], [1.0], [1.0], [1.0]]), torch.tensor([0, 1, 1, 1])
    descent = Descent(CrossEntropy(Path.linear(), Uniform(0.2)), Independent(x, cond=part), 512, partial(torch.optim.Adam, lr=0.05), Cosine(250), seed=seed)
    net = evolve(descent, descent.init(Logistic()), 250).net
    assert abs(net.slope.item() + 1) < 0.1 and abs(net.prior.item() - math.log(3)) < 0.15


def test_a_fresh_classifier_knows_nothing():
    net = MLPClassifier((1, 3, 5), 4, width=16, depth=1, classes=3)
    assert torch.equal(net(torch.randn(2, 1, 3, 5), torch.tensor([0.1, 0.9]), torch.tensor([1, -1])), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="event shape"):
        net(torch.zeros(2, 1, 5, 3), torch.tensor([0.1, 0.9]))


FLAT = lambda x, t, cond: torch.zeros(len(x), 2, dtype=F64)
REFUSALS = {
    "path": (lambda: CrossEntropy("linear"), TypeError, "path"),
    "when": (lambda: CrossEntropy(Path.linear(), Uniform), TypeError, "when"),
    "drop": (lambda: CrossEntropy(Path.linear(), drop_condition=1.5), ValueError, "drop_condition"),
    "unit": (lambda: CrossEntropy(Path.interpolant(), unit_input=True), ValueError, "one-sided"),
    "no part": (lambda: CrossEntropy(Path.linear())(FLAT, Pair(X)), TypeError, "number of each row's part"),
    "floats": (lambda: CrossEntropy(Path.linear())(FLAT, Pair(X, None, X[:, 0])), TypeError, "int64, got torch.float64"),
    "rows": (lambda: CrossEntropy(Path.linear())(FLAT, Pair(X, None, PART[:3])), ValueError, r"cond must have shape \(6\), got \(3,\)"),
    "a part too many": (lambda: CrossEntropy(Path.linear())(FLAT, Pair(X, None, PART + 1)), ValueError, r"0 \.\. 1.*got 1 to 2"),
    "negative": (lambda: CrossEntropy(Path.linear())(FLAT, Pair(X, None, PART - 1)), ValueError, "got -1 to 0"),
    "no logits": (lambda: CrossEntropy(Path.linear())(lambda x, t, cond: x[:, 0], Pair(X, None, PART)), ValueError, r"logits \(6, parts\), got \(6,\)"),
    "two answers": (lambda: CrossEntropy(Path.linear())(lambda x, t, cond: (x, x), Pair(X, None, PART)), ValueError, "got tuple"),
    "outputs": (lambda: MLPClassifier((2,), 0), ValueError, "outputs must be at least 1"),
    "dropout": (lambda: MLPClassifier((2,), 2, dropout=1.0), ValueError, "dropout"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(case):
    import re

    call, kind, message = REFUSALS[case]
    with pytest.raises(kind) as caught:
        call()
    assert re.search(message, str(caught.value)) or "type-check" in str(caught.value).lower()


def test_objectives_add(seed):
    one, two = CrossEntropy(Path.linear()), CrossEntropy(Path.vp())
    pair, net = Pair(X, None, PART), nn.Linear(2, 2).double()
    ask = lambda x, t, cond: net(x)
    both = (one + 0.5 * two)(ask, pair, seed=seed)
    expected = one(ask, pair, seed=seed).value + 0.5 * two(ask, pair, seed=Draws(seed).child(1)).value
    torch.testing.assert_close(both.value, expected)
