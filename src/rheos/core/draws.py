"""Random numbers as a function of (seed, purpose, step, row, column), never of a global stream.

A row's numbers do not depend on how many rows are drawn with it, so a batch may be split at will, a run may be resumed at any
step, and sixty-four steps may be drawn at once to save time, all with the same bits. Each 64-bit word is a SplitMix64 finaliser
(Steele, Lea and Flood, 2014) of nested counters; normal numbers come from words by Box and Muller's transform.
"""
from __future__ import annotations

import hashlib
import math
import operator
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import SupportsIndex

import numpy as np
import torch
from torch import Tensor

from rheos.core import checks

__all__ = ["Draws"]

_GOLDEN, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_TWO_PI = 2 * math.pi
_AHEAD_STEPS, _AHEAD_NUMBERS = 64, 1 << 18      # how many steps, and at most how many numbers, one look-ahead block holds
_AHEAD_EPOCHS = 256                             # and at most how many orders of a small population


def _signed(word: int) -> int:
    """The int64 with the bits of an unsigned 64-bit word (torch has no wrapping unsigned multiply)."""
    word &= (1 << 64) - 1
    return word - (1 << 64) if word >> 63 else word


def _mix(z: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64, in place."""
    if z.device.type == "cpu":
        # NumPy has unsigned words, whose shifts need no masks: the same bits in half the time.
        words = z.numpy().view(np.uint64)
        shifted = np.empty_like(words)
        for shift, factor in ((30, _FIRST), (27, _SECOND)):
            np.bitwise_xor(words, np.right_shift(words, shift, out=shifted), out=words)
            np.multiply(words, np.uint64(factor), out=words)
        np.bitwise_xor(words, np.right_shift(words, 31, out=shifted), out=words)
        return z
    return _mix_by_torch(z)


def _mix_by_torch(z: Tensor) -> Tensor:
    """The same on any device, with signed words: right shifts must be made logical by masks."""
    z ^= (z >> 30) & ((1 << 34) - 1)
    z *= _signed(_FIRST)
    z ^= (z >> 27) & ((1 << 37) - 1)
    z *= _signed(_SECOND)
    z ^= (z >> 31) & ((1 << 33) - 1)
    return z


@lru_cache(maxsize=4096)
def _hashed(*parts: int | str) -> int:
    """A 64-bit hash of integers and strings that is the same on every machine."""
    text = "\x1f".join(f"{type(p).__name__}:{p}" for p in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


@lru_cache(maxsize=64)
def _counters(start: int, count: int, device: torch.device) -> Tensor:
    return (torch.arange(start + 1, start + 1 + count, dtype=torch.int64, device=device)) * _signed(_GOLDEN)


def _words(key: int, steps: Sequence[int], first: int, rows: int, columns: int, device: torch.device) -> Tensor:
    """(steps, rows, columns) int64 words: three nested finalisers over step, row and column counters."""
    counters = torch.tensor([_signed((s + 1) * _GOLDEN + key) for s in steps], dtype=torch.int64, device=device)
    per_row = _mix(_mix(counters)[:, None] + _counters(first, rows, device))
    return _mix(per_row[:, :, None] + _counters(0, columns, device))


def _unit(words: Tensor, dtype: torch.dtype) -> Tensor:
    """Uniform numbers inside (0, 1): the middle of each of 2**23 (float32) or 2**52 (float64) equal cells, so never 0 and never 1."""
    bits = 52 if dtype == torch.float64 else 23
    return ((words >> (64 - bits)) & ((1 << bits) - 1)).to(dtype).add_(0.5).mul_(2.0**-bits)


def _normal(words: Tensor, columns: int, dtype: torch.dtype) -> Tensor:
    """Box-Muller. float32 takes a pair of normals from one word (|z| up to 6.8), float64 from two (|z| up to 8.6)."""
    if dtype == torch.float64:
        radius = _unit(words[..., 0::2], dtype)
        angle = _unit(words[..., 1::2], dtype).mul_(_TWO_PI)
    else:
        radius = ((words >> 32) & 0xFFFFFFFF).to(dtype).add_(0.5).mul_(2.0**-32)
        angle = (words & 0xFFFFFFFF).to(dtype).mul_(_TWO_PI * 2.0**-32)
    radius.log_().mul_(-2.0).sqrt_()
    pairs = torch.empty((*radius.shape, 2), dtype=dtype, device=words.device)
    torch.mul(radius, angle.cos(), out=pairs[..., 0])
    torch.mul(radius, angle.sin_(), out=pairs[..., 1])
    return pairs.flatten(-2)[..., :columns]


def _order(words: Tensor) -> Tensor:
    """The order that sorts words by their lowest 48 bits, ties by position: on the CPU by three passes of NumPy's radix sort."""
    if words.device.type != "cpu":
        return (words & ((1 << 48) - 1)).argsort(stable=True)
    digits = np.ascontiguousarray(words.numpy().astype("<i8", copy=False)).view("<u2").reshape(-1, 4)
    order = np.arange(len(digits))
    for k in range(3):
        order = order[np.argsort(np.ascontiguousarray(digits[order, k]), kind="stable")]
    return torch.from_numpy(order)


@dataclass(frozen=True)
class Draws:
    """All random numbers of a run, from one seed.

    seed: any whole number (hashed, so neighbouring and huge seeds are unrelated streams).

    Every method takes a `purpose` (a name such as "noise": different purposes are independent) and a `step`. `shape` is
    (rows, *event); `first` is the number of the first row, so `rows(p, s, (10, d))[4:]` equals `rows(p, s, (6, d), first=4)`.
    `step` may be a range: the result then has a leading axis of steps.

    >>> a = Draws(0).rows("noise", 5, (100, 3))
    >>> b = Draws(0).rows("noise", 5, (37, 3), first=20)
    >>> torch.equal(a[20:57], b)
    True
    """

    seed: SupportsIndex = 0
    _ahead: dict = field(default_factory=dict, repr=False, compare=False, hash=False)

    def __post_init__(self):
        # A plain int: equal numbers of other types (NumPy's) would be hashed as other seeds.
        object.__setattr__(self, "seed", checks.integer("seed", self.seed))

    def __deepcopy__(self, memo):
        return Draws(self.seed)

    @staticmethod
    def of(seed: SupportsIndex | Draws) -> Draws:
        """`seed` itself if it is a Draws, else a Draws of that whole number. TypeError for anything else."""
        return seed if isinstance(seed, Draws) else Draws(checks.integer("seed", seed))

    def child(self, name: SupportsIndex | str) -> Draws:
        """An independent family of draws: one per node, per batch, per repetition."""
        return Draws(_hashed("child", self.seed, name if isinstance(name, str) else operator.index(name)))

    # -- rows: the same numbers however the rows are split ------------------------------------------------------------

    def rows(self, purpose: str, step: int | range, shape: Sequence[int], *, first: int = 0,
             device: torch.device | str | None = None, dtype: torch.dtype | None = None, ahead: bool = False) -> Tensor:
        """Standard normal numbers, (rows, *event). Complex dtypes have unit variance. `ahead` draws coming steps in one go (same bits)."""
        dtype = dtype or torch.get_default_dtype()
        return self._draw("normal", purpose, step, shape, first, device, dtype, ahead)

    def uniform(self, purpose: str, step: int | range, shape: Sequence[int], *, first: int = 0,
                device: torch.device | str | None = None, dtype: torch.dtype | None = None, ahead: bool = False) -> Tensor:
        """Uniform numbers strictly inside (0, 1), (rows, *event)."""
        return self._draw("uniform", purpose, step, shape, first, device, dtype or torch.get_default_dtype(), ahead)

    def integers(self, purpose: str, step: int | range, shape: Sequence[int], high: int, *, first: int = 0,
                 device: torch.device | str | None = None, ahead: bool = False) -> Tensor:
        """Whole numbers 0 <= k < high (at most 2**31), int64, (rows, *event). Bias at most high / 2**32."""
        high = checks.integer("high", high, least=1)
        if high > 1 << 31:
            raise ValueError(f"high must be at most 2**31, got {high}")
        return self._draw(("integers", high), purpose, step, shape, first, device, torch.int64, ahead)

    def categorical(self, purpose: str, step: int, logits: Tensor, *, first: int = 0) -> Tensor:
        """One class a row by Gumbel's maximum in float64: float32 uniforms would truncate the Gumbel law and suppress rare classes.

        logits: (rows, classes), unnormalised; -inf forbids a class. Returns (rows,) int64. ValueError for a row that allows no class.
        """
        checks.tensor("logits", logits, floating=True)
        if not bool((torch.logsumexp(logits.double(), -1).abs() < math.inf).all()):
            raise ValueError("logits must be below infinity and leave a class possible in every row")
        u = self.uniform(purpose, step, tuple(logits.shape), first=first, device=logits.device, dtype=torch.float64)
        return (logits.double() - torch.log(-torch.log(u))).argmax(-1)

    def batch(self, purpose: str, step: int, population: int, size: int, *, device: torch.device | str | None = None) -> Tensor:
        """Indices (size,) of minibatch `step`: each epoch visits every member of the population once, in an order of its own."""
        slot = ("batch", purpose, population, size, device)
        kept = self._ahead.get(slot)
        if kept is None or step // kept[0] != kept[1]:
            population, size = checks.integer("population", population, least=1), checks.integer("size", size, least=1)
            checks.integer("step", step, least=0)
            span = max(1, min(_AHEAD_STEPS, _AHEAD_NUMBERS // size, _AHEAD_EPOCHS * population // size))
            block = step // span
            start, end = block * span * size, (block + 1) * span * size
            epochs = range(start // population, -(-end // population))
            order = torch.cat([self._permutation(purpose, epoch, population, device) for epoch in epochs])
            inside = order[start - epochs[0] * population : end - epochs[0] * population]
            kept = self._ahead[slot] = (span, block, inside.split(size))
        return kept[2][step % kept[0]].clone()

    def permutation(self, purpose: str, step: int, count: int, *, device: torch.device | str | None = None) -> Tensor:
        """A random order of 0..count-1, (count,) int64."""
        return self._permutation(purpose, step, checks.integer("count", count, least=1), device).clone()

    def _permutation(self, purpose: str, step: int, count: int, device: torch.device | str | None) -> Tensor:
        device = torch.device(device or "cpu")
        slot = ("permutation", purpose, count, device)
        kept = self._ahead.get(slot)
        if kept is None or kept[0] != step:
            words = _words(_hashed(self.seed, purpose), [step], 0, count, 1, device)[0, :, 0]
            kept = self._ahead[slot] = (step, _order(words))
        return kept[1]

    def _draw(self, law, purpose, step, shape, first, device, dtype, ahead) -> Tensor:
        if ahead:
            # The hot path of small training loops: one look-up, no checks, no hashing of words.
            slot = (law, purpose, shape if type(shape) is tuple else tuple(shape), first, device, dtype)
            kept = self._ahead.get(slot)
            if kept is not None and step // kept[0] == kept[1]:
                return kept[2][step % kept[0]].clone()
        if not isinstance(shape, Sequence) or not len(shape):
            raise ValueError(f"shape must be (rows, *event), got {shape!r}")
        if not isinstance(step, range):
            checks.integer("step", step, least=0)
        rows, *event = shape
        first, rows = checks.integer("first", first, least=0), checks.integer("shape[0]", rows, least=0)
        columns = math.prod(event)
        place = torch.device(device or "cpu")
        if isinstance(step, range):
            return self._compute(law, purpose, step, rows, columns, first, place, dtype).reshape(len(step), rows, *event)
        if not ahead or rows * columns * 2 > _AHEAD_NUMBERS:
            return self._compute(law, purpose, [step], rows, columns, first, place, dtype).reshape(rows, *event)
        span = min(_AHEAD_STEPS, _AHEAD_NUMBERS // max(rows * columns, 1))
        block = step // span
        numbers = self._compute(law, purpose, range(block * span, (block + 1) * span), rows, columns, first, place, dtype)
        self._ahead[slot] = (span, block, numbers.reshape(span, rows, *event).unbind(0))
        return self._ahead[slot][2][step % span].clone()

    def _compute(self, law, purpose, steps, rows, columns, first, device, dtype) -> Tensor:
        key = _hashed(self.seed, purpose)
        if law == "normal" and dtype.is_complex:
            real = torch.float64 if dtype == torch.complex128 else torch.float32
            pairs = self._compute("normal", purpose, steps, rows, 2 * columns, first, device, real)
            return torch.view_as_complex(pairs.reshape(len(steps), rows, columns, 2).contiguous()).mul_(math.sqrt(0.5)).to(dtype)
        if law in ("normal", "uniform") and not dtype.is_floating_point:
            raise TypeError(f"dtype must be a floating or complex type, got {dtype}")
        work = dtype if dtype in (torch.float32, torch.float64) else torch.float32
        if law == "normal":
            pairs = (columns + 1) // 2
            words = _words(key, steps, first, rows, 2 * pairs if work == torch.float64 else pairs, device)
            return _normal(words, columns, work).to(dtype)
        words = _words(key, steps, first, rows, columns, device)
        if law == "uniform":
            # Rounding to a short dtype would carry the largest numbers to 1.
            return _unit(words, work).to(dtype).clamp_(max=1 - torch.finfo(dtype).eps / 2)
        return (((words >> 32) & 0xFFFFFFFF) * law[1]) >> 32

    # -- streams: for code that must be handed a generator, and for networks that read torch's own ---------------------

    def generator(self, purpose: str, step: SupportsIndex = 0, node: SupportsIndex = 0, device: torch.device | str = "cpu") -> torch.Generator:
        """A torch.Generator of this (purpose, step, node). Seeds are 32-bit hashes: the CPU generator ignores higher bits."""
        made = torch.Generator(device=device)
        made.manual_seed(_hashed(self.seed, purpose, operator.index(step), operator.index(node)) & 0xFFFFFFFF)
        return made

    @contextmanager
    def scope(self, step: SupportsIndex, device: torch.device | str = "cpu") -> Iterator[None]:
        """Inside, torch's global stream is a function of (seed, step): a network's dropout is resumable. Restored on leaving."""
        device = torch.device(device)
        seed = _hashed(self.seed, "scope", operator.index(step)) & 0xFFFFFFFF
        outer = torch.get_rng_state()
        outer_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        torch.default_generator.manual_seed(seed)
        if outer_device is not None:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        try:
            yield
        finally:
            torch.set_rng_state(outer)
            if outer_device is not None:
                torch.cuda.set_rng_state(outer_device, device)
