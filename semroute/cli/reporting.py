"""`semroute report`: the routing as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from semroute.cli.cases import labelled_cases, written_routes
from semroute.cli.log import logged_decisions
from semroute.cli.output import (
    CasesOption,
    IndexOption,
    JsonOption,
    WrittenRoutesOption,
    print_json,
    print_line,
    progress,
    refuse,
    say,
)
from semroute.text import counted

if TYPE_CHECKING:
    from semroute.evaluate import Wrong


def register(app: typer.Typer) -> None:
    """Add the commands of this module to `app`."""
    app.command("report")(write_report)


def write_report(
    index: IndexOption = Path("index"),
    cases: CasesOption = None,
    output: Annotated[Path, typer.Option("--output", help="The page to write.")] = Path("report.html"),
    wrong: Annotated[
        Path | None,
        typer.Option("--csv", help="Write the wrong prompts there too, as CSV.", show_default=False),
    ] = None,
    routes: WrittenRoutesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Draw routes, errors, confidence and cost on one HTML page that needs no network."""
    from semroute.report import gather, render
    from semroute.report.spreadsheet import wrong_csv
    from semroute.router import Router

    where = written_routes(routes, index)
    router = Router.load(index, log=False)
    settings = router.index.config.settings
    labelled = labelled_cases(cases, router, where)
    log = None if settings.log is None else logged_decisions(settings, index.absolute().parent)
    with progress("Evaluating") as advance:
        report = gather(router, labelled, log, progress=advance)
    page = render(report).encode("utf-8", "replace")
    _write(output, page)
    rows: tuple[Wrong, ...] = ()
    sheet = b""
    if wrong is not None:
        found = report.evaluation
        if found is not None:
            rows = (*found.wrong, *found.wrong_models)
        sheet = wrong_csv(rows).encode("utf-8", "replace")
        _write(wrong, sheet)
    if not labelled:
        say("There were no labelled prompts: add `heldout:` to the routes and build, or give --cases.")
    if as_json:
        evaluation = report.evaluation
        print_json(
            {
                "path": str(output),
                "bytes": len(page),
                "index": report.index,
                "cases": 0 if evaluation is None else evaluation.cases,
                "accuracy": None
                if evaluation is None or evaluation.accuracy is None
                else round(evaluation.accuracy, 6),
                "csv": None if wrong is None else {"path": str(wrong), "bytes": len(sheet)},
            }
        )
    else:
        print_line(f"{output}: {len(page) / 1e6:.1f} MB")
        if wrong is not None:
            print_line(f"{wrong}: {counted(len(rows), 'wrong prompt')}, {len(sheet) / 1e3:.1f} KB")


def _write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        refuse(f"{path}: {error.strerror or error}; name a place that can be written.")
