r"""Stream batch: requests at different levels of noise share one network call.

A run of n steps is n calls, one after the other. Where requests keep coming, the n - 1 on their way and the new one form a batch of n, each row at its
own level: one call a tick, each row a step on, the oldest leaves. Latency n ticks, throughput one request a call, and every request gets
the numbers that it would have got by itself.

Paper: Kodaira et al., StreamDiffusion: a pipeline-level solution for real-time interactive generation, 2023, arXiv:2312.12491.
"""
from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Inexact
from torch import Tensor

from rheos.core import Draws, NonFinite, checks
from rheos.paths import Coefficients, Field, Times
from rheos.paths.asking import evaluating
from rheos.samplers.tables import Rule, Table, planned

__all__ = ["StreamBatch", "StreamState"]


@dataclass
class StreamState:
    """The requests on their way, oldest first: x (requests, *event) or None, the level each has reached, its number and its condition.

    taken: requests so far. step: ticks so far.
    """

    x: Tensor | None = None
    levels: list[int] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    cond: Any = None
    taken: int = 0
    step: int = 0


class StreamBatch:
    """Requests stream through `rule`'s table, one field call a tick for all of them.

    field: what is asked, with a time a row. times: the levels of noise, from the first request's to the end, in the order of sampling; more
        than two, or there is nothing to share. rule: one evaluation a step and no history, such as `LCM()`, `DDIM()`, `DDPM(eta)` or `Euler()`; or a
        planned `Table` of that kind, which brings its times.
    seed: of all noise. Request r gets what row r of `sample(field, start=..., times=times, rule=rule, seed=seed)` gets. frozen: whether all requests get
        the noise of request 0, which keeps the frames of a video still where they do not change.

    Calling it with a frame (*event) noises the frame to the first level, ticks, and returns the request that has arrived, or None in the first n - 1
    ticks. `push` takes a start that is noisy already; `drain` gives what is still on its way. `state` is a dataclass of tensors and numbers that can be
    saved and set. No gradients are recorded.
    ValueError for rules with history, and for requests that are not finite or whose shape or condition differs from that of the ones on their way.
    An error moves nobody: whatever a push or a tick raises, the state is what it was before, and the same push may be tried again. NonFinite besides
    drops the requests whose numbers went astray, which it names, so that the others can go on.

    >>> import torch
    >>> from rheos.paths import Path
    >>> from rheos.samplers.exponential import DDIM
    >>> double = Field(lambda x, t, cond: x, Path.linear(), predicts="velocity")
    >>> stream = StreamBatch(double, Times.uniform(Path.linear(), 2), DDIM())
    >>> [stream.push(torch.tensor([z])) for z in (1.0, 3.0)], [x.item() for x in stream.drain()]         # (1 + 1/2) (1 + 1/2)
    ([None, tensor([2.2500])], [6.75])
    """

    def __init__(self, field: Field, times: Times | None = None, rule: Rule | Table | None = None, *, seed: int | Draws = 0, frozen: bool = False):
        if not isinstance(field, Field):
            raise TypeError(f"field must be a Field, got {type(field).__name__}")
        self.field, self.seed, self.frozen, self.table = field, Draws(Draws.of(seed).seed), checks.flag("frozen", frozen), _plan(times, rule)
        if self.table.times.path != field.path:
            raise ValueError(f"times were made for {self.table.times.path.schedule}, but the field lives on {field.path.schedule}")
        depth, name = self.table.depth, self.table.origin.get("rule", "this table")
        if depth != (1, 1) or any(row is not None for row in self.table.correct):
            raise ValueError(f"rule must have no history, so that requests at all levels can share a call; {name} looks back on {max(depth)} points"
                             f"{' and mends them' if any(self.table.correct) else ''}; use LCM, DDIM, DDPM or Euler")
        for number, value in enumerate(self.table.times.coefficients):
            if value.ndim > 1:
                raise ValueError(f"field must live on a path whose coordinates share their coefficients, got one of shape {tuple(value.shape)} ({number})")
        self._at = self.table.times.coefficients
        self.reset()

    def reset(self) -> None:
        """Forget all requests, and begin to count anew."""
        self.state = StreamState()

    @property
    def levels(self) -> int:
        """Ticks that a request takes."""
        return self.table.nfe

    def noised(self, frame: Inexact[Tensor, "*event"]) -> Inexact[Tensor, "*event"]:
        """`frame`, a sample of data, noised to the first level as the next request: alpha frame + sigma z."""
        checks.finite("frame", checks.tensor("frame", frame, floating=True))
        at, number = self.table.times.each[0], 0 if self.frozen else self.state.taken
        z = self.seed.rows("stream start", 0, (1, *frame.shape), first=number, dtype=frame.dtype, device=frame.device)[0]
        return frame * at.b + z * at.c

    def __call__(self, frame: Inexact[Tensor, "*event"], cond: Any = None) -> Inexact[Tensor, "*other"] | None:
        """Take a frame of data, tick, and return the request that has arrived, if one has. cond: its condition, without a batch axis."""
        return self.push(self.noised(frame), cond)

    def push(self, start: Inexact[Tensor, "*event"], cond: Any = None) -> Inexact[Tensor, "*other"] | None:
        """The same for a start that is at the first level of noise already."""
        state = self.state
        checks.finite("start", checks.tensor("start", start, floating=True))
        if state.x is not None and (start.shape != state.x.shape[1:] or start.dtype != state.x.dtype):
            raise ValueError(f"a request must be like those on their way, {tuple(state.x.shape[1:])} of {state.x.dtype}, "
                             f"got {tuple(start.shape)} of {start.dtype}")
        x = start[None].detach() if state.x is None else torch.cat([state.x, start[None].detach()])
        joined = _joined(state.cond, _row(cond, start), len(state.levels))
        return self._ticked(StreamState(x, [*state.levels, 0], [*state.numbers, state.taken], joined, state.taken + 1, state.step))

    def drain(self) -> Iterator[Inexact[Tensor, "*event"]]:
        """Tick until all requests have arrived, and give each."""
        while self.state.levels:
            arrived = self.tick()
            if arrived is not None:
                yield arrived

    def tick(self) -> Inexact[Tensor, "*event"] | None:
        """One field call: every request a level on. Returns the one that has arrived, if one has."""
        return None if self.state.x is None else self._ticked(self.state)

    @torch.no_grad()
    def _ticked(self, state: StreamState) -> Inexact[Tensor, "*event"] | None:
        """`tick` from `state`, which takes the place of the stream's own only when all has gone well."""
        table = self.table
        levels = torch.tensor(state.levels)
        at = Coefficients(*(value[levels] for value in self._at))
        with evaluating(getattr(self.field, "net", None)):
            known = self.field._ask(state.x, table.times.t[levels].to(state.x.real), state.cond, at)
        moved = [self._moved(state, row, known) for row in range(len(levels))]
        if not math.isfinite(abs(torch.stack([row.sum() for row in moved]).sum().item())):
            self._drop(state, [row for row, value in enumerate(moved) if not bool(torch.isfinite(value).all())])
        arrived = moved.pop(0)[0] if state.levels[0] + 1 == table.nfe else None         # the oldest is ahead of all others
        left = len(state.levels) - len(moved)
        self.state = StreamState(torch.cat(moved) if moved else None, [level + 1 for level in state.levels[left:]], state.numbers[left:],
                                 _kept(state.cond, slice(left, None)) if moved else None, state.taken, state.step + 1)
        return arrived

    def _drop(self, state: StreamState, bad: list[int]) -> None:
        """Raise NonFinite if there are bad rows, and keep the stream's requests without them; one that was to join them does not."""
        if not bad:
            return
        lost, own = [state.numbers[row] for row in bad], self.state
        keep = [row for row, number in enumerate(own.numbers) if number not in lost]
        self.state = StreamState(own.x[keep] if keep else None, [own.levels[row] for row in keep], [own.numbers[row] for row in keep],
                                 _kept(own.cond, keep) if keep else None, own.taken, own.step)
        raise NonFinite(state.step, f"request {lost[0]}" if len(lost) == 1 else f"each of the requests {lost}", "not finite")

    def _moved(self, state: StreamState, row: int, known: dict[str, Tensor]) -> Tensor:
        """Row `row` one level on, (1, *event): number by number as `Multistep` does it for a run by itself, so that not a bit is different."""
        table, level, x = self.table, state.levels[row], state.x[row : row + 1]
        step = table.predict[level]
        answer = self.field.path.prediction({kind: value[row : row + 1] for kind, value in known.items()}, x, table.times.each[level])
        value = table.told(answer, level)
        parts = [(weights[0], tensor) for weights, tensor in ((step.a, x), (step.w, value)) if weights and weights[0] != 0.0]
        moved = torch.zeros_like(x) if not parts else parts[0][1] * parts[0][0]
        for weight, tensor in parts[1:]:
            moved.add_(tensor, alpha=weight)
        if step.s:
            number = 0 if self.frozen else state.numbers[row]
            moved.add_(self.seed.rows("sampling noise", level, x.shape, first=number, device=x.device, dtype=x.dtype), alpha=step.s)
        return moved


def _plan(times: Times | None, rule: Rule | Table | None) -> Table:
    from rheos.samplers.consistency import LCM

    if isinstance(rule, Table):
        if times is not None:
            raise ValueError("a table brings its own times: leave times out")
        return rule
    if not isinstance(times, Times):
        raise TypeError(f"times must be a Times, got {type(times).__name__}; build one with Times(path, levels)")
    if isinstance(rule, type) or not callable(getattr(LCM() if rule is None else rule, "plan", None)):
        raise TypeError(f"rule must be a rule such as LCM() or DDIM(), or a Table, got {rule!r}")
    return planned(LCM() if rule is None else rule, times)


def _row(cond: Any, like: Tensor) -> Any:
    """A request's condition with a batch axis."""
    if cond is None:
        return None
    if isinstance(cond, dict):
        return {name: _row(value, like) for name, value in cond.items()}
    if isinstance(cond, bool) or not isinstance(cond, int | float | Tensor):
        raise TypeError(f"cond must be a Tensor, a dict of Tensors or one number, got {type(cond).__name__}")
    return torch.as_tensor(cond, device=like.device)[None]


def _joined(old: Any, new: Any, count: int) -> Any:
    if not count:
        return new
    if isinstance(old, dict) and isinstance(new, dict) and old.keys() == new.keys():
        return {name: _joined(old[name], new[name], count) for name in old}
    if old is None and new is None:
        return None
    if not isinstance(old, Tensor) or not isinstance(new, Tensor) or old.shape[1:] != new.shape[1:] or old.dtype != new.dtype:
        raise ValueError(f"cond must be like that of the requests on their way, {_told(old)}, got {_told(new)}")
    return torch.cat([old, new])


def _told(cond: Any) -> str:
    if isinstance(cond, dict):
        return f"a dict of {sorted(cond)}"
    return "none" if cond is None else f"{tuple(cond.shape[1:])} of {cond.dtype}"


def _kept(cond: Any, rows: slice | list[int]) -> Any:
    if isinstance(cond, dict):
        return {name: _kept(value, rows) for name, value in cond.items()}
    return None if cond is None else cond[rows]
