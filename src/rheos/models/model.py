"""Model: everything that turns a seed into data in the user's own units, in one folder of two files."""
from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path as FilePath
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

import rheos
from rheos.core import Draws, Watcher, checks
from rheos.core.files import load_json, load_tensors, rheos_class
from rheos.data import Encoding, encoding_from_json
from rheos.models.conditions import Conditions
from rheos.models.devices import pick_device
from rheos.models.folder import write_model
from rheos.models.transforms import Standardise
from rheos.paths import Field, Path, Residual, Times
from rheos.samplers import AdaptiveRungeKutta, Rule, Table, sample

__all__ = ["Model", "load"]

FORMAT, READABLE = 2, (1, 2)       # 1 knew neither encodings nor names of classes


class Model:
    """A trained field with what belongs to it.

    field: the averaged network on its path. transform: from the user's units to the network's and back. event: shape of one sample.
    conditions: what it can be asked for. encoding: what its rows stand for where the data were not arrays (a table's columns, text), or None.
    card: what it is: data, settings, figures (JSON-able). source: on a two-sided path, from the source's own units to the network's; None if it
    begins at zeros. `sources` (rows, *event), which may be set, are what `sample` begins at where it is given none: rows drawn at random, or,
    with `in_order`, one after the other.
    """

    def __init__(self, field: Field, transform: Standardise, event: tuple[int, ...], *, conditions: Conditions | None = None,
                 encoding: Encoding | None = None, card: dict | None = None, source: Standardise | None = None):
        self.source, self.sources, self.in_order = source, None, False
        self.field, self.transform, self.event = field, transform, tuple(checks.integer("event", size, least=1) for size in event)
        self.conditions, self.encoding = Conditions() if conditions is None else conditions, encoding
        if card is not None and not isinstance(card, dict):
            raise TypeError(f"card must be a dict, got {type(card).__name__}")
        self.card = dict(card or {})

    @property
    def classes(self) -> int | None:
        """How many classes it can be asked for, or None."""
        return self.conditions.classes

    @property
    def labels(self) -> tuple[str, ...] | None:
        """The classes' names, or None."""
        return self.conditions.labels

    @property
    def condition(self) -> str | None:
        """What it can be asked for: "label", "caption" or None."""
        return None if self.conditions.kind == "none" else self.conditions.kind

    def sample(
        self,
        n: int,
        *,
        cond: Any = None,
        guidance: float | None = None,
        rule: Rule | AdaptiveRungeKutta | Table | None = None,
        steps: int = 20,
        times: Times | None = None,
        seed: int | Draws = 0,
        batch: int | None = 1024,
        first: int = 0,
        sources: Float[Tensor, "any *event"] | None = None,
        watch: Iterable[Watcher] = (),
    ) -> Float[Tensor, "rows *event"]:
        """Draw `n` samples (n, *event) in the data's own units (encoded rows where there is an `encoding`); see `rheos.sample` for the settings.

        cond: for models of labels a class number, a class's name, a list of them or a tensor (n,) (-1: the network is told none); for models
        of captions a text or n texts. None: classes as frequent as in the training rows, see `classes_as_in_the_data`
        (guidance needs a `cond`). sources: on a two-sided path, what the samples are made from, in its own units; n of them are drawn.
        ValueError for a class that does not exist, and for a two-sided path without sources.
        """
        n = checks.integer("n", n, least=1)
        free = cond is None and guidance is None
        told = self.classes_as_in_the_data(n, seed=seed, first=first) if free else self.conditions.tensor(cond, n)
        start = None
        if self.field.path.two_sided:
            start = self._started(self._drawn_sources(n, sources, seed, first), seed, first)
        elif sources is not None:
            raise ValueError("sources were given, but this model begins at noise")
        x = sample(self.field, n, start=start, shape=None if start is not None else self.event, cond=told, guidance=guidance, rule=rule, steps=steps,
                   times=times, seed=seed, batch=batch, first=first, watch=watch)
        return self.transform.inverse(x)

    def translate(self, x: Float[Tensor, "rows *event"], *, cond: Any = None, seed: int | Draws = 0, first: int = 0,
                  **settings: Any) -> Float[Tensor, "rows *event"]:
        """Each row of the source (rows, *event), in its own units, carried over to the data's domain: on two-sided paths. first: number of the
        first row, for those who carry over in parts. settings: as of `rheos.sample`.

        ValueError for a model that begins at noise, and for rows of another shape.
        """
        if not self.field.path.two_sided or self.source is None:
            raise ValueError("translate needs a model of a path from one domain to another; this one begins at noise: use sample")
        checks.shape_of("x", checks.finite("x", checks.tensor("x", x, floating=True)), (None, *self.event))
        told = self.conditions.tensor(cond, len(x))
        return self.transform.inverse(sample(self.field, start=self._started(x, seed, first), cond=told, seed=seed, first=first, **settings))

    def _drawn_sources(self, n: int, sources: Tensor | None, seed: int | Draws, first: int) -> Tensor:
        """n rows for samples first .. first + n - 1 to begin at, each a function of the seed and its number."""
        if self.source is None:
            if sources is not None:
                raise ValueError("sources were given, but this model begins at zeros and noise")
            return torch.zeros(n, *self.event)
        rows = self.sources if sources is None else sources
        if rows is None:
            raise ValueError("sources must be given: this model carries rows of one domain to another, see translate")
        checks.shape_of("sources", checks.finite("sources", checks.tensor("sources", rows, floating=True)), (None, *self.event))
        if self.in_order and sources is None:
            return rows[torch.arange(first, first + n) % len(rows)]
        u = Draws.of(seed).uniform("source of samples", 0, (n,), first=first, dtype=torch.float64)
        return rows[(u * len(rows)).long().clamp(max=len(rows) - 1)]

    def _started(self, x: Tensor, seed: int | Draws, first: int) -> Tensor:
        """Rows of the source where the path begins, in the network's units, dtype and place."""
        like = self.field.like
        x = x.to(like.device)
        return self.field.path.start((x if self.source is None else self.source.forward(x)).to(like.dtype), seed=seed, first=first)

    def classes_as_in_the_data(self, n: int, *, seed: int | Draws = 0, first: int = 0) -> Int64[Tensor, " n"] | None:
        """The classes of rows first .. first + n - 1 of `sample` without `cond`; None for a model without classes or without their frequencies.

        A network that is told no class, which few of its lessons were about, draws worse.
        """
        counts = self.card.get("class_counts")
        if self.classes is None or not isinstance(counts, list) or len(counts) != self.classes or not sum(counts) > 0:
            return None
        ends = torch.tensor(counts, dtype=torch.float64).cumsum(0)
        place = Draws.of(seed).uniform("classes of samples", 0, (n,), first=first, dtype=torch.float64) * ends[-1]
        return torch.searchsorted(ends, place, right=True).clamp(max=self.classes - 1)

    def stream(self, n: int, *, batch: int = 1024, cond: Any = None, first: int = 0, **settings: Any) -> Iterator[Float[Tensor, "rows *event"]]:
        """The rows of `sample(n, ...)` in parts of at most `batch`, one after the other, so that memory does not grow with `n`."""
        n, batch = checks.integer("n", n, least=1), checks.integer("batch", batch, least=1)
        wanted = self.conditions.tensor(cond, n)
        for start in range(0, n, batch):
            rows = min(batch, n - start)
            part = None if wanted is None else wanted[start : start + rows]
            yield self.sample(rows, cond=part, batch=batch, first=first + start, **settings)

    def to(self, device: torch.device | str) -> Model:
        """This model with its network on `device`."""
        self.field.net.to(device)
        return self

    def save(self, folder: str | FilePath) -> FilePath:
        """Write one safetensors file and one model.json to `folder`; the old model stays good until the new one is whole.

        TypeError if the path is made by a function of the user's, which no file can hold; TypeError or ValueError for a card that is not JSON.
        """
        net = self.field.net
        tensors = {f"net.{name}": value for name, value in net.state_dict().items()}
        tensors |= {"transform.mean": self.transform.mean, "transform.std": self.transform.std}
        if self.source is not None:
            tensors |= {"source.mean": self.source.mean, "source.std": self.source.std}
        description = {
            "format": FORMAT, "rheos": rheos.__version__, "event": list(self.event), "classes": self.classes,
            "labels": self.labels, "embedder": self.conditions.embedder, "encoding": None if self.encoding is None else self.encoding.to_json(),
            "bounds": self.transform.bounds, "predicts": list(self.field.predicts), "unit_input": self.field.unit_input, "path": self.field.path.to_json(),
            "net": {"class": _public_name(type(net)), "settings": getattr(net, "settings", None)}, "card": self.card,
        } | ({} if self.source is None else {"source": {"bounds": self.source.bounds}})
        return write_model(folder, tensors, description)


def _public_name(kind: type) -> str:
    """rheos.nets.ResidualMLP for a public class of the room, else module and name."""
    room = ".".join(kind.__module__.split(".")[:2])
    return f"{room}.{kind.__qualname__}" if room == "rheos.nets" else f"{kind.__module__}.{kind.__qualname__}"


def load(folder: str | FilePath, *, net: nn.Module | None = None, device: str = "cpu") -> Model:
    """The model saved in `folder`. net: a network for its weights, needed if it is not one of rheos' own.

    Only rheos classes are built from the file. FileNotFoundError if there is no model; ValueError that names the file if it is damaged,
    of another format, or names a class that rheos will not build.
    """
    folder = FilePath(folder)
    device = pick_device(device)
    place = folder / "model.json"
    if not place.is_file():
        raise FileNotFoundError(f"{folder} holds no model: {place} does not exist")
    found = load_json(place)
    if isinstance(found, dict) and found.get("kind") == "masked":
        from rheos.models.masked import MaskedModel

        return MaskedModel.load(folder, net=net, device=str(device))
    if not isinstance(found, dict) or type(found.get("format")) is not int or found["format"] not in READABLE:
        form = found.get("format") if isinstance(found, dict) else None
        raise ValueError(f"{place} has model format {form}, this version of rheos reads {' and '.join(map(str, READABLE))}")
    try:
        tensors = _checked_tensors(folder, found["tensors"], found["sha256"], place)
        path = Path.from_json(found["path"])
        field = Field(_network(found["net"], tensors) if net is None else net, path, tuple(found["predicts"]),
                      unit_input=found.get("unit_input", False))
        transform = Standardise(tensors["transform.mean"], tensors["transform.std"], None if found["bounds"] is None else tuple(found["bounds"]))
        source = None
        if found.get("source") is not None:
            bounds = found["source"]["bounds"]
            source = Standardise(tensors["source.mean"], tensors["source.std"], None if bounds is None else tuple(bounds))
        if path.two_sided and source is None and not isinstance(path.schedule, Residual):
            raise ValueError("it runs from one domain to another and does not tell the scale of the first")
        labels, encoding = found.get("labels"), found.get("encoding")
        conditions = Conditions(found["classes"], None if labels is None else tuple(labels), found.get("embedder"))
        encoding = None if encoding is None else encoding_from_json(encoding)
        _check_conditions(field.net, conditions)
        model = Model(field, transform, tuple(found["event"]), conditions=conditions,
                      encoding=encoding, card=found["card"], source=source)
        _check_fit(model.event, field.event, encoding)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{place} is damaged: {type(error).__name__} {error}") from None
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None
    _fill(field.net, tensors, folder / found["tensors"])
    return model.to(device)


def _check_conditions(net: nn.Module, conditions: Conditions) -> None:
    """ValueError if a network was built for other conditions than the model tells."""
    built = getattr(net, "settings", None) or {}
    for name, said in (("classes", conditions.classes), ("features", conditions.features)):
        if name in built and built[name] != said:
            raise ValueError(f"the model has {said or 'no'} {name}, its network {built[name] or 'none'}")


def _fill(net: nn.Module, tensors: dict[str, Tensor], file: FilePath) -> None:
    """Give a network its weights, for good. ValueError that names their file if they do not fit."""
    weights = {key.removeprefix("net."): value for key, value in tensors.items() if key.startswith("net.")}
    try:
        net.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"the weights in {file} do not fit {type(net).__name__}: {' '.join(str(error).split())}") from None
    net.eval().requires_grad_(False)


def _check_fit(event: tuple, of_network: tuple[int, ...] | None, encoding: Encoding | None) -> None:
    """ValueError if the shapes that a file tells of one thing differ: samples of a made-up shape could take any memory."""
    of_encoding = getattr(encoding, "event", None)
    for whose, shape in (("its network", of_network), ("its encoding", of_encoding)):
        if shape is not None and tuple(shape) != event:
            raise ValueError(f"event is {event}, but {whose} has {tuple(shape)}")


def _checked_tensors(folder: FilePath, name: Any, digest: Any, place: FilePath) -> dict[str, Tensor]:
    """The tensors beside model.json, once their file is known to be the one that it names."""
    if not isinstance(name, str) or FilePath(name).name != name:
        raise ValueError(f"it names a file outside its folder: {name}")
    if not (folder / name).is_file():
        raise FileNotFoundError(f"{folder / name}, which {place} names, does not exist")
    if hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
        raise ValueError(f"{folder / name} is damaged: its content is not what model.json recorded")
    return load_tensors(folder / name)[0]


def _network(described: dict, tensors: dict[str, Tensor]) -> nn.Module:
    """The network of a class and its settings. Built without memory first: a file may ask for any size, and gets that of its tensors only."""
    kind, settings = described["class"], described["settings"]
    if not isinstance(kind, str) or not kind.startswith("rheos."):
        raise ValueError(f"the network is a {kind}; only rheos.* classes are built from files: pass your own object as load(folder, net=MyNet())")
    maker = rheos_class(kind, rooms=("nets",))
    if not issubclass(maker, nn.Module) or not isinstance(settings, dict):
        raise ValueError(f"{kind} is not a network that can be built from settings; pass your own object as load(folder, net=MyNet())")
    ours = [value for key, value in tensors.items() if key.startswith("net.")]
    saved = sum(value.numel() for value in ours)
    # Every block has tensors of its own; without this a made-up depth would be built, if only without memory, for hours.
    if isinstance(settings.get("depth"), int) and settings["depth"] > len(ours):
        raise ValueError(f"the settings of {kind} ask for {settings['depth']} blocks, the file holds {len(ours)} tensors")
    try:
        with torch.device("meta"):
            asked = sum(value.numel() for value in maker(**settings).state_dict().values())
    except RuntimeError as error:
        raise ValueError(f"{kind} cannot be built from these settings: {' '.join(str(error).split())[:200]}") from None
    if asked != saved:
        raise ValueError(f"the settings of {kind} ask for {asked} numbers, the file holds {saved}")
    made = maker(**settings)
    first = next((value for key, value in tensors.items() if key.startswith("net.") and value.is_floating_point()), None)
    return made if first is None else made.to(first.dtype)
