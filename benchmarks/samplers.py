"""Sampling: accuracy at equal field calls on exact fields, and the cost of running a table; both against diffusers' schedulers in the same run."""
from __future__ import annotations

import statistics
import warnings

import torch

from benchmarks.measure import interleaved, table
from rheos.core import evolve
from rheos.data import GaussianMixture, digits_mixture, ring, skewed
from rheos.guidance import classifier_free
from rheos.paths import LAM, RHO7, ExactField, Field, Path, Times
from rheos.samplers import (
    DDIM,
    DEIS,
    PLMS,
    AdamsBashforth,
    DPMSolverPP,
    Euler,
    Exponential,
    Multistep,
    RungeKutta,
    Singlestep,
    UniPC,
    default_rule,
    sample,
)

STEPS, SHAPE = 20, (16, 3, 32, 32)
CALLS, STARTS, SEEDS = (5, 10, 20), 512, range(4)
BETAS = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
PATH = Path.from_betas(torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64))       # sigma / alpha from 157 to 0.01


def scheduler(name: str, **kinds: object):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import diffusers
        return getattr(diffusers, name)(**BETAS, **kinds)


THEIRS = {
    "DPM++2M": lambda: scheduler("DPMSolverMultistepScheduler", final_sigmas_type="sigma_min"),
    "DPM++2M, its Lu grid": lambda: scheduler("DPMSolverMultistepScheduler", final_sigmas_type="sigma_min", use_lu_lambdas=True),
    "DPM++3M": lambda: scheduler("DPMSolverMultistepScheduler", final_sigmas_type="sigma_min", solver_order=3),
    "UniPC": lambda: scheduler("UniPCMultistepScheduler", final_sigmas_type="sigma_min"),
    "DEIS-2, Karras grid": lambda: scheduler("DEISMultistepScheduler", use_karras_sigmas=True),
}
# Every rule with the spacings its users would try; each gets as many steps as its calls allow.
OURS = {
    "DDIM": DDIM(), "DPM++ 2": DPMSolverPP(2), "DPM++ 2, lam": DPMSolverPP(2, spacing=LAM),
    "DPM++ 3": DPMSolverPP(3), "DPM++ 3, lam": DPMSolverPP(3, spacing=LAM),
    "UniPC 2": UniPC(2), "UniPC 3": UniPC(3), "UniPC 3, lam": UniPC(3, spacing=LAM), "DEIS 3 in lam": DEIS(3, clock=LAM), "DEIS 3 in t": DEIS(3),
    "DEIS 2, rho^(1/7)": DEIS(2, clock=LAM, spacing=RHO7), "PLMS": PLMS(), "2S": Singlestep(2), "Euler": Euler(), "Adams-Bashforth 2": AdamsBashforth(2),
    "Heun": RungeKutta(2), "Runge-Kutta 4": RungeKutta(4), "Heun in rho": RungeKutta(2, "noise"),
}


class Problem:
    """An exact field on the DDPM schedule, its starts and their ends by 3,200 steps of order 4, where 2,200 differ by 6e-9."""

    def __init__(self, target: GaussianMixture, seed: int, guidance: float | None = None, label: int | None = None):
        exact = ExactField(PATH, target)
        self.field = exact if guidance is None else classifier_free(exact, guidance)
        self.start = PATH.prior((STARTS, *target.event), seed=seed, dtype=torch.float64)
        self.cond = None if label is None else torch.full((STARTS,), label)
        self.ends = PATH.coefficients(1.0)
        self.truth = self.ours(Exponential(3, "data", LAM, corrector=3, spacing=LAM), 3200)

    def ours(self, rule: object, calls: int) -> torch.Tensor:
        steps = max(1, (calls - getattr(rule, "extra_calls", 0)) // rule.calls_per_step)
        return sample(self.field, start=self.start, rule=rule, steps=steps, cond=self.cond) / self.ends.b

    def theirs(self, made: object, calls: int) -> torch.Tensor:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made.set_timesteps(calls)
            x = self.start
            for t in made.timesteps:
                x = made.step(self.field(x, float(PATH.schedule.time_of(float(t))), self.cond).noise, t, x).prev_sample
        return x / self.ends.b

    def errors(self, x: torch.Tensor) -> tuple[float, float]:
        """(root mean square over all samples, median over samples of each one's)."""
        each = (x - self.truth).flatten(1).square().mean(1)
        return float(each.mean().sqrt()), float(each.sqrt().median())


def mean_errors(problems: list[Problem], run) -> tuple[float, float]:
    found = [p.errors(run(p)) for p in problems]
    return tuple(statistics.fmean(column) for column in zip(*found, strict=True))


def shown(errors: tuple[float, float]) -> str:
    return "nan" if errors[0] != errors[0] else f"{errors[0]:.4f} ({errors[1]:.4f})"


def accuracy(title: str, targets: tuple[str, ...], peers: bool, **kinds) -> None:
    problems = [Problem(seed=seed, **kinds) for seed in SEEDS]
    rows = []
    default = [shown(mean_errors(problems, lambda p, c=c: p.ours(default_rule(p.field), c))) for c in CALLS]
    rows.append(("default of rheos.sample", *default, " / ".join(targets)))
    if peers:
        for name, make in THEIRS.items():
            rows.append((f"diffusers {name}", *(shown(mean_errors(problems, lambda p, m=make, c=c: p.theirs(m(), c))) for c in CALLS), ""))
    every = {name: [mean_errors(problems, lambda p, r=rule, c=c: p.ours(r, c)) for c in CALLS] for name, rule in OURS.items()}
    best = [min(every, key=lambda name, i=i: every[name][i][0]) for i in range(len(CALLS))]
    rows.append(("best of the other rules here", *(f"{shown(every[name][i])} {name}" for i, name in enumerate(best)), ""))
    print(f"\n{title}: error of x / alpha, root mean square (median over samples), {STARTS} starts, mean of {len(SEEDS)} seeds")
    head = ("rule", *(f"{c} calls" for c in CALLS), "target")
    widths = [max(len(r[i]) for r in [head, *rows]) for i in range(len(head))]
    for row in [head, *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))


def monotone() -> None:
    problems = [Problem(ring(), seed) for seed in SEEDS]
    errors = [mean_errors(problems, lambda p, c=c: p.ours(default_rule(p.field), c))[0] for c in range(1, 51)]
    rises = [c + 2 for c, (a, b) in enumerate(zip(errors, errors[1:], strict=False)) if b >= a]
    print(f"\nring, default, 1 to 50 calls: {'falls at every call' if not rises else f'rises at {rises}'}")


def compare(name: str, rule: Exponential, peer_name: str, kind: str = "noise", **kinds: object) -> tuple[str, str, str, str, str]:
    theirs = scheduler(peer_name, **kinds)
    path, x, answer = Path.vp(), torch.randn(SHAPE), torch.randn(SHAPE)
    field = Field(lambda x, t, cond: answer, path, kind)
    run = Multistep(field, rule.plan(Times.uniform(path, STEPS, LAM)))

    def ours() -> None:
        evolve(run, run.init(x), STEPS)

    def peer() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs.set_timesteps(STEPS)
            y = x
            for t in theirs.timesteps:
                y = theirs.step(answer, t, y).prev_sample

    mine, other, ratio = interleaved(ours, peer, 11)
    return (f"{name}, network tells {kind}, against {peer_name}", f"{mine / STEPS * 1e3:.3f} ms", f"{other / STEPS * 1e3:.3f} ms", f"{ratio:.2f}x", "0.07 ms")


if __name__ == "__main__":
    import diffusers

    told = {"data": {"prediction_type": "sample"}, "noise": {"prediction_type": "epsilon"}}
    table(f"a sampler's own cost a step on {SHAPE}, diffusers {diffusers.__version__}", [
        compare(name, rule, peer, kind, **kinds, **told[kind])
        for kind in ("data", "noise")
        for name, rule, peer, kinds in (
            ("DDIM", DDIM(kind="data"), "DDIMScheduler", {"clip_sample": False}),
            ("DPM-Solver++ 2", DPMSolverPP(2), "DPMSolverMultistepScheduler", {"solver_order": 2}),
            ("order 2 with corrector", Exponential(2, "data", LAM, 2), "UniPCMultistepScheduler", {"solver_order": 2}),
            ("order 3 with corrector", UniPC(3), "UniPCMultistepScheduler", {"solver_order": 3}))]
        + [compare("DEIS 3", DEIS(3, clock=LAM), "DEISMultistepScheduler", "noise", solver_order=3)])
    accuracy("ring of 8 modes, std .08", (".040", ".010", ".0025"), True, target=ring())
    monotone()
    accuracy("ring of 8 modes, std .02", (), True, target=ring(std=0.02))
    accuracy("skewed mixture", (), True, target=skewed())
    accuracy("digits, 16 principal components", (), True, target=digits_mixture())
    accuracy("digits, 16 principal components, threes with guidance 3", (), True, target=digits_mixture(), guidance=3.0, label=3)
