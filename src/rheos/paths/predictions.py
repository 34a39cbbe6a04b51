"""One network answer, read as any kind: the only place where predictions are converted.

For one-sided paths x = b x1 + c z and v = b' x1 + c' z, so any one of data (x1), noise (z), velocity (v) and score (-z / c) gives
the others; so does v = (b z - c x1) / sqrt(b^2 + c^2) (Salimans and Ho, 2022, arXiv:2202.00512), from which data and noise can be read at
both ends. Two-sided paths x = a x0 + b x1 + c z need two of them; there the residual x0 - x1 is a kind too. Where a division by a vanished
coefficient would be needed, the finite member is returned if there is one and ValueError says what is missing if not; no small number is
added anywhere.
"""
from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rheos.core import checks
from rheos.paths.basis import Basis
from rheos.paths.schedules import Coefficients

__all__ = ["KINDS", "Prediction", "shaped"]

KINDS = ("velocity", "score", "noise", "data", "v", "residual")


def shaped(value: Tensor | float, like: Tensor) -> Tensor | float:
    """A coefficient as a factor of `like` (batch, *event): a number as it is, (batch,) or () with the event's axes added, others as they are."""
    if not isinstance(value, Tensor):
        return value
    if value.ndim < 2:
        value = value.reshape(-1, *(1,) * (like.ndim - 1))
    if value.ndim > like.ndim:
        raise ValueError(f"x must have an axis a coordinate of its coefficients, (batch, *{tuple(value.shape[1:])}) or what that broadcasts to, "
                         f"got shape {tuple(like.shape)}")
    if value.ndim > 1 and any(own not in (1, size) for own, size in zip(value.shape[:0:-1], like.shape[:0:-1], strict=False)):
        raise ValueError(f"x must have events of shape {tuple(value.shape[1:])}, or what that broadcasts to, got {tuple(like.shape[1:])}")
    dtype = like.dtype.to_real() if like.is_complex() else like.dtype
    return value if value.dtype == dtype and value.device == like.device else value.to(device=like.device, dtype=dtype)


def _vanishes(value: Any) -> bool:
    return bool((value == 0).any()) if isinstance(value, Tensor) else value == 0


class Prediction:
    """What a field says at (x, t): `velocity`, `score`, `noise`, `data` and, for two-sided paths, `source` and `residual`, tensors like x."""

    def __init__(self, known: Mapping[str, Tensor], x: Tensor, at: Coefficients, *, two_sided: bool = False, gaussian: bool = True,
                 basis: Basis | None = None):
        self.x, self.two_sided, self.gaussian = x, two_sided, gaussian
        self.basis = basis
        self._known = dict(known)
        self._at = at
        self._shaped: Coefficients | None = None

    @property
    def at(self) -> Coefficients:
        """The path's coefficients, shaped to multiply x."""
        if self._shaped is None:
            if isinstance(self._at.b, Tensor) and self._at.b.ndim:
                self._shaped = Coefficients(*(shaped(v, self.x) for v in self._at))
            else:
                self._shaped = self._at
        return self._shaped

    def of(self, kind: str) -> Tensor:
        """The prediction as `kind`, converted once and kept."""
        if kind == "score" and not self.gaussian:
            raise ValueError("score cannot be had on a path whose noise is not Gaussian: there it is not -noise / c")
        if kind not in self._known and self.basis is not None:
            # The basis is linear, orthonormal and the same at all times: every kind is carried by it alike.
            turned = Prediction({k: self.basis.forward(v) for k, v in self._known.items()}, self.basis.forward(self.x), self._at, two_sided=self.two_sided)
            self._known[kind] = self.basis.inverse(turned.of(kind))
        if kind not in self._known:
            # `at` is shaped in x's dtype, but whether a coefficient vanishes is asked of the float64 original.
            self._known[kind] = (self._two_sided if self.two_sided else self._one_sided)(kind)
        return self._known[kind]

    velocity = property(lambda self: self.of("velocity"))
    score = property(lambda self: self.of("score"))
    noise = property(lambda self: self.of("noise"))
    data = property(lambda self: self.of("data"))
    v = property(lambda self: self.of("v"))
    source = property(lambda self: self.of("source"))
    residual = property(lambda self: self.of("residual"))

    def drift(self, epsilon: float) -> Tensor:
        """velocity + epsilon score: the drift of the SDE with diffusion sqrt(2 epsilon) that has the path's marginals."""
        return self.velocity if epsilon == 0 else self.velocity + epsilon * self.score

    def _need(self, letter: str, kind: str, given: str) -> Any:
        if _vanishes(getattr(self._at, letter)):
            end = {"a": "t = 1, where nothing of the source is left", "b": "t = 0, where nothing of the data is left",
               "c": "an end of the path, where no noise is left"}[letter]
            raise ValueError(f"{kind} cannot be read off a {given} prediction at {end}; start or end the times a little inside")
        return getattr(self.at, letter)

    def _one_sided(self, kind: str) -> Tensor:
        checks.one_of("kind", kind, KINDS)
        if kind == "residual":
            raise ValueError("residual is the source less the data, and a one-sided path has no source")
        known, x, at = self._known, self.x, self.at
        if kind == "score":
            noise = self.noise
            return -noise / self._need("c", "score", "noise")
        if kind == "v":
            noise, data = self.noise, self.data
            return (at.b * noise - at.c * data) / (at.b * at.b + at.c * at.c) ** 0.5
        if "v" in known and kind in ("noise", "data"):
            power = at.b * at.b + at.c * at.c
            turned = power**0.5 * known["v"]
            return (at.c * x + at.b * turned) / power if kind == "noise" else (at.b * x - at.c * turned) / power
        if "v" in known and kind == "velocity":
            if not _finite(self._at.dc):
                self._need("c", "velocity", "v")
            return at.db * self.data + at.dc * self.noise
        if kind == "noise":
            if "score" in known:
                return -at.c * known["score"]
            if "data" in known:
                return _less(x, at.b, known["data"]).div_(self._need("c", "noise", "data"))
            return at.c * (at.b * known["velocity"] - at.db * x) / self._wronskian()
        if kind == "data":
            if "velocity" in known:
                return self._data_from_velocity()
            if "score" in known:
                return (x + at.c * at.c * known["score"]) / self._need("b", "data", "score")
            return _less(x, at.c, known["noise"]).div_(self._need("b", "data", "noise"))
        if "data" in known and "noise" in known and _finite(self._at.dc):
            return at.db * known["data"] + at.dc * known["noise"]
        if "data" in known:
            c = self._need("c", "velocity", "data")
            return at.db * known["data"] + at.cdc * (x - at.b * known["data"]) / (c * c)
        # v = (b'/b) x + (c c' - c^2 b'/b) z / c: from the score this is finite where c vanishes.
        given = "score" if "score" in known else "noise"
        ratio = at.db / self._need("b", "velocity", given)
        if given == "score":
            return ratio * x - (at.cdc - at.c * at.c * ratio) * known["score"]
        if not _finite(self._at.dc):
            self._need("c", "velocity", "noise")
        return ratio * x + (at.dc - at.c * ratio) * known["noise"]

    def _data_from_velocity(self) -> Tensor:
        at, x, silent = self.at, self.x, self._at.c == 0
        still = self._at.b * self._at.cdc - self._at.c * self._at.c * self._at.db == 0
        if bool((still & ~torch.as_tensor(silent, device=still.device)).any()) if isinstance(still, Tensor) else still and not silent:
            raise ValueError("data cannot be read off a velocity where the path's signal-to-noise ratio stands still; start the times a little inside")
        top, bottom = at.cdc * x - at.c * at.c * self._known["velocity"], at.b * at.cdc - at.c * at.c * at.db
        if not _vanishes(self._at.c):
            return top / bottom
        # Where no noise is left x is the data, up to its scale; only there the quotient is 0 / 0.
        if isinstance(silent, Tensor) and silent.ndim:
            silent = (silent.reshape(-1, *(1,) * (x.ndim - 1)) if silent.ndim == 1 else silent).to(x.device)
            return torch.where(silent, x / at.b, top / torch.where(silent, 1.0, bottom))
        return x / at.b

    def _wronskian(self) -> Any:
        """c (b c' - c b'), never 0 inside the interval of a path whose signal-to-noise ratio rises."""
        at = self._at
        value = at.b * at.cdc - at.c * at.c * at.db
        if _vanishes(value):
            raise ValueError("noise cannot be read off a velocity where no noise is left (t = 1); end the times a little before")
        at = self.at
        return at.b * at.cdc - at.c * at.c * at.db

    def _two_sided(self, kind: str) -> Tensor:
        checks.one_of("kind", kind, (*KINDS, "source"))
        known, x, at = self._known, self.x, self.at
        if {"data", "residual"} <= known.keys():
            known["source"] = known["data"] + known["residual"]
            if kind == "source":
                return known["source"]
        if kind == "residual":
            data = self.data        # first: it says what is missing
            return self.source - data
        if "residual" in known and kind != "noise":
            found = self._with_residual(kind)
            if found is not None:
                return found
        if kind == "noise":
            if "score" in known:
                return -at.c * known["score"]
            if {"data", "source"} <= known.keys():
                return (x - at.a * known["source"] - at.b * known["data"]) / self._need("c", "noise", "data")
        elif kind == "score":
            if "noise" in known or {"data", "source"} <= known.keys():
                noise = self.noise
                return -noise / self._need("c", "score", "noise")
        elif kind == "velocity":
            if {"data", "source"} <= known.keys() or ("data" in known and self._tells_noise()):
                source = self.source
                known = {**known, "source": source}
                return at.da * known["source"] + at.db * known["data"] - at.cdc * self.score
        elif kind == "source" and "data" in known and self._tells_noise() and not ("velocity" in known and _vanishes(self._at.a)):
            return (x - at.b * known["data"] + at.c * at.c * self.score) / self._need("a", "source", "data")
        elif "velocity" in known:
            # Take the noise's share out of x and v; what is left is a x0 + b x1 and a' x0 + b' x1.
            plain = self._noiseless()
            if plain is not None:
                rest, speed = plain
                if _vanishes(self._at.a * self._at.db - self._at.b * self._at.da):
                    raise ValueError(f"{kind} cannot be read off a velocity where the shares of source and data stand still; start the times a little inside")
                determinant = at.a * at.db - at.b * at.da
                return (at.a * speed - at.da * rest) / determinant if kind == "data" else (at.db * rest - at.b * speed) / determinant
        raise ValueError(f"{kind} of a two-sided path cannot be read off {' and '.join(sorted(known))} alone; predict two kinds, such as velocity and noise")

    def _with_residual(self, kind: str) -> Tensor | None:
        """x = (a + b) x1 + a (x0 - x1) + c z, so that nothing is divided by what vanishes at an end; None where data or noise is missing."""
        known, at = self._known, self.at
        if kind == "source" and ("data" in known or self._tells_noise()):
            return self.data + known["residual"]
        if kind == "data" and (self._tells_noise() or _all_zero(self._at.c)):
            rest = self.x - at.a * known["residual"]
            if "noise" in known:
                rest = rest - at.c * known["noise"]
            elif "score" in known:
                rest = rest + at.c * at.c * known["score"]
            return rest / (at.a + at.b)
        if kind == "velocity" and self._tells_noise():
            moved = at.da * known["residual"] + (at.da + at.db) * self.data
            return moved + at.dc * known["noise"] if "noise" in known and _finite(self._at.dc) else moved - at.cdc * self.score
        return None

    def _tells_noise(self) -> bool:
        return "noise" in self._known or "score" in self._known

    def _noiseless(self) -> tuple[Tensor, Tensor] | None:
        known, x, at = self._known, self.x, self.at
        if "noise" in known and _finite(self._at.dc):
            return x - at.c * known["noise"], known["velocity"] - at.dc * known["noise"]
        if self._tells_noise():
            score = self.score
            return x + at.c * at.c * score, known["velocity"] + at.cdc * score
        silent = self._at.c == 0 if not isinstance(self._at.c, Tensor) else bool((self._at.c == 0).all())
        return (x, known["velocity"]) if silent and _all_zero(self._at.cdc) else None


def _less(x: Tensor, factor: Any, value: Tensor) -> Tensor:
    """x - factor value as a new tensor, in one operation where the factor is a number: samplers do this every step."""
    return x - factor * value if isinstance(factor, Tensor) else torch.sub(x, value, alpha=factor)


def _finite(value: Any) -> bool:
    return bool(value.isfinite().all()) if isinstance(value, Tensor) else math.isfinite(value)


def _all_zero(value: Any) -> bool:
    return bool((value == 0).all()) if isinstance(value, Tensor) else value == 0
