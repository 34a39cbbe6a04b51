"""Time shift: each sample is asked at the time that its own variance tells, not at the one that the sampler has on its plan.

What a network gets wrong makes samples noisier, or less noisy, than their time says, and at that time the network has not seen their like. The
variance over a sample's coordinates tells its noise level, sigma^2 or, more exactly, alpha^2 (variance of the data) + sigma^2: the nearest time in a window
is taken for the sample's own. There the field is asked, and data x1 and noise z are read; the sample is taken for alpha x1 + sigma z of the planned
time, so that the step lands where it was planned. One call, as before.

Paper: Li et al., Alleviating exposure bias in diffusion models through sampling with shifted time steps, 2023, arXiv:2305.15583.
"""
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rheos.core import checks
from rheos.paths import Coefficients, Field, Prediction
from rheos.paths.predictions import shaped

__all__ = ["TimeShift"]

GRID = 1000        # candidates are so many to a path whose own steps are not known
FEWEST_COORDINATES = 16


class TimeShift(Field):
    """A field that is asked at each sample's own time: `sample(TimeShift(field, data_variance=0.08), 64, rule=DDIM())`, with any rule of a table.

    field: any one-sided field with Gaussian noise, guidance included: `TimeShift(classifier_free(field, 3.0))`. window: width of the times
        looked at, as a share of the path, half of it on each side; the paper has 0.02 to 0.06. cutoff: the last share of the path, next to
        the data, which is left as it is; the paper has 0.2 to 0.4. Steps of a discrete model are shares of it: 60 of 1,000 are 0.06.
    data_variance: mean variance of a coordinate of the data, in the units of the field (ours); None takes sigma^2 alone for the
        variance at a time, as published, which is good where there is much noise.

    Candidates are the steps of a discrete model's path, else thousandths of it. An answer's `x` is the sample taken back to the planned time, and samplers
    go on from there. ValueError for paths where the variance tells nothing, and for samples of fewer than 16 coordinates.
    """

    moves = True        # its answers are for the sample taken back to the planned time, from where steps go on

    def __init__(self, field: Field, window: float = 0.06, cutoff: float = 0.3, data_variance: float | None = None):
        if not isinstance(field, Field):
            raise TypeError(f"field must be a Field, got {type(field).__name__}; wrap a network as Field(net, path, predicts)")
        path = field.path
        if path.two_sided or not path.noise.gaussian or path.basis is not None:
            what = "a two-sided one" if path.two_sided else f"{path.noise}" if path.basis is None else f"the basis {path.basis}"
            raise ValueError(f"TimeShift reads times off variances, on one-sided paths with Gaussian noise in the plain basis only; this path has {what}")
        self.field = field
        self.window = checks.between("window", window, 0.0, 1.0, low_open=True)
        self.cutoff = checks.between("cutoff", cutoff, 0.0, 1.0)
        self.data_variance = None if data_variance is None else checks.positive("data_variance", data_variance)
        super().__init__(field.net, path, field.predicts, unit_input=field.unit_input)
        levels = self.variance(torch.tensor([path.interval[0], 0.5 * sum(path.interval), path.interval[1]], dtype=torch.float64))
        if float(levels.max() - levels.min()) < 1e-3 * float(levels.max()):
            raise ValueError(f"data_variance = {data_variance:g} gives this path one variance at all times, which tells none of them apart")

    @property
    def event(self) -> tuple[int, ...] | None:
        return self.field.event

    @property
    def like(self) -> Tensor:
        return self.field.like

    def variance(self, t: Tensor) -> Tensor:
        """What the variance over a sample's coordinates is taken to be at times t, of the same shape."""
        at = self.path.coefficients(t)
        noise = torch.as_tensor(at.c, dtype=torch.float64).square().expand(t.shape)
        return noise if self.data_variance is None else noise + self.data_variance * torch.as_tensor(at.b, dtype=torch.float64).square()

    def shifted(self, x: Tensor, t: Tensor | float) -> Tensor:
        """The times (batch,), float64, at which samples x (batch, *event) planned for t are asked."""
        if not len(x):
            raise ValueError("x must hold at least one sample, got none")
        if x[0].numel() < FEWEST_COORDINATES:
            raise ValueError(f"TimeShift needs samples of {FEWEST_COORDINATES} coordinates or more, whose variance tells the noise, got {x[0].numel()}")
        t = torch.as_tensor(t, dtype=torch.float64, device=x.device).expand(len(x))
        steps = len(self.path.schedule.betas) - 1 if hasattr(self.path.schedule, "betas") else GRID
        reach = int(0.5 * self.window * steps + 1e-9)
        offsets = torch.arange(-reach, reach + 1, dtype=torch.float64, device=x.device) / steps
        low, high = self._readable(steps)
        times = (t[:, None] + offsets).clamp(low, high)
        gap = (self.variance(times) - x.flatten(1).double().var(1)[:, None]).abs()
        # Of times equally near, where the window leaves the path, the planned one comes first.
        nearest = (gap + 1e-12 * offsets.abs()).argmin(1)
        found = times.gather(1, nearest[:, None])[:, 0]
        return torch.where((1 - t > self.cutoff) & (low <= t) & (t <= high), found, t)

    def _readable(self, steps: int) -> tuple[float, float]:
        """The ends of the path, half a candidate inside where nothing of the data or of the noise is left to be read."""
        (start, end), gone = self.path.interval, lambda t, letter: float(getattr(self.path.coefficients(t), letter)) == 0
        return start + 0.5 / steps * gone(start, "b"), end - 0.5 / steps * gone(end, "c")

    def __call__(self, x: Tensor, t: Tensor | float, cond: Any = None, *, at: Coefficients | None = None) -> Prediction:
        """One call of the field at each sample's own time; data and noise as they are read there, at the sample taken back to t."""
        planned = torch.as_tensor(t, dtype=torch.float64, device=x.device)
        found = self.shifted(x, planned)
        self.nfe += 1
        if bool((found == planned).all()):
            return self.field(x, t, cond, at=at)
        at = self.path.coefficients(planned) if at is None else at
        answer = self.field(x, found, cond)
        own, data, noise = answer.at, answer.data, answer.noise
        back = x + (shaped(at.b, x) - own.b) * data + (shaped(at.c, x) - own.c) * noise
        return self.path.prediction({"data": data, "noise": noise}, back, at)

    def _ask(self, x: Tensor, t: Tensor, cond: Any, at: Coefficients) -> dict[str, Tensor]:
        raise ValueError("TimeShift goes around all that steers a field, not inside it: TimeShift(classifier_free(field, scale)), without guidance in sample")
