"""`load`: the digits, files, and everything that can be wrong with a file."""
from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from rheos.data import load

pytestmark = pytest.mark.usefixtures("own_cache")


def test_digits_are_scikit_learns_in_two_disjoint_halves():
    data, raw = load("digits"), load_digits()
    both = torch.cat([data.x, data.held_out.x]).flatten(1)
    rows = {tuple(r): int(y) for r, y in zip(raw.data, raw.target, strict=True)}
    for row, label in zip(((both + 1) * 8).tolist(), torch.cat([data.y, data.held_out.y]).tolist(), strict=True):
        assert rows[tuple(row)] == label
    assert len(both) == len(raw.data)
    assert not {tuple(r) for r in data.x.flatten(1).tolist()} & {tuple(r) for r in data.held_out.x.flatten(1).tolist()}
    assert (data.event, data.bounds, data.classes) == ((1, 8, 8), (-1.0, 1.0), 10)


def test_digits_halves_are_near_even_in_all_and_in_every_class():
    data = load("digits")
    assert abs(len(data) - 1797 / 2) < 5 * (1797 / 4) ** 0.5
    total = (data.y.bincount() + data.held_out.y.bincount()).double()
    assert bool(((data.y.bincount() - total / 2).abs() < 5 * (total / 4).sqrt()).all())


def numbers(rows, *event):
    return np.random.default_rng(3).normal(size=(rows, *event))


def test_an_array_keeps_its_values_and_is_divided_by_content(tmp_path):
    values = numbers(400, 3, 2)
    np.save(tmp_path / "fields.npy", values)
    data = load(tmp_path / "fields.npy")
    assert (data.name, data.event, data.bounds, data.y, data.classes) == ("fields", (3, 2), None, None, None)
    both = torch.cat([data.x, data.held_out.x])
    assert torch.equal(both.flatten().sort().values, torch.from_numpy(values).float().flatten().sort().values)
    assert abs(len(data.held_out) - 40) < 5 * 36**0.5
    assert len(load(str(tmp_path / "fields.npy"), held_out=0.5).held_out) > len(data.held_out)
    assert load(tmp_path / "fields.npy", held_out=0.0).held_out is None


def test_an_archive_brings_labels_that_stay_with_their_rows(tmp_path):
    x, y = numbers(90, 5), np.arange(90) % 4
    np.savez(tmp_path / "table.npz", x=x, y=y.astype(np.uint8), extra=np.array(["ignored"]))
    data = load(tmp_path / "table.npz", held_out=0.4)
    assert data.classes == 4 and data.held_out.classes == 4
    label = {tuple(r): int(k) for r, k in zip(x.astype(np.float32).tolist(), y, strict=True)}
    for part in (data, data.held_out):
        assert [label[tuple(r)] for r in part.x.tolist()] == part.y.tolist()


def test_pixels_are_scaled_and_other_whole_numbers_are_not(tmp_path):
    pixels = np.array([[0, 51], [255, 102]], dtype=np.uint8)
    np.save(tmp_path / "pixels.npy", pixels)
    np.save(tmp_path / "counts.npy", pixels.astype(np.int32))
    np.save(tmp_path / "swapped.npy", pixels.astype(">i4"))
    data = load(tmp_path / "pixels.npy", held_out=0.0)
    torch.testing.assert_close(data.x, torch.tensor([[-1.0, -0.6], [1.0, -0.2]]), rtol=0, atol=1e-6)
    assert data.bounds == (-1.0, 1.0)
    for name in ("counts.npy", "swapped.npy"):
        assert torch.equal(load(tmp_path / name, held_out=0.0).x, torch.tensor([[0.0, 51.0], [255.0, 102.0]]))


def test_a_flat_array_is_one_number_a_row(tmp_path):
    np.save(tmp_path / "flat.npy", np.array([3.0, 1.0, 2.0]))
    assert torch.equal(load(tmp_path / "flat.npy", held_out=0.0).x, torch.tensor([[3.0], [1.0], [2.0]]))


ROWS = np.ones((4, 2))
FILES = {
    "objects.npy": (lambda p: np.save(p, np.array([{}, 1], dtype=object), allow_pickle=True), "holds Python objects"),
    "objects.npz": (lambda p: np.savez(p, x=np.array([{}, 1], dtype=object)), "holds Python objects"),
    "pickle.npy": (lambda p: p.write_bytes(pickle.dumps([1, 2])), "holds Python objects or no NumPy array"),
    "text.npy": (lambda p: p.write_text("a,b\n1,2\n"), "holds Python objects or no NumPy array"),
    "nothing.npy": (lambda p: p.write_bytes(b""), "cannot be read"),
    "broken.npz": (lambda p: p.write_bytes(b"PK\x03\x04 torn"), "cannot be read"),
    "torn.npy": (lambda p: (np.save(p, ROWS), p.write_bytes(p.read_bytes()[:-8])), "cannot be read"),
    "complex.npy": (lambda p: np.save(p, ROWS * 1j), "real numbers, got dtype complex128"),
    "words.npy": (lambda p: np.save(p, np.array(["a", "b"])), "real numbers"),
    "flags.npy": (lambda p: np.save(p, ROWS > 0), "real numbers, got dtype bool"),
    "empty.npy": (lambda p: np.save(p, np.ones((0, 3))), "x is empty"),
    "thin.npy": (lambda p: np.save(p, np.ones((3, 0))), "x is empty"),
    "nan.npy": (lambda p: np.save(p, np.array([[1.0, 2.0], [3.0, np.nan]])), r"1 of 4 entries that are not, the first \(nan\) at \(1, 1\)"),
    "inf.npy": (lambda p: np.save(p, np.array([[-np.inf, 2.0]])), r"the first \(-inf\) at \(0, 0\)"),
    "huge.npy": (lambda p: np.save(p, np.array([[1e39, 1.0]])), "fit into float32"),
    "no_x.npz": (lambda p: np.savez(p, images=ROWS), "array named x .* holds images"),
    "short_y.npz": (lambda p: np.savez(p, x=ROWS, y=np.zeros(3, int)), "one label for each of the 4 rows"),
    "wide_y.npz": (lambda p: np.savez(p, x=ROWS, y=np.zeros((4, 1), int)), "one label for each of the 4 rows"),
    "float_y.npz": (lambda p: np.savez(p, x=ROWS, y=np.zeros(4)), "y must hold whole numbers"),
    "negative_y.npz": (lambda p: np.savez(p, x=ROWS, y=np.array([0, 1, -1, 2])), "labels from -1 to 2"),
    "identifiers.npz": (lambda p: np.savez(p, x=ROWS, y=np.array([0, 1, 10**9, 2])), "labels from 0 to 1000000000"),
    "table.csv": (lambda p: p.write_text("a,b"), "has a header and no rows"),
    "folder.npy": (lambda p: p.mkdir(), "is a folder of neither images nor text, it holds no files"),
    "arrays": (lambda p: (p.mkdir(), np.save(p / "a.npy", ROWS), (p / "b.c").touch()), r"it holds \.npy \(1\), \.c \(1\): give a NumPy file by its own path"),
    "missing.npy": (lambda p: None, "there is no such file"),
    "letter.docx": (lambda p: p.write_text("dear"), r"data must be a folder of images or of text, or a file ending in \.npy, .*\.log, got suffix '\.docx'"),
    "photo.JPG": (lambda p: p.write_text("x"), "is one image; give the folder of images"),
    "photos.zip": (lambda p: p.write_text("x"), "is packed; unpack it"),
    "table.csv.gz": (lambda p: p.write_text("x"), "is packed; unpack it"),
    "pipe.csv": (lambda p: os.mkfifo(p), "is neither a file nor a folder"),
    "broken.csv": (lambda p: p.symlink_to("nowhere.csv"), "there is no such file"),
    "x\0.csv": (lambda p: None, "there is no such file"),
    "n" * 300 + ".csv": (lambda p: None, "there is no such file"),
}


@pytest.mark.parametrize("name", FILES)
def test_refuses_a_bad_file_in_one_line_that_names_it(tmp_path, name):
    make, message = FILES[name]
    make(tmp_path / name)
    with pytest.raises(ValueError, match=message) as caught:
        load(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name)) and "\n" not in str(caught.value)


@pytest.mark.parametrize("arguments, message", [
    ({"name": "digit"}, r"data must be one of digits, .* or the path of a folder or file, got 'digit' \(did you mean digits\?\)"),
    ({"name": "zebra"}, r"got 'zebra'$"),
    ({"name": ""}, r"data must be one of .*, got ''$"),
    ({"name": Path("zebra")}, "zebra: there is no such file or folder"),
    ({"name": "zebra/"}, "zebra: there is no such file or folder"),
    ({"name": "digits", "held_out": 0.2}, "held_out cannot be chosen for digits"),
    ({"name": "digits", "size": 8}, "size does not fit digits"),
    ({"name": "x.npy", "held_out": 1.0}, r"held_out must lie in \[0, 1\)"),
    ({"name": "x.npy", "held_out": -0.1}, r"held_out must lie in \[0, 1\)"),
])
def test_refusals(arguments, message):
    with pytest.raises(ValueError, match=message):
        load(**arguments)


@pytest.mark.parametrize("name, option, message", [
    ("a.npy", {"size": 8}, r"size does not fit .*a\.npy, which is a NumPy file; it is an option of a folder of images$"),
    ("a.csv", {"length": 8}, "which is a table and takes columns, label, missing, scale; it is an option of text$"),
    ("a.h5", {"label": "u"}, "which is a file of fields and takes key; it is an option of a table and a folder of images$"),
    ("a.txt", {"key": "u"}, "which is text and takes length, code; it is an option of a file of fields$"),
    ("pictures", {"columns": "u"}, "which is a folder of images and takes label, caption, size, fit, alpha; it is an option of a table$"),
    ("notes", {"alpha": "keep"}, "which is text and takes length, code; it is an option of a folder of images$"),
    ("bare", {"fit": "crop"}, "which is text and takes"),
    ("a.csv", {"colums": "u"}, r"option must be one of alpha, caption, .*, got 'colums' \(did you mean columns\?\)"),
])
def test_options_belong_to_one_kind_of_data(tmp_path, name, option, message):
    for folder, file in (("pictures", "1.png"), ("notes", "1.md")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / file).touch()
    for file in ("a.npy", "a.csv", "a.h5", "a.txt", "bare"):
        (tmp_path / file).touch()
    with pytest.raises(ValueError, match=message):
        load(tmp_path / name, **option)


def test_options_that_are_none_are_not_given(tmp_path):
    np.save(tmp_path / "a.npy", ROWS)
    assert torch.equal(load(tmp_path / "a.npy", size=None, columns=None, held_out=0.0).x, torch.ones(4, 2))


def test_a_name_that_is_a_path_too_is_told_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes").write_text("two and two are four, " * 20)
    (tmp_path / "digits").write_text("two and two are four, " * 20)
    assert load("notes", held_out=0.0).event == load("./digits", held_out=0.0).event == (4, 64) and load("digits").event == (1, 8, 8)
