"""What our stores need of a database: to open it, to bring its tables up to date, to say what failed.

A database holds the tables of several stores: outcomes, the decision log. Each has its own migrations, a
family: `0001_log`, `0002_...` are those of the outcomes, `decisions_0001`, ... those of the decision log. A
store looks at those of its family only, so that stores may share a file or a schema, made in any order.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self, TypeAlias

from semroute.errors import StoreMismatch

__all__ = ["Kept", "Row", "done", "pages"]

Row: TypeAlias = tuple[Any, ...]
_PAGE = 1_000  # rows


class Kept(ABC):
    """Something kept in a file or a database, that is closed in the end. `_where` names it in errors."""

    _where: str
    _key: bytes

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._where!r})"

    @property
    def key(self) -> bytes:
        """The secret of its prompt hashes, 32 bytes, made with it."""
        return self._key

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Give the file or the connections back."""


def pages(page: Callable[[int, int], list[Row]], after: int, limit: int | None) -> Iterator[list[Row]]:
    """The rows after the place `after`, at most `limit`, a page at a time.

    page: gives the first so many rows after a place, which stands first in each row. Nothing is held between
    two pages: a slow reader hinders no writer.
    """
    left = limit
    while left is None or left > 0:
        size = _PAGE if left is None else min(left, _PAGE)
        rows = page(after, size)
        yield rows
        if len(rows) < size:
            return
        after = rows[-1][0]
        left = None if left is None else left - size


def done(found: Iterable[str], migrations: Sequence[tuple[str, object]], where: str, other: str) -> int:
    """How many of `migrations`, all of one family, are among the names `found` in the database `where`.

    other: what one may name instead, for the message. Raises StoreMismatch when the database has others.
    """
    names = [name for name, _ in migrations]
    family = _family(names[0])
    ours = sorted(name for name in found if _family(name) == family)
    if ours != names[: len(ours)]:
        raise StoreMismatch(
            f"{where} was made by a newer semroute; upgrade semroute, or name another {other}"
        )
    return len(ours)


def _family(name: str) -> str:
    """The letters that a migration's name begins with; none for the outcomes."""
    return "" if name[:1].isdigit() else name.partition("_")[0]
