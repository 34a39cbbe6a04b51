"""A user's own data: one NumPy file, an array (.npy) or an archive with `x` and perhaps `y` (.npz)."""
from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from rheos.core import checks
from rheos.data.dataset import Dataset, divided

__all__ = ["SUFFIXES", "from_file", "real_rows"]

SUFFIXES = (".npy", ".npz")
LEAST_CLASSES_ALLOWED = 1000        # labels may reach this even in a file of fewer rows


def from_file(path: str | Path, *, held_out: float = 0.1) -> Dataset:
    """Read a .npy or .npz file; `held_out` (in [0, 1), a share) of its rows is kept apart by content, so duplicates stay together.

    x: (n, *event) of real numbers; (n,) is read as (n, 1). uint8 is taken for pixels: scaled from 0..255 to [-1, 1], with these
       bounds. Every other kind keeps its values and has no bounds.
    y: (n,) whole numbers from 0. There are max(y) + 1 classes.
    ValueError, naming the file, if it is missing, unreadable, not an array, empty, without `x`, not real, not finite, or if `y`
    does not fit. Nothing is unpickled.
    """
    import numpy as np

    path = Path(path)
    held_out = checks.between("held_out", held_out, 0.0, 1.0, high_open=True)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: data must be a {' or '.join(SUFFIXES)} file, got suffix {path.suffix!r}")
    if not path.is_file():
        raise ValueError(f"{path}: {'is a folder, not a file' if path.is_dir() else 'there is no such file'}")
    arrays = _read(path)
    if "x" not in arrays:
        raise ValueError(f"{path}: an .npz file must hold an array named x (and may hold y), this one holds {', '.join(arrays) or 'nothing'}")
    x, bounds = _values(path, np.atleast_1d(arrays["x"]))
    y = _labels(path, arrays["y"], len(x)) if "y" in arrays else None
    return divided(path.stem, x, y, held_out, bounds=bounds, classes=None if y is None else int(y.max()) + 1,
                   meaning=f"rows of shape {tuple(x.shape[1:])} from {path.name}", source=str(path))


def _read(path: Path) -> dict:
    """The arrays of a file by name (a .npy holds only x)."""
    import warnings

    import numpy as np

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")                 # headers of old versions
            found = np.load(path, allow_pickle=False)
            if isinstance(found, np.ndarray):
                return {"x": found}
            with found:
                wanted = [name for name in ("x", "y") if name in found.files]
                arrays = {name: found[name] for name in wanted} if "x" in wanted else dict.fromkeys(found.files)
                if any(isinstance(array, bytes) for array in arrays.values()):
                    raise ValueError("a member is no array")
                return arrays
    except Exception as error:                              # a broken header makes NumPy raise nearly anything
        if "pickle" in str(error).lower():
            raise ValueError(f"{path}: holds Python objects or no NumPy array at all; save plain numbers with numpy.save or numpy.savez") from error
        header = isinstance(error, SyntaxError) or "malformed node" in str(error)
        reason = "its header is damaged" if header else str(error).strip().split("\n")[0][:200] or type(error).__name__
        raise ValueError(f"{path}: cannot be read as a NumPy file ({reason})") from error


def _values(path: Path, found) -> tuple[Tensor, tuple[float, float] | None]:
    """x as float32 (n, *event), and its bounds."""
    import numpy as np

    x = real_rows(f"{path}: x", found)
    return (x / 127.5 - 1, (-1.0, 1.0)) if found.dtype == np.uint8 else (x, None)


def real_rows(what: str, found) -> Tensor:
    """A NumPy array as float32 (n, *event), a flat one as (n, 1). ValueError that begins with `what` if it is not real, empty, not finite
    or too large for float32."""
    import numpy as np

    if found.dtype.kind not in "iuf":
        raise ValueError(f"{what} must hold real numbers, got dtype {found.dtype}")
    if found.size == 0:
        raise ValueError(f"{what} is empty, got shape {found.shape}")
    if found.ndim == 1:
        found = found[:, None]
    good = np.isfinite(found)
    if not good.all():
        place = tuple(int(i) for i in np.unravel_index(np.argmin(good), good.shape))
        raise ValueError(f"{what} must be finite, got {found.size - int(good.sum()):,} of {found.size:,} entries that are not, "
                         f"the first ({found[place]}) at {place}")
    with np.errstate(over="ignore"):
        x = found.astype(np.float32)
    if not np.isfinite(x).all():
        raise ValueError(f"{what} must fit into float32, got {np.abs(found).max():g} as the largest magnitude: rescale it")
    return torch.from_numpy(np.ascontiguousarray(x))


def _labels(path: Path, found, rows: int) -> Tensor:
    if found.dtype.kind not in "iu":
        raise ValueError(f"{path}: y must hold whole numbers, got dtype {found.dtype}")
    if found.shape != (rows,):
        raise ValueError(f"{path}: y must hold one label for each of the {rows} rows of x, got shape {found.shape}")
    least, most = int(found.min()), int(found.max())
    if least < 0 or most >= max(rows, LEAST_CLASSES_ALLOWED):
        raise ValueError(f"{path}: y must number the classes from 0 up, got labels from {least} to {most} in {rows} rows")
    return torch.from_numpy(found.astype("int64"))
