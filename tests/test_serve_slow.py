"""What routing writes to is slow, locked or deaf: prompts are routed as before, and what is lost is counted."""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from serving import make_router, serving
from test_decisionlog import held
from test_serve import Command, write

from semroute import telemetry
from semroute.build import build_index
from semroute.decisionlog import open_log
from semroute.escalations.sqlite import MIGRATIONS, SqliteStore
from semroute.server import books

SLOW_S = (
    5.0  # no answer takes so long, however busy the machine; who waited for a store would take twice that
)

UNSURE = "say:I'm not sure about that."
RISING = {"model": UNSURE, "cascade": {"to": ["ok"]}}


@pytest.fixture
def stored(fake, tmp_path):
    """A served router with a decision log and an escalations store in one SQLite file, and its address."""
    fake.forget()
    spec = f"sqlite:{tmp_path / 's.db'}"
    stores = {"log": {"store": spec}, "escalations": {"store": spec}}
    router = make_router(tmp_path / "routes", fake.models_for([UNSURE, "ok"]), RISING, **stores)
    return router, spec


def slowest(served, count):
    """Seconds that the slowest of `count` answers took; four clients ask at once."""

    def ask(_):
        began = time.monotonic()
        assert served.ask().status_code == 200
        return time.monotonic() - began

    with ThreadPoolExecutor(4) as pool:
        return max(pool.map(ask, range(count)))


def test_a_store_that_somebody_holds_delays_no_answer(stored, tmp_path):
    router, spec = stored
    with serving(router) as served:
        identity = served.ask().headers["x-semroute-id"]
        assert router.flush(10)
        with held(spec, tmp_path):
            assert slowest(served, 80) < SLOW_S
            told = served.metric("semroute_decisions_total")
            decided = served.metric("semroute_routing_duration_seconds_sum")
            assert decided / told < 0.5
            assert router.flush(0.2) is False  # all this is yet to be written
        assert router.flush(30)
        assert served.metric("semroute_events_dropped_total") == 0
        said = {"id": identity, "score": 1.0, "by": "ann"}
        assert served.post(said, "/v1/feedback").status_code == 200
    with open_log(spec, root=tmp_path) as log:
        assert len(list(log.read())) == 81


def test_what_waits_for_a_held_store_is_bounded_and_the_rest_is_counted(stored, tmp_path, monkeypatch):
    monkeypatch.setattr(telemetry, "MAX_WAITING", 20)
    monkeypatch.setattr(books, "_MOST_WAITING", 10)
    router, spec = stored
    with serving(router) as served:
        served.ask()
        assert router.flush(10)
        with held(spec, tmp_path):
            time.sleep(2 * telemetry.GATHER_S)
            assert slowest(served, 60) < SLOW_S
            unheard = served.metric("semroute_events_dropped_total")
            unrecorded = served.metric("semroute_records_dropped_total")
            assert 0 < unheard == router.dropped
            assert unrecorded > 0
        assert slowest(served, 5) < SLOW_S


def test_feedback_that_finds_the_store_held_is_refused_and_holds_up_nobody(stored, tmp_path, monkeypatch):
    monkeypatch.setattr(SqliteStore.__init__, "__kwdefaults__", {"patience": 1.5, "migrations": MIGRATIONS})
    router, spec = stored
    with serving(router) as served, ThreadPoolExecutor(1) as pool:
        identity = served.ask("router@models:ok").headers["x-semroute-id"]
        assert router.flush(10)
        with held(spec, tmp_path):
            said = {"id": identity, "score": 0.0, "by": "ann"}
            feedback = pool.submit(served.post, said, "/v1/feedback")
            assert slowest(served, 20) < SLOW_S
            refused = feedback.result(30)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "store_unavailable")
        assert "retry-after" in refused.headers


def test_a_stop_while_the_store_is_held_ends_however_much_is_to_be_stored(fake, tmp_path):
    store = {"store": "sqlite:s.db"}
    models = fake.models_for([UNSURE, "ok"])
    make_router(tmp_path / "routes", models, RISING, log=store, escalations=store, serve={"grace_s": 1})
    build_index(tmp_path / "routes", tmp_path / "index")
    with Command(tmp_path) as command:
        assert command.ask().status_code == 200
        until = time.monotonic() + 10
        while not (tmp_path / "s.db").exists() and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(1.0)  # all of the first answer is stored
        with held("sqlite:s.db", tmp_path):
            for _ in range(10):
                assert command.ask().status_code == 200  # two records each, for which the lock is waited for
            command.process.terminate()
            assert command.process.wait(30) == 0
        assert any("not stored" in line for line in command.log)


@contextmanager
def deaf():
    """A server that accepts and never answers; its port, and what has connected."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        met = []

        def accept():
            while True:
                try:
                    met.append(listening.accept()[0])
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        try:
            yield listening.getsockname()[1], met
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            for connection in met:
                connection.close()


def test_a_collector_of_spans_that_never_answers_delays_no_answer(fake, tmp_path):
    write(tmp_path / "routes", fake, billing="ok")
    build_index(tmp_path / "routes", tmp_path / "index")
    with deaf() as (port, met):
        environ = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
            "OTEL_BSP_SCHEDULE_DELAY": "50",
            "OTEL_BSP_MAX_QUEUE_SIZE": "16",
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "8",
        }
        with Command(tmp_path, **environ) as command:
            command.ask()
            until = time.monotonic() + 10
            while not met and time.monotonic() < until:
                time.sleep(0.02)
            assert met  # the exporter waits from now on
            began = time.monotonic()
            for _ in range(60):
                assert command.ask().status_code == 200
            assert time.monotonic() - began < 60 / 3  # a second each, if they waited for the exporter
            command.process.terminate()
            assert command.process.wait(25) == 0
