"""Can a classifier tell the two sets apart? The two-sample test of Lopez-Paz and Oquab, arXiv:1610.06545."""
from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from rheos.core import Draws, checks
from rheos.metrics.pairs import Features, pair

__all__ = ["Classifier", "classifier_two_sample"]


@runtime_checkable
class Classifier(Protocol):
    """What scikit-learn calls one: fit(rows, labels) and predict(rows), NumPy arrays."""

    def fit(self, X, y): ...

    def predict(self, X): ...


@torch.no_grad()
def classifier_two_sample(x: Float[Tensor, "n *event"], y: Float[Tensor, "m *other"], *, seed: int | Draws = 0, folds: int = 5,
                          classifier: Classifier | None = None, features: Features | None = None) -> Float[Tensor, ""]:
    """Share of rows, none of them seen in training, that a classifier puts into the right set: 0.5 if they cannot be told apart, at most 1.

    seed:       of the folds, of the rows left out, and of the classifier, where it has an open `random_state`.
    folds:      at least 2: each row is judged once, by the classifier trained on the other folds. Each fold has as many rows of x as of y.
    classifier: an untrained scikit-learn classifier, cloned for each fold; None: 60 boosted trees of 8 leaves
                (HistGradientBoostingClassifier). On plane mixtures and on digits these found more than networks and forests, in less
                time (noise of 0.1 on digits in 885 rows: 1.00 in 0.5 s; a standardised network of 64 units 0.98 in 2.6 s; 15 neighbours
                0.50). Trees look at one coordinate at a time: where laws differ only in how many coordinates go together, give a network.
    features:   applied to both sets first, (rows, *event) -> (rows, ...); None compares the events themselves.

    If the sizes differ, random rows of the larger set are left out, so that 0.5 is chance. Between samples of one law the value is 0.5
    with a standard deviation of about 1 / sqrt(8 n) for n rows a set. It is a lower bound of what the best classifier reaches. Any
    trace that all samples share (a grey level that no datum has) takes it to 1, so that it ranks good models and not bad ones.
    No gradient. In the wider dtype of the two. ValueError if a set has fewer rows than `folds`, events differ, or entries are not finite.

    >>> x = Draws(0).rows("x", 0, (200, 2))
    >>> bool(classifier_two_sample(x, x + 100) > 0.99)
    True
    """
    import numpy as np
    from sklearn.base import clone

    draws, folds = Draws.of(seed), checks.integer("folds", folds, least=2)
    a, b = pair(x, y, features)
    for name, rows in (("x", a), ("y", b)):
        checks.finite(name if features is None else f"features of {name}", rows)
        if len(rows) < folds:
            raise ValueError(f"folds must be at most the {len(rows)} rows of {name}, got {folds}")
    if classifier is None:
        from sklearn.ensemble import HistGradientBoostingClassifier

        classifier = HistGradientBoostingClassifier(max_iter=60, max_leaf_nodes=8, min_samples_leaf=10, early_stopping=False)
    count = min(len(a), len(b))
    drawn = [rows[draws.permutation(f"rows of {name}", 0, len(rows))[:count].to(rows.device)] for name, rows in (("x", a), ("y", b))]
    rows = torch.cat(drawn).double().cpu().numpy()
    labels, fold = np.repeat([0, 1], count), np.tile(np.arange(count) % folds, 2)
    right = 0
    for held in range(folds):
        judge = clone(classifier)
        if "random_state" in judge.get_params() and judge.get_params()["random_state"] is None:
            judge.set_params(random_state=draws.child(f"fold {held}").seed & 0xFFFFFFFF)
        judge.fit(rows[fold != held], labels[fold != held])
        right += int((judge.predict(rows[fold == held]) == labels[fold == held]).sum())
    return torch.tensor(right / (2 * count), dtype=a.dtype, device=a.device)
