"""How varied the tokens of a row are: the entropy of their frequencies, which falls when a sampler draws rare tokens too seldom."""
from __future__ import annotations

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from rheos.core import checks

__all__ = ["token_entropy"]

MOST_NUMBERS = 1 << 26


@torch.no_grad()
def token_entropy(x: Int64[Tensor, "rows length"]) -> Float64[Tensor, " rows"]:
    """-sum_v f_v log f_v of each row, nats; f_v the share of token v among the row's tokens (arXiv:2409.02908, section 4).

    It is at most log(length), and below the entropy of the law that the tokens come from: compare rows of one length.
    ValueError for rows without a token, TypeError for other dtypes.

    >>> token_entropy(torch.tensor([[5, 5, 5, 5], [0, 0, 7, 7]]))
    tensor([0.0000, 0.6931], dtype=torch.float64)
    """
    if checks.tensor("x", x).dtype != torch.int64:
        raise TypeError(f"x must hold int64 token ids, got {x.dtype}")
    if x.ndim != 2 or not x.shape[1]:
        raise ValueError(f"x must have shape (rows, length), got {tuple(x.shape)}")
    # A token that occurs c times among n stands c times with log(c / n) / n: counting by equality needs no vocabulary.
    parts = [(row[:, :, None] == row[:, None, :]).sum(2) for row in x.split(max(1, MOST_NUMBERS // x.shape[1] ** 2))]
    counts = torch.cat(parts) if parts else x.new_zeros(x.shape)
    return -(counts.double() / x.shape[1]).log().mean(1) + 0.0
