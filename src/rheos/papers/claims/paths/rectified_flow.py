"""Rectified flow (Liu, Gong and Liu, Flow Straight and Fast, 2022, arXiv:2209.03003).

Claim: a flow fitted to any coupling, simulated and fitted again to its own starts and ends, lowers every convex transport cost at once, and its
paths become so straight that one Euler step samples well. Here: eight Gaussians into two moons by a small network, two rounds of 1500
minibatches; and real digits, where a network trained by `rheos.train` is rectified once. The paper has FID 4.85 in one step on CIFAR-10.

Controls take the pairing away and nothing else: the ends that round 1 gave its starts are shuffled, and round 2 is fitted to those at equal budget.
"""
import copy
from collections.abc import Mapping

import torch

from rheos.core import Draws
from rheos.couplings import Independent, Paired, Reflow
from rheos.data import eight_gaussians, load, two_moons
from rheos.distill import rectify, straightness
from rheos.metrics import digit_features, floor, frechet, sliced_w2
from rheos.models import train
from rheos.nets import ResidualMLP
from rheos.objectives import Matching
from rheos.papers import Check, Scale, bars, fixture
from rheos.paths import Field, Path
from rheos.samplers import Euler, RungeKutta, sample

# The theorem says at most 1 for an exact flow; the other numbers leave room around a prototype's 0.31 to 0.58, 0.01 and 0.26.
COST_RATIO_AT_MOST = 0.9
STRAIGHTNESS_RATIO_AT_MOST = 0.3
ONE_STEP_RATIO_AT_MOST = 0.5

POWERS = (1.0, 1.5, 2.0)
PATH = Path.interpolant("none")          # two-sided: the source is a law like any other
source = eight_gaussians(radius=4.0, std=0.2).to(torch.float32)
target = two_moons().scaled(2.0).to(torch.float32)


def euler(field: Field, start: torch.Tensor, steps: int = 1) -> torch.Tensor:
    return sample(field, start=start, rule=Euler(), steps=steps)


def claim(*, seed: int = 0, scale: Scale = Scale.FULL) -> list[Check]:
    full = scale is Scale.FULL
    draws, pairs, count = Draws(seed), 10_000 if full else 200, 5000 if full else 100
    settings = {"objective": Matching(PATH), "steps": 1500 if full else 15, "batch": 512 if full else 64}
    fresh = lambda: ResidualMLP((2,), width=96 if full else 16, depth=2 if full else 1)
    independent = Independent(target, source)
    fine = lambda field, x: sample(field, start=x, rule=RungeKutta(2), steps=50 if full else 5)

    first = rectify(independent, fresh, rounds=1, seed=draws, **settings)[0]
    # The second round by hand, so that it and its control have the same starts, ends, beginning and budget; `rectify(rounds=2)` is this.
    rectified = Reflow(first, source, fine, pairs, seed=draws.child("pairs"))
    shuffled = Paired(rectified.source, rectified.target[draws.permutation("shuffled", 0, pairs)])
    onwards = lambda coupling: rectify(coupling, lambda: copy.deepcopy(first.net).requires_grad_(True), rounds=1, seed=draws.child("onwards"), **settings)[0]
    second, astray = onwards(rectified), onwards(shuffled)

    at_random = {p: independent.cost(p, n=100_000 if full else 1000, seed=draws.child("cost")) for p in POWERS}
    checks = [Check(f"E|x1 - x0|^{p:g} of the rectified coupling over the independent one's", rectified.cost(p) / at_random[p], "<=", COST_RATIO_AT_MOST,
                    control=shuffled.cost(p) / at_random[p]) for p in POWERS]
    start, truth = source.sample(count, seed=draws.child("start")), target.sample(count, seed=draws.child("truth"))
    bent = {name: straightness(flow, start, steps=50 if full else 4).relative for name, flow in (("1", first), ("2", second), ("astray", astray))}
    checks.append(Check("relative straightness of round 2 over round 1's", bent["2"] / bent["1"], "<=", STRAIGHTNESS_RATIO_AT_MOST,
                        control=bent["astray"] / bent["1"]))
    off = lambda flow, steps: float(sliced_w2(euler(flow, start, steps), truth))
    one = off(first, 1)
    checks.append(Check("distance to the target after one Euler step, round 2 over round 1", off(second, 1) / one, "<=", ONE_STEP_RATIO_AT_MOST,
                        control=off(astray, 1) / one))
    least = floor(sliced_w2, lambda n, seed: target.sample(n, seed=seed), n=count, repeats=3 if full else 2, seed=seed).mean
    report = lambda name, value, threshold: Check(name, value, "<=", threshold, control=None, core=False)
    checks += [report("distance of round 2 after one Euler step over round 1's after 50", off(second, 1) / off(first, 50), 2.0),
               report("distance after 50 Euler steps, round 2 over round 1: errors accumulate", off(second, 50) / off(first, 50), 2.0),
               report("distance of round 2 after one Euler step, in floors", off(second, 1) / least, 10.0)]
    return checks + (digits(seed) if full else [])


WIDTH, DEPTH = 160, 3


def digits_network() -> ResidualMLP:
    return ResidualMLP((1, 8, 8), width=WIDTH, depth=DEPTH, classes=10, dropout=0.1)


def teacher() -> dict[str, torch.Tensor]:
    """A flow from noise to real digits, with classes, and the transform of its data."""
    with Draws(0).scope(0):
        net = digits_network()
    model = train(load("digits"), net, steps=3000, seed=0, device="cpu")
    return {**{f"net.{k}": v for k, v in model.field.net.state_dict().items()}, "mean": model.transform.mean, "std": model.transform.std}


def learned(tensors: Mapping[str, torch.Tensor]) -> Field:
    net = digits_network()
    net.load_state_dict({k.removeprefix("net."): v for k, v in tensors.items() if k.startswith("net.")})
    return Field(net.eval(), Path.linear())


def student() -> dict[str, torch.Tensor]:
    """The teacher rectified once: 20 000 of its own pairs of noise and digits, labels as in the data."""
    flow, labels = learned(fixture("digits-flow", teacher).tensors), load("digits").y
    cond = labels[Draws(1).integers("label", 0, (20_000,), len(labels))]
    integrate = lambda field, x, cond: sample(field, start=x, cond=cond, rule=RungeKutta(2), steps=50)
    pairs = Reflow(flow, None, integrate, 20_000, seed=1, cond=cond)
    net = copy.deepcopy(flow.net)
    return {f"net.{k}": v for k, v in rectify(pairs, lambda: net, rounds=1, steps=4000, batch=256, seed=1)[0].net.state_dict().items()}


def digits(seed: int) -> list[Check]:
    """Noise to real digits: Fréchet distance of a classifier's features to the held-out half, and how straight the paths are."""
    data, made = load("digits"), fixture("digits-flow", teacher)
    flows = learned(made.tensors), learned(fixture("digits-flow-rectified", student).tensors)
    labels = data.held_out.y
    start = Path.linear().prior((len(labels), 1, 8, 8), seed=seed)

    def far(flow: Field, steps: int) -> float:
        x = sample(flow, start=start, cond=labels, rule=Euler(), steps=steps)
        return float(frechet((x * made["std"] + made["mean"]).float().clamp(-1, 1), data.held_out.x, features=digit_features()))

    bent = [straightness(flow, start, cond=labels).relative for flow in flows]
    distance = {steps: [far(flow, steps) for flow in flows] for steps in (1, 2, 50)}
    report = lambda name, value, threshold: Check(f"digits: {name}", value, "<=", threshold, control=None, core=False)
    rows = [report("relative straightness, rectified over first flow", bent[1] / bent[0], STRAIGHTNESS_RATIO_AT_MOST),
            report("Fréchet distance in 1 Euler step, rectified over first flow", distance[1][1] / distance[1][0], ONE_STEP_RATIO_AT_MOST),
            report("Fréchet distance in 2 Euler steps, rectified over first flow", distance[2][1] / distance[2][0], ONE_STEP_RATIO_AT_MOST),
            report("Fréchet distance of the rectified flow in 1 Euler step over the first flow's in 50", distance[1][1] / distance[50][0], 2.0)]
    return rows


def plot(ax, checks: list[Check]):
    """Ratios with the pairing and without."""
    return bars(ax, checks, [*(f"cost, p {p:g}" for p in POWERS), "straightness", "one step"], method="rectified", without="pairs shuffled")
