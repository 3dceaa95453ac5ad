"""What every store does alike: check what comes in, read in batches, say what was forgotten."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeAlias

from semroute.databases import Kept, Row, pages
from semroute.errors import OutcomeInvalid
from semroute.escalations.outcome import (
    HASH_BYTES,
    MAX_EVENT_IDS,
    Event,
    Outcome,
    Record,
    check_ids,
)
from semroute.escalations.rows import batches, from_row
from semroute.ulid import new_ulid

MakeEvents: TypeAlias = Callable[[Sequence[str]], list[Event]]


class LogStore(Kept):
    """The part of a `Store` that is the same in every database."""

    def append(self, outcomes: Sequence[Outcome]) -> list[int]:
        """See `Store.append`."""
        for outcome in outcomes:
            if not isinstance(outcome, Outcome):
                raise OutcomeInvalid("outcomes", f"must be outcomes, not {type(outcome).__name__}")
        return self._append(outcomes) if outcomes else []

    def append_event(self, event: Event) -> int:
        """See `Store.append_event`."""
        if not isinstance(event, Event):
            raise OutcomeInvalid("event", f"must be an event, not {type(event).__name__}")
        if event.kind == "forget":
            raise OutcomeInvalid("kind", "must not be forget: Store.forget() erases and writes that event")
        return self._append([event])[0]

    def forget(
        self,
        *,
        by: str,
        time: float,
        ids: Sequence[str] = (),
        prompt_hash: bytes | None = None,
        why: str | None = None,
    ) -> int:
        """See `Store.forget`."""
        wanted = check_ids(ids)
        if prompt_hash is not None and (not isinstance(prompt_hash, bytes) or len(prompt_hash) != HASH_BYTES):
            raise OutcomeInvalid("prompt_hash", f"must be {HASH_BYTES} bytes")
        # Made before the store is touched: what is wrong with it is said also where nothing is found.
        pattern = Event(id=new_ulid(), kind="forget", by=by, time=time, why=why, ids=(new_ulid(),))

        def events(found: Sequence[str]) -> list[Event]:
            parts = batches(found, MAX_EVENT_IDS)
            return [replace(pattern, id=new_ulid(), ids=tuple(part)) for part in parts]

        return self._erase(wanted, prompt_hash, events)

    def read(self, after: int = 0, limit: int | None = None) -> Iterator[Record]:
        """See `Store.read`."""
        for rows in pages(self._page, after, limit):
            for row in rows:
                yield from_row(row, self._where)

    def events(self) -> list[tuple[int, Event]]:
        """See `Store.events`."""
        records = (from_row(row, self._where) for row in self._event_rows())
        return [(seq, entry) for seq, entry in records if isinstance(entry, Event)]

    def known(self, ids: Sequence[str]) -> set[str]:
        """See `Store.known`."""
        return set(self._known_ids(check_ids(ids)))

    @abstractmethod
    def drop_texts(self, *, before: float) -> int:
        """See `Store.drop_texts`."""

    @abstractmethod
    def last(self) -> int:
        """See `Store.last`."""

    @abstractmethod
    def wait(self, after: int, timeout: float) -> bool:
        """See `Store.wait`."""

    @abstractmethod
    def _append(self, entries: Sequence[Outcome | Event]) -> list[int]:
        """Store `entries`, at least one, in one transaction."""

    @abstractmethod
    def _erase(self, ids: Sequence[str], prompt_hash: bytes | None, events: MakeEvents) -> int:
        """Erase the outcomes named and store `events` of their ids, in one transaction. Returns how many."""

    @abstractmethod
    def _page(self, after: int, size: int) -> list[Row]:
        """The first `size` rows after sequence number `after`, columns as in COLUMNS."""

    @abstractmethod
    def _event_rows(self) -> list[Row]:
        """The rows of events, in order, columns as in COLUMNS."""

    @abstractmethod
    def _known_ids(self, ids: Sequence[str]) -> list[str]:
        """Those of `ids` that are in the table."""
