"""How far a field is from solving the Fokker-Planck equation, as a number and as a loss.

The density p of x_t is carried by the velocity v of its own flow, d/dt log p = -div v - v . s with s the score grad log p. So
R = d/dt s + grad(div v + v . s) is zero where a network's s is the score of what its own v carries along. On a one-sided path
v = (b' / b) x + (b' c^2 / b - c c') s, which makes it the Fokker-Planck equation in s alone; nothing else of the path enters.

Paper: Deveney, Stanczuk, Kreusser, Budd and Schoenlieb, Closing the ODE-SDE gap in score-based diffusion models through the Fokker-Planck
equation, 2023, arXiv:2311.15996.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from rheos.core import Draws, checks
from rheos.couplings import Pair
from rheos.objectives.matching import Loss, _Adding
from rheos.objectives.when import TimeLaw, Uniform
from rheos.paths import Field, Path
from rheos.paths.asking import cut, evaluating, spread

__all__ = ["FokkerPlanckResidual", "fokker_planck_residual"]

EXACT_UP_TO = 16        # coordinates whose divergence is taken exactly: it costs as many forward derivatives
# Activations whose second derivative is zero or jumps: the residual's own gradient does not see what they do.
KINKED = frozenset({"celu", "elu", "hardshrink", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "prelu", "_prelu_kernel", "relu", "relu6",
                    "rrelu", "rrelu_with_noise", "selu", "softshrink", "threshold"})
_KNOWN: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()      # networks that were looked at


def fokker_planck_residual(field: Field, x: Float[Tensor, "batch *event"], t: Float[Tensor, " times"], cond: Any = None, *, probes: int | None = 1,
                           seed: int | Draws = 0, step: int = 0) -> Float[Tensor, "batch *event"]:
    """R = d/dt s + grad(div v + v . s) at x and times t, (batch, *event), in 1 / (units of x, times unit time). Zero on an exact field.

    field:  anything that tells a velocity and a score. probes: how many random signs stand in for the trace (Hutchinson) in events of more than 16
            numbers; up to 16 it is exact and `probes` is unread. With probes R is right on average and so its norm, on average, too large.
    None asks for the exact one, which more than 16 numbers refuse. seed, step: of the probes.

    One forward derivative of the network, for d + 1 (or probes + 1) copies of each row, and one backward through it. Rows must not see
    each other (no batch norm that learns); the network answers in evaluation mode.
    ValueError for ends of the path where no score can be read, and for networks with activations of torch.nn that have kinks, such as ReLU; kinks made by hand
    (abs, maximum, clamp) are as wrong and not seen.

    >>> from rheos.data import skewed
    >>> from rheos.paths import ExactField
    >>> x, t = torch.tensor([[0.3, -1.0]], dtype=torch.float64), torch.tensor([0.4], dtype=torch.float64)
    >>> fokker_planck_residual(ExactField(Path.vp(), skewed()), x, t).abs().max().item() < 1e-10
    True
    """
    if not isinstance(field, Field):
        raise TypeError(f"field must be a Field, got {type(field).__name__}; wrap a network as Field(net, path, predicts)")
    if x.ndim < 2 or not x.numel():
        raise ValueError(f"x must have shape (batch, *event) with at least one number, got {tuple(x.shape)}")
    if t.shape != x.shape[:1]:
        raise ValueError(f"t must have shape ({len(x)},), one time a row of x, got {tuple(t.shape)}")
    field.path.coefficients(t.detach())         # the check of times, which may not be made under a derivative
    rows, size = len(x), x[0].numel()
    cond = spread(cond, rows, x.device)
    tangents = _tangents(x, size, probes, Draws.of(seed), step)
    copies = len(tangents) // rows
    with evaluating(field.net), sdpa_kernel(SDPBackend.MATH):       # the quick attentions have no second derivative
        mode = _Elementary if _looked_at(field, x[:1].detach(), t[:1].detach(), cut(cond, 0, 1)) else nullcontext
        told, at = _copied(cond, copies), field.path.schedule.coefficients(t.detach().double())
        moving, rates = _rates(field.path, t, copies)
        clock = torch.cat([torch.ones_like(t), torch.zeros_like(t).repeat(copies - 1)])

        def answers(x: Tensor, t: Tensor, *known: Tensor) -> tuple[Tensor, Tensor]:
            with mode():
                said = field(x, t, told, at=at._replace(**dict(zip(moving, known, strict=True))))
            return said.velocity, said.score

        def growth(x: Tensor) -> tuple[Tensor, Tensor]:
            """-d/dt log p along the flow, summed over rows: each row's gradient is its own. And d/dt s."""
            points = (x.repeat(copies, *(1,) * (x.ndim - 1)), t.repeat(copies), *moving.values())
            (v, s), (turned, moved) = torch.func.jvp(answers, points, (tangents, clock, *rates))
            divergence = (turned[rows:] * tangents[rows:]).sum()
            if size > EXACT_UP_TO:
                divergence = divergence / (copies - 1)
            return divergence + (v[:rows] * s[:rows]).sum(), moved[:rows]

        slope, rate = torch.func.grad(growth, has_aux=True)(x)
    return rate + slope


def _rates(path: Path, t: Tensor, copies: int) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Those coefficients that are tensors, for all copies of the rows, and how they change in time: in the first copy, where the clock runs.

    By one backward pass each: a forward derivative of so many small operations costs more than the network's.
    """
    with torch.enable_grad():
        clock = t.detach().double().requires_grad_()
        at = {name: value for name, value in path.schedule.coefficients(clock)._asdict().items() if isinstance(value, Tensor)}
        moving, rates = {}, []
        for name, value in at.items():
            # Each row of a coefficient depends on its own time only, also where it differs by coordinate.
            inner = value.flatten(1) if value.ndim > 1 else value[:, None]
            parts = [torch.autograd.grad(column.sum(), clock, retain_graph=True, allow_unused=True)[0] if value.requires_grad else None
                     for column in inner.unbind(1)]
            slope = torch.stack([torch.zeros_like(clock) if part is None else part for part in parts], 1).reshape(value.shape).detach()
            value, still = value.detach(), torch.zeros_like(slope)
            moving[name] = torch.cat([value] * copies)
            rates.append(torch.cat([slope, *[still] * (copies - 1)]))
    return moving, rates


def _tangents(x: Tensor, size: int, probes: int | None, draws: Draws, step: int) -> Tensor:
    """Where x moves in each copy: nowhere (there the clock runs), then along every coordinate, or along random signs."""
    still = torch.zeros_like(x)
    if size <= EXACT_UP_TO:
        along = [unit.expand(len(x), -1).reshape(x.shape) for unit in torch.eye(size, dtype=x.dtype, device=x.device)]
    else:
        if probes is None:
            raise ValueError(f"probes must be given for events of more than {EXACT_UP_TO} numbers, got None for {size}")
        count = checks.integer("probes", probes, least=1)
        u = draws.uniform("probes", step, (len(x), count, size), device=x.device)
        along = [torch.where(u[:, k] < 0.5, -1.0, 1.0).to(x.dtype).reshape(x.shape) for k in range(count)]
    return torch.cat([still, *along])


def _copied(cond: Any, copies: int) -> Any:
    if isinstance(cond, dict):
        return {name: _copied(value, copies) for name, value in cond.items()}
    return None if cond is None else torch.cat([cond] * copies)


def _standard(x: Tensor, axes: tuple[int, ...], eps: float) -> Tensor:
    return (x - x.mean(axes, keepdim=True)) * torch.rsqrt(x.var(axes, correction=0, keepdim=True) + eps)


def _layer_norm(input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5,
                *_: Any, **__: Any) -> Tensor:
    normal = _standard(input, tuple(range(-len(normalized_shape), 0)), eps)
    normal = normal if weight is None else normal * weight
    return normal if bias is None else normal + bias


def _group_norm(input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5, *_: Any, **__: Any) -> Tensor:
    normal = _standard(input.reshape(len(input), num_groups, -1), (-1,), eps).reshape(input.shape)
    wide = lambda v: v.reshape(-1, *(1,) * (input.ndim - 2))
    normal = normal if weight is None else normal * wide(weight)
    return normal if bias is None else normal + wide(bias)


def _instance_norm(input: Tensor, running_mean: Tensor | None = None, running_var: Tensor | None = None, weight: Tensor | None = None,
                   bias: Tensor | None = None, use_input_stats: bool = True, momentum: float = 0.1, eps: float = 1e-5, *_: Any, **__: Any) -> Tensor:
    if not use_input_stats:
        return nn.functional.instance_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    return _group_norm(input, input.shape[1], weight, bias, eps)


_NORMS = {torch.layer_norm: _layer_norm, nn.functional.layer_norm: _layer_norm, torch.group_norm: _group_norm, nn.functional.group_norm: _group_norm,
          nn.functional.instance_norm: _instance_norm}


class _Elementary(TorchFunctionMode):
    """Norms in elementary operations. Of torch's own the forward derivative takes mean and variance for constants when it is differentiated again:
    no error, a wrong gradient (torch 2.13). A test of every layer of our networks against finite differences watches this."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return _NORMS.get(func, func)(*args, **(kwargs or {}))


class _Watch(TorchDispatchMode):
    """Notes the operations that run, whoever calls them."""

    def __init__(self):
        super().__init__()
        self.seen: set[str] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.add(func.overloadpacket.__name__.removesuffix("_"))
        return func(*args, **(kwargs or {}))


def _looked_at(field: Field, x: Tensor, t: Tensor, cond: Any) -> bool:
    """Whether a norm runs in the network. ValueError if an activation with a kink does. Each network is looked at once."""
    remembered = isinstance(field.net, nn.Module)
    if remembered and field.net in _KNOWN:
        return _KNOWN[field.net]
    with torch.no_grad(), _Watch() as watch:
        field(x, t, cond)
    kinked = sorted(watch.seen & KINKED)
    if kinked:
        raise ValueError(f"net must be twice smoothly differentiable for the Fokker-Planck residual, got one with {', '.join(kinked)}: "
                         "use tanh, SiLU, GELU or softplus")
    normed = any(name.endswith(("layer_norm", "group_norm", "batch_norm")) for name in watch.seen)
    if remembered:
        _KNOWN[field.net] = normed
    return normed


@dataclass(frozen=True, eq=False)
class FokkerPlanckResidual(_Adding):
    """mean of w(t) |R| / sqrt(d) over points x_t of the path, R of `fokker_planck_residual`: a loss to add to `Matching`.

    path: as in `Matching`; its noise must be Gaussian. predicts: what the network returns, of any kind that tells a velocity and a score.
    when: the law of t. Near the data d/dt s grows without bound for a network whose score is a prediction over sigma, and near the noise a score
    tells no velocity where alpha is 0: by default 0.02 is kept clear at both ends. weight: w, a number or a function of t (batch,) -> (batch,);
    None is sigma^2, which takes the score's own units away. share: of each minibatch that is looked at. probes: see there.
    unit_input: as in `Matching`.

    The points are taken as they are: no gradient flows through x_t. A step costs six to ten plain ones. Terms of `Sum` stay comparable:
    rows that are not looked at have error 0 and the others count for them.
    ValueError for paths whose noise is not Gaussian, for pairs with a noise of their own, and as `fokker_planck_residual` has it.

    >>> from rheos.objectives import Matching
    >>> loss = Matching(Path.vp(), predicts="noise") + 0.1 * FokkerPlanckResidual(Path.vp(), predicts="noise")
    >>> net = lambda x, t, cond=None: torch.tanh(x)
    >>> bool(loss(net, Pair(torch.ones(8, 1)), seed=0).value > Matching(Path.vp(), predicts="noise")(net, Pair(torch.ones(8, 1)), seed=0).value)
    True
    """

    path: Path
    predicts: str | Sequence[str] = "score"
    when: TimeLaw = Uniform(0.02)
    weight: float | Callable[[Tensor], Tensor] | None = None
    share: float = 0.5
    probes: int | None = 1
    unit_input: bool = False

    def __post_init__(self):
        self._field(_nothing)       # what is wrong with path, predicts or unit_input is said there
        if not self.path.noise.gaussian:
            raise ValueError(f"path must have Gaussian noise, without which there is no score; this one has {self.path.noise}")
        if self.path.two_sided and getattr(self.path.schedule, "noiseless", False):
            raise ValueError("path must have noise, without which there is no score; this one has none")
        if self.weight is None:
            self.path._scalar("the weight sigma^2")
        elif not callable(self.weight):
            checks.positive("weight", self.weight, zero=True)
        if isinstance(self.when, type) or not callable(getattr(self.when, "sample", None)):
            raise TypeError(f"when must be a law of times such as Uniform(0.02), got {self.when!r}")
        checks.between("share", self.share, 0.0, 1.0, low_open=True)
        if self.probes is not None:
            checks.integer("probes", self.probes, least=1)

    def _field(self, net: Callable) -> Field:
        return Field(net, self.path, self.predicts, unit_input=self.unit_input)

    def __call__(self, net: Callable, pair: Pair, *, seed: int | Draws = 0, step: int = 0) -> Loss:
        """The residual of `net` at points of minibatch `pair`; times, noise and probes are functions of (seed, step)."""
        if pair.x0 is not None and not self.path.two_sided:
            raise ValueError("pair must have no x0 on a one-sided path: noise that is chosen for its data has another score than -z / sigma")
        if pair.x1.is_complex():
            raise TypeError(f"pair.x1 must hold real numbers, got {pair.x1.dtype}")
        draws, n = Draws.of(seed), len(pair.x1)
        rows, (low, high) = math.ceil(self.share * n), self.path.interval
        x1 = pair.x1[:rows]
        t = self.when.sample(rows, seed=draws, step=step, device=x1.device, dtype=torch.float64)
        place = getattr(self.when, "place", None)
        t = low + (high - low) * t if place is None else place(self.path, t)
        point = self.path.sample(x1, t, x0=None if pair.x0 is None else pair.x0[:rows], seed=draws, step=step)
        residual = fokker_planck_residual(self._field(net), point.x.detach(), t, cut(pair.cond, 0, rows), probes=self.probes, seed=draws, step=step)
        # Not the root of a sum: at zero the norm's gradient is zero, the root's infinite.
        size = torch.linalg.vector_norm(residual.flatten(1), dim=1) / math.sqrt(residual[0].numel())
        errors = self._weights(t, point.at.c).to(size) * size
        value = errors.mean()
        return Loss(value, torch.nn.functional.pad(errors * (n / rows), (0, n - rows)))

    def _weights(self, t: Tensor, sigma: Any) -> Tensor:
        if self.weight is None:
            return torch.as_tensor(sigma, dtype=torch.float64, device=t.device) ** 2
        if not callable(self.weight):
            return torch.full_like(t, self.weight)
        weight = self.weight(t)
        if not isinstance(weight, Tensor) or weight.shape != t.shape:
            got = tuple(weight.shape) if isinstance(weight, Tensor) else weight
            raise ValueError(f"weight must give one number a row, a tensor of shape ({len(t)},), got {got}")
        return weight


def _nothing(*_: Any) -> Tensor:
    raise NotImplementedError("a field without a network")
