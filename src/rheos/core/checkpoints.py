"""Checkpoints: a whole state in one safetensors file, its numbers and structure as JSON text in the file's metadata.

One file, written under a temporary name and renamed, so that a crash leaves the old one good. The state is restored into a fresh
one of the same settings, so nothing in a file can name code to run.
"""
from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from rheos.core import checks
from rheos.core.files import load_tensors, save_tensors
from rheos.core.states import flatten, restore

__all__ = ["Checkpoint", "latest_checkpoint", "load_state", "save_state"]

FORMAT = 1
S = TypeVar("S")


def save_state(path: str | Path, state: Any, *, about: Mapping[str, Any] | None = None) -> Path:
    """Write `state` to one file. about: what the run is (settings, a hash of its data; JSON-able), for `load_state` to compare.

    TypeError that names a field which cannot be saved.
    """
    import rheos

    tree, tensors = flatten(state)
    waves = [name for name, value in tensors.items() if value.is_complex()]      # safetensors knows real numbers only
    header = {"format": FORMAT, "rheos": rheos.__version__, "torch": torch.__version__, "step": state.step, "complex": waves, "about": dict(about or {}),
              "state": tree}
    real = {name: torch.view_as_real(value.resolve_conj()) if value.is_complex() else value for name, value in tensors.items()}
    return save_tensors(path, real, {"rheos": json.dumps(header, allow_nan=False)})


def load_state(path: str | Path, template: S, *, about: Mapping[str, Any] | None = None) -> S:
    """The state saved in `path`, built in `template` (a fresh state of the same settings, used up).

    about: what this run is; ValueError that names the settings in which the run that saved the file was another one.
    FileNotFoundError if it is not there; ValueError that names the file if it is damaged, of another format, or does not fit.
    """
    tensors, metadata = load_tensors(path)
    try:
        header = json.loads(metadata["rheos"])
        tree, form, waves, told = header["state"], header["format"], header["complex"], header["about"]
    except (KeyError, TypeError, json.JSONDecodeError):
        raise ValueError(f"{path} is not a rheos checkpoint") from None
    if form != FORMAT:
        raise ValueError(f"{path} has checkpoint format {form}, this version of rheos reads {FORMAT}")
    if about is not None:
        now = json.loads(json.dumps(dict(about)))
        changed = [f"{name} was {told.get(name)!r}, is {now.get(name)!r}" for name in sorted({*told, *now}) if told.get(name) != now.get(name)]
        if changed:
            raise ValueError(f"{path} was saved by another run: {', '.join(changed)}")
    try:
        for name in waves:
            tensors[name] = torch.view_as_complex(tensors[name])
        state = restore(tree, tensors, template)
        checks.integer("its step", state.step, least=0)
        return state
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from None
    except (KeyError, AttributeError, StopIteration, RuntimeError, IndexError) as error:
        raise ValueError(f"{path} is damaged: {type(error).__name__} {error}") from None


def _numbered(folder: Path) -> list[tuple[int, Path]]:
    found = [(re.fullmatch(r"step-(\d+)\.safetensors", p.name), p) for p in folder.glob("step-*.safetensors")]
    return sorted((int(match[1]), path) for match, path in found if match)


def latest_checkpoint(folder: str | Path) -> Path | None:
    """The checkpoint of the highest step in `folder`, or None."""
    files = _numbered(Path(folder))
    return files[-1][1] if files else None


class Checkpoint:
    """A watcher that saves the state every `every` steps and when the run ends, keeping the last `keep` files in `folder`.

    about: what the run is, see `save_state`. saved: the last file written.
    """

    def __init__(self, folder: str | Path, every: int, *, keep: int = 2, about: Mapping[str, Any] | None = None):
        self.folder, self.about = Path(folder), about
        self.every, self.keep = checks.integer("every", every, least=1), checks.integer("keep", keep, least=1)
        self.saved: Path | None = None

    def begin(self, state: Any, steps: int | None) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.saved = None

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
        save_state(path, state, about=self.about)
        self.saved = path
        older = [p for number, p in _numbered(self.folder) if number < step]
        for old in older[: max(0, len(older) - self.keep + 1)]:
            old.unlink(missing_ok=True)
