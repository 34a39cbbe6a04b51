"""Tuned tables against the best of some forty settings of diffusers' schedulers at the same calls, on starts that nothing was tuned on.

    python -m benchmarks.tuned                 # the exact field of digits
    python -m benchmarks.tuned RUN             # and the model of a run on the linear path
"""
from __future__ import annotations

import sys
import warnings

import torch

from benchmarks.measure import table
from benchmarks.samplers import PATH, THEIRS, scheduler
from rheos.data import digits_mixture
from rheos.paths import ExactField, Field
from rheos.samplers import Reference, Tuned, tune

CALLS, TRIALS = (5, 8, 10), 100


def _known() -> dict[str, object]:
    """diffusers' multistep schedulers of orders 1 to 3 in all their spacings, beside those of `benchmarks.samplers`."""
    found = dict(THEIRS)
    found["DDIM"] = lambda: scheduler("DDIMScheduler", clip_sample=False)
    for order in (2, 3):
        found[f"DPMSolverSinglestep {order}"] = lambda o=order: scheduler("DPMSolverSinglestepScheduler", solver_order=o, final_sigmas_type="sigma_min")
    spacings = {"karras": {"use_karras_sigmas": True}, "exponential": {"use_exponential_sigmas": True}, "lu": {"use_lu_lambdas": True},
                "linspace": {"timestep_spacing": "linspace"}, "trailing": {"timestep_spacing": "trailing"}}
    for order in (1, 2, 3):
        for spacing, kinds in spacings.items():
            for name, end in (("DPMSolverMultistep", True), ("UniPCMultistep", True), ("DEISMultistep", False)):
                if (order == 1 and name != "UniPCMultistep") or (spacing == "lu" and name != "DPMSolverMultistep"):
                    continue
                more = {"final_sigmas_type": "sigma_min"} if end else {}
                found[f"{name} {order}, {spacing}"] = lambda n=name, o=order, k={**kinds, **more}: scheduler(f"{n}Scheduler", solver_order=o, **k)
    return found


def _flows() -> dict[str, object]:
    """The same for flows: Euler, and the multistep schedulers with flow sigmas, shifted and not."""
    import diffusers

    told = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
    found: dict[str, object] = {"FlowMatchEuler": lambda: diffusers.FlowMatchEulerDiscreteScheduler()}
    for shift in (0.5, 0.7, 1.0, 1.5, 2.0, 3.0):
        found[f"FlowMatchEuler, shift {shift:g}"] = lambda s=shift: diffusers.FlowMatchEulerDiscreteScheduler(shift=s)
        for order in (2, 3):
            for name in ("DPMSolverMultistep", "UniPCMultistep", "DEISMultistep"):
                found[f"{name} {order}, shift {shift:g}"] = (
                    lambda n=name, o=order, s=shift: getattr(diffusers, f"{n}Scheduler")(solver_order=o, flow_shift=s, **told))
    return found


def _theirs(reference: Reference, made: object, calls: int, rows: slice, flow: bool) -> float:
    """The median error of a scheduler of diffusers on these rows."""
    field, x = reference.field, reference.points[0][rows]
    cond = None if reference.cond is None else reference.cond[rows]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            made.set_timesteps(calls)
            for t in made.timesteps:
                if flow:
                    said = -field(x, min(max(1 - float(t) / 1000, 0.0), 1.0), cond).velocity
                else:
                    said = field(x, float(PATH.schedule.time_of(float(t))), cond).noise
                x = made.step(said, t, x).prev_sample
        except (ValueError, IndexError, AttributeError, TypeError):
            return float("inf")
    return float((x - reference.points[-1][rows]).flatten(1).double().square().mean(1).sqrt().median())


def compare(title: str, field: Field, start: torch.Tensor, flow: bool, **kinds: object) -> None:
    reference = Reference.of(field, start, **kinds)
    n = len(start)
    chosen, judged = slice(n // 2, n * 3 // 4), slice(n * 3 // 4, n)
    schedulers, rows = (_flows() if flow else _known()), []
    for calls in CALLS:
        ours: Tuned = tune(reference, calls, trials=TRIALS)
        # Chosen and judged on the same rows as ours.
        best = min(schedulers, key=lambda name: _theirs(reference, schedulers[name](), calls, chosen, flow))
        peer = _theirs(reference, schedulers[best](), calls, judged, flow)
        others = ", ".join(f"{family} {error:.4f}" for family, error in ours.errors.items() if family != ours.family)
        rows.append((f"{calls} calls", f"{ours.error:.4f} ({ours.family}; {others})", f"{peer:.4f} ({best})", f"{peer / ours.error:.1f}x", "1.5x"))
    table(f"{title}: median error a sample, {n - judged.start} unseen starts (reference's own {reference.error:.1g})", rows)


if __name__ == "__main__":
    exact = ExactField(PATH, digits_mixture())
    start = PATH.prior((512, 16), seed=1, dtype=torch.float64)
    compare("digits, 16 principal components", exact, start, False)
    compare("the same, threes with guidance 4", exact, start, False, cond=3, guidance=4.0)
    for run in sys.argv[1:]:
        import rheos

        model = rheos.load(f"{run}/model")
        start = model.field.path.prior((128, *model.event), seed=0, dtype=torch.float32)
        compare(run, model.field, start, True, cond=model.classes_as_in_the_data(128, seed=0))
