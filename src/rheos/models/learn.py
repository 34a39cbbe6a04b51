"""`train`: from data to a Model, with settings that work without tuning."""
from __future__ import annotations

import hashlib
import inspect
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path as FilePath
from typing import Any

import torch
from torch import Tensor, nn

from rheos.core import Draws, Watcher, checks
from rheos.couplings import Coupling, Independent, MinibatchOT, Paired
from rheos.data import Dataset, Encoding
from rheos.models.conditions import Conditions
from rheos.models.devices import pick_device
from rheos.models.model import Model
from rheos.models.running import MOST_TIMED, carried, fitting
from rheos.models.transforms import Standardise
from rheos.nets import DiT, UNet, net_for
from rheos.objectives import LogitNormal, LogNormal, Matching, Uniform
from rheos.objectives.when import TimeLaw
from rheos.paths import Field, Path, Residual
from rheos.samplers.defaults import LARGEST_AMPLIFICATION
from rheos.training import Average, Constant, Cosine, Descent, DescentState, Linear

__all__ = ["SCHEDULES", "Training", "steps_within", "train"]

LOUD = 2.0      # standard deviations of the data: above, the noise at a path's start is too large for a network to be shown as it is
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16}
SCHEDULES = {"cosine": Cosine, "linear": Linear, "constant": lambda steps, warm_up: Constant(warm_up)}
# Rows of a minibatch and learning rate, by the kind of network: what learned most in a given time on CPUs.
HABITS = {UNet: (64, 2e-3), DiT: (64, 1e-3)}
OTHER_HABITS = (256, 2e-3)
DEFAULT_STEPS = 1500
MOST_BATCH, MOST_PAIRED = 1 << 17, 1 << 13      # rows; optimal pairs need a matrix of all distances


@dataclass(frozen=True, eq=False)
class Training:
    """A prepared training run: the dynamics, its start, and how an end state becomes a Model.

    about: what decides the run, JSON-able: its settings and a hash of its data, for checkpoints to compare.
    """

    descent: Descent
    start: DescentState
    matching: Matching
    transform: Standardise
    event: tuple[int, ...]
    conditions: Conditions
    encoding: Encoding | None
    card: dict
    about: dict
    source: Standardise | None = None

    @classmethod
    def prepare(
        cls,
        data: Dataset | Tensor,
        net: nn.Module | str = "auto",
        *,
        steps: int = DEFAULT_STEPS,
        path: Path | None = None,
        source: Dataset | Tensor | Callable[[Tensor], Tensor] | None = None,
        predicts: str | Sequence[str] | None = None,
        unit_input: bool | None = None,
        coupling: Callable[..., Coupling] = Independent,
        when: TimeLaw | None = None,
        condition: str = "auto",
        batch: int | None = None,
        rate: float | None = None,
        schedule: str = "cosine",
        width: int | None = None,
        depth: int | None = None,
        dropout: float | None = None,
        drop_condition: float = 0.1,
        decay: float = 0.999,
        clip: float | None = 1.0,
        accumulate: int = 1,
        seed: int | Draws = 0,
        device: str = "auto",
        precision: str = "fp32",
        compile: bool = False,
    ) -> Training:
        """Check the settings, see `train`, and build the run."""
        steps = checks.integer("steps", steps, least=1)
        checks.one_of("precision", precision, PRECISIONS)
        checks.one_of("schedule", schedule, SCHEDULES)
        where = pick_device(device)
        x, bounds, name = (data.x, data.bounds, data.name) if isinstance(data, Dataset) else (data, None, "tensor")
        encoding = data.encoding if isinstance(data, Dataset) else None
        if checks.tensor("data", x, floating=True).dtype not in (torch.float32, torch.float64):
            raise TypeError(f"data must be float32 or float64, got {x.dtype}")
        if x.ndim < 2 or not x.numel():
            raise ValueError(f"data must have shape (rows, *event) with no empty axis, got {tuple(x.shape)}")
        if path is not None and not isinstance(path, Path):
            raise TypeError(f"path must be a Path, got {path!r}")
        if not isinstance(net, nn.Module | str):
            raise TypeError(f"net must be a network or the name of one, got {net!r}")
        if when is not None and not callable(getattr(when, "sample", None)):
            raise TypeError(f"when must be a law of times such as LogitNormal(), got {when!r}")
        event = tuple(x.shape[1:])
        path = Path.linear() if path is None else path
        # Between two domains the class is not what is asked for unless somebody says so.
        conditions, cond = Conditions.of(data, "none" if path.two_sided and condition == "auto" else condition)
        transform = Standardise.fit(x, bounds) if encoding is None else Standardise.none(x)
        x0, from_source = _source(path, source, x, transform)
        if predicts is None and path.two_sided:
            # Targets of size 1 at all times, where the velocity's is infinite at the ends of a noisy bridge.
            predicts = "velocity" if getattr(path.schedule, "noiseless", False) else ("residual", "noise")
        heads = 1 if predicts is None or isinstance(predicts, str) else len(predicts)
        scale = float(getattr(path.schedule, "scale", 1.0))
        if not 1 / LOUD < scale < LOUD:
            raise ValueError(f"path was made for data of scale {scale:.4g}, but train gives its data scale 1 first: "
                             "use data_separation on Standardise.fit(x).forward(x)")
        if isinstance(net, str):
            build = partial(net_for, event, net, width=width, depth=depth, dropout=dropout, classes=conditions.classes, features=conditions.features,
                            heads=heads, tokens=getattr(encoding, "kind", None) == "tokens")
            with torch.device("meta"):      # without memory first
                _check_memory(sum(p.numel() for p in build().parameters()) * x.element_size(), where)
            with Draws.of(seed).scope(0):
                net = build().to(x.dtype)
        net = net.to(where)
        usual = HABITS.get(type(net), OTHER_HABITS)
        batch, rate = checks.integer("batch", usual[0] if batch is None else batch, least=1), checks.positive("rate", usual[1] if rate is None else rate)
        most = MOST_PAIRED if coupling is MinibatchOT else MOST_BATCH
        if batch > most:
            raise ValueError(f"batch must be at most {most:,}{' with optimal pairs' if coupling is MinibatchOT else ''}, got {batch:,}")
        if compile:
            net.compile()
        # Where noise outgrows the data a network needs both scaled: its input, and an answer that is finite and of size 1 at all times.
        spectral = getattr(path.schedule, "spectral", False)
        plain = not spectral and not path.two_sided
        loud = plain and float(path.coefficients(path.interval[0]).c) > LOUD
        hard = loud or plain and path.amplification("velocity") > LARGEST_AMPLIFICATION
        predicts = ("v" if hard else "velocity") if predicts is None else predicts
        unit_input = loud if unit_input is None else unit_input
        when = when if when is not None else LogNormal(-0.5, 1.2) if loud else Uniform() if path.two_sided else LogitNormal()
        matching = Matching(path, predicts, when, drop_condition=drop_condition if cond is not None else 0.0, unit_input=unit_input)
        x1, cond = transform.forward(x).to(where), None if cond is None else cond.to(where)
        if x0 is None:
            if coupling is Paired:
                raise ValueError("coupling Paired needs a source whose rows belong to the data's")
            pairs = coupling(x1, cond=cond)
        else:
            x0 = x0.to(x1)
            made_of_data = not isinstance(source, Dataset | Tensor)
            pairs = Paired(x0, x1, cond) if coupling is Paired or made_of_data else coupling(x1, x0, cond=cond)
        if not path.noise.gaussian and isinstance(pairs, MinibatchOT) and pairs.source is None:
            raise ValueError(f"coupling draws normal noise, but the path has {path.noise}; give MinibatchOT a source of that law, or use Independent")
        if not callable(getattr(pairs, "sample", None)):
            raise TypeError(f"coupling must make an object with a method sample, as Independent does; got {type(pairs).__name__}")
        # A long run ends at rate 0; a warm-up of one step in fifty keeps Adam's first, badly scaled moves small.
        descent = Descent(matching, pairs, batch, partial(torch.optim.Adam, lr=rate, betas=(0.9, 0.99), fused=where.type != "mps"),
                          SCHEDULES[schedule](steps, min(steps // 50, 100)), Average(decay), clip, accumulate, PRECISIONS[precision], seed=seed)
        card = {"data": name, "rows": len(x), "steps": steps, "batch": batch, "rate": rate, "seed": Draws.of(seed).seed,
                "precision": precision, "parameters": sum(p.numel() for p in net.parameters())}
        if isinstance(data, Dataset):
            card |= {"meaning": data.meaning, "licence": data.licence, "source": data.source}
        card["condition"] = conditions.kind
        if x0 is not None and isinstance(pairs, Paired):
            card["paired"] = True
        checks.between("drop_condition", drop_condition, 0.0, 1.0, high_open=True)
        if conditions.kind == "label":
            card["class_counts"] = torch.bincount(cond.cpu(), minlength=conditions.classes).tolist()
        digest = hashlib.sha256(x.detach().cpu().contiguous().numpy())
        if conditions.kind == "caption":            # not their vectors, whose last digits are the embedder's
            digest.update("\0".join(data.captions).encode())
        elif cond is not None:
            digest.update(cond.cpu().contiguous().numpy())
        if x0 is not None:
            digest.update(x0.cpu().contiguous().numpy())
        # By everything that they are made of: two paths may print alike.
        try:
            made = json.dumps(path.to_json(), sort_keys=True)
        except TypeError:
            made = repr(path)
        paired = {name: value for name, value in sorted(vars(pairs).items()) if isinstance(value, str | int | float | bool)}
        about = {"steps": steps, "path": repr(path), "path_hash": hashlib.sha256(made.encode()).hexdigest(), "predicts": list(matching.predicts),
                 "unit_input": unit_input, "when": repr(matching.when), "coupling": f"{type(pairs).__qualname__} {paired}", "batch": batch, "rate": rate,
                 "schedule": schedule, "condition": conditions.kind,
                 "width": width, "depth": depth, "dropout": dropout, "drop_condition": matching.drop_condition, "decay": decay, "clip": clip,
                 "accumulate": accumulate, "seed": card["seed"], "precision": precision, "net": type(net).__qualname__,
                 "made": json.dumps(getattr(net, "settings", None), sort_keys=True, default=repr), "data": digest.hexdigest()}
        return cls(descent, descent.init(net), matching, transform, event, conditions, encoding, card, about, from_source)

    def model(self, state: DescentState) -> Model:
        """The Model that `state` has learned: its averaged network."""
        field = Field(state.averaged.eval(), self.matching.path, self.matching.predicts, unit_input=self.matching.unit_input)
        return Model(field, self.transform, self.event, conditions=self.conditions, encoding=self.encoding,
                     card={**self.card, "trained_steps": state.step}, source=self.source)


def _source(path: Path, source: Dataset | Tensor | Callable[[Tensor], Tensor] | None, x: Tensor,
            transform: Standardise) -> tuple[Tensor | None, Standardise | None]:
    """(where flows begin, in the network's units; how they came there from the source's own), None and None for a one-sided path.

    A source of its own is brought to mean 0 and variance 1; what a function makes of the data stays on the data's scale. A residual path without a source
    begins at zeros.
    """
    if not path.two_sided:
        if source is not None:
            raise ValueError("source was given, but a one-sided path begins at noise; give a two-sided path such as Path.interpolant() or Path.residual()")
        return None, None
    if source is None:
        if not isinstance(path.schedule, Residual):
            raise ValueError("source must be given: a two-sided path runs from a source to the data")
        return torch.zeros_like(x), None
    if isinstance(source, Dataset) and source.encoding is not None:
        raise ValueError("source must hold arrays or images, not a table or a text")
    if callable(source) and not isinstance(source, Dataset | Tensor):
        made = source(x.clone())
        if not isinstance(made, Tensor) or made.shape != x.shape:
            got = tuple(made.shape) if isinstance(made, Tensor) else type(made).__name__
            raise ValueError(f"source must return the shape of the data, {tuple(x.shape)}, got {got}")
        return transform.forward(checks.finite("the result of source", made)), transform
    rows = source.x if isinstance(source, Dataset) else checks.tensor("source", source, floating=True)
    if rows.ndim < 2 or rows.shape[1:] != x.shape[1:] or not len(rows):
        raise ValueError(f"source must have the data's event shape {tuple(x.shape[1:])}, got {tuple(rows.shape[1:])}")
    if bool((rows == rows.flatten()[0]).all()):
        raise ValueError(f"source is constant, all its entries are {float(rows.flatten()[0]):g}: there is nothing to come from")
    own = Standardise.fit(rows, source.bounds if isinstance(source, Dataset) else None)
    return own.forward(rows), own


def _check_memory(size: int, where: torch.device) -> None:
    """ValueError if a network of `size` bytes, its gradients, Adam's two moments and the average do not fit into this machine's memory."""
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):       # a system that does not tell
        return
    if where.type == "cpu" and 5 * size > memory > 0:
        raise ValueError(f"width and depth make a network that takes {5 * size / 1e9:,.1f} GB to train, and this machine has {memory / 1e9:,.1f} GB: "
                         "make it smaller")


def train(
    data: Dataset | Tensor,
    net: nn.Module | str = "auto",
    *,
    steps: int | None = None,
    budget: float | None = None,
    checkpoint: str | FilePath | None = None,
    every: int = 500,
    resume: bool = False,
    watch: Iterable[Watcher] = (),
    **settings: Any,
) -> Model:
    """Learn a generative flow of `data` and return a Model.

    data: a Dataset, or a tensor (rows, *event). net: a network of your own, trained in place, or "auto", "mlp", "unet", "dit": see `nets.net_for`.
    steps: minibatches (1500), or budget: seconds, for as many steps as a few timed ones say will fit. checkpoint: a folder for the whole state,
    every `every` steps; with `resume` the run goes on from the last one there, if data and settings are the same, and ends where the
    uninterrupted run would have ended, bit for bit (a budget is measured anew, so give the steps to resume).
    settings: path (Path.linear()), source (for two-sided paths: a Dataset or tensor of the domain to come from, or a function that degrades
    rows of the data, which are then learned back; a residual path without one begins at zeros), predicts ("velocity"; "v" on paths at whose
    start a velocity hardly tells the data; residual and noise on two-sided ones), unit_input (False), coupling (Independent; it is called with
    the rows and cond, on two-sided paths with rows, source and cond), when (LogitNormal(), Uniform() on two-sided paths), condition ("label",
    "caption", "none", or "auto": the first of them that the data have, none on two-sided paths), batch (64 for a U-Net or a transformer, else
    256), rate (2e-3; transformer 1e-3), schedule of the rate ("cosine" to 0, "linear", "constant"), width, depth, dropout (the network's own),
    drop_condition (0.1), decay of the averaged weights (0.999), clip (1.0), accumulate (1), seed (0), device ("auto"), precision ("fp32" or
    "bf16"), compile (False). Paths whose noise outgrows
    the data (VE, EDM) have other defaults: unit_input True with "v", when LogNormal(-0.5, 1.2), which is EDM's preconditioning and law of
    noise levels for data of variance 1. watch: watchers of the run.

    Ctrl-C ends the training after the step under way, with a warning, and the model so far is returned.
    ValueError for data that is empty, constant or not finite, and for settings out of range.
    """
    known = [name for name, p in inspect.signature(Training.prepare).parameters.items() if p.kind is p.KEYWORD_ONLY]
    for name in settings:
        checks.one_of("a setting of train", name, known)
    if budget is not None and (steps is not None or resume):
        raise ValueError(f"budget chooses the steps of a run that begins, so it goes with neither steps nor resume; got {budget}")
    if budget is not None:
        steps = steps_within(budget, data, net, **settings)
    steps = DEFAULT_STEPS if steps is None else steps
    run = Training.prepare(data, net, steps=steps, **settings)
    return run.model(carried(run, steps, checkpoint=checkpoint, every=every, resume=resume, watch=watch))


def steps_within(budget: float, data: Dataset | Tensor, net: nn.Module | str = "auto", **settings: Any) -> int:
    """How many training steps fit into `budget` seconds, by timing a few on a copy, which are thrown away. At least 1.

    Seconds are of CPU time where one thread computes, by the clock elsewhere: what the run will take on a machine that does nothing else.
    The settings are those of `train`. ValueError for a budget that is not positive.
    """
    return fitting(Training.prepare(data, net, steps=MOST_TIMED + 2, **settings), budget)
