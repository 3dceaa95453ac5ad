"""The command `semroute`: thin. Results go to stdout, everything said about them to stderr.

Exit codes: 0 fine, 1 a check did not hold, 2 the input is wrong.
"""

from __future__ import annotations

import io
import sys
from typing import Annotated, NoReturn

import typer

from semroute import __version__
from semroute.cli import evaluation, log, reporting, routing, serving, tuning
from semroute.cli.escalations import escalations
from semroute.cli.output import BAD_INPUT, escape, print_line, say, say_problems
from semroute.errors import ConfigError, SemrouteError

app = typer.Typer(
    name="semroute",
    help="Decide, before the call, which model serves a prompt.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

routing.register(app)
evaluation.register(app)
reporting.register(app)
tuning.register(app)
serving.register(app)
app.add_typer(escalations, name="escalations")
log.register(app)


def main() -> NoReturn:
    """Run the command line and exit. What the user did wrong becomes a sentence, never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Utterances may hold any character, and a pipe on Windows, say, takes few.
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    try:
        app()
    except ConfigError as error:
        say_problems(error.problems)
    except SemrouteError as error:
        say(f"[red]error:[/] {escape(str(error))}")
    sys.exit(BAD_INPUT)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        print_line(f"semroute {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:  # pragma: no cover - typer prints the help first
        raise typer.Exit
