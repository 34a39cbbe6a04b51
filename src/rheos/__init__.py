"""rheos: dynamics for machine learning.

Rooms are attributes (`rheos.data`, `rheos.samplers`, ...) and load on first use; the few names that everybody needs stand here too.
"""
from __future__ import annotations

import importlib

__version__ = "0.1.0"

ROOMS = ("core", "data", "nets", "metrics", "training", "paths", "couplings", "objectives", "samplers", "guidance", "distill", "models", "interop", "papers",
         "testing")
# Public name -> the room it lives in. Loading is lazy so that `rheos --help` and `rheos papers` need not wait for torch.
NAMES = {
    "Draws": "core", "Dynamics": "core", "evolve": "core",
    "Field": "paths", "Path": "paths", "sample": "samplers",
    "Model": "models", "load": "models", "train": "models",
}
__all__ = ["ROOMS", "Draws", "Dynamics", "Field", "Model", "Path", "evolve", "load", "sample", "train"]


def __getattr__(name: str):
    if name in NAMES:
        return getattr(importlib.import_module(f"rheos.{NAMES[name]}"), name)
    if name in ROOMS:
        return importlib.import_module(f"rheos.{name}")
    raise AttributeError(f"module 'rheos' has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *ROOMS, *NAMES])
