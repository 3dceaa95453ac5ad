"""An `Evaluation` for people: lines of rich markup that fit a terminal of 100 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from rich.markup import escape

from semroute.evaluate import Evaluation, RouteResult, Wrong
from semroute.text import PromptError, routed_text

_BAR = 40  # cells of a bar of the reliability table


def summary(evaluation: Evaluation, shown: int | None, width: int | None) -> Iterator[str]:
    """The lines of the whole summary.

    shown: how many wrong prompts to show at most; None shows all.
    width: columns to which texts are shortened; None leaves them whole, for a pipe.
    """
    yield from _head(evaluation)
    yield ""
    yield from _routes(evaluation, width)
    yield ""
    yield from _reliability(evaluation)
    if evaluation.wrong:
        yield ""
        yield from _wrong_prompts(evaluation.wrong, shown, width)


def _head(found: Evaluation) -> Iterator[str]:
    calibration = found.calibration
    right = found.cases - len(found.wrong)
    yield f"[bold]accuracy {_percent(found.accuracy)}[/]   {right} of {found.cases} cases right"
    if found.in_scope:
        yield (
            f"  in scope      {found.in_scope:>6}   top-1 {_percent(found.top1)}, "
            f"refused {_percent(found.refused_in_scope)}, "
            f"of those served {_percent(found.right_of_served)} right, macro-F1 {_number(found.macro_f1)}"
        )
    if found.out_of_scope:
        yield f"  out of scope  {found.out_of_scope:>6}   refused {_percent(found.refused_out_of_scope)}"
    yield (
        f"  confidence    {calibration.decisions:>6}   calibration error {_number(calibration.error)}, "
        f"Brier {_number(calibration.brier)}, AUROC in/out of scope {_number(calibration.auroc)}"
    )
    yield "  reasons                " + ", ".join(f"{reason} {n}" for reason, n in found.reasons.items())


def _routes(found: Evaluation, width: int | None) -> Iterator[str]:
    """The routes with an error, worst first, then how many have none."""
    tried = [one for one in (*found.routes, found.default) if one.f1 is not None]
    faulty = sorted((one for one in tried if one.right < max(one.cases, one.served)), key=_badness)
    if faulty:
        longest = max(len(one.route or "(default)") for one in faulty)
        head = f"{'route':<{longest}}   cases   right  refused  recall  precision  lost to"
        yield f"  [dim]{head}[/]"
    for one in faulty:
        lost = ", ".join(f"{route} {count}" for route, count in one.lost.items())
        line = (
            f"{one.route or '(default)':<{longest}}  {one.cases:>6}  {one.right:>6}  {one.refused:>7}  "
            f"{_percent(one.recall):>6}  {_percent(one.precision):>9}  "
        )
        room = None if width is None else max(width - len(line) - 2, 20)
        yield "  " + escape((line + _fit(lost, room)).rstrip())
    routes = [one for one in tried if one.route is not None]
    perfect = len(routes) - sum(one.route is not None for one in faulty)
    untried = len(found.routes) - len(routes)
    if perfect:
        yield f"  {_count(perfect, 'route')} without an error"
    if untried:
        yield f"  {_count(untried, 'route')} without a case"


def _badness(one: RouteResult) -> tuple[float, int]:
    return one.f1 or 0.0, -one.cases


def _reliability(found: Evaluation) -> Iterator[str]:
    """A bar per bin that holds decisions: the share that is right, and `|` at the mean confidence."""
    filled = [one for one in found.calibration.bins if one.decisions]
    if not filled:
        yield "  No decision carried a calibrated confidence."
        return
    yield "  [dim]confidence    count   said  right  |: what was said[/]"
    for one in filled:
        said, right = one.confidence or 0.0, one.right or 0.0
        cells = ["█"] * round(right * _BAR) + ["·"] * (_BAR - round(right * _BAR))
        cells[min(int(said * _BAR), _BAR - 1)] = "|"
        counted = f"{one.low:.2f} - {one.high:.2f}  {one.decisions:>6}"
        yield f"  {counted}   {said:.2f}   {right:.2f}  {''.join(cells)}"


def _wrong_prompts(wrong: tuple[Wrong, ...], shown: int | None, width: int | None) -> Iterator[str]:
    """The wrong prompts, the surest first: those are the ones to look at."""
    ranked = sorted(wrong, key=lambda one: -one.confidence)[:shown]
    order = ", the surest first" if len(wrong) > 1 else ""
    yield f"[bold]{_count(len(wrong), 'wrong prompt')}[/]{order}"
    for one in ranked:
        yield ""
        yield from _wrong_prompt(one, width)
    if len(ranked) < len(wrong):
        yield ""
        yield f"  and {len(wrong) - len(ranked)} more: --all shows them, --json holds them"


def _wrong_prompt(one: Wrong, width: int | None) -> Iterator[str]:
    place = f"{one.case.file}:{one.case.line}"
    room = None if width is None else max(width - len(place) - 4, 20)
    yield f"  [dim]{escape(place)}[/]  [bold]{escape(_fit(_text(one), room))}[/]"
    yield (
        f"    expected [green]{escape(one.case.route or 'default')}[/], "
        f"got [red]{escape(one.found or 'default')}[/]: {one.reason}, confidence {one.confidence:.2f}"
    )
    if one.detail:
        yield from (f"    {escape(line)}" for line in _wrapped(one.detail, width))
    for near in one.neighbors:
        start = f"{near.similarity:.3f}  {near.route}: "
        room = None if width is None else max(width - len(start) - 6, 20)
        yield f"      {escape(start + _fit(near.utterance, room))}"


def _text(one: Wrong) -> str:
    try:
        return routed_text(one.case.prompt) or "(no text)"
    except PromptError:  # a case made in Python may hold anything
        return "(no prompt)"


def _wrapped(text: str, width: int | None) -> list[str]:
    return [text] if width is None else textwrap.wrap(text, max(width - 4, 20))


def _fit(text: str, room: int | None) -> str:
    """`text` on one line, cut to `room` characters where there is a limit."""
    line = " ".join(text.split())
    return line if room is None or len(line) <= room else line[: room - 4].rstrip() + " ..."


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
