"""The commands that need nothing but the routes and the index."""

from __future__ import annotations

import textwrap
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from semroute.cli.output import (
    CHECK_FAILED,
    IndexOption,
    JsonOption,
    RoutesOption,
    escape,
    one_prompt,
    plain,
    print_json,
    print_line,
    print_markup,
    progress,
    refuse,
    say,
    say_if_stale,
    say_warnings,
)
from semroute.errors import ConfigError, Problem
from semroute.text import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from semroute.build import Built
    from semroute.decision import Decision
    from semroute.doctor import Finding as Checked
    from semroute.lint import Finding
    from semroute.text import Prompt

_SHOWN_NEIGHBORS = 5
_BATCH = 512  # prompts between two flushes of the output


class LintFormat(StrEnum):
    """How findings are printed."""

    LINES = "lines"
    JSON = "json"
    GITHUB = "github"


def register(app: typer.Typer) -> None:
    """Add the commands of this module to `app`."""
    for command in (init, validate, build, route, lint, doctor, schema):
        app.command()(command)


def init(
    routes: RoutesOption = Path("routes"),
    as_json: JsonOption = False,
) -> None:
    """Write a commented starter folder. Never overwrites anything."""
    from semroute.artifact import build_command
    from semroute.starter import write_starter

    written = write_starter(routes)
    if as_json:
        print_json({"written": [str(path) for path in written]})
    else:
        for path in written:
            print_line(str(path))
    command = escape(build_command(Path("index"), routes))
    say(f"Edit them, then run:\n  [bold]{command}[/]\n  [bold]semroute route 'your prompt'[/]")


def validate(
    routes: RoutesOption = Path("routes"),
    as_json: JsonOption = False,
) -> None:
    """Check the YAML and name every problem as file:line:col."""
    from semroute.config import load_config

    try:
        config = load_config(routes)
    except ConfigError as error:
        if as_json:
            print_json({"valid": False, "problems": plain(error.problems), "warnings": []})
        raise
    say_warnings(config.warnings)
    utterances = sum(len(route.utterances) for route in config.routes)
    counts = {"routes": len(config.routes), "utterances": utterances, "models": len(config.settings.models)}
    if as_json:
        print_json({"valid": True, "problems": [], "warnings": plain(config.warnings), **counts})
    else:
        said = ", ".join(counted(count, what.removesuffix("s")) for what, count in counts.items())
        print_line(f"{routes}: valid ({said})")


def build(
    routes: RoutesOption = Path("routes"),
    index: IndexOption = Path("index"),
    check: Annotated[
        bool, typer.Option("--check", help="Build nothing; exit 1 when the index is stale, and say why.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Embed the routes into an index. Only what changed is embedded again."""
    if check:
        _check_index(routes, index, as_json)
        return
    from semroute.build import build_index

    with progress("Embedding") as advance, progress("Fitting") as fitting:
        built = build_index(routes, index, progress=advance, fitting=fitting)
    say_warnings(built.index.config.warnings)
    if built.discarded:
        say(f"[yellow]note:[/] the index that was there could not be used: {escape(built.discarded)}")
    if as_json:
        print_json(_build_summary(built, index))
    else:
        print_line(_build_sentence(built, index))


def route(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[PROMPT]", help="The prompt to route.", show_default=False)
    ] = None,
    index: IndexOption = Path("index"),
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
    no_log: Annotated[
        bool, typer.Option("--no-log", help="Leave the decision log, where there is one, as it is.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Route a prompt and say why, with the nearest utterances."""
    prompt = one_prompt(words)
    if (prompt is None) == (prompts is None):
        refuse("Give one PROMPT, or --input FILE for many. For example: semroute route 'where is my refund?'")
    from semroute.router import Router

    texts: list[Prompt] = [prompt] if prompt is not None else _read_prompts(str(prompts))
    router = Router.load(index, log=not no_log)
    say_if_stale(router.index, index)
    many = prompts is not None
    for start in range(0, len(texts), _BATCH):
        for decision in router.route_many(texts[start : start + _BATCH], step=step):
            if as_json:
                print_json(decision.to_dict())
            elif many:
                print_line(_decision_line(decision))
            else:
                _show_decision(decision)
        router.flush()  # a file of a million prompts comes faster than a log is written


def lint(
    routes: RoutesOption = Path("routes"),
    index: IndexOption = Path("index"),
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 when there is a finding, for CI.")] = False,
    output: Annotated[
        LintFormat | None,
        typer.Option(
            "--format",
            help="How to print it; `github` is annotations for GitHub Actions.",
            show_default="lines",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Name what is weak in the utterances and heldout prompts, each with its place and what would help."""
    from semroute.lint import examine

    if as_json and output not in (None, LintFormat.JSON):
        refuse(f"--json contradicts --format {output}; give one of them.")
    output = LintFormat.JSON if as_json else output or LintFormat.LINES
    with progress("Embedding") as advance, progress("Fitting") as fitting:
        findings = examine(routes, index, progress=advance, fitting=fitting)
    _print_findings(findings, output, "error" if strict else "warning")
    counted = "1 finding" if len(findings) == 1 else f"{len(findings) or 'no'} findings"
    say(f"{escape(str(routes))}: {counted}")
    if strict and findings:
        raise typer.Exit(CHECK_FAILED)


def _print_findings(findings: Sequence[Finding], output: LintFormat, level: str) -> None:
    if output is LintFormat.JSON:
        print_json([finding.to_dict() for finding in findings])
    elif output is LintFormat.GITHUB:
        from semroute.formats import finding_commands

        for line in finding_commands(findings, level):
            print_line(line)
    else:
        for finding in findings:
            print_line(str(finding))


def doctor(
    context: typer.Context,
    routes: RoutesOption = Path("routes"),
    index: IndexOption = Path("index"),
    as_json: JsonOption = False,
) -> None:
    """Check the installation, the encoder, the index and the keys; exit 1 when something is broken."""
    from semroute.doctor import examine

    folders = {"routes": routes, "index": index}
    named = [folder for name, folder in folders.items() if _was_named(context, name)]
    findings = examine(routes, index, named)
    if as_json:
        print_json([{"check": f.check, "status": f.status, "detail": f.detail} for f in findings])
    else:
        for finding in findings:
            _show_finding(finding)
    if any(finding.status == "broken" for finding in findings):
        raise typer.Exit(CHECK_FAILED)


def _was_named(context: typer.Context, parameter: str) -> bool:
    """Whether an option was given, on the command line or in the environment."""
    source = context.get_parameter_source(parameter)
    return source is not None and source.name in ("COMMANDLINE", "ENVIRONMENT")


def schema(
    which: Annotated[
        str | None,
        typer.Argument(help="semroute (the settings) or route; both when left out.", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Accepted everywhere; a schema is JSON.")] = True,
) -> None:
    """Print the JSON Schemas of the YAML files, for editors."""
    from semroute.config import json_schemas, schema_text

    schemas = json_schemas()
    if which is not None and which not in schemas:
        refuse(f"There is no schema {which!r}: choose {' or '.join(schemas)}.")
    print_line(schema_text(schemas if which is None else schemas[which]).removesuffix("\n"))


def _check_index(routes: Path, index: Path, as_json: bool) -> None:
    from semroute.artifact import build_command
    from semroute.build import check_index

    changes = check_index(routes, index)
    if as_json:
        print_json({"fresh": not changes, "changes": changes})
    elif changes:
        for change in changes:
            print_line(change)
    else:
        print_line(f"{index}: up to date with {routes}")
    if changes:
        command = escape(build_command(index, routes))
        say(f"{escape(str(index))} is stale against {escape(str(routes))}. Run: [bold]{command}[/]")
        raise typer.Exit(CHECK_FAILED)


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
        "max_distance": _limit(built, "max_distance")[0],
        "min_confidence": _limit(built, "min_confidence")[0],
        "fitted": manifest.fitted.method,
        "warnings": plain(built.index.config.warnings),
    }


def _build_sentence(built: Built, index: Path) -> str:
    manifest = built.index.manifest
    counts = (
        f"{counted(manifest.counts.utterances, 'utterance')} of {counted(manifest.counts.routes, 'route')}"
    )
    # Without a route there is nothing that a limit could refuse.
    names = ("max_distance", "min_confidence") if manifest.counts.routes else ()
    limits = "".join(f", {name} {value:.3f}{said}" for name in names for value, said in [_limit(built, name)])
    if built.unchanged:
        return f"{index}: up to date ({counts})"
    return (
        f"{index}: {counts}, {built.embedded} embedded and {built.reused} reused; "
        f"encoder {manifest.encoder.name}{limits}"
    )


def _limit(built: Built, name: str) -> tuple[float, str]:
    """A limit that is in force for routes without one of their own, and where it comes from."""
    given = getattr(built.index.config.settings.vote, name)
    if given == "auto":
        return getattr(built.index.manifest.fitted, name), " (fitted)"
    return given, " (set)"


def _show_decision(decision: Decision) -> None:
    served = decision.route or "default"
    print_markup(
        f"[bold green]{escape(served)}[/] -> [bold]{escape(decision.model)}[/]   "
        f"{decision.reason}, confidence {decision.confidence:.2f}, {decision.elapsed_ms:.1f} ms"
    )
    print_markup(f"  {escape(decision.detail)}")
    if decision.rule is not None:
        print_markup(f"  rule: {escape(decision.rule)}")
    if decision.fallbacks:
        print_markup(f"  if that fails: {escape(', '.join(decision.fallbacks))}")
    if decision.shadow is not None:
        print_markup(f"  outcomes would have chosen {escape(decision.shadow)} (shadow mode)")
    if decision.outcomes:
        print_markup("  outcomes on such prompts, with their similarity:")
    for outcome in decision.outcomes:
        print_markup(escape(f"    {outcome.similarity:.3f}  {outcome.model} scored {outcome.score:g}"))
    if decision.neighbors:
        print_markup("  nearest utterances, with their similarity (1 - distance):")
    for neighbor in decision.neighbors[:_SHOWN_NEIGHBORS]:
        utterance = textwrap.shorten(neighbor.utterance, width=90, placeholder=" ...")
        text = escape(f"{neighbor.similarity:.3f}  {neighbor.route}: {utterance}")
        print_markup(f"    {text}")


def _show_finding(finding: Checked) -> None:
    color = {"ok": "green", "note": "yellow", "broken": "red"}[finding.status]
    check = escape(f"{finding.check:<16}")
    line = f"[{color}]{finding.status:<6}[/]  [bold]{check}[/]  {escape(finding.detail)}"
    print_markup(line)


def _decision_line(decision: Decision) -> str:
    return "\t".join([decision.route or "-", decision.model, decision.reason, f"{decision.confidence:.2f}"])


def _read_prompts(source: str) -> list[Prompt]:
    """The prompts of a .txt or .jsonl file, or of stdin; every line that is wrong is named at once."""
    from semroute.jsonl import read_lines

    path = Path(source)
    if source != "-" and path.suffix not in {".txt", ".jsonl"}:
        refuse(f"{source}: a .txt file (one prompt a line) or a .jsonl file is needed, or - for stdin.")
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
