"""At which times a loss looks: laws on (0, 1), stretched over the path's interval, or laws of the noise level, placed on the path."""
from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from rheos.core import Draws, checks
from rheos.paths import Path

__all__ = ["At", "LogNormal", "LogitNormal", "Ordered", "Stratified", "TimeLaw", "UShaped", "Uniform"]


@runtime_checkable
class TimeLaw(Protocol):
    """`sample` gives numbers in (0, 1), or, where the law has `place(path, numbers) -> times`, whatever `place` takes."""

    def sample(self, n: int, *, seed: int | Draws, step: int, device: torch.device | str | None, dtype: torch.dtype) -> Tensor: ...


@dataclass(frozen=True)
class Uniform:
    """Every time alike, `eps` kept clear at both ends."""

    eps: float = 0.0

    def __post_init__(self):
        checks.between("eps", self.eps, 0.0, 0.5, high_open=True)

    def sample(self, n: int, *, seed: int | Draws = 0, step: int = 0, device: torch.device | str | None = None,
               dtype: torch.dtype = torch.float64) -> Float[Tensor, " n"]:
        """(n,) numbers in (0, 1)."""
        u = Draws.of(seed).uniform("time", step, (n,), device=device, dtype=dtype, ahead=True)
        return u if self.eps == 0 else self.eps + (1 - 2 * self.eps) * u


@dataclass(frozen=True)
class At:
    """One time for all rows: 0 for maps that leave the start in one step. It is a share of the path's interval, as all laws here are."""

    share: float = 0.0

    def __post_init__(self):
        checks.between("share", self.share, 0.0, 1.0)

    def sample(self, n: int, *, seed: int | Draws = 0, step: int = 0, device: torch.device | str | None = None,
               dtype: torch.dtype = torch.float64) -> Float[Tensor, " n"]:
        """(n,) times the same number."""
        return torch.full((n,), self.share, device=device, dtype=dtype)


@dataclass(frozen=True)
class Stratified:
    """Uniform, but one time in each of n equal cells, in random order: a minibatch sees all times, so that its loss varies less."""

    def sample(self, n: int, *, seed: int | Draws = 0, step: int = 0, device: torch.device | str | None = None,
               dtype: torch.dtype = torch.float64) -> Float[Tensor, " n"]:
        """(n,) numbers in (0, 1)."""
        draws = Draws.of(seed)
        u = draws.uniform("time", step, (n,), device=device, dtype=torch.float64, ahead=True)
        cells = draws.permutation("time cell", step, n, device=device)
        return ((cells + u) / n).to(dtype).clamp_(max=1 - torch.finfo(dtype).eps / 2)


LARGEST_A = 700.0       # e^700 is about the largest number in float64


@dataclass(frozen=True)
class UShaped:
    """Density proportional to e^{a t} + e^{-a t} around t = 1/2, most times near both ends (Lee et al., 2024, arXiv:2405.20320).

    a: 4 as there, where it is cosh(a t) flipped at random; 0 is uniform.
    """

    a: float = 4.0

    def __post_init__(self):
        checks.between("a", self.a, 0.0, LARGEST_A)

    def sample(self, n: int, *, seed: int | Draws = 0, step: int = 0, device: torch.device | str | None = None,
               dtype: torch.dtype = torch.float64) -> Float[Tensor, " n"]:
        """(n,) numbers in (0, 1)."""
        u = Draws.of(seed).uniform("time", step, (n, 2), device=device, dtype=torch.float64, ahead=True)
        t = u[:, 0] if self.a == 0 else torch.log1p(u[:, 0] * math.expm1(self.a)) / self.a
        return torch.where(u[:, 1] < 0.5, t, 1 - t).to(dtype).clamp_(torch.finfo(dtype).tiny, 1 - torch.finfo(dtype).eps / 2)


@dataclass(frozen=True, eq=False)
class Ordered:
    """Times of `law`, rising within each group of k neighbouring rows: for networks that read k states of one flow in order.

    ValueError, when sampled, for a batch that k does not divide.
    """

    k: int
    law: Any = Uniform()

    def __post_init__(self):
        checks.integer("k", self.k, least=1)
        if not callable(getattr(self.law, "sample", None)):
            raise TypeError(f"law must be a law of times such as Uniform(), got {self.law!r}")

    def sample(self, n: int, *, seed: int | Draws = 0, step: int = 0, device: torch.device | str | None = None,
               dtype: torch.dtype = torch.float64) -> Float[Tensor, " n"]:
        """(n,) numbers of `law`, in (0, 1) unless it places them itself."""
        if n % self.k:
            raise ValueError(f"the batch must be a multiple of k = {self.k}, got {n} rows")
        drawn = self.law.sample(n, seed=seed, step=step, device=device, dtype=dtype)
        return drawn if hasattr(self.law, "place") else self._sorted(drawn)

    def place(self, path: Path, numbers: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """The times, rising within each group."""
        if hasattr(self.law, "place"):
            return self._sorted(self.law.place(path, numbers))
        low, high = path.interval
        return low + (high - low) * numbers

    def _sorted(self, numbers: Tensor) -> Tensor:
        return numbers.reshape(-1, self.k).sort(1).values.reshape(-1)


@dataclass(frozen=True)
class LogitNormal:
    """logit t ~ N(mean, std): most times in the middle, where the field is hardest (Esser et al., 2024, arXiv:2403.03206)."""

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self):
        checks.between("mean", self.mean, -math.inf, math.inf, low_open=True, high_open=True)
        checks.positive("std", self.std)

    def sample(self, n: int, *, seed: int | Draws = 0, step: int = 0, device: torch.device | str | None = None,
               dtype: torch.dtype = torch.float64) -> Float[Tensor, " n"]:
        """(n,) numbers in (0, 1)."""
        normal = Draws.of(seed).rows("time", step, (n,), device=device, dtype=dtype, ahead=True)
        # Far in the tails float32 rounds to an end, where a path may be singular.
        return torch.sigmoid(normal * self.std + self.mean).clamp(torch.finfo(dtype).tiny, 1 - torch.finfo(dtype).eps / 2)


@dataclass(frozen=True)
class LogNormal:
    """log(sigma / alpha) ~ N(mean, std): a law of the noise level, whatever the path (Karras et al., 2022, arXiv:2206.00364, for data of std 0.5).

    mean, std: -1.2, 1.2 as there. Levels beyond the path's ends are drawn at the ends.
    """

    mean: float = -1.2
    std: float = 1.2

    def __post_init__(self):
        checks.between("mean", self.mean, -math.inf, math.inf, low_open=True, high_open=True)
        checks.positive("std", self.std)

    def sample(self, n: int, *, seed: int | Draws = 0, step: int = 0, device: torch.device | str | None = None,
               dtype: torch.dtype = torch.float64) -> Float[Tensor, " n"]:
        """(n,) logarithms of sigma / alpha."""
        return Draws.of(seed).rows("time", step, (n,), device=device, dtype=dtype, ahead=True) * self.std + self.mean

    def place(self, path: Path, levels: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """The times at which the path has these levels, inside its interval."""
        low, high = path.interval
        times = path.time_at(-levels).clamp(low, high).to(levels.dtype)
        # Rounded to the levels' dtype a time may reach an end without noise, where no network can be asked for it.
        return times.clamp(max=1 - torch.finfo(times.dtype).eps / 2) if float(path.coefficients(high).c) == 0 else times
