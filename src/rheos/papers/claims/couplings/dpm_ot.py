"""DPM-OT (Li et al., DPM-OT: A New Diffusion Probabilistic Model Based on Optimal Transport, 2023, arXiv:2307.11308).

Claim: noise brought by the semi-discrete optimal map to noised data at an intermediate level needs about ten further steps only, and mixes modes less than
as many steps from noise. Here: a grid of 25 narrow Gaussians, a network trained on them, start at t = 0.9 (noise at t = 0), ten calls, samples farther
than 5 standard deviations from every mode; and real digits with a trained network. The paper has FID on CIFAR-10, CelebA and FFHQ in 10 calls.

The control of the core rows takes the transport to noised data away: the same network, start time and ten calls, from a Gaussian of the points' own mean
and covariance. Supporting rows take away the map and nothing else: each sample from a point drawn at random in the place of T(noise). The law at the start
is then the same, so that where it does as well the quality is that of a start from noised data, and not the map's: what the map adds is the pairing with
noise, and a way between points. Another begins at the map continued between cells.
"""
import copy
from collections.abc import Mapping

import torch

from rheos.core import Draws, evolve
from rheos.couplings import Independent, SemiDiscrete
from rheos.data import GaussianMixture, load
from rheos.metrics import digit_features, frechet, hallucination, nearest, sliced_w2
from rheos.nets import ResidualMLP
from rheos.objectives import Matching
from rheos.papers import Check, Scale, bars, digits_flow_teacher, fixture
from rheos.paths import Field, Path, T, Times
from rheos.samplers import DDIM, Expressway, sample
from rheos.training import Average, Cosine, Descent

# Against DDIM in as many calls; the paper shows pictures without mixed modes.
OFF_MODE_RATIO_AT_MOST = 0.3
SW2_RATIO_AT_MOST = 0.8
# |cost of the semi-discrete plan / cost of the assignment - 1|, 1000 samples and 1000 points.
COST_ERROR_AT_MOST = 0.02
# Of DDIM, 40 of 4000 samples: with fewer there are no mixed modes to avoid, and ratios to it are of a few counts.
DDIM_OFF_MODE_AT_LEAST = 0.01

STD, SPACING, CALLS, START = 0.05, 2.0, 10, 0.9
UNIT = 8**0.5          # the grid's standard deviation a coordinate, by which the network's units are
PATH = Path.linear()
centres = SPACING * torch.cartesian_prod(torch.arange(-2.0, 3.0), torch.arange(-2.0, 3.0)) / UNIT
grid = GaussianMixture(torch.full((25,), 1 / 25), centres, torch.full((25,), (STD / UNIT) ** 2))


def network() -> ResidualMLP:
    return ResidualMLP((2,), width=128, depth=3)


def learned_grid(steps: int) -> dict[str, torch.Tensor]:
    with Draws(0).scope(0):
        net = network()
    fit = Descent(Matching(PATH), Independent(grid), 512, rate=Cosine(steps, min(100, steps // 10)), average=Average(0.995), clip=1.0, seed=0)
    return evolve(fit, fit.init(net), steps, donate=True).averaged.state_dict()


def flow(tensors: Mapping[str, torch.Tensor]) -> Field:
    net = network()
    net.load_state_dict(dict(tensors))
    return Field(net.eval(), PATH)


def noised(x: torch.Tensor, t: float, seed: int | Draws) -> torch.Tensor:
    return PATH.sample(x, torch.full((len(x),), t, dtype=x.dtype), seed=seed).x


def gaussian_like(x: torch.Tensor, n: int, seed: int | Draws) -> torch.Tensor:
    flat = x.flatten(1)
    root = torch.linalg.cholesky(torch.cov(flat.T) + 1e-6 * torch.eye(flat.shape[1], dtype=x.dtype))
    return (flat.mean(0) + Draws.of(seed).rows("gaussian", 0, (n, flat.shape[1]), dtype=x.dtype) @ root.T).reshape(n, *x.shape[1:])


def off_mode(x: torch.Tensor) -> float:
    return float(hallucination(x, grid, radius=5.0))


def claim(*, seed: int = 0, scale: Scale = Scale.FULL) -> list[Check]:
    full = scale is Scale.FULL
    draws, points, count = Draws(seed), 1000 if full else 60, 4000 if full else 200
    field = flow(fixture("dpm-ot-grid", learned_grid, steps=2500).tensors if full else learned_grid(5))
    latents = noised(grid.sample(points, seed=draws.child("data")), START, draws.child("latents"))
    settings = {"steps": 500, "batch": 1024} if full else {"steps": 5, "batch": 32}
    plan = SemiDiscrete(None, latents).fit(**settings, seed=draws.child("fit"))
    # The same map, of the same heights: only what is drawn between cells differs.
    continued = copy.copy(plan)
    continued.angle = 0.7
    way = lambda coupling: Expressway(field, coupling, START)(count, steps=CALLS, rule=DDIM(), seed=draws.child("samples"))
    made, random = way(plan), way(Independent(latents))
    blurred = way(Independent(gaussian_like(latents, count, draws)))
    start = PATH.prior((count, 2), seed=draws)
    # Of DDIM's two usual spacings the better one for it.
    ddim = [sample(field, start=start, rule=DDIM(), **given) for given in ({"steps": CALLS}, {"times": Times.uniform(PATH, CALLS, T)})]
    truth = grid.sample(count, seed=draws.child("truth"))
    far = lambda x: float(sliced_w2(x, truth))
    least = {metric: max(min(metric(x) for x in ddim), 1e-9) for metric in (off_mode, far)}
    over = lambda metric, x: metric(x) / least[metric]
    report = lambda name, value, threshold: Check(name, value, "<=", threshold, control=None, core=False)
    checks = [
        Check("grid: share off every mode over DDIM's", over(off_mode, made), "<=", OFF_MODE_RATIO_AT_MOST, control=over(off_mode, blurred)),
        Check("grid: sw2 over DDIM's", over(far, made), "<=", SW2_RATIO_AT_MOST, control=over(far, blurred)),
        *costs(latents, plan, draws, settings),
        report("grid: share off every mode over DDIM's, map continued between cells", over(off_mode, way(continued)), OFF_MODE_RATIO_AT_MOST),
        report("grid: share off every mode over DDIM's, the same with latents drawn at random: what the map adds", over(off_mode, random),
               OFF_MODE_RATIO_AT_MOST),
        report("grid: sw2 over DDIM's, the same with latents drawn at random: what the map adds", over(far, random), SW2_RATIO_AT_MOST),
    ]
    if full:
        checks.append(Check("grid: DDIM's share off every mode", least[off_mode], ">=", DDIM_OFF_MODE_AT_LEAST, control=None, core=False))
    return checks + (digits(seed) if full else [])


def costs(points: torch.Tensor, plan: SemiDiscrete, draws: Draws, settings: dict[str, int]) -> list[Check]:
    """The cost of the map from as many samples to the points, and of the plan from their density, against that of the best assignment of the two."""
    import ot

    x = Draws.of(draws).rows("cost", 0, tuple(points.shape))
    even = torch.full((len(x),), 1 / len(x), dtype=torch.float64).numpy()
    best = float(ot.emd2(even, even, torch.cdist(x.double(), points.double()).square().numpy()))
    error = lambda y: abs(float((y - x).square().sum(1).mean()) / best - 1)
    fitted = SemiDiscrete(x, points).fit(**{**settings, "batch": min(settings["batch"], len(x))}, seed=draws.child("cost"))
    # Taken away: what the heights learn. Each sample goes to the nearest point.
    return [Check("plan cost from 1000 samples against the assignment's, relative error", error(fitted.map(x)), "<=", COST_ERROR_AT_MOST,
                  control=error(points[nearest(x, points)[1]])),
            Check("the same for the plan from the density those samples are of", error(plan.map(x)), "<=", COST_ERROR_AT_MOST, control=None, core=False)]


def digits(seed: int) -> list[Check]:
    """A network trained on real digits: start at t = 0.5, ten calls, against DDIM in ten calls with labels in the same proportion."""
    data, model, t = load("digits"), digits_flow_teacher(), 0.5
    known = model.transform.forward(data.x.double())
    latents = noised(known, t, Draws(seed).child("digits"))
    plan = SemiDiscrete(None, latents, cond=data.y).fit(400, 512, seed=seed)
    count = len(data.held_out.x)
    pixels = lambda x: model.transform.inverse(x).float().clamp(-1, 1)
    labels = plan.sample(count, seed=Draws(seed).child("expressway")).cond
    made = pixels(Expressway(model.field, plan, t)(count, steps=CALLS, rule=DDIM(), seed=seed))
    start = PATH.prior((count, 1, 8, 8), seed=seed, dtype=torch.float64)
    plain = pixels(sample(model.field, start=start, cond=labels, rule=DDIM(), steps=CALLS))
    away = lambda x: float(frechet(x, data.held_out.x, features=digit_features()))
    near = lambda x: float(nearest(x, data.x)[0].median())
    report = lambda name, value, threshold: Check(f"digits: {name}", value, "<=", threshold, control=None, core=False)
    return [report("Fréchet distance over DDIM's", away(made) / away(plain), SW2_RATIO_AT_MOST),
            Check("digits: distance to the nearest training digit over that of held-out digits", near(made) / near(data.held_out.x), ">=", 0.5, control=None,
                  core=False),
            report("share of cells left empty", float((plan.shares() == 0).double().mean()), 0.05)]


def plot(ax, checks: list[Check]):
    """Ratios to DDIM in ten calls, and the error of the plan's cost."""
    return bars(ax, checks, ["off mode", "sw2", "cost"], method="DPM-OT", without="from a Gaussian, nearest point")
