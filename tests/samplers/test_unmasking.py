"""Samplers of masked tokens, against a language of which every sentence's probability is known."""
import math

import pytest
import torch

from rheos.core import NonFinite, StopWhen
from rheos.data import MarkovChain
from rheos.paths import MaskedField, MaskedPath
from rheos.samplers import AnyOrder, FirstHitting, MaskedAncestral, Unmasking, expected_calls, sample_tokens
from rheos.testing import LINES, check_dynamics

F64 = torch.float64
CHAIN = MarkovChain(torch.tensor([0.6, 0.3, 0.1], dtype=F64), torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.2, 0.3], [0.05, 0.35, 0.6]], dtype=F64))
LENGTH, ROWS = 4, 20_000
SENTENCES = torch.cartesian_prod(*[torch.arange(3)] * LENGTH)
CODE = 3 ** torch.arange(LENGTH)
LAW = CHAIN.log_prob(SENTENCES).exp()
RULES = [MaskedAncestral(3), MaskedAncestral(40), FirstHitting(), AnyOrder(), AnyOrder((4, 1, 6, 0, 2, 5, 3))]


def chain_field(length: int = LENGTH) -> MaskedField:
    return MaskedField(CHAIN, MaskedPath(3), (length,))


def counted(x: torch.Tensor) -> torch.Tensor:
    """How often each sentence came, in their order."""
    return torch.zeros(3**LENGTH, dtype=F64).index_add_(0, (x * CODE).sum(1), torch.ones(len(x), dtype=F64))[(SENTENCES * CODE).sum(1)]


def chi_square(seen: torch.Tensor, law: torch.Tensor) -> float:
    """In standard deviations above its mean, over the sentences that are expected five times and more, the rest as one."""
    expected = law * seen.sum()
    often = expected >= 5
    cells = [(seen[often], expected[often])] + ([(seen[~often].sum()[None], expected[~often].sum()[None])] if bool((~often).any()) else [])
    value = sum(float(((a - e) ** 2 / e).sum()) for a, e in cells if float(e.sum()) > 0)
    degrees = int(often.sum()) - 1 + (len(cells) - 1)
    return (value - degrees) / math.sqrt(2 * degrees)


# -- in law ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [FirstHitting(), MaskedAncestral(400), AnyOrder((2, 0, 3, 1))], ids=["first hitting", "ancestral", "any order"])
def test_samplers_draw_the_language(rule, seed):
    x = sample_tokens(chain_field(), ROWS, rule=rule, seed=seed)
    assert chi_square(counted(x), LAW) < 6


def test_few_steps_and_parallel_tokens_do_not(seed):
    """What the chi-square can see: tokens drawn from one call as if independent."""
    for rule in (MaskedAncestral(1), FirstHitting(LENGTH), FirstHitting(2)):
        assert chi_square(counted(sample_tokens(chain_field(), ROWS, rule=rule, seed=seed)), LAW) > 12


def test_one_step_draws_each_token_from_its_own_law(seed):
    marginals = torch.stack([(LAW[:, None] * (SENTENCES == v)).sum(0) for v in range(3)], 1)
    product = marginals.gather(1, SENTENCES.T).prod(0)
    for rule in (MaskedAncestral(1), FirstHitting(LENGTH)):
        assert chi_square(counted(sample_tokens(chain_field(), ROWS, rule=rule, seed=seed)), product) < 6


@pytest.mark.parametrize("rule", [FirstHitting(), MaskedAncestral(300), AnyOrder()], ids=["first hitting", "ancestral", "any order"])
def test_infilling_draws_what_is_hidden_given_what_is_shown(rule, seed):
    start = torch.tensor([[3, 2, 3, 0]]).expand(ROWS, LENGTH)
    x = sample_tokens(chain_field(), start=start, rule=rule, seed=seed)
    fits = (SENTENCES[:, 1] == 2) & (SENTENCES[:, 3] == 0)
    assert bool((x[:, 1] == 2).all()) and bool((x[:, 3] == 0).all())
    assert chi_square(counted(x)[fits], LAW[fits] / LAW[fits].sum()) < 6


def test_temperature_is_a_power_of_each_tokens_law(seed):
    law = torch.tensor([0.5, 0.3, 0.2], dtype=F64)
    field = MaskedField(lambda x, t, cond: law.log().expand(*x.shape, 3), MaskedPath(3), (3,))
    x = sample_tokens(field, 20_000, temperature=0.5, seed=seed)
    seen = torch.bincount(x.flatten()).double()
    assert chi_square(seen, law**2 / (law**2).sum()) < 6


def test_the_level_falls_as_the_largest_of_uniform_numbers(seed):
    """Of n hidden tokens the first is shown when the share of hidden ones is the largest of n uniform numbers: of mean n / (n + 1)."""
    told = []
    net = lambda x, t, cond: (told.append(t), CHAIN(x))[1]
    sample_tokens(MaskedField(net, MaskedPath(3), (LENGTH,)), ROWS, seed=seed)
    for k, t in enumerate(told):            # the (k + 1)-st largest of n: mean (n - k) / (n + 1), variance below 1/12
        assert abs(float((1 - t).double().mean()) - (LENGTH - k) / (LENGTH + 1)) < 5 * math.sqrt(1 / 12 / ROWS)
    assert bool((torch.stack(told).diff(dim=0) > 0).all())


def test_parallel_tokens_are_shown_at_the_times_of_single_ones(seed):
    told: dict[int, list] = {1: [], 2: []}
    for parallel, times in told.items():
        sample_tokens(MaskedField(lambda x, t, cond, times=times: (times.append(t), CHAIN(x))[1], MaskedPath(3), (LENGTH,)), ROWS, rule=FirstHitting(parallel), seed=seed)
    assert len(told[2]) == 2
    for one, two in ((told[1][0], told[2][0]), (told[1][2], told[2][1])):
        assert abs(float(one.double().mean() - two.double().mean())) < 5 * math.sqrt(2 / 12 / ROWS)


# -- calls -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 7, 16, 200])
def test_cached_sampling_asks_as_seldom_as_the_paper_says_and_draws_the_same(steps, seed):
    length, rows = 12, 400
    fields = [chain_field(length), chain_field(length)]
    x, again = (sample_tokens(field, rows, rule=MaskedAncestral(steps, cache), seed=seed) for field, cache in zip(fields, (True, False), strict=True))
    assert torch.equal(x, again) and fields[1].rows == rows * steps and fields[0].nfe <= steps
    # The number of steps with an event has a variance below its own n q (1 - q).
    q = 1 - (1 - 1 / steps) ** length
    assert abs(fields[0].rows / rows - steps * q) <= 5 * math.sqrt(steps * q * (1 - q) / rows) + 1e-9
    assert abs(expected_calls(steps, length) - steps * q) < 1e-9 and fields[0].rows <= rows * min(steps, length)


def test_the_papers_own_calls():
    assert [round(expected_calls(steps, 64), 3) for steps in (16, 64, 1024)] == [15.743, 40.641, 62.070]       # arXiv:2406.03736, its formula at L = 64


@pytest.mark.parametrize(("rule", "calls"), [(FirstHitting(), 3), (FirstHitting(2), 2), (AnyOrder(), 3), (AnyOrder((1, 0, 2, 3)), 3)])
def test_only_hidden_tokens_cost_calls(rule, calls):
    field = chain_field()
    x = sample_tokens(field, start=torch.tensor([[3, 1, 3, 3], [0, 1, 2, 1], [0, 1, 2, 3]]), rule=rule, seed=1)
    assert field.nfe == calls and x[1].tolist() == [0, 1, 2, 1] and x[2, :3].tolist() == [0, 1, 2]
    field.nfe = 0
    shown = torch.tensor([[0, 1, 2, 1]])
    assert torch.equal(sample_tokens(field, start=shown, rule=rule), shown) and field.nfe == 0


# -- randomness --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_samples_do_not_depend_on_the_split(rule):
    field = chain_field(7)
    whole = sample_tokens(field, 11, rule=rule, seed=3)
    assert torch.equal(sample_tokens(field, 11, rule=rule, seed=3, batch=4), whole)
    assert torch.equal(sample_tokens(field, 5, rule=rule, seed=3, first=6), whole[6:])
    assert not torch.equal(sample_tokens(field, 11, rule=rule, seed=4), whole)
    assert bool((whole < 3).all())


def test_split_batches_take_their_own_conditions():
    laws = torch.tensor([[0.9, 0.1], [0.2, 0.8]]).log()
    field = MaskedField(lambda x, t, cond: laws[cond][:, None].expand(*x.shape, 2), MaskedPath(2), (6,))
    cond = torch.tensor([0, 1, 1, 0, 1, 0, 0])
    for rule in (FirstHitting(), MaskedAncestral(5)):
        whole = sample_tokens(field, 7, rule=rule, cond=cond, seed=2)
        assert torch.equal(sample_tokens(field, 7, rule=rule, cond=cond, seed=2, batch=3), whole)
        assert sample_tokens(field, 200, rule=rule, cond=1).double().mean() > 0.6 > sample_tokens(field, 200, rule=rule, cond=0).double().mean() + 0.3


@pytest.mark.parametrize("number", range(6))
def test_unmasking_meets_the_suite_of_all_dynamics(number):
    check_dynamics(Unmasking, number, LINES)


def test_every_position_keeps_to_its_vocabulary():
    field = MaskedField(lambda x, t, cond: torch.zeros(*x.shape, 5), MaskedPath((2, 5, 1)))
    x = sample_tokens(field, 200, seed=1)
    assert x.amax(0).tolist() == [1, 4, 0] and x.amin(0).tolist() == [0, 0, 0]


def nan_net(x, t, cond):
    return torch.full((*x.shape, 3), math.nan)


REFUSALS = [
    (lambda: sample_tokens(chain_field()), ValueError, "n or start must be given"),
    (lambda: sample_tokens(chain_field(), 0), ValueError, "n must be at least 1, got 0"),
    (lambda: sample_tokens(MaskedField(CHAIN, MaskedPath(3)), 2), ValueError, "start must be given: neither the path nor the network"),
    (lambda: sample_tokens(chain_field(), start=torch.tensor([[0, 1, 4, 0]])), ValueError, "start must hold token ids 0..2 or the mask id 3, got 4 at row 0, position 2"),
    (lambda: sample_tokens(chain_field(), start=torch.tensor([[0, -1, 3, 0]])), ValueError, "start must hold token ids 0..2 or the mask id 3, got -1"),
    (lambda: sample_tokens(chain_field(), 3, start=torch.tensor([[0, 1, 3, 0]])), ValueError, "n must be left out or equal the 1 rows of start, got 3"),
    (lambda: sample_tokens(chain_field(), start=torch.zeros(0, 4, dtype=torch.int64)), ValueError, "start must hold at least one row"),
    (lambda: sample_tokens(chain_field(), start=torch.zeros(2, 4)), TypeError, None),
    (lambda: sample_tokens(CHAIN, 2), TypeError, None),
    (lambda: sample_tokens(chain_field(), 2, rule=FirstHitting), TypeError, None),
    (lambda: sample_tokens(chain_field(), 2, temperature=0.0), ValueError, "temperature must lie in"),
    (lambda: sample_tokens(chain_field(), 2, guidance=-1.0, cond=0), ValueError, "guidance must lie in"),
    (lambda: sample_tokens(chain_field(), 2, guidance=2.0), ValueError, "guidance needs a condition"),
    (lambda: sample_tokens(chain_field(), 2, cond=torch.zeros(3, dtype=torch.int64)), ValueError, "cond must have 2 rows"),
    (lambda: sample_tokens(chain_field(), 2, batch=0), ValueError, "batch must be at least 1"),
    (lambda: sample_tokens(chain_field(), 2, rule=AnyOrder((0, 1, 2))), ValueError, "order must hold the 4 positions of a row, got 3"),
    (lambda: sample_tokens(chain_field(), 2, watch=[StopWhen(lambda state: True)]), ValueError, "a watcher ended the run after 1 of 4 steps"),
    (lambda: sample_tokens(MaskedField(nan_net, MaskedPath(3), (4,)), 2), NonFinite, "the largest log-probability of a token is nan at step 0"),
    (lambda: AnyOrder((0, 2)), ValueError, "order must hold every position 0..1 once"),
    (lambda: AnyOrder((0, 0, 1)), ValueError, "order must hold every position 0..2 once"),
    (lambda: MaskedAncestral(0), ValueError, "steps must be at least 1, got 0"),
    (lambda: MaskedAncestral(10**6), ValueError, "steps must be at most 100,000"),
    (lambda: FirstHitting(0), ValueError, "parallel must be at least 1, got 0"),
]


@pytest.mark.parametrize(("call", "error", "match"), REFUSALS, ids=[str(i) for i in range(len(REFUSALS))])
def test_refuses(call, error, match):
    with pytest.raises(error, match=match):
        call()


@pytest.mark.parametrize("rule", [FirstHitting(), MaskedAncestral(8), AnyOrder()], ids=lambda rule: type(rule).__name__)
def test_a_network_with_time_is_told_how_much_is_shown_where_a_row_begins_half_shown(rule):
    """The first call of a run that begins with 4 of 6 tokens shown is not about a row that is nearly all hidden."""
    told = []
    net = lambda x, t, cond: (told.append((float(t[0]), float((x[0] == 3).double().mean()))), torch.zeros(*x.shape, 3))[1]
    start = torch.tensor([[0, 1, 2, 0, 3, 3]])
    sample_tokens(MaskedField(net, MaskedPath(3), (6,)), 1, rule=rule, start=start, seed=1)
    assert told[0][0] >= 4 / 6 - 1e-9 and told[0][1] == pytest.approx(2 / 6)
