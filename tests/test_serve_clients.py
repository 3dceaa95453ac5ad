"""Clients that go, read slowly or speak broken HTTP, and upstreams that stop at any point, over raw sockets."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import httpcore2
import openai
import pytest
from serving import HELLO, HURRIED, make_router, serving
from test_serve import Command
from test_serve_faults import raw, words

from semroute.build import build_index
from semroute.config import ServeSettings
from semroute.network import Pools

ALL = {"apis": ["chat", "responses", "messages"]}
PATHS = {"/v1/chat/completions": "messages", "/v1/responses": "input", "/v1/messages": "messages"}


@pytest.fixture
def chain(fake, tmp_path):
    """A served router whose route `billing` tries the given modes of the fake in turn."""
    fake.forget()

    def make(*modes, cards=None, settings=HURRIED, **more):
        models = fake.models_for(modes, cards or dict.fromkeys(modes, ALL))
        router = make_router(tmp_path / "routes", models, {"models": list(modes)})
        return serving(router, settings=ServeSettings(**settings), **more)

    return make


def body_for(path: str, model: str = "semroute/auto", **more) -> dict:
    return {"model": model, PATHS[path]: HELLO, "max_tokens": 50, **more}


def eventually(holds, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while not holds() and time.monotonic() < until:
        time.sleep(0.01)
    return holds()


# Clients that go ----------------------------------------------------------------------------------------------

LEAVING = [
    "in the head",
    "in the body",
    "before the answer",
    "before the stream",
    "in the stream",
    "by a reset",
]


async def leave(url: str, number: int) -> None:
    """One client that goes at a point that its number says, a little earlier or later than the one before it."""
    where, later = LEAVING[number % len(LEAVING)], (number // len(LEAVING)) % 20
    model = "silent" if where.startswith("before") else "many:400:0.005"
    stream = where != "before the answer"
    body = json.dumps({"model": model, "messages": HELLO, "stream": stream}).encode()
    text = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body
    head = text.index(b"\r\n\r\n")
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    if where == "in the head":
        writer.write(text[: 1 + later * head // 20])
    elif where == "in the body":
        writer.write(text[: head + 4 + later * len(body) // 20])
    else:
        writer.write(text)
    await writer.drain()
    if where in ("in the stream", "by a reset"):
        await reader.readuntil(b"data: ")
    await asyncio.sleep(0.002 * later)
    if where == "by a reset":
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.close()


def test_a_thousand_clients_that_go_at_every_point_leave_nothing_behind(chain, fake):
    async def crowd(url, numbers):
        await asyncio.gather(*(leave(url, number) for number in numbers))

    settings = {**HURRIED, "first_content_s": 60, "answer_s": 60, "total_s": 60, "max_concurrency": 60}
    with chain("silent", "many:400:0.005", "ok", settings=settings) as served:
        service, pools = served.app.state.service, served.app.state.service.upstreams.pools
        for first in range(0, 1_000, 50):
            asyncio.run(crowd(served.url, range(first, first + 50)))
            # A second, and as much again for a machine that does other things too.
            assert eventually(lambda: all(one.ended is not None for one in fake.requests), 2.0)
            assert eventually(lambda: service.in_flight == 0, 5.0)
        assert len(fake.requests) > 330  # those that went in the stream, and some of those that went before
        busy = [one for one in pools.connections if not (one.is_idle() or one.is_closed())]
        assert (busy, pools.busy) == ([], 0)
        with ThreadPoolExecutor(20) as clients:
            assert {one.status_code for one in clients.map(lambda _: served.ask("ok"), range(130))} == {200}
        assert served.metric("semroute_upstream_attempts_total", outcome="cancelled") > 330
        assert served.metric("semroute_upstream_attempts_total", outcome="failed") == 0


def test_readers_that_are_slow_cost_no_memory(fake, tmp_path):
    """The models would send some 180 MB to ten clients that read nothing of it."""
    fake.forget()
    endless = "many:100000:0"
    make_router(tmp_path / "routes", fake.models_for([endless, "ok"]))
    build_index(tmp_path / "routes", tmp_path / "index")
    with Command(tmp_path, "--no-reload") as command:
        assert command.ask("ok").status_code == 200

        def resident() -> float:
            found = Path(f"/proc/{command.process.pid}/statm").read_text().split()[1]
            return int(found) * 4096 / 1e6

        host, port = command.url.removeprefix("http://").split(":")
        body = json.dumps({"model": endless, "messages": HELLO, "stream": True}).encode()
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: %s\r\ncontent-length: %d\r\n\r\n"
        before = resident()
        clients = [socket.create_connection((host, int(port))) for _ in range(10)]
        for client in clients:
            client.sendall(head % (host.encode(), len(body)) + body)
        assert eventually(lambda: len(fake.requests) == 11, 10)
        time.sleep(2.0)
        assert [one.ended for one in fake.requests[1:]] == [None] * 10  # all are held back
        assert resident() - before < 30
        for client in clients:
            client.close()
        assert eventually(lambda: all(one.ended for one in fake.requests), 2.0)
        assert command.ask("ok").status_code == 200


# Upstreams that stop ------------------------------------------------------------------------------------------


@contextmanager
def full():
    """A port at which a connection is begun and never accepted."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        waiting = []
        for _ in range(4):
            one = socket.socket()
            one.setblocking(False)
            one.connect_ex(listening.getsockname())
            waiting.append(one)
        try:
            yield listening.getsockname()[1]
        finally:
            for one in waiting:
                one.close()


def test_connecting_has_a_deadline_of_its_own(chain, fake):
    patient = {**HURRIED, "connect_s": 0.3, "answer_s": 30, "first_content_s": 30}
    with full() as port:
        cards = {"full": {"base_url": f"http://127.0.0.1:{port}/v1"}}
        with chain("full", "ok", cards={**cards, "ok": {"base_url": fake.url}}, settings=patient) as served:
            began = time.monotonic()
            assert served.ask().headers["x-semroute-model"] == "ok"
            assert 0.3 <= time.monotonic() - began < 10


@pytest.mark.parametrize("mode", ["drip:3", "pings-after:3"])
def test_a_stream_that_only_seems_to_go_on_stalls(chain, mode):
    with chain(mode, "ok") as served:
        began = time.monotonic()
        response = served.ask(stream=True)
        assert 1.0 <= time.monotonic() - began < 6
        assert words(response) == ["0 ", "1 ", "2 "]
        assert "[DONE]" not in response.text
        assert '"upstream_error"' in response.text


@pytest.mark.parametrize("path", PATHS)
def test_what_opens_an_answer_is_no_content_yet(chain, fake, path):
    with chain("breaks:0", "ok") as served:
        response = served.post(body_for(path, stream=True), path)
        assert response.headers["x-semroute-model"] == "ok"
        assert fake.models() == ["breaks:0", "ok"]
        opening = {
            "/v1/chat/completions": '"role": "assistant"',
            "/v1/responses": "event: response.created",
            "/v1/messages": "event: message_start",
        }
        assert response.text.count(opening[path]) == 1  # that of the model that answered
        assert "half" not in response.text and "error" not in response.text
        assert response.text.count('"am "') == 1


@pytest.mark.parametrize("path", PATHS)
def test_a_stream_that_breaks_ends_in_an_error_of_the_callers_dialect(chain, fake, path):
    with chain("breaks:2", "ok") as served:
        response = served.post(body_for(path, stream=True), path)
        assert fake.models() == ["breaks:2"]
        assert "[DONE]" not in response.text
        assert response.text.count('"a "') == response.text.count('"b "') == 1
        assert "half" not in response.text  # what was begun is not passed on
        *_, last = response.text.rstrip().split("\n\n")
        told = json.loads(last.partition("data: ")[2])
        if path == "/v1/chat/completions":
            assert told["error"]["code"] == "upstream_error"
        else:
            assert last.startswith("event: error\n")
            assert told["type"] == "error"
        assert served.metric("semroute_upstream_attempts_total", outcome="failed") == 1


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_200_that_is_no_answer_is_a_failure_in_every_api(chain, path, stream):
    kinds = ["error", "html", "empty", "broken", "other", "list"]
    for kind in kinds:
        with chain(f"body:{kind}", "ok") as served:
            response = served.post(body_for(path, stream=stream), path)
            assert (response.status_code, response.headers["x-semroute-model"]) == (200, "ok"), kind
            assert "SECRET" not in response.text


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_only_the_operator_can_mend_is_said_to_him_alone(chain, caplog, status):
    mode = f"status:{status}"
    with chain(mode) as served:
        response = served.ask()
        assert response.status_code == 503
        assert "SECRET" not in response.text + str(response.headers)
    (said,) = [one.getMessage() for one in caplog.records if one.levelname == "ERROR"]
    assert f"'{mode}' answers status {status}" in said
    assert "SECRET" not in caplog.text


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refusal_comes_back_byte_for_byte(chain, fake, status, stream):
    with chain(f"status:{status}", "ok") as served:
        response = served.ask(stream=stream)
        error = {"error": {"message": f"SECRET of {status}", "type": "x", "code": f"fake_{status}"}}
        assert (response.status_code, response.content) == (status, json.dumps(error).encode())
        assert len(fake.requests) == 1


@pytest.mark.parametrize(
    ("said", "rests"),
    [(timedelta(seconds=-60), 0.0), (timedelta(seconds=40), 40.0)],
    ids=["a date that has passed", "a date in 40 seconds"],
)
def test_a_date_in_retry_after(chain, said, rests):
    moment = format_datetime(datetime.now(UTC) + said, usegmt=True).replace(":", "|")
    mode = f"status:429:retry-after={moment}"
    with chain(mode, "ok", settings={**HURRIED, "cooldown_s": 5, "max_cooldown_s": 300}) as served:
        assert served.ask().headers["x-semroute-model"] == "ok"
        health = served.app.state.service.upstreams.health()[mode]
        assert health.until - time.monotonic() == pytest.approx(rests, abs=3.0)


def test_openais_client_does_not_hammer_what_is_down(chain, fake):
    with chain("status:500", "status:503") as served:
        client = openai.OpenAI(base_url=served.url + "/v1", api_key="none", max_retries=2)

        def ask(_):
            with pytest.raises(openai.InternalServerError):
                client.chat.completions.create(model="semroute/auto", messages=HELLO)

        with ThreadPoolExecutor(10) as pool:
            list(pool.map(ask, range(100)))
        client.close()
        assert len(fake.requests) <= 1.2 * 100 + 3


def test_a_request_is_sent_again_only_on_a_connection_that_was_kept(chain, fake):
    with chain("reset", "half-head", "ok") as served:
        served.ask("ok")  # its connection is kept, and taken for the next
        assert served.ask("reset").status_code == 503
        assert fake.models() == ["ok", "reset", "reset"]
        assert served.ask("reset").status_code == 503  # on a new connection there is nothing to mend
        assert served.ask("half-head").status_code == 503
        assert fake.models()[3:] == ["reset", "half-head"]
        served.ask("ok")
        assert served.ask("half-head").status_code == 503  # on a kept one too: it had begun to answer
        assert fake.models()[5:] == ["ok", "half-head"]


# Bodies and headers -------------------------------------------------------------------------------------------

POST = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"
SECOND = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"


@pytest.mark.parametrize(
    "text",
    [
        POST + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n" + SECOND,
        POST + b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n" + SECOND,
        POST + b"transfer-encoding: chunked\r\n\r\n" + b"f" * 17 + b"\r\n",
        POST + b"transfer-encoding: chunked\r\n\r\n-1\r\nx\r\n0\r\n\r\n",
        POST + b"transfer-encoding: gzip, chunked, identity\r\n\r\n0\r\n\r\n" + SECOND,
        POST + b"content-length: 1\r\ncontent-length: 2\r\n\r\n{}" + SECOND,
        POST + b"content-length: -1\r\n\r\n",
        POST + b"content-length: 1e3\r\n\r\n",
        POST + b"content-length: 99999999999999999999999\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nhost: x\r\nx y: z\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nhost: x\r\nx: a\x00b\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nhost: x\r\nx-a: b\nevil\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nhost: x@evil.example\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nhost: \xc3\xb6\r\n\r\n",
        b"GET  /healthz  HTTP/9.9\r\nhost: x\r\n\r\n",
        b"nonsense\r\n\r\n",
    ],
    ids=lambda text: text.removeprefix(POST)[:50].decode("latin-1").encode("unicode_escape").decode(),
)  # fmt: skip
def test_http_that_two_servers_could_read_differently_is_refused_and_closed(chain, fake, text):
    with chain("ok") as served:
        found = raw(served, text)  # reads until the server closes
        assert found.startswith(b"HTTP/1.1 400 ")
        assert found.count(b"HTTP/1.1 ") == 1  # what follows is no second request
        assert fake.requests == []
        assert served.get("/healthz").status_code == 200


def test_a_hundred_thousand_headers_harm_nobody(chain):
    with chain("ok") as served:
        many = b"".join(b"x-%d: y\r\n" % n for n in range(100_000))
        try:
            found = raw(served, b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n" + many + b"\r\n")
        except ConnectionError:
            found = b""
        assert found == b"" or found.split(b" ")[1] in (b"200", b"400", b"431")
        assert served.ask().status_code == 200


def test_keys_that_are_no_text_are_refused(chain):
    with chain("ok", keys={"me": "key-of-mine"}) as served:
        for header in (
            b"authorization: Bearer \xff\xfe",
            b"authorization: Bearer k\xc3\xa9y",
            b"x-api-key: \xe9",
        ):
            request = b"GET /v1/models HTTP/1.1\r\nhost: x\r\nconnection: close\r\n" + header + b"\r\n\r\n"
            assert raw(served, request).split(b" ")[1] == b"401"


def test_ids_that_are_no_plain_text_are_replaced(chain):
    with chain("ok") as served:
        for given in (b"\xff\xfe", b"a b", b"<script>", b"x" * 129, b""):
            request = (
                b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-request-id: "
                + given
                + b"\r\n\r\n"
            )
            head = raw(served, request).partition(b"\r\n\r\n")[0].lower().split(b"\r\n")
            (identity,) = [line.partition(b": ")[2] for line in head if line.startswith(b"x-request-id")]
            assert len(identity) == 26


def test_what_a_client_says_of_semroute_reaches_no_model_of_any_api(chain, fake):
    with chain("ok") as served:
        for path in PATHS:
            for stream in (False, True):
                forged = {"x-semroute-route": "admin", "x-semroute-model": "dear", "x-semroute-id": "mine"}
                response = served.post(body_for(path, stream=stream), path, **forged)
                assert response.headers["x-semroute-route"] == "billing"
                assert response.headers["x-semroute-model"] == "ok"
                assert response.headers["x-semroute-id"] != "mine"
                assert not [name for name in fake.requests[-1].headers if name.startswith("x-semroute")]


@pytest.mark.parametrize("path", PATHS)
def test_addresses_in_a_body_are_refused_in_every_api(chain, fake, path):
    with chain("ok") as served:
        for field in ("base_url", "api_base", "api_key"):
            assert served.post(body_for(path, **{field: "http://127.0.0.1:1/"}), path).status_code == 404
        assert fake.requests == []


def test_a_body_without_a_length_is_measured_as_it_comes(chain, fake):
    with chain("ok", settings={**HURRIED, "max_body_mb": 0.1}) as served:
        chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        found = raw(
            served,
            POST + b"connection: close\r\ntransfer-encoding: chunked\r\n\r\n" + chunk * 4 + b"0\r\n\r\n",
        )
        assert found.startswith(b"HTTP/1.1 413 ")
        assert json.loads(found.partition(b"\r\n\r\n")[2])["error"]["code"] == "request_too_large"
        assert fake.requests == []


def test_a_compressed_body_is_not_unpacked(chain, fake):
    with chain("ok") as served:
        bomb = gzip.compress(b" " * (20 << 20))
        assert served.post(bomb, content_encoding="gzip").status_code == 400
        assert fake.requests == []


def test_much_at_once_fills_one_pool_of_connections_after_the_other():
    made = []
    pools = Pools(lambda: made.append(httpcore2.AsyncConnectionPool()) or made[-1])
    taken = [pools.take() for _ in range(20)]
    assert [made.index(pool.engine) for pool in taken] == [0] * 8 + [1] * 8 + [2] * 4
    pools.give_back(taken[0])
    assert pools.take().engine is made[0]  # where connections are warm
    assert pools.busy == 20
    many = [pools.take() for _ in range(2_000)]
    assert len(made) == 64 and max(pool.busy for pool in many) <= 32  # as even as can be
    for pool in [*taken[1:], taken[0], *many]:
        pools.give_back(pool)
    assert pools.busy == 0


def test_one_request_after_the_other_uses_one_connection(chain, fake):
    with chain("ok") as served:
        for _ in range(5):
            assert served.ask("ok").status_code == 200
        pools = served.app.state.service.upstreams.pools
        assert (len(pools.connections), pools.busy) == (1, 0)
