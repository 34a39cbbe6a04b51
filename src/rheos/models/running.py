"""Carrying a prepared training run to its end, with checkpoints; and how many of its steps fit into a time. Whatever is trained."""
from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Iterable
from pathlib import Path as FilePath
from typing import Any, Protocol, runtime_checkable

import torch

from rheos.core import Checkpoint, Watcher, checks, evolve, latest_checkpoint, load_state, raising_interrupts
from rheos.training import Descent, DescentState

__all__ = ["MOST_TIMED", "Prepared", "carried", "fitting"]

TIMED_SHARE, LEAST_TIMED, MOST_TIMED = 0.02, 5, 50      # of a budget spent on timing; steps that are timed


@runtime_checkable
class Prepared(Protocol):
    """A training run that is ready to begin: the dynamics, its start, and what decides the run, JSON-able, for checkpoints to compare."""

    descent: Descent
    start: DescentState
    about: dict[str, Any]


def carried(run: Prepared, steps: int, *, checkpoint: str | FilePath | None = None, every: int = 500, resume: bool = False,
            watch: Iterable[Watcher] = ()) -> DescentState:
    """The state of `run` after `steps` steps, `run.start` given away. checkpoint, every, resume: as in `train`.

    A run that was stopped warns. ValueError and FileNotFoundError for a checkpoint folder that does not fit `resume`.
    """
    state, watchers = run.start, list(watch)
    found = None if checkpoint is None else latest_checkpoint(checkpoint)
    if resume:
        if checkpoint is None:
            raise ValueError("resume needs the folder of the run: pass checkpoint")
        if found is None:
            raise FileNotFoundError(f"{checkpoint} holds no checkpoint to resume from")
        state = load_state(found, state, about=run.about)
    elif found is not None:
        raise ValueError(f"checkpoint {checkpoint} holds a run already ({found.name}): pass resume=True to go on with it, or another folder")
    if checkpoint is not None:
        watchers.append(Checkpoint(checkpoint, every, about=run.about))
    end = evolve(run.descent, state, steps - state.step, watch=watchers, donate=True)
    if end.step < steps:
        warnings.warn(f"training was stopped at step {end.step} of {steps}; the model is what it was there", stacklevel=3)
    return end


def fitting(run: Prepared, budget: float) -> int:
    """How many steps of `run` fit into `budget` seconds, by timing a few on a copy, which are thrown away. At least 1.

    Seconds are of CPU time where one thread computes, by the clock elsewhere: what the run will take on a machine that does nothing else.
    The run must be prepared for more than `MOST_TIMED` + 1 steps. ValueError for a budget that is not positive.
    """
    begun, budget = time.monotonic(), checks.positive("budget", budget)
    on_cpu = next(run.start.net.parameters()).device.type == "cpu"

    def clock() -> float:
        # Of several threads nobody knows how many a step keeps busy.
        if on_cpu and torch.get_num_threads() == 1:
            return time.process_time()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.monotonic()

    with raising_interrupts():
        state = evolve(run.descent, run.start, 2)              # the first steps also set things up
        spent: list[float] = []
        while len(spent) < LEAST_TIMED or (len(spent) < MOST_TIMED and time.monotonic() - begun < TIMED_SHARE * budget):
            before = clock()
            state = evolve(run.descent, state, 1, donate=True)
            spent.append(clock() - before)
    return max(1, int(budget / statistics.median(spent)))
