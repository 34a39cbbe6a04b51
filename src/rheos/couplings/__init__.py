"""Couplings: which source goes with which target."""
from rheos.couplings.annealed import Annealed
from rheos.couplings.independent import Independent
from rheos.couplings.minibatch import MinibatchOT
from rheos.couplings.paired import Paired
from rheos.couplings.pairs import Coupling, Pair
from rheos.couplings.plans import Entropic, assignment, entropic
from rheos.couplings.reflow import Reflow

__all__ = [
    "Annealed", "Coupling", "Entropic", "Independent", "MinibatchOT", "Pair", "Paired", "Reflow", "assignment", "entropic",
]
