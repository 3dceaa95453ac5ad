"""Every decision, what it cost and what came of it: written beside the routing, read by people and programs.

    sqlite:PATH          a file, for one machine; may be the file of the outcomes
    postgresql://...     for several replicas (extra `postgres`); may be the database of the outcomes
    jsonl:PATH           a file of JSON Lines, for one machine

`LogWriter` is the listener that writes, `DecisionLog` what it writes to, `LoggedDecision` what is read.
`savings` says what the routing saved. No prompt text is stored unless the settings ask for it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from semroute.decisionlog.record import Entry, LoggedDecision, Remembered
from semroute.errors import StoreUnavailable, install_extra

__all__ = ["DecisionLog", "Entry", "LoggedDecision", "Remembered", "is_there", "open_log"]


class DecisionLog(Protocol):
    """A log of decisions. Safe to use from several threads and processes; after a fork, open it anew.

    Each method raises StoreUnavailable, StoreBusy, StoreCorrupt; none waits without a bound.
    """

    @property
    def key(self) -> bytes:
        """The random 32 bytes for `prompt_hash()`, made with the log."""
        ...

    def write(self, entries: Sequence[Entry]) -> None:
        """Store all of `entries` or none, durably; those that are stored already once."""
        ...

    def read(self, since: float | None = None, limit: int | None = None) -> Iterator[LoggedDecision]:
        """The decisions in the order of the log, at most `limit`, each with all that was said of it since.

        since: seconds since 1970; only decisions made then or later.
        """
        ...

    def tail(self, count: int) -> list[LoggedDecision]:
        """The last `count` decisions, in the order of the log."""
        ...

    def find(self, ids: Sequence[str]) -> list[LoggedDecision]:
        """The decisions that have one of `ids`, in the order of the log."""
        ...

    def recall(self, identity: str) -> Remembered | None:
        """What feedback needs of a decision; None where the log does not hold it."""
        ...

    def last(self) -> int:
        """The place of the last entry; 0 when nothing is stored."""
        ...

    def news(self, after: int) -> tuple[int, list[str]]:
        """What is new after the place `after`: its last place, and the ids of the decisions it is about."""
        ...

    def forget(self, prompt_hash: bytes) -> int:
        """Erase the decisions on a prompt, and all that is said of them; returns how many there were."""
        ...

    def forget_principal(self, principal: str) -> int:
        """Erase what a principal has said; returns how many judgements there were."""
        ...

    def prune(self, before: float) -> int:
        """Erase the entries whose time is below `before`; returns how many there were."""
        ...

    def close(self) -> None:
        """Give the file or the connections back. Any other call then raises StoreUnavailable."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def is_there(spec: str, *, root: str | os.PathLike[str]) -> bool:
    """Whether the log that `spec` names can hold anything: a file that is yet to be made does not."""
    kind, _, path = spec.partition(":")
    return kind not in {"sqlite", "jsonl"} or Path(root, path).exists()


def open_log(spec: str, *, root: str | os.PathLike[str]) -> DecisionLog:
    """Open the log that `spec` names, as it is written in YAML, and make it where there is none.

    A relative path is taken from `root`, the folder that holds index/. Raises StoreUnavailable, StoreBusy,
    StoreCorrupt, StoreMismatch. No error holds the password of a URL.
    """
    kind, _, path = spec.partition(":")
    if kind == "sqlite" and path:
        from semroute.decisionlog.sqlite import SqliteLog

        return SqliteLog(Path(root, path))
    if kind == "jsonl" and path:
        from semroute.decisionlog.jsonl import JsonlLog

        return JsonlLog(Path(root, path))
    if spec.startswith(("postgresql://", "postgres://")):
        try:
            from semroute.decisionlog.postgres import PostgresLog
        except ImportError as error:
            raise StoreUnavailable(
                f"a PostgreSQL log needs psycopg, which does not load ({error}); " + install_extra("postgres")
            ) from error
        return PostgresLog(spec)
    raise StoreUnavailable(
        "no such kind of log; write sqlite:PATH, jsonl:PATH or postgresql://USER@HOST/DATABASE"
    )
