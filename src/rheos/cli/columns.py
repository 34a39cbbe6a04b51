"""What a report measures of a table, column by column, in the table's own units; and what its columns have to do with each other."""
from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from rheos.data import Dataset

__all__ = ["ColumnQuality", "TableQuality", "judged_columns"]

MOST_ASSOCIATED = 100       # columns whose associations are compared
EMPTY = "(empty)"           # how an empty cell is called


@dataclass
class ColumnQuality:
    """One column.

    samples, truth: its values in samples and in the held-out rows (in the training rows where none are held out): float64 numbers, of a date
    units of its form since 1970, or int64 codes of levels; None for a constant. distance, floor, gaussian: None where nothing was held out.
    column: what the encoding knows of it, or None for the columns of a plain array.
    """

    name: str
    kind: str
    samples: Tensor | None
    truth: Tensor | None
    column: Any = None
    distance: tuple[float, float | None] | None = None
    floor: float | None = None
    gaussian: float | None = None

    @property
    def unit(self) -> str:
        return "total variation" if self.kind == "category" else "standard deviations"

    @property
    def levels(self) -> list[str]:
        """Names of a category's codes."""
        return [EMPTY if level is None else str(level) for level in self.column.levels]

    @property
    def whole(self) -> bool:
        """Whether all values are whole numbers."""
        number = self.column.number if self.kind == "date" else self.column
        return number is not None and number.decimals == 0

    def shares(self) -> list[tuple[str, float, float]]:
        """(level, share of samples, share of the data), the data's most frequent level first."""
        import torch

        ours, theirs = (torch.bincount(codes, minlength=len(self.levels)).double() / len(codes) for codes in (self.samples, self.truth))
        return [(self.levels[i], float(ours[i]), float(theirs[i])) for i in theirs.argsort(descending=True, stable=True).tolist()]

    def written(self, values: Tensor) -> list[str]:
        """Values as the table writes them."""
        if self.kind == "date":
            return [str(text) for text in self.column.form.texts(values.numpy())]
        return [f"{value:.0f}" if self.whole else f"{value:.4g}" for value in values.tolist()]

    def quartiles(self, values: Tensor) -> Tensor:
        """The three quartiles; of dates, days that occur."""
        import torch

        at = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
        return values.quantile(at, interpolation="nearest") if self.kind == "date" else values.quantile(at)

    def to_json(self) -> dict[str, Any]:
        found = {"name": self.name, "kind": self.kind, "distance": None if self.distance is None else {"mean": self.distance[0], "std": self.distance[1]},
                 "floor": self.floor, "gaussian": self.gaussian, "unit": self.unit}
        if self.kind == "constant":
            return found | {"value": self.column.value}
        if self.kind == "category":
            return found | {"shares": {level: {"samples": ours, "data": theirs} for level, ours, theirs in self.shares()}}
        if self.kind == "date":
            found |= {"quartiles": self.written(self.quartiles(self.samples)), "data_quartiles": self.written(self.quartiles(self.truth))}
        else:
            found |= {"mean": float(self.samples.mean()), "std": float(self.samples.std(correction=0)),
                      "data_mean": float(self.truth.mean()), "data_std": float(self.truth.std(correction=0))}
        return found


@dataclass
class TableQuality:
    """All columns, and the matrices of associations of those that vary. error: mean difference of the two; None where nothing was held out."""

    columns: list[ColumnQuality] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    samples: Tensor | None = None
    truth: Tensor | None = None
    error: tuple[float, float | None] | None = None
    floor: float | None = None
    gaussian: float | None = None

    def to_json(self) -> dict[str, Any] | None:
        if self.samples is None:
            return None
        return {"columns": self.names, "samples": self.samples.tolist(), "data": self.truth.tolist(), "floor": self.floor, "gaussian": self.gaussian,
                "error": None if self.error is None else {"mean": self.error[0], "std": self.error[1]}}


def judged_columns(data: Dataset, drawn: Sequence[Tensor], train: Tensor | None, truth: Tensor, fits: Sequence[Tensor]) -> TableQuality:
    """Every column of the drawn sets beside the same of `truth`.

    drawn: (n, d) a draw. train: training rows in the samples' place for the floor, or None where nothing was held out: then nothing is
    judged. fits: draws of a Gaussian fit, none if there is no fit.
    """
    from rheos.metrics import associations, category_distance, correlation_error, number_distance

    known = _values(data, truth)
    ours, theirs, fitted = [_values(data, x) for x in drawn], None if train is None else _values(data, train), [_values(data, x) for x in fits]
    table = TableQuality()
    described = _described(data)
    for i, (name, kind, column) in enumerate(described):
        item = ColumnQuality(name, kind, ours[0][i], known[i], column)
        if kind != "constant" and theirs is not None:
            measure = category_distance if kind == "category" else number_distance
            against = lambda values, i=i, measure=measure: float(measure(values[i], known[i]))
            item.distance, item.floor = _spread([against(values) for values in ours]), against(theirs)
            item.gaussian = statistics.fmean(map(against, fitted)) if fitted else None
        table.columns.append(item)
    vary = [i for i, (_, kind, _) in enumerate(described) if kind != "constant"][:MOST_ASSOCIATED]
    if len(vary) > 1:
        some = lambda values: [values[i] for i in vary]
        table.names = [described[i][0] for i in vary]
        table.samples, table.truth = associations(some(ours[0])), associations(some(known))
        if theirs is not None:
            error = lambda values: float(correlation_error(some(values), some(known)))
            table.error, table.floor = _spread([error(values) for values in ours]), error(theirs)
            table.gaussian = statistics.fmean(map(error, fitted)) if fitted else None
    return table


def _described(data: Dataset) -> list[tuple[str, str, Any]]:
    """(name, kind, what the encoding knows) of every column of the table."""
    if data.encoding is None:
        return [(f"column {i}", "number", None) for i in range(data.x.shape[1])]
    return [(column.name, column.kind, column) for column in data.encoding.columns]


def _values(data: Dataset, x: Tensor) -> list[Tensor | None]:
    """The columns of encoded or plain rows, see `ColumnQuality`."""
    import torch

    if data.encoding is None:
        return list(x.double().unbind(1))
    rows, found = x.double(), []
    for column, place in zip(data.encoding.columns, data.encoding.slices.values(), strict=True):
        part = rows[:, place]
        if column.kind == "category":
            found.append(part.argmax(1))
        elif column.kind == "constant":
            found.append(None)
        else:
            dated = column.kind == "date"
            values = torch.from_numpy((column.number if dated else column).nearest(part.numpy())).double()
            found.append(column.origin + column.step * values if dated else values)
    return found


def _spread(values: Sequence[float]) -> tuple[float, float | None]:
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None
