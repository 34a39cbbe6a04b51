r"""Exponential integrators of the probability flow and of its SDE: one rule behind DDIM, DDPM, DEIS, DPM-Solver(++), SDE-DPM-Solver++ and UniPC.

Between two times the flow of a Gaussian path is solved exactly but for one integral (half log-SNR lam, rho = sigma/alpha):
  noise kind  x_t = (alpha_t / alpha_s) x_s - alpha_t int e^{-lam} eps dlam
  data kind   x_t = (sigma_t / sigma_s) e^{-tau h} x_s + (1 + tau) sigma_t int e^{lam - tau (lam_t - lam)} x1 dlam + sigma_t sqrt(1 - e^{-2 tau h}) z,
h = lam_t - lam_s; tau 0 is the flow, 1 the reverse SDE, others lie between and beyond, all with the path's marginals (Xue et al., 2023,
arXiv:2309.05019). Replacing eps or x1 by its Lagrange polynomial through the newest predictions, in some clock, gives every fast multistep
solver: DDIM (order 1), DEIS (noise kind, clock t or rho or lam), DPM-Solver++ (data kind, clock lam), UniPC (with a corrector). The integrals
are done by 48-point Gauss-Legendre quadrature in float64, which is exact to rounding for all times in use, where recurrences would cancel.
"""
from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from rheos.core import checks
from rheos.paths import LAM, RHO, SQRT_U, Clock, Path, T, Times, U
from rheos.samplers.quadrature import gauss, lagrange
from rheos.samplers.tables import LARGEST_RATIO, Row, Table

__all__ = ["DDIM", "DDPM", "DEIS", "INSIDE", "DPMSolverPP", "Exponential", "UniPC", "default_times"]

_FAR = 40.0     # e^-40 is below rounding: a longer interval is cut there
INSIDE = 1e-3   # where rules that divide by alpha or by sigma begin if the path's own start is singular


def default_times(path: Path, steps: int, start: float | None = None, end: float | None = None, spacing: Clock = SQRT_U) -> Times:
    """Equal steps in a clock, by default sqrt(u), u = rho / (1 + rho); three steps or fewer, and paths without one lam, are spaced evenly in t."""
    even = steps <= 3 or path.two_sided or getattr(path.schedule, "spectral", False)
    return Times.uniform(path, steps, T if even else spacing, start=start, end=end)


@dataclass(frozen=True)
class Exponential:
    """The one rule behind DDIM, DEIS, DPM-Solver(++) and UniPC.

    order: predictions that the polynomial runs through (fewer at the beginning). clock: the polynomial's variable. kind: "data", "noise", or
    "score", which extrapolates -eps / sigma instead of eps and is there to compare with: it blows up towards the data.
    corrector: 0 for none, else each point is mended by the polynomial through the prediction there and the `corrector` before it; the
    last point is not. lower_at_end: the last steps use lower orders, which guards against a long last step. tau: 0 follows the flow, 1 the
    reverse SDE; above 0 it needs kind "data", Gaussian noise and no corrector. spacing: the clock in which the default times are evenly
    spaced; up to three steps are even in t.
    """

    order: int = 2
    kind: str = "data"
    clock: Clock = LAM
    corrector: int = 0
    lower_at_end: bool = True
    tau: float = 0.0
    spacing: Clock = SQRT_U
    calls_per_step: ClassVar[int] = 1

    def __post_init__(self):
        checks.integer("order", self.order, least=1)
        checks.integer("corrector", self.corrector, least=0)
        checks.one_of("kind", self.kind, ("data", "noise", "score"))
        for name in ("clock", "spacing"):
            if not isinstance(getattr(self, name), Clock):
                raise TypeError(f"{name} must be a Clock such as LAM, got {getattr(self, name)!r}")
        if checks.positive("tau", self.tau, zero=True) > 0:
            if self.kind != "data":
                raise ValueError(f"tau above 0 needs kind data, got kind {self.kind}")
            if self.corrector:
                raise ValueError(f"tau above 0 needs corrector = 0: a mended point would need its noise again; got corrector = {self.corrector}")

    @classmethod
    def examples(cls) -> list[Exponential]:
        return [cls(2, "data", U, 2), cls(3, "noise", LAM), cls(2, "data", LAM, 1, False), cls(2, "data", LAM, tau=0.3)]

    def times(self, path: Path, steps: int) -> Times:
        """The default spacing; a noise kind begins where the path holds a little data, since it divides by alpha."""
        if path.two_sided:
            return default_times(path, steps)
        (start, end), clocks = path.interval, (self.spacing,) if self.order == 1 and self.corrector == 0 else (self.spacing, self.clock)
        ends = torch.tensor([start, end], dtype=torch.float64)
        first, last = ([float(clock.value(path, ends)[k]) for clock in clocks] for k in (0, 1))
        if (self.kind != "data" and float(path.coefficients(start).b) == 0) or not all(map(math.isfinite, first)):
            start = INSIDE
        if not all(map(math.isfinite, last)):
            end = 1 - INSIDE
        return default_times(path, steps, start, end, self.spacing)

    def _readings(self, times: Times) -> Tensor:
        """The clock at the times; a polynomial of degree 0 does not need one, so it may be infinite there."""
        return torch.zeros_like(times.t) if self.order == 1 and self.corrector == 0 else self.clock.value(times.path, times.t)

    def plan(self, times: Times) -> Table:
        """The table for these times. ValueError where the kind or the clock is singular at one of them."""
        name = type(self).__name__
        if times.path.two_sided:
            raise ValueError(f"{name} needs a one-sided path, got a two-sided one; use Euler, RungeKutta or EulerMaruyama")
        if self.tau and not times.path.noise.gaussian:
            raise ValueError(f"{name} with fresh noise needs a path with Gaussian noise, this one has {times.path.noise}")
        if self.tau and float(times.lam[-1]) < float(times.lam[0]):
            raise ValueError(f"{name} with fresh noise runs from noise to data, got times from {times.t[0]:g} to {times.t[-1]:g}")
        steps, clock = times.steps, self._readings(times).numpy()
        if not np.isfinite(clock).all():
            worst = int(np.argmin(np.isfinite(clock)))
            raise ValueError(f"clock {self.clock.name} is infinite at t = {times.t[worst]:g} of this path; start or end the times a little inside")
        predict: list[Row] = []
        correct: list[Row | None] = []
        for i in range(steps):
            order = min(self.order, i + 1)
            if self.lower_at_end:
                order = min(order, steps - i)
            predict.append(self._row(times, clock, i, [i - j for j in range(order)]))
            count = self._corrects(i, order)
            mended = count > 0 and i + 1 < steps
            correct.append(self._row(times, clock, i, [i + 1] + [i - j for j in range(count)]) if mended else None)
        return Table(times, self.kind, tuple(predict), tuple(correct), origin={"rule": name, "order": self.order})

    def _corrects(self, i: int, order: int) -> int:
        """How many earlier predictions mend the point after step i, which was predicted with `order` of them."""
        return min(self.corrector, i + 1)

    def _row(self, times: Times, clock: np.ndarray, i: int, nodes: list[int]) -> Row:
        keep, weights, noise = self._solved(times, clock, i, nodes)
        total = abs(weights.sum())
        if np.abs(weights).max() > LARGEST_RATIO * max(total, 1e-300):
            raise ValueError(f"step {i + 1} is so much longer than the ones before that a polynomial of degree {len(nodes) - 1} explodes; "
                             "use a lower order or times whose steps change more slowly")
        return Row((keep,), tuple(weights), noise)

    def _solved(self, times: Times, clock: np.ndarray, i: int, nodes: list[int]) -> tuple[float, np.ndarray, float]:
        """(weight of x, weights of the predictions at `nodes`, standard deviation of fresh noise), the integrals solved."""
        here, there = times.each[i], times.each[i + 1]
        basis = lambda lam: lagrange(clock[nodes], self._clock_at(times.path, lam))
        at_end = lambda: lagrange(clock[nodes], clock[i + 1 : i + 2])[:, 0]
        if self.kind == "data":
            return _data_integral(here.b, here.c, there.b, there.c, basis, at_end, self.tau)
        if self.kind == "score":
            plain = basis
            basis = lambda lam: -plain(lam) * times.path.coefficients(times.path.time_at(torch.from_numpy(lam))).c.numpy()
        return *_noise_integral(here.b, here.c, there.b, there.c, basis), 0.0

    def _clock_at(self, path: Path, lam: np.ndarray) -> np.ndarray:
        known = {"lam": lambda: lam, "rho": lambda: np.exp(-lam), "u": lambda: 1 / (1 + np.exp(lam)), "sqrt_u": lambda: (1 + np.exp(lam)) ** -0.5,
                 "rho7": lambda: np.exp(-lam / 7)}
        if self.clock.name in known:
            with np.errstate(over="ignore"):
                return known[self.clock.name]()
        return self.clock.value(path, path.time_at(torch.from_numpy(lam))).numpy()


Basis = Callable[[np.ndarray], np.ndarray]


def _data_integral(alpha_s: float, sigma_s: float, alpha_t: float, sigma_t: float, basis: Basis, at_end: Callable[[], np.ndarray],
                   tau: float) -> tuple[float, np.ndarray, float]:
    """(sigma_t / sigma_s e^{-tau h}, (1 + tau) sigma_t int e^{lam - tau (lam_t - lam)} l_j dlam, sigma_t sqrt(1 - e^{-2 tau h})).

    With y = log(u / u_t), u = sigma / (alpha + sigma), the weight at tau 0 is (alpha_t + sigma_t) int_0^H e^-y l_j dy, which is well behaved
    for all times, alpha_s = 0 included; as sigma_t goes to 0, H grows without bound and the weight tends to alpha_t l_j(end).
    """
    if sigma_s == 0:
        raise ValueError("a data prediction cannot carry on from a time without noise (sigma = 0); use kind noise or start a little before")
    if sigma_t == 0:
        return 0.0, alpha_t * at_end(), 0.0
    log_u_t = -math.log1p(alpha_t / sigma_t)
    high = -math.log1p(alpha_s / sigma_s) - log_u_t
    y, w = gauss(0.0, min(high, _FAR))
    log_u = np.minimum(log_u_t + y, -1e-300)       # rounding may carry log u to 0 where alpha_s = 0
    lam = np.log(-np.expm1(log_u)) - log_u
    weight = np.exp(-y) * w
    if tau == 0:
        return sigma_t / sigma_s, (alpha_t + sigma_t) * basis(lam) @ weight, 0.0
    decay = (sigma_t * alpha_s / (alpha_t * sigma_s)) ** tau          # e^{-tau h}
    weight *= (1 + tau) * np.exp(-tau * (math.log(alpha_t / sigma_t) - lam))
    return sigma_t / sigma_s * decay, (alpha_t + sigma_t) * basis(lam) @ weight, sigma_t * math.sqrt(max(0.0, 1 - decay * decay))


def _noise_integral(alpha_s: float, sigma_s: float, alpha_t: float, sigma_t: float, basis: Basis) -> tuple[float, np.ndarray]:
    """(alpha_t / alpha_s, -alpha_t int e^-lam l_j dlam), the integral being int l_j drho from rho_s to rho_t."""
    if alpha_s == 0 or alpha_t == 0:
        raise ValueError("a noise prediction cannot carry on from or to a time without data (alpha = 0); start the times a little after, or use kind data")
    rho_s, rho_t = sigma_s / alpha_s, sigma_t / alpha_t
    if min(rho_s, rho_t) == 0:
        rho, w = gauss(rho_s, rho_t)
        lam = -np.log(rho)
    else:
        lam, w = gauss(-math.log(rho_s), -math.log(rho_t))
        w = -w * np.exp(-lam)
    return alpha_t / alpha_s, alpha_t * basis(lam) @ w


@dataclass(frozen=True)
class DDIM(Exponential):
    """Denoising diffusion implicit model, eta = 0 (Song et al., 2020, arXiv:2010.02502): the first-order exponential rule of either kind."""

    order: int = 1

    @classmethod
    def examples(cls) -> list[DDIM]:
        return [cls()]


@dataclass(frozen=True)
class DDPM(Exponential):
    """Ancestral sampling (Ho et al., 2020, arXiv:2006.11239): x_s drawn from the path's posterior at the predicted data, see `Path.posterior`.

    eta: 1 is the paper's chain (with its smaller variance), 0 is DDIM, which gives the family between them its name (arXiv:2010.02502).
    No noise is added by a last step that ends without noise.
    """

    order: int = 1
    eta: float = 1.0

    def __post_init__(self):
        super().__post_init__()
        checks.between("eta", self.eta, 0.0, 1.0)
        for name, value in (("order", 1), ("kind", "data"), ("tau", 0.0), ("corrector", 0)):
            if getattr(self, name) != value:
                raise ValueError(f"{name} of DDPM is {value}, got {getattr(self, name)}")

    @classmethod
    def examples(cls) -> list[DDPM]:
        return [cls(), cls(eta=0.4)]

    def plan(self, times: Times) -> Table:
        if not times.path.two_sided and not times.path.noise.gaussian:
            raise ValueError(f"DDPM needs a path with Gaussian noise, this one has {times.path.noise}")
        if not times.path.two_sided and float(times.lam[-1]) < float(times.lam[0]):
            raise ValueError(f"DDPM runs from noise to data, got times from {times.t[0]:g} to {times.t[-1]:g}")
        return super().plan(times)

    def _solved(self, times: Times, clock: np.ndarray, i: int, nodes: list[int]) -> tuple[float, np.ndarray, float]:
        here, there = times.each[i], times.each[i + 1]
        if here.c == 0:
            raise ValueError("DDPM cannot carry on from a time without noise (sigma = 0); start a little before")
        decay = here.b * there.c / (there.b * here.c)
        spread = self.eta * there.c * math.sqrt(max(0.0, 1 - decay * decay))
        keep = math.sqrt(max(0.0, there.c**2 - spread**2)) / here.c
        return keep, np.array([there.b - keep * here.b]), spread


@dataclass(frozen=True)
class DEIS(Exponential):
    """Diffusion exponential integrator sampler, tAB-DEIS (Zhang and Chen, 2022, arXiv:2204.13902).

    Extrapolates the noise prediction (not the score, which blows up like 1 / sigma) by a polynomial of degree order - 1 in `clock`: T is
    the paper's tAB, RHO its rhoAB, LAM what diffusers calls DEIS. order 4 is the paper's degree 3; order 1 is DDIM.
    """

    order: int = 4
    kind: str = "noise"
    clock: Clock = T
    lower_at_end: bool = False

    @classmethod
    def examples(cls) -> list[DEIS]:
        return [cls(), cls(3, clock=RHO), cls(2, clock=LAM)]


@dataclass(frozen=True)
class DPMSolverPP(Exponential):
    """DPM-Solver++ multistep (Lu et al., 2022, arXiv:2211.01095): data prediction, polynomial in lam, orders 1 to 3; tau 1 is SDE-DPM-Solver++.

    form: "exact" integrates the polynomial exactly (what diffusers calls solver type "heun" at order 2); "midpoint" is the published rule of
    order 2, which takes the line at the middle of the step. Thresholding is `edit=dynamic_threshold(...)` of `sample`.
    """

    order: int = 2
    form: str = "exact"

    def __post_init__(self):
        super().__post_init__()
        checks.one_of("form", self.form, ("exact", "midpoint"))
        if self.kind != "data":
            raise ValueError(f"DPMSolverPP has kind data, got kind {self.kind}; Exponential takes others")
        if self.form == "midpoint" and self.clock != LAM:
            raise ValueError(f"clock must be lam in the form midpoint, got {self.clock.name}")
        if self.form == "midpoint" and self.order > 2:
            raise ValueError(f"order must be at most 2 in the form midpoint, got {self.order}; the form exact has all orders")

    @classmethod
    def examples(cls) -> list[DPMSolverPP]:
        return [cls(), cls(3), cls(2, form="midpoint"), cls(2, tau=1.0), cls(3, tau=1.0), cls(2, tau=1.0, form="midpoint")]

    def _solved(self, times: Times, clock: np.ndarray, i: int, nodes: list[int]) -> tuple[float, np.ndarray, float]:
        if self.form == "exact" or len(nodes) == 1:
            return super()._solved(times, clock, i, nodes)
        keep, whole, noise = super()._solved(times, clock, i, nodes[:1])
        half = 0.5 * float(whole[0]) * (clock[i + 1] - clock[i]) / (clock[i] - clock[i - 1])
        return keep, np.array([whole[0] + half, -half]), noise


@dataclass(frozen=True)
class UniPC(Exponential):
    """Unified predictor-corrector (Zhao et al., 2023, arXiv:2302.04867): DPM-Solver++'s predictor, and a corrector of the same order at no extra call.

    variant: how the weight of a two-point formula is set, B(h) / 2 with B(h) = h ("bh1") or e^h - 1 ("bh2", the authors' choice) in place of
    the solved integral ("solved"). Formulas of more points are solved in all three.
    """

    order: int = 3
    corrector: int | None = None
    variant: str = "bh2"

    def __post_init__(self):
        if self.corrector is None:
            object.__setattr__(self, "corrector", self.order)
        super().__post_init__()
        checks.one_of("variant", self.variant, ("bh1", "bh2", "solved"))
        if self.kind != "data" or self.clock != LAM:
            raise ValueError(f"UniPC has kind data and clock lam, got kind {self.kind} and clock {self.clock.name}; Exponential takes others")

    @classmethod
    def examples(cls) -> list[UniPC]:
        return [cls(), cls(2), cls(2, variant="bh1"), cls(1)]

    def _corrects(self, i: int, order: int) -> int:
        return min(self.corrector, order)

    def _solved(self, times: Times, clock: np.ndarray, i: int, nodes: list[int]) -> tuple[float, np.ndarray, float]:
        if self.variant == "solved" or len(nodes) != 2:
            return super()._solved(times, clock, i, nodes)
        keep, whole, noise = super()._solved(times, clock, i, [i])
        step = clock[i + 1] - clock[i]
        half = 0.5 * (times.each[i + 1].b * step if self.variant == "bh1" else float(whole[0]))
        if nodes[0] == i + 1:
            return keep, np.array([half, whole[0] - half]), noise
        slope = half * step / (clock[i] - clock[i - 1])
        return keep, np.array([whole[0] + slope, -slope]), noise
