"""A thing has a state, a rule carries the state one step on: `Dynamics`, and the one loop that runs any of them, `evolve`."""
from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import repeat
from typing import Any, Protocol, TypeVar, runtime_checkable

from rheos.core import checks
from rheos.core.states import copy_state

__all__ = ["Dynamics", "Example", "NonFinite", "Watcher", "evolve", "raising_interrupts"]

S = TypeVar("S")


@runtime_checkable
class Dynamics(Protocol[S]):
    """Settings (a frozen dataclass) with a rule. `step` never prints, logs, saves or sleeps, and never changes the settings."""

    def step(self, state: S) -> S:
        """The state one step on. It may reuse the memory of `state`."""
        ...


@runtime_checkable
class Watcher(Protocol):
    """Called as `watcher(step, state)` after every step; a true result ends the run.

    It may also have `begin(state, steps)`, and `end(state, clean)`: clean is False if an error may have left the state half changed.
    """

    def __call__(self, step: int, state: Any) -> Any: ...


@dataclass(frozen=True, eq=False)
class Example:
    """What `examples()` of a public dynamics returns: an instance, a start, and how the truth is known, for the conformance suite.

    steps: how many steps the start is carried on. answer: end state -> (value, truth) tensors that must agree within `tolerance`.
    """

    dynamics: Any
    start: Any
    steps: int = 6
    answer: Callable[[Any], tuple[Any, Any]] | None = None
    tolerance: float = 1e-6
    name: str = ""


class NonFinite(ArithmeticError):
    """A run has left the finite numbers.

    step, figure, value: where and what. good: whether the state before that step is known to be finite (a solver that looks
    only now and then cannot say). After `evolve`: `state`, the last state, and `saved`, the file of the last good one, or None.
    """

    def __init__(self, step: int, figure: str, value: Any, *, good: bool = True):
        super().__init__(step, figure, value)
        self.step, self.figure, self.value, self.good = step, figure, value, good
        self.state: Any = None
        self.saved: str | None = None

    def __str__(self) -> str:
        what = f"{self.figure} is {self.value} at step {self.step}"
        if self.saved:
            return f"{what}; the last good state is saved in {self.saved}"
        return f"{what}; the last good state is in the error's .state" if self.good and self.state is not None else what


_RAISING: ContextVar[bool] = ContextVar("interrupts raise", default=False)


@contextmanager
def raising_interrupts() -> Iterator[None]:
    """Inside, Ctrl-C raises KeyboardInterrupt at once: for work whose half-finished result must not be taken for a whole one."""
    token = _RAISING.set(True)
    try:
        yield
    finally:
        _RAISING.reset(token)


class _Interrupt:
    """While it is entered, the first Ctrl-C only sets `hit` (the step under way is finished); the second one raises at once."""

    def __init__(self) -> None:
        self.hit = False
        self.outer: Any = None
        self.active = False

    def __call__(self, number: int, frame: Any) -> None:
        if self.hit:
            raise KeyboardInterrupt
        self.hit = True

    def __enter__(self) -> _Interrupt:
        if threading.current_thread() is threading.main_thread() and not _RAISING.get():
            self.outer = signal.getsignal(signal.SIGINT)
            # A program that ignores Ctrl-C, or handles it its own way, keeps doing so.
            if self.outer is signal.default_int_handler or isinstance(self.outer, _Interrupt):
                signal.signal(signal.SIGINT, self)
                self.active = True
        return self

    def __exit__(self, *error: Any) -> None:
        if self.active:
            signal.signal(signal.SIGINT, self.outer)
            if self.hit and isinstance(self.outer, _Interrupt):
                self.outer.hit = True      # a run inside a watcher of another run: both end


def evolve(
    dynamics: Dynamics[S],
    state: S,
    steps: int | None = None,
    *,
    until: Callable[[S], bool] | None = None,
    watch: Iterable[Watcher] = (),
    donate: bool = False,
) -> S:
    """Carry `state` on by `steps` steps, or until `until(state)` holds, whichever comes first, and return where it ended.

    The caller's state is never changed (it is copied once on entry) unless `donate` gives it away. Watchers are called after
    every step. Ctrl-C ends the run after the step under way and returns the state reached, with watchers closed as usual; its
    `state.step` tells how far it came (inside `raising_interrupts()` it
    raises instead). ValueError if nothing could end the run, TypeError if the state has no `step`.
    NonFinite passes through with the last good state attached.

    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Position:
    ...     x: float
    ...     step: int = 0
    >>> @dataclass(frozen=True)
    ... class Decay:
    ...     rate: float
    ...     def step(self, state):
    ...         return Position(state.x * (1 - self.rate), state.step + 1)
    >>> evolve(Decay(0.5), Position(8.0), 3)
    Position(x=1.0, step=3)
    """
    watchers = tuple(watch)
    if steps is not None:
        steps = checks.integer("steps", steps, least=0)
    elif until is None and not any(getattr(w, "stops", False) for w in watchers):
        raise ValueError("evolve needs steps, until or a StopWhen watcher, else the run would never end")
    if not callable(getattr(dynamics, "step", None)):
        raise TypeError(f"dynamics must have a step method, got {type(dynamics).__name__}")
    if not hasattr(state, "step"):
        raise TypeError(f"state must hold its step number in a field named step, got {type(state).__name__}")
    if not donate:
        state = copy_state(state)

    advance, ended, clean = dynamics.step, False, False
    failure: NonFinite | None = None
    try:
        # The stack closes every watcher that was opened, whatever another one raises.
        with _Interrupt() as interrupt, ExitStack() as closing:
            for watcher in watchers:
                if hasattr(watcher, "begin"):
                    watcher.begin(state, steps)
                if hasattr(watcher, "end"):
                    closing.callback(lambda end=watcher.end: end(state, clean))
            try:
                if until is None or not until(state):
                    for _ in repeat(None) if steps is None else repeat(None, steps):
                        state = advance(state)
                        if watchers:
                            number = state.step
                            for watcher in watchers:
                                if watcher(number, state):
                                    ended = True
                        if ended or interrupt.hit or (until is not None and until(state)):
                            break
                clean = True
            except NonFinite as error:
                clean, failure, error.state = error.good, error, state
                raise
        return state
    finally:
        if failure is not None:
            failure.saved = next((str(w.saved) for w in watchers if getattr(w, "saved", None)), None)
