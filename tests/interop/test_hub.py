"""Models on hubs: there and back through a folder that serves as one, the card, and what is refused."""
from __future__ import annotations

import pytest
import torch

import rheos
from rheos.core import Draws
from rheos.data import Dataset
from rheos.interop import LocalHub, describe, pull, push, write_card


@pytest.fixture(scope="module")
def model():
    x = Draws(0).rows("x", 0, (40, 3), dtype=torch.float32)
    data = Dataset("ants | bees", x, torch.arange(40) % 2, classes=2, labels=("ant", 'the "bee"'), meaning="three lengths, mm", licence="CC0", source="a meadow")
    made = rheos.train(data, steps=3, width=16, depth=1, device="cpu")
    made.card["figures"] = {"sliced W2 of rows": 0.25, "rows that were judged": 40, "said": "text", "flag": True}
    return made


def head(text):
    """The card's YAML, by a library that reads YAML."""
    return pytest.importorskip("yaml").safe_load(text.split("---")[1])


def test_what_is_pulled_is_what_was_pushed(model, tmp_path):
    hub = LocalHub(tmp_path / "hub")
    place = push(model, "me/ants.v1", hub=hub, licence="mit")
    assert place == str(tmp_path / "hub" / "me" / "ants.v1")
    back = pull("me/ants.v1", hub=hub)
    assert torch.equal(back.sample(5, cond="ant"), model.sample(5, cond="ant")) and back.card == model.card
    kept = pull("me/ants.v1", hub=hub, folder=tmp_path / "kept")
    assert torch.equal(rheos.load(tmp_path / "kept").sample(2), kept.sample(2)) and (tmp_path / "kept" / "README.md").is_file()


def test_a_saved_folder_can_be_pushed_and_a_second_push_replaces_the_first(model, tmp_path):
    hub, folder = LocalHub(tmp_path / "hub"), model.save(tmp_path / "model")
    push(folder, "me/ants", hub=hub)
    other = rheos.train(torch.randn(30, 2, generator=torch.Generator().manual_seed(0)), steps=2, width=16, depth=1, device="cpu")
    push(other, "me/ants", hub=hub)
    assert pull("me/ants", hub=hub).event == (2,)
    assert len(list((tmp_path / "hub" / "me" / "ants").glob("model-*.safetensors"))) == 1


def test_the_card_says_what_a_stranger_needs(model, tmp_path):
    card = write_card(model, tmp_path, name="me/ants", licence="cc0-1.0").read_text()
    told = head(card)
    assert told["license"] == "cc0-1.0" and told["library_name"] == "rheos" and "rheos" in told["tags"]
    (result,) = told["model-index"][0]["results"]
    assert result["dataset"]["name"] == "ants | bees"
    assert {m["name"]: m["value"] for m in result["metrics"]} == {"sliced W2 of rows": 0.25, "rows that were judged": 40}
    for words in ("three lengths, mm", "CC0", "a meadow", "2 classes: ant", "ants \\| bees", 'pull("me/ants")', "cond='ant'", "sliced W2 of rows | 0.25"):
        assert words in card
    assert head(describe(model)).keys() == {"library_name", "tags", "model-index"} and 'rheos.load("this/folder")' in describe(model)


def test_the_lines_on_the_card_run(model, tmp_path):
    hub = LocalHub(tmp_path)
    push(model, "me/ants", hub=hub)
    code = (tmp_path / "me" / "ants" / "README.md").read_text().split("```")[1].removeprefix("python\n")
    told: dict = {}
    exec(code.replace('pull("me/ants")', 'pull("me/ants", hub=hub)'), {"hub": hub}, told)
    assert told["x"].shape == (16, 3)


def test_the_api_of_the_library_is_asked_as_it_is(model, tmp_path):
    """The calls must fit the signatures of huggingface_hub, which cannot be reached from here."""
    import inspect

    library = pytest.importorskip("huggingface_hub").HfApi
    calls = {"create_repo": {"repo_id": "me/a", "private": False, "exist_ok": True},
             "upload_folder": {"repo_id": "me/a", "folder_path": "x", "commit_message": "m"},
             "snapshot_download": {"repo_id": "me/a", "revision": None, "allow_patterns": ["*"], "local_dir": "x"}}
    for name, arguments in calls.items():
        inspect.signature(getattr(library, name)).bind(None, **arguments)


@pytest.mark.parametrize("name", ["ants", "me/", "/ants", "a/b/c", "me/../ants", "me/ant s", "me/..", "", "../me"])
def test_names_that_are_none(model, tmp_path, name):
    for call in (lambda: push(model, name, hub=LocalHub(tmp_path)), lambda: pull(name, hub=LocalHub(tmp_path))):
        with pytest.raises(ValueError, match="a model on a hub is named user/name"):
            call()
    assert not list(tmp_path.iterdir())


def test_other_refusals(model, tmp_path):
    hub = LocalHub(tmp_path / "hub")
    with pytest.raises(FileNotFoundError, match="holds no model called me/ants"):
        pull("me/ants", hub=hub)
    push(model, "me/ants", hub=hub)
    with pytest.raises(ValueError, match="revision must be left out: a folder keeps the last version only, got 'v2'"):
        pull("me/ants", hub=hub, revision="v2")
    with pytest.raises(ValueError, match="licence must be a short name in small letters"):
        push(model, "me/ants", hub=hub, licence="My Licence: 1")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="root must be a folder, got the file"):
        LocalHub(tmp_path / "file")
    (tmp_path / "hub" / "me" / "ants" / "model.json").write_text("{")
    with pytest.raises(ValueError, match="model.json is damaged"):
        pull("me/ants", hub=hub)
