"""A folder of images: every file below it as one row, brought to one size and one kind of colour by stated rules."""
from __future__ import annotations

import csv
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rheos.core import checks
from rheos.data.cache import cached
from rheos.data.dataset import Dataset, divided
from rheos.data.listing import files_below

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["SUFFIXES", "from_folder"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
FITS = ("crop", "pad")
ALPHAS = ("white", "black", "keep")
LEAST_SIZE, MOST_SIZE = 4, 1024
MOST_LABELS = 1000
MOST_NUMBERS = 2**32                # 16 GiB of float32
FILE_COLUMNS = ("file", "filename", "path", "image")
NO_LABELS = "none"


def from_folder(path: str | Path, *, held_out: float = 0.1, label: str | None = None, caption: str | None = None, size: int | None = None,
                fit: str | None = None, alpha: str | None = None) -> Dataset:
    """Read all images below a folder, sorted by relative path: x (n, C, H, W) in [-1, 1] (pixel / 127.5 - 1), held out by content.

    label:   None: the first level of sub-folders names the classes if there are two or more with images in them and no image lies beside
             them. "none": no labels. Else a column of the one .csv or .tsv file in the folder.
    caption: a column of that file. Its first column, or the one called file, filename, path or image, holds paths relative to the folder;
             it must have one row for every image.
    size:    side in pixels, 4 to 1024. Needed if sizes differ or exceed 1024. Reduced by Lanczos, enlarged by cubic interpolation.
    fit:     "crop" (default): scaled until the shorter side is `size`, the middle cut out. "pad": scaled until the longer side is `size`,
             the rest filled with white, with black for alpha "black", or transparent for alpha "keep". Only with `size`.
    alpha:   what becomes of transparency. "white" (default) or "black": laid over that colour. "keep": a fourth channel, -1 transparent to
             1 opaque; colours where it is fully transparent, which nobody sees, are set to black.
    Colours: one channel if every image is grey to the bit, else three (red, green, blue), or four for alpha "keep". 16-bit grey is divided
             by 257. Palettes, CMYK and the like become RGB; the EXIF orientation is applied; of animations the first frame is read.
    ValueError, naming the folder, what was found and the option that helps: fewer than 2 images, damaged ones (with how many), sizes that
    differ, a table that does not fit the images.
    """
    path = Path(path)
    held_out = checks.between("held_out", held_out, 0.0, 1.0, high_open=True)
    if size is not None and not LEAST_SIZE <= checks.integer("size", size) <= MOST_SIZE:
        raise ValueError(f"size must be from {LEAST_SIZE} to {MOST_SIZE}, got {size}")
    if fit is not None and size is None:
        raise ValueError(f"fit {fit} says how images are brought to one size: add that size, such as --size 32")
    fit = checks.one_of("fit", "crop" if fit is None else fit, FITS)
    alpha = checks.one_of("alpha", "white" if alpha is None else alpha, ALPHAS)
    if not path.is_dir():
        raise ValueError(f"{path}: {'is a file, not a folder of images' if path.is_file() else 'there is no such folder'}")
    below = files_below(path)
    names = [name for name in below if Path(name).suffix.lower() in SUFFIXES]
    if len(names) < 2:
        raise ValueError(f"{path}: needs at least 2 images, got {len(names)} ({', '.join(SUFFIXES)} are read)")
    y, labels, captions = _said(path, below, names, label, caption)
    settings = {"size": size, "fit": fit, "alpha": alpha}
    pixels = cached("images", {name: path / name for name in names}, settings,
                    lambda: ({"pixels": _pixels(path, names, size, fit, alpha)}, {}))[0]["pixels"]
    channels, height, width = pixels.shape[1:]
    x = pixels.float().div_(127.5).sub_(1)
    return divided(path.resolve().name or str(path), x, y, held_out, captions=captions, bounds=(-1.0, 1.0), labels=labels,
                   classes=None if labels is None else len(labels), source=str(path),
                   meaning=f"images of {width} x {height} pixels, { {1: 'grey', 3: 'RGB', 4: 'RGB and opacity'}[channels]}, from -1 to 1")


# -- pixels -----------------------------------------------------------------------------------------------------------------


def _pixels(path: Path, names: Sequence[str], size: int | None, fit: str, alpha: str) -> Tensor:
    """(n, C, H, W) uint8."""
    import numpy as np
    from PIL import Image

    rows, sizes, damaged = [], Counter(), []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")                                     # broken EXIF and the like: the pixels are what counts
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        for name in names:
            try:
                row = _one(path / name, size, fit, alpha, decode=len(sizes) < 2)
            except Exception as error:                                      # a broken file makes Pillow's decoders raise nearly anything
                damaged.append((name, str(error).split("\n")[0].replace(str(path / name), name)[:200] or type(error).__name__))
                continue
            if isinstance(row, tuple):
                sizes[row] += 1
            else:
                sizes[row.shape[1::-1]] += 1
                rows.append(row)
    if damaged:
        name, why = damaged[0]
        raise ValueError(f"{path}: {len(damaged):,} of {len(names):,} images cannot be read, the first is {name} ({why}): mend it or move it away")
    (width, height), _ = sizes.most_common(1)[0]
    if len(sizes) > 1:
        found = ", ".join(f"{w} x {h} ({count:,})" for (w, h), count in sizes.most_common(5)) + (", ..." if len(sizes) > 5 else "")
        raise ValueError(f"{path}: its {len(names):,} images have {len(sizes):,} different sizes, {found}: add --size 32 --fit crop (or --fit pad)")
    if max(width, height) > MOST_SIZE:
        raise ValueError(f"{path}: its images are {width} x {height} pixels, more than {MOST_SIZE} a side: add --size 64")
    if alpha != "keep" and all(row.ndim == 2 for row in rows):
        return torch.from_numpy(np.stack(rows)[:, None])
    if len(rows) * height * width * 4 > MOST_NUMBERS:
        raise ValueError(f"{path}: {len(rows):,} images of {width} x {height} pixels do not fit into memory: add a smaller --size")
    whole = np.stack([row if row.ndim == 3 else np.repeat(row[..., None], 3, 2) for row in rows])
    return torch.from_numpy(np.ascontiguousarray(whole.transpose(0, 3, 1, 2)))


def _one(file: Path, size: int | None, fit: str, alpha: str, *, decode: bool):
    """One image as uint8 (H, W) if grey, else (H, W, C); or, without `decode` and for what is too large, (width, height) alone."""
    import numpy as np
    from PIL import Image, ImageOps

    with Image.open(file) as image:
        if size is None and (not decode or max(image.size) > MOST_SIZE):
            turned = image.format != "PNG" and image.getexif().get(0x0112, 1) >= 5          # PNG would have to be decoded for it
            return image.size[::-1] if turned else image.size
        if size is not None:
            image.draft(None, (2 * size, 2 * size))                         # large JPEGs decode at a fraction of their size
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        whole = _coloured(image, alpha)
    if size is not None:
        whole = _fitted(whole, size, fit, alpha)
    values = np.asarray(whole)
    if values.ndim == 3 and values.shape[2] == 4:
        return np.where(values[..., 3:] == 0, np.uint8(0), values)
    if values.ndim == 3 and (values[..., 0] == values[..., 1]).all() and (values[..., 0] == values[..., 2]).all():
        return values[..., 0].copy()
    return values


def _coloured(image: Image, alpha: str) -> Image:
    """The image in mode L or RGB, or RGBA for alpha "keep"."""
    from PIL import Image

    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _eight_bits(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        if alpha != "keep":
            image = Image.alpha_composite(Image.new("RGBA", image.size, alpha), image).convert("RGB")
    if alpha == "keep":
        return image.convert("RGBA")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def _eight_bits(image: Image) -> Image:
    import numpy as np
    from PIL import Image

    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 65535:
        raise ValueError(f"holds {'floating-point' if image.mode == 'F' else '32-bit'} pixels, not 8 or 16 bits")
    return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))


def _fitted(image: Image, size: int, fit: str, alpha: str) -> Image:
    """The image as `size` x `size`. Pillow weighs colours by opacity while it resamples RGBA."""
    from PIL import Image

    width, height = image.size
    shorter, longer = min(width, height), max(width, height)
    if fit == "crop":
        left, top = (width - shorter) // 2, (height - shorter) // 2
        method = Image.Resampling.LANCZOS if shorter > size else Image.Resampling.BICUBIC
        return image.resize((size, size), method, box=(left, top, left + shorter, top + shorter), reducing_gap=3.0)
    method = Image.Resampling.LANCZOS if longer > size else Image.Resampling.BICUBIC
    inner = image.resize((max(1, round(width * size / longer)), max(1, round(height * size / longer))), method, reducing_gap=3.0)
    background = {"L": 0 if alpha == "black" else 255, "RGB": "black" if alpha == "black" else "white", "RGBA": (0, 0, 0, 0)}[image.mode]
    whole = Image.new(image.mode, (size, size), background)
    whole.paste(inner, ((size - inner.width) // 2, (size - inner.height) // 2))
    return whole


# -- labels and captions ----------------------------------------------------------------------------------------------------


def _said(path: Path, below: Sequence[str], names: Sequence[str], label: str | None,
          caption: str | None) -> tuple[Tensor | None, tuple[str, ...] | None, tuple[str, ...] | None]:
    """Labels as numbers, their names, and captions."""
    labels, captions = None, None
    if label is None:
        folders = [name.split("/")[0] if "/" in name else None for name in names]
        if None not in folders and len(set(folders)) >= 2:
            labels = [folder.encode("utf-8", "replace").decode() for folder in folders]
    if caption is not None or label not in (None, NO_LABELS):
        columns = _columns(path, [name for name in below if "/" not in name and Path(name).suffix.lower() in (".csv", ".tsv")], names,
                           {"label": None if label == NO_LABELS else label, "caption": caption})
        captions = None if caption is None else tuple(columns["caption"])
        labels = columns.get("label", labels)
    if labels is None:
        return None, None, captions
    ordered = ordered_names(labels)
    number = {name: i for i, name in enumerate(ordered)}
    return torch.tensor([number[name] for name in labels]), ordered, captions


def ordered_names(found: Sequence[str]) -> tuple[str, ...]:
    """The different names: by size if all are whole numbers, else by letter."""
    different = set(found)
    numbers = all(name.removeprefix("-").isdecimal() and len(name) < 19 for name in different)
    return tuple(sorted(different, key=lambda name: (int(name), name))) if numbers else tuple(sorted(different))


def _columns(path: Path, tables: Sequence[str], names: Sequence[str], wanted: dict[str, str | None]) -> dict[str, list[str]]:
    """The entries of the wanted columns, in the order of the images."""
    asked = " ".join(f"--{option} {column}" for option, column in wanted.items() if column is not None)
    if len(tables) != 1:
        raise ValueError(f"{path}: {asked} needs one .csv or .tsv file in the folder, got {', '.join(tables) or 'none'}")
    table = path / tables[0]
    try:
        with open(table, encoding="utf-8-sig", newline="") as file:
            header, *rows = [row for row in csv.reader(file, delimiter="\t" if table.suffix.lower() == ".tsv" else ",") if row] or [[]]
    except UnicodeDecodeError as error:
        raise ValueError(f"{table}: is not UTF-8 text (byte {error.start:,})") from error
    except (csv.Error, OSError) as error:
        raise ValueError(f"{table}: cannot be read ({error})") from error
    places = {}
    for option, column in wanted.items():
        if column is not None:
            places[option] = header.index(checks.one_of(f"{option} of {path}", column, header))
    key = next((header.index(name) for name in FILE_COLUMNS if name in header), 0)
    for i, row in enumerate(rows):
        if len(row) != len(header):
            raise ValueError(f"{table}: row {i + 1} has {len(row)} cells, its header has {len(header)}")
    by_file = {row[key].replace("\\", "/").removeprefix("./"): row for row in rows}
    if len(by_file) < len(rows):
        twice, count = Counter(row[key] for row in rows).most_common(1)[0]
        raise ValueError(f"{table}: column {header[key]} must name every image once, got {twice!r} {count} times")
    known = set(names)
    lone = [name for name in by_file if name not in known]
    if lone:
        raise ValueError(f"{table}: {len(lone):,} of its {len(rows):,} rows name an image that is not there, the first is {lone[0]!r}")
    bare = [name for name in names if name not in by_file]
    if bare:
        raise ValueError(f"{table}: {len(bare):,} of {len(names):,} images have no row in it, the first is {bare[0]}")
    columns = {option: [by_file[name][place].strip() for name in names] for option, place in places.items()}
    if "label" in columns:
        _check_labels(table, wanted["label"], columns["label"])
    return columns


def _check_labels(table: Path, column: str | None, labels: Sequence[str]) -> None:
    empty, different = labels.count(""), len(set(labels))
    if empty:
        raise ValueError(f"{table}: column {column} is empty for {empty:,} of {len(labels):,} images, so it cannot be --label")
    if different < 2 or different > MOST_LABELS:
        raise ValueError(f"{table}: column {column} has {different:,} different values, a label has 2 to {MOST_LABELS}"
                         + (f": give it as --caption {column}" if different > MOST_LABELS else ""))
