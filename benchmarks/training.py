"""A flow-matching step of an MLP on 2-D data, against the same lines in plain PyTorch, and on torchcfm and flow_matching."""
from __future__ import annotations

import copy
from functools import partial

import torch
from torch import nn

from benchmarks.measure import interleaved, table
from rheos.core import Draws, evolve
from rheos.couplings import Independent
from rheos.nets import ResidualMLP
from rheos.objectives import Matching
from rheos.paths import Path
from rheos.training import Descent

BATCH, STEPS = 256, 64


class Plain(nn.Module):
    """Three hidden layers of 128, time appended."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, 128), nn.SiLU(), nn.Linear(128, 2))

    def forward(self, x: torch.Tensor, t: torch.Tensor, cond: None = None) -> torch.Tensor:
        return self.layers(torch.cat([x, t[:, None]], 1))


def by_hand():
    def make(x0: torch.Tensor, x1: torch.Tensor):
        t = torch.rand(len(x1))
        return t, (1 - t[:, None]) * x0 + t[:, None] * x1, x1 - x0
    return make


def by_torchcfm():
    from torchcfm.conditional_flow_matching import ConditionalFlowMatcher

    return ConditionalFlowMatcher(sigma=0.0).sample_location_and_conditional_flow


def by_flow_matching():
    from flow_matching.path import AffineProbPath
    from flow_matching.path.scheduler import CondOTScheduler

    path = AffineProbPath(CondOTScheduler())

    def make(x0: torch.Tensor, x1: torch.Tensor):
        made = path.sample(t=torch.rand(len(x1)), x_0=x0, x_1=x1)
        return made.t, made.x_t, made.dx_t
    return make


PEERS = {"plain PyTorch": by_hand, "torchcfm": by_torchcfm, "flow_matching": by_flow_matching}


def compare(name: str, net: nn.Module, fused: bool, peer: str = "plain PyTorch", target: str = "at most 1.05") -> tuple[str, str, str, str, str]:
    data = Draws(0).rows("data", 0, (10_000, 2)) * torch.tensor([1.0, 0.3])
    run = Descent(Matching(Path.linear()), Independent(data), BATCH, partial(torch.optim.Adam, lr=1e-3, fused=fused))
    state = run.init(copy.deepcopy(net))
    held = [state]

    def ours() -> None:
        held[0] = evolve(run, held[0], STEPS, donate=True)

    theirs = copy.deepcopy(net)
    optimizer = torch.optim.Adam(theirs.parameters(), lr=1e-3, fused=fused)
    make = PEERS[peer]()

    def plain() -> None:
        for _ in range(STEPS):
            x1 = data[torch.randint(len(data), (BATCH,))]
            t, x, target = make(torch.randn_like(x1), x1)
            loss = (theirs(x, t) - target).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    mine, other, ratio = interleaved(ours, plain, 31)
    return (f"{name}, against {peer}", f"{mine / STEPS * 1e3:.3f} ms", f"{other / STEPS * 1e3:.3f} ms", f"{ratio:.3f}x", target)


if __name__ == "__main__":
    with Draws(0).scope(0):
        small, residual = Plain(), ResidualMLP((2,), width=128, depth=3)
    table("flow-matching step, batch 256, 2-D data", [
        compare("MLP 3 x 128", small, False), compare("MLP 3 x 128, fused Adam", small, True), compare("residual MLP 3 x 128, fused Adam", residual, True),
        *(compare("MLP 3 x 128", small, False, peer, "at most 1") for peer in ("torchcfm", "flow_matching"))])
