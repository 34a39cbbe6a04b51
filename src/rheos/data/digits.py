"""Scikit-learn's handwritten digits: 1,797 real images of 8 x 8 pixels that come with the install."""
from __future__ import annotations

import torch

from rheos.data.dataset import Dataset, divided

__all__ = ["digits"]


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
