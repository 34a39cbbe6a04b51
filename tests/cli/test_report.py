"""The report of every kind of data: images with features, tables with columns, texts, with and without labels, captions and held-out rows."""
from __future__ import annotations

import dataclasses
import html
import json
import re
from collections import Counter
from pathlib import Path as FilePath

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from scipy.stats import wasserstein_distance

from rheos.cli import figures, pages, quality, runs
from rheos.cli.column_section import MOST_DRAWN
from rheos.cli.images import CHEQUER, as_pixels, is_image
from rheos.cli.quality import class_grid, draw_conditions, measure, pictured
from rheos.core import Draws
from rheos.data import Columns, Dataset, Tokens
from rheos.metrics import ImageFeatures, correlation_error, frechet, grey_features, ngram_distance
from rheos.models import Conditions, Model, Standardise
from rheos.nets import ResidualMLP
from rheos.paths import Field, Path


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """Few points, so that a report takes a second."""
    monkeypatch.setattr(quality, "CHART_CALLS", (2, 3))
    monkeypatch.setattr(quality, "CHART_RULES", ("default", "euler"))
    monkeypatch.setattr(quality, "MOST_ROWS", 60)


def fresh(data, classes=None):
    """A model that has learned nothing."""
    transform = Standardise.fit(data.x, data.bounds) if data.encoding is None else Standardise.none(data.x)
    with Draws(5).scope(0):
        net = ResidualMLP(data.event, width=8, depth=1, classes=classes)
    conditions = Conditions(classes, data.labels) if classes else None
    return Model(Field(net, Path.linear(), "velocity"), transform, data.event, conditions=conditions, encoding=data.encoding)


def shown(data, found, grid=None):
    """The page, and what report.json holds, read back as strict JSON."""
    run = runs.Run(FilePath("run"), {"name": data.name, "sha256": "0" * 64}, {"steps": 2, "batch": 8, "seed": 0, "device": "cpu", "path": "linear", "every": 1},
                   {"torch": torch.__version__}, {"system": "Linux", "cores": 2, "threads": 1}, "rheos train", "")
    cost = {"parameters": 1234, "training_cpu_seconds": 1.0, "training_wall_seconds": 1.0, "report_cpu_seconds": 1.0, "report_wall_seconds": 1.0,
            "samples_per_cpu_second": found.samples_per_cpu_second}
    page = pages.page(run, data, found, grid, [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.9}], cost, {"torch": torch.__version__})
    addresses = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"'\s>)]+)""", page)
    assert all(address.startswith("data:") for address in addresses) and "<script" not in page and "@import" not in page
    return page, json.loads(json.dumps(found.to_json(), allow_nan=False))


def images(channels, n=90, side=12, labels=("frog & toad", "<b>crab</b>", "ant"), captions=False, held=30):
    """Bright bars at places that depend on the class, in noise."""
    draws = Draws(channels)
    y = draws.integers("class", 0, (n,), 3)
    x = 0.1 * draws.rows("noise", 0, (n, channels, side, side)) - 0.6
    for i, label in enumerate(y.tolist()):
        x[i, :, 3 * label : 3 * label + 3] += 1.2
    x = x.clamp(-1, 1)
    said = tuple(f"a bar at {label} <{i % 7}>" for i, label in enumerate(y.tolist())) if captions else None
    about = {"bounds": (-1.0, 1.0), "classes": None if captions else 3, "labels": None if captions else labels}
    part = lambda rows, name, **more: Dataset(name, x[rows], None if captions else y[rows], captions=None if said is None else said[rows], **about, **more)
    return part(slice(held, None), "bars", held_out=part(slice(0, held), "bars (held out)") if held else None)


# -- images ------------------------------------------------------------------------------------------------------------


def test_grey_images_are_judged_by_features_and_named_by_class():
    data = images(1)
    model = fresh(data, 3)
    found = measure(model, data, n=20, seed=4)
    grid = class_grid(model, data, 2, 4)
    page, told = shown(data, found, grid)
    labels = [quality.draw_labels(data, 20, 4 + i) for i in range(3)]
    values = [float(frechet(model.sample(20, cond=cond, seed=4 + i), data.held_out.x, features=grey_features())) for i, cond in enumerate(labels)]
    first = told["distances"][0]
    assert first["name"] == "Fréchet distance of features" and first["model"]["mean"] == pytest.approx(sum(values) / 3, rel=1e-5)
    assert first["gaussian_fits"]["clamped"] == first["gaussian_fits"]["unclamped"]            # features clamp what they see
    assert [share["name"] for share in told["shares"]] == ["precision", "recall", "density", "coverage"]
    assert told["shares"][0]["floor"] > 0.5 and "Fashion-MNIST and MNIST" in told["features"] and told["features"] in page
    assert page.count('alt="sample, and its nearest training image"') == 6
    assert "<b>frog &amp; toad</b>" in page and "<b>&lt;b&gt;crab&lt;/b&gt;</b>" in page and "3: frog &amp; toad, " in page


def test_captions_stand_under_their_samples_and_are_embedded_once():
    data = images(1, captions=True)
    asked, made = [], []

    class Told(Model):
        condition = "caption"

        def sample(self, n, *, cond=None, **settings):
            asked.append(cond)
            return super().sample(n, **settings)

    class Questions:
        classes = labels = None
        kind = "caption"

        def tensor(self, cond, n):
            if isinstance(cond, list):
                made.append(cond)
            return None if cond is None else torch.zeros(n, 384)

    plain = fresh(data)
    model = Told(plain.field, plain.transform, plain.event)
    model.conditions = Questions()
    grid = class_grid(model, data, 2, seed=1)
    assert set(asked[0]) <= set(data.held_out.captions) and len(set(asked[0])) == 8 == len(grid[0])
    model.sample = lambda n, *, cond=None, **settings: plain.sample(n, **settings)
    found = measure(model, data, n=20)
    assert len(made) == 4 and all(set(texts) <= set(data.captions) for texts in made)          # three draws and the timing, not once a point
    page, _ = shown(data, found, grid)
    assert "Samples by caption" in page and page.count("<figcaption>a bar at ") == 8 and "every row has a caption" in page
    assert html.escape(grid[1][0]) in page and grid[1][0] not in page


def test_a_model_without_conditions_is_asked_for_none_although_the_data_have_labels():
    data = images(1)
    assert draw_conditions(fresh(data), data, 7, 0) is None and class_grid(fresh(data), data, 2, 0)[1] is None
    assert torch.equal(draw_conditions(fresh(data, 3), data, 7, 2), quality.draw_labels(data, 7, 2))


@pytest.mark.parametrize("channels", [3, 4])
def test_without_its_package_colour_is_compared_by_pixels_and_the_page_says_why(channels, monkeypatch):
    monkeypatch.setattr("rheos.metrics.image_features", lambda event, name="": ImageFeatures(None, "x is not installed; it comes with: pip install y"))
    data = images(channels, captions=False, held=20)
    found = measure(fresh(data), data, n=15)
    page, told = shown(data, found, class_grid(fresh(data), data, 2, 0))
    assert [distance["name"] for distance in told["distances"]] == ["sliced W2 of pixels", "raw Fréchet distance of pixels"] and told["shares"] == []
    assert "by their pixels alone: x is not installed" in page and ("show a chequer" in page) is (channels == 4)


def test_see_through_pixels_show_a_chequer_and_opaque_ones_their_colour():
    x = torch.zeros(1, 4, 16, 24)
    x[:, 0], x[:, 1], x[:, 2], x[:, 3] = 1.0, -1.0, 0.0, -1.0
    x[:, 3, :, 12:] = 1.0
    x[:, 3, 5, 3] = 0.0                                                         # half of each
    pixels = as_pixels(x, (-1.0, 1.0))
    light, dark = (round(255 * grey) for grey in CHEQUER)
    assert pixels[0, 0, 0].tolist() == [light] * 3 and pixels[0, 0, 2].tolist() == [dark] * 3 and pixels[0, 2, 2].tolist() == [light] * 3
    assert pixels[0, :, 12:].reshape(-1, 3).tolist() == [[255, 0, 128]] * (16 * 12)
    assert pixels[0, 5, 3].tolist() == [round(127.5 + dark / 2), round(dark / 2), round((127.5 + dark) / 2)]
    assert np.array_equal(as_pixels(x.movedim(1, -1), (-1.0, 1.0)), pixels)
    assert is_image((4, 9, 7), (-1.0, 1.0)) and is_image((9, 7, 4), (-1.0, 1.0)) and not is_image((5, 9, 7), (-1.0, 1.0))


def test_bounds_of_images_are_brought_to_those_of_the_features():
    data = images(1)
    wide = lambda part, **more: dataclasses.replace(part, x=127.5 * (part.x + 1), bounds=(0.0, 255.0), **more)
    other = wide(data, held_out=wide(data.held_out))
    view = quality.View.of(fresh(other), other)
    torch.testing.assert_close(view(other.x).features, grey_features()(data.x), rtol=0, atol=1e-5)


# -- budgets -----------------------------------------------------------------------------------------------------------


def test_a_slow_model_is_judged_by_fewer_rows_which_the_page_counts(monkeypatch):
    data = images(1, n=160, held=60)
    model = fresh(data, 3)
    monkeypatch.setattr(quality, "_timed", lambda *_: (2.0, 0.0))               # seconds a call: nothing can be afforded
    monkeypatch.setattr(quality, "LEAST_JUDGED", 16)
    monkeypatch.setattr(quality, "LEAST_CHARTED", 10)
    slow = measure(model, data)
    page, told = shown(data, slow)
    assert (slow.rows, slow.draws, slow.chart_rows) == (16, 1, 10) and told["distances"][0]["model"]["std"] is None
    assert "one draw of 16 rows" in page and "10 samples a point" in page and "±" not in page.split("How far")[1].split("</section>")[0]
    assert measure(model, data, n=30).rows == 30                                # what was asked for is done
    monkeypatch.setattr(quality, "_timed", lambda *_: (0.0, 0.0))
    quick = measure(model, data, n=16)
    assert (quick.rows, quick.draws, quick.chart_rows) == (16, 3, 16)
    assert torch.equal(quick.samples, slow.samples) and quick.chart_floor == quick.distances[0].floor != slow.chart_floor
    again = measure(model, data, n=16)
    assert again.chart == quick.chart and [d.model for d in again.distances] == [d.model for d in quick.distances]


@pytest.mark.parametrize("call, look, expected", [(0.0, 0.0, 2000), (1e-3, 2e-4, 230), (1e-3, 6e-3, 130), (1.0, 0.0, 50)])
def test_the_chart_fits_its_time(call, look, expected, monkeypatch):
    monkeypatch.undo()                                                          # with the real rules and numbers of calls
    rows = quality._charted(2000, call, look)
    assert rows == expected
    if 50 < rows < 2000:
        spent = rows * (5 * (2 + 3 + 5 + 8 + 12 + 20) * call + 30 * look)
        assert 0.9 * quality.CHART_SECONDS < spent <= quality.CHART_SECONDS


def test_held_out_rows_that_are_sorted_are_met_in_all_their_classes():
    x = torch.arange(100.0)[:, None]
    assert quality._spaced(x, 4).flatten().tolist() == [0.0, 25.0, 50.0, 75.0] and torch.equal(quality._spaced(x, 100), x)


# -- tables ------------------------------------------------------------------------------------------------------------


def mixed(n=120, held=40):
    """A table of all kinds of columns."""
    draws = Draws(2)
    z = draws.rows("z", 0, (n, 2), dtype=torch.float64).numpy()
    city = np.array(["<i>Åre</i>", "<i>Åre</i>", "<i>Åre</i>", "Ulm", "Bonn", None], dtype=object)[draws.integers("city", 0, (n,), 6).numpy()]
    days = np.array([str(np.datetime64("2024-01-15") + int(40 * abs(a))) for a in z[:, 0]], dtype=object)
    table = {"price <$>": 5 + 2 * z[:, 0] + 0.01 * z[:, 1], "rooms": np.round(3 + z[:, 1]), "city": city, "sold": days, "country": np.array(["DE"] * n, dtype=object)}
    encoding = Columns.fit(table)
    x = encoding.encode(table)
    part = lambda rows, name, **more: Dataset(name, x[rows], encoding=encoding, **more)
    return table, part(slice(held, None), "homes", held_out=part(slice(0, held), "homes (held out)"))


def test_a_table_is_shown_in_its_own_columns_and_units():
    table, data = mixed()
    model = fresh(data)
    found = measure(model, data, n=40, seed=3)
    page, told = shown(data, found)
    drawn = [data.encoding.decode(model.sample(40, seed=3 + i)) for i in range(3)]
    price, rooms, city, sold, country = told["columns"]
    assert [column["name"] for column in told["columns"]] == ["price <$>", "rooms", "city", "sold", "country"]
    assert [column["kind"] for column in told["columns"]] == ["number", "number", "category", "date", "constant"]
    truth = table["price <$>"][:40]
    expected = [wasserstein_distance(rows["price <$>"], truth) / np.std(truth) for rows in drawn]
    assert price["distance"]["mean"] == pytest.approx(np.mean(expected), rel=1e-4) and price["data_mean"] == pytest.approx(truth.mean(), rel=1e-4)
    days = lambda texts: np.array(texts, dtype="datetime64[D]").astype(float)
    expected = [wasserstein_distance(days(rows["sold"]), days(table["sold"][:40])) / np.std(days(table["sold"][:40])) for rows in drawn]
    assert sold["distance"]["mean"] == pytest.approx(np.mean(expected), rel=1e-6) and sold["data_quartiles"][1] in table["sold"]
    shares = lambda cities: {level: count / len(cities) for level, count in Counter(cities).items()}
    ours, theirs = shares(drawn[0]["city"]), shares(table["city"][:40])
    assert city["shares"]["(empty)"]["data"] == pytest.approx(theirs[None]) and city["shares"]["Ulm"]["samples"] == pytest.approx(ours.get("Ulm", 0.0))
    away = [sum(abs(shares(rows["city"]).get(level, 0) - theirs.get(level, 0)) for level in (None, "Ulm", "<i>Åre</i>", "Bonn")) / 2 for rows in drawn]
    assert city["distance"]["mean"] == pytest.approx(np.mean(away)) and city["unit"] == "total variation"
    assert country["distance"] is None and country["value"] == "DE" and "always DE" in page and rooms["floor"] > 0
    assert told["associations"]["columns"] == ["price <$>", "rooms", "city", "sold"] and told["associations"]["error"]["mean"] > told["associations"]["floor"]
    levels = [None, "Ulm", "<i>Åre</i>", "Bonn"]
    columns = lambda rows: [torch.tensor(np.asarray(rows["price <$>"])), torch.tensor(np.asarray(rows["rooms"], dtype=float)),
                            torch.tensor([levels.index(level) for level in rows["city"]]), torch.tensor(days(rows["sold"]))]
    errors = [correlation_error(columns(rows), columns({name: values[:40] for name, values in table.items()})) for rows in drawn]
    assert told["associations"]["error"]["mean"] == pytest.approx(float(sum(errors)) / 3, rel=1e-4)
    truth = np.array(told["associations"]["data"])
    assert truth[0, 1] == pytest.approx(np.corrcoef(table["price <$>"][:40], table["rooms"][:40])[0, 1], abs=1e-3)
    assert 'alt="associations of columns, data and samples"' in page and "<i>Åre</i>" not in page and "% &lt;i&gt;Åre&lt;/i&gt;" in page
    assert "<td class=long>price &lt;$&gt;" in page and "price <" not in page
    assert found.columns[1].whole and found.columns[3].whole and not found.columns[0].whole


def test_samples_of_a_table_are_judged_by_what_they_stand_for():
    """A memory of training rows whose entries are off, but not so far that a level would change, is a memory still."""
    levels = np.array(["a", "b", "c"], dtype=object)
    table = {name: levels[Draws(7).integers(name, 0, (200,), 3).numpy()] for name in ("one", "two", "three", "four")}
    encoding = Columns.fit(table)
    x = encoding.encode(table)
    data = Dataset("letters", x[60:], held_out=Dataset("letters (held out)", x[:60]), encoding=encoding)

    class Memory:
        transform = Standardise.none(x)

        def sample(self, n, *, seed=0, **settings):
            return data.x[Draws(seed).permutation("memory", 0, len(data))[:n]] + 0.9 * Draws(seed).uniform("off", 0, (n, 12))

    found = measure(Memory(), data, n=50)
    assert found.near.max() == 0 and found.distances[0].model[0] < 3 * found.distances[0].floor
    assert set(found.samples.flatten().tolist()) == {-1.0, 1.0}


@pytest.mark.parametrize("width", [1, 60, 70])
def test_tables_of_one_column_and_of_many(width):
    rows = Draws(1).rows("wide", 0, (80, width)).exp()
    data = Dataset("wide", rows[30:], held_out=Dataset("wide (held out)", rows[:30]))
    page, told = shown(data, measure(fresh(data), data, n=20))
    assert len(told["columns"]) == width and all(column["floor"] is not None for column in told["columns"])
    assert (told["associations"] is None) is (width == 1)
    assert ("The first 60 of 70 columns" in page) is (width == 70) and (f"The first {MOST_DRAWN} columns that vary" in page) is (width > MOST_DRAWN)


def test_without_held_out_rows_a_table_is_shown_and_not_judged():
    _, data = mixed()
    data = dataclasses.replace(data, held_out=None)
    page, told = shown(data, measure(fresh(data), data, n=20))
    assert all(column["distance"] is None for column in told["columns"]) and told["distances"] == [] and told["associations"]["error"] is None
    assert "No rows were held out" in page and "<th class=number>training data" in page and "floor" not in page.split("<h2>Columns")[1].split("</section>")[0]


def test_a_bar_of_whole_numbers_holds_whole_numbers():
    truth = [1.0, 1.0, 2.0, 5.0]
    ax = figures.marginal(truth, truth, "rooms", Figure().subplots(), whole=True)
    bars = [bar for bar in ax.patches if hasattr(bar, "get_height") and bar.get_height() > 0]
    assert [bar.get_x() + bar.get_width() / 2 for bar in bars] == [1.0, 2.0, 5.0] and [bar.get_height() for bar in bars] == [0.5, 0.25, 0.25]


def test_levels_beyond_the_first_share_a_bar():
    shares = [(f"level {i}", 0.1, (10 - i) / 55) for i in range(10)]
    ax = figures.share_bars(shares, "$x_{1", Figure().subplots(), most=3)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["(others)", "level 2", "level 1", "level 0"]
    assert ax.patches[0].get_width() == pytest.approx(0.7) and ax.patches[4].get_width() == pytest.approx(28 / 55)
    assert figures.drawn(figures.share_bars, shares, "$x_{1").startswith("data:image/svg+xml")         # no formula


# -- texts -------------------------------------------------------------------------------------------------------------


def test_texts_are_shown_as_text_and_judged_by_their_ngrams():
    windows = [(f"<b>{i % 9}</b> & so on and on {i * i % 31} "[:16]).ljust(16).encode() for i in range(90)]
    tokens = Tokens.of(windows)
    x = tokens.encode(windows)
    data = Dataset("notes", x[30:], held_out=Dataset("notes (held out)", x[:30], encoding=tokens), encoding=tokens)
    assert not pictured(data) and not pictured(dataclasses.replace(data, bounds=(-1.0, 1.0), held_out=None))
    model = fresh(data)
    found = measure(model, data, n=25, seed=1)
    page, told = shown(data, found)
    drawn = [tokens.raw(model.sample(25, seed=1 + i)) for i in range(3)]
    assert [distance["name"] for distance in told["distances"]] == [f"n-gram distance of {of}" for of in ("three bytes", "two bytes", "single bytes")]
    for distance, order in zip(told["distances"], (3, 2, 1), strict=True):
        expected = [float(ngram_distance(texts, windows[:30], order=order)) for texts in drawn]
        assert distance["model"]["mean"] == pytest.approx(sum(expected) / 3) and distance["floor"] < distance["model"]["mean"]
        assert distance["gaussian"]["mean"] > distance["floor"]
    assert len(told["texts"]) == 25 and told["texts"][3]["sample"] == tokens.decode(model.sample(25, seed=1))[3]
    assert all(row["nearest"].encode() in windows[30:] for row in told["texts"])
    assert page.count("<pre>") == 2 * 25 + 1 and all(f"<pre>{html.escape(text)}</pre>" in page for row in told["texts"] for text in row.values())
    assert any("<" in row["sample"] for row in told["texts"])


def test_fields_are_judged_as_rows_of_numbers_without_pictures():
    x = Draws(0).rows("field", 0, (60, 2, 5, 4))
    data = Dataset("wind", x[20:], held_out=Dataset("wind (held out)", x[:20]))
    page, told = shown(data, measure(fresh(data), data, n=12))
    assert not pictured(data) and told["features"] == "" and "<h2>Samples" not in page and "<h2>Columns" not in page and told["distances"][0]["floor"] > 0
