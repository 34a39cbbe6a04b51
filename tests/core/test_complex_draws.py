"""Complex normal numbers: of unit variance in all, circular, and without memory."""
import math

import pytest
import torch
from scipy import stats

from rheos.core import Draws

N = 20_000


def numbers(seed, dtype, columns=3, **kinds):
    return Draws(seed).rows("z", 5, (N, columns), dtype=dtype, **kinds).to(torch.complex128)


def check_mean(values, expected, sd):
    """Each column's mean within five standard errors, sd / sqrt(n)."""
    assert bool(((values.mean(0) - expected).abs() < 5 * sd / math.sqrt(N)).all()), (values.mean(0), expected)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_the_moments_of_a_circular_normal(dtype, seed):
    """E |z|^2 = 1, E z^2 = 0, E z = 0, E |z|^4 = 2: |z|^2 is exponential, with standard deviation 1, and |z|^4 has variance 4! - 2^2 = 20."""
    z = numbers(seed, dtype)
    power = z.abs().square()
    check_mean(power, 1.0, 1.0)
    check_mean(power.square(), 2.0, math.sqrt(20))
    check_mean((z * z).real, 0.0, 1.0)          # E |z^2|^2 = 2, evenly on both parts
    check_mean((z * z).imag, 0.0, 1.0)
    check_mean(z.real, 0.0, math.sqrt(0.5))
    check_mean(z.imag, 0.0, math.sqrt(0.5))


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_both_parts_have_half_of_the_variance_each(dtype, seed):
    """The square of a normal number of variance 1/2 has variance 2 / 4."""
    z = numbers(seed, dtype)
    check_mean(z.real.square(), 0.5, math.sqrt(0.5))
    check_mean(z.imag.square(), 0.5, math.sqrt(0.5))


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_radius_and_angle_have_their_laws(dtype, seed):
    """|z|^2 is exponential and the angle uniform; p-values below 1e-6 come once in a million runs."""
    z = numbers(seed, dtype, 1)[:, 0]
    assert stats.kstest(z.abs().square().numpy(), "expon").pvalue > 1e-6
    assert stats.kstest((z.angle() / (2 * math.pi) + 0.5).numpy(), "uniform").pvalue > 1e-6


def test_columns_rows_and_steps_are_not_correlated(seed):
    """E z conj(w) = 0 and E z w = 0 for different numbers: both products have variance 1, half of it in each part."""
    z = numbers(seed, torch.complex128)
    other_step = Draws(seed).rows("z", 6, (N, 3), dtype=torch.complex128)
    for w in (z.roll(1, 1), z.roll(1, 0), other_step):
        for product in (z * w.conj(), z * w):
            check_mean(product.real, 0.0, math.sqrt(0.5))
            check_mean(product.imag, 0.0, math.sqrt(0.5))


def test_both_precisions_split_alike(seed):
    """Rows are the same however they are split and drawn ahead, real parts not being mistaken for rows of their own."""
    for dtype in (torch.complex64, torch.complex128):
        draws, whole = Draws(seed), numbers(seed, dtype)
        assert torch.equal(Draws(seed).rows("z", 5, (7, 3), first=40, dtype=dtype).to(torch.complex128), whole[40:47])
        assert torch.equal(draws.rows("z", 5, (50, 3), dtype=dtype, ahead=True).to(torch.complex128), whole[:50])
