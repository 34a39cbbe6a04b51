"""Experts: parts of the data learned apart. What a process gets, what it leaves, how it is taken up again, and what is refused."""
import json
import os
import re
import shutil

import pytest
import torch

import rheos
from rheos.core import Draws
from rheos.core.files import load_json
from rheos.data import Dataset, load
from rheos.models import Standardise
from rheos.models.experts import Experts, load_experts, partition, train_experts
from rheos.models.islands import Ledger, run_islands, train_island
from rheos.paths import Path

SMALL = {"net": "mlp", "width": 16, "depth": 1, "steps": 6, "router_steps": 5, "router_width": 8, "router_depth": 1, "router_batch": 16, "processes": 0}


def made(seed=0, rows=61):
    """Three clusters of unequal size far from the origin, with labels that do not follow them."""
    centre = torch.tensor([[0.0, 4.0], [9.0, -2.0], [-7.0, -1.0]])
    member = torch.arange(rows) % 10 // 4           # 0, 1 and 2 as 4 : 4 : 2
    x = centre[member] + 0.5 * Draws(seed).rows("x", 0, (rows, 2))
    return Dataset("made", x, torch.arange(rows) % 7 % 3, classes=3, labels=("a", "b", "c")), member


@pytest.fixture(scope="module")
def experts():
    return train_experts(made()[0], 3, seed=4, **SMALL)


def test_k_means_finds_the_clusters(seed):
    data, member = made(seed)
    parts = partition(data, 3, seed=seed)
    pairs = set(zip(parts.tolist(), member.tolist(), strict=True))
    assert len(pairs) == 3 and sorted(parts.unique().tolist()) == [0, 1, 2]
    assert torch.equal(partition(data, 3, seed=seed), parts)
    # By features in which other rows are near.
    by_label = partition(data.x, 3, features=lambda x: 100.0 * data.y[:, None].float(), seed=seed)
    assert len(set(zip(by_label.tolist(), data.y.tolist(), strict=True))) == 3


def test_wide_rows_are_divided_on_their_principal_axes(seed):
    x = 0.1 * Draws(seed).rows("x", 0, (90, 1, 10, 13))
    x[:20, 0, 3, 4] += 30.0
    assert len(set(zip(partition(x, 2, seed=seed).tolist(), [k < 20 for k in range(90)], strict=True))) == 2


def test_all_share_one_scale_and_the_card_tells(experts):
    data, _ = made()
    whole = Standardise.fit(data.x)
    for model, size in zip(experts.models, experts.sizes, strict=True):
        assert torch.equal(model.transform.mean, whole.mean) and torch.equal(model.transform.std, whole.std)
        assert model.card["rows"] == size and model.card["batch"] == 256 // 3 > size      # a part smaller than its minibatch
        assert model.conditions.classes == 3 and model.labels == ("a", "b", "c")
    assert sorted(experts.sizes) == [12, 24, 25] and experts.card["exchanged"] == 0 and experts.card["sockets"] == 0
    assert experts.card["class_counts"] == torch.bincount(data.y).tolist() and len({model.card["seed"] for model in experts.models}) == 3


def test_samples_are_those_of_the_mixture_in_the_datas_units(experts):
    field = experts.field(top=2)
    x = experts.sample(9, top=2, cond=[0, 1, 2] * 3, seed=5, steps=4)
    told = torch.tensor([0, 1, 2] * 3)
    again = rheos.sample(field, 9, shape=(2,), cond=told, seed=5, steps=4)
    torch.testing.assert_close(x, experts.transform.inverse(again))
    assert experts.sample(4, guidance=2.0, cond="b", steps=3).shape == (4, 2)
    torch.testing.assert_close(experts.sample(9, top=1, seed=5, batch=2), experts.sample(9, top=1, seed=5), rtol=1e-4, atol=1e-4)
    # Without a condition classes are drawn as frequent as in the data.
    assert not torch.equal(experts.sample(9, seed=5), experts.sample(9, seed=5, cond=-1))


def test_saved_and_loaded_to_the_bit(experts, tmp_path):
    folder = experts.save(tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "b")
    back = load_experts(tmp_path / "b")
    for top in (1, None):
        assert torch.equal(back.sample(5, top=top, cond=1, seed=2, steps=3), experts.sample(5, top=top, cond=1, seed=2, steps=3))
    assert back.sizes == experts.sizes and back.card == experts.card and not list(tmp_path.rglob("*.pkl")) and folder.name == "a"


def test_a_part_knows_nothing_of_the_others(experts):
    """Other rows in the other parts, at the same scale and partition: the expert of this part is the same to the bit."""
    data, member = made()
    first = train_experts(data.x, member, seed=4, **SMALL)
    x, odd = data.x.clone(), torch.tensor([0, 8])      # a row of part 0 and one of part 2 change places, so that the whole's scale stays
    assert member[odd].tolist() == [0, 2]
    x[odd] = x[odd.flip(0)]
    second = train_experts(x, member, seed=4, **SMALL)
    weights = lambda experts, k: torch.cat([v.flatten() for v in experts.models[k].field.net.state_dict().values()])
    assert torch.equal(second.transform.mean, first.transform.mean)
    assert torch.equal(weights(first, 1), weights(second, 1)) and not torch.equal(weights(first, 0), weights(second, 0))


@pytest.fixture(scope="module")
def island(tmp_path_factory):
    """A folder in which three experts were trained."""
    folder = tmp_path_factory.mktemp("islands") / "run"
    train_experts(made()[0], 3, seed=4, folder=folder, **(SMALL | {"steps": 6, "every": 2}))
    return folder


def test_a_dead_expert_is_resumed_alone(island, tmp_path, experts):
    """Killed after a checkpoint: the others are not touched, and it ends where it would have ended."""
    folder = shutil.copytree(island, tmp_path / "run")
    told = load_json(folder / "island-1" / "settings.json")
    shutil.rmtree(folder / "island-1" / "model")
    (folder / "island-1" / "ledger.json").unlink()
    # What a process leaves that was killed after step 4.
    from rheos.core import Checkpoint, evolve
    from rheos.models.islands import _prepared
    run = _prepared(rheos.core.files.load_tensors(folder / "island-1" / "rows.safetensors")[0], told)
    evolve(run.descent, run.start, 4, watch=[Checkpoint(folder / "island-1" / "state", 2, about=run.about)])
    times = [os.stat(folder / f"island-{k}" / "model" / "model.json").st_mtime_ns for k in (0, 2)]
    again = train_experts(made()[0], 3, seed=4, folder=folder, resume=True, **(SMALL | {"every": 2}))
    assert load_json(folder / "island-1" / "ledger.json")["resumed_at"] == 4
    assert times == [os.stat(folder / f"island-{k}" / "model" / "model.json").st_mtime_ns for k in (0, 2)]
    assert torch.equal(again.sample(6, seed=1, steps=3), experts.sample(6, seed=1, steps=3))
    assert not (folder / "island-1" / "state").exists()


def test_the_ledger_hears_a_sibling_and_a_socket(tmp_path):
    import socket

    for name in ("me", "you"):
        (tmp_path / name).mkdir()
    (tmp_path / "you" / "rows").write_bytes(b"x" * 137)
    with Ledger(tmp_path / "me") as ledger:
        (tmp_path / "me" / "mine").write_bytes(b"y" * 11)
        (tmp_path / "you" / "rows").read_bytes()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.bind(("127.0.0.1", 0))
        open(__file__).close()
    (tmp_path / "you" / "rows").read_bytes()
    assert ledger.foreign == {str(tmp_path / "you" / "rows"): 137} and ledger.own == {str(tmp_path / "me" / "mine"): 11} and ledger.sockets == 1


def test_a_leak_is_counted(island, tmp_path, monkeypatch):
    """An expert that looks at its neighbour's rows in training: the planted mistake is seen."""
    folder = shutil.copytree(island, tmp_path / "run")
    (folder / "island-0" / "ledger.json").unlink()
    from rheos.models import islands
    honest = islands._prepared
    monkeypatch.setattr(islands, "_prepared", lambda *a: ((folder / "island-2" / "rows.safetensors").read_bytes(), honest(*a))[1])
    train_island(folder / "island-0")
    foreign = load_json(folder / "island-0" / "ledger.json")["foreign"]
    assert list(foreign.values()) == [(folder / "island-2" / "rows.safetensors").stat().st_size]


@pytest.mark.slow(seconds=30)
def test_each_in_a_process_of_its_own(experts, tmp_path):
    """Two processes at once (that is what is tested), equal to the same training in this one; nothing passes between them; and one that dies does not touch the others."""
    data, _ = made()
    apart = train_experts(data, 3, seed=4, folder=tmp_path / "run", **(SMALL | {"processes": 2}))
    assert torch.equal(apart.sample(6, seed=1, steps=3), experts.sample(6, seed=1, steps=3))
    assert apart.card["exchanged"] == 0 and apart.card["sockets"] == 0 and len(apart.card["cpu_seconds"]) == 3
    for k in (0, 1):
        (tmp_path / "run" / f"island-{k}" / "ledger.json").unlink()
    rows = tmp_path / "run" / "island-1" / "rows.safetensors"
    rows.write_bytes(rows.read_bytes()[:100])
    failed = run_islands([tmp_path / "run" / f"island-{k}" for k in (0, 1)], 2)
    assert list(failed) == [1] and failed[1].startswith("exit code 1, safetensors") and (tmp_path / "run" / "island-0" / "ledger.json").is_file()


def test_an_expert_that_fails_is_named(monkeypatch, tmp_path):
    from rheos.models import experts as room

    monkeypatch.setattr(room, "run_islands", lambda folders, processes: {2: "exit code -9"})
    with pytest.raises(RuntimeError, match=r"1 of 3 experts did not end; expert 2: exit code -9; call again with folder=.* and resume=True"):
        train_experts(made()[0], 3, folder=tmp_path / "run", **SMALL)
    with pytest.raises(RuntimeError, match="pass folder"):
        train_experts(made()[0], 3, **SMALL)


X = made()[0].x
TWO = torch.tensor([0, 1] * 30 + [0])
REFUSALS = {
    "too many parts": (lambda: partition(X, 62), ValueError, "parts must be at most 61 for 61 rows, got 62"),
    "no parts": (lambda: partition(X, 0), ValueError, "parts must be at least 1"),
    "an empty part": (lambda: partition(X[:3].repeat(5, 1), 4), ValueError, "number of different rows, 3, got 4: part 3 is empty"),
    "features": (lambda: partition(X, 2, features=lambda x: x[:5]), ValueError, "one row for each of the 61 rows"),
    "features not finite": (lambda: partition(X, 2, features=lambda x: x / 0 * 0), ValueError, "features must be finite"),
    "a part of one row": (lambda: train_experts(X, torch.tensor([0] * 60 + [1]), **SMALL), ValueError, "part 1 of 2 has 1 row; use fewer parts"),
    "a part of one thing": (lambda: train_experts(torch.cat([X, X[:1].repeat(9, 1)]), torch.tensor([0] * 61 + [1] * 9), **SMALL), ValueError, "part 1 of 2 has rows that are all alike"),
    "a gap": (lambda: train_experts(X, TWO * 2, **SMALL), ValueError, "no row in part 1 of 3"),
    "rows": (lambda: train_experts(X, TWO[:8], **SMALL), ValueError, r"parts must have shape \(61\)"),
    "negative": (lambda: train_experts(X, TWO - 1, **SMALL), ValueError, "got -1 to 0"),
    "a setting": (lambda: train_experts(X, 2, coupling="ot", **SMALL), ValueError, "a setting of train_experts"),
    "two-sided": (lambda: train_experts(X, 2, path=Path.interpolant(), **SMALL), ValueError, "one-sided"),
    "steps": (lambda: train_experts(X, 2, **(SMALL | {"steps": 0})), ValueError, "steps must be at least 1"),
    "processes": (lambda: train_experts(X, 2, **(SMALL | {"processes": -1})), ValueError, "processes must be at least 0"),
    "batch": (lambda: train_experts(X, 2, batch=0, **SMALL), ValueError, "batch must be at least 1"),
    "resume": (lambda: train_experts(X, 2, resume=True, **SMALL), ValueError, "resume needs the folder"),
    "label": (lambda: train_experts(X, 2, condition="label", **SMALL), ValueError, "no labels"),
    "caption": (lambda: train_experts(X, 2, condition="caption", **SMALL), ValueError, "condition must be one of auto, label, none"),
    "constant": (lambda: train_experts(torch.ones(9, 2), 2, **SMALL), ValueError, "data is constant"),
    "dtype": (lambda: train_experts(X.half(), 2, **SMALL), TypeError, "float16"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals(case):
    call, kind, message = REFUSALS[case]
    with pytest.raises(kind) as caught:
        call()
    assert re.search(message, str(caught.value)) or "type-check" in str(caught.value).lower()


def test_folders_that_are_refused(island, experts, tmp_path):
    with pytest.raises(ValueError, match="holds an expert already: pass resume=True"):
        train_experts(made()[0], 3, seed=4, folder=island, **SMALL)
    with pytest.raises(ValueError, match="another run: seed, steps differ"):
        _resume_other(island)
    with pytest.raises(FileNotFoundError, match="holds no experts"):
        load_experts(tmp_path)
    folder = experts.save(tmp_path / "e")
    told = load_json(folder / "experts.json")
    for change, message in ((lambda d: d.update(format=9), "format 9"), (lambda d: d.pop("sizes"), "damaged: KeyError"),
                            (lambda d: d["router"].update(tensors="../x"), "no router file"), (lambda d: d["router"].update(sha256="0"), "is damaged"),
                            (lambda d: d["router"]["settings"].update(width=10**6), "do not fit"), (lambda d: d["router"]["settings"].update(outputs=2), "other experts"),
                            (lambda d: d.update(sizes=[3] * 5000), "more than 1024")):
        broken = json.loads(json.dumps(told))
        change(broken)
        (folder / "experts.json").write_text(json.dumps(broken))
        with pytest.raises(ValueError, match=message):
            load_experts(folder)


def _resume_other(island):
    from rheos.models.islands import prepare_island

    told = load_json(island / "island-0" / "settings.json")
    tensors = rheos.core.files.load_tensors(island / "island-0" / "rows.safetensors")[0]
    prepare_island(island / "island-0", tensors, told, resume=True)             # the same: nothing happens
    prepare_island(island / "island-0", tensors, told | {"steps": 7, "seed": 1}, resume=True)


def test_experts_of_different_scales_are_refused(experts):
    from dataclasses import replace

    from rheos.models import Model

    other = experts.models[1]
    odd = Model(other.field, Standardise(other.transform.mean + 1, other.transform.std), other.event, conditions=other.conditions)
    with pytest.raises(ValueError, match="models must share their scale: that of model 1"):
        replace(experts, models=(experts.models[0], odd, experts.models[2]))
    with pytest.raises(ValueError, match="one for each of the 3 sizes, got 2"):
        Experts(experts.models[:2], experts.router, experts.sizes)


@pytest.mark.parametrize("kind", ["float64", "edm"])
def test_other_dtypes_and_paths(kind):
    x = made()[0].x.double() if kind == "float64" else made()[0].x
    experts = train_experts(x, 2, path=Path.edm() if kind == "edm" else None, **SMALL)
    assert experts.router.unit_input == (kind == "edm") == experts.models[0].field.unit_input
    assert experts.sample(3, steps=4).dtype == x.dtype


def test_digits_keep_their_bounds():
    data = load("digits")
    experts = train_experts(data, 4, condition="none", **SMALL)
    x = experts.sample(6, steps=3)
    assert sum(experts.sizes) == len(data) and x.shape == (6, 1, 8, 8) and float(x.min()) >= -1 and float(x.max()) <= 1
