"""Sampling rules by name, which exist on the command line only: in Python a rule is an object."""
from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rheos.paths import Path
    from rheos.samplers import AdaptiveRungeKutta, Rule

__all__ = ["RULE_NAMES", "rule_named"]

RULE_NAMES = ("default", "euler", "ddim", "ddpm", "dpm++2", "dpm++3", "dpm++2-sde", "unipc2", "unipc3", "deis", "deis-rho", "plms", "heun", "rk4", "rk45")


def rule_named(name: str, path: Path | None = None) -> Rule | AdaptiveRungeKutta | None:
    """The rule of a name; None for "default", which leaves the choice to the library. ValueError, with the nearest name, for others.

    path: of the model; ddim, and dpm++2 where frequencies have levels of their own, have forms for such paths and for two-sided ones.
    """
    from rheos.core import checks
    from rheos.paths import RHO
    from rheos.samplers import DDIM, DDPM, DEIS, PLMS, AdaptiveRungeKutta, DPMSolverPP, Euler, ResidualDDIM, RungeKutta, SpectralDDIM, UniPC

    checks.one_of("rule", name, RULE_NAMES)
    if path is not None and path.two_sided and name == "ddim":
        return ResidualDDIM()
    if path is not None and getattr(path.schedule, "spectral", False) and name in ("ddim", "dpm++2"):
        return SpectralDDIM(1 if name == "ddim" else 2)
    made = (lambda: None, Euler, DDIM, DDPM, DPMSolverPP, lambda: DPMSolverPP(3), lambda: DPMSolverPP(2, tau=1.0), lambda: UniPC(2), UniPC, DEIS,
            lambda: DEIS(3, clock=RHO), PLMS, RungeKutta, lambda: RungeKutta(4), AdaptiveRungeKutta)
    return dict(zip(RULE_NAMES, made, strict=True))[name]()
