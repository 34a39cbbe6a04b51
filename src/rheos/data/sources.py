"""Data by name or by path: the one door `load`."""
from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path

from rheos.data.arrays import SUFFIXES, from_file
from rheos.data.dataset import Dataset
from rheos.data.digits import digits

__all__ = ["NAMES", "load"]

NAMES: dict[str, Callable[[], Dataset]] = {"digits": digits}
DEFAULT_HELD_OUT = 0.1


def load(name: str | Path, *, held_out: float | None = None) -> Dataset:
    """The data called `name`, or the data in a .npy or .npz file.

    name:     "digits", or a path (see `arrays.from_file` for what a file may hold).
    held_out: share of a file's rows to keep apart, in [0, 1); None means 0.1. Data with a name bring their own division: ValueError.
    ValueError for an unknown name (with the known ones and the nearest) and for whatever is wrong with a file.

    >>> data = load("digits")
    >>> tuple(data.x.shape[1:]), data.bounds, data.classes, len(data) + len(data.held_out)
    ((1, 8, 8), (-1.0, 1.0), 10, 1797)
    """
    if str(name) in NAMES:
        if held_out is not None:
            raise ValueError(f"held_out cannot be chosen for {name}, which has a fixed held-out part, got {held_out}")
        return NAMES[str(name)]()
    path = Path(name)
    if isinstance(name, Path) or path.suffix or len(path.parts) > 1:
        return from_file(path, held_out=DEFAULT_HELD_OUT if held_out is None else held_out)
    near = difflib.get_close_matches(str(name), NAMES, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    raise ValueError(f"data must be one of {', '.join(NAMES)} or the path of a {' or '.join(SUFFIXES)} file, got {str(name)!r}{hint}")
