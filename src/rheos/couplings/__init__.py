"""Couplings: which source goes with which target."""
from rheos.couplings.independent import Coupling, Independent, Pair

__all__ = ["Coupling", "Independent", "Pair"]
