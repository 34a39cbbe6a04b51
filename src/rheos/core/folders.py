"""Where rheos keeps what it made (a cache, which may be deleted) and what was brought for it (data sets)."""
from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_folder", "data_folder"]


def cache_folder() -> Path:
    """$RHEOS_CACHE, or ~/.cache/rheos."""
    return Path(os.environ.get("RHEOS_CACHE") or Path.home() / ".cache" / "rheos")


def data_folder() -> Path:
    """$RHEOS_DATA, or ~/.local/share/rheos: data sets that are in no installed package, a folder each."""
    return Path(os.environ.get("RHEOS_DATA") or Path.home() / ".local" / "share" / "rheos")
