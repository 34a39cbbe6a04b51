"""What code a file's numbers come from, found without running it."""
from __future__ import annotations

import subprocess
import sys
import time

import pytest

from rheos.papers import runner
from rheos.papers.sources import PACKAGE, code_hash, sources

TREE = {
    "__init__.py": "NAMES = {'train': 'models', 'Field': 'paths'}\ndef __getattr__(name): ...",
    "core/__init__.py": "from rheos.core import checks\nfrom .loop import evolve",
    "core/checks.py": "",
    "core/loop.py": "from . import draws\nfrom .. import nets",
    "core/draws.py": "import rheos.core.loop",                              # a circle ends
    "nets/__init__.py": "",
    "nets/mlp.py": "raise RuntimeError('nothing is run')",
    "paths/__init__.py": "from rheos.core import evolve",
    "models/__init__.py": "from rheos.models.learn import train",
    "models/learn.py": "def train():\n    import rheos.nets.mlp as net\n    from rheos.cli import show",
    "papers/__init__.py": "LAZY = {'fixture': 'fixtures', 'fixtures': 'nowhere'}\ndef __getattr__(name): ...",
    "papers/fixtures.py": "",
    "papers/checks.py": "",
    "metrics/__init__.py": "import rheos.broken",
    "metrics/weights/net.safetensors": "w",
    "broken.py": "def (",
    "cli/__init__.py": "import rheos.paths",
    "cli/show.py": "",
}
CORE = ["__init__.py", "core/__init__.py", "core/checks.py", "core/draws.py", "core/loop.py", "nets/__init__.py"]
CASES = [
    ("x = 1", []), ("import torch, rheosity\nfrom os import path", []),
    ("from rheos.core import evolve", CORE), ("from rheos.core.checks import integer", ["core/checks.py"]), ("from rheos import core", CORE),
    ("import rheos.core.draws as d", CORE), ("from rheos.core import *", CORE),
    ("def f():\n    if True:\n        from rheos.nets.mlp import MLP", ["nets/mlp.py"]),
    ("from rheos.models import train", ["models/__init__.py", "models/learn.py", "nets/mlp.py"]),
    ("from rheos import train", ["__init__.py", "models/__init__.py", "models/learn.py", "nets/mlp.py"]),
    ("import rheos\nrheos.Field(1).x", [*CORE, "paths/__init__.py"]), ("import rheos as r\nr.core.checks.f()", CORE),
    ("import rheos.broken\nrheos.nets.mlp.MLP()", ["broken.py", "nets/__init__.py", "nets/mlp.py"]), ("import os as rheos\nrheos.nets.mlp", []),
    ("from rheos.papers import Check, fixture", ["papers/__init__.py", "papers/fixtures.py"]),
    ("from rheos.papers.fixtures import fixture", ["papers/fixtures.py"]),
    ("import rheos.metrics", ["broken.py", "metrics/__init__.py", "metrics/weights/net.safetensors"]),
    ("from rheos.cli.show import x\nimport rheos.cli", []), ("def (", []),
]


@pytest.fixture
def package(tmp_path):
    for name, text in TREE.items():
        (tmp_path / "rheos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "rheos" / name).write_text(text)
    return tmp_path / "rheos"


@pytest.mark.parametrize(("text", "expected"), CASES)
def test_follows_imports(tmp_path, package, text, expected):
    (tmp_path / "claim.py").write_text(text)
    found = [source.relative_to(package).as_posix() for source in sources(tmp_path / "claim.py", package)]
    assert found == sorted(expected)


def test_a_claim_inside_the_package_is_not_its_own_source(package):
    claim = package / "papers" / "claims" / "x.py"
    claim.parent.mkdir()
    claim.write_text("import rheos.papers.claims.x\nfrom rheos.nets import mlp")
    assert [source.relative_to(package).as_posix() for source in sources(claim, package)] == ["nets/__init__.py", "nets/mlp.py"]


def test_the_hash_changes_with_every_source_the_file_and_the_checks_and_nothing_else(tmp_path, package):
    claim = tmp_path / "claim.py"
    claim.write_text("from rheos import train, core\nimport rheos.metrics")
    seen = {code_hash(claim, package)}
    counted = [source.relative_to(package).as_posix() for source in sources(claim, package)]
    assert set(TREE) - set(counted) == {"paths/__init__.py", "papers/__init__.py", "papers/fixtures.py", "papers/checks.py", "cli/__init__.py", "cli/show.py"}
    for number, name in enumerate([*counted, "papers/checks.py"]):
        with open(package / name, "a") as file:
            file.write(f"\n# {number}")
        seen.add(code_hash(claim, package))
        assert len(seen) == number + 2
    claim.write_text(claim.read_text() + "\n")
    seen.add(code_hash(claim, package))
    assert len(seen) == len(counted) + 3
    for name in ("paths/__init__.py", "cli/show.py"):
        (package / name).write_text("changed = 1")
    assert code_hash(claim, package) in seen


def test_the_shipped_claims_know_what_they_measure():
    """Every module of rheos that running the two claims' imports loads, but for those that only show or publish."""
    for slug, few in {"deis": {"training/game.py", "data/mixtures.py", "nets/mlp.py", "models/learn.py", "samplers/exponential.py", "core/dynamics.py"},
                      "stochastic_interpolants": {"metrics/sets.py", "metrics/weights/digits.safetensors", "couplings/independent.py"}}.items():
        file = runner.find_claims()[slug]
        begun = time.process_time()
        found = {source.relative_to(PACKAGE).as_posix() for source in sources(file)}
        assert few <= found and "papers/runner.py" not in found and not any(name.startswith(("cli", "testing")) for name in found)
        assert runner.code_hash(file) == code_hash(file) and time.process_time() - begun < 8            # half a second where nothing else runs


def test_nothing_misses_that_python_loads():
    """Imports as Python does them, in a process of its own: parents of a module are run too, but nothing comes from them unless they are imported by name."""
    file = runner.find_claims()["deis"]
    code = f"""
import ast, sys
exec(compile(ast.Module([n for n in ast.parse(open({str(file)!r}).read()).body if isinstance(n, (ast.Import, ast.ImportFrom))], []), "x", "exec"))
print(*sorted(m.__file__ for n, m in sys.modules.items() if n.split(".")[0] == "rheos" and n != "rheos"), sep="\\n")
"""
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    known = {str(source) for source in sources(file)}
    assert len(loaded) > 30 and [name for name in loaded if name not in known and not name.endswith("papers/sources.py")] == []
