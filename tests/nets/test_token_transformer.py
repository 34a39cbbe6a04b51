"""The transformer of tokens: it sees both ways, and no more than it is told."""
import pytest
import torch

from rheos.core import Draws
from rheos.nets import TokenTransformer


def stirred(*args, **settings) -> TokenTransformer:
    """A network that does not begin at zero."""
    with Draws(3).scope(0):
        net = TokenTransformer(*args, **settings).eval()
        for p in net.parameters():
            torch.nn.init.normal_(p, std=0.3)
    return net


X = torch.tensor([[0, 5, 2, 3, 1], [4, 4, 0, 5, 5]])


def test_it_begins_with_even_laws_and_learns_from_every_token():
    assert bool((TokenTransformer(5, 5, width=12, depth=2)(X, None) == 0).all())
    net, base = stirred(5, 5, width=12, depth=2), None
    base = net(X)
    for place in range(5):
        other = X.clone()
        other[:, place] = (other[:, place] + 1) % 6
        changed = (net(other) - base).abs().amax(-1)
        assert bool((changed > 1e-4).all()), place            # every position sees every other, on either side


@pytest.mark.parametrize("near", [1, 3, 5])
def test_the_convolution_reaches_as_far_as_it_says_on_either_side(near):
    net, seen = stirred(9, 5, width=8, depth=1, near=near), []
    net.blocks[0].register_forward_pre_hook(lambda block, given: seen.append(given[0]))
    x = torch.tensor([[0, 5, 2, 3, 1, 4, 0, 2, 5]])
    net(x)
    for place in (0, 3, 8):
        other = x.clone()
        other[0, place] = (other[0, place] + 1) % 6
        net(other)
        moved = (seen[-1] - seen[0])[0].abs().amax(-1) > 1e-6
        assert moved.nonzero()[:, 0].tolist() == [i for i in range(9) if abs(i - place) <= near // 2], place
    # By hand, at one place: every neighbour by a matrix of its own, added to what is there.
    if near == 3:
        h = net.enter(x)[0] + net.place
        torch.testing.assert_close(seen[0][0, 3], h[3] + sum(net.mix.weight[..., k] @ h[2 + k] for k in range(3)) + net.mix.bias)


def test_neighbours_are_mixed_where_positions_share_a_vocabulary_and_columns_are_not():
    assert TokenTransformer(5, 5, width=8).settings["near"] == 5 and TokenTransformer(3, (5, 5, 5), width=8).settings["near"] == 1
    assert TokenTransformer(5, 5, width=8, near=1).mix is None and TokenTransformer(3, (5, 2, 5), width=8, near=3)(torch.zeros(2, 3, dtype=torch.int64)).shape == (2, 3, 5)


def test_it_learns_which_letter_follows_which_within_a_hundred_steps(seed):
    """Rows count onwards from a random letter, three positions in four hidden; without the convolution a hundred steps end above 0.98 nats."""
    draws = Draws(seed)
    with Draws(seed).scope(0):
        net = TokenTransformer(24, 11, width=32, depth=1)
    descent = torch.optim.Adam(net.parameters(), lr=1e-2, betas=(0.9, 0.99))
    first = draws.integers("first", 0, (100, 32, 1), 11)
    hidden = draws.uniform("hidden", 0, (100, 32, 24)) < 0.75
    ids = (first + torch.arange(24)) % 11
    losses = []
    for x, gone in zip(ids, hidden, strict=True):
        logits = net(torch.where(gone, 11, x))
        loss = torch.nn.functional.cross_entropy(logits[gone], x[gone])
        descent.zero_grad()
        loss.backward()
        descent.step()
        losses.append(loss.item())
    assert abs(losses[0] - 2.398) < 1e-2 and sum(losses[-10:]) / 10 < 0.8


def test_rows_do_not_see_each_other():
    net = stirred(5, 5, width=12, depth=2)
    torch.testing.assert_close(net(X)[:1], net(X[:1]), rtol=1e-5, atol=1e-5)


def test_time_is_read_only_where_it_was_asked_for():
    free, timed = stirred(5, 5, width=12, timed=False), stirred(5, 5, width=12, timed=True)
    t = torch.tensor([0.2, 0.9])
    assert torch.equal(free(X, t), free(X, 1 - t)) and torch.equal(free(X, None), free(X, t))
    assert (timed(X, t) - timed(X, 1 - t)).abs().max() > 1e-3
    classes = stirred(5, 5, width=12, classes=3)
    assert torch.equal(classes(X, t, torch.tensor([0, 2])), classes(X, None, torch.tensor([0, 2])))


def test_classes_and_vectors_change_the_answer_and_may_be_left_out():
    net = stirred(5, 5, width=12, classes=3)
    told = net(X, None, torch.tensor([1, 2]))
    assert (told - net(X, None, torch.tensor([2, 1]))).abs().amax((1, 2)).min() > 1e-3
    torch.testing.assert_close(net(X, None, None), net(X, None, torch.tensor([-1, -1])))
    vectors = stirred(5, 5, width=12, features=2)
    assert (vectors(X, None, torch.tensor([[0.5, 1.0], [0.0, 2.0]])) - vectors(X)).abs().max() > 1e-3


def test_positions_with_vocabularies_of_their_own_share_no_embedding():
    net = stirred(3, (2, 5, 3), width=8, depth=1)
    x = torch.tensor([[1, 4, 2], [5, 0, 5]])
    before = net(x)
    net.enter.weight.data[6 + 4, 0] += 1.0           # token 4 of position 1
    after = net(x)
    assert (after - before)[0].abs().max() > 1e-3 and torch.equal(after[1], before[1])
    # By hand: the logits of position i are its own linear map of the features there.
    h = []
    net.norm.register_forward_hook(lambda module, given, answer: h.append(answer))
    logits = net(x)
    for i in range(3):
        torch.testing.assert_close(logits[:, i], h[0][:, i] @ net.leave[i] + net.bias[i], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("settings", [{}, {"classes": 4, "timed": True}, {"heads": 3, "dropout": 0.2, "near": 3}])
@pytest.mark.parametrize("vocab", [5, (2, 5, 3, 4, 5)])
def test_settings_build_it_again(vocab, settings):
    net = stirred(5, vocab, width=12, depth=2, **settings)
    again = TokenTransformer(**net.settings)
    again.load_state_dict(net.state_dict())
    t = torch.tensor([0.3, 0.6])
    x = torch.tensor([[0, 5, 2, 3, 1], [1, 4, 0, 5, 5]])
    assert torch.equal(again.eval()(x, t), net(x, t)) and net.event == (5,)


REFUSALS = [
    (lambda: TokenTransformer(0, 5), ValueError, "length must be at least 1"),
    (lambda: TokenTransformer(5, 1), ValueError, "vocab must be at least 2, got 1"),
    (lambda: TokenTransformer(5, (2, 3)), ValueError, "vocab must be one number, or one for each of the 5 positions, got 2"),
    (lambda: TokenTransformer(5, 5, width=12, heads=5), ValueError, "heads must divide the width 12, got 5"),
    (lambda: TokenTransformer(5, 5, near=4), ValueError, "near must be odd, with as many tokens before as after, got 4"),
    (lambda: TokenTransformer(5, 5, near=0), ValueError, "near must be at least 1"),
    (lambda: TokenTransformer(5, 5, depth=0), ValueError, "depth must be at least 1"),
    (lambda: TokenTransformer(5, 5, dropout=1.0), ValueError, "dropout must lie in"),
    (lambda: TokenTransformer(5, 5, classes=3, features=2), ValueError, "classes or features, not both"),
    (lambda: TokenTransformer(4, 5, width=8)(X), ValueError, r"x must have event shape \(4,\), got \(5,\)"),
    (lambda: TokenTransformer(5, 5, width=8)(X, None, torch.tensor([0, 1])), ValueError, "cond was given"),
    (lambda: TokenTransformer(5, 5, width=8, timed=True)(X), ValueError, "t must be given"),
]


@pytest.mark.parametrize(("call", "error", "match"), REFUSALS, ids=[str(i) for i in range(len(REFUSALS))])
def test_refuses(call, error, match):
    with pytest.raises(error, match=match):
        call()
