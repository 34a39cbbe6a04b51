"""Nudges by closed forms: gradients of a Gaussian's data prediction, units, what is carried on; and the papers built on them."""
from __future__ import annotations

import warnings

import pytest
import torch

from rheos.core import Draws
from rheos.data import GaussianMixture
from rheos.guidance.cyclic import CyclicOneWay, Latents
from rheos.guidance.flow_chef import flow_chef
from rheos.guidance.nudges import Misfit, Nudge
from rheos.guidance.operators import Dense, Grey, Mask, Pool
from rheos.guidance.repaint import Known, repaint
from rheos.guidance.steered import steered
from rheos.guidance.time_travel import travel, travelled
from rheos.paths import ExactField, Field, Path, Times

F64 = torch.float64
MEAN, VARIANCE = torch.tensor([[0.7, -1.2, 0.4]], dtype=F64), torch.tensor([[0.3, 1.7, 0.6]], dtype=F64)
GAUSSIAN = GaussianMixture(torch.ones(1, dtype=F64), MEAN, VARIANCE)
SEES = Dense(torch.tensor([[2.0, -1.0, 0.5], [0.3, 0.4, -1.0]], dtype=F64), (3,))
PATHS = {"linear": Path.linear(), "vp": Path.vp(), "edm": Path.edm(0.02, 20.0)}


def rows(name, n=5, width=3):
    return Draws(4).rows(name, 0, (n, width), dtype=F64)


def asked(field, t):
    return lambda x: field(x, t)


def wells(data, t):
    """Not quadratic, different for each coordinate."""
    return (data.cos() * torch.tensor([1.0, 2.0, -0.5], dtype=data.dtype)).sum(1) + t * data[:, 0]


# -- gradients -----------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", PATHS)
def test_through_the_network_is_the_chain_rule_of_a_gaussian(name):
    """The data prediction is m + g (x - b m) with g = b v / (b^2 v + c^2), so the gradient on x is g times that on the data."""
    path, x, t = PATHS[name], rows("x"), 0.4
    field, at = ExactField(path, GAUSSIAN), path.coefficients(t)
    data = field(x, t).data
    slope = torch.tensor([1.0, 2.0, -0.5], dtype=F64) * -data.sin()
    slope[:, 0] += t
    gain = at.b * VARIANCE / (at.b**2 * VARIANCE + at.c**2)
    for through, expected in (("data", slope), ("network", gain * slope)):
        moved, _ = Nudge(wells, 0.3, through=through)(x, t, asked(field, t))
        torch.testing.assert_close(moved, x - 0.3 * expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("units", ["gradient", "sigma"])
@pytest.mark.parametrize("through", ["data", "network"])
def test_samples_never_mix(through, units):
    field, x = ExactField(Path.linear(), GAUSSIAN), rows("x")
    nudge = Nudge(wells, 0.2, through=through, units=units)
    whole, _ = nudge(x, 0.5, asked(field, 0.5))
    alone, _ = nudge(x[3:4], 0.5, asked(field, 0.5))
    torch.testing.assert_close(whole[3:4], alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", PATHS)
def test_units_of_sigma_move_each_sample_so_far(name):
    path, x = PATHS[name], rows("x")
    field = ExactField(path, GAUSSIAN)
    moved, _ = Nudge(wells, 0.2, through="network", units="sigma")(x, 0.4, asked(field, 0.4))
    far = (moved - x).square().mean(1).sqrt()
    torch.testing.assert_close(far, torch.full((5,), 0.2 * float(path.coefficients(0.4).c), dtype=F64))
    plain, _ = Nudge(wells, 0.2, through="network")(x, 0.4, asked(field, 0.4))
    torch.testing.assert_close((moved - x) / far[:, None], (plain - x) / (plain - x).square().mean(1, keepdim=True).sqrt())


def test_a_flat_energy_moves_nothing():
    field, x = ExactField(Path.linear(), GAUSSIAN), rows("x")
    moved, answer = Nudge(lambda data, t: 0 * data.sum(1), 0.2, units="sigma")(x, 0.4, asked(field, 0.4))
    assert torch.equal(moved, x)
    torch.testing.assert_close(answer.data, field(x, 0.4).data)


def test_newtons_step_is_a_full_projection_carried_on_x():
    """On the linear path the velocity is kept and the data move with x, so that afterwards they measure y."""
    field, x, y = ExactField(Path.linear(), GAUSSIAN), rows("x"), rows("y", width=2)
    before = field(x, 0.3)
    moved, answer = Nudge(Misfit(((SEES, y, 1.0),)), units="newton")(x, 0.3, asked(field, 0.3))
    torch.testing.assert_close(SEES.forward(answer.data), y)
    torch.testing.assert_close(answer.velocity, before.velocity)
    torch.testing.assert_close(moved - x, answer.data - before.data)
    # The move is the smallest: along the rows of the matrix.
    torch.testing.assert_close(SEES.pinv(SEES.forward(moved - x)), moved - x)


def test_newtons_step_is_the_gradient_where_the_operator_is_a_mask_and_knows_several():
    field, x = ExactField(Path.linear(), GAUSSIAN), rows("x")
    first, second = Mask(torch.tensor([True, False, True])), Mask(torch.tensor([False, True, False]))
    y = rows("y")
    for energy in (Misfit(((first, y, 1.0),)), Misfit(((first, y, 0.5), (second, 2 * y, 0.25)))):
        ends = [Nudge(energy, 0.7, units=units)(x, 0.3, asked(field, 0.3))[0] for units in ("newton", "gradient")]
        torch.testing.assert_close(*ends)


def test_misfit_is_half_the_weighted_square_and_takes_any_function():
    data, y = rows("data"), rows("y", width=2)
    energy = Misfit(((SEES, y, 3.0), (lambda x: x.prod(1, keepdim=True), torch.tensor([[0.5]], dtype=F64), 2.0)))
    by_hand = [1.5 * float((SEES.matrix @ data[i] - y[i]).square().sum()) + float((data[i, 0] * data[i, 1] * data[i, 2] - 0.5) ** 2) for i in range(5)]
    torch.testing.assert_close(energy(data, 0.3), torch.tensor(by_hand, dtype=F64))
    torch.testing.assert_close(energy.rows(1, 4)(data[1:4], 0.3), energy(data, 0.3)[1:4])


# -- the engine's side ---------------------------------------------------------------------------------------------------------

def test_no_graph_through_the_network_unless_asked():
    graphs = []
    field = Field(lambda x, t, cond: graphs.append(torch.is_grad_enabled()) or -x, Path.linear())
    energy = Misfit(((SEES, rows("y", 1, 2), 1.0),))
    for through, units, expected in (("data", "gradient", False), ("data", "newton", False), ("network", "gradient", True)):
        graphs.clear()
        x = travel(field, start=rows("x"), steps=2, nudge=Nudge(energy, 0.1, through=through, units=units))
        assert graphs == [expected] * 2 and not x.requires_grad


@pytest.mark.parametrize(("settings", "calls"), [({}, 1), ({"loops": 3}, 3), ({"anew": True}, 2), ({"loops": 3, "anew": True}, 4)], ids=str)
def test_calls_a_step(settings, calls):
    field = ExactField(Path.linear(), GAUSSIAN)
    travel(field, 2, steps=5, nudge=Nudge(wells, 0.1, **settings), seed=1)
    assert field.nfe == 5 * calls


def test_loops_go_on_from_where_the_last_one_ended():
    field, x = ExactField(Path.linear(), GAUSSIAN), rows("x")
    once = Nudge(wells, 0.2)
    twice, answer = Nudge(wells, 0.2, loops=2, anew=True)(x, 0.4, asked(field, 0.4))
    torch.testing.assert_close(twice, once(once(x, 0.4, asked(field, 0.4))[0], 0.4, asked(field, 0.4))[0])
    torch.testing.assert_close(answer.data, field(twice, 0.4).data)


def test_it_acts_between_start_and_stop_and_where_data_is_foreseen():
    field, x = ExactField(Path.linear(), GAUSSIAN), rows("x")
    moves = lambda nudge, t: not torch.equal(nudge(x, t, asked(field, t))[0], x)
    nudge = Nudge(wells, 0.2, start=0.25, stop=0.75)
    assert [moves(nudge, t) for t in (0.2, 0.25, 0.5, 0.75, 0.9)] == [False, True, True, False, False]
    assert [moves(Nudge(wells, 0.2, least_alpha=0.3), t) for t in (0.0, 0.29, 0.3, 0.9)] == [False, False, True, True]
    assert [moves(Nudge(wells, lambda t: max(0.0, t - 0.5)), t) for t in (0.4, 0.6)] == [False, True]


def test_split_batches_cut_the_energy_too():
    field, y = ExactField(Path.linear(), GAUSSIAN), rows("y", width=2)
    nudge = Nudge(Misfit(((SEES, y, 1.0),)), 0.4, through="network", units="sigma")
    whole = travel(field, 5, steps=6, eta=1.0, nudge=nudge, seed=3)
    torch.testing.assert_close(travel(field, 5, steps=6, eta=1.0, nudge=nudge, seed=3, batch=2), whole, rtol=1e-12, atol=1e-12)


def test_a_nudge_follows_bayes_rule_on_a_gaussian(seed):
    """Half the squared miss over the miss's own variance given x_t, through the network and times sigma^2 / alpha a unit of lam, is the score of the
    likelihood: the samples are those of the posterior, to the steps' bias."""
    # One number, so that everything is known: x ~ N(m, v), y = x + noise of variance r.
    m, v, y, r, n, steps = 0.5, 1.5, 1.7, 0.4, 4000, 150
    path = Path.linear()
    field = ExactField(path, GaussianMixture(torch.ones(1, dtype=F64), torch.tensor([[m]], dtype=F64), torch.tensor([v], dtype=F64)))

    def energy(data, t):
        left = v * (1 - t) ** 2 / (t**2 * v + (1 - t) ** 2)         # the variance of x1 given x_t
        return 0.5 * (data[:, 0] - y).square() / (left + r)

    # A score s adds -c c' + c^2 b' / b = (1 - t) / t to the velocity for each unit of it; over a step of 1 / steps that is the move.
    scale = lambda t: (1 - t) / t / steps
    x = travel(field, n, steps=steps, seed=seed, nudge=Nudge(energy, scale, through="network", start=1 / steps))
    gain = v / (v + r)
    assert abs(float(x.mean()) - (m + gain * (y - m))) < 5 * (v * (1 - gain)) ** 0.5 / n**0.5 + 0.03
    assert abs(float(x.var()) / (v * (1 - gain)) - 1) < 5 * (2 / n) ** 0.5 + 0.05


# -- refusals ------------------------------------------------------------------------------------------------------------------

ONE = Misfit(((SEES, torch.zeros(1, 2, dtype=F64), 1.0),))
GAUSS = ExactField(Path.linear(), GAUSSIAN)


@pytest.mark.parametrize(("call", "error", "words"), [
    (lambda: Misfit(()), ValueError, "parts must hold one condition or more"),
    (lambda: Misfit(((SEES, torch.zeros(1, 2)),)), Exception, "condition must be|parts"),
    (lambda: Misfit(((Pool, torch.zeros(1, 1, 2, 2), 1.0),)), TypeError, "operator must be a linear operator or a function"),
    (lambda: Misfit(((SEES, torch.zeros(1, 3, dtype=F64), 1.0),)), ValueError, r"must have shape \(batch, 2\)"),
    (lambda: Misfit(((SEES, torch.zeros(1, 2, dtype=F64), -1.0),)), ValueError, "weight must lie in"),
    (lambda: Misfit(((lambda x: x, torch.zeros(1, 2, dtype=F64), 1.0),))(rows("x"), 0.5), ValueError, r"target must have shape \(5, 3\), .* got \(1, 2\)"),
    (lambda: Misfit(((Grey(), torch.zeros(1, 1, 4, 4), 1.0),))(torch.zeros(1, 3, 4, 6), 0.5), ValueError, "y must hold measurements of shape"),
    (lambda: Misfit(((lambda x: x, torch.zeros(1, 3, dtype=F64), 1.0),)).newton(rows("x"), 0.5), ValueError, "linear operators only"),
    (lambda: Nudge(wells, -1.0), ValueError, "scale must lie in"),
    (lambda: Nudge(wells, lambda t: -1.0)(rows("x"), 0.5, asked(GAUSS, 0.5)), ValueError, "scale must lie in"),
    (lambda: Nudge(wells, through="noise"), ValueError, "through must be one of data, network"),
    (lambda: Nudge(wells, units="pixels"), ValueError, "units must be one of gradient, sigma, newton"),
    (lambda: Nudge(wells, units="newton"), ValueError, "needs an energy with a method newton"),
    (lambda: Nudge(Misfit(((lambda x: x, torch.zeros(1, 3), 1.0),)), units="newton"), ValueError, "linear operators only"),
    (lambda: Nudge(wells, loops=0), ValueError, "loops must be at least 1"),
    (lambda: Nudge(wells, start=0.6, stop=0.5), ValueError, "stop must not lie before start = 0.6"),
    (lambda: Nudge(wells, least_alpha=2.0), ValueError, "least_alpha must lie in"),
    (lambda: Nudge(3), TypeError, "energy"),
    (lambda: Nudge(lambda data, t: data.square().mean())(rows("x"), 0.5, asked(GAUSS, 0.5)), ValueError, r"one number a sample, shape \(5,\), got \(\)"),
    (lambda: Nudge(lambda data, t: torch.zeros(5, dtype=F64))(rows("x"), 0.5, asked(GAUSS, 0.5)), ValueError, "must depend on the data"),
    (lambda: travel(GAUSS, 3, steps=2, nudge=Nudge(Misfit(((SEES, rows("y", 2, 2), 1.0),)))), ValueError, "y must have as many rows as the batch, 3"),
])
def test_refusals(call, error, words):
    with pytest.raises(error, match=words):
        call()


# -- papers --------------------------------------------------------------------------------------------------------------------

EYE = torch.eye(3, dtype=F64)
AXIS = torch.tensor([[1.0, 0.8, -0.5]], dtype=F64)
TIED = GaussianMixture(torch.ones(1, dtype=F64), MEAN, (0.3 * EYE + AXIS.T @ AXIS)[None])
SEEN = Dense(torch.tensor([[1.0, 0.0, 0.0]], dtype=F64), (3,))


def posterior_mean(y):
    """Of TIED given its first number, by conditioning."""
    cov = TIED.covariance[0]
    return MEAN[0, 1:] + (y - MEAN[0, 0]) * cov[1:, 0] / cov[0, 0]


@pytest.mark.parametrize("method", ["steered", "flow_chef"])
def test_steered_samples_follow_what_was_measured(method):
    """One of three tied numbers is measured; the others' mean is nearer to its conditional mean than halfway from the free one."""
    y = torch.tensor([[2.2]], dtype=F64)
    field, conditions = ExactField(Path.linear(), TIED), [(SEEN, y, 1.0)]
    made = steered(field, conditions) if method == "steered" else flow_chef(field, conditions)
    x = made.sample(1500, steps=50, seed=1)
    torch.testing.assert_close(SEEN.forward(x), y.expand(1500, 1), rtol=0, atol=1e-9)
    far, whole = x[:, 1:].mean(0) - posterior_mean(2.2), MEAN[0, 1:] - posterior_mean(2.2)
    assert bool((far.abs() < 0.4 * whole.abs()).all())


def test_steered_meets_several_conditions_and_functions_of_the_data():
    field = ExactField(Path.linear(), TIED)
    other = Dense(torch.tensor([[0.0, 1.0, 0.0]], dtype=F64), (3,))
    y, z = torch.tensor([[1.2]], dtype=F64), torch.tensor([[-0.9]], dtype=F64)
    x = steered(field, [(SEEN, y, 1.0), (other, z, 2.0)]).sample(6, steps=12, seed=2, batch=4)
    torch.testing.assert_close(x[:, :2], torch.tensor([[1.2, -0.9]], dtype=F64).expand(6, 2), rtol=0, atol=1e-9)
    norm = lambda data: data.square().sum(1, keepdim=True)
    target = torch.tensor([[9.0]], dtype=F64)
    free = travel(field, 300, steps=50, seed=3)
    bound = steered(field, [(norm, target, 1.0)]).sample(300, steps=50, seed=3)
    miss = lambda x: float((norm(x) - target).abs().median())
    assert miss(bound) < 0.1 * miss(free)


def test_steered_is_the_engine_with_the_papers_settings():
    field, y = ExactField(Path.vp(), TIED), torch.tensor([[1.2]], dtype=F64)
    ours = steered(field, [(SEEN, y, 1.0)], scale=0.2, loops=3, exact=False, through="data").sample(4, steps=30, seed=5)
    nudge = Nudge(Misfit(((SEEN, y, 1.0),)), 0.2, units="sigma", stop=0.95, least_alpha=0.02)
    walk = travelled(Times.uniform(Path.vp(), 30), 3, start=0.2, stop=0.8)
    assert torch.equal(ours, travel(field, 4, times=walk, eta=1.0, nudge=nudge, seed=5))


def test_flow_chef_is_its_published_loop():
    """x0 = x + (1 - t) v; x <- x - A^+ (A x0 - y); x <- x + dt v, with the v found before."""
    field, y, x = ExactField(Path.linear(), TIED), rows("y", 4, 1), rows("x", 4)
    ours = flow_chef(field, [(SEEN, y, 1.0)], scale=0.6).sample(start=x, steps=8)
    for k in range(8):
        t = k / 8
        v = field.velocity(x, t)
        x = x - 0.6 * SEEN.pinv(SEEN.forward(x + (1 - t) * v) - y)
        x = x + v / 8
    torch.testing.assert_close(ours, x, rtol=1e-9, atol=1e-9)


def test_flow_chef_steers_by_any_energy_and_where_it_is_told():
    field = ExactField(Path.linear(), TIED)
    pull = lambda data, t: (data[:, 2] - 3.0).square()
    means = [float(flow_chef(field, pull, scale=s).sample(200, steps=10, seed=4)[:, 2].mean()) for s in (0.0, 0.05, 0.3)]
    assert means[0] < means[1] < means[2]
    ours = flow_chef(field, pull, scale=0.2, loops=2, anew=True, start=0.1, stop=0.6, eta=0.3).sample(5, steps=10, seed=4)
    nudge = Nudge(pull, 0.2, loops=2, anew=True, start=0.1, stop=0.6)
    assert torch.equal(ours, travel(field, 5, steps=10, nudge=nudge, eta=0.3, seed=4))


def test_flow_chef_warns_once_of_a_curved_path():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        flow_chef(ExactField(Path.linear(), TIED), wells)
        curved = Path.vp(0.1, 17.5)          # a path that no other test has
        for _ in range(2):
            flow_chef(ExactField(curved, TIED), wells)
    assert len(caught) == 1 and "linear path" in str(caught[0].message)


# -- masks -----------------------------------------------------------------------------------------------------------------------

KEEP = torch.tensor([True, False, False])
REFERENCE = torch.tensor([[2.0, 9.0, 9.0], [-1.0, 0.3, 0.1]], dtype=F64)


def test_repaint_harmonises_by_repetition():
    """The unknown numbers come to their conditional mean, all the nearer the more often the steps are made; the known end where they were."""
    field, known = ExactField(Path.linear(), TIED), REFERENCE[:1]
    gaps = []
    for loops in (1, 8):
        x = repaint(field, KEEP, known, loops=loops, length=2).sample(1000, steps=16, seed=1)
        torch.testing.assert_close(x[:, 0], torch.full((1000,), 2.0, dtype=F64))
        gaps.append(float((x[:, 1:].mean(0) - posterior_mean(2.0)).norm()))
    assert gaps[1] < 0.5 * gaps[0] and gaps[1] < 0.15


def test_repaint_puts_the_paths_own_law_in_place():
    known = Known(Path.vp(), KEEP, REFERENCE)
    x, z, at = rows("x", 2), rows("z", 2), Path.vp().coefficients(0.4)
    end = known(x, 0.4, lambda: z)
    torch.testing.assert_close(end[:, 0], at.b * REFERENCE[:, 0] + at.c * z[:, 0])
    assert torch.equal(end[:, 1:], x[:, 1:]) and torch.equal(known.rows(1, 2)(x[1:], 0.4, lambda: z[1:]), end[1:])


@pytest.mark.parametrize("name", ["linear", "vp"])
def test_latents_lead_back_to_the_reference(name):
    """Each latent is the reference at its time: the flow from it ends there, to the steps' error."""
    path = PATHS[name]
    field = ExactField(path, TIED)
    reference = TIED.sample(6, seed=2)
    begin, found = CyclicOneWay(field, KEEP, reference, invert_steps=150).latents([0.3, 0.4, 0.5])
    assert sorted(found) == [0.3, 0.4, 0.5, 0.6]
    for t, latent in found.items():
        back = travel(field, start=latent, times=[t + (path.interval[1] - t) * k / 150 for k in range(151)])
        assert float((back - reference).abs().max()) < 0.1
    # The canvas is the reference where it is kept and level elsewhere; it differs from the reference's own latents.
    back = travel(field, start=begin, times=[0.5 + (path.interval[1] - 0.5) * k / 150 for k in range(151)])
    assert float((back - torch.where(KEEP, reference, 0.0)).abs().max()) < 0.1


def test_cyclic_cycles_between_its_levels_and_overwrites_on_the_way():
    asked = []
    inner = ExactField(Path.linear(), TIED)
    field = Field(lambda x, t, cond: asked.append(round(float(t[0]), 3)) or inner(x, t).velocity, Path.linear(), "velocity")
    made = CyclicOneWay(field, KEEP, REFERENCE, cycles=2, invert_steps=5)
    made.sample(steps=10, seed=3)
    assert asked[-9:] == [0.3, 0.4, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    _, latents = made.latents([0.3, 0.4, 0.5])
    kept = Latents(KEEP, latents)
    x = rows("x", 2)
    for t in (0.3, 0.4, 0.5, 0.6):
        torch.testing.assert_close(kept(x, t, lambda: x), torch.cat([latents[t][:, :1], x[:, 1:]], 1))
    assert kept(x, 0.7, lambda: x) is x


def test_cyclic_holds_the_reference_and_lets_it_flow_out():
    """The canvas begins far from what goes with the reference; cycles forget it."""
    field = ExactField(Path.linear(), TIED)
    reference = torch.tensor([[2.0, 0.0, 0.0]], dtype=F64)
    gaps = []
    for cycles in (0, 1, 5):
        x = CyclicOneWay(field, KEEP, reference, cycles=cycles, keep_until=0.9, high=0.2, invert_steps=40, canvas=-4.0).sample(400, steps=30, seed=4)
        assert float((x[:, 0] - 2.0).abs().mean()) < 0.2
        gaps.append(float((x[:, 1:].mean(0) - posterior_mean(2.0)).norm()))
    assert max(gaps[1:]) < 0.5 * gaps[0]


def test_cyclic_draws_noise_with_the_last_eta_on_the_last_way_down():
    """Without cycles the way begins at one point: with a last eta of 0 nothing is random, whatever eta, and with more of it samples part more."""
    field = ExactField(Path.linear(), TIED)
    spread = lambda eta, last: float(CyclicOneWay(field, KEEP, REFERENCE[:1], cycles=0, eta=eta, last_eta=last, invert_steps=5).sample(50, steps=20)[:, 1:].std(0).min())
    assert spread(1.0, 0.0) < 1e-12 and 0.02 < 2 * spread(0.0, 0.1) < spread(0.0, 1.0)
    # In a cycle the noise is eta's: with both at 0 only the jump up parts samples, and eta adds to that.
    cycled = lambda eta: CyclicOneWay(field, KEEP, REFERENCE[:1], cycles=1, eta=eta, last_eta=0.0, invert_steps=5).sample(3, steps=20)
    assert not torch.equal(cycled(0.0), cycled(1.0))


def test_steered_meets_conditions_to_rounding_only_where_no_noise_is_left():
    """Linear and cosine paths end without noise; the variance-preserving one keeps a trace. Overlapping conditions are met as one operator."""
    y = torch.tensor([[2.2]], dtype=F64)
    miss = lambda path: float((SEEN.forward(steered(ExactField(path, TIED), [(SEEN, y, 1.0)]).sample(20, steps=20)) - y).abs().max())
    assert max(miss(Path.linear()), miss(Path.cosine())) < 1e-9 < miss(Path.vp()) < 0.05
    sums, both = Dense(torch.tensor([[1.0, 1.0, 0.0]], dtype=F64), (3,)), torch.tensor([[2.2, 0.5]], dtype=F64)
    field = ExactField(Path.linear(), TIED)
    apart = steered(field, [(SEEN, y, 1.0), (sums, both[:, 1:], 1.0)]).sample(20, steps=20)
    joined = steered(field, [(Dense.of((SEEN, sums), (3,)), both, 1.0)]).sample(20, steps=20)
    measured = lambda x: torch.cat([SEEN.forward(x), sums.forward(x)], 1)
    assert float((measured(apart) - both)[:, 0].abs().max()) > 1e-3
    torch.testing.assert_close(measured(joined), both.expand(20, 2), rtol=0, atol=1e-9)


def test_cyclic_batches_may_be_split():
    made = CyclicOneWay(ExactField(Path.linear(), TIED), KEEP, REFERENCE.repeat(2, 1), cycles=1, invert_steps=10)
    whole = made.sample(steps=10, seed=6)
    torch.testing.assert_close(made.sample(steps=10, seed=6, batch=3), whole, rtol=1e-9, atol=1e-9)
    assert whole.shape == (4, 3)


@pytest.mark.parametrize(("settings", "words"), [
    ({"high": 0.5}, "high must lie in"), ({"high": 0.0}, "high must lie in"), ({"low": 1.0}, "low must lie in"), ({"keep_until": 0.4}, "keep_until must lie in"),
    ({"cycles": -1}, "cycles must be at least 0"), ({"last_eta": 2.0}, "last_eta must lie in"), ({"invert_steps": 0}, "invert_steps must be at least 1"),
    ({"keep": torch.tensor([True, False])}, "keep must have shape"), ({"keep": torch.zeros(3, dtype=torch.bool)}, "keep must be True somewhere"),
    ({"reference": REFERENCE / 0}, "reference must be finite"),
], ids=str)
def test_cyclic_refusals(settings, words):
    with pytest.raises(ValueError, match=words):
        CyclicOneWay(**{"field": GAUSS, "keep": KEEP, "reference": REFERENCE, **settings})


@pytest.mark.parametrize(("call", "words"), [
    (lambda: CyclicOneWay(GAUSS, KEEP, REFERENCE).sample(3), "n must be the 2 rows of the reference"),
    (lambda: CyclicOneWay(GAUSS, KEEP, REFERENCE).sample(start=REFERENCE), "start must be left out of sample: CyclicOneWay makes it"),
    (lambda: CyclicOneWay(GAUSS, KEEP, REFERENCE).sample(times=[0.1, 1.0]), "times must be left out of sample"),
    (lambda: CyclicOneWay(GAUSS, KEEP, REFERENCE).sample(eta=0.5), "eta must be left out of sample"),
    (lambda: steered(GAUSS, [(SEEN, torch.zeros(1, 1, dtype=F64), 1.0)]).sample(2, eta=0.5), "eta must be left out of sample: it was settled"),
    (lambda: repaint(GAUSS, KEEP, REFERENCE).sample(3, steps=5), r"reference must have shape \(3, 3\), or one row for all samples, got \(2, 3\)"),
    (lambda: repaint(GAUSS, torch.tensor([True, False]), REFERENCE), "keep must have shape"),
    (lambda: steered(GAUSS, []), "parts must hold one condition or more"),
    (lambda: steered(GAUSS, [(SEEN, torch.zeros(1, 2, dtype=F64), 1.0)]), r"must have shape \(batch, 1\)"),
    (lambda: steered(GAUSS, [(SEEN, torch.zeros(1, 1, dtype=F64), 1.0)], loops=0), "loops must be at least 1"),
    (lambda: steered(GAUSS, [(SEEN, torch.zeros(2, 1, dtype=F64), 1.0)]).sample(3, steps=4), "y must have as many rows as the batch, 3"),
    (lambda: steered(ExactField(Path.interpolant(), GAUSSIAN, GAUSSIAN), [(SEEN, torch.zeros(1, 1, dtype=F64), 1.0)]), "field must live on a one-sided path"),
    (lambda: flow_chef(GAUSS, wells, units="newton"), "needs an energy with a method newton"),
])
def test_papers_refuse(call, words):
    with pytest.raises(ValueError, match=words):
        call()
