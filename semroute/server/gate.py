"""Before everything: who asks, under which name, how many at once."""

from __future__ import annotations

import json
import logging
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from semroute import access
from semroute.access import Keys
from semroute.server.asgi import respond_error
from semroute.server.service import Service
from semroute.tracing import RequestTrace, Tracing
from semroute.ulid import new_ulid
from semroute.wire import BadRequest

if TYPE_CHECKING:
    from collections.abc import Collection

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_log = logging.getLogger("semroute.serve")
_access_log = logging.getLogger("semroute.access")

OPEN = frozenset({"/healthz", "/readyz", "/"})
"""Paths that ask for no key."""


class Gate:
    """Before everything: who asks, under which name, how many at once. Nothing raises through it."""

    def __init__(
        self,
        app: ASGIApp,
        service: Service,
        keys: Keys,
        feedback_keys: Keys,
        hosts: frozenset[str] | None,
        tracing: Tracing,
        *,
        paths: Collection[str],
        traced: Collection[str],
        listed: Collection[str],
    ) -> None:
        """`paths`: those the metrics tell apart; `traced`: those of which a span is made.

        `listed`: those whose refusals the page shows.
        """
        self._app = app
        self._service = service
        self._keys = keys
        self._feedback_keys = feedback_keys
        self._hosts = hosts
        self._tracing = tracing
        self._paths = paths
        self._traced = traced
        self._listed = listed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
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
        trace = RequestTrace()
        if path in self._traced:
            trace = self._tracing.begin(scope["method"], path, headers)
        scope["semroute.trace"] = trace
        outgoing = _Outgoing(send, identity, twice=path.startswith("/v1/messages"))
        service.in_flight += 1
        try:
            refusal = self._refusal(scope)
            if refusal is not None:
                if path in self._listed:
                    service.live.refuse(refusal.status, refusal.message, scope["semroute.owner"])
                closing = [(b"connection", b"close")] if refusal.status == 400 else []
                await respond_error(scope, outgoing, refusal, closing)
            else:
                await self._app(scope, receive, outgoing)
        except Exception as error:  # noqa: BLE001 - a fault of ours must not tell the client more than that
            _log.error("A request failed: %s", _where(error))
            if outgoing.status is None:
                await respond_error(scope, outgoing, BadRequest(500, "The server failed."))
        finally:
            service.in_flight -= 1
            endpoint, seconds = path if path in self._paths else "other", time.perf_counter() - began
            service.metrics.requested(endpoint, outgoing.status or 499, seconds)
            trace.end(outgoing.status or 499)
            if path.startswith("/v1/") and _access_log.isEnabledFor(logging.INFO):
                _log_request(scope, endpoint, outgoing.status or 499, seconds)

    def _refusal(self, scope: Scope) -> BadRequest | None:
        """Why a request is not served; None where it is."""
        headers = scope["headers"]
        scope["semroute.owner"] = None
        if not access.is_good_host(headers, self._hosts):
            return BadRequest(400, "The Host header is missing, malformed or none of this server's names.")
        if not access.is_good_origin(headers, self._hosts):
            return BadRequest(403, "Pages of other sites may not call this server.")
        if scope["path"] in OPEN:
            return None
        if self._service.in_flight > self._service.settings.max_concurrency:
            return BadRequest(503, "Too many requests at once; try again in a second.", code="overloaded")
        return self._without_key(scope)

    def _without_key(self, scope: Scope) -> BadRequest | None:
        is_feedback = scope["path"] == "/v1/feedback"
        keys = self._feedback_keys if is_feedback else self._keys
        if is_feedback and self._keys and not self._feedback_keys:
            return BadRequest(403, "Feedback is closed: this server has no key for it.")
        if not keys:
            return None
        presented = access.presented_key(scope["headers"])
        owner = keys.owner(presented)
        elsewhere = (self._keys if is_feedback else self._feedback_keys).owner(presented)
        scope["semroute.owner"] = owner or elsewhere  # the log says whose key it was, refused or not
        if owner is not None:
            return None
        if elsewhere is not None:
            said = "This key may not give feedback." if is_feedback else "This key may only give feedback."
            return BadRequest(403, said, code="wrong_key")
        said = "The request has no API key." if presented is None else "This API key is not known."
        return BadRequest(401, said, code="invalid_api_key")


class _Outgoing:
    """`send` with the headers that every response has; remembers the status.

    twice: whether the id goes by the name that Anthropic's clients read, too.
    """

    def __init__(self, send: Send, identity: bytes, *, twice: bool) -> None:
        self._send = send
        names = (b"x-request-id", b"request-id") if twice else (b"x-request-id",)
        self._own = [(name, identity) for name in names]
        self.status: int | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), *self._own]
        await self._send(message)


def _log_request(scope: Scope, endpoint: str, status: int, seconds: float) -> None:
    """One line of JSON about a request, with what its endpoint told; of paths, those of this server."""
    told = {
        "request_id": scope["semroute.request_id"].decode(),
        "path": endpoint,
        "key": scope.get("semroute.owner"),
        "status": status,
        "ms": round(seconds * 1e3, 1),
    }
    _access_log.info("%s", json.dumps(told | scope.get("semroute.told", {})))


def _where(error: Exception) -> str:
    """An error for the log, without its message, which may quote a prompt."""
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    return f"{type(error).__name__} at " + " <- ".join(
        f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames)
    )
