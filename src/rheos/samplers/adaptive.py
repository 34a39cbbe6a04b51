r"""Integrating a flow to a tolerance: an embedded pair of Runge-Kutta rules, every sample with a step size of its own.

  k_i = v(x + h sum_j a_ij k_j, t + c_i h),   x_new = x + h sum_i b_i k_i,   error = h sum_i (b_i - b*_i) k_i
  h_new = 0.8 h r^-p r_last^q,   r = RMS over the event of error / (atol + rtol max(|x|, |x_new|)), accepted if r <= 1

The weights b* of a rule one order lower estimate the error at no call of their own; the last stage is the first one of the next step.
Pairs: Dormand and Prince, 1980, J. Comput. Appl. Math. 6; Bogacki and Shampine, 1989, Appl. Math. Lett. 2. Proportional-integral control of
the step: Gustafsson, 1991, ACM TOMS 17. First step and constants: Hairer, Norsett and Wanner, Solving Ordinary Differential Equations I,
section II.4. As a sampler of the probability flow: Song et al., 2021, arXiv:2011.13456.

A step of the whole batch is as short as its hardest sample needs; here a sample that is easy takes long steps and leaves early, and the
network is asked about those still on their way only. How a batch is split changes nothing.
"""
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import repeat
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Inexact, Int64
from torch import Tensor

from rheos.core import Example, NonFinite, checks
from rheos.paths import Coefficients, ExactField, Field, Path

__all__ = ["BOGACKI_SHAMPINE", "DORMAND_PRINCE", "Adaptive", "AdaptiveRungeKutta", "AdaptiveState", "EmbeddedPair"]

Edit = Callable[[Tensor, Tensor, Tensor], Tensor]

P, Q = 0.7, 0.4             # times 1 / order: p and q as Gustafsson has them
SAFETY = 0.8                # where r settles at 0.8^(order / 0.3), 0.02 for order 5: few steps are tried in vain
LEAST_FACTOR, LARGEST_FACTOR = 0.2, 10.0
LEAST_ERROR = 1e-4          # what r_last is at first and at least
STRETCH = 1.01              # a step that would leave less than a hundredth of itself to do takes that along
LEAST_STEP = 16 * float(np.finfo(np.float64).eps)       # of the whole way: below it the clock stands still


@dataclass(frozen=True)
class EmbeddedPair:
    """An explicit Runge-Kutta rule and one of an order lower on the same stages.

    rows: Butcher's matrix from the second stage on; its last row holds the weights b, so that the last stage is asked at the new point.
    lower: the weights b* of the lower order, one a stage. order: of the rule that carries the samples on; `lower` has one less.
    """

    name: str
    order: int
    rows: tuple[tuple[float, ...], ...]
    lower: tuple[float, ...]

    def __post_init__(self):
        checks.integer("order", self.order, least=2)
        if not self.rows or any(len(row) != i + 1 for i, row in enumerate(self.rows)):
            raise ValueError(f"rows must hold 1, 2, 3, ... numbers, as the stages of an explicit rule do, got {[len(row) for row in self.rows]}")
        if len(self.lower) != len(self.rows) + 1:
            raise ValueError(f"lower must hold {len(self.rows) + 1} weights, one a stage, got {len(self.lower)}")
        for name, weights in (("the last of rows", self.rows[-1]), ("lower", self.lower)):
            if not abs(sum(weights) - 1) < 1e-12:
                raise ValueError(f"{name} must sum to 1, got {sum(weights)!r}")

    @cached_property
    def nodes(self) -> np.ndarray:
        """c of the stages from the second on."""
        return np.array([math.fsum(row) for row in self.rows])

    @cached_property
    def error(self) -> tuple[float, ...]:
        """b - b*."""
        return tuple(b - low for b, low in zip((*self.rows[-1], 0.0), self.lower, strict=True))


DORMAND_PRINCE = EmbeddedPair("Dormand-Prince 5(4)", 5, (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
), (5179 / 57600, 0.0, 7571 / 16695, 393 / 640, -92097 / 339200, 187 / 2100, 1 / 40))

BOGACKI_SHAMPINE = EmbeddedPair("Bogacki-Shampine 3(2)", 3, (
    (1 / 2,),
    (0.0, 3 / 4),
    (2 / 9, 1 / 3, 4 / 9),
), (7 / 24, 1 / 4, 1 / 3, 1 / 8))


@dataclass(frozen=True)
class AdaptiveRungeKutta:
    """The settings of an integration to a tolerance.

    rtol, atol: the error that one step may make, relative and absolute, root mean square over the numbers of a sample (defaults: Song et al.,
        2021). Steps stay well below it, so that the error at the end is below it too for most samples; not for those that begin where the
        flow parts.
    pair: the rules; Bogacki and Shampine's is for tolerances above about 1e-3. largest_calls: field calls after which a sample is given up.
    first_step: length of the first step tried, in units of t; None finds one with one call more.

    Field calls a sample: 2 + 6 for each step tried (2 + 3 with Bogacki and Shampine's pair). A path whose velocity is singular at an end must be
    left there a little inside: the field is asked at both ends, and never outside them.

    >>> from rheos.core import evolve
    >>> decay = Field(lambda x, t, cond: -x, Path.linear(), predicts="velocity")
    >>> run = AdaptiveRungeKutta(rtol=1e-9, atol=1e-9).dynamics(decay, 0.0, 1.0)
    >>> x = evolve(run, run.init(torch.ones(1, 1, dtype=torch.float64)), until=run.done).x
    >>> abs(x.item() - math.exp(-1)) < 1e-9
    True
    """

    rtol: float = 1e-5
    atol: float = 1e-5
    pair: EmbeddedPair = DORMAND_PRINCE
    largest_calls: int = 10_000
    first_step: float | None = None
    asks_at_end: ClassVar[bool] = True

    def __post_init__(self):
        checks.positive("rtol", self.rtol, zero=True)
        checks.positive("atol", self.atol, zero=True)
        if self.rtol == 0 and self.atol == 0:
            raise ValueError("rtol or atol must be positive, got 0 for both")
        if not isinstance(self.pair, EmbeddedPair):
            raise TypeError(f"pair must be a EmbeddedPair such as DORMAND_PRINCE, got {self.pair!r}")
        checks.integer("largest_calls", self.largest_calls, least=2 + self.calls_per_step)
        if self.first_step is not None:
            checks.positive("first_step", self.first_step)

    @property
    def order(self) -> int:
        return self.pair.order

    @property
    def calls_per_step(self) -> int:
        return len(self.pair.rows)

    @classmethod
    def examples(cls) -> list[AdaptiveRungeKutta]:
        return [cls(1e-6, 1e-6), cls(1e-4, 1e-5, BOGACKI_SHAMPINE), cls(1e-5, 1e-6, first_step=0.02)]

    def span(self, path: Path) -> tuple[float, float]:
        """Where a run begins and ends on `path` unless told otherwise."""
        return path.interval

    def dynamics(self, field: Field, start: float, end: float, *, cond: Any = None, edit: Edit | None = None) -> Adaptive:
        """The run along `field` from time `start` to `end`, which may lie before it."""
        return Adaptive(field, self, start, end, cond, edit)


@dataclass
class AdaptiveState:
    """x (batch, *event) at the times t (batch,), and the velocity k1 there. The numbers a sample live on the CPU, where steps are decided.

    h: the next step to try, below zero where t falls. error: r of the last accepted step. calls, accepted, rejected: counts.
    """

    x: Inexact[Tensor, "batch *event"]
    k1: Inexact[Tensor, "batch *event"]
    t: Float[Tensor, " batch"]
    h: Float[Tensor, " batch"]
    error: Float[Tensor, " batch"]
    calls: Int64[Tensor, " batch"]
    accepted: Int64[Tensor, " batch"]
    rejected: Int64[Tensor, " batch"]
    step: int = 0


@dataclass(frozen=True, eq=False)
class Adaptive:
    """Carries samples along a flow to a tolerance: one attempt a step of every sample that has not arrived. Run it `until=run.done`.

    field: what is asked. rule: tolerances and pair. start, end: times. cond: passed to the field, batch first, as its rows still on their
    way. edit: (prediction, x, t) -> prediction, applied to every velocity, or to the kind it names in an attribute `kind`; it sees the rows
    still on their way, t (rows,). A step after all have arrived changes only the step number.
    RuntimeError if a sample takes more than `rule.largest_calls`, NonFinite where no step, however short, stays finite.
    """

    field: Field
    rule: AdaptiveRungeKutta
    start: float
    end: float
    cond: Any = None
    edit: Edit | None = None

    def __post_init__(self):
        for name in ("start", "end"):
            checks.between(name, getattr(self, name), 0.0, 1.0)
        if self.start == self.end:
            raise ValueError(f"start and end must differ, got {self.start:g} for both")
        if self.rule.first_step is not None and self.rule.first_step > abs(self.end - self.start):
            raise ValueError(f"first_step must be at most the whole way from {self.start:g} to {self.end:g}, got {self.rule.first_step:g}")

    def init(self, x: Inexact[Tensor, "batch *event"]) -> AdaptiveState:
        """The state at the start, from x (batch, *event): one or two field calls."""
        checks.tensor("x", x, floating=True)
        if not x.numel():
            raise ValueError(f"x must hold at least one sample, got shape {tuple(x.shape)}")
        rounding, rule = torch.finfo(x.dtype).eps, self.rule
        if max(rule.rtol, rule.atol) < rounding:
            raise ValueError(f"rtol = {rule.rtol:g} and atol = {rule.atol:g} ask for more than {x.dtype} holds, whose rounding is {rounding:.1e}")
        _check_rows(self.cond, len(x))
        count = lambda value: torch.full((len(x),), value, dtype=torch.int64)
        number = lambda value: torch.full((len(x),), value, dtype=torch.float64)
        k1 = self._velocity(x, *self._at(number(self.start).numpy()[None], x)[0], self.cond)
        good = torch.isfinite(k1.detach()).reshape(len(x), -1).all(1)
        if not bool(good.all()):
            raise NonFinite(0, f"the velocity of sample {int((~good).nonzero()[0])} of {len(x)} at t = {self.start:g}", "not finite")
        h = number(rule.first_step) if rule.first_step is not None else torch.from_numpy(self._first_step(x, k1))
        calls = 1 if rule.first_step is not None else 2
        return AdaptiveState(x, k1, number(self.start), math.copysign(1.0, self.end - self.start) * h, number(LEAST_ERROR), count(calls), count(0), count(0))

    def done(self, state: AdaptiveState) -> bool:
        """Whether all samples have arrived."""
        return bool((state.t.numpy() == self.end).all())

    def step(self, state: AdaptiveState) -> AdaptiveState:
        t, h, error = state.t.numpy(), state.h.numpy(), state.error.numpy()
        rows: Any = np.flatnonzero(t != self.end)
        if not len(rows):
            return replace(state, step=state.step + 1)
        self._within_limit(state, rows)
        x, k1, cond, place = state.x, state.k1, self.cond, None
        if len(rows) < len(t):
            place = torch.from_numpy(rows).to(x.device)
            x, k1, cond = x[place], k1[place], _taken(cond, place)
            t, h, error = t[rows], h[rows], error[rows]
        else:
            rows = slice(None)

        last = h == self.end - t
        t_new = np.where(last, self.end, t + h)
        x_new, k_new, r = self._attempt(x, k1, t, h, t_new, cond)
        accept = r <= 1
        h_new = h * _factor(r, error, accept, self.rule.order)
        if not accept.all():
            self._can_go_on(state, accept, h_new, r, t, rows)
            t_new = np.where(accept, t_new, t)
            chosen = torch.from_numpy(accept).to(x.device).view(-1, *(1,) * (x.ndim - 1))
            x_new, k_new = torch.where(chosen, x_new, x), torch.where(chosen, k_new, k1)
        rest = self.end - t_new
        h_new = np.where(np.abs(h_new) * STRETCH >= np.abs(rest), rest, h_new)

        if place is not None:
            x_new, k_new = state.x.index_copy(0, place, x_new), state.k1.index_copy(0, place, k_new)
        error_new = np.where(accept, np.maximum(r, LEAST_ERROR), error)
        changed = {"t": _written(state.t, rows, t_new), "h": _written(state.h, rows, h_new), "error": _written(state.error, rows, error_new)}
        for name, add in (("calls", self.rule.calls_per_step), ("accepted", accept), ("rejected", ~accept)):
            before = getattr(state, name)
            changed[name] = _written(before, rows, before.numpy()[rows] + add)
        if bool((changed["t"].numpy() == self.end).all()) and not bool(torch.isfinite(x_new.detach()).all()):
            bad = ~torch.isfinite(x_new.detach()).reshape(len(x_new), -1).all(1)
            raise NonFinite(state.step, f"sample {int(bad.nonzero()[0])} of {len(x_new)}", "not finite", good=False)
        return AdaptiveState(x_new, k_new, step=state.step + 1, **changed)

    def _attempt(self, x: Tensor, k1: Tensor, t: np.ndarray, h: np.ndarray, t_new: np.ndarray, cond: Any) -> tuple[Tensor, Tensor, np.ndarray]:
        """x and the velocity after a step h, and its error as a share of what is allowed."""
        rule, pair = self.rule, self.rule.pair
        # Rounding must not carry a stage past an end, beyond which there may be no field.
        times = np.clip(t + pair.nodes[:, None] * h, min(self.start, self.end), max(self.start, self.end))
        times[-1] = t_new
        wide = torch.from_numpy(h).to(x.device, x.dtype).view(-1, *(1,) * (x.ndim - 1))
        k, y = [k1], x
        for row, (clock, at) in zip(pair.rows, self._at(times, x), strict=True):
            weight, total = _combined(row, k)
            y = torch.addcmul(x, wide, total, value=weight)
            k.append(self._velocity(y, clock, at, cond))
        weight, total = _combined(pair.error, k)
        allowed = torch.maximum(x.detach().abs(), y.detach().abs()).mul_(rule.rtol).add_(rule.atol)
        return y, k[-1], _rms(total.detach() / allowed) * np.abs(weight * h)

    def _first_step(self, x: Tensor, k1: Tensor) -> np.ndarray:
        """A first step, (batch,): a tenth of what would change x by a tenth of itself, cut where the velocity changes fast (Hairer, II.4)."""
        rule, way, sign = self.rule, abs(self.end - self.start), math.copysign(1.0, self.end - self.start)
        allowed = x.detach().abs().mul_(rule.rtol).add_(rule.atol)
        with np.errstate(all="ignore"):
            size, speed = _rms(x.detach() / allowed), _rms(k1.detach() / allowed)
            trial = np.where((size < 1e-5) | (speed < 1e-5), 1e-6, 0.01 * size / speed)
            trial = np.clip(np.nan_to_num(trial), LEAST_STEP * way, way)
            wide = torch.from_numpy(sign * trial).to(x.device, x.dtype).view(-1, *(1,) * (x.ndim - 1))
            times = np.clip(self.start + sign * trial, min(self.start, self.end), max(self.start, self.end))
            k2 = self._velocity(torch.addcmul(x, wide, k1), *self._at(times[None], x)[0], self.cond)
            steep = np.maximum(speed, _rms((k2 - k1).detach() / allowed) / trial)
            cut = np.where(steep <= 1e-15, np.maximum(1e-6, 1e-3 * trial), (0.01 / steep) ** (1 / rule.order))
            return np.minimum(np.where(cut > 0, np.minimum(100 * trial, cut), trial), way)

    def _at(self, times: np.ndarray, x: Tensor) -> list[tuple[Tensor, Coefficients]]:
        """For each row of times (stages, rows): the clock as the network reads it, and the path's coefficients."""
        t = torch.from_numpy(times)
        at = (v.unbind() if isinstance(v, Tensor) and v.ndim else repeat(v) for v in self.field.path.coefficients(t))
        clock = t.to(x.device, x.real.dtype if x.is_complex() else x.dtype)
        return list(zip(clock.unbind(), map(Coefficients, *at), strict=False))

    def _velocity(self, x: Tensor, t: Tensor, at: Coefficients, cond: Any) -> Tensor:
        answer = self.field(x, t, cond, at=at)
        if self.edit is None:
            return answer.velocity
        kind = getattr(self.edit, "kind", "velocity")
        edited = self.edit(answer.of(kind), x, t)
        return edited if kind == "velocity" else self.field.path.prediction({kind: edited}, x, at).velocity

    def _within_limit(self, state: AdaptiveState, rows: np.ndarray) -> None:
        used = int(state.calls.numpy()[rows].max())
        if used + self.rule.calls_per_step > self.rule.largest_calls:
            left = np.abs(self.end - state.t.numpy())
            slowest = int(left.argmax())
            raise RuntimeError(f"largest_calls = {self.rule.largest_calls} do not carry sample {slowest} of {len(left)} from {self.start:g} to {self.end:g}: "
                               f"after {used} calls it stands at t = {float(state.t[slowest]):g}, where the field is steep for rtol = {self.rule.rtol:g}, "
                               f"atol = {self.rule.atol:g}; allow more calls or more error, or use a rule with fixed steps")

    def _can_go_on(self, state: AdaptiveState, accept: np.ndarray, h: np.ndarray, r: np.ndarray, t: np.ndarray, rows: Any) -> None:
        stuck = ~accept & (np.abs(h) < LEAST_STEP * abs(self.end - self.start))
        if stuck.any():
            i = int(stuck.argmax())
            what = f"sample {int(np.arange(len(state.t))[rows][i])} of {len(state.t)}"
            if not np.isfinite(r[i]):
                raise NonFinite(state.step, f"the velocity of {what} beyond t = {t[i]:g}", "not finite")
            raise RuntimeError(f"{what} cannot pass t = {t[i]:g} with rtol = {self.rule.rtol:g}, atol = {self.rule.atol:g}: its step has shrunk to rounding, "
                               "as where a field jumps; allow more error, or use a rule with fixed steps")

    @classmethod
    def examples(cls) -> list[Example]:
        """The flow of a Gaussian, known by hand, there and back."""
        from rheos.data import GaussianMixture

        mean, spread = torch.tensor([[0.7, -1.2]], dtype=torch.float64), torch.tensor([[0.3, 1.7]], dtype=torch.float64)
        x = torch.tensor([[1.0, -0.5], [-2.0, 0.3], [0.1, 2.2]], dtype=torch.float64)
        target, made = GaussianMixture(torch.ones(1, dtype=torch.float64), mean, spread), []
        for rule, path, turned in zip(AdaptiveRungeKutta.examples(), (Path.vp(), Path.linear(), Path.linear()), (False, False, True), strict=True):
            start, end = path.interval[::-1] if turned else path.interval
            run = cls(ExactField(path, target), rule, start, end)
            # The flow is affine: it keeps (x - b m) / sqrt(b^2 v + c^2).
            one, other = path.coefficients(end), path.coefficients(start)
            width = lambda at: torch.sqrt(at.b**2 * spread + at.c**2)
            truth = one.b * mean + (x - other.b * mean) * width(one) / width(other)
            made.append(Example(run, run.init(x), 60, lambda state, truth=truth: (state.x, truth), 100 * rule.rtol, f"{rule.pair.name}, {start:g} to {end:g}"))
        return made


def _combined(weights: tuple[float, ...], k: list[Tensor]) -> tuple[float, Tensor]:
    """(w, total) with w total = sum weights_j k_j: the leading weight stays outside, which spares an operation a stage."""
    used = [(weight, value) for weight, value in zip(weights, k, strict=True) if weight != 0.0]
    leading, total = used[0]
    for j, (weight, value) in enumerate(used[1:]):
        total = torch.add(total, value, alpha=weight / leading) if j == 0 else total.add_(value, alpha=weight / leading)
    return leading, total


def _rms(value: Tensor) -> np.ndarray:
    """Root mean square over the event, (batch,) float64 on the CPU."""
    flat = value.reshape(len(value), -1)
    return torch.linalg.vector_norm(flat, dim=1).double().cpu().numpy() / math.sqrt(flat.shape[1])


def _factor(r: np.ndarray, r_last: np.ndarray, accept: np.ndarray, order: int) -> np.ndarray:
    """By how much the next step is longer: a rejected one looks at its own error only, one that is not finite is cut to the least."""
    with np.errstate(divide="ignore", invalid="ignore"):
        grown = (Q * np.log(np.where(accept, r_last, 1.0)) - P * np.log(r)) / order
        grown = SAFETY * np.exp(np.minimum(grown, math.log(2 * LARGEST_FACTOR)))
    return np.where(np.isfinite(r), np.clip(grown, LEAST_FACTOR, LARGEST_FACTOR), LEAST_FACTOR)


def _written(before: Tensor, rows: Any, value: np.ndarray) -> Tensor:
    after = before.numpy().copy()
    after[rows] = value
    return torch.from_numpy(after)


def _taken(cond: Any, rows: Tensor) -> Any:
    if isinstance(cond, dict):
        return {name: _taken(value, rows) for name, value in cond.items()}
    return None if cond is None else cond[rows.to(cond.device)]


def _check_rows(cond: Any, rows: int) -> None:
    if isinstance(cond, dict):
        for value in cond.values():
            _check_rows(value, rows)
    elif cond is not None and (checks.tensor("cond", cond).ndim == 0 or len(cond) != rows):
        raise ValueError(f"cond must have {rows} rows, one a sample, got shape {tuple(cond.shape)}")
