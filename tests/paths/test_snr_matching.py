"""A field seen through another path: against the exact field there, beyond the other path's ends, as a network that learns; refusals."""
import copy

import pytest
import torch
from torch import nn

from rheos.core import Draws
from rheos.data import GaussianMixture, skewed
from rheos.guidance import classifier_free
from rheos.paths import ExactField, Field, Path, Student, matched
from rheos.samplers import Euler, RungeKutta, sample

F64 = torch.float64
ONE_SIDED = {"vp": Path.vp(), "edm": Path.edm(), "ve": Path.ve(), "cosine": Path.cosine(), "linear": Path.linear()}
X = 1.3 * Draws(3).rows("x", 0, (5, 2), dtype=F64) + torch.tensor([0.4, -0.2], dtype=F64)
T = torch.tensor([0.07, 0.3, 0.5, 0.81, 0.95], dtype=F64)


def net(width=7):
    """Of x, t and a label, in float64."""
    class Small(nn.Module):
        event = (2,)

        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, width), nn.Linear(width, 2)
            self.label = nn.Embedding(4, width)

        def forward(self, x, t, cond=None):
            h = self.a(torch.cat([x, t[:, None]], 1))
            return self.b(torch.tanh(h if cond is None else h + self.label(cond % 4)))

    with Draws(2).scope(0):
        return Small().double()


# -- closed form -------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("to", ["linear", "vp", "edm", "cosine"])
@pytest.mark.parametrize("of", ONE_SIDED)
def test_it_is_the_exact_field_of_the_other_path(of, to):
    """Velocity, noise and data of a skewed mixture on `to`, asked of its exact field on `of`; times inside both paths."""
    here, there = ExactField(ONE_SIDED[to], skewed()), ExactField(ONE_SIDED[of], skewed())
    lam = torch.tensor([-2.0, -0.7, 0.1, 1.2, 2.5], dtype=F64)
    t = here.path.time_at(lam)
    seen = matched(there, here.path, ("data", "noise"))
    for kind in ("velocity", "data", "noise", "score"):
        torch.testing.assert_close(seen(X, t).of(kind), here(X, t).of(kind), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(matched(there, here.path)(X, float(t[3])).velocity, here(X, float(t[3])).velocity, rtol=1e-9, atol=1e-9)


def test_images_of_any_shape_and_rows_of_their_own_time():
    law = GaussianMixture(torch.tensor([0.3, 0.7], dtype=F64), torch.tensor([[[1.0], [-2.0]], [[0.4], [0.6]]], dtype=F64), torch.tensor([0.2, 0.5], dtype=F64))
    there, here = matched(ExactField(Path.edm(), law)), ExactField(Path.linear(), law)
    x = X[:, :, None]
    torch.testing.assert_close(there.velocity(x, T), here.velocity(x, T), rtol=1e-9, atol=1e-9)
    assert there.event == (2, 1)


def test_there_and_back_is_the_network_itself():
    field = Field(net(), Path.linear())
    twice = matched(matched(field, Path.vp(), ("data", "noise")))
    torch.testing.assert_close(twice.velocity(X, T), field.velocity(X, T), rtol=1e-9, atol=1e-9)


# -- ends --------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("predicts", ["data", "velocity", "v"])
@pytest.mark.parametrize("path", [Path.vp(), Path.edm(), Path.ve()], ids=["vp", "edm", "ve"])
def test_one_step_from_pure_noise_ends_at_what_the_denoiser_says(path, predicts):
    """z + v(z, 0) = D(k z) with k z as large as the path's start, whose little data it has no place for."""
    field = Field(net(), path, predicts)
    at = path.coefficients(0.0)
    expected = field.data((float(at.b) ** 2 + float(at.c) ** 2) ** 0.5 * X, 0.0)
    torch.testing.assert_close(sample(matched(field), start=X, rule=Euler(), steps=1), expected, rtol=1e-10, atol=1e-10)


def test_where_the_other_path_keeps_noise_the_end_is_reached():
    """EDM's least noise is 0.02 here: at t = 1 the point is the data, and the velocity is data minus the noise that the network says."""
    path = Path.edm(0.02, 80.0)
    field, end = Field(net(), path, "noise"), path.coefficients(1.0)
    answer = matched(field, predicts=("data", "noise"))(X, 1.0)
    torch.testing.assert_close(answer.data, X)
    scale = (1 + float(end.c) ** 2) ** 0.5
    torch.testing.assert_close(matched(field).velocity(X, 1.0), X - field.noise(scale * X, 1.0), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("path", [Path.vp(), Path.edm(), Path.ve(), Path.cosine(), Path.from_betas(torch.linspace(1e-4, 0.02, 50))],
                         ids=["vp", "edm", "ve", "cosine", "betas"])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_finite_from_noise_to_data(path, dtype):
    field = matched(Field(net().to(dtype), path, "data"))
    for t in (0.0, 1e-6, 0.5, 1 - 1e-6):
        answer = field.velocity(X.to(dtype), t)
        assert answer.dtype == dtype and bool(answer.isfinite().all())
    assert float((field.velocity(X.to(dtype), 1e-7) - field.velocity(X.to(dtype), 0.0)).detach().abs().max()) < 1e-3      # no jump at the other path's start


# -- what it is for ----------------------------------------------------------------------------------------------------------

def test_the_flow_from_noise_ends_where_the_diffusion_models_does():
    """One flow, by either path: the same start goes to the same end."""
    there, z = ExactField(Path.vp(), skewed()), Draws(1).rows("z", 0, (20, 2), dtype=F64)
    direct = sample(ExactField(Path.linear(), skewed()), start=z, rule=RungeKutta(4), steps=100)
    torch.testing.assert_close(sample(matched(there), start=z, rule=RungeKutta(4), steps=100), direct, rtol=0, atol=0.03)


def test_its_network_learns_and_leaves_the_other_alone():
    field = Field(net(), Path.vp(), "noise")
    before = copy.deepcopy(field.net.state_dict())
    learning = copy.deepcopy(matched(field).net)
    assert {id(p) for p in learning.parameters()} == {id(p) for p in learning.field.net.parameters()}      # one network, not two
    assert len(list(learning.parameters())) == len(list(field.net.parameters()))
    optimizer = torch.optim.SGD(learning.parameters(), lr=1e-3)
    first = learning(X, T).detach()
    learning(X, T).square().mean().backward()
    optimizer.step()
    assert float((learning(X, T).detach() - first).abs().max()) > 1e-6
    assert all(torch.equal(v, before[k]) for k, v in field.net.state_dict().items())


def test_conditions_and_guidance_pass():
    field, cond = Field(net(), Path.vp(), "data"), torch.tensor([0, 1, 2, 0, 1])
    guided = classifier_free(field, 1.7)
    seen, plain, free = (matched(f).velocity(X, T, c) for f, c in ((guided, cond), (field, cond), (field, torch.full((5,), -1))))
    torch.testing.assert_close(seen, free + 1.7 * (plain - free), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("call", "error", "message"), [
    (lambda: matched(Field(net(), Path.interpolant("none"))), ValueError, "field must be on a one-sided path"),
    (lambda: matched(Field(net(), Path.vp()), Path.interpolant()), ValueError, "path must be on a one-sided path"),
    (lambda: matched(Field(net(), Path.vp()), Path.linear(noise=Student(3.0))), ValueError, "path must have the field's law of noise, Gaussian"),
    (lambda: matched(Field(net(), Path.vp()), predicts="eps"), ValueError, "predicts must be one of"),
    (lambda: matched(net()), TypeError, None),
    (lambda: matched(Field(net(), Path.vp()), 3), TypeError, None),
    (lambda: matched(Field(net(), Path.vp())).velocity(X, 1.5), ValueError, r"t must lie in \[0, 1\]"),
])
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_student_noise_of_one_law_passes():
    law = GaussianMixture.points(torch.tensor([[1.0, -0.5], [0.3, 2.0], [-1.0, 0.2]], dtype=F64))
    there, here = (ExactField(Path(p.schedule, Student(4.0)), law) for p in (Path.edm(), Path.linear()))
    torch.testing.assert_close(matched(there).velocity(X, T), here.velocity(X, T), rtol=1e-9, atol=1e-9)
