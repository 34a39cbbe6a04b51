"""The Fokker-Planck residual is zero on exact fields of every path, what finite differences of the density say elsewhere, and a loss that can be lowered."""
import math

import pytest
import torch
from torch import nn

from rheos.core import Draws
from rheos.couplings import Pair
from rheos.data import GaussianMixture, skewed
from rheos.nets import DiT, ResidualMLP, UNet
from rheos.objectives import FokkerPlanckResidual, LogitNormal, Matching, Uniform, fokker_planck_residual
from rheos.paths import ExactField, Field, Path, Student

F64 = torch.float64
PATHS = {"linear": Path.linear(), "cosine": Path.cosine(), "vp": Path.vp(), "ve": Path.ve(0.05, 4.0), "edm": Path.edm(0.02, 5.0),
         "two-sided": Path.interpolant(), "trigonometric": Path.interpolant("sin2", "trigonometric")}
FROM = GaussianMixture(torch.tensor([0.6, 0.4], dtype=F64), torch.tensor([[2.0, 0.3], [-1.0, -2.0]], dtype=F64), torch.tensor([0.4, 0.2], dtype=F64))
TO = GaussianMixture(torch.tensor([0.3, 0.7], dtype=F64), torch.tensor([[1.0, 0.0], [-1.0, 2.0]], dtype=F64),
                     torch.tensor([[0.1, 0.6], [0.5, 0.2]], dtype=F64))


def exact(path):
    return ExactField(path, TO, FROM if path.two_sided else None)


@pytest.fixture(scope="module", autouse=True)
def compiled():
    """torch compiles its rules of forward derivatives at the first use of a process, for seconds."""
    fokker_planck_residual(exact(PATHS["linear"]), *points(0))


class Bent(ExactField):
    """The exact score plus `amount` * bend(x, t), and all else read off that."""

    bend, amount = staticmethod(lambda x, t: torch.sin(x) * t[:, None]), 0.1

    def _ask(self, x, t, cond, at):
        return {"score": super()._ask(x, t, cond, at)["score"] + self.amount * self.bend(x, t)}


def points(seed, n=5, event=(2,)):
    draws = Draws(seed)
    return 1.5 * draws.rows("x", 0, (n, *event), dtype=F64), 0.08 + 0.84 * draws.uniform("t", 0, (n,), dtype=F64)


def perceptron(seed, size, activation=nn.Tanh, dtype=F64):
    """net(x, t, cond) on (batch, size), not at a start of zeros."""
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(size + 1, 24), activation(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, size))

        def forward(self, x, t, cond=None):
            return self.layers(torch.cat([x, t[:, None]], 1))

    with Draws(seed).scope(0):
        return Net().to(dtype)


# -- zero where it should be ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS.keys())
def test_zero_on_the_exact_field(path, seed):
    x, t = points(seed)
    field = exact(path)
    # Its parts are as large as the score itself; what is left of them is rounding.
    assert float(fokker_planck_residual(field, x, t).abs().max()) < 1e-7 * (1 + float(field.score(x, t).abs().max()) ** 3)


def test_zero_on_the_exact_field_of_more_numbers_than_are_taken_exactly(seed):
    """A Gaussian's velocity is linear, so that every probe tells the trace of the same matrix: its gradient is zero and the rest is exact."""
    spread = torch.linspace(0.2, 1.5, 20, dtype=F64)[None]
    field = ExactField(Path.vp(), GaussianMixture(torch.ones(1, dtype=F64), Draws(seed).rows("mean", 0, (1, 20), dtype=F64), spread))
    x, t = points(seed, event=(20,))
    assert float(fokker_planck_residual(field, x, t, probes=1, seed=seed).abs().max()) < 1e-7


# -- and what else it is -------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("path", [PATHS["linear"], PATHS["vp"], PATHS["ve"]], ids=["linear", "vp", "ve"])
def test_against_finite_differences(path, seed):
    """On the line, by central differences of s and v alone: d/dt s + d/dx (d/dx v + v s)."""
    target = GaussianMixture(torch.tensor([0.3, 0.7], dtype=F64), torch.tensor([[-1.2], [0.8]], dtype=F64), torch.tensor([0.2, 0.4], dtype=F64))
    field, h = Bent(path, target), 1e-3
    x, t = points(seed, event=(1,))
    inner = lambda x: (field.velocity(x + h, t) - field.velocity(x - h, t)) / (2 * h) + field.velocity(x, t) * field.score(x, t)
    known = (field.score(x, t + h) - field.score(x, t - h)) / (2 * h) + (inner(x + h) - inner(x - h)) / (2 * h)
    value = fokker_planck_residual(field, x, t)
    torch.testing.assert_close(value, known, rtol=2e-3, atol=2e-3 * float(known.abs().max()))
    assert float(value.abs().max()) > 1e-2


def test_the_paths_clock_and_sign_in_closed_form():
    """Variance exploding, s = -k x: v = -(sigma^2)'/2 s, so R = d/dt s + grad(div v + v s) = 2 u k^2 x with u = -(sigma^2)'/2, positive here."""
    path, k = Path.ve(0.1, 3.0), 0.7
    field = Field(lambda x, t, cond: -k * x, path, "score")
    x, t = points(3, event=(3,))
    sigma = 3.0 * (0.1 / 3.0) ** t
    u = math.log(30.0) * sigma**2
    torch.testing.assert_close(fokker_planck_residual(field, x, t), (2 * u * k * k)[:, None] * x)


@pytest.mark.parametrize("kind", ["velocity", "data", "noise", "v"])
def test_the_same_whatever_the_network_tells(kind, seed):
    """A perceptron's score, told as another kind by conversion, has the same residual."""
    net, path = perceptron(seed, 2), Path.cosine()
    other = lambda x, t, cond: path.prediction({"score": net(x, t)}, x, path.schedule.coefficients(t)).of(kind)
    x, t = points(seed)
    torch.testing.assert_close(fokker_planck_residual(Field(other, path, kind), x, t), fokker_planck_residual(Field(net, path, "score"), x, t),
                               rtol=1e-8, atol=1e-8)


def test_rows_do_not_see_each_other_and_conditions_go_along(seed):
    with Draws(seed).scope(0):
        net = ResidualMLP((3,), width=16, depth=2, classes=4).double()
    with torch.no_grad():
        for name, p in net.named_parameters():
            p += 0.3 * Draws(seed).rows(name, 0, p.shape, dtype=F64)
    field, (x, t), cond = Field(net, Path.linear()), points(seed, event=(3,)), torch.tensor([0, 3, -1, 2, 1])
    whole = fokker_planck_residual(field, x, t, cond)
    for row in range(5):
        cut = slice(row, row + 1)
        torch.testing.assert_close(fokker_planck_residual(field, x[cut], t[cut], cond[cut]), whole[cut], rtol=1e-9, atol=1e-9)
    assert not torch.allclose(fokker_planck_residual(field, x, t, cond.flip(0)), whole, atol=1e-3)


def test_probes_are_right_on_average(seed):
    """18 numbers: the mean over 400 probes within five standard errors of the divergence by each coordinate, which two halves of 9 give exactly."""
    net = perceptron(seed, 9)
    both = lambda x, t, cond=None: torch.cat([net(x[:, :9], t), net(x[:, 9:], t) * x[:, 9:].square()], 1)
    field, half = Field(both, Path.cosine(), "score"), Path.cosine()
    x, t = points(seed, n=3, event=(18,))
    parts = [Field(lambda x, t, cond: net(x, t), half, "score"), Field(lambda x, t, cond: net(x, t) * x.square(), half, "score")]
    known = torch.cat([fokker_planck_residual(part, x[:, cut], t) for part, cut in zip(parts, (slice(0, 9), slice(9, 18)), strict=True)], 1)
    drawn = torch.stack([fokker_planck_residual(field, x, t, probes=20, seed=seed, step=k) for k in range(20)]).detach()
    error = drawn.std(0) / math.sqrt(20)
    # 54 numbers at once, and a t distribution of 19 degrees of freedom: six standard errors.
    assert bool(((drawn.mean(0) - known).abs() < 6 * error + 1e-9).all())
    assert float(error.max()) > 1e-6 and not torch.equal(drawn[0], drawn[1])


class Normed(nn.Module):
    """Every norm there is beside the backbones', with a weight of each channel."""

    def __init__(self):
        super().__init__()
        self.groups, self.single, self.layer = nn.GroupNorm(2, 4), nn.InstanceNorm1d(4, affine=True), nn.LayerNorm([4, 12])
        self.mix, self.leave = nn.Conv1d(3, 4, 3, padding=1), nn.Conv1d(4, 2, 1)

    def forward(self, x, t, cond=None):
        h = x.reshape(len(x), 2, -1)[..., :24].unflatten(-1, (2, 12))
        h = self.mix(torch.cat([h[:, :, 0], t[:, None, None].expand(-1, 1, 12)], 1))
        h = self.leave(self.layer(self.single(torch.tanh(self.groups(h)))))
        return torch.cat([h, h.square()], -1).reshape(x.shape)


BACKBONES = {"UNet": lambda: UNet((2, 6, 4), widths=(8, 16), patch=1, attention=(1,)), "DiT": lambda: DiT((2, 6, 4), patch=2, width=16, depth=1),
             "ResidualMLP": lambda: ResidualMLP((2, 6, 4), width=12, depth=2), "other norms": Normed}


@pytest.mark.parametrize("make", BACKBONES.values(), ids=BACKBONES.keys())
def test_backbones_with_norms_and_attention(make, seed):
    """By central differences along one direction. torch's own norms are wrong in this order of derivatives."""
    with Draws(seed).scope(0):
        net = make().double().eval()
    with torch.no_grad():
        for name, p in net.named_parameters():
            p += 0.1 * Draws(seed).rows(name, 0, p.shape, dtype=F64)
    field, (x, t), h = Field(net, Path.linear()), points(seed, n=2, event=(2, 6, 4)), 1e-4
    u = Draws(seed).uniform("probes", 0, (2, 1, 48))
    probe = torch.where(u[:, 0] < 0.5, -1.0, 1.0).double().reshape(x.shape)
    value = fokker_planck_residual(field, x, t, probes=1, seed=seed)
    along = Draws(seed).rows("direction", 0, x.shape, dtype=F64)
    dot = lambda a, b: (a * b).flatten(1).sum(1)

    def inner(x):
        trace = dot(field.velocity(x + h * probe, t) - field.velocity(x - h * probe, t), probe) / (2 * h)
        return trace + dot(field.velocity(x, t), field.score(x, t))

    with torch.no_grad():
        known = dot((field.score(x, t + h) - field.score(x, t - h)) / (2 * h), along) + (inner(x + h * along) - inner(x - h * along)) / (2 * h)
    torch.testing.assert_close(dot(value, along).detach(), known, rtol=1e-3, atol=1e-3 * float(known.abs().max()))


# -- the loss ------------------------------------------------------------------------------------------------------------------------

def minibatch(seed, n=40, event=(2,)):
    return Pair(Draws(seed).rows("x1", 0, (n, *event), dtype=F64) * 0.4 + 0.3)


def test_zero_loss_on_an_exact_network_and_not_on_a_bent_one(seed):
    path = Path.vp(0.1, 10.0)
    field = ExactField(path, skewed())
    # The exact field as a network: its own coefficients at t, under derivatives too.
    net = lambda bend: lambda x, t, cond=None: field._ask(x, t, cond, path.schedule.coefficients(t))["score"] + bend * torch.sin(x)
    loss = FokkerPlanckResidual(path)
    pair = minibatch(seed)
    assert float(loss(net(0.0), pair, seed=seed).value) < 1e-8
    assert float(loss(net(0.1), pair, seed=seed).value) > 1e-2


def test_the_value_is_the_weighted_mean_of_what_was_looked_at(seed):
    net, path, pair = perceptron(seed, 2), Path.linear(), minibatch(seed, 10)
    seen = []
    spy = lambda x, t, cond=None: (seen.append((x, t)), net(x, t))[1]
    loss = FokkerPlanckResidual(path, "velocity", share=0.25)(spy, pair, seed=seed, step=3)
    x, t = (v[:1] for v in seen[0])         # the first call looks at the activations, at one row
    rows = 3                                # ceil(0.25 * 10)
    assert torch.equal(loss.per_sample[rows:], torch.zeros(7, dtype=F64))
    torch.testing.assert_close(loss.per_sample.mean(), loss.value)
    alone = fokker_planck_residual(Field(net, path), x, t).square().mean().sqrt() * (1 - t[0]) ** 2
    torch.testing.assert_close(loss.per_sample[0] * rows / 10, alone, rtol=1e-9, atol=1e-12)


def test_weight_and_times_and_seeds_are_used(seed):
    net, path, pair = perceptron(seed, 2), Path.linear(), minibatch(seed)
    of = lambda step=0, **settings: float(FokkerPlanckResidual(path, "velocity", **settings)(net, pair, seed=seed, step=step).value)
    assert of(weight=3.0) == pytest.approx(3 * of(weight=1.0), rel=1e-12)
    assert of(weight=lambda t: (1 - t) ** 2) == pytest.approx(of(), rel=1e-9)
    assert len({of(), of(1), of(when=Uniform(0.1)), of(when=LogitNormal()), of(share=1.0)}) == 5
    assert of() == of()


def test_it_adds_to_matching_and_its_gradient_is_the_derivative(seed):
    net, path, pair = perceptron(seed, 2), Path.cosine(), minibatch(seed, 12)
    whole = Matching(path, "score", when=Uniform(0.1)) + 0.1 * FokkerPlanckResidual(path)
    loss = whole(net, pair, seed=seed)
    alone = Matching(path, "score", when=Uniform(0.1))(net, pair, seed=seed), FokkerPlanckResidual(path)(net, pair, seed=Draws(seed).child(1))
    torch.testing.assert_close(loss.value, alone[0].value + 0.1 * alone[1].value)
    assert loss.per_sample.shape == (12,)
    torch.testing.assert_close(loss.per_sample.mean(), loss.value)
    loss.value.backward()
    for p in net.parameters():
        direction, h = Draws(seed).rows("direction", 0, p.shape, dtype=F64), 1e-6
        with torch.no_grad():
            ends = []
            for sign in (1, -1):
                p += sign * h * direction
                ends.append(float(whole(net, pair, seed=seed).value))
                p -= sign * h * direction
        assert float((p.grad * direction).sum()) == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=1e-4, abs=1e-7)


def test_lowering_it_lowers_it(seed):
    """Fifty steps of descent on the residual alone."""
    net, path, pair = perceptron(seed, 1), Path.vp(0.1, 10.0), minibatch(seed, 64, (1,))
    loss, optimizer = FokkerPlanckResidual(path, "noise"), None
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    values = []
    for step in range(50):
        optimizer.zero_grad()
        value = loss(net, pair, seed=seed, step=step).value
        value.backward()
        optimizer.step()
        values.append(float(value.detach()))
    assert sum(values[-10:]) < 0.7 * sum(values[:10])


def test_dropout_and_the_global_stream_are_left_alone(seed):
    with Draws(seed).scope(0):
        net = ResidualMLP((2,), width=16, depth=1, dropout=0.5).train()
    before = torch.get_rng_state()
    values = [float(FokkerPlanckResidual(Path.linear(), "velocity")(net, Pair(torch.ones(6, 2)), seed=seed).value) for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), before) and values[0] == values[1] and net.training


def test_a_zero_residual_has_a_zero_gradient():
    """The unit Gaussian's own score on a variance-preserving path, with one parameter that changes nothing at 0."""
    shift = torch.zeros((), dtype=F64, requires_grad=True)
    loss = FokkerPlanckResidual(Path.cosine())(lambda x, t, cond=None: -x * (1 + 0 * shift), minibatch(0), seed=0)
    loss.value.backward()
    assert float(loss.value.detach()) < 1e-12 and float(shift.grad) == 0.0


# -- refusals ------------------------------------------------------------------------------------------------------------------------

LINEAR = Path.linear()


@pytest.mark.parametrize(("settings", "error", "says"), [
    ({"path": "linear"}, TypeError, "path"),
    ({"path": Path.linear(noise=Student(5.0)), "predicts": "velocity"}, ValueError, "path must have Gaussian noise"),
    ({"path": Path.interpolant("none"), "predicts": "velocity"}, ValueError, "path must have noise"),
    ({"path": LINEAR, "predicts": "drift"}, ValueError, "predicts must be one of"),
    ({"path": LINEAR, "share": 0.0}, ValueError, r"share must lie in \(0, 1\], got 0.0"),
    ({"path": LINEAR, "share": 1.5}, ValueError, r"share must lie in \(0, 1\], got 1.5"),
    ({"path": LINEAR, "probes": 0}, ValueError, "probes must be at least 1, got 0"),
    ({"path": LINEAR, "weight": -1.0}, ValueError, "weight must lie in"),
    ({"path": LINEAR, "when": Uniform}, TypeError, "when"),
], ids=lambda v: str(v) if isinstance(v, dict) else None)
def test_settings_refused(settings, error, says):
    with pytest.raises(error, match=says):
        FokkerPlanckResidual(**settings)


@pytest.mark.parametrize(("activation", "name"), [(nn.ReLU, "relu"), (lambda: nn.LeakyReLU(0.1), "leaky_relu"), (nn.ELU, "elu"), (nn.Hardtanh, "hardtanh"),
                                                   (nn.ReLU6, "hardtanh|relu6"), (nn.PReLU, "prelu"), (nn.SELU, "elu"), (nn.Hardswish, "hardswish")])
def test_kinks_are_refused(activation, name):
    with pytest.raises(ValueError, match=f"net must be twice smoothly differentiable .*({name})"):
        FokkerPlanckResidual(LINEAR)(perceptron(0, 2, activation), minibatch(0), seed=0)


def test_a_kink_in_a_function_is_refused_too():
    with pytest.raises(ValueError, match="net must be twice smoothly differentiable .*relu"):
        FokkerPlanckResidual(LINEAR)(lambda x, t, cond=None: torch.relu(x) - x, minibatch(0), seed=0)


def test_other_refusals():
    field, x, t = exact(LINEAR), torch.zeros(3, 2, dtype=F64), torch.full((3,), 0.5, dtype=F64)
    with pytest.raises(TypeError, match="field"):
        fokker_planck_residual(lambda x, t: x, x, t)
    with pytest.raises(ValueError, match=r"t must have shape \(3,\), one time a row of x, got \(2,\)"):
        fokker_planck_residual(field, x, t[:2])
    with pytest.raises(ValueError, match=r"t must lie in \[0, 1\]"):
        fokker_planck_residual(field, x, t + 1)
    with pytest.raises(ValueError, match=r"x must have shape \(batch, \*event\)"):
        fokker_planck_residual(field, x[:0], t[:0])
    with pytest.raises(ValueError, match="probes must be given for events of more than 16 numbers, got None for 17"):
        fokker_planck_residual(Field(lambda x, t, cond: torch.tanh(x), LINEAR), torch.zeros(3, 17, dtype=F64), t, probes=None)
    with pytest.raises(ValueError, match="no x0 on a one-sided path"):
        FokkerPlanckResidual(LINEAR)(lambda x, t, cond=None: -x, Pair(x, x), seed=0)
    with pytest.raises(ValueError, match=r"weight must give one number a row, a tensor of shape \(2,\)"):
        FokkerPlanckResidual(LINEAR, weight=lambda t: t[:1])(lambda x, t, cond=None: -x, Pair(x), seed=0)
