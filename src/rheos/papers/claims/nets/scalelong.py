"""ScaleLong (Huang et al., Scaling Network Long Skip Connection, 2023, arXiv:2310.13545).

Claim: the long skips of a U-Net make its features and gradients swing in training and its answer follow every disturbance of its input; scaled by
kappa^{i-1} at the i-th join from outside (CS), or by a small learned network (LS), it swings less, carries less of a disturbance and trains up to 1.5
times faster. Here: class-blind U-Nets of four levels of 16 channels on Fashion-MNIST where `rheos data` has it, else on digits (rows say
which), pixels folded two by two, linear path, Adam at a rate that is large on purpose, 300 steps of 32. Swing is the standard deviation over the
mean, over the steps: of the norm of what each block on the way up gives at fixed inputs (mean over blocks), and of the gradient's norm. All
networks of a seed begin with the same weights and see the same minibatches.

The control of the rows of CS and LS is the plain U-Net once more, from the same weights with minibatches and times of another seed: what chance makes of the
ratio. The gain is a supporting row, as no scaling at all is the last of its kappas. It is that of the last block on the way up: at the beginning the U-Net's
answer is zero whatever it sees, and the norm after that block would divide a common factor out. Our blocks normalise right after the join and begin as the
identity: a tamer network than the paper's, whose swing is for most part the growth from its beginning, so that supporting rows have the second half of the
steps alone. On a GPU: longer runs at a higher resolution.
"""
from functools import partial

import torch

from rheos.core import Draws, Trace, evolve
from rheos.couplings import Independent
from rheos.data import NAMES, Dataset, load
from rheos.models import Standardise
from rheos.nets import ConstantSkip, LearnedSkip, Skip, UNet
from rheos.objectives import Matching
from rheos.papers import Check, Scale, bars
from rheos.paths import Path
from rheos.training import Descent, FeatureOscillation, decoder_blocks

# Over the plain U-Net's: swing of the features, of the gradient's norm, and the mean loss of the last steps.
FEATURES_AT_MOST = 0.8
GRADIENT_AT_MOST = 0.9
LOSS_AT_MOST = 1.0
# The gain of a disturbance is strictly smaller for each smaller kappa: the largest ratio of neighbours.
NEIGHBOURS_AT_MOST = 1 - 1e-6
# The paper trains up to 1.5 times faster: steps to the plain network's final loss over its steps.
STEPS_AT_MOST = 1 / 1.5

KAPPAS = (0.5, 0.7, 1.0)
LAST = 50
PATH = Path.linear()


def pictures() -> tuple[str, Dataset]:
    return ("Fashion-MNIST", load("fashion_mnist")) if NAMES["fashion_mnist"].find() is not None else ("digits", load("digits"))


def network(event: tuple[int, ...], widths: list[int], skip: Skip | None, seed: int) -> UNet:
    with Draws(seed).scope(0):
        return UNet(event, widths=widths, depth=1, patch=2, skip=skip)


def swing(values: torch.Tensor) -> float:
    """Standard deviation over mean along the steps, mean over the rest."""
    return float((values.std(0) / values.mean(0)).mean())


class Run:
    """One training, watched."""

    def __init__(self, net: UNet, x1: torch.Tensor, seed: int, *, steps: int, every: int, minibatches: Draws):
        t = (torch.arange(16) + 0.5) / 16
        features = FeatureOscillation(PATH.sample(x1[-16:], t, seed=Draws(seed).child("fixed inputs")).x, t, every=every)
        trace = Trace({"loss": lambda state: state.loss, "norm": lambda state: state.norm})
        learning = Descent(Matching(PATH), Independent(x1), batch=32, optimizer=partial(torch.optim.Adam, lr=2e-3), seed=minibatches)
        evolve(learning, learning.init(net), steps, watch=(features, trace), donate=True)
        self.features = features.norms
        self.loss, self.gradient = (torch.tensor([row[name] for row in trace.rows]) for name in ("loss", "norm"))

    def final(self) -> float:
        return float(self.loss[-LAST:].mean())

    def reaches(self, loss: float) -> float:
        """The first step whose last `LAST` losses have this mean or less, over all steps; above 1 if none has."""
        means = self.loss.unfold(0, LAST, 1).mean(1)
        found = (means <= loss).nonzero()
        return float((int(found[0]) if len(found) else len(means)) + LAST) / len(self.loss)


def gain(net: UNet, x: torch.Tensor, d: torch.Tensor) -> float:
    """|h(x + d) - h(x)| / |d|, h what the last block on the way up gives; mean over rows."""
    seen = []
    hook = decoder_blocks(net)[-1].register_forward_hook(lambda _, __, h: seen.append(h))
    with torch.no_grad():
        for point in (x, x + d):
            net(point, torch.full((len(x),), 0.5))
    hook.remove()
    return float(((seen[1] - seen[0]).flatten(1).norm(dim=1) / d.flatten(1).norm(dim=1)).mean())


def claim(*, seed: int = 0, scale: Scale = Scale.FULL) -> list[Check]:
    full = scale is Scale.FULL
    name, data = pictures() if full else ("digits", load("digits"))
    rows, event, widths = data.x[:10_000], tuple(data.x.shape[1:]), [16] * 4 if full else [8] * 2
    x1 = Standardise.fit(rows).forward(rows)
    steps, every = (300, 6) if full else (4, 1)
    draws = Draws(seed)
    of = lambda skip, minibatches=draws: Run(network(event, widths, skip, seed), x1, seed, steps=steps, every=every, minibatches=minibatches)
    plain, again = of(None), of(None, draws.child("again"))
    runs = {"CS": of(ConstantSkip(0.7)), "LS": of(LearnedSkip())} if full else {"CS": of(ConstantSkip(0.7))}
    x, d = (draws.child("disturbance").rows(what, 0, (64 if full else 8, *event)) * size for what, size in (("x", 1.0), ("d", 0.01)))
    gains = [gain(network(event, widths, ConstantSkip(kappa), seed), x, d) for kappa in KAPPAS]
    steepest = lambda values: max(a / b for a, b in zip(values, values[1:], strict=False))
    features = {rule: swing(run.features) / swing(plain.features) for rule, run in (*runs.items(), ("control", again))}
    gradient = {rule: swing(run.gradient) / swing(plain.gradient) for rule, run in (*runs.items(), ("control", again))}
    loss = {rule: run.final() / plain.final() for rule, run in (*runs.items(), ("control", again))}
    measured = (("swing of the features on the way up", features, FEATURES_AT_MOST), ("swing of the gradient's norm", gradient, GRADIENT_AT_MOST),
                ("mean loss of the last 50 steps", loss, LOSS_AT_MOST))
    checks = [Check(f"{name}: {what}, {rule} over plain", values[rule], "<=", threshold, control=values["control"])
              for what, values, threshold in measured for rule in runs]
    checks.append(Check("gain of a disturbance before training, kappa 0.5, 0.7 and 1: the largest ratio of neighbours", steepest(gains), "<=",
                        NEIGHBOURS_AT_MOST, control=None, core=False))
    if not full:
        return checks
    report = lambda what, value, threshold: Check(f"{name}: {what}", value, "<=", threshold, control=None, core=False)
    half = lambda values: swing(values[len(values) // 2 :])
    return [
        *checks,
        *(report(f"{what} in the second half of the steps, {rule} over plain", half(of(run)) / half(of(plain)), threshold) for what, of, threshold in
          (("swing of the features", lambda run: run.features, FEATURES_AT_MOST), ("swing of the gradient's norm", lambda run: run.gradient, GRADIENT_AT_MOST))
          for rule, run in runs.items()),
        *(report(f"steps to the plain network's final loss over its steps, {rule}", run.reaches(plain.final()), STEPS_AT_MOST) for rule, run in runs.items()),
    ]


def plot(ax, checks: list[Check]):
    """Values beside their controls."""
    rows = [check for check in checks if check.control is not None]
    return bars(ax, checks, [str(i + 1) for i in range(len(rows))], method="scaled skips", without="plain, other minibatches")
