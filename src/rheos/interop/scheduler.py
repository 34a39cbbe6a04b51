"""Rules and tables of rheos inside pipelines of diffusers: `pipe.scheduler = RheosScheduler.from_config(pipe.scheduler.config, rule="UniPC")`.

The pipeline calls the network, this scheduler runs one row of a table a call: x_{i+1} = sum_j a_j x_{i-j} + sum_j w_j p_{i-j}, see
`rheos.samplers.Table`. A corrector mends the sample with the output that the next step needs anyway, so that n steps stay n calls.
"""
from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from rheos.core import checks
from rheos.core.extras import require
from rheos.interop.diffusers import KINDS, LEARNED, prediction_type, the_path
from rheos.paths import Clock, Field, Path, Times
from rheos.samplers import RULES, Multistep, MultistepState, Row, Rule, Table, default_rule

require("diffusers", extra="interop")
from diffusers.configuration_utils import ConfigMixin, register_to_config  # noqa: E402
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers, SchedulerMixin, SchedulerOutput  # noqa: E402
from diffusers.utils.torch_utils import randn_tensor  # noqa: E402

__all__ = ["RheosScheduler", "rule_of"]

SPACINGS = ("rule", "linspace", "leading", "trailing")
# What a config says of the network; the rest of it is of how to sample.
NETWORK = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "prediction_type", "rescale_betas_zero_snr", "variance_type")


def rule_of(name: str, arguments: Any = None) -> Rule:
    """The rule of a public class name with its settings as JSON holds them: clocks by their names, a rule inside a rule as {"rule": name, "rule_args": ...}.

    ValueError for names and settings that there are not, and for rules that choose their number of calls themselves; TypeError for arguments that are
    no mapping.
    """
    if arguments is not None and not isinstance(arguments, Mapping):
        raise TypeError(f"rule_args must be a mapping of settings such as {{'order': 3}}, got {type(arguments).__name__}")
    known = {kind.__name__: kind for kind in RULES}
    kind = known[checks.one_of("rule", name, known)]
    settings = {f.name: f for f in fields(kind) if f.init}
    made = {}
    for key, value in (arguments or {}).items():
        checks.one_of(f"rule_args of {name}", key, settings)
        made[key] = Clock(value) if isinstance(value, str) and "Clock" in str(settings[key].type) else _nested(value)
    try:
        return kind(**made)
    except TypeError as error:
        raise ValueError(f"rule_args do not fit {name}: {error}") from None


def _nested(value: Any) -> Any:
    if isinstance(value, Mapping) and "rule" in value:
        return rule_of(value["rule"], value.get("rule_args"))
    return tuple(map(_nested, value)) if isinstance(value, list | tuple) else value


class _Clip:
    """Data predictions kept within a range, as `clip_sample` of diffusers asks."""

    kind = "data"

    def __init__(self, most: float):
        self.most = most

    def __call__(self, data: Tensor, x: Tensor, t: float | Tensor) -> Tensor:
        return data.clamp(-self.most, self.most)


class _Told:
    """In the place of a network: gives back what the pipeline's network said."""

    answer: Tensor

    def __call__(self, x: Tensor, t: Tensor, cond: Any = None) -> Tensor:
        return self.answer


class RheosScheduler(SchedulerMixin, ConfigMixin):
    """A scheduler of diffusers that runs a rule, or a table, of rheos; saved and loaded with its pipeline.

    num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas, rescale_betas_zero_snr, prediction_type ("epsilon", "v_prediction",
        "sample", or "flow_prediction" for networks of flow matching), variance_type: what the network was trained for, as in diffusers.
    rule, rule_args: the name of a rule's class and its settings, {"order": 3, "clock": "rho"}; None is what samples well without tuning.
    table: in place of a rule, a `Table` as JSON, a dict or the text of a file that `Table.save` or `rheos tune` wrote; for the steps it was
        made for, and no others.
    timestep_spacing: "rule" for the rule's own times, at the nearest steps of the network, or "linspace", "leading", "trailing" (which are
        one for flows) as diffusers' multistep schedulers space them; steps_offset is added to "leading". shift: of a flow's times.
    final_sigmas_type: "zero" reads the data off the last call, which leaves no noise, "sigma_min" ends at the network's last step, as rules
        of several calls a step and tables always do.
    clip_sample, clip_sample_range: whether data predictions are kept within +-range.

    A rule that calls the network several times a step (`order` tells how often) has that many timesteps a step. Stochastic rules draw from
    the pipeline's generator; without one from torch's own stream, as all of diffusers does. A rule's run that begins in the middle (img2img)
    is planned anew from there. A table's numbers are what they are: one that looks back, or has a corrector, cannot begin in the middle, where the
    earlier points are missing; one that does neither runs its remaining rows.
    ValueError for settings that do not fit, for a step before `set_timesteps`, and for a batch that changes in mid-run.
    """

    _compatibles = [e.name for e in KarrasDiffusionSchedulers]  # noqa: RUF012
    init_noise_sigma = 1.0

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 1e-4,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: Any = None,
        prediction_type: str = "epsilon",
        rule: str | None = None,
        rule_args: Any = None,
        table: Any = None,
        timestep_spacing: str = "rule",
        steps_offset: int = 0,
        final_sigmas_type: str = "zero",
        rescale_betas_zero_snr: bool = False,
        shift: float = 1.0,
        use_dynamic_shifting: bool = False,
        clip_sample: bool = False,
        clip_sample_range: float = 1.0,
        variance_type: str | None = None,
    ):
        checks.one_of("prediction_type", prediction_type, KINDS)
        checks.one_of("timestep_spacing", timestep_spacing, SPACINGS)
        checks.one_of("final_sigmas_type", final_sigmas_type, ("sigma_min", "zero"))
        checks.positive("shift", shift)
        checks.positive("clip_sample_range", clip_sample_range)
        self.flow = prediction_type == "flow_prediction"
        self.path: Path = the_path({k: v for k, v in self.config.items() if k != "shift"})
        self.last = num_train_timesteps if self.flow else len(self.path.schedule.betas) - 1      # of the network's steps, where noise is most
        if not self.flow:
            self.alphas_cumprod = self.path.coefficients(torch.linspace(1, 0, self.last + 1, dtype=torch.float64)).b.square().float()
        if rule is None and table is None and rule_args:
            raise ValueError(f"rule_args need the rule whose settings they are, got rule_args = {rule_args!r} without rule")
        if table is None:
            field = Field(_Told(), self.path, KINDS[prediction_type])
            self.rule, self.kept = default_rule(field) if rule is None else rule_of(rule, rule_args), None
        elif rule is not None or rule_args:
            raise ValueError(f"table and rule exclude each other, got a table and rule = {rule!r}, rule_args = {rule_args!r}")
        else:
            self.rule, self.kept = None, _read(table)
            if self.kept.before:
                raise ValueError("a table that must be begun with earlier points cannot be run by a scheduler")
            if self.kept.times.path != self.path:
                raise ValueError(f"the table was made for the path {self.kept.times.path.schedule}, this scheduler has {self.path.schedule}")
        self.num_inference_steps: int | None = None
        self.timesteps = torch.arange(num_train_timesteps).flip(0)
        self._asked: list[float] = []
        self._begin_index: int | None = None
        self._state: MultistepState | None = None

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """A scheduler from another one's config, `pipe.scheduler.config`; keyword arguments go before it."""
        if isinstance(config, Mapping):
            # diffusers drops what another class had by default and has its own defaults stand in: here the network must stay what it is.
            told = {"prediction_type": prediction_type(config), **{key: config[key] for key in NETWORK if key in config}}
            kwargs = {**told, **kwargs}
        return super().from_config(config, return_unused_kwargs=return_unused_kwargs, **kwargs)

    def __len__(self) -> int:
        return self.config.num_train_timesteps

    @property
    def order(self) -> int:
        """Calls of the network a step."""
        return 1 if self.rule is None else self.rule.calls_per_step

    @property
    def begin_index(self) -> int | None:
        """The timestep that a run begins with, where a pipeline has set it."""
        return self._begin_index

    @property
    def step_index(self) -> int | None:
        """How many of the timesteps have been passed; None before the first step."""
        return None if self._state is None else self._first + self._state.step

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Begin with this timestep instead of the first (img2img). ValueError on use for a table that looks back or has a corrector."""
        self._begin_index = checks.integer("begin_index", begin_index, least=0)

    def set_timesteps(self, num_inference_steps: int | None = None, device: Any = None, sigmas: Any = None, timesteps: Any = None,
                      mu: float | None = None) -> None:
        """Plan a run of so many steps, and forget the last one.

        sigmas (of a flow: sigma; else sigma / alpha, within the network's own) or timesteps, falling, in place of a number; a 0 at the end
        of sigmas is the end of the run, as it is without. mu: exp(mu) takes the place of `shift`.
        ValueError for sigmas and timesteps that do not fall, are no numbers, or are not of the network.
        """
        shift = self.config.shift if mu is None else math.exp(mu)
        if sigmas is not None and timesteps is not None or num_inference_steps is None and sigmas is None and timesteps is None:
            raise ValueError("set_timesteps needs a number of steps, or sigmas, or timesteps")
        if self.kept is not None:
            steps = self.kept.nfe if num_inference_steps is None else num_inference_steps
            if sigmas is not None or timesteps is not None or steps != self.kept.nfe:
                raise ValueError(f"the table has {self.kept.nfe} rows: ask for num_inference_steps = {self.kept.nfe}")
            self._times, table = None, self.kept
        else:
            self._times = self._spaced(num_inference_steps, sigmas, timesteps, shift)
            table = self._planned(self._times)
        asked, sigma, alpha = self.last * (1 - table.times.t), table.times.sigma, table.times.alpha
        whole = not self.flow and bool((asked - asked.round()).abs().max() < 1e-6)
        self._asked, self._table = asked[:-1].tolist(), table
        self.timesteps = (asked[:-1].round().long() if whole else asked[:-1].float()).to(device)
        self.sigmas = (sigma if self.flow else sigma / alpha).float()
        if self._to_zero(table):
            self.sigmas[-1] = 0.0
        self.num_inference_steps = len(self._asked) if num_inference_steps is None else num_inference_steps
        self._begin_index = self._state = None

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """The sample as it is: x is kept in the scale that the network sees."""
        return sample

    def step(self, model_output: Tensor, timestep: Any, sample: Tensor, generator: Any = None, return_dict: bool = True) -> Any:
        """The sample one call further on, from what the network said of it. ValueError for a timestep that is not the next one."""
        if not self._asked:
            raise ValueError("set_timesteps must be called before step")
        now = float(torch.as_tensor(timestep).flatten()[0])
        # Sums over the history in half precision would lose what high orders gain.
        wide = torch.float32 if sample.dtype in (torch.float16, torch.bfloat16) else sample.dtype
        if self._state is None or self.step_index >= len(self._asked) or (now != self._next() and now == self._begun):
            self._begin(now, sample.to(wide))
        elif now != self._next():
            raise ValueError(f"the next timestep is {self._next():g}, got {now:g}; call set_timesteps to begin anew")
        if sample.shape != self._state.x.shape:
            raise ValueError(f"the batch has changed in mid-run: samples had the shape {tuple(self._state.x.shape)}, got {tuple(sample.shape)}; "
                             "call set_timesteps to begin anew")
        if self.config.variance_type in LEARNED and model_output.shape[1] == 2 * sample.shape[1]:
            model_output = model_output[:, : sample.shape[1]]
        self._run.field.net.answer = (-model_output if self.flow else model_output).to(wide)
        self._state = self._run.step(replace(self._state, x=sample.to(wide)))
        x, s = self._state.x, self._noise[self._state.step - 1]
        if s:
            x = x + s * randn_tensor(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        x = x.to(sample.dtype)
        return SchedulerOutput(prev_sample=x) if return_dict else (x,)

    def _next(self) -> float:
        return self.timesteps[self.step_index].item()

    def _begin(self, now: float, sample: Tensor) -> None:
        """Begin a run with `sample` at `begin_index`, or at the timestep `now`."""
        found = (self.timesteps == now).nonzero().flatten().tolist()
        # Where a rule asks twice at one time, the end of one step and the beginning of the next, a run begins with the latter.
        self._first = self._begin_index if self._begin_index is not None else found[-1] if found else -1
        if not 0 <= self._first < len(self._asked) or self.timesteps[self._first].item() != now:
            raise ValueError(f"timestep must be one of those that set_timesteps planned, where the run begins, got {now:g}")
        table = self._table if self._first == 0 else self._rest(self._first)
        if any(row.s and mend is not None for row, mend in zip(table.predict, table.correct, strict=True)):
            raise ValueError("a table whose corrector follows fresh noise cannot be run by a scheduler")
        self._noise = [row.s for row in table.predict]
        # Noise comes from the pipeline's generator, not from the run's own seed.
        table = replace(table, predict=tuple(replace(row, s=0.0) for row in table.predict))
        edit = _Clip(self.config.clip_sample_range) if self.config.clip_sample else None
        self._run = Multistep(Field(_Told(), self.path, KINDS[self.config.prediction_type]), table, edit=edit)
        self._state, self._begun = self._run.init(sample), now

    def _rest(self, first: int) -> Table:
        """The plan of a run that begins with timestep number `first`: it has no history yet."""
        if self._times is None:
            if self._table.depth != (1, 1) or any(row is not None for row in self._table.correct):
                raise ValueError(f"a table cannot begin in the middle: its rows use points before timestep number {first}, which there are none of; "
                                 "run it from its first timestep, or give a rule, which is planned anew from there")
            t = self._table.times.t[first:]
            return replace(self._table, times=Times(self.path, t, _repeats=True), predict=self._table.predict[first:],
                           correct=self._table.correct[first:], epsilon=self._table.epsilon[first:])
        step = (self._times.t[:-1] == self._table.times.t[first]).nonzero().flatten().tolist()
        table = self._planned(Times(self.path, self._times.t[step[0]:])) if step else None
        if table is None or table.nfe != len(self._asked) - first:
            raise ValueError(f"a run of this rule cannot begin at timestep number {first}, in the middle of a step")
        return table

    def _planned(self, times: Times) -> Table:
        table = self.rule.plan(times)
        if self._to_zero(table):
            table = replace(table, predict=(*table.predict[:-1], _last_row(table)))
        return table

    def _to_zero(self, table: Table) -> bool:
        return self.kept is None and self.order == 1 and self.config.final_sigmas_type == "zero" and float(table.times.sigma[-1]) > 0

    def _spaced(self, steps: int | None, sigmas: Any, timesteps: Any, shift: float) -> Times:
        shifted = lambda sigma: shift * sigma / (1 + (shift - 1) * sigma)
        if sigmas is not None:
            given = self._noises(sigmas)
            asked = self.last * shifted(given) if self.flow else self.last * (1 - self.path.time_at(-given.log()))
        elif timesteps is not None:
            asked = torch.as_tensor(timesteps, dtype=torch.float64).flatten()
        else:
            asked = self._even(checks.integer("num_inference_steps", steps, least=1), shifted)
        if sigmas is not None or timesteps is not None:
            asked = torch.cat([asked, torch.zeros(1, dtype=torch.float64)])
        if not self.flow:
            asked = asked.round() if timesteps is not None else _whole(asked, self.last)
        bad = not bool(torch.isfinite(asked).all()) or bool((asked.diff() >= 0).any()) or not 0 <= float(asked[-1]) <= float(asked[0]) <= self.last
        if bad:
            raise ValueError(f"timesteps must fall from at most {self.last} to above 0, got {[round(v, 3) for v in asked[:-1].tolist()]}")
        return Times(self.path, 1 - asked / self.last)

    def _noises(self, sigmas: Any) -> Tensor:
        """`sigmas` without the 0 that may end them, checked; up to half a step beyond the network's own stands for the first or last of these."""
        given = torch.as_tensor(sigmas, dtype=torch.float64).flatten()
        given = given[:-1] if len(given) > 1 and float(given[-1]) == 0 else given
        if self.flow:
            low, high, least, most, end = 0.0, 1.0, 0.0, 1.0, "above 0"
        else:
            at = self.path.coefficients(torch.tensor([0, 1, self.last - 1, self.last], dtype=torch.float64) / self.last)
            most, second, next_to_last, least = (at.c / at.b).tolist()
            low, high, end = least * (least / next_to_last) ** 0.5, most * (most / second) ** 0.5, f"at least {least:.4g}"
        falls = bool(len(given)) and bool(torch.isfinite(given).all()) and bool((given.diff() < 0).all())
        if not falls or float(given[-1]) <= 0 or float(given[-1]) < low or float(given[0]) > high:
            raise ValueError(f"sigmas must fall from at most {most:.4g} to {end}, got {[round(v, 4) for v in given.tolist()]}")
        return given.clamp(least, most)

    def _even(self, steps: int, shifted: Any) -> Tensor:
        """Network times of a run, the end included."""
        if steps > self.last:
            raise ValueError(f"num_inference_steps must be at most {self.last}, got {steps}")
        spacing, count = self.config.timestep_spacing, self.config.num_train_timesteps
        if spacing == "rule":
            left = 1 - self.rule.times(self.path, steps).t
            return self.last * (shifted(left) if self.flow else left)
        if self.flow:
            return self.last * shifted(torch.linspace(1, 0, steps + 1, dtype=torch.float64))
        k = torch.arange(steps, -1, -1, dtype=torch.float64)
        if spacing == "linspace":
            return torch.linspace(self.last, 0, steps + 1, dtype=torch.float64)
        if spacing == "trailing":
            return (k * count / steps).round().sub(1).clamp_min(0)
        return torch.where(k > 0, (k * (count // (steps + 1)) + self.config.steps_offset).clamp(max=self.last), 0.0)

    def add_noise(self, original_samples: Float[Tensor, "batch *event"], noise: Float[Tensor, "batch *event"],
                  timesteps: Tensor) -> Float[Tensor, "batch *event"]:
        """alpha x + sigma z at these timesteps, one a sample or one for all."""
        asked = torch.as_tensor(timesteps).double().to(original_samples.device).flatten()
        at = self.path.coefficients(1 - asked / self.last)
        wide = lambda v: torch.as_tensor(v).to(original_samples).reshape(-1, *(1,) * (original_samples.ndim - 1))
        return wide(at.b) * original_samples + wide(at.c) * noise

    def scale_noise(self, sample: Float[Tensor, "batch *event"], timestep: Tensor, noise: Float[Tensor, "batch *event"]) -> Float[Tensor, "batch *event"]:
        """`add_noise`, as pipelines of flow matching call it."""
        return self.add_noise(sample, noise, timestep)


def _last_row(table: Table) -> Row:
    """The row that reads the data off the last call, the step of order 1 to sigma = 0: linear in the sample and in the prediction."""
    at, path = table.times.each[-2], table.times.path
    one, none = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, 1, dtype=torch.float64)
    kind = "velocity" if table.kind == "drift" else table.kind
    data = lambda x, p: float(path.prediction({kind: p}, x, at).data)
    return Row((data(one, none),), (data(none, one),))


def _whole(asked: Tensor, last: int) -> Tensor:
    """The nearest whole steps, all different: falling by 1 at least, without leaving 0 .. last. There must be room."""
    rounded, size = asked.round(), len(asked)
    room = torch.arange(size, dtype=torch.float64)
    falling = torch.cummin(rounded + room, 0).values.clamp(max=last) - room
    return torch.maximum(falling, room.flip(0))


def _read(table: Any) -> Table:
    if isinstance(table, str):
        try:
            table = json.loads(table)
        except json.JSONDecodeError as error:
            raise ValueError(f"table is not JSON: {error}") from None
    if not isinstance(table, Mapping):
        raise TypeError(f"table must be the JSON description of a Table, a dict or a text, got {type(table).__name__}")
    # A file holds what is known about the table beside it.
    return Table.from_json(dict(table["table"] if isinstance(table.get("table"), Mapping) else table))
