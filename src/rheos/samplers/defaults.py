"""What samples best without tuning: the default rule of a field, and default times."""
from __future__ import annotations

import math

from rheos.paths import QUADRATIC, Field, U
from rheos.samplers.exponential import Exponential
from rheos.samplers.ordinary import AdamsBashforth, RungeKutta

__all__ = ["default_rule"]

LARGEST_AMPLIFICATION = 2.0      # of an error of the network when it is read as data: 1 for data and for velocity on the linear path, 150 for noise on VP


def default_rule(field: Field) -> Exponential | AdamsBashforth | RungeKutta:
    """What samples best without tuning.

    Where the network tells the data well at the start of its path: data prediction, exponential rule of order 2 with corrector 2, polynomials
    in u, equal steps in sqrt(u). A network that predicts noise, or velocity on a variance-preserving path, does not: there the data
    prediction divides the network's error by alpha, which is almost 0, and the long first step would carry that on. It gets Adams-Bashforth of
    order 2 on its velocity, equal steps in sqrt(1 - t). Two-sided paths get Heun's rule.
    """
    if field.path.two_sided:
        return RungeKutta(2)
    if _error_of_data(field) > LARGEST_AMPLIFICATION:
        return AdamsBashforth(2, spacing=QUADRATIC)
    return Exponential(2, "data", U, corrector=2)


def _error_of_data(field: Field) -> float:
    """How much an error of the network's answer grows when it is read as data at the start of the path: |d data / d answer|."""
    at = field.path.coefficients(field.path.interval[0])
    b, c, db, cdc = (float(v) for v in (at.b, at.c, at.db, at.cdc))
    from_velocity = abs(c * c / (b * cdc - c * c * db))
    grown = {"data": 1.0, "velocity": from_velocity, "noise": c / b if b > 0 else math.inf, "score": c * c / b if b > 0 else math.inf}
    return min(grown[kind] for kind in field.predicts)
