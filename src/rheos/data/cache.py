"""Data that was read once is kept, by the content of what it was read from: the next reading takes the time of a hash."""
from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from rheos.core.files import load_tensors, save_tensors
from rheos.core.folders import cache_folder

__all__ = ["cached"]

LARGEST_BYTES = 2 * 1024**3         # what is larger is not kept: its files are the better copy
Parsed = tuple[dict[str, Tensor], dict[str, Any]]


def cached(name: str, parts: Mapping[str, Path], settings: Mapping[str, Any], build: Callable[[], Parsed]) -> Parsed:
    """What `build()` gives, a dict of tensors and a dict for JSON, from the cache if the same thing was built before.

    name:     begins the file's name: lower-case letters, digits and "-".
    parts:    the files that `build` reads, by the names that matter to it (such as paths relative to a folder).
    settings: how `build` reads them; numbers, strings, booleans, None and lists of them.

    The key is the SHA-256 of name, settings, and the names and bytes of the files. The file in `cache_folder()/data` also says by which
    code of this room it was made: of other code, damaged or of another key, it is built again and replaced. Without a place to write, or
    with more than 2 GiB, nothing is kept. ValueError that names the file if one of `parts` cannot be read.
    """
    key = _key(name, parts, settings)
    made_by = {"key": key, "code": _code()}
    try:
        file = cache_folder() / "data" / f"{name}-{key[:24]}.safetensors"
    except RuntimeError:            # no home folder
        return _plain(build())
    try:
        tensors, found = load_tensors(file)
        if {part: found.get(part) for part in made_by} == made_by:
            return tensors, json.loads(found["about"])
    except (OSError, ValueError, KeyError):
        pass
    tensors, about = _plain(build())
    if sum(t.numel() * t.element_size() for t in tensors.values()) <= LARGEST_BYTES:
        try:
            save_tensors(file, tensors, made_by | {"about": json.dumps(about, ensure_ascii=False, allow_nan=False)})
        except OSError:
            pass
    return tensors, about


def _plain(parsed: Parsed) -> Parsed:
    """The same through JSON, so that what is built and what is read back are alike (a tuple comes back as a list)."""
    tensors, about = parsed
    return tensors, json.loads(json.dumps(about, allow_nan=False))


def _key(name: str, parts: Mapping[str, Path], settings: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps([name, dict(settings)], sort_keys=True).encode())
    for part in sorted(parts):
        try:
            with open(parts[part], "rb") as file:
                inside = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise ValueError(f"{parts[part]}: cannot be read ({error.strerror})") from error
        digest.update(f"\0{len(part)}\0{part}\0{inside}".encode(errors="surrogateescape"))
    return digest.hexdigest()


@functools.cache
def _code() -> str:
    """Hash of the whole room: a reader leans on its neighbours (a table on its encoding, all on the division by content)."""
    room = Path(__file__).parent
    digest = hashlib.sha256()
    for file in sorted(room.rglob("*.py")):
        digest.update(f"\n{file.relative_to(room).as_posix()}\n".encode() + file.read_bytes())
    return digest.hexdigest()
