"""`create_app`: one OpenAI-compatible endpoint that chooses the model. Pure ASGI, no state but the app's.

    request -> gate (host, key, limits) -> body read -> decision -> Upstreams.answer -> bytes of the answer

Routing is the router's, calling models is `upstream`'s; here a request becomes a `Call`, and an `Answer` a
response.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import hashlib
import json
import logging
import math
import os
import ssl
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import Response
from starlette.routing import Route as Path_

from semroute import access, arbiter, catalog, wire
from semroute.affinity import Affinity
from semroute.artifact import MANIFEST
from semroute.config import Api, Arbiter, Cascade, ClientLimits, ServeSettings, Weights
from semroute.deciding import Decider
from semroute.decision import Decision
from semroute.errors import (
    OutcomeConflict,
    OutcomeInvalid,
    QuotaExceeded,
    SemrouteError,
    StoreError,
    UnknownDecision,
)
from semroute.escalations import OWN_NAMES
from semroute.live import Live
from semroute.livemap import LiveMap
from semroute.metrics import CONTENT_TYPE, Metrics
from semroute.text import estimated_tokens, routed_text
from semroute.tracing import RequestTrace, Tracing
from semroute.ulid import new_ulid
from semroute.upstream import (
    Answer,
    Attempt,
    Call,
    Headers,
    NoAnswer,
    NoUpstream,
    Observer,
    Rise,
    Upstream,
    Upstreams,
)
from semroute.wire import BadRequest, Body

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from semroute.router import Router

_log = logging.getLogger("semroute.serve")
_access_log = logging.getLogger("semroute.access")

AUTO = "semroute/auto"
"""The model that is none: the router chooses."""

_PATHS: dict[str, Api] = {
    "/v1/chat/completions": "chat",
    "/v1/responses": "responses",
    "/v1/messages": "messages",
}
_COUNT = "/v1/messages/count_tokens"
_OPEN = {"/healthz", "/readyz", "/"}
_PASSED_ON = (b"anthropic-version", b"anthropic-beta", b"openai-beta", b"traceparent", b"tracestate")
_DISCARDED_BYTES = 256 << 20  # of a body that is too long: read, so that the client sees why
_WAITING_BOOKS = 10_000
_POLL_S = 1.0
_JSON = b"application/json"


def create_app(
    router: Router,
    *,
    keys: Mapping[str, str] | Iterable[str] = (),
    feedback_keys: Mapping[str, str] | Iterable[str] = (),
    environ: Mapping[str, str] | None = None,
    settings: ServeSettings | None = None,
    hosts: Collection[str] | None = None,
    watch: Path | None = None,
    tls: ssl.SSLContext | None = None,
    tracer_provider: TracerProvider | None = None,
) -> Starlette:
    """The ASGI app over `router`.

    keys: what clients must present, by name; without any, everybody may ask: bind to the loopback only.
    feedback_keys: what POST /v1/feedback asks for; with `keys` and without these, feedback is closed.
    environ: where the keys of the models are; the process's environment if left out. Read now, never again.
    settings: in place of those under `serve:` in the index.
    hosts: the names by which the server may be called; None for any.
    watch: the folder of the index, to load it again when it changes.
    tls: for upstreams with certificates of their own, in place of the usual authorities.
    tracer_provider: where OpenTelemetry's spans go; the global one if left out.
    """
    service = Service(
        router,
        access.Keys(keys),
        access.Keys(feedback_keys),
        os.environ if environ is None else environ,
        settings,
        tls,
    )
    routes = [Path_(path, _Completion(service, api), methods=["POST"]) for path, api in _PATHS.items()]
    routes += [
        Path_(_COUNT, _Completion(service, "messages", counts=True), methods=["POST"]),
        Path_("/v1/models", _Endpoint(service.models), methods=["GET"]),
        Path_("/v1/models/{name:path}", _Endpoint(service.model), methods=["GET"]),
        Path_("/v1/route", _Endpoint(service.route), methods=["POST"]),
        Path_("/v1/feedback", _Endpoint(service.feedback), methods=["POST"]),
        Path_("/healthz", _Endpoint(service.healthz), methods=["GET"]),
        Path_("/readyz", _Endpoint(service.readyz), methods=["GET"]),
        Path_("/metrics", _Endpoint(service.show_metrics), methods=["GET"]),
        Path_("/live", _Endpoint(service.show_live), methods=["GET"]),
        Path_("/live/map", _Endpoint(service.show_map), methods=["GET"]),
        Path_("/live/place", _Endpoint(service.place), methods=["POST"]),
        Path_("/", _Endpoint(service.page), methods=["GET"]),
    ]
    allowed = None if hosts is None else frozenset(host.lower() for host in hosts)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        polling = asyncio.create_task(service.poll(watch))
        yield
        polling.cancel()
        await service.close()

    app = Starlette(
        routes=routes,
        middleware=[
            Middleware(_Gate, service=service, hosts=allowed, tracing=Tracing(tracer_provider)),
        ],
        exception_handlers={HTTPException: _http_error},
        lifespan=lifespan,
    )
    app.state.service = service
    return app


_NO_PATH = (
    "There is no such path. OpenAI's clients take this server's address with /v1 as their base URL, "
    "Anthropic's the address alone."
)


async def _http_error(request: Any, error: Exception) -> Response:
    """What Starlette itself refuses: unknown paths and methods."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    said = {404: _NO_PATH, 405: "This path takes another method."}
    body = wire.error(_api_of(request.scope), status, said.get(status, "The request failed."))
    return Response(body, status, media_type="application/json")


def _api_of(scope: Scope) -> Api:
    return "messages" if scope["path"].startswith("/v1/messages") else "chat"


class Service:
    """What one app holds: the router, the upstreams, the books. For one event loop."""

    def __init__(
        self,
        router: Router,
        keys: access.Keys,
        feedback_keys: access.Keys,
        environ: Mapping[str, str],
        settings: ServeSettings | None,
        tls: ssl.SSLContext | None,
    ) -> None:
        self.router = router
        self.keys = keys
        self.feedback_keys = feedback_keys
        self.settings = settings or router.index.config.settings.serve or ServeSettings()
        self.draining = False
        self.in_flight = 0
        self.affinity = Affinity(time.monotonic)
        self.live = Live()
        self._map = LiveMap(router)
        self.upstreams = Upstreams(router.index.config.settings.models, self.settings, environ, tls=tls)
        self.metrics = Metrics(self.upstreams.health, lambda: self.router.without_outcomes)
        self._decider = Decider(router, self.settings.routing_s)
        self._books = ThreadPoolExecutor(1, thread_name_prefix="semroute-books")
        self._waiting = 0
        self._counting = threading.Lock()
        self._measured = 0
        self._spent: dict[str, float] = {}
        self._day = 0
        self._answered: dict[bytes, tuple[str, float]] = {}

    # Deciding

    async def decide(
        self, prompt: Any, asked: Mapping[str, Any], observer: Observer | None = None
    ) -> Decision:
        """Route without holding up the event loop; a prompt that takes too long goes to the default.

        observer: is told of the arbiter's call, where the vote is unsure and there is one; None for no call.
        The listeners, such as the decision log, hear of what was settled in the end.
        """
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
        return self.router.settled(decision, route, prompt, **asked) if found else decision

    def cascade_of(self, decision: Decision) -> Cascade | None:
        """The cascade of the route that serves."""
        config = self.router.index.config
        try:
            served = config.settings.default if decision.route is None else config.route(decision.route)
        except KeyError:  # the index was replaced meanwhile
            return None
        return served.cascade

    # What clients may spend

    def limits_of(self, owner: str | None) -> ClientLimits:
        """The limits of a client; raises BadRequest where the budget of the day is spent."""
        clients = self.settings.clients
        limits = clients.get(owner or "*", clients.get("*", _NO_LIMITS))
        if limits.usd_per_day is not None and self.spent_by(owner) >= limits.usd_per_day:
            wait = 86_400 - int(time.time()) % 86_400
            message = "The budget of this key is spent; it begins anew at midnight, UTC."
            raise BadRequest(429, message, code="insufficient_quota", retry_after=wait)
        return limits

    def spent_by(self, owner: str | None) -> float:
        """US dollars that this client has spent today."""
        today = int(time.time()) // 86_400
        if today != self._day:
            self._day, self._spent = today, {}
        return self._spent.get(owner or "*", 0.0)

    def spend(self, owner: str | None, usd: float) -> None:
        """Count what an attempt has cost."""
        self._spent[owner or "*"] = self.spent_by(owner) + usd

    def affordable(self, names: Iterable[str], limits: ClientLimits) -> tuple[str, ...]:
        """Those of `names` that the client may use."""
        cards, most = self.router.index.config.settings.models, limits.max_usd_per_1m
        if most is None:
            return tuple(names)
        prices = {name: cards[name].prompt_usd_per_1m if name in cards else None for name in names}
        return tuple(name for name, price in prices.items() if price is not None and price <= most)

    # The books: whatever may wait for a disk is done by one thread, in order, and never waited for

    def book(self, work: Callable[[], object]) -> None:
        """Do `work` soon. Where too much waits, it is dropped and counted."""
        with self._counting:
            full = self._waiting >= _WAITING_BOOKS
            self._waiting += not full
        if full:
            self.metrics.dropped()
            return
        self._books.submit(self._do, work)

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
        self.book(functools.partial(self.router.served, decision, **told))

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

    # Reloading

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
        settings = self.router.index.config.settings
        self.upstreams.update(settings.models)
        self.metrics.reloaded("taken")
        _log.info("Now serving index %s.", self.router.index.fingerprint)
        return True

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
        await asyncio.to_thread(self._books.shutdown)
        self._decider.close()
        await self.upstreams.close()

    # Small endpoints

    async def models(self, _: Asked) -> Reply:
        """The virtual model and those of the config."""
        cards = self.router.index.config.settings.models
        listed = [_model_entry(AUTO, "semroute")] + [
            _model_entry(name, card.provider) for name, card in cards.items()
        ]
        return Reply(200, {"object": "list", "data": listed})

    async def model(self, asked: Asked) -> Reply:
        """One of them."""
        name, cards = asked.name, self.router.index.config.settings.models
        if name == AUTO:
            return Reply(200, _model_entry(AUTO, "semroute"))
        if name not in cards:
            raise _unknown_model("There is no such model.")
        return Reply(200, _model_entry(name, cards[name].provider))

    async def route(self, asked: Asked) -> Reply:
        """A decision, and no model called."""
        body = wire.read_body(asked.raw)
        fields = body.fields
        prompt = next((fields[key] for key in ("prompt", "messages", "input") if key in fields), None)
        if not isinstance(prompt, str | list) or not (prompt or isinstance(prompt, str)):
            raise BadRequest(400, "Give a `prompt`, or `messages`.", param="prompt")
        request: dict[str, Any] = {
            key: fields[key]
            for key in ("exclude", "needs", "max_usd_per_1m", "weights", "step", "metadata")
            if fields.get(key) is not None
        }
        model = fields.get("model", AUTO)
        if isinstance(model, str) and model.startswith("router@"):
            weights, models = self.choice(model)
            request |= {"weights": weights} if weights is not None else {}
            request |= {"models": models} if models else {}
        if self.settings.arbiter is not None:
            self.limits_of(asked.owner)  # it costs
        aside = _Aside(self, asked.owner, asked.trace)
        decision = await self.decide(prompt, request, aside)
        asked.trace.decided(decision)
        for attempt in aside.attempts:
            self.called(decision, attempt)
        return Reply(200, decision.to_dict(), _decision_headers(decision))

    def choice(self, text: str) -> tuple[Weights | None, tuple[str, ...]]:
        """Weights and search space of a model name that begins with `router@`. Raises BadRequest."""
        try:
            weights, named = catalog.parse_choice(text)
        except ValueError:
            message = "This model is not known; a choice is written router@q:1|c:0.005|t:0|i:0|models:A,B."
            raise _unknown_model(message) from None
        found = [self.upstreams.find(name) for name in named]
        models = tuple(name for name in found if name is not None)
        if len(models) < len(named):
            raise _unknown_model("`models:` names a model that is not known.")
        return weights, models

    async def feedback(self, asked: Asked) -> Reply:
        """How good the model of a decision was, or which one was needed in its place."""
        fields = wire.read_body(asked.raw).fields
        identity = fields.get("decision_id", fields.get("id"))
        score, to, why, by = (fields.get(key) for key in ("score", "to", "why", "by"))
        if not isinstance(identity, str) or not identity:
            raise BadRequest(400, "`id` must be the id of a decision (x-semroute-id).", param="id")
        for name, value in (("to", to), ("why", why), ("by", by)):
            if value is not None and not isinstance(value, str):
                raise BadRequest(400, f"`{name}` must be text.", param=name)
        who = by or asked.owner or "client"
        if who in OWN_NAMES:
            raise BadRequest(400, f"`by` must not be {who}: that is the router's own.", param="by")
        if to is not None:
            call = functools.partial(self.router.escalate, identity, to=to, by=who, why=why)
        elif isinstance(score, int | float) and not isinstance(score, bool) and 0 <= score <= 1:
            call = functools.partial(self.router.feedback, identity, float(score), by=who)
        else:
            message = "Give a `score` from 0 to 1, or `to`, the model that was needed."
            raise BadRequest(400, message, param="score")
        try:
            outcome = await asyncio.get_running_loop().run_in_executor(self._books, call)
        except UnknownDecision as error:
            raise BadRequest(404, str(error), code="unknown_decision", param="id") from None
        except OutcomeInvalid as error:
            raise BadRequest(400, str(error), param=error.field) from None
        except QuotaExceeded as error:
            raise BadRequest(429, str(error), code="quota_exceeded") from None
        except OutcomeConflict as error:
            raise BadRequest(409, str(error)) from None
        except StoreError as error:
            _log.warning("Feedback could not be stored: %s", error)
            message = "The feedback could not be stored; try again later."
            raise BadRequest(503, message, code="store_unavailable") from None
        return Reply(200, {"id": outcome, "decision_id": identity})

    async def healthz(self, _: Asked) -> Reply:
        """The process answers."""
        return Reply(200, {"status": "ok"})

    async def readyz(self, _: Asked) -> Reply:
        """Whether requests should be sent here."""
        if self.draining:
            return Reply(503, {"status": "stopping"})
        return Reply(200, {"status": "ready", "index": self.router.index.fingerprint})

    async def show_metrics(self, _: Asked) -> Reply:
        """What is counted."""
        self.metrics.in_flight(self.in_flight)
        return Reply(200, self.metrics.text(), content_type=CONTENT_TYPE.encode())

    async def show_live(self, _: Asked) -> Reply:
        """What the page shows."""
        health = self.upstreams.health()
        resting = {name: self.upstreams.is_resting(name) for name in health}
        keyless = {name: self.upstreams.lacks_key(name) for name in health}
        index = {"index": self.router.index.fingerprint}
        return Reply(200, self.live.to_dict(health, resting, keyless) | index)

    async def show_map(self, _: Asked) -> Reply:
        """Where the utterances stand, for the page."""
        return Reply(200, await asyncio.to_thread(self._map.to_dict))

    async def place(self, asked: Asked) -> Reply:
        """Where a prompt stands among them."""
        prompt = wire.read_body(asked.raw).fields.get("prompt")
        if not isinstance(prompt, str):
            raise BadRequest(400, "Give a `prompt`.", param="prompt")
        return Reply(200, await asyncio.to_thread(self._map.place, prompt))

    async def page(self, _: Asked) -> Reply:
        """The page for people; it holds nothing until it is given a key, where there are any."""
        html, headers = _page()
        return Reply(200, html, headers, b"text/html; charset=utf-8")

    # A sign that an answer was bad

    def regenerated(self, digest: bytes, decision: str, owner: str | None) -> None:
        """Note an answer; the same conversation again within a minute speaks against the one before."""
        now = time.monotonic()
        before = self._answered.pop(digest, None)
        self._answered[digest] = (decision, now)
        while len(self._answered) > _WAITING_BOOKS:
            del self._answered[next(iter(self._answered))]
        if before is not None and now - before[1] < 60.0:
            who = f"regenerate:{owner or 'client'}"
            self.book(functools.partial(self.router.feedback, before[0], 0.25, by=who))


@functools.cache
def _page() -> tuple[bytes, tuple[tuple[bytes, bytes], ...]]:
    """The page, and headers that let it run its own script and nothing else."""
    html = resources.files("semroute").joinpath("live.html").read_bytes()
    script = html.partition(b"<script>")[2].partition(b"</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script).digest())
    policy = b"default-src 'none'; connect-src 'self'; img-src data:; style-src 'unsafe-inline'; script-src "
    policy += b"'sha256-%s'" % digest
    shut = b"; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    return html, ((b"content-security-policy", policy + shut), (b"referrer-policy", b"no-referrer"))


def _unknown_model(message: str) -> BadRequest:
    return BadRequest(404, message, code="model_not_found", param="model")


def _model_entry(name: str, owner: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": owner}


def _stamp(folder: Path | None) -> tuple[int, int, int] | None:
    """What changes when an index is replaced; None where there is none to be seen."""
    if folder is None:
        return None
    try:
        found = (folder / MANIFEST).stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


# The gate


class _Gate:
    """Before everything: who asks, under which name, how many at once. Nothing raises through it."""

    def __init__(
        self, app: ASGIApp, service: Service, hosts: frozenset[str] | None, tracing: Tracing
    ) -> None:
        self._app = app
        self._service = service
        self._hosts = hosts
        self._tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        service, began = self._service, time.perf_counter()
        headers = scope["headers"]
        identity = access.request_id(headers) or new_ulid().encode()
        scope["headers"] = [
            (name, value)
            for name, value in headers
            if not name.startswith(b"x-semroute-") and name != b"x-request-id"
        ]
        scope["semroute.request_id"] = identity
        path = scope["path"]
        trace = self._tracing.begin(scope["method"], path, headers) if path in _TRACED else RequestTrace()
        scope["semroute.trace"] = trace
        outgoing = _Outgoing(send, identity)
        service.in_flight += 1
        try:
            refusal = self._refusal(scope)
            if refusal is not None:
                closing = [(b"connection", b"close")] if refusal.status == 400 else []
                await _respond_error(scope, outgoing, refusal, closing)
            else:
                await self._app(scope, receive, outgoing)
        except Exception as error:  # noqa: BLE001 - a fault of ours must not tell the client more than that
            _log.error("A request failed: %s", _where(error))
            if outgoing.status is None:
                await _respond_error(scope, outgoing, BadRequest(500, "The server failed."))
        finally:
            service.in_flight -= 1
            endpoint = path if path in _KNOWN else "other"
            service.metrics.requested(endpoint, outgoing.status or 499, time.perf_counter() - began)
            trace.end(outgoing.status or 499)

    def _refusal(self, scope: Scope) -> BadRequest | None:
        """Why a request is not served; None where it is."""
        headers = scope["headers"]
        scope["semroute.owner"] = None
        if not access.is_good_host(headers, self._hosts):
            return BadRequest(400, "The Host header is missing, malformed or none of this server's names.")
        if not access.is_good_origin(headers, self._hosts):
            return BadRequest(403, "Pages of other sites may not call this server.")
        if scope["path"] in _OPEN:
            return None
        if self._service.in_flight > self._service.settings.max_concurrency:
            return BadRequest(503, "Too many requests at once; try again in a second.", code="overloaded")
        return self._without_key(scope)

    def _without_key(self, scope: Scope) -> BadRequest | None:
        service, is_feedback = self._service, scope["path"] == "/v1/feedback"
        keys = service.feedback_keys if is_feedback else service.keys
        if is_feedback and service.keys and not service.feedback_keys:
            return BadRequest(403, "Feedback is closed: this server has no key for it.")
        if not keys:
            return None
        presented = access.presented_key(scope["headers"])
        scope["semroute.owner"] = keys.owner(presented)
        if scope["semroute.owner"] is not None:
            return None
        said = "The request has no API key." if presented is None else "This API key is not known."
        return BadRequest(401, said, code="invalid_api_key")


class _Outgoing:
    """`send` with the headers that every response has; remembers the status."""

    def __init__(self, send: Send, identity: bytes) -> None:
        self._send = send
        self._identity = identity
        self.status: int | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), (b"x-request-id", self._identity)]
        await self._send(message)


def _where(error: Exception) -> str:
    """An error for the log, without its message, which may quote a prompt."""
    import traceback

    frames = traceback.extract_tb(error.__traceback__)[-3:]
    return f"{type(error).__name__} at " + " <- ".join(
        f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames)
    )


async def _respond(
    send: Send, status: int, content_type: bytes, body: bytes, headers: Iterable[tuple[bytes, bytes]] = ()
) -> None:
    length = str(len(body)).encode()
    listed = [(b"content-type", content_type), (b"content-length", length), *headers]
    await send({"type": "http.response.start", "status": status, "headers": listed})
    await send({"type": "http.response.body", "body": body})


async def _respond_error(
    scope: Scope, send: Send, error: BadRequest, headers: Iterable[tuple[bytes, bytes]] = ()
) -> None:
    listed = list(headers)
    if error.status in (429, 503) and not any(name == b"retry-after" for name, _ in listed):
        listed.append((b"retry-after", str(error.retry_after).encode()))
        if error.retry_after > 60:
            listed.append((b"x-should-retry", b"false"))
    if error.status == 401:
        listed.append((b"www-authenticate", b"Bearer"))
    body = wire.error(_api_of(scope), error.status, error.message, code=error.code, param=error.param)
    await _respond(send, error.status, _JSON, body, listed)


# Endpoints that answer at once


@dataclass(frozen=True, slots=True)
class Asked:
    """A small request: its body, the rest of its path, whose key it came with, and its trace."""

    raw: bytes
    name: str
    owner: str | None
    trace: RequestTrace


@dataclass(frozen=True, slots=True)
class Reply:
    """A small answer: JSON, or bytes of another kind."""

    status: int
    content: Any
    headers: tuple[tuple[bytes, bytes], ...] = ()
    content_type: bytes = _JSON


class _Endpoint:
    """An endpoint that takes a small body and answers at once."""

    def __init__(self, answer: Callable[[Asked], Awaitable[Reply]]) -> None:
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        service: Service = scope["app"].state.service
        try:
            raw = await _read(scope, receive, _limit(service)) if scope["method"] == "POST" else b""
            name = scope.get("path_params", {}).get("name", "")
            reply = await self._answer(Asked(raw, name, scope["semroute.owner"], scope["semroute.trace"]))
        except BadRequest as error:
            await _respond_error(scope, send, error)
            return
        except _Gone:
            return
        content = reply.content
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        await _respond(send, reply.status, reply.content_type, body, reply.headers)


def _limit(service: Service) -> int:
    return int(service.settings.max_body_mb * 1e6)


class _Gone(Exception):  # noqa: N818
    """The client has hung up."""


async def _read(scope: Scope, receive: Receive, limit: int) -> bytes:
    """The body. Raises BadRequest when it is too long, _Gone when the client is."""
    chunks, length = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Gone
        chunk = message.get("body", b"")
        length += len(chunk)
        if length <= limit:
            chunks.append(chunk)
        elif length > _DISCARDED_BYTES:
            break
        else:
            chunks.clear()
        if not message.get("more_body", False):
            break
    if length > limit:
        raise BadRequest(413, f"The body is longer than {limit:,} bytes.", code="request_too_large")
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


# Endpoints that call models


class _Hangup:
    """Ends the task that serves a client as soon as the client is gone."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._done = False
        self.gone = False

    async def __aenter__(self) -> _Hangup:
        self._owner = asyncio.current_task()
        self._waiting = asyncio.create_task(self._wait())
        return self

    async def _wait(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        if not self._done and self._owner is not None:
            self.gone = True
            self._owner.cancel()

    def answered(self) -> None:
        """The last byte is about to be sent: what comes now is no hang-up."""
        self._done = True

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        self._done = True
        self._waiting.cancel()
        if self.gone and self._owner is not None:
            self._owner.uncancel()
        return self.gone and kind is asyncio.CancelledError


@dataclass(slots=True)
class _Plan:
    """What a request becomes: the call, and the decision behind it, if there was one."""

    call: Call
    identity: str
    decision: Decision | None
    session: str | None = None
    owner: str | None = None
    before: tuple[Attempt, ...] = ()


class _Aside(Observer):
    """Writes down a call that is made before it is known what serves."""

    def __init__(self, service: Service, owner: str | None, trace: RequestTrace) -> None:
        self._service = service
        self._owner = owner
        self._trace = trace
        self.attempts: list[Attempt] = []

    def attempting(self, attempt: Attempt, upstream: Upstream) -> Headers:
        """See Observer."""
        return self._trace.attempting(attempt, upstream)

    def attempted(self, attempt: Attempt) -> None:
        """See Observer."""
        self.attempts.append(attempt)
        self._trace.attempted(attempt)
        self._service.metrics.attempted(attempt)
        self._service.spend(self._owner, attempt.usd or 0.0)


class _Ledger(Observer):
    """Writes down what happens while one request is served."""

    def __init__(self, service: Service, plan: _Plan, trace: RequestTrace) -> None:
        self._service = service
        self._plan = plan
        self._trace = trace
        self.attempts = list(plan.before)
        for attempt in plan.before:
            service.called(plan.decision, attempt)

    def attempting(self, attempt: Attempt, upstream: Upstream) -> Headers:
        """See Observer."""
        return self._trace.attempting(attempt, upstream)

    def attempted(self, attempt: Attempt) -> None:
        """See Observer."""
        service = self._service
        self.attempts.append(attempt)
        self._trace.attempted(attempt)
        if self._plan.call.counts:
            return
        service.metrics.attempted(attempt)
        if attempt.usd:
            service.spend(self._plan.owner, attempt.usd)
        if attempt.ids and attempt.outcome == "answered":
            service.affinity.note(attempt.ids, attempt.model)
        service.called(self._plan.decision, attempt)

    def rose(self, rise: Rise) -> None:
        """See Observer."""
        service, decision = self._service, self._plan.decision
        service.metrics.rose(rise)
        settings = service.router.index.config.settings.escalations
        if decision is None or settings is None or settings.store is None:
            return
        service.book(functools.partial(service.router.answered, decision.id, rise.model))
        said = {"to": rise.to, "why": rise.why}
        service.book(functools.partial(service.router.rejected, decision.id, **said))

    def answered_by(self, model: str) -> None:
        """Feedback on the decision is about the model that gave the answer."""
        decision = self._plan.decision
        if self._plan.call.counts:
            return
        if decision is not None and (decision.model != model or len(self.attempts) > 1):
            self._service.book(functools.partial(self._service.router.answered, decision.id, model))
        if self._plan.session is not None:
            self._service.affinity.note([self._plan.session], model, seconds=self._service.settings.sticky_s)


class _Completion:
    """POST of one of the three APIs: decide, call, pass on.

    counts: whether only the prompt's tokens are counted. Nothing is spent then, and nothing told of it.
    """

    def __init__(self, service: Service, api: Api, *, counts: bool = False) -> None:
        self._service = service
        self._api: Api = api
        self._counts = counts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = time.perf_counter()
        service = self._service
        try:
            raw = await _read(scope, receive, _limit(service))
            body = wire.read_body(raw)
            wire.check(self._api, body.fields)
            plan = await self._plan(scope, body)
        except BadRequest as error:
            await _respond_error(scope, send, error)
            return
        except _Gone:
            return
        trace: RequestTrace = scope["semroute.trace"]
        trace.asked(body.fields["model"].strip(), stream=plan.call.stream)
        if plan.decision is not None:
            trace.decided(plan.decision)
        ledger = _Ledger(service, plan, trace)
        response = _Response(send)
        async with _Hangup(receive) as hangup:
            try:
                await self._serve(plan, ledger, response, hangup)
            except NoUpstream:
                await response.refuse(scope, _unknown_model(f"No model here speaks {scope['path']}."), ())
            except NoAnswer as none:
                wait = str(math.ceil(none.retry_after)).encode()
                told = [*_plan_headers(plan, None), (b"retry-after", wait), (b"x-should-retry", b"false")]
                refusal = BadRequest(503, "No model answered.", code="no_model_available")
                await response.refuse(scope, refusal, told)
        trace.answered(response.model, failed=response.failed)
        seconds = time.perf_counter() - began
        status = 499 if hangup.gone else response.status
        settings = service.router.index.config.settings
        if not self._counts:
            service.live.add(
                plan.decision,
                ledger.attempts,
                settings,
                identity=plan.identity,
                status=status,
                seconds=seconds,
            )
        _log_request(scope, plan, ledger, response, hangup, seconds)

    # From the body to the call

    async def _plan(self, scope: Scope, body: Body) -> _Plan:
        limits = self._service.limits_of(scope["semroute.owner"])
        plan = await self._unlimited(scope, body, limits)
        call, cascade = plan.call, plan.call.cascade
        candidates = self._service.affordable(call.candidates, limits)
        if not candidates:
            raise BadRequest(403, "This key may not use so expensive a model.", code="model_too_expensive")
        if cascade is not None:
            to = self._service.affordable(cascade.to, limits)
            cascade = cascade.model_copy(update={"to": to}) if to else None
        plan.call = replace(call, candidates=candidates, cascade=cascade)
        plan.owner = scope["semroute.owner"]
        return plan

    async def _unlimited(self, scope: Scope, body: Body, limits: ClientLimits) -> _Plan:
        service, api, fields = self._service, self._api, body.fields
        head, tail = body.around_model()
        messages = wire.messages_of(api, fields)
        model = fields["model"].strip()
        call = Call(
            api,
            head,
            tail,
            (),
            stream=fields.get("stream") is True and not self._counts,
            headers=_passed_on(scope),
            tokens=estimated_tokens(messages),
            wants_json=wire.wants_json(api, fields),
            counts=self._counts,
        )
        if model == AUTO or model.startswith("router@"):
            return await self._routed(scope, body, messages, call, limits)
        known = service.upstreams.find(model)
        if known is None:
            message = f"There is no such model; GET /v1/models lists them, and {AUTO} chooses one."
            raise _unknown_model(message)
        return _Plan(replace(call, candidates=(known,)), new_ulid(), None)

    async def _routed(
        self, scope: Scope, body: Body, messages: Any, call: Call, limits: ClientLimits
    ) -> _Plan:
        service, api, fields = self._service, self._api, body.fields
        asked: dict[str, Any] = {}
        needs, metadata = wire.needs_of(api, fields), body.metadata
        if needs:
            asked["needs"] = needs
        if limits.max_usd_per_1m is not None:
            asked["max_usd_per_1m"] = limits.max_usd_per_1m
        if metadata:
            asked["metadata"] = metadata
            if isinstance(metadata.get("step"), str):
                asked["step"] = metadata["step"]
        space: tuple[str, ...] = ()
        if fields["model"].strip() != AUTO:
            weights, space = service.choice(fields["model"].strip())
            asked |= {"weights": weights} if weights is not None else {}
            asked |= {"models": space} if space else {}
        aside = _Aside(service, scope["semroute.owner"], scope["semroute.trace"])
        decision = await service.decide(messages, asked, None if self._counts else aside)
        session = _session(scope, metadata) if service.settings.sticky_s else None
        ids, only = wire.continued(api, fields)
        pinned = service.affinity.model_of([*ids, *([session] if session else [])])
        if pinned is not None and (not space or pinned in space):
            decision = _pinned(decision, pinned, only=only)
        held = pinned is None and not space and not self._counts
        cascade = service.cascade_of(decision) if held else None
        if service.settings.regenerate and not self._counts:
            digest = hashlib.blake2b(
                call.head + call.tail + (scope["semroute.owner"] or "").encode(), digest_size=16
            ).digest()
            service.regenerated(digest, decision.id, scope["semroute.owner"])
        call = replace(
            call,
            candidates=(decision.model, *decision.fallbacks),
            cascade=cascade,
            question=routed_text(messages) if cascade is not None else "",
        )
        return _Plan(call, decision.id, decision, session, before=tuple(aside.attempts))

    # From the call to the response

    async def _serve(self, plan: _Plan, ledger: _Ledger, response: _Response, hangup: _Hangup) -> None:
        upstreams = self._service.upstreams
        if plan.call.stream and plan.call.cascade is not None:
            await self._serve_held(plan, ledger, response, hangup)
            return
        answer = await upstreams.answer(plan.call, ledger)
        await self._pass_on(answer, plan, ledger, response, hangup)

    async def _serve_held(self, plan: _Plan, ledger: _Ledger, response: _Response, hangup: _Hangup) -> None:
        """A stream that waits for its verdict; comments keep the client's connection meanwhile."""
        answering = asyncio.ensure_future(self._service.upstreams.answer(plan.call, ledger))
        try:
            while True:
                done, _ = await asyncio.wait((answering,), timeout=self._service.settings.keep_alive_s)
                if done:
                    break
                if not response.started:
                    headers = _plan_headers(plan, plan.call.candidates[0])
                    await response.start(200, b"text/event-stream", headers)
                await response.send(b": waiting for the answer\n\n")
            try:
                answer = answering.result()
            except (NoAnswer, NoUpstream):
                if not response.started:
                    raise
                response.failed = True
                hangup.answered()
                await response.end(wire.stream_error(self._api, "No model answered."))
                return
            await self._pass_on(answer, plan, ledger, response, hangup)
        finally:
            if not answering.done():
                answering.cancel()
                with suppress(asyncio.CancelledError, NoAnswer, NoUpstream):
                    await answering

    async def _pass_on(
        self, answer: Answer, plan: _Plan, ledger: _Ledger, response: _Response, hangup: _Hangup
    ) -> None:
        ledger.answered_by(answer.model)
        response.model = answer.model
        try:
            if not response.started:
                headers = _plan_headers(plan, answer.model)
                if answer.body is not None:
                    headers.append((b"content-length", str(len(answer.body)).encode()))
                await response.start(answer.status, answer.content_type, headers)
            if answer.body is not None:
                hangup.answered()
                refused = response.held and answer.status >= 400
                response.failed = refused
                await response.end(
                    wire.stream_error(self._api, "The model refused.") if refused else answer.body
                )
                return
            async with aclosing(answer.events()) as events:  # type: ignore[type-var]
                async for chunk in events:
                    await response.send(chunk)
            response.failed = answer.failed
            hangup.answered()
            await response.end(b"")
        finally:
            await answer.close()


_NO_LIMITS = ClientLimits()
_TRACED = {*_PATHS, "/v1/route"}
_SMALL = {"/v1/models", "/v1/route", "/v1/feedback", "/metrics", "/live", "/live/map", "/live/place"}
_KNOWN = {*_PATHS, *_OPEN, *_SMALL, _COUNT}


class _Response:
    """The response to one client, as far as it has gone."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = False
        self.held = False
        self.failed = False
        self.status = 0
        self.model: str | None = None

    async def start(self, status: int, content_type: bytes, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Status and headers."""
        self.started, self.status = True, status
        listed = [(b"content-type", content_type), *headers]
        if content_type.startswith(b"text/event-stream"):
            listed.append((b"cache-control", b"no-cache"))
        await self._send({"type": "http.response.start", "status": status, "headers": listed})

    async def send(self, body: bytes) -> None:
        """Some of the body."""
        self.held = True
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def end(self, body: bytes) -> None:
        """The rest of it."""
        await self._send({"type": "http.response.body", "body": body})

    async def refuse(self, scope: Scope, error: BadRequest, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """An error, where nothing has been sent."""
        self.status = error.status
        await _respond_error(scope, self._send, error, headers)


def _pinned(decision: Decision, model: str, *, only: bool) -> Decision:
    """`decision` with the model that gave the answer this request goes on with."""
    others = [name for name in (decision.model, *decision.fallbacks) if name != model]
    if model == decision.model:
        return replace(decision, fallbacks=()) if only else decision
    return replace(
        decision,
        model=model,
        fallbacks=() if only else tuple(others),
        reason="constraint",
        detail=f"{model!r} goes on with what it began.",
    )


def _session(scope: Scope, metadata: Mapping[str, Any]) -> str | None:
    """The session that the caller names, told apart by the caller's key."""
    given = metadata.get("session_id")
    return f"session:{scope['semroute.owner']}:{given}" if isinstance(given, str) and given else None


def _passed_on(scope: Scope) -> tuple[tuple[bytes, bytes], ...]:
    return tuple(
        (name, value)
        for name, value in scope["headers"]
        if name in _PASSED_ON and len(value) <= 1_000 and value.isascii()
    )


def _header(value: str) -> bytes:
    """A name as a header may hold it: what is not plain ASCII is percent-encoded."""
    return quote(value, safe=" !#$&'()*+,/:;=?@[]~").encode()


def _decision_headers(decision: Decision) -> tuple[tuple[bytes, bytes], ...]:
    return (
        (b"x-semroute-id", decision.id.encode()),
        (b"x-semroute-route", _header(decision.route or "default")),
        (b"x-semroute-model", _header(decision.model)),
        (b"x-semroute-reason", decision.reason.encode()),
    )


def _plan_headers(plan: _Plan, model: str | None) -> list[tuple[bytes, bytes]]:
    """What a response says of the decision; `model` is the one that answered."""
    decision = plan.decision
    headers = [(b"x-semroute-id", plan.identity.encode())]
    if decision is not None:
        headers.append((b"x-semroute-route", _header(decision.route or "default")))
        headers.append((b"x-semroute-reason", decision.reason.encode()))
    if model is not None:
        headers.append((b"x-semroute-model", _header(model)))
    return headers


def _log_request(
    scope: Scope, plan: _Plan, ledger: _Ledger, response: _Response, hangup: _Hangup, seconds: float
) -> None:
    """One line of JSON about the request; nothing of what was asked or answered."""
    if not _access_log.isEnabledFor(logging.INFO):
        return
    decision = plan.decision
    told = {
        "request_id": scope["semroute.request_id"].decode(),
        "id": plan.identity,
        "path": scope["path"],
        "key": scope.get("semroute.owner"),
        "status": 499 if hangup.gone else response.status,
        "stream": plan.call.stream,
        "failed": response.failed,
        "ms": round(seconds * 1e3, 1),
        "route": None if decision is None else decision.route,
        "reason": None if decision is None else decision.reason,
        "confidence": None if decision is None else round(decision.confidence, 4),
        "attempts": [
            {
                "model": one.model,
                "purpose": one.purpose,
                "outcome": one.outcome,
                "error": one.error,
                "ms": round(one.latency_ms, 1),
                "ttft_ms": None if one.ttft_ms is None else round(one.ttft_ms, 1),
                "prompt_tokens": one.prompt_tokens,
                "completion_tokens": one.completion_tokens,
                "usd": one.usd,
            }
            for one in ledger.attempts
        ],
    }
    _access_log.info("%s", json.dumps(told))
