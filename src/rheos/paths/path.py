"""Probability paths: how a pair (base, data) becomes a curve x_t = a(t) x0 + b(t) x1 + c(t) z."""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Inexact
from torch import Tensor

from rheos.core import Draws, checks
from rheos.core.files import rheos_class
from rheos.paths.basis import Basis, Fourier2d
from rheos.paths.discrete import Betas
from rheos.paths.kinetic import KineticOptimal, Separation
from rheos.paths.noise import GAUSSIAN, NoiseLaw, Student
from rheos.paths.predictions import KINDS, Prediction, shaped
from rheos.paths.schedules import EDM, VE, VP, BrownianBridge, Coefficients, Cosine, Interpolant, Linear, Residual, Schedule
from rheos.paths.shortest import Shortest

__all__ = ["Path", "PathPoint"]


class PathPoint(NamedTuple):
    """Points on `path` with what made them. Tensors (batch, *event), t (batch,); x0 is None for one-sided paths, z where c = 0 throughout."""

    x: Tensor
    t: Tensor
    x1: Tensor
    x0: Tensor | None
    z: Tensor | None
    velocity: Tensor
    at: Coefficients
    path: Path

    def target(self, kind: str) -> Tensor:
        """What a network that predicts `kind` is regressed on. ValueError for what this path cannot give: noise where it has none, the score
        of noise that is not Gaussian, or at a time without noise."""
        if kind == "velocity":
            return self.velocity
        if kind == "data":
            return self.x1
        checks.one_of("kind", kind, KINDS)
        if kind == "residual":
            if self.x0 is None:
                raise ValueError("residual is the source less the data, and a one-sided path has no source")
            return self.x0 - self.x1
        if self.z is None:
            raise ValueError(f"this path has no noise, so it has no {kind} to predict")
        return self.z if kind == "noise" else self.path.prediction({"data": self.x1, "noise": self.z}, self.x, self.at).of(kind)


def _sum(u: Tensor | float, x: Tensor, v: Tensor | float, y: Tensor) -> Tensor:
    """u x + v y in as few operations as the kinds of the coefficients allow: this runs once a training step."""
    first = x if isinstance(u, float) and u == 1.0 else u * x
    return torch.add(first, y, alpha=v) if isinstance(v, float) else torch.addcmul(first, v, y)


def _joined(x1: Tensor, x0: Tensor | None, z: Tensor | None, at: Coefficients) -> tuple[Tensor, Tensor]:
    """a x0 + b x1 + c z and its time derivative."""
    b, db = shaped(at.b, x1), shaped(at.db, x1)
    if x0 is None:
        return _sum(b, x1, shaped(at.c, x1), z), _sum(db, x1, shaped(at.dc, x1), z)
    x, velocity = _sum(shaped(at.a, x1), x0, b, x1), _sum(shaped(at.da, x1), x0, db, x1)
    return (x, velocity) if z is None else (_sum(1.0, x, shaped(at.c, x1), z), _sum(1.0, velocity, shaped(at.dc, x1), z))


@dataclass(frozen=True)
class Path:
    """A path is its schedule, the law of its noise and the basis in which its coefficients stand; build one with `Path.linear()` and its kin.

    Time runs from 0 (base, noise) to 1 (data); velocity is dx/dt in this clock.
    noise: `Gaussian()` or another law, such as `Student(dof)`. basis: None, or an orthonormal map such as `Fourier2d()`.

    >>> [round(v, 4) for v in Path.linear().lam(torch.tensor([0.25, 0.5, 0.75])).tolist()]
    [-1.0986, 0.0, 1.0986]
    """

    schedule: Schedule
    noise: NoiseLaw = GAUSSIAN
    basis: Basis | None = None

    def __post_init__(self):
        if isinstance(self.schedule, type) or not callable(getattr(self.schedule, "coefficients", None)):
            raise TypeError(f"schedule must be a schedule such as Linear(), got {self.schedule!r}; or build the path with Path.linear()")
        for name in ("two_sided", "interval"):
            if not hasattr(self.schedule, name):
                raise TypeError(f"schedule must have {name}, as rheos.paths.Schedule tells; {self.schedule!r} has not")
        if isinstance(self.noise, type) or not callable(getattr(self.noise, "draw", None)):
            raise TypeError(f"noise must be a law such as Gaussian(), got {self.noise!r}")
        if self.basis is not None and (isinstance(self.basis, type) or not callable(getattr(self.basis, "inverse", None))):
            raise TypeError(f"basis must be a basis such as Fourier2d(), got {self.basis!r}")
        if self.basis is None and getattr(self.schedule, "spectral", False):
            raise ValueError(f"basis must be given: the coefficients of {self.schedule!r} differ by coordinate")

    @classmethod
    def linear(cls, *, noise: NoiseLaw = GAUSSIAN) -> Path:
        """alpha = t, sigma = 1 - t. Velocity is data minus noise."""
        return cls(Linear(), noise)

    @classmethod
    def cosine(cls, *, noise: NoiseLaw = GAUSSIAN) -> Path:
        """alpha = sin(pi t / 2), sigma = cos(pi t / 2): variance preserving at constant angular speed."""
        return cls(Cosine(), noise)

    @classmethod
    def vp(cls, beta_min: float = 0.1, beta_max: float = 20.0, *, noise: NoiseLaw = GAUSSIAN) -> Path:
        """Variance preserving, rate rising linearly from beta_min at the data to beta_max at the noise."""
        return cls(VP(beta_min, beta_max), noise)

    @classmethod
    def ve(cls, sigma_min: float = 0.01, sigma_max: float = 50.0, *, noise: NoiseLaw = GAUSSIAN) -> Path:
        """Variance exploding: alpha = 1, sigma geometric. Learn it with `predicts="v"` and `unit_input=True`."""
        return cls(VE(sigma_min, sigma_max), noise)

    @classmethod
    def edm(cls, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0, *, noise: NoiseLaw = GAUSSIAN) -> Path:
        """alpha = 1, sigma^(1/rho) linear. On data of variance 1, `predicts="v"` with `unit_input=True` is EDM's preconditioning."""
        return cls(EDM(sigma_min, sigma_max, rho), noise)

    @classmethod
    def from_betas(cls, betas: Tensor | Sequence[float], *, noise: NoiseLaw = GAUSSIAN) -> Path:
        """A discrete diffusion model's path: `betas` (T,), first the data's end; step k sits at t = 1 - k / (T - 1)."""
        return cls(Betas(tuple(torch.as_tensor(betas, dtype=torch.float64).flatten().tolist())), noise)

    @classmethod
    def kinetic_optimal(cls, separation: Separation, *, noise: NoiseLaw = GAUSSIAN) -> Path:
        """The path whose flow moves the data at the least kinetic energy from noise of the data's own scale; `separation` is `data_separation(x)`.

        For data far from mean 0 and variance 1, such as raw pixels, standardise first: their noise would be as large as they are.
        """
        if not isinstance(separation, Separation):
            raise TypeError(f"separation must be a Separation such as data_separation(x), got {type(separation).__name__}")
        return cls(KineticOptimal.of(separation), noise)

    @classmethod
    def interpolant(cls, gamma: str | Callable[[Tensor], Tensor] = "sqrt", mixing: str = "linear") -> Path:
        """Two-sided: joins any two laws. `gamma` is the noise on the way ("sqrt", "sin2", "none" or a function), `mixing` a and b."""
        return cls(Interpolant(gamma, mixing))

    @classmethod
    def brownian(cls, epsilon: float) -> Path:
        """Two-sided: between its ends a Brownian motion of variance `epsilon` at time 1; the path of a Schrödinger bridge."""
        return cls(BrownianBridge(epsilon))

    @classmethod
    def residual(cls, noise_scale: float = 0.1, *, like: Schedule | None = None) -> Path:
        """Two-sided, from degraded data and noise of `noise_scale` to clean data; learn it with `predicts=("residual", "noise")`.

        like: a one-sided schedule whose alpha and sigma it takes over.
        """
        return cls(Residual(noise_scale, like))

    @classmethod
    def shortest(cls, spectrum: Tensor) -> Path:
        """The path of least Fisher length for images (channels, height, width) of this power spectrum (height, width), see `metrics.power_spectrum`."""
        return cls(Shortest.of(spectrum), basis=Fourier2d())

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
        self._scalar("lam")
        at = self.coefficients(t)
        b, c = (torch.as_tensor(v, dtype=torch.float64) for v in (at.b, at.c))      # either may be one number throughout
        return b.log() - c.log()

    def time_at(self, lam: Tensor | float) -> Tensor:
        """The time at which `lam` is reached: the inverse of `lam`. ValueError for a two-sided path."""
        self._one_sided("time_at")
        self._scalar("time_at")
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
        silent = getattr(self.schedule, "noiseless", False)
        if self.two_sided:
            if x0 is None:
                raise ValueError("x0 is missing: a two-sided path runs from x0 to x1")
            checks.shape_of("x0", x0, x1.shape)
        elif x0 is not None:
            raise ValueError("x0 was given, but on a one-sided path the base is the noise: pass it as z")
        if silent:
            z = None
        elif z is None:
            z = self.noise.draw(tuple(x1.shape), seed=seed, purpose="path noise", step=step, like=x1)
        elif z.shape != x1.shape:
            checks.shape_of("z", z, x1.shape)
        if self.basis is None:
            x, velocity = _joined(x1, x0, z, at)
        else:
            # The basis is linear and does not depend on t, so it carries velocities too.
            turn = lambda v: None if v is None else self.basis.forward(v)
            x, velocity = (self.basis.inverse(v) for v in _joined(turn(x1), turn(x0), turn(z), at))
        return PathPoint(x, t, x1, x0, z, velocity, at, self)

    def prior(self, shape: Sequence[int], *, seed: int | Draws = 0, first: int = 0, start: float | None = None,
              **kinds: Any) -> Inexact[Tensor, "rows *event"]:
        """Draws (rows, *event) from the law at the start of a one-sided path, c(start) z. ValueError for a two-sided path."""
        self._one_sided("prior")
        scale = self.coefficients(self.interval[0] if start is None else start).c
        z = self.noise.draw(tuple(shape), seed=seed, purpose="start", first=first, like=torch.empty(0, **kinds))
        return z * float(scale) if self.basis is None else self.basis.inverse(shaped(scale, z) * self.basis.forward(z))

    def start(self, x: Inexact[Tensor, "batch *event"], t: float | None = None, *, seed: int | Draws = 0, first: int = 0) -> Inexact[Tensor, "batch *event"]:
        """Where a run begins that knows x (batch, *event). Two-sided paths: x is the source, a(t) x + c(t) z, t the start of the interval unless given.

        One-sided paths: x is a guess of the data and the run begins in the middle, at t, where x_t is alpha x + sigma z (Meng et al., 2021,
        arXiv:2108.01073): give the sampler times that begin there too. ValueError for a one-sided path without t.
        """
        if t is None and not self.two_sided:
            raise ValueError("t must be given on a one-sided path: the time at which the guess is joined to the noise")
        checks.tensor("x", x, floating=True)
        t = self.interval[0] if t is None else checks.between("t", t, 0.0, 1.0)
        spectral = getattr(self.schedule, "spectral", False)
        at = self.coefficients(torch.full((1,), t, dtype=torch.float64) if spectral else t)
        kept, c = shaped(at.a if self.two_sided else at.b, x), shaped(at.c, x)
        turn, back = (lambda v: v, lambda v: v) if self.basis is None else (self.basis.forward, self.basis.inverse)
        if not torch.is_tensor(c) and c == 0 or torch.is_tensor(c) and not bool((c != 0).any()):
            return back(kept * turn(x))
        z = self.noise.draw(tuple(x.shape), seed=seed, purpose="start", first=first, like=x)
        return back(kept * turn(x) + c * turn(z))

    def posterior(self, x: Inexact[Tensor, "batch *event"], x1: Inexact[Tensor, "batch *event"], t: Tensor | float, s: Tensor | float,
                  eta: float = 1.0) -> tuple[Inexact[Tensor, "batch *event"], Tensor]:
        """(mean (batch, *event), standard deviation) of x_s given x at time t <= s and the data x1; times are numbers or (batch,).

        eta 1 is the path's Markov chain (Ho et al., 2020, arXiv:2006.11239), 0 keeps the noise that x holds (DDIM, Song et al., 2020,
        arXiv:2010.02502). The standard deviation is eta sigma_s sqrt(1 - exp(-2 h)), h = lam_s - lam_t, and broadcasts to x.
        ValueError for two-sided paths and noise that is not Gaussian, for s before t, and for a t without noise.
        """
        checks.shape_of("x1", x1, x.shape)
        now, then = self._two_times("posterior", x, t, s, s_later=True)
        eta = checks.between("eta", eta, 0.0, 1.0)
        if bool((now.c == 0).any()):
            raise ValueError("t must leave some noise in x, got a time with sigma = 0")
        # Where no data is left at s there is none at t, so that they are one time and nothing decays.
        decay = torch.where(then.b == 0, 1.0, now.b * then.c / (then.b * now.c))
        spread = eta * then.c * (1 - decay**2).clamp_min(0).sqrt()
        kept = (then.c**2 - spread**2).clamp_min(0).sqrt()
        b, c, b_s, kept, spread = (shaped(v, x) for v in (now.b, now.c, then.b, kept, spread))
        return b_s * x1 + kept * (x - b * x1) / c, spread

    def transition(self, x: Inexact[Tensor, "batch *event"], t: Tensor | float, s: Tensor | float) -> tuple[Inexact[Tensor, "batch *event"], Tensor]:
        """(mean (batch, *event), standard deviation) of x_s given x at time t >= s: how noise is added to what is noisy already.

        ValueError for two-sided paths and noise that is not Gaussian, for s after t, and for a t without data.
        """
        now, then = self._two_times("transition", x, t, s, s_later=False)
        if bool((now.b == 0).any()):
            raise ValueError("t must leave some data in x, got a time with alpha = 0")
        ratio = then.b / now.b
        spread = (then.c**2 - (ratio * now.c) ** 2).clamp_min(0).sqrt()
        return shaped(ratio, x) * x, shaped(spread, x)

    def _two_times(self, what: str, x: Tensor, t: Tensor | float, s: Tensor | float, *, s_later: bool) -> tuple[Coefficients, Coefficients]:
        self._one_sided(what)
        self._scalar(what)
        if not self.noise.gaussian:
            raise ValueError(f"{what} needs Gaussian noise, this path has {self.noise}")
        first, second = (torch.as_tensor(v, dtype=torch.float64, device=x.device) for v in (t, s))
        for name, time in (("t", first), ("s", second)):
            if time.shape not in ((), x.shape[:1]):
                raise ValueError(f"{name} must be one number or have shape ({len(x)},), one time a row of x, got shape {tuple(time.shape)}")
        if bool((second < first).any() if s_later else (second > first).any()):
            raise ValueError(f"s must not lie {'before' if s_later else 'after'} t, got t = {t} and s = {s}")
        wide = lambda time: Coefficients(*(torch.as_tensor(v, dtype=torch.float64, device=time.device) for v in self.coefficients(time)))
        return wide(first), wide(second)

    def amplification(self, kind: str) -> float:
        """How much an error of a prediction of this kind grows when it is read as data at the start of the path, |d data / d prediction|.

        1 for a velocity on the linear path, 150 for noise on the variance-preserving one, infinite for noise where alpha is 0.
        """
        self._one_sided("amplification")
        self._scalar("amplification")
        checks.one_of("kind", kind, [known for known in KINDS if known != "residual"])
        at = self.coefficients(self.interval[0])
        b, c, db, cdc = (float(v) for v in (at.b, at.c, at.db, at.cdc))
        if kind in ("noise", "score"):
            return (c if kind == "noise" else c * c) / b if b > 0 else math.inf
        return {"data": 1.0, "v": c / math.hypot(b, c), "velocity": abs(c * c / (b * cdc - c * c * db)) if b * cdc != c * c * db else math.inf}[kind]

    def unit(self, x: Inexact[Tensor, "batch *event"], at: Coefficients) -> Inexact[Tensor, "batch *event"]:
        """x / sqrt(b^2 + c^2): of about variance 1 at all times where the data are; what networks with `unit_input` are shown."""
        self._scalar("unit_input")
        b, c = shaped(at.b, x), shaped(at.c, x)
        return x / (b * b + c * c) ** 0.5

    def prediction(self, known: dict[str, Tensor], x: Inexact[Tensor, "batch *event"], at: Coefficients) -> Prediction:
        """What a network said at x, readable as any kind that this path can give. at: the coefficients there."""
        return Prediction(known, x, at, two_sided=self.two_sided, gaussian=self.noise.gaussian, basis=self.basis)

    def convert(self, value: Inexact[Tensor, "batch *event"], x: Inexact[Tensor, "batch *event"], t: Tensor | float, *, of: str, to: str,
                given: dict[str, Tensor] | None = None) -> Inexact[Tensor, "batch *event"]:
        """Read a prediction `value` of kind `of` at (x, t) as kind `to`. Two-sided paths need a second prediction in `given`."""
        for kind in (of, *(given or {})):
            checks.one_of("of", kind, (*KINDS, "source"))
            if kind in ("residual", "source") and not self.two_sided:
                raise ValueError(f"{kind} cannot be given on a one-sided path, which has no source")
        known = {of: value, **(given or {})}
        return self.prediction(known, x, self.coefficients(t)).of(to)

    def to_json(self) -> dict[str, Any]:
        """A JSON-able description. TypeError if a part of the path is the user's own code, which no file can hold."""
        content = _part_to_json("schedule", self.schedule)
        # Student noise of infinite degrees of freedom is the normal law, and JSON has no infinity.
        if not (self.noise == GAUSSIAN or isinstance(self.noise, Student) and self.noise.gaussian):
            content["noise"] = _part_to_json("noise", self.noise)
        return content if self.basis is None else {**content, "basis": _part_to_json("basis", self.basis)}

    @classmethod
    def from_json(cls, content: Any) -> Path:
        """The path that `to_json` described. ValueError for anything else, classes that are no parts of a path included."""
        if not isinstance(content, dict):
            raise ValueError(f"not a path: {content!r}")
        noise = _part_from_json("noise law", content["noise"], "draw") if "noise" in content else GAUSSIAN
        basis = _part_from_json("basis", content["basis"], "inverse") if "basis" in content else None
        return cls(_part_from_json("schedule", {k: v for k, v in content.items() if k not in ("noise", "basis")}, "coefficients"), noise, basis)

    def _one_sided(self, what: str) -> None:
        if self.two_sided:
            raise ValueError(f"{what} exists for one-sided paths only; this path is two-sided")

    def _scalar(self, what: str) -> None:
        if getattr(self.schedule, "spectral", False):
            raise ValueError(f"{what} exists only where all coordinates share their coefficients; those of this path differ")


def _part_to_json(name: str, part: Any) -> dict[str, Any]:
    kind = type(part)
    if not kind.__module__.startswith("rheos.paths."):
        raise TypeError(f"a path with a {name} of your own, {kind.__qualname__}, cannot be saved")
    settings = {f.name: getattr(part, f.name) for f in fields(part) if f.init}
    for setting, value in settings.items():
        if is_dataclass(value):
            settings[setting] = _part_to_json(setting, value)
        elif callable(value):
            raise TypeError(f"a path whose {setting} is a function cannot be saved")
    return {"class": f"rheos.paths.{kind.__name__}", **settings}


def _part_from_json(what: str, content: Any, method: str) -> Any:
    if not isinstance(content, dict) or "class" not in content:
        raise ValueError(f"not a path: {content!r}")
    maker = rheos_class(content["class"], rooms=("paths",))
    if not hasattr(maker, method) or not is_dataclass(maker) or maker is Path or getattr(maker, "_is_protocol", False):
        raise ValueError(f"class {content['class']!r} in the file is not a {what}")
    try:
        return maker(**{name: _setting_from_json(name, value) for name, value in content.items() if name != "class"})
    except TypeError as error:
        raise ValueError(f"not a path: {error}") from None


def _setting_from_json(name: str, value: Any) -> Any:
    """A setting as it was: a schedule within a schedule, tuples for lists."""
    if isinstance(value, dict):
        return _part_from_json("schedule", value, "coefficients")
    return tuple(_setting_from_json(name, v) for v in value) if isinstance(value, list) else value
