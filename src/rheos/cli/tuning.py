"""`rheos tune`: tables of numbers made for one model, for `rheos sample --table` and for diffusers pipelines."""
from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from rheos.cli.errors import Usage
from rheos.cli.options import check_memory, place, slug
from rheos.cli.runs import check_writable, draws_from_noise, find_model, found_well, one_thread

__all__ = ["tune"]


def tune(
    run: Annotated[Path, typer.Argument(help="A run folder or a model folder.", parser=place, metavar="RUN")],
    nfe: Annotated[str, typer.Option(help="Field calls a sample, one table each.")] = "5,8,10",
    starts: Annotated[int, typer.Option(help="Starts: half to fit to, a quarter to choose by, a quarter to judge by.")] = 128,
    trials: Annotated[int, typer.Option(help="Sets of times tried for each table.")] = 100,
    fine: Annotated[int, typer.Option(help="Steps of the reference.")] = 120,
    cond: Annotated[str | None, typer.Option(help="A class (its number or name) or a caption, for all starts.", show_default="as in the data")] = None,
    guidance: Annotated[float | None, typer.Option(help="The guidance that will be sampled with; the table is made for it.", show_default="none")] = None,
    seed: Annotated[int, typer.Option(help="Of the starts and of the search.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for the tables.", show_default="tables/ in the folder", parser=place, metavar="<path>")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
) -> None:
    """Make sampling tables for a model: times searched, numbers fitted to where its flow really goes, best rules beside them.

    Example: rheos tune run --nfe 5,8,10
    """
    try:
        calls = [int(part) for part in nfe.split(",")]
    except ValueError:
        raise Usage(f"--nfe must be numbers such as 5,8,10, got {nfe!r}") from None
    if min(calls) < 1 or len(set(calls)) < len(calls):
        raise Usage(f"--nfe must be different numbers from 1 on, got {nfe!r}")
    if guidance is not None and cond is None:
        raise Usage("--guidance needs a class or a caption: add --cond, or leave it out")
    for option, value, least in (("--starts", starts, 8), ("--trials", trials, 1), ("--fine", fine, max(8, max(calls)))):
        if value < least:
            raise Usage(f"{option} must be at least {least}, got {value}")
    where, samples = find_model(run)
    folder = samples.parent / "tables" if out is None else out
    made_for = "".join([] if cond is None else [f"-{slug(cond)}"]) + ("" if guidance is None else f"-guidance{guidance:g}")
    files = {count: folder / f"nfe{count}{made_for}.json" for count in calls}
    for file in files.values():
        check_writable(file)
    import rheos
    from rheos.core import Progress
    from rheos.models import load, pick_device
    from rheos.samplers import Reference
    from rheos.samplers import tune as search

    one_thread()
    with found_well():
        model = load(where)
    if not draws_from_noise(model):
        raise Usage("tune makes tables for models that draw from noise by a flow, and this is none")
    model.to(pick_device(device))
    check_memory("--starts", starts, model.event, fine + 2)
    like, path = model.field.like, model.field.path
    asked = model.classes_as_in_the_data(starts, seed=seed) if cond is None and guidance is None else model.conditions.tensor(cond, starts)
    start = path.prior((starts, *model.event), seed=seed, dtype=like.dtype, device=like.device)
    reference = Reference.of(model.field, start, cond=asked, guidance=guidance, fine=fine, watch=[Progress("reference")])
    if max(calls) > reference.times.steps:
        raise Usage(f"--fine {fine} makes a reference of {reference.times.steps} steps, fewer than {max(calls)} calls: raise it")
    typer.echo(f"median over {starts - starts * 3 // 4} unseen starts of the distance to where the flow ends (the reference's own: {reference.error:.2g})")
    for count, file in files.items():
        made = search(reference, count, trials=trials, seed=seed, watch=[Progress(f"{count} calls: times tried")])
        made.table.save(file, rheos=rheos.__version__, run=str(run), family=made.family, name=made.name, error=made.error, errors=made.errors,
                        best_fixed_rule=made.rule, reference_error=made.reference_error, starts=starts, trials=trials, seed=seed, cond=cond)
        what = made.family if made.family == "fitted" else f"{made.family}: {made.name}"
        others = ", ".join(f"{family} {error:.4g}" for family, error in made.errors.items() if family != made.family and family != "fixed")
        typer.echo(f"{count:4d} calls: {made.error:.4g} ({what}), {made.gain:.2f} times closer than the best fixed rule, {made.rule_error:.4g} ({made.rule}); "
                   f"{others}; {file}")
        if made.reference_error > made.error / 3:
            typer.echo(f"note: the reference's own error is {made.reference_error:.2g}, too near to judge by: raise --fine above {fine}", err=True)
    more = "" if guidance is None else f" --cond {shlex.quote(str(cond))} --guidance {guidance:g}"
    typer.echo(f"draw with one:  rheos sample {shlex.quote(str(run))}{more} --table {shlex.quote(str(files[calls[-1]]))}")
