"""The main job: `rheos demo`, `train`, `sample`, `report`. torch is imported inside the commands, so that help comes at once."""
from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rheos.cli.drawing import check_disk, draw, suffixes
from rheos.cli.errors import Failure, Usage
from rheos.cli.options import check_memory, place, seconds, slug
from rheos.cli.rules import RULE_NAMES, rule_named
from rheos.cli.runs import Run, Stopped, check_writable, find_model, learn, loaded, one_thread, refuse_with_resume, versions
from rheos.cli.settings import PREDICTS

if TYPE_CHECKING:
    from rheos.cli.quality import Quality
    from rheos.models import Model
    from rheos.samplers import Table

__all__ = ["demo", "report", "sample", "train"]

DEVICES = "auto, cpu, cuda, cuda:1 or mps."
PAIRS = 6       # samples of each class that a report shows


def _option(text: str, default: str | None = None):
    """An option whose default is the library's, told in the help but not set here: `runs.settled` takes it from where it lives."""
    return typer.Option(help=text, show_default=default or False)


def _reading(text: str):
    """An option of how data are read."""
    return typer.Option(help=text, show_default=False, rich_help_panel="How the data are read")


def _place(text: str, default: str | None = None):
    """An option that is a file or a folder."""
    return typer.Option(help=text, show_default=default or False, parser=place, metavar="<path>")


def train(
    data: Annotated[str | None, typer.Argument(help="A name that `rheos data` lists, a folder of images, or a file: .npy .npz .csv .parquet .h5 .txt")] = None,
    to: Annotated[str | None, typer.Argument(help="With --path bridge: the data to carry DATA over to.", show_default=False)] = None,
    out: Annotated[Path | None, _place("Folder for the run.")] = None,
    resume: Annotated[Path | None, _place("Go on with the run in this folder, to the same end as if it had never stopped.")] = None,
    budget: Annotated[float | None, typer.Option(help="Time to train, as 90s, 10m or 1h30m: as many steps as fit into it, by timing a few.",
                                                 parser=seconds, metavar="<time>", show_default=False)] = None,
    steps: Annotated[int | None, _option("Minibatches.", "1500")] = None,
    condition: Annotated[str | None, _option("What samples can be asked for: label, caption, none, or auto: the first that the data have.", "auto")] = None,
    label: Annotated[str | None, _reading("Column with the classes (tables, and a table among images); none leaves sub-folders' names out.")] = None,
    caption: Annotated[str | None, _reading("Column with a text for every image.")] = None,
    size: Annotated[int | None, _reading("Images: width and height in pixels.")] = None,
    fit: Annotated[str | None, _reading("Images of other shapes: crop or pad.")] = None,
    alpha: Annotated[str | None, _reading("Transparent images: white or black is laid under them, keep keeps four channels.")] = None,
    columns: Annotated[str | None, _reading("Tables: the columns to learn, as a,b,c.")] = None,
    missing: Annotated[str | None, _reading("Tables: what to do about empty cells: drop, median or refuse.")] = None,
    scale: Annotated[str | None, _reading("Tables: standard, or rank for columns with long tails.")] = None,
    key: Annotated[str | None, _reading("HDF5 and netCDF: name of the array.")] = None,
    length: Annotated[int | None, _reading("Text: bytes of one sample.")] = None,
    held_out: Annotated[float | None, _option("Share of the rows to keep apart and judge by.", "0.1")] = None,
    net: Annotated[str | None, _option("mlp, unet, dit, or auto, by the shape of the data.", "auto")] = None,
    batch: Annotated[int | None, _option("Rows of a minibatch.", "by the network: 256 or 64")] = None,
    accumulate: Annotated[int | None, _option("Minibatches whose gradients make one step.", "1")] = None,
    rate: Annotated[float | None, _option("Learning rate at its highest.", "by the network: 0.002 or 0.001")] = None,
    schedule: Annotated[str | None, _option("How the rate goes on: cosine or linear to 0, or constant.", "cosine")] = None,
    decay: Annotated[float | None, _option("Of the averaged weights, which are the model.", "0.999")] = None,
    clip: Annotated[float | None, _option("Largest norm of a gradient.", "1.0")] = None,
    width: Annotated[int | None, _option("Features of the network.", "by the network")] = None,
    depth: Annotated[int | None, _option("Blocks of the network.", "by the network")] = None,
    dropout: Annotated[float | None, _option("Share of features dropped while learning.", "0.1 in an mlp, else 0")] = None,
    path: Annotated[str | None, _option("How noise becomes data: linear, cosine, vp, ve, edm, kinetic (of least energy for this data), shortest (images), "
                                        "student:128 (heavy tails), masked (text, tables), residual (see --task), bridge (from DATA to TO).", "linear")] = None,
    task: Annotated[str | None, _option("With --path residual: what it learns to undo: superres:4, inpaint:0.5 or colour.",
                                        "none, it draws from noise")] = None,
    coupling: Annotated[str | None, _option("Which noise, or row of DATA, goes with which data: independent; ot, near ones in each minibatch; "
                                            "paired, row by row (bridge only).", "independent")] = None,
    predicts: Annotated[str | None, _option(f"What the network returns: {', '.join(PREDICTS[:-1])} or {PREDICTS[-1]}; left out, what suits the path.")] = None,
    drop_condition: Annotated[float | None, _option("Share of rows learned without their condition, which guidance needs.", "0.1")] = None,
    seed: Annotated[int | None, _option("Of everything random.", "0")] = None,
    every: Annotated[int | None, _option("Steps between checkpoints.", "500")] = None,
    device: Annotated[str | None, _option(DEVICES, "auto")] = None,
    precision: Annotated[str | None, _option("fp32, or bf16, about twice as fast where the processor has it.", "fp32")] = None,
    compile_: Annotated[bool, typer.Option("--compile", help="Compile the network.")] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write figures for TensorBoard into the run folder too.")] = False,
) -> None:
    """Learn a generative flow of DATA. Ctrl-C stops it in good order, and --resume goes on.

    Example: rheos train photos/ --size 32 --budget 10m --out run
    """
    given = {"steps": steps, "condition": condition, "net": net, "batch": batch, "accumulate": accumulate, "rate": rate, "schedule": schedule,
             "decay": decay, "clip": clip, "width": width, "depth": depth, "dropout": dropout, "path": path, "task": task, "coupling": coupling,
             "predicts": predicts,
             "drop_condition": drop_condition, "seed": seed, "every": every, "device": device, "precision": precision, "compile": compile_ or None}
    reading = {"label": label, "caption": caption, "size": size, "fit": fit, "alpha": alpha, "columns": columns, "missing": missing, "scale": scale,
               "key": key, "length": length}
    if tensorboard:
        from rheos.core.extras import require

        require("tensorboard", extra="interop")
    if resume is not None:
        refuse_with_resume({"DATA": data, "TO": to, "--out": out, "--budget": budget, "--held-out": held_out,
                            **{f"--{name.replace('_', '-')}": value for name, value in (given | reading).items()}})
        run = Run.open(resume)
        _tell_versions(run)
        prepared = run.prepared()
    else:
        if data is None:
            raise Usage("DATA is missing: a name that rheos data lists, a folder of images, or a file")
        if out is None:
            raise Usage("--out is missing: the folder for the run")
        if budget is not None and steps is not None:
            raise Usage("--budget chooses the steps, so leave out --steps")
        name, source = (data, None) if to is None else (to, data)
        run, prepared = Run.begin(out, name, given, held_out=held_out, reading=reading, budget=budget, source=source)
        if budget is not None:
            typer.echo(f"{run.steps:,} steps should fit into {budget:g} s", err=True)
    _train(run, prepared, tensorboard)
    place = shlex.quote(str(run.folder))
    typer.echo(f"draw from it:  rheos sample {place}\njudge it:      rheos report {place}")


def _train(run: Run, prepared, tensorboard: bool = False) -> None:
    model = learn(run, prepared, tensorboard=tensorboard)
    rows = run.rows()
    spent = f", {rows[-1]['cpu_seconds']:.1f} s of CPU time" if rows and "cpu_seconds" in rows[-1] else ""
    typer.echo(f"the model of {model.card['parameters']:,} parameters is in {run.model} ({run.steps} steps{spent})")


def _tell_versions(run: Run) -> None:
    now = versions()
    other = [f"{name} {version}, now {now[name]}" for name, version in run.versions.items() if name in now and version != now[name]]
    if other:
        typer.echo(f"note: begun with {'; '.join(other)}: the end may differ in the last digits from that of an unbroken run", err=True)


def sample(
    run: Annotated[Path, typer.Argument(help="A run folder or a model folder.", parser=place, metavar="RUN")],
    n: Annotated[int, typer.Option(help="How many.")] = 64,
    cond: Annotated[str | None, _option("A class (its number or name) or a caption, for all of them.", "as in the data")] = None,
    guidance: Annotated[float | None, _option("Classifier-free guidance: 1 is none, above 1 is closer to the class.", "none")] = None,
    rule: Annotated[str | None, _option(f"One of {', '.join(RULE_NAMES)}.", "default")] = None,
    steps: Annotated[int | None, _option("Steps: one field call each, two for heun, four for rk4; plms makes one more, rk45 chooses its own.", "20")] = None,
    table: Annotated[Path | None, _place("A table that rheos tune made, in place of --rule and --steps.")] = None,
    source: Annotated[str | None, _option("Models from one domain to another: the data whose rows are carried over, in their order; of a model "
                                          "with a --task, rows as the task leaves them, in the data's size.",
                                          "held-out rows of the run, drawn at random")] = None,
    seed: Annotated[int, typer.Option(help="Of the starts.")] = 0,
    out: Annotated[Path | None, _place("A .npy file, .png for images, .csv for tables, .txt for texts.", "samples/ in the folder")] = None,
    device: Annotated[str, typer.Option(help=DEVICES)] = "auto",
) -> None:
    """Draw samples from a learned flow: arrays in the data's own units and pictures of images, tables in their own columns, texts.

    Example: rheos sample run --n 100 --cond 3 --guidance 2
    """
    if table is not None and (rule is not None or steps is not None):
        raise Usage("--table brings its own rule and times: leave --rule and --steps out")
    _sample(run, n, cond, guidance, "default" if rule is None else rule, steps, seed, out, device, table, source)


def _sample(folder: Path, n: int, cond: str | None, guidance: float | None, rule: str, steps: int | None, seed: int, out: Path | None, device: str,
            table: Path | None = None, source: str | None = None) -> list[Path]:
    if guidance is not None and cond is None:
        raise Usage("--guidance needs a class or a caption: add --cond, or leave it out")
    chosen = rule_named(rule) if table is None else _table(table, guidance, folder)
    find_model(folder)
    from rheos.core import checks
    from rheos.models import MaskedModel, pick_device

    checks.integer("n", n, least=1)
    one_thread()
    model, samples = loaded(folder)
    masked = isinstance(model, MaskedModel)
    if masked and (rule != "default" or table is not None):
        raise Usage("--rule and --table belong to flows; this model shows hidden tokens one after the other, in at most --steps network calls")
    if not masked:
        steps = 20 if steps is None else steps
        chosen = chosen if table is not None else rule_named(rule, model.field.path)
    if source is not None:
        n = _sources_from(source, model, n)
    kinds = suffixes(model)
    if out is not None and out.suffix not in kinds:
        if out.suffix == ".png":
            raise Usage(f"--out {out}: samples of shape {model.event} are not images with known bounds, so they go into a {kinds[0]} file")
        raise Usage(f"--out must end in {' or '.join(kinds)}, got {out}")
    model.conditions.tensor(cond, 1)            # before any file is begun
    asked = [] if cond is None else [slug(cond)]
    if asked and model.condition == "label" and asked[0].removeprefix("-").isdecimal():
        asked = [f"class{asked[0]}"]
    asked += [] if guidance is None else [f"guidance{guidance:g}"]
    how = [f"table{table.stem}"] if table is not None else [rule] + ([] if steps is None else [f"{steps}steps"])
    if source is not None:
        asked = [f"from{slug(Path(source).stem)}", *asked]
    name = "-".join([f"n{n}", *asked, *how, f"seed{seed}"])
    files = [out] if out is not None else [samples / f"{name}{kind}" for kind in (kinds if model.encoding is None else kinds[:1])]
    for file in files:
        check_writable(file)
    check_disk(n, model, files)
    rule_of_flow = {} if masked else {"rule": chosen}
    files = draw(model.to(pick_device(device)), n, files, cond=cond, guidance=guidance, steps=steps, seed=seed, **rule_of_flow)
    what = f"samples of shape {tuple(model.event)}" if model.encoding is None else "samples"
    typer.echo(f"{n} {what} are in {' and '.join(map(str, files))}")
    return files


def _sources_from(source: str, model: Model, n: int) -> int:
    """Let the model begin at the first `n` rows of `source`, in their order; gives how many there are."""
    from rheos.data import Dataset
    from rheos.data import load as load_data

    if getattr(model, "source", None) is None:
        raise Usage("--source needs a model that carries one domain to another; this one begins at noise")
    from rheos.data.sources import NAMES

    # All rows of a file, in their order; of data with a name those that are held out.
    found = load_data(source) if source in NAMES else load_data(source, held_out=0.0)
    found = found.held_out if source in NAMES and isinstance(found, Dataset) and found.held_out is not None else found
    if not isinstance(found, Dataset) or tuple(found.event) != tuple(model.event):
        raise Usage(f"--source {source} must hold rows of shape {tuple(model.event)}, as the model's samples have")
    if n > len(found):
        typer.echo(f"note: {source} has {len(found):,} rows, fewer than --n {n:,}", err=True)
    rows = found.x[:n]
    model.sources, model.in_order = rows, True
    return len(rows)


def _table(file: Path, guidance: float | None, run: Path) -> Table:
    """The table in a file, with a note where it was made for another guidance."""
    from rheos.samplers import Table

    found = Table.load(file)
    if "family" in found.origin:
        from rheos.core.files import load_json

        made_for, about = found.origin.get("guidance"), load_json(file).get("about", {})
        say = lambda scale: "none" if scale in (None, 1.0) else f"{scale:g}"
        if say(made_for) != say(guidance):
            typer.echo(f"note: {file} was made for guidance {say(made_for)}, and samples are drawn with {say(guidance)}", err=True)
        if about.get("run") not in (None, str(run)):
            typer.echo(f"note: {file} was made for {about['run']}; for another model it is a table like any", err=True)
    return found


def report(
    run: Annotated[Path, typer.Argument(help="A run folder.", parser=place, metavar="RUN")],
    n: Annotated[int | None, _option("How many samples are judged.", "as many as are held out, at most 2,000 images")] = None,
    out: Annotated[Path | None, _place("The page.", "report.html in the folder")] = None,
    seed: Annotated[int, typer.Option(help="Of the samples that are judged.")] = 0,
    device: Annotated[str, typer.Option(help=DEVICES)] = "auto",
) -> None:
    """Judge a run on one self-contained page; all figures go into a .json file beside it.

    Example: rheos report run
    """
    typer.echo(_report(run, n, out, seed, device))


def _report(folder: Path, n: int | None, out: Path | None, seed: int, device: str) -> Path:
    out = folder / "report.html" if out is None else out
    if out.suffix not in (".html", ".htm"):
        raise Usage(f"--out must end in .html, got {out}")
    run = Run.open(folder)
    find_model(folder)
    check_writable(out)
    from rheos.cli.pages import page
    from rheos.cli.quality import DRAWS, TRANSLATED, carried_over, class_grid, mapped, measure, pictured
    from rheos.core.files import save_json, write_bytes
    from rheos.models import pick_device

    one_thread()
    cpu, wall = time.process_time(), time.monotonic()
    model = loaded(folder)[0]
    if n is not None:
        check_memory("--n", n, model.event, DRAWS)
    data, rows = run.dataset(), run.rows()
    model.to(pick_device(device))
    quality = measure(model, data, n=n, seed=seed, told=lambda line: typer.echo(line, err=True))
    grid = class_grid(model, data, PAIRS, seed) if pictured(data) or mapped(data) else None
    last = rows[-1] if rows else {}
    cost = {
        "parameters": model.card["parameters"], "steps": run.steps, "bytes_sent_between_nodes": 0, "training_cpu_seconds": last.get("cpu_seconds"),
        "training_wall_seconds": last.get("wall_seconds"), "samples_per_cpu_second": quality.samples_per_cpu_second,
        "report_cpu_seconds": round(time.process_time() - cpu, 3), "report_wall_seconds": round(time.monotonic() - wall, 3),
    }
    now = versions()
    content = page(run, data, quality, grid, rows, cost, now, carried_over(model, data, run.starts(), TRANSLATED, seed) if pictured(data) else None)
    save_json(out.with_suffix(".json"), {
        "format": 1, "run": str(run.folder), "data": run.data, "settings": run.settings, "versions": {"run": run.versions, "report": now},
        "machine": run.machine, "command": run.command, "seed": seed, "cost": cost, "quality": quality.to_json(),
    })
    write_bytes(out, content.encode())
    # What was measured goes with the model, wherever it is sent.
    model.card["figures"] = _figures(quality)
    model.to("cpu").save(run.model)
    return out


def _figures(quality: Quality) -> dict[str, float]:
    """The figures of a report that stand on a model's card."""
    found: dict[str, float] = {}
    for distance in quality.distances:
        found |= {distance.name: distance.model[0], f"{distance.name}, of training rows": distance.floor}
        if distance.gaussian is not None:
            found[f"{distance.name}, of a Gaussian fit"] = distance.gaussian[0]
    if quality.memorisation is not None:
        found["distance to the nearest training row, over that of held-out rows"] = quality.memorisation
    return found | {"samples judged": quality.rows, "held-out rows": quality.held_out}


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the run.", parser=place, metavar="<path>")] = Path("demo"),
    steps: Annotated[int | None, _option("Minibatches, for a run that begins.", "1500")] = None,
    seed: Annotated[int, typer.Option(help="Of everything random, for a run that begins.")] = 0,
) -> None:
    """Train, sample and report on real handwritten digits: about two minutes on two CPU cores.

    Called again it goes on where it stopped; a finished one gets its report anew.

    Example: rheos demo --out demo
    """
    if (out / "run.toml").is_file():
        run = Run.open(out)
        if run.data["name"] != "digits":
            raise Failure(f"{out} holds a run on {run.data['name']}, not the demo: give another --out")
        prepared = None if run.finished else run.prepared()
    else:
        run, prepared = Run.begin(out, "digits", {"steps": steps, "seed": seed})
    if prepared is not None:
        typer.echo(f"1 of 3: learning a flow of {run.data['rows']} handwritten digits")
        try:
            _train(run, prepared)
        except Stopped as stopped:
            raise Stopped(str(stopped).replace(f"rheos train --resume {out}", f"rheos demo --out {out}")) from None
    typer.echo("2 of 3: drawing samples")
    _sample(out, 64, None, None, "default", None, run.settings["seed"], None, "auto")
    typer.echo("3 of 3: writing the report")
    typer.echo(_report(out, None, None, run.settings["seed"], "auto"))
