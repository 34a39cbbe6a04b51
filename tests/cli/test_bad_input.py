"""Bad input to the main job: each is one clear line that names what is wrong, exit code 2 (usage) or 1 (failure), and leaves nothing half-written."""
from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from rheos import core
from rheos.cli import build
from rheos.cli.errors import run as run_app

SMALL = ("--steps", "4", "--width", "16", "--depth", "1", "--every", "2", "--device", "cpu")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """One finished run on digits and one on a table without classes."""
    folder = tmp_path_factory.mktemp("runs")
    np.save(folder / "table.npy", np.arange(90.0).reshape(30, 3) % 7)
    assert run_app(build(), ["train", "digits", "--out", str(folder / "digits"), *SMALL]) == 0
    assert run_app(build(), ["train", str(folder / "table.npy"), "--out", str(folder / "table"), *SMALL]) == 0
    return folder


@pytest.fixture
def place(tmp_path, monkeypatch, runs):
    """A working folder with copies of both runs."""
    shutil.copytree(runs / "digits", tmp_path / "run")
    shutil.copytree(runs / "table", tmp_path / "table")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def snapshot(folder):
    return {str(file.relative_to(folder)): file.read_bytes() if file.is_file() else None for file in sorted(folder.rglob("*"))}


def refused(capsys, folder, argv, code, said):
    """Run; the line, the code, and that no file was made, changed or taken away."""
    before = snapshot(folder)
    found = run_app(build(), argv)
    out, err = capsys.readouterr()
    assert err.startswith("rheos: ") and err.count("\n") == 1 and err.endswith("\n") and "Traceback" not in out + err
    assert found == code and said in err and out == ""
    assert snapshot(folder) == before


# -- what is typed -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("argv", "code", "said"), [
    ("train", 2, "DATA is missing"), ("train digits", 2, "--out is missing"), ("train digts --out new", 2, "did you mean digits?"),
    ("train nowhere.npy --out new", 2, "nowhere.npy: there is no such file"),
    ("train digits --out new --steps 0", 2, "steps must be at least 1, got 0"), ("train digits --out new --steps many", 2, "'--steps'"),
    ("train digits --out new --path lineer", 2, "path must be one of linear, cosine, vp, ve, edm, kinetic, student, shortest, masked, residual, bridge, got 'lineer' (did you mean linear?)"),
    ("train digits --out new --predicts velocty", 2, "did you mean velocity?"),
    ("train digits --out new --predicts score", 2, "predicts must be one of velocity, v, noise, data, got 'score'"), ("train digits --out new --batch 0", 2, "batch must be at least 1"),
    ("train digits --out new --rate -1", 2, "rate must lie in (0, inf), got -1"), ("train digits --out new --rate nan", 2, "rate must lie in"),
    ("train digits --out new --dropout 1", 2, "dropout must lie in [0, 1), got 1"), ("train digits --out new --width 0", 2, "width must be at least 1"),
    ("train digits --out new --drop-condition 2", 2, "drop_condition must lie in [0, 1], got 2"),
    ("train digits --out new --every 0", 2, "every must be at least 1"), ("train digits --out new --precision fp8", 2, "precision must be one of fp32, bf16"),
    ("train digits --out new --held-out 0.2", 2, "held_out cannot be chosen for digits"),
    ("train table.npy --out new --held-out 1", 2, "held_out must lie in [0, 1)"),
    ("train digits --out new --device cuda:97", 2, "device 'cuda:97' cannot be used here"),
    ("train digits --out new --device abacus", 2, "device 'abacus' cannot be used here"),
    ("train digits --out run", 1, "run already holds a run (run.toml): go on with it by rheos train --resume run"),
    ("train digits --resume run", 2, "leave out DATA"), ("train --resume run --steps 9 --drop-condition 0.5", 2, "leave out --steps, --drop-condition"),
    ("train --resume run --compile", 2, "leave out --compile"), ("train --resume nowhere", 1, "nowhere holds no run"),
    ("train digits --out file/below", 1, "file is not a folder"), ("train digits --out file", 1, "file is not a folder"),
    ("sample nowhere", 1, "nowhere does not exist"), ("sample .", 1, ". holds neither a run nor a model"),
    ("sample run --rule dpm+2", 2, "rule must be one of default, euler, ddim, ddpm, dpm++2, dpm++3, dpm++2-sde, unipc2, unipc3, deis, deis-rho, plms, heun, rk4, rk45, got 'dpm+2' (did you mean dpm++2?)"),
    ("sample run --cond 12", 2, "cond must be a class from 0 to 9"), ("sample table --cond 0", 2, "trained without classes"),
    ("sample run --guidance 2", 2, "--guidance needs a class"), ("sample run --cond 1 --guidance -1", 2, "guidance must lie in [0, inf), got -1"),
    ("sample table --cond 0 --guidance 2", 2, "trained without classes"),
    ("sample run --n 100000000000", 2, "--n is 100,000,000,000, which is too many: the samples take 25,600.0 GB"),
    ("report table --n 100000000000", 2, "--n is 100,000,000,000, which is too many: the samples take 3,600.0 GB"),
    ("sample run --n 0", 2, "n must be at least 1, got 0"), ("sample run --steps 0", 2, "steps must be at least 1, got 0"),
    ("sample run --out x.jpg", 2, "--out must end in .npy or .png, got x.jpg"), ("sample table --out x.png", 2, "are not images with known bounds"),
    ("sample run --out file/x.npy", 1, "file is not a folder"), ("sample run --device cuda:97", 2, "device 'cuda:97' cannot be used here"),
    ("report nowhere", 1, "nowhere holds no run"), ("report run/model", 1, "run/model holds no run"), ("report run --n 1", 2, "n must be at least 2"),
    ("report run --out page.pdf", 2, "--out must end in .html"), ("report run --out file/page.html", 1, "file is not a folder"),
    ("demo --out file/demo", 1, "file is not a folder"), ("demo --out table", 1, "not the demo"), ("demo --out new --steps 0", 2, "steps must be at least 1"),
])
def test_wrong_words(capsys, place, argv, code, said):
    (place / "file").write_text("in the way")
    np.save(place / "table.npy", np.arange(12.0).reshape(4, 3))
    refused(capsys, place, argv.split(), code, said)


@pytest.mark.parametrize(("argv", "said"), [
    (["train", "digits", "--out", ""], "'--out': it is empty"), (["train", "--resume", ""], "'--resume': it is empty"),
    (["sample", ""], "'RUN': it is empty"), (["sample", "run", "--out", ""], "'--out': it is empty"), (["report", ""], "'RUN': it is empty"),
    (["report", "run", "--out", ""], "'--out': it is empty"), (["demo", "--out", ""], "'--out': it is empty"), (["check", "deis", "--out", ""], "'--out': it is empty"),
])
def test_an_empty_path_is_not_the_current_folder(capsys, place, argv, said):
    refused(capsys, place, argv, 2, said)


# -- what is in the data -------------------------------------------------------------------------------------------------


BAD_ARRAYS = {
    "nan": (np.array([[1.0, 2.0], [np.nan, 3.0]]), "x must be finite, got 1 of 4 entries that are not, the first (nan) at (1, 0)"),
    "inf": (np.array([[1.0, np.inf]]), "x must be finite"),
    "objects": (np.array([[1, None]], dtype=object), "Python objects"),
    "words": (np.array(["a", "b"]), "x must hold real numbers"),
    "empty": (np.zeros((0, 3)), "x is empty"),
    "constant": (np.full((50, 2), 3.0), "all entries are 3"),
}


@pytest.mark.parametrize("name", BAD_ARRAYS)
def test_bad_arrays(capsys, tmp_path, name):
    array, said = BAD_ARRAYS[name]
    np.save(tmp_path / f"{name}.npy", array, allow_pickle=True)
    refused(capsys, tmp_path, ["train", str(tmp_path / f"{name}.npy"), "--out", str(tmp_path / "new"), "--held-out", "0"], 2, said)


@pytest.mark.parametrize(("content", "said"), [
    ({"y": np.arange(3)}, "must hold an array named x"), ({"x": np.eye(3), "y": np.arange(2)}, "one label for each of the 3 rows"),
    ({"x": np.eye(3), "y": np.array([0, 1, -1])}, "from 0 up"), ({"x": np.eye(3), "y": np.array([0.5, 1, 2])}, "whole numbers"),
])
def test_bad_archives(capsys, tmp_path, content, said):
    np.savez(tmp_path / "data.npz", **content)
    refused(capsys, tmp_path, ["train", str(tmp_path / "data.npz"), "--out", str(tmp_path / "new")], 2, said)


def test_a_file_that_is_no_array(capsys, tmp_path):
    (tmp_path / "data.npy").write_text("1,2,3\n")
    refused(capsys, tmp_path, ["train", str(tmp_path / "data.npy"), "--out", str(tmp_path / "new")], 2, "data.npy")


def test_data_that_changed_since(capsys, place, runs, tmp_path):
    file = tmp_path / "mine.npy"
    np.save(file, np.arange(60.0).reshape(20, 3) % 11)
    assert run_app(build(), ["train", str(file), "--out", "mine", *SMALL]) == 0
    capsys.readouterr()
    np.save(file, np.arange(60.0).reshape(20, 3) % 13)
    for argv in (["train", "--resume", "mine"], ["report", "mine"]):
        refused(capsys, place, argv, 1, "mine.npy has changed since the run in mine began")
    file.unlink()
    refused(capsys, place, ["train", "--resume", "mine"], 1, "mine.npy: there is no such file")


# -- what is in the folder -----------------------------------------------------------------------------------------------


def change(file, old, new):
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(("old", "new", "said"), [
    ("format = 1", "format = 7", "run folder of another version, its format is 7 and rheos"),
    ("format = 1\n", "", "run folder of another version, its format is None"),
    ("[settings]", "[settings", "run.toml is damaged: not TOML"), ("steps = 4", "stepz = 4", "run.toml is damaged"),
    ("steps = 4", 'steps = "four"', "run.toml is damaged: settings.steps must be a whole number, got 'four'"),
    ("steps = 4", "steps = -4", "run.toml is damaged: settings.steps must be at least 1, got -4"),
    ("every = 2", "every = 0", "run.toml is damaged: settings.every must be at least 1, got 0"), ("every = 2\n", "", "run.toml is damaged: settings lacks every"),
    ("threads = 1", 'threads = "x"', "run.toml is damaged: machine.threads must be a whole number, got 'x'"),
    ("threads = 1", "threads = -1", "machine.threads must be at least 1 and at most 4096, got -1"),
    ("threads = 1", "threads = 1000000", "machine.threads must be at least 1 and at most 4096, got 1000000"),
    ("[machine]", "[versions.machine]", "run.toml is damaged: versions.machine must be a text"),
    ("compile = false", "compile = 0", "settings.compile must be true or false, got 0"), ("clip = 1.0", "clip = true", "settings.clip must be a number, got True"),
    ("width = 16", "width = 16\ndropout = 1.5", "run.toml: dropout must lie in [0, 1), got 1.5"),
    ('coupling = "independent"', 'coupling = "optimal"', "run.toml: coupling must be one of independent, ot, paired, got 'optimal'"),
    ("steps = 4", "steps = 2", "was saved by another run: steps was 4, is 2; put run/run.toml back as it was"),
    ("steps = 4", "steps = 8", "was saved by another run: steps was 4, is 8"), ("seed = 0", "seed = 1", "was saved by another run: seed was 0, is 1"),
    ("rate = 0.002", "rate = 1.0", "was saved by another run: rate was 0.002, is 1.0"),
    ('path = "linear"', 'path = "spiral"', "path must be one of linear, cosine, vp, ve, edm, kinetic, student, shortest, masked, residual, bridge, got 'spiral'"), ("[data]", "[dates]", "run.toml is damaged"),
    ('net = "auto"', 'net = "os.system"', "net must be one of auto, mlp, unet, dit, got 'os.system'"), ("width = 16", "width = 16\nnett = 3", "unknown settings nett"), ('name = "digits"', 'name = "faces"', "data must be one of digits"),
    ("width = 16", "width = 17", "width was 16, is 17; put run/run.toml back as it was"),
])
def test_damaged_run_toml(capsys, place, old, new, said):
    change(place / "run" / "run.toml", old, new)
    refused(capsys, place, ["train", "--resume", "run"], 1, said)


def test_run_toml_of_another_version_stops_report_and_demo_too(capsys, place):
    change(place / "run" / "run.toml", "format = 1", "format = 2")
    refused(capsys, place, ["report", "run"], 1, "run folder of another version")
    refused(capsys, place, ["demo", "--out", "run"], 1, "run folder of another version")


@pytest.mark.parametrize("harm", ["cut", "flipped", "text", "empty"])
def test_corrupted_checkpoint(capsys, place, harm):
    shutil.rmtree(place / "run" / "model")
    file = place / "run" / "checkpoint" / "step-000000004.safetensors"
    content = file.read_bytes()
    start = content.index(b"format") - 40
    flipped = content[:start] + b"\xff" * 60 + content[start + 60:]
    file.write_bytes({"cut": content[:-100], "flipped": flipped, "text": b"not tensors at all", "empty": b""}[harm])
    refused(capsys, place, ["train", "--resume", "run"], 1, "step-000000004.safetensors is damaged")


def test_a_checkpoint_of_another_run(capsys, place):
    shutil.copy(place / "table" / "checkpoint" / "step-000000004.safetensors", place / "run" / "checkpoint" / "step-000000004.safetensors")
    refused(capsys, place, ["train", "--resume", "run"], 1, "step-000000004.safetensors was saved by another run: ")


def test_a_checkpoint_beyond_the_end(capsys, place, monkeypatch):
    """Two runs of the same settings, one file: only the step tells."""
    plain = core.load_state
    monkeypatch.setattr(core, "load_state", lambda path, template, about: replace(plain(path, template, about=about), step=5))
    refused(capsys, place, ["train", "--resume", "run"], 1, "step-000000004.safetensors is at step 5, beyond the 4 steps of run/run.toml")


@pytest.mark.parametrize("row", ["{}", '{"loss": 1.0}'])
def test_a_trace_whose_last_row_lacks_its_step(capsys, place, row):
    with open(place / "run" / "trace.jsonl", "a") as file:
        file.write(row + "\n")
    refused(capsys, place, ["report", "run"], 1, "trace.jsonl is damaged at line 5")


def test_damaged_trace(capsys, place):
    change(place / "run" / "trace.jsonl", "{", "(")
    refused(capsys, place, ["report", "run"], 1, "trace.jsonl is damaged at line 1")


@pytest.mark.parametrize("hostile", ["os.system", "rheos.core.files.os.system", "torch.nn.Linear", "rheos.core.files.importlib.import_module", "rheos.cli.main",
                                     "rheos.core.Draws", "", 7])
def test_hostile_class_in_a_model(capsys, place, hostile):
    for key in ("net", "path"):
        shutil.copytree(place / "run" / "model", place / key)
        told = json.loads((place / key / "model.json").read_text())
        told[key]["class"] = hostile
        if key == "net":
            told[key]["settings"] = {"command": "touch owned"}
        (place / key / "model.json").write_text(json.dumps(told))
        refused(capsys, place, ["sample", key], 1, key if hostile == 7 else repr(hostile) if key == "path" else str(hostile))
    assert not (place / "owned").exists()


@pytest.mark.parametrize(("harm", "said"), [
    (lambda model: (model / "model.json").write_text("{"), "model.json is damaged: not JSON"),
    (lambda model: (model / "model.json").write_text("[]"), "model.json has model format None"),
    (lambda model: change(model / "model.json", '"format": 2', '"format": 9'), "model.json has model format 9"),
    (lambda model: change(model / "model.json", '"tensors": "', '"tensors": "../../'), "names a file outside its folder"),
    (lambda model: next(model.glob("*.safetensors")).unlink(), "does not exist"),
    (lambda model: next(model.glob("*.safetensors")).write_bytes(b"other"), "is damaged: its content is not what"),
])
def test_damaged_model(capsys, place, harm, said):
    harm(place / "run" / "model")
    refused(capsys, place, ["sample", "run"], 1, said)


def test_a_run_without_its_toml_is_not_overwritten(capsys, place):
    (place / "run" / "run.toml").unlink()
    refused(capsys, place, ["train", "digits", "--out", "run"], 1, "run already holds a run (trace.jsonl)")


# -- what is missing or goes wrong on the way ----------------------------------------------------------------------------


def test_missing_extra(capsys, place, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    refused(capsys, place, ["train", "digits", "--out", "new", "--tensorboard"], 1, "tensorboard is not installed; it comes with: pip install 'rheos[interop]'")


def test_a_loss_that_leaves_the_numbers(capsys, tmp_path, monkeypatch):
    from rheos.objectives import Matching

    plain = Matching._asked
    monkeypatch.setattr(Matching, "_asked", lambda self, net, pair, t, z, cond: plain(self, net, pair, t, z * torch.inf, cond))
    assert run_app(build(), ["train", "digits", "--out", str(tmp_path / "run"), *SMALL]) == 1
    out, err = capsys.readouterr()
    assert err.count("\n") == 1 and "at step 0" in err and not (tmp_path / "run" / "model").exists()
