"""Results: what running a claim gave, as one JSON file, and the board of all published ones.

A file holds every row with its value and control for each seed, the verdict, the cost, and what code and versions gave it.
Reading needs no torch, so that `rheos papers` can show verdicts at once.
"""
from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rheos.papers.catalog import Paper, papers
from rheos.papers.checks import Check, Scale, Verdict, judge

__all__ = ["MEASURED", "Result", "board", "status"]

FORMAT = 1
MEASURED = Path(__file__).parent / "measured"           # published results, part of the package


@dataclass(frozen=True)
class Result:
    """One claim, measured.

    checks:          the rows for each seed. scale: FULL or SMOKE.
    cpu_seconds:     for each seed, process time on one torch thread, without fixtures.
    fixture_seconds: for each seed, CPU seconds that its fixtures took to build, whenever that was.
    code:            hash of the claim and of all code that its numbers come from. versions: of rheos, torch, numpy, python.
    date:            UTC, as 2030-01-31.
    """

    slug: str
    scale: Scale
    checks: Mapping[int, tuple[Check, ...]]
    cpu_seconds: Mapping[int, float]
    fixture_seconds: Mapping[int, float]
    code: str
    versions: Mapping[str, str]
    date: str

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds in the order they ran."""
        return tuple(self.checks)

    @property
    def verdict(self) -> Verdict:
        """What `judge` says about the rows. ValueError where `judge` refuses them."""
        return judge(self.checks)

    def save(self, folder: Path) -> Path:
        """Write `<slug>.json` into the folder (made if missing) under a temporary name first, and give its path. OSError when it cannot."""
        verdict = self.verdict
        outcome = {row.name: row.outcome for row in verdict.rows}
        by_seed = {seed: {check.name: check for check in rows} for seed, rows in self.checks.items()}
        rows = [{"name": check.name, "relation": check.relation, "threshold": check.threshold, "core": check.core,
                 "outcome": outcome[check.name],
                 "values": {str(seed): _written(rows[check.name].value) for seed, rows in by_seed.items()},
                 "controls": {str(seed): _written(rows[check.name].control) for seed, rows in by_seed.items()}}
                for check in self.checks[self.seeds[0]]]
        text = json.dumps({
            "format": FORMAT, "slug": self.slug, "verdict": verdict.paper, "scale": self.scale.value, "seeds": list(self.seeds),
            "rows": rows,
            "cpu_seconds": {str(seed): round(cost, 3) for seed, cost in self.cpu_seconds.items()},
            "fixture_seconds": {str(seed): round(cost, 3) for seed, cost in self.fixture_seconds.items()},
            "code": self.code, "versions": dict(self.versions), "date": self.date,
        }, indent=1, ensure_ascii=False, allow_nan=False)
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{self.slug}.json"
        temporary = folder / f".{self.slug}.json.{os.getpid()}"
        try:
            temporary.write_text(text + "\n", encoding="utf-8")
            os.replace(temporary, file)
        finally:
            temporary.unlink(missing_ok=True)
        return file

    @classmethod
    def load(cls, file: Path) -> Result:
        """Read a result back. ValueError when it is damaged, of another format, or when its rows do not give the verdict it states."""
        try:
            told = json.loads(file.read_text(encoding="utf-8"))
            if told["format"] != FORMAT:
                raise ValueError(f"format {told['format']} instead of {FORMAT}")
            checks = {seed: tuple(Check(row["name"], _read(row["values"][str(seed)]), row["relation"], row["threshold"],
                                        _read(row["controls"][str(seed)]), row["core"]) for row in told["rows"]) for seed in told["seeds"]}
            costs = [{int(seed): float(cost) for seed, cost in told[name].items()} for name in ("cpu_seconds", "fixture_seconds")]
            result = cls(told["slug"], Scale(told["scale"]), checks, *costs, told["code"], told["versions"], told["date"])
            if result.verdict.paper != told["verdict"]:
                raise ValueError(f"it states {told['verdict']!r} and its rows give {result.verdict.paper!r}")
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            what = f"{error} is missing" if isinstance(error, KeyError) else error
            raise ValueError(f"{file} is not a result of rheos check: {what}") from error
        return result


def status(paper: Paper, folder: Path | None = None) -> str:
    """A paper's published verdict; "not measured" when it is built and nothing is published; "not built" otherwise."""
    if not paper.built:
        return "not built"
    file = (MEASURED if folder is None else folder) / f"{paper.slug}.json"
    return Result.load(file).verdict.paper if file.exists() else "not measured"


def board(folder: Path | None = None) -> Counter[str]:
    """How many papers of the catalog have which status."""
    return Counter(status(paper, folder) for paper in papers())


def _written(number: float | None) -> float | str | None:
    """JSON has no NaN and no infinity: they are written as the words that float() reads."""
    return number if number is None or math.isfinite(number) else str(number)


def _read(number: float | str | None) -> float | None:
    return None if number is None else float(number)
