"""Data as token ids and back: bins of numbers, a table's columns, text."""
import json

import numpy as np
import pytest
import torch

from rheos.core import Draws
from rheos.data import Bins, Columns, Dataset, Tokens
from rheos.data.discrete import Discrete, TableTokens, discrete

F64 = torch.float64


def table(n: int = 300) -> tuple[Columns, torch.Tensor]:
    draws = np.random.default_rng(3)
    columns = {
        "size": draws.gamma(2.0, 3.0, n).round(2), "colour": np.array(draws.choice(["red", "blue", "green"], n, p=[0.6, 0.3, 0.1]), dtype=object),
        "same": np.full(n, 4.0), "doors": draws.choice([2.0, 4.0, 5.0], n), "day": np.array([f"2020-01-{1 + k % 28:02}" for k in range(n)], dtype=object),
        "paid": np.where(draws.random(n) < 0.5, 0.0, draws.exponential(40.0, n).round(1)),
    }
    encoding = Columns.fit(columns)
    return encoding, encoding.encode(columns)


def test_bins_hold_about_as_many_rows_each(seed):
    values = Draws(seed).rows("values", 0, (3000,), dtype=F64).exp()
    bins = Bins.fit(values, 20)
    counts = torch.bincount(bins.ids(values), minlength=len(bins))
    assert len(bins) == 20 and int(counts.min()) >= 140 and int(counts.max()) <= 160
    edges = torch.tensor([*bins.lows, bins.highs[-1]], dtype=F64)
    inside = [(values >= low) & (values <= high) for low, high in zip(bins.lows, bins.highs, strict=True)]
    assert torch.equal(torch.stack(inside).double().argmax(0), bins.ids(values)) and bool((edges.diff() > 0).all())


def test_values_that_are_frequent_stand_alone_and_few_values_have_a_bin_each():
    values = torch.cat([torch.zeros(500), torch.linspace(0.1, 9.0, 400), torch.full((100,), 3.0)])
    bins = Bins.fit(values, 16)
    assert (bins.lows[0], bins.highs[0]) == (0.0, 0.0) and len(bins) <= 16
    alone = bins.ids(torch.tensor([3.0], dtype=F64))[0]
    assert bins.lows[alone] == bins.highs[alone] == 3.0
    few = torch.tensor([2.0, -1.0, 2.0, 7.5])
    assert Bins.fit(few, 3).lows == (-1.0, 2.0, 7.5) == Bins.fit(few, 3).highs
    assert Bins.fit(torch.tensor([4.0, 4.0])).lows == (4.0,)


def test_values_are_uniform_inside_their_bin_and_ids_come_back(seed):
    bins = Bins((-2.0, 1.0, 5.0), (0.0, 1.0, 5.5))
    ids = torch.tensor([0, 1, 2]).repeat(4000)
    u = Draws(seed).uniform("u", 0, (12_000,), dtype=F64)
    values = bins.values(ids, u)
    assert torch.equal(bins.ids(values), ids)
    first = values[ids == 0]
    assert abs(float(first.mean()) + 1.0) < 5 * (2 / 12**0.5) / 4000**0.5 and bool((values[ids == 1] == 1.0).all())
    assert bins.ids(torch.tensor([-9.0, 0.4, 0.6, 99.0])).tolist() == [0, 0, 1, 2]           # the nearer bin


def test_a_tables_rows_survive_the_way_to_ids_and_back():
    columns, x = table()
    tokens = TableTokens.fit(columns, x)
    assert isinstance(tokens, Discrete) and tokens.names == ("size", "colour", "doors", "day", "paid") and tokens.vocab[1:4] == (3, 3, 28)
    assert tokens.vocab[0] == 32 and 10 <= tokens.vocab[4] <= 32
    ids = tokens.ids(x)
    back = tokens.from_ids(ids, seed=2)
    assert torch.equal(tokens.ids(back), ids) and bool((ids >= 0).all()) and bool((ids.amax(0) < torch.tensor(tokens.vocab)).all())
    real, drawn = columns.decode(x), columns.decode(back)
    for name in ("colour", "same", "doors", "day"):
        assert drawn[name] == real[name]
    paid = np.array(real["paid"])
    assert (np.array(drawn["paid"])[paid == 0] == 0).all()                      # half of all rows: a bin of its own
    low, high = x[:, 0].sort().values[[0, -1]]
    assert bool(((back[:, 0] >= low - 1e-6) & (back[:, 0] <= high + 1e-6)).all()) and not torch.equal(back[:, 0], x[:, 0])
    assert torch.equal(tokens.from_ids(ids[7:], seed=2, first=7), back[7:])


def test_tokens_of_a_table_survive_json():
    columns, x = table()
    tokens = TableTokens.fit(columns, x)
    assert TableTokens.from_json(columns, json.loads(json.dumps(tokens.to_json()))) == tokens


@pytest.mark.parametrize("code", ["bits", "onehot"])
def test_text_is_ids_already(code):
    tokens = Tokens((10, 65, 66, 200, 201), 4, code)
    x = tokens.encode([bytes([65, 200, 10, 66]), bytes([201, 201, 65, 10])])
    ids = tokens.ids(x)
    assert ids.tolist() == [[1, 3, 0, 2], [4, 4, 1, 0]] and torch.equal(tokens.from_ids(ids), x) and tokens.vocab == 5
    assert discrete(Dataset("text", x, encoding=tokens)) is tokens and isinstance(tokens, Discrete)


def test_a_data_set_tells_its_tokens():
    columns, x = table()
    assert discrete(Dataset("table", x, encoding=columns)) == TableTokens.fit(columns, x)


COLUMNS, ROWS = table()
TABLE = TableTokens.fit(COLUMNS, ROWS)
REFUSALS = [
    (lambda: Bins((), ()), ValueError, "bins must be finite, rising and apart"),
    (lambda: Bins((0.0, 1.0), (1.0, 2.0)), ValueError, "bins must be finite, rising and apart"),
    (lambda: Bins((0.0, 3.0), (1.0, float("inf"))), ValueError, "bins must be finite, rising and apart"),
    (lambda: Bins((0.0, 3.0), (1.0,)), ValueError, "bins must be finite, rising and apart"),
    (lambda: Bins.fit(torch.tensor([])), ValueError, "values must hold at least one number"),
    (lambda: Bins.fit(torch.tensor([1.0, float("nan")])), ValueError, "values must be finite"),
    (lambda: Bins((0.0, 3.0), (1.0, 4.0)).values(torch.tensor([2]), torch.tensor([0.5])), ValueError, r"ids must lie in 0..1, got 2 to 2"),
    (lambda: TableTokens(COLUMNS, [None]), ValueError, "bins must be one for each of the 5 columns that vary, got 1"),
    (lambda: TableTokens(COLUMNS, [None, *TABLE.bins[1:]]), ValueError, "column size is a number, so it must have bins"),
    (lambda: TABLE.from_ids(torch.tensor([[0, 3, 0, 0, 0]])), ValueError, "ids of column colour must lie in 0..2, got 3 to 3"),
    (lambda: TABLE.from_ids(torch.tensor([[0, 1]])), ValueError, "ids must have shape"),
    (lambda: TABLE.ids(ROWS[:, :3]), ValueError, "x must have shape"),
    (lambda: TableTokens.from_json(COLUMNS, {}), ValueError, "bins of a table are damaged"),
    (lambda: Tokens((65, 66), 3).from_ids(torch.tensor([[0, 1, 2]])), ValueError, "ids must lie in 0..1, got 0 to 2"),
    (lambda: Tokens((65, 66), 3).from_ids(torch.tensor([[0, 1]])), ValueError, "ids must have shape"),
    (lambda: discrete(Dataset("arrays", torch.zeros(3, 2, 2))), ValueError, r"arrays: a masked path is for text and tables, .* arrays of shape \(2, 2\)"),
]


@pytest.mark.parametrize(("call", "error", "match"), REFUSALS, ids=[str(i) for i in range(len(REFUSALS))])
def test_refuses(call, error, match):
    with pytest.raises(error, match=match):
        call()
