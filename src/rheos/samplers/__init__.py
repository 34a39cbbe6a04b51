"""Integrating a field: rules plan tables of numbers, one dynamics runs them."""
from rheos.samplers.adaptive import BOGACKI_SHAMPINE, DORMAND_PRINCE, Adaptive, AdaptiveRungeKutta, AdaptiveState, EmbeddedPair
from rheos.samplers.catalogue import RULES, public_rules
from rheos.samplers.combinations import Combination, History
from rheos.samplers.defaults import default_rule
from rheos.samplers.edits import DynamicThreshold, dynamic_threshold
from rheos.samplers.exponential import DDIM, DDPM, DEIS, DPMSolverPP, Exponential, UniPC
from rheos.samplers.multistep import Multistep, MultistepState
from rheos.samplers.ordinary import AdamsBashforth, Euler, RungeKutta
from rheos.samplers.pseudo import PLMS
from rheos.samplers.sampling import evaluating, sample
from rheos.samplers.singlestep import Singlestep
from rheos.samplers.stochastic import EulerMaruyama
from rheos.samplers.tables import Row, Rule, Table
from rheos.samplers.tune import Reference, TableSearch, TableSearchState, Tuned, fixed_rules, trajectory, tune

__all__ = [
    "BOGACKI_SHAMPINE",
    "DDIM",
    "DDPM",
    "DEIS",
    "DORMAND_PRINCE",
    "PLMS",
    "RULES",
    "AdamsBashforth",
    "Adaptive",
    "AdaptiveRungeKutta",
    "AdaptiveState",
    "Combination",
    "DPMSolverPP",
    "DynamicThreshold",
    "EmbeddedPair",
    "Euler",
    "EulerMaruyama",
    "Exponential",
    "History",
    "Multistep",
    "MultistepState",
    "Reference",
    "Row",
    "Rule",
    "RungeKutta",
    "Singlestep",
    "Table",
    "TableSearch",
    "TableSearchState",
    "Tuned",
    "UniPC",
    "default_rule",
    "dynamic_threshold",
    "evaluating",
    "fixed_rules",
    "public_rules",
    "sample",
    "trajectory",
    "tune",
]
