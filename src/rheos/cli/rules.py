"""Sampling rules by name, which exist on the command line only: in Python a rule is an object."""
from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rheos.samplers import Rule

__all__ = ["RULE_NAMES", "rule_named"]

RULE_NAMES = ("default", "euler", "ddim", "dpm++2", "dpm++3", "deis", "deis-rho", "heun")


def rule_named(name: str) -> Rule | None:
    """The rule of a name; None for "default", which leaves the choice to the library. ValueError, with the nearest name, for others."""
    from rheos.core import checks
    from rheos.paths import RHO
    from rheos.samplers import DDIM, DEIS, DPMSolverPP, Euler, RungeKutta

    checks.one_of("rule", name, RULE_NAMES)
    made = (lambda: None, Euler, DDIM, DPMSolverPP, lambda: DPMSolverPP(order=3), DEIS, lambda: DEIS(order=3, clock=RHO), RungeKutta)
    return dict(zip(RULE_NAMES, made, strict=True))[name]()
