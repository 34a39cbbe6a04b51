"""Dataset and its division by content."""
from __future__ import annotations

import hashlib
import struct

import pytest
import torch

from rheos.core import Draws
from rheos.data import Dataset
from rheos.data.dataset import divided, falls_below


def test_the_hash_is_blake2b_of_the_rows_own_bytes():
    x = torch.tensor([[0.5, -2.0, 3.0], [0.0, 1.0, -7.25]])
    shares = []
    for row in x.tolist():
        word = int.from_bytes(hashlib.blake2b(struct.pack("<3f", *row), digest_size=8).digest(), "little")
        shares.append(word / 2**64)
    for fraction in (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0):
        assert falls_below(x, fraction).tolist() == [share < fraction for share in shares]


def test_the_share_held_out_is_near_the_fraction(seed):
    x = Draws(seed).rows("x", 0, (4000, 3))
    for fraction in (0.1, 0.5):
        error = 5 * (fraction * (1 - fraction) / len(x)) ** 0.5
        assert abs(falls_below(x, fraction).float().mean().item() - fraction) < error


def test_equal_rows_fall_together_wherever_they_stand(seed):
    x = Draws(seed).rows("x", 0, (60, 2, 3))
    order = Draws(seed).permutation("order", 0, 60)
    side = falls_below(x, 0.4)
    assert torch.equal(falls_below(x[order], 0.4), side[order])
    assert torch.equal(falls_below(torch.cat([x, x[::7]]), 0.4)[60:], side[::7])
    assert torch.equal(falls_below(x.double(), 0.4), side)
    signed = torch.where(x > 0, 0.0, -0.0)
    assert torch.equal(falls_below(signed, 0.4), falls_below(signed.abs(), 0.4))


def test_parts_keep_order_labels_and_description(seed):
    x, y = Draws(seed).rows("x", 0, (50, 4)), Draws(seed).integers("y", 0, (50,), 3)
    data = divided("toy", x, y, 0.3, classes=3, meaning="four numbers")
    apart = falls_below(x, 0.3)
    assert torch.equal(data.x, x[~apart]) and torch.equal(data.y, y[~apart])
    assert torch.equal(data.held_out.x, x[apart]) and torch.equal(data.held_out.y, y[apart])
    assert (len(data), data.event, data.held_out.meaning, data.held_out.held_out) == (50 - int(apart.sum()), (4,), "four numbers", None)


def test_no_rows_held_out_is_none_and_all_rows_held_out_is_refused():
    x = torch.tensor([[1.0, 2.0]])
    assert divided("one", x, None, 0.0).held_out is None
    with pytest.raises(ValueError, match="all 1 rows fall into the held-out part"):
        divided("one", x, None, 1.0)


X = torch.tensor([[0.0, 0.5], [1.0, -1.0], [0.25, 0.75]])
Y = torch.tensor([0, 2, 1])


@pytest.mark.parametrize("fields, message", [
    ({"x": X.double()}, "x must be float32"),
    ({"x": torch.zeros(3)}, r"x must have shape \(n, \*event\)"),
    ({"x": torch.zeros(0, 2)}, "no empty axis"),
    ({"x": torch.tensor([[0.0, 1.0], [torch.nan, torch.inf]])}, r"2 of 4 entries that are not, the first at \(1, 0\)"),
    ({"y": Y[:2], "classes": 3}, "one label for each of the 3 rows"),
    ({"y": Y, "classes": 2}, r"y must lie in 0..1, got 2 at row 1"),
    ({"y": Y - 1, "classes": 3}, r"y must lie in 0..2, got -1 at row 0"),
    ({"y": Y.int(), "classes": 3}, "y must be int64"),
    ({"y": Y}, "y and classes go together"),
    ({"classes": 3}, "y and classes go together"),
    ({"y": Y, "classes": 0}, "classes must be at least 1"),
    ({"bounds": (0.0, 1.0)}, r"x must lie in its bounds \[0, 1\], got values from -1 to 1"),
    ({"bounds": (1.0, -1.0)}, "low < high"),
    ({"held_out": Dataset("other", torch.zeros(1, 3))}, "held_out must have the events"),
    ({"held_out": Dataset("other", X, y=Y, classes=3)}, "held_out must have the events"),
])
def test_refusals(fields, message):
    with pytest.raises(ValueError, match=message):
        Dataset(**{"name": "toy", "x": X} | fields)
