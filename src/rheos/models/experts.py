"""Experts: a generative model of data that is trained in parts, each part by a process of its own that hears nothing of the others.

The rows are divided by k-means, `train` learns one flow a part, and a small classifier learns which part a noisy point comes from. They meet when
samples are drawn, as a `paths.Mixture`.

Paper: McAllister et al., Decentralized Diffusion Models, 2025, arXiv:2501.05450 (there 8 parts by k-means on features of a network).
"""
from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path as FilePath
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

import rheos
from rheos.core import Draws, checks, evolve
from rheos.core.files import load_json, load_tensors, save_json, tensor_bytes, write_bytes
from rheos.couplings import Independent
from rheos.data import Dataset, Encoding, encoding_from_json
from rheos.models.conditions import Conditions
from rheos.models.devices import pick_device
from rheos.models.islands import prepare_island, run_islands
from rheos.models.learn import DEFAULT_STEPS, HABITS, OTHER_HABITS
from rheos.models.model import Model, load
from rheos.models.transforms import Standardise
from rheos.nets import net_for
from rheos.nets.classifier import MLPClassifier
from rheos.objectives.router import CrossEntropy
from rheos.paths import Path
from rheos.paths.mixture import LearnedRouter, Mixture
from rheos.training import Average, Cosine, Descent

__all__ = ["Experts", "load_experts", "partition", "train_experts"]

FORMAT = 1
MOST_PARTS, MOST_AXES = 1024, 64
# Settings of `train` that an island can be told: what JSON holds.
SETTINGS = ("predicts", "unit_input", "rate", "schedule", "width", "depth", "dropout", "drop_condition", "decay", "clip", "accumulate", "device", "precision")
ROUTER_RATE, ROUTER_DROPOUT, ROUTER_DECAY = 2e-3, 0.1, 0.99


def partition(data: Dataset | Tensor, parts: int = 8, *, features: Callable[[Tensor], Tensor] | None = None, seed: int | Draws = 0) -> Int64[Tensor, " rows"]:
    """The part 0 .. parts - 1 of every row, by k-means.

    features: (rows, *event) -> (rows, ...), in which rows are near or far, such as `metrics.image_features(event)`; None: the standardised rows
    themselves, on at most 64 principal axes. ValueError if there are fewer different rows than parts, and if a part would be empty.
    """
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA
    from sklearn.exceptions import ConvergenceWarning

    x, transform = _rows_and_scale(data)
    parts = checks.integer("parts", parts, least=1)
    if parts > min(len(x), MOST_PARTS):
        raise ValueError(f"parts must be at most {min(len(x), MOST_PARTS)} for {len(x)} rows, got {parts}")
    if features is not None and not callable(features):
        raise TypeError(f"features must be a function of rows, got {type(features).__name__}")
    with torch.no_grad():
        seen = checks.tensor("features' answer", features(x)) if features is not None else transform.forward(x)
    if len(seen) != len(x):
        raise ValueError(f"features must give one row for each of the {len(x)} rows, got shape {tuple(seen.shape)}")
    flat = checks.finite("features", seen.reshape(len(x), -1)).double().cpu().numpy()
    state = int(Draws.of(seed).integers("k-means", 0, (1,), 2**31)[0])
    if features is None and flat.shape[1] > MOST_AXES and len(flat) > MOST_AXES:
        flat = PCA(MOST_AXES, svd_solver="randomized", random_state=state).fit_transform(flat)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)       # said below, in one line
        found = KMeans(parts, n_init=4, random_state=state).fit_predict(flat)
    labels = torch.from_numpy(found).long()
    sizes = torch.bincount(labels, minlength=parts)
    if not bool((sizes > 0).all()):
        raise ValueError(f"parts must be at most the number of different rows, {int((sizes > 0).sum())}, got {parts}: part {int(sizes.argmin())} is empty")
    return labels


@dataclass(frozen=True, eq=False)
class Experts:
    """Models of the parts of one data set, and the router that joins them.

    models: one a part, of one path, scale, event and condition. router: tells the part of a noisy point. sizes: rows of each part. encoding: as in
    `Model`. card: settings and figures, JSON-able: among them `exchanged`, the bytes that experts had of one another while they learned.
    ValueError for models that do not belong together.
    """

    models: tuple[Model, ...]
    router: LearnedRouter
    sizes: tuple[int, ...]
    encoding: Encoding | None = None
    card: dict = field(default_factory=dict)

    def __post_init__(self):
        if not self.models or len(self.models) != len(self.sizes):
            raise ValueError(f"models must be one for each of the {len(self.sizes)} sizes, got {len(self.models)}")
        one = self.models[0]
        for k, other in enumerate(self.models):
            for name, same in (("path", other.field.path == one.field.path), ("event", other.event == one.event),
                               ("condition", other.conditions == one.conditions), ("scale", torch.equal(other.transform.mean, one.transform.mean)
                                                                                   and torch.equal(other.transform.std, one.transform.std))):
                if not same:
                    raise ValueError(f"models must share their {name}: that of model {k} differs from that of model 0")

    @property
    def transform(self) -> Standardise:
        """From the user's units to the networks' and back, the same for all."""
        return self.models[0].transform

    @property
    def event(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return self.models[0].event

    def field(self, top: int | None = 1) -> Mixture:
        """The experts as one field, in the networks' units; top: how many of the likeliest are asked, None for all."""
        return Mixture([model.field for model in self.models], self.router, top)

    def sample(self, n: int, *, top: int | None = 1, **settings: Any) -> Float[Tensor, "rows *event"]:
        """Draw `n` samples (n, *event) in the data's own units. settings: those of `Model.sample`."""
        whole = Model(self.field(top), self.transform, self.event, conditions=self.models[0].conditions, encoding=self.encoding, card=self.card)
        return whole.sample(n, **settings)

    def save(self, folder: str | FilePath) -> FilePath:
        """Write a folder for each expert, the router's weights and `experts.json` to `folder`. TypeError or ValueError for a card that is not JSON."""
        folder = FilePath(folder)
        json.dumps(self.card, allow_nan=False)
        for k, model in enumerate(self.models):
            model.save(folder / f"expert-{k}")
        content = tensor_bytes(self.router.net.state_dict())
        digest = hashlib.sha256(content).hexdigest()
        name = f"router-{digest[:12]}.safetensors"
        write_bytes(folder / name, content)
        save_json(folder / "experts.json", {
            "format": FORMAT, "rheos": rheos.__version__, "sizes": list(self.sizes), "encoding": None if self.encoding is None else self.encoding.to_json(),
            "router": {"tensors": name, "sha256": digest, "settings": self.router.net.settings, "unit_input": self.router.unit_input}, "card": self.card,
        })
        for old in folder.glob("router-*.safetensors"):
            if old.name != name:
                old.unlink(missing_ok=True)
        return folder


def load_experts(folder: str | FilePath, *, device: str = "cpu") -> Experts:
    """The experts saved in `folder`. FileNotFoundError if there are none; ValueError that names the file if it is damaged or of another format."""
    folder = FilePath(folder)
    place = folder / "experts.json"
    if not place.is_file():
        raise FileNotFoundError(f"{folder} holds no experts: {place} does not exist")
    found = load_json(place)
    form = found.get("format") if isinstance(found, dict) else None
    if type(form) is not int or form != FORMAT:
        raise ValueError(f"{place} has format {form}, this version of rheos reads {FORMAT}")
    try:
        sizes, told = tuple(checks.integer("sizes", size, least=1) for size in found["sizes"]), found["router"]
        if len(sizes) > MOST_PARTS:
            raise ValueError(f"it tells of {len(sizes)} experts, more than {MOST_PARTS}")
        models = tuple(load(folder / f"expert-{k}", device=device) for k in range(len(sizes)))
        net = _router_net(folder, told, len(sizes), models[0].event)
        encoding = None if found["encoding"] is None else encoding_from_json(found["encoding"])
        router = LearnedRouter(net.to(pick_device(device)), models[0].field.path, told["unit_input"])
        return Experts(models, router, sizes, encoding, dict(found["card"]))
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"{place} is damaged: {type(error).__name__} {error}") from None


def _router_net(folder: FilePath, told: dict, parts: int, event: tuple[int, ...]) -> MLPClassifier:
    """The router's network, once its file is known to be the one that was saved and its settings to ask for what the file holds."""
    name, settings = told["tensors"], told["settings"]
    if not isinstance(name, str) or FilePath(name).name != name or not (folder / name).is_file():
        raise ValueError(f"{folder} has no router file {name!r} inside it")
    if hashlib.sha256((folder / name).read_bytes()).hexdigest() != told["sha256"]:
        raise ValueError(f"{folder / name} is damaged: its content is not what experts.json recorded")
    tensors = load_tensors(folder / name)[0]
    if settings["outputs"] != parts or tuple(settings["event"]) != event or not isinstance(settings["depth"], int) or settings["depth"] > len(tensors):
        raise ValueError(f"{folder / name} is a router of other experts: {settings}")
    with torch.device("meta"):          # a file may ask for any size, and gets that of its tensors only
        asked = {key: value.shape for key, value in MLPClassifier(**settings).state_dict().items()}
    if asked != {key: value.shape for key, value in tensors.items()}:
        raise ValueError(f"the weights in {folder / name} do not fit the settings of the router")
    net = MLPClassifier(**settings).to(next(iter(tensors.values())).dtype)
    net.load_state_dict(tensors)
    return net.eval().requires_grad_(False)


def train_experts(
    data: Dataset | Tensor,
    parts: int | Int64[Tensor, " rows"] = 8,
    net: str = "auto",
    *,
    features: Callable[[Tensor], Tensor] | None = None,
    processes: int = 2,
    steps: int = DEFAULT_STEPS,
    batch: int | None = None,
    path: Path | None = None,
    condition: str = "auto",
    router_steps: int = 1000,
    router_batch: int = 256,
    router_width: int = 128,
    router_depth: int = 2,
    folder: str | FilePath | None = None,
    resume: bool = False,
    every: int = 500,
    seed: int | Draws = 0,
    **settings: Any,
) -> Experts:
    """Divide `data` into parts, learn a flow of each in a process of its own, and a router that joins them.

    parts: how many, see `partition` (features goes there), or the part of every row, (rows,) int64. net: "auto", "mlp", "unet", "dit". processes: how
    many at once, of one thread each; 0: none, one expert after the other in this one. batch: rows of an expert's minibatch; None: `train`'s own
    divided by the number of parts, so that all experts together compute as much as one model would. A part smaller than that is read several times a
    minibatch. condition: "label", "none" or "auto"; with labels the router is told them too. folder: where the processes work, kept afterwards; None:
    a temporary one. An expert whose process died is named by a RuntimeError; `resume=True` with the same folder then trains what is missing, from its
    last checkpoint of `every` steps, and keeps the rest. router_...: the router's training, minibatches of all the data in their true frequencies,
    and its `MLPClassifier`. settings: others of `train` that are numbers or words (rate, schedule, width, depth, dropout, predicts, decay, clip,
    precision, device ("cpu"), ...).

    A process gets the rows of its part, the scale of all the data and its settings, and nothing else until it ends: `card["exchanged"]` is the number of
    bytes of its siblings' files that Python opened in it, `card["sockets"]` how often it used a socket. Both are measured.
    ValueError for a part that no expert can learn from (fewer than 2 rows, or all alike), texts, captions, two-sided paths, and settings out of range.
    """
    for name in settings:
        checks.one_of("a setting of train_experts", name, SETTINGS)
    settings = {"device": "cpu", **settings}
    path = Path.linear() if path is None else path
    if not isinstance(path, Path) or path.two_sided:
        raise ValueError(f"path must be a one-sided Path, got {path!r}")
    described, steps, every = path.to_json(), checks.integer("steps", steps, least=1), checks.integer("every", every, least=1)
    router_steps = checks.integer("router_steps", router_steps, least=1)
    if resume and folder is None:
        raise ValueError("resume needs the folder of the run: pass folder")
    x, transform = _rows_and_scale(data)
    checks.one_of("condition", condition, ("auto", "label", "none"))
    kind = "none" if condition == "auto" and not (isinstance(data, Dataset) and data.y is not None) else "label" if condition == "auto" else condition
    conditions, y = Conditions.of(data, kind)
    labels = partition(data, parts, features=features, seed=seed) if not isinstance(parts, Tensor) else _given_parts(parts, x)
    count = int(labels.max()) + 1
    for k in range(count):
        rows = x[labels == k]
        if len(rows) < 2 or bool((rows == rows[0]).all()):
            why = f"has {len(rows)} row{'' if len(rows) == 1 else 's'}" if len(rows) < 2 else "has rows that are all alike"
            raise ValueError(f"parts must be such that an expert can learn of each: part {k} of {count} {why}; use fewer parts")
    event = tuple(x.shape[1:])
    if batch is None:
        with torch.device("meta"):
            usual = HABITS.get(type(net_for(event, net, width=settings.get("width"), depth=settings.get("depth"))), OTHER_HABITS)[0]
        batch = max(1, usual // count)
    draws, home = Draws.of(seed), FilePath(folder if folder is not None else tempfile.mkdtemp(prefix="rheos-experts-"))
    name, bounds = (data.name, data.bounds) if isinstance(data, Dataset) else ("tensor", None)
    try:
        islands = []
        for k in range(count):
            mine = labels == k
            tensors = {"x": x[mine], "transform.mean": transform.mean, "transform.std": transform.std} | ({} if y is None else {"y": y[mine]})
            islands.append(prepare_island(home / f"island-{k}", tensors, {
                "name": f"{name}, part {k} of {count}", "bounds": None if bounds is None else list(bounds), "classes": conditions.classes,
                "labels": None if conditions.labels is None else list(conditions.labels), "net": net, "steps": steps, "every": every, "path": described,
                "seed": draws.child(f"expert {k}").seed, "settings": {**settings, "batch": checks.integer("batch", batch, least=1), "condition": kind},
            }, resume=resume))
        failed = run_islands(islands, processes)
        if failed:
            k, how = next(iter(failed.items()))
            after = f"call again with folder={str(home)!r} and resume=True to train what is missing" if folder is not None else "pass folder to keep the others"
            raise RuntimeError(f"{len(failed)} of {count} experts did not end; expert {k}: {how}; {after}")
        models = tuple(load(island / "model", device=settings["device"]) for island in islands)
        ledgers = [load_json(island / "ledger.json") for island in islands]
    finally:
        if folder is None:
            shutil.rmtree(home, ignore_errors=True)
    one = models[0].field
    asked = {"classes": conditions.classes} if kind == "label" else {}
    with draws.child("router").scope(0):
        fresh = MLPClassifier(event, count, width=router_width, depth=router_depth, dropout=ROUTER_DROPOUT, **asked).to(x.dtype)
    objective = CrossEntropy(path, unit_input=one.unit_input, drop_condition=settings.get("drop_condition", 0.1) if y is not None else 0.0)
    router = _learned(fresh.to(pick_device(settings["device"])), objective, transform.forward(x), labels, y, router_steps, router_batch, draws.child("router"))
    card = {"data": name, "rows": len(x), "parts": count, "steps": steps, "batch": batch, "router_steps": router_steps, "condition": kind,
            "seed": draws.seed, "parameters": [model.card["parameters"] for model in models],
            "exchanged": sum(sum(ledger["foreign"].values()) for ledger in ledgers), "sockets": sum(ledger["sockets"] for ledger in ledgers),
            "cpu_seconds": [ledger["cpu_seconds"] for ledger in ledgers]}
    if kind == "label":
        card["class_counts"] = torch.bincount(y, minlength=conditions.classes).tolist()
    encoding = data.encoding if isinstance(data, Dataset) else None
    return Experts(models, LearnedRouter(router, path, one.unit_input), tuple(torch.bincount(labels).tolist()), encoding, card)


def _learned(net: MLPClassifier, objective: CrossEntropy, x: Tensor, labels: Tensor, y: Tensor | None, steps: int, batch: int, seed: Draws) -> MLPClassifier:
    """The router's averaged network after `steps` minibatches."""
    where = next(net.parameters()).device
    cond = {"part": labels} if y is None else {"part": labels, "cond": y}
    rows = Independent(x.to(where), cond={name: value.to(where) for name, value in cond.items()})
    descent = Descent(objective, rows, batch, partial(torch.optim.Adam, lr=ROUTER_RATE, betas=(0.9, 0.99)), Cosine(steps, min(steps // 50, 100)),
                      Average(ROUTER_DECAY), 1.0, seed=seed)
    end = evolve(descent, descent.init(net), steps, donate=True)
    if end.step < steps:
        raise KeyboardInterrupt("the router's training was stopped")
    return end.averaged.eval().requires_grad_(False)


def _rows_and_scale(data: Dataset | Tensor) -> tuple[Tensor, Standardise]:
    x, bounds, encoding = (data.x, data.bounds, data.encoding) if isinstance(data, Dataset) else (checks.tensor("data", data, floating=True), None, None)
    if x.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"data must be float32 or float64, got {x.dtype}")
    if x.ndim < 2 or not x.numel():
        raise ValueError(f"data must have shape (rows, *event) with no empty axis, got {tuple(x.shape)}")
    if getattr(encoding, "kind", None) == "tokens":
        raise ValueError("data must be arrays or tables, got text, of which experts by k-means have no use")
    return x, Standardise.fit(x, bounds) if encoding is None else Standardise.none(x)


def _given_parts(parts: Tensor, x: Tensor) -> Tensor:
    """`parts` if it numbers the rows' parts without a gap."""
    if parts.dtype != torch.int64:
        raise TypeError(f"parts must be a whole number, or int64 of one number a row, got {parts.dtype}")
    checks.shape_of("parts", parts, (len(x),))
    if int(parts.min()) < 0 or int(parts.max()) >= MOST_PARTS:
        raise ValueError(f"parts must number them 0 .. {MOST_PARTS - 1}, got {int(parts.min())} to {int(parts.max())}")
    sizes = torch.bincount(parts)
    if not bool((sizes > 0).all()):
        raise ValueError(f"parts must leave no number out, got no row in part {int(sizes.argmin())} of {len(sizes)}")
    return parts.cpu()
