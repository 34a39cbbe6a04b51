"""What the documents say is true of the code."""
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import rheos
from rheos.papers import papers
from rheos.papers.results import board

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readme_is_short_and_counts_the_claims_as_they_are():
    assert len(README.splitlines()) < 120
    found = board()
    said = re.search(r"Of (\d+) papers, (\d+) claims hold, (\d+) hold in part, (\d+) do not hold here, and (\d+) are not built", README)
    wanted = [len(papers()), found["holds"], found["holds in part"], found["does not hold here"], found["not built"]]
    assert [int(n) for n in said.groups()] == wanted


def test_every_name_in_the_room_table_exists():
    rows = re.findall(r"^\| (`.+?`) \| .+? \| (.+?) \|$", README, re.M)
    assert len(rows) >= 11
    for rooms, names in rows:
        for name in re.findall(r"`(\w+)`", names):
            homes = [importlib.import_module(f"rheos.{room}") for room in re.findall(r"`(\w+)`", rooms)]
            assert any(hasattr(home, name) for home in homes), name


@pytest.mark.parametrize("room", [r for r in rheos.ROOMS])
def test_every_public_name_is_documented(room):
    module = importlib.import_module(f"rheos.{room}")
    assert (module.__doc__ or "").strip()
    for name in module.__all__:
        value = getattr(module, name)
        if callable(value) and getattr(value, "__module__", "").startswith("rheos"):
            assert (value.__doc__ or "").strip() and not value.__doc__.startswith(f"{name}("), f"rheos.{room}.{name}"


def test_importing_rheos_brings_nothing_heavier_than_torch():
    heavy = "matplotlib, sklearn, scipy, ot, pandas, diffusers, rich, typer".split(", ")
    code = f"import sys, rheos, rheos.core, rheos.paths, rheos.samplers, rheos.training, rheos.models; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_no_version_is_told_twice():
    import tomllib

    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == rheos.__version__
    assert f"version: {rheos.__version__}" in (ROOT / "CITATION.cff").read_text()
