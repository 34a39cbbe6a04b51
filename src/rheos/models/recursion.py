"""Training on one's own samples: what a model makes of data when each generation learns from the one before.

  generation 1 learns the data, generation k + 1 the samples that generation k hands on, all of them or those that a filter keeps.

Samples between modes become data of the next generation, so that they multiply; a filter that drops the likeliest of them holds this up.

Paper: Aithal, Maini, Lipton and Kolter, Understanding hallucinations in diffusion models through mode interpolation, 2024, arXiv:2406.09358, section 6.
"""
from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rheos.core import Draws, checks
from rheos.guidance.variance_filter import Draw, Filtered
from rheos.models.learn import train
from rheos.models.model import Model
from rheos.samplers import AdaptiveRungeKutta, Rule, sample

__all__ = ["Generation", "recursive_training"]

Filter = Callable[[Draw, int], Filtered]
BATCH = 4096        # samples that are drawn at a time


class Generation(NamedTuple):
    """A model and what it handed on, x (rows, *event) in the data's units; rows (rows,), their numbers among the samples it drew."""

    model: Model
    x: Tensor
    rows: Tensor


def recursive_training(
    data: Float[Tensor, "rows *event"],
    net_factory: Callable[[], nn.Module],
    generations: int = 5,
    *,
    choose: Filter | None = None,
    first: Model | None = None,
    rows: int | None = None,
    rule: Rule | AdaptiveRungeKutta | None = None,
    sampling_steps: int = 20,
    seed: int | Draws = 0,
    **settings: Any,
) -> list[Generation]:
    """The generations, first to last.

    data: what the first one learns; no class. net_factory: () -> network, called once a generation.
    choose: (draw, n) -> `Filtered`, such as `VarianceFilter(0.96)` or `RandomFilter(0.96)`; None hands on all that is drawn.
    first: a model of the data, to be generation 1 without training.
    rows: how many samples are handed on (as many as the data). rule, sampling_steps: see `rheos.sample`. settings: of `rheos.train`, for each generation.

    Every generation has draws of its own; arms that differ in `choose` alone share their first network, bit for bit. ValueError for generations, rows or steps
    below 1. Ctrl-C during a training ends it early, with a warning, and the next generation learns from what it has become.

    >>> from rheos.data import GaussianMixture
    >>> from rheos.nets import ResidualMLP
    >>> data = GaussianMixture.points(torch.tensor([[-1.0], [1.0]]), std=0.1).sample(200).float()
    >>> made = recursive_training(data, lambda: ResidualMLP((1,), width=8, depth=1), 2, rows=50, sampling_steps=3, steps=5)
    >>> [generation.x.shape for generation in made]
    [torch.Size([50, 1]), torch.Size([50, 1])]
    """
    generations, draws = checks.integer("generations", generations, least=1), Draws.of(seed)
    if not isinstance(data, Tensor):
        raise TypeError(f"data must be a tensor (rows, *event), got {type(data).__name__}")
    if first is not None and not isinstance(first, Model):
        raise TypeError(f"first must be a Model, got {type(first).__name__}")
    rows = len(data) if rows is None else checks.integer("rows", rows, least=1)
    for name, value in (("net_factory", net_factory), *((("choose", choose),) if choose is not None else ())):
        if not callable(value) or isinstance(value, type) and name == "choose":
            raise TypeError(f"{name} must be callable, got {value!r}")
    made: list[Generation] = []
    for k in range(generations):
        family = draws.child(f"generation {k + 1}")
        if k == 0 and first is not None:
            model = first
        else:
            with family.scope(0):
                net = net_factory()
            if not isinstance(net, nn.Module):
                raise TypeError(f"net_factory must return a network, got {type(net).__name__}")
            model = train(data, net, seed=family, **settings)

        def draw(count: int, edit: Any, model: Model = model, family: Draws = family) -> Tensor:
            x = sample(model.field, count, shape=model.event, rule=rule, steps=sampling_steps, batch=BATCH, seed=family, edit=edit)
            return model.transform.inverse(x)

        # One filter for all generations, which must not keep the same rows of each: its draw is.
        chosen = Filtered(draw(rows, None), torch.arange(rows), None) if choose is None else choose(draw, rows)
        if not isinstance(chosen, Filtered):
            raise TypeError(f"choose must return a Filtered, got {type(chosen).__name__}")
        x, kept, _ = chosen
        made.append(Generation(model, x, kept))
        data = x
    return made
