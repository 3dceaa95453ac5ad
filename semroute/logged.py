"""Logged decisions from JSON Lines: what `semroute route --json` prints, with what came of it."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from semroute.decision import Candidate
from semroute.errors import Problem
from semroute.jsonl import Row, parse_rows, raise_any, read_lines
from semroute.sources import did_you_mean
from semroute.yaml import shorten

_SHAPE = "a decision as `semroute route --json` prints it, with `score` from 0 to 1 or null"


@dataclass(frozen=True, slots=True)
class LoggedRow:
    """A decision and its outcome; see `Decision`. `best` is the best-scoring route, served or not."""

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


def read_logged(source: str, models: Collection[str]) -> list[LoggedRow]:
    """The decisions of a file of JSON Lines ("-" is stdin). Raises ConfigError with every problem."""
    rows, problems = parse_rows(source, read_lines(source), _SHAPE)
    if not rows and not problems:
        problems.append(Problem(source, 0, 0, f"holds no decision; a row is {_SHAPE}."))
    for row in rows:
        problems += [Problem(source, row.line, row.column(key), said) for key, said in _faults(row, models)]
    raise_any(problems)
    return [_logged(row.values) for row in rows]


def _faults(row: Row, models: Collection[str]) -> Iterator[tuple[str, str]]:
    """What is wrong with a row: the key and a sentence."""
    values = row.values
    missing = [key for key in ("model", "reason", "confidence", "score") if key not in values]
    if missing:
        yield "", f"{', '.join(f'`{key}`' for key in missing)} missing; a row is {_SHAPE}."
    model = values.get("model")
    if "model" in values and (not isinstance(model, str) or model not in models):
        yield (
            "model",
            f"there is no model {shorten(str(model))};{did_you_mean(str(model), models)} see the settings.",
        )
    if not isinstance(values.get("reason", ""), str):
        yield "reason", "`reason` must be a text."
    if "confidence" in values and not _is_number(values["confidence"], 0.0, 1.0):
        yield "confidence", "`confidence` must be a number from 0 to 1."
    for key, low, high in (
        ("score", 0.0, 1.0),
        ("similarity", -1.0, 1.0),
        ("margin", 0.0, 1.0),
        ("prompt_tokens", 0.0, math.inf),
        ("completion_tokens", 0.0, math.inf),
    ):
        if values.get(key) is not None and not _is_number(values[key], low, high):
            yield (
                key,
                f"`{key}` must be null or a number{f' from {low:g} to {high:g}' * (high < math.inf)}.",
            )
    if not isinstance(values.get("candidates", []), list) or not all(
        isinstance(one, dict) and isinstance(one.get("model"), str) for one in values.get("candidates", [])
    ):
        yield "candidates", "`candidates` must be a list of objects with a `model`."
    if not isinstance(values.get("scores", {}), dict):
        yield "scores", "`scores` must be an object of routes and probabilities."


def _is_number(value: Any, low: float, high: float) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value) and low - 1e-6 <= value <= high + 1e-6


def _logged(values: dict[str, Any]) -> LoggedRow:
    candidates = tuple(
        Candidate(
            one["model"],
            *(one.get(key) for key in ("quality", "support", "prompt_usd_per_1m", "completion_usd_per_1m")),
        )
        for one in values.get("candidates", [])
    )
    return LoggedRow(
        id=str(values.get("id", "")),
        time=float(values.get("time") or 0.0),
        route=values.get("route"),
        best=values.get("best") or next(iter(values.get("scores", {})), None),
        model=values["model"],
        reason=values["reason"],
        confidence=float(values["confidence"]),
        similarity=values.get("similarity"),
        margin=values.get("margin"),
        candidates=candidates,
        prompt_tokens=values.get("prompt_tokens"),
        completion_tokens=values.get("completion_tokens"),
        score=values.get("score"),
    )
