"""The command `semroute`: thin. Results go to stdout, everything said about them to stderr.

Exit codes: 0 fine, 1 a check did not hold, 2 the input is wrong.
"""

from __future__ import annotations

import io
import json
import os
import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from semroute import __version__
from semroute.errors import ConfigError, Problem, SemrouteError

if TYPE_CHECKING:
    from rich.console import Console

    from semroute.build import Built
    from semroute.decision import Decision
    from semroute.doctor import Finding
    from semroute.escalations import Outcome
    from semroute.index import Progress
    from semroute.router import Router
    from semroute.text import Prompt

app = typer.Typer(
    name="semroute",
    help="Decide, before the call, which model serves a prompt.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_CHECK_FAILED, _BAD_INPUT = 1, 2
_SHOWN_NEIGHBORS = 5
_SHOWN_WRONG = 20
_BATCH = 512  # prompts between two flushes of the output

_RoutesOption = Annotated[Path, typer.Option("--routes", help="The folder of YAML files.")]
_IndexOption = Annotated[
    Path, typer.Option("--index", envvar="SEMROUTE_INDEX", help="The folder of the built index.")
]
_JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def main() -> NoReturn:
    """Run the command line and exit. What the user did wrong becomes a sentence, never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Utterances may hold any character, and a pipe on Windows, say, takes few.
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    try:
        app()
    except ConfigError as error:
        _say_problems(error.problems)
    except SemrouteError as error:
        _say(f"[red]error:[/] {_escape(str(error))}")
    sys.exit(_BAD_INPUT)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        _print(f"semroute {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:  # pragma: no cover - typer prints the help first
        raise typer.Exit


@app.command()
def init(
    routes: _RoutesOption = Path("routes"),
    as_json: _JsonOption = False,
) -> None:
    """Write a commented starter folder. Never overwrites anything."""
    from semroute.starter import write_starter

    written = write_starter(routes)
    if as_json:
        _print_json({"written": [str(path) for path in written]})
    else:
        for path in written:
            _print(str(path))
    _say("Edit them, then run:\n  [bold]semroute build[/]\n  [bold]semroute route 'your prompt'[/]")


@app.command()
def validate(
    routes: _RoutesOption = Path("routes"),
    as_json: _JsonOption = False,
) -> None:
    """Check the YAML and name every problem as file:line:col."""
    from semroute.config import load_config

    try:
        config = load_config(routes)
    except ConfigError as error:
        if as_json:
            _print_json({"valid": False, "problems": _plain(error.problems), "warnings": []})
        raise
    _say_warnings(config.warnings)
    utterances = sum(len(route.utterances) for route in config.routes)
    counts = {"routes": len(config.routes), "utterances": utterances, "models": len(config.settings.models)}
    if as_json:
        _print_json({"valid": True, "problems": [], "warnings": _plain(config.warnings), **counts})
    else:
        said = ", ".join(f"{count} {what}" for what, count in counts.items())
        _print(f"{routes}: valid ({said})")


@app.command()
def build(
    routes: _RoutesOption = Path("routes"),
    index: _IndexOption = Path("index"),
    check: Annotated[
        bool, typer.Option("--check", help="Build nothing; exit 1 when the index is stale, and say why.")
    ] = False,
    as_json: _JsonOption = False,
) -> None:
    """Embed the routes into an index. Only what changed is embedded again."""
    if check:
        _check_index(routes, index, as_json)
        return
    from semroute.build import build_index

    with _progress("Embedding") as advance, _progress("Fitting") as fitting:
        built = build_index(routes, index, progress=advance, fitting=fitting)
    _say_warnings(built.index.config.warnings)
    if built.discarded:
        _say(f"[yellow]note:[/] the index that was there could not be used: {_escape(built.discarded)}")
    if as_json:
        _print_json(_build_summary(built, index))
    else:
        _print(_build_sentence(built, index))


@app.command()
def route(
    prompt: Annotated[str | None, typer.Argument(help="The prompt to route.", show_default=False)] = None,
    index: _IndexOption = Path("index"),
    prompts: Annotated[
        str | None,
        typer.Option(
            "--input",
            metavar="FILE|-",
            help='Route many: a .txt file (one prompt a line), a .jsonl file ({"prompt": ...}), or stdin.',
            show_default=False,
        ),
    ] = None,
    step: Annotated[
        str | None, typer.Option("--step", help="The step of a pipeline, for rules.", show_default=False)
    ] = None,
    as_json: _JsonOption = False,
) -> None:
    """Route a prompt and say why, with the nearest utterances."""
    if (prompt is None) == (prompts is None):
        _refuse(
            "Give one PROMPT, or --input FILE for many. For example: semroute route 'where is my refund?'"
        )
    from semroute.router import Router

    texts: list[Prompt] = [prompt] if prompt is not None else _read_prompts(str(prompts))
    router = Router.load(index)
    many = prompts is not None
    for start in range(0, len(texts), _BATCH):
        for decision in router.route_many(texts[start : start + _BATCH], step=step):
            if as_json:
                _print_json(decision.to_dict())
            elif many:
                _print(_decision_line(decision))
            else:
                _show_decision(decision)


@app.command("eval")
def evaluate_index(
    index: _IndexOption = Path("index"),
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
    as_json: _JsonOption = False,
) -> None:
    """Measure the routing on labelled prompts, and show which were wrong and why."""
    from semroute.evaluate import evaluate, heldout_cases, read_cases
    from semroute.router import Router

    router = Router.load(index)
    labelled = read_cases(cases, router.index.route_names) if cases else heldout_cases(router.index.config)
    if not labelled:
        _refuse(
            f"{index} holds no heldout prompts. Add `heldout:` to the routes and run `semroute build`, "
            "or name labelled prompts with --cases FILE.jsonl."
        )
    with _progress("Evaluating") as advance:
        evaluation = evaluate(router, labelled, advance)
    if as_json:
        _print_json(evaluation.to_dict())
        return
    from semroute.summary import summary

    width = _console().width if sys.stdout.isatty() else None
    _print_markup("\n".join(summary(evaluation, None if show_all else _SHOWN_WRONG, width)))


@app.command()
def lint(
    routes: _RoutesOption = Path("routes"),
    index: _IndexOption = Path("index"),
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 when there is a finding, for CI.")] = False,
    as_json: _JsonOption = False,
) -> None:
    """Name what is weak in the utterances and heldout prompts, each with its place and what would help."""
    from semroute.lint import examine

    with _progress("Embedding") as advance:
        findings = examine(routes, index, progress=advance)
    if as_json:
        _print_json([finding.to_dict() for finding in findings])
    else:
        for finding in findings:
            _print(str(finding))
    counted = "1 finding" if len(findings) == 1 else f"{len(findings) or 'no'} findings"
    _say(f"{_escape(str(routes))}: {counted}")
    if strict and findings:
        raise typer.Exit(_CHECK_FAILED)


escalations = typer.Typer(
    help="What happened before: outcomes of models on prompts, which move the decisions to come.",
    no_args_is_help=True,
)
app.add_typer(escalations, name="escalations")

_ByOption = Annotated[str | None, typer.Option("--by", help="The principal who said it.", show_default=False)]
_IdsOption = Annotated[
    list[str] | None, typer.Option("--id", help="Of an outcome or event.", show_default=False)
]


@escalations.command("add")
def add_outcome(
    prompt: Annotated[str, typer.Argument(help="The prompt.", show_default=False)],
    model: Annotated[str, typer.Option("--model", help="The model that answered.", show_default=False)],
    score: Annotated[float, typer.Option("--score", help="How good it was, from 0 to 1.")] = 0.0,
    to: Annotated[
        str | None, typer.Option("--to", help="The model that was needed.", show_default=False)
    ] = None,
    by: _ByOption = None,
    why: Annotated[str | None, typer.Option("--why", help="For people.", show_default=False)] = None,
    index: _IndexOption = Path("index"),
    as_json: _JsonOption = False,
) -> None:
    """Store one outcome. Without --by it is the operator's, and counts at once."""
    router = _remembering(index)
    identity = router.add_outcome(prompt, model, score, by=by, escalated_to=to, why=why)
    _print_json({"id": identity}) if as_json else _print(identity)


@escalations.command("import")
def import_outcomes(
    file: Annotated[str, typer.Argument(metavar="FILE.jsonl|-", help="Graded prompts, one a line.")],
    index: _IndexOption = Path("index"),
    as_json: _JsonOption = False,
) -> None:
    """Store graded prompts. Lines that are wrong are named, the others kept; then the exit code is 2.

    A line is {"prompt": ..., "model": name, "score": 0..1} or {"prompt": ..., "scores": {name: 0..1, ...}}.
    """
    from semroute.escalations.importing import parse_graded
    from semroute.jsonl import read_lines

    router = _remembering(index)
    models, routes = router.index.config.settings.models, router.index.route_names
    graded, problems = parse_graded(file, read_lines(file), models, routes)
    with _progress("Importing") as advance:
        added = router.import_outcomes(graded, advance)
    wrong = len({problem.line for problem in problems})
    given = sum(len(row.scores) for row in graded)
    counts = {"lines": len(graded), "refused": wrong, "outcomes": added, "known": given - added}
    if as_json:
        _print_json({**counts, "problems": _plain(problems)})
    else:
        _print(
            f"{file}: {added} outcomes of {len(graded)} lines imported, {given - added} were known already, "
            f"{wrong} {'line' if wrong == 1 else 'lines'} refused"
        )
    if problems:
        _say_problems(problems)
        raise typer.Exit(_BAD_INPUT)


@escalations.command("list")
def list_outcomes(
    by: _ByOption = None,
    model: Annotated[str | None, typer.Option("--model", help="Of this model.", show_default=False)] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many, the latest.")] = 50,
    index: _IndexOption = Path("index"),
    as_json: _JsonOption = False,
) -> None:
    """Show the outcomes that count, the latest last."""
    found = [
        outcome
        for outcome in _counting(index)
        if (by is None or outcome.by == by) and (model is None or outcome.model == model)
    ]
    for outcome in found[-limit:]:
        if as_json:
            _print_json(_told(outcome))
        else:
            went = f" -> {outcome.escalated_to}" if outcome.escalated_to else ""
            said = f"{outcome.model} {outcome.score:g}{went}"
            _print(
                "\t".join([outcome.id, said, outcome.route or "-", outcome.by, outcome.why or ""]).rstrip()
            )
    _say(f"{len(found)} outcomes count")


@escalations.command("export")
def export_outcomes(
    index: _IndexOption = Path("index"),
    as_json: Annotated[bool, typer.Option("--json", help="Accepted everywhere; the export is JSON.")] = True,
) -> None:
    """Print the outcomes that count as JSON Lines; the prompt only where the store kept its text."""
    for outcome in _counting(index):
        _print_json(_told(outcome))


@escalations.command("revert")
def revert_outcomes(
    by: _ByOption = None,
    ids: _IdsOption = None,
    since: Annotated[
        float | None, typer.Option("--since", help="Seconds since 1970.", show_default=False)
    ] = None,
    until: Annotated[
        float | None, typer.Option("--until", help="Seconds since 1970.", show_default=False)
    ] = None,
    index: _IndexOption = Path("index"),
    as_json: _JsonOption = False,
) -> None:
    """Let outcomes count no longer: those that meet all that is given. The id of a revert takes it back."""
    if by is None and not ids and since is None and until is None:
        _refuse("Say which: --by, --id, --since or --until.")
    if ids and not (by is None and since is None and until is None):
        _refuse("Give either --id, or --by with --since and --until.")
    _say_event(index, as_json, kind="revert", principal=by, ids=tuple(ids or ()), since=since, until=until)


@escalations.command("quarantine")
def quarantine(
    by: Annotated[str, typer.Option("--by", help="The principal.", show_default=False)],
    release: Annotated[bool, typer.Option("--release", help="Let the principal count again.")] = False,
    index: _IndexOption = Path("index"),
    as_json: _JsonOption = False,
) -> None:
    """Let nothing that a principal said, or will say, count."""
    _say_event(index, as_json, kind="release" if release else "quarantine", principal=by)


@escalations.command("forget")
def forget_outcomes(
    prompt: Annotated[str | None, typer.Argument(help="The prompt to forget.", show_default=False)] = None,
    by: _ByOption = None,
    ids: _IdsOption = None,
    index: _IndexOption = Path("index"),
    as_json: _JsonOption = False,
) -> None:
    """Erase outcomes for ever: of a prompt, of a principal, or by id."""
    from semroute.escalations import Outcome, prompt_hash

    if prompt is None and by is None and not ids:
        _refuse("Say which: the PROMPT, --by or --id.")
    memory = _remembering(index).memory
    hashed = None if prompt is None else prompt_hash(prompt, memory.key())
    named = list(ids or ())
    if by is not None:
        stored = [record.entry for record in memory.records()]
        named += [entry.id for entry in stored if isinstance(entry, Outcome) and entry.by == by]
    erased = memory.forget(ids=named, prompt_hash=hashed)
    _print_json({"erased": erased}) if as_json else _print(f"{erased} outcomes erased")


def _remembering(index: Path) -> Router:
    from semroute.router import Router

    router = Router.load(index)
    router.memory.key()  # opens the store, or says why not
    return router


def _counting(index: Path) -> list[Outcome]:
    from semroute.escalations.memory import counting

    return counting(_remembering(index).memory.records())


def _told(outcome: Outcome) -> dict[str, Any]:
    """An outcome for people and programs: without vector and hash, which are personal data."""
    told: dict[str, Any] = {"id": outcome.id, "model": outcome.model, "score": outcome.score}
    if outcome.text is not None:
        told = {"prompt": outcome.text, **told}
    told |= {
        "route": outcome.route,
        "escalated_to": outcome.escalated_to,
        "by": outcome.by,
        "why": outcome.why,
    }
    return told | {"origin": outcome.origin, "time": outcome.time, "decision": outcome.decision_id}


def _say_event(index: Path, as_json: bool, **said: Any) -> None:
    import time

    from semroute.escalations import OPERATOR, Event
    from semroute.ulid import new_ulid

    event = Event(id=new_ulid(), time=time.time(), by=OPERATOR, **said)
    fewer = _remembering(index).memory.say(event)
    if as_json:
        _print_json({"id": event.id, "kind": event.kind, "fewer": fewer})
    else:
        change = f"{fewer} outcomes count no longer" if fewer >= 0 else f"{-fewer} outcomes count again"
        _print(f"{event.kind} {event.id}: {change}")


@app.command()
def doctor(
    routes: _RoutesOption = Path("routes"),
    index: _IndexOption = Path("index"),
    as_json: _JsonOption = False,
) -> None:
    """Check the installation, the encoder, the index and the keys; exit 1 when something is broken."""
    from semroute.doctor import examine

    findings = examine(routes, index)
    if as_json:
        _print_json([{"check": f.check, "status": f.status, "detail": f.detail} for f in findings])
    else:
        for finding in findings:
            _show_finding(finding)
    if any(finding.status == "broken" for finding in findings):
        raise typer.Exit(_CHECK_FAILED)


@app.command()
def schema(
    which: Annotated[
        str | None,
        typer.Argument(help="semroute (the settings) or route; both when left out.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Accepted everywhere; a schema is JSON.")] = True,
) -> None:
    """Print the JSON Schemas of the YAML files, for editors."""
    from semroute.config import json_schemas

    schemas = json_schemas()
    if which is not None and which not in schemas:
        _refuse(f"There is no schema {which!r}: choose {' or '.join(schemas)}.")
    _print(json.dumps(schemas if which is None else schemas[which], indent=2, ensure_ascii=False))


def _check_index(routes: Path, index: Path, as_json: bool) -> None:
    from semroute.build import check_index

    changes = check_index(routes, index)
    if as_json:
        _print_json({"fresh": not changes, "changes": changes})
    elif changes:
        for change in changes:
            _print(change)
    else:
        _print(f"{index}: up to date with {routes}")
    if changes:
        _say(f"{index} is stale against {routes}. Run: [bold]semroute build[/]")
        raise typer.Exit(_CHECK_FAILED)


def _build_summary(built: Built, index: Path) -> dict[str, Any]:
    manifest = built.index.manifest
    return {
        "index": str(index),
        "fingerprint": manifest.fingerprint,
        "encoder": manifest.encoder.name,
        "routes": manifest.counts.routes,
        "utterances": manifest.counts.utterances,
        "embedded": built.embedded,
        "reused": built.reused,
        "unchanged": built.unchanged,
        "vectors": manifest.vectors.kind,
        "max_distance": manifest.fitted.max_distance,
        "min_confidence": manifest.fitted.min_confidence,
        "fitted": manifest.fitted.method,
        "warnings": _plain(built.index.config.warnings),
    }


def _build_sentence(built: Built, index: Path) -> str:
    manifest = built.index.manifest
    counts = f"{manifest.counts.utterances} utterances of {manifest.counts.routes} routes"
    if built.unchanged:
        return f"{index}: up to date ({counts})"
    return (
        f"{index}: {counts}, {built.embedded} embedded and {built.reused} reused; "
        f"encoder {manifest.encoder.name}, max_distance {manifest.fitted.max_distance:.3f}, "
        f"min_confidence {manifest.fitted.min_confidence:.3f}"
    )


def _show_decision(decision: Decision) -> None:
    served = decision.route or "default"
    _print_markup(
        f"[bold green]{_escape(served)}[/] -> [bold]{_escape(decision.model)}[/]   "
        f"{decision.reason}, confidence {decision.confidence:.2f}, {decision.elapsed_ms:.1f} ms"
    )
    _print_markup(f"  {_escape(decision.detail)}")
    if decision.rule is not None:
        _print_markup(f"  rule: {_escape(decision.rule)}")
    if decision.fallbacks:
        _print_markup(f"  if that fails: {_escape(', '.join(decision.fallbacks))}")
    if decision.shadow is not None:
        _print_markup(f"  outcomes would have chosen {_escape(decision.shadow)} (shadow mode)")
    if decision.outcomes:
        _print_markup("  outcomes on such prompts, with their similarity:")
    for outcome in decision.outcomes:
        _print_markup(_escape(f"    {outcome.similarity:.3f}  {outcome.model} scored {outcome.score:g}"))
    if decision.neighbors:
        _print_markup("  nearest utterances, with their similarity (1 - distance):")
    for neighbor in decision.neighbors[:_SHOWN_NEIGHBORS]:
        utterance = textwrap.shorten(neighbor.utterance, width=90, placeholder=" ...")
        text = _escape(f"{neighbor.similarity:.3f}  {neighbor.route}: {utterance}")
        _print_markup(f"    {text}")


def _show_finding(finding: Finding) -> None:
    color = {"ok": "green", "note": "yellow", "broken": "red"}[finding.status]
    check = _escape(f"{finding.check:<16}")
    line = f"[{color}]{finding.status:<6}[/]  [bold]{check}[/]  {_escape(finding.detail)}"
    _print_markup(line)


def _decision_line(decision: Decision) -> str:
    return "\t".join([decision.route or "-", decision.model, decision.reason, f"{decision.confidence:.2f}"])


def _read_prompts(source: str) -> list[Prompt]:
    """The prompts of a .txt or .jsonl file, or of stdin; every line that is wrong is named at once."""
    from semroute.jsonl import read_lines

    path = Path(source)
    if source != "-" and path.suffix not in {".txt", ".jsonl"}:
        _refuse(f"{source}: a .txt file (one prompt a line) or a .jsonl file is needed, or - for stdin.")
    lines = read_lines(source)
    starts_as_json = next((line.lstrip() for line in lines if line.strip()), "").startswith("{")
    as_jsonl = path.suffix == ".jsonl" or (source == "-" and starts_as_json)
    return _jsonl_prompts(source, lines) if as_jsonl else list(lines)


def _jsonl_prompts(source: str, lines: list[str]) -> list[Prompt]:
    from semroute.jsonl import parse_rows, raise_any

    shape = '{"prompt": text or messages}'
    rows, problems = parse_rows(source, lines, shape)
    wrong = [row.line for row in rows if not isinstance(row.values.get("prompt"), str | list)]
    raise_any([*problems, *(Problem(source, line, 1, f"a row is {shape}.") for line in wrong)])
    return [row.values["prompt"] for row in rows]


class _progress:  # noqa: N801 - used as a function
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
            self._bar = Progress(*columns, console=_stderr(), transient=True, disable=not sys.stderr.isatty())
            self._bar.start()
            self._task = self._bar.add_task(self._what, total=total)
        self._bar.update(self._task, completed=done)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()


def _stderr() -> Console:
    return _console(stderr=True)


def _console(*, stderr: bool = False) -> Console:
    from rich.console import Console  # late: JSON needs none of it

    return Console(stderr=stderr, highlight=False)


def _escape(text: str) -> str:
    """`text` with nothing in it that rich would take for markup."""
    from rich.markup import escape as escaped

    return escaped(text)


def _print(text: str) -> None:
    """One result. Plain, so that no width and no colour gets into what a program reads."""
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except OSError as error:
        # Python flushes once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # the reader, such as `head`, has seen enough: not an error
            raise typer.Exit from None
        _refuse(f"the result could not be written: {error.strerror or error}.")


def _print_markup(markup: str) -> None:
    """Lines for people, coloured on a terminal."""
    console = _console()
    with console.capture() as captured:
        console.print(markup, soft_wrap=True)
    _print(captured.get().removesuffix("\n"))


def _print_json(value: Any) -> None:
    _print(json.dumps(value, ensure_ascii=False))


def _say(markup: str) -> None:
    _stderr().print(markup, soft_wrap=True)


def _say_problems(problems: Iterable[Problem]) -> None:
    for problem in problems:
        where = _escape(f"{problem.file}:{problem.line}:{problem.column}:")
        _say(f"[bold]{where}[/] {_escape(problem.message)}")


def _say_warnings(warnings: Iterable[Problem]) -> None:
    for warning in warnings:
        where = _escape(f"{warning.file}:{warning.line}:{warning.column}:")
        _say(f"[bold]{where}[/] [yellow]warning:[/] {_escape(warning.message)}")


def _plain(problems: Iterable[Problem]) -> list[dict[str, Any]]:
    return [{"file": p.file, "line": p.line, "column": p.column, "message": p.message} for p in problems]


def _refuse(message: str) -> NoReturn:
    _say(f"[red]error:[/] {_escape(message)}")
    raise typer.Exit(_BAD_INPUT)
