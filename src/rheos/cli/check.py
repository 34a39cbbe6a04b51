"""`rheos check`: measure the claims of papers again, show every row with its control, and keep the results as JSON."""
from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from rheos.cli.errors import Failure, Usage
from rheos.cli.options import place
from rheos.cli.papers import ROW_COLUMNS, check_room, result_rows
from rheos.cli.tables import show_table
from rheos.papers import catalog, results, runner
from rheos.papers.checks import Scale

__all__ = ["check"]


def check(
    slugs: Annotated[list[str] | None, typer.Argument(help="Papers by slug, number or arXiv number.")] = None,
    room: Annotated[str | None, typer.Option(help="All claims of this room.")] = None,
    all_: Annotated[bool, typer.Option("--all", help="All claims.")] = False,
    stale: Annotated[bool, typer.Option("--stale", help="Only claims whose code differs from that of their last result.")] = False,
    smoke: Annotated[bool, typer.Option("--smoke", help="Only see that they run: one seed, a second or so each.")] = False,
    seeds: Annotated[str | None, typer.Option(help="Other seeds than a claim's own, as 0,1,2.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the results, one JSON file a paper.", parser=place, metavar="<path>")] = Path("rheos-check"),
    publish: Annotated[bool, typer.Option("--publish", help="Keep the results in the checkout, as the published ones.")] = False,
) -> None:
    """Measure claims again and say which hold, do not hold, or could not be decided."""
    chosen_seeds = _parse_seeds(seeds)
    folder = _target(out, publish, smoke, seeds)
    scale = Scale.SMOKE if smoke else Scale.FULL
    files = _choose(slugs or [], room, all_, stale)
    if stale:
        kept = (results.MEASURED,) if publish else (folder, results.MEASURED)
        files = {slug: file for slug, file in files.items() if runner.stale(slug, *kept, scale=scale)}
        if not files:
            typer.echo("every claim was measured with the code as it is")
            return
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise Failure(f"{folder}: results cannot be written there; --out names another folder")
    measured, crashed = _measure(files, scale, chosen_seeds, folder)
    _report(measured, folder)
    if crashed:
        raise Failure(f"{len(crashed)} of {len(files)} claims could not be run: {'; '.join(map(str, crashed))}") from crashed[0]


def _parse_seeds(seeds: str | None) -> tuple[int, ...] | None:
    if seeds is None:
        return None
    words = seeds.replace(" ", "").split(",")
    if not all(word.isdecimal() for word in words) or len(set(words)) != len(words):
        raise Usage(f"--seeds must be different whole numbers apart by commas, got {seeds!r}")
    return tuple(map(int, words))


def _target(out: Path, publish: bool, smoke: bool, seeds: str | None) -> Path:
    """Where results go. What is published is the claim's own seeds at full scale, in a checkout."""
    if not publish:
        return out
    if smoke or seeds is not None:
        raise Usage("--publish keeps a claim's own seeds at full scale, so it goes with neither --smoke nor --seeds")
    if runner.checkout() is None:
        raise Usage("--publish writes into a checkout of rheos, and this rheos is an installed copy")
    return results.MEASURED


def _choose(slugs: list[str], room: str | None, all_: bool, stale: bool) -> dict[str, Path]:
    """Claim files by slug, from exactly one way of naming them; --stale alone looks at all."""
    ways = [bool(slugs), room is not None, all_]
    if sum(ways) > 1:
        raise Usage("name papers, or --room, or --all: one of them")
    if not any(ways) and not stale:
        raise Usage("nothing to check: name a paper, or give --room, --all or --stale")
    claims = runner.find_claims()
    if slugs:
        wanted = list(dict.fromkeys(catalog.find(slug).slug for slug in slugs))
        missing = [slug for slug in wanted if slug not in claims]
        if missing:
            raise Usage(f"no claim is built for {', '.join(missing)}; rheos papers list --built shows what is")
        return {slug: claims[slug] for slug in wanted}
    check_room(room)
    chosen = {slug: file for slug, file in claims.items() if room is None or file.parent.name == room}
    if not chosen:
        raise Usage("no claim is built" + (f" in the room {room!r}" if room else ""))
    return chosen


def _measure(files: dict[str, Path], scale: Scale, seeds: tuple[int, ...] | None,
             folder: Path) -> tuple[list[results.Result], list[runner.ClaimError]]:
    """Run the claims one after the other; one that crashes does not keep the others from running, and each result is kept at once."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    measured: list[results.Result] = []
    crashed: list[runner.ClaimError] = []
    console = Console(stderr=True)
    bar = Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                   console=console, transient=True, disable=not console.is_terminal, refresh_per_second=2)  # drawing is CPU time too
    with bar:
        task = bar.add_task("claims", total=len(files))
        for slug, file in files.items():
            bar.update(task, description=slug)
            try:
                result = runner.measure(runner.open_claim(file), scale=scale, seeds=seeds,
                                        on_seed=lambda seed, slug=slug: bar.update(task, description=f"{slug}, seed {seed} done"))
            except runner.ClaimError as error:
                crashed.append(error)
            else:
                result.save(folder)
                measured.append(result)
            bar.advance(task)
    return measured, crashed


def _report(measured: list[results.Result], folder: Path) -> None:
    if not measured:
        return
    show_table(("paper", *ROW_COLUMNS), [[result.slug, *row] for result in measured for row in result_rows(result)])
    typer.echo()
    show_table(("paper", "verdict", "seeds", "CPU seconds", "of fixtures"),
               [[result.slug, result.verdict.paper, ", ".join(map(str, result.seeds)),
                 f"{sum(result.cpu_seconds.values()):.2f}", f"{max(result.fixture_seconds.values()):.2f}"] for result in measured])
    if any(result.scale is Scale.SMOKE for result in measured):
        typer.echo("\nsmoke scale: the claims run; these numbers say nothing about the papers")
    typer.echo(f"\nresults are in {folder}")
