"""Rectification: straightness in closed form; what each round learns from, begins with and is told; one-step maps; refusals."""
import math
from functools import partial

import pytest
import torch
from torch import nn

from rheos.core import Draws, StopWhen, evolve
from rheos.couplings import Independent, Pair, Paired
from rheos.data import skewed
from rheos.distill import one_step, rectify, straightness
from rheos.objectives import Matching
from rheos.paths import Field, Path
from rheos.samplers import Euler, RungeKutta, sample
from rheos.training import Average, Cosine, Descent

Z = Draws(7).rows("z", 0, (40, 2), dtype=torch.float64) + torch.tensor([1.0, 0.0])
SIZE = float(Z.square().sum(1).mean())
PLAIN = {"optimizer": partial(torch.optim.SGD, lr=0.05), "rate": None, "average": None, "clip": None}


def flow(net, path=None):
    return Field(net, Path.linear() if path is None else path)


class Affine(nn.Module):
    """A x + t B x + c, seeing also what it was asked."""

    event = (2,)

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(5, 2)
        self.times = set()

    def forward(self, x, t, cond=None):
        if self.training:
            self.times |= set(t.tolist())
        return self.layer(torch.cat([x, t[:, None] * x, t[:, None]], 1))


@pytest.mark.parametrize("rate", [0.7, -1.3])
def test_straightness_of_an_exponential_flow(rate):
    # Z_t = e^{kt} z, v = k e^{kt} z: S = (k (e^{2k} - 1) / 2 - (e^k - 1)^2) E |z|^2
    truth = rate * math.expm1(2 * rate) / 2 - math.expm1(rate) ** 2
    gaps = []
    for steps in (10, 20):
        found = straightness(flow(lambda x, t, cond: rate * x), Z, steps)
        assert found.relative == pytest.approx(found.value / (math.expm1(rate) ** 2 * SIZE), rel=3e-3)
        gaps.append(abs(found.value / (truth * SIZE) - 1))
    assert gaps[1] < 0.3 * gaps[0] and gaps[1] < 5e-3            # second order
    fine = straightness(flow(lambda x, t, cond: rate * x), Z, 80, rule=RungeKutta(4))
    assert fine.value == pytest.approx(truth * SIZE, rel=1e-3)


def test_straightness_of_a_flow_in_time_alone_and_of_straight_ones():
    found = straightness(flow(lambda x, t, cond: (6 * t * t)[:, None].expand_as(x)), Z, 200)
    assert found.value == pytest.approx(2 * (36 / 5 - 4), rel=1e-3)                   # int (6 t^2 - 2)^2 dt, in both coordinates
    straight = straightness(flow(lambda x, t, cond: torch.tensor([1.0, -2.0]).to(x).expand_as(x)), Z)
    assert straight.value < 1e-12 and straight.relative < 1e-12
    with pytest.raises(ValueError, match="field must move"):
        straightness(flow(lambda x, t, cond: 0 * x), Z)


def test_straightness_passes_conditions_keeps_no_gradient_and_takes_float32():
    speed = torch.linspace(-1, 2, 40, dtype=torch.float64)
    start = Z.clone().requires_grad_(True)
    found = straightness(flow(lambda x, t, cond: cond[:, None] * x), start, 40, cond=speed)
    each = speed * torch.expm1(2 * speed) / 2 - torch.expm1(speed) ** 2
    assert found.value == pytest.approx(float((each * Z.square().sum(1)).mean()), rel=3e-3)
    assert start.grad is None
    short = straightness(flow(lambda x, t, cond: cond[:, None] * x), Z.float(), 40, cond=speed.float())
    assert short.value == pytest.approx(found.value, rel=1e-4)


def test_straightness_on_an_interval_that_is_not_whole():
    path = Path.interpolant("sqrt")                          # (1e-3, 1 - 1e-3)
    assert straightness(flow(lambda x, t, cond: torch.ones_like(x), path), Z).relative < 1e-12


def test_one_round_is_plain_descent_to_the_bit(seed):
    coupling, steps = Independent(skewed().sample(100, seed=1).float()), 20
    (found,) = rectify(coupling, Affine, rounds=1, steps=steps, batch=16, seed=seed)
    family = Draws(seed).child("round 1")
    with family.scope(0):
        net = Affine()
    fit = Descent(Matching(Path.linear()), coupling, 16, partial(torch.optim.Adam, lr=2e-3, betas=(0.9, 0.99)), Cosine(steps, 0), Average(0.995), 1.0,
                  seed=family)
    truth = evolve(fit, fit.init(net), steps).averaged
    assert torch.equal(found.net.layer.weight, truth.layer.weight) and found.path == Path.linear() and not found.net.training


def test_later_rounds_see_simulated_pairs_only(seed):
    calls = []

    class Spy(Independent):
        def sample(self, n, *, seed=0, step=0):
            calls.append(n)
            pair = super().sample(n, seed=seed, step=step)
            return Pair(torch.full_like(pair.x1, 1e6) if n == 30 else pair.x1, pair.x0, torch.arange(n) % 3)

    asked = []

    def integrate(field, x, cond):
        asked.append((field, x, cond))
        return 2 * x + cond[:, None]

    source = skewed().to(torch.float32)
    flows = rectify(Spy(skewed().to(torch.float32), source), Affine, rounds=3, pairs=30, steps=5, batch=8, integrate=integrate, seed=seed, **PLAIN)
    assert calls == [8] * 5 + [30, 30]                                     # data in round 1, starts alone before rounds 2 and 3
    assert [field for field, _, _ in asked] == flows[:2]
    assert all(bool(torch.isfinite(f.net.layer.weight).all()) and float(f.net.layer.weight.detach().abs().max()) < 1e3 for f in flows)
    assert all(torch.equal(cond, torch.arange(30) % 3) for _, _, cond in asked)
    assert not torch.equal(asked[0][1], asked[1][1])                       # fresh starts each round


def test_a_round_learns_the_pairs_it_simulated(seed):
    # Round 2 is shown z -> 2 z + 1 whatever round 1 was; the straight flow of that map is v(x, t) = (x + 1) / (1 + t) .
    flows = rectify(Independent(skewed().to(torch.float32)), Affine, rounds=2, pairs=400, steps=150, batch=64, integrate=lambda f, x: 2 * x + 1, seed=seed,
                    optimizer=partial(torch.optim.Adam, lr=0.06))
    start = Draws(seed).rows("start", 0, (200, 2))
    assert float((sample(flows[1], start=start, rule=RungeKutta(2), steps=20) - (2 * start + 1)).abs().mean()) < 0.15
    assert float((sample(flows[0], start=start, rule=RungeKutta(2), steps=20) - (2 * start + 1)).abs().mean()) > 0.5


def test_a_round_goes_on_from_the_averaged_network_or_begins_anew(seed):
    still = {"batch": 8, "steps": 6, "pairs": 20, "integrate": lambda f, x: x + 1, "seed": seed}
    rate = lambda step: 1.0 if step < 3 else 0.0                # moves for three steps, then waits for the average, which never arrives
    made = []

    def factory():
        made.append(Affine())
        return made[-1]

    coupling = Independent(skewed().sample(50, seed=1).float())
    going = rectify(coupling, factory, average=Average(0.9, warm_up=False), optimizer=partial(torch.optim.SGD, lr=0.1), rate=rate, clip=None, **still)
    assert len(made) == 1 and going[0].net is not going[1].net
    frozen = rectify(coupling, factory, average=Average(0.9, warm_up=False), optimizer=partial(torch.optim.SGD, lr=0.0), rate=None, clip=None, **still)
    assert torch.equal(frozen[0].net.layer.weight, frozen[1].net.layer.weight)
    made.clear()
    anew = rectify(coupling, factory, restart=True, optimizer=partial(torch.optim.SGD, lr=0.0), rate=None, clip=None, average=None, **still)
    assert len(made) == 2 and not torch.equal(anew[0].net.layer.weight, anew[1].net.layer.weight)


def test_the_next_round_begins_at_the_average(seed):
    begun = []

    class Watch:
        def begin(self, state, steps):
            begun.append(state.net.layer.weight.detach().clone())
            assert all(p.requires_grad for p in state.net.parameters())

        def __call__(self, step, state): ...

    coupling = Independent(skewed().sample(50, seed=1).float())
    flows = rectify(coupling, Affine, steps=6, pairs=20, batch=8, integrate=lambda f, x: x + 1, seed=seed, watch=[Watch()], clip=None,
                    optimizer=partial(torch.optim.SGD, lr=0.1), rate=None, average=Average(0.9, warm_up=False))
    assert len(begun) == 2 and torch.equal(begun[1], flows[0].net.layer.weight) and not torch.equal(begun[1], begun[0])


def test_same_seed_same_flows(seed):
    coupling = Independent(skewed().sample(50, seed=1).float())
    runs = [rectify(coupling, Affine, steps=4, pairs=20, batch=8, seed=s)[1].net.layer.weight for s in (seed, Draws(seed), seed + 1)]
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])


def test_a_watcher_may_end_a_round():
    seen = []
    count = lambda step, state: seen.append(step)
    rectify(Independent(skewed().sample(50, seed=1).float()), Affine, steps=9, pairs=20, batch=8, integrate=lambda f, x: x + 1,
            watch=[count, StopWhen(lambda s: s.step >= 4)])
    assert seen == [1, 2, 3, 4, 1, 2, 3, 4]


def test_conditions_reach_the_network_in_training_and_in_simulation():
    class Told(Affine):
        def forward(self, x, t, cond=None):
            assert cond["kind"].shape == t.shape and bool((cond["kind"] >= 5).all())
            return super().forward(x, t)

    coupling = Independent(skewed().sample(50, seed=1).float(), cond={"kind": torch.arange(5, 55)})
    assert len(rectify(coupling, Told, steps=2, pairs=20, batch=8)) == 2


def test_a_two_sided_path_and_a_path_with_scaled_noise():
    for path, source in ((Path.interpolant("none"), skewed().to(torch.float32)), (Path.vp(), None)):
        starts = []
        rectify(Independent(skewed().sample(50, seed=1).float(), source), Affine, steps=3, pairs=200, batch=8, objective=Matching(path),
                integrate=lambda f, x: starts.append(x) or x + 1)
        law = skewed().covariance_matrix().trace() if source is not None else 2 * float(path.coefficients(path.interval[0]).c) ** 2
        assert float(starts[0].var(0).sum()) == pytest.approx(float(law), rel=0.5)


@pytest.mark.parametrize("path", [Path.linear(), Path.interpolant("none")])
def test_one_step_learns_the_map_at_time_0_alone(path, seed):
    z = Z.float()
    ends = z @ torch.tensor([[2.0, -0.5], [0.3, 1.0]]) + torch.tensor([1.0, -3.0])
    net = Affine()
    field = one_step(Paired(z, ends), net, path=path, steps=500, batch=40, seed=seed, optimizer=partial(torch.optim.Adam, lr=0.05))
    assert net.times == {0.0}
    torch.testing.assert_close(sample(field, start=z, rule=Euler(), steps=1), ends, rtol=0, atol=0.02)


@pytest.mark.parametrize(("change", "error", "message"), [
    ({"rounds": 0}, ValueError, "rounds must be at least 1, got 0"), ({"pairs": 0}, ValueError, "pairs must be at least 1"),
    ({"steps": 0}, ValueError, "steps must be at least 1"), ({"objective": 3}, TypeError, None), ({"restart": 1}, TypeError, None),
    ({"bacth": 3}, ValueError, "bacth"), ({"integrate": lambda f, x: x[:, :1]}, ValueError, "integrate must return the shape of x"),
])
def test_refusals(change, error, message):
    with pytest.raises(error, match=message):
        rectify(Independent(Z.float()), Affine, **({"steps": 1, "pairs": 5, "batch": 4} | change))


@pytest.mark.parametrize("path", [Path.vp(), Path.interpolant("sqrt"), Path.interpolant("none", "trigonometric")])
def test_one_step_refuses_paths_that_do_not_start_straight(path):
    with pytest.raises(ValueError, match="path must be Path.linear"):
        one_step(Paired(Z.float(), Z.float()), Affine(), path=path, steps=1)


def test_a_misspelt_setting_is_named():
    with pytest.raises(ValueError, match="a setting of rectify must be one of .*did you mean clip"):
        rectify(Independent(torch.rand(8, 2)), lambda: torch.nn.Linear(2, 2), clipp=1.0)
    with pytest.raises(ValueError, match="a setting of one_step must be one of .*did you mean clip"):
        one_step(Paired(Z.float(), Z.float()), Affine(), clipp=1.0)
