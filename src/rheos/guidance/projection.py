"""The data prediction made to measure what was measured: data <- data - A^+ (A data - y).

Paper: Wang, Yu and Zhang, Zero-shot image restoration using denoising diffusion null-space model (DDNM), 2022, arXiv:2212.00490. What A sees is
replaced, what it does not see, its null space, is left to the network.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from rheos.core import checks
from rheos.guidance.operators import LinearOperator, Mask

__all__ = ["Projection", "Projections", "project", "residual"]


@dataclass(frozen=True, eq=False)
class Projection:
    """An edit for `sample(..., edit=project(A, y))`; see `project`.

    operator: A. y: what it measured, (rows, *measurement) in the network's units, one a sample, or (1, *measurement) for all samples.
    """

    operator: LinearOperator
    y: Tensor
    kind: ClassVar[str] = "data"

    def __post_init__(self):
        _operator(self.operator)
        checks.tensor("y", self.y, floating=True)
        if self.y.ndim < 2:
            raise ValueError(f"y must have shape (rows, *measurement), got {tuple(self.y.shape)}")
        self.operator.pinv(self.y[:1])      # a measurement that does not fit the operator is refused before anything runs

    def __call__(self, data: Float[Tensor, "batch *event"], x: Tensor, t: Any) -> Float[Tensor, "batch *event"]:
        return data - self.operator.pinv(residual(self.operator, data, self.y))

    def rows(self, start: int, stop: int) -> Projection:
        """That of samples start .. stop - 1 alone, for who splits a batch."""
        return self if len(self.y) == 1 else Projection(self.operator, self.y[start:stop])


@dataclass(frozen=True, eq=False)
class Projections:
    """Several projections as one edit, one after the other: all are met where their operators see different things, else the last one is."""

    parts: tuple[Projection, ...]
    kind: ClassVar[str] = "data"

    def __call__(self, data: Float[Tensor, "batch *event"], x: Tensor, t: Any) -> Float[Tensor, "batch *event"]:
        for part in self.parts:
            data = part(data, x, t)
        return data

    def rows(self, start: int, stop: int) -> Projections:
        """Those of samples start .. stop - 1 alone."""
        return Projections(tuple(part.rows(start, stop) for part in self.parts))


def project(operator: LinearOperator, y: Float[Tensor, "rows *measurement"]) -> Projection:
    """An edit that makes every data prediction measure y (rows, *measurement): inpainting, super-resolution, colourisation.

    ValueError if y does not fit the operator, and, when it runs, the samples.

    >>> import torch
    >>> from rheos.guidance.operators import Pool
    >>> edit = project(Pool(2), torch.tensor([[[[1.0]]]]))
    >>> edit(torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]]]), torch.zeros(1, 1, 2, 2), 0.5)
    tensor([[[[-0.5000,  0.5000],
              [ 1.5000,  2.5000]]]])
    """
    return Projection(operator, y)


def residual(operator: LinearOperator, data: Float[Tensor, "batch *event"], y: Float[Tensor, "rows *measurement"]) -> Float[Tensor, "batch *measurement"]:
    """A data - y. ValueError where y is not what the operator measures of such a batch."""
    seen = operator.forward(data)
    if y.shape[1:] != seen.shape[1:]:
        raise ValueError(f"y must hold measurements of shape {tuple(seen.shape[1:])}, got {tuple(y.shape[1:])}")
    if len(y) not in (1, len(seen)):
        raise ValueError(f"y must have as many rows as the batch, {len(seen)}, or one for all, got {len(y)}")
    return seen - (operator.forward(y) if isinstance(operator, Mask) else y).to(seen)       # what a mask hides is nobody's miss


def _operator(operator: Any) -> None:
    if isinstance(operator, type) or not isinstance(operator, LinearOperator):
        name = operator.__name__ if isinstance(operator, type) else type(operator).__name__
        raise TypeError(f"operator must have forward, adjoint and pinv, such as Pool(2), got {name}")
