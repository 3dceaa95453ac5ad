"""The store in one SQLite file, for the processes of one machine.

Rollback journal, never WAL: SQLite before 3.51.3 can corrupt a WAL database that two connections use, the
mode is a property of the file, and a file may be opened by another Python with another SQLite. It also means
that a forgotten text is in no second file once the change is committed.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
import threading
import time as clock
from collections.abc import Iterator, Sequence
from pathlib import Path

from semroute.errors import StoreBusy, StoreCorrupt, StoreError, StoreMismatch, StoreUnavailable
from semroute.escalations.base import ID_BATCH, LogStore, MakeEvents
from semroute.escalations.outcome import Event, Outcome
from semroute.escalations.rows import COLUMNS, ERASED, Row, batches, from_row, place, to_row

APPLICATION_ID = 0x534D5254  # "SMRT", at byte 68 of the file
PATIENCE_S = 10.0
_POLL_S = 0.05

Migration = tuple[str, tuple[str, ...]]
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
            "CREATE TABLE meta (name TEXT PRIMARY KEY, value BLOB NOT NULL)",
            "INSERT INTO meta VALUES ('key', new_key())",
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


# By the primary code of SQLite's error.
_CURES: dict[int, tuple[type[StoreError], str]] = {
    sqlite3.SQLITE_BUSY: (StoreBusy, "another process holds it: try again"),
    sqlite3.SQLITE_LOCKED: (StoreBusy, "another process holds it: try again"),
    sqlite3.SQLITE_NOTADB: (
        StoreCorrupt,
        "it is damaged or no SQLite file: restore a backup or name another path",
    ),
    sqlite3.SQLITE_CORRUPT: (StoreCorrupt, "it is damaged: restore a backup, or move it away"),
    sqlite3.SQLITE_ERROR: (StoreCorrupt, "its tables are not as semroute made them: restore a backup"),
    sqlite3.SQLITE_FULL: (StoreUnavailable, "free some space on the disk"),
    sqlite3.SQLITE_READONLY: (StoreUnavailable, "the file and its folder must be writable for this user"),
    sqlite3.SQLITE_CANTOPEN: (StoreUnavailable, "it must be a file, and its folder writable for this user"),
    sqlite3.SQLITE_PERM: (StoreUnavailable, "the file and its folder must be writable for this user"),
}


class SqliteStore(LogStore):
    """A store in the file `path`; see `Store`.

    patience: seconds to wait for other processes and threads, then StoreBusy.
    """

    def __init__(
        self, path: Path, *, patience: float = PATIENCE_S, migrations: Sequence[Migration] = MIGRATIONS
    ) -> None:
        self._path = path
        self._where = str(path)
        self._patience = patience
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._appended = threading.Condition()
        self._connection: sqlite3.Connection | None = None
        with self._translated():
            _create(path)
            self._inode = path.stat().st_ino
            connection = sqlite3.connect(
                path, timeout=patience, isolation_level=None, check_same_thread=False
            )
            try:
                _prepare(connection, self._where, migrations)
                self._key = _stored_key(connection, self._where)
            except BaseException:
                connection.close()
                raise
        self._connection = connection

    def drop_texts(self, *, before: float) -> int:
        """See `Store.drop_texts`."""
        with self._transaction() as connection:
            return connection.execute(_DROP_TEXTS, (before,)).rowcount

    def last(self) -> int:
        """See `Store.last`."""
        with self._held() as connection:
            return _last(connection)

    def wait(self, after: int, timeout: float) -> bool:
        """See `Store.wait`. What another process appends is seen by looking, every 50 ms."""
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
        if self._connection is None or os.getpid() != self._pid:
            return  # the connection belongs to the process that opened it, also its end
        with self._lock:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()
        self._notify()

    def _append(self, entries: Sequence[Outcome | Event]) -> list[int]:
        with self._transaction() as connection:
            seqs = _insert(connection, entries, self._where)
        self._notify()
        return seqs

    def _erase(self, ids: Sequence[str], prompt_hash: bytes | None, events: MakeEvents) -> int:
        with self._transaction() as connection:
            found = _outcomes_of(connection, ids, prompt_hash)
            connection.executemany(_ERASE, [(id_,) for id_ in found])
            _insert(connection, events(found), self._where)
        self._notify()
        return len(found)

    def _page(self, after: int, size: int) -> list[Row]:
        with self._held() as connection:
            return connection.execute(_PAGE, (after, size)).fetchall()

    def _event_rows(self) -> list[Row]:
        with self._held() as connection:
            return connection.execute(_EVENTS).fetchall()

    def _known_ids(self, ids: Sequence[str]) -> list[str]:
        marks = ", ".join("?" * len(ids))
        with self._held() as connection:
            found = connection.execute(f"SELECT id FROM log WHERE id IN ({marks})", ids)  # noqa: S608 - marks only
            return [identity for (identity,) in found]

    def _notify(self) -> None:
        with self._appended:
            self._appended.notify_all()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._held() as connection, _immediate(connection):
            self._check_in_place()
            yield connection

    def _check_in_place(self) -> None:
        """A file that was moved or replaced would take writes that nobody finds again."""
        try:
            moved = self._path.stat().st_ino != self._inode
        except FileNotFoundError:
            moved = True
        if moved:
            raise StoreUnavailable(f"{self._where} was moved, deleted or replaced while open; open it again")

    @contextlib.contextmanager
    def _held(self) -> Iterator[sqlite3.Connection]:
        """The connection, for this thread alone."""
        if os.getpid() != self._pid:  # before the lock, which a thread of the parent may hold for ever
            raise StoreUnavailable(f"{self._where} was opened before a fork; open the store in each process")
        if not self._lock.acquire(timeout=self._patience):
            raise StoreBusy(f"{self._where} was in use by other threads for {self._patience:g} s; try again")
        try:
            if self._connection is None:
                raise StoreUnavailable(f"{self._where} is closed; open the store again")
            with self._translated():
                yield self._connection
        finally:
            self._lock.release()

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise _translation(error, self._where, self._patience) from error


def _create(path: Path) -> None:
    """Make the file for its owner alone; SQLite gives its journal the same rights."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def _prepare(connection: sqlite3.Connection, where: str, migrations: Sequence[Migration]) -> None:
    connection.execute("PRAGMA secure_delete = ON")
    connection.create_function("new_key", 0, lambda: secrets.token_bytes(32))
    _check_ours(connection, where)
    (mode,) = connection.execute("PRAGMA journal_mode = DELETE").fetchone()
    if mode != "delete":
        raise StoreUnavailable(f"{where} is in {mode} mode and in use; let the other programs close it first")
    # EXTRA also syncs the folder once the journal is gone: without it a commit can be undone by a power cut.
    connection.execute("PRAGMA synchronous = EXTRA")
    if _applied(connection, where, migrations) < len(migrations):
        with _immediate(connection):
            _begin_file(connection, where)
        for position, migration in enumerate(migrations):
            with _immediate(connection):
                if _applied(connection, where, migrations) == position:
                    _apply(connection, migration)


def _stored_key(connection: sqlite3.Connection, where: str) -> bytes:
    row = connection.execute("SELECT value FROM meta WHERE name = 'key'").fetchone()
    if row is None:
        raise StoreCorrupt(f"{where} has lost the key of its prompt hashes; restore a backup")
    return bytes(row[0])


def _check_ours(connection: sqlite3.Connection, where: str) -> bool:
    """Whether the file is a store; False when it is empty. Raises StoreMismatch for anything else."""
    # In this order: another process that makes the store now sets both in one transaction.
    if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        return False
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise StoreMismatch(f"{where} is a SQLite file but not a store of semroute; name another path")
    return True


def _begin_file(connection: sqlite3.Connection, where: str) -> None:
    if not _check_ours(connection, where):  # another process may have been faster
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute("CREATE TABLE migrations (name TEXT PRIMARY KEY, applied_at REAL NOT NULL)")


def _applied(connection: sqlite3.Connection, where: str, migrations: Sequence[Migration]) -> int:
    """How many of `migrations` the file has. Raises StoreMismatch when it has others."""
    if not _check_ours(connection, where):
        return 0
    found = [name for (name,) in connection.execute("SELECT name FROM migrations ORDER BY name")]
    if found != [name for name, _ in migrations[: len(found)]]:
        raise StoreMismatch(f"{where} was made by a newer semroute; upgrade semroute, or name another path")
    return len(found)


def _apply(connection: sqlite3.Connection, migration: Migration) -> None:
    name, statements = migration
    for statement in statements:
        connection.execute(statement)
    connection.execute("INSERT INTO migrations VALUES (?, ?)", (name, clock.time()))


@contextlib.contextmanager
def _immediate(connection: sqlite3.Connection) -> Iterator[None]:
    """One transaction that takes the write lock at its start, so that it never has to give up later."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # some errors have ended it already
            connection.execute("ROLLBACK")
        raise


def _insert(connection: sqlite3.Connection, entries: Sequence[Outcome | Event], where: str) -> list[int]:
    stored = {}
    for ids in batches([entry.id for entry in entries], ID_BATCH):
        marks = ", ".join("?" * len(ids))
        for row in connection.execute(f"{_SELECT} WHERE id IN ({marks})", ids):
            stored[row[1]] = from_row(row, where)
    seqs, new = place(entries, stored, _last(connection))
    connection.executemany(_INSERT, map(to_row, new))
    return seqs


def _outcomes_of(connection: sqlite3.Connection, ids: Sequence[str], prompt_hash: bytes | None) -> list[str]:
    """The ids of the stored outcomes that have one of `ids` or the hash, in the order of the log."""
    found: dict[str, int] = {}
    for part in batches(ids, ID_BATCH):
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


def _translation(error: sqlite3.Error | OSError, where: str, patience: float) -> StoreError:
    """What `error` means to somebody who did not write this file."""
    if isinstance(error, OSError):
        return StoreUnavailable(
            f"{where} cannot be made or opened: {error.strerror}; the folder must exist and be writable"
        )
    code = getattr(error, "sqlite_errorcode", 0)  # absent when the error is the module's, not SQLite's
    kind, cure = _CURES.get(code & 0xFF, (StoreUnavailable, "look at the disk and its file system"))
    waited = f" for {patience:g} s" if kind is StoreBusy else ""
    return kind(f"{where} failed{waited} ({error}); {cure}")
