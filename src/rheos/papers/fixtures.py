"""Fixtures: what is dear to make and the same every time (a teacher, reference data), kept on disk by a hash of what made it.

A claim asks for a fixture by name with a function that builds it. The first call builds and stores; later ones, in any process, read.
The CPU seconds of the build are kept with the tensors, so that a claim's own cost and its fixtures' are counted apart.
"""
from __future__ import annotations

import hashlib
import inspect
import json
import os
import re
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

import rheos
from rheos.core import raising_interrupts
from rheos.core.folders import cache_folder
from rheos.papers.sources import code_hash

__all__ = ["Fixture", "cache_folder", "fixture", "ledger"]

FORMAT = 1
_USED: ContextVar[list[Fixture] | None] = ContextVar("fixtures used", default=None)


@dataclass(frozen=True, eq=False)
class Fixture:
    """A dict of tensors, where it is kept and what it cost.

    tensors: by name, on the CPU, without gradients. seconds: CPU seconds of the build that made them, whenever that was.
    spent:   CPU seconds of this very call. cached: whether it was read instead of built. file: where it lies.
    """

    name: str
    tensors: Mapping[str, Tensor]
    seconds: float
    spent: float
    cached: bool
    file: Path

    def __getitem__(self, key: str) -> Tensor:
        return self.tensors[key]


@contextmanager
def ledger() -> Iterator[list[Fixture]]:
    """A list that fills with every fixture asked for inside the `with`; what a fixture's build asks for counts as part of it."""
    used: list[Fixture] = []
    token = _USED.set(used)
    try:
        yield used
    finally:
        _USED.reset(token)


def fixture(name: str, build: Callable[..., Mapping[str, Tensor]], **arguments: object) -> Fixture:
    """The tensors that `build(**arguments)` gives, from the cache when the same thing was built before.

    name:      lower case letters, digits, "_" and "-"; it begins the file's name.
    build:     a plain function written in a file, taking all it depends on as arguments and giving a non-empty dict of tensors.
    arguments: numbers, strings, booleans, None, and lists or tuples of them.

    The key is made of name, arguments, the source of `build`, the file it stands in with all code of rheos that this file imports (see
    `rheos.papers.sources`) and the version of rheos. A file that is damaged or of another making is built again and replaced. Ctrl-C during
    a build raises KeyboardInterrupt at once and nothing is kept: a training that ended early would be taken for a whole one ever after.
    ValueError for a name, function, argument or result of another kind; OSError when the cache cannot be written.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", name):
        raise ValueError(f"name must be of lower case letters, digits, '_' and '-', got {name!r}")
    begun = time.process_time()
    made_by = {"name": name, "arguments": _plain(arguments, "arguments"), "source": _source(build), "code": _code(build),
               "rheos": rheos.__version__}
    key = hashlib.sha256(json.dumps(made_by, sort_keys=True).encode()).hexdigest()
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)            # before the build: a folder that cannot be written should not cost the build
    file = folder / f"{name}-{key[:20]}.safetensors"
    kept = _load(file, key)
    if kept is None:
        token = _USED.set(None)
        try:
            started = time.process_time()
            with raising_interrupts():
                built = build(**arguments)
            seconds = time.process_time() - started
        finally:
            _USED.reset(token)
        tensors = _checked(name, built)
        _save(file, key, tensors, seconds, made_by)
    else:
        tensors, seconds = kept
    result = Fixture(name, tensors, seconds, time.process_time() - begun, kept is not None, file)
    used = _USED.get()
    if used is not None:
        used.append(result)
    return result


def _plain(value: object, where: str) -> object:
    """The value as JSON holds it, if it is of a kind whose text says all about it."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float) and value == value and abs(value) != float("inf"):
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise ValueError(f"{where} must have strings as keys, got {list(value)}")
        return {key: _plain(item, f"{where}.{key}") for key, item in value.items()}
    raise ValueError(f"{where} must be finite numbers, strings, booleans, None or lists of them, got {value!r}")


def _source(build: Callable[..., object]) -> str:
    build = inspect.unwrap(build)                        # a type checker's wrapper is no part of what builds
    if not inspect.isfunction(build) or build.__name__ == "<lambda>":
        raise ValueError(f"build must be a function written with def, got {build!r}")
    if build.__closure__:
        outside = list(build.__code__.co_freevars)
        raise ValueError(f"build must take all it depends on as arguments, but {build.__name__} also uses {outside}")
    try:
        return textwrap.dedent(inspect.getsource(build))
    except (OSError, TypeError) as error:
        raise ValueError(f"build must be written in a file, but the source of {build.__name__} cannot be read") from error


def _code(build: Callable[..., object]) -> str:
    """Hash of the file that `build` stands in and of all code behind it. The function knows its file; a claim's module has no other name for it."""
    file = Path(inspect.unwrap(build).__code__.co_filename)
    try:
        return code_hash(file)
    except OSError as error:
        raise ValueError(f"build must be written in a file, but {file} cannot be read") from error


def _checked(name: str, built: object) -> dict[str, Tensor]:
    """The build's result as a load would give it, or what is wrong with it."""
    if not isinstance(built, Mapping) or not built or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in built.items()):
        raise ValueError(f"build must give a non-empty dict of tensors by name, got {type(built).__name__} for the fixture {name!r}")
    return {key: tensor.detach().to("cpu").contiguous().clone() for key, tensor in built.items()}


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for key in sorted(tensors):
        tensor = tensors[key]
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _save(file: Path, key: str, tensors: dict[str, Tensor], seconds: float, made_by: dict[str, object]) -> None:
    about = {"format": FORMAT, "key": key, "digest": _digest(tensors), "seconds": seconds, **made_by}
    temporary = file.with_name(f".{file.name}.{os.getpid()}.{os.urandom(4).hex()}")
    try:
        content = safetensors.torch.save(tensors, metadata={"rheos": json.dumps(about, sort_keys=True)})
        with open(temporary, "wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)


def _load(file: Path, key: str) -> tuple[dict[str, Tensor], float] | None:
    """Tensors and build seconds, or None when there is no file or not the one that was written."""
    if not file.exists():
        return None
    try:
        with safetensors.safe_open(file, framework="pt", device="cpu") as content:
            about = json.loads((content.metadata() or {})["rheos"])
            tensors = {name: content.get_tensor(name).clone() for name in content.keys()}
        if about["format"] == FORMAT and about["key"] == key and about["digest"] == _digest(tensors):
            return tensors, float(about["seconds"])
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError):
        pass            # damaged: the caller builds it again, which is what a cache is for
    return None
