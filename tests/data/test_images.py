"""Folders of images: sizes, colours, opacity, labels, captions, and everything that can be wrong with them."""
from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from rheos.data import load

pytestmark = pytest.mark.usefixtures("own_cache")


def pixels(height, width, channels=3, seed=0):
    shape = (height, width) if channels == 1 else (height, width, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def put(path, values, **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    (values if isinstance(values, Image.Image) else Image.fromarray(values)).save(path, **how)


def bytes_of(data):
    """(n, H, W, C) whole numbers from 0 to 255."""
    values = (data.x.double() + 1) * 127.5
    torch.testing.assert_close(values, values.round(), rtol=0, atol=1e-4)
    return values.round().byte().movedim(1, 3).numpy()


# -- what is read -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff", ".ppm", ".webp", ".PNG", ".tif"])
def test_pixels_come_back_exactly_in_the_order_of_their_paths(tmp_path, suffix):
    how = {"lossless": True} if suffix == ".webp" else {}
    images = [pixels(5, 7, seed=i) for i in range(4)]
    for name, image in zip(("b/1", "a", "b/0", "c/deep/x"), images, strict=True):
        put(tmp_path / f"{name}{suffix}", image, **how)
    data = load(tmp_path, held_out=0.0)
    assert np.array_equal(bytes_of(data), np.stack([images[i] for i in (1, 2, 0, 3)]))
    assert data.bounds == (-1.0, 1.0) and data.event == (3, 5, 7) and data.y is None and data.name == tmp_path.name


def test_hidden_files_and_folders_are_not_there(tmp_path):
    for i, name in enumerate(("a.png", "b.png", ".c.png", "._a.png", ".git/d.png")):
        put(tmp_path / name, pixels(4, 5, seed=i))
    (tmp_path / "__notes").write_text("no image")
    assert len(load(tmp_path, held_out=0.0)) == 2


def test_images_are_held_out_by_content(tmp_path):
    for i in range(60):
        put(tmp_path / f"{i}.png", pixels(4, 5, seed=i % 20))
    data = load(tmp_path, held_out=0.4)
    train, held_out = ({tuple(row) for row in part.x.flatten(1).tolist()} for part in (data, data.held_out))
    assert not train & held_out and len(train | held_out) == 20 and len(data) + len(data.held_out) == 60


def test_the_first_frame_of_an_animation_is_read(tmp_path):
    frames = [Image.fromarray(pixels(6, 6, 1, seed=i) // 64 * 64) for i in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    put(tmp_path / "b.png", frames[2])
    data = load(tmp_path, held_out=0.0)
    assert np.array_equal(bytes_of(data)[:, ..., 0], np.stack([np.asarray(frames[0]), np.asarray(frames[2])]))


# -- colours ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channel", [0, 1, 2])
def test_grey_to_the_bit_is_one_channel_and_else_all_are_rgb(tmp_path, channel):
    grey = pixels(4, 6, 1)
    put(tmp_path / "a.png", grey)
    put(tmp_path / "b.png", np.repeat(grey[..., None], 3, 2)[::-1].copy())
    put(tmp_path / "c.png", Image.fromarray(grey > 128))
    data = load(tmp_path, held_out=0.0)
    assert np.array_equal(bytes_of(data)[..., 0], np.stack([grey, grey[::-1], np.where(grey > 128, 255, 0)]))
    nearly = np.repeat(grey[..., None], 3, 2)
    nearly[3, 5, channel] ^= 1
    put(tmp_path / "d.png", nearly)
    data = load(tmp_path, held_out=0.0)
    assert data.event == (3, 4, 6) and np.array_equal(bytes_of(data)[[0, 3]], np.stack([np.repeat(grey[..., None], 3, 2), nearly]))


@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_sixteen_bits_are_divided_by_257(tmp_path, order):
    values = np.array([[0, 257, 65535], [128, 129, 40000]], dtype=np.uint16)
    for name in ("a.tiff", "b.tiff"):
        put(tmp_path / name, Image.frombytes("I;16" if order == "<u2" else "I;16B", (3, 2), values.astype(order).tobytes()))
    put(tmp_path / "c.png", Image.frombytes("I;16", (3, 2), values.astype("<u2").tobytes()))
    assert (bytes_of(load(tmp_path, held_out=0.0))[..., 0] == [[0, 1, 255], [0, 1, 156]]).all()


def test_transparency_is_laid_over_white_or_black_or_kept(tmp_path):
    values = pixels(5, 4, 4)
    values[0, :, 3], values[1, :, 3] = 0, 255
    for i in range(2):
        put(tmp_path / f"{i}.png", values[::-1].copy() if i else values)
    opacity = values[..., 3:].astype(float) / 255
    for alpha, ground in (("white", 255.0), ("black", 0.0)):
        found = bytes_of(load(tmp_path, held_out=0.0, alpha=alpha))[0]
        assert np.abs(found - (opacity * values[..., :3] + (1 - opacity) * ground)).max() <= 1
    assert np.array_equal(load(tmp_path, held_out=0.0).x, load(tmp_path, held_out=0.0, alpha="white").x)
    kept = bytes_of(load(tmp_path, held_out=0.0, alpha="keep"))[0]
    assert np.array_equal(kept[1:], values[1:]) and (kept[0] == 0).all() and (values[0, :, :3] > 0).any()


def test_palettes_cmyk_and_grey_with_opacity_are_understood(tmp_path):
    colours = Image.fromarray(np.array([[[255, 0, 0], [0, 0, 255]], [[0, 255, 0], [0, 0, 0]]], dtype=np.uint8))
    palette = colours.quantize(4)
    put(tmp_path / "1.png", palette)
    clear = palette.getpixel((0, 0))
    put(tmp_path / "2.png", palette, transparency=clear)
    put(tmp_path / "3.tiff", colours.convert("CMYK"))
    put(tmp_path / "4.png", Image.merge("LA", [Image.new("L", (2, 2), 100), Image.fromarray(np.array([[255, 0], [255, 255]], dtype=np.uint8))]))
    found = bytes_of(load(tmp_path, held_out=0.0))
    expected = np.asarray(colours)
    assert np.array_equal(found[0], expected) and np.array_equal(found[2], expected)
    assert found[1, 0, 0].tolist() == [255, 255, 255] and np.array_equal(found[1].reshape(4, 3)[1:], expected.reshape(4, 3)[1:])
    assert found[3, :, :, 1].tolist() == [[100, 255], [100, 100]]


def test_the_orientation_of_cameras_is_applied(tmp_path):
    values, exif = pixels(4, 6), Image.Exif()
    exif[0x0112] = 6                                        # the camera was turned: rotate by 90 degrees clockwise
    put(tmp_path / "a.png", values, exif=exif)
    put(tmp_path / "b.tiff", values, exif=exif)
    assert np.array_equal(bytes_of(load(tmp_path, held_out=0.0)), np.stack([np.rot90(values, -1)] * 2))


# -- sizes --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def mixed(tmp_path):
    put(tmp_path / "a.png", np.kron(pixels(8, 12), np.ones((4, 4, 1), dtype=np.uint8)))         # 48 wide, 32 high
    put(tmp_path / "b.png", pixels(8, 8, seed=1))
    put(tmp_path / "c.png", pixels(9, 8, seed=2))
    put(tmp_path / "d.png", pixels(9, 8, seed=3))
    return tmp_path


def test_mixed_sizes_are_refused_with_what_was_found(mixed):
    with pytest.raises(ValueError, match=r"4 images have 3 different sizes, 8 x 9 \(2\), 48 x 32 \(1\), 8 x 8 \(1\): add --size 32 --fit crop"):
        load(mixed)


def test_crop_takes_the_middle(mixed):
    data = load(mixed, size=8, held_out=0.0)
    found = bytes_of(data)
    assert data.event == (3, 8, 8) and np.array_equal(found[1], pixels(8, 8, seed=1)) and np.array_equal(found[2], pixels(9, 8, seed=2)[:8])
    middle = pixels(8, 12)[:, 2:10].astype(float)           # a is made of 4 x 4 blocks, so reduced by 4 it is near their colours
    assert np.corrcoef(found[0].ravel(), middle.ravel())[0, 1] > 0.97
    assert np.corrcoef(found[0].ravel(), pixels(8, 12)[:, :8].ravel())[0, 1] < 0.5


@pytest.mark.parametrize("alpha, ground", [("white", [255] * 3), ("black", [0] * 3), ("keep", [0] * 4)])
def test_pad_shows_all_of_it(mixed, alpha, ground):
    found = bytes_of(load(mixed, size=12, fit="pad", alpha=alpha, held_out=0.0))
    assert (found[0, :2] == ground).all() and (found[0, 10:] == ground).all() and not (found[0, 2:10] == ground).all(-1).any()
    assert np.corrcoef(found[0, 2:10, :, :3].ravel(), pixels(8, 12).ravel())[0, 1] > 0.97
    assert (found[2, :, 11] == ground).all() and not (found[2, :, :11] == ground).all(-1).any()      # 8 x 9 becomes 11 x 12


def test_resizing_does_not_mix_in_colours_nobody_sees(tmp_path):
    values = np.zeros((16, 16, 4), dtype=np.uint8)
    values[..., 0], values[:, ::2, 1], values[:, ::2, 3] = 200, 255, 0      # visible: red; invisible columns: yellow
    values[:, 1::2, 3] = 255
    for name in "ab":
        put(tmp_path / f"{name}.png", values)
    found = bytes_of(load(tmp_path, size=4, alpha="keep", held_out=0.0))[0]
    assert (np.abs(found[..., 0].astype(int) - 200) <= 2).all() and (found[..., 1] <= 2).all() and (np.abs(found[1:3, 1:3, 3].astype(int) - 128) < 20).all()


def test_photographs_are_reduced_without_being_decoded_whole(tmp_path):
    steps = np.linspace(0, 255, 1600).astype(np.uint8)
    photo = np.stack([np.tile(steps, (1200, 1)), np.full((1200, 1600), 90, np.uint8), np.tile(steps[::-1], (1200, 1))], 2)
    for name in ("a.jpg", "b.JPEG"):
        put(tmp_path / name, photo, quality=92)
    found = bytes_of(load(tmp_path, size=16, held_out=0.0))[0].astype(float)
    expected = photo[:, 200:1400].reshape(16, 75, 16, 75, 3).mean((1, 3))
    assert np.abs(found - expected)[:, 1:-1].max() < 4
    with pytest.raises(ValueError, match="1600 x 1200 pixels, more than 1024 a side: add --size 64"):
        load(tmp_path)


# -- labels and captions ------------------------------------------------------------------------------------------------


def test_sub_folders_are_labels_when_every_image_is_in_one(tmp_path):
    for i, name in enumerate(("10/a.png", "9/b.png", "9/deep/c.png", "10/d.png", "10/e.png")):
        put(tmp_path / name, pixels(4, 5, seed=i))
    data = load(tmp_path, held_out=0.0)
    assert data.labels == ("9", "10") and data.y.tolist() == [1, 1, 1, 0, 0] and data.classes == 2
    assert load(tmp_path, label="none").y is None
    assert load(tmp_path / "9", held_out=0.0).y is None                     # one beside its folder
    put(tmp_path / "f.png", pixels(4, 5, seed=9))
    assert load(tmp_path, held_out=0.0).y is None


def test_one_sub_folder_is_no_label(tmp_path):
    for i in range(3):
        put(tmp_path / "all" / f"{i}.png", pixels(4, 5, seed=i))
    assert load(tmp_path, held_out=0.0).y is None


@pytest.fixture
def described(tmp_path):
    for i, name in enumerate(("x/0.png", "x/1.png", "y/2.png", "y/3.png", "y/4.png")):
        put(tmp_path / name, pixels(4, 5, seed=i))
    rows = ["kind,image,says", "cat,y/3.png,\"a cat, asleep\"", "dog,./x/0.png,a dog", "cat,x\\1.png,zwei Katzen", "dog,y/4.png,", "cat,y/2.png,no cat"]
    (tmp_path / "about.csv").write_text("\ufeff" + "\n".join(rows) + "\n", encoding="utf-8")
    return tmp_path


def test_labels_and_captions_come_from_the_table(described):
    data = load(described, label="kind", caption="says", held_out=0.0)
    assert data.labels == ("cat", "dog") and data.y.tolist() == [1, 0, 0, 0, 1]
    assert data.captions == ("a dog", "zwei Katzen", "no cat", "a cat, asleep", "")
    data = load(described, caption="says", held_out=0.4)
    assert data.labels == ("x", "y") and sorted(data.captions + data.held_out.captions) == ["", "a cat, asleep", "a dog", "no cat", "zwei Katzen"]
    by_row = {tuple(row): text for row, text in zip(load(described, held_out=0.0).x.flatten(1).tolist(), load(described, caption="says", held_out=0.0).captions, strict=True)}
    for part in (data, data.held_out):
        assert [by_row[tuple(row)] for row in part.x.flatten(1).tolist()] == list(part.captions)


@pytest.mark.parametrize("change, options, message", [
    (None, {"label": "Kind"}, r"label of .* must be one of kind, image, says, got 'Kind' \(did you mean kind\?\)"),
    (None, {"caption": "title"}, "caption of .* must be one of"),
    (("cat,y/2.png,no cat", ""), {"label": "kind"}, r"1 of 5 images have no row in it, the first is y/2\.png"),
    (("y/2.png", "y/7.png"), {"label": "kind"}, r"1 of its 5 rows name an image that is not there, the first is 'y/7\.png'"),
    (("y/2.png", "y/3.png"), {"label": "kind"}, r"column image must name every image once, got 'y/3\.png' 2 times"),
    (("cat,y/2.png,no cat", "cat,y/2.png,no,cat"), {"label": "kind"}, "row 5 has 4 cells, its header has 3"),
    (("cat,y/2.png", ",y/2.png"), {"label": "kind"}, "column kind is empty for 1 of 5 images"),
    (("dog", "cat"), {"label": "kind"}, "column kind has 1 different values, a label has 2 to 1000"),
    ("latin", {"label": "kind"}, r"about\.csv: is not UTF-8"),
    ("two", {"label": "kind"}, r"--label kind needs one \.csv or \.tsv file in the folder, got about\.csv, more\.tsv"),
    ("none", {"label": "kind", "caption": "says"}, r"--label kind --caption says needs one .* got none"),
])
def test_tables_that_do_not_fit_are_refused(described, change, options, message):
    table = described / "about.csv"
    if isinstance(change, tuple):
        table.write_text(table.read_text().replace(*change))
    elif change == "latin":
        table.write_bytes(table.read_bytes() + "dog,ü.png,\n".encode("latin-1"))
    elif change == "two":
        (described / "more.tsv").write_text("file\n")
    elif change == "none":
        table.unlink()
    with pytest.raises(ValueError, match=message) as caught:
        load(described, **options)
    assert "\n" not in str(caught.value)


# -- refusals -----------------------------------------------------------------------------------------------------------


def png_of(width, height):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")


DAMAGES = {
    "empty": lambda whole: b"",
    "text": lambda whole: b"this is no picture",
    "cut in the head": lambda whole: whole[:20],
    "cut in the middle": lambda whole: whole[:-40],
    "flipped": lambda whole: whole[:45] + bytes(b ^ 255 for b in whole[45:60]) + whole[60:],
    "a bomb": lambda whole: png_of(60000, 60000),
    "a small bomb": lambda whole: png_of(10000, 10000),
}


@pytest.mark.parametrize("size", [None, 4])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_images_are_named_and_counted(tmp_path, damage, size):
    for i in range(5):
        put(tmp_path / "in" / f"{i}.png", pixels(6, 5, seed=i))
    for i in (1, 3):
        file = tmp_path / "in" / f"{i}.png"
        file.write_bytes(DAMAGES[damage](file.read_bytes()))
    with pytest.raises(ValueError, match=r"2 of 5 images cannot be read, the first is in/1\.png \(.+\): mend it or move it away") as caught:
        load(tmp_path, **({} if size is None else {"size": size}))
    assert "\n" not in str(caught.value) and str(caught.value).count(str(tmp_path)) == 1


def test_floating_point_pixels_are_refused(tmp_path):
    for name in "ab":
        put(tmp_path / f"{name}.tiff", np.ones((3, 4), dtype=np.float32))
    with pytest.raises(ValueError, match="floating-point pixels"):
        load(tmp_path)


@pytest.mark.parametrize("options, message", [
    ({"size": 3}, "size must be from 4 to 1024, got 3"), ({"size": 1025}, "size must be from 4 to 1024, got 1025"),
    ({"fit": "crop"}, "fit crop says how images are brought to one size: add that size"), ({"fit": "stretch", "size": 8}, "fit must be one of crop, pad"),
    ({"alpha": "red"}, "alpha must be one of white, black, keep"), ({}, "needs at least 2 images, got 1"), ({"held_out": 1.0}, r"held_out must lie in \[0, 1\)"),
    ({"label": "kind"}, "needs at least 2 images"),
])
def test_refusals(tmp_path, options, message):
    put(tmp_path / "a.png", pixels(8, 8))
    with pytest.raises(ValueError, match=message):
        load(tmp_path, **options)
