"""Mixtures of fields: equal to the field of all the data when experts and router are exact; what `top` leaves out costs nothing."""
import math

import pytest
import torch
from torch import nn

from rheos.core import Draws
from rheos.data import GaussianMixture, load, skewed
from rheos.guidance import classifier_free
from rheos.paths import ExactField, Field, Fourier2d, Linear, Path, Student
from rheos.paths.mixture import LearnedRouter, Mixture, PosteriorRouter
from rheos.samplers import Euler, sample

F64 = torch.float64


def split(path, x, labels, y=None):
    """The exact field of x, and the mixture of those of its parts."""
    whole = ExactField(path, GaussianMixture.points(x, y))
    parts = [ExactField(path, GaussianMixture.points(x[labels == k], None if y is None else y[labels == k])) for k in range(int(labels.max()) + 1)]
    return whole, parts, PosteriorRouter(parts, torch.bincount(labels))


@pytest.fixture(scope="module")
def digits():
    from sklearn.cluster import KMeans

    x = load("digits").x.double()
    labels = torch.from_numpy(KMeans(8, n_init=1, random_state=0).fit_predict(x.flatten(1).numpy())).long()
    return x, labels


@pytest.mark.parametrize("t", [0.1, 0.5, 0.9])
def test_exact_experts_and_router_are_the_field_of_all_the_data(digits, t, seed):
    x, labels = digits
    whole, parts, router = split(Path.linear(), x, labels)
    at = torch.full((48,), t, dtype=F64)
    here = Path.linear().sample(x[Draws(seed).permutation("rows", 0, len(x))[:48]], at, seed=seed).x
    mixed, exact = Mixture(parts, router)(here, t), whole(here, t)
    for kind in ("velocity", "data", "noise", "score", "v"):
        scale = max(1.0, float(exact.of(kind).abs().max()))
        assert float((mixed.of(kind) - exact.of(kind)).abs().max()) <= 1e-12 * scale
    # Without the sizes, and with the likeliest expert alone, it is another field as long as a point's part is in doubt.
    if t < 0.3:
        for other in (Mixture(parts, PosteriorRouter(parts, torch.ones(8))), Mixture(parts, router, top=1)):
            assert float((other.velocity(here, t) - exact.velocity).abs().max()) > 1e-3


@pytest.mark.parametrize("path", [Path.cosine(), Path.vp(), Path.edm(0.01, 40.0), Path.linear(noise=Student(7.0)), Path(Linear(), basis=Fourier2d())],
                         ids=["cosine", "vp", "edm", "student", "basis"])
def test_on_other_paths_too_and_at_times_of_their_own(path, seed):
    x = Draws(seed).rows("x", 0, (23, 1, 3, 5), dtype=F64) + 0.4
    labels = torch.arange(23) % 7 % 3           # 10, 7 and 6 rows
    whole, parts, router = split(path, x, labels)
    t = torch.tensor([0.15, 0.4, 0.55, 0.7], dtype=F64)
    here = path.sample(x[:4], t, seed=seed).x
    torch.testing.assert_close(Mixture(parts, router).velocity(here, t), whole.velocity(here, t), rtol=1e-10, atol=1e-10)


def test_two_sided_fields_mix_source_and_target(seed):
    path, x = Path.interpolant("sqrt"), Draws(seed).rows("x", 0, (12, 2), dtype=F64) * 2
    source, labels = skewed(), torch.arange(12) % 5 % 2
    source = GaussianMixture(source.weights, source.means, torch.full((len(source.weights),), 0.3, dtype=F64))
    whole = ExactField(path, GaussianMixture.points(x), source)
    parts = [ExactField(path, GaussianMixture.points(x[labels == k]), source) for k in (0, 1)]
    here = Draws(seed).rows("here", 0, (6, 2), dtype=F64)
    mixed = Mixture(parts, PosteriorRouter(parts, torch.bincount(labels)))
    for kind in ("velocity", "score", "data"):
        torch.testing.assert_close(getattr(mixed, kind)(here, 0.4), getattr(whole, kind)(here, 0.4), rtol=1e-9, atol=1e-9)


def test_conditions_reach_the_router_and_every_expert(seed):
    path, x = Path.linear(), Draws(seed).rows("x", 0, (20, 3), dtype=F64)
    labels, y = torch.arange(20) % 7 % 2, torch.arange(20) % 5 % 3
    whole, parts, router = split(path, x, labels, y)
    here, cond = Draws(seed).rows("here", 0, (6, 3), dtype=F64), torch.tensor([0, 2, 1, 1, -1, 2])
    torch.testing.assert_close(Mixture(parts, router).velocity(here, 0.3, cond), whole.velocity(here, 0.3, cond), rtol=1e-11, atol=1e-11)
    guided, exact = (classifier_free(field, 2.5).velocity(here, 0.3, cond) for field in (Mixture(parts, router), whole))
    torch.testing.assert_close(guided, exact, rtol=1e-10, atol=1e-10)


class Marked(nn.Module):
    """Answers its number, and keeps what it was called with."""

    def __init__(self, number):
        super().__init__()
        self.number, self.seen, self.calls, self.told = number, [], 0, []
        self.dropout = nn.Dropout(0.5)

    def forward(self, x, t, cond):
        self.calls += 1
        self.seen += x[:, 0].tolist()
        self.told += [] if cond is None else cond["row"].tolist()
        assert not self.training
        return torch.full_like(x, self.number) + 0 * self.dropout(x) + t[:, None]


WEIGHTS = torch.tensor([[0.5, 0.2, 0.3], [0.1, 0.15, 0.75], [0.25, 0.35, 0.4], [0.6, 0.4, 0.0]], dtype=F64)
NUMBERS = torch.tensor([1.0, 10.0, 100.0], dtype=F64)


def marked(top=None, told=WEIGHTS):
    nets = [Marked(float(v)).eval() for v in NUMBERS]
    by_row = lambda x, t, cond: told[x[:, 0].long()]
    return nets, Mixture([Field(net, Path.linear()) for net in nets], by_row, top)


def rows_and_cond():
    return torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [3.0, 0.0]], dtype=F64), {"row": torch.tensor([0, 1, 2, 3])}


@pytest.mark.parametrize("top, wanted, asked, nfe", [
    (None, [0.5 + 2.0 + 30.0, 0.1 + 1.5 + 75.0, 0.25 + 3.5 + 40.0, 0.6 + 4.0], [[0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2]], 3),
    (1, [1.0, 100.0, 100.0, 1.0], [[0, 3], [], [1, 2]], 1),
    (2, [(0.5 + 30) / 0.8, (1.5 + 75) / 0.9, (3.5 + 40) / 0.75, 4.6], [[0, 3], [1, 2, 3], [0, 1, 2]], 2),
])
def test_only_the_wanted_experts_are_asked_and_only_for_their_rows(top, wanted, asked, nfe):
    nets, mixture = marked(top)
    x, cond = rows_and_cond()
    t = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=F64)
    torch.testing.assert_close(mixture.velocity(x, t, cond)[:, 1], torch.tensor(wanted, dtype=F64) + t)
    assert [net.seen for net in nets] == asked and [net.told for net in nets] == asked and mixture.nfe == nfe
    assert mixture.rows.tolist() == [len(rows) for rows in asked] and [net.calls for net in nets] == [int(bool(rows)) for rows in asked]
    mixture.velocity(x[:1], 0.1, {"row": torch.tensor([0])})
    assert mixture.nfe == nfe + min(nfe, 3)


def test_logarithms_and_probabilities_mean_the_same():
    x, cond = rows_and_cond()
    plain, logs = marked(2)[1].velocity(x, 0.5, cond), marked(2, WEIGHTS.log())[1].velocity(x, 0.5, cond)
    torch.testing.assert_close(plain, logs)
    sure = torch.tensor([[0.0, -math.inf, -math.inf]], dtype=F64).expand(4, 3)
    assert torch.equal(marked(None, sure)[1].velocity(x, 0.0, cond), torch.ones_like(x))
    one = Mixture([Field(Marked(5.0).eval(), Path.linear())], lambda x, t, cond: torch.zeros(len(x), 1))
    assert torch.equal(one.velocity(x, 0.0, cond), torch.full_like(x, 5.0))


def test_equally_likely_experts_are_chosen_alike_in_every_batch():
    x, cond = rows_and_cond()
    even = torch.full((4, 3), 1 / 3, dtype=F64)
    assert torch.equal(marked(1, even)[1].velocity(x, 0.0, cond), torch.ones_like(x))
    assert torch.equal(marked(2, even)[1].velocity(x, 0.0, cond), torch.full_like(x, 5.5))


def test_experts_that_predict_different_kinds_are_read_as_velocities(seed):
    path, x = Path.linear(), Draws(seed).rows("x", 0, (14, 3), dtype=F64)
    whole, parts, router = split(path, x, torch.arange(14) % 5 % 3)
    one = lambda part, kind: Field(lambda x, t, cond: getattr(part, kind)(x, t), path, kind)
    mixed = Mixture([one(parts[0], "noise"), one(parts[1], "data"), one(parts[2], "velocity")], router)
    assert mixed.predicts == ("velocity",)
    t = torch.tensor([0.2, 0.5, 0.8], dtype=F64)
    here = path.sample(x[:3], t, seed=seed).x
    torch.testing.assert_close(mixed.velocity(here, t), whole.velocity(here, t), rtol=1e-9, atol=1e-9)


def test_networks_are_in_evaluation_mode_while_samples_are_drawn():
    nets = [Marked(2.0).train(), Marked(3.0).train()]
    judge = nn.Linear(2, 2).train()
    seen = []
    router = LearnedRouter(nn.Sequential(judge), Path.linear())
    judge.register_forward_hook(lambda *_: seen.append(judge.training))
    router = LearnedRouter(Judge(judge), Path.linear())
    x = sample(Mixture([Field(net, Path.linear()) for net in nets], router), start=torch.zeros(3, 2), rule=Euler(), steps=4)
    assert x.shape == (3, 2) and seen == [False] * 4 and judge.training and nets[0].training
    assert 2.0 < float(x.min()) - 0.375 and float(x.max()) - 0.375 < 3.0      # a weighted mean of 2 and 3, and the sum of t dt = (0 + .25 + .5 + .75) / 4


class Judge(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x, t, cond):
        return self.inner(x)


def test_a_learned_router_is_shown_what_it_was_trained_on():
    path, seen = Path.edm(0.01, 40.0), []
    net = lambda x, t, cond: seen.append(x) or torch.stack([x[:, 0], 2 * x[:, 0]], 1)
    x, t = torch.tensor([[3.0], [-50.0]], dtype=F64), torch.tensor([0.6, 0.05], dtype=F64)
    told = LearnedRouter(net, path, unit_input=True)(x, t)
    at = path.coefficients(t)
    torch.testing.assert_close(seen[0][:, 0], x[:, 0] / (1 + at.c**2).sqrt())
    torch.testing.assert_close(told.exp().sum(1), torch.ones(2, dtype=F64))
    LearnedRouter(net, path)(x, t)
    assert torch.equal(seen[1], x)


def test_any_split_of_a_batch_draws_the_same_samples(digits):
    x, labels = digits
    _, parts, router = split(Path.linear(), x[:120], labels[:120] % 3)
    field = Mixture(parts, router, top=2)
    settings = {"rule": Euler(), "steps": 6, "seed": 3}
    torch.testing.assert_close(sample(field, 7, batch=2, **settings), sample(field, 7, **settings), rtol=1e-9, atol=1e-9)


LINEAR = Field(lambda x, t, cond: x, Path.linear())
EVEN = lambda x, t, cond: torch.full((len(x), 2), 0.5)


def shaped(*event):
    return ExactField(Path.linear(), GaussianMixture.points(torch.arange(2.0 * math.prod(event)).reshape(2, *event)))


REFUSALS = {
    "none": (lambda: Mixture([], EVEN), ValueError, "fields must hold at least one"),
    "no field": (lambda: Mixture([LINEAR, 3], EVEN), TypeError, "int in place 1"),
    "paths": (lambda: Mixture([LINEAR, Field(lambda x, t, cond: x, Path.vp())], EVEN), ValueError, "one path.*place 1"),
    "events": (lambda: Mixture([shaped(2), shaped(3)], EVEN), ValueError, r"one event shape, got \[\(2,\), \(3,\)\]"),
    "router": (lambda: Mixture([LINEAR], 0.5), TypeError, "router must be callable"),
    "top 0": (lambda: Mixture([LINEAR, LINEAR], EVEN, top=0), ValueError, r"top must lie in 1 \.\. 2.*got 0"),
    "top 3": (lambda: Mixture([LINEAR, LINEAR], EVEN, top=3), ValueError, r"top must lie in 1 \.\. 2.*got 3"),
    "sizes": (lambda: PosteriorRouter([shaped(2)], [1.0, 2.0]), ValueError, "sizes must be 1 positive"),
    "size 0": (lambda: PosteriorRouter([shaped(2), shaped(2)], [1.0, 0.0]), ValueError, r"got \[1.0, 0.0\]"),
    "parts": (lambda: PosteriorRouter([LINEAR], [1.0]), TypeError, "ExactFields, got Field"),
    "learned": (lambda: LearnedRouter(3, Path.linear()), TypeError, "net must be callable"),
    "learned path": (lambda: LearnedRouter(EVEN, "linear"), TypeError, "path must be a Path"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(case):
    call, kind, message = REFUSALS[case]
    with pytest.raises(TypeError if kind is TypeError else ValueError) as caught:
        call()
    import re
    assert re.search(message, str(caught.value), re.DOTALL) or "type-check" in str(caught.value).lower()


ANSWERS = {
    "one column more": (lambda x: torch.full((len(x), 3), 1 / 3), r"router's answer must have shape \(2, 2\), got \(2, 3\)"),
    "no rows": (lambda x: torch.tensor([0.5, 0.5]), "router's answer must have shape"),
    "weights": (lambda x: torch.tensor([[0.5, 0.5], [0.5, 0.75]]), "sum to 1 in every row.*sum of 1.25 in row 1"),
    "logits": (lambda x: torch.tensor([[0.0, 1.0], [-2.0, 1.0]]), "log_softmax"),
    "negative": (lambda x: torch.tensor([[1.5, -0.5], [0.5, 0.5]]), "log_softmax"),
    "nan": (lambda x: torch.tensor([[math.nan, 0.5], [0.5, 0.5]]), "log_softmax"),
    "nothing": (lambda x: torch.full((2, 2), -math.inf), "log_softmax"),
    "zeros": (lambda x: torch.zeros(2, 2), "sum of 0"),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_routers_that_are_refused(case):
    answer, message = ANSWERS[case]
    with pytest.raises(ValueError, match=message):
        Mixture([LINEAR, LINEAR], lambda x, t, cond: answer(x)).velocity(torch.ones(2, 1), 0.5)
