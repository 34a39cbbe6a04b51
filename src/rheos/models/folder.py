"""The folder of a model: one safetensors file, named by its content, and a model.json that points at it."""
from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import Any

from torch import Tensor

from rheos.core.files import save_json, tensor_bytes, write_bytes

__all__ = ["write_model"]


def write_model(folder: str | FilePath, tensors: Mapping[str, Tensor], described: Mapping[str, Any]) -> FilePath:
    """Write both files, model.json with the keys `tensors` and `sha256` beside those of `described`; the old model stays good until then.

    TypeError or ValueError, before anything is written, for a description that is not JSON.
    """
    folder = FilePath(folder)
    json.dumps(described, allow_nan=False)
    content = tensor_bytes(tensors)
    digest = hashlib.sha256(content).hexdigest()
    # The tensors' file is named by its content, so that model.json, replaced in one move, always points at the right one.
    name = f"model-{digest[:12]}.safetensors"
    write_bytes(folder / name, content)
    save_json(folder / "model.json", {**described, "tensors": name, "sha256": digest})
    for old in folder.glob("model-*.safetensors"):
        if old.name != name:
            old.unlink(missing_ok=True)
    return folder
