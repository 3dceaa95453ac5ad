"""Where outcomes are kept: an append-only log in SQLite or PostgreSQL, and what the log means.

Beside the store stand what is learnt from it (`trend`, `estimate`), what the router holds of it (`memory`)
and graded prompts from files (`importing`).

    sqlite:PATH          a file of its own, for one machine; the default
    postgresql://...     for several replicas (extra `postgres`, and pgvector in the server)

A store keeps and hands out; it decides nothing and is in nobody's way: routing never waits for it. Importing
this package loads no driver and no numpy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from semroute.errors import StoreUnavailable, install_extra
from semroute.escalations.outcome import (
    Entry,
    Event,
    EventKind,
    Forgotten,
    Outcome,
    Record,
    prompt_hash,
)
from semroute.escalations.replay import replay

__all__ = [
    "CASCADE",
    "OPERATOR",
    "OWN_NAMES",
    "Entry",
    "Event",
    "EventKind",
    "Forgotten",
    "Outcome",
    "Record",
    "Store",
    "is_there",
    "open_store",
    "prompt_hash",
    "replay",
]


class Store(Protocol):
    """A log of outcomes and events. Safe to use from several threads; after a fork, open it anew.

    Each method raises StoreUnavailable, StoreBusy, StoreCorrupt; none waits without a bound.
    """

    @property
    def key(self) -> bytes:
        """The random 32 bytes for `prompt_hash()`, made with the store, the same in every replica."""
        ...

    def append(self, outcomes: Sequence[Outcome]) -> list[int]:
        """Store all of `outcomes` or none; durable on return.

        Returns the sequence number of each, in their order. An id that is stored with the same content, or
        was forgotten, changes nothing and keeps its number: appending again after an error is always right.
        Raises OutcomeInvalid, and OutcomeConflict for an id with other content.
        """
        ...

    def append_event(self, event: Event) -> int:
        """Store `event`, by the same rules; any kind but `forget`. Returns its sequence number."""
        ...

    def forget(
        self,
        *,
        by: str,
        time: float,
        ids: Sequence[str] = (),
        prompt_hash: bytes | None = None,
        why: str | None = None,
    ) -> int:
        """Erase the outcomes that have one of `ids` or this `prompt_hash`, and say so in an event.

        All that is left of each is its id at its place. `by` and `time` are those of the event. Returns how
        many were erased; with 0 there is no event. Raises OutcomeInvalid.
        """
        ...

    def drop_texts(self, *, before: float) -> int:
        """Erase the prompt texts of outcomes whose time is below `before`, and nothing else of them.

        Texts have no effect on what the log means, so there is no event. Returns how many were erased.
        """
        ...

    def read(self, after: int = 0, limit: int | None = None) -> Iterator[Record]:
        """The records after sequence number `after`, in order, at most `limit`.

        Reads in batches and holds no lock between them: a slow reader hinders no writer.
        """
        ...

    def events(self) -> list[tuple[int, Event]]:
        """Every event with its sequence number, in order; they say which outcomes count."""
        ...

    def known(self, ids: Sequence[str]) -> set[str]:
        """Those of `ids` that are stored, or were."""
        ...

    def last(self) -> int:
        """The highest sequence number, 0 when nothing is stored. One look-up."""
        ...

    def wait(self, after: int, timeout: float) -> bool:
        """Wait at most `timeout` seconds for a record after `after`. Returns whether there is one."""
        ...

    def close(self) -> None:
        """Give the file or the connections back. Any other call then raises StoreUnavailable."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


OPERATOR = "operator"
"""The principal who runs the router: believed without another, and without a quota."""

CASCADE = "cascade"
"""The principal of what a cascade says of an answer that it rejects: believed without another and without a
quota, and never louder than the others together, since whoever writes a prompt can provoke a bad answer."""


OWN_NAMES = frozenset({OPERATOR, CASCADE})
"""The principals that nobody else may speak as."""


def is_there(spec: str, *, root: Path) -> bool:
    """Whether the store that `spec` names can hold anything: a file that is yet to be made does not."""
    return not spec.startswith("sqlite:") or (root / spec.removeprefix("sqlite:")).exists()


def open_store(spec: str, *, root: Path) -> Store:
    """Open the store that `spec` names, as it is written in YAML, and make it where there is none.

    A relative path is taken from `root`. Raises StoreUnavailable, StoreBusy, StoreCorrupt, StoreMismatch.
    No error holds the password of a URL.
    """
    if spec.startswith("sqlite:") and spec != "sqlite:":
        from semroute.escalations.sqlite import SqliteStore

        return SqliteStore(root / spec.removeprefix("sqlite:"))
    if spec.startswith(("postgresql://", "postgres://")):
        try:
            from semroute.escalations.postgres import PostgresStore
        except ImportError as error:
            raise StoreUnavailable(
                f"a PostgreSQL store needs psycopg, which does not load ({error}); "
                + install_extra("postgres")
            ) from error
        return PostgresStore(spec)
    raise StoreUnavailable("no such kind of store; write sqlite:PATH or postgresql://USER@HOST/DATABASE")
