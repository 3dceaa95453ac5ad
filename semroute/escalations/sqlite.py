"""The store in one SQLite file, for the processes of one machine."""

from __future__ import annotations

import sqlite3
import threading
import time as clock
from collections.abc import Sequence
from pathlib import Path

from semroute.databases import Row
from semroute.databases.sqlite import MAX_VARIABLES, META, PATIENCE_S, Migration, SqliteFile
from semroute.escalations.base import LogStore, MakeEvents
from semroute.escalations.outcome import Event, Outcome
from semroute.escalations.rows import COLUMNS, ERASED, batches, from_row, place, to_row

_POLL_S = 0.05

MIGRATIONS: tuple[Migration, ...] = (
    (
        "0001_log",
        (
            """
            CREATE TABLE log (
                seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, kind TEXT NOT NULL, time REAL,
                principal TEXT, model TEXT, score REAL, vector BLOB, encoder TEXT, prompt_hash BLOB,
                origin TEXT, decision_id TEXT, route TEXT, escalated_to TEXT, why TEXT, text TEXT,
                features BLOB, body TEXT
            )
            """,
            # No index on prompt_hash: only forget() asks for it, and reading 100,000 rows takes it 0.1 s.
            *META,
        ),
    ),
    (
        "0002_events",
        # Who reads the log asks for the events first, and they are few among rows that are long.
        ("CREATE INDEX log_events ON log (seq) WHERE kind NOT IN ('outcome', 'forgotten')",),
    ),
)
"""Append only: a migration that has been released never changes. Each runs in one transaction."""

_COLUMNS = ", ".join(COLUMNS)
_INSERT = f"INSERT INTO log ({_COLUMNS}) VALUES ({', '.join('?' * len(COLUMNS))})"  # noqa: S608 - constants
_SELECT = f"SELECT {_COLUMNS} FROM log"  # noqa: S608
_ERASE = f"UPDATE log SET kind = 'forgotten', {', '.join(f'{name} = NULL' for name in ERASED)} WHERE id = ?"  # noqa: S608
_DROP_TEXTS = "UPDATE log SET text = NULL WHERE text IS NOT NULL AND time < ?"
_PAGE = f"{_SELECT} WHERE seq > ? ORDER BY seq LIMIT ?"
_EVENTS = f"{_SELECT} WHERE kind NOT IN ('outcome', 'forgotten') ORDER BY seq"
_LAST = "SELECT coalesce(max(seq), 0) FROM log"


class SqliteStore(LogStore):
    """A store in the file `path`; see `Store`.

    patience: seconds to wait for other processes and threads, then StoreBusy.
    """

    def __init__(
        self, path: Path, *, patience: float = PATIENCE_S, migrations: Sequence[Migration] = MIGRATIONS
    ) -> None:
        self._file = SqliteFile(path, migrations, patience)
        self._where, self._key = self._file.where, self._file.key
        self._appended = threading.Condition()

    def drop_texts(self, *, before: float) -> int:
        """See `Store.drop_texts`."""
        with self._file.transaction() as connection:
            return connection.execute(_DROP_TEXTS, (before,)).rowcount

    def last(self) -> int:
        """See `Store.last`."""
        with self._file.held() as connection:
            return _last(connection)

    def wait(self, after: int, timeout: float) -> bool:
        """See `Store.wait`. What another process appends is seen by looking, every 50 ms."""
        self._file.check_in_place()  # a file that was replaced has no news
        deadline = clock.monotonic() + timeout
        while self.last() <= after:
            left = deadline - clock.monotonic()
            if left <= 0:
                return False
            with self._appended:
                self._appended.wait(min(left, _POLL_S))
        return True

    def close(self) -> None:
        """See `Store.close`. A transaction in progress is finished first."""
        self._file.close()
        self._notify()

    def _append(self, entries: Sequence[Outcome | Event]) -> list[int]:
        with self._file.transaction() as connection:
            seqs = _insert(connection, entries, self._where)
        self._notify()
        return seqs

    def _erase(self, ids: Sequence[str], prompt_hash: bytes | None, events: MakeEvents) -> int:
        with self._file.transaction() as connection:
            found = _outcomes_of(connection, ids, prompt_hash)
            connection.executemany(_ERASE, [(id_,) for id_ in found])
            _insert(connection, events(found), self._where)
        self._notify()
        return len(found)

    def _page(self, after: int, size: int) -> list[Row]:
        with self._file.held() as connection:
            return connection.execute(_PAGE, (after, size)).fetchall()

    def _event_rows(self) -> list[Row]:
        with self._file.held() as connection:
            return connection.execute(_EVENTS).fetchall()

    def _known_ids(self, ids: Sequence[str]) -> list[str]:
        found: list[str] = []
        with self._file.held() as connection:
            for part in batches(ids, MAX_VARIABLES):
                marks = ", ".join("?" * len(part))
                rows = connection.execute(f"SELECT id FROM log WHERE id IN ({marks})", part)  # noqa: S608 - marks only
                found += [identity for (identity,) in rows]
        return found

    def _notify(self) -> None:
        with self._appended:
            self._appended.notify_all()


def _insert(connection: sqlite3.Connection, entries: Sequence[Outcome | Event], where: str) -> list[int]:
    stored = {}
    for ids in batches([entry.id for entry in entries], MAX_VARIABLES):
        marks = ", ".join("?" * len(ids))
        for row in connection.execute(f"{_SELECT} WHERE id IN ({marks})", ids):
            stored[row[1]] = from_row(row, where)
    seqs, new = place(entries, stored, _last(connection))
    connection.executemany(_INSERT, map(to_row, new))
    return seqs


def _outcomes_of(connection: sqlite3.Connection, ids: Sequence[str], prompt_hash: bytes | None) -> list[str]:
    """The ids of the stored outcomes that have one of `ids` or the hash, in the order of the log."""
    found: dict[str, int] = {}
    for part in batches(ids, MAX_VARIABLES):
        marks = ", ".join("?" * len(part))
        found.update(
            connection.execute(
                f"SELECT id, seq FROM log WHERE kind = 'outcome' AND id IN ({marks})",  # noqa: S608 - marks only
                part,
            )
        )
    if prompt_hash is not None:
        found.update(
            connection.execute(
                "SELECT id, seq FROM log WHERE kind = 'outcome' AND prompt_hash = ?", (prompt_hash,)
            )
        )
    return sorted(found, key=found.__getitem__)


def _last(connection: sqlite3.Connection) -> int:
    return int(connection.execute(_LAST).fetchone()[0])
