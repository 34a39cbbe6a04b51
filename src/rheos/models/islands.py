"""Islands: processes that train one model each and hear nothing of one another.

An island is a folder. It holds what its process is given (`rows.safetensors`: its own rows and the scale that all share; `settings.json`) and what it
leaves (`model/`; `ledger.json`: every file and socket that it opened; `log.txt`). While it trains, `state/` holds checkpoints, so that an island that
died is taken up alone where it was. Nothing is pickled.
"""
from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path as FilePath
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

import rheos
from rheos.core import Checkpoint, checks, evolve, latest_checkpoint, load_state
from rheos.core.files import load_json, save_json, save_tensors, tensor_bytes
from rheos.couplings import Independent
from rheos.data import Dataset
from rheos.models.learn import Training
from rheos.models.transforms import Standardise
from rheos.paths import Path

__all__ = ["Ledger", "prepare_island", "run_islands", "train_island"]

ENTRY = "import sys; from rheos.models.islands import main; main(sys.argv[1])"
OPENS, SOCKETS = "open", ("socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg")
POLL_SECONDS = 0.02


class Ledger:
    """Which files Python opened inside the `with`, by whose they are, and how many sockets.

    folder: the island's own. own, foreign: {file: bytes} of files opened in it, and in its parent folder outside of it, where its siblings are.
    Files that a library opens without Python are not seen; islands read their rows through Python for that reason.
    """

    _open: Ledger | None = None
    _hooked = False

    def __init__(self, folder: str | FilePath):
        self.folder = FilePath(folder).resolve()
        self.own: dict[str, int] = {}
        self.foreign: dict[str, int] = {}
        self.sockets = 0

    def __enter__(self) -> Ledger:
        if not Ledger._hooked:      # a hook cannot be taken away again
            sys.addaudithook(Ledger._heard)
            Ledger._hooked = True
        Ledger._open = self
        return self

    def __exit__(self, *_: Any) -> None:
        Ledger._open = None
        for kept in (self.own, self.foreign):       # what was opened to be written has its size only now
            kept.update({name: max(size, _size(name)) for name, size in kept.items()})

    @staticmethod
    def _heard(event: str, arguments: tuple) -> None:
        ledger = Ledger._open
        if ledger is None:
            return
        if event in SOCKETS:
            ledger.sockets += 1
        elif event == OPENS and isinstance(arguments[0], str | bytes | os.PathLike):
            place = FilePath(os.path.abspath(os.fsdecode(arguments[0])))
            kept = ledger.own if place.is_relative_to(ledger.folder) else ledger.foreign if place.is_relative_to(ledger.folder.parent) else None
            if kept is not None:
                kept[str(place)] = max(kept.get(str(place), 0), _size(place))


def _size(place: str | FilePath) -> int:
    try:
        return os.stat(place).st_size
    except OSError:
        return 0


def prepare_island(folder: str | FilePath, tensors: Mapping[str, Tensor], settings: Mapping[str, Any], *, resume: bool = False) -> FilePath:
    """Write what the island in `folder` is given. With `resume` what is there is kept, if it is the same.

    ValueError if the folder holds an island already and `resume` is False, or if it holds another one.
    """
    folder = FilePath(folder)
    if (folder / "settings.json").is_file():
        if not resume:
            raise ValueError(f"folder {folder} holds an expert already: pass resume=True to go on with it, or another folder")
        kept = load_json(folder / "settings.json")
        changed = [name for name in sorted({*kept, *settings}) if kept.get(name) != settings.get(name)]
        rows = folder / "rows.safetensors"
        if changed or not rows.is_file() or rows.read_bytes() != tensor_bytes(tensors):
            raise ValueError(f"folder {folder} holds an expert of another run: {', '.join(changed) or 'its rows'} differ")
        return folder
    save_tensors(folder / "rows.safetensors", tensors)
    save_json(folder / "settings.json", settings)       # last: an island without settings has not begun
    return folder


def train_island(folder: str | FilePath) -> None:
    """Train the island in `folder`, from its last checkpoint if there is one, and leave its model there. Nothing if it has one already.

    An island that Ctrl-C stops leaves a checkpoint and no model, and exits with code 130.
    """
    folder = FilePath(folder)
    if (folder / "ledger.json").is_file():
        return
    begun = time.process_time()
    with Ledger(folder) as ledger:
        told = load_json(folder / "settings.json")
        run = _prepared(safetensors.torch.load((folder / "rows.safetensors").read_bytes()), told)
        found, state, steps = latest_checkpoint(folder / "state"), run.start, told["steps"]
        if found is not None:
            state = load_state(found, state, about=run.about)
        resumed = state.step
        end = evolve(run.descent, state, steps - state.step, watch=[Checkpoint(folder / "state", told["every"], about=run.about)], donate=True)
        if end.step < steps:
            raise SystemExit(130)
        run.model(end).save(folder / "model")
    save_json(folder / "ledger.json", {"cpu_seconds": time.process_time() - begun, "resumed_at": resumed, "sockets": ledger.sockets,
                                       "own_bytes": sum(ledger.own.values()), "foreign": ledger.foreign})
    shutil.rmtree(folder / "state", ignore_errors=True)


def _prepared(tensors: Mapping[str, Tensor], told: Mapping[str, Any]) -> Training:
    """The run on this island's rows in the scale that all islands share, which is not that of its own rows."""
    x, y = tensors["x"], tensors.get("y")
    shared = Standardise(tensors["transform.mean"], tensors["transform.std"], None if told["bounds"] is None else tuple(told["bounds"]))
    data = x if x.dtype == torch.float64 else Dataset(told["name"], x, y, bounds=shared.bounds, classes=told["classes"],
                                                      labels=None if told["labels"] is None else tuple(told["labels"]))
    run = Training.prepare(data, told["net"], steps=told["steps"], path=Path.from_json(told["path"]), seed=told["seed"], **told["settings"])
    where = next(run.start.net.parameters()).device
    cond = y.to(where) if run.conditions.kind == "label" else None
    rows = Independent(shared.forward(x).to(where), cond=cond)
    about = run.about | {"transform": [shared.mean.tolist(), shared.std.tolist()]}
    return replace(run, transform=shared, descent=replace(run.descent, coupling=rows), about=about)


def run_islands(folders: Sequence[str | FilePath], processes: int = 2) -> dict[int, str]:
    """Train every island in a process of its own, one thread each, at most `processes` at once. Returns {place: how it failed}, {} if all went well.

    The failure of one island does not touch the others. Ctrl-C ends them all; each leaves its checkpoints. processes = 0: one after the other in
    this process, which saves small runs the seconds that a process takes to begin; an error then is the caller's.
    """
    if checks.integer("processes", processes, least=0) == 0:
        for folder in folders:
            train_island(folder)
        return {}
    source = str(FilePath(rheos.__file__).parents[1])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(
        [source, *filter(None, [os.environ.get("PYTHONPATH")])])}
    waiting = [(k, FilePath(folder).resolve()) for k, folder in enumerate(folders)]
    running: dict[int, tuple[subprocess.Popen, FilePath]] = {}
    failed: dict[int, str] = {}
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                k, folder = waiting.pop(0)
                with open(folder / "log.txt", "wb") as log:
                    running[k] = subprocess.Popen([sys.executable, "-P", "-c", ENTRY, str(folder)], cwd=folder, stdin=subprocess.DEVNULL, stdout=log,
                                                  stderr=subprocess.STDOUT, env=environment), folder
            for k, (process, folder) in list(running.items()):
                if process.poll() is not None:
                    del running[k]
                    if process.returncode or not (folder / "ledger.json").is_file():
                        failed[k] = _last_words(folder, process.returncode)
            time.sleep(POLL_SECONDS)
    finally:
        for process, _ in running.values():
            process.terminate()
        for process, _ in running.values():
            process.wait()
    return failed


def _last_words(folder: FilePath, code: int) -> str:
    said = (folder / "log.txt").read_text(errors="replace").strip().splitlines()
    return f"exit code {code}" + (f", {said[-1].strip()[:300]}" if said else "")


def main(folder: str) -> None:
    """What an island's process does."""
    torch.set_num_threads(1)
    train_island(folder)
