"""What samples well without tuning: the default rule of a field."""
from __future__ import annotations

from rheos.paths import LAM, QUADRATIC, RHO7, Field, U
from rheos.samplers.exponential import Exponential
from rheos.samplers.ordinary import AdamsBashforth, RungeKutta
from rheos.samplers.residual import ResidualDDIM

__all__ = ["default_rule"]

LARGEST_AMPLIFICATION = 2.0      # of an error of the network when it is read as data: 1 for data and for velocity on the linear path, 150 for noise on VP
LOUD_START = 0.5                 # of the noise on a source: above, residuals are hardly told there
SIGNAL_LEFT = 0.5                # of alpha at the start: paths that begin with more bury the data under noise instead of fading it


def default_rule(field: Field) -> Exponential | AdamsBashforth | ResidualDDIM | RungeKutta:
    """What samples well without tuning, best or nearly so from 5 to 20 calls.

    Where the network tells the data well at the start of its path: data prediction, exponential rule of order 2 with corrector 2, polynomials
    in u, equal steps in sqrt(u). A network that predicts noise, or velocity on a variance-preserving path, does not: there the data
    prediction divides the network's error by alpha, which is almost 0, and the long first step would carry that on. It gets Adams-Bashforth of
    order 2 on its velocity, equal steps in sqrt(1 - t); and where alpha is not small but the noise is large, the exponential rule with
    equal steps in rho^(1/7). Under strong guidance in 5 calls `UniPC(2)` is better, and from 20 calls on `UniPC(3)`.

    Two-sided paths: fields that tell residual and noise get `ResidualDDIM()`, or where the noise at the start is loud Adams-Bashforth of order 2,
    others Heun's rule, as do paths whose coefficients differ by coordinate.
    """
    path = field.path
    if path.two_sided:
        if not {"residual", "noise"} <= set(field.predicts):
            return RungeKutta(2)
        return AdamsBashforth(2) if float(path.coefficients(path.interval[0]).c) > LOUD_START else ResidualDDIM()
    if getattr(path.schedule, "spectral", False):
        return RungeKutta(2)
    if min(path.amplification(kind) for kind in field.predicts) <= LARGEST_AMPLIFICATION:
        return Exponential(2, "data", U, corrector=2)
    if float(path.coefficients(path.interval[0]).b) > SIGNAL_LEFT:
        return Exponential(2, "data", LAM, corrector=2, spacing=RHO7)
    return AdamsBashforth(2, spacing=QUADRATIC)
