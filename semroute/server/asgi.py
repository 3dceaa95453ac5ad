"""What stands between ASGI and the rest: reading a body, seeing a client go, sending an answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from semroute import wire
from semroute.config import Api, ServeSettings
from semroute.tracing import RequestTrace
from semroute.wire import BadRequest

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

JSON = b"application/json"
_DISCARDED_BYTES = 256 << 20  # of a body that is too long: read, so that the client sees why


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
    content_type: bytes = JSON


class Gone(Exception):  # noqa: N818
    """The client has hung up."""


async def read_body(scope: Scope, receive: Receive, settings: ServeSettings) -> bytes:
    """The body. Raises BadRequest when it is too long, too slow or compressed, and Gone."""
    encodings = {value.strip().lower() for name, value in scope["headers"] if name == b"content-encoding"}
    if encodings - {b"", b"identity"}:
        raise BadRequest(400, "The body is compressed; send it as it is.", code="unsupported_encoding")
    try:
        async with asyncio.timeout(settings.body_s):
            return await _whole_body(receive, int(settings.max_body_mb * 1e6))
    except TimeoutError:
        message = f"The body was not here within {settings.body_s:g} seconds."
        raise BadRequest(408, message, code="request_timeout") from None


async def _whole_body(receive: Receive, limit: int) -> bytes:
    chunks, length = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Gone
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


class Hangup:
    """Ends the task that serves a client as soon as the client is gone."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._done = False
        self.gone = False

    async def __aenter__(self) -> Hangup:
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


class Response:
    """The response to one client, as far as it has gone."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = False
        self.failed = False
        self.status = 0
        self.model: str | None = None
        self.said: str | None = None  # instead of an answer

    async def start(self, status: int, content_type: bytes, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Status and headers."""
        self.started, self.status = True, status
        listed = [(b"content-type", content_type), *headers]
        if content_type.startswith(b"text/event-stream"):
            listed.append((b"cache-control", b"no-cache"))
            listed.append((b"x-accel-buffering", b"no"))  # a proxy in between must not gather the events
        await self._send({"type": "http.response.start", "status": status, "headers": listed})

    async def send(self, body: bytes) -> None:
        """Some of the body."""
        await self._send({"type": "http.response.body", "body": body, "more_body": True})

    async def end(self, body: bytes) -> None:
        """The rest of it."""
        await self._send({"type": "http.response.body", "body": body})

    async def refuse(self, scope: Scope, error: BadRequest, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """An error, where nothing has been sent."""
        self.status, self.said = error.status, error.message
        await respond_error(scope, self._send, error, headers)


async def respond(
    send: Send, status: int, content_type: bytes, body: bytes, headers: Iterable[tuple[bytes, bytes]] = ()
) -> None:
    """The whole of a response."""
    length = str(len(body)).encode()
    listed = [(b"content-type", content_type), (b"content-length", length), *headers]
    await send({"type": "http.response.start", "status": status, "headers": listed})
    await send({"type": "http.response.body", "body": body})


async def respond_error(
    scope: Scope, send: Send, error: BadRequest, headers: Iterable[tuple[bytes, bytes]] = ()
) -> None:
    """An error in the dialect of the path."""
    listed = list(headers)
    if error.status in (429, 503) and not any(name == b"retry-after" for name, _ in listed):
        listed.append((b"retry-after", str(error.retry_after).encode()))
        if error.retry_after > 60:
            listed.append((b"x-should-retry", b"false"))
    if error.status == 501:  # clients try every 5xx again, and this one will not change
        listed.append((b"x-should-retry", b"false"))
    if error.status == 408:
        listed.append((b"connection", b"close"))  # what is still to come of the body is not waited for
    if error.status == 401:
        listed.append((b"www-authenticate", b"Bearer"))
    body = wire.error(api_of(scope), error.status, error.message, code=error.code, param=error.param)
    await respond(send, error.status, JSON, body, listed)


def api_of(scope: Scope) -> Api:
    """Whose dialect the caller speaks: the path's, elsewhere that of whoever sends Anthropic's header."""
    path = scope["path"]
    if path.startswith(("/v1/chat", "/v1/responses")):
        return "chat"
    is_anthropic = any(name == b"anthropic-version" for name, _ in scope["headers"])
    return "messages" if is_anthropic or path.startswith("/v1/messages") else "chat"


class Endpoint:
    """An endpoint that takes a small body and answers at once. settings: those that hold now."""

    def __init__(
        self, answer: Callable[[Asked], Awaitable[Reply]], settings: Callable[[], ServeSettings]
    ) -> None:
        self._answer = answer
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        try:
            raw = await read_body(scope, receive, self._settings()) if scope["method"] == "POST" else b""
            name = scope.get("path_params", {}).get("name", "")
            reply = await self._answer(Asked(raw, name, scope["semroute.owner"], scope["semroute.trace"]))
        except BadRequest as error:
            await respond_error(scope, send, error)
            return
        except Gone:
            return
        content = reply.content
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        await respond(send, reply.status, reply.content_type, body, reply.headers)
