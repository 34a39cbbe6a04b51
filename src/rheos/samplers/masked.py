"""Sampling of masked tokens: a rule says which hidden tokens are shown next, the field what they are.

Ancestral (arXiv:2406.03736, equation of the Tweedie step): from t to s each hidden token is shown with chance (alpha(s) - alpha(t)) / (1 - alpha(t)).
First hitting (Zheng et al., 2024, arXiv:2409.02908): of n hidden tokens the next one is shown when the share m of hidden ones has fallen to
m u^(1/n), u uniform, and it is any of them; n calls, and the law of the ancestral sampler with infinitely many steps.
"""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from rheos.core import Draws, Example, Watcher, checks, evolve, raising_interrupts
from rheos.couplings.pairs import rows_of
from rheos.paths.asking import cut, evaluating, spread
from rheos.paths.masked import MaskedPath
from rheos.paths.masked_field import MaskedField
from rheos.samplers.categories import inverted

__all__ = ["AnyOrder", "FirstHitting", "MaskedAncestral", "Picked", "Unmasking", "UnmaskingRule", "UnmaskingState", "sample_tokens"]

MOST_STEPS = 100_000


class Picked(NamedTuple):
    """What a rule decides for a step: which tokens are shown, (rows, length); the share of hidden tokens at which the field is asked, and the one
    after the step, both (rows,) float64; and whether the field is asked even about rows of which nothing is shown."""

    shown: Tensor
    asked_at: Tensor
    level: Tensor
    everywhere: bool = False


@runtime_checkable
class UnmaskingRule(Protocol):
    """Which hidden tokens are shown in a step; all its random numbers are functions of (draws, step, row)."""

    def steps_for(self, hidden: Bool[Tensor, "rows length"]) -> int:
        """How many steps show all of `hidden`. ValueError if the rule does not fit rows of this length."""
        ...

    def pick(self, path: MaskedPath, hidden: Bool[Tensor, "rows length"], level: Float64[Tensor, " rows"], *, draws: Draws, step: int,
             first: int) -> Picked: ...


@dataclass(frozen=True)
class MaskedAncestral:
    """Equal steps in time; in each, every hidden token is shown with the chance that the path tells.

    steps: how many. cache: ask the field only about rows of which a token is shown in a step: what the others would be told is what they were
    told before. Same samples; a row of L tokens then takes n (1 - (1 - 1/n)^L) calls on average, never more than L, in place of n.
    """

    steps: int = 64
    cache: bool = True
    papers: ClassVar[tuple[str, ...]] = ("2406.03736",)

    def __post_init__(self):
        if checks.integer("steps", self.steps, least=1) > MOST_STEPS:
            raise ValueError(f"steps must be at most {MOST_STEPS:,}, got {self.steps:,}")
        checks.flag("cache", self.cache)

    def steps_for(self, hidden: Bool[Tensor, "rows length"]) -> int:
        return self.steps

    def pick(self, path: MaskedPath, hidden: Bool[Tensor, "rows length"], level: Float64[Tensor, " rows"], *, draws: Draws, step: int,
             first: int) -> Picked:
        now, then = step / self.steps, (step + 1) / self.steps
        # The event and the token apart, and both in float64: drawn in one go in float32, rare tokens come up too seldom (arXiv:2409.02908).
        u = draws.uniform("unmasking", step, tuple(hidden.shape), first=first, device=hidden.device, dtype=torch.float64)
        return Picked(hidden & (u < float(path.unmask_probability(now, then))), level, level * ((1 - then) / (1 - now)), not self.cache)


@dataclass(frozen=True)
class FirstHitting:
    """One token after the other, at the times at which the process in continuous time shows them: as many calls as hidden tokens, and no bias.

    parallel: so many tokens from one call; above 1 they are drawn as if they did not depend on each other.
    """

    parallel: int = 1
    papers: ClassVar[tuple[str, ...]] = ("2409.02908",)

    def __post_init__(self):
        checks.integer("parallel", self.parallel, least=1)

    def steps_for(self, hidden: Bool[Tensor, "rows length"]) -> int:
        return -(-int(hidden.sum(1).max()) // self.parallel) if len(hidden) else 0

    def pick(self, path: MaskedPath, hidden: Bool[Tensor, "rows length"], level: Float64[Tensor, " rows"], *, draws: Draws, step: int,
             first: int) -> Picked:
        count, together = hidden.sum(1), min(self.parallel, hidden.shape[1])
        u = draws.uniform("hitting time", step, (len(hidden), together), first=first, device=hidden.device, dtype=torch.float64)
        left = count[:, None] - torch.arange(together, device=hidden.device)
        # u^(1/n) by logarithms; where nothing is hidden any more, time stands still.
        falls = torch.where(left > 0, u.log() / left.clamp_min(1), 0.0).exp()
        place = draws.uniform("place", step, tuple(hidden.shape), first=first, device=hidden.device, dtype=torch.float64)
        chosen = place.masked_fill(~hidden, 2.0).topk(together, 1, largest=False).indices
        return Picked(torch.zeros_like(hidden).scatter(1, chosen, True) & hidden, level * falls[:, 0], level * falls.prod(1))


@dataclass(frozen=True)
class AnyOrder:
    """One position after the other, in an order of the caller's; positions that are shown already are passed over without a call.

    order: every position 0..L-1 once; None: from left to right. (A random order, another for each row, is `FirstHitting`.)
    """

    order: Sequence[int] | None = None
    papers: ClassVar[tuple[str, ...]] = ("2406.03736",)

    def __post_init__(self):
        if self.order is not None:
            order = tuple(checks.integer("order", place) for place in self.order)
            if sorted(order) != list(range(len(order))) or not order:
                raise ValueError(f"order must hold every position 0..{max(len(order) - 1, 0)} once, got {order[:12]}")
            object.__setattr__(self, "order", order)

    def steps_for(self, hidden: Bool[Tensor, "rows length"]) -> int:
        length = hidden.shape[1]
        if self.order is not None and len(self.order) != length:
            raise ValueError(f"order must hold the {length} positions of a row, got {len(self.order)}")
        return length

    def pick(self, path: MaskedPath, hidden: Bool[Tensor, "rows length"], level: Float64[Tensor, " rows"], *, draws: Draws, step: int,
             first: int) -> Picked:
        place = step if self.order is None else self.order[step]
        shown = torch.zeros_like(hidden)
        shown[:, place] = hidden[:, place]
        share = hidden.double().mean(1)
        return Picked(shown, share, share - shown.double().mean(1))


@dataclass
class UnmaskingState:
    """x (rows, length) int64, ids and masks; level (rows,) float64: the share of hidden tokens in the process, 1 at its start."""

    x: Tensor
    level: Tensor
    step: int = 0


@dataclass(frozen=True, eq=False)
class Unmasking:
    """Fills hidden tokens as a rule says: at most one field call a step, about the rows of which a token is shown.

    field: what is asked. cond: passed to the field, batch first. temperature: of the tokens' laws; 1 leaves them as they are. seed: of all
    draws; first: number of the first row of the batch, so that split batches draw the same.
    """

    field: MaskedField
    rule: UnmaskingRule = FirstHitting()
    cond: Any = None
    temperature: float = 1.0
    seed: int | Draws = 0
    first: int = 0

    def __post_init__(self):
        if not isinstance(self.field, MaskedField):
            raise TypeError(f"field must be a MaskedField, got {type(self.field).__name__}")
        if isinstance(self.rule, type) or not callable(getattr(self.rule, "pick", None)):
            raise TypeError(f"rule must be a rule such as FirstHitting(), got {self.rule!r}")
        checks.positive("temperature", self.temperature)
        object.__setattr__(self, "_draws", Draws(Draws.of(self.seed).seed))
        object.__setattr__(self, "_uniform", {})

    def init(self, x: Int64[Tensor, "rows length"]) -> UnmaskingState:
        """The state that begins at x, ids and masks. ValueError for ids out of range."""
        x = self.field.path.checked("x", x)
        # A row that shows tokens already begins where the path hides as many: a network with time is told what it was taught.
        return UnmaskingState(x, (x == self.field.path.mask).double().mean(1))

    def step(self, state: UnmaskingState) -> UnmaskingState:
        x, path, draws, k = state.x, self.field.path, self._draws, state.step
        hidden = x == path.mask
        shown, asked_at, level, everywhere = self.rule.pick(path, hidden, state.level, draws=draws, step=k, first=self.first)
        rows = torch.arange(len(x), device=x.device) if everywhere else shown.any(1).nonzero()[:, 0]
        if len(rows):
            logp = self.field(x[rows], rows_of(self.cond, rows), path.time_at(1 - asked_at[rows]))
            u = self._drawn(tuple(x.shape), x.device)
            x = x.masked_scatter(shown, inverted(logp[shown[rows]] / self.temperature, u[shown], step=k))
        return UnmaskingState(x, level, k + 1)

    def _drawn(self, shape: tuple[int, ...], device: torch.device) -> Tensor:
        """The uniform number behind each token. A token is drawn once, whenever it is, so the number need not know the step: it is kept."""
        if (shape, device) not in self._uniform:
            self._uniform[shape, device] = self._draws.uniform("token", 0, shape, first=self.first, device=device, dtype=torch.float64)
        return self._uniform[shape, device]

    @classmethod
    def examples(cls) -> list[Example]:
        """Every rule, on sentences of a chain that leaves no choice, so that they must come out whole; and on one that leaves a choice."""
        from rheos.data.chains import MarkovChain

        law = lambda *rows: torch.tensor(rows, dtype=torch.float64)
        cycle = MarkovChain(law(0.2, 0.5, 0.3), law([0, 1, 0], [0, 0, 1], [1, 0, 0]))
        loose = MarkovChain(law(0.6, 0.3, 0.1), law([0.1, 0.7, 0.2], [0.5, 0.2, 0.3], [0, 0.4, 0.6]))
        whole = (torch.arange(3)[:, None] + torch.arange(5)) % 3
        start = torch.where(torch.tensor([[1, 0, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 1, 0]], dtype=torch.bool), whole, 3)
        made = []
        for name, rule in (("ancestral", MaskedAncestral(6)), ("first hitting", FirstHitting()), ("any order", AnyOrder((3, 0, 4, 2, 1)))):
            steps = rule.steps_for(start == 3)
            told = cls(MaskedField(cycle, MaskedPath(3)), rule, seed=4)
            free = cls(MaskedField(loose, MaskedPath(3, 0.1)), rule, temperature=0.8, seed=5, first=7)
            made += [Example(told, told.init(start), steps, lambda state: (state.x, whole), 0.0, name=f"{name}, no choice"),
                     Example(free, free.init(torch.full((4, 5), 3)), rule.steps_for(torch.ones(4, 5, dtype=torch.bool)), name=name)]
        return made


def sample_tokens(
    field: MaskedField,
    n: int | None = None,
    *,
    rule: UnmaskingRule | None = None,
    start: Int64[Tensor, "rows length"] | None = None,
    cond: Any = None,
    guidance: float | None = None,
    temperature: float = 1.0,
    seed: int | Draws = 0,
    batch: int | None = None,
    first: int = 0,
    watch: Iterable[Watcher] = (),
) -> Int64[Tensor, "rows length"]:
    """Draw rows of tokens, (n, length) int64, or fill the hidden ones of `start`.

    n, start: how many rows, or where they begin: ids and masks, of which the ids stay (infilling). Without `start` all is hidden.
    rule: `FirstHitting()` (the default; as many calls as tokens, without bias), `MaskedAncestral(steps)` or `AnyOrder(order)`.
    cond: a tensor or a dict of tensors, batch first, or one number for all; guidance: classifier-free guidance scale (1 is none).
    temperature: below 1 likely tokens get likelier. seed: the same rows however `batch` splits them; batch: at most so many at once.
    first: number of the first row: rows first .. first + n - 1 of the endless sequence that belongs to `seed`. watch: watchers of each batch's run.

    The network is in evaluation mode for the time of the call; no gradients.
    ValueError for arguments that do not fit, ids out of range among them; NonFinite if the network's answer is not a number.

    >>> path = MaskedPath(2)
    >>> coin = MaskedField(lambda x, t, cond: torch.tensor([0.25, 0.75]).log().expand(*x.shape, 2), path, (5,))
    >>> x = sample_tokens(coin, 1000)
    >>> x.shape, abs(x.double().mean().item() - 0.75) < 0.03, coin.nfe
    (torch.Size([1000, 5]), True, 5)
    """
    if not isinstance(field, MaskedField):
        raise TypeError(f"field must be a MaskedField, got {type(field).__name__}; wrap a network as MaskedField(net, MaskedPath(vocab))")
    draws, path = Draws.of(seed), field.path
    if start is None:
        if n is None:
            raise ValueError("n or start must be given: how many rows, or where they begin")
        if field.event is None:
            raise ValueError("start must be given: neither the path nor the network tells how long a row is; or pass MaskedField an event")
        start = torch.full((checks.integer("n", n, least=1), *field.event), path.mask, device=field.device)
    else:
        path.checked("start", start)
        if n is not None and n != len(start):
            raise ValueError(f"n must be left out or equal the {len(start)} rows of start, got {n}")
        if not start.numel():
            raise ValueError(f"start must hold at least one row, got shape {tuple(start.shape)}")
        start = start.to(field.device)
    cond = spread(cond, len(start), start.device)
    if guidance is not None:
        field = field.guided(guidance)
    rule = FirstHitting() if rule is None else rule
    size, offset = len(start) if batch is None else checks.integer("batch", batch, least=1), checks.integer("first", first, least=0)
    parts = []
    with torch.no_grad(), evaluating(field.net), raising_interrupts():
        for begin in range(0, len(start), size):
            x = start[begin : begin + size]
            run = Unmasking(field, rule, cut(cond, begin, len(x)), temperature, draws, offset + begin)
            steps = rule.steps_for(x == path.mask)
            end = evolve(run, run.init(x), steps, watch=watch)
            if end.step < steps:
                raise ValueError(f"a watcher ended the run after {end.step} of {steps} steps, so there are no samples")
            parts.append(end.x)
    return parts[0] if len(parts) == 1 else torch.cat(parts)
