"""`rheos data`: which data sets have a name, which are on this machine, and bringing those that are not."""
from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer
from typer.core import TyperGroup

from rheos.cli.errors import Failure
from rheos.cli.tables import show_table

if TYPE_CHECKING:
    from rheos.data.named import Named

__all__ = ["data"]

COLUMNS = ("name", "here", "rows", "what", "licence")


class ListsWhenBare(TyperGroup):
    """Commands of which `list` runs when none is named."""

    def parse_args(self, ctx, args):
        return super().parse_args(ctx, args or ["list"])


data = typer.Typer(help="The data sets that have a name: list, show and bring them. Without a command, they are listed.",
                   epilog="Example: rheos data bring mnist", cls=ListsWhenBare)


@data.command("list", epilog="Example: rheos data")
def list_data() -> None:
    """List the data sets that have a name: whether they are on this machine, how many rows, what they are, their licence."""
    from rheos.data.named import NAMES

    here = {name: place(one)[0] for name, one in NAMES.items()}
    show_table(COLUMNS, [[name, here[name], one.rows, one.what, one.licence] for name, one in NAMES.items()])
    # To stderr, so that a pipe holds data sets only.
    absent = [name for name, word in here.items() if word == "no"]
    count = f"{len(NAMES)} data sets, {list(here.values()).count('yes')} on this machine"
    typer.echo(f"{count}; rheos data bring {absent[0]} brings {absent[0]}" if absent else count, err=True)


@data.command(epilog="Example: rheos data show crawl")
def show(name: Annotated[str, typer.Argument(help="A name from rheos data.")]) -> None:
    """Show one data set: what a row is, its terms, where it lies, how it is divided."""
    one = find(name)
    here, where = place(one)
    takes = f"{', '.join(one.options)} (of rheos.data.load)" if one.options else "none"
    lines = [("name", one.name), ("meaning", one.meaning), ("licence", one.licence), ("source", one.source), ("here", where or here),
             ("rows", one.rows), ("shape", one.shape), ("held out", one.apart), ("options", takes),
             ("brought", f"rheos data bring {one.name} ({one.parcel.command()})" if one.parcel else "comes with the install"),
             ("named by", f"{one.variable}, if the environment sets it to a folder")]
    for label, value in lines:
        typer.echo(f"{label:<8} {value}")


@data.command(epilog="Example: rheos data bring mnist --dry-run")
def bring(
    name: Annotated[str, typer.Argument(help="A name from rheos data.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print the commands.")] = False,
) -> None:
    """Bring a data set into rheos' own folder, with this machine's package tools and without root. The commands are printed."""
    from rheos.data.named import bring as bring_parcel

    one = find(name)
    if one.parcel is None:
        raise Failure(f"{one.name} comes with the install and cannot be brought; {one.variable} may name its folder")
    if not dry_run and one.lies_in(one.kept):
        typer.echo(f"{one.name} is already in {one.kept}")
        return
    begun = time.monotonic()
    size = bring_parcel(one.parcel, one.kept, one.lies_in, echo=typer.echo, dry=dry_run)
    if not dry_run:
        typer.echo(f"{one.name} is in {one.kept}: {size / 1e6:.1f} MB in {time.monotonic() - begun:.0f} s")


def find(name: str) -> Named:
    """The data set of a name; ValueError, with the names there are and the nearest, if there is none."""
    from rheos.core import checks
    from rheos.data.named import NAMES

    return NAMES[checks.one_of("name", name, NAMES)]


def place(one: Named) -> tuple[str, str]:
    """Whether it is here, in a word, and where."""
    try:
        found = one.find()
    except ValueError as error:         # a variable that names the wrong folder is told by `show`, and must not hide the list
        return "misplaced", str(error)
    return ("no", "") if found is None else ("yes", str(found))
