"""Running a planned table, against diffusers' scheduler of the same rule on the same tensors, the network's cost left out."""
from __future__ import annotations

import warnings

import torch

from benchmarks.measure import interleaved, table
from rheos.core import evolve
from rheos.paths import LAM, Field, Path, Times
from rheos.samplers import DDIM, DEIS, DPMSolverPP, Exponential, Multistep

STEPS, SHAPE = 20, (16, 3, 32, 32)


def compare(name: str, rule: Exponential, scheduler: str, **kinds: object) -> tuple[str, str, str, str, str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import diffusers
        theirs = getattr(diffusers, scheduler)(num_train_timesteps=1000, beta_schedule="linear", **kinds)
    path, x, noise = Path.vp(), torch.randn(SHAPE), torch.randn(SHAPE)
    field = Field(lambda x, t, cond: noise, path, "noise")
    run = Multistep(field, rule.plan(Times.uniform(path, STEPS, LAM)))

    def ours() -> None:
        evolve(run, run.init(x), STEPS)

    def peer() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs.set_timesteps(STEPS)
            y = x
            for t in theirs.timesteps:
                y = theirs.step(noise, t, y).prev_sample

    mine, other, ratio = interleaved(ours, peer, 11)
    return (f"{name}, against {scheduler}", f"{mine / STEPS * 1e3:.3f} ms", f"{other / STEPS * 1e3:.3f} ms", f"{ratio:.2f}x", "at most 1")


if __name__ == "__main__":
    import diffusers

    table(f"a sampler's own cost a step on {SHAPE}, diffusers {diffusers.__version__}", [
        compare("DDIM", DDIM(kind="noise"), "DDIMScheduler", clip_sample=False),
        compare("DPM-Solver++ 2", DPMSolverPP(2), "DPMSolverMultistepScheduler", solver_order=2),
        compare("DEIS 3", DEIS(3, clock=LAM), "DEISMultistepScheduler", solver_order=3),
        compare("order 2 with corrector", Exponential(2, "data", LAM, 2), "UniPCMultistepScheduler", solver_order=2)])
