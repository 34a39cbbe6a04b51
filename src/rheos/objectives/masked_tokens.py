"""Losses of masked tokens: four ways to write one bound on the log-likelihood of a row, and the bound itself.

-log p(x) <= integral over lambda in (0, 1) of 1/lambda E[sum over hidden i of -log c(x_i | shown)], every token hidden with chance lambda
          =  L E_k[1/k E[sum over hidden i of -log c(x_i | shown)]],  exactly k of L hidden, k uniform on 1..L
          =  the expected -log-likelihood of filling the row token by token in a random order

Paper: Ou et al., 2024, arXiv:2406.03736, equations for t-DSE ("score"), t-DCE ("time"), lambda-DCE ("mask_rate") and k-DCE ("count"). Ours: one
number a row is drawn, from cells of equal size, and time runs from 0 (all hidden) to 1 (data).
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from rheos.core import Draws, checks
from rheos.couplings import Pair
from rheos.nets import keep_condition
from rheos.objectives.matching import Loss, _Adding
from rheos.objectives.when import Stratified, TimeLaw
from rheos.paths.asking import cut, evaluating, spread
from rheos.paths.masked import MaskedPath
from rheos.paths.masked_field import MaskedField

__all__ = ["FORMS", "MaskedTokens", "nll_bound"]

FORMS = ("count", "mask_rate", "time", "score")


@dataclass(frozen=True, eq=False)
class MaskedTokens(_Adding):
    """The bound on -log p(x1) in nats a token, estimated with one masking of each row of a minibatch and averaged over it.

    path: hides tokens. form: what is averaged over. "count": how many tokens are hidden, 1..L (least variance, so the default); "mask_rate":
    the chance of being hidden; "time": t, weighted by alpha'(t) / (1 - alpha(t)); "score": t again, by the score entropy of arXiv:2310.16834,
    which for normalised conditionals has the same value. With path.eps > 0 times leave out chances above 1 - eps.
    when: the law of the uniform number behind each. drop_condition: the chance with which a row's condition is left out.

    `pair.x1` is (batch, length) int64, `net` as in `MaskedField`.
    """

    path: MaskedPath
    form: str = "count"
    when: TimeLaw = Stratified()
    drop_condition: float = 0.0

    def __post_init__(self):
        if not isinstance(self.path, MaskedPath):
            raise TypeError(f"path must be a MaskedPath, got {type(self.path).__name__}")
        checks.one_of("form", self.form, FORMS)
        checks.between("drop_condition", self.drop_condition, 0.0, 1.0)
        if isinstance(self.when, type) or not callable(getattr(self.when, "sample", None)) or hasattr(self.when, "place"):
            raise TypeError(f"when must be a law of numbers in (0, 1) such as Stratified(), got {self.when!r}")

    def __call__(self, net: Callable, pair: Pair, *, seed: int | Draws = 0, step: int = 0) -> Loss:
        """The loss of `net` on minibatch `pair`; what is hidden, and dropped conditions, are functions of (seed, step)."""
        draws, x1, cond = Draws.of(seed), pair.x1, pair.cond
        u = self.when.sample(len(x1), seed=draws, step=step, device=x1.device, dtype=torch.float64)
        if self.drop_condition and cond is not None:
            cond = keep_condition(cond, draws.uniform("kept condition", step, (len(x1),), device=x1.device, ahead=True) >= self.drop_condition)
        x, t, weight = hidden_by(self.path, self.form, x1, u, seed=draws, step=step)
        logits = net(x, t.float(), cond)
        errors = row_bound(self.path, self.form, logits, x1, x, weight) / x1.shape[1]
        return Loss(errors.mean(), errors)


def hidden_by(path: MaskedPath, form: str, x1: Int64[Tensor, "rows length"], u: Float[Tensor, " rows"], *, seed: int | Draws = 0, step: int = 0,
              first: int = 0) -> tuple[Int64[Tensor, "rows length"], Float[Tensor, " rows"], Float[Tensor, " rows"]]:
    """(x, t, weight): rows with tokens hidden as the uniform numbers u say, the times of that, and by how much the sum over hidden tokens counts."""
    length = x1.shape[1]
    if form == "count":
        k = (u * length).long().clamp(max=length - 1) + 1
        return path.corrupt_exactly(x1, k, seed=seed, step=step, first=first), path.time_at(1 - k / length), length / k.double()
    # A chance lambda of being hidden is a time, and the other way round; what is integrated over differs by the weight alone.
    t = path.time_at(1 - u) if form == "mask_rate" else u
    if form == "mask_rate":
        draw = Draws.of(seed).uniform("mask", step, tuple(x1.shape), first=first, device=x1.device, dtype=torch.float64)
        return torch.where(draw < u[:, None], path.mask, path.checked("x1", x1, hidden=False)), t, 1 / u
    return path.corrupt(x1, t, seed=seed, step=step, first=first), t, (1 - path.eps) / (1 - path.alpha(t))


def row_bound(path: MaskedPath, form: str, logits: Tensor, x1: Int64[Tensor, "rows length"], x: Int64[Tensor, "rows length"],
              weight: Float[Tensor, " rows"]) -> Float[Tensor, " rows"]:
    """weight times the sum over hidden tokens of -log c(x1_i), nats a row; for "score" of the score entropy, term by term."""
    if logits.shape[:-1] != x1.shape:
        raise ValueError(f"net must return logits of shape {(*x1.shape, path.mask)}, got {tuple(logits.shape)}")
    hidden = x == path.mask
    if path.length is None:             # what is shown is never asked for: leave it out before the costly normalisation
        logp = path.log_probabilities(logits[hidden][None])[0]
    else:
        logp = path.log_probabilities(logits)[hidden]
    each = -logp.gather(-1, x1[hidden][:, None])[:, 0]
    if form == "score":
        # With s_v = w c_v, w = alpha / (1 - alpha), and ratio w at the true token alone: sum_v s_v - w log s_true + w (log w - 1), over w.
        # The logarithms of w cancel between the last two, and the first less w is what the conditionals lack of 1.
        each = each + logp.exp().sum(-1) - 1
    total = torch.zeros(x.shape, dtype=each.dtype, device=each.device).masked_scatter(hidden, each).sum(1)
    return weight.to(total) * total


@torch.no_grad()
def nll_bound(field: MaskedField, x1: Int64[Tensor, "rows length"], cond: Any = None, *, form: str = "count", repeats: int = 1,
              seed: int | Draws = 0, batch: int = 256) -> Float[Tensor, " rows"]:
    """An unbiased estimate of the bound on -log p(x1), nats a token, of each row; the mean over rows is the bound of the set.

    repeats: maskings of a row, one in each of so many cells of equal size. form: see `MaskedTokens`; all have one expectation.
    seed: row by row; the same numbers however `batch` splits the rows. ValueError for ids out of range, the mask among them.
    """
    checks.one_of("form", form, FORMS)
    repeats, batch, path, draws = checks.integer("repeats", repeats, least=1), checks.integer("batch", batch, least=1), field.path, Draws.of(seed)
    path.checked("x1", x1, hidden=False)
    cond = spread(cond, len(x1), x1.device)
    parts = []
    with evaluating(field.net):
        for first in range(0, len(x1), batch):
            rows = x1[first : first + batch]
            total = torch.zeros(len(rows), dtype=torch.float64, device=x1.device)
            for r in range(repeats):
                u = (draws.uniform("place of the bound", r, (len(rows),), first=first, device=x1.device, dtype=torch.float64) + r) / repeats
                x, t, weight = hidden_by(path, form, rows, u, seed=draws, step=r, first=first)
                total += row_bound(path, form, field(x, cut(cond, first, len(rows)), t), rows, x, weight).double()
            parts.append(total / (repeats * x1.shape[1]))
    return torch.cat(parts)
