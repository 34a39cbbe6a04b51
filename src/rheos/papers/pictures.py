"""Pictures of what was measured."""
from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rheos.papers.checks import Check

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["bars"]


def bars(ax: Axes, checks: Sequence[Check], labels: Sequence[str], *, method: str, without: str = "without the idea") -> Any:
    """Every row that has a control as two bars, its value and its control, with the threshold between them; logarithmic. Returns `ax`.

    labels: one for each such row. method, without: what the legend calls the two. ValueError if the labels are too few or too many.
    """
    rows = [c for c in checks if c.control is not None]
    if len(labels) != len(rows):
        raise ValueError(f"labels must be {len(rows)}, one a row with a control, got {len(labels)}")
    at = range(len(rows))
    ax.bar([i - 0.2 for i in at], [c.value for c in rows], 0.4, label=method)
    ax.bar([i + 0.2 for i in at], [c.control for c in rows], 0.4, label=without)
    ax.plot(at, [c.threshold for c in rows], "k_", markersize=24, label="threshold")
    ax.set_xticks(list(at), list(labels))
    ax.set_yscale("log")
    ax.legend()
    return ax
