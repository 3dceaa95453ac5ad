"""OpenTelemetry spans: one for each request, one for each attempt at a model. No text of prompts or answers.

Names are those of the semantic conventions for HTTP servers and for generative AI, 1.37 or later; what these
have no name for begins with `semroute.`. The package `opentelemetry-api` is optional (extra `otel`): without
it, or where nobody collects spans, every call here does nothing, and a client's `traceparent` is passed on as
it is.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from semroute.errors import ConfigError, Problem, install_extra

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider as SdkTracerProvider
    from opentelemetry.trace import Span, Tracer, TracerProvider

    from semroute.decision import Decision
    from semroute.upstream import Attempt, Headers, Upstream

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_CONTEXT = ("traceparent", "tracestate")
_MOST_TEXT = 200  # characters of what an upstream calls its model


class RequestTrace:
    """What is told of one request while it is served. This one tells nobody."""

    def asked(self, model: str, *, stream: bool) -> None:
        """The client asks for `model`, which is known here."""

    def decided(self, decision: Decision) -> None:
        """The router has chosen."""

    def attempting(self, attempt: Attempt, upstream: Upstream) -> Headers:
        """A model is called; returns the headers by which it can go on with this trace."""
        return ()

    def attempted(self, attempt: Attempt) -> None:
        """The attempt has ended."""

    def answered(self, model: str | None, *, failed: bool) -> None:
        """`model` has answered, None for nobody; failed: it stopped in mid-answer."""

    def end(self, status: int) -> None:
        """The response has ended."""


class Tracing:
    """Begins the traces of requests.

    provider: where spans go; the global one of OpenTelemetry if left out.
    """

    def __init__(self, provider: TracerProvider | None = None) -> None:
        self._tracer = _tracer(provider)

    def begin(self, method: str, path: str, headers: Sequence[tuple[bytes, bytes]]) -> RequestTrace:
        """The trace of a request, in that of the client where its headers name one."""
        if self._tracer is None:
            return RequestTrace()
        return _Spans(self._tracer, method, path, headers)


class _Spans(RequestTrace):
    """The span of one request and those of its attempts."""

    def __init__(
        self, tracer: Tracer, method: str, path: str, headers: Sequence[tuple[bytes, bytes]]
    ) -> None:
        from opentelemetry.context import Context
        from opentelemetry.trace import SpanKind, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._tracer = tracer
        self._propagator = TraceContextTextMapPropagator()
        given = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}
        carrier = {name: given[name] for name in _CONTEXT if name in given}
        self._span = tracer.start_span(
            f"{method} {path}",
            context=self._propagator.extract(carrier, Context()),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": method, "http.route": path},
        )
        self._context = set_span_in_context(self._span, Context())
        self._attempts: dict[int, Span] = {}

    def asked(self, model: str, *, stream: bool) -> None:
        self._span.set_attributes(
            {
                "gen_ai.operation.name": "chat",
                "gen_ai.provider.name": "semroute",
                "gen_ai.request.model": model,
                "gen_ai.request.stream": stream,
            }
        )

    def decided(self, decision: Decision) -> None:
        self._span.set_attributes(
            {
                "semroute.decision.id": decision.id,
                "semroute.route": decision.route or "default",
                "semroute.model": decision.model,
                "semroute.reason": decision.reason,
                "semroute.confidence": round(decision.confidence, 4),
            }
        )

    def attempting(self, attempt: Attempt, upstream: Upstream) -> Headers:
        from opentelemetry.trace import SpanKind, set_span_in_context

        span = self._tracer.start_span(
            f"chat {upstream.id}",
            context=self._context,
            kind=SpanKind.CLIENT,
            attributes={
                "gen_ai.operation.name": "chat",
                "gen_ai.provider.name": upstream.card.provider,
                "gen_ai.request.model": upstream.id,
                "semroute.model": upstream.name,
                "semroute.purpose": attempt.purpose,
                **upstream.server,
            },
        )
        self._attempts[id(attempt)] = span
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, set_span_in_context(span, self._context))
        return tuple((name.encode(), value.encode("latin-1")) for name, value in carrier.items())

    def attempted(self, attempt: Attempt) -> None:
        span = self._attempts.pop(id(attempt), None)
        if span is None:
            return
        span.set_attributes(_told(attempt))
        if attempt.outcome in ("failed", "refused"):
            _set_error(span, _error_type(attempt.error))
        span.end()

    def answered(self, model: str | None, *, failed: bool) -> None:
        if model is not None:
            self._span.set_attribute("gen_ai.response.model", model)
        if failed:
            _set_error(self._span, "upstream_error")

    def end(self, status: int) -> None:
        self._span.set_attribute("http.response.status_code", status)
        if status >= 500:
            _set_error(self._span, str(status))
        self._span.end()


def _told(attempt: Attempt) -> Mapping[str, Any]:
    """What is known of an attempt that has ended. Tokens only as the upstream counted them."""
    told: dict[str, Any] = {"semroute.outcome": attempt.outcome}
    if attempt.outcome == "rejected" and attempt.error is not None:
        told["semroute.rejected_for"] = attempt.error
    if attempt.response_model is not None:
        told["gen_ai.response.model"] = attempt.response_model[:_MOST_TEXT]
    if attempt.finish is not None:
        told["gen_ai.response.finish_reasons"] = (attempt.finish[:_MOST_TEXT],)
    if attempt.ttft_ms is not None:
        told["gen_ai.response.time_to_first_chunk"] = attempt.ttft_ms / 1e3
    if not attempt.estimated:
        told["gen_ai.usage.input_tokens"] = attempt.prompt_tokens
        told["gen_ai.usage.output_tokens"] = attempt.completion_tokens
    if attempt.usd is not None:
        told["semroute.usd"] = attempt.usd
    return told


def _error_type(error: str | None) -> str:
    """One of few words: a status, `timeout`, or the phrase itself."""
    phrase = error or "_OTHER"
    if phrase.startswith("status "):
        return phrase.removeprefix("status ")
    return "timeout" if phrase.endswith(("in time", "that stalled")) else phrase


def _set_error(span: Span, kind: str) -> None:
    from opentelemetry.trace import StatusCode

    span.set_attribute("error.type", kind)
    span.set_status(StatusCode.ERROR)


def _tracer(provider: TracerProvider | None) -> Tracer | None:
    try:
        from opentelemetry import trace
    except ImportError:
        return None
    from semroute import __version__

    return trace.get_tracer("semroute", __version__, tracer_provider=provider)


def provider_of_environment() -> SdkTracerProvider | None:
    """Sends spans where the variables of OpenTelemetry say, by OTLP over HTTP; None where none says so.

    Spans wait in a bounded queue and are sent by a thread; those that do not fit are dropped. Raises
    ConfigError where the extra `otel` is missing.
    """
    named = next((name for name in _ENDPOINTS if os.environ.get(name)), None)
    if named is None or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        what = f"spans are wanted, and {error.name} is missing; {install_extra('otel')}, or unset it"
        raise ConfigError((Problem(named, 0, 0, what),)) from error
    own = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": "semroute"}
    provider = TracerProvider(resource=Resource.create(own))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider
