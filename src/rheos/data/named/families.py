"""Division by name: things that are variants of one another stay on one side of the line between training and held-out."""
from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

__all__ = ["HELD_OUT", "joined", "names_fall_below"]

HELD_OUT = 1 / 6        # Fashion-MNIST's own share is 1/7; sets without a division of their own hold out about as much


def names_fall_below(names: Sequence[str], fraction: float) -> Bool[Tensor, " n"]:
    """Which names have a hash (blake2b of the UTF-8 text) in the lowest `fraction` of its range: as `falls_below`, of names instead of rows.

    >>> names_fall_below(["wolf", "cat", "wolf"], 0.5).tolist()
    [False, True, False]
    """
    limit = int(fraction * 2.0**64)
    below = {name: int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") < limit for name in set(names)}
    return torch.tensor([below[name] for name in names], dtype=torch.bool)


def joined(names: Sequence[str], contents: Sequence[Hashable]) -> list[str]:
    """The names of families after families that share some content have become one, called by the first of their names in the alphabet.

    >>> joined(["wolf", "dog", "cat", "dog"], [1, 1, 2, 3])
    ['dog', 'dog', 'cat', 'dog']
    """
    above = {name: name for name in names}

    def top(name: str) -> str:
        while above[name] != name:
            above[name] = name = above[above[name]]
        return name

    first: dict[Hashable, str] = {}
    for name, content in zip(names, contents, strict=True):
        one, other = sorted((top(name), top(first.setdefault(content, name))))
        above[other] = one
    return [top(name) for name in names]
