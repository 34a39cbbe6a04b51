"""Tilting and multiplying: the field of the path's laws raised to powers, multiplied, and weighed by a reward.

At every time the target is proportional to prod_j q_j(x)^a_j exp(beta(t) r(x)), so that its score is S = sum_j a_j s_j + beta grad r. Annealing is
one field with a > 1, a product of experts has a = (1, 1), and classifier-free guidance of scale w is q_u^(1 - w) q_c^w: one network, asked
once for all conditions. The targets are no laws of one path, so that sampling along this field alone misses them; `FeynmanKac` mends that.

Paper: Skreta et al., Feynman-Kac correctors in diffusion, 2025, arXiv:2503.02819.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Inexact
from torch import Tensor, nn

from rheos.core import checks
from rheos.guidance.classifier import ClassifierGuided
from rheos.guidance.classifier_free import ClassifierFree
from rheos.guidance.residual import ResidualCFG
from rheos.nets import without_condition
from rheos.paths import Coefficients, Field

__all__ = ["Reward", "Tilted", "Weighed", "tilt"]

Term = Field | tuple[Field, Any]


def _as_it_is(t: float) -> float:
    return t


@dataclass(frozen=True, eq=False)
class Reward:
    """exp(strength(t) value(x)): samples with a large value are wanted more, the more the nearer to the data.

    value: x (batch, *event) -> (batch,), differentiable. strength: beta, a function of t, best 0 where the run begins; t itself unless given.
    """

    value: Callable[[Tensor], Tensor]
    strength: Callable[[float], float] = _as_it_is

    def __post_init__(self):
        for name in ("value", "strength"):
            if not callable(getattr(self, name)):
                raise TypeError(f"{name} must be callable, got {type(getattr(self, name)).__name__}")

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """value (batch,) and its gradient (batch, *event) at x. ValueError for another shape."""
        with torch.enable_grad():
            place = x.detach().requires_grad_()
            value = self.value(place)
            if value.shape != x.shape[:1]:
                raise ValueError(f"value of a reward must return shape ({len(x)},), one number a row of x, got {tuple(value.shape)}")
            (slope,) = torch.autograd.grad(value.sum(), place)
        return value.detach(), slope


class Weighed(NamedTuple):
    """What one call of a `Tilted` field tells a corrector at x (batch, *event) and t.

    noise: sum a_j n_j, (batch, *event), of the noise predictions n_j = -c s_j, without the reward. squares: c^2 sum a_j |s_j|^2, (batch,),
    and square: c^2 |sum a_j s_j|^2, (batch,), both float64; excess: square - squares, by a formula in which equal fields cancel exactly.
    reward: value (batch,), slope: its gradient, or None.
    """

    noise: Tensor
    square: Tensor
    squares: Tensor
    excess: Tensor
    reward: Tensor | None
    slope: Tensor | None


class Tilted(Field):
    """The field of score sum_j a_j s_j (+ beta grad r); make one with `tilt`. `nfe` counts its calls, each inner field's its network's."""

    def __init__(self, terms: Sequence[tuple[Field, Any]], exponents: Sequence[float], reward: Reward | None = None):
        self.terms, self.exponents, self.reward = tuple(terms), tuple(exponents), reward
        self.fields = tuple(dict.fromkeys(field for field, _ in self.terms))        # each once, in order
        nets = [field.net for field in self.fields if isinstance(field.net, nn.Module)]
        super().__init__(nn.ModuleList(nets) if nets else self._cannot, self.fields[0].path, "noise")

    @staticmethod
    def _cannot(*_: Any) -> Tensor:
        raise NotImplementedError("a tilted field has no network of its own")

    @property
    def total(self) -> float:
        """sum a_j: the target's noise has the variance c^2 / total."""
        return sum(self.exponents)

    @property
    def event(self) -> tuple[int, ...] | None:
        return next((field.event for field in self.fields if field.event is not None), None)

    @property
    def like(self) -> Tensor:
        return self.fields[0].like

    def _noises(self, x: Tensor, t: Tensor, cond: Any, at: Coefficients) -> list[Tensor]:
        """Each term's noise prediction: one call a field, its conditions side by side in one batch."""
        self.nfe += 1
        noises: dict[int, Tensor] = {}
        for field in self.fields:
            mine = [j for j, (owner, _) in enumerate(self.terms) if owner is field]
            conds = _conditions([_inherited(self.terms[j][1], cond) for j in mine], len(x), x.device)
            many = len(mine)
            wide = Coefficients(*(torch.cat([v] * many) if isinstance(v, Tensor) and v.ndim else v for v in at))
            known = field._ask(torch.cat([x] * many), torch.cat([t] * many), conds, wide)
            noise = field.path.prediction(known, torch.cat([x] * many), wide).noise
            noises |= dict(zip(mine, noise.chunk(many), strict=True))
        return [noises[j] for j in range(len(self.terms))]

    def _ask(self, x: Tensor, t: Tensor, cond: Any, at: Coefficients) -> dict[str, Tensor]:
        noise = _sum(self.exponents, self._noises(x, t, cond, at))
        if self.reward is not None:
            if t.unique().numel() > 1:
                raise ValueError("a field with a reward needs one time for all rows, got several")
            pull = self.path.prediction({"score": self.reward.strength(float(t[0])) * self.reward(x)[1]}, x, at)
            noise = noise + pull.noise
        return {"noise": noise}

    def weighed(self, x: Inexact[Tensor, "batch *event"], t: float, cond: Any = None, *, at: Coefficients | None = None) -> Weighed:
        """What `FeynmanKac` needs at x and one time t for all rows, from one call. `at`: the path's coefficients at t, if known already."""
        rows = torch.full((len(x),), t, dtype=x.dtype, device=x.device)
        noises = self._noises(x, rows, cond, self.path.coefficients(t) if at is None else at)
        noise, total = _sum(self.exponents, noises), self.total
        mean = noise / total
        of_mean = _square(mean)
        spread = sum(a * _square(n - mean) for a, n in zip(self.exponents, noises, strict=True))
        reward, slope = (None, None) if self.reward is None else self.reward(x)
        # |N|^2 - sum a |n|^2 would lose the digits of what differs; with m = N / sum a it is sum a (sum a - 1) |m|^2 - sum a |n - m|^2.
        return Weighed(noise, total**2 * of_mean, total * of_mean + spread, total * (total - 1) * of_mean - spread, reward, slope)


class _Called:
    """Stands for the condition of the call."""

    def __repr__(self) -> str:
        return "the call's condition"


CALLED = _Called()
GUIDED = _Called()      # the same, where there must be one


def _inherited(own: Any, cond: Any) -> Any:
    """A term's condition where the call's is `cond`."""
    if own is GUIDED and cond is None:
        raise ValueError("guidance needs a condition: pass cond, or leave guidance out")
    return (GUIDED if own is GUIDED and cond is CALLED else cond) if own is CALLED or own is GUIDED else own


def _laws(field: Field, cond: Any, power: float) -> list[tuple[Field, Any, float]]:
    """(field, condition, exponent) of each law that `field` is made of. ValueError for a field that follows no product of laws."""
    if isinstance(field, Tilted):
        if field.reward is not None:
            raise ValueError("fields must not hold a tilted field with a reward of its own: give the reward to the outer tilt")
        return [(inner, _inherited(own, cond), power * a) for (inner, own), a in zip(field.terms, field.exponents, strict=True)]
    if isinstance(field, ClassifierFree):
        w, told = field.scale, _inherited(GUIDED, cond)
        return (_laws(field.field, told, power * w) if w else []) + (_laws(field.field, None, power * (1 - w)) if w != 1 else [])
    if isinstance(field, ClassifierGuided | ResidualCFG) or getattr(field, "moves", False):
        raise ValueError(f"fields must each be the score of a law, or weights correct nothing, and {type(field).__name__} is none; tilt the field inside it")
    return [(field, cond, power)]


def tilt(fields: Sequence[Term], exponents: Sequence[float], *, reward: Reward | None = None) -> Tilted:
    """The field of prod_j q_j^a_j, all on one path.

    fields: what q_j is the law of: a field, which is told the condition of the call, or a pair (field, condition) with its own: a number, a
        tensor of rows, a dict of such, or None for none at all. A field that occurs several times is called once, with a batch as many
        times as large. Tilted fields and `classifier_free` ones are taken apart into the laws they multiply.
    exponents: a_j, of any sign; their sum must be positive. reward: a `Reward`, for a factor exp(beta(t) r(x)).

    ValueError for fields on different paths, two-sided ones, noise that is not Gaussian, or coefficients that differ by coordinate: these
    have no common score, or none at all; and for fields that follow no law's score: `ClassifierGuided`, `ResidualCFG`, `TimeShift`.

    >>> from rheos.paths import Path
    >>> field = Field(lambda x, t, cond: x, Path.linear(), predicts="noise")
    >>> annealed = tilt([field], [3.0])                                                           # q^3
    >>> guided = tilt([(field, None), field], [1 - 2.0, 2.0])                                     # q_u^-1 q_c^2
    >>> guided.score(torch.ones(1, 2), 0.5, torch.tensor([3])).tolist(), field.nfe
    ([[-2.0, -2.0]], 1)
    """
    if isinstance(fields, Field) or not len(fields):
        raise ValueError(f"fields must be one or more fields in a list, got {fields!r}")
    terms = [entry if isinstance(entry, tuple) else (entry, CALLED) for entry in fields]
    for entry in terms:
        if len(entry) != 2 or not isinstance(entry[0], Field):
            raise TypeError(f"fields must hold fields or pairs (field, condition), got {entry!r}")
    if len(exponents) != len(terms):
        raise ValueError(f"exponents must be {len(terms)}, one a field, got {len(exponents)}")
    powers = [checks.between("exponents", a, -float("inf"), float("inf"), low_open=True, high_open=True) for a in exponents]
    if not sum(powers) > 0:
        raise ValueError(f"exponents must have a positive sum, or there is no law of noise to begin with, got {powers}")
    laws = [law for (field, cond), a in zip(terms, powers, strict=True) for law in _laws(field, cond, a)]
    terms, powers = [(field, cond) for field, cond, _ in laws], [a for _, _, a in laws]
    path = terms[0][0].path
    for field, _ in terms[1:]:
        if field.path != path:
            raise ValueError(f"fields must live on one path, got {path.schedule} and {field.path.schedule}")
    if path.two_sided or not path.noise.gaussian or getattr(path.schedule, "spectral", False):
        what = "a two-sided one" if path.two_sided else f"{path.noise}" if not path.noise.gaussian else "coefficients that differ by coordinate"
        raise ValueError(f"fields must live on a one-sided path with Gaussian noise, the same in every coordinate, or they have no score to add; got {what}")
    events = {field.event for field, _ in terms} - {None}
    if len(events) > 1:
        raise ValueError(f"fields must share an event shape, got {' and '.join(map(str, sorted(events)))}")
    if reward is not None and not isinstance(reward, Reward):
        raise TypeError(f"reward must be a Reward, got {type(reward).__name__}")
    return Tilted(terms, powers, reward)


def _sum(weights: Sequence[float], tensors: Sequence[Tensor]) -> Tensor:
    total = tensors[0] * weights[0]
    for weight, value in zip(weights[1:], tensors[1:], strict=True):
        total = torch.add(total, value, alpha=weight)
    return total


def _square(x: Tensor) -> Tensor:
    """|x|^2 of each row, (batch,), summed in float64."""
    return x.abs().double().square().flatten(1).sum(1)


def _conditions(conds: Sequence[Any], rows: int, device: torch.device) -> Any:
    """The conditions side by side, (terms rows, ...); None where none of them says anything."""
    told = next((cond for cond in conds if cond is not None), None)
    if told is None:
        return None
    if isinstance(told, dict):
        return {name: _conditions([None if cond is None else cond[name] for cond in conds], rows, device) for name in told}
    spread = [None if cond is None else _rows(cond, rows, device) for cond in conds]
    like = next(cond for cond in spread if cond is not None)
    return torch.cat([without_condition(like) if cond is None else cond for cond in spread])


def _rows(cond: Any, rows: int, device: torch.device) -> Tensor:
    if isinstance(cond, bool) or not isinstance(cond, int | float | Tensor):
        raise TypeError(f"a field's condition must be a Tensor, a dict of Tensors, one number or None, got {type(cond).__name__}")
    cond = torch.as_tensor(cond, device=device)
    if cond.ndim == 0:
        return cond.expand(rows)
    if len(cond) != rows:
        raise ValueError(f"a field's condition must have {rows} rows, one a row of x, got {len(cond)}")
    return cond
