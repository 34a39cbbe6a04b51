"""Samples to files, part by part: memory does not grow with their number, and a file appears whole or not at all."""
from __future__ import annotations

import csv
import io
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
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


def draw(model: Model, n: int, files: list[Path], *, cond: Any = None, **settings: Any) -> list[Path]:
    """Draw `n` samples and write them to every one of `files`, by its suffix: .npy, the encoding's own, or .png (the first 400).

    The classes are written where samples have different ones: into the column of a table that they were learned from, or beside an array
    into a file of their own. Gives all files that were written.
    """
    import sys

    # Row by row the classes that `Model.sample` draws; one for all of them where it was asked for.
    asked = None if cond is None or model.condition != "label" else model.conditions.tensor(cond, 1)
    classes = lambda rows, first: (model.classes_as_in_the_data(rows, seed=settings.get("seed", 0), first=first) if cond is None
                                   else None if asked is None else asked.expand(rows))
    known = classes(1, 0) is not None and settings.get("guidance") is None or asked is not None
    labelled = known and model.card.get("label_column") is not None
    beside = [file.with_name(f"{file.stem}-classes.npy") for file in files if file.suffix == ".npy" and known and cond is None and not labelled]

    rows = max(1, min(MOST_ROWS, PART_NUMBERS // math.prod(model.event)))
    begun = told = time.monotonic()
    done = 0
    parts = model.stream(n, batch=rows, cond=cond, **settings)
    first = next(parts)                 # whatever is refused is refused here, before any file is begun
    with ExitStack() as stack:
        writers = [stack.enter_context(_writer(file, n, model)) for file in files]
        counters = [stack.enter_context(_growing(file)) for file in beside]
        for file in counters:
            file.write(_npy_header("int64", (n,)))
        for part in chain([first], parts):
            part = part.cpu()
            told_classes = classes(len(part), done) if known else None
            named = [model.conditions.name(k) for k in told_classes.tolist()] if labelled else None
            for file in counters:
                file.write(told_classes.numpy().tobytes())
            for write in writers:
                write(part, named)
            done += len(part)
            now = time.monotonic()
            if now - told > TOLD_EVERY and done < n:
                told = now
                print(f"{done:,} of {n:,} samples, {(n - done) * (now - begun) / done:.0f} s left", file=sys.stderr, flush=True)
    return [*files, *beside]


@contextmanager
def _writer(path: Path, n: int, model: Model) -> Iterator[Any]:
    if path.suffix == ".png":
        from rheos.cli.images import as_pixels, png, sheet
        from rheos.core.files import write_bytes

        kept: list[Tensor] = []
        yield lambda part, named: kept.append(part[: MOST_PICTURED - sum(map(len, kept))].clone())
        import torch

        write_bytes(path, png(sheet(as_pixels(torch.cat(kept), model.transform.bounds, model.card.get("data", "")))))
        return
    with _growing(path) as file:
        if path.suffix == ".npy":
            file.write(_npy_header(str(model.field.like.dtype).removeprefix("torch."), (n, *model.event)))
            yield lambda part, named: file.write(part.contiguous().numpy().tobytes())
        else:
            column = model.card.get("label_column")
            labelled = column is not None and model.classes is not None
            file.write(_joined(model.encoding.header(), [str(column)] if labelled else None).encode())
            yield lambda part, named: file.write(_joined(model.encoding.text(part), named).encode())


def _joined(text: str, cells: list[str] | None) -> str:
    """Lines of CSV with one more cell each."""
    if cells is None:
        return text
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([*row, cell] for row, cell in zip(csv.reader(io.StringIO(text)), cells, strict=True))
    return out.getvalue()


def _npy_header(kind: str, shape: tuple[int, ...]) -> bytes:
    import numpy as np

    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": np.lib.format.dtype_to_descr(np.dtype(kind)), "fortran_order": False, "shape": shape})
    return buffer.getvalue()


@contextmanager
def _growing(path: Path) -> Iterator[BinaryIO]:
    """A file that is written bit by bit under a temporary name and takes its own at the end; nothing is left of it if that does not come."""
    new = [folder for folder in path.absolute().parents if not folder.exists()]      # the innermost first
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
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        for folder in new:
            with suppress(OSError):         # somebody else's file is in it
                folder.rmdir()
        if isinstance(error, OSError) and error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
