"""`semroute eval` and what else measures the routing."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from semroute.cli.cases import labelled_cases, written_routes
from semroute.cli.output import (
    CHECK_FAILED,
    CasesOption,
    IndexOption,
    JsonOption,
    WrittenRoutesOption,
    console,
    escape,
    print_json,
    print_line,
    print_markup,
    progress,
    refuse,
    say,
    say_if_stale,
)

if TYPE_CHECKING:
    from semroute.assess import Assessment
    from semroute.router import Router

_SHOWN_WRONG = 20


class Format(StrEnum):
    """How the result is printed."""

    TABLE = "table"
    JSON = "json"
    GITHUB = "github"
    JUNIT = "junit"


def register(app: typer.Typer) -> None:
    """Add the commands of this module to `app`."""
    app.command("eval")(evaluate_index)


def evaluate_index(
    index: IndexOption = Path("index"),
    cases: CasesOption = None,
    baseline: Annotated[
        Path | None,
        typer.Option(
            "--baseline", help="Another index, to compare with prompt by prompt.", show_default=False
        ),
    ] = None,
    robustness: Annotated[
        bool, typer.Option("--robustness", help="Perturb the prompts too, and tell how many flip.")
    ] = False,
    form: Annotated[
        Format | None,
        typer.Option(
            "--format", help="How to print it; `github` is for GitHub Actions.", show_default="table"
        ),
    ] = None,
    routes: WrittenRoutesOption = None,
    show_all: Annotated[
        bool, typer.Option("--all", help=f"Show every wrong prompt, not only {_SHOWN_WRONG}.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Measure the routing on labelled prompts; exit 1 below the floors that the settings set."""
    from semroute.artifact import build_command
    from semroute.assess import assess
    from semroute.router import Router

    if as_json and form not in (None, Format.JSON):
        refuse(f"--json contradicts --format {form}; give one of them.")
    output = Format.JSON if as_json else form or Format.TABLE
    where = written_routes(routes, index)
    router = Router.load(index, log=False)
    say_if_stale(router.index, index)
    before = None if baseline is None else _baseline(baseline)
    labelled = labelled_cases(cases, router, where, before)
    if not labelled:
        refuse(
            f"{index} holds no heldout prompts. Add `heldout:` to the routes and run "
            f"`{build_command(index)}`, or name labelled prompts with --cases FILE.jsonl."
        )
    with progress("Evaluating") as advance:
        found = assess(
            router,
            labelled,
            baseline=before,
            perturbed=robustness,
            tagged=cases is not None,
            progress=advance,
        )
    floors = router.index.config.settings.floors
    if cases is None and floors is not None and floors.tags:
        tags = ", ".join(floors.tags)
        say(
            f"[yellow]note:[/] floors on tags ({escape(tags)}) are not checked: heldout lists carry no tags;"
            " give --cases FILE.jsonl"
        )
    _print(found, output, None if show_all else _SHOWN_WRONG)
    if output is not Format.TABLE:  # which says it itself
        for floor in found.missed:
            say(f"[red]floor not held:[/] {escape(str(floor))}")
    if found.missed:
        raise typer.Exit(CHECK_FAILED)


def _baseline(folder: Path) -> Router:
    from semroute.errors import ArtifactMissing
    from semroute.router import Router

    try:
        return Router.load(folder, log=False)
    except ArtifactMissing:
        refuse(
            f"--baseline {folder}: there is no index here. Name a folder that holds the index as it was, "
            "such as a copy made before `semroute build`, or that of the main branch: "
            "git worktree add ../before main, then --baseline ../before/index."
        )


def _print(found: Assessment, output: Format, shown: int | None) -> None:
    if output is Format.JSON:
        print_json(found.to_dict())
    elif output is Format.JUNIT:
        from semroute.formats import junit

        print_line(junit(found))
    elif output is Format.GITHUB:
        _print_for_github(found)
    else:
        from semroute.summary import assessment

        width = console().width if sys.stdout.isatty() else None
        print_markup("\n".join(assessment(found, shown, width)))


def _print_for_github(found: Assessment) -> None:
    """Annotations to stdout, where GitHub looks for them, and the summary to the file that it names."""
    from semroute.formats import job_summary, workflow_commands

    for line in workflow_commands(found):
        print_line(line)
    place = os.environ.get("GITHUB_STEP_SUMMARY")
    if not place:
        print_line(job_summary(found).rstrip())
        return
    try:
        with Path(place).open("a", encoding="utf-8") as file:
            file.write(job_summary(found))
    except OSError as error:
        say(f"[yellow]note:[/] the summary could not be written: {escape(error.strerror or str(error))}")
