"""What every probability path, and every field on it, must show, line by line. A schedule that cannot meet a line declares it,
`exempt = {"ends": "why"}`; an undeclared failure fails, and so does a declared one that passes.
"""
from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rheos.core import Draws
from rheos.paths import KINDS, Field, Path, PathPoint
from rheos.testing.conformance import Line, hold, require

__all__ = ["FIELD_LINES", "PATH_LINES", "check_field", "check_path"]

F64 = torch.float64
INSIDE = torch.tensor([0.04, 0.2, 0.5, 0.77, 0.97], dtype=F64)
EVENT = (2, 3, 5)       # not square, no two sizes alike


def _made(path: Path, t: Tensor, dtype: torch.dtype = F64) -> PathPoint:
    draw = lambda name: Draws(1).rows(name, 0, (len(t), *EVENT), dtype=F64).to(dtype)
    return path.sample(draw("x1") + 0.3, t, x0=1.5 * draw("x0") if path.two_sided else None, z=draw("z"))


def _close(a: Tensor, b: Tensor, relative: float, what: str) -> None:
    gap = float((a - b).abs().max() / b.abs().max().clamp_min(1e-300))
    require(gap <= relative, f"{what}: off by {gap:.2g} relative, more than {relative:g}")


def derivatives(make: Callable[[], Path]) -> None:
    """a', b', c' are the time derivatives of a, b, c, and cdc is c c'."""
    path, h = make(), 1e-6
    at, up, down = (path.coefficients(INSIDE + d) for d in (0.0, h, -h))
    for name in ("a", "b", "c"):
        numeric = (torch.as_tensor(getattr(up, name)) - torch.as_tensor(getattr(down, name))) / (2 * h)
        exact = torch.as_tensor(getattr(at, f"d{name}"), dtype=F64)
        gap = float((numeric - exact).abs().max() / (1 + exact.abs().max()))
        require(gap < 1e-6, f"d{name} is not the derivative of {name}: off by {gap:.2g}")
    require(torch.allclose(torch.as_tensor(at.cdc, dtype=F64), torch.as_tensor(at.c * at.dc, dtype=F64), rtol=1e-9), "cdc is not c c'")


def velocity(make: Callable[[], Path]) -> None:
    """The velocity of a point is its time derivative."""
    path, h = make(), 1e-6
    points = [_made(path, INSIDE + d) for d in (-h, 0.0, h)]
    _close((points[2].x - points[0].x) / (2 * h), points[1].velocity, 1e-6, "the velocity is not dx/dt")


def ends(make: Callable[[], Path]) -> None:
    """The path begins at the base and ends at the data: exactly where it is two-sided, by its signal-to-noise ratio where it is not."""
    path = make()
    at = path.coefficients(torch.tensor([0.0, 1.0], dtype=F64))
    if path.two_sided:
        for name, wanted in (("a", [1.0, 0.0]), ("b", [0.0, 1.0]), ("c", [0.0, 0.0])):
            require(bool((getattr(at, name) - torch.tensor(wanted, dtype=F64)).abs().max() < 1e-12), f"{name} is {getattr(at, name).tolist()} at the ends")
        return
    for where, times in (("", [0.0, 1.0]), (" of its interval", path.interval)):
        at = path.coefficients(torch.tensor(times, dtype=F64))
        noise = [float(share) for share in (torch.as_tensor(at.c) / (torch.as_tensor(at.b) ** 2 + torch.as_tensor(at.c) ** 2).sqrt()).flatten(1).amax(1)
                 ] if torch.as_tensor(at.c).ndim > 1 else (torch.as_tensor(at.c) / (torch.as_tensor(at.b) ** 2 + torch.as_tensor(at.c) ** 2).sqrt()).tolist()
        require(noise[0] > 0.99 and noise[1] < 0.1, f"the share of noise is {noise[0]:.3g} at the start{where} and {noise[1]:.3g} at the end")


def noise_and_basis(make: Callable[[], Path]) -> None:
    """Noise that calls itself Gaussian has mean 0 and variance 1, rows do not depend on how they are split, and a basis keeps lengths and undoes itself."""
    path = make()
    z = path.noise.draw((4000, 3), seed=7, like=torch.empty(0, dtype=F64))
    require(torch.equal(path.noise.draw((100, 3), seed=7, first=50, like=torch.empty(0, dtype=F64)), z[50:150]), "noise depends on how rows are split")
    if path.noise.gaussian:
        require(float(z.mean().abs()) < 0.05 and abs(float(z.std()) - 1) < 0.04, f"Gaussian noise has mean {z.mean():.3f} and deviation {z.std():.3f}")
    if path.basis is not None:
        x = Draws(4).rows("x", 0, (3, *EVENT), dtype=F64)
        _close(path.basis.inverse(path.basis.forward(x)), x, 1e-12, "the basis does not undo itself")
        _close(path.basis.forward(x).flatten(1).norm(dim=1), x.flatten(1).norm(dim=1), 1e-12, "the basis changes lengths")


def lam_rises(make: Callable[[], Path]) -> None:
    """lam rises in t, and `time_at` is its inverse."""
    path = make()
    if path.two_sided or getattr(path.schedule, "spectral", False):
        return
    t = torch.linspace(1e-3, 1 - 1e-3, 101, dtype=F64)
    lam = path.lam(t)
    require(bool((lam.diff() > 0).all()), "lam does not rise in t")
    gap = float((path.time_at(lam) - t).abs().max())
    require(gap < 1e-9, f"time_at(lam(t)) is off by {gap:.2g}")


def round_trips(make: Callable[[], Path]) -> None:
    """Every kind read off every other kind that tells it is the one that made the point, to 1e-9 relative in float64."""
    path, point = make(), _made(make(), INSIDE)
    kinds = {"velocity": point.velocity, "data": point.x1}
    if point.z is not None:
        kinds |= {"noise": point.z} | ({"v": point.target("v")} if not path.two_sided and path.basis is None else {})
        if path.noise.gaussian and path.basis is None:
            kinds["score"] = point.target("score")
    at = path.coefficients(INSIDE)
    for of in kinds:
        for to in kinds:
            known = {of: kinds[of]}
            if path.two_sided and point.z is not None:
                known |= {"velocity": kinds["velocity"]} if of in ("noise", "score") else {"noise": kinds["noise"]}
            if path.two_sided and point.z is None and of == "data":
                continue
            _close(path.prediction(known, point.x, at).of(to), kinds[to], 1e-9, f"{to} read off {' and '.join(known)}")


def ends_are_finite_or_refused(make: Callable[[], Path]) -> None:
    """At t = 0 and t = 1 a point is finite, and a conversion gives finite numbers or a ValueError, never inf or nan."""
    path = make()
    for t in (0.0, 1.0):
        point = _made(path, torch.full((3,), t, dtype=F64))
        require(bool(point.x.isfinite().all()), f"x is not finite at t = {t:g}")
        value = Draws(2).rows("answer", 0, tuple(point.x.shape), dtype=F64)
        for of in KINDS:
            for to in KINDS:
                try:
                    found = path.convert(value, point.x, torch.full((3,), t, dtype=F64), of=of, to=to)
                except ValueError:
                    continue
                require(bool(found.isfinite().all()), f"{to} read off {of} at t = {t:g} is not finite, and no ValueError says so")


def row_by_row(make: Callable[[], Path]) -> None:
    """A time for each row gives what each row gives alone."""
    path = make()
    whole = _made(path, INSIDE)
    for i in range(len(INSIDE)):
        one = slice(i, i + 1)
        alone = path.sample(whole.x1[one], INSIDE[one], x0=None if whole.x0 is None else whole.x0[one], z=None if whole.z is None else whole.z[one])
        _close(alone.x, whole.x[one], 1e-12, f"row {i} alone differs")


def dtypes_are_kept(make: Callable[[], Path]) -> None:
    """float32 in, float32 out, near the float64 numbers."""
    path = make()
    single, double = _made(path, INSIDE, torch.float32), _made(path, INSIDE)
    require(single.x.dtype == torch.float32 and single.velocity.dtype == torch.float32, f"float32 became {single.x.dtype}")
    _close(single.x.double(), double.x, 1e-5, "float32 differs from float64")


def posterior_keeps_the_path(make: Callable[[], Path]) -> None:
    """A step by the posterior at the true data lands on the path again: mean and variance of x_s given x1 are b x1 and c^2, for every eta."""
    path = make()
    if path.two_sided or not path.noise.gaussian or path.basis is not None:
        return
    x1 = Draws(3).rows("x1", 0, (5, 4), dtype=F64)
    for t, s, eta in ((0.1, 0.4, 1.0), (0.3, 0.9, 0.5), (0.5, 0.55, 0.0)):
        now, then = path.coefficients(t), path.coefficients(s)
        middle, _ = path.posterior(now.b * x1, x1, t, s, eta)
        shifted, spread = path.posterior(now.b * x1 + now.c, x1, t, s, eta)
        _close(middle, then.b * x1, 1e-12, f"the posterior's mean from t = {t} to {s}")
        total = float((shifted - middle)[0, 0]) ** 2 + float(spread) ** 2
        require(math.isclose(total, float(then.c) ** 2, rel_tol=1e-9), f"the posterior's variance from t = {t} to {s} is {total:g}, not {float(then.c) ** 2:g}")
        back, added = path.transition(then.b * x1, s, t)
        _close(back, now.b * x1, 1e-12, f"the transition's mean from t = {s} to {t}")
        total = (float(now.b / then.b) * float(then.c)) ** 2 + float(added) ** 2
        require(math.isclose(total, float(now.c) ** 2, rel_tol=1e-9), f"the transition's variance from t = {s} to {t}")


def is_saved(make: Callable[[], Path]) -> None:
    """`from_json` gives the path back, unless a part of it is the user's own code."""
    path = make()
    try:
        text = json.dumps(path.to_json())
    except TypeError as error:
        require("cannot be saved" in str(error), f"it is not saved, and not because of code of the user's own: {error}")
        return
    again = Path.from_json(json.loads(text))
    for a, b in zip(path.coefficients(INSIDE), again.coefficients(INSIDE), strict=True):
        require(torch.equal(torch.as_tensor(a), torch.as_tensor(b)), "the path read back from JSON differs")
    require(again == path, "the path read back from JSON is another one")


PATH_LINES: tuple[Line, ...] = (
    Line("derivatives", derivatives),
    Line("velocity = dx/dt", velocity),
    Line("ends", ends),
    Line("noise and basis", noise_and_basis),
    Line("lam rises", lam_rises),
    Line("conversions round-trip", round_trips),
    Line("ends finite or refused", ends_are_finite_or_refused),
    Line("a time for each row", row_by_row),
    Line("keeps dtype", dtypes_are_kept),
    Line("posterior keeps the path", posterior_keeps_the_path),
    Line("is saved", is_saved),
)


def check_path(path: Path, lines: tuple[Line, ...] = PATH_LINES) -> None:
    """Run `lines` on a path. AssertionError that names the line which does not hold, or which is declared exempt and does."""
    hold(str(path), lambda: path, lines, getattr(path.schedule, "exempt", {}), known=PATH_LINES)


# -- fields ------------------------------------------------------------------------------------------------------------------

Ask = tuple[Field, Tensor, Any]


def _kinds(field: Field, x: Tensor, t: Any, cond: Any) -> dict[str, Tensor]:
    answer, found = field(x, t, cond), {}
    for kind in KINDS:
        try:
            found[kind] = answer.of(kind)
        except ValueError:
            continue
    return found


def kinds_agree(make: Callable[[], Ask]) -> None:
    """Every kind that the field tells, read off any other of them through the path, is the same. One call makes them all."""
    field, x, cond = make()
    before = field.nfe
    kinds = _kinds(field, x, 0.4, cond)
    require(field.nfe == before + 1, f"one call counted as {field.nfe - before}")
    require("velocity" in kinds, "it does not tell its velocity")
    at = field.path.coefficients(torch.tensor([0.4], dtype=F64) if field.path.basis is not None else 0.4)
    for of in kinds if not field.path.two_sided else ():
        again = field.path.prediction({of: kinds[of]}, x, at)
        for to in kinds:
            _close(again.of(to), kinds[to], 1e-6 if x.dtype == F64 else 1e-2, f"{to} read off {of}")


def rows_are_their_own(make: Callable[[], Ask]) -> None:
    """A row's answer does not depend on the others, and a time for each row equals row by row."""
    field, x, cond = make()
    t = torch.linspace(0.2, 0.8, len(x), dtype=x.real.dtype)
    whole = field.velocity(x, t, cond)
    for i in range(len(x)):
        one = None if cond is None else {k: v[i : i + 1] for k, v in cond.items()} if isinstance(cond, dict) else cond[i : i + 1]
        _close(field.velocity(x[i : i + 1], t[i : i + 1], one), whole[i : i + 1], 1e-9 if x.dtype == F64 else 1e-4, f"row {i} alone differs")


def keeps_shape_and_dtype(make: Callable[[], Ask]) -> None:
    """Answers have the shape and dtype of x, and are finite inside."""
    field, x, cond = make()
    for t in (0.05, 0.5, 0.95):
        for kind, value in _kinds(field, x, t, cond).items():
            require(value.shape == x.shape and value.dtype == x.dtype, f"{kind} has shape {tuple(value.shape)} and {value.dtype}")
            require(bool(torch.isfinite(value).all()), f"{kind} is not finite at t = {t}")


def times_outside_are_refused(make: Callable[[], Ask]) -> None:
    """Times outside [0, 1] get a ValueError."""
    field, x, cond = make()
    for t in (-0.1, 1.1, math.nan):
        try:
            field(x, t, cond)
        except ValueError:
            continue
        require(False, f"t = {t} was not refused")


FIELD_LINES: tuple[Line, ...] = (
    Line("kinds agree", kinds_agree),
    Line("rows are their own", rows_are_their_own),
    Line("keeps shape and dtype", keeps_shape_and_dtype),
    Line("times outside are refused", times_outside_are_refused),
)


def check_field(field: Field, x: Tensor, cond: Any = None, lines: tuple[Line, ...] = FIELD_LINES) -> None:
    """Run `lines` on a field at x (three rows or more, (batch, *event)). AssertionError that names the line which does not hold."""
    hold(type(field).__name__, lambda: (field, x, cond), lines, getattr(field, "exempt", {}), known=FIELD_LINES)
