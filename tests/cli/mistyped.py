"""Mistyped command lines, and folders of runs and models in which something was changed."""
from __future__ import annotations

import hashlib
import json
import os
import re
import tomllib
from functools import lru_cache

import tomli_w
from hypothesis import strategies as st

from .arena import CHEAP, Case, listed, train
from .malformed import ENDS, ROWS, TABLE, mutated, npy

WEIRD_NAMES = ("a b", "zwei\nzeilen", "tab\tbed", "100%s %d {0}", "🦊.npy.", "-dash", "semi;colon", "quote'\"", "$HOME", "[bold]x[/bold]", "é" * 100, ".hidden", "x" * 250,
               "name.npy ", "back\\slash", "* ?", "\u202egnp", "a\u2028b", "~", "#", "C:", "caf\udce9", "bell\a\x1b[31m")
WHOLE = ("0", "-7", "1", "2", "3", "1.5", "1e3", "nan", "", " ", "x", "1_0", "٣", "--", "1" * 5000, "½")
REAL = ("0", "-1", "-0.0", "0.5", "1", "2", "nan", "inf", "-inf", "1e400", "1e-400", "1e38", "x", "", "0,5", "٣")
WORD = ("", " ", "x", "AUTO", "none", "-1", "\n", "lineer", "🦊", "a,b", "../x", "\x1b[31m", "a" * 3000, '"', "[red]")


@st.composite
def places(draw):
    """Names, links and things that are no files, given as data and as folder for the run."""
    name = draw(st.sampled_from(WEIRD_NAMES))
    suffix = draw(st.sampled_from(("", ".npy", ".csv", ".txt", ".parquet", ".h5", ".npz", ".png", ".zip", ".tar.gz", ".docx")))
    fitting = os.fsdecode(os.fsencode(name + suffix)[:255])
    content = {".npy": npy(ROWS), ".csv": TABLE, ".txt": b"ab, cd " * 60, "": b"ab, cd " * 60}.get(suffix, b"x")
    what = draw(st.sampled_from(("file", "file", "file", "link", "folder", "absent", "odd")))
    files, links = {}, {}
    data = f"in/{fitting}"
    if what == "file":
        files[data] = draw(st.one_of(st.just(content), st.sampled_from(ENDS)))
    elif what == "link":
        links[data] = draw(st.sampled_from(("../numbers.npy", "../loop", "../nowhere", "/dev/zero", "/dev/null", "/dev/stdin", "../pipe", "..", fitting, "/proc/self/mem", "../pictures")))
        if links[data] in ("..", "../pictures", "../numbers.npy"):
            data += draw(st.sampled_from(("", "/gone", "/")))
    elif what == "folder":
        files[f"{data}/{draw(st.sampled_from(('inner.npy', '.hidden', 'a.zip', 'a.csv')))}"] = content
    elif what == "odd":
        data = draw(st.sampled_from(("pipe", "loop", "nowhere", "empty", ".", "..", "/", "/dev/null", "/dev/zero", "", " ", "~", "digts", "run", "run/run.toml", "run/model", "hub", "numbers.npy/", "numbers.npy/x", "x" * 5000,
                                     "a/" * 3000, "numbers.npy\n", "pictures/a/a.png", "./digits", "DIGITS", "http://x/y.npy", "-", "--", "table.csv,numbers.npy", "mnist", "crawl")))
        if data == "/":
            data = "empty"
    out = draw(st.sampled_from(("out", "out", "out", "out/deep/er", "", " ", "file", "file/below", "run", "loop", "loop/x", "nowhere/x", "pipe", "pipe/x", "/dev/null", "/dev/null/x", "/proc/x", "x" * 300, f"out/{name}", "out/", "./out",
                                "run/model", "run/new", "out\nline", "../arena/out", "table.csv")))
    order = draw(st.sampled_from(((data, "--out", out), ("--out", out, "--", data), (f"--out={out}", data))))
    if data.startswith("-"):
        order = ("--out", out, "--", data)
    return Case(("train", *CHEAP, *order), files, links, fine=out.rstrip("/") in ("out", "./out", "out\nline", "../arena/out", "run/new", " ") or out.startswith("out/"))


# -- flags --------------------------------------------------------------------------------------------------------------------

HUGE = ("1000000000", "4611686018427387904", "99999999999999999999999", "1" * 5000)
TRAIN_OPTIONS = {
    "--budget": ("0s", "-1s", "", "x", "nan", "inf", "1e3", "0.000001s", "1h1h", "m", "9" * 400 + "h", "1d", "0.01s"), "--steps": WHOLE, "--condition": WORD + ("label", "caption"), "--label": WORD, "--caption": WORD,
    "--size": WHOLE, "--fit": WORD, "--alpha": WORD, "--columns": WORD + ("price", "price,when"), "--missing": WORD, "--scale": WORD + ("rank",), "--key": WORD, "--length": WHOLE, "--held-out": REAL, "--net": WORD + ("mlp", "unet", "dit"),
    "--batch": WHOLE + HUGE, "--accumulate": WHOLE, "--rate": REAL, "--schedule": WORD + ("linear", "constant"), "--decay": REAL, "--clip": REAL, "--width": WHOLE + HUGE, "--depth": WHOLE + HUGE, "--dropout": REAL,
    "--path": WORD + ("vp", "ve", "edm", "kinetic", "cosine"), "--coupling": WORD + ("ot",), "--predicts": WORD + ("v", "noise", "data"), "--drop-condition": REAL, "--seed": WHOLE, "--every": WHOLE,
    "--device": ("", "x", "cuda", "cuda:97", "mps", "meta", "cpu:1", "cpu", "CPU", "xla", "cpu:", "cuda:-1", "🦊", "vulkan", "hpu", "fpga", "privateuseone"), "--precision": WORD + ("bf16", "fp16"), "--seeds": WORD, "--resume": ("run", "empty", "", "file"),
    "--debg": ("",), "--out": ("", "file", "run", "out2"),
}
SLOW_TO_GROW = {"--steps", "--accumulate"}      # these mean what they say: a run of 10^23 steps is no mistake of the program


@st.composite
def drawn_options(draw, options, most=3):
    found = []
    for name in draw(st.one_of(st.sampled_from(sorted(options)).map(lambda name: [name]), st.lists(st.sampled_from(sorted(options)), min_size=1, max_size=most, unique=True))):
        value = draw(st.sampled_from(options[name]))
        if name in SLOW_TO_GROW and re.fullmatch(r"[\d_]{3,}", value):
            value = "0"
        found += [f"{name}={value}"] if draw(st.booleans()) else [name, value]
    return tuple(found)


def home(option, value=""):
    """The data that an option of reading belongs to; any other goes with numbers."""
    kinds = {"words.txt": ("--length",), "pictures": ("--size", "--fit", "--alpha", "--caption"), "table.csv": ("--columns", "--missing", "--scale", "--label", "--condition")}
    return next((data for data, options in kinds.items() if option in options), "pictures" if value in ("unet", "dit") else "numbers.npy")


def every_option(command):
    """Every option of train or sample with every wrong value, and some right ones."""
    if command == "sample":
        models = {"--cond": ("table", "run"), "--guidance": ("table",), "--out": ("text", "shown"), "--rule": ("shown",)}
        for option, values in SAMPLE_OPTIONS.items():
            for value in values:
                for model in models.get(option, ("run",)):
                    asked = ("--cond", "u") if option == "--guidance" else ()
                    yield Case(("sample", model, "--n", "3", "--steps", "2", "--device", "cpu", *asked, option, value))
        return
    for option, values in TRAIN_OPTIONS.items():
        for value in values:
            if option == "--budget":
                yield Case(("train", "numbers.npy", "--out", "out", "--width", "4", "--depth", "1", "--batch", "2", "--device", "cpu", option, value))
            elif not (option in SLOW_TO_GROW and re.fullmatch(r"[\d_]{3,}", value)):
                yield Case(train(home(option, value), option, value))


@st.composite
def train_flags(draw):
    data = draw(st.sampled_from(("numbers.npy", "table.csv", "table.csv", "pictures", "words.txt")))
    flags = draw(drawn_options(TRAIN_OPTIONS)) + draw(st.sampled_from(((), (), (), ("--tensorboard",), ("extra",), ("--tensorbord",), ("-x",), ("--steps",), ("--no-compile",), ("--debug=1",))))
    if draw(st.integers(0, 5)) == 0:
        return Case(("train", "--resume", draw(st.sampled_from(("run", "table", "gone", "", "file", "empty", "run/model", "loop", "pipe"))), *flags))
    if any(flag.startswith("--budget") for flag in flags) and draw(st.booleans()):
        return Case(("train", data, "--out", "out", "--width", "4", "--depth", "1", "--batch", "2", "--device", "cpu", "--budget", draw(st.sampled_from(TRAIN_OPTIONS["--budget"]))))
    return Case(train(data, *flags))


SAMPLE_OPTIONS = {
    "--n": WHOLE + HUGE[1:], "--cond": WORD + ("0", "1", "-1", "7", "u", "v", "1.5", "٣", "9" * 30, "²"), "--guidance": REAL, "--rule": WORD + ("default", "euler", "rk45", "plms", "ddpm", "deis-rho"), "--steps": WHOLE + HUGE, "--seed": WHOLE,
    "--device": TRAIN_OPTIONS["--device"], "--out": ("", "x.npy", "x.png", "x.csv", "x.txt", "x.jpg", "x", ".npy", "a b%s.npy", "zwei\nzeilen.npy", "🦊.csv", "file/x.npy", "loop/x.npy", "x" * 300 + ".npy", "empty", "pipe", "/dev/null",
                                                     "nowhere/x.npy", "new/deep/x.npy", "file", "x.npy/", "é.png", "pipe/x.npy", "/proc/x.npy", "x.NPY", "numbers.npy"),
    "--resume": ("run",), "--nn": ("3",),
}
MODELS = ("run", "run", "table", "text", "shown", "run/model", "hub/me/flow")
NO_MODELS = ("gone", "", "file", "empty", "loop", "pipe", "numbers.npy", "run/checkpoint", "a\nb", "run/run.toml", "x" * 300, "/dev/null", " ", "hub")


@st.composite
def sample_flags(draw):
    model = draw(st.sampled_from(MODELS * 2 + NO_MODELS[:6]))
    cheap = ("--n", "3", "--steps", "2", "--device", "cpu")
    return Case(("sample", *draw(st.sampled_from(((model,), (model,), (model,), (), (model, "more")))), *cheap, *draw(drawn_options(SAMPLE_OPTIONS))), fine=model not in NO_MODELS)


@st.composite
def other_commands(draw):
    """report, show, push, pull, data and words that are no commands: each with something that cannot be."""
    model, wrong = draw(st.sampled_from(MODELS)), draw(st.sampled_from(NO_MODELS))
    name = draw(st.sampled_from(("me/flow", "me/new", "me", "", "/", "me/", "/flow", "../x", "me/../x", "a/b/c", "me/..", ".me/x", "é/x", "me/x y", "me/" + "x" * 300, "me/🦊", "me\n/x", "-x/y", "me/%s")))
    hub = draw(st.sampled_from((("--hub", "hub"), ("--hub", "hub"), ("--hub", "file"), ("--hub", "file/x"), ("--hub", ""), ("--hub", "loop"), ("--hub", "pipe"), ("--hub", "nowhere"), ("--hub", "empty"), ("--hub", "new"), ())))
    wrong_report = st.one_of(
        st.tuples(st.just("--n"), st.sampled_from(("0", "-1", "1", "x", "", "1.5", "nan", *HUGE))), st.tuples(st.just("--seed"), st.sampled_from(("x", "", "1.5", "1" * 5000))),
        st.tuples(st.just("--out"), st.sampled_from(("", "x.pdf", "x", "file", "file/x.html", "loop/x.html", "empty", "x.json", "/proc/x.html", "pipe/x.html"))),
        st.tuples(st.just("--device"), st.sampled_from(("x", "cuda:97", "", "meta"))), st.tuples(st.sampled_from(("--cond", "--m", "more"))))
    kind = draw(st.sampled_from(("report", "report", "show", "push", "push", "pull", "pull", "data", "other")))
    if kind == "report":
        return Case(draw(st.one_of(st.just(("report", wrong)), wrong_report.map(lambda flags: ("report", model, *flags)))), fine=False)
    if kind == "show":
        return Case(("show", *draw(st.sampled_from(((model,), (wrong,), (), (model, "more"), (model, "--hub", "hub"))))))
    if kind == "push":
        licence = draw(st.sampled_from(((), ("--licence", "mit"), ("--licence", ""), ("--licence", "MIT"), ("--licence", "a b"), ("--licence", "é"), ("--licence", "mit\n"), ("--private",), ("--privat",))))
        return Case(("push", draw(st.sampled_from((model, model, wrong))), name, *hub, *licence))
    if kind == "pull":
        out = draw(st.sampled_from(("out", "out/deep", "run", "run/model", "file", "file/x", "", "loop", "loop/x", "pipe", "empty", "/proc/x", "out\nline", "x" * 300)))
        revision = draw(st.sampled_from(((), (), ("--revision", "main"), ("--revision", ""))))
        return Case(("pull", name, "--out", out, *hub, *revision))
    if kind == "data":
        word = draw(st.sampled_from(("x", "", "digts", "🦊", "../x", "%s", "MNIST", "mnist\n", "--help", "-x")))
        return Case(draw(st.sampled_from((("data", "show", word), ("data", "bring", word), ("data", "bring", word, "--dry-run"), ("data", "bring", "mnist", "--dry-runn"), ("data", word), ("data", "show"), ("data", "bring"),
                                          ("data", "list", word), ("data", "show", "mnist", word), ("data", "bring", "digits")))), fine=word in ("--help",) or word == "")
    return Case(draw(st.sampled_from((("trian", "x"), ("--nope",), ("train", "-h"), ("sample",), ("push", model), ("pull", "me/flow"), ("pull",), ("demo", "extra"), ("demo", "--out", "file"), ("demo", "--out", "table"), ("demo", "--steps", "x"),
                                      ("demo", "--out", ""), ("check",), ("check", "zzz"), ("papers", "zzz"), ("",), ("train", "\n"), ("load", "run"), ("demo", "--seed", "x", "--steps", "-1")))), fine=False)


# -- damaged folders ----------------------------------------------------------------------------------------------------------

ODD = (None, True, -1, 0, 1, 1.5, 10**30, float("1e300"), "", "x", "rheos.nets.ResidualMLP", "os.system", "../../x", [], [[]], [1, 2], {}, {"a": 1}, "a\nb", [None], "rheos.paths.Path", 2**31, "x" * 3000)


@st.composite
def altered(draw, value, depth=0):
    """One entry of something like JSON replaced, dropped or added."""
    if isinstance(value, dict | list) and value and depth < 6 and draw(st.integers(0, 9 if depth else 30)):
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = keys[draw(st.integers(0, len(keys) - 1))]
        made = dict(value) if isinstance(value, dict) else list(value)
        if draw(st.integers(0, 9)) == 0:
            del made[key]
        else:
            made[key] = draw(altered(made[key], depth + 1))
        return made
    if isinstance(value, int | float) and not isinstance(value, bool) and draw(st.booleans()):
        return draw(st.sampled_from((value + 1, -value, value * 1000, 0, float(value))))
    return draw(st.sampled_from(ODD))


@lru_cache
def kept(root: str) -> dict[str, bytes]:
    return {name: content for name, content in listed(root).items() if isinstance(content, bytes)}


@st.composite
def damaged_models(draw):
    """Folders of models in which something was changed; whatever else happens, no code that they name is run."""
    files = kept(os.getcwd())
    which = draw(st.sampled_from(("run", "table", "text", "shown")))
    place, weights = f"{which}/model/model.json", next(name for name in files if name.startswith(f"{which}/model/model-"))
    how = draw(st.sampled_from(("alter", "alter", "alter", "bytes", "tensors", "alone", "forged")))
    argv = draw(st.sampled_from((("sample", which, "--n", "2", "--steps", "2", "--device", "cpu"), ("show", which), ("push", which, "me/new", "--hub", "hub"), ("pull", "me/flow", "--hub", "hub", "--out", "out"), ("report", which, "--n", "2"))))
    if argv[0] == "pull":
        place, weights = "hub/me/flow/model.json", next(name for name in files if name.startswith("hub/me/flow/model-"))
    if how == "alter" or (argv[0] == "report" and how != "alone"):
        told = draw(altered(json.loads(files[place])))
        return Case(argv if argv[0] != "report" else ("show", which), {place: json.dumps(told).encode()})
    if how == "bytes":
        return Case(argv, {place: draw(mutated(files[place]))})
    if how == "tensors":
        return Case(argv, {weights: draw(mutated(files[weights]))})
    if how == "forged":                                 # the hash fits, the tensors do not
        content = draw(mutated(files[weights]))
        return Case(argv, {weights: content, place: json.dumps(json.loads(files[place]) | {"sha256": hashlib.sha256(content).hexdigest()}).encode()})
    return Case(argv, {draw(st.sampled_from((place, weights))): draw(st.sampled_from(ENDS))}, fine=False)


@st.composite
def damaged_runs(draw):
    """Run folders in which something was changed, gone on with or judged."""
    files = kept(os.getcwd())
    which = draw(st.sampled_from(("run", "run", "table")))
    told, step = tomllib.loads(files[f"{which}/run.toml"].decode()), f"{which}/checkpoint/step-000000001.safetensors"
    how = draw(st.sampled_from(("alter", "alter", "alter", "toml", "checkpoint", "trace", "further")))
    argv = draw(st.sampled_from((("train", "--resume", which), ("train", "--resume", which), ("train", "--resume", which), ("report", f"{which}/model"), ("demo", "--out", which))))
    if how == "alter":
        made = draw(altered(told).filter(lambda made: made != told))
        try:
            content = tomli_w.dumps(made).encode()
        except (TypeError, ValueError, AttributeError):         # TOML knows no null
            content = json.dumps(made).encode()
        if re.search(rb"(?m)^(steps|accumulate) = [\d_]{4,}", content):
            content = b"steps"
        return Case(argv, {f"{which}/run.toml": content})
    if how == "toml":
        return Case(argv, {f"{which}/run.toml": draw(mutated(files[f"{which}/run.toml"]).filter(lambda content: not re.search(rb"(?m)^(steps|accumulate) = [\d_]{4,}", content)))})
    if how == "checkpoint":
        return Case(argv, {step: draw(mutated(files[step]))})
    if how == "trace":
        return Case(argv, {f"{which}/trace.jsonl": draw(mutated(files[f"{which}/trace.jsonl"] * 3))})
    return Case(argv, {f"{which}/checkpoint/step-{draw(st.sampled_from(('000000009', '9', 'x', '99999999999999999999')))}.safetensors": draw(st.sampled_from((files[step], *ENDS[:4])))})
