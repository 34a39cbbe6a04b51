"""Light Schrödinger bridges: the Gaussian bridge in closed form, the two ways of one plan, its SDE and its flow, Sinkhorn's plan, refusals."""
import math

import pytest
import torch

from rheos.core import Draws, StopWhen
from rheos.core.files import save_tensors
from rheos.couplings import SchrodingerBridge
from rheos.couplings.schrodinger import Modes, Potential, drift, plan_logits, plan_means
from rheos.data import GaussianMixture, skewed, two_moons
from rheos.metrics import floor, sliced_w2
from rheos.paths import BrownianBridge, Path, Times
from rheos.samplers import EulerMaruyama, RungeKutta, sample

F = torch.float64
EPSILON = 0.5
M0, M1 = torch.tensor([1.0, -0.5], dtype=F), torch.tensor([-1.0, 2.0], dtype=F)
C0, C1 = torch.tensor([[0.7, 0.3], [0.3, 0.4]], dtype=F), torch.tensor([[1.5, -0.6], [-0.6, 0.5]], dtype=F)
EYE = torch.eye(2, dtype=F)


def gaussian(mean, covariance):
    return GaussianMixture(torch.ones(1, dtype=F), mean[None], covariance[None])


def power(matrix, p):
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values**p) @ vectors.T


def closed_cross():
    """The cross covariance of x0 and x1 in the entropic plan between two Gaussians (Janati et al., 2020, arXiv:2006.02572; their sigma^2 is EPSILON)."""
    root = power(C0, 0.5)
    return root @ power(root @ C1 @ root + EPSILON**2 / 4 * EYE, 0.5) @ power(C0, -0.5) - EPSILON / 2 * EYE


def closed_drift(x, t):
    """(E[x1 | x_t = x] - x) / (1 - t), from the joint normal law of x1 and x_t."""
    cross = closed_cross()
    mean = (1 - t) * M0 + t * M1
    covariance = (1 - t) ** 2 * C0 + t**2 * C1 + t * (1 - t) * (cross + cross.T + EPSILON * EYE)
    gain = ((1 - t) * cross.T + t * C1) @ torch.linalg.inv(covariance)
    return (M1 + (x - mean) @ gain.T - x) / (1 - t)


@pytest.fixture(scope="module")
def between_gaussians():
    # One component sees nothing of the laws but mean and covariance: rows that have them exactly leave no sampling error.
    rows = Draws(6).rows("whitened", 0, (2, 256, 2), dtype=F)
    rows = rows - rows.mean(1, keepdim=True)
    x, y = (mean + v @ power(v.T @ v / 256, -0.5) @ power(c, 0.5) for v, mean, c in zip(rows, (M0, M1), (C0, C1), strict=True))
    return SchrodingerBridge(x, y, EPSILON, 1, "full").fit(500, 256, 0.1, seed=3)


@pytest.fixture(scope="module")
def between_mixtures():
    return SchrodingerBridge(skewed().sample(8000, seed=11), two_moons().sample(8000, seed=12), 0.2, 20).fit(900, 256, 0.1, seed=1)


@pytest.mark.parametrize("t", [0.0, 0.3, 0.9])
def test_the_drift_is_that_of_the_closed_gaussian_bridge(between_gaussians, t):
    x = gaussian(M0, C0).sample(500, seed=8) * (1 - t) + t * gaussian(M1, C1).sample(500, seed=9)
    exact = closed_drift(x, t)
    gap = (between_gaussians.drift(x, t) - exact).square().mean().sqrt() / exact.square().mean().sqrt()
    assert float(gap) < 1e-2


def test_the_plan_is_that_of_the_closed_gaussian_bridge(between_gaussians):
    x = gaussian(M0, C0).sample(300, seed=8)
    back = torch.linalg.inv(C0) @ closed_cross()
    plan = between_gaussians.plan(x)
    torch.testing.assert_close(plan.mean, M1 + (x - M0) @ back, rtol=0, atol=0.03)
    torch.testing.assert_close(between_gaussians.mean(x), plan.mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(plan.covariances[0], C1 - closed_cross().T @ back, rtol=0, atol=0.02)
    # The other way is the same plan seen from the other end.
    y = gaussian(M1, C1).sample(300, seed=5)
    ahead = torch.linalg.inv(C1) @ closed_cross().T
    torch.testing.assert_close(between_gaussians.reversed().mean(y), M0 + (y - M1) @ ahead, rtol=0, atol=0.03)


def test_velocity_and_score_are_those_of_the_closed_gaussian_bridge(between_gaussians):
    field, t, cross = between_gaussians.field(), 0.4, closed_cross()
    covariance = (1 - t) ** 2 * C0 + t**2 * C1 + t * (1 - t) * (cross + cross.T + EPSILON * EYE)
    x = torch.distributions.MultivariateNormal((1 - t) * M0 + t * M1, covariance).mean + Draws(1).rows("x", 0, (200, 2), dtype=F)
    score = -(x - (1 - t) * M0 - t * M1) @ torch.linalg.inv(covariance)
    answer = field(x, t)
    scale = float(score.square().mean().sqrt())
    assert float((answer.score - score).square().mean().sqrt()) < 0.02 * scale
    torch.testing.assert_close(answer.drift(EPSILON / 2), between_gaussians.drift(x, t), rtol=1e-10, atol=1e-10)
    # At the ends the field is finite, and the data expected at t = 0 is the barycentric map.
    torch.testing.assert_close(field(x, 0.0).data, between_gaussians.mean(x), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(field(x, 1.0).source, between_gaussians.reversed().mean(x), rtol=1e-10, atol=1e-10)


def mixture_modes(count=3, axes=None):
    draws = Draws(4)
    spread = 0.2 + draws.uniform("s", 0, (count, 2), dtype=F)
    weights = torch.log_softmax(draws.rows("w", 0, (count,), dtype=F), 0)
    turned = None if axes is None else torch.linalg.qr(draws.rows("a", 0, (count, 2, 2), dtype=F)).Q
    return Modes(weights, draws.rows("r", 0, (count, 2), dtype=F), spread, turned)


def covariance_of(modes):
    return torch.diag_embed(modes.spread) if modes.axes is None else modes.axes @ torch.diag_embed(modes.spread) @ modes.axes.mT


GRID = torch.cartesian_prod(*(torch.linspace(-9, 9, 301, dtype=F),) * 2)


def log_v(modes, y):
    """log v(y), for unit epsilon 0.4, by torch's own Gaussians."""
    laws = torch.distributions.MultivariateNormal(modes.centres, 0.4 * covariance_of(modes))
    return torch.logsumexp(modes.log_weights + laws.log_prob(y[:, None]), 1)


@pytest.mark.parametrize("axes", [None, True], ids=["diagonal", "full"])
def test_plan_and_drift_are_those_of_brute_force_on_a_grid(axes):
    modes, epsilon = mixture_modes(axes=axes), 0.4
    x = torch.tensor([[0.3, -0.7], [1.1, 0.4]], dtype=F)
    weights = torch.softmax(x @ GRID.T / epsilon + log_v(modes, GRID), 1)
    w = torch.softmax(plan_logits(modes, x, epsilon), 1)
    torch.testing.assert_close(torch.einsum("nk,nkd->nd", w, plan_means(modes, x)), weights @ GRID, rtol=1e-8, atol=1e-8)
    # phi_t is the heat flow of exp(|y|^2 / 2 eps) v(y), and eps grad log phi_t = (E[y] - x) / (1 - t) under N(x, eps (1 - t)) times it.
    for t in (0.0, 0.35, 0.8):
        logits = -torch.cdist(x, GRID).square() / (2 * epsilon * (1 - t)) + GRID.square().sum(1) / (2 * epsilon) + log_v(modes, GRID)
        exact = (torch.softmax(logits, 1) @ GRID - x) / (1 - t)
        torch.testing.assert_close(drift(modes, x, torch.tensor(t, dtype=F), epsilon), exact, rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(drift(modes, x, torch.tensor([t, t], dtype=F), epsilon), exact, rtol=1e-7, atol=1e-7)
    # At t = 1 it is x + eps grad log v.
    here = x.clone().requires_grad_(True)
    slope, = torch.autograd.grad(log_v(modes, here).sum(), here)
    torch.testing.assert_close(drift(modes, x, torch.tensor(1.0, dtype=F), epsilon), x + epsilon * slope, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("axes", [None, True], ids=["diagonal", "full"])
def test_the_loss_is_the_divergence_up_to_a_constant(axes):
    modes, epsilon = mixture_modes(axes=axes), 0.4
    x, y = torch.tensor([[0.3, -0.7], [1.1, 0.4]], dtype=F), torch.tensor([[-0.2, 0.9], [0.5, 0.6], [1.5, -1.0]], dtype=F)
    cell = (18 / 300) ** 2
    log_c = torch.logsumexp(x @ GRID.T / epsilon + log_v(modes, GRID), 1) + math.log(cell)
    exact = log_c.mean() - log_v(modes, y).mean()
    other = Modes(modes.log_weights.flip(0), modes.centres + 0.1, modes.spread * 1.2, modes.axes)
    shifted = torch.logsumexp(x @ GRID.T / epsilon + log_v(other, GRID), 1).mean() + math.log(cell) - log_v(other, y).mean()
    found = [Potential(m, epsilon, M0, M1, 1.7).loss(x, y) for m in (modes, other)]
    assert float((found[0] - found[1]).detach()) == pytest.approx(float(exact - shifted), abs=1e-7)


@pytest.mark.parametrize("axes", [None, True], ids=["diagonal", "full"])
def test_what_is_learned_from_is_what_was_given(axes):
    modes = mixture_modes(axes=axes)
    again = Potential(modes, 0.4, M0, M1, 2.5).modes()
    torch.testing.assert_close(covariance_of(again), covariance_of(modes), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close((again.log_weights, again.centres), (modes.log_weights, modes.centres), rtol=1e-10, atol=1e-12)


def test_the_plan_between_skewed_mixtures_has_both_marginals(between_mixtures, seed):
    x, y = skewed().sample(2000, seed=seed), two_moons().sample(2000, seed=seed + 1)
    least = {law: floor(sliced_w2, lambda n, seed, law=law: law.sample(n, seed=seed), n=2000, repeats=6, seed=seed) for law in (skewed(), two_moons())}
    for (law, made), truth in zip(((two_moons(), between_mixtures.transport(x, seed=seed)), (skewed(), between_mixtures.reversed().transport(y, seed=seed))),
                                  (y, x), strict=True):
        noise = next(value for key, value in least.items() if key.event == law.event and torch.equal(key.means, law.means))
        assert float(sliced_w2(made, truth)) < noise.mean + 5 * noise.std
    assert float(sliced_w2(x, y)) > 4 * max(value.mean for value in least.values())


def test_its_sde_and_its_flow_carry_the_source_to_the_target(between_mixtures, seed):
    x0, truth = skewed().sample(2000, seed=seed), two_moons().sample(2000, seed=seed + 1)
    field, far = between_mixtures.field(), float(sliced_w2(x0, truth))
    noise = EulerMaruyama(between_mixtures.epsilon / 2)
    assert float(sliced_w2(sample(field, start=x0, rule=noise, steps=50, seed=seed), truth)) < 0.25 * far
    assert float(sliced_w2(sample(field, start=x0, rule=RungeKutta(2), steps=30), truth)) < 0.25 * far
    back = sample(field, start=truth, rule=noise, times=Times.uniform(field.path, 50, start=1.0, end=0.0), seed=seed)
    assert float(sliced_w2(back, x0)) < 0.4 * far
    # The pairs of the SDE are those of the plan: how far a point goes, on average.
    moved = float((sample(field, start=x0, rule=noise, steps=50, seed=seed) - x0).square().sum(1).mean())
    assert moved == pytest.approx(between_mixtures.cost(2.0), rel=0.1)


def test_sinkhorn_finds_the_same_map(between_mixtures):
    ot = pytest.importorskip("ot")
    x, y = skewed().sample(400, seed=2), two_moons().sample(400, seed=3)
    weights = torch.full((400,), 1 / 400, dtype=F).numpy()
    plan = torch.from_numpy(ot.sinkhorn(weights, weights, (torch.cdist(x, y).square() / 2).numpy(), between_mixtures.epsilon, method="sinkhorn_log", stopThr=1e-4))
    other = plan @ y / plan.sum(1, keepdim=True)
    assert float((between_mixtures.mean(x) - other).square().sum(1).mean() / y.var(0).sum()) < 0.05


def test_draws_from_the_plan_have_its_moments(seed):
    bridge = SchrodingerBridge.examples()[seed % 2]
    dtype = bridge.sample(1).x1.dtype
    x = torch.tensor([[0.7, -0.4]], dtype=dtype).expand(20_000, 2)
    plan, y = bridge.plan(x[:1]), bridge.transport(x, seed=seed)
    covariances = plan.covariances if plan.covariances.ndim == 3 else torch.diag_embed(plan.covariances)
    off = plan.means[0] - plan.mean
    covariance = torch.einsum("k,kij->ij", plan.weights[0], covariances + off[:, :, None] * off[:, None, :])
    torch.testing.assert_close(y.mean(0), plan.mean[0], rtol=0, atol=5 * float(covariance.trace().sqrt()) / math.sqrt(20_000))
    torch.testing.assert_close(torch.cov(y.T), covariance, rtol=0, atol=10 * float(covariance.trace()) / math.sqrt(20_000))
    assert torch.equal(bridge.transport(x[:9], seed=seed), y[:9]) and torch.equal(bridge.transport(x[9:20], seed=seed, first=9), y[9:20])


def test_between_its_ends_it_is_a_brownian_bridge(seed):
    bridge = SchrodingerBridge(skewed(), two_moons(), 0.3, 2)
    x, y = (torch.tensor([v], dtype=F).expand(20_000, 2) for v in ([1.0, -2.0], [0.5, 3.0]))
    at = bridge.bridge(x, y, 0.2, seed=seed)
    torch.testing.assert_close(at.mean(0), torch.tensor([0.9, -1.0], dtype=F), rtol=0, atol=5 * math.sqrt(0.3 * 0.16 / 20_000))
    assert float(at.var()) - float((at.mean(0) - at.mean()).square().mean()) == pytest.approx(0.3 * 0.16, rel=5 * math.sqrt(1 / 20_000))
    assert torch.equal(bridge.bridge(x, y, 1.0), y) and torch.equal(bridge.bridge(x, y, torch.zeros(20_000, dtype=F)), x)


def test_the_path_of_unit_rate_two_is_that_of_the_interpolant():
    t = torch.tensor([0.1, 0.45, 0.8], dtype=F)
    for a, b in zip(BrownianBridge(2.0).coefficients(t), Path.interpolant("sqrt").coefficients(t), strict=True):
        torch.testing.assert_close(torch.as_tensor(a, dtype=F), torch.as_tensor(b, dtype=F), rtol=1e-12, atol=1e-15)
    assert BrownianBridge(1.0, 1e-3).interval == (1e-3, 1 - 1e-3)


def test_events_of_any_shape(seed):
    x, y = (law.sample(64, seed=seed).float().reshape(64, 2, 1) for law in (skewed(), two_moons()))
    shaped, flat = (SchrodingerBridge(a, b, 0.5, 4).fit(30, 32, seed=seed) for a, b in ((x, y), (x[:, :, 0], y[:, :, 0])))
    torch.testing.assert_close(shaped.mean(x)[:, :, 0], flat.mean(x[:, :, 0]), rtol=1e-6, atol=1e-6)
    pair = shaped.sample(5, seed=seed)
    assert pair.x1.shape == (5, 2, 1) and pair.x1.dtype == torch.float32 and shaped.field().event == (2, 1)
    assert sample(shaped.field(), start=x, steps=3).shape == x.shape and shaped.plan(x).means.shape == (64, 4, 2, 1)


def test_a_fit_goes_on_leaves_the_old_one_and_can_be_watched(seed):
    bridge = SchrodingerBridge(skewed(), two_moons(), 0.5, 4)
    losses = []
    fitted = bridge.fit(60, 64, seed=seed, watch=[lambda step, state: losses.append(float(state.loss)) and None])
    assert len(losses) == 60 and sum(losses[-10:]) < sum(losses[:10])
    with pytest.raises(ValueError, match="not fitted"):
        bridge.mean(torch.zeros(1, 2, dtype=F))
    assert torch.equal(bridge.fit(60, 64, seed=seed).mean(torch.zeros(1, 2, dtype=F)), fitted.mean(torch.zeros(1, 2, dtype=F)))
    begun = []
    fitted.fit(200, 64, seed=seed, watch=[StopWhen(lambda state: begun.append(float(state.loss)) or True)])
    assert begun[0] < losses[0]


def test_ctrl_c_raises(ctrl_c):
    def interrupt(step, state):
        import signal
        if step == 3:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        SchrodingerBridge(skewed(), two_moons(), 0.5, 2).fit(20, 16, watch=[interrupt])



ROWS = torch.tensor([[0.0, 1.0], [2.0, -1.0], [0.5, 3.0]], dtype=F)
FITTED = {}


def fitted():
    if not FITTED:
        FITTED["one"] = SchrodingerBridge(ROWS, ROWS + 1, 0.5, 2).fit(5, 8)
    return FITTED["one"]


def same(one, other):
    return torch.equal(one.x1, other.x1) and torch.equal(one.x0, other.x0)


@pytest.mark.parametrize("number", [0, 1], ids=["full", "diagonal"])
def test_a_saved_bridge_is_the_bridge(number, tmp_path, seed):
    bridge = SchrodingerBridge.examples()[number]
    again = SchrodingerBridge.load(bridge.save(tmp_path / "bridge.safetensors"), bridge.source, bridge.target)
    x = bridge.sample(9, seed=seed).x0
    assert same(again.sample(30, seed=seed), bridge.sample(30, seed=seed)) and same(again.reversed().sample(30, seed=seed), bridge.reversed().sample(30, seed=seed))
    assert torch.equal(again.drift(x, 0.3), bridge.drift(x, 0.3)) and torch.equal(again.field()(x, 0.7).score, bridge.field()(x, 0.7).score)
    assert same(again.fit(3, 16, seed=seed).sample(5), bridge.fit(3, 16, seed=seed).sample(5))


def test_files_that_hold_no_such_bridge_are_refused(tmp_path):
    file = fitted().save(tmp_path / "bridge.safetensors")
    with pytest.raises(ValueError, match="holds a bridge of events of 2 numbers in torch.float64, source and target have 1 in torch.float64"):
        SchrodingerBridge.load(file, ROWS[:, :1], ROWS[:, :1])
    with pytest.raises(ValueError, match="source and target have 2 in torch.float32"):
        SchrodingerBridge.load(file, ROWS.float(), ROWS.float())
    with pytest.raises(ValueError, match="does not hold a Schrödinger bridge"):
        SchrodingerBridge.load(save_tensors(tmp_path / "other.safetensors", {"x": ROWS}), ROWS, ROWS)
    with pytest.raises(FileNotFoundError):
        SchrodingerBridge.load(tmp_path / "none.safetensors", ROWS, ROWS)
    with pytest.raises(ValueError, match="not fitted yet"):
        SchrodingerBridge(ROWS, ROWS).save(tmp_path / "empty.safetensors")


@pytest.mark.parametrize(("make", "error", "words"), [
    (lambda: SchrodingerBridge(ROWS, ROWS, 0.0), ValueError, r"epsilon must lie in \(0, inf\), got 0"),
    (lambda: SchrodingerBridge(ROWS, ROWS, -1.0), ValueError, r"epsilon must lie in \(0, inf\), got -1"),
    (lambda: SchrodingerBridge(ROWS, ROWS, math.nan), ValueError, "epsilon must lie in"),
    (lambda: SchrodingerBridge(ROWS, ROWS, components=0), ValueError, "components must be at least 1, got 0"),
    (lambda: SchrodingerBridge(ROWS, ROWS, covariance="diag"), ValueError, "covariance must be one of diagonal, full, got 'diag'"),
    (lambda: SchrodingerBridge(ROWS, ROWS[:, :1]), ValueError, r"source and target must have one event shape, got \(2,\) and \(1,\)"),
    (lambda: SchrodingerBridge(ROWS, ROWS.float()), ValueError, "source and target must share a floating-point dtype"),
    (lambda: SchrodingerBridge(ROWS * math.inf, ROWS), ValueError, "source must be finite"),
    (lambda: SchrodingerBridge(3.0, ROWS), TypeError, "source must be a tensor or have a method sample"),
    (lambda: SchrodingerBridge(ROWS, ROWS).plan(ROWS), ValueError, "not fitted yet"),
    (lambda: SchrodingerBridge(ROWS, ROWS).sample(3), ValueError, "not fitted yet"),
    (lambda: SchrodingerBridge(ROWS, ROWS).reversed().transport(ROWS), ValueError, "not fitted yet"),
    (lambda: SchrodingerBridge(ROWS, ROWS).field(), ValueError, "not fitted yet"),
    (lambda: SchrodingerBridge(ROWS, ROWS).fit(0), ValueError, "steps must be at least 1, got 0"),
    (lambda: SchrodingerBridge(ROWS, ROWS).fit(5, 0), ValueError, "batch must be at least 1, got 0"),
    (lambda: SchrodingerBridge(ROWS, ROWS).fit(5, rate=0.0), ValueError, r"rate must lie in \(0, inf\), got 0"),
    (lambda: fitted().mean(ROWS[:, :1]), ValueError, r"x must have shape \(n, 2\), got \(3, 1\)"),
    (lambda: fitted().mean(ROWS.float()), ValueError, "x must have the dtype of source and target"),
    (lambda: fitted().plan(ROWS / 0), ValueError, "x must be finite"),
    (lambda: fitted().mean(ROWS * math.nan), ValueError, "x must be finite"),
    (lambda: fitted().transport(ROWS * math.nan), ValueError, "x must be finite"),
    (lambda: fitted().drift(ROWS * math.nan, 0.5), ValueError, "x must be finite"),
    (lambda: SchrodingerBridge(ROWS.half(), ROWS.half()), ValueError, "source and target must share a floating-point dtype, float32 or float64"),
    (lambda: SchrodingerBridge(ROWS.cfloat(), ROWS.cfloat()), ValueError, "source and target must share .*got torch.complex64"),
    (lambda: SchrodingerBridge(ROWS, ROWS).fit(5, clipp=1.0), ValueError, "a setting of fit must be one of .*did you mean clip"),
    (lambda: fitted().drift(ROWS, 1.5), ValueError, r"t must lie in \[0, 1\], got values from 1.5"),
    (lambda: fitted().drift(ROWS, torch.zeros(2)), ValueError, r"t must be one number or have shape \(3,\)"),
    (lambda: fitted().sample(0), ValueError, "size must be at least 1"),
    (lambda: fitted().cost(0.0), ValueError, "p must lie in"),
    (lambda: BrownianBridge(0.0), ValueError, "epsilon must lie in"),
    (lambda: BrownianBridge(1.0, 0.5), ValueError, "margin must lie in"),
], ids=lambda value: value if isinstance(value, str) else None)
def test_refusals(make, error, words):
    with pytest.raises(error, match=words):
        make()
