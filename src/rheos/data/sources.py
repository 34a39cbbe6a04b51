"""Data by name or by path: the one door `load`."""
from __future__ import annotations

import difflib
import inspect
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rheos.core import checks
from rheos.data import arrays, hdf5, images, tables, text
from rheos.data.dataset import Dataset
from rheos.data.graphs import GraphData
from rheos.data.listing import files_below
from rheos.data.named import NAMES

__all__ = ["DEFAULT_HELD_OUT", "KINDS", "NAMES", "Kind", "load"]

DEFAULT_HELD_OUT = 0.1
PACKED = (".zip", ".gz", ".tar", ".tgz", ".bz2", ".xz", ".zst", ".7z", ".rar")


@dataclass(frozen=True)
class Kind:
    """One kind of a user's own data: its name in messages, the suffixes it is told by, and what reads it."""

    name: str
    suffixes: tuple[str, ...]
    read: Callable[..., Dataset]

    @property
    def options(self) -> tuple[str, ...]:
        """What `load` may be told about it, beside held_out."""
        return tuple(name for name, parameter in inspect.signature(self.read).parameters.items()
                     if parameter.kind is inspect.Parameter.KEYWORD_ONLY and name != "held_out")


ARRAY = Kind("a NumPy file", arrays.SUFFIXES, arrays.from_file)
TABLE = Kind("a table", tables.SUFFIXES, tables.from_table)
FIELDS = Kind("a file of fields", hdf5.SUFFIXES, hdf5.from_hdf5)
TEXT = Kind("text", text.SUFFIXES, text.from_text)
IMAGES = Kind("a folder of images", (), images.from_folder)
KINDS = (ARRAY, TABLE, FIELDS, TEXT, IMAGES)


def load(name: str | Path, *, held_out: float | None = None, **reading: Any) -> Dataset | GraphData:
    """The data called `name`, or the user's own data at a path.

    name:     a known name, or a path, told apart by suffix: .npy, .npz (`arrays`); .csv, .tsv, .parquet (`tables`); .h5, .hdf5, .nc, .cdf
              (`hdf5`); .txt, .md, .py, .rst, .tex, .log or none (`text`); a folder of images (`images`), or of text where it has no image.
    held_out: share of the rows to keep apart by content, in [0, 1); None means 0.1. Data with a name bring their own division: ValueError.
    reading:  options of that kind of data, by the names of their reader's arguments, or of the named data; None means not given.
    ValueError, in one line, for an unknown name (with the known ones and the nearest), for an option of another kind of data, and for
    whatever is wrong with the data.

    >>> data = load("digits")
    >>> tuple(data.x.shape[1:]), data.bounds, data.classes, len(data) + len(data.held_out)
    ((1, 8, 8), (-1.0, 1.0), 10, 1797)
    """
    reading = {option: value for option, value in reading.items() if value is not None}
    if str(name) in NAMES:
        if held_out is not None:
            raise ValueError(f"held_out cannot be chosen for {name}, which has a fixed held-out part, got {held_out}")
        return NAMES[str(name)].read(**reading)
    share = checks.between("held_out", DEFAULT_HELD_OUT if held_out is None else held_out, 0.0, 1.0, high_open=True)
    path = Path(name)
    if not os.path.exists(name):
        if isinstance(name, Path) or path.suffix or len(path.parts) > 1 or str(name).endswith(("/", os.sep)):
            raise ValueError(f"{path}: there is no such file or folder")
        near = difflib.get_close_matches(str(name), NAMES, n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise ValueError(f"data must be one of {', '.join(NAMES)} or the path of a folder or file, got {str(name)!r}{hint}")
    kind = _kind(path)
    for option in reading:
        if option not in kind.options:
            raise ValueError(f"{option} does not fit {path}, which is {kind.name}"
                             + (f" and takes {', '.join(kind.options)}" if kind.options else "") + f"; {_takers(option)}")
    try:
        return kind.read(path, held_out=share, **reading)
    except ValueError as error:
        if "\n" in str(error):              # names of columns and files may hold line breaks
            raise ValueError(" ".join(str(error).split())) from error
        raise


def _takers(option: str) -> str:
    """Which kinds take an option. ValueError, with the nearest, if none does."""
    takers = [kind.name for kind in KINDS if option in kind.options]
    if not takers:
        checks.one_of("option", option, sorted({known for kind in KINDS for known in kind.options}))
    return f"it is an option of {' and '.join(takers)}"


def _kind(path: Path) -> Kind:
    """What the thing at `path` is, by its suffix or by what is in the folder."""
    suffix = path.suffix.lower()
    if path.is_dir():
        found = Counter(Path(name).suffix.lower() for name in files_below(path))
        if any(suffix in images.SUFFIXES for suffix in found):
            return IMAGES
        other = next((kind for kind in (ARRAY, TABLE, FIELDS) for suffix in found if suffix in kind.suffixes), None)
        if found and other is None:
            return TEXT
        inside = ", ".join(f"{suffix or 'no suffix'} ({count:,})" for suffix, count in found.most_common(8)) or "no files"
        raise ValueError(f"{path}: is a folder of neither images nor text, it holds {inside}" + (f": give {other.name} by its own path" if other else ""))
    if not path.is_file():
        raise ValueError(f"{path}: is neither a file nor a folder")
    for kind in KINDS:
        if suffix in kind.suffixes:
            return kind
    if suffix in images.SUFFIXES:
        raise ValueError(f"{path}: is one image; give the folder of images that it lies in")
    if suffix in PACKED:
        raise ValueError(f"{path}: is packed; unpack it and give the folder or file inside")
    known = ", ".join(suffix for kind in KINDS for suffix in kind.suffixes if suffix)
    raise ValueError(f"{path}: data must be a folder of images or of text, or a file ending in {known}, got suffix {path.suffix!r}")
