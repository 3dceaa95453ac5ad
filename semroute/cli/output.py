"""What the commands print, and how: results to stdout, everything said about them to stderr."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from semroute.errors import Problem
from semroute.text import visible

if TYPE_CHECKING:
    from rich.console import Console

    from semroute.index import Progress, RouteIndex

CHECK_FAILED, BAD_INPUT = 1, 2
"""Exit codes beside 0."""

SHOWN_TEXT = 120
"""Characters of a stored prompt that are shown on a line."""

RoutesOption = Annotated[Path, typer.Option("--routes", help="The folder of YAML files.")]
IndexOption = Annotated[
    Path, typer.Option("--index", envvar="SEMROUTE_INDEX", help="The folder of the built index.")
]
WrittenRoutesOption = Annotated[
    Path | None,
    typer.Option(
        "--routes",
        help="Where the heldout lists stand; routes/ beside the index, if left out.",
        show_default=False,
    ),
]
CasesOption = Annotated[
    str | None,
    typer.Option(
        "--cases",
        metavar="FILE.jsonl|-",
        help='Labelled prompts, {"prompt": ..., "route": name or null} a line; '
        "without it, the heldout lists in the index.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


class progress:  # noqa: N801 - used as a function
    """A progress bar on stderr that appears only on a terminal, and only when there is work to show."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._bar: Any = None

    def __enter__(self) -> Progress:
        return self._advance

    def _advance(self, done: int, total: int) -> None:
        if self._bar is None:
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

            columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bar = Progress(
                *columns, console=stderr_console(), transient=True, disable=not sys.stderr.isatty()
            )
            self._bar.start()
            self._task = self._bar.add_task(self._what, total=total)
        self._bar.update(self._task, completed=done)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()


def stderr_console() -> Console:
    """The console for what is said about a result."""
    return console(stderr=True)


def console(*, stderr: bool = False) -> Console:
    """A console on stdout or stderr, coloured where that is a terminal."""
    from rich.console import Console  # late: JSON needs none of it

    return Console(stderr=stderr, highlight=False, emoji=False)  # `:100:` is what a user wrote


def escape(text: str) -> str:
    """`text` with nothing in it that rich would take for markup."""
    from rich.markup import escape as escaped

    return escaped(text)


def print_line(text: str) -> None:
    """One result. Plain, so that no width and no colour gets into what a program reads; see `visible`."""
    _write(visible(text))


def _write(text: str) -> None:
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except OSError as error:
        # Python flushes once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # the reader, such as `head`, has seen enough: not an error
            raise typer.Exit from None
        refuse(f"the result could not be written: {error.strerror or error}.")


def print_markup(markup: str) -> None:
    """Lines for people, coloured on a terminal."""
    out = console()
    with out.capture() as captured:
        out.print(visible(markup), soft_wrap=True)
    _write(captured.get().removesuffix("\n"))


def print_json(value: Any) -> None:
    """One result as a line of JSON."""
    print_line(json.dumps(value, ensure_ascii=False))


def say(markup: str) -> None:
    """A message for people, in markup, to stderr."""
    stderr_console().print(visible(markup), soft_wrap=True)


def say_if_stale(index: RouteIndex, folder: Path) -> None:
    """One line where `index`, loaded from `folder`, is not what `routes/` beside it says now."""
    from semroute.artifact import build_command
    from semroute.build import staleness

    why = staleness(index, folder)
    if why is not None:
        said = escape(f"{folder} is {why}. Run `{build_command(folder)}`.")
        say(f"[yellow]note:[/] {said}")


def say_problems(problems: Iterable[Problem]) -> None:
    """Every problem with its place, to stderr."""
    for problem in problems:
        where = escape(f"{problem.where}:")
        say(f"[bold]{where}[/] {escape(problem.message)}")


def say_warnings(warnings: Iterable[Problem]) -> None:
    """Every warning with its place, to stderr."""
    for warning in warnings:
        where = escape(f"{warning.where}:")
        say(f"[bold]{where}[/] [yellow]warning:[/] {escape(warning.message)}")


def plain(problems: Iterable[Problem]) -> list[dict[str, Any]]:
    """Problems as JSON types."""
    return [{"file": p.file, "line": p.line, "column": p.column, "message": p.message} for p in problems]


def one_prompt(words: list[str] | None) -> str | None:
    """The prompt of a command; None where none was given. Several words without quotes are refused."""
    if words and len(words) > 1:
        refuse(f"A prompt is one argument: put it in quotes, such as {shlex.quote(' '.join(words))}.")
    return words[0] if words else None


def refuse(message: str) -> NoReturn:
    """Say what is wrong with the input, and exit."""
    say(f"[red]error:[/] {escape(message)}")
    raise typer.Exit(BAD_INPUT)
