"""What a command checks about its options before it does anything."""
from __future__ import annotations

import math
import os
import re
from collections.abc import Sequence
from pathlib import Path

import typer

from rheos.cli.errors import Usage

__all__ = ["check_memory", "place", "seconds", "slug"]


def place(text: str | Path) -> Path:
    """A path as it was typed, or as it is by default.

    An empty one, which an unset variable of a shell leaves behind, is refused: as a Path it would be the current folder.
    """
    if text == "":
        raise typer.BadParameter("it is empty; the current folder is .")
    return Path(text)


def seconds(text: str | float) -> float:
    """A time such as 90, 90s, 10m or 1h30m, in seconds."""
    found = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s?)?", str(text).strip())
    value = sum(float(part) * unit for part, unit in zip(found.groups(), (3600, 60, 1), strict=True) if part) if found else 0.0
    if not value > 0:
        raise typer.BadParameter(f"it must be a time such as 90s, 10m or 1h30m, got {str(text)!r}")
    return value


def slug(text: str) -> str:
    """What was asked for as a part of a file's name: whole if short, else cut and told apart by a hash."""
    import hashlib

    plain = "".join(letter if letter.isalnum() or letter in "+-" else "_" for letter in text)
    return plain if len(plain) <= 40 else f"{plain[:40]}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def check_memory(option: str, n: int, event: Sequence[int], draws: int = 1) -> None:
    """Usage error if `draws` times `n` float32 samples of shape `event` do not fit into the memory of this machine, once as drawn and once as written."""
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):       # a system that does not tell
        return
    size = draws * n * math.prod(event) * 4
    if 2 * size > memory > 0:
        raise Usage(f"{option} is {n:,}, which is too many: the samples take {size / 1e9:,.1f} GB, twice while they are written, "
                    f"and this machine has {memory / 1e9:,.1f} GB")
