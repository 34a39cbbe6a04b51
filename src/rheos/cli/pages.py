"""The report: one HTML page that needs nothing else, for people. Numbers come from `quality`, pictures from `figures` and `images`."""
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from rheos.cli import figures
from rheos.cli.column_section import column_section
from rheos.cli.images import as_map, as_pixels, data_uri, pairs, png, sheet
from rheos.cli.quality import CALLS, CHART_CALLS, CHART_RULES, LEAST_RATIO, RAW, Quality, mapped, pictured

if TYPE_CHECKING:
    import numpy as np
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
h1 { font-size: 1.9rem; line-height: 1.2; margin: .5rem 0 1rem } h2 { font-size: 1.2rem; margin: 0 0 .6rem } h2.next { margin-top: 1.4rem }
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
.pairs figure { min-width: 0 } .pairs figcaption { font-size: .78rem; line-height: 1.3; overflow-wrap: anywhere }
.row.named { align-items: flex-start; flex-direction: column; gap: .2rem } .row.named b { text-align: left } .row.named .pairs { width: 100% }
.pairs img, .sheet { width: 100%; image-rendering: pixelated; display: block; border-radius: 3px } .sheet { max-width: 34rem }
@media (max-width: 40rem) { .facts th { width: 7rem } .pairs { grid-template-columns: repeat(3, 1fr) } .row { align-items: flex-start; margin: .9rem 0 } }
pre { font: .86rem/1.6 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; white-space: pre-wrap; overflow-wrap: anywhere; margin: .6rem 0 }
pre { background: var(--page); border: 1px solid var(--line); border-radius: 8px; padding: .7rem .9rem }
"""


def page(run: Run, data: Dataset, quality: Quality, grid: tuple[Tensor, Tensor | list[str] | None, Tensor] | None,
         rows: Sequence[dict[str, float]], cost: dict[str, Any], versions: dict[str, str],
         carried: tuple[Tensor, Tensor, Tensor | None] | None = None) -> str:
    """The whole page. grid: what `quality.class_grid` found, for data that are images. cost: what the training and this report took.
    carried: what `quality.carried_over` made, of models between two domains."""
    known = "held-out data" if quality.held_out else "training data"
    title = f"A generative flow of {'handwritten digits' if _what(data) == 'digits' else data.name}"
    parts = [
        f"<h1>{escape(title)}</h1>", f"<p class=lead>{_summary(run, data, quality, cost)}</p>", _tiles(quality, cost), _carried(run, data, carried),
        _samples(data, quality, grid), _texts(quality),
        _distances(data, quality), f"<div class=two>{_chart(quality)}{_training(rows)}</div>", _memory(data, quality),
        column_section(quality.table, known), _cost(run, cost), _reproduce(run, versions), _card(data),
    ]
    return (f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{escape(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n<main>\n" + "\n".join(part for part in parts if part)
            + "\n</main>\n</body>\n</html>\n")


def _summary(run: Run, data: Dataset, quality: Quality, cost: dict[str, Any]) -> str:
    what = _what(data)
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


def _what(data: Dataset) -> str:
    if (data.name, data.event) == ("digits", (1, 8, 8)):
        return "digits"
    return "images" if pictured(data) else "texts" if data.encoding is not None and data.encoding.kind == "tokens" else "rows"


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
            tiles.append((f"{first.ratio:.1f}", "times the model's distance: that of the better Gaussian fit", "" if first.ratio > 1 else "warn"))
    if quality.memorisation is not None:
        close = quality.memorisation < LEAST_RATIO
        said = f"below {LEAST_RATIO:g}: close to training rows" if close else f"at least {LEAST_RATIO:g}: no sign of copying"
        tiles.append((f"{quality.memorisation:.2f}", f"distance to the nearest training row, over that of held-out rows; {said}", "warn" if close else ""))
    if cost["training_cpu_seconds"]:
        tiles.append((_seconds(cost["training_cpu_seconds"]), "of CPU time for the training", ""))
    shown = "".join(f'<div class=tile><b class="{kind}">{value}</b><span>{escape(label)}</span></div>' for value, label, kind in tiles)
    return f"<div class=tiles>{shown}</div>"


def _carried(run: Run, data: Dataset, carried: tuple[Tensor, Tensor, Tensor | None] | None) -> str:
    """Rows of the source above what they become and, of pairs, above what they belong to."""
    if carried is None:
        return ""
    import torch

    shown_as, known = _shown(data), carried[2] is not None
    rows = torch.cat([part for part in carried if part is not None])
    said = f" Below them the {_what(data)} that they belong to." if known else ""
    error = ""
    if known:
        low, high = data.bounds
        level = lambda x: 10 * math.log10((high - low) ** 2 / max(float((x - carried[2]).square().mean()), 1e-12))
        error = f" Of these, the first row is at {level(carried[0]):.1f} dB from the third, the second at {level(carried[1]):.1f} dB."
    origin = escape(str(run.data.get("source") or run.settings.get("task") or "the source"))
    return (f"<section><h2>From one to the other</h2><p class=soft>Above, held-out rows of {origin}, evenly spaced; below, what the model makes of "
            f"each.{said}{error}</p>"
            f'<img class=sheet src="{data_uri(png(sheet(shown_as(rows), len(carried[0]))))}" alt="rows of the source and what they become"></section>')


def _samples(data: Dataset, quality: Quality, grid: tuple[Tensor, Tensor | list[str] | None, Tensor] | None) -> str:
    if grid is None:
        return ""
    shown_as = _shown(data)
    samples, asked, places = grid
    ours, theirs = shown_as(samples), shown_as(data.x[places])
    images = [f'<img src="{data_uri(png(pair))}" alt="sample, and its nearest training image">' for pair in pairs(ours, theirs)]
    lines, shown, of = [], "", ""
    if isinstance(asked, list):
        of, shown = " by caption", " Under each: the caption that was asked for, one of the held-out images' where there are any."
        told = [f"<figure>{image}<figcaption>{escape(caption[:120])}</figcaption></figure>" for image, caption in zip(images, asked, strict=True)]
        lines.append(f"<div class=row><div class=pairs>{''.join(told)}</div></div>")
    elif asked is None:
        lines.append(f"<div class=row><div class=pairs>{''.join(images)}</div></div>")
    else:
        of, classes = " by class", sorted(set(asked.tolist()))
        if len(classes) < data.classes:
            shown = f" The first {len(classes)} of {data.classes} classes."
        named = "" if data.labels is None or max(map(len, data.labels)) < 3 else " named"
        for label in classes:
            of_class = "".join(image for image, its in zip(images, asked.tolist(), strict=True) if its == label)
            name = str(label) if data.labels is None else escape(data.labels[label])
            lines.append(f'<div class="row{named}"><b>{name}</b><div class=pairs>{of_class}</div></div>')
    asked_said = {"by class": ", classes as frequent as in the training data", "by caption": ", captions of training images"}.get(of.strip(), "")
    small = shown_as(quality.samples[: 120 if pictured(data) else 30])
    clear = " See-through parts show a chequer." if _see_through(data) else _MAPS if mapped(data) else ""
    return (f"<section><h2>Samples{of}</h2><p class=soft>In blue frames: samples, the first that were drawn, none picked by "
            f"hand. In the grey frame beside each: the training {_what(data)[:-1]} nearest to it.{shown}{clear}</p>{''.join(lines)}"
            f"<p class=soft>The first {len(small)} of the samples that were judged{asked_said}:</p>"
            f'<img class=sheet src="{data_uri(png(sheet(small, 15)))}" alt="sheet of samples"></section>')


_MAPS = " Of several channels the first is shown; colours run from the lowest (dark) to the highest (bright) of 99% of the training values."


def _shown(data: Dataset) -> Callable[[Tensor], np.ndarray]:
    """How rows of these data become pictures."""
    import torch

    if pictured(data):
        return lambda x: as_pixels(x, data.bounds, data.name)
    some = data.x[:: max(1, len(data) // 200)].flatten()
    low, high = torch.quantile(some[:: max(1, some.numel() // 1_000_000)].double(), torch.tensor([0.005, 0.995], dtype=torch.float64)).tolist()
    return lambda x: as_map(x, low, high)


def _see_through(data: Dataset) -> bool:
    from rheos.metrics import channel_axis

    axis = channel_axis(data.event)
    return axis is not None and data.event[axis] == 4


def _texts(quality: Quality) -> str:
    if not quality.texts:
        return ""
    body = "".join(f"<tr><td><pre>{escape(ours)}</pre><td><pre>{escape(theirs)}</pre></tr>" for ours, theirs in quality.texts)
    return (f"<section><h2>Samples</h2><p class=soft>The first {len(quality.texts)} that were drawn, none picked by hand; beside each the training text "
            f"nearest to it.</p><div class=scroll><table class=facts><tr><td class=soft>sample<td class=soft>nearest training text</tr>{body}"
            "</table></div></section>")


def _distances(data: Dataset, quality: Quality) -> str:
    if not quality.distances:
        return ""
    spread = lambda found: "" if found[1] is None else f" <span class=soft>± {found[1]:.2g}</span>"
    pair = lambda found: "" if found is None else f"{found[0]:.4g}{spread(found)}"
    cells = lambda d: (pair(d.model), pair(d.gaussian), "" if d.ratio is None else f"{d.ratio:.2f}", f"{d.floor:.4g}")
    body = "".join(f"<tr><td>{escape(d.name)}<br><span class=soft>{escape(d.unit)}</span></td>"
                   + "".join(f"<td class=number>{cell}</td>" for cell in cells(d)) + "</tr>" for d in quality.distances)
    drawn = (f"mean ± standard deviation over {quality.draws} draws of {quality.rows:,} rows" if quality.draws > 1
             else f"one draw of {quality.rows:,} rows, for more would take too long")
    notes = [f"Smaller is closer. Model and Gaussian: {drawn}, {CALLS} field calls a sample, "
             f"no guidance, against the same {quality.held_out:,} held-out rows. "
             f"Floor: {quality.distances[0].floor_rows:,} training rows in the samples' place."]
    if data.y is not None:
        notes.append("Classes were drawn with the frequencies of the training rows, not copied from the held-out ones.")
    if data.bounds is not None and quality.distances[0].gaussian is not None:
        fits = "; ".join(f"{escape(d.name)} " + ", ".join(f"{kind} {value[0]:.4g}" for kind, value in d.gaussian_fits.items()) for d in quality.distances)
        notes.append(f"The Gaussian is the better of two full-covariance fits to the training rows, clamped to the data's bounds or not: {fits}.")
    if quality.fitted and quality.fitted < len(data):
        notes.append(f"It was fitted to {quality.fitted:,} of the training rows.")
    if any(d.gaussian is not None for d in quality.distances if d.name.startswith(RAW)):
        notes.append("A Gaussian fit copies mean and covariance, which is all that the raw Fréchet distance looks at: there it is hard to beat, "
                     "and being ahead of it says little.")
    if quality.shares:
        notes.append(f"Features: {escape(quality.features)}. What it is shown is clamped to the data's bounds first, so both sides are treated alike. "
                     "Values can be compared with those of other runs on the same data and as many samples, not with other networks' features.")
    elif quality.features:
        notes.append(f"Images are compared by their pixels alone: {escape(quality.features)}.")
    if quality.texts:
        notes.append("Total variation between the frequencies of single bytes, of two and of three bytes in a row: half the sum of their differences, "
                     "0 for equal frequencies and 1 if nothing is in both. The Gaussian is one of the encoded rows.")
    heads = "".join(f"<th class=number>{head}" for head in ("model", "Gaussian fit", "Gaussian / model", "floor"))
    return (f"<section><h2>How far from unseen data</h2><div class=scroll><table><tr><th>distance{heads}</tr>{body}</table></div>"
            + "".join(f"<p class=soft>{note}</p>" for note in notes) + _shares(quality) + "</section>")


def _shares(quality: Quality) -> str:
    if not quality.shares:
        return ""
    cells = lambda share: (f"{share.model:.3f}", "" if share.gaussian is None else f"{share.gaussian:.3f}", f"{share.floor:.3f}")
    body = "".join(f"<tr><td>{share.name}<br><span class=soft>{escape(share.meaning)}</span>" + "".join(f"<td class=number>{cell}" for cell in cells(share))
                   + "</tr>" for share in quality.shares)
    return ("<h2 class=next>How much of the data is reached</h2><div class=scroll><table><tr><th>of the same features<th class=number>model"
            f"<th class=number>Gaussian fit<th class=number>floor</tr>{body}</table></div><p class=soft>Of the first draw. "
            "Larger is better, up to the floor. A low precision means samples unlike anything in the data, a low recall or coverage that the model "
            "leaves parts of the data out.</p>")


def _chart(quality: Quality) -> str:
    if not any(quality.chart.values()):
        return ""
    first = quality.distances[0]
    floor = first.floor if quality.chart_floor is None else quality.chart_floor
    picture = figures.drawn(figures.calls_chart, quality.chart, floor, first.name, size=(5.2, 3.9))
    moved = "" if first.model[1] is None or quality.chart_rows < quality.rows else f" Other starts would move the lines by about {first.model[1]:.2g}."
    fewer = ("" if quality.chart_rows == quality.rows else f" That is as many as {len(CHART_RULES) * len(CHART_CALLS)} points leave time for: with fewer "
             "samples every distance is larger, the floor's too, so compare the lines with each other and not with the table.")
    skipped = "".join(f"<p class=soft>Left out: {escape(line)}</p>" for line in quality.skipped)
    return (f'<section><h2>Quality against field calls</h2><figure><img src="{picture}" alt="distance by rule and number of field calls"><figcaption>'
            f"{quality.chart_rows:,} samples a point, the same starts {'' if quality.labels is None else 'and conditions '}for all rules.{fewer}{moved}"
            f"</figcaption></figure>{skipped}</section>")


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
    words = _memory_words(quality, _what(data))
    unit = "standard deviations of the training data" if data.encoding is None else "the units of the network's input"
    few = "" if len(near) == quality.rows else f" {len(near):,} of the samples and {len(near_held_out):,} held-out rows were looked up."
    picture = figures.drawn(figures.nearest_histogram, near.tolist(), near_held_out.tolist(), size=(9.0, 3.2))
    return (f"<section><h2>Memory or making</h2><p>{words} Mean distance to the nearest training row: samples {float(near.mean()):.4g}, "
            f"held-out rows {float(near_held_out.mean()):.4g}, in {unit}.{few}</p>"
            f'<figure><img src="{picture}" alt="distances to the nearest training row"></figure></section>')


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
            ("shape", " × ".join(map(str, data.event))), ("classes", _classes(data)),
            ("licence", data.licence or "not known"), ("source", data.source or "not known")]
    return f"<section><h2>The data</h2>{_facts(rows)}</section>"


def _classes(data: Dataset) -> str:
    if data.classes is None:
        return "none" if data.captions is None else "none; every row has a caption"
    names = "" if data.labels is None else f": {', '.join(data.labels[:20])}{', ...' if len(data.labels) > 20 else ''}"
    return f"{data.classes}{names}"


def _facts(rows: Sequence[tuple[str, str]]) -> str:
    return "<table class=facts>" + "".join(f"<tr><th>{escape(name)}<td class=long>{escape(value)}</tr>" for name, value in rows) + "</table>"


def _versions(found: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in found.items())


def _seconds(value: float) -> str:
    return f"{value:.1f}\N{NO-BREAK SPACE}s" if value < 100 else f"{value / 60:.1f}\N{NO-BREAK SPACE}min"
