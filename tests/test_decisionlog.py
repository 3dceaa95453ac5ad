"""The decision log: listeners that cost routing nothing, one contract over three stores, and honest savings.

Real files, real processes, a real PostgreSQL.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from conftest import SETTINGS
from test_stores import Postgres

from semroute import telemetry
from semroute.build import build_index
from semroute.config import ModelCard, load_config
from semroute.decision import Candidate, Decision
from semroute.decisionlog import DecisionLog, LoggedDecision, open_log
from semroute.decisionlog.record import Entry, Judgement, entry_of
from semroute.decisionlog.savings import savings, savings_by_day
from semroute.errors import (
    ConfigError,
    OutcomeInvalid,
    StoreBusy,
    StoreCorrupt,
    StoreError,
    StoreUnavailable,
    UnknownDecision,
)
from semroute.escalations import open_store, prompt_hash
from semroute.router import Router
from semroute.telemetry import Decided, Feed, Judged, Served
from semroute.ulid import new_ulid

CANARY = "c4nary where is my refund"
PRICES = (0.25, 2.0), (5.0, 25.0)


@pytest.fixture(scope="session")
def postgres():
    server = Postgres()
    yield server
    server.remove()


@pytest.fixture(params=["sqlite", "jsonl", "postgres"])
def spec(request) -> str:
    """What settings name as a log; relative to `tmp_path`."""
    if request.param == "postgres":
        return request.getfixturevalue("postgres").new_schema()
    return {"sqlite": "sqlite:decisions.db", "jsonl": "jsonl:decisions.jsonl"}[request.param]


@pytest.fixture
def opened(spec, tmp_path):
    """The log, as another process would open it, each time it is called."""
    logs: list[DecisionLog] = []

    def open_one() -> DecisionLog:
        logs.append(open_log(spec, root=tmp_path))
        return logs[-1]

    yield open_one
    for log in logs:
        log.close()


def decision(**changes: Any) -> Decision:
    fields: dict[str, Any] = {
        **{"id": new_ulid(), "route": "billing", "model": "small", "fallbacks": ("big",), "reason": "match"},
        **{"confidence": 0.75, "similarity": 0.5, "margin": 1 / 3, "neighbors": (), "rule": None},
        **{"index": "sha256:0", "elapsed_ms": 1.25, "scores": {"billing": 0.75, "coding": 0.1}},
        "candidates": (
            Candidate("small", 0.9, 12.5, *PRICES[0]),
            Candidate("big", None, None, *PRICES[1]),
        ),
    }
    return Decision(**(fields | changes))


def entries(log: DecisionLog, *events: Any, keep_text: bool = False) -> list[Entry]:
    return [entry_of(event, log.key, keep_text=keep_text, keep_vectors=False) for event in events]


def decided(text: str | None = CANARY, at: float = 1e9, **changes: Any) -> Decided:
    return Decided(decision(**changes), at, text, "draft")


def served(about: Decided, **said: Any) -> Served:
    return Served(id=about.decision.id, time=about.time, **said)


def judged(about: Decided, score: float, by: str = "ann", **said: Any) -> Judged:
    return Judged(id=about.decision.id, time=about.time, outcome=new_ulid(), score=score, by=by, **said)


# One contract ------------------------------------------------------------------------------------------------------


def test_a_decision_comes_back_with_what_it_cost_and_how_it_was_judged(opened):
    log, event = opened(), decided()
    other = decided(
        None, route=None, model="big", fallbacks=(), reason="too_far", similarity=None, margin=None
    )
    log.write(entries(log, event, other))
    log.write(
        entries(
            log,
            served(event, prompt_tokens=1_000, completion_tokens=100, latency_ms=812.5, ttft_ms=90),
            judged(event, 0.0, escalated_to="big"),
        )
    )
    first, second = opened().read()
    assert first == LoggedDecision(
        **{"id": event.decision.id, "time": 1e9, "route": "billing", "best": "billing", "model": "small"},
        **{"reason": "match", "rule": None, "confidence": 0.75, "similarity": 0.5, "margin": 1 / 3},
        **{"candidates": event.decision.candidates, "fallbacks": ("big",), "shadow": None},
        **{"index": "sha256:0", "elapsed_ms": 1.25, "step": "draft", "attempts": 1, "served_by": "small"},
        **{"prompt_tokens": 1_000, "completion_tokens": 100, "usd": 0.00045, "latency_ms": 812.5},
        **{"ttft_ms": 90.0, "score": 0.0, "escalated_to": "big", "by": "ann"},
        judgements=(Judgement("small", 0.0, "big", "ann"),),
        prompt_hash=prompt_hash(CANARY, log.key).hex(),
    )
    assert (second.id, second.route, second.model, second.similarity) == (
        other.decision.id,
        None,
        "big",
        None,
    )
    assert (second.attempts, second.usd, second.score, second.text) == (0, None, None, None)


def test_reading_begins_and_ends_where_asked(opened):
    log = opened()
    events = [decided(at=float(at)) for at in range(2_500)]
    log.write(entries(log, *events))
    ids = [event.decision.id for event in events]
    assert [found.id for found in log.read()] == ids
    assert [found.id for found in log.read(since=2_400.0)] == ids[2_400:]
    assert [found.id for found in log.read(since=10.0, limit=3)] == ids[10:13]
    assert [found.id for found in log.read(limit=1_700)] == ids[:1_700]
    assert list(log.read(limit=0)) == list(log.read(since=1e12)) == log.tail(0) == []
    assert [found.id for found in log.tail(3)] == ids[-3:]
    assert [found.id for found in log.find([ids[7], ids[3], "nobody"])] == [ids[3], ids[7]]


def test_an_empty_log(opened):
    log = opened()
    assert (list(log.read()), log.tail(5), log.find([]), log.recall("nobody"), log.last()) == (
        [],
        [],
        [],
        None,
        0,
    )
    assert log.news(0) == (0, [])
    log.write([])
    assert log.forget(bytes(32)) == log.forget_principal("ann") == log.prune(1e12) == 0


def test_news_names_each_decision_again_when_more_is_known_of_it(opened):
    log, first, second = opened(), decided(), decided()
    log.write(entries(log, first))
    place, ids = log.news(0)
    assert (place, ids) == (log.last(), [first.decision.id])
    log.write(entries(log, second, judged(first, 1.0)))
    after, ids = log.news(place)
    assert (after, sorted(ids)) == (log.last(), sorted([first.decision.id, second.decision.id]))
    assert log.news(after) == (after, [])


def test_the_call_that_answered_counts_and_all_are_paid_for(opened):
    log, event, failed = opened(), decided(), decided()
    log.write(
        entries(
            log,
            event,
            served(event, error="HTTP 503"),
            served(event, model="small", prompt_tokens=1_000, completion_tokens=0, error="stream broke"),
            served(event, model="big", prompt_tokens=1_000, completion_tokens=100, latency_ms=5),
            failed,
            served(failed, error="HTTP 503"),
        )
    )
    found, unanswered = opened().read()
    assert (found.attempts, found.served_by, found.error, found.latency_ms) == (3, "big", None, 5.0)
    assert (found.prompt_tokens, found.completion_tokens) == (1_000, 100)
    assert found.usd == pytest.approx(0.00025 + 0.0075)
    assert (unanswered.attempts, unanswered.served_by, unanswered.error) == (1, "small", "HTTP 503")


@pytest.mark.parametrize(
    ("said", "usd"),
    [
        ({"prompt_tokens": 1_000_000, "completion_tokens": 0}, 0.25),
        ({"prompt_tokens": 1_000, "usd": 0.5}, 0.5),  # by the prices of the router, which knows every model
        ({"prompt_tokens": 1_000}, None),
        ({}, None),
        ({"model": "a model of nobody", "prompt_tokens": 1, "completion_tokens": 1}, None),
    ],
)
def test_what_a_call_cost_is_known_or_it_is_not(tmp_path, said, usd):
    with open_log("jsonl:d", root=tmp_path) as log:
        event = decided()
        log.write(entries(log, event, served(event, **said)))
        assert next(log.read()).usd == usd


def test_of_several_judgements_the_operators_last_counts_else_the_last(opened):
    log, event = opened(), decided()
    log.write(entries(log, event, judged(event, 0.2), judged(event, 0.4, "bob")))
    assert [(d.score, d.by) for d in log.read()] == [(0.4, "bob")]
    log.write(entries(log, judged(event, 0.6, "operator"), judged(event, 0.8, "eve")))
    assert [(d.score, d.by) for d in log.read()] == [(0.6, "operator")]


def test_a_judgement_belongs_to_the_model_it_is_about(opened):
    """What a cascade says of the answer it rejected is no word on the answer that was served."""
    log, event = opened(), decided()
    rejected = judged(event, 0.0, "cascade", model="small", escalated_to="big")
    log.write(entries(log, event, served(event, model="small"), rejected, served(event, model="big")))
    (found,) = log.read()
    assert (found.answerer, found.score, found.escalated_to, found.by) == ("big", None, None, None)
    assert found.judgements == (Judgement("small", 0.0, "big", "cascade"),)
    log.write(entries(log, judged(event, 1.0, "ann", model="big")))
    (found,) = log.read()
    assert (found.score, found.by, found.of_answerer().model) == (1.0, "ann", "big")
    assert found.scores_of == {"small": 0.0, "big": 1.0}
    (row,) = (each for each in savings([found], CATALOGUE, "big").quality if each.model == "big")
    assert (row.decisions, row.judged, row.mean) == (1, 1, 1.0)


def test_of_an_answer_that_is_given_all_the_same_people_are_heard_before_the_cascade(opened):
    log, event = opened(), decided()
    log.write(entries(log, event, served(event, model="small"), judged(event, 0.75, "ann", model="small")))
    log.write(entries(log, judged(event, 0.0, "cascade", model="small", escalated_to="big")))
    assert [(d.score, d.by) for d in log.read()] == [(0.75, "ann")]


def test_what_is_said_of_nobodys_decision_is_no_decision(opened):
    log = opened()
    log.write(entries(log, served(decided()), judged(decided(), 1.0)))
    assert list(log.read()) == log.tail(5) == []


def test_writing_the_same_entries_again_changes_nothing(opened):
    log, event = opened(), decided()
    written = entries(log, event, served(event, prompt_tokens=1, completion_tokens=1))
    for _ in range(2):
        log.write(written)
    assert [found.attempts for found in log.read()] == [1]
    assert len(log.tail(10)) == len(log.find([event.decision.id])) == 1


def test_forgetting_a_prompt_leaves_nothing_of_it(opened, spec, tmp_path):
    log, about, other = opened(), decided(), decided("something else")
    log.write(entries(log, about, other, served(about), judged(about, 1.0), keep_text=True))
    assert all_bytes(spec, tmp_path).count(CANARY.encode()) == 1
    assert log.forget(prompt_hash(f"  {CANARY} ", log.key)) == 1
    assert log.forget(prompt_hash(CANARY, log.key)) == 0
    assert [found.id for found in opened().read()] == [other.decision.id]
    assert CANARY.encode() not in all_bytes(spec, tmp_path)
    assert about.decision.id.encode() not in all_bytes(spec, tmp_path)


def test_forgetting_a_principal_leaves_the_decision(opened, spec, tmp_path):
    log, about = opened(), decided()
    log.write(entries(log, about, judged(about, 1.0, "m.mustermann")))
    assert log.forget_principal("m.mustermann") == 1
    assert [found.score for found in log.read()] == [None]
    assert b"mustermann" not in all_bytes(spec, tmp_path)


def test_pruning_erases_what_is_older(opened):
    log = opened()
    old, young = decided(at=100.0), decided(at=200.0)
    log.write(entries(log, old, served(old), young))
    assert log.prune(200.0) == 2
    assert [found.id for found in log.read()] == [young.decision.id]
    log.write(entries(log, decided(at=300.0)))
    assert len(list(log.read())) == 2


def test_a_closed_log_says_so(opened):
    log = opened()
    log.close()
    for use in (log.last, lambda: list(log.read()), lambda: log.write(entries(log, decided()))):
        with pytest.raises(StoreUnavailable, match="closed"):
            use()


def test_any_text_is_kept_as_it_is_but_for_what_no_store_holds(opened):
    log = opened()
    texts = [
        "größer \N{PILE OF POO}\u2028 \"'\\ %s {}",
        "half \ud800 and nul \x00",
        "line\nline\r\n",
        "x" * 200_000,
    ]
    log.write(entries(log, *map(decided, texts), keep_text=True))
    assert [found.text for found in log.read()] == [texts[0], "half ? and nul ", texts[2], "x" * 100_000]


def test_several_processes_make_it_and_write_at_once(opened, spec, tmp_path):
    code = (
        "print(log.key.hex())\n"
        "for _ in range(20): id_ = new_ulid(); log.write([entry('decided', id_), entry('served', id_)])\n"
    )
    processes = [start(code, spec, tmp_path) for _ in range(3)]
    printed = [process.communicate(timeout=60) for process in processes]
    assert [error for _, error in printed] == [""] * 3
    log = opened()
    assert {key.strip() for key, _ in printed} == {log.key.hex()}
    found = list(log.read())
    assert len({each.id for each in found}) == 60 and all(each.attempts == 1 for each in found)


def test_what_was_written_survives_kill_9(opened, spec, tmp_path):
    code = "while True: id_ = new_ulid(); log.write([entry('decided', id_)]); print(id_, flush=True)\n"
    writer = start(code, spec, tmp_path)
    told = [writer.stdout.readline().strip() for _ in range(10)]
    writer.kill()
    told += [line.strip() for line in writer.stdout.read().splitlines()]
    writer.communicate()
    log = opened()
    found = [each.id for each in log.read()]
    assert found[: len(told)] == told and len(found) <= len(told) + 1
    log.write(entries(log, decided()))
    assert len(list(log.read())) == len(found) + 1


def test_a_log_that_is_held_for_too_long_is_busy_and_nothing_is_written(spec, tmp_path):
    from semroute.decisionlog.jsonl import JsonlLog
    from semroute.decisionlog.postgres import PostgresLog
    from semroute.decisionlog.sqlite import SqliteLog

    kind, _, path = spec.partition(":")
    make = {"sqlite": SqliteLog, "jsonl": JsonlLog}.get(kind)
    log: Any = PostgresLog(spec, patience=0.2) if make is None else make(tmp_path / path, patience=0.2)
    with log, held(spec, tmp_path), pytest.raises(StoreBusy):
        log.write(entries(log, decided()))
    with open_log(spec, root=tmp_path) as again:
        assert list(again.read()) == []


_START = """
import os, signal, sqlite3, sys, threading, time
from pathlib import Path
from semroute.decisionlog import Entry, open_log
from semroute.errors import StoreUnavailable
from semroute.ulid import new_ulid
BODY = {"model": "small", "reason": "match", "confidence": 1.0, "index": "", "elapsed_ms": 1.0, "candidates": [], "fallbacks": []}
def entry(kind, id_=None, text=None):
    return Entry(new_ulid(), id_ or new_ulid(), kind, 1e9, None, None, text, None, BODY if kind == "decided" else {})
log = open_log(sys.argv[1], root=Path(sys.argv[2]))
"""


def start(code: str, spec: str, root: Path) -> subprocess.Popen[str]:
    """Run Python in a process of its own, with `log` open."""
    return subprocess.Popen(
        [sys.executable, "-c", _START + code, spec, str(root)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class held:  # noqa: N801 - used as a function
    """Hold what a writer needs."""

    def __init__(self, spec: str, root: Path) -> None:
        self._spec, self._root = spec, root

    def __enter__(self) -> None:
        kind, _, path = self._spec.partition(":")
        if kind == "sqlite":
            self._held: Any = sqlite3.connect(self._root / path, isolation_level=None)
            self._held.execute("BEGIN EXCLUSIVE")
        elif kind == "jsonl":
            import fcntl

            self._held = (self._root / path).open("rb+")
            fcntl.flock(self._held, fcntl.LOCK_EX)
        else:
            from semroute.decisionlog import postgres as module

            self._held = psycopg.connect(self._spec)
            self._held.execute(module._LOCK)

    def __exit__(self, *_: object) -> None:
        self._held.close()


def all_bytes(spec: str, root: Path) -> bytes:
    """Everything that can be read where the log is."""
    if spec.startswith("postgres"):
        with psycopg.connect(spec, autocommit=True) as connection:
            return repr(connection.execute("SELECT * FROM semroute_decisions").fetchall()).encode()
    return b"".join(path.read_bytes() for path in root.iterdir() if path.is_file())


# What each store adds ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["log", "store"])
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_log_and_outcomes_share_a_database_and_its_key_in_any_order(request, tmp_path, kind, first):
    spec = request.getfixturevalue("postgres").new_schema() if kind == "postgres" else "sqlite:s.db"
    opens = {"log": open_log, "store": open_store}
    with opens[first](spec, root=tmp_path) as one:
        key = one.key
    with open_log(spec, root=tmp_path) as log, open_store(spec, root=tmp_path) as store:
        assert log.key == store.key == key
        log.write(entries(log, decided()))
        assert (len(list(log.read())), store.last()) == (1, 0)


def test_a_log_in_postgresql_needs_no_pgvector(postgres, tmp_path):
    url = postgres.url(postgres.new_database())
    with open_log(url, root=tmp_path) as log:
        log.write(entries(log, decided()))
        assert len(log.tail(2)) == 1
    with psycopg.connect(url) as connection:
        assert connection.execute(
            "SELECT count(*) FROM pg_extension WHERE extname = 'vector'"
        ).fetchone() == (0,)


def test_replicas_that_start_together_all_find_the_log(postgres, tmp_path):
    """Who has looked before another one made the tables must look again, and not make them twice."""
    with ThreadPoolExecutor(6) as pool:
        for spec in [postgres.new_schema() for _ in range(8)]:
            start_line = threading.Barrier(6)

            def open_one(spec=spec, start_line=start_line):
                start_line.wait()
                with open_log(spec, root=tmp_path) as log:
                    return log.key

            keys = [future.result() for future in [pool.submit(open_one) for _ in range(6)]]
            assert len(set(keys)) == 1


def test_rows_in_postgresql_can_be_asked_in_sql(postgres, tmp_path):
    url = postgres.new_schema()
    with open_log(url, root=tmp_path) as log:
        log.write(entries(log, decided(), decided(route="coding")))
    with psycopg.connect(url) as connection:
        query = "SELECT body ->> 'route', count(*) FROM semroute_decisions GROUP BY 1 ORDER BY 1"
        assert connection.execute(query).fetchall() == [("billing", 1), ("coding", 1)]


def test_files_are_their_owners_alone(tmp_path):
    for spec in ("sqlite:a.db", "jsonl:a.jsonl"):
        with open_log(spec, root=tmp_path) as log:
            log.write(entries(log, decided()))
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"a.db": 0o600, "a.jsonl": 0o600, "a.jsonl.key": 0o600}


@pytest.mark.parametrize("cut", [1, 30, 200])
def test_a_line_that_was_cut_is_passed_over_and_the_next_one_is_whole(tmp_path, cut):
    path = tmp_path / "d.jsonl"
    with open_log("jsonl:d.jsonl", root=tmp_path) as log:
        log.write(entries(log, decided(), decided()))
        os.truncate(path, path.stat().st_size - cut)
        assert len(list(log.read())) == 1
        log.write(entries(log, decided()))
        whole = 3 if cut == 1 else 2  # of the last line nothing but its end was cut
        assert len(list(log.read())) == whole
        with path.open("ab") as file:
            file.write(b'\n[1]\n{"kind": 1}\nnull\n\xff\xfe\n' + b"[" * 100_000 + b"\n")
        log.write(entries(log, decided()))
        assert len(list(log.read())) == whole + 1


def test_a_full_disk_leaves_no_half_of_a_batch(tmp_path):
    """A limit on the size of files stands for a full disk: the write stops in the middle of a line."""
    code = (
        "import resource\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "log.write([entry('decided')])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, resource.RLIM_INFINITY))\n"
        "many = [entry('decided') for _ in range(100)]\n"
        "try: log.write(many)\n"
        "except StoreUnavailable as error: print(error)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))\n"
        "print(len(list(log.read()))); log.write(many); print(len(list(log.read())))\n"
    )
    said, error = start(code, "jsonl:d.jsonl", tmp_path).communicate(timeout=60)
    assert error == "" and "File too large" in said
    assert said.split()[-2:] == ["1", "101"]


def test_a_file_that_was_taken_away_is_made_anew(tmp_path):
    path = tmp_path / "d.jsonl"
    with open_log("jsonl:d.jsonl", root=tmp_path) as log:
        log.write(entries(log, decided()))
        path.rename(tmp_path / "d.jsonl.1")  # as programs do that rotate logs
        log.write(entries(log, decided()))
        assert (len(list(log.read())), stat.S_IMODE(path.stat().st_mode)) == (1, 0o600)


def test_what_nobody_of_ours_wrote_is_refused(tmp_path):
    with open_log("sqlite:d.db", root=tmp_path) as log:
        log.write(entries(log, decided()))
        with sqlite3.connect(tmp_path / "d.db") as connection:
            connection.execute("UPDATE decisions SET body = '{}'")
        connection.close()
        with pytest.raises(StoreCorrupt, match=r"d\.db"):
            list(log.read())
    (tmp_path / "d.jsonl").touch()
    (tmp_path / "d.jsonl.key").write_text("no key")
    with pytest.raises(StoreCorrupt, match=r"d\.jsonl\.key"):
        open_log("jsonl:d.jsonl", root=tmp_path)


@pytest.mark.parametrize("spec", ["mysql:x", "sqlite:", "jsonl:", "", "decisions.db"])
def test_an_unknown_kind_of_log(spec, tmp_path):
    with pytest.raises(StoreUnavailable, match="sqlite:PATH, jsonl:PATH or postgresql://"):
        open_log(spec, root=tmp_path)


@pytest.mark.parametrize("spec", ["sqlite:no/d.db", "jsonl:no/d.jsonl"])
def test_a_folder_that_is_not_there(spec, tmp_path):
    with pytest.raises(StoreUnavailable, match="folder must exist"):
        open_log(spec, root=tmp_path)


# Listeners ---------------------------------------------------------------------------------------------------------


class Heard:
    """A listener that remembers; `slow` blocks its first call until released."""

    def __init__(self, *, slow: bool = False, fails: bool = False) -> None:
        self.events: list[Any] = []
        self.released = threading.Event()
        self._slow, self._fails = slow, fails

    def decided(self, event: Decided) -> None:
        if self._slow:
            self.released.wait(30)
        self.events.append(event)
        if self._fails:
            raise RuntimeError(CANARY)

    served = judged = decided


@pytest.fixture
def project(write_project, tmp_path):
    """Build an index whose settings name a log, beside it; returns its folder."""

    def make(store: str | None = "sqlite:semroute.db", **log: Any) -> Path:
        more: dict[str, Any] = {"escalations": log.pop("escalations", None)}
        if store is not None:
            more["log"] = {"store": store, **log}
        build_index(
            write_project(settings={k: v for k, v in more.items() if v is not None}), tmp_path / "index"
        )
        return tmp_path / "index"

    return make


@pytest.fixture
def load():
    """Load routers, and close them in the end."""
    routers: list[Router] = []

    def make(*arguments: Any, **options: Any) -> Router:
        routers.append(Router.load(*arguments, **options))
        return routers[-1]

    yield make
    for router in routers:
        router.close(1.0)


def test_a_listener_hears_of_everything_in_its_order(project, load):
    heard = Heard()
    router = load(project(), listeners=[heard])
    late = Heard()
    first = router.route(CANARY, step="draft")
    router.listen(late)
    many = router.route_many([[{"role": "user", "content": "hello there"}], 7, ""])  # type: ignore[list-item]
    router.served(first, prompt_tokens=3, completion_tokens=4)
    router.feedback(first, 0.5, by="ann")
    assert router.flush(10)
    kinds = [type(event).__name__ for event in heard.events]
    assert kinds == ["Decided"] * 4 + ["Served", "Judged"]
    assert [event.decision for event in heard.events[:4]] == [first, *many]
    assert [event.text for event in heard.events[:4]] == [CANARY, "hello there", None, ""]
    assert heard.events[0].step == "draft" and abs(heard.events[0].time - time.time()) < 60
    assert late.events == heard.events[1:]
    assert router.dropped == 0


def test_p13_a_listener_that_hangs_costs_routing_nothing(project, load, monkeypatch, caplog):
    monkeypatch.setattr(telemetry, "MAX_WAITING", 50)
    hung = Heard(slow=True)
    router = load(project(None), listeners=[hung])
    with caplog.at_level(logging.ERROR, "semroute"):
        for _ in range(3):
            router.route_many(["where is my refund"] * 100)  # returns although nobody listens
    told = [record.message for record in caplog.records]
    assert told == ["Heard is too slow: events for it are dropped from now on."]
    assert router.dropped >= 300 - 50 - 100  # what waits, and what the thread has taken
    hung.released.set()
    assert router.flush(10)
    assert len(hung.events) + router.dropped == 300
    router.route("hello there")
    assert router.flush(10) and hung.events[-1].text == "hello there"


def test_waiting_prompts_are_bounded_too(monkeypatch):
    monkeypatch.setattr(telemetry, "MAX_WAITING_CHARS", 1_000)
    hung = Heard(slow=True)
    feed = Feed(hung)
    for _ in range(10):
        feed.put(decided("x" * 400))
    assert feed.dropped >= 6
    hung.released.set()
    feed.close(10)
    assert len(hung.events) + feed.dropped == 10


def test_a_listener_that_raises_is_said_once_without_its_words(project, load, caplog):
    bad, fine = Heard(fails=True), Heard()
    router = load(project(None), listeners=[bad, fine])
    with caplog.at_level(logging.ERROR, "semroute"):
        for _ in range(5):
            router.route(CANARY)
        assert router.flush(10)
    assert (len(bad.events), len(fine.events)) == (5, 5)
    assert [record.message for record in caplog.records] == ["Heard failed (RuntimeError); routing goes on."]


def test_closing_is_bounded_whoever_hangs(project, load):
    hung = Heard(slow=True)
    router = load(project(None), listeners=[hung])
    router.route("hello there")
    started = time.monotonic()
    assert router.flush(0.1) is False
    router.close(0.1)
    assert time.monotonic() - started < 5
    assert router.route("hello there").route == "smalltalk"
    hung.released.set()


def test_a_router_that_is_gone_leaves_no_thread(project):
    router = Router.load(project())
    router.route("hello there")
    router.flush(10)
    named = [thread for thread in threading.enumerate() if thread.name == "semroute-LogWriter"]
    del router
    for thread in named:
        thread.join(10)
    assert named and not any(thread.is_alive() for thread in named)


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        *(("prompt_tokens", value) for value in (-1, 1.5, True, "7", 2**53 + 1, 10**400)),
        *(("completion_tokens", value) for value in (-1, float("nan"))),
        *(("latency_ms", value) for value in (-1, float("inf"), "fast", True, 10**400)),
        *(("ttft_ms", value) for value in (-0.1, float("nan"))),
        *(("model", value) for value in ("x" * 201, "nul \x00")),
    ],
)
def test_what_a_call_cannot_have_cost(project, load, field, wrong):
    router = load(project(None))
    with pytest.raises(OutcomeInvalid, match=field):
        router.served(router.route("hello there"), **{field: wrong})


# The log of a router -----------------------------------------------------------------------------------------------


def test_what_was_called_is_a_model_of_the_settings_and_of_any_replicas_decision(project, load, tmp_path):
    router = load(project("jsonl:d.jsonl"))
    decision = router.route("hello there")
    with pytest.raises(OutcomeInvalid, match="'huge' is not declared; the settings have"):
        router.served(decision, model="huge")
    router.served(new_ulid(), prompt_tokens=1)  # another replica may have made it
    router.flush(10)
    with open_log("jsonl:d.jsonl", root=tmp_path) as log:
        assert [(found.id, found.attempts) for found in log.read()] == [(decision.id, 0)]


def test_every_decision_is_written_with_its_cost_and_outcome(project, load, spec, opened):
    router = load(project(spec))
    first, second = router.route_many([CANARY, "explain the weather on mars in latin"])
    router.served(first, prompt_tokens=1_000, completion_tokens=100, latency_ms=700)
    router.feedback(first, 0.9, by="ann")
    router.served(second.id, model="small", error="HTTP 500")
    router.served(second.id, model="big", prompt_tokens=100, completion_tokens=10)
    router.escalate(second.id, to="small", by="bob")
    assert router.flush(20)
    one, two = opened().read()
    assert (one.id, one.route, one.model, one.reason) == (first.id, "billing", "small", "match")
    assert (one.best, one.confidence) == ("billing", first.confidence)
    assert (one.candidates, one.index) == (first.candidates, first.index)
    assert (one.usd, one.score, one.by) == (pytest.approx(0.00045), 0.9, "ann")
    assert (two.route, two.model, two.served_by, two.attempts) == (None, "big", "big", 2)
    assert (two.usd, two.score, two.escalated_to) == (pytest.approx(0.00075), 0.0, "small")


def test_no_prompt_text_is_anywhere_unless_asked_for(project, load, spec, tmp_path, opened, caplog):
    router = load(project(spec, escalations={"store": "sqlite:semroute.db"}))
    router.feedback(router.route(CANARY), 1.0)
    router.route([{"role": "system", "content": CANARY}, {"role": "user", "content": CANARY}])
    router.close()
    assert len(list(opened().read())) == 2
    assert CANARY.encode() not in all_bytes(spec, tmp_path) and CANARY not in caplog.text
    for path in tmp_path.iterdir():
        assert path.is_dir() or CANARY.encode() not in path.read_bytes()


def test_text_is_kept_when_asked_for_and_goes_with_its_age(project, load, spec, opened):
    log = opened()
    log.write(entries(log, decided(at=time.time() - 2 * 86_400), decided(at=time.time() - 3_600)))
    router = load(project(spec, keep_text=True, max_age_days=1))
    router.route(CANARY)
    assert router.flush(20)
    assert [found.text for found in log.read()] == [None, CANARY]


def test_feedback_finds_the_decisions_of_other_processes(project, load, spec, opened):
    index = project(spec)
    told = load(index).route(CANARY)  # known by its Decision, before it is written
    here, there = load(index), load(index)
    decision = there.route(CANARY)
    there.served(decision, model="big")
    assert there.flush(20)
    assert here.feedback(decision.id, 0.5, by="ann")
    assert here.escalate(told, to="big", by="bob")
    assert here.flush(20)
    with pytest.raises(UnknownDecision, match="nor in the decision log"):
        here.feedback("01JZZZZZZZZZZZZZZZZZZZZZZZ", 1.0)
    with pytest.raises(OutcomeInvalid, match="score"):
        here.feedback(decision.id, 1.5)
    with pytest.raises(OutcomeInvalid, match="nobody"):
        here.escalate(decision.id, to="nobody")
    found = {each.id: each for each in opened().read()}
    assert (found[decision.id].score, found[decision.id].by) == (0.5, "ann")


@pytest.mark.parametrize("keep_text", [False, True])
@pytest.mark.parametrize("log", ["sqlite:semroute.db", "jsonl:decisions.jsonl"])
def test_feedback_from_another_process_is_evidence_where_enough_was_kept(
    project, load, log, keep_text, tmp_path
):
    index = project(log, keep_text=keep_text, escalations={"store": "sqlite:semroute.db", "min_support": 1})
    there, here = load(index), load(index)
    decision = there.route(CANARY)
    there.served(decision, model="big", prompt_tokens=1, completion_tokens=1)
    assert there.flush(20)
    identity = here.feedback(decision.id, 0.0)
    outcomes = list(here.memory.outcomes())
    if log.startswith("jsonl") and not keep_text:
        assert outcomes == []  # the log says what was said, and no vector is there to compare by
        return
    (outcome,) = outcomes
    assert (outcome.id, outcome.model, outcome.decision_id) == (identity, "big", decision.id)
    direct = load(index)
    twin = direct.route(CANARY)
    direct.feedback(twin, 0.0)
    last = list(direct.memory.outcomes())[-1]
    assert (outcome.vector == last.vector).all() and (outcome.features == last.features).all()
    assert outcome.prompt_hash == last.prompt_hash


def test_feedback_is_about_the_model_that_answered(project, load):
    router = load(project(escalations={"store": "sqlite:semroute.db"}))
    decision = router.route(CANARY)
    router.served(decision, model="small", error="HTTP 503")
    router.served(decision, model="big", prompt_tokens=1, completion_tokens=1)
    router.feedback(decision.id, 1.0)
    assert [outcome.model for outcome in router.memory.outcomes()] == ["big"]


def test_what_a_rule_decided_can_be_judged_in_the_log(write_project, load, tmp_path):
    rule = {"name": "long", "when": {"min_chars": 10}, "model": "big"}
    for log in (None, {"store": "sqlite:semroute.db"}):
        more = {} if log is None else {"log": log}
        settings = {"rules": [rule], "escalations": {"store": "sqlite:semroute.db"}, **more}
        build_index(write_project(settings=settings), tmp_path / "index")
        router = load(tmp_path / "index")
        decision = router.route(CANARY)
        if log is None:
            with pytest.raises(UnknownDecision, match="with a vector"):
                router.feedback(decision, 1.0)
        else:
            router.feedback(decision, 1.0)
            router.close()
            with open_log("sqlite:semroute.db", root=tmp_path) as opened:
                assert [(found.rule, found.score) for found in opened.read()] == [("long", 1.0)]


def test_without_a_log_nothing_changes(project, load, tmp_path):
    router = load(project(None))
    decision = router.route(CANARY)
    router.served(decision, prompt_tokens=1)
    with pytest.raises(StoreUnavailable, match="no store of outcomes"):
        router.feedback(decision, 1.0)
    assert router.flush() and router.dropped == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index", "routes"]


def test_a_router_for_measuring_writes_no_log(project, load, tmp_path):
    router = load(project(), log=False)
    router.route(CANARY)
    router.close()
    assert not (tmp_path / "semroute.db").exists()


def test_a_reload_follows_the_settings(project, load, tmp_path):
    router = load(project("jsonl:a.jsonl"))
    router.route(CANARY)
    project("jsonl:b.jsonl")
    router.reload()
    router.route(CANARY)
    project(None)
    router.reload()
    router.route(CANARY)
    router.close()
    for name in ("a", "b"):
        with open_log(f"jsonl:{name}.jsonl", root=tmp_path) as log:
            deadline = time.monotonic() + 10
            while not log.last() and time.monotonic() < deadline:
                time.sleep(0.01)  # the former log is written by its own thread
            assert len(list(log.read())) == 1


def test_a_log_that_cannot_be_reached_stops_no_routing_and_catches_up(
    project, load, tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr(telemetry, "RETRY_S", 0.05)
    router = load(project("sqlite:later/d.db"))
    with caplog.at_level(logging.ERROR, "semroute"):
        for _ in range(3):
            assert router.route(CANARY).route == "billing"
            assert router.flush(0.5) is False
    assert len(caplog.records) == 1 and "later/d.db cannot be made or opened" in caplog.text
    assert CANARY not in caplog.text
    (tmp_path / "later").mkdir()
    assert router.flush(20)
    with open_log("sqlite:later/d.db", root=tmp_path) as log:
        assert len(list(log.read())) == 3


def test_a_disk_that_is_slow_is_slow_for_the_log_alone(project, load, tmp_path):
    """Somebody holds the file: 200 prompts are routed meanwhile, and written afterwards."""
    index = project("sqlite:d.db")
    with open_log("sqlite:d.db", root=tmp_path):
        pass
    router = load(index)
    with held("sqlite:d.db", tmp_path):
        for _ in range(200):
            router.route(CANARY)
        assert router.flush(0.5) is False
    assert router.flush(20)
    with open_log("sqlite:d.db", root=tmp_path) as log:
        assert len(list(log.read())) == 200


def test_a_process_that_ends_has_written_everything(project, tmp_path):
    index = project()
    code = "import semroute, sys; r = semroute.load(sys.argv[1]); [r.route('hello there') for _ in range(50)]"
    subprocess.run([sys.executable, "-c", code, str(index)], check=True, timeout=60)
    with open_log("sqlite:semroute.db", root=tmp_path) as log:
        assert len(list(log.read())) == 50


def test_a_process_that_is_killed_leaves_whole_decisions(project, tmp_path, spec, opened):
    index = project(spec)
    code = (
        "import semroute, sys; r = semroute.load(sys.argv[1])\n"
        "while True: d = r.route('hello there'); r.served(d, prompt_tokens=1, completion_tokens=1)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(index)])
    deadline = time.monotonic() + 30
    log = opened()
    while not log.last() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait(20)
    found = list(log.read())
    assert found and all(each.attempts == 1 for each in found[:-1])


def _child(router: Router, count: int) -> None:
    for _ in range(count):
        router.route("hello there")


@pytest.mark.parametrize("how", ["multiprocessing", "fork and exit", "fork and sys.exit"])
def test_a_forked_child_writes_its_own_and_nothing_twice(project, load, spec, opened, how, tmp_path):
    router = load(project(spec))
    for _ in range(20):
        router.route(CANARY)  # some wait, some are being written
    if how == "multiprocessing":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python warns of threads at a fork
            child = multiprocessing.get_context("fork").Process(target=_child, args=(router, 30))
            child.start()
        child.join(30)
        assert child.exitcode == 0
    else:
        code = (
            "import os, sys, semroute\n"
            "router = semroute.load(sys.argv[1])\n"
            "for _ in range(20): router.route('good morning')\n"
            "child = os.fork()\n"
            "if child == 0:\n"
            "    for _ in range(30): router.route('hello there')\n"
            f"    {'sys.exit(0)' if 'sys' in how else 'router.close(); os._exit(0)'}\n"
            "assert os.waitpid(child, 0)[1] == 0\n"
            "for _ in range(5): router.route('good morning')\n"
        )
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "index")], check=True, timeout=60
        )
    assert router.flush(20)
    found = list(opened().read())
    wanted = {"billing": 20, "smalltalk": 30 if how == "multiprocessing" else 55}
    counted = {route: sum(each.route == route for each in found) for route in wanted}
    assert counted == wanted and len({each.id for each in found}) == len(found)


def test_connections_of_a_parent_outlive_its_children(tmp_path):
    """A child that lets go of a log must not end the transaction that its parent was in at the fork."""
    code = (
        "go = Path(sys.argv[2], 'go')\n"
        "many = [entry('decided', text='x' * 2_000) for _ in range(2_000)]\n"
        "log.write(many[:500])\n"
        "log._file.connection.execute('BEGIN IMMEDIATE')\n"
        "log._file.connection.execute('DELETE FROM decisions')\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    while not go.exists(): time.sleep(0.01)\n"
        "    del log\n"
        "    sys.exit(0)\n"
        "log._file.connection.execute('COMMIT')\n"
        "log.write(many)\n"
        "go.touch()\n"
        "os.waitpid(child, 0)\n"
        "connection = sqlite3.connect(Path(sys.argv[2]) / 'd.db')\n"
        "print(connection.execute('PRAGMA integrity_check').fetchone()[0], len(list(log.read())))\n"
    )
    said, error = start(code, "sqlite:d.db", tmp_path).communicate(timeout=60)
    assert said.split() == ["ok", "2000"], error


# Savings -----------------------------------------------------------------------------------------------------------

CATALOGUE = {
    "small": ModelCard(prompt_usd_per_1m=0.25, completion_usd_per_1m=2.0),
    "big": ModelCard(),
    "odd": ModelCard(),
}


def logged(**changes: Any) -> LoggedDecision:
    fields: dict[str, Any] = {
        **{"id": new_ulid(), "time": 1e9, "route": "billing", "best": "billing", "model": "small"},
        **{"reason": "match", "rule": None, "confidence": 0.9, "similarity": 0.9, "margin": 0.5},
        **{
            "candidates": (
                Candidate("small", None, None, *PRICES[0]),
                Candidate("big", None, None, *PRICES[1]),
            )
        },
        **{"fallbacks": ("big",), "shadow": None, "index": "sha256:0", "elapsed_ms": 1.0},
    }
    return LoggedDecision(**(fields | changes))


def answered(**changes: Any) -> LoggedDecision:
    costs = {
        "attempts": 1,
        "served_by": "small",
        "prompt_tokens": 1_000_000,
        "completion_tokens": 0,
        "usd": 0.25,
    }
    return logged(**(costs | changes))


def test_savings_by_hand():
    found = savings(
        [
            answered(score=0.8),
            answered(served_by="big", attempts=2, usd=5.25, score=1.0),  # small failed after it had counted
            answered(route=None, model="big", served_by="big", usd=5.0, score=0.5),
            logged(),
            logged(attempts=1, served_by="small"),
            logged(attempts=1, served_by="small", error="HTTP 500", usd=0.0),
            answered(served_by="big", usd=None, unpriced=("odd",)),  # odd, which had no price, answered badly
        ],
        CATALOGUE,
        "big",
    )
    spent = found.measured
    assert (spent.decisions, spent.usd, spent.prompt_tokens) == (3, 10.5, 3_000_000)
    assert (spent.not_reported, spent.without_tokens, spent.failed, spent.without_price) == (1, 1, 1, 1)
    assert spent.unpriced == {"odd": 1}
    about = found.estimated
    assert (about.default, about.decisions, about.spent_usd, about.baseline_usd) == ("big", 3, 10.5, 15.0)
    assert (about.saved_usd, about.saved_share, about.without_baseline) == (4.5, 0.3, 0)
    assert (found.decisions, found.judged, found.unjudged) == (7, 3, 4)
    assert found.mean == pytest.approx(2.3 / 3)
    assert (found.default_judged, found.default_mean) == (2, 0.75)
    rows = {(each.route, each.model): each for each in found.quality}
    assert (rows["billing", "small"].mean, rows["billing", "small"].default_mean) == (0.8, 1.0)
    assert ("billing", "odd") not in rows
    assert json.loads(json.dumps(found.to_dict()))["estimated"]["saved_usd"] == 4.5


def test_answers_that_a_cascade_rejected_count_for_the_model_that_gave_them():
    rejected = Judgement("small", 0.0, "big", "cascade")
    risen = answered(
        served_by="big", attempts=2, score=1.0, judgements=(rejected, Judgement("big", 1.0, None, "ann"))
    )
    found = savings([answered(score=1.0), risen], CATALOGUE, "big")
    rows = {each.model: each for each in found.quality}
    assert (rows["small"].decisions, rows["small"].judged, rows["small"].mean) == (1, 2, 0.5)
    assert (rows["big"].decisions, rows["big"].judged, rows["big"].mean) == (1, 1, 1.0)
    assert (found.judged, found.mean, found.default_mean) == (2, 1.0, 1.0)


def test_savings_name_the_judged_answers_that_were_not_served(project, command, load):
    router = load(project("sqlite:semroute.db"))
    decision = router.route(CANARY)
    router.feedback(decision, 0.0)
    router.served(decision, model="big", prompt_tokens=10, completion_tokens=10)
    router.feedback(decision, 1.0)
    assert router.flush(20)
    told = command("log", "savings").stdout
    assert "of the 1 decision that somebody judged" in told
    assert "by model, 1 judged answer more that was not served" in told
    assert "billing -> small: no answer served, score 0.00 (1 judged)" in told
    assert "billing -> big: 1 decision, score 1.00 (1 judged)" in told


def test_calls_that_help_to_choose_are_paid_for_and_answer_nothing(opened):
    log, event = opened(), decided()
    counts = {"prompt_tokens": 1_000_000, "completion_tokens": 0}
    arbiter = served(event, model="big", purpose="arbiter", **counts)
    judge = served(event, model="big", purpose="judge", **counts)
    log.write(entries(log, event, arbiter, served(event, model="small", **counts), judge))
    (found,) = log.read()
    assert (found.attempts, found.answerer, found.usd, found.overhead_usd) == (1, "small", 10.25, 10.0)
    told = savings([found], CATALOGUE, "big")
    assert (told.measured.usd, told.measured.overhead_usd) == (10.25, 10.0)
    assert (told.estimated.baseline_usd, told.estimated.saved_usd) == (5.0, -5.25)


def test_the_call_without_a_price_is_named_not_the_one_that_answered(opened):
    log, event = opened(), decided()
    counts = {"prompt_tokens": 10, "completion_tokens": 10}
    log.write(entries(log, event, served(event, model="odd", **counts), served(event, model="big", **counts)))
    assert savings(log.read(), CATALOGUE, "big").measured.unpriced == {"odd": 1}


def test_routing_may_cost_more_than_it_saves():
    found = savings([answered(served_by="big", attempts=2, usd=5.25)], CATALOGUE, "big").estimated
    assert (found.saved_usd, found.saved_share) == (-0.25, -0.05)


def test_without_prices_nothing_is_estimated_and_it_is_said():
    known = answered(candidates=(Candidate("small", None, None, *PRICES[0]),))
    found = savings([known], CATALOGUE, "big")
    assert (found.measured.usd, found.estimated.decisions, found.estimated.without_baseline) == (0.25, 0, 1)
    assert found.estimated.saved_share is None
    priced = {"big": ModelCard(prompt_usd_per_1m=1.0, completion_usd_per_1m=1.0)}
    assert savings([known], priced, "big").estimated.baseline_usd == 1.0


def test_the_price_of_the_default_is_that_of_the_time():
    dearer = {"big": ModelCard(prompt_usd_per_1m=100.0, completion_usd_per_1m=100.0)}
    assert savings([answered()], dearer, "big").estimated.baseline_usd == 5.0


def test_savings_of_nothing():
    found = savings([], CATALOGUE, "big")
    assert (found.decisions, found.since, found.mean, found.quality) == (0, None, None, ())
    assert found.estimated.saved_share is None


def test_savings_by_day():
    days = savings_by_day([answered(), answered(time=1e9 + 86_400), answered(time=1e9 + 1)], CATALOGUE, "big")
    assert [(str(day), each.decisions) for day, each in days.items()] == [
        ("2001-09-09", 2),
        ("2001-09-10", 1),
    ]


# Settings and commands ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ({}, "`store` is missing"),
        ({"store": "mysql:x"}, "sqlite:PATH, jsonl:PATH or postgresql"),
        ({"store": "jsonl:${LOG}"}, "environment variables are not read"),
        ({"store": "sqlite:a", "max_age_days": 0}, "more than 0"),
        ({"store": "sqlite:a", "keep_txt": True}, "keep_text"),
        ("sqlite:a", "mapping"),
    ],
)
def test_wrong_settings_are_named(write_project, log, said):
    with pytest.raises(ConfigError, match=said):
        load_config(write_project(settings={"log": log}))


def test_settings_that_keep_more_than_is_wise_are_warned_of(write_project):
    log = {"store": "postgresql://u:secret@h/d", "keep_text": True}
    told = [problem.message for problem in load_config(write_project(settings={"log": log})).warnings]
    assert len(told) == 2 and "password" in told[0] and "max_age_days" in told[1]
    assert "secret" not in "".join(told)


@pytest.fixture
def command(project, tmp_path):
    def run(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "semroute", *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done

    return run


def test_the_commands_of_the_log(project, command, load, tmp_path):
    router = load(project("sqlite:semroute.db", escalations={"store": "sqlite:semroute.db"}))
    assert command("log", "tail").stdout == ""
    assert not (tmp_path / "semroute.db").exists()
    decision = router.route(CANARY)
    router.served(decision, prompt_tokens=1_000, completion_tokens=100, latency_ms=812)
    router.feedback(decision, 0.5, by="an\x1b[31mn")
    assert router.flush(20)
    command("route", " ", "--json")
    command("route", " ", "--json", "--no-log")
    first, second = command("log", "tail").stdout.splitlines()
    assert first.split("\t")[1:7] == [
        decision.id,
        "billing -> small",
        f"match {decision.confidence:.2f}",
        "1000 + 100",
        "$0.000450",
        "812 ms",
    ]
    assert r"score 0.5 by an\u001b[31mn" in first and CANARY not in first and "default -> big" in second
    assert json.loads(command("log", "tail", "-n", "1", "--json").stdout)["route"] is None
    told = command("log", "savings").stdout
    assert "$0.000450 for 1 decision (1000 prompt + 100 completion tokens)" in told
    assert "not in it: 1 decision of which nobody reported a call" in told
    assert (
        json.loads(command("log", "savings", "--since", "1h", "--json").stdout)["measured"]["usd"] == 0.00045
    )
    assert json.loads(command("log", "savings", "--since", "2999-01-01", "--json").stdout)["decisions"] == 0
    assert "no decisions" in command("log", "savings", "--since", "2999-01-01").stdout
    assert "yesterday" in command("log", "savings", "--since", "yesterday", code=2).stderr
    assert len(command("log", "export").stdout.splitlines()) == 2
    assert command("log", "forget", CANARY).stdout == "1 decision and 1 outcome erased\n"
    assert json.loads(command("log", "forget", CANARY, "--json").stdout) == {"outcomes": 0, "decisions": 0}
    assert (
        "put it in quotes, such as 'sort a list'" in command("log", "forget", "sort", "a list", code=2).stderr
    )
    assert len(command("log", "export").stdout.splitlines()) == 1


def test_tail_shows_the_prompt_where_it_is_kept_on_one_line(project, command, load):
    router = load(project("sqlite:semroute.db", keep_text=True))
    router.route("where is\n\tmy refund \x1b[2J")
    router.route("where is my refund " * 50)
    assert router.flush(20)
    first, second = command("log", "tail").stdout.splitlines()
    assert first.split("\t")[8:] == [r"where is my refund \u001b[2J"]
    shown = second.split("\t")[8]
    assert shown.startswith("where is my refund where") and shown.endswith(" ...") and len(shown) <= 120


def test_a_cost_above_nothing_is_never_shown_as_nothing(project, command, load):
    router = load(project("sqlite:semroute.db"))
    router.served(router.route(CANARY), prompt_tokens=1, completion_tokens=0)
    router.served(router.route(CANARY), prompt_tokens=0, completion_tokens=0)
    assert router.flush(20)
    first, second = command("log", "tail").stdout.splitlines()
    assert first.split("\t")[5] == "$0.000000250" and second.split("\t")[5] == "$0.000000"
    assert "$0.000000250 for" in command("log", "savings").stdout


def test_export_to_files(project, command, load, tmp_path):
    import pyarrow.parquet as parquet

    router = load(project("jsonl:d.jsonl"))
    router.served(router.route(CANARY), prompt_tokens=1_000, completion_tokens=100)
    router.route_many(["hello there"] * 3)
    assert router.flush(20)
    command("log", "export", "--output", "out.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text("utf-8").splitlines()]
    done = command("log", "export", "--format", "parquet", "--output", "out.parquet", "--json")
    assert json.loads(done.stdout) == {"output": "out.parquet", "format": "parquet", "decisions": 4}
    rows = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["id"] for row in rows] == [line["id"] for line in lines]
    assert rows[0]["candidates"] == lines[0]["candidates"] and rows[0]["usd"] == 0.00045
    assert abs(rows[0]["time"].timestamp() - lines[0]["time"]) < 1e-5
    assert "give --output" in command("log", "export", "--format", "parquet", code=2).stderr
    assert "jsonl or parquet" in command("log", "export", "--format", "csv", code=2).stderr
    assert "could not be written" in command("log", "export", "-o", "no/x.jsonl", code=2).stderr
    assert not list(tmp_path.glob("*.part"))


def test_without_pyarrow_the_error_is_the_install_command(project, load, tmp_path):
    project("jsonl:d.jsonl")
    code = "import sys; sys.modules['pyarrow'] = None; from semroute.cli import main; main()"
    arguments = ["log", "export", "--format", "parquet", "--output", "out.parquet"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "install the extra `parquet`" in " ".join(done.stderr.split())


def test_without_a_log_the_commands_say_what_to_do(project, command):
    project(None)
    for arguments in (["tail"], ["export"], ["savings"], ["forget", "x"]):
        assert "log: {store: sqlite:semroute.db}" in command("log", *arguments, code=2).stderr


def test_following_shows_a_decision_and_again_what_came_of_it(project, load, tmp_path):
    router = load(project())
    # Whoever runs the tests may have had SIGINT ignored.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from semroute.cli import main; main()"
    command = [sys.executable, "-c", code, "log", "tail", "-f", "-n", "0", "--json"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 30
        while not (tmp_path / "semroute.db").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.3)  # it has looked for the last place
        decision = router.route(CANARY)
        first = json.loads(process.stdout.readline())
        router.served(decision, prompt_tokens=1, completion_tokens=1)
        second = json.loads(process.stdout.readline())
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        finally:
            process.kill()
            process.stdout.close()
    assert [(each["id"], each["attempts"]) for each in (first, second)] == [
        (decision.id, 0),
        (decision.id, 1),
    ]
    assert process.returncode == 0


def test_forgetting_among_the_outcomes_forgets_in_the_log(project, command, load, tmp_path):
    router = load(project("jsonl:d.jsonl", escalations={"store": "sqlite:semroute.db"}))
    router.feedback(router.route(CANARY), 1.0)
    router.feedback(router.route("hello there"), 1.0, by="ann")
    assert router.flush(20)
    told = json.loads(command("escalations", "forget", CANARY, "--json").stdout)
    assert told == {"erased": 1, "decisions": 1, "judgements": 0}
    told = json.loads(command("escalations", "forget", "--by", "ann", "--json").stdout)
    assert told == {"erased": 1, "decisions": 0, "judgements": 1}


def test_the_settings_of_the_example_are_those_of_these_tests():
    assert [SETTINGS["models"][name]["prompt_usd_per_1m"] for name in ("small", "big")] == [
        p for p, _ in PRICES
    ]


def test_every_error_of_a_log_is_one_of_ours(tmp_path):
    (tmp_path / "d.db").write_bytes(b"no database, but long enough to look at" * 10)
    with pytest.raises(StoreError, match=r"d\.db"):
        open_log("sqlite:d.db", root=tmp_path)


@pytest.mark.parametrize("store", ["sqlite:semroute.db", "jsonl:decisions.jsonl"])
def test_tune_and_report_read_the_log_of_the_settings(write_project, tmp_path, command, load, store):
    models = {
        "small": {"prompt_usd_per_1m": 1.0, "completion_usd_per_1m": 1.0},
        "big": {"prompt_usd_per_1m": 9.0, "completion_usd_per_1m": 9.0},
    }
    build_index(write_project(settings={"log": {"store": store}, "models": models}), tmp_path / "index")
    assert "holds nothing" in command("tune", "--logged", code=2).stderr
    router = load(tmp_path / "index")
    texts = [text for entry in router.index.entries for text in [entry.text]]
    for number in range(40):
        decision = router.route(texts[number % len(texts)])
        router.served(decision, model="small", prompt_tokens=1_000, completion_tokens=1_000)
        router.feedback(decision, float(number % 4 > 0))
    router.flush(10.0)
    tuned = json.loads(command("tune", "--logged", "--quality", "0.1", "--json").stdout)
    assert tuned["reached"] and tuned["curve"]
    command("log", "export", "--output", "log.jsonl")
    again = json.loads(command("tune", "--log", "log.jsonl", "--quality", "0.1", "--json").stdout)
    assert again["promised"] == tuned["promised"]
    assert "no decisions" in command("log", "savings", "--since", "2100-01-01").stdout
    assert "40 decisions" in command("log", "savings", "--since", "9" * 400 + "d").stdout
    command("report", "--output", "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "No decision log" not in page and "in the log" in page
