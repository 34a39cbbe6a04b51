"""What `train` chooses by the path, hands to the coupling, and keeps in the file."""
import json
from functools import partial

import pytest
import torch

import rheos
from rheos.core import Draws
from rheos.couplings import Independent, MinibatchOT
from rheos.data import Dataset
from rheos.models import Standardise, Training
from rheos.objectives import LogitNormal, LogNormal
from rheos.paths import Path, Student, data_separation

X = (Draws(3).rows("x", 0, (90, 2)) + torch.arange(90)[:, None] % 3) * torch.tensor([1.0, 4.0]) + 2
DATA = Dataset("three", X, y=torch.arange(90) % 3, classes=3)
SMALL = {"width": 8, "depth": 1, "batch": 16, "steps": 4, "device": "cpu"}


@pytest.mark.parametrize(("path", "predicts", "unit_input", "when"), [
    (Path.linear(), "velocity", False, LogitNormal()), (Path.cosine(), "velocity", False, LogitNormal()), (Path.vp(), "v", False, LogitNormal()),
    (Path.ve(), "v", True, LogNormal(-0.5, 1.2)), (Path.edm(), "v", True, LogNormal(-0.5, 1.2)),
], ids=["linear", "cosine", "vp", "ve", "edm"])
def test_the_path_decides_what_is_learned(path, predicts, unit_input, when):
    """On VP a velocity tells the data badly at the start (its error grows more than twofold); on VE and EDM the noise outgrows the data."""
    run = Training.prepare(X, path=path, **SMALL)
    assert run.matching.predicts == (predicts,) and run.matching.unit_input is unit_input and run.matching.when == when
    assert run.about["unit_input"] is unit_input and run.about["predicts"] == [predicts]
    assert (path.amplification("velocity") > 2 or unit_input) == (predicts == "v")
    told = Training.prepare(X, path=path, predicts="data", unit_input=False, when=LogitNormal(1.0), **SMALL)
    assert told.matching.predicts == ("data",) and told.matching.unit_input is False and told.matching.when == LogitNormal(1.0)


def test_a_model_with_scaled_input_is_the_same_from_its_file(tmp_path):
    model = rheos.train(X, path=Path.edm(), **SMALL)
    assert model.field.unit_input
    again = rheos.load(model.save(tmp_path / "m"))
    assert again.field.unit_input and again.field.predicts == ("v",)
    assert torch.equal(model.sample(5, steps=4), again.sample(5, steps=4))


def test_a_model_of_a_file_without_the_setting_is_shown_x_itself(tmp_path):
    """Files of format 1 that were written before there was the setting."""
    model = rheos.train(X, **SMALL)
    folder = model.save(tmp_path / "m")
    described = json.loads((folder / "model.json").read_text())
    del described["unit_input"]
    (folder / "model.json").write_text(json.dumps(described))
    assert rheos.load(folder).field.unit_input is False


def test_the_coupling_gets_the_networks_rows_and_their_conditions():
    seen = []

    def coupling(target, *, cond):
        seen.append((target, cond))
        return Independent(target, cond=cond)

    run = Training.prepare(DATA, coupling=coupling, **SMALL)
    (target, cond), = seen
    torch.testing.assert_close(target, Standardise.fit(X).forward(X))
    assert torch.equal(cond, DATA.y)
    told = [Training.prepare(X, coupling=made, **SMALL).about["coupling"]
            for made in (Independent, MinibatchOT, partial(MinibatchOT, plan="sinkhorn"), partial(MinibatchOT, plan="sinkhorn", blur=3.0))]
    assert len(set(told)) == 4 and run.about["coupling"] == told[0]
    with pytest.raises(TypeError, match="coupling must make an object with a method sample"):
        Training.prepare(X, coupling=lambda target, cond: 3, **SMALL)


def test_a_path_made_for_data_as_they_are_is_refused():
    """`train` standardises: a kinetic-optimal path for data of scale 4 would have four times the noise that is best."""
    with pytest.raises(ValueError, match=r"path was made for data of scale \d.*, but train gives its data scale 1 first"):
        Training.prepare(X, path=Path.kinetic_optimal(data_separation(X)), **SMALL)
    seen = Standardise.fit(X).forward(X)
    model = rheos.train(X, path=Path.kinetic_optimal(data_separation(seen)), **SMALL)
    assert bool(torch.isfinite(model.sample(4, steps=3)).all())


def test_a_run_is_not_resumed_on_another_path_that_prints_alike(tmp_path):
    one, other = (Path.from_betas(betas) for betas in (torch.linspace(1e-4, 0.02, 50), torch.linspace(0.01, 0.02**0.5, 50) ** 2))
    assert repr(one.schedule) == repr(other.schedule)
    rheos.train(X, path=one, checkpoint=tmp_path / "c", **SMALL)
    with pytest.raises(ValueError, match="path_hash"):
        rheos.train(X, path=other, checkpoint=tmp_path / "c", resume=True, **SMALL)


def test_noise_that_a_coupling_draws_is_that_of_the_path():
    with pytest.raises(ValueError, match="coupling draws normal noise, but the path has Student"):
        Training.prepare(X, path=Path.linear(noise=Student(3.0)), coupling=MinibatchOT, **SMALL)


def test_labelled_data_are_paired_within_their_labels():
    pairs = Training.prepare(DATA, coupling=MinibatchOT, **SMALL).descent.coupling
    assert pairs.within and not MinibatchOT(X).within and not MinibatchOT(X, cond=DATA.y, within=False).within
