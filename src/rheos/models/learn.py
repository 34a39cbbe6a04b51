"""`train`: from data to a Model, with settings that work without tuning."""
from __future__ import annotations

import hashlib
import inspect
import json
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path as FilePath
from typing import Any

import torch
from torch import Tensor, nn

from rheos.core import Checkpoint, Draws, Watcher, checks, evolve, latest_checkpoint, load_state
from rheos.couplings import Coupling, Independent, MinibatchOT
from rheos.data import Dataset
from rheos.models.devices import pick_device
from rheos.models.model import Model
from rheos.models.transforms import Standardise
from rheos.nets import ResidualMLP
from rheos.objectives import LogitNormal, LogNormal, Matching
from rheos.objectives.when import TimeLaw
from rheos.paths import Field, Path
from rheos.samplers.defaults import LARGEST_AMPLIFICATION
from rheos.training import Average, Cosine, Descent, DescentState

__all__ = ["Training", "train"]

LOUD = 2.0      # standard deviations of the data: above, the noise at a path's start is too large for a network to be shown as it is
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16}


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
    classes: int | None
    card: dict
    about: dict

    @classmethod
    def prepare(
        cls,
        data: Dataset | Tensor,
        net: nn.Module | None = None,
        *,
        steps: int = 1500,
        path: Path | None = None,
        predicts: str | None = None,
        unit_input: bool | None = None,
        coupling: Callable[..., Coupling] = Independent,
        when: TimeLaw | None = None,
        batch: int = 256,
        rate: float = 2e-3,
        width: int = 160,
        depth: int = 3,
        dropout: float = 0.1,
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
        checks.positive("rate", rate)
        checks.one_of("precision", precision, PRECISIONS)
        where = pick_device(device)
        x, y, bounds, name = (data.x, data.y, data.bounds, data.name) if isinstance(data, Dataset) else (data, None, None, "tensor")
        if checks.tensor("data", x, floating=True).dtype not in (torch.float32, torch.float64):
            raise TypeError(f"data must be float32 or float64, got {x.dtype}")
        if x.ndim < 2 or not x.numel():
            raise ValueError(f"data must have shape (rows, *event) with no empty axis, got {tuple(x.shape)}")
        for setting, value, kind in (("path", path, Path), ("net", net, nn.Module)):
            if value is not None and not isinstance(value, kind):
                raise TypeError(f"{setting} must be a {kind.__name__}, got {value!r}")
        if when is not None and not callable(getattr(when, "sample", None)):
            raise TypeError(f"when must be a law of times such as LogitNormal(), got {when!r}")
        event, classes = tuple(x.shape[1:]), data.classes if isinstance(data, Dataset) and y is not None else None
        path = Path.linear() if path is None else path
        if path.two_sided:
            raise ValueError("path must be one-sided to learn a law from noise, got a two-sided one; train those with Descent and Matching")
        transform = Standardise.fit(x, bounds)
        scale = float(getattr(path.schedule, "scale", 1.0))
        if not 1 / LOUD < scale < LOUD:
            raise ValueError(f"path was made for data of scale {scale:.4g}, but train gives its data scale 1 first: "
                             "use data_separation on Standardise.fit(x).forward(x)")
        if net is None:
            with Draws.of(seed).scope(0):
                net = ResidualMLP(event, width=width, depth=depth, dropout=dropout, classes=classes).to(x.dtype)
        net = net.to(where)
        if compile:
            net.compile()
        # Where noise outgrows the data a network needs both scaled: its input, and an answer that is finite and of size 1 at all times.
        spectral = getattr(path.schedule, "spectral", False)
        loud = not spectral and float(path.coefficients(path.interval[0]).c) > LOUD
        hard = loud or not spectral and path.amplification("velocity") > LARGEST_AMPLIFICATION
        predicts = ("v" if hard else "velocity") if predicts is None else predicts
        unit_input = loud if unit_input is None else unit_input
        when = when if when is not None else LogNormal(-0.5, 1.2) if loud else LogitNormal()
        matching = Matching(path, predicts, when, drop_condition=drop_condition if y is not None else 0.0, unit_input=unit_input)
        pairs = coupling(transform.forward(x).to(where), cond=None if y is None else y.to(where))
        if not path.noise.gaussian and isinstance(pairs, MinibatchOT) and pairs.source is None:
            raise ValueError(f"coupling draws normal noise, but the path has {path.noise}; give MinibatchOT a source of that law, or use Independent")
        if not callable(getattr(pairs, "sample", None)):
            raise TypeError(f"coupling must make an object with a method sample, as Independent does; got {type(pairs).__name__}")
        # A long run ends at rate 0; a warm-up of one step in fifty keeps Adam's first, badly scaled moves small.
        descent = Descent(matching, pairs, batch, partial(torch.optim.Adam, lr=rate, betas=(0.9, 0.99), fused=where.type != "mps"),
                          Cosine(steps, min(steps // 50, 100)), Average(decay), clip, accumulate, PRECISIONS[precision], seed=seed)
        card = {"data": name, "rows": len(x), "steps": steps, "batch": batch, "rate": rate, "seed": Draws.of(seed).seed,
                "precision": precision, "parameters": sum(p.numel() for p in net.parameters())}
        if isinstance(data, Dataset):
            card |= {"meaning": data.meaning, "licence": data.licence, "source": data.source}
        digest = hashlib.sha256(x.detach().cpu().contiguous().numpy())
        if y is not None:
            digest.update(y.cpu().contiguous().numpy())
        # By everything that they are made of: two paths may print alike.
        try:
            made = json.dumps(path.to_json(), sort_keys=True)
        except TypeError:
            made = repr(path)
        paired = {name: value for name, value in sorted(vars(pairs).items()) if isinstance(value, str | int | float | bool)}
        about = {"steps": steps, "path": repr(path), "path_hash": hashlib.sha256(made.encode()).hexdigest(), "predicts": list(matching.predicts),
                 "unit_input": unit_input, "when": repr(matching.when), "coupling": f"{type(pairs).__qualname__} {paired}", "batch": batch, "rate": rate,
                 "width": width, "depth": depth, "dropout": dropout, "drop_condition": matching.drop_condition, "decay": decay, "clip": clip,
                 "accumulate": accumulate, "seed": card["seed"], "precision": precision, "net": type(net).__qualname__, "data": digest.hexdigest()}
        return cls(descent, descent.init(net), matching, transform, event, classes, card, about)

    def model(self, state: DescentState) -> Model:
        """The Model that `state` has learned: its averaged network."""
        field = Field(state.averaged.eval(), self.matching.path, self.matching.predicts, unit_input=self.matching.unit_input)
        return Model(field, self.transform, self.event, classes=self.classes, card={**self.card, "trained_steps": state.step})


def train(
    data: Dataset | Tensor,
    net: nn.Module | None = None,
    *,
    steps: int = 1500,
    checkpoint: str | FilePath | None = None,
    every: int = 500,
    resume: bool = False,
    watch: Iterable[Watcher] = (),
    **settings: Any,
) -> Model:
    """Learn a generative flow of `data` and return a Model.

    data: a Dataset, or a tensor (rows, *event). net: a network of your own, trained in place; default a ResidualMLP with the data's
    classes. steps: minibatches. checkpoint: a folder for the whole state, every `every` steps; with `resume` the run goes on from the
    last one there, if data and settings are the same, and ends where the uninterrupted run would have ended, bit for bit.
    settings: path (Path.linear()), predicts ("velocity"; "v" on paths at whose start a velocity hardly tells the data), unit_input (False),
    coupling (Independent; it is called with the rows and cond), when (LogitNormal()), batch (256), rate (2e-3, with a cosine to 0), width
    (160), depth (3), dropout (0.1), drop_condition (0.1), decay of the averaged weights (0.999), clip (1.0), accumulate (1), seed (0), device
    ("auto"), precision ("fp32" or "bf16"), compile (False). Paths whose noise outgrows the data (VE, EDM) have other defaults: unit_input True
    with "v", when LogNormal(-0.5, 1.2), which is EDM's preconditioning and law of noise levels for data of variance 1. watch: watchers of the run.

    Ctrl-C ends the training after the step under way, with a warning, and the model so far is returned.
    ValueError for data that is empty, constant or not finite, and for settings out of range.
    """
    known = [name for name, p in inspect.signature(Training.prepare).parameters.items() if p.kind is p.KEYWORD_ONLY]
    for name in settings:
        checks.one_of("a setting of train", name, known)
    run = Training.prepare(data, net, steps=steps, **settings)
    state, watchers = run.start, list(watch)
    found = None if checkpoint is None else latest_checkpoint(checkpoint)
    if resume:
        if checkpoint is None:
            raise ValueError("resume needs the folder of the run: pass checkpoint")
        if found is None:
            raise FileNotFoundError(f"{checkpoint} holds no checkpoint to resume from")
        state = load_state(found, state, about=run.about)
    elif found is not None:
        raise ValueError(f"checkpoint {checkpoint} holds a run already ({found.name}): pass resume=True to go on with it, or another folder")
    if checkpoint is not None:
        watchers.append(Checkpoint(checkpoint, every, about=run.about))
    end = evolve(run.descent, state, steps - state.step, watch=watchers, donate=True)
    if end.step < steps:
        warnings.warn(f"training was stopped at step {end.step} of {steps}; the model is what it was there", stacklevel=2)
    return run.model(end)
