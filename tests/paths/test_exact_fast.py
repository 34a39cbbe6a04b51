"""The exact field of points by one product of matrices, against sums over points by hand and against the way that holds all differences."""
import math

import pytest
import torch
from scipy import stats

from rheos.core import Draws
from rheos.data import GaussianMixture
from rheos.paths import ExactField, Fourier2d, Linear, Path, Student

F64 = torch.float64
Y, W = 1.5 * Draws(2).rows("y", 0, (9, 3), dtype=F64) + 0.4, torch.arange(1.0, 10.0, dtype=F64) / 45
X = Draws(3).rows("x", 0, (6, 3), dtype=F64)
LABELS = torch.arange(9) % 3
PATHS = {"linear": Path.linear(), "vp": Path.vp(), "edm": Path.edm(0.01, 40.0)}


def counted(field, monkeypatch):
    """How often the field took the short way, and how often it could not."""
    told, plain = {"short": 0, "long": 0}, field._gaps

    def spy(*args):
        found = plain(*args)
        told["long" if found is None else "short"] += 1
        return found

    monkeypatch.setattr(field, "_gaps", spy)
    return told


def by_hand(x, b, c, db, dc, variance, mask=None):
    """(log density, data, noise, velocity), point by point with SciPy's normal density."""
    logs = torch.stack([math.log(w) + torch.from_numpy(stats.norm(loc=(b * y).numpy(), scale=math.sqrt(b * b * variance + c * c)).logpdf(x.numpy()).sum(1))
                        for w, y in zip(W.tolist(), Y, strict=True)], 1)
    if mask is not None:
        logs = logs.masked_fill(mask, -math.inf)
    w = torch.softmax(logs, 1)
    total = b * b * variance + c * c
    data = sum(w[:, k : k + 1] * (Y[k] + b * variance / total * (x - b * Y[k])) for k in range(9))
    noise = (x - b * data) / c
    return logs.logsumexp(1), data, noise, db * data + dc * noise


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("std", [0.0, 0.6])
@pytest.mark.parametrize("t", [0.1, 0.5, 0.8])
def test_equals_sums_over_points(name, std, t, monkeypatch):
    path = PATHS[name]
    field = ExactField(path, GaussianMixture(W, Y, torch.full((9,), std**2, dtype=F64)))
    told = counted(field, monkeypatch)
    at = path.coefficients(t)
    b, c, db, dc = (float(v) for v in (at.b, at.c, at.db, at.dc))
    density, data, noise, velocity = by_hand(X, b, c, db, dc, std**2)
    answer = field(X, t)
    for kind, wanted in (("data", data), ("noise", noise), ("velocity", velocity), ("score", -noise / c)):
        torch.testing.assert_close(answer.of(kind), wanted, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close(field.log_prob(X, t), density, rtol=1e-9, atol=1e-9)
    assert told == {"short": 2, "long": 0}


@pytest.mark.parametrize("noise", [None, Student(3.0)], ids=["gaussian", "student"])
def test_short_and_long_ways_agree(noise, monkeypatch, seed):
    """With labels, and a time for each row."""
    path = Path.linear() if noise is None else Path.linear(noise=noise)
    field = ExactField(path, GaussianMixture.points(Y, LABELS))
    x = Draws(seed).rows("x", 0, (5, 3), dtype=F64)
    t, cond = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9], dtype=F64), torch.tensor([0, 1, -1, 2, 0])
    short, density = field(x, t, cond), field.log_prob(x, t, cond)
    monkeypatch.setattr(field, "_gaps", lambda *args: None)
    long = field(x, t, cond)
    for kind in ("data", "noise", "velocity"):
        torch.testing.assert_close(short.of(kind), long.of(kind), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(density, field.log_prob(x, t, cond), rtol=1e-9, atol=1e-9)
    alone = [field(x[k : k + 1], float(t[k]), cond[k : k + 1]).data for k in range(5)]
    torch.testing.assert_close(short.data, torch.cat(alone), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dof", [1.0, 8.0])
def test_student_noise_by_scipys_density(dof, monkeypatch):
    """Weights and densities by the multivariate t of SciPy, and E[x1 | x] by them."""
    path, t = Path.linear(noise=Student(dof)), 0.6
    field = ExactField(path, GaussianMixture(W, Y, torch.zeros(9, dtype=F64)))
    told = counted(field, monkeypatch)
    logs = torch.stack([math.log(w) + torch.as_tensor(stats.multivariate_t(loc=(t * y).numpy(), shape=(1 - t) ** 2 * torch.eye(3, dtype=F64).numpy(), df=dof).logpdf(X.numpy()))
                        for w, y in zip(W.tolist(), Y, strict=True)], 1)
    data = torch.softmax(logs, 1) @ Y
    answer = field(X, t)
    torch.testing.assert_close(answer.data, data, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(answer.noise, (X - t * data) / (1 - t), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(answer.velocity, data - (X - t * data) / (1 - t), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(field.log_prob(X, t), logs.logsumexp(1), rtol=1e-9, atol=1e-9)
    assert told == {"short": 2, "long": 0}


NARROW = 1 - 1e-5       # noise of 1e-5 of the data's size: differences of squares would cost ten digits
FALLS_BACK = {
    "near the data": (Path.linear(), GaussianMixture.points(Y), X, NARROW), "far from the mean": (Path.linear(), GaussianMixture.points(Y + 1e5), X + 1e5, 0.5),
    "single precision": (Path.linear(), GaussianMixture.points(Y), X.float(), 0.5),
    "coordinates of their own": (Path.shortest(torch.tensor([[3.0, 0.2, 1.0]], dtype=F64)), GaussianMixture.points(Y.reshape(9, 1, 1, 3)), X.reshape(6, 1, 1, 3), 0.5),
    "student, near the data": (Path.linear(noise=Student(4.0)), GaussianMixture.points(Y), X, NARROW),
}


@pytest.mark.parametrize("name", FALLS_BACK)
def test_it_takes_the_long_way_where_the_short_one_would_cost_digits(name, monkeypatch):
    path, target, x, t = FALLS_BACK[name]
    field = ExactField(path, target)
    told = counted(field, monkeypatch)
    assert bool(field(x, t).velocity.isfinite().all()) and told == {"short": 0, "long": 1}


@pytest.mark.parametrize("law", ["own variances", "diagonal", "full"])
def test_other_covariances_do_not_take_it(law, monkeypatch):
    covariance = {"own variances": torch.arange(1.0, 10.0, dtype=F64) / 9, "diagonal": torch.tensor([0.1, 0.5, 2.0], dtype=F64).expand(9, 3).clone(),
                  "full": torch.diag(torch.tensor([0.1, 0.5, 2.0], dtype=F64)).expand(9, 3, 3).clone()}[law]
    field = ExactField(Path.linear(), GaussianMixture(W, Y, covariance))
    told = counted(field, monkeypatch)
    field(X, 0.5)
    assert told == {"short": 0, "long": 0}
    if law == "diagonal":
        full = ExactField(Path.linear(), GaussianMixture(W, Y, torch.diag_embed(covariance)))
        torch.testing.assert_close(field.data(X, 0.5), full.data(X, 0.5), rtol=1e-9, atol=1e-9)


def test_near_the_data_it_finds_the_nearest_point():
    """Where the long way is taken, a point a little off the data is carried to it."""
    field = ExactField(Path.linear(), GaussianMixture.points(Y))
    x = NARROW * Y + 1e-5 * Draws(1).rows("off", 0, (9, 3), dtype=F64)
    torch.testing.assert_close(field.data(x, NARROW), Y, rtol=1e-9, atol=1e-9)


def test_the_switch_between_the_ways_is_not_seen():
    """Just above and below the noise at which the ways part, the data predicted differ by no more than the noise does."""
    size = float(X.square().sum(1).max() + Y.square().sum(1).max())
    field = ExactField(Path.linear(), GaussianMixture.points(Y))
    x = 0.998 * Y[:6] + 2e-3 * math.sqrt(size) * X / X.norm(dim=1, keepdim=True)
    for sigma in torch.logspace(-3.5, -1.5, 9, dtype=F64).tolist():
        short = field.data(x, 1 - sigma)
        field._gaps, plain = (lambda *args: None), field._gaps
        torch.testing.assert_close(short, field.data(x, 1 - sigma), rtol=1e-7, atol=1e-7)
        field._gaps = plain


def test_in_a_basis_with_shared_coefficients():
    images = Draws(4).rows("images", 0, (5, 1, 2, 3), dtype=F64)
    x = Draws(5).rows("x", 0, (4, 1, 2, 3), dtype=F64)
    plain, turned = (ExactField(path, GaussianMixture.points(images, std=0.3)) for path in (Path.linear(), Path(Linear(), basis=Fourier2d())))
    for kind in ("data", "noise", "velocity", "score"):
        torch.testing.assert_close(turned(x, 0.4).of(kind), plain(x, 0.4).of(kind), rtol=1e-9, atol=1e-9)


def test_where_no_noise_is_left_points_have_no_density():
    field = ExactField(Path.linear(), GaussianMixture.points(Y))
    with pytest.raises(ValueError, match="a finite data set has no density where no noise is left"):
        field(X, 1.0)
    smooth = ExactField(Path.linear(), GaussianMixture.points(Y, std=0.5))
    torch.testing.assert_close(smooth(X, 1.0).data, X, rtol=1e-12, atol=1e-12)
