"""A network seen through a path: `Field` answers velocity, score, noise and data from whatever the network predicts."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Inexact
from torch import Tensor, nn

from rheos.core import checks
from rheos.paths.path import Path
from rheos.paths.predictions import KINDS, Prediction
from rheos.paths.schedules import Coefficients

__all__ = ["Field"]

Net = Callable[..., Tensor | Sequence[Tensor]]


class Field:
    """A network, the path it was trained on, and what it predicts.

    net: called as net(x, t, cond) with x (batch, *event), t (batch,) in x's dtype, cond as given (None is passed as None). Returns
        (batch, *event), or as many of them as `predicts` has names.
    predicts: "velocity", "score", "noise", "data" or "v" (v-prediction); for two-sided paths usually ("velocity", "noise"), or
        ("residual", "noise"), residual being the source less the data.
    unit_input: whether the network is shown x / sqrt(alpha^2 + sigma^2) in place of x, as paths whose noise is large need it.
    nfe: how often the network was called; set it to 0 to count anew.

    Calling the field gives a `Prediction`: one network call, any kind.

    >>> field = Field(lambda x, t, cond: -x, Path.linear(), predicts="velocity")
    >>> answer = field(torch.tensor([[2.0]]), 0.5)
    >>> answer.velocity.item(), answer.data.item(), answer.noise.item(), field.nfe
    (-2.0, 1.0, 3.0, 1)
    """

    def __init__(self, net: Net, path: Path, predicts: str | Sequence[str] = "velocity", *, unit_input: bool = False):
        if not callable(net):
            raise TypeError(f"net must be callable as net(x, t, cond), got {type(net).__name__}")
        if not isinstance(path, Path):
            raise TypeError(f"path must be a Path, got {type(path).__name__}")
        self.net, self.path, self.unit_input = net, path, checks.flag("unit_input", unit_input)
        if unit_input and path.two_sided:
            raise ValueError("unit_input needs a one-sided path, got a two-sided one")
        self.predicts: tuple[str, ...] = (predicts,) if isinstance(predicts, str) else tuple(predicts)
        for kind in self.predicts or ("nothing",):
            checks.one_of("predicts", kind, KINDS)
        kinds = set(self.predicts)
        if "v" in kinds and path.two_sided:
            raise ValueError("predicts = v needs a one-sided path, got a two-sided one")
        if "residual" in kinds and not path.two_sided:
            raise ValueError("predicts = residual needs a two-sided path, got a one-sided one, which has no source")
        if "score" in kinds and not path.noise.gaussian:
            raise ValueError(f"predicts = score needs a path with Gaussian noise, this one has {path.noise}")
        if path.two_sided and "velocity" not in kinds and not (kinds & {"data", "residual"} and kinds & {"noise", "score"}):
            raise ValueError(f"predicts = {self.predicts} does not tell the velocity of a two-sided path; predict velocity, and noise for the score")
        self.nfe = 0

    @property
    def event(self) -> tuple[int, ...] | None:
        """The shape of one sample, where the network tells it (an attribute `event`), else None."""
        event = getattr(self.net, "event", None)
        return None if event is None else tuple(event)

    @property
    def like(self) -> Tensor:
        """An empty tensor of the dtype and device that the network computes in (float32 on the CPU if it has no parameters)."""
        parameters = self.net.parameters() if isinstance(self.net, nn.Module) else iter(())
        first = next((p for p in parameters if p.is_floating_point() or p.is_complex()), None)
        return torch.empty(0) if first is None else torch.empty(0, dtype=first.dtype, device=first.device)

    def __call__(self, x: Tensor, t: Tensor | float, cond: Any = None, *, at: Coefficients | None = None) -> Prediction:
        """One network call at x (batch, *event), t a number, () or (batch,). `at`: the path's coefficients at t, if known already.

        ValueError for times outside [0, 1] and for shapes that do not fit.
        """
        if not (x.is_floating_point() or x.is_complex()):
            raise TypeError(f"x must hold floating-point numbers, got {x.dtype}")
        if at is None:
            t = t.to(x.device) if isinstance(t, Tensor) else torch.tensor(t, dtype=torch.float64, device=x.device)
            if t.ndim > 1 or (t.ndim == 1 and len(t) != len(x)):
                raise ValueError(f"t must be one number or have shape ({len(x)},), one time a row of x, got shape {tuple(t.shape)}")
            # Coefficients that differ by coordinate always have the times first.
            at = self.path.coefficients(t[None] if t.ndim == 0 and getattr(self.path.schedule, "spectral", False) else t)
        kind = x.real.dtype if x.is_complex() else x.dtype
        rows = t.to(device=x.device, dtype=kind).expand(len(x)) if isinstance(t, Tensor) else torch.full((len(x),), t, dtype=kind, device=x.device)
        known = self._ask(x, rows, cond, at)
        return self.path.prediction(known, x, at)

    def _ask(self, x: Tensor, t: Tensor, cond: Any, at: Coefficients) -> dict[str, Tensor]:
        self.nfe += 1
        answer = self.net(self.path.unit(x, at) if self.unit_input else x, t, cond)
        answers = (answer,) if isinstance(answer, Tensor) else tuple(answer)
        if len(answers) != len(self.predicts):
            raise ValueError(f"net must return {len(self.predicts)} tensors for predicts = {self.predicts}, got {len(answers)}")
        for value in answers:
            if value.shape != x.shape:
                raise ValueError(f"net must return the shape of x, {tuple(x.shape)}, got {tuple(value.shape)}")
        return dict(zip(self.predicts, answers, strict=True))

    def velocity(self, x: Inexact[Tensor, "batch *event"], t: Tensor | float, cond: Any = None) -> Inexact[Tensor, "batch *event"]:
        """dx/dt of the probability flow, (batch, *event), units of x per unit time."""
        return self(x, t, cond).velocity

    def score(self, x: Inexact[Tensor, "batch *event"], t: Tensor | float, cond: Any = None) -> Inexact[Tensor, "batch *event"]:
        """The gradient of the log density of x_t, (batch, *event)."""
        return self(x, t, cond).score

    def noise(self, x: Inexact[Tensor, "batch *event"], t: Tensor | float, cond: Any = None) -> Inexact[Tensor, "batch *event"]:
        """The expected noise z given x_t, (batch, *event)."""
        return self(x, t, cond).noise

    def data(self, x: Inexact[Tensor, "batch *event"], t: Tensor | float, cond: Any = None) -> Inexact[Tensor, "batch *event"]:
        """The expected data x1 given x_t, (batch, *event)."""
        return self(x, t, cond).data

    def residual(self, x: Inexact[Tensor, "batch *event"], t: Tensor | float, cond: Any = None) -> Inexact[Tensor, "batch *event"]:
        """The expected source less the data given x_t, (batch, *event), on two-sided paths."""
        return self(x, t, cond).residual

    def v(self, x: Inexact[Tensor, "batch *event"], t: Tensor | float, cond: Any = None) -> Inexact[Tensor, "batch *event"]:
        """The expected (alpha z - sigma x1) / sqrt(alpha^2 + sigma^2) given x_t, (batch, *event)."""
        return self(x, t, cond).v

    def drift(self, x: Inexact[Tensor, "batch *event"], t: Tensor | float, cond: Any = None, *, epsilon: float = 0.0) -> Inexact[Tensor, "batch *event"]:
        """velocity + epsilon score: the drift of the SDE with diffusion sqrt(2 epsilon) and the same marginals. ValueError if epsilon < 0."""
        return self(x, t, cond).drift(checks.positive("epsilon", epsilon, zero=True))
