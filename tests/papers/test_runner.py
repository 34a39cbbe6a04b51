"""The runner, on tiny claims: what it measures, keeps, refuses, and when a result is out of date."""
from __future__ import annotations

import json
import math

import pytest
import torch

from rheos.papers import results, runner
from rheos.papers.checks import Check, Scale
from rheos.papers.results import Result

HEAD = """
from rheos.papers.checks import Check, Scale
import torch
"""
GOOD = HEAD + """
ERROR_AT_MOST = 0.5
SEEDS = (2, 0, 5)

def claim(*, seed=0, scale=Scale.FULL):
    error = 0.125 + 0.25 * seed / 8 if scale is Scale.FULL else 0.3
    return [Check("error", error, "<=", ERROR_AT_MOST, control=error * 7),
            Check("threads", torch.get_num_threads(), "<=", 1, None, core=False)]

def plot(ax, checks):
    ax.bar([check.name for check in checks], [check.value for check in checks])
    return ax
"""


def write(folder, body, slug="tiny", room="paths"):
    (folder / room).mkdir(parents=True, exist_ok=True)
    file = folder / room / f"{slug}.py"
    file.write_text(body, encoding="utf-8")
    return file


def body(rows, more=""):
    return HEAD + more + f"\ndef claim(*, seed=0, scale=Scale.FULL):\n    measured = 0.9 + seed * 0\n    return {rows}\n"


def test_finds_claims_by_room_and_slug(tmp_path):
    one, two = write(tmp_path, GOOD), write(tmp_path, GOOD, "other", "samplers")
    write(tmp_path, "", "__init__")
    assert runner.find_claims(tmp_path) == {"tiny": one, "other": two}


def test_measures_every_seed_on_one_thread_and_gives_the_threads_back(tmp_path):
    claim = runner.open_claim(write(tmp_path, GOOD))
    before, seen = torch.get_num_threads(), []
    torch.set_num_threads(2)
    try:
        result = runner.measure(claim, on_seed=seen.append)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert result.seeds == (2, 0, 5) and seen == [2, 0, 5]
    assert [rows[0].value for rows in result.checks.values()] == [0.1875, 0.125, 0.28125]
    assert [rows[1].value for rows in result.checks.values()] == [1, 1, 1]
    assert result.verdict.paper == "holds" and result.scale is Scale.FULL
    assert all(0 <= cost < 10 for cost in result.cpu_seconds.values()) and result.fixture_seconds == {2: 0, 0: 0, 5: 0}
    assert set(result.versions) == {"rheos", "torch", "numpy", "python"} and result.versions["torch"] == torch.__version__


def test_smoke_runs_the_first_seed_and_other_seeds_can_be_asked_for(tmp_path):
    claim = runner.open_claim(write(tmp_path, GOOD))
    smoke = runner.measure(claim, scale=Scale.SMOKE)
    assert smoke.seeds == (2,) and smoke.checks[2][0].value == 0.3
    assert runner.measure(claim, seeds=[7]).checks[7][0].value == 0.34375
    assert runner.open_claim(write(tmp_path, GOOD.replace("SEEDS", "OTHER"), "defaults")).seeds == (0, 1, 2)
    for wrong in ([], [0, 0], [-1], [True]):
        with pytest.raises(ValueError, match="seeds must be different whole numbers"):
            runner.measure(claim, seeds=wrong)


def test_fixtures_are_counted_apart(tmp_path, monkeypatch):
    monkeypatch.setenv("RHEOS_CACHE", str(tmp_path / "cache"))
    made = """
import time
from rheos.papers.fixtures import fixture

def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
    return {"x": torch.ones(1)}

def dear():
    return 0.3 * fixture("burn", burn, seconds=0.2)["x"][0]
"""
    claim = runner.open_claim(write(tmp_path, body('[Check("error", dear(), "<=", 0.5, measured)]', made)))
    result = runner.measure(claim, seeds=[0, 1])
    assert all(cost >= 0.2 for cost in result.fixture_seconds.values())         # told for both, though only the first one built it
    assert result.fixture_seconds[0] == result.fixture_seconds[1]
    assert all(cost < 0.2 for cost in result.cpu_seconds.values())
    assert result.checks[1][0].value == pytest.approx(0.3)
    with pytest.raises(runner.ClaimError, match=r"tiny, seed 0: smoke scale uses no fixture, got \['burn'\]"):
        runner.measure(claim, scale=Scale.SMOKE)


@pytest.mark.parametrize(("rows", "said"), [
    ("[]", "tiny, seed 0: the claim gave no rows"),
    ("None", "must give a list of Check, got NoneType"),
    ("[0.1]", "must give a list of Check"),
    ("[Check('a', measured, '<=', 1, None, core=False)]", "at least one core row"),
    ("[Check('a', 0.1, '<', 1, measured)]", "check.relation must be"),
    ("[Check('a', 1 / (seed * 0), '<=', 1, measured)]", "tiny, seed 0: ZeroDivisionError: division by zero"),
])
def test_a_claim_that_breaks_is_told_with_its_seed(tmp_path, rows, said):
    with pytest.raises(runner.ClaimError, match=said):
        runner.measure(runner.open_claim(write(tmp_path, body(rows))))


def test_seeds_must_give_the_same_rows(tmp_path):
    claim = runner.open_claim(write(tmp_path, body("[Check('a', 0.1, '<=', 0.5 + seed, measured + 9)]")))
    with pytest.raises(runner.ClaimError, match=r"tiny, seed 1: .*seeds 0 and 1 differ in \['a'\]"):
        runner.measure(claim)


def test_numbers_that_are_not_finite_are_kept_at_full_scale_and_refused_at_smoke(tmp_path):
    claim = runner.open_claim(write(tmp_path, body("[Check('a', measured * float('nan'), '<=', 1, measured + 9), "
                                                   "Check('b', 0.1, '<=', 1, measured * float('-inf'))]")))
    result = runner.measure(claim)
    assert [row.outcome for row in result.verdict.rows] == ["fail", "unclear"] and result.verdict.paper == "does not hold here"
    read = Result.load(result.save(tmp_path / "out"))
    assert math.isnan(read.checks[2][0].value) and read.checks[2][1].control == -math.inf
    with pytest.raises(runner.ClaimError, match="the value of 'a' is nan"):
        runner.measure(claim, scale=Scale.SMOKE)


@pytest.mark.parametrize("drawing", ["return ax", "raise KeyError('color')"])
def test_smoke_draws_the_plot(tmp_path, drawing):
    plot = f"\ndef plot(ax, checks):\n    {drawing}\n"
    claim = runner.open_claim(write(tmp_path, body("[Check('a', 0.1, '<=', 0.5, measured)]") + plot))
    assert runner.measure(claim).verdict.paper == "holds"
    with pytest.raises(runner.ClaimError, match="drew nothing|KeyError: 'color'"):
        runner.measure(claim, scale=Scale.SMOKE)


@pytest.mark.parametrize(("text", "said"), [
    ("def claim(:", "tiny: SyntaxError"), ("import nowhere_at_all", "tiny: ModuleNotFoundError"), ("x = 1", "defines no function claim"),
    (GOOD.replace("(2, 0, 5)", "(1, 1)"), "tiny: SEEDS: seeds must be different"), (GOOD.replace("(2, 0, 5)", "3"), "tiny: SEEDS"),
    (GOOD.replace("error * 7", "0.9"), r"tiny\.py:\d+: control=0\.9 is not a measurement"),
])
def test_a_claim_file_that_breaks_a_rule_is_not_opened(tmp_path, text, said):
    with pytest.raises(runner.ClaimError, match=f"tiny: .*{said}" if said.startswith("tiny\\") else said):
        runner.open_claim(write(tmp_path, text))


LITERAL = [
    "Check('a', m(), '<=', 1, 0.9)", "Check('a', m(), '<=', 1, control=0.9)", "Check('a', m(), '<=', 1, control=-2 * (0.5 + 1e3))",
    "Check('a', m(), '<=', 1, control=BOUND)", "Check('a', m(), '<=', 1, control=2 * TWICE)",
    "Check('a', m(), '<=', 1, control=float('inf'))",
    "Check('a', m(), '<=', 1, control=math.pi)", "checks.Check('a', m(), '<=', 1, 7)", "C('a', m(), '<=', 1, 7)",
    "Check('a', m(), '<=', 1, control=local)", "Check('a', m(), '<=', 1, control=pair)", "Check('a', m(), '<=', 1, control=max(1, BOUND))",
    "Check('a', m(), '<=', 1, control=TABLE['x'])", "Check('a', m(), '<=', 1, control=0.9 if BOUND else 0.8)",
    "Check('a', m(), '<=', 1, control=True)",
]
MEASURED = [
    "Check('a', 0.9, '<=', 1, m())", "Check('a', m(), '<=', BOUND, control=m() / BOUND)", "Check('a', m(), '<=', 1, None, False)",
    "Check('a', m(), '<=', 1, control=None, core=False)", "Check('a', m(), '<=', 1, control=seed)",
    "Check('a', m(), '<=', 1, control=kept)",
    "Check('a', m(), '<=', 1, control=total)", "Check('a', m(), '<=', 1, control=item)",
    "Check('a', m(), '<=', 1, control=1.0 if m() else 0.0)",
    "Check('a', m(), '<=', 1, control=count)", "Check('a', m(), '<=', 1, control=errors['x'])",
    "Check('a', m(), '<=', 1, control=sum(several))",
    "Check('a', m(), '<=', 1, control=worst)", "Check('a', m(), '<=', 1, control=math.sqrt(m()))",
    "Check('a', m(), '<=', 1, control=SHADOWED)", "Check('a', *pair_of(m), 0.9)", "Other('a', m(), '<=', 1, 0.9)",
]


@pytest.mark.parametrize(("call", "literal"), [(call, True) for call in LITERAL] + [(call, False) for call in MEASURED])
def test_tells_typed_controls_from_measured_ones(tmp_path, call, literal):
    text = f"""
import math
from rheos.papers import checks
from rheos.papers.checks import Check, Check as C
BOUND = 0.5
TWICE = 2 * BOUND
TABLE = {{"x": 1.0}}
SHADOWED = 3
def claim(*, seed=0, scale=None):
    local = 1.5
    one, pair = 1, BOUND
    kept = m()
    total = 0.0
    for item in (m(), m()):
        total += item
    count, errors, several, worst = 0, {{}}, [], 0.0
    if m() > 0.5:
        count += 1
        worst = 1.0
    errors["x"] = m()
    several.append(m())
    SHADOWED = m()
    return [{call}]
"""
    found = runner.literal_controls(write(tmp_path, text))
    assert len(found) == literal
    if literal:
        assert found[0].startswith("tiny.py:23: control=") and found[0].endswith(" is not a measurement")


def test_a_result_reads_back_as_it_was(tmp_path):
    result = runner.measure(runner.open_claim(write(tmp_path, GOOD)))
    file = result.save(tmp_path / "deep" / "out")
    assert file.name == "tiny.json" and [f.name for f in file.parent.iterdir()] == ["tiny.json"]
    read = Result.load(file)
    assert read.checks == result.checks and read.verdict == result.verdict and read.seeds == result.seeds
    assert (read.slug, read.scale, read.code, read.versions, read.date) == ("tiny", Scale.FULL, result.code, result.versions, result.date)
    assert read.cpu_seconds == pytest.approx(result.cpu_seconds, abs=1e-3)
    told = json.loads(file.read_text())
    assert told["rows"][0]["values"] == {"2": 0.1875, "0": 0.125, "5": 0.28125} and told["verdict"] == "holds"


@pytest.mark.parametrize("change", [
    {"format": 9}, {"verdict": "does not hold here"}, {"rows": None}, {"scale": "huge"}, {"seeds": [2, 0, 5, 6]}, {"cpu_seconds": 3},
])
def test_a_result_that_was_tampered_with_is_refused(tmp_path, change):
    file = runner.measure(runner.open_claim(write(tmp_path, GOOD))).save(tmp_path)
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(ValueError, match="is not a result of rheos check"):
        Result.load(file)


def test_what_makes_a_result_stale(tmp_path, monkeypatch):
    package, claims, out, published = (tmp_path / name for name in ("package", "claims", "out", "published"))
    claim = GOOD + "\n\ndef never():\n    from rheos.samplers import DEIS\n"
    for name, text in [("papers/checks.py", "a = 1"), ("samplers/__init__.py", "from rheos.samplers.deep.deis import DEIS"),
                       ("samplers/deep/deis.py", "import rheos.core.loop"), ("core/loop.py", "b = 1"), ("paths/path.py", "d = 1"),
                       ("cli/show.py", "e = 1")]:
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    monkeypatch.setattr(runner, "PACKAGE", package)
    monkeypatch.setattr(runner, "CLAIMS", claims)
    monkeypatch.setattr(results, "MEASURED", published)
    file = write(claims, claim, "deis", "samplers")
    assert runner.stale("deis")                                             # never measured

    def measured(folder=out, **how):
        runner.measure(runner.open_claim(file), **how).save(folder)

    measured()
    assert runner.stale("deis") and not runner.stale("deis", out) and not runner.stale("deis", published, out)
    for name in ("paths/path.py", "cli/show.py", "samplers/new.py"):
        (package / name).write_text("what_nothing_imports = 'does not count'")
    assert not runner.stale("deis", out)
    for name in ("papers/checks.py", "core/loop.py", "samplers/deep/deis.py", "samplers/__init__.py"):
        (package / name).write_text((package / name).read_text() + "\nchanged = 1")
        assert runner.stale("deis", out)
        measured()
        assert not runner.stale("deis", out)
    (package / "core/loop.py").write_text("from rheos.paths.path import what_nothing_imports")
    assert runner.stale("deis", out)
    measured()
    (package / "paths/path.py").write_text("something_imports = 'this now'")
    assert runner.stale("deis", out)
    measured(seeds=[0, 2])
    assert runner.stale("deis", out)                                        # one of the claim's seeds is missing
    measured(scale=Scale.SMOKE)
    assert runner.stale("deis", out) and not runner.stale("deis", out, scale=Scale.SMOKE)
    measured()
    file.write_text(claim.replace("0.25", "0.26"))
    assert runner.stale("deis", out)
    measured()
    (out / "deis.json").write_text("{")
    assert runner.stale("deis", out)
    measured(published)
    assert not runner.stale("deis")
    assert results.board()["holds"] == 1
    with pytest.raises(ValueError, match="no claim yet"):
        runner.stale("gdss")


def test_a_checkout_is_told_from_an_installed_copy(tmp_path, monkeypatch):
    package = tmp_path / "src" / "rheos"
    package.mkdir(parents=True)
    monkeypatch.setattr(runner, "PACKAGE", package)
    assert runner.checkout() is None
    (tmp_path / "pyproject.toml").write_text("")
    assert runner.checkout() == tmp_path
    installed = tmp_path / "site-packages" / "rheos"
    monkeypatch.setattr(runner, "PACKAGE", installed)
    assert runner.checkout() is None


def test_the_verdict_of_disagreeing_seeds_is_saved_row_by_row(tmp_path):
    checks = {0: (Check("a", 0.1, "<=", 0.5, 0.9), Check("b", 0.1, "<=", 0.5, 0.9)),
              1: (Check("a", 0.7, "<=", 0.5, 0.9), Check("b", 0.2, "<=", 0.5, 0.9))}
    result = Result("tiny", Scale.FULL, checks, {0: 1.0, 1: 2.0}, {0: 0.0, 1: 0.0}, "c", {}, "2030-01-31")
    told = json.loads(result.save(tmp_path).read_text())
    assert [row["outcome"] for row in told["rows"]] == ["unclear", "pass"] and told["verdict"] == "not measurable here"
