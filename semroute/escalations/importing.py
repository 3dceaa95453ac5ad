"""Graded prompts from JSON Lines: every line that is wrong is named, and the others are kept."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from semroute.errors import OutcomeInvalid, Problem
from semroute.escalations import OPERATOR
from semroute.escalations.outcome import check_why
from semroute.jsonl import Row, parse_rows
from semroute.numeric import finite
from semroute.text import is_blank, storable

SHAPE = '{"prompt": text, "model": name, "score": 0..1} or {"prompt": text, "scores": {name: 0..1}}'


_NOT_IMPORTED = {
    "vector": "vectors are made here, of the prompt: those of another encoder say nothing.",
    "encoder": "vectors are made here, by the encoder of the index; leave `encoder` out.",
}


class GradedPrompt(NamedTuple):
    """A prompt and how good models were on it. `line` counts from 1."""

    line: int
    prompt: str
    scores: dict[str, float]
    route: str | None
    why: str | None


def parse_graded(
    source: str, lines: Sequence[str], models: Collection[str], routes: Collection[str]
) -> tuple[list[GradedPrompt], list[Problem]]:
    """The rows that can be used, and what is wrong with the others, in the order of the lines."""
    rows, problems = parse_rows(source, lines, SHAPE)
    graded: list[GradedPrompt] = []
    for row in rows:
        faults = list(_faults(row, models, routes))
        if faults:
            problems += [Problem(source, row.line, row.column(key), message) for key, message in faults]
        else:
            graded.append(_graded(row))
    return graded, sorted(problems)


def _scores(row: Row) -> Any:
    values = row.values
    if "scores" in values:
        return values["scores"]
    model = values.get("model")
    return {model if isinstance(model, str) else repr(model): values.get("score")}


def _graded(row: Row) -> GradedPrompt:
    values = row.values
    scores = {model: float(score) for model, score in _scores(row).items()}
    return GradedPrompt(row.line, values["prompt"], scores, values.get("route"), values.get("why"))


def _faults(row: Row, models: Collection[str], routes: Collection[str]) -> list[tuple[str, str]]:
    """What is wrong with a row: the key and a sentence."""
    values, found = row.values, []
    prompt = values.get("prompt")
    if not isinstance(prompt, str) or is_blank(prompt):
        found.append(("prompt", "`prompt` must be a text that is not empty."))
    elif storable(prompt) != prompt:
        found.append(("prompt", "`prompt` holds NUL or half of a surrogate pair, which is no text."))
    if ("scores" in values) == ("model" in values or "score" in values):
        found.append(("scores", f"a row is {SHAPE}."))
        return found
    key = "scores" if "scores" in values else "score"
    scores = _scores(row)
    if not isinstance(scores, dict) or not scores:
        return [*found, ("scores", "`scores` must give at least one model a score.")]
    for model, score in scores.items():
        if model not in models:
            known = ", ".join(sorted(models))
            found.append((key, f"there is no model {model!r}; the settings declare {known}."))
        number = finite(score)
        if number is None or not 0 <= number <= 1:
            found.append((key, f"a score must be a number from 0 to 1, not {score!r}."))
    route = values.get("route")
    if route is not None and (not isinstance(route, str) or route not in routes):
        found.append(("route", f"there is no route {route!r}."))
    found += [(key, message) for key, message in _NOT_IMPORTED.items() if key in values]
    if values.get("by", OPERATOR) not in {OPERATOR, None}:
        found.append(("by", "what is imported is the operator's; what others said is not imported as his."))
    try:
        check_why(values.get("why"))
    except OutcomeInvalid as error:
        found.append(("why", f"`why` {error.message}."))
    return found
