"""Outcomes and events as rows of a table; the same columns in every store.

Arrays are little-endian float32 bytes, also where the database has a type of its own for them: the store
converts at its edge.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from semroute.databases import Row
from semroute.errors import OutcomeConflict, OutcomeInvalid, StoreCorrupt
from semroute.escalations.outcome import Entry, Event, Forgotten, Outcome, Record

COLUMNS = (
    *("seq", "id", "kind", "time", "principal", "model", "score", "vector", "encoder", "prompt_hash"),
    *("origin", "decision_id", "route", "escalated_to", "why", "text", "features", "body"),
)
"""`kind` is `outcome`, `forgotten` or the kind of an event. `body` is the JSON of an event."""

ERASED = COLUMNS[COLUMNS.index("time") :]
"""The columns that are NULL once an outcome is forgotten: all but its place and its id."""

_EVENT_FIELDS = ("by", "time", "principal", "since", "until", "ids", "why")
_FLOATS = np.dtype("<f4")


def to_row(record: Record) -> Row:
    """`record` in the order of COLUMNS."""
    seq, entry = record
    if isinstance(entry, Outcome):
        return (
            *(seq, entry.id, "outcome", entry.time, entry.by, entry.model, entry.score),
            *(entry.vector.astype(_FLOATS, copy=False).tobytes(), entry.encoder, entry.prompt_hash),
            *(entry.origin, entry.decision_id, entry.route, entry.escalated_to, entry.why, entry.text),
            *(entry.features.astype(_FLOATS, copy=False).tobytes(), None),
        )
    if isinstance(entry, Event):
        body = json.dumps({name: getattr(entry, name) for name in _EVENT_FIELDS}, allow_nan=False)
        return (seq, entry.id, entry.kind, *[None] * (len(ERASED) - 1), body)
    return (seq, entry.id, "forgotten", *[None] * len(ERASED))


def from_row(row: Row, where: str) -> Record:
    """The record in `row`. Raises StoreCorrupt, naming `where` and the sequence number."""
    try:
        return Record(row[0], _entry(row))
    except (OutcomeInvalid, TypeError, ValueError, KeyError) as error:
        reason = error if isinstance(error, OutcomeInvalid) else type(error).__name__
        raise StoreCorrupt(
            f"{where}: record {row[0]!r} is not what semroute writes ({reason}); restore a backup"
        ) from error


def _entry(row: Row) -> Entry:
    _, id_, kind, time, by, model, score, vector, encoder, prompt_hash, *rest = row
    origin, decision_id, route, escalated_to, why, text, features, body = rest
    if kind == "outcome":
        return Outcome(
            **{"id": id_, "model": model, "score": score, "encoder": encoder, "prompt_hash": prompt_hash},
            **{"by": by, "origin": origin, "time": time, "decision_id": decision_id, "route": route},
            **{"escalated_to": escalated_to, "why": why, "text": text},
            vector=np.frombuffer(vector, dtype=_FLOATS),
            features=np.frombuffer(features, dtype=_FLOATS),
        )
    if kind == "forgotten":
        return Forgotten(id_)
    fields = json.loads(body)
    return Event(id=id_, kind=kind, **{name: fields[name] for name in _EVENT_FIELDS})


def place(
    entries: Sequence[Outcome | Event], stored: Mapping[str, Record], last: int
) -> tuple[list[int], list[Record]]:
    """Give `entries` their places after `last`.

    `stored` holds the records that carry an id of `entries` already, by id. Returns the sequence number of
    each entry, in their order, and the records that are new. An id keeps its place: the same content again
    is not new, nor is anything under the id of a forgotten outcome. Raises OutcomeConflict.
    """
    known = dict(stored)
    new: list[Record] = []
    for entry in entries:
        record = known.get(entry.id)
        if record is None:
            record = Record(last + len(new) + 1, entry)
            known[entry.id] = record
            new.append(record)
        elif record.entry != entry and not isinstance(record.entry, Forgotten):
            raise OutcomeConflict(
                f"{entry.id} is stored already, as record {record.seq} with other content;"
                " nothing of this call was stored; give the new one an id of its own"
            )
    return [known[entry.id].seq for entry in entries], new


def batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """`items` in pieces of at most `size`."""
    return (items[start : start + size] for start in range(0, len(items), size))
