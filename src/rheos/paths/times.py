"""Times: where a sampler evaluates, with the path's coefficients there; and the clocks in which times are spaced."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from rheos.core import checks
from rheos.paths.path import Path
from rheos.paths.schedules import Coefficients

__all__ = ["LAM", "QUADRATIC", "RHO", "RHO7", "SQRT_U", "Clock", "T", "Times", "U"]

# name -> (value at (path, t), time at (path, value)); rho = sigma / alpha, u = rho / (1 + rho), which is 1 - t on the linear path.
_CLOCKS: dict[str, tuple[Callable[[Path, Tensor], Tensor], Callable[[Path, Tensor], Tensor]]] = {
    "t": (lambda path, t: t, lambda path, v: v),
    "lam": (lambda path, t: path.lam(t), lambda path, v: path.time_at(v)),
    "rho": (lambda path, t: torch.exp(-path.lam(t)), lambda path, v: path.time_at(-torch.log(v))),
    "u": (lambda path, t: torch.sigmoid(-path.lam(t)), lambda path, v: path.time_at(-torch.logit(v))),
    "sqrt_u": (lambda path, t: torch.sigmoid(-path.lam(t)).sqrt(), lambda path, v: path.time_at(-torch.logit(v * v))),
    "quadratic": (lambda path, t: torch.sqrt(1 - t), lambda path, v: 1 - v * v),
    "rho7": (lambda path, t: torch.exp(-path.lam(t) / 7), lambda path, v: path.time_at(-7 * torch.log(v))),
}


@dataclass(frozen=True)
class Clock:
    """A monotone measure of time along a path: for spacing `Times`, and for the polynomials of multistep rules.

    name: "t", which on `Path.from_betas` is the model's own step; "lam" = log(alpha / sigma); "rho" = sigma / alpha; "u" = rho / (1 + rho), the
    linear flow's own 1 - t; "sqrt_u" its root; "quadratic" = sqrt(1 - t), dense near the data; "rho7" = rho^(1/7), the spacing of Karras
    et al. (2022, arXiv:2206.00364).
    """

    name: str

    def __post_init__(self):
        checks.one_of("clock", self.name, _CLOCKS)

    def value(self, path: Path, t: Tensor) -> Tensor:
        """The clock's reading at times t (float64)."""
        return _CLOCKS[self.name][0](path, t)

    def time(self, path: Path, value: Tensor) -> Tensor:
        """The times at which the clock reads `value` (float64)."""
        return _CLOCKS[self.name][1](path, value)


T, LAM, RHO, U, SQRT_U, QUADRATIC, RHO7 = (Clock(name) for name in _CLOCKS)


class Times:
    """Strictly monotone times on a path, (steps + 1,) float64 on the CPU, with alpha, sigma and lam there.

    >>> Times.uniform(Path.linear(), 4).t.tolist()
    [0.0, 0.25, 0.5, 0.75, 1.0]
    """

    def __init__(self, path: Path, t: Tensor | Sequence[float], *, _repeats: bool = False):
        if not isinstance(path, Path):
            raise TypeError(f"path must be a Path, got {type(path).__name__}")
        self.path = path
        self.t = torch.as_tensor(t, dtype=torch.float64).detach().cpu().clone()
        if not _repeats:        # the evaluation points of a planned table may stand still or turn (Runge-Kutta stages)
            checks.monotone("times", self.t)
        found = [torch.as_tensor(v, dtype=torch.float64) for v in path.coefficients(self.t)]
        size = np.broadcast_shapes(*(v.shape for v in found), (len(self.t),) + (1,) * (max(v.ndim for v in found) - 1))
        self.coefficients = Coefficients(*(v.expand(size) for v in found))

    @classmethod
    def uniform(cls, path: Path, steps: int, clock: Clock = T, *, start: float | None = None, end: float | None = None) -> Times:
        """`steps` equal steps of `clock` from `start` to `end` (default: the path's interval).

        ValueError if the clock is not finite at an end of this path.
        """
        steps = checks.integer("steps", steps, least=1)
        if not isinstance(clock, Clock):
            raise TypeError(f"clock must be a Clock such as SQRT_U, got {clock!r}")
        start = checks.between("start", path.interval[0] if start is None else start, 0.0, 1.0)
        end = checks.between("end", path.interval[1] if end is None else end, 0.0, 1.0)
        ends = torch.tensor([start, end], dtype=torch.float64)
        first, last = clock.value(path, ends).tolist()
        for time, value in ((start, first), (end, last)):
            if not abs(value) < float("inf"):
                raise ValueError(f"clock {clock.name} is {value} at t = {time:g} of this path; give a start and end a little inside (0, 1)")
        t = clock.time(path, torch.linspace(first, last, steps + 1, dtype=torch.float64))
        t[0], t[-1] = start, end          # exactly, whatever the clock's inverse rounds to
        return cls(path, t)

    @classmethod
    def from_lam(cls, path: Path, lam: Tensor | Sequence[float]) -> Times:
        """The times at which `path` has these values of log(alpha / sigma), strictly monotone. ValueError for values beyond the path's ends."""
        lam = torch.as_tensor(lam, dtype=torch.float64)
        ends = path.lam(torch.tensor([0.0, 1.0], dtype=torch.float64))
        beyond = (lam < ends[0] - 1e-9) | (lam > ends[1] + 1e-9)
        if bool(beyond.any()):
            raise ValueError(f"lam must lie in [{ends[0]:g}, {ends[1]:g}] on this path, got {float(lam[beyond][0]):g}")
        return cls(path, path.time_at(lam).clamp(0.0, 1.0))

    def __len__(self) -> int:
        return len(self.t)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Times) and self.path == other.path and torch.equal(self.t, other.t)

    def __hash__(self) -> int:
        return hash((self.path, self.t.numpy().tobytes()))

    @property
    def steps(self) -> int:
        return len(self.t) - 1

    def reversed(self) -> Times:
        """The same times the other way round, from data to base."""
        return Times(self.path, self.t.flip(0))

    @property
    def alpha(self) -> Tensor:
        return self.coefficients.b

    @property
    def sigma(self) -> Tensor:
        return self.coefficients.c

    @cached_property
    def lam(self) -> Tensor:
        return self.path.lam(self.t)

    @cached_property
    def each(self) -> list[Coefficients]:
        """The coefficients at each time: floats, or tensors that broadcast to an event where they differ by coordinate."""
        stacked = torch.stack(list(self.coefficients), 1)
        return [Coefficients(*row) for row in (stacked.tolist() if stacked.ndim == 2 else stacked.unsqueeze(2))]

    def __repr__(self) -> str:
        return f"Times({self.path.schedule}, {[round(v, 6) for v in self.t.tolist()]})"
