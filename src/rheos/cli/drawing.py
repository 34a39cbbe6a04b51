"""Samples to files, part by part: memory does not grow with their number, and a file appears whole or not at all."""
from __future__ import annotations

import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from rheos.cli.errors import Usage

if TYPE_CHECKING:
    from torch import Tensor

    from rheos.models import Model

__all__ = ["MOST_PICTURED", "check_disk", "draw", "suffixes"]

PART_NUMBERS, MOST_ROWS = 1 << 21, 1024     # numbers, and rows, of samples that are made at once
MOST_PICTURED = 400                         # samples that a picture shows
TOLD_EVERY = 5.0                            # seconds


def suffixes(model: Model) -> tuple[str, ...]:
    """The kinds of files that samples of `model` can go into, the usual ones first."""
    from rheos.cli.images import is_image

    if model.encoding is not None:
        return model.encoding.suffix, ".npy"
    return (".npy", ".png") if is_image(model.event, model.transform.bounds) else (".npy",)


def check_disk(n: int, model: Model, files: list[Path]) -> None:
    """Usage error if `n` samples would not fit beside what is on the disk."""
    size = n * math.prod(model.event) * 4
    for file in files:
        place = next(parent for parent in file.absolute().parents if parent.exists())
        free = shutil.disk_usage(place).free
        if file.suffix != ".png" and size > free:
            raise Usage(f"--n is {n:,}, which is too many: the samples take {size / 1e9:,.1f} GB, and {place} has {free / 1e9:,.1f} GB left")


def draw(model: Model, n: int, files: list[Path], **settings: Any) -> None:
    """Draw `n` samples and write them to every one of `files`, by its suffix: .npy, the encoding's own, or .png (the first 400)."""
    import sys

    rows = max(1, min(MOST_ROWS, PART_NUMBERS // math.prod(model.event)))
    begun = told = time.monotonic()
    done = 0
    parts = model.stream(n, batch=rows, **settings)
    first = next(parts)                 # whatever is refused is refused here, before any file is begun
    with ExitStack() as stack:
        writers = [stack.enter_context(_writer(file, n, model)) for file in files]
        for part in chain([first], parts):
            part = part.cpu()
            for write in writers:
                write(part)
            done += len(part)
            now = time.monotonic()
            if now - told > TOLD_EVERY and done < n:
                told = now
                print(f"{done:,} of {n:,} samples, {(n - done) * (now - begun) / done:.0f} s left", file=sys.stderr, flush=True)


@contextmanager
def _writer(path: Path, n: int, model: Model) -> Iterator[Any]:
    if path.suffix == ".png":
        from rheos.cli.images import as_pixels, png, sheet
        from rheos.core.files import write_bytes

        kept: list[Tensor] = []
        yield lambda part: kept.append(part[: MOST_PICTURED - sum(map(len, kept))].clone())
        import torch

        write_bytes(path, png(sheet(as_pixels(torch.cat(kept), model.transform.bounds, model.card.get("data", "")))))
        return
    with _growing(path) as file:
        if path.suffix == ".npy":
            file.write(_npy_header(n, model))
            yield lambda part: file.write(part.contiguous().numpy().tobytes())
        else:
            file.write(model.encoding.header().encode())
            yield lambda part: file.write(model.encoding.text(part).encode())


def _npy_header(n: int, model: Model) -> bytes:
    import io

    import numpy as np

    buffer = io.BytesIO()
    kind = np.dtype(str(model.field.like.dtype).removeprefix("torch."))
    np.lib.format.write_array_header_1_0(buffer, {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": (n, *model.event)})
    return buffer.getvalue()


@contextmanager
def _growing(path: Path) -> Iterator[BinaryIO]:
    """A file that is written bit by bit under a temporary name and takes its own at the end; nothing is left of it if that does not come."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
