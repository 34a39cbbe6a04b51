"""Fields known in closed form: Gaussian mixtures and finite data sets on any affine Gaussian path. The oracle of tests and claims.

Given component k, x_t is Gaussian with mean m = a m0 + b m1 and covariance S = a^2 S0 + b^2 S1 + c^2 I. With q = S^-1 (x - m) and the
posterior weights w of the components, E[z | x] = c sum w q, E[x1 | x] = sum w (m1 + b S1 q), and the score is -sum w q.
Under Student noise of D degrees of freedom the weights of the points y of a finite data set in N dimensions are proportional to
(1 + |x - b y|^2 / (c^2 D))^{-(N + D) / 2}, and there is no score.
"""
from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from rheos.data import GaussianMixture
from rheos.paths.field import Field
from rheos.paths.noise import Student
from rheos.paths.path import Path
from rheos.paths.schedules import Coefficients

__all__ = ["ExactField"]

_CHUNK_NUMBERS = 1 << 26


class ExactField(Field):
    """The exact field of a target (and, for two-sided paths, of a source) that are Gaussian mixtures.

    target: `GaussianMixture`; a data set is `GaussianMixture.points(x, y)`. cond: labels (batch,), which select the components of that
        label; -1 or None stands for all.
    Two-sided paths need mixtures with isotropic or diagonal covariances: those of source and target must share their axes. Paths with a
    basis need isotropic ones, and Student noise needs points (variance 0). ValueError where that is not so.
    """

    def __init__(self, path: Path, target: GaussianMixture, source: GaussianMixture | None = None):
        if path.two_sided != (source is not None):
            raise ValueError("source must be given for a two-sided path" if path.two_sided else "source was given, but a one-sided path begins at noise")
        if source is not None:
            if source.event != target.event:
                raise ValueError(f"source must have the event shape of target, {target.event}, got {source.event}")
            if target.eigen()[1] is not None or source.eigen()[1] is not None:
                raise ValueError("two-sided exact fields need isotropic or diagonal covariances, got full ones")
        for law in (target, source) if path.basis is not None else ():
            if law is not None and law.covariance.ndim > 1:
                raise ValueError("target and source must have isotropic covariances on a path with a basis, got others")
        if not path.noise.gaussian:
            if not isinstance(path.noise, Student):
                raise ValueError(f"the exact field is known under Gaussian and Student noise, this path has {path.noise}")
            if path.two_sided or bool((target.eigen()[0] > 0).any()):
                raise ValueError("Student noise has a closed field for points on one-sided paths only: use GaussianMixture.points(x) with std 0")
        self.target, self.source = target, source
        super().__init__(self._cannot, path, ("velocity", "data", "noise", "score") if path.noise.gaussian else ("velocity", "data", "noise"))
        weights = target.weights
        self._means = self._turn(target.means)
        self._spread, self._axes = target.eigen()
        self._log_weights = weights.log()
        # One variance for all components and coordinates.
        self._alike = source is None and self._axes is None and bool((self._spread == self._spread.flatten()[0]).all())
        if self._axes is not None:      # means in each component's own axes
            self._turned = torch.einsum("ki,kij->kj", self._means, self._axes)
        if source is not None:
            # One component for each pair (source i, target j), source index running slowest.
            pairs = len(source.weights)
            self._log_weights = (source.weights.log()[:, None] + self._log_weights).reshape(-1)
            self._source_means = self._turn(source.means).repeat_interleave(len(weights), 0)
            self._source_spread = source.eigen()[0].repeat_interleave(len(weights), 0)
            self._means, self._spread = self._means.repeat(pairs, 1), self._spread.repeat(pairs, 1)

    def _turn(self, x: Tensor) -> Tensor:
        """Events as rows (n, d), in the path's basis."""
        return (x if self.path.basis is None else self.path.basis.forward(x)).reshape(len(x), -1)

    @staticmethod
    def _cannot(*_: Any) -> Tensor:
        raise NotImplementedError("an exact field has no network")

    @property
    def event(self) -> tuple[int, ...]:
        return tuple(self.target.event)

    @property
    def like(self) -> Tensor:
        return torch.empty(0, dtype=self._means.dtype, device=self._means.device)

    def log_prob(self, x: Float[Tensor, "batch *event"], t: Tensor | float, cond: Tensor | None = None) -> Float[Tensor, " batch"]:
        """The log density of x_t at x, in nats, (batch,). ValueError under Student noise at a time without noise."""
        t = torch.as_tensor(t, dtype=torch.float64)
        return self._posterior(self._turn(x), self.path.coefficients(t[None] if t.ndim == 0 else t), cond)[0]

    def _ask(self, x: Tensor, t: Tensor, cond: Any, at: Coefficients) -> dict[str, Tensor]:
        self.nfe += 1
        if tuple(x.shape[1:]) != self.event:
            raise ValueError(f"x must have event shape {self.event}, got {tuple(x.shape[1:])}")
        flat = self._turn(x)
        rows = max(1, _CHUNK_NUMBERS // max(1, len(self._means) * flat.shape[1]))
        parts = []
        for begin in range(0, max(len(flat), 1), rows):
            cut = slice(begin, begin + rows)
            here = Coefficients(*(v[cut] if isinstance(v, Tensor) and v.ndim and len(v) == len(flat) else v for v in at))
            parts.append(self._posterior(flat[cut], here, None if cond is None else cond[cut])[1])
        whole = {kind: torch.cat([p[kind] for p in parts]).reshape(x.shape) for kind in parts[0]}
        return whole if self.path.basis is None else {kind: self.path.basis.inverse(v) for kind, v in whole.items()}

    def _posterior(self, x: Tensor, at: Coefficients, cond: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """(log density (batch,), kinds): x is (batch, d)."""
        a, b, c, da, db, _, cdc = (self._rows(v, x) for v in at)
        mean, spread = self._means.to(x), self._spread.to(x)
        if not self.path.noise.gaussian:
            return self._student(x, at, b, c, db, cdc, cond)
        if self._alike and (gaps := self._gaps(x, b, c)) is not None:
            return self._isotropic(x, gaps, b, c, db, cdc, cond)
        wide = lambda v: v[:, None, :] if isinstance(v, Tensor) else v
        variance = wide(b) ** 2 * spread + wide(c) ** 2
        if self.source is not None:
            source_mean, source_spread = self._source_means.to(x), self._source_spread.to(x)
            variance = variance + wide(a) ** 2 * source_spread
            rest = x[:, None, :] - wide(a) * source_mean - wide(b) * mean
        elif self._axes is not None:
            rest = torch.einsum("ni,kij->nkj", x, self._axes.to(x)) - wide(b) * self._turned.to(x)
        else:
            rest = x[:, None, :] - wide(b) * mean
        if bool((variance == 0).any()):
            raise ValueError("a finite data set has no density where no noise is left (t = 1); end the times a little before")
        q = rest / variance
        logits = self._log_weights.to(x) - 0.5 * ((rest * q).sum(-1) + variance.log().sum(-1))
        if cond is not None:
            logits = logits.masked_fill(self._hidden(cond, len(x)), -math.inf)
        w = torch.softmax(logits, -1)
        log_prob = torch.logsumexp(logits, -1) - 0.5 * x.shape[1] * math.log(2 * math.pi)
        pull, turned_gain = q, spread * q
        if self._axes is not None:
            axes = self._axes.to(x)
            pull = torch.einsum("nkj,kij->nki", q, axes)
            turned_gain = torch.einsum("nkj,kij->nki", turned_gain, axes)
        score = -(w[:, :, None] * pull).sum(1)
        data = w @ mean + b * (w[:, :, None] * turned_gain).sum(1)
        kinds = {"data": data, "score": score, "noise": -c * score, "velocity": db * data - cdc * score}
        if self.source is not None:
            kinds["source"] = w @ source_mean + a * (w[:, :, None] * source_spread * q).sum(1)
            kinds["velocity"] = kinds["velocity"] + da * kinds["source"]
        return log_prob, kinds

    def _rows(self, value: Any, x: Tensor) -> Tensor | float:
        """A coefficient as a float, (batch, 1), or (batch or 1, d) where it differs by coordinate."""
        if not isinstance(value, Tensor) or not value.ndim:
            return float(value)
        value = value.to(x)
        return value[:, None] if value.ndim == 1 else value.expand(len(value), *self.event).flatten(1)

    def _gaps(self, x: Tensor, b: Any, c: Any) -> Tensor | None:
        """|x - b y|^2 for all points y by one product of matrices; None where coordinates differ, or where that would cost digits.

        The squares that are subtracted are rounded to 1e-16 of their size, so that logits of this over 2 c^2 are wrong by no more than 1e-10.
        """
        if x.dtype != torch.float64 or any(isinstance(v, Tensor) and v.shape[-1] > 1 for v in (b, c)) or not len(x):
            return None
        mean = self._means.to(x)
        sizes, reach = x.square().sum(1, keepdim=True), b * b * mean.square().sum(1)
        if not bool((torch.as_tensor(c) ** 2 > 1e-6 * (sizes.max() + torch.as_tensor(reach).max())).all()):
            return None
        return (sizes - 2 * b * (x @ mean.T) + reach).clamp_min(0)

    def _isotropic(self, x: Tensor, gaps: Tensor, b: Any, c: Any, db: Any, cdc: Any, cond: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """The same for components that share one variance: nothing is as large as points times components times coordinates."""
        spread, mean = float(self._spread.flatten()[0]), self._means.to(x)
        variance = torch.as_tensor(b * b * spread + c * c, dtype=x.dtype, device=x.device)
        logits = self._log_weights.to(x) - 0.5 * gaps / variance
        if cond is not None:
            logits = logits.masked_fill(self._hidden(cond, len(x)), -math.inf)
        nearby = torch.softmax(logits, -1) @ mean
        score = -(x - b * nearby) / variance
        data = nearby - b * spread * score
        log_prob = torch.logsumexp(logits, -1) - 0.5 * x.shape[1] * (math.log(2 * math.pi) + variance.flatten().log())
        return log_prob, {"data": data, "score": score, "noise": -c * score, "velocity": db * data - cdc * score}

    def _student(self, x: Tensor, at: Coefficients, b: Any, c: Any, db: Any, cdc: Any, cond: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """The same for points under Student noise of D degrees of freedom a coordinate c."""
        if bool((torch.as_tensor(at.c) == 0).any()):
            raise ValueError("a finite data set has no density where no noise is left (t = 1); end the times a little before")
        mean, dof, size = self._means.to(x), float(self.path.noise.dof), x.shape[1]
        gaps = self._gaps(x, b, c)
        if gaps is None:
            rest = x[:, None, :] - (b[:, None, :] if isinstance(b, Tensor) else b) * mean
            gaps = (rest / (c[:, None, :] if isinstance(c, Tensor) else c)).square().sum(-1)
        else:
            gaps = gaps / (c * c)
        far = torch.log1p(gaps / dof)
        logits = self._log_weights.to(x) - 0.5 * (size + dof) * far
        if cond is not None:
            logits = logits.masked_fill(self._hidden(cond, len(x)), -math.inf)
        w = torch.softmax(logits, -1)
        width = torch.as_tensor(c).to(x).log().expand(len(x), size).sum(1) if isinstance(c, Tensor) else size * math.log(c)
        constant = math.lgamma(0.5 * (size + dof)) - math.lgamma(0.5 * dof) - 0.5 * size * math.log(dof * math.pi)
        data = w @ mean
        pull = (x - b * data) / (c * c)
        return torch.logsumexp(logits, -1) + constant - width, {"data": data, "noise": c * pull, "velocity": db * data + cdc * pull}

    def _hidden(self, cond: Tensor, rows: int) -> Tensor:
        """(batch, components): True where a component does not carry the label asked for."""
        labels = self.target.labels
        if labels is None:
            raise ValueError("cond was given, but the target has no labels")
        if cond.shape != (rows,):
            raise ValueError(f"cond must have shape ({rows},), one label a row of x, got {tuple(cond.shape)}")
        if self.source is not None:
            labels = labels.repeat(len(self.source.weights))
        cond = cond.to(labels.device)
        unknown = (cond >= 0) & ~torch.isin(cond, labels)
        if bool(unknown.any()):
            raise ValueError(f"cond must be a label of the target or -1, got {cond[unknown][0].item()}")
        return (cond[:, None] >= 0) & (labels[None, :] != cond[:, None])
