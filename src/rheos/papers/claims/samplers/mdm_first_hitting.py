"""First-hitting sampling of masked diffusion (Zheng et al., Masked diffusion models are secretly time-agnostic masked models and exploit inaccurate
categorical sampling, 2024, arXiv:2409.02908).

Claim: a masked model samples exactly, without a grid of times, by asking when the next token is shown and which it is: as many calls as tokens. And
the low perplexities reported of such models come of drawing tokens by Gumbel's maximum in float32, which draws rare ones too seldom, a temperature
below 1 that nobody set. Here: a chain of eight classes of letters fitted to the words of a real text, twelve letters a row, whose conditionals are
exact; and Zipf's law over 50,257 tokens, whose law after each step of a float32 sampler is known from the 2^24 numbers that it can draw, checked
against 1e9 draws of torch.rand itself, each held against 64 of the rival's, so that the two laws differ by more than chance. The words are WordNet's;
where `rheos data` has none, those of scikit-learn's descriptions, and rows say which. Smoke scale has the latter, fewer samples, 1,000 tokens and 1e6
draws at a chance that those can see.

The controls: all tokens from one call; one call a step without a cache; float64 in float32's place; and no suppression at all.
"""
import re

import torch

from rheos.core import Draws
from rheos.data import NAMES, MarkovChain, load
from rheos.metrics import ngram_distance
from rheos.papers import Check, Scale, bars
from rheos.paths import MaskedField, MaskedPath
from rheos.samplers import FirstHitting, MaskedAncestral, categorical, predicted_token_law, sample_tokens, suppression

# From rheos' specification, written before the run; the paper: 20 times faster sampling, and entropies that fall with the number of steps.
DISTANCE_OVER_HALVES_AT_MOST = 1.3
FASTER_AT_LEAST = 8.0
ENTROPY_LOST_AT_LEAST = 0.5
ENTROPY_OFF_AT_MOST = 0.02
STANDARD_ERRORS_AT_MOST = 3.0

LENGTH, CLASSES = 12, 8
# Blanks, then letters by how they sound and how often they come: a chain of eight states has structure, and is small enough to be exact.
GROUPS = (b" ", b"aiou", b"e", b"tdn", b"srl", b"hbcfgp", b"kmvw", b"jqxyz")
STEPS_OF_TOKENS = 4096
FEW = 16           # rows on which calls are counted


def words(full: bool) -> tuple[str, torch.Tensor]:
    """(name, rows of classes of letters): the text cut into rows."""
    if full and NAMES["glosses"].find() is not None:
        data = load("glosses", length=96)
        name, whole = "WordNet's words", b" ".join(data.encoding.raw(data.x[:20_000]))
    else:
        from sklearn.datasets import load_breast_cancer, load_digits, load_wine

        name, whole = "words of descriptions", b" ".join(each().DESCR.encode() for each in (load_wine, load_breast_cancer, load_digits))
    plain = re.sub(rb"[^a-z]+", b" ", whole.lower())
    table = torch.zeros(256, dtype=torch.int64)
    for group, letters in enumerate(GROUPS):
        table[list(letters)] = group
    ids = table[torch.frombuffer(bytearray(plain), dtype=torch.uint8).long()]
    return name, ids[: len(ids) // LENGTH * LENGTH].view(-1, LENGTH)


def distance(x: torch.Tensor, y: torch.Tensor) -> float:
    """Total variation of trigrams."""
    return float(ngram_distance(*([bytes(row) for row in rows.tolist()] for rows in (x, y))))


def entropy(p: torch.Tensor) -> float:
    return float(-(p * p.log()).sum())


def claim(*, seed: int = 0, scale: Scale = Scale.FULL) -> list[Check]:
    full = scale is Scale.FULL
    name, rows = words(full)
    chain, count = MarkovChain.fit(rows, CLASSES, extra=1.0), 20_000 if full else 400
    # Uncached sampling takes one call a step whatever it draws; counted on few rows.
    field = lambda: MaskedField(chain, MaskedPath(CLASSES), (LENGTH,))
    ancestral = sample_tokens(field(), count, rule=MaskedAncestral(2000 if full else 60), seed=Draws(seed).child("ancestral"))
    halves = distance(ancestral[: count // 2], ancestral[count // 2 :])
    hitting, uncached, cached = field(), field(), field()
    over_halves = lambda rule, used: distance(sample_tokens(used, count, rule=rule, seed=Draws(seed).child(str(rule)), batch=count), ancestral) / halves
    fast = over_halves(FirstHitting(), hitting)
    for used, cache in ((uncached, False), (cached, True)):
        sample_tokens(used, FEW, rule=MaskedAncestral(200, cache), seed=seed)
    v = 50_257 if full else 1000
    zipf = 1 / torch.arange(1, v + 1, dtype=torch.float64)
    zipf /= zipf.sum()
    truth = entropy(zipf)
    lost = [truth - entropy(predicted_token_law(zipf, n)) for n in (64, 256, 1024, STEPS_OF_TOKENS)]
    exact = truth - entropy(predicted_token_law(zipf, STEPS_OF_TOKENS, torch.float64))
    falls = min(b - a for a, b in zip(lost, lost[1:], strict=False))
    split = split_entropy_gap(zipf, 2_000_000 if full else 20_000, seed)
    draws, chance = (10**9, 1e-7) if full else (10**6, 1e-5)
    won, error = wins(chance, draws, seed)
    rho = float(suppression(torch.tensor(1 / chance - 1, dtype=torch.float64)))
    away = lambda share: abs(won - share * draws * chance) / error
    on = f"Zipf, {v} tokens"
    report = lambda what, value, relation, threshold: Check(what, value, relation, threshold, control=None, core=False)
    return [
        Check(f"{name}: trigrams of first hitting against ancestral sampling, over two halves of the latter", fast, "<=", DISTANCE_OVER_HALVES_AT_MOST,
              control=over_halves(FirstHitting(LENGTH), field())),
        Check("calls of ancestral sampling in 200 steps without a cache, over first hitting's", uncached.nfe / hitting.nfe, ">=", FASTER_AT_LEAST,
              control=cached.rows / FEW / hitting.nfe),
        Check(f"{on}: entropy that a float32 sampler loses in {STEPS_OF_TOKENS} steps, nats", lost[-1], ">=", ENTROPY_LOST_AT_LEAST, control=exact),
        Check(f"{on}: entropy that a float64 sampler loses in {STEPS_OF_TOKENS} steps, nats, absolute", abs(exact), "<=", ENTROPY_OFF_AT_MOST,
              control=abs(lost[-1])),
        Check(f"{draws:.0e} draws of torch.rand at chance {chance:g}: wins against the predicted ones, standard errors", away(rho), "<=",
              STANDARD_ERRORS_AT_MOST, control=away(1.0) if full else away(0.5 * rho)),
        report(f"{on}: least fall of a float32 sampler's entropy from 64 to 256 to 1024 to 4096 steps, nats", falls, ">=", 0.0),
        report(f"{on}: entropy of tokens drawn apart from the unmasking, in float32, off the truth beyond what their number explains, nats", split, "<=",
               ENTROPY_OFF_AT_MOST),
        report("calls a row of ancestral sampling in 200 steps with a cache, over first hitting's", cached.rows / FEW / hitting.nfe, "<=", 1.0),
    ]


def split_entropy_gap(p: torch.Tensor, count: int, seed: int) -> float:
    """The mean of -log p over tokens drawn in float32, which is the entropy where they follow p, off it; less three standard errors of that mean."""
    drawn = torch.cat([categorical(p.log().expand(part, -1), seed=seed, step=k, dtype=torch.float32) if len(p) < 2000 else by_inversion(p, part, seed, k)
                       for k, part in enumerate([count // 20] * 20)])
    surprise = -p.log()[drawn]
    return max(0.0, abs(float(surprise.mean()) - entropy(p)) - 3 * float(surprise.std()) / len(drawn) ** 0.5)


def by_inversion(p: torch.Tensor, count: int, seed: int, step: int) -> torch.Tensor:
    """`categorical` of one law many times over: its float32 distribution function is summed once."""
    below = p.float().cumsum(0)
    u = Draws(seed).uniform("token", step, (count,), dtype=torch.float32) * below[-1]
    return torch.searchsorted(below, u, right=True).clamp(max=len(p) - 1)


def wins(chance: float, draws: int, seed: int) -> tuple[float, float]:
    """How often, of `draws` float32 Gumbel numbers from torch.rand, one beats that of an outcome (1 - chance) / chance times as likely, each held against
    64 of the other's and the mean taken; and the standard error of that, which is the root of the sum of squares (the number of draws that can win is
    a Poisson number)."""
    generator, odds, found, squares = Draws(seed).generator("uniform numbers"), torch.tensor(1 / chance - 1).log(), 0.0, 0.0
    # One that is this far below the odds wins against less than one in e^400 of the others: they are drawn for the rest alone.
    least = float(torch.exp(-torch.exp(-(odds - 6.0))))
    u = torch.empty(min(draws, 10**6))
    for _ in range(draws // len(u)):
        torch.rand(len(u), generator=generator, out=u)
        top = u[u >= least]
        other = torch.rand(len(top), 64, generator=generator).clamp_min(2.0**-25)
        share = (-torch.log(-torch.log(top))[:, None] > odds - torch.log(-torch.log(other))).double().mean(1)
        found, squares = found + float(share.sum()), squares + float(share.square().sum())
    return found, squares**0.5


def plot(ax, checks: list[Check]):
    """Values beside their controls."""
    return bars(ax, checks, ["trigrams", "calls", "float32", "float64", "draws"], method="as the paper says")
