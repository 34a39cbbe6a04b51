r"""Schrödinger bridges of two laws in closed form, but for a mixture that is learned: entropic transport without a network.

Entropic transport with cost |x - y|^2 / 2 and strength eps is the bridge of sqrt(eps) times a Brownian motion. Its plan is
pi(y | x) ~ exp(<x, y> / eps) v(y); with v(y) = sum_k alpha_k N(y; r_k, eps S_k) this is a mixture for every x,

  pi(y | x) = sum_k w_k(x) N(y; r_k + S_k x, eps S_k),   w_k(x) ~ alpha_k exp((x' S_k x + 2 r_k' x) / (2 eps)),   C(x) = the sum of these

and KL(true plan, pi) = E_x log C(x) - E_y log v(y) + const, which is learned from unpaired minibatches. The bridge follows
dX = g dt + sqrt(eps) dW with g = eps grad log phi_t,

  g(x, t) = sum_k w_k(x, t) M_k^{-1} ((S_k - I) x + r_k),   M_k = t S_k + (1 - t) I,
  w_k(x, t) ~ alpha_k |M_k|^{-1/2} exp((x' (S_k - I) M_k^{-1} x + 2 r_k' M_k^{-1} x - t r_k' M_k^{-1} r_k) / (2 eps)),

finite at both ends: multiplied out, the singular terms of Gaussian integrals against N(y; x, eps (1 - t) I) cancel.
Paper: Korotin, Gushchin and Burnaev, Light Schrödinger Bridge, 2023, arXiv:2310.01174.
Ours: a second mixture for the way back. pi(x | y) of the first is no mixture unless the source is, so the way back is a bridge of its own, fitted to
the same plan; the two drifts together give the score and the probability flow of x_t: g = v + eps/2 score, g_back = -v + eps/2 score.
"""
from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from functools import partial
from pathlib import Path as FilePath
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rheos.core import Draws, Watcher, checks, evolve, raising_interrupts
from rheos.core.files import load_tensors, save_tensors
from rheos.couplings.independent import Independent
from rheos.couplings.pairs import Pair, checked_law, mean_cost
from rheos.paths import Field, Path
from rheos.training import Average, Cosine, Descent
from rheos.training.descent import known_settings

__all__ = ["Conditional", "SchrodingerBridge"]

SPREAD = 0.1                        # S_k at the start, as in the paper
RATE, RATE_SMALL, SMALL = 5e-2, 2e-2, 1e-2      # of Adam from epsilon 0.01 on, and below
FILE = "light Schrödinger bridge"                # what a saved one calls itself
SEEN = 4096                         # rows from which centres, means and scales are taken at the start


class Conditional(NamedTuple):
    """The law of y given each row of x, a mixture of K Gaussians: weights (n, K), means (n, K, *event), and covariances that do not depend on
    x, (K, d) diagonals or (K, d, d), of events flattened to d numbers."""

    weights: Tensor
    means: Tensor
    covariances: Tensor

    @property
    def mean(self) -> Tensor:
        """E[y | x], (n, *event)."""
        return torch.einsum("nk,nk...->n...", self.weights, self.means)


class Modes(NamedTuple):
    """alpha (log, (K,)), r (K, d) and S of one way: eigenvalues (K, d) and the axes they belong to, (K, d, d) in columns, or None for the coordinates."""

    log_weights: Tensor
    centres: Tensor
    spread: Tensor
    axes: Tensor | None

    def turned(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (n, d) and r in each mode's own axes: (n, K, d) and (K, d)."""
        return torch.einsum("nd,kde->nke", x, self.axes), torch.einsum("kd,kde->ke", self.centres, self.axes)

    def factor(self) -> Tensor:
        """sqrt(S): (K, d), or (K, d, d) with factor factor' = S."""
        return self.spread.sqrt() if self.axes is None else self.axes * self.spread.sqrt()[:, None, :]


def plan_logits(modes: Modes, x: Tensor, epsilon: float) -> Tensor:
    """log w_k(x) up to what all k share, (n, K)."""
    return modes.log_weights + (torch.einsum("nke,ke->nk", modes.turned(x)[0].square(), modes.spread) if modes.axes is not None
                                else x.square() @ modes.spread.T) / (2 * epsilon) + x @ modes.centres.T / epsilon


def plan_means(modes: Modes, x: Tensor) -> Tensor:
    """r_k + S_k x, (n, K, d)."""
    if modes.axes is None:
        return modes.centres + modes.spread * x[:, None, :]
    return modes.centres + torch.einsum("nke,kde->nkd", modes.turned(x)[0] * modes.spread, modes.axes)


def drift(modes: Modes, x: Tensor, t: Tensor, epsilon: float) -> Tensor:
    """g(x, t), (n, d), at one time () or at one a row (n,)."""
    spread, rows = modes.spread, t.ndim == 1
    t = t[:, None, None] if rows else t
    inverse = 1 / (t * spread + (1 - t))                    # of M: (K, d), or (n, K, d)
    if modes.axes is None and not rows:
        stretch, pull = (spread - 1) * inverse, modes.centres * inverse
        constant = modes.log_weights + 0.5 * (inverse.log() - t * modes.centres * pull / epsilon).sum(1)
        weights = torch.softmax(constant + (x.square() @ stretch.T + 2 * x @ pull.T) / (2 * epsilon), 1)
        return (weights @ stretch) * x + weights @ pull
    inside, centres = (x[:, None, :], modes.centres) if modes.axes is None else modes.turned(x)
    stretched = (spread - 1) * inside
    exponent = (inside * (stretched + 2 * centres) - t * centres.square()) * inverse
    weights = torch.softmax(modes.log_weights + 0.5 * (inverse.log() + exponent / epsilon).sum(-1), 1)
    each = weights[:, :, None] * inverse * (stretched + centres)
    return each.sum(1) if modes.axes is None else torch.einsum("nke,kde->nd", each, modes.axes)


class Potential(nn.Module):
    """alpha, r and S of one way as they are learned, for source and target centred at m and n and over a unit: log alpha, r + S m - n, and the
    logarithm of S's diagonal or its Cholesky factor. Where the source is not centred, r and S x would have to change together.

    With x = m + x' the exponent x' S x + 2 r x is x'' S x' + 2 (r + S m) x' and what `_moved` says; log v loses the same, and a term without parameters.
    """

    def __init__(self, modes: Modes, epsilon: float, x_mean: Tensor, y_mean: Tensor, unit: float):
        super().__init__()
        self.epsilon, self.unit = epsilon, unit
        self.register_buffer("x_mean", x_mean)
        self.register_buffer("y_mean", y_mean)
        at_mean = plan_means(modes, x_mean[None])[0]
        self.log_weights = nn.Parameter(modes.log_weights + self._moved(modes, at_mean))
        self.centres = nn.Parameter((at_mean - y_mean) / unit)
        self.log_diagonal = nn.Parameter(modes.spread.log() if modes.axes is None else torch.empty_like(modes.spread))
        self.below = None
        if modes.axes is not None:
            factor = torch.linalg.cholesky(torch.einsum("kde,ke,kfe->kdf", modes.axes, modes.spread, modes.axes))
            self.below = nn.Parameter(factor.tril(-1))
            self.log_diagonal.data = 2 * factor.diagonal(dim1=1, dim2=2).log()

    def _moved(self, modes: Modes, at_mean: Tensor) -> Tensor:
        """(2 (r + S m)' m - m' S m) / (2 eps) = (r' m + (r + S m)' m) / (2 eps), (K,)."""
        return (modes.centres + at_mean) @ self.x_mean / (2 * self.epsilon)

    def factor(self) -> Tensor:
        """L (K, d, d) with L L' = S."""
        return self.below.tril(-1) + torch.diag_embed((0.5 * self.log_diagonal).exp())

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """E log C(x) - E log v(y), up to what has no parameters; few and large products, for it runs every step."""
        x, y, centres, epsilon = x - self.x_mean, y - self.y_mean, self.unit * self.centres, self.epsilon
        if self.below is None:
            spread = self.log_diagonal.exp()
            precision = 1 / spread
            pull = centres * precision
            quadratic = x.square() @ spread.T
            far = y.square() @ precision.T - 2 * y @ pull.T + (centres * pull).sum(1)
        else:
            factor = self.factor()
            quadratic = torch.einsum("nd,kde->nke", x, factor).square().sum(2)
            inverse = torch.linalg.solve_triangular(factor, torch.eye(factor.shape[1], dtype=factor.dtype, device=factor.device), upper=False)
            far = (torch.einsum("nd,ked->nke", y, inverse) - torch.einsum("kd,ked->ke", centres, inverse)).square().sum(2)
        log_c = torch.logsumexp(self.log_weights + (quadratic + 2 * x @ centres.T) / (2 * epsilon), 1)
        log_v = torch.logsumexp(self.log_weights - 0.5 * (far / epsilon + self.log_diagonal.sum(1)), 1)
        return log_c.mean() - log_v.mean()

    def modes(self) -> Modes:
        with torch.no_grad():
            if self.below is None:
                spread, axes = self.log_diagonal.exp(), None
            else:
                axes, spread, _ = torch.linalg.svd(self.factor())
                spread = spread.square()
            at_mean = self.unit * self.centres + self.y_mean
            still = Modes(self.log_weights, torch.zeros_like(at_mean), spread, axes)
            modes = still._replace(centres=at_mean - plan_means(still, self.x_mean[None])[0])
            return modes._replace(log_weights=torch.log_softmax(self.log_weights - self._moved(modes, at_mean), 0))


class Both(nn.Module):
    """The potentials there and back."""

    def __init__(self, there: Potential, back: Potential):
        super().__init__()
        self.there, self.back = there, back


class Flow(nn.Module):
    """Velocity and score of x_t from the drifts there and back; what a bridge's field asks."""

    def __init__(self, there: Modes, back: Modes, epsilon: float, event: tuple[int, ...]):
        super().__init__()
        self.epsilon, self.event = epsilon, event
        for way, modes in (("there", there), ("back", back)):
            for name, value in modes._asdict().items():
                self.register_buffer(f"{way}_{name}", value)

    def forward(self, x: Tensor, t: Tensor, cond: Any = None) -> tuple[Tensor, Tensor]:
        flat = x.reshape(len(x), -1)
        way = lambda name: Modes(*(getattr(self, f"{name}_{field}") for field in Modes._fields))
        if bool((t == t[0]).all()):
            t = t[0]
        there, back = drift(way("there"), flat, t, self.epsilon), drift(way("back"), flat, 1 - t, self.epsilon)
        return (0.5 * (there - back)).reshape(x.shape), ((there + back) / self.epsilon).reshape(x.shape)

    @property
    def like(self) -> Tensor:
        return self.there_centres


class SchrodingerBridge:
    """The Schrödinger bridge from `source` to `target`, fitted both ways: a plan, a map, an SDE and a flow, all in closed form.

    source, target: a tensor (rows, *event), or anything with `sample(n, seed=...)`; of one event shape and dtype.
    epsilon: variance of the reference motion at time 1, in squared units of the data, 0.1 unless told otherwise. Small ones give near-deterministic
        plans of nearly least cost and need more components and steps; below about 0.01 of the target's variance plans are hard to fit.
    components: Gaussians in each potential, 50 (the paper takes 5 to 500). One is enough between two Gaussians.
    covariance: "diagonal", fast, or "full", where few components should do the work of many; d^2 numbers each.

    `fit` gives a fitted bridge and leaves the one that was asked as it is. Everything that asks for the plan raises ValueError before.
    As a coupling, x0 comes from the source and x1 is drawn from the plan, not a row of the target.
    ValueError for epsilon not above 0, fewer components than 1, and shapes or dtypes that differ.

    >>> from rheos.data import skewed, two_moons
    >>> bridge = SchrodingerBridge(skewed(), two_moons(), epsilon=0.5, components=5).fit(steps=100, batch=64)
    >>> pair = bridge.sample(500)                                 # against E |x1 - x0|^2 of independent pairs
    >>> bool((pair.x1 - pair.x0).square().mean() < 0.7 * (pair.x1.flip(0) - pair.x0).square().mean())
    True
    """

    exempt: ClassVar[dict[str, str]] = {"marginals": "x1 is drawn from the fitted plan: it has the target's law, but is none of its rows"}
    papers: ClassVar[tuple[str, ...]] = ("2310.01174",)
    cond: ClassVar[None] = None

    def __init__(self, source: Any, target: Any, epsilon: float = 0.1, components: int = 50, covariance: str = "diagonal"):
        self.source, self.target = checked_law("source", source), checked_law("target", target)
        self.epsilon, self.components = checks.positive("epsilon", epsilon), checks.integer("components", components, least=1)
        self.covariance = checks.one_of("covariance", covariance, ("diagonal", "full"))
        x0, x1 = (_some("x0", law, 1, Draws(0)) for law in (source, target))
        if x0.shape[1:] != x1.shape[1:]:
            raise ValueError(f"source and target must have one event shape, got {tuple(x0.shape[1:])} and {tuple(x1.shape[1:])}")
        if x0.dtype != x1.dtype or x0.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"source and target must share a floating-point dtype, float32 or float64, got {x0.dtype} and {x1.dtype}")
        self.event, self._modes = tuple(x1.shape[1:]), None

    @property
    def path(self) -> Path:
        """x_t given both ends: a Brownian bridge of variance epsilon."""
        return Path.brownian(self.epsilon)

    def fit(self, steps: int = 3000, batch: int = 256, rate: float | None = None, *, seed: int | Draws = 0, watch: Iterable[Watcher] = (),
            **settings: Any) -> SchrodingerBridge:
        """A fitted bridge: both potentials by Adam on minibatches of `batch` rows a side, averaged; a fitted bridge goes on from where it is.

        rate: of Adam, 0.05 unless told otherwise and 0.02 for epsilon below 0.01, falling to 0 along a cosine; for numbers without units: logarithms, and
        centres over the target's spread. settings: others of `Descent`. watch: watchers of the training, whose `state.loss` is the sum of both ways.
        Ctrl-C raises at once: a half-fitted plan would be taken for one.
        """
        steps, draws = checks.integer("steps", steps, least=1), Draws.of(seed)
        rate = (RATE if self.epsilon >= SMALL else RATE_SMALL) if rate is None else checks.positive("rate", rate)
        known_settings("fit", settings, "batch")
        potentials = self._potentials(draws)

        def objective(net: Both, pair: Pair, **_: Any) -> Tensor:
            x0, x1 = pair.x0.reshape(len(pair.x0), -1), pair.x1.reshape(len(pair.x1), -1)
            return net.there.loss(x0, x1) + net.back.loss(x1, x0)

        # The first gradients are far larger than any later one: a longer memory of squares would hold the rate down for good.
        adam = partial(torch.optim.Adam, lr=rate, betas=(0.9, 0.99), fused=True)
        defaults = {"optimizer": adam, "rate": Cosine(steps, min(steps // 20, 50)), "average": Average(0.99), "seed": draws}
        descent = Descent(objective, Independent(self.target, self.source), batch, **(defaults | settings))
        with raising_interrupts():
            end = evolve(descent, descent.init(potentials), steps, watch=watch, donate=True)
        fitted = copy.copy(self)
        fitted._modes = (end.averaged.there.modes(), end.averaged.back.modes())
        return fitted

    def reversed(self) -> SchrodingerBridge:
        """The same bridge from target to source: its `plan` is the law of x0 given x1."""
        turned = copy.copy(self)
        turned.source, turned.target = self.target, self.source
        turned._modes = None if self._modes is None else self._modes[::-1]
        return turned

    def plan(self, x: Float[Tensor, "n *event"]) -> Conditional:
        """The law of x1 given x0 = each row of x."""
        modes, flat = self._fitted(), self._flat(x)
        covariances = modes.spread if modes.axes is None else torch.einsum("kde,ke,kfe->kdf", modes.axes, modes.spread, modes.axes)
        weights = torch.softmax(plan_logits(modes, flat, self.epsilon), 1)
        return Conditional(weights, plan_means(modes, flat).reshape(len(x), -1, *self.event), self.epsilon * covariances)

    def mean(self, x: Float[Tensor, "n *event"]) -> Float[Tensor, "n *event"]:
        """The barycentric map, E[x1 | x0 = x]."""
        modes, flat = self._fitted(), self._flat(x)
        weights = torch.softmax(plan_logits(modes, flat, self.epsilon), 1)
        if modes.axes is None:
            return (weights @ modes.centres + (weights @ modes.spread) * flat).reshape(x.shape)
        return torch.einsum("nk,nkd->nd", weights, plan_means(modes, flat)).reshape(x.shape)

    def transport(self, x: Float[Tensor, "n *event"], *, seed: int | Draws = 0, step: int = 0, first: int = 0) -> Float[Tensor, "n *event"]:
        """One x1 drawn for each row of x. first: number of the first row, for those who draw in parts."""
        modes, flat, draws = self._fitted(), self._flat(x), Draws.of(seed)
        chosen = draws.categorical("component", step, plan_logits(modes, flat, self.epsilon), first=first)
        noise = math.sqrt(self.epsilon) * draws.rows("plan noise", step, tuple(flat.shape), first=first, device=flat.device, dtype=flat.dtype)
        spread, factor = modes.spread[chosen], modes.factor()[chosen]
        if modes.axes is None:
            moved = spread * flat + factor * noise
        else:
            axes = modes.axes[chosen]
            moved = torch.einsum("nde,ne->nd", axes, spread * torch.einsum("nd,nde->ne", flat, axes)) + torch.einsum("nde,ne->nd", factor, noise)
        return (modes.centres[chosen] + moved).reshape(x.shape)

    def drift(self, x: Float[Tensor, "n *event"], t: Tensor | float) -> Float[Tensor, "n *event"]:
        """g(x, t) of dX = g dt + sqrt(epsilon) dW, finite at both ends; t in [0, 1], a number or one a row."""
        flat = self._flat(x)
        t = torch.as_tensor(t, dtype=torch.float64, device=x.device)
        if t.ndim > 1 or t.ndim == 1 and len(t) != len(x):
            raise ValueError(f"t must be one number or have shape ({len(x)},), one time a row of x, got shape {tuple(t.shape)}")
        if not bool(((t >= 0) & (t <= 1)).all()):
            raise ValueError(f"t must lie in [0, 1], got values from {float(t.min()):g} to {float(t.max()):g}")
        return drift(self._fitted(), flat, t.to(flat.dtype), self.epsilon).reshape(x.shape)

    def field(self) -> Field:
        """Velocity and score of x_t, from the drifts there and back, on `path`: `sample(bridge.field(), start=x0, rule=EulerMaruyama(bridge.epsilon / 2))`
        follows the SDE with drift g, and without a rule the probability flow with the same marginals."""
        self._fitted()
        return Field(Flow(*self._modes, self.epsilon, self.event), self.path, ("velocity", "score"))

    def bridge(self, x: Float[Tensor, "n *event"], y: Float[Tensor, "n *event"], t: Tensor | float, *, seed: int | Draws = 0,
               step: int = 0) -> Float[Tensor, "n *event"]:
        """x_t given both ends, (1 - t) x + t y + sqrt(epsilon t (1 - t)) z; t a number or one a row."""
        t = torch.as_tensor(t, dtype=torch.float64, device=x.device)
        return self.path.sample(y, t.expand(len(y)) if t.ndim == 0 else t, x0=x, seed=seed, step=step).x

    def sample(self, n: int, *, seed: int | Draws = 0, step: int = 0) -> Pair:
        """Minibatch `step` of `n` pairs: x0 from the source, x1 from the plan."""
        draws = Draws.of(seed)
        self._fitted()
        x0 = Independent(self.source).sample(n, seed=draws, step=step).x1
        return Pair(self.transport(x0, seed=draws, step=step), x0)

    def cost(self, p: float = 2.0, *, n: int = 10_000, seed: int | Draws = 0) -> float:
        """E |x1 - x0|^p of the plan, by `n` pairs."""
        pair = self.sample(checks.integer("n", n, least=1), seed=seed)
        return mean_cost(pair.x0, pair.x1, p)

    def save(self, file: str | FilePath) -> FilePath:
        """Write what was fitted, without source and target, as one safetensors file, in one move."""
        self._fitted()
        tensors = {f"{way}.{name}": value for way, modes in zip(("there", "back"), self._modes, strict=True)
                   for name, value in modes._asdict().items() if value is not None}
        return save_tensors(file, tensors, {"rheos": FILE, "epsilon": repr(self.epsilon), "covariance": self.covariance})

    @classmethod
    def load(cls, file: str | FilePath, source: Any, target: Any) -> SchrodingerBridge:
        """The fitted bridge that `save` wrote, with the source and target it was fitted to, which the file does not hold; on the target's device.

        FileNotFoundError if it is not there, ValueError if it is another file or of other events.
        """
        tensors, about = load_tensors(file)
        names = [f for f in Modes._fields if f != "axes" or about.get("covariance") == "full"]
        if about.get("rheos") != FILE or "epsilon" not in about or set(tensors) != {f"{way}.{name}" for way in ("there", "back") for name in names}:
            raise ValueError(f"{file} does not hold a Schrödinger bridge")
        made = cls(source, target, float(about["epsilon"]), len(tensors["there.centres"]), about["covariance"])
        like, kept = _some("x1", target, 1, Draws(0)), tensors["there.centres"]
        if kept.shape[1:] != (math.prod(made.event),) or kept.dtype != like.dtype:
            raise ValueError(f"{file} holds a bridge of events of {kept.shape[1]} numbers in {kept.dtype}, source and target have "
                             f"{math.prod(made.event)} in {like.dtype}")
        made._modes = tuple(Modes(*(tensors[f"{way}.{f}"].to(like.device) if f in names else None for f in Modes._fields)) for way in ("there", "back"))
        return made

    @classmethod
    def examples(cls) -> list[SchrodingerBridge]:
        """Rows and rows, with full covariances; and laws, with diagonal ones."""
        from rheos.data import skewed, two_moons

        points = skewed().sample(60, seed=3)
        return [cls(1.5 * two_moons().sample(84, seed=4) - 2, points, 1.0, 3, "full").fit(25, 32, 0.1),
                cls(two_moons().to(torch.float32), skewed().to(torch.float32), 0.5, 6).fit(25, 32, 0.1)]

    def _fitted(self) -> Modes:
        if self._modes is None:
            raise ValueError("this bridge is not fitted yet: use what fit() gives, bridge = SchrodingerBridge(source, target).fit()")
        return self._modes[0]

    def _flat(self, x: Tensor) -> Tensor:
        if tuple(checks.tensor("x", x, floating=True).shape[1:]) != self.event or x.ndim < 1:
            raise ValueError(f"x must have shape (n, {', '.join(map(str, self.event))}), got {tuple(x.shape)}")
        modes = self._modes
        if modes is not None and (x.dtype != modes[0].centres.dtype):
            raise ValueError(f"x must have the dtype of source and target, {modes[0].centres.dtype}, got {x.dtype}")
        return checks.finite("x", x).reshape(len(x), -1)

    def _potentials(self, draws: Draws) -> Both:
        first = lambda name, law: _some(name, law, SEEN, draws.child(f"first {name}")).reshape(-1, math.prod(self.event))
        x0, x1 = first("x0", self.source), first("x1", self.target)
        ways = self._modes or (self._begin(x0, x1, draws.child("there")), self._begin(x1, x0, draws.child("back")))
        mean, unit = (x0.mean(0), x1.mean(0)), (_scale(x0), _scale(x1))
        return Both(Potential(ways[0], self.epsilon, mean[0], mean[1], unit[1]), Potential(ways[1], self.epsilon, mean[1], mean[0], unit[0]))

    def _begin(self, x: Tensor, y: Tensor, draws: Draws) -> Modes:
        """Equal weights, S = 0.1 I, and centres such that the mean source point goes to points of the target."""
        count, d = self.components, y.shape[1]
        spread = torch.full((count, d), SPREAD, dtype=y.dtype, device=y.device)
        rows = torch.cat([draws.permutation("centres", k, len(y), device=y.device) for k in range(-(-count // len(y)))])[:count]
        axes = None if self.covariance == "diagonal" else torch.eye(d, dtype=y.dtype, device=y.device).expand(count, d, d)
        return Modes(torch.full_like(spread[:, 0], -math.log(count)), y[rows] - SPREAD * x.mean(0), spread, axes)


def _some(name: str, law: Any, n: int, draws: Draws) -> Tensor:
    """At most n rows of a law."""
    if isinstance(law, Tensor):
        return law[draws.permutation(name, 0, len(law), device=law.device)[:n]]
    return law.sample(n, seed=draws.child(name))


def _scale(y: Tensor) -> float:
    """The root of the mean variance of a coordinate, 1 where nothing varies."""
    return float((y - y.mean(0)).square().mean().sqrt()) or 1.0
