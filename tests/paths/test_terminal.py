"""The gap between training and sampling at a path's start, schedules that end without data, and refusals."""
import math

import pytest
import torch
from diffusers import DDIMScheduler
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr

from rheos.core import Draws
from rheos.paths import Fourier2d, Offset, Path, Student, scaled_linear, terminal_gap, zero_terminal_snr

F64 = torch.float64
SD = Path.from_betas(scaled_linear())
X = 0.5 * Draws(3).rows("x", 0, (50, 1, 3, 4), dtype=F64) * torch.linspace(0.5, 2, 12, dtype=F64).reshape(1, 3, 4) + 0.3


# -- the gap ---------------------------------------------------------------------------------------------------------------------------------------

def test_stable_diffusion_ends_with_a_fifteenth_of_the_data():
    """sqrt of 0.00466, as the papers state it."""
    gap = terminal_gap(SD, X)
    assert abs(gap.alpha - 0.0683) < 5e-5 and abs(gap.alpha**2 + gap.sigma**2 - 1) < 1e-12


def test_against_torch_distributions_and_draws(seed):
    """The divergence of the fitted Gaussians by torch, the brightness by brute force through the path."""
    gap, flat = terminal_gap(Path.vp(0.1, 3.0), X), X.flatten(1)
    path, covariance = Path.vp(0.1, 3.0), torch.cov(flat.T, correction=0)
    at = path.coefficients(0.0)
    eye = torch.eye(12, dtype=F64)
    trained = torch.distributions.MultivariateNormal(at.b * flat.mean(0), at.b**2 * covariance + at.c**2 * eye)
    begun = torch.distributions.MultivariateNormal(torch.zeros(12, dtype=F64), at.c**2 * eye)
    assert abs(gap.divergence / float(torch.distributions.kl_divergence(trained, begun)) - 1) < 1e-9
    many = X[Draws(seed).integers("rows", 0, (40_000,), 50)]
    grey = path.sample(many, torch.zeros(40_000, dtype=F64), seed=seed).x.flatten(1).mean(1)
    pure = float(at.c) / math.sqrt(12)
    spread = float(grey.std()) / pure
    assert abs(float(grey.mean()) / pure - gap.brightness) < 5 * spread / 200 and abs(spread / gap.spread - 1) < 5 / math.sqrt(80_000)


def test_more_coordinates_than_rows():
    """The spectrum of the smaller Gram matrix is that of the larger one."""
    few, path = X[:5], Path.vp(0.1, 3.0)
    assert abs(terminal_gap(path, few).divergence / terminal_gap(path, few.repeat(4, 1, 1, 1)).divergence - 1) < 1e-10


def test_nothing_is_left_where_alpha_is_0():
    gap = terminal_gap(Path.cosine(), X)
    assert gap[2:] == (0.0, 0.0, 1.0, 0.0)


def test_a_later_first_step_leaves_more():
    leading = SD.schedule.time_of(981)             # the first step of 50 "leading" ones of diffusers
    gap = terminal_gap(SD, X, at=float(leading))
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1)
    scheduler.set_timesteps(50)
    step = int(scheduler.timesteps[0])
    assert step == 981 and abs(gap.alpha - float(scheduler.alphas_cumprod[step].sqrt())) < 1e-5
    assert gap.divergence > terminal_gap(SD, X).divergence


# -- schedules -------------------------------------------------------------------------------------------------------------------------------------

def test_the_betas_of_stable_diffusion():
    theirs = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear").betas
    torch.testing.assert_close(scaled_linear().float(), theirs, atol=1e-8, rtol=1e-5)


@pytest.mark.parametrize("betas", [scaled_linear(), torch.linspace(1e-4, 0.02, 1000, dtype=F64), torch.tensor([0.3, 0.01, 0.5, 0.2], dtype=F64)],
                         ids=["scaled linear", "linear", "uneven"])
def test_the_rescaling_of_diffusers(betas):
    """diffusers 0.42, its function called in float64."""
    found = zero_terminal_snr(betas)
    torch.testing.assert_close(found, rescale_zero_terminal_snr(betas), atol=1e-12, rtol=1e-9)
    assert found[-1] == 1 and abs(float(found[0] - betas[0])) < 1e-12


def test_the_scheduler_of_diffusers():
    theirs = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", rescale_betas_zero_snr=True).betas
    torch.testing.assert_close(zero_terminal_snr(scaled_linear()).float(), theirs, atol=1e-5, rtol=1e-4)      # theirs are made in float32


def test_a_path_begins_without_data_and_ends_where_it_did():
    path = zero_terminal_snr(Path.from_betas(scaled_linear(), noise=Student(5.0)))
    assert float(path.coefficients(0.0).b) == pytest.approx(2.0**-12, rel=1e-9) and path.noise == Student(5.0)
    ends = [float(p.coefficients(1.0).b) for p in (path, SD)]
    assert abs(ends[0] - ends[1]) < 1e-12
    # Between, alpha is moved and scaled alike at every step of the schedule.
    t = SD.schedule.time_of(torch.arange(5, 995, dtype=F64))
    alpha, low, high = (SD.coefficients(s).b for s in (t, torch.tensor(0.0), torch.tensor(1.0)))
    torch.testing.assert_close(path.coefficients(t).b, (alpha - low) * high / (high - low), atol=1e-10, rtol=1e-8)


def test_a_rescaled_path_has_no_gap():
    assert terminal_gap(zero_terminal_snr(SD), X).divergence < 1e-4 * terminal_gap(SD, X).divergence



@pytest.mark.parametrize(("call", "error", "told"), [
    (lambda: scaled_linear(1), ValueError, "steps must be at least 2"),
    (lambda: scaled_linear(10, 0.0), ValueError, "first must lie in"),
    (lambda: scaled_linear(10, 0.1, 1.0), ValueError, "last must lie in"),
    (lambda: terminal_gap(SD.schedule, X), TypeError, "path"),
    (lambda: terminal_gap(Path.interpolant(), X), ValueError, "one-sided path with Gaussian noise"),
    (lambda: terminal_gap(Path.linear(noise=Offset()), X), ValueError, "Gaussian noise"),
    (lambda: terminal_gap(SD, X[:1]), ValueError, r"at least 2 rows, got \(1, 1, 3, 4\)"),
    (lambda: terminal_gap(SD, X[:, 0, 0, 0]), ValueError, r"shape \(rows, \*event\)"),
    (lambda: terminal_gap(SD, X.tolist()), TypeError, "data"),
    (lambda: terminal_gap(SD, X.long()), TypeError, "data"),
    (lambda: terminal_gap(SD, X.to(torch.complex128)), TypeError, "data"),
    (lambda: zero_terminal_snr(torch.tensor([0, 0, 0])), TypeError, "schedule must hold real floating-point betas, got torch.int64"),
    (lambda: zero_terminal_snr("linear"), TypeError, "schedule"),
    (lambda: zero_terminal_snr(None), TypeError, "schedule"),
    (lambda: terminal_gap(SD, X / 0), ValueError, "data must be finite"),
    (lambda: terminal_gap(SD, X, at=1.5), ValueError, "at must lie in"),
    (lambda: terminal_gap(Path.linear(), X, at=1.0), ValueError, "at must be a time with noise, got 1.0"),
    (lambda: zero_terminal_snr(Path.linear()), ValueError, "schedule must be betas, or a path made of them"),
    (lambda: zero_terminal_snr([0.1]), ValueError, "at least 2 betas"),
    (lambda: zero_terminal_snr(torch.full((2, 2), 0.1)), ValueError, "at least 2 betas"),
    (lambda: zero_terminal_snr([0.1, -0.2]), ValueError, r"betas in \[0, 1\), got -0.2 at step 1"),
    (lambda: zero_terminal_snr([0.1, math.nan]), ValueError, "got nan at step 1"),
    (lambda: zero_terminal_snr([0.1, 1.0]), ValueError, "got 1 at step 1: nothing to repair"),
    (lambda: zero_terminal_snr(zero_terminal_snr(SD)), ValueError, "schedule must end with some data left"),
    (lambda: zero_terminal_snr([0.0, 0.0, 0.0]), ValueError, "less than it begins with"),
])
def test_refusals(call, error, told):
    with pytest.raises(error, match=told):
        call()


def test_a_basis_with_one_coefficient_is_welcome():
    path = Path(SD.schedule, basis=Fourier2d())
    assert terminal_gap(path, X).alpha == terminal_gap(SD, X).alpha and zero_terminal_snr(path).basis == path.basis

