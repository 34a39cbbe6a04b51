"""One step of a path's chain against Gaussian conditioning, the published coefficients of DDPM and DDIM, and diffusers; v-prediction and unit inputs."""
from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rheos.core import Draws
from rheos.couplings import Pair
from rheos.data import skewed
from rheos.objectives import Matching
from rheos.paths import EDM, KINDS, ExactField, Field, Path, Student, Times
from rheos.samplers import sample

F64 = torch.float64
BETAS = np.concatenate([np.linspace(1e-3, 0.02, 30), np.linspace(0.05, 0.3, 20) ** 1.2])
PATHS = {"linear": Path.linear(), "vp": Path.vp(), "cosine": Path.cosine(), "ve": Path.ve(0.05, 9.0), "edm": Path.edm(0.02, 30.0, 5.0),
         "betas": Path.from_betas(torch.from_numpy(BETAS))}
TWO_TIMES = [(0.1, 0.4), (0.35, 0.4), (0.2, 0.95)]


def events(name, n=4):
    return Draws(7).rows(name, 0, (n, 2, 3), dtype=F64)


def levels(path, t):
    at = path.coefficients(t)
    return float(at.b), float(at.c)


# -- conditioning ------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize(("t", "s"), TWO_TIMES, ids=str)
def test_the_posterior_is_gaussian_conditioning(name, t, s):
    """Given x1, (x_s, x_t) are jointly normal: x_t = r x_s + fresh noise, r = alpha_t / alpha_s, so that their covariance is r sigma_s^2."""
    path, x, x1 = PATHS[name], events("x"), events("x1")
    (b, c), (b_s, c_s) = levels(path, t), levels(path, s)
    joint = np.array([[c_s**2, b / b_s * c_s**2], [b / b_s * c_s**2, c**2]])
    gain = np.linalg.solve(joint[1:, 1:], joint[1:, :1])[0, 0]
    mean, spread = path.posterior(x, x1, t, s)
    torch.testing.assert_close(mean, b_s * x1 + gain * (x - b * x1), rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(float(spread) ** 2, joint[0, 0] - gain * joint[0, 1], rtol=1e-7, atol=1e-14)


@pytest.mark.parametrize("name", PATHS)
def test_a_chain_of_posteriors_keeps_the_points_law(name, seed):
    """Walking from t = 0.2 in three steps ends at alpha x1 + sigma z, whatever eta: mean and variance by 5 standard errors."""
    path, n, draws = PATHS[name], 4000, Draws(seed)
    x1 = torch.tensor([[0.6, -1.1]], dtype=F64).expand(n, 2)
    for eta in (1.0, 0.4, 0.0):
        x = path.sample(x1, torch.full((n,), 0.2, dtype=F64), seed=draws.child("begin")).x
        for step, (t, s) in enumerate([(0.2, 0.3), (0.3, 0.7), (0.7, 0.8)]):
            mean, spread = path.posterior(x, x1, t, s, eta)
            x = mean + spread * draws.rows("steps", step, (n, 2), dtype=F64)
        b, c = levels(path, 0.8)
        assert float((x.mean(0) - b * x1[0]).abs().max()) < 5 * c / math.sqrt(n)
        assert float((x.var(0) / c**2 - 1).abs().max()) < 5 * math.sqrt(2 / n)


@pytest.mark.parametrize("name", PATHS)
def test_transitions_join_and_undo_posteriors(name):
    """t to u is t to s to u; and noise added to what the posterior gives is the joint law of the pair, by its covariance."""
    path, x = PATHS[name], events("x")
    whole, total = path.transition(x, 0.8, 0.15)
    half, first = path.transition(x, 0.8, 0.5)
    again, second = path.transition(half, 0.5, 0.15)
    ratio = float((again / half).mean())
    torch.testing.assert_close(again, whole, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose((ratio * float(first)) ** 2 + float(second) ** 2, float(total) ** 2, rtol=1e-9)
    (b, c), (b_s, c_s) = levels(path, 0.15), levels(path, 0.8)
    torch.testing.assert_close(whole, b / b_s * x, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(float(total) ** 2 + (b / b_s * c_s) ** 2, c**2, rtol=1e-9)


# -- published coefficients --------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("k", [1, 5, 33, 49])
def test_one_step_of_betas_is_ddpms(k):
    """Ho et al., equations 2, 6 and 7: mean sqrt(abar_{k-1}) beta / (1 - abar_k) x0 + sqrt(alpha)(1 - abar_{k-1}) / (1 - abar_k) x, variance tilde beta."""
    path, x, x1 = PATHS["betas"], events("x"), events("x1")
    beta, bar = BETAS[k], np.cumprod(1 - BETAS)
    t, s = (float(path.schedule.time_of(step)) for step in (k, k - 1))
    mean, spread = path.posterior(x, x1, t, s)
    expected = math.sqrt(bar[k - 1]) * beta / (1 - bar[k]) * x1 + math.sqrt(1 - beta) * (1 - bar[k - 1]) / (1 - bar[k]) * x
    torch.testing.assert_close(mean, expected, rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(float(spread) ** 2, (1 - bar[k - 1]) / (1 - bar[k]) * beta, rtol=1e-8)
    noisier, added = path.transition(x, s, t)
    torch.testing.assert_close(noisier, math.sqrt(1 - beta) * x, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(float(added) ** 2, beta, rtol=1e-8)


@pytest.mark.parametrize("eta", [0.0, 0.35, 1.0])
@pytest.mark.parametrize("stride", [1, 10])
def test_one_step_is_diffusers_ddim_for_every_eta(eta, stride):
    from diffusers import DDIMScheduler

    peer = DDIMScheduler(num_train_timesteps=50, trained_betas=BETAS.tolist(), clip_sample=False)
    peer.set_timesteps(50 // stride)
    path, k, x, eps = PATHS["betas"], 30, events("x"), events("eps")
    t, s = (float(path.schedule.time_of(step)) for step in (k, k - stride))
    still, moved = (peer.step(eps, k, x, eta=eta, variance_noise=torch.full_like(x, v), return_dict=False)[0] for v in (0.0, 1.0))
    mean, spread = path.posterior(x, path.convert(eps, x, t, of="noise", to="data"), t, s, eta)
    torch.testing.assert_close(mean, still, rtol=2e-5, atol=2e-5)             # their levels are float32
    torch.testing.assert_close(spread.expand_as(x), moved - still, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("name", PATHS)
def test_with_eta_0_the_noise_in_x_is_kept(name):
    path, x1, z = PATHS[name], events("x1"), events("z")
    t, s = torch.tensor([0.1, 0.3, 0.5, 0.7], dtype=F64), torch.tensor([0.2, 0.3, 0.9, 0.75], dtype=F64)
    mean, spread = path.posterior(path.sample(x1, t, z=z).x, x1, t, s, 0.0)
    torch.testing.assert_close(mean, path.sample(x1, s, z=z).x, rtol=1e-11, atol=1e-11)
    assert float(spread.abs().max()) == 0


# -- times ---------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("eta", [0.6, 1.0])
def test_a_time_for_each_row_is_row_by_row(name, eta):
    path, x, x1 = PATHS[name], events("x"), events("x1")
    t, s = torch.tensor([0.1, 0.3, 0.5, 0.7], dtype=F64), torch.tensor([0.2, 0.31, 0.9, 0.75], dtype=F64)
    mean, spread = path.posterior(x, x1, t, s, eta)
    back, added = path.transition(x, s, t)
    assert spread.shape == added.shape == (4, 1, 1)
    for i in range(4):
        one = slice(i, i + 1)
        for whole, alone in (((mean, spread), path.posterior(x[one], x1[one], float(t[i]), float(s[i]), eta)),
                             ((back, added), path.transition(x[one], float(s[i]), float(t[i])))):
            torch.testing.assert_close(whole[0][one], alone[0], rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(whole[1][one], alone[1].reshape(1, 1, 1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("t", [0.0, 0.4])
def test_a_step_of_no_length_stays(name, t):
    path, x, x1 = PATHS[name], events("x"), events("x1")
    mean, spread = path.posterior(x, x1, t, t)
    torch.testing.assert_close(mean, x, rtol=1e-12, atol=1e-12)
    assert float(spread) == 0
    if levels(path, t)[0] > 0:
        back, added = path.transition(x, t, t)
        torch.testing.assert_close(back, x, rtol=1e-12, atol=1e-12)
        assert float(added) == 0


@pytest.mark.parametrize("name", ["linear", "vp", "cosine"])
def test_the_ends_take_their_limits(name):
    """Where no noise is left the posterior is the data itself; from pure noise it owes x only what the noise says; a transition to the base is all noise."""
    path, x, x1 = PATHS[name], events("x"), events("x1")
    mean, spread = path.posterior(x, x1, 0.3, 1.0)
    torch.testing.assert_close(mean, x1, rtol=1e-12, atol=1e-12)
    assert float(spread) == 0
    clean, added = path.transition(x1, 1.0, 0.3)
    b, c = levels(path, 0.3)
    torch.testing.assert_close(clean, b * x1, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(float(added), c, rtol=1e-9)
    if name != "vp":
        mean, spread = path.posterior(x, x1, 0.0, 0.3)
        torch.testing.assert_close(mean, b * x1, rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(float(spread), c, rtol=1e-12)
        gone, all_noise = path.transition(x, 0.3, 0.0)
        assert float(gone.abs().max()) < 1e-15 and float(all_noise) == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, torch.complex128], ids=str)
def test_the_dtype_of_x_is_kept(dtype):
    x, x1 = (Draws(1).rows(name, 0, (3, 2), dtype=dtype) for name in ("x", "x1"))
    mean, _ = Path.vp().posterior(x, x1, 0.3, 0.6)
    back, _ = Path.vp().transition(x, 0.6, 0.3)
    assert mean.dtype == back.dtype == dtype
    if dtype.is_complex:
        real = Path.vp().posterior(x.real.contiguous(), x1.real.contiguous(), 0.3, 0.6)[0]
        torch.testing.assert_close(mean.real, real, rtol=1e-5, atol=1e-6)


# -- v-prediction ----------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("k", [0, 7, 30, 49])
def test_v_is_diffusers_velocity(k):
    from diffusers import DDPMScheduler

    peer = DDPMScheduler(num_train_timesteps=50, trained_betas=BETAS.tolist(), prediction_type="v_prediction", clip_sample=False)
    path, x1, z = PATHS["betas"], events("x1"), events("z")
    t = path.schedule.time_of(torch.full((4,), k))
    point = path.sample(x1, t, z=z)
    steps = torch.full((4,), k)
    torch.testing.assert_close(point.x, peer.add_noise(x1, z, steps), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(point.target("v"), peer.get_velocity(x1, z, steps), rtol=1e-5, atol=1e-5)
    guess = events("guess")
    told = peer.step(guess, k, point.x, generator=torch.Generator().manual_seed(0)).pred_original_sample
    torch.testing.assert_close(path.convert(guess, point.x, t, of="v", to="data"), told, rtol=1e-5, atol=1e-5)


def test_v_tells_data_and_noise_at_both_ends():
    """At the base x is the noise and v is minus the data; where no noise is left x is the data and v the noise."""
    x, v = events("x"), events("v")
    for path in (Path.linear(), Path.cosine()):
        field = Field(lambda x, t, cond: v, path, "v")
        begin, end = field(x, 0.0), field(x, 1.0)
        for found, expected in ((begin.data, -v), (begin.noise, x), (end.data, x), (end.noise, v), (begin.velocity, -field.path.coefficients(0.0).db * v + begin.noise * field.path.coefficients(0.0).dc)):
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    rows = Field(lambda x, t, cond: v, Path.linear(), "v")(x, torch.tensor([0.0, 1.0, 0.5, 0.0], dtype=F64))
    torch.testing.assert_close(rows.data[[0, 1, 3]], torch.stack([-v[0], x[1], -v[3]]), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(rows.noise[[0, 1, 3]], torch.stack([x[0], v[1], x[3]]), rtol=1e-12, atol=1e-12)


def test_v_of_the_cosine_path_is_its_velocity():
    """d/dt (sin x1 + cos z) = (pi / 2)(cos x1 - sin z) = -(pi / 2) v."""
    x1, z, t = events("x1"), events("z"), torch.tensor([0.0, 0.3, 0.8, 1.0], dtype=F64)
    point = Path.cosine().sample(x1, t, z=z)
    torch.testing.assert_close(-0.5 * math.pi * point.target("v"), point.velocity, rtol=1e-12, atol=1e-12)


def test_at_the_end_of_vp_v_tells_everything_but_the_velocity():
    x, field = events("x"), Field(lambda x, t, cond: 0.3 * x, Path.vp(), "v")
    answer = field(x, 1.0)
    torch.testing.assert_close(answer.data, x)
    torch.testing.assert_close(answer.noise, 0.3 * x)
    with pytest.raises(ValueError, match="velocity cannot be read off a v prediction at an end of the path, where no noise is left"):
        answer.velocity     # noqa: B018


def test_a_v_network_samples_what_the_exact_field_samples():
    target = skewed()
    for path in (Path.vp(), Path.cosine(), Path.edm(0.01, 40.0)):
        exact = ExactField(path, target)
        net = lambda x, t, cond: exact(x * (1 + float(path.coefficients(t[0]).c) ** 2) ** 0.5 if isinstance(path.schedule, EDM) else x, t).v
        learned = Field(net, path, "v", unit_input=isinstance(path.schedule, EDM))
        start, times = path.prior((5, 2), seed=1, dtype=F64), Times.uniform(path, 12)
        torch.testing.assert_close(sample(learned, start=start, times=times), sample(exact, start=start, times=times), rtol=1e-6, atol=1e-6)


# -- unit inputs -----------------------------------------------------------------------------------------------------------------

def test_v_with_unit_input_is_edms_preconditioning():
    from diffusers import EDMEulerScheduler

    peer = EDMEulerScheduler(sigma_min=0.002, sigma_max=80.0, sigma_data=1.0)
    net, x = lambda x, t, cond: torch.sin(2 * x) + t[:, None, None], events("x")
    field = Field(net, Path.edm(), "v", unit_input=True)
    for t in (0.0, 0.3, 0.8, 1.0):
        sigma = float(field.path.coefficients(t).c)
        shown = peer.precondition_inputs(x, sigma)
        theirs = peer.precondition_outputs(x, -net(shown, torch.full((4,), t, dtype=F64), None), sigma)        # v is minus Karras' F
        torch.testing.assert_close(field.data(x, t), theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("path", [Path.ve(), Path.edm(), Path.linear(), Path.vp()], ids=["ve", "edm", "linear", "vp"])
def test_networks_are_shown_inputs_of_unit_variance_at_all_times(path, seed):
    """Data of variance 1 and no symmetry (an exponential less 1, kurtosis 9): the variance of n numbers is off by sqrt(8 / n) at most."""
    n, seen = 20_000, {}

    def net(x, t, cond=None):
        seen[float(t[0])] = x
        return x

    x1 = -torch.log(Draws(seed).uniform("x1", 0, (n, 1), dtype=F64)) - 1
    field = Field(net, path, "v", unit_input=True)
    for t in (0.0, 0.2, 0.6, 0.9, 0.999):
        field(path.sample(x1, torch.full((n,), t, dtype=F64), seed=seed).x, t)
    assert len(seen) == 5
    for x in seen.values():
        assert abs(float(x.var()) - 1) < 5 * math.sqrt(8 / n)


@pytest.mark.parametrize("unit_input", [False, True])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "residual"])
@pytest.mark.parametrize("path", [Path.ve(0.05, 9.0), Path.edm(0.02, 30.0), Path.linear(), Path.vp(), Path.linear(noise=Student(5.0))],
                         ids=["ve", "edm", "linear", "vp", "student"])
def test_a_network_trained_to_its_target_is_read_as_the_data(path, kind, unit_input):
    """One net for both: it works out what `Matching` wants from what it is shown, and `Field` reads the data off its answer."""
    if kind == "score" and not path.noise.gaussian:
        return
    x1 = events("x1", 6)

    def net(x, t, cond=None):
        at = path.coefficients(t)
        b, c, db, dc = (torch.as_tensor(v, dtype=F64).expand(len(x))[:, None, None] for v in (at.b, at.c, at.db, at.dc))
        x = torch.hypot(b, c) * x if unit_input else x
        z = (x - b * x1) / c
        angle = torch.atan2(c, b)       # v turns by a right angle from x / |(b, c)|, towards the noise
        return {"velocity": db * x1 + dc * z, "score": -z / c, "noise": z, "data": x1, "v": angle.cos() * z - angle.sin() * x1}[kind]

    loss = Matching(path, kind, unit_input=unit_input)(net, Pair(x1), seed=3)
    assert float(loss.errors.max()) < 1e-9          # rounding, the score being up to 1 / sigma
    t = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9, 0.95], dtype=F64)
    point = path.sample(x1, t, seed=5)
    answer = Field(net, path, kind, unit_input=unit_input)(point.x, t)
    torch.testing.assert_close(answer.data, x1, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(answer.noise, point.z, rtol=1e-8, atol=1e-8)


def test_the_v_loss_is_edms_weighted_loss_of_the_data():
    """Karras et al., equation 8: lambda(sigma) = (sigma^2 + 1) / sigma^2 times the squared error of the denoised data."""
    path, x1, seen = Path.edm(), events("x1"), []
    net = lambda x, t, cond=None: (seen.append((x, t)), torch.cos(x))[1]
    loss = Matching(path, "v", unit_input=True)(net, Pair(x1), seed=1)
    shown, t = seen[0]
    sigma = path.coefficients(t).c[:, None, None]
    x = shown * (sigma**2 + 1) ** 0.5
    denoised = Field(lambda x, t, cond: torch.cos(shown), path, "v", unit_input=True).data(x, t)
    torch.testing.assert_close(loss.errors, (sigma**2 + 1) / sigma**2 * (denoised - x1) ** 2, rtol=1e-8, atol=1e-12)


def test_unit_input_leaves_variance_preserving_paths_alone():
    x, t = events("x"), torch.tensor([0.1, 0.3, 0.5, 0.9], dtype=F64)
    torch.testing.assert_close(Path.vp().unit(x, Path.vp().coefficients(t)), x, rtol=1e-13, atol=1e-13)


# -- refusals ----------------------------------------------------------------------------------------------------------------

X = torch.ones(3, 2, dtype=F64)
HALF = torch.tensor([0.5, 0.5, 0.5], dtype=F64)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: Path.linear().posterior(X, X, 0.5, 0.2), "s must not lie before t, got t = 0.5 and s = 0.2"),
    (lambda: Path.vp().posterior(X, X, HALF, torch.tensor([0.6, 0.4, 0.7], dtype=F64)), "s must not lie before t, got t = "),
    (lambda: Path.linear().transition(X, 0.2, 0.5), "s must not lie after t, got t = 0.2 and s = 0.5"),
    (lambda: Path.interpolant().posterior(X, X, 0.2, 0.5), "posterior exists for one-sided paths only; this path is two-sided"),
    (lambda: Path.interpolant().transition(X, 0.5, 0.2), "transition exists for one-sided paths only; this path is two-sided"),
    (lambda: Path.linear(noise=Student(3.0)).posterior(X, X, 0.2, 0.5), r"posterior needs Gaussian noise, this path has Student\(dof=3.0\)"),
    (lambda: Path.linear(noise=Student(3.0)).transition(X, 0.5, 0.2), r"transition needs Gaussian noise, this path has Student\(dof=3.0\)"),
    (lambda: Path.linear().posterior(X, X, 1.0, 1.0), "t must leave some noise in x, got a time with sigma = 0"),
    (lambda: Path.vp().posterior(X, X, torch.tensor([0.5, 1.0, 0.2], dtype=F64), 1.0), "t must leave some noise in x, got a time with sigma = 0"),
    (lambda: Path.linear().transition(X, 0.0, 0.0), "t must leave some data in x, got a time with alpha = 0"),
    (lambda: Path.linear().posterior(X, X, 0.2, 0.5, 1.5), r"eta must lie in \[0, 1\], got 1.5"),
    (lambda: Path.linear().posterior(X, X, 0.2, 0.5, math.nan), r"eta must lie in \[0, 1\], got nan"),
    (lambda: Path.linear().posterior(X, X, 0.2, 1.5), r"t must lie in \[0, 1\], got values from 1.5 to 1.5"),
    (lambda: Path.linear().posterior(X, X, math.nan, 0.5), r"t must lie in \[0, 1\]"),
    (lambda: Path.linear().posterior(X, X, HALF[:2], 0.7), r"t must be one number or have shape \(3,\), one time a row of x, got shape \(2,\)"),
    (lambda: Path.linear().transition(X, HALF, torch.tensor([0.1, 0.2], dtype=F64)), r"s must be one number or have shape \(3,\), one time a row of x, got shape \(2,\)"),
    (lambda: Field(lambda x, t, c: x, Path.interpolant(), unit_input=True), "unit_input needs a one-sided path, got a two-sided one"),
    (lambda: Field(lambda x, t, c: x, Path.interpolant(), ("velocity", "v")), "predicts = v needs a one-sided path, got a two-sided one"),
    (lambda: Path.interpolant().convert(X, X, 0.5, of="velocity", to="v"), "v of a two-sided path cannot be read off velocity alone"),
    (lambda: Path.linear().convert(X, X, 0.5, of="velocity", to="flow"), "kind must be one of velocity, score, noise, data, v, residual, got 'flow'"),
])
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("call", [lambda: Field(3, Path.linear()), lambda: Field(lambda x: x, "linear"), lambda: Field(lambda x: x, Path.linear(), unit_input=1)],
                         ids=["net", "path", "unit_input"])
def test_wrong_types_are_type_errors(call):
    with pytest.raises(TypeError):
        call()
