"""StreamDiffusion (Kodaira et al., StreamDiffusion: a pipeline-level solution for real-time interactive generation, 2023, arXiv:2312.12491).

Claim: requests at different levels of noise share one network call (stream batch), which gives more images a second at the same numbers; guidance's second
evaluation can be replaced by one made once (residual guidance); frames that hardly change can be skipped (similarity filter). Here, in place of a
distilled latent model on a GPU: throughput in CPU time of one thread, of a U-Net on 16 x 16 frames; residual guidance on the exact field of real digits,
edited into threes and eights from 4 levels, against full guidance of strength 2; the filter on a still video. The paper has 91 frames a second.

That a stream gives exactly the numbers of separate runs is a test (tests/samplers/test_stream.py). Supporting rows show where residual guidance does
not serve: with the strength of full guidance it overshoots, and with the edited frame itself as anchor it keeps less of the gain.
"""
import time

import torch
from torch import Tensor

from rheos.core import Draws
from rheos.data import digits_mixture
from rheos.guidance import ResidualCFG, classifier_free
from rheos.nets import UNet
from rheos.papers import Check, Scale, bars
from rheos.paths import ExactField, Field, Path, Times
from rheos.samplers import DDIM, LCM, SimilarityFilter, StreamBatch, sample

THROUGHPUT_AT_LEAST = 1.2       # of a stream of 4 levels over one request after another
GAIN_AT_LEAST = 0.5             # share of full guidance's gain in p(class) that residual guidance keeps, with 5 calls instead of 8
NEARER_AT_MOST = 1.0            # its distance to full guidance's samples over that of samples without guidance
SKIPPED_AT_LEAST = 0.8          # of 200 frames that are all alike

GUIDANCE, RESIDUAL, CLASSES = 2.0, 1.25, (3, 8)
PATH, LEVELS = Path.vp(), (0.6, 0.7, 0.8, 0.9, 1.0)


def throughput(seed: int, frames: int) -> tuple[float, float]:
    """CPU seconds of one request after another over those of a stream, and over those of one after another again; interleaved, medians of nine
    ratios."""
    with Draws(seed).scope(0):
        net = UNet((1, 16, 16), widths=(32, 64), depth=1)
    field, times = Field(net, PATH, "noise"), Times(PATH, LEVELS)
    starts = Draws(seed).rows("frames", 0, (frames, 1, 16, 16))

    def alone() -> float:
        begun = time.process_time()
        for number in range(frames):
            sample(field, start=starts[number : number + 1], times=times, rule=LCM(), first=number)
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
    return faster, same


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
    faster, same = throughput(seed, 24 if full else 2)
    still, moving = (SimilarityFilter(lambda frame: frame, seed=seed) for _ in range(2))
    frame, cuts = Draws(seed).rows("frame", 0, (1, 16, 16)), Draws(seed).rows("cuts", 0, (200, 1, 16, 16))
    for other in cuts:
        still(frame)
        moving(other)
    checks = [
        Check("images for the CPU time of one after another, U-Net on 16 x 16, 4 levels", faster, ">=", THROUGHPUT_AT_LEAST, control=same),
        Check("share of 200 frames skipped, a still video", still.state.skipped / 200, ">=", SKIPPED_AT_LEAST, control=moving.state.skipped / 200),
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
    return bars(ax, checks, ["throughput", "skipped", *(f"into {label}s" for label in CLASSES)], method="StreamDiffusion")
