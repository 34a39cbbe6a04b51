"""Doors to other libraries: model hubs, and diffusers both ways."""
from __future__ import annotations

import importlib

from rheos.interop.diffusers import from_diffusers
from rheos.interop.hub import LocalHub, describe, pull, push, write_card

# Loaded on first use: its class is made of diffusers' own.
LAZY = {"RheosScheduler": "scheduler"}
__all__ = ["LocalHub", "RheosScheduler", "describe", "from_diffusers", "pull", "push", "write_card"]


def __getattr__(name: str):
    if name in LAZY:
        return getattr(importlib.import_module(f"rheos.interop.{LAZY[name]}"), name)
    raise AttributeError(f"module 'rheos.interop' has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *LAZY])
