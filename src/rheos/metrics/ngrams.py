"""How far the texts of two sets are apart, read through a window of a few bytes: total variation of their n-grams.

TV = 1/2 sum over n-grams g of |p_x(g) - p_y(g)|, p(g) the share of g among all n-grams of a set. It asks for no network and no language.
"""
from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from rheos.core import checks
from rheos.metrics.tables import category_distance

__all__ = ["ngram_distance"]


def ngram_distance(x: Sequence[str | bytes], y: Sequence[str | bytes], *, order: int = 3) -> Float64[Tensor, ""]:
    """Total variation between the n-grams of two sets of texts: 0 for the same frequencies, 1 if no n-gram is in both.

    x, y:  texts; a str counts as its UTF-8 bytes. No n-gram reaches from one text into the next, and shorter texts have none.
    order: n, bytes a window, 1 to 7.
    Rare n-grams of one law are seen in one set and missed in the other, so that the value is above 0 even between halves of one text,
    and falls with their size: put that of real texts of the same size beside it.
    ValueError if one set has no n-gram at all.

    >>> ngram_distance(["abab"], ["ab", "ba"], order=2)                         # ab 2/3, ba 1/3 against 1/2, 1/2
    tensor(0.1667, dtype=torch.float64)
    """
    order = checks.integer("order", order, least=1)
    if order > 7:
        raise ValueError(f"order must be at most 7, which fits into 64 bits, got {order}")
    return category_distance(*(_grams(name, texts, order) for name, texts in (("x", x), ("y", y))))


def _grams(name: str, texts: Sequence[str | bytes], order: int) -> Tensor:
    """Every n-gram of the texts as one number, its bytes in base 256."""
    if isinstance(texts, str | bytes):
        raise TypeError(f"{name} must be a list of texts, got one text")
    parts = [text.encode("utf-8", "surrogatepass") if isinstance(text, str) else bytes(text) for text in texts]
    found = []
    for part in parts:
        read = np.frombuffer(part, np.uint8).astype(np.int64)
        if len(read) >= order:
            codes = np.zeros(len(read) - order + 1, np.int64)
            for k in range(order):
                codes = codes * 256 + read[k : len(read) - order + 1 + k]
            found.append(codes)
    if not found:
        raise ValueError(f"{name} must hold a text of at least {order} bytes, got {len(parts)} shorter ones")
    return torch.from_numpy(np.concatenate(found))
