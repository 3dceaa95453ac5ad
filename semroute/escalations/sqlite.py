"""The embedded store: one SQLite file, for one machine and any number of its processes.

A rollback journal and not WAL: SQLite 3.7.0 to 3.51.2 can lose a WAL database to two connections. Every
commit is flushed to the disk before `append` returns.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from semroute.errors import StoreBusy, StoreUnavailable
from semroute.escalations.outcome import Event, Outcome, Record
from semroute.escalations.rows import COLUMNS, to_record, to_row

_T = TypeVar("_T")
_APPLICATION_ID = 0x53_45_4D_52  # "SEMR", so that another program's file is not taken for ours
_MIGRATIONS = (
    (
        "0001-log",
        """
        CREATE TABLE log (
            seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, kind TEXT NOT NULL,
            prompt_hash TEXT, vector BLOB, features BLOB, text TEXT, body TEXT NOT NULL);
        CREATE TABLE secret (key BLOB NOT NULL);
        """,
    ),
)
_PATIENCE = 10.0  # seconds for which a write waits for other writers
_POLL = 0.1  # seconds between two looks for something new
_CHUNK = 2_000  # records read at once, so that no reader holds up a writer for long
_READ = f"SELECT seq, {', '.join(COLUMNS)} FROM log WHERE seq > ? ORDER BY seq LIMIT {_CHUNK}"  # noqa: S608
_APPEND = (
    f"INSERT INTO log ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))}) "  # noqa: S608
    "ON CONFLICT (id) DO NOTHING"
)


class SqliteStore:
    """A log in the file `path`, made when it is not there. See `Store`."""

    def __init__(self, path: Path) -> None:
        """Open or make the file. Raises StoreUnavailable or StoreBusy."""
        self._path = path
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._connection = self._open()
        self._key: bytes = self._try(self._migrate)

    @property
    def key(self) -> bytes:
        """See `Store.key`."""
        return self._key

    def append(self, entries: Sequence[Outcome | Event]) -> int:
        """See `Store.append`."""
        rows = [to_row(entry) for entry in entries]

        def write(connection: sqlite3.Connection) -> int:
            before = connection.total_changes
            connection.executemany(_APPEND, rows)
            return connection.total_changes - before

        return self._write(write)

    def read(self, after: int = 0) -> Iterator[Record]:
        """See `Store.read`."""
        while True:
            rows = self._try(partial(_read_chunk, after=after))
            for row in rows:
                after = int(str(row[0]))
                yield self._record(after, row[1:])
            if len(rows) < _CHUNK:
                return

    def last(self) -> int:
        """See `Store.last`."""
        query = "SELECT coalesce(max(seq), 0) FROM log"
        return int(self._try(lambda connection: connection.execute(query).fetchone()[0]))

    def wait(self, after: int, seconds: float) -> bool:
        """See `Store.wait`; looks ten times a second."""
        deadline = time.monotonic() + seconds
        while self.last() <= after:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            time.sleep(min(_POLL, left))
        return True

    def forget(self, event: Event) -> int:
        """See `Store.forget`. The freed bytes are overwritten."""

        def write(connection: sqlite3.Connection) -> int:
            before = connection.total_changes
            connection.executemany(
                "UPDATE log SET prompt_hash = NULL, vector = NULL, features = NULL, text = NULL "
                "WHERE id = ? AND kind = 'outcome' AND vector IS NOT NULL",
                [(identity,) for identity in event.ids],
            )
            erased = connection.total_changes - before
            connection.execute(_APPEND, to_row(event))
            return erased

        return self._write(write)

    def close(self) -> None:
        """See `Store.close`."""
        with self._lock:
            self._connection.close()

    def _open(self) -> sqlite3.Connection:
        try:
            handle = os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600)  # what is stored is personal data
            os.close(handle)
            connection = sqlite3.connect(
                self._path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False
            )
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA secure_delete = ON")
        except (OSError, sqlite3.Error) as error:
            raise StoreUnavailable(f"{self._path}: cannot be opened as a store: {error}") from error
        return connection

    def _migrate(self, connection: sqlite3.Connection) -> bytes:
        with _transaction(connection):
            if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0:
                connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
                connection.execute("CREATE TABLE migrations (name TEXT PRIMARY KEY, done REAL NOT NULL)")
            if connection.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION_ID:
                raise StoreUnavailable(f"{self._path}: another program's database; name another file")
            done = {name for (name,) in connection.execute("SELECT name FROM migrations")}
            unknown = done - {name for name, _ in _MIGRATIONS}
            if unknown:
                named = ", ".join(sorted(unknown))
                raise StoreUnavailable(
                    f"{self._path}: written by a newer semroute ({named}); update this one"
                )
            for name, statements in _MIGRATIONS:
                if name not in done:
                    for statement in filter(str.strip, statements.split(";")):
                        connection.execute(statement)
                    connection.execute("INSERT INTO migrations VALUES (?, ?)", (name, time.time()))
            row = connection.execute("SELECT key FROM secret").fetchone()
            if row is None:
                row = (secrets.token_bytes(32),)
                connection.execute("INSERT INTO secret VALUES (?)", row)
        return bytes(row[0])

    def _write(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        def within(connection: sqlite3.Connection) -> _T:
            with _transaction(connection):
                return work(connection)

        return self._try(within)

    def _try(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        with self._lock:
            if os.getpid() != self._pid:  # SQLite connections must not be carried over a fork
                self._pid, self._connection = os.getpid(), self._open()
            try:
                return work(self._connection)
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
                    raise StoreBusy(
                        f"{self._path}: locked by others for {_PATIENCE:g} s; nothing was written, try again"
                    ) from error
                raise StoreUnavailable(f"{self._path}: {error}") from error
            except sqlite3.Error as error:
                raise StoreUnavailable(f"{self._path}: {error}") from error

    def _record(self, seq: int, row: tuple[object, ...]) -> Record:
        try:
            return to_record(seq, row)
        except (ValueError, KeyError, TypeError) as error:
            raise StoreUnavailable(f"{self._path}: record {seq} is damaged ({error})") from error


def _read_chunk(connection: sqlite3.Connection, *, after: int) -> list[tuple[object, ...]]:
    return connection.execute(_READ, (after,)).fetchall()


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        with suppress(sqlite3.Error):  # what broke the transaction says more
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
