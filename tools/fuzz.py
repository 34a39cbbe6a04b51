"""Try malformed files and command lines of the kinds of tests/cli/test_fuzz.py, others at every call, each kind in a process of its own.

    python tools/fuzz.py --examples 2000
    python tools/fuzz.py --examples 500 --kinds parquet "damaged fields" --seed 7

Prints, for every way in which a promise was broken, how often and the smallest example; a process that was killed is told with what it was
trying. Exit code 0 if all promises hold, 1 if not. One kind more than in the suite: "damaged fields", HDF5 with bytes changed.
"""
from __future__ import annotations

import argparse
import os
import random
import re
import signal
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings

from cli.arena import made_arena
from cli.malformed import damaged_fields
from cli.test_fuzz import FUZZ

KINDS = {kind: strategy for kind, (strategy, _) in FUZZ.items()} | {"damaged fields": damaged_fields}
SHOWN = 300     # letters of a file's content


def shown(case) -> str:
    files = "".join(f"\n    {name}: {len(content)} bytes {content[:SHOWN]!r}" for name, content in case.files.items())
    return f"rheos {' '.join(map(repr, case.argv))}{files}" + (f"\n    links {case.links}" if case.links else "")


def tried(kind: str, examples: int, number: int, place: Path) -> int:
    """Try one kind in this process; the number of different failures."""
    torch.set_num_threads(1)
    failures: dict[str, list] = {}
    begun, count = time.process_time(), [0]
    with made_arena(place) as arena:
        def holds(case):
            count[0] += 1
            (place / "current").write_text(shown(case), errors="backslashreplace")
            try:
                arena.trial(case)
            except Exception as error:
                if type(error).__module__.startswith("hypothesis"):
                    raise
                failures.setdefault(re.sub(r"\d+|'[^']*'", "#", f"{type(error).__name__}: {error}")[:120], []).append((case, str(error)))

        settings(max_examples=examples, database=None, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])(
            seed(number)(given(KINDS[kind]())(holds)))()
        codes = [code for code, *_ in arena.said]
    print(f"{kind}: {count[0]} examples, seed {number}, {time.process_time() - begun:.0f} s of CPU time, exit codes "
          + ", ".join(f"{code}: {codes.count(code)}" for code in sorted(set(codes))) + f", {len(failures)} kinds of failure", flush=True)
    for found in failures.values():
        case, said = min(found, key=lambda each: len(shown(each[0])))
        print(f"  {len(found)} times: {said[:600]}\n  {shown(case)}".encode("utf-8", "backslashreplace").decode(), flush=True)
    return len(failures)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=1000, help="of each kind")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS), metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--seed", type=int, default=None)
    chosen = parser.parse_args()
    number, broken = random.SystemRandom().randrange(10**6) if chosen.seed is None else chosen.seed, 0
    for kind in chosen.kinds:
        with tempfile.TemporaryDirectory() as folder:
            process = os.fork()
            if process == 0:
                code = 2
                try:
                    code = min(1, tried(kind, chosen.examples, number, Path(folder)))
                finally:
                    os._exit(code)
            _, status = os.waitpid(process, 0)
            if os.WIFSIGNALED(status):
                current = Path(folder) / "current"
                trying = current.read_text() if current.exists() else "nothing yet"
                print(f"{kind}: KILLED by {signal.Signals(os.WTERMSIG(status)).name}, seed {number}, trying\n  {trying}")
            broken += status != 0
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
