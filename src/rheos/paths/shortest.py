r"""The shortest path from images to noise: every frequency fades at the pace at which its law changes evenly.

  Sigma_tau(f) = Sigma_0(f)^tau,  tau from 0 (noise) to 1 (data);   alpha_f^2 = (1 - Sigma_0^tau) / (1 - Sigma_0),  sigma_f^2 = 1 - alpha_f^2

Images are modelled as zero-mean Gaussians that are uncorrelated between frequencies, with power spectrum Sigma_0 in units of the noise's. Between such
laws Fisher's metric is ds^2 = sum_f (d log Sigma_f)^2 / 2, so that the shortest way to white noise is straight in log Sigma.
Paper: Das et al., Image generation with shortest path diffusion, 2023, arXiv:2306.00501.

Here tau = sin^2(pi t / 2), which keeps all derivatives finite and is the cosine path where Sigma_0 = 1. `Shortest.time_of(tau)` are the times at
which the way from the noise is the share tau of the whole.
"""
from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from rheos.core import checks
from rheos.paths.schedules import Coefficients

if TYPE_CHECKING:
    from rheos.paths.path import Path
    from rheos.paths.times import Times

__all__ = ["Shortest", "fisher_length", "fisher_times"]

FINE = 4000         # intervals by which lengths are summed


@dataclass(frozen=True)
class Shortest:
    """The schedule of `Path.shortest`, in the basis `Fourier2d`.

    spectrum: (height, width) or (channels, height, width) positive numbers as nested tuples, the variance of each coordinate of the basis
    where the noise's is 1; `Shortest.of(tensor)` makes it of a tensor. ValueError for powers that are not positive and finite.
    """

    spectrum: tuple
    two_sided: ClassVar[bool] = False
    spectral: ClassVar[bool] = True
    interval: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def __post_init__(self):
        power = torch.as_tensor(self.spectrum, dtype=torch.float64)
        if power.ndim not in (2, 3) or not power.numel():
            raise ValueError(f"spectrum must have shape (height, width) or (channels, height, width), got {tuple(power.shape)}")
        _positive(power)

    @classmethod
    def of(cls, spectrum: Tensor) -> Shortest:
        checks.tensor("spectrum", spectrum, floating=True)
        freeze = lambda v: tuple(map(freeze, v)) if isinstance(v, list) else v
        return cls(freeze(spectrum.detach().double().tolist()))

    @cached_property
    def _log(self) -> Tensor:
        """log Sigma_0, (1 or channels, height, width)."""
        power = torch.as_tensor(self.spectrum, dtype=torch.float64).log()
        return power if power.ndim == 3 else power[None]

    def time_of(self, tau: Tensor | float) -> Tensor:
        """The times at which the share tau in [0, 1] of the way is done."""
        tau = torch.as_tensor(tau, dtype=torch.float64)
        return torch.asin(tau.clamp(0, 1).sqrt()) / (0.5 * math.pi)

    def coefficients(self, t: Tensor) -> Coefficients:
        log = self._log.to(t.device)
        half = 0.5 * math.pi * t[..., None, None, None]
        # cos as a sine, exactly 0 at t = 1.
        sine, cosine = half.sin(), (0.5 * math.pi - half).sin()
        tau, rest = sine * sine, cosine * cosine
        whole, decay = _phi(log), (tau * log).exp()
        # alpha^2 = tau near and sigma^2 = rest far, up to factors that vanish nowhere; d is the derivative of alpha^2 in tau.
        near, far, d = (_phi(tau * log) / whole).sqrt(), (decay * _phi(rest * log) / whole).sqrt(), decay / whole
        b, c = sine * near, cosine * far
        db, dc = 0.5 * math.pi * d * cosine / near, -0.5 * math.pi * d * sine / far
        return Coefficients(0.0, b, c, 0.0, db, dc, -0.5 * math.pi * d * sine * cosine)


def _phi(x: Tensor) -> Tensor:
    """(e^x - 1) / x, 1 at 0."""
    return torch.where(x == 0, 1.0, torch.expm1(x) / torch.where(x == 0, 1.0, x))


def _positive(power: Tensor) -> Tensor:
    bad = ~((power > 0) & power.isfinite())
    if bool(bad.any()):
        raise ValueError(f"spectrum must be positive and finite, got {float(power[bad][0]):g}; a power of 0 means an axis along which the data stand still")
    return power


def _logs(path: Path, spectrum: Tensor, t: Tensor) -> Tensor:
    """log(b^2 Sigma_0 + c^2) at times t, (times, frequencies)."""
    power = _positive(checks.tensor("spectrum", spectrum, floating=True).detach().double())
    if path.two_sided:
        raise ValueError("path must be one-sided to have a Fisher length, got a two-sided one")
    if not path.noise.gaussian:
        raise ValueError(f"path must have standard normal noise to have a Fisher length, this one has {path.noise}")
    at = path.coefficients(t)
    own = torch.as_tensor(at.b).shape[1:]
    if not power.numel() or own and any(size not in (1, mine) for size, mine in zip(reversed(own), reversed(power.shape), strict=False) if mine != 1):
        raise ValueError(f"spectrum must have the shape of the path's coefficients, {tuple(own)}, got {tuple(power.shape)}")
    wide = lambda v: v.expand(len(t), *np.broadcast_shapes(v.shape[1:], power.shape)) if v.ndim > 1 else v.reshape(-1, *(1,) * power.ndim)
    b, c = (wide(torch.as_tensor(v, dtype=torch.float64).expand(len(t)) if torch.as_tensor(v).ndim == 0 else v) for v in (at.b, at.c))
    return (b * b * power + c * c).log().reshape(len(t), -1)


def _ways(path: Path, spectrum: Tensor, start: float | None, end: float | None) -> tuple[Tensor, Tensor]:
    """(times, Fisher length from the start up to each) on a fine grid, finer towards both ends."""
    low, high = (checks.between(name, usual if given is None else given, 0.0, 1.0)
                 for name, given, usual in zip(("start", "end"), (start, end), path.interval, strict=True))
    if not low < high:
        raise ValueError(f"start must lie before end, got {low:g} and {high:g}")
    t = low + (high - low) * 0.5 * (1 - torch.cos(math.pi * torch.linspace(0, 1, FINE + 1, dtype=torch.float64)))
    parts = (0.5 * _logs(path, spectrum, t).diff(dim=0).square().sum(1)).sqrt()
    return t, torch.cat([torch.zeros(1, dtype=torch.float64), parts.cumsum(0)])


def fisher_length(path: Path, spectrum: Float[Tensor, "*frequencies"], *, start: float | None = None, end: float | None = None) -> float:
    """The length of a one-sided path for Gaussian data of this power spectrum: int sqrt(sum_f (d log Sigma_f / dt)^2 / 2) dt.

    spectrum: as of `Shortest`, with one number a coordinate (all channels, or one of them). No path from white noise to these data is shorter
    than |log Sigma_0| / sqrt(2), which `Path.shortest(spectrum)` has. ValueError for two-sided paths.

    >>> from rheos.paths import Path
    >>> spectrum = torch.tensor([[4.0, 1.0], [0.5, 0.25]])
    >>> [round(fisher_length(path, spectrum), 4) for path in (Path.shortest(spectrum), Path.cosine())]
    [1.4704, 1.5579]
    """
    return float(_ways(path, spectrum, start, end)[1][-1])


def fisher_times(path: Path, spectrum: Float[Tensor, "*frequencies"], steps: int, *, start: float | None = None, end: float | None = None) -> Times:
    """`steps` steps of equal Fisher length along the path: how a sampler spreads its calls where the law changes evenly."""
    from rheos.paths.times import Times

    steps = checks.integer("steps", steps, least=1)
    t, way = _ways(path, spectrum, start, end)
    if float(way[-1]) <= 1e-9:
        raise ValueError("the law of the data does not change along this path: there is no Fisher length to part")
    wanted = torch.linspace(0, float(way[-1]), steps + 1, dtype=torch.float64)
    found = torch.from_numpy(np.interp(wanted.numpy(), way.numpy(), t.numpy()))
    found[0], found[-1] = t[0], t[-1]
    return Times(path, found)
