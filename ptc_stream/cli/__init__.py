"""The command line. `main` is the entry point; each command's module is imported when it is used."""

from __future__ import annotations

import importlib
import logging
import sys

import click
from rich.console import Console
from rich.logging import RichHandler

from ptc_stream import __version__
from ptc_stream.errors import PtcStreamError

__all__ = ["main", "ptc_stream"]

_COMMANDS = {
    "demo": ("demo", "Simulate a run, feed it live, compare with the truth. Start here."),
    "run": ("processing", "Process exposure files to fitted gains, once and resumably."),
    "watch": ("processing", "The same, live, while files appear in a directory."),
    "list": ("looking", "List exposures, and what pairs with what."),
    "show": ("looking", "Show the results in a store."),
    "plot": ("looking", "Draw every figure of a run."),
    "export": ("looking", "Write tables (ECSV) and gains (YAML)."),
    "alerts": ("looking", "List the alerts in a store."),
    "rejected": ("looking", "List what could not be used, and why."),
    "config": ("looking", "Show every parameter, its meaning, and where its value came from."),
    "measure": ("single", "Measure one flat pair."),
    "fit": ("single", "Fit a table of points, or the points of a store."),
    "replay": ("replaying", "Feed a recorded store through the same code into a new one."),
    "simulate": ("demo", "Write a simulated run with known truth as FITS files."),
    "bench": ("bench", "Measure how fast it is here, and how fast it could be."),
}


class _LazyGroup(click.Group):
    """Imports a command's module when the command is used: `--help` stays quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"ptc_stream.cli.{_COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, f"{cmd_name}_command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in _COMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ptc-stream")
@click.option("-v", "--verbose", count=True, help="Say more: -v warnings of every module, -vv everything.")
def ptc_stream(verbose: int) -> None:
    """Photon Transfer Curves while the camera run is still going on.

    Flats are paired as they arrive, measured at once, and the curve of every amplifier is fitted again
    with every pair. Results live in a store (one SQLite file); `ptc-stream COMMAND --help` explains each
    command with examples.

    \b
    First steps:
      ptc-stream demo                         see it work, without data of your own
      ptc-stream list /data/run123            what is there, and what pairs with what
      ptc-stream run /data/run123             gains, read noise, a00, turnoff
      ptc-stream watch /data/incoming         the same, while the camera is running

    Exit status: 0 done; 1 failed; 2 wrong usage or settings; 3 store in use; 4 too many rejected records;
    130 interrupted (everything finished so far is kept; the same command goes on).
    """
    level = {0: logging.ERROR, 1: logging.WARNING}.get(verbose, logging.DEBUG)
    # Standard output is for results: what is logged must not get into somebody's JSON.
    handler = RichHandler(console=Console(stderr=True), show_path=verbose > 1)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[handler], force=True)
    logging.getLogger("ptc_stream").setLevel(level)


def main() -> None:
    """Run the command line; errors become one line and an exit code."""
    try:
        code = ptc_stream.main(prog_name="ptc-stream", standalone_mode=False)
    except PtcStreamError as error:
        click.echo(f"ptc-stream: error: {error}", err=True)
        code = error.exit_code
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except click.Abort:
        click.echo("ptc-stream: interrupted", err=True)
        code = 130
    except BrokenPipeError:
        # The reader (head, less) has gone; Python would complain once more when it flushes at exit.
        sys.stdout = None
        code = 0
    sys.exit(code if isinstance(code, int) else 0)
