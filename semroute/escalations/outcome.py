"""What a store holds: outcomes, events, and where each stands in the log. Data and its limits, no I/O."""

from __future__ import annotations

import hashlib
import hmac
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias, get_args

from semroute.encoders.base import clip
from semroute.errors import OutcomeInvalid
from semroute.numeric import finite

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.float32]

EventKind = Literal["revert", "quarantine", "release", "forget"]

MAX_NAME = 200  # characters of by, model, route, escalated_to, decision_id, encoder
MAX_ORIGIN = 32
MAX_WHY = 2_000
MAX_TEXT = 100_000
MAX_DIM = 16_000  # the most that pgvector stores
MAX_FEATURES = 64
MAX_EVENT_IDS = 10_000
HASH_BYTES = 32
_UNIT_TOLERANCE = 1e-3
_ULID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")
_ORIGIN = re.compile(r"[a-z][a-z0-9_-]*")
# What UTF-8 or PostgreSQL cannot hold: half of a surrogate pair, and the character NUL.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def _no_features() -> Floats:
    import numpy as np

    return np.zeros(0, dtype=np.float32)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Outcome:
    """How good a model was on a prompt; an escalation is an outcome of score 0 plus where it went.

    id: ULID, unique in the store.
    model: who answered. score: how well, in [0, 1].
    vector: the prompt's embedding, shape (dim,), float32, of length 1. encoder: which encoder made it.
    prompt_hash: 32 bytes, from `prompt_hash()` with the store's key.
    by: the principal who reports. origin: how it came: feedback, escalation, import, shadow or the like.
    time: seconds since 1970 by the caller's clock. It never orders anything; the sequence number does.
    decision_id: the decision it is about. route: the route of that decision, None for the default.
    escalated_to: the stronger model that took over. why: in the reporter's words.
    text: the prompt itself, only where that was asked for.
    features: cheap numbers about the prompt, shape (n,), float32, n from 0 to 64.

    Arrays are converted to float32, copied unless they are read-only already, and read-only afterwards. Two
    outcomes are equal when every field is, arrays bit for bit. Raises OutcomeInvalid.
    """

    id: str
    model: str
    score: float
    vector: Floats
    encoder: str
    prompt_hash: bytes
    by: str
    origin: str
    time: float
    decision_id: str | None = None
    route: str | None = None
    escalated_to: str | None = None
    why: str | None = None
    text: str | None = None
    features: Floats = field(default_factory=_no_features)

    def __post_init__(self) -> None:
        _check_ulid("id", self.id)
        for name in ("model", "encoder", "by"):
            _check_text(name, getattr(self, name), MAX_NAME)
        for name in ("decision_id", "route", "escalated_to"):
            _check_optional(name, getattr(self, name), MAX_NAME)
        check_why(self.why)
        _check_optional("text", self.text, MAX_TEXT)
        _check_text("origin", self.origin, MAX_ORIGIN)
        if not _ORIGIN.fullmatch(self.origin):
            raise OutcomeInvalid("origin", "must be a lower-case word such as feedback")
        if not isinstance(self.prompt_hash, bytes) or len(self.prompt_hash) != HASH_BYTES:
            raise OutcomeInvalid("prompt_hash", f"must be {HASH_BYTES} bytes, as prompt_hash() makes them")
        score = _number("score", self.score)
        if not 0.0 <= score <= 1.0:
            raise OutcomeInvalid("score", "must be from 0 to 1")
        _freeze(self, score=score, time=_time("time", self.time))
        _freeze(self, vector=_unit(self.vector), features=_features(self.features))

    def __eq__(self, other: object) -> bool:
        return self._content() == other._content() if isinstance(other, Outcome) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)

    def _content(self) -> tuple[object, ...]:
        return (
            *(
                self.id,
                self.model,
                self.score,
                self.encoder,
                self.prompt_hash,
                self.by,
                self.origin,
                self.time,
            ),
            *(self.decision_id, self.route, self.escalated_to, self.why, self.text),
            *(self.vector.tobytes(), self.features.tobytes()),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What is said about outcomes that are in the log already; `replay()` gives it its meaning.

    revert: what is named has no effect any more: either `ids` (of outcomes, or of events, so that a revert
        can itself be reverted), or every outcome by `principal` whose time is at least `since` and below
        `until`, each of the three left out where it does not matter. Only records before the event.
    quarantine, release: outcomes by `principal` have no effect until it is released, later ones included.
    forget: the outcomes `ids` are erased. Only `Store.forget()` makes this one, and it cannot be reverted.

    id: ULID, unique in the store among outcomes and events. by: the principal who acts. time, since, until:
    seconds since 1970. Raises OutcomeInvalid.
    """

    id: str
    kind: EventKind
    by: str
    time: float
    principal: str | None = None
    since: float | None = None
    until: float | None = None
    ids: tuple[str, ...] = ()
    why: str | None = None

    def __post_init__(self) -> None:
        _check_ulid("id", self.id)
        if self.kind not in get_args(EventKind):
            raise OutcomeInvalid("kind", f"must be one of {', '.join(get_args(EventKind))}")
        _check_text("by", self.by, MAX_NAME)
        _check_optional("principal", self.principal, MAX_NAME)
        _check_optional("why", self.why, MAX_WHY)
        _freeze(self, time=_time("time", self.time), ids=_ids(self.ids))
        for name in ("since", "until"):
            value = getattr(self, name)
            _freeze(self, **{name: None if value is None else _time(name, value)})
        if self.since is not None and self.until is not None and self.since >= self.until:
            raise OutcomeInvalid("until", "must be later than since")
        self._check_selection()

    def _check_selection(self) -> None:
        """Each kind says what it is about in one way only, so that no event means two things."""
        timed = self.since is not None or self.until is not None
        if self.kind == "revert":
            if bool(self.ids) == (timed or self.principal is not None):
                raise OutcomeInvalid("revert", "takes either ids, or a principal and times, and one of them")
        elif self.kind == "forget":
            if not self.ids or timed or self.principal is not None:
                raise OutcomeInvalid("forget", "takes ids and nothing else")
        elif self.principal is None or timed or self.ids:
            raise OutcomeInvalid(self.kind, "takes a principal and nothing else")


@dataclass(frozen=True, slots=True)
class Forgotten:
    """Where an outcome was that has been erased: its id is all that is left."""

    id: str


Entry: TypeAlias = Outcome | Event | Forgotten


class Record(NamedTuple):
    """One place in the log. `seq` counts from 1, without gaps, in the order of the commits."""

    seq: int
    entry: Entry


def prompt_hash(text: str, key: bytes) -> bytes:
    """HMAC-SHA256 of `text` under the key of a store, 32 bytes.

    Runs of white space count as one space, and none at the ends. Of a text beyond MAX_TEXT its ends count,
    which are what is routed. Without the key nobody can test whether a text is in a store.
    """
    normal = " ".join(clip(text, MAX_TEXT).split())
    return hmac.digest(key, normal.encode(), hashlib.sha256)


def said_about(outcome: Outcome) -> bytes:
    """Who spoke about which prompt and model, in 16 bytes: of several such outcomes the last counts.

    What was imported and what is said in feedback stand beside each other: the trend that was learnt from
    imports is not another one after each word of the operator.
    """
    kind = "import" if outcome.origin == "import" else ""
    names = f"{outcome.by}\0{outcome.model}\0{kind}".encode()
    return hashlib.blake2b(names + outcome.prompt_hash, digest_size=16).digest()


def check_why(value: object) -> None:
    """Raises OutcomeInvalid for what cannot be the reason of an outcome or event."""
    _check_optional("why", value, MAX_WHY)


def check_ids(ids: Iterable[str]) -> tuple[str, ...]:
    """`ids` as a tuple of ULIDs, however many. Raises OutcomeInvalid."""
    checked = tuple(ids)
    for value in checked:
        _check_ulid("ids", value)
    return checked


def _freeze(item: Outcome | Event, **values: object) -> None:
    """Put checked values into a frozen item."""
    for name, value in values.items():
        object.__setattr__(item, name, value)


def _check_ulid(name: str, value: object) -> None:
    if not isinstance(value, str) or not _ULID.fullmatch(value):
        raise OutcomeInvalid(
            name, "must be a ULID: 26 digits and capital letters, such as `semroute escalations list` shows"
        )


def _check_text(name: str, value: object, limit: int) -> None:
    if not isinstance(value, str) or not value:
        raise OutcomeInvalid(name, "must be a text that is not empty")
    if len(value) > limit:
        raise OutcomeInvalid(name, f"must have at most {limit:,} characters; it has {len(value):,}")
    if not value.isascii() or "\x00" in value:
        found = _UNSTORABLE.search(value)
        if found:
            raise OutcomeInvalid(name, f"must not hold U+{ord(found[0]):04X}, at character {found.start()}")


def _check_optional(name: str, value: object, limit: int) -> None:
    if value is not None:
        _check_text(name, value, limit)


def _number(name: str, value: object) -> float:
    number = finite(value)
    if number is None:
        raise OutcomeInvalid(name, "must be a finite number")
    return number


def _time(name: str, value: object) -> float:
    number = _number(name, value)
    if number < 0:
        raise OutcomeInvalid(name, "must be seconds since 1970")
    return number


def _ids(value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise OutcomeInvalid("ids", "must be a list of ULIDs")
    if len(value) > MAX_EVENT_IDS:
        raise OutcomeInvalid("ids", f"must be at most {MAX_EVENT_IDS:,}; several events may name more")
    return check_ids(value)


def _unit(value: object) -> Floats:
    import numpy as np

    vector = _floats("vector", value, MAX_DIM)
    # NaN, infinity and what overflows give a length that is not near 1 either.
    with np.errstate(over="ignore", invalid="ignore"):
        length = math.sqrt(vector.dot(vector))
    if not abs(length - 1.0) <= _UNIT_TOLERANCE:
        raise OutcomeInvalid("vector", "must be finite and of length 1")
    return vector


def _features(value: object) -> Floats:
    features = _floats("features", value, MAX_FEATURES)
    if not all(map(math.isfinite, features.tolist())):
        raise OutcomeInvalid("features", "must be finite")
    return features


def _floats(name: str, value: object, limit: int) -> Floats:
    import numpy as np

    if isinstance(value, np.ndarray) and value.dtype == np.float32 and not value.flags.writeable:
        array: Floats = value
    else:
        try:
            with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused as such
                array = np.array(value, dtype=np.float32)
        except (TypeError, ValueError):
            raise OutcomeInvalid(name, "must be an array of numbers") from None
        array.setflags(write=False)
    if array.ndim != 1 or len(array) > limit:
        raise OutcomeInvalid(name, f"must be one row of at most {limit:,} numbers")
    return array
