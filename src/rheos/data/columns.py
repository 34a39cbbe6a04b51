"""A table's columns as numbers on a network's scale, and back: numbers, dates, categories, constants.

number, date: x = (v - mean) / std, or x = Phi^{-1}(F(v)), F the empirical distribution function (scale "rank")
category:     one entry a level, 1 for the row's level and -1 for the others
"""
from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from rheos.core import checks
from rheos.data.dates import DateForm, date_form
from rheos.data.scales import SCALES, Rank, Standard

__all__ = ["MOST_LEVELS", "Category", "Columns", "Constant", "Date", "Number", "unusable"]

MOST_LEVELS = 50            # of a category; a number with no more different values is snapped to them
MOST_DECIMALS = 6
EXACT, LARGEST_WHOLE = 2.0**53, 1e20       # of whole numbers in float64; beyond this they are measurements, not names of things
LARGEST = 1e150             # squares of what is larger overflow
FARTHEST = 1e20             # ranges from a training row that float32 can still hold


@dataclass(frozen=True)
class Number:
    """A column of numbers.

    low, high: the observed range. decimals: how many every value is written with, at most 6; None if more. values: all observed ones if
    there are at most 50, else none. scale: how a value becomes an entry of x.
    """

    name: str
    low: float
    high: float
    decimals: int | None
    values: tuple[float, ...]
    scale: Standard | Rank
    kind: ClassVar[str] = "number"
    width: ClassVar[int] = 1

    def __post_init__(self):
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"column {self.name}: its range must be finite, low < high, got {self.low} to {self.high}")
        if self.decimals is not None and not 0 <= checks.integer("decimals", self.decimals) <= MOST_DECIMALS:
            raise ValueError(f"column {self.name}: decimals must be from 0 to {MOST_DECIMALS}, got {self.decimals}")
        rising = all(a < b for a, b in zip(self.values, self.values[1:], strict=False))
        if not rising or self.values and (self.values[0], self.values[-1]) != (self.low, self.high):
            raise ValueError(f"column {self.name}: values must rise from {self.low} to {self.high}, got {self.values[:5]}")

    @classmethod
    def fit(cls, name: str, values, rows, scale: str) -> Number:
        """values: (n,) float64, finite. rows: which of them the scale is fitted on. What limits decoding (range, values) is taken from all."""
        import numpy as np

        different = np.unique(values)
        low, high = float(different[0]), float(different[-1])
        fitted = values[rows]
        if fitted.size == 0 or (fitted.max() - fitted.min()) * FARTHEST <= high - low:        # all but a constant in training, not beyond it
            fitted = values
        law = Rank.fit(fitted, low, high) if scale == "rank" else Standard.fit(fitted)
        return cls(name, low, high, _decimals(different), tuple(different.tolist()) if len(different) <= MOST_LEVELS else (), law)

    def encode(self, values: Any):
        import numpy as np

        try:
            found = np.asarray(values, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"column {self.name} must hold numbers ({error})") from None
        if not np.isfinite(found).all():
            raise ValueError(f"column {self.name} must hold finite numbers, got {found[~np.isfinite(found)][0]}")
        return self.scale.forward(found)[:, None]

    def nearest(self, x):
        """(n, 1) to float64 (n,): values that the column can have."""
        import numpy as np

        found = np.clip(self.scale.inverse(x[:, 0]), self.low, self.high)
        if self.values:
            known = np.array(self.values)
            above = np.searchsorted(known, found).clip(1, len(known) - 1)
            return np.where(found - known[above - 1] <= known[above] - found, known[above - 1], known[above])
        return found if self.decimals is None else np.clip(np.round(found, self.decimals), self.low, self.high) + 0.0

    def decode(self, x) -> list[Any]:
        found = self.nearest(x)
        whole = self.decimals == 0 and max(-self.low, self.high) < 2.0**62
        return found.astype("int64").tolist() if whole else found.tolist()

    def written(self, values: Sequence[Any]) -> Sequence[Any]:
        """As a file shows them: numbers without a fixed count of decimals with the 7 digits that float32 carries."""
        return values if self.decimals is not None or self.values else [f"{value:.7g}" for value in values]

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "name": self.name, "low": self.low, "high": self.high, "decimals": self.decimals,
                "values": list(self.values), "scale": self.scale.to_json()}

    @classmethod
    def from_json(cls, described: Mapping[str, Any]) -> Number:
        scale = described["scale"]
        law = {"standard": Standard, "rank": Rank}[scale["kind"]].from_json(scale)
        values = tuple(float(value) for value in described["values"])
        return cls(described["name"], float(described["low"]), float(described["high"]), described["decimals"], values, law)


@dataclass(frozen=True)
class Date:
    """A column of ISO dates or times, written back in the form of the file.

    number: counts steps from `origin` on, both in the form's unit since 1970; the step is the largest that reaches every observed date
    (hours where all times are full hours), so decoded dates keep to it.
    """

    name: str
    number: Number
    form: DateForm
    origin: int
    step: int
    kind: ClassVar[str] = "date"
    width: ClassVar[int] = 1

    def __post_init__(self):
        checks.integer("origin", self.origin)
        checks.integer("step", self.step, least=1)
        if max(abs(self.origin + self.step * int(end)) for end in (self.number.low, self.number.high)) >= 2**62:
            raise ValueError(f"column {self.name}: dates beyond the calendar, {self.step} steps apart")
        try:
            self.form.texts([self.origin + self.step * end for end in (self.number.low, self.number.high)])
        except (ValueError, OverflowError) as error:
            raise ValueError(f"column {self.name}: dates beyond the calendar ({error})") from None

    @classmethod
    def fit(cls, name: str, numbers, rows, scale: str, form: DateForm) -> Date:
        """numbers: (n,) float64 in the form's unit, at least two different. rows: as in `Number.fit`."""
        import numpy as np

        origin = int(numbers.min())
        step = int(np.gcd.reduce(np.unique(numbers).astype(np.int64) - origin))
        return cls(name, Number.fit(name, (numbers - origin) / step, rows, scale), form, origin, step)

    def encode(self, values: Any):
        return self.number.encode((self.form.numbers(self.name, values) - self.origin) / self.step)

    def decode(self, x) -> list[Any]:
        return self.form.texts(self.origin + self.step * self.number.nearest(x))

    def written(self, values: Sequence[Any]) -> Sequence[Any]:
        return values

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "name": self.name, "number": self.number.to_json(), "form": self.form.to_json(), "origin": self.origin, "step": self.step}

    @classmethod
    def from_json(cls, described: Mapping[str, Any]) -> Date:
        return cls(described["name"], Number.from_json(described["number"]), DateForm.from_json(described["form"]), described["origin"],
                   described["step"])


@dataclass(frozen=True)
class Category:
    """A column of at most 50 texts; None among the levels is an empty cell."""

    name: str
    levels: tuple[str | None, ...]
    kind: ClassVar[str] = "category"

    def __post_init__(self):
        if not 2 <= len(self.levels) <= MOST_LEVELS + 1 or len(set(self.levels)) < len(self.levels):
            raise ValueError(f"column {self.name}: a category has 2 to {MOST_LEVELS} different levels, got {len(self.levels)}")
        if not all(level is None or isinstance(level, str) for level in self.levels):
            raise ValueError(f"column {self.name}: levels must be texts, got {self.levels[:5]}")

    @property
    def width(self) -> int:
        return len(self.levels)

    def encode(self, values: Any):
        import numpy as np

        place = {level: i for i, level in enumerate(self.levels)}
        try:
            index = np.array([place[value] for value in values], dtype=np.int64)
        except KeyError as error:
            raise ValueError(f"column {self.name} has no level {error.args[0]!r}") from None
        return 2 * (index[:, None] == np.arange(self.width)) - 1.0

    def decode(self, x) -> list[Any]:
        return [self.levels[i] for i in x.argmax(1).tolist()]

    def written(self, values: Sequence[Any]) -> Sequence[Any]:
        return values                   # csv writes None as an empty cell

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "name": self.name, "levels": list(self.levels)}

    @classmethod
    def from_json(cls, described: Mapping[str, Any]) -> Category:
        return cls(described["name"], tuple(described["levels"]))


@dataclass(frozen=True)
class Constant:
    """A column with one value: it takes no numbers, and decoding gives the value back."""

    name: str
    value: str | int | float
    kind: ClassVar[str] = "constant"
    width: ClassVar[int] = 0

    def __post_init__(self):
        if not isinstance(self.value, str | int | float) or isinstance(self.value, float) and not math.isfinite(self.value):
            raise ValueError(f"column {self.name}: a constant is a text or a finite number, got {self.value!r}")

    def encode(self, values: Any):
        import numpy as np

        other = next((value for value in values if value != self.value), None)
        if other is not None:
            raise ValueError(f"column {self.name} has no value but {self.value!r}, got {other!r}")
        return np.zeros((len(values), 0))

    def decode(self, x) -> list[Any]:
        return [self.value] * len(x)

    def written(self, values: Sequence[Any]) -> Sequence[Any]:
        return values

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "name": self.name, "value": self.value}

    @classmethod
    def from_json(cls, described: Mapping[str, Any]) -> Constant:
        return cls(described["name"], described["value"])


Column = Number | Date | Category | Constant
KINDS = {kind.kind: kind for kind in (Number, Date, Category, Constant)}


@dataclass(frozen=True)
class Columns:
    """Rows of a table as x (n, d), and back in the table's own columns, order and units.

    Decoding never leaves the table: numbers are clamped to the observed range, rounded to the decimals that the column has, and snapped to
    the nearest observed value if there were at most 50; categories take the level with the largest entry.

    >>> import numpy as np
    >>> table = {"price": np.array([3.5, 1.25, 8.0]), "colour": np.array(["red", "blue", "red"], dtype=object)}
    >>> columns = Columns.fit(table)
    >>> x = columns.encode(table)
    >>> x.shape, columns.slices["colour"], columns.decode(x + 0.2)
    (torch.Size([3, 3]), slice(1, 3, None), {'price': [3.5, 1.25, 8.0], 'colour': ['red', 'blue', 'red']})
    """

    columns: tuple[Column, ...]
    kind: ClassVar[str] = "columns"
    suffix: ClassVar[str] = ".csv"

    def __post_init__(self):
        if len(set(self.names)) < len(self.columns) or not all(isinstance(name, str) for name in self.names):
            raise ValueError(f"columns must have different names, got {self.names}")
        if self.dim < 1:
            raise ValueError(f"columns must vary, got one value alone in each of {', '.join(self.names) or 'no columns'}")

    @classmethod
    def fit(cls, table: Mapping[str, Any], *, scale: str = "standard", rows: Bool[Tensor, " n"] | None = None) -> Columns:
        """The encoding of a table: float64 arrays without a gap for numbers, object arrays of texts (None: an empty cell) for the rest.

        scale: "standard" or "rank" (at most 200 knots of the empirical distribution, ties at their middle rank, straight lines between).
        rows:  on which of the rows the scales are fitted, all by default. Levels, ranges and the form of dates, which only say what can be
               decoded, come from all rows, so that rows that are held out can be written too.
        ValueError for a column that cannot be used (see `unusable`), for gaps in numbers or dates, and if no column varies.
        """
        import numpy as np

        checks.one_of("scale", scale, SCALES)
        made = []
        for name, values in table.items():
            why = unusable(values)
            if why:
                raise ValueError(f"column {name} {why}")
            chosen = np.ones(len(values), bool) if rows is None else rows.numpy()
            made.append(_fitted(name, values, chosen, scale))
        return cls(tuple(made))

    @property
    def names(self) -> tuple[str, ...]:
        """As in the table."""
        return tuple(column.name for column in self.columns)

    @property
    def dim(self) -> int:
        """Entries of a row of x."""
        return sum(column.width for column in self.columns)

    @property
    def event(self) -> tuple[int]:
        return (self.dim,)

    @property
    def kinds(self) -> dict[str, str]:
        """"number", "date", "category" or "constant", by name."""
        return {column.name: column.kind for column in self.columns}

    @property
    def slices(self) -> dict[str, slice]:
        """Which entries of x a column has, by name."""
        ends = torch.tensor([0, *(column.width for column in self.columns)]).cumsum(0).tolist()
        return {column.name: slice(low, high) for column, low, high in zip(self.columns, ends, ends[1:], strict=False)}

    def encode(self, table: Mapping[str, Any]) -> Float[Tensor, "n d"]:
        """Columns by name, all of one length, to float32. ValueError for a missing column, another length, or a value the column cannot have."""
        import numpy as np

        missing = [name for name in self.names if name not in table]
        if missing:
            raise ValueError(f"table must hold the columns {', '.join(self.names)}, it lacks {', '.join(missing)}")
        lengths = {len(table[name]) for name in self.names}
        if len(lengths) != 1:
            raise ValueError(f"columns must be of one length, got {sorted(lengths)}")
        parts = [column.encode(table[column.name]).astype(np.float32) for column in self.columns]
        return torch.from_numpy(np.concatenate(parts, 1))

    def decode(self, x: Tensor) -> dict[str, list[Any]]:
        """Columns by name: int, float, str, or None for an empty cell. ValueError for another shape or entries that are not finite."""
        checks.shape_of("x", x, (None, self.dim))
        found = checks.finite("x", x).detach().cpu().double().numpy()
        return {column.name: column.decode(found[:, place]) for column, place in zip(self.columns, self.slices.values(), strict=True)}

    def header(self) -> str:
        """The names as the first line of a CSV file."""
        return _csv([self.names])

    def text(self, x: Tensor) -> str:
        """The rows as lines of a CSV file."""
        found = self.decode(x)
        return _csv(zip(*(column.written(found[column.name]) for column in self.columns), strict=True))

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "columns": [column.to_json() for column in self.columns]}

    @classmethod
    def from_json(cls, described: Mapping[str, Any]) -> Columns:
        """The encoding that `to_json` described. ValueError if something is missing or wrong."""
        try:
            return cls(tuple(KINDS[column["kind"]].from_json(column) for column in described["columns"]))
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ValueError(f"encoding of a table is damaged ({type(error).__name__}: {str(error).split(chr(10))[0]})") from error


def unusable(values) -> str:
    """Why a column (float64, NaN for a gap; or texts, None for a gap) cannot be used, as the end of a sentence; "" if it can."""
    import numpy as np

    if values.dtype.kind == "f":
        if np.isnan(values).all():
            return "holds no value"
        endless = int(np.isinf(values).sum())
        if endless:
            return f"holds {endless:,} infinite values"
        most = float(np.nanmax(np.abs(values)))
        if EXACT < most < LARGEST_WHOLE and bool((values[~np.isnan(values)] % 1 == 0).all()):
            return f"holds whole numbers as large as {most:g}, more than the {EXACT:g} up to which all can be told apart"
        return f"holds numbers as large as {most:g}" if most > LARGEST else ""
    different = set(values.tolist()) - {None}
    if not different:
        return "holds no value"
    if len(different) > MOST_LEVELS and date_form(different) is None:
        bare = [re.sub(r"[\s$€£¥%']", "", text) for text in different]
        signed = sum(bool(re.search(r"[$€£¥%,']", text)) for text in different)
        if signed > len(bare) / 2 and sum(bool(re.fullmatch(r"[-+]?\d[\d.,]*", text)) for text in bare) > 0.9 * len(bare):
            return f"holds numbers that are written with signs, such as {min(different)!r}: write them as 1234.5; or"
        if sum(bool(re.fullmatch(r"\d{1,2}[./]\d{1,2}[./]\d{2,4}", text)) for text in bare) > 0.9 * len(bare):
            return f"holds dates of another form than 2020-12-31, such as {min(different)!r}: write them so; or"
        return f"has {len(different):,} different texts, more than {MOST_LEVELS}"
    return ""


def _fitted(name: str, values, rows, scale: str) -> Column:
    import numpy as np

    if values.dtype.kind == "f":
        if np.isnan(values).any():
            raise ValueError(f"column {name} has {int(np.isnan(values).sum()):,} gaps")
        if values.min() == values.max():
            whole = float(values[0]).is_integer() and abs(values[0]) < 2.0**62
            return Constant(name, int(values[0]) if whole else float(values[0]))
        return Number.fit(name, values, rows, scale)
    different = set(values.tolist())
    form = date_form(different - {None})
    if len(different) == 1:
        return Constant(name, *different)
    if form is None:
        return Category(name, tuple(sorted(different - {None})) + ((None,) if None in different else ()))
    if None in different:
        raise ValueError(f"column {name} has {sum(value is None for value in values):,} gaps")
    numbers = form.numbers(name, values)
    if numbers.min() == numbers.max():          # the same moment written in two ways
        return Constant(name, min(different))
    return Date.fit(name, numbers, rows, scale, form)


def _decimals(values) -> int | None:
    """The least count of decimals, at most 6, that writes every value; None if there is none."""
    import numpy as np

    return next((count for count in range(MOST_DECIMALS + 1) if np.array_equal(np.round(values, count), values)), None)


def _csv(rows) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()
