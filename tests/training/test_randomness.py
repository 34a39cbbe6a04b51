"""Randomness inside training: streams of scopes, children and players are apart; a game that fails at once is as good as new."""
import math
from functools import partial
from itertools import combinations

import pytest
import torch
from torch import nn

from rheos.core import Draws, NonFinite
from rheos.core.states import same
from rheos.training import Average, Cosine, Game, Player

N = 4096


def inside(draws, step):
    with draws.scope(step):
        return torch.randn(N, dtype=torch.float64)


# -- scopes --------------------------------------------------------------------------------------------------------------------------

def test_scopes_differ_with_the_seed_the_step_and_the_child(seed):
    """Streams are standard normal and pairwise uncorrelated: a mean of n products is off by 1 / sqrt(n)."""
    draws = Draws(seed)
    streams = {"plain": inside(draws, 3), "seed": inside(Draws(seed + 1), 3), "huge seed": inside(Draws(seed + 2**40), 3), "step": inside(draws, 4),
               "child": inside(draws.child("a"), 3), "sister": inside(draws.child("b"), 3), "number": inside(draws.child(0), 3),
               "child of the seed": inside(Draws(seed + 1).child("a"), 3), "grandchild": inside(draws.child("a").child("a"), 3)}
    for name, stream in streams.items():
        assert abs(float(stream.mean())) < 5 / math.sqrt(N) and abs(float(stream.var()) - 1) < 5 * math.sqrt(2 / N), name
    for (one, a), (other, b) in combinations(streams.items(), 2):
        assert abs(float((a * b).mean())) < 5 / math.sqrt(N), (one, other)


def test_scopes_repeat_and_leave_the_outer_stream_alone(seed):
    torch.manual_seed(seed)
    untouched = torch.rand(6)
    torch.manual_seed(seed)
    first = torch.rand(3)
    a = inside(Draws(seed), 3)
    with pytest.raises(RuntimeError, match="inside"), Draws(seed).scope(9):
        torch.rand(50)
        raise RuntimeError("inside")
    assert torch.equal(torch.cat([first, torch.rand(3)]), untouched)
    assert torch.equal(inside(Draws(seed), 3), a) and torch.equal(inside(Draws(Draws(seed).seed), 3), a)


# -- players -------------------------------------------------------------------------------------------------------------------------

class Dropping(nn.Module):
    """Remembers its dropout masks, as rows of 0 and 1."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))
        self.dropout = nn.Dropout(0.5)
        self.masks = []

    def forward(self, x):
        kept = self.dropout(torch.ones(N))
        self.masks.append((kept > 0).double())
        return x * self.weight * kept.mean()


def masks_of(seed, steps=2, **players):
    """Each player's masks, when it moves on a loss of its own network alone."""
    loss = lambda name: lambda nets, x, *, seed, step: nets[name](x).square().mean()
    game = Game({name: Player(loss(name), optimizer=partial(torch.optim.SGD, lr=0.0), **kinds) for name, kinds in players.items()},
                lambda *, seed, step: seed.rows("x", step, (4, 1), dtype=torch.float32), seed=seed)
    nets = {name: Dropping() for name in players}
    state = game.init(nets)
    for _ in range(steps):
        state = game.step(state)
    return {name: net.masks for name, net in nets.items()}


def test_players_drop_out_apart(seed):
    """Two masks of one half agree in half of their places, give or take 5 standard errors of 1 / (2 sqrt n): the same stream would agree in all."""
    seen = masks_of(seed, fit={}, critic={"accumulate": 2})
    every = {(name, i): mask for name, masks in seen.items() for i, mask in enumerate(masks)}
    assert len(every) == 2 + 4
    for (one, a), (other, b) in combinations(every.items(), 2):
        assert abs(float((a == b).double().mean()) - 0.5) < 5 * 0.5 / math.sqrt(N), (one, other)
    for one, a in every.items():
        assert abs(float(a.mean()) - 0.5) < 5 * 0.5 / math.sqrt(N), one


def test_a_players_dropout_is_its_own_whoever_plays_with_it(seed):
    """A stream belongs to the seed, the name and the step: not to the order of play, nor to how often the others move."""
    masks = masks_of(seed, fit={}, critic={})
    turned = masks_of(seed, critic={"every": 2}, other={}, fit={})
    for step in (0, 1):
        assert torch.equal(masks["fit"][step], turned["fit"][step])
    assert torch.equal(masks["critic"][0], turned["critic"][0]) and len(turned["critic"]) == 1
    assert not torch.equal(masks_of(seed + 1, fit={}, critic={})["fit"][0], masks["fit"][0])


# -- a failure at the very first step ------------------------------------------------------------------------------------------------

GOAL = torch.tensor([[1.0], [-2.0], [0.5]])


def duel(broken):
    """Three players with Adam; the last one's loss is not a number at the first step for as long as `broken` holds something."""
    def fit(nets, x, *, seed, step):
        return (nets["fit"](x) - x @ GOAL).square().mean()

    def chase(nets, x, *, seed, step):
        return (nets["chaser"](x) - nets["fit"](x)).square().mean() + nets["chaser"][0].weight.square().mean()

    def last(nets, x, *, seed, step):
        return (nets["last"](x) - 2 * nets["chaser"](x)).square().mean() * (float("nan") if broken else 1.0)

    net = lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.3), nn.Linear(4, 1))
    game = Game({"fit": Player(fit, partial(torch.optim.Adam, lr=0.05), Cosine(20, 4), average=Average(0.8)), "chaser": Player(chase, partial(torch.optim.AdamW, lr=0.03), clip=1.0),
                 "last": Player(last, partial(torch.optim.SGD, lr=0.1, momentum=0.9))},
                lambda *, seed, step: seed.rows("x", step, (16, 3), dtype=torch.float32) + torch.tensor([0.5, -1.0, 2.0]), seed=6)
    with Draws(1).scope(0):
        return game, game.init({name: net() for name in game.players})


def test_after_a_first_step_that_fails_optimisers_are_empty_and_all_is_as_before():
    game, state = duel(broken=[True])
    untouched = duel(broken=[])[1]
    with pytest.raises(NonFinite, match="loss of last is nan at step 0"):
        game.step(state)
    assert {name: len(optimizer.state) for name, optimizer in state.optimizers.items()} == {"fit": 0, "chaser": 0, "last": 0}
    assert state.losses == {} and state.norms == {} and state.step == 0
    assert same(state, untouched) is None


def test_a_game_goes_on_after_its_first_step_failed_as_if_nothing_had_been():
    """Adam's moments and step numbers of the lost step would show in the first move."""
    broken = [True]
    game, state = duel(broken)
    with pytest.raises(NonFinite):
        game.step(state)
    broken.clear()
    whole_game, whole = duel(broken=[])
    for _ in range(4):
        state, whole = game.step(state), whole_game.step(whole)
    assert same(state, whole) is None and state.step == 4
    assert all(int(entry["step"]) == 4 for entry in state.optimizers["fit"].state.values())


def test_a_later_failure_keeps_what_the_optimisers_had_learned():
    broken = []
    game, state = duel(broken)
    whole_game, whole = duel(broken=[])
    for _ in range(2):
        state, whole = game.step(state), whole_game.step(whole)
    broken.append(True)
    with pytest.raises(NonFinite, match="at step 2"):
        game.step(state)
    assert same(state, whole) is None and all(int(entry["step"]) == 2 for entry in state.optimizers["fit"].state.values())
