"""The halves of a U-Net: together they are the whole, features are left as they are, x is seen by the second half in one sum only."""
import pytest
import torch

from rheos.core import Draws
from rheos.nets import UNet

EVENTS = [((3, 8, 12), "first"), ((9, 7, 2), "last"), ((2, 10), "first"), ((6, 5, 4), "none")]


def stirred(net, seed):
    """No layer at its start of zeros, where half of a U-Net says nothing."""
    with torch.no_grad():
        for name, value in net.named_parameters():
            value += 0.1 * Draws(seed).rows(name, 0, value.shape)
    return net.eval()


def made(event, layout, seed, **settings):
    with Draws(seed).scope(0):
        net = UNet(event, layout=layout, widths=(8, 12), depth=2, **settings)
    rows = lambda name: Draws(seed).rows(name, 0, (4, *event))
    return stirred(net, seed), rows("x"), rows("y"), torch.tensor([0.1, 0.7, 0.35, 0.9]), torch.tensor([2, -1, 0, 1])


@pytest.mark.parametrize(("event", "layout"), EVENTS, ids=str)
@pytest.mark.parametrize("settings", [{"classes": 3}, {"classes": 3, "heads": 2, "attention": (1,)}], ids=["plain", "two heads and attention"])
def test_both_halves_are_the_whole_to_the_bit(event, layout, settings, seed):
    net, x, _, t, cond = made(event, layout, seed, **settings)
    whole, halves = net(x, t, cond), net.decode(net.encode(x, t, cond), x, t, cond)
    for a, b in zip(whole, halves, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(("event", "layout"), EVENTS, ids=str)
def test_the_second_half_sees_x_in_one_sum_only(event, layout, seed):
    net, x, y, t, cond = made(event, layout, seed, classes=3, heads=2)
    features, leaning = net.encode(y, t, cond), net.leaning(t, cond)
    for head, (seen, unseen) in enumerate(zip(net.decode(features, x, t, cond), net.decode(features, torch.zeros_like(x), t, cond), strict=True)):
        torch.testing.assert_close(seen, unseen + leaning[:, head].reshape(-1, *(1,) * (x.ndim - 1)) * x, rtol=1e-5, atol=1e-6)
        assert float(leaning[:, head].abs().max()) > 1e-2 and not torch.allclose(seen, unseen, atol=1e-3)


def test_the_second_half_is_told_its_own_time_and_condition(seed):
    net, x, y, t, cond = made((3, 8, 12), "first", seed, classes=3)
    features = net.encode(y, t, cond)
    first = net.decode(features, x, t, cond)
    for other in (net.decode(features, x, t + 0.05, cond), net.decode(features, x, t, cond.flip(0))):
        assert float((other - first).abs().max()) > 1e-3
    # Row by row: features of row 2 with the time of row 2.
    one = net.decode(net.encode(y[2:3], t[2:3], cond[2:3]), x[2:3], t[2:3], cond[2:3])
    torch.testing.assert_close(one, first[2:3], rtol=1e-4, atol=1e-5)


def test_features_stay_as_they_are_and_can_be_repeated(seed):
    net, x, _, t, cond = made((3, 8, 12), "first", seed, classes=3)
    features = net.encode(x, t, cond)
    kept = [h.clone() for h in (features.bottom, *features.kept)]
    first, second = net.decode(features, x, t, cond), net.decode(features, x, t, cond)
    assert torch.equal(first, second) and all(map(torch.equal, kept, (features.bottom, *features.kept)))
    later = torch.cat([t, t * 0.5])
    both = net.decode(features.times(2), torch.cat([x, 2 * x]), later, torch.cat([cond, cond]))
    torch.testing.assert_close(both, torch.cat([first, net.decode(features, 2 * x, 0.5 * t, cond)]), rtol=1e-4, atol=1e-5)


def test_refusals(seed):
    net, x, _, t, cond = made((3, 8, 12), "first", seed, classes=3)
    with pytest.raises(ValueError, match=r"x must have event shape \(3, 8, 12\), got \(3, 8, 11\)"):
        net.encode(x[..., :-1], t, cond)
    with pytest.raises(ValueError, match=r"x must have event shape \(3, 8, 12\)"):
        net.decode(net.encode(x, t, cond), x[:, :2], t, cond)
    with pytest.raises(ValueError, match="features must have 4 rows as x has, got 3"):
        net.decode(net.encode(x[:3], t[:3], cond[:3]), x, t, cond)
