"""Light Schrödinger Bridge (Korotin, Gushchin and Burnaev, 2023, arXiv:2310.01174).

Claim: with a Gaussian mixture for the potential the Schrödinger bridge is learned without a neural network and without simulation, in minutes on a
CPU, and well. Here: between two Gaussians in 16 dimensions against the closed form; and noise to two moons, against Sinkhorn's plan between fresh
points. The paper reports single-cell data; that is not shipped here, so real data are digits: those below 5 to the others, in 10 principal components.

UVP is the mean squared distance of two maps over the target's variance, in per cent. Between Gaussians the control learns the same conditional
law by regression on entropic plans of minibatches; from noise to moons it takes the mixture away: one component in place of fifty, at equal budget.
"""
import time

import torch

from rheos.couplings import MinibatchOT, SchrodingerBridge, entropic
from rheos.data import GaussianMixture, load, two_moons
from rheos.metrics import floor, sliced_w2
from rheos.papers import Check, Scale, bars
from rheos.paths import Times
from rheos.samplers import EulerMaruyama, sample

# A prototype had 0.001 to 0.002 and 2.0 to 2.4 per cent; the paper's Gaussian benchmark, in other dimensions, has BW-UVP of 0.01 to 0.1 at eps = 1.
GAUSSIAN_UVP_AT_MOST = 0.1
VARIANCE_ERROR_AT_MOST = 0.05
# A prototype had sw2 0.048 against 0.554 of the source.
MOONS_UVP_AT_MOST = 3.0
TRANSPORTED_AT_MOST = 0.15
# CPU seconds of a fit both ways, 3000 minibatches of 256.
SECONDS_AT_MOST = 30.0

DIM = 16
one = torch.ones(1, dtype=torch.float64)
white = GaussianMixture(one, torch.zeros(1, DIM, dtype=torch.float64), torch.ones(1, DIM, dtype=torch.float64))
scaled = GaussianMixture(one, torch.linspace(-1, 1, DIM, dtype=torch.float64)[None], torch.linspace(0.1, 4, DIM, dtype=torch.float64)[None])
plane = GaussianMixture(one, torch.zeros(1, 2, dtype=torch.float64), torch.ones(1, 2, dtype=torch.float64))


def uvp(one: torch.Tensor, other: torch.Tensor, variance: float) -> float:
    return 100 * float((one - other).square().sum(1).mean()) / variance


def gaussians(seed: int, full: bool) -> list[Check]:
    """eps = 1: x0 and x1 of coordinate i covary by sqrt(v_i + 1/4) - 1/2 where the target's variance is v_i."""
    bridge = SchrodingerBridge(white, scaled, 1.0, 5).fit(1500 if full else 15, 256 if full else 32, seed=seed)
    x, variance = white.sample(2000 if full else 100, seed=seed + 100), scaled.covariance[0]
    covary = (variance + 0.25).sqrt() - 0.5
    exact, kept = scaled.means + covary * x, variance - covary**2
    plan = bridge.plan(x)
    spread = torch.einsum("nk,kd->nd", plan.weights, plan.covariances) + torch.einsum("nk,nkd->nd", plan.weights, (plan.means - plan.mean[:, None]).square())
    # The same from entropic plans between 256 and 256 points: 2 blur^2 is the weight of the entropy beside |x - y|^2, here 2 eps.
    batches = MinibatchOT(scaled, white, plan="sinkhorn", blur=1.0)
    pairs = [batches.sample(256 if full else 64, seed=seed, step=step) for step in range(60 if full else 3)]
    x0, x1 = (torch.cat([getattr(pair, name) for pair in pairs]) for name in ("x0", "x1"))
    inputs = torch.cat([x0, torch.ones_like(x0[:, :1])], 1)
    line = torch.linalg.lstsq(inputs, x1).solution
    off = (x1 - inputs @ line).square().mean(0)
    rival = torch.cat([x, torch.ones_like(x[:, :1])], 1) @ line
    worst = lambda found: float((found / kept - 1).abs().max())
    total = float(variance.sum())
    return [Check("Gaussians: conditional mean, UVP in per cent", uvp(plan.mean, exact, total), "<=", GAUSSIAN_UVP_AT_MOST, control=uvp(rival, exact, total)),
            Check("Gaussians: largest error of a conditional variance", worst(spread.mean(0)), "<=", VARIANCE_ERROR_AT_MOST, control=worst(off))]


def moons(seed: int, full: bool) -> list[Check]:
    target, count = two_moons(), 2000 if full else 60
    settings = {"steps": 1500 if full else 15, "batch": 256 if full else 32, "seed": seed}
    begun = time.process_time()
    bridge = SchrodingerBridge(plane, target).fit(**settings)
    seconds = (time.process_time() - begun) * 3000 / settings["steps"]
    single = SchrodingerBridge(plane, target, components=1).fit(**settings)
    x, y = plane.sample(count, seed=seed + 100), target.sample(count, seed=seed + 200)
    plan = entropic(torch.cdist(x, y).square() / 2, bridge.epsilon, tolerance=1e-4).log_plan.exp()
    exact, total = plan @ y / plan.sum(1, keepdim=True), float(y.var(0).sum())
    truth = target.sample(count, seed=seed + 300)
    far = float(sliced_w2(x, truth))
    share = lambda made: float(sliced_w2(made, truth)) / far
    least = floor(sliced_w2, lambda n, seed: target.sample(n, seed=seed), n=count, repeats=3, seed=seed).mean
    report = lambda name, value, threshold: Check(name, value, "<=", threshold, control=None, core=False)
    checks = [Check("moons: barycentric map against Sinkhorn's, UVP in per cent", uvp(bridge.mean(x), exact, total), "<=", MOONS_UVP_AT_MOST,
                    control=uvp(single.mean(x), exact, total)),
              Check("moons: transported sw2 over the source's", share(bridge.transport(x, seed=seed)), "<=", TRANSPORTED_AT_MOST,
                    control=share(single.transport(x, seed=seed)))]
    if full:
        noise, field, reverse = EulerMaruyama(bridge.epsilon / 2), bridge.field(), bridge.reversed()
        times = Times.uniform(field.path, 50)
        diffused = sample(field, start=x, rule=noise, times=times, seed=seed)
        checks += [report("moons: the same after 50 steps of the bridge's SDE", share(diffused), TRANSPORTED_AT_MOST),
                   report("moons: the same after 50 steps of its probability flow", share(sample(field, start=x, times=times)), TRANSPORTED_AT_MOST),
                   report("moons: the way back, sw2 over the target's", float(sliced_w2(reverse.transport(truth, seed=seed), x)) / far, TRANSPORTED_AT_MOST),
                   report("moons: the floor of sw2 over the source's", least / far, TRANSPORTED_AT_MOST),
                   report("moons: CPU seconds of 3000 steps both ways", seconds, SECONDS_AT_MOST)]
    return checks


def digits(seed: int) -> list[Check]:
    """Digits 0 to 4 to digits 5 to 9, principal components over a common scale, held-out rows of both."""
    data = load("digits")
    flat, held = data.x.flatten(1).double(), data.held_out.x.flatten(1).double()
    mean = flat.mean(0)
    axes = torch.linalg.svd(flat - mean, full_matrices=False).Vh[:10].T
    known, unseen = (flat - mean) @ axes, (held - mean) @ axes
    unit = known.std()
    part = lambda x, y, low: (x / unit)[(y < 5) == low]
    source, target = part(known, data.y, True), part(known, data.y, False)
    bridge = SchrodingerBridge(source, target, 0.1, 50).fit(1000, 128, seed=seed)
    x, truth = part(unseen, data.held_out.y, True), part(unseen, data.held_out.y, False)
    far = float(sliced_w2(x, truth))
    made = bridge.transport(x, seed=seed)
    report = lambda name, value, threshold: Check(f"digits: {name}", value, "<=", threshold, control=None, core=False)
    return [report("transported sw2 over the source's, held-out rows", float(sliced_w2(made, truth)) / far, TRANSPORTED_AT_MOST),
            report("rows of the target that it was fitted to, sw2 over the source's", float(sliced_w2(target, truth)) / far, TRANSPORTED_AT_MOST)]


def claim(*, seed: int = 0, scale: Scale = Scale.FULL) -> list[Check]:
    full = scale is Scale.FULL
    return gaussians(seed, full) + moons(seed, full) + (digits(seed) if full else [])


def plot(ax, checks: list[Check]):
    """What was measured, with fifty components and with the controls."""
    return bars(ax, checks, ["mean, UVP", "variance", "map, UVP", "sw2"], method="bridge", without="without")
