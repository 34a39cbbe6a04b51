"""Data with a name: every reader on a package made here in its own format, finding, refusals, and the real sets where they are installed."""
from __future__ import annotations

import dataclasses
import gzip
import json
import os
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from rheos.core import Draws
from rheos.data import Dataset, load
from rheos.data.graphs import GraphData
from rheos.data.named import NAMES
from rheos.data.named.crawl import family
from rheos.data.named.families import joined, names_fall_below
from rheos.data.named.named import module_folder

OURS = dict(os.environ)         # before the fixture below hides it


@pytest.fixture(autouse=True)
def nothing_brought(tmp_path, monkeypatch, own_cache):
    """No folder of the user's own: data sets are where a test puts them."""
    for one in NAMES.values():
        monkeypatch.delenv(one.variable, raising=False)
    monkeypatch.setenv("RHEOS_DATA", str(tmp_path / "brought"))


def noise(seed, *shape):
    return Draws(seed).integers("pixels", 0, shape, 256).to(torch.uint8).numpy()


def pixels(x):
    """Back to bytes; exact only if the scaling to [-1, 1] was."""
    return ((x.double() + 1) * 127.5).round().to(torch.uint8).numpy()


def read(name, folder, monkeypatch, **options):
    monkeypatch.setenv(NAMES[name].variable, str(folder))
    return NAMES[name].read(**options)


def both(data):
    """Rows of both parts."""
    return torch.cat([data.x, data.held_out.x])


# -- packages in the format of the real ones ------------------------------------------------------------------------------------


def write_idx(path, array):
    """The format's own words: magic 0, 0, 8, axes; lengths; bytes."""
    head = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    path.write_bytes(gzip.compress(head + array.tobytes()))


def fake_fashion(folder, seed=0):
    folder.mkdir(parents=True, exist_ok=True)
    made = {"train": (noise(seed, 7, 5, 4), np.array([9, 0, 3, 3, 8, 1, 2], np.uint8)), "t10k": (noise(seed + 1, 3, 5, 4), np.array([4, 9, 0], np.uint8))}
    for part, (x, y) in made.items():
        write_idx(folder / f"{part}-images-idx3-ubyte.gz", x)
        write_idx(folder / f"{part}-labels-idx1-ubyte.gz", y)
    return made


def fake_mnist(folder, seed=0):
    """Digit d has 4 + d % 3 pictures; every byte occurs; three decimals, as in the package."""
    folder.mkdir(parents=True, exist_ok=True)
    made = {}
    for digit in range(10):
        made[digit] = noise(seed + digit, 4 + digit % 3, 28, 28)
        made[digit][0].flat[:256] = np.arange(256)
        (folder / f"{digit}.json").write_text(json.dumps({"data": [round(int(b) / 255, 3) for b in made[digit].flat]}))
    return made


def fake_crawl(folder, seed=0):
    """30 families of 3 in each of three folders, one below a sub-folder."""
    made = {}
    for k, (top, below) in enumerate([("dngn", "wall/"), ("mon", ""), ("player", "")]):
        for i in range(30):
            for j in range(3):
                word = chr(97 + i % 26) * (1 + i // 26) + "q"
                name = f"{top}/{below}{word}_{'old' if j == 2 else j}.png"
                made[name] = noise(seed + 100 * k + 3 * i + j, 32, 32, 4)
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(made[name]).save(folder / name)
    return made


def fake_emoji(folder, seed=0, size=32, columns=7, rows=5):
    """Cells with a red border of one pixel; entry k lies in column k % columns, row k // columns; every third has two skin tones."""
    folder.mkdir(parents=True, exist_ok=True)
    sheet = np.zeros((rows * (size + 2), columns * (size + 2), 4), np.uint8)
    sheet[..., 0] = sheet[..., 3] = 255
    listed, made, k = [], {}, 0
    for i in range(rows * columns // 2):
        places = []
        tones = ["1F3FB", "1F3FF-1F3FC"] if i % 3 == 1 else []
        if k + 1 + len(tones) > rows * columns:
            break
        for _ in range(1 + len(tones)):
            cell = noise(seed + k, size, size, 4)
            top, left = k // columns * (size + 2) + 1, k % columns * (size + 2) + 1
            sheet[top:top + size, left:left + size] = cell
            places.append(({"sheet_x": k % columns, "sheet_y": k // columns, "has_img_google": True}, cell))
            k += 1
        name = f"SIGN {i}"
        listed.append({"name": name, "category": "ZA"[i % 2], **places[0][0], "skin_variations": {t: p[0] for t, p in zip(tones, places[1:], strict=True)}})
        said = {"1F3FB": "light", "1F3FF-1F3FC": "dark and medium-light"}
        made |= dict(zip([name.lower(), *(f"{name.lower()}, {said[t]} skin" for t in tones)], [p[1] for p in places], strict=True))
    (folder / "emoji.json").write_text(json.dumps(listed))
    Image.fromarray(sheet).save(folder / f"{size}.png")
    return made


def fake_simbench(folder, days=24):
    """Columns a_pload, a_qload, c_pload, of which quarter q of day d is d + q / 1000 + 100 column. Times are labels only."""
    folder.mkdir(parents=True, exist_ok=True)
    value = lambda d, q, column: d + q / 1000 + 100 * column
    lines = ["time;a_pload;a_qload;c_pload"]
    lines += [f"{d + 1:02}.01.2016 {q // 4:02}:{15 * (q % 4):02};{value(d, q, 0)};{value(d, q, 1)};{value(d, q, 2)}" for d in range(days) for q in range(96)]
    (folder / "LoadProfile.csv").write_text("\n".join(lines) + "\n")


def fake_winds(folder, months=30, seed=0, **change):
    from scipy.io import netcdf_file

    folder.mkdir(parents=True, exist_ok=True)
    u, v = Draws(seed).rows("wind", 0, (2, months, 3, 5)).numpy()
    with netcdf_file(folder / "monthly_navy_winds.cdf", "w") as file:
        for axis, size in (("TIME", months), ("FNOCY", 3), ("FNOCX", 5)):
            file.createDimension(axis, size)
        for name, values in (("UWND", u), ("VWND", change.get("v", v))):
            if name not in change.get("without", ()):
                file.createVariable(name, "f4", ("TIME", "FNOCY", "FNOCX"))[:] = values
                file.variables[name].missing_value = np.float32(-99.9)
    return u, v


PACKAGES = """Package: base
Section: libs
Depends: virtual-thing, other (>= 2),
 third:any
Description: the base of it
 a long story, Depends: nothing
Size: 3

Package: other
Section: contrib/libs
Pre-Depends: base
Recommends: nowhere | third

Package: third
Suggests: third, base | other
Description: at the end

Package: base
Section: games
Depends: base
"""


def fake_debian(folder):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "Packages.gz").write_bytes(gzip.compress(PACKAGES.encode()))


def fake_fortunes(folder):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "computers").write_text("A bit is\n\tsmall.\n%\n_\bU_\bn_\bi_\bx says no.\n%\n" * 20)
    (folder / "linux").write_text("Ends without a sign, naïvely." * 9)
    (folder / "linux.dat").write_bytes(bytes(range(200)))
    (folder / "copyright").write_text("not a joke")
    (folder / "linux.u8").symlink_to("linux")


FAKES = {"fashion_mnist": fake_fashion, "mnist": fake_mnist, "crawl": fake_crawl, "emoji": fake_emoji, "simbench": fake_simbench,
         "winds": fake_winds, "debian": fake_debian, "fortunes": fake_fortunes}


# -- what the readers give ------------------------------------------------------------------------------------------------------


def test_fashion_mnist_keeps_pixels_labels_and_its_own_test_part(tmp_path, monkeypatch):
    made = fake_fashion(tmp_path / "usr/share/datasets/fashion-mnist")
    for _ in range(2):                                  # read, and read from the cache
        data = read("fashion_mnist", tmp_path, monkeypatch)
        for part, (x, y) in zip((data, data.held_out), made.values(), strict=True):
            assert np.array_equal(pixels(part.x)[:, 0], x) and part.y.tolist() == y.tolist()
    assert (data.event, data.bounds, data.classes, data.labels[3]) == ((1, 5, 4), (-1.0, 1.0), 10, "dress")
    assert data.licence == "MIT" and "1708.07747" in data.source and "clothes" in data.held_out.meaning


def test_mnist_gets_its_bytes_back_from_three_decimals(tmp_path, monkeypatch):
    made = fake_mnist(tmp_path / "package/src/digits")
    data = read("mnist", tmp_path, monkeypatch)
    known = {picture.tobytes(): digit for digit, several in made.items() for picture in several}
    x, y = pixels(both(data))[:, 0], torch.cat([data.y, data.held_out.y]).tolist()
    assert {picture.tobytes(): digit for picture, digit in zip(x, y, strict=True)} == known and len(x) == len(known)
    assert data.labels == tuple("0123456789") and data.event == (1, 28, 28)


def test_crawl_lays_colours_over_black_and_labels_by_top_folder(tmp_path, monkeypatch):
    made = fake_crawl(tmp_path / "source/rltiles")
    flat = np.zeros((32, 32, 4), np.uint8)
    flat[:] = (200, 100, 50, 51)                        # a fifth opaque
    flat[3, 5] = (7, 8, 9, 0)
    Image.fromarray(flat).save(tmp_path / "source/rltiles/mon/zebra.png")
    Image.fromarray(noise(1, 48, 32, 4)).save(tmp_path / "source/rltiles/mon/large.png")
    (tmp_path / "source/rltiles/mon/._zebra.png").write_bytes(b"a Mac's shadow")
    data = read("crawl", tmp_path, monkeypatch)
    assert data.labels == ("dngn", "mon", "player") and len(both(data)) == len(made) + 1
    top = {(tile[..., :3] * (tile[..., 3:] / 255.0)).round().astype(np.uint8).tobytes(): name.split("/")[0] for name, tile in made.items()}
    seen = [pixels(row).transpose(1, 2, 0) for row in both(data)]
    labels = torch.cat([data.y, data.held_out.y]).tolist()
    zebra = [row for row in seen if row.tobytes() not in top]
    assert all(top[row.tobytes()] == data.labels[y] for row, y in zip(seen, labels, strict=True) if row.tobytes() in top)
    assert len(zebra) == 1 and zebra[0][0, 0].tolist() == [40, 20, 10] and zebra[0][3, 5].tolist() == [0, 0, 0]
    over_white = {tuple(pixels(row)[:, 0, 0]) for row in both(read("crawl", tmp_path, monkeypatch, alpha="white"))}
    assert (244, 224, 214) in over_white                # c / 5 + 4 / 5 255
    kept = [pixels(row) for row in both(read("crawl", tmp_path, monkeypatch, alpha="keep"))]
    assert any(row[:, 0, 0].tolist() == [200, 100, 50, 51] and row[:, 3, 5].tolist() == [0, 0, 0, 0] for row in kept)


def test_crawl_never_divides_a_family_nor_equal_tiles(tmp_path, monkeypatch):
    made = fake_crawl(tmp_path)
    twins = [name for name in made if name.startswith("player")][:60:3]
    for i, name in enumerate(twins):                    # the same picture under the name of a family of its own
        Image.fromarray(made[name]).save(tmp_path / f"mon/{chr(97 + i)}twin.png")
    data = read("crawl", tmp_path, monkeypatch)
    black = lambda tile: (tile[..., :3] * (tile[..., 3:] / 255.0)).round().astype(np.uint8).tobytes()
    name_of = {black(tile): name for name, tile in made.items()}
    sides = [{name_of[pixels(row).transpose(1, 2, 0).tobytes()] for row in part.x} for part in (data, data.held_out)]
    assert not {family(name) for name in sides[0]} & {family(name) for name in sides[1]}
    assert len(sides[0]) + len(sides[1]) == len(made) and len(sides[1]) > 10
    other = read("crawl", tmp_path, monkeypatch, alpha="white")
    assert len(other) == len(data)


@pytest.mark.parametrize("names", [("mon/altar1", "mon/altar2", "mon/altar_old", "mon/sub/altar-e"), ("item/wand", "item/wand.small"), ("gui/7", "gui/7")])
def test_variants_are_one_family(names):
    assert len({family(f"{name}.png") for name in names}) == 1


def test_others_are_other_families():
    assert len({family(f"{name}.png") for name in ("mon/altar", "dngn/altar", "mon/alta", "mon/éltar", "mon/12", "mon/13")}) == 6


@pytest.mark.parametrize(("size", "alpha", "skin"), [(32, "keep", False), (32, "keep", True), (20, "keep", True), (64, "keep", False)])
def test_emoji_are_cut_at_their_place_with_their_captions(tmp_path, monkeypatch, size, alpha, skin):
    made = fake_emoji(tmp_path)
    if size != 32:
        made = fake_emoji(tmp_path, size=size)
    data = read("emoji", tmp_path, monkeypatch, size=size, alpha=alpha, skin=skin)
    found = dict(zip([*data.captions, *data.held_out.captions], pixels(both(data)), strict=True))
    wanted = {caption: cell for caption, cell in made.items() if skin or " skin" not in caption}
    assert found.keys() == wanted.keys() and data.event == (4, size, size)
    for caption, cell in wanted.items():
        assert np.array_equal(found[caption], np.where(cell[..., 3:] == 0, 0, cell).transpose(2, 0, 1)), caption
    category = dict(zip([*data.captions, *data.held_out.captions], torch.cat([data.y, data.held_out.y]).tolist(), strict=True))
    assert all(data.labels[category[caption]] == "ZA"[int(caption.split(",")[0].split()[1]) % 2] for caption in wanted)


def test_emoji_stay_with_their_variations_and_divide_alike_whatever_is_asked(tmp_path, monkeypatch):
    fake_emoji(tmp_path, columns=16, rows=16)
    fake_emoji(tmp_path, size=20, columns=16, rows=16)
    parts = []
    for options in ({}, {"skin": True}, {"size": 20}, {"alpha": "black"}):
        data = read("emoji", tmp_path, monkeypatch, **options)
        base = [{caption.split(",")[0] for caption in part.captions} for part in (data, data.held_out)]
        assert base[1] and not base[0] & base[1]
        parts.append(base)
    assert all(base == parts[0] for base in parts)


def test_emoji_with_one_picture_under_two_names_are_on_one_side(tmp_path, monkeypatch):
    fake_emoji(tmp_path, columns=10, rows=10)
    listed = json.loads((tmp_path / "emoji.json").read_text())
    alike = [one | {"name": f"TWIN {i}", "skin_variations": {}} for i, one in enumerate(listed)]
    (tmp_path / "emoji.json").write_text(json.dumps(listed + alike))
    data = read("emoji", tmp_path, monkeypatch)
    sides = [{caption.split()[1] for caption in part.captions} for part in (data, data.held_out)]
    assert sides[1] and not sides[0] & sides[1] and len(data) == 2 * len(sides[0])


def test_simbench_gives_days_of_profiles_with_whole_days_held_out(tmp_path, monkeypatch):
    fake_simbench(tmp_path)
    data = read("simbench", tmp_path, monkeypatch)
    assert data.labels == ("a", "c") and data.event == (1, 96) and data.bounds is None
    sides = []
    for part in (data, data.held_out):
        column = torch.tensor([0.0, 200.0])[part.y]
        day = (part.x[:, 0, 0] - column).round()
        torch.testing.assert_close(part.x[:, 0], (day + column)[:, None] + torch.arange(96) / 1000)
        sides.append({(int(d), int(y)) for d, y in zip(day, part.y, strict=True)})
    days = [{d for d, _ in side} for side in sides]
    assert days[1] and not days[0] & days[1] and sides[0] | sides[1] == {(d, y) for d in range(24) for y in (0, 1)}


def test_simbench_as_a_matrix_is_in_the_order_of_time(tmp_path, monkeypatch):
    fake_simbench(tmp_path, days=150)
    data = read("simbench", tmp_path, monkeypatch, form="matrix")
    whole = both(data)
    assert (len(data), len(data.held_out), data.event) == (89 * 96, 61 * 96, (3,))
    place = torch.arange(150 * 96)
    torch.testing.assert_close(whole, (place // 96 + place % 96 / 1000)[:, None] + torch.tensor([0.0, 100.0, 200.0]))
    assert "quarter of an hour" in data.meaning and data.meaning == data.held_out.meaning


def test_winds_are_eastward_and_northward_with_the_last_two_years_held_out(tmp_path, monkeypatch):
    u, v = fake_winds(tmp_path, seed=3)
    data = read("winds", tmp_path, monkeypatch)
    assert (len(data), len(data.held_out)) == (6, 24)
    assert np.array_equal(both(data).numpy(), np.stack([u, v], 1)) and data.y is None and data.bounds is None


def test_debian_is_a_graph_of_who_names_whom(tmp_path, monkeypatch):
    fake_debian(tmp_path)
    for _ in range(2):
        graph = read("debian", tmp_path, monkeypatch)
        assert graph.nodes == ("base", "other", "third")
        assert {relation: edges.T.tolist() for relation, edges in graph.edge_index.items()} == {
            "Depends": [[0, 1], [0, 2]], "Pre-Depends": [[1, 0]], "Recommends": [[1, 2]], "Suggests": [[2, 0], [2, 1], [2, 2]]}
        assert [graph.labels[k] for k in graph.y.tolist()] == ["libs", "libs", "unknown"]
        assert graph.texts == ("the base of it", "", "at the end") and "Debian" in graph.meaning


def windows(data):
    return [*data.encoding.raw(data.x), *data.encoding.raw(data.held_out.x)]


def test_fortunes_are_one_text_without_index_links_and_strikes(tmp_path, monkeypatch):
    fake_fortunes(tmp_path)
    data = read("fortunes", tmp_path, monkeypatch, length=16)
    text = ("A bit is\n\tsmall.\n%\nUnix says no.\n%\n" * 20).rstrip("%\n") + "\n%\n" + "Ends without a sign, naïvely." * 9
    assert sorted(windows(data)) == sorted(text.encode()[i:i + 16] for i in range(0, len(text.encode()) - 15, 16))
    assert data.encoding.length == 16 and "fortune cookies" in data.meaning
    assert data.x.shape[1] == (len(data.encoding.alphabet) - 1).bit_length()


def test_the_library_is_its_modules_without_tests_and_what_was_installed(tmp_path, monkeypatch):
    for name, text in {"os.py": "import sys  # é\n" * 3, "json/__init__.py": "x = 1\n" * 9, "test/test_os.py": "never", "site-packages/a/b.py": "never", "notes.txt": "never"}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "latin.py").write_bytes(b"# \xe9t\xe9")
    text = ("x = 1\n" * 9 + "\n" + "import sys  # é\n" * 3).encode()
    assert sorted(windows(read("stdlib", tmp_path, monkeypatch, length=8))) == sorted(text[i:i + 8] for i in range(0, len(text) - 7, 8))


def test_the_dictionary_is_small_letters_and_single_spaces(tmp_path, monkeypatch):
    (tmp_path / "gcide.dict.dz").write_bytes(gzip.compress("\n  Abba \\Ab\"ba\\, n. [Syr. Père.]\n   1. A title -- 2d sense" .encode() * 5))
    found = b"".join(sorted(windows(read("gcide", tmp_path, monkeypatch, length=8, code="onehot"))))
    text = b"abba ab ba n syr p re a title d sense"
    assert len(found) == 8 * ((5 * len(text) + 4) // 8) and sorted(found) == sorted(b" ".join([text] * 5)[:len(found)])


def test_glosses_are_what_follows_the_bar(tmp_path, monkeypatch):
    for i, kind in enumerate(("adj", "adv", "noun", "verb")):
        (tmp_path / f"data.{kind}").write_bytes(b"  1 a licence | that is no gloss\n" + f"000{i} 03 n 01 word 0 000 | {kind} meaning; \"so | said\"  \n".encode() * 9)
    text = b"".join(f"{kind} meaning; \"so | said\"\n".encode() * 9 for kind in ("adj", "adv", "noun", "verb"))[:-1]
    assert sorted(windows(read("glosses", tmp_path, monkeypatch, length=8))) == sorted(text[i:i + 8] for i in range(0, len(text) - 7, 8))


# -- division by name -----------------------------------------------------------------------------------------------------------


def test_names_are_held_out_in_the_share_asked_for_and_alike_in_any_company():
    names = [f"name {i}" for i in range(6000)]
    below = names_fall_below(names, 0.3)
    assert abs(int(below.sum()) - 1800) < 5 * (6000 * 0.3 * 0.7) ** 0.5
    assert names_fall_below(names[::-7], 0.3).tolist() == below.tolist()[::-7]
    assert not names_fall_below(names, 0.0).any() and bool((below <= names_fall_below(names, 0.6)).all())


def test_families_that_share_contents_become_one_by_any_chain():
    names = ["d", "c", "b", "a", "f", "e", "f"]
    assert joined(names, [1, 2, 3, 4, 5, 6, 7]) == names
    assert joined(names, [1, 1, 2, 3, 4, 5, 2]) == ["c", "c", "b", "a", "b", "e", "b"]
    assert joined(["d", "c", "c", "b", "b", "a"], [1, 1, 2, 2, 3, 3]) == ["a"] * 6
    assert joined(["a", "b", "b", "c", "c", "d"], [1, 1, 2, 2, 3, 3]) == ["a"] * 6


# -- finding --------------------------------------------------------------------------------------------------------------------


def test_the_variable_comes_first_then_the_package_then_what_was_brought(tmp_path, monkeypatch):
    one = dataclasses.replace(NAMES["mnist"], place=lambda: tmp_path / "installed")
    assert one.find() is None
    fake_mnist(one.kept)
    assert one.find() == tmp_path / "brought/mnist"
    fake_mnist(tmp_path / "installed")
    assert one.find() == tmp_path / "installed"
    fake_mnist(tmp_path / "mine/src/digits")
    monkeypatch.setenv("RHEOS_MNIST", str(tmp_path / "mine"))
    assert one.find() == tmp_path / "mine/src/digits"
    (tmp_path / "mine/src/digits/7.json").unlink()
    with pytest.raises(ValueError, match="RHEOS_MNIST is .*mine, which does not hold mnist: it lacks 7.json$"):
        one.find()


def test_a_package_is_found_without_being_imported(tmp_path, monkeypatch):
    (tmp_path / "explosive").mkdir()
    (tmp_path / "explosive/__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert module_folder("explosive", "inside") == tmp_path / "explosive/inside" and "explosive" not in sys.modules
    assert module_folder("no_such_package_at_all") is None and module_folder("this") is None


@pytest.mark.parametrize("name", ["mnist", "crawl", "emoji"])
def test_what_is_missing_names_the_command_that_brings_it(name):
    with pytest.raises(ValueError, match=f"^{name} is not on this machine; bring it with: rheos data bring {name}$"):
        NAMES[name].read()


@pytest.mark.parametrize("name", list(NAMES))
def test_every_set_says_what_it_is(name):
    one = NAMES[name]
    assert one.name == name and name.islower() and one.files and one.under[0] == ""
    assert all(str(getattr(one, field.name)) for field in dataclasses.fields(one) if field.name not in ("parcel", "options"))
    assert not one.meaning.endswith(".") and len(one.what) < 40
    if one.parcel is not None:
        assert one.parcel.keep and one.parcel.megabytes > 0 and one.parcel.command()


def test_an_option_that_is_none_is_not_given_and_load_reads_by_name(tmp_path, monkeypatch):
    fake_crawl(tmp_path)
    data = read("crawl", tmp_path, monkeypatch, alpha=None)
    assert torch.equal(load("crawl", alpha="black").x, data.x) and isinstance(data, Dataset)


# -- refusals -------------------------------------------------------------------------------------------------------------------


def cut(name, keep):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:keep])


def put(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def put_idx(name, array):
    return lambda folder: write_idx(folder / name, np.asarray(array, np.uint8))


def put_entry(**change):
    entry = {"name": "ONE", "category": "A", "sheet_x": 0, "sheet_y": 0, "has_img_google": True}
    entry = {key: value for key, value in (entry | change).items() if value is not None}
    return put("emoji.json", json.dumps([entry]).encode())


TRAIN, TEST = "train-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"
REFUSED = {
    "fashion gz cut": ("fashion_mnist", cut(TRAIN, 60), {}, f"{TRAIN}: is no whole gzip file"),
    "fashion no gz": ("fashion_mnist", put(TRAIN, b"plain"), {}, f"{TRAIN}: is no whole gzip file"),
    "fashion magic": ("fashion_mnist", put(TRAIN, gzip.compress(b"\0\0\x0d\x01\0\0\0\1\0")), {}, f"{TRAIN}: is no idx file of unsigned bytes, it begins with 00000d01"),
    "fashion empty": ("fashion_mnist", put(TRAIN, gzip.compress(b"")), {}, "begins with nothing"),
    "fashion short": ("fashion_mnist", put(TRAIN, gzip.compress(b"\0\0\x08\x01\0\0\0\5abc")), {}, r"must hold 5 bytes of shape \(5,\), got 3"),
    "fashion head cut": ("fashion_mnist", put(TRAIN, gzip.compress(b"\0\0\x08\x03\0\0\0\5")), {}, f"{TRAIN}: must hold"),
    "fashion labels fewer": ("fashion_mnist", put_idx(TEST, [1, 2]), {}, f"{TEST}: must hold one label for each picture"),
    "fashion labels too high": ("fashion_mnist", put_idx(TEST, [1, 10, 2]), {}, f"{TEST}: labels must lie in 0..9, got 10"),
    "fashion images flat": ("fashion_mnist", put_idx(TRAIN, np.zeros((7, 5))), {}, "must hold one label for each picture"),
    "mnist no json": ("mnist", cut("4.json", 100), {}, "4.json: must hold JSON"),
    "mnist other json": ("mnist", put("4.json", b"[1]"), {}, "4.json: must hold JSON"),
    "mnist words": ("mnist", put("4.json", b'{"data": ["ink"]}'), {}, "4.json: must hold JSON"),
    "mnist ragged": ("mnist", put("4.json", b'{"data": [[1], [1, 2]]}'), {}, "4.json: must hold JSON"),
    "mnist bytes": ("mnist", put("4.json", b"\xff\xfe"), {}, "4.json: must hold JSON"),
    "mnist too few": ("mnist", put("4.json", b'{"data": [0, 1, 0.5]}'), {}, "784 numbers for each picture, got 3"),
    "mnist none": ("mnist", put("4.json", b'{"data": []}'), {}, "784 numbers for each picture, got 0"),
    "mnist too large": ("mnist", put("4.json", json.dumps({"data": [2] * 784}).encode()), {}, "bytes divided by 255"),
    "mnist nan": ("mnist", put("4.json", json.dumps({"data": [float("nan")] * 784}).encode()), {}, "bytes divided by 255"),
    "mnist option": ("mnist", None, {"size": 32}, "size does not fit mnist, which takes no options"),
    "crawl no picture": ("crawl", put("mon/aq_0.png", b"\x89PNG\r\n\x1a\nnot"), {}, "aq_0.png: cannot be read as a picture"),
    "crawl alpha": ("crawl", None, {"alpha": "blak"}, "alpha must be one of black, white, keep, got 'blak'"),
    "crawl option": ("crawl", None, {"size": 3}, "size does not fit crawl, which takes alpha"),
    "emoji sheet small": ("emoji", put_entry(sheet_x=70), {}, "32.png: has no cell in column 70, row 0 for one: it is 238 x 170 pixels"),
    "emoji negative": ("emoji", put_entry(sheet_y=-1), {}, "has no cell in column 0, row -1"),
    "emoji no name": ("emoji", put_entry(name=None), {}, "emoji.json: must be a list of emoji"),
    "emoji name a number": ("emoji", put_entry(name=3), {}, "emoji.json: must be a list of emoji"),
    "emoji place a word": ("emoji", put_entry(sheet_x="left"), {}, "emoji.json: must be a list of emoji"),
    "emoji a tone more": ("emoji", put_entry(skin_variations={"1F600": {"sheet_x": 0, "sheet_y": 0, "has_img_google": True}}), {}, "emoji.json: must be a list"),
    "emoji no json": ("emoji", put("emoji.json", b"{"), {}, "emoji.json: must be a list of emoji"),
    "emoji empty": ("emoji", put("emoji.json", b"[]"), {}, "emoji.json: lists no emoji"),
    "emoji cut": ("emoji", cut("32.png", 900), {}, "32.png: cannot be read as a picture"),
    "emoji no sheet": ("emoji", None, {"size": 64}, "64.png"),
    "emoji size": ("emoji", None, {"size": 48}, "size must be one of 20, 32, 64, got 48"),
    "emoji skin": ("emoji", None, {"skin": "maybe"}, "skin must be True or False, got 'maybe'"),
    "simbench cut": ("simbench", cut("LoadProfile.csv", 5000), {}, "LoadProfile.csv: "),
    "simbench rows": ("simbench", put("LoadProfile.csv", b"time;a_pload\n1;2\n2;3\n"), {}, "whole days of 96 rows, got 2 rows in 2 lines"),
    "simbench words": ("simbench", put("LoadProfile.csv", b"time;a_pload\n1;much\n"), {}, "cannot be read as load profiles"),
    "simbench empty": ("simbench", put("LoadProfile.csv", b""), {}, "cannot be read as load profiles"),
    "simbench bytes": ("simbench", put("LoadProfile.csv", b"\xff\xfe\0"), {}, "cannot be read as load profiles"),
    "simbench columns": ("simbench", put("LoadProfile.csv", b"time;a\n" + b"1;2\n" * 96), {}, "has no column that ends in _pload"),
    "simbench one day": ("simbench", put("LoadProfile.csv", b"time;a\n" + b"1;2\n" * 96), {"form": "matrix"}, "must hold at least two days, got 1"),
    "simbench form": ("simbench", None, {"form": "weeks"}, "form must be one of days, matrix, got 'weeks'"),
    "winds cut": ("winds", cut("monthly_navy_winds.cdf", 300), {}, "cannot be read as monthly winds"),
    "winds other": ("winds", put("monthly_navy_winds.cdf", b"\x89HDF\r\n\x1a\n"), {}, "cannot be read as monthly winds"),
    "winds empty": ("winds", put("monthly_navy_winds.cdf", b""), {}, "cannot be read as monthly winds"),
    "winds one": ("winds", lambda folder: fake_winds(folder, without=("VWND",)), {}, "holds UWND, no VWND"),
    "winds missing": ("winds", lambda folder: fake_winds(folder, v=np.full((30, 3, 5), -99.9, "f4")), {}, "450 values missing"),
    "winds nan": ("winds", lambda folder: fake_winds(folder, v=np.full((30, 3, 5), np.nan, "f4")), {}, "must hold whole fields"),
    "winds short": ("winds", lambda folder: fake_winds(folder, months=24), {}, "more than the 24 months that are held out, got 24"),
    "debian cut": ("debian", cut("Packages.gz", 50), {}, "Packages.gz: is no whole gzip file"),
    "debian empty": ("debian", put("Packages.gz", gzip.compress(b"no package")), {}, "lists no package"),
    "fortunes long": ("fortunes", None, {"length": 2000}, "length must be from 8 to 1024, got 2000"),
    "fortunes length": ("fortunes", None, {"length": 8.5}, "length must be a whole number, got 8.5"),
    "fortunes code": ("fortunes", None, {"code": "morse"}, "code must be one of bits, onehot, got 'morse'"),
    "fortunes too little": ("fortunes", lambda folder: [put(name, b"few")(folder) for name in ("linux", "computers")], {}, "needs at least two windows of 64 bytes"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_content_is_refused_in_one_line(tmp_path, monkeypatch, case):
    name, damage, options, words = REFUSED[case]
    FAKES[name](tmp_path / "set")
    if damage:
        damage(tmp_path / "set")
    with pytest.raises((ValueError, TypeError), match=words) as error:
        read(name, tmp_path / "set", monkeypatch, **options)
    assert "\n" not in str(error.value) and type(error.value).__name__ in ("ValueError", "TypeError")


@pytest.mark.parametrize("name", list(FAKES))
def test_a_file_that_is_gone_leaves_the_set_missing(tmp_path, monkeypatch, name):
    FAKES[name](tmp_path / "set")
    pattern = NAMES[name].files[0]
    for path in sorted((tmp_path / "set").glob(pattern), reverse=True):
        path.rename(tmp_path / f"gone {path.name}")
    with pytest.raises(ValueError, match=f"{NAMES[name].variable} is .*, which does not hold {name}"):
        read(name, tmp_path / "set", monkeypatch)


EDGES = torch.tensor([[0, 1], [1, 2]])
GRAPH_REFUSED = {
    "no node": ({"nodes": ()}, "nodes must be at least one name"),
    "nodes twice": ({"nodes": ("a", "b", "a")}, "all different, got 3 of which 2 differ"),
    "edges of three": ({"edge_index": {"r": torch.zeros(3, 2, dtype=torch.int64)}}, r"edge_index\['r'\] must be int64 of shape \(2, edges\)"),
    "edges real": ({"edge_index": {"r": EDGES.float()}}, "must be int64"),
    "edge outside": ({"edge_index": {"r": EDGES + 1}}, "must hold node numbers in 0..2, got values from 1 to 3"),
    "edge twice": ({"edge_index": {"r": EDGES[:, [0, 1, 0]]}}, "every edge once, got 3 of which 2 differ"),
    "y alone": ({"y": torch.zeros(3, dtype=torch.int64)}, "y and labels go together, got y alone"),
    "labels alone": ({"labels": ("x",)}, "y and labels go together, got labels alone"),
    "y short": ({"y": torch.zeros(2, dtype=torch.int64), "labels": ("x",)}, "one class for each of the 3 nodes"),
    "y high": ({"y": torch.tensor([0, 1, 0]), "labels": ("x",)}, r"y must lie in 0..0, got values from 0 to 1"),
    "texts": ({"texts": ("one",)}, "texts must be one for each of the 3 nodes, got 1"),
}


@pytest.mark.parametrize("case", GRAPH_REFUSED)
def test_a_graph_that_does_not_fit_is_refused(case):
    change, words = GRAPH_REFUSED[case]
    with pytest.raises(ValueError, match=words):
        GraphData(**({"name": "g", "nodes": ("a", "b", "c"), "edge_index": {"r": EDGES}} | change))


# -- the real ones, where they are ----------------------------------------------------------------------------------------------


def real(name, monkeypatch, **options):
    """The set as whoever runs the tests has it."""
    for variable in ("RHEOS_DATA", NAMES[name].variable):
        monkeypatch.delenv(variable, raising=False)
        if variable in OURS:
            monkeypatch.setenv(variable, OURS[variable])
    if NAMES[name].find() is None:
        pytest.skip(f"{name} is not on this machine")
    return NAMES[name].read(**options)


def test_real_fashion_mnist_has_as_many_of_each_kind(monkeypatch):
    data = real("fashion_mnist", monkeypatch)
    assert data.y.bincount().tolist() == [6000] * 10 and data.held_out.y.bincount().tolist() == [1000] * 10 and data.event == (1, 28, 28)


def test_real_mnist_has_ten_thousand_digits(monkeypatch):
    data = real("mnist", monkeypatch)
    counts = data.y.bincount() + data.held_out.y.bincount()
    assert (int(counts.min()), int(counts.max()), int(counts.sum())) == (863, 1127, 10000)          # as shared/data.md counted them


def test_real_crawl_is_divided_near_a_sixth_in_every_folder(monkeypatch):
    data = real("crawl", monkeypatch)
    share = data.held_out.y.bincount() / (data.y.bincount() + data.held_out.y.bincount())
    assert data.event == (3, 32, 32) and {"dngn", "item", "mon", "player"} <= set(data.labels)
    assert 0.1 < float(share.min()) and float(share.max()) < 0.25
    rows = {row.numpy().tobytes() for row in data.x}
    assert not any(row.numpy().tobytes() in rows for row in data.held_out.x)


def test_real_emoji_have_captions_that_fit(monkeypatch):
    data = real("emoji", monkeypatch)
    captions, x = [*data.captions, *data.held_out.captions], both(data)
    means = lambda caption: x[captions.index(caption)].mean((1, 2))                                  # red, green, blue
    heart, tree = means("green heart"), means("deciduous tree")
    assert heart.argmax() == 1 and tree.argmax() == 1 and means("tomato").argmax() == 0 and means("blue heart").argmax() == 2
    assert "grinning face" in captions and not any(caption != caption.lower() for caption in captions)


def test_real_simbench_is_the_table_that_its_lines_say(monkeypatch):
    data = real("simbench", monkeypatch, form="matrix")
    lines = (NAMES["simbench"].find() / "LoadProfile.csv").read_text().splitlines()
    assert len(both(data)) == len(lines) - 1 == 366 * 96
    for i in (0, 8352, 35135):
        torch.testing.assert_close(both(data)[i], torch.tensor([float(cell) for cell in lines[1 + i].split(";")[1:]]))


def test_real_winds_are_the_westerlies_and_trades(monkeypatch):
    u = both(real("winds", monkeypatch))[:, 0].mean((0, 2))                                         # by latitude, -90 to 90
    assert u.shape == (73,) and u[16] > 4 and u[30] < -2 and u[44] < -1                             # 50 S, 15 S, 20 N


@pytest.mark.slow(seconds=30)           # tens of thousands of packages, parsed afresh
def test_real_debian_knows_its_own_tools(monkeypatch):
    graph = real("debian", monkeypatch)
    number = {name: i for i, name in enumerate(graph.nodes)}
    if not {"bash", "base-files", "python3-numpy"} <= number.keys():
        pytest.skip("apt's lists on this machine are not those of a Debian release")
    depends = set(map(tuple, graph.edge_index["Depends"].T.tolist()))
    assert (number["bash"], number["base-files"]) in depends and (number["python3-numpy"], number["python3"]) in depends
    assert (number["python3"], number["python3-numpy"]) not in depends
    assert graph.labels[graph.y[number["python3-numpy"]]] == "python"
