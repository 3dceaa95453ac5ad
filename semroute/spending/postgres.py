"""What clients have spent, in the PostgreSQL database of the outcomes or of the decision log."""

from __future__ import annotations

from collections.abc import Mapping

from semroute.databases.postgres import META, Connection, Migration, Server, Session, migrate
from semroute.spending import KEPT_DAYS

MIGRATIONS: tuple[Migration, ...] = (
    (
        "spending_0001",
        (
            """
            CREATE TABLE semroute_spending (
                day integer NOT NULL, client text NOT NULL, usd double precision NOT NULL,
                PRIMARY KEY (day, client)
            )
            """,
            *META,
        ),
    ),
)
"""Append only: a migration that has been released never changes. Each runs in one transaction."""

_ADD = """
    INSERT INTO semroute_spending AS known VALUES (%s, %s, %s)
    ON CONFLICT (day, client) DO UPDATE SET usd = known.usd + excluded.usd
"""
_PATIENCE_S = 2.0  # budgets are shared every second: another try is soon


class PostgresSpending:
    """The amounts in the database that `url` names; see `Spending`. Its table is `semroute_spending`."""

    def __init__(self, url: str) -> None:
        server = Server(url, _PATIENCE_S)
        self._session = Session(server, lambda connection: migrate(connection, server.where, MIGRATIONS))

    def add(self, day: int, usd: Mapping[str, float]) -> dict[str, float]:
        """See `Spending.add`."""
        # In one order for all: two processes that add to the same clients must not wait for each other.
        rows = [(day, client, usd[client]) for client in sorted(usd)]

        def add(connection: Connection) -> dict[str, float]:
            if rows:
                with connection.transaction(), connection.cursor() as cursor:
                    cursor.executemany(_ADD, rows)
                    cursor.execute("DELETE FROM semroute_spending WHERE day < %s", (day - KEPT_DAYS,))
            return dict(
                connection.execute("SELECT client, usd FROM semroute_spending WHERE day = %s", (day,))
            )

        return self._session.run(add)

    def close(self) -> None:
        """See `Spending.close`."""
        self._session.close()
