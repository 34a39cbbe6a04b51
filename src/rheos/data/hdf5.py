"""Fields on grids from .h5, .hdf5 and .nc files: one variable, its first axis the rows."""
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from rheos.core import checks
from rheos.core.extras import require
from rheos.data.arrays import real_rows
from rheos.data.cache import cached
from rheos.data.dataset import Dataset, divided

__all__ = ["SUFFIXES", "from_hdf5"]

SUFFIXES = (".h5", ".hdf5", ".nc", ".cdf")
CLASSIC = (b"CDF\x01", b"CDF\x02")
MOST_NUMBERS = 2**32                # 16 GiB of float32
MOST_CLAIMED, MOST_RATIO = 2**28, 2000      # bytes; what no compression of HDF5's reaches
SHOWN = 12
FILLS = ("_FillValue", "missing_value")


def from_hdf5(path: str | Path, *, held_out: float = 0.1, key: str | None = None) -> Dataset:
    """Read one variable of an HDF5 or netCDF file as x (n, *event), raw values in the file's units, no bounds; held out by content.

    key: the variable, such as "u" or "group/u"; not needed if the file has one alone of two or more axes. The first axis is the rows.
    HDF5 and netCDF-4 need h5py (extra `fields`), the classic netCDF format does not. Packed values are unpacked (scale_factor, add_offset).
    ValueError, naming the file: not readable, no such variable (with those it has and their shapes), not real numbers, values that are
    missing (not finite, _FillValue or missing_value) with how many; ImportError that names the extra.
    """
    path = Path(path)
    held_out = checks.between("held_out", held_out, 0.0, 1.0, high_open=True)
    if not path.is_file():
        raise ValueError(f"{path}: {'is a folder, not a file' if path.is_dir() else 'there is no such file'}")
    tensors, about = cached("fields", {path.suffix.lower(): path}, {"key": key}, lambda: _parsed(path, key))
    x = tensors["x"]
    units = f" in {about['units']}" if about["units"] else ""
    return divided(path.stem, x, None, held_out, source=str(path), meaning=f"{about['key']} of shape {tuple(x.shape[1:])}{units} from {path.name}")


def _parsed(path: Path, key: str | None) -> tuple[dict[str, Tensor], dict[str, Any]]:
    classic = False
    try:
        with open(path, "rb") as file:
            classic = file.read(4) in CLASSIC
        key, found, said = (_classic if classic else _hierarchical)(path, key)
    except Exception as error:                  # a broken file makes both readers raise nearly anything
        if isinstance(error, ImportError) or str(error).startswith(f"{path}: "):
            raise
        reason = str(error).split("\n")[0][:200] or type(error).__name__
        raise ValueError(f"{path}: cannot be read as {'netCDF' if classic else 'HDF5'} ({reason})") from error
    units = said.get("units", "")
    return {"x": _unpacked(f"{path}: {key}", found, said)}, {"key": key, "units": units if isinstance(units, str) else ""}


def _hierarchical(path: Path, key: str | None) -> tuple[str, Any, dict[str, Any]]:
    """The name of a dataset, its values and its attributes."""
    h5py = require("h5py", extra="fields")
    if not h5py.is_hdf5(path):
        raise ValueError(f"{path}: is no HDF5 file and no classic netCDF file")
    with h5py.File(path, "r") as file:
        shapes: dict[str, tuple[int, ...]] = {}
        file.visititems(lambda name, item: shapes.update({name: item.shape})
                        if isinstance(item, h5py.Dataset) and item.shape is not None and item.dtype.kind in "iuf" else None)
        key = _chosen(path, shapes, key, file.get)
        stored, size = file[key].id.get_storage_size(), file[key].size * file[key].dtype.itemsize
        if size > MOST_CLAIMED and size > MOST_RATIO * stored:      # pieces that were never written take no room in the file, and all of it in memory
            raise ValueError(f"{path}: {key} of shape {shapes[key]} takes {size / 1e9:,.1f} GB, of which {stored / 1e9:,.3f} GB were ever written: "
                             "save what there is")
        return key, file[key][()], {name: _plain(value) for name, value in file[key].attrs.items()}


def _classic(path: Path, key: str | None) -> tuple[str, Any, dict[str, Any]]:
    """The same of the old netCDF format."""
    from scipy.io import netcdf_file

    with netcdf_file(path, mmap=False, maskandscale=False) as file:
        shapes = {name: variable.shape for name, variable in file.variables.items() if variable.data.dtype.kind in "iuf"}
        key = _chosen(path, shapes, key, file.variables.get)
        variable = file.variables[key]
        said = {name: _plain(getattr(variable, name)) for name in (*FILLS, "units", "scale_factor", "add_offset") if hasattr(variable, name)}
        return key, variable.data.copy(), said


def _plain(value: Any) -> Any:
    """An attribute as a text or a number; None if it is neither."""
    import numpy as np

    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    found = np.asarray(value)
    return value if isinstance(value, str) else found.reshape(-1)[0].item() if found.size == 1 and found.dtype.kind in "iuf" else None


def _chosen(path: Path, shapes: Mapping[str, tuple[int, ...]], key: str | None, get: Any) -> str:
    """The variable to read. ValueError with those there are if it is not clear which, or if it is not one of them."""
    many = {name: shape for name, shape in shapes.items() if len(shape) >= 2}
    offered = ", ".join(f"{name} {shape}" for name, shape in list((many or shapes).items())[:SHOWN]) + (", ..." if len(many or shapes) > SHOWN else "")
    if key is not None:
        key = key.strip("/")
    elif len(many) == 1:
        (key,) = many
    else:
        raise ValueError(f"{path}: holds {len(many) or 'no'} variables of two or more axes, {offered or 'and no numbers at all'}"
                         + (f": choose one, such as --key {next(iter(many or shapes))}" if shapes else ""))
    if key not in shapes:
        there = key and get(key) is not None
        raise ValueError(f"{path}: {key!r} is {'not a variable of real numbers' if there else 'not in it'}; --key can be {offered or 'nothing'}")
    size = 1
    for axis in shapes[key]:
        size *= axis
    if not shapes[key]:
        raise ValueError(f"{path}: {key} is a single number, not rows")
    if size > MOST_NUMBERS:
        raise ValueError(f"{path}: {key} of shape {shapes[key]} does not fit into memory: save a part of it")
    return key


def _unpacked(what: str, found, said: Mapping[str, Any]) -> Tensor:
    """float32 rows in the variable's units. Fill values are compared before unpacking, as the CF conventions say."""
    import numpy as np

    missing = ~np.isfinite(found)
    for name in FILLS:
        if isinstance(said.get(name), int | float):
            missing |= found == np.asarray(said[name]).astype(found.dtype)
    if missing.any():
        place = tuple(int(i) for i in np.unravel_index(np.argmax(missing), missing.shape))
        raise ValueError(f"{what} misses {int(missing.sum()):,} of {missing.size:,} values, the first ({found[place]}) at {place}: "
                         "cut them away or fill them first")
    factor, offset = said.get("scale_factor"), said.get("add_offset")
    if factor is not None or offset is not None:
        with np.errstate(over="ignore", invalid="ignore"):      # what leaves the numbers is refused below
            found = found * float(1 if factor is None else factor) + float(0 if offset is None else offset)
    return real_rows(what, found)
