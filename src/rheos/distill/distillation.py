r"""One step from a guided teacher: reflow first, then distil, since a straight flow is all but a one-step map already.

  reflow    pairs (z, ODE[v_w](z | y)), v_w = v(. | none) + w (v(. | y) - v(. | none)); min int E |(x1 - z) - v_2(x_t, t | y)|^2 dt, v_2 begun as v
  distil    pairs (z, ODE[v_2](z | y)); min E D(z + v_3(z, 0 | y), x1), v_3 begun as v_2

Guidance is folded in once, by the first pairs: v_2 and v_3 are asked once a step. Paper: Liu et al., InstaFlow, 2023, arXiv:2309.06380.
"""
from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from rheos.core import Draws, Watcher, checks
from rheos.couplings import Paired, Reflow
from rheos.couplings.pairs import rows_of
from rheos.distill.rectify import SIMULATION_STEPS, _heun, one_step, rectify
from rheos.guidance import ClassifierFree, classifier_free
from rheos.nets import without_condition
from rheos.objectives import L2, Matching, Metric
from rheos.objectives.gaps import STRAIGHT, PointMetric
from rheos.paths import Field
from rheos.paths.asking import evaluating
from rheos.training.descent import known_settings

__all__ = ["Budget", "reflow_distill"]

SQUARES = (L2(),)
TRAINING_COSTS = 3      # forward passes: one forward, and twice as much backward


@dataclass(frozen=True)
class Budget:
    """What `reflow_distill` costs, in rows that pass forward through the network; a row that is learned from counts three times.

    The settings are those of `reflow_distill`. calls: field calls a simulated pair, 100 for Heun's rule in 50 steps. guided: whether the teacher is asked
    twice a call, with its condition and without. metrics: how many there are, each of which has `distill_steps` minibatches.

    >>> budget = Budget(pairs=1000, steps=1500, distill_steps=700, batch=256)
    >>> budget.simulation, budget.training, budget.direct_steps
    (300000, 1689600, 2330)
    """

    pairs: int
    steps: int
    distill_steps: int
    rounds: int = 1
    batch: int = 512
    calls: int = 2 * SIMULATION_STEPS
    guided: bool = True
    metrics: int = 1

    def __post_init__(self):
        for name in ("pairs", "steps", "distill_steps", "batch", "calls", "metrics"):
            checks.integer(name, getattr(self, name), least=1)
        checks.integer("rounds", self.rounds, least=0)
        checks.flag("guided", self.guided)

    @property
    def first(self) -> int:
        """Rows of the teacher's own pairs."""
        return self.pairs * self.calls * (2 if self.guided else 1)

    @property
    def simulation(self) -> int:
        """Rows of all pairs: the teacher's, and each straightened flow's."""
        return self.first + self.rounds * self.pairs * self.calls

    @property
    def training(self) -> int:
        """Rows of all minibatches."""
        return TRAINING_COSTS * self.batch * (self.rounds * self.steps + self.metrics * self.distill_steps)

    @property
    def total(self) -> int:
        return self.simulation + self.training

    @property
    def direct_steps(self) -> int:
        """How many minibatches direct distillation of the teacher's own pairs has for the same total, over all metrics: what reflow is compared with."""
        return (self.total - self.first) // (TRAINING_COSTS * self.batch)


def reflow_distill(
    teacher: Field,
    conditions: Any = None,
    rounds: int = 1,
    distill_steps: int = 1500,
    *,
    guidance: float | None = None,
    pairs: int = 20_000,
    steps: int = 1500,
    net: nn.Module | None = None,
    source: Any = None,
    objective: Matching | None = None,
    metrics: Metric | PointMetric | Sequence[Metric | PointMetric] = SQUARES,
    integrate: Callable[..., Tensor] | None = None,
    seed: int | Draws = 0,
    watch: Iterable[Watcher] = (),
    **settings: Any,
) -> tuple[Field, Field]:
    """(flow, one_step): the teacher's flow straightened `rounds` times, guidance folded in, and a map that is one Euler step of its field.

    teacher: a velocity on Path.linear() or Path.interpolant("none"); bring a diffusion model there by `paths.matched`. conditions: what pairs are
        made for: a tensor or a dict of tensors whose rows are drawn at random, such as the data's labels; a function (n, seed=Draws) -> conditions; or None.
    guidance: classifier-free scale of the teacher, 1.5 to 5; None: as the teacher is. It needs conditions, and a network that was taught without them too.
    rounds: 1 as in the paper; 0 distils the teacher directly, whose paths are bent: its control. pairs, steps: simulated, and minibatches, a round.
    distill_steps: minibatches for each of `metrics`, one or several, through which distillation passes in turn;
        (L2(), OnData(Perceptual(features))) is the paper's order.
    net: the student at its beginning, a copy of the teacher's network unless given (another size needs longer training).
    source: where flows begin, as of `Reflow`; needed on a two-sided path.
    objective: of the reflow rounds, Matching on the teacher's path; UShaped times and PerceptualHuber go here.
    integrate, watch, settings: as of `rectify`; the default of 50 steps of Heun's rule makes 100 calls a pair, each twice as dear under guidance.

    Compare at equal cost: see `Budget`. The teacher is not changed.
    ValueError for a teacher on another path, guidance without conditions or given twice, and a condition that the network does not know.
    """
    rounds, pairs = checks.integer("rounds", rounds, least=0), checks.integer("pairs", pairs, least=1)
    steps, distill_steps = checks.integer("steps", steps, least=1), checks.integer("distill_steps", distill_steps, least=1)
    guided, begun = _guided(teacher, guidance, conditions), _begun(teacher, net)
    metrics = (metrics,) if callable(metrics) else tuple(metrics)
    if not metrics:
        raise ValueError("metrics must hold at least one metric, got none")
    objective = Matching(teacher.path, unit_input=teacher.unit_input) if objective is None else objective
    if isinstance(objective, Matching) and (objective.path != teacher.path or objective.predicts != ("velocity",)):
        raise ValueError(f"objective must learn a velocity on the teacher's path, got {objective.predicts} on {objective.path.schedule}")
    if net is None and getattr(objective, "unit_input", teacher.unit_input) != teacher.unit_input:
        raise ValueError(f"objective must have the unit_input of the teacher, whose network goes on, {teacher.unit_input}, got {objective.unit_input}")
    if source is not None and not isinstance(source, Tensor) and not callable(getattr(source, "sample", None)):
        raise TypeError(f"source must be a tensor (rows, *event) or have a method sample(n, seed=...), got {type(source).__name__}")
    known_settings("reflow_distill", settings)
    draws, integrate = Draws.of(seed), _heun if integrate is None else integrate
    if guided is not teacher:
        _knows_nothing_too(teacher, _drawn(conditions, 1, draws))

    def simulated(flow: Field, family: Draws) -> Paired:
        cond = _drawn(conditions, pairs, family)
        start = source
        if isinstance(source, Tensor) and len(source) > pairs:      # conditions belong to pairs, not to these rows
            start = source[family.permutation("rows of source", 0, len(source), device=source.device)[:pairs]]
        elif source is not None and not isinstance(source, Tensor):
            start = source.sample(pairs, seed=family.child("source"))
        return Reflow(flow, start, integrate, pairs, seed=family, cond=cond)

    flow = guided
    for k in range(rounds):
        family = draws.child(f"reflow {k + 1}")
        flow = rectify(simulated(flow, family), partial(_free, begun), rounds=1, objective=objective, steps=steps, seed=family, watch=watch, **settings)[0]
        begun = flow.net
    family = draws.child("distill")
    made, student = simulated(flow, family), Field(begun, teacher.path)
    for k, metric in enumerate(metrics):
        student = one_step(made, _free(student.net), path=teacher.path, steps=distill_steps, metric=metric, seed=family.child(k), watch=watch, **settings)
    return flow, student


def _free(net: nn.Module) -> nn.Module:
    """A copy that learns."""
    return copy.deepcopy(net).requires_grad_(True).train()


def _begun(teacher: Field, net: nn.Module | None) -> nn.Module:
    if teacher.path not in STRAIGHT or teacher.predicts != ("velocity",) and net is None:
        raise ValueError(f"teacher must predict a velocity on Path.linear() or Path.interpolant('none'), got {', '.join(teacher.predicts)} on "
                         f"{teacher.path.schedule}; rheos.paths.matched(teacher) brings it to the linear path")
    begun = teacher.net if net is None else net
    if not isinstance(begun, nn.Module):
        raise TypeError(f"net must be given: the teacher's own is no torch module that could be trained on but a {type(begun).__name__}")
    return begun


def _guided(teacher: Field, guidance: float | None, conditions: Any) -> Field:
    if not isinstance(teacher, Field):
        raise TypeError(f"teacher must be a Field, got {type(teacher).__name__}; wrap a network as Field(net, path, predicts)")
    if isinstance(teacher, ClassifierFree) and guidance is not None:
        raise ValueError(f"guidance must be left out, or given once: the teacher is guided already, by {teacher.scale:g}")
    if conditions is None and (guidance is not None or isinstance(teacher, ClassifierFree)):
        raise ValueError("conditions must be given: guidance needs something to steer towards")
    return teacher if guidance is None else classifier_free(teacher, guidance)


def _drawn(conditions: Any, n: int, family: Draws) -> Any:
    """The conditions of n pairs."""
    if conditions is None:
        return None
    if callable(conditions):
        return conditions(n, seed=family.child("conditions"))
    first = next(iter(conditions.values()), None) if isinstance(conditions, dict) else conditions
    if not isinstance(first, Tensor) or first.ndim < 1 or not len(first):
        raise TypeError(f"conditions must be tensors with a row each, a function (n, seed=...) or None, got {type(conditions).__name__}")
    rows = family.integers("row of conditions", 0, (n,), len(first), device=first.device)
    return rows_of(conditions, rows)


def _knows_nothing_too(teacher: Field, cond: Any) -> None:
    """ValueError if the network cannot be asked without a condition."""
    if teacher.event is None:
        return
    x = torch.zeros((1, *teacher.event), dtype=teacher.like.dtype, device=teacher.like.device)
    try:
        with torch.no_grad(), evaluating(teacher.net):
            known = bool(teacher.velocity(x, 0.5, without_condition(cond)).isfinite().all())
    except (IndexError, RuntimeError, ValueError) as error:
        raise ValueError(f"guidance needs a network that can be asked without its condition (class -1, a vector of NaN); this one says: {error}") from None
    if not known:
        raise ValueError("guidance needs a network that can be asked without its condition (class -1, a vector of NaN); the answer of this one is not finite")
