"""A table (.csv, .tsv, .parquet) as rows of numbers that go back into its own columns."""
from __future__ import annotations

import csv
import difflib
import hashlib
import io
import shlex
import warnings
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rheos.core import checks
from rheos.core.extras import require
from rheos.data.cache import cached
from rheos.data.columns import MOST_LEVELS, Columns, unusable
from rheos.data.dataset import Dataset, divided
from rheos.data.dates import date_form
from rheos.data.scales import SCALES

__all__ = ["SUFFIXES", "from_table"]

SUFFIXES = (".csv", ".tsv", ".parquet")
MISSING = ("refuse", "drop", "median")
GAPS = ("", "NA", "N/A", "#N/A", "<NA>", "NaN", "nan", "NULL", "null")         # "None" is a text: it is a level in many a table
CODE = r"^[-+]?0\d"         # a postcode or the like: digits after a leading zero
SHOWN = 5


def from_table(path: str | Path, *, held_out: float = 0.1, columns: str | Sequence[str] | None = None, label: str | None = None,
               missing: str = "refuse", scale: str = "standard") -> Dataset:
    """Read a table with a header: x (n, d) on a network's scale, encoding `Columns`. Needs pandas, and pyarrow for .parquet (extra `tables`).

    columns: names, as a sequence or a text with commas; all by default. What a column is, its content decides: numbers; ISO dates; texts
             and booleans with at most 50 different ones (a category); one value alone (a constant, which takes no numbers).
    label:   a column of 2 to 50 texts or whole numbers that is taken out of x and becomes y.
    missing: empty cells, NA, NaN, null. "refuse"; "drop" leaves out the rows that have any; "median" puts the (lower) median of the
             training rows into numbers and dates, and makes an empty cell a level of its own in a category.
    scale:   of numbers and dates, "standard" or "rank", see `scales`.
    Rows are held out by the hash of their cells as they stand in the file (without the label), equal rows together. Scales and medians are
    taken from the training rows; levels, ranges and decimals, which say only what can be written, from all.
    ValueError in one line naming the file, what was found and the option that helps; ImportError that names the extra.
    """
    path = Path(path)
    held_out = checks.between("held_out", held_out, 0.0, 1.0, high_open=True)
    checks.one_of("missing", missing, MISSING)
    checks.one_of("scale", scale, SCALES)
    wanted = None if columns is None else _names(columns)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: a table must be a {', '.join(SUFFIXES)} file, got suffix {path.suffix!r}")
    if not path.is_file():
        raise ValueError(f"{path}: {'is a folder, not a file' if path.is_dir() else 'there is no such file'}")
    settings = {"columns": wanted, "label": label, "missing": missing, "scale": scale, "held_out": held_out}
    tensors, about = cached("table", {path.suffix.lower(): path}, settings, lambda: _parsed(path, wanted, label, missing, scale, held_out))
    encoding, labels = Columns.from_json(about["encoding"]), None if about["labels"] is None else tuple(about["labels"])
    counts = Counter(encoding.kinds.values())
    words = {"number": ("number", "numbers"), "date": ("date", "dates"), "category": ("category", "categories"), "constant": ("constant", "constants")}
    counted = ", ".join(f"{counts[kind]} {one if counts[kind] == 1 else many}" for kind, (one, many) in words.items() if counts[kind])
    return divided(path.stem, tensors["x"], tensors.get("y"), held_out, apart=tensors["apart"], encoding=encoding, source=str(path), labels=labels,
                   classes=None if labels is None else len(labels), meaning=f"rows of {path.name} as {encoding.dim} entries: {counted}")


def _names(columns: str | Sequence[str]) -> list[str]:
    """The names asked for, each once."""
    try:
        names = [str(name).strip() for name in (next(csv.reader([columns]), []) if isinstance(columns, str) else columns)]
    except csv.Error:                           # a line break outside quotes
        names = []
    if not names or "" in names:
        raise ValueError(f"columns must be names with commas between them, got {columns!r}")
    return list(dict.fromkeys(names))


def _parsed(path: Path, wanted: list[str] | None, label: str | None, missing: str, scale: str,
            held_out: float) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """x, which rows are apart, and y; the encoding and the labels."""
    import numpy as np

    table = _read_parquet(path) if path.suffix.lower() == ".parquet" else _read_text(path)
    reasons = {name: values if isinstance(values, str) else unusable(values) for name, values in table.items()}
    for name in [*(wanted or ()), *([label] if label is not None else ())]:
        if name not in table:
            near = difflib.get_close_matches(name, table, n=3)
            raise ValueError(f"{path}: there is no column {name!r}; {'near it' if near else 'it has'}: {_listed(near or list(table))}")
    names = [name for name in wanted or table if name != label]
    bad = [name for name in names if reasons[name]]
    good = [name for name in names if not reasons[name]]
    if bad:
        more = f" (and {len(bad) - 1} more cannot be used: {_listed(bad[1:])})" if len(bad) > 1 else ""
        way = f"leave {'them' if more else 'it'} out with --columns {_pasted(good)}" if good else "no column can be used"
        raise ValueError(f"{path}: column {bad[0]} {reasons[bad[0]]}{more}: {way}")
    if not names:
        raise ValueError(f"{path}: no column is left beside the label {label}")
    levels = None if label is None else _levels(path, label, table[label])
    gaps = {name: _gaps(table[name]) for name in [*names, *([label] if label is not None else [])]}
    holes = {name: int(gap.sum()) for name, gap in gaps.items() if gap.any()}
    whole = ~np.logical_or.reduce(list(gaps.values()))
    if holes and missing == "refuse":
        raise ValueError(f"{path}: values are missing in {len(holes)} of {len(gaps)} columns, "
                         f"{_listed([f'{name} {count:,}' for name, count in holes.items()])}: add --missing drop to leave out "
                         f"{len(whole) - int(whole.sum()):,} of {len(whole):,} rows, or --missing median to fill")
    if holes and missing == "drop":
        if not whole.any():
            raise ValueError(f"{path}: every row misses a value ({_listed([f'{name} {count:,}' for name, count in holes.items()])}): "
                             "leave columns out with --columns, or fill with --missing median")
        table = {name: table[name][whole] for name in gaps}
    y = None if label is None else _label(path, label, levels, table[label])
    chosen = {name: table[name] for name in names}
    apart = _fall_below(list(chosen.values()), held_out)
    if bool(apart.all()):
        raise ValueError(f"{path}: all {len(apart)} rows fall into the held-out part, none is left to train on: lower --held-out ({held_out:g})")
    if missing == "median":
        chosen = {name: _filled(values, ~apart.numpy()) for name, values in chosen.items()}
    try:
        encoding = Columns.fit(chosen, scale=scale, rows=~apart)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    tensors = {"x": encoding.encode(chosen), "apart": apart} | ({} if y is None else {"y": y})
    labels = None if levels is None else [str(int(level)) if isinstance(level, float) else level for level in levels]
    return tensors, {"encoding": encoding.to_json(), "labels": labels}


# -- what stands in the cells -----------------------------------------------------------------------------------------------


def _gaps(values):
    import numpy as np

    return np.isnan(values) if values.dtype.kind == "f" else np.array([value is None for value in values], dtype=bool)


def _filled(values, rows):
    """Gaps of numbers and dates take the lower median of the given rows, an observed value; those of categories stay."""
    import numpy as np

    from rheos.data.dates import date_form

    gaps = _gaps(values)
    if not gaps.any():
        return values
    if values.dtype.kind == "O" and date_form(set(values[~gaps].tolist())) is None:
        return values
    known = values[rows & ~gaps] if (rows & ~gaps).any() else values[~gaps]
    known = np.sort(known)                              # ISO dates of one form are in order as texts
    return np.where(gaps, known[(len(known) - 1) // 2], values)


def _fall_below(columns: Sequence[Any], fraction: float) -> Tensor:
    """As `dataset.falls_below`, of cells as they stand in the file: numbers by their float64 bytes, texts by their own hash."""
    import numpy as np

    words = []
    for values in columns:
        if values.dtype.kind == "f":
            words.append(np.where(np.isnan(values), np.nan, values + 0.0).astype("<f8").view("<u8"))
        else:
            known = {text: hashlib.blake2b(f"text {text}".encode(errors="surrogatepass") if text is not None else b"", digest_size=8).digest()
                     for text in set(values.tolist())}
            words.append(np.frombuffer(b"".join([known[text] for text in values.tolist()]), dtype="<u8"))
    rows, limit = np.stack(words, 1).astype("<u8"), int(fraction * 2.0**64)
    below = [int.from_bytes(hashlib.blake2b(row, digest_size=8).digest(), "little") < limit for row in map(bytes, rows)]
    return torch.tensor(below, dtype=torch.bool)


def _levels(path: Path, name: str, values: Any) -> list[Any]:
    """The different values of a label, in order. ValueError if they are none."""
    import numpy as np

    if isinstance(values, str):
        raise ValueError(f"{path}: column {name} {values}, so it cannot be --label")
    known = values[~_gaps(values)]
    if known.dtype.kind == "f" and not (np.isfinite(known).all() and (known == np.round(known)).all()):
        raise ValueError(f"{path}: column {name} holds numbers that are not whole, so it cannot be --label")
    levels = np.unique(known).tolist() if known.dtype.kind == "f" else sorted(set(known.tolist()))
    if not 2 <= len(levels) <= MOST_LEVELS:
        raise ValueError(f"{path}: column {name} has {len(levels):,} different values, a label has 2 to {MOST_LEVELS}")
    return levels


def _label(path: Path, name: str, levels: Sequence[Any], values: Any) -> Tensor:
    gaps = int(_gaps(values).sum())
    if gaps:
        raise ValueError(f"{path}: column {name} is missing in {gaps:,} rows, so it cannot be --label: add --missing drop")
    number = {value: i for i, value in enumerate(levels)}
    return torch.tensor([number[value] for value in values.tolist()])


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def _pasted(names: Sequence[str]) -> str:
    """Names as a shell takes them after --columns."""
    out = io.StringIO()
    csv.writer(out, lineterminator="").writerow(names)
    return shlex.quote(out.getvalue())


# -- files ------------------------------------------------------------------------------------------------------------------


def _read_text(path: Path) -> dict[str, Any]:
    """Columns of a .csv or .tsv file by name: arrays as `columns.unusable` takes them, or a text that says why there is none."""
    pandas = require("pandas", extra="tables")
    separator = "\t" if path.suffix.lower() == ".tsv" else ","
    names = _header(path, separator)
    keys = [name or f"number {i + 1}" for i, name in enumerate(names)]
    if len(keys) == 1 and any(sign in keys[0] for sign in ";\t|,".replace(separator, "")):
        raise ValueError(f"{path}: has one column, called {keys[0]!r}: cells must be separated by {'tabs' if separator == chr(9) else 'commas'}")
    if all(_is_value(name) for name in names):
        raise ValueError(f"{path}: its first line, {', '.join(names[:SHOWN])}, holds values: put a line with the columns' names above it")
    if len(set(keys)) < len(keys):
        twice = next(name for name in keys if keys.count(name) > 1)
        raise ValueError(f"{path}: {keys.count(twice)} columns are called {twice}: give every column a name of its own")
    how: dict[str, Any] = {"sep": separator, "header": 0, "names": keys, "index_col": False, "keep_default_na": False, "na_values": list(GAPS),
                           "encoding": "utf-8", "low_memory": False}
    if int(pandas.__version__.split(".")[0]) < 3:
        how["float_precision"] = "round_trip"           # later versions read numbers to the bit anyway
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pandas.errors.ParserWarning)         # rows longer than the header would be cut
            frame = pandas.read_csv(path, **how)
            flags = [key for key in keys if frame[key].dtype == bool or frame[key].dtype == object]
            codes = [key for key in keys if frame[key].dtype.kind in "iuf"]
            if flags or codes:                  # True, TRUE and true are read as booleans: take them as they are written
                written = pandas.read_csv(path, **how, usecols=[*flags, *codes], dtype=str)
                # 01234 is no number but a code, which would come back without its zero.
                flags += [key for key in codes if written[key].str.contains(CODE, na=False).any()]
                frame = frame.drop(columns=flags).join(written[flags]) if flags else frame
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not UTF-8 text (byte {error.start:,}): save it as UTF-8") from error
    except Exception as error:                  # a parser's complaints have many types
        raise ValueError(f"{path}: cannot be read as a table ({_first_line(error)})") from error
    if not len(frame):
        raise ValueError(f"{path}: has a header and no rows")
    return {key: _plain(frame[key]) if name else "has no name" for key, name in zip(keys, names, strict=True)}


def _header(path: Path, separator: str) -> list[str]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            names = next((row for row in csv.reader(file, delimiter=separator) if row), None)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: is not UTF-8 text ({error.reason}): save it as UTF-8") from error
    except (csv.Error, OSError) as error:
        raise ValueError(f"{path}: cannot be read as a table ({_first_line(error)})") from error
    if names is None:
        raise ValueError(f"{path}: is empty")
    return [name.strip() for name in names]


def _read_parquet(path: Path) -> dict[str, Any]:
    require("pandas", extra="tables")
    parquet = require("pyarrow.parquet", extra="tables")
    try:
        with parquet.ParquetFile(path) as file:
            found = file.read()
        names = found.column_names
        series = [found.column(i).to_pandas() for i in range(len(names))]
    except Exception as error:
        raise ValueError(f"{path}: cannot be read as a table ({_first_line(error)})") from error
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{path}: {names.count(twice)} columns are called {twice}: give every column a name of its own")
    if not names or not found.num_rows:
        raise ValueError(f"{path}: has {len(names)} columns and {found.num_rows} rows")
    return {name: _plain(column) if name else "has no name" for name, column in zip(names, series, strict=True)}


def _is_value(cell: str) -> bool:
    """Whether a cell is a number or a date, and so no name of a column that anybody would give."""
    try:
        float(cell)
    except ValueError:
        return bool(cell) and date_form([cell]) is not None
    return True


def _first_line(error: Exception) -> str:
    return (str(error).strip().split("\n")[0][:200] or type(error).__name__).rstrip(".")


def _plain(series) -> Any:
    """A pandas column as float64 (NaN for a gap) or texts (None for a gap); why not, if it is neither."""
    import datetime

    import numpy as np
    import pandas

    kind = series.dtype
    if pandas.api.types.is_bool_dtype(kind) and not series.hasnans:
        return series.astype(bool).to_numpy().astype(str).astype(object)
    if pandas.api.types.is_numeric_dtype(kind) and not pandas.api.types.is_bool_dtype(kind):
        if pandas.api.types.is_complex_dtype(kind):
            return "holds complex numbers"
        found = series.to_numpy(dtype=np.float64, na_value=np.nan)
        return _as_written(found, series.to_numpy()) if kind == np.float32 else found
    if pandas.api.types.is_datetime64_any_dtype(kind):
        return _dated(series)
    cells = series.astype(object).to_numpy(dtype=object)
    gaps = pandas.isna(cells)
    kinds = {type(cell) for cell in cells[~gaps]}
    if kinds <= {bool, np.bool_, str} or all(issubclass(kind, datetime.date) for kind in kinds):
        texts = np.array([None if gap else cell.isoformat() if isinstance(cell, datetime.date) else str(cell)
                          for cell, gap in zip(cells.tolist(), gaps.tolist(), strict=True)], dtype=object)
        return np.where(texts == "", None, texts)
    if kinds <= {int, float, Decimal}:
        return np.array([np.nan if gap else float(cell) for cell, gap in zip(cells, gaps, strict=True)], dtype=np.float64)
    return f"holds {' and '.join(sorted(kind.__name__ for kind in kinds))} objects"


def _as_written(found, short):
    """float32 numbers as the decimals they were rounded from, where six are enough: 0.1, not 0.10000000149."""
    import numpy as np

    for count in range(7):
        rounded = np.round(found, count)
        if np.array_equal(rounded.astype(np.float32), short, equal_nan=True):
            return rounded
    return found


def _dated(series) -> Any:
    """Timestamps as ISO texts, days alone where no time of day is set; times with a zone in UTC."""
    import numpy as np

    zoned = getattr(series.dtype, "tz", None) is not None
    found = (series.dt.tz_convert("UTC").dt.tz_localize(None) if zoned else series).to_numpy().astype("datetime64[us]")
    gaps = np.isnat(found)
    units = ("D", "s", "ms", "us") if not zoned else ("s", "ms", "us")
    unit = next(unit for unit in units if np.array_equal(found[~gaps].astype(f"datetime64[{unit}]").astype("datetime64[us]"), found[~gaps]))
    texts = np.char.add(np.datetime_as_string(found, unit=unit), "Z" if zoned else "").astype(object)
    texts[gaps] = None
    return texts
