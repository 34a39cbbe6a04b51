"""The files below a folder, as every reader of folders sees them."""
from __future__ import annotations

import os
from pathlib import Path

__all__ = ["files_below"]

MOST_FILES = 1_000_000      # a folder such as / is given by mistake: refuse it before it takes minutes


def files_below(folder: Path) -> list[str]:
    """Paths below `folder`, relative to it, with "/", sorted. Hidden files and folders (and `._*`, which macOS leaves behind) are skipped.

    Links to files count as files, links to folders are not followed. ValueError if there are more than a million files or if some
    folder cannot be read.
    """
    found: list[str] = []

    def refuse(error: OSError) -> None:
        raise ValueError(f"{error.filename}: cannot be read ({error.strerror})") from error

    for place, inside, files in os.walk(folder, onerror=refuse):
        inside[:] = [name for name in inside if not name.startswith(".")]
        below = Path(place).relative_to(folder)
        found += [(below / name).as_posix() for name in files if not name.startswith(".") and os.path.isfile(os.path.join(place, name))]
        if len(found) > MOST_FILES:
            raise ValueError(f"{folder}: holds more than {MOST_FILES:,} files: give the folder of the data alone")
    return sorted(found)
