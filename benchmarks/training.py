"""A flow-matching step of an MLP on 2-D data, against the same lines in plain PyTorch."""
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


def compare(name: str, net: nn.Module, fused: bool) -> tuple[str, str, str, str, str]:
    data = Draws(0).rows("data", 0, (10_000, 2)) * torch.tensor([1.0, 0.3])
    run = Descent(Matching(Path.linear()), Independent(data), BATCH, partial(torch.optim.Adam, lr=1e-3, fused=fused))
    state = run.init(copy.deepcopy(net))
    held = [state]

    def ours() -> None:
        held[0] = evolve(run, held[0], STEPS, donate=True)

    theirs = copy.deepcopy(net)
    optimizer = torch.optim.Adam(theirs.parameters(), lr=1e-3, fused=fused)

    def plain() -> None:
        for _ in range(STEPS):
            x1 = data[torch.randint(len(data), (BATCH,))]
            x0, t = torch.randn_like(x1), torch.rand(BATCH)
            x = (1 - t[:, None]) * x0 + t[:, None] * x1
            loss = (theirs(x, t) - (x1 - x0)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    mine, peer, ratio = interleaved(ours, plain, 31)
    return (name, f"{mine / STEPS * 1e3:.3f} ms", f"{peer / STEPS * 1e3:.3f} ms", f"{ratio:.3f}x", "at most 1.05")


if __name__ == "__main__":
    with Draws(0).scope(0):
        small, residual = Plain(), ResidualMLP((2,), width=128, depth=3)
    table("flow-matching step, batch 256, 2-D data, against plain PyTorch", [
        compare("MLP 3 x 128", small, False), compare("MLP 3 x 128, fused Adam", small, True), compare("residual MLP 3 x 128, fused Adam", residual, True)])
