"""A shallow start: the flow begins at time `start`, at points that a coupling brings there from noise, and spends all its calls on the rest of the way.

  x_start = T(z),   then x' = v(x, t) from t = start to the data,   W2(samples, data) <= (W2 at start) e^{L (1 - start)} + the error of the rest

Paper: Li et al., DPM-OT: A New Diffusion Probabilistic Model Based on Optimal Transport, 2023, arXiv:2307.11308.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Inexact
from torch import Tensor

from rheos.core import Draws, checks
from rheos.couplings import Coupling, Pair
from rheos.paths import Field, T, Times
from rheos.samplers.adaptive import AdaptiveRungeKutta
from rheos.samplers.defaults import default_rule
from rheos.samplers.exponential import INSIDE
from rheos.samplers.sampling import instance, sample
from rheos.samplers.tables import Rule

__all__ = ["Expressway"]


@dataclass(frozen=True, eq=False)
class Expressway:
    """Samples of `field` that begin at time `start`, at the x1 that `coupling` draws.

    coupling: whose x1 has the law of the path at `start`, such as a fitted `SemiDiscrete(None, path.sample(data, t).x)` with all times t = start; its cond,
        if it has one, goes with its rows. start: in (0, 1), our clock: 0 is noise, 1 data. Near 1 few steps are left to do and samples stay near
        the coupling's points; near 0 there is nothing gained. What is new in a sample comes from the noise that the points hold, and from a coupling
        that tells more than its points.

    ValueError for a start outside (0, 1) or the path's interval, TypeError for what is not a field or a coupling.

    >>> import torch
    >>> from rheos.couplings import Independent
    >>> from rheos.data import two_moons
    >>> from rheos.paths import ExactField, Path
    >>> field, data = ExactField(Path.linear(), two_moons()), two_moons().sample(500)
    >>> latents = field.path.sample(data, torch.full((500,), 0.8)).x
    >>> Expressway(field, Independent(latents), 0.8)(100, steps=5).shape
    torch.Size([100, 2])
    """

    field: Field
    coupling: Any
    start: float
    papers: ClassVar[tuple[str, ...]] = ("2307.11308",)

    def __post_init__(self):
        if not isinstance(self.field, Field):
            raise TypeError(f"field must be a Field, got {type(self.field).__name__}; wrap a network as Field(net, path, predicts)")
        if not isinstance(self.coupling, Coupling):
            raise TypeError(f"coupling must have a method sample(n, seed=, step=), got {type(self.coupling).__name__}")
        low, high = self.field.path.interval
        checks.between("start", self.start, low, high, low_open=True, high_open=True)

    def __call__(self, n: int, *, steps: int | None = None, rule: Rule | None = None, times: Times | None = None, cond: Any = None, seed: int | Draws = 0,
                 **settings: Any) -> Inexact[Tensor, "n *event"]:
        """`n` samples, (n, *event), in `steps` steps of `rule` from `start` on.

        steps: 10 unless told otherwise. rule: what `sample` would take; it has its steps equal in its own clock. times: instead of steps, beginning at
        `start`. cond: only where the coupling gives none. settings: others of `sample`, which see for errors. The same samples however `batch` splits them.
        """
        draws = Draws.of(seed)
        instance(rule)
        rule = default_rule(self.field) if rule is None else rule
        if isinstance(rule, AdaptiveRungeKutta) or not callable(getattr(rule, "plan", None)):
            raise TypeError(f"rule must be a rule that takes steps of given length, such as DPMSolverPP(order=3), got {rule!r}")
        for name in ("start", "shape", "n"):
            if name in settings:
                raise ValueError(f"{name} must be left out: samples begin where the coupling puts them")
        if times is None:
            times = self.times(10 if steps is None else steps, rule)
        elif steps is not None:
            raise ValueError(f"steps must be left out where times are given, got {steps}")
        elif float(times.t[0]) != self.start:
            raise ValueError(f"times must begin at start = {self.start:g}, got {float(times.t[0]):g}")
        pair = self.coupling.sample(checks.integer("n", n, least=1), seed=draws.child("expressway"))
        if not isinstance(pair, Pair):
            raise TypeError(f"coupling must give a Pair of samples and their conditions, got {type(pair).__name__}; put a law into Independent(law)")
        if cond is not None and pair.cond is not None:
            raise ValueError("cond must be left out: the coupling's points bring their own")
        return sample(self.field, start=pair.x1, rule=rule, times=times, cond=cond if pair.cond is None else pair.cond, seed=draws, **settings)

    def times(self, steps: int, rule: Rule) -> Times:
        """`steps` steps, equal in the rule's own clock, from `start` to where the rule's own times end; a little before where a network that predicts
        data would be asked at no noise."""
        path, field = self.field.path, self.field
        end = float(rule.times(path, steps).t[-1])
        if not path.two_sided and set(field.predicts) == {"data"} and getattr(rule, "asks_at_end", False) and float(path.coefficients(end).c) == 0:
            end = max(1 - INSIDE, 0.5 * (self.start + 1))
        return Times.uniform(path, steps, getattr(rule, "spacing", T), start=self.start, end=end)
