"""Sampling that may turn back: forward steps by the path's posterior, backward steps by fresh noise, with hooks in between.

A walk is a sequence of times. Where t rises to s, one field call gives the data prediction, and x_s is drawn from `path.posterior(x, data, t, s, eta)`
(eta 0: DDIM, arXiv:2010.02502; 1: the Markov chain of DDPM, arXiv:2006.11239). Where t falls to s, x_s = (alpha_s / alpha_t) x + noise from
`path.transition`, without a call. Steered Diffusion, FlowChef, Cyclic One-Way Diffusion and RePaint (Lugmayr et al., 2022, arXiv:2201.09865) are
walks with a hook each.
"""
from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Inexact
from torch import Tensor

from rheos.core import Draws, Example, NonFinite, Watcher, checks, evolve, raising_interrupts
from rheos.guidance.classifier_free import classifier_free
from rheos.paths import Field, Path, Prediction, Times
from rheos.paths.asking import cut, cut_hook, evaluating, spread

__all__ = ["Ask", "Nudging", "Overwrite", "Steering", "TimeTravel", "TimeTravelState", "travel", "travelled"]

Ask = Callable[[Tensor], Prediction]            # one field call at the level of the step, any kind
Edit = Callable[[Tensor, Tensor, float], Tensor]
MOST_STEPS = 100_000
INSIDE = 1e-3       # where a walk begins if the network cannot tell data at alpha = 0


@runtime_checkable
class Nudging(Protocol):
    """Moves x before a forward step; what it returns as the answer is what the step goes on with."""

    def __call__(self, x: Tensor, t: float, ask: Ask) -> tuple[Tensor, Prediction]: ...


@runtime_checkable
class Overwrite(Protocol):
    """Puts something else in the place of x (batch, *event) after a step that ended at t. `noise`: fresh standard normal numbers like x."""

    def __call__(self, x: Tensor, t: float, noise: Callable[[], Tensor]) -> Tensor: ...


@dataclass
class TimeTravelState:
    """x (batch, *event) at the walk's time number `step`."""

    x: Tensor
    step: int = 0


@dataclass(frozen=True, eq=False)
class TimeTravel:
    """Carries samples along a walk that may turn: one field call a forward step (a nudge may make more), none a backward step.

    field: what is asked, on a one-sided path with Gaussian noise. times: the walk, two times or more in [0, 1], neighbours differ; see `travelled`.
    cond: passed to the field, batch first. eta: noise of forward steps, a number in [0, 1] or a function of the time they start from.
    turn: "noise", backward steps by the path's own noise; "flow", backward steps by DDIM's rule backwards (a call each), the way to the latents
        of given data.
    nudge: (x, t, ask) -> (x, answer), before each forward step, see `Nudge`. edit: (data, x, t) -> data, on every data prediction, see `project`; it is
    handed the kind that it names in an attribute `kind`, if any. overwrite: (x, t, noise) -> x, after every step, t the time reached.
    seed: of all noise; first: number of the first row, so that split batches draw the same. finite_every: how often the samples are checked to be
    finite (None: at the last step).

    Gradients are never recorded from step to step. ValueError for walks and paths that do not fit.

    >>> from rheos.data import GaussianMixture
    >>> from rheos.paths import ExactField
    >>> field = ExactField(Path.linear(), GaussianMixture(torch.ones(1), torch.tensor([[3.0]]), torch.tensor([0.01])))
    >>> walk = TimeTravel(field, (0.0, 0.5, 0.2, 0.5, 1.0), eta=1.0)
    >>> round(evolve(walk, walk.init(torch.zeros(1, 1)), 4).x.item(), 1), field.nfe
    (3.0, 3)
    """

    field: Field
    times: tuple[float, ...]
    cond: Any = None
    eta: float | Callable[[float], float] = 0.0
    turn: str = "noise"
    nudge: Nudging | None = None
    edit: Edit | None = None
    overwrite: Overwrite | None = None
    seed: int | Draws = 0
    first: int = 0
    finite_every: int | None = None

    def __post_init__(self):
        _walkable(self.field)
        t = torch.as_tensor(self.times, dtype=torch.float64)
        if t.ndim != 1 or len(t) < 2:
            raise ValueError(f"times must hold two times or more, got shape {tuple(t.shape)}")
        still = (t[1:] == t[:-1]).nonzero()
        if len(still):
            raise ValueError(f"times must move at every step, got {float(t[still[0, 0]]):g} twice in a row")
        at = self.field.path.coefficients(t)
        if len(t) > MOST_STEPS + 1:
            raise ValueError(f"times must hold at most {MOST_STEPS:,} steps, got {len(t) - 1:,}")
        checks.one_of("turn", self.turn, ("noise", "flow"))
        if not callable(self.eta):
            checks.between("eta", self.eta, 0.0, 1.0)
        for name in ("nudge", "edit", "overwrite"):
            hook = getattr(self, name)
            if hook is not None and (isinstance(hook, type) or not callable(hook)):
                raise TypeError(f"{name} must be callable, got {hook!r}")
        checks.integer("first", self.first, least=0)
        if self.finite_every is not None:
            checks.integer("finite_every", self.finite_every, least=1)
        object.__setattr__(self, "times", tuple(t.tolist()))
        each = torch.stack([torch.as_tensor(v, dtype=torch.float64).expand(len(t)) for v in at], 1)
        object.__setattr__(self, "_each", [type(at)(*row) for row in each.tolist()])
        # A network asked where nothing of the data, or of the noise, is left can say nothing; the walk is refused before it begins.
        for k, (now, then) in enumerate(zip(self.times, self.times[1:], strict=False)):
            if then > now and self._each[k].c == 0 or then < now and self.turn == "flow" and self._each[k].c == 0:
                raise ValueError(f"times must not ask where no noise is left, got a step from {now:g} to {then:g}")
            if then < now and self.turn == "noise" and self._each[k].b == 0:
                raise ValueError(f"times must not turn back where no data is left, got a step from {now:g} to {then:g}")
        object.__setattr__(self, "_draws", Draws(Draws.of(self.seed).seed))

    @property
    def steps(self) -> int:
        return len(self.times) - 1

    def init(self, x: Inexact[Tensor, "batch *event"]) -> TimeTravelState:
        """The state at the walk's first time, from x (batch, *event)."""
        checks.tensor("x", x, floating=True)
        return TimeTravelState(x)

    @torch.no_grad()
    def step(self, state: TimeTravelState) -> TimeTravelState:
        k, x = state.step, state.x
        if k >= self.steps:
            raise ValueError(f"the walk has {self.steps} steps, and the samples have passed them all")
        t, s = self.times[k], self.times[k + 1]
        path = self.field.path
        if s > t:
            x, data = self._asked(x, k)
            eta = self.eta(t) if callable(self.eta) else self.eta
            x, spread = path.posterior(x, data, t, s, eta)
        elif self.turn == "flow":
            answer, then = self._ask(x, k), self._each[k + 1]
            x, spread = then.b * answer.data + then.c * answer.noise, 0.0
        else:
            x, spread = path.transition(x, t, s)
        if not (isinstance(spread, float) or float(spread) == 0):
            x = x + spread * self._noise("time travel", k, x)
        if self.overwrite is not None:
            x = _shaped_like("overwrite", self.overwrite(x, s, lambda: self._noise("overwritten", k, x)), x)
        if k + 1 == self.steps or (self.finite_every is not None and (k + 1) % self.finite_every == 0):
            good = torch.isfinite(x)
            if not bool(good.all()):
                raise NonFinite(k, f"sample {int((~good).flatten(1).any(1).nonzero()[0])} of {len(x)}", "not finite", good=self.finite_every == 1)
        return TimeTravelState(x, k + 1)

    def _ask(self, x: Tensor, k: int) -> Prediction:
        return self.field(x, self.times[k], self.cond, at=self._each[k])

    def _asked(self, x: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """(x, data) at the start of a forward step, nudged and edited."""
        t = self.times[k]
        if self.nudge is None:
            answer = self._ask(x, k)
        else:
            moved, answer = self.nudge(x, t, lambda point: self._ask(point, k))
            x = _shaped_like("nudge", moved, x)
        if self.edit is not None:
            kind = getattr(self.edit, "kind", "data")
            edited = _shaped_like("edit", self.edit(answer.of(kind), x, t), x)
            answer = self.field.path.prediction({kind: edited}, x, self._each[k])
        return x, answer.data

    def _noise(self, purpose: str, k: int, x: Tensor) -> Tensor:
        return self._draws.rows(purpose, k, x.shape, first=self.first, device=x.device, dtype=x.dtype)

    @classmethod
    def examples(cls) -> list[Example]:
        """Walks that end at a known point: on the field of one point, whatever the way, and on a measured plane under a projection."""
        from rheos.data import GaussianMixture
        from rheos.guidance.nudges import Misfit, Nudge
        from rheos.guidance.operators import Dense
        from rheos.guidance.projection import project
        from rheos.paths import ExactField

        mean, variance = torch.tensor([[0.7, -1.2]], dtype=torch.float64), torch.tensor([[0.3, 1.7]], dtype=torch.float64)
        one = torch.ones(1, dtype=torch.float64)
        point = GaussianMixture(one, mean, 0 * one)
        broad = GaussianMixture(one, mean, variance)
        x = torch.tensor([[1.0, -0.5], [-2.0, 0.3], [0.1, 2.2]], dtype=torch.float64)
        walk = travelled(Times.uniform(Path.linear(), 6), 3, start=0.2, stop=0.8)
        measured, y = Dense(torch.tensor([[2.0, -1.0]], dtype=torch.float64), (2,)), torch.tensor([[1.5], [-0.5], [3.0]], dtype=torch.float64)
        nudge = Nudge(Misfit(((measured, y, 1.0),)), scale=0.5, through="network", units="sigma", start=0.1, stop=0.9)
        linear = ExactField(Path.linear(), point)
        bound, steered = (cls(ExactField(Path.linear(), broad), walk, eta=1.0, edit=project(measured, y), seed=5, nudge=n) for n in (None, nudge))
        vp = cls(ExactField(Path.vp(), broad), tuple(travelled(Times.uniform(Path.vp(), 6), 2)), eta=0.4, seed=2)
        seen = lambda state: (measured.forward(state.x), y)
        return [Example(cls(linear, walk, eta=1.0, seed=3), TimeTravelState(x), len(walk) - 1, lambda s: (s.x, mean.expand(3, 2)), 1e-9, "one point"),
                Example(bound, TimeTravelState(x), bound.steps, seen, 1e-9, "projected"),
                Example(steered, TimeTravelState(x), steered.steps, seen, 1e-9, "nudged"),
                Example(vp, TimeTravelState(x), vp.steps, name="variance preserving")]


def travelled(times: Times | Sequence[float], loops: int, *, start: float = 0.0, stop: float = 1.0, length: int = 1) -> tuple[float, ...]:
    """A walk along rising `times` whose steps from `start` on and up to `stop` are made `loops` times, each in blocks of `length` steps.

    After every block the walk turns back to where the block began, loops - 1 times. ValueError for times that fall.

    >>> travelled((0.0, 0.25, 0.5, 1.0), 2, start=0.25, stop=0.5)
    (0.0, 0.25, 0.5, 0.25, 0.5, 1.0)
    """
    t = times.t.tolist() if isinstance(times, Times) else [float(v) for v in times]
    if len(t) < 2 or any(b <= a for a, b in zip(t, t[1:], strict=False)):
        raise ValueError(f"times must rise, got {[round(v, 6) for v in t[:12]]}")
    loops, length = checks.integer("loops", loops, least=1), checks.integer("length", length, least=1)
    start, stop = checks.between("start", start, 0.0, 1.0), checks.between("stop", stop, 0.0, 1.0)
    if stop < start:
        raise ValueError(f"stop must not lie before start = {start:g}, got {stop:g}")
    walk, k = [t[0]], 0
    while k + 1 < len(t):
        end = k + 1
        if t[k] >= start and t[k] > 0.0 and t[end] <= stop:     # nothing can be carried back to where no data is left and be of use
            while end < len(t) - 1 and end - k < length and t[end + 1] <= stop:
                end += 1
            walk += t[k + 1 : end + 1] + [v for _ in range(loops - 1) for v in t[k : end + 1]]
        else:
            walk.append(t[end])
        k = end
    return tuple(walk)


def travel(
    field: Field,
    n: int | None = None,
    *,
    start: Inexact[Tensor, "rows *event"] | None = None,
    shape: Sequence[int] | None = None,
    steps: int = 50,
    times: Times | Sequence[float] | None = None,
    cond: Any = None,
    guidance: float | None = None,
    eta: float | Callable[[float], float] = 0.0,
    turn: str = "noise",
    nudge: Nudging | None = None,
    edit: Edit | None = None,
    overwrite: Overwrite | None = None,
    seed: int | Draws = 0,
    batch: int | None = None,
    first: int = 0,
    watch: Iterable[Watcher] = (),
) -> Inexact[Tensor, "rows *event"]:
    """Carry a batch along a walk from the base to the data, with hooks, and return it, (n, *event).

    n, start, shape, steps, cond, guidance, seed, batch, first, watch: as in `rheos.sample`. times: `Times`, or a walk that may turn, see `travelled`;
        without them, `steps` equal steps of t.
    eta, turn, nudge, edit, overwrite: see `TimeTravel`. A hook with a method `rows(start, stop)` is cut with the batch.

    The network is in evaluation mode for the time of the call, and no gradients are recorded from step to step.
    ValueError for arguments that do not fit; NonFinite if a sample leaves the finite numbers.

    >>> from rheos.data import GaussianMixture
    >>> from rheos.guidance.operators import Mask
    >>> from rheos.guidance.projection import project
    >>> from rheos.paths import ExactField
    >>> field = ExactField(Path.linear(), GaussianMixture(torch.ones(1), torch.tensor([[3.0, 3.0]]), torch.tensor([1.0])))
    >>> x = travel(field, 5, steps=10, edit=project(Mask(torch.tensor([True, False])), torch.tensor([[0.5, 0.0]])))
    >>> bool((x[:, 0] == 0.5).all()), x.shape
    (True, torch.Size([5, 2]))
    """
    if not isinstance(field, Field):
        raise TypeError(f"field must be a Field, got {type(field).__name__}; wrap a network as Field(net, path, predicts)")
    _walkable(field)
    walk = _walk(field, steps, times)
    if start is None:
        if n is None:
            raise ValueError("n or start must be given: how many samples, or where they begin")
        n = checks.integer("n", n, least=1)
        event = tuple(shape) if shape is not None else field.event
        if event is None:
            raise ValueError("shape must be given: this network does not tell the shape of a sample")
    else:
        checks.finite("start", checks.tensor("start", start, floating=True))
        if not start.numel():
            raise ValueError(f"start must hold at least one sample, got shape {tuple(start.shape)}")
        if n is not None and n != len(start):
            raise ValueError(f"n must be left out or equal the {len(start)} rows of start, got {n}")
        n, event = len(start), tuple(start.shape[1:])
    like = field.like if start is None else start
    cond = spread(cond, n, like.device)
    asked = field if guidance is None else classifier_free(field, guidance)
    size, offset = n if batch is None else checks.integer("batch", batch, least=1), checks.integer("first", first, least=0)
    draws, parts = Draws.of(seed), []
    with evaluating(getattr(field, "net", None)), raising_interrupts():
        for begin in range(0, n, size):
            end = min(n, begin + size)
            x = (field.path.prior((end - begin, *event), seed=draws, first=offset + begin, start=walk[0], dtype=like.dtype, device=like.device)
                 if start is None else start[begin:end])
            hooks = {name: cut_hook(hook, begin, end) for name, hook in (("nudge", nudge), ("edit", edit), ("overwrite", overwrite))}
            run = TimeTravel(asked, walk, cut(cond, begin, end - begin), eta, turn, **hooks, seed=draws, first=offset + begin)
            state = evolve(run, run.init(x.detach()), run.steps, watch=watch)
            if state.step < run.steps:
                raise ValueError(f"a watcher ended the run after {state.step} of {run.steps} steps, so there are no samples")
            parts.append(state.x)
    return parts[0] if len(parts) == 1 else torch.cat(parts)


@dataclass(frozen=True, eq=False)
class Steering:
    """A field with the way it is walked: what the papers on this engine give. `.sample` takes the keywords of `travel` that are left.

    loops, begin, end, length: how often, from which time to which, and in blocks of how many steps levels are repeated, see `travelled`.
    """

    field: Field
    nudge: Nudging | None = None
    edit: Edit | None = None
    overwrite: Overwrite | None = None
    eta: float | Callable[[float], float] = 0.0
    loops: int = 1
    begin: float = 0.0
    end: float = 1.0
    length: int = 1

    def __post_init__(self):
        _walkable(self.field)
        travelled((0.0, 1.0), self.loops, start=self.begin, stop=self.end, length=self.length)

    def sample(self, n: int | None = None, *, steps: int = 50, times: Times | Sequence[float] | None = None, **settings: Any) -> Inexact[Tensor, "rows *event"]:
        """`travel` with these hooks on `steps` equal steps of t, or along rising `times`, their levels repeated as told.

        ValueError for keywords of `travel` that were settled when this was made.
        """
        for name in ("eta", "nudge", "edit", "overwrite"):
            if name in settings:
                raise ValueError(f"{name} must be left out of sample: it was settled when the steering was made")
        walk = travelled(_walk(self.field, steps, times), self.loops, start=self.begin, stop=self.end, length=self.length)
        return travel(self.field, n, times=walk, eta=self.eta, nudge=self.nudge, edit=self.edit, overwrite=self.overwrite, **settings)


def _walkable(field: Field) -> None:
    path = field.path
    if path.two_sided or getattr(path.schedule, "spectral", False):
        raise ValueError(f"field must live on a one-sided path whose coordinates share their coefficients, got {path.schedule}")
    if not path.noise.gaussian:
        raise ValueError(f"field must live on a path with Gaussian noise, got {path.noise}")


def _walk(field: Field, steps: int, times: Times | Sequence[float] | None) -> tuple[float, ...]:
    """The times of a walk, its start moved a little inside where the network cannot tell data."""
    if times is None:
        if checks.integer("steps", steps, least=1) > MOST_STEPS:
            raise ValueError(f"steps must be at most {MOST_STEPS:,}, got {steps:,}")
        times = Times.uniform(field.path, steps)
        if float(times.alpha[0]) == 0 and not {"velocity", "data", "v"} & set(field.predicts):
            t = times.t.tolist()
            times = Times(field.path, [min(INSIDE, 0.5 * t[1]), *t[1:]])
    if isinstance(times, Times):
        if times.path != field.path:
            raise ValueError(f"times were made for {times.path.schedule}, but the field lives on {field.path.schedule}")
        return tuple(times.t.tolist())
    return tuple(float(v) for v in times)


def _shaped_like(name: str, value: Any, x: Tensor) -> Tensor:
    if not isinstance(value, Tensor) or value.shape != x.shape:
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"{name} must return the shape of the samples, {tuple(x.shape)}, got {got}")
    return value
