"""The power spectrum against a dense Fourier transform, Parseval and spectra that are known."""
import math

import numpy as np
import pytest
import torch

from rheos.core import Draws
from rheos.metrics import power_spectrum

F64 = torch.float64


def normals(name, *shape, scale=1.0):
    return scale * Draws(7).rows(name, 0, shape, dtype=F64)


@pytest.mark.parametrize("shape", [(6, 3, 5), (6, 2, 4, 3), (3, 1, 1, 7)], ids=str)
def test_equals_a_transform_by_matrices(shape):
    """Columns of exp(-2 pi i jk / n) / sqrt(n), no FFT."""
    x = normals("x", *shape) + normals("mean", *shape[1:], scale=3.0)
    one = lambda n: np.exp(-2j * np.pi * np.outer(np.arange(n), np.arange(n)) / n) / math.sqrt(n)
    rest = (x - x.mean(0)).numpy().reshape(-1, *shape[-2:])
    turned = np.einsum("ij,njk,kl->nil", one(shape[-2]), rest, one(shape[-1]))
    found = power_spectrum(x)
    assert found.dtype == F64 and found.shape == shape[-2:]
    np.testing.assert_allclose(found.numpy(), (np.abs(turned) ** 2).mean(0), rtol=1e-10)


def test_the_mean_power_is_the_variance_of_a_pixel():
    x = normals("x", 9, 2, 6, 5, scale=1.7) + 4
    for smooth in (False, True):
        assert float(power_spectrum(x, smooth=smooth).mean()) == pytest.approx(float(x.var(0, correction=0).mean()), rel=1e-12)
    assert torch.allclose(power_spectrum(3 * x), 9 * power_spectrum(x)) and torch.allclose(power_spectrum(x - 100), power_spectrum(x), rtol=1e-9)


def test_a_wave_has_its_power_at_its_frequency(seed):
    """A cosine of 2 cycles down and 1 across, of random phase, on faint white noise."""
    rows, columns = torch.arange(8, dtype=F64)[:, None] / 8, torch.arange(6, dtype=F64) / 6
    phase = 2 * math.pi * Draws(seed).uniform("phase", 0, (4000, 1, 1, 1), dtype=F64)
    x = 3 * torch.cos(2 * math.pi * (2 * rows + columns) + phase) + 0.1 * Draws(seed).rows("noise", 0, (4000, 1, 8, 6), dtype=F64)
    found = power_spectrum(x)
    # 3^2 / 4 of the amplitude at each of two opposite frequencies, over 48 pixels in the orthonormal transform.
    assert float(found[2, 1]) == pytest.approx(48 * 9 / 4, rel=0.05) and float(found[6, 5]) == pytest.approx(float(found[2, 1]), rel=1e-9)
    found[2, 1] = found[6, 5] = 0.01
    assert float(found.max()) < 0.02 and float((found / 0.01 - 1).abs().max()) < 6 / math.sqrt(4000)


def test_of_real_images_opposite_frequencies_have_one_power():
    found = power_spectrum(normals("x", 5, 1, 5, 4))
    torch.testing.assert_close(found, torch.roll(found.flip(0, 1), (1, 1), (0, 1)), rtol=1e-10, atol=0)


def test_smoothed_over_rings():
    """Frequencies of about one length share one power, the mean over their ring: by a loop."""
    x = normals("x", 40, 1, 6, 9) + torch.cumsum(normals("y", 40, 1, 6, 9), -1)
    plain, smooth = power_spectrum(x), power_spectrum(x, smooth=True)
    rings = {}
    for i in range(6):
        for j in range(9):
            length = math.hypot(min(i, 6 - i) / 6, min(j, 9 - j) / 9)
            rings.setdefault(round(6 * length), []).append((i, j))
    for places in rings.values():
        mean = sum(float(plain[p]) for p in places) / len(places)
        for p in places:
            assert float(smooth[p]) == pytest.approx(mean, rel=1e-9)
    assert len(rings) > 2 and not torch.allclose(plain, smooth)


def test_single_precision_in_double_out():
    x = normals("x", 6, 4, 4)
    assert power_spectrum(x.float()).dtype == F64
    torch.testing.assert_close(power_spectrum(x.float()), power_spectrum(x), rtol=1e-5, atol=1e-6)


FLAT = torch.ones(4, 1, 3, 3)
REFUSALS = [
    (lambda: power_spectrum(normals("x", 1, 3, 3)), ValueError, r"x must hold two images or more, .*got shape \(1, 3, 3\)"),
    (lambda: power_spectrum(normals("x", 4, 3)), ValueError, r"x must hold two images or more, .*got shape \(4, 3\)"),
    (lambda: power_spectrum(FLAT), ValueError, r"x must vary at every frequency, got no power at \(0, 0\); add a little noise"),
    (lambda: power_spectrum(normals("x", 4, 1, 1, 1).expand(4, 1, 3, 3)), ValueError, r"x must vary at every frequency, got no power at"),
    (lambda: power_spectrum(torch.tensor([[[1.0, math.nan]], [[0.0, 1.0]]])), ValueError, "x must"),
    (lambda: power_spectrum(torch.ones(4, 3, 3, dtype=torch.int64)), TypeError, "x"),
    (lambda: power_spectrum(torch.ones(2, 0, 3)), ValueError, "x must hold two images"),
]


@pytest.mark.parametrize(("make", "error", "says"), REFUSALS, ids=[str(k) for k in range(len(REFUSALS))])
def test_what_cannot_be_is_refused(make, error, says):
    with pytest.raises(error, match=says):
        make()
