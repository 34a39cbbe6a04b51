"""Mixtures of Gaussians: targets whose density, score and diffused laws are known in closed form.

p(x) = sum_k w_k N(x; m_k, C_k). A law of b x + c z with independent standard normal z is again one: b m_k, b^2 C_k + c^2 I.
"""
from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from rheos.core import Draws, checks

__all__ = ["GaussianMixture"]

_CHUNK_NUMBERS = 1 << 22        # log_prob holds at most about this many differences at a time


@dataclass(frozen=True, eq=False)
class GaussianMixture:
    """A mixture of K Gaussians over events of any shape, flattened to d numbers inside.

    weights:    (K,) positive, summing to 1.
    means:      (K, *event).
    covariance: (K,) one variance a component, (K, d) diagonals, or (K, d, d) symmetric matrices; positive semi-definite. Singular
                ones can be sampled; only `log_prob` refuses them.
    labels:     (K,) int64, the class of each component, or None. Several components may share a class.

    All floating tensors share one dtype (float64 from the constructors of this room) and one device, and results follow it.
    ValueError if shapes disagree, weights are no probabilities, or a covariance is not symmetric or not positive semi-definite.

    >>> target = GaussianMixture(torch.tensor([0.25, 0.75]), torch.tensor([[-2.0], [1.0]]), torch.tensor([1.0, 0.25]))
    >>> round(target.log_prob(torch.tensor([[1.0]])).item(), 4)            # log(.75 * .79788 + .25 * .00443)
    -0.5116
    """

    weights: Tensor
    means: Tensor
    covariance: Tensor
    labels: Tensor | None = None

    def __post_init__(self):
        weights, means = checks.tensor("weights", self.weights, floating=True), checks.tensor("means", self.means, floating=True)
        covariance = checks.tensor("covariance", self.covariance, floating=True)
        if not weights.dtype == means.dtype == covariance.dtype:
            raise ValueError(f"weights, means and covariance must share a dtype, got {weights.dtype}, {means.dtype}, {covariance.dtype}")
        if weights.ndim != 1 or len(weights) == 0:
            raise ValueError(f"weights must have shape (components,) with at least one, got {tuple(weights.shape)}")
        if means.ndim < 1 or len(means) != len(weights) or means.numel() == 0:
            raise ValueError(f"means must have shape ({len(weights)}, *event) like the weights, got {tuple(means.shape)}")
        for name, value in (("weights", weights), ("means", means), ("covariance", covariance)):
            checks.finite(name, value)
        tolerance = 8 * math.sqrt(len(weights)) * torch.finfo(weights.dtype).eps + 1e-9
        if not bool((weights > 0).all()) or abs(float(weights.double().sum()) - 1) > tolerance:
            raise ValueError(f"weights must be positive and sum to 1, got the smallest {float(weights.min()):g} and the sum {float(weights.sum()):g}")
        count, dim = self.components, self.dim
        if tuple(covariance.shape) not in {(count,), (count, dim), (count, dim, dim)}:
            raise ValueError(f"covariance must have shape ({count},), ({count}, {dim}) or ({count}, {dim}, {dim}), got {tuple(covariance.shape)}")
        if self.labels is not None:
            checks.tensor("labels", self.labels)
            if self.labels.dtype != torch.int64 or tuple(self.labels.shape) != (count,):
                raise ValueError(f"labels must be int64 of shape ({count},), got {self.labels.dtype} of shape {tuple(self.labels.shape)}")
        self._check_covariance()

    def _check_covariance(self) -> None:
        covariance = self.covariance
        if covariance.ndim == 3:
            gap = (covariance - covariance.mT).abs().amax((1, 2)) / covariance.abs().amax((1, 2)).clamp_min(torch.finfo(covariance.dtype).tiny)
            if bool((gap > 1e3 * torch.finfo(covariance.dtype).eps).any()):
                raise ValueError(f"covariance must be symmetric, component {int(gap.argmax())} is not")
            # A singular covariance that was estimated from many rows carries their rounding; below this much of the largest it is no sign.
            least = self._spectrum[0].amin(1)
            allowed = -(torch.finfo(covariance.dtype).eps ** 0.5) * self._spectrum[0].abs().amax(1)
        else:
            least, allowed = covariance.reshape(self.components, -1).amin(1), 0.0
        if bool((least < allowed).any()):
            place = int((least - allowed).argmin())
            raise ValueError(f"covariance must be positive semi-definite, component {place} has the variance {float(least[place]):g} in some direction")

    # -- constructors --------------------------------------------------------------------------------------------------

    @classmethod
    def fit(cls, x: Float[Tensor, "n *event"], y: Int64[Tensor, " m"] | None = None, ridge: float = 0.0) -> GaussianMixture:
        """One full-covariance Gaussian a class (one in all without `y`), by maximum likelihood: covariances divide by the class's
        number of rows, not one less; `ridge` (a standard deviation in x's units) adds ridge^2 to every variance. Weights are the
        classes' frequencies, labels the classes that occur, in order. float64.
        """
        ridge = checks.positive("ridge", ridge, zero=True)
        flat = _rows("x", x)
        if y is None:
            classes, member = None, torch.zeros(len(x), dtype=torch.int64, device=x.device)
        else:
            checks.shape_of("y", y, (len(x),))
            classes, member = y.unique(sorted=True, return_inverse=True)
        eye = torch.eye(flat.shape[1], dtype=flat.dtype, device=flat.device)
        means, covariances, weights = [], [], []
        for k in range(1 if classes is None else len(classes)):
            rows = flat[member == k]
            centred = rows - rows.mean(0)
            means.append(rows.mean(0))
            covariances.append(centred.mT @ centred / len(rows) + ridge**2 * eye)
            weights.append(len(rows) / len(flat))
        return cls(torch.tensor(weights, dtype=flat.dtype, device=flat.device), torch.stack(means).reshape(-1, *x.shape[1:]),
                   torch.stack(covariances), classes)

    @classmethod
    def points(cls, x: Float[Tensor, "n *event"], y: Int64[Tensor, " m"] | None = None, std: float = 0.0) -> GaussianMixture:
        """The rows of `x` themselves, equally likely, each blurred by a Gaussian of standard deviation `std` (0: the empirical law,
        which has no density). Labels are `y`. float64."""
        std = checks.positive("std", std, zero=True)
        flat = _rows("x", x)
        if y is not None:
            checks.shape_of("y", y, (len(x),))
        return cls(torch.full_like(flat[:, 0], 1 / len(flat)), flat.reshape(x.shape), torch.full_like(flat[:, 0], std**2), y)

    # -- what it is ----------------------------------------------------------------------------------------------------

    @property
    def components(self) -> int:
        """K, the number of Gaussians."""
        return len(self.weights)

    @property
    def event(self) -> tuple[int, ...]:
        """Shape of one draw."""
        return tuple(self.means.shape[1:])

    @property
    def dim(self) -> int:
        """d, the numbers in one draw."""
        return math.prod(self.event)

    def mean(self) -> Float[Tensor, "*event"]:
        """Mean of the whole mixture."""
        return torch.einsum("k,k...->...", self.weights, self.means)

    def covariance_matrix(self) -> Float[Tensor, "d d"]:
        """Covariance of the whole mixture: within the components and between their means."""
        centred = self.means.flatten(1) if self.event else self.means[:, None]
        centred = centred - self.weights @ centred
        if self.covariance.ndim == 3:
            within = torch.einsum("k,kij->ij", self.weights, self.covariance)
        else:
            within = torch.diag(self.weights @ self.eigen()[0])
        return within + (self.weights[:, None] * centred).mT @ centred

    @cached_property
    def _spectrum(self) -> tuple[Tensor, Tensor | None]:
        if self.covariance.ndim < 3:
            return self.covariance.reshape(self.components, -1).expand(self.components, self.dim), None
        values, vectors = torch.linalg.eigh(self.covariance.double())
        return values.to(self.covariance.dtype), vectors.to(self.covariance.dtype)

    def _slack(self) -> Tensor:
        """(K,) what rounding may do to an eigenvalue of a full covariance; such values count as zero."""
        return self.dim * torch.finfo(self.covariance.dtype).eps * self._spectrum[0].abs().amax(1)

    def eigen(self) -> tuple[Float[Tensor, "K d"], Float[Tensor, "K d d"] | None]:
        """Variances along the axes of each component, and the axes as columns (None: the coordinate axes). Computed once.

        C_k = V_k diag(values_k) V_k^T. Eigenvalues within rounding of zero are zero.
        """
        values, vectors = self._spectrum
        return (values, None) if vectors is None else (torch.where(values > self._slack()[:, None], values, 0.0), vectors)

    # -- density and draws ---------------------------------------------------------------------------------------------

    def log_prob(self, x: Float[Tensor, "n *event"]) -> Float[Tensor, " n"]:
        """Natural logarithm of the density at each row. ValueError if some component has no density (a variance of 0)."""
        self._check_event(x)
        values, vectors = self.eigen()
        if bool((values <= 0).any()):
            place = int((values <= 0).any(1).nonzero()[0])
            raise ValueError(f"log_prob needs positive definite covariances, component {place} has a variance of 0")
        flat, means = x.to(self.means.dtype).reshape(len(x), self.dim), self.means.reshape(self.components, self.dim)
        constant = self.weights.log() - 0.5 * (values.log().sum(1) + self.dim * math.log(2 * math.pi))
        parts = []
        for rows in flat.split(max(1, _CHUNK_NUMBERS // (self.components * self.dim))):
            gap = rows[:, None] - means
            if vectors is not None:
                gap = torch.einsum("nki,kij->nkj", gap, vectors)
            parts.append(torch.logsumexp(constant - 0.5 * (gap.square() / values).sum(2), 1))
        return torch.cat(parts) if parts else flat.sum(1)

    def sample(self, n: int, *, seed: int | Draws = 0, first: int = 0) -> Float[Tensor, "n *event"]:
        """`n` independent draws. Row i is a function of (seed, first + i) alone, so `sample(6, first=4)` is `sample(10)[4:]`
        (to the bit for axis-aligned covariances, to rounding for full ones)."""
        return self._draw(n, seed, first)[0]

    def sample_with_labels(self, n: int, *, seed: int | Draws = 0, first: int = 0) -> tuple[Float[Tensor, "n *event"], Int64[Tensor, " n"]]:
        """The draws of `sample` and the class of the component each came from. ValueError without labels."""
        self._check_labelled("sample_with_labels")
        x, member = self._draw(n, seed, first)
        return x, self.labels[member]

    def _draw(self, n: int, seed: int | Draws, first: int) -> tuple[Tensor, Tensor]:
        n, draws = checks.integer("n", n, least=0), Draws.of(seed)
        dtype, device = self.means.dtype, self.means.device
        # Drawn on the CPU: which component a row belongs to must not depend on how a device rounds.
        u = draws.uniform("mixture component", 0, (n,), first=first, dtype=torch.float64)
        edges = self.weights.detach().double().cpu().cumsum(0)
        member = torch.searchsorted(edges / edges[-1], u, right=True).clamp_max(self.components - 1).to(device)
        z = draws.rows("mixture noise", 0, (n, self.dim), first=first, dtype=dtype).to(device)
        values, vectors = self.eigen()
        if vectors is None:
            noise = values[member].sqrt() * z
        else:
            # The symmetric root: unlike eigenvectors and their signs, it is the same whichever LAPACK found it.
            root = (vectors * values.sqrt()[:, None]) @ vectors.mT
            noise = torch.empty_like(z)
            for k in range(self.components):
                noise[member == k] = z[member == k] @ root[k]
        return self.means[member] + noise.reshape(n, *self.event), member

    # -- derived laws --------------------------------------------------------------------------------------------------

    def given(self, label: int) -> GaussianMixture:
        """The law given the class: its components, with their weights scaled to sum to 1. ValueError for a class it lacks."""
        self._check_labelled("given")
        chosen = self.labels == checks.integer("label", label)
        if not bool(chosen.any()):
            raise ValueError(f"label must be one of {', '.join(map(str, self.labels.unique().tolist()[:20]))}, got {label}")
        weights = self.weights[chosen]
        return GaussianMixture(weights / weights.sum(), self.means[chosen], self.covariance[chosen], self.labels[chosen])

    def scaled(self, b: float | int | Float[Tensor, ""], c: float | int | Float[Tensor, ""] = 0.0) -> GaussianMixture:
        """The law of b x + c z, z independent standard normal: weights and labels stay."""
        added = torch.eye(self.dim, dtype=self.means.dtype, device=self.means.device) if self.covariance.ndim == 3 else 1.0
        return GaussianMixture(self.weights, b * self.means, b**2 * self.covariance + c**2 * added, self.labels)

    def to(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> GaussianMixture:
        """The same law in another floating dtype or on another device."""
        moved = (t.to(device=device, dtype=dtype) for t in (self.weights, self.means, self.covariance))
        return GaussianMixture(*moved, None if self.labels is None else self.labels.to(device=device))

    def _check_event(self, x: Tensor) -> None:
        if tuple(x.shape[1:]) != self.event:
            raise ValueError(f"x must have shape (n, {', '.join(map(str, self.event))}), got {tuple(x.shape)}")

    def _check_labelled(self, method: str) -> None:
        if self.labels is None:
            raise ValueError(f"{method} needs a mixture with labels, this one has none")


def _rows(name: str, x: Tensor) -> Tensor:
    """x flattened to float64 (n, d), refused if empty or not finite."""
    checks.tensor(name, x, floating=True)
    if x.ndim < 1 or x.numel() == 0:
        raise ValueError(f"{name} must have at least one row, got shape {tuple(x.shape)}")
    return checks.finite(name, x).double().reshape(len(x), -1)
