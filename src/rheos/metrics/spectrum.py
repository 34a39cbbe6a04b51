"""The power spectrum of images: how much of their variance lies at each frequency."""
from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from rheos.core import checks

__all__ = ["power_spectrum"]


def power_spectrum(x: Float[Tensor, "images *event"], *, smooth: bool = False) -> Float[Tensor, "height width"]:
    """E |F(x - mean)(f)|^2, F the orthonormal Fourier transform of the last two axes: (height, width) float64, mean over images and channels.

    The mean is the mean image. White noise of variance 1 has power 1 everywhere, and the mean of the powers is the variance of a pixel.
    smooth: the mean over all frequencies of about the same length instead, as of pictures that have no direction of their own.
    ValueError for fewer than two images, for events without two axes, and where a frequency has no power at all.

    >>> white = torch.Generator().manual_seed(0)
    >>> bool((power_spectrum(torch.randn(4000, 1, 4, 6, generator=white)) - 1).abs().max() < 0.15)
    True
    """
    checks.finite("x", checks.tensor("x", x, floating=True))
    if x.ndim < 3 or len(x) < 2 or not x.numel():
        raise ValueError(f"x must hold two images or more, (images, [channels,] height, width), got shape {tuple(x.shape)}")
    turned = torch.fft.fft2((x - x.mean(0)).double(), norm="ortho")
    power = turned.abs().square().mean(tuple(range(x.ndim - 2)))
    if smooth:
        rows, columns = (torch.fft.fftfreq(size, dtype=torch.float64, device=x.device) for size in power.shape)
        # Rings as wide as one cycle over the shorter side.
        ring = ((rows[:, None].square() + columns.square()).sqrt() * min(power.shape)).round().long().flatten()
        count = torch.bincount(ring).to(power)
        total = torch.zeros_like(count).index_add_(0, ring, power.flatten())
        power = (total / count.clamp_min(1))[ring].reshape(power.shape)
    if not bool((power > 0).all()):
        worst = tuple((~(power > 0)).nonzero()[0].tolist())
        raise ValueError(f"x must vary at every frequency, got no power at {worst}; add a little noise")
    return power
