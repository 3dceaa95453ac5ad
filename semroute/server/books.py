"""What may wait for a disk."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from semroute.errors import SemrouteError

_log = logging.getLogger("semroute.serve")
_MOST_WAITING = 10_000


class Books:
    """Whatever may wait for a disk: done by one thread, in order, and waited for by no request.

    dropped: is called for each entry that finds too many waiting.
    """

    def __init__(self, dropped: Callable[[], None]) -> None:
        self._dropped = dropped
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="semroute-books")
        self._waiting = 0
        self._counting = threading.Lock()

    async def ask(self, work: Callable[[], str]) -> str:
        """Do `work` in its turn, and wait for what it returns or raises."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def close(self) -> None:
        """Do what waits, then end."""
        self._thread.shutdown()

    def add(self, work: Callable[[], object]) -> None:
        """Do `work` soon. Where too much waits, it is dropped and counted."""
        with self._counting:
            full = self._waiting >= _MOST_WAITING
            self._waiting += not full
        if full:
            self._dropped()
            return
        self._thread.submit(self._do, work)

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
