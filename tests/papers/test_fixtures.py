"""The fixture cache: same key, same tensors to the bit; another key, another build; damage is repaired."""
from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import safetensors
import torch

import rheos
from rheos.core import evolve
from rheos.papers import fixtures
from rheos.papers.fixtures import fixture
from rheos.papers.sources import code_hash

BUILT: list[dict] = []


def ramp(n, scale=1.0, dtype="float32"):
    BUILT.append({"n": n, "scale": scale})
    x = scale * torch.arange(n, dtype=getattr(torch, dtype))
    return {"x": x, "flags": x > 1, "view": x.expand(2, n).T, "one": torch.tensor(3, dtype=torch.bfloat16)}


def other_ramp(n, scale=1.0, dtype="float32"):
    BUILT.append({"n": n, "scale": scale})
    return {"x": 2 * scale * torch.arange(n, dtype=getattr(torch, dtype))}


def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
    return {"x": torch.zeros(1)}


def outer(seconds):
    return {"x": fixture("inner", burn, seconds=seconds)["x"] + 1}


@dataclass
class Count:
    step: int = 0


@dataclass(frozen=True)
class Up:
    def step(self, state):
        return Count(state.step + 1)


def press(step, state):
    if step == 3:
        os.kill(os.getpid(), signal.SIGINT)


def half_trained(pressed):
    BUILT.append({"pressed": pressed})
    return {"steps": torch.tensor(evolve(Up(), Count(), 10, watch=[press] if pressed else []).step)}


def fails():
    raise RuntimeError("no teacher today")


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RHEOS_CACHE", str(tmp_path / "cache"))
    BUILT.clear()


def test_a_second_call_reads_the_same_bits():
    first, second = fixture("ramp", ramp, n=5, scale=0.1), fixture("ramp", ramp, n=5, scale=0.1)
    assert len(BUILT) == 1 and (first.cached, second.cached) == (False, True)
    assert second.seconds == first.seconds and second.file == first.file
    assert first.tensors.keys() == second.tensors.keys() == {"x", "flags", "view", "one"}
    for name in first.tensors:
        assert first[name].dtype == second[name].dtype and torch.equal(first[name], second[name])
    torch.testing.assert_close(second["x"], torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4]))
    assert torch.equal(second["view"][:, 1], second["x"])


def test_the_key_holds_name_arguments_source_and_version(monkeypatch):
    files = [fixture("ramp", ramp, n=5).file, fixture("ramp2", ramp, n=5).file, fixture("ramp", ramp, n=6).file,
             fixture("ramp", ramp, n=5, scale=1).file, fixture("ramp", ramp, n=5, scale=True).file, fixture("ramp", other_ramp, n=5).file]
    monkeypatch.setattr(rheos, "__version__", "99.0")
    files.append(fixture("ramp", ramp, n=5).file)
    assert len(set(files)) == len(BUILT) == 7
    assert fixture("ramp", ramp, scale=2.0, n=3).file == fixture("ramp", ramp, n=3, scale=2.0).file


def test_the_key_holds_the_code_behind_the_build(monkeypatch):
    """The hash is that of the file that defines `build`, with all it imports; nothing else may stand in its place."""
    asked = []
    real = fixture("ramp", ramp, n=5).file
    monkeypatch.setattr(fixtures, "code_hash", lambda file: asked.append(file) or code_hash(file))
    assert fixture("ramp", ramp, n=5).file == real and asked == [Path(__file__)]
    monkeypatch.setattr(fixtures, "code_hash", lambda file: "something behind it changed")
    assert fixture("ramp", ramp, n=5).file != real and len(BUILT) == 2


def flip_last_byte(content):
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize("damage", [lambda c: b"", lambda c: c[:-3], lambda c: c[:40], flip_last_byte, lambda c: b"{}" * 50,
                                    lambda c: c.replace(b"format", b"formal")])
def test_a_damaged_file_is_built_again(damage):
    good = fixture("ramp", ramp, n=5, scale=0.3)
    content = good.file.read_bytes()
    assert damage(content) != content
    good.file.write_bytes(damage(content))
    again = fixture("ramp", ramp, n=5, scale=0.3)
    assert not again.cached and len(BUILT) == 2 and torch.equal(again["x"], good["x"])
    assert fixture("ramp", ramp, n=5, scale=0.3).cached


def test_a_file_of_another_key_is_not_believed():
    one, two = fixture("ramp", ramp, n=5), fixture("ramp", ramp, n=6)
    two.file.write_bytes(one.file.read_bytes())
    again = fixture("ramp", ramp, n=6)
    assert not again.cached and len(again["x"]) == 6


def test_a_crash_between_write_and_rename_leaves_no_half_file(monkeypatch):
    def crash(*_):
        raise OSError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", crash)
        with pytest.raises(OSError, match="disk full"):
            fixture("ramp", ramp, n=5)
    assert list(fixtures.cache_folder().iterdir()) == []
    assert not fixture("ramp", ramp, n=5).cached


def test_the_file_is_safetensors_and_says_what_made_it():
    made = fixture("ramp", ramp, n=5, scale=0.5)
    assert made.file.parent == fixtures.cache_folder() and made.file.name.startswith("ramp-")
    with safetensors.safe_open(made.file, framework="pt") as content:
        about = json.loads(content.metadata()["rheos"])
    assert about["arguments"] == {"n": 5, "scale": 0.5} and about["rheos"] == rheos.__version__
    assert "def ramp(n, scale=1.0" in about["source"] and about["seconds"] == made.seconds


def test_the_cache_is_in_the_home_folder_by_default(monkeypatch, tmp_path):
    monkeypatch.delenv("RHEOS_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert fixtures.cache_folder() == tmp_path / ".cache" / "rheos"


def test_the_cost_of_the_build_is_kept_and_the_ledger_counts_it_once():
    with fixtures.ledger() as used:
        made = fixture("outer", outer, seconds=0.05)
    assert [one.name for one in used] == ["outer"] and used[0] is made                # the inner one is part of the outer one's cost
    assert made.seconds >= 0.05 and made.spent >= made.seconds
    with fixtures.ledger() as used:
        fixture("outer", outer, seconds=0.05)
        fixture("inner", burn, seconds=0.05)
    assert [(one.name, one.cached) for one in used] == [("outer", True), ("inner", True)]
    assert all(one.seconds >= 0.05 for one in used) and sum(one.spent for one in used) < 0.05
    assert made["x"].item() == 1.0


def test_a_failed_build_leaves_nothing():
    with pytest.raises(RuntimeError, match="no teacher today"), fixtures.ledger() as used:
        fixture("fails", fails)
    assert used == [] and list(fixtures.cache_folder().iterdir()) == []


def test_ctrl_c_during_a_build_is_raised_and_keeps_nothing(ctrl_c):
    with pytest.raises(KeyboardInterrupt), fixtures.ledger() as used:
        fixture("teacher", half_trained, pressed=True)
    assert used == [] and list(fixtures.cache_folder().iterdir()) == [] and BUILT == [{"pressed": True}]
    assert fixture("teacher", half_trained, pressed=False)["steps"] == 10
    assert evolve(Up(), Count(), 10, watch=[press]).step == 3               # outside of a build it ends softly, as ever


def gives_list():
    return [torch.ones(1)]


def gives_nothing():
    return {}


def gives_number():
    return {"x": 1.0}


def closure(x):
    def build():
        return {"x": x}
    return build


@pytest.mark.parametrize(("name", "build", "arguments", "said"), [
    ("Ramp", ramp, {"n": 5}, "name must be of lower case"), ("../ramp", ramp, {"n": 5}, "name must be of lower case"),
    ("ramp", ramp, {"n": torch.ones(1)}, r"arguments\.n must be finite numbers"),
    ("ramp", ramp, {"n": [1, float("nan")]}, r"arguments\.n\[1\] must be"),
    ("ramp", lambda: {"x": torch.ones(1)}, {}, "written with def"), ("ramp", closure(torch.ones(1)), {}, r"also uses \['x'\]"),
    ("ramp", len, {}, "written with def"), ("ramp", gives_list, {}, "non-empty dict of tensors by name, got list"),
    ("ramp", gives_nothing, {}, "non-empty dict"), ("ramp", gives_number, {}, "non-empty dict"),
])
def test_refuses(name, build, arguments, said):
    with pytest.raises(ValueError, match=said):
        fixture(name, build, **arguments)
    assert not fixtures.cache_folder().exists() or list(fixtures.cache_folder().iterdir()) == []
