"""StreamDiffusion (Kodaira et al., StreamDiffusion: a pipeline-level solution for real-time interactive generation, 2023, arXiv:2312.12491).

Claim: requests at different levels of noise share one network call (stream batch), which gives more images a second at the same numbers; guidance's second
evaluation can be replaced by one made once (residual guidance); frames that hardly change can be skipped (similarity filter). Here, in place of a
distilled latent model on a GPU: throughput in CPU time of one thread, of a U-Net trained for some seconds to predict the noise of 8 x 8 digits (at
smoke scale one with random weights); residual guidance on the exact field of real digits, edited into threes and eights from 4 levels, against full
guidance of strength 2; the filter on a video of digits whose frames have cosines uniform in [0.96, 1] with the last one processed, where the law
skips one in four, against a filter without chance that skips whatever is above the threshold. The paper has 91 frames a second.

Supporting rows: how far the stream's samples are from those of separate runs in that same U-Net, which rounds batches of other sizes otherwise
(tests/samplers/test_stream.py has the equality to the last bit); the share of a still video that is skipped, which says no more than how often a frame
is processed whatever it shows; and where residual guidance does not serve: with the strength of full guidance it overshoots, and with the edited frame
itself as anchor it keeps less of the gain.
"""
import math
import time

import torch
from torch import Tensor

from rheos.core import Draws
from rheos.data import digits_mixture, load
from rheos.guidance import ResidualCFG, classifier_free
from rheos.models import train
from rheos.nets import UNet
from rheos.papers import Check, Scale, bars, fixture
from rheos.paths import ExactField, Field, Path, Times
from rheos.samplers import DDIM, LCM, SimilarityFilter, StreamBatch, sample

THROUGHPUT_AT_LEAST = 1.2       # of a stream of 4 levels over one request after another
GAIN_AT_LEAST = 0.5             # share of full guidance's gain in p(class) that residual guidance keeps, with 5 calls instead of 8
NEARER_AT_MOST = 1.0            # its distance to full guidance's samples over that of samples without guidance
SKIPPED_AT_LEAST = 0.8          # of 200 frames that are all alike
OFF_THE_LAW_AT_MOST = 3.0       # standard errors between the share of frames skipped and the paper's law
APART_AT_MOST = 1e-4            # of a stream's samples from those of separate runs, float32, data of variance 1

GUIDANCE, RESIDUAL, CLASSES = 2.0, 1.25, (3, 8)
PATH, LEVELS = Path.vp(), (0.6, 0.7, 0.8, 0.9, 1.0)


def network() -> UNet:
    with Draws(0).scope(0):
        return UNet((1, 8, 8), widths=(16, 32), depth=1)


def trained(steps: int) -> dict[str, Tensor]:
    """Weights of a network that predicts the noise on digits."""
    net = network()
    train(load("digits"), net, path=PATH, predicts="noise", condition="none", steps=steps, batch=64, seed=0, device="cpu")
    return net.state_dict()


def stirred(seed: int) -> dict[str, Tensor]:
    """Weights of no training with which the network answers something: they show that everything runs."""
    return {name: value + 0.1 * Draws(seed).rows(name, 0, value.shape) for name, value in network().state_dict().items()}


def throughput(weights: dict[str, Tensor], seed: int, frames: int) -> tuple[float, float, float]:
    """(faster, same, apart): CPU seconds of one request after another over those of a stream, and over those of one after another again, interleaved,
    medians of nine ratios; and the largest difference between a stream's samples and those of separate runs."""
    net = network()
    net.load_state_dict(weights)
    field, times = Field(net.eval().requires_grad_(False), PATH, "noise"), Times(PATH, LEVELS)
    x1 = load("digits").x
    x1 = (x1 - x1.mean()) / x1.std()
    x1 = x1[Draws(seed).integers("frames", 0, (frames,), len(x1))]
    starts = PATH.sample(x1, times.t[:1].expand(frames), seed=seed).x
    one = lambda number: sample(field, start=starts[number : number + 1], times=times, rule=LCM(), first=number)

    def alone() -> float:
        begun = time.process_time()
        for number in range(frames):
            one(number)
        return time.process_time() - begun

    def streamed() -> float:
        stream = StreamBatch(field, times, LCM())
        for x in starts[: stream.levels]:           # full before the clock starts, as it is from then on
            stream.push(x)
        begun = time.process_time()
        for x in starts:
            stream.push(x)
        return time.process_time() - begun

    seconds = torch.tensor([[alone(), streamed(), alone()] for _ in range(9)])
    faster, same = (seconds[:, :1] / seconds[:, 1:]).median(0).values.tolist()
    stream = StreamBatch(field, times, LCM())
    found = torch.stack([x for x in [*map(stream.push, starts), *stream.drain()] if x is not None])
    return faster, same, float((found - torch.cat([one(number) for number in range(frames)])).abs().max())


def off_the_law(seed: int, frames: int) -> tuple[float, float]:
    """Standard errors between 1/4 and the share of frames skipped, of the filter and of one that skips all frames above its threshold.

    The cosine of a frame and the last one processed is uniform in [0.96, 1], whatever was skipped before: half of the frames are above the threshold
    0.98, and of these the law, which rises evenly from 0 to 1 there, skips half.
    """
    digits, draws = load("digits").x.double().flatten(1), Draws(seed)
    cosines = 0.96 + 0.04 * draws.uniform("cosines", 0, (frames,), dtype=torch.float64)
    others = digits[draws.integers("others", 0, (frames,), len(digits))]
    law, hard = SimilarityFilter(lambda frame: frame, threshold=0.98, longest=frames, seed=seed), 0
    kept = digits[0]
    law(kept)
    for cosine, other in zip(cosines, others, strict=True):
        at = lambda last, c=cosine, x=other: _towards(last, x, c)
        law(at(law.state.frame))
        frame = at(kept)
        if torch.cosine_similarity(frame, kept, dim=0) > 0.98:
            hard += 1
        else:
            kept = frame
    errors = lambda skipped: abs(skipped / frames - 0.25) / math.sqrt(0.25 * 0.75 / frames)
    return errors(law.state.skipped), errors(hard)


def _towards(frame: Tensor, other: Tensor, cosine: Tensor) -> Tensor:
    """`frame` turned towards `other`, as long as it was, by the angle of this cosine; by a turn of its pixels where the two are one."""
    away = other - frame * (other @ frame) / (frame @ frame)
    if float(away.norm()) < 1e-6:
        away = frame.roll(1) - frame * (frame.roll(1) @ frame) / (frame @ frame)
    return cosine * frame + (1 - cosine**2).sqrt() * away * frame.norm() / away.norm()


class Edited:
    """Digits noised to the first level and carried on as another class, with full, residual and no guidance, all with the same noise."""

    def __init__(self, label: int, rows: int, seed: int):
        self.mixture = digits_mixture(16, 0.6)
        self.field, self.times, self.seed = ExactField(PATH, self.mixture), Times(PATH, LEVELS), seed
        self.frames = self.mixture.sample(rows, seed=seed)
        self.start = PATH.sample(self.frames, self.times.t[:1].expand(rows), seed=seed).x
        self.labels = torch.full((rows,), label)

    def run(self, field: Field, cond) -> Tensor:
        return sample(field, start=self.start, times=self.times, rule=DDIM(), cond=cond)

    def full(self) -> Tensor:
        return self.run(classifier_free(self.field, GUIDANCE), self.labels)

    def plain(self) -> Tensor:
        return self.run(self.field, self.labels)

    def onetime(self, scale: float = RESIDUAL) -> Tensor:
        guided = ResidualCFG(self.field, scale)
        return self.run(guided, guided.onetime_negative(self.labels, self.start, LEVELS[0]))

    def own(self) -> Tensor:
        guided = ResidualCFG(self.field, RESIDUAL)
        return self.run(guided, guided.self_negative(self.labels, self.frames))

    def share(self, x: Tensor) -> float:
        """The mean posterior probability of the class."""
        return float((self.field.log_prob(x, 1.0, self.labels) - self.field.log_prob(x, 1.0)).exp().mean())


def claim(*, seed: int = 0, scale: Scale = Scale.FULL) -> list[Check]:
    full = scale is Scale.FULL
    weights = dict(fixture("digits-stream-unet", trained, steps=400).tensors) if full else stirred(seed)
    faster, same, apart = throughput(weights, seed, 24 if full else 2)
    law, hard = off_the_law(seed, 4000 if full else 200)
    still, frame = SimilarityFilter(lambda frame: frame, seed=seed), load("digits").x[0]
    for _ in range(200):
        still(frame)
    checks = [
        Check("images for the CPU time of one after another, U-Net of digits, 4 levels", faster, ">=", THROUGHPUT_AT_LEAST, control=same),
        Check("largest difference of these images to those of separate runs", apart, "<=", APART_AT_MOST, control=None, core=False),
        # Without chance: skipped is whatever is above the threshold.
        Check("share of frames skipped off the law, standard errors", law, "<=", OFF_THE_LAW_AT_MOST, control=hard),
        Check("share of 200 frames skipped, a still video", still.state.skipped / 200, ">=", SKIPPED_AT_LEAST, control=None, core=False),
    ]
    return checks + [row for label in CLASSES for row in edited(label, 512 if full else 32, seed)]


def edited(label: int, rows: int, seed: int) -> list[Check]:
    """How much of full guidance's gain in the class's probability is kept, and how near its samples are."""
    edit, other = Edited(label, rows, seed), Edited(label, rows, seed + 1000)
    guided, plain = edit.full(), edit.plain()
    gain = lambda x, by=edit: (by.share(x) - edit.share(plain)) / (edit.share(guided) - edit.share(plain))
    distance = lambda x: float((x - guided).square().mean(1).sqrt().median())
    report = lambda name, value, relation, threshold: Check(name, value, relation, threshold, control=None, core=False)
    return [
        # Without the residual noise: the conditional field alone, on other frames so that it is measured.
        Check(f"gain of full guidance kept in 5 calls instead of 8, into {label}s", gain(edit.onetime()), ">=", GAIN_AT_LEAST,
              control=gain(other.plain(), other)),
        report(f"distance to full guidance's samples over that without guidance, into {label}s", distance(edit.onetime()) / distance(plain), "<=",
               NEARER_AT_MOST),
        report(f"the same with the strength of full guidance, into {label}s", distance(edit.onetime(GUIDANCE)) / distance(plain), "<=", NEARER_AT_MOST),
        report(f"gain kept with the frame itself as anchor, 4 calls, into {label}s", gain(edit.own()), ">=", GAIN_AT_LEAST),
    ]


def plot(ax, checks: list[Check]):
    """Ratios, with each idea and without."""
    return bars(ax, checks, ["throughput", "off the law", *(f"into {label}s" for label in CLASSES)], method="StreamDiffusion")
