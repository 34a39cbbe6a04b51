"""What every sampling rule must show, line by line, on fields that are known in closed form. A rule that cannot meet a line declares it:
`exempt = {"uneven times": "its weights suppose equal steps"}`; an undeclared failure fails, and so does a declared one that passes.
"""
from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from rheos.core import Draws, evolve
from rheos.data import GaussianMixture, skewed
from rheos.paths import ExactField, Field, Path, T, Times
from rheos.samplers import Multistep, MultistepState, Rule, Table, sample
from rheos.testing.conformance import Line, hold, require
from rheos.testing.orders import observed_order

__all__ = ["RULE_LINES", "check_rule", "rule_paths"]

F64 = torch.float64
MEAN, SPREAD = torch.tensor([[0.7, -1.2]], dtype=F64), torch.tensor([[0.3, 1.7]], dtype=F64)
START = torch.tensor([[1.0, -0.5], [-2.0, 0.3], [0.1, 2.2]], dtype=F64)
STEPS = (1, 2, 3, 4, 5, 7, 10)

Make = Callable[[], Rule]


def rule_paths() -> dict[str, Path]:
    """One path a schedule, by name, one-sided first."""
    return {"linear": Path.linear(), "cosine": Path.cosine(), "vp": Path.vp(), "ve": Path.ve(0.02, 20.0), "edm": Path.edm(0.01, 40.0),
            "betas": Path.from_betas(torch.linspace(1e-3, 0.2, 100, dtype=F64)), "interpolant": Path.interpolant(), "noiseless": Path.interpolant("none")}


def _gaussian() -> GaussianMixture:
    return GaussianMixture(torch.ones(1, dtype=F64), MEAN, SPREAD)


def _field(path: Path) -> ExactField:
    source = GaussianMixture(torch.ones(1, dtype=F64), -MEAN.flip(1), SPREAD.flip(1)) if path.two_sided else None
    return ExactField(path, _gaussian(), source)


def _serves(rule: Rule, path: Path) -> bool:
    """Whether the rule takes this kind of path; one that does not must say so in one clear line."""
    try:
        rule.plan(rule.times(path, 4))
    except ValueError as error:
        require(path.two_sided and "one-sided path" in str(error), f"it refuses a path that it should take: {error}")
        return False
    return True


def flowed(path: Path, x: Tensor, start: float, end: float) -> Tensor:
    """Where the flow of one Gaussian on a one-sided path carries x: it is affine, and keeps (x - b m) / sqrt(b^2 v + c^2)."""
    a, b = path.coefficients(start), path.coefficients(end)
    width = lambda at: torch.sqrt(at.b**2 * SPREAD + at.c**2)
    return b.b * MEAN + (x - a.b * MEAN) * width(b) / width(a)


def calls_are_counted(make: Make) -> None:
    """The field is called `calls_per_step` times a step, and `extra_calls` times more where the rule has that attribute."""
    rule, field = make(), _field(Path.vp())
    sample(field, start=START, rule=rule, times=Times.uniform(Path.vp(), 5, T))
    declared = 5 * rule.calls_per_step + getattr(rule, "extra_calls", 0)
    require(field.nfe == declared, f"5 steps made {field.nfe} field calls, not {declared}")


def has_its_order(make: Make) -> None:
    """Errors fall with the declared order, or faster, as steps are halved. For stochastic rules see `keeps_the_law`.

    Multistep rules begin with exact earlier points and predictions and keep their order to the end: the order is the rule's own, not that of
    its first or last steps.
    """
    rule, path, span = make(), Path.vp(), (0.3, 0.9)
    if getattr(rule, "lower_at_end", False):
        rule = replace(rule, lower_at_end=False)
    if rule.plan(Times.uniform(path, 4, T, start=span[0], end=span[1])).stochastic:
        return
    field = _field(path)

    def run(n: int) -> Tensor:
        table = rule.plan(Times.uniform(path, n, T, start=span[0], end=span[1]))
        times = table.times.t.tolist()
        begun = max(table.depth) - 1 if table.nfe == n else 0
        x = [flowed(path, START, span[0], t) for t in times[: begun + 1]]
        told = [field(x[j], times[j]).of(table.kind) if table.kind != "drift" else field.velocity(x[j], times[j]) for j in range(begun)]
        return evolve(Multistep(field, table), MultistepState(x[begun], x[:begun][::-1], told[::-1], begun), table.nfe - begun).x

    found = observed_order(run, flowed(path, START, *span), [32, 64, 128])
    require(found > rule.order - 0.35, f"it declares order {rule.order}, and {found:.2f} is seen")


def right_on_every_schedule(make: Make) -> None:
    """On its own times it nears the flow of a Gaussian on every schedule: 96 steps err less than 12, and by less than a tenth (deterministic rules)."""
    for name, path in rule_paths().items():
        rule = make()
        if path.two_sided or not _serves(rule, path) or rule.plan(rule.times(path, 4)).stochastic:
            continue
        errors = []
        for steps in (12, 96):
            times = rule.times(path, steps)
            require(times.steps == steps, f"asked for {steps} steps on the {name} path, it takes {times.steps}")
            start = START * float(times.sigma[0])
            end = flowed(path, start, float(times.t[0]), float(times.t[-1]))
            errors.append(float((sample(_field(path), start=start, rule=rule, times=times) - end).abs().max()))
        require(errors[1] < max(0.5 * errors[0], 1e-6), f"on the {name} path 12 steps err by {errors[0]:.2g}, 96 by {errors[1]:.2g}")
        limit = 0.1 if rule.order > 1 or rule.calls_per_step > 1 else 0.4
        require(errors[1] < limit or name in getattr(rule, "loose_on", ()), f"on the {name} path 96 steps still err by {errors[1]:.2g}")


def serves_every_network(make: Make) -> None:
    """Networks that tell one kind only are sampled to finite numbers on the rule's own times, 1 and 6 steps."""
    for name in ("linear", "vp", "edm"):
        path = rule_paths()[name]
        exact, start = _field(path), START * float(path.coefficients(path.interval[0]).c)
        for kind in ("velocity", "data", "noise", "v", "score"):
            told = Field(lambda x, t, cond, kind=kind, exact=exact: exact(x, t).of(kind), path, kind)
            for steps in (1, 6):
                try:
                    sample(told, start=start, rule=make(), steps=steps)
                except (ValueError, ArithmeticError) as error:
                    require(False, f"a network that tells {kind} on the {name} path, {steps} steps: {error}")


def moments(table: Table) -> tuple[Tensor, Tensor]:
    """Mean and variance at the end of a table on the exact field of a Gaussian, begun at the path's own law, without sampling.

    All is affine, so each coordinate is carried as (constant, share of the start, shares of the noises).
    """
    field, shocks = _field(table.times.path), [i for i, row in enumerate(table.predict) if row.s]
    begun = table.times.each[0]
    x = torch.zeros(2 + len(shocks), 2, dtype=F64)
    x[0], x[1] = begun.b * MEAN[0], (begun.b**2 * SPREAD[0] + begun.c**2).sqrt()

    def told(i: int, values: Tensor) -> Tensor:
        # An affine map is known by its values at 0 and at 1.
        answer = field(torch.tensor([[0.0, 0.0], [1.0, 1.0]], dtype=F64), float(table.times.t[i]), at=table.times.each[i])
        ends = table.told(answer, i)
        out = values * (ends[1] - ends[0])
        out[0] += ends[0]
        return out

    points, predictions = [x], []
    for i, row in enumerate(table.predict):
        predictions.insert(0, told(i, points[0]))
        x = torch.zeros_like(x)
        for weights, values in ((row.a, points), (row.w, predictions)):
            for weight, value in zip(weights, values, strict=False):
                x = x + weight * value
        if row.s:
            x[2 + shocks.index(i)] += row.s
        points.insert(0, x)
    return x[0], x[1:].square().sum(0)


def keeps_every_moment(make: Make) -> None:
    """Stochastic rules: mean and variance at the end, carried exactly, near the path's, and nearer with four times the steps; backwards too."""
    for name in ("linear", "vp", "ve"):
        path, rule = rule_paths()[name], make()
        spans = [lambda n, path=path, rule=rule: rule.times(path, n), lambda n, path=path: Times.uniform(path, n, T, start=0.2, end=0.9),
                 lambda n, path=path: Times.uniform(path, n, T, start=0.9, end=0.3)]
        for number, span in enumerate(spans):
            gaps = []
            for steps in (40, 160):
                try:
                    table = rule.plan(span(steps))
                except ValueError as error:
                    require(number == 2 and "from noise to data" in str(error), f"it cannot go from {span(2).t[0]:g} to {span(2).t[-1]:g}: {error}")
                    break
                if not table.stochastic or any(mend is not None for mend in table.correct):
                    return
                (mean, variance), end = moments(table), table.times.each[-1]
                true = end.b**2 * SPREAD[0] + end.c**2
                gaps.append(float(max(((mean - end.b * MEAN[0]) / true.sqrt()).abs().max(), (variance / true - 1).abs().max())))
            where = f"on the {name} path from {span(2).t[0]:.3g} to {span(2).t[-1]:.3g}"
            require(not gaps or gaps[1] < max(0.7 * gaps[0], 0.02), f"{where} moments err by {gaps[:1]} at 40 steps, by {gaps[1:]} at 160")
            require(not gaps or gaps[1] < 0.15, f"{where} moments still err by {gaps[1:]} at 160 steps")


def keeps_the_law(make: Make) -> None:
    """From noise to the target's mean and standard deviation, in 60 steps and 4,000 samples."""
    rule, path, n = make(), Path.linear(), 4000
    x = sample(_field(path), n, rule=rule, steps=60)
    error, std = 6 / math.sqrt(n), SPREAD.sqrt()
    require(bool(((x.mean(0) - MEAN).abs() < (error + 0.08) * std).all()), f"the mean is {x.mean(0).tolist()}, not {MEAN.tolist()}")
    require(bool((x.std(0) / std - 1).abs().max() < error + 0.08), f"the deviations are {x.std(0).tolist()}, not {std.tolist()}")


def stays_finite(make: Make) -> None:
    """1 to 10 steps on every schedule, float32 and float64, on the rule's own times."""
    for name, path in rule_paths().items():
        if not _serves(make(), path):
            continue
        for dtype in (torch.float32, F64):
            for steps in STEPS:
                # NonFinite is raised by the run itself; what is left to see is the dtype.
                x = sample(_field(path), start=START.to(dtype) * float(path.coefficients(path.interval[0]).c or 1.0), rule=make(), steps=steps)
                require(x.dtype == dtype, f"{steps} steps on the {name} path turned {dtype} into {x.dtype}")


def takes_uneven_times(make: Make) -> None:
    """Uneven times carry to the same end as even ones, more nearly with more of them."""
    path, rule = Path.vp(), make()
    truth = flowed(path, START, 0.2, 0.95)
    gaps = []
    for steps in (24, 96):
        even = torch.linspace(0, 1, steps + 1, dtype=F64)
        uneven = 0.2 + 0.75 * (even + 0.06 * torch.sin(2 * math.pi * even) + 0.03 * even * (1 - even))
        table = rule.plan(Times(path, uneven))
        if table.stochastic:
            return
        gaps.append(float((sample(_field(path), start=START, rule=table) - truth).abs().max()))
    require(gaps[1] < 0.6 * gaps[0] or gaps[1] < 1e-9, f"on uneven times the error goes from {gaps[0]:.2g} at 24 steps to {gaps[1]:.2g} at 96")


def goes_back(make: Make) -> None:
    """The same flow backwards, from data to noise; a rule that cannot says so in a ValueError."""
    rule, path = make(), Path.vp()
    gaps = []
    for steps in (20, 80):
        try:
            table = rule.plan(Times.uniform(path, steps, T, start=0.9, end=0.3))
        except ValueError as error:
            require("from noise to data" in str(error), f"it cannot go back, and does not say that it runs from noise to data only: {error}")
            return
        if table.stochastic:
            return
        gaps.append(float((sample(_field(path), start=START, rule=table) - flowed(path, START, 0.9, 0.3)).abs().max()))
    require(gaps[1] < 0.6 * gaps[0] or gaps[1] < 1e-9, f"backwards the error goes from {gaps[0]:.2g} at 20 steps to {gaps[1]:.2g} at 80")


def splits_alike(make: Make) -> None:
    """Any split of the batch draws the same samples, to the bit."""
    field = _field(Path.linear())
    whole = sample(field, 7, rule=make(), steps=4, seed=3)
    parts = sample(field, 7, rule=make(), steps=4, seed=3, batch=3)
    require(torch.equal(whole, parts), f"a split batch differs by {float((whole - parts).abs().max()):.2g}")


def tables_are_saved(make: Make) -> None:
    """A table survives JSON to the bit, and planning it again gives the same."""
    times = make().times(Path.vp(), 6)
    table = make().plan(times)
    text = json.dumps(table.to_json())
    require(json.dumps(Table.from_json(json.loads(text)).to_json()) == text, "a table read back from JSON differs")
    require(json.dumps(make().plan(times).to_json()) == text, "two plans of one rule differ")


def falls_on_a_mixture(make: Make) -> None:
    """On a skewed mixture the error of 32 steps is below that of 8 (deterministic rules)."""
    path, rule, field = Path.vp(), make(), ExactField(Path.vp(), skewed())
    if rule.plan(rule.times(path, 4)).stochastic:
        return
    start = Draws(5).rows("start", 0, (24, 2), dtype=F64)
    ends = [sample(field, start=start, rule=rule, times=rule.times(path, n)) for n in (8, 32, 128)]
    far, near = (float((x - ends[2]).square().mean(1).sqrt().median()) for x in ends[:2])
    require(near < far, f"8 steps err by {far:.2g}, 32 by {near:.2g}")


RULE_LINES: tuple[Line, ...] = (
    Line("field calls", calls_are_counted),
    Line("order", has_its_order),
    Line("right on every schedule", right_on_every_schedule),
    Line("every kind of network", serves_every_network),
    Line("moments", keeps_every_moment),
    Line("keeps the law", keeps_the_law),
    Line("stays finite", stays_finite),
    Line("uneven times", takes_uneven_times),
    Line("goes back", goes_back),
    Line("split batch = whole batch", splits_alike),
    Line("tables are saved", tables_are_saved),
    Line("falls on a mixture", falls_on_a_mixture),
)


def check_rule(rule: Rule, lines: tuple[Line, ...] = RULE_LINES) -> None:
    """Run `lines` on a rule. AssertionError that names the line which does not hold, or which is declared exempt and does."""
    hold(str(rule), lambda: rule, lines, getattr(rule, "exempt", {}), known=RULE_LINES)
