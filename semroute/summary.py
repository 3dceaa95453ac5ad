"""An `Evaluation` for people: lines of rich markup that fit a terminal of 100 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence

from rich.markup import escape

from semroute.assess import Assessment
from semroute.compare import Changed, Comparison
from semroute.evaluate import CaseResult, Estimate, Evaluation, RouteResult, Wrong
from semroute.robustness import Steadiness
from semroute.text import PromptError, one_line, routed_text

_BAR = 40  # cells of a bar of the reliability table
_SHOWN_PAIRS = 5  # of routes that are confused
_UNLABELLED = "no case says which route is right"


def assessment(found: Assessment, shown: int | None, width: int | None) -> Iterator[str]:
    """The lines of the summary, then what else was asked for, and last the floors that do not hold.

    shown, width: as in `summary`; `shown` goes for the prompts that changed, too.
    """
    yield from summary(found.evaluation, shown, width)
    if found.comparison is not None:
        yield ""
        yield from _compared(found.comparison, shown, width)
    if found.robustness:
        yield ""
        yield from _steady(found.robustness, found.evaluation)
    if found.floors:
        yield ""
        held = len(found.floors) - len(found.missed)
        yield f"[bold]{held} of {_count(len(found.floors), 'floor')}[/] held"
        yield from (f"  [red]not held:[/] {escape(str(floor))}" for floor in found.missed)


def summary(evaluation: Evaluation, shown: int | None, width: int | None) -> Iterator[str]:
    """The lines of the whole summary.

    shown: how many wrong prompts to show at most; None shows all.
    width: columns to which texts are shortened; None leaves them whole, for a pipe.
    """
    yield from _head(evaluation, width)
    if evaluation.cases:
        yield ""
        yield from _routes(evaluation, width)
        yield ""
        yield from _reliability(evaluation)
    wrong = (*evaluation.wrong, *evaluation.wrong_models)
    if wrong:
        yield ""
        yield from _wrong_prompts(wrong, shown, width)


def _head(found: Evaluation, width: int | None) -> Iterator[str]:
    yield found.outcome
    if found.cases:
        yield from _of_routes(found)
    else:
        yield f"[bold]no route measured[/]   {_UNLABELLED}"
    yield from _models(found, width)
    tags = [f"{one.tag} {one.passed}/{one.cases} ({_percent(one.share)})" for one in found.tags]
    yield from _listed("tags, passed", tags, width)
    pairs = [one for one in found.confusion if one[0] != one[1]][:_SHOWN_PAIRS]
    named = [f"{label or '(default)'} -> {got or '(default)'} {n}" for label, got, n in pairs]
    yield from _listed("most confused", named, width)


def _of_routes(found: Evaluation) -> Iterator[str]:
    calibration = found.calibration
    right = found.cases - len(found.wrong)
    yield f"[bold]accuracy {_percent(found.accuracy)}[/]   {right} of {found.cases} routed as labelled"
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
    yield from _intervals(found)
    yield "  reasons                " + ", ".join(f"{reason} {n}" for reason, n in found.reasons.items())


def _listed(title: str, items: Sequence[str], width: int | None) -> Iterator[str]:
    """A title and items with commas between, on as many lines as `width` makes it; nothing without items."""
    start = f"  {title:<23}"
    if width is None:
        lines = [start + ", ".join(items)] if items else []
    else:
        rest = " " * len(start)
        lines = textwrap.wrap(", ".join(items), width, initial_indent=start, subsequent_indent=rest)
    yield from map(escape, lines)


_MEASURES = {
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "coverage": "coverage",
    "refused_out_of_scope": "refused out of scope",
    "calibration_error": "calibration error",
}


def _intervals(found: Evaluation) -> Iterator[str]:
    """Two lines at most, so that each fits a terminal."""
    pairs = [(title, found.intervals.get(name)) for name, title in _MEASURES.items()]
    known = [f"{title} {pair[0]:.3f} to {pair[1]:.3f}" for title, pair in pairs if pair is not None]
    for place in range(0, len(known), 3):
        title = "" if place else "95 % confidence"
        yield f"  {title:<23}" + ", ".join(known[place : place + 3])


def _models(found: Evaluation, width: int | None) -> Iterator[str]:
    served = [f"{model} {count}" for model, count in found.models.items()]
    yield from _listed("models", served, width)
    yield from _listed("  their price, quality", _estimated(found.estimate), width)
    if found.model_cases:
        yield f"  expected model {found.model_cases:>5}   right {found.model_right}"
    if found.shadow.moved:
        yield f"  shadow mode   {found.shadow.moved:>6}   decisions would change model"
        yield from _listed("  now", _estimated(found.shadow.now), width)
        yield from _listed("  then", _estimated(found.shadow.then), width)


def _estimated(estimate: Estimate) -> list[str]:
    """What is known of price and quality."""
    parts = []
    if estimate.usd_per_1m is not None:
        parts.append(f"{estimate.usd_per_1m:.2f} USD a million tokens")
    if estimate.quality is not None:
        parts.append(f"expected quality {estimate.quality:.2f} ({_count(estimate.known, 'decision')})")
    return parts


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
        yield "  " + escape((line + one_line(lost, room)).rstrip())
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
    """A bar per bin that holds decisions: how often the best route is right; `|` at the mean confidence."""
    filled = [one for one in found.calibration.bins if one.decisions]
    if not filled:
        yield "  No decision carried a calibrated confidence."
        return
    yield "  [dim]how often the best-scoring route is right, whether or not it was accepted[/]"
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
    place = one.case.where
    room = None if width is None else max(width - len(place) - 4, 20)
    yield f"  [dim]{escape(place)}[/]  [bold]{escape(one_line(_text(one), room))}[/]"
    yield f"    {_expectation(one)}: {one.reason}, confidence {one.confidence:.2f}"
    if one.detail:
        yield from (f"    {escape(line)}" for line in _wrapped(one.detail, width))
    for near in one.neighbors:
        start = f"{near.similarity:.3f}  {near.route}: "
        room = None if width is None else max(width - len(start) - 6, 20)
        yield f"      {escape(start + one_line(near.utterance, room))}"


def _expectation(one: Wrong) -> str:
    """What was expected and what came, in routes, and in models where one was expected."""
    case = one.case
    wanted = [] if case.any_route else [case.route or "default"]
    got = [one.found or "default"]
    if case.model is not None:
        wanted.append(f"model {case.model}")
        got.append(f"model {one.model}")
    return f"expected [green]{escape(', '.join(wanted))}[/], got [red]{escape(', '.join(got))}[/]"


def _compared(found: Comparison, shown: int | None, width: int | None) -> Iterator[str]:
    """What changed against the baseline: the worse first, then the better."""
    before = found.baseline
    yield (
        f"[bold]{_count(len(found.changed), 'prompt')} changed[/] against the baseline: "
        f"{found.better} better, {found.worse} worse (McNemar's exact test, p = {found.p_value:.3g}); "
        f"its accuracy was {_percent(before.accuracy)}"
    )
    for one in found.worst_first[:shown]:
        yield from _changed(one, width)
    if shown is not None and len(found.changed) > shown:
        yield f"  and {len(found.changed) - shown} more: --all shows them, --json holds them"


def _changed(one: Changed, width: int | None) -> Iterator[str]:
    place = f"{one.verdict:<6}  {one.after.case.where}"
    room = None if width is None else max(width - len(place) - 4, 20)
    yield f"  [dim]{escape(place)}[/]  {escape(one_line(_text(one.after), room))}"
    yield f"    {escape(_served(one.before))}, now {escape(_served(one.after))}"


def _served(result: CaseResult) -> str:
    return f"{result.route or 'default'} -> {result.model} ({result.confidence:.2f})"


def _steady(found: tuple[Steadiness, ...], clean: Evaluation) -> Iterator[str]:
    """Each perturbation: how many it moves, and the accuracy under it."""
    head = "perturbation      another route  dearer model  cheaper model  accuracy"
    yield f"  [dim]{head}[/]"
    yield f"  {'none':<16}  {'':>13}  {'':>12}  {'':>13}  {_percent(clean.accuracy):>8}"
    for one in found:
        yield (
            f"  {one.perturbation:<16}  {_percent(one.flips):>13}  {_percent(one.upgrades):>12}  "
            f"{_percent(one.downgrades):>13}  {_percent(one.accuracy):>8}"
        )


def _text(one: Wrong | CaseResult) -> str:
    try:
        return routed_text(one.case.prompt) or "(no text)"
    except PromptError:  # a case made in Python may hold anything
        return "(no prompt)"


def _wrapped(text: str, width: int | None) -> list[str]:
    return [text] if width is None else textwrap.wrap(text, max(width - 4, 20))


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
