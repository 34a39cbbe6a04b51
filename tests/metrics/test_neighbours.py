"""Nearest neighbours against brute force."""
from __future__ import annotations

import pytest
import torch

from rheos.core import Draws
from rheos.metrics import nearest

F64 = torch.float64


@pytest.mark.parametrize("chunk", [1, 7, 4096])
def test_equals_brute_force_whatever_the_chunk(seed, chunk):
    x, known = Draws(seed).rows("x", 0, (23, 1, 2, 3), dtype=F64), Draws(seed).rows("known", 0, (31, 1, 2, 3), dtype=F64)
    gaps = torch.stack([(known - row).square().sum((1, 2, 3)).sqrt() for row in x])
    distance, index = nearest(x, known, chunk=chunk)
    torch.testing.assert_close(distance, gaps.min(1).values, rtol=1e-12, atol=0)
    assert torch.equal(index, gaps.min(1).indices)


def test_known_rows_are_at_distance_zero_far_from_the_origin(seed):
    known = 1e4 + Draws(seed).rows("known", 0, (200, 64))
    order = Draws(seed).permutation("order", 0, 200)
    distance, index = nearest(known[order], known)
    assert torch.equal(distance, torch.zeros(200)) and torch.equal(index, order)


@pytest.mark.parametrize("chunk", [1, 2, 10])
def test_a_tie_goes_to_the_first(chunk):
    known = torch.tensor([[9.0, 9.0], [1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [0.0, -1.0]])
    distance, index = nearest(torch.zeros(1, 2), known, chunk=chunk)
    assert (distance.item(), index.item()) == (1.0, 1)


def test_close_calls_are_decided_by_the_differences_themselves(seed):
    """Far from the origin, neighbours that differ by less than the rounding of a product; and rows that are all the same."""
    known = 1e3 + Draws(seed).rows("known", 0, (60, 40))
    twins = torch.cat([known + 1e-4, known, known - 1e-4])
    distance, index = nearest(known, twins, chunk=50)
    assert torch.equal(index, 60 + torch.arange(60)) and torch.equal(distance, torch.zeros(60))
    same = torch.ones(300, 7)
    distance, index = nearest(2 * same, same, chunk=128)
    assert torch.equal(index, torch.zeros(300, dtype=torch.int64))
    torch.testing.assert_close(distance, torch.full((300,), 7**0.5))


@pytest.mark.parametrize("call, message", [
    (lambda: nearest(torch.zeros(2, 3), torch.zeros(2, 4)), r"same event shape, got \(3,\) and \(4,\)"),
    (lambda: nearest(torch.zeros(2, 3), torch.zeros(0, 3)), "reference must have at least one row"),
    (lambda: nearest(torch.zeros(2, 3), torch.tensor([[0.0, torch.nan, 0.0]])), "reference must be finite"),
    (lambda: nearest(torch.zeros(2, 3), torch.zeros(2, 3), chunk=0), "chunk must be at least 1"),
])
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
