"""What a report measures: distances of samples to held-out data beside a Gaussian fit and the floor, nearest neighbours, cost by rule.

Everything is compared in one view of the data: its own units for images, standard deviations of the training rows for tables. Images are
also seen through the features of a fixed network, tables by their columns (`columns`), texts by their n-grams.
"""
from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rheos.cli.columns import ColumnQuality, TableQuality, judged_columns
from rheos.cli.images import is_image, is_map
from rheos.cli.rules import rule_named

if TYPE_CHECKING:
    from torch import Tensor

    from rheos.data import Dataset
    from rheos.models import Model

__all__ = [
    "CALLS", "CHART_CALLS", "CHART_RULES", "DRAWS", "LEAST_RATIO", "RAW", "TRANSLATED", "Distance", "Quality", "Shares", "carried_over", "class_grid",
    "draw_conditions", "draw_labels", "mapped", "measure", "pictured",
]

DRAWS = 3                                   # seeds over which model and Gaussian are averaged, where that is affordable; otherwise one
CALLS = 20                                  # field calls a sample for all figures but the chart
TRANSLATED = 12                             # rows of one domain shown beside what they become
CHART_CALLS = (2, 3, 5, 8, 12, 20)
CHART_RULES = ("default", "euler", "ddim", "dpm++2", "deis")
MOST_ROWS, MOST_SEEN = 5000, 2000           # rows on either side; the same where a network must look at every one
MOST_DIMS, MOST_RAW = 4096, 1024            # dimensions up to which a Gaussian is fitted, and up to which raw covariances are compared
MOST_FITTED = 60_000                        # training rows that a Gaussian is fitted to
FIT_BY_ROWS = 1024                          # dimensions above which it is fitted to at most four rows a dimension, see `metrics.gaussian_fit`
# CPU seconds: of drawing the judged samples, of the chart, and of looking for nearest rows. They decide how many rows are taken, nothing else.
JUDGED_SECONDS, CHART_SECONDS, NEAR_SECONDS = 60.0, 60.0, 8.0
LEAST_JUDGED, LEAST_CHARTED = 250, 50
TIMED_ROWS, TIMED_CALLS = 64, 4             # by which one field call is timed
PAIRS_A_SECOND = 8e9                        # differences of two numbers that `nearest` takes in a CPU second, roughly
TEXTS = 30                                  # shown
RAW = "raw Fréchet distance"
LEAST_RATIO = 0.8                           # below, samples lie closer to the training rows than unseen data do
Spread = tuple[float, float | None]         # mean and standard deviation over the draws; None for one draw


@dataclass
class Distance:
    """One kind of distance to the held-out rows. Pairs are (mean, standard deviation) over the draws."""

    name: str
    unit: str
    model: Spread
    floor: float
    floor_rows: int
    gaussian: Spread | None = None
    gaussian_fits: dict[str, Spread] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        """How many times farther the better Gaussian fit is."""
        return self.gaussian[0] / self.model[0] if self.gaussian is not None and self.model[0] > 0 else None


@dataclass
class Shares:
    """A share of one set that lies where the other does, near 1 for samples of the data's law. floor: of training rows in the samples' place."""

    name: str
    meaning: str
    model: float
    floor: float
    gaussian: float | None = None


@dataclass
class Quality:
    """Everything measured. Tensors are in the data's own units; `near` and `near_held_out` are distances to the nearest training row."""

    rows: int
    held_out: int
    samples: Tensor
    labels: Tensor | None
    draws: int = DRAWS
    distances: list[Distance] = field(default_factory=list)
    shares: list[Shares] = field(default_factory=list)
    features: str = ""
    near: Tensor | None = None
    near_held_out: Tensor | None = None
    chart: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    chart_rows: int = 0
    chart_floor: float | None = None
    skipped: list[str] = field(default_factory=list)
    table: TableQuality | None = None
    texts: list[tuple[str, str]] = field(default_factory=list)
    fitted: int = 0
    sampling_cpu_seconds: float = 0.0

    @property
    def columns(self) -> list[ColumnQuality]:
        return [] if self.table is None else self.table.columns

    @property
    def memorisation(self) -> float | None:
        """Mean distance of samples to their nearest training row over the same of held-out rows."""
        if self.near is None or self.near_held_out is None or not float(self.near_held_out.mean()) > 0:
            return None
        return float(self.near.mean() / self.near_held_out.mean())

    @property
    def samples_per_cpu_second(self) -> float:
        return self.draws * self.rows / max(self.sampling_cpu_seconds, 1e-9)

    def to_json(self) -> dict[str, Any]:
        pair = lambda found: None if found is None else {"mean": found[0], "std": found[1]}
        return {
            "rows": self.rows, "held_out": self.held_out, "calls": CALLS, "draws": self.draws, "features": self.features,
            "distances": [{"name": d.name, "unit": d.unit, "model": pair(d.model), "gaussian": pair(d.gaussian), "ratio": d.ratio,
                           "floor": d.floor, "floor_rows": d.floor_rows,
                           "gaussian_fits": {name: pair(fit) for name, fit in d.gaussian_fits.items()}} for d in self.distances],
            "shares": [{"name": s.name, "model": s.model, "floor": s.floor, "gaussian": s.gaussian} for s in self.shares],
            "gaussian_fitted_rows": self.fitted,
            "memorisation_ratio": self.memorisation,
            "nearest_training_row": {"samples": None if self.near is None else float(self.near.mean()),
                                     "held_out": None if self.near_held_out is None else float(self.near_held_out.mean()),
                                     "rows": 0 if self.near is None else len(self.near)},
            "by_calls": {name: [{"calls": calls, "distance": value} for calls, value in line] for name, line in self.chart.items()},
            "by_calls_rows": self.chart_rows, "by_calls_floor": self.chart_floor,
            "skipped": self.skipped, "columns": [column.to_json() for column in self.columns],
            "associations": None if self.table is None else self.table.to_json(), "texts": [{"sample": a, "nearest": b} for a, b in self.texts],
            "sampling_cpu_seconds": self.sampling_cpu_seconds,
        }


def pictured(data: Dataset) -> bool:
    """Whether the rows are pictures."""
    return data.encoding is None and is_image(data.event, data.bounds)


def mapped(data: Dataset) -> bool:
    """Whether the rows are no pictures but can be shown as maps."""
    return data.encoding is None and not pictured(data) and is_map(data.event)


def _condition(model: Model, data: Dataset) -> str | None:
    """What the model is asked for: "label", "caption" or None."""
    return getattr(model, "condition", None if data.y is None else "label")


def draw_labels(data: Dataset, n: int, seed: int) -> Tensor | None:
    """Classes with the frequencies of the training rows. The held-out labels themselves would tell the model what it is compared with."""
    import torch

    from rheos.core import Draws

    if data.y is None:
        return None
    frequency = torch.bincount(data.y, minlength=data.classes).double()
    return Draws(seed).categorical("report labels", 0, frequency.log().expand(n, -1))


def draw_conditions(model: Model, data: Dataset, n: int, seed: int) -> Tensor | list[str] | None:
    """What `n` samples are asked for: classes as in `draw_labels`, captions of training rows at random, or nothing."""
    from rheos.core import Draws

    asked = _condition(model, data)
    if asked == "caption" and data.captions is not None:
        return [data.captions[i] for i in Draws(seed).integers("report captions", 0, (n,), len(data)).tolist()]
    return draw_labels(data, n, seed) if asked == "label" else None


def _told_once(model: Model, cond: Tensor | list[str] | None, n: int) -> Tensor | None:
    """Captions as the vectors that the network is told, so that they are embedded once; anything else as it is."""
    return model.conditions.tensor(cond, n) if isinstance(cond, list) else cond


def class_grid(model: Model, data: Dataset, each: int, seed: int, most: int = 20) -> tuple[Tensor, Tensor | list[str] | None, Tensor]:
    """(samples, their classes or captions, numbers of their nearest training rows): the first `each` drawn of every class, none picked by hand.

    Captions: 4 `each` different ones of held-out rows, or of training rows where none are held out, in a random order.
    """
    import torch

    from rheos.core import Draws
    from rheos.metrics import nearest

    asked, shown = _condition(model, data), None
    if asked == "caption" and data.captions is not None:
        said = list(dict.fromkeys((data if data.held_out is None or data.held_out.captions is None else data.held_out).captions))
        shown = [said[i] for i in Draws(seed).permutation("report captions", 1, len(said))[: 4 * each].tolist()]
    elif asked == "label":
        shown = torch.arange(min(data.classes, most)).repeat_interleave(each)
    samples = model.sample(4 * each if shown is None else len(shown), cond=shown, seed=seed, steps=CALLS).cpu()
    view = model.transform.forward
    return samples, shown, nearest(view(samples), view(data.x))[1]


def carried_over(model: Model, data: Dataset, starts: Tensor | None, count: int, seed: int) -> tuple[Tensor, Tensor, Tensor | None] | None:
    """(rows of the source, what the model makes of them, the rows they belong to if pairs are known), `count` of those held out, evenly spaced."""
    import torch

    if starts is None:
        return None
    judged = (data if data.held_out is None else data.held_out).x
    known = len(judged) == len(starts) and model.card.get("paired", False)
    rows = torch.linspace(0, len(starts) - 1, min(count, len(starts))).long()
    return starts[rows], model.translate(starts[rows], steps=CALLS, seed=seed).cpu(), judged[rows] if known else None


@dataclass(frozen=True)
class Seen:
    """A set of events as the distances see it."""

    rows: Tensor
    features: Tensor | None = None
    texts: list[bytes] | None = None

    def first(self, n: int) -> Seen:
        part = lambda found: None if found is None else found[:n]
        return Seen(self.rows[:n], part(self.features), part(self.texts))


@dataclass(frozen=True)
class View:
    """How events are looked at: scaled rows, and for images features, for texts their bytes. to_unit: an image's bounds to [-1, 1]."""

    scaled: Callable[[Tensor], Tensor]
    features: Callable[[Tensor], Tensor] | None = None
    about: str = ""
    to_unit: Callable[[Tensor], Tensor] = lambda x: x
    texts: Callable[[Tensor], list[bytes]] | None = None

    @classmethod
    def of(cls, model: Model, data: Dataset) -> View:
        scaled = model.transform.forward if len(data.event) == 1 else lambda x: x
        if data.encoding is not None and data.encoding.kind == "tokens":
            return cls(scaled, texts=data.encoding.raw)
        if not pictured(data):
            return cls(scaled)
        from rheos.metrics import image_features

        found, (low, high) = image_features(data.event, data.name), data.bounds
        return cls(scaled, found.features, found.about, (lambda x: x) if (low, high) == (-1.0, 1.0) else lambda x: 2 * (x - low) / (high - low) - 1)

    def __call__(self, x: Tensor, features: Tensor | None = None) -> Seen:
        """features: of x, where they are known already."""
        import torch

        if features is None and self.features is not None:
            with torch.no_grad():
                features = torch.cat([self.features(self.to_unit(rows)) for rows in x.split(1024)])
        return Seen(self.scaled(x), features, None if self.texts is None else self.texts(x))


def measure(model: Model, data: Dataset, *, n: int | None = None, seed: int = 0, told: Callable[[str], None] = lambda line: None) -> Quality:
    """All figures of `model` (on any device) for the data it learned. told: hears what is under way.

    n: samples, by default as many as there are held-out rows, 5,000 at most (2,000 of images), fewer of a slow model. One field call is
    timed, and how many draws and rows the figures rest on follows from that; what they measure does not, and the page says how many.
    Without two held-out rows nothing can be compared: then only samples are drawn.
    """
    from rheos.core import checks

    view = View.of(model, data)
    # The shipped digits are small enough that all are looked at; other images cost a network's look each.
    most = min(MOST_ROWS, MOST_SEEN) if view.features is not None else MOST_ROWS
    judge = None if data.held_out is None or len(data.held_out) < 2 else _spaced(data.held_out.x, most)
    if n is not None:
        checks.integer("n", n, least=2)
    call, look = _timed(model, data, view, seed)
    if n is None:
        n = min(most, max(2, len(judge) if judge is not None else len(data)))
        while n > LEAST_JUDGED and n * CALLS * call > JUDGED_SECONDS:
            n = max(LEAST_JUDGED, n // 2)
    draws = DRAWS if DRAWS * n * (CALLS * call + look) <= JUDGED_SECONDS else 1
    told(f"drawing {draws} x {n} samples")
    begun = time.process_time()
    asked = [_told_once(model, draw_conditions(model, data, n, seed + i), n) for i in range(draws)]
    drawn = [model.sample(n, cond=cond, steps=CALLS, seed=seed + i).cpu() for i, cond in enumerate(asked)]
    spent = time.process_time() - begun
    drawn = [_written(data, x) for x in drawn]
    found = Quality(n, 0 if judge is None else len(judge), drawn[0], asked[0], draws, sampling_cpu_seconds=spent)
    found.features = view.about
    train = _some(data.x, n, seed)
    fits, found.fitted = ({}, 0) if judge is None else _gaussians(data, n, seed, draws)
    if len(data.event) == 1:
        known = data.held_out.x if judge is not None else data.x
        found.table = judged_columns(data, drawn, train if judge is not None else None, known, [] if not fits else fits.get("clamped", fits["unclamped"]))
    from rheos.metrics import nearest

    scaled = model.transform.forward
    if view.texts is not None:
        few = drawn[0][:TEXTS]
        places = nearest(scaled(few), scaled(data.x))[1]
        found.texts = list(zip(data.encoding.decode(few), data.encoding.decode(data.x[places]), strict=True))
    if judge is None:
        return found
    told("measuring distances")
    truth, metrics = view(judge), _metrics(data, view)
    seen = [view(x) for x in drawn]
    floor = view(train)
    seen_fits = _seen_fits(view, fits, data.bounds)
    for (name, unit), metric in metrics.items():
        against = lambda one, metric=metric: float(metric(one, truth))
        item = Distance(name, unit, _spread([against(one) for one in seen]), against(floor), len(train))
        item.gaussian_fits = {kind: _spread([against(one) for one in fit]) for kind, fit in seen_fits.items()}
        item.gaussian = min(item.gaussian_fits.values(), default=None, key=lambda spread: spread[0])
        found.distances.append(item)
    if view.features is not None:
        found.shares = _shares(seen[0], floor, seen_fits, truth)
    told("finding nearest training rows")
    few = max(LEAST_CHARTED, int(NEAR_SECONDS * PAIRS_A_SECOND / data.x.numel()))
    found.near, found.near_held_out = nearest(scaled(drawn[0][:few]), scaled(data.x))[0], nearest(scaled(_spaced(judge, few)), scaled(data.x))[0]
    if not hasattr(getattr(model, "field", None), "predicts") and hasattr(model, "tokens"):
        return found                # no flow, so no rules to compare
    first = next(iter(metrics.values()))
    found.chart_rows = _charted(n, call, look)
    found.chart_floor = float(first(floor.first(found.chart_rows), truth))
    told(f"comparing rules and numbers of calls on {found.chart_rows} samples each")
    cond = None if asked[0] is None else asked[0][: found.chart_rows]
    _fill_chart(found, model, cond, seed, lambda x: float(first(view(_written(data, x)), truth)))
    return found


def _timed(model: Model, data: Dataset, view: View, seed: int) -> tuple[float, float]:
    """CPU seconds of one field call on one sample, and of one look at one image."""
    cond = _told_once(model, draw_conditions(model, data, TIMED_ROWS, seed), TIMED_ROWS)
    model.sample(2, cond=None if cond is None else cond[:2], steps=1, seed=seed)            # what is made on first use
    begun = time.process_time()
    x = model.sample(TIMED_ROWS, cond=cond, steps=TIMED_CALLS, seed=seed).cpu()
    call = (time.process_time() - begun) / (TIMED_ROWS * TIMED_CALLS)
    if view.features is None:
        return call, 0.0
    view(x[:2])
    begun = time.process_time()
    view(x)
    return call, (time.process_time() - begun) / TIMED_ROWS


def _charted(n: int, call: float, look: float) -> int:
    """How many samples a point of the chart rests on: all if there is time, else as many tens as there is time for."""
    points = len(CHART_RULES) * len(CHART_CALLS)
    affordable = CHART_SECONDS / max(len(CHART_RULES) * sum(CHART_CALLS) * call + points * look, 1e-12)
    return n if affordable >= n else min(n, max(LEAST_CHARTED, int(affordable) // 10 * 10))


def _metrics(data: Dataset, view: View) -> dict[tuple[str, str], Callable[[Seen, Seen], Tensor]]:
    """(name, unit) -> distance; the first one judges.

    That is the Fréchet distance only where there are features for it: on raw values it sees mean and covariance alone, so that any
    Gaussian fit would look good.
    """
    from rheos.metrics import Polynomial, frechet, mmd, ngram_distance, sliced_w2

    found: dict[tuple[str, str], Callable[[Seen, Seen], Tensor]] = {}
    if view.texts is not None:
        for order, name in ((3, "three bytes"), (2, "two bytes"), (1, "single bytes")):
            found[f"n-gram distance of {name}", "total variation"] = lambda a, b, order=order: ngram_distance(a.texts, b.texts, order=order)
        return found
    if view.features is not None:
        found["Fréchet distance of features", "squared feature units"] = lambda a, b: frechet(a.features, b.features)
        found["kernel distance of features", "unbiased, so chance may take it below 0"] = lambda a, b: mmd(a.features, b.features, kernel=Polynomial())
    of, unit = (("rows", "standard deviations") if len(data.event) == 1 else ("pixels", "pixel values") if pictured(data)
                else ("values", "of the data's own unit"))
    found[f"sliced W2 of {of}", unit] = lambda a, b: sliced_w2(a.rows, b.rows)
    if data.x[0].numel() <= MOST_RAW:
        found[f"{RAW} of {of}", f"squared {unit}"] = lambda a, b: frechet(a.rows, b.rows)
    return found


def _gaussians(data: Dataset, n: int, seed: int, draws: int) -> tuple[dict[str, list[Tensor]], int]:
    """Draws of full-covariance Gaussian fits, as they fall and clamped to the bounds where there are any; and how many rows they were fitted to."""
    from rheos.metrics import gaussian_fit

    dim = data.x[0].numel()
    if dim > MOST_DIMS or len(data) < 3:
        return {}, 0
    x = _some(data.x, MOST_FITTED if dim <= FIT_BY_ROWS else min(4 * dim, MOST_FITTED), seed)
    free = [_written(data, gaussian_fit(x, n, seed=seed + i)) for i in range(draws)]
    return {"unclamped": free} if data.bounds is None else {"unclamped": free, "clamped": [x.clamp(*data.bounds) for x in free]}, len(x)


def _seen_fits(view: View, fits: dict[str, list[Tensor]], bounds: tuple[float, float] | None) -> dict[str, list[Seen]]:
    """The fits as the distances see them. Features clamp what they are shown, so that those of both kinds are one and looked at once."""
    clamped = [view(x) for x in fits.get("clamped", [])]
    made = {"unclamped": [view(x, features) for x, features in zip(fits.get("unclamped", []), _features_of(clamped, fits), strict=True)]} if fits else {}
    return made | ({"clamped": clamped} if clamped else {})


def _features_of(clamped: list[Seen], fits: dict[str, list[Tensor]]) -> list[Tensor | None]:
    return [one.features for one in clamped] if clamped else [None] * len(fits.get("unclamped", []))


def _shares(seen: Seen, floor: Seen, fits: dict[str, list[Seen]], truth: Seen) -> list[Shares]:
    """Precision, recall, density and coverage of features."""
    from rheos.metrics import density_coverage, precision_recall

    if min(len(one.features) for one in (seen, floor, truth)) <= 5:
        return []
    sets = {"model": seen, "floor": floor} | ({"gaussian": next(reversed(fits.values()))[0]} if fits else {})
    both = {name: (*precision_recall(one.features, truth.features), *density_coverage(one.features, truth.features)) for name, one in sets.items()}
    meanings = (("precision", "share of the samples that lie within the data's reach"), ("recall", "share of the data that lie within the samples' reach"),
                ("density", "how densely the data lie around a sample, 1 for samples of their law"),
                ("coverage", "share of the data with a sample among their nearest"))
    return [Shares(name, meaning, *(float(both[of][i]) if of in both else None for of in ("model", "floor", "gaussian")))
            for i, (name, meaning) in enumerate(meanings)]


def _fill_chart(found: Quality, model: Model, cond: Any, seed: int, distance: Callable[[Tensor], float]) -> None:
    """Distance by rule and number of calls, the same starts and conditions for all. What a rule cannot do is said, not hidden."""
    from rheos.core import NonFinite

    path = getattr(getattr(model, "field", None), "path", None)
    for name in CHART_RULES:
        line = found.chart[name] = []
        for calls in CHART_CALLS:
            try:
                line.append((calls, distance(model.sample(found.chart_rows, cond=cond, rule=rule_named(name, path), steps=calls, seed=seed).cpu())))
            except (ValueError, NonFinite) as error:
                found.skipped.append(f"{name} at {calls} calls: {error}")


def _written(data: Dataset, x: Tensor) -> Tensor:
    """Encoded rows as a file would hold them, and encoded again: a sample is judged by what it stands for, such as the level that a category took."""
    if data.encoding is None:
        return x
    return data.encoding.encode(data.encoding.raw(x) if data.encoding.kind == "tokens" else data.encoding.decode(x))


def _some(x: Tensor, n: int, seed: int) -> Tensor:
    """`n` rows at most, at random."""
    from rheos.core import Draws

    return x if len(x) <= n else x[Draws(seed).permutation("report rows", 0, len(x))[:n]]


def _spaced(x: Tensor, n: int) -> Tensor:
    """`n` rows at most, evenly spaced, so that files sorted by class are met in all their classes."""
    import torch

    return x if len(x) <= n else x[torch.arange(n) * len(x) // n]


def _spread(values: Sequence[float]) -> Spread:
    import statistics

    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None
