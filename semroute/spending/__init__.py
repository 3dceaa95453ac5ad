"""What clients have spent, kept where the processes of one service share it.

`Budgets` of the server count; here the counts of a day are added up, beside the outcomes or the decision log.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from semroute.errors import StoreUnavailable, install_extra

__all__ = ["KEPT_DAYS", "Spending", "open_spending"]

KEPT_DAYS = 31
"""So long the amounts of a day are kept."""


class Spending(Protocol):
    """Amounts by day and client. Safe to use from several threads and processes."""

    def add(self, day: int, usd: Mapping[str, float]) -> dict[str, float]:
        """Add to what clients have spent on a day, and say what all of them have.

        day: days since 1970, UTC. usd: US dollars by the name of the client; may be empty.

        All is added or nothing. Where a connection breaks in the commit, it may be added twice: a budget then
        ends too soon and never too late. Raises StoreUnavailable, StoreBusy, StoreCorrupt.
        """
        ...

    def close(self) -> None:
        """Give the file or the connection back."""
        ...


def open_spending(spec: str, *, root: str | os.PathLike[str]) -> Spending:
    """Open the store that `spec` names: sqlite:PATH, taken from `root`, or postgresql://...

    Raises StoreUnavailable, StoreBusy, StoreCorrupt, StoreMismatch. No error holds the password of a URL.
    """
    kind, _, path = spec.partition(":")
    if kind == "sqlite" and path:
        from semroute.spending.sqlite import SqliteSpending

        return SqliteSpending(Path(root, path))
    try:
        from semroute.spending.postgres import PostgresSpending
    except ImportError as error:
        raise StoreUnavailable(
            f"a PostgreSQL store needs psycopg, which does not load ({error}); " + install_extra("postgres")
        ) from error
    return PostgresSpending(spec)
