"""What every coupling must show, line by line. A class that cannot meet a line declares it, `exempt = {"cost at most independent": "why"}`; an
undeclared failure fails, and so does a declared one that passes. Lines that do not concern a coupling (rows, where it draws from laws) hold for it.

A coupling has `sample(n, seed=, step=)`, the attributes `target`, `source` (None: standard normal noise, or a path's own) and `cond`, and
`examples() -> list` of instances.
"""
from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from rheos.core import Draws
from rheos.couplings import Pair, Paired
from rheos.testing.conformance import Line, require

__all__ = ["COUPLING_LINES", "check_coupling", "coupling_rows", "public_couplings"]

Make = Callable[[], Any]
SIZE, BATCHES = 20, 60
STANDARD_ERRORS = 6.0       # some hundred comparisons: chance passes 6 once in a million runs


def _parts(pair: Pair) -> dict[str, Tensor]:
    cond = pair.cond if isinstance(pair.cond, dict) else {} if pair.cond is None else {"cond": pair.cond}
    return {name: value for name, value in {"x1": pair.x1, "x0": pair.x0, **cond}.items() if value is not None}


def _equal(a: Pair, b: Pair) -> bool:
    a, b = _parts(a), _parts(b)
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def _flat(x: Tensor) -> Tensor:
    return x.detach().cpu().double().reshape(len(x), -1)


def _which(rows: Tensor, of: Tensor) -> Tensor:
    """(n, m): whether row i is row j, bit for bit."""
    return (_flat(rows)[:, None] == _flat(of)[None]).all(2)


def _draws(coupling: Any, size: int = SIZE, batches: int = BATCHES, seed: int = 11) -> list[Pair]:
    return [coupling.sample(size, seed=seed, step=step) for step in range(batches)]


def function_of_seed_and_step(make: Make) -> None:
    """The same seed and step give the same minibatch, to the bit, whatever was asked for before; a fresh object gives it too."""
    coupling, family = make(), Draws(5)
    first = coupling.sample(7, seed=5, step=3)
    for step in (0, 9, 70, 1):
        coupling.sample(7, seed=family, step=step)
    coupling.sample(4, seed=6, step=3)
    require(_equal(coupling.sample(7, seed=5, step=3), first), "the same seed and step gave another minibatch later")
    require(_equal(coupling.sample(7, seed=family, step=3), first), "a Draws of the seed gave another minibatch than the seed")
    require(_equal(make().sample(7, seed=5, step=3), first), "a fresh object gave another minibatch")


def steps_and_seeds_differ(make: Make) -> None:
    """Another step, and another seed, give another minibatch."""
    coupling = make()
    first = coupling.sample(7, seed=5, step=3)
    require(not _equal(coupling.sample(7, seed=5, step=4), first), "two steps gave the same minibatch")
    require(not _equal(coupling.sample(7, seed=8, step=3), first), "two seeds gave the same minibatch")


def counts_and_kinds(make: Make) -> None:
    """n pairs for any n, one included; dtype and device of the target, and x0 in the shape of x1."""
    coupling = make()
    for n in (1, 2, 33):
        pair = coupling.sample(n, seed=2, step=1)
        for name, value in _parts(pair).items():
            require(len(value) == n, f"{name} has {len(value)} rows for n = {n}")
            require(value.device == pair.x1.device, f"{name} lies on {value.device}, x1 on {pair.x1.device}")
            require(not value.is_floating_point() or bool(torch.isfinite(value).all()), f"{name} is not finite for n = {n}")
        if pair.x0 is not None:
            require(pair.x0.shape == pair.x1.shape, f"x0 has shape {tuple(pair.x0.shape)}, x1 {tuple(pair.x1.shape)}")
        for name, value, owner in (("x1", pair.x1, coupling.target), ("x0", pair.x0, coupling.source if coupling.source is not None else pair.x1)):
            if value is not None and isinstance(owner, Tensor):
                require(value.dtype == owner.dtype and value.device == owner.device,
                         f"{name} came as {value.dtype} on {value.device}, its rows are {owner.dtype} on {owner.device}")
                require(value.shape[1:] == owner.shape[1:], f"{name} came as events {tuple(value.shape[1:])}, its rows are {tuple(owner.shape[1:])}")


def marginals(make: Make) -> None:
    """x1 has the law of the target: its rows, each once an epoch, or the moments of what it is drawn from. x0 that of the source: its rows, or its
    moments, within six standard errors (x0 may repeat inside a minibatch, x1 may not leave out a row)."""
    coupling = make()
    pairs = _draws(coupling)
    x1 = torch.cat([pair.x1 for pair in pairs])
    if isinstance(coupling.target, Tensor):
        at = _which(x1, coupling.target)
        require(bool(at.any(1).all()), "x1 holds rows that the target does not have")
        population = len(coupling.target)
        whole = at[: len(at) // population * population].double()
        epochs = len(whole) // population
        # Equal rows of the target share their visits.
        weight = _which(coupling.target, coupling.target).sum(1).double()
        visits = (whole / whole.sum(1, keepdim=True)).sum(0)
        require(torch.allclose(visits, torch.full_like(visits, epochs)) or bool((weight > 1).any()),
                 f"{epochs} epochs visited rows of the target {visits.min():g} to {visits.max():g} times")
    else:
        _same_law("x1", x1, coupling.target.sample(40 * len(x1), seed=999))
    if pairs[0].x0 is None:
        return
    x0 = torch.cat([pair.x0 for pair in pairs])
    if isinstance(coupling.source, Tensor):
        at = _which(x0, coupling.source)
        require(bool(at.any(1).all()), "x0 holds rows that the source does not have")
        _same_law("x0", x0, coupling.source)
    else:
        many = 40 * len(x0)
        _same_law("x0", x0, Draws(999).rows("reference", 0, (many, *x0.shape[1:]), dtype=torch.float64) if coupling.source is None
                  else coupling.source.sample(many, seed=999))


def _same_law(name: str, x: Tensor, truth: Tensor) -> None:
    """First and second moments, each within six standard errors, doubled for draws that repeat."""
    x, truth = _flat(x), _flat(truth)
    products = lambda v: torch.cat([v, (v[:, :, None] * v[:, None, :]).flatten(1)], 1)
    a, b = products(x), products(truth)
    error = (b.var(0) * (2 / len(a) + 1 / len(b))).sqrt() + 1e-6
    gap = ((a.mean(0) - b.mean(0)).abs() / error).max()
    require(float(gap) <= STANDARD_ERRORS, f"{name} has a moment {float(gap):.1f} standard errors from that of what it is drawn from")


def conditions_stay(make: Make) -> None:
    """Each x1 comes with its own condition."""
    coupling = make()
    cond = coupling.cond
    for pair in _draws(coupling, batches=6):
        require((pair.cond is None) == (cond is None), "a condition was lost or made up")
        if cond is None:
            continue
        require(isinstance(pair.cond, dict) == isinstance(cond, dict), "conditions came in another container")
        at = _which(pair.x1, coupling.target)
        for name, value in (cond if isinstance(cond, dict) else {"cond": cond}).items():
            given = pair.cond[name] if isinstance(cond, dict) else pair.cond
            require(given.dtype == value.dtype, f"{name} came as {given.dtype}, not {value.dtype}")
            require(bool((at & _which(given, value)).any(1).all()), f"{name} does not belong to the x1 it came with")


def fixed_pairs_stay(make: Make) -> None:
    """Where pairs are fixed, x0 and x1 come from the same row."""
    coupling = make()
    if isinstance(coupling, Paired):
        for pair in _draws(coupling, batches=6):
            require(bool((_which(pair.x1, coupling.target) & _which(pair.x0, coupling.source)).any(1).all()), "a pair was taken apart")


def cost_at_most_independent(make: Make) -> None:
    """E |x1 - x0|^2 is not above that of the same points paired at random, within five standard errors of the difference."""
    gaps = []
    for pair in _draws(make()):
        if pair.x0 is None:
            return
        x0, x1 = _flat(pair.x0), _flat(pair.x1)
        gaps.append(float((x1 - x0).square().sum(1).mean() - torch.cdist(x0, x1).square().mean()))
    found = torch.tensor(gaps, dtype=torch.float64)
    mean, error = float(found.mean()), float(found.std()) / math.sqrt(len(found))
    require(mean <= 5 * error + 1e-9, f"the pairs cost {mean:.3g} more than random ones, {mean / max(error, 1e-300):.1f} standard errors")


def cost_is_measured(make: Make) -> None:
    """`cost(p)` is E |x1 - x0|^p of the pairs that are drawn, here for p = 1.5, within six standard errors."""
    coupling, p = make(), 1.5
    pairs = _draws(coupling, 256, 6)
    if pairs[0].x0 is None:
        return
    each = torch.stack([(_flat(pair.x1) - _flat(pair.x0)).norm(dim=1).pow(p).mean() for pair in pairs])
    found, error = float(each.mean()), float(each.std()) * math.sqrt(2 / len(each))
    said = coupling.cost(p)
    require(abs(said - found) <= STANDARD_ERRORS * error + 0.02 * found, f"cost({p:g}) says {said:.4g}, the pairs drawn have {found:.4g}")


def plan_is_a_plan(make: Make) -> None:
    """Where a coupling tells its `transport(x0, x1)`: both marginals are even, and putting the rows of either side in another order puts the
    plan's rows or columns in that order and changes nothing else."""
    coupling = make()
    transport = getattr(coupling, "transport", None)
    if not callable(transport) or list(inspect.signature(transport).parameters) != ["x0", "x1"]:      # others carry points of one side to the other
        return
    pair = coupling.sample(9, seed=4, step=2)
    plan = coupling.transport(pair.x0, pair.x1)
    even = torch.full((9,), 1 / 9, dtype=plan.dtype)
    require(torch.allclose(plan.sum(1), even, rtol=0.02) and torch.allclose(plan.sum(0), even, rtol=0.02), "the plan's marginals are not even")
    p, q = Draws(1).permutation("p", 0, 9), Draws(2).permutation("q", 0, 9)
    gap = float((coupling.transport(pair.x0[p], pair.x1[q]) - plan[p][:, q]).abs().max())
    require(gap <= 1e-3 / 9, f"the plan of rows in another order differs by {gap:.2g}")


COUPLING_LINES: tuple[Line, ...] = (
    Line("function of seed and step", function_of_seed_and_step),
    Line("steps and seeds differ", steps_and_seeds_differ),
    Line("counts and kinds", counts_and_kinds),
    Line("marginals", marginals),
    Line("conditions stay", conditions_stay),
    Line("fixed pairs stay", fixed_pairs_stay),
    Line("cost at most independent", cost_at_most_independent),
    Line("cost is measured", cost_is_measured),
    Line("plan is a plan", plan_is_a_plan),
)


def public_couplings(rooms: Iterable[str] = ("couplings",)) -> list[type]:
    """All public classes with a `sample` method that the rooms name in `__all__`. TypeError for one without examples()."""
    found = []
    for room in rooms:
        module = importlib.import_module(f"rheos.{room}")
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value) and callable(getattr(value, "sample", None)) and not getattr(value, "_is_protocol", False):
                if not callable(getattr(value, "examples", None)) or not value.examples():
                    raise TypeError(f"{value.__module__}.{value.__qualname__} is a public coupling without examples(): the suite cannot test it")
                found.append(value)
    return found


def coupling_rows(couplings: Sequence[type], lines: Sequence[Line] = COUPLING_LINES) -> list[tuple[str, type, Line]]:
    """The table of the suite: (label, class, line), one row a test."""
    return [(f"{cls.__name__} {line.name}", cls, line) for cls in couplings for line in lines]


def check_coupling(cls: type, lines: Sequence[Line] = COUPLING_LINES) -> None:
    """Run `lines` on every example of `cls`. AssertionError that names the example and the line which does not hold, or which is exempt and
    holds for every example."""
    exempt = getattr(cls, "exempt", {})
    unknown = set(exempt) - {line.name for line in COUPLING_LINES}
    require(not unknown, f"{cls.__name__}.exempt names unknown lines {sorted(unknown)}")
    for line in lines:
        broken = None
        for number in range(len(cls.examples())):
            try:
                line.check(lambda number=number: cls.examples()[number])
            except Exception as error:      # a coupling that raises does not meet the line either
                broken = error
                if line.name not in exempt:
                    what = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
                    raise AssertionError(f"{cls.__name__}, example {number}, {line.name}: {what}") from error
        require(broken is not None or line.name not in exempt, f"{cls.__name__} declares itself exempt from {line.name!r} but meets it")
