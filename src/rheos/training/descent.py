"""Ordinary training: one network going down one loss, as a one-player `Game`."""
from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import Adam, Optimizer

from rheos.core import Draws, Example, checks
from rheos.training.averaging import Average
from rheos.training.game import Game, GameState, Player, _seeded

__all__ = ["Descent"]


@dataclass(frozen=True, eq=False)
class Descent:
    """net <- net - rate * gradient of objective(net, minibatch), by any torch optimiser.

    objective: (net, batch, seed=Draws, step=int) -> an object with `.value`, or a scalar tensor; see `rheos.objectives`.
    coupling: `sample(n, seed=, step=)` gives a minibatch; see `rheos.couplings`. batch: rows of a minibatch.
    device: minibatches are moved there. The other settings are those of `Player` and `Game`.

    >>> from rheos.core import evolve
    >>> class Line:
    ...     def sample(self, n, *, seed, step):
    ...         return seed.rows("x", step, (n, 1))
    >>> fit = Descent(lambda net, x, **_: (net(x) - 3 * x).square().mean(), Line(), batch=32, optimizer=partial(torch.optim.SGD, lr=0.1))
    >>> round(evolve(fit, fit.init(torch.nn.Linear(1, 1)), 100).net.weight.item(), 3)
    3.0
    """

    objective: Callable[..., Any]
    coupling: Any
    batch: int = 256
    optimizer: Callable[[Any], Optimizer] = partial(Adam, lr=1e-3)
    rate: Callable[[int], float] | None = None
    average: Average | None = None
    clip: float | None = None
    accumulate: int = 1
    autocast: torch.dtype | None = None
    project: Callable[[nn.Module], None] | None = None
    hooks: tuple[Any, ...] = ()
    seed: int | Draws = 0
    finite_every: int | None = None
    device: torch.device | str | None = None

    def __post_init__(self):
        checks.integer("batch", self.batch, least=1)
        objective = self.objective
        player = Player(lambda nets, batch, **draws: objective(nets["net"], batch, **draws), self.optimizer, self.rate, 1, self.average, self.clip,
                        self.accumulate, self.autocast, self.project, self.hooks)
        object.__setattr__(self, "_game", Game({"net": player}, self._minibatch, self.seed, self.finite_every))

    def _minibatch(self, *, seed: Draws, step: int) -> Any:
        batch = self.coupling.sample(self.batch, seed=seed, step=step)
        return batch if self.device is None else batch.to(self.device)

    def init(self, net: nn.Module) -> DescentState:
        """The state at step 0; `evolve` trains a copy of `net` unless the state is donated."""
        return DescentState(**vars(self._game.init({"net": net})))

    def step(self, state: DescentState) -> DescentState:
        return self._game.step(state)

    @classmethod
    def examples(cls) -> list[Example]:
        """A network with dropout and batch norm, with every setting in use; and a line that must be found."""

        class Points:
            def sample(self, n: int, *, seed: Draws, step: int) -> torch.Tensor:
                return seed.rows("x", step, (n, 3), dtype=torch.float32)

        from rheos.training.rates import Cosine

        net = _seeded(lambda: nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Tanh(), nn.Linear(8, 2)))
        goal = torch.tensor([[1.0, -2.0, 0.5], [0.3, 0.0, 4.0]])
        error = lambda net, x, **_: (net(x) - x @ goal.T).square().mean()
        full = cls(error, Points(), 16, partial(Adam, lr=1e-2, fused=True), Cosine(8, 2), Average(0.9), 1.0, 2, seed=7, finite_every=2)
        plain = cls(error, Points(), 64, partial(torch.optim.SGD, lr=0.2), seed=7)
        line = _seeded(lambda: nn.Linear(3, 2))
        return [Example(full, full.init(net), 6, name="dropout and batch norm"),
                Example(plain, plain.init(line), 150, lambda s: (s.net.weight, goal), 1e-3, name="line")]


@dataclass
class DescentState(GameState):
    """A `GameState` of one player, whose parts have names of their own."""

    @property
    def net(self) -> nn.Module:
        return self.nets["net"]

    @property
    def averaged(self) -> nn.Module:
        """The averaged network, or the network itself if none is kept."""
        return self.averages.get("net", self.nets["net"])

    @property
    def loss(self) -> torch.Tensor:
        """The last minibatch's loss (), nan before the first step."""
        return self.losses.get("net", torch.tensor(torch.nan))

    @property
    def norm(self) -> torch.Tensor:
        """The last gradient norm (), before clipping; nan before the first step."""
        return self.norms.get("net", torch.tensor(torch.nan))


def known_settings(owner: str, settings: Iterable[str], *own: str) -> None:
    """ValueError for a setting that is none of `Descent`, or one of its `own` that `owner` gives itself."""
    for name in settings:
        checks.one_of(f"a setting of {owner}", name, [f.name for f in fields(Descent) if f.name not in ("objective", "coupling", *own)])
