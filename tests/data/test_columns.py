"""The encoding of tables: every kind of column, there and back."""
from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm, rankdata

from rheos.core import Draws
from rheos.data import Columns, Encoding, encoding_from_json
from rheos.data.columns import Number, unusable
from rheos.data.dates import date_form
from rheos.data.scales import Rank, Standard


def texts(*values):
    return np.array(values, dtype=object)


TABLE = {
    "price": np.array([3.5, 1.25, 8.0, 3.5, -2.75]),
    "made": texts("2020-02-29", "2021-01-01", "1969-12-31", "2020-03-01", "2020-02-29"),
    "colour, or none": texts("red", None, "blue", 'a "dark" one', "red"),
    "shop": texts("x", "x", "x", "x", "x"),
    "seen": texts("2020-01-01T10:00:00Z", "2020-01-01T12:00:00Z", "2020-01-05T10:00:00Z", "2020-01-01T10:00:00Z", "2020-01-02T13:00:00Z"),
    "count": np.array([1.0, 0.0, 0.0, 1e6, 7.0]),
}
BACK = {name: (values.tolist() if name != "count" else [1, 0, 0, 1000000, 7]) for name, values in TABLE.items()}


@pytest.mark.parametrize("scale", ["standard", "rank"])
def test_a_table_comes_back_as_it_was(scale):
    columns = Columns.fit(TABLE, scale=scale)
    x = columns.encode(TABLE)
    assert columns.decode(x) == BACK and all(type(a) is type(b) for name in TABLE for a, b in zip(columns.decode(x)[name], BACK[name], strict=True))
    assert torch.equal(columns.encode(columns.decode(x)), x) and isinstance(columns, Encoding)
    assert columns.kinds == {"price": "number", "made": "date", "colour, or none": "category", "shop": "constant", "seen": "date", "count": "number"}
    assert columns.names == tuple(TABLE) and columns.dim == 8 and columns.event == (8,) and columns.slices["colour, or none"] == slice(2, 6)
    again = encoding_from_json(json.loads(json.dumps(columns.to_json())))
    assert again == columns and torch.equal(again.encode(TABLE), x) and again.decode(-x) == columns.decode(-x)


def test_standard_numbers_have_mean_0_and_std_1():
    columns = Columns.fit(TABLE)
    x = columns.encode(TABLE).double()
    for name in ("price", "made", "seen", "count"):
        (entry,) = x[:, columns.slices[name]].T
        assert abs(entry.mean()) < 1e-6 and abs((entry**2).mean() - 1) < 1e-6
    days = np.array(["2020-02-29", "2021-01-01", "1969-12-31", "2020-03-01", "2020-02-29"], dtype="datetime64[D]").astype(float)
    torch.testing.assert_close(x[:, 1], torch.from_numpy((days - days.mean()) / days.std()), rtol=0, atol=1e-6)


def test_one_hot_entries_are_signs_in_the_order_of_the_levels():
    columns = Columns.fit({"c": texts("b", "a", None, "b", "c")})
    assert columns.columns[0].levels == ("a", "b", "c", None)
    assert columns.encode({"c": ["c", None]}).tolist() == [[-1, -1, 1, -1], [-1, -1, -1, 1]]
    assert columns.decode(torch.tensor([[-3.0, -2.0, -9.0, -2.5], [0.1, 0.2, 0.3, 7.0]])) == {"c": ["b", None]}


def test_scores_of_ranks_are_scipys(seed):
    values = np.round(Draws(seed).rows("v", 0, (150,)).double().numpy() ** 3, 1)          # skewed, with ties
    x = Columns.fit({"v": values}, scale="rank").encode({"v": values})[:, 0]
    expected = norm.ppf((rankdata(values, method="average") - 0.5) / len(values))
    torch.testing.assert_close(x, torch.from_numpy(expected).float(), rtol=0, atol=1e-6)


def test_ranks_of_many_values_are_close_to_normal_and_have_few_knots(seed):
    values = Draws(seed).rows("v", 0, (20000,), dtype=torch.float64).mul(2.0).exp().numpy()
    column = Columns.fit({"v": values}, scale="rank")
    scale = column.columns[0].scale
    assert len(scale.values) <= 200 and scale.values[0] == values.min() and scale.values[-1] == values.max()
    x = column.encode({"v": values})[:, 0].double().numpy()
    exact = norm.ppf((rankdata(values) - 0.5) / len(values))
    assert np.abs(x - exact).max() < 0.3 and np.abs(x - exact).mean() < 0.01
    back = np.array(column.decode(torch.from_numpy(x)[:, None])["v"])
    np.testing.assert_allclose(back, values, rtol=1e-5)         # x is float32


def test_scales_come_from_the_training_rows_and_levels_from_all():
    table = {"v": np.array([1.0, 2.0, 6.0, 100.0, -50.0]), "c": texts("a", "b", "a", "zebra", "b")}
    rows = torch.tensor([True, True, True, False, False])
    columns = Columns.fit(table, rows=rows)
    x = columns.encode(table)
    assert abs(x[:3, 0].mean()) < 1e-6 and abs((x[:3, 0].double() ** 2).mean() - 1) < 1e-6
    ranked = Columns.fit(table, rows=rows, scale="rank")
    for one in (columns, ranked):
        assert one.decode(one.encode(table)) == {"v": [1, 2, 6, 100, -50], "c": table["c"].tolist()}
    torch.testing.assert_close(ranked.encode(table)[:3, 0], torch.from_numpy(norm.ppf([1 / 6, 0.5, 5 / 6])).float())
    torch.testing.assert_close(ranked.encode(table)[3:, 0], torch.from_numpy(norm.ppf([11 / 12, 1 / 12])).float())


def test_a_number_that_hardly_moves_in_training_takes_the_scale_of_all_rows():
    rows = torch.tensor([True, False, True])
    for values in (np.array([5.0, 9.0, 5.0]), np.array([1e-120, 4.0, 0.0])):
        torch.testing.assert_close(Columns.fit({"v": values}, rows=rows).encode({"v": values})[:, 0], torch.tensor([-1.0, 2.0, -1.0]) / 2**0.5)


def test_decoding_never_leaves_the_column(seed):
    whole = np.arange(120.0) * 3 - 7
    cents = np.round(np.linspace(0.07, 9.31, 77), 2)
    few = np.array([0.1, 0.7, 0.70001, 5.0] * 20)
    dates = texts(*np.datetime_as_string(np.datetime64("2024-02-20") + 7 * np.arange(60)))
    n = 400
    for name, values in (("whole", whole), ("cents", cents), ("few", few), ("dates", dates)):
        for scale in ("standard", "rank"):
            columns = Columns.fit({name: values}, scale=scale)
            found = columns.decode(3 * Draws(seed).rows("x", 0, (n, 1)))[name]
            if name == "dates":
                assert set(found) <= set(values) and {min(found), max(found)} == {values[0], values[-1]}
                continue
            assert min(found) == values.min() and max(found) == values.max()
            if name == "whole":
                assert all(isinstance(v, int) for v in found) and not set(found) <= set(whole)
            elif name == "cents":
                assert all(float(f"{v:.2f}") == v for v in found)
            else:
                assert set(found) <= set(few)


def test_decimals_are_those_of_the_file():
    for values, decimals in (([1.0, 2.0], 0), ([0.57, 1.1], 2), ([1e-6, 3.0], 6), ([1e-7, 3.0], None), ([1 / 3, 2.0], None), ([-1e14 - 0.5, 0.25], 2)):
        assert Number.fit("v", np.array(values), np.ones(2, bool), "standard").decimals == decimals


def test_text_is_csv_that_reads_back():
    columns = Columns.fit(TABLE)
    x = columns.encode(TABLE)
    written = columns.header() + columns.text(x[:2]) + columns.text(x[2:])
    rows = list(csv.reader(io.StringIO(written)))
    assert rows[0] == list(TABLE) and rows[2] == ["1.25", "2021-01-01", "", "x", "2020-01-01T12:00:00Z", "0"] and len(rows) == 6 and rows[4][2] == 'a "dark" one'
    thirds = np.arange(1, 61) / 3
    assert Columns.fit({"v": thirds}).text(Columns.fit({"v": thirds}).encode({"v": thirds[:1]})) == "0.3333333\n"


FORMS = {
    "days": ["2020-01-31", "1066-10-14", "9999-12-31"],
    "minutes": ["2020-01-31 23:59", "2020-02-01 00:00"],
    "seconds": ["2020-01-31T23:59:07", "2020-02-01T00:00:00"],
    "zulu": ["2020-01-31T23:59:07Z", "2020-02-01T00:00:01Z"],
    "offset": ["2020-01-31 23:59:07+05:30", "2020-02-01 00:00:01+05:30"],
    "thousandths": ["2020-01-31T23:59:07.125", "2020-02-01T00:00:00.500"],
    "millionths": ["1969-12-31 23:59:59.999999", "1970-01-01 00:00:00.000001"],
}


@pytest.mark.parametrize("name", FORMS)
def test_dates_come_back_in_their_form(name):
    values = texts(*FORMS[name])
    columns = Columns.fit({"when": values})
    assert columns.kinds == {"when": "date"} and columns.decode(columns.encode({"when": values}))["when"] == FORMS[name]
    numbers = date_form(FORMS[name]).numbers("when", FORMS[name])
    plain = [text.removesuffix("Z").removesuffix("+05:30") for text in FORMS[name]]
    span = (np.datetime64(plain[1], "us") - np.datetime64(plain[0], "us")) / np.timedelta64(1, date_form(FORMS[name]).unit)
    assert numbers[1] - numbers[0] == span


@pytest.mark.parametrize("values", [
    ["2020-02-30", "2020-01-01"], ["2020-13-01", "2020-01-01"], ["2020-01-01", "soon"], ["2020-01-01", "2020-01-01 10:00"], ["01/02/2020", "03/02/2020"],
    ["2020-01-01T10:00Z", "2020-01-01T10:00"], ["2020-01-01T10:00", "2020-01-01 10:00"], ["2020-1-1", "2020-1-2"], ["20200101", "20200102"], [],
    ["2020-01-01T10:00:00.1234567", "2020-01-01T10:00:00"], ["2020-01-01T25:00", "2020-01-01T23:00"], ["٢٠٢٠-01-01", "2020-01-02"],
])
def test_what_is_no_date_is_text(values):
    assert date_form(values) is None


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.data())
def test_real_rows_survive_encoding_and_decoding(data):
    n = data.draw(st.integers(2, 70), label="rows")
    few = st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=6).map(lambda some: (some * n)[:n])
    many = st.lists(st.integers(-10**6, 10**6), min_size=n, max_size=n, unique=True).map(lambda some: [v / 100 for v in some])
    table = {
        "number": np.array(data.draw(few | many, label="number"), dtype=np.float64),
        "text": texts(*data.draw(st.lists(st.none() | st.text(max_size=3), min_size=1, max_size=9).map(lambda some: (some * n)[:n]), label="text")),
        "two": np.arange(n, dtype=np.float64) % 2,
    }
    if unusable(table["text"]):
        return
    rows = torch.arange(n) % data.draw(st.integers(1, 9), label="every") == 0
    columns = Columns.fit(table, scale=data.draw(st.sampled_from(["standard", "rank"])), rows=rows)
    x = columns.encode(table)
    found = columns.decode(x)
    assert found["text"] == table["text"].tolist() and found["two"] == table["two"].tolist()
    torch.testing.assert_close(columns.encode(found), x, rtol=1e-5, atol=1e-5)
    assert encoding_from_json(json.loads(json.dumps(columns.to_json()))) == columns
    wild = columns.decode(torch.full((2, columns.dim), 1e30) * torch.tensor([[1.0], [-1.0]]))
    assert wild["number"] == [table["number"].max(), table["number"].min()]


def test_numbers_that_overflow_squares_keep_their_scale():
    for size in (1e-200, 1e140):
        values = size * np.array([1.0, 2.0, 6.0])
        x = Columns.fit({"v": values}).encode({"v": values})[:, 0]
        torch.testing.assert_close(x, torch.tensor([-2.0, -1.0, 3.0]) / (14 / 3) ** 0.5)


@pytest.mark.parametrize("values, reason", [
    (np.array([np.nan, np.nan]), "holds no value"), (texts(None, None), "holds no value"), (np.array([1.0, np.inf, -np.inf]), "holds 2 infinite values"),
    (np.array([1.0, 1e200]), r"holds numbers as large as 1e\+200"), (texts(*map(str, range(51))), "has 51 different texts, more than 50"),
])
def test_unusable_columns_say_why(values, reason):
    with pytest.raises(ValueError, match=f"column v {reason}"):
        Columns.fit({"v": values, "w": np.arange(float(len(values)))})
    assert unusable(texts(*map(str, range(50)), None)) == ""


@pytest.mark.parametrize("action, message", [
    (lambda c: Columns.fit({"v": np.array([1.0, np.nan])}), "column v has 1 gaps"),
    (lambda c: Columns.fit({"v": texts("2020-01-01", None, "2020-01-02")}), "column v has 1 gaps"),
    (lambda c: Columns.fit({"v": np.array([2.0, 2.0]), "w": texts("a", "a")}), "columns must vary, got one value alone in each of v, w"),
    (lambda c: Columns.fit({}), "columns must vary"),
    (lambda c: Columns.fit(TABLE, scale="log"), "scale must be one of standard, rank"),
    (lambda c: c.encode({"price": [1.0]}), "it lacks made, colour, or none, shop, seen, count"),
    (lambda c: c.encode(BACK | {"price": [1.0]}), r"columns must be of one length, got \[1, 5\]"),
    (lambda c: c.encode(BACK | {"price": ["cheap"] * 5}), "column price must hold numbers"),
    (lambda c: c.encode(BACK | {"price": [np.nan] * 5}), "column price must hold finite numbers"),
    (lambda c: c.encode(BACK | {"made": ["yesterday"] * 5}), "column made holds dates of another form, got 'yesterday'"),
    (lambda c: c.encode(BACK | {"made": ["2021-02-29"] * 5}), "column made must hold dates, got '2021-02-29'"),
    (lambda c: c.encode(BACK | {"colour, or none": ["green"] * 5}), "has no level 'green'"),
    (lambda c: c.encode(BACK | {"shop": ["y"] * 5}), "column shop has no value but 'x', got 'y'"),
    (lambda c: c.decode(torch.zeros(3, 9)), r"x must have shape \(any, "),
    (lambda c: c.decode(torch.full((1, c.dim), torch.nan)), "x must be finite"),
    (lambda c: Columns((c.columns[0], c.columns[0])), "different names"),
    (lambda c: Standard(0.0, 0.0), "std positive"),
    (lambda c: Rank((0.0, 1.0), (1.0, 1.0)), "scores must be two or more rising"),
])
def test_refusals(action, message):
    with pytest.raises(ValueError, match=message):
        action(Columns.fit(TABLE))


def test_damaged_descriptions_are_refused_in_one_line():
    described = Columns.fit(TABLE, scale="rank").to_json()
    for i, column in enumerate(described["columns"]):
        for field in column:
            for wrong in (None, [], {"kind": "no"}, [["a"], 1]):
                bad = described | {"columns": [*described["columns"][:i], column | {field: wrong}, *described["columns"][i + 1:]]}
                if (field, wrong) in (("values", []), ("decimals", None)):
                    continue                                # what a column of many values has
                with pytest.raises(ValueError, match="encoding of a table is damaged") as caught:
                    encoding_from_json(bad)
                assert "\n" not in str(caught.value)
