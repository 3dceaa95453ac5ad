"""The store in PostgreSQL with pgvector, for several replicas.

Three connections at most, each made when it is first needed and anew when it breaks: one writes, one reads,
one listens. So a bulk write never stands before a read.
"""

from __future__ import annotations

import time as clock
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import psycopg
from psycopg import sql
from psycopg.adapt import Buffer, Dumper, Loader
from psycopg.pq import Format
from psycopg.types import TypeInfo

from semroute.databases import Row
from semroute.databases.postgres import (
    META,
    MIGRATING,
    PATIENCE_S,
    Connection,
    Migration,
    Server,
    Session,
    migrate,
    stored_key,
)
from semroute.errors import StoreCorrupt, StoreUnavailable
from semroute.escalations.base import LogStore, MakeEvents
from semroute.escalations.outcome import Event, Outcome
from semroute.escalations.rows import COLUMNS, ERASED, batches, from_row, place, to_row

_COPY_BATCH = 10_000
_LOOK_S = 1.0
CHANNEL = "semroute_outcomes"

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
            *META,
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
        server = Server(url, patience)
        self._where = server.where

        def prepare(connection: Connection) -> None:
            migrate(connection, server.where, migrations, lambda link: _type_names(link, server.where))

        self._key = Session(server, prepare).run(
            lambda connection: stored_key(connection, server.where), last=True
        )
        self._writer, self._reader, self._listener = (
            Session(server, lambda connection: _adapt(connection, server.where)) for _ in range(3)
        )

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
                connection.execute(MIGRATING)
                return _insert(connection, entries, self._where)

        return self._writer.run(insert)

    def _erase(self, ids: Sequence[str], prompt_hash: bytes | None, events: MakeEvents) -> int:
        def erase(connection: Connection) -> int:
            with connection.transaction():
                connection.execute(MIGRATING)
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


def _type_names(connection: Connection, where: str) -> dict[str, sql.Identifier]:
    return {"vector": _vector_type(connection) or _make_vector_type(connection, where)}


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
