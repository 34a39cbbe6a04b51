"""U-Net and transformer: space to depth against brute force, layouts, conditions, invariances, the choice of a backbone, refusals."""
from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn

from rheos.core import Draws, evolve
from rheos.couplings import Independent
from rheos.nets import DiT, ResidualMLP, SelfAttention, UNet, fold, net_for, unfold, without_condition
from rheos.nets.attention import positions
from rheos.nets.layouts import channels_first, first_event, guess_layout, restored
from rheos.objectives import Matching
from rheos.paths import Path
from rheos.training import Descent

EVENTS = {"series": (2, 24), "image": (3, 12, 20), "volume": (1, 8, 4, 12)}


def stirred(net: nn.Module, seed: int = 0) -> nn.Module:
    """The network with every parameter moved, so that nothing that begins at zero hides behind it."""
    draws = Draws(seed)
    with torch.no_grad():
        for i, p in enumerate(net.parameters()):
            p += 0.1 * draws.rows(f"stir {i}", 0, tuple(p.shape) or (1,), dtype=p.dtype).reshape(p.shape)
    return net.double().eval()


def inputs(event, seed: int, rows: int = 4):
    draws = Draws(seed)
    return draws.rows("x", 0, (rows, *event), dtype=torch.float64), draws.uniform("t", 0, (rows,), dtype=torch.float64)


@pytest.mark.parametrize("grid", [(6,), (4, 6), (2, 4, 6)])
def test_fold_puts_every_point_where_its_definition_says(grid):
    x, patch = torch.arange(2 * 3 * math.prod(grid)).reshape(2, 3, *grid), 2
    folded = fold(x, patch)
    assert folded.shape == (2, 3 * patch ** len(grid), *(n // patch for n in grid))
    for row, channel in itertools.product(range(2), range(3)):
        for place in itertools.product(*map(range, grid)):
            inside = 0
            for n in place:
                inside = inside * patch + n % patch
            assert folded[(row, channel * patch ** len(grid) + inside, *(n // patch for n in place))] == x[(row, channel, *place)]
    assert torch.equal(unfold(folded, patch), x)
    assert fold(x, 1) is x and unfold(x, 1) is x


@pytest.mark.parametrize(("event", "layout"), [((3, 32, 30), "first"), ((32, 30, 3), "last"), ((28, 26), "none"), ((2, 50), "first"), ((50, 2), "last"),
                                               ((1, 8, 9, 10), "first"), ((2, 7), "none"), ((3, 5, 4), "first")])
def test_layouts_are_told_by_the_shape_and_undone(event, layout):
    assert guess_layout(event) == layout
    x = torch.randn(2, *event, generator=torch.Generator().manual_seed(0))
    first = channels_first(x, layout)
    assert tuple(first.shape[1:]) == first_event(event, layout) and torch.equal(restored(first, layout), x)


@pytest.mark.parametrize("kind", EVENTS)
@pytest.mark.parametrize("make", [lambda event, **s: UNet(event, widths=(8, 12), **s), lambda event, **s: DiT(event, width=32, depth=2, **s)],
                         ids=["unet", "dit"])
def test_rows_do_not_know_each_other_and_every_setting_reaches_the_answer(make, kind, seed):
    event = EVENTS[kind]
    net = stirred(make(event, classes=3), seed)
    x, t = inputs(event, seed)
    cond = torch.tensor([0, 2, -1, 1])
    whole = net(x, t, cond)
    assert whole.shape == x.shape
    for row in range(4):
        torch.testing.assert_close(net(x[row : row + 1], t[row : row + 1], cond[row : row + 1])[0], whole[row], rtol=1e-9, atol=1e-9)
    other = {"x": (x + 0.5, t, cond), "time": (x, 1 - t, cond), "class": (x, t, (cond + 2) % 3), "no class": (x, t, without_condition(cond))}
    for name, arguments in other.items():
        assert (net(*arguments) - whole)[:2].abs().flatten(1).max(1).values.min() > 1e-4, name
    torch.testing.assert_close(net(x, t), net(x, t, without_condition(cond)), rtol=0, atol=0)


@pytest.mark.parametrize("make", [UNet, DiT])
def test_the_three_layouts_are_one_network(make, seed):
    small = {"widths": (8, 8)} if make is UNet else {"width": 32, "depth": 1}
    net = stirred(make((1, 8, 12), **small), seed)
    x, t = inputs((1, 8, 12), seed)
    for layout, event, view in (("last", (8, 12, 1), x.movedim(1, -1)), ("none", (8, 12), x[:, 0])):
        other = make(event, layout=layout, **small).double()
        other.load_state_dict(net.state_dict())
        torch.testing.assert_close(channels_first(other.eval()(view, t), layout), net(x, t), rtol=0, atol=1e-12)


def test_a_unet_pads_what_does_not_divide_and_cuts_it_off_again(seed):
    net = stirred(UNet((2, 9, 11), widths=(8, 8), patch=2), seed)
    assert net.padding == [3, 1]
    x, t = inputs((2, 9, 11), seed)
    whole = stirred(UNet((2, 12, 12), widths=(8, 8), patch=2), seed)
    whole.load_state_dict(net.state_dict())
    padded = nn.functional.pad(x, (0, 1, 0, 3))
    torch.testing.assert_close(net(x, t), whole(padded, t)[:, :, :9, :11])


def test_a_fresh_network_answers_zero_and_learns_from_every_parameter():
    for net in (UNet((3, 8, 8), widths=(8, 12), attention=(1,), classes=2), DiT((3, 8, 8), width=32, depth=2, features=5)):
        x, t = (value.float() for value in inputs((3, 8, 8), 3))
        cond = torch.tensor([0, 1, -1, 1]) if isinstance(net, UNet) else torch.arange(20.0).reshape(4, 5) / 10
        assert torch.equal(net(x, t, cond), torch.zeros_like(x))
        stirred(net)
        net.float()(x, t, cond).square().sum().backward()
        silent = [name for name, p in net.named_parameters() if p.grad is None or not bool(p.grad.abs().sum() > 0)]
        assert silent in ([], ["condition.nothing"])        # with a vector in every row nothing asks for the word for none


def test_attention_is_the_formula_and_knows_no_order(seed):
    attend = stirred(SelfAttention(12, heads=3), seed)
    x = inputs((5, 12), seed)[0]
    q, k, v = attend.ask(attend.norm(x)).chunk(3, -1)
    mixed = torch.zeros_like(x)
    for row, head, point in itertools.product(range(4), range(3), range(5)):
        part = slice(4 * head, 4 * head + 4)
        unit = lambda a: a / (a.square().mean() + torch.finfo(a.dtype).eps).sqrt()
        scores = torch.stack([unit(q[row, point, part]) @ unit(k[row, other, part]) / 2 for other in range(5)])
        mixed[row, point, part] = scores.softmax(0) @ v[row, :, part]
    torch.testing.assert_close(attend(x), attend.leave(mixed))
    order = torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(attend(x[:, order]), attend(x)[:, order])


def test_places_are_told_apart():
    table = positions(300, 32)
    assert torch.cdist(table, table).add(torch.eye(300) * 9).min() > 0.5 and table.abs().max() <= 1
    torch.testing.assert_close(table[7, :2], torch.tensor([math.sin(7), math.sin(7 * 1e4 ** (-1 / 16))]))


def test_several_heads_are_a_tuple_of_answers():
    for net in (UNet((2, 8), widths=(8,), heads=3), DiT((2, 8), width=32, depth=1, heads=3)):
        x, t = inputs((2, 8), 0)
        answers = stirred(net)(x, t)
        assert len(answers) == 3 and all(a.shape == x.shape for a in answers) and not torch.allclose(answers[0], answers[1])


@pytest.mark.parametrize("net", ["unet", "dit"])
def test_they_learn_more_than_the_best_constant(net):
    """Images of a bright column or row, told by class: what no function of the time alone can foretell."""
    x = torch.full((32, 1, 8, 8), -1.0)
    y = torch.arange(32) % 4
    for row, label in enumerate(y.tolist()):
        x[row, 0][:, 2 * label] = 1.0
    made = net_for((1, 8, 8), net, classes=4, width=16 if net == "unet" else 32, depth=1)
    run = Descent(Matching(Path.linear(), "velocity"), Independent(x, cond=y), batch=32, optimizer=lambda p: torch.optim.Adam(p, lr=5e-3), seed=0)
    with Draws(0).scope(0):
        end = evolve(run, run.init(made), 60)
    base = float((x - x.mean(0)).square().mean()) + 1       # of the velocity x1 - z given nothing: Var x1 + Var z
    assert float(end.loss) < 0.55 * base


@pytest.mark.parametrize(("event", "kind", "tokens"), [((7,), ResidualMLP, False), ((1, 8, 8), ResidualMLP, False), ((1, 28, 28), UNet, False),
                                                       ((28, 28, 3), UNet, False), ((7, 64), UNet, True), ((6, 8), UNet, True), ((3, 400), UNet, False),
                                                       ((2, 3, 4, 5, 6), ResidualMLP, False)])
def test_the_choice_by_shape(event, kind, tokens):
    net = net_for(event, tokens=tokens, classes=2)
    assert type(net) is kind and net.settings["classes"] == 2
    x, t = inputs(event, 0)
    assert net(x.float(), t.float(), torch.tensor([0, 1, 0, -1])).shape == x.shape


def test_settings_build_the_same_network_again():
    for net in (net_for((28, 28), classes=3, width=16), net_for((4, 16), "dit", features=2, width=64, tokens=True), net_for((2, 30), "unet")):
        again = type(net)(**net.settings)
        assert {n: v.shape for n, v in again.state_dict().items()} == {n: v.shape for n, v in net.state_dict().items()}


@pytest.mark.parametrize(("call", "message"), [
    (lambda: UNet((5,)), r"event must have channels first and one to three axes of grid, got \(5,\)"),
    (lambda: UNet((1, 2, 3, 4, 5)), "one to three axes"),
    (lambda: UNet((3, 8, 8), widths=()), "widths must name at least one level"),
    (lambda: UNet((3, 8, 8), widths=(8, 0)), "widths must be at least 1, got 0"),
    (lambda: UNet((3, 8, 8), widths=(8, 8), attention=(2,)), r"attention must name levels from 0 to 1, got \[2\]"),
    (lambda: UNet((3, 8, 8), dropout=1.0), "dropout"),
    (lambda: UNet((3, 8, 8), depth=0), "depth must be at least 1, got 0"),
    (lambda: UNet((3, 8, 8), layout="middle"), "layout must be one of first, last, none"),
    (lambda: UNet((3, 8, 8))(torch.zeros(1, 3, 8, 9), torch.zeros(1)), r"x must have event shape \(3, 8, 8\), got \(3, 8, 9\)"),
    (lambda: DiT((3, 9, 8), patch=2), r"patch must divide the grid \(9, 8\), got 2"),
    (lambda: DiT((3, 8, 8), patch=0), "patch must be at least 1, got 0"),
    (lambda: DiT((3, 8, 8), width=40, depth=1)(torch.zeros(1, 8, 8, 3), torch.zeros(1)), "x must have event shape"),
    (lambda: SelfAttention(10, heads=3), "heads must divide the width 10, got 3"),
    (lambda: net_for((5,), "unet"), r"net 'unet' needs events of channels and one to three axes of grid, got \(5,\): use mlp"),
    (lambda: net_for((5,), "resnet"), "net must be one of auto, mlp, unet, dit, got 'resnet'"),
    (lambda: net_for((3, 8, 8), "unet", width=-1), "width must be at least 1, got -1"),
])
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
