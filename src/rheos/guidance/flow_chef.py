"""FlowChef: a straight flow steered by the gradient on where it is heading, carried over to x as it is.

x1_hat = x + (1 - t) v(x, t), x <- x - scale * grad E(x1_hat), x <- x + (s - t) v: of a straight flow d x1_hat / d x is nearly the identity, so no gradient
is taken through the network, and no graph kept.

Paper: Patel et al., Steering rectified flow models in the vector field for controlled image generation, 2024, arXiv:2412.00100. For linear conditions A^T is
replaced by A^+, so that a scale of 1 is a full projection, whatever the operator's scale.
"""
from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from rheos.guidance.nudges import Energy, Misfit, Nudge
from rheos.guidance.time_travel import Steering
from rheos.paths import Field, Linear

__all__ = ["flow_chef"]

_WARNED: set[str] = set()       # schedules told of already: once is enough in a run of many samples


def flow_chef(field: Field, energy: Energy | Sequence[tuple[Any, Tensor, float]], *, scale: float | Callable[[float], float] = 1.0, loops: int = 1,
              units: str | None = None, anew: bool = False, eta: float = 0.0, edit: Any = None, start: float = 0.0, stop: float = 1.0) -> Steering:
    """`field` steered down an energy of its data prediction; call `.sample(n, steps=20, seed=0)` on it.

    energy: (data, t) -> (batch,), or conditions (F, target, weight) as for `steered`. scale, units: of the move; for linear conditions "newton", 1 a full
        projection; for other energies "gradient", the gradient itself. loops: how often at a level, a call each. anew: whether the field is asked again
        where the nudge ends; else the last velocity goes on. eta: noise of the steps; the paper has none. edit: on the data prediction, such as
        `project(A, y)`. start, stop: the times between which it steers; editing steers the first few steps only.
    Warns once where the path is not linear: there the flow is curved, and what is carried over is not what the data would follow.
    """
    if not isinstance(field.path.schedule, Linear) and repr(field.path.schedule) not in _WARNED:
        _WARNED.add(repr(field.path.schedule))
        warnings.warn(f"FlowChef is made for the linear path, this field lives on {field.path.schedule}: its flow is curved, so expect less; see steered",
                      stacklevel=2)
    energy = energy if callable(energy) else Misfit(tuple(energy))
    units = units or ("newton" if isinstance(energy, Misfit) and energy.linear else "gradient")
    nudge = Nudge(energy, scale, units=units, loops=loops, anew=anew, start=start, stop=stop)
    return Steering(field, nudge=nudge, edit=edit, eta=eta)
