"""`rheos sample` writes part by part: the same rows however they are cut, memory that does not grow, and a file that is whole or not there."""
from __future__ import annotations

import csv
import io
import os
import resource
import shutil
import signal
import tracemalloc
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from rheos.cli import build, drawing
from rheos.cli.errors import run as run_app
from rheos.cli.images import as_pixels, sheet
from rheos.core import Draws
from rheos.data import Columns
from rheos.data import load as load_data
from rheos.models import Model, Standardise, load
from rheos.paths import Times
from rheos.samplers import Euler
from rheos.samplers.tables import planned

SMALL = ("--steps", "4", "--width", "8", "--depth", "1", "--batch", "8", "--device", "cpu")
COLOURS = ("red", "blue, dark", 'the "third"')


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Finished runs: pictures with three classes; a table with a label whose names are words; one whose names are numbers; a text."""
    folder = tmp_path_factory.mktemp("runs")
    x = Draws(3).integers("pixels", 0, (40, 5, 4), 256).numpy().astype(np.uint8)
    np.savez(folder / "pictures.npz", x=x, y=np.array([0, 1, 0, 2, 0, 1, 0])[np.arange(40) % 7])
    rows = [["price", "colour", "when", "kind", "grade", "unit"]]
    rows += [[f"{0.25 * (7 * i % 31)}", COLOURS[i % 3], f"2024-01-{i % 28 + 1:02d}", "uv"[i % 2], str((3, 5, 8)[i % 3]), "kg"] for i in range(60)]
    with open(folder / "table.csv", "w", newline="") as file:
        csv.writer(file).writerows(rows)
    (folder / "words.txt").write_text("every good boy deserves fruit,\nand some cows eat grass. " * 9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RHEOS_CACHE", str(folder / "cache"))
        for name, data, *more in (("pictures", "pictures.npz"), ("table", "table.csv", "--label", "kind"), ("grades", "table.csv", "--label", "grade"),
                                  ("text", "words.txt", "--length", "8", "--net", "mlp")):
            if data.endswith(".csv"):
                pytest.importorskip("pandas")
            assert run_app(build(), ["train", str(folder / data), "--out", str(folder / name), *SMALL, *more]) == 0
    return folder


@pytest.fixture
def place(tmp_path, monkeypatch, runs):
    """A working folder with copies of the runs."""
    shutil.copy(runs / "pictures.npz", tmp_path)
    for name in ("pictures", "table", "grades", "text"):
        shutil.copytree(runs / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def everything(folder):
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


# -- the same rows, however they are cut ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["default", "euler", "ddpm", "dpm++2-sde", "rk45", "plms"])
@pytest.mark.parametrize(("most", "numbers"), [(1024, 1 << 21), (7, 1 << 21), (1024, 61), (1, 1 << 21)])
def test_parts_are_the_rows_of_sample(cli, place, monkeypatch, seed, rule, most, numbers):
    """Also 61 numbers at a time, three of these pictures and a piece of one: rows are never cut."""
    monkeypatch.setattr(drawing, "MOST_ROWS", most)
    monkeypatch.setattr(drawing, "PART_NUMBERS", numbers)
    plain, sizes = Model.sample, []
    monkeypatch.setattr(Model, "sample", lambda self, n, **more: sizes.append(n) or plain(self, n, **more))
    assert cli("sample", "pictures", "--n", 23, "--cond", 2, "--guidance", 1.5, "--rule", rule, "--steps", 3, "--seed", seed, "--out", "x.npy")[0] == 0
    assert sum(sizes) == 23 and max(sizes) <= most and max(sizes) * 20 <= numbers
    from rheos.cli.rules import rule_named

    expected = plain(load("pictures/model"), 23, cond=2, guidance=1.5, rule=rule_named(rule), steps=3, seed=seed)
    tolerance = 1e-3 if rule == "rk45" else 1e-5        # it chooses its steps, and rounding may let it choose others
    found = np.load("x.npy", mmap_mode="r")
    assert isinstance(found, np.memmap) and found.dtype == np.float32 and found.shape == (23, 5, 4)
    torch.testing.assert_close(torch.from_numpy(np.array(found)), expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("kind", ["default.npy", "float64.npy", "text.npy"])
def test_a_file_has_its_model_s_own_kind_of_numbers(place, monkeypatch, kind):
    monkeypatch.setattr(drawing, "MOST_ROWS", 3)
    model = load("text/model" if kind == "text.npy" else "pictures/model")
    if kind == "float64.npy":
        model.field.net.double()
    drawing.draw(model, 8, [Path(kind)], steps=2, seed=4)
    expected = model.sample(8, steps=2, seed=4)
    found = np.load(kind, mmap_mode="r")
    assert torch.from_numpy(np.array(found)).dtype == expected.dtype and found.shape == (8, *model.event)
    torch.testing.assert_close(torch.from_numpy(np.array(found)), expected, atol=1e-5, rtol=1e-5)


def test_the_picture_shows_the_first_400(cli, place, monkeypatch):
    monkeypatch.setattr(drawing, "MOST_ROWS", 150)
    code, out, _ = cli("sample", "pictures", "--n", 450, "--steps", 2)
    assert code == 0
    (array,), (picture,) = (list((place / "pictures" / "samples").glob(f"*{suffix}")) for suffix in ("seed0.npy", ".png"))
    rows, shown = torch.from_numpy(np.load(array)), np.asarray(Image.open(picture).convert("RGB"))
    assert np.array_equal(shown, sheet(as_pixels(rows[:400], (-1.0, 1.0)))) and len(rows) == 450
    assert not np.array_equal(shown, sheet(as_pixels(rows[50:], (-1.0, 1.0))))


def test_progress_is_told(cli, place, monkeypatch):
    monkeypatch.setattr(drawing, "MOST_ROWS", 5)
    monkeypatch.setattr(drawing, "TOLD_EVERY", 0.0)
    code, _, err = cli("sample", "pictures", "--n", 12, "--steps", 2)
    assert code == 0 and [line.split(",")[0] for line in err.splitlines()] == ["5 of 12 samples", "10 of 12 samples"]


# -- tables and texts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [1024, 4])
def test_tables_come_back_in_their_columns(cli, place, monkeypatch, most):
    monkeypatch.setattr(drawing, "MOST_ROWS", most)
    assert cli("sample", "table", "--n", 17, "--cond", "v", "--steps", 2, "--seed", 1, "--out", "x.csv")[0] == 0
    header, *rows = csv.reader(io.StringIO(Path("x.csv").read_text()))
    assert header == ["price", "colour", "when", "grade", "unit", "kind"] and len(rows) == 17 and {row.pop() for row in rows} == {"v"}
    model = load("table/model")
    decoded = model.encoding.decode(model.sample(17, cond=1, steps=2, seed=1))
    assert [[float(row[0]), *row[1:3], float(row[3]), row[4]] for row in rows] == [list(row) for row in zip(*decoded.values(), strict=True)]
    assert {row[1] for row in rows} <= set(COLOURS) and {row[4] for row in rows} == {"kg"}
    assert all(row[2].startswith("2024-01-") for row in rows)


@pytest.mark.parametrize("most", [1024, 4])
def test_texts_come_back_one_after_the_other(cli, place, monkeypatch, most):
    monkeypatch.setattr(drawing, "MOST_ROWS", most)
    assert cli("sample", "text", "--n", 17, "--steps", 2, "--seed", 1)[0] == 0
    (file,) = (place / "text" / "samples").iterdir()
    found = file.read_text().split("\n%\n")
    model = load("text/model")
    assert file.suffix == ".txt" and found.pop() == "" and found == model.encoding.decode(model.sample(17, steps=2, seed=1))
    assert {len(text) for text in found} == {8} and set("".join(found)) <= set("every good boy deserves fruit,\nand some cows eat grass. ")


# -- what is asked for --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("run", "asked", "number"), [("table", "u", 0), ("table", "v", 1), ("table", "0", 0), ("table", "1", 1), ("table", "-1", -1),
                                                       ("grades", "3", 0), ("grades", "5", 1), ("grades", "8", 2), ("grades", "0", 0), ("grades", "2", 2), ("pictures", "2", 2)])
def test_a_class_by_its_name_or_its_number(cli, place, run, asked, number):
    """A name counts before a number: the classes of `grades` are called 3, 5 and 8, and 5 is the second of them."""
    assert cli("sample", run, "--n", 6, "--steps", 2, "--out", "x.npy", "--cond", asked)[0] == 0
    expected = load(f"{run}/model").sample(6, cond=number, steps=2)
    torch.testing.assert_close(torch.from_numpy(np.load("x.npy")), expected, atol=1e-5, rtol=1e-5)


def test_classes_are_as_frequent_as_in_the_data(cli, place, monkeypatch, seed):
    """Of 20,000 samples without --cond; and which they are does not depend on how the rows are cut."""
    found, drawn, plain = [], [], Draws.uniform
    monkeypatch.setattr(Model, "sample", lambda self, n, cond=None, **more: torch.zeros(n, *self.event))
    monkeypatch.setattr(Draws, "uniform", lambda self, purpose, step, shape, **more: drawn.append(shape[0]) or plain(self, purpose, step, shape, **more))
    for most in (1024, 700):
        monkeypatch.setattr(drawing, "MOST_ROWS", most)
        assert cli("sample", "pictures", "--n", 20_000, "--seed", seed, "--out", "x.npy")[0] == 0
        found.append(torch.from_numpy(np.load("x-classes.npy")))
    whole = found[0]
    assert whole.shape == (20_000,) and whole.dtype == torch.int64 and torch.equal(*found)
    assert max(drawn) == 1024                                           # no more at once: there may be any number of samples
    y = load_data("pictures.npz").y                                     # 0 is twice as frequent as 1, and 1 as 2
    for number in range(3):
        share = float((y == number).float().mean())
        assert abs(float((whole == number).float().mean()) - share) < 5 * (share * (1 - share) / 20_000) ** 0.5


def test_classes_differ(place):
    model = load("grades/model")
    apart = [model.sample(6, cond=number, steps=2) for number in (0, 1, 2, -1)]
    assert all(not torch.allclose(a, b, atol=1e-4) for i, a in enumerate(apart) for b in apart[:i])


@pytest.mark.parametrize(("run", "asked", "said"), [
    ("table", "w", "cond must be a class from 0 to 1 or a class's name, got 'w'; known are u, v"), ("table", "2", "cond must be a class from 0 to 1"),
    ("grades", "4", "cond must be a class from 0 to 2"), ("pictures", "x", "got 'x'; it has no names"), ("text", "u", "trained without classes"),
])
def test_a_class_that_is_not_there(cli, place, run, asked, said):
    before = everything(place)
    code, out, err = cli("sample", run, "--cond", asked)
    assert (code, out, err.count("\n")) == (2, "", 1) and said in err and everything(place) == before


# -- whole or not there -------------------------------------------------------------------------------------------------------


def third_part(monkeypatch, act):
    """`act()` in place of the third part."""
    plain, calls = Model.sample, []

    def sample(self, n, **more):
        calls.append(n)
        if len(calls) == 3:
            act()
        return plain(self, n, **more)
    monkeypatch.setattr(Model, "sample", sample)
    monkeypatch.setattr(drawing, "MOST_ROWS", 4)
    return calls


def fail():
    raise OSError("the cable is out")


@pytest.mark.parametrize("out", [None, "new/deep/x.npy", "x.npy", "x.png"])
@pytest.mark.parametrize("what", ["crash", "interrupt"])
def test_an_end_in_the_middle_leaves_nothing(cli, place, monkeypatch, ctrl_c, what, out):
    Path("x.npy").write_bytes(b"the old file")
    before = everything(place)
    calls = third_part(monkeypatch, fail if what == "crash" else lambda: os.kill(os.getpid(), signal.SIGINT))
    code, said, err = cli("sample", "pictures", "--n", 20, "--steps", 2, *(() if out is None else ("--out", out)))
    assert (code, err) == ((1, "rheos: the cable is out\n") if what == "crash" else (130, "rheos: interrupted\n"))
    assert said == "" and len(calls) == 3 and everything(place) == before


@pytest.mark.parametrize("run", ["pictures", "table", "text"])
def test_a_full_disk_leaves_nothing(cli, place, run):
    """A limit on the size of files stands for a disk that fills while samples are written."""
    before, limits = everything(place), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, limits[1]))
    try:
        code, out, err = cli("sample", run, "--n", 400, "--steps", 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (code, out) == (1, "") and err.startswith(f"rheos: {run}/samples/n400-") and err.endswith(": File too large\n")
    assert everything(place) == before


@pytest.mark.parametrize(("free", "code"), [(19 * 20 * 4, 2), (20 * 20 * 4, 0)])
def test_a_disk_without_room_is_told_beforehand(cli, place, monkeypatch, free, code):
    before, usage = everything(place), shutil.disk_usage(place)
    monkeypatch.setattr(drawing.shutil, "disk_usage", lambda folder: usage._replace(free=free))
    found, out, err = cli("sample", "pictures", "--n", 20, "--steps", 2, "--out", "new/x.npy")
    assert found == code
    if code:
        assert out == "" and err == f"rheos: --n is 20, which is too many: the samples take 0.0 GB, and {place} has 0.0 GB left\n" and everything(place) == before


# -- memory -------------------------------------------------------------------------------------------------------------------


class Alive(TorchDispatchMode):
    """Counts the bytes of the tensors that operations have made and that are still there (a view counts in full)."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for each in made if isinstance(made, tuple | list) else (made,):
            if isinstance(each, torch.Tensor):
                self.now += each.nbytes
                self.peak = max(self.peak, self.now)
                weakref.finalize(each, self.forget, each.nbytes)
        return made

    def forget(self, size):
        self.now -= size


def peak(work):
    """Bytes at most alive while `work` is done: of tensors, and of all that Python and NumPy hold."""
    tracemalloc.start()
    with Alive() as alive:
        work()
    held = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return alive.peak + held


@pytest.mark.parametrize("kind", [".npy", ".csv"])
def test_memory_does_not_grow_with_the_number(place, monkeypatch, kind):
    """13,000 samples more take less than a third of what they are made of (type checks of the suite leave something in every part); all at
    once they take all of it."""
    monkeypatch.setattr(drawing, "MOST_ROWS", 128)
    model = load("pictures/model")
    if kind == ".csv":                                  # as rows of a table, for their text is larger than they are
        names = [f"c{i}" for i in range(20)]
        table = Columns.fit({name: np.linspace(-1, i + 1, 100) ** 3 for i, name in enumerate(names)})
        model.encoding, model.transform, model.event = table, Standardise.none(torch.zeros(1, 20)), (20,)
        model.field.net.event = (20,)
    rule = planned(Euler(), Times.uniform(model.field.path, 1))         # one plan for all parts: those of the last 256 runs are kept
    drawn = lambda n: lambda: drawing.draw(model, n, [Path(f"x{kind}")], rule=rule)
    drawn(128 * 70)()                                   # what is made once, and what is kept of the last 64 parts, is there by now
    few, many, whole = peak(drawn(500)), peak(drawn(13_500)), peak(lambda: model.sample(13_500, rule=rule, batch=128))
    more = 13_000 * 20 * 4
    assert many < few + more / 3, (few, many)
    assert whole > few + more, (few, whole)
