"""What a model can be asked for: a class by its number or name, a caption, or nothing; and how a question becomes a tensor."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rheos.core import checks
from rheos.data import Dataset
from rheos.data.captions import EMBEDDER, EMBEDDING_WIDTH, embed

__all__ = ["KINDS", "Conditions"]

KINDS = ("auto", "label", "caption", "none")
LISTED = 12     # names of classes that a message shows


@dataclass(frozen=True)
class Conditions:
    """classes: how many there are, and labels: their names, for a model of labels. embedder: by what captions become vectors, for one of captions.

    ValueError for names that are not one for each class, or an embedder that rheos does not have.
    """

    classes: int | None = None
    labels: tuple[str, ...] | None = None
    embedder: str | None = None

    def __post_init__(self):
        if self.classes is not None:
            checks.integer("classes", self.classes, least=1)
        if self.labels is not None and (self.classes is None or len(self.labels) != self.classes or not all(isinstance(name, str) for name in self.labels)):
            raise ValueError(f"labels must be one name for each of the {self.classes} classes, got {self.labels}")
        if self.embedder is not None and (self.embedder != EMBEDDER or self.classes is not None):
            raise ValueError(f"embedder must be {EMBEDDER}, and not go with classes, got {self.embedder!r}")

    @classmethod
    def of(cls, data: Dataset | Tensor, kind: str = "auto") -> tuple[Conditions, Tensor | None]:
        """What a model of `data` can be asked for, and each row's own answer: labels (n,), vectors of captions (n, 384), or None.

        kind: "label", "caption", "none", or "auto": the first of them that the data have. ValueError if the data do not have it.
        """
        checks.one_of("condition", kind, KINDS)
        y, captions = (data.y, data.captions) if isinstance(data, Dataset) else (None, None)
        if kind == "auto":
            kind = "label" if y is not None else "caption" if captions is not None else "none"
        if kind == "label":
            if y is None:
                raise ValueError("condition is label, but the data have no labels: name their column with --label, or put images into sub-folders")
            return cls(data.classes, data.labels), y
        if kind == "caption":
            if captions is None:
                raise ValueError("condition is caption, but the data have no captions: name their column with --caption")
            return cls(embedder=EMBEDDER), embed(captions)
        return cls(), None

    @property
    def kind(self) -> str:
        """ "label", "caption" or "none"."""
        return "label" if self.classes is not None else "caption" if self.embedder is not None else "none"

    @property
    def features(self) -> int | None:
        """Length of a caption's vector."""
        return EMBEDDING_WIDTH if self.embedder is not None else None

    def tensor(self, cond: Any, n: int) -> Tensor | None:
        """What `n` samples are asked for, as the network is told it.

        cond: None; for labels a class number (-1: any), a name, a list of them or an int tensor (n,); for captions one text or n texts, or
        their vectors (n, 384). ValueError or TypeError for anything else, with the names that there are.
        """
        if cond is None:
            return None
        if self.kind == "none":
            raise ValueError(f"cond was given ({_short(cond)}), but this model was trained without classes or captions")
        if self.kind == "caption":
            return self._vectors(cond, n)
        if isinstance(cond, str):
            cond = self._number(cond)
        elif isinstance(cond, Sequence) and not isinstance(cond, Tensor):
            cond = [self._number(each) if isinstance(each, str) else each for each in cond]
        large = next((each for each in (cond if isinstance(cond, list) else [cond]) if isinstance(each, int) and abs(each) >= 2**63), None)
        if large is not None:
            raise ValueError(f"cond must be a class from 0 to {self.classes - 1} (or -1 for any), got {large}")
        wanted = torch.as_tensor(cond)
        if wanted.is_floating_point() or wanted.dtype == torch.bool or wanted.is_complex():
            raise TypeError(f"cond must be whole class numbers or names of classes, got {wanted.dtype}")
        if not bool(((wanted >= -1) & (wanted < self.classes)).all()):
            raise ValueError(f"cond must be a class from 0 to {self.classes - 1} (or -1 for any), got {int(wanted.min())} to {int(wanted.max())}")
        return wanted.expand(n) if wanted.ndim == 0 else wanted

    def name(self, k: int) -> str:
        """What class `k` is called: its name, else its number; "" for -1, any."""
        return "" if k < 0 else str(k) if self.labels is None else self.labels[k]

    def _number(self, name: str) -> int:
        if self.labels is not None and name in self.labels:
            return self.labels.index(name)
        if name.lstrip("-").isdecimal() and name.isascii():
            return int(name)
        known = "it has no names" if self.labels is None else f"known are {', '.join(self.labels[:LISTED])}{' ...' if len(self.labels) > LISTED else ''}"
        raise ValueError(f"cond must be a class from 0 to {self.classes - 1} or a class's name, got {name!r}; {known}")

    def _vectors(self, cond: Any, n: int) -> Tensor:
        if isinstance(cond, Tensor):
            if not cond.is_floating_point() or cond.shape[-1:] != (EMBEDDING_WIDTH,) or cond.ndim > 2:
                raise ValueError(f"cond must be captions or their vectors ({n}, {EMBEDDING_WIDTH}), got {cond.dtype} of shape {tuple(cond.shape)}")
            return cond.expand(n, -1) if cond.ndim == 1 else cond
        if isinstance(cond, str):
            return embed([cond]).expand(n, -1)
        if not isinstance(cond, Sequence) or not all(isinstance(text, str) for text in cond):
            raise TypeError(f"cond must be a caption or {n} captions, got {_short(cond)}")
        return embed(list(cond))


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."
