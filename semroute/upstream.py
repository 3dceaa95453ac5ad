"""Calls models over HTTP: fallback after an error and cascade after a rejected answer, in one loop.

    candidates -> the first that is ready -> headers -> first content, or all of it -> accepted -> client
                      ^                        |                            |
                      `-- next after an error -'     next rung, if rejected '

Nothing reaches the client before an answer has content, so until then a failure is invisible; afterwards it
ends the stream with an error event. Bytes of requests and answers are passed on as they are.
"""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import math
import ssl
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal, NoReturn
from urllib.parse import quote, urlsplit

import httpcore2
import httpx2

from semroute import cascade, wire
from semroute.answers import Reading
from semroute.config import Api, Cascade, ModelCard, ServeSettings
from semroute.health import Clock, Health, RetryBudget
from semroute.network import WIRE, Backend, Pool, Pools, Wire
from semroute.sse import Event, EventSplitter, EventTooLong

_log = logging.getLogger("semroute.serve")

_ANSWER_BYTES = 64 << 20
_REFUSAL_BYTES = 1 << 20
_DRAIN_S = 0.25  # for the end of a body whose last event is here, so that the connection can be used again
_PATHS: dict[Api, str] = {"chat": "/chat/completions", "responses": "/responses", "messages": "/messages"}
_KEPT_CONNECTIONS = 32  # of a pool, while nothing is asked of them
_TICK_S = 0.02  # by which a timer may be early
_BASES = {"openai": "https://api.openai.com/v1", "anthropic": "https://api.anthropic.com/v1"}
_PASSED_BACK = {400, 413, 422}
_OURS = {401, 402, 403, 404, 405, 410}  # what only who runs this server can mend
_TOO_LONG = (b"context_length_exceeded", b"maximum context length", b"prompt is too long", b"context window")

_BROKEN = (
    httpcore2.NetworkError,
    httpcore2.ProtocolError,
    httpcore2.TimeoutException,
    httpcore2.UnsupportedProtocol,
    OSError,
)

Headers = tuple[tuple[bytes, bytes], ...]
Purpose = Literal["answer", "judge", "arbiter"]
Outcome = Literal["answered", "rejected", "failed", "refused", "cancelled"]


@dataclass(frozen=True, slots=True)
class Call:
    """One request of a client, ready to be sent to any of `candidates`.

    head, tail: the body before and after the value of `model`. headers: what is passed on of the client's.
    tokens: about how many the prompt has. limit: how many the answer may have, if the client says. choices:
    how many answers are asked for at once.
    question: what a judge model reads of the request.
    counts: whether only the number of the prompt's tokens is asked for, which is no answer.
    """

    api: Api
    head: bytes
    tail: bytes
    candidates: tuple[str, ...]
    stream: bool = False
    cascade: Cascade | None = None
    headers: Headers = ()
    tokens: int = 0
    limit: int | None = None
    choices: int = 1
    wants_json: bool = False
    wants_usage: bool = False
    question: str = ""
    counts: bool = False


@dataclass(slots=True)
class Attempt:
    """What became of one call of one model. Tokens are `estimated` where the answer does not tell them.

    error: a short fixed phrase, without anything the upstream said. usd: None without prices.
    response_model, finish: what the answer says of itself, if it does.
    """

    model: str
    purpose: Purpose = "answer"
    outcome: Outcome = "failed"
    error: str | None = None
    latency_ms: float = 0.0
    ttft_ms: float | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated: bool = True
    usd: float | None = None
    response_model: str | None = None
    finish: str | None = None
    ids: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Rise:
    """An answer of `model` was rejected for the reason `why`, and `to` was asked."""

    model: str
    to: str
    why: str


class NoAnswer(Exception):  # noqa: N818 - it is what there is not
    """No candidate answered. retry_after: seconds until the first of them may be asked again."""

    def __init__(self, retry_after: float) -> None:
        self.retry_after = retry_after
        super().__init__("no model answered")


class NoUpstream(Exception):  # noqa: N818
    """None of the candidates speaks the API that the client called."""


class Answer:
    """What goes back to the client: `body` as a whole, or `events` as they come where that is None.

    Whoever has an Answer must `close` it, read to its end or not.
    """

    def __init__(
        self,
        model: str,
        status: int,
        content_type: bytes,
        body: bytes | None,
        *,
        exchange: _Exchange | None = None,
        failed: bool = False,
    ) -> None:
        self.model = model
        self.status = status
        self.content_type = content_type
        self.body = body
        self.failed = failed
        self._exchange = exchange

    async def events(self) -> AsyncIterator[bytes]:
        """The bytes of a stream, in whole events. Never raises an upstream's fault: it becomes an event."""
        if self._exchange is not None:
            async for chunk in self._exchange.live():
                yield chunk
            self.failed = self._exchange.attempt.outcome == "failed"

    async def close(self) -> None:
        """Let go of the upstream, also in the middle of its answer."""
        if self._exchange is not None:
            await self._exchange.close()


class Observer:
    """Is told what happens while a request is served. Override what you need."""

    def attempting(self, attempt: Attempt, upstream: Upstream) -> Headers:
        """An attempt begins; returns headers to send with it, in place of the client's of that name."""
        return ()

    def attempted(self, attempt: Attempt) -> None:
        """An attempt has ended."""

    def rose(self, rise: Rise) -> None:
        """An answer was rejected and a stronger model is asked."""


class Upstream:
    """One model that can be called: its addresses, its key, its health."""

    def __init__(self, name: str, card: ModelCard, key: str | None, health: Health) -> None:
        self.name = name
        self.card = card
        self.id = card.id or name
        self.health = health
        self.lacks_key = card.api_key_env is not None and key is None
        base = (card.base_url or _BASES.get(card.provider) or "").rstrip("/")
        self.apis: frozenset[Api] = frozenset(card.apis or _usual_apis(card)) if base else frozenset()
        self.urls = {api: _url(base + _PATHS[api]) for api in self.apis}
        self.server = _server(base)
        self._count_url = _url(base + _PATHS["messages"] + "/count_tokens") if base else None
        self._json_id = json.dumps(self.id, ensure_ascii=False).encode()
        self._headers = {api: _headers(card, api, key, self.urls[api]) for api in self.apis}

    def request(
        self, call: Call, more: Headers = ()
    ) -> tuple[httpcore2.URL, list[tuple[bytes, bytes]], bytes]:
        """Address, headers and body of `call` for this model; `more` headers in place of the client's."""
        body = call.head + self._json_id + call.tail
        accepted = b"text/event-stream" if call.stream else b"application/json"
        replaced = {name for name, _ in more}
        passed_on = [header for header in call.headers if header[0] not in replaced]
        headers = [*self._headers[call.api], *passed_on, *more, (b"accept", accepted)]
        headers.append((b"content-length", str(len(body)).encode()))
        url = self._count_url if call.counts and self._count_url is not None else self.urls[call.api]
        return url, headers, body


@functools.cache
def _authorities() -> ssl.SSLContext:
    """The usual certificate authorities; reading them takes some 20 ms."""
    return httpx2.create_ssl_context(trust_env=False)


def _usual_apis(card: ModelCard) -> tuple[Api, ...]:
    if card.provider == "anthropic":
        return ("chat", "messages")
    host = urlsplit(card.base_url or _BASES["openai"]).hostname
    return ("chat", "responses") if host == "api.openai.com" else ("chat",)


def _server(base: str) -> dict[str, str | int]:
    """Where the model is, by the names that traces have for it."""
    parts = urlsplit(base)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return {"server.address": parts.hostname, "server.port": port} if parts.hostname and port else {}


def _url(address: str) -> httpcore2.URL:
    parts = urlsplit(address)
    host = (parts.hostname or "").encode("idna" if not (parts.hostname or "").isascii() else "ascii")
    target = quote(parts.path, safe="/%:@!$&'()*+,;=~-._").encode()
    return httpcore2.URL(scheme=parts.scheme.encode(), host=host, port=parts.port, target=target)


def _headers(card: ModelCard, api: Api, key: str | None, url: httpcore2.URL) -> list[tuple[bytes, bytes]]:
    host = b"[%s]" % url.host if b":" in url.host else url.host
    headers = [
        (b"host", host if url.port is None else b"%s:%d" % (host, url.port)),
        (b"content-type", b"application/json"),
        (b"accept-encoding", b"identity"),
        (b"user-agent", b"semroute"),
    ]
    if key is not None and api == "messages":
        headers.append((b"x-api-key", key.encode()))
    elif key is not None:
        headers.append((b"authorization", b"Bearer " + key.encode()))
    return headers


class Upstreams:
    """The models of a config, and the one loop that calls them. For one event loop.

    environ: where the keys are, by the names that the cards give; read here and never again.
    tls: in place of a context with the usual certificate authorities.
    """

    def __init__(
        self,
        cards: Mapping[str, ModelCard],
        settings: ServeSettings,
        environ: Mapping[str, str],
        *,
        tls: ssl.SSLContext | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self._environ = dict(environ)
        self._clock = clock
        self._budget = RetryBudget(clock)
        self._upstreams: dict[str, Upstream] = {}
        # The pools of httpx2's engine and not its client: no redirects, no cookies, no proxies of the
        # environment, and half the work.
        self.pools = Pools(
            functools.partial(
                httpcore2.AsyncConnectionPool,
                ssl_context=tls or _authorities(),
                max_connections=2 * settings.max_concurrency,
                max_keepalive_connections=_KEPT_CONNECTIONS,
                keepalive_expiry=30.0,
                network_backend=Backend(),
            )
        )
        self.update(cards, settings)

    def update(self, cards: Mapping[str, ModelCard], settings: ServeSettings) -> None:
        """Take the models of a new config; what is known of the health of those that stay is kept."""
        self._settings = settings
        fresh = {}
        for name, card in cards.items():
            old = self._upstreams.get(name)
            if old is not None and old.card == card:
                old.health.cooldown, old.health.longest = settings.cooldown_s, settings.max_cooldown_s
                fresh[name] = old
                continue
            key = self._environ.get(card.api_key_env, "").strip() if card.api_key_env else ""
            if card.api_key_env and not key:
                _log.warning("Model %r: the environment variable %s is not set.", name, card.api_key_env)
            if key and not (key.isascii() and key.isprintable() and " " not in key):
                _log.error("Model %r: %s holds characters that no key has.", name, card.api_key_env)
                key = ""
            health = Health(settings.cooldown_s, settings.max_cooldown_s)
            fresh[name] = Upstream(name, card, key or None, health)
        self._upstreams = fresh

    def names(self) -> list[str]:
        """The names of all models."""
        return list(self._upstreams)

    def find(self, name: str) -> str | None:
        """The model of that name, or of that id at its provider; None where there is none."""
        if name in self._upstreams:
            return name
        return next((one.name for one in self._upstreams.values() if one.id == name), None)

    def health(self) -> dict[str, Health]:
        """How each model is doing."""
        return {name: upstream.health for name, upstream in self._upstreams.items()}

    def is_resting(self, name: str) -> bool:
        """Whether the model is left alone now, after failures."""
        return not self._upstreams[name].health.is_ready(self._clock())

    def lacks_key(self, name: str) -> bool:
        """Whether the model cannot be called, because the variable of its key is not set."""
        return self._upstreams[name].lacks_key

    async def close(self) -> None:
        """Close every connection."""
        await self.pools.aclose()

    async def answer(self, call: Call, observer: Observer) -> Answer:
        """The first good answer. Raises NoUpstream or NoAnswer."""
        if not call.counts:
            self._budget.request()
        until = self._clock() + self._settings.total_s
        queue = self._speaking(call.candidates, call.api)
        if not queue:
            raise NoUpstream
        failures, held, refused, waking = 0, None, None, True
        while queue and self._clock() < until:
            if (upstream := self._next(queue)) is None and waking:
                waking = False
                upstream = self._woken(queue, required=not failures and held is None and refused is None)
            if upstream is None or (failures and not self._budget.take()):
                break
            rungs = self._rungs(call, upstream)
            exchange = _Exchange(self, upstream, call, observer, until)
            try:
                answer = await exchange.answer(hold=bool(rungs))
            except _Failed:
                failures += not call.counts  # one that cannot count must not use up the retries of answers
                continue
            except _Refused as error:
                refused = error.answer
                queue = self._larger(queue, upstream) if error.too_long else []
                continue
            try:
                why = await self._objection(exchange, call, observer) if rungs else None
            except BaseException:  # the client has gone while the judge was asked
                await exchange.close()
                raise
            if why is None:
                exchange.finish("answered")
                return answer
            exchange.finish("rejected", why)
            observer.rose(Rise(upstream.name, rungs[0].name, why))
            held, queue, failures = held or answer, rungs, 0
        if held is not None or refused is not None:
            return held or refused  # type: ignore[return-value]
        raise NoAnswer(self._soonest(call))

    def _speaking(self, names: Iterable[str], api: Api) -> list[Upstream]:
        known = (self._upstreams.get(name) for name in names)
        return [upstream for upstream in known if upstream is not None and api in upstream.apis]

    def _next(self, queue: list[Upstream]) -> Upstream | None:
        """Take the first that is ready from `queue`."""
        now = self._clock()
        found = next((upstream for upstream in queue if upstream.health.is_ready(now)), None)
        if found is not None:
            queue.remove(found)
        return found

    def _woken(self, queue: list[Upstream], *, required: bool) -> Upstream | None:
        """Take the one that is ready soonest, since no other is left.

        One that has asked to be left alone only where one is `required`: it would be the first to be asked.
        """
        now = self._clock()
        sleeping = [one for one in queue if required or one.health.told <= now]
        found = min(sleeping, key=lambda upstream: upstream.health.until, default=None)
        if found is not None:
            queue.remove(found)
        return found

    def _rungs(self, call: Call, upstream: Upstream) -> list[Upstream]:
        """Where an answer of `upstream` may go that is rejected."""
        if call.cascade is None:
            return []
        to = call.cascade.to
        above = to[to.index(upstream.name) + 1 :] if upstream.name in to else to
        return self._speaking(above, call.api)

    def _larger(self, queue: list[Upstream], than: Upstream) -> list[Upstream]:
        """Those of `queue` that are declared to read more."""
        least = than.card.context_tokens or 0
        return [one for one in queue if (one.card.context_tokens or 0) > least]

    async def _objection(self, exchange: _Exchange, call: Call, observer: Observer) -> str | None:
        """Why the held answer is not good enough; None where it is."""
        if call.cascade is None:
            return None
        accept, reading = call.cascade.accept, exchange.reading
        why = cascade.why_rejected(reading, accept, wants_json=call.wants_json, limit=call.limit)
        judged = not reading.tools and not reading.cut_by(call.limit)
        if why is None and accept.judge is not None and judged:
            body = cascade.judge_body(accept.judge, call.question, reading.text)
            said = await self.ask(accept.judge, body, exchange.until, observer, "judge")
            return "judge" if cascade.says_no(said or "") else None
        return why

    async def ask(
        self, model: str, body: bytes, until: float, observer: Observer, purpose: Purpose
    ) -> str | None:
        """What `model` says to a chat completion of our own; None where it does not answer by `until`.

        A model that rests is not asked.
        """
        speaking = self._speaking([model], "chat")
        if not speaking or not speaking[0].health.is_ready(self._clock()):
            return None
        head, tail = wire.read_body(body).around_model()
        call = Call("chat", head, tail, (model,), tokens=len(body) // 4)
        exchange = _Exchange(self, speaking[0], call, observer, until, purpose=purpose)
        try:
            await exchange.answer(hold=True)
        except (_Failed, _Refused):
            return None
        exchange.finish("answered")
        return exchange.reading.text

    def _soonest(self, call: Call) -> float:
        now = self._clock()
        return max(1.0, min(one.health.until - now for one in self._speaking(call.candidates, call.api)))


class _Failed(Exception):  # noqa: N818
    """An attempt that another model may make good. `error` is a fixed phrase."""

    def __init__(
        self, error: str, *, retry_after: float | None = None, at_once: bool = False, limited: bool = False
    ) -> None:
        self.error = error
        self.retry_after = retry_after
        self.at_once = at_once
        self.limited = limited
        super().__init__(error)


class _Refused(Exception):  # noqa: N818
    """The upstream finds fault with the request itself; the client is told in the upstream's words."""

    def __init__(self, answer: Answer, *, too_long: bool) -> None:
        self.answer = answer
        self.too_long = too_long
        super().__init__(answer.status)


class _Exchange:
    """One attempt at one upstream, from the request to the last byte of the answer."""

    def __init__(
        self,
        owner: Upstreams,
        upstream: Upstream,
        call: Call,
        observer: Observer,
        until: float,
        *,
        purpose: Purpose = "answer",
    ) -> None:
        self.until = until
        self.attempt = Attempt(upstream.name, purpose)
        self.reading = Reading(call.api)
        self._settings = owner._settings
        self._pools = owner.pools
        self._pool: Pool | None = None
        self._clock = owner._clock
        self._upstream = upstream
        # A count says nothing about a model: it has limits of its own, and not every server counts.
        self._health = Health(0.0, 0.0) if call.counts else upstream.health
        self._call = call
        self._observer = observer
        self._began = self._clock()
        self._first: float | None = None
        self._response: httpcore2.Response | None = None
        self._chunks: AsyncIterator[bytes] | None = None
        self._splitter = EventSplitter()
        self._ready: list[bytes] = []
        self._size = 0
        self._done = False
        self._live = False
        self._ended = False
        self._more: Headers = ()

    async def answer(self, *, hold: bool) -> Answer:
        """The answer: whole where it is not streamed or to be held, else from its first content on.

        Raises _Failed or _Refused, and closes the connection then.
        """
        self.reading = Reading(self._call.api, keep_text=hold, choices=self._call.choices)
        self._health.asked()
        self._more = self._observer.attempting(self.attempt, self._upstream)
        try:
            response = await self._open()
            headers = {name.lower(): value for name, value in response.headers}
            self._check(response.status, headers)
            kind = headers.get(b"content-type", b"application/json")
            if response.status in _PASSED_BACK:
                await self._refuse(response.status, kind)
            if self._call.stream and kind.lower().startswith(b"text/event-stream"):
                return await self._streamed(kind, hold=hold)
            return await self._whole(response.status, kind)
        except _Failed as failed:
            self._fail(failed)
            await self._release()
            raise
        except BaseException:
            await self.close()
            raise

    async def live(self) -> AsyncIterator[bytes]:
        """The events of the stream whose first content is here."""
        try:
            while True:
                if self._ready:
                    ready, self._ready = self._ready, []
                    yield b"".join(ready)
                if not await self._advance(self._settings.stall_s, "a stream that stalled"):
                    break
            self._settle("answered", None)
            if self._ready:
                yield b"".join(self._ready)
            await self._drain()
        except _Failed as failed:
            good, self._ready = self._ready, []
            self._fail(failed)
            await self._release()
            yield b"".join(good) + wire.stream_error(self._call.api, "The model stopped in mid-answer.")

    async def close(self) -> None:
        """End the attempt wherever it is; one that has not ended was given up by the client."""
        if not self._done:
            self._health.released()
            self._record("cancelled", None)
        await self._release()

    def finish(self, outcome: Outcome, error: str | None = None) -> None:
        """The attempt has ended, and for the upstream well. A stream that is passed on tells that itself."""
        if not self._live:
            self._settle(outcome, error)

    def _settle(self, outcome: Outcome, error: str | None) -> None:
        reading, now = self.reading, self._clock()
        self._health.succeeded()
        self._record(outcome, error)
        tokens, seconds = self.attempt.completion_tokens, now - self._began
        since_first = None if self._first is None else now - self._first
        is_stream = self._call.stream and since_first is not None
        self._health.measured.add(
            ttft_ms=self.attempt.ttft_ms,
            itl_ms=since_first * 1e3 / (tokens - 1) if is_stream and since_first and tokens > 1 else None,
            tokens_per_s=tokens / seconds if not is_stream and not reading.fault and seconds > 0 else None,
        )

    # Talking to the upstream

    async def _open(self) -> httpcore2.Response:
        """The answer's status and headers."""
        if self._upstream.lacks_key:
            raise _Failed("its key is not set", at_once=True)
        url, headers, body = self._upstream.request(self._call, self._more)
        settings = self._settings
        timeout = {"connect": settings.connect_s, "pool": settings.connect_s, "write": settings.stall_s}
        extensions = {"timeout": timeout}
        request = httpcore2.Request("POST", url, headers=headers, content=body, extensions=extensions)
        wait = settings.first_content_s if self._call.stream else settings.answer_s
        pool = self._pool = self._pools.take()
        wire = Wire()
        token = WIRE.set(wire)
        try:
            async with asyncio.timeout(self._left(wait)):
                try:
                    response = await pool.engine.handle_async_request(request)
                except (httpcore2.ReadError, httpcore2.WriteError, httpcore2.RemoteProtocolError):
                    # A kept connection that was closed just before: nobody has read the request.
                    if wire.connected or wire.answered:
                        raise
                    response = await pool.engine.handle_async_request(request)
        except TimeoutError:
            raise _Failed("no answer in time") from None
        except httpcore2.PoolTimeout:
            raise _Failed("no free connection") from None
        except _BROKEN as error:
            raise _Failed(f"no connection ({type(error).__name__})") from None
        finally:
            WIRE.reset(token)
        self._response = response
        self._chunks = response.aiter_stream()
        return response

    def _check(self, status: int, headers: Mapping[bytes, bytes]) -> None:
        """Raise _Failed for a status that another model may make good."""
        encoding, wait = headers.get(b"content-encoding", b"identity"), _retry_after(headers)
        if status in (429, 529):
            raise _Failed(f"status {status}", retry_after=wait, at_once=True, limited=True)
        if status in (408, 409) or status >= 500:
            raise _Failed(f"status {status}", retry_after=wait)
        if status in _OURS or 300 <= status < 400:
            if not self._call.counts:
                _log.error(
                    "Model %r answers status %d: check its base_url, id and key.", self._upstream.name, status
                )
            raise _Failed(f"status {status}", at_once=True)
        if encoding.lower() != b"identity":
            raise _Failed("a compressed body that nobody asked for")

    async def _refuse(self, status: int, kind: bytes) -> NoReturn:
        body = await self._read(_REFUSAL_BYTES)
        self._health.succeeded()
        self._record("refused", f"status {status}")
        await self._release()
        answer = Answer(self._upstream.name, status, kind, body)
        too_long = status != 422 and any(sign in body for sign in _TOO_LONG)
        raise _Refused(answer, too_long=too_long)

    async def _whole(self, status: int, kind: bytes) -> Answer:
        body = await self._read(_ANSWER_BYTES)
        if status < 400:
            (self.reading.count if self._call.counts else self.reading.whole)(body)
        if self.reading.fault:
            raise _Failed(self.reading.fault)
        await self._release()
        return Answer(self._upstream.name, status, kind, body, exchange=self)

    async def _streamed(self, kind: bytes, *, hold: bool) -> Answer:
        deadline = self._began + self._settings.first_content_s
        while not self.reading.content and not self.reading.ended and self.reading.finish is None:
            left = deadline - self._clock()
            if left <= 0 or not await self._advance(left, "no content in time"):
                if left <= 0:
                    raise _Failed("no content in time")
                break
        if not hold:
            self._live = True
            return Answer(self._upstream.name, 200, kind, None, exchange=self)
        while await self._advance(self._settings.stall_s, "a stream that stalled"):
            pass
        await self._drain()
        await self._release()
        return Answer(self._upstream.name, 200, kind, b"".join(self._ready), exchange=self)

    async def _advance(self, patience: float, late: str) -> bool:
        """Read until an event has come, for `patience` seconds at most; False at the end of the stream.

        Comments do not count: an upstream may send them for ever. Where the model has said all, a stream that
        stalls or breaks before its formal end has ended. Raises _Failed.
        """
        if self._ended:
            return False
        deadline = self._clock() + patience
        while True:
            try:
                chunk = await self._chunk(deadline - self._clock(), late)
            except _Failed:
                if not self.reading.said:
                    raise
                await self._release()
                self._ended = True
                return False
            try:
                events = self._splitter.feed(chunk) if chunk else self._splitter.end()
            except EventTooLong:
                raise _Failed("an event that is too long") from None
            if self._take(events):
                return not self._ends(at_end=not chunk)
            if not chunk:
                return not self._ends(at_end=True)

    def _take(self, events: Sequence[Event]) -> bool:
        """Read `events`; whether there is more than comments among them. Raises _Failed."""
        told = False
        for event in events:
            self.reading.event(event)
            if self.reading.fault:
                raise _Failed(self.reading.fault)
            self._ready.append(event.raw)
            self._size += len(event.raw)
            told = told or bool(event.data)
        if self._size > _ANSWER_BYTES and not self._live:
            raise _Failed("a body that is too long")
        if self.reading.content and self._first is None:
            self._first = self._clock()
            self.attempt.ttft_ms = (self._first - self._began) * 1e3
        return told

    def _ends(self, *, at_end: bool) -> bool:
        """Whether the stream has come to its end. Raises _Failed where it just stops."""
        if not at_end and not self.reading.ended:
            return False
        if not self.reading.ended and not self.reading.said:
            raise _Failed("a stream without an end")
        if at_end and self._splitter.waits:
            raise _Failed("a stream without an end")
        if at_end:
            self._chunks = None
        self._ended = True
        return True

    async def _chunk(self, patience: float, late: str) -> bytes:
        """The next bytes; none at the end. Raises _Failed."""
        if self._chunks is None:
            return b""
        try:
            async with asyncio.timeout(self._left(patience)):
                return await anext(self._chunks, b"")
        except TimeoutError:
            raise _Failed(late) from None
        except _BROKEN as error:
            raise _Failed(f"a broken connection ({type(error).__name__})") from None

    async def _read(self, limit: int) -> bytes:
        """The whole body. Raises _Failed."""
        body, deadline = bytearray(), self._began + self._settings.answer_s
        while chunk := await self._chunk(
            min(self._settings.stall_s, deadline - self._clock()), "a body that stalled"
        ):
            body += chunk
            if len(body) > limit:
                raise _Failed("a body that is too long")
        self._chunks = None
        return bytes(body)

    async def _drain(self) -> None:
        """Read what follows the last event, so that the connection can be used again."""
        with suppress(_Failed):
            deadline = self._clock() + _DRAIN_S
            while self._chunks is not None and await self._chunk(deadline - self._clock(), ""):
                pass
        await self._release()

    async def _release(self) -> None:
        response, self._response, self._chunks = self._response, None, None
        pool, self._pool = self._pool, None
        try:
            if response is not None:
                with suppress(*_BROKEN):
                    await response.aclose()
        finally:
            if pool is not None:
                self._pools.give_back(pool)

    def _left(self, patience: float) -> float:
        return max(0.0, min(patience, self.until - self._clock()))

    # Keeping the books

    def _fail(self, failed: _Failed) -> None:
        health, now = self._health, self._clock()
        if now >= self.until - _TICK_S and self.attempt.purpose != "answer":
            health.released()  # our patience with a helper has ended, which says little of the model
        else:
            health.failed(now, retry_after=failed.retry_after, at_once=failed.at_once)
            health.measured.fail(rate_limited=failed.limited)
        self._record("failed", failed.error)

    def _record(self, outcome: Outcome, error: str | None) -> None:
        if self._done:
            return
        self._done = True
        attempt, reading = self.attempt, self.reading
        attempt.outcome, attempt.error, attempt.ids = outcome, error, reading.ids
        attempt.response_model, attempt.finish = reading.model, reading.finish
        attempt.latency_ms = (self._clock() - self._began) * 1e3
        attempt.estimated = reading.prompt_tokens is None or reading.completion_tokens is None
        if reading.content or reading.prompt_tokens is not None:
            attempt.prompt_tokens = reading.prompt_tokens or self._call.tokens
            attempt.completion_tokens = reading.completion_tokens or reading.deltas
            attempt.usd = self._upstream.card.usd(attempt.prompt_tokens, attempt.completion_tokens)
        self._observer.attempted(attempt)


def _retry_after(headers: Mapping[bytes, bytes]) -> float | None:
    """Seconds the server asks to wait, at least 0; None when it does not say or says nonsense."""
    for header, unit in ((b"retry-after-ms", 1e-3), (b"retry-after", 1.0)):
        try:
            seconds = float(headers[header]) * unit
        except (KeyError, ValueError):
            continue
        return seconds if 0.0 <= seconds < math.inf else None
    try:
        moment = parsedate_to_datetime(headers[b"retry-after"].decode("latin-1"))
    except (KeyError, ValueError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())
