"""Matching: the one regression loss of flows, diffusion and interpolants. A network at (x_t, t) is regressed on what made x_t."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from rheos.core import Draws, checks
from rheos.couplings import Pair
from rheos.nets import keep_condition
from rheos.objectives.gaps import L2, Metric, PointMetric
from rheos.objectives.when import TimeLaw, Uniform
from rheos.paths import KINDS, Path, PathPoint

__all__ = ["Loss", "Matching", "Objective"]


@dataclass(frozen=True, eq=False)
class Loss:
    """value () to be minimised; its terms by name, detached, if there are several. errors (batch, *event): what the value is the mean of.

    told: the errors, or a function that makes them when they are asked for.
    """

    value: Tensor
    told: Tensor | Callable[[], Tensor]
    terms: dict[str, Tensor] = field(default_factory=dict)

    @property
    def errors(self) -> Tensor:
        return self.told if isinstance(self.told, Tensor) else self.told()

    @property
    def per_sample(self) -> Tensor:
        """(batch,): the loss of each sample."""
        errors = self.errors
        return errors.flatten(1).mean(1) if errors.ndim > 1 else errors


@runtime_checkable
class Objective(Protocol):
    """A loss of a network on a minibatch, whose random numbers are functions of (seed, step)."""

    def __call__(self, net: Callable, pair: Pair, *, seed: int | Draws = 0, step: int = 0) -> Loss: ...


class _Adding:
    """Objectives add and scale: a + 0.1 * b. Each part draws numbers of its own, and its terms are kept apart."""

    def __add__(self, other: Objective) -> Sum:
        return Sum(((1.0, self), (1.0, other)))

    def __rmul__(self, factor: float) -> Sum:
        return Sum(((float(factor), self),))

    __mul__ = __rmul__


@dataclass(frozen=True, eq=False)
class Sum(_Adding):
    """A weighted sum of objectives."""

    parts: tuple[tuple[float, Any], ...]

    def __add__(self, other: Objective) -> Sum:
        return Sum(self.parts + (other.parts if isinstance(other, Sum) else ((1.0, other),)))

    def __rmul__(self, factor: float) -> Sum:
        return Sum(tuple((factor * weight, part) for weight, part in self.parts))

    __mul__ = __rmul__

    def __call__(self, net: Callable, pair: Pair, *, seed: int | Draws = 0, step: int = 0) -> Loss:
        value: Any = 0.0
        errors: Any = 0.0
        terms: dict[str, Tensor] = {}
        for i, (weight, part) in enumerate(self.parts):
            loss = part(net, pair, seed=Draws.of(seed).child(i) if i else seed, step=step)
            value, errors = value + weight * loss.value, errors + weight * loss.per_sample
            terms |= {f"{i}.{name}": term for name, term in loss.terms.items()}
        return Loss(value, errors, terms)


@dataclass(frozen=True, eq=False)
class Matching(_Adding):
    """mean over the event of (net(x_t, t, cond) - target)^2, or another metric of the two, weighted, averaged over the batch.

    path: makes x_t and the targets. predicts: the kind, or kinds, that the network returns. when: the law of t on the path's interval.
    weight: a number or a function of t (batch,) -> (batch,), finite. drop_condition: the chance with which a row's condition is left out,
    so that one network learns both fields for classifier-free guidance. antithetic: average the loss at +z and -z, which takes away the
    variance of c' z near the ends of two-sided paths (arXiv:2303.08797) at the cost of a second evaluation. metric: how a gap is
    measured, `L2()`, `PseudoHuber(c)` or `Perceptual(features)`, or a `PointMetric`, which sees the point on the path too, such as
    `PerceptualHuber(features)`. unit_input: whether the network is shown x / sqrt(alpha^2 + sigma^2), see `Field`.

    On a one-sided path a pair's x0 takes the noise's place: it should follow the path's law of noise, else only the velocity has a meaning.
    """

    path: Path
    predicts: str | Sequence[str] = "velocity"
    when: TimeLaw = Uniform()
    weight: float | Callable[[Tensor], Tensor] = 1.0
    drop_condition: float = 0.0
    antithetic: bool = False
    metric: Metric | PointMetric = L2()
    unit_input: bool = False

    def __post_init__(self):
        if not isinstance(self.path, Path):
            raise TypeError(f"path must be a Path, got {type(self.path).__name__}")
        object.__setattr__(self, "predicts", (self.predicts,) if isinstance(self.predicts, str) else tuple(self.predicts))
        for kind in self.predicts or ("nothing",):
            checks.one_of("predicts", kind, KINDS)
            if kind == "v" and self.path.two_sided:
                raise ValueError("predicts = v needs a one-sided path, got a two-sided one")
            if kind == "score" and not self.path.noise.gaussian:
                raise ValueError(f"predicts = score needs a path with Gaussian noise, this one has {self.path.noise}")
        checks.between("drop_condition", self.drop_condition, 0.0, 1.0)
        if not callable(self.weight):
            checks.positive("weight", self.weight, zero=True)
        if isinstance(self.when, type) or not callable(getattr(self.when, "sample", None)):
            raise TypeError(f"when must be a law of times such as Uniform(), got {self.when!r}")
        if isinstance(self.metric, type) or not (callable(self.metric) or callable(getattr(self.metric, "on", None))):
            raise TypeError(f"metric must be a metric such as L2(), got {self.metric!r}")
        if checks.flag("unit_input", self.unit_input) and self.path.two_sided:
            raise ValueError("unit_input needs a one-sided path, got a two-sided one")

    def __call__(self, net: Callable, pair: Pair, *, seed: int | Draws = 0, step: int = 0) -> Loss:
        """The loss of `net` on minibatch `pair`; times, noise and dropped conditions are functions of (seed, step)."""
        draws, x1, cond = Draws.of(seed), pair.x1, pair.cond
        n, low, high = len(x1), *self.path.interval
        # float32 is enough here: 1 - t is exact, so sigma loses nothing near the data.
        t = self.when.sample(n, seed=draws, step=step, device=x1.device, dtype=torch.float64 if x1.dtype == torch.float64 else torch.float32)
        place = getattr(self.when, "place", None)
        if place is not None:
            t = place(self.path, t)
        elif (low, high) != (0.0, 1.0):
            t = low + (high - low) * t
        # On a one-sided path the base is the noise: a coupled source takes its place.
        coupled = pair.x0 is not None and not self.path.two_sided
        if coupled and self.antithetic:
            raise ValueError("antithetic needs fresh noise, but on this one-sided path the pair's x0 is the noise")
        z = checks.shape_of("x0", pair.x0, x1.shape) if coupled else self.path.noise.draw(x1.shape, seed=draws, step=step, like=x1, ahead=True)
        if self.drop_condition and cond is not None:
            cond = keep_condition(cond, draws.uniform("kept condition", step, (n,), device=x1.device, ahead=True) >= self.drop_condition)
        point, answers = self._asked(net, pair, t, z, cond)
        if self._plain and not point.x.is_complex():
            answer, target = answers[0], point.target(self.predicts[0])
            return Loss(torch.nn.functional.mse_loss(answer, target), lambda: (answer - target).square())
        errors, terms = self._measured(point, answers)
        if self.antithetic:
            mirrored, mirrored_terms = self._measured(*self._asked(net, pair, t, -z, cond))
            errors = 0.5 * (errors + mirrored)
            terms = {kind: 0.5 * (value + mirrored_terms[kind]) for kind, value in terms.items()}
        return Loss(errors.mean(), errors, terms)

    @cached_property
    def _plain(self) -> bool:
        """Whether this is the mean square of one gap and no more, which torch takes in one operation."""
        return type(self.metric) is L2 and len(self.predicts) == 1 and not self.antithetic and not callable(self.weight) and self.weight == 1.0

    def _asked(self, net: Callable, pair: Pair, t: Tensor, z: Tensor, cond: Any) -> tuple[PathPoint, tuple[Tensor, ...]]:
        """The point on the path, and what the network says there."""
        at = self.path.schedule.coefficients(t)
        point = self.path.sample(pair.x1, t, x0=pair.x0 if self.path.two_sided else None, z=z, at=at)
        answer = net(self.path.unit(point.x, at) if self.unit_input else point.x, t.to(point.x.dtype), cond)
        answers = (answer,) if isinstance(answer, Tensor) else tuple(answer)
        if len(answers) != len(self.predicts):
            raise ValueError(f"net must return {len(self.predicts)} tensors for predicts = {self.predicts}, got {len(answers)}")
        for value in answers:
            if value.shape != point.x.shape:
                raise ValueError(f"net must return the shape of x, {tuple(point.x.shape)}, got {tuple(value.shape)}")
        return point, answers

    def _measured(self, point: PathPoint, answers: tuple[Tensor, ...]) -> tuple[Tensor, dict[str, Tensor]]:
        """The metric's errors, weighted and summed over the kinds, and each kind's mean."""
        weight = self.weight
        if callable(weight):
            weight = weight(point.t)
            if not isinstance(weight, Tensor) or weight.shape != point.t.shape:
                got = tuple(weight.shape) if isinstance(weight, Tensor) else weight
                raise ValueError(f"weight must give one number a row, a tensor of shape ({len(point.t)},), got {got}")
            weight = weight.to(point.x.real.dtype if point.x.is_complex() else point.x.dtype)
        if isinstance(weight, Tensor) and weight.device.type == "cpu" and not bool(torch.isfinite(weight).all()):
            worst = int((~torch.isfinite(weight)).nonzero()[0])
            raise ValueError(f"weight must be finite, got {float(weight[worst])} at t = {float(point.t[worst]):g}")
        total: Any = None
        terms = {}
        for kind, value in zip(self.predicts, answers, strict=True):
            error = self.metric.on(point, kind, value) if hasattr(self.metric, "on") else self.metric(value, point.target(kind))
            if len(answers) > 1:
                terms[kind] = error.detach().mean()
            if isinstance(weight, Tensor):
                error = weight.reshape(-1, *(1,) * (error.ndim - 1)) * error
            elif weight != 1.0:
                error = weight * error
            total = error if total is None else total + error
        return total, terms
