"""Training: equal to plain PyTorch, resumable with dropout and batch norm inside, untouched by a step that is not finite."""
from functools import partial

import pytest
import torch
from torch import nn

from rheos.core import Checkpoint, Draws, NonFinite, evolve, latest_checkpoint, load_state
from rheos.core.states import same
from rheos.couplings import Independent
from rheos.nets import ResidualMLP
from rheos.objectives import LogitNormal, Matching
from rheos.paths import Path
from rheos.training import Average, Cosine, Descent, Game, Player

GOAL = torch.tensor([[1.0, -2.0, 0.5], [0.3, 0.0, 4.0]])


class Points:
    def sample(self, n, *, seed, step):
        return seed.rows("x", step, (n, 3), dtype=torch.float32)


def error(net, x, **_):
    return (net(x) - x @ GOAL.T).square().mean()


def net_of(*layers):
    with Draws(3).scope(0):
        return nn.Sequential(nn.Linear(3, 8), *layers, nn.Tanh(), nn.Linear(8, 2))


# -- equality with plain PyTorch -----------------------------------------------------------------------------------------------

def test_a_step_is_what_plain_pytorch_does():
    """Adam, clipping, a schedule and averaging, spelt out by hand."""
    run = Descent(error, Points(), 32, partial(torch.optim.Adam, lr=0.02), Cosine(20, 5), Average(0.8), 0.5, seed=4)
    ours = evolve(run, run.init(net_of()), 12)
    net, slow = net_of(), net_of()
    optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
    for k in range(12):
        optimizer.param_groups[0]["lr"] = 0.02 * Cosine(20, 5)(k)
        loss = error(net, Draws(4).rows("x", k, (32, 3)))
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(net.parameters(), 0.5)
        optimizer.step()
        decay = min(0.8, (1 + k) / (10 + k))
        for s, p in zip(slow.parameters(), net.parameters(), strict=True):
            s.data = decay * s.data + (1 - decay) * p.data
    for a, b in zip(ours.net.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)
    for a, b in zip(ours.averaged.parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.loss, loss.detach())
    torch.testing.assert_close(ours.norm, norm)


def test_accumulated_minibatches_are_their_mean_gradient():
    sgd = partial(torch.optim.SGD, lr=0.1)

    class Halves(Points):
        def sample(self, n, *, seed, step):
            return seed.rows("x", step // 2, (2 * n, 3), dtype=torch.float32)[n * (step % 2) : n * (step % 2) + n]

    class Whole(Points):
        def sample(self, n, *, seed, step):
            return seed.rows("x", step, (n, 3), dtype=torch.float32)

    parts = Descent(error, Halves(), 16, sgd, accumulate=2)
    whole = Descent(error, Whole(), 32, sgd)
    a, b = evolve(parts, parts.init(net_of()), 4), evolve(whole, whole.init(net_of()), 4)
    for p, q in zip(a.net.parameters(), b.net.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def test_cosine_by_its_ends_and_its_middle():
    rate = Cosine(110, 10, 0.1)
    assert [rate(0), rate(9)] == pytest.approx([0.1, 1.0]) and rate(10) == 1.0
    assert rate(60) == pytest.approx(0.55) and rate(110) == pytest.approx(0.1) and rate(999) == pytest.approx(0.1)


def test_the_averaged_network_of_a_constant_one_is_it():
    slow = Average(0.9).start(nn.Linear(2, 2))
    fast = nn.Linear(2, 2)
    for k in range(300):
        Average(0.9).update(slow, fast, k)
    torch.testing.assert_close(slow.weight, fast.weight.detach())
    assert Average(0.999).decay_at(0) == 0.1 and Average(0.999).decay_at(10**6) == 0.999 and Average(0.9, warm_up=False).decay_at(0) == 0.9


# -- randomness and resuming -----------------------------------------------------------------------------------------------------

def flow(**kinds):
    """A flow-matching run with dropout and batch norm inside, condition dropout, averaging and a schedule."""
    x = Draws(0).rows("data", 0, (50, 3))
    coupling = Independent(x, cond=Draws(0).integers("y", 0, (50,), 4))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = ResidualMLP((3,), width=16, depth=1, classes=4, dropout=0.3)
            self.norm = nn.BatchNorm1d(3)

        def forward(self, x, t, cond=None):
            return self.inner(self.norm(x), t, cond)

    with Draws(1).scope(0):
        net = Net()
    run = Descent(Matching(Path.linear(), when=LogitNormal(), drop_condition=0.3), coupling, 16, partial(torch.optim.Adam, lr=1e-2, fused=True), Cosine(30), Average(0.9), 1.0,
                  seed=5, **kinds)
    return run, run.init(net)


def test_interrupted_is_uninterrupted_whatever_the_moment(tmp_path):
    run, start = flow()
    whole = evolve(run, start, 9)
    for cut in (1, 4, 8):
        folder = tmp_path / str(cut)
        first, begin = flow()
        evolve(first, begin, cut, watch=[Checkpoint(folder, 3)])
        torch.rand(cut * 7)                                 # the global stream is somewhere else by now
        again, fresh = flow()
        state = load_state(latest_checkpoint(folder), fresh)
        assert state.step == cut
        assert same(evolve(again, state, 9 - cut), whole) is None


def test_dropout_is_on_in_training_and_does_not_touch_the_global_stream():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    run, start = flow()
    a = evolve(run, start, 2)
    assert torch.equal(torch.get_rng_state(), before)
    other, begin = flow()
    begin.net.inner.blocks[0].dropout.p = 0.0
    assert same(evolve(other, begin, 2), a) is not None


def test_accumulated_parts_see_different_dropout():
    masks = []

    class Spy(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, x):
            masks.append(torch.rand(4))
            return x * self.weight

    run = Descent(lambda net, x, **_: net(x).mean(), Points(), 2, accumulate=2)
    evolve(run, run.init(Spy()), 2)
    assert len(masks) == 4 and all(not torch.equal(a, b) for i, a in enumerate(masks) for b in masks[:i])


def test_the_minibatch_is_a_function_of_the_step():
    x = torch.arange(10.0)[:, None]
    coupling = Independent(x, source=-x, cond={"row": torch.arange(10)})
    pair = coupling.sample(4, seed=3, step=5)
    again = coupling.sample(4, seed=3, step=5)
    assert torch.equal(pair.x1, again.x1) and torch.equal(pair.x1[:, 0].long(), pair.cond["row"]) and bool((pair.x0 <= 0).all())
    assert sorted(torch.cat([coupling.sample(5, seed=3, step=k).x1 for k in (0, 1)]).flatten().tolist()) == x.flatten().tolist()


# -- non-finite steps --------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("what", ["loss", "gradient norm"])
def test_a_step_that_is_not_finite_changes_nothing(what):
    def bad(net, x, *, step, **_):
        loss = error(net, x)
        if step != 3:
            return loss
        return loss * float("nan") if what == "loss" else loss + 0 * torch.sqrt(net[0].weight[0, 0] * 0)       # d sqrt(0) is infinite, 0 * inf is nan

    run = Descent(bad, Points(), 16, average=Average(0.9), seed=1)
    good = Descent(error, Points(), 16, average=Average(0.9), seed=1)
    three = evolve(good, good.init(net_of(nn.BatchNorm1d(8))), 3)
    with pytest.raises(NonFinite, match=f"{what} is nan at step 3") as caught:
        evolve(run, run.init(net_of(nn.BatchNorm1d(8))), 10)
    assert same(caught.value.state, three) is None


def test_a_later_players_failure_puts_the_earlier_ones_back():
    def run(fails):
        fine = lambda nets, x, *, seed, step: (nets["a"](x)).square().mean() + nets["b"](x).mean()
        bad = lambda nets, x, *, seed, step: fine(nets, x, seed=seed, step=step) * (float("inf") if fails and step == 2 else 1)
        game = Game({"a": Player(fine, average=Average(0.5)), "b": Player(bad)}, lambda *, seed, step: seed.rows("x", step, (4, 3)))
        with Draws(0).scope(0):
            return game, game.init({"a": nn.Linear(3, 1), "b": nn.Linear(3, 1)})

    game, start = run(False)
    two = evolve(game, start, 2)
    game, start = run(True)
    with pytest.raises(NonFinite, match="loss of b is -?inf at step 2") as caught:
        evolve(game, start, 5)
    assert same(caught.value.state, two) is None


def test_a_failed_step_of_a_game_changes_no_ones_buffers_or_rates():
    """Players call each other's networks, so a step that fails may have moved any batch norm; and the first to move has a new rate."""
    def run(fails):
        one = lambda nets, x, *, seed, step: (nets["a"](x) - nets["b"](x)).square().mean()
        two = lambda nets, x, *, seed, step: one(nets, x, seed=seed, step=step) * (float("nan") if fails and step == 3 else 1.0)
        game = Game({"a": Player(one, rate=lambda k: 1 / (k + 1)), "b": Player(two, every=3)}, lambda *, seed, step: seed.rows("x", step, (8, 3)))
        with Draws(0).scope(0):
            return game, game.init({"a": nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)), "b": nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))})

    fine, failing = run(False), run(True)
    three = evolve(*fine, 3)
    with pytest.raises(NonFinite, match="loss of b is nan at step 3") as caught:
        evolve(*failing, 9)
    assert same(caught.value.state, three) is None


def test_moves_held_back_on_the_device_leave_the_last_good_weights():
    """finite_every > 1: the figures are read late, but no bad move is ever made."""
    def run(bad_at):
        bad = lambda net, x, *, step, **_: error(net, x) * (float("nan") if step == bad_at else 1.0)
        d = Descent(bad, Points(), 16, partial(torch.optim.Adam, lr=1e-2, fused=True), average=Average(0.9), seed=1, finite_every=4)
        return d, d.init(net_of(nn.BatchNorm1d(8)))

    fine, start = run(-1)
    five = evolve(fine, start, 5)
    d, start = run(5)
    with pytest.raises(NonFinite, match="not finite at step 5") as caught:
        evolve(d, start, 20)
    assert caught.value.step == 5
    for kind in ("nets", "averages", "optimizers"):
        assert same(Holder(getattr(caught.value.state, kind)), Holder(getattr(five, kind))) is None, kind
    once = Descent(error, Points(), 16, partial(torch.optim.Adam, lr=1e-2, fused=True), average=Average(0.9), seed=1)
    assert same(Holder(evolve(once, once.init(net_of(nn.BatchNorm1d(8))), 5).nets), Holder(five.nets)) is None
    with pytest.raises(ValueError, match="pass fused=True"):
        Descent(error, Points(), 16, finite_every=4).init(net_of())


class Holder:
    """Wraps a dictionary as a state for `same`."""

    def __new__(cls, content):
        from dataclasses import make_dataclass

        return make_dataclass("Held", ["content"])(content)


# -- games ---------------------------------------------------------------------------------------------------------------------------

def test_players_do_not_fill_each_others_gradients():
    seen = {}

    class Watch:
        def __init__(self, name, other):
            self.name, self.other = name, other

        def gradients(self, net, step):
            seen[self.name] = [p.grad is None for p in self.other[0].parameters()]

    loss = lambda nets, x, *, seed, step: (nets["a"](x) * nets["b"](x)).mean()
    held_a, held_b = [], []
    game = Game({"a": Player(loss, hooks=(Watch("a", held_b),)), "b": Player(loss, hooks=(Watch("b", held_a),), every=2)}, lambda *, seed, step: seed.rows("x", step, (4, 3)))
    a, b = nn.Linear(3, 1), nn.Linear(3, 1)
    held_a.append(a)
    held_b.append(b)
    frozen = b.bias.requires_grad_(False)
    start = game.init({"a": a, "b": b})
    evolve(game, start, 1, donate=True)
    assert seen["a"] == [True, True] and a.weight.requires_grad and not frozen.requires_grad


def test_every_and_project_and_hooks():
    calls = []

    class Record:
        def parameters(self, net, step):
            calls.append(step)

    ball = lambda net: net.weight.data.clamp_(-0.01, 0.01)
    loss = lambda nets, x, *, seed, step: nets["a"](x).mean()
    game = Game({"a": Player(loss, every=3, project=ball, hooks=(Record(),))}, lambda *, seed, step: seed.rows("x", step, (4, 3)))
    end = evolve(game, game.init({"a": nn.Linear(3, 1)}), 7)
    assert calls == [0, 3, 6] and float(end.nets["a"].weight.abs().max()) <= 0.01


# -- objectives ------------------------------------------------------------------------------------------------------------------------

def test_the_matching_loss_of_the_exact_field_is_the_least(seed):
    """No field does better than the conditional expectation; shifting it by d costs |d|^2 more."""
    from rheos.data import skewed
    from rheos.paths import ExactField

    target = skewed()
    for path in (Path.linear(), Path.vp()):
        loss, exact = Matching(path, "noise"), ExactField(path, target)
        pair = Independent(target).sample(4000, seed=seed)
        net = lambda x, t, cond=None: exact(x, t).noise
        best = loss(net, pair, seed=seed).per_sample
        shifted = loss(lambda x, t, cond=None: net(x, t) + 0.3, pair, seed=seed).per_sample
        gap = shifted - best
        assert abs(float(gap.mean()) - 0.09) < 5 * float(gap.std()) / 4000**0.5


def test_objectives_add_and_scale():
    path, x = Path.linear(), Draws(0).rows("x", 0, (8, 2))
    pair, net = Independent(x).sample(8), lambda x, t, cond=None: 0 * x
    a, b = Matching(path, "velocity"), Matching(path, "data")
    both = (a + 0.1 * b)(net, pair, seed=3)
    alone = a(net, pair, seed=3).value + 0.1 * b(net, pair, seed=Draws(3).child(1)).value
    torch.testing.assert_close(both.value, alone)
    torch.testing.assert_close(both.per_sample.mean(), both.value)


def test_antithetic_noise_is_the_mean_of_both_signs():
    path, draws = Path.interpolant(), Draws(2)
    x0, x1 = draws.rows("x0", 0, (6, 2)), draws.rows("x1", 0, (6, 2))
    from rheos.couplings import Pair

    net = lambda x, t, cond=None: (x, torch.sin(x))
    loss = Matching(path, ("velocity", "noise"), antithetic=True)
    value = loss(net, Pair(x1, x0), seed=draws).value
    t = 1e-3 + (1 - 2e-3) * draws.uniform("time", 0, (6,), dtype=torch.float64)
    by_hand = 0.0
    for sign in (1, -1):
        point = path.sample(x1, t, x0=x0, z=sign * draws.rows("noise", 0, (6, 2)))
        v, n = net(point.x, t)
        by_hand = by_hand + 0.5 * ((v - point.velocity).square().mean() + (n - point.z).square().mean())
    torch.testing.assert_close(value, by_hand)


def test_conditions_are_dropped_at_their_rate(seed):
    seen = []
    pair = Independent(torch.ones(4000, 2), cond=torch.zeros(4000, dtype=torch.int64)).sample(4000, seed=seed)
    Matching(Path.linear(), drop_condition=0.2)(lambda x, t, cond: (seen.append(cond), x)[1], pair, seed=seed)
    share = float((seen[0] == -1).double().mean())
    assert abs(share - 0.2) < 5 * (0.16 / 4000) ** 0.5


# -- networks --------------------------------------------------------------------------------------------------------------------------

def test_the_network_tells_classes_and_their_absence_apart():
    with Draws(0).scope(0):
        net = ResidualMLP((2,), width=16, classes=3)
        for p in net.parameters():
            nn.init.normal_(p, std=0.3)
    x, t = torch.ones(1, 2), torch.full((1,), 0.5)
    answers = [net(x, t, torch.tensor([k])) for k in (0, 1, 2, -1)]
    assert all(not torch.equal(a, b) for i, a in enumerate(answers) for b in answers[:i])
    assert torch.equal(net(x, t), answers[3])
    assert not torch.equal(net(x, t), net(x, torch.full((1,), 0.6)))
    vector = ResidualMLP((2,), width=16, features=2)
    nn.init.normal_(vector.leave.weight)
    nn.init.ones_(vector.condition.nothing)
    for block in vector.blocks:
        nn.init.normal_(block.modulate.weight)
    assert torch.equal(vector(x, t, torch.full((1, 2), float("nan"))), vector(x, t)) and not torch.equal(vector(x, t, torch.zeros(1, 2)), vector(x, t))


def test_rows_do_not_see_each_other_and_heads_are_apart():
    net = ResidualMLP((1, 2, 3), width=16, heads=2)
    for p in net.parameters():
        nn.init.normal_(p, std=0.3)
    x, t = Draws(0).rows("x", 0, (5, 1, 2, 3)), torch.linspace(0, 1, 5)
    a, b = net(x, t)
    torch.testing.assert_close(net(x[2:3], t[2:3])[1], b[2:3])
    assert not torch.equal(a, b)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: Cosine(0), "steps must be at least 1"),
    (lambda: Cosine(10, 10), "warm_up must be below steps = 10, got 10"),
    (lambda: Average(1.0), r"decay must lie in \[0, 1\), got 1.0"),
    (lambda: Descent(error, Points(), 0), "batch must be at least 1"),
    (lambda: Descent(error, Points(), clip=-1.0), "clip must lie in"),
    (lambda: Descent(error, Points()).init(nn.Identity()), "no parameter that requires a gradient"),
    (lambda: Matching(Path.linear(), ()), "predicts must be one of"),
    (lambda: Game({}, error), "at least one player"),
    (lambda: Game({"a": Player(error)}, error).init({"b": nn.Linear(1, 1)}), r"nets must be named like the players, \['a'\], got \['b'\]"),
    (lambda: Independent(torch.ones(0, 2)), "target must hold at least one row"),
    (lambda: Independent(torch.tensor([[float("inf")]])), "target must be finite"),
    (lambda: Independent(torch.ones(3, 2), cond=torch.ones(2)), "cond must have 3 rows"),
    (lambda: Matching(Path.linear(), "eps"), "predicts must be one of"),
    (lambda: Matching(Path.linear(), drop_condition=1.5), r"drop_condition must lie in \[0, 1\], got 1.5"),
    (lambda: ResidualMLP((2,))(torch.ones(1, 3), torch.ones(1)), r"x must have event shape \(2,\), got \(3,\)"),
    (lambda: ResidualMLP((2,))(torch.ones(1, 2), torch.ones(1), torch.tensor([0])), "built without a condition"),
    (lambda: ResidualMLP((2,), classes=3)(torch.ones(1, 2), torch.ones(1), torch.tensor([3])), "cond must be a class from 0 to 2, or -1"),
    (lambda: ResidualMLP((2,), classes=3, features=2), "classes or features, not both"),
])
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
