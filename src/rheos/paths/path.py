"""Probability paths: how a pair (base, data) becomes a curve x_t = a(t) x0 + b(t) x1 + c(t) z."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Inexact
from torch import Tensor

from rheos.core import Draws, checks
from rheos.core.files import rheos_class
from rheos.paths.predictions import Prediction
from rheos.paths.schedules import VP, Coefficients, Interpolant, Linear, Schedule

__all__ = ["Path", "PathPoint"]


class PathPoint(NamedTuple):
    """Points on a path with what made them. Tensors (batch, *event), t (batch,); x0 is None for one-sided paths, z where c = 0 throughout."""

    x: Tensor
    t: Tensor
    x1: Tensor
    x0: Tensor | None
    z: Tensor | None
    velocity: Tensor
    at: Coefficients

    def target(self, kind: str) -> Tensor:
        """What a network that predicts `kind` is regressed on. ValueError for the noise or score of a path without noise."""
        if kind == "velocity":
            return self.velocity
        if kind == "data":
            return self.x1
        if self.z is None:
            raise ValueError(f"this path has no noise, so it has no {kind} to predict")
        return self.z if kind == "noise" else -self.z / _shaped(self.at.c, self.x)


def _shaped(value: Tensor | float, like: Tensor) -> Tensor | float:
    if not isinstance(value, Tensor):
        return value
    value = value.reshape(-1, *(1,) * (like.ndim - 1))
    return value if value.dtype == like.dtype else value.to(like.dtype)


def _sum(u: Tensor | float, x: Tensor, v: Tensor | float, y: Tensor) -> Tensor:
    """u x + v y in as few operations as the kinds of the coefficients allow: this runs once a training step."""
    first = x if isinstance(u, float) and u == 1.0 else u * x
    return torch.add(first, y, alpha=v) if isinstance(v, float) else torch.addcmul(first, v, y)


@dataclass(frozen=True)
class Path:
    """A path is its schedule; build one with `Path.linear()`, `Path.vp()`, `Path.interpolant()`.

    Time runs from 0 (base, noise) to 1 (data); velocity is dx/dt in this clock.

    >>> [round(v, 4) for v in Path.linear().lam(torch.tensor([0.25, 0.5, 0.75])).tolist()]
    [-1.0986, 0.0, 1.0986]
    """

    schedule: Schedule

    def __post_init__(self):
        if not callable(getattr(self.schedule, "coefficients", None)):
            raise TypeError(f"schedule must be a schedule such as Linear(), got {self.schedule!r}; or build the path with Path.linear()")

    @classmethod
    def linear(cls) -> Path:
        """alpha = t, sigma = 1 - t. Velocity is data minus noise."""
        return cls(Linear())

    @classmethod
    def vp(cls, beta_min: float = 0.1, beta_max: float = 20.0) -> Path:
        """Variance preserving, rate rising linearly from beta_min at the data to beta_max at the noise."""
        return cls(VP(beta_min, beta_max))

    @classmethod
    def interpolant(cls, gamma: str | Callable[[Tensor], Tensor] = "sqrt", mixing: str = "linear") -> Path:
        """Two-sided: joins any two laws. `gamma` is the noise on the way ("sqrt", "sin2", "none" or a function), `mixing` a and b."""
        return cls(Interpolant(gamma, mixing))

    @property
    def two_sided(self) -> bool:
        return self.schedule.two_sided

    @property
    def interval(self) -> tuple[float, float]:
        """The times between which samplers run unless told otherwise."""
        return self.schedule.interval

    def coefficients(self, t: Tensor | float) -> Coefficients:
        """a, b, c and derivatives, float64, of the shape of t. ValueError if a time lies outside [0, 1]."""
        t = torch.as_tensor(t, dtype=torch.float64)       # a Python float must not pass through float32
        if t.device.type == "cpu" and t.numel():
            low, high = (v.item() for v in t.aminmax())
            if not (low >= 0 and high <= 1):        # not-a-number is neither
                raise ValueError(f"t must lie in [0, 1], got values from {low:g} to {high:g}")
        return self.schedule.coefficients(t)

    def lam(self, t: Tensor | float) -> Tensor:
        """log(alpha / sigma), half the log signal-to-noise ratio; -inf and inf at singular ends. ValueError for a two-sided path."""
        self._one_sided("lam")
        at = self.coefficients(t)
        return at.b.log() - at.c.log()

    def time_at(self, lam: Tensor | float) -> Tensor:
        """The time at which `lam` is reached: the inverse of `lam`. ValueError for a two-sided path."""
        self._one_sided("time_at")
        return self.schedule.time_at(torch.as_tensor(lam, dtype=torch.float64))

    def sample(self, x1: Inexact[Tensor, "batch *event"], t: Float[Tensor, " times"], *, x0: Tensor | None = None, z: Tensor | None = None,
               seed: int | Draws = 0, step: int = 0, at: Coefficients | None = None) -> PathPoint:
        """Points at times t (batch,) on the path to x1 (batch, *event). z is drawn if not given; x0 is needed by two-sided paths only.

        at: the coefficients at t, if known already.

        At an end where c' is infinite (t = 1 of a variance-preserving path) x is right and its velocity infinite, as it is.
        ValueError for a missing or superfluous x0 and for shapes that do not fit.
        """
        if t.shape != x1.shape[:1]:
            raise ValueError(f"t must have shape ({len(x1)},), one time a row of x1, got {tuple(t.shape)}")
        at = self.coefficients(t) if at is None else at
        b, c, db, dc = _shaped(at.b, x1), _shaped(at.c, x1), _shaped(at.db, x1), _shaped(at.dc, x1)
        if self.two_sided:
            a, da = _shaped(at.a, x1), _shaped(at.da, x1)
            if x0 is None:
                raise ValueError("x0 is missing: a two-sided path runs from x0 to x1")
            checks.shape_of("x0", x0, x1.shape)
            x, velocity = _sum(a, x0, b, x1), _sum(da, x0, db, x1)
            if getattr(self.schedule, "noiseless", False):
                return PathPoint(x, t, x1, x0, None, velocity, at)
        elif x0 is not None:
            raise ValueError("x0 was given, but on a one-sided path the base is the noise: pass it as z")
        if z is None:
            z = Draws.of(seed).rows("path noise", step, x1.shape, device=x1.device, dtype=x1.dtype)
        if z.shape != x1.shape:
            checks.shape_of("z", z, x1.shape)
        if self.two_sided:
            return PathPoint(_sum(1.0, x, c, z), t, x1, x0, z, _sum(1.0, velocity, dc, z), at)
        return PathPoint(_sum(b, x1, c, z), t, x1, None, z, _sum(db, x1, dc, z), at)

    def prior(self, shape: Sequence[int], *, seed: int | Draws = 0, first: int = 0, start: float | None = None,
              **kinds: Any) -> Inexact[Tensor, "rows *event"]:
        """Draws (rows, *event) from the law at the start of a one-sided path, c(start) z. ValueError for a two-sided path."""
        self._one_sided("prior")
        scale = float(self.coefficients(self.interval[0] if start is None else start).c)
        return Draws.of(seed).rows("start", 0, shape, first=first, **kinds) * scale

    def convert(self, value: Inexact[Tensor, "batch *event"], x: Inexact[Tensor, "batch *event"], t: Tensor | float, *, of: str, to: str,
                given: dict[str, Tensor] | None = None) -> Inexact[Tensor, "batch *event"]:
        """Read a prediction `value` of kind `of` at (x, t) as kind `to`. Two-sided paths need a second prediction in `given`."""
        known = {of: value, **(given or {})}
        return Prediction(known, x, self.coefficients(t), two_sided=self.two_sided).of(to)

    def to_json(self) -> dict[str, Any]:
        """A JSON-able description. TypeError if the schedule or a setting of it is the user's own code, which no file can hold."""
        if type(self.schedule).__module__ != Linear.__module__:
            raise TypeError(f"a path with a schedule of your own, {type(self.schedule).__qualname__}, cannot be saved")
        settings = {f.name: getattr(self.schedule, f.name) for f in fields(self.schedule)}
        for name, value in settings.items():
            if callable(value):
                raise TypeError(f"a path whose {name} is a function cannot be saved")
        return {"class": f"rheos.paths.{type(self.schedule).__name__}", **settings}

    @classmethod
    def from_json(cls, content: Any) -> Path:
        """The path that `to_json` described. ValueError for anything else, classes that are not schedules of this room included."""
        if not isinstance(content, dict) or "class" not in content:
            raise ValueError(f"not a path: {content!r}")
        maker = rheos_class(content["class"], rooms=("paths",))
        if maker.__module__ != Linear.__module__ or not hasattr(maker, "coefficients"):
            raise ValueError(f"class {content['class']!r} in the file is not a schedule")
        try:
            return cls(maker(**{name: value for name, value in content.items() if name != "class"}))
        except TypeError as error:
            raise ValueError(f"not a path: {error}") from None

    def _one_sided(self, what: str) -> None:
        if self.two_sided:
            raise ValueError(f"{what} exists for one-sided paths only; this path is two-sided")
