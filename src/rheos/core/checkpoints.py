"""Checkpoints: a whole state in one safetensors file, its numbers and structure as JSON text in the file's metadata.

One file, written under a temporary name and renamed, so that a crash leaves the old one good. The state is restored into a fresh
one of the same settings, so nothing in a file can name code to run.
"""
from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, TypeVar

import torch

from rheos.core import checks
from rheos.core.files import load_tensors, save_tensors
from rheos.core.states import flatten, restore

__all__ = ["Checkpoint", "latest_checkpoint", "load_state", "save_state"]

FORMAT = 1
S = TypeVar("S")


def save_state(path: str | Path, state: Any) -> Path:
    """Write `state` to one file. TypeError that names a field which cannot be saved."""
    import rheos

    tree, tensors = flatten(state)
    waves = [name for name, value in tensors.items() if value.is_complex()]      # safetensors knows real numbers only
    header = {"format": FORMAT, "rheos": rheos.__version__, "torch": torch.__version__, "step": state.step, "complex": waves, "state": tree}
    real = {name: torch.view_as_real(value.resolve_conj()) if value.is_complex() else value for name, value in tensors.items()}
    return save_tensors(path, real, {"rheos": json.dumps(header, allow_nan=False)})


def load_state(path: str | Path, template: S) -> S:
    """The state saved in `path`, built in `template` (a fresh state of the same settings, used up).

    FileNotFoundError if it is not there; ValueError that names the file if it is damaged, of another format, or does not fit.
    """
    tensors, metadata = load_tensors(path)
    try:
        header = json.loads(metadata["rheos"])
        tree, form = header["state"], header["format"]
    except (KeyError, TypeError, json.JSONDecodeError):
        raise ValueError(f"{path} is not a rheos checkpoint") from None
    if form != FORMAT:
        raise ValueError(f"{path} has checkpoint format {form}, this version of rheos reads {FORMAT}")
    try:
        for name in header["complex"]:
            tensors[name] = torch.view_as_complex(tensors[name])
        return restore(tree, tensors, template)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    except (KeyError, TypeError, AttributeError, StopIteration) as error:
        raise ValueError(f"{path} is damaged: {type(error).__name__} {error}") from None


def _numbered(folder: Path) -> list[tuple[int, Path]]:
    found = [(re.fullmatch(r"step-(\d+)\.safetensors", p.name), p) for p in folder.glob("step-*.safetensors")]
    return sorted((int(match[1]), path) for match, path in found if match)


def latest_checkpoint(folder: str | Path) -> Path | None:
    """The checkpoint of the highest step in `folder`, or None."""
    files = _numbered(Path(folder))
    return files[-1][1] if files else None


class Checkpoint:
    """A watcher that saves the state every `every` steps and when the run ends, keeping the last `keep` files in `folder`."""

    def __init__(self, folder: str | Path, every: int, *, keep: int = 2):
        self.folder = Path(folder)
        self.every, self.keep = checks.integer("every", every, least=1), checks.integer("keep", keep, least=1)
        self.saved: Path | None = None

    def begin(self, state: Any, steps: int | None) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, step: int, state: Any) -> None:
        if step % self.every == 0:
            self._save(step, state)

    def end(self, state: Any, clean: bool = True) -> None:
        if clean:
            self._save(state.step, state)

    def _save(self, step: int, state: Any) -> None:
        path = self.folder / f"step-{step:09d}.safetensors"
        if self.saved == path:
            return
        save_state(path, state)
        self.saved = path
        older = [p for number, p in _numbered(self.folder) if number < step]
        for old in older[: max(0, len(older) - self.keep + 1)]:
            old.unlink(missing_ok=True)
