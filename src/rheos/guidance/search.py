r"""Search over noise: more field calls a sample, spent on candidates among which a verifier chooses.

Starts: the best of N, or a walk of the pivot z among its neighbours, which stay on the shell where Gaussian noise lies,
  z' = sqrt(1 - l^2) z + l u,  u ~ N(0, I),  and the pivot moves to the best of itself and them.
Paths: K samples on their way are noised back a little, M times each, carried on further than that, and the K kept whose data prediction scores best.

Paper: Ma et al., Inference-time scaling for diffusion models beyond scaling denoising steps, 2025, arXiv:2501.09732.
Ours: several searches run side by side in the same batches, and the budget counts field calls, not candidates.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from rheos.core import Draws, Example, Watcher, checks, evolve, raising_interrupts
from rheos.paths import Field, Path, Times
from rheos.paths.asking import spread

__all__ = ["BestOf", "Found", "OverPaths", "PathSearch", "PathSearchState", "StartSearch", "StartSearchState", "ZeroOrder", "search"]

Verify = Callable[[Tensor], Tensor]         # samples (rows, *event) -> scores (rows,), higher is better


@dataclass(frozen=True)
class BestOf:
    """Independent starts, the best is kept. batch: how many are generated at once; the candidates do not depend on it."""

    batch: int = 16

    def __post_init__(self):
        checks.integer("batch", self.batch, least=1)

    @property
    def width(self) -> int:
        """Candidates a round."""
        return self.batch

    def propose(self, pivot: Float[Tensor, "problems *event"], noise: Float[Tensor, "count problems *event"]) -> Float[Tensor, "count problems *event"]:
        return noise


@dataclass(frozen=True)
class ZeroOrder:
    """`neighbours` of the pivot a round, `step` l away from it: sqrt(1 - l^2) z + l u. The pivot stays where none of them is better.

    step: in (0, 1]; 1 is `BestOf`, 0.95 the paper's. Small steps need a budget of some rounds, and a verifier that changes little over them.
    """

    neighbours: int = 8
    step: float = 0.95

    def __post_init__(self):
        checks.integer("neighbours", self.neighbours, least=1)
        checks.between("step", self.step, 0.0, 1.0, low_open=True)

    @property
    def width(self) -> int:
        """Candidates a round."""
        return self.neighbours

    def propose(self, pivot: Float[Tensor, "problems *event"], noise: Float[Tensor, "count problems *event"]) -> Float[Tensor, "count problems *event"]:
        # Not pivot + step u: in many dimensions that is longer than any start the field was trained on.
        return math.sqrt((1 - self.step) * (1 + self.step)) * pivot + self.step * noise


@dataclass(frozen=True, eq=False)
class OverPaths:
    """Search on the way: `paths` samples a problem, `draws` re-noisings of each a round.

    field: tells the data prediction that is scored. times: the whole way; all counts below are steps of it. begin: where the first samples are
    carried before the search begins. back: how far each is noised back. forward: how far it is carried on from there, more than `back`.
    calls: field calls a step of the way. cond: of the field, one a problem, or one number for all.
    """

    field: Field
    times: Times
    paths: int = 2
    draws: int = 4
    begin: int = 2
    back: int = 1
    forward: int = 2
    calls: int = 1
    cond: Any = None

    def __post_init__(self):
        if not isinstance(self.field, Field):
            raise TypeError(f"field must be a Field, got {type(self.field).__name__}")
        if not isinstance(self.times, Times):
            raise TypeError(f"times must be a Times, got {type(self.times).__name__}")
        if self.times.path != self.field.path:
            raise ValueError(f"times were made for {self.times.path.schedule}, but the field lives on {self.field.path.schedule}")
        if self.field.path.two_sided or not self.field.path.noise.gaussian:
            raise ValueError("OverPaths noises samples back, which needs a one-sided path with Gaussian noise")
        if float(self.times.t[0]) > float(self.times.t[-1]):
            raise ValueError(f"times must run from noise to data, got {float(self.times.t[0]):g} to {float(self.times.t[-1]):g}")
        for name in ("paths", "draws", "begin", "back", "forward", "calls"):
            checks.integer(name, getattr(self, name), least=1)
        if self.forward <= self.back:
            raise ValueError(f"forward must be more than back = {self.back}, or the search would not advance, got {self.forward}")
        if not self.back <= self.begin < self.times.steps:
            raise ValueError(f"begin must lie in [{self.back}, {self.times.steps - 1}]: from back to the last step but one, got {self.begin}")

    def after(self, position: int) -> int:
        """Where a round ends that begins at `position`."""
        return min(position - self.back + self.forward, self.times.steps)

    @property
    def nfe(self) -> int:
        """Field calls a problem, from noise to data. Samples that have arrived are scored themselves, without a call."""
        position, total = self.begin, self.paths * (self.begin * self.calls + 1)
        while position < self.times.steps:
            then = self.after(position)
            total += self.paths * self.draws * ((then - position + self.back) * self.calls + (then < self.times.steps))
            position = then
        return total


class Found(NamedTuple):
    """x (problems, *event) with their scores (problems,), and what they cost.

    start: the starts that x came from, or None for a search over paths. trace: (field calls a problem so far, best scores then), one a round.
    nfe: field calls a problem. verified: candidates, and so verifier evaluations, a problem. held_out: the scores of x by a verifier that did
    not choose, where one was given: where they lag behind, the search has learnt to please its verifier.
    """

    x: Tensor
    score: Tensor
    start: Tensor | None
    trace: list[tuple[int, Tensor]]
    nfe: int
    verified: int
    held_out: Tensor | None


@dataclass
class StartSearchState:
    """The pivots z (problems, *event), their samples x and scores (problems,). drawn: candidates a problem so far; nfe: field calls a problem;
    cost: field calls a candidate, as the first one took them."""

    z: Tensor
    x: Tensor
    score: Tensor
    drawn: int
    nfe: int
    cost: int
    step: int = 0


@dataclass(frozen=True, eq=False)
class StartSearch:
    """`search` over starts as a dynamics: one round of candidates a step. Run it `until=run.done`; the arguments are those of `search`."""

    generate: Callable[[Tensor], Tensor]
    verify: Verify
    event: tuple[int, ...]
    budget: int
    method: BestOf | ZeroOrder = field(default_factory=BestOf)
    calls: int | Field = 1
    problems: int = 1
    like: Tensor | None = None
    seed: int | Draws = 0

    def __post_init__(self):
        object.__setattr__(self, "event", tuple(checks.integer("shape", size, least=1) for size in self.event))
        checks.integer("budget", self.budget, least=1)
        checks.integer("problems", self.problems, least=1)
        for name in ("generate", "verify"):
            _callable(name, getattr(self, name))
        if not isinstance(self.method, BestOf | ZeroOrder):
            raise TypeError(f"method must be BestOf, ZeroOrder or OverPaths, got {self.method!r}")
        if not isinstance(self.calls, Field):
            checks.integer("calls", self.calls, least=1)
            self._affordable(self.calls)
        object.__setattr__(self, "_draws", Draws(Draws.of(self.seed).seed))

    def _affordable(self, cost: int) -> None:
        if cost > self.budget:
            raise ValueError(f"budget must hold at least one sample, which takes {cost} field calls, got {self.budget}")

    def init(self) -> StartSearchState:
        """The first start of each problem, generated and scored. ValueError where the budget does not hold even that."""
        z = self._noise(0, 1)[0]
        x, score, cost = self._try(z[None])
        self._affordable(cost)
        return StartSearchState(z, x[0], score[0], 1, cost, cost)

    def done(self, state: StartSearchState) -> bool:
        """Whether what is left of the budget holds no further sample."""
        return state.nfe + state.cost > self.budget

    def step(self, state: StartSearchState) -> StartSearchState:
        count = min(self.method.width, (self.budget - state.nfe) // state.cost)
        if count < 1:
            raise ValueError(f"the budget of {self.budget} field calls is spent")
        z = self.method.propose(state.z, self._noise(state.drawn, count))
        x, score, took = self._try(z)
        self._steady(state.cost, took, count)
        best, at = score.max(0)
        at, better = (at, torch.arange(self.problems, device=at.device)), best > state.score
        keep = lambda new, old: torch.where(better.reshape(-1, *(1,) * (old.ndim - 1)), new, old)
        return StartSearchState(keep(z[at], state.z), keep(x[at], state.x), keep(best, state.score), state.drawn + count, state.nfe + count * state.cost,
                                state.cost, state.step + 1)

    def _steady(self, cost: int, took: int, count: int) -> None:
        """ValueError where `took` calls for `count` candidates a problem do not agree with `cost`, that of the first candidate."""
        # A field counts batches, not rows. Where the first was one row, more calls are whole batches more; where it was several, it may have been cut itself.
        if took != cost and (self.problems > 1 or took % cost or took > count * cost):
            raise ValueError(f"calls must be a number here: generate took {cost} field calls for {self.problems} samples and {took} for "
                             f"{count * self.problems}, which does not tell what one sample takes")

    def _noise(self, first: int, count: int) -> Tensor:
        """Candidates first .. first + count - 1 of every problem, (count, problems, *event), whatever the rounds they are drawn in."""
        like = torch.empty(0) if self.like is None else self.like
        rows = self._draws.rows("search start", 0, (count * self.problems, *self.event), first=first * self.problems, dtype=like.dtype, device=like.device)
        return rows.reshape(count, self.problems, *self.event)

    def _try(self, z: Tensor) -> tuple[Tensor, Tensor, int]:
        """Samples and scores of candidates (count, problems, *event), and how often the field was called, or what a sample is said to take."""
        before = self.calls.nfe if isinstance(self.calls, Field) else 0
        with torch.no_grad():
            x = _rows("generate", self.generate(z.flatten(0, 1)), z.shape[0] * z.shape[1])
            score = scored("verify", self.verify, x)
        cost = self.calls.nfe - before if isinstance(self.calls, Field) else self.calls
        if cost < 1:
            raise ValueError("calls counts the calls of a field that generate does not use: it was not called once")
        return x.reshape(*z.shape[:2], *x.shape[1:]), score.reshape(z.shape[:2]), cost

    @classmethod
    def examples(cls) -> list[Example]:
        """A smooth verifier on a linear map, by both methods."""
        made = []
        for method in (BestOf(4), ZeroOrder(3, 0.4)):
            run = cls(_skewed, _nearness, (2,), 40, method, problems=3, like=torch.empty(0, dtype=torch.float64), seed=5)
            # What is kept is what the kept start gives, and its score is its own.
            answer = lambda state: (torch.cat([state.x.flatten(), state.score]), torch.cat([_skewed(state.z).flatten(), _nearness(_skewed(state.z))]))
            made.append(Example(run, run.init(), 5, answer, 1e-12, type(method).__name__))
        return made


@dataclass
class PathSearchState:
    """Samples x (paths, problems, *event) at step `position` of the way, best first, and the scores of what they promise, (paths, problems).
    drawn: candidates a problem so far; nfe: field calls a problem."""

    x: Tensor
    score: Tensor
    position: int
    drawn: int
    nfe: int
    step: int = 0


@dataclass(frozen=True, eq=False)
class PathSearch:
    """`search` over paths as a dynamics: one round of noising back and carrying on a step. Run it `until=run.done`.

    denoise: (x, times) -> x, samples carried from the first of `times` to the last, `method.calls` field calls a step.
    """

    denoise: Callable[[Tensor, Times], Tensor]
    verify: Verify
    event: tuple[int, ...]
    method: OverPaths
    problems: int = 1
    like: Tensor | None = None
    seed: int | Draws = 0

    def __post_init__(self):
        object.__setattr__(self, "event", tuple(checks.integer("shape", size, least=1) for size in self.event))
        checks.integer("problems", self.problems, least=1)
        for name in ("denoise", "verify"):
            _callable("generate" if name == "denoise" else name, getattr(self, name))
        if not isinstance(self.method, OverPaths):
            raise TypeError(f"method must be OverPaths, got {self.method!r}")
        object.__setattr__(self, "_draws", Draws(Draws.of(self.seed).seed))

    def init(self) -> PathSearchState:
        """The first samples of each problem, carried to where the search begins, and scored."""
        method, like = self.method, self.method.field.like if self.like is None else self.like
        x = method.field.path.prior((method.paths * self.problems, *self.event), seed=self._draws, start=float(method.times.t[0]), dtype=like.dtype,
                                    device=like.device)
        x, score, nfe = self._carried(x.reshape(method.paths, self.problems, *self.event), 0, method.begin)
        return PathSearchState(*self._best(x, score), method.begin, method.paths, nfe)

    def done(self, state: PathSearchState) -> bool:
        """Whether the samples have arrived."""
        return state.position >= self.method.times.steps

    def step(self, state: PathSearchState) -> PathSearchState:
        method, t = self.method, self.method.times.t.tolist()
        if self.done(state):
            raise ValueError(f"the samples have arrived: the way has {method.times.steps} steps")
        back, then = state.position - method.back, method.after(state.position)
        x = state.x.repeat(method.draws, *(1,) * (state.x.ndim - 1))
        mean, deviation = method.field.path.transition(x.flatten(0, 1), t[state.position], t[back])
        noise = self._draws.rows("search paths", state.step, mean.shape, dtype=mean.dtype, device=mean.device)
        x, score, nfe = self._carried((mean + deviation * noise).reshape(x.shape), back, then)
        return PathSearchState(*self._best(x, score), then, state.drawn + len(x), state.nfe + nfe, state.step + 1)

    def _best(self, x: Tensor, score: Tensor) -> tuple[Tensor, Tensor]:
        kept, at = score.topk(self.method.paths, 0)
        return x[at, torch.arange(self.problems, device=at.device)], kept

    def _carried(self, x: Tensor, begin: int, end: int) -> tuple[Tensor, Tensor, int]:
        """Candidates (count, problems, *event) carried on, their scores (count, problems), field calls a problem."""
        method, (count, problems) = self.method, x.shape[:2]
        way = Times(method.times.path, method.times.t[begin : end + 1])
        arrived = end == method.times.steps
        with torch.no_grad():
            flat = self.denoise(x.flatten(0, 1), way)
            if not isinstance(flat, Tensor) or flat.shape != (count * problems, *self.event):
                raise ValueError(f"generate must return the shape of x, {(count * problems, *self.event)}, got "
                                 f"{tuple(flat.shape) if isinstance(flat, Tensor) else type(flat).__name__}")
            promised = flat if arrived else method.field.data(flat, float(way.t[-1]), _repeated(method.cond, count, problems, flat.device))
            score = scored("verify", self.verify, promised)
        return flat.reshape(x.shape), score.reshape(count, problems), count * ((end - begin) * method.calls + (not arrived))

    @classmethod
    def examples(cls) -> list[Example]:
        """A field that is known, carried along by Euler's rule."""
        from rheos.data import GaussianMixture
        from rheos.paths import ExactField

        target = GaussianMixture(torch.tensor([0.7, 0.3], dtype=torch.float64), torch.tensor([[1.0, -2.0], [-1.5, 0.5]], dtype=torch.float64),
                                 torch.tensor([0.2, 0.4], dtype=torch.float64))
        exact = ExactField(Path.linear(), target)
        method = OverPaths(exact, Times.uniform(Path.linear(), 8), paths=2, draws=3, begin=2)
        run = cls(_Euler(exact), _nearness, (2,), method, problems=2, seed=3)
        return [Example(run, run.init(), 4)]


def search(
    generate: Callable[..., Tensor],
    verify: Verify,
    shape: Sequence[int],
    budget: int,
    *,
    method: BestOf | ZeroOrder | OverPaths | None = None,
    calls: int | Field = 1,
    problems: int = 1,
    held_out: Verify | None = None,
    like: Tensor | None = None,
    seed: int | Draws = 0,
    watch: Iterable[Watcher] = (),
) -> Found:
    """The samples that `verify` likes best, at `budget` field calls a problem.

    generate: starts (rows, *shape), standard normal, -> samples (rows, *event). For `OverPaths` it is called as generate(x, times) and carries x from
        the first of `times` to the last, as `lambda x, times: sample(field, start=x, times=times, rule=DDIM())` does.
    verify: samples -> scores (rows,), higher is better. Its evaluations are counted apart, see `Found`.
    shape: of one start. budget: field calls a problem, all candidates together.
    method: `BestOf()`, `ZeroOrder(...)` or `OverPaths(...)`.
    calls: field calls a generated sample; or the field that `generate` uses: its count over the first candidate, one row a problem, is what a sample
        takes, however batches are cut later on. With several problems `generate` must not cut them. `OverPaths` knows its cost.
    problems: so many independent searches, in the same batches: the rows are candidate by candidate, all problems of each, so that conditions
        (problems, ...) fit them as `cond.repeat(len(z) // problems)`.
    held_out: a second verifier, which only judges what was chosen. like: a tensor of the starts' dtype and device. watch: watchers of the run.

    ValueError for a budget that does not hold one sample (or the whole of `OverPaths`), for scores that are not numbers, one a row, and for a `generate`
    whose field calls do not tell what a sample takes.

    >>> found = search(lambda z: z + 3.0, lambda x: -x.abs().amax(1), (1,), budget=200)
    >>> abs(found.x.item()) < 1.0 and found.nfe == 200
    True
    """
    method, trace = BestOf() if method is None else method, []
    if held_out is not None:
        _callable("held_out", held_out)
    if isinstance(method, OverPaths):
        if method.nfe > checks.integer("budget", budget, least=1):
            raise ValueError(f"budget must be at least {method.nfe} field calls for this search over paths, got {budget}")
        run: Any = PathSearch(generate, verify, tuple(shape), method, problems, like, seed)
    else:
        run = StartSearch(generate, verify, tuple(shape), budget, method, calls, problems, like, seed)
    with raising_interrupts():
        end = evolve(run, run.init(), until=run.done, watch=(_Notes(trace), *watch), donate=True)
    if not run.done(end):
        raise ValueError(f"a watcher ended the search after {end.nfe} field calls, before the budget was spent")
    over = isinstance(method, OverPaths)
    x, score = (end.x[0], end.score[0]) if over else (end.x, end.score)
    with torch.no_grad():
        other = None if held_out is None else scored("held_out", held_out, x)
    return Found(x, score, None if over else end.z, trace, end.nfe, end.drawn, other)


class _Notes:
    """The best scores after every round."""

    def __init__(self, trace: list[tuple[int, Tensor]]):
        self.trace = trace

    def begin(self, state: Any, steps: int | None) -> None:
        self(0, state)

    def __call__(self, step: int, state: Any) -> None:
        self.trace.append((state.nfe, (state.score[0] if state.score.ndim == 2 else state.score).clone()))


def scored(name: str, verify: Verify, x: Tensor) -> Tensor:
    """The scores (rows,) of samples. ValueError for another shape, and for what is not a number: nothing is better or worse than that."""
    scores = verify(x)
    if not isinstance(scores, Tensor) or scores.shape != x.shape[:1]:
        raise ValueError(f"{name} must return one score a sample, ({len(x)},), got {tuple(scores.shape) if isinstance(scores, Tensor) else scores!r}")
    if bool(scores.isnan().any()):
        raise ValueError(f"{name} must return numbers, got nan for sample {int(scores.isnan().nonzero()[0])} of {len(x)}")
    return scores


def _rows(name: str, value: Any, rows: int) -> Tensor:
    if not isinstance(value, Tensor) or value.ndim < 1 or len(value) != rows:
        raise ValueError(f"{name} must return {rows} samples, one a start, got {tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__}")
    return value


def _callable(name: str, value: Any) -> None:
    if not callable(value):
        raise TypeError(f"{name} must be callable, got {type(value).__name__}")


def _repeated(cond: Any, count: int, problems: int, device: torch.device) -> Any:
    """Conditions (problems, ...), or one number, for count candidates of every problem."""
    if isinstance(cond, dict):
        return {name: _repeated(value, count, problems, device) for name, value in cond.items()}
    told = spread(cond, problems, device)
    return None if told is None else told.repeat(count, *(1,) * (told.ndim - 1))


# Of the examples: functions with a name, so that two of them are alike.

def _skewed(z: Tensor) -> Tensor:
    return z @ torch.tensor([[1.0, 0.5], [-0.3, 2.0]], dtype=z.dtype) + 0.7


def _nearness(x: Tensor) -> Tensor:
    return -(x - torch.tensor([1.5, -0.5], dtype=x.dtype)).square().sum(1)


@dataclass(frozen=True, eq=False)
class _Euler:
    field: Field

    def __call__(self, x: Tensor, times: Times) -> Tensor:
        for t, s in zip(times.t.tolist(), times.t[1:].tolist(), strict=False):
            x = x + (s - t) * self.field.velocity(x, t)
        return x
