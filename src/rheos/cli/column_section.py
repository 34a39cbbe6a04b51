"""The part of a report about a table: every column beside the same of unseen rows, and what the columns have to do with each other."""
from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from rheos.cli import figures

if TYPE_CHECKING:
    from rheos.cli.columns import ColumnQuality, TableQuality

__all__ = ["column_section"]

MOST_LISTED, MOST_DRAWN = 60, 12        # columns with a row of their own, and with a picture; report.json has all


def column_section(table: TableQuality | None, known: str) -> str:
    """known: what the samples are laid beside, such as "held-out data"."""
    if table is None or not table.columns:
        return ""
    listed = table.columns[:MOST_LISTED]
    judged = any(column.distance is not None for column in listed)
    fitted = any(column.gaussian is not None for column in listed)
    heads = "<tr><th>column<th>kind" + (f"<th class=number>distance{'<th class=number>Gaussian fit' if fitted else ''}<th class=number>floor" if judged else "")
    body = "".join(_row(column, judged, fitted) for column in listed)
    some = f"<p class=soft>The first {len(listed)} of {len(table.columns)} columns; report.json has all.</p>" if len(listed) < len(table.columns) else ""
    note = ("<p class=soft>Distance of the samples' column to the held-out one: of numbers and dates the Wasserstein-1 distance in standard deviations of the "
            "held-out column, of categories the total variation, a share of rows. Floor: the same of training rows in the samples' place.</p>"
            if judged else "")
    return (f"<section><h2>Columns</h2>{some}<div class=scroll><table>{heads}<th class=number>samples<th class=number>{known}</tr>{body}</table></div>{note}"
            f"{_pictures(table, known)}</section>{_associations(table, known)}")


def _row(column: ColumnQuality, judged: bool, fitted: bool) -> str:
    number = lambda value: "" if value is None else f"{value:.3g}"
    cells = [number(None if column.distance is None else column.distance[0]), *([number(column.gaussian)] if fitted else []), number(column.floor)]
    return (f"<tr><td class=long>{escape(column.name)}<td>{column.kind}" + ("".join(f"<td class=number>{cell}" for cell in cells) if judged else "")
            + "".join(f"<td class=number>{side}" for side in _told(column)) + "</tr>")


def _told(column: ColumnQuality) -> tuple[str, str]:
    """The column in a few words: of samples, of the data."""
    if column.kind == "constant":
        return (f"always {escape(str(column.column.value))}",) * 2
    if column.kind == "category":
        level, ours, theirs = column.shares()[0]
        return tuple(f"{share:.1%} {escape(level[:30])}" for share in (ours, theirs))
    if column.kind == "date":
        return tuple(f"{escape(column.written(column.quartiles(values))[1])}<br><span class=soft>the middle one</span>"
                     for values in (column.samples, column.truth))
    return tuple(f"{float(values.mean()):.4g} ± {float(values.std(correction=0)):.3g}" for values in (column.samples, column.truth))


def _pictures(table: TableQuality, known: str) -> str:
    shown = [column for column in table.columns if column.kind != "constant"][:MOST_DRAWN]
    if not shown:
        return ""
    wide = min(3, len(shown))
    high = -(-len(shown) // wide)

    def plot(axes: Any) -> None:
        for column, ax in zip(shown, axes.flat, strict=False):
            if column.kind == "category":
                figures.share_bars(column.shares(), column.name, ax, known=known)
            else:
                ticks = None if column.kind != "date" else lambda numbers, column=column: column.column.form.texts(numbers)
                figures.marginal(column.samples.tolist(), column.truth.tolist(), column.name, ax, whole=column.whole, ticks=ticks, known=known)
        for ax in axes.flat[len(shown):]:
            ax.set_axis_off()
        axes.flat[0].legend(*axes.flat[0].get_legend_handles_labels(), fontsize=8)

    picture = figures.drawn(plot, size=(2.6 * wide + 0.4, 1.9 * high + 0.3), grid=(high, wide))
    some = f"<p class=soft>The first {len(shown)} columns that vary:</p>" if len(shown) < sum(column.kind != "constant" for column in table.columns) else ""
    return f'{some}<figure><img src="{picture}" alt="histograms of columns"></figure>'


def _associations(table: TableQuality, known: str) -> str:
    if table.samples is None:
        return ""
    picture = figures.drawn(figures.association_maps, table.truth.tolist(), table.samples.tolist(), table.names, known,
                            size=(9.2, 4.6), grid=(1, 2))
    said = ""
    if table.error is not None:
        gaussian = "" if table.gaussian is None else f", of a Gaussian fit {table.gaussian:.3g}"
        said = (f"<p>The associations of two columns differ by <b>{table.error[0]:.3g}</b> on average between samples and {known}; "
                f"training rows in the samples' place: {table.floor:.3g}{gaussian}.</p>")
    return (f'<section><h2>What columns have to do with each other</h2>{said}<figure><img src="{picture}" alt="associations of columns, data and samples">'
            "<figcaption>Numbers and dates: Pearson's correlation. A number with a category: the correlation ratio. Two categories: Cramér's V. "
            "The last two have no sign.</figcaption></figure></section>")
