"""Decisions for an event loop: prompts that wait for the encoder meanwhile are encoded together."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from semroute.decision import Decision
    from semroute.router import Router

_TOGETHER = 16  # prompts in one batch; more gain little and wait longer
_WAITING = 512


@dataclass(slots=True)
class _Waiting:
    prompt: Any
    asked: Mapping[str, Any]
    future: asyncio.Future[Decision]


class Decider:
    """Routes prompts without holding up the event loop; one that takes too long goes to the default.

    A thread that becomes free takes every prompt that waits and asks for the same, up to 16. Nothing waits
    for others to come. patience: seconds until the default serves.
    """

    def __init__(self, router: Router, patience: float) -> None:
        self._router = router
        self.patience = patience
        self._threads = min(4, os.cpu_count() or 1)
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="semroute-route")
        self._queue: deque[_Waiting] = deque()
        self._busy = 0
        self._stuck = False

    async def decide(self, prompt: Any, asked: Mapping[str, Any]) -> Decision:
        """The decision; `asked` are keywords of `Router.route`."""
        router = self._router
        if router.index.manifest.encoder.name == "static":
            return router.route(prompt, **asked)  # a fifth of a millisecond: a thread would cost more
        if len(self._queue) >= _WAITING or (self._stuck and self._busy >= self._threads):
            return router.unrouted(prompt, "Too many prompts wait to be routed.", **asked)
        waiting = _Waiting(prompt, asked, asyncio.get_running_loop().create_future())
        self._queue.append(waiting)
        self._start()
        try:
            async with asyncio.timeout(self.patience):
                return await waiting.future
        except TimeoutError:
            self._stuck = True
            return router.unrouted(prompt, "The encoder did not answer in time.", **asked)

    def close(self) -> None:
        """Let the threads end."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _start(self) -> None:
        """Give what waits to the threads that are free."""
        while self._queue and self._busy < self._threads:
            batch = self._batch()
            if batch:
                self._busy += 1
                work = asyncio.get_running_loop().run_in_executor(self._pool, self._decide, batch)
                work.add_done_callback(lambda done, batch=batch: self._done(batch, done))  # type: ignore[misc]

    def _batch(self) -> list[_Waiting]:
        """The first that waits, and others that ask for the same. Whoever has given up is left out."""
        batch: list[_Waiting] = []
        others: deque[_Waiting] = deque()
        while self._queue and len(batch) < _TOGETHER:
            waiting = self._queue.popleft()
            if waiting.future.done():
                continue
            if not batch or waiting.asked == batch[0].asked:
                batch.append(waiting)
            else:
                others.append(waiting)
        self._queue.extendleft(reversed(others))
        return batch

    def _decide(self, batch: list[_Waiting]) -> list[Decision]:
        if len(batch) == 1:
            return [self._router.route(batch[0].prompt, **batch[0].asked)]
        return self._router.route_many([one.prompt for one in batch], **batch[0].asked)

    def _done(self, batch: list[_Waiting], done: asyncio.Future[list[Decision]]) -> None:
        self._busy -= 1
        self._stuck = False
        if done.cancelled():
            return
        error = done.exception()
        for place, waiting in enumerate(batch):
            if waiting.future.done():
                continue
            if error is None:
                waiting.future.set_result(done.result()[place])
            else:
                detail = f"Routing failed ({type(error).__name__})."
                unrouted = self._router.unrouted(waiting.prompt, detail, **waiting.asked)
                waiting.future.set_result(unrouted)
        self._start()
