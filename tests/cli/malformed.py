"""Malformed data, by kind: arrays, tables, fields, pictures and texts, made wrong on purpose or damaged at random."""
from __future__ import annotations

import io
import struct
import warnings
import zipfile
import zlib
from functools import lru_cache

import numpy as np
from hypothesis import strategies as st

from .arena import Case, train

ENDS = (b"", b"\0", b"\n", b"\xff\xfe", b"\xef\xbb\xbf", b"PK\x03\x04", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\x93NUMPY", b"PAR1", b"\x89HDF\r\n\x1a\n", b"CDF\x01",
        b"\x1f\x8b\x08", b"%PDF-1.4", b"{", b"<html>", b"\0" * 600)


@st.composite
def mutated(draw, content: bytes, most: int = 3):
    """One to three changes: bits turned, a piece cut out, put in, doubled, written over, or the end cut off."""
    content = bytearray(content)
    for _ in range(draw(st.integers(1, most))):
        where = draw(st.integers(0, max(0, len(content) - 1)))
        how = draw(st.sampled_from(("flip", "set", "cut", "drop", "insert", "double", "blank", "number")))
        length = draw(st.integers(1, 40))
        if how == "flip" and content:
            content[where] ^= 1 << draw(st.integers(0, 7))
        elif how == "set" and content:
            content[where] = draw(st.sampled_from((0, 1, 0x7F, 0x80, 0xFF, 0x0A, 0x22, 0x2C)))
        elif how == "cut":
            del content[where:]
        elif how == "drop":
            del content[where : where + length]
        elif how == "insert":
            content[where:where] = draw(st.one_of(st.sampled_from(ENDS), st.binary(min_size=1, max_size=20)))
        elif how == "double":
            content[where:where] = content[where : where + length]
        elif how == "blank":
            content[where : where + length] = draw(st.sampled_from((b"\0", b"\xff"))) * length
        elif how == "number":
            content[where : where + 8] = struct.pack(draw(st.sampled_from("<q >q <d <i".split())), draw(st.sampled_from((-1, 0, 2**31 - 1, 10**8))))
    return bytes(content)


def npy(array, pickled: bool = False) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asanyarray(array), allow_pickle=pickled)
    return buffer.getvalue()


def packed(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(buffer, "w", method) as file:
        warnings.simplefilter("ignore")             # two members of one name
        for name, content in members.items():
            file.writestr(zipfile.ZipInfo(name.rstrip("+")), content, method)
    return buffer.getvalue()


# -- arrays -------------------------------------------------------------------------------------------------------------------

KINDS = ("<f8", ">f8", "<f4", "<f2", "<i8", "<u1", ">i2", "<c16", "?", "O", "<U3", "S4", "<M8[ns]", "<m8[s]", "V4", "<g")
SHAPES = ((), (0,), (0, 3), (3, 0), (1,), (2,), (7,), (1, 1), (5, 1), (5, 3), (4, 1, 1, 1, 1, 1, 1), (3, 2, 2, 2))
VALUES = (0.0, 1.0, -3.0, 255.0, np.nan, np.inf, -np.inf, 1e300, 1e-300, 3e38, 65504.0)


@st.composite
def arrays(draw):
    """Arrays that NumPy writes well and no flow can be learned of, and some that it can."""
    kind, shape, order = draw(st.sampled_from(KINDS)), draw(st.sampled_from(SHAPES)), draw(st.sampled_from("CF"))
    size = int(np.prod(shape))
    pool = draw(st.lists(st.sampled_from(VALUES), min_size=1, max_size=3))
    values = draw(st.lists(st.sampled_from(pool), min_size=size, max_size=size))
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind in ("O", "<U3", "S4"):
            array = np.array([str(v)[:3] for v in values] or [], dtype=kind).reshape(shape)
        elif kind == "V4":
            array = np.zeros(shape, dtype=draw(st.sampled_from(("V4", [("a", "<f4"), ("b", "<i2")]))))
        else:
            array = np.array(values, dtype=np.float64).astype(np.int64 if kind[1:2] in "Mm" else kind).astype(kind).reshape(shape)
    return Case(train("in/x.npy", "--held-out", draw(st.sampled_from(("0", "0.1", "0.99")))), {"in/x.npy": npy(np.asarray(array, order=order), pickled=True)})


CLAIMED = ((), (0,), (3,), (2, 3), (-1, 3), (10**12,), (2**31, 2**31), (2**62, 4), (2**64,), (10**30, 1), (2**27, 2), (1,) * 70, "x", (2, "x"), None, (1.5,), (True, 2), [2, 3])
DESCR = ("<f8", "<f4", "|u1", "|O", "<f99", "", "x", ">c16", "<M8[ns]", "V0", "S0", "<U0", "V2147483647", [("a", "<f4")], [("a", "<f4", (10**6,))], None, 3, ("<f8", (2,)))


@st.composite
def array_headers(draw):
    """Headers of .npy that lie, with little behind them."""
    told = {"descr": draw(st.sampled_from(DESCR)), "fortran_order": draw(st.sampled_from((False, True, 0, "yes", None))), "shape": draw(st.sampled_from(CLAIMED))}
    for name in draw(st.lists(st.sampled_from(("descr", "shape", "fortran_order")), max_size=1)):
        del told[name]
    if draw(st.integers(0, 9)) == 0:
        told["more"] = 1
    text = draw(st.sampled_from((repr(told), repr(told)[:-4], "{" * 300, "1", "__import__('os').system('touch owned')", "[]", "\xe9", f"{told}  # x", "(" * 5000))).encode("latin1")
    text += b" " * draw(st.integers(0, 3)) + b"\n"
    length = draw(st.sampled_from((len(text), len(text) + 1, 0, 65535, len(text) - 1)))
    version = draw(st.sampled_from(((1, 0), (2, 0), (3, 0), (9, 0), (0, 0), (255, 255))))
    head = b"\x93NUMPY" + bytes(version) + (struct.pack("<H", length & 0xFFFF) if version[0] == 1 else struct.pack("<I", draw(st.sampled_from((length, 2**32 - 1)))))
    content = head + text + b"\x01\x00" * draw(st.integers(0, 40))
    member = draw(st.sampled_from((None, None, "x.npy", "x", "y.npy")))
    if member is None:
        return Case(train("in/x.npy"), {"in/x.npy": content}, said="in/x.npy: ")
    return Case(train("in/x.npz"), {"in/x.npz": packed({member: content, "x.npy" if member == "y.npy" else "z.npy": npy(np.eye(4))})}, said="in/x.npz: ")


ROWS = np.arange(24.0).reshape(8, 3) % 5
LABELS = (np.arange(8) % 3, np.arange(8) - 1, np.arange(8) * 10**15, np.arange(8) / 2, np.arange(7), np.zeros((8, 1), int), np.array(3), np.zeros(8, bool),
          np.full(8, 2**63, np.uint64), np.array(["a"] * 8), np.zeros(0, int), np.full(8, 999), np.array([None] * 8), np.zeros(8, "i1"), np.full(8, np.nan))


@st.composite
def archives(draw):
    members = {}
    for name in draw(st.lists(st.sampled_from(("x.npy", "y.npy", "x", "X.npy", "data.npy", "../x.npy", "x.npy+", "y.npy+", "x/", "arr_0.npy")), max_size=4)):
        members[name] = draw(st.one_of(st.just(npy(ROWS)), st.sampled_from(LABELS).map(lambda y: npy(y, pickled=True)), st.sampled_from(ENDS),
                                       st.just(npy(np.array([{"a": 1}]), pickled=True))))
    if draw(st.booleans()):
        members |= {"x.npy": npy(ROWS), "y.npy": npy(draw(st.sampled_from(LABELS)), pickled=True)}
    content = packed(members, draw(st.sampled_from((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))))
    content = draw(st.one_of(st.just(content), mutated(content)))
    return Case(train("in/x.npz", *draw(st.sampled_from(((), ("--condition", "label"), ("--condition", "caption"), ("--label", "y"))))), {"in/x.npz": content})


def wrong_arrays():
    return st.one_of(mutated(npy(ROWS)).map(lambda content: Case(train("in/x.npy"), {"in/x.npy": content}, said="in/x.npy: ")),
                     st.sampled_from(ENDS).flatmap(lambda begun: st.binary(max_size=60).map(lambda rest: Case(train("in/x.npy"), {"in/x.npy": begun + rest}, fine=False, said="in/x.npy: "))))


# -- tables -------------------------------------------------------------------------------------------------------------------

CELLS = ("", " ", "1", "2.5", "-3", "1e400", "-1e400", "1e308", "1e151", "1e-320", "nan", "NA", "inf", "-inf", "NULL", "None", "red", "blue", "True", "false", "2024-01-05",
         "2024-02-30", "9999-12-31", "0000-01-01", "2024-01-05T10:00", "2024-01-05 10:00:00.5Z", '"', '""', '"a', 'a"b', '"a,b"', '"a\nb"', "'", "\0", "é", "\U0001f98a", "=1+1", "1,5",
         "0x1F", "1_000", "1 000", "+5", "--5", "١٢", "%s", "{}", "\ufeff", "9" * 400, "12345678901234567890", "9223372036854775808", "-0", "a" * 70_000, "#", "\\", ";")
HEADERS = ("a,b,c", "a,a,c", "a,,c", ",,", "a", "", "\n", "a,b", "a,b,c,d", '"a\nb",b,c', '"a,b,c', "a;b;c", "a\tb\tc", " a , b ,c", "1,2,3", "a,b,\ufeff", "%s,{},x", "é,\U0001f98a,\x1b[1m",
           "a,b,c,", "label,columns,--columns", "a,b," + "c" * 5000, "a,b,c\0", "number 2,,c", "a'b,\"c\"\"d\",e")
TABLE_FLAGS = ((), ("--missing", "drop"), ("--missing", "median"), ("--missing", "refuse"), ("--missing", "x"), ("--columns", "a"), ("--columns", "a,b"), ("--columns", ""),
               ("--columns", ","), ("--columns", "zzz"), ("--columns", '"a'), ("--columns", "a,a"), ("--label", "c"), ("--label", "zzz"), ("--label", ""), ("--label", "a", "--columns", "a"),
               ("--scale", "rank"), ("--scale", "x"), ("--size", "8"), ("--length", "8"), ("--key", "a"), ("--held-out", "0.999"), ("--held-out", "0"),
               ("--label", "c", "--missing", "drop"), ("--missing", "median", "--scale", "rank"), ("--caption", "a"), ("--condition", "label"), ("--columns", "a\nb"))


@st.composite
def tables(draw):
    """Tables put together of good and bad cells."""
    columns = draw(st.integers(1, 4))
    pool = draw(st.lists(st.sampled_from(CELLS), min_size=1, max_size=4))
    pools = [draw(st.sampled_from((pool, ["1", "2"], ["red", "blue"], ["0.5", ""], ["2024-01-05", "2024-03-01"]))) for _ in range(columns)]
    rows = [[pools[i][draw(st.integers(0, len(pools[i]) - 1))] for i in range(columns)] for _ in range(draw(st.integers(0, 7)))]
    if draw(st.integers(0, 5)) == 0:
        rows = [[f"w{i}"] + ["1"] * (columns - 1) for i in range(draw(st.sampled_from((50, 51, 60))))]
    if rows and draw(st.integers(0, 3)) == 0:
        bad = rows[draw(st.integers(0, len(rows) - 1))]
        bad.append("7") if draw(st.booleans()) else bad.pop()
    end, between = draw(st.sampled_from(("\n", "\n", "\r\n", "\r", "\n\n"))), draw(st.sampled_from((",", ",", ",", "\t", ";", "|")))
    text = end.join([draw(st.sampled_from(HEADERS)), *(between.join(row) for row in rows)]) + draw(st.sampled_from(("", end, "\0", '"')))
    content = text.encode(draw(st.sampled_from(("utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252", "utf-7"))), "replace")
    name = draw(st.sampled_from(("in/x.csv", "in/x.csv", "in/x.csv", "in/x.tsv", "in/x.CSV")))
    return Case(train(name, *draw(st.sampled_from(TABLE_FLAGS))), {name: content})


TABLE = b"price,colour,when,kind\n" + b"".join(b"%d.25,%s,2024-01-%02d,%s\n" % (i, b"red blue green".split()[i % 3], i + 1, b"uv"[i % 2 : i % 2 + 1]) for i in range(20))


def broken_tables():
    flags = st.sampled_from(((), ("--missing", "drop"), ("--missing", "median"), ("--label", "kind"), ("--scale", "rank"), ("--columns", "price,kind")))
    return st.builds(lambda content, flags, name: Case(train(name, *flags), {name: content}, said=f"{name}: "),
                     st.one_of(mutated(TABLE), st.sampled_from(ENDS).flatmap(lambda begun: st.binary(max_size=80).map(lambda rest: begun + rest))),
                     flags, st.sampled_from(("in/x.csv", "in/x.csv", "in/x.tsv")))


@lru_cache
def parquet_columns():
    """Columns of every kind that Parquet knows, six rows each."""
    import datetime
    import decimal

    import pyarrow as pa

    day = datetime.date(2024, 1, 5)
    made = {
        "numbers": [1.0, 2.5, 3.0, 4.0, 5.0, 9.0], "gaps": [1.0, None, 3.0, None, 5.0, 6.0], "nan": [1.0, float("nan"), 3.0, 4.0, 5.0, 6.0], "inf": [1.0, float("inf"), 3.0, 4.0, 5.0, 6.0],
        "huge": [2**63 - 1, 1, 2, 3, 4, 5], "texts": ["a", "b", "a", "", "NA", "c"], "none": [None] * 6, "bools": [True, False, None, True, False, True],
        "lists": [[1], [2, 3], [], None, [4], [5]], "structs": [{"a": 1}] * 6, "bytes": [b"\xff", b"b", b"", None, b"c", b"d"], "dates": [day] * 5 + [datetime.date(1, 1, 1)],
        "times": [datetime.time(1, 2)] * 6, "moments": [datetime.datetime(2024, 1, 5, i) for i in range(6)], "spans": [datetime.timedelta(i) for i in range(6)],
        "decimals": [decimal.Decimal("1.50")] * 5 + [decimal.Decimal("-2")],
    }
    found = {name: pa.array(values) for name, values in made.items()}
    found["half"] = pa.array(np.arange(6, dtype=np.float16))
    found["unsigned"] = pa.array(np.full(6, 2**64 - 1, np.uint64))
    found["short"] = pa.array(np.arange(6, dtype=np.float32) / 3)
    found["levels"] = found["texts"].dictionary_encode()
    found["zoned"] = pa.array([datetime.datetime(2024, 1, 5, i, tzinfo=datetime.UTC) for i in range(6)])
    found["years"] = pa.array([2**55 + i for i in range(6)], pa.timestamp("ms"))
    found["nanos"] = pa.array([2**62 + i for i in range(6)], pa.timestamp("ns"))
    found["large"] = pa.array(["x"] * 5 + ["y"], pa.large_string())
    found["maps"] = pa.array([[("a", 1)]] * 6, pa.map_(pa.string(), pa.int64()))
    found["wide"] = pa.array([decimal.Decimal("9" * 38)] * 5 + [decimal.Decimal(1)], pa.decimal128(38, 0))
    return found


@lru_cache
def parquet(names: tuple[str, ...], called: tuple[str, ...], rows: int = 6) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet as pq

    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_arrays([parquet_columns()[name].slice(0, rows) for name in names], names=list(called)), buffer)
    return buffer.getvalue()


PARQUETS = ("numbers", "gaps", "nan", "inf", "huge", "texts", "none", "bools", "lists", "structs", "bytes", "dates", "times", "moments", "spans", "decimals", "half", "unsigned", "short",
            "levels", "zoned", "years", "nanos", "large", "maps", "wide")


@st.composite
def parquets(draw):
    """Tables of odd kinds, some of them damaged."""
    names = tuple(draw(st.lists(st.sampled_from(PARQUETS), max_size=3, unique=True)))
    called = tuple(draw(st.sampled_from(("abc"[i],) * 5 + ("a", "", "a\nb", "%s"))) for i in range(len(names)))
    content = parquet(names, called, draw(st.sampled_from((6, 6, 6, 1, 0))))
    if draw(st.booleans()):
        content = draw(mutated(content))
    elif draw(st.integers(0, 4)) == 0:
        content = b"PAR1" + draw(st.binary(max_size=60)) + struct.pack("<I", draw(st.sampled_from((0, 8, 60, 2**31)))) + b"PAR1"
    flags = draw(st.sampled_from(TABLE_FLAGS + ((),) * len(TABLE_FLAGS)))
    return Case(train("in/x.parquet", *flags), {"in/x.parquet": content}, said="" if flags else "in/x.parquet: ")


# -- fields -------------------------------------------------------------------------------------------------------------------


def hdf5(write) -> bytes:
    import h5py

    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        write(file)
    return buffer.getvalue()


def _fields(file):
    import h5py

    file["u"] = np.arange(24.0).reshape(6, 2, 2)
    file["u"].attrs["units"] = "m"
    file["flat"], file["one"], file["group/deep"] = np.arange(6), 3.0, np.arange(12.0).reshape(6, 2)
    file["words"], file["complex"], file["bool"] = [b"a", b"b"], np.ones((3, 2), complex), np.ones((3, 2), bool)
    file["nan"], file["empty"], file["rowless"] = np.full((3, 2), np.nan), h5py.Empty("f"), np.zeros((0, 3))
    file["pairs"] = np.zeros(3, [("a", "f4"), ("b", "i4")])
    file["ragged"] = np.zeros(2)
    file.create_dataset("vast", (2**40, 2**20), "f8", chunks=(1024, 1024))
    file.create_dataset("claimed", (2**17, 2**12), "f8", chunks=(1024, 1024))
    file.create_dataset("filled", data=np.full((4, 2), -9.0)).attrs["_FillValue"] = -9.0
    file.create_dataset("scaled", data=np.arange(8).reshape(4, 2)).attrs["scale_factor"] = np.nan
    file.create_dataset("factors", data=np.arange(8).reshape(4, 2)).attrs["scale_factor"] = 1e308
    file.create_dataset("texts", (3, 2), h5py.string_dtype())
    file.create_dataset("packed", data=np.arange(24.0).reshape(6, 4), compression="gzip", fletcher32=True)
    file["soft"], file["away"], file["self"] = h5py.SoftLink("/gone"), h5py.ExternalLink("other.h5", "/x"), h5py.SoftLink("/self")
    file["group/up"] = file["group"]
    file["units"] = np.arange(6.0).reshape(3, 2)
    file["units"].attrs["units"] = np.arange(3)


KEYS = ("u", "/u", "u/", "flat", "one", "group", "group/deep", "group/up/up/deep", "words", "complex", "bool", "nan", "empty", "rowless", "pairs", "vast", "claimed", "filled", "scaled",
        "factors", "texts", "packed", "soft", "away", "self", "units", "", "/", "//", "..", "x" * 300, "%s", "a\nb", "🦊", ".")


@lru_cache
def field_files() -> dict[str, bytes]:
    from scipy.io import netcdf_file

    buffer = io.BytesIO()
    file = netcdf_file(buffer, "w")
    file.createDimension("t", 4)
    file.createDimension("x", 3)
    file.createVariable("u", "f8", ("t", "x"))[:] = np.arange(12.0).reshape(4, 3)
    file.createVariable("flat", "i4", ("t",))[:] = np.arange(4)
    file.createVariable("letters", "c", ("t", "x"))[:] = b"a"
    file.variables["u"].units = b"K"
    file.variables["u"]._FillValue = -1.0
    file.flush()

    def simple(made):
        made["u"] = np.arange(24.0).reshape(6, 2, 2)
    return {"many": hdf5(_fields), "one": hdf5(simple), "none": hdf5(lambda made: None), "classic": buffer.getvalue()}


def damaged_fields():
    """HDF5 damaged at random. Not for the suite, since that library may end the process: tools/fuzz.py tries it in processes of its own."""
    return st.sampled_from((("one", ()), ("many", ("--key", "u")), ("many", ("--key", "packed")), ("many", ("--key", "group/deep")), ("many", ()))).flatmap(
        lambda kind: mutated(field_files()[kind[0]]).map(lambda content: Case(train("in/x.h5", *kind[1]), {"in/x.h5": content}, said="in/x.h5: ")))


@st.composite
def fields(draw):
    """Keys of all kinds of variables, HDF5 cut off, and the classic format damaged."""
    kind = draw(st.sampled_from(("many", "many", "many", "none", "one", "classic", "classic", "classic", "text")))
    suffix = draw(st.sampled_from((".h5", ".hdf5", ".nc", ".cdf", ".H5")))
    content = draw(st.sampled_from(ENDS)) + draw(st.binary(max_size=40)) if kind == "text" else field_files()[kind]
    if kind == "classic" and draw(st.integers(0, 3)):
        content = draw(mutated(content))
    if kind in ("one", "many") and draw(st.integers(0, 3)) == 0:
        content = content[: draw(st.integers(0, len(content) - 1))]
    key = draw(st.sampled_from((None, *KEYS))) if kind != "classic" else draw(st.sampled_from((None, "u", "flat", "letters", "x", "")))
    return Case(train(f"in/x{suffix}", *(() if key is None else ("--key", key))), {f"in/x{suffix}": content}, said=f"in/x{suffix}: ")


# -- images -------------------------------------------------------------------------------------------------------------------


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_of(width: int, height: int, bits: int = 8, colour: int = 2, body: bytes = b"", interlace: int = 0) -> bytes:
    """A PNG whose header says what one likes."""
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlace)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")


@lru_cache
def images() -> dict[str, bytes]:
    from PIL import Image

    def saved(image, kind, **more):
        buffer = io.BytesIO()
        image.save(buffer, kind, **more)
        return buffer.getvalue()

    noise = lambda *shape: (np.arange(np.prod(shape)) * 37 % 251).astype(np.uint8).reshape(shape)
    colour, grey, clear = Image.fromarray(noise(8, 8, 3)), Image.fromarray(noise(8, 8)), Image.fromarray(noise(8, 8, 4), "RGBA")
    exif = Image.Exif()
    exif[0x0112] = 6
    return {
        "a.png": saved(colour, "PNG"), "b.png": saved(Image.fromarray(255 - noise(8, 8, 3)), "PNG"), "c.jpg": saved(colour, "JPEG"), "grey.png": saved(grey, "PNG"), "clear.png": saved(clear, "PNG"),
        "one.png": saved(Image.new("L", (1, 1)), "PNG"), "wide.png": saved(Image.new("L", (9, 4)), "PNG"), "line.png": saved(Image.new("RGB", (3000, 1)), "PNG"),
        "tall.gif": saved(Image.new("P", (3, 500)), "GIF"), "black.bmp": saved(Image.new("1", (8, 8)), "BMP"), "deep.png": saved(Image.fromarray(noise(8, 8).astype(np.uint16) * 257), "PNG"),
        "ink.jpg": saved(Image.new("CMYK", (8, 8)), "JPEG"), "turned.jpg": saved(Image.new("RGB", (8, 4)), "JPEG", exif=exif), "float.tif": saved(Image.fromarray(np.ones((8, 8), np.float32)), "TIFF"),
        "whole.tif": saved(Image.fromarray(np.full((8, 8), -5, np.int32)), "TIFF"), "lab.tif": saved(Image.new("LAB", (8, 8)), "TIFF"), "film.gif": saved(colour.convert("P"), "GIF", save_all=True, append_images=[grey.convert("P")]),
        "small.webp": saved(colour, "WEBP"), "packed.tif": saved(colour, "TIFF", compression="tiff_lzw"), "plain.ppm": saved(colour, "PPM"),
        "bomb.png": png_of(50_000, 50_000), "vast.png": png_of(2**31 - 1, 2**31 - 1), "nothing.png": png_of(0, 8), "odd.png": png_of(8, 8, 3, 9), "bare.png": png_of(8, 8), "brief.png": png_of(8, 8, body=b"\0\1"),
        "claimed.png": png_of(12_000, 12_000), "long.png": png_of(8, 8, body=b"\0" * 30_000_000), "interlaced.png": png_of(8, 8, interlace=1), "text.png": b"not a picture", "empty.png": b"", "bomb.ppm": b"P6 99999 99999 255 ",
        "odd.ppm": b"P6 -3 8 255 " + b"x" * 300, "bits.pbm": b"P1 8 8 " + b"0 1 " * 32, "odd.pgm": b"P5 8 8 70000 " + b"x" * 128, "bomb.gif": b"GIF89a\xff\xff\xff\xff\x00\x00\x00,\0\0\0\0\xff\xff\xff\xff\0\x08\x01\0;",
        "bomb.bmp": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 70, 0, 0, 54, 40, 2**30, -(2**30), 1, 24, 0, 0, 0, 0, 0, 0),
        "renamed.png": saved(colour, "JPEG"), "pdf.png": b"%PDF-1.4\n", "page.png": b"<svg xmlns='x'/>", "post.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n",
    }


IMAGE_FLAGS = ((), (), ("--size", "4"), ("--size", "8", "--fit", "pad"), ("--size", "8", "--alpha", "keep"), ("--alpha", "keep"), ("--alpha", "black"), ("--alpha", "grey"), ("--fit", "pad"), ("--size", "3"),
               ("--size", "0"), ("--size", "-8"), ("--size", "1025"), ("--size", "9" * 30), ("--size", "x"), ("--fit", "x", "--size", "8"), ("--label", "kind"), ("--label", "none"), ("--label", ""),
               ("--caption", "said"), ("--caption", "zzz"), ("--label", "zzz"), ("--columns", "a"), ("--length", "9"), ("--key", "x"), ("--held-out", "0.9999"), ("--condition", "label"))
PLACES = ("", "", "", "one/", "two/", "one/two/", ".hidden/", "%s/", "a b/", "🦊/", "zwei\nzeilen/")


@st.composite
def picture_folders(draw):
    """Folders with broken, odd and mixed pictures among good ones."""
    kept = images()
    files = {f"in/{draw(st.sampled_from(PLACES))}{name}": kept[name] for name in draw(st.lists(st.sampled_from(("a.png", "b.png", "c.jpg")), max_size=3))}
    for name in draw(st.lists(st.sampled_from(sorted(kept)), max_size=2)):
        content = draw(st.one_of(st.just(kept[name]), mutated(kept[name][:4000])))
        suffix = draw(st.sampled_from(("", "", "", ".png", ".JPG", ".webp", ".tiff", ".txt")))
        files[f"in/{draw(st.sampled_from(PLACES))}{name}{suffix}"] = content
    if not files or draw(st.integers(0, 9)) == 0:
        files["in/readme.md"] = draw(st.sampled_from(ENDS))
    links = draw(st.sampled_from(({}, {}, {}, {"in/loop": "../in"}, {"in/self.png": "self.png"}, {"in/dead.png": "gone.png"}, {"in/zero.png": "/dev/zero"}, {"in/pipe.png": "../pipe"}, {"in/z.png": "/dev/null"})))
    return Case(train("in", *draw(st.sampled_from(IMAGE_FLAGS))), files, links)


CELL = ("a.png", "b.png", "./a.png", "sub/c.jpg", "sub\\c.jpg", "gone.png", "", "x", "0", "1", "-1", "🦊", '"', "a\nb", "%s", " ", "A.PNG", "\0", "é" * 500, "/etc/passwd", "../in/a.png")


@st.composite
def picture_tables(draw):
    """Good pictures, and a table of labels and captions that does not fit them."""
    kept = images()
    header = draw(st.sampled_from(("file,kind,said", "kind,said", "file", "", "file,file,kind", "kind,filename,said", "file,kind,said,", "\ufefffile,kind,said", "file;kind;said", '"file,kind', "file,kind,said\0", ",,")))
    rows = [",".join(draw(st.lists(st.sampled_from(CELL), min_size=0, max_size=4))) for _ in range(draw(st.integers(0, 4)))]
    if draw(st.booleans()):
        header = "file,kind,said"
        rows = [f"{name},{draw(st.sampled_from(CELL))},{draw(st.sampled_from(CELL))}" for name in ("a.png", "b.png", "sub/c.jpg")][: draw(st.integers(1, 3))] + rows[:1]
    text = "\n".join([header, *rows])
    content = draw(st.one_of(st.just(text.encode()), st.just(text.encode("utf-16")), st.just(text.encode("cp1252", "replace")), mutated(text.encode()), st.sampled_from(ENDS)))
    files = {"in/a.png": kept["a.png"], "in/b.png": kept["b.png"], "in/sub/c.jpg": kept["c.jpg"], draw(st.sampled_from(("in/t.csv", "in/t.csv", "in/t.tsv", "in/sub/t.csv"))): content}
    if draw(st.integers(0, 5)) == 0:
        files["in/u.csv"] = b"file,kind\n"
    flags = draw(st.sampled_from((("--label", "kind"), ("--label", "kind"), ("--label", "none"), ("--label", "file"), ("--label", "zzz"), ("--label", ""), ("--label", "zzz", "--caption", "kind"), ())))
    return Case(train("in", *flags), files)


# -- text, and what is not data -------------------------------------------------------------------------------------------------


TEXTS = (b"", b"a", b"a" * 300, b"ab" * 8, b"ab" * 64, b"\0" * 300, b"ab\0" * 90, b"\xff\xfe" + b"a\0" * 90, b"\xef\xbb\xbf" + b"ab" * 90, b"\xef\xbb\xbf", b"\xc3" * 200, "é".encode() * 100, "é".encode() * 100 + b"\xc3",
         "🦊 ".encode() * 50, b"\n" * 200, b"\r\n" * 99, b"abc" * 100 + b"\xed\xa0\x80", bytes(range(1, 128)) * 3, bytes(range(256)) * 2, b"%s%d{}" * 40, b"\x1b[31m" * 60)
LENGTHS = ((), ("--length", "8"), ("--length", "8"), ("--length", "7"), ("--length", "0"), ("--length", "-8"), ("--length", "1024"), ("--length", "1025"), ("--length", "9" * 40), ("--length", "x"), ("--columns", "a"), ("--size", "8"),
           ("--label", "x"), ("--caption", "x"), ("--held-out", "0.9999", "--length", "8"), ("--net", "unet", "--length", "9"), ("--net", "mlp", "--length", "8"), ("--net", "dit", "--length", "8", "--width", "3"))


@st.composite
def texts(draw):
    """Text files and folders of them, with what is no text among it."""
    name = draw(st.sampled_from(("x.txt", "x", "x.md", "x.py", "x.LOG", "x.rst", "x.exe", "Makefile")))
    content = draw(st.one_of(st.sampled_from(TEXTS), st.binary(max_size=300), st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")), mutated(b"every good boy deserves fruit. " * 9)))
    files = {f"in/{name}": content}
    for other in draw(st.lists(st.sampled_from(("b.txt", "sub/c.md", "d", "e.bin", ".hidden", "f.csv", "g.npy", "h.zip", "i.png", "j.h5", "%s.txt", "zwei\nzeilen.txt")), max_size=2)):
        files[f"in/{other}"] = draw(st.sampled_from(TEXTS))
    links = draw(st.sampled_from(({}, {}, {}, {"in/up": ".."}, {"in/l.txt": "l.txt"}, {"in/dead.txt": "gone"}, {"in/zero.txt": "/dev/zero"}, {"in/pipe.txt": "../pipe"}, {"in/null.txt": "/dev/null"})))
    data = draw(st.sampled_from((f"in/{name}", "in")))
    text = b"\0" not in content and content.decode("utf-8", "ignore").encode() == content
    return Case(train(data, *draw(st.sampled_from(LENGTHS))), files, links, fine=text or data == "in")
