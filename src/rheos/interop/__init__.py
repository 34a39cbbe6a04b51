"""Doors to other libraries' formats: model hubs."""
from rheos.interop.hub import LocalHub, describe, pull, push, write_card

__all__ = ["LocalHub", "describe", "pull", "push", "write_card"]
