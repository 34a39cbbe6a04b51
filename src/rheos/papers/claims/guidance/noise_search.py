"""Noise search (Ma et al., Inference-time scaling for diffusion models beyond scaling denoising steps, 2025, arXiv:2501.09732).

Claim: beyond some tens of steps more steps of denoising gain nothing, but field calls spent on searching for better noise do: the best of N starts by
a verifier, or a walk among a start's neighbours, which needs budget to pay. Here: the exact field of real digits in their 64 pixels, so that the
verifiers (the posterior of a class that holds a tenth of the digits; a smooth one, the brightness of the upper half over the lower) are exact too, and
256 searches side by side. Equal field calls on all sides. The paper has ImageNet and text-to-image models.

Supporting rows show where the neighbours lose (small budgets), search over paths, and what a judge that did not choose says on a trained network.
"""
import torch

from rheos.data import digits_mixture
from rheos.guidance import BestOf, OverPaths, ZeroOrder, search
from rheos.metrics import digit_features
from rheos.papers import Check, Scale, bars, digits_flow_teacher
from rheos.paths import ExactField, Path
from rheos.samplers import DDIM, DPMSolverPP, sample

LAW_WITHIN = 0.12                   # of 1 - (1 - p)^N, for N from 1 to 32
SUCCESS_AT_LEAST = 0.8              # of 32 starts of 8 steps
STEPS_ALONE_AT_MOST = 0.3           # of one start of 256 steps
GAP_RATIO_AT_MOST = 0.3             # zero-order search with step 0.3 over random search, 64 candidates

CLASS, CALLS, CANDIDATES, BRIGHTER = 7, 8, 32, 0.45
PATH = Path.vp()


def brightness_gap(x: torch.Tensor) -> torch.Tensor:
    """How far the upper half's brightness over the lower half's is from what is asked for."""
    return -(x[:, :, :4].mean((1, 2, 3)) - x[:, :, 4:].mean((1, 2, 3)) - BRIGHTER).abs()


def claim(*, seed: int = 0, scale: Scale = Scale.FULL) -> list[Check]:
    full = scale is Scale.FULL
    problems = 256 if full else 4
    mixture = digits_mixture(None)
    field, labels = ExactField(PATH, mixture), lambda x: torch.full((len(x),), CLASS)
    posterior = lambda x: (field.log_prob(x, 1.0, labels(x)) - field.log_prob(x, 1.0)).exp()
    prior = float(mixture.weights[mixture.labels == CLASS].sum())
    draw = lambda z, steps=CALLS: sample(field, start=z, steps=steps, rule=DPMSolverPP(2))
    like = torch.empty(0, dtype=torch.float64)
    find = lambda verify, candidates, seed=seed, method=None, calls=CALLS, problems=problems: search(
        lambda z: draw(z, calls), verify, mixture.event, candidates * calls, method=method, calls=calls, problems=problems, like=like, seed=seed)

    found = find(posterior, CANDIDATES, method=BestOf(1))
    share = [float((score > 0.5).double().mean()) for _, score in found.trace]
    law = [1 - (1 - prior) ** n for n in range(1, CANDIDATES + 1)]
    off = lambda shares: max(abs(a - b) for a, b in zip(shares, law, strict=True))
    # The verifier taken away: it chooses by digits of the sample that mean nothing.
    blind = find(lambda x: (1e6 * x.flatten(1).sum(1)).sin(), CANDIDATES)
    chance = float((posterior(blind.x) > 0.5).double().mean())
    # Few problems take 256 steps: that share is a plain average.
    long = find(posterior, 1, calls=CANDIDATES * CALLS if full else 16, problems=min(problems, 128))
    steps_alone = float((long.score > 0.5).double().mean())

    gap = lambda candidates, method, seed=seed: float(find(brightness_gap, candidates, seed, method).score.neg().mean())
    many, few = (64, 16) if full else (8, 4)
    random, small = gap(many, BestOf(8)), gap(many, ZeroOrder(2, 0.3))
    checks = [
        Check("share of searches that find the class, distance to 1 - (1 - p)^N, N to 32", off(share), "<=", LAW_WITHIN, control=off([chance] * CANDIDATES)),
        Check("share that find the class in 256 calls, 32 starts of 8 steps", share[-1], ">=", SUCCESS_AT_LEAST, control=steps_alone),
        Check("share that find the class in 256 calls, one start of 256 steps", steps_alone, "<=", STEPS_ALONE_AT_MOST, control=share[-1]),
        Check("gap to the brightness asked for, neighbours (step 0.3) over random search, 64 candidates", small / random, "<=", GAP_RATIO_AT_MOST,
              control=gap(many, BestOf(8), seed + 1000) / random),
    ]
    report = lambda name, value, relation, threshold: Check(name, value, relation, threshold, control=None, core=False)
    if full:
        checks += [
            report("the same with the paper's step 0.95", gap(many, ZeroOrder(2, 0.95)) / random, "<=", GAP_RATIO_AT_MOST),
            report("the same with step 0.3 and 16 candidates", gap(few, ZeroOrder(2, 0.3)) / gap(few, BestOf(8)), "<=", GAP_RATIO_AT_MOST),
            report("share that find the class in 256 calls, search over paths", over_paths(field, posterior, seed), ">=", SUCCESS_AT_LEAST),
            *trained(field, posterior, seed),
        ]
    return checks


def over_paths(field: ExactField, posterior, seed: int) -> float:
    """Two paths noised back and carried on, as much as fits into the same calls."""
    times = DDIM().times(PATH, 16)
    method = OverPaths(field, times, paths=2, draws=4, begin=2, back=1, forward=3)
    if method.nfe > CANDIDATES * CALLS:
        raise ValueError(f"search over paths takes {method.nfe} calls, more than {CANDIDATES * CALLS}")
    found = search(lambda x, way: sample(field, start=x, times=way, rule=DDIM()), posterior, field.event, CANDIDATES * CALLS, method=method, problems=64,
                   like=torch.empty(0, dtype=torch.float64), seed=seed)
    return float((found.score > 0.5).double().mean())


def trained(field: ExactField, posterior, seed: int) -> list[Check]:
    """A network trained on digits, searched without its classes; and a classifier that did not choose judges."""
    model, net = digits_flow_teacher(), digit_features()
    judge = lambda x: net.classify(x.float()).softmax(1)[:, CLASS].double()
    draw = lambda z: model.transform.inverse(sample(model.field, start=z, steps=CALLS))
    found = search(draw, posterior, (1, 8, 8), CANDIDATES * CALLS, calls=CALLS, problems=64, held_out=judge, like=torch.empty(0, dtype=torch.float64),
                   seed=seed)
    name = "network trained on digits, 32 starts of 8 steps: share of the class"
    return [Check(f"{name} by the verifier", (found.score > 0.5).double().mean(), ">=", SUCCESS_AT_LEAST, control=None, core=False),
            Check(f"{name} by a judge that did not choose", (found.held_out > 0.5).double().mean(), ">=", SUCCESS_AT_LEAST, control=None, core=False)]


def plot(ax, checks: list[Check]):
    """Shares and ratios, with search and without."""
    return bars(ax, checks, ["law", "32 starts", "1 start", "neighbours"], method="noise search")
