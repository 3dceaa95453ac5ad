"""The decision log in a SQLite file, which may be that of the outcomes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from semroute.databases import Row
from semroute.databases.sqlite import MAX_VARIABLES, META, PATIENCE_S, Migration, SqliteFile
from semroute.decisionlog.base import COLUMNS, PRUNE_BATCH, TableLog, to_row
from semroute.decisionlog.record import Entry

MIGRATIONS: tuple[Migration, ...] = (
    (
        "decisions_0001",
        (
            # AUTOINCREMENT: the place of an entry that was erased is never given again.
            """
            CREATE TABLE decisions (
                seq INTEGER PRIMARY KEY AUTOINCREMENT, entry TEXT NOT NULL UNIQUE, id TEXT NOT NULL,
                kind TEXT NOT NULL, time REAL NOT NULL, principal TEXT, prompt_hash BLOB, text TEXT,
                vector BLOB, body TEXT NOT NULL
            )
            """,
            "CREATE INDEX decisions_id ON decisions (id)",
            "CREATE INDEX decisions_time ON decisions (time)",
            *META,
        ),
    ),
)
"""Append only: a migration that has been released never changes. Each runs in one transaction."""

_COLUMNS = ", ".join(COLUMNS)
_INSERT = f"INSERT OR IGNORE INTO decisions ({_COLUMNS}) VALUES ({', '.join('?' * len(COLUMNS))})"  # noqa: S608
_SELECT = f"SELECT seq, {_COLUMNS} FROM decisions"  # noqa: S608 - constants
_PAGE = f"{_SELECT} WHERE kind = 'decided' AND seq > ? AND time >= ? ORDER BY seq LIMIT ?"
_LAST_PAGE = f"{_SELECT} WHERE kind = 'decided' ORDER BY seq DESC LIMIT ?"
_FORGET = "DELETE FROM decisions WHERE id IN (SELECT id FROM decisions WHERE prompt_hash = ?)"
_PRUNE = "DELETE FROM decisions WHERE seq IN (SELECT seq FROM decisions WHERE time < ? LIMIT ?)"
_NEWS = "SELECT seq, id FROM decisions WHERE seq > ? ORDER BY seq LIMIT ?"
_NEWS_BATCH = 1_000


class SqliteLog(TableLog):
    """The log in the file `path`; see `DecisionLog`. patience: seconds to wait for others, then StoreBusy."""

    def __init__(self, path: Path, *, patience: float = PATIENCE_S) -> None:
        self._file = SqliteFile(path, MIGRATIONS, patience)
        self._where, self._key = self._file.where, self._file.key

    def write(self, entries: Sequence[Entry]) -> None:
        """See `DecisionLog.write`."""
        with self._file.transaction() as connection:
            connection.executemany(_INSERT, map(to_row, entries))

    def last(self) -> int:
        """See `DecisionLog.last`."""
        with self._file.held() as connection:
            return int(connection.execute("SELECT coalesce(max(seq), 0) FROM decisions").fetchone()[0])

    def news(self, after: int) -> tuple[int, list[str]]:
        """See `DecisionLog.news`."""
        with self._file.held() as connection:
            found = connection.execute(_NEWS, (after, _NEWS_BATCH)).fetchall()
        return (found[-1][0] if found else after), list(dict.fromkeys(id_ for _, id_ in found))

    def forget(self, prompt_hash: bytes) -> int:
        """See `DecisionLog.forget`. The bytes are overwritten in the file."""
        with self._file.transaction() as connection:
            count = "SELECT count(DISTINCT id) FROM decisions WHERE prompt_hash = ?"
            found = int(connection.execute(count, (prompt_hash,)).fetchone()[0])
            connection.execute(_FORGET, (prompt_hash,))
        return found

    def forget_principal(self, principal: str) -> int:
        """See `DecisionLog.forget_principal`."""
        with self._file.transaction() as connection:
            return connection.execute("DELETE FROM decisions WHERE principal = ?", (principal,)).rowcount

    def prune(self, before: float) -> int:
        """See `DecisionLog.prune`."""
        return sum(self._pruned(before))

    def close(self) -> None:
        """See `DecisionLog.close`."""
        self._file.close()

    def _pruned(self, before: float) -> Iterator[int]:
        erased = PRUNE_BATCH
        while erased == PRUNE_BATCH:
            with self._file.transaction() as connection:
                erased = connection.execute(_PRUNE, (before, PRUNE_BATCH)).rowcount
            yield erased

    def _page(self, after: int, size: int, since: float | None) -> list[Row]:
        with self._file.held() as connection:
            return connection.execute(_PAGE, (after, since or 0.0, size)).fetchall()

    def _last_page(self, size: int) -> list[Row]:
        with self._file.held() as connection:
            return connection.execute(_LAST_PAGE, (size,)).fetchall()

    def _about(self, ids: Sequence[str]) -> list[Row]:
        rows: list[Row] = []
        with self._file.held() as connection:
            for start in range(0, len(ids), MAX_VARIABLES):
                part = ids[start : start + MAX_VARIABLES]
                marks = ", ".join("?" * len(part))
                rows += connection.execute(f"{_SELECT} WHERE id IN ({marks})", part)
        return sorted(rows, key=lambda row: int(row[0]))
