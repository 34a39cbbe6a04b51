"""Laws of time against SciPy's, metrics against SciPy's and torch's, coupled and mirrored noise, and the digits' mixture against scikit-learn's PCA."""
from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import special, stats

from rheos.core import Draws
from rheos.couplings import Pair
from rheos.data import digits_mixture
from rheos.objectives import L1, L2, LogitNormal, LogNormal, Matching, Ordered, Perceptual, PseudoHuber, Stratified, Uniform, UShaped
from rheos.paths import KINDS, Path, Student

ONE_SIDED = [kind for kind in KINDS if kind != "residual"]     # a residual needs a source

F32, F64 = torch.float32, torch.float64
RARE = 1e-6         # a law that holds fails a test at this level for one seed in ten thousand
LAWS = {"uniform": Uniform(), "clear of the ends": Uniform(0.07), "stratified": Stratified(), "u-shaped": UShaped(), "flat u": UShaped(0.0),
        "logit-normal": LogitNormal(0.4, 1.3), "log-normal": LogNormal(), "ordered": Ordered(3), "ordered u": Ordered(2, UShaped(2.0))}


def normals(name, *shape, scale=1.0, shift=0.0):
    return scale * Draws(5).rows(name, 0, shape, dtype=F64) + shift


class Spy:
    """A net that remembers where it was asked and answers 0.3 x + t."""

    def __init__(self):
        self.seen = []

    def __call__(self, x, t, cond=None):
        self.seen.append((x, t))
        return 0.3 * x + t.reshape(-1, *(1,) * (x.ndim - 1))


# -- laws of time ------------------------------------------------------------------------------------------------------------

def u_shaped(a):
    """The law whose density is cosh(a t) flipped at random, cosh(a t) + cosh(a (1 - t)): its integral, by its antiderivative."""
    return lambda t: 0.5 * (np.sinh(a * t) + np.sinh(a) - np.sinh(a * (1 - t))) / np.sinh(a)


@pytest.mark.parametrize(("law", "cdf", "wrong"), [
    (Uniform(), stats.uniform.cdf, stats.uniform(0.04, 0.92).cdf), (Uniform(0.2), stats.uniform(0.2, 0.6).cdf, stats.uniform.cdf),
    (Stratified(), stats.uniform.cdf, stats.uniform(0.04, 0.92).cdf),
    (UShaped(), u_shaped(4.0), u_shaped(2.5)), (UShaped(1.5), u_shaped(1.5), u_shaped(3.0)), (UShaped(0.0), stats.uniform.cdf, u_shaped(2.5)),
    (LogitNormal(), lambda t: stats.norm.cdf(special.logit(t)), lambda t: stats.norm(0.3).cdf(special.logit(t))),
    (LogitNormal(-0.6, 1.7), lambda t: stats.norm(-0.6, 1.7).cdf(special.logit(t)), lambda t: stats.norm(0.6, 1.7).cdf(special.logit(t))),
    (LogNormal(), stats.norm(-1.2, 1.2).cdf, stats.norm(-1.2, 1.44).cdf),
], ids=["uniform", "clear", "stratified", "u-shaped", "shallow u", "flat u", "logit-normal", "uneven logit-normal", "log-normal"])
@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
def test_laws_of_time_are_what_they_say(law, cdf, wrong, dtype, seed):
    t = law.sample(20_000, seed=seed, step=3, dtype=dtype)
    assert t.dtype == dtype and t.shape == (20_000,)
    assert stats.kstest(t.double().numpy(), cdf).pvalue > RARE
    assert stats.kstest(t.double().numpy(), wrong).pvalue < RARE


def test_the_u_shaped_density_by_numbers():
    """e^{a t} + e^{-a t} about the middle: at the ends cosh(a / 2) times as likely as there."""
    t = UShaped(4.0).sample(40_000, seed=1)
    bins = torch.histc(t, 40, 0, 1)
    ratio = float((bins[0] + bins[-1]) / (bins[19] + bins[20]))
    assert abs(ratio / math.cosh(2 * 0.975) - 1) < 0.15         # bins of 1/40: at their middle; four counts of some hundreds
    assert abs(float(bins[:20].sum()) / 40_000 - 0.5) < 5 * 0.5 / math.sqrt(40_000)


@pytest.mark.parametrize("path", [Path.linear(), Path.vp(), Path.edm(), Path.from_betas(torch.linspace(1e-4, 0.02, 1000, dtype=F64))], ids=["linear", "vp", "edm", "betas"])
@pytest.mark.parametrize("law", [LogNormal(), LogNormal(0.3, 0.7)], ids=["karras", "other"])
def test_log_normal_levels_are_placed_where_the_path_has_them(path, law, seed):
    """log(sigma / alpha) at the times is normal, cut at the path's ends, where what lies beyond gathers."""
    n = 20_000
    levels = law.sample(n, seed=seed)
    t = law.place(path, levels)
    low, high = path.interval
    assert float(t.min()) >= low and float(t.max()) <= high
    at = path.coefficients(t[(t > low) & (t < high)])
    found = torch.log(at.c / at.b).numpy()
    ends = [math.log(float(v.c / v.b)) if float(v.b) and float(v.c) else s * math.inf for v, s in ((path.coefficients(high), -1), (path.coefficients(low), 1))]
    normal = stats.norm(law.mean, law.std)
    inside = normal.cdf(ends[1]) - normal.cdf(ends[0])
    assert stats.kstest(found, lambda v: (normal.cdf(v) - normal.cdf(ends[0])) / inside).pvalue > RARE
    for place, chance in ((t == high, normal.cdf(ends[0])), (t == low, normal.sf(ends[1]))):
        assert abs(float(place.double().mean()) - chance) <= 5 * math.sqrt(chance / n) + 2 / n
    back = law.place(path, torch.tensor([-2.0, 0.0, 0.5]))
    assert back.dtype == F32 and bool((back.diff() < 0).all())      # more noise is earlier


@pytest.mark.parametrize("law", [LogNormal(-0.4, 0.8), Ordered(4, LogNormal(-0.4, 0.8))], ids=["log-normal", "ordered log-normal"])
def test_matching_looks_at_log_normal_levels(law, seed):
    """The times that a net sees on the linear path, where log(sigma / alpha) = -logit t."""
    net = Spy()
    Matching(Path.linear(), when=law)(net, Pair(normals("x1", 4000, 1)), seed=seed)
    t = net.seen[0][1]
    assert float(t.min()) > 0 and float(t.max()) < 1
    assert stats.kstest(-special.logit(t.numpy()), stats.norm(-0.4, 0.8).cdf).pvalue > RARE
    if isinstance(law, Ordered):
        assert bool((t.reshape(-1, 4).diff(dim=1) >= 0).all())


@pytest.mark.parametrize("n", [1, 2, 7, 500])
def test_stratified_puts_one_time_in_each_cell_in_random_order(n, seed):
    t = Stratified().sample(n, seed=seed, step=2)
    assert torch.equal((t * n).floor().sort().values, torch.arange(n, dtype=F64))
    assert abs(float(t.mean()) - 0.5) < 0.5 / n + 1e-12
    if n == 500:
        cell = (t * n).floor().numpy()
        assert stats.kstest((t * n).frac().numpy(), stats.uniform.cdf).pvalue > RARE
        assert abs(stats.spearmanr(cell, np.arange(n)).statistic) < 5 / math.sqrt(n)
        assert not torch.equal(torch.from_numpy(cell), (Stratified().sample(n, seed=seed, step=3) * n).floor())


def test_stratified_losses_vary_less(seed):
    """The mean of t^2 over a batch of 16: of variance (4 / 45) / 16 with free times, about 12 / 16^3 / 12 * E (2 t)^2 in cells."""
    means = lambda law: torch.stack([law.sample(16, seed=seed, step=k).square().mean() for k in range(300)])
    free, cells = means(Uniform()), means(Stratified())
    assert abs(float(free.var()) * 16 / (4 / 45) - 1) < 5 * math.sqrt(2 / 300) and float(cells.var()) < 0.03 * float(free.var())
    assert abs(float(cells.mean()) - 1 / 3) < 0.003


@pytest.mark.parametrize("law", [Uniform(), LogitNormal(0.4, 1.3), UShaped(2.0), Stratified()], ids=lambda v: type(v).__name__)
@pytest.mark.parametrize("k", [1, 2, 5])
def test_ordered_times_are_those_of_the_law_and_rise_in_groups(law, k, seed):
    plain, t = (made.sample(30, seed=seed, step=4) for made in (law, Ordered(k, law)))
    groups = t.reshape(-1, k)
    assert bool((groups.diff(dim=1) > 0).all())
    assert torch.equal(groups.sort(1).values, plain.reshape(-1, k).sort(1).values)
    if k == 1:
        assert torch.equal(t, plain)


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
def test_times_are_a_function_of_seed_and_step(name, dtype, seed):
    law = LAWS[name]
    draws = Draws(seed)
    first = [law.sample(24, seed=draws, step=k, dtype=dtype) for k in range(70)]        # past a look-ahead block
    for k in (0, 3, 69):
        assert torch.equal(law.sample(24, seed=seed, step=k, dtype=dtype), first[k])
    assert not torch.equal(first[3], first[4]) and not torch.equal(law.sample(24, seed=seed + 1, step=3, dtype=dtype), first[3])
    assert torch.equal(replace(law).sample(24, seed=draws, step=3, dtype=dtype), first[3])


@pytest.mark.parametrize("law", [Uniform(), Uniform(1e-6), Stratified(), UShaped(), UShaped(0.0), UShaped(60.0), LogitNormal(), LogitNormal(0.0, 6.0), LogitNormal(3.0, 4.0)], ids=str)
@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
def test_no_time_is_0_or_1(law, dtype, seed):
    """Numbers in (0, 1), as documented, rounding included: at 0 or 1 a path may hold no data or no noise."""
    t = law.sample(50_000, seed=seed, dtype=dtype)
    assert float(t.min()) > 0 and float(t.max()) < 1
    if law == Uniform(1e-6):
        assert float(t.min()) > 9e-7 and float(t.max()) < 1 - 9e-7


@pytest.mark.parametrize("path", [Path.vp(), Path.interpolant()], ids=["vp", "two-sided"])
def test_laws_are_stretched_over_the_paths_interval(path, seed):
    net, (low, high) = Spy(), path.interval
    data = Pair(normals("x1", 4000, 1), normals("x0", 4000, 1) if path.two_sided else None)
    Matching(path, "velocity", when=Stratified())(net, data, seed=seed)
    t = net.seen[0][1]
    share = ((t - low) / (high - low) * 4000).floor().sort().values
    assert float((share - torch.arange(4000)).abs().max()) <= 1


# -- metrics -----------------------------------------------------------------------------------------------------------------

ANSWER, TARGET = normals("answer", 5, 2, 3), normals("target", 5, 2, 3, scale=0.7, shift=0.4)


def test_l2_is_torchs_mean_squared_error_and_takes_complex_numbers():
    torch.testing.assert_close(L2()(ANSWER, TARGET), torch.nn.functional.mse_loss(ANSWER, TARGET, reduction="none"))
    a, b = torch.complex(ANSWER, TARGET), torch.complex(TARGET, 2 * ANSWER)
    errors = L2()(a, b)
    assert not errors.is_complex()
    torch.testing.assert_close(errors, (ANSWER - TARGET) ** 2 + (TARGET - 2 * ANSWER) ** 2)


@pytest.mark.parametrize("c", [1e-3, 0.00054, 0.3, 20.0])
def test_pseudo_huber_is_scipys(c):
    """SciPy's is k^2 (sqrt(1 + (r / k)^2) - 1), k times ours before the division by d."""
    size = 6
    r = (ANSWER - TARGET).flatten(1).norm(dim=1).numpy()
    expected = special.pseudo_huber(c * size, r) / (c * size) / size
    torch.testing.assert_close(PseudoHuber(c)(ANSWER, TARGET), torch.from_numpy(expected), rtol=1e-9, atol=1e-14)
    a, b = torch.complex(ANSWER, TARGET), torch.complex(TARGET, ANSWER)
    torch.testing.assert_close(PseudoHuber(c)(a, b), PseudoHuber(c * size / 12)(torch.cat([ANSWER, TARGET], 1), torch.cat([TARGET, ANSWER], 1)) * 2)


def test_pseudo_huber_between_the_norm_and_the_square():
    gap = (ANSWER - TARGET).flatten(1)
    torch.testing.assert_close(PseudoHuber(1e-9)(ANSWER, TARGET), gap.norm(dim=1) / 6, rtol=1e-7, atol=0)
    torch.testing.assert_close(PseudoHuber(1e6)(ANSWER, TARGET), gap.square().sum(1) / (2 * 6e6) / 6, rtol=1e-9, atol=0)


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
def test_pseudo_huber_keeps_its_digits_near_zero(dtype):
    """sqrt(s + k^2) - k with s far below k^2 is s / (2 k): nothing is lost to cancellation, and the slope at 0 is 0."""
    small = (1e-6 * ANSWER).to(dtype)
    found = PseudoHuber(0.5)(small, torch.zeros_like(small)).double()
    torch.testing.assert_close(found, small.double().flatten(1).square().sum(1) / 6 / 6, rtol=1e-5, atol=0)
    leaf = torch.zeros(2, 3, dtype=dtype, requires_grad=True)
    (slope,) = torch.autograd.grad(PseudoHuber()(leaf, torch.zeros(2, 3, dtype=dtype)).sum(), leaf)
    assert torch.equal(slope, torch.zeros(2, 3, dtype=dtype))


def features(x):
    """Linear, so that its errors are known: (batch, *event) -> (batch, 4, 2)."""
    return (x.flatten(1) @ normals("features", 6, 8)).reshape(-1, 4, 2)


@pytest.mark.parametrize("pixels", [0.0, 1.0, 2.5])
def test_perceptual_is_the_error_of_features_plus_that_of_pixels(pixels):
    gap = (ANSWER - TARGET).flatten(1)
    quadratic = torch.einsum("bi,ij,bj->b", gap, normals("features", 6, 8) @ normals("features", 6, 8).T, gap) / 8
    torch.testing.assert_close(Perceptual(features, pixels)(ANSWER, TARGET), quadratic + pixels * gap.square().sum(1) / 6)
    torch.testing.assert_close(Perceptual(lambda x: x, pixels)(ANSWER, TARGET), (1 + pixels) * L2()(ANSWER, TARGET).flatten(1).mean(1))


def test_perceptual_sends_gradients_through_the_answer_only():
    answer, target = ANSWER.clone().requires_grad_(True), TARGET.clone().requires_grad_(True)
    value = Perceptual(lambda x: torch.tanh(features(x)), 0.0)(answer, target).sum()
    value.backward()
    assert float(answer.grad.abs().min()) > 0 and target.grad is None


METRICS = {"l2": L2(), "pseudo-huber": PseudoHuber(0.05), "perceptual": Perceptual(lambda x: torch.sin(features(x)), 0.5)}


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("kinds", [{}, {"weight": lambda t: 1 + 3 * t}, {"predicts": "v", "unit_input": True}, {"antithetic": True, "predicts": "noise"}],
                         ids=["plain", "weighted", "v of unit inputs", "mirrored"])
def test_gradients_of_a_loss_are_its_slopes(name, kinds):
    data = Pair(normals("x1", 3, 2, 3))
    weights = torch.tensor([0.7, -0.3], dtype=F64, requires_grad=True)

    def value(w):
        net = lambda x, t, cond=None: w[0] * torch.sin(x) + w[1] * x
        return Matching(Path.vp(), metric=METRICS[name], **kinds)(net, data, seed=2).value

    (slope,) = torch.autograd.grad(value(weights), weights)
    for i in range(2):
        h = torch.zeros(2, dtype=F64)
        h[i] = 1e-6
        with torch.no_grad():
            numeric = (value(weights + h) - value(weights - h)) / 2e-6
        torch.testing.assert_close(slope[i], numeric, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", METRICS)
def test_matching_measures_gaps_by_its_metric(name):
    """Errors, rows, value and weights, from what the net was shown: x = t x1 + (1 - t) z tells z."""
    net, x1, metric = Spy(), normals("x1", 4, 2, 3), METRICS[name]
    loss = Matching(Path.linear(), "noise", metric=metric, weight=lambda t: 2 + t)(net, Pair(x1), seed=6)
    x, t = net.seen[0]
    wide = t[:, None, None]
    errors = metric(0.3 * x + wide, (x - wide * x1) / (1 - wide))
    rows = (2 + t) * errors.flatten(1).mean(1) if errors.ndim > 1 else (2 + t) * errors
    torch.testing.assert_close(loss.per_sample, rows, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(loss.value, rows.mean(), rtol=1e-9, atol=0)


def test_two_kinds_are_measured_apart_and_added():
    net, data = lambda x, t, cond=None: (0.2 * x, -0.4 * x), Pair(normals("x1", 4, 2, 3), normals("x0", 4, 2, 3))
    loss = Matching(Path.interpolant(), ("velocity", "noise"), metric=PseudoHuber(0.1), weight=0.5)(net, data, seed=1)
    alone = [Matching(Path.interpolant(), kind, metric=PseudoHuber(0.1))(lambda x, t, cond=None, f=f: f * x, data, seed=1).value for kind, f in (("velocity", 0.2), ("noise", -0.4))]
    torch.testing.assert_close(loss.terms, {"velocity": alone[0], "noise": alone[1]})
    torch.testing.assert_close(loss.value, 0.5 * (alone[0] + alone[1]))


@pytest.mark.parametrize("predicts", ["noise", "data", "v", "velocity"])
def test_losses_in_closed_form(predicts, seed):
    """A net that says 0, on normal data of standard deviation 2: the mean square of what it should have said, 1, 4, int (t^2 + 4 s^2) / (t^2 + s^2) = 5/2, 5."""
    n, expected = 20_000, {"noise": 1.0, "data": 4.0, "v": 2.5, "velocity": 5.0}[predicts]
    loss = Matching(Path.linear(), predicts)(lambda x, t, cond=None: 0 * x, Pair(2 * Draws(seed).rows("data", 0, (n, 1), dtype=F64)), seed=seed)
    standard_error = float(loss.per_sample.std()) / math.sqrt(n)
    assert abs(float(loss.value) - expected) < 5 * standard_error < 0.1 * expected


# -- weights, couplings, mirrors ---------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_an_infinite_weight_names_itself_and_its_time(bad):
    net = Spy()
    place = lambda t: torch.where(t == t.max(), bad, 1.0)
    with pytest.raises(ValueError, match="weight must be finite, got") as caught:
        Matching(Path.linear(), weight=place)(net, Pair(normals("x1", 5, 2)), seed=2)
    assert str(caught.value) == f"weight must be finite, got {bad} at t = {float(net.seen[0][1].max()):g}"


def test_a_weight_that_is_finite_where_the_law_looks_is_fine(seed):
    """1 / t is infinite at t = 0 only, which no law draws."""
    loss = Matching(Path.linear(), "data", weight=lambda t: 1 / t)(Spy(), Pair(normals("x1", 500, 2).float()), seed=seed)
    assert math.isfinite(float(loss.value))


@pytest.mark.parametrize("weight", [lambda t: 2.0, lambda t: torch.tensor(math.inf), lambda t: torch.ones(2)], ids=["a number", "one infinite number", "too few"])
def test_a_weight_of_another_shape_is_refused_by_name(weight):
    with pytest.raises((ValueError, TypeError), match="weight must"):
        Matching(Path.linear(), weight=weight)(Spy(), Pair(normals("x1", 5, 2)), seed=2)


@pytest.mark.parametrize("path", [Path.linear(), Path.vp(), Path.ve(), Path.linear(noise=Student(3.0))], ids=["linear", "vp", "ve", "student"])
def test_on_a_one_sided_path_a_coupled_source_is_the_noise(path):
    net, x1, x0 = Spy(), normals("x1", 5, 2, 3), normals("x0", 5, 2, 3, scale=2.0)
    loss = Matching(path, "noise")(net, Pair(x1, x0), seed=1)
    x, t = net.seen[0]
    at = path.coefficients(t)
    wide = lambda v: v[:, None, None]
    torch.testing.assert_close(x, wide(at.b) * x1 + wide(at.c) * x0, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(loss.errors, (0.3 * x + wide(t) - x0) ** 2)
    assert torch.equal(Matching(path, "noise")(Spy(), Pair(x1, x0), seed=1).value, loss.value)
    assert not torch.equal(Matching(path, "noise")(Spy(), Pair(x1), seed=1).value, loss.value)


def test_the_linear_velocity_of_a_coupled_pair_is_data_minus_source():
    """So a net that knows the pair has no loss at any time."""
    x1, x0 = normals("x1", 50, 2), normals("x0", 50, 2, shift=1.0)
    assert float(Matching(Path.linear())(lambda x, t, cond=None: x1 - x0, Pair(x1, x0), seed=3).value) == 0


def test_on_a_two_sided_path_the_source_stays_the_source():
    net, x1, x0 = Spy(), normals("x1", 5, 2), normals("x0", 5, 2, shift=1.0)
    Matching(Path.interpolant("none"))(net, Pair(x1, x0), seed=3)
    x, t = net.seen[0]
    torch.testing.assert_close(x, (1 - t)[:, None] * x0 + t[:, None] * x1, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("path", [Path.linear(), Path.interpolant()], ids=["one-sided", "two-sided"])
def test_mirrored_noise_is_averaged(path):
    """Two evaluations at the same times, about a x0 + b x1; and what is odd in z cancels from the gradient of a constant net."""
    net, x1 = Spy(), normals("x1", 40, 2)
    x0 = normals("x0", 40, 2) if path.two_sided else None
    loss = Matching(path, "noise", antithetic=True)(net, Pair(x1, x0), seed=3)
    (x, t), (mirrored, again) = net.seen
    at = path.coefficients(t)
    middle = at.b[:, None] * x1 + (at.a[:, None] * x0 if path.two_sided else 0)
    torch.testing.assert_close(0.5 * (x + mirrored), middle, rtol=1e-10, atol=1e-10)
    z = (x - middle) / at.c[:, None]
    torch.testing.assert_close(loss.errors, 0.5 * ((0.3 * x + t[:, None] - z) ** 2 + (0.3 * mirrored + t[:, None] + z) ** 2), rtol=1e-9, atol=1e-10)
    assert torch.equal(t, again)
    constant = torch.zeros(2, dtype=F64, requires_grad=True)
    flat = lambda x, t, cond=None: constant.expand(len(x), 2)
    slopes = [torch.autograd.grad(Matching(path, "noise", antithetic=way)(flat, Pair(x1, x0), seed=3).value, constant)[0].abs().max() for way in (True, False)]
    assert float(slopes[0]) < 1e-15 < 1e-3 < float(slopes[1])


# -- the digits' mixture -----------------------------------------------------------------------------------------------------------

def scores(axes):
    """scikit-learn's principal components of all digits in pixels of [-1, 1], scaled by one number; and the digits."""
    from sklearn.datasets import load_digits
    from sklearn.decomposition import PCA

    raw = load_digits()
    pca = PCA(axes, svd_solver="full").fit(raw.data / 8 - 1)
    found = pca.transform(raw.data / 8 - 1)
    scale = found.std(ddof=1)
    return found / scale, raw.target, pca, scale


@pytest.mark.parametrize(("axes", "ridge"), [(16, 0.1), (5, 0.0), (2, 0.7)])
def test_the_digits_mixture_has_the_moments_of_principal_components(axes, ridge):
    x, y, pca, scale = scores(axes)
    law = digits_mixture(axes, ridge)
    whole = np.diag(pca.explained_variance_) * (len(x) - 1) / len(x) / scale**2 + ridge**2 * np.eye(axes)
    np.testing.assert_allclose(law.covariance_matrix().numpy(), whole, rtol=1e-8, atol=1e-6)       # pixels passed through float32
    np.testing.assert_allclose(law.mean().numpy(), np.zeros(axes), atol=1e-6)
    assert law.labels.tolist() == list(range(10)) and law.event == (axes,)
    np.testing.assert_allclose(law.weights.numpy(), np.bincount(y) / len(y), rtol=1e-12)
    means = np.stack([x[y == k].mean(0) for k in range(10)])
    largest = np.abs(means).argmax(0)
    sign = np.sign(means[largest, range(axes)] * law.means.numpy()[largest, range(axes)])         # an axis may point either way
    np.testing.assert_allclose(law.means.numpy() * sign, means, atol=1e-5)
    for k in range(10):
        expected = np.cov(x[y == k].T, bias=True) + ridge**2 * np.eye(axes)
        np.testing.assert_allclose(law.covariance[k].numpy() * np.outer(sign, sign), expected, atol=1e-5)


def test_all_64_axes_are_allowed_and_keep_everything():
    law = digits_mixture(64)
    _, _, pca, scale = scores(64)
    assert law.event == (64,) and abs(float(law.covariance_matrix().diagonal().sum()) - (pca.explained_variance_.sum() * 1796 / 1797 / scale**2 + 0.64)) < 1e-4


def test_the_documented_defaults_are_the_real_ones():
    law = digits_mixture()
    assert law.event == (16,) and torch.equal(law.means, digits_mixture(16, 0.1).means) and torch.equal(law.covariance, digits_mixture(16, 0.1).covariance)
    assert (PseudoHuber().c, Perceptual(features).pixels, UShaped().a, LogNormal().mean, LogNormal().std) == (0.00054, 1.0, 4.0, -1.2, 1.2)
    assert (LogitNormal().mean, LogitNormal().std, Uniform().eps, Ordered(2).law) == (0.0, 1.0, 0.0, Uniform())


# -- refusals ----------------------------------------------------------------------------------------------------------------

X = torch.ones(4, 2)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: Uniform(0.5), r"^eps must lie in \[0, 0.5\), got 0.5$"),
    (lambda: Uniform(-0.1), r"^eps must lie in \[0, 0.5\), got -0.1$"),
    (lambda: UShaped(-1.0), r"^a must lie in \[0, .*got -1.0$"),
    (lambda: UShaped(1000.0), r"^a must lie in \[0, .*got 1000.0$"),
    (lambda: Ordered(0), "^k must be at least 1, got 0$"),
    (lambda: Ordered(3).sample(7), "^the batch must be a multiple of k = 3, got 7 rows$"),
    (lambda: Matching(Path.linear(), when=Ordered(3))(Spy(), Pair(X)), "^the batch must be a multiple of k = 3, got 4 rows$"),
    (lambda: LogitNormal(0.0, 0.0), r"^std must lie in \(0, inf\), got 0.0$"),
    (lambda: LogitNormal(math.nan), r"^mean must lie in \(-inf, inf\), got nan$"),
    (lambda: LogNormal(math.inf), r"^mean must lie in \(-inf, inf\), got inf$"),
    (lambda: LogNormal(0.0, -1.0), r"^std must lie in \(0, inf\), got -1.0$"),
    (lambda: LogNormal().place(Path.interpolant(), torch.zeros(3)), "^time_at exists for one-sided paths only; this path is two-sided$"),
    (lambda: Matching(Path.interpolant(), when=LogNormal())(Spy(), Pair(X, X)), "^time_at exists for one-sided paths only; this path is two-sided$"),
    (lambda: PseudoHuber(0.0), r"^c must lie in \(0, inf\), got 0.0$"),
    (lambda: PseudoHuber(-0.1), r"^c must lie in \(0, inf\), got -0.1$"),
    (lambda: Perceptual(features, -1.0), r"^pixels must lie in \[0, inf\), got -1.0$"),
    (lambda: Matching(Path.linear(), "eps"), "^predicts must be one of velocity, score, noise, data, v, residual, got 'eps'$"),
    (lambda: Matching(Path.linear(), ()), "^predicts must be one of velocity, score, noise, data, v, residual, got 'nothing'"),
    (lambda: Matching(Path.interpolant(), "v"), "^predicts = v needs a one-sided path, got a two-sided one$"),
    (lambda: Matching(Path.linear(noise=Student(3.0)), "score"), r"^predicts = score needs a path with Gaussian noise, this one has Student\(dof=3.0\)$"),
    (lambda: Matching(Path.linear(), weight=-1.0), r"^weight must lie in \[0, inf\), got -1.0$"),
    (lambda: Matching(Path.linear(), weight=math.inf), r"^weight must lie in \[0, inf\), got inf$"),
    (lambda: Matching(Path.linear(), drop_condition=1.5), r"^drop_condition must lie in \[0, 1\], got 1.5$"),
    (lambda: Matching(Path.interpolant(), unit_input=True), "^unit_input needs a one-sided path, got a two-sided one$"),
    (lambda: Matching(Path.linear(), antithetic=True)(Spy(), Pair(X, X)), "^antithetic needs fresh noise, but on this one-sided path the pair's x0 is the noise$"),
    (lambda: Matching(Path.linear())(Spy(), Pair(X, torch.ones(4, 3))), r"^x0 must have shape \(4, 2\), got \(4, 3\)$"),
    (lambda: Matching(Path.interpolant())(Spy(), Pair(X)), "^x0 is missing: a two-sided path runs from x0 to x1$"),
    (lambda: Matching(Path.interpolant("none"), ("velocity", "noise"))(lambda x, t, c: (x, x), Pair(X, X)), "^this path has no noise, so it has no noise to predict$"),
    (lambda: Matching(Path.linear())(lambda x, t, c: (x, x), Pair(X)), "^net must return 1 tensors for predicts = .*, got 2$"),
    (lambda: Matching(Path.linear())(lambda x, t, c: x[:1], Pair(X)), r"^net must return the shape of x, \(4, 2\), got \(1, 2\)$"),
    (lambda: digits_mixture(0), "^axes must be at least 1, got 0$"),
    (lambda: digits_mixture(65), "^axes must be at most 64, got 65$"),
    (lambda: digits_mixture(4, -0.1), r"^ridge must lie in \[0, inf\), got -0.1$"),
])
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("call", [
    lambda: Perceptual(3), lambda: Matching("linear"), lambda: Matching(Path.linear(), metric=3), lambda: Matching(Path.linear(), weight="heavy"),
    lambda: Matching(Path.linear(), unit_input=1), lambda: Matching(Path.linear(), when="uniform"), lambda: Ordered(2.0), lambda: Ordered(2, "uniform"),
    lambda: UShaped("4"), lambda: digits_mixture(True), lambda: digits_mixture(3.5),
], ids=["features", "path", "metric", "weight", "unit_input", "when", "k", "law", "a", "axes bool", "axes half"])
def test_wrong_types_are_type_errors(call):
    with pytest.raises(TypeError):
        call()


def test_every_kind_has_a_target_on_a_one_sided_path():
    losses = {kind: float(Matching(Path.vp(), kind)(Spy(), Pair(normals("x1", 20, 2)), seed=1).value) for kind in ONE_SIDED}
    assert len(set(losses.values())) == len(ONE_SIDED) and all(map(math.isfinite, losses.values()))


def test_a_network_with_unit_input_is_trained_on_what_it_will_be_shown():
    """In training it sees x / sqrt(alpha^2 + sigma^2), as `Field` shows it."""
    path, seen = Path.edm(), []
    x1 = Draws(0).rows("x", 0, (40, 3))
    net = lambda x, t, cond: seen.append((x, t)) or x
    for unit_input in (True, False):
        Matching(path, "v", LogNormal(), unit_input=unit_input)(net, Pair(x1), seed=1, step=2)
    (shown, t), (plain, _) = seen
    at = path.coefficients(t.double())
    torch.testing.assert_close(shown, (plain / torch.hypot(at.b, at.c)[:, None]).float(), rtol=1e-5, atol=1e-6)
    assert float(plain.abs().max()) > 2 * float(shown.abs().max())


# -- the absolute difference -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("dtype", [F32, F64, torch.complex128], ids=str)
def test_l1_is_torchs(dtype, seed):
    a, b = (Draws(seed).rows(name, 0, (6, 2, 3), dtype=F64).to(dtype) for name in ("a", "b"))
    if dtype.is_complex:
        a = a * (0.6 - 0.8j)
    found = L1()(a, b)
    assert found.shape == a.shape and not found.is_complex()
    torch.testing.assert_close(found.mean(), torch.nn.functional.l1_loss(a, b))
    np.testing.assert_allclose(found.numpy(), np.abs(a.numpy() - b.numpy()), rtol=1e-6)


def test_l1_is_answered_best_by_the_median():
    """Of 1, 2, 10: the mean, 13/3, is what L2 wants; a slope of L1 vanishes between numbers of equal count only."""
    x1 = torch.tensor([[1.0], [2.0], [10.0]], dtype=F64)
    slope = lambda metric, value: torch.autograd.grad(metric(answer := torch.full((3, 1), value, dtype=F64, requires_grad=True), x1).mean(), answer)[0].sum()
    assert float(slope(L1(), 1.9)) < 0 < float(slope(L1(), 2.1)) and abs(float(slope(L2(), 13 / 3))) < 1e-12 < abs(float(slope(L1(), 13 / 3)))
    net = Spy()
    loss = Matching(Path.linear(), "data", metric=L1())(net, Pair(x1), seed=1)
    (x, t), = net.seen
    torch.testing.assert_close(loss.value, (0.3 * x + t[:, None] - x1).abs().mean())
