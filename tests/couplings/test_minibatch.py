"""Minibatch optimal transport: the draws of Independent, put in order; closed forms in one dimension; the entropic plan's own law; refusals."""
from functools import partial

import numpy as np
import ot
import pytest
import torch

from rheos.core import Draws, evolve
from rheos.couplings import Independent, MinibatchOT, minibatch
from rheos.data import GaussianMixture, skewed, two_moons
from rheos.objectives import Matching
from rheos.paths import Path
from rheos.training import Descent

X0, X1 = 1.5 * two_moons().sample(90, seed=4) - 2, skewed().sample(70, seed=3)


@pytest.mark.parametrize("n", [1, 2, 16, 33])
def test_a_minibatch_is_the_independent_one_with_x0_put_in_the_cheapest_order(n, seed):
    drawn, paired = Independent(X1, X0).sample(n, seed=seed, step=3), MinibatchOT(X1, X0).sample(n, seed=seed, step=3)
    assert torch.equal(paired.x1, drawn.x1)
    assert sorted(paired.x0.tolist()) == sorted(drawn.x0.tolist())
    even = np.full(n, 1 / n)
    least = ot.emd2(even, even, ot.dist(drawn.x0.numpy(), drawn.x1.numpy()))
    assert float((paired.x1 - paired.x0).square().sum(1).mean()) == pytest.approx(least, rel=1e-10)


def test_in_one_dimension_both_sides_come_in_the_same_order(seed):
    pair = MinibatchOT(X1[:, 0], X0[:, 1]).sample(40, seed=seed)             # events without axes
    order = pair.x1.argsort()
    assert bool((pair.x0[order].diff() >= 0).all())
    flipped = MinibatchOT(X1[:, :1], X0[:, 1:], cost=lambda x, y: x @ y.T).sample(40, seed=seed)      # the dearest, by a cost of one's own
    assert bool((flipped.x0[:, 0][flipped.x1[:, 0].argsort()].diff() <= 0).all())


def test_images_are_paired_as_flat_points(seed):
    images = torch.stack([X1, 2 * X1], 1).reshape(70, 1, 2, 2)
    pair = MinibatchOT(images).sample(20, seed=seed, step=1)
    flat = MinibatchOT(images.flatten(1)).partners(pair.x0.flatten(1), pair.x1.flatten(1))
    assert pair.x0.shape == (20, 1, 2, 2) and flat.tolist() == list(range(20))


def test_an_offset_costs_no_digits(seed):
    x0, x1 = Draws(seed).rows("x0", 0, (60, 3)), Draws(seed).rows("x1", 0, (60, 3)) ** 2
    near, far = MinibatchOT(x1).partners(x0.double(), x1.double()), MinibatchOT(x1).partners(x0 + 4096, x1 - 4096)
    cost = lambda order: float((x0[order] - x1).double().square().sum())
    assert cost(far) == pytest.approx(cost(near), rel=2e-3)                  # float32 keeps 5e-4 around 4096; without centring 1


def test_without_a_source_x0_is_noise_of_its_own(seed):
    coupling = MinibatchOT(X1.float())
    pairs = [coupling.sample(50, seed=seed, step=k) for k in range(80)]
    x0 = torch.cat([pair.x0 for pair in pairs])
    assert x0.dtype == torch.float32
    assert float(x0.mean().abs()) < 5 / len(x0) ** 0.5 and abs(float(x0.var()) - 1) < 5 * (1 / len(x0)) ** 0.5
    other = Path.linear().sample(pairs[0].x1, torch.zeros(50), seed=seed).z
    assert not bool((x0[:50, None] == other[None]).all(2).any())             # not the numbers that a path draws under the same seed


def test_the_cost_falls_with_the_minibatch_towards_the_distance_of_the_laws():
    shift, scale = torch.tensor([3.0, -1.0], dtype=torch.float64), torch.tensor([2.0, 0.5], dtype=torch.float64)
    one = lambda mean, std: GaussianMixture(torch.ones(1, dtype=torch.float64), mean[None], std[None].square())
    law = one(shift, scale)
    w2 = float(shift.square().sum() + (scale - 1).square().sum())            # between diagonal Gaussians
    independent = float(shift.square().sum() + (scale.square() + 1).sum())
    found = [MinibatchOT(law).cost(2, n=n, batches=800 // n + 4) for n in (1, 8, 32, 128)]
    assert found[0] == pytest.approx(independent, rel=0.25)
    assert found[0] > found[1] > found[2] > found[3] > 0.97 * w2
    assert found[3] == pytest.approx(w2, rel=0.12)


def test_the_entropic_plan_is_followed(seed):
    x0, x1 = X0[:5], X1[:5]
    blur, even = 0.9, np.full(5, 0.2)
    plan = ot.sinkhorn(even, even, ot.dist(x0.numpy(), x1.numpy()), 2 * blur**2, method="sinkhorn_log", numItermax=100_000, stopThr=1e-12)
    coupling = MinibatchOT(x1, x0, plan="sinkhorn", blur=blur)
    torch.testing.assert_close(coupling.transport(x0, x1), torch.from_numpy(plan), rtol=0, atol=2e-3)     # its tolerance of 1e-2 of 1/5
    rounds = 400
    seen = torch.zeros(5, 5, dtype=torch.float64)
    for step in range(rounds):
        seen[coupling.partners(x0, x1, seed=seed, step=step), torch.arange(5)] += 1
    chance = torch.from_numpy(plan) * 5
    assert bool(((seen / rounds - chance).abs() <= 5 * (chance * (1 - chance) / rounds).sqrt() + 0.011).all())


def test_a_small_blur_is_the_exact_plan(seed):
    drawn = Independent(X1, X0).sample(12, seed=seed)
    costs = torch.cdist(drawn.x0, drawn.x1).square()
    exact, sharp = (float((MinibatchOT(X1, X0, **plan).transport(drawn.x0, drawn.x1) * costs).sum()) for plan in ({}, {"plan": "sinkhorn", "blur": 0.02}))
    assert sharp == pytest.approx(exact, abs=2 * 0.02**2 * np.log(12) + 1e-2 * float(costs.mean()))      # the entropy, and marginals 1e-2 off


def test_a_plan_that_does_not_converge_is_refused(monkeypatch):
    coupling = MinibatchOT(X1, X0, plan="sinkhorn", blur=0.3)
    monkeypatch.setattr(minibatch, "entropic", partial(minibatch.entropic, sweeps=40, tolerance=1e-18))
    with pytest.raises(ValueError, match=r"blur 0.3 is too small for these points: the plan's marginal is still .* off after \d+ sweeps; raise blur"):
        coupling.sample(60)


def test_it_trains_a_one_sided_flow_whose_paths_bend_less(seed):
    class Line(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.speed = torch.nn.Linear(3, 1)

        def forward(self, x, t, cond=None):
            return self.speed(torch.cat([x, t[:, None] * x, t[:, None]], 1))

    data = 1.0 + 3.0 * Draws(1).rows("data", 0, (4000, 1))
    losses = []
    for coupling in (Independent(data), MinibatchOT(data)):
        fit = Descent(Matching(Path.linear()), coupling, 128, lambda p: torch.optim.Adam(p, lr=0.02), seed=seed)
        losses.append(float(evolve(fit, fit.init(Line()), 150).loss.detach()))
    assert losses[1] < 0.2 * losses[0]           # what is left is the variance of x1 - x0 given x_t: 0 for a map


@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda: MinibatchOT(X1, plan="emd"), ValueError, "plan must be one of exact, sinkhorn, got 'emd'"),
    (lambda: MinibatchOT(X1, blur=0.1), ValueError, "blur belongs to plan 'sinkhorn', got 0.1"),
    (lambda: MinibatchOT(X1, plan="sinkhorn", blur=0.0), ValueError, "blur must lie in"),
    (lambda: MinibatchOT(X1, cost="euclid"), ValueError, "cost must be one of sqeuclidean, got 'euclid'"),
    (lambda: MinibatchOT(X1[:0]), ValueError, "target must hold at least one row"),
    (lambda: MinibatchOT(X1, X0 / 0), ValueError, "source must be finite"),
    (lambda: MinibatchOT([1.0]), TypeError, "target must be a tensor or have a method sample"),
    (lambda: MinibatchOT(skewed(), cond=torch.zeros(3)), ValueError, "cond was given, but a target that is not a tensor"),
    (lambda: MinibatchOT(X1, cond=torch.zeros(3)), ValueError, "cond must have 70 rows"),
    (lambda: MinibatchOT(X1, X0[:, :1]).sample(4), ValueError, r"x0 and x1 must have one shape, got \(4, 1\) and \(4, 2\)"),
    (lambda: MinibatchOT(X1, X0.float()).sample(4), ValueError, "x0 and x1 must share a dtype"),
    (lambda: MinibatchOT(X1, X0, cost=lambda x, y: x).sample(4), ValueError, r"the result of cost must have shape \(4, 4\)"),
    (lambda: MinibatchOT(X1, X0).sample(0), ValueError, "size must be at least 1"),
    (lambda: MinibatchOT(X1, X0).cost(-1.0), ValueError, "p must lie in"),
])
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("plan", ["exact", "sinkhorn"])
def test_within_labels_the_noise_does_not_tell_the_label(plan):
    """Each label keeps the very noise that was drawn for its rows, put in an order that costs less; without `within` labels trade noise."""
    x, y = Draws(5).rows("x", 0, (60, 3)) + torch.arange(60)[:, None] % 3 * 4.0, torch.arange(60) % 3
    inside, across = (MinibatchOT(x, cond=y, plan=plan, blur=None if plan == "exact" else 1.0, within=within) for within in (True, False))
    drawn = Draws(2).rows("source noise", 4, (30, 3))
    pair, mixed = inside.sample(30, seed=2, step=4), across.sample(30, seed=2, step=4)
    assert torch.equal(pair.x1, mixed.x1) and torch.equal(pair.cond, mixed.cond)
    rows = lambda values: {tuple(row) for row in values.tolist()}
    for label in range(3):
        own = drawn[pair.cond == label]
        got = rows(pair.x0[pair.cond == label])
        assert got == rows(own) if plan == "exact" else got <= rows(own)
        assert not rows(mixed.x0[pair.cond == label]) <= rows(own)
        cost = lambda x0, label=label: float((x0 - pair.x1[pair.cond == label]).square().sum())
        assert cost(pair.x0[pair.cond == label]) < cost(own) or plan == "sinkhorn"       # one draw of a plan that blurs may cost more


def test_within_needs_labels():
    for cond in (None, torch.rand(4), torch.zeros(4, 2, dtype=torch.int64)):
        with pytest.raises(ValueError, match="within needs labels"):
            MinibatchOT(torch.rand(4, 2), cond=cond, within=True)


def test_pairs_cost_well_below_those_of_chance():
    """Shuffled after pairing they would cost what chance does, which a bound by chance alone does not see."""
    x = Draws(1).rows("x", 0, (200, 2)) * torch.tensor([3.0, 1.0])
    for pairs in (MinibatchOT(x), MinibatchOT(x, plan="sinkhorn", blur=0.7)):
        assert pairs.cost(2, n=64, batches=8) < 0.8 * Independent(x, Draws(2).rows("z", 0, (200, 2))).cost(2)
