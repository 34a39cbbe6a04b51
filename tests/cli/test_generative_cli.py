"""`rheos train`, `sample`, `report`, `demo`: what they leave behind, that a stopped run ends like an unbroken one, and what the page says."""
from __future__ import annotations

import inspect
import json
import os
import re
import shutil
import signal
import tomllib

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import rheos
from rheos.cli import build, figures, generative, pages, quality, runs, settings
from rheos.cli.errors import run as run_app
from rheos.cli.images import as_pixels, is_image, sheet
from rheos.cli.rules import RULE_NAMES, rule_named
from rheos.core import Draws, Trace
from rheos.data import Dataset, load
from rheos.metrics import digit_features, frechet, nearest, sliced_w2
from rheos.models import Standardise
from rheos.models.learn import HABITS, OTHER_HABITS
from rheos.paths import RHO
from rheos.samplers import DDIM, DDPM, DEIS, PLMS, AdaptiveRungeKutta, DPMSolverPP, Euler, RungeKutta, UniPC

SMALL = ("--steps", "6", "--width", "16", "--depth", "1", "--dropout", "0.2", "--every", "2", "--device", "cpu")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run on digits; tests that change it copy it first."""
    folder = tmp_path_factory.mktemp("digits") / "run"
    assert run_app(build(), ["train", "digits", "--out", str(folder), *SMALL]) == 0
    return folder


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A finished run on a table of three columns, very differently scaled, without classes."""
    folder = tmp_path_factory.mktemp("table")
    z = Draws(3).rows("table", 0, (400, 3), dtype=torch.float64).numpy()
    np.save(folder / "readings.npy", z * [0.1, 1.0, 50.0] + [0.0, 5.0, -200.0] + [0.0, 0.0, 30.0] * z[:, :1])
    assert run_app(build(), ["train", str(folder / "readings.npy"), "--out", str(folder / "run"), "--held-out", "0.25", *SMALL]) == 0
    return folder / "run"


def weights(folder):
    (file,) = (folder / "model").glob("model-*.safetensors")
    return load_file(file)


def interrupt_at(step, monkeypatch):
    """Ctrl-C while step `step` (None: none) is looked at by a watcher; gives the list of steps that will be seen."""
    plain, seen = Trace.__call__, []

    def traced(self, number, state):
        plain(self, number, state)
        seen.append(number)
        if number == step:
            os.kill(os.getpid(), signal.SIGINT)
    monkeypatch.setattr(Trace, "__call__", traced)
    return seen


# -- training ------------------------------------------------------------------------------------------------------------


def test_documented_defaults_are_the_real_ones():
    real = settings.defaults()
    shown = {}
    for name, parameter in inspect.signature(generative.train, eval_str=True).parameters.items():
        told = parameter.annotation.__metadata__[0].show_default
        if isinstance(told, str) and name != "held_out":
            shown[name] = told
            assert parameter.default is None
    left = {name: text for name, text in shown.items() if real.get(name) is None}       # to the network or the data, and said so in words
    assert set(left) == {"batch", "rate", "width", "depth", "dropout", "task"}
    assert shown == left | {name: str(real[name]) for name in shown if name not in left} and {"steps", "decay", "net", "path", "every"} <= set(shown)
    for name, place in (("batch", 0), ("rate", 1)):
        assert {float(word) for word in re.findall(r"[\d.]+", left[name])} == {habit[place] for habit in (*HABITS.values(), OTHER_HABITS)}
    from rheos.data.sources import DEFAULT_HELD_OUT

    assert inspect.signature(generative.train, eval_str=True).parameters["held_out"].annotation.__metadata__[0].show_default == str(DEFAULT_HELD_OUT)


def test_a_run_folder_holds_all_that_decides_the_run(finished):
    found = tomllib.loads((finished / "run.toml").read_text())
    assert found["format"] == 1 and found["data"]["name"] == "digits" and found["versions"]["torch"] == torch.__version__
    chosen = settings.settled({"steps": 6, "width": 16, "depth": 1, "dropout": 0.2, "every": 2, "device": "cpu"})
    assert found["settings"] == chosen | {"batch": 256, "rate": 0.002}          # what was left to the network is written down
    assert f"--out {finished} --steps 6" in found["command"] and "--dropout 0.2" in found["command"] and "--batch" not in found["command"]
    rows = [json.loads(line) for line in (finished / "trace.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6] and set(rows[0]) == {"step", "loss", "norm", "cpu_seconds", "wall_seconds"}
    assert [file.name for file in sorted((finished / "checkpoint").iterdir())] == ["step-000000004.safetensors", "step-000000006.safetensors"]
    assert rheos.load(finished / "model").card["trained_steps"] == 6


def test_the_command_line_trains_what_the_library_does(finished):
    model = rheos.train(load("digits"), steps=6, width=16, depth=1, dropout=0.2, device="cpu")
    ours = {name.removeprefix("net."): value for name, value in weights(finished).items() if name.startswith("net.")}
    assert ours.keys() == model.field.net.state_dict().keys()
    assert all(torch.equal(value, ours[name]) for name, value in model.field.net.state_dict().items())


def test_tells_what_comes_next(cli, tmp_path):
    code, out, err = cli("train", "digits", "--out", tmp_path / "run", *SMALL)
    assert code == 0 and err == "" and f"is in {tmp_path / 'run' / 'model'} (6 steps, " in out
    assert out.endswith(f"draw from it:  rheos sample {tmp_path / 'run'}\njudge it:      rheos report {tmp_path / 'run'}\n")


def test_stopped_and_resumed_is_unbroken_to_the_bit(cli, finished, tmp_path, monkeypatch, ctrl_c):
    with monkeypatch.context() as patched:
        interrupt_at(3, patched)
        code, out, err = cli("train", "digits", "--out", tmp_path / "run", *SMALL)
    assert code == 130 and out == "" and err.count("\n") == 1
    assert "stopped at step 3 of 6 and saved" in err and f"go on with: rheos train --resume {tmp_path / 'run'}" in err
    assert not (tmp_path / "run" / "model").exists() and (tmp_path / "run" / "checkpoint" / "step-000000003.safetensors").exists()
    code, out, err = cli("sample", tmp_path / "run")
    assert code == 1 and "has not ended" in err and f"rheos train --resume {tmp_path / 'run'}" in err
    before = (tmp_path / "run" / "run.toml").read_bytes()
    seen = interrupt_at(None, monkeypatch)
    assert cli("train", "--resume", tmp_path / "run")[0] == 0 and seen == [4, 5, 6]
    assert (tmp_path / "run" / "run.toml").read_bytes() == before
    unbroken, resumed = weights(finished), weights(tmp_path / "run")
    assert unbroken.keys() == resumed.keys() and all(torch.equal(value, resumed[name]) for name, value in unbroken.items())
    losses = [[json.loads(line)["loss"] for line in (folder / "trace.jsonl").read_text().splitlines()] for folder in (finished, tmp_path / "run")]
    assert losses[0] == losses[1]
    assert cli("train", "--resume", tmp_path / "run")[0] == 0                  # a finished run ends where it ended
    assert all(torch.equal(value, weights(tmp_path / "run")[name]) for name, value in unbroken.items())


def test_a_run_killed_before_its_first_checkpoint_begins_anew(cli, finished, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(finished / "run.toml", folder)
    (folder / "trace.jsonl").write_text((finished / "trace.jsonl").read_text()[:-30])                    # cut in the middle of a line
    (folder / "checkpoint").mkdir()
    (folder / "checkpoint" / ".step-000000002.safetensors.x1").write_bytes(b"half a file")
    assert cli("train", "--resume", folder)[0] == 0
    assert all(torch.equal(value, weights(folder)[name]) for name, value in weights(finished).items())
    assert [json.loads(line)["step"] for line in (folder / "trace.jsonl").read_text().splitlines()] == [1, 2, 3, 4, 5, 6]
    assert [file.name for file in sorted((folder / "checkpoint").iterdir())] == ["step-000000004.safetensors", "step-000000006.safetensors"]


def test_resuming_with_other_versions_is_said(cli, finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    text = (tmp_path / "run" / "run.toml").read_text()
    (tmp_path / "run" / "run.toml").write_text(text.replace(f'torch = "{torch.__version__}"', 'torch = "2.4.0"'))
    code, _, err = cli("train", "--resume", tmp_path / "run")
    assert code == 0 and err.startswith(f"note: begun with torch 2.4.0, now {torch.__version__}:")


# -- samples -------------------------------------------------------------------------------------------------------------


def test_samples_are_the_models_own_as_array_and_picture(cli, finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    code, out, _ = cli("sample", tmp_path / "run", "--n", 10, "--cond", 3, "--guidance", 1.5, "--rule", "dpm++3", "--steps", 4, "--seed", 7)
    stem = tmp_path / "run" / "samples" / "n10-class3-guidance1.5-dpm++3-4steps-seed7"
    assert code == 0 and f"{stem}.npy and {stem}.png" in out
    expected = rheos.load(finished / "model").sample(10, cond=3, guidance=1.5, rule=DPMSolverPP(order=3), steps=4, seed=7)
    found = np.load(f"{stem}.npy")
    assert found.dtype == np.float32 and np.array_equal(found, expected.numpy())
    from PIL import Image

    picture = np.asarray(Image.open(f"{stem}.png"))
    assert np.array_equal(picture, sheet(as_pixels(expected, (-1.0, 1.0), "digits")))


def test_a_model_folder_is_as_good_as_a_run_folder(cli, finished, tmp_path):
    shutil.copytree(finished / "model", tmp_path / "moved")
    assert cli("sample", tmp_path / "moved", "--n", 3, "--steps", 2, "--out", tmp_path / "deep" / "x.npy")[0] == 0
    model = rheos.load(finished / "model")
    assert np.array_equal(np.load(tmp_path / "deep" / "x.npy"), model.sample(3, steps=2).numpy())
    assert np.array_equal(np.load(tmp_path / "deep" / "x-classes.npy"), model.classes_as_in_the_data(3).numpy())
    assert not (tmp_path / "moved" / "samples").exists()


def test_rules_by_name():
    expected = (None, Euler(), DDIM(), DDPM(), DPMSolverPP(2), DPMSolverPP(3), DPMSolverPP(2, tau=1.0), UniPC(2), UniPC(3), DEIS(), DEIS(3, clock=RHO), PLMS(),
                RungeKutta(2), RungeKutta(4), AdaptiveRungeKutta())
    assert tuple(map(rule_named, RULE_NAMES)) == expected


def test_pictures_show_ink_on_paper_and_keep_channels():
    digit = torch.full((1, 1, 8, 8), -1.0)
    digit[0, 0, 0, 2] = 1.0
    assert as_pixels(digit, (-1.0, 1.0), "digits")[0, :2, :3, 0].tolist() == [[255, 255, 0], [255, 255, 255]]
    assert as_pixels(digit, (-1.0, 1.0))[0, :2, :3, 1].tolist() == [[0, 0, 255], [0, 0, 0]]
    assert as_pixels(digit[..., :7], (-1.0, 1.0), "digits")[0, 0, :3, 0].tolist() == [0, 0, 255]      # somebody's own folder of that name
    colour = torch.tensor([0.0, 0.5, 1.0])
    first, last = colour.view(1, 3, 1, 1).expand(1, 3, 4, 5), colour.expand(1, 4, 5, 3)
    assert as_pixels(first, (0.0, 1.0))[0, 2, 4].tolist() == as_pixels(last, (0.0, 1.0))[0, 2, 4].tolist() == [0, 128, 255]
    cases = [((1, 8, 8), True), ((8, 8), True), ((9, 7, 3), True), ((3, 9, 7), True), ((2, 9, 7), False), ((8,), False)]
    assert [is_image(event, (0.0, 1.0)) for event, _ in cases] == [expected for _, expected in cases]
    assert not is_image((1, 8, 8), None)
    tiles = sheet(np.stack([np.full((48, 50, 3), value, np.uint8) for value in (10, 20, 30)]), 2)
    assert tiles.shape == (2 * 50 + 2, 2 * 52 + 2, 3) and tiles[2, 2, 0] == 10 and tiles[2, 54, 0] == 20 and tiles[52, 2, 0] == 30 and tiles[52, 54, 0] == 225


# -- the report ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def few(monkeypatch):
    """A report of few points, so that it takes a second."""
    monkeypatch.setattr(quality, "CHART_CALLS", (2, 4))
    monkeypatch.setattr(quality, "MOST_ROWS", 60)


def outside(page):
    """Addresses in the page that a browser would fetch."""
    return [address for address in re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"'\s>)]+)""", page) if not address.startswith("data:")]


def test_the_report_needs_nothing_else_and_measures_what_it_says(cli, finished, few, tmp_path):
    code, out, err = cli("report", finished, "--out", tmp_path / "page.html", "--n", 40, "--seed", 2)
    assert code == 0 and out == f"{tmp_path / 'page.html'}\n"
    page, found = (tmp_path / "page.html").read_text(), json.loads((tmp_path / "page.json").read_text())
    assert outside(page) == [] and "<script" not in page and "@import" not in page and "<link" not in page
    assert page.count('alt="sample, and its nearest training image"') == 60 and "0 bytes were sent between nodes" in page
    assert "CC BY 4.0" in page and f"rheos report {finished}" in page and "nearest training" in page
    data, model = load("digits"), rheos.load(finished / "model")
    held_out = data.held_out.x[torch.arange(60) * len(data.held_out) // 60]
    labels = [quality.draw_labels(data, 40, 2 + i) for i in range(3)]
    drawn = [model.sample(40, cond=cond, steps=20, seed=2 + i) for i, cond in enumerate(labels)]
    figures = found["quality"]
    first = figures["distances"][0]
    assert first["name"] == "Fréchet distance of features"
    values = [float(frechet(x, held_out, features=digit_features())) for x in drawn]
    assert first["model"]["mean"] == pytest.approx(sum(values) / 3, rel=1e-6)
    fits = first["gaussian_fits"]
    assert first["gaussian"] == min(fits.values(), key=lambda fit: fit["mean"]) and set(fits) == {"clamped", "unclamped"}
    assert first["ratio"] == pytest.approx(first["gaussian"]["mean"] / first["model"]["mean"])
    ratio = nearest(drawn[0], data.x)[0].mean() / nearest(held_out, data.x)[0].mean()
    assert figures["memorisation_ratio"] == pytest.approx(float(ratio), rel=1e-5)
    euler = model.sample(40, cond=labels[0], rule=Euler(), steps=4, seed=2)
    assert figures["by_calls"]["euler"][1] == {"calls": 4, "distance": pytest.approx(float(frechet(euler, held_out, features=digit_features())), rel=1e-5)}
    assert found["cost"]["bytes_sent_between_nodes"] == 0 and found["cost"]["parameters"] == model.card["parameters"]


def test_the_report_of_a_table_shows_its_columns(cli, table, few, tmp_path):
    code, _, _ = cli("report", table)
    assert code == 0
    page, found = (table / "report.html").read_text(), json.loads((table / "report.json").read_text())
    assert outside(page) == [] and "<h2>Columns</h2>" in page and 'alt="histograms of columns"' in page and "<h2>Samples" not in page
    data = runs.Run.open(table).dataset()
    columns = found["quality"]["columns"]
    assert [column["data_mean"] for column in columns] == pytest.approx(data.held_out.x.double().mean(0).tolist(), rel=1e-6)
    model = rheos.load(table / "model")
    x = model.sample(found["quality"]["rows"], seed=0)
    assert [column["std"] for column in columns] == pytest.approx(x.double().std(0, correction=0).tolist(), rel=1e-5)
    scaled = model.transform.forward
    assert [distance["name"] for distance in found["quality"]["distances"]] == ["sliced W2 of rows", "raw Fréchet distance of rows"]
    drawn, held_out = [model.sample(60, seed=i) for i in range(3)], data.held_out.x[torch.arange(60) * len(data.held_out) // 60]
    for metric, distance in zip((sliced_w2, frechet), found["quality"]["distances"], strict=True):     # in standard deviations, columns alike
        assert distance["model"]["mean"] == pytest.approx(sum(float(metric(scaled(x), scaled(held_out))) for x in drawn) / 3, rel=1e-5)


def test_a_column_whose_samples_all_lie_elsewhere_is_drawn_without_warnings(recwarn):
    """Bars are shares of all rows by width: samples outside the window are missing from the area, not spread over what is inside."""
    from matplotlib.figure import Figure

    truth = [0.1 * i for i in range(20)]
    for samples, area in (([1e3, 2e3, 1e4], 0.0), ([0.5, 0.6, 0.7, 1e4], 0.75)):
        ax = figures.marginal(samples, truth, "column 0", Figure().subplots())
        assert sum(bar.get_height() * bar.get_width() for bar in ax.patches if hasattr(bar, "get_height")) == pytest.approx(area)
        figures.drawn(figures.marginal, samples, truth, "column 0")
    assert [str(warning.message) for warning in recwarn] == []


def test_the_report_of_a_run_that_learned_nothing_says_nothing_but_its_place(cli, few, tmp_path, recwarn):
    np.save(tmp_path / "x.npy", (np.arange(60.0).reshape(20, 3) % 7) ** 3 + 1e6)
    assert cli("train", tmp_path / "x.npy", "--out", tmp_path / "run", *SMALL, "--steps", 1)[0] == 0
    assert cli("report", tmp_path / "run")[0] == 0
    assert [str(warning.message) for warning in recwarn] == [] and (tmp_path / "run" / "report.html").exists()


class Memory:
    """Gives back training rows: as good a memory, and as bad a model, as can be."""

    def __init__(self, data):
        self.data, self.transform = data, Standardise.fit(data.x, data.bounds)

    def sample(self, n, *, cond=None, rule=None, steps=20, seed=0):
        if rule is not None and type(rule) is DEIS:
            raise ValueError("a memory knows no DEIS")
        return self.data.x[Draws(seed).permutation("memory", 0, len(self.data))[:n]]


def test_a_memory_is_called_one(finished, few):
    data = load("digits")
    found = quality.measure(Memory(data), data, n=50)
    assert found.memorisation == 0.0 and found.distances[0].floor > 0
    assert found.skipped == ["deis at 2 calls: a memory knows no DEIS", "deis at 4 calls: a memory knows no DEIS"] and found.chart["deis"] == []
    cost = {"parameters": 1, "training_cpu_seconds": None, "report_cpu_seconds": 1.0, "report_wall_seconds": 1.0, "samples_per_cpu_second": 1.0}
    page = pages.page(runs.Run.open(finished), data, found, None, [], cost, runs.versions())
    assert "Samples sit close to training digits" in page and "no sign of copying" not in page and "Left out: deis at 2 calls" in page


def test_labels_follow_the_training_rows():
    y = torch.tensor([0] * 70 + [2] * 30)                                     # class 1 never occurs
    data = Dataset("uneven", torch.arange(100.0)[:, None], y=y, classes=3)
    counts = torch.bincount(quality.draw_labels(data, 10_000, 4), minlength=3)
    assert counts[1] == 0 and abs(int(counts[0]) - 7000) < 5 * (10_000 * 0.7 * 0.3) ** 0.5
    assert quality.draw_labels(Dataset("plain", torch.ones(4, 1)), 4, 0) is None


def test_without_held_out_rows_nothing_is_judged(cli, tmp_path):
    np.save(tmp_path / "x.npy", np.arange(60.0).reshape(20, 3) ** 1.5)
    assert cli("train", tmp_path / "x.npy", "--out", tmp_path / "run", "--held-out", 0, *SMALL)[0] == 0
    assert cli("report", tmp_path / "run")[0] == 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert "No rows were held out" in page and "<h2>How far" not in page and "<h2>Columns</h2>" in page


# -- the demo ------------------------------------------------------------------------------------------------------------


def test_the_demo_goes_on_where_it_stopped_and_ends_with_the_report(cli, few, tmp_path, monkeypatch, ctrl_c):
    out_folder = tmp_path / "demo"
    with monkeypatch.context() as patched:
        interrupt_at(2, patched)
        code, out, err = cli("demo", "--out", out_folder, "--steps", 4)
    assert code == 130 and err.count("\n") == 1 and f"go on with: rheos demo --out {out_folder}" in err
    code, out, _ = cli("demo", "--out", out_folder)
    assert code == 0 and out.splitlines()[-1] == str(out_folder / "report.html")
    assert tomllib.loads((out_folder / "run.toml").read_text())["settings"]["steps"] == 4
    assert (out_folder / "samples" / "n64-default-20steps-seed0.png").exists() and (out_folder / "report.json").exists()
    unbroken = rheos.train(load("digits"), steps=4)
    assert torch.equal(weights(out_folder)["net.enter.weight"], unbroken.field.net.enter.weight.cpu())


def test_a_finished_demo_only_gets_its_report_anew(cli, few, finished, tmp_path):
    shutil.copytree(finished, tmp_path / "demo")
    kept = weights(tmp_path / "demo")
    before = (tmp_path / "demo" / "trace.jsonl").read_bytes()
    code, out, _ = cli("demo", "--out", tmp_path / "demo")
    assert code == 0 and out.splitlines()[-1] == str(tmp_path / "demo" / "report.html") and "learning" not in out
    assert (tmp_path / "demo" / "trace.jsonl").read_bytes() == before
    assert all(torch.equal(value, kept[name]) for name, value in weights(tmp_path / "demo").items())


def test_small_networks_run_on_one_thread_unless_the_user_has_said_otherwise(monkeypatch):
    import torch

    from rheos.cli.runs import one_thread

    told = []
    monkeypatch.setattr(torch, "set_num_threads", told.append)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    one_thread()
    monkeypatch.delenv("OMP_NUM_THREADS")
    one_thread()
    assert told == [1]


def test_samples_without_a_class_have_the_classes_of_the_data():
    from rheos.models import Conditions, Model

    field = rheos.Field(torch.nn.Identity(), rheos.Path.linear(), predicts="velocity")
    model = Model(field, Standardise.none(torch.ones(1, 2)), (2,), conditions=Conditions(3), card={"class_counts": [100, 0, 300]})
    drawn = model.classes_as_in_the_data(8000, seed=5)
    counts = torch.bincount(drawn, minlength=3)
    assert counts[1] == 0 and abs(int(counts[0]) - 2000) < 5 * (8000 * 0.25 * 0.75) ** 0.5
    assert torch.equal(drawn[7:17], model.classes_as_in_the_data(10, seed=5, first=7))
    assert not torch.equal(drawn, model.classes_as_in_the_data(8000, seed=6))
    model.card.clear()
    assert model.classes_as_in_the_data(10, seed=5) is None


def test_the_report_puts_its_figures_on_the_model(finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    assert run_app(build(), ["report", str(folder), "--n", "20"]) == 0
    figures = rheos.load(folder / "model").card["figures"]
    told = json.loads((folder / "report.json").read_text())["quality"]
    assert figures["samples judged"] == 20 and figures[told["distances"][0]["name"]] == told["distances"][0]["model"]["mean"]
    assert all(torch.equal(value, weights(finished)[name]) for name, value in weights(folder).items())
