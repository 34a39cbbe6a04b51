"""What a model is asked for: labels by number and name, captions; drawing in parts; budgets; settings of a run by the kind of data."""
from __future__ import annotations

import dataclasses

import pytest
import torch

import rheos
from rheos.core import Draws
from rheos.data import Dataset
from rheos.models import Conditions, Model, Standardise, Training, conditions, steps_within
from rheos.models.learn import HABITS, OTHER_HABITS
from rheos.nets import DiT, ResidualMLP, UNet
from rheos.training import Constant, Cosine, Linear

NAMES = ("ant", "bee", "cat")
SMALL = {"width": 16, "depth": 1, "device": "cpu"}


def words(texts):
    """Stands in for the sentence embedder where only the way of a vector is looked at: counts of letters."""
    return torch.tensor([[float(text.count(chr(97 + k % 26))) for k in range(384)] for text in texts])


@pytest.fixture
def embedder(monkeypatch):
    monkeypatch.setattr(conditions, "embed", words)


def labelled(n=60, seed=0):
    x = Draws(seed).rows("x", 0, (n, 3), dtype=torch.float32)
    return Dataset("insects", x, torch.arange(n) % 3, classes=3, labels=NAMES, captions=tuple(f"{NAMES[i % 3]} number {i}" for i in range(n)))


def test_labels_go_by_number_by_name_and_by_tensor():
    asked = Conditions(3, NAMES)
    for cond in (1, "bee", "1", ["bee"] * 4, [1, "bee", "1", 1], torch.tensor([1, 1, 1, 1]), torch.tensor(1)):
        assert asked.tensor(cond, 4).tolist() == [1, 1, 1, 1]
    assert asked.tensor(-1, 2).tolist() == [-1, -1] and asked.tensor(None, 2) is None
    assert Conditions(12, tuple("0123456789ab")).tensor("3", 1).tolist() == [3]
    assert Conditions(3, ("2", "1", "0")).tensor("2", 1).tolist() == [0]          # a name first, then a number


def test_captions_become_vectors_row_by_row(embedder):
    asked = Conditions(embedder=conditions.EMBEDDER)
    assert asked.tensor("abba", 2).tolist() == words(["abba"] * 2).tolist()
    assert asked.tensor(["ab", "b"], 2).tolist() == words(["ab", "b"]).tolist()
    given = torch.randn(384, generator=torch.Generator().manual_seed(1))
    assert torch.equal(asked.tensor(given, 2), given.expand(2, -1)) and asked.features == 384


@pytest.mark.parametrize(("asked", "cond", "kind", "message"), [
    (Conditions(), 1, ValueError, r"cond was given \(1\), but this model was trained without classes or captions"),
    (Conditions(3, NAMES), "dog", ValueError, "cond must be a class from 0 to 2 or a class's name, got 'dog'; known are ant, bee, cat"),
    (Conditions(3), "dog", ValueError, "got 'dog'; it has no names"),
    (Conditions(3), 3, ValueError, r"cond must be a class from 0 to 2 \(or -1 for any\), got 3 to 3"),
    (Conditions(3), -2, ValueError, "got -2 to -2"),
    (Conditions(3), 1.0, TypeError, "cond must be whole class numbers or names of classes, got torch.float32"),
    (Conditions(3), True, TypeError, "got torch.bool"),
    (Conditions(3, NAMES), ["bee", "dog"], ValueError, "got 'dog'"),
    (Conditions(embedder="all-MiniLM-L6-v2"), 3, TypeError, "cond must be a caption or 4 captions, got 3"),
    (Conditions(embedder="all-MiniLM-L6-v2"), torch.zeros(4, 3), ValueError, r"their vectors \(4, 384\), got torch.float32 of shape \(4, 3\)"),
])
def test_refused_questions(asked, cond, kind, message):
    with pytest.raises(kind, match=message):
        asked.tensor(cond, 4)


@pytest.mark.parametrize(("make", "message"), [
    (lambda: Conditions(0), "classes must be at least 1, got 0"), (lambda: Conditions(2, NAMES), "labels must be one name for each of the 2 classes"),
    (lambda: Conditions(None, NAMES), "labels must be one name"), (lambda: Conditions(embedder="word2vec"), "embedder must be all-MiniLM-L6-v2"),
    (lambda: Conditions(3, embedder="all-MiniLM-L6-v2"), "and not go with classes"),
    (lambda: Conditions.of(labelled(), "sound"), "condition must be one of auto, label, caption, none, got 'sound'"),
    (lambda: Conditions.of(dataclasses.replace(labelled(), captions=None), "caption"), "the data have no captions: name their column with --caption"),
    (lambda: Conditions.of(torch.zeros(3, 2), "label"), "the data have no labels: name their column with --label"),
])
def test_refused_conditions(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_model_of_captions_is_trained_saved_and_asked(embedder, tmp_path):
    data = labelled()
    model = rheos.train(data, condition="caption", steps=3, **SMALL)
    assert (model.condition, model.classes, model.card["condition"]) == ("caption", None, "caption")
    back = rheos.load(model.save(tmp_path / "model"))
    one, two, free = back.sample(5, cond="a red bee"), back.sample(5, cond="zzzz"), back.sample(5)
    assert torch.equal(one, model.sample(5, cond=["a red bee"] * 5)) and not torch.equal(one, two) and not torch.equal(one, free)
    assert back.sample(5, cond="a red bee", guidance=2.0).shape == (5, 3)


def test_a_model_keeps_the_names_of_its_classes(tmp_path):
    model = rheos.train(labelled(), steps=3, **SMALL)
    back = rheos.load(model.save(tmp_path / "model"))
    assert back.labels == NAMES and torch.equal(back.sample(4, cond="cat"), model.sample(4, cond=2))
    assert not torch.equal(back.sample(4, cond="cat"), back.sample(4, cond="ant"))
    assert rheos.train(labelled(), steps=2, condition="none", **SMALL).condition is None


@pytest.mark.parametrize("batch", [1, 4, 7, 50])
def test_parts_are_the_whole(batch):
    model = rheos.train(labelled(), steps=2, **SMALL)
    cond = torch.arange(11) % 3
    whole = model.sample(11, cond=cond, steps=4, seed=3)
    parts = list(model.stream(11, cond=cond, steps=4, seed=3, batch=batch))
    assert [len(part) for part in parts] == [batch] * (11 // batch) + ([11 % batch] if 11 % batch else [])
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model.sample(4, cond=cond[5:9], steps=4, seed=3, first=5), whole[5:9], rtol=1e-5, atol=1e-5)


def test_first_is_checked():
    model = rheos.train(labelled(), steps=2, **SMALL)
    with pytest.raises(ValueError, match="first must be at least 0, got -1"):
        model.sample(3, first=-1)
    with pytest.raises(ValueError, match="batch must be at least 1, got 0"):
        next(model.stream(3, batch=0))


class Clock:
    """Process time that grows by a second a training step."""

    def __init__(self, monkeypatch, seconds):
        self.now, plain = 0.0, rheos.training.Descent.step

        def step(descent, state):
            self.now += seconds
            return plain(descent, state)
        self.process_time = self.monotonic = lambda: self.now
        monkeypatch.setattr(rheos.training.Descent, "step", step)
        monkeypatch.setattr("rheos.models.running.time", self)


def test_a_budget_is_as_many_steps_as_fit(monkeypatch):
    Clock(monkeypatch, 0.5)
    threads = torch.get_num_threads()
    assert steps_within(100.0, labelled(), **SMALL) == 200 * threads
    assert steps_within(0.1, labelled(), **SMALL) == 1
    model = rheos.train(labelled(), budget=10.0, **SMALL)
    assert model.card["steps"] == 20 * threads


def test_timing_leaves_no_trace():
    data = labelled()
    net = ResidualMLP((3,), width=16, depth=1, classes=3)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    steps_within(0.01, data, net, device="cpu")
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


@pytest.mark.parametrize(("settings", "message"), [({"budget": 0.0}, "budget must lie in .0, inf., got 0.0"), ({"budget": 5.0, "steps": 3}, "budget chooses the steps"),
                                                   ({"schedule": "step"}, "schedule must be one of cosine, linear, constant, got 'step'"),
                                                   ({"net": "vgg"}, "net must be one of auto, mlp, unet, dit, got 'vgg'"), ({"batch": 0}, "batch must be at least 1"),
                                                   ({"condition": "sound"}, "condition must be one of"), ({"rate": -1.0}, "rate must lie in .0, inf., got -1.0")])
def test_refused_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        rheos.train(labelled(), **{**SMALL, **settings})


@pytest.mark.parametrize(("schedule", "law"), [("cosine", Cosine(100, 2)), ("linear", Linear(100, 2)), ("constant", Constant(2))])
def test_the_rate_follows_its_schedule(schedule, law):
    run = Training.prepare(labelled(), steps=100, schedule=schedule, **SMALL)
    assert run.descent.rate == law
    assert [law(0), law(1), law(2)] == [0.5, 1.0, 1.0]
    assert law(51) == pytest.approx({"cosine": 0.5, "linear": 0.5, "constant": 1.0}[schedule])
    assert law(100) == law(500) == pytest.approx({"cosine": 0.0, "linear": 0.0, "constant": 1.0}[schedule], abs=1e-12)


@pytest.mark.parametrize(("event", "net", "kind"), [((3,), "auto", ResidualMLP), ((1, 16, 16), "auto", UNet), ((1, 16, 16), "dit", DiT)])
def test_batch_and_rate_suit_the_network(event, net, kind):
    x = Draws(0).rows("x", 0, (20, *event), dtype=torch.float32)
    run = Training.prepare(x, net, steps=4, **SMALL)
    assert type(run.start.net) is kind and (run.descent.batch, run.card["rate"]) == HABITS.get(kind, OTHER_HABITS)


def test_encoded_rows_are_not_standardised_again():
    class Shifted:
        kind, suffix = "shifted", ".txt"

        def decode(self, x):
            return [row.sum().item() for row in x]

        def header(self):
            return ""

        def text(self, x):
            return ""

        def to_json(self):
            return {"kind": "shifted"}

    x = 5 + Draws(0).rows("x", 0, (40, 3), dtype=torch.float32)
    encoded = Training.prepare(Dataset("shifted", x, encoding=Shifted()), steps=2, **SMALL)
    assert torch.equal(encoded.transform.forward(x), x) and torch.equal(encoded.transform.inverse(x), x)
    assert Training.prepare(x, steps=2, **SMALL).transform.mean.mean() > 4
    assert isinstance(encoded.model(encoded.start).encoding, Shifted)


def test_a_model_of_the_first_format_is_read(tmp_path):
    """Written by hand as version 0.1's first format was: without labels, embedder and encoding."""
    import json

    model = rheos.train(labelled(), steps=2, **SMALL)
    folder = model.save(tmp_path / "model")
    told = json.loads((folder / "model.json").read_text())
    told["format"] = 1
    for key in ("labels", "embedder", "encoding"):
        del told[key]
    (folder / "model.json").write_text(json.dumps(told))
    old = rheos.load(folder)
    assert old.labels is None and old.classes == 3 and torch.equal(old.sample(3, cond=1), model.sample(3, cond=1))


def test_the_transform_without_effect_is_checked_like_the_other():
    with pytest.raises(ValueError, match="data must be finite"):
        Standardise.none(torch.tensor([[float("nan")]]))
    assert isinstance(rheos.train(torch.randn(20, 2, generator=torch.Generator().manual_seed(0)), steps=1, **SMALL), Model)


@pytest.mark.parametrize(("event", "net"), [((1, 16, 16), "unet"), ((2, 8, 8), "dit"), ((2, 40), "unet"), ((1, 16, 16), "channels last")])
def test_a_backbone_resumes_bit_for_bit(tmp_path, event, net):
    """Also one that keeps its weights channels-last: a checkpoint that brought anything back in another order would round differently."""
    x = Draws(3).rows("x", 0, (24, *event), dtype=torch.float32)
    settings = {"steps": 6, "width": 16, "depth": 1, "batch": 8, "device": "cpu"}

    def fresh():
        if net != "channels last":
            return net
        with Draws(0).scope(0):
            return UNet(event, widths=(16, 32)).to(memory_format=torch.channels_last)

    whole = rheos.train(x, fresh(), **settings)

    class Crash(Exception):
        pass

    def crash(step, state):
        if step == 4:
            raise Crash

    with pytest.raises(Crash):
        rheos.train(x, fresh(), checkpoint=tmp_path, every=2, watch=[crash], **settings)
    again = rheos.train(x, fresh(), checkpoint=tmp_path, every=2, resume=True, **settings)
    assert all(torch.equal(a, b) for a, b in zip(whole.field.net.state_dict().values(), again.field.net.state_dict().values(), strict=True))
    assert torch.equal(whole.sample(3), again.sample(3))


@pytest.mark.parametrize(("change", "message"), [
    (lambda told: told.update(event=[10**9]), r"model.json: event is \(1000000000,\), but its network has \(3,\)"),
    (lambda told: told["net"]["settings"].update(depth=10**9), "ask for 1000000000 blocks, the file holds"),
    (lambda told: told.update(labels=["a"]), "labels must be one name for each of the 3 classes"),
    (lambda told: told.update(embedder="os.system"), "embedder must be all-MiniLM-L6-v2"),
    (lambda told: told.update(encoding={"kind": "tokens", "alphabet": [1, 2], "length": 10**9, "code": "bits"}), r"but its encoding has \(1, 1000000000\)"),
    (lambda told: told.update(encoding={"kind": "pickle"}), "encoding must be of kind columns or tokens, got 'pickle'"),
])
def test_a_made_up_model_is_refused_before_it_costs_anything(tmp_path, change, message):
    import json

    folder = rheos.train(labelled(), steps=1, **SMALL).save(tmp_path / "model")
    told = json.loads((folder / "model.json").read_text())
    change(told)
    (folder / "model.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match=message):
        rheos.load(folder)
