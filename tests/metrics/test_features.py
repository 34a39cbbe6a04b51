"""The shipped digit classifier, its features, and the Gaussian baseline they must see through."""
from __future__ import annotations

import math

import pytest
import torch
from safetensors import safe_open

from rheos.core import Draws
from rheos.data import load
from rheos.metrics import digit_features, frechet, gaussian_fit
from rheos.metrics.features import WEIGHTS


@pytest.fixture(scope="module")
def data():
    return load("digits")


def test_it_knows_digits_it_has_not_seen(data):
    right = int((digit_features().classify(data.held_out.x).argmax(1) == data.held_out.y).sum())
    assert right >= 0.95 * len(data.held_out)
    with safe_open(WEIGHTS, "pt") as file:
        assert abs(right - int(file.metadata()["held_out_right"])) <= 1         # as when it was learned, but for one image on the edge


def test_features_are_bounded_and_every_one_varies(data):
    values = digit_features()(data.held_out.x)
    assert values.abs().max().item() <= 1
    spread = torch.linalg.eigvalsh(torch.cov(values.double().mT))
    assert spread[0].item() > 1e-4 * spread[-1].item()          # a covariance of 885 rows that Fréchet can trust


def test_the_input_is_clamped_and_its_dtype_kept(data, seed):
    x = data.x[:40] + Draws(seed).rows("noise", 0, (40, 1, 8, 8))
    f = digit_features()
    assert torch.equal(f(x), f(x.clamp(-1, 1))) and not torch.equal(f(x), f(0.5 * x))
    torch.testing.assert_close(f(x.double()), f(x).double(), rtol=0, atol=1e-6)
    assert f(x.double()).dtype == torch.float64 and f.classify(x.double()).dtype == torch.float64


def test_a_row_does_not_depend_on_its_batch(data):
    f = digit_features()
    torch.testing.assert_close(f(data.x[:50])[17:19], f(data.x[17:19]), rtol=0, atol=1e-5)


def test_frechet_sees_that_real_digits_are_real_and_gaussian_ones_are_not(data, seed):
    f, truth = digit_features(), data.held_out.x
    real = frechet(data.x, truth, features=f).item()
    fitted = frechet(gaussian_fit(data.x, len(truth), seed=seed), truth, features=f).item()
    assert fitted > 10 * real


def test_frechet_grows_with_noise_and_with_a_missing_class(data, seed):
    f, truth = digit_features(), data.held_out.x
    noise = Draws(seed).rows("noise", 0, tuple(data.x.shape))
    values = [frechet(data.x + level * noise, truth, features=f).item() for level in (0.0, 0.25, 0.5, 1.0)]
    assert values == sorted(values) and values[-1] > 10 * values[0]
    assert frechet(data.x[data.y != 4], truth, features=f).item() > 2 * values[0]


def test_the_gaussian_baseline_has_the_datas_moments(data, seed):
    n = 20_000
    x = data.x.flatten(1).double()
    mean, covariance = x.mean(0), torch.cov(x.mT, correction=0)
    drawn = gaussian_fit(data.x, n, seed=seed).flatten(1).double()
    variance = covariance.diagonal()
    assert bool(((drawn.mean(0) - mean).abs() <= 5 * (variance / n).sqrt() + 1e-6).all())
    error = ((torch.outer(variance, variance) + covariance.square()) / n).sqrt()
    assert bool(((torch.cov(drawn.mT) - covariance).abs() <= 6 * error + 1e-6).all())        # 6: the worst of 2,080 entries


def test_the_gaussian_baseline_is_clamped_where_asked(data, seed):
    free, clamped = gaussian_fit(data.x, 30, seed=seed), gaussian_fit(data.x, 30, seed=seed, bounds=(-1.0, 1.0))
    assert torch.equal(clamped, free.clamp(-1, 1)) and free.abs().max().item() > 1 and free.dtype == torch.float32
    assert not torch.equal(free, gaussian_fit(data.x, 30, seed=seed + 1))
    assert math.isfinite(gaussian_fit(data.x.double(), 1, seed=seed).sum().item())
