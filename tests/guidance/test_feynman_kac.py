"""Feynman-Kac correctors: laws and integrals of tilted and multiplied Gaussians by completing the square, mixtures by their closed product."""
import math

import pytest
import torch

from rheos.core import Draws, NonFinite, Trace, evolve
from rheos.data import GaussianMixture
from rheos.guidance import ClassifierGuided, ResidualCFG, classifier_free, feynman_kac
from rheos.guidance.feynman_kac import FeynmanKac, effective_size, sample_tilted, systematic
from rheos.guidance.tilt import Reward, tilt
from rheos.nets import ResidualMLP
from rheos.paths import LAM, RHO7, SQRT_U, ExactField, Field, Path, Times
from rheos.samplers import TimeShift, sample

F64 = torch.float64
EDM = Path.edm(0.01, 20.0)
PATHS = {"edm": EDM, "linear": Path.linear(), "vp": Path.vp(), "cosine": Path.cosine()}


def gaussian(mean, spread):
    return GaussianMixture(torch.ones(1, dtype=F64), torch.tensor([mean], dtype=F64), torch.tensor([spread], dtype=F64))


FIRST, SECOND = gaussian([0.7, -1.2], [0.3, 1.7]), gaussian([-0.4, 0.5], [0.9, 0.6])


def noised(law, path, t):
    at = path.coefficients(t)
    return law.scaled(float(at.b), float(at.c))


def powers(path, t, exponents, laws=(FIRST, SECOND)):
    """Mean, variance and log integral of prod_j q_j^a_j at t, coordinate by coordinate, by completing the square."""
    there = [noised(law, path, t) for law in laws]
    precision = sum(a / q.covariance[0] for a, q in zip(exponents, there, strict=True))
    mean = sum(a / q.covariance[0] * q.means[0] for a, q in zip(exponents, there, strict=True)) / precision
    at_zero = sum(a * q.log_prob(torch.zeros(1, 2, dtype=F64))[0] for a, q in zip(exponents, there, strict=True))
    log_z = at_zero + 0.5 * (precision * mean**2 + math.log(2 * math.pi) - precision.log()).sum()
    return mean, 1 / precision, float(log_z)


def fields(path):
    return [ExactField(path, FIRST), ExactField(path, SECOND)]


def long_times(path, steps):
    """From where the data are a twentieth of the noise to the path's end, or near it."""
    if path == EDM:
        return Times.uniform(path, steps, RHO7)
    return Times.uniform(path, steps, SQRT_U, start=float(path.time_at(-3.0)))


# -- the field ---------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS.keys())
def test_the_score_and_squares_of_a_tilt(path, seed):
    """Against the gradient of sum_j a_j log q_j by automatic differentiation."""
    exponents, t = [1.5, -0.4], 0.35
    x = Draws(seed).rows("x", 0, (5, 2), dtype=F64)
    place = x.clone().requires_grad_()
    scores = [torch.autograd.grad(noised(law, path, t).log_prob(place).sum(), place)[0] for law in (FIRST, SECOND)]
    wanted = sum(a * s for a, s in zip(exponents, scores, strict=True))
    tilted = tilt(fields(path), exponents)
    torch.testing.assert_close(tilted.score(x, t), wanted, rtol=1e-9, atol=1e-9)
    told, c = tilted.weighed(x, t), float(path.coefficients(t).c)
    torch.testing.assert_close(told.noise, -c * wanted, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(told.square, c**2 * wanted.square().sum(1), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(told.squares, c**2 * sum(a * s.square().sum(1) for a, s in zip(exponents, scores, strict=True)), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(told.excess, told.square - told.squares, rtol=1e-9, atol=1e-9)


def test_one_network_is_called_once_for_all_conditions():
    with Draws(0).scope(0):
        net = ResidualMLP((3,), width=16, depth=1, classes=4)
        torch.nn.init.normal_(net.leave.weight)
    seen = []
    field = Field(lambda x, t, cond: seen.append(cond.tolist()) or net(x, t, cond), Path.linear(), "velocity")
    other = Field(lambda x, t, cond: 0.3 * x, Path.linear(), "data")
    x, cond = Draws(1).rows("x", 0, (5, 3)), torch.tensor([0, 3, 1, 1, 2])
    guided = tilt([(field, None), other, field, (field, 2)], [-1.5, 0.2, 2.5, 0.3])
    got = guided.noise(x, 0.4, cond)
    assert (guided.nfe, field.nfe, other.nfe) == (1, 1, 1)
    assert seen == [[-1] * 5 + cond.tolist() + [2] * 5]
    apart = [field.noise(x, 0.4, torch.full((5,), -1)), other.noise(x, 0.4), field.noise(x, 0.4, cond), field.noise(x, 0.4, torch.full((5,), 2))]
    torch.testing.assert_close(got, sum(a * n for a, n in zip([-1.5, 0.2, 2.5, 0.3], apart, strict=True)), rtol=1e-5, atol=1e-5)


def test_classifier_free_guidance_is_a_tilt():
    """q_u^(1 - w) q_c^w has the guided score, and its weights grow with w (w - 1) |n_c - n_u|^2: nothing at w = 1."""
    law = GaussianMixture(torch.tensor([0.2, 0.5, 0.3], dtype=F64), torch.tensor([[1.0, -2.0], [0.3, 0.7], [-1.5, 0.2]], dtype=F64),
                          torch.tensor([0.3, 0.8, 0.5], dtype=F64), torch.tensor([0, 1, 0]))
    field, cond, t = ExactField(Path.vp(), law), torch.tensor([0, 1, 0, 1]), 0.4
    x = Draws(3).rows("x", 0, (4, 2), dtype=F64)
    for w in (0.3, 1.0, 4.0):
        guided = tilt([(field, None), field], [1 - w, w])
        torch.testing.assert_close(guided.velocity(x, t, cond), classifier_free(field, w).velocity(x, t, cond), rtol=1e-10, atol=1e-10)
        gap = (field.noise(x, t, cond) - field.noise(x, t)).square().sum(1)
        torch.testing.assert_close(guided.weighed(x, t, cond).excess, w * (w - 1) * gap, rtol=1e-9, atol=1e-12)


PLANE = GaussianMixture(torch.tensor([0.5, 0.3, 0.2], dtype=F64), torch.tensor([[-2.0, 0.0], [2.0, 0.3], [0.2, 3.0]], dtype=F64),
                        torch.tensor([0.6, 0.35, 0.5], dtype=F64) ** 2, torch.tensor([0, 1, 1]))


def on_the_plane(log_target):
    """(mean (2,), deviation (2,)) of the density exp(log_target), by quadrature."""
    line = torch.linspace(-6, 7, 261, dtype=F64)
    grid = torch.cartesian_prod(line, line)
    weight = torch.softmax(log_target(grid), 0)
    mean = weight @ grid
    return mean, (weight @ (grid - mean).square()).sqrt()


@pytest.mark.parametrize("what", ["nested", "guided", "nested guided"])
def test_tilts_of_tilts_follow_their_law(what, seed):
    """q^3 as (q^1.5)^2, and q_u^-1 q_c^2 as a guided field, its square too: means against quadrature, 5 standard errors of the ancestors there are."""
    field, cond = ExactField(EDM, PLANE), None if what == "nested" else 1
    c, u = PLANE.given(1).log_prob, PLANE.log_prob
    if what == "nested":
        tilted, log_target = tilt([tilt([field], [1.5])], [2.0]), lambda x: 3 * u(x)
    elif what == "guided":
        tilted, log_target = tilt([classifier_free(field, 2.0)], [1.0]), lambda x: 2 * c(x) - u(x)
    else:
        tilted, log_target = tilt([tilt([classifier_free(field, 1.5)], [1.0]), field], [2.0, 0.5]), lambda x: 3.5 * c(x) - u(x)
    x, report = sample_tilted(tilted, 3000, steps=100, noise=2.0, cond=cond, seed=seed)
    mean, deviation = on_the_plane(log_target)
    assert float(report.ess.min()) < 0.9
    assert bool(((x.mean(0) - mean).abs() < deviation * (5 / math.sqrt(int(report.distinct)) + 0.05)).all()), (x.mean(0) - mean) / deviation


def test_a_tilt_of_tilts_is_the_tilt_of_the_laws(seed):
    """Scores and weights of what was taken apart are those of the product written out."""
    field, other = ExactField(EDM, PLANE), ExactField(EDM, FIRST)
    x, cond = Draws(seed).rows("x", 0, (4, 2), dtype=F64), torch.tensor([0, 1, 1, 0])
    nested = tilt([tilt([classifier_free(field, 2.5), (field, 1)], [1.2, 0.3]), (tilt([field, (other, None)], [0.4, -0.1]), 0), (other, None)], [0.5, 2.0, 0.7])
    flat = tilt([field, (field, None), (field, 1), (field, 0), (other, None)], [0.5 * 1.2 * 2.5, -0.5 * 1.2 * 1.5, 0.15, 0.8, 0.5])
    torch.testing.assert_close(nested.score(x, 0.6, cond), flat.score(x, 0.6, cond), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(nested.weighed(x, 0.6, cond).excess, flat.weighed(x, 0.6, cond).excess, rtol=1e-9, atol=1e-9)
    for w in (0.0, 1.0):
        assert len(tilt([classifier_free(field, w)], [1.0]).terms) == 1
    with pytest.raises(ValueError, match="guidance needs a condition"):
        nested.score(x, 0.6)


def test_conditions_in_a_dictionary():
    seen = []
    field = Field(lambda x, t, cond: seen.append(cond) or x, Path.linear(), "noise")
    cond = {"label": torch.tensor([1, 2]), "place": torch.tensor([[0.5], [-1.0]])}
    tilt([(field, None), field], [-1.0, 2.0]).noise(torch.ones(2, 3), 0.5, cond)
    assert seen[0]["label"].tolist() == [-1, -1, 1, 2]
    assert seen[0]["place"][:2].isnan().all() and seen[0]["place"][2:].tolist() == [[0.5], [-1.0]]


# -- resampling ---------------------------------------------------------------------------------------------------------------------------------


def test_systematic_resampling_by_hand():
    """Points (0.1 + k) / 4 on the line 0.1 | 0.6 | 0.6 | 1: the second particle twice, the third, of no weight, never."""
    assert systematic(torch.tensor([0.2, 1.0, 0.0, 0.8]), torch.tensor(0.1)).tolist() == [0, 1, 1, 3]
    assert systematic(torch.tensor([0.0, 0.0, 3.0, 0.0]), torch.tensor(0.999999)).tolist() == [2, 2, 2, 2]


def test_systematic_resampling_is_unbiased(seed):
    """n w_i copies on average, exactly, over equally spaced u; never more than 1 from it; groups are apart."""
    weights = Draws(seed).uniform("w", 0, (2, 7), dtype=F64) ** 3
    share = 7 * weights / weights.sum(1, keepdim=True)
    many = 1000
    counts = torch.zeros(2, 7, dtype=F64)
    for k in range(many):
        chosen = systematic(weights, torch.full((2,), (k + 0.5) / many, dtype=F64))
        here = torch.stack([torch.bincount(row, minlength=7) for row in chosen])
        assert bool(((here - share).abs() < 1).all())
        counts += here
    # A copy is gained or lost at a place of u that the grid finds to 1 / many.
    torch.testing.assert_close(counts / many, share, rtol=0, atol=2 / many)


def test_effective_size():
    torch.testing.assert_close(effective_size(torch.log(torch.tensor([[1.0, 1.0, 1.0, 1.0], [3.0, 1.0, 1.0, 1.0]], dtype=F64)) + 900),
                               torch.tensor([4.0, 36 / 12], dtype=F64))


# -- laws ----------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "exponents", "noise"), [("edm", [2.0], 2.0), ("linear", [1.0, 1.0], 1.0), ("vp", [1.5, 0.5], 2.0),
                                                          ("cosine", [0.6, 0.9], 4.0), ("edm", [2.0, -0.4], 2.0), ("vp", [0.5], 1.0)],
                         ids=["annealed", "product", "powers", "noisier", "divided", "flattened"])
def test_law_and_integral_between_two_times(name, exponents, noise, seed):
    """From exact draws at t0, mean, variance and the change of log Z at t1 are those of the product of Gaussians.

    Weighted particles, never resampled. The effective size is known, so that a mean is known to 5 sd / sqrt(ess), a variance to 5 sqrt(2 / ess), and
    log Z to 5 sqrt(1 / ess - 1 / n).
    """
    path, n = PATHS[name], 2500
    t0, t1 = (float(path.time_at(lam)) for lam in (-0.3, 0.7))
    laws = (FIRST, SECOND)[: len(exponents)]
    mean, variance, log_z = powers(path, t0, exponents, laws)
    start = mean + variance.sqrt() * Draws(seed).rows("start", 0, (n, 2), dtype=F64)
    run = FeynmanKac(tilt(fields(path)[: len(exponents)], exponents), Times.uniform(path, 80, LAM, start=t0, end=t1), ess=0.0, final=False,
                     noise=noise, seed=seed)
    end = evolve(run, run.init(start), 80)
    w, ess = torch.softmax(end.log_weights, 0), float(effective_size(end.log_weights))
    assert ess > 150
    after, narrower, risen = powers(path, t1, exponents, laws)
    got = w @ end.x
    spread = w @ (end.x - got).square()
    assert bool(((got - after).abs() < narrower.sqrt() * (5 / math.sqrt(ess) + 0.01)).all()), (got, after)
    assert bool(((spread / narrower - 1).abs() < 5 * math.sqrt(2 / ess) + 0.03).all()), spread / narrower
    found = float(end.log_z) + float(torch.logsumexp(end.log_weights, 0)) - math.log(n)
    assert abs(found - (risen - log_z)) < 5 * math.sqrt(1 / ess) + 0.03, (found, risen - log_z)


@pytest.mark.parametrize(("name", "exponents"), [("edm", [1.0, 1.0]), ("linear", [2.0, -1.0]), ("vp", [1.2, 0.3])])
def test_law_and_integral_from_the_tilted_noise(name, exponents, seed):
    """The whole way from N(0, c^2 / sum a), with resampling: draws and log Z of the end. Steps so long take 10 % off the variance."""
    path = PATHS[name]
    second = SECOND if exponents[1] > 0 else gaussian([-0.4, 0.5], [2.5, 3.1])
    times = long_times(path, 150)
    x, report = sample_tilted(tilt([ExactField(path, FIRST), ExactField(path, second)], exponents), 2500, times=times, noise=2.0, seed=seed)
    mean, variance, log_z = powers(path, float(times.t[-1]) if name != "linear" else 1.0, exponents, (FIRST, second))
    few = int(report.distinct) / 5
    assert few > 20
    assert bool(((x.mean(0) - mean).abs() < variance.sqrt() * (5 / math.sqrt(few) + 0.05)).all()), (x.mean(0) - mean) / variance.sqrt()
    assert bool(((x.var(0) / variance - 1).abs() < 5 * math.sqrt(2 / few) + 0.15).all()), x.var(0) / variance
    assert abs(float(report.log_z) - log_z) < 0.6, (report.log_z, log_z)


@pytest.mark.parametrize("power", [2.0, 3.0])
@pytest.mark.parametrize("name", ["linear", "vp", "cosine"])
def test_the_default_times_find_the_integral(name, power, seed):
    """100 steps of four groups of 2,000 of one Gaussian's power: five times 4 / sqrt(ancestors), the deviation of log Z of a group, and no group dies out.

    Weights of powers have long tails, so that most runs find somewhat too little, and four together no more exactly than one.
    """
    path = PATHS[name]
    x, report = sample_tilted(tilt([ExactField(path, FIRST)], [power]), 8000, steps=100, groups=4, seed=seed)
    _, variance, log_z = powers(path, path.interval[1], [power], (FIRST,))
    ancestors = float(report.distinct.double().mean())
    assert int(report.distinct.min()) > 20
    found = float(torch.logsumexp(report.log_z, 0)) - math.log(4)
    assert abs(found - log_z) < 5 * 4 / math.sqrt(ancestors), (report.log_z, log_z)
    assert bool(((x.var(0) / variance - 1).abs() < 5 * math.sqrt(2 / ancestors) + 0.15).all()), x.var(0) / variance


def test_weights_resampled_at_every_step(seed):
    """q^1.5 exp(beta r) of a Gaussian and a linear reward from exact draws, resampled at every step: its mean, variance and integral.

    Where rate, reward or data stay behind when particles are copied, these are off.
    """
    path, pull, n = PATHS["vp"], torch.tensor([0.8, -0.5], dtype=F64), 8000
    t0, t1 = (float(path.time_at(lam)) for lam in (-0.5, 0.3))
    start_mean, start_variance, before = powers(path, t0, [1.5], (FIRST,))
    start = start_mean + start_variance.sqrt() * Draws(seed).rows("start", 0, (n, 2), dtype=F64)
    tilted = tilt([ExactField(path, FIRST)], [1.5], reward=Reward(lambda x: x @ pull, lambda t: 2.0 * (t - t0) / (t1 - t0)))
    run = FeynmanKac(tilted, Times.uniform(path, 40, LAM, start=t0, end=t1), ess=1.0, noise=1.0, seed=seed)
    end = evolve(run, run.init(start), 40)
    mean, variance, after = powers(path, t1, [1.5], (FIRST,))
    after += float(2.0 * pull @ mean + 0.5 * 4.0 * pull @ (variance * pull))
    # Families are of uneven size: so many even ones are worth as much.
    few = n**2 / float(torch.bincount(end.ancestors, minlength=n).square().sum())
    assert int(end.resampled) == 41 and few > 40, few
    far = (end.x.mean(0) - mean - 2.0 * variance * pull) / variance.sqrt()
    # Steps so long take some 5 % off the variance.
    assert bool((far.abs() < 5 / math.sqrt(few) + 0.03).all()), far
    assert bool(((end.x.var(0) / variance - 1).abs() < 5 * math.sqrt(2 / few) + 0.06).all()), end.x.var(0) / variance
    assert abs(float(end.log_z) - (after - before)) < 5 / math.sqrt(few), (end.log_z, after - before)


def test_the_last_step_is_weighed(seed):
    """A reward that counts from the last time on: all weights are those of the last step, and N(m, v) exp(g x) is N(m + v g, v)."""
    path, pull, n = PATHS["vp"], torch.tensor([0.8, -0.5], dtype=F64), 4000
    t = [float(path.time_at(lam)) for lam in (-0.5, 0.1, 0.6999, 0.7)]
    tilted = tilt([ExactField(path, FIRST)], [1.0], reward=Reward(lambda x: x @ pull, lambda at: float(at >= t[-1])))
    start, law = noised(FIRST, path, t[0]).sample(n, seed=seed), noised(FIRST, path, t[-1])
    times = Times(path, [*Times.uniform(path, 20, LAM, start=t[0], end=t[2]).t.tolist(), t[3]])
    for final in (True, False):
        run = FeynmanKac(tilted, times, final=final, seed=seed)
        end = evolve(run, run.init(start), times.steps)
        w, ess = torch.softmax(end.log_weights, 0), float(end.ess) * n
        far = (w @ end.x - law.means[0] - law.covariance[0] * pull) / law.covariance[0].sqrt()
        assert ess < 0.9 * n and bool((far.abs() < 5 / math.sqrt(ess) + 0.02).all()), far
        risen = float(end.log_z) + float(torch.logsumexp(end.log_weights, 0)) - math.log(n)
        assert abs(risen - float(pull @ law.means[0] + 0.5 * pull @ (law.covariance[0] * pull))) < 5 * math.sqrt(1 / ess) + 0.02


def test_every_step_and_group_resamples_by_a_uniform_of_its_own(monkeypatch, seed):
    seen = []
    plain = feynman_kac._systematic
    monkeypatch.setattr(feynman_kac, "_systematic", lambda weights, u: seen.append(u) or plain(weights, u))
    sample_tilted(tilt(fields(EDM), [1.5, 0.5]), 40, steps=100, groups=4, seed=seed)
    u = torch.stack(seen)
    assert u.shape == (101, 4) and len(u.unique()) == u.numel()
    # The mean of 404 uniforms, and their second moment.
    assert abs(float(u.mean()) - 1 / 2) < 5 * math.sqrt(1 / 12 / 404) and abs(float(u.square().mean()) - 1 / 3) < 5 * math.sqrt(4 / 45 / 404)


def test_masses_of_a_product_of_mixtures(seed):
    """The product of two mixtures is a mixture: the corrector finds its masses, the tilted SDE alone does not.

    Components k of the two that meet have the mass w_k w'_k N(m_k - m'_k; 0, v_k + v'_k); those that do not, less than 1e-5.
    """
    mixture = lambda w, means, std: GaussianMixture(torch.tensor(w, dtype=F64), torch.tensor(means, dtype=F64), torch.tensor(std, dtype=F64) ** 2)
    first = mixture([0.6, 0.4], [[-2.0, 0.0], [2.0, 0.3]], [0.6, 0.3])
    second = mixture([0.5, 0.5], [[-2.1, 0.2], [1.9, 0.4]], [0.7, 0.35])
    masses = [math.exp(float(gaussian((p - q).tolist(), [float(v + w)] * 2).log_prob(torch.zeros(1, 2, dtype=F64)))) * float(a * b)
              for a, b, p, q, v, w in zip(first.weights, second.weights, first.means, second.means, first.covariance, second.covariance, strict=True)]
    truth = masses[1] / sum(masses)
    tilted = tilt([ExactField(EDM, first), ExactField(EDM, second)], [1.0, 1.0])
    run = lambda **settings: sample_tilted(tilted, 2500, steps=100, noise=2.0, seed=seed, **settings)
    (x, report), (alone, _) = run(), run(ess=0.0, final=False)
    assert abs(float((x[:, 0] > 0).double().mean()) - truth) < 0.15
    assert abs(float((alone[:, 0] > 0).double().mean()) - truth) > 0.2
    assert abs(float(report.log_z) - math.log(sum(masses))) < 0.5


@pytest.mark.parametrize("name", ["linear", "edm", "vp"])
def test_a_linear_reward_shifts_a_gaussian(name, seed):
    """N(m, v) exp(beta g x) is N(m + beta v g, v), its integral exp(beta g m + beta^2 g v g / 2), at every time."""
    path, pull, n = PATHS[name], torch.tensor([0.8, -0.5], dtype=F64), 3000
    t0, t1 = (float(path.time_at(lam)) for lam in (-1.0, 1.5))
    beta = lambda t: 1.3 * (t - t0) / (t1 - t0)
    tilted = tilt([ExactField(path, FIRST)], [1.0], reward=Reward(lambda x: x @ pull, beta))
    start = noised(FIRST, path, t0).sample(n, seed=seed)
    run = FeynmanKac(tilted, Times.uniform(path, 80, LAM, start=t0, end=t1), ess=0.0, final=False, seed=seed)
    end = evolve(run, run.init(start), 80)
    w, ess = torch.softmax(end.log_weights, 0), float(effective_size(end.log_weights))
    law = noised(FIRST, path, t1)
    mean = law.means[0] + 1.3 * law.covariance[0] * pull
    got = w @ end.x
    assert ess > 500
    assert bool(((got - mean).abs() < law.covariance[0].sqrt() * (5 / math.sqrt(ess) + 0.02)).all()), (got, mean)
    log_z = float(1.3 * pull @ law.means[0] + 0.5 * 1.69 * pull @ (law.covariance[0] * pull))
    assert abs(float(end.log_z) + float(torch.logsumexp(end.log_weights, 0)) - math.log(n) - log_z) < 5 * math.sqrt(1 / ess) + 0.02


def test_a_reward_that_counts_from_the_beginning_weighs_the_noise():
    """exp(beta r) at the first time, on noise of a known deviation: log of its mean, and what it pulls the mean to."""
    tilted = tilt([ExactField(EDM, FIRST)], [1.0], reward=Reward(lambda x: 0.03 * x[:, 0], lambda t: 2.0))
    state = FeynmanKac(tilted, Times.uniform(EDM, 5, RHO7)).begin(4000)
    torch.testing.assert_close(state.log_weights, 0.06 * state.x[:, 0])


def test_the_score_of_a_reward():
    tilted = tilt([ExactField(EDM, FIRST)], [1.0], reward=Reward(lambda x: (x**3).sum(1), lambda t: 2 * t))
    x = torch.tensor([[0.3, -1.1]], dtype=F64)
    torch.testing.assert_close(tilted.score(x, 0.8), ExactField(EDM, FIRST).score(x, 0.8) + 1.6 * 3 * x**2)


def test_equal_exponents_of_one_field_are_plain_sampling(seed):
    """q^0.5 q^0.5 is q: no weights, no resampling before the end, and the law of q."""
    field = ExactField(Path.vp(), FIRST)
    x, report = sample_tilted(tilt([field, field], [0.5, 0.5]), 3000, steps=100, seed=seed)
    assert float((report.ess - 1).abs().max()) < 1e-9 and int(report.distinct) == 3000 and abs(float(report.log_z)) < 1e-3
    assert bool(((x.mean(0) - FIRST.means[0]).abs() < FIRST.covariance[0].sqrt() * (5 / math.sqrt(3000) + 0.01)).all())
    assert bool(((x.var(0) / FIRST.covariance[0] - 1).abs() < 5 * math.sqrt(2 / 3000) + 0.06).all())


# -- engine ---------------------------------------------------------------------------------------------------------------------------------------


def test_groups_run_apart_as_they_do_together(seed):
    """Numbers of a group do not depend on who else is in the batch; a group's particles descend from its own."""
    tilted, times = tilt(fields(EDM), [1.5, 0.5]), Times.uniform(EDM, 12, RHO7)
    whole, report = sample_tilted(tilted, 120, times=times, groups=4, seed=seed)
    for g in range(4):
        x, alone = sample_tilted(tilted, 30, times=times, seed=seed, first=g)
        torch.testing.assert_close(x, whole[30 * g : 30 * g + 30], rtol=1e-9, atol=1e-9)
        assert torch.equal(alone.ancestors + 30 * g, report.ancestors[30 * g : 30 * g + 30])
        torch.testing.assert_close(alone.log_z[0], report.log_z[g])
    assert int(report.resampled.min()) >= 1 and report.ess.shape == (12, 4)


def test_weights_are_returned_when_asked_for_and_resampled_when_not(seed):
    tilted, times = tilt(fields(EDM), [1.5, 0.5]), Times.uniform(EDM, 12, RHO7)
    kept, left = sample_tilted(tilted, 200, times=times, final=False, seed=seed)
    x, report = sample_tilted(tilted, 200, times=times, seed=seed)
    assert left.log_weights.abs().max() > 0 and torch.equal(report.log_weights, torch.zeros(200, dtype=F64))
    assert len(kept.unique(dim=0)) > len(x.unique(dim=0)) and {tuple(v) for v in x.tolist()} <= {tuple(v) for v in kept.tolist()}
    torch.testing.assert_close(left.log_z, report.log_z)
    torch.testing.assert_close(left.ess[-1], effective_size(left.log_weights)[None] / 200)


def test_a_trace_shows_effective_size_and_ancestors():
    run = FeynmanKac(tilt([ExactField(EDM, FIRST)], [3.0]), Times.uniform(EDM, 20, RHO7))
    trace = Trace({"ess": lambda s: s.ess.min(), "distinct": lambda s: s.distinct.min()})
    evolve(run, run.begin(300), 20, watch=[trace])
    distinct = [row["distinct"] for row in trace.rows]
    assert distinct[0] == 300 and distinct[-1] < 150 and distinct == sorted(distinct, reverse=True)
    assert min(row["ess"] for row in trace.rows) < 0.6


def test_clamp_and_window_hold_the_weights_back():
    tilted, times = tilt([ExactField(EDM, FIRST)], [3.0]), Times.uniform(EDM, 20, RHO7)
    spread = lambda **settings: float(sample_tilted(tilted, 300, times=times, ess=0.0, final=False, **settings)[1].log_weights.std())
    assert 0 < spread(clamp=0.05) <= 20 * 0.05 < spread()
    nothing = sample_tilted(tilted, 300, times=times, ess=0.0, final=False, window=(0.9999, 1.0))[1]
    assert float(nothing.log_weights.abs().max()) == 0
    assert 0 < spread(window=(float(times.t[5]), float(times.t[10]))) < spread()


def test_the_end_without_noise_is_reached():
    x, report = sample_tilted(tilt([ExactField(Path.linear(), FIRST)], [1.0]), 400, steps=30)
    assert bool(x.isfinite().all()) and bool(((x.mean(0) - FIRST.means[0]).abs() < 5 * FIRST.covariance[0].sqrt() / 20 + 0.02).all())


def test_float32_follows_float64():
    """The same start and noise, half of whose digits are others: no noise is drawn where none is left, so one step from far to the end is compared."""
    ends = []
    for law in (FIRST.to(torch.float32), FIRST):
        run = FeynmanKac(tilt([ExactField(Path.linear(), law)], [1.3]), Times(Path.linear(), [0.6, 1.0]), final=False)
        ends.append(evolve(run, run.init(torch.tensor([[0.3, -0.8], [1.5, 2.0]], dtype=law.means.dtype)), 1))
    assert ends[0].x.dtype == torch.float32 and ends[0].log_weights.dtype == F64
    torch.testing.assert_close(ends[0].x.double(), ends[1].x, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ends[0].log_weights, ends[1].log_weights, rtol=1e-5, atol=1e-5)


def test_dropout_is_off_and_restored():
    net = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(2, 2)).train()
    modes = []
    field = Field(lambda x, t, cond: modes.append(net.training) or net(x), Path.linear(), "noise")
    field.net = type("Net", (torch.nn.Module,), {"forward": lambda self, x, t, cond: modes.append(self.inner.training) or self.inner(x)})()
    field.net.inner = net
    sample_tilted(tilt([field], [1.0]), 4, shape=(2,), steps=3)
    assert modes == [False] * 3 and net.training


def test_the_uncorrected_field_goes_through_every_sampler():
    """A tilted field is a field: `sample` follows it, which is the baseline that the corrector mends."""
    x = sample(tilt([ExactField(Path.linear(), FIRST)], [1.0]), 2000, steps=20)
    assert bool(((x.mean(0) - FIRST.means[0]).abs() < 5 * FIRST.covariance[0].sqrt() / math.sqrt(2000) + 0.03).all())


# -- refusals --------------------------------------------------------------------------------------------------------------------------------------

LINEAR = Field(lambda x, t, cond: x, Path.linear(), "noise")
GOOD = tilt([ExactField(EDM, FIRST)], [2.0])
LABELLED = tilt([ExactField(EDM, GaussianMixture(FIRST.weights, FIRST.means, FIRST.covariance, torch.tensor([0])))], [2.0])


@pytest.mark.parametrize(("call", "error", "told"), [
    (lambda: tilt([], []), ValueError, "fields must be one or more"),
    (lambda: tilt(LINEAR, [1.0]), (ValueError, TypeError), "fields"),
    (lambda: tilt([lambda x: x], [1.0]), TypeError, "fields"),
    (lambda: tilt([LINEAR], [1.0, 2.0]), ValueError, "exponents must be 1, one a field, got 2"),
    (lambda: tilt([LINEAR, LINEAR], [1.0, -1.0]), ValueError, "exponents must have a positive sum"),
    (lambda: tilt([LINEAR], [math.inf]), ValueError, "exponents must lie in"),
    (lambda: tilt([LINEAR, ExactField(EDM, FIRST)], [1.0, 1.0]), ValueError, "fields must live on one path"),
    (lambda: tilt([ExactField(Path.interpolant(), FIRST, SECOND)], [1.0]), ValueError, "two-sided"),
    (lambda: tilt([Field(lambda x, t, cond: x, Path.linear(noise=__import__("rheos").paths.Student(4.0)), "noise")], [1.0]), ValueError, "Gaussian noise"),
    (lambda: tilt([ExactField(EDM, FIRST), ExactField(EDM, GaussianMixture.points(torch.zeros(2, 3, dtype=F64), std=1.0))], [1.0, 1.0]), ValueError,
     "event shape"),
    (lambda: tilt([LINEAR], [1.0], reward=lambda x: x), TypeError, "reward"),
    (lambda: Reward(3.0), TypeError, "value|Reward"),
    (lambda: tilt([LINEAR], [1.0], reward=Reward(lambda x: x)).weighed(torch.ones(3, 2), 0.5), ValueError, r"shape \(3,\)"),
    (lambda: tilt([(LINEAR, "five")], [1.0]).score(torch.ones(3, 2), 0.5), TypeError, "condition must be a Tensor"),
    (lambda: tilt([(LINEAR, torch.zeros(2))], [1.0]).score(torch.ones(3, 2), 0.5), ValueError, "must have 3 rows"),
    (lambda: tilt([tilt([LINEAR], [1.0], reward=Reward(lambda x: x[:, 0]))], [1.0]), ValueError, "a tilted field with a reward of its own"),
    (lambda: tilt([ClassifierGuided(LINEAR, lambda x, t: x[:, 0])], [1.0]), ValueError, "the score of a law.*ClassifierGuided"),
    (lambda: tilt([ResidualCFG(LINEAR)], [1.0]), ValueError, "the score of a law.*ResidualCFG"),
    (lambda: tilt([TimeShift(LINEAR)], [1.0]), ValueError, "the score of a law.*TimeShift"),
    (lambda: tilt([classifier_free(ResidualCFG(LINEAR), 2.0)], [1.0]), ValueError, "the score of a law.*ResidualCFG"),
    (lambda: tilt([(classifier_free(LINEAR, 2.0), None)], [1.0]), ValueError, "guidance needs a condition"),
    (lambda: systematic(torch.tensor([0.5, -0.1]), torch.tensor(0.5)), ValueError, "weights must be"),
    (lambda: systematic(torch.zeros(3), torch.tensor(0.5)), ValueError, "not all zero"),
    (lambda: systematic(torch.tensor([0.5, math.nan]), torch.tensor(0.5)), ValueError, "weights must be finite"),
    (lambda: sample_tilted(ExactField(EDM, FIRST), 4), TypeError, "tilted"),
    (lambda: sample_tilted(GOOD), ValueError, "n or start must be given"),
    (lambda: sample_tilted(GOOD, 0), ValueError, "n must be at least 1"),
    (lambda: sample_tilted(GOOD, 3, start=torch.ones(4, 2, dtype=F64)), ValueError, "equal the 4 rows"),
    (lambda: sample_tilted(GOOD, 4, steps=0), ValueError, "steps must be at least 1"),
    (lambda: sample_tilted(GOOD, 10, groups=3), ValueError, "groups must divide the 10 particles"),
    (lambda: sample_tilted(GOOD, 10, groups=0), ValueError, "groups must be at least 1"),
    (lambda: sample_tilted(GOOD, 10, ess=1.5), ValueError, "ess must lie in"),
    (lambda: sample_tilted(GOOD, 10, noise=0.0), ValueError, "noise must lie in"),
    (lambda: sample_tilted(GOOD, 10, clamp=-1.0), ValueError, "clamp must lie in"),
    (lambda: sample_tilted(GOOD, 10, window=(0.7, 0.2)), ValueError, "window must be"),
    (lambda: sample_tilted(tilt([LINEAR], [1.0]), 10), ValueError, "shape must be given"),
    (lambda: sample_tilted(tilt([LINEAR], [1.0]), 10, shape=(2,), times=Times.uniform(Path.linear(), 5)), ValueError, "times must begin where"),
    (lambda: sample_tilted(GOOD, 10, times=Times.uniform(Path.linear(), 5)), ValueError, "times were made for"),
    (lambda: sample_tilted(GOOD, 10, times=Times.uniform(EDM, 5).reversed()), ValueError, "times must rise"),
    (lambda: sample_tilted(LABELLED, 4, cond=torch.tensor([0, 0, -1, -1])), ValueError, "cond must be the same for all 4 particles"),
    (lambda: sample_tilted(LABELLED, 4, cond=torch.tensor([0, 0])), ValueError, "cond must have 4 rows"),
    (lambda: sample_tilted(GOOD, start=torch.full((4, 2), math.nan, dtype=F64)), ValueError, "x must be finite"),
    (lambda: sample_tilted(GOOD, 4, watch=[lambda step, state: True]), ValueError, "a watcher ended the run"),
    (lambda: sample_tilted(tilt([Field(lambda x, t, cond: x / 0, EDM, "noise")], [2.0]), 4, shape=(2,), steps=3), NonFinite, "particle 0 of 4"),
])
def test_refusals(call, error, told):
    with pytest.raises(error, match=told):
        call()


def test_groups_may_have_conditions_of_their_own():
    x, report = sample_tilted(LABELLED, 4, cond=torch.tensor([0, 0, -1, -1]), groups=2, steps=5)
    assert report.ess.shape == (5, 2) and bool(x.isfinite().all())
