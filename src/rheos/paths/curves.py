"""Monotone curves through knots, with derivative and inverse: for schedules that are known at some times only."""
from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["MonotoneCubic"]


class MonotoneCubic:
    """A rising, once differentiable curve through (x, y): cubic Hermite pieces with the slopes of Fritsch and Carlson (1980).

    x: (knots,) strictly rising. y: (knots,) rising; where it stands still the curve does too and its inverse takes the later end.
    All float64. Outside the knots it goes on with the slope of the end.
    """

    def __init__(self, x: Tensor, y: Tensor):
        from scipy.interpolate import PchipInterpolator

        x, y = x.detach().double().cpu(), y.detach().double().cpu()
        if not bool((x.diff() > 0).all()) or not bool((y.diff() >= 0).all()):
            raise ValueError("knots must rise: x strictly, y without falling")
        slopes = PchipInterpolator(x.numpy(), y.numpy()).derivative()(x.numpy())
        self.x, self.y, self.slopes = x, y, torch.from_numpy(slopes)

    def __call__(self, at: Tensor) -> tuple[Tensor, Tensor]:
        """(value, derivative) at points of any shape."""
        x, y, slopes = (v.to(at.device) for v in (self.x, self.y, self.slopes))
        i = torch.searchsorted(x, at.contiguous(), right=True).sub_(1).clamp_(0, len(x) - 2)
        width = x[i + 1] - x[i]
        s = (at - x[i]) / width
        inside = s.clamp(0, 1)
        value, slope = _piece(inside, y[i], y[i + 1], slopes[i] * width, slopes[i + 1] * width)
        return value + slope * (s - inside), slope / width

    def inverse(self, value: Tensor) -> Tensor:
        """The points at which the curve has these values, to rounding."""
        x, y, slopes = (v.to(value.device) for v in (self.x, self.y, self.slopes))
        value = value.double()
        i = torch.searchsorted(y, value.contiguous(), right=True).sub_(1).clamp_(0, len(x) - 2)
        width = x[i + 1] - x[i]
        ends = y[i], y[i + 1], slopes[i] * width, slopes[i + 1] * width
        low, high = torch.zeros_like(value), torch.ones_like(value)
        s = 0.5 * (low + high)
        for _ in range(60):     # Newton's step where it stays inside the bracket, halving where it does not
            reached, slope = _piece(s, *ends)
            low, high = torch.where(reached <= value, s, low), torch.where(reached >= value, s, high)
            newton = s - (reached - value) / slope
            moved = torch.where((newton > low) & (newton < high), newton, 0.5 * (low + high))
            still = bool(((moved - s).abs() <= 1e-16).all())
            s = moved
            if still:
                break
        beyond = torch.where(value < y[0], (value - y[0]) / slopes[0], torch.where(value > y[-1], (value - y[-1]) / slopes[-1], 0.0))
        s = torch.where(value <= y[0], 0.0, torch.where(value >= y[-1], 1.0, s))
        return x[i] + s * width + torch.where(beyond == 0, 0.0, beyond)


def _piece(s: Tensor, y0: Tensor, y1: Tensor, d0: Tensor, d1: Tensor) -> tuple[Tensor, Tensor]:
    """Hermite's cubic and its derivative in s, from end values and end slopes in s."""
    gap = y1 - y0
    second, third = 3 * gap - 2 * d0 - d1, d0 + d1 - 2 * gap
    return y0 + s * (d0 + s * (second + s * third)), d0 + s * (2 * second + 3 * s * third)
