"""A PostgreSQL database: connections that wait for nothing without a bound, and its migrations."""

from __future__ import annotations

import os
import threading
import time as clock
from collections.abc import Callable, Mapping, Sequence
from typing import Any, LiteralString, TypeAlias, TypeVar
from urllib.parse import quote

import psycopg
from psycopg import errors, sql
from psycopg.conninfo import conninfo_to_dict

from semroute import databases
from semroute.errors import StoreBusy, StoreCorrupt, StoreError, StoreUnavailable

PATIENCE_S = 10.0
STATEMENT_TIMEOUT_S = 60.0
CONNECT_TIMEOUT_S = 5
_RETRY_DELAYS_S = (0.1, 0.3, 1.0)
MIGRATING = "SELECT pg_advisory_xact_lock(6009329616059462757)"  # "Semroute" as a number
"""Taken by who migrates, and by who writes outcomes."""

Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]
Fill: TypeAlias = Callable[[Connection], Mapping[str, sql.Composable]]
Migration = tuple[LiteralString, tuple[LiteralString, ...]]
"""A name and statements that run in one transaction."""

META: tuple[LiteralString, ...] = (
    "CREATE TABLE IF NOT EXISTS semroute_meta (name text PRIMARY KEY, value bytea NOT NULL)",
    # Made by the server from 244 random bits: so it passes through no log of statements.
    "INSERT INTO semroute_meta"
    " VALUES ('key', sha256((gen_random_uuid()::text || gen_random_uuid()::text)::bytea))"
    " ON CONFLICT DO NOTHING",
)
"""What the first migration of each family ends with: stores that share a database share its key."""

# Under the lock, before looking: to_regclass() may answer from a cache that knows no table of others yet.
_MAKE_RECORD = (
    "CREATE TABLE IF NOT EXISTS semroute_migrations"
    " (name text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())"
)

T = TypeVar("T")


class Server:
    """Where the database is, and how to speak to it."""

    def __init__(self, url: str, patience: float) -> None:
        self.patience = patience
        self._parameters = _parameters(url)
        host = self._parameters.get("host") or self._parameters.get("hostaddr") or "localhost"
        port = self._parameters.get("port") or 5432
        self.where = f"postgresql://{host}:{port}/{self._parameters.get('dbname') or ''}"
        self._secrets = sorted(
            {
                form
                for name, value in self._parameters.items()
                if value and ("password" in name or "secret" in name)
                for form in (str(value), quote(str(value), safe=""))
            },
            key=len,
            reverse=True,
        )

    def connect(self) -> Connection:
        """A connection that cannot wait for ever for anything, and that tells of a commit when it is kept."""
        connection: Connection = psycopg.connect(**self._parameters, autocommit=True)
        # Whoever has waited for a lock sees what was committed meanwhile.
        connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
        try:
            settings = {
                "statement_timeout": f"{STATEMENT_TIMEOUT_S * 1000:.0f}",
                "lock_timeout": f"{self.patience * 1000:.0f}",
                "idle_in_transaction_session_timeout": f"{STATEMENT_TIMEOUT_S * 1000:.0f}",
            }
            for setting in settings.items():
                connection.execute("SELECT set_config(%s, %s, false)", setting)
            connection.execute(
                "SELECT set_config('synchronous_commit', 'on', false)"
                " WHERE current_setting('synchronous_commit') = 'off'"
            )
        except BaseException:
            connection.close()
            raise
        return connection

    def translation(self, error: psycopg.Error) -> StoreError:
        """What `error` means to an operator, without a secret and without a row that was being written."""
        said = " ".join((error.diag.message_primary or str(error)).split())
        for secret in self._secrets:
            said = said.replace(secret, "***")
        match error:
            case errors.LockNotAvailable() | errors.QueryCanceled() | errors.DeadlockDetected():
                return StoreBusy(f"{self.where} was held by others for too long ({said}); try again")
            case errors.ReadOnlySqlTransaction():
                return StoreUnavailable(f"{self.where} is read-only; name the primary server")
            case errors.InsufficientPrivilege():
                return StoreUnavailable(
                    f"{self.where} refuses ({said}); grant this user CREATE on the schema, or the tables"
                )
            case errors.UndefinedTable() | errors.UndefinedColumn() | errors.UndefinedObject():
                return StoreCorrupt(f"{self.where} lacks what semroute made there ({said}); restore a backup")
            case errors.DataCorrupted() | errors.IndexCorrupted():
                return StoreCorrupt(f"{self.where} is damaged ({said}); restore a backup")
            case _:
                return StoreUnavailable(f"{self.where} does not serve ({said}); check server and password")


class Session:
    """One connection for one thread at a time, made anew when it breaks."""

    def __init__(self, server: Server, prepare: Callable[[Connection], None] | None = None) -> None:
        """`prepare` is done with each new connection."""
        self._server = server
        self._prepare = prepare
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._closed = False

    def run(self, work: Callable[[Connection], T], *, last: bool = False) -> T:
        """Do `work`, once more after each break of the connection; `last` closes the session afterwards.

        `work` may be repeated although it was done, when the connection broke while it committed.
        """
        if os.getpid() != self._pid:  # before the lock, which a thread of the parent may hold for ever
            raise StoreUnavailable(f"{self._server.where} was opened before a fork; open it in each process")
        # A whole statement of another thread may be before us, not only its wait for a lock.
        if not self._lock.acquire(timeout=self._server.patience + STATEMENT_TIMEOUT_S):
            raise StoreBusy(f"{self._server.where} was in use by other threads for too long; try again")
        try:
            return self._with_retries(work)
        finally:
            if last:
                self._closed = True
                self._drop()
            self._lock.release()

    def close(self) -> None:
        """Close the connection once the work in progress is done."""
        self._closed = True  # read by whoever holds the lock: no new connection is made from here on
        if os.getpid() == self._pid:
            with self._lock:
                self._drop()

    def _with_retries(self, work: Callable[[Connection], T]) -> T:
        delays = iter(_RETRY_DELAYS_S)
        while True:
            if self._closed:
                raise StoreUnavailable(f"{self._server.where} is closed; open the store again")
            try:
                return work(self._connected())
            except psycopg.Error as error:
                lost = _is_loss(error)
                delay = next(delays, None) if lost else None
                if lost:
                    self._drop()
                if delay is None:
                    # Not chained: what the driver says may hold what the user wrote into the URL.
                    raise self._server.translation(error) from None
            clock.sleep(delay)

    def _connected(self) -> Connection:
        if self._connection is None:
            connection = self._server.connect()
            try:
                if self._prepare is not None:
                    self._prepare(connection)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _is_loss(error: psycopg.Error) -> bool:
    """Whether `error` is of the connection, not of what was asked: it failed, or the server goes or comes."""
    if not isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return False
    return error.sqlstate is None or error.sqlstate.startswith(("08", "57P"))


def _parameters(url: str) -> dict[str, Any]:
    """The parts of `url`, and limits for what it leaves open. Raises StoreUnavailable, quoting nothing."""
    credentials = url.partition("://")[2].rpartition("@")[0]
    if "@" in credentials or "/" in credentials:
        # The driver would cut such a URL elsewhere and print a piece of the password as a host or a port.
        raise StoreUnavailable(
            "a PostgreSQL URL has an @ or / that may belong to the password; write %40 for @ and %2F for /"
        )
    try:
        given: Mapping[str, Any] = conninfo_to_dict(url)
    except psycopg.Error:
        raise StoreUnavailable(
            "a PostgreSQL URL cannot be read; write postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
        ) from None
    limits = {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 30_000,
        "application_name": "semroute",
    }
    return {**limits, **given}


def migrate(
    connection: Connection, where: str, migrations: Sequence[Migration], fill: Fill | None = None
) -> None:
    """Run those of `migrations` that the database lacks; of several processes one does it.

    fill: gives what stands for {names} in the statements. Raises StoreMismatch.
    """
    while (done := _applied(connection, where, migrations)) < len(migrations):
        with connection.transaction():
            connection.execute(MIGRATING)  # replicas that start together take turns
            connection.execute(_MAKE_RECORD)
            if _recorded(connection, where, migrations) == done:
                _apply(connection, migrations[done], fill)


def _applied(connection: Connection, where: str, migrations: Sequence[Migration]) -> int:
    """How many of `migrations` the database has. Raises StoreMismatch when it has others."""
    if connection.execute("SELECT to_regclass('semroute_migrations')").fetchone() == (None,):
        return 0
    return _recorded(connection, where, migrations)


def _recorded(connection: Connection, where: str, migrations: Sequence[Migration]) -> int:
    names = connection.execute("SELECT name FROM semroute_migrations").fetchall()
    return databases.done((name for (name,) in names), migrations, where, "database")


def _apply(connection: Connection, migration: Migration, fill: Fill | None) -> None:
    name, statements = migration
    names = {} if fill is None else fill(connection)
    for statement in statements:
        connection.execute(sql.SQL(statement).format(**names))
    connection.execute("INSERT INTO semroute_migrations (name) VALUES (%s)", (name,))


def stored_key(connection: Connection, where: str) -> bytes:
    """The key of prompt hashes. Raises StoreCorrupt."""
    row = connection.execute("SELECT value FROM semroute_meta WHERE name = 'key'").fetchone()
    if row is None:
        raise StoreCorrupt(f"{where} has lost the key of its prompt hashes; restore a backup")
    return bytes(row[0])
