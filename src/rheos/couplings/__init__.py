"""Couplings: which source goes with which target."""
from rheos.couplings.annealed import Annealed
from rheos.couplings.independent import Independent
from rheos.couplings.minibatch import MinibatchOT
from rheos.couplings.paired import Paired
from rheos.couplings.pairs import Coupling, Pair
from rheos.couplings.plans import Entropic, assignment, entropic
from rheos.couplings.reflow import Reflow
from rheos.couplings.schrodinger import Conditional, SchrodingerBridge
from rheos.couplings.semi_discrete import Continued, SemiDiscrete

__all__ = [
    "Annealed", "Conditional", "Continued", "Coupling", "Entropic", "Independent", "MinibatchOT", "Pair", "Paired", "Reflow", "SchrodingerBridge",
    "SemiDiscrete", "assignment", "entropic",
]
