"""Every public path and field meets its suite; and broken ones turn it red, each on the line that its fault belongs to."""
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch

from rheos.core import Draws
from rheos.data import GaussianMixture, skewed, two_moons
from rheos.guidance import classifier_free
from rheos.nets import ResidualMLP
from rheos.paths import VP, BrownianBridge, Coefficients, ExactField, Field, Fourier2d, Gaussian, Linear, Path, Prediction, Student
from rheos.testing import FIELD_LINES, PATH_LINES, check_field, check_path, rule_paths

F64 = torch.float64


@dataclass(frozen=True)
class Fading:
    """The linear path, high frequencies fading first: b and c differ by coordinate (3, 5)."""

    two_sided: ClassVar[bool] = False
    spectral: ClassVar[bool] = True
    interval: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def coefficients(self, t):
        power = 1 + Fourier2d.frequencies(3, 5)
        t = t[..., None, None, None]
        b, db = t**power, power * t ** (power - 1)
        return Coefficients(0.0, b, 1 - b, 0.0, db, -db, -(1 - b) * db)


PATHS = rule_paths() | {
    "trigonometric": Path.interpolant("sin2", "trigonometric"), "own": Path.interpolant(lambda t: t * t * (1 - t)),
    "student": Path.linear(noise=Student(7.0)), "student edm": Path.edm(0.01, 40.0, noise=Student(16.0)),
    "residual": Path.residual(0.3), "residual like vp": Path.residual(1.0, like=VP()), "shortest": Path.shortest(Fourier2d.frequencies(3, 5).mul(-4).exp()),
    "brownian": Path(BrownianBridge(0.3)), "one basis": Path(Linear(), basis=Fourier2d()), "fading": Path(Fading(), basis=Fourier2d()),
}


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("line", PATH_LINES, ids=[line.name for line in PATH_LINES])
def test_public_paths(name, line):
    check_path(PATHS[name], (line,))


class Broken(Linear):
    """The linear schedule with one thing wrong."""

    def __init__(self, change):
        object.__setattr__(self, "change", change)

    def coefficients(self, t):
        return Coefficients(*self.change(t, super().coefficients(t)))


class Misplaced(Linear):
    def time_at(self, lam):
        return torch.sigmoid(lam) ** 1.01


BROKEN = {
    "derivatives": Broken(lambda t, at: at._replace(db=1.01)),
    "velocity = dx/dt": Broken(lambda t, at: at._replace(dc=1.0)),
    "ends": Broken(lambda t, at: at._replace(c=1.2 - t)),
    "lam rises": Misplaced(),
    "keeps dtype": Broken(lambda t, at: at._replace(b=t.float().double() + (1e-3 if t.dtype == torch.float32 else 0))),
    "a time for each row": Broken(lambda t, at: at._replace(b=t + 0.01 * t.mean())),
    "is saved": Broken(lambda t, at: at),
}


@pytest.mark.parametrize("name", [n for n in BROKEN if n not in ("keeps dtype", "is saved")])
def test_a_broken_path_turns_its_line_red(name):
    with pytest.raises(AssertionError, match=name):
        check_path(Path(BROKEN[name]), tuple(line for line in PATH_LINES if line.name == name))


class Wrong(Path):
    """A path whose conversions have a sign wrong."""

    def prediction(self, known, x, at):
        return Flipped(known, x, at, two_sided=self.two_sided)


class Flipped(Prediction):
    def _one_sided(self, kind):
        return -super()._one_sided(kind) if kind == "noise" else super()._one_sided(kind)


def test_a_wrong_sign_in_a_conversion_turns_the_round_trip_red():
    with pytest.raises(AssertionError, match="conversions round-trip"):
        check_path(Wrong(Linear()))


class Careless(Path):
    """Divides by what has vanished."""

    def convert(self, value, x, t, *, of, to, given=None):
        return value / self.coefficients(t).c[:, None, None, None]


def test_an_infinity_at_an_end_turns_its_line_red():
    with pytest.raises(AssertionError, match="ends finite or refused"):
        check_path(Careless(Linear()), tuple(line for line in PATH_LINES if line.name == "ends finite or refused"))


# -- fields ------------------------------------------------------------------------------------------------------------------

def learned(path, predicts, **kinds):
    with Draws(0).scope(0):
        net = ResidualMLP((2,), width=16, depth=2, classes=3, heads=len(predicts) if isinstance(predicts, tuple) else 1)
        torch.nn.init.normal_(net.leave.weight, std=0.1)
    return Field(net.double().eval(), path, predicts, **kinds)


X = Draws(4).rows("x", 0, (4, 2), dtype=F64)
LABELS = torch.tensor([0, 1, -1, 2])
POINTS = GaussianMixture.points(skewed().sample(20), torch.arange(20) % 3)
FIELDS = {
    "exact": (ExactField(Path.vp(), skewed()), X, None), "exact, labelled": (ExactField(Path.edm(), two_moons(20)), X, LABELS.clamp_max(1)),
    "exact, points": (ExactField(Path.cosine(), POINTS), X, LABELS), "exact, student": (ExactField(Path.linear(noise=Student(3.0)), POINTS), X, LABELS),
    "exact, two-sided": (ExactField(Path.interpolant(), two_moons(9), POINTS), X, LABELS.clamp_max(1)),
    "exact, float32": (ExactField(Path.linear(), skewed()), X.float(), None),
    "exact, in a basis": (ExactField(Path(Fading(), basis=Fourier2d()), GaussianMixture.points(Draws(1).rows("y", 0, (9, 2, 3, 5), dtype=F64), std=0.4)),
                          Draws(2).rows("x", 0, (4, 2, 3, 5), dtype=F64), None),
    "velocity": (learned(Path.linear(), "velocity"), X, LABELS), "noise": (learned(Path.vp(), "noise"), X, LABELS),
    "data": (learned(Path.cosine(), "data"), X, None), "v, unit input": (learned(Path.ve(), "v", unit_input=True), X, LABELS),
    "two kinds": (learned(Path.interpolant(), ("velocity", "noise")), X, LABELS),
    "guided": (classifier_free(learned(Path.linear(), "velocity"), 2.5), X, LABELS.clamp_min(0)),
}


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("line", FIELD_LINES, ids=[line.name for line in FIELD_LINES])
def test_public_fields(name, line):
    field, x, cond = FIELDS[name]
    check_field(field, x, cond, (line,))


def test_broken_fields_turn_their_lines_red():
    mixing = Field(lambda x, t, cond: x - x.mean(0), Path.linear())
    with pytest.raises(AssertionError, match="rows are their own"):
        check_field(mixing, X)
    ahead = Field(lambda x, t, cond: x.float(), Path.linear())
    with pytest.raises(AssertionError, match="keeps shape and dtype"):
        check_field(ahead, X, None, FIELD_LINES[2:3])

    class Twice(Field):
        def _ask(self, *args):
            self.nfe += 1
            return super()._ask(*args)

    with pytest.raises(AssertionError, match="one call counted as 2"):
        check_field(Twice(lambda x, t, cond: x, Path.linear()), X)


class Loud:
    """A law that calls itself Gaussian and is wider."""

    gaussian = True

    def draw(self, shape, **kinds):
        return 1.3 * Gaussian().draw(shape, **kinds)


class Doubling:
    def forward(self, x):
        return 2 * x

    def inverse(self, x):
        return x / 2


class HalfWay(VP):
    interval = (0.5, 0.999)


@pytest.mark.parametrize(("path", "name"), [(Path(Linear(), Loud()), "noise and basis"), (Path(Linear(), basis=Doubling()), "noise and basis"),
                                            (Path(HalfWay()), "ends")], ids=["wide noise", "longer basis", "late start"])
def test_other_broken_parts_turn_their_lines_red(path, name):
    with pytest.raises(AssertionError, match=name):
        check_path(path, tuple(line for line in PATH_LINES if line.name == name))
