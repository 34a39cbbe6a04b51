"""The loop, the draws, and how long it takes to be there."""
from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import torch

from benchmarks.measure import interleaved, table
from rheos.core import Draws, StopWhen, evolve

STEPS = 100_000


@dataclass
class Count:
    step: int = 0


@dataclass(frozen=True)
class Tick:
    def step(self, state: Count) -> Count:
        state.step += 1
        return state


def look(step: int, state: Count) -> None: ...


def loop() -> tuple[str, str, str, str, str]:
    def bare() -> None:
        state, step = Count(), Tick().step
        for _ in range(STEPS):
            state = step(state)

    watchers = (look, look, StopWhen(lambda s: False))
    ours, peer, _ = interleaved(lambda: evolve(Tick(), Count(), STEPS, watch=watchers), bare)
    return ("evolve with three watchers, against a bare for loop", f"{ours / STEPS * 1e6:.2f} us", f"{peer / STEPS * 1e6:.2f} us",
            f"adds {(ours - peer) / STEPS * 1e6:.2f} us a step", "at most 2")


def draws() -> list[tuple[str, str, str, str, str]]:
    family, philox, k = Draws(0), np.random.Generator(np.random.Philox(0)), iter(range(10**9))
    rows = []
    for shape, ahead, repeat in (((256, 784), False, 20), ((256, 2), False, 1280), ((256, 2), True, 1280)):
        peers = {"torch.randn": lambda s=shape: torch.randn(s), "NumPy Philox": lambda s=shape: philox.standard_normal(s, dtype=np.float32)}
        for name, peer in peers.items():
            mine = lambda s=shape, a=ahead, n=repeat: [family.rows("x", next(k), s, ahead=a) for _ in range(n)]
            ours, theirs, ratio = interleaved(mine, lambda p=peer, n=repeat: [p() for _ in range(n)], 11)
            rows.append((f"normal draws {shape}{', drawn ahead' if ahead else ''}, against {name}", f"{ours / repeat * 1e6:.0f} us",
                         f"{theirs / repeat * 1e6:.0f} us", f"{ratio:.2f}x", ""))
    return rows


def cpu_seconds(code: str) -> float:
    """CPU seconds of a fresh interpreter that runs `code`, the least of five."""
    probe = f"import time\nimport torch\nbegun = time.process_time()\n{code}\nprint(time.process_time() - begun)"
    return min(float(subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stdout) for _ in range(5))


def imports() -> list[tuple[str, str, str, str, str]]:
    bare = cpu_seconds("import rheos")
    all_rooms = cpu_seconds("import rheos, rheos.core, rheos.paths, rheos.samplers")
    found = subprocess.run([sys.executable, "-X", "importtime", "-m", "rheos.cli", "--help"], capture_output=True, text=True, check=True).stderr
    loads_torch = any(line.rsplit("|", 1)[-1].strip() == "torch" for line in found.splitlines())
    return [("import rheos, above import torch", f"{bare:.3f} s", "", "", "at most 0.3"),
            ("import rheos with core, paths and samplers, above import torch", f"{all_rooms:.3f} s", "", "", "at most 0.3"),
            ("rheos --help imports torch", "yes" if loads_torch else "no", "", "", "no")]


if __name__ == "__main__":
    table("core", [loop(), *draws(), *imports()])
