r"""What a schedule leaves of the data where samplers begin, and how to have it leave nothing.

Training sees alpha x1 + sigma z at the path's start, samplers begin at sigma z. With alpha = 0.068, as of Stable Diffusion's schedule, pictures betray their
brightness to the network there, and the mean brightness of pure noise is always about 0.

Paper: Lin, Liu, Li and Yang, Common diffusion noise schedules and sample steps are flawed, 2023, arXiv:2305.08891 (zero terminal SNR); Hu et al., One More
Step, 2023, arXiv:2311.15744.
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from rheos.core import checks
from rheos.paths.discrete import Betas
from rheos.paths.path import Path

__all__ = ["LEAST_SIGNAL", "TerminalGap", "scaled_linear", "terminal_gap", "zero_terminal_snr"]

LEAST_SIGNAL = 2.0**-24         # alpha^2 at the start of a path that is to begin without data: lam must stay finite


class TerminalGap(NamedTuple):
    """How the law that a network was trained on at a path's start differs from the one that samplers begin with.

    alpha, sigma: of the path there. mean: |alpha E x1| / sigma, how many standard deviations of the noise apart the two means are.
    brightness: the same of the mean over an event alone, with its sign. spread: standard deviation of that mean under the first law over that under the second.
    divergence: KL of Gaussians with the means and covariances of the two laws, in nats. All but alpha and sigma are 0 (spread: 1) where alpha is 0.
    """

    alpha: float
    sigma: float
    mean: float
    brightness: float
    spread: float
    divergence: float


def scaled_linear(steps: int = 1000, first: float = 0.00085, last: float = 0.012) -> Float[Tensor, " steps"]:
    """Stable Diffusion's betas, (steps,) float64, whose square roots rise evenly; they end at alpha^2 = 0.00466.

    >>> round(float((1 - scaled_linear()).prod()), 5)
    0.00466
    """
    steps = checks.integer("steps", steps, least=2)
    first, last = (checks.between(name, value, 0.0, 1.0, low_open=True, high_open=True) for name, value in (("first", first), ("last", last)))
    return torch.linspace(math.sqrt(first), math.sqrt(last), steps, dtype=torch.float64) ** 2


@torch.no_grad()
def terminal_gap(path: Path, data: Float[Tensor, "rows *event"], *, at: float | None = None) -> TerminalGap:
    """What is left of the data at the time `at` at which samplers begin (the path's start), and what it amounts to.

    data: (rows, *event), in the units that the path's network sees. Sums in float64; O(rows * d * min(rows, d)).
    ValueError for two-sided paths, noise that is not Gaussian, times without noise, fewer than 2 rows, and entries that are not finite.

    >>> gap = terminal_gap(Path.from_betas(scaled_linear()), torch.full((2, 1, 8, 8), 0.5))
    >>> round(gap.alpha, 4), round(gap.brightness, 3), gap.spread
    (0.0683, 0.274, 1.0)
    """
    if not isinstance(path, Path):
        raise TypeError(f"path must be a Path, got {type(path).__name__}")
    if path.two_sided or getattr(path.schedule, "spectral", False) or not path.noise.gaussian:
        raise ValueError(f"terminal_gap needs a one-sided path with Gaussian noise and one coefficient for all coordinates, got {path}")
    if checks.tensor("data", data, floating=True).is_complex():
        raise TypeError(f"data must hold real numbers, got {data.dtype}")
    if data.ndim < 2 or len(data) < 2 or not data.numel():
        raise ValueError(f"data must have shape (rows, *event) with at least 2 rows, got {tuple(data.shape)}")
    checks.finite("data", data)
    begin = path.coefficients(path.interval[0] if at is None else checks.between("at", at, 0.0, 1.0))
    alpha, sigma = float(begin.b), float(begin.c)
    if sigma == 0:
        raise ValueError(f"at must be a time with noise, got {at}")
    flat = data.double().reshape(len(data), -1)
    ratio, dim, middle = alpha / sigma, flat.shape[1], flat.mean(0)
    centred = (flat - middle) / math.sqrt(len(flat))
    # Of the covariance alpha^2 / sigma^2 C the eigenvalues that are not 0: those of the smaller Gram matrix.
    gram = centred.mT @ centred if dim <= len(flat) else centred @ centred.mT
    excess = ratio**2 * torch.linalg.eigvalsh(gram).clamp_min(0)
    mean = ratio * float(middle.norm())
    divergence = 0.5 * float((excess - torch.log1p(excess)).sum()) + 0.5 * mean**2
    grey = flat.mean(1)
    brightness, spread = ratio * math.sqrt(dim) * float(grey.mean()), math.sqrt(1 + ratio**2 * dim * float(grey.var(correction=0)))
    return TerminalGap(alpha, sigma, mean, brightness, spread, divergence)


def zero_terminal_snr(schedule: Path | Tensor | Sequence[float]) -> Path | Tensor:
    """The schedule moved and scaled so that it begins at the data where it did and ends without data.

    alpha_k <- (alpha_k - alpha_T) alpha_0 / (alpha_0 - alpha_T)

    schedule: betas (T,), first the data's end, in [0, 1): betas come back, (T,) float64, the last of them 1. Or a path of betas: a path comes back, whose
        alpha at the start is 2^-12 and not 0, since no path of betas may lose all data.
    The network has to be trained on it, and must predict "v" or "data": noise tells nothing of data that are not there.
    TypeError for what is neither. ValueError for other paths, fewer than 2 betas, betas that are not in [0, 1), and schedules that end without data already.

    >>> zero_terminal_snr([0.19, 0.36])                                             # alpha .9, .72 -> .9, 0
    tensor([0.1900, 1.0000], dtype=torch.float64)
    """
    if isinstance(schedule, Path):
        if not isinstance(schedule.schedule, Betas):
            raise ValueError(f"schedule must be betas, or a path made of them by Path.from_betas, got {schedule.schedule}")
        power = _rescaled(torch.tensor(schedule.schedule.betas, dtype=torch.float64))
        power[-1] = LEAST_SIGNAL
        return Path(Betas(tuple(_betas(power).tolist())), schedule.noise, schedule.basis)
    if isinstance(schedule, Tensor) and not schedule.is_floating_point():
        raise TypeError(f"schedule must hold real floating-point betas, got {schedule.dtype}")
    try:
        betas = torch.as_tensor(schedule, dtype=torch.float64).detach()
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"schedule must be a Path, a tensor of betas or their numbers, got {type(schedule).__name__}") from None
    if betas.ndim != 1 or len(betas) < 2:
        raise ValueError(f"schedule must be at least 2 betas, (T,), got shape {tuple(betas.shape)}")
    bad = ~((betas >= 0) & (betas < 1))
    if bool(bad.any()):
        k = int(bad.nonzero()[0])
        raise ValueError(f"schedule must have betas in [0, 1), got {float(betas[k]):g} at step {k}{': nothing to repair' if betas[k] == 1 else ''}")
    return _betas(_rescaled(betas))


def _rescaled(betas: Tensor) -> Tensor:
    """alpha^2 of the schedule without data at its end."""
    alpha = torch.log1p(-betas).cumsum(0).mul(0.5).exp()
    if alpha[-1] ** 2 <= LEAST_SIGNAL * (1 + 1e-6) or alpha[0] == alpha[-1]:
        raise ValueError(f"schedule must end with some data left and less than it begins with, got alpha {float(alpha[0]):g} to {float(alpha[-1]):g}")
    return ((alpha - alpha[-1]) * (alpha[0] / (alpha[0] - alpha[-1]))) ** 2


def _betas(power: Tensor) -> Tensor:
    """1 - alpha_k^2 / alpha_{k-1}^2."""
    return 1 - power / torch.cat([power.new_ones(1), power[:-1]])
