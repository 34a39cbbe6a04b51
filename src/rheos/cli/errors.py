"""How the command line ends: one line on stderr and an exit code, 0 fine, 1 failed, 2 wrong usage, 130 interrupted.

Commands raise; only `run` turns what they raise into a line. `--debug` anywhere on the command line shows the traceback as well.
"""
from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence

import typer

__all__ = ["Failure", "Usage", "run"]

INTERRUPTED = 130


class Usage(Exception):
    """The command was called in a way that cannot work; the message is the line shown, the exit code 2."""


class Failure(Exception):
    """The command was called well and did not succeed; the message is the line shown, the exit code 1."""


def run(app: typer.Typer, argv: Sequence[str] | None = None, debug: bool = False) -> int:
    """Run a typer app on the arguments (default: those of the process) and give its exit code; nothing is raised.

    Usage, ValueError, TypeError and typer's own usage errors give 2, an interrupt 130, everything else that is raised 1.
    A group of commands called without one prints its help and gives 0.
    A command ends with another code by raising typer.Exit(code); what it returns is ignored unless it is an int, which is the code.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    end = arguments.index("--") if "--" in arguments else len(arguments)
    debug = debug or "--debug" in arguments[:end]
    arguments = [argument for argument in arguments[:end] if argument != "--debug"] + arguments[end:]
    try:
        code = app(args=arguments, prog_name="rheos", standalone_mode=False)
    except SystemExit as error:                         # a reader that closed its end of the pipe, for example
        return error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    except (KeyboardInterrupt, typer.Abort) as error:
        return _end(error, "interrupted", INTERRUPTED, debug)
    except Exception as error:
        if type(error).__name__ == "NoArgsIsHelpError":     # not public in typer; rich has printed the help by now, or it is the message
            if str(error).strip():
                print(str(error))
            return 0
        return _end(error, *_line_and_code(error), debug)
    if code == INTERRUPTED:                             # typer turns an interrupt into this code before anybody can see it
        print("rheos: interrupted", file=sys.stderr)
    return code if isinstance(code, int) else 0


def _line_and_code(error: Exception) -> tuple[str, int]:
    # typer bundles its own click in new versions and imports it in old ones; the method is the same in both.
    if hasattr(error, "format_message"):
        return error.format_message(), getattr(error, "exit_code", 1)
    if isinstance(error, UnicodeEncodeError):           # as run.toml and pipes hold UTF-8 only
        return f"{error.object[max(0, error.start - 40):error.end + 40]!r} is not UTF-8, so it cannot be written down: rename it", 2
    if isinstance(error, (Usage, ValueError, TypeError)):
        return str(error), 2
    if type(error).__name__ == "NonFinite":
        return f"the numbers grew without bounds: {error}", 1
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}", 1
    if isinstance(error, (Failure, OSError, ImportError)):
        return str(error), 1
    return f"{type(error).__name__}: {error}", 1


def _end(error: BaseException, line: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    line = "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in " ".join(line.split()))      # names of files may steer a terminal
    print("rheos:", line or type(error).__name__, file=sys.stderr)
    return code
