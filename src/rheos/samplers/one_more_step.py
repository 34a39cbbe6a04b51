r"""One More Step: a step from pure noise to where a schedule begins, for models whose schedule ends with some of the data left.

  z ~ N(0, I),   x^ = psi(z | c) ~ E[x1 | c],   x_T = alpha_T x^ + sigma_T z

alpha_T, sigma_T: of the base model's path at the first time that its sampler uses; psi: trained where there is no signal, where its v-prediction is -x1.
The base model and its sampler stay as they are. What c does not tell of the data, psi cannot give back: means are repaired, spreads within c are not.

Paper: Hu et al., One More Step: a versatile plug-and-play module for rectifying diffusion schedule flaws and enhancing low-frequency controls, 2023,
arXiv:2311.15744. Their DDIM step is eta = 0, their DDPM step eta = 1.
Ours: psi is any field on a path that begins without data, asked there for its data prediction; a flow on the linear path may serve.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from rheos.core import Draws, checks, evolve, raising_interrupts
from rheos.couplings import Independent
from rheos.guidance import classifier_free
from rheos.objectives import At, Matching
from rheos.paths import Field, Path, Times
from rheos.paths.asking import evaluating, spread
from rheos.paths.terminal import LEAST_SIGNAL
from rheos.training import Average, Cosine, Descent
from rheos.training.descent import known_settings

__all__ = ["OneMoreStep", "fit_one_more_step"]


@dataclass(frozen=True, eq=False)
class OneMoreStep:
    """Starts for `sample(base, start=oms.start(z, cond), cond=cond)`.

    psi: a Field on a path that begins without data (alpha 0: `Path.linear()`, `Path.cosine()`), such as `fit_one_more_step` gives, in the units of the base;
        or a mean: a tensor (*event), or a function cond -> (rows, *event) or (*event).
    path: the base model's. One psi serves all bases that share data and units.
    eta: 0 keeps z (DDIM), 1 draws other noise (DDPM).

    TypeError or ValueError for a psi whose path begins with data, or whose network cannot tell data there, and for bases on two-sided paths, on paths whose
    coefficients differ by coordinate, and on those that begin without data: nothing to repair.

    >>> from rheos.data import GaussianMixture
    >>> from rheos.paths import ExactField
    >>> from rheos.paths.terminal import scaled_linear
    >>> from rheos.samplers import sample
    >>> base = Path.from_betas(scaled_linear())
    >>> bright = ExactField(base, GaussianMixture(torch.ones(1), torch.full((1, 400), 0.8), torch.full((1,), 4.0)))
    >>> z = torch.randn(64, 400, generator=torch.Generator().manual_seed(0))
    >>> plain, repaired = (sample(bright, start=start).mean() for start in (z, OneMoreStep(torch.full((400,), 0.8), base).start(z)))
    >>> bool((plain - 0.8).abs() > 5 * (repaired - 0.8).abs())
    True
    """

    psi: Field | Tensor | Callable[[Any], Tensor]
    path: Path
    eta: float = 0.0

    def __post_init__(self):
        if not isinstance(self.path, Path):
            raise TypeError(f"path must be a Path, got {type(self.path).__name__}")
        if self.path.two_sided or getattr(self.path.schedule, "spectral", False):
            raise ValueError(f"path must be one-sided, with one coefficient for all coordinates, got {self.path.schedule}")
        checks.between("eta", self.eta, 0.0, 1.0)
        if isinstance(self.psi, Field):
            _from_nothing(self.psi)
        elif isinstance(self.psi, Tensor):
            checks.finite("psi", self.psi)
        elif not callable(self.psi) or isinstance(self.psi, type | nn.Module):
            raise TypeError(f"psi must be a Field, a tensor or a function of the condition, got {type(self.psi).__name__}; "
                            "wrap a network as Field(net, path, 'v')")
        self._signal(self.path.interval[0])

    def _signal(self, at: float) -> tuple[float, float]:
        """alpha and sigma where the base begins."""
        there = self.path.coefficients(at)
        alpha, sigma = float(there.b), float(there.c)
        if alpha**2 <= LEAST_SIGNAL * (1 + 1e-6):
            raise ValueError(f"path must leave some data where samples begin, got alpha = {alpha:g} at t = {at:g}: nothing to repair")
        if sigma == 0:
            raise ValueError(f"at must be a time with noise, got {at:g}")
        return alpha, sigma

    @torch.no_grad()
    def expected(self, z: Float[Tensor, "rows *event"], cond: Any = None, *, guidance: float | None = None) -> Float[Tensor, "rows *event"]:
        """What psi takes the data to be, (rows, *event): its data prediction from pure noise z. guidance: classifier-free scale of psi's own."""
        if checks.tensor("z", z, floating=True).ndim < 1 or not len(z):
            raise ValueError("z must hold at least one row, got none")
        checks.finite("z", z)
        cond = spread(cond, len(z), z.device)
        if isinstance(self.psi, Field):
            if isinstance(self.psi.net, nn.Module) and next(self.psi.net.parameters(), None) is not None and self.psi.like.dtype != z.dtype:
                raise TypeError(f"z must have the dtype of psi's network, {self.psi.like.dtype}, got {z.dtype}")
            asked = self.psi if guidance is None else classifier_free(self.psi, guidance)
            with evaluating(getattr(self.psi, "net", None)):
                return asked.data(z, 0.0, cond)
        if guidance is not None:
            raise ValueError(f"guidance is for a psi with a network, got {guidance:g} for a mean")
        mean = self.psi if isinstance(self.psi, Tensor) else self.psi(cond)
        if not isinstance(mean, Tensor) or mean.shape not in (z.shape, z.shape[1:]):
            got = tuple(mean.shape) if isinstance(mean, Tensor) else type(mean).__name__
            raise ValueError(f"psi must give one event {tuple(z.shape[1:])}, or one a row of z, got {got}")
        return checks.finite("psi", mean).to(z).expand(z.shape)

    def start(self, z: Float[Tensor, "rows *event"], cond: Any = None, *, guidance: float | None = None, at: float | Times | None = None,
              seed: int | Draws = 0, first: int = 0) -> Float[Tensor, "rows *event"]:
        """Where the base's sampler is to begin, (rows, *event).

        z: pure noise, a draw of the path's noise law, standard normal for most: not scaled by sigma. cond: told to psi, as `sample` takes it.
        guidance: classifier-free scale of psi's own, whatever the base's.
        at: the first time that the sampler uses, or its times: None is the path's start. Of a discrete schedule of T steps, whose first used one is k,
            `path.schedule.time_of(k)`. seed, first: of the other noise where eta > 0, and the number of its first row.
        ValueError for a time at which no data or no noise are left, and for what does not fit.
        """
        if isinstance(at, Times):
            if at.path != self.path:
                raise ValueError(f"at was made for {at.path.schedule}, but the base lives on {self.path.schedule}")
            at = float(at.t[0])
        alpha, sigma = self._signal(self.path.interval[0] if at is None else checks.between("at", at, 0.0, 1.0))
        mean = self.expected(z, cond, guidance=guidance)       # which checks z
        if self.eta:
            # The posterior of x_T given z where z holds no data: eta^2 of the variance is drawn anew.
            fresh = self.path.noise.draw(tuple(z.shape), seed=seed, purpose="one more step", first=first, like=z)
            z = (1 - self.eta**2) ** 0.5 * z + self.eta * fresh
        return alpha * mean + sigma * z


def _from_nothing(psi: Field) -> None:
    """ValueError for a field that does not tell the data from pure noise alone."""
    if psi.path.two_sided or getattr(psi.path.schedule, "spectral", False):
        raise ValueError(f"psi must live on a one-sided path with one coefficient for all coordinates, got {psi.path.schedule}")
    there = psi.path.coefficients(0.0)
    if float(there.b) != 0 or abs(float(there.c) - 1) > 1e-6:
        raise ValueError(f"psi must live on a path that begins with pure noise, got alpha = {float(there.b):g} and sigma = {float(there.c):g} at t = 0 of "
                         f"{psi.path.schedule}")
    if not {"data", "v", "velocity"} & set(psi.predicts):
        raise ValueError(f"psi must predict data, v or velocity, since noise tells nothing where there are no data, got {', '.join(psi.predicts)}")


def fit_one_more_step(x: Float[Tensor, "rows *event"], net: nn.Module, *, cond: Any = None, steps: int = 500, drop_condition: float = 0.1,
                      seed: int | Draws = 0, **settings: Any) -> Field:
    """psi: `net`, trained in place to tell v = -x1 from pure noise, as the Field of its averaged weights on `Path.cosine()`.

    min E |net(z, 0, c) + x1|^2,  z ~ N(0, I)

    x: data (rows, *event) in the units of the base model's network (`model.transform.forward(pixels)`). cond: batch first. steps: minibatches.
    drop_condition: how often it is left out, for guidance of psi's own. settings: of `Descent`; batch is 256, Adam with rate 2e-3 falling to 0 along a cosine,
    averaging 0.99, clip 1 unless told otherwise. It learns one mean a condition: a small network and some hundred steps do.
    ValueError for data that are not finite and for settings out of range. Ctrl-C raises.

    >>> from rheos.nets import ResidualMLP
    >>> x = torch.tensor([[-1.0], [1.0]]).repeat(100, 1)
    >>> psi = fit_one_more_step(x, ResidualMLP((1,), width=16, depth=1, classes=2), cond=torch.arange(2).repeat(100), steps=100)
    >>> psi.data(torch.zeros(2, 1), 0.0, torch.arange(2)).round().flatten().tolist()
    [-1.0, 1.0]
    """
    steps = checks.integer("steps", steps, least=1)
    if not isinstance(net, nn.Module):
        raise TypeError(f"net must be a network, got {type(net).__name__}")
    known_settings("fit_one_more_step", settings, "seed")
    drop_condition = checks.between("drop_condition", drop_condition, 0.0, 1.0)
    objective = Matching(Path.cosine(), "v", At(), drop_condition=drop_condition if cond is not None else 0.0)
    defaults = {"batch": 256, "optimizer": partial(torch.optim.Adam, lr=2e-3, betas=(0.9, 0.99)), "rate": Cosine(steps, min(steps // 50, 100)),
                "average": Average(0.99), "clip": 1.0}
    fit = Descent(objective, Independent(x, cond=cond), seed=seed, **(defaults | settings))
    with raising_interrupts():
        end = evolve(fit, fit.init(net), steps, donate=True)
    return Field(end.averaged.eval(), objective.path, "v")
