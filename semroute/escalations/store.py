"""The seam between outcomes and where they are kept: one protocol, opened by its address."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from semroute.errors import StoreUnavailable
from semroute.escalations.outcome import Event, Outcome, Record


class Store(Protocol):
    """An append-only, numbered log of outcomes and events. Safe to use from several threads and processes."""

    @property
    def key(self) -> bytes:
        """The secret of `prompt_hash`, made with the store and never exported."""
        ...

    def append(self, entries: Sequence[Outcome | Event]) -> int:
        """Store all or none, durably when this returns; how many were new (an id is stored once).

        Raises StoreError.
        """
        ...

    def read(self, after: int = 0) -> Iterator[Record]:
        """The records with a number above `after`, in order. Raises StoreError."""
        ...

    def last(self) -> int:
        """The highest number, 0 without a record. Raises StoreError."""
        ...

    def wait(self, after: int, seconds: float) -> bool:
        """Whether something newer than `after` is there, waiting up to `seconds`. Raises StoreError."""
        ...

    def forget(self, event: Event) -> int:
        """Erase vector, hash and text of the outcomes of `event.ids`, store the event; their number."""
        ...

    def close(self) -> None:
        """Let go of the store; what was appended is safe already."""
        ...


def is_there(address: str, *, root: Path) -> bool:
    """Whether there is something to read: a file that is yet to be made holds nothing."""
    kind, _, rest = address.partition(":")
    return kind != "sqlite" or (root / rest).exists()


def open_store(address: str, *, root: Path) -> Store:
    """Open the store at `address`: sqlite:PATH, the path taken from `root`, or postgresql://...

    Raises StoreError.
    """
    kind, _, rest = address.partition(":")
    if kind == "sqlite" and rest:
        from semroute.escalations.sqlite import SqliteStore

        return SqliteStore(root / rest)
    if kind in {"postgresql", "postgres"}:
        raise StoreUnavailable("this version stores outcomes in SQLite alone: give sqlite:PATH")
    raise StoreUnavailable(f"there is no store {kind!r}: give sqlite:PATH or postgresql://HOST/DATABASE")
