"""`semroute log`: every decision, what it cost and what came of it."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from semroute.cli.moments import MOMENT_HELP, moment, told_moment
from semroute.cli.output import (
    SHOWN_TEXT,
    IndexOption,
    JsonOption,
    one_prompt,
    print_json,
    print_line,
    refuse,
    say,
)
from semroute.text import counted, one_line

if TYPE_CHECKING:
    from semroute.config import Settings
    from semroute.decisionlog import DecisionLog, LoggedDecision
    from semroute.decisionlog.savings import Savings

log = typer.Typer(
    help="The decision log: every decision, what it cost and what came of it.", no_args_is_help=True
)
_FOLLOW_S = 0.5
_SinceOption = Annotated[
    str | None,
    typer.Option(
        "--since",
        metavar="WHEN",
        help=f"Only decisions since then: {MOMENT_HELP}.",
        show_default=False,
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module to `app`."""
    app.add_typer(log, name="log")


@log.command("tail")
def tail(
    count: Annotated[
        int, typer.Option("-n", "--limit", "--lines", min=0, help="So many decisions, the latest.")
    ] = 20,
    follow: Annotated[
        bool,
        typer.Option(
            "--follow", "-f", help="Go on with what comes; a decision comes again when more is known of it."
        ),
    ] = False,
    index: IndexOption = Path("index"),
    as_json: JsonOption = False,
) -> None:
    """Show the latest decisions, the last one last."""
    root, settings = _settings(index)
    with _opened(settings, root, make=follow) as opened:
        place = opened.last() if opened is not None else 0
        for decision in opened.tail(count) if opened is not None and count else ():
            _show(decision, as_json)
        while follow and opened is not None:
            place, ids = opened.news(place)
            for decision in opened.find(ids) if ids else ():
                _show(decision, as_json)
            time.sleep(_FOLLOW_S)


@log.command("export")
def export(
    form: Annotated[str, typer.Option("--format", help="jsonl or parquet.")] = "jsonl",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The file to write; stdout for jsonl.")
    ] = None,
    since: _SinceOption = None,
    index: IndexOption = Path("index"),
    as_json: Annotated[bool, typer.Option("--json", help="Say what was written as JSON.")] = False,
) -> None:
    """Write the decisions to a file: one decision a line or row, joined with what it cost and came to."""
    if form not in {"jsonl", "parquet"}:
        refuse(f"There is no format {form!r}: choose jsonl or parquet.")
    if form == "parquet" and output is None:
        refuse("Parquet is not for a terminal: give --output FILE.parquet.")
    root, settings = _settings(index)
    start = moment("--since", since)
    with _opened(settings, root) as opened:
        decisions = opened.read(start) if opened is not None else iter(())
        if output is None:
            for decision in decisions:
                print_json(decision.to_dict())
            return
        written = _write(decisions, form, output)
    if as_json:
        print_json({"output": str(output), "format": form, "decisions": written})
    else:
        print_line(f"{output}: {_count(written)}")


@log.command("savings")
def show_savings(
    since: _SinceOption = None,
    index: IndexOption = Path("index"),
    as_json: JsonOption = False,
) -> None:
    """What was spent, what always calling the default would have cost, and what it meant for the quality."""
    from semroute.decisionlog.savings import savings

    root, settings = _settings(index)
    start = moment("--since", since)
    with _opened(settings, root) as opened:
        decisions = opened.read(start) if opened is not None else iter(())
        found = savings(decisions, settings.models, settings.default.model_names[0])
    if as_json:
        print_json(found.to_dict())
    else:
        for line in _savings_lines(found):
            print_line(line)


@log.command("forget")
def forget(
    words: Annotated[
        list[str], typer.Argument(metavar="PROMPT", help="The prompt to forget.", show_default=False)
    ],
    index: IndexOption = Path("index"),
    as_json: JsonOption = False,
) -> None:
    """Erase for ever what is stored on a prompt: here, and among the outcomes."""
    from semroute.cli.forgetting import forget_prompt

    prompt = one_prompt(words) or ""
    root, settings = _settings(index)
    _require(settings)
    erased = forget_prompt(prompt, settings, root)
    if as_json:
        print_json(erased)
    else:
        decisions, outcomes = erased["decisions"], erased["outcomes"]
        print_line(f"{counted(decisions, 'decision')} and {counted(outcomes, 'outcome')} erased")


def _settings(index: Path) -> tuple[Path, Settings]:
    """The folder that holds the index, and its settings: no model is loaded for them."""
    from semroute import artifact
    from semroute.freshness import config_from_bytes

    _, contents = artifact.read(index)
    return index.absolute().parent, config_from_bytes(contents["config"]).settings


def _require(settings: Settings) -> str:
    if settings.log is None:
        refuse(
            "There is no decision log: name one in semroute.yaml, such as log: {store: sqlite:semroute.db},"
            " and run semroute build."
        )
    return settings.log.store


def logged_decisions(settings: Settings, root: Path) -> Iterator[LoggedDecision]:
    """What the log of `settings` holds, in order, by the models that answered; nothing without a log."""
    from semroute.decisionlog import is_there, open_log

    if settings.log is None or not is_there(settings.log.store, root=root):
        return
    with open_log(settings.log.store, root=root) as opened:
        for decision in opened.read():
            yield decision.of_answerer()


@contextmanager
def _opened(settings: Settings, root: Path, *, make: bool = False) -> Iterator[DecisionLog | None]:
    """The log; None where nothing was logged yet, so that looking makes no file."""
    from semroute.decisionlog import is_there, open_log

    store = _require(settings)
    if not make and not is_there(store, root=root):
        say("Nothing is logged yet.")
        yield None
        return
    try:
        with open_log(store, root=root) as opened:
            yield opened
    except KeyboardInterrupt:  # how --follow ends
        return


def _show(decision: LoggedDecision, as_json: bool) -> None:
    print_json(decision.to_dict()) if as_json else print_line(_line(decision))


def _line(decision: LoggedDecision) -> str:
    """A decision on one line, its parts separated by tabs."""
    served = decision.model
    if decision.served_by not in {None, decision.model}:
        served += f" => {decision.served_by}"
    parts = [
        told_moment(decision.time),
        decision.id,
        f"{decision.route or 'default'} -> {served}",
        f"{decision.reason} {decision.confidence:.2f}",
        _tokens(decision),
        "-" if decision.usd is None or not decision.attempts else _usd(decision.usd),
        "-" if decision.latency_ms is None else f"{decision.latency_ms:.0f} ms",
        _judged(decision),
    ]
    if decision.error is not None:
        parts.append(f"error: {decision.error}")
    if decision.text is not None:
        parts.append(one_line(decision.text, SHOWN_TEXT))
    # What users wrote must not make lines and columns of its own.
    return "\t".join(map(one_line, parts))


def _tokens(decision: LoggedDecision) -> str:
    counts = decision.prompt_tokens, decision.completion_tokens
    return "-" if counts == (None, None) else " + ".join("?" if n is None else str(n) for n in counts)


def _judged(decision: LoggedDecision) -> str:
    if decision.score is None:
        return "-"
    needed = f", {decision.escalated_to} was needed" if decision.escalated_to is not None else ""
    return f"score {decision.score:g} by {decision.by}{needed}"


def _write(decisions: Iterable[LoggedDecision], form: str, output: Path) -> int:
    """Write the file whole or not at all; returns how many decisions it holds."""
    fresh = output.with_name(f"{output.name}.part")
    try:
        if form == "parquet":
            from semroute.decisionlog.parquet import write_parquet

            written = write_parquet(decisions, fresh)
        else:
            written = 0
            with fresh.open("w", encoding="utf-8") as file:
                for decision in decisions:
                    file.write(json.dumps(decision.to_dict(), ensure_ascii=False) + "\n")
                    written += 1
        fresh.replace(output)
    except OSError as error:
        refuse(f"{output} could not be written: {error.strerror or error}.")
    finally:
        fresh.unlink(missing_ok=True)
    return written


def _savings_lines(found: Savings) -> Iterator[str]:
    if found.since is None or found.until is None:
        yield "no decisions"
        return
    first, last = (datetime.fromtimestamp(when, UTC) for when in (found.since, found.until))
    yield f"{_count(found.decisions)} from {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC"
    yield ""
    yield from _measured_lines(found)
    yield ""
    yield from _estimated_lines(found)
    yield ""
    yield from _quality_lines(found)


def _measured_lines(found: Savings) -> Iterator[str]:
    spent = found.measured
    yield "Measured: real token counts at the prices configured then"
    yield (
        f"  {_usd(spent.usd)} for {_count(spent.decisions)}"
        f" ({spent.prompt_tokens} prompt + {spent.completion_tokens} completion tokens)"
    )
    if spent.overhead_usd:
        yield f"  {_usd(spent.overhead_usd)} of it for calls of an arbiter or a judge"
    if spent.not_reported:
        yield f"  not in it: {_count(spent.not_reported)} of which nobody reported a call"
    if spent.failed:
        yield f"  not in it: {_count(spent.failed)} that no model answered"
    if spent.without_tokens:
        yield f"  not in it: {_count(spent.without_tokens)} without token counts"
    if spent.without_price:
        named = ", ".join(f"{model} ({count})" for model, count in spent.unpriced.items())
        yield f"  not in it: {_count(spent.without_price)} without a price: {named}"


def _estimated_lines(found: Savings) -> Iterator[str]:
    about = found.estimated
    yield f"Estimated: had {about.default} answered each with the same token counts; its own would differ"
    if not about.decisions:
        yield "  nothing to compare: no decision has a known cost and a price of the default"
    else:
        share = "" if about.saved_share is None else f", {about.saved_share:.1%}"
        kept, word = (about.saved_usd, "saved") if about.saved_usd >= 0 else (-about.saved_usd, "more spent")
        baseline, spent = _usd(about.baseline_usd), _usd(about.spent_usd)
        yield (
            f"  {baseline} for {_count(about.decisions)}, for which {spent} was spent:"
            f" {_usd(kept)} {word}{share}"
        )
    if about.without_baseline:
        missing = f"without an answer, or a price of {about.default}"
        yield f"  not in it: {_count(about.without_baseline)} of known cost, {missing}"


def _quality_lines(found: Savings) -> Iterator[str]:
    yield f"Quality: scores from 0 to 1 of the {_count(found.judged)} that somebody judged"
    default = found.estimated.default
    if found.unjudged:
        yield f"  not in it: {_count(found.unjudged)} without a score"
    not_served = sum(each.judged for each in found.quality) - found.judged
    if not_served:
        answers = counted(not_served, "judged answer")
        yield f"  by model, {answers} more that {'was' if not_served == 1 else 'were'} not served"
    if found.mean is not None:
        beside = _mean(found.default_mean, found.default_judged)
        yield f"  {found.mean:.2f} over all of them; {default}: {beside}"
    for each in found.quality:
        beside = ""
        if each.model != default:
            beside = f"; {default} on this route: {_mean(each.default_mean, each.default_judged)}"
        served = _count(each.decisions) if each.decisions else "no answer served"
        yield (
            f"  {each.route or 'default'} -> {each.model}: {served},"
            f" score {_mean(each.mean, each.judged)}{beside}"
        )


def _count(decisions: int) -> str:
    return counted(decisions, "decision")


def _usd(amount: float) -> str:
    """Six decimals; of less than a hundredth of a cent three digits, so that it is never shown as 0."""
    if amount >= 10.0:
        return f"${amount:,.2f}"
    decimals = 2 - math.floor(math.log10(amount)) if 0.0 < amount < 1e-4 else 6
    return f"${amount:.{decimals}f}"


def _mean(mean: float | None, judged: int) -> str:
    return "not known" if mean is None else f"{mean:.2f} ({judged:,} judged)"
