"""The figures of a report, as SVG in a data address. Plot functions take data and an Axes and return it; one style."""
from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rheos.cli.images import data_uri

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["calls_chart", "drawn", "marginal", "nearest_histogram", "training_curve"]

COLOURS = ("#2563eb", "#dc2626", "#d97706", "#059669", "#7c3aed")
MARKERS = "osD^v"
GREY = "#6b7280"
STYLE = {
    "font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": GREY, "axes.labelcolor": "#374151", "xtick.color": GREY,
    "ytick.color": GREY, "axes.grid": True, "grid.color": "#e5e7eb", "grid.linewidth": 0.7, "legend.frameon": False, "figure.facecolor": "white",
    "axes.facecolor": "white", "lines.linewidth": 1.8, "svg.hashsalt": "rheos",
}


def drawn(plot: Callable[..., Any], *arguments: Any, size: tuple[float, float] = (6.4, 3.6), grid: tuple[int, int] | None = None) -> str:
    """`plot(*arguments, ax)` on a fresh figure (on an array of axes where a grid (rows, columns) is given), as a data address."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        plot(*arguments, figure.subplots() if grid is None else figure.subplots(*grid, squeeze=False))
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return data_uri(buffer.getvalue(), "image/svg+xml")


def training_curve(rows: Sequence[Mapping[str, float]], ax: Axes) -> Axes:
    """The loss of single minibatches, and its running mean over a fiftieth of the run on either side."""
    import numpy as np

    steps, loss = np.array([row["step"] for row in rows]), np.array([row["loss"] for row in rows])
    ax.plot(steps, loss, color=COLOURS[0], alpha=0.35, linewidth=1.0, label="one minibatch")
    half = max(1, len(loss) // 50)
    # Sums over shrinking windows at both ends, so that the curve neither sags nor is cut off there.
    total = np.concatenate([[0.0], np.cumsum(loss)])
    low, high = np.maximum(np.arange(len(loss)) - half, 0), np.minimum(np.arange(len(loss)) + half + 1, len(loss))
    ax.plot(steps, (total[high] - total[low]) / (high - low), color=COLOURS[0], label="running mean")
    ax.set(xlabel="step", ylabel="loss")
    if len(loss) and loss.min() > 0 and loss.max() > 5 * np.median(loss):
        ax.set_yscale("log")
    ax.legend(loc="upper right")
    return ax


def calls_chart(lines: Mapping[str, Sequence[tuple[int, float]]], floor: float, ylabel: str, ax: Axes) -> Axes:
    """Distance against field calls, a line a rule, both axes logarithmic; the floor as a dashed line."""
    calls = sorted({count for line in lines.values() for count, _ in line})
    for (name, line), colour, marker in zip(lines.items(), COLOURS, MARKERS, strict=False):
        if line:
            ax.plot(*zip(*line, strict=True), color=colour, marker=marker, markersize=4.5, label=name, zorder=3 if name == "default" else 2)
    ax.axhline(floor, color=GREY, linestyle="--", linewidth=1.2, label="floor: real against real")
    ax.set(xscale="log", yscale="log", xlabel="field calls a sample", ylabel=ylabel)
    ax.set_xticks(calls, [str(count) for count in calls])
    ax.xaxis.minorticks_off()
    for ticks in (ax.yaxis.set_major_formatter, ax.yaxis.set_minor_formatter):
        ticks("{x:.3g}")
    ax.legend(fontsize=9)
    return ax


def nearest_histogram(near: Sequence[float], near_held_out: Sequence[float], ax: Axes) -> Axes:
    """Distances to the nearest training row: samples filled, held-out rows as an outline."""
    import numpy as np

    edges = np.linspace(0, max(max(near), max(near_held_out), 1e-12), 41)
    ax.hist(near, edges, density=True, color=COLOURS[0], alpha=0.45, label="samples")
    ax.hist(near_held_out, edges, density=True, histtype="step", color="#111827", linewidth=1.4, label="held-out data")
    ax.set(xlabel="distance to the nearest training row", ylabel="density")
    ax.legend()
    return ax


def marginal(samples: Sequence[float], truth: Sequence[float], title: str, ax: Axes) -> Axes:
    """One column's histogram: samples filled, data as an outline."""
    import numpy as np

    low, high = np.percentile(truth, [0.5, 99.5])
    margin = 0.1 * (high - low) or 0.5
    edges = np.linspace(low - margin, high + margin, 31)
    # Each row weighs the same whether or not it falls into the window: what lies outside is missing from the area, not spread over the rest.
    share = lambda rows: np.full(len(rows), 1 / (len(rows) * (edges[1] - edges[0])))
    ax.hist(samples, edges, weights=share(samples), color=COLOURS[0], alpha=0.45, label="samples")
    ax.hist(truth, edges, weights=share(truth), histtype="step", color="#111827", linewidth=1.2, label="held-out data")
    ax.set_title(title, fontsize=10)
    ax.set_yticks([])
    return ax
