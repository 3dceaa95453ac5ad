"""What the logs in databases do alike: read in batches, and join what was said later."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Sequence

from semroute.databases import Kept, Row, pages
from semroute.decisionlog.record import Entry, LoggedDecision, Remembered, joined, remembered

COLUMNS = ("entry", "id", "kind", "time", "principal", "prompt_hash", "text", "vector", "body")
"""After `seq`; the fields of an Entry. `body` is JSON."""

PRUNE_BATCH = 5_000  # rows in one transaction: others write in between


class TableLog(Kept):
    """The part of a `DecisionLog` that is the same in every database."""

    def read(self, since: float | None = None, limit: int | None = None) -> Iterator[LoggedDecision]:
        """See `DecisionLog.read`. Holds no lock between two batches: a slow reader hinders no writer."""
        for rows in pages(lambda after, size: self._page(after, size, since), 0, limit):
            yield from self._joined(rows)

    def tail(self, count: int) -> list[LoggedDecision]:
        """See `DecisionLog.tail`."""
        return self._joined(self._last_page(count)[::-1])

    def find(self, ids: Sequence[str]) -> list[LoggedDecision]:
        """See `DecisionLog.find`."""
        rows = self._about(ids)
        return self._joined([row for row in rows if row[3] == "decided"], rows)

    def recall(self, identity: str) -> Remembered | None:
        """See `DecisionLog.recall`."""
        entries = [_entry(row) for row in self._about([identity])]
        decided = next((entry for entry in entries if entry.kind == "decided"), None)
        return None if decided is None else remembered(decided, entries)

    def _joined(self, decided: Sequence[Row], about: Sequence[Row] | None = None) -> list[LoggedDecision]:
        if about is None:
            about = self._about([row[2] for row in decided])
        later: dict[str, list[Entry]] = defaultdict(list)
        for row in about:
            later[row[2]].append(_entry(row))
        return [joined(_entry(row), later[row[2]], self._where) for row in decided]

    @abstractmethod
    def _page(self, after: int, size: int, since: float | None) -> list[Row]:
        """The first `size` decisions after the place `after`, of `since` or later: seq, then COLUMNS."""

    @abstractmethod
    def _last_page(self, size: int) -> list[Row]:
        """The last `size` decisions, the last first."""

    @abstractmethod
    def _about(self, ids: Sequence[str]) -> list[Row]:
        """All that is said of decisions, in the order of the log."""


def to_row(entry: Entry) -> Row:
    """`entry` in the order of COLUMNS."""
    return (*entry[:-1], json.dumps(entry.body, allow_nan=False))


def _entry(row: Row) -> Entry:
    body = row[-1]  # a text in SQLite, parsed already in PostgreSQL
    return Entry._make((*row[1:-1], body if isinstance(body, dict) else json.loads(body)))
