"""Outcomes and events as rows of a table, the same for every store."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from semroute.escalations.outcome import Event, Outcome, Record

COLUMNS = ("id", "kind", "prompt_hash", "vector", "features", "text", "body")
"""Of a record beside its number; `body` is JSON, and holds nothing that `forget` must erase."""

_BODY = ("model", "score", "encoder", "by", "time", "origin", "decision", "route", "escalated_to", "why")
_EVENT = ("time", "actor", "by", "ids", "since", "until")


def to_row(entry: Outcome | Event) -> tuple[Any, ...]:
    """`entry` as values for COLUMNS; vectors as little-endian float32."""
    keys = _BODY if isinstance(entry, Outcome) else _EVENT
    body = json.dumps({key: getattr(entry, key) for key in keys}, ensure_ascii=False)
    if isinstance(entry, Event):
        return entry.id, entry.kind, None, None, None, None, body
    return (
        entry.id,
        "outcome",
        entry.prompt_hash,
        entry.vector.astype("<f4").tobytes(),
        entry.features.astype("<f4").tobytes(),
        entry.text,
        body,
    )


def to_record(seq: int, row: tuple[Any, ...]) -> Record:
    """The record of a row. Raises ValueError, KeyError or TypeError when it is none of ours."""
    identity, kind, hashed, vector, features, text, body = row
    values = json.loads(body)
    if kind != "outcome":
        return Record(seq, Event(id=identity, kind=kind, **{**values, "ids": tuple(values["ids"])}))
    if vector is None:
        return Record(seq, None)
    arrays = [np.frombuffer(data, "<f4").astype(np.float32) for data in (vector, features)]
    outcome = Outcome(
        id=identity, prompt_hash=hashed, vector=arrays[0], features=arrays[1], text=text, **values
    )
    return Record(seq, outcome)
