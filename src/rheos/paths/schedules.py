"""Schedules: how much of base, data and fresh noise a path holds at time t, with exact derivatives.

x_t = a(t) x0 + b(t) x1 + c(t) z, t from 0 (base, noise) to 1 (data). One-sided schedules have a = 0: there b is alpha, c is sigma,
and lam = log(alpha / sigma) rises in t. All arithmetic is float64: near t = 1 a float32 clock would lose sigma.
"""
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from rheos.core import checks

__all__ = ["EDM", "VE", "VP", "BrownianBridge", "Coefficients", "Cosine", "Interpolant", "Linear", "Residual", "Schedule"]


class Coefficients(NamedTuple):
    """a, b, c and their time derivatives at one time (floats) or at a batch of times (tensors (batch,), float64; floats where they are constant).

    cdc is c(t) c'(t), which stays finite at ends where c is 0 and c' is not.
    """

    a: Any
    b: Any
    c: Any
    da: Any
    db: Any
    dc: Any
    cdc: Any


@runtime_checkable
class Schedule(Protocol):
    """`two_sided`: whether a is not identically 0. `interval`: the times between which samplers run unless told otherwise.

    `noiseless`, if it is there and true, says that c is identically 0. One-sided schedules also have `time_at(lam)`, the inverse of lam.
    `spectral`, if it is there and true, says that coefficients differ by coordinate of the path's basis: they then have the shape of t
    followed by as many axes as an event has, which broadcast to it. Such schedules have no lam.
    """

    two_sided: ClassVar[bool]
    interval: tuple[float, float]

    def coefficients(self, t: Tensor) -> Coefficients: ...


@dataclass(frozen=True)
class Linear:
    """alpha = t, sigma = 1 - t: flow matching and rectified flow (Liu et al., 2022, arXiv:2209.03003). Velocity is x1 - z."""

    two_sided: ClassVar[bool] = False
    interval: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def coefficients(self, t: Tensor) -> Coefficients:
        sigma = 1 - t
        return Coefficients(0.0, t, sigma, 0.0, 1.0, -1.0, -sigma)

    def time_at(self, lam: Tensor) -> Tensor:
        return torch.sigmoid(lam)


@dataclass(frozen=True)
class VP:
    """Variance preserving with linear rate beta (Song et al., 2021, arXiv:2011.13456): alpha^2 + sigma^2 = 1.

    log alpha = -(beta_min s / 2 + (beta_max - beta_min) s^2 / 4), s = 1 - t. beta_min, beta_max: rates per unit time.
    Samplers stop at t = 1 - 1e-3, where sigma is about 0.01: the velocity is infinite at t = 1.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    two_sided: ClassVar[bool] = False
    interval: ClassVar[tuple[float, float]] = (0.0, 1.0 - 1e-3)

    def __post_init__(self):
        checks.positive("beta_min", self.beta_min)
        if checks.positive("beta_max", self.beta_max) <= self.beta_min:
            raise ValueError(f"beta_max must be above beta_min = {self.beta_min}, got {self.beta_max}")

    def coefficients(self, t: Tensor) -> Coefficients:
        s, spread = 1 - t, self.beta_max - self.beta_min
        log_alpha = -(0.5 * self.beta_min * s + 0.25 * spread * s * s)
        alpha, sigma = log_alpha.exp(), torch.sqrt(-torch.expm1(2 * log_alpha))
        d_alpha = 0.5 * alpha * (self.beta_min + spread * s)
        cdc = -alpha * d_alpha                                # from alpha^2 + sigma^2 = 1
        return Coefficients(0.0, alpha, sigma, 0.0, d_alpha, cdc / sigma, cdc)

    def time_at(self, lam: Tensor) -> Tensor:
        spread = self.beta_max - self.beta_min
        rate = 0.5 * torch.nn.functional.softplus(-2 * lam)   # -log alpha
        s = 2 * rate / (0.5 * self.beta_min + torch.sqrt(0.25 * self.beta_min**2 + spread * rate))
        return 1 - s


@dataclass(frozen=True)
class Cosine:
    """alpha = sin(pi t / 2), sigma = cos(pi t / 2): variance preserving at constant angular speed.

    The cosine schedule of Nichol and Dhariwal (2021, arXiv:2102.09672) without its offset; the trigonometric interpolant of arXiv:2209.15571.
    """

    two_sided: ClassVar[bool] = False
    interval: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def coefficients(self, t: Tensor) -> Coefficients:
        half = 0.5 * math.pi
        # cos(pi t / 2) as a sine: it must be exactly 0 at t = 1, and keep its digits near there.
        alpha, sigma = torch.sin(half * t), torch.sin(half * (1 - t))
        return Coefficients(0.0, alpha, sigma, 0.0, half * sigma, -half * alpha, -half * alpha * sigma)

    def time_at(self, lam: Tensor) -> Tensor:
        return torch.atan(lam.exp()) / (0.5 * math.pi)


@dataclass(frozen=True)
class VE:
    """Variance exploding (Song et al., 2021, arXiv:2011.13456): alpha = 1, sigma falls geometrically from sigma_max to sigma_min.

    sigma_min, sigma_max: in units of the data's standard deviation. The end keeps noise of sigma_min.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0
    two_sided: ClassVar[bool] = False
    interval: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def __post_init__(self):
        _rising_levels(self.sigma_min, self.sigma_max)

    def coefficients(self, t: Tensor) -> Coefficients:
        rate = math.log(self.sigma_min / self.sigma_max)
        sigma = self.sigma_max * torch.exp(rate * t)
        return Coefficients(0.0, torch.ones_like(sigma), sigma, 0.0, torch.zeros_like(sigma), rate * sigma, rate * sigma * sigma)

    def time_at(self, lam: Tensor) -> Tensor:
        return (lam + math.log(self.sigma_max)) / math.log(self.sigma_max / self.sigma_min)


@dataclass(frozen=True)
class EDM:
    """alpha = 1, sigma^(1/rho) falls linearly from sigma_max to sigma_min (Karras et al., 2022, arXiv:2206.00364, equation 5).

    sigma_min, sigma_max: in units of the data's standard deviation. rho: 7 spends most times near the data.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0
    two_sided: ClassVar[bool] = False
    interval: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def __post_init__(self):
        _rising_levels(self.sigma_min, self.sigma_max)
        if checks.positive("rho", self.rho) < 0.1:      # sigma_max^(1/rho) would leave the numbers that there are
            raise ValueError(f"rho must be at least 0.1, got {self.rho:g}")

    def _roots(self) -> tuple[float, float]:
        return self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)

    def coefficients(self, t: Tensor) -> Coefficients:
        first, last = self._roots()
        root = first + t * (last - first)
        sigma = root**self.rho
        d_sigma = self.rho * root ** (self.rho - 1) * (last - first)
        return Coefficients(0.0, torch.ones_like(sigma), sigma, 0.0, torch.zeros_like(sigma), d_sigma, sigma * d_sigma)

    def time_at(self, lam: Tensor) -> Tensor:
        first, last = self._roots()
        return (torch.exp(-lam / self.rho) - first) / (last - first)


def _rising_levels(sigma_min: float, sigma_max: float) -> None:
    checks.positive("sigma_min", sigma_min)
    if checks.positive("sigma_max", sigma_max) <= sigma_min:
        raise ValueError(f"sigma_max must be above sigma_min = {sigma_min}, got {sigma_max}")


def _sqrt(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    c = torch.sqrt(2 * t * (1 - t))
    return c, (1 - 2 * t) / c, 1 - 2 * t


def _none(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    zero = torch.zeros_like(t)
    return zero, zero, zero


def _sin2(t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    c, dc = torch.sin(math.pi * t) ** 2, math.pi * torch.sin(2 * math.pi * t)
    return c, dc, c * dc


GAMMAS: dict[str, Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]] = {"sqrt": _sqrt, "none": _none, "sin2": _sin2}
MIXINGS = ("linear", "trigonometric")


@dataclass(frozen=True)
class Interpolant:
    """Two-sided stochastic interpolant (Albergo, Boffi and Vanden-Eijnden, 2023, arXiv:2303.08797).

    gamma: the noise on the way, c(t): "sqrt" sqrt(2 t (1 - t)) (the Brownian bridge's shape), "sin2" sin(pi t)^2, "none", or a
        function of t (float64 tensor) that vanishes at 0 and 1 and is positive inside; its derivative is taken automatically.
    mixing: a, b: "linear" 1 - t, t; "trigonometric" cos(pi t / 2), sin(pi t / 2).
    """

    gamma: str | Callable[[Tensor], Tensor] = "sqrt"
    mixing: str = "linear"
    two_sided: ClassVar[bool] = True

    def __post_init__(self):
        checks.one_of("mixing", self.mixing, MIXINGS)
        if not callable(self.gamma):
            checks.one_of("gamma", self.gamma, GAMMAS)
            return
        ends = self.gamma(torch.tensor([0.0, 1.0], dtype=torch.float64))
        if float(ends.abs().max()) > 1e-6:
            raise ValueError(f"gamma must vanish at t = 0 and t = 1, got {ends.tolist()}")
        least = float(self.gamma(torch.linspace(0.01, 0.99, 99, dtype=torch.float64)).min())
        if not least > 0:
            raise ValueError(f"gamma must be positive inside (0, 1), got {least:g}")

    @property
    def noiseless(self) -> bool:
        return self.gamma == "none"

    @property
    def interval(self) -> tuple[float, float]:
        # The score is noise / c: where c vanishes at the ends a learned noise prediction cannot give it.
        return (0.0, 1.0) if self.noiseless else (1e-3, 1.0 - 1e-3)

    def coefficients(self, t: Tensor) -> Coefficients:
        if callable(self.gamma):
            c, dc = torch.func.jvp(self.gamma, (t,), (torch.ones_like(t),))
            cdc = c * dc
        else:
            c, dc, cdc = GAMMAS[self.gamma](t)
        if self.mixing == "linear":
            return Coefficients(1 - t, t, c, -1.0, 1.0, dc, cdc)
        half = 0.5 * math.pi
        a, b = torch.cos(half * t), torch.sin(half * t)
        return Coefficients(a, b, c, -half * b, half * a, dc, cdc)


@dataclass(frozen=True)
class BrownianBridge:
    """Two-sided: sqrt(epsilon) times a Brownian motion, pinned to both ends; a, b = 1 - t, t, and c = sqrt(epsilon t (1 - t)).

    epsilon: variance of the motion at time 1, above 0; 2 is the schedule of `Interpolant("sqrt")`. margin: samplers keep so far from both ends
    unless told otherwise, below 1/2. Fields that tell the score themselves need none; a network that predicts noise does (1e-3), for c is 0 there.

    >>> at = BrownianBridge(0.64).coefficients(torch.tensor(0.5, dtype=torch.float64))
    >>> float(at.a), float(at.b), float(at.c), float(at.cdc)
    (0.5, 0.5, 0.4, 0.0)
    """

    epsilon: float
    margin: float = 0.0
    two_sided: ClassVar[bool] = True

    def __post_init__(self):
        checks.positive("epsilon", self.epsilon)
        checks.between("margin", self.margin, 0.0, 0.5, high_open=True)

    @property
    def interval(self) -> tuple[float, float]:
        return self.margin, 1.0 - self.margin

    def coefficients(self, t: Tensor) -> Coefficients:
        c, cdc = torch.sqrt(self.epsilon * t * (1 - t)), 0.5 * self.epsilon * (1 - 2 * t)
        return Coefficients(1 - t, t, c, -1.0, 1.0, cdc / c, cdc)


@dataclass(frozen=True)
class Residual:
    """Two-sided, from a degraded image x0 and some noise to the clean one x1 (Liu et al., 2023, arXiv:2308.13712, "residual denoising").

    a = 1 - t^2, b = t^2, c = noise_scale (1 - t): the limit of many steps of the paper's schedule, whose residual fades in steps that fall
    linearly and whose noise in variances that rise linearly, seen from the clean end. With `like`, a one-sided schedule, a = 1 - alpha,
    b = alpha, c = noise_scale sigma: with x0 = 0 that is the path of `like` itself.

    noise_scale: standard deviation of the noise at the start: 0.1 to restore, 1 to generate, as in the paper for images in [-1, 1].
    """

    noise_scale: float = 0.1
    like: Schedule | None = None
    two_sided: ClassVar[bool] = True
    exempt: ClassVar[dict[str, str]] = {"ends": "it begins at the source with noise of noise_scale on it"}

    def __post_init__(self):
        checks.positive("noise_scale", self.noise_scale)
        if self.like is not None and (isinstance(self.like, type) or not callable(getattr(self.like, "coefficients", None)) or self.like.two_sided):
            raise TypeError(f"like must be a one-sided schedule such as VP(), got {self.like!r}")
        if hasattr(self.like, "schedule"):
            raise TypeError("like must be a schedule such as VP(), got a Path; pass its .schedule")
        if getattr(self.like, "spectral", False):
            raise ValueError(f"like must have coefficients that all coordinates share, those of {self.like!r} differ")
        if self.like is not None:
            ends = self.like.coefficients(torch.tensor(tuple(self.like.interval), dtype=torch.float64)).b
            if not isinstance(ends, Tensor) or float(ends[0]) == float(ends[-1]):
                raise ValueError(f"like must fade the data, alpha is constant on {self.like!r}: the source would never be there")

    @property
    def interval(self) -> tuple[float, float]:
        return (0.0, 1.0) if self.like is None else tuple(self.like.interval)

    def coefficients(self, t: Tensor) -> Coefficients:
        scale = self.noise_scale
        if self.like is None:
            c = scale * (1 - t)
            return Coefficients(1 - t * t, t * t, c, -2 * t, 2 * t, torch.full_like(t, -scale), -scale * c)
        _, b, c, _, db, dc, cdc = self.like.coefficients(t)
        return Coefficients(1 - b, b, scale * c, -db, db, scale * dc, scale * scale * cdc)
