r"""Matched: a field seen through another path, by the time at which both hold the same share of noise, and a scale.

  lam_there(s) = lam_here(t),   E[x1 | x] here = E[x1 | k x] there,   k = sqrt(alpha_s^2 + sigma_s^2) / sqrt(alpha_t^2 + sigma_t^2)

One-sided paths with one law of noise differ only in how fast they pass through noise levels and how large they are, so this is exact. It lets a
diffusion model begin as a linear-path velocity network, as rectified flows are best begun: v = (D(x / t, (1 - t) / t) - x) / (1 - t) of a
denoiser D(x, sigma). Paper: Lee et al., Improving the Training of Rectified Flows, 2024, arXiv:2405.20320.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rheos.paths.field import Field
from rheos.paths.path import Path
from rheos.paths.predictions import shaped

__all__ = ["Matched", "matched"]


class Matched(nn.Module):
    """The network `net(x, t, cond)` on `path` that asks `field`, trained on another path, at matched times; see `matched`.

    Its parameters are those of the field's network, so that it can be trained on.
    """

    def __init__(self, field: Field, path: Path, predicts: tuple[str, ...]):
        super().__init__()
        self.field, self.path, self.predicts = field, path, predicts
        self.net = field.net if isinstance(field.net, nn.Module) else None
        self._ends = tuple(field.path.lam(torch.tensor(field.path.interval, dtype=torch.float64)).tolist())

    @property
    def event(self) -> tuple[int, ...] | None:
        return self.field.event

    def forward(self, x: Float[Tensor, "batch *event"], t: Float[Tensor, " batch"], cond: Any = None) -> Tensor | tuple[Tensor, ...]:
        here, there, (low, high) = self.path, self.field.path, self._ends
        t = t.double()
        lam = here.lam(t)
        s = there.time_at(lam.clamp(low, high)).clamp(*there.interval)
        at, asked = here.coefficients(t), there.coefficients(s)
        size = lambda v: shaped(torch.sqrt(torch.as_tensor(v.b * v.b + v.c * v.c, dtype=torch.float64)), x)
        answer = self.field(x * (size(asked) / size(at)), s, cond)
        data, noise = answer.data, answer.noise
        # Beyond the other path's ends the smaller part of x is what the network says at that end, the larger is what then is left of x.
        b, c = (shaped(v, x).expand(len(x), *(1,) * (x.ndim - 1)) for v in (at.b, at.c))
        early, late = (beyond.reshape(-1, *(1,) * (x.ndim - 1)) for beyond in (lam < low, lam > high))
        noise = torch.where(early, (x - b * data) / torch.where(early, c, 1.0), noise)
        data = torch.where(late, (x - c * noise) / torch.where(late, b, 1.0), data)
        prediction = here.prediction({"data": data, "noise": noise}, x, at)
        answers = tuple(prediction.of(kind) for kind in self.predicts)
        return answers[0] if len(answers) == 1 else answers


def matched(field: Field, path: Path | None = None, predicts: str | Sequence[str] = "velocity") -> Field:
    """`field` as a field on `path` (default the linear one): the same data and noise for the same noise level, at any time of either path.

    field: on a one-sided path, predicting anything; guided fields too. predicts: what the new field's network returns: a velocity, where it is finite
        throughout, as on the linear path; else ("data", "noise").
    Where `path` holds more noise than `field.path` does at the start of its interval, or less than at its end, the field is asked at that end. So one Euler
    step from t = 0 of the linear path ends at what the denoiser makes of pure noise.
    The new field's network is trained by any `Descent`, from here on as a network on `path`: weights move, the change of time and scale stays. One that
    predicts noise is a poor beginning: where alpha is almost 0 its errors are read as data, `field.path.amplification("noise")` times as large.
    TypeError for anything but fields and paths; ValueError for two-sided paths, for coefficients that differ by coordinate and for laws of noise that differ.

    >>> from rheos.data import skewed
    >>> from rheos.paths import ExactField
    >>> x = torch.tensor([[0.3, -1.2]], dtype=torch.float64)
    >>> there, here = ExactField(Path.vp(), skewed()), ExactField(Path.linear(), skewed())
    >>> (matched(there).velocity(x, 0.4) - here.velocity(x, 0.4)).abs().max().item() < 1e-12
    True
    """
    if not isinstance(field, Field):
        raise TypeError(f"field must be a Field, got {type(field).__name__}; wrap a network as Field(net, path, predicts)")
    path = Path.linear(noise=field.path.noise) if path is None else path
    if not isinstance(path, Path):
        raise TypeError(f"path must be a Path, got {path!r}")
    for name, one in (("path", path), ("field", field.path)):
        if one.two_sided or getattr(one.schedule, "spectral", False):
            raise ValueError(f"{name} must be on a one-sided path whose coordinates share their coefficients, got {one.schedule}")
    if path.noise != field.path.noise and not (path.noise.gaussian and field.path.noise.gaussian):
        raise ValueError(f"path must have the field's law of noise, {field.path.noise}, got {path.noise}")
    kinds = (predicts,) if isinstance(predicts, str) else tuple(predicts)
    return Field(Matched(field, path, kinds), path, kinds)
