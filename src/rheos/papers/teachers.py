"""Networks trained once on real data and kept, for claims to measure methods on."""
from __future__ import annotations

import copy

from torch import Tensor, nn

from rheos.core import Draws
from rheos.data import load
from rheos.models import Conditions, Model, Standardise, train
from rheos.nets import ResidualMLP
from rheos.papers.fixtures import fixture
from rheos.paths import Field, Path
from rheos.samplers import RungeKutta, sample

__all__ = ["digits_flow_teacher", "digits_noise_teacher", "heun", "short"]


def _net() -> ResidualMLP:
    with Draws(0).scope(0):
        return ResidualMLP((1, 8, 8), width=160, depth=3, classes=10, dropout=0.1)


def _noise_weights() -> dict[str, Tensor]:
    net = _net()
    train(load("digits"), net, path=Path.vp(), predicts="noise", steps=1500, seed=0, device="cpu")
    return net.state_dict()


def _velocity_weights() -> dict[str, Tensor]:
    net = _net()
    train(load("digits"), net, path=Path.linear(), predicts="velocity", steps=1500, drop_condition=0.2, seed=0, device="cpu")
    return net.state_dict()


def digits_flow_teacher() -> Model:
    """A class-conditional model of digits, linear path, velocity prediction; its network in float64, (batch, 1, 8, 8).

    `.field` lives in the network's units, `.transform` goes there from pixels and back.
    """
    net, data = _net(), load("digits")
    net.load_state_dict(dict(fixture("digits-flow-teacher", _velocity_weights).tensors))
    field = Field(net.eval().double().requires_grad_(False), Path.linear(), "velocity")
    return Model(field, Standardise.fit(data.x, data.bounds), tuple(data.x.shape[1:]), conditions=Conditions(10))


def digits_noise_teacher() -> Field:
    """A class-conditional network trained on digits, variance-preserving path, noise prediction; in float64, (batch, 1, 8, 8)."""
    net = _net()
    net.load_state_dict(dict(fixture("digits-noise-teacher", _noise_weights).tensors))
    return Field(net.eval().double(), Path.vp(), "noise")


def short(net: nn.Module) -> nn.Module:
    """A float32 copy that learns and is cut short of its dropout, in evaluation mode: a student of pairs is to learn a map, not a law."""
    net = copy.deepcopy(net).float().requires_grad_(True)
    for layer in net.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    return net.eval()


def heun(field: Field, x: Tensor, cond: Tensor | None = None, steps: int = 25) -> Tensor:
    """Where the field carries x (n, *event) from noise to data, by Heun's rule: two calls a step. As `Reflow` and `rectify` want it."""
    return sample(field, start=x, cond=cond, rule=RungeKutta(2), steps=steps)
