"""Masked diffusion of text and tables: from data whose rows are tokens to a model, and from the model to rows of the data's own kind."""
from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path as FilePath
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

import rheos
from rheos.core import Draws, Watcher, checks
from rheos.core.files import load_json
from rheos.couplings import Independent
from rheos.data import Dataset, Encoding, Tokens, encoding_from_json
from rheos.data.discrete import Discrete, TableTokens, discrete
from rheos.models.conditions import Conditions
from rheos.models.devices import pick_device
from rheos.models.folder import write_model
from rheos.models.learn import DEFAULT_STEPS, MOST_BATCH, PRECISIONS, SCHEDULES, _check_memory
from rheos.models.model import Model, _check_conditions, _checked_tensors, _fill, _network, _public_name
from rheos.models.running import MOST_TIMED, carried, fitting
from rheos.models.transforms import Standardise
from rheos.nets.token_transformer import TokenTransformer
from rheos.objectives.masked_tokens import MaskedTokens, nll_bound
from rheos.paths.masked import MaskedPath
from rheos.paths.masked_field import MaskedField
from rheos.samplers.masked import FirstHitting, UnmaskingRule, sample_tokens
from rheos.training import Average, Descent, DescentState

__all__ = ["MaskedModel", "MaskedTraining", "train_masked"]

FORMAT = 1
KIND = "masked"
# Width, depth and rows of a minibatch: of text, and of a table, whose rows are short.
HABITS = {"tokens": (128, 3, 64), "columns": (64, 2, 256)}
RATE = 5e-3


class MaskedModel(Model):
    """A trained field of tokens with what belongs to it: `sample` gives encoded rows, as any model of text or tables does.

    field: the averaged network on its masked path. tokens: encoded rows to ids and back. encoding: encoded rows to text or a table's columns.
    event: shape of one encoded row. conditions, card: as in `Model`.
    """

    def __init__(self, field: MaskedField, tokens: Discrete, encoding: Encoding, *, conditions: Conditions | None = None, card: dict | None = None):
        if not isinstance(field, MaskedField):
            raise TypeError(f"field must be a MaskedField, got {type(field).__name__}")
        if field.path.vocab != tokens.vocab:
            raise ValueError(f"the path has the vocabulary {field.path.vocab}, the data's tokens {tokens.vocab}")
        if card is not None and not isinstance(card, dict):
            raise TypeError(f"card must be a dict, got {type(card).__name__}")
        # What `Model` holds, whose own door asks for a field of another kind.
        self.field, self.transform, self.event = field, Standardise.none(torch.zeros(1, 1)), tuple(encoding.event)
        self.conditions, self.encoding, self.card = Conditions() if conditions is None else conditions, encoding, dict(card or {})
        self.tokens = tokens
        self.length = len(tokens.vocab) if isinstance(tokens.vocab, tuple) else int(encoding.event[-1])
        if field.event not in (None, (self.length,)):
            raise ValueError(f"the network has rows of {field.event[0]} tokens, the data of {self.length}")

    def sample(
        self,
        n: int,
        *,
        cond: Any = None,
        guidance: float | None = None,
        rule: UnmaskingRule | None = None,
        steps: int | None = None,
        temperature: float = 1.0,
        start: Int64[Tensor, "rows length"] | None = None,
        seed: int | Draws = 0,
        batch: int | None = 256,
        first: int = 0,
        watch: Iterable[Watcher] = (),
    ) -> Float[Tensor, "rows *event"]:
        """Draw `n` encoded rows (n, *event): `encoding.decode` makes text or columns of them. Numbers of a table are uniform inside their bin.

        steps: at most so many network calls, several tokens from one where a row has more tokens (they are then drawn as if independent); by
        default one a token, which is exact. rule: another way to unmask, which knows its own steps. temperature, start: see `sample_tokens`.
        cond: as in `Model`. ValueError for steps beside a rule, and for a class that does not exist.
        """
        ids = self.sample_ids(n, cond=cond, guidance=guidance, rule=rule, steps=steps, temperature=temperature, start=start, seed=seed, batch=batch,
                              first=first, watch=watch)
        return self.tokens.from_ids(ids, seed=seed, first=first)

    def sample_ids(self, n: int, *, cond: Any = None, guidance: float | None = None, rule: UnmaskingRule | None = None, steps: int | None = None,
                   temperature: float = 1.0, start: Int64[Tensor, "rows length"] | None = None, seed: int | Draws = 0, batch: int | None = 256,
                   first: int = 0, watch: Iterable[Watcher] = ()) -> Int64[Tensor, "rows length"]:
        """The token ids of `sample`, (n, length)."""
        n = checks.integer("n", n, least=1)
        if steps is not None and rule is not None:
            raise ValueError(f"steps and rule exclude each other, as a rule knows its steps; got {steps} and {rule}")
        if rule is None:
            rule = FirstHitting(1 if steps is None else -(-self.length // checks.integer("steps", steps, least=1)))
        free = cond is None and guidance is None
        told = self.classes_as_in_the_data(n, seed=seed, first=first) if free else self.conditions.tensor(cond, n)
        if start is None:
            start = torch.full((n, self.length), self.field.path.mask)
        return sample_tokens(self.field, n, rule=rule, start=start, cond=told, guidance=guidance, temperature=temperature, seed=seed, batch=batch,
                             first=first, watch=watch)

    def nll(self, data: Dataset, *, repeats: int = 1, seed: int | Draws = 0, batch: int = 256) -> Float[Tensor, " rows"]:
        """The bound on -log p of each row of `data`, of this model's encoding, in nats a token; see `nll_bound`. Of numbers it is their bin's.

        ValueError for data of another encoding.
        """
        if data.encoding != self.encoding:
            raise ValueError(f"{data.name} is encoded in another way than the data of this model")
        cond = Conditions.of(data, self.conditions.kind)[1]
        return nll_bound(self.field, self.tokens.ids(data.x).to(self.field.device), cond, repeats=repeats, seed=seed, batch=batch)

    def save(self, folder: str | FilePath) -> FilePath:
        """Write one safetensors file and one model.json to `folder`; the old model stays good until the new one is whole.

        TypeError or ValueError for a card that is not JSON.
        """
        net = self.field.net
        return write_model(folder, {f"net.{name}": value for name, value in net.state_dict().items()}, {
            "format": FORMAT, "kind": KIND, "rheos": rheos.__version__, "event": list(self.event), "classes": self.classes, "labels": self.labels,
            "embedder": self.conditions.embedder, "encoding": self.encoding.to_json(),
            "bins": self.tokens.to_json()["bins"] if isinstance(self.tokens, TableTokens) else None, "path": self.field.path.to_json(),
            "net": {"class": _public_name(type(net)), "settings": getattr(net, "settings", None)}, "card": self.card,
        })

    @classmethod
    def load(cls, folder: str | FilePath, *, net: nn.Module | None = None, device: str = "cpu") -> MaskedModel:
        """The model saved in `folder`. net: a network for its weights, needed if it is not one of rheos' own.

        Only rheos classes are built from the file. FileNotFoundError if there is no model; ValueError that names the file if it is damaged,
        of another kind or format, or names a class that rheos will not build.
        """
        folder, where = FilePath(folder), pick_device(device)
        place = folder / "model.json"
        if not place.is_file():
            raise FileNotFoundError(f"{folder} holds no model: {place} does not exist")
        found = load_json(place)
        if not isinstance(found, dict) or found.get("kind") != KIND or type(found.get("format")) is not int or found["format"] != FORMAT:
            form = (found.get("kind"), found.get("format")) if isinstance(found, dict) else None
            raise ValueError(f"{place} has model kind and format {form}, a masked model has {(KIND, FORMAT)}")
        try:
            tensors = _checked_tensors(folder, found["tensors"], found["sha256"], place)
            field = MaskedField(_network(found["net"], tensors) if net is None else net, MaskedPath.from_json(found["path"]))
            encoding, labels = encoding_from_json(found["encoding"]), found["labels"]
            tokens = encoding if isinstance(encoding, Tokens) else TableTokens.from_json(encoding, {"bins": found["bins"]})
            conditions = Conditions(found["classes"], None if labels is None else tuple(labels), found["embedder"])
            if list(encoding.event) != found["event"]:
                raise ValueError(f"event is {found['event']}, but its encoding has {list(encoding.event)}")
            _check_conditions(field.net, conditions)
            model = cls(field, tokens, encoding, conditions=conditions, card=found["card"])
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{place} is damaged: {type(error).__name__} {error}") from None
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from None
        _fill(field.net, tensors, folder / found["tensors"])
        return model.to(where)


@dataclass(frozen=True, eq=False)
class MaskedTraining:
    """A prepared training run: the dynamics, its start, and how an end state becomes a model.

    about: what decides the run, JSON-able: its settings and a hash of its data, for checkpoints to compare.
    """

    descent: Descent
    start: DescentState
    objective: MaskedTokens
    tokens: Discrete
    encoding: Encoding
    conditions: Conditions
    card: dict
    about: dict

    @classmethod
    def prepare(
        cls,
        data: Dataset,
        net: nn.Module | str = "auto",
        *,
        steps: int = DEFAULT_STEPS,
        form: str = "count",
        eps: float = 0.0,
        condition: str = "auto",
        batch: int | None = None,
        rate: float = RATE,
        schedule: str = "cosine",
        width: int | None = None,
        depth: int | None = None,
        dropout: float = 0.0,
        drop_condition: float = 0.1,
        decay: float = 0.999,
        clip: float | None = 1.0,
        accumulate: int = 1,
        seed: int | Draws = 0,
        device: str = "auto",
        precision: str = "fp32",
        compile: bool = False,
    ) -> MaskedTraining:
        """Check the settings, see `train_masked`, and build the run."""
        steps, where = checks.integer("steps", steps, least=1), pick_device(device)
        checks.one_of("precision", precision, PRECISIONS)
        checks.one_of("schedule", schedule, SCHEDULES)
        if not isinstance(data, Dataset):
            raise TypeError(f"data must be a Dataset of text or a table, got {type(data).__name__}")
        if not isinstance(net, nn.Module) and net != "auto":
            raise TypeError(f"net must be a network or auto, got {net!r}")
        rate = checks.positive("rate", rate)
        checks.between("drop_condition", drop_condition, 0.0, 1.0, high_open=True)
        tokens = discrete(data)
        width, depth, batch = (usual if given is None else given for given, usual in zip((width, depth, batch), HABITS[data.encoding.kind], strict=True))
        if checks.integer("batch", batch, least=1) > MOST_BATCH:
            raise ValueError(f"batch must be at most {MOST_BATCH:,}, got {batch:,}")
        ids, (conditions, cond) = tokens.ids(data.x), Conditions.of(data, condition)
        objective = MaskedTokens(MaskedPath(tokens.vocab, eps), form, drop_condition=drop_condition if cond is not None else 0.0)
        if isinstance(net, str):
            build = partial(TokenTransformer, ids.shape[1], tokens.vocab, width=width, depth=depth, dropout=dropout, classes=conditions.classes,
                            features=conditions.features)
            with torch.device("meta"):      # without memory first
                _check_memory(4 * sum(p.numel() for p in build().parameters()), where)
            with Draws.of(seed).scope(0):
                net = build()
        net = net.to(where)
        if compile:
            net.compile()
        pairs = Independent(ids.to(where), cond=None if cond is None else cond.to(where))
        descent = Descent(objective, pairs, batch, partial(torch.optim.Adam, lr=rate, betas=(0.9, 0.99), fused=where.type != "mps"),
                          SCHEDULES[schedule](steps, min(steps // 50, 100)), Average(decay), clip, accumulate, PRECISIONS[precision], seed=seed)
        card = {"data": data.name, "rows": len(ids), "steps": steps, "batch": batch, "rate": rate, "seed": Draws.of(seed).seed, "precision": precision,
                "parameters": sum(p.numel() for p in net.parameters()), "meaning": data.meaning, "licence": data.licence, "source": data.source,
                "condition": conditions.kind, "path": "masked", "form": form}
        digest = hashlib.sha256(ids.numpy())
        if conditions.kind == "label":
            card["class_counts"] = torch.bincount(cond.cpu(), minlength=conditions.classes).tolist()
        if conditions.kind == "caption":            # not their vectors, whose last digits are the embedder's
            digest.update("\0".join(data.captions).encode())
        elif cond is not None:
            digest.update(cond.cpu().contiguous().numpy())
        about = {"kind": KIND, "steps": steps, "path": json.dumps(objective.path.to_json()), "form": form, "condition": conditions.kind, "batch": batch,
                 "rate": rate, "schedule": schedule, "drop_condition": objective.drop_condition, "decay": decay, "clip": clip, "accumulate": accumulate,
                 "seed": card["seed"], "precision": precision, "net": type(net).__qualname__,
                 "made": json.dumps(getattr(net, "settings", None), sort_keys=True, default=repr), "data": digest.hexdigest()}
        return cls(descent, descent.init(net), objective, tokens, data.encoding, conditions, card, about)

    def model(self, state: DescentState) -> MaskedModel:
        """The model that `state` has learned: its averaged network."""
        field = MaskedField(state.averaged.eval(), self.objective.path)
        return MaskedModel(field, self.tokens, self.encoding, conditions=self.conditions, card={**self.card, "trained_steps": state.step})


def train_masked(
    data: Dataset,
    net: nn.Module | str = "auto",
    *,
    steps: int | None = None,
    budget: float | None = None,
    checkpoint: str | FilePath | None = None,
    every: int = 500,
    resume: bool = False,
    watch: Iterable[Watcher] = (),
    **settings: Any,
) -> MaskedModel:
    """Learn to fill hidden tokens of text (by bytes) or of a table (by columns), and return a model that draws rows from nothing but masks.

    data: a Dataset whose encoding is `Tokens` or `Columns`. net: a network of your own, net(x, t, cond) on ids, trained in place, or "auto", a
    `TokenTransformer`. Numbers of a table become at most 32 tokens, see `TableTokens`.
    steps, budget, checkpoint, every, resume, watch: as in `train`.
    settings: form of the loss ("count", see `MaskedTokens`), eps (0, see `MaskedPath`), width (128; of a table 64), depth (3; 2), batch (64; 256),
    rate (5e-3), dropout (0), and condition, schedule, drop_condition, decay, clip, accumulate, seed, device, precision, compile as in `train`.
    ValueError for data that are no tokens, and for settings out of range.
    """
    known = [name for name, p in inspect.signature(MaskedTraining.prepare).parameters.items() if p.kind is p.KEYWORD_ONLY]
    for name in settings:
        checks.one_of("a setting of train_masked", name, known)
    if budget is not None and (steps is not None or resume):
        raise ValueError(f"budget chooses the steps of a run that begins, so it goes with neither steps nor resume; got {budget}")
    if budget is not None:
        steps = fitting(MaskedTraining.prepare(data, net, steps=MOST_TIMED + 2, **settings), budget)
    steps = DEFAULT_STEPS if steps is None else steps
    run = MaskedTraining.prepare(data, net, steps=steps, **settings)
    return run.model(carried(run, steps, checkpoint=checkpoint, every=every, resume=resume, watch=watch))
