"""BDIA (Zhang et al., Exact diffusion inversion via bi-directional integration approximation, 2023, arXiv:2307.10829).

Claim: using one prediction for the step onward and for the step back makes DDIM exactly invertible at no extra call, and samples better besides. Here: the
exact field of real digits in their 64 pixels (one Gaussian a class) on the variance-preserving path, equal steps in t, gamma 1. There and back is measured
from the starts: to digits and to the starts again, root mean square over all. Sampling errors are medians over samples of distances to the exact end.
The paper inverts and edits images of Stable Diffusion.

The control is the baseline: DDIM, and its inversion by the same steps reversed. Supporting rows: an edit (threes to eights and back), what small
gamma costs, the same on a network trained on digits.
"""
import warnings

import torch

from rheos.papers import Check, Problem, Scale, bars, digits_flow_teacher, digits_problem
from rheos.paths import Field, T, Times, U
from rheos.samplers import BDIA, DDIM, Exponential, invert, sample, sample_pair

# From rheos' specification, written before the run.
EXACT_AT_MOST = 1e-12           # there and back in float64, 20 steps
EXACT_IN_FLOAT32_AT_MOST = 1e-4
NEARLY_AT_LEAST = 1e-2          # DDIM's, 20 steps
BETTER_AT_MOST = 0.75           # error over DDIM's at 10 and at 20 calls
EDIT_AT_MOST = 1e-10
NETWORK_AT_MOST = 1e-6

FROM, TO = 3, 8


def rms(gap: torch.Tensor) -> float:
    return float(gap.double().square().mean().sqrt())


def exactly(field: Field, start: torch.Tensor, rule: BDIA, times: Times, cond: int | None = None) -> float:
    """There and back with the pair kept."""
    there = sample_pair(field, start=start, rule=rule, times=times, cond=cond)
    return rms(invert(field, there, cond=cond).x - start)


def nearly(field: Field, start: torch.Tensor, times: Times, cond: int | None = None) -> float:
    """There and back by DDIM, on the same times reversed; its end lies a little inside, where the field still tells the noise."""
    there = sample(field, start=start, rule=DDIM(), times=times, cond=cond)
    return rms(sample(field, start=there, rule=DDIM(), times=times.reversed(), cond=cond) - start)


def claim(*, seed: int = 0, scale: Scale = Scale.FULL) -> list[Check]:
    full = scale is Scale.FULL
    problem = digits_problem(64 if full else 6, seed=seed, axes=None, ridge=0.05, fine=200 if full else 30)
    field, start, path = problem.field, problem.start, problem.field.path
    even = lambda steps, end=1.0: Times.uniform(path, steps, T, end=end)
    other = digits_problem(len(start), seed=seed + 1000, axes=None, ridge=0.05, fine=200 if full else 30)
    back = nearly(field, start, even(20, 0.999))
    better = {n: problem.error(BDIA(), n, T) / problem.error(DDIM(), n, T) for n in (10, 20)}
    without = max(other.error(DDIM(), n, T) / problem.error(DDIM(), n, T) for n in (10, 20))
    report = lambda name, value, relation, threshold: Check(name, value, relation, threshold, control=None, core=False)
    checks = [
        Check("there and back, 20 steps, float64", exactly(field, start, BDIA(), even(20)), "<=", EXACT_AT_MOST, control=back),
        Check("there and back, 20 steps, float32", exactly(field, start.float(), BDIA(), even(20)), "<=", EXACT_IN_FLOAT32_AT_MOST, control=back),
        Check("error over DDIM's, 10 and 20 calls", max(better.values()), "<=", BETTER_AT_MOST, control=without),
        report("there and back by DDIM, 20 steps", back, ">=", NEARLY_AT_LEAST),
        report("threes edited to eights and back, 20 steps", edited(problem, even(20)), "<=", EDIT_AT_MOST),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)        # that the way back loses digits is what the row shows
        checks.append(report("there and back with gamma 0.5, 50 steps", exactly(field, start, BDIA(0.5), even(50)), "<=", EXACT_AT_MOST))
    return checks + (trained(seed) if full else [])


def edited(problem: Problem, times: Times) -> float:
    """Threes drawn, inverted as threes, made into eights from there, inverted as eights, made into threes again."""
    field, rows = problem.field, len(problem.start)
    three, eight = (torch.full((rows,), k) for k in (FROM, TO))
    drawn = sample_pair(field, start=problem.start, times=times, cond=three, guidance=3.0)
    one = invert(field, drawn, cond=three, guidance=3.0)
    eights = invert(field, one, cond=eight, guidance=3.0)
    again = invert(field, invert(field, eights, cond=eight, guidance=3.0), cond=three, guidance=3.0)
    return rms(again.x - drawn.x)


def trained(seed: int) -> list[Check]:
    """The same on a network trained on digits, linear path, asked for threes."""
    field = digits_flow_teacher().field
    start = field.path.prior((32, 1, 8, 8), seed=seed, dtype=torch.float64)
    times, cond = Times.uniform(field.path, 50, T), FROM
    images = sample(field, start=start, steps=50, cond=cond)
    there = invert(field, images, times=times, cond=cond)
    inside = Times.uniform(field.path, 50, T, end=0.999)
    run = lambda rule, steps: sample(field, start=start, rule=rule, times=Times.uniform(field.path, steps, T), cond=cond)
    truth = run(Exponential(3, "data", U, corrector=3), 200)
    error = lambda rule: float((run(rule, 10) - truth).flatten(1).square().mean(1).sqrt().median())
    report = lambda name, value, relation, threshold: Check(f"network trained on digits: {name}", value, relation, threshold, control=None, core=False)
    return [
        report("there and back, 50 steps", exactly(field, start, BDIA(), times, cond), "<=", NETWORK_AT_MOST),
        report("images to starts and back, 50 steps", rms(invert(field, there, cond=cond).x - images), "<=", NETWORK_AT_MOST),
        report("there and back by DDIM, 50 steps", nearly(field, start, inside, cond), ">=", NEARLY_AT_LEAST),
        report("error over DDIM's, 10 calls", error(BDIA()) / error(DDIM()), "<=", BETTER_AT_MOST),
    ]


def plot(ax, checks: list[Check]):
    """There and back, and errors over DDIM's, with the idea and without."""
    return bars(ax, checks, ["there and back", "in float32", "error / DDIM's"], method="BDIA", without="DDIM")
