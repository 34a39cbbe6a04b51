"""What every dynamics must show, line by line. A class that cannot meet a line declares it:
`exempt = {"keeps shapes": "the history grows"}`; an undeclared failure fails, and so does a declared one that passes.
"""
from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from rheos.core import Example, evolve, load_state, save_state
from rheos.core.states import flatten, same

__all__ = ["LINES", "Line", "check_dynamics", "hold", "require", "rows"]

Make = Callable[[], Example]


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of a suite: a name and a check that takes a maker of fresh, equal subjects and raises AssertionError."""

    name: str
    check: Callable[[Callable[[], Any]], None]


def require(condition: bool, message: str) -> None:
    """AssertionError with the message unless the condition holds."""
    # Not `assert`: the suite is public and must also work under python -O.
    if not condition:
        raise AssertionError(message)


def _equal(a: Any, b: Any, what: str) -> None:
    difference = same(a, b)
    require(difference is None, f"{what}: {difference}")


def _whole(make: Make) -> Any:
    example = make()
    return evolve(example.dynamics, example.start, example.steps)


def split_is_whole(make: Make) -> None:
    """A run cut in two ends where the whole run ends, to the bit."""
    whole = _whole(make)
    for cut in {1, make().steps // 2, make().steps - 1} - {0, make().steps}:
        example = make()
        half = evolve(example.dynamics, example.start, cut)
        _equal(evolve(example.dynamics, half, example.steps - cut), whole, f"a run cut at step {cut} differs from the whole run")


def resumed_is_whole(make: Make) -> None:
    """A run saved to disk and taken up by a fresh object ends where the whole run ends, to the bit."""
    whole, example = _whole(make), make()
    cut = max(1, example.steps // 2)
    with tempfile.TemporaryDirectory() as folder:
        path = save_state(Path(folder) / "state.safetensors", evolve(example.dynamics, example.start, cut))
        fresh = make()
        state = load_state(path, fresh.start)
    _equal(evolve(fresh.dynamics, state, fresh.steps - cut), whole, f"a run resumed at step {cut} in a fresh object differs from the whole run")


def settings_unchanged(make: Make) -> None:
    """`step` leaves the dataclass of settings as it was."""
    example = make()
    require(dataclasses.is_dataclass(example.dynamics), "a dynamics must be a dataclass of settings")
    require(example.dynamics.__dataclass_params__.frozen, "a dynamics must be a frozen dataclass")
    before = _settings(make().dynamics)
    evolve(example.dynamics, example.start, example.steps)
    after = _settings(example.dynamics)
    changed = [name for name in before if before[name] != after[name]]
    require(not changed, f"step changed the settings {changed}")


def _settings(dynamics: Any) -> dict[str, Any]:
    return {f.name: _print(getattr(dynamics, f.name)) for f in dataclasses.fields(dynamics) if not f.name.startswith("_")}


def _print(value: Any) -> Any:
    """Something comparable that stands for a setting; what cannot be looked into (a function) stands for itself by name."""
    if isinstance(value, torch.nn.Module):
        return [(k, v.tolist()) for k, v in value.state_dict().items()]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return type(value).__qualname__, _settings(value)
    if isinstance(value, dict):
        return {k: _print(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_print(v) for v in value]
    if isinstance(value, torch.Tensor):
        return value.dtype, value.tolist()
    return getattr(value, "__qualname__", None) or (repr(value) if isinstance(value, int | float | str | None) else type(value).__qualname__)


def start_unchanged(make: Make) -> None:
    """`evolve` leaves the caller's state as it was."""
    example = make()
    evolve(example.dynamics, example.start, example.steps)
    _equal(example.start, make().start, "evolve changed the caller's state")


def examples_repeat(make: Make) -> None:
    """`examples()` is deterministic, and two runs of equal examples are equal."""
    _equal(make().start, make().start, "two calls of examples() differ")
    _equal(_whole(make), _whole(make), "two runs of the same example differ")


def keeps_kinds(make: Make) -> None:
    """Tensors keep dtype, device and shape; a step adds one to the step number, or time goes on where events set the pace."""
    example = make()
    tensors = flatten(example.start)[1]
    end = evolve(example.dynamics, example.start, example.steps)
    for path, after in flatten(end)[1].items():
        if path in tensors:
            before = tensors[path]
            for kind in ("dtype", "device", "shape"):
                a, b = getattr(before, kind), getattr(after, kind)
                require(a == b, f"{path} changed its {kind} from {a} to {b}")
    require(end.step == example.start.step + example.steps, f"{example.steps} steps took the step number from {example.start.step} to {end.step}")


def stays_finite(make: Make) -> None:
    """No tensor of the end state holds nan or inf."""
    for path, value in flatten(_whole(make))[1].items():
        require(bool(torch.isfinite(value).all()), f"{path} is not finite after {make().steps} steps")


def gives_the_answer(make: Make) -> None:
    """Where the example knows the answer, the run gives it."""
    example = make()
    if example.answer is not None:
        value, truth = example.answer(evolve(example.dynamics, example.start, example.steps))
        gap = float((torch.as_tensor(value) - torch.as_tensor(truth)).detach().abs().max())
        require(gap <= example.tolerance, f"the end is {gap:.3g} away from the answer, more than {example.tolerance:g}")


def moves(make: Make) -> None:
    """The run goes somewhere: a step that does nothing would meet every other line."""
    example = make()
    end = evolve(example.dynamics, example.start, example.steps)
    before, after = flatten(example.start)[1], flatten(end)[1]
    moved = before.keys() != after.keys() or any(before[k].shape != after[k].shape or not torch.equal(before[k], after[k]) for k in before)
    numbers = lambda tree: str(tree).replace(f"'step', {end.step}", "'step', _").replace(f"'step', {example.start.step}", "'step', _")
    require(moved or numbers(flatten(example.start)[0]) != numbers(flatten(end)[0]), "nothing but the step number has changed")


LINES: tuple[Line, ...] = (
    Line("examples repeat", examples_repeat),
    Line("split run = whole run", split_is_whole),
    Line("resumed run = whole run", resumed_is_whole),
    Line("settings unchanged", settings_unchanged),
    Line("start unchanged", start_unchanged),
    Line("keeps dtype, device, shape", keeps_kinds),
    Line("stays finite", stays_finite),
    Line("moves", moves),
    Line("gives the answer", gives_the_answer),
)


def rows(found: Sequence[tuple[type, int, Example]], lines: Sequence[Line] = LINES) -> list[tuple[str, type, int, Line]]:
    """The table of the suite: (label, class, example number, line), one row a test."""
    return [(f"{cls.__name__}[{example.name or number}] {line.name}", cls, number, line) for cls, number, example in found for line in lines]


def check_dynamics(cls: type, number: int = 0, lines: Sequence[Line] = LINES) -> None:
    """Run `lines` on example `number` of `cls`. AssertionError that names the line which does not hold, or which is exempt and does."""
    require(cls.examples()[number].steps >= 3, f"{cls.__name__}, example {number}: examples need 3 steps or more, or a cut run is a whole one")
    hold(f"{cls.__name__}, example {number}", lambda: cls.examples()[number], lines, getattr(cls, "exempt", {}), known=LINES)


def hold(name: str, make: Callable[[], Any], lines: Sequence[Line], exempt: Mapping[str, str], *, known: Sequence[Line]) -> None:
    """Run `lines` on what `make` makes: AssertionError that names the line which does not hold, or which is declared exempt and does."""
    unknown = set(exempt) - {line.name for line in known}
    require(not unknown, f"{name}: exempt names unknown lines {sorted(unknown)}")
    for line in lines:
        try:
            line.check(make)
        except Exception as error:      # a method that raises does not meet the line either
            if line.name not in exempt:
                what = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
                raise AssertionError(f"{name}, {line.name}: {what}") from error
        else:
            require(line.name not in exempt, f"{name} declares itself exempt from {line.name!r} but meets it")
