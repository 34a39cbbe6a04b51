"""The figures of a report, as SVG in a data address. Plot functions take data and an Axes and return it; one style."""
from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rheos.cli.images import data_uri

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["association_maps", "calls_chart", "drawn", "marginal", "nearest_histogram", "share_bars", "training_curve"]

COLOURS = ("#2563eb", "#dc2626", "#d97706", "#059669", "#7c3aed")
MARKERS = "osD^v"
GREY = "#6b7280"
STYLE = {
    "font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": GREY, "axes.labelcolor": "#374151", "xtick.color": GREY,
    "ytick.color": GREY, "axes.grid": True, "grid.color": "#e5e7eb", "grid.linewidth": 0.7, "legend.frameon": False, "figure.facecolor": "white",
    "axes.facecolor": "white", "lines.linewidth": 1.8, "svg.hashsalt": "rheos",
    "svg.fonttype": "none",         # letters stay letters, in the reader's own fonts: column names may be in any script
}


def drawn(plot: Callable[..., Any], *arguments: Any, size: tuple[float, float] = (6.4, 3.6), grid: tuple[int, int] | None = None) -> str:
    """`plot(*arguments, ax)` on a fresh figure (on an array of axes where a grid (rows, columns) is given), as a data address."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")        # measured without it, drawn by the reader's
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


def marginal(samples: Sequence[float], truth: Sequence[float], title: str, ax: Axes, *, whole: bool = False, ticks: Callable[..., Sequence[str]] | None = None,
             known: str = "held-out data") -> Axes:
    """One column's histogram: samples filled, data as an outline.

    whole: the values are whole numbers, so a bar holds a whole number of them. ticks: numbers -> texts, for columns that are no numbers
    (dates). known: what the outline is called.
    """
    import numpy as np

    low, high = np.percentile(truth, [0.5, 99.5])
    if whole:
        step = max(1, round((high - low) / 30))
        edges = np.arange(np.floor(low) - step, np.ceil(high) + 2 * step, step) - 0.5
    else:
        margin = 0.1 * (high - low) or 0.5
        edges = np.linspace(low - margin, high + margin, 31)
    # Each row weighs the same whether or not it falls into the window: what lies outside is missing from the area, not spread over the rest.
    share = lambda rows: np.full(len(rows), 1 / (len(rows) * (edges[1] - edges[0])))
    ax.hist(samples, edges, weights=share(samples), color=COLOURS[0], alpha=0.45, label="samples")
    ax.hist(truth, edges, weights=share(truth), histtype="step", color="#111827", linewidth=1.2, label=known)
    if ticks is not None:
        places = [low, (low + high) / 2, high]
        for place, text, align in zip(places, ticks(np.array(places)), ("left", "center", "right"), strict=True):
            ax.annotate(text, (place, 0), (0, -6), xycoords=("data", "axes fraction"), textcoords="offset points", ha=align, va="top", fontsize=7, color=GREY)
        ax.set_xticks(places, [" "] * 3)
    ax.set_title(_short(title), fontsize=10)
    ax.set_yticks([])
    return ax


def share_bars(shares: Sequence[tuple[str, float, float]], title: str, ax: Axes, *, most: int = 8, known: str = "held-out data") -> Axes:
    """A category's levels as bars: shares of samples filled, shares of the data as an outline; levels beyond the first `most` together."""
    rest = [("(others)", *(sum(column) for column in zip(*(row[1:] for row in shares[most:]), strict=True)))] if len(shares) > most else []
    rows = [*shares[:most], *rest][::-1]
    places = range(len(rows))
    ax.barh(places, [ours for _, ours, _ in rows], height=0.8, color=COLOURS[0], alpha=0.45, label="samples")
    ax.barh(places, [theirs for *_, theirs in rows], height=0.8, fill=False, edgecolor="#111827", linewidth=1.2, label=known)
    ax.set_yticks(places, [_short(name, 14) for name, *_ in rows], fontsize=7)
    ax.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    ax.tick_params(axis="x", labelsize=7)
    ax.grid(axis="y", visible=False)
    ax.set_title(_short(title), fontsize=10)
    return ax


def association_maps(truth: Sequence[Sequence[float]], samples: Sequence[Sequence[float]], names: Sequence[str], known: str, axes: Any) -> Any:
    """Two matrices of associations side by side, red where columns rise together, blue where one falls as the other rises."""
    for ax, matrix, title in zip(axes.flat, (truth, samples), (known, "samples"), strict=True):
        drawn_map = ax.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
        ax.set_title(title, fontsize=10)
        ax.grid(visible=False)
        if len(names) <= 25:
            ax.set_xticks(range(len(names)), [_short(name, 14) for name in names], rotation=90, fontsize=7)
            ax.set_yticks(range(len(names)), [_short(name, 14) for name in names], fontsize=7)
    axes.flat[0].figure.colorbar(drawn_map, ax=list(axes.flat), shrink=0.8)
    return axes


def _short(text: str, most: int = 24) -> str:
    """A name that fits, with no sign that matplotlib would read as a formula."""
    text = " ".join(text.split())
    return (text if len(text) <= most else text[: most - 1] + "\N{HORIZONTAL ELLIPSIS}").replace("$", r"\$")
