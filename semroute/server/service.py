"""What one app holds, and what is done with it whoever asks: decide, record, take a new index."""

from __future__ import annotations

import asyncio
import functools
import logging
import ssl
import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from semroute import arbiter, catalog
from semroute.affinity import Affinity
from semroute.artifact import MANIFEST
from semroute.config import Arbiter, Cascade, ServeSettings, Settings, Weights
from semroute.deciding import Decider
from semroute.decision import Decision
from semroute.errors import SemrouteError
from semroute.live import Live
from semroute.metrics import Metrics
from semroute.server.books import Books
from semroute.server.budgets import Budgets, strangers
from semroute.spending import open_spending
from semroute.text import routed_text
from semroute.upstream import Attempt, Observer, Upstreams
from semroute.wire import BadRequest

if TYPE_CHECKING:
    from semroute.router import Router

AUTO = "semroute/auto"
"""The model that is none: the router chooses."""

_log = logging.getLogger("semroute.serve")
_POLL_S = 1.0
_REMEMBERED_ANSWERS = 10_000
_AGAIN_S = 60.0


class Service:
    """What one app holds: the router, the upstreams, the books. For one event loop."""

    def __init__(
        self,
        router: Router,
        environ: Mapping[str, str],
        settings: ServeSettings | None,
        tls: ssl.SSLContext | None,
        keys: Collection[str] = (),
    ) -> None:
        """`keys`: the names of those that clients have; see `create_app` for the rest."""
        self.router = router
        self._keys = keys
        self._follows = settings is None
        self.settings = settings or router.index.config.settings.serve or ServeSettings()
        self.draining = False
        self.in_flight = 0
        self.affinity = Affinity(time.monotonic)
        self.live = Live()
        self.upstreams = Upstreams(router.index.config.settings.models, self.settings, environ, tls=tls)
        self.metrics = Metrics(
            self.upstreams.health, lambda: self.router.without_outcomes, lambda: self.router.dropped
        )
        self.books = Books(self.metrics.dropped)
        store = _shared_store(router.index.config.settings)
        opens = None if store is None else functools.partial(open_spending, store, root=router.root)
        self.budgets = Budgets(self.settings.clients, opens)
        self._warn_of_strangers()
        self._decider = Decider(router, self.settings.routing_s)
        self._measured = 0
        self._given: dict[bytes, tuple[str, float]] = {}

    async def decide(
        self,
        prompt: Any,
        asked: Mapping[str, Any],
        observer: Observer | None = None,
        *,
        tell: bool = True,
    ) -> Decision:
        """Route without holding up the event loop; a prompt that takes too long goes to the default.

        observer: is told of the arbiter's call, where the vote is unsure and there is one; None for no call.
        tell: False where nothing is asked of a model, so that there is nothing to be counted.
        The listeners, such as the decision log, hear of what was settled in the end.
        """
        if not tell:
            return await self._decider.decide(prompt, {**asked, "tell": False})
        chooser = self.settings.arbiter
        if observer is None or chooser is None:
            decision = await self._decider.decide(prompt, asked)
        else:
            decision = await self._decider.decide(prompt, {**asked, "tell": False})
            try:
                if arbiter.is_grey(decision, chooser):
                    decision = await self._arbitrated(decision, prompt, asked, chooser, observer)
            finally:  # also where the client has gone meanwhile
                self.router.tell(decision, prompt, **asked)
        self.metrics.decided(decision)
        return decision

    async def _arbitrated(
        self, decision: Decision, prompt: Any, asked: Mapping[str, Any], chooser: Arbiter, observer: Observer
    ) -> Decision:
        config = self.router.index.config
        if chooser.model not in config.settings.models:
            return decision
        body, names = arbiter.question(decision, routed_text(prompt), config, chooser)
        until = time.monotonic() + chooser.patience_s
        answer = await self.upstreams.ask(chooser.model, body, until, observer, "arbiter")
        found, route = arbiter.picked(answer or "", names)
        if found:
            return self.router.settled(decision, route, prompt, **asked)
        said = "The arbiter did not answer." if answer is None else "The arbiter's answer was of no use."
        return replace(decision, detail=f"{decision.detail} {said}".lstrip())

    def cascade_of(self, decision: Decision) -> Cascade | None:
        """The cascade of the route that serves."""
        config = self.router.index.config
        try:
            served = config.settings.default if decision.route is None else config.route(decision.route)
        except KeyError:  # the index was replaced meanwhile
            return None
        return served.cascade

    def called(self, decision: Decision | None, attempt: Attempt) -> None:
        """Let the decision log have what was called, for the answer or to help choosing."""
        if decision is None:
            return
        told: dict[str, Any] = {
            "model": attempt.model,
            "purpose": None if attempt.purpose == "answer" else attempt.purpose,
            # The log holds what providers counted; what is estimated here is not mixed in.
            "prompt_tokens": None if attempt.estimated else attempt.prompt_tokens,
            "completion_tokens": None if attempt.estimated else attempt.completion_tokens,
            "latency_ms": attempt.latency_ms,
            "ttft_ms": attempt.ttft_ms,
            "error": attempt.error,
        }
        self.books.add(functools.partial(self.router.served, decision, **told))

    async def poll(self, folder: Path | None) -> None:
        """Look, now and then, whether the index has changed, and let the router know what was measured."""
        seen = _stamp(folder)
        while True:
            await asyncio.sleep(_POLL_S)
            self._measure()
            found = _stamp(folder)
            if found is None or found == seen:
                continue
            seen = found
            await self.reload()

    async def reload(self) -> bool:
        """Take the new index; whether it was good. The old one goes on where it is not."""
        try:
            await asyncio.to_thread(self.router.reload)
        except SemrouteError as error:
            _log.error("The new index is not taken: %s", error)
            self.metrics.reloaded("refused")
            return False
        except Exception as error:  # noqa: BLE001 - a folder may hold anything, and the next one may be good
            _log.error("The new index is not taken: %s", type(error).__name__)
            self.metrics.reloaded("refused")
            return False
        settings = self.router.index.config.settings
        if self._follows:
            self.settings = settings.serve or ServeSettings()
            self.budgets.limit(self.settings.clients)
            self._warn_of_strangers()
            self._decider.patience = self.settings.routing_s
        self.upstreams.update(settings.models, self.settings)
        self._given.clear()  # of models that may be gone
        self.metrics.reloaded("taken")
        _log.info("Now serving index %s.", self.router.index.fingerprint)
        return True

    def _warn_of_strangers(self) -> None:
        for said in strangers(self.settings.clients, self._keys).values():
            _log.warning("Limits under serve.clients hold for nobody: %s.", said)

    def _measure(self) -> None:
        health = self.upstreams.health()
        attempts = sum(one.measured.attempts for one in health.values())
        if attempts != self._measured:
            self._measured = attempts
            self.router.measure(
                {name: (one.measured.ttft_ms, one.measured.itl_ms) for name, one in health.items()}
            )

    async def close(self) -> None:
        """Write what waits to be written, and close every connection."""
        await self.budgets.close()
        await asyncio.to_thread(self.books.close)
        self._decider.close()
        await self.upstreams.close()

    def given(self, digest: bytes, decision: str) -> None:
        """A conversation has got its answer."""
        self._given[digest] = (decision, time.monotonic())
        while len(self._given) > _REMEMBERED_ANSWERS:
            del self._given[next(iter(self._given))]

    def asked_again(self, digest: bytes, owner: str | None) -> None:
        """A conversation is here that may have got an answer a moment ago: then that was not good enough."""
        before = self._given.pop(digest, None)
        if before is not None and time.monotonic() - before[1] < _AGAIN_S:
            who = f"regenerate:{owner or 'client'}"
            self.books.add(functools.partial(self.router.feedback, before[0], 0.25, by=who))

    def choice(self, text: str) -> tuple[Weights | None, tuple[str, ...]]:
        """Weights and search space of a model name that begins with `router@`. Raises BadRequest."""
        try:
            weights, named = catalog.parse_choice(text)
        except ValueError:
            message = "This model is not known; a choice is written router@q:1|c:0.005|t:0|i:0|models:A,B."
            raise unknown_model(message) from None
        found = [self.upstreams.find(name) for name in named]
        models = tuple(name for name in found if name is not None)
        if len(models) < len(named):
            raise unknown_model("`models:` names a model that is not known.")
        return weights, models


def _shared_store(settings: Settings) -> str | None:
    """Where processes can share what they count: with the decision log, else with the outcomes."""
    named = (settings.log, settings.escalations)
    stores = [one.store for one in named if one is not None and one.store is not None]
    return next((store for store in stores if not store.startswith("jsonl:")), None)


def _stamp(folder: Path | None) -> tuple[int, int, int] | None:
    """What changes when an index is replaced; None where there is none to be seen."""
    if folder is None:
        return None
    try:
        found = (folder / MANIFEST).stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def unknown_model(message: str) -> BadRequest:
    """The answer to a model name that means nothing here."""
    return BadRequest(404, message, code="model_not_found", param="model")
