"""FlowChef (Patel et al., Steering rectified flow models in the vector field for controlled image generation, 2024, arXiv:2412.00100).

Claim: on a straight flow the gradient of an energy on the clean estimate may be carried over to x without going through the network, so that steering for
inverse problems needs no backpropagation and is as good. Here: the exact field of real digits in their pixels (one full Gaussian a class, linear path);
48 draws seen through 2 x 2 mean pooling; 20 steps. The rival is diffusion posterior sampling (DPS), the same walk with the gradient through the network, at
the best of three step sizes; the baseline is projection alone (DDNM). Costs are CPU seconds, one thread, on the exact field and on a small U-Net,
whose weights do not matter for that. And a network trained on digits. The paper has images of Flux and InstaFlow.
"""
from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from rheos.core import Draws
from rheos.data import digits_mixture, load
from rheos.guidance import Misfit, Nudge, Pool, flow_chef, project, travel
from rheos.nets import UNet
from rheos.papers import Check, Scale, bars, digits_flow_teacher
from rheos.paths import ExactField, Field, Path

# From rheos' specification, written before the run.
TO_DPS_AT_MOST = 1.1                # error over that of DPS at its best of three step sizes
TO_PROJECTION_AT_MOST = 0.75
COST_AT_MOST = 0.75                 # CPU time over DPS's, exact field
NET_COST_AT_MOST = 0.6              # the same on a small U-Net

PATH, STEPS, POOL = Path.linear(), 20, Pool(2)
STEP_SIZES = (0.1, 0.2, 0.3)        # of DPS, in units of sigma over the gradient's root mean square


def rms(x: Tensor) -> float:
    return float(x.square().mean().sqrt())


def chef(field: Field, y: Tensor, seed: int, steps: int = STEPS) -> Tensor:
    return flow_chef(field, [(POOL, y, 1.0)]).sample(len(y), steps=steps, shape=(1, 2 * y.shape[-2], 2 * y.shape[-1]), seed=seed)


def dps(field: Field, y: Tensor, seed: int, size: float = 0.2, steps: int = STEPS) -> Tensor:
    nudge = Nudge(Misfit(((POOL, y, 1.0),)), size, through="network", units="sigma")
    return travel(field, len(y), steps=steps, nudge=nudge, shape=(1, 2 * y.shape[-2], 2 * y.shape[-1]), seed=seed)


def ddnm(field: Field, y: Tensor, seed: int, steps: int = STEPS) -> Tensor:
    return travel(field, len(y), steps=steps, edit=project(POOL, y), shape=(1, 2 * y.shape[-2], 2 * y.shape[-1]), seed=seed)


def cost(run: Callable[[], Tensor], repeats: int) -> float:
    """The least CPU seconds of some runs."""
    found = []
    for _ in range(repeats):
        begun = time.process_time()
        run()
        found.append(time.process_time() - begun)
    return min(found)


def kept(run: Callable[[], Tensor]) -> float:
    """Megabytes that autograd put away for backward passes."""
    total = 0

    def pack(value: Tensor) -> Tensor:
        nonlocal total
        total += value.numel() * value.element_size()
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        run()
    return total / 1e6


def claim(*, seed: int = 0, scale: Scale = Scale.FULL) -> list[Check]:
    full = scale is Scale.FULL
    rows, steps, repeats = (48, STEPS, 7) if full else (8, 6, 1)
    mixture = digits_mixture(None, 0.1)
    field = ExactField(PATH, mixture)
    truth = mixture.sample(rows, seed=seed).reshape(rows, 1, 8, 8)
    y = POOL.forward(truth)
    error = lambda x: rms(x - truth)
    ours, plain = error(chef(field, y, seed, steps)), error(ddnm(field, y, seed, steps))
    best = min(error(dps(field, y, seed, size, steps)) for size in STEP_SIZES)
    costs = [cost(lambda method=method: method(field, y, seed, steps=steps), repeats) for method in (chef, dps, dps)]
    with Draws(0).scope(0):
        small = Field(UNet((1, 16, 16) if full else (1, 8, 8), widths=(32, 64), depth=1).eval(), PATH)
    seen = torch.zeros(rows, 1, *(s // 2 for s in small.event[1:]))
    net_costs = [cost(lambda method=method: method(small, seen, seed, steps=steps // 2), 3 if full else 1) for method in (chef, dps, dps)]
    memory = [kept(lambda method=method: method(small, seen[:2], seed, steps=2)) for method in (chef, dps)]
    checks = [
        Check("error over that of DPS at its best of three step sizes", ours / best, "<=", TO_DPS_AT_MOST, control=plain / best),
        Check("error over that of projection alone", ours / plain, "<=", TO_PROJECTION_AT_MOST, control=error(ddnm(field, y, seed + 1000, steps)) / plain),
        Check("CPU time over that of DPS, exact field", costs[0] / costs[1], "<=", COST_AT_MOST, control=costs[2] / costs[1]),
        Check("CPU time over that of DPS, small U-Net", net_costs[0] / net_costs[1], "<=", NET_COST_AT_MOST, control=net_costs[2] / net_costs[1]),
        Check("kept for backward passes over what DPS keeps, small U-Net", memory[0] / memory[1], "<=", NET_COST_AT_MOST, control=None, core=False),
    ]
    return checks + (trained(seed) if full else [])


def trained(seed: int) -> list[Check]:
    """Errors again for a network trained on digits, on 48 that it never saw, in pixels."""
    model, truth = digits_flow_teacher(), load("digits").held_out.x[:48].double()
    y = POOL.forward(model.transform.forward(truth))
    error = lambda x: rms(model.transform.inverse(x) - truth)
    ours, best = error(chef(model.field, y, seed)), min(error(dps(model.field, y, seed, size)) for size in STEP_SIZES)
    report = lambda name, value, threshold: Check(f"network trained on digits: {name}", value, "<=", threshold, control=None, core=False)
    return [report("error over that of DPS at its best of three step sizes", ours / best, TO_DPS_AT_MOST),
            report("error over that of projection alone", ours / error(ddnm(model.field, y, seed)), TO_PROJECTION_AT_MOST)]


def plot(ax, checks: list[Check]):
    """Ratios of error and cost, FlowChef's and without the idea."""
    return bars(ax, checks, ["error / DPS", "error / DDNM", "time / DPS", "U-Net time / DPS"], method="FlowChef")
