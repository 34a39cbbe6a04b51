"""Feynman-Kac correctors: particles with weights, so that tilted and multiplied fields are sampled from, and not only followed.

The target pi_t = prod_j q_j^a_j exp(beta r) at each t, with S its score and S_a = sum_j a_j s_j, is reached by the SDE and weights
    dx = (f + G S_a) dt + k G S dt + sqrt(2 k G) dW,      f = (b'/b) x,  G = c^2 lam',  k = `noise`,
    d log w = [G (|S_a|^2 - sum_j a_j |s_j|^2) - (sum_j a_j - 1) div f] dt + r dbeta + beta <grad r, f + G S_a> dt,
which follow from the continuity equations of the q_j and hold for every k > 0 (the paper's is 1). In lam = log(b / c) and the noise predictions
n_j = -c s_j nothing is singular: d log w = (|sum_j a_j n_j|^2 - sum_j a_j |n_j|^2) dlam for plain tilts, up to a constant of x.

Paper: Skreta et al., Feynman-Kac correctors in diffusion: annealing, guidance, and product of experts, 2025, arXiv:2503.02819.
Ours: exponents and rewards in one formula, any level of noise, a step that is exact where the noise prediction's share of x is.
"""
from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Inexact, Int64
from torch import Tensor

from rheos.core import Draws, Example, NonFinite, Watcher, checks, evolve, raising_interrupts
from rheos.guidance.tilt import Tilted, Weighed, tilt
from rheos.paths import RHO7, SQRT_U, Path, Times
from rheos.paths.asking import evaluating, spread

__all__ = ["FeynmanKac", "FeynmanKacState", "Weighing", "effective_size", "sample_tilted", "systematic"]

INSIDE = 1e-3           # where runs begin on paths that hold no data at t = 0, so that lam is finite
FIRST_LAM = -3.0        # where they begin if the exponents do not sum to 1 and noise itself gathers weights: data are a twentieth of it there
# Noise alone multiplies weights by exp((sum a - 1) h chi^2) or so a step, whose variance is infinite from (sum a - 1) h = 1/4 on, its mean from 1/2 on.
GROWTH = 0.1            # the largest (sum a - 1) h ...
LONGEST = 0.25          # ... and h itself, in lam ...
REACH = 6.0             # ... unless so much of lam could not be walked in the steps there are
SIGNAL_LEFT = 0.5       # of alpha at the start: paths that begin with more bury the data under noise instead of fading it


def systematic(weights: Float[Tensor, "*groups n"], u: Float[Tensor, "*groups"]) -> Int64[Tensor, "*groups n"]:
    """Indices of systematic resampling: n equally spaced points, shifted by u / n, on the line of cumulated weights.

    weights: not negative, any positive sum; u: uniform in [0, 1). Index i occurs n w_i times on average over u, and never more than 1 from that.
    ValueError for weights that are negative, not finite, or all zero in a group.

    >>> systematic(torch.tensor([0.5, 0.0, 0.3, 0.2]), torch.tensor(0.1)).tolist()
    [0, 0, 2, 2]
    """
    weights = weights.double()
    if not bool(((weights >= 0) & torch.isfinite(weights)).all()) or not bool((weights.sum(-1) > 0).all()):
        raise ValueError("weights must be finite, not negative and not all zero")
    return _systematic(weights, u)


def _systematic(weights: Tensor, u: Tensor) -> Tensor:
    count = weights.shape[-1]
    edges = weights.cumsum(-1)
    edges = edges / edges[..., -1:]
    points = (torch.arange(count, dtype=torch.float64, device=weights.device) + u.double()[..., None]) / count
    # A point that rounds up to 1 would fall behind the last edge.
    return torch.searchsorted(edges, points.clamp_max(1 - torch.finfo(torch.float64).eps / 2), right=True)


def effective_size(log_weights: Float[Tensor, "*groups n"]) -> Float[Tensor, "*groups"]:
    """(sum w)^2 / sum w^2, from 1 to n: how many equally weighted particles are worth as much."""
    return torch.exp(2 * torch.logsumexp(log_weights, -1) - torch.logsumexp(2 * log_weights, -1))


@dataclass
class FeynmanKacState:
    """Particles at time `step` of the plan.

    x: (n, *event), equal groups one after another. log_weights: (n,) float64, since the last resampling. ancestors: (n,), the number of the first
    particle that each descends from. log_z: (groups,) float64, log of the target's integral, as far as resampling has counted it: of its growth
    alone where the particles were given, and of neither where weights are held back. ess: (groups,), the effective size before the last decision to
    resample, as a share of a group. Of the start of the step just done: rate: (n,), d log w / dlam; value: (n,), the reward; data: (n, *event), the
    tilted data prediction. resampled: (groups,), how often.
    """

    x: Tensor
    log_weights: Tensor
    ancestors: Tensor
    log_z: Tensor
    ess: Tensor
    rate: Tensor
    value: Tensor
    data: Tensor
    resampled: Tensor
    step: int = 0

    @property
    def distinct(self) -> Tensor:
        """(groups,): how many of the first particles have descendants."""
        return torch.tensor([len(row.unique()) for row in self.ancestors.reshape(len(self.log_z), -1)], device=self.x.device)


@dataclass(frozen=True, eq=False)
class FeynmanKac:
    """Carries weighted particles along a tilted field: one call of each inner field a step.

    tilted: made by `tilt`. times: rising; lam finite at the first. cond: passed to the field, one number or batch first; all particles of a group
        share it.
    groups: the particles are so many independent populations, such as one a prompt. ess: a group is resampled (systematically) when its
        effective size falls below this share: 0.5 as in the paper, 1 at every step, 0 never before the end.
    final: whether the end is resampled. Without it the particles mean something only together with `log_weights`.
    noise: k above: 1 is the paper's. More of it mixes better, so that weights differ less, and needs shorter steps.
    clamp: None, or the largest size of a step's log weight about the group's mean (2 in the paper's images): less uneven weights, biased.
    window: the times between which weights are gathered; outside, particles are only moved. None: all. What is left out biases; but where little noise is
        left the true rates fall as c^2, while those of a trained network are its errors' and do not: end there, as (0, 0.95) on the linear path.
    seed: of noise and resampling; first: number of the first group, so that groups run apart draw as they do together.

    The error of a step grows with sum a_j (1 + noise) times its length in lam, and makes the samples too narrow: where that product is not well below 1,
    take more steps. A time without noise at the end is allowed: its step goes to the tilted data prediction. Particles are moved, not differentiated.
    """

    tilted: Tilted
    times: Times
    cond: Any = None
    groups: int = 1
    ess: float = 0.5
    final: bool = True
    noise: float = 1.0
    clamp: float | None = None
    window: tuple[float, float] | None = None
    seed: int | Draws = 0
    first: int = 0

    def __post_init__(self):
        if not isinstance(self.tilted, Tilted):
            raise TypeError(f"tilted must be a field made by tilt(...), got {type(self.tilted).__name__}")
        if not isinstance(self.times, Times):
            raise TypeError(f"times must be a Times, got {type(self.times).__name__}; build one with Times.uniform(path, steps)")
        if self.times.path != self.tilted.path:
            raise ValueError(f"times were made for {self.times.path.schedule}, but the fields live on {self.tilted.path.schedule}")
        if float(self.times.t[1]) < float(self.times.t[0]):
            raise ValueError(f"times must rise, from noise to data, got {[round(v, 6) for v in self.times.t.tolist()[:12]]}")
        if not math.isfinite(float(self.times.lam[0])):
            raise ValueError(f"times must begin where data and noise are both left in x, got t = {float(self.times.t[0]):g}; begin a little inside")
        checks.integer("groups", self.groups, least=1)
        checks.between("ess", self.ess, 0.0, 1.0)
        checks.flag("final", self.final)
        # Without noise the copies that resampling makes would never part.
        checks.positive("noise", self.noise)
        if self.clamp is not None:
            checks.positive("clamp", self.clamp)
        if self.window is not None and not (len(self.window) == 2 and 0 <= self.window[0] < self.window[1] <= 1):
            raise ValueError(f"window must be (from, to) with 0 <= from < to <= 1, got {self.window}")
        checks.integer("first", self.first, least=0)
        object.__setattr__(self, "_draws", Draws(Draws.of(self.seed).seed))

    def begin(self, n: int, shape: Sequence[int] | None = None) -> FeynmanKacState:
        """`n` particles of the tilted noise, N(0, c^2 / sum a_j). shape: the event, where the networks do not tell it.

        The tilted noise is what the target is where no data is left; on paths that begin with data in x it should be small there.
        """
        n = self._counted(checks.integer("n", n, least=1))
        event = tuple(shape) if shape is not None else self.tilted.event
        if event is None:
            raise ValueError("shape must be given: these networks do not tell the shape of a sample")
        like, total = self.tilted.like, self.tilted.total
        start = float(self.times.t[0])
        x = self.times.path.prior((n, *event), seed=self._draws, first=self.first * (n // self.groups), start=start, dtype=like.dtype, device=like.device)
        variance = float(self.times.sigma[0]) ** 2
        # The integral of prod_j N(x; 0, c^2)^a_j.
        log_z = 0.5 * math.prod(event) * (math.log(2 * math.pi * variance / total) - total * math.log(2 * math.pi * variance))
        state = self.init(x / math.sqrt(total), log_z=log_z)
        if self.tilted.reward is None:
            return state
        # Where the reward counts from the beginning, the noise is weighed by it.
        return replace(state, log_weights=self.tilted.reward.strength(start) * self._value(state.x))

    def init(self, x: Inexact[Tensor, "n *event"], *, log_z: float = 0.0) -> FeynmanKacState:
        """Equally weighted particles x, which are taken for draws from the target at the first time, of integral exp(log_z).

        ValueError if groups do not divide them, or if particles of one group have different conditions.
        """
        checks.finite("x", checks.tensor("x", x, floating=True))
        n = self._counted(len(x))
        for cond in (self.cond, *(cond for _, cond in self.tilted.terms)):
            _check_shared(cond, n, self.groups)
        numbers = lambda value, count: torch.full((count,), value, dtype=torch.float64, device=x.device)
        return FeynmanKacState(x, numbers(0.0, n), torch.arange(n, device=x.device), numbers(log_z, self.groups), numbers(1.0, self.groups),
                               numbers(0.0, n), numbers(0.0, n), torch.zeros_like(x), torch.zeros(self.groups, dtype=torch.int64, device=x.device))

    def _counted(self, n: int) -> int:
        if n % self.groups:
            raise ValueError(f"groups must divide the {n} particles, got {self.groups}")
        return n

    @torch.no_grad()
    def step(self, state: FeynmanKacState) -> FeynmanKacState:
        k, times, n = state.step, self.times, len(state.x)
        if k >= times.steps:
            raise ValueError(f"the plan has {times.steps} steps, and the particles have done them all")
        at, following, t = times.each[k], times.each[k + 1], float(times.t[k])
        x = state.x
        told = self.tilted.weighed(x, t, spread(self.cond, n, x.device), at=at)
        (rate, value), data = self._rate(x, t, told, at), self._data(x, t, told, at)
        grown = state.log_weights
        if k:
            # The answer at the end of the last step mends that step, at no call of its own: the data prediction ran from its old value
            # to this one, and so did the rate.
            x = torch.add(x, data - state.data, alpha=at.b * self._lag(k - 1))
            grown = grown + self._gain(k - 1, 0.5 * (state.rate + rate), value, state.value)
        chosen, grown, log_z, ess, resampled = self._select(grown, k, state)
        x, data, rate, value, ancestors = (v[chosen] for v in (x, data, rate, value, state.ancestors))
        x = self._moved(x, data, at, following, k)
        if at.b != following.b:
            log_z = log_z + (1 - self.tilted.total) * x[0].numel() * math.log(following.b / at.b)
        if k + 1 < times.steps:
            return FeynmanKacState(x, grown, ancestors, log_z, ess, rate, value, data, resampled, k + 1)
        # Nothing is asked at the end, where the noise may be gone: there the rate falls as c^2 from what it was.
        last = self._value(x)
        end = FeynmanKacState(x, grown + self._gain(k, rate, last, value, falls=True), ancestors, log_z, ess, rate, last, data, resampled, k + 1)
        self._check(end, k)
        if not self.final:
            return replace(end, ess=effective_size(end.log_weights.reshape(self.groups, -1)) * self.groups / n)
        chosen, grown, log_z, ess, resampled = self._select(end.log_weights, k + 1, end, always=True)
        return FeynmanKacState(x[chosen], grown, ancestors[chosen], log_z, ess, rate[chosen], last[chosen], data[chosen], resampled, k + 1)

    def _rate(self, x: Tensor, t: float, told: Weighed, at: Any) -> tuple[Tensor, Tensor]:
        """(d log w / dlam without the reward's own growth, the reward), (n,) float64."""
        if told.slope is None:
            return told.excess, torch.zeros_like(told.excess)
        # beta <grad r, f + G S_a> dt, by dt = dlam / lam' and G = c^2 lam'.
        flow = (at.db / at.b) / _speed(at) * x - at.c * told.noise
        pull = (told.slope.double() * flow.double()).flatten(1).sum(1)
        return told.excess + self.tilted.reward.strength(t) * pull, told.reward.double()

    def _value(self, x: Tensor) -> Tensor:
        """The reward at x, (n,) float64; zero without one."""
        return torch.zeros(len(x), dtype=torch.float64, device=x.device) if self.tilted.reward is None else self.tilted.reward.value(x).double()

    def _gain(self, k: int, rate: Tensor, value: Tensor, before: Tensor, *, falls: bool = False) -> Tensor:
        """The log weight of step k, (n,)."""
        t, after = self.times.t[k].item(), self.times.t[k + 1].item()
        if self.window is not None and not (self.window[0] <= t and after <= self.window[1]):
            return torch.zeros_like(rate)
        h = self._stride(k)
        gain = rate * (-0.5 * math.expm1(-2 * h) if falls else h)
        if self.tilted.reward is not None:
            beta = self.tilted.reward.strength
            gain = gain + (beta(after) - beta(t)) * 0.5 * (value + before)
        if self.clamp is None:
            return gain
        centred = gain.reshape(self.groups, -1)
        return (centred - centred.mean(1, keepdim=True)).clamp(-self.clamp, self.clamp).flatten()

    def _select(self, log_weights: Tensor, k: int, state: FeynmanKacState, *, always: bool = False) -> tuple[Tensor, ...]:
        """(indices, log weights, log_z, ess, resampled) after the groups that need it are resampled."""
        grouped = log_weights.reshape(self.groups, -1)
        size = grouped.shape[1]
        ess = effective_size(grouped) / size
        needy = torch.ones_like(ess, dtype=torch.bool) if always else (ess < self.ess) | (self.ess == 1.0)
        u = self._draws.uniform("resampling", k, (self.groups,), first=self.first, dtype=torch.float64, device=grouped.device)
        stay = torch.arange(size, device=grouped.device).expand(self.groups, size)
        # Weights that are not numbers must pass here: the last step tells of them.
        chosen = torch.where(needy[:, None], _systematic(torch.softmax(grouped, 1), u).clamp_max(size - 1), stay)
        counted = torch.logsumexp(grouped, 1) - math.log(size)
        log_z = torch.where(needy, state.log_z + counted, state.log_z)
        left = torch.where(needy[:, None], 0.0, grouped).flatten()
        first = torch.arange(self.groups, device=grouped.device)[:, None] * size
        return (chosen + first).flatten(), left, log_z, ess, state.resampled + needy

    def _data(self, x: Tensor, t: float, told: Weighed, at: Any) -> Tensor:
        """What x would be without its noise, if the target's noise had the variance c^2 / sum a_j: (x - c N / sum a_j) / b."""
        noise = told.noise
        if told.slope is not None:
            # The drift has S_a once from the flow, and k (S_a + beta grad r) beside it.
            noise = noise - at.c * (self.noise / (1 + self.noise)) * self.tilted.reward.strength(t) * told.slope
        return torch.sub(x, noise, alpha=at.c / self.tilted.total) / at.b

    def _moved(self, x: Tensor, data: Tensor, at: Any, following: Any, k: int) -> Tensor:
        """x one step on, exactly if the data prediction stood still."""
        decay, spread = _decay_and_spread(self.tilted.total, self.noise, self._stride(k))
        x = torch.add(following.b * (1 - decay) * data, x, alpha=following.b / at.b * decay)
        if following.c == 0:
            return x
        z = self._draws.rows("particle noise", k, tuple(x.shape), first=self.first * (len(x) // self.groups), device=x.device, dtype=x.dtype)
        return x.add_(z, alpha=following.c * spread)

    def _lag(self, k: int) -> float:
        """The share of the data prediction's change, spread evenly over lam, that step k left out."""
        pace = self.tilted.total * (1 + self.noise) * self._stride(k)
        return 1 + math.expm1(-pace) / pace

    def _stride(self, k: int) -> float:
        return float(self.times.lam[k + 1] - self.times.lam[k])

    def _check(self, state: FeynmanKacState, k: int) -> None:
        for name, value in (("log weight", state.log_weights), ("x", state.x)):
            good = torch.isfinite(value).reshape(len(value), -1).all(1)
            if not bool(good.all()):
                raise NonFinite(k, f"{name} of particle {int((~good).nonzero()[0])} of {len(good)}", "not finite", good=False)

    @classmethod
    def examples(cls) -> list[Example]:
        """Skewed Gaussians raised to a power, and multiplied, in groups: means are known by completing the square, as is the integral."""
        from rheos.data import GaussianMixture
        from rheos.guidance.tilt import Reward
        from rheos.paths import ExactField

        one = lambda mean, spread: GaussianMixture(torch.ones(1, dtype=torch.float64), torch.tensor([mean], dtype=torch.float64),
                                                   torch.tensor([spread], dtype=torch.float64))
        first, second = one([0.7, -1.2], [0.3, 1.7]), one([-0.4, 0.5], [0.9, 0.6])
        path = Path.edm(0.01, 20.0)
        product = tilt([ExactField(path, first), ExactField(path, second)], [1.5, 0.5])
        precision = 1.5 / first.covariance[0] + 0.5 / second.covariance[0]
        mean = (1.5 / first.covariance[0] * first.means[0] + 0.5 / second.covariance[0] * second.means[0]) / precision
        times = Times.uniform(path, 80, RHO7)
        plain = cls(product, times, noise=4.0, seed=3)
        averaged = lambda state: (state.x.mean(0), mean)
        reward = Reward(_first_coordinate)
        odd = cls(tilt([ExactField(path, first)], [1.0], reward=reward), Times.uniform(path, 12, SQRT_U, end=0.9), groups=3, ess=1.0, final=False, clamp=2.0,
                  window=(0.1, 0.8), seed=3, first=2)
        # Five standard errors of a mean of some 300 independent draws.
        return [Example(plain, plain.begin(1000), 80, averaged, 0.25, name="product"), Example(odd, odd.begin(60), 12, name="reward, groups, every setting")]


def _first_coordinate(x: Tensor) -> Tensor:
    return x[:, 0]


def _speed(at: Any) -> float:
    """d lam / dt = b'/b - c c'/c^2."""
    return at.db / at.b - at.cdc / at.c**2


def _decay_and_spread(total: float, level: float, h: float) -> tuple[float, float]:
    """u at the end of a step of h in lam is decay u + spread (noise of the deviation c there), in units of b: u' = -2 m u, m = total (1 + level) / 2.

    spread^2 = level (1 - exp(-2 (2 m - 1) h)) / (2 m - 1), which is 2 level h where 2 m = 1.
    """
    m = 0.5 * total * (1 + level)
    pace = 2 * (2 * m - 1)
    if math.isinf(h):
        return 0.0, 0.0     # no noise is left to scale
    return math.exp(-2 * m * h), math.sqrt(level * (2 * h if abs(pace) * h < 1e-12 else -2 * math.expm1(-pace * h) / pace))


def _check_shared(cond: Any, n: int, groups: int) -> None:
    """ValueError if particles of one group have different conditions: a resampled particle would take over another one's."""
    if isinstance(cond, dict):
        for value in cond.values():
            _check_shared(value, n, groups)
    elif isinstance(cond, Tensor) and cond.ndim:
        if len(cond) != n:
            raise ValueError(f"cond must have {n} rows, one a particle, got {len(cond)}")
        rows = cond.reshape(groups, n // groups, -1)
        # Not-a-number stands for a condition that is not given.
        if not bool(((rows == rows[:, :1]) | (rows.isnan() & rows[:, :1].isnan())).all()):
            raise ValueError(f"cond must be the same for all {n // groups} particles of a group, got rows that differ; set groups")


@dataclass(frozen=True, eq=False)
class Weighing:
    """How a run of `sample_tilted` went.

    ess: (steps, groups), effective sizes as shares of a group at the first times, before resampling; the last row is the end's.
    ancestors: (n,), the number of the first particle that each sample descends from; distinct: (groups,), how many there are: if they are a few dozen,
    so is what the samples are worth, and more particles or more `noise` are needed.
    log_z: (groups,), the estimated log of the target's integral, prod_j q_j^a_j at the last time, weights that were left included. With `start=` it is
    the log of how often that integral is the first time's; with `clamp` or `window` it is neither, for weights are missing in it. It takes the first
    time's law for noise alone: where data are left there, each coordinate adds an error of about (sum a_j - 1) (b / c)^2 / 2 times its variance.
    resampled: (groups,). log_weights: (n,), zero where the end was resampled.
    """

    ess: Tensor
    ancestors: Tensor
    distinct: Tensor
    log_z: Tensor
    resampled: Tensor
    log_weights: Tensor


def sample_tilted(
    tilted: Tilted,
    n: int | None = None,
    *,
    start: Inexact[Tensor, "rows *event"] | None = None,
    shape: Sequence[int] | None = None,
    steps: int = 100,
    times: Times | None = None,
    cond: Any = None,
    groups: int = 1,
    ess: float = 0.5,
    final: bool = True,
    noise: float = 1.0,
    clamp: float | None = None,
    window: tuple[float, float] | None = None,
    seed: int | Draws = 0,
    first: int = 0,
    watch: Iterable[Watcher] = (),
) -> tuple[Inexact[Tensor, "rows *event"], Weighing]:
    """Draw from prod_j q_j^a_j by weighted particles: samples (n, *event), and how the run went.

    n, start: how many particles in all groups, or where they begin, as draws from the target at the first time. steps: equal in sqrt(u), or in
    rho^(1/7) where the path begins at large noise, from its start, a little inside where it holds no data, to its end; or the times themselves.
    Where the exponents do not sum to 1, weights spread while x is noise, too: paths that fade the data in begin where they are a twentieth of the noise,
    for data of about unit scale, by steps that are short in lam. With `times`, begin no earlier than the data's own scale asks for.
    The other settings are those of `FeynmanKac`; `shape`, `cond`, `seed` and `watch` as in `rheos.sample`.

    >>> from rheos.data import GaussianMixture
    >>> from rheos.paths import ExactField
    >>> target = GaussianMixture(torch.ones(1), torch.tensor([[3.0]]), torch.tensor([2.0]))
    >>> x, report = sample_tilted(tilt([ExactField(Path.edm(0.01, 20.0), target)], [2.0]), 4000)      # variance 2 / 2
    >>> abs(x.var().item() - 1) < 0.2, tuple(report.ess.shape)
    (True, (100, 1))
    """
    if not isinstance(tilted, Tilted):
        raise TypeError(f"tilted must be a field made by tilt(...), got {type(tilted).__name__}")
    if times is None:
        times = _default_times(tilted.path, checks.integer("steps", steps, least=1), tilted.total)
    run = FeynmanKac(tilted, times, cond, groups, ess, final, noise, clamp, window, seed, first)
    if start is None:
        if n is None:
            raise ValueError("n or start must be given: how many particles, or where they begin")
        state = run.begin(n, shape)
    else:
        if n is not None and n != len(start):
            raise ValueError(f"n must be left out or equal the {len(start)} rows of start, got {n}")
        state = run.init(start)
    trace: list[Tensor] = []
    with evaluating(tilted.net), raising_interrupts():
        end = evolve(run, state, times.steps, watch=(lambda step, state: trace.append(state.ess.clone()), *watch), donate=start is None)
    if end.step < times.steps:
        raise ValueError(f"a watcher ended the run after {end.step} of {times.steps} steps, so there are no samples")
    return end.x, _told(trace, end, run)


def _told(trace: list[Tensor], end: FeynmanKacState, run: FeynmanKac) -> Weighing:
    grouped = end.log_weights.reshape(run.groups, -1)
    left = torch.logsumexp(grouped, 1) - math.log(grouped.shape[1])
    return Weighing(torch.stack(trace), end.ancestors, end.distinct, end.log_z + left, end.resampled, end.log_weights)


def _default_times(path: Path, steps: int, total: float) -> Times:
    start, end = path.interval
    if float(path.coefficients(start).b) > SIGNAL_LEFT:
        # Paths that bury the data under noise spend equal steps in sqrt(u) badly: the first ones would halve the noise each.
        return Times.uniform(path, steps, RHO7, start=start)
    if not math.isfinite(float(path.lam(start))):
        start = min(INSIDE, 0.5 * end)
    excess = abs(total - 1)
    if excess < 1e-9 or float(path.lam(start)) >= FIRST_LAM:
        return Times.uniform(path, steps, SQRT_U, start=start)
    longest = max(min(LONGEST, GROWTH / excess), REACH / steps)
    even, walk = Times.uniform(path, steps, SQRT_U, start=float(path.time_at(FIRST_LAM))), []
    while len(walk) < steps // 2 and float(even.lam[1] - even.lam[0]) > longest:
        walk.append(float(even.t[0]))
        even = Times.uniform(path, steps - len(walk), SQRT_U, start=float(path.time_at(float(even.lam[0]) + longest)))
    return Times(path, walk + even.t.tolist())
