"""What is stored: outcomes, and events that say which of them count. Data and pure functions only."""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from semroute.errors import OutcomeRefused

if TYPE_CHECKING:
    from numpy.typing import NDArray

Origin = Literal["import", "feedback", "escalation"]
EventKind = Literal["revert", "quarantine", "release", "forget"]

OPERATOR = "operator"
"""The principal who runs the router: trusted, and without a quota."""

_LONGEST = {
    "id": 64,
    "model": 200,
    "by": 200,
    "why": 2_000,
    "route": 200,
    "escalated_to": 200,
    "text": 1_000_000,
}
_UNIT_TOLERANCE = 2e-2  # of the squared length of a unit vector


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """How good a model was on a prompt. An escalation is one of score 0 that says where it went.

    id: unique; storing an id twice changes nothing.
    score: quality in [0, 1]. vector: (dim,) float32 of length 1. features: (n,) float32 of `trend.features`.
    prompt_hash: keyed hash of the prompt, see `prompt_hash`. encoder: who made the vector.
    by: the principal who says so. time: seconds since 1970, for ageing alone, never for order.
    text: the prompt, only where the settings ask for it.
    """

    id: str
    model: str
    score: float
    vector: NDArray[np.float32]
    features: NDArray[np.float32]
    prompt_hash: str
    encoder: str
    by: str
    time: float
    origin: Origin
    decision: str | None = None
    route: str | None = None
    escalated_to: str | None = None
    why: str | None = None
    text: str | None = None

    def __post_init__(self) -> None:
        """Raise OutcomeRefused, which names the field."""
        if isinstance(self.score, bool) or not isinstance(self.score, int | float):
            raise OutcomeRefused(f"score must be a number from 0 to 1, not {type(self.score).__name__}")
        if not 0.0 <= self.score <= 1.0:  # false for NaN as well
            raise OutcomeRefused(f"score must be from 0 to 1, not {self.score:g}")
        for name, longest in _LONGEST.items():
            value = getattr(self, name)
            if value is not None and not (isinstance(value, str) and len(value) <= longest):
                raise OutcomeRefused(f"{name} must be a text of at most {longest:,} characters")
        if not self.id or not self.model or not self.by:
            raise OutcomeRefused("id, model and by must not be empty")
        if not math.isfinite(self.time):
            raise OutcomeRefused("time must be a finite number of seconds")
        if self.vector.ndim != 1 or not abs(float(self.vector @ self.vector) - 1.0) <= _UNIT_TOLERANCE:
            raise OutcomeRefused("vector must have length 1")
        if self.features.ndim != 1 or not np.isfinite(self.features).all():
            raise OutcomeRefused("features must be finite numbers")


@dataclass(frozen=True, slots=True)
class Event:
    """Something said about outcomes stored before it.

    revert: those by `by`, of `ids`, and from `since` until `until` (seconds since 1970), all that are given,
        count no longer; of `ids` that are reverts themselves the effect ends.
    quarantine, release: those by `by`, before and after, do not count, or count again.
    forget: those of `ids` lose vector, hash and text for ever. The store erases them; the event remains.
    """

    id: str
    kind: EventKind
    time: float
    actor: str
    by: str | None = None
    ids: tuple[str, ...] = ()
    since: float | None = None
    until: float | None = None


class Record(NamedTuple):
    """One entry of the log. `seq` is its order; `entry` is None where the outcome was forgotten."""

    seq: int
    entry: Outcome | Event | None


def replay(records: Iterable[Record]) -> list[Outcome]:
    """The outcomes that count, in order of their sequence numbers; the clock plays no part.

    A later outcome of the same principal on the same prompt and model takes the place of an earlier one.
    """
    entries = [record.entry for record in records if record.entry is not None]
    undone = _undone_events(entries)
    held: set[str] = set()
    alive: dict[str, Outcome] = {}
    for entry in entries:
        if isinstance(entry, Outcome):
            alive[entry.id] = entry
        elif entry.id in undone:
            continue
        elif entry.kind == "revert":
            alive = {key: outcome for key, outcome in alive.items() if not _covers(entry, outcome)}
        elif entry.kind == "quarantine" and entry.by is not None:
            held.add(entry.by)
        elif entry.kind == "release" and entry.by is not None:
            held.discard(entry.by)
    # Only now: where a later one was reverted, the earlier one counts again.
    latest = {said_about(outcome): outcome.id for outcome in alive.values()}
    return [
        outcome
        for outcome in alive.values()
        if outcome.by not in held and latest[said_about(outcome)] == outcome.id
    ]


def said_about(outcome: Outcome) -> tuple[str, str, str]:
    """Who said something about which prompt and model: of several such outcomes the last counts."""
    return outcome.by, outcome.prompt_hash, outcome.model


def _undone_events(entries: Iterable[Outcome | Event]) -> set[str]:
    """The ids of events that a later revert takes back."""
    undone: set[str] = set()
    for event in reversed([entry for entry in entries if isinstance(entry, Event)]):
        if event.kind == "revert" and event.id not in undone:
            undone.update(event.ids)
    return undone


def _covers(event: Event, outcome: Outcome) -> bool:
    return (
        (event.by is None or outcome.by == event.by)
        and (not event.ids or outcome.id in event.ids)
        and (event.since is None or outcome.time >= event.since)
        and (event.until is None or outcome.time <= event.until)
    )


def prompt_hash(text: str, key: bytes) -> str:
    """HMAC-SHA256 of `text`, white space folded, in hex: tells equal prompts without telling them."""
    return hmac.new(key, " ".join(text.split()).encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def encoder_name(identity: Mapping[str, object]) -> str:
    """A short name for an encoder's identity: vectors of another one are never compared with it."""
    parts = "\n".join(str(identity[key]) for key in ("name", "revision", "dim", "preprocessing"))
    return f"{identity['name']}#{hashlib.sha256(parts.encode()).hexdigest()[:16]}"
