"""Absorbing discrete diffusion as any-order models (Ou et al., Your absorbing discrete diffusion secretly models the conditional distributions of
clean data, 2024, arXiv:2406.03736).

Claim: the score of masked diffusion is a known function of time times the conditional law of a hidden token given the shown ones, which has no
time in it. So a network without time is enough; its answer stays good until a token is shown, which saves calls, n (1 - (1 - 1/n)^L) in place of n;
and four losses, over times, chances of being hidden and numbers of hidden tokens, are one. Here: WordNet's definitions in the letters a to z
and blanks, 64 at a time, and transformers of two layers of width 64 that see both ways, with a convolution over five letters before them, 600
minibatches of 64; times and the four losses on 2000 held-out rows; two pairs of twins, one of each told the time. The paper has text at the size
of GPT-2. Where `rheos data` has no glosses the text is Python's own library; rows say which. Smoke scale: the descriptions of scikit-learn's data
sets, and a network that has learned next to nothing.

The controls: calls without the cache; the loss without its weight in the place of the four; and, in the place of the network without time, one
that knows no context: the letters' frequencies.
"""
import re
from functools import partial

import torch

from rheos.core import evolve
from rheos.couplings import Independent
from rheos.data import NAMES, load
from rheos.nets import TokenTransformer
from rheos.objectives.masked_tokens import FORMS, MaskedTokens, nll_bound
from rheos.papers import Check, Scale, bars, fixture
from rheos.paths import MaskedField, MaskedPath
from rheos.samplers import MaskedAncestral, expected_calls, sample_tokens
from rheos.training import Average, Cosine, Descent

# From rheos' specification, written before the run. The paper: Table 1's calls, Figure 2's equal losses, up to 3.5 times faster sampling.
CALLS_OFF_AT_MOST = 0.03
LOSSES_APART_AT_MOST = 0.02
TIMELESS_OVER_TIMED_AT_MOST = 1.01
TOKENS_CHANGED_AT_MOST = 0.0

LETTERS, LENGTH, BATCH, STEPS = 27, 64, 64, 600
PATH = MaskedPath(LETTERS)
ROUNDS = (16, 64, 1024)


def letters(texts: list[bytes]) -> torch.Tensor:
    """The texts in small letters 1..26 and blanks 0, runs of other signs a blank; each cut to 64, shorter ones left out."""
    plain = [re.sub(rb"[^a-z]+", b" ", text.lower())[:LENGTH] for text in texts]
    rows = [list(text) for text in plain if len(text) == LENGTH]
    return (torch.tensor(rows) - ord("a") + 1).clamp_min(0)


def at_hand() -> str:
    return "glosses" if NAMES["glosses"].find() is not None else "stdlib"


def text(name: str, held_out: bool, rows: int) -> torch.Tensor:
    """Rows of ids; of windows of 96 bytes nearly all keep 64 letters."""
    data = load(name, length=96)
    part = data.held_out if held_out else data
    return letters(part.encoding.raw(part.x[: int(1.1 * rows) + 100]))[:rows]


def descriptions() -> torch.Tensor:
    from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine

    whole = b" ".join(each().DESCR.encode() for each in (load_iris, load_wine, load_breast_cancer, load_digits))
    return letters([whole[i:i + 96] for i in range(0, len(whole) - 96, 48)])


def trained(rows: torch.Tensor, timed: bool, seed: int, steps: int, width: int = 64, depth: int = 2) -> TokenTransformer:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = TokenTransformer(LENGTH, LETTERS, width=width, depth=depth, timed=timed)
    fit = Descent(MaskedTokens(PATH), Independent(rows), BATCH, partial(torch.optim.Adam, lr=1e-2, betas=(0.9, 0.99), fused=True), Cosine(steps, steps // 24),
                  Average(0.99), clip=1.0, seed=seed)
    return evolve(fit, fit.init(net), steps).averaged.eval()


def weights(source: str, timed: bool, seed: int) -> dict[str, torch.Tensor]:
    return trained(text(source, False, 76_800), timed, seed, STEPS).state_dict()


def network(name: str, timed: bool, seed: int) -> TokenTransformer:
    net = TokenTransformer(LENGTH, LETTERS, width=64, depth=2, timed=timed)
    net.load_state_dict(dict(fixture(f"masked-{name}", weights, source=name, timed=timed, seed=seed).tensors))
    return net.eval()


def claim(*, seed: int = 0, scale: Scale = Scale.FULL) -> list[Check]:
    full = scale is Scale.FULL
    if full:
        name, of = at_hand(), {"glosses": "WordNet glosses", "stdlib": "Python's library"}
        training, rows, said = text(name, False, 20_000), text(name, True, 2000), of[name]
        twins = [(network(name, False, s), network(name, True, s)) for s in (0, 1)]
    else:
        training = rows = descriptions()[:40]
        said = "descriptions of data sets"
        twins = [tuple(trained(training, timed, 0, 4, width=16, depth=1) for timed in (False, True))]
    field = lambda net: MaskedField(net, PATH)
    bound = lambda net, **how: float(nll_bound(field(net), rows, **{"seed": seed, **how}).mean())
    plain = twins[0][0]

    def off(cache: bool) -> float:
        """The largest relative distance of calls a row from what the paper expects."""
        worst, count = 0.0, (128 if full else 64) if cache else 1
        for steps in ROUNDS if full else (8, 32):
            asked = field(plain)
            sample_tokens(asked, count, rule=MaskedAncestral(steps, cache), seed=seed)
            worst = max(worst, abs(asked.rows / count / expected_calls(steps, LENGTH) - 1))
        return worst

    kept, fresh = (sample_tokens(field(plain), 8 if full else 2, rule=MaskedAncestral(256 if full else 16, cache), seed=seed) for cache in (True, False))
    repeats = 2 if full else 1
    losses = {form: bound(plain, form=form, repeats=repeats, seed=seed * 10 + i) for i, form in enumerate(FORMS)}
    apart = lambda values: (max(values) - min(values)) / min(values)
    # The weight taken away: the mean over times of the sum over hidden tokens, as a masked language model has it (up to a factor, its own at rate 1/2).
    unweighted = 2 * unweighted_loss(field(plain), rows, seed)
    told = [bound(timed) for _, timed in twins]
    # Whether the twin reads its time at all: else the comparison says little.
    timed = twins[0][1]
    stopped = MaskedField(lambda x, t, cond: timed(x, torch.full_like(t, 0.5), cond), PATH)
    told_half = float(nll_bound(stopped, rows, seed=seed).mean()) / told[0]
    frequencies = (torch.bincount(training.flatten(), minlength=LETTERS).double() + 1).log()
    contextless = float(-torch.log_softmax(frequencies, 0)[rows].mean())
    return [
        Check(f"{said}: calls a row with the cache, relative distance from n (1 - (1 - 1/n)^L), the worst n", off(True), "<=", CALLS_OFF_AT_MOST,
              control=off(False)),
        Check(f"{said}: the four losses of one network, largest over smallest less 1", apart(losses.values()), "<=", LOSSES_APART_AT_MOST,
              control=apart([*list(losses.values())[:3], unweighted])),
        Check(f"{said}: bound of the network without time over its twin's with time, the worse pair",
              max(bound(free) / one for (free, _), one in zip(twins, told, strict=True)), "<=", TIMELESS_OVER_TIMED_AT_MOST, control=contextless / min(told)),
        Check(f"{said}: bound of a network with time that is told 1/2 throughout, over the same told the time", told_half, ">=", 1.01, control=None,
              core=False),
        Check(f"{said}: tokens that the cache changes, share", float((kept != fresh).double().mean()), "<=", TOKENS_CHANGED_AT_MOST, control=None, core=False),
        Check(f"{said}: bound of the network without time, nats a letter, over the letters' own entropy", losses["count"] / contextless, "<=", 1.0,
              control=None, core=False),
    ]


@torch.no_grad()
def unweighted_loss(field: MaskedField, rows: torch.Tensor, seed: int) -> float:
    """-log c summed over hidden tokens, of rows with a random number of them, nats a token."""
    t = (torch.arange(len(rows), dtype=torch.float64) + 0.5) / len(rows)
    x = PATH.corrupt(rows, t, seed=seed)
    found = -field(x).gather(-1, rows[..., None])[..., 0]
    return float(torch.where(x == PATH.mask, found, 0.0).double().mean())


def plot(ax, checks: list[Check]):
    """Values beside their controls."""
    return bars(ax, checks, ["calls", "losses", "time"], method="as the paper says")
