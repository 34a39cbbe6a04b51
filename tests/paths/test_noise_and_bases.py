"""Student noise against SciPy's t and F laws and the kernel of its paper; Fourier coordinates and spectral paths against dense linear algebra."""
from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.linalg import block_diag
from scipy.signal import convolve2d

from rheos.core import Draws
from rheos.couplings import Pair
from rheos.data import GaussianMixture
from rheos.objectives import LogNormal, Matching
from rheos.paths import (
    KINDS,
    LAM,
    Base,
    Coefficients,
    ExactField,
    Field,
    Fourier2d,
    Gaussian,
    Interpolant,
    Linear,
    Path,
    Prediction,
    Student,
    Times,
    transfer_sigma,
)
from rheos.samplers import DDIM, DDPM, DEIS, DPMSolverPP, Euler, Exponential, RungeKutta, UniPC, sample

F64 = torch.float64
ONE_SIDED = [kind for kind in KINDS if kind != "residual"]
RARE = 1e-6             # a law that holds fails a test at this level for one seed in ten thousand


def normals(name, *shape, scale=1.0):
    return scale * Draws(5).rows(name, 0, shape, dtype=F64)


# -- Student noise -----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("dof", [0.7, 3.0, 40.0])
def test_the_radius_of_student_noise_follows_the_f_law(dof, seed):
    """|z|^2 / N is a ratio of mean squares, of N normals and of `dof`: Snedecor's F(N, dof)."""
    z = Student(dof).draw((3000, 2, 3), seed=seed, like=torch.empty(0, dtype=F64))
    squares = z.flatten(1).square().sum(1).numpy() / 6
    assert stats.kstest(squares, stats.f(6, dof).cdf).pvalue > RARE
    if dof < 10:        # 3000 rows tell few degrees of freedom apart
        assert stats.kstest(squares, stats.f(6, 1.8 * dof).cdf).pvalue < RARE


@pytest.mark.parametrize("dof", [1.0, 5.0])
def test_each_coordinate_is_students_t_and_directions_are_even(dof, seed):
    z = Student(dof).draw((3000, 3), seed=seed, like=torch.empty(0, dtype=F64))
    for column in z.T:
        assert stats.kstest(column.numpy(), stats.t(dof).cdf).pvalue > RARE
    radius = z.norm(dim=1, keepdim=True)
    way = z / radius
    # A direction's coordinate has variance 1/3 in three dimensions, and tells nothing of the radius.
    assert float(way.mean(0).abs().max()) < 5 / math.sqrt(3 * 3000)
    inner = radius[:, 0] < radius.median()
    assert stats.ks_2samp(way[inner, 0].numpy(), way[~inner, 0].numpy()).pvalue > RARE


def test_the_numbers_of_a_row_share_one_radius(seed):
    """Squares of two coordinates are correlated through it; drawn apart, they would not be. By ranks, since moments are infinite."""
    z = Student(2.0).draw((3000, 2), seed=seed, like=torch.empty(0, dtype=F64))
    assert stats.spearmanr(z[:, 0].abs().numpy(), z[:, 1].abs().numpy()).statistic > 0.15          # zero within 0.09 at five standard errors if apart
    assert abs(stats.spearmanr(z[:, 0].numpy(), z[:, 1].numpy()).statistic) < 6 / math.sqrt(3000)


@pytest.mark.parametrize("law", [Gaussian(), Student(2.5), Student(0.3)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, F64, torch.complex64], ids=str)
def test_draws_do_not_depend_on_how_rows_are_split(law, dtype, seed):
    like = torch.empty(0, dtype=dtype)
    whole = law.draw((11, 3, 2), seed=seed, step=4, like=like)
    parts = [law.draw((n, 3, 2), seed=seed, step=4, first=first, like=like) for first, n in ((0, 4), (4, 1), (5, 6))]
    assert whole.dtype == dtype and torch.equal(torch.cat(parts), whole)
    assert torch.equal(law.draw((11, 3, 2), seed=seed, step=4, like=like, ahead=True), whole)
    for other in ({"step": 5}, {"step": 4, "purpose": "other"}):
        assert not torch.equal(law.draw((11, 3, 2), seed=seed, like=like, **other), whole)


def test_infinitely_many_degrees_of_freedom_are_the_normal_law_to_the_bit():
    for shape in ((7, 3), (2, 1, 5)):
        assert torch.equal(Student(math.inf).draw(shape, seed=3, step=1), Gaussian().draw(shape, seed=3, step=1))
    assert Student(math.inf).gaussian and not Student(1e12).gaussian
    path, x1, t = Path.linear(noise=Student(math.inf)), normals("x1", 3, 2), torch.tensor([0.1, 0.5, 0.8], dtype=F64)
    assert torch.equal(path.sample(x1, t, seed=2).x, Path.linear().sample(x1, t, seed=2).x)
    field = ExactField(path, GaussianMixture.points(normals("y", 4, 2), std=0.3))
    assert torch.equal(field.score(x1, 0.4), ExactField(Path.linear(), field.target).score(x1, 0.4))
    assert torch.equal(path.posterior(x1, x1, 0.2, 0.5)[0], Path.linear().posterior(x1, x1, 0.2, 0.5)[0])


@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=str)
@pytest.mark.parametrize("dof", [0.02, 0.1])
def test_few_degrees_of_freedom_stay_finite(dof, dtype):
    """A chi2 of 0.1 degrees of freedom is below 1e-76 once in 7000 draws: its root carries a float32 beyond its range."""
    z = Student(dof).draw((20_000, 2), like=torch.empty(0, dtype=dtype))
    assert bool(torch.isfinite(z).all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_short_dtypes_hold_the_same_law(dtype):
    """The numbers are those of float32, rounded: what keeps rare rows finite must not touch the others."""
    single, short = (Student(3.0).draw((2000, 2), seed=1, like=torch.empty(0, dtype=d)) for d in (torch.float32, dtype))
    assert short.dtype == dtype and float(single.abs().max()) > 10
    torch.testing.assert_close(short.float(), single, rtol=2.0**-6, atol=1e-3)


def points(count=5, dim=3):
    return GaussianMixture.points(normals("y", count, dim) + 0.4, torch.tensor([2, 7, 2, 7, 7])[:count])


@pytest.mark.parametrize("path", [Path.linear, Path.vp, Path.edm], ids=["linear", "vp", "edm"])
@pytest.mark.parametrize("dof", [1.0, 4.5])
def test_student_densities_and_posteriors_by_scipys_multivariate_t(path, dof):
    field, x, t = ExactField(path(noise=Student(dof)), points()), normals("x", 6, 3), 0.45
    at = field.path.coefficients(t)
    b, c = float(at.b), float(at.c)
    pdf = np.stack([stats.multivariate_t(loc=b * y.numpy(), shape=c**2 * np.eye(3), df=dof).pdf(x.numpy()) for y in field.target.means], 1)
    torch.testing.assert_close(field.log_prob(x, t), torch.from_numpy(np.log(pdf.mean(1))), rtol=1e-10, atol=1e-10)
    data = torch.from_numpy(pdf / pdf.sum(1, keepdims=True)) @ field.target.means
    answer = field(x, t)
    torch.testing.assert_close(answer.data, data, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(b * answer.data + c * answer.noise, x, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(answer.velocity, at.db * data + at.dc * (x - b * data) / c, rtol=1e-9, atol=1e-9)
    assert field.nfe == 1


def test_a_time_and_a_label_for_each_row_under_student_noise():
    field, x = ExactField(Path.vp(noise=Student(2.0)), points()), normals("x", 4, 3)
    t, cond = torch.tensor([0.2, 0.5, 0.8, 0.95], dtype=F64), torch.tensor([7, -1, 2, 7])
    whole = field(x, t, cond)
    for i, label in enumerate(cond.tolist()):
        law = points() if label < 0 else points().given(label)
        one = ExactField(field.path, law)(x[i : i + 1], float(t[i]))
        for kind in ("data", "noise", "velocity", "v"):
            torch.testing.assert_close(whole.of(kind)[i : i + 1], one.of(kind), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(field.log_prob(x, t)[i : i + 1], field.log_prob(x[i : i + 1], float(t[i])), rtol=1e-12, atol=1e-12)


def test_the_weights_are_the_kernel_of_pfgm():
    """(|x - y|^2 + r^2)^{-(N + D) / 2} with r = sigma sqrt(D), for alpha = 1."""
    field, x, t, dof = ExactField(Path.edm(noise=Student(6.0)), points()), normals("x", 4, 3), 0.7, 6
    r = float(field.path.coefficients(t).c) * math.sqrt(dof)
    kernel = (torch.cdist(x, field.target.means) ** 2 + r * r) ** (-(3 + dof) / 2)
    torch.testing.assert_close(field.data(x, t), kernel / kernel.sum(1, keepdim=True) @ field.target.means, rtol=1e-9, atol=1e-9)


def test_the_student_velocity_carries_its_density():
    """d/dt log rho along dx/dt = v is minus the divergence of v."""
    for path in (Path.linear(noise=Student(1.0)), Path.edm(0.05, 10.0, noise=Student(3.0))):
        field, x, t, h = ExactField(path, points(5, 2)), normals("x", 3, 2), 0.6, 1e-5
        v = field.velocity(x, t)
        total = (field.log_prob(x + h * v, t + h) - field.log_prob(x - h * v, t - h)) / (2 * h)
        divergence = sum(((field.velocity(x + h * e, t) - field.velocity(x - h * e, t)) / (2 * h))[:, i] for i, e in enumerate(torch.eye(2, dtype=F64)))
        torch.testing.assert_close(total, -divergence, rtol=1e-6, atol=1e-6)


def test_many_degrees_of_freedom_tend_to_the_gaussian_field():
    """The error falls like 1 / dof: the exponent's expansion in |x|^2 / dof."""
    target, x = points(), normals("x", 6, 3)
    gaussian = ExactField(Path.linear(), target)
    gaps = [float((ExactField(Path.linear(noise=Student(dof)), target).velocity(x, 0.4) - gaussian.velocity(x, 0.4)).abs().max()) for dof in (1e3, 1e4, 1e6)]
    assert gaps[2] < 1e-4 and 8 < gaps[0] / gaps[1] < 12 and 80 < gaps[1] / gaps[2] < 120
    near = ExactField(Path.linear(noise=Student(1e7)), target).log_prob(x, 0.4)
    torch.testing.assert_close(near, gaussian.log_prob(x, 0.4), rtol=0, atol=1e-4)


def test_samples_of_a_student_path_end_at_the_points_they_began_to():
    """The whole flow: starts by Student's law, ends at data points in their proportions (0.5, 0.3, 0.2 by repeats)."""
    spots = torch.tensor([[2.0, -1.0], [-1.0, 0.5], [0.3, 3.0]], dtype=F64)
    field = ExactField(Path.edm(0.02, 30.0, noise=Student(4.0)), GaussianMixture.points(spots.repeat_interleave(torch.tensor([5, 3, 2]), 0)))
    n = 500
    x = sample(field, start=field.path.prior((n, 2), seed=1, dtype=F64), steps=30, rule=RungeKutta(2))
    near = torch.cdist(x, spots)
    assert float(near.min(1).values.median()) < 0.1
    shares = torch.bincount(near.argmin(1), minlength=3) / n
    # The flow stops at sigma 30 on the far side, where the prior's mean is off by |data| / 30 standard deviations.
    allowed = 5 * torch.sqrt(torch.tensor([0.25, 0.21, 0.16]) / n) + 0.03
    assert bool(((shares - torch.tensor([0.5, 0.3, 0.2])).abs() < allowed).all())


NO_SCORE = r"(predicts = )?score (needs a path with Gaussian noise|cannot be had on a path whose noise is not Gaussian)"


@pytest.mark.parametrize("call", [
    lambda path, x: Field(lambda x, t, c: x, path, "score"),
    lambda path, x: Field(lambda x, t, c: (x, x), path, ("velocity", "score")),
    lambda path, x: Matching(path, "score"),
    lambda path, x: Field(lambda x, t, c: x, path, "velocity").score(x, 0.5),
    lambda path, x: Field(lambda x, t, c: x, path, "noise").drift(x, 0.5, epsilon=0.3),
    lambda path, x: Prediction({"data": x}, x, path.coefficients(0.5), gaussian=False).score,
    lambda path, x: path.convert(x, x, 0.5, of="noise", to="score"),
    lambda path, x: ExactField(path, points(5, 2)).score(x, 0.5),
    lambda path, x: path.sample(x, torch.tensor([0.5, 0.6])).target("score"),
], ids=["field", "field of two", "matching", "asked of a field", "drift", "prediction", "convert", "exact", "point"])
def test_no_score_under_student_noise(call):
    with pytest.raises(ValueError, match=NO_SCORE) as caught:
        call(Path.linear(noise=Student(3.0)), torch.ones(2, 2))
    assert "\n" not in str(caught.value)


# -- Fourier coordinates -------------------------------------------------------------------------------------------------------

SIZES = [(4, 6), (3, 5), (5, 4), (1, 7), (2, 2), (1, 1)]


def dense(height, width):
    """The transform as a matrix, from images of one bright pixel."""
    return Fourier2d().forward(torch.eye(height * width, dtype=F64).reshape(-1, height, width)).flatten(1).T


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_transform_is_hartleys_orthonormal_and_its_own_inverse(size):
    (h, w), q = size, dense(*size)
    i, j = (g.flatten() for g in np.meshgrid(np.arange(h), np.arange(w), indexing="ij"))
    angle = 2 * np.pi * (np.outer(i, i) / h + np.outer(j, j) / w)
    torch.testing.assert_close(q, torch.from_numpy((np.cos(angle) + np.sin(angle)) / math.sqrt(h * w)), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(q @ q.T, torch.eye(h * w, dtype=F64), rtol=1e-12, atol=1e-12)
    x, basis = normals("x", 3, 2, h, w), Fourier2d()
    torch.testing.assert_close(basis.inverse(basis.forward(x)), x, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(basis.forward(x).flatten(2), x.flatten(2) @ q.T, rtol=1e-12, atol=1e-12)
    assert basis.forward(x.float()).dtype == torch.float32


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_filter_of_the_frequencys_length_is_a_convolution(size):
    """Multiplying coordinates by g(|f|) is convolving, round the edges, with the kernel sum_f g(|f|) cos(2 pi f n) / (h w)."""
    h, w = size
    fy, fx = np.meshgrid(np.fft.fftfreq(h), np.fft.fftfreq(w), indexing="ij")
    frequency = Fourier2d.frequencies(h, w)
    torch.testing.assert_close(frequency, torch.from_numpy(np.hypot(fy, fx)), rtol=1e-14, atol=0)
    assert frequency.dtype == F64 and float(frequency.max()) <= math.sqrt(0.5)
    gain = lambda f: np.exp(-3 * f) * (1 + np.sin(7 * f))
    ny, nx = np.meshgrid(np.arange(h), np.arange(w), indexing="ij")
    kernel = sum(gain(np.hypot(a, b)) * np.cos(2 * np.pi * (a * ny + b * nx)) for a, b in zip(fy.flat, fx.flat, strict=True)) / (h * w)
    x, basis = normals("x", 2, h, w), Fourier2d()
    found = basis.inverse(torch.from_numpy(gain(frequency.numpy())) * basis.forward(x))
    for image, filtered in zip(x.numpy(), found.numpy(), strict=True):
        tiled = convolve2d(np.tile(image, (3, 3)), kernel, mode="full")[h : 2 * h, w : 2 * w]
        np.testing.assert_allclose(filtered, tiled, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("schedule", [Linear(), Path.vp().schedule, Interpolant()], ids=["linear", "vp", "two-sided"])
def test_a_basis_changes_nothing_where_coordinates_share_their_coefficients(schedule):
    plain, turned = Path(schedule), Path(schedule, basis=Fourier2d())
    x1, x0, z = (normals(name, 3, 2, 3, 5) for name in ("x1", "x0", "z"))
    t, source = torch.tensor([0.1, 0.5, 0.8], dtype=F64), plain.two_sided
    ours, theirs = (path.sample(x1, t, x0=x0 if source else None, z=z) for path in (turned, plain))
    torch.testing.assert_close(ours.x, theirs.x, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.velocity, theirs.velocity, rtol=1e-12, atol=1e-12)
    weights = torch.tensor([0.2, 0.5, 0.3], dtype=F64)
    target = GaussianMixture(weights, normals("m", 3, 2, 3, 5), torch.tensor([0.3, 0.1, 0.6], dtype=F64))
    start = GaussianMixture(weights.flip(0), normals("s", 3, 2, 3, 5), torch.tensor([0.2, 0.5, 0.4], dtype=F64)) if source else None
    a, b = (ExactField(path, target, start) for path in (turned, plain))
    for time in (t, 0.35):
        torch.testing.assert_close(a.log_prob(x0, time), b.log_prob(x0, time), rtol=1e-11, atol=1e-11)
        one, two = a(x0, time), b(x0, time)
        for kind in ("velocity", "data", "noise", "score", *(("source",) if source else ("v",))):
            torch.testing.assert_close(one.of(kind), two.of(kind), rtol=1e-10, atol=1e-10)
    if not source:
        torch.testing.assert_close(turned.prior((4, 3, 5), seed=1, dtype=F64), plain.prior((4, 3, 5), seed=1, dtype=F64), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(turned.time_at(0.3), plain.time_at(0.3))
        got, wanted = (sample(field, start=x0, steps=7, rule=DPMSolverPP(3)) for field in (a, b))
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)


# -- spectral paths: coefficients that differ by coordinate ------------------------------------------------------------------------

H, W = 3, 4


@dataclass(frozen=True)
class Fading:
    """b = t^p, c = 1.5 - b, p rising with the frequency: one for every row of an event (channel, H, W), and none alike."""

    two_sided: ClassVar[bool] = False
    spectral: ClassVar[bool] = True
    interval: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def coefficients(self, t: torch.Tensor) -> Coefficients:
        power = 1 + 2 * Fourier2d.frequencies(H, W)
        t = t[..., None, None, None]
        b, db = t**power, power * t ** (power - 1)
        return Coefficients(0.0, b, 1.5 - b, 0.0, db, -db, -(1.5 - b) * db)


@dataclass(frozen=True)
class FadingBoth:
    """The same with a source: a = (1 - t)^p, c = t (1 - t)."""

    two_sided: ClassVar[bool] = True
    spectral: ClassVar[bool] = True
    interval: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def coefficients(self, t: torch.Tensor) -> Coefficients:
        power = 1 + 2 * Fourier2d.frequencies(H, W)
        t = t[..., None, None, None]
        c, dc = (t * (1 - t)).expand(*t.shape[:-2], H, W), (1 - 2 * t).expand(*t.shape[:-2], H, W)
        return Coefficients((1 - t) ** power, t**power, c, -power * (1 - t) ** (power - 1), power * t ** (power - 1), dc, c * dc)


SPECTRAL, BOTH = Path(Fading(), basis=Fourier2d()), Path(FadingBoth(), basis=Fourier2d())


def matrix(diagonal: Any, channels: int = 2) -> np.ndarray:
    """What coefficients (H, W) in Fourier coordinates do to a flattened event (channels, H, W)."""
    q = dense(H, W).numpy()
    one = q @ np.diag(np.asarray(diagonal).reshape(-1)) @ q.T
    return block_diag(*[one] * channels)


def powers():
    return 1 + 2 * np.hypot(*np.meshgrid(np.fft.fftfreq(H), np.fft.fftfreq(W), indexing="ij"))


def images(name, n=4):
    return normals(name, n, 2, H, W)


def target():
    return GaussianMixture(torch.tensor([0.3, 0.7], dtype=F64), images("m", 2), torch.tensor([0.2, 0.5], dtype=F64), torch.tensor([1, 0]))


@pytest.mark.parametrize("t", [0.2, 0.7])
def test_spectral_densities_and_fields_by_dense_gaussians(t):
    """x_t = B x1 + C z with full matrices: SciPy's normal densities, conditional means by linear solves, B' and C' by central differences."""
    law, x, h = target(), images("x"), 1e-6
    ahead, here, back = ((matrix(s ** powers()), matrix(1.5 - s ** powers())) for s in (t + h, t, t - h))
    (b, c), (db, dc) = here, ((u - v) / (2 * h) for u, v in zip(ahead, back, strict=True))
    rows, means = x.flatten(1).numpy(), law.means.flatten(1).numpy()
    covariances = [float(v) * b @ b.T + c @ c.T for v in law.covariance]
    logs = np.stack([stats.multivariate_normal(b @ m, s).logpdf(rows) for m, s in zip(means, covariances, strict=True)], 1) + np.log(law.weights.numpy())
    field = ExactField(SPECTRAL, law)
    torch.testing.assert_close(field.log_prob(x, t), torch.from_numpy(np.logaddexp.reduce(logs, 1)), rtol=1e-10, atol=1e-10)
    w = np.exp(logs - np.logaddexp.reduce(logs, 1, keepdims=True))
    q = [np.linalg.solve(s, (rows - b @ m).T).T for m, s in zip(means, covariances, strict=True)]
    data = sum(w[:, k : k + 1] * (means[k] + float(law.covariance[k]) * q[k] @ b) for k in range(2))
    noise = sum(w[:, k : k + 1] * q[k] @ c for k in range(2))
    score = -sum(w[:, k : k + 1] * q[k] for k in range(2))
    answer = field(x, t)
    for kind, expected, accuracy in (("data", data, 1e-9), ("noise", noise, 1e-9), ("score", score, 1e-9), ("velocity", data @ db.T + noise @ dc.T, 1e-7)):
        torch.testing.assert_close(answer.of(kind).flatten(1), torch.from_numpy(expected), rtol=accuracy, atol=accuracy)
    for of in ("velocity", "data", "noise", "score"):       # and what a network that predicts one of them says of the others
        learned = Field(lambda x, t, cond: answer.of(of), SPECTRAL, of)(x, t)
        for kind in ONE_SIDED:
            torch.testing.assert_close(learned.of(kind), answer.of(kind), rtol=1e-8, atol=1e-8)


def test_a_spectral_time_and_label_for_each_row():
    field, x, t, cond = ExactField(SPECTRAL, target()), images("x"), torch.tensor([0.1, 0.4, 0.6, 0.9], dtype=F64), torch.tensor([0, 1, -1, 0])
    whole, density = field(x, t, cond), field.log_prob(x, t)
    for i in range(4):
        one = field(x[i : i + 1], float(t[i]), cond[i : i + 1])
        for kind in ("data", "noise", "velocity", "score"):
            torch.testing.assert_close(whole.of(kind)[i : i + 1], one.of(kind), rtol=1e-11, atol=1e-11)
        torch.testing.assert_close(density[i : i + 1], field.log_prob(x[i : i + 1], float(t[i])), rtol=1e-12, atol=1e-12)


def test_a_spectral_two_sided_density_is_that_of_the_sum():
    """One Gaussian at either end: x_t = A x0 + B x1 + c z is Gaussian."""
    x, t = images("x"), 0.3
    one = lambda name, variance: GaussianMixture(torch.ones(1, dtype=F64), images(name, 1), torch.tensor([variance], dtype=F64))
    source, law = one("source", 0.4), one("target", 0.7)
    a, b, c = matrix((1 - t) ** powers()), matrix(t ** powers()), t * (1 - t) * np.eye(2 * H * W)
    normal = stats.multivariate_normal(a @ source.means.flatten().numpy() + b @ law.means.flatten().numpy(), 0.4 * a @ a.T + 0.7 * b @ b.T + c @ c)
    field = ExactField(BOTH, law, source)
    torch.testing.assert_close(field.log_prob(x, t), torch.from_numpy(normal.logpdf(x.flatten(1).numpy())), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(field.score(x, t).flatten(1), torch.from_numpy(np.linalg.solve(normal.cov, (normal.mean - x.flatten(1).numpy()).T).T), rtol=1e-9, atol=1e-9)


def test_a_spectral_student_density_is_scipys():
    y, x, t = images("y", 3), images("x"), 0.6
    field = ExactField(Path(Fading(), Student(2.5), Fourier2d()), GaussianMixture.points(y))
    b, c = matrix(t ** powers()), matrix(1.5 - t ** powers())
    pdf = np.stack([stats.multivariate_t(loc=b @ v, shape=c @ c.T, df=2.5).logpdf(x.flatten(1).numpy()) for v in y.flatten(1).numpy()], 1)
    torch.testing.assert_close(field.log_prob(x, t), torch.from_numpy(np.logaddexp.reduce(pdf, 1) - math.log(3)), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("path", [SPECTRAL, BOTH], ids=["one-sided", "two-sided"])
def test_a_spectral_point_is_made_by_dense_matrices_and_its_velocity_is_its_derivative(path):
    t, h = torch.tensor([0.2, 0.5, 0.6, 0.9], dtype=F64), 1e-6
    x1, x0, z = images("x1"), images("x0") if path.two_sided else None, images("z")
    points = [path.sample(x1, t + d, x0=x0, z=z) for d in (-h, 0, h)]
    torch.testing.assert_close((points[2].x - points[0].x) / (2 * h), points[1].velocity, rtol=1e-6, atol=1e-6)
    flat = lambda v: v.flatten(1).numpy()
    for i, s in enumerate(t.tolist()):
        c = matrix(np.full((H, W), s * (1 - s)) if path.two_sided else 1.5 - s ** powers())
        expected = matrix(s ** powers()) @ flat(x1)[i] + c @ flat(z)[i]
        expected = expected + (matrix((1 - s) ** powers()) @ flat(x0)[i] if path.two_sided else 0)
        np.testing.assert_allclose(flat(points[1].x)[i], expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("start", [None, 0.4])
def test_the_prior_of_a_spectral_path_has_its_covariance(start, seed):
    n = 4000
    x = SPECTRAL.prior((n, 2, H, W), seed=seed, start=start, dtype=F64).flatten(1).numpy()
    root = matrix(1.5 - (start or 0.0) ** powers())
    white = x @ np.linalg.inv(root).T
    moment = white.T @ white / n
    assert np.abs(moment - np.eye(len(moment))).max() < 6 * math.sqrt(2 / n)
    again = SPECTRAL.prior((10, 2, H, W), seed=seed, first=30, start=start, dtype=F64).flatten(1).numpy()
    np.testing.assert_allclose(again, x[30:40], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("rule", "order"), [(Euler(), 1), (RungeKutta(2), 2), (RungeKutta(4), 4)], ids=["euler", "heun", "classical"])
def test_rules_follow_the_spectral_flow_at_their_order(rule, order):
    """From one Gaussian the flow stretches every coordinate of the basis about its mean by the ratio of its standard deviations."""
    law = GaussianMixture(torch.ones(1, dtype=F64), images("m", 1), torch.tensor([0.3], dtype=F64))
    field, x0, (begin, end) = ExactField(SPECTRAL, law), images("x"), (0.1, 0.8)
    sd = lambda s: np.sqrt(0.3 * s ** (2 * powers()) + (1.5 - s ** powers()) ** 2)
    mean, flat = law.means.flatten().numpy(), x0.flatten(1).numpy()
    exact = matrix(end ** powers()) @ mean + (flat - matrix(begin ** powers()) @ mean) @ matrix(sd(end) / sd(begin)).T
    gaps = [np.abs(sample(field, start=x0, times=Times.uniform(SPECTRAL, steps, start=begin, end=end), rule=rule).flatten(1).numpy() - exact).max() for steps in (8, 16)]
    assert abs(math.log2(gaps[0] / gaps[1]) - order) < 0.3 and gaps[1] < 0.1


@pytest.mark.parametrize("kind", ONE_SIDED)
def test_what_a_network_is_regressed_on_is_what_the_field_reads(kind):
    """Trained to a point's target, a net that gives it back must make the field say x1 and z: in pixels, though coefficients stand in the basis."""
    x1, z, t = images("x1"), images("z"), torch.tensor([0.2, 0.5, 0.6, 0.9], dtype=F64)
    point = SPECTRAL.sample(x1, t, z=z)
    answer = Field(lambda x, t, cond: point.target(kind), SPECTRAL, kind)(point.x, t)
    torch.testing.assert_close(answer.data, x1, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(answer.noise, z, rtol=1e-9, atol=1e-9)


def test_the_score_of_a_spectral_point_is_the_slope_of_its_log_density():
    x1, z, t = images("x1"), images("z"), torch.tensor([0.2, 0.5, 0.6, 0.9], dtype=F64)
    point = SPECTRAL.sample(x1, t, z=z)
    for i, s in enumerate(t.tolist()):
        c = matrix(1.5 - s ** powers())
        gap = point.x[i].flatten().numpy() - matrix(s ** powers()) @ x1[i].flatten().numpy()
        np.testing.assert_allclose(point.target("score")[i].flatten().numpy(), -np.linalg.solve(c @ c.T, gap), rtol=1e-9, atol=1e-9)


ONE_LINE = "exists only where all coordinates share their coefficients; those of this path differ"


@pytest.mark.parametrize(("call", "message"), [
    (lambda x: SPECTRAL.lam(0.5), f"^lam {ONE_LINE}$"),
    (lambda x: SPECTRAL.time_at(0.0), f"^time_at {ONE_LINE}$"),
    (lambda x: SPECTRAL.posterior(x, x, 0.2, 0.5), f"^posterior {ONE_LINE}$"),
    (lambda x: SPECTRAL.transition(x, 0.5, 0.2), f"^transition {ONE_LINE}$"),
    (lambda x: SPECTRAL.amplification("noise"), f"^amplification {ONE_LINE}$"),
    (lambda x: Times.uniform(SPECTRAL, 4, LAM), f"^lam {ONE_LINE}$"),
    (lambda x: Times.uniform(SPECTRAL, 4).lam, f"^lam {ONE_LINE}$"),
    (lambda x: Field(lambda x, t, c: x, SPECTRAL, "v", unit_input=True)(x, 0.5), f"^unit_input {ONE_LINE}$"),
    (lambda x: Matching(SPECTRAL, unit_input=True)(lambda x, t, c: x, Pair(x)), f"^unit_input {ONE_LINE}$"),
    (lambda x: Matching(SPECTRAL, when=LogNormal())(lambda x, t, c: x, Pair(x)), f"^time_at {ONE_LINE}$"),
    *((lambda x, rule=rule: sample(ExactField(SPECTRAL, target()), start=x, steps=3, rule=rule), f"{ONE_LINE}$") for rule in (DDIM(), DDPM(), DEIS(), UniPC(), Exponential())),
    (lambda x: Path(Fading()), "^basis must be given: the coefficients of Fading.. differ by coordinate$"),
    (lambda x: ExactField(SPECTRAL, GaussianMixture(torch.ones(1, dtype=F64), images("m", 1), torch.ones(1, 2 * H * W, dtype=F64))),
     "^target and source must have isotropic covariances on a path with a basis, got others$"),
    (lambda x: Fourier2d().forward(torch.ones(3, 4)), r"^Fourier2d needs events of two axes or more, got shape \(3, 4\)$"),
    (lambda x: Student(0.0), r"^dof must lie in \(0, inf\), got 0.0$"),
    (lambda x: Student(-2.0), r"^dof must lie in \(0, inf\), got -2.0$"),
    (lambda x: Student(math.nan), r"^dof must lie in \(0, inf\), got nan$"),
    (lambda x: Student(-math.inf), r"^dof must lie in \(0, inf\), got -inf$"),
    (lambda x: ExactField(Path.linear(noise=Student(3.0)), target()), "^Student noise has a closed field for points on one-sided paths only: use GaussianMixture.points.x. with std 0$"),
    (lambda x: ExactField(Path(Interpolant(), Student(3.0)), GaussianMixture.points(x), GaussianMixture.points(x)), "^Student noise has a closed field for points on one-sided"),
    (lambda x: ExactField(Path(Linear(), Uneven()), target()), r"^the exact field is known under Gaussian and Student noise, this path has Uneven\(\)$"),
    (lambda x: ExactField(Path.linear(noise=Student(3.0)), GaussianMixture.points(x))(x, 1.0), "^a finite data set has no density where no noise is left"),
    (lambda x: ExactField(Path.linear(noise=Student(3.0)), GaussianMixture.points(x)).log_prob(x, 1.0), "^a finite data set has no density where no noise is left"),
    (lambda x: ExactField(Path.linear(noise=Student(3.0)), GaussianMixture.points(x))(x, 0.5, torch.zeros(4, dtype=torch.int64)), "^cond was given, but the target has no labels$"),
])
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call(images("x"))
    assert "\n" not in str(caught.value)


@dataclass(frozen=True)
class Uneven:
    """Noise of a user's own."""

    gaussian: ClassVar[bool] = False

    def draw(self, shape, *, seed=0, purpose="noise", step=0, first=0, like=None, ahead=False):
        return Gaussian().draw(shape, seed=seed, purpose=purpose, step=step, first=first, like=like).exp()


def test_noise_of_ones_own_is_taken_and_not_saved():
    path, x1 = Path(Linear(), Uneven()), normals("x1", 3, 2)
    point = path.sample(x1, torch.full((3,), 0.25, dtype=F64), seed=1)
    assert float(point.z.min()) > 0
    torch.testing.assert_close(point.x, 0.25 * x1 + 0.75 * point.z)
    with pytest.raises(TypeError, match="a path with a noise of your own, Uneven, cannot be saved"):
        path.to_json()


def test_normal_noise_of_ones_own_is_not_saved_as_ours():
    """A law that says it is standard normal may draw its numbers in a way of its own: a file cannot hold it, and must not drop it."""
    @dataclass(frozen=True)
    class Paired(Uneven):
        gaussian: ClassVar[bool] = True

    with pytest.raises(TypeError, match="a path with a noise of your own, .*Paired, cannot be saved"):
        Path(Linear(), Paired()).to_json()


@pytest.mark.parametrize("call", [lambda: Student("3"), lambda: Student(True), lambda: Fourier2d().forward(torch.ones(2, 3, 4, dtype=torch.complex64))],
                         ids=["text", "bool", "complex images"])
def test_wrong_types_are_type_errors(call):
    with pytest.raises(TypeError):
        call()


def test_every_step_draws_radii_of_its_own():
    """z / g is the same for all numbers of a row, and another one at another step."""
    law = Student(2.0)
    ratio = lambda step: (law.draw((5, 3), step=step) / Gaussian().draw((5, 3), step=step))[:, 0]
    assert not bool(torch.isclose(ratio(0), ratio(1)).any())


# -- a base of its own -------------------------------------------------------------------------------------------------------

def test_a_base_has_its_mean_and_spread_where_it_is_masked(seed):
    mean, mask = torch.tensor([[0.5, -2.0, 1.0]]), torch.tensor([[True, False, True]])
    z = Base.of(mean, 0.3, mask).draw((40_000, 1, 3), seed=seed, like=torch.empty(0, dtype=F64))
    torch.testing.assert_close(z.mean(0), torch.tensor([[0.5, 0.0, 1.0]], dtype=F64), rtol=0, atol=0.03)
    torch.testing.assert_close(z.std(0), torch.tensor([[0.3, 1.0, 0.3]], dtype=F64), rtol=0.03, atol=0)


def test_a_flow_from_another_base_reaches_the_data(seed):
    """One point of data: the flow is x' = (x1 - x) / (1 - t), which is where every base ends; and its start is the base's."""
    path, y = Path.linear(noise=Base(3.0, 0.1)), 0.7
    field = Field(lambda x, t, cond: torch.full_like(x, y), path, "data")
    start = path.prior((500, 2), seed=seed, dtype=F64)
    assert abs(float(start.mean()) - 3.0) < 0.03
    torch.testing.assert_close(sample(field, start=start, rule=DDIM(), steps=4), torch.full_like(start, y), rtol=0, atol=1e-9)
    with pytest.raises(ValueError, match="score"):
        Field(lambda x, t, cond: x, path, "score")


def test_a_base_is_saved_with_its_path():
    path = Path.vp(noise=Base.of(torch.tensor([[0.25, -1.0]]), 0.5))
    assert Path.from_json(json.loads(json.dumps(path.to_json()))) == path


@pytest.mark.parametrize(("call", "message"), [
    (lambda: Base(0.0, 0.0), r"std must lie in \(0, inf\), got 0"), (lambda: Base(math.nan), "mean"),
    (lambda: Base((1.0, 2.0)).draw((3, 5)), "mean must broadcast to events of shape"), (lambda: transfer_sigma(1.0, 0.0), r"dof must lie in \(0, inf\), got 0"),
    (lambda: transfer_sigma(-1.0, 4.0), "sigma"),
])
def test_refusals_of_a_base(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# -- PFGM++ between its two ends ------------------------------------------------------------------------------------------------

def test_many_extra_dimensions_are_the_gaussian_sampler_and_few_are_not(seed):
    """The same normal numbers, Heun's rule in 18 steps: D = 10^8 ends where the Gaussian path ends, D = 8 elsewhere."""
    points = GaussianMixture.points(Draws(seed).rows("points", 0, (40, 6), dtype=F64))
    ends = {}
    for dof in (8.0, 1e8, math.inf):
        path = Path.edm(noise=Student(dof))
        start = path.prior((50, 6), seed=seed, dtype=F64)
        ends[dof] = sample(ExactField(path, points), start=start, rule=RungeKutta(2), steps=18)
    gap = lambda dof: (ends[dof] - ends[math.inf]).norm(dim=1)
    # A start on the border of two points' basins may end in the other one.
    assert float((gap(1e8) < 1e-3).double().mean()) >= 0.96 and float((gap(8.0) < 1e-3).double().mean()) < 0.5


def test_one_extra_dimension_is_the_poisson_flow(seed):
    """D = 1: x moves along the electric field of the data as charges in N + 1 dimensions, dx/dr = E_x / E_r with r = sigma (Xu et al., 2022,
    arXiv:2209.11178), where a charge at distance d pulls with 1 / d^N along the line between them."""
    path, size = Path.edm(noise=Student(1.0)), 5
    points = Draws(seed).rows("points", 0, (12, size), dtype=F64)
    field = ExactField(path, GaussianMixture.points(points))
    x = 2 * Draws(seed).rows("x", 0, (9, size), dtype=F64)
    for t in (0.3, 0.6, 0.8):
        at = path.coefficients(t)
        radius = float(at.c)                       # sigma sqrt(D)
        rest = x[:, None] - points
        distance = (rest.square().sum(2) + radius**2).sqrt()
        pull = distance.pow(-(size + 1))
        along_x, along_r = (pull[..., None] * rest).sum(1), (pull * radius).sum(1)
        expected = along_x / along_r[:, None] * float(at.dc)
        torch.testing.assert_close(field.velocity(x, t), expected, rtol=1e-9, atol=1e-9)
