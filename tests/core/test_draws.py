"""Draws: the same bits however split; the right laws, by statistical tests that a bad generator fails and Philox passes."""
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rheos.core import Draws
from rheos.core import draws as module

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.complex64, torch.complex128]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [1, 2, 3, 7, 16, 33, 785])
def test_rows_do_not_depend_on_the_split(dtype, columns):
    whole = Draws(3).rows("noise", 5, (101, columns), dtype=dtype)
    for start, end in [(0, 1), (1, 4), (4, 37), (37, 101)]:
        assert torch.equal(whole[start:end], Draws(3).rows("noise", 5, (end - start, columns), dtype=dtype, first=start))


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(1, 70), columns=st.integers(1, 40), cut=st.integers(0, 70), step=st.integers(0, 10**6), seed=st.integers(-(2**70), 2**70))
def test_any_split_of_uniforms_and_integers(rows, columns, cut, step, seed):
    cut, draws = min(cut, rows), Draws(seed)
    for draw in (lambda n, first: draws.uniform("u", step, (n, columns), first=first), lambda n, first: draws.integers("i", step, (n, columns), 17, first=first)):
        assert torch.equal(draw(rows, 0), torch.cat([draw(cut, 0), draw(rows - cut, cut)]))


@pytest.mark.parametrize("law", ["rows", "uniform"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_drawing_ahead_changes_no_bit(law, dtype):
    draws = Draws(11)
    for step in [0, 1, 63, 64, 65, 200, 64]:
        assert torch.equal(getattr(draws, law)("x", step, (37, 3), dtype=dtype, ahead=True), getattr(Draws(11), law)("x", step, (37, 3), dtype=dtype))
    assert torch.equal(getattr(draws, law)("x", range(5, 9), (37, 3), dtype=dtype)[2], getattr(draws, law)("x", 7, (37, 3), dtype=dtype))


def test_changing_what_was_drawn_ahead_does_not_change_the_next_draw():
    draws = Draws(1)
    draws.rows("x", 3, (4, 2), ahead=True).zero_()
    assert torch.equal(draws.rows("x", 3, (4, 2), ahead=True), Draws(1).rows("x", 3, (4, 2)))


def test_every_argument_matters():
    kinds = [Draws(0).rows("a", 0, (64,)), Draws(1).rows("a", 0, (64,)), Draws(2**32).rows("a", 0, (64,)), Draws(0).rows("b", 0, (64,)),
             Draws(0).rows("a", 1, (64,)), Draws(0).rows("a", 0, (64,), first=64), Draws(0).child("a").rows("a", 0, (64,)), Draws(0).child(0).rows("a", 0, (64,))]
    for i, one in enumerate(kinds):
        for other in kinds[i + 1 :]:
            assert float((one * other).mean().abs()) < 5 / math.sqrt(64) * 1.2 and not torch.equal(one, other)


def test_both_ways_of_hashing_give_the_same_words():
    """The CPU's and the other devices' finaliser, against SplitMix64's published outputs for the states 0 and 1234567."""
    z = torch.randint(-(2**63), 2**63 - 1, (3, 5, 7), generator=torch.Generator().manual_seed(0))
    assert torch.equal(module._mix(z.clone()), module._mix_by_torch(z.clone()))
    state = torch.tensor([module._signed(0 + module._GOLDEN), module._signed(1234567 + module._GOLDEN)])
    assert module._mix(state.clone()).numpy().view(np.uint64).tolist() == [16294208416658607535, 6457827717110365317]


# -- statistical battery: p-values of a sample of uniform words must be unremarkable ------------------------------------

def battery(bits: np.ndarray) -> list[float]:
    """p-values for words uint64 (steps, rows, columns): uniformity of high and low parts, pairs along each axis, bit balance, bit-lag."""
    flat = bits.reshape(-1)
    high, low = (flat >> np.uint64(32)).astype(np.float64) / 2**32, (flat & np.uint64(0xFFFFFFFF)).astype(np.float64) / 2**32
    values = [stats.kstest(high, "uniform").pvalue, stats.kstest(low, "uniform").pvalue]
    u = (bits >> np.uint64(40)).astype(np.float64) / 2**24
    for axis in range(3):       # neighbours along steps, rows, columns: chi-square on a 16 x 16 table
        a, b = np.take(u, range(0, u.shape[axis] - 1), axis).ravel(), np.take(u, range(1, u.shape[axis]), axis).ravel()
        table = np.histogram2d(a, b, bins=16, range=[[0, 1], [0, 1]])[0].ravel()
        values.append(stats.chisquare(table).pvalue)
    ones = np.array([((flat >> np.uint64(k)) & np.uint64(1)).mean() for k in range(64)])
    values.append(stats.chi2.sf((((ones - 0.5) * 2) ** 2 * len(flat)).sum(), 64))
    for axis in range(3):       # bit k of a word against bit k of its neighbour
        a, b = np.take(bits, range(0, bits.shape[axis] - 1), axis).ravel(), np.take(bits, range(1, bits.shape[axis]), axis).ravel()
        x = a ^ b
        flips = np.array([((x >> np.uint64(k)) & np.uint64(1)).mean() for k in range(64)])
        values.append(stats.chi2.sf((((flips - 0.5) * 2) ** 2 * len(x)).sum(), 64))
    return values


SHAPE = (20, 60, 50)


def words(seed):
    return module._words(module._hashed(seed, "battery"), range(SHAPE[0]), 0, *SHAPE[1:], torch.device("cpu")).numpy().view(np.uint64)


def philox(seed):
    return np.random.Generator(np.random.Philox(seed)).integers(0, 2**64, SHAPE, dtype=np.uint64)


@pytest.mark.parametrize("source", [words, philox])
def test_words_pass_the_battery(source, seed):
    values = np.concatenate([battery(source(1000 * seed + k)) for k in range(3)])
    assert values.min() > 1e-6 / len(values), values          # by chance once in a million runs
    assert values.max() < 1 - 1e-6 / len(values), values      # too even is as bad


@pytest.mark.parametrize("bad", ["no finaliser", "row counter shared with columns", "low bits of a congruence"])
def test_the_battery_catches_bad_generators(bad):
    steps, rows, columns = (np.arange(n, dtype=np.uint64) for n in SHAPE)
    golden = np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):
        if bad == "no finaliser":
            made = (steps[:, None, None] * np.uint64(7919) + rows[:, None] * np.uint64(104729) + columns) * golden
        elif bad == "row counter shared with columns":
            key = module._hashed(0, "x") % 2**31
            z = torch.from_numpy(((steps[:, None, None] * np.uint64(10**6) + rows[:, None] + columns + np.uint64(key)) * golden).view(np.int64).copy())
            made = np.ascontiguousarray(module._mix(z).numpy().view(np.uint64))
            made[:, :, 1:] = made[:, :, :-1].copy()           # columns repeat their neighbour
        else:
            flat = np.cumprod(np.full(math.prod(SHAPE), 6364136223846793005, dtype=np.uint64), dtype=np.uint64)
            made = flat.reshape(SHAPE)
    assert min(battery(made)) < 1e-9


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normals_are_normal(dtype, seed):
    z = Draws(seed).rows("z", range(4), (300, 101), dtype=dtype).double().numpy()
    assert stats.kstest(z.ravel(), "norm").pvalue > 1e-7
    for a, b in [(z[..., :-1], z[..., 1:]), (z[:, :-1], z[:, 1:]), (z[:-1], z[1:]), (z[..., :-1] ** 2, z[..., 1:] ** 2)]:
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 5 / math.sqrt(a.size)
    n = z.size
    assert abs((z**4).mean() - 3) < 5 * math.sqrt(96 / n)


def test_extreme_words_give_finite_normals_and_open_uniforms():
    edge = torch.tensor([[0, -1, 1, 2**63 - 1, -(2**63), 0xFFFFFFFF, 0xFFFFFFFF << 31, -2]], dtype=torch.int64)
    for dtype in (torch.float32, torch.float64):
        columns = 8 if dtype == torch.float64 else 16
        assert torch.isfinite(module._normal(edge, columns, dtype)).all()
        u = module._unit(edge, dtype)
        assert float(u.min()) > 0 and float(u.max()) < 1


def test_integers_are_even(seed):
    counts = torch.bincount(Draws(seed).integers("i", 0, (70_000,), 7), minlength=7).numpy()
    assert stats.chisquare(counts).pvalue > 1e-7 and len(counts) == 7


def test_categorical_draws_rare_classes_at_their_rate(seed):
    p = torch.tensor([0.7, 0.25, 0.049, 0.001])
    drawn = Draws(seed).categorical("c", 0, p.log().expand(100_000, 4))
    counts = torch.bincount(drawn, minlength=4).numpy()
    assert stats.chisquare(counts, p.double().numpy() / float(p.double().sum()) * 100_000).pvalue > 1e-7


@pytest.mark.parametrize(("population", "size"), [(10, 3), (7, 7), (5, 12)])
def test_an_epoch_visits_everyone_once(population, size):
    seen = torch.cat([Draws(4).batch("rows", step, population, size) for step in range(population)])       # `size` whole epochs
    for epoch in seen.split(population):
        assert sorted(epoch.tolist()) == list(range(population))
    assert seen[:population].tolist() != seen[population : 2 * population].tolist()


def test_orders_sort_the_words_and_are_even(seed):
    words = module._words(seed, [0], 0, 1000, 1, torch.device("cpu"))[0, :, 0]
    low = words & ((1 << 48) - 1)
    assert torch.equal(module._order(words), low.argsort(stable=True)) and bool((low[module._order(words)].diff() >= 0).all())
    # where the first of five ends up, over many epochs
    first = torch.stack([Draws(seed).permutation("p", k, 5) for k in range(4000)])[:, 0]
    assert stats.chisquare(torch.bincount(first, minlength=5).numpy()).pvalue > 1e-7


def test_scope_fixes_and_restores_the_global_stream():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    with Draws(0).scope(7):
        a = torch.rand(5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(100)
    with pytest.raises(RuntimeError, match="inside"), Draws(0).scope(7):
        assert torch.equal(a, torch.rand(5))
        raise RuntimeError("inside")
    with Draws(0).scope(8):
        assert not torch.equal(a, torch.rand(5))


def test_generator_is_a_function_of_its_arguments():
    first = torch.rand(4, generator=Draws(0).generator("g", 1, 2))
    assert torch.equal(first, torch.rand(4, generator=Draws(0).generator("g", 1, 2)))
    for other in [("g", 1, 3), ("g", 2, 2), ("h", 1, 2)]:
        assert not torch.equal(first, torch.rand(4, generator=Draws(0).generator(*other)))


def test_equal_seeds_are_equal_whatever_their_type():
    assert torch.equal(Draws(np.int64(5)).rows("x", 0, (3,)), Draws(5).rows("x", 0, (3,)))
    assert torch.equal(torch.rand(2, generator=Draws(0).generator("g", np.int64(3))), torch.rand(2, generator=Draws(0).generator("g", 3)))
    assert Draws(0).child(np.int64(3)) == Draws(0).child(3) != Draws(0).child("3")


def test_what_is_drawn_is_the_callers_own():
    draws = Draws(0)
    for draw in (lambda: draws.batch("b", 0, 10, 4), lambda: draws.permutation("p", 0, 10), lambda: draws.uniform("u", 0, (4,), ahead=True)):
        first = draw()
        kept = first.clone()
        first.zero_()
        assert torch.equal(draw(), kept)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_short_dtypes_stay_below_one(dtype):
    u = Draws(0).uniform("u", 0, (100_000,), dtype=dtype)
    assert float(u.max()) < 1 and float(u.min()) >= 0


def test_refusals():
    with pytest.raises(TypeError, match="seed"):
        Draws(0.5)
    with pytest.raises(TypeError, match="seed"):
        Draws.of("zero")
    with pytest.raises(ValueError, match=r"shape\[0\] must be at least 0, got -1"):
        Draws(0).rows("x", 0, (-1, 2))
    with pytest.raises(ValueError, match="high must be at most"):
        Draws(0).integers("x", 0, (1,), 2**31 + 1)
    for call in (lambda: Draws(0).rows("x", 0, ()), lambda: Draws(0).rows("x", -1, (2,)), lambda: Draws(0).batch("x", -1, 5, 2)):
        with pytest.raises(ValueError, match="shape must be|step must be at least 0, got -1"):
            call()
    with pytest.raises(TypeError, match="floating or complex type, got torch.int64"):
        Draws(0).rows("x", 0, (2,), dtype=torch.int64)
    for row in ([-float("inf")] * 3, [float("nan"), 0.0, 0.0], [float("inf"), 0.0, 0.0]):
        with pytest.raises(ValueError, match="leave a class possible"):
            Draws(0).categorical("c", 0, torch.tensor([row]))
