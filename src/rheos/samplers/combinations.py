"""Steps written as sums over the whole history, and compiled into the rows of a table.

Whatever is linear in the points x_0 .. x_i that a run went through and in the predictions p_0 .. p_i made on the way can be a row: velocities with
momentum, predictions of several kinds in one step, predictions mended afterwards. A rule writes such quantities as `Combination`s, adds and
scales them, and asks for the row.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from rheos.core import checks
from rheos.paths import Times
from rheos.samplers.tables import Number, Row, Table

__all__ = ["Combination", "History"]


@dataclass(frozen=True, eq=False)
class Combination:
    """sum_k points[k] x_k + sum_k predictions[k] p_k + constant; numbers may be tensors that broadcast to an event.

    >>> half = 0.5 * (Combination.point(0) + Combination.point(1))
    >>> half.row(1).a
    (0.5, 0.5)
    """

    points: Mapping[int, Number] = field(default_factory=dict)
    predictions: Mapping[int, Number] = field(default_factory=dict)
    constant: Number = 0.0

    @classmethod
    def point(cls, k: int) -> Combination:
        """x_k, as it stands after it was mended, if it was."""
        return cls({k: 1.0})

    @classmethod
    def prediction(cls, k: int) -> Combination:
        """p_k, the table's prediction number k."""
        return cls({}, {k: 1.0})

    def __add__(self, other: Combination | Number) -> Combination:
        if not isinstance(other, Combination):
            return Combination(self.points, self.predictions, self.constant + other)
        joined = lambda u, v: {k: u[k] + v[k] if k in u and k in v else u.get(k, v.get(k)) for k in u.keys() | v.keys()}
        return Combination(joined(self.points, other.points), joined(self.predictions, other.predictions), self.constant + other.constant)

    __radd__ = __add__

    def __mul__(self, factor: Number) -> Combination:
        return Combination({k: factor * v for k, v in self.points.items()}, {k: factor * v for k, v in self.predictions.items()}, factor * self.constant)

    __rmul__ = __mul__

    def __neg__(self) -> Combination:
        return -1.0 * self

    def __sub__(self, other: Combination | Number) -> Combination:
        return self + -1.0 * other

    def __truediv__(self, divisor: Number) -> Combination:
        return (1.0 / divisor) * self

    def row(self, newest: int, s: float = 0.0, *, ahead: bool = False) -> Row:
        """The predictor row that follows prediction `newest`; with `ahead` the corrector row that mends point `newest` + 1 by its prediction.

        ValueError if it reaches for what is not there yet.
        """
        latest = newest + 1 if ahead else newest
        if any(k > newest for k in self.points) or any(k > latest for k in self.predictions):
            raise ValueError(f"a row after prediction {newest} cannot use points {sorted(self.points)} and predictions {sorted(self.predictions)}")
        spread = lambda found, last: tuple(found.get(k, 0.0) for k in range(last, min(found, default=last + 1) - 1, -1))
        return Row(spread(self.points, newest), spread(self.predictions, latest), s, self.constant)


class History:
    """What a run has seen, as combinations, while its table is being written: evaluated points, and predictions read as any kind.

    kind: of the table, "data" or "noise". times: the table's.
    """

    def __init__(self, kind: str, times: Times):
        self.kind, self.coefficients = checks.one_of("kind", kind, ("data", "noise")), times.each
        self.rows: list[Row] = []
        self.mends: list[Row | None] = []
        self._moved: set[int] = set()        # points that are mended after their prediction was made

    def add(self, step: Combination, mend: Callable[[], Combination] | None = None, s: float = 0.0) -> None:
        """The step after the newest prediction, and what its end becomes once there is a prediction there.

        mend: called when the step is known, so that it may ask for the prediction number `len(rows)` made at the step's end, as any kind.
        """
        newest = len(self.rows)
        self.rows.append(step.row(newest, s))
        self.mends.append(None)
        if mend is not None:
            self._moved.add(newest + 1)
            self.mends[-1] = mend().row(newest, ahead=True)

    def table(self, times: Times, **origin: object) -> Table:
        """The table of the steps added; `origin` is kept with it."""
        return Table(times, self.kind, tuple(self.rows), tuple(self.mends), origin=dict(origin))

    def evaluated(self, k: int) -> Combination:
        """The point at which prediction k was made: x_k, or what it was before it was mended."""
        if k not in self._moved:
            return Combination.point(k)
        row = self.rows[k - 1]
        return Combination({k - 1 - j: v for j, v in enumerate(row.a)}, {k - 1 - j: v for j, v in enumerate(row.w)}, row.c)

    def data(self, k: int) -> Combination:
        """Prediction k read as data. ValueError where there is no data to read (alpha = 0)."""
        return self._read(k, "data")

    def noise(self, k: int) -> Combination:
        """Prediction k read as noise. ValueError where there is no noise (sigma = 0)."""
        return self._read(k, "noise")

    def _read(self, k: int, kind: str) -> Combination:
        if kind == self.kind:
            return Combination.prediction(k)
        alpha, sigma = self.coefficients[k].b, self.coefficients[k].c
        mine, other = (alpha, sigma) if kind == "data" else (sigma, alpha)
        if isinstance(mine, Tensor) or mine == 0:
            raise ValueError(f"{kind} cannot be read off {self.kind} at time number {k}, where its coefficient is 0 or differs by coordinate")
        return (self.evaluated(k) - other * Combination.prediction(k)) / mine
