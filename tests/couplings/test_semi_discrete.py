"""Semi-discrete transport: closed forms on a line, the assignment, shares, the continued map, refusals."""
import math

import pytest
import torch

from rheos.core import Draws
from rheos.core.files import save_tensors
from rheos.couplings import SemiDiscrete, assignment
from rheos.data import skewed, two_moons

F = torch.float64
LINE = torch.tensor([[3.0], [-2.0], [0.5], [10.0]], dtype=F)
SHARES = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=F)


def noise(n, seed, dim=2):
    return Draws(seed).rows("fresh", 0, (n, dim), dtype=F)


def test_on_a_line_cells_end_at_the_quantiles(seed):
    fitted = SemiDiscrete(None, LINE, SHARES).fit(500, 1024, seed=seed)
    # Points in order -2, 0.5, 3, 10 take the first 0.3, the next 0.2, ... of the normal law; neighbours i < j meet at x = (h_i - h_j) / (y_j - y_i).
    order, normal = [1, 2, 0, 3], torch.distributions.Normal(torch.zeros((), dtype=F), 1)
    ends = normal.icdf(SHARES[order].cumsum(0)[:-1])
    h, y = fitted.heights[order], LINE[order, 0]
    found = (h[:-1] - h[1:]) / (y[1:] - y[:-1])
    torch.testing.assert_close(found, ends, rtol=0, atol=0.05)
    assert abs(float(h.mean())) < 1e-12
    x = torch.tensor([[-3.0], [-0.2], [0.3], [2.0]], dtype=F)
    assert torch.equal(fitted.map(x), LINE[order]) and fitted.cells(x).tolist() == order
    torch.testing.assert_close(fitted.shares(20_000, seed=seed + 1), SHARES, rtol=0, atol=0.03)
    assert fitted.residual < 0.12


def test_the_loss_at_its_least_is_what_the_map_earns(seed):
    losses = []
    SemiDiscrete(None, LINE, SHARES).fit(200, 1024, seed=seed, watch=[lambda step, state: losses.append(float(state.loss)) and None])
    # E u(x) - sum nu_i h_i ends at E <x, T(x)>, of which a cell from a to b gives y (p(a) - p(b)); here over the scales of x, 1, and of the points.
    order, normal = [1, 2, 0, 3], torch.distributions.Normal(torch.zeros((), dtype=F), 1)
    edges = normal.icdf(torch.cat([torch.zeros(1, dtype=F), SHARES[order].cumsum(0)[:-1], torch.ones(1, dtype=F)]))
    earned = (LINE[order, 0] * -normal.log_prob(edges).exp().diff()).sum() / LINE.std(correction=0)
    # The scale of x is that of 4096 draws.
    assert sum(losses[-50:]) / 50 == pytest.approx(float(earned), rel=0.08)


def test_between_equal_sets_it_is_the_assignment(seed):
    x, y = 0.7 * noise(40, seed) + 1, skewed().sample(40, seed=seed)
    fitted = SemiDiscrete(x, y).fit(700, 40, 0.1, seed=seed)
    best = assignment(torch.cdist(x, y).square())
    least = float((x - y[best]).square().sum(1).mean())
    mine = float((x - fitted.map(x)).square().sum(1).mean())
    assert float((fitted.cells(x) == best).double().mean()) > 0.7 and mine == pytest.approx(least, rel=0.05)
    assert fitted.cost(2.0, n=4000) == pytest.approx(mine, rel=0.05)


def test_no_map_with_its_shares_costs_less(seed):
    points = skewed().sample(30, seed=seed)
    fitted = SemiDiscrete(two_moons(), points).fit(600, 512, seed=seed)
    x = two_moons().sample(600, seed=seed + 7)
    cell = fitted.cells(x)
    # Brenier: the best pairing of these x with the very points they got is the one they have.
    cost = torch.cdist(x, points[cell]).square()
    assert float(cost.diagonal().mean()) == pytest.approx(float(cost[torch.arange(600), assignment(cost)].mean()), rel=1e-9)


def test_an_offset_and_a_scale_change_no_cell(seed):
    points, x = skewed().sample(20, seed=seed), noise(500, seed)
    plain = SemiDiscrete(None, points).fit(300, 256, seed=seed)
    moved = SemiDiscrete(None, 50 * points + torch.tensor([1000.0, -300.0], dtype=F)).fit(300, 256, seed=seed)
    assert float((plain.cells(x) == moved.cells(x)).double().mean()) > 0.97


def test_sources_that_are_not_centred_begin_well():
    fitted = SemiDiscrete(two_moons().sample(500, seed=1) + 30, skewed().sample(50, seed=2)).fit(5, 64, 1e-6)
    assert float((fitted.shares() > 0).double().mean()) > 0.5


def test_pairs_carry_what_belongs_to_the_points(seed):
    points = skewed().sample(12, seed=3)
    fitted = SemiDiscrete(None, points, cond={"row": torch.arange(12)}).fit(50, 64, seed=seed)
    pair = fitted.sample(40, seed=seed, step=2)
    assert torch.equal(points[pair.cond["row"]], pair.x1) and torch.equal(fitted.map(pair.x0), pair.x1)


ANGLED = torch.cat([noise(30, 1) * 0.1 + 2, noise(30, 2) * 0.1 - torch.tensor([1.0, 3.0], dtype=F)])


def test_between_like_points_it_is_continued_and_between_unlike_ones_not(seed):
    fitted = SemiDiscrete(None, ANGLED, angle=0.5).fit(400, 512, seed=seed)
    x = noise(2000, seed)
    made, plain = fitted.continued(x), fitted.map(x)
    apart = torch.cdist(made.y, ANGLED).amin(1)
    # What is kept stays among the points of one cluster; what is not would lie between the two.
    assert float(apart[made.kept].max()) < 0.5 and float(apart[~made.kept].max()) > 0.8 and 0.5 < float(made.kept.double().mean()) < 1
    assert float((made.y - plain)[made.kept].norm(dim=1).median()) > 1e-3
    side = lambda y: y[:, 1] > 0
    assert torch.equal(side(made.y[made.kept]), side(plain[made.kept]))
    drawn = fitted.sample(500, seed=seed).x1
    assert float(torch.cdist(drawn, ANGLED).amin(1).max()) < 0.5
    again = fitted.sample(500, seed=seed)
    assert torch.equal(again.x1, drawn) and bool(fitted.continued(again.x0).kept.all()) and torch.equal(fitted.continued(again.x0).y, drawn)
    torch.testing.assert_close(float(side(drawn).double().mean()), 0.5, rtol=0, atol=0.2)


def test_at_a_cells_centre_the_continued_map_is_the_point(seed):
    fitted = SemiDiscrete(None, LINE, SHARES, angle=1.0).fit(300, 512, seed=seed)
    x = fitted._centres
    torch.testing.assert_close(fitted.continued(x).y, LINE, rtol=1e-9, atol=1e-9)


def test_a_fit_goes_on_and_leaves_the_old_one(seed):
    bare, x = SemiDiscrete(None, ANGLED), noise(400, seed)
    fitted = bare.fit(20, 128, seed=seed)
    assert bare.fit(20, 128, seed=seed).cells(x).tolist() == fitted.cells(x).tolist()
    with pytest.raises(ValueError, match="not fitted"):
        bare.map(x)
    assert fitted.fit(800, 512, seed=seed).residual < fitted.residual + 0.02
    torch.testing.assert_close(fitted.fit(1, 16, 1e-9).heights, fitted.heights, rtol=1e-6, atol=1e-6)


def test_ctrl_c_raises(ctrl_c):
    def interrupt(step, state):
        import signal
        if step == 3:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        SemiDiscrete(None, LINE).fit(20, 16, watch=[interrupt])


@pytest.mark.parametrize("number", [0, 1, 2], ids=["conditions", "rows", "continued"])
def test_a_saved_map_is_the_map(number, tmp_path, seed):
    plan = SemiDiscrete.examples()[number]
    again = SemiDiscrete.load(plan.save(tmp_path / "map.safetensors"), plan.source)
    one, other = plan.sample(40, seed=seed), again.sample(40, seed=seed)
    assert torch.equal(one.x1, other.x1) and torch.equal(one.x0, other.x0) and again.residual == plan.residual and again.angle == plan.angle
    for name in (plan.cond or {}):
        assert torch.equal(one.cond[name], other.cond[name])
    assert again.cond is None or set(again.cond) == set(plan.cond)
    torch.testing.assert_close(again.fit(3, 16, seed=seed).heights, plan.fit(3, 16, seed=seed).heights, rtol=1e-9, atol=1e-9)


def test_labels_are_saved_and_other_files_refused(tmp_path):
    plan = SemiDiscrete(None, LINE, cond=torch.tensor([4, 7, 1, 2])).fit(3, 16)
    assert SemiDiscrete.load(plan.save(tmp_path / "map.safetensors")).cond.tolist() == [4, 7, 1, 2]
    with pytest.raises(ValueError, match=r"source must have the event shape and dtype of points, \(1,\)"):
        SemiDiscrete.load(tmp_path / "map.safetensors", noise(5, 0))
    with pytest.raises(ValueError, match="does not hold a semi-discrete map"):
        SemiDiscrete.load(save_tensors(tmp_path / "other.safetensors", {"points": LINE}))
    with pytest.raises(ValueError, match="not fitted yet"):
        SemiDiscrete(None, LINE).save(tmp_path / "empty.safetensors")


FITTED = {}


def fitted():
    if not FITTED:
        FITTED["one"] = SemiDiscrete(None, LINE).fit(5, 16)
    return FITTED["one"]


def continued():
    return SemiDiscrete(None, LINE, angle=0.7).fit(5, 16)


def test_between_two_cells_that_nobody_fell_into_it_is_the_best_ones_point():
    """The source is one far cluster: all other cells have no draws and no centres."""
    points = torch.tensor([[0.0], [1.0], [20.0], [21.0]])
    plan = SemiDiscrete(torch.tensor([[-5.0], [-5.5], [-6.0]]), points, torch.tensor([0.97, 0.01, 0.01, 0.01]), angle=1.0).fit(1, 8, rate=1e-9)
    plan._centres, plan._angles = torch.tensor([[-5.0], [math.inf], [math.inf], [math.inf]]), (0.0, math.pi)
    plan._heights = torch.zeros(4)
    made = plan.continued(torch.tensor([[30.0], [-5.0]]))
    assert made.y[0].item() == 21.0 and bool(made.kept.all()) and bool(made.y.isfinite().all())


@pytest.mark.parametrize(("make", "error", "words"), [
    (lambda: SemiDiscrete(None, LINE[:1]), ValueError, "points must hold at least 2 rows, got 1"),
    (lambda: SemiDiscrete(None, LINE * math.nan), ValueError, "points must be finite"),
    (lambda: SemiDiscrete(None, LINE, SHARES[:3]), ValueError, r"weights must have shape \(4\), got \(3,\)"),
    (lambda: SemiDiscrete(None, LINE, 2 * SHARES), ValueError, "weights must be positive and sum to 1, got the smallest 0.2 and the sum 2"),
    (lambda: SemiDiscrete(None, LINE, SHARES - torch.tensor([0.5, -0.5, 0.0, 0.0], dtype=F)), ValueError, "got the smallest -0.1"),
    (lambda: SemiDiscrete(None, LINE, SHARES * math.inf), ValueError, "weights must be finite"),
    (lambda: SemiDiscrete(noise(5, 0), LINE), ValueError, r"source must have the event shape and dtype of points, \(1,\)"),
    (lambda: SemiDiscrete(noise(5, 0, 1).float(), LINE), ValueError, "source must have the event shape and dtype of points"),
    (lambda: SemiDiscrete(3.0, LINE), TypeError, "source must be a tensor or have a method sample"),
    (lambda: SemiDiscrete(None, LINE, cond=torch.arange(3)), ValueError, "cond must have 4 rows, one a row of points"),
    (lambda: SemiDiscrete(None, LINE, angle=0.0), ValueError, r"angle must lie in \(0, 1\], got 0"),
    (lambda: SemiDiscrete(None, LINE, angle=1.5), ValueError, r"angle must lie in \(0, 1\], got 1.5"),
    (lambda: SemiDiscrete(None, LINE).map(LINE), ValueError, "not fitted yet"),
    (lambda: SemiDiscrete(None, LINE).heights, ValueError, "not fitted yet"),
    (lambda: SemiDiscrete(None, LINE).residual, ValueError, "not fitted yet"),
    (lambda: SemiDiscrete(None, LINE).sample(3), ValueError, "not fitted yet"),
    (lambda: SemiDiscrete(None, LINE).fit(0), ValueError, "steps must be at least 1, got 0"),
    (lambda: SemiDiscrete(None, LINE).fit(5, 0), ValueError, "batch must be at least 1, got 0"),
    (lambda: SemiDiscrete(None, LINE).fit(5, rate=-1.0), ValueError, r"rate must lie in \(0, inf\), got -1"),
    (lambda: SemiDiscrete(None, torch.zeros(3, 2)).fit(5), ValueError, "source and points must not stand still in one place"),
    (lambda: fitted().map(noise(3, 0)), ValueError, r"x must hold events of shape \(1,\), got \(2,\)"),
    (lambda: fitted().continued(LINE), ValueError, "angle was not given"),
    (lambda: fitted().map(LINE / 0), ValueError, "x must be finite"),
    (lambda: fitted().map(LINE.half()), TypeError, "x must hold real numbers in float32 or float64, got torch.float16|Type-check error"),
    (lambda: continued().continued(LINE * math.nan), ValueError, "x must be finite"),
    (lambda: SemiDiscrete(None, LINE.half()), TypeError, "points must hold real numbers in float32 or float64, got torch.float16|Type-check error"),
    (lambda: SemiDiscrete(None, LINE.to(torch.complex64)), TypeError, "points must hold real numbers .*, got torch.complex64|Type-check error"),
    (lambda: SemiDiscrete(None, LINE).fit(5, clipp=1.0), ValueError, "a setting of fit must be one of .*did you mean clip"),
    (lambda: fitted().shares(0), ValueError, "n must be at least 1, got 0"),
    (lambda: fitted().cost(-1.0), ValueError, "p must lie in"),
])
def test_refusals(make, error, words):
    with pytest.raises(error, match=words):
        make()
