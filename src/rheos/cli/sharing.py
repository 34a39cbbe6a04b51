"""Models for others: `rheos show` tells what a model is, `rheos push` and `rheos pull` bring it to a hub and back."""
from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from rheos.cli.errors import Failure
from rheos.cli.options import place
from rheos.cli.runs import check_writable, find_model, found_well

__all__ = ["pull", "push", "show"]

HUB = "A folder that serves as the hub, such as a shared drive; without it huggingface_hub's, with this machine's login."


def _hub(folder: Path | None):
    from rheos.interop import LocalHub

    return None if folder is None else LocalHub(folder)


def show(
    run: Annotated[Path, typer.Argument(help="A run folder or a model folder.", parser=place, metavar="RUN")],
) -> None:
    """Print what a model is: its card, as it would stand on a hub.

    Example: rheos show run
    """
    from rheos.interop import describe
    from rheos.models import load

    with found_well():
        typer.echo(describe(load(find_model(run)[0])), nl=False)


def push(
    run: Annotated[Path, typer.Argument(help="A run folder or a model folder.", parser=place, metavar="RUN")],
    name: Annotated[str, typer.Argument(help="user/name.")],
    hub: Annotated[Path | None, typer.Option(help=HUB, parser=place, metavar="<path>", show_default=False)] = None,
    licence: Annotated[str | None, typer.Option(help="Of the model, as hubs write it: mit, cc0-1.0.", show_default=False)] = None,
    private: Annotated[bool, typer.Option("--private", help="Not for everybody.")] = False,
) -> None:
    """Put a model with its card on a hub.

    Example: rheos push run me/flow --hub /shared/models
    """
    from rheos.interop import push as put
    from rheos.models import load

    with found_well():
        model = load(find_model(run)[0])
    typer.echo(f"{name} is at {_reached(lambda: put(model, name, hub=_hub(hub), licence=licence, private=private))}")


def pull(
    name: Annotated[str, typer.Argument(help="user/name.")],
    out: Annotated[Path, typer.Option(help="Folder for the model.", parser=place, metavar="<path>")],
    hub: Annotated[Path | None, typer.Option(help=HUB, parser=place, metavar="<path>", show_default=False)] = None,
    revision: Annotated[str | None, typer.Option(help="Which version.", show_default=False)] = None,
) -> None:
    """Bring a model from a hub.

    Example: rheos pull me/flow --hub /shared/models --out flow
    """
    from rheos.interop import pull as bring

    if (out / "model.json").exists() or (out / "run.toml").exists():
        raise Failure(f"{out} already holds a model or a run: give another --out")
    check_writable(out / "model.json")
    _reached(lambda: bring(name, folder=out, hub=_hub(hub), revision=revision))
    typer.echo(f"{name} is in {out}\ndraw from it:  rheos sample {shlex.quote(str(out))}")


def _reached(ask):
    """What the hub answers. Failure, in one line, if it cannot be reached or says no."""
    try:
        return ask()
    except (ValueError, TypeError, FileNotFoundError, ImportError):
        raise
    except Exception as error:          # the library's own errors have no common kind that it promises
        said = str(error).strip().splitlines()
        raise Failure(f"the hub did not do it: {said[0] if said else type(error).__name__}") from error
