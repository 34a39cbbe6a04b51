"""Which features judge which images."""
from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from torch import Tensor

from rheos.metrics.colour import colour_features
from rheos.metrics.features import digit_features
from rheos.metrics.grey import LEAST_SIDE, grey_features
from rheos.metrics.pairs import Features
from rheos.nets.layouts import channel_axis

__all__ = ["ImageFeatures", "channel_axis", "image_features"]


class ImageFeatures(NamedTuple):
    """features: (n, *event) -> (n, width), or None. about: what they are, or why there are none; a sentence without its full stop."""

    features: Features | None
    about: str


def image_features(event: Sequence[int], name: str = "") -> ImageFeatures:
    """The features by which images of shape `event` in [-1, 1] are compared.

    event: (channels, height, width), (height, width, channels) or (height, width), with 1, 3 or 4 channels.
    name:  of the data: the 8 x 8 "digits" have features of their own.

    >>> image_features((1, 8, 8), "digits").about
    'the last hidden layer of a fixed classifier of 8 x 8 digits'
    >>> image_features((2, 8, 8))
    ImageFeatures(features=None, about='there are no features for events of shape (2, 8, 8)')
    """
    event = tuple(event)
    if name == "digits" and event == (1, 8, 8):
        return ImageFeatures(digit_features(), "the last hidden layer of a fixed classifier of 8 x 8 digits")
    axis = channel_axis(event)
    if len(event) != 2 and axis is None:
        return ImageFeatures(None, f"there are no features for events of shape {event}")
    sides, channels = (event, 1) if axis is None else ((*event[:axis], *event[axis + 1 :]), event[axis])
    if min(sides) < LEAST_SIDE:
        return ImageFeatures(None, f"there are no features for images of less than {LEAST_SIDE} pixels a side")
    if channels == 1:
        found, about = grey_features(), "the last hidden layer of a fixed classifier of Fashion-MNIST and MNIST"
    else:
        try:
            found, about = colour_features(), "the last layer of EfficientNet-Lite0, a fixed classifier of ImageNet"
        except ImportError as error:
            return ImageFeatures(None, str(error))
    return ImageFeatures(found if axis == 0 else partial(_rearranged, found, axis), about)


def _rearranged(features: Features, axis: int | None, x: Tensor) -> Tensor:
    """Features of images (n, *event) whose channels are elsewhere than the network looks for them."""
    return features(x.unsqueeze(1) if axis is None else x.movedim(axis + 1, 1))
