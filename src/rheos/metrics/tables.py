"""How far the columns of two tables are apart: each column's own law, and how much the columns have to do with each other.

A column is a tensor (rows,): of floating numbers, or of int64 codes for categories, of which only equality counts. The association of
two columns is Pearson's correlation r in [-1, 1] of numbers, the correlation ratio eta in [0, 1] of a number with a category, and
Cramér's V in [0, 1] of categories (Cramér, Mathematical Methods of Statistics, 1946, chapter 21). That samples of a table are judged by
the mean difference of such a matrix is after Zhao et al., arXiv:2102.08369; their measure for two categories is another, not symmetric.
"""
from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from rheos.core import checks

__all__ = ["associations", "category_distance", "correlation_error", "number_distance"]


@torch.no_grad()
def number_distance(x: Float[Tensor, " n"], y: Float[Tensor, " m"]) -> Float64[Tensor, ""]:
    """1-Wasserstein distance between the numbers x and the true ones y, in standard deviations of y (in y's own unit if y is constant).

    W1 = integral of |F_x - F_y|, F(v) the share of numbers up to v; the standard deviation has the divisor m.

    Set sizes may differ. No gradient. ValueError for empty columns or entries that are not finite.

    >>> round(number_distance(torch.tensor([1.0, 2.0]), torch.tensor([0.0, 4.0])).item(), 4)           # (1 + 2) / 2, over 2
    0.75
    """
    x, y = (_numbers(name, column).sort().values for name, column in (("x", x), ("y", y)))
    values = torch.cat([x, y]).sort().values
    below_x, below_y = (torch.searchsorted(column, values[:-1], right=True).double() / len(column) for column in (x, y))
    distance = ((below_x - below_y).abs() * values.diff()).sum()
    return distance if y[0] == y[-1] else distance / y.std(correction=0)


@torch.no_grad()
def category_distance(x: Int64[Tensor, " n"], y: Int64[Tensor, " m"]) -> Float64[Tensor, ""]:
    """Total variation between the frequencies of categories: 0 for equal ones, 1 if no category is in both.

    TV = 1/2 sum over categories of |p_x - p_y|

    The codes' order and size mean nothing. ValueError for empty columns.

    >>> category_distance(torch.tensor([0, 0, 7, 7]), torch.tensor([7, 9]))                   # (|1/2| + |1/2 - 1/2| + |-1/2|) / 2
    tensor(0.5000, dtype=torch.float64)
    """
    x, y = _codes("x", x), _codes("y", y)
    place = torch.cat([x, y]).unique(return_inverse=True)[1]
    count = int(place.max()) + 1
    shares = [torch.bincount(part, minlength=count).double() / len(part) for part in (place[: len(x)], place[len(x) :])]
    return (shares[0] - shares[1]).abs().sum() / 2


@torch.no_grad()
def associations(columns: Sequence[Tensor]) -> Float64[Tensor, "columns columns"]:
    """The matrix of associations of a table's columns; 1 on the diagonal, 0 beside it for a column that does not vary.

    columns: tensors (n,), floating or int64 codes, at least one.
    eta^2 of a number with a category is the variance between the category's groups over the whole variance. V^2 of two categories is
    chi^2 / (n (k - 1)), k the smaller number of levels that occur. Neither is corrected for chance: between independent columns of n
    rows they are above 0 by about 1 / sqrt(n) and more, the more levels there are, so compare tables of equal numbers of rows.
    ValueError for no columns, no rows, columns of different lengths, or numbers that are not finite; TypeError for other dtypes.

    >>> number, group = torch.tensor([1.0, 2.0, 5.0, 6.0]), torch.tensor([0, 0, 1, 1])
    >>> round(associations([number, group])[0, 1].item(), 4)                    # groups' means 1.5, 5.5: sqrt(4 / 4.25)
    0.9701
    """
    columns = [_checked(i, column) for i, column in enumerate(columns)]
    if not columns:
        raise ValueError("columns must hold at least one column, got none")
    for i, column in enumerate(columns):
        if len(column) != len(columns[0]):
            raise ValueError(f"columns must have the same length, got {len(columns[0])} in column 0 and {len(column)} in column {i}")
    rows = len(columns[0])
    numeric = [i for i, column in enumerate(columns) if column.is_floating_point()]
    levels = {i: column.unique(return_inverse=True)[1] for i, column in enumerate(columns) if i not in set(numeric)}
    found = torch.eye(len(columns), dtype=torch.float64)
    if numeric:
        z = torch.stack([_standardised(columns[i]) for i in numeric], 1)
        found[torch.tensor(numeric)[:, None], torch.tensor(numeric)] = (z.mT @ z / rows).clamp(-1.0, 1.0)
        for i, level in levels.items():
            counts = torch.bincount(level).double()
            if len(counts) < 2:
                continue
            means = torch.zeros(len(counts), z.shape[1], dtype=torch.float64).index_add_(0, level, z) / counts[:, None]
            eta = (counts @ means.square() / rows).clamp(0.0, 1.0).sqrt()
            found[i, numeric] = found[numeric, i] = eta
    for i, one in levels.items():
        for j, other in levels.items():
            if i < j:
                found[i, j] = found[j, i] = _cramer_v(one, other)
    found.fill_diagonal_(1.0)
    return found


@torch.no_grad()
def correlation_error(x: Sequence[Tensor], y: Sequence[Tensor]) -> Float64[Tensor, ""]:
    """Mean over pairs of different columns of |A_x - A_y|, A the `associations` of each table: 0 to 2, and 0 for a table of one column.

    x, y: the columns of two tables, in the same order and of the same kinds; numbers of rows may differ, but see `associations`.
    ValueError as there, and for different numbers of columns or different kinds.

    >>> a, b = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 4.0, 6.0])
    >>> correlation_error([a, b], [a, -b])                                      # correlations 1 and -1
    tensor(2., dtype=torch.float64)
    """
    if len(x) != len(y):
        raise ValueError(f"x and y must have the same number of columns, got {len(x)} and {len(y)}")
    for i, (one, other) in enumerate(zip(x, y, strict=True)):
        if _checked(i, one).is_floating_point() != _checked(i, other).is_floating_point():
            raise ValueError(f"x and y must have columns of the same kinds, got {one.dtype} and {other.dtype} in column {i}")
    gap = (associations(x) - associations(y)).abs()
    count = len(x)
    return gap.sum() / max(count * (count - 1), 1)


def _numbers(name: str, column: Tensor) -> Float64[Tensor, " n"]:
    if checks.tensor(name, column, floating=True).ndim != 1 or not len(column):
        raise ValueError(f"{name} must be a column of at least one row, got shape {tuple(column.shape)}")
    return checks.finite(name, column).detach().cpu().double()


def _codes(name: str, column: Tensor) -> Int64[Tensor, " n"]:
    if checks.tensor(name, column).dtype != torch.int64:
        raise TypeError(f"{name} must hold int64 codes, got {column.dtype}")
    if column.ndim != 1 or not len(column):
        raise ValueError(f"{name} must be a column of at least one row, got shape {tuple(column.shape)}")
    return column.cpu()


def _checked(i: int, column: Tensor) -> Tensor:
    name = f"column {i}"
    return _numbers(name, column) if checks.tensor(name, column).is_floating_point() else _codes(name, column)


def _standardised(column: Float64[Tensor, " n"]) -> Float64[Tensor, " n"]:
    """Mean 0 and variance 1; all 0 if nothing varies."""
    if column.min() == column.max():
        return torch.zeros_like(column)
    column = column / column.abs().max()            # squares of huge numbers would overflow
    centred = column - column.mean()
    return centred / centred.square().mean().sqrt()


def _cramer_v(x: Int64[Tensor, " n"], y: Int64[Tensor, " n"]) -> Float64[Tensor, ""]:
    """V of two columns of levels 0..k-1, all of which occur."""
    high, wide = int(x.max()) + 1, int(y.max()) + 1
    least = min(high, wide)
    if least < 2:
        return torch.zeros((), dtype=torch.float64)
    shares = torch.bincount(x * wide + y, minlength=high * wide).double().view(high, wide) / len(x)
    # chi^2 / n = sum p_ij^2 / (p_i p_j) - 1
    phi = (shares.square() / (shares.sum(1, keepdim=True) * shares.sum(0))).sum() - 1
    return (phi / (least - 1)).clamp(0.0, 1.0).sqrt()
