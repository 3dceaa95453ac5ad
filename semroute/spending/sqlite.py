"""What clients have spent, in the SQLite file of the outcomes or of the decision log."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from semroute.databases.sqlite import META, Migration, SqliteFile
from semroute.spending import KEPT_DAYS

MIGRATIONS: tuple[Migration, ...] = (
    (
        "spending_0001",
        (
            """
            CREATE TABLE spending (
                day INTEGER NOT NULL, client TEXT NOT NULL, usd REAL NOT NULL, PRIMARY KEY (day, client)
            ) WITHOUT ROWID
            """,
            *META,
        ),
    ),
)
"""Append only: a migration that has been released never changes. Each runs in one transaction."""

_ADD = """
    INSERT INTO spending VALUES (?, ?, ?)
    ON CONFLICT (day, client) DO UPDATE SET usd = usd + excluded.usd
"""
_PATIENCE_S = 2.0  # budgets are shared every second: another try is soon


class SqliteSpending:
    """The amounts in the file `path`; see `Spending`."""

    def __init__(self, path: Path) -> None:
        self._file = SqliteFile(path, MIGRATIONS, _PATIENCE_S)

    def add(self, day: int, usd: Mapping[str, float]) -> dict[str, float]:
        """See `Spending.add`."""
        if usd:
            with self._file.transaction() as connection:
                connection.executemany(_ADD, [(day, client, amount) for client, amount in usd.items()])
                connection.execute("DELETE FROM spending WHERE day < ?", (day - KEPT_DAYS,))
        with self._file.held() as connection:
            return dict(connection.execute("SELECT client, usd FROM spending WHERE day = ?", (day,)))

    def close(self) -> None:
        """See `Spending.close`."""
        self._file.close()
