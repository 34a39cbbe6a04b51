"""What code a file's numbers come from: every module of rheos that it imports, directly or through others, found without running anything."""
from __future__ import annotations

import ast
import functools
import hashlib
from pathlib import Path

import rheos

__all__ = ["code_hash", "sources"]

PACKAGE = Path(rheos.__file__).parent
NOT_ASKED = "cli"       # it shows numbers and makes none


def sources(file: Path, package: Path | None = None) -> list[Path]:
    """The .py files of rheos that `file` imports, transitively and inside functions too, and the weights shipped beside them; sorted, without `file`.

    package: the folder of rheos, by default of the one that runs. Names that a room loads lazily (a dict of names to modules beside a
    `__getattr__`) count where they are imported. A file that is no Python is taken to import nothing: it says so when it is run.
    """
    package = PACKAGE if package is None else package
    found: set[Path] = set()
    waiting = [file]
    while waiting:
        source = waiting.pop()
        names = _imported(source.read_bytes(), *_place(source, package))
        new = {place for name in names for place in _files(name, package)} - found - {file}
        found |= new
        waiting += sorted(new)
    weights = {path for folder in {source.parent for source in found} for path in folder.glob("weights/*")}
    return sorted(path for path in found | weights if path.is_file())


def code_hash(file: Path, package: Path | None = None) -> str:
    """Hash of `file`, of all its `sources` and of the checks, whose rules decide what a claim's rows say."""
    package = PACKAGE if package is None else package
    digest = hashlib.sha256(file.read_bytes())
    for source in sorted({package / "papers" / "checks.py", *sources(file, package)} - {file}):
        digest.update(f"\n{source.relative_to(package).as_posix()}\n".encode())
        digest.update(source.read_bytes())
    return digest.hexdigest()


def _place(source: Path, package: Path) -> tuple[str, ...]:
    """The dotted parts of the package that the file stands in, for its relative imports; none outside rheos."""
    return ("rheos", *source.parent.relative_to(package).parts) if source.is_relative_to(package) else ()


@functools.cache
def _imported(text: bytes, *here: str) -> frozenset[str]:
    """Dotted names under rheos that a file imports or, having imported rheos itself, writes as rheos.room.name."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):
        return frozenset()
    found: set[str] = set()
    whole: set[str] = set()                             # what rheos itself is called in this file
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
            whole |= {alias.asname or "rheos" for alias in node.names if alias.name == "rheos" or (alias.asname is None and _ours(alias.name))}
        elif isinstance(node, ast.ImportFrom):
            base = [*here[: len(here) - node.level + 1]] if node.level else []
            room = ".".join([*base, *([node.module] if node.module else [])])
            found |= {room, *(f"{room}.{alias.name}" for alias in node.names)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            parts: list[str] = []
            inner: ast.expr = node
            while isinstance(inner, ast.Attribute):
                parts.append(inner.attr)
                inner = inner.value
            if isinstance(inner, ast.Name) and inner.id in whole:
                found.add(".".join(["rheos", *reversed(parts)]))
    return frozenset(name for name in found if _ours(name))


def _ours(name: str) -> bool:
    return name == "rheos" or name.startswith("rheos.")


def _files(name: str, package: Path) -> list[Path]:
    """The file of the module that a dotted name is or stands in; nothing for a name that no module has."""
    place, lazy = package, dict[str, str]()
    found: Path | None = None
    for part in ["", *name.split(".")[1:]]:
        if part == NOT_ASKED and place == package:
            return []
        if part in lazy and not (place / part).is_dir() and not (place / f"{part}.py").is_file():
            part = lazy[part]                           # the name itself, or another module's, is looked up there
        if (place / part / "__init__.py").is_file():
            place /= part
            found = place / "__init__.py"
            lazy = _lazy(found.read_text(encoding="utf-8"))
        elif part and (place / f"{part}.py").is_file():
            return [place / f"{part}.py"]
        elif (place / part).is_dir():                   # a folder without __init__.py, on the way to a module
            place, lazy = place / part, {}
        else:
            break
    return [] if found is None else [found]


@functools.cache
def _lazy(text: str) -> dict[str, str]:
    """Names that a package's `__getattr__` loads, and the modules in it that they come from: every literal dict of strings at its top."""
    if "def __getattr__" not in text:
        return {}
    found: dict[str, str] = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            try:
                table = ast.literal_eval(node.value)
            except ValueError:
                continue
            found |= {name: module for name, module in table.items() if isinstance(name, str) and isinstance(module, str)}
    return found
