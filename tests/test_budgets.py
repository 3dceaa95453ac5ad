"""What a client may spend in a day, by all processes that share a store."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing

import pytest
from serving import PATIENT, all_have_stopped, make_router, serving

from semroute.config import ServeSettings

CARD = {"prompt_usd_per_1m": 1e4, "completion_usd_per_1m": 0}  # 12 tokens: 0.12 dollars
SETTINGS = ServeSettings.model_validate(PATIENT | {"clients": {"app": {"usd_per_day": 0.3}}})
KEYS = {"app": "key-of-app", "other": "key-of-other"}


@pytest.fixture
def router_of(fake, tmp_path):
    def make(**settings):
        models = fake.models_for(["say:cheap"], {"say:cheap": CARD})
        return make_router(tmp_path / "routes", models, **settings)

    return make


def ask(served, key="key-of-app"):
    body = {"model": "semroute/auto", "messages": [{"role": "user", "content": "where is my refund"}]}
    return served.post(body, authorization=f"Bearer {key}").status_code


def until(holds, seconds=5.0):
    end = time.monotonic() + seconds
    while not (found := holds()) and time.monotonic() < end:
        time.sleep(0.05)
    return found


def spent(served):
    return served.app.state.service.budgets.spent_by("app")


@pytest.mark.parametrize("where", ["log", "escalations"])
def test_processes_that_share_a_store_share_budgets(router_of, where):
    stored = {where: {"store": "sqlite:semroute.db"}}
    with (
        serving(router_of(**stored), settings=SETTINGS, keys=KEYS) as one,
        serving(router_of(**stored), settings=SETTINGS, keys=KEYS) as two,
    ):
        assert [ask(one), ask(two)] == [200, 200]
        # What the other has spent is known within a second or two.
        assert until(lambda: spent(one) == spent(two) == pytest.approx(0.24))
        assert [ask(one), ask(one), ask(one, "key-of-other")] == [200, 429, 200]
        assert until(lambda: ask(two) == 429)
    all_have_stopped()
    with serving(router_of(**stored), settings=SETTINGS, keys=KEYS) as again:
        assert ask(again) == 429  # a budget does not begin anew with the process


def test_budgets_go_on_beside_a_store_that_is_held(router_of, tmp_path, caplog):
    stored = {"escalations": {"store": "sqlite:semroute.db"}}
    with serving(router_of(**stored), settings=SETTINGS, keys=KEYS) as served:
        assert ask(served) == 200
        with closing(sqlite3.connect(tmp_path / "routes" / "semroute.db", isolation_level=None)) as holder:
            holder.execute("BEGIN EXCLUSIVE")
            began = time.monotonic()
            assert [ask(served) for _ in range(3)] == [200, 200, 429]
            assert time.monotonic() - began < 1.5  # nobody waits for the store
            assert until(lambda: "is not shared for now" in caplog.text)
        # What was spent meanwhile reaches the store once it can.
        with closing(sqlite3.connect(tmp_path / "routes" / "semroute.db")) as reader:
            total = "SELECT total(usd) FROM spending WHERE client = 'app'"
            assert until(lambda: reader.execute(total).fetchone()[0] == pytest.approx(0.36))
    assert caplog.text.count("is not shared for now") == 1


def test_without_a_store_each_process_counts_alone_and_says_so(router_of, caplog):
    with serving(router_of(), settings=SETTINGS, keys=KEYS) as one:
        assert [ask(one) for _ in range(4)] == [200, 200, 200, 429]
    assert "name a store under `log:` or `escalations:`" in caplog.text
    with serving(router_of(), settings=SETTINGS, keys=KEYS) as again:
        assert ask(again) == 200


def test_a_new_day_begins_anew_and_loses_nothing_of_the_old(router_of, tmp_path, monkeypatch):
    stored = {"log": {"store": "sqlite:semroute.db"}}
    with serving(router_of(**stored), settings=SETTINGS, keys=KEYS) as served:
        assert [ask(served) for _ in range(4)] == [200, 200, 200, 429]
        today, now = int(time.time()) // 86_400, time.time
        monkeypatch.setattr(time, "time", lambda: now() + 86_400)
        assert ask(served) == 200
        with closing(sqlite3.connect(tmp_path / "routes" / "semroute.db")) as reader:
            rows = "SELECT day - ?, round(usd, 2) FROM spending WHERE client = 'app' ORDER BY day"
            assert until(lambda: reader.execute(rows, (today,)).fetchall() == [(0, 0.36), (1, 0.12)])
