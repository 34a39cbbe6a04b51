"""Models of paths that begin at data: what the source may be, where samples begin, what is kept in the file, what is refused."""
import pytest
import torch

import rheos
from rheos.core import Draws
from rheos.couplings import Independent, MinibatchOT, Paired
from rheos.data import Dataset
from rheos.models import Model, Standardise, Training
from rheos.paths import Field, Path
from rheos.samplers import ResidualDDIM, RungeKutta, sample

X = Draws(3).rows("x", 0, (90, 2)) * torch.tensor([1.0, 4.0]) + 2
S = Draws(4).rows("s", 0, (70, 2)) * torch.tensor([0.5, 2.0]) - torch.tensor([30.0, 5.0])
LABELLED = Dataset("three", X, y=torch.arange(90) % 3, classes=3, bounds=(-20.0, 20.0))
SMALL = {"width": 8, "depth": 1, "batch": 16, "steps": 4, "device": "cpu"}
RESIDUAL, BRIDGE = Path.residual(0.3), Path.interpolant()
SOURCES = {"tensor": S, "dataset": Dataset("source", S, bounds=(-50.0, 50.0)), "function": lambda x: 0.5 * x + 1}


# -- training ----------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("path", [RESIDUAL, BRIDGE, Path.interpolant("none")], ids=["residual", "bridge", "straight"])
def test_a_model_of_any_source(source, path, seed):
    model = rheos.train(X, path=path, source=SOURCES[source], seed=seed, **SMALL)
    assert model.field.predicts == (("velocity",) if path == Path.interpolant("none") else ("residual", "noise"))
    given = S if source != "function" else 0.5 * X + 1
    drawn = model.sample(6, sources=given, steps=3, seed=seed)
    carried = model.translate(given[:5], steps=3, seed=seed)
    assert drawn.shape == (6, 2) and carried.shape == (5, 2) and bool(drawn.isfinite().all()) and bool(carried.isfinite().all())


def test_how_a_source_comes_to_the_networks_units():
    """One of its own gets mean 0 and deviation 1; what a function makes of the data stays on the data's scale."""
    own = Training.prepare(X, path=RESIDUAL, source=S, **SMALL)
    torch.testing.assert_close(own.source.mean, Standardise.fit(S).mean)
    begun = own.descent.coupling.source
    torch.testing.assert_close(begun.mean(0), torch.zeros(2), rtol=0, atol=1e-5)
    torch.testing.assert_close(begun.std(correction=0), torch.tensor(1.0), rtol=0, atol=0.02)
    made = Training.prepare(X, path=RESIDUAL, source=SOURCES["function"], **SMALL)
    assert made.source is made.transform
    torch.testing.assert_close(made.descent.coupling.source, made.transform.forward(0.5 * X + 1))


def test_what_belongs_together_stays_together():
    """A function makes pairs; tensors are drawn apart unless told otherwise."""
    kinds = {"function": (SOURCES["function"], Independent, Paired), "apart": (S, Independent, Independent), "rows": (S[:60], Paired, Paired),
             "optimal": (S, MinibatchOT, MinibatchOT)}
    for source, coupling, wanted in kinds.values():
        data = X[:60] if coupling is Paired else X
        run = Training.prepare(data, path=RESIDUAL, source=source, coupling=coupling, **SMALL)
        assert isinstance(run.descent.coupling, wanted) and run.card.get("paired", False) == (wanted is Paired)
    run = Training.prepare(X, path=RESIDUAL, source=lambda x: 3 * x - 1, **SMALL)
    pair = run.descent.coupling.sample(40, seed=2)
    torch.testing.assert_close(run.transform.inverse(pair.x0), 3 * run.transform.inverse(pair.x1) - 1, rtol=1e-4, atol=1e-4)
    apart = Training.prepare(X, path=RESIDUAL, source=3 * X - 1, **SMALL).descent.coupling.sample(40, seed=2)
    back = Standardise.fit(3 * X - 1)
    assert float((back.inverse(apart.x0) - 3 * Standardise.fit(X).inverse(apart.x1) + 1).abs().max()) > 1


def test_pairs_are_learned_and_translated(seed):
    """x1 = x0 turned by a quarter: after some training a row is carried near its own partner, from pairs only."""
    turned = torch.stack([-S[:, 1], S[:, 0]], 1)
    settings = {"width": 32, "depth": 1, "batch": 32, "steps": 200, "device": "cpu", "dropout": 0.0, "decay": 0.97}
    model = rheos.train(turned, path=Path.residual(0.1), source=S, coupling=Paired, seed=seed, **settings)
    spread = float(turned.std(0).mean())
    error = float((model.translate(S, steps=10, seed=seed) - turned).square().mean().sqrt())
    assert error < 0.35 * spread
    apart = rheos.train(turned, path=Path.residual(0.1), source=S, coupling=Independent, seed=seed, **settings)
    assert float((apart.translate(S, steps=10, seed=seed) - turned).square().mean().sqrt()) > 2 * error


# -- sampling ----------------------------------------------------------------------------------------------------------------

def shift(x):
    return x - 7


MODEL = rheos.train(X, path=RESIDUAL, source=S, **SMALL)


def test_translate_is_the_field_between_two_units(seed):
    """By hand: to the network's units, noise, the sampler, and back to the data's."""
    begun = RESIDUAL.start(MODEL.source.forward(S[:5]), seed=seed)
    wanted = MODEL.transform.inverse(sample(MODEL.field, start=begun, steps=4, seed=seed))
    torch.testing.assert_close(MODEL.translate(S[:5], steps=4, seed=seed), wanted)
    for rule in (ResidualDDIM(), ResidualDDIM(0.5), RungeKutta(2)):
        assert bool(MODEL.translate(S[:5], rule=rule, steps=4, seed=seed).isfinite().all())


def test_samples_begin_at_rows_of_the_sources(seed):
    """Every drawn row is one of the sources, each about as often; one after the other where that is asked for."""
    drawn = MODEL._drawn_sources(2000, S, seed, 0)
    which = (drawn[:, None] == S).all(2)
    assert bool(which.any(1).all())
    counts = which.float().sum(0)
    assert float(counts.min()) > 5 and float(counts.max()) < 70
    torch.testing.assert_close(MODEL._drawn_sources(500, S, seed, 300), drawn[300:800])
    model = Model(MODEL.field, MODEL.transform, MODEL.event, source=MODEL.source)
    model.sources, model.in_order = S, True
    torch.testing.assert_close(model._drawn_sources(75, None, seed, 0), torch.cat([S, S[:5]]))
    torch.testing.assert_close(model.sample(3, steps=2, seed=seed), model.translate(S[:3], steps=2, seed=seed))


@pytest.mark.parametrize("split", [1, 4])
def test_split_batches_and_streams_draw_the_same(split, seed):
    whole = MODEL.sample(9, sources=S, steps=2, seed=seed)
    torch.testing.assert_close(MODEL.sample(9, sources=S, steps=2, seed=seed, batch=split), whole, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(torch.cat(list(MODEL.stream(9, batch=split, sources=S, steps=2, seed=seed))), whole, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(MODEL.sample(4, sources=S, steps=2, seed=seed, first=5), whole[5:], rtol=1e-4, atol=1e-3)


def test_without_a_source_a_residual_path_begins_at_zeros(seed):
    model = rheos.train(X, path=Path.residual(1.0), **SMALL)
    assert model.source is None
    begun = Path.residual(1.0).start(torch.zeros(5, 2), seed=seed)
    torch.testing.assert_close(model.sample(5, steps=3, seed=seed), model.transform.inverse(sample(model.field, start=begun, steps=3, seed=seed)))


def test_classes_are_not_asked_for_unless_somebody_says_so(seed):
    assert rheos.train(LABELLED, path=RESIDUAL, source=S, **SMALL).classes is None
    told = rheos.train(LABELLED, path=RESIDUAL, source=S, condition="label", seed=seed, **SMALL)
    assert told.classes == 3 and told.translate(S[:4], cond=[0, 1, 2, 0], steps=2).shape == (4, 2)
    assert told.sample(4, sources=S, cond=1, guidance=2.0, steps=2).shape == (4, 2)


# -- files -------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("source", [*SOURCES, "zeros"])
def test_a_model_is_the_same_from_its_file(source, tmp_path):
    given = SOURCES.get(source)
    model = rheos.train(X, path=RESIDUAL, source=given, **SMALL)
    again = rheos.load(model.save(tmp_path / "m"))
    assert again.field.path == RESIDUAL and again.field.predicts == ("residual", "noise") and (again.source is None) == (source == "zeros")
    if source == "zeros":
        return torch.testing.assert_close(again.sample(5, steps=3), model.sample(5, steps=3), rtol=0, atol=0)
    assert again.source.bounds == model.source.bounds
    torch.testing.assert_close(again.translate(S[:5], steps=3), model.translate(S[:5], steps=3), rtol=0, atol=0)
    torch.testing.assert_close(again.sample(5, sources=S, steps=3), model.sample(5, sources=S, steps=3), rtol=0, atol=0)


def test_a_file_of_a_bridge_without_its_source_is_refused(tmp_path):
    import json

    folder = rheos.train(X, path=BRIDGE, source=S, **SMALL).save(tmp_path / "m")
    described = json.loads((folder / "model.json").read_text())
    del described["source"]
    (folder / "model.json").write_text(json.dumps(described))
    with pytest.raises(ValueError, match=r"model.json: it runs from one domain to another and does not tell the scale of the first"):
        rheos.load(folder)


def test_rows_carried_over_in_parts_are_those_of_the_whole():
    whole = MODEL.translate(S[:4], steps=3, seed=3)
    torch.testing.assert_close(MODEL.translate(S[2:4], steps=3, seed=3, first=2), whole[2:], rtol=0, atol=1e-5)
    torch.testing.assert_close(MODEL.translate(S[:4], steps=3, seed=3, batch=3), whole, rtol=0, atol=1e-5)


def test_a_source_that_works_in_place_leaves_the_data_alone():
    x = X.clone()
    prepared(x, path=RESIDUAL, source=lambda v: v.mul_(0.5))
    assert torch.equal(x, X)


# -- refusals ----------------------------------------------------------------------------------------------------------------

ONE_SIDED = Model(Field(lambda x, t, c: x, Path.linear()), Standardise.none(X), (2,))
prepared = lambda data=X, **settings: Training.prepare(data, **(SMALL | settings))
REFUSALS = [
    (lambda: prepared(source=S), ValueError, "source was given, but a one-sided path begins at noise; give a two-sided path"),
    (lambda: prepared(path=BRIDGE), ValueError, "source must be given: a two-sided path runs from a source to the data"),
    (lambda: prepared(path=RESIDUAL, source=S[:, :1]), ValueError, r"source must have the data's event shape \(2,\), got \(1,\)"),
    (lambda: prepared(path=RESIDUAL, source=S[:0]), ValueError, "source must have the data's event shape"),
    (lambda: prepared(path=RESIDUAL, source=torch.ones(5, 2, dtype=torch.int64)), TypeError, "source"),
    (lambda: prepared(path=RESIDUAL, source=torch.full((5, 2), torch.nan)), ValueError, "finite"),
    (lambda: prepared(path=RESIDUAL, source=lambda x: x[:, :1]), ValueError, r"source must return the shape of the data, \(90, 2\), got \(90, 1\)"),
    (lambda: prepared(path=RESIDUAL, source=lambda x: 3), ValueError, "source must return the shape of the data, .*got int"),
    (lambda: prepared(path=RESIDUAL, source=lambda x: x / 0), ValueError, "the result of source"),
    (lambda: prepared(path=RESIDUAL, source=S, coupling=Paired), ValueError, "source and target must have one shape, row i belonging to row i"),
    (lambda: prepared(path=RESIDUAL, source=torch.ones(5, 2)), ValueError, "source is constant, all its entries are 1"),
    (lambda: prepared(coupling=Paired), ValueError, "coupling Paired needs a source whose rows belong to the data's"),
    (lambda: prepared(path=RESIDUAL, source=S, predicts="v"), ValueError, "predicts = v needs a one-sided path"),
    (lambda: prepared(path=RESIDUAL, source=S, unit_input=True), ValueError, "unit_input needs a one-sided path"),
    (lambda: MODEL.sample(3), ValueError, "sources must be given: this model carries rows of one domain to another, see translate"),
    (lambda: MODEL.sample(3, sources=S[:, :1]), ValueError, "sources"),
    (lambda: MODEL.translate(torch.full((2, 2), torch.inf)), ValueError, "x must"),
    (lambda: MODEL.translate(torch.ones(2, 3)), ValueError, "x"),
    (lambda: ONE_SIDED.translate(X), ValueError, "translate needs a model of a path from one domain to another; this one begins at noise: use sample"),
    (lambda: ONE_SIDED.sample(3, sources=X), ValueError, "sources were given, but this model begins at noise"),
]


@pytest.mark.parametrize(("make", "error", "says"), REFUSALS, ids=[str(k) for k in range(len(REFUSALS))])
def test_what_cannot_be_is_refused_in_one_line(make, error, says):
    with pytest.raises(error, match=says) as told:
        make()
    assert "\n" not in str(told.value) or error is TypeError
