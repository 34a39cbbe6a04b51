"""Reflow: a flow's own starts and ends as pairs. Z1 = the end of dZ = v(Z, t) dt from Z0.

Paper: Liu, Gong and Liu, Flow Straight and Fast, 2022, arXiv:2209.03003. The law of Z1 is what the flow makes of the source's; of an exact
flow of a coupling (X0, X1) it is the law of X1, and E c(Z1 - Z0) <= E c(X1 - X0) for every convex c. The pairing is deterministic: a
network trained on it regresses a map instead of an average, and the new flow is straighter.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from rheos.core import Draws, checks
from rheos.couplings.paired import Paired
from rheos.couplings.pairs import checked_law, checked_rows, rows_of
from rheos.paths import Field, Path

__all__ = ["Reflow"]


class Reflow(Paired):
    """Pairs (x0, integrate(field, start)), made once, here, and then kept.

    field: any field. source: where flows begin: a tensor (rows, *event), anything with `sample(n, seed=...)`, or None for the
        path's noise in the field's event shape. integrate: (field, x) -> x, from samplers, which live above this room, for instance
        `lambda field, x: sample(field, start=x, rule=RungeKutta(2), steps=50)`; with conditions it is called as integrate(field, x, cond).
        Integrate finely: a coarse rule's ends (Euler in 1 to 4 steps) are not the flow's, and the pairs keep that error for good.
    n: pairs; may be left out for a tensor source, whose rows are then all used, each once (a smaller n takes a random part of them).
    cond: one row a pair, or a row of a tensor source. batch: rows that are integrated at a time.

    On a one-sided path x0 stands for the path's unit noise z, and the flow starts at c(t) z, t being the start of the path's interval.
    `source`, `target` and `cond` are then the pairs' tensors. No gradient is recorded. ValueError where shapes or counts do not fit, and
    where an end is not finite.
    """

    exempt: ClassVar[dict[str, str]] = {}

    def __init__(self, field: Field, source: Any, integrate: Callable[..., Tensor], n: int | None = None, *, seed: int | Draws = 0, cond: Any = None,
                 batch: int = 1024):
        _checked(field, integrate)
        x0, cond = _starts(field, source, n, cond, Draws.of(seed))
        super().__init__(x0, _ends(field, lambda rows: _placed(field.path, x0[rows]), len(x0), integrate, cond, batch), cond)

    @classmethod
    def inverted(cls, field: Field, target: Tensor, integrate: Callable[..., Tensor], *, cond: Any = None, batch: int = 1024) -> Reflow:
        """Pairs (integrate(field, x), x) of given data, from data back to noise: their ends are data, where a flow's own ends only resemble them.

        target: data (rows, *event). integrate: as above, but from the end of the path to its start, for instance
            `lambda field, x: sample(field, start=x, rule=RungeKutta(2), times=Times.uniform(field.path, 50).reversed())`, or `invert(field, x).x`.
        On a one-sided path x0 is what it gives, over c(t) at the start of the interval. Mix them with the usual ones by `+`, as Lee et al. do
        (2024, arXiv:2405.20320). Where the flow is not exact these starts are only nearly noise. ValueError as above.
        """
        _checked(field, integrate)
        checks.tensor("target", checked_law("target", target), floating=True)
        checked_rows(cond, "target", len(target))
        x0 = _ends(field, lambda rows: target[rows], len(target), integrate, cond, batch)
        if not field.path.two_sided:
            x0 = x0 / float(field.path.coefficients(field.path.interval[0]).c)
        made = cls.__new__(cls)
        Paired.__init__(made, x0, target, cond)
        return made

    @classmethod
    def examples(cls) -> list[Reflow]:
        """The exact flow of standard normal noise to three tilted Gaussians, and that of the line with conditions, both by fine Euler steps."""
        from rheos.data import skewed
        from rheos.paths import ExactField

        def integrate(field: Field, x: Tensor, cond: Any = None) -> Tensor:
            for k in range(40):
                x = x + field.velocity(x, k / 40) / 40
            return x

        field = ExactField(Path.linear(), skewed())
        noise = Draws(5).rows("noise", 0, (60, 2), dtype=torch.float64)
        return [cls(field, None, integrate, 60, seed=1, batch=25), cls(field, noise, integrate, cond=torch.arange(60))]


def _checked(field: Any, integrate: Any) -> None:
    if not isinstance(field, Field):
        raise TypeError(f"field must be a Field, got {type(field).__name__}; wrap a network as Field(net, path, predicts)")
    if not callable(integrate):
        raise TypeError(f"integrate must be callable as integrate(field, x), got {type(integrate).__name__}")


@torch.no_grad()
def _ends(field: Field, start_of: Callable[[Tensor], Tensor], count: int, integrate: Callable[..., Tensor], cond: Any, batch: int) -> Tensor:
    """Where `count` flows end, `batch` at a time. ValueError for ends of another shape, and for ends that are not finite."""
    ends = []
    for rows in torch.arange(count).split(checks.integer("batch", batch, least=1)):
        start = start_of(rows)
        end = integrate(field, start) if cond is None else integrate(field, start, rows_of(cond, rows))
        if checks.tensor("the result of integrate", end).shape != start.shape:
            raise ValueError(f"integrate must return the shape of x, {tuple(start.shape)}, got {tuple(end.shape)}")
        ends.append(checks.finite("the result of integrate", end))
    return torch.cat(ends)


def _placed(path: Path, x0: Tensor) -> Tensor:
    """x0 where a flow on this path begins."""
    if path.two_sided:
        return x0
    t = torch.full((len(x0),), path.interval[0], dtype=torch.float64, device=x0.device)
    return path.sample(torch.zeros_like(x0), t, z=x0).x


def _starts(field: Field, source: Any, n: int | None, cond: Any, draws: Draws) -> tuple[Tensor, Any]:
    """Where flows begin, (n, *event), and the conditions that go with them."""
    if n is not None:
        n = checks.integer("n", n, least=1)
    if isinstance(checked_law("source", source) if source is not None else None, Tensor):
        checked_rows(cond, "source", len(source))
        if n is None or n == len(source):
            return source, cond
        if n > len(source):
            raise ValueError(f"n must be at most {len(source)}, the rows of source, got {n}")
        rows = draws.permutation("reflow rows", 0, len(source), device=source.device)[:n]
        return source.index_select(0, rows), rows_of(cond, rows)
    if n is None:
        raise ValueError("n must be given: a source that is not a tensor does not tell how many pairs to make")
    checked_rows(cond, "pairs", n)
    if source is not None:
        return source.sample(n, seed=draws.child("reflow source")), cond
    if field.path.two_sided:
        raise ValueError("source must be given: a two-sided path has no noise to begin at")
    if field.event is None:
        raise ValueError("source must be given: this network does not tell the shape of a sample")
    return field.path.noise.draw((n, *field.event), seed=draws, purpose="reflow noise", like=field.like), cond
