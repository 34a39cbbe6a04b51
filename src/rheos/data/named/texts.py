"""Text at hand: fortune cookies, Python's own library, a dictionary, and WordNet's definitions, as windows of bytes."""
from __future__ import annotations

import dataclasses
import gzip
import re
import sysconfig
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from rheos.core import checks
from rheos.data.cache import cached
from rheos.data.dataset import Dataset
from rheos.data.listing import files_below
from rheos.data.named.families import HELD_OUT
from rheos.data.named.named import Named
from rheos.data.named.parcels import DebianPackage
from rheos.data.text import LEAST_LENGTH, MOST_LENGTH, windowed
from rheos.data.tokens import DEFAULT_CODE

__all__ = ["FORTUNES", "GCIDE", "GLOSSES", "STDLIB", "dictionary", "fortunes", "glosses", "library"]

LENGTH = 64
Reading = Callable[[dict[str, Path]], bytes]


def read(name: str, choose: Callable[[Path], list[str]], reading: Reading, folder: Path, *, length: Any = LENGTH, code: Any = DEFAULT_CODE) -> Dataset:
    """x (n, channels, length), encoding `Tokens`: windows of `length` bytes one after the other; about a sixth held out by content.

    choose: which files of the folder. reading: their text. length: 8 to 1024. code: "bits" or "onehot", see `Tokens`.
    """
    if not LEAST_LENGTH <= checks.integer("length", length) <= MOST_LENGTH:
        raise ValueError(f"length must be from {LEAST_LENGTH} to {MOST_LENGTH}, got {length}")
    files = {one: folder / one for one in choose(folder)}

    def build():
        text = reading(files)
        count = len(text) // length
        if count < 2 or len(set(text)) < 2:
            raise ValueError(f"{folder}: {name} needs at least two windows of {length} bytes and two values, got {len(text)} bytes of {len(set(text))} values")
        return {"windows": torch.frombuffer(bytearray(text[: count * length]), dtype=torch.uint8).reshape(count, length)}, {}

    windows = cached(name, files, {"length": length}, build)[0]["windows"]
    found = windowed(name, windows, HELD_OUT, code, what=MEANINGS[name], where=str(folder))
    # The set's own citation stands in the place of a folder.
    return dataclasses.replace(found, source="", held_out=None if found.held_out is None else dataclasses.replace(found.held_out, source=""))


def content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror})") from error


# -- fortune cookies ---------------------------------------------------------------------------------------------------------


def fortune_files(folder: Path) -> list[str]:
    """The collections: files without suffix (x.dat is the index of x, x.u8 a link to it), save the package's terms."""
    return [name for name in files_below(folder) if "." not in name and "/" not in name and name != "copyright"]


def fortunes(files: dict[str, Path]) -> bytes:
    """The collections one after the other, cookies apart by lines with a percent sign; letters struck over ("_", backspace, letter) are
    printed once."""
    parts = [re.sub(rb"[^\n]\x08", b"", content(path)).strip(b"%\n\r ") for path in files.values()]
    return b"\n%\n".join(part for part in parts if part)


# -- Python's library --------------------------------------------------------------------------------------------------------


def library_files(folder: Path) -> list[str]:
    """Python's own modules: no tests, nothing that was installed."""
    return [name for name in files_below(folder)
            if name.endswith(".py") and not {"site-packages", "dist-packages", "test", "tests", "idle_test"} & set(name.split("/"))]


def library(files: dict[str, Path]) -> bytes:
    """The modules one after the other; the few that are not UTF-8 are left out."""
    parts = []
    for path in files.values():
        text = content(path)
        try:
            text.decode("utf-8")
        except UnicodeDecodeError:
            continue
        parts.append(text)
    return b"\n".join(parts)


# -- the dictionary ----------------------------------------------------------------------------------------------------------


def dictionary(files: dict[str, Path]) -> bytes:
    """The entries of a dictionary for dictd in small letters a to z and single spaces, as the benchmark text8 is written."""
    (path,) = files.values()
    try:
        text = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path}: is no whole gzip file ({error})") from error
    return re.sub(rb"[^a-z]+", b" ", text.lower()).strip()


# -- WordNet's definitions ---------------------------------------------------------------------------------------------------


def glosses(files: dict[str, Path]) -> bytes:
    """The definition, and examples, of every set of synonyms, one a line: what follows " | " in a line that does not begin with a blank."""
    found = []
    for path in files.values():
        lines = content(path).decode("latin-1").splitlines()
        found += [line.split(" | ", 1)[1].strip() for line in lines if not line.startswith(" ") and " | " in line]
        if not found:
            raise ValueError(f"{path}: holds no line with a definition after ' | '")
    return "\n".join(found).encode()


DICTIONARY, WORDNET_FILES = "gcide.dict.dz", ("data.adj", "data.adv", "data.noun", "data.verb")
MEANINGS = {
    "fortunes": "fortune cookies: jokes, quotations and sayings, apart by lines with a percent sign",
    "stdlib": "source of the standard library of the Python that runs",
    "gcide": "an English dictionary in small letters and spaces",
    "glosses": "WordNet's definitions, one a line",
}
SHAPE, APART, OPTIONS = f"(channels, {LENGTH}), length 8 to 1024", "about 1/6, by content", ("length", "code")

FORTUNES = Named(
    name="fortunes",
    what="text: fortune cookies",
    meaning=MEANINGS["fortunes"],
    licence="BSD (the collection); quotations by their authors",
    source="the fortune files of Debian's package fortunes",
    rows="about 39,000",
    shape=SHAPE,
    apart=APART,
    reader=partial(read, "fortunes", fortune_files, fortunes),
    files=("computers", "linux"),
    place=partial(Path, "/usr/share/games/fortunes"),
    under=("", "usr/share/games/fortunes"),
    parcel=DebianPackage("fortunes", (("usr/share/games/fortunes", "[!.]*"), ("usr/share/doc/*", "copyright")), 20),
    options=OPTIONS,
)
STDLIB = Named(
    name="stdlib",
    what="text: Python's standard library",
    meaning=MEANINGS["stdlib"],
    licence="PSF-2.0",
    source="the Python that runs",
    rows="about 190,000",
    shape=SHAPE,
    apart=APART,
    reader=partial(read, "stdlib", library_files, library),
    files=("os.py", "json/__init__.py"),
    place=lambda: Path(sysconfig.get_path("stdlib")),
    options=OPTIONS,
)
GCIDE = Named(
    name="gcide",
    what="text: an English dictionary",
    meaning=MEANINGS["gcide"],
    licence="GPL-2+",
    source="the GNU Collaborative International Dictionary of English (Webster 1913 and WordNet), Debian package dict-gcide",
    rows="about 460,000",
    shape=SHAPE,
    apart=APART,
    reader=partial(read, "gcide", lambda folder: [DICTIONARY], dictionary),
    files=(DICTIONARY,),
    place=partial(Path, "/usr/share/dictd"),
    under=("", "usr/share/dictd"),
    parcel=DebianPackage("dict-gcide", (("usr/share/dictd", DICTIONARY), ("usr/share/doc/*", "copyright")), 60),
    options=OPTIONS,
)
GLOSSES = Named(
    name="glosses",
    what="text: WordNet's definitions",
    meaning=MEANINGS["glosses"],
    licence="WordNet licence (permissive)",
    source="Fellbaum, WordNet: an electronic lexical database, 1998; Debian package wordnet-base",
    rows="about 140,000",
    shape=SHAPE,
    apart=APART,
    reader=partial(read, "glosses", lambda folder: list(WORDNET_FILES), glosses),
    files=WORDNET_FILES,
    place=partial(Path, "/usr/share/wordnet"),
    under=("", "usr/share/wordnet"),
    parcel=DebianPackage("wordnet-base", (("usr/share/wordnet", "data.*"), ("usr/share/doc/*", "copyright")), 80),
    options=OPTIONS,
)
