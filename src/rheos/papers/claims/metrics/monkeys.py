"""Repeated sampling (Brown et al., Large language monkeys: scaling inference compute with repeated sampling, 2024, arXiv:2407.21787).

Claim: the share of problems that at least one of many attempts solves (coverage) keeps rising over orders of magnitude, by a law log c = -exp(a) k^-b,
which no single chance of success shared by all problems could follow; and where no exact verifier picks the right attempt, what is selected
stays behind. Here: no language model; 60 planted random 3-SAT problems of 10 to 60 variables and 4.2 clauses a variable, an attempt is a
random start and 20 flips in broken clauses, the verifier is exact. It is the same statistics on problems whose difficulty varies as widely.
The paper goes from 15.9 % to 56 % of SWE-bench Lite with 250 attempts.
"""
import torch

from rheos.core import Draws
from rheos.guidance import RepeatedSampling
from rheos.metrics import coverage_at, fit_power_law
from rheos.papers import Check, Scale, bars

LAW_WITHIN = 0.04               # of the measured coverage, everywhere from 1 to 1024 attempts
HOMOGENEOUS_OFF_AT_LEAST = 0.4  # 1 - (1 - c(1))^k
BEHIND_AT_LEAST = 0.1           # a selector that errs, behind coverage, at 1024 attempts

PROBLEMS, FLIPS, RATIO, ERRS = 60, 20, 4.2, 0.1


def problem(draws: Draws, variables: int) -> torch.Tensor:
    """A random 3-SAT problem with a planted solution: signs (clauses, variables), +1 and -1 where a clause holds a variable or its negation."""
    clauses = round(RATIO * variables)
    hidden = draws.integers("hidden", 0, (variables,), 2) * 2 - 1
    order = draws.uniform("order", 0, (clauses * 2, variables)).argsort(1)[:, :3]
    signs = draws.integers("signs", 0, (clauses * 2, 3), 2) * 2 - 1
    kept = ((hidden[order] == signs).any(1)).nonzero()[:clauses, 0]         # clauses that the planted solution breaks are drawn anew
    return torch.zeros(clauses, variables).scatter_(1, order[kept], signs[kept].float())


def walk(signs: torch.Tensor, count: int, draws: Draws) -> torch.Tensor:
    """`count` attempts, (count, variables) of +1 and -1: from random starts, again and again a random variable of a random broken clause is flipped."""
    clauses, variables = signs.shape
    state = draws.integers("start", 0, (count, variables), 2).float() * 2 - 1
    inside, rows = signs.abs(), torch.arange(count)
    for flip in range(FLIPS):
        broken = (state @ signs.T < -2.5).float()                           # all three literals are false
        u = draws.uniform("walk", flip, (count, clauses + variables))
        clause = (broken * u[:, :clauses]).argmax(1)
        variable = (inside[clause] * u[:, clauses:]).argmax(1)
        state[rows, variable] *= 1 - 2 * broken.amax(1)                     # what is solved stays
    return state


def solved(signs: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
    """Whether all clauses hold, (attempts,)."""
    return (state @ signs.T > -2.5).all(1)


def selected(right: torch.Tensor, k: int, draws: Draws, errs: float) -> float:
    """The share of problems solved when a checker that errs so often picks one of k attempts: one that it marks right, at random."""
    problems, n = right.shape
    groups = right[:, : n // k * k].reshape(problems, -1, k)
    wrong = draws.uniform("errors", k, groups.shape) < errs
    liked = (groups ^ wrong).double() + draws.uniform("ties", k, groups.shape, dtype=torch.float64)
    return float(groups.gather(2, liked.argmax(2, keepdim=True)).double().mean())


def claim(*, seed: int = 0, scale: Scale = Scale.FULL) -> list[Check]:
    full = scale is Scale.FULL
    problems, attempts, most = (PROBLEMS, 2000, 1024) if full else (12, 64, 32)
    draws = Draws(seed)
    sizes = (10 + draws.integers("sizes", 0, (problems,), 51 if full else 11)).tolist()
    right = RepeatedSampling(walk, solved).attempts([problem(draws.child(i), size) for i, size in enumerate(sizes)], attempts, seed=draws)
    ks = range(1, most + 1)
    coverage = coverage_at(right.sum(1), attempts, ks)
    k = torch.arange(1, most + 1, dtype=torch.float64)
    homogeneous = float((1 - (1 - coverage[0]) ** k - coverage).abs().max())
    law = fit_power_law(ks, coverage)
    behind = lambda errs: float(coverage[-1]) - selected(right, most, draws, errs)
    rise = lambda k: selected(right, k, draws, ERRS)
    report = lambda name, value, relation, threshold: Check(name, value, relation, threshold, control=None, core=False)
    return [
        Check("largest distance of the fitted law to coverage, 1 to 1024 attempts", law.residual, "<=", LAW_WITHIN, control=homogeneous),
        Check("largest distance of one chance for all problems to coverage", homogeneous, ">=", HOMOGENEOUS_OFF_AT_LEAST, control=law.residual),
        Check("attempt picked by a checker that errs in 10 %, behind coverage at 1024", behind(ERRS), ">=", BEHIND_AT_LEAST, control=behind(0.0)),
        report("coverage at 1024 attempts", coverage[-1], ">=", 0.5),
        report("coverage at 1 attempt", coverage[0], "<=", 0.1),
        report("rise of coverage from 256 to 1024 attempts", float(coverage[-1] - coverage[most // 4 - 1]), ">=", BEHIND_AT_LEAST),
        report("rise of what the checker picks from 256 to 1024 attempts", rise(most) - rise(most // 4), "<=", BEHIND_AT_LEAST),
    ]


def plot(ax, checks: list[Check]):
    """Distances, with the idea and without."""
    return bars(ax, checks, ["law", "one chance", "selection"], method="repeated sampling")
