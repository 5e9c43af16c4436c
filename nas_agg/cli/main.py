"""The `nas_agg` command. Exit status 0: done; 1: the work failed; 2: the call was wrong."""

from __future__ import annotations

import io
import os
import re
import signal
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from nas_agg.cli.bench import bench
from nas_agg.cli.cache import cache
from nas_agg.cli.compile import compile_
from nas_agg.cli.dashboard import dashboard
from nas_agg.cli.describe import cost, show
from nas_agg.cli.examples import epilog
from nas_agg.cli.lists import datasets, points, recipes, searchers, spaces, table
from nas_agg.cli.proxies import proxies
from nas_agg.cli.report import report
from nas_agg.cli.runs import compare, curves, runs, trials
from nas_agg.cli.search import search
from nas_agg.cli.train import evaluate, train
from nas_agg.cli.worker import worker
from nas_agg.common.errors import NasAggError, one_line

#: The commands by the headings of the help.
COMMANDS: dict[str, tuple[Callable[..., None], ...]] = {
    "Search and train": (search, train, evaluate, worker),
    "Runs": (runs, trials, curves, compare, report, dashboard),
    "Networks": (cost, show, compile_),
    "Tables of results and proxies": (bench, proxies),
    "Lists": (spaces, points, searchers, datasets, recipes, table, cache),
}
LONGEST_ERROR = 1000  # characters

app = typer.Typer(
    help="Search spaces and search algorithms for feature aggregation in deep networks.",
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
for heading, commands in COMMANDS.items():
    for command in commands:
        name = command.__name__.rstrip("_")
        app.command(name, epilog=epilog(name), rich_help_panel=heading)(command)


def _print_version(wanted: bool) -> None:
    if wanted:
        from nas_agg import __version__

        print(f"nas_agg {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


def main() -> None:
    """Run the command line; an error is one line, with a traceback only under ``--debug``."""
    _prepare_streams()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # waiting threads leave their cores to others
    words = [word for word in sys.argv[1:] if word != "--debug"]
    debug = len(words) < len(sys.argv) - 1
    try:
        status = app(words, prog_name="nas_agg", standalone_mode=False) or 0
        sys.stdout.flush()
        sys.exit(status)
    except BrokenPipeError:  # the reader of a table has exited, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nor may the interpreter's last flush fail
        sys.exit(128 + signal.SIGPIPE)
    except SystemExit as end:
        if end.code == 130:  # Ctrl-C, which click handles itself
            _print_error("stopped")
        raise
    except KeyboardInterrupt:
        _print_error("stopped")
        sys.exit(130)
    except Exception as error:
        if debug:
            raise
        sys.exit(_report(error))


def _report(error: Exception) -> int:
    """Print an error in one line; return the exit status."""
    if isinstance(error, NasAggError):
        _print_error(str(error))
        return error.status
    if hasattr(error, "format_message"):  # click: an unknown option, a missing argument
        message = re.sub(r"\.? Did you mean", "; did you mean", error.format_message().rstrip("."))
        command = getattr(getattr(error, "ctx", None), "command_path", "nas_agg")
        _print_error(f"{message[0].lower()}{message[1:]}; see {command} --help")
        return 2
    _print_error(f"{type(error).__name__}: {error} (internal error; rerun with --debug for a traceback)")
    return 1


def _print_error(line: str) -> None:
    print(f"nas_agg: {one_line(' '.join(line.split()))[:LONGEST_ERROR]}", file=sys.stderr)


def _prepare_streams() -> None:
    """Tolerate output streams that are closed or cannot encode every character."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


if __name__ == "__main__":
    main()
