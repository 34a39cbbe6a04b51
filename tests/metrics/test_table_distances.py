"""Distances of columns, associations of a table and n-grams of texts against scipy, numpy, brute force and closed forms."""
from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance
from scipy.stats.contingency import association

from rheos.core import Draws
from rheos.metrics import associations, category_distance, correlation_error, ngram_distance, number_distance

F64 = torch.float64


def skewed(seed, n, purpose="x"):
    z = Draws(seed).rows(purpose, 0, (n,), dtype=F64)
    return z + 0.3 * z**2


def codes(seed, n, weights, purpose="codes"):
    return Draws(seed).categorical(purpose, 0, torch.tensor(weights, dtype=F64).log().expand(n, -1))


# -- numbers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n, m", [(7, 7), (3, 11), (50, 31), (1, 4)])
def test_numbers_are_scipys_distance_in_standard_deviations(seed, n, m):
    x, y = 2 + 3 * skewed(seed, n), 1 + 5 * skewed(seed, m, "y")
    expected = wasserstein_distance(x.numpy(), y.numpy()) / np.std(y.numpy())
    assert number_distance(x, y).item() == pytest.approx(expected, rel=1e-12)


def test_ties_and_equal_columns():
    x = torch.tensor([1.0, 1.0, 1.0, 4.0])
    assert number_distance(x, x).item() == 0
    # F_x - F_y is 1/4 - 3/4 from 1 to 4; y's standard deviation is 3 sqrt(3) / 4
    assert number_distance(x, torch.tensor([1.0, 4.0, 4.0, 4.0])).item() == pytest.approx(0.5 * 3 / (0.75 * math.sqrt(3)), rel=1e-12)


def test_a_shift_costs_itself_and_units_do_not_matter(seed):
    y = skewed(seed, 400)
    assert number_distance(y + 0.7 * y.std(correction=0), y).item() == pytest.approx(0.7, rel=1e-10)
    assert number_distance(60 * (y[:90] - 5), 60 * (y - 5)).item() == pytest.approx(number_distance(y[:90], y).item(), rel=1e-10)


def test_a_constant_column_is_measured_in_its_own_unit():
    assert number_distance(torch.tensor([5.5, 6.5]), torch.full((3,), 5.0)).item() == pytest.approx(1.0)
    assert number_distance(torch.full((2,), 5.0), torch.full((3,), 5.0)).item() == 0


# -- categories --------------------------------------------------------------------------------------------------------


def test_categories_are_half_the_sum_of_differences(seed):
    x, y = codes(seed, 60, [0.6, 0.3, 0.1]), 40 * codes(seed, 37, [0.2, 0.3, 0.5], "y")
    a, b = Counter(x.tolist()), Counter(y.tolist())
    expected = sum(abs(a[k] / 60 - b[k] / 37) for k in a | b) / 2
    assert category_distance(x, y).item() == pytest.approx(expected, abs=1e-15)
    assert category_distance(x, x.flip(0)).item() == 0 and category_distance(x, y + 1000).item() == pytest.approx(1, abs=1e-15)


def test_categories_do_not_know_an_order(seed):
    x, y = codes(seed, 50, [0.5, 0.3, 0.2]), codes(seed, 80, [0.1, 0.6, 0.3], "y")
    renamed = torch.tensor([7, -3, 10**12])
    assert category_distance(renamed[x], renamed[y]).item() == category_distance(x, y).item()


# -- associations ------------------------------------------------------------------------------------------------------


def table(seed, n=300):
    number, group, other = skewed(seed, n), codes(seed, n, [0.5, 0.3, 0.2]), codes(seed, n, [0.7, 0.3], "other")
    return [number, 3 * number + skewed(seed, n, "noise"), -number + group, group, torch.where(number > 0.4, 5, other)]


def test_numbers_have_pearsons_correlation(seed):
    columns = table(seed)[:3]
    expected = np.corrcoef(torch.stack(columns).numpy())
    np.testing.assert_allclose(associations(columns).numpy(), expected, atol=1e-12)


def test_categories_have_cramers_v(seed):
    _, _, _, group, other = table(seed)
    counts = np.array([[((group == i) & (other == j)).sum() for j in other.unique()] for i in group.unique()])
    assert associations([group, other])[0, 1].item() == pytest.approx(association(counts, method="cramer"), rel=1e-10)
    assert associations([group, 7 - 2 * group])[1, 0].item() == pytest.approx(1.0)


def test_a_number_and_a_category_have_the_correlation_ratio(seed):
    """eta is the correlation of the number with the best guess that the category allows, its group's mean."""
    number, _, tilted, group, other = table(seed)
    found = associations([group, tilted, other, number])
    for place, column, category in ((0, tilted, group), (2, tilted, other)):
        means = torch.stack([column[category == code].mean() for code in category.tolist()])
        expected = np.corrcoef(column.numpy(), means.numpy())[0, 1]
        assert found[1, place].item() == pytest.approx(expected, rel=1e-9) and found[place, 1] == found[1, place]
    assert associations([group, group.double() ** 2])[0, 1].item() == pytest.approx(1.0)


def test_a_column_that_does_not_vary_has_nothing_to_do_with_any(seed):
    number, _, _, group, _ = table(seed)
    found = associations([number, torch.full_like(number, 1e9 / 3), group, torch.full_like(group, 4)])
    assert torch.equal(found.diagonal(), torch.ones(4, dtype=F64))
    assert not found[[1, 3]][:, [0, 2]].any() and found[1, 3] == found[3, 1] == 0 and found[0, 2] > 0


def test_scale_and_size_of_numbers_do_not_matter(seed):
    columns = table(seed)
    scaled = [columns[0] * 1e200, columns[1] * 1e-200 - 3e-200, 1e6 + columns[2], *columns[3:]]
    torch.testing.assert_close(associations(scaled), associations(columns), rtol=0, atol=1e-8)


def test_the_error_is_the_mean_over_pairs_and_sees_a_broken_bond(seed):
    columns = table(seed)
    broken = [columns[0].flip(0), *columns[1:]]
    gap = (associations(columns) - associations(broken)).abs()
    pairs = [gap[i, j].item() for i in range(5) for j in range(i)]
    assert correlation_error(columns, broken).item() == pytest.approx(sum(pairs) / 10, rel=1e-12)
    halves = [[column[part] for column in table(seed, 2000)] for part in (slice(0, 1000), slice(1000, 2000))]
    apart = [table(seed, 1000)[0][Draws(seed).permutation("apart", 0, 1000)], *halves[1][1:]]
    assert correlation_error(apart, halves[0]) > 3 * correlation_error(halves[1], halves[0])
    assert correlation_error(columns[:1], broken[:1]).item() == 0


# -- texts -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [1, 2, 3, 7])
def test_ngrams_are_counted_by_brute_force(order):
    x, y = ["the cat sat on the mat, again and again", "café", "no"], [b"the dog sat on the cat\xff\x00", b"a mat", b"", b"againagain"]
    grams = lambda texts: Counter(text[i : i + order] for text in texts for i in range(len(text) - order + 1))
    a, b = grams([text.encode() for text in x]), grams(y)
    expected = sum(abs(a[g] / a.total() - b[g] / b.total()) for g in a | b) / 2
    assert ngram_distance(x, y, order=order).item() == pytest.approx(expected, abs=1e-14)


def test_no_two_grams_are_taken_for_one():
    assert ngram_distance([b"\x01\x00"], [b"\x00\xff"], order=2).item() == 1 and ngram_distance([bytes([0] * 7)], [bytes([0] * 6 + [1])], order=7).item() == 1


def test_longer_grams_see_the_order_of_letters():
    x = ["abcabcabc" * 3]
    y = ["".join(sorted(x[0]))]
    assert ngram_distance(x, y, order=1).item() == 0 and ngram_distance(x, y, order=2).item() > 0.5 and ngram_distance(x, x).item() == 0


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call, message", [
    (lambda: number_distance(torch.zeros(0), torch.ones(2)), "x must be a column of at least one row, got shape \\(0,\\)"),
    (lambda: number_distance(torch.ones(2), torch.tensor([1.0, math.nan])), "y must be finite"),
    (lambda: category_distance(torch.ones(2, dtype=torch.int64), torch.ones(0, dtype=torch.int64)), "y must be a column of at least one row"),
    (lambda: associations([]), "columns must hold at least one column, got none"),
    (lambda: associations([torch.ones(3), torch.ones(2)]), "same length, got 3 in column 0 and 2 in column 1"),
    (lambda: associations([torch.ones(3), torch.tensor([1.0, math.inf, 0.0])]), "column 1 must be finite"),
    (lambda: correlation_error([torch.ones(3)], [torch.ones(3), torch.ones(3)]), "same number of columns, got 1 and 2"),
    (lambda: correlation_error([torch.ones(3)], [torch.ones(3, dtype=torch.int64)]), "columns of the same kinds, got torch.float32 and torch.int64 in column 0"),
    (lambda: ngram_distance(["ab"], ["abc"], order=3), "x must hold a text of at least 3 bytes, got 1 shorter ones"),
    (lambda: ngram_distance(["ab"], ["ab"], order=8), "order must be at most 7"),
    (lambda: ngram_distance(["ab"], ["ab"], order=0), "order must be at least 1"),
])
def test_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_refuses_other_kinds_of_columns():
    with pytest.raises(TypeError):
        associations([torch.ones(3, dtype=torch.int32)])
    with pytest.raises(TypeError):
        ngram_distance("one text", ["two"])
    with pytest.raises(TypeError):
        category_distance(torch.ones(3), torch.ones(3))
