"""Monthly means of the wind over the whole globe, 1982 to 1992, from the examples of the program Ferret."""
from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from rheos.data.dataset import Dataset
from rheos.data.named.named import Named
from rheos.data.named.parcels import DebianPackage

__all__ = ["WINDS", "fields", "read"]

FILE = "monthly_navy_winds.cdf"
COMPONENTS = ("UWND", "VWND")       # eastward, northward
LAST_MONTHS = 24


def fields(path: Path) -> Float[Tensor, "months 2 latitudes longitudes"]:
    """Eastward and northward wind in m/s from a classic netCDF file, month after month. ValueError that names the file if it is missing, no
    netCDF file, lacks one of the two, or lacks values."""
    import numpy as np
    from scipy.io import netcdf_file

    try:
        with netcdf_file(path, mmap=False) as content:
            lacking = [name for name in COMPONENTS if name not in content.variables]
            if lacking:
                raise ValueError(f"holds {', '.join(content.variables) or 'nothing'}, no {lacking[0]}")
            found = [content.variables[name] for name in COMPONENTS]
            values = np.stack([np.array(one.data, dtype=np.float32) for one in found], 1)
            absent = np.stack([np.asarray(one.data) == getattr(one, "missing_value", np.nan) for one in found], 1)
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such file") from None
    except (OSError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, MemoryError) as error:
        raise ValueError(f"{path}: cannot be read as monthly winds ({' '.join(str(error).split()) or type(error).__name__})") from error
    if values.ndim != 4 or not np.isfinite(values).all() or absent.any():
        raise ValueError(f"{path}: must hold whole fields of time, latitude and longitude, got shape {values.shape}, {int(absent.sum()):,} values missing")
    if len(values) <= LAST_MONTHS:
        raise ValueError(f"{path}: must hold more than the {LAST_MONTHS} months that are held out, got {len(values)}")
    return torch.from_numpy(np.ascontiguousarray(values))


def read(folder: Path) -> Dataset:
    """x (108, 2, 73, 144) in m/s, in the order of time; the last 24 months held out.

    Latitudes go from -90 to 90 and longitudes from 20 to 377.5 degrees east, in steps of 2.5. Not cached: the file holds the array itself.
    """
    x = fields(folder / FILE)
    return Dataset("winds", x[:-LAST_MONTHS].clone(), held_out=Dataset("winds (held out)", x[-LAST_MONTHS:].clone()))


WINDS = Named(
    name="winds",
    what="monthly winds of the globe",
    meaning="monthly mean wind of the globe on a grid of 2.5 degrees, eastward and northward component in m/s, January 1982 to December 1992",
    licence="public (NOAA)",
    source="winds of the Fleet Numerical Oceanography Center, as monthly_navy_winds.cdf of Ferret's examples (NOAA PMEL), Debian package ferret-datasets",
    rows="132",
    shape="(2, 73, 144)",
    apart="the last 24 months",
    reader=read,
    files=(FILE,),
    place=partial(Path, "/usr/share/ferret-vis/data"),
    under=("", "usr/share/ferret-vis/data"),
    parcel=DebianPackage("ferret-datasets", (("usr/share/ferret-vis/data", FILE), ("usr/share/doc/*", "copyright")), 150),
)
