"""What a served router makes of odd answers, odd clients and odd moments: over real sockets."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import anthropic
import httpx2
import openai
import pytest
from serving import HELLO, PATIENT, STATIC, serving

from semroute import Router, index
from semroute.access import parse_keys, presented_key
from semroute.answers import Reading
from semroute.build import build_index
from semroute.config import ServeSettings, load_config
from semroute.decisionlog import open_log
from semroute.errors import ConfigError

ALL = {"apis": ["chat", "responses", "messages"]}
LOOK = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}


def rising(*modes, **accept):
    """A route served by the first mode, whose answers may go to the last."""
    return {"models": [modes[0]], "cascade": {"to": [modes[-1]], "accept": accept}}


def eventually(found, seconds=5.0):
    """What `found` returns, as soon as that is something."""
    until = time.monotonic() + seconds
    while not (seen := found()) and time.monotonic() < until:
        time.sleep(0.02)
    return seen


# Odd answers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("judge", [None, "say:No."])
@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
def test_an_answer_that_ends_at_the_clients_own_limit_is_not_blamed(router_of, fake, tmp_path, limit, judge):
    cut, up = "finish:length:The answer is", "say:from above"
    billing = rising(cut, up, **({"judge": judge} if judge else {}))
    store = {"store": f"sqlite:{tmp_path / 'outcomes.db'}"}
    router = router_of(cut, up, *filter(None, [judge]), billing=billing, escalations=store)
    with serving(router) as served:
        wanted = {"response_format": {"type": "json_object"}}
        for more in ({}, wanted):
            assert served.ask(**more, **{limit: 7}).headers["x-semroute-model"] == cut  # which has 7 tokens
        assert served.ask(**{limit: 4_000}).headers["x-semroute-model"] == up  # the model's own end
        assert fake.models() == [cut, cut, cut, up]
        assert served.metric("semroute_escalations_total") == 1


def test_a_response_that_ends_at_the_clients_limit_is_known_by_its_details():
    body = b'{"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}, "output": []}'
    reading = Reading("responses")
    reading.whole(body)
    assert (reading.finish, reading.cut, reading.cut_by(50), reading.cut_by(None)) == (
        "max_output_tokens",
        True,
        True,
        False,
    )


@pytest.mark.parametrize("counts", ["-1:-1", "12:-1", f"{10**40}:{10**40}"])
def test_counts_of_tokens_that_cannot_be_are_not_believed(router_of, counts):
    mode = f"usage:{counts}"
    cards = {mode: {"prompt_usd_per_1m": 1, "completion_usd_per_1m": 2}}
    with serving(router_of(mode, cards=cards)) as served:
        response = served.ask()
        assert (response.status_code, response.json()["choices"][0]["message"]["content"]) == (
            200,
            "It is four.",
        )
        assert 0 < served.metric("semroute_cost_usd_total") < 1


def test_tokens_of_a_whole_answer_without_usage_are_estimated(router_of):
    mode = "no-usage:" + "x" * 80
    cards = {mode: {"prompt_usd_per_1m": 0, "completion_usd_per_1m": 1}}
    with serving(router_of(mode, cards=cards)) as served:
        served.ask()
        assert served.metric("semroute_tokens_total", kind="completion") == 20


def test_probabilities_that_cannot_be_are_not_believed():
    reading = Reading("chat")
    tokens = ", ".join(f'{{"logprob": {value}}}' for value in ("1" + "0" * 400, "9" * 200, "true", '"x"'))
    reading.whole(f'{{"choices": [{{"message": {{}}, "logprobs": {{"content": [{tokens}]}}}}]}}'.encode())
    assert (reading.fault, reading.probability) == (None, 1.0)


def test_a_judge_reads_an_answer_that_ends_in_half_a_character(router_of, fake):
    with serving(
        router_of("half", "say:up", "say:yes", billing=rising("half", "say:up", judge="say:yes"))
    ) as served:
        response = served.ask()
        assert (response.status_code, response.headers["x-semroute-model"]) == (200, "half")
        assert fake.models() == ["half", "say:yes"]


def test_a_held_stream_without_end_is_given_up(router_of, fake):
    settings = ServeSettings(**PATIENT, keep_alive_s=0.2)
    with serving(
        router_of("flood", "say:up", "ok", billing=rising("flood", "say:up")), settings=settings
    ) as served:
        assert served.ask(stream=True).status_code in (200, 503)
        assert served.metric("semroute_upstream_attempts_total", model="flood", outcome="failed") == 1


@pytest.mark.parametrize("how", ["stays", "breaks"])
def test_a_stream_that_has_said_all_needs_no_end(router_of, how):
    mode = f"unended:2:{how}"
    with serving(router_of(mode), settings=ServeSettings(**PATIENT, stall_s=0.4)) as served:
        response = served.ask(stream=True, n=2)
        assert "choice 1" in response.text
        assert "error" not in response.text
        response = served.ask(stream=True, n=3)  # one is lacking
        assert '"code": "upstream_error"' in response.text
        done = {"model": mode, "outcome": "answered"}
        assert served.metric("semroute_upstream_attempts_total", **done) == 1


# Odd moments --------------------------------------------------------------------------------------------------


def hang_up(served, body, seconds):
    """Ask, and hang up after a while."""
    with pytest.raises(httpx2.TimeoutException):
        httpx2.post(served.url + "/v1/chat/completions", json=body, timeout=seconds, trust_env=False)


def test_a_client_that_leaves_while_the_judge_is_asked_costs_no_model_its_turn(router_of, fake):
    mode, judge = "then:3:status:500", "slow:2"
    cards = {mode: {"prompt_usd_per_1m": 1e6, "completion_usd_per_1m": 0}}
    billing = rising(mode, "say:up", judge=judge)
    router = router_of(mode, "say:up", judge, billing=billing, cards=cards)
    with serving(router) as served:
        for _ in range(3):
            served.ask()
        health = served.app.state.service.upstreams.health()[mode]
        assert health.failures == 3
        time.sleep(0.35)
        hang_up(served, {"model": "semroute/auto", "messages": HELLO}, 0.5)  # the probe, which is answered
        cancelled = {"model": mode, "outcome": "cancelled"}
        assert eventually(lambda: served.metric("semroute_upstream_attempts_total", **cancelled)) == 1
        assert served.metric("semroute_cost_usd_total", model=mode) == 12  # it was paid all the same
        assert health.is_ready(time.monotonic())


def unsure(router_of, arbiter, *modes, **more):
    """A router whose vote is never sure enough, and settings with an arbiter."""
    router = router_of(
        "ok", arbiter, *modes, vote={"min_confidence": 0.9999}, billing={"model": "ok"}, **more
    )
    chooser = {"model": arbiter, "min_confidence": 0.0, "max_confidence": 1.0, "patience_s": 0.1}
    return router, chooser


GREY = "my invoice function has a bug"


def test_an_arbiter_that_is_too_slow_for_us_is_no_failing_model(router_of, fake):
    router, chooser = unsure(router_of, "slow:0.4")
    with serving(router, settings=ServeSettings.model_validate(PATIENT | {"arbiter": chooser})) as served:
        for _ in range(4):
            served.post({"prompt": GREY}, "/v1/route")
        assert fake.models() == ["slow:0.4"] * 4
        health = served.app.state.service.upstreams.health()["slow:0.4"]
        assert (health.failures, health.measured.errors) == (0, 0.0)


def test_an_arbiter_that_rests_is_not_asked(router_of, fake):
    mode = "status:429:retry-after=2"
    router, chooser = unsure(router_of, mode)
    with serving(router, settings=ServeSettings.model_validate(PATIENT | {"arbiter": chooser})) as served:
        for _ in range(3):
            assert served.post({"prompt": GREY}, "/v1/route").status_code == 200
        assert fake.models() == [mode]


def test_a_decision_that_is_only_tried_is_told_to_nobody_and_costs_nothing(router_of, fake, tmp_path):
    where = f"sqlite:{tmp_path / 'log.db'}"
    router, chooser = unsure(router_of, 'say:{"route": null}', log={"store": where})
    with serving(router, settings=ServeSettings.model_validate(PATIENT | {"arbiter": chooser})) as served:
        tried = served.post({"prompt": GREY, "log": False}, "/v1/route").json()
        assert "The arbiter would be asked." in tried["detail"]
        assert (fake.requests, served.metric("semroute_decisions_total")) == ([], 0)
        told = served.post({"prompt": GREY, "log": True}, "/v1/route").json()
        assert (fake.models(), served.metric("semroute_decisions_total")) == (['say:{"route": null}'], 1)
        assert router.flush()
    with open_log(where, root=tmp_path) as log:
        assert [row.id for row in log.read()] == [told["id"]]


def test_a_tool_loop_that_goes_on_needs_no_arbiter(router_of, fake):
    router, chooser = unsure(router_of, 'say:{"route": null}', "tool:c9")
    with serving(router, settings=ServeSettings.model_validate(PATIENT | {"arbiter": chooser})) as served:
        served.ask("tool:c9", tools=[LOOK])
        fake.forget()
        messages = [{"role": "user", "content": GREY}, {"role": "tool", "tool_call_id": "c9", "content": "1"}]
        response = served.post({"model": "semroute/auto", "messages": messages})
        assert response.headers["x-semroute-model"] == "tool:c9"
        assert fake.models() == ["tool:c9"]


def test_no_arbiter_is_paid_for_a_request_that_its_key_may_not_make(router_of, fake, caplog):
    caplog.set_level("INFO", logger="semroute.access")
    cards = {"ok": ALL | {"prompt_usd_per_1m": 0}, "say:dear": ALL | {"prompt_usd_per_1m": 9}}
    router, chooser = unsure(router_of, 'say:{"route": null}', "say:dear", cards=cards)
    clients = {"app": {"max_usd_per_1m": 1}}
    settings = ServeSettings.model_validate(PATIENT | {"arbiter": chooser, "clients": clients})
    with serving(router, settings=settings, keys={"app": "key-of-app"}) as served:
        served.app.state.service.affinity.note("app", ["resp_1"], "say:dear")  # as before it had a limit
        body = {"model": "semroute/auto", "input": GREY, "previous_response_id": "resp_1"}
        response = served.post(body, "/v1/responses", authorization="Bearer key-of-app")
        assert (response.status_code, response.json()["error"]["code"]) == (403, "model_too_expensive")
        assert fake.requests == []
        (record,) = eventually(lambda: caplog.records)
        line = json.loads(record.getMessage())
        assert (line["status"], line["reason"], line["attempts"]) == (403, "constraint", [])


def rebuilt(tmp_path, change):
    """The index of `tmp_path / "routes"` anew, after `change` of its settings."""
    folder = tmp_path / "routes"
    settings = json.loads((folder / "semroute.yaml").read_text())
    change(settings)
    (folder / "semroute.yaml").write_text(json.dumps(settings))
    index.save(index.build(load_config(folder), STATIC).index, folder / "index")


def test_a_new_index_brings_its_settings_of_serving(router_of, tmp_path):
    router = router_of("ok", serve={"max_body_mb": 0.01})
    index.save(router.index, tmp_path / "routes" / "index")
    with serving(router, settings=None, watch=tmp_path / "routes" / "index") as served:
        long = "where is my refund " * 1_000
        assert served.ask(text=long).status_code == 413
        clients = {"*": {"max_usd_per_1m": 0}}
        rebuilt(tmp_path, lambda settings: settings.update(serve={"max_body_mb": 1, "clients": clients}))
        assert eventually(lambda: served.ask(text=long).status_code == 403)
        rebuilt(tmp_path, lambda settings: settings.pop("serve"))
        assert eventually(lambda: served.ask(text=long).status_code == 200)


def test_budgets_that_come_with_a_new_index_are_shared_too(router_of, tmp_path):
    cards = {"ok": {"prompt_usd_per_1m": 1e6, "completion_usd_per_1m": 0}}  # 12 dollars an answer
    router = router_of("ok", cards=cards, log={"store": f"sqlite:{tmp_path / 'log.db'}"})
    folder = tmp_path / "routes" / "index"
    index.save(router.index, folder)
    with serving(router, settings=None, watch=folder) as served:
        clients = {"*": {"usd_per_day": 30}}
        rebuilt(tmp_path, lambda settings: settings.update(serve={"clients": clients}))
        assert eventually(lambda: served.metric("semroute_reloads_total", outcome="taken"))
        assert [served.ask().status_code for _ in range(4)] == [200, 200, 200, 429]
        time.sleep(1.5)  # it is shared every second
        with serving(Router.load(folder), settings=None) as other:
            assert other.ask().status_code == 429


def test_a_folder_of_anything_is_refused_and_the_next_index_taken(router_of, tmp_path):
    router = router_of("ok", "say:new")
    folder = tmp_path / "routes" / "index"
    index.save(router.index, folder)
    with serving(router, watch=folder) as served:
        (folder / "manifest.json").write_text("[" * 100_000)
        assert eventually(lambda: served.metric("semroute_reloads_total", outcome="refused"))
        assert served.ask().headers["x-semroute-model"] == "ok"
        rebuilt(tmp_path, lambda settings: settings["default"].update(model="say:new"))
        assert eventually(lambda: served.ask(text="no route").headers["x-semroute-model"] == "say:new")


def test_asking_again_after_a_reload_says_nothing_of_a_model_that_is_gone(router_of, tmp_path, caplog):
    store = {"store": f"sqlite:{tmp_path / 'outcomes.db'}"}
    router = router_of("ok", "say:gone", billing={"model": "say:gone"}, escalations=store)
    folder = tmp_path / "routes" / "index"
    index.save(router.index, folder)
    with serving(router, settings=ServeSettings(**PATIENT, regenerate=True), watch=folder) as served:
        assert served.ask().headers["x-semroute-model"] == "say:gone"
        billing = {"name": "billing", "utterances": ["where is my refund"], "model": "ok"}
        (tmp_path / "routes" / "1.yaml").write_text(json.dumps(billing))
        rebuilt(tmp_path, lambda settings: settings["models"].pop("say:gone"))
        assert eventually(lambda: served.metric("semroute_reloads_total", outcome="taken"))
        assert served.ask().headers["x-semroute-model"] == "ok"
        time.sleep(0.2)
    assert "Not recorded" not in caplog.text


def test_asking_again_after_no_answer_is_no_sign(router_of, tmp_path):
    store = {"store": f"sqlite:{tmp_path / 'outcomes.db'}"}
    router = router_of("then:2:status:500", escalations=store)
    with serving(router, settings=ServeSettings(**PATIENT, regenerate=True)) as served:
        assert [served.ask().status_code for _ in range(3)] == [503, 503, 200]
        time.sleep(0.2)
        assert list(router.memory.outcomes()) == []
        served.ask()
        found = eventually(lambda: list(router.memory.outcomes()))
        assert [(outcome.score, outcome.model) for outcome in found] == [(0.25, "then:2:status:500")]


PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}


def test_what_a_request_of_anthropics_takes_for_granted(router_of, fake):
    cards = {
        "ok": ALL | {"capabilities": ["tools"]},
        "say:sees": ALL | {"capabilities": ["tools", "vision", "json"]},
    }
    with serving(router_of("ok", "say:sees", cards=cards)) as served:
        client = anthropic.Anthropic(base_url=served.url, api_key="none", max_retries=0)
        shown = {"type": "tool_result", "tool_use_id": "t", "content": [PICTURE]}
        said = [{"role": "user", "content": "where is my refund"}, {"role": "user", "content": [shown]}]
        schema = {"type": "object", "properties": {}, "additionalProperties": False}
        wanted = {"format": {"type": "json_schema", "schema": schema}}
        for more in ({"messages": said}, {"messages": HELLO, "output_config": wanted}):
            raw = client.messages.with_raw_response.create(model="semroute/auto", max_tokens=9, **more)
            assert raw.headers["x-semroute-model"] == "say:sees"
            assert raw.parse()._request_id == raw.headers["x-request-id"]
        assert client.messages.create(model="semroute/auto", max_tokens=9, messages=HELLO).content
        assert fake.models() == ["say:sees", "say:sees", "ok"]
        client.close()


# Odd clients --------------------------------------------------------------------------------------------------


def sent(served, head, body=b"", *, pause=0.0, wait=5.0):
    """What comes back over a bare socket; the body goes out a byte at a time where there is a pause."""
    port = int(served.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=wait) as client:
        client.sendall(head.replace("\n", "\r\n").encode() + b"\r\n\r\n")
        for at in range(len(body)) if pause else ():
            try:
                client.sendall(body[at : at + 1])
            except OSError:
                break
            time.sleep(pause)
        if not pause:
            client.sendall(body)
        found = b""
        try:
            while chunk := client.recv(65_536):
                found += chunk
        except OSError:
            pass
        return found.decode("latin-1")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/route"])
def test_a_body_that_trickles_in_has_a_deadline(router_of, path):
    with serving(router_of("ok"), settings=ServeSettings(**PATIENT, body_s=0.3)) as served:
        began = time.monotonic()
        head = f"POST {path} HTTP/1.1\nhost: localhost\ncontent-length: 1000"
        answer = sent(served, head, b"{" * 20, pause=0.05)
        assert time.monotonic() - began < 3
        assert answer.startswith("HTTP/1.1 408")
        assert "connection: close" in answer
        body = json.loads(answer.partition("\r\n\r\n")[2])
        assert body["error"]["type"] == ("timeout_error" if "messages" in path else "invalid_request_error")
        assert served.app.state.service.in_flight == 0


def test_a_compressed_body_is_refused_by_name(router_of):
    with serving(router_of("ok")) as served:
        response = served.post(b"\x1f\x8b", content_encoding="gzip")
        assert (response.status_code, response.json()["error"]["code"]) == (400, "unsupported_encoding")
        hello = {"model": "semroute/auto", "messages": HELLO}
        assert served.post(hello, content_encoding="identity").status_code == 200


@pytest.mark.parametrize(
    ("field", "values"),
    {
        "exclude": [5, [1], {"a": 1}],
        "needs": [5, {"tools": True}],
        "models": ["ok", [7], ["nobody"]],
        "max_usd_per_1m": ["5", True, -1, [1]],
        "weights": [5, {"quality": "x"}, {"speed": 1}, "router@"],
        "step": [5, ["a"]],
        "metadata": [[1], "a"],
        "model": [5],
        "log": [0, "false"],
        "messages": [5, [5], []],
    }.items(),
)
def test_a_decision_is_refused_for_a_field_that_is_not_what_it_must_be(router_of, field, values):
    with serving(router_of("ok")) as served:
        for value in values:
            asked = {"messages": HELLO, field: value}
            response = served.post(asked, "/v1/route")
            assert (response.status_code, response.json()["error"]["param"]) == (400, field), value


def test_a_decision_takes_every_keyword_of_the_router(router_of):
    cards = {"say:b": {"capabilities": ["tools"], "prompt_usd_per_1m": 1}}
    asked = {
        "prompt": "where is my refund",
        "models": ["ok", "say:b"],
        "exclude": "nobody",
        "needs": ["tools"],
        "max_usd_per_1m": 1,
        "weights": {"quality": 1},
        "step": "first",
        "metadata": {"plan": "vip"},
    }
    with serving(router_of("ok", "say:b", cards=cards)) as served:
        told = served.post(asked, "/v1/route").json()
        assert (told["model"], told["reason"]) == ("say:b", "constraint")


def test_a_path_that_is_not_served_says_which_are(router_of):
    with serving(router_of("ok")) as served:
        client = openai.OpenAI(base_url=served.url + "/v1", api_key="none", max_retries=0)
        with pytest.raises(openai.NotFoundError, match="Served are POST /v1/chat/completions") as missing:
            client.embeddings.create(model="ok", input="hello")
        assert missing.value.type == "invalid_request_error"
        client.close()
        other = anthropic.Anthropic(base_url=served.url, api_key="none", max_retries=0)
        with pytest.raises(anthropic.NotFoundError, match="Served are") as missing:
            other.post("/v1/complete", body={}, cast_to=object)
        assert missing.value.body["error"]["type"] == "not_found_error"
        other.close()
        slash = served.post({}, "/v1/chat/completions/")
        assert (slash.status_code, "location" in slash.headers) == (404, False)
        assert served.get("/v1/chat/completions").headers["allow"] == "POST"
        assert served.get("/v1/chat/completions").status_code == 405


def test_a_model_is_found_by_its_id_at_the_provider(router_of):
    with serving(router_of("ok", cards={"ok": {"id": "vendor/say:x"}})) as served:
        assert served.get("/v1/models/vendor/say:x").json()["id"] == "vendor/say:x"
        assert served.get("/v1/models/nobody").status_code == 404


def test_every_request_has_its_line_in_the_log(router_of, caplog):
    caplog.set_level("INFO", logger="semroute.access")
    with serving(router_of("ok"), keys={"app": "key-of-app"}, feedback_keys={"app": "key-of-app"}) as served:
        key = {"authorization": "Bearer key-of-app"}
        served.ask()
        served.post(b"{", **key)
        served.post({"prompt": "where is my refund"}, "/v1/route", **key)
        served.post({"id": "x", "score": 1}, "/v1/feedback", **key)
        served.post({}, "/v1/XYZZY", **key)
        served.get("/healthz")
        served.post({"model": "semroute/auto", "messages": HELLO}, **key)
        time.sleep(0.2)
    lines = [json.loads(one.getMessage()) for one in caplog.records if one.name == "semroute.access"]
    assert [(line["path"], line["status"], line["key"]) for line in lines] == [
        ("/v1/chat/completions", 401, None),
        ("/v1/chat/completions", 400, "app"),
        ("/v1/route", 200, "app"),
        ("/v1/feedback", 501, "app"),
        ("other", 404, "app"),
        ("/v1/chat/completions", 200, "app"),
    ]
    assert lines[-1]["attempts"][0]["model"] == "ok"
    assert "XYZZY" not in caplog.text


def test_an_id_of_another_client_pins_nothing(router_of):
    keys = {"keys": {"ann": "key-of-ann", "bob": "key-of-bob"}}
    with serving(router_of("say:default", "tool:call_1", billing={"model": "tool:call_1"}), **keys) as served:
        ann, bob = ({"authorization": f"Bearer key-of-{who}"} for who in ("ann", "bob"))
        served.post({"model": "semroute/auto", "messages": HELLO, "tools": [LOOK]}, **ann)
        messages = [
            {"role": "user", "content": "something that no route knows"},
            {"role": "tool", "tool_call_id": "call_1", "content": "42"},
        ]
        body = {"model": "semroute/auto", "messages": messages}
        assert served.post(body, **bob).headers["x-semroute-model"] == "say:default"
        assert served.post(body, **ann).headers["x-semroute-model"] == "tool:call_1"


def test_a_session_leaves_a_model_that_cannot_do_what_is_asked(router_of):
    cards = {"say:b": {"capabilities": []}, "say:tools": {"capabilities": ["tools"]}}
    billing = {"models": ["say:b", "say:tools"]}
    router = router_of("ok", "say:b", "say:tools", billing=billing, cards=cards)
    with serving(router, settings=ServeSettings(**PATIENT, sticky_s=60)) as served:
        said = {"metadata": {"session_id": "s"}}
        assert served.ask(**said).headers["x-semroute-model"] == "say:b"
        assert served.ask(**said, tools=[LOOK]).headers["x-semroute-model"] == "say:tools"


HELD = {"keep_alive_s": 0.05}


@pytest.mark.parametrize("seconds", ["0", "0.3"], ids=["at-once", "after-comments"])
def test_an_answer_that_is_no_stream_becomes_one(router_of, fake, seconds):
    mode = f"whole:{seconds}:so it is"
    cards = {mode: ALL | {"provider": "anthropic"}}
    router = router_of(mode, "say:up", billing=rising(mode, "say:up"), cards=cards)
    with serving(router, settings=ServeSettings(**PATIENT, **HELD)) as served:
        client = openai.OpenAI(base_url=served.url + "/v1", api_key="none", max_retries=0)
        chunks = list(
            client.chat.completions.create(
                model="semroute/auto", messages=HELLO, stream=True, stream_options={"include_usage": True}
            )
        )
        assert [chunk.choices[0].delta.content for chunk in chunks if chunk.choices] == ["so it is"]
        assert chunks[0].choices[0].finish_reason == "stop"
        assert (chunks[-1].usage.total_tokens, len(chunks)) == (19, 2)
        response = served.ask(stream=True)
        assert response.headers["content-type"].startswith("text/event-stream")
        assert "usage" not in response.text
        with client.responses.stream(model=mode, input="where is my refund") as stream:
            texts = [event.delta for event in stream if event.type == "response.output_text.delta"]
            assert (texts, stream.get_final_response().output_text) == (["so it is"], "so it is")
        client.close()
        other = anthropic.Anthropic(base_url=served.url, api_key="none", max_retries=0)
        with other.messages.stream(model="semroute/auto", max_tokens=50, messages=HELLO) as stream:
            assert list(stream.text_stream) == ["so it is"]
            message = stream.get_final_message()
        assert (message.stop_reason, message.usage.output_tokens) == ("end_turn", 7)
        other.close()


@pytest.mark.parametrize(("seconds", "status"), [("0", 400), ("0.3", 200)], ids=["at-once", "after-comments"])
def test_a_refusal_of_a_held_stream_says_why(router_of, seconds, status):
    mode = f"slow-status:{seconds}:400"
    router = router_of(mode, "say:up", billing=rising(mode, "say:up"))
    with serving(router, settings=ServeSettings(**PATIENT, **HELD)) as served:
        response = served.ask(stream=True)
        assert response.status_code == status
        assert "SECRET of 400" in response.text  # what a model says of a bad request is for its sender
        assert response.text.startswith(": waiting") == (status == 200)
        client = openai.OpenAI(base_url=served.url + "/v1", api_key="none", max_retries=0)
        with pytest.raises(openai.APIError, match="SECRET of 400"):
            list(client.chat.completions.create(model="semroute/auto", messages=HELLO, stream=True))
        client.close()


def test_tool_calls_of_an_answer_that_is_no_stream_arrive_too():
    from semroute.server.restream import as_stream

    block = {"type": "tool_use", "id": "t1", "name": "look", "input": {"at": "Grüße"}}
    thought = {"type": "thinking", "thinking": "hm", "signature": "s"}
    message = {
        "id": "m",
        "type": "message",
        "content": [thought, block],
        "stop_reason": "tool_use",
        "usage": {},
    }
    text = as_stream("messages", json.dumps(message).encode(), usage=False).decode()
    data = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]
    deltas = [event["delta"] for event in data if event["type"] == "content_block_delta"]
    assert [delta["type"] for delta in deltas] == ["thinking_delta", "signature_delta", "input_json_delta"]
    assert json.loads(deltas[2]["partial_json"]) == {"at": "Grüße"}
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    choice = {"index": 0, "message": {"content": None, "tool_calls": [call]}, "finish_reason": "tool_calls"}
    text = as_stream("chat", json.dumps({"choices": [choice]}).encode(), usage=True).decode()
    delta = json.loads(text.split("\n\n")[0][6:])["choices"][0]["delta"]
    assert delta["tool_calls"] == [{"index": 0, **call}]
    assert b"error" in as_stream("chat", b'{"choices": [{}]}', usage=True)


def test_feedback_does_not_contradict_itself_or_echo_a_long_id(router_of):
    with serving(router_of("ok")) as served:
        identity = served.ask().headers["x-semroute-id"]
        for body in ({"id": identity, "to": "ok", "score": 1}, {"id": "x" * 10_000, "score": 1}):
            response = served.post(body, "/v1/feedback")
            assert response.status_code == 400
            assert len(response.content) < 1_000


def test_feedback_names_the_field_of_its_own_that_is_wrong(router_of, tmp_path):
    store = {"store": f"sqlite:{tmp_path / 'outcomes.db'}"}
    with serving(router_of("ok", escalations=store)) as served:
        identity = served.ask().headers["x-semroute-id"]
        response = served.post({"id": identity, "to": "nobody"}, "/v1/feedback")
        assert (response.status_code, response.json()["error"]["param"]) == (400, "to")
        assert (
            served.post({"decision_id": None, "id": identity, "score": 1}, "/v1/feedback").status_code == 200
        )


def test_a_comment_in_a_file_of_keys_is_no_key():
    text = "# ann left, bob-has-left-too\napp=key-of-app\n  # old: x, another-old-key\n"
    assert parse_keys(text, "keys") == {"app": "key-of-app"}
    with pytest.raises(ConfigError, match="keys:3"):
        parse_keys("# one\n\nshort\n", "keys")


def test_a_proxys_own_authorization_hides_no_key():
    basic = (b"authorization", b"Basic eDp5")
    assert presented_key([basic, (b"x-api-key", b"key-of-app")]) == b"key-of-app"
    assert presented_key([(b"x-api-key", b"other"), (b"authorization", b"Bearer mine")]) == b"mine"
    assert presented_key([basic]) == b""
    assert presented_key([]) is None


def test_an_address_that_no_network_knows_is_refused_in_the_config(router_of):
    with pytest.raises(ConfigError, match="must be an address"):
        router_of("ok", cards={"ok": {"base_url": "https://" + "é" * 80 + ".example/v1"}})


def test_two_keys_of_one_name_are_not_taken_for_one(router_of, tmp_path):
    folder = tmp_path / "routes" / "index"
    index.save(router_of("ok").index, folder)
    keys = tmp_path / "keys"
    keys.write_text("a-key-of-the-file\n")
    command = [sys.executable, "-m", "semroute", "serve", "--index", str(folder), "--keys-file", str(keys)]
    environ = os.environ | {"SEMROUTE_KEYS": "a-key-of-the-environment"}
    done = subprocess.run(command, capture_output=True, text=True, env=environ, timeout=60, check=False)
    assert done.returncode == 2
    assert "key-1 is a key in SEMROUTE_KEYS and another in" in done.stderr
    assert "a-key-of" not in done.stderr


@pytest.mark.parametrize(
    ("example", "models"),
    {
        "sequential": {"anything at all": "first"},
        "free-models": {
            "recommend a film for tonight": "free_a",
            "how tall is mount everest": "free_a",
            "prove that there are infinitely many primes": "paid",
            "find the race condition in this scheduler": "paid",
        },
        "cascade": {"my refund is not here yet": "cheap", "write a poem about the sea": "strong"},
    }.items(),
)
def test_the_examples_do_what_they_say(tmp_path, example, models):
    build_index(Path(__file__).parent.parent / "examples" / example, tmp_path / "index")
    router = Router.load(tmp_path / "index")
    assert {prompt: router.route(prompt).model for prompt in models} == models
    router.close()
