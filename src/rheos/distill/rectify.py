"""Rectified flow: fit a flow to pairs, take its own starts and ends as new pairs, and fit again.

  round 1   min E |(X1 - X0) - v(X_t, t)|^2 over the given coupling, X_t = (1 - t) X0 + t X1
  round k   the same over (Z0, Z1), the starts and ends of round k - 1's flow

Each round lowers E c(Z1 - Z0) for every convex c and straightens the paths, S = int E |(Z1 - Z0) - v(Z_t, t)|^2 dt -> 0, until one Euler step is
enough. Paper: Liu, Gong and Liu, Flow Straight and Fast, 2022, arXiv:2209.03003.
"""
from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rheos.core import Draws, Watcher, checks, evolve, raising_interrupts
from rheos.couplings import Coupling, Reflow
from rheos.objectives import Matching, Metric, Objective
from rheos.objectives.distilling import Distill
from rheos.objectives.gaps import L2, PointMetric
from rheos.paths import Field, Path, T, Times
from rheos.samplers import Rule, RungeKutta, sample
from rheos.training import Average, Cosine, Descent
from rheos.training.descent import known_settings

__all__ = ["Straightness", "one_step", "rectify", "straightness"]

SIMULATION_STEPS = 50


class Straightness(NamedTuple):
    """value: S, in squared units of x. relative: S / E |Z1 - Z0|^2, without units; 0 is straight at constant speed."""

    value: float
    relative: float


def rectify(
    coupling: Coupling,
    net_factory: Callable[[], nn.Module],
    rounds: int = 2,
    pairs: int = 50_000,
    *,
    objective: Matching | None = None,
    steps: int = 1500,
    integrate: Callable[..., Tensor] | None = None,
    restart: bool = False,
    seed: int | Draws = 0,
    watch: Iterable[Watcher] = (),
    **settings: Any,
) -> list[Field]:
    """The flows of `rounds` rounds, first to last, each a Field of the averaged network.

    coupling: what round 1 learns from; later rounds begin at x0 and conditions drawn from it (without x0, at the path's noise) and never see its data.
    net_factory: () -> network; called once, or with `restart` once a round. By default each round goes on from the network before.
    pairs: starts and ends that a round simulates for the next one. integrate: (field, x) -> x, or with conditions (field, x, cond) -> x; default
        Heun's rule in 50 steps. Euler in a few steps would teach the next round the ends of another flow.
    objective: Matching(Path.linear()); must predict velocity on the linear path, or on a two-sided path, for paths to become straight.
    steps: minibatches a round. settings: of `Descent`; batch is 512, Adam with rate 2e-3 falling to 0 along a cosine, averaging 0.995, clip 1
        unless told otherwise. watch: watchers of each round's training; a `StopWhen` among them ends a round, and the next one begins. To follow
        the simulations, give an `integrate` with watchers of its own.

    Ctrl-C raises at once: what half a round has learned would be taken for a flow. ValueError for rounds, pairs or steps below 1.

    >>> from rheos.couplings import Independent
    >>> from rheos.data import skewed, two_moons
    >>> from rheos.nets import ResidualMLP
    >>> law = lambda mixture: mixture.to(torch.float32)
    >>> flows = rectify(Independent(law(two_moons()), law(skewed())), lambda: ResidualMLP((2,), width=16, depth=1), pairs=200, steps=60, batch=64)
    >>> start = law(skewed()).sample(200)
    >>> straightness(flows[1], start).relative < straightness(flows[0], start).relative
    True
    """
    rounds, pairs, steps = (checks.integer(name, value, least=1) for name, value in (("rounds", rounds), ("pairs", pairs), ("steps", steps)))
    checks.flag("restart", restart)
    objective = Matching(Path.linear()) if objective is None else objective
    if not isinstance(objective, Matching):
        raise TypeError(f"objective must be a Matching, which tells the path, got {type(objective).__name__}")
    if not callable(getattr(coupling, "sample", None)):
        raise TypeError(f"coupling must have a method sample(n, seed=, step=), got {type(coupling).__name__}")
    known_settings("rectify", settings)
    draws, watchers = Draws.of(seed), tuple(watch)
    given, flows = coupling, []
    net: nn.Module | None = None
    for k in range(rounds):
        family = draws.child(f"round {k + 1}")
        if k:
            drawn = given.sample(pairs, seed=family.child("starts")).to(flows[-1].like.device)
            x0 = objective.path.noise.draw(drawn.x1.shape, seed=family, like=drawn.x1) if drawn.x0 is None else drawn.x0
            coupling = Reflow(flows[-1], x0, _heun if integrate is None else integrate, cond=drawn.cond)
        if net is None or restart:
            with family.scope(0):
                net = net_factory()
        else:
            net = _continued(net, flows[-1].net)
        net, averaged = _fitted(objective, coupling, net, steps, family, watchers, settings)
        flows.append(Field(averaged, objective.path, objective.predicts, unit_input=objective.unit_input))
    return flows


def one_step(pairs: Coupling, net: nn.Module, *, path: Path | None = None, steps: int = 1500, metric: Metric | PointMetric | None = None,
             plus: Objective | None = None, seed: int | Draws = 0, watch: Iterable[Watcher] = (), **settings: Any) -> Field:
    """A map from start to end in one Euler step, min E |Z1 - (Z0 + v(Z0, 0))|^2 over a flow's `pairs`: the objective `Distill`.

    pairs: a `Reflow`; of pairs that are not deterministic only the mean end of each start could be learned. net: trained in place; begin with the
    rectified flow's own. path: Path.linear() or Path.interpolant("none"). metric: `L2()`, or see `Distill`. plus: an objective to be added, such as
    `FlowGuided(flow)`. steps, watch, settings: as of `rectify`.
    ValueError for any other path: there velocity at t = 0 is not x1 - x0.
    """
    known_settings("one_step", settings)
    steps, distance = checks.integer("steps", steps, least=1), Distill(Path.linear() if path is None else path, L2() if metric is None else metric)
    averaged = _fitted(distance if plus is None else distance + plus, pairs, net, steps, Draws.of(seed), tuple(watch), settings)[1]
    return Field(averaged, distance.path)


def _fitted(objective: Objective, coupling: Coupling, net: nn.Module, steps: int, family: Draws, watch: tuple[Watcher, ...],
            settings: dict[str, Any]) -> tuple[nn.Module, nn.Module]:
    """The trained network, and that of its averaged weights in evaluation mode."""
    defaults = {"batch": 512, "optimizer": partial(torch.optim.Adam, lr=2e-3, betas=(0.9, 0.99)), "rate": Cosine(steps, min(steps // 50, 100)),
                "average": Average(0.995), "clip": 1.0, "seed": family}
    fit = Descent(objective, coupling, **(defaults | settings))
    with raising_interrupts():
        end = evolve(fit, fit.init(net), steps, watch=watch, donate=True)
    return end.net, end.averaged.eval()


def _heun(field: Field, x: Tensor, cond: Any = None) -> Tensor:
    return sample(field, start=x, rule=RungeKutta(2), steps=SIMULATION_STEPS, cond=cond)


def _continued(net: nn.Module, averaged: nn.Module) -> nn.Module:
    """A network of its own that begins where the averaged one, whose flow made the pairs, ended."""
    fresh = copy.deepcopy(net)
    fresh.load_state_dict(averaged.state_dict())
    return fresh.train()


def straightness(field: Field, start: Float[Tensor, "batch *event"], steps: int = SIMULATION_STEPS, *, rule: Rule | None = None,
                 cond: Any = None) -> Straightness:
    """How far the flow from `start` is from straight lines at constant speed: S = int E |(Z1 - Z0) - v(Z_t, t)|^2 dt.

    start: where flows begin (batch, *event), on a one-sided path the noise times c(0). rule: default Heun's, which takes two steps an interval;
    the velocity is read in the middle of each of `steps` equal intervals, away from ends at which it may not be known. Sums in float64.
    The same coarse rule that one wants to sample with would not see how much the paths bend. ValueError for flows that do not move at all.

    >>> turn = Field(lambda x, t, cond: torch.stack([-x[:, 1], x[:, 0]], 1), Path.linear())      # E |v|^2 - |Z1 - Z0|^2 = 1 - (2 sin 1/2)^2
    >>> round(straightness(turn, torch.tensor([[1.0, 0.0], [0.0, 1.0]])).value, 3)
    0.081
    """
    steps = checks.integer("steps", steps, least=1)
    start = checks.tensor("start", start, floating=True).detach()
    rule, path = RungeKutta(2) if rule is None else rule, field.path
    if not callable(getattr(rule, "plan", None)) or getattr(rule, "extra_calls", 0):
        raise ValueError(f"rule must take steps of given length, each with the same number of calls, got {rule!r}")
    times = Times.uniform(path, 2 * steps, T)
    low, high = (float(v) for v in times.t[[0, -1]])
    energy, along = 0.0, torch.zeros_like(start, dtype=torch.float64)

    def look(step: int, state: Any) -> None:
        nonlocal energy
        at, inside = divmod(step, rule.calls_per_step)
        if not inside and at % 2:
            v = field.velocity(state.x, float(times.t[at]), cond).double()
            energy += float(v.square().flatten(1).sum(1).mean()) / steps
            along.add_(v, alpha=1 / steps)

    with torch.no_grad():
        end = sample(field, start=start, rule=rule, times=times, cond=cond, watch=[look])
    displacement = (end - start).double() / (high - low)
    length = float(displacement.square().flatten(1).sum(1).mean())
    if length == 0:
        raise ValueError("field must move the points of start, got a flow whose ends are its starts")
    # The mean over t of |d - v|^2, opened up so that no velocity need be kept.
    value = max(0.0, energy - 2 * float((displacement * along).flatten(1).sum(1).mean()) + length)
    return Straightness(value, value / length)
