"""All public rules, for the conformance suites and the command line."""
from __future__ import annotations

from rheos.samplers.bidirectional import BDIA
from rheos.samplers.exponential import DDIM, DDPM, DEIS, DPMSolverPP, Exponential, UniPC
from rheos.samplers.momentum import GHVB, HeavyBall
from rheos.samplers.ordinary import AdamsBashforth, Euler, RungeKutta
from rheos.samplers.pseudo import PLMS
from rheos.samplers.singlestep import Singlestep
from rheos.samplers.spectral import SpectralDDIM
from rheos.samplers.stochastic import EulerMaruyama
from rheos.samplers.tables import Rule

__all__ = ["RULES", "public_rules"]

RULES = (Exponential, DDIM, DDPM, DEIS, DPMSolverPP, UniPC, Singlestep, PLMS, Euler, AdamsBashforth, RungeKutta, EulerMaruyama, HeavyBall, GHVB,
         BDIA, SpectralDDIM)


def public_rules() -> list[Rule]:
    """Every example of every public rule."""
    return [rule for cls in RULES for rule in cls.examples()]
