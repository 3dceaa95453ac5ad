"""What may wait for a disk."""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue

from semroute.errors import SemrouteError

_log = logging.getLogger("semroute.serve")
_MOST_WAITING = 10_000
_CLOSE_S = 5.0


class Books:
    """Whatever may wait for a disk: done by one thread, in order, and waited for by no request.

    dropped: is called for each entry that finds too many waiting.
    """

    def __init__(self, dropped: Callable[[], None]) -> None:
        self._dropped = dropped
        self._entries: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._waiting = 0
        self._counting = threading.Lock()

    async def ask(self, work: Callable[[], str]) -> str:
        """Do `work` in its turn, and wait for what it returns or raises."""
        answer: Future[str] = Future()
        self._put(functools.partial(_answer, answer, work))
        return await asyncio.wrap_future(answer)

    def close(self) -> None:
        """Do what waits, for a few seconds at most, then end: a store that is held holds up each entry."""
        if self._thread is None:
            return
        self._entries.put(None)
        self._thread.join(_CLOSE_S)
        if self._thread.is_alive():
            _log.error("%d records were not stored: the store takes too long.", self._waiting)

    def add(self, work: Callable[[], object]) -> None:
        """Do `work` soon. Where too much waits, it is dropped and counted."""
        with self._counting:
            full = self._waiting >= _MOST_WAITING
            self._waiting += not full
        if full:
            self._dropped()
            return
        self._put(functools.partial(self._do, work))

    def _put(self, entry: Callable[[], object]) -> None:
        if self._thread is None:
            # A daemon, since the end of the process must not wait for the store either.
            self._thread = threading.Thread(target=self._run, name="semroute-books", daemon=True)
            self._thread.start()
        self._entries.put(entry)

    def _run(self) -> None:
        while (entry := self._entries.get()) is not None:
            entry()

    def _do(self, work: Callable[[], object]) -> None:
        try:
            work()
        except SemrouteError as error:
            _log.warning("Not recorded: %s: %s", type(error).__name__, error)
        except Exception as error:  # noqa: BLE001 - the books must not end because of one entry
            _log.error("Not recorded: %s", type(error).__name__)
        finally:
            with self._counting:
                self._waiting -= 1


def _answer(answer: Future[str], work: Callable[[], str]) -> None:
    """Do `work` for who waits for `answer`, unless he has gone."""
    if not answer.set_running_or_notify_cancel():
        return
    try:
        answer.set_result(work())
    except BaseException as error:  # noqa: BLE001 - it is raised where the answer is waited for
        answer.set_exception(error)
