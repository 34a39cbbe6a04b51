"""How far a network's features swing while it learns: the norms of its blocks' outputs at fixed inputs, step by step.

spread of a block = standard deviation over mean, over the steps, of E |h|. The inputs are the same at every step, so that only the weights move it.

Paper: Huang et al., ScaleLong, 2023, arXiv:2310.13545, which watches the blocks on a U-Net's way up.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Float64
from torch import Tensor, nn

from rheos.core import checks
from rheos.paths.asking import evaluating

__all__ = ["FeatureOscillation", "decoder_blocks", "feature_norms"]

Blocks = Callable[[nn.Module], Sequence[nn.Module]]


def decoder_blocks(net: nn.Module) -> list[nn.Module]:
    """The blocks on a `UNet`'s way up, the deepest first. ValueError for a network that has no way up."""
    up = getattr(net, "up", None)
    if not isinstance(up, nn.ModuleList):
        raise ValueError(f"blocks must be given for a {type(net).__name__}, which has no blocks on a way up")
    return [block for level in up for block in level]


@torch.no_grad()
def feature_norms(net: nn.Module, x: Float[Tensor, "batch *event"], t: Float[Tensor, " batch"], cond: Any = None, *,
                  blocks: Blocks = decoder_blocks) -> Float64[Tensor, " blocks"]:
    """E |h|, the mean over rows of the Euclidean norm of what each block gives for (x, t, cond), float64, in the blocks' order.

    blocks: net -> modules whose output is one tensor, batch first. The network answers in evaluation mode.
    ValueError if there is no block, or if one does not run exactly once.
    """
    found: list[list[Tensor]] = [[] for _ in blocks(net)]
    if not found:
        raise ValueError("blocks must give at least one module, got none")
    note = lambda kept: lambda _, __, h: kept.append(h.flatten(1).double().norm(dim=1).mean())
    hooks = [block.register_forward_hook(note(kept)) for block, kept in zip(blocks(net), found, strict=True)]
    try:
        with evaluating(net):
            net(x, t, cond)
    finally:
        for hook in hooks:
            hook.remove()
    often = [len(kept) for kept in found]
    if set(often) != {1}:
        raise ValueError(f"blocks must run once each, got runs {often}")
    return torch.stack([kept[0] for kept in found])


class FeatureOscillation:
    """A watcher of `Descent`: keeps the `feature_norms` of the network that learns, at x, t and cond, every `every` steps.

    steps: the steps at which they were taken. norms: (rows, blocks), float64. spread: (blocks,), standard deviation (divisor n - 1) over mean of each.
    Cost: one forward pass of the fixed rows each time. A resumed run goes on with an empty table.

    >>> from rheos.nets import UNet
    >>> watch = FeatureOscillation(torch.ones(2, 1, 8, 8), torch.tensor([0.2, 0.7]))
    >>> class State:
    ...     net = UNet((1, 8, 8), widths=(8, 8), depth=1)
    >>> for step in (1, 2, 3):
    ...     watch(step, State)
    >>> tuple(watch.norms.shape), watch.spread.tolist()         # nothing was learned
    ((3, 2), [0.0, 0.0])
    """

    def __init__(self, x: Tensor, t: Tensor, cond: Any = None, *, every: int = 1, blocks: Blocks = decoder_blocks):
        if checks.tensor("x", x, floating=True).ndim < 2 or not x.numel():
            raise ValueError(f"x must have shape (batch, *event) with at least one number, got {tuple(x.shape)}")
        checks.shape_of("t", checks.tensor("t", t, floating=True), (len(x),))
        if not callable(blocks):
            raise TypeError(f"blocks must be a function of the network, got {type(blocks).__name__}")
        self.x, self.t, self.cond, self.blocks = x, t, cond, blocks
        self.every = checks.integer("every", every, least=1)
        self.steps: list[int] = []
        self._rows: list[Tensor] = []

    def begin(self, state: Any, steps: int | None) -> None:
        self.steps, self._rows = [], []

    def __call__(self, step: int, state: Any) -> None:
        if step % self.every == 0:
            self.steps.append(step)
            self._rows.append(feature_norms(state.net, self.x, self.t, self.cond, blocks=self.blocks))

    @property
    def norms(self) -> Float64[Tensor, "rows blocks"]:
        if not self._rows:
            raise ValueError("no step was watched yet")
        return torch.stack(self._rows)

    @property
    def spread(self) -> Float64[Tensor, " blocks"]:
        norms = self.norms
        if len(norms) < 2:
            raise ValueError(f"a spread needs at least two steps, got {len(norms)}")
        return norms.std(0) / norms.mean(0)
