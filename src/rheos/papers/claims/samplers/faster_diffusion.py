"""Faster Diffusion (Li et al., Rethinking the role of the encoder for diffusion model inference, 2023, arXiv:2312.09608).

Claim: what a U-Net's encoder makes of x changes little from one sampling step to the next, what its decoder makes changes a lot; so the encoder
need run at a few key steps only, and sampling becomes faster (41% for Stable Diffusion at 50 steps) with nearly the samples of all steps. Here:
a class-conditional U-Net of 0.4 million weights trained for about a hundred seconds on Fashion-MNIST where `rheos data` has it, else on
digits (rows say which), linear path, DDIM in 50 steps, the paper's nine key steps. Cost is CPU time, each timing the least of three
interleaved runs. Distances are sliced 2-Wasserstein in pixels to held-out pictures.

The last core row asks what a user would ask: is this better than fewer plain steps in the same time? Its control is the plain sampler from
other starts. Supporting rows: the paper's prior noise, and the Fréchet distance in features of a classifier. On a GPU: FID of a latent model.
"""
import time

import torch

from rheos.core import Draws
from rheos.data import NAMES, Dataset, load
from rheos.metrics import digit_features, frechet, grey_features, sliced_w2
from rheos.models import Standardise, train
from rheos.nets import UNet
from rheos.papers import Check, Scale, bars, fixture
from rheos.paths import Field, Path, Times
from rheos.samplers import DDIM, DENSE_EARLY, Every, FeatureReuse, prior_noise, sample

# Mean change of the encoder's features from step to step over the decoder's: the premise.
CHANGE_RATIO_AT_MOST = 0.7
# Time over that of all steps whole; the paper saves 41%.
TIME_RATIO_AT_MOST = 0.75
# Distance to real data over that of all steps whole, and over that of plain DDIM in as many steps as cost the same time.
OVER_PLAIN_AT_MOST = 1.25
OVER_EQUAL_TIME_AT_MOST = 0.8

STEPS = 50
SOURCES = {"Fashion-MNIST": "fashion_mnist", "digits": "digits"}


def pictures() -> tuple[str, Dataset]:
    return ("Fashion-MNIST", load("fashion_mnist")) if NAMES["fashion_mnist"].find() is not None else ("digits", load("digits"))


def network(event: list[int], widths: list[int]) -> UNet:
    with Draws(0).scope(0):
        return UNet(event, widths=widths, depth=1, classes=10)


def trained(source: str, widths: list[int], steps: int, batch: int) -> dict[str, torch.Tensor]:
    """Weights, the scale of the data, and held-out pictures."""
    data = load(source)
    model = train(data, network(list(data.x.shape[1:]), widths), steps=steps, batch=batch, seed=0, device="cpu")
    told = {"mean": model.transform.mean, "std": model.transform.std, "held_out": data.held_out.x[:2000]}
    return {**{f"net.{key}": value for key, value in model.field.net.state_dict().items()}, **told}


def stirred(widths: list[int], seed: int) -> dict[str, torch.Tensor]:
    """The same of a network of no training whose answers are not zero, for digits: it shows that everything runs."""
    data, draws = load("digits"), Draws(seed)
    net, scale = network(list(data.x.shape[1:]), widths), Standardise.fit(data.x)
    weights = {f"net.{key}": value + 0.1 * draws.rows(key, 0, value.shape) for key, value in net.state_dict().items()}
    return {**weights, "mean": scale.mean, "std": scale.std, "held_out": data.held_out.x}


def changes(field: Field, start: torch.Tensor, cond: torch.Tensor, times: Times) -> tuple[float, float]:
    """(encoder, decoder): how far features move in a step, relative to themselves, mean over steps and blocks."""
    net, before, moved = field.net, {}, {True: [], False: []}

    def note(block: int, first_half: bool, h: torch.Tensor) -> None:
        if block in before:
            moved[first_half].append(float((h - before[block]).norm() / before[block].norm()))
        before[block] = h

    halves = [(block, True) for level in net.down for block in level] + [(net.middle, True)] + [(block, False) for level in net.up for block in level]
    hooks = [block.register_forward_hook(lambda _, __, h, i=i, half=half: note(i, half, h)) for i, (block, half) in enumerate(halves)]
    try:
        sample(field, start=start, rule=DDIM(), times=times, cond=cond)
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(sum(moved[half]) / len(moved[half]) for half in (True, False))


def seconds(runs: list, repeats: int) -> list[float]:
    """CPU seconds of each, the least of interleaved repeats."""
    spent = [[] for _ in runs]
    for _ in range(repeats):
        for kept, run in zip(spent, runs, strict=True):
            begun = time.process_time()
            run()
            kept.append(time.process_time() - begun)
    return [min(kept) for kept in spent]


def claim(*, seed: int = 0, scale: Scale = Scale.FULL) -> list[Check]:
    full = scale is Scale.FULL
    if full:
        name, data = pictures()
        known = dict(fixture(f"{name.lower()}-unet", trained, source=SOURCES[name], widths=[32, 64], steps=700, batch=64).tensors)
        count, timed, few, steps, keys = 400, 48, 16, STEPS, DENSE_EARLY
    else:
        name, known = "digits", stirred([8, 8], seed)
        count, timed, few, steps, keys = 16, 4, 4, 10, Every(3).of(10)
    event = list(known["held_out"].shape[1:])
    net = network(event, [32, 64] if full else [8, 8])
    net.load_state_dict({key.removeprefix("net."): value for key, value in known.items() if key.startswith("net.")})
    field = Field(net.eval().requires_grad_(False), Path.linear())
    back, held_out = Standardise(known["mean"], known["std"], (-1.0, 1.0)), known["held_out"]
    start, cond = field.path.prior((count, *event), seed=seed), torch.arange(count) % 10
    along = lambda steps: Times.uniform(field.path, steps)
    reused = lambda keys: FeatureReuse(field, along(steps), keys, ahead=False)

    def drawn(field: Field, steps: int, rows: int = count, begin: torch.Tensor = start) -> torch.Tensor:
        return back.inverse(sample(field, start=begin[:rows], rule=DDIM(), times=along(steps), cond=cond[:rows]))

    encoder, decoder = changes(field, start[:few], cond[:few], along(steps))
    plain, fast, whole = seconds([lambda f=f: drawn(f, steps, timed) for f in (field, reused(keys), reused(Every(1)))], 3 if full else 1)
    same_time = max(1, min(steps, round(steps * fast / plain)))
    distance = lambda x: float(sliced_w2(x, held_out))
    all_steps, few_encodings, never_again = drawn(field, steps), drawn(reused(keys), steps), drawn(reused((0,)), steps)
    fewer = drawn(field, same_time)
    other = drawn(field, same_time, begin=field.path.prior((count, *event), seed=Draws(seed).child("other starts")))
    checks = [
        # The roles of the halves exchanged.
        Check(f"{name}: change of the encoder's features in a step over the decoder's", encoder / decoder, "<=", CHANGE_RATIO_AT_MOST,
              control=decoder / encoder),
        # Every step a key step.
        Check(f"{name}: CPU time with {len(keys)} key steps of {steps} over all steps whole", fast / plain, "<=", TIME_RATIO_AT_MOST, control=whole / plain),
        # Features of the first step only.
        Check(f"{name}: distance to data over that of all steps whole", distance(few_encodings) / distance(all_steps), "<=", OVER_PLAIN_AT_MOST,
              control=distance(never_again) / distance(all_steps)),
        Check(f"{name}: distance to data over that of plain DDIM in the same time", distance(few_encodings) / distance(fewer), "<=", OVER_EQUAL_TIME_AT_MOST,
              control=distance(other) / distance(fewer)),
    ]
    if not full:
        return checks
    features = grey_features() if name == "Fashion-MNIST" else digit_features()
    quality = lambda x: float(frechet(x, held_out, features=features))
    noisy = back.inverse(sample(reused(keys), start=start, rule=prior_noise(DDIM().plan(along(steps))), cond=cond))
    report = lambda text, value, threshold: Check(f"{name}: {text}", value, "<=", threshold, control=None, core=False)
    return [
        *checks,
        report("distance with prior noise over that of all steps whole", distance(noisy) / distance(all_steps), OVER_PLAIN_AT_MOST),
        report("Fréchet distance over that of all steps whole", quality(few_encodings) / quality(all_steps), OVER_PLAIN_AT_MOST),
        report("Fréchet distance with prior noise over that of all steps whole", quality(noisy) / quality(all_steps), OVER_PLAIN_AT_MOST),
        report("Fréchet distance over that of plain DDIM in the same time", quality(few_encodings) / quality(fewer), OVER_EQUAL_TIME_AT_MOST),
        report("steps of plain DDIM in the same time", same_time, float(steps)),
    ]


def plot(ax, checks: list[Check]):
    """Values beside their controls."""
    return bars(ax, checks, ["change", "time", "over plain", "over same time"], method="encoder at key steps", without="control")
