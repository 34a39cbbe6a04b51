"""Linear operators on events, with their adjoints and pseudo-inverses: what was measured of a sample, y = A x.

A^+ is the Moore-Penrose inverse: A A^+ A = A, A^+ A A^+ = A^+, A A^+ and A^+ A symmetric. So x - A^+ (A x - y) is the nearest point to x that
measures y, and A^+ y the smallest such point. Every operator works row by row on batches (batch, *event).
"""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rheos.core import checks

__all__ = ["Blur", "Dense", "Grey", "LinearOperator", "Mask", "Pool"]


@runtime_checkable
class LinearOperator(Protocol):
    """A linear map of events, and the two ways back."""

    def forward(self, x: Tensor) -> Tensor:
        """A x: (batch, *event) -> (batch, *measurement)."""
        ...

    def adjoint(self, y: Tensor) -> Tensor:
        """A^T y: (batch, *measurement) -> (batch, *event), <A x, y> = <x, A^T y>."""
        ...

    def pinv(self, y: Tensor) -> Tensor:
        """A^+ y: (batch, *measurement) -> (batch, *event)."""
        ...


@dataclass(frozen=True, eq=False)
class Mask:
    """Some coordinates are seen, the others are not: inpainting. A measurement has the event's shape, with zeros where nothing is seen.

    keep: bool, True where seen; the event's shape, or one that broadcasts to it ((height, width) for all channels alike). What a measurement holds
    elsewhere is not read, so it may be not-a-number.

    >>> Mask(torch.tensor([True, False, True])).forward(torch.tensor([[1.0, 2.0, 3.0]]))
    tensor([[1., 0., 3.]])
    """

    keep: Bool[Tensor, "..."]

    def __post_init__(self):
        if checks.tensor("keep", self.keep).dtype != torch.bool:
            raise TypeError(f"keep must hold True and False, got {self.keep.dtype}")
        if not bool(self.keep.any()):
            raise ValueError(f"keep must be True somewhere, got none of {self.keep.numel()}: nothing would be seen")

    def forward(self, x: Float[Tensor, "batch *event"]) -> Float[Tensor, "batch *event"]:
        shape, event = tuple(self.keep.shape), tuple(x.shape[1:])
        # A size of 1 stands for all; anything else must be the event's own.
        if len(shape) > len(event) or any(a not in (1, b) for a, b in zip(shape[::-1], event[::-1], strict=False)):
            raise ValueError(f"keep must have shape {event} or broadcast to it, got {shape}")
        return torch.where(self.keep.to(x.device), x, 0.0)

    adjoint = pinv = forward


@dataclass(frozen=True)
class Pool:
    """Means over tiles of k by k pixels, (..., height, width) -> (..., height / k, width / k): super-resolution.

    A A^T = I / k^2, so A^+ = k^2 A^T spreads a pixel over its tile. ValueError for a grid that k does not divide.

    >>> Pool(2).forward(torch.arange(8.0).reshape(1, 1, 2, 4))
    tensor([[[[2.5000, 4.5000]]]])
    """

    k: int

    def __post_init__(self):
        checks.integer("k", self.k, least=1)

    def forward(self, x: Float[Tensor, "batch *event"]) -> Float[Tensor, "batch *small"]:
        height, width = _grid("Pool", x)
        if height % self.k or width % self.k:
            raise ValueError(f"Pool({self.k}) needs a grid that {self.k} divides, got {height} x {width}")
        return x.reshape(*x.shape[:-2], height // self.k, self.k, width // self.k, self.k).mean((-3, -1))

    def adjoint(self, y: Float[Tensor, "batch *small"]) -> Float[Tensor, "batch *event"]:
        return self.pinv(y) / self.k**2

    def pinv(self, y: Float[Tensor, "batch *small"]) -> Float[Tensor, "batch *event"]:
        _grid("Pool", y)
        return y.repeat_interleave(self.k, -2).repeat_interleave(self.k, -1)


@dataclass(frozen=True)
class Grey:
    """The weighted sum of the channels, (batch, channels, ...) -> (batch, 1, ...): colourisation.

    weights: one a channel; the mean of three unless told otherwise, `Grey.luma()` for the eye's. ValueError for events of other channels.

    >>> Grey().forward(torch.tensor([[[3.0], [6.0], [0.0]]]))
    tensor([[[3.]]])
    """

    weights: tuple[float, ...] = (1 / 3, 1 / 3, 1 / 3)

    def __post_init__(self):
        if len(self.weights) == 0 or not any(self.weights):
            raise ValueError(f"weights must hold a number for each channel, not all 0, got {self.weights}")
        for weight in self.weights:
            checks.between("weights", weight, -math.inf, math.inf, low_open=True, high_open=True)

    @classmethod
    def luma(cls) -> Grey:
        """Red, green and blue weighted as in ITU-R BT.601: 0.299, 0.587, 0.114."""
        return cls((0.299, 0.587, 0.114))

    def forward(self, x: Float[Tensor, "batch *event"]) -> Float[Tensor, "batch *grey"]:
        if x.ndim < 2 or x.shape[1] != len(self.weights):
            raise ValueError(f"Grey needs events of {len(self.weights)} channels first, got shape {tuple(x.shape[1:])}")
        return (x * self._shaped(x)).sum(1, keepdim=True)

    def adjoint(self, y: Float[Tensor, "batch *grey"]) -> Float[Tensor, "batch *event"]:
        if y.ndim < 2 or y.shape[1] != 1:
            raise ValueError(f"a grey measurement must have one channel first, got shape {tuple(y.shape[1:])}")
        return y * self._shaped(y)

    def pinv(self, y: Float[Tensor, "batch *grey"]) -> Float[Tensor, "batch *event"]:
        return self.adjoint(y) / sum(w * w for w in self.weights)

    def _shaped(self, like: Tensor) -> Tensor:
        return torch.tensor(self.weights, dtype=torch.float64).to(like).reshape(-1, *(1,) * (like.ndim - 2))


@dataclass(frozen=True, eq=False)
class Blur:
    """Periodic convolution with a kernel over the last two axes, by FFT.

    kernel: (rows, columns), its middle at (rows // 2, columns // 2), no larger than the grid; `Blur.gaussian(sigma)` makes one.
    cutoff: what frequencies the kernel passes by less than this share of its strongest are taken for lost: their pseudo-inverse is 0, so that noise in
    a measurement grows at most by 1 / cutoff over that of its strongest frequency. Then A A^+ A = A up to that share.
    """

    kernel: Float[Tensor, "rows columns"]
    cutoff: float = 1e-2

    def __post_init__(self):
        checks.finite("kernel", checks.tensor("kernel", self.kernel, floating=True))
        if self.kernel.ndim != 2 or not bool(self.kernel.any()):
            raise ValueError(f"kernel must be a grid (rows, columns), not all 0, got shape {tuple(self.kernel.shape)}")
        checks.between("cutoff", self.cutoff, 0.0, 1.0, high_open=True)

    @classmethod
    def gaussian(cls, sigma: float, cutoff: float = 1e-2) -> Blur:
        """A normal kernel of `sigma` pixels, cut at three of them and normalised to sum 1."""
        radius = math.ceil(3 * checks.positive("sigma", sigma))
        line = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=torch.float64) / sigma).square())
        line = line / line.sum()
        return cls(line[:, None] * line, cutoff)

    def forward(self, x: Float[Tensor, "batch *event"]) -> Float[Tensor, "batch *event"]:
        return _filtered(x, self._transfer(x))

    def adjoint(self, y: Float[Tensor, "batch *event"]) -> Float[Tensor, "batch *event"]:
        return _filtered(y, self._transfer(y).conj())

    def pinv(self, y: Float[Tensor, "batch *event"]) -> Float[Tensor, "batch *event"]:
        transfer = self._transfer(y)
        strength = transfer.abs()
        passed = strength > self.cutoff * strength.max()
        return _filtered(y, torch.where(passed, 1 / torch.where(passed, transfer, 1.0), 0.0))

    def _transfer(self, x: Tensor) -> Tensor:
        """The kernel's Fourier transform on the grid of x: the operator's eigenvalues, (height, width // 2 + 1) complex128."""
        height, width = _grid("Blur", x)
        rows, columns = self.kernel.shape
        if rows > height or columns > width:
            raise ValueError(f"kernel must be no larger than the grid, {height} x {width}, got {rows} x {columns}")
        wide = torch.zeros(height, width, dtype=torch.float64, device=x.device)
        wide[:rows, :columns] = self.kernel
        return torch.fft.rfft2(wide.roll((-(rows // 2), -(columns // 2)), (0, 1)))


@dataclass(frozen=True, eq=False)
class Dense:
    """Any linear map of small events, by its matrix; and several operators at once, `Dense.of((A, B), event)`. A measurement is (batch, rows).

    matrix: (rows, columns) on flattened events. event: their shape, of `columns` numbers. cutoff: singular values below this share of the largest
    are taken for 0. The pseudo-inverse is made once, in columns^2 rows operations or so: a second for an event of 1000 numbers.

    >>> both = Dense.of((Pool(2), Mask(torch.tensor([[True, False], [False, False]]))), (1, 2, 2))
    >>> both.matrix.shape
    torch.Size([5, 4])
    """

    matrix: Float[Tensor, "rows columns"]
    event: tuple[int, ...]
    cutoff: float = 1e-9
    _back: Tensor = field(init=False, repr=False)

    def __post_init__(self):
        checks.finite("matrix", checks.tensor("matrix", self.matrix, floating=True))
        if self.matrix.ndim != 2 or self.matrix.shape[1] != math.prod(self.event):
            raise ValueError(f"matrix must have {math.prod(self.event)} columns, one a number of an event {self.event}, got shape {tuple(self.matrix.shape)}")
        checks.between("cutoff", self.cutoff, 0.0, 1.0, high_open=True)
        object.__setattr__(self, "_back", torch.linalg.pinv(self.matrix.double(), rtol=self.cutoff))

    @classmethod
    def of(cls, operators: Sequence[LinearOperator], event: Sequence[int], cutoff: float = 1e-9) -> Dense:
        """These operators on events of this shape, their measurements one after the other, each flattened. ValueError for none."""
        if not len(operators):
            raise ValueError("operators must hold one or more, got none")
        size = math.prod(event)
        unit = torch.eye(size, dtype=torch.float64).reshape(size, *event)
        return cls(torch.cat([operator.forward(unit).flatten(1) for operator in operators], 1).T.contiguous(), tuple(event), cutoff)

    def forward(self, x: Float[Tensor, "batch *event"]) -> Float[Tensor, "batch measured"]:
        if tuple(x.shape[1:]) != tuple(self.event):
            raise ValueError(f"Dense needs events of shape {tuple(self.event)}, got {tuple(x.shape[1:])}")
        return x.flatten(1) @ self.matrix.to(x).T

    def adjoint(self, y: Float[Tensor, "batch measured"]) -> Float[Tensor, "batch *event"]:
        return self._up(y, self.matrix.T)

    def pinv(self, y: Float[Tensor, "batch measured"]) -> Float[Tensor, "batch *event"]:
        return self._up(y, self._back)

    def _up(self, y: Tensor, matrix: Tensor) -> Tensor:
        if y.ndim != 2 or y.shape[1] != matrix.shape[1]:
            raise ValueError(f"a measurement must have shape (batch, {matrix.shape[1]}), got {tuple(y.shape)}")
        return (y @ matrix.to(y).T).reshape(len(y), *self.event)


def _grid(name: str, x: Tensor) -> tuple[int, int]:
    if x.ndim < 3:
        raise ValueError(f"{name} needs events of two axes or more, got shape {tuple(x.shape[1:])}")
    return x.shape[-2], x.shape[-1]


def _filtered(x: Tensor, transfer: Tensor) -> Tensor:
    """x with its frequencies multiplied by `transfer`, in x's own precision."""
    kind = torch.complex128 if x.dtype == torch.float64 else torch.complex64
    return torch.fft.irfft2(torch.fft.rfft2(x) * transfer.to(kind), s=x.shape[-2:]).to(x.dtype)
