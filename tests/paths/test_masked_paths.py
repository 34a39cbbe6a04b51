"""The absorbing path: what is hidden when, and a network's answer as log-probabilities."""
import json
import math

import pytest
import torch

from rheos.core import Draws
from rheos.data import MarkovChain
from rheos.paths import GuidedTokens, MaskedField, MaskedPath

F64 = torch.float64
CHAIN = MarkovChain(torch.tensor([0.6, 0.3, 0.1], dtype=F64), torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.2, 0.3], [0.0, 0.4, 0.6]], dtype=F64))


def sentences(length: int) -> torch.Tensor:
    return torch.cartesian_prod(*[torch.arange(3)] * length).reshape(-1, length)


def test_the_share_that_is_shown_falls_from_the_data_to_nothing():
    assert MaskedPath(5).alpha(0.0) == 0 and MaskedPath(5).alpha(1.0) == 1 and MaskedPath(5).alpha(0.3) == 0.3
    # The paper's log-linear noise, in its own clock: sigma(t) = -log(1 - (1 - eps) t), and exp(-sigma) is shown.
    t = torch.linspace(0, 1, 7, dtype=F64)
    sigma = -torch.log1p(-(1 - 1e-3) * t)
    torch.testing.assert_close(MaskedPath(5, 1e-3).alpha(1 - t), torch.exp(-sigma), rtol=1e-12, atol=0)
    torch.testing.assert_close(MaskedPath(5, 1e-3).time_at(torch.exp(-sigma)), 1 - t, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("eps", [0.0, 1e-3, 0.2])
def test_unmasking_in_two_steps_is_unmasking_in_one(eps):
    path, (t, s, u) = MaskedPath(4, eps), (0.15, 0.4, 0.85)
    one, two, both = path.unmask_probability(t, s), path.unmask_probability(s, u), path.unmask_probability(t, u)
    torch.testing.assert_close((1 - one) * (1 - two), 1 - both, rtol=1e-12, atol=0)
    torch.testing.assert_close(both, (path.alpha(u) - path.alpha(t)) / (1 - path.alpha(t)), rtol=1e-12, atol=0)
    assert path.unmask_probability(0.7, 1.0) == 1 and path.unmask_probability(0.7, 0.7) == 0 and path.unmask_probability(1.0, 1.0) == 1


def test_each_token_is_hidden_on_its_own_with_the_paths_chance(seed):
    path, x1 = MaskedPath(9, 0.1), torch.arange(9).expand(4000, 9)
    t = torch.tensor([0.2, 0.7]).repeat(2000)
    x = path.corrupt(x1, t, seed=seed, step=3)
    hidden = x == 9
    assert torch.equal(x[~hidden], x1[~hidden])
    for time in (0.2, 0.7):
        share, p = hidden[t == time].double(), 1 - (0.1 + 0.9 * time)
        assert (share.mean(0) - p).abs().max() < 5 * math.sqrt(p * (1 - p) / 2000)
        both = (share[:, 2] * share[:, 6]).mean()
        assert abs(both - p * p) < 5 * math.sqrt(p * p * (1 - p * p) / 2000)


def test_exactly_k_tokens_are_hidden_and_every_set_of_them_as_often(seed):
    path, n = MaskedPath(6), 6000
    k = torch.tensor([0, 2, 5]).repeat(n // 3)
    hidden = path.corrupt_exactly(torch.arange(5).expand(n, 5), k, seed=seed) == 6
    assert torch.equal(hidden.sum(1), k)
    sets = (hidden[k == 2] * 2 ** torch.arange(5)).sum(1).unique(return_counts=True)[1]
    assert len(sets) == 10 and float(((sets - 200.0) ** 2 / 200).sum()) < 45          # chi-square with 9 degrees: 45 at 1e-6


def test_rows_are_hidden_alike_however_they_are_split():
    path, x1 = MaskedPath((3, 7, 2)), torch.tensor([[2, 6, 1], [0, 3, 1], [1, 1, 0], [2, 0, 0]])
    for hide in (lambda x, first: path.corrupt(x, 0.4, seed=5, step=2, first=first), lambda x, first: path.corrupt_exactly(x, 2, seed=5, step=2, first=first)):
        whole = hide(x1.repeat(6, 1), 0)
        assert torch.equal(torch.cat([hide(x1.repeat(6, 1)[:7], 0), hide(x1.repeat(6, 1)[7:], 7)]), whole)
        assert not torch.equal(hide(x1.repeat(6, 1), 24), whole)
    assert not torch.equal(path.corrupt(x1.repeat(6, 1), 0.4, seed=5, step=3), path.corrupt(x1.repeat(6, 1), 0.4, seed=5, step=2))


def test_impossible_ids_have_no_probability_and_the_rest_sums_to_one(seed):
    path = MaskedPath((2, 5, 1))
    logits = 3 * Draws(seed).rows("logits", 0, (4, 3, 6))
    logp = path.log_probabilities(logits)
    assert logp.shape == (4, 3, 5) and torch.equal(logp.exp().gt(0), path.possible(3).expand(4, 3, 5))
    torch.testing.assert_close(logp.exp().sum(-1), torch.ones(4, 3))
    torch.testing.assert_close(logp[:, 1, 3] - logp[:, 1, 0], logits[:, 1, 3] - logits[:, 1, 0])        # what is possible keeps its odds
    same = path.log_probabilities(logits.clone().index_fill_(-1, torch.tensor(5), 80.0))                # the mask's own number is not read
    assert torch.equal(same, logp)
    logits.requires_grad_()
    path.log_probabilities(logits)[:, 0, 1].sum().backward()
    assert bool(torch.isfinite(logits.grad).all())
    assert path.log_probabilities(logits.detach().bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("length", [1, 2, 5])
def test_the_chains_conditionals_are_those_of_enumeration(length):
    every = sentences(length)
    p = CHAIN.log_prob(every).exp()
    assert abs(p.sum() - 1) < 1e-12
    for shown in ([], [0], [length - 1], [0, length // 2]):
        known = every[int(p.argmax())]
        x = torch.full((1, length), 3)
        x[0, shown] = known[shown]
        fits = (every[:, shown] == known[shown]).all(1)
        for i in set(range(length)) - set(shown):
            law = torch.stack([p[fits & (every[:, i] == v)].sum() for v in range(3)]) / p[fits].sum()
            torch.testing.assert_close(CHAIN(x)[0, i].exp(), law, rtol=1e-12, atol=1e-15)


def test_a_chain_is_drawn_and_fitted_as_it_is(seed):
    x = CHAIN.sample(30_000, 4, seed=seed)
    counts = (x * 3 ** torch.arange(4)).sum(1)
    p = CHAIN.log_prob(sentences(4)).exp()
    place = (sentences(4) * 3 ** torch.arange(4)).sum(1)
    seen = torch.zeros(81).index_add_(0, counts, torch.ones(30_000))[place]
    assert bool((seen[p == 0] == 0).all())
    used = 30_000 * p > 5
    assert float(((seen - 30_000 * p) ** 2 / (30_000 * p))[used].sum()) < int(used.sum()) + 6 * math.sqrt(2 * int(used.sum()))
    again = MarkovChain.fit(x, 3)
    assert (again.transition - CHAIN.transition).abs().max() < 0.03 and (again.start - CHAIN.start).abs().max() < 0.02


def test_a_field_counts_calls_and_tells_the_time_that_fits_what_is_shown():
    told = []

    def net(x, t, cond):
        told.append(t)
        return torch.zeros(*x.shape, 4)

    field = MaskedField(net, MaskedPath(4, 0.2), (5,))
    x = torch.tensor([[4, 4, 4, 4, 4], [0, 4, 1, 4, 2], [0, 1, 2, 3, 0]])
    field(x)
    torch.testing.assert_close(told[0], torch.tensor([0.0, 0.5, 1.0]))          # shares 0, 0.6 and 1 of 0.2 + 0.8 t
    field(x[:2], t=0.25)
    assert (field.nfe, field.rows) == (2, 5) and told[1].tolist() == [0.25, 0.25]


def test_guidance_shifts_log_odds_and_costs_one_call():
    def net(x, t, cond):
        law = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.9, 0.0]])[(cond >= 0).long()]
        return law.log()[:, None].expand(*x.shape, 3)

    field = MaskedField(net, MaskedPath(3))
    x, cond = torch.full((2, 4), 3), torch.tensor([0, 1])
    law = field.guided(2.0)(x, cond).exp()[0, 0]
    expected = torch.tensor([0.1**2 / 0.5, 0.9**2 / 0.3, 0.0])
    torch.testing.assert_close(law, expected / expected.sum())
    guided = field.guided(2.0)
    field.nfe = 0
    guided(x, cond)
    assert (field.nfe, guided.nfe, guided.rows, field.rows) == (1, 1, 2, 8)
    torch.testing.assert_close(field.guided(1.0)(x, cond), field(x, cond))
    torch.testing.assert_close(field.guided(0.0)(x, cond).exp()[0, 0, :2], torch.tensor([0.625, 0.375]))     # what the condition rules out stays out


def test_paths_survive_json():
    for path in (MaskedPath(27), MaskedPath(300, 1e-3), MaskedPath((2, 9, 4))):
        assert MaskedPath.from_json(json.loads(json.dumps(path.to_json()))) == path


NET = lambda x, t, cond: torch.zeros(*x.shape, 4)
REFUSALS = [
    (lambda: MaskedPath(1), ValueError, "vocab must be at least 2, got 1"),
    (lambda: MaskedPath(True), TypeError, None),
    (lambda: MaskedPath((3, 0)), ValueError, "vocab must be at least 1, got 0"),
    (lambda: MaskedPath(()), ValueError, "vocab must hold one number of tokens a position"),
    (lambda: MaskedPath(1 << 21), ValueError, "vocab must be at most 1,048,576"),
    (lambda: MaskedPath(4, 1.0), ValueError, r"eps must lie in \[0, 1\), got 1.0"),
    (lambda: MaskedPath(4).alpha(1.5), ValueError, r"t must lie in \[0, 1\]"),
    (lambda: MaskedPath(4).alpha(math.nan), ValueError, r"t must lie in \[0, 1\]"),
    (lambda: MaskedPath(4).unmask_probability(0.5, 0.25), ValueError, "s must not lie before t"),
    (lambda: MaskedPath(4).corrupt(torch.tensor([[0, 4]]), 0.5), ValueError, r"x1 must hold token ids 0..3 \(the mask id is 4\), got 4 at row 0, position 1"),
    (lambda: MaskedPath(4).corrupt(torch.tensor([[0, 1], [-1, 0]]), 0.5), ValueError, "x1 must hold token ids 0..3, got -1 at row 1, position 0"),
    (lambda: MaskedPath((2, 4)).checked("x", torch.tensor([[4, 0], [2, 0]])), ValueError, r"x must hold token ids 0..1 or the mask id 4, got 2 at row 1, position 0"),
    (lambda: MaskedPath((2, 4)).checked("x", torch.tensor([[0, 0, 0]])), ValueError, r"x must have shape \(rows, 2\), got \(1, 3\)"),
    (lambda: MaskedPath(4).checked("x", torch.zeros(2, 3)), TypeError, "x must hold int64 token ids, got torch.float32"),
    (lambda: MaskedPath(4).checked("x", torch.zeros(2, 0, dtype=torch.int64)), ValueError, r"x must have shape \(rows, length\)"),
    (lambda: MaskedPath(4).corrupt(torch.zeros(3, 2, dtype=torch.int64), torch.tensor([0.1, 0.2])), ValueError, r"t must be one number or have shape \(3,\)"),
    (lambda: MaskedPath(4).corrupt_exactly(torch.zeros(3, 2, dtype=torch.int64), 3), ValueError, "k must lie in 0..2, the tokens of a row, got 3 to 3"),
    (lambda: MaskedPath(4).corrupt_exactly(torch.zeros(3, 2, dtype=torch.int64), torch.tensor([1, 1])), ValueError, r"k must be one number or have shape \(3,\)"),
    (lambda: MaskedPath(4).log_probabilities(torch.zeros(1, 2, 6)), ValueError, r"net must return 4 \(or 5\) numbers a position"),
    (lambda: MaskedPath((2, 4)).possible(3), ValueError, "length must be 2"),
    (lambda: MaskedPath.from_json({"class": "rheos.paths.MaskedPath", "vocab": 1, "eps": 0.0}), ValueError, "vocab must be at least 2"),
    (lambda: MaskedPath.from_json({"class": "os.system", "vocab": 4, "eps": 0.0}), ValueError, "not a masked path"),
    (lambda: MaskedPath.from_json({"class": "rheos.paths.MaskedPath", "vocab": "x", "eps": 0.0}), ValueError, None),
    (lambda: MaskedField(3, MaskedPath(4)), TypeError, None),
    (lambda: MaskedField(NET, MaskedPath((2, 4)), (3,)), ValueError, "event must be one"),
    (lambda: MaskedField(NET, MaskedPath(4), (3,))(torch.zeros(1, 2, dtype=torch.int64)), ValueError, r"x must have event shape \(3,\), got \(2,\)"),
    (lambda: MaskedField(lambda x, t, cond: torch.zeros(1, 4), MaskedPath(4))(torch.zeros(1, 2, dtype=torch.int64)), ValueError, "net must return logits of shape"),
    (lambda: MaskedField(NET, MaskedPath(4)).guided(-1.0), ValueError, "guidance must lie in"),
    (lambda: MaskedField(NET, MaskedPath(4)).guided(2.0)(torch.zeros(1, 2, dtype=torch.int64)), ValueError, "guidance needs a condition"),
    (lambda: GuidedTokens(NET, 2.0), TypeError, None),
    (lambda: MarkovChain(torch.tensor([0.5, 0.6], dtype=F64), torch.eye(2, dtype=F64)), ValueError, "start must hold float64 laws"),
    (lambda: MarkovChain(torch.tensor([0.5, 0.5], dtype=F64), torch.eye(3, dtype=F64)), ValueError, "transition must have shape"),
    (lambda: MarkovChain.fit(torch.tensor([[0, 1]]), 2), ValueError, "letter 1 is never followed by another"),
    (lambda: CHAIN(torch.tensor([[2, 0, 3]])), ValueError, "x must be possible for this chain, row 0 is not"),
]


@pytest.mark.parametrize(("call", "error", "match"), REFUSALS, ids=[str(i) for i in range(len(REFUSALS))])
def test_refuses(call, error, match):
    with pytest.raises(error, match=match):
        call()
