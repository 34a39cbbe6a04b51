"""Residual paths and the kind "residual": what made a point is read off it again; the paper's schedule as a sum; where runs begin."""
import json
import math

import pytest
import torch
from scipy import stats

from rheos.core import Draws
from rheos.couplings import Pair
from rheos.data import GaussianMixture
from rheos.objectives import Matching
from rheos.paths import EDM, VE, VP, Betas, Coefficients, Cosine, ExactField, Field, Fourier2d, Linear, Path, Prediction, Residual, Shortest, Student

F64 = torch.float64
INSIDE = torch.tensor([0.04, 0.2, 0.5, 0.77, 0.97], dtype=F64)
PATHS = {"residual": Path.residual(0.3), "loud": Path.residual(2.0), "like VP": Path.residual(1.0, like=VP()), "like cosine": Path.residual(0.5, like=Cosine()),
         "like betas": Path.residual(0.7, like=Betas((1e-3, 0.05, 0.1, 0.3))), "interpolant": Path.interpolant(),
         "trigonometric": Path.interpolant("sin2", "trigonometric")}


def normals(name, *shape, scale=1.0, shift=0.0):
    return scale * Draws(5).rows(name, 0, shape, dtype=F64) + shift


X0, X1, Z = normals("x0", 5, 2, 3, scale=1.5), normals("x1", 5, 2, 3, shift=0.3), normals("z", 5, 2, 3)


# -- conversions -------------------------------------------------------------------------------------------------------------

KNOWN = [("residual", "noise"), ("residual", "score"), ("residual", "data"), ("data", "noise"), ("velocity", "noise"), ("velocity", "score"), ("data", "source")]


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("known", KNOWN, ids="+".join)
def test_every_kind_is_read_off_what_made_the_point(name, known):
    """By hand: x = a x0 + b x1 + c z, v its derivative, score = -z / c, residual = x0 - x1."""
    path = PATHS[name]
    at = path.coefficients(INSIDE)
    a, b, c, da, db, dc = (torch.as_tensor(v, dtype=F64).reshape(-1, 1, 1) for v in at[:6])
    x = a * X0 + b * X1 + c * Z
    made = {"source": X0, "data": X1, "noise": Z, "residual": X0 - X1, "velocity": da * X0 + db * X1 + dc * Z, "score": -Z / c}
    for to, wanted in made.items():
        # In any order of asking: each answer stays for the next.
        torch.testing.assert_close(path.prediction({kind: made[kind] for kind in known}, x, at).of(to), wanted, rtol=1e-8, atol=1e-8)
    answer = path.prediction({kind: made[kind] for kind in known}, x, at)
    for to in reversed(list(made)):
        torch.testing.assert_close(answer.of(to), made[to], rtol=1e-8, atol=1e-8)


def test_the_residual_is_what_a_network_is_taught():
    point = Path.residual(0.3).sample(X1, INSIDE, x0=X0, z=Z)
    assert torch.equal(point.target("residual"), X0 - X1)
    seen = []
    net = lambda x, t, cond: seen.append((x, t)) or (0 * x, 0 * x)
    loss = Matching(Path.residual(0.3), ("residual", "noise"))(net, Pair(X1, X0), seed=3)
    assert math.isclose(float(loss.terms["residual"]), float((X0 - X1).square().mean()), rel_tol=1e-12)


@pytest.mark.parametrize("scale", [0.1, 1.0])
@pytest.mark.parametrize("t", [0.0, 1.0])
def test_residual_and_noise_tell_all_but_the_score_at_both_ends(scale, t):
    """At t = 0 the data are not in x at all, at t = 1 neither source nor noise: nothing is divided by what is not there."""
    path = Path.residual(scale)
    point = path.sample(X1, torch.full((5,), t, dtype=F64), x0=X0, z=Z)
    torch.testing.assert_close(point.x, X0 + scale * Z if t == 0 else X1, rtol=0, atol=1e-15)
    answer = path.prediction({"residual": X0 - X1, "noise": Z}, point.x, point.at)
    for kind, wanted in (("data", X1), ("source", X0), ("velocity", point.velocity)):
        torch.testing.assert_close(answer.of(kind), wanted, rtol=1e-12, atol=1e-12)
    if t == 1:
        with pytest.raises(ValueError, match="score cannot be read off a noise prediction at an end of the path, where no noise is left"):
            answer.of("score")
    else:
        torch.testing.assert_close(answer.score, -Z / scale)


def test_velocity_and_noise_do_not_tell_the_data_where_both_shares_stand_still():
    """At t = 0 of the published schedule a and b have no slope: x and v do not tell x1, and a 0 / 0 is not an answer."""
    path = Path.residual(0.3)
    for t, fine in ((0.0, False), (0.5, True), (1.0, True)):
        point = path.sample(X1, torch.full((5,), t, dtype=F64), x0=X0, z=Z)
        answer = lambda point=point: path.prediction({"velocity": point.velocity, "noise": Z}, point.x, point.at)
        if not fine:
            for kind in ("data", "residual", "source"):
                with pytest.raises(ValueError, match=r"(data|source) cannot be read off a velocity where the shares of source and data stand still"):
                    answer().of(kind)
            continue
        for kind, wanted in (("data", X1), ("source", X0), ("residual", X0 - X1)):
            torch.testing.assert_close(answer().of(kind), wanted, rtol=1e-12, atol=1e-12)


def test_an_exact_field_tells_the_residual(seed):
    """E[x0 - x1 | x] of two Gaussians, one coordinate at a time, is regression on x: cov(x0 - x1, x) / var(x)."""
    path, t = Path.residual(0.4), 0.6
    m0, m1, s0, s1 = (torch.tensor(v, dtype=F64) for v in ([[1.0, -2.0]], [[0.5, 3.0]], [[0.3, 1.4]], [[2.0, 0.2]]))
    one = torch.ones(1, dtype=F64)
    field = ExactField(path, GaussianMixture(one, m1, s1), GaussianMixture(one, m0, s0))
    a, b, c = 1 - t * t, t * t, 0.4 * (1 - t)
    x = Draws(seed).rows("x", 0, (6, 2), dtype=F64)
    wanted = m0 - m1 + (a * s0 - b * s1) / (a * a * s0 + b * b * s1 + c * c) * (x - a * m0 - b * m1)
    torch.testing.assert_close(field.residual(x, t), wanted, rtol=1e-10, atol=1e-10)


# -- the schedule ------------------------------------------------------------------------------------------------------------

def test_the_schedule_is_the_papers_in_many_steps():
    """Their clock n = 0 (clean) .. N: steps of the residual fall as N .. 1 and sum to 1, variances rise as 1 .. N and sum to noise_scale^2."""
    count, scale = 20_000, 0.1
    falling = torch.arange(count, 0, -1, dtype=F64)
    share = torch.cumsum(falling / falling.sum(), 0)
    level = torch.cumsum(falling.flip(0) / falling.sum(), 0).sqrt() * scale
    t = 1 - torch.arange(1, count + 1, dtype=F64) / count
    at = Path.residual(scale).coefficients(t)
    torch.testing.assert_close(at.a, share, rtol=0, atol=2e-4)
    torch.testing.assert_close(at.c, level, rtol=0, atol=2e-4 * scale + 1e-6)
    torch.testing.assert_close(at.a + at.b, torch.ones(count, dtype=F64))


@pytest.mark.parametrize("like", [Linear(), Cosine(), VP(0.2, 12.0), Betas((1e-3, 0.05, 0.1, 0.3))], ids=lambda v: type(v).__name__)
def test_like_takes_over_a_schedule(like):
    """From a source of zeros it is that path; noise_scale makes its noise louder. The interval is the schedule's."""
    path, own = Path.residual(1.0, like=like), Path(like)
    assert path.two_sided and path.interval == tuple(own.interval)
    point, alone = path.sample(X1, INSIDE, x0=0 * X1, z=Z), own.sample(X1, INSIDE, z=Z)
    torch.testing.assert_close(point.x, alone.x, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(point.velocity, alone.velocity, rtol=1e-12, atol=1e-12)
    twice = Path.residual(2.5, like=like).coefficients(INSIDE)
    torch.testing.assert_close(twice.c, 2.5 * own.coefficients(INSIDE).c)
    torch.testing.assert_close(twice.a + twice.b, torch.ones(5, dtype=F64))


@pytest.mark.parametrize("path", [Path.residual(), Path.residual(0.25, like=VP(0.2, 9.0)), Path.residual(1.0, like=Betas((1e-3, 0.05, 0.3))),
                                  Path.residual(1.0, like=Betas((0.01, 0.2, 0.5))), Path(Residual(0.2, Linear()), noise=Student(4.0), basis=Fourier2d())], ids=str)
def test_a_residual_path_is_saved_with_the_schedule_inside_it(path):
    again = Path.from_json(json.loads(json.dumps(path.to_json())))
    assert again == path and type(again.schedule.like) is type(path.schedule.like)
    for one, other in zip(path.coefficients(INSIDE), again.coefficients(INSIDE), strict=True):
        assert torch.equal(torch.as_tensor(one), torch.as_tensor(other))


# -- where runs begin --------------------------------------------------------------------------------------------------------

def test_a_two_sided_run_begins_at_the_source_and_its_noise(seed):
    x = normals("many", 4000, 2, shift=3.0)
    z = (Path.residual(0.3).start(x, seed=seed) - x) / 0.3
    for column in z.T:
        assert stats.kstest(column.numpy(), stats.norm.cdf).pvalue > 1e-6
    half = (Path.residual(0.3).start(x, 0.5, seed=seed) - 0.75 * x) / 0.15
    torch.testing.assert_close(half, z, rtol=0, atol=1e-12)
    assert torch.equal(Path.residual(0.3).start(x, seed=seed), Path.residual(0.3).start(x, seed=Draws(seed)))
    assert not torch.equal(Path.residual(0.3).start(x, seed=seed + 1), Path.residual(0.3).start(x, seed=seed))


def test_a_one_sided_run_begins_in_the_middle(seed):
    """alpha x + sigma z, with the noise that `prior` draws for the same rows."""
    x = normals("guess", 7, 2, 3, shift=2.0)
    for path in (Path.linear(), Path.vp(), Path.edm(0.01, 40.0), Path.linear(noise=Student(3.0))):
        at, first = path.coefficients(0.6), path.interval[0]
        z = path.prior((7, 2, 3), seed=seed, dtype=F64) / float(path.coefficients(first).c)
        torch.testing.assert_close(path.start(x, 0.6, seed=seed), float(at.b) * x + float(at.c) * z, rtol=1e-12, atol=1e-12)


def dense(x):
    """The Hartley transform of (batch, channels, h, w) by its definition: sums of cos + sin."""
    h, w = x.shape[-2:]
    i, j = torch.arange(h, dtype=F64), torch.arange(w, dtype=F64)
    phase = 2 * math.pi * (i[:, None, None, None] * i[None, None, :, None] / h + j[None, :, None, None] * j[None, None, None, :] / w)
    return torch.einsum("ijkl,nckl->ncij", phase.cos() + phase.sin(), x) / math.sqrt(h * w)


@pytest.mark.parametrize("t", [0.0, 0.35, 0.8, 1.0])
def test_a_run_in_a_basis_begins_there(t, seed):
    """Each coordinate of the basis gets its own alpha and sigma."""
    spectrum = normals("spectrum", 3, 5).exp()
    path, x = Path.shortest(spectrum), normals("x", 4, 2, 3, 5)
    at = path.coefficients(torch.tensor([t], dtype=F64))
    z = path.prior((4, 2, 3, 5), seed=seed, dtype=F64)         # where alpha is 0 and sigma 1
    wanted = dense(at.b.reshape(3, 5) * dense(x) + at.c.reshape(3, 5) * dense(z))
    torch.testing.assert_close(path.start(x, t, seed=seed), wanted, rtol=1e-12, atol=1e-12)


class Silent(Linear):
    """Half of the image's first row is kept, and there is no noise."""

    spectral = True

    def coefficients(self, t):
        b = torch.ones(*t.shape, 1, 3, 5, dtype=F64)
        b[..., 0, :] = 0.5
        return Coefficients(0.0, b, 0 * b, 0.0, 0 * b, 0 * b, 0 * b)


def test_a_run_without_noise_in_a_basis_begins_there_too():
    x, half = normals("x", 4, 2, 3, 5), torch.ones(3, 5, dtype=F64)
    half[0] = 0.5
    torch.testing.assert_close(Path(Silent(), basis=Fourier2d()).start(x, 1.0), dense(half * dense(x)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("path", "t"), [(Path.residual(0.3), None), (Path.residual(1.0, like=VP()), None), (Path.linear(), 0.4),
                                         (Path.shortest(torch.tensor([[2.0, 0.3, 1.0], [0.1, 4.0, 0.5]])), 0.4)], ids=["residual", "like", "linear", "shortest"])
def test_split_batches_begin_alike(path, t, seed):
    for dtype in (torch.float32, F64):
        x = normals("split", 9, 1, 2, 3).to(dtype)
        whole = path.start(x, t, seed=seed, first=5)
        parts = torch.cat([path.start(x[:4], t, seed=seed, first=5), path.start(x[4:], t, seed=seed, first=9)])
        assert torch.equal(whole, parts) and whole.dtype == dtype
        assert not torch.equal(whole, path.start(x, t, seed=seed))


# -- refusals ----------------------------------------------------------------------------------------------------------------

HALF = Path.residual(0.3).coefficients(0.5)
REFUSALS = [
    (lambda: Path.residual(0.0), ValueError, r"noise_scale must lie in \(0, inf\), got 0"),
    (lambda: Path.residual(-1.0), ValueError, "noise_scale"),
    (lambda: Residual(1.0, VP), TypeError, r"like must be a one-sided schedule such as VP\(\), got"),
    (lambda: Path.residual(1.0, like=Path.interpolant().schedule), TypeError, "like must be a one-sided schedule"),
    (lambda: Path.residual(1.0, like=Residual(0.1)), TypeError, "like must be a one-sided schedule"),
    (lambda: Path.residual(1.0, like=Shortest(((1.0, 2.0), (0.5, 3.0)))), ValueError, "like must have coefficients that all coordinates share"),
    (lambda: Path.linear().convert(X1, X1, 0.5, of="residual", to="data"), ValueError, "residual cannot be given on a one-sided path"),
    (lambda: Path.linear().convert(X1, X1, 0.5, of="data", to="residual"), ValueError, "residual is the source less the data, and a one-sided path has no source"),
    (lambda: Path.linear().convert(X1, X1, 0.5, of="data", to="noise", given={"source": X1}), ValueError, "source cannot be given on a one-sided path"),
    (lambda: Path.linear().sample(X1, INSIDE, z=Z).target("residual"), ValueError, "a one-sided path has no source"),
    (lambda: Path.linear().amplification("residual"), ValueError, "kind must be one of"),
    (lambda: Field(lambda x, t, c: x, Path.linear(), "residual"), ValueError, "predicts = residual needs a two-sided path"),
    (lambda: Field(lambda x, t, c: x, Path.residual(), "residual"), ValueError, "does not tell the velocity of a two-sided path"),
    (lambda: Prediction({"residual": X1}, X1, HALF, two_sided=True).data, ValueError, "data of a two-sided path cannot be read off residual alone"),
    (lambda: Prediction({"noise": X1}, X1, HALF, two_sided=True).residual, ValueError, "data of a two-sided path cannot be read off noise alone"),
    (lambda: Path.linear().start(X1), ValueError, "t must be given on a one-sided path"),
    (lambda: Path.shortest(normals("s", 2, 3).exp()).sample(X1, INSIDE, z=Z), ValueError, r"x must have an axis a coordinate .*got shape \(5, 2, 3\)"),
    (lambda: Path.shortest(normals("s", 2, 3).exp()).start(X1, 0.5), ValueError, r"x must have an axis a coordinate"),
    (lambda: Path.residual().start(X1, 1.5), ValueError, r"t must .*1\.5"),
    (lambda: Path.residual().start(torch.ones(2, 3, dtype=torch.int64)), TypeError, "x"),
]


@pytest.mark.parametrize(("make", "error", "says"), REFUSALS, ids=[str(k) for k in range(len(REFUSALS))])
def test_what_cannot_be_is_refused(make, error, says):
    with pytest.raises(error, match=says):
        make()


@pytest.mark.parametrize("like", [VE(0.02, 20.0), EDM(0.01, 30.0, 5.0)], ids=str)
def test_a_schedule_that_keeps_the_data_has_no_place_for_a_source(like):
    with pytest.raises(ValueError, match="like must fade the data, alpha is constant"):
        Path.residual(1.0, like=like)


def test_a_path_is_no_schedule():
    with pytest.raises(TypeError, match="like must be a schedule such as VP"):
        Path.residual(0.1, like=Path.linear())
