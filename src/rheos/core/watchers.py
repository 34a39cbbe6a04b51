"""Watchers look at a run from outside: progress, figures by name, checkpoints, stopping. They never change the state."""
from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from rheos.core import checks
from rheos.core.extras import require
from rheos.core.files import write_bytes

__all__ = ["Progress", "StopWhen", "TensorBoard", "Trace"]

Figures = Mapping[str, Callable[[Any], Any]]


def _number(value: Any) -> float:
    return float(value.detach()) if isinstance(value, Tensor) else float(value)


class StopWhen:
    """Ends the run after the first step at which `predicate(state)` holds."""

    stops = True

    def __init__(self, predicate: Callable[[Any], bool]):
        self.predicate = predicate

    def __call__(self, step: int, state: Any) -> bool:
        return bool(self.predicate(state))


class Trace:
    """Keeps figures of the state by name, one row every `every` steps, in `.rows` and, with `path`, in a file of JSON lines.

    figures: name -> function of the state that returns a number. Numbers are read from the device only when a row is due.
    A resumed run drops the rows of the file that lie beyond the step it starts from, so no step is told twice.
    """

    def __init__(self, figures: Figures, *, every: int = 1, path: str | Path | None = None):
        self.figures, self.every = dict(figures), checks.integer("every", every, least=1)
        self.path = Path(path) if path is not None else None
        self.rows: list[dict[str, float]] = []
        self._file: Any = None

    def begin(self, state: Any, steps: int | None) -> None:
        self.rows = []
        if self.path is None:
            return
        if self.path.exists():
            kept = [row for row in read_rows(self.path) if row["step"] <= state.step]
            self.rows = kept
            write_bytes(self.path, "".join(_line(row) for row in kept).encode())
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self.path, "a", buffering=1, encoding="utf-8")

    def __call__(self, step: int, state: Any) -> None:
        if step % self.every:
            return
        row = {"step": step, **{name: _number(read(state)) for name, read in self.figures.items()}}
        self.rows.append(row)
        if self._file is not None:
            self._file.write(_line(row))

    def end(self, state: Any, clean: bool = True) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _line(row: Mapping[str, float]) -> str:
    return json.dumps({k: v if math.isfinite(v) else None for k, v in row.items()}) + "\n"


def read_rows(path: str | Path) -> list[dict[str, float]]:
    """The rows of a trace file. A last line cut short by a crash is left out; any other damage is a ValueError."""
    rows = []
    lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()     # what is not UTF-8 is not JSON either
    for number, line in enumerate(lines):
        try:
            row = {k: math.nan if v is None else v for k, v in json.loads(line).items()}
            if not all(type(v) in (int, float) for v in (row["step"], *row.values())):
                raise TypeError
            rows.append(row)
        except (json.JSONDecodeError, AttributeError, KeyError, TypeError) as error:
            if number + 1 < len(lines) or not isinstance(error, json.JSONDecodeError):
                raise ValueError(f"{path} is damaged at line {number + 1}") from None
    return rows


class Progress:
    """A bar with the time left on a terminal, a line now and then elsewhere. Writes to standard error.

    label: what is under way. figures: name -> function of the state, shown beside the bar. total: the step the run ends at,
    where `evolve` is not told the number of steps.
    """

    def __init__(self, label: str = "step", *, figures: Figures | None = None, total: int | None = None, seconds: float = 10.0):
        self.label, self.figures, self.total, self.seconds = label, dict(figures or {}), total, seconds
        self._bar: Any = None
        self._task: Any = None
        self._due = self._begun = 0.0
        self._from = 0

    def begin(self, state: Any, steps: int | None) -> None:
        if steps is not None:
            self.total = state.step + steps
        self._from, self._begun = state.step, time.monotonic()
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"),
                       TimeRemainingColumn(), TextColumn("{task.fields[figures]}"))
            self._bar = Bar(*columns, console=Console(stderr=True))
            self._bar.start()
            self._task = self._bar.add_task(self.label, total=self.total, completed=state.step, figures="")
        else:
            self._due = self._begun + self.seconds

    def __call__(self, step: int, state: Any) -> None:
        now = time.monotonic()
        if now < self._due:
            return
        shown = "  ".join(f"{name} {_number(read(state)):.4g}" for name, read in self.figures.items())
        if self._bar is not None:
            self._due = now + 0.1
            self._bar.update(self._task, completed=step, figures=shown)
            return
        self._due = now + self.seconds
        left = ""
        if self.total is not None and step > self._from:
            left = f", {(self.total - step) * (now - self._begun) / (step - self._from):.0f} s left"
        print(f"{self.label} {step}{'' if self.total is None else f' of {self.total}'}{left}  {shown}", file=sys.stderr, flush=True)

    def end(self, state: Any, clean: bool = True) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=state.step)
            self._bar.stop()
            self._bar = None


class TensorBoard:
    """Writes figures for TensorBoard into `folder` every `every` steps. Needs the extra [interop]."""

    def __init__(self, folder: str | Path, figures: Figures, *, every: int = 10):
        require("tensorboard", extra="interop")
        from torch.utils.tensorboard import SummaryWriter

        self.figures, self.every = dict(figures), checks.integer("every", every, least=1)
        self._writer = SummaryWriter(str(folder))

    def __call__(self, step: int, state: Any) -> None:
        if step % self.every == 0:
            for name, read in self.figures.items():
                self._writer.add_scalar(name, _number(read(state)), step)

    def end(self, state: Any, clean: bool = True) -> None:
        self._writer.flush()
