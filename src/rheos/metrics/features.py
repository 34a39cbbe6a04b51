"""Features of 8 x 8 digits in which a Fréchet distance sees shape rather than pixels: a small classifier, learned once and shipped.

The network was learned on the training half of `data.load("digits")` by tools/train_digit_features.py, which also says how well it does.
"""
from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["DigitFeatures", "digit_features"]

WEIGHTS = Path(__file__).parent / "weights" / "digits.safetensors"


class DigitFeatures(nn.Module):
    """Classifier of digits (n, 1, 8, 8) in [-1, 1], whose last hidden layer gives the features.

    Calling it returns features (n, 32) in [-1, 1] (tanh), in the input's dtype; the network computes in its own. The input is clamped
    to [-1, 1] first, so that samples that leave the range are judged by what they would look like, and every set is treated alike.
    """

    width: int = 32

    def __init__(self):
        super().__init__()
        self.strokes = nn.Conv2d(1, 24, 3, padding=1)
        self.parts = nn.Conv2d(24, 48, 3, padding=1)
        self.hidden = nn.Linear(48 * 4 * 4, self.width)
        self.classes = nn.Linear(self.width, 10)

    def forward(self, x: Float[Tensor, "n 1 8 8"]) -> Float[Tensor, "n 32"]:
        weight = self.hidden.weight
        h = x.to(device=weight.device, dtype=weight.dtype).clamp(-1.0, 1.0)
        h = torch.relu(self.strokes(h))
        h = nn.functional.avg_pool2d(torch.relu(self.parts(h)), 2)
        return torch.tanh(self.hidden(h.flatten(1))).to(x)

    def classify(self, x: Float[Tensor, "n 1 8 8"]) -> Float[Tensor, "n 10"]:
        """Unnormalised log-probabilities of the ten digits, in the input's dtype."""
        return self.classes(self(x).to(self.classes.weight)).to(x)


@lru_cache(maxsize=1)
def digit_features() -> DigitFeatures:
    """The shipped classifier: read once, on the CPU, frozen. Everyone gets the same object, so treat it as read-only."""
    from safetensors.torch import load_file

    net = DigitFeatures()
    net.load_state_dict(load_file(WEIGHTS))
    return net.eval().requires_grad_(False)
