"""Minority guidance (Um, Lee and Ye, Don't play favorites: minority guidance for diffusion models, 2023, arXiv:2301.12334).

Claim: what lies where data are thin is carried far by one shot of noise and denoising, and guiding by a classifier of that distance's quantiles draws
such samples more often, without leaving the data. Here: a plane mixture of .9 and .1 with its exact field, where the score should tell the rare side;
and real digits (16 principal components) of which all but 5 % of the eights are taken away, with the exact field of what is left, one Gaussian a class.
Controls: too little noise for the score, and bins of a score that means nothing. The paper has faces, bedrooms and medical images, LPIPS for the
distance, and 100 bins; here the squared distance and 10.

On the digits the data are noised to alpha = 0.63. With more noise, as of the default time, eights are not rare by this score: they are near the mean,
where every digit is carried. A supporting row shows that.
"""
import math

import torch
from torch import Tensor

from rheos.core import Draws
from rheos.data import GaussianMixture, load
from rheos.guidance import MinorityGuidance, minority_score
from rheos.papers import Check, Scale, bars, digits_flow_teacher
from rheos.paths import ExactField, Path
from rheos.samplers import sample

# From rheos' specification, written before the run.
AREA_AT_LEAST = 0.99            # under the curve of the score for the rare side
SHARE_RATIO_AT_LEAST = 3.0      # eights among guided samples over those among others
OUTLIER_RATIO_AT_LEAST = 1.0    # mean local outlier factor over the unguided samples'

PATH = Path.vp()
NOISED, TOO_LITTLE = (0.6, 0.5, 0.4), 0.7       # 1 - t of the specification
RARE, KEPT, TIME, SCALE = 8, 0.05, 0.7, 3.5
F64 = torch.float64
PLANE = GaussianMixture(torch.tensor([0.9, 0.1], dtype=F64), torch.tensor([[-2.0, 0.0], [2.0, 0.0]], dtype=F64), torch.tensor([0.09, 0.09], dtype=F64),
                        torch.tensor([0, 1]))


def area(score: Tensor, rare: Tensor) -> float:
    """The chance that a rare datum scores higher than a common one."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(rare.numpy(), score.numpy()))


def outlier_factor(x: Tensor, data: Tensor) -> float:
    """The mean local outlier factor of x among the data, 20 neighbours."""
    from sklearn.neighbors import LocalOutlierFactor

    return float(-LocalOutlierFactor(n_neighbors=20, novelty=True).fit(data.flatten(1).double().numpy()).score_samples(x.flatten(1).double().numpy()).mean())


class Digits:
    """The digits on 16 axes, the mixture of all of them as the judge, and what is left when the rare class is thinned."""

    def __init__(self, seed: int):
        data = load("digits")
        x, y = torch.cat([data.x, data.held_out.x]).double().flatten(1), torch.cat([data.y, data.held_out.y])
        x = x - x.mean(0)
        x = x @ torch.linalg.svd(x, full_matrices=False)[2][:16].T
        self.x, self.judge = x / x.std(), GaussianMixture.fit(x / x.std(), y, ridge=0.1)
        rare = (y == RARE).nonzero()[:, 0]
        kept = rare[Draws(seed).permutation("eights kept", 0, len(rare))[: round(KEPT * len(rare))]]
        rows = torch.cat([(y != RARE).nonzero()[:, 0], kept])
        self.thinned, self.labels = self.x[rows], y[rows]
        self.field = ExactField(PATH, GaussianMixture.fit(self.thinned, self.labels, ridge=0.1))

    def share(self, x: Tensor) -> float:
        """How many of x are eights, by the exact posterior."""
        joint = torch.stack([self.judge.given(k).log_prob(x) + math.log(float(self.judge.weights[k])) for k in range(10)], 1)
        return float((joint.argmax(1) == RARE).double().mean())


def claim(*, seed: int = 0, scale: Scale = Scale.FULL) -> list[Check]:
    full = scale is Scale.FULL
    x, side = PLANE.sample_with_labels(2000 if full else 200, seed=seed)
    plane = lambda t: area(minority_score(ExactField(PATH, PLANE), x, t, seed=seed), side)
    report = lambda name, value, relation, threshold: Check(name, value, relation, threshold, control=None, core=False)

    digits, steps, n = Digits(seed), 1500 if full else 5, 1000 if full else 50
    fit = lambda **settings: MinorityGuidance.fit(digits.field, digits.thinned.float(), t=TIME, steps=steps, seed=seed, **settings)
    # A score that means nothing, by the same road: what stands behind the third decimal of a datum's sum.
    lots = lambda x, other: (1000 * x.sum(1)).frac().abs()
    guidance, blind = fit(), fit(distance=lots)
    draw = lambda field, n=n: sample(field, n, shape=(16,), steps=50 if full else 5, seed=seed).double()
    plain, rare, common = draw(digits.field, 4 * n), draw(guidance.field(-1, SCALE)), draw(guidance.field(0, SCALE))
    without = max(digits.share(plain), 1 / len(plain))
    usual = outlier_factor(plain[:n], digits.thinned)
    eights = digits.labels == RARE
    rank = lambda t: area(minority_score(digits.field, digits.thinned, t, seed=seed), eights)
    checks = [
        Check("plane mixture: smallest area under the curve of the score, t = 0.4 to 0.6", min(plane(t) for t in NOISED), ">=", AREA_AT_LEAST,
              control=plane(TOO_LITTLE)),
        Check("digits: share of eights among guided samples over the unguided share", digits.share(rare) / without, ">=", SHARE_RATIO_AT_LEAST,
              control=digits.share(draw(blind.field(-1, SCALE))) / without),
        # Guiding to any bin raises it a little, to the commonest too: it tells the paper's point only beside the next row.
        report("digits: mean local outlier factor over unguided samples'", outlier_factor(rare, digits.thinned) / usual, ">=", OUTLIER_RATIO_AT_LEAST),
        report("digits: the same of the commonest bin", outlier_factor(common, digits.thinned) / usual, ">=", OUTLIER_RATIO_AT_LEAST),
        report("digits: share of eights, guided", digits.share(rare), ">=", 0.0),
        report("digits: mean log-density of guided samples under all digits, above the 1 % quantile of real ones",
               float(digits.judge.log_prob(rare).mean() - torch.quantile(digits.judge.log_prob(digits.x), 0.01)), ">=", 0.0),
        report("digits: area under the curve of the score for eights, alpha = 0.63", rank(TIME), ">=", 0.5),
        report("digits: the same at the default time, alpha = 0.35", rank(float(PATH.time_at(-1.0))), ">=", 0.5),
    ]
    return checks + (trained(seed) if full else [])


def trained(seed: int) -> list[Check]:
    """A network trained on all digits, told no class: are samples of the rarest bin rarer, and those of the commonest commoner?"""
    model, data = digits_flow_teacher(), load("digits")
    inner, x = model.field, model.transform.forward(data.x).double()
    guidance = MinorityGuidance.fit(inner, x, steps=600, seed=seed)
    draw = lambda field: sample(field, 300, shape=(1, 8, 8), steps=30, seed=seed)
    usual = outlier_factor(draw(inner), x)
    score = lambda y: float(minority_score(inner, y, seed=seed + 1).mean())
    of_data = score(x)
    row = lambda name, value, threshold: Check(f"network trained on digits: {name}", value, ">=", threshold, control=None, core=False)
    rare, common = (draw(guidance.field(bin, 2.0)) for bin in (-1, 0))
    return [row("mean local outlier factor of the rarest bin over unguided", outlier_factor(rare, x) / usual, OUTLIER_RATIO_AT_LEAST),
            row("mean local outlier factor of the commonest bin over unguided", outlier_factor(common, x) / usual, OUTLIER_RATIO_AT_LEAST),
            row("mean score of the rarest bin over the data's", score(rare) / of_data, 1.0),
            row("mean score of the commonest bin over the data's", score(common) / of_data, 1.0)]


def plot(ax, checks: list[Check]):
    """What the score tells, and what guidance by it changes."""
    return bars(ax, checks, ["area", "eights"], method="minority guidance")
