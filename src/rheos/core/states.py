"""States: what they may hold, how they are copied, and how they become one JSON text and a dictionary of tensors, and back.

A state is a dataclass of tensors, numbers, text, modules, optimisers, generators, and lists, tuples, deques, dictionaries and
dataclasses of those. A field made with `shared()` (data, a frozen teacher) is passed on by reference and never saved.
"""
from __future__ import annotations

import copy
import dataclasses
import math
from collections import deque
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

__all__ = ["copy_state", "flatten", "restore", "same", "shared"]


def shared(**options: Any) -> Any:
    """A dataclass field that copies of the state refer to instead of copying, and that checkpoints leave out."""
    return dataclasses.field(metadata={"shared": True}, **options)


def _fields(value: Any) -> tuple[dataclasses.Field, ...]:
    return dataclasses.fields(value)


def _is_shared(item: dataclasses.Field) -> bool:
    return bool(item.metadata.get("shared"))


def copy_state(state: Any, memo: dict | None = None) -> Any:
    """A state that can be changed without touching `state`: tensors cloned with their graph, modules and optimisers copied together."""
    if memo is None:
        memo = {}
        _copy_learners(state, memo)
    if id(state) in memo:
        return memo[id(state)]
    if isinstance(state, nn.Module | Optimizer):
        return copy.deepcopy(state, memo)      # one memo: the copied optimiser points at the copied parameters
    if isinstance(state, nn.Parameter):
        return copy.deepcopy(state, memo)      # a parameter is a place where learning happens, not a point of a graph
    if isinstance(state, Tensor):
        made: Any = state.clone()
    elif isinstance(state, torch.Generator):
        made = torch.Generator(state.device)
        made.set_state(state.get_state())
    elif dataclasses.is_dataclass(state) and not isinstance(state, type):
        made = copy.copy(state)
        memo[id(state)] = made
        for item in _fields(state):
            value = getattr(state, item.name)
            object.__setattr__(made, item.name, value if _is_shared(item) else copy_state(value, memo))
        return made
    elif isinstance(state, dict):
        made = type(state)((k, copy_state(v, memo)) for k, v in state.items())
    elif isinstance(state, deque):
        made = deque((copy_state(v, memo) for v in state), state.maxlen)
    elif isinstance(state, tuple) and hasattr(state, "_fields"):
        made = type(state)(*(copy_state(v, memo) for v in state))
    elif isinstance(state, list | tuple | set):
        made = type(state)(copy_state(v, memo) for v in state)
    else:
        return copy.deepcopy(state, memo)
    memo[id(state)] = made
    return made


def _copy_learners(state: Any, memo: dict) -> None:
    """Copy modules and optimisers first: what an optimiser moves must be the copy's own leaf, wherever else the state holds it."""
    if isinstance(state, nn.Module | Optimizer):
        copy.deepcopy(state, memo)
    elif dataclasses.is_dataclass(state) and not isinstance(state, type):
        for item in _fields(state):
            if not _is_shared(item):
                _copy_learners(getattr(state, item.name), memo)
    elif isinstance(state, dict):
        for value in state.values():
            _copy_learners(value, memo)
    elif isinstance(state, list | tuple | deque):
        for value in state:
            _copy_learners(value, memo)


def flatten(state: Any) -> tuple[Any, dict[str, Tensor]]:
    """(tree, tensors): a JSON-able description of `state` in which every tensor is named by its field path, and those tensors."""
    tensors: dict[str, Tensor] = {}
    return _describe(state, "", tensors), tensors


def _describe(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    def inside(name: Any, item: Any) -> Any:
        return _describe(item, f"{path}.{name}" if path else str(name), tensors)

    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Tensor):
        return {"tensor": _keep(value, path, tensors)}
    if isinstance(value, np.ndarray):
        return {"array": _keep(torch.from_numpy(np.ascontiguousarray(value)), path, tensors)}
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else {"float": repr(float(value))}
    if isinstance(value, complex):
        return {"complex": [repr(value.real), repr(value.imag)]}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, torch.Generator):
        return {"generator": _keep(value.get_state(), path, tensors)}
    if isinstance(value, nn.Module):
        return {"module": [[k, inside(k, v)] for k, v in value.state_dict().items()]}
    if isinstance(value, Optimizer):
        kept = value.state_dict()
        return {"optimizer": [[k, inside(k, kept[k])] for k in ("state", "param_groups")]}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kept = [item for item in _fields(value) if not _is_shared(item)]
        return {"dataclass": type(value).__qualname__, "fields": [[f.name, inside(f.name, getattr(value, f.name))] for f in kept]}
    if isinstance(value, dict):
        odd = [k for k in value if not isinstance(k, str | int | float | bool | None)]
        if odd:
            raise TypeError(f"state field {path or '(root)'} has the key {odd[0]!r}; keys must be text or numbers to be saved")
        return {"dict": [[k, inside(k, v)] for k, v in value.items()]}
    if isinstance(value, deque):
        return {"deque": [inside(i, v) for i, v in enumerate(value)], "maxlen": value.maxlen}
    if isinstance(value, list | tuple):
        return {type(value).__name__ if type(value) in (list, tuple) else "tuple": [inside(i, v) for i, v in enumerate(value)]}
    raise TypeError(f"state field {path or '(root)'} holds a {type(value).__name__}, which cannot be saved; make the field shared() or use tensors and numbers")


def _keep(value: Tensor, path: str, tensors: dict[str, Tensor]) -> str:
    """Put a tensor away under its path; two fields whose paths read alike (1 and "1", a.b and a["b"]) get names of their own."""
    if value.layout != torch.strided:
        raise TypeError(f"state field {path or '(root)'} holds a {value.layout} tensor, which cannot be saved; keep its parts as dense tensors")
    while path in tensors:
        path += "'"
    tensors[path] = value
    return path


def restore(tree: Any, tensors: dict[str, Tensor], template: Any) -> Any:
    """The state that `flatten` described, built in `template`: a fresh state of the same kind, whose modules and shared fields are used.

    ValueError that names the field where `template` and the description differ.
    """
    device = next((t.device for t in flatten(template)[1].values()), torch.device("cpu"))
    return _rebuild(tree, tensors, template, "", device)


def _rebuild(tree: Any, tensors: dict[str, Tensor], template: Any, path: str, device: torch.device) -> Any:
    def inside(name: Any, item: Any, like: Any) -> Any:
        return _rebuild(item, tensors, like, f"{path}.{name}" if path else str(name), device)

    def differ(found: str) -> ValueError:
        return ValueError(f"saved state differs at {path or '(root)'}: the file has {found}, this run has {_kind(template)}")

    if not isinstance(tree, dict):
        return tree
    kind, content = next(iter(tree.items()))
    if kind == "tensor":
        saved = tensors[content]
        if isinstance(template, Tensor):
            if template.dtype != saved.dtype or template.shape != saved.shape:
                raise differ(_kind(saved))
            return saved.to(template.device).requires_grad_(template.requires_grad)
        return saved.to(device)
    if kind == "array":
        return tensors[content].numpy()
    if kind == "float":
        return float(content)
    if kind == "complex":
        return complex(*map(float, content))
    if kind == "dtype":
        found = getattr(torch, content)
        if not isinstance(found, torch.dtype):
            raise TypeError(f"{content} is not a dtype")
        return found
    if kind == "generator":
        made = torch.Generator(template.device if isinstance(template, torch.Generator) else "cpu")
        made.set_state(tensors[content])
        return made
    if kind == "module":
        if not isinstance(template, nn.Module):
            raise differ("a module")
        try:
            template.load_state_dict({k: inside(k, v, None) for k, v in content})
        except RuntimeError as error:
            raise ValueError(f"saved state differs at {path or '(root)'}: {' '.join(str(error).split())}") from None
        return template
    if kind == "optimizer":
        if not isinstance(template, Optimizer):
            raise differ("an optimiser")
        try:
            template.load_state_dict({k: inside(k, v, None) for k, v in content})
        except (ValueError, KeyError) as error:
            raise ValueError(f"saved state differs at {path or '(root)'}: {error}") from None
        _lay_out(template)
        return template
    if kind == "dataclass":
        if not dataclasses.is_dataclass(template) or type(template).__qualname__ != content:
            raise differ(f"a {content}")
        names = {item.name for item in _fields(template) if not _is_shared(item)}
        saved = dict(tree["fields"])
        if set(saved) != names:
            raise ValueError(f"saved state differs at {path or '(root)'}: fields {sorted(set(saved) ^ names)} are on one side only")
        made = copy.copy(template)
        for name, item in saved.items():
            object.__setattr__(made, name, inside(name, item, getattr(template, name)))
        return made
    if kind == "dict":
        like = template if isinstance(template, dict) else {}
        return {k: inside(k, v, like.get(k)) for k, v in content}
    like = list(template) if isinstance(template, list | tuple | deque) else []
    items = [inside(i, v, like[i] if i < len(like) else None) for i, v in enumerate(content)]
    if kind == "deque":
        return deque(items, tree["maxlen"])
    if kind == "tuple":
        return type(template)(*items) if isinstance(template, tuple) and hasattr(template, "_fields") else tuple(items)
    if kind == "list":
        return items
    raise ValueError(f"saved state has an unknown entry {kind!r} at {path or '(root)'}")


def _kind(value: Any) -> str:
    return f"a tensor {tuple(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else "nothing" if value is None else f"a {type(value).__name__}"


def same(a: Any, b: Any) -> str | None:
    """None if two states are equal to the bit (not-a-number equals itself), else the path of the first difference."""
    (tree_a, tensors_a), (tree_b, tensors_b) = flatten(a), flatten(b)
    for path in sorted(set(tensors_a) | set(tensors_b)):
        if path not in tensors_a or path not in tensors_b:
            return f"{path} is on one side only"
        x, y = tensors_a[path].detach(), tensors_b[path].detach()
        if x.dtype != y.dtype or x.shape != y.shape:
            return f"{path} is {x.dtype} {tuple(x.shape)} on one side, {y.dtype} {tuple(y.shape)} on the other"
        if not bool(((x == y) | ((x != x) & (y != y))).all()):
            gap = (x.to(torch.complex128) - y.to(torch.complex128)).abs().max().item()
            return f"{path} differs, by at most {gap:.3g}"
    return None if tree_a == tree_b else f"numbers or structure differ: {_first_difference(tree_a, tree_b)}"


def _first_difference(a: Any, b: Any, path: str = "") -> str:
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        a, b = list(a.values()), list(b.values())
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return next(_first_difference(x, y, f"{path}/{i}") for i, (x, y) in enumerate(zip(a, b, strict=True)) if x != y)
    return f"{path or '/'}: {a!r} and {b!r}"


def _lay_out(optimizer: Optimizer) -> None:
    """Give what an optimiser keeps the memory order of its parameters (channels last, say): in another order sums round otherwise."""
    for parameter, kept in optimizer.state.items():
        for name, value in kept.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                kept[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
