"""Files that are either the old one or the new one, never half of either: temporary name, sync, rename. Tensors in safetensors, no pickle."""
from __future__ import annotations

import importlib
import json
import os
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

__all__ = ["load_json", "load_tensors", "rheos_class", "save_json", "save_tensors", "write_bytes"]


def write_bytes(path: str | Path, content: bytes) -> Path:
    """Replace `path` by `content` in one move. OSError if the folder cannot be written; then nothing has changed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)      # mkstemp makes private files
        os.replace(name, path)
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:       # a disk that is full does not say of what
            error.filename = str(path)
        raise
    return path


def save_json(path: str | Path, content: Any) -> Path:
    """Write `content` as JSON text, readable by people, in one move."""
    return write_bytes(path, (json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n").encode())


def load_json(path: str | Path) -> Any:
    """Read JSON. FileNotFoundError if it is not there, ValueError that names the file if it is not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged: not JSON ({error})") from None


def tensor_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """The safetensors file of `tensors`. Copies: safetensors refuses views of one storage, and a state may hold some."""
    whole = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    return safetensors_bytes(whole, dict(metadata or {}))


def save_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> Path:
    """Write tensors and string metadata as one safetensors file, in one move."""
    return write_bytes(path, tensor_bytes(tensors, metadata))


def load_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read (tensors, metadata). FileNotFoundError if it is not there, ValueError that names the file if it is damaged."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: not a safetensors file ({error})") from None


def rheos_class(name: Any, *, rooms: Collection[str]) -> type:
    """The class of a dotted name `rheos.<room>.<Class>` found in a file, if it is public in one of `rooms`; nothing else is even imported.

    ValueError for any other name.
    """
    parts = name.split(".") if isinstance(name, str) else []
    if len(parts) != 3 or parts[0] != "rheos" or parts[1] not in rooms:
        raise ValueError(f"class {name!r} in the file is not a rheos class of {' or '.join(sorted(rooms))}: only those are built from files; "
                         "pass your own object instead")
    module = importlib.import_module(f"rheos.{parts[1]}")
    found = getattr(module, parts[2], None) if parts[2] in module.__all__ else None
    if not isinstance(found, type) or not found.__module__.startswith("rheos."):
        raise ValueError(f"class {name!r} in the file does not exist in this version of rheos")
    return found
