"""Optional packages: asked for where they are used, and named with the line that installs them."""
from __future__ import annotations

import importlib
from types import ModuleType

__all__ = ["require"]


def require(module: str, *, extra: str) -> ModuleType:
    """Import `module`. ImportError that says which extra brings it, if it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise ImportError(f"{module} is not installed; it comes with: pip install 'rheos[{extra}]'") from None
