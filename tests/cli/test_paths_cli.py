"""`rheos train --path ...`: every path from data to samples and a report; two data sets, tasks, tokens; and what cannot be."""
import json

import numpy as np
import pytest
import torch

import rheos
from rheos.cli.runs import Run
from rheos.data import load

FEW = ("--steps", 12, "--width", 16, "--depth", 1, "--batch", 32, "--device", "cpu")


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    """Two files of digits that belong together row by row: a digit, and the same one lying on its side, negative."""
    folder, x = tmp_path_factory.mktemp("pairs"), ((load("digits").x[:200] + 1) * 127.5).round().to(torch.uint8)
    np.save(folder / "from.npy", x.numpy())
    np.save(folder / "to.npy", 255 - x.transpose(2, 3).contiguous().numpy())
    return folder / "from.npy", folder / "to.npy"


@pytest.mark.parametrize("path", ["student:16", "shortest", "residual", "residual --task superres:2", "residual --task inpaint:0.4"])
def test_every_path_trains_samples_and_saves(cli, tmp_path, path):
    run = tmp_path / "run"
    code, _, err = cli("train", "digits", "--out", run, "--path", *path.split(), *FEW)
    assert code == 0, err
    code, out, err = cli("sample", run, "--n", 5, "--steps", 3)
    assert code == 0, err
    if path == "shortest" or "--task" in path:
        assert cli("sample", run, "--n", 2, "--rule", "ddim", "--steps", 4)[0] == 0
    x = np.load(next(run.glob("samples/n5*steps-seed0.npy")))
    assert x.shape == (5, 1, 8, 8) and np.isfinite(x).all() and np.abs(x).max() <= 1
    assert rheos.load(run / "model").field.path.two_sided == path.startswith("residual")


def test_the_number_behind_the_colon_arrives(cli, tmp_path):
    assert cli("train", "digits", "--out", tmp_path / "run", "--path", "student:16", *FEW)[0] == 0
    assert rheos.load(tmp_path / "run" / "model").field.path.noise.dof == 16.0


def test_a_bridge_carries_pairs_over_and_reports_them(cli, tmp_path, halves):
    start, end = halves
    run = tmp_path / "run"
    code, _, err = cli("train", start, end, "--out", run, "--path", "bridge", "--coupling", "paired", *FEW)
    assert code == 0, err
    data, source = Run.open(run).datasets()
    assert len(data.held_out) == len(source.held_out) == 20
    for ours, theirs in ((data, source), (data.held_out, source.held_out)):
        assert torch.allclose(ours.x, -theirs.x.transpose(2, 3), atol=1e-6)       # still row by row
    assert cli("sample", run, "--n", 4, "--source", start)[0] == 0
    model = rheos.load(run / "model")
    found = np.load(next(run.glob("samples/n4-fromfrom-*.npy")))
    assert np.allclose(found, model.translate(load(str(start), held_out=0.0).x[:4], steps=20, seed=0).numpy(), atol=1e-5)
    code, _, err = cli("report", run, "--n", 20)
    assert code == 0, err
    page = (run / "report.html").read_text()
    assert "From one to the other" in page and "that they belong to" in page
    # The command in run.toml makes the same run again.
    assert f"train {start} {end}" in Run.open(run).command


def test_a_bridge_goes_on_where_it_stopped_and_notices_other_data(cli, tmp_path, halves):
    start, end = halves
    own = tmp_path / "from.npy"
    own.write_bytes(start.read_bytes())
    run = tmp_path / "run"
    assert cli("train", own, end, "--out", run, "--path", "bridge", "--coupling", "ot", *FEW, "--every", 6)[0] == 0
    np.save(own, np.load(start)[::-1].copy())
    code, _, err = cli("sample", run, "--n", 3)
    assert code == 1 and "from.npy has changed since the run" in err


def test_masked_text_and_a_masked_table(cli, tmp_path):
    text = tmp_path / "words.txt"
    text.write_text("the cat sat on the mat and the dog sat on the cat\n" * 80)
    assert cli("train", text, "--out", tmp_path / "text", "--path", "masked", "--length", 16, *FEW)[0] == 0
    code, _, err = cli("sample", tmp_path / "text", "--n", 3)
    assert code == 0, err
    assert len(next((tmp_path / "text").glob("samples/*.txt")).read_text()) >= 3 * 16
    assert cli("report", tmp_path / "text", "--n", 10)[0] == 0

    table = tmp_path / "table.csv"
    table.write_text("colour,size\n" + "red,big\nblue,small\ngreen,small\n" * 60)
    assert cli("train", table, "--out", tmp_path / "table", "--path", "masked", *FEW)[0] == 0
    code, _, err = cli("sample", tmp_path / "table", "--n", 7)
    assert code == 0, err
    rows = next((tmp_path / "table").glob("samples/*.csv")).read_text().splitlines()
    assert rows[0] == "colour,size" and len(rows) == 8 and all(row.split(",")[0] in ("red", "blue", "green") for row in rows[1:])
    code, _, err = cli("report", tmp_path / "table", "--n", 20)
    assert code == 0, err
    assert json.loads((tmp_path / "table" / "report.json").read_text())["quality"]["by_calls"] == {}


@pytest.mark.parametrize(("words", "message"), [
    (("digits", "--path", "student:x"), "what stands behind the colon must be a number, got 'student:x'"),
    (("digits", "--path", "student:-3"), "the degrees of freedom of path student must lie in (0, inf), got -3"),
    (("digits", "--path", "shortest:3"), "path shortest takes no number, got 'shortest:3'"),
    (("digits", "--path", "bridge"), "path bridge runs from one data set to another"),
    (("digits", "digits"), "two data sets need path bridge, got linear"),
    (("digits", "--task", "colour"), "task belongs to path residual, got linear"),
    (("digits", "--path", "residual", "--task", "blur"), "task must be one of superres, inpaint, colour, got 'blur'"),
    (("digits", "--path", "residual", "--task", "superres:1"), "task superres takes a whole number of 2 or more, got 'superres:1'"),
    (("digits", "--path", "residual", "--task", "inpaint:1.5"), "task inpaint takes a share between 0 and 1, got 'inpaint:1.5'"),
    (("digits", "--path", "residual", "--task", "colour"), "needs a model of three colours"),
    (("digits", "--path", "residual", "--coupling", "ot"), "coupling ot has no meaning on path residual"),
    (("digits", "--coupling", "paired"), "coupling paired belongs to path bridge, got linear"),
    (("digits", "digits", "--path", "bridge", "--coupling", "paired"), "coupling paired needs two files or folders whose rows belong together, got digits"),
    (("digits", "--path", "masked"), "a masked path is for text and tables"),
    (("digits", "--path", "masked", "--predicts", "noise"), "predicts has no meaning on path masked, got noise"),
])
def test_refusals(cli, tmp_path, words, message):
    code, _, err = cli("train", *words, "--out", tmp_path / "run", "--steps", 2)
    assert code in (1, 2) and message in " ".join(err.split()), err
    assert not (tmp_path / "run").exists()


def test_a_bridge_needs_rows_of_one_shape(cli, tmp_path, halves):
    other = tmp_path / "other.npy"
    np.save(other, np.linspace(-1, 1, 300 * 9).reshape(300, 1, 3, 3).astype("float32"))
    code, _, err = cli("train", other, halves[1], "--path", "bridge", "--out", tmp_path / "run", "--steps", 2)
    assert code != 0 and "source must have the data's event shape (1, 8, 8), got (1, 3, 3)" in err
    code, _, err = cli("train", other, halves[1], "--path", "bridge", "--coupling", "paired", "--out", tmp_path / "run", "--steps", 2)
    assert code != 0 and "as many rows on both sides" in err


def test_commands_for_noise_refuse_bridges(cli, tmp_path, halves):
    run = tmp_path / "run"
    assert cli("train", *halves, "--path", "bridge", "--out", run, *FEW)[0] == 0
    for command in (("tune", run), ("restore", run, "--task", "superres")):
        code, _, err = cli(*command)
        assert code != 0 and "models that draw from noise" in err
    assert cli("sample", run / "model", "--n", 2)[0] != 0           # a model alone has nothing to begin at
    code, _, err = cli("sample", run, "--n", 500, "--source", halves[0])
    assert code == 0 and "has 200 rows, fewer than --n 500" in err
    assert len(np.load(next(run.glob("samples/n200-*.npy")))) == 200
