"""Spans of requests and attempts, with OpenTelemetry's own SDK, over real sockets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanKind, StatusCode
from serving import HELLO, HURRIED, make_router, serving

from semroute.build import build_index
from semroute.config import ServeSettings

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"


class Collected:
    """A provider, and what came of it."""

    def __init__(self, **more):
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(**more)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    def request(self):
        """The span of the one request, and those of its attempts in their order."""
        until = time.monotonic() + 2.0  # the answer is with the client before its request is put away
        while not (found := self._servers()) and time.monotonic() < until:
            time.sleep(0.01)
        assert len(found) == 1
        others = [span for span in self.exporter.get_finished_spans() if span.kind is SpanKind.CLIENT]
        return found[0], sorted(others, key=lambda span: span.start_time)

    def _servers(self):
        return [span for span in self.exporter.get_finished_spans() if span.kind is SpanKind.SERVER]


@pytest.fixture
def traced(fake, tmp_path):
    """A served router whose route `billing` tries the given modes of the fake in turn, and its spans."""
    fake.forget()

    def make(*modes, billing=None, collected=None, cards=None, options=None, **settings):
        collected = collected or Collected()
        models = fake.models_for(modes, cards)
        router = make_router(tmp_path / "routes", models, billing or {"models": list(modes)}, **settings)
        more = {"settings": ServeSettings(**HURRIED), **(options or {})}
        return collected, serving(router, tracer_provider=collected.provider, **more)

    return make


def test_one_span_for_the_request_and_one_for_each_attempt(traced, fake):
    collected, server = traced("status:500", "ok", cards={"ok": {"provider": "anthropic"}})
    with server as served:
        response = served.ask(text="where is my refund XYZZY")
        request, (failed, answered) = collected.request()
    assert request.name == "POST /v1/chat/completions"
    assert request.parent is None
    told = dict(request.attributes)
    assert told["semroute.decision.id"] == response.headers["x-semroute-id"]
    assert (told["semroute.route"], told["semroute.reason"]) == ("billing", "match")
    assert (told["gen_ai.request.model"], told["gen_ai.response.model"]) == ("semroute/auto", "ok")
    assert (told["http.request.method"], told["http.response.status_code"]) == ("POST", 200)
    assert request.status.status_code is StatusCode.UNSET

    assert {span.parent.span_id for span in (failed, answered)} == {request.context.span_id}
    assert (failed.name, failed.attributes["error.type"]) == ("chat status:500", "500")
    assert failed.status.status_code is StatusCode.ERROR
    told = dict(answered.attributes)
    assert answered.name == "chat ok"
    assert told["gen_ai.operation.name"] == "chat"
    assert told["gen_ai.provider.name"] == "anthropic"
    assert (told["gen_ai.request.model"], told["gen_ai.response.model"]) == ("ok", "fake")
    assert (told["gen_ai.usage.input_tokens"], told["gen_ai.usage.output_tokens"]) == (12, 7)
    assert told["gen_ai.response.finish_reasons"] == ("stop",)
    assert (told["server.address"], told["server.port"]) == ("127.0.0.1", fake.port)
    assert failed.end_time <= answered.start_time
    everything = "".join(span.to_json() for span in (request, failed, answered))
    assert "XYZZY" not in everything
    assert "I am ok" not in everything
    assert "SECRET" not in everything


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_clients_trace_goes_on_at_the_model(traced, fake, stream):
    collected, server = traced("ok")
    with server as served:
        body = {"model": "semroute/auto", "messages": HELLO, "stream": stream}
        served.post(body, traceparent=TRACEPARENT, tracestate="vendor=1")
        request, (attempt,) = collected.request()
    assert f"{request.context.trace_id:032x}" == TRACE
    assert f"{request.parent.span_id:016x}" == PARENT
    sent = fake.requests[-1].headers
    assert sent["traceparent"] == f"00-{TRACE}-{attempt.context.span_id:016x}-01"
    assert sent["tracestate"] == "vendor=1"
    if stream:
        assert attempt.attributes["gen_ai.response.time_to_first_chunk"] > 0
        assert "gen_ai.usage.input_tokens" not in attempt.attributes  # nobody counted them


def test_a_broken_traceparent_begins_a_new_trace(traced, fake):
    collected, server = traced("ok")
    with server as served:
        body = {"model": "semroute/auto", "messages": HELLO}
        assert served.post(body, traceparent="00-nonsense", tracestate="x" * 2_000).status_code == 200
        request, _ = collected.request()
    assert request.parent is None
    assert fake.requests[-1].headers["traceparent"].split("-")[1] == f"{request.context.trace_id:032x}"


def test_what_is_not_sampled_is_passed_on_all_the_same(traced, fake):
    collected, server = traced("ok", collected=Collected(sampler=ALWAYS_OFF))
    with server as served:
        served.post({"model": "semroute/auto", "messages": HELLO}, traceparent=TRACEPARENT)
    assert fake.requests[-1].headers["traceparent"].startswith(f"00-{TRACE}-")
    assert fake.requests[-1].headers["traceparent"].endswith("-00")
    assert collected.exporter.get_finished_spans() == ()


def test_without_a_collector_the_clients_trace_is_passed_on_as_it_is(fake, tmp_path):
    fake.forget()
    router = make_router(tmp_path / "routes", fake.models_for(["ok"]))
    with serving(router) as served:
        served.post({"model": "semroute/auto", "messages": HELLO}, traceparent=TRACEPARENT)
        assert fake.requests[-1].headers["traceparent"] == TRACEPARENT
        served.ask()
        assert "traceparent" not in fake.requests[-1].headers


def test_the_calls_of_a_cascade_and_of_its_judge_are_attempts(traced):
    cheap, judge, strong = "say:four", "say:No.", "say:from above"
    billing = {"models": [cheap], "cascade": {"to": [strong], "accept": {"judge": judge}}}
    collected, server = traced(cheap, judge, strong, billing=billing)
    with server as served:
        served.ask()
        request, attempts = collected.request()
    told = [(span.attributes["semroute.purpose"], span.attributes["semroute.outcome"]) for span in attempts]
    assert told == [("answer", "rejected"), ("judge", "answered"), ("answer", "answered")]
    assert attempts[0].attributes["semroute.rejected_for"] == "judge"
    assert attempts[0].status.status_code is StatusCode.UNSET  # the model did what it was asked
    assert request.attributes["gen_ai.response.model"] == strong


def test_a_stream_that_breaks_and_a_request_that_nobody_answers_are_errors(traced):
    for mode, kind in (("cut:3", "upstream_error"), ("silent", "503")):
        collected, server = traced(mode)
        with server as served:
            served.ask(stream=True)
            request, (attempt,) = collected.request()
        assert request.attributes["error.type"] == kind
        assert attempt.status.status_code is StatusCode.ERROR
    assert attempt.attributes["error.type"] == "timeout"


def test_a_refused_request_has_a_span_without_attempts(traced):
    collected, server = traced("ok", options={"keys": ["a-key-of-mine"]})
    with server as served:
        served.ask()
        request, attempts = collected.request()
        served.get("/healthz")
    assert (request.attributes["http.response.status_code"], attempts) == (401, [])
    assert "error.type" not in request.attributes


class Collector(HTTPServer):
    """Takes spans by OTLP over HTTP."""

    def __init__(self):
        bodies = self.bodies = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                bodies.append(self.rfile.read(int(self.headers["content-length"])))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()


def test_the_command_sends_spans_where_the_environment_says(fake, tmp_path):
    from test_serve import Command, write

    write(tmp_path / "routes", fake, billing="ok")
    build_index(tmp_path / "routes", tmp_path / "index")
    collector = Collector()
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}"}
    with Command(tmp_path, **environ) as command:
        assert command.ask().status_code == 200
        command.process.terminate()
        assert command.process.wait(15) == 0
    collector.shutdown()
    collector.server_close()
    sent = b"".join(collector.bodies)
    assert b"POST /v1/chat/completions" in sent
    assert b"chat ok" in sent
    assert b"refund" not in sent


def test_the_server_needs_no_opentelemetry(fake, tmp_path):
    write_to = tmp_path / "routes"
    make_router(write_to, fake.models_for(["ok"]))
    build_index(write_to, tmp_path / "index")
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "from semroute.router import Router; from semroute.server import create_app\n"
        "create_app(Router.load('index'))\n"
        "from semroute.tracing import provider_of_environment\n"
        "try: provider_of_environment()\n"
        "except Exception as error: print(error)\n"
    )
    environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | environ,
    )
    assert "pip install '.[otel]'" in done.stdout
    assert json.dumps(done.stderr) == '""'
