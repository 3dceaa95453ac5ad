"""The endpoints that call models: from the body to a plan, from the plan to a response."""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections.abc import Iterable, Mapping
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from semroute import wire
from semroute.catalog import Need
from semroute.config import Api, ClientLimits
from semroute.decision import Decision
from semroute.server.asgi import Gone, Hangup, Response, read_body, respond_error
from semroute.server.budgets import affordable
from semroute.server.ledger import Aside, Ledger, Plan
from semroute.server.restream import as_stream
from semroute.server.service import AUTO, Service, unknown_model
from semroute.text import estimated_tokens, routed_text
from semroute.tracing import RequestTrace
from semroute.ulid import new_ulid
from semroute.upstream import Answer, Attempt, Call, NoAnswer, NoUpstream
from semroute.wire import BadRequest, Body

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

_EVENTS = b"text/event-stream"
_PASSED_ON = (b"anthropic-version", b"anthropic-beta", b"openai-beta", b"traceparent", b"tracestate")


class Completion:
    """POST of one of the three APIs: decide, call, pass on.

    counts: whether only the prompt's tokens are counted. Nothing is spent then, and nothing told of it.
    """

    def __init__(self, service: Service, api: Api, *, counts: bool = False) -> None:
        self._service = service
        self._api: Api = api
        self._counts = counts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        began = time.perf_counter()
        service = self._service
        try:
            raw = await read_body(scope, receive, service.settings)
            body = wire.read_body(raw)
            wire.check(self._api, body.fields)
            plan = await self._plan(scope, body)
        except BadRequest as error:
            if not self._counts:
                service.live.refuse(error.status, error.message, scope["semroute.owner"])
            await respond_error(scope, send, error)
            return
        except Gone:
            return
        trace: RequestTrace = scope["semroute.trace"]
        trace.asked(body.fields["model"].strip(), stream=plan.call.stream)
        if plan.decision is not None:
            trace.decided(plan.decision)
        ledger = Ledger(service, plan, trace)
        response = Response(send)
        async with Hangup(receive) as hangup:
            try:
                await self._serve(plan, ledger, response, hangup)
            except NoUpstream:
                await response.refuse(scope, unknown_model(f"No model here speaks {scope['path']}."), ())
            except NoAnswer as none:
                wait = str(math.ceil(none.retry_after)).encode()
                told = [*plan.headers(None), (b"retry-after", wait), (b"x-should-retry", b"false")]
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
                key=plan.owner,
                model=response.model,
                said=response.said,
                failed=response.failed,
                status=status,
                seconds=seconds,
            )
        scope["semroute.told"] = _told(plan, ledger.attempts) | {
            "status": status,
            "failed": response.failed,
        }

    # From the body to the call

    async def _plan(self, scope: Scope, body: Body) -> Plan:
        service, owner = self._service, scope["semroute.owner"]
        limits, cards = service.budgets.limits_of(owner), service.router.index.config.settings.models
        plan = await self._unlimited(scope, body, limits)
        call, cascade = plan.call, plan.call.cascade
        candidates = affordable(call.candidates, cards, limits)
        if not candidates:
            scope["semroute.told"] = _told(plan, plan.before)
            raise BadRequest(403, "This key may not use so expensive a model.", code="model_too_expensive")
        if cascade is not None:
            to = affordable(cascade.to, cards, limits)
            cascade = cascade.model_copy(update={"to": to}) if to else None
        plan.call = replace(call, candidates=candidates, cascade=cascade)
        plan.owner = owner
        return plan

    async def _unlimited(self, scope: Scope, body: Body, limits: ClientLimits) -> Plan:
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
            limit=wire.limit_of(api, fields),
            choices=wire.choices_of(fields),
            wants_json=wire.wants_json(api, fields),
            wants_usage=wire.wants_usage(fields),
            counts=self._counts,
        )
        if model == AUTO or model.startswith("router@"):
            return await self._routed(scope, body, messages, call, limits)
        known = service.upstreams.find(model)
        if known is None:
            message = f"There is no such model; GET /v1/models lists them, and {AUTO} chooses one."
            raise unknown_model(message)
        return Plan(replace(call, candidates=(known,)), new_ulid(), None)

    async def _routed(
        self, scope: Scope, body: Body, messages: Any, call: Call, limits: ClientLimits
    ) -> Plan:
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
        owner, session = scope["semroute.owner"], _session(metadata) if service.settings.sticky_s else None
        aside = Aside(service, owner, scope["semroute.trace"])
        ids, only = wire.continued(api, fields)
        most = limits.max_usd_per_1m
        need = Need(capabilities=needs, max_usd_per_1m=most, tokens=call.tokens, models=space)
        pinned = self._begun(owner, ids, session, need)
        asks = pinned is None and not self._counts  # a model that is settled already needs no arbiter
        decision = await service.decide(messages, asked, aside if asks else None, tell=not self._counts)
        if pinned is not None:
            decision = _pinned(decision, pinned, only=only)
        cascade = service.cascade_of(decision) if asks and not space else None
        digest = None
        if service.settings.regenerate and not self._counts:
            text = call.head + call.tail + (owner or "").encode()
            digest = hashlib.blake2b(text, digest_size=16).digest()
            service.asked_again(digest, owner)
        call = replace(
            call,
            candidates=(decision.model, *decision.fallbacks),
            cascade=cascade,
            question=routed_text(messages) if cascade is not None else "",
        )
        return Plan(call, decision.id, decision, session, before=tuple(aside.attempts), digest=digest)

    def _begun(self, owner: str | None, ids: list[str], session: str | None, need: Need) -> str | None:
        """The model that this request goes on with; that of a session only where it can do what is asked."""
        service = self._service
        pinned = service.affinity.model_of(owner, ids)
        if pinned is not None:
            return pinned if not need.models or pinned in need.models else None
        kept = None if session is None else service.affinity.model_of(owner, [session])
        card = service.router.index.config.settings.models.get(kept or "")
        return kept if kept is not None and card is not None and need.met_by(kept, card) else None

    # From the call to the response

    async def _serve(self, plan: Plan, ledger: Ledger, response: Response, hangup: Hangup) -> None:
        upstreams = self._service.upstreams
        if plan.call.stream and plan.call.cascade is not None:
            await self._serve_held(plan, ledger, response, hangup)
            return
        answer = await upstreams.answer(plan.call, ledger)
        await self._pass_on(answer, plan, ledger, response, hangup)

    async def _serve_held(self, plan: Plan, ledger: Ledger, response: Response, hangup: Hangup) -> None:
        """A stream that waits for its verdict; comments keep the client's connection meanwhile."""
        answering = asyncio.ensure_future(self._service.upstreams.answer(plan.call, ledger))
        try:
            while True:
                done, _ = await asyncio.wait((answering,), timeout=self._service.settings.keep_alive_s)
                if done:
                    break
                if not response.started:
                    headers = plan.headers(plan.call.candidates[0])
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
            answering.cancel()
            with suppress(asyncio.CancelledError, NoAnswer, NoUpstream):
                await (await answering).close()  # it may have come just as the client went

    async def _pass_on(
        self, answer: Answer, plan: Plan, ledger: Ledger, response: Response, hangup: Hangup
    ) -> None:
        if answer.status < 400:
            ledger.answered_by(answer.model)
        response.model = answer.model
        try:
            body, kind = answer.body, answer.content_type
            if body is not None and plan.call.stream and not kind.lower().startswith(_EVENTS):
                if answer.status < 400:
                    body, kind = as_stream(self._api, body, usage=plan.call.wants_usage), _EVENTS
                elif response.started:
                    response.failed = True
                    body = wire.stream_error(self._api, wire.message_of(body) or "The model refused.")
            if not response.started:
                headers = plan.headers(answer.model)
                if body is not None:
                    headers.append((b"content-length", str(len(body)).encode()))
                await response.start(answer.status, kind, headers)
            if body is not None:
                hangup.answered()
                await response.end(body)
                return
            async with aclosing(answer.events()) as events:  # type: ignore[type-var]
                async for chunk in events:
                    await response.send(chunk)
            response.failed = answer.failed
            hangup.answered()
            await response.end(b"")
        finally:
            await answer.close()


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


def _session(metadata: Mapping[str, Any]) -> str | None:
    """The session that the caller names."""
    given = metadata.get("session_id")
    return f"session:{given}" if isinstance(given, str) and given else None


def _passed_on(scope: Scope) -> tuple[tuple[bytes, bytes], ...]:
    return tuple(
        (name, value)
        for name, value in scope["headers"]
        if name in _PASSED_ON and len(value) <= 1_000 and value.isascii()
    )


def _told(plan: Plan, attempts: Iterable[Attempt]) -> dict[str, Any]:
    """What the line of the log says of a request; nothing of what was asked or answered."""
    decision = plan.decision
    return {
        "id": plan.identity,
        "stream": plan.call.stream,
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
            for one in attempts
        ],
    }
