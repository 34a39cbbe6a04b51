"""From the words of a command line to a training run: which data, which path, which task, and the arguments that they stand for."""
from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rheos.data import Dataset
    from rheos.models import MaskedTraining, Training

__all__ = ["PREDICTS", "check_source", "defaults", "degraded", "prepare", "read_both", "settled", "steps_within_budget"]

PATHS = ("linear", "cosine", "vp", "ve", "edm", "kinetic", "student", "shortest", "masked", "residual", "bridge")
COUPLINGS = ("independent", "ot", "paired")
TASKS = ("superres", "inpaint", "colour")           # what a residual path may learn to undo, with its number
USUAL = {"superres": 4.0, "inpaint": 0.5}
DOF = 128.0                                         # of Student noise
DITHER = 0.02                                       # standard deviation of noise that gives every frequency some power
PREDICTS = ("velocity", "v", "noise", "data")        # what networks learn well; a score is a noise divided by a sigma that goes to 0
SEPARATION_ROWS = 1000      # of the data, by which a kinetic-optimal path is chosen


def defaults() -> dict[str, Any]:
    """All settings of a run with the library's own defaults: those of `Training.prepare`, and `every`, the steps between checkpoints."""
    import inspect

    from rheos.models import Training, train

    given = {name: p.default for name, p in inspect.signature(Training.prepare).parameters.items() if p.kind is p.KEYWORD_ONLY}
    known = {name: value for name, value in given.items() if name not in ("path", "when", "coupling", "unit_input", "source")} | {"task": None}
    return known | {"net": "auto", "path": "linear", "coupling": "independent", "every": inspect.signature(train).parameters["every"].default}


def settled(chosen: dict[str, Any]) -> dict[str, Any]:
    """All settings: those chosen, the defaults of the rest (TOML has no None, so a setting that is None is left out)."""
    from rheos.core import checks
    from rheos.models import pick_device

    settings = defaults() | {name: value for name, value in chosen.items() if value is not None}
    _path_named(settings["path"])
    checks.one_of("coupling", settings["coupling"], COUPLINGS)
    if settings.get("task") is not None:
        _task_named(settings["task"])
    if settings.get("predicts") is not None:
        checks.one_of("predicts", settings["predicts"], PREDICTS)
    checks.integer("every", settings["every"], least=1)
    settings["device"] = str(pick_device(settings["device"]))           # a run that began on a GPU goes on there, or says why not
    return {name: value for name, value in settings.items() if value is not None}


def read(name: str, held_out: float | None, reading: dict[str, Any]) -> Dataset:
    from rheos.data import Dataset, load

    data = load(name, held_out=held_out, **reading)
    if not isinstance(data, Dataset):
        raise ValueError(f"{name} is a {type(data).__name__}, and a flow is learned of rows of numbers: load it in Python with rheos.data.load")
    return data


def read_both(name: str, source: str | None, held_out: float | None, reading: dict[str, Any], settings: dict[str, Any]) -> tuple[Dataset, Dataset | None]:
    """The data and, of a bridge, those that it comes from; of pairs the same rows are held out on both sides."""
    if source is None:
        return read(name, held_out, reading), None
    if settings["coupling"] != "paired":
        return read(name, held_out, reading), read(source, held_out, reading)
    from rheos.data.sources import DEFAULT_HELD_OUT, NAMES

    for one in (name, source):
        if one in NAMES:
            raise ValueError(f"coupling paired needs two files or folders whose rows belong together, got {one}")
    both = [read(one, 0.0, reading) for one in (name, source)]
    if len(both[0]) != len(both[1]):
        raise ValueError(f"coupling paired needs as many rows on both sides, {source} has {len(both[1]):,} and {name} {len(both[0]):,}")
    data, start = (_parted(one, DEFAULT_HELD_OUT if held_out is None else held_out) for one in both)
    return data, start


def _parted(data: Dataset, share: float) -> Dataset:
    """`data` with a share of its rows held out, by their number."""
    from dataclasses import replace

    from rheos.core import Draws

    order = Draws(0).permutation("held-out pairs", 0, len(data))
    cut = min(int(share * len(data)), len(data) - 1)
    take = lambda rows, held_out=None: replace(data, x=data.x[rows], y=None if data.y is None else data.y[rows], held_out=held_out,
                                               captions=None if data.captions is None else tuple(data.captions[i] for i in rows.tolist()))
    return take(order[cut:].sort().values, take(order[:cut].sort().values) if cut else None)


def check_source(settings: dict[str, Any], source: str | None) -> None:
    """ValueError for settings that two data sets, or one, cannot have."""
    path = _path_named(settings["path"])[0]
    if (source is not None) != (path == "bridge"):
        raise ValueError("path bridge runs from one data set to another: rheos train FROM TO --path bridge" if source is None
                         else f"two data sets need path bridge, got {settings['path']}")
    if settings.get("task") is not None and path != "residual":
        raise ValueError(f"task belongs to path residual, got {settings['path']}")
    if settings["coupling"] == "paired" and path != "bridge":
        raise ValueError(f"coupling paired belongs to path bridge, got {settings['path']}")
    if settings["coupling"] == "ot" and path in ("residual", "masked"):
        raise ValueError(f"coupling ot has no meaning on path {settings['path']}")


def _path_named(text: str) -> tuple[str, float]:
    """A path's name and the number behind its colon: student:64 is Student noise of 64 degrees of freedom."""
    from rheos.core import checks

    name, colon, number = text.partition(":")
    checks.one_of("path", name, PATHS)
    if not colon:
        return name, DOF
    if name != "student":
        raise ValueError(f"path {name} takes no number, got {text!r}")
    return name, checks.positive("the degrees of freedom of path student", _number(text, number))


def _task_named(text: str) -> tuple[str, float]:
    """A task and its number: superres:4 shrinks by 4, inpaint:0.5 hides a square of half the side."""
    from rheos.core import checks

    name, colon, number = text.partition(":")
    checks.one_of("task", name, TASKS)
    if not colon:
        return name, USUAL.get(name, 0.0)
    if name == "colour":
        raise ValueError(f"task colour takes no number, got {text!r}")
    value = _number(text, number)
    if name == "superres" and (value < 2 or value != int(value)):
        raise ValueError(f"task superres takes a whole number of 2 or more, got {text!r}")
    if name == "inpaint" and not 0 < value < 1:
        raise ValueError(f"task inpaint takes a share between 0 and 1, got {text!r}")
    return name, value


def _number(whole: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"what stands behind the colon must be a number, got {whole!r}") from None


def degraded(task: str, event: tuple[int, ...]) -> Any:
    """What the task leaves of images, as images again: a function of rows."""
    from rheos.cli.degrading import operator_of

    name, number = _task_named(task)
    if len(event) != 3 or event[0] not in (1, 3):
        raise ValueError(f"task needs grey or colour images, channels first, got samples of shape {tuple(event)}")
    operator = operator_of(name, event, None, number if name == "inpaint" else 0.5, int(number) if name == "superres" else 2)
    return lambda x: operator.pinv(operator.forward(x))


def _training(data: Dataset, source: Dataset | None, settings: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `Training.prepare` that the settings stand for."""
    from rheos.core import Draws, checks
    from rheos.couplings import Independent, MinibatchOT, Paired
    from rheos.metrics import power_spectrum
    from rheos.models import Standardise
    from rheos.paths import Path as ProbabilityPath
    from rheos.paths import Student, data_separation

    if "predicts" in settings:
        checks.one_of("predicts", settings["predicts"], PREDICTS)
    name, dof = _path_named(settings["path"])
    start: Any = source
    if name in ("kinetic", "shortest"):
        transform = Standardise.fit(data.x, data.bounds) if data.encoding is None else Standardise.none(data.x)
    if name == "kinetic":
        path = ProbabilityPath.kinetic_optimal(data_separation(transform.forward(data.x[:SEPARATION_ROWS]), seed=settings["seed"]))
    elif name == "shortest":
        if len(data.event) != 3 or data.encoding is not None or min(data.event[1:]) < 4:
            raise ValueError(f"path shortest needs images, channels first, got samples of shape {tuple(data.event)}")
        x = transform.forward(data.x)
        path = ProbabilityPath.shortest(power_spectrum(x + DITHER * Draws(0).rows("dither", 0, tuple(x.shape)), smooth=True))
    elif name == "student":
        path = ProbabilityPath.edm(noise=Student(dof))
    elif name == "residual":
        # To restore a little noise, to generate as much as the data vary.
        task = settings.get("task")
        path, start = (ProbabilityPath.residual(1.0), None) if task is None else (ProbabilityPath.residual(0.1), degraded(task, data.event))
    elif name == "bridge":
        path = ProbabilityPath.interpolant()
    else:
        path = getattr(ProbabilityPath, name)()
    coupling = {"independent": Independent, "ot": MinibatchOT, "paired": Paired}[checks.one_of("coupling", settings["coupling"], COUPLINGS)]
    known = {key: value for key, value in settings.items() if key not in ("path", "every", "coupling", "task")}
    return known | {"path": path, "coupling": coupling, "source": start}


def _masked(settings: dict[str, Any]) -> dict[str, Any]:
    """The arguments of `MaskedTraining.prepare`. ValueError for a setting that only flows know."""
    for name in ("predicts",):
        if settings.get(name) is not None:
            raise ValueError(f"{name} has no meaning on path masked, got {settings[name]}")
    return {key: value for key, value in settings.items() if key not in ("path", "every", "coupling", "task")}


def prepare(data: Dataset, source: Dataset | None, settings: dict[str, Any]) -> Training | MaskedTraining:
    from rheos.models import MaskedTraining, Training

    if settings["path"] == "masked":
        return MaskedTraining.prepare(data, **_masked(settings))
    return Training.prepare(data, **_training(data, source, settings))


def steps_within_budget(budget: float, data: Dataset, source: Dataset | None, settings: dict[str, Any]) -> int:
    from rheos.models.running import MOST_TIMED, fitting

    return fitting(prepare(data, source, settings | {"steps": MOST_TIMED + 2}), budget)
