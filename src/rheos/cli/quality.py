"""What a report measures: distances of samples to held-out data beside a Gaussian fit and the floor, nearest neighbours, cost by rule.

Everything is compared in one view of the data: its own units for images, standard deviations of the training rows for tables.
"""
from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from rheos.cli.rules import rule_named

if TYPE_CHECKING:
    from torch import Tensor

    from rheos.data import Dataset
    from rheos.models import Model

__all__ = ["CHART_CALLS", "CHART_RULES", "LEAST_RATIO", "RAW", "Distance", "Quality", "class_grid", "measure"]

DRAWS = 3                                   # seeds over which model and Gaussian are averaged
CALLS = 20                                  # field calls a sample for all figures but the chart
CHART_CALLS = (2, 3, 5, 8, 12, 20)
CHART_RULES = ("default", "euler", "ddim", "dpm++2", "deis")
MOST_ROWS, MOST_DIMS = 5000, 512            # rows on either side; dimensions up to which covariances are compared
RAW = "raw Fréchet distance"
LEAST_RATIO = 0.8                           # below, samples lie closer to the training rows than unseen data do


@dataclass
class Distance:
    """One kind of distance to the held-out rows. Pairs are (mean, standard deviation) over the seeds."""

    name: str
    unit: str
    model: tuple[float, float]
    floor: float
    floor_rows: int
    gaussian: tuple[float, float] | None = None
    gaussian_fits: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        """How many times farther the better Gaussian fit is."""
        return self.gaussian[0] / self.model[0] if self.gaussian is not None and self.model[0] > 0 else None


@dataclass
class Quality:
    """Everything measured. Tensors are in the data's own units; `near` and `near_held_out` are distances to the nearest training row."""

    rows: int
    held_out: int
    samples: Tensor
    labels: Tensor | None
    distances: list[Distance] = field(default_factory=list)
    near: Tensor | None = None
    near_held_out: Tensor | None = None
    chart: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    columns: list[dict[str, float]] = field(default_factory=list)
    sampling_cpu_seconds: float = 0.0

    @property
    def memorisation(self) -> float | None:
        """Mean distance of samples to their nearest training row over the same of held-out rows."""
        if self.near is None or self.near_held_out is None or not float(self.near_held_out.mean()) > 0:
            return None
        return float(self.near.mean() / self.near_held_out.mean())

    @property
    def samples_per_cpu_second(self) -> float:
        return DRAWS * self.rows / max(self.sampling_cpu_seconds, 1e-9)

    def to_json(self) -> dict[str, Any]:
        pair = lambda found: None if found is None else {"mean": found[0], "std": found[1]}
        return {
            "rows": self.rows, "held_out": self.held_out, "calls": CALLS, "draws": DRAWS,
            "distances": [{"name": d.name, "unit": d.unit, "model": pair(d.model), "gaussian": pair(d.gaussian), "ratio": d.ratio,
                           "floor": d.floor, "floor_rows": d.floor_rows,
                           "gaussian_fits": {name: pair(fit) for name, fit in d.gaussian_fits.items()}} for d in self.distances],
            "memorisation_ratio": self.memorisation,
            "nearest_training_row": {"samples": None if self.near is None else float(self.near.mean()),
                                     "held_out": None if self.near_held_out is None else float(self.near_held_out.mean())},
            "by_calls": {name: [{"calls": calls, "distance": value} for calls, value in line] for name, line in self.chart.items()},
            "skipped": self.skipped, "columns": self.columns, "sampling_cpu_seconds": self.sampling_cpu_seconds,
        }


def draw_labels(data: Dataset, n: int, seed: int) -> Tensor | None:
    """Classes with the frequencies of the training rows. The held-out labels themselves would tell the model what it is compared with."""
    import torch

    from rheos.core import Draws

    if data.y is None:
        return None
    frequency = torch.bincount(data.y, minlength=data.classes).double()
    return Draws(seed).categorical("report labels", 0, frequency.log().expand(n, -1))


def class_grid(model: Model, data: Dataset, each: int, seed: int, most: int = 20) -> tuple[Tensor, Tensor | None, Tensor]:
    """(samples, their classes, numbers of their nearest training rows): the first `each` drawn of every class, none picked by hand."""
    import torch

    from rheos.metrics import nearest

    labels = None if data.classes is None else torch.arange(min(data.classes, most)).repeat_interleave(each)
    samples = model.sample(4 * each if labels is None else len(labels), cond=labels, seed=seed, steps=CALLS).cpu()
    view = model.transform.forward
    return samples, labels, nearest(view(samples), view(data.x))[1]


def measure(model: Model, data: Dataset, *, n: int | None = None, seed: int = 0, told: Callable[[str], None] = lambda line: None) -> Quality:
    """All figures of `model` (on any device) for the data it learned. told: hears what is under way.

    n: samples, by default as many as there are held-out rows, 5,000 at most. Without two held-out rows nothing can be compared:
    then only samples are drawn.
    """
    from rheos.core import checks

    judge = None if data.held_out is None or len(data.held_out) < 2 else data.held_out.x[:MOST_ROWS]
    if n is not None:
        checks.integer("n", n, least=2)
    n = n or min(MOST_ROWS, max(2, len(judge) if judge is not None else len(data)))
    told(f"drawing {DRAWS} x {n} samples")
    begun = time.process_time()
    labels = [draw_labels(data, n, seed + i) for i in range(DRAWS)]
    drawn = [model.sample(n, cond=cond, steps=CALLS, seed=seed + i).cpu() for i, cond in enumerate(labels)]
    found = Quality(n, 0 if judge is None else len(judge), drawn[0], labels[0], sampling_cpu_seconds=time.process_time() - begun)
    if len(data.event) == 1:
        found.columns = _columns(drawn[0], data if judge is None else data.held_out)
    if judge is None:
        return found
    view = model.transform.forward if len(data.event) == 1 else (lambda x: x)
    metrics = _metrics(data)
    train = _some(data.x, n, seed)
    told("measuring distances")
    fits = _gaussians(data, n, seed)
    for (name, unit), metric in metrics.items():
        against = lambda x, metric=metric: float(metric(view(x), view(judge)))
        item = Distance(name, unit, _spread([against(x) for x in drawn]), against(train), len(train))
        item.gaussian_fits = {kind: _spread([against(x) for x in fit]) for kind, fit in fits.items()}
        item.gaussian = min(item.gaussian_fits.values(), default=None)
        found.distances.append(item)
    told("finding nearest training rows")
    from rheos.metrics import nearest

    scaled = model.transform.forward
    found.near, found.near_held_out = nearest(scaled(drawn[0]), scaled(data.x))[0], nearest(scaled(judge), scaled(data.x))[0]
    told("comparing rules and numbers of calls")
    first = next(iter(metrics.values()))
    _fill_chart(found, model, labels[0], seed, lambda x: float(first(view(x), view(judge))))
    return found


def _metrics(data: Dataset) -> dict[tuple[str, str], Callable[[Tensor, Tensor], Tensor]]:
    """(name, unit) -> distance; the first one judges.

    That is the Fréchet distance only where there are features for it: on raw values it sees mean and covariance alone, so that any
    Gaussian fit would look good.
    """
    from rheos.metrics import digit_features, frechet, sliced_w2

    found: dict[tuple[str, str], Callable[[Tensor, Tensor], Tensor]] = {}
    if data.name == "digits":
        found["Fréchet distance of features", "squared feature units"] = partial(frechet, features=digit_features())
    of, unit = ("rows", "standard deviations") if len(data.event) == 1 else ("pixels", "pixel values")
    found[f"sliced W2 of {of}", unit] = sliced_w2
    if data.x[0].numel() <= MOST_DIMS:
        found[f"{RAW} of {of}", f"squared {unit}"] = frechet
    return found


def _gaussians(data: Dataset, n: int, seed: int) -> dict[str, list[Tensor]]:
    """Draws of full-covariance Gaussian fits: as they fall, and clamped to the bounds where there are any."""
    from rheos.metrics import gaussian_fit

    if data.x[0].numel() > MOST_DIMS or len(data) < 3:
        return {}
    free = [gaussian_fit(data.x, n, seed=seed + i) for i in range(DRAWS)]
    return {"unclamped": free} if data.bounds is None else {"unclamped": free, "clamped": [x.clamp(*data.bounds) for x in free]}


def _fill_chart(found: Quality, model: Model, labels: Tensor | None, seed: int, distance: Callable[[Tensor], float]) -> None:
    """Distance by rule and number of calls, the same starts and classes for all. What a rule cannot do is said, not hidden."""
    from rheos.core import NonFinite

    for name in CHART_RULES:
        line = found.chart[name] = []
        for calls in CHART_CALLS:
            try:
                line.append((calls, distance(model.sample(found.rows, cond=labels, rule=rule_named(name), steps=calls, seed=seed).cpu())))
            except (ValueError, NonFinite) as error:
                found.skipped.append(f"{name} at {calls} calls: {error}")


def _columns(samples: Tensor, judge: Dataset) -> list[dict[str, float]]:
    moments = lambda x: (x.double().mean(0).tolist(), x.double().std(0, correction=0).tolist())
    (mean, std), (true_mean, true_std) = moments(samples), moments(judge.x)
    names = ("mean", "std", "data_mean", "data_std")
    return [dict(zip(names, row, strict=True)) for row in zip(mean, std, true_mean, true_std, strict=True)]


def _some(x: Tensor, n: int, seed: int) -> Tensor:
    """`n` rows at most, at random."""
    from rheos.core import Draws

    return x if len(x) <= n else x[Draws(seed).permutation("report rows", 0, len(x))[:n]]


def _spread(values: list[float]) -> tuple[float, float]:
    import statistics

    return statistics.fmean(values), statistics.stdev(values)
