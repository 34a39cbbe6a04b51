"""The report: one HTML page that needs nothing else, for people. Numbers come from `quality`, pictures from `figures` and `images`."""
from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from rheos.cli import figures
from rheos.cli.images import as_pixels, data_uri, is_image, pairs, png, sheet
from rheos.cli.quality import CALLS, DRAWS, LEAST_RATIO, RAW, Quality

if TYPE_CHECKING:
    from torch import Tensor

    from rheos.cli.runs import Run
    from rheos.data import Dataset

__all__ = ["page"]

CSS = """
:root { color-scheme: light dark; --page: #f8fafc; --card: #fff; --ink: #111827; --soft: #4b5563; --line: #e5e7eb; --accent: #2563eb; --warn: #b45309 }
@media (prefers-color-scheme: dark) {
  :root { --page: #0f172a; --card: #1e293b; --ink: #f1f5f9; --soft: #a8b3c4; --line: #334155; --accent: #7dabff; --warn: #fbbf24 } }
* { box-sizing: border-box }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif }
main { max-width: 60rem; margin: 0 auto; padding: 1.5rem 1rem 4rem }
h1 { font-size: 1.9rem; line-height: 1.2; margin: .5rem 0 1rem } h2 { font-size: 1.2rem; margin: 0 0 .6rem }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 1.1rem 1.2rem; margin: 1rem 0 }
p { margin: .5rem 0; max-width: 46rem } .soft, figcaption { color: var(--soft); font-size: .9rem } .warn { color: var(--warn); font-weight: 600 }
.lead { font-size: 1.08rem } .scroll { overflow-x: auto }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(10.5rem, 1fr)); gap: .8rem; margin: 1rem 0 }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: .8rem 1rem }
.tile b { display: block; font-size: 1.7rem; line-height: 1.2; color: var(--accent) } .tile span { color: var(--soft); font-size: .85rem }
.tile b.warn { color: var(--warn) }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: .95rem }
th, td { text-align: left; padding: .4rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top } th { color: var(--soft); font-weight: 600 }
.facts th { width: 11rem } .facts { table-layout: fixed }
td.number, th.number { text-align: right; white-space: nowrap } td.long { overflow-wrap: anywhere }
figure { margin: 0 } figure img { width: 100%; height: auto; background: #fff; border-radius: 8px; padding: .3rem }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr)); gap: 1rem } .two section { margin: 0 }
.row { display: flex; align-items: center; gap: .7rem; margin: .35rem 0 } .row b { min-width: 1.5rem; text-align: right; color: var(--soft) }
.pairs { display: grid; grid-template-columns: repeat(6, 1fr); gap: .5rem; flex: 1; max-width: 46rem }
.pairs img, .sheet { width: 100%; image-rendering: pixelated; display: block; border-radius: 3px } .sheet { max-width: 34rem }
@media (max-width: 40rem) { .facts th { width: 7rem } .pairs { grid-template-columns: repeat(3, 1fr) } .row { align-items: flex-start; margin: .9rem 0 } }
pre { font: .86rem/1.6 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; white-space: pre-wrap; overflow-wrap: anywhere; margin: .6rem 0 }
pre { background: var(--page); border: 1px solid var(--line); border-radius: 8px; padding: .7rem .9rem }
"""


def page(run: Run, data: Dataset, quality: Quality, grid: tuple[Tensor, Tensor | None, Tensor] | None, rows: Sequence[dict[str, float]],
         cost: dict[str, Any], versions: dict[str, str]) -> str:
    """The whole page. grid: what `quality.class_grid` found, for data that are images. cost: what the training and this report took."""
    title = f"A generative flow of {'handwritten digits' if data.name == 'digits' else data.name}"
    parts = [
        f"<h1>{escape(title)}</h1>", f"<p class=lead>{_summary(run, data, quality, cost)}</p>", _tiles(quality, cost), _samples(data, quality, grid),
        _distances(data, quality), f"<div class=two>{_chart(quality)}{_training(rows)}</div>", _memory(data, quality), _columns(data, quality),
        _cost(run, cost), _reproduce(run, versions), _card(data),
    ]
    return (f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{escape(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n<main>\n" + "\n".join(part for part in parts if part)
            + "\n</main>\n</body>\n</html>\n")


def _summary(run: Run, data: Dataset, quality: Quality, cost: dict[str, Any]) -> str:
    what = "digits" if data.name == "digits" else "rows"
    said = [f"A network of {cost['parameters']:,} parameters learned the law of {len(data):,} {what} in {run.steps:,} steps"
            + (f", {_seconds(cost['training_cpu_seconds'])} of CPU time." if cost["training_cpu_seconds"] else ".")]
    if not quality.distances:
        return said[0] + " No rows were held out, so this page can show samples but not judge them."
    first = quality.distances[0]
    said.append(f"The {first.name} from {quality.rows:,} samples to {quality.held_out:,} held-out {what}, which no training saw, "
                f"is <b>{first.model[0]:.3g}</b>; training {what} in the samples' place give {first.floor:.3g}.")
    if first.gaussian is not None and first.ratio is not None:
        better = f"<b>{first.ratio:.1f} times</b> that" if first.ratio >= 1 else f"only {first.ratio:.2f} times that"
        said.append(f"The better of the Gaussian fits, the simplest model there is, stands at {first.gaussian[0]:.3g}, {better}.")
    return " ".join(said) + " " + _memory_words(quality, what)


def _memory_words(quality: Quality, what: str = "rows") -> str:
    ratio = quality.memorisation
    if ratio is None:
        return ""
    if ratio < LEAST_RATIO:
        return (f"<span class=warn>Samples sit close to training {what}: their nearest one is on average {ratio:.2f} times as far as that of held-out "
                f"{what}, less than {LEAST_RATIO:g}. Part of what looks good may be memory.</span>")
    return (f"The nearest training {what[:-1]} is on average <b>{ratio:.2f}</b> times as far from a sample as from a held-out {what[:-1]}: "
            f"at least {LEAST_RATIO:g}, no sign of copying.")


def _tiles(quality: Quality, cost: dict[str, Any]) -> str:
    tiles: list[tuple[str, str, str]] = []
    if quality.distances:
        first = quality.distances[0]
        tiles.append((f"{first.model[0]:.3g}", f"{first.name}; floor {first.floor:.3g}", ""))
        if first.ratio is not None:
            tiles.append((f"{first.ratio:.1f}×", "as far as the model is the better Gaussian fit", "" if first.ratio > 1 else "warn"))
    if quality.memorisation is not None:
        close = quality.memorisation < LEAST_RATIO
        said = f"below {LEAST_RATIO:g}: close to training rows" if close else f"at least {LEAST_RATIO:g}: no sign of copying"
        tiles.append((f"{quality.memorisation:.2f}", f"distance to the nearest training row, over that of held-out rows; {said}", "warn" if close else ""))
    if cost["training_cpu_seconds"]:
        tiles.append((_seconds(cost["training_cpu_seconds"]), "of CPU time for the training", ""))
    shown = "".join(f'<div class=tile><b class="{kind}">{value}</b><span>{escape(label)}</span></div>' for value, label, kind in tiles)
    return f"<div class=tiles>{shown}</div>"


def _samples(data: Dataset, quality: Quality, grid: tuple[Tensor, Tensor | None, Tensor] | None) -> str:
    if grid is None or not is_image(data.event, data.bounds):
        return ""
    samples, labels, places = grid
    ours, theirs = as_pixels(samples, data.bounds, data.name), as_pixels(data.x[places], data.bounds, data.name)
    images = [f'<img src="{data_uri(png(pair))}" alt="sample, and its nearest training image">' for pair in pairs(ours, theirs)]
    classes = [None] if labels is None else sorted(set(labels.tolist()))
    lines = []
    for label in classes:
        of_class = images if label is None else [image for image, its in zip(images, labels.tolist(), strict=True) if its == label]
        lines.append(f"<div class=row>{'' if label is None else f'<b>{label}</b>'}<div class=pairs>{''.join(of_class)}</div></div>")
    shown = f" The first {len(classes)} of {data.classes} classes." if labels is not None and len(classes) < data.classes else ""
    classes_said = "" if labels is None else ", classes as frequent as in the training data"
    small = as_pixels(quality.samples[:120], data.bounds, data.name)
    return (f"<section><h2>Samples{'' if labels is None else ' by class'}</h2><p class=soft>In blue frames: samples, the first that were drawn, none picked by "
            f"hand. In the grey frame beside each: the training image nearest to it.{shown}</p>{''.join(lines)}"
            f"<p class=soft>The first {len(small)} of the samples that were judged{classes_said}:</p>"
            f'<img class=sheet src="{data_uri(png(sheet(small, 15)))}" alt="sheet of samples"></section>')


def _distances(data: Dataset, quality: Quality) -> str:
    if not quality.distances:
        return ""
    pair = lambda found: "" if found is None else f"{found[0]:.4g} <span class=soft>± {found[1]:.2g}</span>"
    cells = lambda d: (pair(d.model), pair(d.gaussian), "" if d.ratio is None else f"{d.ratio:.2f}", f"{d.floor:.4g}")
    body = "".join(f"<tr><td>{escape(d.name)}<br><span class=soft>{escape(d.unit)}</span></td>"
                   + "".join(f"<td class=number>{cell}</td>" for cell in cells(d)) + "</tr>" for d in quality.distances)
    notes = [f"Smaller is closer. Model and Gaussian: mean ± standard deviation over {DRAWS} draws of {quality.rows:,} rows, {CALLS} field calls a sample, "
             f"no guidance, against the same {quality.held_out:,} held-out rows. "
             f"Floor: {quality.distances[0].floor_rows:,} training rows in the samples' place."]
    if data.y is not None:
        notes.append("Classes were drawn with the frequencies of the training rows, not copied from the held-out ones.")
    if data.bounds is not None and quality.distances[0].gaussian is not None:
        fits = "; ".join(f"{escape(d.name)} " + ", ".join(f"{kind} {value[0]:.4g}" for kind, value in d.gaussian_fits.items()) for d in quality.distances)
        notes.append(f"The Gaussian is the better of two full-covariance fits to the training rows, clamped to the data's bounds or not: {fits}.")
    if any(d.gaussian is not None for d in quality.distances if d.name.startswith(RAW)):
        notes.append("A Gaussian fit copies mean and covariance, which is all that the raw Fréchet distance looks at: there it is hard to beat, "
                     "and being ahead of it says little.")
    if data.name == "digits":
        notes.append("Features are the last hidden layer, bounded by tanh, of a fixed classifier that was learned on the training half; "
                     "it clamps whatever it is shown to [-1, 1], so both sides are treated alike.")
    heads = "".join(f"<th class=number>{head}" for head in ("model", "Gaussian fit", "Gaussian / model", "floor"))
    return (f"<section><h2>How far from unseen data</h2><div class=scroll><table><tr><th>distance{heads}</tr>{body}</table></div>"
            + "".join(f"<p class=soft>{note}</p>" for note in notes) + "</section>")


def _chart(quality: Quality) -> str:
    if not any(quality.chart.values()):
        return ""
    first = quality.distances[0]
    picture = figures.drawn(figures.calls_chart, quality.chart, first.floor, first.name, size=(5.2, 3.9))
    skipped = "".join(f"<p class=soft>Left out: {escape(line)}</p>" for line in quality.skipped)
    return (f'<section><h2>Quality against field calls</h2><figure><img src="{picture}" alt="distance by rule and number of field calls"><figcaption>'
            f"{quality.rows:,} samples a point, the same starts and classes for all rules. Other starts would move the lines "
            f"by about {first.model[1]:.2g}.</figcaption></figure>{skipped}</section>")


def _training(rows: Sequence[dict[str, float]]) -> str:
    if len(rows) < 2:
        return ""
    picture = figures.drawn(figures.training_curve, rows, size=(5.2, 3.9))
    return (f'<section><h2>Training</h2><figure><img src="{picture}" alt="loss by step"><figcaption>The loss never reaches zero: it contains the noise that no '
            "network can foretell. Its fall, not its level, shows learning.</figcaption></figure></section>")


def _memory(data: Dataset, quality: Quality) -> str:
    if quality.memorisation is None:
        return ""
    near, near_held_out = quality.near, quality.near_held_out
    words = _memory_words(quality, "digits" if data.name == "digits" else "rows")
    picture = figures.drawn(figures.nearest_histogram, near.tolist(), near_held_out.tolist(), size=(9.0, 3.2))
    return (f"<section><h2>Memory or making</h2><p>{words} Mean distance to the nearest training row: samples {float(near.mean()):.4g}, "
            f"held-out rows {float(near_held_out.mean()):.4g}, in standard deviations of the training data.</p>"
            f'<figure><img src="{picture}" alt="distances to the nearest training row"></figure></section>')


def _columns(data: Dataset, quality: Quality) -> str:
    if not quality.columns:
        return ""
    truth, shown = (data.held_out if data.held_out is not None else data).x, quality.columns[:12]
    body = "".join(f"<tr><td>{i}</td>" + "".join(f"<td class=number>{row[name]:.4g}</td>" for name in ("mean", "data_mean", "std", "data_std")) + "</tr>"
                   for i, row in enumerate(shown))
    wide = min(3, len(shown))
    high = -(-len(shown) // wide)

    def plot(axes: Any) -> None:
        for i, ax in enumerate(axes.flat):
            if i < len(shown):
                figures.marginal(quality.samples[:, i].tolist(), truth[:, i].tolist(), f"column {i}", ax)
            else:
                ax.set_axis_off()
        axes.flat[0].legend(*axes.flat[0].get_legend_handles_labels(), fontsize=8)

    picture = figures.drawn(plot, size=(2.6 * wide + 0.4, 1.9 * high + 0.3), grid=(high, wide))
    some = f"<p class=soft>The first {len(shown)} of {len(quality.columns)} columns; report.json has all.</p>" if len(shown) < len(quality.columns) else ""
    held = "held-out data" if data.held_out is not None else "training data"
    return (f"<section><h2>Columns</h2>{some}<div class=scroll><table><tr><th>column<th class=number>mean of samples<th class=number>of {held}"
            f"<th class=number>standard deviation of samples<th class=number>of {held}</tr>{body}</table></div>"
            f'<figure><img src="{picture}" alt="histograms of columns"></figure></section>')


def _cost(run: Run, cost: dict[str, Any]) -> str:
    rows = [("training", f"{run.steps:,} steps of {run.settings['batch']} rows"), ("network", f"{cost['parameters']:,} parameters")]
    if cost["training_cpu_seconds"]:
        rows.append(("time to train", f"{_seconds(cost['training_cpu_seconds'])} of CPU, {_seconds(cost['training_wall_seconds'])} by the clock"))
    rows += [("sampling", f"{cost['samples_per_cpu_second']:,.0f} samples a CPU-second at {CALLS} field calls"),
             ("this report", f"{_seconds(cost['report_cpu_seconds'])} of CPU, {_seconds(cost['report_wall_seconds'])} by the clock"),
             ("machine", f"{run.machine.get('system', '')}, {run.machine.get('cores', '?')} cores, {run.machine.get('threads', '?')} threads, "
                         f"trained on {run.settings['device']}"),
             ("sent between nodes", "The run was one process, so 0 bytes were sent between nodes.")]
    return f"<section><h2>Cost</h2>{_facts(rows)}</section>"


def _reproduce(run: Run, versions: dict[str, str]) -> str:
    settings = ", ".join(f"{name} {value}" for name, value in sorted(run.settings.items()))
    rows = [("settings", settings), ("trained with", _versions(run.versions))]
    if versions != run.versions:
        rows.append(("judged with", _versions(versions)))
    rows.append(("data", f"SHA-256 {run.data['sha256']}"))
    commands = "\n".join([run.command, f"rheos sample {run.folder}", f"rheos report {run.folder}"])
    return f"<section><h2>To make it again</h2><pre>{escape(commands)}</pre>{_facts(rows)}</section>"


def _card(data: Dataset) -> str:
    kept = 0 if data.held_out is None else len(data.held_out)
    rows = [("name", data.name), ("what a row is", data.meaning), ("rows", f"{len(data):,} to learn from, {kept:,} held out"),
            ("shape", " × ".join(map(str, data.event))), ("classes", "none" if data.classes is None else str(data.classes)),
            ("licence", data.licence or "not known"), ("source", data.source or "not known")]
    return f"<section><h2>The data</h2>{_facts(rows)}</section>"


def _facts(rows: Sequence[tuple[str, str]]) -> str:
    return "<table class=facts>" + "".join(f"<tr><th>{escape(name)}<td class=long>{escape(value)}</tr>" for name, value in rows) + "</table>"


def _versions(found: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in found.items())


def _seconds(value: float) -> str:
    return f"{value:.1f}\N{NO-BREAK SPACE}s" if value < 100 else f"{value / 60:.1f}\N{NO-BREAK SPACE}min"
