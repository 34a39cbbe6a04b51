"""A data set with a name: what it is, where it lies on this machine, what brings it, and how it is read."""
from __future__ import annotations

import dataclasses
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rheos.core.folders import data_folder
from rheos.data.dataset import Dataset
from rheos.data.graphs import GraphData
from rheos.data.named.parcels import Parcel

__all__ = ["Named", "module_folder"]


@dataclass(frozen=True)
class Named:
    """One data set that `load` knows by name.

    name:     as in `load(name)`.
    what:     in a few words, for a list. meaning: one sentence, what a row is and in which units.
    licence, source: the terms of the data, and what to cite.
    rows, shape, apart: in words, for a list, how many there are, of which shape, and what is held out; "about" where copies differ.
    reader:   (folder, **options) -> the data.
    files:    patterns that must each match something in a folder, or the set is not there.
    place:    where an installed package keeps it, or None.
    under:    where in a folder that the user names the files may lie.
    parcel:   what brings it; None if it comes with rheos or with Python.
    options:  what `reader` takes beside the folder.
    """

    name: str
    what: str
    meaning: str
    licence: str
    source: str
    rows: str
    shape: str
    apart: str
    reader: Callable[..., Dataset | GraphData]
    files: tuple[str, ...]
    place: Callable[[], Path | None]
    under: tuple[str, ...] = ("",)
    parcel: Parcel | None = None
    options: tuple[str, ...] = ()

    @property
    def variable(self) -> str:
        """The environment variable that may name its folder; it is looked at first."""
        return f"RHEOS_{self.name.upper()}"

    @property
    def kept(self) -> Path:
        """The folder that it is brought to."""
        return data_folder() / self.name

    def find(self) -> Path | None:
        """The folder that holds it: the one $RHEOS_NAME names, an installed package's, or the one it was brought to; None if there is none.

        ValueError if the variable names a folder that does not hold it.
        """
        if said := os.environ.get(self.variable):
            folders = [Path(said) / inside for inside in self.under]
            found = min(folders, key=lambda folder: len(self.lacking(folder)))
            if lacking := self.lacking(found):
                raise ValueError(f"{self.variable} is {said}, which does not hold {self.name}: it lacks {', '.join(lacking)}")
            return found
        return next((folder for folder in (self.place(), self.kept) if folder is not None and self.lies_in(folder)), None)

    def lacking(self, folder: Path) -> list[str]:
        """The patterns of `files` that match nothing in the folder."""
        return [pattern for pattern in self.files if next(folder.glob(pattern), None) is None]

    def lies_in(self, folder: Path) -> bool:
        """Whether all that is needed is in the folder."""
        return not self.lacking(folder)

    def read(self, **options: Any) -> Dataset | GraphData:
        """The data, with what is known about it; an option that is None is as if it were not given. ValueError in one line if it is not here,
        if an option is not one of its own, or if a file does not hold what it should."""
        options = {option: value for option, value in options.items() if value is not None}
        for option in options:
            if option not in self.options:
                takes = f"takes {', '.join(self.options)}" if self.options else "takes no options"
                raise ValueError(f"{option} does not fit {self.name}, which {takes}")
        folder = self.find()
        if folder is None:
            raise ValueError(self.missing())
        data = self.reader(folder, **options)
        about: dict[str, Any] = {field: getattr(data, field) or getattr(self, field) for field in ("meaning", "licence", "source")}
        if isinstance(data, Dataset) and data.held_out is not None:
            about["held_out"] = dataclasses.replace(data.held_out, **about)
        return dataclasses.replace(data, **about)

    def missing(self) -> str:
        """The line that says so, with the command that brings it."""
        how = f"bring it with: rheos data bring {self.name}" if self.parcel else f"{self.variable} may name its folder"
        return f"{self.name} is not on this machine; {how}"


def module_folder(module: str, inside: str = "") -> Path | None:
    """A folder of an installed Python package, without importing it; None if the package is not installed."""
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations))) / inside
