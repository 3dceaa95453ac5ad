"""The store in PostgreSQL with pgvector, for several replicas.

Three connections at most, each made when it is first needed and anew when it breaks: one writes, one reads,
one listens. So a bulk write never stands before a read.
"""

from __future__ import annotations

import os
import threading
import time as clock
from collections.abc import Callable, Mapping, Sequence
from typing import Any, LiteralString, TypeAlias, TypeVar
from urllib.parse import quote

import numpy as np
import psycopg
from psycopg import errors, sql
from psycopg.adapt import Buffer, Dumper, Loader
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import Format
from psycopg.types import TypeInfo

from semroute.errors import StoreBusy, StoreCorrupt, StoreError, StoreMismatch, StoreUnavailable
from semroute.escalations.base import LogStore, MakeEvents
from semroute.escalations.outcome import Event, Outcome
from semroute.escalations.rows import COLUMNS, ERASED, Row, batches, from_row, place, to_row

PATIENCE_S = 10.0
STATEMENT_TIMEOUT_S = 60.0
CONNECT_TIMEOUT_S = 5
_COPY_BATCH = 10_000
_LOOK_S = 1.0
_RETRY_DELAYS_S = (0.1, 0.3, 1.0)
CHANNEL = "semroute_outcomes"

Connection: TypeAlias = psycopg.Connection[Row]
Migration = tuple[LiteralString, tuple[LiteralString, ...]]
MIGRATIONS: tuple[Migration, ...] = (
    (
        "0001_log",
        (
            """
            CREATE TABLE semroute_log (
                seq bigint PRIMARY KEY, id text NOT NULL UNIQUE, kind text NOT NULL, time double precision,
                principal text, model text, score double precision, vector {vector}, encoder text,
                prompt_hash bytea, origin text, decision_id text, route text, escalated_to text, why text,
                text text, features bytea, body text
            )
            """,
            "CREATE TABLE semroute_meta (name text PRIMARY KEY, value bytea NOT NULL)",
            # Made by the server from 244 random bits: so it passes through no log of statements.
            "INSERT INTO semroute_meta"
            " VALUES ('key', sha256((gen_random_uuid()::text || gen_random_uuid()::text)::bytea))",
        ),
    ),
    (
        "0002_events",
        (
            "CREATE INDEX semroute_log_events ON semroute_log (seq)"
            " WHERE kind NOT IN ('outcome', 'forgotten')",
        ),
    ),
)
"""Append only: a migration that has been released never changes. Each runs in one transaction."""

_TYPES = (
    *("int8", "text", "text", "float8", "text", "text", "float8", "vector", "text", "bytea"),
    *("text", "text", "text", "text", "text", "text", "bytea", "text"),
)
_NAMES = sql.SQL(", ").join(map(sql.Identifier, COLUMNS))
_SELECT = sql.SQL("SELECT {} FROM semroute_log").format(_NAMES)
_PAGE = sql.SQL("{} WHERE seq > %s ORDER BY seq LIMIT %s").format(_SELECT)
_BY_ID = sql.SQL("{} WHERE id = ANY(%s)").format(_SELECT)
_EVENTS = sql.SQL("{} WHERE kind NOT IN ('outcome', 'forgotten') ORDER BY seq").format(_SELECT)
_KNOWN = "SELECT id FROM semroute_log WHERE id = ANY(%s)"
_COPY = sql.SQL("COPY semroute_log ({}) FROM STDIN (FORMAT BINARY)").format(_NAMES)
_ERASE = sql.SQL("UPDATE semroute_log SET kind = 'forgotten', {} WHERE id = ANY(%s)").format(
    sql.SQL(", ").join(sql.SQL("{} = NULL").format(sql.Identifier(name)) for name in ERASED)
)
_FIND = """
    SELECT id FROM semroute_log
    WHERE kind = 'outcome' AND (id = ANY(%s) OR prompt_hash = %s) ORDER BY seq
"""
_DROP_TEXTS = "UPDATE semroute_log SET text = NULL WHERE text IS NOT NULL AND time < %s"
_LOCK = "SELECT pg_advisory_xact_lock(6009329616059462757)"  # "Semroute" as a number; one lock in a database
_LAST = "SELECT coalesce(max(seq), 0) FROM semroute_log"

T = TypeVar("T")


class PostgresStore(LogStore):
    """A store in the database that `url` names; see `Store`.

    Its tables stand in the first schema of the search path: `semroute_log`, `semroute_meta` and
    `semroute_migrations`. patience: seconds to wait for other writers, then StoreBusy.
    """

    def __init__(
        self, url: str, *, patience: float = PATIENCE_S, migrations: Sequence[Migration] = MIGRATIONS
    ) -> None:
        server = _Server(url, patience)
        self._where = server.where
        self._key = _Session(server, migrations).run(
            lambda connection: _stored_key(connection, server.where), last=True
        )
        self._writer, self._reader, self._listener = (_Session(server) for _ in range(3))

    def drop_texts(self, *, before: float) -> int:
        """See `Store.drop_texts`."""
        return self._writer.run(lambda connection: connection.execute(_DROP_TEXTS, (before,)).rowcount)

    def last(self) -> int:
        """See `Store.last`."""
        return self._reader.run(_last)

    def wait(self, after: int, timeout: float) -> bool:
        """See `Store.wait`. A notification ends the wait; a look every second makes up for a lost one."""
        deadline = clock.monotonic() + timeout

        def listen(connection: Connection) -> bool:
            connection.execute(f"LISTEN {CHANNEL}")  # before looking: nothing falls between the two
            left = deadline - clock.monotonic()
            if _last(connection) > after:
                return True
            for _ in connection.notifies(timeout=max(0.0, min(left, _LOOK_S)), stop_after=1):
                pass
            return False

        while not self._listener.run(listen):
            if clock.monotonic() >= deadline:
                return False
        return True

    def close(self) -> None:
        """See `Store.close`. What other threads have begun is finished first."""
        for session in (self._writer, self._reader, self._listener):
            session.close()

    def _append(self, entries: Sequence[Outcome | Event]) -> list[int]:
        def insert(connection: Connection) -> list[int]:
            with connection.transaction():
                # Held until the commit is visible: so numbers are given in the order of the commits, and who
                # has read up to n never finds a lower number later. A sequence of the server cannot do that.
                connection.execute(_LOCK)
                return _insert(connection, entries, self._where)

        return self._writer.run(insert)

    def _erase(self, ids: Sequence[str], prompt_hash: bytes | None, events: MakeEvents) -> int:
        def erase(connection: Connection) -> int:
            with connection.transaction():
                connection.execute(_LOCK)
                found = [id_ for (id_,) in connection.execute(_FIND, (list(ids), prompt_hash))]
                connection.execute(_ERASE, (found,))
                _insert(connection, events(found), self._where)
            return len(found)

        return self._writer.run(erase)

    def _page(self, after: int, size: int) -> list[Row]:
        return self._reader.run(lambda connection: _rows(connection, _PAGE, (after, size)))

    def _event_rows(self) -> list[Row]:
        return self._reader.run(lambda connection: _rows(connection, _EVENTS, ()))

    def _known_ids(self, ids: Sequence[str]) -> list[str]:
        found = self._reader.run(lambda connection: connection.execute(_KNOWN, (list(ids),)).fetchall())
        return [identity for (identity,) in found]


class _Server:
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


class _Session:
    """One connection for one thread at a time, made anew when it breaks."""

    def __init__(self, server: _Server, migrations: Sequence[Migration] = ()) -> None:
        self._server = server
        self._migrations = migrations
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
                if self._migrations:
                    _migrate(connection, self._server.where, self._migrations)
                _adapt(connection, self._server.where)
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


def _migrate(connection: Connection, where: str, migrations: Sequence[Migration]) -> None:
    while (done := _applied(connection, where, migrations)) < len(migrations):
        with connection.transaction():
            connection.execute(_LOCK)  # replicas that start together take turns
            if _applied(connection, where, migrations) == done:
                _apply(connection, where, migrations[done])


def _applied(connection: Connection, where: str, migrations: Sequence[Migration]) -> int:
    """How many of `migrations` the database has. Raises StoreMismatch when it has others."""
    if connection.execute("SELECT to_regclass('semroute_migrations')").fetchone() == (None,):
        return 0
    found = [name for (name,) in connection.execute("SELECT name FROM semroute_migrations ORDER BY name")]
    if found != [name for name, _ in migrations[: len(found)]]:
        raise StoreMismatch(
            f"{where} was made by a newer semroute; upgrade semroute, or name another database"
        )
    return len(found)


def _apply(connection: Connection, where: str, migration: Migration) -> None:
    name, statements = migration
    connection.execute(
        "CREATE TABLE IF NOT EXISTS semroute_migrations"
        " (name text PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())"
    )
    vector = _vector_type(connection) or _make_vector_type(connection, where)
    for statement in statements:
        connection.execute(sql.SQL(statement).format(vector=vector))
    connection.execute("INSERT INTO semroute_migrations (name) VALUES (%s)", (name,))


def _vector_type(connection: Connection) -> sql.Identifier | None:
    """The full name of pgvector's type, which need not be in the search path; None without pgvector."""
    row = connection.execute(
        "SELECT nspname FROM pg_extension JOIN pg_namespace ON extnamespace = pg_namespace.oid"
        " WHERE extname = 'vector'"
    ).fetchone()
    return sql.Identifier(row[0], "vector") if row else None


def _make_vector_type(connection: Connection, where: str) -> sql.Identifier:
    try:
        with connection.transaction():
            connection.execute("CREATE EXTENSION vector")
    except psycopg.Error as error:
        reason = (error.diag.message_primary or type(error).__name__).rstrip(".")
        raise StoreUnavailable(
            f"{where} lacks pgvector and it cannot be made ({reason}); install the package pgvector on the"
            " server and let an administrator run CREATE EXTENSION vector in this database"
        ) from error
    return _known(_vector_type(connection), where)


def _adapt(connection: Connection, where: str) -> None:
    """Let `vector` columns take and give little-endian float32 bytes."""
    vector = _known(TypeInfo.fetch(connection, _known(_vector_type(connection), where)), where)
    vector.register(connection)
    dumper = type("_VectorDumper", (_VectorDumper,), {"oid": vector.oid})
    connection.adapters.register_dumper(None, dumper)
    connection.adapters.register_loader(vector.oid, _VectorLoader)


def _known(found: T | None, where: str) -> T:
    if found is None:
        raise StoreCorrupt(f"{where} has lost the type vector of pgvector; restore a backup")
    return found


class _VectorDumper(Dumper):
    """Little-endian float32 bytes to what pgvector reads: two 16-bit words, big-endian float32."""

    format = Format.BINARY

    def dump(self, obj: bytes) -> Buffer:
        floats = np.frombuffer(obj, dtype="<f4")
        return len(floats).to_bytes(2, "big") + b"\0\0" + floats.astype(">f4").tobytes()


class _VectorLoader(Loader):
    """The way back."""

    format = Format.BINARY

    def load(self, data: Buffer) -> bytes:
        return np.frombuffer(data, dtype=">f4", offset=4).astype("<f4").tobytes()


def _stored_key(connection: Connection, where: str) -> bytes:
    row = connection.execute("SELECT value FROM semroute_meta WHERE name = 'key'").fetchone()
    if row is None:
        raise StoreCorrupt(f"{where} has lost the key of its prompt hashes; restore a backup")
    return bytes(row[0])


def _insert(connection: Connection, entries: Sequence[Outcome | Event], where: str) -> list[int]:
    """Write `entries` under the lock. Returns their sequence numbers."""
    found = _rows(connection, _BY_ID, ([entry.id for entry in entries],))
    stored = {row[1]: from_row(row, where) for row in found}
    seqs, new = place(entries, stored, _last(connection))
    for records in batches(new, _COPY_BATCH):  # a statement has a time limit, a bulk import may need longer
        with connection.cursor().copy(_COPY) as copy:
            copy.set_types(_TYPES)
            for record in records:
                copy.write_row(to_row(record))
    if new:
        connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, str(new[-1].seq)))
    return seqs


def _rows(connection: Connection, query: sql.Composed, parameters: Sequence[object]) -> list[Row]:
    with connection.cursor(binary=True) as cursor:
        return cursor.execute(query, parameters).fetchall()


def _last(connection: Connection) -> int:
    row = connection.execute(_LAST).fetchone()
    return int(row[0]) if row else 0
