"""The listener that writes the decision log. It runs in a thread of its own; see `telemetry`."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from semroute.decisionlog import DecisionLog, Entry, open_log
from semroute.decisionlog.record import entry_of
from semroute.errors import StoreError
from semroute.telemetry import Decided, Event, Judged, Served

if TYPE_CHECKING:
    from semroute.config import LogSettings

_DAY_S = 86_400.0
_PRUNE_S = 3_600.0  # between two looks for what is too old


class LogWriter:
    """Writes every event to the log that the settings name, in batches. See `telemetry.Batching`.

    The log is opened at the first event, in the process that writes: until then, and while it cannot be
    reached, events wait. keep_vectors: store them too, so that feedback counts in whichever process it comes.
    """

    def __init__(self, settings: LogSettings, *, root: Path, keep_vectors: bool = False) -> None:
        self._settings, self._root = settings, root
        self._keep_vectors = keep_vectors
        self._pid = os.getpid()
        self._events: list[Event] = []
        self._entries: list[Entry] = []
        self._log: DecisionLog | None = None
        self._pruned_at = -_PRUNE_S

    def decided(self, event: Decided) -> None:
        """See `telemetry.Listener`."""
        self._add(event)

    def served(self, event: Served) -> None:
        """See `telemetry.Listener`."""
        self._add(event)

    def judged(self, event: Judged) -> None:
        """See `telemetry.Listener`."""
        self._add(event)

    def flush(self) -> None:
        """Store what was gathered, then erase what is too old. Raises StoreError; nothing is lost then."""
        if not self._events and not self._entries:
            return
        log = self._opened()
        for event in self._events:
            self._entries.append(
                entry_of(event, log.key, keep_text=self._settings.keep_text, keep_vectors=self._keep_vectors)
            )
        self._events.clear()
        try:
            log.write(self._entries)  # the same entries again after an error: each is stored once
        except StoreError:
            self.close()  # a file may have been replaced: the next try opens what is there then
            raise
        self._entries.clear()
        self._prune(log)

    def close(self) -> None:
        """Let go of the log."""
        if self._log is not None and self._pid == os.getpid():
            self._log.close()
        self._log = None

    def _add(self, event: Event) -> None:
        if self._pid != os.getpid():  # forked: what waits here, and the log, are the parent's
            self._events, self._entries, self._log = [], [], None
            self._pid = os.getpid()
        self._events.append(event)

    def _opened(self) -> DecisionLog:
        if self._log is None:
            self._log = open_log(self._settings.store, root=self._root)
        return self._log

    def _prune(self, log: DecisionLog) -> None:
        days = self._settings.max_age_days
        if days is not None and time.monotonic() - self._pruned_at >= _PRUNE_S:
            self._pruned_at = time.monotonic()
            log.prune(time.time() - days * _DAY_S)
