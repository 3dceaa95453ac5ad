"""`semroute eval` and what else measures the routing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from semroute.cli.output import (
    IndexOption,
    JsonOption,
    console,
    print_json,
    print_markup,
    progress,
    refuse,
    say_if_stale,
)

_SHOWN_WRONG = 20


def register(app: typer.Typer) -> None:
    """Add the commands of this module to `app`."""
    app.command("eval")(evaluate_index)


def evaluate_index(
    index: IndexOption = Path("index"),
    cases: Annotated[
        str | None,
        typer.Option(
            "--cases",
            metavar="FILE.jsonl|-",
            help='Labelled prompts, {"prompt": ..., "route": name or null} a line; '
            "without it, the heldout lists in the index.",
            show_default=False,
        ),
    ] = None,
    show_all: Annotated[
        bool, typer.Option("--all", help=f"Show every wrong prompt, not only {_SHOWN_WRONG}.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure the routing on labelled prompts, and show which were wrong and why."""
    from semroute.artifact import build_command
    from semroute.build import config_beside
    from semroute.evaluate import evaluate, heldout_cases, read_cases
    from semroute.router import Router

    router = Router.load(index, log=False)
    say_if_stale(router.index, index)
    labelled = (
        read_cases(cases, router.index.route_names)
        if cases
        else heldout_cases(router.index.config, config_beside(index))
    )
    if not labelled:
        refuse(
            f"{index} holds no heldout prompts. Add `heldout:` to the routes and run "
            f"`{build_command(index)}`, or name labelled prompts with --cases FILE.jsonl."
        )
    with progress("Evaluating") as advance:
        evaluation = evaluate(router, labelled, advance)
    if as_json:
        print_json(evaluation.to_dict())
        return
    from semroute.summary import summary

    width = console().width if sys.stdout.isatty() else None
    print_markup("\n".join(summary(evaluation, None if show_all else _SHOWN_WRONG, width)))
