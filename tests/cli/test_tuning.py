"""`rheos tune`, `rheos sample --table` and `rheos restore`: what they leave behind, what they say, and what they refuse."""
from __future__ import annotations

import importlib
import json

import numpy as np
import pytest
import torch
from PIL import Image

import rheos
from rheos.cli import build
from rheos.cli.errors import run as run_app
from rheos.data import load
from rheos.guidance import Mask, Pool
from rheos.samplers import Table

SMALL = ("--width", "32", "--depth", "1", "--device", "cpu")
QUICK = ("--starts", "16", "--trials", "4", "--fine", "16", "--device", "cpu")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A flow of digits that has learned a little."""
    folder = tmp_path_factory.mktemp("digits") / "run"
    assert run_app(build(), ["train", "digits", "--out", str(folder), "--steps", "120", *SMALL]) == 0
    return folder


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """A flow of small colour images, for its shape, and their folder."""
    folder = tmp_path_factory.mktemp("colours")
    x = np.random.default_rng(3).uniform(-1, 1, (60, 3, 4, 6)).astype(np.float32)
    np.savez(folder / "x.npz", x=(x * 127.5 + 127.5).astype(np.uint8))
    assert run_app(build(), ["train", str(folder / "x.npz"), "--out", str(folder / "run"), "--steps", "6", *SMALL]) == 0
    return folder / "run"


@pytest.fixture(autouse=True)
def quick_statistics(monkeypatch):
    """Statistics by random signs, which digits would have exactly, at 64 times the cost."""
    for module in ("tuning", "model_statistics"):
        monkeypatch.setattr(importlib.import_module(f"rheos.samplers.{module}"), "LARGEST_EXACT", 1)


# -- tune ----------------------------------------------------------------------------------------------------------------------

def test_a_table_is_made_saved_and_sampled_with(cli, run, tmp_path):
    code, out, _ = cli("tune", run, "--nfe", "2,1", "--out", tmp_path / "tables", *QUICK)
    assert code == 0 and "1 calls:" in out and "2 calls:" in out and "times closer" in out
    table = Table.load(tmp_path / "tables" / "nfe2.json")
    about = json.loads((tmp_path / "tables" / "nfe2.json").read_text())["about"]
    assert table.nfe == 2 and about["run"] == str(run) and about["error"] <= about["errors"]["fixed"] * 1.2 and {"fitted", "fixed"} <= set(about["errors"])
    code, out, err = cli("sample", run, "--n", "6", "--table", tmp_path / "tables" / "nfe2.json", "--out", tmp_path / "x.npy", "--seed", "3", "--device", "cpu")
    assert code == 0 and not err
    expected = rheos.load(run / "model").sample(6, rule=table, seed=3)
    np.testing.assert_allclose(np.load(tmp_path / "x.npy"), expected.numpy(), atol=1e-5)


def test_guidance_is_told_apart(cli, run, tmp_path):
    assert cli("tune", run, "--nfe", "2", "--cond", "4", "--guidance", "2.5", "--out", tmp_path, *QUICK)[0] == 0
    file = tmp_path / "nfe2-4-guidance2.5.json"
    assert Table.load(file).origin["guidance"] == 2.5
    code, _, err = cli("sample", run, "--n", "2", "--table", file, "--out", tmp_path / "x.npy", "--device", "cpu")
    assert code == 0 and "made for guidance 2.5, and samples are drawn with none" in err
    code, _, err = cli("sample", run, "--n", "2", "--table", file, "--cond", "4", "--guidance", "2.5", "--out", tmp_path / "y.npy", "--device", "cpu")
    assert code == 0 and not err


@pytest.mark.parametrize(("argv", "said"), [
    ("--nfe five", "--nfe must be numbers such as 5,8,10"), ("--nfe 0", "--nfe must be different numbers from 1 on"), ("--nfe 3,3", "different numbers"),
    ("--guidance 2", "--guidance needs a class"), ("--starts 4", "--starts must be at least 8, got 4"), ("--trials 0", "--trials must be at least 1"),
    ("--nfe 40 --fine 20", "--fine must be at least 40"), ("--nfe 20 --fine 20 --starts 8", "--fine 20 makes a reference of"), ("--starts 900000000", "--starts is 900,000,000"), ("--cond 11 --nfe 2", "cond"), ("--device tpu", "device")])
def test_refusals_of_tune(cli, run, tmp_path, argv, said):
    code, out, err = cli("tune", run, "--out", tmp_path / "new", *argv.split())
    assert code == 2 and said in err and err.count("\n") == 1 and not (tmp_path / "new").exists()


def test_refusals_of_tables(cli, run, colours, tmp_path):
    good = tmp_path / "nfe2.json"
    assert cli("tune", run, "--nfe", "2", "--out", tmp_path, *QUICK)[0] == 0
    (tmp_path / "bad.json").write_text("{}")
    (tmp_path / "not.json").write_text("so")
    for argv, code, said in (((run, "--table", tmp_path / "none.json"), 1, "none.json"), ((run, "--table", tmp_path / "bad.json"), 2, "holds no sampler table"),
                             ((run, "--table", tmp_path / "not.json"), 2, "not.json"), ((run, "--table", good, "--steps", "5"), 2, "--table brings its own"),
                             ((run, "--table", good, "--rule", "ddim"), 2, "--table brings its own")):
        found, _, err = cli("sample", *argv, "--out", tmp_path / "never.npy")
        assert found == code and said in err and not (tmp_path / "never.npy").exists()


# -- restore -------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("method", ["steered", "project", "flowchef"])
def test_held_out_images_are_restored_and_judged(cli, run, tmp_path, method):
    code, out, _ = cli("restore", run, "--task", "superres", "--n", "4", "--steps", "6", "--method", method, "--out", tmp_path / "r.png", "--device", "cpu")
    assert code == 0 and "PSNR" in out and "simplest image that fits" in out
    held_out = load("digits").held_out.x
    truth = held_out[torch.linspace(0, len(held_out) - 1, 4).long()]
    made = torch.from_numpy(np.load(tmp_path / "r.npy"))
    assert made.shape == truth.shape and float(made.min()) >= -1 and float(made.max()) <= 1
    told = float(out.split("PSNR ")[1].split(" dB")[0])
    # By another formula: -10 log10 of the mean squared error over the squared range.
    error = (made.double() - truth.double()).square().mean() / 4
    assert told == pytest.approx(float(-10 * error.log10()), abs=0.01)
    # Up to what is cut off at the ends of the range, the measurements are met.
    assert float((Pool(2).forward(made) - Pool(2).forward(truth)).abs().mean()) < (0.4 if method == "flowchef" else 0.15)
    assert Image.open(tmp_path / "r.png").size[0] > 100


def test_a_hole_keeps_what_is_seen(cli, run, tmp_path):
    keep = np.full((8, 8), 255, np.uint8)
    keep[2:6, 1:4] = 0
    Image.fromarray(keep).save(tmp_path / "mask.png")
    code, _, _ = cli("restore", run, "--task", "inpaint", "--mask", tmp_path / "mask.png", "--n", "3", "--steps", "5", "--out", tmp_path / "r.png", "--device", "cpu")
    held_out = load("digits").held_out.x
    truth = held_out[torch.linspace(0, len(held_out) - 1, 3).long()]
    seen = Mask(torch.from_numpy(keep) > 0)
    assert code == 0
    torch.testing.assert_close(seen.forward(torch.from_numpy(np.load(tmp_path / "r.npy"))), seen.forward(truth), atol=1e-4, rtol=0)


def test_grey_pictures_are_read_by_the_eyes_weights_and_in_16_bits(cli, colours, tmp_path):
    """What a grey file says of a colour is its luma, and 16 bits are not cut to 8: what is given back measures the same."""
    grey = np.linspace(9000, 52000, 24).reshape(4, 6)
    Image.fromarray(grey.astype(np.uint16)).save(tmp_path / "deep.png")
    argv = ("restore", colours, "--task", "colour", "--images", tmp_path / "deep.png", "--method", "project", "--steps", "6", "--device", "cpu")
    assert cli(*argv, "--out", tmp_path / "r.png")[0] == 0
    made = np.load(tmp_path / "r.npy")[0]
    inside = np.abs(made).max(0) < 0.999            # what is not cut off at the ends of the range
    told = np.tensordot([0.299, 0.587, 0.114], made, 1)
    assert inside.sum() > 4 and np.abs(told - (grey / 32767.5 - 1))[inside].max() < 5e-3


def test_arrays_in_other_units_are_refused(cli, colours, tmp_path):
    for name, values, said in (("bytes", np.full((2, 1, 4, 6), 200, np.uint8), "must lie in the data's units"),
                               ("complex", np.zeros((2, 1, 4, 6), complex), "complex"), ("huge", np.full((2, 1, 4, 6), 1e20), "units")):
        np.save(tmp_path / f"{name}.npy", values)
        code, _, err = cli("restore", colours, "--task", "colour", "--images", tmp_path / f"{name}.npy", "--out", tmp_path / "r.png")
        assert code in (1, 2) and said in err and err.count("\n") == 1 and not (tmp_path / "r.png").exists()


def test_images_of_the_users_own(cli, colours, tmp_path):
    given = np.random.default_rng(1).integers(0, 255, (2, 4, 6), dtype=np.uint8)
    (tmp_path / "grey").mkdir()
    for k, picture in enumerate(given):
        Image.fromarray(picture).save(tmp_path / "grey" / f"{k}.png")
    code, out, _ = cli("restore", colours, "--task", "colour", "--images", tmp_path / "grey", "--steps", "4", "--draws", "2", "--out", tmp_path / "r.png", "--device", "cpu")
    assert code == 0 and "PSNR" not in out and "what was given" in out
    assert np.load(tmp_path / "r.npy").shape == (2, 3, 4, 6)
    np.save(tmp_path / "small.npy", np.zeros((3, 3, 2, 3), np.float32))
    assert cli("restore", colours, "--task", "superres", "--images", tmp_path / "small.npy", "--steps", "4", "--out", tmp_path / "s.png", "--device", "cpu")[0] == 0
    assert np.load(tmp_path / "s.npy").shape == (3, 3, 4, 6)


@pytest.mark.parametrize(("argv", "code", "said"), [
    ("--task sharpen", 2, "--task must be one of"), ("--task colour", 2, "three colours"), ("--task superres --factor 3", 2, "--factor must divide"),
    ("--task superres --factor 1", 2, "--factor must be at least 2"), ("--task superres --hole 0.3", 2, "--hole belongs to --task inpaint"),
    ("--task inpaint --hole 1.5", 2, "--hole must lie between 0 and 1"), ("--task inpaint --factor 2", 2, "--factor belongs to --task superres"),
    ("--task inpaint --mask gone.png", 1, "gone.png does not exist"), ("--task inpaint --method magic", 2, "--method must be one of"),
    ("--task inpaint --n 0", 2, "--n must be at least 1"), ("--task inpaint --steps 1", 2, "--steps must be at least 2"),
    ("--task inpaint --images gone.npy", 1, "gone.npy"), ("--task inpaint --out r.jpg", 2, "--out must end in .png"), ("--task inpaint --draws 0", 2, "--draws"),
    ("--task inpaint --cond 12", 2, "12")])
def test_refusals_of_restore(cli, run, tmp_path, monkeypatch, argv, code, said):
    monkeypatch.chdir(tmp_path)
    where = () if "--out" in argv else ("--out", "never.png")
    found, out, err = cli("restore", run, *argv.split(), *where)
    assert found == code and said in err and err.count("\n") == 1 and not list(tmp_path.iterdir())


def test_only_images_are_restored(cli, tmp_path):
    np.save(tmp_path / "t.npy", np.arange(90.0).reshape(30, 3) % 7)
    assert run_app(build(), ["train", str(tmp_path / "t.npy"), "--out", str(tmp_path / "run"), "--steps", "2", *SMALL]) == 0
    code, _, err = cli("restore", tmp_path / "run", "--task", "inpaint", "--out", tmp_path / "r.png")
    assert code == 2 and "restore works on models of grey or colour images" in err
