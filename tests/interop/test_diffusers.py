"""The bridge to diffusers, both ways: a U-Net of diffusers trained here on digits, its pipelines with rheos' rules, and its samples by rheos."""
import inspect
import json
import warnings

import numpy as np
import pytest
import torch

import rheos
from rheos.core import Draws
from rheos.data import skewed
from rheos.interop.diffusers import betas, from_diffusers
from rheos.paths import LAM, ExactField, Path, Times
from rheos.samplers import DDIM, DDPM, DEIS, PLMS, AdamsBashforth, DPMSolverPP, Exponential, RungeKutta, Singlestep, UniPC

pytest.importorskip("diffusers")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import diffusers
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    from rheos.interop.scheduler import RheosScheduler, rule_of

F64 = torch.float64
SETTINGS = {"sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8,
            "down_block_types": ("DownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "UpBlock2D"), "add_attention": False}


@pytest.fixture(scope="session")
def unet() -> UNet2DModel:
    """Predicts noise on digits; a few seconds of training."""
    x, draws = rheos.data.load("digits").x, Draws(0)
    with draws.scope(0):
        net = UNet2DModel(**SETTINGS)
    path, optimiser = Path.from_betas(betas({})), torch.optim.Adam(net.parameters(), 3e-3)
    for step in range(110):
        k = draws.integers("steps", step, (48,), 1000)
        point = path.sample(x[draws.integers("rows", step, (48,), len(x))], 1 - k.double() / 999, seed=draws, step=step)
        loss = (net(point.x, k).sample - point.z).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 0.35      # 1 says nothing of the noise
    return net.eval().requires_grad_(False)


def pipeline(unet, scheduler):
    pipe = DDPMPipeline(unet, scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def images(pipe, n=6, steps=9, seed=0):
    """What the pipeline draws, back in [-1, 1], and the noise it began with."""
    found = pipe(batch_size=n, generator=torch.Generator().manual_seed(seed), num_inference_steps=steps, output_type="np").images
    return torch.from_numpy(found).permute(0, 3, 1, 2) * 2 - 1, torch.randn((n, 1, 8, 8), generator=torch.Generator().manual_seed(seed))


def times_of(scheduler, path):
    """The times of a scheduler whose run ends at the network's last step; points that a rule visits twice counted once."""
    k = torch.unique_consecutive(scheduler.timesteps.double())
    return Times(path, 1 - torch.cat([k, torch.zeros(1, dtype=F64)]) / 999)


RULES = [("UniPC", {"order": 3}, UniPC(3)), ("DPMSolverPP", {"order": 3}, DPMSolverPP(3)), ("DEIS", {"order": 3, "clock": "rho"}, DEIS(3, clock=rheos.paths.RHO)),
         ("Exponential", {"order": 2, "clock": "u", "corrector": 2}, Exponential(2, "data", rheos.paths.U, corrector=2)), ("DDIM", {"kind": "noise"}, DDIM(kind="noise")),
         ("AdamsBashforth", {"order": 3}, AdamsBashforth(3)), ("PLMS", {}, PLMS())]


# -- rules in a pipeline -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize(("name", "settings", "rule"), RULES, ids=[name for name, _, _ in RULES])
def test_a_pipeline_draws_what_rheos_draws(unet, name, settings, rule):
    """Two programs around one network: the pipeline's loop with our scheduler, our loop with the pipeline's network."""
    scheduler = RheosScheduler(rule=name, rule_args=settings, final_sigmas_type="sigma_min")
    theirs, start = images(pipeline(unet, scheduler))
    field = from_diffusers(unet, scheduler.config)
    ours = rheos.sample(field, start=start, rule=rule, times=times_of(scheduler, field.path))
    assert field.nfe == len(scheduler.timesteps) == 9 + getattr(rule, "extra_calls", 0)
    torch.testing.assert_close(theirs, ours.clamp(-1, 1), rtol=0, atol=1e-5)
    assert float(ours.std()) > 0.3


def test_rules_of_several_calls_a_step(unet):
    for name, settings, rule in (("RungeKutta", {"order": 2}, RungeKutta(2)), ("Singlestep", {"order": 3}, Singlestep(3))):
        scheduler = RheosScheduler(rule=name, rule_args=settings, timestep_spacing="linspace")
        theirs, start = images(pipeline(unet, scheduler), steps=4)
        assert scheduler.order == rule.calls_per_step and len(scheduler.timesteps) == 4 * rule.calls_per_step
        field = from_diffusers(unet, scheduler.config, whole_steps=False)
        ours = rheos.sample(field, start=start, rule=rule, times=Times(field.path, 1 - torch.linspace(999, 0, 5, dtype=F64).round() / 999))
        torch.testing.assert_close(theirs, ours.clamp(-1, 1), rtol=0, atol=5e-5)       # stages lie at fractions of steps, which are float32 here


def test_a_corrector_costs_no_call(unet):
    calls = []
    handle = unet.register_forward_hook(lambda *_: calls.append(1))
    try:
        images(pipeline(unet, RheosScheduler(rule="UniPC")), n=1, steps=7)
    finally:
        handle.remove()
    assert len(calls) == 7


def test_the_default_is_the_librarys(unet):
    scheduler = RheosScheduler()
    assert scheduler.rule == rheos.samplers.default_rule(from_diffusers(unet, scheduler.config))


# -- peers ---------------------------------------------------------------------------------------------------------------------

def run(scheduler, net, start, steps, **settings):
    scheduler.set_timesteps(steps, **settings)
    x = start.clone()
    for t in scheduler.timesteps:
        x = scheduler.step(net(x, t), t, x).prev_sample
    return x


PEERS = [
    ("DPMSolverMultistepScheduler", {"solver_order": 2, "solver_type": "heun", "final_sigmas_type": "sigma_min"}, "DPMSolverPP", {"order": 2}),
    ("DPMSolverMultistepScheduler", {"solver_order": 2, "solver_type": "heun", "final_sigmas_type": "zero", "timestep_spacing": "trailing"}, "DPMSolverPP", {"order": 2}),
    ("DPMSolverMultistepScheduler", {"solver_order": 2, "final_sigmas_type": "zero", "timestep_spacing": "leading", "steps_offset": 1}, "DPMSolverPP", {"order": 2, "form": "midpoint"}),
    ("UniPCMultistepScheduler", {"solver_order": 2, "final_sigmas_type": "zero", "beta_schedule": "scaled_linear"}, "UniPC", {"order": 2}),
    ("DDIMScheduler", {"timestep_spacing": "trailing", "clip_sample": False, "set_alpha_to_one": True}, "DDIM", {}),
]


@pytest.mark.parametrize(("name", "settings", "rule", "rule_args"), PEERS, ids=[f"{p[0]}-{i}" for i, p in enumerate(PEERS)])
@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_equals_the_scheduler_of_diffusers(name, settings, rule, rule_args, prediction_type):
    """The same network outputs, the config handed over by `from_config`: every spacing, ending, prediction type and beta schedule."""
    theirs = getattr(diffusers, name)(prediction_type=prediction_type, **settings)
    given = {key: value for key, value in settings.items() if key in ("timestep_spacing", "final_sigmas_type", "steps_offset")}
    ours = RheosScheduler.from_config(theirs.config, rule=rule, rule_args=rule_args, **{"timestep_spacing": "linspace", **given})
    exact, start = ExactField(ours.path, skewed()), Draws(0).rows("x", 0, (8, 2), dtype=F64)
    kind = {"epsilon": "noise", "v_prediction": "v", "sample": "data"}[prediction_type]
    net = lambda x, t: exact(x, 1 - float(t) / 999).of(kind)
    expected, got = run(theirs, net, start, 10), run(ours, net, start, 10)      # where 10 did not divide 1000 DDIM's steps would not join up
    assert ours.timesteps.tolist() == theirs.timesteps.tolist()
    if hasattr(theirs, "sigmas"):
        torch.testing.assert_close(ours.sigmas, theirs.sigmas, rtol=1e-4, atol=0)
    assert float((got - expected).square().mean().sqrt()) < 3e-5         # diffusers keeps its levels in float32


@pytest.mark.parametrize("clip", [{"clip_sample": False}, {"clip_sample": True, "clip_sample_range": 0.8}], ids=["as it is", "clipped"])
def test_ancestral_sampling_equals_that_of_diffusers(unet, clip):
    """The same generator, and so the same fresh noise."""
    theirs, _ = images(pipeline(unet, DDPMScheduler(timestep_spacing="trailing", **clip)), steps=10, seed=3)
    pipe = pipeline(unet, RheosScheduler(rule="DDPM", timestep_spacing="trailing", **clip))
    torch.testing.assert_close(images(pipe, steps=10, seed=3)[0], theirs, rtol=0, atol=1e-4)
    assert not torch.allclose(images(pipe, steps=10, seed=4)[0], theirs, atol=0.1)
    assert rule_of("DDPM", {"eta": 0.3}) == DDPM(eta=0.3)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flows_equal_those_of_diffusers(shift):
    """sigma is our 1 - t, and the velocity points the other way: a sign missed anywhere sends samples to infinity."""
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    ours = RheosScheduler.from_config(theirs.config, rule="Euler")
    assert ours.config.prediction_type == "flow_prediction" and ours.config.shift == shift
    exact, start = ExactField(Path.linear(), skewed()), Draws(0).rows("x", 0, (8, 2), dtype=F64)
    net = lambda x, t: -exact(x, 1 - float(t) / 1000).velocity
    given = np.linspace(1.0, 1 / 9, 9)
    expected, got = run(theirs, net, start, None, sigmas=given.tolist()), run(ours, net, start, None, sigmas=given.tolist())
    torch.testing.assert_close(ours.timesteps, theirs.timesteps)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.sigmas, theirs.sigmas)
    again = RheosScheduler.from_config(ours.config, timestep_spacing="linspace")
    again.set_timesteps(9)
    torch.testing.assert_close(again.timesteps, theirs.timesteps)


def test_a_dynamic_shift_takes_the_place_of_the_fixed_one():
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    ours = RheosScheduler.from_config(theirs.config, rule="Euler")
    given = [1.0, 0.75, 0.4]
    theirs.set_timesteps(sigmas=given, mu=0.7)
    ours.set_timesteps(sigmas=given, mu=0.7)
    torch.testing.assert_close(ours.timesteps, theirs.timesteps)


@pytest.mark.parametrize("settings", [{}, {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}, {"beta_schedule": "squaredcos_cap_v2"},
                                      {"beta_schedule": "sigmoid"}, {"trained_betas": np.linspace(1e-3, 0.3, 40)}], ids=str)
def test_betas_are_those_of_diffusers(settings):
    theirs = DDPMScheduler(**settings)
    torch.testing.assert_close(betas(theirs.config).float(), theirs.betas.float(), rtol=3e-5, atol=1e-7)       # their cosine is of float32
    ours = RheosScheduler.from_config(theirs.config)
    torch.testing.assert_close(ours.alphas_cumprod, theirs.alphas_cumprod, rtol=1e-3, atol=1e-7)


def test_schedules_that_end_without_data_are_those_of_diffusers():
    theirs = diffusers.DPMSolverMultistepScheduler(rescale_betas_zero_snr=True, beta_schedule="scaled_linear")
    ours = RheosScheduler.from_config(theirs.config)
    torch.testing.assert_close(ours.alphas_cumprod, theirs.alphas_cumprod, rtol=2e-4, atol=1e-7)
    assert 0 < float(ours.alphas_cumprod[-1]) < 1e-6


def test_noise_is_added_as_diffusers_adds_it():
    x, z = (Draws(0).rows(name, 0, (4, 1, 3, 5)) for name in ("x", "z"))
    steps = torch.tensor([0, 417, 999, 3])
    torch.testing.assert_close(RheosScheduler().add_noise(x, z, steps), DDPMScheduler().add_noise(x, z, steps), rtol=1e-4, atol=1e-5)
    flow = RheosScheduler(prediction_type="flow_prediction")
    torch.testing.assert_close(flow.scale_noise(x, torch.tensor([250.0]), z), 0.75 * x + 0.25 * z)


# -- a scheduler's life ----------------------------------------------------------------------------------------------------------

def test_saved_and_loaded_with_its_pipeline(unet, tmp_path):
    pipe = pipeline(unet, RheosScheduler(rule="DEIS", rule_args={"order": 3, "clock": "rho"}, beta_schedule="scaled_linear"))
    first, _ = images(pipe)
    pipe.save_pretrained(tmp_path)
    back = DDPMPipeline.from_pretrained(tmp_path)
    back.set_progress_bar_config(disable=True)
    told = lambda pipe: {key: value for key, value in pipe.scheduler.config.items() if not key.startswith("_")}
    assert type(back.scheduler) is RheosScheduler and told(back) == told(pipe)
    torch.testing.assert_close(images(back)[0], first, rtol=0, atol=0)


def test_configs_go_round():
    """Other schedulers' configs in, ours out to theirs and back: what the network was trained for never changes."""
    known = DDPMScheduler(num_train_timesteps=400, beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")
    ours = RheosScheduler.from_config(known.config, rule="UniPC", rule_args={"order": 2})
    assert (len(ours), ours.config.beta_schedule, ours.config.prediction_type) == (400, "squaredcos_cap_v2", "v_prediction")
    theirs = diffusers.DDIMScheduler.from_config(ours.config)
    assert (theirs.config.num_train_timesteps, theirs.config.beta_schedule, theirs.config.prediction_type) == (400, "squaredcos_cap_v2", "v_prediction")
    again = RheosScheduler.from_config(ours.config)
    assert again.rule == UniPC(2) and dict(again.config) == dict(ours.config) and json.loads(again.to_json_string())["rule_args"] == {"order": 2}
    # A schedule that another class has by default and that ours has not.
    other = diffusers.CogVideoXDDIMScheduler()
    assert RheosScheduler.from_config(other.config).config.beta_schedule == "scaled_linear" == other.config.beta_schedule


@pytest.mark.parametrize("rule", ["UniPC", "DDIM", "RungeKutta"])
def test_a_run_that_begins_in_the_middle_is_planned_from_there(unet, rule):
    """Image to image: two thirds of the way from noise added to given digits, with and without the index set by the pipeline."""
    scheduler, x1 = RheosScheduler(rule=rule, final_sigmas_type="sigma_min"), rheos.data.load("digits").x[:5]
    scheduler.set_timesteps(9)
    first = 3 * scheduler.order
    z, rest = Draws(0).rows("z", 0, x1.shape), scheduler.timesteps[first:]
    start = scheduler.add_noise(x1, z, rest[:1].repeat(5))
    runs = []
    for told in (True, False):
        scheduler.set_timesteps(9)
        if told:
            scheduler.set_begin_index(first)
        x = start
        for t in rest:
            x = scheduler.step(unet(x, t).sample, t, x).prev_sample
        runs.append(x)
        assert scheduler.step_index == len(scheduler.timesteps) and scheduler.begin_index == (first if told else None)
    field = from_diffusers(unet, scheduler.config)
    rule = rule_of(rule)
    whole = times_of(scheduler, field.path).t if rule.calls_per_step == 1 else 1 - torch.cat([scheduler.timesteps[::2].double(), torch.zeros(1, dtype=F64)]) / 999
    expected = rheos.sample(field, start=start, rule=rule, times=Times(field.path, whole[3:]))
    for x in runs:
        torch.testing.assert_close(x, expected, rtol=0, atol=2e-5)


def test_a_second_run_knows_nothing_of_the_first(unet):
    pipe = pipeline(unet, RheosScheduler(rule="UniPC"))
    first, start = images(pipe)
    torch.testing.assert_close(images(pipe)[0], first, rtol=0, atol=0)
    # Broken off after four calls and begun again, without set_timesteps.
    x = start
    for t in pipe.scheduler.timesteps[:4]:
        x = pipe.scheduler.step(unet(x, t).sample, t, x).prev_sample
    for _ in range(2):
        x = start
        for t in pipe.scheduler.timesteps:
            x = pipe.scheduler.step(unet(x, t).sample, t, x, return_dict=False)[0]
        torch.testing.assert_close(x.clamp(-1, 1), first, rtol=0, atol=1e-6)


def test_a_table_takes_the_place_of_a_rule(unet, tmp_path):
    scheduler = RheosScheduler(rule="UniPC", final_sigmas_type="sigma_min")
    expected, _ = images(pipeline(unet, scheduler), steps=8)
    table = UniPC(3).plan(times_of(scheduler, scheduler.path))
    for kept in (table.to_json(), json.dumps(table.to_json()), table.save(tmp_path / "table.json", note="tuned").read_text()):
        other = RheosScheduler.from_config(scheduler.config, table=kept, rule=None)
        torch.testing.assert_close(images(pipeline(unet, other), steps=8)[0], expected, rtol=0, atol=1e-6)
    changed = table.edited(3, w=tuple(1.1 * w for w in table.predict[3].w))
    assert not torch.allclose(images(pipeline(unet, RheosScheduler(table=changed.to_json())), steps=8)[0], expected, atol=1e-3)


def test_a_table_with_times_of_its_own_runs_a_flow():
    """As `rheos tune` makes them: times between the network's steps, which a flow is asked at as they are."""
    exact, start = ExactField(Path.linear(), skewed()), Draws(0).rows("x", 0, (8, 2), dtype=F64)
    table = Exponential(2, "data", rheos.paths.U, corrector=2).plan(Times(Path.linear(), [0.0, 0.1234, 0.4, 0.77, 1.0]))
    scheduler = RheosScheduler(prediction_type="flow_prediction", table=table.to_json())
    got = run(scheduler, lambda x, t: -exact(x, 1 - float(t) / 1000).velocity, start, 4)
    torch.testing.assert_close(got, rheos.sample(exact, start=start, rule=table), rtol=0, atol=1e-5)      # timesteps are float32


def test_a_tables_corrector_is_used_and_a_table_without_history_may_begin_in_the_middle():
    exact, start = ExactField(RheosScheduler().path, skewed()), Draws(0).rows("x", 0, (8, 2), dtype=F64)
    net = lambda x, t: exact(x, 1 - float(t) / 999).noise

    def ran(table, first):
        scheduler, x = RheosScheduler(table=table.to_json()), start
        scheduler.set_timesteps(6)
        scheduler.set_begin_index(first)
        for t in scheduler.timesteps[first:]:
            x = scheduler.step(net(x, t), t, x).prev_sample
        return x

    times = Times.uniform(exact.path, 6, LAM)
    mended = UniPC(2).plan(times)
    plain = rheos.samplers.Table.from_json({**mended.to_json(), "correct": [None] * 6})
    truth, without = (rheos.sample(exact, start=start, rule=table) for table in (mended, plain))
    torch.testing.assert_close(ran(mended, 0), truth, rtol=0, atol=1e-5)          # timesteps are float32
    assert float((ran(mended, 0) - without).abs().max()) > 1e-2
    rest = rheos.sample(exact, start=start, rule=DDIM(), times=Times(exact.path, times.t[2:]))
    torch.testing.assert_close(ran(DDIM().plan(times), 2), rest, rtol=0, atol=1e-5)


def test_sigmas_are_taken_as_they_are_given():
    """Steps k of the network told by their sigma / alpha, the last but half a thousandth above, as published lists round it."""
    scheduler, k = RheosScheduler(rule="DDIM", beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012), [999, 700, 321, 40, 1]
    noise = ((1 - scheduler.alphas_cumprod.double()) / scheduler.alphas_cumprod.double()).sqrt()[k]
    noise[0] *= 1.0005
    for ended in (noise.tolist(), [*noise.tolist(), 0.0], np.array([*noise.tolist(), 0.0])):
        scheduler.set_timesteps(sigmas=ended)
        assert scheduler.timesteps.tolist() == k


def test_half_precision_is_kept_and_summed_in_single():
    scheduler, x, e = RheosScheduler(rule="DPMSolverPP"), Draws(0).rows("x", 0, (3, 2)), Draws(0).rows("e", 0, (3, 2))
    net = lambda x, t: (0.9 * x.float() + 0.01 * e).to(x.dtype)
    halves, whole = run(scheduler, net, x.bfloat16(), 6), run(scheduler, net, x.bfloat16().float(), 6)
    assert halves.dtype == torch.bfloat16
    torch.testing.assert_close(halves.float(), whole, rtol=0.1, atol=0.1)


def test_a_learned_variance_is_cut_off():
    scheduler = RheosScheduler(rule="DDIM", variance_type="learned_range")
    x = Draws(0).rows("x", 0, (2, 3, 4, 4))
    both = run(scheduler, lambda x, t: torch.cat([0.9 * x, 7 + x], 1), x, 5)
    torch.testing.assert_close(both, run(RheosScheduler(rule="DDIM"), lambda x, t: 0.9 * x, x, 5))


def test_pipelines_find_the_arguments_that_they_look_for():
    assert list(inspect.signature(RheosScheduler.step).parameters) == ["self", "model_output", "timestep", "sample", "generator", "return_dict"]
    assert {"sigmas", "timesteps", "mu"} <= set(inspect.signature(RheosScheduler.set_timesteps).parameters)
    scheduler = RheosScheduler()
    assert scheduler.init_noise_sigma == 1.0 and scheduler.order == 1 and torch.equal(scheduler.scale_model_input(torch.ones(2), 5), torch.ones(2))


def test_steps_are_whole_and_all_different_even_where_the_rule_crowds_them():
    scheduler = RheosScheduler(rule="DDIM")
    for steps in (1, 2, 50, 400, 999):
        scheduler.set_timesteps(steps)
        k = scheduler.timesteps
        assert k.dtype == torch.int64 and len(k) == steps and bool((k.diff() < 0).all()) and 1 <= int(k[-1]) and int(k[0]) <= 999


# -- networks as fields ----------------------------------------------------------------------------------------------------------

class Net(torch.nn.Module):
    """Answers by a function of (sample, timestep, class_labels)."""

    def __init__(self, answer):
        super().__init__()
        self.answer, self.seen = answer, []

    def forward(self, sample, timestep, class_labels=None, return_dict=True):
        self.seen.append((len(sample), timestep, class_labels))
        return type("Output", (), {"sample": self.answer(sample, timestep, class_labels)})()


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample", "flow_prediction"])
def test_a_network_of_diffusers_answers_as_the_exact_field(prediction_type):
    flow = prediction_type == "flow_prediction"
    path = Path.linear() if flow else Path.from_betas(torch.linspace(1e-4, 0.02, 1000, dtype=F64))
    exact, x = ExactField(path, skewed()), Draws(0).rows("x", 0, (3, 2), dtype=F64)
    kind = {"epsilon": "noise", "v_prediction": "v", "sample": "data", "flow_prediction": "velocity"}[prediction_type]
    time = lambda k: 1 - k.double() / (1000 if flow else 999)
    net = Net(lambda x, k, c: exact(x, time(k)).of(kind) * (-1 if flow else 1))
    field = from_diffusers(net, {"num_train_timesteps": 1000, "prediction_type": prediction_type})
    t = 1 - torch.tensor([100.0, 600.0, 37.0], dtype=F64) / (1000 if flow else 999)
    for asked in ("data", "velocity", "noise", "score"):
        torch.testing.assert_close(field(x, t).of(asked), exact(x, t).of(asked), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(net.seen[0][1].double(), torch.tensor([100.0, 600.0, 37.0], dtype=F64), rtol=0, atol=1e-9)
    assert net.seen[0][1].dtype == (F64 if flow else torch.int64)


def test_conditions_and_guidance_are_one_batched_call():
    net = Net(lambda x, k, c: x * (1 + c[:, None].to(x)))
    plain = from_diffusers(net, {}, uncond={"class_labels": torch.tensor(10)})
    x, labels = Draws(0).rows("x", 0, (4, 2)), torch.tensor([3, 0, 7, 1])
    torch.testing.assert_close(plain(x, 0.5, labels).noise, x * (1 + labels[:, None]))
    torch.testing.assert_close(plain(x, 0.5, {"class_labels": labels}).noise, x * (1 + labels[:, None]))
    expected = x * (1 + 10 + 2.5 * (labels[:, None] - 10))
    guided = from_diffusers(net, {}, uncond={"class_labels": torch.tensor(10)}, guidance=2.5)
    outer = rheos.guidance.classifier_free(plain, 2.5)
    net.seen.clear()
    torch.testing.assert_close(guided(x, 0.5, labels).noise, expected)
    torch.testing.assert_close(outer(x, 0.5, labels).noise, expected)
    assert [rows for rows, _, _ in net.seen] == [8, 8] and net.seen[0][2].tolist() == net.seen[1][2].tolist() == [3, 0, 7, 1, 10, 10, 10, 10]
    fixed = from_diffusers(net, {}, cond={"class_labels": torch.tensor([4])})
    torch.testing.assert_close(fixed(x, 0.5).noise, 5 * x)


def test_guidance_here_and_in_sample_are_one_for_conditions_given_there():
    net = Net(lambda x, k, c: 0.3 * x * (1 + 0.1 * c[:, None].to(x)))
    uncond, start = {"class_labels": torch.tensor(10)}, Draws(0).rows("x", 0, (3, 2))
    given = {"start": start, "steps": 5, "rule": DDIM()}
    inside = rheos.sample(from_diffusers(net, {}, cond={"class_labels": torch.tensor([4])}, uncond=uncond, guidance=3.0), **given)
    torch.testing.assert_close(rheos.sample(from_diffusers(net, {}, uncond=uncond), cond=4, guidance=3.0, **given), inside)
    assert not torch.allclose(rheos.sample(from_diffusers(net, {}, uncond=uncond), cond=4, **given), inside, rtol=0.05)
    with pytest.raises(ValueError, match="guidance needs a condition: pass cond"):
        rheos.sample(from_diffusers(net, {}, cond={"class_labels": torch.tensor([4])}, uncond=uncond), guidance=3.0, **given)


def test_a_trained_class_conditional_network_of_diffusers_keeps_its_classes():
    """The embedding of diffusers' own U-Net is reached by number."""
    with Draws(1).scope(0):
        net = UNet2DModel(**SETTINGS, num_class_embeds=11).eval().requires_grad_(False)
    field = from_diffusers(net, DDPMScheduler().config, uncond={"class_labels": torch.tensor(10)})
    assert field.event == (1, 8, 8)
    x = Draws(0).rows("x", 0, (3, 1, 8, 8))
    torch.testing.assert_close(field(x, 0.5, torch.tensor([2, 5, 5])).noise, net(x, torch.tensor([500] * 3), class_labels=torch.tensor([2, 5, 5])).sample)
    assert rheos.sample(field, 3, cond=4, guidance=2.0, steps=4).shape == (3, 1, 8, 8)


def test_prompts_inside_dicts_are_spread_filled_and_paired():
    class Wide(torch.nn.Module):
        def forward(self, sample, timestep, encoder_hidden_states, added_cond_kwargs=None):
            seen.append((encoder_hidden_states[:, 0, 0].tolist(), added_cond_kwargs["time_ids"][:, 0].tolist()))
            return (sample * encoder_hidden_states[:, 0],)

    seen = []
    cond = {"encoder_hidden_states": torch.full((1, 2, 1), 3.0), "added_cond_kwargs": {"time_ids": torch.tensor([[8, 9]])}}
    field = from_diffusers(Wide(), {}, cond=cond, uncond={"encoder_hidden_states": torch.full((1, 2, 1), 0.5)}, guidance=2.0)
    x = Draws(0).rows("x", 0, (2, 1))
    torch.testing.assert_close(field(x, 0.5).noise, x * (0.5 + 2 * 2.5))
    assert seen == [([3.0, 3.0, 0.5, 0.5], [8, 8, 8, 8])]


# -- refusals --------------------------------------------------------------------------------------------------------------------

def planned(**settings):
    scheduler = RheosScheduler(**settings)
    scheduler.set_timesteps(5)
    return scheduler


X = torch.ones(2, 2)
TABLE = DDIM().plan(Times.uniform(RheosScheduler().path, 6, LAM)).to_json()
LONG = UniPC(3).plan(Times.uniform(RheosScheduler().path, 6, LAM)).to_json()

MENDED = Exponential(1, "data", corrector=1).plan(Times.uniform(RheosScheduler().path, 6, LAM)).to_json()
WIDE = DDIM().plan(Times.uniform(RheosScheduler().path, 6, LAM)).edited(2, c=torch.tensor([0.1, 0.2, 0.3])).to_json()


def begun_at(scheduler, index):
    scheduler.set_timesteps(len(scheduler.timesteps) if scheduler.kept is None else 6)
    scheduler.set_begin_index(index)
    scheduler.step(X, scheduler.timesteps[index], X)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: RheosScheduler().step(X, 999, X), "set_timesteps must be called before step"),
    (lambda: planned(rule="DDIM").step(X, 998, X), "timestep must be one of those that set_timesteps planned, where the run begins, got 998"),
    (lambda: (s := planned(rule="DDIM"), s.step(X, s.timesteps[0], X), s.step(X, s.timesteps[3], X)), "the next timestep is .*, got .*; call set_timesteps to begin anew"),
    (lambda: planned(rule="DDIM").set_timesteps(), "set_timesteps needs a number of steps, or sigmas, or timesteps"),
    (lambda: planned(rule="DDIM").set_timesteps(sigmas=[2.0], timesteps=[500]), "set_timesteps needs a number of steps, or sigmas, or timesteps"),
    (lambda: planned(rule="DDIM").set_timesteps(0), "num_inference_steps must be at least 1, got 0"),
    (lambda: planned(rule="DDIM").set_timesteps(1000), "num_inference_steps must be at most 999, got 1000"),
    (lambda: planned(rule="DDIM").set_timesteps(timesteps=[500, 600, 20]), r"timesteps must fall from at most 999 to above 0, got \[500.0, 600.0, 20.0\]"),
    (lambda: planned(rule="DDIM").set_timesteps(timesteps=[1000, 600]), "timesteps must fall from at most 999"),
    (lambda: planned(rule="DDIM").set_timesteps(timesteps=[600, 0]), "timesteps must fall from at most 999 to above 0"),
    *[(lambda given=given: planned(rule="DDIM").set_timesteps(sigmas=given), r"sigmas must fall from at most 157.4 to at least 0.01, got \[") for given in (
        [1.0, 2.0, 0.5], [2.0, 2.0], [2.0, -1.0], [2.0, float("nan")], [float("inf"), 2.0], [0.0], [], [2.0, 0.0, 0.0], [300.0, 2.0], [2.0, 0.001])],
    *[(lambda given=given: planned(rule="Euler", prediction_type="flow_prediction").set_timesteps(sigmas=given), r"sigmas must fall from at most 1 to above 0, got \[")
      for given in ([0.5, 0.7], [0.5, -0.1], [0.5, float("nan")], [0.0], [], [1.2, 0.5])],
    (lambda: planned(rule="DDIM").set_begin_index(-1), "begin_index must be at least 0, got -1"),
    (lambda: RheosScheduler(rule="UniPCC"), r"rule must be one of .*, got 'UniPCC' \(did you mean UniPC\?\)"),
    (lambda: RheosScheduler(rule="UniPC", rule_args={"ordre": 2}), r"rule_args of UniPC must be one of .*, got 'ordre' \(did you mean order\?\)"),
    (lambda: RheosScheduler(rule_args={"order": 2}), r"rule_args need the rule whose settings they are, got rule_args = \{'order': 2\} without rule"),
    (lambda: RheosScheduler(table=TABLE, rule_args={"order": 2}), "table and rule exclude each other"),
    (lambda: (s := planned(rule="UniPC"), s.step(X, s.timesteps[0], X), s.step(X[:1], s.timesteps[1], X[:1])), r"the batch has changed in mid-run: .* \(2, 2\), got \(1, 2\); call"),
    (lambda: RheosScheduler(rule="UniPC", rule_args={"order": 0}), "order must be at least 1, got 0"),
    (lambda: RheosScheduler(rule="DEIS", rule_args={"clock": "sun"}), "clock must be one of .*, got 'sun'"),
    (lambda: RheosScheduler(prediction_type="velocity"), "prediction_type must be one of epsilon, v_prediction, sample, flow_prediction, got 'velocity'"),
    (lambda: RheosScheduler(beta_schedule="laplace"), "beta_schedule must be one of .*, got 'laplace'"),
    (lambda: RheosScheduler(timestep_spacing="odd"), "timestep_spacing must be one of rule, linspace, leading, trailing, got 'odd'"),
    (lambda: RheosScheduler(final_sigmas_type="none"), "final_sigmas_type must be one of sigma_min, zero, got 'none'"),
    (lambda: RheosScheduler(shift=-1.0), r"shift must lie in \(0, inf\), got -1.0"),
    (lambda: RheosScheduler(trained_betas=[0.1, 1.0]), r"betas must lie in \(0, 1\), got 1 at step 1"),
    (lambda: RheosScheduler(table=TABLE, rule="DDIM"), "table and rule exclude each other"),
    (lambda: RheosScheduler(table="no table"), "table is not JSON"),
    (lambda: RheosScheduler(table={"kind": "data"}), "not a sampler table: KeyError 'path'"),
    (lambda: RheosScheduler(table=TABLE, beta_end=0.03), "the table was made for the path Betas.*, this scheduler has Betas"),
    (lambda: RheosScheduler(table=TABLE).set_timesteps(5), "the table has 6 rows: ask for num_inference_steps = 6"),
    (lambda: RheosScheduler(table=TABLE).set_timesteps(sigmas=[1.0]), "the table has 6 rows"),
    (lambda: begun_at(RheosScheduler(table=WIDE), 0), r"the table has numbers of shape \(3,\), which do not fit samples of shape \(2,\)"),
    (lambda: begun_at(RheosScheduler(table=LONG), 3), "a table cannot begin in the middle: its rows use points before timestep number 3"),
    (lambda: begun_at(RheosScheduler(table=MENDED), 2), "a table cannot begin in the middle"),
    (lambda: (s := RheosScheduler(rule="RungeKutta"), s.set_timesteps(4), s.set_begin_index(3), s.step(X, s.timesteps[3], X)), "cannot begin at timestep number 3, in the middle of a step"),
    (lambda: from_diffusers(Net(None), {"sigma_data": 0.5}), "sigma_data is of a network behind EDM's scalings"),
    (lambda: from_diffusers(Net(None), {"prediction_type": "score"}), "prediction_type must be one of"),
    (lambda: from_diffusers(Net(None), {}, guidance=2.0), "guidance needs uncond"),
    (lambda: from_diffusers(Net(None), {}, uncond={"class_labels": 1}, guidance=-1.0), "guidance must lie in"),
    (lambda: from_diffusers(Net(lambda x, k, c: x), {})(X, 0.5, torch.tensor([1, -1])), "class_labels is not given for some samples, and uncond does not say"),
    (lambda: from_diffusers(Net(lambda x, k, c: x), {}, cond={"class_labels": torch.tensor([1, 2, 3])})(X, 0.5), "cond must have 1 or 2 rows, got 3"),
    (lambda: from_diffusers(Net(lambda x, k, c: x), {})(X.half(), 0.5), "x must be of float32 or float64, got torch.float16"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("call", [lambda: from_diffusers(lambda x, t: x, {}), lambda: from_diffusers(Net(None), "config"), lambda: from_diffusers(Net(None), {}, cond=torch.ones(1)),
                                  lambda: RheosScheduler(table=[1, 2])], ids=["no network", "no config", "cond is no dict", "table is a list"])
def test_refuses_other_types(call):
    with pytest.raises(TypeError):
        call()


@pytest.mark.parametrize("given", [[], [("order", 2)], "order"], ids=str)
def test_refuses_rule_args_that_are_no_mapping(given):
    for call in (lambda: RheosScheduler(rule="UniPC", rule_args=given), lambda: rule_of("UniPC", given)):
        with pytest.raises(TypeError, match=f"rule_args must be a mapping of settings such as .*, got {type(given).__name__}"):
            call()


@pytest.mark.parametrize("name", ["ScoreSdeVeScheduler", "IPNDMScheduler", "VQDiffusionScheduler", "EDMEulerScheduler",
                                  "EDMDPMSolverMultistepScheduler", "CMStochasticIterativeScheduler", "AmusedScheduler"])
def test_refuses_schedulers_whose_noise_is_not_told_by_betas(name):
    needed = {"VQDiffusionScheduler": {"num_vec_classes": 9}, "AmusedScheduler": {"mask_token_id": 3}}.get(name, {})
    kind = getattr(diffusers, name)
    configs = [kind(**needed)] + ([kind(trained_betas=np.linspace(0.1, 0.9, 10))] if name == "IPNDMScheduler" else [])
    for live, saved in ((dict(made.config), json.loads(made.to_json_string())) for made in configs):       # to_json_string writes its name into config
        for config, told in ((live, "a scheduler without a name"), (saved, name)):
            for call in (lambda: from_diffusers(Net(None), config), lambda: RheosScheduler.from_config(config)):
                with pytest.raises(ValueError, match=f"(the noise of {told} is not told by betas|behind EDM's scalings.*, got {told})"):
                    call()
            with pytest.raises(ValueError, match=f"the noise of {told} is not told by betas"):
                betas(config)


@pytest.mark.parametrize("name", ["LCMScheduler", "TCDScheduler", "RePaintScheduler", "PNDMScheduler", "EulerDiscreteScheduler", "HeunDiscreteScheduler"])
def test_reads_schedulers_with_betas(name):
    theirs = getattr(diffusers, name)()
    torch.testing.assert_close(from_diffusers(Net(None), theirs.config).path.coefficients(torch.linspace(1, 0, 1000, dtype=F64)).b.square().float(),
                               theirs.alphas_cumprod.float(), rtol=1e-3, atol=1e-7)
    assert from_diffusers(Net(None), {"num_train_timesteps": 50}).path == Path.from_betas(torch.linspace(1e-4, 0.02, 50, dtype=F64))
    unclip = from_diffusers(Net(None), diffusers.UnCLIPScheduler().config)
    assert unclip.path == Path.from_betas(betas({"beta_schedule": "squaredcos_cap_v2"}))
