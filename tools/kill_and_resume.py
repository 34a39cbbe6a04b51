"""Kill a training run with SIGKILL at random moments, resume it each time, and compare its end with that of an unbroken run, bit for bit.

    python tools/kill_and_resume.py --kills 10
    python tools/kill_and_resume.py --kills 5 --train "fashion_mnist --net unet --width 8 --batch 8 --steps 60 --every 7"

--train is what follows `rheos train`, without --out. Moments are of five kinds, each at least once if there are as many kills: while the
process starts, at a random step, while a checkpoint is written, right after a resumed run has gone on, and (the last) while the model is
written. They are random on purpose: every call tries others (--seed repeats one). Equal must be the model, its description, the last
checkpoint and the losses that the trace tells. Exit code 0 if all are, 1 if not.
"""
from __future__ import annotations

import argparse
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

TRAIN = "digits --steps 2000 --width 64 --depth 2 --dropout 0.1 --every 25 --device cpu"
PATIENCE = 900
KINDS = ("start", "step", "checkpoint", "resume")


def start(*arguments: str) -> subprocess.Popen:
    """`rheos train ...` as a process of its own, one thread, its output kept."""
    command = [sys.executable, "-c", "from rheos.cli import main; main()", "train", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def finish(process: subprocess.Popen) -> None:
    out = process.communicate(timeout=PATIENCE)[0]
    if process.returncode:
        sys.exit(f"rheos train ended with code {process.returncode}:\n{out}")


def rows(folder: Path) -> list[dict]:
    """The whole rows of a trace, as far as it goes."""
    try:
        lines = (folder / "trace.jsonl").read_text().split("\n")[:-1]
        return [json.loads(line) for line in lines]
    except (OSError, ValueError):
        return []


def step(folder: Path) -> int:
    """The last step that the trace tells, 0 before the first."""
    found = rows(folder)
    return found[-1]["step"] if found else 0


def saved(folder: Path) -> int:
    """The step of the last checkpoint, 0 before the first."""
    return max((int(file.stem.removeprefix("step-")) for file in (folder / "checkpoint").glob("step-*")), default=0)


def until(process: subprocess.Popen, happened, pause: float = 0.0005) -> bool:
    """Wait for something; False if the run ends before it comes."""
    begun = time.monotonic()
    while process.poll() is None:
        if happened():
            return True
        if time.monotonic() - begun > PATIENCE:
            sys.exit("the run neither ends nor goes on")
        time.sleep(pause)
    return False


def unbroken(folder: Path, train: list[str]) -> float:
    """Seconds until the first step of a run that nobody disturbs, which is then at its end."""
    begun = time.monotonic()
    process = start(*train, "--out", str(folder))
    until(process, lambda: step(folder) > 0, 0.01)
    first = time.monotonic() - begun
    finish(process)
    return first


def writing(folder: Path, name: str) -> bool:
    """Whether a file is being written beside `name`, under its temporary name."""
    try:
        return any(entry.name.startswith(f".{name}") for entry in os.scandir(folder))
    except OSError:
        return False


def killed(kind: str, folder: Path, train: list[str], moments: random.Random, first: float, limit: int) -> str:
    """Start or resume the run and kill it at a moment of this kind, before step `limit`; what happened, in words."""
    again = (folder / "run.toml").exists()
    before, told = saved(folder), (folder / "trace.jsonl").stat().st_mtime_ns if (folder / "trace.jsonl").exists() else 0
    begun = time.monotonic()
    process = start(*(["--resume", str(folder)] if again else [*train, "--out", str(folder)]))
    trace = folder / "trace.jsonl"
    if kind == "start":
        moment = begun + moments.uniform(0.0, first)
        reached = until(process, lambda: time.monotonic() > moment) and "somewhere in the start"
    elif kind == "step":
        aim = moments.randint(before + 1, max(before + 1, limit))
        reached = until(process, lambda: step(folder) >= aim and step(folder) > before) and f"once step {aim} was told"
    elif kind == "checkpoint":
        aim = moments.randint(before, limit)
        reached = until(process, lambda: writing(folder / "checkpoint", "step-") and saved(folder) >= aim, 0.0) and "while a checkpoint was written"
    elif kind == "resume":
        reached = until(process, lambda: trace.exists() and trace.stat().st_mtime_ns != told, 0.0) and "right after it went on"
    else:
        reached = until(process, lambda: (folder / "model").exists(), 0.0) and "while the model was written"
    if not reached:
        sys.exit(f"the run ended before its kill ({kind}), with code {process.returncode}: choose more steps\n{process.communicate()[0]}")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    left = [name.name for name in folder.rglob(".*")] if folder.exists() else []
    return (f"{kind:<10} {reached}, after {time.monotonic() - begun:.1f} s, from checkpoint {before}: told step {step(folder)}, last checkpoint {saved(folder)}"
            + (f", half-written {', '.join(left)}" if left else ""))


def ends(folder: Path) -> dict[str, object]:
    """Everything in which two runs of the same settings must be equal."""
    (weights,) = (folder / "model").glob("model-*.safetensors")
    told = json.loads((folder / "model" / "model.json").read_text())
    told["card"].pop("command")                     # it names the folder
    last = max((folder / "checkpoint").glob("step-*.safetensors"))
    return {"model": weights.read_bytes(), "description": told, "last checkpoint": (last.name, last.read_bytes()),
            "losses": [(row["step"], row["loss"], row["norm"]) for row in rows(folder)],
            "files": sorted(name.relative_to(folder).as_posix() for name in folder.rglob("*"))}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--train", default=TRAIN, help=f"what follows rheos train ({TRAIN})")
    parser.add_argument("--seed", type=int, default=None)
    chosen = parser.parse_args()
    train, number = shlex.split(chosen.train), random.SystemRandom().randrange(10**6) if chosen.seed is None else chosen.seed
    moments = random.Random(number)
    kinds = [*moments.sample(KINDS, len(KINDS)), *moments.choices(KINDS, k=max(0, chosen.kills - 1 - len(KINDS)))][: chosen.kills - 1]
    moments.shuffle(kinds)
    with tempfile.TemporaryDirectory() as place:
        whole, broken = Path(place) / "whole", Path(place) / "broken"
        begun = time.monotonic()
        first = unbroken(whole, train)
        steps = tomllib.loads((whole / "run.toml").read_text())["settings"]["steps"]
        print(f"rheos train {shlex.join(train)}\nunbroken: {first:.1f} s to the first step, {time.monotonic() - begun:.1f} s for all {steps} steps; "
              f"seed {number}", flush=True)
        for kill, kind in enumerate([*kinds, "model"]):
            limit = steps * (kill + 1) // (chosen.kills + 1)            # so that no run ends before its last kill
            print(f"kill {kill + 1:>2}: {killed(kind, broken, train, moments, first, limit)}", flush=True)
        finish(start("--resume", str(broken)))
        ours, theirs = ends(broken), ends(whole)
        other = [name for name in theirs if ours[name] != theirs[name]]
        print(f"DIFFERENT: {', '.join(other)}" if other else f"equal to the bit: {', '.join(theirs)}")
    return 1 if other else 0


if __name__ == "__main__":
    sys.exit(main())
