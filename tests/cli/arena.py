"""Where command lines are tried: a folder with small runs, a hub and a pipe in it, what is put beside them, and what must hold whatever is typed.

A command ends with 0, 1 or 2. Where it fails it says one line for people and has changed nothing, not one byte; where it succeeds it has
written what it says and nothing else. It asks for no more than 2 GiB and 3 CPU seconds, and leaves no temporary file.
"""
from __future__ import annotations

import contextlib
import io
import os
import re
import resource
import shutil
import signal
import tempfile
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

from rheos.cli import build
from rheos.cli.errors import run as run_app

CHEAP = ("--steps", "1", "--width", "4", "--depth", "1", "--batch", "2", "--device", "cpu")
SECONDS, STUCK = 3.0, 120           # CPU seconds an example may take; seconds by the clock after which it is called stuck
MEMORY = 2 * 1024**3                # bytes an example may ask for
NOTICES = re.compile(r"note: begun with |step \d+|[\d,]+ steps should fit into |[\d,]+ of [\d,]+ samples")
# What Python, torch and the type checker say is for those who write programs.
FOR_PROGRAMMERS = re.compile(r"^rheos: ([A-Za-z_.]*(Error|Exception|Warning|Interrupt|Exit|Iteration|NonFinite)\b|\(|Type-check|'[\w-]+' codec)|Traceback|alloc_cpu|"
                             r"THPUtils|unpacking|<[^>]* object at 0x")
CHECKED = re.compile(r"Type-check error whilst .*")        # the suite's stand-in for a TypeError


@dataclass(frozen=True)
class Case:
    """A command line and the files that are put into the folder for it. fine: whether it may as well succeed; said: what a failure must name."""

    argv: tuple[str, ...]
    files: dict[str, bytes] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    fine: bool = True
    said: str = ""


class Stuck(BaseException):
    """Not an Exception, so that no reader takes it for a broken file."""


# -- the place ----------------------------------------------------------------------------------------------------------------


def listed(folder):
    """Everything below a folder: the content of files, where links point, the kind of the rest."""
    found = {}
    for place, inside, files in os.walk(folder):
        for name in [*inside, *files]:
            path = os.path.join(place, name)
            if os.path.islink(path):
                found[os.path.relpath(path, folder)] = f"-> {os.readlink(path)}"
            elif os.path.isfile(path):
                with open(path, "rb") as file:
                    found[os.path.relpath(path, folder)] = file.read()
            else:
                found[os.path.relpath(path, folder)] = "folder" if os.path.isdir(path) else "other"
    return found


class Quick(typer.Typer):
    """An app whose commands are built once, not anew for every call."""

    def __init__(self, app: typer.Typer):
        super().__init__()
        self.command_line = typer.main.get_command(app)

    def __call__(self, *args, **kwargs):
        return self.command_line(*args, **kwargs)


class Arena:
    """A folder with small runs, a hub and a pipe in it, in which command lines are tried."""

    def __init__(self, root: Path):
        self.root, self.app = root, Quick(build())
        self.said: list[tuple] = []
        self.scratch = root.parent / "scratch"
        self.scratch.mkdir()

    def make(self):
        for number, name in enumerate(("a/a.png", "b/b.png", "c/c.jpg")):
            place = self.root / "pictures" / name
            place.parent.mkdir(parents=True)
            Image.fromarray((np.arange(192) * (37 + number) % 251).astype(np.uint8).reshape(8, 8, 3)).save(place)
        np.save("numbers.npy", np.arange(36.0).reshape(12, 3) % 7)
        colours, kinds = ("red", "blue", '"a, b"'), "uv"
        rows = [f"{i * 0.25},{colours[i % 3]},2024-01-{i + 1:02d},{kinds[i % 2]}\n" for i in range(20)]
        Path("table.csv").write_text("price,colour,when,kind\n" + "".join(rows))
        Path("words.txt").write_text("every good boy deserves fruit, and some cows eat grass. " * 9)
        for name, data, *more in (("run", "numbers.npy"), ("table", "table.csv", "--label", "kind"), ("text", "words.txt", "--length", "8"), ("shown", "pictures")):
            code, _, err, _ = self.call(["train", data, "--out", name, *CHEAP, *more])
            assert code == 0, err
        assert self.call(["push", "run", "me/flow", "--hub", "hub"])[0] == 0
        os.mkfifo("pipe")
        Path("loop").symlink_to("loop")
        Path("nowhere").symlink_to("gone/away")
        Path("file").write_text("in the way")
        Path("empty").mkdir()

    def call(self, argv):
        """Exit code, what went to the two outputs, and warnings, with all that libraries write past Python among the second."""
        out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
        err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace", write_through=True)
        kept, past = os.dup(2), tempfile.TemporaryFile(dir=self.scratch)
        os.dup2(past.fileno(), 2)
        before = signal.signal(signal.SIGALRM, stuck)
        signal.setitimer(signal.ITIMER_REAL, STUCK)
        try:
            with warnings.catch_warnings(record=True) as seen, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                warnings.simplefilter("default")
                for kind in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):     # as Python begins
                    warnings.simplefilter("ignore", kind)
                code = run_app(self.app, list(argv))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            os.dup2(kept, 2)
            os.close(kept)
            past.seek(0)
            low = past.read().decode(errors="replace")
            past.close()
        return code, out.buffer.getvalue().decode(), err.buffer.getvalue().decode() + low, [str(each.message) for each in seen]

    def trial(self, case: Case) -> tuple[int, str]:
        """Run it, check what is promised, and put everything back; gives the exit code and what was said."""
        old = listed(self.root)
        try:
            self.put(case)
            before = listed(self.root)
            begun = time.process_time()
            code, out, err, warned = self.call(case.argv)
            spent, after = time.process_time() - begun, listed(self.root)
            self.judge(case, code, out, err, warned, spent, before, after)
            return code, err
        finally:
            self.restore(old)

    def put(self, case: Case):
        for name, content in case.files.items():
            place = self.root / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
        for name, target in case.links.items():
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).symlink_to(target)

    def judge(self, case, code, out, err, warned, spent, before, after):
        lines = [line for line in err.splitlines() if not NOTICES.match(line)]
        self.said.append((code, *lines))
        assert not warned, warned
        assert spent < SECONDS, f"{spent:.1f} s of CPU time"
        assert not os.listdir(self.scratch), f"temporary files left: {os.listdir(self.scratch)}"
        hidden = [name for _, _, files in os.walk(os.environ["RHEOS_CACHE"]) for name in files if name.startswith(".")]
        assert not hidden, f"temporary files left in the cache: {hidden}"
        changed = {name for name in {*before, *after} if before.get(name) != after.get(name)}
        if code == 0:
            assert case.fine, f"was taken for good: {out}"
            assert not lines, lines
            assert not any(name.split("/")[-1].startswith(".") for name in changed), changed
            complete(case.argv, out, changed, before, after)
            return
        assert code in (1, 2), f"exit code {code}: {err}"
        assert len(lines) == 1 and err.endswith("\n"), err
        assert lines[0].startswith("rheos: ") and len(lines[0]) > 12 and not FOR_PROGRAMMERS.search(CHECKED.sub("", lines[0], 1) or lines[0]), lines[0]
        assert case.said in lines[0], lines[0]
        assert out == "", out
        assert not changed, f"{lines[0]!r}, and yet {sorted(changed)} changed"

    def restore(self, old):
        new = listed(self.root)
        for name in sorted({*new} - {*old}, key=len, reverse=True):
            path = self.root / name
            path.rmdir() if new[name] == "folder" else path.unlink()
        for name, content in old.items():
            if new.get(name) != content and isinstance(content, bytes):
                (self.root / name).parent.mkdir(parents=True, exist_ok=True)
                (self.root / name).write_bytes(content)
        for left in os.listdir(self.scratch):
            path = self.scratch / left
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def train(data, *flags, out="out"):
    """The cheapest training of `data`; what the flags say again counts."""
    return ("train", data, "--out", out, *CHEAP, *flags)


def stuck(*_):
    raise Stuck


def complete(argv, out, changed, before, after):
    """What a command that ended well has written is whole, and is all that it has written."""
    files = {name for name in changed if after.get(name) != "folder"}
    gone = [name for name in before if name not in after]
    assert all("/checkpoint/step-" in name or "/model-" in name for name in gone), gone         # these are replaced by newer ones
    if argv[0] == "train":
        folder = os.path.relpath(given_to(argv, "--resume") or given_to(argv, "--out"))
        kinds = [r"run\.toml", r"trace\.jsonl", r"checkpoint/step-\d{9}\.safetensors", r"model/model\.json", r"model/model-[0-9a-f]{12}\.safetensors"]
        inside = [name.removeprefix(f"{folder}/") for name in files if after.get(name) is not None and not name.startswith(f"{folder}/tensorboard/")]
        assert all(any(re.fullmatch(kind, name) for kind in kinds) for name in inside), inside
        if "--resume" not in argv:
            assert all(any(re.fullmatch(kind, name) for name in inside) for kind in kinds), inside
    elif argv[0] == "sample":
        assert files <= {os.path.normpath(name) for name in out.strip().partition(" are in ")[2].split(" and ")}
    elif argv[0] == "pull":
        assert {Path(name).name for name in files} >= {"model.json", "README.md"} and sum(name.endswith(".safetensors") for name in files) == 1
    elif argv[0] == "push":
        assert {Path(name).name for name in files} <= {"model.json", "README.md"} or sum(name.endswith(".safetensors") for name in files) == 1
    else:
        assert not files, files


def given_to(argv, option):
    """What an option was given last, or None."""
    found = [argv[i + 1] if word == option else word.removeprefix(f"{option}=") for i, word in enumerate(argv) if word == option or word.startswith(f"{option}=")]
    return found[-1] if found else None


@contextlib.contextmanager
def limited_memory():
    """What is asked for beyond MEMORY is refused by the system, instead of driving the machine into the ground."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    try:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:                 # a system without /proc
        used = None
    if used is not None:
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@contextlib.contextmanager
def made_arena(folder: Path):
    root = folder / "arena"
    root.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("RHEOS_CACHE", str(folder / "cache"))
        patch.setenv("RHEOS_DATA", str(folder / "data"))
        patch.setattr("rheos.data.named.parcels.Workshop.run", never)
        patch.setattr("rheos.interop.hub._hub", lambda hub: Unreachable() if hub is None else hub)
        arena = Arena(root)
        arena.make()
        patch.setattr(tempfile, "tempdir", str(arena.scratch))
        with limited_memory():
            yield arena


def never(shop, *command, **_):
    assert shop.dry, f"fetches something: {command}"
    shop.echo(" ".join(command))


class Unreachable:
    """huggingface_hub on a machine without a network."""

    def __getattr__(self, name):
        raise ConnectionError("no route to host\nsecond line")
