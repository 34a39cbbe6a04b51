"""Pairing a minibatch by optimal transport, against torchcfm's sampler on the same points; Sinkhorn's plan, against POT's in the log
domain; and the entropic map of a fitted Schrödinger bridge, against that of POT's plan between as many fresh points."""
from __future__ import annotations

import importlib.metadata

import ot
import torch
from torchcfm.optimal_transport import OTPlanSampler

from benchmarks.measure import interleaved, table
from rheos.core import Draws
from rheos.couplings import MinibatchOT, SchrodingerBridge, entropic
from rheos.data import load, skewed, two_moons


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


def sinkhorn(n: int, reg: float, mean_cost: bool) -> tuple[str, str, str, str, str]:
    """Squared distances between skewed points and two moons, as they are or over their mean; the peer stops where its plan agrees to 1e-6 too."""
    cost = torch.cdist(skewed().sample(n, seed=1), two_moons().sample(n, seed=2)).square()
    cost = cost / cost.mean() if mean_cost else cost
    even, table_of = torch.full((n,), 1 / n, dtype=torch.float64).numpy(), cost.numpy()
    exact = entropic(cost, reg, tolerance=1e-11).log_plan.exp()
    off = lambda plan: float((plan - exact).abs().sum())
    ours = lambda: entropic(cost, reg, tolerance=1e-7).log_plan.exp()
    peer = lambda: torch.from_numpy(ot.sinkhorn(even, even, table_of, reg, method="sinkhorn_log", stopThr=1e-8, numItermax=10_000))
    errors = off(ours()), off(peer())
    mine, theirs, ratio = interleaved(ours, peer, rounds=2)
    what = f"Sinkhorn, n = {n}, reg {reg:g}, {'cost over its mean' if mean_cost else 'cost as it is'}, mass misplaced {errors[0]:.0e}, POT's {errors[1]:.0e}"
    return (what, f"{mine * 1e3:.0f} ms", f"{theirs * 1e3:.0f} ms", f"{ratio:.3f}x", "at most 0.333, 1e-6")


def bridge(n: int, epsilon: float, steps: int) -> tuple[str, str, str, str, str]:
    """A fit both ways and the map of n points; the peer's plan has those points and as many fresh targets. UVP against a plan of twice as many."""
    source, target = skewed(), two_moons()
    x, y, fresh = source.sample(2 * n, seed=1), target.sample(2 * n, seed=2), target.sample(n, seed=3)
    costs = lambda a, b: torch.cdist(a, b).square() / 2
    mapped = lambda plan, ends: plan @ ends / plan.sum(1, keepdim=True)
    truth = mapped(entropic(costs(x, y), epsilon, tolerance=1e-4).log_plan.exp(), y)[:n]
    even, table_of = torch.full((n,), 1 / n, dtype=torch.float64).numpy(), costs(x[:n], fresh).numpy()
    ours = lambda: SchrodingerBridge(source, target, epsilon).fit(steps).mean(x[:n])
    peer = lambda: mapped(torch.from_numpy(ot.sinkhorn(even, even, table_of, epsilon, method="sinkhorn_log", stopThr=1e-4)), fresh)
    uvp = [100 * float((made() - truth).square().sum(1).mean() / y.var(0).sum()) for made in (ours, peer)]
    mine, theirs, ratio = interleaved(ours, peer, rounds=1)
    what = f"bridge of 50 modes, {steps} steps both ways, map of {n} points, UVP {uvp[0]:.2f} %, POT's plan {uvp[1]:.2f} %"
    return (what, f"{mine * 1e3:.0f} ms", f"{theirs * 1e3:.0f} ms", f"{mine / steps * 3000:.1f} s for 3000 steps, {ratio:.2f}x", "at most 30 s")


if __name__ == "__main__":
    table(f"couplings, against torchcfm {importlib.metadata.version('torchcfm')}, plan and pairs", [exact(n, dim) for dim in (2, 64) for n in (128, 256, 512)])
    table(f"couplings, against POT {importlib.metadata.version('POT')}, sinkhorn_log",
          [sinkhorn(1000, 0.1, True), sinkhorn(500, 0.1, False), bridge(1000, 0.1, 750)])
