"""A mixture of fields, each the expert of one part of the data, by a router that tells how likely a point comes from each part.

  v(x, t) = sum_k p(k | x, t) v_k(x, t),    p(k | x, t) = n_k p_t(x | part k) / sum_j n_j p_t(x | part j)

v_k is the field of part k alone and n_k its size. The sum is the field of all the data: the experts need to know nothing of each other.

Paper: McAllister et al., Decentralized Diffusion Models, 2025, arXiv:2501.05450.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from rheos.core import checks
from rheos.paths.exact import ExactField
from rheos.paths.field import Field
from rheos.paths.path import Path
from rheos.paths.schedules import Coefficients

__all__ = ["LearnedRouter", "Mixture", "PosteriorRouter"]

Router = Callable[[Tensor, Tensor, Any], Tensor]


class Mixture(Field):
    r"""v(x, t) = sum_k p(k | x, t) v_k(x, t), and so for every other kind: they are the same affine functions of one another for all experts.

    fields: at least one, all on one path. router: called as router(x, t, cond) with x (batch, *event), t (batch,); returns (batch, experts),
        log-probabilities or probabilities; `LearnedRouter` and `PosteriorRouter` are two. cond goes to the router and to every expert.
    top: how many of the likeliest experts are asked for a row, their probabilities divided by their sum; None asks all whose probability is not 0.

    An expert is called with the rows that want it and no others, so that with top = 1 a row costs one expert and the router. `nfe` counts the
    experts that a row was asked of (the most that one row had, in each call), `rows` (experts,) how many rows each expert has answered; the
    router's calls are in neither. With `top` the field jumps where the likeliest expert changes: rules of one step (`Euler`, `RungeKutta`) do not
    mind, multistep rules extrapolate across the jump.
    Experts that predict different kinds are read as velocities (two-sided paths: velocity and noise).

    ValueError for no fields, fields on different paths or of different events, and top outside 1 .. experts; on use for a router's answer of
    another shape or that does not sum to 1.

    >>> halves = [Field(lambda x, t, cond, v=v: torch.full_like(x, v), Path.linear()) for v in (1.0, 5.0)]
    >>> router = lambda x, t, cond: torch.tensor([[0.75, 0.25]]).expand(len(x), 2)
    >>> Mixture(halves, router).velocity(torch.zeros(1, 1), 0.5).item(), Mixture(halves, router, top=1).velocity(torch.zeros(1, 1), 0.5).item()
    (2.0, 1.0)
    """

    papers: ClassVar[tuple[str, ...]] = ("2501.05450",)

    def __init__(self, fields: Sequence[Field], router: Router, top: int | None = None):
        self.fields = tuple(fields)
        if not self.fields:
            raise ValueError("fields must hold at least one field, got none")
        for k, field in enumerate(self.fields):
            if not isinstance(field, Field):
                raise TypeError(f"fields must be Fields, got {type(field).__name__} in place {k}")
            if field.path != self.fields[0].path:
                raise ValueError(f"fields must live on one path, got {self.fields[0].path} in place 0 and {field.path} in place {k}")
            if getattr(field, "moves", False):
                raise ValueError(f"fields must answer for the point they are asked at, which the {type(field).__name__} in place {k} does not")
        events = {tuple(field.event) for field in self.fields if field.event is not None}
        if len(events) > 1:
            raise ValueError(f"fields must have one event shape, got {sorted(events)}")
        if not callable(router):
            raise TypeError(f"router must be callable as router(x, t, cond), got {type(router).__name__}")
        if top is not None and not 1 <= checks.integer("top", top) <= len(self.fields):
            raise ValueError(f"top must lie in 1 .. {len(self.fields)}, the number of fields, got {top}")
        self.router, self.top = router, top
        path = self.fields[0].path
        kinds = self.fields[0].predicts
        if any(set(field.predicts) != set(kinds) for field in self.fields):
            kinds = ("velocity", "noise") if path.two_sided else ("velocity",)
        # One module of all, so that who puts `net` into evaluation mode, or onto a device, reaches every one of them.
        nets = [getattr(part, "net", part) for part in (*self.fields, router)]
        super().__init__(nn.ModuleList(net for net in nets if isinstance(net, nn.Module)), path, kinds)
        self.rows = torch.zeros(len(self.fields), dtype=torch.int64)

    @property
    def event(self) -> tuple[int, ...] | None:
        return next((tuple(field.event) for field in self.fields if field.event is not None), None)

    @property
    def like(self) -> Tensor:
        return self.fields[0].like

    def weights(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        """The probabilities with which the experts' answers are joined, (batch, experts), at times t (batch,): 0 for those that `top` leaves out."""
        told = checks.tensor("router's answer", self.router(x, t, cond), floating=True)
        checks.shape_of("router's answer", told, (len(x), len(self.fields)))
        weights = _probabilities(told).to(x.real.dtype if x.is_complex() else x.dtype)
        if self.top is None or self.top == len(self.fields):
            return weights
        # A stable order: which of two equal experts is asked must not depend on the batch.
        kept = weights.argsort(dim=-1, descending=True, stable=True)[:, : self.top]
        weights = torch.zeros_like(weights).scatter_(-1, kept, weights.gather(-1, kept))
        return weights / weights.sum(-1, keepdim=True)

    def _ask(self, x: Tensor, t: Tensor, cond: Any, at: Coefficients) -> dict[str, Tensor]:
        weights = self.weights(x, t, cond)
        wanted = weights > 0
        mixed: dict[str, Tensor] = {}
        for k, field in enumerate(self.fields):
            rows = wanted[:, k].nonzero().flatten()
            if not len(rows):
                continue
            self.rows[k] += len(rows)
            whole = len(rows) == len(x)
            here = x if whole else x[rows]
            there = at if whole else Coefficients(*(v[rows] if isinstance(v, Tensor) and v.ndim and len(v) == len(x) else v for v in at))
            answer = field._ask(here, t if whole else t[rows], cond if whole else _taken(cond, rows), there)
            read = self.path.prediction(answer, here, there)
            share = weights[rows, k].reshape(-1, *(1,) * (x.ndim - 1))
            for kind in self.predicts:
                part = share * read.of(kind)
                mixed[kind] = mixed.get(kind, torch.zeros_like(x)).index_add(0, rows, part.to(x.dtype)) if not whole else mixed.get(kind, 0.0) + part
        self.nfe += int(wanted.sum(-1).max()) if len(x) else 0
        return mixed if mixed else {kind: torch.zeros_like(x) for kind in self.predicts}


def _probabilities(told: Tensor) -> Tensor:
    """Rows that sum to 1, from probabilities or their logarithms. ValueError for rows that are neither.

    No row can be both: probabilities that are all 0 or 1 and logarithms that are all 0 sum to different numbers.
    """
    slack = len(told[0]) * torch.finfo(told.dtype).eps ** 0.5 if len(told) else 0.0
    plain, log_sum = told.sum(-1), torch.logsumexp(told, -1)
    if bool((told >= 0).all()) and bool(((plain - 1).abs() <= slack).all()):
        return told / plain[:, None]
    if bool((log_sum.abs() <= slack).all()):
        return torch.softmax(told, -1)
    if bool((told >= 0).all()):
        worst = int((plain - 1).abs().argmax())
        raise ValueError(f"router must return probabilities that sum to 1 in every row, or their logarithms, got a sum of {float(plain[worst]):g} "
                         f"in row {worst}")
    worst = int(torch.nan_to_num(log_sum, nan=math.inf).abs().argmax())
    raise ValueError(f"router must return log-probabilities, normalised (use log_softmax), or probabilities; got logarithms of numbers "
                     f"that sum to {float(log_sum[worst].exp()):g} in row {worst}")


def _taken(cond: Any, rows: Tensor) -> Any:
    if isinstance(cond, dict):
        return {name: _taken(value, rows) for name, value in cond.items()}
    return None if cond is None else cond[rows]


@dataclass(frozen=True, eq=False)
class LearnedRouter:
    """log p(k | x, t) by a network that gives logits, `net(x, t, cond) -> (batch, experts)`, such as `objectives.CrossEntropy` trains.

    path: the experts'. unit_input: whether the network is shown x / sqrt(alpha^2 + sigma^2), as it was in training.
    """

    net: Callable[..., Tensor]
    path: Path
    unit_input: bool = False

    def __post_init__(self):
        if not callable(self.net):
            raise TypeError(f"net must be callable as net(x, t, cond), got {type(self.net).__name__}")
        if not isinstance(self.path, Path):
            raise TypeError(f"path must be a Path, got {type(self.path).__name__}")
        checks.flag("unit_input", self.unit_input)

    def __call__(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        """(batch, experts) log-probabilities at times t (batch,)."""
        return torch.log_softmax(self.net(self.path.unit(x, self.path.coefficients(t)) if self.unit_input else x, t, cond), -1)


class PosteriorRouter:
    """log p(k | x, t) in closed form, from the parts' exact fields and sizes.

    parts: exact fields on one path. sizes: (experts,) positive, how much of the data each part is (rows or shares): without them rare parts are
    asked too often. ValueError for sizes that do not fit.
    """

    def __init__(self, parts: Sequence[ExactField], sizes: Tensor | Sequence[float]):
        self.parts = tuple(parts)
        for k, part in enumerate(self.parts):
            if not isinstance(part, ExactField):
                raise TypeError(f"parts must be ExactFields, got {type(part).__name__} in place {k}")
        sizes = torch.as_tensor(sizes, dtype=torch.float64)
        if sizes.shape != (len(self.parts),) or not bool((sizes > 0).all() & sizes.isfinite().all()):
            raise ValueError(f"sizes must be {len(self.parts)} positive numbers, one a part, got {sizes.tolist()}")
        self.sizes = sizes

    def __call__(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        """(batch, experts) log-probabilities at times t (batch,)."""
        densities = torch.stack([part.log_prob(x, t, cond) for part in self.parts], -1)
        return torch.log_softmax(densities + self.sizes.log().to(densities), -1)
