"""Text by bytes: the encoding, and files and folders of text."""
from __future__ import annotations

import hashlib
import json
import math

import pytest
import torch

from rheos.core import Draws
from rheos.data import Encoding, Tokens, encoding_from_json, load

pytestmark = pytest.mark.usefixtures("own_cache")
SENTENCE = "Zwölf Boxkämpfer jagen Eva quer über den großen Sylter Deich. " * 9


def test_a_code_is_the_number_in_binary_digits():
    tokens = Tokens((9, 10, 32, 65, 66, 200), 3)
    assert tokens.channels == 3 == math.ceil(math.log2(6))
    x = tokens.encode([bytes([10, 200, 65])])
    assert [sum(2**k for k in range(3) if x[0, k, i] == 1) for i in range(3)] == [1, 5, 3] and set(x.unique().tolist()) == {-1.0, 1.0}
    for count, channels in ((2, 1), (3, 2), (4, 2), (5, 3), (128, 7), (129, 8), (256, 8)):
        assert Tokens(tuple(range(count)), 1).channels == channels


def test_a_one_hot_code_has_one_in_the_tokens_channel():
    tokens = Tokens((9, 65, 200), 2, "onehot")
    assert torch.equal(tokens.encode([bytes([200, 65])]), torch.tensor([[[-1.0, -1.0], [-1.0, 1.0], [1.0, -1.0]]]))


@pytest.mark.parametrize("code", ["bits", "onehot"])
def test_decoding_takes_the_nearest_code(code, seed):
    tokens = Tokens((3, 5, 40, 41, 90, 120, 121, 250, 251, 252, 253), 7, code)
    x = 2.5 * Draws(seed).rows("x", 0, (40, tokens.channels, 7))
    nearest = torch.cdist(x.movedim(1, 2).reshape(-1, tokens.channels), tokens.codes).argmin(1).reshape(40, 7)
    assert torch.equal(tokens.ids(x), nearest)
    assert tokens.raw(x[:1])[0] == bytes(tokens.alphabet[i] for i in nearest[0].tolist())


@pytest.mark.parametrize("code", ["bits", "onehot"])
def test_windows_survive_the_round_trip_and_json(code):
    windows = [b"ab\ncd\xc3\xa4", b"ddcc \xc3\xa4"]
    tokens = Tokens.of(windows, code)
    x = tokens.encode(windows)
    assert tokens.raw(x) == windows and tokens.decode(x) == ["ab\ncdä", "ddcc ä"] and isinstance(tokens, Encoding)
    assert tokens.decode(x[..., :].double() * 0.1) == ["ab\ncdä", "ddcc ä"]
    again = encoding_from_json(json.loads(json.dumps(tokens.to_json())))
    assert again == tokens and torch.equal(again.encode(windows), x)
    assert tokens.header() + tokens.text(x) == "ab\ncdä\n%\nddcc ä\n%\n"


def test_bytes_that_are_no_letter_are_replaced():
    tokens = Tokens((65, 195), 2)
    assert tokens.decode(tokens.encode([bytes([195, 65])])) == ["\ufffdA"]


def test_a_file_is_cut_into_windows_in_order(tmp_path):
    content = SENTENCE.encode()
    (tmp_path / "book.txt").write_bytes(b"\xef\xbb\xbf" + content)
    data = load(tmp_path / "book.txt", length=10, held_out=0.0)
    assert data.encoding.raw(data.x) == [content[i:i + 10] for i in range(0, len(content) - 9, 10)] and len(content) % 10
    assert data.encoding.alphabet == tuple(sorted(set(content[:len(content) // 10 * 10])))
    assert data.bounds is None and data.y is None and data.event == data.encoding.event == (data.encoding.channels, 10)


def test_windows_are_held_out_by_their_bytes(tmp_path):
    (tmp_path / "book").write_text(SENTENCE + SENTENCE[3:] + SENTENCE)
    apart = {}
    for code in ("bits", "onehot"):
        data = load(tmp_path / "book", length=16, held_out=0.4, code=code)
        train, held_out = data.encoding.raw(data.x), data.encoding.raw(data.held_out.x)
        assert not set(train) & set(held_out)
        apart[code] = held_out
    assert apart["bits"] == apart["onehot"]
    limit = int(0.4 * 2**64)
    for window in train + held_out:
        row = torch.tensor(list(window), dtype=torch.float32).numpy().astype("<f4").tobytes()
        assert (int.from_bytes(hashlib.blake2b(row, digest_size=8).digest(), "little") < limit) == (window in held_out)


def test_a_folder_of_text_is_joined_by_path(tmp_path):
    (tmp_path / "b").mkdir()
    for name, content in (("b/1.md", "0123456789" * 3), ("a.c", "abcdefghijkl"), (".hidden", "never"), ("z.txt", ""), ("b/._1.md", "\0\0")):
        (tmp_path / name).write_text(content)
    data = load(tmp_path, length=9, held_out=0.0)
    assert data.encoding.raw(data.x) == [b"abcdefghi", b"jkl012345", b"678901234", b"567890123"] and data.name == tmp_path.name


FILES = {
    "empty.txt": (b"", {}, "at least two windows of 64 bytes, got 0 bytes$"),
    "short.txt": (b"abc" * 40, {}, r"two windows of 64 bytes, got 120 bytes: give a smaller --length"),
    "binary.txt": (b"abc" * 90 + b"\0x", {}, "is not text: it holds a zero byte at 270"),
    "latin": ("für".encode("latin-1") * 90, {}, "is not text: it is not UTF-8 at byte 1"),
    "one.log": (b"a" * 900, {}, r"one byte value only \(97\)"),
    "long.md": (b"ab" * 900, {"length": 1025}, "length must be from 8 to 1024, got 1025"),
    "small.md": (b"ab" * 900, {"length": 7}, "length must be from 8 to 1024, got 7"),
    "code.md": (b"ab" * 900, {"code": "bit"}, r"code must be one of bits, onehot, got 'bit' \(did you mean bits\?\)"),
}


@pytest.mark.parametrize("name", FILES)
def test_refuses_a_bad_file_in_one_line(tmp_path, name):
    content, options, message = FILES[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        load(tmp_path / name, **options)
    assert "\n" not in str(caught.value)


def test_refuses_a_folder_with_other_things(tmp_path):
    for name, content in (("a.txt", b"x" * 500), ("b.dat", b"\0x"), ("c.dat", b"\0y"), ("d", b"\0")):
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=r"3 of 4 files are not text, \.dat \(2\), no suffix \(1\); the first, b\.dat, holds a zero byte"):
        load(tmp_path)
    for name in ("b.dat", "c.dat", "d"):
        (tmp_path / name).write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"3 of 4 files are not text.*the first, b\.dat, is not UTF-8 at byte 0"):
        load(tmp_path)


@pytest.mark.parametrize("arguments, message", [
    (((1,), 8), "alphabet must be 2 to 256 rising"), (((2, 1), 8), "rising"), (((1, 1), 8), "rising"), (((1, 256), 8), "rising"), (((-1, 2), 8), "rising"),
    (((1, 2), 0), "length must be at least 1"), (((1, 2), 8, "hot"), "code must be one of"),
])
def test_refuses_an_impossible_encoding(arguments, message):
    with pytest.raises(ValueError, match=message):
        Tokens(*arguments)


def test_refuses_what_does_not_fit_the_encoding():
    tokens = Tokens.of([b"abca"])
    with pytest.raises(ValueError, match="windows must have 4 bytes, got 3"):
        tokens.encode([b"abc"])
    with pytest.raises(ValueError, match="byte 122 is not in the alphabet of 3 bytes"):
        tokens.encode([b"abcz"])
    with pytest.raises(ValueError, match=r"x must have shape \(any, 2, 4\)"):
        tokens.decode(torch.zeros(1, 2, 5))
    with pytest.raises(ValueError, match="x must be finite"):
        tokens.decode(torch.full((1, 2, 4), torch.nan))
    with pytest.raises(ValueError, match="windows must have one length"):
        Tokens.of([b"ab", b"a"])


@pytest.mark.parametrize("described", [
    None, [], {}, {"kind": "os.system"}, {"kind": ["tokens"]}, {"kind": "tokens"}, {"kind": "tokens", "alphabet": "ab", "length": 8, "code": "bits"},
    {"kind": "tokens", "alphabet": [1, 2], "length": "8", "code": "bits"}, {"kind": "tokens", "alphabet": 7, "length": 8, "code": "bits"},
    {"kind": "columns"}, {"kind": "columns", "columns": [{"kind": "posix"}]}, {"kind": "columns", "columns": []}, {"kind": "columns", "columns": 3},
])
def test_only_known_kinds_are_built_from_json(described):
    with pytest.raises(ValueError, match="encoding") as caught:
        encoding_from_json(described)
    assert "\n" not in str(caught.value)
