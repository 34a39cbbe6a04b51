"""Reusing the first half of a U-Net: out_k = decode(encode(x_key, t_key), x_k, t_k), the key being the last key step before k.

Paper: Li et al., Faster diffusion: rethinking the role of the encoder for diffusion model inference, 2023, arXiv:2312.09608. What the encoder
makes of x changes little from step to step, what the decoder makes of it a lot. So the encoder runs at key steps only, and as the decoder
then needs nothing of the steps in between but their times, all steps up to the next key are decoded in one batch.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from rheos.core import checks
from rheos.paths import Coefficients, Field, Times
from rheos.samplers.tables import Row, Table

__all__ = ["DENSE_EARLY", "Every", "FeatureReuse", "Halved", "every", "prior_noise"]

DENSE_EARLY = (0, 1, 2, 3, 5, 10, 15, 25, 35)      # the paper's keys of 50 steps


@runtime_checkable
class Halved(Protocol):
    """A network in two halves, such as `rheos.nets.UNet`: decode(encode(x, t, cond), x, t, cond) is its answer, and x is seen by `decode`
    only as leaning(t, cond) x, added at the end. Features have `times(count)`, which repeats them along the batch."""

    def encode(self, x: Any, t: Any, cond: Any = None) -> Any: ...

    def decode(self, features: Any, x: Any, t: Any, cond: Any = None) -> Any: ...

    def leaning(self, t: Any, cond: Any = None) -> Any: ...


@dataclass(frozen=True)
class Every:
    """Step 0 and every `stride`-th after it. 1: all steps."""

    stride: int

    def __post_init__(self):
        checks.integer("stride", self.stride, least=1)

    def of(self, steps: int) -> tuple[int, ...]:
        return tuple(range(0, steps, self.stride))


def every(stride: int) -> Every:
    """Keys at step 0 and every `stride`-th after it."""
    return Every(stride)


class FeatureReuse(Field):
    """A field whose network runs its first half at key steps only; wherever all steps are keys, it is the plain field bit for bit.

    field: a plain field of a `Halved` network. times: those at which it will be asked, `Times` of the run or `table.times`. keys: numbers of
    steps, 0 among them, or `every(m)`. ahead: whether all steps up to the next key are decoded at the key, in one batch (the same numbers to
    rounding, more at a time in memory), or each on its own. `encodings` counts the runs of the first half.

    Guide what comes out, not what goes in: `classifier_free(FeatureReuse(field, times), 2.0)`; the features are then of both halves of the batch.
    ValueError for other networks, for keys that do not begin with 0 or lie outside the run, and for times that are not among those announced.

    >>> from rheos.nets import UNet
    >>> from rheos.paths import Path
    >>> field = Field(UNet((1, 8, 8), widths=(8, 8)), Path.linear())
    >>> times = Times.uniform(field.path, 10)
    >>> fast = FeatureReuse(field, times, keys=every(5))
    >>> answers = [fast(torch.zeros(2, 1, 8, 8), t) for t in times.t[:-1].tolist()]
    >>> fast.nfe, fast.encodings
    (10, 2)
    """

    def __init__(self, field: Field, times: Times, keys: Every | Sequence[int] = DENSE_EARLY, *, ahead: bool = True):
        if not isinstance(field, Field):
            raise TypeError(f"field must be a Field, got {type(field).__name__}")
        if type(field) is not Field:
            raise ValueError(f"field must be a plain Field, got {type(field).__name__}: reuse features first, guide what comes out")
        if not isinstance(field.net, Halved):
            raise ValueError(f"field must have a network with the halves encode and decode, such as UNet, got {type(field.net).__name__}")
        if not isinstance(times, Times):
            raise TypeError(f"times must be a Times, got {type(times).__name__}")
        if times.path != field.path:
            raise ValueError(f"times were made for {times.path.schedule}, but the field lives on {field.path.schedule}")
        super().__init__(field.net, field.path, field.predicts, unit_input=field.unit_input)
        steps = times.steps
        self.times, self.ahead = times, checks.flag("ahead", ahead)
        self.keys: tuple[int, ...] = keys.of(steps) if isinstance(keys, Every) else tuple(checks.integer("keys", k, least=0) for k in keys)
        if not self.keys or self.keys[0] != 0 or any(b <= a for a, b in zip(self.keys, self.keys[1:], strict=False)) or self.keys[-1] >= steps:
            raise ValueError(f"keys must rise from 0 and stay below the {steps} steps of the run, got {list(self.keys)}")
        self.encodings = 0
        self._at_key: tuple[float, Any, Any] | None = None      # (the key's time, features, condition)
        self._parts: dict[float, tuple[Tensor, ...]] = {}       # decoded ahead, without what leans on x

    def _ask(self, x: Tensor, t: Tensor, cond: Any, at: Coefficients) -> dict[str, Tensor]:
        self.nfe += 1
        x = self.path.unit(x, at) if self.unit_input else x
        now = float(t[0])
        if bool((t != now).any()):
            raise ValueError("t must be one for all samples where features are reused from step to step")
        stops = self._stops(t)
        if now not in stops:
            raise ValueError(f"t must be one of the {self.times.steps} times that features are reused along, got {now:g}")
        if stops[now]:
            answer = self._key(x, t, cond, list(stops), now)
        else:
            answer = self._between(x, t, cond, now)
        return dict(zip(self.predicts, answer, strict=True))

    def _stops(self, t: Tensor) -> dict[float, bool]:
        """Whether each time of the run, as it reaches the network, is a key; a time that a rule asks at twice is one if either is."""
        found: dict[float, bool] = {}
        for i, time in enumerate(self.times.t[:-1].to(t).tolist()):
            found[time] = found.get(time, False) or i in self.keys
        return found

    def _key(self, x: Tensor, t: Tensor, cond: Any, stops: list[float], now: float) -> tuple[Tensor, ...]:
        features = self.net.encode(x, t, cond)
        self.encodings += 1
        self._at_key, self._parts = (now, features, cond), {}
        later = self._until_next(stops, now, t) if self.ahead else []
        if not later:
            return _tuple(self.net.decode(features, x, t, cond))
        count, rows = 1 + len(later), len(x)
        moments = torch.cat([t, *(torch.full_like(t, time) for time in later)])
        told = _repeated(cond, count)
        decoded = [answer.split(rows) for answer in _tuple(self.net.decode(features.times(count), x.new_zeros((count * rows, *x.shape[1:])), moments, told))]
        self._parts = {time: tuple(head[i] for head in decoded) for i, time in enumerate([now, *later])}
        return self._leant(x, t, now)

    def _until_next(self, stops: list[float], now: float, t: Tensor) -> list[float]:
        marks, first = self._stops(t), stops.index(now) + 1
        end = next((i for i in range(first, len(stops)) if marks[stops[i]]), len(stops))
        return stops[first:end]

    def _between(self, x: Tensor, t: Tensor, cond: Any, now: float) -> tuple[Tensor, ...]:
        if self._at_key is None:
            raise ValueError(f"t = {now:g} is no key step, and no key step was asked before it")
        _, features, told = self._at_key
        if not _same(cond, told):
            raise ValueError("cond must stay what it was at the key step, whose features hold it")
        cond = told
        if now in self._parts:
            if self._parts[now][0].shape != x.shape:
                raise ValueError(f"x must have the shape it had at the key step, {tuple(self._parts[now][0].shape)}, got {tuple(x.shape)}")
            return self._leant(x, t, now)
        return _tuple(self.net.decode(features, x, t, cond))

    def _leant(self, x: Tensor, t: Tensor, now: float) -> tuple[Tensor, ...]:
        leaning = self.net.leaning(t, self._at_key[2])
        return tuple(torch.addcmul(part, leaning[:, head].reshape(-1, *(1,) * (x.ndim - 1)), x) for head, part in enumerate(self._parts[now]))


def prior_noise(table: Table, strength: float = 0.003, after: float = 0.5) -> Table:
    """A table that adds `strength` of the start x_0 to each point later than `after` (half of the way, the paper's choice) before the field is asked there.

    It gives back some of the texture that reused features lose. All in the rows: x_0 is a point like others. ValueError for tables that begin with
    earlier points, whose start is not noise.
    """
    checks.between("strength", strength, -1.0, 1.0)
    checks.between("after", after, 0.0, 1.0)
    if table.before:
        raise ValueError(f"prior_noise needs a table that begins with its start alone, got one with {table.before} earlier points")
    t = table.times.t.tolist()

    def more(row: Row | None, i: int) -> Row | None:
        if row is None or t[i + 1] <= after or i + 1 == table.nfe:
            return row
        weights = [*row.a, *(0.0,) * (i + 1 - len(row.a))]
        weights[i] = weights[i] + strength
        return replace(row, a=tuple(weights))

    rows = range(table.nfe)
    return replace(table, predict=tuple(more(table.predict[i], i) for i in rows), correct=tuple(more(table.correct[i], i) for i in rows))


def _same(cond: Any, told: Any) -> bool:
    if isinstance(cond, dict) and isinstance(told, dict):
        return cond.keys() == told.keys() and all(_same(cond[name], told[name]) for name in cond)
    if isinstance(cond, Tensor) and isinstance(told, Tensor):
        return cond is told or cond.shape == told.shape and bool(((cond == told) | (cond != cond) & (told != told)).all())      # not-a-number is no condition
    return cond is None and told is None


def _tuple(answer: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (answer,) if isinstance(answer, Tensor) else tuple(answer)


def _repeated(cond: Any, count: int) -> Any:
    if isinstance(cond, dict):
        return {name: _repeated(value, count) for name, value in cond.items()}
    return None if cond is None else torch.cat([cond] * count)
