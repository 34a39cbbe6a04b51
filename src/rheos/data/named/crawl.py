"""Tiles of the game Dungeon Crawl Stone Soup: 32 x 32 colour pictures in eight folders."""
from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from rheos.core import checks
from rheos.data.cache import cached
from rheos.data.dataset import Dataset, divided
from rheos.data.listing import files_below
from rheos.data.named.families import HELD_OUT, joined, names_fall_below
from rheos.data.named.named import Named
from rheos.data.named.parcels import DebianSource
from rheos.data.named.pixels import BACKGROUNDS, laid, open_picture

__all__ = ["CRAWL", "family", "read", "tiles"]

SIDE = 32
# Families are large and few folders are: of the salts "0/" to "199/", the one by which each folder's share comes nearest to a sixth.
SALT = "10/"


def tiles(folder: Path) -> tuple[list[str], Tensor]:
    """The places of the tiles of 32 x 32 pixels below a folder, in the order of their names, and the tiles (n, 4, 32, 32) uint8: red, green, blue, opacity.

    ValueError that names the file if a .png cannot be read, or the folder if there is none of that size.
    """
    names, rows = [], []
    for name in pictures_below(folder):
        picture = open_picture(folder / name)
        if picture.shape[1:] == (SIDE, SIDE):
            names.append(name)
            rows.append(picture)
    if not rows:
        raise ValueError(f"{folder}: holds no .png of {SIDE} x {SIDE} pixels")
    return names, torch.stack(rows)


def pictures_below(folder: Path) -> list[str]:
    return [name for name in files_below(folder) if name.lower().endswith(".png")]


def family(name: str) -> str:
    """A tile's family: its top folder and the first word of its name, so that variants, poses and recoloured copies are one family.

    >>> family("dngn/altars/sif_muna3.png"), family("mon/tentacles/kraken_ends/kraken_tentacle_NE.png")
    ('dngn/sif', 'mon/kraken')
    """
    path = PurePosixPath(name)
    word = re.match(r"[^\W\d_]*", path.stem).group()
    return f"{path.parts[0]}/{word or path.stem}"


def read(folder: Path, *, alpha: Any = "black") -> Dataset:
    """x (n, 3, 32, 32) in [-1, 1], y the top folder; about a sixth of the families held out.

    alpha: what see-through pixels are laid over, "black" (most of the game's tiles lie on dark floors) or "white"; "keep" makes opacity a fourth channel.
    """
    checks.one_of("alpha", alpha, (*BACKGROUNDS, "keep"))

    def build():
        names, x = tiles(folder)
        # By what is seen over black, whatever is asked for: the division is the same for every `alpha`.
        seen = [row.numpy().tobytes() for row in laid(x, "black")]
        return {"x": x}, {"names": names, "families": joined([family(name) for name in names], seen)}

    tensors, about = cached("crawl", {name: folder / name for name in pictures_below(folder)}, {}, build)
    tops = [name.split("/")[0] for name in about["names"]]
    labels = sorted(set(tops))
    y = torch.tensor([labels.index(top) for top in tops])
    apart = names_fall_below([SALT + one for one in about["families"]], HELD_OUT)
    x = laid(tensors["x"], alpha).float() / 127.5 - 1
    return divided("crawl", x, y, HELD_OUT, apart=apart, bounds=(-1.0, 1.0), classes=len(labels), labels=tuple(labels))


SOURCES = ("*/source/rltiles", "*/*/source/rltiles")        # the second in archives of the game's own repository
CRAWL = Named(
    name="crawl",
    what="colour tiles of a dungeon game",
    meaning="tiles of the game Dungeon Crawl Stone Soup, 32 x 32 pixels, colours from -1 to 1; the label is the kind of thing shown",
    licence="CC0 or public domain for most tiles, GPL-2+ for the game",
    source="Dungeon Crawl Stone Soup and RLTiles, as in Debian's source package crawl",
    rows="about 6,157",
    shape="(3, 32, 32), with alpha keep (4, 32, 32)",
    apart="about 1/6 of the families",
    reader=read,
    files=("dngn/*", "mon/*", "player/*"),
    place=lambda: None,
    under=("", "rltiles", "source/rltiles", "crawl-ref/source/rltiles"),
    parcel=DebianSource("crawl", (*((folder, pattern) for folder in SOURCES for pattern in ("*.png", "license.txt")), ("*", "LICENSE")), 150),
    options=("alpha",),
)
