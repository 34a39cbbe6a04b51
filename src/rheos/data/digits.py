"""Scikit-learn's handwritten digits: 1,797 real images of 8 x 8 pixels that come with the install."""
from __future__ import annotations

import torch

from rheos.core import checks
from rheos.data.dataset import Dataset, divided
from rheos.data.mixtures import GaussianMixture

__all__ = ["digits", "digits_mixture"]


def digits() -> Dataset:
    """The digits in two halves by content: x (n, 1, 8, 8) in [-1, 1] (-1 paper, 1 ink), y the digit 0..9.

    The halves are fixed, because the features that judge samples (`metrics.digit_features`) were learned on the training half.
    """
    from sklearn.datasets import load_digits

    raw = load_digits()
    x = torch.from_numpy(raw.images).float().unsqueeze(1) / 8 - 1          # pixel counts 0..16 of a 4 x 4 block: exact in float32
    return divided(
        "digits", x, torch.from_numpy(raw.target).long(), 0.5, bounds=(-1.0, 1.0), classes=10,
        meaning="handwritten digits, 8 x 8 pixels; a pixel is the share of ink in its block, from -1 (paper) to 1 (ink)",
        licence="CC BY 4.0",
        source="Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI repository, 1998 (its test part), as shipped by scikit-learn",
    )


def digits_mixture(axes: int | None = 16, ridge: float = 0.1) -> GaussianMixture:
    """The digits as one full Gaussian a class: a real law whose field is exact. Labels are the digits.

    axes: 1 to 64: on so many leading principal axes, (axes,), all divided by one number, the standard deviation of the projected digits. None: in
    their own pixels and units, (1, 8, 8). `ridge` is added to every deviation, after the division.
    """
    data = digits()
    x, y = torch.cat([data.x, data.held_out.x]).double(), torch.cat([data.y, data.held_out.y])
    if axes is None:
        return GaussianMixture.fit(x, y, ridge=ridge)
    x = x.flatten(1)
    if checks.integer("axes", axes, least=1) > x.shape[1]:
        raise ValueError(f"axes must be at most {x.shape[1]}, got {axes}")
    x = x - x.mean(0)
    scores = x @ torch.linalg.svd(x, full_matrices=False)[2][:axes].T
    return GaussianMixture.fit(scores / scores.std(), y, ridge=ridge)
