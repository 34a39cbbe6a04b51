"""Time shift: the paper's step written out, times found on samples of known variance, what it leaves alone, what it mends, refusals."""
import math

import pytest
import torch

from rheos.core import Draws
from rheos.data import GaussianMixture, digits_mixture
from rheos.guidance import classifier_free
from rheos.metrics import sliced_w2
from rheos.paths import ExactField, Field, Fourier2d, Path, Student, T, Times
from rheos.samplers import DDIM, DDPM, PLMS, DPMSolverPP, Euler, RungeKutta, UniPC, sample
from rheos.samplers.time_shift import TimeShift

F64 = torch.float64
PATH = Path.vp()
# Twenty coordinates of unequal mean and variance.
MEAN = 0.2 * torch.linspace(-1, 1.5, 20, dtype=F64)[None]
TARGET = GaussianMixture(torch.ones(1, dtype=F64), MEAN, torch.linspace(0.02, 0.1, 20, dtype=F64)[None])
VARIANCE = 0.08
EXACT = ExactField(PATH, TARGET)


def biased(path=PATH, bias=1.2):
    exact = ExactField(path, TARGET)
    return Field(lambda x, t, cond: bias * exact(x, t).noise, path, "noise")


def start(n=6, seed=3, path=PATH, at=0.001):
    return path.prior((n, 20), seed=seed, start=at, dtype=F64)


# -- the paper's step ------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("known", [VARIANCE, None])
@pytest.mark.parametrize("kind", ["data", "noise"])
def test_ddim_with_shifted_times_by_the_papers_loop(kind, known):
    """The nearest of a thousand steps in the window asks and reads data and noise; the step lands on the planned level."""
    field, times, x = biased(), Times.uniform(PATH, 9, T, start=0.001), start(4)
    for i in range(9):
        t, asked = float(times.t[i]), []
        for row in x:
            spread = float(((row - row.mean()) ** 2).sum() / 19)
            best, gap = t, math.inf
            for k in sorted(range(-40, 41), key=abs) if 1 - t > 0.25 else [0]:
                at = PATH.coefficients(min(max(t + k / 1000, 0.0), 1.0))
                found = abs(spread - float(at.c) ** 2 - (0.0 if known is None else known * float(at.b) ** 2))
                if found < gap - 1e-13:
                    best, gap = min(max(t + k / 1000, 0.0), 1.0), found
            asked.append(best)
        asked = torch.tensor(asked, dtype=F64)
        answer = field(x, asked)
        x = times.alpha[i + 1] * answer.data + times.sigma[i + 1] * answer.noise
    shifted = TimeShift(biased(), window=0.08, cutoff=0.25, data_variance=known)
    found = sample(shifted, start=start(4), rule=DDIM(kind=kind), times=times)
    torch.testing.assert_close(found, x, rtol=1e-9, atol=1e-9)
    assert float((found - sample(biased(), start=start(4), rule=DDIM(), times=times)).abs().max()) > 1e-2
    assert shifted.nfe == shifted.field.nfe == 9


def test_samples_of_another_time_are_found_there():
    """Samples of the law at t, planned for another time: the field is asked at t, as nearly as the window and 4000 coordinates allow."""
    mean = 0.2 * torch.linspace(-1, 1.5, 4000, dtype=F64)[None]
    law = GaussianMixture(torch.ones(1, dtype=F64), mean, torch.full((1, 4000), 0.05, dtype=F64))
    variance = 0.05 + float(mean.var())
    x1, path = law.sample(5, seed=1), Path.linear()
    for true, planned, expected in ((0.4, 0.42, 0.4), (0.5, 0.46, 0.5), (0.3, 0.45, 0.4)):      # the last lies beyond the window
        x = path.sample(x1, torch.full((5,), true, dtype=F64), seed=2).x
        found = TimeShift(ExactField(path, law), window=0.1, data_variance=variance).shifted(x, planned)
        assert float((found - expected).abs().max()) < 0.02, (true, planned)
    each = torch.tensor([0.42, 0.38, 0.41, 0.8, 0.4], dtype=F64)
    x = path.sample(x1, torch.full((5,), 0.4, dtype=F64), seed=2).x
    found = TimeShift(ExactField(path, law), window=0.1, data_variance=variance).shifted(x, each)
    assert found[3] == 0.8          # next to the data times are left as they are
    assert float((found[[0, 1, 2, 4]] - 0.4).abs().max()) < 0.02


def test_variance_is_over_coordinates_not_over_the_batch():
    """One sample far noisier than its fellows goes to an earlier time, alone."""
    x = 0.9 * Draws(1).rows("x", 0, (4, 400), dtype=F64)
    x[2] *= 1.1
    field = ExactField(Path.linear(), GaussianMixture(torch.ones(1, dtype=F64), torch.zeros(1, 400, dtype=F64), torch.tensor([0.01], dtype=F64)))
    found = TimeShift(field, window=0.3).shifted(x, 0.1)
    assert float(found[2]) < float(found[[0, 1, 3]].min()) - 0.03
    torch.testing.assert_close(found, (1 - x.var(1).sqrt()).clamp(0.0005, 0.25), atol=6e-4, rtol=0)
    assert torch.equal(TimeShift(field, window=0.3).shifted(x[2:], 0.1), found[2:])


def test_a_discrete_model_is_asked_at_its_own_steps():
    path = Path.from_betas(torch.linspace(1e-3, 0.15, 101, dtype=F64))
    times, asked = Times.uniform(path, 10), []
    exact = ExactField(path, TARGET)

    def net(x, t, cond):
        asked.extend(t.tolist())
        return 1.2 * exact(x, t).noise

    sample(TimeShift(Field(net, path, "noise"), window=0.1, data_variance=VARIANCE), start=start(path=path, at=0.0), rule=DDIM(), times=times)
    steps = torch.tensor(asked, dtype=F64) * 100
    assert float((steps - steps.round()).abs().max()) < 1e-9
    assert float((steps / 10 - (steps / 10).round()).abs().max()) > 0.05          # not only at the planned ones


def test_every_rule_goes_on_from_the_sample_taken_back():
    """Of any kind: one Euler step on the linear path, and a DDIM step of either kind, from where the answer puts the sample."""
    path = Path.linear()
    field, x, t, later = TimeShift(biased(path), window=0.2, data_variance=VARIANCE), start(path=path) * 0.8, 0.3, 0.45
    answer = field(x, t)
    own = field.shifted(x, t)
    inner = biased(path)(x, own)
    torch.testing.assert_close(answer.x, t * inner.data + (1 - t) * inner.noise, rtol=1e-12, atol=1e-12)
    landed = later * inner.data + (1 - later) * inner.noise
    for rule in (Euler(), DDIM(), DDIM(kind="noise")):
        torch.testing.assert_close(sample(field, start=x, rule=rule, times=Times(path, [t, later])), landed, rtol=1e-10, atol=1e-10)


# -- what it leaves alone, what it mends ------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("rule", [DDIM(), DPMSolverPP(2), PLMS(), RungeKutta(2), DDPM()], ids=str)
def test_beyond_the_cutoff_nothing_changes_to_the_bit(rule):
    times = Times.uniform(PATH, 6, T, start=0.3, end=0.95)
    ends = [sample(f, start=start(), rule=rule, times=times, seed=4) for f in (EXACT, TimeShift(EXACT, cutoff=0.7, data_variance=VARIANCE))]
    assert torch.equal(*ends)
    narrow = TimeShift(EXACT, window=0.001, data_variance=VARIANCE)           # half a candidate on each side: none but the planned time
    assert torch.equal(sample(narrow, start=start(), rule=rule, times=times, seed=4), ends[0])


@pytest.mark.parametrize("rule", [DDIM(), DPMSolverPP(2), UniPC(2)], ids=str)
def test_it_mends_a_field_that_is_wrong_and_spares_one_that_is_right(rule, seed):
    """Digits scaled to the variance of images, noise 1.05 times too large: nearer to the data; with the exact field as near as before."""
    digits = digits_mixture()
    law = GaussianMixture(digits.weights, 0.3 * digits.means, 0.09 * digits.covariance, digits.labels)
    exact, wanted = ExactField(PATH, law), law.sample(300, seed=seed + 100)
    wrong = Field(lambda x, t, cond: 1.05 * exact(x, t).noise, PATH, "noise")
    z, times = PATH.prior((300, 16), seed=seed, dtype=F64), Times.uniform(PATH, 20, T)

    def ratio(field):
        shifted = TimeShift(field, data_variance=float(wanted.square().mean()))
        return math.prod(float(sliced_w2(sample(f, start=z, rule=rule, times=times), wanted)) ** power for f, power in ((shifted, 1), (field, -1)))

    assert ratio(wrong) < 0.9
    assert abs(ratio(exact) - 1) < 0.15


def test_guidance_goes_inside_and_conditions_pass(seed):
    field = ExactField(PATH, digits_mixture())
    cond, z = torch.arange(4), PATH.prior((4, 16), seed=seed, dtype=F64)
    times = Times.uniform(PATH, 6, T, start=0.01, end=0.95)
    guided = TimeShift(classifier_free(field, 2.0), data_variance=1.0 / 4)
    found = sample(guided, start=z, rule=DDIM(), times=times, cond=cond)
    assert float((found - sample(classifier_free(field, 2.0), start=z, rule=DDIM(), times=times, cond=cond)).abs().max()) > 1e-4
    with pytest.raises(ValueError, match="TimeShift goes around all that steers a field"):
        sample(TimeShift(field), start=z, rule=DDIM(), times=times, cond=cond, guidance=2.0)


@pytest.mark.parametrize(("path", "kind"), [(Path.linear(), "velocity"), (Path.linear(), "data"), (Path.linear(), "noise"), (Path.cosine(), "v"), (PATH, "noise"),
                                            (Path.edm(0.01, 40.0), "v")], ids=lambda v: v if isinstance(v, str) else "")
@pytest.mark.parametrize("dtype", [torch.float32, F64], ids=["float32", "float64"])
def test_every_network_on_the_rules_own_times(path, kind, dtype):
    """From the path's own start, cutoff 0: where nothing of data or noise is left the planned time stands."""
    exact = ExactField(path, TARGET)
    field = TimeShift(Field(lambda x, t, cond: exact(x, t).of(kind), path, kind), cutoff=0.0, data_variance=VARIANCE)
    z = path.prior((3, 20), seed=1, dtype=dtype)
    for rule in (DDIM(), UniPC(2)):
        end = sample(field, start=z, rule=rule, steps=15)
        assert end.dtype == dtype
        assert float((end - sample(exact, start=z, rule=rule, steps=15)).abs().max()) < 0.5


# -- refusals -------------------------------------------------------------------------------------------------------------------------------

TWO_SIDED = Field(lambda x, t, cond: x, Path.interpolant(), ("velocity", "noise"))


@pytest.mark.parametrize(("make", "error", "message"), [
    (lambda: TimeShift(lambda x, t: x), TypeError, "[Ff]ield"),
    (lambda: TimeShift(TWO_SIDED), ValueError, "one-sided paths with Gaussian noise .* a two-sided one"),
    (lambda: TimeShift(Field(lambda x, t, cond: x, Path.linear(noise=Student(4.0)), "data")), ValueError, "Gaussian noise .* Student"),
    (lambda: TimeShift(Field(lambda x, t, cond: x, Path(Path.linear().schedule, basis=Fourier2d()), "data")), ValueError, "plain basis"),
    (lambda: TimeShift(EXACT, window=0.0), ValueError, r"window must lie in \(0, 1\], got 0"),
    (lambda: TimeShift(EXACT, window=60), ValueError, "window must lie"),
    (lambda: TimeShift(EXACT, cutoff=300), ValueError, "cutoff must lie"),
    (lambda: TimeShift(EXACT, cutoff=-0.1), ValueError, "cutoff must lie"),
    (lambda: TimeShift(EXACT, data_variance=0.0), ValueError, "data_variance"),
    (lambda: TimeShift(EXACT, data_variance=math.inf), ValueError, "data_variance"),
    (lambda: TimeShift(EXACT, data_variance=1.0), ValueError, "one variance at all times"),
    (lambda: TimeShift(EXACT)(torch.zeros(2, 8, dtype=F64), 0.5), ValueError, "16 coordinates or more, .* got 8"),
])
def test_refusals(make, error, message):
    with pytest.raises(error, match=message):
        make()
