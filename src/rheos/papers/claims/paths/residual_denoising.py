"""Residual denoising diffusion models (Liu, Wang, Fan, Wang, Tang and Qu, 2023, arXiv:2308.13712).

Claim: a diffusion that starts at the degraded picture with a little noise on it, and whose network tells what was done to the picture (the residual) and
the noise apart, restores better in few steps than one that starts at noise and is shown the degraded picture, and not much worse than regression, of which
it is a generalisation; and with nothing in the picture's place it is DDIM exactly, its schedule being that of any diffusion read as two. Here: the
equality over all 1000 levels of the DDPM schedule, in float64, on the exact field of digits (16 principal components); and deblurring of Fashion-MNIST
(where `rheos data` has it, else of patches of scikit-learn's photographs): means of blocks of 4 x 4 pixels plus noise of 0.1, pixels in [-1, 1].

The three networks are one U-Net of 0.4 million weights that is shown the degraded picture beside its input, with one training each: 800 minibatches of 32.
They are shared between seeds, which draw the test pictures, their degradation and the starts. The rival takes whichever of two samplers is best for it.
Against regression, which has all its training for its one call, the threshold of half a decibel is missed by two at this little training: already one call,
which asks for no more than regression does, is two decibels below it.
Smoke scale has the equality only. On a GPU: crops of 64 x 64 of the photographs.
"""
from functools import cache, partial

import torch
from torch import Tensor, nn

from rheos.core import Draws, evolve
from rheos.couplings import Independent, Paired
from rheos.data import NAMES, digits_mixture, load
from rheos.nets import UNet
from rheos.objectives import L1, At, Matching
from rheos.papers import Check, Scale, bars, fixture
from rheos.paths import ExactField, Field, Path, T, Times
from rheos.samplers import DDIM, ResidualDDIM, Rule, RungeKutta, sample
from rheos.training import Average, Cosine, Descent

DISTANCE_FROM_DDIM_AT_MOST = 1e-12          # a prototype saw 7e-15
GAIN_OVER_DIFFUSION_AT_LEAST = 1.0          # dB
GAIN_OVER_REGRESSION_AT_LEAST = -0.5        # dB

CALLS, PICTURES, TRAINING = 5, 256, 16_000
DIFFUSION = Path.from_betas(torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64))
PATHS = {"residual": Path.residual(0.1), "regression": Path.interpolant("none"), "diffusion": Path.vp()}
PREDICTS = {"residual": ("residual", "noise"), "regression": ("residual",), "diffusion": ("noise",)}


# -- the equality ------------------------------------------------------------------------------------------------------------

def as_residual(path: Path, exact: ExactField) -> Field:
    """An exact one-sided field as a two-sided one whose source is 0: the residual is minus the data."""
    def answers(x: Tensor, t: Tensor, cond: None) -> tuple[Tensor, Tensor]:
        told = exact(x, float(t[0]))
        return -told.data, told.noise

    return Field(answers, path, ("residual", "noise"))


def equality(seed: int, steps: int) -> Check:
    """The largest difference of any number at the end, for samples of size 1."""
    exact = ExactField(DIFFUSION, digits_mixture())
    start = DIFFUSION.prior((4, 16), seed=seed, dtype=torch.float64)
    ddim = sample(exact, start=start, rule=DDIM(), times=Times.uniform(DIFFUSION, steps, T))

    def gap(path: Path) -> float:
        return float((sample(as_residual(path, exact), start=start, rule=ResidualDDIM(), times=Times.uniform(path, steps, T)) - ddim).abs().max())

    # The conversion taken away: the paper's own schedule of residual and noise, for the same network.
    return Check(f"largest difference from DDIM over {steps + 1} levels, source 0, coefficients converted",
                 gap(Path.residual(1.0, like=DIFFUSION.schedule)), "<=", DISTANCE_FROM_DDIM_AT_MOST, control=gap(Path.residual(1.0)))


# -- deblurring --------------------------------------------------------------------------------------------------------------

class Beside(nn.Module):
    """A U-Net that sees the degraded picture, its condition, as a second channel; it answers with its first channels, one a kind."""

    def __init__(self, answers: int):
        super().__init__()
        self.net, self.answers = UNet((2, 28, 28), widths=(32, 64), depth=1, patch=2), answers

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self.net(torch.cat([x, cond], 1), t)[:, : self.answers].split(1, 1)


@cache
def pictures() -> tuple[str, Tensor, Tensor]:
    """(name, training pictures, others), each (rows, 1, 28, 28) in [-1, 1]."""
    if NAMES["fashion_mnist"].find() is not None:
        data = load("fashion_mnist")
        return "Fashion-MNIST", data.x[:TRAINING], data.held_out.x
    from sklearn.datasets import load_sample_images

    patches = []
    for k, image in enumerate(load_sample_images().images):
        grey, draws = torch.tensor(image, dtype=torch.float32).mean(2) / 127.5 - 1, Draws(0).child(k)
        # Training from the upper three fifths, test from what lies below.
        for low, high, count in ((0, 228, TRAINING // 2), (256, grey.shape[0] - 28, 1000)):
            rows, columns = draws.integers(f"rows {low}", 0, (count,), high - low) + low, draws.integers(f"columns {low}", 0, (count,), grey.shape[1] - 28)
            patches.append(torch.stack([grey[i : i + 28, j : j + 28] for i, j in zip(rows.tolist(), columns.tolist(), strict=True)])[:, None])
    return "photographs", torch.cat(patches[::2]), torch.cat(patches[1::2])


def degraded(x: Tensor, seed: int | Draws) -> Tensor:
    blurred = nn.functional.interpolate(nn.functional.avg_pool2d(x, 4), scale_factor=4)
    return blurred + 0.1 * Draws.of(seed).rows("degradation", 0, x.shape)


def weights(method: str, data: str) -> dict[str, Tensor]:
    """Trained weights, averaged. data: the name of the pictures, which are part of what the fixture is."""
    x = pictures()[1]
    given = degraded(x, 0)
    with Draws(0).scope(0):
        net = Beside(len(PREDICTS[method]))
    one_sided = method == "diffusion"
    loss = (Matching(PATHS[method], PREDICTS[method]) if one_sided else
            Matching(PATHS[method], PREDICTS[method], metric=L1(), **({"when": At()} if method == "regression" else {})))
    pairs = Independent(x, cond=given) if one_sided else Paired(given, x, given)
    fit = Descent(loss, pairs, 32, partial(torch.optim.Adam, lr=2e-3, betas=(0.9, 0.99)), Cosine(800, 16), Average(0.99), 1.0, seed=0)
    return evolve(fit, fit.init(net), 800, donate=True).averaged.state_dict()


def network(method: str) -> nn.Module:
    net = Beside(len(PREDICTS[method]))
    net.load_state_dict(dict(fixture(f"deblurring-{method}", weights, method=method, data=pictures()[0]).tensors))
    return net.eval()


class Deblurring:
    """Test pictures of one seed, and the PSNR that each method reaches, in dB: the mean over pictures."""

    def __init__(self, seed: int):
        self.name, _, others = pictures()
        self.x = others[Draws(seed).permutation("test pictures", 0, len(others))[:PICTURES]]
        self.given, self.seed = degraded(self.x, Draws(seed).child("test")), seed

    def psnr(self, found: Tensor) -> float:
        return float((10 * torch.log10(4 / (found.clamp(-1, 1) - self.x).flatten(1).square().mean(1))).mean())

    def residual(self, rule: Rule | None = None, steps: int = CALLS) -> float:
        field = Field(network("residual"), PATHS["residual"], PREDICTS["residual"])
        start = field.path.start(self.given, seed=self.seed)
        return self.psnr(sample(field, start=start, cond=self.given, rule=ResidualDDIM() if rule is None else rule, steps=steps))

    def diffusion(self, steps: int = CALLS, seed: int | None = None) -> float:
        field = Field(network("diffusion"), PATHS["diffusion"], PREDICTS["diffusion"])
        return max(self.psnr(sample(field, PICTURES, shape=self.x.shape[1:], cond=self.given, rule=rule, steps=steps, seed=self.seed if seed is None else seed))
                   for rule in (DDIM(), None))

    def regression(self) -> float:
        net = network("regression")         # before: it may have to be trained
        with torch.no_grad():
            return self.psnr(self.given - net(self.given, torch.zeros(PICTURES), self.given)[0])


def claim(*, seed: int = 0, scale: Scale = Scale.FULL) -> list[Check]:
    full = scale is Scale.FULL
    checks = [equality(seed, 999 if full else 200)]
    if not full:
        return checks
    task = Deblurring(seed)
    ours, diffusion, regression, given = task.residual(), task.diffusion(), task.regression(), task.psnr(task.given)
    report = lambda name, value, threshold, relation=">=": Check(name, value, relation, threshold, control=None, core=False)
    return [
        *checks,
        # The start at the picture taken away: the diffusion model in its place, from other noise.
        Check(f"{task.name}: PSNR in {CALLS} calls over conditional diffusion's, dB", ours - diffusion, ">=", GAIN_OVER_DIFFUSION_AT_LEAST,
              control=task.diffusion(seed=seed + 1000) - diffusion),
        Check(f"{task.name}: PSNR in {CALLS} calls over one-step regression's, dB", ours - regression, ">=", GAIN_OVER_REGRESSION_AT_LEAST,
              control=diffusion - regression),
        report(f"{task.name}: PSNR in {CALLS} calls over the degraded picture's, dB", ours - given, 1.0),
        report(f"{task.name}: PSNR in 20 calls over conditional diffusion's in 20, dB", task.residual(steps=20) - task.diffusion(steps=20),
               GAIN_OVER_DIFFUSION_AT_LEAST),
        report(f"{task.name}: PSNR in one call over one-step regression's, dB", task.residual(steps=1) - regression, GAIN_OVER_REGRESSION_AT_LEAST),
        report(f"{task.name}: PSNR in 5 steps over Heun's in 3, with one call more, dB", ours - task.residual(RungeKutta(2), 3), 0.0),
    ]


def plot(ax, checks: list[Check]):
    """Values beside their controls."""
    return bars(ax, checks, [str(i + 1) for i in range(sum(c.control is not None for c in checks))], method="residual denoising")
