"""One SQLite file for the processes of one machine: opened, migrated, held by one thread at a time.

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
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path

from semroute.databases import done
from semroute.errors import (
    StoreBusy,
    StoreCorrupt,
    StoreError,
    StoreMismatch,
    StoreReplaced,
    StoreUnavailable,
)

APPLICATION_ID = 0x534D5254  # "SMRT", at byte 68 of the file
PATIENCE_S = 10.0
MAX_VARIABLES = 500  # in a statement; SQLite before 3.32 takes 999

Migration = tuple[str, tuple[str, ...]]
"""A name and statements that run in one transaction. In them `new_key()` makes 32 random bytes."""

META: tuple[str, ...] = (
    "CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value BLOB NOT NULL)",
    "INSERT OR IGNORE INTO meta VALUES ('key', new_key())",
)
"""What the first migration of each family ends with: stores that share a file share its key."""

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


_open_files: weakref.WeakSet[SqliteFile] = weakref.WeakSet()


_held_at_fork: list[SqliteFile] = []


def _pause() -> None:
    """Before a fork: let no connection be in the middle of something.

    A child inherits what SQLite believes to be locked in its process: a read that another thread of the
    parent had begun would never end there, and nobody could write.
    """
    _held_at_fork.extend(file for file in list(_open_files) if file.lock.acquire(timeout=file.patience))


def _go_on() -> None:
    while _held_at_fork:
        _held_at_fork.pop().lock.release()


def _abandon_connections() -> None:
    """In a forked child: never end the connections of the parent, not even with the process.

    One that was in a transaction at the fork would roll it back into the file, after the parent went on.
    """
    import ctypes

    for file in list(_open_files):
        if file.connection is not None:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(file.connection))
    _held_at_fork.clear()  # the locks stay as they are: nobody uses these files here


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_pause, after_in_parent=_go_on, after_in_child=_abandon_connections)


class SqliteFile:
    """A connection to the file `path`, made where there is none. Safe to use from several threads.

    patience: seconds to wait for other processes and threads, then StoreBusy. Raises StoreError.
    """

    def __init__(self, path: Path, migrations: Sequence[Migration], patience: float = PATIENCE_S) -> None:
        self.where = str(path)
        self._path = path
        self.patience = patience
        self._pid = os.getpid()
        self.lock = threading.Lock()
        self.connection: sqlite3.Connection | None = None
        with self._translated():
            _create(path)
            self._inode = path.stat().st_ino
            connection = sqlite3.connect(
                path, timeout=patience, isolation_level=None, check_same_thread=False
            )
            try:
                _prepare(connection, self.where, migrations)
                self.key = _stored_key(connection, self.where)
            except BaseException:
                connection.close()
                raise
        self.connection = connection
        _open_files.add(self)

    def close(self) -> None:
        """Give the file back. A transaction in progress is finished first."""
        if self.connection is None or os.getpid() != self._pid:
            return  # the connection belongs to the process that opened it, also its end
        with self.lock:
            connection, self.connection = self.connection, None
            if connection is not None:
                connection.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One transaction that can write, for this thread alone."""
        with self.held() as connection, _immediate(connection):
            self.check_in_place()
            yield connection

    def check_in_place(self) -> None:
        """A file that was moved or replaced would take writes that nobody finds again."""
        try:
            moved = self._path.stat().st_ino != self._inode
        except FileNotFoundError:
            moved = True
        if moved:
            raise StoreReplaced(f"{self.where} was moved, deleted or replaced while open; open it again")

    @contextlib.contextmanager
    def held(self) -> Iterator[sqlite3.Connection]:
        """The connection, for this thread alone, outside a transaction."""
        if os.getpid() != self._pid:  # before the lock, which a thread of the parent may hold for ever
            raise StoreUnavailable(f"{self.where} was opened before a fork; open the store in each process")
        if not self.lock.acquire(timeout=self.patience):
            raise StoreBusy(f"{self.where} was in use by other threads for {self.patience:g} s; try again")
        try:
            if self.connection is None:
                raise StoreUnavailable(f"{self.where} is closed; open the store again")
            with self._translated():
                yield self.connection
        finally:
            self.lock.release()

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise _translation(error, self.where, self.patience) from error


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
    names = connection.execute("SELECT name FROM migrations").fetchall()
    return done((name for (name,) in names), migrations, where, "path")


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
