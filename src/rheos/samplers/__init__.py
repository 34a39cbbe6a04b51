"""Integrating a field: rules plan tables of numbers, one dynamics runs them."""
from rheos.samplers.catalogue import RULES, public_rules
from rheos.samplers.multistep import Multistep, MultistepState
from rheos.samplers.rules import DDIM, DEIS, AdamsBashforth, DPMSolverPP, Euler, EulerMaruyama, Exponential, RungeKutta, default_rule
from rheos.samplers.sampling import evaluating, sample
from rheos.samplers.tables import Row, Rule, Table

__all__ = [
    "DDIM", "DEIS", "RULES", "AdamsBashforth", "DPMSolverPP", "Euler", "EulerMaruyama", "Exponential", "Multistep", "MultistepState",
    "Row", "Rule", "RungeKutta", "Table", "default_rule", "evaluating", "public_rules", "sample",
]
