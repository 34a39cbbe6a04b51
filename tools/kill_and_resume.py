"""Kill a training run with SIGKILL at random moments, resume it each time, and compare its end with that of an unbroken run, bit for bit.

    python tools/kill_and_resume.py --kills 3

Exit code 0 if the two models are equal, 1 if not. Moments are random on purpose: every call tries others (--seed repeats one).
"""
from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SETTINGS = ["--width", "64", "--depth", "2", "--dropout", "0.1", "--every", "25", "--device", "cpu"]
PATIENCE = 600


def start(*arguments: str) -> subprocess.Popen:
    """`rheos train ...` as a process of its own, one thread, its output kept."""
    command = [sys.executable, "-c", "from rheos.cli import main; main()", "train", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def finish(process: subprocess.Popen) -> None:
    out = process.communicate(timeout=PATIENCE)[0]
    if process.returncode:
        sys.exit(f"rheos train ended with code {process.returncode}:\n{out}")


def unbroken(folder: Path, steps: int) -> tuple[float, float]:
    """(seconds until the first step, seconds from then to the end) of a run that nobody disturbs."""
    begun = time.monotonic()
    process = start("digits", "--out", str(folder), "--steps", str(steps), *SETTINGS)
    while process.poll() is None and not (folder / "trace.jsonl").exists():
        time.sleep(0.01)
    first = time.monotonic()
    finish(process)
    return first - begun, time.monotonic() - first


def model_file(folder: Path) -> Path:
    (found,) = (folder / "model").glob("model-*.safetensors")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=None)
    chosen = parser.parse_args()
    moments = random.Random(chosen.seed)
    with tempfile.TemporaryDirectory() as place:
        whole, broken = Path(place) / "whole", Path(place) / "broken"
        before, during = unbroken(whole, chosen.steps)
        print(f"unbroken: {before:.1f} s to the first step, {during:.1f} s for {chosen.steps} steps")
        for kill in range(chosen.kills):
            again = (broken / "run.toml").exists()
            process = start(*(["--resume", str(broken)] if again else ["digits", "--out", str(broken), "--steps", str(chosen.steps), *SETTINGS]))
            # From the middle of the start to a share of the run so small that no run ends before its last kill.
            wait = moments.uniform(0.5 * before, before + during / (chosen.kills + 1))
            time.sleep(wait)
            if process.poll() is not None:
                sys.exit(f"the run ended before kill {kill + 1}, with code {process.returncode}: choose more --steps\n{process.communicate()[0]}")
            process.send_signal(signal.SIGKILL)
            process.communicate()
            saved = sorted(file.name for file in (broken / "checkpoint").glob("step-*")) if broken.exists() else []
            print(f"kill {kill + 1}: after {wait:.1f} s, last checkpoint {saved[-1] if saved else 'none'}")
        finish(start("--resume", str(broken)) if (broken / "run.toml").exists()
               else start("digits", "--out", str(broken), "--steps", str(chosen.steps), *SETTINGS))
        ours, theirs = model_file(broken), model_file(whole)
        equal = ours.read_bytes() == theirs.read_bytes()
        print(f"{'equal' if equal else 'DIFFERENT'} to the bit: {ours.name} and {theirs.name}")
    return 0 if equal else 1


if __name__ == "__main__":
    sys.exit(main())
