"""`semroute escalations`: outcomes of models on prompts."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from semroute.cli.moments import MOMENT_HELP, moment, told_moment
from semroute.cli.output import (
    BAD_INPUT,
    SHOWN_TEXT,
    IndexOption,
    JsonOption,
    one_prompt,
    plain,
    print_json,
    print_line,
    progress,
    refuse,
    say,
    say_problems,
)
from semroute.text import counted, one_line

if TYPE_CHECKING:
    from semroute.escalations import Outcome
    from semroute.escalations.memory import Memory
    from semroute.router import Router

escalations = typer.Typer(
    help="What happened before: outcomes of models on prompts, which move the decisions to come.",
    no_args_is_help=True,
)
_ByOption = Annotated[str | None, typer.Option("--by", help="The principal who said it.", show_default=False)]
_IdsOption = Annotated[
    list[str] | None, typer.Option("--id", help="Of an outcome or event.", show_default=False)
]


@escalations.command("add")
def add_outcome(
    words: Annotated[list[str], typer.Argument(metavar="PROMPT", help="The prompt.", show_default=False)],
    model: Annotated[str, typer.Option("--model", help="The model that answered.", show_default=False)],
    score: Annotated[float, typer.Option("--score", help="How good it was, from 0 to 1.")] = 0.0,
    to: Annotated[
        str | None, typer.Option("--to", help="The model that was needed.", show_default=False)
    ] = None,
    by: _ByOption = None,
    why: Annotated[str | None, typer.Option("--why", help="For people.", show_default=False)] = None,
    index: IndexOption = Path("index"),
    as_json: JsonOption = False,
) -> None:
    """Store one outcome. Without --by it is the operator's, and counts at once."""
    prompt = one_prompt(words) or ""
    router = _remembering(index)
    identity = router.add_outcome(prompt, model, score, by=by, escalated_to=to, why=why)
    print_json({"id": identity}) if as_json else print_line(identity)


@escalations.command("import")
def import_outcomes(
    file: Annotated[str, typer.Argument(metavar="FILE.jsonl|-", help="Graded prompts, one a line.")],
    index: IndexOption = Path("index"),
    as_json: JsonOption = False,
) -> None:
    """Store graded prompts. Lines that are wrong are named, the others kept; then the exit code is 2.

    A line is {"prompt": ..., "model": name, "score": 0..1} or {"prompt": ..., "scores": {name: 0..1, ...}}.
    """
    from semroute.escalations.importing import parse_graded
    from semroute.jsonl import read_lines

    router = _remembering(index)
    models, routes = router.index.config.settings.models, router.index.route_names
    graded, problems = parse_graded(file, read_lines(file), models, routes)
    with progress("Importing") as advance:
        added = router.import_outcomes(graded, advance)
    wrong = len({problem.line for problem in problems})
    given = sum(len(row.scores) for row in graded)
    counts = {"lines": len(graded), "refused": wrong, "outcomes": added, "known": given - added}
    if as_json:
        print_json({**counts, "problems": plain(problems)})
    else:
        print_line(
            f"{file}: {counted(added, 'outcome')} of {counted(len(graded), 'line')} imported, "
            f"{given - added:,} known already, {counted(wrong, 'line')} refused"
        )
    if problems:
        say_problems(problems)
        raise typer.Exit(BAD_INPUT)


@escalations.command("list")
def list_outcomes(
    by: _ByOption = None,
    model: Annotated[str | None, typer.Option("--model", help="Of this model.", show_default=False)] = None,
    limit: Annotated[int, typer.Option("-n", "--limit", min=1, help="At most so many, the latest.")] = 50,
    index: IndexOption = Path("index"),
    as_json: JsonOption = False,
) -> None:
    """Show the outcomes that count, the latest last."""
    count = 0
    latest: deque[Outcome] = deque(maxlen=limit)
    for outcome in _remembering(index).memory.outcomes():
        if (by is None or outcome.by == by) and (model is None or outcome.model == model):
            count += 1
            latest.append(outcome)
    for outcome in latest:
        if as_json:
            print_json(_told(outcome))
        else:
            went = f" -> {outcome.escalated_to}" if outcome.escalated_to else ""
            said = f"{outcome.model} {outcome.score:g}{went}"
            when = told_moment(outcome.time)
            parts = [when, outcome.id, said, outcome.route or "-", outcome.by, outcome.why or "-"]
            if outcome.text is not None:
                parts.append(one_line(outcome.text, SHOWN_TEXT))
            # Who judges writes `by` and `why`, which must not make lines and columns of their own.
            print_line("\t".join(map(one_line, parts)))
    say(f"{counted(count, 'outcome')} {'counts' if count == 1 else 'count'}")


@escalations.command("export")
def export_outcomes(
    index: IndexOption = Path("index"),
    as_json: Annotated[bool, typer.Option("--json", help="Accepted everywhere; the export is JSON.")] = True,
) -> None:
    """Print the outcomes that count as JSON Lines; the prompt only where the store kept its text."""
    for outcome in _remembering(index).memory.outcomes():
        print_json(_told(outcome))


@escalations.command("revert")
def revert_outcomes(
    by: _ByOption = None,
    ids: _IdsOption = None,
    since: Annotated[
        str | None, typer.Option("--since", help=f"Said since then: {MOMENT_HELP}.", show_default=False)
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", help="Said before then, likewise.", show_default=False)
    ] = None,
    index: IndexOption = Path("index"),
    as_json: JsonOption = False,
) -> None:
    """Let outcomes count no longer: those that meet all that is given. The id of a revert takes it back."""
    if by is None and not ids and since is None and until is None:
        refuse("Say which: --by, --id, --since or --until.")
    if ids and not (by is None and since is None and until is None):
        refuse("Give either --id, or --by with --since and --until.")
    start, end = moment("--since", since), moment("--until", until)
    memory = _remembering(index).memory
    unknown = sorted(set(ids or ()) - memory.known_ids(ids or ()))
    if unknown:
        refuse(f"There is no outcome or event {', '.join(unknown)} in the store.")
    _say_event(memory, as_json, kind="revert", principal=by, ids=tuple(ids or ()), since=start, until=end)


@escalations.command("quarantine")
def quarantine(
    by: Annotated[str, typer.Option("--by", help="The principal.", show_default=False)],
    release: Annotated[bool, typer.Option("--release", help="Let the principal count again.")] = False,
    index: IndexOption = Path("index"),
    as_json: JsonOption = False,
) -> None:
    """Let nothing that a principal said, or will say, count."""
    from semroute.escalations import OPERATOR

    if by == OPERATOR:
        refuse("The operator cannot be quarantined: all imports are his. To take something back, use revert.")
    kind = "release" if release else "quarantine"
    _say_event(_remembering(index).memory, as_json, kind=kind, principal=by)


@escalations.command("forget")
def forget_outcomes(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="[PROMPT]", help="The prompt to forget.", show_default=False)
    ] = None,
    by: _ByOption = None,
    ids: _IdsOption = None,
    index: IndexOption = Path("index"),
    as_json: JsonOption = False,
) -> None:
    """Erase for ever the outcomes of a prompt, of a principal, or by id; the first two in the log as well."""
    from semroute.cli.forgetting import forget_decisions, forget_principal
    from semroute.escalations import prompt_hash

    prompt = one_prompt(words)
    if prompt is None and by is None and not ids:
        refuse("Say which: the PROMPT, --by or --id.")
    router = _remembering(index)
    memory, settings, root = router.memory, router.index.config.settings, index.absolute().parent
    hashed = None if prompt is None else prompt_hash(prompt, memory.key())
    named = list(ids or ())
    if by is not None:
        named += memory.by_principal(by)
    erased = memory.forget(ids=named, prompt_hash=hashed)
    decisions = 0 if prompt is None else forget_decisions(prompt, settings, root)
    judgements = 0 if by is None else forget_principal(by, settings, root)
    if as_json:
        print_json({"erased": erased, "decisions": decisions, "judgements": judgements})
    else:
        logged = f", {counted(decisions, 'decision')} and {counted(judgements, 'judgement')} of the log"
        print_line(f"{counted(erased, 'outcome')} erased{'' if settings.log is None else logged}")


def _remembering(index: Path) -> Router:
    from semroute.router import Router

    router = Router.load(index, log=False)
    router.memory.key()  # opens the store, or says why not
    return router


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


def _say_event(memory: Memory, as_json: bool, **said: Any) -> None:
    import time

    from semroute.escalations import OPERATOR, Event
    from semroute.ulid import new_ulid

    event = Event(id=new_ulid(), time=time.time(), by=OPERATOR, **said)
    fewer = memory.say(event)
    if as_json:
        print_json({"id": event.id, "kind": event.kind, "fewer": fewer})
    else:
        count = "counts" if abs(fewer) == 1 else "count"
        change = f"{counted(abs(fewer), 'outcome')} {count} {'no longer' if fewer >= 0 else 'again'}"
        print_line(f"{event.kind} {event.id}: {change}")
