"""Upstreams that misbehave and clients that send nonsense, over real sockets: what comes of it is promised."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import httpx2
import pytest
from fake_upstream import FakeUpstream
from serving import HELLO, HURRIED, all_have_stopped, make_router, serving

from semroute import cascade
from semroute.config import ServeSettings
from semroute.health import Health, RetryBudget
from semroute.sse import EVENT_BYTES, EventSplitter, EventTooLong
from semroute.testing import FailingEncoder, HashEncoder


@pytest.fixture
def chain(fake, tmp_path):
    """A served router whose route `billing` tries the given modes of the fake in turn."""
    fake.forget()

    def make(*modes, cards=None, options=None, **settings):
        models = fake.models_for(modes, cards)
        router = make_router(tmp_path / "routes", models, {"models": list(modes)}, **settings)
        return serving(router, **{"settings": ServeSettings(**HURRIED), **(options or {})})

    return make


def words(response: httpx2.Response) -> list[str]:
    """The contents of the deltas of a stream, in order."""
    found = []
    for event in response.content.decode().replace("\r\n", "\n").replace("\r", "\n").split("\n\n"):
        data = event.removeprefix("data: ")
        if event.startswith("data: {") and "error" not in json.loads(data):
            found += [choice["delta"].get("content") or "" for choice in json.loads(data)["choices"]]
    return [word for word in found if word]


# Before an answer has content a failure is invisible -----------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    "mode",
    [
        "reset", "silent", "heads-only", "trickle", "many-headers", "bomb", "redirect:http|//127.0.0.1|1/",
        "status:408", "status:409", "status:429", "status:500", "status:502", "status:503", "status:504",
        "status:529", "status:401", "status:403", "status:404", "status:402",
        "body:error", "body:html", "body:empty", "body:broken", "body:other", "body:list",
    ],
)  # fmt: skip
def test_the_next_model_answers(chain, fake, mode, stream):
    with chain(mode, "ok") as served:
        began = time.monotonic()
        response = served.ask(stream=stream)
        assert time.monotonic() - began < 6
        assert (response.status_code, response.headers["x-semroute-model"]) == (200, "ok")
        assert "SECRET" not in response.text
        assert "I am ok." in response.text or words(response) == ["I ", "am ", "ok. "]
        assert fake.models()[-1] == "ok"


@pytest.mark.parametrize("mode", ["comments", "roles", "eof:0", "cut:0", "error-after:0"])
def test_a_stream_without_content_falls_back_cleanly(chain, fake, mode):
    with chain(mode, "ok") as served:
        response = served.ask(stream=True)
        assert words(response) == ["I ", "am ", "ok. "]
        assert response.text.count("data: [DONE]") == 1
        assert response.headers["x-semroute-model"] == "ok"
        ids = {
            json.loads(line[6:])["id"] for line in response.text.splitlines() if line.startswith("data: {")
        }
        assert len(ids) == 1


def test_nothing_listens(chain, fake):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    cards = {"nobody": {"base_url": nobody}, "no name": {"base_url": "http://nowhere.invalid/v1"}}
    cards["no tls"] = {"base_url": fake.url.replace("http:", "https:")}
    with chain("nobody", "no name", "no tls", "ok", cards=cards) as served:
        assert served.ask().headers["x-semroute-model"] == "ok"


def test_a_redirect_is_not_followed(chain, fake):
    with FakeUpstream() as elsewhere:
        target = elsewhere.url.replace(":", "|")
        with chain(f"redirect:{target}", "ok") as served:
            assert served.ask().headers["x-semroute-model"] == "ok"
        assert elsewhere.requests == []


def test_a_body_without_end_is_cut(chain):
    with chain(
        "endless", "ok", options={"settings": ServeSettings(**HURRIED | {"answer_s": 5, "stall_s": 5})}
    ) as served:
        assert served.ask().headers["x-semroute-model"] == "ok"


def test_the_deadline_of_all_attempts_together(chain, fake):
    hurried = ServeSettings(**HURRIED | {"total_s": 0.6, "answer_s": 0.4})
    with chain(
        "silent", "slow:0.1", "slow:0.2", "silent:1", "silent:2", options={"settings": hurried}
    ) as served:
        served.ask("silent:1")
        began = time.monotonic()
        served.ask()
        assert time.monotonic() - began < 1.0


# After content ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["stall:3", "cut:3", "eof:3", "error-after:3"])
def test_a_stream_that_breaks_ends_with_an_error_event(chain, fake, mode):
    with chain(mode, "ok") as served:
        response = served.ask(stream=True)
        assert words(response) == ["0 ", "1 ", "2 "]
        assert "[DONE]" not in response.text
        assert "SECRET" not in response.text
        last = response.text.rstrip().rpartition("\n\n")[2]
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "upstream_error"
        assert fake.models() == [mode]
        assert served.metric("semroute_upstream_attempts_total", model=mode, outcome="failed") == 1


@pytest.mark.parametrize("newline", ["lf", "crlf", "cr"])
def test_events_split_at_every_byte_arrive_exactly(chain, newline):
    with chain(f"bytewise:{newline}") as served:
        response = served.ask(stream=True)
        ends = {"lf": "\n", "crlf": "\r\n", "cr": "\r"}[newline]
        assert words(response) == ["Grüße, ", "你好 ", "😀 "]
        assert response.text.startswith(f": hello{ends}{ends}")
        assert response.text.endswith(f"data: [DONE]{ends}{ends}")


def test_a_stream_with_a_reason_to_finish_needs_no_done(chain):
    with chain("no-done") as served:
        response = served.ask(stream=True)
        assert words(response) == ["all ", "said "]
        assert "error" not in response.text


def test_the_end_does_not_wait_for_the_connection(chain):
    with chain("late-end") as served:
        began = time.monotonic()
        assert words(served.ask(stream=True)) == ["all ", "said "]
        assert time.monotonic() - began < 1.0


def test_large_events_pass_and_larger_ones_are_an_error(chain):
    with chain("big-event:4.9", "big-event:5.5") as served:
        assert len(words(served.ask("big-event:4.9", stream=True))[0]) == int(4.9 * (1 << 20))
        assert served.ask("big-event:5.5", stream=True).status_code == 503


def test_the_splitter_gives_back_every_byte():
    text = b": c\n\nevent: x\ndata: 1\ndata: 2\n\ndata:3\r\n\r\ndata: 4\r\rdata: [DONE]\n\n"
    for size in range(1, len(text) + 1):
        splitter = EventSplitter()
        events = [event for at in range(0, len(text), size) for event in splitter.feed(text[at : at + size])]
        assert b"".join(event.raw for event in [*events, *splitter.end()]) == text
        assert [event.data for event in events] == [b"", b"1\n2", b"3", b"4", b"[DONE]"]
    with pytest.raises(EventTooLong):
        EventSplitter().feed(b"x" * (EVENT_BYTES + 1))


# Statuses -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_fault_of_the_request_is_passed_back_unchanged(chain, fake, status):
    with chain(f"status:{status}", "ok") as served:
        response = served.ask()
        assert response.status_code == status
        assert response.json() == {
            "error": {"message": f"SECRET of {status}", "type": "x", "code": f"fake_{status}"}
        }
        assert fake.models() == [f"status:{status}"]


def test_a_prompt_that_is_too_long_goes_only_to_a_larger_context(chain, fake):
    cards = {
        "too-long": {"context_tokens": 8_000},
        "small": {"context_tokens": 8_000},
        "ok": {"context_tokens": 90_000},
    }
    with chain("too-long", "small", "ok", cards=cards) as served:
        assert served.ask().headers["x-semroute-model"] == "ok"
        assert fake.models() == ["too-long", "ok"]
    fake.requests.clear()
    with chain("too-long", "small", cards={**cards, "small": {"context_tokens": 100}}) as served:
        response = served.ask()
        assert (response.status_code, response.json()["error"]["code"]) == (400, "context_length_exceeded")


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("retry-after=2", 2.0), ("retry-after-ms=1500", 1.5), ("retry-after=1e9", 300.0), ("retry-after=0", 0.0),
        ("retry-after=-1", 5.0), ("retry-after=soon", 5.0), ("retry-after=nan", 5.0), ("x-other=1", 5.0),
        pytest.param(
            f"retry-after={format_datetime(datetime.now(UTC) + timedelta(days=2), usegmt=True)}".replace(":", "|"), 300.0,
            id="retry-after=a date in two days",  # the same in every process of a parallel run
        ),
    ],
)  # fmt: skip
def test_a_rate_limit_sends_the_next_request_elsewhere_for_as_long_as_it_says(chain, fake, header, seconds):
    mode = f"status:429:{header}"
    hurried = ServeSettings(**HURRIED | {"cooldown_s": 5.0, "max_cooldown_s": 300.0})
    with chain(mode, "ok", options={"settings": hurried}) as served:
        assert served.ask().headers["x-semroute-model"] == "ok"
        health = served.app.state.service.upstreams.health()[mode]
        assert health.until - time.monotonic() == pytest.approx(seconds, abs=1.0)
        if seconds > 1:
            served.ask()
            assert fake.models() == [mode, "ok", "ok"]


def test_a_rest_never_becomes_shorter():
    health = Health(cooldown=5.0, longest=60.0)
    health.failed(100.0, retry_after=30.0)
    health.failed(101.0, retry_after=1.0)
    assert health.until == 130.0


def test_many_failures_at_once_are_one_rest():
    health = Health(cooldown=5.0, longest=300.0)
    for _ in range(40):
        health.failed(100.0)
    assert health.until == 105.0


def test_a_model_that_rests_is_asked_before_nobody_answers(chain, fake):
    hurried = ServeSettings(**HURRIED | {"cooldown_s": 60.0, "max_cooldown_s": 60.0})
    with chain("then:3:status:500", "then:4:status:503", options={"settings": hurried}) as served:
        assert [served.ask().status_code for _ in range(3)] == [503, 503, 503]
        assert served.ask().headers["x-semroute-model"] == "then:3:status:500"  # both rest


def test_after_its_rest_one_request_probes_a_model():
    health = Health(cooldown=5.0, longest=60.0)
    for _ in range(3):
        assert health.is_ready(100.0)
        health.asked()
        health.failed(100.0)
    assert not health.is_ready(104.9)
    assert health.is_ready(105.0)
    health.asked()
    assert not health.is_ready(105.0)  # one at a time
    health.failed(105.0)
    assert not health.is_ready(114.9)  # twice as long
    assert health.is_ready(115.0)
    health.asked()
    health.succeeded()
    assert health.is_ready(115.0)


def test_all_down_is_one_503_that_says_when_to_come_back(chain, fake):
    with chain("status:500", "status:429:retry-after=2") as served:
        response = served.ask()
        assert response.status_code == 503
        assert response.headers["x-should-retry"] == "false"
        assert 1 <= int(response.headers["retry-after"]) <= 2
        assert response.json()["error"]["code"] == "no_model_available"


def test_the_last_candidate_is_never_left_alone(chain, fake):
    with chain("status:500") as served:
        assert {served.ask().status_code for _ in range(8)} == {503}
        assert len(fake.requests) == 8


def test_retries_stay_within_their_budget(chain, fake):
    hurried = ServeSettings(**HURRIED | {"cooldown_s": 0.01, "max_cooldown_s": 0.01})
    modes = [f"status:50{n}" for n in (0, 2, 3)]
    with chain(*modes, options={"settings": hurried}) as served, ThreadPoolExecutor(10) as pool:
        asked = 100
        assert set(pool.map(lambda _: served.ask().status_code, range(asked))) == {503}
        assert len(fake.requests) <= 1.2 * asked + 3


def test_the_retry_budget_has_a_floor_and_forgets():
    now = [0.0]
    budget = RetryBudget(lambda: now[0])
    assert [budget.take() for _ in range(4)] == [True, True, True, False]
    for _ in range(10):
        budget.request()
    assert [budget.take() for _ in range(3)] == [True, True, False]
    now[0] = 60.0
    assert budget.take()


def test_a_kept_connection_that_was_closed_is_tried_once_more(chain, fake):
    with chain("close-after") as served:
        for _ in range(5):
            assert served.ask().status_code == 200
            time.sleep(0.02)


# Clients that go ----------------------------------------------------------------------------------------------


def test_a_client_that_hangs_up_ends_the_call_of_the_model(chain, fake):
    with chain("silent", "many:1000:0.02", "ok", options={"settings": ServeSettings()}) as served:
        for model, stream in (("silent", False), ("silent", True), ("many:1000:0.02", True)):
            fake.requests.clear()
            with pytest.raises(httpx2.ReadTimeout):
                httpx2.post(
                    served.url + "/v1/chat/completions",
                    json={"model": model, "messages": HELLO, "stream": stream},
                    timeout=httpx2.Timeout(5, read=0.3 if model == "silent" else 0.01),
                )
            until = time.monotonic() + 1.0
            while not fake.requests[0].hung_up and time.monotonic() < until:
                time.sleep(0.01)
            assert fake.requests[0].hung_up, (model, stream)
        assert served.ask("ok").status_code == 200
        assert served.metric("semroute_upstream_attempts_total", model="silent", outcome="cancelled") == 2


def test_many_clients_hang_up_at_every_point(chain, fake):
    async def leave(client, after):
        try:
            async with asyncio.timeout(after):
                async with client.stream(
                    "POST",
                    "/v1/chat/completions",
                    json={"model": "many:200:0.005", "messages": HELLO, "stream": True},
                ) as response:
                    async for _ in response.aiter_raw():
                        pass
        except TimeoutError:
            pass

    async def crowd(url):
        limits = httpx2.Limits(max_connections=50)
        async with httpx2.AsyncClient(base_url=url, limits=limits, timeout=10, trust_env=False) as client:
            await asyncio.gather(*(leave(client, 0.001 + 0.002 * (n % 150)) for n in range(300)))

    with chain("many:200:0.005", "ok", options={"settings": ServeSettings()}) as served:
        asyncio.run(crowd(served.url))
        until = time.monotonic() + 1.0
        while any(one.ended is None for one in fake.requests) and time.monotonic() < until:
            time.sleep(0.02)
        assert [one for one in fake.requests if one.ended is None] == []
        assert served.ask("ok").status_code == 200
        until = time.monotonic() + 5.0  # the answer is with the client before its request is put away
        while served.app.state.service.in_flight and time.monotonic() < until:
            time.sleep(0.02)
        assert served.app.state.service.in_flight == 0
        assert served.metric("semroute_requests_in_flight") == 1  # the one that asks


def test_too_many_at_once_are_told_to_come_back(chain, fake):
    settings = ServeSettings(**HURRIED | {"max_concurrency": 3, "answer_s": 5})
    with chain("slow:0.5", options={"settings": settings}) as served, ThreadPoolExecutor(8) as pool:
        responses = list(pool.map(lambda _: served.ask(), range(8)))
        assert sorted({response.status_code for response in responses}) == [200, 503]
        refused = next(response for response in responses if response.status_code == 503)
        assert (refused.json()["error"]["code"], refused.headers["retry-after"]) == ("overloaded", "1")


def test_a_slow_reader_holds_back_the_model(chain, fake):
    with chain("ok", options={"settings": ServeSettings()}) as served:
        host, port = served.url.removeprefix("http://").split(":")
        body = json.dumps({"model": "many:100000:0", "messages": HELLO, "stream": True}).encode()
        with chain("many:100000:0", options={"settings": ServeSettings()}) as other:
            host, port = other.url.removeprefix("http://").split(":")
            with socket.create_connection((host, int(port))) as client:
                client.sendall(
                    b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
                    + body
                )
                time.sleep(1.0)
                assert fake.requests[-1].ended is None  # 18 MB, of which nobody has read a byte
            until = time.monotonic() + 1.0
            while fake.requests[-1].ended is None and time.monotonic() < until:
                time.sleep(0.01)
            assert fake.requests[-1].ended is not None


# Encoders and stores that fail --------------------------------------------------------------------------------


def test_an_encoder_that_fails_gives_the_default(chain, fake, tmp_path):
    from semroute import Router, index
    from semroute.config import load_config

    models = {"ok": {"base_url": fake.url}, "other": {"base_url": fake.url}}
    make_router(tmp_path / "r", models, {"model": "other"})
    built = index.build(load_config(tmp_path / "r"), HashEncoder()).index
    with serving(Router(built, FailingEncoder())) as served:
        response = served.ask()
        assert response.status_code == 200
        assert (response.headers["x-semroute-model"], response.headers["x-semroute-reason"]) == (
            "ok",
            "error",
        )


class SlowEncoder(HashEncoder):
    """Takes longer than anybody waits."""

    seconds = 5.0

    def encode(self, texts, *, kind):
        time.sleep(self.seconds)
        return super().encode(texts, kind=kind)


def test_an_encoder_that_hangs_holds_up_no_request_for_long(chain, fake, tmp_path):
    from semroute import Router, index
    from semroute.config import load_config

    make_router(tmp_path / "r", {"ok": {"base_url": fake.url}})
    built = index.build(load_config(tmp_path / "r"), HashEncoder()).index
    settings = ServeSettings(**HURRIED | {"routing_s": 0.2})
    with serving(Router(built, SlowEncoder()), settings=settings) as served, ThreadPoolExecutor(20) as pool:
        began = time.monotonic()
        responses = list(pool.map(lambda _: served.ask(), range(40)))
        assert time.monotonic() - began < SlowEncoder.seconds  # twice that, if they waited
        assert {response.headers["x-semroute-reason"] for response in responses} == {"error"}
        assert served.get("/healthz").status_code == 200


# Bodies and headers that are none -----------------------------------------------------------------------------


BAD_BODIES = [
    b"", b" ", b"{", b"null", b"[]", b'"text"', b"[" * 200_000, b'{"model": ' + b"[" * 200_000,
    b'{"model": "ok", "messages": [' + b"1" * 5_000 + b"]}",
    b'{"model": "ok", "messages": [{"role": "user", "content": "x"}], "temperature": NaN}',
    b'{"model": "ok", "messages": [{"role": "user", "content": "\\ud800"}]}',
    b'{"model": "ok", "messages": [{"role": "user", "content": "\xff"}]}',
    b'{"model": "ok", "messages": []}', b'{"model": "ok", "messages": ["x"]}', b'{"model": "ok"}',
    b'{"messages": [{"role": "user", "content": "x"}]}', b'{"model": 7, "messages": [{}]}',
    b'{"model": "ok", "model": "ok", "messages": [{}]}',
    b'{"model": "ok", "messages": [{}], "stream": "yes"}',
]  # fmt: skip


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/messages"])
def test_a_bad_body_is_a_bad_request_in_the_callers_dialect(chain, fake, path):
    with chain("ok", cards={"ok": {"apis": ["chat", "responses", "messages"]}}) as served:
        for body in BAD_BODIES:
            if path == "/v1/responses":
                body = body.replace(b'"messages"', b'"input"')  # noqa: PLW2901
            response = served.post(body, path)
            assert response.status_code == 400, (body[:80], response.text)
            error = response.json()["error"]
            assert error["type"] == "invalid_request_error"
            if path == "/v1/messages":
                assert response.json()["type"] == "error"
            else:
                assert {"message", "type", "param", "code"} == error.keys()
        assert fake.requests == []


def test_a_body_that_is_too_long(chain, fake):
    with chain("ok") as served:
        body = json.dumps({"model": "ok", "messages": HELLO, "x": "y" * 50_000_000}).encode()
        response = served.post(body)
        assert (response.status_code, response.json()["error"]["code"]) == (413, "request_too_large")
        assert served.ask().status_code == 200


def test_a_prompt_of_millions_of_characters_is_routed_at_once(chain, fake):
    with chain("ok") as served:
        response = served.ask(text="my card was charged twice " * 400_000)
        assert response.status_code == 200
        decided = served.metric("semroute_routing_duration_seconds_sum")
        assert decided < 0.2  # on a machine that does other things too


@pytest.mark.parametrize("field", ["base_url", "api_base", "api_key"])
def test_addresses_and_keys_in_a_body_are_never_interpreted(chain, fake, field):
    with FakeUpstream() as elsewhere, chain("ok") as served:
        response = served.ask(**{field: elsewhere.url})
        assert (response.status_code, response.json()["error"]["param"]) == (404, field)
        assert elsewhere.requests == fake.requests == []


@pytest.mark.parametrize(
    "model", ["gpt-7", "router@", "router@q:x", "router@q:1|models:nobody", "semroute/other"]
)
def test_an_unknown_model_is_not_found_in_the_callers_dialect(chain, model):
    with chain("ok") as served:
        response = served.ask(model)
        assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")
        response = served.post({"model": model, "messages": HELLO, "max_tokens": 5}, "/v1/messages")
        assert (response.status_code, response.json()["error"]["type"]) == (404, "not_found_error")


def test_what_clients_say_of_semroute_is_stripped_and_replaced(chain, fake):
    with chain("ok") as served:
        body = {"model": "semroute/auto", "messages": HELLO}
        response = served.post(body, x_semroute_model="big", x_request_id="x" * 10_000, x_semroute_id="mine")
        assert response.headers["x-semroute-model"] == "ok"
        assert len(response.headers["x-request-id"]) == 26
        assert not [name for name in fake.requests[-1].headers if name.startswith("x-semroute")]
        assert served.post(body, x_request_id="abc-1").headers["x-request-id"] == "abc-1"


def raw(served, text: bytes) -> bytes:
    host, port = served.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=3) as client:
        client.sendall(text)
        found = b""
        while chunk := client.recv(65536):
            found += chunk
    return found


@pytest.mark.parametrize(
    "text",
    [
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-a: b\rc\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nhost: a b\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nhost: a/../b\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)  # fmt: skip
def test_broken_http_is_refused_and_the_connection_closed(chain, text):
    with chain("ok") as served:
        found = raw(served, text)
        assert b" 400 " in found.split(b"\r\n")[0] or found == b""
        assert b"200 OK" not in found
        assert served.get("/healthz").status_code == 200


# Keys ---------------------------------------------------------------------------------------------------------


def test_keys_are_asked_for_and_compared_as_bytes(chain, fake):
    keys = {"a": "first-key-1", "b": "second-key-2"}
    with chain("ok", options={"keys": keys}) as served:
        assert served.ask().status_code == 401
        assert served.ask().json()["error"]["code"] == "invalid_api_key"
        body = {"model": "semroute/auto", "messages": HELLO}
        for wrong in ("Bearer wrong", "Basic first-key-1", "first-key-1", "Bearer first-key-1 x"):
            assert served.post(body, authorization=wrong).status_code == 401
        for right in ("Bearer first-key-1", "bearer second-key-2"):
            assert served.post(body, authorization=right).status_code == 200
        assert served.post(body, "/v1/chat/completions", x_api_key="second-key-2").status_code == 200
        request = b"GET /v1/models HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer sch\xc3\xb6n\xff\r\n\r\n"
        assert b" 401 " in raw(served, request).split(b"\r\n")[0]
        assert served.get("/healthz").status_code == served.get("/readyz").status_code == 200
        assert served.get("/metrics").status_code == served.get("/v1/models").status_code == 401
        assert served.post({}, "/v1/feedback", authorization="Bearer first-key-1").status_code == 403


def test_a_key_goes_to_its_own_origin_only_and_shows_up_nowhere(chain, fake, caplog, monkeypatch, tmp_path):
    secrets = {"CANARY_ONE": "sk-canary-one-111", "CANARY_TWO": "sk-canary-two-222"}
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    with FakeUpstream() as second:
        cards = {
            "status:401": {"api_key_env": "CANARY_ONE"},
            "ok": {"api_key_env": "CANARY_TWO", "base_url": second.url, "provider": "anthropic"},
            "say:free": {},
        }
        client = {"me": "client-canary-333"}
        options = {"environ": secrets, "keys": client, "feedback_keys": {"f": "feedback-canary-444"}}
        caplog.set_level("DEBUG")
        with chain("status:401", "ok", "say:free", cards=cards, options=options) as served:
            shown = []
            for body in (
                {"model": "semroute/auto"},
                {"model": "say:free"},
                {"model": "none"},
                {"model": "status:401"},
            ):
                response = served.post(body | {"messages": HELLO}, authorization="Bearer client-canary-333")
                shown.append(response.text + str(response.headers))
            path = "/v1/messages"
            shown.append(
                served.post({"model": "ok", "messages": HELLO}, path, x_api_key="client-canary-333").text
            )
            shown.append(served.get("/metrics", authorization="Bearer client-canary-333").text)
        all_have_stopped()
        sent = [dict(request.headers) for request in fake.requests]
        assert {headers.get("authorization") for headers in sent} == {"Bearer sk-canary-one-111", None}
        assert {request.headers.get("authorization") for request in second.requests} == {
            "Bearer sk-canary-two-222",
            None,
        }
        assert second.requests[-1].headers["x-api-key"] == "sk-canary-two-222"
        everything = "".join(shown) + caplog.text
        assert "canary-" not in everything
        assert "SECRET" not in everything


def test_tls_is_checked(chain, fake):
    pem = Path(__file__).parent / "tls" / "localhost.pem"  # made for these tests; nobody else trusts it
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.load_cert_chain(pem)
    with FakeUpstream(tls=theirs) as secure:
        cards = {"say:over tls": {"base_url": secure.url, "api_key_env": "KEY"}}
        options = {"environ": {"KEY": "sk-over-tls"}}
        with chain("say:over tls", "ok", cards=cards, options=options) as served:
            assert served.ask().headers["x-semroute-model"] == "ok"
            assert secure.requests == []
        trusting = ssl.create_default_context(cafile=pem)
        with chain("say:over tls", "ok", cards=cards, options=options | {"tls": trusting}) as served:
            for stream in (False, True, False):
                assert served.ask(stream=stream).headers["x-semroute-model"] == "say:over tls"
        assert {request.headers["authorization"] for request in secure.requests} == {"Bearer sk-over-tls"}


def test_a_model_without_its_key_is_not_called(chain, fake):
    with chain("say:x", "ok", cards={"say:x": {"api_key_env": "NOT_SET"}}, options={"environ": {}}) as served:
        assert served.ask().headers["x-semroute-model"] == "ok"
        assert fake.models() == ["ok"]


def test_a_name_that_is_not_this_servers_is_refused(chain):
    with chain("ok", options={"hosts": {"localhost", "127.0.0.1"}}) as served:
        assert served.get("/healthz").status_code == 200
        assert served.get("/v1/models", host="evil.example").status_code == 400
        assert served.get("/v1/models", host="LOCALHOST:99").status_code == 200
        # A page in a browser could send this one, though not read the answer.
        body = {"model": "semroute/auto", "messages": HELLO}
        assert served.post(body, origin="https://evil.example").status_code == 403
        assert served.post(body, origin="null").status_code == 403
        assert served.post(body, origin="http://localhost:3000").status_code == 200


def test_a_judge_says_no_only_when_it_says_so():
    assert [cascade.says_no(text) for text in ("no", " No.", "**NO**", "yes", "Not sure", "north", "")] == [
        True, True, True, False, False, False, False,
    ]  # fmt: skip
