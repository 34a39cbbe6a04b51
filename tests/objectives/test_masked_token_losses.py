"""Losses of masked tokens: all forms are one bound, and that bound is exact likelihood where the conditionals are."""
import itertools
import math

import pytest
import torch

from rheos.core import Draws
from rheos.couplings import Pair
from rheos.data import MarkovChain
from rheos.nets import TokenTransformer
from rheos.objectives import Stratified, Uniform
from rheos.objectives.masked_tokens import FORMS, MaskedTokens, nll_bound
from rheos.paths import MaskedField, MaskedPath

F64 = torch.float64
CHAIN = MarkovChain(torch.tensor([0.6, 0.3, 0.1], dtype=F64), torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.2, 0.3], [0.05, 0.35, 0.6]], dtype=F64))
BLIND = torch.tensor([0.5, 0.3, 0.2], dtype=F64)


def short_sighted(x, t, cond):
    """Conditionals that see one neighbour only: wrong, so that the order in which tokens are filled matters."""
    left = torch.cat([torch.full_like(x[:, :1], 3), x[:, :-1]], 1)
    return torch.cat([CHAIN.transition, BLIND[None]]).log()[left]


def exact_bound(row: list[int]) -> float:
    """Brute force: the mean over all orders of the log-likelihood of filling the row in that order, nats a token."""
    total, orders = 0.0, list(itertools.permutations(range(len(row))))
    for order in orders:
        x = torch.full((1, len(row)), 3)
        for place in order:
            total -= float(short_sighted(x, None, None)[0, place, row[place]])
            x[0, place] = row[place]
    return total / len(orders) / len(row)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("eps", [0.0, 1e-4])
def test_every_form_is_the_mean_over_all_orders(form, eps, seed):
    row, repeats = [0, 1, 2, 2], 4
    path, n = MaskedPath(3, eps), 6000
    found = nll_bound(MaskedField(short_sighted, path), torch.tensor([row]).expand(n, 4), form=form, repeats=repeats, seed=seed, batch=n)
    error = float(found.std()) / math.sqrt(n)
    assert error < 0.02 and abs(float(found.mean()) - exact_bound(row)) < 5 * error + 2 * eps


def test_the_count_form_has_the_least_variance(seed):
    rows = CHAIN.sample(3000, 6, seed=seed)
    spread = {form: float(nll_bound(MaskedField(CHAIN, MaskedPath(3)), rows, form=form, seed=seed).var()) for form in FORMS}
    assert spread["count"] < 0.7 * spread["mask_rate"] and spread["count"] < 0.7 * spread["time"]


def test_with_exact_conditionals_the_bound_is_the_likelihood(seed):
    """Every order gives the same product: log p, whatever is drawn, once all numbers of hidden tokens are averaged over all sets."""
    rows = torch.tensor([[0, 1, 2, 2, 1], [2, 1, 0, 1, 0]])
    truth = -CHAIN.log_prob(rows) / 5
    found = torch.stack([nll_bound(MaskedField(CHAIN, MaskedPath(3)), rows.repeat(2000, 1), repeats=5, seed=Draws(seed).child(k)).view(2000, 2).mean(0) for k in range(2)])
    torch.testing.assert_close(found.mean(0), truth, rtol=0.02, atol=0)


@pytest.mark.parametrize("form", FORMS)
def test_the_loss_is_the_bound_on_a_batch(form, seed):
    rows = CHAIN.sample(4000, 5, seed=seed)
    loss = MaskedTokens(MaskedPath(3), form)(CHAIN, Pair(rows), seed=seed, step=2)
    truth = float(-CHAIN.log_prob(rows).mean()) / 5
    assert loss.per_sample.shape == (4000,) and abs(float(loss.value) - truth) < 5 * float(loss.per_sample.std()) / math.sqrt(4000)
    torch.testing.assert_close(loss.per_sample.mean(), loss.value)


def test_each_row_is_weighted_by_its_own_count():
    """A net of one surprise s everywhere: with k of L hidden the count form gives s whatever k, so that no row's loss varies."""
    net = lambda x, t, cond: torch.tensor([math.log(0.2), math.log(0.8)]).expand(*x.shape, 2)
    rows = torch.zeros(50, 9, dtype=torch.int64)
    loss = MaskedTokens(MaskedPath(2))(net, Pair(rows), seed=1)
    torch.testing.assert_close(loss.per_sample, torch.full((50,), -math.log(0.2)))


def test_what_is_shown_is_not_asked_for_and_rows_without_a_hidden_token_count_nothing():
    net = lambda x, t, cond: torch.where((x[..., None] == 2) | (torch.arange(2) == 1), 0.0, -math.inf).expand(*x.shape, 2)       # shown tokens: surely 1
    rows = torch.tensor([[0, 1, 0]]).expand(40, 3)
    for form in FORMS:
        loss = MaskedTokens(MaskedPath(2), form, when=Uniform())(net, Pair(rows), seed=3)
        assert bool(torch.isfinite(loss.per_sample).all())
        if form != "count":
            assert bool((loss.per_sample == 0).any())
    assert bool((MaskedTokens(MaskedPath(2))(net, Pair(rows), seed=3).per_sample > 0).all())


def test_a_network_is_told_when_its_row_was_hidden():
    told = []

    def net(x, t, cond):
        told.append((x, t))
        return torch.zeros(*x.shape, 4)

    for form in ("count", "mask_rate", "time"):
        MaskedTokens(MaskedPath(4, 0.1), form, when=Stratified())(net, Pair(torch.zeros(3000, 8, dtype=torch.int64)), seed=2)
    x, t = told[0]
    shares = (x != 4).double().mean(1)
    torch.testing.assert_close(t.double(), ((shares - 0.1) / 0.9).clamp_min(0), atol=1e-6, rtol=0)
    for x, t in told[1:]:
        gap = (x != 4).double().mean(1) - (0.1 + 0.9 * t.double())
        late = t > 0                        # chances of being hidden above 1 - eps have no time
        assert abs(float(gap[late].mean())) < 5 * math.sqrt(0.25 / 8 / int(late.sum()))


@pytest.mark.parametrize("vocab", [6, (6, 2, 4)])
def test_gradients_are_finite_and_go_downhill(vocab, seed):
    path = MaskedPath(vocab)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = TokenTransformer(3, vocab, width=16, depth=1)
    rows = Draws(seed).integers("rows", 0, (40, 3), 2)
    loss = MaskedTokens(path)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    values = []
    for step in range(60):
        optimizer.zero_grad()
        value = loss(net, Pair(rows), seed=seed, step=step).value
        value.backward()
        assert all(bool(torch.isfinite(p.grad).all()) for p in net.parameters())
        optimizer.step()
        values.append(value.item())
    first = math.log(6) if isinstance(vocab, int) else (math.log(6) + math.log(2) + math.log(4)) / 3
    assert abs(values[0] - first) < 0.25 * first and sum(values[-10:]) / 10 < 0.75


def test_conditions_are_left_out_now_and_then():
    seen = []

    def net(x, t, cond):
        seen.append(cond)
        return torch.zeros(*x.shape, 2)

    rows = torch.zeros(2000, 3, dtype=torch.int64)
    MaskedTokens(MaskedPath(2), drop_condition=0.3)(net, Pair(rows, cond=torch.full((2000,), 5)), seed=1)
    share = float((seen[0] == -1).double().mean())
    assert abs(share - 0.3) < 5 * math.sqrt(0.21 / 2000) and set(seen[0].tolist()) == {-1, 5}


def test_the_bound_does_not_depend_on_the_split():
    rows = CHAIN.sample(20, 5, seed=1)
    field = MaskedField(CHAIN, MaskedPath(3))
    for form in FORMS:
        assert torch.equal(nll_bound(field, rows, form=form, repeats=2, seed=4), nll_bound(field, rows, form=form, repeats=2, seed=4, batch=7))


def test_objectives_add():
    rows = torch.zeros(10, 3, dtype=torch.int64)
    net = lambda x, t, cond: torch.zeros(*x.shape, 2)
    both = MaskedTokens(MaskedPath(2)) + 0.5 * MaskedTokens(MaskedPath(2))
    assert float(both(net, Pair(rows)).value) == pytest.approx(1.5 * math.log(2))


ROW = torch.zeros(2, 3, dtype=torch.int64)
REFUSALS = [
    (lambda: MaskedTokens(MaskedPath(3), "counts"), ValueError, "form must be one of count, mask_rate, time, score, got 'counts'"),
    (lambda: MaskedTokens(3), TypeError, None),
    (lambda: MaskedTokens(MaskedPath(3), drop_condition=1.5), ValueError, "drop_condition must lie in"),
    (lambda: MaskedTokens(MaskedPath(3), when=Uniform), TypeError, None),
    (lambda: MaskedTokens(MaskedPath(3))(CHAIN, Pair(torch.full((2, 3), 3))), ValueError, r"x1 must hold token ids 0..2 \(the mask id is 3\), got 3"),
    (lambda: MaskedTokens(MaskedPath(3), "mask_rate")(CHAIN, Pair(torch.full((2, 3), 7))), ValueError, "x1 must hold token ids 0..2, got 7"),
    (lambda: MaskedTokens(MaskedPath(3))(CHAIN, Pair(torch.zeros(2, 3))), TypeError, None),
    (lambda: MaskedTokens(MaskedPath(3))(lambda x, t, cond: torch.zeros(2, 5), Pair(ROW)), ValueError, "net must return logits of shape"),
    (lambda: MaskedTokens(MaskedPath(3))(lambda x, t, cond: torch.zeros(2, 3, 7), Pair(ROW)), ValueError, r"net must return 3 \(or 4\) numbers"),
    (lambda: nll_bound(MaskedField(CHAIN, MaskedPath(3)), ROW + 3), ValueError, r"x1 must hold token ids 0..2 \(the mask id is 3\)"),
    (lambda: nll_bound(MaskedField(CHAIN, MaskedPath(3)), ROW, form="dce"), ValueError, "form must be one of"),
    (lambda: nll_bound(MaskedField(CHAIN, MaskedPath(3)), ROW, repeats=0), ValueError, "repeats must be at least 1"),
]


@pytest.mark.parametrize(("call", "error", "match"), REFUSALS, ids=[str(i) for i in range(len(REFUSALS))])
def test_refuses(call, error, match):
    with pytest.raises(error, match=match):
        call()
