"""Google's emoji (Noto), cut out of one sheet: colour pictures, each with its name and its category."""
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from rheos.core import checks
from rheos.data.cache import cached
from rheos.data.dataset import Dataset, divided
from rheos.data.named.families import HELD_OUT, joined, names_fall_below
from rheos.data.named.named import Named
from rheos.data.named.parcels import NodePackage
from rheos.data.named.pixels import BACKGROUNDS, laid, open_picture

__all__ = ["EMOJI", "entries", "read"]

SIZES, RULER = (20, 32, 64), 32
# Unicode's five skin tones, in the words of its character names.
TONES = {"1F3FB": "light", "1F3FC": "medium-light", "1F3FD": "medium", "1F3FE": "medium-dark", "1F3FF": "dark"}


def entries(path: Path) -> list[dict[str, Any]]:
    """What emoji.json lists, in its order, skin variations each after their base: caption, family (the base's caption), category, place on the
    sheet (column, row), and whether it is a base. ValueError that names the file if it is missing, no JSON, or holds anything else."""
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))
        found = []
        for one in listed:
            caption = one["name"].lower()
            if one["has_img_google"]:
                found.append(entry(caption, caption, one, one["category"], True))
            for tones, variation in one.get("skin_variations", {}).items():
                if variation["has_img_google"]:
                    said = " and ".join(dict.fromkeys(TONES[tone] for tone in tones.split("-")))
                    found.append(entry(f"{caption}, {said} skin", caption, variation, one["category"], False))
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such file") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path}: must be a list of emoji with name, category, sheet_x and sheet_y ({type(error).__name__}: {error})") from error
    if not found:
        raise ValueError(f"{path}: lists no emoji")
    return found


def entry(caption: str, family: str, one: dict[str, Any], category: str, base: bool) -> dict[str, Any]:
    return {"caption": caption, "family": family, "category": str(category), "column": int(one["sheet_x"]), "row": int(one["sheet_y"]), "base": base}


def cut(sheet: Path, found: list[dict[str, Any]], size: int) -> UInt8[Tensor, "n 4 size size"]:
    """The pictures of the entries: cells of size + 2 pixels, whose outermost pixels are empty. ValueError that names the sheet if a cell lies outside."""
    pixels, step, rows = open_picture(sheet), size + 2, []
    for one in found:
        top, left = step * one["row"] + 1, step * one["column"] + 1
        if min(top, left) < 1 or top + size > pixels.shape[1] or left + size > pixels.shape[2]:
            raise ValueError(f"{sheet}: has no cell in column {one['column']}, row {one['row']} for {one['caption']}: "
                             f"it is {pixels.shape[2]} x {pixels.shape[1]} pixels")
        rows.append(pixels[:, top:top + size, left:left + size])
    return torch.stack(rows)


def read(folder: Path, *, size: Any = 32, alpha: Any = "white", skin: Any = False) -> Dataset:
    """x (n, 3, size, size) in [-1, 1], captions the names, y the category; about a sixth of the names held out, a name with all its variations
    and with the names that have the same picture.

    size:  20, 32 or 64 pixels a side. alpha: what see-through pixels are laid over, "white" or "black"; "keep" makes opacity a fourth channel.
    skin:  whether the variations of skin tone are in too.
    """
    checks.one_of("size", size, SIZES)
    checks.one_of("alpha", alpha, (*BACKGROUNDS, "keep"))
    checks.flag("skin", skin)
    sheet, ruler, listing = folder / f"{size}.png", folder / f"{RULER}.png", folder / "emoji.json"

    def build():
        found = entries(listing)
        x = cut(sheet, found, size)
        # On one sheet, over white, and over all that is listed: the division hangs on none of the options. Some names share a picture (flags).
        seen = [row.numpy().tobytes() for row in laid(x if size == RULER else cut(ruler, found, RULER), "white")]
        return {"x": x}, {"entries": found, "families": joined([one["family"] for one in found], seen)}

    tensors, about = cached("emoji", {"listing": listing, "sheet": sheet, "ruler": ruler}, {"size": size}, build)
    chosen = [i for i, one in enumerate(about["entries"]) if one["base"] or skin]
    found, x = [about["entries"][i] for i in chosen], tensors["x"][chosen]
    apart = names_fall_below([about["families"][i] for i in chosen], HELD_OUT)
    categories = sorted({one["category"] for one in found})
    y = torch.tensor([categories.index(one["category"]) for one in found])
    return divided("emoji", laid(x, alpha).float() / 127.5 - 1, y, HELD_OUT, captions=[one["caption"] for one in found], apart=apart,
                   bounds=(-1.0, 1.0), classes=len(categories), labels=tuple(categories))


SHEETS = tuple(("package/img/google/sheets", f"{size}.png") for size in SIZES)
EMOJI = Named(
    name="emoji",
    what="colour emoji with captions",
    meaning="emoji, square, colours from -1 to 1; the caption is Unicode's name in small letters, the label its category",
    licence="MIT (the package), Apache-2.0 or OFL-1.1 (the pictures)",
    source="Google's Noto emoji, as in the npm package emoji-datasource-google",
    rows="about 1,911, with skin 3,786",
    shape="(3, 32, 32), size 20 or 64 too, with alpha keep 4 channels",
    apart="about 1/6 of the names",
    reader=read,
    files=("emoji.json", "32.png"),
    place=lambda: None,
    parcel=NodePackage("emoji-datasource-google@16.0.0", (("package", "emoji.json"), ("package", "LICENSE"), *SHEETS), 350),
    options=("size", "alpha", "skin"),
)
