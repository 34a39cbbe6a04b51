"""Exact fields with tilted axes and with labels, against Gaussian conditioning by linear algebra; what a velocity alone tells; the law at the start."""
import math

import pytest
import torch

from rheos.core import Draws
from rheos.data import GaussianMixture
from rheos.paths import KINDS, Coefficients, ExactField, Field, Path, Prediction

ONE_SIDED = [kind for kind in KINDS if kind != "residual"]     # a residual needs a source

F64 = torch.float64


def tilted():
    """Three components in three dimensions whose axes are no permutation of the coordinate axes and are not alike."""
    root = torch.tensor([[[0.9, 0.0, 0.0], [-0.5, 0.4, 0.0], [0.3, 0.6, 0.2]], [[0.3, 0.0, 0.0], [0.7, 0.8, 0.0], [-0.2, 0.1, 0.5]],
                         [[0.5, 0.0, 0.0], [0.1, 0.2, 0.0], [0.9, -0.4, 0.7]]], dtype=F64)
    means = torch.tensor([[1.0, -0.4, 0.3], [-0.8, 0.9, 0.1], [0.2, 0.5, -1.1]], dtype=F64)
    return GaussianMixture(torch.tensor([0.2, 0.5, 0.3], dtype=F64), means, root @ root.mT, torch.tensor([4, 7, 7]))


def conditioned(target, x, b, c):
    """E[x1 | x] for x = b x1 + c z by the conditional mean of each jointly Gaussian pair, weighed by the likelihoods of torch.distributions."""
    covariance = b**2 * target.covariance + c**2 * torch.eye(3, dtype=F64)
    likelihood = torch.distributions.MultivariateNormal(b * target.means, covariance).log_prob(x[:, None])
    weights = torch.softmax(target.weights.log() + likelihood, 1)
    gap = (x[:, None] - b * target.means).permute(1, 2, 0)
    means = target.means[:, :, None] + b * target.covariance @ torch.linalg.solve(covariance, gap)
    return torch.einsum("nk,kin->ni", weights, means)


# -- closed forms ------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("path", [Path.linear(), Path.vp()], ids=["linear", "vp"])
@pytest.mark.parametrize("t", [0.3, 0.6, 0.9])
def test_tilted_gaussians_by_linear_algebra(path, t):
    target, x = tilted(), Draws(2).rows("x", 0, (6, 3), dtype=F64)
    at = path.coefficients(t)
    expected = conditioned(target, x, float(at.b), float(at.c))
    answer = ExactField(path, target)(x, t)
    torch.testing.assert_close(answer.data, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(answer.noise, (x - at.b * expected) / at.c, rtol=1e-9, atol=1e-9)         # x = b x1 + c z holds for expectations too
    torch.testing.assert_close(answer.velocity, at.db * expected + at.dc * (x - at.b * expected) / at.c, rtol=1e-9, atol=1e-9)


def test_tilted_gaussians_at_a_time_for_each_row_and_in_an_event_of_any_shape():
    path, target, x = Path.linear(), tilted(), Draws(2).rows("x", 0, (3, 3), dtype=F64)
    t = torch.tensor([0.3, 0.6, 0.9], dtype=F64)
    expected = torch.cat([conditioned(target, row, float(s), float(1 - s)) for row, s in zip(x.split(1), t, strict=True)])
    torch.testing.assert_close(ExactField(path, target).data(x, t), expected, rtol=1e-10, atol=1e-10)
    folded = GaussianMixture(target.weights, target.means.reshape(3, 1, 3, 1), target.covariance)
    torch.testing.assert_close(ExactField(path, folded).data(x.reshape(3, 1, 3, 1), t).reshape(3, 3), expected, rtol=1e-10, atol=1e-10)


def test_tilted_posteriors_are_the_regression_of_sampled_pairs(seed):
    """E[(x1 - E[x1 | x]) x^T] = 0: what is left over is uncorrelated with everything that x tells."""
    path, target, n, t = Path.linear(), tilted(), 20_000, 0.7
    x1 = target.sample(n, seed=Draws(seed).child("data"))
    x = path.sample(x1, torch.full((n,), t, dtype=F64), seed=seed).x
    left = x1 - ExactField(path, target).data(x, t)
    products = left[:, :, None] * torch.cat([x, torch.tanh(x), torch.ones_like(x[:, :1])], 1)[:, None]
    assert bool((products.mean(0).abs() < 5 * products.std(0) / math.sqrt(n)).all())


# -- labels ------------------------------------------------------------------------------------------------------------------

def source_of(dim):
    means = torch.tensor([[1.5, 0.2, -0.7], [-0.9, -1.0, 0.8]], dtype=F64)[:, :dim]
    return GaussianMixture(torch.tensor([0.35, 0.65], dtype=F64), means, torch.tensor([0.5, 0.2], dtype=F64))


def round_target():
    return GaussianMixture(torch.tensor([0.2, 0.5, 0.3], dtype=F64), torch.tensor([[1.0, -2.0], [0.3, 0.4], [-1.5, 2.5]], dtype=F64),
                           torch.tensor([[0.3, 0.05], [0.1, 0.4], [0.2, 0.2]], dtype=F64), torch.tensor([4, 7, 7]))


@pytest.mark.parametrize("kind", [*ONE_SIDED, "source"])
@pytest.mark.parametrize("label", [4, 7])
def test_a_two_sided_field_under_a_label_is_that_of_the_labels_own_law(kind, label):
    """Two source and three target components: six pairs, in which the labels must repeat in the order of the pairs."""
    path, target, source, x = Path.interpolant(), round_target(), source_of(2), Draws(1).rows("x", 0, (5, 2), dtype=F64)
    field, alone = ExactField(path, target, source), ExactField(path, target.given(label), source)
    told = field(x, 0.6, torch.full((5,), label))
    torch.testing.assert_close(told.of(kind), alone(x, 0.6).of(kind), rtol=1e-11, atol=1e-11)
    assert float((told.of(kind) - field(x, 0.6).of(kind)).abs().max()) > 1e-2


def test_a_two_sided_field_takes_a_label_for_each_row():
    path, target, source, x = Path.interpolant("sin2", "trigonometric"), round_target(), source_of(2), Draws(1).rows("x", 0, (4, 2), dtype=F64)
    t, cond = torch.tensor([0.2, 0.45, 0.6, 0.8], dtype=F64), torch.tensor([7, -1, 4, 7])
    mixed = ExactField(path, target, source)(x, t, cond)
    for i, label in enumerate(cond.tolist()):
        law = target if label < 0 else target.given(label)
        one = ExactField(path, law, source)(x[i : i + 1], float(t[i]))
        for kind in (*ONE_SIDED, "source"):
            torch.testing.assert_close(mixed.of(kind)[i : i + 1], one.of(kind), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("label", [4, 7])
def test_a_tilted_field_under_a_label_is_that_of_the_labels_own_law(label):
    path, target, x = Path.vp(), tilted(), Draws(1).rows("x", 0, (5, 3), dtype=F64)
    told, alone = ExactField(path, target)(x, 0.7, torch.full((5,), label)), ExactField(path, target.given(label))(x, 0.7)
    for kind in ONE_SIDED:
        torch.testing.assert_close(told.of(kind), alone.of(kind), rtol=1e-11, atol=1e-11)


# -- what a velocity alone tells of a two-sided path -----------------------------------------------------------------------------

X0, X1, Z = (torch.tensor(rows, dtype=F64) for rows in ([[1.0, 2.0], [0.3, -1.0], [-2.0, 0.7]], [[-3.0, 0.5], [1.2, 2.2], [0.1, -0.4]], [[0.4, -1.1], [2.0, 0.3], [-0.6, 0.9]]))


@pytest.mark.parametrize("kind", ["data", "source"])
@pytest.mark.parametrize(("gamma", "t"), [("sqrt", 0.5), ("sqrt", 0.2), ("sqrt", 0.0), ("sin2", 0.3), (lambda t: t * (1 - t), 0.5)],
                         ids=["sqrt, middle", "sqrt", "sqrt, start", "sin2", "own, middle"])
def test_a_velocity_alone_tells_neither_end_of_a_path_with_noise(gamma, t, kind):
    """At t = 1/2 the noise of these paths stands still (c c' = 0) but is there; at t = 0 of "sqrt" it is not there but moves."""
    path = Path.interpolant(gamma)
    point = path.sample(X1, torch.full((3,), 0.5, dtype=F64), x0=X0, z=Z)
    for at in (path.coefficients(t), path.coefficients(torch.full((3,), t, dtype=F64))):
        with pytest.raises(ValueError, match=f"{kind} of a two-sided path cannot be read off velocity alone"):
            Prediction({"velocity": point.velocity}, point.x, at, two_sided=True).of(kind)


def test_one_noisy_row_is_enough_to_refuse():
    """Rows at both ends hold no noise; the one between holds noise that stands still. With the noise told, its ends are read off."""
    path, t = Path.interpolant(lambda t: t * (1 - t)), torch.tensor([0.0, 0.5, 1.0], dtype=F64)
    at = path.coefficients(t)
    assert at.cdc.tolist() == [0.0, 0.0, 0.0] and at.c.tolist() == [0.0, 0.25, 0.0]
    point = path.sample(X1, t, x0=X0, z=Z)
    for kind in ("data", "source"):
        with pytest.raises(ValueError, match="cannot be read off velocity alone"):
            Prediction({"velocity": point.velocity}, point.x, at, two_sided=True).of(kind)
    both = Prediction({"velocity": point.velocity[1:2], "noise": Z[1:2]}, point.x[1:2], path.coefficients(0.5), two_sided=True)
    torch.testing.assert_close(both.data, X1[1:2], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(both.source, X0[1:2], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mixing", ["linear", "trigonometric"])
def test_a_velocity_alone_tells_both_ends_of_a_path_without_noise(mixing):
    path, t = Path.interpolant("none", mixing), torch.tensor([0.1, 0.5, 0.8], dtype=F64)
    point = path.sample(X1, t, x0=X0)
    answer = Prediction({"velocity": point.velocity}, point.x, path.coefficients(t), two_sided=True)
    torch.testing.assert_close(answer.data, X1, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(answer.source, X0, rtol=1e-12, atol=1e-12)
    one = Prediction({"velocity": point.velocity[:1]}, point.x[:1], path.coefficients(0.1), two_sided=True)
    torch.testing.assert_close(one.data, X1[:1], rtol=1e-12, atol=1e-12)


# -- the data where no noise is left ---------------------------------------------------------------------------------------------

class Stretched:
    """alpha = 2 t, sigma = 1 - t: at t = 1 a point is twice the data."""

    two_sided = False
    interval = (0.0, 1.0)

    def coefficients(self, t):
        return Coefficients(0.0, 2 * t, 1 - t, 0.0, 2.0, -1.0, t - 1)


@pytest.mark.parametrize(("path", "scale"), [(Path.linear(), 1.0), (Path.vp(), 1.0), (Path(Stretched()), 2.0)], ids=["linear", "vp", "stretched"])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_at_the_end_the_data_is_the_point_itself(path, scale, dtype):
    """x = alpha x1 at t = 1, whatever the network says of the velocity; elsewhere the velocity is needed."""
    x = torch.tensor([[2.0, -1.0], [0.3, 5.0], [-0.7, 0.2]], dtype=dtype)
    field = Field(lambda x, t, cond: torch.sin(3 * x) + t[:, None], path, "velocity")
    for t in (1.0, torch.tensor(1.0), torch.ones(3)):
        torch.testing.assert_close(field.data(x, t), x / scale)
    t = torch.tensor([0.2, 1.0, 0.7], dtype=F64)
    mixed = field.data(x, t)
    torch.testing.assert_close(mixed[1], x[1] / scale)
    for i in (0, 2):
        one = field.data(x[i : i + 1], float(t[i]))
        torch.testing.assert_close(mixed[i : i + 1], one)
        assert float((one - x[i : i + 1] / scale).abs().max()) > 1e-2
    truth = path.sample(x, t, z=torch.flip(x, [1]))
    inside = Field(lambda x, t, cond: truth.velocity[[0, 2]], path, "velocity").data(truth.x[[0, 2]], t[[0, 2]])
    torch.testing.assert_close(inside, x[[0, 2]], rtol=1e-4 if dtype == torch.float32 else 1e-10, atol=1e-4 if dtype == torch.float32 else 1e-10)


def test_the_end_of_a_row_of_images_is_its_own():
    """A time for each row of an event with three axes."""
    path, x = Path.linear(), Draws(0).rows("x", 0, (3, 2, 1, 3), dtype=F64)
    x1, z, t = Draws(1).rows("x1", 0, (3, 2, 1, 3), dtype=F64), Draws(2).rows("z", 0, (3, 2, 1, 3), dtype=F64), torch.tensor([1.0, 0.4, 1.0], dtype=F64)
    point = path.sample(x1, t, z=z)
    torch.testing.assert_close(path.convert(point.velocity, point.x, t, of="velocity", to="data"), x1, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(path.convert(torch.zeros_like(x), x, t, of="velocity", to="data")[[0, 2]], x[[0, 2]], rtol=0, atol=0)


@pytest.mark.parametrize("t", [1.0, torch.tensor([1.0, 0.5], dtype=F64)], ids=["all", "one row"])
@pytest.mark.parametrize("kind", ["noise", "score"])
def test_at_the_end_a_velocity_tells_no_noise(kind, t):
    with pytest.raises(ValueError, match="no noise is left|end of the path"):
        Field(lambda x, t, cond: 0.5 * x, Path.linear())(torch.tensor([[2.0, -1.0], [0.3, 0.4]], dtype=F64), t).of(kind)


# -- the law at the start ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("path", "start", "variance"), [(Path.linear(), None, 1.0), (Path.linear(), 0.4, 0.36), (Path.linear(), 0.9, 0.01),
                                                         (Path.vp(), 0.8, None), (Path.vp(0.3, 7.0), 0.5, None)],
                         ids=["linear", "linear, later", "linear, near the end", "vp", "steep vp"])
def test_the_prior_is_the_noise_that_a_path_holds_where_it_begins(path, start, variance, seed):
    """Variance c(start)^2, which on VP is 1 - alpha^2; the sample variance of n normals is off by sqrt(2 / n) of itself."""
    n = 5000
    if variance is None:
        variance = 1 - float(path.coefficients(start).b) ** 2
    x = path.prior((n, 3), seed=seed, dtype=F64) if start is None else path.prior((n, 3), seed=seed, start=start, dtype=F64)
    assert bool(((x.var(0) / variance - 1).abs() < 5 * math.sqrt(2 / n)).all())
    assert bool((x.mean(0).abs() < 5 * math.sqrt(variance / n)).all())
    torch.testing.assert_close(path.prior((10, 3), seed=seed, first=40, start=start, dtype=F64), x[40:50], rtol=1e-14, atol=0)
