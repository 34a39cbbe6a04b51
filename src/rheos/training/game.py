"""Several learners, one clock: `Game` of `Player`s. Ordinary training is the one-player case, `Descent`."""
from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, runtime_checkable
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from rheos.core import Draws, Example, NonFinite, checks
from rheos.training.averaging import Average

__all__ = ["Game", "GameState", "Hook", "Player"]

_NOTHING = contextlib.nullcontext()
DEVICE_FINITE_EVERY = 50     # away from the CPU, reading a figure stalls the device: look this often


@runtime_checkable
class Hook(Protocol):
    """May have `gradients(net, step)`, called after the backward pass and before clipping, and `parameters(net, step)`, after the move."""


@dataclass(frozen=True, eq=False)
class Player:
    """Who learns what.

    loss: (nets, batch, seed=Draws, step=int) -> an object with `.value`, or a scalar tensor; `nets` maps the players' names to modules.
        While a player moves, the other players' parameters take no gradient.
    optimizer: parameters -> torch optimiser. rate: step -> factor on its learning rate. every: moves on steps divisible by it.
    average: keeps an averaged copy in the state. clip: largest gradient norm. accumulate: minibatches a move. autocast: dtype of the
    forward pass. project: net -> None, called after each move (a ball, a clamp, a sphere). hooks: see `Hook`.
    """

    loss: Callable[..., Any]
    optimizer: Callable[[Any], Optimizer] = partial(Adam, lr=1e-3)
    rate: Callable[[int], float] | None = None
    every: int = 1
    average: Average | None = None
    clip: float | None = None
    accumulate: int = 1
    autocast: torch.dtype | None = None
    project: Callable[[nn.Module], None] | None = None
    hooks: tuple[Any, ...] = ()

    def __post_init__(self):
        checks.integer("every", self.every, least=1)
        checks.integer("accumulate", self.accumulate, least=1)
        if self.rate is not None and not callable(self.rate):
            raise TypeError(f"rate must be a function of the step such as Cosine(1000), got {self.rate!r}; the optimiser has the learning rate itself")
        if self.clip is not None:
            checks.positive("clip", self.clip)


@dataclass
class GameState:
    """Networks, their optimisers and averaged copies, by player; the last losses and gradient norms; the step number.

    held: whether a non-finite step has been held back on the device and not yet been reported, and first_held: which step that was.
    """

    nets: dict[str, nn.Module]
    optimizers: dict[str, Optimizer]
    averages: dict[str, nn.Module]
    losses: dict[str, Tensor] = field(default_factory=dict)
    norms: dict[str, Tensor] = field(default_factory=dict)
    held: Tensor | None = None
    first_held: Tensor | None = None
    step: int = 0


@dataclass(frozen=True, eq=False)
class Game:
    """One step: a minibatch, and each player in turn moves on its loss.

    players: by name, in the order of their moves. batch: (seed=Draws, step=int) -> minibatch. seed: of everything random; networks with
    dropout are called inside `Draws.scope`. finite_every: how often losses and gradient norms are read to see that they are finite. 1
    reads them before each move, which then never happens if they are not; above 1 the move is held back on the device, without a
    synchronisation, and reported when the figures are next read (needs a fused optimiser). None: 1 on the CPU, 50 elsewhere.

    NonFinite leaves networks, buffers, optimisers and averages as they were before the step.
    """

    players: Mapping[str, Player]
    batch: Callable[..., Any]
    seed: int | Draws = 0
    finite_every: int | None = None

    def __post_init__(self):
        if not self.players:
            raise ValueError("a game needs at least one player")
        if self.finite_every is not None:
            checks.integer("finite_every", self.finite_every, least=1)
        object.__setattr__(self, "_draws", Draws.of(self.seed))      # kept, for what it has drawn ahead
        object.__setattr__(self, "_buffered", WeakKeyDictionary())

    def init(self, nets: Mapping[str, nn.Module]) -> GameState:
        """The state at step 0. ValueError if the names differ from the players', or a network has nothing to learn."""
        if set(nets) != set(self.players):
            raise ValueError(f"nets must be named like the players, {sorted(self.players)}, got {sorted(nets)}")
        optimizers, averages = {}, {}
        for name, player in self.players.items():
            parameters = [p for p in nets[name].parameters() if p.requires_grad]
            if not parameters:
                raise ValueError(f"net {name!r} has no parameter that requires a gradient")
            optimizers[name] = player.optimizer(parameters)
            for group in optimizers[name].param_groups:
                group.setdefault("initial_lr", group["lr"])
            if player.average is not None:
                averages[name] = player.average.start(nets[name])
        device = next(iter(nets.values())).parameters().__next__().device
        state = GameState(dict(nets), optimizers, averages)
        if self._finite_every(device, optimizers) > 1:
            state.held, state.first_held = torch.zeros((), device=device), torch.zeros((), device=device, dtype=torch.int64)
        return state

    def _finite_every(self, device: torch.device, optimizers: Mapping[str, Optimizer]) -> int:
        fused = all(group.get("fused") for o in optimizers.values() for group in o.param_groups)
        if self.finite_every is not None:
            if self.finite_every > 1 and not fused:
                raise ValueError(f"finite_every = {self.finite_every} needs an optimiser that can hold back a step on the device: pass fused=True to it")
            return self.finite_every
        return DEVICE_FINITE_EVERY if fused and device.type != "cpu" else 1

    def step(self, state: GameState) -> GameState:
        k, draws = state.step, self._draws
        moving = [(name, player) for name, player in self.players.items() if k % player.every == 0]
        # With one player nothing is changed before its figures are known to be finite, but for its buffers. Several change each other's.
        before = _Snapshot(state, [name for name, _ in moving]) if len(self.players) > 1 else None
        for name, player in moving:
            try:
                self._move(state, name, player, draws)
            except NonFinite:
                if before is not None:
                    before.put_back(state)
                raise
        if state.held is not None and (k + 1) % (self.finite_every or DEVICE_FINITE_EVERY) == 0 and bool(state.held):
            state.step = int(state.first_held)
            state.held.zero_()
            raise NonFinite(state.step, "a loss or gradient norm", "not finite")
        state.step = k + 1
        return state

    def _move(self, state: GameState, name: str, player: Player, draws: Draws) -> None:
        k, net, optimizer = state.step, state.nets[name], state.optimizers[name]
        parameters = optimizer.param_groups[0]["params"] if len(optimizer.param_groups) == 1 else [p for g in optimizer.param_groups for p in g["params"]]
        device = parameters[0].device
        if not net.training:
            net.train()
        buffers = [(b, b.clone()) for b in net.buffers()] if self._has_buffers(net) else []
        for p in parameters:
            p.grad = None
        value: Any = 0.0
        alone = len(self.players) == 1
        with _NOTHING if alone else _frozen(state.nets, name), (draws if alone else draws.child(name)).scope(k, device):
            for part in range(player.accumulate):
                sub = k * player.accumulate + part
                with torch.autocast(device.type, player.autocast) if player.autocast is not None else _NOTHING:
                    loss = player.loss(state.nets, self.batch(seed=draws, step=sub), seed=draws, step=sub)
                loss = getattr(loss, "value", loss)
                share = loss if player.accumulate == 1 else loss / player.accumulate
                share.backward()
                value = value + share.detach() if part else share.detach()
        for hook in player.hooks:
            if hasattr(hook, "gradients"):
                hook.gradients(net, k)
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients))) if gradients else torch.zeros((), device=device)
        if player.clip is not None and gradients:
            torch.nn.utils.clip_grads_with_norm_(parameters, player.clip, norm)
        hold = None
        if state.held is None:
            for figure, number in (("loss", value), ("gradient norm", norm)):
                if not math.isfinite(number):
                    _restore(buffers)
                    raise NonFinite(k, figure if len(self.players) == 1 else f"{figure} of {name}", float(number))
        else:
            bad = ~torch.isfinite(value + norm)
            state.first_held.copy_(torch.where(state.held.bool(), state.first_held, k))
            state.held.copy_(torch.maximum(state.held, bad.float()))
            hold = optimizer.found_inf = state.held
            for buffer, saved in buffers:
                buffer.copy_(torch.where(hold.bool(), saved, buffer))
        if player.rate is not None:
            factor = player.rate(k)
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * factor
        optimizer.step()
        if player.project is not None:
            player.project(net)
        for hook in player.hooks:
            if hasattr(hook, "parameters"):
                hook.parameters(net, k)
        if player.average is not None:
            player.average.update(state.averages[name], net, k, hold=hold)
        state.losses[name], state.norms[name] = value, norm

    def _has_buffers(self, net: nn.Module) -> bool:
        """Whether anything but parameters can change; asked of each network once, as the walk over its modules is slow."""
        if net not in self._buffered:
            self._buffered[net] = next(net.buffers(), None) is not None
        return self._buffered[net]

    @classmethod
    def examples(cls) -> list[Example]:
        """Two players that chase each other on a skewed saddle, with dropout and batch norm inside one of them."""
        torch_net = _seeded(lambda: nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Tanh(), nn.Linear(8, 1)))
        critic = _seeded(lambda: nn.Linear(3, 1))

        def data(*, seed: Draws, step: int) -> Tensor:
            return seed.rows("data", step, (16, 3), dtype=torch.float32) * torch.tensor([1.0, 2.0, 0.5])

        def fit(nets: Mapping[str, nn.Module], x: Tensor, *, seed: Draws, step: int) -> Tensor:
            return (nets["fit"](x) - nets["critic"](x)).square().mean()

        def disagree(nets: Mapping[str, nn.Module], x: Tensor, *, seed: Draws, step: int) -> Tensor:
            return -(nets["fit"](x) - nets["critic"](x)).square().mean() + nets["critic"].weight.square().sum()

        game = cls({"fit": Player(fit, average=Average(0.9), accumulate=2), "critic": Player(disagree, every=2, clip=1.0)}, data, seed=5)
        return [Example(game, game.init({"fit": torch_net, "critic": critic}))]


def _seeded(make: Callable[[], nn.Module]) -> nn.Module:
    with Draws(1).scope(0):
        return make()


def _restore(saved: list[tuple[Tensor, Tensor]]) -> None:
    for tensor, value in saved:
        tensor.data.copy_(value)


@contextlib.contextmanager
def _frozen(nets: Mapping[str, nn.Module], mover: str) -> Iterator[None]:
    """No other player's parameter takes a gradient, or a generator's loss would silently fill the critic's."""
    frozen = [p for name, net in nets.items() if name != mover for p in net.parameters() if p.requires_grad]
    for p in frozen:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in frozen:
            p.requires_grad_(True)


class _Snapshot:
    """All tensors of the players about to move, to put back if a later one of them fails."""

    def __init__(self, state: GameState, names: list[str]):
        self.losses, self.norms = dict(state.losses), dict(state.norms)
        self.tensors: list[tuple[Tensor, Tensor]] = [(b, b.clone()) for net in state.nets.values() for b in net.buffers()]
        self.fresh: list[Optimizer] = []
        self.groups = [(g, {k: v for k, v in g.items() if k != "params"}) for name in names for g in state.optimizers[name].param_groups]
        for name in names:
            held = [state.nets[name]] + ([state.averages[name]] if name in state.averages else [])
            values = [t for module in held for t in (*module.parameters(), *module.buffers())]
            optimizer = state.optimizers[name]
            if not optimizer.state:
                self.fresh.append(optimizer)
            values += [t for entry in optimizer.state.values() for t in entry.values() if isinstance(t, Tensor)]
            self.tensors += [(t, t.detach().clone()) for t in values]

    def put_back(self, state: GameState) -> None:
        _restore(self.tensors)
        for group, kept in self.groups:
            group.update(kept)
        state.losses, state.norms = self.losses, self.norms
        for optimizer in self.fresh:
            optimizer.state.clear()
