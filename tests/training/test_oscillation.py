"""Norms of a network's blocks at fixed inputs while it learns: by hand, at the right steps, and without a trace in the network."""
from functools import partial

import pytest
import torch
from torch import nn

from rheos.core import Draws, evolve
from rheos.couplings import Independent
from rheos.nets import ResidualMLP, UNet
from rheos.objectives import Matching
from rheos.paths import Path
from rheos.training import Descent, FeatureOscillation, decoder_blocks, feature_norms


class Chain(nn.Module):
    """Two linear blocks, with dropout between."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(2, 3), nn.Linear(3, 2)

    def forward(self, x, t, cond=None):
        return self.second(nn.functional.dropout(self.first(x), 0.5, self.training))


def test_by_hand():
    net = Chain().train()
    with torch.no_grad():
        net.first.weight.copy_(torch.tensor([[3.0, 0.0], [0.0, 2.0], [0.0, 0.0]]))
        net.first.bias.copy_(torch.tensor([0.0, 0.0, 4.0]))
        net.second.weight.copy_(torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 2.0]]))
        net.second.bias.zero_()
    x = torch.tensor([[1.0, 0.0], [0.0, 1.5]])
    norms = feature_norms(net, x, torch.zeros(2), blocks=lambda net: [net.second, net.first])
    # first: (3, 0, 4) and (0, 3, 4), each of norm 5; second: (3, 8) and (0, 8).
    torch.testing.assert_close(norms, torch.tensor([(73**0.5 + 8) / 2, 5.0], dtype=torch.float64))
    assert net.training and not net.first._forward_hooks


def test_the_way_up_of_a_unet(seed):
    net = UNet((1, 8, 8), widths=(8, 16), depth=2)
    assert decoder_blocks(net) == [*net.up[0], *net.up[1]]
    assert len(feature_norms(net, Draws(seed).rows("x", 0, (3, 1, 8, 8)), torch.full((3,), 0.4))) == 4


def test_it_watches_a_training_without_changing_it(seed):
    data = Draws(seed).rows("data", 0, (40, 2))
    with Draws(seed).scope(0):
        net = Chain()
    learning = Descent(Matching(Path.linear()), Independent(data), batch=8, optimizer=partial(torch.optim.SGD, lr=0.05), seed=seed)
    x, t = torch.tensor([[1.0, -2.0], [0.3, 0.5]]), torch.tensor([0.1, 0.9])
    blocks = lambda net: [net.first, net.second]
    watch, every = FeatureOscillation(x, t, every=3, blocks=blocks), FeatureOscillation(x, t, blocks=blocks)
    seen = evolve(learning, learning.init(net), 10, watch=(watch, every))
    unseen = evolve(learning, learning.init(net), 10)
    assert all(map(torch.equal, seen.net.state_dict().values(), unseen.net.state_dict().values()))
    assert watch.steps == [3, 6, 9] and every.steps == list(range(1, 11))
    assert torch.equal(watch.norms, every.norms[2::3])
    assert torch.equal(every.norms[-1], feature_norms(seen.net, x, t, blocks=blocks))
    column = every.norms[:, 0]
    mean = sum(column.tolist()) / 10
    sd = (sum((v - mean) ** 2 for v in column.tolist()) / 9) ** 0.5
    assert float(every.spread[0]) == pytest.approx(sd / mean, rel=1e-9) and sd > 0


def test_refusals():
    x, t = torch.ones(2, 2), torch.zeros(2)
    with pytest.raises(ValueError, match="blocks must be given for a ResidualMLP, which has no blocks on a way up"):
        feature_norms(ResidualMLP((2,), width=8), x, t)
    with pytest.raises(ValueError, match="blocks must give at least one module, got none"):
        feature_norms(Chain(), x, t, blocks=lambda net: [])
    with pytest.raises(ValueError, match=r"blocks must run once each, got runs \[1, 0\]"):
        feature_norms(Chain(), x, t, blocks=lambda net: [net.first, nn.Linear(2, 2)])
    with pytest.raises(ValueError, match=r"t must have shape \(2\), got \(3,\)"):
        FeatureOscillation(x, torch.zeros(3))
    with pytest.raises(ValueError, match=r"x must have shape \(batch, \*event\)"):
        FeatureOscillation(x[0], t)
    with pytest.raises(ValueError, match="every must be at least 1, got 0"):
        FeatureOscillation(x, t, every=0)
    watch = FeatureOscillation(x, t)
    with pytest.raises(ValueError, match="no step was watched yet"):
        _ = watch.norms
