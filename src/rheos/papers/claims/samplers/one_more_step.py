"""One More Step (Hu, Xiang, Wang and others, A versatile plug-and-play module for rectifying diffusion schedule flaws, 2023, arXiv:2311.15744).

Claim: schedules such as Stable Diffusion's end with alpha = 0.068 of the data left, but samplers begin at pure noise, so that samples stay near the mean
brightness; a small network that was taught the data's mean given the condition, at no signal at all, makes a start that mends this, and the model and its
sampler stay as they are. Here: Fashion-MNIST where `rheos data` has it, else scikit-learn's digits (rows say which), class k brighter by (k - 4.5) / 3 and
left unclipped; the exact field of one full Gaussian a class on Stable Diffusion's schedule, 50 DDIM steps from its very end; and a network for the step,
trained for every seed. Starts come in pairs z and -z, so that the mean of the samples of a Gaussian is nearly exact. The paper has pictures by SD 1.5, SDXL
and others.

The control withholds the condition: the mean of all classes in the step's place. Supporting rows: the exact class mean in the network's place; the paper's
other step, which draws new noise; what the step does not mend, the spread of brightness within a class; a step made for another time than the sampler's
first; and networks trained once on digits with such brightness, along the schedule, along it rescaled to end without data, and with offset noise.
"""
import torch
from torch import Tensor

from rheos.core import Draws
from rheos.data import NAMES, Dataset, GaussianMixture, load
from rheos.models import train
from rheos.nets import ResidualMLP
from rheos.papers import Check, Scale, bars, fixture
from rheos.paths import ExactField, Field, Offset, Path, T, Times, scaled_linear, zero_terminal_snr
from rheos.samplers import DDIM, OneMoreStep, fit_one_more_step, sample

# From rheos' specification, written before the run; it saw 0.002 with the exact means. The paper shows pictures and brightness histograms.
ERROR_OVER_PLAIN_AT_MOST = 0.2
# Of plain starts, in pixels of [-1, 1]: below one per cent of the range there is no flaw to mend, and ratios to it say little.
PLAIN_ERROR_AT_LEAST = 0.02
# Of brightness within a class over the data's: mended, were it as wide to 5 per cent. The step is not made for this.
SPREAD_AT_LEAST = 0.95

PATH = Path.from_betas(scaled_linear())
CLASSES, STEPS = 10, 50


def brightened(full: bool) -> tuple[str, Tensor, Tensor]:
    """(name, pictures (rows, 1, side, side) of [-1, 1] with their classes' brightness added, classes)."""
    name = "fashion_mnist" if full and NAMES["fashion_mnist"].find() is not None else "digits"
    data = load(name)
    return "Fashion-MNIST" if name == "fashion_mnist" else name, data.x + ((data.y - 4.5) / 3).reshape(-1, 1, 1, 1).to(data.x), data.y


class Pictures:
    """The data of a claim, their classes' exact fields, and pure noise in pairs."""

    def __init__(self, seed: int, full: bool):
        self.name, self.x, self.y = brightened(full)
        rows, pairs, self.steps = (1000, 16, STEPS) if full else (100, 4, 10)
        self.classes = [self.x[self.y == k][:rows].double() for k in range(CLASSES)]
        self.fields = [ExactField(PATH, GaussianMixture.fit(x, ridge=0.03)) for x in self.classes]
        z = [Draws(seed).child(k).rows("pure noise", 0, (pairs, *self.x.shape[1:]), dtype=torch.float64) for k in range(CLASSES)]
        self.noise = [torch.cat([half, -half]) for half in z]

    def drawn(self, start=lambda z, k: z, first: float = 0.0) -> list[Tensor]:
        """The brightness of samples, class by class, from start(z, class) at the time `first`."""
        times = Times.uniform(PATH, self.steps, T, start=first)
        return [sample(field, start=start(z, k), rule=DDIM(), times=times).flatten(1).mean(1) for k, (field, z) in
                enumerate(zip(self.fields, self.noise, strict=True))]

    def error(self, drawn: list[Tensor]) -> float:
        """How far the mean brightness of a class is off, the mean over classes."""
        return sum(abs(float(grey.mean() - x.mean())) for grey, x in zip(drawn, self.classes, strict=True)) / CLASSES

    def spread(self, drawn: list[Tensor]) -> float:
        """The standard deviation of brightness within a class over that of the data, the mean over classes."""
        return sum(float(grey.std() / x.flatten(1).mean(1).std()) for grey, x in zip(drawn, self.classes, strict=True)) / CLASSES


def claim(*, seed: int = 0, scale: Scale = Scale.FULL) -> list[Check]:
    full = scale is Scale.FULL
    pictures = Pictures(seed, full)
    with Draws(seed).scope(0):
        net = ResidualMLP(tuple(pictures.x.shape[1:]), width=64, depth=1, classes=CLASSES)
    psi = OneMoreStep(fit_one_more_step(pictures.x, net, cond=pictures.y, steps=500 if full else 150, batch=256 if full else 32, seed=seed), PATH)
    by_network = pictures.drawn(lambda z, k: psi.start(z.float(), k).double())
    plain = pictures.error(pictures.drawn())
    ratio = lambda drawn: pictures.error(drawn) / plain
    blind = OneMoreStep(pictures.x.double().mean(0), PATH)
    checks = [Check(f"{pictures.name}: error of the classes' mean brightness over that of plain starts", ratio(by_network), "<=", ERROR_OVER_PLAIN_AT_MOST,
                    control=ratio(pictures.drawn(lambda z, k: blind.start(z))))]
    if not full:
        return checks
    exact = lambda **how: pictures.drawn(lambda z, k: OneMoreStep(pictures.classes[k].mean(0), PATH, **how).start(z, seed=seed))
    late = 0.2
    for_late = pictures.drawn(lambda z, k: OneMoreStep(pictures.classes[k].mean(0), PATH).start(z, at=late), late)
    for_another = pictures.drawn(lambda z, k: OneMoreStep(pictures.classes[k].mean(0), PATH).start(z), late)
    report = lambda name, value, threshold, relation="<=": Check(name, value, relation, threshold, control=None, core=False)
    return [
        *checks,
        report(f"{pictures.name}: the same by the exact means", ratio(exact()), ERROR_OVER_PLAIN_AT_MOST),
        report(f"{pictures.name}: the same with new noise (the DDPM step)", ratio(exact(eta=1.0)), ERROR_OVER_PLAIN_AT_MOST),
        report(f"{pictures.name}: the same, sampler and step from t = {late}", ratio(for_late), ERROR_OVER_PLAIN_AT_MOST),
        report(f"{pictures.name}: the same, sampler from t = {late}, step made for t = 0", ratio(for_another), ERROR_OVER_PLAIN_AT_MOST),
        report(f"{pictures.name}: plain starts, error of the classes' mean brightness (pixels in [-1, 1])", plain, PLAIN_ERROR_AT_LEAST, ">="),
        # What the step leaves: within a class samples stay as alike as from plain starts.
        report(f"{pictures.name}: spread of brightness within a class over the data's", pictures.spread(by_network), SPREAD_AT_LEAST, ">="),
        report(f"{pictures.name}: the same from plain starts", pictures.spread(pictures.drawn()), SPREAD_AT_LEAST, ">="),
        *trained(seed),
    ]


PATHS = {"base": PATH, "without data at the end": zero_terminal_snr(PATH), "offset noise": Path.from_betas(scaled_linear(), noise=Offset(0.1))}


def _net() -> ResidualMLP:
    with Draws(0).scope(0):
        return ResidualMLP((1, 8, 8), width=128, depth=3, classes=CLASSES)


def _weights(kind: str) -> dict[str, Tensor]:
    net = _net()
    _, x, y = brightened(False)
    train(Dataset("bright digits", x, y, classes=CLASSES), net, path=PATHS[kind], predicts="v", steps=1500, seed=0, device="cpu")
    return net.state_dict()


def trained(seed: int) -> list[Check]:
    """The classes' mean brightness of samples of networks trained on digits, the error over that of plain starts of the first of them."""
    _, x, y = brightened(False)
    unit = (x - x.mean()) / x.std(correction=0)
    z = Draws(seed).rows("pure noise", 0, (1000, 1, 8, 8))
    z, label = torch.cat([z, -z]), torch.arange(1000).remainder(CLASSES).repeat(2)
    truth = torch.stack([unit[y == k].mean() for k in range(CLASSES)])

    def error(kind: str, start: Tensor) -> float:
        net = _net()
        net.load_state_dict(dict(fixture(f"one-more-step-{kind.replace(' ', '-')}", _weights, kind=kind).tensors))
        drawn = sample(Field(net.eval(), PATHS[kind], "v"), start=start, cond=label, rule=DDIM(), times=Times.uniform(PATHS[kind], STEPS, T))
        return float((torch.stack([drawn[label == k].mean() for k in range(CLASSES)]) - truth).abs().mean())

    with Draws(seed).scope(0):
        net = ResidualMLP((1, 8, 8), width=64, depth=1, classes=CLASSES)
    psi = OneMoreStep(fit_one_more_step(unit, net, cond=y, seed=seed), PATH)
    plain = error("base", z)
    row = lambda name, value: Check(f"networks trained on digits: {name}", value, "<=", ERROR_OVER_PLAIN_AT_MOST, control=None, core=False)
    return [
        row("error of the classes' mean brightness over that of plain starts", error("base", psi.start(z, label)) / plain),
        row("the same, trained without data at the end, in place of the step", error("without data at the end", z) / plain),
        row("the same, trained with offset noise, in place of the step", error("offset noise", Offset(0.1).draw(tuple(z.shape), seed=seed)) / plain),
        Check("networks trained on digits: plain starts, error of the classes' mean brightness (pixels in [-1, 1])",
              plain * float(x.std(correction=0)), ">=", PLAIN_ERROR_AT_LEAST, control=None, core=False),
    ]


def plot(ax, checks: list[Check]):
    """Errors over those of plain starts, with the condition and without."""
    return bars(ax, checks, ["brightness"], method="One More Step", without="condition withheld")
