"""Classifier guidance: score + scale grad log p(what is wanted | x_t, t).

Paper: Dhariwal and Nichol, Diffusion models beat GANs on image synthesis, 2021, arXiv:2105.05233, section 4.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rheos.core import checks
from rheos.paths import Coefficients, Field

__all__ = ["ClassifierGuided"]


class ClassifierGuided(Field):
    """A field whose score is `field`'s plus scale times the gradient of `log_prob`: the law of x_t times p^scale.

    field: any on a one-sided path with Gaussian noise. log_prob: (x (batch, *event), t (batch,)) -> (batch,), each from its own row of x alone;
    a network in it should be in evaluation mode. scale: 0 leaves the field as it is, 1 conditions it. `nfe` counts calls of this field.
    The gradient is recorded only where x requires one. ValueError for other paths and for a log_prob of another shape or without a gradient.

    >>> from rheos.paths import Path
    >>> prior = Field(lambda x, t, cond: (1 - t)[:, None] * x / (t**2 + (1 - t) ** 2)[:, None], Path.linear(), predicts="noise")    # x1 is N(0, 1)
    >>> upward = ClassifierGuided(prior, lambda x, t: x[:, 0], 2.0)
    >>> round(upward.score(torch.tensor([[0.5]]), 0.5).item(), 4)                                             # -x / (t^2 + (1 - t)^2) + 2
    1.0
    """

    def __init__(self, field: Field, log_prob: Callable[[Tensor, Tensor], Tensor], scale: float = 1.0):
        if not isinstance(field, Field):
            raise TypeError(f"field must be a Field, got {type(field).__name__}")
        if field.path.two_sided or not field.path.noise.gaussian or getattr(field.path.schedule, "spectral", False):
            raise ValueError(f"field must live on a one-sided path with Gaussian noise, the same in every coordinate, got {field.path}")
        if not callable(log_prob):
            raise TypeError(f"log_prob must be callable as log_prob(x, t), got {type(log_prob).__name__}")
        self.field, self.log_prob = field, log_prob
        self.scale = checks.between("scale", scale, -float("inf"), float("inf"), low_open=True, high_open=True)
        super().__init__(field.net, field.path, "noise")

    @property
    def event(self) -> tuple[int, ...] | None:
        return self.field.event

    @property
    def like(self) -> Tensor:
        return self.field.like

    def _ask(self, x: Tensor, t: Tensor, cond: Any, at: Coefficients) -> dict[str, Tensor]:
        self.nfe += 1
        noise = self.path.prediction(self.field._ask(x, t, cond, at), x, at).noise
        if self.scale == 0.0:
            return {"noise": noise}
        slope = self.path.prediction({"score": self.scale * self._slope(x, t)}, x, at)
        return {"noise": noise + slope.noise}

    def _slope(self, x: Tensor, t: Tensor) -> Tensor:
        recorded = torch.is_grad_enabled() and x.requires_grad
        with torch.enable_grad():
            place = x if recorded else x.detach().requires_grad_()
            log_prob = self.log_prob(place, t)
            if not isinstance(log_prob, Tensor) or log_prob.shape != x.shape[:1]:
                got = tuple(log_prob.shape) if isinstance(log_prob, Tensor) else repr(log_prob)
                raise ValueError(f"log_prob must return shape ({len(x)},), one number a row of x, got {got}")
            # The sum, not the mean: each row's gradient is its own.
            slope = torch.autograd.grad(log_prob.sum(), place, create_graph=recorded, allow_unused=True)[0] if log_prob.requires_grad else None
        if slope is None:
            raise ValueError("log_prob must depend on x through operations that can be differentiated, got a result without a gradient")
        return slope
