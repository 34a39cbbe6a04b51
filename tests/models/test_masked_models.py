"""Masked models of text and tables: trained, resumed, saved and loaded, and refused."""
import json
import math

import numpy as np
import pytest
import torch

import rheos.nets
from rheos.data import Columns, Dataset, Tokens
from rheos.models import MaskedModel, MaskedTraining, train_masked
from rheos.nets import TokenTransformer
from rheos.samplers import AnyOrder, FirstHitting, MaskedAncestral

TINY = {"steps": 8, "width": 16, "depth": 1, "batch": 16, "device": "cpu"}


@pytest.fixture(autouse=True)
def _public(monkeypatch):
    """Files name networks by the room's door."""
    monkeypatch.setattr(rheos.nets, "TokenTransformer", TokenTransformer, raising=False)
    monkeypatch.setattr(rheos.nets, "__all__", sorted({*rheos.nets.__all__, "TokenTransformer"}))


@pytest.fixture(scope="module")
def text():
    words = [b"abba", b"cabs", b"baba", b"scab"] * 15
    tokens = Tokens.of(words)
    return Dataset("words", tokens.encode(words), encoding=tokens, held_out=Dataset("words apart", tokens.encode(words[:4]), encoding=tokens))


def rows(n: int, seed: int) -> dict[str, np.ndarray]:
    """Two categories of which one tells much about the other, and a number that depends on both."""
    draws = np.random.default_rng(seed)
    kind = draws.choice(3, n, p=[0.5, 0.3, 0.2])
    mark = np.where(draws.random(n) < 0.85, kind % 2, 1 - kind % 2)
    return {"kind": np.array(["a", "b", "c"], dtype=object)[kind], "mark": np.array(["no", "yes"], dtype=object)[mark],
            "size": (kind * 3 + mark + draws.random(n)).round(3)}


@pytest.fixture(scope="module")
def table():
    cells = rows(500, 0)
    columns = Columns.fit(cells)
    return Dataset("rows", columns.encode(cells), torch.arange(500) % 2, encoding=columns, classes=2, labels=("even", "odd"))


@pytest.fixture(scope="module")
def learned(table):
    return train_masked(table, steps=160, width=32, depth=1, batch=128, rate=1e-2, decay=0.98, seed=1, device="cpu")


def test_a_model_learns_what_columns_have_to_do_with_each_other(learned):
    found = learned.encoding.decode(learned.sample(4000, seed=2))
    kind, mark, size = (np.array(found[name]) for name in ("kind", "mark", "size"))
    for level, share in (("a", 0.5), ("b", 0.3), ("c", 0.2)):
        assert abs((kind == level).mean() - share) < 0.06                     # 500 rows, and 5 standard errors of 4000 draws
    # Independent columns would have mark = yes as often for each kind: 0.37.
    assert [round(float((mark[kind == level] == "yes").mean())) for level in ("a", "b", "c")] == [0, 1, 0]
    expected = {"a": 0.0, "b": 3.0, "c": 6.0}
    right = np.array([expected[k] + (m == "yes") <= s <= expected[k] + (m == "yes") + 1 for k, m, s in zip(kind, mark, size, strict=True)])
    assert right.mean() > 0.7
    # Where each column is drawn alone, as the control:
    kind, mark, size = (np.random.default_rng(k).permutation(column) for k, column in enumerate((kind, mark, size)))
    assert np.mean([expected[k] + (m == "yes") <= s <= expected[k] + (m == "yes") + 1 for k, m, s in zip(kind, mark, size, strict=True)]) < 0.4


def test_the_bound_is_below_that_of_independent_columns(learned, table):
    ids = learned.tokens.ids(table.x)
    alone = sum(-float((p[p > 0] * p[p > 0].log()).sum()) for p in (torch.bincount(column).double() / len(ids) for column in ids.T))
    assert float(learned.nll(table, repeats=2).mean()) * 3 < alone - 0.5


def test_infilling_keeps_what_is_shown(learned):
    start = torch.tensor([[1, 2, 32]]).expand(400, 3).clone()
    mask = learned.field.path.mask
    assert learned.tokens.vocab == (3, 2, 32) and mask == 32
    start = torch.tensor([[1, mask, mask]]).expand(400, 3)
    found = learned.encoding.decode(learned.sample(400, start=start, seed=3))
    assert set(found["kind"]) == {"b"} and found["mark"].count("yes") > 280


def test_training_is_a_function_of_the_seed(text):
    one, again, other = (torch.cat([p.flatten() for p in train_masked(text, seed=seed, **TINY).field.net.parameters()]) for seed in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_a_run_that_was_interrupted_ends_where_the_whole_run_ends(text, tmp_path):
    from rheos.core import StopWhen

    whole = train_masked(text, seed=1, **TINY)
    with pytest.warns(UserWarning, match="stopped at step 5 of 8"):
        train_masked(text, seed=1, checkpoint=tmp_path, every=5, watch=[StopWhen(lambda state: state.step == 5)], **TINY)
    resumed = train_masked(text, seed=1, checkpoint=tmp_path, resume=True, **TINY)
    for a, b in zip(whole.field.net.state_dict().values(), resumed.field.net.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    with pytest.raises(ValueError, match="about|differ|form"):
        train_masked(text, seed=1, checkpoint=tmp_path, resume=True, form="time", **TINY)


@pytest.mark.parametrize("which", ["text", "table"])
def test_a_model_survives_its_folder(which, request, tmp_path):
    data = request.getfixturevalue(which)
    model = train_masked(data, seed=1, **TINY)
    again = MaskedModel.load(model.save(tmp_path / "m"))
    assert torch.equal(again.sample(9, seed=5), model.sample(9, seed=5)) and again.card == model.card
    assert again.encoding == model.encoding and again.tokens == model.tokens and again.labels == model.labels and again.field.path == model.field.path
    assert sorted(p.suffix for p in (tmp_path / "m").iterdir()) == [".json", ".safetensors"]
    again.save(tmp_path / "m")
    assert torch.equal(MaskedModel.load(tmp_path / "m").sample(3, seed=5), model.sample(3, seed=5))


def test_samples_are_encoded_rows_of_the_datas_own_kind(text, table):
    model = train_masked(text, seed=1, **TINY)
    x = model.sample(12, seed=2)
    assert x.shape == (12, *text.event) and set(x.unique().tolist()) == {-1.0, 1.0}
    assert all(len(word) == 4 and set(word) <= set("abcs") for word in model.encoding.decode(x))
    assert torch.equal(torch.cat(list(model.stream(12, batch=5, seed=2))), x)
    assert torch.equal(model.sample(7, seed=2, first=5, batch=3), x[5:])
    drawn = train_masked(table, seed=1, **TINY).sample(50, cond="odd", guidance=1.5, seed=2)
    assert drawn.shape == (50, *table.event)


def test_steps_say_how_many_calls(text):
    model = train_masked(text, seed=1, **TINY)
    for how, calls in (({}, 4), ({"steps": 2}, 2), ({"steps": 3}, 2), ({"steps": 50}, 4), ({"rule": AnyOrder()}, 4), ({"rule": MaskedAncestral(1)}, 1)):
        model.field.nfe = 0
        model.sample(5, **how)
        assert model.field.nfe == calls, how


def test_a_budget_gives_steps(text):
    settings = {name: value for name, value in TINY.items() if name != "steps"}
    model = train_masked(text, budget=0.05, seed=1, **settings)
    assert 1 <= model.card["trained_steps"] < 1000


def test_the_bound_of_an_untrained_network_is_that_of_even_laws(text):
    net = TokenTransformer(4, 4, width=8, depth=1)
    run = MaskedTraining.prepare(text, net, steps=1, device="cpu")
    torch.testing.assert_close(run.model(run.start).nll(text.held_out), torch.full((4,), math.log(4), dtype=torch.float64))


def damaged(change):
    def damage(folder):
        place = folder / "model.json"
        found = json.loads(place.read_text())
        change(found)
        place.write_text(json.dumps(found))
    return damage


DAMAGES = [
    (damaged(lambda f: f.update(kind="flow")), "has model kind and format"),
    (damaged(lambda f: f.update(format=99)), "has model kind and format"),
    (damaged(lambda f: f["net"].update({"class": "os.system"})), "only rheos"),
    (damaged(lambda f: f["net"].update({"class": "rheos.nets.Missing"})), "does not exist"),
    (damaged(lambda f: f["net"]["settings"].update(width=4096)), "ask for"),
    (damaged(lambda f: f["path"].update(vocab=9)), "vocabulary"),
    (damaged(lambda f: f["encoding"].update(alphabet=[1, 2, 3])), "vocabulary"),
    (damaged(lambda f: f["encoding"].update(length=9)), "event is"),
    (damaged(lambda f: f.update(sha256="0")), "is damaged"),
    (damaged(lambda f: f.update(tensors="../x")), "outside its folder"),
    (damaged(lambda f: f.pop("path")), "is damaged: KeyError"),
    (damaged(lambda f: f.update(classes=3)), "classes"),
    (lambda folder: (folder / "model.json").write_text("{"), "not JSON"),
]


@pytest.mark.parametrize(("damage", "match"), DAMAGES, ids=[str(i) for i in range(len(DAMAGES))])
def test_a_damaged_folder_is_refused_by_name(damage, match, text, tmp_path):
    folder = train_masked(text, seed=1, **TINY).save(tmp_path / "m")
    damage(folder)
    with pytest.raises(ValueError, match=match) as caught:
        MaskedModel.load(folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


ARRAYS = Dataset("arrays", torch.zeros(3, 2, 2) + torch.arange(3.0)[:, None, None])
REFUSALS = [
    (lambda text, model: train_masked(ARRAYS, **TINY), ValueError, "a masked path is for text and tables"),
    (lambda text, model: train_masked(torch.zeros(3, 2), **TINY), TypeError, None),
    (lambda text, model: train_masked(text, step=3), ValueError, "a setting of train_masked must be one of .*did you mean steps|a setting of train_masked"),
    (lambda text, model: train_masked(text, "unet", **TINY), TypeError, "net must be a network or auto, got 'unet'"),
    (lambda text, model: train_masked(text, **{**TINY, "form": "dce"}), ValueError, "form must be one of"),
    (lambda text, model: train_masked(text, **{**TINY, "steps": 0}), ValueError, "steps must be at least 1"),
    (lambda text, model: train_masked(text, **{**TINY, "rate": -1.0}), ValueError, "rate must lie in"),
    (lambda text, model: train_masked(text, **{**TINY, "eps": 1.0}), ValueError, "eps must lie in"),
    (lambda text, model: train_masked(text, **{**TINY, "schedule": "cos"}), ValueError, "schedule must be one of"),
    (lambda text, model: train_masked(text, budget=3.0, **TINY), ValueError, "budget chooses the steps"),
    (lambda text, model: train_masked(text, resume=True, **TINY), ValueError, "resume needs the folder"),
    (lambda text, model: train_masked(text, TokenTransformer(5, 4, width=8), **TINY), ValueError, "x must have event shape"),
    (lambda text, model: model.sample(0), ValueError, "n must be at least 1"),
    (lambda text, model: model.sample(2, cond=1), ValueError, "trained without classes"),
    (lambda text, model: model.sample(2, steps=3, rule=FirstHitting()), ValueError, "steps and rule exclude each other"),
    (lambda text, model: model.sample(2, start=torch.full((2, 4), 9)), ValueError, "start must hold token ids 0..3 or the mask id 4, got 9"),
    (lambda text, model: model.nll(ARRAYS), ValueError, "is encoded in another way"),
    (lambda text, model: MaskedModel.load("/nowhere"), FileNotFoundError, "holds no model"),
]


@pytest.mark.parametrize(("call", "error", "match"), REFUSALS, ids=[str(i) for i in range(len(REFUSALS))])
def test_refuses(call, error, match, text):
    with pytest.raises(error, match=match):
        call(text, train_masked(text, seed=1, **TINY))
