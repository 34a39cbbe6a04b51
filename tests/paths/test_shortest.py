"""The shortest path to white noise: its law at all times, its ends, and that no other path is shorter."""
import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate

from rheos.core import Draws
from rheos.couplings import Pair
from rheos.nets import ResidualMLP
from rheos.objectives import Matching
from rheos.paths import VP, Coefficients, Field, Fourier2d, Path, Shortest, Student, Times, fisher_length, fisher_times
from rheos.samplers import SpectralDDIM, sample

F64 = torch.float64
INSIDE = torch.tensor([0.04, 0.2, 0.5, 0.77, 0.97], dtype=F64)


def spectrum(*shape, seed=3, spread=1.5):
    return (spread * Draws(seed).rows("spectrum", 0, shape, dtype=F64)).exp()


SPECTRA = {"plane": spectrum(3, 5), "a channel each": spectrum(2, 3, 5), "wide": spectrum(4, 3, spread=6.0), "one": torch.full((1, 1), 0.2, dtype=F64),
           "nearly white": 1 + 1e-9 * torch.arange(6, dtype=F64).reshape(2, 3)}


# -- the law on the way ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", SPECTRA)
def test_the_variance_of_each_coordinate_is_the_spectrum_to_the_power_tau(name):
    power, path = SPECTRA[name], Path.shortest(SPECTRA[name])
    at = path.coefficients(INSIDE)
    for k, t in enumerate(INSIDE.tolist()):
        tau = math.sin(0.5 * math.pi * t) ** 2
        found = (at.b[k] ** 2 * power + at.c[k] ** 2).reshape(power.shape)
        torch.testing.assert_close(found, power**tau, rtol=1e-12, atol=0)
        torch.testing.assert_close(at.b[k] ** 2 + at.c[k] ** 2, torch.ones_like(at.b[k]), rtol=1e-12, atol=0)


def test_of_images_of_that_spectrum(seed):
    """Seen from outside: white noise filtered to the spectrum, carried along, transformed by numpy's own FFT."""
    power = spectrum(4, 6, spread=0.7)
    power = 0.5 * (power + torch.roll(power.flip(0, 1), (1, 1), (0, 1)))       # of real images (i, j) and (-i, -j) have one power
    white = Draws(seed).rows("white", 0, (20_000, 1, 4, 6), dtype=F64)
    images = torch.fft.ifft2(torch.fft.fft2(white) * power.sqrt()).real
    path, t = Path.shortest(power), 0.6
    x = path.sample(images, torch.full((20_000,), t, dtype=F64), seed=seed).x
    found = torch.fft.fft2(x, norm="ortho").abs().square().mean((0, 1))
    wanted = power ** (math.sin(0.3 * math.pi) ** 2)
    assert float((found / wanted - 1).abs().max()) < 6 * math.sqrt(2 / 20_000)


@pytest.mark.parametrize("name", SPECTRA)
def test_derivatives_by_differences(name):
    path, h = Path.shortest(SPECTRA[name]), 1e-6
    at, up, down = (path.coefficients(INSIDE + d) for d in (0.0, h, -h))
    for letter in ("b", "c"):
        torch.testing.assert_close(getattr(at, f"d{letter}"), (getattr(up, letter) - getattr(down, letter)) / (2 * h), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(at.cdc, at.c * at.dc, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", SPECTRA)
def test_ends_are_exact_and_derivatives_finite_there(name):
    at = Path.shortest(SPECTRA[name]).coefficients(torch.tensor([0.0, 1.0], dtype=F64))
    for letter, ends in (("b", (0.0, 1.0)), ("c", (1.0, 0.0))):
        value = getattr(at, letter)
        assert bool((value[0] == ends[0]).all() if not ends[0] else ((value[0] - 1).abs() < 1e-14).all())
        assert bool((value[1] == ends[1]).all() if not ends[1] else ((value[1] - 1).abs() < 1e-14).all())
    assert all(bool(torch.as_tensor(v).isfinite().all()) for v in at)


@pytest.mark.parametrize("power", [torch.ones(3, 5, dtype=F64), 1 + 1e-13 * torch.ones(3, 5, dtype=F64), 1 + 1e-7 * torch.ones(3, 5, dtype=F64)], ids=["1", "nearly", "near"])
def test_a_white_spectrum_gives_the_cosine_path(power):
    """The limit Sigma_0 -> 1, where alpha^2 = (1 - Sigma_0^tau) / (1 - Sigma_0) is 0 / 0."""
    t = torch.linspace(0, 1, 11, dtype=F64)
    at, cosine = Path.shortest(power).coefficients(t), Path.cosine().coefficients(t)
    close = 1e-13 + 2 * float(power.max() - 1)
    for name in ("b", "c", "db", "dc", "cdc"):
        torch.testing.assert_close(getattr(at, name), torch.as_tensor(getattr(cosine, name)).reshape(-1, 1, 1, 1).expand(-1, 1, 3, 5), rtol=close, atol=close)


def test_loud_frequencies_come_early_and_faint_ones_late():
    """Seen from the noise: at half the way a loud frequency has more of its image in it than a faint one."""
    at = Path.shortest(torch.tensor([[100.0, 1.0, 0.01]])).coefficients(torch.tensor([0.5]))
    ratio = (at.b / at.c).flatten().tolist()
    assert ratio[0] < ratio[1] < ratio[2] and ratio[1] == pytest.approx(1.0, abs=1e-7)
    # Power of the image against that of the noise, in its own coordinate.
    loud, _, faint = (at.b.square() * torch.tensor([100.0, 1.0, 0.01]) / at.c.square()).flatten().tolist()
    assert loud == pytest.approx(10.0, rel=1e-6) and faint == pytest.approx(0.1, rel=1e-6)


def test_times_of_shares_of_the_way():
    schedule, tau = Shortest.of(spectrum(2, 3)), torch.linspace(0, 1, 9, dtype=F64)
    t = schedule.time_of(tau)
    torch.testing.assert_close(torch.sin(0.5 * math.pi * t) ** 2, tau, rtol=1e-12, atol=1e-15)
    assert float(t[0]) == 0 and float(t[-1]) == 1
    at = schedule.coefficients(t)
    logs = (at.b**2 * spectrum(2, 3) + at.c**2).log()[:, 0]
    torch.testing.assert_close(logs.diff(dim=0), (spectrum(2, 3).log() / 8).expand(8, 2, 3), rtol=1e-9, atol=1e-12)


def test_saved_and_read_back():
    for power in (spectrum(3, 4), spectrum(2, 3, 4)):
        path = Path.shortest(power)
        again = Path.from_json(json.loads(json.dumps(path.to_json())))
        assert again == path and torch.equal(again.coefficients(INSIDE).b, path.coefficients(INSIDE).b)


# -- lengths -----------------------------------------------------------------------------------------------------------------

def bound(power):
    return float(power.log().norm()) / math.sqrt(2)


@pytest.mark.parametrize("name", ["plane", "a channel each", "wide", "one"])
def test_its_length_is_the_bound(name):
    power = SPECTRA[name]
    assert fisher_length(Path.shortest(power), power) == pytest.approx(bound(power), rel=1e-6)


class Warped:
    """The linear path on a clock of its own, and coordinate by coordinate on another power of t."""

    two_sided, spectral, interval = False, True, (0.0, 1.0)

    def __init__(self, powers):
        self.powers = powers

    def coefficients(self, t):
        t = t[..., None, None, None]
        b, db = t**self.powers, self.powers * t ** (self.powers - 1)
        return Coefficients(0.0, b, 1 - b, 0.0, db, -db, -(1 - b) * db)


OTHERS = st.one_of(
    st.sampled_from([Path.linear(), Path.cosine(), Path(VP(0.1, 20.0))]), st.floats(5.0, 30.0).map(lambda beta: Path(VP(0.1, beta))),
    st.floats(0.3, 3.0).map(lambda k: ("power", k)),
    st.lists(st.floats(1.0, 3.0), min_size=6, max_size=6).map(lambda v: Path(Warped(torch.tensor(v, dtype=F64).reshape(2, 3)), basis=Fourier2d())))


@given(logs=st.lists(st.floats(-5.0, 5.0), min_size=6, max_size=6).filter(lambda v: max(map(abs, v)) > 0.1), other=OTHERS)
@settings(max_examples=40, deadline=None)
def test_no_other_path_is_shorter(logs, other):
    power = torch.tensor(logs, dtype=F64).exp().reshape(2, 3)
    if isinstance(other, tuple):
        other = Path.shortest(power ** other[1])
    at = other.coefficients(torch.tensor([0.0, 1.0], dtype=F64))
    if float(torch.as_tensor(at.b)[0].max()) > 0:        # VP begins a little inside: add what is missing on the way there
        start = (torch.as_tensor(at.b)[0] ** 2 * power + torch.as_tensor(at.c)[0] ** 2).log()
        rest = float(start.norm()) / math.sqrt(2)
    else:
        rest = 0.0
    length = fisher_length(other, power, start=0.0, end=1.0) + rest
    assert length >= bound(power) * (1 - 1e-6)
    assert fisher_length(Path.shortest(power), power) == pytest.approx(bound(power), rel=1e-6)


def test_lengths_by_quadrature():
    """The linear path's length to one coordinate and to two, by SciPy."""
    for power in ([4.0], [4.0, 0.2]):
        speed = lambda t, power=power: math.sqrt(sum(0.5 * ((2 * t * s - 2 * (1 - t)) / (t * t * s + (1 - t) ** 2)) ** 2 for s in power))
        for low, high in ((0.0, 1.0), (0.2, 0.7)):
            wanted = integrate.quad(speed, low, high, limit=200, points=[0.2, 0.5])[0]
            assert fisher_length(Path.linear(), torch.tensor([power], dtype=F64), start=low, end=high) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("path", [Path.linear(), Path.cosine(), Path.vp(), Path.edm(0.01, 40.0), Path.ve(0.02, 30.0), Path.shortest(spectrum(3, 5)), Path(Warped(2.0), basis=Fourier2d())],
                         ids=["linear", "cosine", "vp", "edm", "ve", "shortest", "warped"])
@pytest.mark.parametrize("steps", [1, 6])
def test_fisher_times_part_the_way_evenly(path, steps):
    power = spectrum(3, 5)
    times = fisher_times(path, power, steps)
    assert isinstance(times, Times) and times.steps == steps and (float(times.t[0]), float(times.t[-1])) == tuple(path.interval)
    parts = [fisher_length(path, power, start=low, end=high) for low, high in zip(times.t.tolist(), times.t.tolist()[1:], strict=False)]
    whole = fisher_length(path, power)
    assert max(parts) / min(parts) < 1.01 and sum(parts) == pytest.approx(whole, rel=1e-4)
    if path.schedule == Shortest.of(power):
        torch.testing.assert_close(times.t, path.schedule.time_of(torch.linspace(0, 1, steps + 1, dtype=F64)), rtol=0, atol=1e-5)


def test_times_may_begin_and_end_inside():
    times = fisher_times(Path.linear(), spectrum(2, 2), 5, start=0.1, end=0.8)
    assert float(times.t[0]) == 0.1 and float(times.t[-1]) == 0.8 and bool((times.t.diff() > 0).all())


# -- learned and sampled -----------------------------------------------------------------------------------------------------

def test_a_network_learns_and_samples_along_it(seed):
    """A few steps downhill: losses are finite and fall, and every rule that serves the path gives finite samples."""
    from functools import partial

    from rheos.core import evolve
    from rheos.couplings import Independent
    from rheos.training import Descent

    path = Path.shortest(spectrum(3, 5, spread=0.5))
    with Draws(seed).scope(0):
        net = ResidualMLP((1, 3, 5), width=24, depth=1)
    x = Draws(seed).rows("x", 0, (64, 1, 3, 5))
    fit = Descent(Matching(path, "noise"), Independent(x), 32, partial(torch.optim.Adam, lr=1e-2), seed=seed)
    fixed = lambda learned: float(fit.objective(learned.eval(), Pair(x), seed=9).value)
    before = fixed(net)
    state = evolve(fit, fit.init(net), 60)
    assert fixed(state.net) < 0.95 * before
    field = Field(state.net.eval(), path, "noise")
    for rule in (None, SpectralDDIM(1), SpectralDDIM(2)):
        assert bool(sample(field, 5, steps=4, seed=seed, rule=rule).isfinite().all())


# -- refusals ----------------------------------------------------------------------------------------------------------------

REFUSALS = [
    (lambda: Path.shortest(torch.ones(4, 4)).sample(torch.ones(2, 1, 5, 5), torch.full((2,), 0.5)), ValueError, "x must have events of shape"),
    (lambda: fisher_length(Path.linear(noise=Student(3.0)), torch.full((3,), 2.0)), ValueError, "path must have standard normal noise to have a Fisher length"),
    (lambda: fisher_times(Path.cosine(), torch.ones(3, 3), 4), ValueError, "the law of the data does not change along this path"),
    (lambda: fisher_times(Path.shortest(torch.full((4, 4), 2.0)), torch.full((3, 5), 2.0), 3), ValueError, "spectrum must have the shape of the path's coefficients"),
    (lambda: Path.shortest(torch.tensor([[1.0, 0.0]])), ValueError, "spectrum must be positive and finite, got 0; a power of 0"),
    (lambda: Path.shortest(torch.tensor([[1.0, -2.0]])), ValueError, "spectrum must be positive and finite, got -2"),
    (lambda: Path.shortest(torch.tensor([[1.0, math.nan]])), ValueError, "spectrum must be positive and finite, got nan"),
    (lambda: Path.shortest(torch.tensor([[1.0, math.inf]])), ValueError, "spectrum must be positive and finite, got inf"),
    (lambda: Path.shortest(torch.ones(3)), ValueError, r"spectrum must have shape \(height, width\) or \(channels, height, width\), got \(3,\)"),
    (lambda: Path.shortest(torch.ones(0, 3)), ValueError, "spectrum must have shape"),
    (lambda: Path.shortest(torch.ones(2, 3, dtype=torch.int64)), TypeError, "spectrum"),
    (lambda: Path(Shortest(((1.0, 2.0),))), ValueError, "basis must be given"),
    (lambda: Path.shortest(spectrum(2, 3)).lam(0.5), ValueError, "lam exists only where all coordinates share"),
    (lambda: fisher_length(Path.interpolant(), spectrum(2, 3)), ValueError, "path must be one-sided to have a Fisher length"),
    (lambda: fisher_length(Path.linear(), spectrum(2, 3), start=0.7, end=0.2), ValueError, "start must lie before end, got 0.7 and 0.2"),
    (lambda: fisher_length(Path.linear(), spectrum(2, 3), end=1.3), ValueError, r"end must .*1\.3"),
    (lambda: fisher_length(Path.linear(), torch.tensor([[1.0, 0.0]])), ValueError, "spectrum must be positive and finite, got 0"),
    (lambda: fisher_times(Path.linear(), spectrum(2, 3), 0), ValueError, "steps"),
]


@pytest.mark.parametrize(("make", "error", "says"), REFUSALS, ids=[str(k) for k in range(len(REFUSALS))])
def test_what_cannot_be_is_refused(make, error, says):
    with pytest.raises(error, match=says):
        make()
