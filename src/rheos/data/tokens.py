"""Text by bytes: every token a short vector of signs, its number in the alphabet written in binary.

code(i) = (2 b_0 - 1, ..., 2 b_{C-1} - 1),  i = sum_k b_k 2^k,  C = ceil(log2 V)

Paper: Chen, Zhang and Hinton, Analog bits, 2022, arXiv:2208.04202, section 3.1. Ours: the alphabet is the bytes that occur, and a vector that
is nobody's code goes to the nearest one that is.
"""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from rheos.core import Draws, checks

__all__ = ["CODES", "DEFAULT_CODE", "Tokens"]

CODES = ("bits", "onehot")
DEFAULT_CODE = "bits"
MOST_TOKENS = 256
CHUNK = 4096                # rows decoded at a time


@dataclass(frozen=True)
class Tokens:
    """Windows of `length` bytes as x (n, channels, length) with entries -1 and 1, and back.

    alphabet: the byte values that occur, rising, 2 to 256 of them. Token i is the byte alphabet[i].
    length:   bytes a window.
    code:     "bits": ceil(log2 V) channels, channel k the k-th binary digit of i. "onehot": V channels, 1 in channel i.

    >>> tokens = Tokens.of([b"abba", b"cabs"])
    >>> tokens.encode([b"cab!"])
    Traceback (most recent call last):
    ValueError: byte 33 is not in the alphabet of 4 bytes
    >>> x = tokens.encode([b"cabs"])
    >>> x[0].int().tolist(), tokens.decode(x)           # c is 2, a 0, b 1, s 3: lowest digits, then highest
    ([[-1, -1, 1, 1], [1, -1, -1, 1]], ['cabs'])
    """

    alphabet: tuple[int, ...]
    length: int
    code: str = DEFAULT_CODE
    kind: ClassVar[str] = "tokens"
    suffix: ClassVar[str] = ".txt"
    papers: ClassVar[tuple[str, ...]] = ("2208.04202",)

    def __post_init__(self):
        object.__setattr__(self, "alphabet", tuple(checks.integer("alphabet", value) for value in self.alphabet))
        rising = all(low < high for low, high in zip(self.alphabet, self.alphabet[1:], strict=False))
        if not 2 <= len(self.alphabet) <= MOST_TOKENS or not rising or self.alphabet[0] < 0 or self.alphabet[-1] > 255:
            raise ValueError(f"alphabet must be 2 to {MOST_TOKENS} rising byte values, got {self.alphabet[:10]}")
        checks.integer("length", self.length, least=1)
        checks.one_of("code", self.code, CODES)

    @classmethod
    def of(cls, windows: Sequence[bytes], code: str = DEFAULT_CODE) -> Tokens:
        """The encoding for these windows, all of one length. ValueError if their lengths differ or only one byte value occurs."""
        lengths = {len(window) for window in windows}
        if len(lengths) != 1:
            raise ValueError(f"windows must have one length, got {sorted(lengths)[:10]}")
        return cls(tuple(sorted(set().union(*windows))), lengths.pop(), code)

    @property
    def channels(self) -> int:
        """Numbers a token takes."""
        return len(self.alphabet) if self.code == "onehot" else (len(self.alphabet) - 1).bit_length()

    @property
    def event(self) -> tuple[int, int]:
        return self.channels, self.length

    @cached_property
    def codes(self) -> Float[Tensor, "V channels"]:
        """The vector of every token, in the order of the alphabet."""
        index = torch.arange(len(self.alphabet))
        if self.code == "onehot":
            return 2 * torch.eye(len(self.alphabet)) - 1
        return 2 * ((index[:, None] >> torch.arange(self.channels)) & 1).float() - 1

    def encode(self, windows: Iterable[bytes]) -> Float[Tensor, "n channels length"]:
        """ValueError for a window of another length or a byte that is not in the alphabet."""
        windows = list(windows)
        for window in windows:
            if len(window) != self.length:
                raise ValueError(f"windows must have {self.length} bytes, got {len(window)}")
        found = torch.frombuffer(bytearray(b"".join(windows)), dtype=torch.uint8) if windows else torch.zeros(0, dtype=torch.uint8)
        place = torch.full((256,), -1)
        place[list(self.alphabet)] = torch.arange(len(self.alphabet))
        index = place[found.long()].reshape(-1, self.length)
        if bool((index < 0).any()):
            raise ValueError(f"byte {int(found[index.flatten() < 0][0])} is not in the alphabet of {len(self.alphabet)} bytes")
        return self.codes[index].movedim(2, 1).contiguous()

    @property
    def vocab(self) -> int:
        """How many tokens there are."""
        return len(self.alphabet)

    def ids(self, x: Tensor) -> Int64[Tensor, "n length"]:
        """The numbers of the nearest tokens."""
        checks.shape_of("x", x, (None, *self.event))
        checks.finite("x", x)
        parts = [self._nearest(rows) for rows in x.detach().cpu().float().split(CHUNK)]
        return torch.cat(parts) if parts else torch.zeros(0, self.length, dtype=torch.int64)

    def from_ids(self, ids: Int64[Tensor, "n length"], *, seed: int | Draws = 0, first: int = 0) -> Float[Tensor, "n channels length"]:
        """The rows x of these tokens, `ids` backwards; nothing is drawn. ValueError for another length and for ids out of range."""
        checks.shape_of("ids", ids, (None, self.length))
        if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < self.vocab:
            raise ValueError(f"ids must lie in 0..{self.vocab - 1}, got {int(ids.min())} to {int(ids.max())}")
        return self.codes[ids.cpu()].movedim(2, 1).contiguous()

    def _nearest(self, x: Tensor) -> Tensor:
        # All codes have one norm, so the nearest has the largest inner product. For bits the signs alone are it, unless they are no one's.
        if self.code == "onehot":
            return x.argmax(1)
        index = ((x > 0).long() << torch.arange(self.channels)[:, None]).sum(1)
        wrong = index >= len(self.alphabet)
        if bool(wrong.any()):
            index[wrong] = (x.movedim(1, 2)[wrong] @ self.codes.T).argmax(1)
        return index

    def raw(self, x: Tensor) -> list[bytes]:
        """The windows as bytes."""
        values = torch.tensor(self.alphabet, dtype=torch.uint8)[self.ids(x)]
        return [bytes(row.tolist()) for row in values]

    def decode(self, x: Tensor) -> list[str]:
        """The windows as text; bytes that are no UTF-8 (a window may begin inside a letter) become the replacement sign."""
        return [window.decode("utf-8", "replace") for window in self.raw(x)]

    def header(self) -> str:
        return ""

    def text(self, x: Tensor) -> str:
        """Each window, then a line with a percent sign: the form of fortune files."""
        return "".join(f"{sample}\n%\n" for sample in self.decode(x))

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "alphabet": list(self.alphabet), "length": self.length, "code": self.code}

    @classmethod
    def from_json(cls, described: Mapping[str, Any]) -> Tokens:
        """The encoding that `to_json` described. ValueError if something is missing or wrong."""
        try:
            return cls(tuple(described["alphabet"]), described["length"], described["code"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"encoding of text is damaged ({type(error).__name__}: {str(error).split(chr(10))[0]})") from error
