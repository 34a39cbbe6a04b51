"""Networks trained once on real data and kept, for claims to measure methods on."""
from __future__ import annotations

from torch import Tensor

from rheos.core import Draws
from rheos.data import load
from rheos.models import train
from rheos.nets import ResidualMLP
from rheos.papers.fixtures import fixture
from rheos.paths import Field, Path

__all__ = ["digits_noise_teacher"]


def _net() -> ResidualMLP:
    with Draws(0).scope(0):
        return ResidualMLP((1, 8, 8), width=160, depth=3, classes=10, dropout=0.1)


def _noise_weights() -> dict[str, Tensor]:
    net = _net()
    train(load("digits"), net, path=Path.vp(), predicts="noise", steps=1500, seed=0, device="cpu")
    return net.state_dict()


def digits_noise_teacher() -> Field:
    """A class-conditional network trained on digits, variance-preserving path, noise prediction; in float64, (batch, 1, 8, 8)."""
    net = _net()
    net.load_state_dict(dict(fixture("digits-noise-teacher", _noise_weights).tensors))
    return Field(net.eval().double(), Path.vp(), "noise")
