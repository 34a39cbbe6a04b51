"""Minority guidance: towards samples as rare, or as common, as asked for.

A datum is noised to time t and denoised in one shot; how far it is carried is its minority score, l(x) = E_z d(x, data(b x + c z, t)): what lies where
data are thin is pulled towards their bulk. Data are labelled by the quantile bin of l, a classifier learns the bin from noised data, and samples are
guided to a bin by its gradient.

Paper: Um, Lee and Ye, Don't play favorites: minority guidance for diffusion models, 2023, arXiv:2301.12334. Their distance is LPIPS, ours the squared
distance or a given one; 100 bins, ours 10.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.optim import AdamW

from rheos.core import Draws, checks, evolve
from rheos.couplings import Independent, Pair
from rheos.guidance.classifier import ClassifierGuided
from rheos.nets import Condition
from rheos.paths import Field, Path
from rheos.paths.asking import evaluating
from rheos.training import Cosine, Descent

__all__ = ["MinorityGuidance", "NoisyClassifier", "minority_score"]

Distance = Callable[[Tensor, Tensor], Tensor]
LAM = -1.0      # log(alpha / sigma) where data are scored unless told otherwise: about 60 of the 100 steps of the paper's models


def squared_distance(x: Tensor, y: Tensor) -> Tensor:
    """|x - y|^2 of each row, (batch,)."""
    return (x - y).square().flatten(1).sum(1)


@torch.no_grad()
def minority_score(field: Field, x: Float[Tensor, "rows *event"], t: float | None = None, draws: int = 5, distance: Distance | None = None, *,
                   cond: Any = None, batch: int = 1024, seed: int | Draws = 0) -> Float[Tensor, " rows"]:
    """How far each datum x (rows, *event), in the field's units, is carried by one shot of noise and denoising, (rows,): large for rare ones.

    t: the time noised to; None: where alpha / sigma is 1/e. Too near 1 all data stay where they are, too near 0 all go to the mean. draws: how often, 5 as
    in the paper. distance: (x, data prediction) -> (batch,), the squared distance unless given; cond: told to the field, batch first.
    seed: of the noise, the same for a row whatever the `batch` (rows at once). ValueError for data or distances that are not finite.
    """
    if not isinstance(field, Field):
        raise TypeError(f"field must be a Field, got {type(field).__name__}")
    if field.path.two_sided:
        raise ValueError("minority_score needs a field on a one-sided path, got a two-sided one")
    t, draws = _scoring_time(field.path, t), checks.integer("draws", draws, least=1)
    if not len(x):
        raise ValueError("x must hold at least one row, got none")
    checks.finite("x", x)
    distance, size = squared_distance if distance is None else distance, checks.integer("batch", batch, least=1)
    parts = []
    for first in range(0, len(x), size):
        rows = x[first : first + size]
        told = None if cond is None else {k: v[first : first + size] for k, v in cond.items()} if isinstance(cond, dict) else cond[first : first + size]
        total = torch.zeros(len(rows), dtype=torch.float64, device=x.device)
        for draw in range(draws):
            z = field.path.noise.draw(tuple(rows.shape), seed=seed, purpose="minority noise", step=draw, first=first, like=rows)
            there = field.path.sample(rows, torch.full((len(rows),), t, dtype=torch.float64, device=x.device), z=z).x
            far = distance(rows, field.data(there, t, told))
            if far.shape != rows.shape[:1]:
                raise ValueError(f"distance must return shape ({len(rows)},), one number a row, got {tuple(far.shape)}")
            total += checks.finite("distance", far)
        parts.append((total / draws).to(x.dtype))
    return torch.cat(parts)


def _scoring_time(path: Path, t: float | None) -> float:
    return float(path.time_at(LAM)) if t is None else checks.between("t", t, 0.0, 1.0, low_open=True, high_open=True)


class NoisyClassifier(nn.Module):
    """(x (batch, *event), t (batch,)) -> logits (batch, classes): a multilayer perceptron that is told the time in every layer."""

    def __init__(self, event: Sequence[int], classes: int, *, width: int = 128, depth: int = 3):
        super().__init__()
        self.event = tuple(event)
        size = math.prod(self.event)
        self.layers = nn.ModuleList(nn.Linear(size if i == 0 else width, width) for i in range(checks.integer("depth", depth, least=1)))
        self.told = Condition(width)
        self.shifts = nn.ModuleList(nn.Linear(width, width) for _ in self.layers)
        self.leave = nn.Linear(width, checks.integer("classes", classes, least=2))

    def forward(self, x: Float[Tensor, "batch *event"], t: Float[Tensor, " batch"]) -> Float[Tensor, "batch classes"]:
        h, told = x.flatten(1), nn.functional.silu(self.told(t))
        for layer, shift in zip(self.layers, self.shifts, strict=True):
            h = nn.functional.silu(layer(h) + shift(told))
        return self.leave(h)


@dataclass(frozen=True, eq=False)
class MinorityGuidance:
    """Fields guided to a bin of the minority score; made by `fit`.

    inner: the field that is steered. classifier: (unit x, t) -> logits (batch, bins), in evaluation mode; unit x is x / sqrt(alpha^2 + sigma^2).
    edges: (bins - 1,), the scores between the bins, from common to rare. scores: (rows,) of the data it was fitted on, labels: (rows,) their bins.
    """

    inner: Field
    classifier: nn.Module
    edges: Tensor
    scores: Tensor
    labels: Tensor

    @property
    def bins(self) -> int:
        return len(self.edges) + 1

    @classmethod
    def fit(cls, field: Field, x: Float[Tensor, "rows *event"], *, bins: int = 10, t: float | None = None, draws: int = 5,
            distance: Distance | None = None, cond: Any = None, net: nn.Module | None = None, steps: int = 2000, batch: int = 256, rate: float = 1e-3,
            seed: int | Draws = 0) -> MinorityGuidance:
        """Score the data x (rows, *event), in the field's units, and train a classifier of their bins on noised data.

        bins: of equally many rows each. t, draws, distance, cond: see `minority_score`. net: any module (x, t) -> logits (batch, bins), which is trained in
        place; a `NoisyClassifier` unless given. steps, batch, rate: of AdamW, the rate falling to 0 as a cosine.
        ValueError with the bins' counts if equal scores leave a bin empty, and for a net of other outputs.
        """
        draws_of = Draws.of(seed)
        bins = checks.integer("bins", bins, least=2)
        if len(x) < bins:
            raise ValueError(f"bins must be at most the {len(x)} rows of x, got {bins}")
        scores = minority_score(field, x, t, draws, distance, cond=cond, seed=draws_of.child("scores"))
        edges, labels = quantile_bins(scores, bins)
        if net is None:
            with draws_of.scope(0):
                net = NoisyClassifier(tuple(x.shape[1:]), bins).to(x)
        with torch.no_grad(), evaluating(net):
            told = net(x[:2], torch.full((len(x[:2]),), 0.5, dtype=x.dtype, device=x.device))
        if not isinstance(told, Tensor) or told.shape != (len(x[:2]), bins):
            got = tuple(told.shape) if isinstance(told, Tensor) else type(told).__name__
            raise ValueError(f"net must return logits of shape (batch, {bins}), one a bin, got {got} for {len(x[:2])} rows")
        coupling = Independent(x, cond=labels)
        fit = Descent(_Entropy(field.path), coupling, batch, partial(AdamW, lr=checks.positive("rate", rate)), Cosine(checks.integer("steps", steps, least=1)),
                      seed=draws_of.child("classifier"))
        trained = evolve(fit, fit.init(net.train()), steps, donate=True).net
        return cls(field, trained.eval().requires_grad_(False), edges, scores, labels)

    def log_prob(self, x: Float[Tensor, "batch *event"], t: Float[Tensor, " batch"] | float) -> Float[Tensor, "batch bins"]:
        """log p(bin | x_t = x, t) of all bins; t one a row, or one number for all."""
        t = t if isinstance(t, Tensor) else torch.full((len(x),), checks.between("t", t, 0.0, 1.0), dtype=torch.float64, device=x.device)
        kind = next((p.dtype for p in self.classifier.parameters()), x.dtype)       # what the classifier computes in
        return torch.log_softmax(self.classifier(_unit(self.inner.path, x, t).to(kind), t.to(kind)), -1).to(x.dtype)

    def field(self, bin: int = -1, scale: float = 3.5) -> ClassifierGuided:
        """The field guided to `bin`, 0 the commonest and bins - 1, or -1, the rarest. scale: 3.5 as in the paper.

        ValueError for a bin that does not exist.
        """
        if not -self.bins <= checks.integer("bin", bin) < self.bins:
            raise ValueError(f"bin must lie in [-{self.bins}, {self.bins - 1}], got {bin}")
        return ClassifierGuided(self.inner, lambda x, t: self.log_prob(x, t)[:, bin], scale)


def quantile_bins(scores: Float[Tensor, " rows"], bins: int) -> tuple[Float[Tensor, " edges"], Int64[Tensor, " rows"]]:
    """(edges (bins - 1,), bin of each row): bins of equally many rows, as far as ties allow; a score on an edge is of the rarer bin.
    ValueError with the counts if one is empty."""
    edges = torch.quantile(scores.double(), torch.linspace(0, 1, bins + 1, dtype=torch.float64, device=scores.device)[1:-1])
    labels = torch.bucketize(scores.double(), edges, right=True)
    counts = torch.bincount(labels, minlength=bins)
    if bool((counts == 0).any()):
        raise ValueError(f"bins must not be empty, got {counts.tolist()} rows in them: many scores are equal, so ask for fewer bins")
    return edges.to(scores.dtype), labels


@dataclass(frozen=True)
class _Entropy:
    """The classifier's loss: -log p(bin | x_t, t) with t uniform on the path's interval."""

    path: Path

    def __call__(self, net: nn.Module, pair: Pair, *, seed: Draws, step: int) -> Tensor:
        low, high = self.path.interval
        u = seed.uniform("classifier time", step, (len(pair.x1),), device=pair.x1.device, dtype=torch.float64, ahead=True)
        t = low + (high - low) * u
        x = self.path.sample(pair.x1, t, seed=seed, step=step).x
        return nn.functional.cross_entropy(net(_unit(self.path, x, t), t.to(x.dtype)), pair.cond)


def _unit(path: Path, x: Tensor, t: Tensor) -> Tensor:
    return path.unit(x, path.coefficients(t.double()))
