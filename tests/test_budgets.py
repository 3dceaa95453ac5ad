"""What a client may spend in a day, by all processes that share a store."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from contextlib import closing

import pytest
from serving import PATIENT, STATIC, all_have_stopped, make_router, serving

from semroute import index
from semroute.config import ServeSettings, load_config

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


# Limits for a client of whom there is no key ------------------------------------------------------------------


def refused(folder, **environ):
    """What `semroute serve` says before it exits with 2."""
    command = [sys.executable, "-m", "semroute", "serve", "--index", str(folder / "index"), "--port", "0"]
    environ = os.environ | {"SEMROUTE_KEYS": ""} | environ
    done = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "key-of-" not in done.stderr
    return done.stderr


@pytest.mark.parametrize("written", [True, False], ids=["with-yaml", "without"])
def test_limits_for_a_client_without_a_key_are_refused_at_the_start(router_of, tmp_path, written):
    clients = {"ap": {"usd_per_day": 1}, "*": {"usd_per_day": 2}, "other": {}}
    index.save(router_of(serve={"clients": clients}).index, tmp_path / "index")
    if not written:
        (tmp_path / "routes" / "semroute.yaml").unlink()
    said = refused(tmp_path, SEMROUTE_KEYS="app=key-of-app,other=key-of-other")
    assert "no key of a client is named `ap`; did you mean `app`?" in said
    assert "`other`" in said  # the keys that there are
    assert said.count("no key of a client") == 1
    assert ("semroute.yaml:1:" if written else "the settings: serve.clients") in said


def test_limits_for_a_client_are_refused_where_there_are_no_keys(router_of, tmp_path):
    index.save(router_of(serve={"clients": {"app": {}}}).index, tmp_path / "index")
    assert "this server has no keys, and without them only `*` holds" in refused(tmp_path)


def test_limits_for_a_client_without_a_key_that_come_with_a_new_index_are_warned_of(
    router_of, tmp_path, caplog
):
    folder = tmp_path / "routes"
    router = router_of(serve={"clients": {"app": {}, "*": {}}})
    index.save(router.index, folder / "index")
    with serving(router, settings=None, keys=KEYS, watch=folder / "index"):
        assert "hold for nobody" not in caplog.text
        settings = json.loads((folder / "semroute.yaml").read_text())
        settings["serve"] = {"clients": {"othre": {"usd_per_day": 1}}}
        (folder / "semroute.yaml").write_text(json.dumps(settings))
        index.save(index.build(load_config(folder), STATIC).index, folder / "index")
        said = "hold for nobody: no key of a client is named `othre`; did you mean `other`?"
        assert until(lambda: said in caplog.text)
