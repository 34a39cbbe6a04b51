"""Optimal transport between two sets of examples: the exact distance, and the debiased Sinkhorn divergence that can be a loss.

W_p^p = min over plans P of sum_ij P_ij |x_i - y_j|^p, rows of P summing to 1/n and columns to 1/m. The divergence (Feydy et al.,
arXiv:1810.08278) is S(x, y) = OT(x, y) - OT(x, x) / 2 - OT(y, y) / 2 with OT the same minimum plus eps KL(P | uniform).
"""
from __future__ import annotations

import math

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from rheos.core import checks
from rheos.metrics.pairs import Features, blocks, distance_table, pair

__all__ = ["sinkhorn", "wasserstein"]

_ROUND = 20                 # scaling iterations between two looks at the marginals
_SHRINK, _LOOSE = 0.25, 0.1     # of eps from one level to the next; the error that is enough on all but the last
_PIVOTS = 1_000_000_000     # more than any set that fits into memory needs


@torch.no_grad()
def wasserstein(x: Float[Tensor, "n *event"], y: Float[Tensor, "m *other"], *, power: float = 2.0, features: Features | None = None) -> Float[Tensor, ""]:
    """Exact Wasserstein distance W_power between the two sets, every row with equal weight, in the units of x.

    power:    at least 1.
    features: applied to both sets first, (rows, *event) -> (rows, ...); None compares the events themselves.
    By POT's network simplex on the (n, m) table of costs, float64, returned in the wider dtype of the two. Cost grows like n^2 to
    n^3 (1,000 rows a side: 0.2 s; 3,000: 2 s), memory like n m. No gradient: as a loss take `sinkhorn` or `sliced_w2`.
    ValueError for empty sets, different events, or entries that are not finite. RuntimeError if the simplex ends without an optimum.

    >>> wasserstein(torch.tensor([[0.0, 0.0], [3.0, 0.0]]), torch.tensor([[3.0, 4.0], [0.0, 4.0]]))
    tensor(4.)
    """
    import ot

    power = checks.between("power", power, 1.0, math.inf, high_open=True)
    a, b = _finite_pair(x, y, features)
    table = distance_table(a, b, power)
    scale = float(table.max()) or 1.0                   # costs near 1: the simplex stops at an absolute tolerance
    plan, log = ot.emd([], [], (table / scale).cpu().numpy(), numItermax=_PIVOTS, log=True)
    if log["warning"] is not None:
        raise RuntimeError(f"wasserstein found no optimum for {len(a)} and {len(b)} rows: {log['warning']}")
    total = (torch.from_numpy(plan).to(table.device) * table).sum()
    return total.pow(1 / power).to(a.dtype)


def sinkhorn(x: Float[Tensor, "n *event"], y: Float[Tensor, "m *other"], *, blur: float = 0.05, power: float = 2.0, tolerance: float = 1e-4,
             max_iterations: int = 10_000, features: Features | None = None) -> Float[Tensor, ""]:
    """Debiased Sinkhorn divergence with costs |x - y|^power, in the units of x to the `power`.

    blur:           the length, in the units of x, below which rows are not told apart: eps = power blur^power, so that for power 2
                    a plan spreads each row as a Gaussian of standard deviation `blur` would. As it goes to 0 the divergence goes to
                    W_power^power (`wasserstein` to the power, not its root); as it grows, to |mean x - mean y|^2 for power 2 and to
                    half of `energy` for power 1. It is `power` times the value of GeomLoss at the same blur.
    power:          in [1, 2], where the divergence is at least 0 (to the tolerance), and 0 only between equal laws.
    tolerance:      how far a plan's row sums may be from 1/n: sum_i |sum_j P_ij - 1/n|; its column sums are exact (the other way round
                    if n > m). The value's error is of the order of its square, the gradient's of its own.
    max_iterations: RuntimeError if the tolerance is not met after so many. They grow like (typical distance / blur)^power: for real
                    data choose a blur that is not far below the distance of neighbouring rows, or take `wasserstein`.
    features:       applied to both sets first, (rows, *event) -> (rows, ...); None compares the events themselves.

    Differentiable once in both sets: by the envelope theorem the gradient is that of the cost under the converged plans, which are
    held fixed; no iteration is recorded. A second derivative would not be that of S and is refused (RuntimeError).
    Computed in float64, returned in the wider dtype of the two. Each iteration costs 2 n m; memory is a few tables of n m numbers.
    ValueError for empty sets, different events, or entries that are not finite.

    >>> x = torch.tensor([[0.0, 0.0], [2.0, 1.0]])
    >>> round(sinkhorn(x, x + torch.tensor([3.0, 4.0]), blur=0.1).item(), 4)             # a shift costs its square at any blur
    25.0
    """
    blur, tolerance = checks.positive("blur", blur), checks.positive("tolerance", tolerance)
    power, max_iterations = checks.between("power", power, 1.0, 2.0), checks.integer("max_iterations", max_iterations, least=1)
    a, b = _finite_pair(x, y, features)
    return _Divergence.apply(a.double(), b.double(), power, blur, tolerance, max_iterations).to(a.dtype)


def _finite_pair(x: Tensor, y: Tensor, features: Features | None) -> tuple[Tensor, Tensor]:
    a, b = pair(x, y, features)
    for name, rows in (("x", a), ("y", b)):
        checks.finite(name if features is None else f"features of {name}", rows)
    return a, b


class _Divergence(torch.autograd.Function):
    """S and its gradients, which are computed on the way, while the plans are at hand."""

    @staticmethod
    def forward(ctx, a: Tensor, b: Tensor, power: float, blur: float, tolerance: float, max_iterations: int) -> Tensor:
        eps = power * blur**power
        value, gradients = 0.0, [torch.zeros_like(a), torch.zeros_like(b)]
        for side, rows in enumerate((a, b)):
            table = distance_table(rows, rows, power)
            f = symmetric_potential(table, eps, tolerance, max_iterations)
            value = value - f.mean()                                   # OT(x, x) / 2, of two equal potentials
            if ctx.needs_input_grad[side]:
                gradients[side] -= _pull(table, f, f, eps, power, rows, rows)
        table = distance_table(a, b, power)
        f, g = potentials(table, eps, tolerance, max_iterations)
        value = value + f.mean() + g.mean()
        if ctx.needs_input_grad[0]:
            gradients[0] += _pull(table, f, g, eps, power, a, b)
        if ctx.needs_input_grad[1]:
            gradients[1] += _pull(table.mT, g, f, eps, power, b, a)
        ctx.save_for_backward(*gradients, a, b)
        return value

    @staticmethod
    def backward(ctx, outer: Tensor):
        return *_Once.apply(outer, *ctx.saved_tensors), None, None, None, None


class _Once(torch.autograd.Function):
    """Hands the gradients on, and refuses to be differentiated: held fixed as they are, they would silently count as constants."""

    @staticmethod
    def forward(ctx, outer: Tensor, x_gradient: Tensor, y_gradient: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        return outer * x_gradient, outer * y_gradient

    @staticmethod
    def backward(ctx, *outer: Tensor):
        raise RuntimeError("sinkhorn can be differentiated once only: its plans are held fixed in the gradient")


def _pull(table: Tensor, f: Tensor, g: Tensor, eps: float, power: float, a: Tensor, b: Tensor) -> Tensor:
    """sum_j P_ij grad_i |a_i - b_j|^power = sum_j P_ij power |a_i - b_j|^(power - 2) (a_i - b_j), (n, d); 0 where rows coincide."""
    parts, middle = [], b.mean(0)
    for start, costs in blocks(table, table.shape[1]):
        stop = start + len(costs)
        weight = torch.exp((f[start:stop, None] + g - costs) / eps).mul_(power / table.numel())
        if power != 2.0:
            weight = torch.where(costs > 0, weight * torch.where(costs > 0, costs, 1.0).pow((power - 2) / power), 0.0)
        parts.append(weight.sum(1, keepdim=True) * (a[start:stop] - middle) - weight @ (b - middle))
    return torch.cat(parts)


# -- potentials: the plan is P_ij = exp((f_i + g_j - C_ij) / eps) / (n m) ------------------------------------------------------------


def soft_minimum(table: Float64[Tensor, "n m"], g: Float64[Tensor, " m"], eps: float) -> Float64[Tensor, " n"]:
    """f_i = -eps log mean_j exp((g_j - C_ij) / eps): the potential that makes the plan's row sums exact."""
    parts = [torch.logsumexp((g - costs) / eps, 1) for _, costs in blocks(table, table.shape[1])]
    return -eps * (torch.cat(parts) - math.log(table.shape[1]))


def symmetric_potential(table: Float64[Tensor, "n n"], eps: float, tolerance: float, max_iterations: int) -> Float64[Tensor, " n"]:
    """The f = g of a set with itself: f <- (f + soft_minimum(f)) / 2, which contracts by at least one half near its end."""
    f, error = torch.zeros_like(table[:, 0]), math.inf
    for _ in range(max_iterations):
        found = soft_minimum(table, f, eps)
        error = float(torch.expm1((f - found) / eps).abs().mean())      # row sums of the plan, times n, less 1
        if error <= tolerance:
            return (f + found) / 2              # whose mean, unlike that of f, is off by the square of the residual only
        f = (f + found) / 2
    raise _unfinished(error, eps, tolerance, max_iterations)


def potentials(table: Float64[Tensor, "n m"], eps: float, tolerance: float, max_iterations: int) -> tuple[Float64[Tensor, " n"], Float64[Tensor, " m"]]:
    """The f and g of two sets, by Sinkhorn's iteration under an eps that falls from level to level; the sums on the longer side are exact."""
    if len(table) > table.shape[1]:
        return potentials(table.mT, eps, tolerance, max_iterations)[::-1]
    g, level, done = torch.zeros_like(table[0]), float(table.max()), 0
    while True:
        level = max(_SHRINK * level, eps)
        target = tolerance if level == eps else max(tolerance, _LOOSE)
        f, g, error, done = _balanced(table, g, level, target, max_iterations, done)
        if not error <= target:
            raise _unfinished(error, eps, tolerance, max_iterations)
        if level == eps:
            return f, g


def _balanced(table: Tensor, g: Tensor, eps: float, target: float, max_iterations: int, done: int) -> tuple[Tensor, Tensor, float, int]:
    """One level: f, g, the error of the rows, and the iterations done, up to `max_iterations`.

    Between two looks the iteration works on u = exp(df / eps), v = exp(dg / eps) by matrix products alone (Schmitzer,
    arXiv:1610.06519), over-relaxed: u <- u^(1 - omega) (1 / K v)^omega. For a linear rate r of the plain iteration the best omega is
    2 / (1 + sqrt(1 - r)), and r follows from the rate seen under any omega by Young's relation for such iterations,
    (seen + omega - 1)^2 = seen omega^2 r (Thibault et al., arXiv:1711.01851). Where rows hardly exchange mass the rate is too near
    1 for that: after n iterations, which cost what a Newton step does, Newton's method takes over.
    """
    (n, m), omega, before, since = table.shape, 1.0, math.inf, 0
    f = soft_minimum(table, g, eps)
    while True:
        g = soft_minimum(table.mT, f, eps)              # the column sums are exact; how far are the row sums?
        better = soft_minimum(table, g, eps)
        error = float(torch.expm1((f - better) / eps).abs().mean())
        if error <= target or done >= max_iterations:
            return f, g, error, done
        omega, before = _relaxation(omega, (error / before) ** (1 / _ROUND), error > 2 * before), error
        if since >= max(n, 5 * _ROUND):
            stepped = _newton(table, f, g, eps)
            done += 1
            if stepped is not None:
                f = stepped
                continue
            since = 0
        plan = torch.exp((f[:, None] + g - table) / eps)
        u, v = torch.ones_like(f), torch.ones_like(g)
        for _ in range(_ROUND):
            u = u ** (1 - omega) * (plan @ v / m) ** -omega
            v = v ** (1 - omega) * (plan.mT @ u / n) ** -omega
        done, since = done + _ROUND, since + _ROUND
        moved = f + eps * u.log()
        if bool(torch.isfinite(moved).all()):
            f = moved
        else:                                           # a scaling vector overflowed: one safe step inside the logarithms
            omega, f = 1.0, better


def _newton(table: Tensor, f: Tensor, g: Tensor, eps: float) -> Tensor | None:
    """f after a step uphill on the dual, mean f + mean g(f), by its Hessian (diag(P 1) - P diag(1 / P^T 1) P^T) / eps; None if there is none.

    The constant vector changes nothing and is fixed by adding its projector. No step moves a potential by more than 3 eps.
    """
    n, value = len(f), float(f.mean() + g.mean())
    plan = torch.exp((f[:, None] + g - table) / eps) / table.numel()
    sums = plan.sum(1)
    curvature = torch.diag(sums + 1e-13 / n) - (plan / plan.sum(0)) @ plan.mT + 1 / n**2
    root, bad = torch.linalg.cholesky_ex(curvature)
    if int(bad):
        return None
    step = torch.cholesky_solve((1 / n - sums)[:, None], root)[:, 0]
    step = step * (eps * min(1.0, 3.0 / float(step.abs().max())))
    for _ in range(5):
        risen = float((f + step).mean() + soft_minimum(table.mT, f + step, eps).mean())
        if risen >= value - 1e-14 * abs(value):
            return f + step
        step = step / 4
    return None


def _relaxation(omega: float, seen: float, worse: bool) -> float:
    """The next omega from the rate seen under this one. Never past 1.99; halfway back to 1 if the error grew."""
    if worse:
        return 1 + (omega - 1) / 2
    if not omega - 1 < seen < 1:
        return omega
    rate = (seen + omega - 1) ** 2 / (seen * omega**2)
    return max(omega, min(2 / (1 + math.sqrt(max(1 - rate, 0.0))), 1.99))


def _unfinished(error: float, eps: float, tolerance: float, max_iterations: int) -> RuntimeError:
    return RuntimeError(f"sinkhorn did not converge: the plan's row sums are off by {error:.3g}, more than tolerance={tolerance:g}, after "
                        f"max_iterations={max_iterations} at eps = {eps:g}; raise blur, max_iterations or tolerance")
