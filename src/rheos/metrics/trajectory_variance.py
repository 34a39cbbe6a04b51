r"""How much the clean prediction of each sample still moves near the end of its run: a sign of samples that belong to no mode.

  Hal(x) = mean over coordinates of 1/n sum_i (x1^(i) - mean_j x1^(j))^2,  x1^(i) = E[x1 | x_t_i] as predicted at the n times t_i of a window.

Where the exact score jumps between two modes, a smooth network's prediction slides from one to the other, and what comes out lies between them. Mean and
squares are summed as the run goes (Welford, 1962), so that memory does not grow with the steps.

Paper: Aithal, Maini, Lipton and Kolter, Understanding hallucinations in diffusion models through mode interpolation, 2024, arXiv:2406.09358.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from rheos.core import checks

__all__ = ["TrajectoryVariance"]


class TrajectoryVariance:
    """Looks on at a run as its `edit`, changes nothing, and holds `variance` (rows,) afterwards: `sample(field, 1000, edit=TrajectoryVariance())`.

    begin, end: the window, in the path's time from 0 (noise) to 1 (data): predictions at begin <= t <= end count. The paper's windows end at the data and are
        0.01 (of 1000 steps) to 0.1 (of 200) long; where some samples are known to be bad, choose by how well the variance ranks them.
    edit: another edit of the data prediction for the same run, applied after this one has looked: thresholds hide what is to be seen. It may be a second
        `TrajectoryVariance`, with a window of its own.

    One object holds one run; the next one that it is given to begins anew. Every call of the field counts, Runge-Kutta stages too. Units are those of the
    field, squared. Samples must share their times: ValueError for `AdaptiveRungeKutta` and `StreamBatch`, and for a `variance` of fewer than 2 predictions.

    >>> look = TrajectoryVariance(0.5)
    >>> for t, value in ((0.25, 9.0), (0.5, 1.0), (0.75, 2.0), (1.0, 6.0)):        # mean 3, squared gaps 4, 1, 9
    ...     _ = look(torch.tensor([[value]]), torch.zeros(1, 1), t)
    >>> look.count, look.variance
    (3, tensor([4.6667], dtype=torch.float64))
    """

    kind: ClassVar[str] = "data"

    def __init__(self, begin: float = 0.9, end: float = 1.0, *, edit: Callable[[Tensor, Tensor, Any], Tensor] | None = None):
        self.begin, self.end = checks.between("begin", begin, 0.0, 1.0), checks.between("end", end, 0.0, 1.0)
        if self.begin >= self.end:
            raise ValueError(f"end must lie after begin = {self.begin:g} (time runs to the data, at 1), got {self.end:g}")
        if edit is not None and not callable(edit):
            raise TypeError(f"edit must be callable as edit(prediction, x, t), got {type(edit).__name__}")
        if edit is not None and getattr(edit, "kind", None) != "data":
            raise ValueError(f"edit must say that it acts on the data prediction (kind = 'data'), got {getattr(edit, 'kind', None)!r}")
        self.edit = edit
        self._parts: dict[int, TrajectoryVariance] = {}
        self._forget()

    @classmethod
    def last(cls, times: Any, count: int, *, edit: Callable[[Tensor, Tensor, Any], Tensor] | None = None) -> TrajectoryVariance:
        """The window of the last `count` field calls of a rule that asks once at each of `times`, a `Times` or (points,), but the last, as in
        `last(Times.uniform(path, 200), 20)`. ValueError for more calls than there are."""
        times = checks.monotone("times", checks.tensor("times", times if isinstance(times, Tensor) else getattr(times, "t", times), floating=True))
        count = checks.integer("count", count, least=2)
        if count >= len(times):
            raise ValueError(f"count must be at most the {len(times) - 1} calls of these times, got {count}")
        if float(times[0]) > float(times[-1]):
            raise ValueError(f"times must run from noise to data, got {float(times[0]):g} to {float(times[-1]):g}")
        return cls(float(times[-1 - count]), float(times[-1]), edit=edit)

    def _forget(self) -> None:
        self._count, self._mean, self._squares = 0, None, None

    def rows(self, start: int, stop: int) -> TrajectoryVariance:
        """What looks on at rows start .. stop - 1 for this one: the sampler asks for it, batch by batch."""
        inner = self.edit.rows(start, stop) if callable(getattr(self.edit, "rows", None)) else self.edit
        part = TrajectoryVariance(self.begin, self.end, edit=inner)
        if start == 0:
            self._parts.clear()
            self._forget()
        self._parts[start] = part
        return part

    def __call__(self, data: Float[Tensor, "batch *event"], x: Tensor, t: Any) -> Float[Tensor, "batch *event"]:
        """The prediction as it is, or as the other edit leaves it."""
        if isinstance(t, Tensor) and t.ndim:
            raise ValueError(f"t must be one number for all samples, got shape {tuple(t.shape)}: this rule gives each a time of its own")
        if self.begin <= float(t) <= self.end:
            self._add(data.detach().double())
        return data if self.edit is None else self.edit(data, x, t)

    def _add(self, value: Tensor) -> None:
        if self._mean is None:
            self._mean, self._squares = torch.zeros_like(value), value.new_zeros(len(value))
        if value.shape != self._mean.shape:
            raise ValueError(f"data must keep their shape {tuple(self._mean.shape)} during a run, got {tuple(value.shape)}")
        self._count += 1
        gap = value - self._mean
        self._mean.add_(gap, alpha=1 / self._count)
        self._squares += (gap * (value - self._mean)).reshape(len(value), -1).mean(1)

    @property
    def count(self) -> int:
        """How many predictions of each sample the window has seen."""
        return min(part.count for part in self._parts.values()) if self._parts else self._count

    @property
    def variance(self) -> Float64[Tensor, " rows"]:
        """Hal(x) of each sample of the run, (rows,), float64."""
        if self._parts:
            return torch.cat([self._parts[start].variance for start in sorted(self._parts)])
        if self._count < 2:
            raise ValueError(f"begin and end must leave at least 2 predictions of a run between them, got {self._count} in [{self.begin:g}, {self.end:g}]")
        return self._squares / self._count
