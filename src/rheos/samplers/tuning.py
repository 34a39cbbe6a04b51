"""Tuning: the table that samples one field best in so many calls, made for it and compared with all that could be had without.

What is tried: every fixed rule in every spacing, momentum included; the best of them with compensation fitted; rules by the field's statistics; and tables
whose times are searched and whose rows are fitted (`TableSearch`). All are judged by where the flow really goes, on starts that nothing was fitted to.
"""
from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from rheos.core import Draws, NonFinite, Watcher, checks, evolve
from rheos.guidance import classifier_free
from rheos.paths import LAM, QUADRATIC, RHO7, SQRT_U, Clock, Field, T, Times, U
from rheos.paths.asking import cut, evaluating, spread
from rheos.samplers.catalogue import public_rules
from rheos.samplers.compensation import compensated, fit_compensation
from rheos.samplers.defaults import default_rule
from rheos.samplers.model_statistics import EMS, LARGEST_EXACT, ModelStatistics, model_statistics
from rheos.samplers.sampling import sample, still
from rheos.samplers.table_search import WORST, TableSearch, fine_times, trajectory
from rheos.samplers.tables import Rule, Table

__all__ = ["Reference", "Tuned", "fixed_rules", "tune"]

SPACINGS = (LAM, SQRT_U, T, QUADRATIC, RHO7)
COMPENSATED, COMPENSATED_ON = 2, 16          # so many of the best fixed rules are compensated, on so many starts
MEASURED_ON, MEASURED_AT = 64, 32            # rows, and values of lam, of the field's statistics


@dataclass(frozen=True)
class Tuned:
    """A table made for a field, and how it compares on starts that it was neither fitted to nor chosen by.

    table: the best found. error: the median over those starts of each one's root mean square distance to its exact end, in the network's units.
    family: what it is: "fitted" (times searched, rows by least squares), "compensated" (a fixed rule with ratios fitted), "statistics" (`EMS`), or "fixed".
    name: the rule, where it is one. errors: that of the best of each family that was tried; rule: the best fixed rule, whose error is `errors["fixed"]`.
    reference_error: that of the reference; errors that are not well above it say nothing, make it finer then. tried: sets of times.
    """

    table: Table
    error: float
    family: str
    name: str
    rule: str
    errors: dict[str, float]
    reference_error: float
    tried: int

    @property
    def rule_error(self) -> float:
        """The error of the best fixed rule."""
        return self.errors.get("fixed", math.inf)

    @property
    def gain(self) -> float:
        """How many times smaller the error is than that of the best fixed rule."""
        return self.rule_error / max(self.error, 1e-300)


@dataclass(frozen=True, eq=False)
class Reference:
    """Where the flow of a field carries some starts, as exactly as is needed to judge solvers.

    times: about `fine` of them. points: (times, rows, *event). cond: of all rows. error: of the ends, the median over rows of the root mean square
    difference to half as many steps.
    """

    field: Field
    times: Times
    points: Tensor
    cond: Any
    error: float

    @classmethod
    def of(cls, field: Field, start: Float[Tensor, "rows *event"], *, cond: Any = None, guidance: float | None = None, fine: int = 120,
           watch: Iterable[Watcher] = ()) -> Reference:
        """The reference from `start`, with the condition and the guidance that will be sampled with."""
        fine = checks.integer("fine", fine, least=8)
        checks.finite("start", checks.tensor("start", start, floating=True))
        cond = spread(cond, len(start), start.device)
        if guidance is not None:
            field = classifier_free(field, guidance)
        still(field, "a reference")
        times = fine_times(field, fine)
        points = trajectory(field, start, times, cond, watch=watch)
        half = torch.cat([times.t[:-1:2], times.t[-1:]])
        coarse = trajectory(field, start, Times(field.path, half), cond, watch=watch)
        return cls(field, times, points, cond, _median(coarse[-1], points[-1]))

    def __post_init__(self):
        if not bool(torch.isfinite(self.points[-1]).all()):
            raise ValueError("the reference is not finite: the field or its condition leads out of the finite numbers")

    @cached_property
    def statistics(self) -> ModelStatistics:
        """The field's statistics for `EMS`, measured on the ends of some of the starts."""
        rows = min(MEASURED_ON, self.points.shape[1] // 2)
        small = self.points[-1, 0].numel() <= LARGEST_EXACT
        return model_statistics(self.field, self.points[-1][:rows], MEASURED_AT, cond=cut(self.cond, 0, rows), reduce="coordinate" if small else "one")

    def at(self, times: Times, rows: slice) -> list[Tensor]:
        """The exact points of these rows at other times between its ends: a cubic spline through the fine points."""
        if float(times.t[0]) != float(self.times.t[0]) or float(times.t[-1]) != float(self.times.t[-1]):
            raise ValueError(f"times must run from {float(self.times.t[0]):g} to {float(self.times.t[-1]):g} as the reference does")
        from scipy.interpolate import CubicSpline

        start = self.points[0]
        spline = CubicSpline(self.times.t.numpy(), self.points[:, rows].double().cpu().numpy())
        return [torch.from_numpy(spline(t)).to(start) for t in times.t.tolist()]

    def error_of(self, table: Table, rows: slice) -> float:
        """The median over these rows of each one's root mean square distance to its exact end; infinite where the table blows up or cannot be run."""
        try:
            x = sample(self.field, start=self.points[0][rows], rule=table, cond=cut(self.cond, rows.start, rows.stop - rows.start))
        except (NonFinite, ValueError):
            return math.inf
        return _median(x, self.points[-1][rows])


def _median(x: Tensor, y: Tensor) -> float:
    return float((x - y).flatten(1).double().square().mean(1).sqrt().median())


def fixed_rules(field: Field, calls: int) -> dict[str, Table]:
    """Every deterministic rule here that makes `calls` calls on the field's path, momentum included, in the spacings that it can be planned in, by name."""
    checks.integer("calls", calls, least=1)
    return {name: table for name, (_, table) in _planned_rules(field, calls).items()}


def _planned_rules(field: Field, calls: int) -> dict[str, tuple[Rule, Table]]:
    default, found = default_rule(field), {}
    for name, rule in {"default": default, **{_short(rule): rule for rule in public_rules()}}.items():
        left = calls - getattr(rule, "extra_calls", 0)
        if left < rule.calls_per_step or left % rule.calls_per_step:
            continue
        steps = left // rule.calls_per_step
        for spacing in (None,) if name == "default" else SPACINGS:
            try:
                times = rule.times(field.path, steps)
                if spacing is not None:
                    times = Times.uniform(field.path, steps, spacing, start=float(times.t[0]), end=float(times.t[-1]))
                table = rule.plan(times)
            except ValueError:
                continue
            if not table.stochastic and table.nfe == calls:
                found[name if spacing is None else f"{name}, even in {spacing.name}"] = rule, table
    return found


def _made_rules(reference: Reference, calls: int, ranked: list[str], planned: dict[str, tuple[Rule, Table]]) -> dict[str, dict[str, Table]]:
    """Rules with numbers that were fitted to the field: the best fixed ones compensated, and those that use its statistics. By family and name."""
    field, rows = reference.field, slice(0, min(COMPENSATED_ON, reference.points.shape[1] // 2))
    made: dict[str, dict[str, Table]] = {"compensated": {}, "statistics": {}}
    if field.path.two_sided or getattr(field.path.schedule, "spectral", False):
        return made
    single = [name for name in ranked if planned[name][0].calls_per_step == 1 and not getattr(planned[name][0], "extra_calls", 0)]
    for name in single[:COMPENSATED] if calls > 2 else ():
        rule, table = planned[name]
        try:
            exact = reference.at(table.times, rows)
            ratios = fit_compensation(field, exact[0], table.times, rule, cond=cut(reference.cond, 0, rows.stop), exact=exact)
            made["compensated"][name] = compensated(table, ratios)
        except (NonFinite, ValueError):
            continue
    for order, clock, spacing in ((2, U, SQRT_U), (3, U, SQRT_U), (2, LAM, LAM), (3, LAM, LAM)):
        try:
            rule = EMS(reference.statistics, order, clock=clock, spacing=spacing)
            made["statistics"][f"EMS(order={order}, clock={clock.name}), even in {spacing.name}"] = rule.plan(rule.times(field.path, calls))
        except (NonFinite, ValueError):
            continue
    return made


def tune(reference: Reference, calls: int, *, trials: int = 100, rules: Mapping[str, Table] | None = None, seed: int | Draws = 0,
         watch: Iterable[Watcher] = ()) -> Tuned:
    """The table of `calls` field calls that carries samples of a field closest to where its flow leads, by its `Reference`.

    reference: of at least 8 starts: the first half is fitted to, the next quarter chooses, the last judges. Small events need more: a table has some
    calls^2 / 2 numbers. trials: sets of times tried, each at about the cost of sampling three quarters of the starts. rules: tables to compare with
    in place of all that is tried else: `fixed_rules`, the best of them with fitted compensation, and rules by the field's statistics. watch: of the search.

    ValueError for fewer starts and for calls beyond the reference's steps.
    """
    calls, trials, rows = checks.integer("calls", calls, least=1), checks.integer("trials", trials, least=1), reference.points.shape[1]
    if rows < 8:
        raise ValueError(f"reference must hold at least 8 starts, half of them to fit to, got {rows}")
    if calls > reference.times.steps:
        raise ValueError(f"calls must be at most the {reference.times.steps} steps of the reference, got {calls}")
    for name, table in {} if rules is None else rules.items():
        if not isinstance(table, Table) or table.nfe != calls or table.times.path != reference.field.path:
            what = f"a table of {table.nfe} calls on {table.times.path.schedule}" if isinstance(table, Table) else type(table).__name__
            raise ValueError(f"rules must hold tables of {calls} calls on the field's path, {name!r} is {what}")
    if rules is not None and not rules:
        raise ValueError("rules must hold at least one table, or be left out")
    seen, field = rows * 3 // 4, reference.field
    chosen, judged = slice(rows // 2, seen), slice(seen, rows)
    search = TableSearch(field, reference.times, reference.points[:, :seen], calls, rows // 2, cut(reference.cond, 0, seen), seed=seed)
    with torch.no_grad(), evaluating(getattr(field, "net", None)):
        state = evolve(search, search.init(), trials, watch=watch, donate=True)
        if not float(state.scores[0]) < WORST:
            raise ValueError(f"no table of {calls} calls could be fitted to these starts; give more of them, or more trials")
        families = {"fitted": {"": search.fitted(state.places[0])[0]}}
    planned = _planned_rules(field, calls) if rules is None else {}
    families["fixed"] = {name: table for name, (_, table) in planned.items()} if rules is None else dict(rules)
    scores = {name: reference.error_of(table, chosen) for name, table in families["fixed"].items()}
    if rules is None:
        families |= _made_rules(reference, calls, sorted(scores, key=scores.get), planned)
    best, errors = {}, {}
    for family, tables in families.items():
        known = scores if family == "fixed" else {name: reference.error_of(table, chosen) for name, table in tables.items()}
        if known:
            name = min(known, key=known.get)
            best[family], errors[family] = (known[name], name, tables[name]), reference.error_of(tables[name], judged)
    family = min(best, key=lambda one: best[one][0])
    _, name, table = best[family]
    origin = {**table.origin, "calls": calls, "guidance": getattr(field, "scale", None), "family": family}
    return Tuned(replace(table, origin=origin), errors[family], family, name, best["fixed"][1] if "fixed" in best else "", errors, reference.error,
                 state.tried)


def _short(rule: Rule) -> str:
    """The rule's class and those of its settings that are not the class's own; the spacing is told apart."""
    told = lambda value: value.name if isinstance(value, Clock) else _short(value) if is_dataclass(value) else str(value)
    changed = [f"{f.name}={told(getattr(rule, f.name))}" for f in fields(rule) if f.name != "spacing" and getattr(rule, f.name) != f.default]
    return f"{type(rule).__name__}({', '.join(changed)})"
