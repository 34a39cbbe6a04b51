"""Closing the ODE-SDE gap through the Fokker-Planck equation (Deveney, Stanczuk, Kreusser, Budd and Schoenlieb, 2023, arXiv:2311.15996).

Claim: a learned score is not the score of any one density that its own flow carries along, so its probability flow and its SDE end at different
laws; the Fokker-Planck residual bounds how different, and a penalty on it closes the gap. The flow's samples get better, the SDE's may get worse.
Here: a skewed mixture of two Gaussians on the line, the variance-preserving path with beta from 0.1 to 10, noise predicted by tanh networks of two
layers of 48, trained for 1500 steps without and with penalties of three weights; 2-Wasserstein distances, exact on the line, of 10,000 samples
each by Euler's rule in 100 steps. Networks of the three weights are trained side by side as one, on the same data.

Equal steps are not equal time: a step with the penalty costs about six plain ones of so small a network. Supporting rows compare with a plain
training of four times the steps. Others give each sampler's distance to data, and the same on real digits, on their two leading principal axes,
networks trained once for all seeds. At 10,000 samples two draws of one law of this mixture lie about 0.05 apart. On a GPU: images.
"""
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial

import torch

from rheos.core import Draws, evolve
from rheos.couplings import Independent, Pair
from rheos.data import GaussianMixture, load
from rheos.objectives import FokkerPlanckResidual, Matching, Uniform
from rheos.papers import Check, Scale, bars, fixture
from rheos.paths import Field, Path
from rheos.samplers import OdeSdeGap, ode_sde_gap
from rheos.training import Descent

# Distance of the flow's samples to the SDE's with the best weight over that without; the mean residual with the largest weight over that without.
GAP_OVER_PLAIN_AT_MOST = 0.6
RESIDUAL_OVER_PLAIN_AT_MOST = 0.5
# The paper: the flow's samples come nearer to the data, the SDE's may go away from them.
DISTANCE_OVER_PLAIN_AT_MOST = 1.0

WEIGHTS = (0.01, 0.03, 0.1)
LONGER = 4
PATH = Path.vp(0.1, 10.0)
CLEAR = Uniform(0.02)
MATCHING, RESIDUAL = Matching(PATH, "noise", when=CLEAR), FokkerPlanckResidual(PATH, "noise", when=CLEAR)
TARGET = GaussianMixture(torch.tensor([0.3, 0.7]), torch.tensor([[-1.2], [0.8]]), torch.tensor([0.15**2, 0.4**2]))


class Networks(torch.nn.Module):
    """Perceptrons of equal beginnings that learn side by side; a row's condition says whose it is, and without one it is the first's."""

    def __init__(self, members: int, size: int, width: int = 48):
        super().__init__()
        sizes = [size + 1, width, width, size]
        layers = [torch.nn.Linear(a, b) for a, b in zip(sizes, sizes[1:], strict=False)]
        same = lambda v: torch.nn.Parameter(v.detach().expand(members, *v.shape).clone())
        self.weights = torch.nn.ParameterList(same(layer.weight.T) for layer in layers)
        self.biases = torch.nn.ParameterList(same(layer.bias[None]) for layer in layers)

    def forward(self, x: torch.Tensor, t: torch.Tensor, cond: torch.Tensor | None = None) -> torch.Tensor:
        h = torch.cat([x, t[:, None]], 1).expand(len(self.weights[0]), -1, -1)
        for depth, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            h = torch.baddbmm(bias, torch.tanh(h) if depth else h, weight)
        return h[0] if cond is None else h[cond, torch.arange(len(x))]

    def alone(self, member: int) -> Field:
        """The field of one of them."""
        one = Networks(1, self.weights[0].shape[1] - 1, self.weights[0].shape[2])
        one.load_state_dict({name: value[member : member + 1] for name, value in self.state_dict().items()})
        return Field(one.requires_grad_(False), PATH, "noise")


@dataclass(frozen=True, eq=False)
class SideBySide:
    """The same rows for every member."""

    coupling: Independent
    members: int

    def sample(self, n: int, *, seed: Draws, step: int) -> Pair:
        return Pair(self.coupling.sample(n, seed=seed, step=step).x1.repeat_interleave(self.members, 0), None, torch.arange(self.members).repeat(n))


def penalised(net: Networks, pair: Pair, *, seed: Draws, step: int) -> torch.Tensor:
    """Matching + weight * residual, each row with the weight of its member."""
    weight = torch.tensor(WEIGHTS)[pair.cond]
    return MATCHING(net, pair, seed=seed, step=step).value + (weight * RESIDUAL(net, pair, seed=seed.child("residual"), step=step).per_sample).mean()


def trained(target: GaussianMixture | torch.Tensor, size: int, seed: int, steps: int) -> tuple[list[Field], Field, Field]:
    """The fields of the three weights, that without, and that without after `LONGER` times the steps."""
    def fresh(members: int) -> Networks:
        with Draws(seed).scope(0):
            return Networks(members, size)

    data, settings = Independent(target), {"batch": 64, "optimizer": partial(torch.optim.Adam, lr=2e-3), "seed": seed}
    together = Descent(penalised, SideBySide(data, len(WEIGHTS)), **settings)
    net = evolve(together, together.init(fresh(len(WEIGHTS))), steps, donate=True).net
    plain = Descent(MATCHING, data, **settings)
    first = evolve(plain, plain.init(fresh(1)), steps)
    longer = evolve(plain, first, (LONGER - 1) * steps)
    return [net.alone(i) for i in range(len(WEIGHTS))], first.net.alone(0), longer.net.alone(0)


def residual(field: Field, points: torch.Tensor, seed: int | Draws) -> float:
    return float(FokkerPlanckResidual(PATH, "noise", when=CLEAR, share=1.0)(field.net, Pair(points), seed=seed).value)


def best(gaps: Iterable[OdeSdeGap]) -> OdeSdeGap:
    return min(gaps, key=lambda gap: gap.between)


def claim(*, seed: int = 0, scale: Scale = Scale.FULL) -> list[Check]:
    full = scale is Scale.FULL
    samples, calls = (10_000, 100) if full else (200, 5)
    draws = Draws(seed)
    weighted, plain, longer = trained(TARGET, 1, seed, 1500 if full else 4)
    data, other = (TARGET.sample(samples, seed=draws.child(name)) for name in ("data", "other data"))
    gap = lambda field, begin=draws: ode_sde_gap(field, samples, calls, data=data, shape=(1,), seed=begin)
    gaps, without = [gap(field) for field in weighted], gap(plain)
    at = lambda field, points=data, begin=draws: residual(field, points[:2000], begin)
    least = best(gaps)
    checks = [
        # No penalty, from other starts.
        Check("distance of the flow's samples to the SDE's, the best of three weights over none", least.between / without.between, "<=",
              GAP_OVER_PLAIN_AT_MOST, control=gap(plain, draws.child("other starts")).between / without.between),
        # No penalty, at other points.
        Check("mean Fokker-Planck residual, the largest weight over none", at(weighted[-1]) / at(plain), "<=", RESIDUAL_OVER_PLAIN_AT_MOST,
              control=at(plain, other, draws.child("other points")) / at(plain)),
    ]
    if not full:
        return checks
    report = lambda name, value, threshold: Check(name, value, "<=", threshold, control=None, core=False)
    long = gap(longer)
    return [
        *checks,
        report("the same over a plain training of four times the steps", least.between / long.between, GAP_OVER_PLAIN_AT_MOST),
        report("its mean residual over that of a plain training of four times the steps", at(weighted[-1]) / at(longer), RESIDUAL_OVER_PLAIN_AT_MOST),
        report("distance of the flow's samples to data, the best weight over none", least.ode / without.ode, DISTANCE_OVER_PLAIN_AT_MOST),
        report("distance of the SDE's samples to data, the best weight over none", least.sde / without.sde, DISTANCE_OVER_PLAIN_AT_MOST),
        report("distance of the flow's samples to data, the best weight over four times the steps", least.ode / long.ode, DISTANCE_OVER_PLAIN_AT_MOST),
        *digits(draws),
    ]


def plane() -> torch.Tensor:
    """(n, 2): digits on their two leading principal axes, of variance 1 together."""
    data = load("digits")
    x = torch.cat([data.x, data.held_out.x]).flatten(1).double()
    x = x - x.mean(0)
    x = x @ torch.linalg.svd(x, full_matrices=False)[2][:2].T
    return (x / x.square().mean().sqrt()).float()


def digit_networks(steps: int) -> dict[str, torch.Tensor]:
    weighted, plain, longer = trained(plane(), 2, 0, steps)
    fields = {"plain": plain, "longer": longer, **{f"weight {i}": field for i, field in enumerate(weighted)}}
    return {f"{name}.{key}": value for name, field in fields.items() for key, value in field.net.state_dict().items()}


def digits(draws: Draws) -> list[Check]:
    """The same for real digits."""
    kept, points = fixture("fokker-planck-digits", digit_networks, steps=1500).tensors, plane()

    def field(name: str) -> Field:
        net = Networks(1, 2)
        net.load_state_dict({key.removeprefix(f"{name}."): value for key, value in kept.items() if key.startswith(f"{name}.")})
        return Field(net.requires_grad_(False), PATH, "noise")

    gap = lambda name: ode_sde_gap(field(name), 2000, 100, data=points, shape=(2,), directions=50, seed=draws.child("digits"))
    at = lambda name: residual(field(name), points, draws.child("digits"))
    least, without = best(gap(f"weight {i}") for i in range(len(WEIGHTS))), gap("plain")
    report = lambda name, value, threshold: Check(f"digits on two axes: {name}", value, "<=", threshold, control=None, core=False)
    return [report("distance of the flow's samples to the SDE's, the best weight over none", least.between / without.between, GAP_OVER_PLAIN_AT_MOST),
            report("mean residual, the largest weight over none", at(f"weight {len(WEIGHTS) - 1}") / at("plain"), RESIDUAL_OVER_PLAIN_AT_MOST),
            report("mean residual, the largest weight over four times the steps", at(f"weight {len(WEIGHTS) - 1}") / at("longer"), RESIDUAL_OVER_PLAIN_AT_MOST),
            report("distance of the flow's samples to data, the best weight over none", least.ode / without.ode, DISTANCE_OVER_PLAIN_AT_MOST),
            report("distance of the SDE's samples to data, the best weight over none", least.sde / without.sde, DISTANCE_OVER_PLAIN_AT_MOST)]


def plot(ax, checks: list[Check]):
    """Values beside their controls."""
    return bars(ax, checks, ["ODE to SDE", "residual"], method="with the residual")
