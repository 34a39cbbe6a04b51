"""Text, from one file or a folder of text files, as windows of bytes."""
from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from rheos.core import checks
from rheos.data.cache import cached
from rheos.data.dataset import Dataset, divided, falls_below
from rheos.data.listing import files_below
from rheos.data.tokens import CODES, DEFAULT_CODE, Tokens

__all__ = ["SUFFIXES", "from_text", "windowed"]

SUFFIXES = (".txt", ".md", ".py", ".rst", ".tex", ".log", "")
FIRST_BYTES = 4096
LEAST_LENGTH, MOST_LENGTH = 8, 1024
MOST_NUMBERS = 2**32                # 16 GiB of float32
MARK = b"\xef\xbb\xbf"              # a byte order mark says only that the file is UTF-8


def from_text(path: str | Path, *, held_out: float = 0.1, length: int = 64, code: str = DEFAULT_CODE) -> Dataset:
    """Read a text file, or all files of a folder, sorted by relative path and joined, as windows of `length` bytes that do not overlap.

    x (n, channels, length), encoding `Tokens`; the last bytes that fill no window are left out. Windows are held out by the hash of their
    bytes, so equal windows stay together. length: 8 to 1024. code: "bits" or "onehot", see `Tokens`.
    ValueError, naming the file: not there, empty, not UTF-8 text, fewer than two windows, one byte value only.
    """
    path = Path(path)
    held_out = checks.between("held_out", held_out, 0.0, 1.0, high_open=True)
    if not LEAST_LENGTH <= checks.integer("length", length) <= MOST_LENGTH:
        raise ValueError(f"length must be from {LEAST_LENGTH} to {MOST_LENGTH}, got {length}")
    code = checks.one_of("code", code, CODES)
    if path.is_dir():
        files = {name: path / name for name in files_below(path)}
        if not files:
            raise ValueError(f"{path}: the folder holds no files")
        _glance(path, files)
    elif path.is_file():
        files = {path.name: path}
    else:
        raise ValueError(f"{path}: there is no such file")
    size = sum(os.path.getsize(file) for file in files.values())
    if size > MOST_NUMBERS:
        raise ValueError(f"{path}: {size:,} bytes of text do not fit into memory: give a part of it")
    found = cached("text", files, {"length": length}, lambda: ({"windows": _windows(path, files, length)}, {}))[0]["windows"]
    return windowed(path.resolve().name if path.is_dir() else path.stem, found, held_out, code, what="text by bytes", where=str(path))


def windowed(name: str, windows: UInt8[Tensor, "n length"], held_out: float, code: str, *, what: str, where: str) -> Dataset:
    """Windows of bytes as a Dataset with the encoding `Tokens`, held out by the hash of their bytes. what: for its meaning; where: its source.

    ValueError, naming `where`, for one byte value only, or more than memory holds.
    """
    alphabet = torch.zeros(256, dtype=torch.bool).index_fill_(0, windows.flatten().long(), True).nonzero().flatten().tolist()
    if len(alphabet) < 2:
        raise ValueError(f"{where}: holds one byte value only ({alphabet[0]}), so there is nothing to learn")
    tokens = Tokens(tuple(alphabet), windows.shape[1], code)
    if windows.numel() * tokens.channels > MOST_NUMBERS:
        raise ValueError(f"{where}: {windows.numel():,} bytes of text do not fit into memory as {tokens.channels} numbers each: give a part of it")
    meaning = f"{what}: windows of {tokens.length} bytes, each one of {len(alphabet)} values written as {tokens.channels} signs"
    return divided(name, tokens.encode(row.tobytes() for row in windows.numpy()), None, held_out, apart=falls_below(windows.float(), held_out),
                   encoding=tokens, source=where, meaning=meaning)


def _glance(path: Path, files: dict[str, Path]) -> None:
    """Refuse a folder of other things by the first bytes of its files, before all of them are read."""
    other = []
    for name, file in files.items():
        try:
            with open(file, "rb") as opened:
                if b"\0" in opened.read(FIRST_BYTES):
                    other.append(name)
        except OSError as error:
            raise ValueError(f"{file}: cannot be read ({error.strerror})") from error
    if other:
        raise ValueError(_others(path, files, other, "holds a zero byte"))


def _others(path: Path, files: dict[str, Path], other: list[str], why: str) -> str:
    kinds = Counter(Path(name).suffix or "no suffix" for name in other).most_common(5)
    return (f"{path}: {len(other):,} of {len(files):,} files are not text, {', '.join(f'{suffix} ({count:,})' for suffix, count in kinds)}; "
            f"the first, {other[0]}, {why}: put the text files into a folder of their own")


def _windows(path: Path, files: dict[str, Path], length: int) -> torch.Tensor:
    """(n, length) uint8."""
    parts, refused = [], []
    for name, file in files.items():
        try:
            content = file.read_bytes()
        except OSError as error:
            raise ValueError(f"{file}: cannot be read ({error.strerror})") from error
        why = _not_text(content)
        if why:
            refused.append((name, why))
        parts.append(content.removeprefix(MARK))
    if refused:
        name, why = refused[0]
        if path.is_file():
            raise ValueError(f"{path}: is not text: it {why}")
        raise ValueError(_others(path, files, [name for name, _ in refused], why))
    whole = b"".join(parts)
    if len(whole) < 2 * length:
        raise ValueError(f"{path}: needs at least two windows of {length} bytes, got {len(whole)} bytes"
                         + (": give a smaller --length" if len(whole) >= 2 * LEAST_LENGTH else ""))
    count = len(whole) // length
    return torch.frombuffer(bytearray(whole[: count * length]), dtype=torch.uint8).reshape(count, length)


def _not_text(content: bytes) -> str:
    """Why these bytes are no UTF-8 text; "" if they are."""
    if b"\0" in content:
        return f"holds a zero byte at {content.index(0):,}"
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        return f"is not UTF-8 at byte {error.start:,}"
    return ""
