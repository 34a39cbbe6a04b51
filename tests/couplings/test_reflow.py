"""Fixed pairs and a flow's own pairs: closed forms of costs, what is carried along, refusals."""
import math

import pytest
import torch

from rheos.core import Draws
from rheos.couplings import Independent, Paired, Reflow
from rheos.data import GaussianMixture, skewed
from rheos.paths import VP, ExactField, Field, Path, Times
from rheos.samplers import RungeKutta, invert, sample

Z = Draws(7).rows("z", 0, (50, 2), dtype=torch.float64)
DRIFT = torch.tensor([1.0, -2.0], dtype=torch.float64)
SHIFT = Field(lambda x, t, cond: DRIFT.to(x).expand_as(x), Path.linear())
SHIFT.net.event = (2,)


def heun(field, x, cond=None):
    return sample(field, start=x, rule=RungeKutta(2), steps=20, cond=cond)


def test_pairs_stay_together_in_every_epoch(seed):
    pairs = Paired(Z, 3 * Z + DRIFT, {"row": torch.arange(50)})
    batches = [pairs.sample(10, seed=seed, step=step) for step in range(10)]
    for batch in batches:
        assert torch.equal(batch.x1, 3 * batch.x0 + DRIFT) and torch.equal(Z[batch.cond["row"]], batch.x0)
    rows = torch.cat([batch.cond["row"] for batch in batches])
    assert sorted(rows[:50].tolist()) == list(range(50)) == sorted(rows[50:].tolist())
    assert rows[:50].tolist() != rows[50:].tolist() and len(pairs) == 50


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0])
def test_the_cost_of_a_shift_is_its_length(p):
    assert Paired(Z, Z + DRIFT).cost(p) == pytest.approx(5 ** (p / 2), rel=1e-12)
    assert Reflow(SHIFT, Z, heun).cost(p) == pytest.approx(5 ** (p / 2), rel=1e-12)
    assert Independent(Z[:1] + DRIFT, Z[:1]).cost(p, n=5) == pytest.approx(5 ** (p / 2), rel=1e-12)


def test_the_flow_between_gaussians_is_a_stretch(seed):
    std = torch.tensor([2.0, 0.5], dtype=torch.float64)
    law = GaussianMixture(torch.ones(1, dtype=torch.float64), DRIFT[None], std[None].square())
    rectified = Reflow(ExactField(Path.linear(), law), None, lambda f, x: sample(f, start=x, rule=RungeKutta(4), steps=40), 400, seed=seed)
    torch.testing.assert_close(rectified.target, DRIFT + std * rectified.source, rtol=1e-4, atol=1e-4)
    noise = torch.tensor([v for v in rectified.source.flatten()], dtype=torch.float64)
    assert abs(float(noise.mean())) < 5 / math.sqrt(800) and abs(float(noise.square().mean()) - 1) < 5 * math.sqrt(2 / 800)
    assert rectified.cost(2) < 0.8 * Independent(law, Z).cost(2)


def test_on_a_one_sided_path_the_flow_starts_at_c_z():
    path, seen = Path.vp(), []
    field = Field(lambda x, t, cond: 0 * x, path)
    pairs = Reflow(field, Z, lambda f, x: seen.append(x) or x)
    scale = float(path.coefficients(path.interval[0]).c)
    assert 0 < scale < 1
    assert torch.equal(pairs.source, Z)
    torch.testing.assert_close(seen[0], scale * Z, rtol=1e-14, atol=0)
    whole = Field(lambda x, t, cond: 0 * x, Path.interpolant("none"))
    assert torch.equal(Reflow(whole, Z, lambda f, x: x).target, Z)


def test_conditions_go_along_and_batches_do_not_matter(seed):
    field = Field(lambda x, t, cond: cond[:, None] * torch.ones_like(x), Path.linear())
    speed = torch.arange(50, dtype=torch.float64)
    pairs = Reflow(field, Z, heun, cond=speed, batch=7)
    torch.testing.assert_close(pairs.target, Z + speed[:, None], rtol=1e-12, atol=1e-12)
    batch = pairs.sample(20, seed=seed)
    torch.testing.assert_close(batch.x1, batch.x0 + batch.cond[:, None], rtol=1e-12, atol=1e-12)
    some = Reflow(field, Z, heun, 12, seed=seed, cond=speed)
    torch.testing.assert_close(some.target, some.source + some.cond[:, None], rtol=1e-12, atol=1e-12)
    assert len(some) == 12 and torch.equal(Z[some.cond.long()], some.source) and len(set(some.cond.tolist())) == 12
    law = Reflow(field, skewed(), heun, 12, seed=seed, cond=speed[:12])
    torch.testing.assert_close(law.target, law.source + speed[:12, None], rtol=1e-12, atol=1e-12)


def test_starts_are_a_function_of_the_seed(seed):
    for source in (None, skewed().to(torch.float32), Z):
        a, b, c = (Reflow(SHIFT, source, heun, 9, seed=s) for s in (seed, seed, seed + 1))
        assert torch.equal(a.source, b.source) and not torch.equal(a.source, c.source)


def test_no_gradient_is_kept():
    net = torch.nn.Linear(2, 2).double()
    pairs = Reflow(Field(lambda x, t, cond: net(x), Path.linear()), Z, lambda f, x: x + f.velocity(x, 0.5))
    assert not pairs.target.requires_grad
    torch.testing.assert_close(pairs.target, (Z + net(Z)).detach())


FREE = Field(lambda x, t, cond: x, Path.linear())
JOINED = Field(lambda x, t, cond: x, Path.interpolant("none"))


@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda: Paired(Z, Z[:20]), ValueError, r"source and target must have one shape, .* got \(50, 2\) and \(20, 2\)"),
    (lambda: Paired(Z, Z[:, :1]), ValueError, "source and target must have one shape"),
    (lambda: Paired(Z[:0], Z[:0]), ValueError, "source must hold at least one row"),
    (lambda: Paired(Z, Z / 0), ValueError, "target must be finite"),
    (lambda: Paired(Z, Z, torch.zeros(3)), ValueError, "cond must have 50 rows"),
    (lambda: Paired(Z, Z, {"a": torch.tensor(1.0)}), ValueError, "a must have 50 rows"),
    (lambda: Paired(Z, Z).cost(0.0), ValueError, "p must lie in"),
    (lambda: Paired(skewed(), Z), TypeError, None),
    (lambda: Reflow(lambda x: x, Z, heun), TypeError, None),
    (lambda: Reflow(SHIFT, Z, 50), TypeError, None),
    (lambda: Reflow(SHIFT, None, heun), ValueError, "n must be given"),
    (lambda: Reflow(SHIFT, Z, heun, 51), ValueError, "n must be at most 50, the rows of source, got 51"),
    (lambda: Reflow(SHIFT, Z, heun, 0), ValueError, "n must be at least 1"),
    (lambda: Reflow(SHIFT, Z, heun, batch=0), ValueError, "batch must be at least 1"),
    (lambda: Reflow(SHIFT, Z, heun, cond=torch.zeros(3)), ValueError, "cond must have 50 rows, one a row of source"),
    (lambda: Reflow(SHIFT, None, heun, 5, cond=torch.zeros(3)), ValueError, "cond must have 5 rows, one a row of pairs"),
    (lambda: Reflow(FREE, None, heun, 5), ValueError, "source must be given: this network does not tell"),
    (lambda: Reflow(JOINED, None, heun, 5), ValueError, "source must be given: a two-sided path"),
    (lambda: Reflow(SHIFT, Z, lambda f, x: x[:, :1]), ValueError, "integrate must return the shape of x"),
    (lambda: Reflow(SHIFT, Z, lambda f, x: x / 0), ValueError, "the result of integrate must be finite"),
])
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_flow_begins_where_its_path_does():
    """On a path that begins at t = 0.2 a unit of noise z is c(0.2) z there, not c(0) z."""
    class Late(VP):
        interval = (0.2, 0.999)

    path = Path(Late())
    seen = []
    Reflow(Field(lambda x, t, cond: x, path), torch.ones(3, 2), lambda field, x: seen.append(x.clone()) or x)
    torch.testing.assert_close(seen[0], torch.full((3, 2), float(Path.vp().coefficients(0.2).c)))


def test_targets_are_the_ends_of_the_sources():
    field, double = Field(lambda x, t, cond: x, Path.linear()), lambda field, x: 2 * x + 1
    made = Reflow(field, torch.arange(6.0).reshape(3, 2), double)
    assert torch.equal(made.target, 2 * made.source + 1)


# -- from data back to noise, and both ways ------------------------------------------------------------------------------------

def backwards(field, x, cond=None):
    return sample(field, start=x, rule=RungeKutta(4), times=Times.uniform(field.path, 40).reversed(), cond=cond)


def test_data_are_carried_back_to_the_noise_they_come_from(seed):
    """The flow between Gaussians is x1 = m + s z: real data go back to (x1 - m) / s, and are kept as they are."""
    std = torch.tensor([2.0, 0.5], dtype=torch.float64)
    law = GaussianMixture(torch.ones(1, dtype=torch.float64), DRIFT[None], std[None].square())
    data = law.sample(60, seed=seed)
    for integrate in (backwards, lambda field, x: invert(field, x, times=Times.uniform(field.path, 400)).x):
        pairs = Reflow.inverted(ExactField(Path.linear(), law), data, integrate, batch=25)
        torch.testing.assert_close(pairs.source, (data - DRIFT) / std, rtol=0, atol=0.02)
        assert torch.equal(pairs.target, data) and not pairs.source.requires_grad


def test_conditions_go_back_too_and_the_start_is_that_of_unit_noise():
    speed = torch.linspace(-1, 2, 50, dtype=torch.float64)
    seen = []

    def integrate(field, x, cond):
        seen.append(cond)
        return x - cond[:, None]

    pairs = Reflow.inverted(Field(lambda x, t, cond: x, Path.vp()), Z, integrate, cond=speed, batch=20)
    torch.testing.assert_close(pairs.source, (Z - speed[:, None]) / float(Path.vp().coefficients(0.0).c), rtol=1e-12, atol=0)
    assert torch.equal(torch.cat(seen), speed) and [len(c) for c in seen] == [20, 20, 10] and torch.equal(pairs.cond, speed)
    joined = Reflow.inverted(JOINED, Z, lambda field, x: x - 1)
    torch.testing.assert_close(joined.source, Z - 1, rtol=0, atol=0)


def test_pairs_of_both_kinds_are_visited_by_their_number(seed):
    both = Paired(Z, Z + 1, {"row": torch.arange(50)}) + Paired(-Z[:10], Z[:10], {"row": torch.arange(50, 60)})
    assert len(both) == 60
    batch = both.sample(60, seed=seed)
    first = batch.cond["row"] < 50
    assert int(first.sum()) == 50 and sorted(batch.cond["row"].tolist()) == list(range(60))
    assert torch.equal(batch.x1[first], batch.x0[first] + 1) and torch.equal(batch.x1[~first], -batch.x0[~first])
    assert (Paired(Z, Z) + Paired(Z, Z)).cond is None


@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda: Reflow.inverted(SHIFT, Z[:0], backwards), ValueError, "target must hold at least one row"),
    (lambda: Reflow.inverted(SHIFT, skewed(), backwards), TypeError, None),
    (lambda: Reflow.inverted(SHIFT, Z, backwards, cond=torch.zeros(3)), ValueError, "cond must have 50 rows, one a row of target"),
    (lambda: Reflow.inverted(SHIFT, Z, lambda f, x: x[:, :1]), ValueError, "integrate must return the shape of x"),
    (lambda: Reflow.inverted(lambda x: x, Z, backwards), TypeError, None),
    (lambda: Paired(Z, Z) + Paired(Z[:, :1], Z[:, :1]), ValueError, r"pairs to be joined must have one event shape, got \(2,\) and \(1,\)"),
    (lambda: Paired(Z, Z, torch.arange(50)) + Paired(Z, Z), ValueError, "pairs to be joined must have conditions of one kind, got Tensor and NoneType"),
    (lambda: Paired(Z, Z, {"a": torch.arange(50)}) + Paired(Z, Z, {"b": torch.arange(50)}), ValueError, "pairs to be joined must have conditions of one kind"),
    (lambda: Paired(Z, Z, torch.arange(50)) + Paired(Z, Z, torch.zeros(50)), ValueError, "conditions of one shape and dtype, got cond of .*int64 and of .*float32"),
    (lambda: Paired(Z, Z, {"a": Z}) + Paired(Z, Z, {"a": Z[:, :1]}), ValueError, r"conditions of one shape and dtype, got a of \(2,\) in .* and of \(1,\)"),
    (lambda: Paired(Z, Z) + 3, TypeError, None),
])
def test_refusals_both_ways(call, error, message):
    with pytest.raises(error, match=message):
        call()
