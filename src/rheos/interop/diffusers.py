"""Networks of diffusers as fields: `from_diffusers(pipe.unet, pipe.scheduler.config)`. The way back is `RheosScheduler`.

A diffusers network is asked at its own steps k = 0 .. T - 1, of which k = 0 is the data's end: step k sits at t = 1 - k / (T - 1). What it
predicts is named epsilon (the noise), sample (the data), v_prediction (v) or flow_prediction: sigma = 1 - t, asked at T sigma, and the
velocity z - x1 of a clock that runs from data to noise, so that its sign changes here.
"""
from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rheos.core import checks
from rheos.paths import Field, Path

__all__ = ["betas", "from_diffusers", "prediction_type", "the_path"]

KINDS = {"epsilon": "noise", "v_prediction": "v", "sample": "data", "flow_prediction": "velocity"}
LEARNED = ("learned", "learned_range")      # networks that tell a variance too, in a second half of their channels
FLOW = "flow_prediction"
LEAST_SIGNAL = 2.0**-24                     # alpha^2 of the last step where a schedule is rescaled to end without data: no path may reach 0


def prediction_type(config: Mapping[str, Any]) -> str:
    """What the network of a scheduler's config predicts, in diffusers' words.

    ValueError for what is none of the four, for EDM's scalings, and for configs of schedulers whose noise is told neither by betas nor as a flow's.
    """
    if "sigma_data" in config:
        raise ValueError(f"a config with sigma_data is of a network behind EDM's scalings, which this bridge does not read, got {_named(config)}")
    flow = "shift" in config or str(config.get("_class_name", "")).startswith("FlowMatch")
    kind = config.get("prediction_type") or (FLOW if flow else "epsilon")
    if kind != FLOW:
        _check_betas(config)
    return checks.one_of("prediction_type", kind, KINDS)


def _named(config: Mapping[str, Any]) -> str:
    """Who wrote it. Only configs that were saved say so."""
    return str(config.get("_class_name") or "a scheduler without a name")


def _check_betas(config: Mapping[str, Any]) -> None:
    """Plain dicts may leave all to the defaults; what a scheduler of diffusers wrote says what its betas are, or it has none."""
    name = config.get("_class_name")
    told = any(config.get(key) is not None for key in ("beta_start", "beta_schedule"))
    # trained_betas alone are those of IPNDM, no variances of steps: its alpha is sqrt(1 - beta^2), not a product.
    told = told or config.get("trained_betas") is not None and name not in (None, "IPNDMScheduler")
    if (name is not None or "_use_default_values" in config) and not told:
        raise ValueError(f"the noise of {_named(config)} is not told by betas, and it is no flow's: this bridge does not read its config, "
                         f"got {sorted(key for key in config if not key.startswith('_'))}")


def betas(config: Mapping[str, Any]) -> Tensor:
    """(T,) float64, the variances of a discrete schedule as its config describes them, first the data's end. ValueError for schedules unknown here, and
    for configs of schedulers without betas."""
    _check_betas(config)
    steps = checks.integer("num_train_timesteps", config.get("num_train_timesteps", 1000), least=2)
    low, high = float(config.get("beta_start", 1e-4)), float(config.get("beta_end", 0.02))
    even = lambda first, last: torch.linspace(first, last, steps, dtype=torch.float64)
    cosine = lambda k: torch.cos((k / steps + 0.008) / 1.008 * math.pi / 2) ** 2
    k = torch.arange(steps, dtype=torch.float64)
    known: dict[str, Callable[[], Tensor]] = {
        "linear": lambda: even(low, high), "scaled_linear": lambda: even(low**0.5, high**0.5) ** 2,
        "squaredcos_cap_v2": lambda: (1 - cosine(k + 1) / cosine(k)).clamp(max=0.999), "sigmoid": lambda: torch.sigmoid(even(-6.0, 6.0)) * (high - low) + low,
    }
    given, name = config.get("trained_betas"), config.get("beta_schedule", "linear")
    found = torch.as_tensor(given, dtype=torch.float64) if given is not None else known[checks.one_of("beta_schedule", name, known)]()
    if config.get("rescale_betas_zero_snr"):
        # Lin et al., 2023, arXiv:2305.08891: alpha is moved and scaled so that it begins where it did and ends at nothing.
        alpha = torch.log1p(-found).cumsum(0).mul(0.5).exp()
        alpha = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
        power = torch.cat([torch.ones(1, dtype=torch.float64), alpha[:-1] ** 2, torch.tensor([LEAST_SIGNAL], dtype=torch.float64)])
        found = 1 - power[1:] / power[:-1]
    return found


def the_path(config: Mapping[str, Any]) -> Path:
    """The path that a scheduler's config describes: linear for flow_prediction, else that of its betas."""
    return Path.linear() if prediction_type(config) == FLOW else Path.from_betas(betas(config))


class _Network(nn.Module):
    """net(x, t, cond) around a network of diffusers, see `from_diffusers`."""

    def __init__(self, inner: nn.Module, config: Mapping[str, Any], *, cond: dict | None, uncond: dict | None, guidance: float | None, whole_steps: bool):
        super().__init__()
        self.inner, self.cond, self.uncond, self.guidance, self.whole_steps = inner, dict(cond or {}), dict(uncond or {}), guidance, whole_steps
        self.flow = prediction_type(config) == FLOW
        self.steps = int(config.get("num_train_timesteps", 1000)) if self.flow else len(betas(config))
        self.learned = config.get("variance_type") in LEARNED
        # Transformers of diffusers call their first argument hidden_states, U-Nets sample.
        self.first = next(iter(inspect.signature(inner.forward).parameters))
        told = getattr(inner, "config", {})
        size, channels = (told.get(name) for name in ("sample_size", "in_channels")) if isinstance(told, Mapping) else (None, None)
        if size is not None and channels is not None:
            self.event = (channels, size, size) if isinstance(size, int) else (channels, *size)

    def forward(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        if x.dtype in (torch.float16, torch.bfloat16):
            raise ValueError(f"x must be of float32 or float64, got {x.dtype}: times rounded to half precision miss the network's steps; "
                             "pass start=, which is cast to the network's own precision here")
        told = _joined(self.cond, {"class_labels": cond} if isinstance(cond, Tensor) else cond or {})
        told = _filled(_spread(told, len(x)), _spread(self.uncond, len(x)))
        if self.guidance is None:
            return self._answer(x, t, told)
        both = _pairs(told, _spread(_joined(told, self.uncond), len(x)))
        with_cond, without = self._answer(torch.cat([x, x]), torch.cat([t, t]), both).chunk(2)
        return torch.lerp(without, with_cond, self.guidance)

    def _answer(self, x: Tensor, t: Tensor, told: dict) -> Tensor:
        kind = next((p.dtype for p in self.inner.parameters() if p.is_floating_point()), x.dtype)
        cast = lambda v: _each(v, lambda u: u.to(kind) if u.is_floating_point() else u)
        asked = self.steps * (1 - t) if self.flow else (self.steps - 1) * (1 - t)
        asked = asked.round().long() if self.whole_steps and not self.flow else asked
        answer = self.inner(**{self.first: x.to(kind), "timestep": asked, **cast(told)})
        answer = (answer.sample if hasattr(answer, "sample") else answer[0]).to(x.dtype)
        answer = answer[:, : x.shape[1]] if self.learned else answer
        return -answer if self.flow else answer


def from_diffusers(unet: nn.Module, config: Mapping[str, Any], *, cond: dict | None = None, uncond: dict | None = None, guidance: float | None = None,
                   whole_steps: bool = True) -> Field:
    """A network of diffusers as a field, on the path that the config of its scheduler describes (`pipe.unet, pipe.scheduler.config`).

    unet: called as unet(x, step, **cond), with an answer that has `.sample`. cond: keyword arguments of the network that all samples share
        unless they bring their own as `cond` of `rheos.sample`, batch first, 1 row for all: {"encoder_hidden_states": (1, tokens, width)}.
        A tensor or a number as `cond` of `rheos.sample` is passed on as class_labels.
    uncond: what stands for "not given" (the embedding of an empty prompt, the number of the empty class), in guidance and in rows of -1 or NaN.
    guidance: a scale of classifier-free guidance, one doubled batch a call; what `uncond` names is left out in its second half. `rheos.sample(...,
        cond=, guidance=)` does the same for conditions that are given there; it leaves out what it is given, and so never the `cond` given here.
    whole_steps: whether the network is asked at the nearest of the steps it was trained at, as pipelines do, or at fractions of them. Tune tables
        (`rheos.samplers.tune`) on whole_steps=False: their times lie between the steps, and `RheosScheduler` asks the network right there.

    Schedulers that keep x in another scale (EulerDiscrete) show the network
    the same x as the others, so their configs are read like any. ValueError for configs of EDM's scalings and of schedulers without betas that are not
    of flows (ScoreSdeVe, KarrasVe, IPNDM, VQDiffusion), and for guidance without `uncond`.
    """
    if not isinstance(unet, nn.Module):
        raise TypeError(f"unet must be a network of diffusers such as pipe.unet, got {type(unet).__name__}")
    if not isinstance(config, Mapping):
        raise TypeError(f"config must be that of a scheduler, such as pipe.scheduler.config, got {type(config).__name__}")
    for name, value in (("cond", cond), ("uncond", uncond)):
        if value is not None and not isinstance(value, dict):
            raise TypeError(f"{name} must be a dict of the network's keyword arguments, got {type(value).__name__}")
    if guidance is not None:
        checks.between("guidance", guidance, 0.0, float("inf"), high_open=True)
        if not uncond:
            raise ValueError("guidance needs uncond: what the network is told where no condition is given")
    checks.flag("whole_steps", whole_steps)
    net = _Network(unet, config, cond=cond, uncond=uncond, guidance=guidance, whole_steps=whole_steps)
    return Field(net, the_path(config), KINDS[prediction_type(config)])


def _each(told: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(told, Mapping):
        return {name: _each(value, change) for name, value in told.items()}
    return change(told) if isinstance(told, Tensor) else told


def _joined(first: Mapping[str, Any], then: Mapping[str, Any]) -> dict:
    """`first`, with what `then` names in its place, inside dicts of dicts too."""
    deeper = lambda name, value: _joined(first[name], value) if isinstance(value, Mapping) and isinstance(first.get(name), Mapping) else value
    return {**first, **{name: deeper(name, value) for name, value in then.items()}}


def _spread(told: Any, n: int) -> Any:
    """Tensors of one row, and numbers, for all n."""
    if isinstance(told, Mapping):
        return {name: _spread(value, n) for name, value in told.items()}
    if isinstance(told, int | float) and not isinstance(told, bool):
        told = torch.as_tensor(told)
    if not isinstance(told, Tensor):
        return told
    if told.ndim == 0:
        return told.expand(n)
    if len(told) not in (1, n):
        raise ValueError(f"cond must have 1 or {n} rows, got {len(told)}")
    return told.expand(n, *told.shape[1:])


def _filled(told: dict, empty: dict) -> dict:
    """`told`, with rows that rheos marks as not given (-1, NaN) filled from `empty`."""
    filled = {}
    for name, value in told.items():
        if isinstance(value, Mapping):
            value = _filled(dict(value), dict(empty.get(name, {})))
        elif isinstance(value, Tensor):
            missing = value.isnan() if value.is_floating_point() else value < 0
            if bool(missing.any()):
                if name not in empty:
                    raise ValueError(f"{name} is not given for some samples, and uncond does not say what the network is told then")
                rows = missing.flatten(1).any(1) if value.ndim > 1 else missing
                value = torch.where(rows.reshape(-1, *(1,) * (value.ndim - 1)), empty[name].to(value), value)
        filled[name] = value
    return filled


def _pairs(told: dict, empty: dict) -> dict:
    pair = lambda u, v: _pairs(u, v) if isinstance(u, Mapping) else torch.cat([u, v.to(u)]) if isinstance(u, Tensor) else u
    return {name: pair(value, empty[name]) for name, value in told.items()}
