"""The runner: finds claim files, runs one for its seeds, says what it cost, and knows when a stored result is out of date.

A claim only measures. Here it is given its seeds and one torch thread, its CPU time is taken without its fixtures', and its rows are
held to the rules: at least one core row, no control that was typed in, and at smoke scale finite numbers and a plot that can be drawn.
"""
from __future__ import annotations

import datetime
import math
import platform
import sys
import time
import types
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import rheos
from rheos.papers import results, sources
from rheos.papers.catalog import find
from rheos.papers.checks import Check, Scale, judge
from rheos.papers.controls import literal_controls
from rheos.papers.results import Result

__all__ = ["CLAIMS", "Claim", "ClaimError", "checkout", "code_hash", "find_claims", "literal_controls", "measure", "open_claim", "stale"]

PACKAGE = Path(rheos.__file__).parent
CLAIMS = PACKAGE / "papers" / "claims"
SEEDS = (0, 1, 2)


class ClaimError(RuntimeError):
    """A claim that could not be run or broke a rule for claims; the message names the claim and the seed."""


@dataclass(frozen=True)
class Claim:
    """A claim file, loaded: `measure(seed=, scale=)` gives its rows, `plot(ax, checks)` draws them or is None."""

    slug: str
    room: str
    file: Path
    seeds: tuple[int, ...]
    measure: Callable[..., Sequence[Check]]
    plot: Callable[..., object] | None


def find_claims(folder: Path | None = None) -> dict[str, Path]:
    """Claim files by slug: every `<room>/<slug>.py` of the folder, by default the one that rheos ships."""
    files = sorted((CLAIMS if folder is None else folder).glob("*/*.py"))
    return {file.stem: file for file in files if not file.stem.startswith("_")}


def open_claim(file: Path) -> Claim:
    """Load a claim file. ClaimError when it cannot be imported, defines no `claim`, or holds a control that is a typed number."""
    slug = file.stem
    module = types.ModuleType(f"rheos_claim_{slug}")
    module.__file__ = str(file)
    sys.modules[module.__name__] = module               # dataclasses look their module up by name
    try:
        literal = literal_controls(file)
        exec(compile(file.read_text(encoding="utf-8"), str(file), "exec"), module.__dict__)  # our own file, never cached as bytecode
    except Exception as error:
        raise ClaimError(f"{slug}: {type(error).__name__}: {error}") from error
    if literal:
        raise ClaimError(f"{slug}: {'; '.join(literal)}")
    claim, plot = getattr(module, "claim", None), getattr(module, "plot", None)
    if not callable(claim):
        raise ClaimError(f"{slug}: the file defines no function claim(*, seed, scale)")
    try:
        seeds = _seeds(getattr(module, "SEEDS", SEEDS))
    except (TypeError, ValueError) as error:
        raise ClaimError(f"{slug}: SEEDS: {error}") from error
    return Claim(slug, file.parent.name, file, seeds, claim, plot)


def measure(claim: Claim, *, scale: Scale = Scale.FULL, seeds: Sequence[int] | None = None,
            on_seed: Callable[[int], object] | None = None) -> Result:
    """Run a claim for its seeds (at smoke scale: its first) and give the rows with their cost.

    seeds: other seeds than the claim's own. on_seed: called with each seed when it is done, for a progress bar.
    torch runs on one thread meanwhile, and Ctrl-C raises KeyboardInterrupt at once: a run that ended early would be measured as if it were
    whole. ClaimError when the claim raises, gives no rows, no core row or rows that differ between seeds,
    and at smoke scale also when a number is not finite, a fixture is used, or the plot cannot be drawn.
    """
    from rheos.core import raising_interrupts
    from rheos.papers.fixtures import ledger

    chosen = _seeds(seeds) if seeds is not None else claim.seeds[:1] if scale is Scale.SMOKE else claim.seeds
    checks: dict[int, tuple[Check, ...]] = {}
    cpu: dict[int, float] = {}
    fixtures: dict[int, float] = {}
    code = code_hash(claim.file)
    for seed in chosen:
        try:
            with raising_interrupts(), _one_thread(), ledger() as used:
                begun = time.process_time()
                rows = claim.measure(seed=seed, scale=scale)
                cpu[seed] = time.process_time() - begun - sum(one.spent for one in used)
            fixtures[seed] = math.fsum(one.seconds for one in used)
            checks[seed] = _rows(rows)
            judge(checks)                               # refuses what cannot be judged, before the next seed costs anything
            if scale is Scale.SMOKE:
                _hold_to_smoke(claim, checks[seed], [one.name for one in used])
        except Exception as error:
            raise ClaimError(f"{claim.slug}, seed {seed}: {_said(error)}") from error
        if on_seed is not None:
            on_seed(seed)
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    return Result(claim.slug, scale, checks, cpu, fixtures, code, versions(), today)


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    import numpy
    import torch

    return {"rheos": rheos.__version__, "torch": str(torch.__version__), "numpy": numpy.__version__, "python": platform.python_version()}


def code_hash(file: Path) -> str:
    """Hash of the claim file and of all code of rheos that its numbers come from, see `rheos.papers.sources`."""
    return sources.code_hash(file, PACKAGE)


def stale(slug: str, *folders: Path, scale: Scale = Scale.FULL) -> bool:
    """Whether a claim has to be measured again: no folder (default: the published results) holds a readable result of at least this scale,
    for all of the claim's seeds, from the code as it is. ValueError when the paper has no claim."""
    file = find_claims().get(slug)
    if file is None:
        raise ValueError(f"the paper {find(slug).slug!r} has no claim yet")
    code = code_hash(file)
    for folder in folders or (results.MEASURED,):
        try:
            kept = Result.load(folder / f"{slug}.json")
            if kept.code == code and kept.scale in (scale, Scale.FULL):
                seeds = open_claim(file).seeds
                if set(seeds[:1] if scale is Scale.SMOKE else seeds) <= set(kept.seeds):
                    return False
        except (OSError, ValueError, ClaimError):
            continue                                    # unreadable is out of date; a broken claim says so when it runs
    return True


def checkout() -> Path | None:
    """The folder of the checkout that this rheos runs from, None when it is an installed copy."""
    root = PACKAGE.parent.parent
    return root if PACKAGE.parent.name == "src" and (root / "pyproject.toml").is_file() else None


def _seeds(seeds: Sequence[int]) -> tuple[int, ...]:
    chosen = tuple(seeds)
    if not chosen or len(set(chosen)) != len(chosen) or not all(type(seed) is int and seed >= 0 for seed in chosen):
        raise ValueError(f"seeds must be different whole numbers from 0, at least one, got {list(chosen)}")
    return chosen


def _rows(rows: object) -> tuple[Check, ...]:
    if not isinstance(rows, (list, tuple)) or not all(isinstance(row, Check) for row in rows):
        raise ClaimError(f"a claim must give a list of Check, got {type(rows).__name__}")
    if not rows:
        raise ClaimError("the claim gave no rows")
    return tuple(rows)


def _hold_to_smoke(claim: Claim, checks: tuple[Check, ...], fixtures: list[str]) -> None:
    if fixtures:
        raise ClaimError(f"smoke scale uses no fixture, got {fixtures}")
    for check in checks:
        for what, number in (("value", check.value), ("control", check.control)):
            if number is not None and not math.isfinite(number):
                raise ClaimError(f"the {what} of {check.name!r} is {number}")
    if claim.plot is not None:
        from matplotlib.figure import Figure

        axes = Figure().subplots()                      # no pyplot: nothing global, no display needed
        claim.plot(axes, list(checks))
        if not axes.has_data():
            raise ClaimError("plot(ax, checks) drew nothing on its axes")


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, (ClaimError, ValueError)) else f"{type(error).__name__}: {error}"


@contextmanager
def _one_thread():
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
