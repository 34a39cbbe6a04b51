"""`rheos papers`: list, search, show and cite the papers of the catalog. Nothing here needs torch."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from rheos.cli.errors import Usage
from rheos.cli.tables import show_table
from rheos.papers import catalog, results
from rheos.papers.catalog import Paper

__all__ = ["papers"]

papers = typer.Typer(help="The papers rheos is about, and what came of measuring their claims again.",
                     epilog="Example: rheos papers search interpolants", no_args_is_help=True)


@papers.command("list", epilog="Example: rheos papers list --room samplers --built")
def list_papers(
    room: Annotated[str | None, typer.Option(help="Only the papers of this room.")] = None,
    built: Annotated[bool, typer.Option("--built", help="Only the papers that rheos implements.")] = False,
) -> None:
    """List the papers: number, slug, room, arXiv number, verdict, title."""
    check_room(room)
    chosen = [paper for paper in catalog.papers() if (room is None or paper.room == room) and (paper.built or not built)]
    _show(chosen)
    # The count goes to stderr, so that a pipe holds papers only.
    typer.echo(f"{len(chosen)} papers, {sum(paper.built for paper in chosen)} built", err=True)


@papers.command(epilog="Example: rheos papers search 'exponential integrator'")
def search(text: Annotated[list[str], typer.Argument(help="Words of title, slug, room or arXiv number.")]) -> None:
    """Search the papers, best match first."""
    words = " ".join(text)
    found = catalog.search(words)
    if not found:
        known = {word for paper in catalog.papers()
                 for word in [paper.slug, paper.room, *paper.slug.split("_"), *paper.title.lower().split()]}
        raise Usage(f"no paper matches {words!r}{catalog.hint(words.lower(), sorted(known))}")
    _show(found)


@papers.command(epilog="Example: rheos papers show deis")
def show(slug: Annotated[str, typer.Argument(help="Slug, number or arXiv number.")]) -> None:
    """Show one paper: its parts, and how its published measurement came out, row by row."""
    paper = catalog.find(slug)
    for label, value in [("title", paper.title), ("slug", paper.slug), ("number", str(paper.number)), ("room", paper.room),
                         ("arXiv", paper.arxiv or "none"), ("parts", ", ".join(paper.parts) or "none"), ("verdict", results.status(paper))]:
        typer.echo(f"{label:<8} {value}")
    file = results.MEASURED / f"{paper.slug}.json"
    if file.exists():
        result = results.Result.load(file)
        typer.echo(f"{'measured':<8} {result.date}, seeds {', '.join(map(str, result.seeds))}, "
                   f"{sum(result.cpu_seconds.values()):.1f} CPU seconds, code {result.code[:12]}")
        typer.echo()
        show_table(ROW_COLUMNS, result_rows(result))


@papers.command(epilog="Example: rheos papers cite samplers.DEIS")
def cite(part: Annotated[str, typer.Argument(help="A part of rheos: DEIS, samplers.DEIS or rheos.samplers.DEIS.")]) -> None:
    """Print BibTeX entries of the papers that a part implements."""
    typer.echo("\n\n".join(catalog.cite(part)))


ROW_COLUMNS = ("row", "value for each seed", "should be", "control for each seed", "outcome")


def result_rows(result: results.Result) -> list[list[str]]:
    """The rows of a result as cells of ROW_COLUMNS."""
    cells = []
    for row in result.verdict.rows:
        checks = [next(check for check in rows if check.name == row.name) for rows in result.checks.values()]
        controls = ", ".join("none" if check.control is None else f"{check.control:.4g}" for check in checks)
        cells.append([row.name if row.core else f"{row.name} (supporting)", ", ".join(f"{check.value:.4g}" for check in checks),
                      f"{checks[0].relation} {checks[0].threshold:.4g}", controls, row.outcome])
    return cells


def check_room(room: str | None) -> None:
    """Usage error for a room that no paper belongs to."""
    rooms = sorted({paper.room for paper in catalog.papers()})
    if room is not None and room not in rooms:
        known = ", ".join(rooms)
        raise Usage(f"no room {room!r}{catalog.hint(room, rooms) or f'; rooms are {known}'}")


def _show(chosen: Sequence[Paper]) -> None:
    show_table(("number", "slug", "room", "arXiv", "verdict", "title"),
               [[str(paper.number), paper.slug, paper.room, paper.arxiv, results.status(paper), paper.title] for paper in chosen])
