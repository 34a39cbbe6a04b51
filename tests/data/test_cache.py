"""Parsed data kept by content."""
from __future__ import annotations

import json

import pytest
import torch

from rheos.data import cache, load
from rheos.data.cache import cached


class Builder:
    """Counts how often it was asked."""

    def __init__(self, value: float = 1.0):
        self.calls, self.value = 0, value

    def __call__(self):
        self.calls += 1
        return {"x": torch.tensor([[self.value, -2.5]]), "y": torch.tensor([7, 3])}, {"names": ("b", "ä"), "n": 3}


@pytest.fixture
def file(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"first")
    return tmp_path / "a.bin"


def test_the_second_reading_is_the_first_and_builds_nothing(own_cache, file):
    build = Builder()
    first, second = cached("thing", {"a": file}, {"size": 3}, build), cached("thing", {"a": file}, {"size": 3}, build)
    assert build.calls == 1
    for tensors, about in (first, second):
        assert torch.equal(tensors["x"], torch.tensor([[1.0, -2.5]])) and torch.equal(tensors["y"], torch.tensor([7, 3]))
        assert about == {"names": ["b", "ä"], "n": 3}
    assert [place.suffix for place in own_cache.rglob("*") if place.is_file()] == [".safetensors"]


@pytest.mark.parametrize("change", ["bytes", "name", "settings", "reader", "more files"])
def test_anything_else_is_built_anew(own_cache, file, change):
    build = Builder()
    cached("thing", {"a": file}, {"size": 3}, build)
    name, parts, settings = "thing", {"a": file}, {"size": 3}
    if change == "bytes":
        file.write_bytes(b"fIrst")
    elif change == "name":
        parts = {"b": file}
    elif change == "settings":
        settings = {"size": 4}
    elif change == "reader":
        name = "other"
    else:
        parts = {"a": file, "b": file}
    cached(name, parts, settings, build)
    assert build.calls == 2


def test_the_order_of_settings_and_files_is_nothing(own_cache, file, tmp_path):
    (tmp_path / "b.bin").write_bytes(b"second")
    build, other = Builder(), tmp_path / "b.bin"
    cached("thing", {"a": file, "b": other}, {"size": 3, "fit": "pad"}, build)
    cached("thing", {"b": other, "a": file}, {"fit": "pad", "size": 3}, build)
    assert build.calls == 1


def test_a_file_that_moved_with_its_bytes_is_found(own_cache, file, tmp_path):
    build = Builder()
    cached("thing", {"a": file}, {}, build)
    file.rename(tmp_path / "b.bin")
    cached("thing", {"a": tmp_path / "b.bin"}, {}, build)
    assert build.calls == 1


@pytest.mark.parametrize("damage", [b"", b"torn", None])
def test_a_damaged_file_is_replaced(own_cache, file, damage):
    cached("thing", {"a": file}, {}, Builder(1.0))
    (kept,) = own_cache.rglob("*.safetensors")
    kept.write_bytes(kept.read_bytes()[:-3] if damage is None else damage)
    assert cached("thing", {"a": file}, {}, Builder(5.0))[0]["x"][0, 0] == 5.0
    again = Builder(6.0)
    assert cached("thing", {"a": file}, {}, again)[0]["x"][0, 0] == 5.0 and again.calls == 0


def test_what_other_code_made_is_replaced(own_cache, file, monkeypatch):
    cached("thing", {"a": file}, {}, Builder(1.0))
    monkeypatch.setattr(cache, "_code", lambda: "other")
    assert cached("thing", {"a": file}, {}, Builder(2.0))[0]["x"][0, 0] == 2.0
    assert len(list(own_cache.rglob("*.safetensors"))) == 1


def test_without_a_place_to_write_it_goes_on(tmp_path, monkeypatch, file):
    (tmp_path / "occupied").write_text("a file")
    monkeypatch.setenv("RHEOS_CACHE", str(tmp_path / "occupied"))
    build = Builder()
    for _ in range(2):
        assert cached("thing", {"a": file}, {}, build)[1]["n"] == 3
    assert build.calls == 2


def test_what_is_too_large_is_not_kept(own_cache, file, monkeypatch):
    monkeypatch.setattr(cache, "LARGEST_BYTES", 23)           # two float32 and two int64 are 24
    cached("thing", {"a": file}, {}, Builder())
    assert not list(own_cache.rglob("*.safetensors"))
    monkeypatch.setattr(cache, "LARGEST_BYTES", 24)
    cached("thing", {"a": file}, {}, Builder())
    assert len(list(own_cache.rglob("*.safetensors"))) == 1


def test_a_failed_build_leaves_nothing(own_cache, file):
    def build():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        cached("thing", {"a": file}, {}, build)
    assert not list(own_cache.rglob("*.safetensors"))


def test_a_file_that_cannot_be_read_is_named(own_cache, tmp_path):
    with pytest.raises(ValueError, match=r"gone\.bin: cannot be read \(No such file"):
        cached("thing", {"a": tmp_path / "gone.bin"}, {}, Builder())


def test_load_gives_the_same_from_the_cache(own_cache, tmp_path):
    pytest.importorskip("pandas")
    rows = "\n".join(f"{i % 13},{'rgb'[i % 3]}" for i in range(60))
    (tmp_path / "t.csv").write_text(f"count,colour\n{rows}\n")
    first, second = (load(tmp_path / "t.csv", held_out=0.3) for _ in range(2))
    assert torch.equal(first.x, second.x) and torch.equal(first.held_out.x, second.held_out.x) and first.encoding == second.encoding
    assert json.dumps(first.encoding.to_json()) == json.dumps(second.encoding.to_json()) and first.meaning == second.meaning
