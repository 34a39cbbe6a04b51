"""SimBench: what households, shops, farms, grids, charging points and heat pumps draw, every quarter of an hour of 2016."""
from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from rheos.core import checks
from rheos.data.cache import cached
from rheos.data.dataset import Dataset
from rheos.data.named.families import HELD_OUT, names_fall_below
from rheos.data.named.named import Named, module_folder
from rheos.data.named.parcels import PythonPackage

__all__ = ["SIMBENCH", "profiles", "read"]

INSIDE = "networks/1-complete_data-mixed-all-0-sw"
FILE = "LoadProfile.csv"
QUARTERS = 96           # quarter hours in a day
LAST_DAYS = 61          # November and December
ACTIVE = "_pload"
FORMS = ("days", "matrix")


def profiles(path: Path) -> tuple[list[str], list[str], Float[Tensor, "times columns"]]:
    """The columns' names, the days' names (as 31.12.2016), and the values, from a table with ";" between cells and the time first.

    A day is 96 rows, by place: the clock's summer time moves labels, not rows. ValueError that names the file if it is missing or no such table.
    """
    import numpy as np

    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        columns = lines[0].split(";")[1:]
        values = np.loadtxt(lines[1:], delimiter=";", usecols=range(1, len(columns) + 1), dtype=np.float32, ndmin=2)
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such file") from None
    except (ValueError, IndexError, OSError) as error:
        raise ValueError(f"{path}: cannot be read as load profiles ({' '.join(str(error).split())})") from error
    if not columns or not len(values) or len(values) % QUARTERS or len(values) != len(lines) - 1:
        raise ValueError(f"{path}: must hold whole days of {QUARTERS} rows, got {len(values):,} rows in {len(lines) - 1:,} lines")
    return columns, [line.split(" ")[0] for line in lines[1::QUARTERS]], torch.from_numpy(values)


def read(folder: Path, *, form: Any = "days") -> Dataset:
    """Days of profiles, or the profiles as they are; per unit of each profile's rated power.

    form: "days": x (n, 1, 96), a row is one day of one profile's active power and y the profile; about a sixth of the days held out, each
          in all profiles. "matrix": x (quarter hours, 192), active and reactive power of all profiles (`profiles` gives the columns' names) in
          the order of time; the last 61 days held out.
    """
    checks.one_of("form", form, FORMS)
    path = folder / FILE

    def build():
        columns, days, values = profiles(path)
        return {"x": values}, {"columns": columns, "days": days}

    tensors, about = cached("simbench", {FILE: path}, {}, build)
    values, days = tensors["x"], about["days"]
    if form == "matrix":
        last = min(LAST_DAYS, len(days) // 2) * QUARTERS
        if not last:
            raise ValueError(f"{path}: must hold at least two days, got {len(days)}")
        return Dataset("simbench", values[:-last].clone(), held_out=Dataset("simbench (held out)", values[-last:].clone(), meaning=MATRIX), meaning=MATRIX)
    chosen = [i for i, column in enumerate(about["columns"]) if column.endswith(ACTIVE)]
    if not chosen:
        raise ValueError(f"{path}: has no column that ends in {ACTIVE}")
    labels = tuple(about["columns"][i].removesuffix(ACTIVE) for i in chosen)
    x = values[:, chosen].reshape(len(days), QUARTERS, len(chosen)).transpose(1, 2)       # (days, profiles, 96)
    apart = names_fall_below(days, HELD_OUT)

    def part(name: str, which: Tensor, **more) -> Dataset:
        rows = x[which].reshape(-1, 1, QUARTERS)
        return Dataset(name, rows, torch.arange(len(chosen)).repeat(int(which.sum())), classes=len(chosen), labels=labels, **more)

    if bool(apart.all()):
        raise ValueError(f"{path}: all {len(days)} days fall into the held-out part, none is left to train on")
    return part("simbench", ~apart, held_out=part("simbench (held out)", apart) if bool(apart.any()) else None)


MATRIX = "a quarter of an hour of 2016: active (_pload) and reactive (_qload) power of every load profile, per unit of its rated power"
DIST = "simbench-*.dist-info"
SIMBENCH = Named(
    name="simbench",
    what="daily load profiles of electricity",
    meaning="a day of a load profile in quarter hours (standard time): active power per unit of the profile's rated power; the label is the profile",
    licence="ODbL-1.0 (the database), BSD-3-Clause (the code)",
    source="Meinecke et al., SimBench: a benchmark dataset of electric power systems, Energies 13(12):3290, 2020",
    rows="35,136 days of 96 profiles; as matrix 35,136",
    shape="(1, 96); as matrix (192,)",
    apart="about 1/6 of the days; as matrix the last 61 days",
    reader=read,
    files=(FILE,),
    place=partial(module_folder, "simbench", INSIDE),
    under=("", INSIDE, f"simbench/{INSIDE}"),
    parcel=PythonPackage("simbench==1.6.3", ((f"simbench/{INSIDE}", FILE), (DIST, "METADATA"), (f"{DIST}/licenses", "*")), 150),
    options=("form",),
)
