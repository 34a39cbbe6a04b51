r"""One start for all: where a flow is followed without noise, its end is a function h(z, y) of start and condition, and z can be chosen once.

  z* = argmin_{z in Z} mean_{(x, y) in R} d(h(z, y), x)

over random starts Z and a few pairs R whose truth x is known; z* then serves every later condition, as the ranking of the starts hardly depends on it.

Paper: Ma et al., Solving diffusion ODEs with optimal boundary conditions for better image super-resolution, 2023, arXiv:2305.15357.
The distance decides what is chosen: by a squared error blurred results are the best, and the start z = 0, which is none of the candidates, may beat
them all; the paper takes a perceptual distance.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from rheos.core import Draws, checks

__all__ = ["Boundary", "best_boundary", "boundary_scores", "rms_distance"]

SAME_TO = 1e-3          # by how much two rows of one batch may differ, of their size, before the sampler counts as stochastic


class Boundary(NamedTuple):
    """The chosen start (*event), its mean distance, and the candidates (count, *event) with theirs (count,), smaller is better."""

    start: Tensor
    score: float
    scores: Tensor
    starts: Tensor
    index: int


def rms_distance(x: Float[Tensor, "rows *event"], y: Float[Tensor, "rows *event"]) -> Float[Tensor, " rows"]:
    """Root mean square difference of each pair of rows, (rows,)."""
    return (x - y).flatten(1).square().mean(1).sqrt()


def boundary_scores(generate: Callable[[Tensor, Any], Tensor], starts: Float[Tensor, "count *start"], references: tuple[Tensor, Any], *,
                    distance: Callable[[Tensor, Tensor], Tensor] = rms_distance, batch: int = 256) -> Float[Tensor, " count"]:
    """The mean distance to the truth of what each start becomes under the conditions, (count,). See `best_boundary`."""
    truth, conditions = _references(references)
    batch = checks.integer("batch", batch, least=1)
    if not callable(generate):
        raise TypeError(f"generate must be callable as generate(z, y), got {type(generate).__name__}")
    if not len(checks.tensor("starts", starts, floating=True)):
        raise ValueError("starts must hold at least one start, got none")
    at_once, scores = max(1, batch // len(truth)), []
    with torch.no_grad():
        for some in starts.split(at_once):
            parts = []
            for first in range(0, len(truth), batch):
                rows = min(batch, len(truth) - first)
                z = some.repeat_interleave(rows, 0)
                x = _generated(generate, z, _times(_cut(conditions, first, rows), len(some)))
                found = distance(x, truth[first : first + rows].repeat(len(some), *(1,) * (truth.ndim - 1)))
                if not isinstance(found, Tensor) or found.shape != (len(z),):
                    raise ValueError(f"distance must return one number a pair, ({len(z)},), "
                                     f"got {tuple(found.shape) if isinstance(found, Tensor) else found!r}")
                parts.append(found.reshape(len(some), rows))
            scores.append(torch.cat(parts, 1).mean(1))
    return checks.finite("the distances", torch.cat(scores))


def best_boundary(generate: Callable[[Tensor, Any], Tensor], references: tuple[Tensor, Any], candidates: int | Tensor = 100, *,
                  shape: Sequence[int] | None = None, distance: Callable[[Tensor, Tensor], Tensor] = rms_distance, batch: int = 256,
                  seed: int | Draws = 0) -> Boundary:
    """The start that, under all conditions of `references` alike, comes nearest to their truth.

    generate: (starts (rows, *shape), conditions (rows, ...)) -> samples (rows, *event), by a rule without noise: it is called twice with rows that are
        alike, and refused if they end differently.
    references: (truth (pairs, *event), conditions), a tensor or a dict of tensors, (pairs, ...) each. Keep other pairs to judge the choice.
    candidates: how many standard normal starts are tried, or these starts themselves, (count, *shape). shape: of a start; without it, that of the truth.
    distance: (samples, truth) -> (rows,), smaller is better. batch: rows at once.

    Cost: candidates x pairs generated samples. ValueError for a stochastic `generate` and for shapes that do not fit.

    >>> truth = torch.tensor([[1.0], [2.0]])
    >>> best_boundary(lambda z, y: y + z, (truth, truth), candidates=torch.tensor([[3.0], [-0.1], [0.4]])).start
    tensor([-0.1000])
    """
    truth, conditions = _references(references)
    if isinstance(candidates, Tensor):
        starts = checks.finite("candidates", checks.tensor("candidates", candidates, floating=True))
        if starts.ndim < 1 or not len(starts):
            raise ValueError(f"candidates must hold at least one start, got shape {tuple(starts.shape)}")
    else:
        event = tuple(truth.shape[1:]) if shape is None else tuple(checks.integer("shape", size, least=1) for size in shape)
        starts = Draws.of(seed).rows("boundary", 0, (checks.integer("candidates", candidates, least=1), *event), dtype=truth.dtype, device=truth.device)
    if not callable(generate):
        raise TypeError(f"generate must be callable as generate(z, y), got {type(generate).__name__}")
    # Seeded noise differs from row to row, other noise from call to call.
    with torch.no_grad():
        twins = torch.cat([_generated(generate, starts[:1].repeat(2, *(1,) * (starts.ndim - 1)), _times(_cut(conditions, 0, 1), 2)) for _ in range(2)])
    spread = float((twins - twins[:1]).abs().max())
    if spread > SAME_TO * max(float(twins.abs().max()), 1e-30):
        raise ValueError(f"generate must be deterministic for a start to mean anything: the same start and condition ended {spread:.3g} apart; "
                         "use a rule without noise")
    scores = boundary_scores(generate, starts, (truth, conditions), distance=distance, batch=batch)
    index = int(scores.argmin())
    return Boundary(starts[index].clone(), float(scores[index]), scores, starts, index)


def _references(references: Any) -> tuple[Tensor, Any]:
    if not isinstance(references, tuple) or len(references) != 2:
        raise TypeError(f"references must be a pair (truth, conditions), got {type(references).__name__}")
    truth, conditions = references
    checks.tensor("references[0]", truth, floating=True)
    if not len(truth):
        raise ValueError("references must hold at least one pair, got none")
    for value in conditions.values() if isinstance(conditions, dict) else (conditions,):
        if not isinstance(value, Tensor) or value.ndim < 1 or len(value) != len(truth):
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"references must hold one condition a truth, {len(truth)}, got {got}")
    return truth, conditions


def _generated(generate: Callable[[Tensor, Any], Tensor], z: Tensor, y: Any) -> Tensor:
    x = generate(z, y)
    if not isinstance(x, Tensor) or len(x) != len(z):
        raise ValueError(f"generate must return {len(z)} samples, one a start, got {tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__}")
    return x


def _cut(y: Any, first: int, rows: int) -> Any:
    return {name: value[first : first + rows] for name, value in y.items()} if isinstance(y, dict) else y[first : first + rows]


def _times(y: Any, count: int) -> Any:
    """Conditions (rows, ...) again and again, one round for each of `count` starts."""
    if isinstance(y, dict):
        return {name: _times(value, count) for name, value in y.items()}
    return y.repeat(count, *(1,) * (y.ndim - 1))
