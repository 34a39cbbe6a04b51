"""Nudges: x moved down an energy of the data that it is heading for, x <- x - scale * gradient of E(data prediction).

through="data" takes the gradient with respect to the data prediction and carries it over to x as it is, with no graph through the network (FlowChef,
arXiv:2412.00100); "network" follows the chain rule through the network (Steered Diffusion, arXiv:2310.00224; DPS, Chung et al., 2022,
arXiv:2209.14687), at the price of a backward pass.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Inexact
from torch import Tensor

from rheos.core import checks
from rheos.guidance.operators import LinearOperator
from rheos.guidance.projection import residual
from rheos.paths import Prediction

__all__ = ["Misfit", "Nudge"]

Energy = Callable[[Tensor, float], Tensor]      # (data (batch, *event), t) -> (batch,)
UNITS = ("gradient", "sigma", "newton")


@dataclass(frozen=True, eq=False)
class Misfit:
    """The energy sum_c weight_c |F_c(data) - target_c|^2 / 2 of each sample, (batch,).

    parts: (F, target, weight) each; F a linear operator or any differentiable function of (batch, *event), target (rows, ...) what it should give, one
    a sample or one row for all.
    """

    parts: tuple[tuple[Any, Tensor, float], ...]

    def __post_init__(self):
        if not self.parts:
            raise ValueError("parts must hold one condition or more, got none")
        for part in self.parts:
            if not isinstance(part, tuple) or len(part) != 3:
                raise ValueError(f"a condition must be (operator, target, weight), got {part!r}")
            operator, target, weight = part
            if isinstance(operator, type) or not (isinstance(operator, LinearOperator) or callable(operator)):
                raise TypeError(f"a condition's operator must be a linear operator or a function of the data, got {operator!r}")
            checks.tensor("target", target, floating=True)
            checks.positive("weight", weight)
            if isinstance(operator, LinearOperator):
                operator.pinv(target[:1])

    def __call__(self, data: Inexact[Tensor, "batch *event"], t: float) -> Inexact[Tensor, " batch"]:
        return sum(0.5 * weight * _miss(operator, data, target).flatten(1).square().sum(1) for operator, target, weight in self.parts)

    @property
    def linear(self) -> bool:
        """Whether every part is a linear operator."""
        return all(isinstance(operator, LinearOperator) for operator, _, _ in self.parts)

    def newton(self, data: Inexact[Tensor, "batch *event"], t: float) -> Inexact[Tensor, "batch *event"]:
        """data minus where every part, one after the other, has taken its weight's share of Newton's step A^+ (A data - y). Linear parts only."""
        if not self.linear:
            raise ValueError("Newton's step is known for linear operators only; take units gradient or rms")
        end = data
        for operator, target, weight in self.parts:
            end = end - weight * operator.pinv(residual(operator, end, target))
        return data - end

    def rows(self, start: int, stop: int) -> Misfit:
        """That of samples start .. stop - 1 alone."""
        return Misfit(tuple((operator, y if len(y) == 1 else y[start:stop], weight) for operator, y, weight in self.parts))


@dataclass(frozen=True, eq=False)
class Nudge:
    """Moves x down an energy before each forward step of a `TimeTravel`.

    energy: (data (batch, *event), t) -> (batch,), one number a sample, lower is better: `Misfit`, or your own. Samples never mix: the gradient of a
        sample is that of its own number.
    scale: how far, a number or a function of t, in `units`: "gradient", of the gradient itself; "sigma", so many times the noise's standard deviation at
        t, root mean square over the sample's numbers, whatever the gradient's size; "newton", of the energy's own method `newton` (for a `Misfit` of one
        operator A^+ (A data - y): 1 is a full projection, carried on x; `through` is then not read).
    through: "data" or "network", see the module. loops: how often at a level, a call each. anew: whether the field is asked once more at the end; else
        the step goes on with the last velocity, at the point moved to.
    start, stop: it acts from time `start` up to, not at, time `stop`, and only where alpha is `least_alpha` or more: before that no data is foreseen.
    """

    energy: Energy
    scale: float | Callable[[float], float] = 1.0
    through: str = "data"
    units: str = "gradient"
    loops: int = 1
    anew: bool = False
    start: float = 0.0
    stop: float = 1.0
    least_alpha: float = 0.0

    def __post_init__(self):
        if isinstance(self.energy, type) or not callable(self.energy):
            raise TypeError(f"energy must be callable as energy(data, t), got {self.energy!r}")
        if not callable(self.scale):
            checks.positive("scale", self.scale, zero=True)
        checks.one_of("through", self.through, ("data", "network"))
        checks.one_of("units", self.units, UNITS)
        if self.units == "newton" and not callable(getattr(self.energy, "newton", None)):
            raise ValueError("units newton needs an energy with a method newton, such as Misfit; take gradient or sigma")
        if self.units == "newton" and not getattr(self.energy, "linear", True):
            raise ValueError("units newton needs linear operators only; take gradient or sigma")
        checks.integer("loops", self.loops, least=1)
        checks.flag("anew", self.anew)
        checks.between("start", self.start, 0.0, 1.0)
        checks.between("stop", self.stop, 0.0, 1.0)
        if self.stop < self.start:
            raise ValueError(f"stop must not lie before start = {self.start:g}, got {self.stop:g}")
        checks.between("least_alpha", self.least_alpha, 0.0, 1.0)

    def __call__(self, x: Tensor, t: float, ask: Callable[[Tensor], Prediction]) -> tuple[Tensor, Prediction]:
        """(x, answer): where it ends, and what the field says there (or, not `anew`, what its last velocity says there)."""
        if not self.start <= t < self.stop:
            return x, ask(x)
        scale = checks.positive("scale", self.scale(t), zero=True) if callable(self.scale) else float(self.scale)
        for _ in range(self.loops):
            answer, down = self._downhill(x, t, ask)
            if float(answer.at.b) < self.least_alpha:
                return x, answer
            x = torch.sub(x, down, alpha=scale)
        if self.anew:
            return x, ask(x)
        return x, Prediction({"velocity": answer.velocity}, x, answer.at)

    def rows(self, start: int, stop: int) -> Nudge:
        """That of samples start .. stop - 1 alone, where the energy can be cut."""
        if not callable(getattr(self.energy, "rows", None)):
            return self
        settings = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return Nudge(**{**settings, "energy": self.energy.rows(start, stop)})

    def _downhill(self, x: Tensor, t: float, ask: Callable[[Tensor], Prediction]) -> tuple[Prediction, Tensor]:
        """(the field's answer at x, the direction in which the energy grows, in its units)."""
        if self.units == "newton":
            answer = ask(x)
            return answer, self.energy.newton(answer.data, t)
        if self.through == "data":
            answer = ask(x)
            grown = gradient(lambda data: self.energy(data, t), answer.data)
        else:
            with torch.enable_grad():
                leaf = x.detach().requires_grad_(True)
                answer = ask(leaf)
                grown = _pulled(self.energy(answer.data, t), leaf)
            answer = Prediction({"velocity": answer.velocity.detach(), "data": answer.data.detach()}, x, answer.at)
        return answer, answer.at.c * unit_rms(grown) if self.units == "sigma" else grown


def gradient(energy: Callable[[Tensor], Tensor], x: Inexact[Tensor, "batch *event"]) -> Inexact[Tensor, "batch *event"]:
    """The gradient of each sample's own energy, (batch, *event). ValueError if the energy is not one number a sample."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_(True)
        return _pulled(energy(leaf), leaf)


def unit_rms(x: Inexact[Tensor, "batch *event"]) -> Inexact[Tensor, "batch *event"]:
    """Each sample divided by its root mean square; 0 where it is 0."""
    size = x.abs().square().flatten(1).mean(1).sqrt().reshape(-1, *(1,) * (x.ndim - 1))
    return torch.where(size > 0, x / torch.where(size > 0, size, 1.0), 0.0)


def _pulled(energies: Any, leaf: Tensor) -> Tensor:
    if not isinstance(energies, Tensor) or energies.shape != leaf.shape[:1]:
        got = tuple(energies.shape) if isinstance(energies, Tensor) else type(energies).__name__
        # A mean over the batch would be a gradient that shrinks as the batch grows.
        raise ValueError(f"energy must return one number a sample, shape ({len(leaf)},), got {got}")
    if not energies.requires_grad:
        raise ValueError("energy must depend on the data by differentiable steps, got one without a gradient")
    (grown,) = torch.autograd.grad(energies.sum(), leaf)
    return grown


def _miss(operator: Any, data: Tensor, target: Tensor) -> Tensor:
    """operator(data) - target, (batch, ...)."""
    if isinstance(operator, LinearOperator):
        return residual(operator, data, target)
    seen = operator(data)
    if seen.shape[:1] != data.shape[:1] or seen.shape[1:] != target.shape[1:] or len(target) not in (1, len(data)):
        raise ValueError(f"a condition's target must have shape {tuple(seen.shape)}, as its operator gives, got {tuple(target.shape)}")
    return seen - target.to(seen)
