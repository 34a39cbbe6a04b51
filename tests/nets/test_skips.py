"""Scaled joins of a U-Net: which factor goes where, that it has an effect in every group of the norm, and that all else stays to the bit."""
import json
import math

import pytest
import torch

import rheos
from rheos.core import Draws
from rheos.models import Model, Standardise
from rheos.nets import ConstantSkip, LearnedSkip, Skip, UNet, skip_from_json
from rheos.paths import Field, Path

RULES = [ConstantSkip(0.6), ConstantSkip.uniform(0.8), LearnedSkip(bins=3), LearnedSkip(shared=False, reduction=2, begin=0.7)]


def stirred(net, seed, size=0.1):
    """No layer at its start of zeros, where half of a U-Net says nothing."""
    with torch.no_grad():
        for name, value in net.named_parameters():
            value += size * Draws(seed).rows(name, 0, value.shape)
    return net.eval()


def made(seed, skip=None, event=(3, 8, 12), stir=0.1, **settings):
    settings = {"widths": (8, 12), "depth": 2, "classes": 3, **settings}
    with Draws(seed).scope(0):
        net = UNet(event, skip=skip, **settings)
    return stirred(net, seed, stir)


def asked(seed, event=(3, 8, 12)):
    return Draws(seed).rows("x", 0, (4, *event)), torch.tensor([0.1, 0.7, 0.35, 0.9]), torch.tensor([2, -1, 0, 1])


def by_hand(net, x, t, cond, factors):
    """The way up with each kept feature weighed by its factor, as the equation says: outermost first, every layer of a block reading it so.

    Every block normalises what was joined, as without factors, and its two layers read factor times what they would have read of the kept half.
    """
    features, told = net.encode(x, t, cond), net._told(t, cond)
    h, kept, factors = features.bottom, list(features.kept), list(factors)
    for level, blocks in enumerate(net.up):
        for block in blocks:
            left, factor = kept.pop(), factors.pop()
            count = h.shape[1]
            joined = torch.nn.functional.silu(block.first(torch.cat([h, left], 1)))
            convolve = torch.nn.functional.conv2d
            read = convolve(joined[:, :count], block.widen.weight[:, :count], padding=1) + factor * convolve(
                joined[:, count:], block.widen.weight[:, count:], padding=1) + block.widen.bias[:, None, None]
            scale, shift = block.modulate(told)[:, :, None, None].chunk(2, 1)
            inner = block.settle(torch.nn.functional.silu(shift + block.second(read) * (1 + scale)))
            h = inner + convolve(h, block.match.weight[:, :count]) + factor * convolve(left, block.match.weight[:, count:]) + block.match.bias[:, None, None]
        if level < len(net.higher):
            h = torch.nn.functional.interpolate(net.higher[level](h), scale_factor=2.0, mode="nearest")
    out = rheos.nets.unfold(net.leave(torch.nn.functional.silu(net.norm(h))), net.patch)
    return out + net.skip(told)[:, 0, None, None, None] * x


# -- which factor goes where ---------------------------------------------------------------------------------------------------------

def test_powers_rise_towards_the_middle():
    assert ConstantSkip(0.5).factors(4) == (1.0, 0.5, 0.25, 0.125)
    assert ConstantSkip.uniform().factors(3) == pytest.approx((math.sqrt(0.5),) * 3)


@pytest.mark.parametrize("rule", [ConstantSkip(0.6), ConstantSkip.uniform(0.8)], ids=["powers", "uniform"])
def test_against_the_way_up_by_hand(rule, seed):
    net, (x, t, cond) = made(seed, rule), asked(seed)
    torch.testing.assert_close(net(x, t, cond), by_hand(net, x, t, cond, rule.factors(4)), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(net(x, t, cond), by_hand(net, x, t, cond, rule.factors(4)[::-1] if rule.falling else (1.0,) * 4), atol=1e-3)


def test_learned_factors_by_hand(seed):
    """Shared: the mean over the grid of each third of the channels, one small network, and its answers for each third; per sample."""
    net = made(seed, LearnedSkip(bins=3), stir=0.3)
    kept = Draws(seed).rows("kept", 0, (4, 12, 5, 3))
    first, _, second = net.joins.calibrate[0]
    pooled = kept.reshape(4, 3, 4 * 15).mean(2)
    known = torch.sigmoid(torch.relu(pooled @ first.weight.T + first.bias) @ second.weight.T + second.bias).repeat_interleave(4, 1)
    for place in range(4):
        torch.testing.assert_close(net.joins(kept, place), known, rtol=1e-4, atol=1e-6)
    assert float(known.std(0).max()) > 1e-4
    own = made(seed, LearnedSkip(shared=False), stir=0.3)
    kept = kept[:, :8]
    answers = [own.joins(kept, place) for place in (0, 1)]
    mean = kept.mean((2, 3))
    torch.testing.assert_close(answers[1], torch.sigmoid(own.joins.calibrate[1](mean)), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(*answers, atol=1e-3)


@pytest.mark.parametrize("rule", RULES[2:], ids=["shared", "own"])
def test_learned_factors_begin_where_they_are_told_and_learn(rule, seed):
    with Draws(seed).scope(0):
        net = UNet((3, 8, 12), widths=(8, 12), depth=2, skip=rule)
    kept = Draws(seed).rows("kept", 0, (4, 8, 4, 6))
    torch.testing.assert_close(net.joins(kept, 0), torch.full((4, 8), rule.begin))
    stirred(net, seed)
    (x, t, _) = asked(seed)
    net(x, t).square().mean().backward()
    assert all(float(p.grad.abs().max()) > 0 for p in net.joins.parameters() if p.ndim == 2)


@pytest.mark.parametrize(("event", "layout"), [((9, 7, 2), "last"), ((2, 10), "first"), ((6, 5, 4), "none"), ((1, 4, 6, 5), "first")], ids=str)
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_every_layout_and_number_of_axes(event, layout, rule, seed):
    """kappa = 1, however it is said, is the plain network; another one is not."""
    net, plain = (made(seed, skip, event, layout=layout) for skip in (rule, None))
    same = made(seed, ConstantSkip.uniform(1.0), event, layout=layout)
    x, t, cond = asked(seed, event)
    assert torch.equal(same(x, t, cond), plain(x, t, cond))
    assert net(x, t, cond).shape == x.shape and not torch.allclose(net(x, t, cond), plain(x, t, cond), atol=1e-4)


# -- the norm does not undo it -------------------------------------------------------------------------------------------------------

def test_a_factor_works_where_groups_hold_kept_channels_only(seed):
    """Widths of 16: of two groups of 16 one is all kept. Multiplied before the norm a factor would be divided out again, but for the short way."""
    net = made(seed, ConstantSkip.uniform(0.5), (3, 8, 12), widths=(16, 16))
    block = net.up[0][0]
    assert block.first.num_groups == 2 and block.first.num_channels == 32
    h, left, told = (Draws(seed).rows(name, 0, shape) for name, shape in (("h", (2, 16, 2, 3)), ("left", (2, 16, 2, 3)), ("told", (2, 64))))
    with torch.no_grad():
        block.match.weight.zero_()          # no short way
        joined = lambda factor: torch.cat([h, factor * left], 1)
        before = [block(joined(factor), told) for factor in (1.0, 0.5)]
        behind = [block(joined(1.0), told, torch.full((1, 16), factor)) for factor in (1.0, 0.5)]
    moved = lambda pair: float((pair[1] - pair[0]).norm() / pair[0].norm())
    assert moved(before) < 1e-4 and moved(behind) > 1e-2
    torch.testing.assert_close(before[0], behind[0])


def test_smaller_factors_carry_less_of_a_disturbance(seed):
    """The paper's bound, on a network at its beginning: its answer is zero there, so at what the last block on the way up gives."""
    x, d = Draws(seed).rows("x", 0, (8, 3, 16, 16)), 0.01 * Draws(seed).rows("d", 0, (8, 3, 16, 16))
    gains = []
    for rule in (ConstantSkip.uniform(0.2), ConstantSkip.uniform(0.6), None):
        with Draws(seed).scope(0):
            net = UNet((3, 16, 16), widths=(16, 16, 16), skip=rule)
        seen, t = [], torch.full((8,), 0.5)
        net.up[-1][-1].register_forward_hook(lambda _, __, h, seen=seen: seen.append(h.detach()))
        assert torch.equal(net(x, t), torch.zeros_like(x))
        net(x + d, t)
        gains.append(float((seen[1] - seen[0]).norm() / d.norm()))
    assert gains[0] < 0.9 * gains[1] and gains[1] < 0.9 * gains[2]


# -- what stays ----------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("rule", RULES, ids=str)
def test_all_other_weights_begin_as_without(rule, seed):
    plain, net = (made(seed, skip, stir=0.0).state_dict() for skip in (None, rule))
    assert all(torch.equal(net[name], value) for name, value in plain.items())
    extra = net.keys() - plain.keys()
    assert all(name.startswith("joins.") for name in extra) and bool(extra) == isinstance(rule, LearnedSkip)


def test_a_plain_network_says_nothing_of_skips(seed):
    net = made(seed)
    assert "skip" not in net.settings and net.joins is None and not any(name.startswith("joins") for name in net.state_dict())


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_both_halves_are_the_whole_and_features_can_be_repeated(rule, seed):
    net, (x, t, cond) = made(seed, rule), asked(seed)
    features, whole = net.encode(x, t, cond), net(x, t, cond)
    assert torch.equal(net.decode(features, x, t, cond), whole)
    later = net.decode(features.times(2), torch.cat([x, x]), torch.cat([t, 0.5 * t]), torch.cat([cond, cond]))
    torch.testing.assert_close(later, torch.cat([whole, net.decode(features, x, 0.5 * t, cond)]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_settings_build_the_same_network_again(rule, seed, tmp_path):
    net, (x, t, _) = made(seed, rule), asked(seed)
    settings = json.loads(json.dumps(net.settings))
    assert skip_from_json(settings["skip"]) == rule
    again = UNet(**settings)
    again.load_state_dict(net.state_dict())
    assert torch.equal(again.eval()(x, t), net(x, t))
    folder = Model(Field(net, Path.linear()), Standardise(torch.zeros(()), torch.ones(()), None), (3, 8, 12),
                   conditions=rheos.models.Conditions(3)).save(tmp_path / "model")
    loaded = rheos.load(folder).field.net
    assert torch.equal(loaded(x, t), net(x, t)) and loaded.settings == net.settings


def test_float64_and_own_rules(seed):
    class Own:
        """Half of everything."""

        def scaling(self, widths):
            return ConstantSkip.uniform(0.5).scaling(widths)

        def to_json(self):
            return {"class": "Own"}

    assert isinstance(Own(), Skip)
    x, t, cond = asked(seed)
    assert torch.equal(made(seed, Own())(x, t, cond), made(seed, ConstantSkip.uniform(0.5))(x, t, cond))
    net = made(seed, LearnedSkip()).double()
    assert net(x.double(), t.double(), cond).dtype == torch.float64


# -- refusals ------------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("make", "error", "says"), [
    (lambda: ConstantSkip(0.0), ValueError, r"kappa must lie in \(0, 1\], got 0.0"),
    (lambda: ConstantSkip(-0.5), ValueError, r"kappa must lie in \(0, 1\], got -0.5"),
    (lambda: ConstantSkip(1.01), ValueError, r"kappa must lie in \(0, 1\], got 1.01"),
    (lambda: ConstantSkip(math.nan), ValueError, r"kappa must lie in \(0, 1\], got nan"),
    (lambda: ConstantSkip.uniform(2.0), ValueError, r"kappa must lie in \(0, 1\], got 2.0"),
    (lambda: LearnedSkip(bins=0), ValueError, "bins must be at least 1, got 0"),
    (lambda: LearnedSkip(reduction=0), ValueError, "reduction must be at least 1, got 0"),
    (lambda: LearnedSkip(begin=1.0), ValueError, r"begin must lie in \(0, 1\), got 1.0"),
    (lambda: UNet((1, 8, 8), widths=(4, 8), skip=LearnedSkip(bins=5)), ValueError, "bins must be at most 4, the least width of a join, got 5"),
    (lambda: UNet((1, 8, 8), skip=0.7), TypeError, "skip"),
    (lambda: UNet((1, 8, 8), skip=type("NoJson", (), {"scaling": lambda self, widths: None})()), TypeError, "skip"),
    (lambda: UNet((1, 8, 8), skip={"class": "ConstantSkip", "kappa": 3.0}), ValueError, r"kappa must lie in \(0, 1\], got 3.0"),
    (lambda: skip_from_json({"class": "Linear"}), ValueError, "skip must be one of ConstantSkip, LearnedSkip, got 'Linear'"),
    (lambda: skip_from_json({"kappa": 0.7}), ValueError, "skip must be described by its class and settings"),
    (lambda: skip_from_json({"class": "ConstantSkip", "power": 2}), ValueError, "skip cannot be built from"),
    (lambda: skip_from_json({"class": "ConstantSkip", "kappa": "much"}), ValueError, "skip cannot be built from"),
])
def test_refusals(make, error, says):
    with pytest.raises(error, match=says):
        make()
