"""Run folders: run.toml with everything that decides a run, and beside it trace.jsonl, checkpoint/, model/, samples/, report.html.

run.toml is written first and never changed. A folder whose model/ is missing is a run that has not ended; `learn` goes on with it.
"""
from __future__ import annotations

import hashlib
import json
import os
import platform
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import rheos
from rheos.cli.errors import Failure, Usage
from rheos.cli.settings import check_source, defaults, degraded, prepare, read_both, settled, steps_within_budget

if TYPE_CHECKING:
    from torch import Tensor

    from rheos.data import Dataset
    from rheos.models import MaskedTraining, Model, Training

__all__ = ["Run", "Stopped", "check_writable", "draws_from_noise", "find_model", "found_well", "learn", "loaded", "one_thread"]

FORMAT = 1
MOST_THREADS = 4096
OPEN = {"batch": int, "rate": float, "width": int, "depth": int, "dropout": float, "predicts": str, "task": str}     # settings without a default of their own
PARTS = ("run.toml", "trace.jsonl", "checkpoint", "model", "model.json")     # what shows that a folder holds a run, whole or in ruins
TRACE_EVERY, SHORT_RUN = 10, 100                               # steps between rows of the trace; runs shorter than this are traced step by step


_KINDS = {dict: "a table", str: "a text", int: "a whole number", float: "a number", bool: "true or false"}


class Stopped(Failure):
    """Ctrl-C ended the work, which was put away in good order; the message tells how to go on."""

    exit_code = 130

    def format_message(self) -> str:
        return str(self)


@contextmanager
def found_well() -> Iterator[None]:
    """What is wrong with something found in a folder is a failure (1), not wrong usage (2)."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise Failure(str(error)) from error


def check_writable(path: Path) -> None:
    """Failure if a file could not be made at `path`, without making anything."""
    if path.is_dir():
        raise Failure(f"{path} is a folder, so no file can be written there")
    place = next(parent for parent in path.absolute().parents if os.path.lexists(parent))      # a link that leads nowhere is in the way too
    if not place.is_dir():
        raise Failure(f"{path} cannot be written: {place} is not a folder")
    if not os.access(place, os.W_OK):
        raise Failure(f"{path} cannot be written: {place} is not writable")


def one_thread() -> None:
    """One torch thread unless the user has said otherwise: for networks as small as ours a second one gains little, and on a busy machine both
    spend their time waiting for each other."""
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)


@dataclass(frozen=True)
class Run:
    """One run. data: {"name", "held_out" for files, "reading": how they are read, "sha256", "rows"}; settings: see `settled`; versions, machine:
    where it began; budget: the seconds that chose its steps, 0 where they were given."""

    folder: Path
    data: dict[str, Any]
    settings: dict[str, Any]
    versions: dict[str, str] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    command: str = ""
    created: str = ""
    budget: float = 0.0

    @property
    def steps(self) -> int:
        return self.settings["steps"]

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoint"

    @property
    def model(self) -> Path:
        return self.folder / "model"

    @property
    def trace(self) -> Path:
        return self.folder / "trace.jsonl"

    @property
    def finished(self) -> bool:
        return (self.model / "model.json").is_file()

    @classmethod
    def begin(cls, folder: Path, name: str, chosen: dict[str, Any], *, held_out: float | None = None, reading: dict[str, Any] | None = None,
              budget: float | None = None, source: str | None = None) -> tuple[Run, Training | MaskedTraining]:
        """A new run, with everything checked before run.toml, the first file, is written.

        chosen: settings; reading: options of `data.load`; budget: seconds, for as many steps as will fit; source: the data that a bridge comes from.
        Failure if the folder holds a run or cannot be written; ValueError for data and settings.
        """
        there = [part for part in PARTS if (folder / part).exists()]
        if there:
            raise Failure(f"{folder} already holds a run ({there[0]}): go on with it by rheos train --resume {folder}, or give another --out")
        check_writable(folder / "run.toml")
        one_thread()
        settings, reading = settled(chosen), {key: value for key, value in (reading or {}).items() if value is not None}
        check_source(settings, source)
        data, start = read_both(name, source, held_out, reading, settings)
        if budget is not None:
            settings["steps"] = steps_within_budget(budget, data, start, settings)
        prepared = prepare(data, start, settings)
        command = _command(name, held_out, reading, folder, settings, source)
        # What was left to the network to choose is written down, so that the run does not depend on what later versions would choose.
        settings |= {"batch": prepared.descent.batch, "rate": prepared.card["rate"]}
        from rheos.data.sources import NAMES

        placed = lambda called: called if called in NAMES else str(Path(called).absolute())
        about = {"name": placed(name)} | ({} if held_out is None else {"held_out": held_out})
        about |= {"reading": reading, "rows": len(data), "sha256": content_hash(data)}
        if start is not None:
            about |= {"source": placed(source), "source_sha256": content_hash(start)}
        run = cls(folder, about, settings, versions(), _machine(), command,
                  datetime.now(UTC).isoformat(timespec="seconds"), float(budget or 0.0))
        run._write()
        return run, prepared

    def _write(self) -> None:
        import tomli_w

        from rheos.core.files import write_bytes

        content = {"format": FORMAT, **{name: value for name, value in asdict(self).items() if name != "folder"}}
        write_bytes(self.folder / "run.toml", tomli_w.dumps(content).encode())

    @classmethod
    def open(cls, folder: Path) -> Run:
        """The run in `folder`. Failure if there is none, or if run.toml is damaged or of another format."""
        place = folder / "run.toml"
        if not place.is_file():
            raise Failure(f"{folder} holds no run: {place} does not exist")
        try:
            found = tomllib.loads(place.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise Failure(f"{place} is damaged: not TOML ({error})") from None
        form = found.pop("format", None)
        if form != FORMAT:
            raise Failure(f"{place}: run folder of another version, its format is {form} and rheos {rheos.__version__} reads {FORMAT}")
        try:
            run = cls(folder, **found)
        except TypeError as error:
            raise Failure(f"{place} is damaged: {error}") from None
        wrong = run._wrong()
        if wrong is not None:
            raise Failure(f"{place} is damaged: {wrong}")
        return run

    def _wrong(self) -> str | None:
        """What in run.toml is missing or of another kind than what `begin` writes; None if nothing is. Ranges are for those that use the values."""
        for name in ("data", "settings", "versions", "machine", "command", "created"):
            if not isinstance(getattr(self, name), dict if name in ("data", "settings", "versions", "machine") else str):
                return f"{name} is {getattr(self, name)!r}"
        usual = defaults()
        unknown = sorted(set(self.settings) - set(usual))
        if unknown:
            return f"unknown settings {', '.join(unknown)}"
        known = {"data": {"name": str, "sha256": str, "rows": int, "held_out": float, "reading": dict, "source": str, "source_sha256": str},
                 "machine": {"threads": int, "cores": int},
                 "settings": OPEN | {name: type(value) for name, value in usual.items() if value is not None}, "versions": dict.fromkeys(self.versions, str)}
        needed = {"data": ("name", "sha256", "rows"), "settings": ("path", "coupling", "seed", "steps", "every")}
        for part, kinds in known.items():
            found = getattr(self, part)
            missing = [name for name in needed.get(part, ()) if name not in found]
            if missing:
                return f"{part} lacks {', '.join(missing)}"
            for name, kind in kinds.items():
                value = found.get(name)
                if name in found and type(value) is not kind and not (kind is float and type(value) is int):
                    return f"{part}.{name} must be {_KINDS[kind]}, got {value!r}"
        for name, low, high in (("settings.every", 1, None), ("settings.steps", 1, None), ("machine.threads", 1, MOST_THREADS)):
            part, _, key = name.partition(".")
            value = getattr(self, part).get(key, low)
            if value < low or (high is not None and value > high):
                return f"{name} must be at least {low}{'' if high is None else f' and at most {high}'}, got {value}"
        return None

    def dataset(self) -> Dataset:
        """The run's data, loaded again. Failure if they are not what the run began with."""
        return self.datasets()[0]

    def datasets(self) -> tuple[Dataset, Dataset | None]:
        """The run's data and, of a bridge, those that it comes from, loaded again. Failure if they are not what the run began with."""
        about = self.data
        with found_well():
            data, source = read_both(about["name"], about.get("source"), about.get("held_out"), about.get("reading", {}), self.settings)
        for found, name, digest in ((data, about["name"], about["sha256"]), (source, about.get("source"), about.get("source_sha256"))):
            if found is not None and content_hash(found) != digest:
                raise Failure(f"{name} has changed since the run in {self.folder} began, so it cannot go on or be judged with it")
        return data, source

    def prepared(self) -> Training | MaskedTraining:
        """The run's start, built again from run.toml."""
        import torch

        if "threads" in self.machine:
            torch.set_num_threads(self.machine["threads"])      # sums split otherwise round otherwise
        data, source = self.datasets()
        try:
            return prepare(data, source, self.settings)
        except (ValueError, TypeError) as error:
            raise Failure(f"{self.folder / 'run.toml'}: {error}") from error

    def starts(self) -> Tensor | None:
        """What samples of a two-sided run are made from, in the data's units: held-out rows of the source, or what the task leaves of the data's."""
        data, source = self.datasets()
        judged = lambda found: (found if found.held_out is None else found.held_out).x
        if source is not None:
            return judged(source)
        return None if self.settings.get("task") is None else degraded(self.settings["task"], data.event)(judged(data))

    def rows(self) -> list[dict[str, float]]:
        """The rows of the trace."""
        from rheos.core.watchers import read_rows

        with found_well():
            return read_rows(self.trace) if self.trace.is_file() else []


def learn(run: Run, prepared: Training | MaskedTraining, *, tensorboard: bool = False) -> Model:
    """Train to the end, from the last checkpoint if there is one, and save the model. Stopped at Ctrl-C; Failure for a damaged checkpoint."""
    from rheos.core import Checkpoint, Progress, TensorBoard, Trace, evolve, latest_checkpoint, load_state

    state = prepared.start
    found = latest_checkpoint(run.checkpoints)
    if found is not None:
        try:
            state = load_state(found, state, about=prepared.about)
        except ValueError as error:
            # A changed run.toml is not mended by another checkpoint, a damaged checkpoint is.
            way = f"put {run.folder / 'run.toml'} back as it was" if "saved by another run" in str(error) else \
                "without that file the run goes on from the checkpoint before it"
            raise Failure(f"{error}; {way}") from error
        if state.step > run.steps:
            raise Failure(f"{found} is at step {state.step}, beyond the {run.steps} steps of {run.folder / 'run.toml'}")
    for left in (*run.checkpoints.glob(".step-*"), *run.folder.glob(".trace.jsonl.*"), *run.model.glob(".model*")):     # what a killed run was just writing
        left.unlink(missing_ok=True)
    figures = {"loss": lambda state: state.loss, "norm": lambda state: state.norm}
    trace = Trace(figures | _clocks(run, state.step), every=TRACE_EVERY if run.steps >= SHORT_RUN else 1, path=run.trace)
    watchers = [Progress("step", figures={"loss": figures["loss"]}), trace, Checkpoint(run.checkpoints, run.settings["every"], about=prepared.about)]
    if tensorboard:
        watchers.append(TensorBoard(run.folder / "tensorboard", figures))
    end = evolve(prepared.descent, state, run.steps - state.step, watch=watchers, donate=True)
    if end.step < run.steps:
        raise Stopped(f"stopped at step {end.step} of {run.steps} and saved (a model is written at the end only); "
                      f"go on with: rheos train --resume {run.folder}")
    model = prepared.model(end)
    model.card["command"] = run.command
    if model.encoding is not None and "label" in run.data.get("reading", {}):
        model.card["label_column"] = run.data["reading"]["label"]       # taken out of the rows, so samples get it back from here
    model.save(run.model)
    return model


def _clocks(run: Run, step: int) -> dict[str, Any]:
    """CPU and wall seconds since the run began, for the trace. Work that was lost with a killed run is not counted, like its steps."""
    last = next((row for row in reversed(run.rows()) if row["step"] <= step), {})
    cpu, wall = time.process_time(), time.monotonic()
    return {"cpu_seconds": lambda _: round(last.get("cpu_seconds", 0.0) + time.process_time() - cpu, 3),
            "wall_seconds": lambda _: round(last.get("wall_seconds", 0.0) + time.monotonic() - wall, 3)}


def find_model(folder: Path) -> tuple[Path, Path]:
    """(where the model is, where samples go) for a run folder or a model folder. Failure if it holds neither, or a run that has not ended."""
    if (folder / "model" / "model.json").is_file():
        return folder / "model", folder / "samples"
    if (folder / "model.json").is_file():
        return folder, folder / "samples"
    if (folder / "run.toml").is_file():
        raise Failure(f"the run in {folder} has not ended, so it has no model: go on with rheos train --resume {folder}")
    raise Failure(f"{folder} holds neither a run nor a model" if folder.is_dir() else f"{folder} does not exist")


def loaded(folder: Path) -> tuple[Model, Path]:
    """(the model of a run folder or a model folder, where its samples go); that of a bridge knows the run's held-out rows to begin at."""
    from rheos.models import load

    place, samples = find_model(folder)
    with found_well():
        model = load(place)
    if getattr(model, "source", None) is not None and (folder / "run.toml").is_file():
        model.sources = Run.open(folder).starts()
    return model, samples


def draws_from_noise(model: Model) -> bool:
    """Whether a model is a flow that begins at noise: neither hidden tokens nor rows of another domain."""
    return hasattr(model.field, "predicts") and not model.field.path.two_sided


def content_hash(data: Dataset) -> str:
    """SHA-256 of all examples, labels and captions, training and held out, and of what they stand for: the same for a file that was copied."""
    digest = hashlib.sha256()
    for part in (data, data.held_out):
        for values in () if part is None else (part.x, part.y):
            if values is not None:
                digest.update(f"{tuple(values.shape)} {values.dtype};".encode())
                digest.update(values.contiguous().numpy())
        for text in () if part is None or part.captions is None else part.captions:
            digest.update(text.encode() + b"\0")
    digest.update(json.dumps([data.labels, None if data.encoding is None else data.encoding.to_json()], sort_keys=True).encode())
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """What the numbers of a run may depend on."""
    import numpy
    import torch

    return {"rheos": rheos.__version__, "torch": torch.__version__, "numpy": numpy.__version__, "python": platform.python_version()}


def _machine() -> dict[str, Any]:
    import torch

    return {"system": f"{platform.system()} {platform.machine()}", "cores": os.cpu_count() or 1, "threads": torch.get_num_threads()}


def _command(name: str, held_out: float | None, reading: dict[str, Any], folder: Path, settings: dict[str, Any], source: str | None = None) -> str:
    """The command line that makes this run again: what differs from the defaults, and the seed."""
    import shlex

    words = ["rheos", "train", *([] if source is None else [source]), name, "--out", str(folder)]
    words += [] if held_out is None else ["--held-out", f"{held_out:g}"]
    usual = defaults()
    for key, value in [*reading.items(), *settings.items()]:
        if (key == "seed" or value != usual.get(key)) and key != "device":
            words += [f"--{key.replace('_', '-')}"] + ([] if value is True else [str(value)])
    return shlex.join(words)


def refuse_with_resume(given: dict[str, Any]) -> None:
    """Usage error if anything that run.toml holds was given beside --resume."""
    extra = [name for name, value in given.items() if value is not None and value is not False]
    if extra:
        raise Usage(f"--resume takes everything from the run folder, so leave out {', '.join(extra)}")
