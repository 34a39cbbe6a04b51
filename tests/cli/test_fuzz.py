"""Two thousand malformed files and command lines: exit code 1 or 2, one line for people, nothing half-written, no hang, memory bounded.

The examples are the same in every run. tools/fuzz.py draws others of the same kinds, for as long as one likes.
"""
from __future__ import annotations

import json
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import typer
from hypothesis import HealthCheck, Phase, given, settings

from .arena import Case, Quick, made_arena, train
from .malformed import (
    archives,
    array_headers,
    arrays,
    broken_tables,
    field_files,
    fields,
    images,
    npy,
    packed,
    parquets,
    picture_folders,
    picture_tables,
    tables,
    texts,
    wrong_arrays,
)
from .mistyped import damaged_models, damaged_runs, every_option, kept, other_commands, places, sample_flags, train_flags

FUZZ = {
    "arrays": (arrays, 80), "array headers": (array_headers, 120), "archives": (archives, 120), "broken arrays": (wrong_arrays, 80), "tables": (tables, 150), "broken tables": (broken_tables, 100),
    "parquet": (parquets, 100), "fields": (fields, 100), "pictures": (picture_folders, 80), "tables of pictures": (picture_tables, 50), "texts": (texts, 80), "places": (places, 100),
    "flags of train": (train_flags, 60), "flags of sample": (sample_flags, 60), "other commands": (other_commands, 120), "damaged models": (damaged_models, 120), "damaged runs": (damaged_runs, 50),
}


@pytest.fixture(scope="module")
def arena(tmp_path_factory):
    for module in ("pandas", "pyarrow", "h5py"):
        pytest.importorskip(module)
    with made_arena(tmp_path_factory.mktemp("fuzz")) as made:
        yield made


@pytest.mark.parametrize("kind", FUZZ)
def test_malformed(arena, kind):
    strategy, count = FUZZ[kind]

    @settings(max_examples=count, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck), phases=(Phase.generate, Phase.shrink))
    @given(strategy())
    def holds(case):
        arena.trial(case)

    holds()


@pytest.mark.parametrize(("command", "part"), [("train", 0), ("train", 1), ("train", 2), ("train", 3), ("sample", 0)])
def test_every_option_with_every_value(arena, command, part):
    cases = list(every_option(command))
    assert len(cases) > 150, "the tables of options are gone"
    for case in cases[part::4] if command == "train" else cases:
        arena.trial(case)


# -- found once ---------------------------------------------------------------------------------------------------------------


def hub_with(change):
    """The files of the hub's model, its description changed."""
    place = "hub/me/flow/model.json"
    return {place: json.dumps(json.loads(kept(os.getcwd())[place]) | change).encode()}


def run_without(line):
    content = kept(os.getcwd())["run/run.toml"].decode()
    assert line in content
    return {"run/run.toml": content.replace(line, "").encode()}


FOUND = {
    "a pull leaves half a model": (("pull", "me/flow", "--hub", "hub", "--out", "out"), lambda: hub_with({"classes": [3]}), "me/flow: model.json"),
    "an archive's x is no array": (train("in/x.npz"), lambda: {"in/x.npz": packed({"x": b"no array"})}, "in/x.npz: cannot be read as a NumPy file"),
    "a header that is code": (train("in/x.npy"), lambda: {"in/x.npy": b"\x93NUMPY\x01\x00\x13\x00__import__('os').x\n"}, "(its header is damaged)"),
    "columns with a line break": (train("table.csv", "--columns", "a\nb"), dict, "columns must be names with commas between them"),
    "commas in a .tsv": (train("in/x.tsv"), lambda: {"in/x.tsv": b"a,b\n1,2\n3,4\n5,1\n"}, "has one column, called 'a,b': cells must be separated by tabs"),
    "a claim of 4 GB": (train("in/x.h5", "--key", "claimed"), lambda: {"in/x.h5": field_files()["many"]}, "takes 4.3 GB, of which 0.000 GB were ever written"),
    "factors that overflow": (train("in/x.h5", "--key", "factors"), lambda: {"in/x.h5": field_files()["many"]}, "factors must be finite"),
    "a picture of 144 million pixels": (train("in"), lambda: {f"in/{name}": images()[name] for name in ("a.png", "claimed.png")}, "could be decompression bomb"),
    "a trace that is no text": (("train", "--resume", "run"), lambda: {"run/trace.jsonl": b"\xff{}\n{}\n"}, "run/trace.jsonl is damaged at line 1"),
    "a trace without its clocks": (("train", "--resume", "run"), lambda: {"run/trace.jsonl": b'{"step": 1, "loss": 0.5}'}, None),
    "a trace of texts": (("train", "--resume", "run"), lambda: {"run/trace.jsonl": b'{"step": 1, "loss": 0.5, "cpu_seconds": "x"}'}, "run/trace.jsonl is damaged at line 1"),
    "a run without its coupling": (("train", "--resume", "run"), lambda: run_without('coupling = "independent"\n'), "run.toml is damaged: settings lacks coupling"),
    "a model in the way": (train("numbers.npy", out="run/model"), dict, "run/model already holds"),
    "a link to itself in the way": (train("numbers.npy", out="loop/x"), dict, "is not a folder"),
    "a link to nowhere in the way": (("report", "run", "--out", "nowhere/x.html"), dict, "is not a folder"),
    "no numbers on a device": (train("numbers.npy", "--device", "meta"), dict, "device 'meta' cannot be used here"),
    "a device that is a module": (train("numbers.npy", "--device", "hpu"), dict, "device 'hpu' cannot be used here"),
    "a width beyond int64": (train("numbers.npy", "--width", "9" * 20), dict, "width must be at most"),
    "a width beyond the memory": (train("numbers.npy", "--width", "60000"), dict, "make it smaller"),
    "a depth beyond patience": (train("numbers.npy", "--depth", "1000000"), dict, "depth must be at most"),
    "a batch beyond patience": (train("numbers.npy", "--batch", "1000000000"), dict, "batch must be at most"),
    "pairs beyond the memory": (train("numbers.npy", "--batch", "100000", "--coupling", "ot"), dict, "batch must be at most"),
    "steps beyond patience": (("sample", "run", "--steps", "1000000000"), dict, "steps must be at most"),
    "steps beyond int64": (("sample", "run", "--steps", "9" * 20), dict, "steps must be at most"),
    "a class beyond int64": (("sample", "table", "--cond", "9" * 20), dict, "cond must be a class from 0 to 1"),
    "a name that is not UTF-8": (train("in/caf\udce9.npy"), lambda: {"in/caf\udce9.npy": npy(np.eye(5))}, "is not UTF-8"),
    "a name that steers the terminal": (train("in/\x1b[31m.npy"), lambda: {"in/\x1b[31m.npy": b""}, "in/\\x1b[31m.npy"),
}


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found_once(arena, name):
    argv, files, said = FOUND[name]
    _, line = arena.trial(Case(argv, files(), fine=said is None))
    assert said is None or said in line


# -- the judge itself ---------------------------------------------------------------------------------------------------------


def misbehave(how):
    """A command of its own that fails, and does what no command may."""
    def train(data: str, out: str = "out", more: list[str] | None = None):
        if how == "a file is left":
            Path("left").write_text("x")
        elif how == "a file is changed":
            Path("run/run.toml").write_text("x")
        elif how == "a file is gone":
            Path("run/run.toml").unlink()
        elif how == "a temporary file is left":
            os.close(tempfile.mkstemp()[0])
        elif how == "two lines":
            print("something else", file=sys.stderr)
        elif how == "a line past Python":
            os.write(2, b"libmess: error\n")
        elif how == "output":
            print("half of the answer")
        elif how == "a warning":
            warnings.warn("overflow", RuntimeWarning, stacklevel=1)
        elif how == "an error of Python's":
            raise KeyError("x")
        elif how == "too much memory":
            np.ones(2**32)
        elif how == "too long":
            begun = time.process_time()
            while time.process_time() < begun + 0.3:
                pass
        elif how == "half a run":
            Path("out").mkdir()
            Path("out/run.toml").write_text("x")
            return
        elif how == "more than a run":
            Path("elsewhere").write_text("x")
            return
        elif how == "nothing at all":
            return
        elif how == "no reason":
            raise ValueError("no")
        raise ValueError("the data are wrong")

    app = typer.Typer()
    app.command("train")(train)
    app.command("other")(lambda: None)
    return Quick(app)


@pytest.mark.parametrize("how", ["a file is left", "a file is changed", "a file is gone", "a temporary file is left", "two lines", "a line past Python", "output", "a warning", "an error of Python's",
                                 "too much memory", "too long", "half a run", "more than a run", "nothing at all", "no reason"])
def test_the_judge_sees(arena, monkeypatch, how):
    monkeypatch.setattr(arena, "app", misbehave("nothing wrong"))
    monkeypatch.setattr(sys.modules[Case.__module__], "SECONDS", 0.2)
    arena.trial(Case(("train", "x", "--out", "out"), fine=False))
    monkeypatch.setattr(arena, "app", misbehave(how))
    with pytest.raises(AssertionError):
        arena.trial(Case(("train", "x", "--out", "out")))
