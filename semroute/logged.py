"""Logged decisions from JSON Lines: what `semroute route --json` prints, with what came of it."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from semroute.decision import Candidate
from semroute.errors import Problem
from semroute.jsonl import Row, parse_rows, raise_any, read_lines
from semroute.numeric import finite
from semroute.sources import did_you_mean
from semroute.telemetry import MAX_TOKENS
from semroute.yaml import shorten

_SHAPE = "a decision as `semroute route --json` prints it, with `score` from 0 to 1 or null"


@dataclass(frozen=True, slots=True)
class LoggedRow:
    """A decision and its outcome; see `decisionlog.LoggedDecision`. `model` is the one that answered.

    best: the best-scoring route, served or not. scores_of: the score of each model that was judged.
    """

    id: str
    time: float
    route: str | None
    best: str | None
    model: str
    reason: str
    confidence: float
    similarity: float | None
    margin: float | None
    candidates: tuple[Candidate, ...]
    prompt_tokens: int | None
    completion_tokens: int | None
    score: float | None
    scores_of: dict[str, float]
    prompt_hash: str | None


def read_logged(source: str, models: Collection[str]) -> list[LoggedRow]:
    """The decisions of a file of JSON Lines ("-" is stdin). Raises ConfigError with every problem."""
    rows, problems = parse_rows(source, read_lines(source), _SHAPE)
    if not rows and not problems:
        problems.append(Problem(source, 1, 1, f"holds no decision; a row is {_SHAPE}."))
    for row in rows:
        problems += [Problem(source, row.line, row.column(key), said) for key, said in _faults(row, models)]
    problems += _repeated(rows, source)
    raise_any(problems)
    return [_logged(row.values) for row in rows]


def _repeated(rows: Sequence[Row], source: str) -> Iterator[Problem]:
    """Decisions that stand there twice, as where `log tail --follow` or two exports were put together."""
    lines: dict[str, int] = {}
    for row in rows:
        identity = row.values.get("id")
        if isinstance(identity, str) and identity:
            first = lines.setdefault(identity, row.line)
            if first != row.line:
                message = (
                    f"the decision {shorten(identity)} stands on line {first} already; keep the later one."
                )
                yield Problem(source, row.line, row.column("id"), message)


def _faults(row: Row, models: Collection[str]) -> Iterator[tuple[str, str]]:
    """What is wrong with a row: the key and a sentence."""
    values = row.values
    missing = [key for key in ("model", "reason", "confidence", "score") if key not in values]
    if missing:
        yield "", f"{', '.join(f'`{key}`' for key in missing)} missing; a row is {_SHAPE}."
    for key in ("model", "served_by"):
        model = values.get(key)
        if key not in values or (key == "served_by" and model is None):
            continue
        if isinstance(model, str) and model in models:
            continue
        yield (
            key,
            f"there is no model {shorten(str(model))};{did_you_mean(str(model), models)} see the settings.",
        )
    if not isinstance(values.get("reason", ""), str):
        yield "reason", "`reason` must be a text."
    if "confidence" in values and not _is_number(values["confidence"], 0.0, 1.0):
        yield "confidence", "`confidence` must be a number from 0 to 1."
    yield from _wrong_values(values)


def _wrong_values(values: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What is wrong with the values that a row may leave out."""
    for key in ("id", "route", "best", "error", "prompt_hash"):
        if not isinstance(values.get(key, ""), str | None):
            yield key, f"`{key}` must be a text or null."
    for key, (low, high) in _RANGES.items():
        if values.get(key) is not None and not _is_number(values[key], low, high):
            yield key, f"`{key}` must be null or a number from {low:g} to {high:g}."
    for key in ("prompt_tokens", "completion_tokens"):
        if isinstance(values.get(key), float) and not values[key].is_integer():
            yield key, f"`{key}` must be a whole number."
    if not _are_objects(values.get("candidates", []), _CANDIDATE):
        yield (
            "candidates",
            "`candidates` must be a list of objects with a `model`, whose `quality` is null or a number "
            "from 0 to 1 and whose other numbers are 0 or more.",
        )
    if not _are_objects(values.get("judgements", []), {"score": (0.0, 1.0)}, required="score"):
        yield "judgements", "`judgements` must be a list of objects with a `model` and a `score` from 0 to 1."
    if not isinstance(values.get("scores", {}), dict):
        yield "scores", "`scores` must be an object of routes and probabilities."


_RANGES = {
    "time": (0.0, 253_402_300_799.0),  # the end of the year 9999
    "score": (0.0, 1.0),
    "similarity": (-1.0, 1.0),
    "margin": (0.0, 1.0),
    "prompt_tokens": (0.0, float(MAX_TOKENS)),
    "completion_tokens": (0.0, float(MAX_TOKENS)),
}
_CANDIDATE = {
    "quality": (0.0, 1.0),
    **dict.fromkeys(("support", "prompt_usd_per_1m", "completion_usd_per_1m"), (0.0, math.inf)),
}


def _are_objects(value: Any, ranges: Mapping[str, tuple[float, float]], required: str | None = None) -> bool:
    """Whether it is a list of objects with a `model`, and numbers within `ranges` or null."""
    return isinstance(value, list) and all(
        isinstance(one, dict)
        and isinstance(one.get("model"), str)
        and (required is None or one.get(required) is not None)
        and all(one.get(key) is None or _is_number(one[key], *within) for key, within in ranges.items())
        for one in value
    )


def _is_number(value: Any, low: float, high: float) -> bool:
    number = finite(value)
    return number is not None and low - 1e-6 <= number <= high + 1e-6


def _logged(values: dict[str, Any]) -> LoggedRow:
    candidates = tuple(
        Candidate(
            one["model"],
            *(one.get(key) for key in ("quality", "support", "prompt_usd_per_1m", "completion_usd_per_1m")),
        )
        for one in values.get("candidates", [])
    )
    answerer = values["model"] if values.get("error") is not None else values.get("served_by")
    judged = {one["model"]: float(one["score"]) for one in values.get("judgements", [])}
    score = values.get("score")
    model = answerer or values["model"]
    return LoggedRow(
        id=str(values.get("id", "")),
        time=float(values.get("time") or 0.0),
        route=values.get("route"),
        best=values.get("best") or next(iter(values.get("scores", {})), None),
        model=model,
        reason=values["reason"],
        confidence=float(values["confidence"]),
        similarity=values.get("similarity"),
        margin=values.get("margin"),
        candidates=candidates,
        prompt_tokens=values.get("prompt_tokens"),
        completion_tokens=values.get("completion_tokens"),
        score=score,
        scores_of=judged if score is None else judged | {model: float(score)},
        prompt_hash=values.get("prompt_hash"),
    )
