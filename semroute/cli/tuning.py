"""`semroute tune`: which numbers to set, and what they promise."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from semroute.cli.cases import labelled_cases
from semroute.cli.log import logged_decisions
from semroute.cli.output import (
    CHECK_FAILED,
    IndexOption,
    JsonOption,
    RoutesOption,
    escape,
    print_json,
    print_markup,
    progress,
    refuse,
    say,
)
from semroute.text import counted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from semroute.edit import Written
    from semroute.router import Router
    from semroute.sweep import Figure, Goal
    from semroute.tune import Logged, OperatingPoint, Tuning

    Progress = Callable[[int, int], None]

_SETTINGS = {
    "min_confidence": "vote.min_confidence",
    "max_distance": "vote.max_distance",
    "min_margin": "vote.min_margin",
    "blend": "vote.blend",
    "max_risk": "escalations.max_risk",
    **{weight: f"select.{weight}" for weight in ("cost", "quality", "ttft", "itl")},
}
_NAMES = {
    "refused_out_of_scope": "refused",
    "quality_share": "of default",
    "cost": "USD/1,000",
    "time": "ms",
    "time_saving": "time saved",
}
_MEASURES = {"cost_save": "CostSave", "aiq": "AIQ", "apgr": "APGR", "cpt50": "CPT50", "cpt80": "CPT80"}
_PLAIN = ("quality",)
_QUALITY = 0.95


def register(app: typer.Typer) -> None:
    """Add the commands of this module to `app`."""
    app.command("tune")(tune)


def tune(
    index: IndexOption = Path("index"),
    cases: Annotated[
        str | None,
        typer.Option(
            "--cases",
            metavar="FILE.jsonl|-",
            help='Labelled prompts, {"prompt": ..., "route": name or null} a line; '
            "without this and the next four, the heldout lists in the index.",
            show_default=False,
        ),
    ] = None,
    outcomes: Annotated[
        str | None,
        typer.Option(
            "--outcomes",
            metavar="FILE.jsonl|-",
            help='Graded prompts, {"prompt": ..., "scores": {name: 0..1, ...}} a line.',
            show_default=False,
        ),
    ] = None,
    store: Annotated[
        bool, typer.Option("--store", help="The outcomes in the store of the settings.")
    ] = False,
    log: Annotated[
        str | None,
        typer.Option(
            "--log",
            metavar="FILE.jsonl|-",
            help="Decisions with outcomes: what `route --json` prints, with a `score` a line.",
            show_default=False,
        ),
    ] = None,
    logged: Annotated[
        bool, typer.Option("--logged", help="The decisions in the log of the settings, those with outcomes.")
    ] = False,
    setting: Annotated[
        str | None,
        typer.Option(
            "--setting",
            metavar="KEY",
            help=f"What to tune: {', '.join(_SETTINGS)}. If not said, min_confidence on labelled prompts, "
            "and on outcomes cost where `select` has weights, else max_risk.",
            show_default=False,
        ),
    ] = None,
    precision: Annotated[
        float | None,
        typer.Option(
            "--precision",
            min=0.0,
            max=1.0,
            help="Take the best coverage with so much of what is served right; without it the best accuracy.",
            show_default=False,
        ),
    ] = None,
    quality: Annotated[
        float | None,
        typer.Option(
            "--quality",
            min=0.0,
            help=f"Take the largest saving at this share of the default model's quality, usually {_QUALITY}.",
            show_default=False,
        ),
    ] = None,
    min_quality: Annotated[
        float | None,
        typer.Option(
            "--min-quality",
            min=0.0,
            max=1.0,
            help="The same, at this mean score.",
            show_default=False,
        ),
    ] = None,
    answer_tokens: Annotated[
        int, typer.Option("--answer-tokens", min=0, help="Tokens of an answer, to count costs with.")
    ] = 200,
    write: Annotated[
        bool,
        typer.Option("--write", help="Write the number into semroute.yaml of --routes, and nothing else."),
    ] = False,
    routes: RoutesOption = Path("routes"),
    as_json: JsonOption = False,
) -> None:
    """Sweep a limit or the choice of models, show the curve, and pick a point that holds on new prompts.

    Exits 1 where no point reaches the floor, with the best that there is.
    """
    from semroute.router import Router

    from_log = log is not None or logged
    graded = outcomes is not None or store or from_log
    if sum((cases is not None, outcomes is not None, store, log is not None, logged)) > 1:
        refuse("Give one of --cases, --outcomes, --store, --log and --logged.")
    if graded and precision is not None:
        refuse("--precision is of labelled prompts; with outcomes give --quality or --min-quality.")
    if not graded and (quality is not None or min_quality is not None):
        refuse(
            "--quality and --min-quality are of outcomes; "
            "give --outcomes FILE, --store, --log FILE or --logged."
        )
    if quality is not None and min_quality is not None:
        refuse("Give one of --quality and --min-quality.")
    key = _key(setting, graded=graded, logged=from_log)
    goal = _goal(quality, min_quality, key)
    if write:
        _refuse_stale(routes, index)
    router = Router.load(index, log=False)
    if from_log:
        found = _by_log(router, _log_rows(router, index, log), key, goal)
    elif graded:
        found = _by_outcomes(router, outcomes, key, goal, answer_tokens)
    else:
        found = _by_cases(router, cases, key, precision, index, routes)
    good = found.reached and found.gains and found.takes_effect
    written = _written(found, routes) if write and good else []
    if as_json:
        print_json(found.to_dict() | {"written": [_told(one) for one in written]})
    else:
        print_markup("\n".join(_summary(found)))
    _conclude(found, written, write=write)


def _conclude(found: Tuning, written: Sequence[Written], *, write: bool) -> None:
    """Say what was written, or why nothing was; exits 1 where the floor or an effect is lacking."""
    if not found.reached:
        say(f"[red]no point reaches the floor:[/] {escape(_nearest(found))}")
    elif write:
        _say_written(found, written)
    if not found.reached or (write and not found.takes_effect):
        raise typer.Exit(CHECK_FAILED)


def _say_written(found: Tuning, written: Sequence[Written]) -> None:
    for one in written:
        place = f"[bold]{escape(str(one.place))}:[/]"
        say(f"{place} {escape(one.key)}: {_short(one.after)}; `semroute build` next")
    if not found.takes_effect:
        say("nothing was written: it would move no decision; name a store under `escalations:` first")
    elif not found.gains:
        say("nothing was written: there is nothing to gain")
    elif not written:
        say(f"{escape(found.setting)} is {_short(found.value)} already: nothing was written")


def _key(setting: str | None, *, graded: bool, logged: bool) -> str | None:
    """The key of semroute.yaml, or None for the usual one."""
    if setting is None:
        return None
    from semroute.tune import BLEND, CHOICES, LIMITS

    key = _SETTINGS.get(setting, setting)
    fitting = (*CHOICES, *(LIMITS if logged else ())) if graded else (*LIMITS, BLEND)
    if key not in fitting:
        what = "outcomes" if graded else "labelled prompts"
        names = [name for name, known in _SETTINGS.items() if known in fitting]
        refuse(f"--setting on {what} is one of {', '.join(names)}, not {setting!r}.")
    return key


def _goal(quality: float | None, min_quality: float | None, key: str | None) -> Goal:
    """What is wanted of models: to save money, or by a weight of time, time."""
    from semroute.sweep import Goal
    from semroute.tune import TIMES

    most = "time_saving" if key in TIMES else "saving"
    if min_quality is not None:
        return Goal(most, "quality", min_quality)
    return Goal(most, "quality_share", _QUALITY if quality is None else quality)


def _by_cases(
    router: Router, cases: str | None, key: str | None, precision: float | None, index: Path, routes: Path
) -> Tuning:
    from semroute.tune import MIN_CONFIDENCE, tune_limits

    listed = labelled_cases(cases, router, routes)
    labelled = [case for case in listed if not case.any_route]
    if listed and not labelled:
        refuse(f"{cases}: no case says which route is right; limits are tuned on `route` or `must_default`.")
    if not labelled:
        refuse(
            f"{index} holds no heldout prompts. Add `heldout:` to the routes and run `semroute build`, or "
            "name labelled prompts with --cases FILE.jsonl, or graded ones with --outcomes FILE.jsonl."
        )
    with progress("Routing") as advance:
        return tune_limits(
            router, labelled, setting=key or MIN_CONFIDENCE, precision=precision, progress=advance
        )


def _by_outcomes(
    router: Router, outcomes: str | None, key: str | None, goal: Goal, answer_tokens: int
) -> Tuning:
    from semroute.crossfit import crossfit, graded_rows, stored_outcomes
    from semroute.errors import THE_STORE
    from semroute.escalations.importing import parse_graded
    from semroute.jsonl import raise_any, read_lines
    from semroute.tune import tune_models

    if outcomes is None:
        source, graded = THE_STORE, stored_outcomes(router)
    else:
        source, models = outcomes, router.index.config.settings.models
        rows, problems = parse_graded(source, read_lines(source), models, router.index.route_names)
        raise_any(problems)
        graded = graded_rows(router, rows, source)
    with progress("Estimating") as advance:
        crossed = crossfit(router, graded, answer_tokens, source, advance)
    return tune_models(router, crossed, setting=key, goal=goal)


def _log_rows(router: Router, index: Path, file: str | None) -> Sequence[Logged]:
    """The decisions of a file, or else those of the log that the settings name."""
    from semroute.logged import read_logged

    settings = router.index.config.settings
    if file is not None:
        return read_logged(file, settings.models)
    rows = [
        row for row in logged_decisions(settings, index.absolute().parent) if row.model in settings.models
    ]
    if not rows:
        refuse(
            "The decision log holds nothing: name one in semroute.yaml, such as "
            "log: {store: sqlite:semroute.db}, "
            "build, and route; or give --log FILE.jsonl."
        )
    return rows


def _by_log(router: Router, rows: Sequence[Logged], key: str | None, goal: Goal) -> Tuning:
    from semroute.tune import tune_log

    return tune_log(router, rows, setting=key, goal=goal)


def _refuse_stale(routes: Path, index: Path) -> None:
    """What was measured with other settings must not be written beside these."""
    from semroute.build import check_index

    if check_index(routes, index):
        say(
            f"[red]error:[/] {escape(str(index))} was not built from {escape(str(routes))} as it is now: "
            "run `semroute build` first, or tune without --write."
        )
        raise typer.Exit(CHECK_FAILED)


def _written(found: Tuning, routes: Path) -> list[Written]:
    from semroute.edit import write_settings

    return write_settings(routes, {found.setting: found.value})


def _told(one: Written) -> dict[str, Any]:
    return {
        "file": one.place.file,
        "line": one.place.line,
        "column": one.place.column,
        "key": one.key,
        "before": one.before,
        "after": one.after,
    }


# For people


def _summary(found: Tuning) -> Iterator[str]:
    goal = found.goal
    name = goal.most.replace("_", " ")
    wanted = f"the best {name}" if goal.of is None else f"the largest {name} with {_floor(goal)}"
    yield f"[bold]{found.setting} {_short(found.value)}[/]   {wanted}, on {found.prompts:,} prompts"
    several = len(found.curve) > len(found.shown)
    yield f"  {counted(len(found.curve), 'distinct point')}{'; some of them' if several else ''}:"
    yield ""
    names = list(found.chosen.figures)
    yield f"[dim]  {'':2}{found.setting:>24}" + "".join(f"{_heading(one):>12}" for one in names) + "[/]"
    for point in found.shown:
        mark = "> " if point is found.chosen else "  "
        row = f"  {mark}{_short(point.settings[found.setting]):>24}" + _cells(point)
        yield f"[bold]{row}[/]" if point is found.chosen else row
    yield f"    {'(as it is now)':>24}{_cells(found.now)}"
    yield ""
    yield "On new prompts, as many as these (picked without a fifth, measured on it, five times):"
    for one, figure in found.promised.figures.items():
        yield f"  {_heading(one):<12}{_cell(one, figure):>9}   {_interval(one, figure)}"
    if found.measures:
        yield "Measures of the field: " + ", ".join(
            f"{_MEASURES[name]} {_percent(value) if name == 'cost_save' else f'{value:.3f}'}"
            for name, value in found.measures.items()
        )
    yield from (f"[dim]note: {escape(note)}[/]" for note in found.notes)


def _floor(goal: Goal) -> str:
    if goal.of == "quality_share":
        return f"{_percent(goal.floor)} of the default model's quality"
    of = str(goal.of).replace("_", " ")
    return f"{of} {goal.floor:g}" if goal.of in _PLAIN else f"{of} {_percent(goal.floor)}"


def _nearest(found: Tuning) -> str:
    """What comes nearest to a floor that no point reaches."""
    goal, of = found.goal, str(found.goal.of)
    figures, promised = found.chosen.figures, found.promised.figures
    if figures[of].value >= goal.floor:
        held, most = _cell(of, promised[of]).strip(), _cell(goal.most, promised[goal.most]).strip()
        return (
            f"{_floor(goal)} is wanted; {found.setting} {_short(found.value)} has "
            f"{_cell(of, figures[of]).strip()} on these prompts, but {held} is all "
            f"that is promised on new ones, with {goal.most} {most}."
        )
    return (
        f"{_floor(goal)} is wanted; the nearest is {_cell(of, figures[of]).strip()} at {found.setting} "
        f"{_short(found.value)}, with {goal.most} {_cell(goal.most, figures[goal.most]).strip()}."
    )


def _heading(name: str) -> str:
    return _NAMES.get(name, name)


def _cells(point: OperatingPoint) -> str:
    return "".join(f"{_cell(name, figure):>12}" for name, figure in point.figures.items())


def _cell(name: str, figure: Figure) -> str:
    return _shown(name, figure.value)


def _interval(name: str, figure: Figure) -> str:
    return f"({_shown(name, figure.low)} to {_shown(name, figure.high)})"


def _shown(name: str, value: float) -> str:
    if math.isnan(value):
        return "-"
    if name == "cost":
        return f"{value * 1_000:.4g}"
    if name == "time":
        return f"{value:,.0f}"
    return f"{value:.3f}" if name in _PLAIN else _percent(value)


def _percent(value: float) -> str:
    return f"{100 * value:.1f}%"


def _short(value: float) -> str:
    return f"{value:.12g}"
