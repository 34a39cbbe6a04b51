"""`sample`: from a field to samples."""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Inexact
from torch import Tensor

from rheos.core import Draws, Watcher, checks, evolve, raising_interrupts
from rheos.guidance import classifier_free
from rheos.paths import Field, Times
from rheos.paths.asking import cut, cut_hook, evaluating, spread
from rheos.samplers.adaptive import AdaptiveRungeKutta
from rheos.samplers.defaults import default_rule
from rheos.samplers.exponential import INSIDE
from rheos.samplers.multistep import Edit, Multistep
from rheos.samplers.tables import Rule, Table, planned

__all__ = ["planned_for", "sample", "still"]

MOST_STEPS = 100_000        # a plan is a row a step, made beforehand


def sample(
    field: Field,
    n: int | None = None,
    *,
    start: Inexact[Tensor, "rows *event"] | None = None,
    shape: Sequence[int] | None = None,
    steps: int = 20,
    rule: Rule | AdaptiveRungeKutta | Table | None = None,
    times: Times | None = None,
    cond: Any = None,
    guidance: float | None = None,
    seed: int | Draws = 0,
    batch: int | None = None,
    first: int = 0,
    edit: Edit | None = None,
    watch: Iterable[Watcher] = (),
) -> Inexact[Tensor, "rows *event"]:
    """Carry a batch from the base to the data along `field`, and return it, (n, *event).

    n, start: how many samples, or where they begin, (n, *event) (needed for two-sided paths). shape: the event shape, where neither
        `start` nor the network tells it.
    steps, rule, times: a number of steps for the rule's own times, or the times themselves; without a rule, what samples well without
        tuning, see `default_rule`. A planned `Table` may stand in the rule's place. `AdaptiveRungeKutta` chooses its steps itself, between the first and the
        last of `times` or the path's ends, and leaves `steps` unread.
    cond: a tensor or a dict of tensors, batch first, or one number for all; guidance: classifier-free guidance scale (1 is none, above 1
        is stronger).
    seed: of the start and of stochastic rules' noise; the same samples however `batch` splits them. batch: at most so many at once.
    first: number of the first row: samples first .. first + n - 1 of the endless sequence that belongs to `seed`, for those who draw in parts.
    edit: (prediction, x, t) -> prediction, applied to every prediction, t a number or (rows,) where samples have times of their own.
        One with a method rows(start, stop), such as `project(A, y)`, is cut with the batch.
    watch: watchers of each batch's run.

    The network is in evaluation mode for the time of the call. Gradients are recorded only if `start`, or a number
    of the table, requires them.
    ValueError for arguments that do not fit; NonFinite if a sample leaves the finite numbers.

    >>> from rheos.data import GaussianMixture
    >>> from rheos.paths import ExactField, Path
    >>> target = GaussianMixture(torch.ones(1), torch.tensor([[3.0]]), torch.tensor([0.01]))
    >>> x = sample(ExactField(Path.linear(), target), 1000, steps=5)
    >>> abs(x.mean().item() - 3.0) < 0.02
    True
    """
    if not isinstance(field, Field):
        raise TypeError(f"field must be a Field, got {type(field).__name__}; wrap a network as Field(net, path, predicts)")
    path, draws = field.path, Draws.of(seed)
    plan = planned_for(field, rule, steps, times, edit)
    if start is None:
        n = checks.integer("n", n, least=1) if n is not None else _missing("n or start", "how many samples, or where they begin")
        event = tuple(shape) if shape is not None else field.event
        if event is None:
            _missing("shape", "this network does not tell the shape of a sample")
        if path.two_sided:
            _missing("start", "a two-sided path begins at samples of its source")
    else:
        checks.finite("start", checks.tensor("start", start, floating=True))
        if n is not None and n != len(start):
            raise ValueError(f"n must be left out or equal the {len(start)} rows of start, got {n}")
        if not start.numel():
            raise ValueError(f"start must hold at least one sample, got shape {tuple(start.shape)}")
        n, event = len(start), tuple(start.shape[1:])
    if edit is not None and not callable(edit):
        raise TypeError(f"edit must be callable as edit(prediction, x, t), got {type(edit).__name__}")
    like = field.like if start is None else start
    cond = spread(cond, n, like.device)
    if guidance is not None:
        field = classifier_free(field, guidance)
    size, offset = n if batch is None else checks.integer("batch", batch, least=1), checks.integer("first", first, least=0)
    parts = []
    begin_at = float(plan.times.t[0]) if isinstance(plan, Table) else plan[1]
    recorded = (start is not None and start.requires_grad) or (isinstance(plan, Table) and plan.differentiable)
    with torch.set_grad_enabled(recorded), evaluating(getattr(field, "net", None)):
        for first in range(0, n, size):
            rows = min(size, n - first)
            x = (path.prior((rows, *event), seed=draws, first=offset + first, start=begin_at, dtype=like.dtype, device=like.device)
                 if start is None else start[first : first + rows])
            # Half-integrated samples are of no use to anybody: Ctrl-C raises, and a watcher that ends the run is refused.
            with raising_interrupts():
                parts.append(_run(plan, field, x, cut(cond, first, rows), cut_hook(edit, first, first + rows), draws, offset + first, watch))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


Span = tuple[AdaptiveRungeKutta, float, float]


def _run(plan: Table | Span, field: Field, x: Tensor, cond: Any, edit: Edit | None, draws: Draws, first: int, watch: Iterable[Watcher]) -> Tensor:
    """One batch from its start to its end."""
    if isinstance(plan, Table):
        run: Any = Multistep(field, plan, cond, edit, draws, first)
        end = evolve(run, run.init(x), plan.nfe, watch=watch, donate=True)
        if end.step < plan.nfe:
            raise ValueError(f"a watcher ended the run after {end.step} of {plan.nfe} calls, so there are no samples")
        return end.x
    rule, begin, until = plan
    run = rule.dynamics(field, begin, until, cond=cond, edit=edit)
    end = evolve(run, run.init(x), until=run.done, watch=watch, donate=True)
    if not run.done(end):
        raise ValueError(f"a watcher ended the run after {end.step} steps, before all samples had arrived, so there are no samples")
    return end.x


def planned_for(field: Field, rule: Rule | AdaptiveRungeKutta | Table | None, steps: int, times: Times | None,
             edit: Edit | None = None) -> Table | Span:
    if checks.integer("steps", steps, least=1) > MOST_STEPS:
        raise ValueError(f"steps must be at most {MOST_STEPS:,}, got {steps:,}")
    if isinstance(rule, Table):
        if rule.times.path != field.path:
            raise ValueError(f"the table was planned for {rule.times.path.schedule}, but the field lives on {field.path.schedule}")
        if times is not None:
            raise ValueError("a table brings its own times: leave times out")
        return rule
    instance(rule)
    rule = default_rule(field) if rule is None else rule
    if isinstance(rule, AdaptiveRungeKutta):
        still(field, "AdaptiveRungeKutta")
        begin, end = _askable_span(field, rule, edit) if times is None else _checked(times, field).t[[0, -1]].tolist()
        return rule, begin, end
    if not callable(getattr(rule, "plan", None)):
        raise TypeError(f"rule must be a rule such as DPMSolverPP(order=3), or a Table, got {rule!r}")
    if times is None:
        return planned(rule, _askable(field, rule, rule.times(field.path, steps), edit))
    return planned(rule, _checked(times, field))


def instance(rule: Any) -> None:
    """TypeError for the class of a rule."""
    if isinstance(rule, type):
        raise TypeError(f"rule must be an instance such as {rule.__name__}(), got the class {rule.__name__}")


def _checked(times: Times, field: Field) -> Times:
    if not isinstance(times, Times):
        raise TypeError(f"times must be a Times, got {type(times).__name__}; build one with Times.uniform(path, steps) or Times(path, t)")
    if times.path != field.path:
        raise ValueError(f"times were made for {times.path.schedule}, but the field lives on {field.path.schedule}")
    return times


def _askable_span(field: Field, rule: AdaptiveRungeKutta, edit: Edit | None) -> tuple[float, float]:
    """The rule's own start and end, moved inside where the network could not answer."""
    return tuple(_askable(field, rule, Times(field.path, rule.span(field.path)), edit).t.tolist())


def _askable(field: Field, rule: Rule | AdaptiveRungeKutta, times: Times, edit: Edit | None = None) -> Times:
    """`times`, moved a little inside the path where the network could not answer: a network that tells only noise at alpha = 0, where x is
    all noise, and one that tells only data (or has its data edited) at sigma = 0, where x is the data, if the rule asks there."""
    if field.path.two_sided:
        return times
    t, kinds = times.t.tolist(), set(field.predicts)
    # Of noise at sigma = 0 neither data nor a velocity tells anything.
    blind = kinds == {"data"} or getattr(edit, "kind", None) == "data" or (getattr(rule, "kind", "") == "noise" and not kinds & {"noise", "score", "v"})
    if not {"velocity", "data", "v"} & kinds and bool((times.alpha[0] == 0).any()):
        t[0] = min(INSIDE, 0.5 * t[1])
    if blind and getattr(rule, "asks_at_end", False) and bool((times.sigma[-1] == 0).any()):
        t[-1] = max(1 - INSIDE, 0.5 * (t[-2] + 1))
    return Times(field.path, t)


def still(field: Field, who: str) -> None:
    """ValueError for fields that answer for another point than the one they are asked at: only tables, run step by step, go on from there."""
    if getattr(field, "moves", False):
        raise ValueError(f"{who} cannot follow a {type(field).__name__}, which takes samples to other points than it is asked at")


def _missing(name: str, why: str) -> Any:
    raise ValueError(f"{name} must be given: {why}")
