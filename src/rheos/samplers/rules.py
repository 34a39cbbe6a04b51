r"""The classic rules, all as tables.

Between two times the probability flow of a Gaussian path is solved exactly but for one integral (half log-SNR lam, rho = sigma/alpha):
  noise kind  x_t = (alpha_t / alpha_s) x_s - alpha_t int e^{-lam} eps dlam
  data kind   x_t = (sigma_t / sigma_s) x_s + sigma_t int e^{lam} x1 dlam
Replacing eps or x1 by its Lagrange polynomial through the newest predictions, in some clock, gives every fast multistep solver: DDIM
(order 1), DEIS (noise kind, clock t or rho or lam), DPM-Solver++ (data kind, clock lam), UniPC (with a corrector). The integrals are done by
48-point Gauss-Legendre quadrature in float64, which is exact to rounding for all times in use, where recurrences would cancel.
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
from rheos.paths import LAM, QUADRATIC, RHO, SQRT_U, Clock, Field, Path, T, Times, U
from rheos.samplers.tables import LARGEST_RATIO, Row, Table

__all__ = ["DDIM", "DEIS", "AdamsBashforth", "DPMSolverPP", "Euler", "EulerMaruyama", "Exponential", "RungeKutta", "default_rule"]

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(48)
_FAR = 40.0     # e^-40 is below rounding: a longer interval is cut there
LARGEST_AMPLIFICATION = 2.0      # of an error of the network when it is read as data: 1 for data and for velocity on the linear path, 150 for noise on VP
INSIDE = 1e-3   # where rules that divide by alpha or by sigma begin if the path's own start is singular


def default_times(path: Path, steps: int, start: float | None = None, end: float | None = None) -> Times:
    """Equal steps in sqrt(u), u = rho / (1 + rho); three steps or fewer, and two-sided paths, are spaced evenly in t."""
    return Times.uniform(path, steps, T if steps <= 3 or path.two_sided else SQRT_U, start=start, end=end)


def _lagrange(nodes: np.ndarray, at: np.ndarray) -> np.ndarray:
    """(nodes, points): the Lagrange basis on `nodes` evaluated `at` points."""
    basis = np.ones((len(nodes), len(at)))
    for j, node in enumerate(nodes):
        for k, other in enumerate(nodes):
            if k != j:
                basis[j] *= (at - other) / (node - other)
    return basis


def _gauss(low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    half = 0.5 * (high - low)
    return low + half * (_NODES + 1), half * _WEIGHTS


@dataclass(frozen=True)
class Exponential:
    """The one rule behind DDIM, DEIS, DPM-Solver(++) and UniPC.

    order: predictions that the polynomial runs through (fewer at the beginning). clock: the polynomial's variable. kind: "data", "noise", or
    "score", which extrapolates -eps / sigma instead of eps and is there to compare with: it blows up towards the data.
    corrector: 0 for none, else each point is mended by the polynomial through the prediction there and the `corrector` before it; the
    last point is not. lower_at_end: the last steps use lower orders, which guards against a long last step.
    """

    order: int = 2
    kind: str = "data"
    clock: Clock = LAM
    corrector: int = 0
    lower_at_end: bool = True
    calls_per_step: ClassVar[int] = 1

    def __post_init__(self):
        checks.integer("order", self.order, least=1)
        checks.integer("corrector", self.corrector, least=0)
        checks.one_of("kind", self.kind, ("data", "noise", "score"))

    @classmethod
    def examples(cls) -> list[Exponential]:
        return [cls(2, "data", U, 2), cls(3, "noise", LAM), cls(2, "data", LAM, 1, False)]

    def times(self, path: Path, steps: int) -> Times:
        """The default spacing; a noise kind begins where the path holds a little data, since it divides by alpha."""
        if path.two_sided:
            return default_times(path, steps)
        times = default_times(path, steps)
        start, end = (float(v) for v in times.t[[0, -1]])
        first, last = self._readings(times)[[0, -1]].tolist()
        if (self.kind != "data" and float(times.alpha[0]) == 0) or not math.isfinite(first):
            start = INSIDE
        if not math.isfinite(last):
            end = 1 - INSIDE
        return default_times(path, steps, start, end)

    def _readings(self, times: Times) -> Tensor:
        """The clock at the times; a polynomial of degree 0 does not need one, so it may be infinite there."""
        return torch.zeros_like(times.t) if self.order == 1 and self.corrector == 0 else self.clock.value(times.path, times.t)

    def plan(self, times: Times) -> Table:
        """The table for these times. ValueError where the kind or the clock is singular at one of them."""
        if times.path.two_sided:
            raise ValueError(f"{type(self).__name__} needs a one-sided path, got a two-sided one; use Euler, RungeKutta or EulerMaruyama")
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
            count = min(self.corrector, i + 1)
            mended = self.corrector > 0 and i + 1 < steps
            correct.append(self._row(times, clock, i, [i + 1] + [i - j for j in range(count)]) if mended else None)
        return Table(times, self.kind, tuple(predict), tuple(correct), origin={"rule": type(self).__name__, "order": self.order})

    def _row(self, times: Times, clock: np.ndarray, i: int, nodes: list[int]) -> Row:
        here, there = times.each[i], times.each[i + 1]
        integrate = _data_integral if self.kind == "data" else _noise_integral
        basis = lambda lam: _lagrange(clock[nodes], self._clock_at(times.path, lam))
        if self.kind == "score":
            plain = basis
            basis = lambda lam: -plain(lam) * times.path.coefficients(times.path.time_at(torch.from_numpy(lam))).c.numpy()
        keep, weights = integrate(here.b, here.c, there.b, there.c, basis, lambda: _lagrange(clock[nodes], clock[i + 1 : i + 2])[:, 0])
        total = abs(weights.sum())
        if np.abs(weights).max() > LARGEST_RATIO * max(total, 1e-300):
            raise ValueError(f"step {i + 1} is so much longer than the ones before that a polynomial of degree {len(nodes) - 1} explodes; "
                             "use a lower order or times whose steps change more slowly")
        return Row((keep,), tuple(weights))

    def _clock_at(self, path: Path, lam: np.ndarray) -> np.ndarray:
        known = {"lam": lambda: lam, "rho": lambda: np.exp(-lam), "u": lambda: 1 / (1 + np.exp(lam)), "sqrt_u": lambda: (1 + np.exp(lam)) ** -0.5}
        if self.clock.name in known:
            with np.errstate(over="ignore"):
                return known[self.clock.name]()
        return self.clock.value(path, path.time_at(torch.from_numpy(lam))).numpy()


Basis = Callable[[np.ndarray], np.ndarray]


def _data_integral(alpha_s: float, sigma_s: float, alpha_t: float, sigma_t: float, basis: Basis, at_end: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    """(sigma_t / sigma_s, sigma_t int e^lam l_j dlam).

    With y = log(u / u_t), u = sigma / (alpha + sigma), the weight is (alpha_t + sigma_t) int_0^H e^-y l_j dy, which is well behaved for all
    times, alpha_s = 0 included; as sigma_t goes to 0, H grows without bound and the weight tends to alpha_t l_j(end).
    """
    if sigma_s == 0:
        raise ValueError("a data prediction cannot carry on from a time without noise (sigma = 0); use kind noise or start a little before")
    if sigma_t == 0:
        return 0.0, alpha_t * at_end()
    log_u_t = -math.log1p(alpha_t / sigma_t)
    high = -math.log1p(alpha_s / sigma_s) - log_u_t
    y, w = _gauss(0.0, min(high, _FAR))
    log_u = np.minimum(log_u_t + y, -1e-300)       # rounding may carry log u to 0 where alpha_s = 0
    lam = np.log(-np.expm1(log_u)) - log_u
    return sigma_t / sigma_s, (alpha_t + sigma_t) * (basis(lam) * np.exp(-y)) @ w


def _noise_integral(alpha_s: float, sigma_s: float, alpha_t: float, sigma_t: float, basis: Basis, at_end: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    """(alpha_t / alpha_s, -alpha_t int e^-lam l_j dlam), the integral being int l_j drho from rho_s to rho_t."""
    if alpha_s == 0 or alpha_t == 0:
        raise ValueError("a noise prediction cannot carry on from or to a time without data (alpha = 0); start the times a little after, or use kind data")
    rho_s, rho_t = sigma_s / alpha_s, sigma_t / alpha_t
    if min(rho_s, rho_t) == 0:
        rho, w = _gauss(rho_s, rho_t)
        lam = -np.log(rho)
    else:
        lam, w = _gauss(-math.log(rho_s), -math.log(rho_t))
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
    """DPM-Solver++ multistep (Lu et al., 2022, arXiv:2211.01095): data prediction, polynomial in lam, orders 1 to 3.

    The polynomial is integrated exactly (what diffusers calls solver type "heun" at order 2).
    """

    order: int = 2

    @classmethod
    def examples(cls) -> list[DPMSolverPP]:
        return [cls(), cls(3)]


@dataclass(frozen=True)
class AdamsBashforth:
    """x' = v(x, t) by variable-step Adams-Bashforth: the velocity is extrapolated by a polynomial in t through the newest `order` ones.

    spacing: the clock in which the default times are evenly spaced.
    """

    order: int = 2
    spacing: Clock = T
    calls_per_step: ClassVar[int] = 1

    def __post_init__(self):
        checks.integer("order", self.order, least=1)

    @classmethod
    def examples(cls) -> list[AdamsBashforth]:
        return [cls(2), cls(3)]

    def times(self, path: Path, steps: int) -> Times:
        return Times.uniform(path, steps, self.spacing)

    def plan(self, times: Times) -> Table:
        t = times.t.numpy()
        rows = []
        for i in range(times.steps):
            nodes = [i - j for j in range(min(self.order, i + 1))]
            points, weights = _gauss(t[i], t[i + 1])
            rows.append(Row((1.0,), tuple(_lagrange(t[nodes], points) @ weights)))
        return Table(times, "velocity", tuple(rows), origin={"rule": type(self).__name__, "order": self.order})


@dataclass(frozen=True)
class Euler(AdamsBashforth):
    """Euler's rule for the flow: x + h v(x, t)."""

    order: int = 1

    @classmethod
    def examples(cls) -> list[Euler]:
        return [cls()]


def _time(clock: Clock, path: Path, value: float) -> float:
    return float(clock.time(path, torch.tensor(value, dtype=torch.float64)))


# stages: rows of Butcher's matrix for stages 2, 3, ...; then the weights.
_BUTCHER: dict[int, tuple[tuple[tuple[float, ...], ...], tuple[float, ...]]] = {
    2: (((1.0,),), (1 / 2, 1 / 2)),                                                        # Heun
    3: (((1 / 2,), (-1.0, 2.0)), (1 / 6, 2 / 3, 1 / 6)),                                   # Kutta
    4: (((1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),          # the classical rule
}


@dataclass(frozen=True)
class RungeKutta:
    """Heun's, Kutta's and the classical Runge-Kutta rule, `order` field calls a step; several rows of the table make one step.

    kind "velocity" steps x' = v in t. kind "noise" is rhoRK-DEIS (arXiv:2204.13902): d(x / alpha) / drho = eps, so the linear part is exact.
    """

    order: int = 2
    kind: str = "velocity"
    asks_at_end: ClassVar[bool] = True      # the last stage of some lies at the end of the step

    def __post_init__(self):
        checks.one_of("order", self.order, _BUTCHER)
        checks.one_of("kind", self.kind, ("velocity", "noise"))

    @property
    def calls_per_step(self) -> int:
        return self.order

    @classmethod
    def examples(cls) -> list[RungeKutta]:
        return [cls(2), cls(3, "noise"), cls(4)]

    def times(self, path: Path, steps: int) -> Times:
        if self.kind == "velocity":
            return Times.uniform(path, steps, T)
        return Exponential(1, "noise").times(path, steps)

    def plan(self, times: Times) -> Table:
        if self.kind == "noise" and times.path.two_sided:
            raise ValueError("RungeKutta with kind noise needs a one-sided path, got a two-sided one; use kind velocity")
        stages, weights = _BUTCHER[self.order]
        clock = T if self.kind == "velocity" else RHO
        value = clock.value(times.path, times.t).tolist()
        if not all(math.isfinite(v) for v in value):
            raise ValueError("a noise prediction cannot carry on from or to a time without data (alpha = 0); start the times a little after")
        points: list[float] = []
        moves: list[tuple[int, int, tuple[float, ...], float]] = []      # row, points back to the step's own start, weights, length
        for i in range(times.steps):
            step = value[i + 1] - value[i]
            for j, row in enumerate((*stages, weights)):
                points.append(float(times.t[i]) if j == 0 else _time(clock, times.path, value[i] + sum(stages[j - 1]) * step))
                moves.append((len(points) - 1, j, row, step))
        points.append(float(times.t[-1]))
        planned = Times(times.path, points, _repeats=True)
        scale = [1.0] * len(points) if self.kind == "velocity" else planned.alpha.tolist()
        rows = [Row((*(0.0,) * back, scale[i + 1] / scale[i - back]), tuple(scale[i + 1] * step * v for v in reversed(row))) for i, back, row, step in moves]
        return Table(planned, self.kind, tuple(rows), origin={"rule": type(self).__name__, "order": self.order})


def _falling(t: float) -> float:
    return 1 - t


@dataclass(frozen=True)
class EulerMaruyama:
    """dX = (v + epsilon score) dt + sqrt(2 epsilon) dW: an SDE with the path's marginals for every epsilon >= 0 (arXiv:2303.08797).

    epsilon: a number, or a function of t. 0 is the probability flow by Euler's rule. On times that fall, the backward SDE is meant.
    """

    epsilon: float | Callable[[float], float] = 1.0
    order: ClassVar[int] = 1
    calls_per_step: ClassVar[int] = 1

    def __post_init__(self):
        if not callable(self.epsilon):
            checks.positive("epsilon", self.epsilon, zero=True)

    @classmethod
    def examples(cls) -> list[EulerMaruyama]:
        return [cls(0.5), cls(_falling)]

    def times(self, path: Path, steps: int) -> Times:
        return Times.uniform(path, steps, T)

    def plan(self, times: Times) -> Table:
        rows, levels = [], []
        for start, end in zip(times.t.tolist(), times.t[1:].tolist(), strict=False):
            level = checks.positive("epsilon", self.epsilon(start), zero=True) if callable(self.epsilon) else float(self.epsilon)
            step = end - start
            rows.append(Row((1.0,), (step,), math.sqrt(2 * level * abs(step))))
            levels.append(math.copysign(level, step))
        return Table(times, "drift", tuple(rows), epsilon=tuple(levels), origin={"rule": type(self).__name__})


def default_rule(field: Field) -> Exponential | AdamsBashforth | RungeKutta:
    """What samples best without tuning.

    Where the network tells the data well at the start of its path: data prediction, exponential rule of order 2 with corrector 2, polynomials
    in u, equal steps in sqrt(u). A network that predicts noise, or velocity on a variance-preserving path, does not: there the data
    prediction divides the network's error by alpha, which is almost 0, and the long first step would carry that on. It gets Adams-Bashforth of
    order 2 on its velocity, equal steps in sqrt(1 - t). Two-sided paths get Heun's rule.
    """
    if field.path.two_sided:
        return RungeKutta(2)
    if _error_of_data(field) > LARGEST_AMPLIFICATION:
        return AdamsBashforth(2, spacing=QUADRATIC)
    return Exponential(2, "data", U, corrector=2)


def _error_of_data(field: Field) -> float:
    """How much an error of the network's answer grows when it is read as data at the start of the path: |d data / d answer|."""
    at = field.path.coefficients(field.path.interval[0])
    b, c, db, cdc = (float(v) for v in (at.b, at.c, at.db, at.cdc))
    from_velocity = abs(c * c / (b * cdc - c * c * db))
    grown = {"data": 1.0, "velocity": from_velocity, "noise": c / b if b > 0 else math.inf, "score": c * c / b if b > 0 else math.inf}
    return min(grown[kind] for kind in field.predicts)
