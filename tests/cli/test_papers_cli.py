"""`rheos papers`, `rheos check` and how every command ends: output, exit codes, one line of error, no torch before it is needed."""
from __future__ import annotations

import json
import subprocess
import sys

import pytest
import typer

import rheos
from rheos.cli import build
from rheos.cli.errors import Failure, Usage, run
from rheos.papers import results, runner

CLAIM = """
from rheos.papers.checks import Check, Scale

def claim(*, seed=0, scale=Scale.FULL):
    error = 0.25 + seed / 100
    return [Check("error ratio", error, "<=", 0.5, control=error + 1)]
"""


@pytest.fixture
def cli(capsys):
    """Run a command line; gives exit code, stdout, stderr."""
    def call(*argv):
        code = run(build(), argv)
        out, err = capsys.readouterr()
        return code, out, err
    return call


@pytest.fixture
def claims(tmp_path, monkeypatch):
    """A folder of two tiny claims in the place of the shipped ones; nothing is published."""
    folder = tmp_path / "claims"
    for name in ("samplers/deis.py", "paths/stochastic_interpolants.py"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(CLAIM)
    monkeypatch.setattr(runner, "CLAIMS", folder)
    monkeypatch.setattr(results, "MEASURED", tmp_path / "measured")
    monkeypatch.chdir(tmp_path)
    return folder


def test_help_and_the_catalog_need_no_torch():
    code = """
import sys
from rheos.cli import build
from rheos.cli.errors import run
for line in ("--help", "check --help", "papers --help", "papers list", "papers show deis", "papers cite DEIS", "papers search flows",
             "check"):
    run(build(), line.split())
print("HEAVY", [name for name in ("torch", "numpy", "matplotlib", "sklearn", "scipy") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "HEAVY []"
    assert "Example: rheos check deis" in done.stdout and "Example: rheos papers search" in done.stdout


def test_the_module_form_runs_only_when_it_is_run(monkeypatch, capsys):
    import runpy

    monkeypatch.setattr(sys, "argv", ["rheos", "--version"])
    assert "main" in runpy.run_module("rheos.cli.__main__", run_name="imported")        # a walk over all modules imports it too
    assert capsys.readouterr().out == ""
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("rheos.cli", run_name="__main__")
    assert ended.value.code == 0 and capsys.readouterr().out == f"rheos {rheos.__version__}\n"


def test_version_and_a_bare_call(cli):
    assert cli("--version") == (0, f"rheos {rheos.__version__}\n", "")
    for argv in ((), ("papers",)):
        code, out, err = cli(*argv)
        assert code == 0 and "Usage: rheos" in out and err == ""


def test_lists_papers_one_a_line_in_a_pipe(cli):
    code, out, err = cli("papers", "list")
    lines = [line.split("\t") for line in out.splitlines()]
    assert code == 0 and lines[0] == ["number", "slug", "room", "arXiv", "verdict", "title"]
    assert [line[0] for line in lines[1:]] == [str(i) for i in range(204)]
    assert lines[7][5] == "Light Schrödinger Bridge"
    code, out, _ = cli("papers", "list", "--room", "samplers", "--built")
    found = [line.split("\t")[1:3] for line in out.splitlines()[1:]]
    assert {room for _, room in found} == {"samplers"} and {"dpm_solver_pp", "deis", "usf_s3"} <= {slug for slug, _ in found} and len(found) == 12


def test_searches_and_cites(cli):
    code, out, _ = cli("papers", "search", "exponential", "integrator")
    assert code == 0 and out.splitlines()[1].split("\t")[1] == "deis"
    code, out, _ = cli("papers", "cite", "samplers.DEIS")
    assert code == 0 and out.startswith("@misc{deis,") and "2204.13902" in out


def test_checks_a_claim_and_keeps_the_result(cli, claims, tmp_path):
    code, out, err = cli("check", "66", "deis", "--seeds", "0,4")
    assert code == 0 and err == ""
    assert out.splitlines()[1].split("\t") == ["deis", "error ratio", "0.25, 0.29", "<= 0.5", "1.25, 1.29", "pass"]
    kept = json.loads((tmp_path / "rheos-check" / "deis.json").read_text())
    assert kept["verdict"] == "holds" and kept["seeds"] == [0, 4] and kept["rows"][0]["values"] == {"0": 0.25, "4": 0.29}
    assert not (tmp_path / "measured").exists()


def test_ctrl_c_inside_a_claim_publishes_nothing(cli, claims, tmp_path, ctrl_c):
    """`evolve` alone would end softly at the first SIGINT, and the claim would be judged by what it had until then."""
    (claims / "samplers" / "deis.py").write_text("""
import os, signal
from dataclasses import dataclass
from rheos.core import evolve
from rheos.papers.checks import Check, Scale

@dataclass
class Count:
    step: int = 0

@dataclass(frozen=True)
class Up:
    def step(self, state):
        return Count(state.step + 1)

def press(step, state):
    if step == 3:
        os.kill(os.getpid(), signal.SIGINT)

def claim(*, seed=0, scale=Scale.FULL):
    reached = evolve(Up(), Count(), 10, watch=[press]).step
    return [Check("steps", reached, "<=", 5, control=reached + 9)]
""")
    assert cli("check", "deis", "--publish") == (130, "", "rheos: interrupted\n")
    assert cli("check", "deis", "--out", "out") == (130, "", "rheos: interrupted\n")
    assert not list((tmp_path / "out").iterdir()) and not list((tmp_path / "measured").iterdir())


def test_stale_runs_only_what_changed(cli, claims, tmp_path):
    assert cli("check", "--all", "--out", "out")[0] == 0
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["deis.json", "stochastic_interpolants.json"]
    assert cli("check", "--stale", "--out", "out") == (0, "every claim was measured with the code as it is\n", "")
    (claims / "samplers" / "deis.py").write_text(CLAIM.replace("0.25", "0.75"))
    code, out, _ = cli("check", "--stale", "--out", "out")
    assert code == 0 and out.splitlines()[1].split("\t")[-1] == "fail" and "stochastic_interpolants" not in out
    assert "does not hold here" in out                                       # a result like any other: exit code 0


def test_publishes_in_a_checkout_only(cli, claims, tmp_path, monkeypatch):
    assert cli("check", "--room", "samplers", "--publish")[0] == 0
    code, out, _ = cli("papers", "show", "deis")
    assert code == 0 and "verdict  holds" in out and "error ratio\t0.25, 0.26, 0.27\t<= 0.5\t1.25, 1.26, 1.27\tpass" in out
    assert {line.split("\t")[1]: line.split("\t")[4] for line in cli("papers", "list", "--built")[1].splitlines()}["deis"] == "holds"
    monkeypatch.setattr(runner, "PACKAGE", tmp_path / "site-packages" / "rheos")
    code, out, err = cli("check", "deis", "--publish")
    assert (code, out, err) == (2, "", "rheos: --publish writes into a checkout of rheos, and this rheos is an installed copy\n")


def test_a_claim_that_crashes_does_not_keep_the_others_from_running(cli, claims, tmp_path):
    (claims / "paths" / "stochastic_interpolants.py").write_text(CLAIM.replace("seed / 100", "seed / 0"))
    code, out, err = cli("check", "--all", "--smoke")
    assert code == 1 and out.splitlines()[1].startswith("deis\terror ratio\t0.25")
    assert err == "rheos: 1 of 2 claims could not be run: stochastic_interpolants, seed 0: ZeroDivisionError: division by zero\n"
    assert [file.name for file in (tmp_path / "rheos-check").iterdir()] == ["deis.json"]
    err = cli("check", "--all", "--smoke", "--debug")[2]
    assert "Traceback" in err and "error = 0.25 + seed / 0" in err


@pytest.mark.parametrize(("argv", "said"), [
    (["papers", "show", "dies"], "did you mean 'deis'"), (["papers", "show"], "Missing argument"),
    (["papers", "cite", "DESI"], "rheos.samplers.DEIS"),
    (["papers", "list", "--room", "sampler"], "did you mean 'samplers'"),
    (["papers", "search", "interpolantz"], "no paper matches 'interpolantz'"),
    (["papers", "lst"], "No such command 'lst'"), (["chek"], "No such command 'chek'"), (["check", "--sed", "1"], "No such option"),
    (["check"], "nothing to check"), (["check", "deis", "--all"], "one of them"), (["check", "gdss"], "no claim is built for gdss"),
    (["check", "--room", "graphs"], "no claim is built in the room 'graphs'"), (["check", "deis", "--seeds", "0,x"], "--seeds must be"),
    (["check", "deis", "--seeds", "1,1"], "--seeds must be"), (["check", "deis", "--smoke", "--publish"], "goes with neither"),
    (["check", "dies"], "did you mean 'deis'"),
])
def test_wrong_usage_is_one_line_and_leaves_nothing(cli, claims, tmp_path, argv, said):
    code, out, err = cli(*argv)
    assert code == 2 and out == "" and err.startswith("rheos: ") and said in err and err.count("\n") == 1
    assert not (tmp_path / "rheos-check").exists()


def test_a_folder_that_cannot_be_written_is_a_failure_before_any_work(cli, claims, tmp_path):
    (tmp_path / "file").write_text("in the way")
    code, out, err = cli("check", "deis", "--out", "file/inside")
    assert code == 1 and out == "" and err == "rheos: file/inside: Not a directory\n"


def raising(error):
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command()
    def command(path: str = ""):
        raise error
    return app


@pytest.mark.parametrize(("error", "code", "line"), [
    (Usage("no such rule"), 2, "no such rule"), (ValueError("steps must be\n   positive, got 0"), 2, "steps must be positive, got 0"),
    (TypeError("cond must be a Tensor"), 2, "cond must be a Tensor"), (Failure("it diverged"), 1, "it diverged"),
    (PermissionError(13, "Permission denied", "run"), 1, "run: Permission denied"), (OSError("odd"), 1, "odd"),
    (ImportError("pip install 'rheos[tables]'"), 1, "pip install 'rheos[tables]'"), (KeyError("x"), 1, "KeyError: 'x'"),
    (RuntimeError(""), 1, "RuntimeError:"), (ValueError(""), 2, "ValueError"), (KeyboardInterrupt(), 130, "interrupted"),
])
def test_every_error_is_one_line_and_a_code(capsys, error, code, line):
    assert run(raising(error), []) == code
    assert capsys.readouterr() == ("", f"rheos: {line}\n")


def test_debug_works_anywhere_before_the_double_dash(capsys):
    for argv, debug, shown in [(["--debug"], False, True), (["--path", "a", "--debug"], False, True), ([], True, True), ([], False, False)]:
        assert run(raising(ValueError("odd")), argv, debug) == 2
        err = capsys.readouterr().err
        assert ("Traceback" in err) is shown and err.endswith("rheos: odd\n")
    app, seen = typer.Typer(), []

    @app.command()
    def command(names: list[str]):
        seen.extend(names)

    assert run(app, ["--debug", "a", "--", "--debug", "--"]) == 0               # behind the dashes it is an argument like any other
    assert seen == ["a", "--debug", "--"]


def test_codes_of_commands_are_kept(capsys):
    assert run(raising(typer.Exit(3)), []) == 3
    assert run(raising(SystemExit(4)), []) == 4
    assert run(raising(typer.Abort()), []) == 130
    assert capsys.readouterr().err == "rheos: interrupted\n"
