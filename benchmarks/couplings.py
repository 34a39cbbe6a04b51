"""Pairing a minibatch by optimal transport, against torchcfm's sampler on the same points."""
from __future__ import annotations

import importlib.metadata

import torch
from torchcfm.optimal_transport import OTPlanSampler

from benchmarks.measure import interleaved, table
from rheos.core import Draws
from rheos.couplings import MinibatchOT
from rheos.data import load, two_moons


def points(n: int, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise and data: two moons in the plane, digits in 64 dimensions."""
    digits = load("digits").x.flatten(1)
    data = 2 * two_moons().sample(n, seed=1).float() if dim == 2 else digits[Draws(1).permutation("rows", 0, len(digits))[:n]] / digits.std()
    return Draws(2).rows("noise", 0, (n, dim)), data


def exact(n: int, dim: int) -> tuple[str, str, str, str, str]:
    x0, x1 = points(n, dim)
    peer = OTPlanSampler("exact")
    pairs = MinibatchOT(x1, x0)

    def ours() -> None:
        _ = x0[pairs.partners(x0, x1)], x1

    mine, theirs, ratio = interleaved(ours, lambda: peer.sample_plan(x0, x1))
    return (f"exact plan, {n} pairs in {dim} dimensions", f"{mine * 1e3:.2f} ms", f"{theirs * 1e3:.2f} ms", f"{ratio:.2f}x", "at most 1")


if __name__ == "__main__":
    table(f"couplings, against torchcfm {importlib.metadata.version('torchcfm')}, plan and pairs", [exact(n, dim) for dim in (2, 64) for n in (128, 256, 512)])
