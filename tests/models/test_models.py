"""Models: saved and loaded to the bit, from any folder, and nothing but rheos' own classes built from a file."""
import json
import os
import signal

import pytest
import torch
from torch import nn

import rheos
from rheos.core import Draws
from rheos.data import Dataset
from rheos.models import Model, Standardise, load, train
from rheos.paths import Field, Path

TINY = {"steps": 6, "width": 16, "depth": 1, "batch": 16, "device": "cpu"}


@pytest.fixture(scope="module")
def data():
    x = Draws(0).rows("x", 0, (60, 1, 3, 5)).clamp(-1, 1) * 0.5 + 0.2
    return Dataset("made", x, Draws(0).integers("y", 0, (60,), 4), bounds=(-1.0, 1.0), classes=4, meaning="noise", licence="CC0", source="this test")


@pytest.fixture(scope="module")
def model(data):
    return train(data, seed=1, **TINY)


def test_the_transform_and_its_inverse():
    x = torch.tensor([[1.0, 5.0, 2.0], [3.0, 5.0, 8.0]])
    table = Standardise.fit(x)
    torch.testing.assert_close(table.forward(x), torch.tensor([[-1.0, 0.0, -1.0], [1.0, 0.0, 1.0]]))
    torch.testing.assert_close(table.inverse(table.forward(x)), x)
    image = Standardise.fit(torch.arange(12.0).reshape(2, 1, 2, 3), (0.0, 11.0))
    assert image.mean.item() == 5.5 and image.inverse(torch.tensor([[[[-9.0, 9.0]]]])).tolist() == [[[[0.0, 11.0]]]]


def test_training_is_a_function_of_the_seed(data, model):
    again, other = train(data, seed=1, **TINY), train(data, seed=2, **TINY)
    x = model.sample(5, seed=3)
    assert torch.equal(again.sample(5, seed=3), x) and not torch.equal(other.sample(5, seed=3), x)


def test_samples_come_in_the_datas_units_and_bounds(data, model):
    x = model.sample(40, cond=2, guidance=1.5)
    assert x.shape == (40, 1, 3, 5) and x.dtype == torch.float32 and float(x.min()) >= -1 and float(x.max()) <= 1
    assert not torch.equal(x, model.sample(40, cond=1, guidance=1.5))


@pytest.mark.parametrize("batch", [1, 3, 7])
def test_any_split_draws_the_same_samples(model, batch):
    torch.testing.assert_close(model.sample(7, batch=batch, cond=torch.arange(7) % 4), model.sample(7, cond=torch.arange(7) % 4), rtol=1e-5, atol=1e-5)


def test_a_saved_model_samples_the_same_from_any_folder(model, tmp_path):
    folder = model.save(tmp_path / "a" / "model")
    (tmp_path / "a").rename(tmp_path / "moved")
    back = load(tmp_path / "moved" / "model")
    assert torch.equal(back.sample(4, cond=1, seed=5), model.sample(4, cond=1, seed=5))
    assert back.card == model.card and back.card["licence"] == "CC0" and back.classes == 4 and not back.field.net.training
    assert sorted(p.suffix for p in (tmp_path / "moved" / "model").iterdir()) == [".json", ".safetensors"] and folder.name == "model"


def test_saving_again_replaces_and_a_crash_leaves_the_old_model(model, data, tmp_path, monkeypatch):
    model.save(tmp_path)
    other = train(data, seed=9, **TINY)
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: replace(a, b) if str(b).endswith("safetensors") else (_ for _ in ()).throw(OSError("power cut")))
    with pytest.raises(OSError, match="power cut"):
        other.save(tmp_path)
    monkeypatch.undo()
    assert torch.equal(load(tmp_path).sample(2), model.sample(2))
    other.save(tmp_path)
    assert torch.equal(load(tmp_path).sample(2), other.sample(2)) and len(list(tmp_path.iterdir())) == 2


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, x, t, cond=None):
        return self.layer(x) * t[:, None]


def test_a_network_of_ones_own_is_trained_in_place_saved_and_needs_to_be_given(tmp_path):
    net = Own()
    before = net.layer.weight.clone()
    made = train(Draws(0).rows("x", 0, (30, 2)) * 3, net, **TINY)
    assert not torch.equal(net.layer.weight, before) and made.event == (2,)
    made.save(tmp_path)
    with pytest.raises(ValueError, match=r"only rheos\.\* classes are built from files: pass your own object as load\(folder, net=MyNet\(\)\)"):
        load(tmp_path)
    assert torch.equal(load(tmp_path, net=Own()).sample(3), made.sample(3))
    with pytest.raises(ValueError, match="do not fit Linear"):
        load(tmp_path, net=nn.Linear(2, 2))


@pytest.mark.parametrize("path", [Path.vp(0.2, 15.0), Path.linear()])
def test_the_path_is_saved_with_its_numbers(path, tmp_path):
    made = train(Draws(0).rows("x", 0, (30, 2)) * 3, path=path, predicts="data", **TINY)
    assert load(made.save(tmp_path)).field.path == path and load(tmp_path).field.predicts == ("data",)


def test_an_interrupted_training_resumes_to_the_bit(data, tmp_path):
    whole = train(data, seed=1, **TINY)
    kill = lambda step, state: os.kill(os.getpid(), signal.SIGINT) if step == 2 else None
    with pytest.warns(UserWarning, match="stopped at step 2 of 6"):
        train(data, seed=1, checkpoint=tmp_path, every=100, watch=[kill], **TINY)
    resumed = train(data, seed=1, checkpoint=tmp_path, resume=True, **TINY)
    for (name, a), b in zip(whole.field.net.state_dict().items(), resumed.field.net.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_tensors_that_make_no_transform_are_refused(model, tmp_path):
    import hashlib

    from rheos.core.files import load_tensors, save_tensors

    for spoil, message in ((lambda t: t.pop("transform.mean"), "damaged: KeyError"), (lambda t: t.update({"transform.std": torch.tensor(float("nan"))}), "std must be finite"),
                           (lambda t: t.update({"transform.std": torch.ones(3)}), "std must be positive and of the mean's shape")):
        model.save(tmp_path)
        name = json.loads((tmp_path / "model.json").read_text())["tensors"]
        tensors = load_tensors(tmp_path / name)[0]
        spoil(tensors)
        save_tensors(tmp_path / name, tensors)
        change(tmp_path, sha256=hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
        with pytest.raises(ValueError, match=message):
            load(tmp_path)


def test_a_card_that_is_not_json_leaves_nothing_behind(model, tmp_path):
    bad = Model(model.field, model.transform, model.event, card={"score": float("nan")})
    with pytest.raises(ValueError, match="JSON"):
        bad.save(tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_float64_data_is_learned_in_float64(tmp_path):
    x = Draws(0).rows("x", 0, (40, 2), dtype=torch.float64) * 3
    made = train(x, seed=1, **TINY)
    y = made.sample(3)
    assert y.dtype == torch.float64 and torch.equal(load(made.save(tmp_path)).sample(3), y)


def test_a_run_is_resumed_only_as_itself(tmp_path):
    x = Draws(0).rows("x", 0, (40, 2))
    train(x, checkpoint=tmp_path, seed=1, **TINY)
    for other, message in (({"seed": 2}, "seed was 1, is 2"), ({"rate": 0.5}, "rate was 0.002, is 0.5"), ({"batch": 8}, "batch was 16, is 8"), ({"steps": 9}, "steps was 6, is 9"),
                           ({"steps": 3}, "steps was 6, is 3"), ({"path": Path.vp()}, "path was"), ({"decay": 0.5}, "decay was 0.999, is 0.5")):
        with pytest.raises(ValueError, match=f"was saved by another run: {message}"):
            train(x, checkpoint=tmp_path, resume=True, **{"seed": 1, **TINY, **other})
    with pytest.raises(ValueError, match="was saved by another run: data was"):
        train(x * 2, checkpoint=tmp_path, resume=True, seed=1, **TINY)
    with pytest.raises(ValueError, match="holds a run already"):
        train(x, checkpoint=tmp_path, seed=1, **TINY)
    assert train(x, checkpoint=tmp_path, resume=True, seed=1, **TINY).card["trained_steps"] == 6


@pytest.fixture(autouse=True)
def _ctrl_c_arrives():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def change(folder, **changes):
    path = folder / "model.json"
    content = json.loads(path.read_text())
    content.update(changes)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(("spoil", "error", "message"), [
    (lambda f: change(f, format=7), ValueError, "model format 7, this version of rheos reads 1"),
    (lambda f: change(f, net={"class": "os.system", "settings": {"command": "true"}}), ValueError, r"model.json: the network is a os.system; only rheos\.\* classes"),
    (lambda f: change(f, net={"class": "rheos.core.files.os.system", "settings": {}}), ValueError, "model.json: class .* is not a rheos class of nets"),
    (lambda f: change(f, net={"class": "rheos.cli.__main__.main", "settings": {}}), ValueError, "is not a rheos class of nets"),
    (lambda f: change(f, net={"class": "rheos.core.NonFinite", "settings": {}}), ValueError, "is not a rheos class of nets"),
    (lambda f: change(f, net={"class": "rheos.nets.without_condition", "settings": {}}), ValueError, "does not exist in this version"),
    (lambda f: change(f, net={"class": "rheos.nets.ResidualMLP", "settings": {"event": [2], "evil": 1}}), ValueError, "model.json is damaged: TypeError"),
    (lambda f: change(f, net={"class": "rheos.nets.ResidualMLP", "settings": {"event": [2], "width": 10**12}}), ValueError, "cannot be built|ask for"),
    (lambda f: change(f, net={"class": "rheos.nets.ResidualMLP", "settings": {"event": [2], "width": 8}}), ValueError, "ask for .* numbers, the file holds"),
    (lambda f: change(f, path={"class": "subprocess.Popen", "args": "true"}), ValueError, "'subprocess.Popen' in the file is not a rheos class of paths"),
    (lambda f: change(f, path={"class": "rheos.paths.Times", "t": 1}), ValueError, "model.json: class .* is not a schedule"),
    (lambda f: change(f, path={"class": "rheos.paths.VP", "beta_min": -1.0}), ValueError, "beta_min must lie in"),
    (lambda f: change(f, tensors="../other.safetensors"), ValueError, "names a file outside its folder"),
    (lambda f: change(f, sha256="0" * 64), ValueError, "its content is not what .* recorded"),
    (lambda f: change(f, bounds="ab"), ValueError, "model.json"),
    (lambda f: change(f, bounds=[1, -1]), ValueError, r"bounds must be \(low, high\) with low < high"),
    (lambda f: change(f, bounds=[0, 1, 2]), ValueError, "bounds must be|model.json is damaged"),
    (lambda f: change(f, card="zz"), ValueError, "card must be a dict|model.json is damaged"),
    (lambda f: change(f, event="ab"), ValueError, "event must be a whole number|model.json is damaged"),
    (lambda f: change(f, event=[-2]), ValueError, "event must be at least 1"),
    (lambda f: change(f, classes="x"), ValueError, "classes must be a whole number|model.json is damaged"),
    (lambda f: change(f, format=True), ValueError, "model format True"),
    (lambda f: change(f, predicts=["velocity", "noise", "sound"]), ValueError, "predicts must be one of"),
    (lambda f: (f / "model.json").write_text("{"), ValueError, "model.json is damaged: not JSON"),
    (lambda f: (f / "model.json").write_text("[]"), ValueError, "model format None"),
    (lambda f: (f / "model.json").unlink(), FileNotFoundError, "holds no model"),
    (lambda f: next(f.glob("*.safetensors")).unlink(), FileNotFoundError, "which .*model.json names, does not exist"),
    (lambda f: next(f.glob("*.safetensors")).write_bytes(b"junk"), ValueError, "is damaged"),
])
def test_a_spoilt_model_is_one_clear_error(model, tmp_path, spoil, error, message):
    model.save(tmp_path)
    spoil(tmp_path)
    with pytest.raises(error, match=message):
        load(tmp_path)


@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda d, m: train(torch.full((5, 2), float("nan")), **TINY), ValueError, "data must be finite, got 10 of 10"),
    (lambda d, m: train(torch.ones(5, 2), **TINY), ValueError, "data is constant, all entries are 1"),
    (lambda d, m: train(torch.ones(5), **TINY), ValueError, r"data must have shape \(rows, \*event\) with no empty axis, got \(5,\)"),
    (lambda d, m: train(d, **(TINY | {"steps": 0})), ValueError, "steps must be at least 1, got 0"),
    (lambda d, m: train(d, **(TINY | {"rate": -1.0})), ValueError, "rate must lie in"),
    (lambda d, m: train(d, **(TINY | {"device": "gpu9"})), ValueError, "device 'gpu9' cannot be used here"),
    (lambda d, m: train(d, **(TINY | {"precision": "fp8"})), ValueError, "precision must be one of fp32, bf16, got 'fp8'"),
    (lambda d, m: train(d, path=Path.interpolant(), **TINY), ValueError, "source must be given: a two-sided path runs from a source to the data"),
    (lambda d, m: train(torch.ones(5, 2, dtype=torch.complex64), **TINY), TypeError, "data must be float32 or float64, got torch.complex64"),
    (lambda d, m: train(torch.zeros(0, 3), **TINY), ValueError, "with no empty axis"),
    (lambda d, m: train(d, dropuot=0.1, **TINY), ValueError, "a setting of train must be one of .*did you mean dropout"),
    (lambda d, m: train(d, resume=True, **TINY), ValueError, "resume needs the folder of the run"),
    (lambda d, m: m.sample(0), ValueError, "n must be at least 1, got 0"),
    (lambda d, m: m.sample(2, cond=7), ValueError, "cond must be a class from 0 to 3"),
    (lambda d, m: m.sample(2, cond=0.5), TypeError, "cond must be whole class numbers"),
    (lambda d, m: m.sample(2, guidance=2.0), ValueError, "guidance needs a condition"),
    (lambda d, m: Model(m.field, m.transform, m.event).sample(2, cond=1), ValueError, "trained without classes"),
    (lambda d, m: Model(Field(Own(), Path.interpolant(lambda t: t * (1 - t))), m.transform, (2,)).save("unused"), TypeError, "gamma is a function cannot be saved"),
])
def test_refusals(data, model, call, error, message):
    with pytest.raises(error, match=message):
        call(data, model)


def test_the_public_face_is_lazy_and_complete():
    assert rheos.train is train and rheos.load is load and rheos.Model is Model
    for name in rheos.__all__:
        assert getattr(rheos, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'tain'"):
        rheos.tain  # noqa: B018
