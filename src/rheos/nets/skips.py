"""How much of a U-Net's way down its way up is given: h_i = block_i(up(h_{i+1}), kappa_i e_i), e_i what the way down kept, i = 1 the outermost.

Smaller kappa at the deeper joins narrow how far features and gradients swing in training and how far a disturbed input carries: the bound is
|f(x + d) - f(x)| <= |d| (L + sum_i kappa_i K^i).

Paper: Huang et al., ScaleLong: towards more stable training of diffusion model via scaling network long skip connection, 2023, arXiv:2310.13545.
Ours: kappa multiplies what each layer of the block reads of e_i, behind the block's normalisation. The norm comes right after the join and
takes about 16 channels at a time; groups that hold only channels of e_i would divide by kappa what was just multiplied by it.
"""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rheos.core import checks

__all__ = ["ConstantSkip", "LearnedSkip", "Skip", "skip_from_json"]


@runtime_checkable
class Skip(Protocol):
    """`scaling(widths)` builds the layer that tells the factors of joins of these widths, outermost first: layer(kept, i) -> (1 or batch, width)."""

    def scaling(self, widths: Sequence[int]) -> nn.Module: ...

    def to_json(self) -> dict[str, Any]: ...


class _Rule:
    def to_json(self) -> dict[str, Any]:
        """Settings and the class's name, as `skip_from_json` reads them."""
        return {"class": type(self).__name__, **asdict(self)}


@dataclass(frozen=True)
class ConstantSkip(_Rule):
    """kappa_i = kappa^{i-1}: 1 at the outermost join, smaller at every deeper one. Nothing is learned and nothing is saved.

    kappa: in (0, 1]; 0.7, of the paper's 0.5 to 0.95. Too small a kappa loses detail, 1 is the plain U-Net.
    falling: whether the powers are taken; if not, all joins have kappa itself, see `uniform`.

    >>> [round(k, 3) for k in ConstantSkip(0.7).factors(4)]
    [1.0, 0.7, 0.49, 0.343]
    """

    kappa: float = 0.7
    falling: bool = True

    def __post_init__(self):
        checks.between("kappa", self.kappa, 0.0, 1.0, low_open=True)
        checks.flag("falling", self.falling)

    @classmethod
    def uniform(cls, kappa: float = math.sqrt(0.5)) -> ConstantSkip:
        """The same factor at every join; 1 / sqrt(2), common before the paper, if none is given."""
        return cls(kappa, falling=False)

    def factors(self, count: int) -> tuple[float, ...]:
        """kappa_1 .. kappa_count, outermost first."""
        return tuple(self.kappa ** (i if self.falling else 1) for i in range(count))

    def scaling(self, widths: Sequence[int]) -> nn.Module:
        return _Constant(self.factors(len(widths)))


@dataclass(frozen=True)
class LearnedSkip(_Rule):
    """kappa_i = sigmoid(W2 relu(W1 mean(e_i))), a factor for every sample and channel, the mean taken over the grid.

    shared: whether one small network serves all joins. As their widths differ it sees the channels in `bins` neighbouring groups and tells one factor for
    each group; otherwise every join has a network of its own that sees every channel. reduction: the hidden layer has size / reduction
    features, at least 4; 16, the paper's. begin: every factor before training, in (0, 1); 0.5, the sigmoid's middle.
    """

    shared: bool = True
    bins: int = 8
    reduction: int = 16
    begin: float = 0.5

    def __post_init__(self):
        checks.flag("shared", self.shared)
        checks.integer("bins", self.bins, least=1)
        checks.integer("reduction", self.reduction, least=1)
        checks.between("begin", self.begin, 0.0, 1.0, low_open=True, high_open=True)

    def scaling(self, widths: Sequence[int]) -> nn.Module:
        if self.shared and self.bins > min(widths):
            raise ValueError(f"bins must be at most {min(widths)}, the least width of a join, got {self.bins}")
        return _Learned(self, widths)


class _Constant(nn.Module):
    def __init__(self, factors: tuple[float, ...]):
        super().__init__()
        self.factors = factors

    def forward(self, kept: Float[Tensor, "batch width *grid"], place: int) -> Float[Tensor, "one width"]:
        return kept.new_full((1, kept.shape[1]), self.factors[place])


class _Learned(nn.Module):
    def __init__(self, rule: LearnedSkip, widths: Sequence[int]):
        super().__init__()
        self.bins = rule.bins if rule.shared else None
        self.calibrate = nn.ModuleList(_calibration(size, rule) for size in ([rule.bins] if rule.shared else widths))

    def forward(self, kept: Float[Tensor, "batch width *grid"], place: int) -> Float[Tensor, "batch width"]:
        mean = kept.flatten(2).mean(2)
        if self.bins is None:
            return torch.sigmoid(self.calibrate[place](mean))
        width = mean.shape[1]
        # Channel c belongs to group floor(c bins / width), for the mean on the way in as for the factor on the way out.
        group = torch.arange(width, device=kept.device) * self.bins // width
        share = nn.functional.one_hot(group, self.bins).to(mean)
        return torch.sigmoid(self.calibrate[0](mean @ (share / share.sum(0))))[:, group]


def _calibration(size: int, rule: LearnedSkip) -> nn.Sequential:
    hidden = max(4, size // rule.reduction)
    made = nn.Sequential(nn.Linear(size, hidden), nn.ReLU(), nn.Linear(hidden, size))
    nn.init.zeros_(made[2].weight)
    nn.init.constant_(made[2].bias, math.log(rule.begin / (1 - rule.begin)))
    return made


_RULES: dict[str, type] = {"ConstantSkip": ConstantSkip, "LearnedSkip": LearnedSkip}


def skip_from_json(content: Any) -> Skip:
    """The rule that `to_json` described. ValueError for anything else."""
    if not isinstance(content, Mapping) or not isinstance(content.get("class"), str):
        raise ValueError(f"skip must be described by its class and settings, got {content!r}")
    settings = {name: value for name, value in content.items() if name != "class"}
    try:
        return _RULES[checks.one_of("skip", content["class"], _RULES)](**settings)
    except TypeError as error:
        raise ValueError(f"skip cannot be built from {dict(content)}: {error}") from None
