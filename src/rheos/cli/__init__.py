"""The command line `rheos`: the commands put together. No command imports torch before it needs it, so that help comes at once."""
from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import Annotated

import typer

import rheos
from rheos.cli.errors import run

__all__ = ["build", "main"]

# The main job: commands that live in `rheos.cli.generative` under these names, in the order of the help.
GENERATIVE = ("demo", "train", "sample", "report")
TUNING = ("tune",)
RESTORING = ("restore",)
SHARING = ("show", "push", "pull")


def build() -> typer.Typer:
    """The app with all commands."""
    # Imported here because at the top these two names would hide the modules of the same names.
    from rheos.cli.check import check
    from rheos.cli.datasets import data
    from rheos.cli.papers import papers

    app = typer.Typer(name="rheos", add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)
    app.callback(help="Generative flows of your data, and papers whose claims are measured again.", epilog="Example: rheos demo")(_root)
    if importlib.util.find_spec("rheos.cli.generative") is not None:
        for module, names in (("generative", GENERATIVE), ("tuning", TUNING), ("restoring", RESTORING), ("sharing", SHARING)):
            room = importlib.import_module(f"rheos.cli.{module}")
            for name in names:
                app.command(name)(getattr(room, name))
    app.command("check", epilog="Example: rheos check deis")(check)
    app.add_typer(data, name="data")
    app.add_typer(papers, name="papers")
    return app


def main() -> None:
    """The entry point of the installed command."""
    sys.exit(run(build()))


def _version(asked: bool) -> bool:
    if asked:
        typer.echo(f"rheos {rheos.__version__}")
        raise typer.Exit()
    return asked


def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error; works after any command too.")] = False,
) -> None:
    """Options of rheos itself: typer answers the one, `errors.run` looks for the other."""
