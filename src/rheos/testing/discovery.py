"""Finding what is to be tested: every public dynamics of a room, through its `examples()`."""
from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterable

import rheos
from rheos.core import Example

__all__ = ["discover", "public_dynamics"]


def public_dynamics(rooms: Iterable[str] | None = None) -> list[type]:
    """All public classes with a method `step(state)` that the rooms name in `__all__` (default: every room).

    A `step` of more arguments, such as that of a scheduler of diffusers, is another thing.
    """
    found: dict[str, type] = {}
    for room in rooms if rooms is not None else [r for r in rheos.ROOMS if r not in ("papers", "testing")]:
        module = importlib.import_module(f"rheos.{room}")
        for name in getattr(module, "__all__", ()):
            value = getattr(module, name)
            step = getattr(value, "step", None)
            if inspect.isclass(value) and callable(step) and not getattr(value, "_is_protocol", False) and len(inspect.signature(step).parameters) == 2:
                found[f"{value.__module__}.{value.__qualname__}"] = value
    return list(found.values())


def discover(rooms: Iterable[str] | None = None) -> list[tuple[type, int, Example]]:
    """(class, number, example) for every example of every public dynamics. TypeError for a class that gives none."""
    found = []
    for cls in public_dynamics(rooms):
        if not callable(getattr(cls, "examples", None)):
            raise TypeError(f"{cls.__module__}.{cls.__qualname__} is a public dynamics without examples(): the conformance suite cannot test it")
        made = cls.examples()
        if not made:
            raise TypeError(f"{cls.__module__}.{cls.__qualname__}.examples() is empty")
        found += [(cls, number, example) for number, example in enumerate(made)]
    return found
