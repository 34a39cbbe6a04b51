"""The main job: `rheos demo`, `train`, `sample`, `report`. torch is imported inside the commands, so that help comes at once."""
from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from rheos.cli.errors import Failure, Usage
from rheos.cli.options import check_memory, place
from rheos.cli.rules import RULE_NAMES, rule_named
from rheos.cli.runs import PATHS, PREDICTS, Run, Stopped, check_writable, find_model, found_well, learn, one_thread, refuse_with_resume, versions

__all__ = ["demo", "report", "sample", "train"]

DEVICES = "auto, cpu, cuda, cuda:1 or mps."
PAIRS = 6       # samples of each class that a report shows


def _option(text: str, default: str | None = None):
    """An option whose default is the library's, told in the help but not set here: `runs.settled` takes it from where it lives."""
    return typer.Option(help=text, show_default=default or False)


def _place(text: str, default: str | None = None):
    """An option that is a file or a folder."""
    return typer.Option(help=text, show_default=default or False, parser=place, metavar="<path>")


def train(
    data: Annotated[str | None, typer.Argument(help='"digits", or a .npy or .npz file (x, and y for classes).')] = None,
    out: Annotated[Path | None, _place("Folder for the run.")] = None,
    resume: Annotated[Path | None, _place("Go on with the run in this folder, to the same end as if it had never stopped.")] = None,
    steps: Annotated[int | None, _option("Minibatches.", "1500")] = None,
    batch: Annotated[int | None, _option("Rows of a minibatch.", "256")] = None,
    rate: Annotated[float | None, _option("Learning rate at its highest; it ends at 0.", "0.002")] = None,
    width: Annotated[int | None, _option("Features of the network.", "160")] = None,
    depth: Annotated[int | None, _option("Residual blocks of the network.", "3")] = None,
    dropout: Annotated[float | None, _option("Share of features dropped while learning.", "0.1")] = None,
    path: Annotated[str | None, _option(f"How noise becomes data: {', '.join(PATHS[:-1])} or {PATHS[-1]} (of least energy for this data).", "linear")] = None,
    coupling: Annotated[str | None, _option("Which noise goes with which data: independent, or ot, paired in each minibatch.", "independent")] = None,
    predicts: Annotated[str | None, _option(f"What the network returns: {', '.join(PREDICTS[:-1])} or {PREDICTS[-1]}; left out, what suits the path.")] = None,
    drop_condition: Annotated[float | None, _option("Share of rows learned without their class, which guidance needs.", "0.1")] = None,
    seed: Annotated[int | None, _option("Of everything random.", "0")] = None,
    every: Annotated[int | None, _option("Steps between checkpoints.", "500")] = None,
    device: Annotated[str | None, _option(DEVICES, "auto")] = None,
    precision: Annotated[str | None, _option("fp32 or bf16.", "fp32")] = None,
    compile_: Annotated[bool, typer.Option("--compile", help="Compile the network.")] = False,
    held_out: Annotated[float | None, _option("Share of a file's rows to keep apart and judge by.", "0.1")] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write figures for TensorBoard into the run folder too.")] = False,
) -> None:
    """Learn a generative flow of DATA. Ctrl-C stops it in good order, and --resume goes on.

    Example: rheos train digits --out run
    """
    given = {"steps": steps, "batch": batch, "rate": rate, "width": width, "depth": depth, "dropout": dropout, "path": path, "coupling": coupling,
             "predicts": predicts, "drop_condition": drop_condition, "seed": seed, "every": every, "device": device, "precision": precision,
             "compile": compile_ or None}
    if tensorboard:
        from rheos.core.extras import require

        require("tensorboard", extra="interop")
    if resume is not None:
        refuse_with_resume({"DATA": data, "--out": out, "--held-out": held_out, **{f"--{name.replace('_', '-')}": value for name, value in given.items()}})
        run = Run.open(resume)
        _tell_versions(run)
        prepared = run.prepared()
    else:
        if data is None:
            raise Usage('DATA is missing: "digits", or a .npy or .npz file')
        if out is None:
            raise Usage("--out is missing: the folder for the run")
        run, prepared = Run.begin(out, data, held_out, given)
    _train(run, prepared, tensorboard)
    typer.echo(f"draw from it:  rheos sample {run.folder}\njudge it:      rheos report {run.folder}")


def _train(run: Run, prepared, tensorboard: bool = False) -> None:
    model = learn(run, prepared, tensorboard=tensorboard)
    rows = run.rows()
    spent = f", {rows[-1]['cpu_seconds']:.1f} s of CPU time" if rows else ""
    typer.echo(f"the model of {model.card['parameters']:,} parameters is in {run.model} ({run.steps} steps{spent})")


def _tell_versions(run: Run) -> None:
    now = versions()
    other = [f"{name} {version}, now {now[name]}" for name, version in run.versions.items() if name in now and version != now[name]]
    if other:
        typer.echo(f"note: begun with {'; '.join(other)}: the end may differ in the last digits from that of an unbroken run", err=True)


def sample(
    run: Annotated[Path, typer.Argument(help="A run folder or a model folder.", parser=place, metavar="RUN")],
    n: Annotated[int, typer.Option(help="How many.")] = 64,
    cond: Annotated[int | None, _option("A class for all of them.", "any")] = None,
    guidance: Annotated[float | None, _option("Classifier-free guidance: 1 is none, above 1 is closer to the class.", "none")] = None,
    rule: Annotated[str, typer.Option(help=f"One of {', '.join(RULE_NAMES)}.")] = "default",
    steps: Annotated[int, typer.Option(help="Steps: one field call each, two for heun, four for rk4; plms makes one call more, rk45 chooses its own.")] = 20,
    seed: Annotated[int, typer.Option(help="Of the starts.")] = 0,
    out: Annotated[Path | None, _place("A .npy or .png file.", "samples/ in the folder")] = None,
    device: Annotated[str, typer.Option(help=DEVICES)] = "auto",
) -> None:
    """Draw samples from a learned flow, as an array in the data's own units; images as a picture too.

    Example: rheos sample run --n 100 --cond 3 --guidance 2
    """
    _sample(run, n, cond, guidance, rule, steps, seed, out, device)


def _sample(folder: Path, n: int, cond: int | None, guidance: float | None, rule: str, steps: int, seed: int, out: Path | None, device: str) -> list[Path]:
    if out is not None and out.suffix not in (".npy", ".png"):
        raise Usage(f"--out must end in .npy or .png, got {out}")
    if guidance is not None and cond is None:
        raise Usage("--guidance needs a class: add --cond K, or leave it out")
    chosen = rule_named(rule)
    place, samples = find_model(folder)
    from rheos.cli.images import as_pixels, is_image, png, sheet
    from rheos.core.files import write_bytes
    from rheos.models import load, pick_device

    one_thread()
    with found_well():
        model = load(place)
    check_memory("--n", n, model.event)
    pictured = is_image(model.event, model.transform.bounds)
    if out is not None and out.suffix == ".png" and not pictured:
        raise Usage(f"--out {out}: samples of shape {model.event} are not images with known bounds, so they go into a .npy file")
    asked = ([] if cond is None else [f"class{cond}"]) + ([] if guidance is None else [f"guidance{guidance:g}"])
    name = "-".join([f"n{n}", *asked, rule, f"{steps}steps", f"seed{seed}"])
    files = [out] if out is not None else [samples / f"{name}.npy"] + ([samples / f"{name}.png"] if pictured else [])
    for file in files:
        check_writable(file)
    x = model.to(pick_device(device)).sample(n, cond=cond, guidance=guidance, rule=chosen, steps=steps, seed=seed).cpu()
    for file in files:
        write_bytes(file, _npy(x) if file.suffix == ".npy" else png(sheet(as_pixels(x, model.transform.bounds, model.card.get("data", "")))))
    typer.echo(f"{n} samples of shape {tuple(model.event)} are in {' and '.join(map(str, files))}")
    return files


def _npy(x) -> bytes:
    import io

    import numpy as np

    buffer = io.BytesIO()
    np.save(buffer, x.numpy(), allow_pickle=False)
    return buffer.getvalue()


def report(
    run: Annotated[Path, typer.Argument(help="A run folder.", parser=place, metavar="RUN")],
    n: Annotated[int | None, _option("How many samples are judged.", "as many as are held out")] = None,
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
    from rheos.cli.images import is_image
    from rheos.cli.pages import page
    from rheos.cli.quality import DRAWS, class_grid, measure
    from rheos.core.files import save_json, write_bytes
    from rheos.models import load, pick_device

    one_thread()
    cpu, wall = time.process_time(), time.monotonic()
    with found_well():
        model = load(run.model)
    if n is not None:
        check_memory("--n", n, model.event, DRAWS)
    data, rows = run.dataset(), run.rows()
    model.to(pick_device(device))
    quality = measure(model, data, n=n, seed=seed, told=lambda line: typer.echo(line, err=True))
    grid = class_grid(model, data, PAIRS, seed) if is_image(data.event, data.bounds) else None
    last = rows[-1] if rows else {}
    cost = {
        "parameters": model.card["parameters"], "steps": run.steps, "bytes_sent_between_nodes": 0, "training_cpu_seconds": last.get("cpu_seconds"),
        "training_wall_seconds": last.get("wall_seconds"), "samples_per_cpu_second": quality.samples_per_cpu_second,
        "report_cpu_seconds": round(time.process_time() - cpu, 3), "report_wall_seconds": round(time.monotonic() - wall, 3),
    }
    now = versions()
    content = page(run, data, quality, grid, rows, cost, now)
    save_json(out.with_suffix(".json"), {
        "format": 1, "run": str(run.folder), "data": run.data, "settings": run.settings, "versions": {"run": run.versions, "report": now},
        "machine": run.machine, "command": run.command, "seed": seed, "cost": cost, "quality": quality.to_json(),
    })
    write_bytes(out, content.encode())
    return out


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
        run, prepared = Run.begin(out, "digits", None, {"steps": steps, "seed": seed})
    if prepared is not None:
        typer.echo(f"1 of 3: learning a flow of {run.data['rows']} handwritten digits")
        try:
            _train(run, prepared)
        except Stopped as stopped:
            raise Stopped(str(stopped).replace(f"rheos train --resume {out}", f"rheos demo --out {out}")) from None
    typer.echo("2 of 3: drawing samples")
    _sample(out, 64, None, None, "default", 20, run.settings["seed"], None, "auto")
    typer.echo("3 of 3: writing the report")
    typer.echo(_report(out, None, None, run.settings["seed"], "auto"))
