"""Gaussians whose flow is known by hand, networks, times at which a sampler begins, refusals."""
import math

import pytest
import torch

from rheos.core import Draws
from rheos.data import GaussianMixture
from rheos.guidance import classifier_free
from rheos.nets import ResidualMLP
from rheos.paths import EDM, ExactField, Field, Fourier2d, Path, Student, T, Times, scaled_linear, zero_terminal_snr
from rheos.samplers import DDIM, Exponential, OneMoreStep, fit_one_more_step, sample

F64 = torch.float64
SD = Path.from_betas(scaled_linear())
LAW = GaussianMixture(torch.tensor([0.7, 0.3], dtype=F64), torch.tensor([[3.0, -1.0], [-2.0, 0.5]], dtype=F64),
                      torch.tensor([[4.0, 0.25], [0.09, 1.0]], dtype=F64), torch.tensor([0, 1]))
Z = Draws(5).rows("z", 0, (6, 2), dtype=F64)


def test_the_brightness_of_large_pictures():
    """The mean over d = 12288 coordinates, mean 0.3 and deviation 0.5, in the noise's own unit: by the flow of a Gaussian, which is linear."""
    unit = math.sqrt(12288)
    law = GaussianMixture(torch.ones(1, dtype=F64), torch.tensor([[0.3 * unit]], dtype=F64), torch.tensor([(0.5 * unit) ** 2], dtype=F64))
    z = Draws(1).rows("z", 0, (4000, 1), dtype=F64)
    z = torch.cat([z, -z])
    z = z / z.std()
    ends = lambda start: sample(ExactField(SD, law), start=start, rule=Exponential(3), times=Times.uniform(SD, 100)) / unit
    plain, repaired = ends(z), ends(OneMoreStep(law.means[0], SD).start(z))
    # From the specification: 0.010 and 0.128 from plain starts, 0.300 and 0.127 with the step.
    assert abs(float(plain.mean()) - 0.010) < 6e-4 and abs(float(plain.std()) - 0.128) < 1e-3
    assert abs(float(repaired.mean()) - 0.300) < 6e-4 and abs(float(repaired.std()) - 0.127) < 2e-3


def test_the_start_has_the_mean_of_the_path_and_its_noise():
    mean = torch.tensor([3.0, -1.0], dtype=F64)
    at = SD.coefficients(0.3)
    start = OneMoreStep(mean, SD).start(Z, at=0.3)
    torch.testing.assert_close((start - SD.sample(mean.expand(6, 2), torch.full((6,), 0.3, dtype=F64), z=Z).x), torch.zeros_like(Z), atol=1e-14, rtol=0)
    assert abs(float(at.b)) > 0.1 and not torch.equal(start, OneMoreStep(mean, SD).start(Z))


@pytest.mark.parametrize("path", [SD, Path.vp(), Path(EDM()), Path.from_betas(scaled_linear(), noise=Student(4.0))], ids=["sd", "vp", "edm", "student"])
def test_a_point_is_reached_from_its_own_start(path):
    """Data that are one point: the step knows all there is, the sampler stays there."""
    law = GaussianMixture.points(torch.tensor([[1.5, -0.5]]))
    x = sample(ExactField(path, law), start=OneMoreStep(law.means[0], path).start(Z), rule=DDIM(), times=Times.uniform(path, 20, end=0.999))
    end = path.coefficients(0.999)
    torch.testing.assert_close(x, end.b * law.means + end.c * Z, atol=1e-9, rtol=0)


def test_any_field_on_a_path_that_begins_with_noise():
    """An exact flow, asked at t = 0, tells the mean of the class, whatever it predicts; the whole law's without one."""
    label = torch.tensor([0, 1, 0, 1, 1, 0])
    for path in (Path.linear(), Path.cosine()):
        psi = OneMoreStep(ExactField(path, LAW), SD)
        torch.testing.assert_close(psi.expected(Z, label), LAW.means[label], atol=1e-12, rtol=0)
        torch.testing.assert_close(psi.expected(Z), LAW.mean().expand(6, 2), atol=1e-12, rtol=0)
        by_mean = OneMoreStep(lambda cond: LAW.means[cond], SD)
        torch.testing.assert_close(psi.start(Z, label), by_mean.start(Z, label), atol=1e-12, rtol=0)
        torch.testing.assert_close(psi.start(Z, 1), by_mean.start(Z, torch.ones(6, dtype=torch.int64)), atol=1e-12, rtol=0)


@pytest.mark.parametrize(("kind", "answer"), [("v", -2.5), ("data", 2.5), ("velocity", None)])
def test_what_a_network_says_where_no_data_are(kind, answer):
    """v = -x1, and the velocity of the linear path is x1 - z."""
    net = lambda x, t, cond: torch.full_like(x, answer) if answer is not None else 2.5 - x
    psi = OneMoreStep(Field(net, Path.linear(), kind), SD)
    torch.testing.assert_close(psi.expected(Z), torch.full_like(Z, 2.5), atol=1e-12, rtol=0)


def test_guidance_of_its_own():
    """Data prediction u + s (c - u); one call."""
    field = Field(lambda x, t, cond: torch.where((cond >= 0)[:, None], 3.0 + cond[:, None], 1.0).to(x).expand_as(x), Path.linear(), "data")
    psi = OneMoreStep(field, SD)
    torch.testing.assert_close(psi.expected(Z, 2, guidance=1.5), torch.full_like(Z, 1.0 + 1.5 * 4.0), atol=1e-12, rtol=0)
    assert field.nfe == 1 and torch.equal(psi.expected(Z, 2, guidance=1.0), psi.expected(Z, 2))


def test_new_noise(seed):
    """eta 1 keeps nothing of z, eta between keeps sqrt(1 - eta^2); all have the same law, row by row whatever the split."""
    z = Draws(seed).rows("z", 0, (20_000, 2), dtype=F64)
    mean, sigma = torch.tensor([3.0, -1.0], dtype=F64), float(SD.coefficients(0.0).c)
    for eta in (0.0, 0.6, 1.0):
        step = OneMoreStep(mean, SD, eta)
        noise = (step.start(z, seed=seed) - float(SD.coefficients(0.0).b) * mean) / sigma
        kept = float((noise * z).mean())
        assert abs(kept - math.sqrt(1 - eta**2)) < 5 * 1.5 / 200 and abs(float(noise.square().mean()) - 1) < 5 * math.sqrt(2 / 40_000)
        assert torch.equal(step.start(z, seed=seed)[100:105], step.start(z[100:105], seed=seed, first=100))
        assert eta == 0 or not torch.equal(step.start(z, seed=seed), step.start(z, seed=seed + 1))


def test_the_first_time_of_the_sampler_counts():
    """Of 50 leading steps the first is 981, where more of the data is left: a start made for 999 is too dark there."""
    law = GaussianMixture(torch.ones(1, dtype=F64), torch.full((1, 400), 0.8, dtype=F64), torch.tensor([4.0], dtype=F64))
    first = float(SD.schedule.time_of(981))
    times = Times(SD, torch.linspace(first, 1, 51, dtype=F64))
    z = Draws(2).rows("z", 0, (8, 400), dtype=F64)
    z = torch.cat([z, -z])
    step = OneMoreStep(law.means[0], SD)
    off = lambda start: abs(float(sample(ExactField(SD, law), start=start, rule=DDIM(), times=times).mean()) - 0.8 * float(SD.coefficients(1.0).b))
    assert torch.equal(step.start(z, at=times), step.start(z, at=first))
    assert off(step.start(z, at=times)) < 1e-9 < 0.005 < off(step.start(z)) < off(z)


def test_a_network_learns_the_mean_of_each_condition(seed):
    """Uneven classes of different means; without a condition, the mean of all."""
    x, y = LAW.sample_with_labels(2000, seed=seed)
    with Draws(seed).scope(0):
        net = ResidualMLP((2,), width=16, depth=1, classes=2)
    psi = fit_one_more_step(x.float(), net, cond=y, steps=200, batch=64, seed=seed)
    z = Draws(seed).rows("z", 1, (200, 2))
    for label, truth in ((0, x[y == 0].mean(0)), (1, x[y == 1].mean(0)), (-1, x.mean(0))):
        assert float((psi.data(z, 0.0, torch.full((200,), label)).mean(0) - truth).abs().max()) < 0.35
    assert psi.predicts == ("v",) and not psi.net.training
    # Pure noise tells nothing: the network's last weights do not hang on it.
    assert float(psi.data(z, 0.0, torch.zeros(200, dtype=torch.int64)).std(0).max()) < 0.35


def test_fitting_is_a_function_of_the_seed():
    x = LAW.sample(50, seed=1).float()

    def fit(seed):
        with Draws(0).scope(0):
            net = ResidualMLP((2,), width=8, depth=1)
        return fit_one_more_step(x, net, steps=5, batch=16, seed=seed).data(Z.float(), 0.0)

    assert torch.equal(fit(1), fit(1)) and not torch.equal(fit(1), fit(2))


MEAN = torch.zeros(2, dtype=F64)
STEP = OneMoreStep(MEAN, SD)
NET = ResidualMLP((2,), width=8, depth=1)


@pytest.mark.parametrize(("call", "error", "told"), [
    (lambda: OneMoreStep(MEAN, Path.linear()), ValueError, "got alpha = 0 at t = 0: nothing to repair"),
    (lambda: OneMoreStep(MEAN, zero_terminal_snr(SD)), ValueError, "nothing to repair"),
    (lambda: OneMoreStep(MEAN, Path.interpolant()), ValueError, "path must be one-sided"),
    (lambda: OneMoreStep(MEAN, SD.schedule), TypeError, "path"),
    (lambda: OneMoreStep(MEAN, SD, 1.5), ValueError, "eta must lie in"),
    (lambda: OneMoreStep(MEAN / 0, SD), ValueError, "psi must be finite"),
    (lambda: OneMoreStep(3.0, SD), TypeError, "psi"),
    (lambda: OneMoreStep(NET, SD), TypeError, "psi must be a Field.* got ResidualMLP; wrap a network"),
    (lambda: OneMoreStep(Field(NET, SD, "v"), SD), ValueError, "psi must live on a path that begins with pure noise, got alpha = 0.068"),
    (lambda: OneMoreStep(Field(NET, Path.cosine(), "noise"), SD), ValueError, "noise tells nothing where there are no data, got noise"),
    (lambda: OneMoreStep(Field(NET, Path.interpolant("none")), SD), ValueError, "psi must live on a one-sided path"),
    (lambda: STEP.start(Z, at=1.2), ValueError, "at must lie in"),
    (lambda: OneMoreStep(MEAN, Path.vp()).start(Z, at=Times.uniform(SD, 3, T)), ValueError, "at was made for"),
    (lambda: OneMoreStep(MEAN, Path(SD.schedule, basis=Fourier2d())).start(Z[:0]), ValueError, "z must hold at least one row"),
    (lambda: STEP.start(Z / 0), ValueError, "z must be finite"),
    (lambda: STEP.start(Z.tolist()), TypeError, "z"),
    (lambda: STEP.start(Z.long()), TypeError, "z"),
    (lambda: OneMoreStep(Field(NET, Path.cosine(), "v"), SD).start(Z.double()), TypeError, "z must have the dtype of psi's network, torch.float32, got"),
    (lambda: OneMoreStep(classifier_free(Field(NET, Path.cosine(), "v"), 3.0), SD).start(Z.float(), guidance=2.0), ValueError, "guided already, by 3"),
    (lambda: fit_one_more_step(Z.float(), NET, steps=1, drop_condition=-0.5), ValueError, "drop_condition must lie in"),
    (lambda: STEP.start(Z, guidance=2.0), ValueError, "guidance is for a psi with a network"),
    (lambda: STEP.start(Z[:, :1]), ValueError, r"psi must give one event \(1,\), or one a row of z, got \(2,\)"),
    (lambda: OneMoreStep(lambda cond: 3.0, SD).start(Z), ValueError, "psi must give one event"),
    (lambda: STEP.start(Z, torch.zeros(5, dtype=torch.int64)), ValueError, "cond must have 6 rows, one a sample, got 5"),
    (lambda: OneMoreStep(ExactField(Path.linear(), LAW), SD).start(Z, guidance=-1.0), ValueError, "guidance must lie in"),
    (lambda: fit_one_more_step(Z.float(), NET, steps=0), ValueError, "steps must be at least 1"),
    (lambda: fit_one_more_step(Z.float() / 0, NET, steps=1), ValueError, "finite"),
    (lambda: fit_one_more_step(Z.float(), NET, steps=1, objective=3), ValueError, "a setting of fit_one_more_step must be one of"),
    (lambda: fit_one_more_step(Z.float(), NET, steps=1, cond=torch.zeros(6, dtype=torch.int64), drop_condition=1.5), ValueError, "drop_condition must lie in"),
])
def test_refusals(call, error, told):
    with pytest.raises(error, match=told):
        call()
