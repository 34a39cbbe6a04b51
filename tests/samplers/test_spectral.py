"""SpectralDDIM: our DDIM and DPM-Solver++ where all coordinates agree, a loop in Fourier space where they do not."""
import cmath
import math

import pytest
import torch

from rheos.core import Draws
from rheos.data import GaussianMixture, skewed
from rheos.paths import LAM, ExactField, Field, Fourier2d, Linear, Path, T, Times, fisher_times
from rheos.samplers import DDIM, DPMSolverPP, Rule, SpectralDDIM, Table, sample

F64 = torch.float64
SIZE = (1, 3, 5)
FLAT = Path.shortest(torch.ones(3, 5, dtype=F64))       # the cosine path, in a basis that does nothing to it


def images(name, count, seed=5):
    return Draws(seed).rows(name, 0, (count, *SIZE), dtype=F64)


def coupled(seed=3):
    """Powers of real images: (i, j) and (-i, -j) share one."""
    power = (1.2 * Draws(seed).rows("powers", 0, (3, 5), dtype=F64)).exp()
    return 0.5 * (power + torch.roll(power.flip(0, 1), (1, 1), (0, 1)))


class Wiener(Field):
    """The exact field of zero-mean Gaussian images of one power spectrum."""

    def __init__(self, path, power):
        super().__init__(lambda x, t, cond: x, path, "data")
        self.power = power

    def _ask(self, x, t, cond, at):
        self.nfe += 1
        gain = at.b * self.power / (at.b**2 * self.power + at.c**2)
        return {"data": Fourier2d().inverse(gain * Fourier2d().forward(x))}


# -- where all coordinates agree ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize("path", [Path.linear(), Path.vp(), Path.edm(0.01, 40.0)], ids=["linear", "vp", "edm"])
def test_in_pixels_it_is_ddim_and_dpm_solver(path):
    field, start = ExactField(path, skewed()), Draws(0).rows("start", 0, (6, 2), dtype=F64)
    for times in (Times.uniform(path, 9, LAM, start=0.1, end=0.9), Times(path, [0.1, 0.3, 0.35, 0.7, 0.9])):
        whole = lambda rule, times=times: sample(field, start=start, rule=rule, times=times)
        torch.testing.assert_close(whole(SpectralDDIM()), whole(DDIM()), rtol=1e-11, atol=1e-11)
        # Of few steps, both take the last of order 1.
        torch.testing.assert_close(whole(SpectralDDIM(2)), whole(DPMSolverPP(2, form="midpoint")), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("order", [1, 2])
def test_on_a_white_spectrum_it_is_the_cosine_path_of_pixels(order):
    """A table of numbers a coordinate, applied in the basis, and one of plain numbers in pixels."""
    target = GaussianMixture.points(images("y", 7), std=0.4)
    start, t = images("start", 4), [0.05, 0.2, 0.5, 0.8, 0.97]
    ours = sample(ExactField(FLAT, target), start=start, rule=SpectralDDIM(order), times=Times(FLAT, t))
    cosine = Path.cosine()
    rule = DDIM() if order == 1 else DPMSolverPP(2, form="midpoint")
    torch.testing.assert_close(ours, sample(ExactField(cosine, target), start=start, rule=rule, times=Times(cosine, t)), rtol=1e-10, atol=1e-10)


def test_numbers_for_all_coordinates_are_not_turned():
    path = Path(Linear(), basis=Fourier2d())
    table = SpectralDDIM(2).plan(Times.uniform(path, 4, T, start=0.1))
    assert table.event is None and table.basis is None
    target = GaussianMixture.points(images("y", 7), std=0.4)
    plain = Path.linear()
    torch.testing.assert_close(sample(ExactField(path, target), start=images("s", 3), rule=table),
                               sample(ExactField(plain, target), start=images("s", 3), rule=SpectralDDIM(2), times=Times(plain, table.times.t)), rtol=1e-10, atol=1e-10)


# -- where they do not -------------------------------------------------------------------------------------------------------

def looped(power, x, taus, order):
    """DDIM, or DPM-Solver++(2M), of Wiener's filter in complex Fourier space: one frequency after the other, by definition."""
    h, w = power.shape
    out = torch.zeros_like(x)
    for n in range(len(x)):
        coefficients = {}
        for i in range(h):
            for j in range(w):
                z = sum(float(x[n, 0, k, m]) * cmath.exp(-2j * math.pi * (i * k / h + j * m / w)) for k in range(h) for m in range(w)) / math.sqrt(h * w)
                s, before, data = float(power[i, j]), None, None
                alpha = lambda tau, s=s: math.sqrt((1 - s**tau) / (1 - s))
                for number, (now, then) in enumerate(zip(taus, taus[1:], strict=False)):
                    b, b_s = alpha(now), alpha(then)
                    c, c_s = math.sqrt(1 - b * b), math.sqrt(max(0.0, 1 - b_s * b_s))
                    found = b * s / (b * b * s + c * c) * z
                    used = found
                    if order == 2 and data is not None and number < len(taus) - 2:
                        lam = lambda b: math.log(b / math.sqrt(1 - b * b))
                        r = (lam(b) - lam(before)) / (lam(b_s) - lam(b))
                        used = (1 + 0.5 / r) * found - 0.5 / r * data
                    eps = (z - b * used) / c
                    z, data, before = b_s * used + c_s * eps, found, b
                coefficients[i, j] = z
        for k in range(h):
            for m in range(w):
                total = sum(v * cmath.exp(2j * math.pi * (i * k / h + j * m / w)) for (i, j), v in coefficients.items())
                out[n, 0, k, m] = total.real / math.sqrt(h * w)
                assert abs(total.imag) < 1e-9
    return out


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("end", [0.9, 1.0])
def test_equals_a_loop_over_frequencies(order, end):
    power = coupled()
    path = Path.shortest(power)
    taus = [0.02, 0.2, 0.35, 0.7, end]
    times = Times(path, path.schedule.time_of(torch.tensor(taus, dtype=F64)))
    start = images("start", 2)
    found = sample(Wiener(path, power), start=start, rule=SpectralDDIM(order), times=times)
    torch.testing.assert_close(found, looped(power, start, taus, order), rtol=1e-9, atol=1e-9)


def test_from_pure_noise_a_second_step_has_no_slope_yet():
    """At tau = 0 log(b / c) is -inf: the first extrapolation is left out, and nothing is nan."""
    power = coupled()
    path = Path.shortest(power)
    tables = [SpectralDDIM(order).plan(SpectralDDIM(order).times(path, 3)) for order in (1, 2)]
    assert float(tables[0].times.t[0]) == 0 and float(tables[0].times.t[-1]) == 1
    start = images("start", 3)
    ends = [sample(Wiener(path, power), start=start, rule=table) for table in tables]
    torch.testing.assert_close(ends[0], ends[1])        # of three steps only the middle could be extrapolated
    assert bool(ends[0].isfinite().all())


def truth(power, x, path, start, end):
    """The flow of independent Gaussians keeps each coordinate's place in its law: by dense sines and cosines."""
    width = lambda t: (lambda at: (at.b**2 * power + at.c**2).sqrt())(path.coefficients(torch.tensor([t], dtype=F64)))
    turned = Fourier2d().forward(x) * (width(end) / width(start)).reshape(1, 1, 3, 5)
    return Fourier2d().inverse(turned)


@pytest.mark.parametrize(("order", "low", "high"), [(1, 1.7, 2.4), (2, 3.2, 5.5)])
def test_errors_fall_with_the_order(order, low, high):
    power = coupled()
    path, start = Path.shortest(power), images("start", 6)
    wanted = truth(power, start, path, 0.1, 0.9)
    errors = [float((sample(Wiener(path, power), start=start, rule=SpectralDDIM(order), times=Times.uniform(path, n, T, start=0.1, end=0.9)) - wanted).abs().max())
              for n in (40, 80, 160)]
    assert low < errors[0] / errors[1] < high and low < errors[1] / errors[2] < high


@pytest.mark.parametrize("steps", [8, 25])
def test_order_2_beats_order_1(steps):
    power = coupled()
    path, start = Path.shortest(power), images("start", 6)
    wanted = truth(power, start, path, 0.0, 1.0)
    errors = [float((sample(Wiener(path, power), start=start, rule=SpectralDDIM(order), steps=steps) - wanted).square().mean().sqrt()) for order in (1, 2)]
    assert errors[1] < 0.85 * errors[0]


def test_times_are_even_shares_of_the_way():
    power = coupled()
    path = Path.shortest(power)
    torch.testing.assert_close(SpectralDDIM().times(path, 7).t, fisher_times(path, power, 7).t, rtol=0, atol=1e-5)
    assert SpectralDDIM().times(Path.linear(), 4).t.tolist() == [0.0, 0.25, 0.5, 0.75, 1.0]


def test_channels_with_a_spectrum_each(seed):
    """Two channels of one spectrum each, together and alone."""
    powers = torch.stack([coupled(3), coupled(8)])
    start = Draws(seed).rows("start", 0, (4, 2, 3, 5), dtype=F64)
    path = Path.shortest(powers)
    found = sample(Wiener(path, powers), start=start, rule=SpectralDDIM(2), steps=6)
    for k in range(2):
        alone = Path.shortest(powers[k])
        torch.testing.assert_close(found[:, k : k + 1], sample(Wiener(alone, powers[k]), start=start[:, k : k + 1], rule=SpectralDDIM(2), steps=6), rtol=1e-10, atol=1e-10)


def test_the_plan_is_a_rule_whose_table_is_saved_and_fits_its_images_only(seed):
    path = Path.shortest(coupled())
    for rule in SpectralDDIM.examples():
        table = rule.plan(rule.times(path, 5))
        assert isinstance(rule, Rule) and table.nfe == 5 and table.event == SIZE and table.basis == Fourier2d() and not table.stochastic
        again = Table.from_json(table.to_json())
        field = Wiener(path, coupled())
        assert torch.equal(sample(field, start=images("s", 3), rule=again), sample(field, start=images("s", 3), rule=rule, steps=5)) and field.nfe == 10
        whole = sample(field, 7, shape=SIZE, rule=rule, steps=3, seed=seed)
        torch.testing.assert_close(sample(field, 7, shape=SIZE, rule=rule, steps=3, seed=seed, batch=3), whole, rtol=1e-5, atol=1e-6)
        single = sample(field, start=images("s", 3).float(), rule=rule, steps=5)
        torch.testing.assert_close(single.double(), sample(field, start=images("s", 3), rule=rule, steps=5), rtol=1e-4, atol=1e-4)
        with pytest.raises(ValueError, match=r"the table has numbers of shape \(1, 3, 5\), which do not fit samples of shape \(1, 4, 5\)"):
            sample(field, start=torch.zeros(2, 1, 4, 5), rule=table)


REFUSALS = [
    (lambda: SpectralDDIM(3), "order must be 1 or 2, got 3"),
    (lambda: SpectralDDIM(0), "order"),
    (lambda: SpectralDDIM().plan(Times.uniform(Path.interpolant(), 4)), "SpectralDDIM needs a one-sided path, got a two-sided one"),
    (lambda: SpectralDDIM().plan(Times(Path.shortest(coupled()), [1.0, 0.5])), "t = 1 leaves no noise in x, and the times go on from there"),
    (lambda: SpectralDDIM().plan(Times(Path.linear(), [1.0, 0.5])), "t = 1 leaves no noise in x"),
    (lambda: SpectralDDIM().times(Path.linear(), 0), "steps"),
]


@pytest.mark.parametrize(("make", "says"), REFUSALS, ids=[str(k) for k in range(len(REFUSALS))])
def test_what_cannot_be_is_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()
