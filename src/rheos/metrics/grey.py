"""Features of grey images in which a Fréchet distance sees shape rather than pixels: a small classifier, learned once and shipped.

The network was learned on the training rows of Fashion-MNIST and MNIST (ten kinds of clothing, ten digits) by
tools/train_grey_features.py, which also says how well it knows the rows that it has not seen.
"""
from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rheos.core import Draws

__all__ = ["GreyFeatures", "grey_features"]

WEIGHTS = Path(__file__).parent / "weights" / "grey.safetensors"
SIDE, LEAST_SIDE = 28, 8


class GreyFeatures(nn.Module):
    """Classifier of grey images (n, 1, height, width) in [-1, 1], light on dark, whose last hidden layer gives the features.

    Calling it returns features (n, 64) in [-1, 1] (tanh), in the input's dtype; the network computes in its own. The input is clamped
    to [-1, 1] first, so that samples that leave the range are judged by what they would look like, and every set is treated alike;
    then it is brought to 28 x 28 (bilinear, smoothed where it shrinks). ValueError for images of less than 8 pixels a side.
    """

    width: int = 64

    def __init__(self):
        super().__init__()
        self.strokes = nn.Conv2d(1, 24, 5, stride=2, padding=2)
        self.parts = nn.Conv2d(24, 48, 3, padding=1)
        self.shapes = nn.Conv2d(48, 96, 3, padding=1)
        self.hidden = nn.Linear(96 * 3 * 3, self.width)
        self.classes = nn.Linear(self.width, 20)

    def forward(self, x: Float[Tensor, "n 1 height width"]) -> Float[Tensor, "n 64"]:
        if min(x.shape[2:]) < LEAST_SIDE:
            raise ValueError(f"x must be images of at least {LEAST_SIDE} x {LEAST_SIDE} pixels, got {x.shape[2]} x {x.shape[3]}")
        weight = self.hidden.weight
        h = x.to(device=weight.device, dtype=weight.dtype).clamp(-1.0, 1.0)
        if tuple(h.shape[2:]) != (SIDE, SIDE):
            h = nn.functional.interpolate(h, (SIDE, SIDE), mode="bilinear", antialias=True)
        h = torch.relu(self.strokes(h))
        h = nn.functional.max_pool2d(torch.relu(self.parts(h)), 2)
        h = nn.functional.avg_pool2d(torch.relu(self.shapes(h)), 3, 2)
        return torch.tanh(self.hidden(h.flatten(1))).to(x)

    def classify(self, x: Float[Tensor, "n 1 height width"]) -> Float[Tensor, "n 20"]:
        """Unnormalised log-probabilities of the ten kinds of clothing (0 to 9) and the ten digits (10 to 19), in the input's dtype."""
        return self.classes(self(x).to(self.classes.weight)).to(x)


@lru_cache(maxsize=1)
def grey_features() -> GreyFeatures:
    """The shipped classifier: read once, on the CPU, frozen. Everyone gets the same object, so treat it as read-only."""
    from safetensors.torch import load_file

    with Draws(0).scope(0):                     # a module draws its first weights from torch's global stream, which is the user's
        net = GreyFeatures()
    net.load_state_dict({name: value.float() for name, value in load_file(WEIGHTS).items()})         # stored as float16
    return net.eval().requires_grad_(False)
