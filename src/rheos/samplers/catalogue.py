"""All public rules, for the conformance suites and the command line."""
from __future__ import annotations

from rheos.samplers.rules import DDIM, DEIS, AdamsBashforth, DPMSolverPP, Euler, EulerMaruyama, Exponential, RungeKutta
from rheos.samplers.tables import Rule

__all__ = ["RULES", "public_rules"]

RULES = (Exponential, DDIM, DEIS, DPMSolverPP, Euler, AdamsBashforth, RungeKutta, EulerMaruyama)


def public_rules() -> list[Rule]:
    """Every example of every public rule."""
    return [rule for cls in RULES for rule in cls.examples()]
