"""Fields from HDF5 and netCDF files."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.io import netcdf_file

from rheos.data import load

pytestmark = pytest.mark.usefixtures("own_cache")


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape) * 40 + 7


@pytest.fixture
def h5py():
    return pytest.importorskip("h5py")


def test_the_only_field_needs_no_key(tmp_path, h5py):
    u = numbers(40, 5, 3)
    with h5py.File(tmp_path / "run.h5", "w") as file:
        file["flow/u"] = u
        file["flow/u"].attrs["units"] = "m/s"
        file["time"], file["note"], file["names"] = np.arange(40.0), "text", np.array([b"a", b"b"])
    data = load(tmp_path / "run.h5", held_out=0.0)
    assert torch.equal(data.x, torch.from_numpy(u).float()) and data.bounds is None and data.encoding is None
    assert data.meaning == "flow/u of shape (5, 3) in m/s from run.h5"
    assert torch.equal(load(tmp_path / "run.h5", key="/time", held_out=0.0).x, torch.arange(40.0)[:, None])
    apart = load(tmp_path / "run.h5", held_out=0.4)
    assert len(apart) + len(apart.held_out) == 40 and abs(len(apart.held_out) - 16) < 5 * 9.6**0.5


def test_whole_numbers_are_no_pixels(tmp_path, h5py):
    with h5py.File(tmp_path / "counts.hdf5", "w") as file:
        file["c"] = np.array([[0, 255], [3, 4]], dtype=np.uint8)
    assert load(tmp_path / "counts.hdf5", held_out=0.0).x.tolist() == [[0, 255], [3, 4]]


def test_classic_netcdf_with_records_and_packed_values(tmp_path):
    raw = np.array([[[1, -2, 3]], [[40, 5, 6]]], dtype=np.int16)
    with netcdf_file(tmp_path / "winds.cdf", "w") as file:
        for name, size in (("time", None), ("y", 1), ("x", 3)):
            file.createDimension(name, size)
        u = file.createVariable("u", "h", ("time", "y", "x"))
        u[:] = raw
        u.scale_factor, u.add_offset, u._FillValue, u.units = 0.5, 10.0, np.int16(-999), b"K"
        file.createVariable("lat", "d", ("y",))[:] = [3.0]
    data = load(tmp_path / "winds.cdf", held_out=0.0)
    assert data.x.tolist() == [[[10.5, 9.0, 11.5]], [[30.0, 12.5, 13.0]]] and data.meaning == "u of shape (1, 3) in K from winds.cdf"
    with netcdf_file(tmp_path / "winds.cdf", "a") as file:
        file.variables["u"][1, 0, 2] = -999
    with pytest.raises(ValueError, match=r"u misses 1 of 6 values, the first \(-999\) at \(1, 0, 2\): cut them away or fill them"):
        load(tmp_path / "winds.cdf")


def test_netcdf4_is_hdf5(tmp_path, h5py):
    netcdf = pytest.importorskip("netCDF4")
    with netcdf.Dataset(tmp_path / "n.nc", "w") as file:
        file.createDimension("t", 4)
        file.createDimension("x", 3)
        file.createVariable("t", "f8", ("t",))[:] = np.arange(4)
        u = file.createVariable("u", "i2", ("t", "x"), fill_value=-5)
        u.set_auto_maskandscale(False)
        u.scale_factor = 0.25
        u[:] = np.arange(12).reshape(4, 3)
    assert load(tmp_path / "n.nc", held_out=0.0).x.tolist() == (np.arange(12).reshape(4, 3) / 4).tolist()
    with netcdf.Dataset(tmp_path / "n.nc", "a") as file:
        file["u"].set_auto_maskandscale(False)
        file["u"][2:, 1] = -5
    with pytest.raises(ValueError, match=r"u misses 2 of 12 values, the first \(-5\) at \(2, 1\)"):
        load(tmp_path / "n.nc")


@pytest.mark.parametrize("key, message", [
    (None, r"holds 2 variables of two or more axes, g/v \(4, 2\), u \(4, 3\): choose one, such as --key g/v"),
    ("w", r"'w' is not in it; --key can be g/v \(4, 2\), u \(4, 3\)"), ("words", "'words' is not a variable of real numbers"), ("g", "'g' is not a variable of real numbers"),
    ("z", "'z' is not a variable of real numbers"), ("one", "one is a single number, not rows"), ("holes", r"holes misses 2 of 6 values, the first \(nan\) at \(0, 1\)"),
    ("none", r"none is empty, got shape \(0, 3\)"), ("big", r"big of shape \(100000, 100000\) does not fit into memory"), ("huge", "huge must fit into float32"),
    ("", "'' is not in it"),
])
def test_refuses_what_is_not_a_field(tmp_path, h5py, key, message):
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["u"], file["g/v"], file["words"], file["z"], file["one"] = numbers(4, 3), numbers(4, 2), np.array([[b"a"]]), numbers(4, 3) * 1j, 3.0
        if key == "holes":
            file[key] = np.array([[0, np.nan, 1], [np.inf, 2, 3]])
        elif key == "none":
            file[key] = np.zeros((0, 3))
        elif key == "huge":
            file[key] = np.array([[1e300, 1.0]])
        elif key == "big":
            file.create_dataset(key, (100000, 100000), chunks=(10, 10), dtype="f4")
    with pytest.raises(ValueError, match=message) as caught:
        load(tmp_path / "f.h5", **({} if key is None else {"key": key}))
    assert "\n" not in str(caught.value) and str(tmp_path / "f.h5") in str(caught.value)


def test_refuses_files_without_numbers_and_broken_ones(tmp_path, h5py):
    with h5py.File(tmp_path / "empty.h5", "w"):
        pass
    with pytest.raises(ValueError, match="holds no variables of two or more axes, and no numbers at all$"):
        load(tmp_path / "empty.h5")
    with h5py.File(tmp_path / "line.h5", "w") as file:
        file["t"] = np.arange(3.0)
    with pytest.raises(ValueError, match=r"holds no variables of two or more axes, t \(3,\): choose one, such as --key t"):
        load(tmp_path / "line.h5")
    whole = (tmp_path / "line.h5").read_bytes()
    for name, content in (("text.nc", b"not a field"), ("nothing.h5", b""), ("torn.h5", whole[:700]), ("torn.cdf", b"CDF\x01\0\0\0\x02\0\0"), ("odd.cdf", b"CDF\x01" + b"\xff" * 90)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name}: (is no HDF5 file|cannot be read as)") as caught:
            load(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_without_h5py_the_extra_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(ImportError, match=r"pip install 'rheos\[fields\]'"):
        load(tmp_path / "a.h5")
