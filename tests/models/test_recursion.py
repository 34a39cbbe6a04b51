"""Generations learn from each other's samples, arms share their first model, filters see every draw, refusals."""
import pytest
import torch

import rheos
from rheos.data import GaussianMixture
from rheos.guidance import Filtered, RandomFilter, VarianceFilter
from rheos.models import Model, recursive_training, train
from rheos.nets import ResidualMLP

DATA = GaussianMixture(torch.tensor([0.7, 0.3]), torch.tensor([[-3.0, 4.0], [2.0, 5.0]]), torch.tensor([0.2, 0.5])).sample(120, seed=3).float()
make = lambda: ResidualMLP((2,), width=8, depth=1)
FAST = {"sampling_steps": 8, "steps": 4, "batch": 32}


def test_a_generation_is_a_training_on_what_the_one_before_handed_on():
    """By hand: its data are the samples of the first, so its transform is theirs."""
    made = recursive_training(DATA, make, 3, rows=50, seed=2, **FAST)
    assert [len(one.x) for one in made] == [50, 50, 50] and made[0].rows.tolist() == list(range(50))
    for before, after in zip((DATA, made[0].x, made[1].x), made, strict=True):
        torch.testing.assert_close(after.model.transform.mean, before.double().mean(0), atol=1e-6, rtol=1e-6)
        assert after.model.card["rows"] == len(before)
    # Networks, starts and minibatches of their own.
    weights = [torch.cat([p.flatten() for p in one.model.field.net.parameters()]) for one in made]
    assert not torch.equal(weights[0], weights[1]) and not torch.equal(weights[1], weights[2])


def test_arms_share_their_first_model_to_the_bit_and_a_given_one_is_used():
    arms = [recursive_training(DATA, make, 2, choose=choose, rows=40, seed=5, **FAST) for choose in (None, RandomFilter(0.5), VarianceFilter(0.5, 0.3))]
    states = [[dict(one.model.field.net.state_dict()) for one in arm] for arm in arms]
    assert all(torch.equal(states[0][0][k], other[0][k]) for other in states for k in other[0])
    assert not all(torch.equal(states[1][1][k], states[2][1][k]) for k in states[0][1])
    again = recursive_training(DATA, make, 2, choose=VarianceFilter(0.5, 0.3), first=arms[0][0].model, rows=40, seed=5, **FAST)
    assert again[0].model is arms[0][0].model and torch.equal(again[1].x, arms[2][1].x)
    other = recursive_training(DATA, make, 1, rows=40, seed=6, **FAST)
    assert not torch.equal(other[0].x, arms[0][0].x)


def test_a_filter_sees_every_generation_and_what_it_keeps_is_learned():
    class Half:
        def __init__(self):
            self.seen = []

        def __call__(self, draw, n):
            x = draw(2 * n, None)
            self.seen.append(x)
            rows = torch.arange(0, 2 * n, 2)
            return Filtered(x[rows], rows, None)

    half = Half()
    made = recursive_training(DATA, make, 2, choose=half, rows=30, seed=1, **FAST)
    assert [len(x) for x in half.seen] == [60, 60] and all(torch.equal(one.x, x[one.rows]) for one, x in zip(made, half.seen, strict=True))
    torch.testing.assert_close(made[1].model.transform.mean, half.seen[0][::2].double().mean(0), atol=1e-6, rtol=1e-6)


def test_every_generation_starts_at_other_noise(monkeypatch, seed):
    """One model in the place of all: what differs is where samples begin."""
    model = train(DATA, make(), steps=4, batch=32)
    monkeypatch.setattr("rheos.models.recursion.train", lambda *_, **__: model)
    made = recursive_training(DATA, make, 3, first=model, rows=20, seed=seed, sampling_steps=4)
    assert all(float((a.x - b.x).abs().amax(1).min()) > 0 for a, b in ((made[0], made[1]), (made[1], made[2]), (made[0], made[2])))


def test_samples_come_in_the_units_of_the_data():
    """A trained first generation stays where the data are, far from 0 in the second coordinate."""
    model = train(DATA, make(), steps=300, batch=64)
    made = recursive_training(DATA, make, 1, first=model, rows=200, sampling_steps=15)
    assert abs(float(made[0].x[:, 1].mean() - DATA[:, 1].mean())) < 0.5 and isinstance(made[0].model, Model)


@pytest.mark.parametrize(("call", "error", "told"), [
    (lambda: recursive_training(DATA, make, 0), ValueError, "generations must be at least 1"),
    (lambda: recursive_training(DATA, make, 1, rows=0), ValueError, "rows must be at least 1"),
    (lambda: recursive_training(DATA, make, 1, steps=0), ValueError, "steps must be at least 1"),
    (lambda: recursive_training(DATA, make, 1, sampling_steps=0, steps=1), ValueError, "steps must be at least 1"),
    (lambda: recursive_training(rheos.data.load("digits"), make, 1), TypeError, "data"),
    (lambda: recursive_training(DATA, make(), 1, steps=1), (TypeError, ValueError), None),
    (lambda: recursive_training(DATA, make, 1, choose=VarianceFilter), TypeError, "choose must be callable"),
    (lambda: recursive_training(DATA, make, 1, choose=lambda draw, n: draw(n, None), rows=4, **FAST), TypeError, "choose must return a Filtered, got Tensor"),
    (lambda: recursive_training(DATA, lambda: 3, 1, steps=1), TypeError, "net_factory must return a network, got int"),
    (lambda: recursive_training(DATA, make, 1, first=make()), TypeError, "first"),
    (lambda: recursive_training(DATA, make, 1, patience=3), ValueError, "a setting of train must be one of"),
])
def test_refusals(call, error, told):
    with pytest.raises(error, match=told):
        call()
