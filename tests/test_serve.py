"""What a served router promises its clients and its operator: with the official clients, over real sockets."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import anthropic
import httpx2
import openai
import pytest
from browser import Browser
from serving import BILLING, CODING, HELLO, PATIENT, STATIC, make_router, serving

from semroute import Router, catalog, index
from semroute.build import build_index
from semroute.cli import app as cli
from semroute.config import ServeSettings, load_config
from semroute.decisionlog import open_log
from semroute.errors import ConfigError

PIXEL = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
LOOK = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}


ALL = {"apis": ["chat", "responses", "messages"]}


# The official clients -----------------------------------------------------------------------------------------


def test_openais_client_works_unchanged(router_of, fake):
    with serving(router_of("ok", "say:hello there", billing={"model": "say:hello there"})) as served:
        client = openai.OpenAI(base_url=served.url + "/v1", api_key="none")
        assert [model.id for model in client.models.list()] == ["semroute/auto", "ok", "say:hello there"]
        assert client.models.retrieve("semroute/auto").owned_by == "semroute"

        answer = client.chat.completions.create(model="semroute/auto", messages=HELLO, temperature=0.25)
        assert answer.choices[0].message.content == "hello there"
        assert fake.requests[-1].json == {"messages": HELLO, "model": "say:hello there", "temperature": 0.25}

        raw = client.chat.completions.with_raw_response.create(model="semroute/auto", messages=HELLO)
        assert raw.headers["x-semroute-route"] == "billing"
        assert raw.headers["x-semroute-reason"] == "match"
        assert raw.headers["x-semroute-model"] == "say:hello there"
        assert re.fullmatch(r"[0-9A-Z]{26}", raw.headers["x-semroute-id"])

        chunks = list(
            client.chat.completions.create(
                model="semroute/auto", messages=HELLO, stream=True, stream_options={"include_usage": True}
            )
        )
        assert (
            "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
            == "hello there "
        )
        assert chunks[-1].usage.total_tokens == 19

        with pytest.raises(openai.NotFoundError, match="no such model"):
            client.chat.completions.create(model="gpt-none", messages=HELLO)
        client.close()


def test_openais_client_with_tools_and_pictures(router_of, fake):
    cards = {"tool:call_1": {"capabilities": ["tools"]}, "say:seen": {"capabilities": ["tools", "vision"]}}
    with serving(router_of("ok", "tool:call_1", "say:seen", cards=cards)) as served:
        client = openai.OpenAI(base_url=served.url + "/v1", api_key="none")
        answer = client.chat.completions.create(model="semroute/auto", messages=HELLO, tools=[LOOK])
        assert answer.choices[0].message.tool_calls[0].function.name == "look"
        stream = client.chat.completions.create(
            model="semroute/auto", messages=HELLO, tools=[LOOK], stream=True
        )
        calls = [call for chunk in stream for call in chunk.choices[0].delta.tool_calls or []]
        assert calls[0].id == "call_1"
        parts = [
            {"type": "text", "text": "where is my refund"},
            {"type": "image_url", "image_url": {"url": PIXEL}},
        ]
        answer = client.chat.completions.create(
            model="semroute/auto", messages=[{"role": "user", "content": parts}]
        )
        assert answer.choices[0].message.content == "seen"
        assert fake.models() == ["tool:call_1", "tool:call_1", "say:seen"]
        client.close()


def test_openais_responses_go_to_upstreams_that_speak_them(router_of, fake):
    with serving(router_of("ok", "say:in full", cards={"say:in full": ALL})) as served:
        client = openai.OpenAI(base_url=served.url + "/v1", api_key="none")
        assert (
            client.responses.create(model="semroute/auto", input="where is my refund").output_text
            == "in full"
        )
        with client.responses.stream(model="semroute/auto", input="where is my refund") as stream:
            texts = [event.delta for event in stream if event.type == "response.output_text.delta"]
        assert texts == ["in ", "full "]
        assert {request.path for request in fake.requests} == {"/v1/responses"}
        with pytest.raises(openai.NotFoundError, match="speaks"):
            client.responses.create(model="ok", input="hello")
        client.close()


def test_anthropics_client_works_unchanged(router_of, fake):
    with serving(
        router_of("ok", "say:bon jour", cards={"say:bon jour": ALL | {"provider": "anthropic"}})
    ) as served:
        client = anthropic.Anthropic(base_url=served.url, api_key="none")
        request = {"model": "semroute/auto", "max_tokens": 50, "messages": HELLO}
        assert client.messages.create(**request).content[0].text == "bon jour"
        assert fake.requests[-1].headers["anthropic-version"]
        with client.messages.stream(**request) as stream:
            assert list(stream.text_stream) == ["bon ", "jour "]
            assert stream.get_final_message().usage.output_tokens == 7
        with pytest.raises(anthropic.NotFoundError):
            client.messages.create(**request | {"model": "claude-none"})
        assert {request.path for request in fake.requests} == {"/v1/messages"}
        client.close()


def test_anthropics_client_counts_tokens_without_a_trace(router_of, fake, tmp_path):
    store = f"sqlite:{tmp_path / 'outcomes.db'}"
    card = ALL | {"prompt_usd_per_1m": 1e6, "completion_usd_per_1m": 1e6}
    billing = {"model": "say:there"}
    router = router_of("ok", "say:there", billing=billing, cards={"say:there": card}, log={"store": store})
    settings = ServeSettings(**PATIENT, regenerate=True)
    with serving(router, settings=settings) as served:
        client = anthropic.Anthropic(base_url=served.url, api_key="none")
        served.post({"model": "semroute/auto", "max_tokens": 5, "messages": HELLO}, "/v1/messages")
        health = served.app.state.service.upstreams.health()["say:there"]
        speed, spent = health.measured.tokens_per_s, served.metric("semroute_cost_usd_total")
        for _ in range(3):
            assert client.messages.count_tokens(model="semroute/auto", messages=HELLO).input_tokens == 12
        assert [request.path for request in fake.requests[1:]] == ["/v1/messages/count_tokens"] * 3
        assert fake.requests[-1].json == {"model": "say:there", "messages": HELLO}
        raw = client.messages.with_raw_response.count_tokens(model="say:there", messages=HELLO)
        assert raw.headers["x-semroute-model"] == "say:there"
        with pytest.raises(anthropic.NotFoundError):
            client.messages.count_tokens(model="ok", messages=HELLO)
        client.close()
        assert (health.measured.tokens_per_s, health.measured.attempts) == (speed, 1)
        assert served.metric("semroute_cost_usd_total") == spent == 19
        assert len(served.get("/live").json()["recent"]) == 1
    router.flush()
    with open_log(store, root=tmp_path) as log:
        assert [found.attempts for found in log.read()] == [1]


def test_a_server_that_does_not_count_tokens_goes_on_serving(router_of, fake):
    cards = dict.fromkeys(("status:404", "ok"), ALL)
    with serving(router_of("status:404", "ok", cards=cards)) as served:
        body = {"model": "semroute/auto", "messages": HELLO}
        for _ in range(4):
            counted = served.post(body, "/v1/messages/count_tokens")
            assert (counted.json(), counted.headers["x-semroute-model"]) == ({"input_tokens": 12}, "ok")
        assert served.app.state.service.upstreams.health()["status:404"].failures == 0
        assert served.post(body | {"model": "status:404"}, "/v1/messages/count_tokens").status_code == 503


def test_anthropics_client_sees_a_broken_stream(router_of):
    with serving(router_of("eof:2", cards={"eof:2": ALL})) as served:
        client = openai.OpenAI(base_url=served.url + "/v1", api_key="none")
        seen = []
        with pytest.raises(openai.APIError, match="mid-answer"):
            for chunk in client.chat.completions.create(model="eof:2", messages=HELLO, stream=True):
                seen.append(chunk.choices[0].delta.content)  # noqa: PERF401
        assert seen[1:] == ["0 ", "1 "]
        client.close()


def test_bytes_pass_through_untouched_but_for_the_models_name(router_of, fake):
    body = (
        '{ "temperature":1.50, "messages" : [{"role":"user","content":"caf\\u00e9 ☕ 1e2"}],\n\t"model":  '
        '"semroute/auto" , "x":{"model":"inner"},"big":123456789012345678901234567890,"seed":null }'
    )
    with serving(router_of("ok")) as served:
        response = served.post(body.encode())
        assert response.status_code == 200
        assert fake.requests[-1].body == body.replace('"semroute/auto"', '"ok"').encode()
        direct = httpx2.post(
            fake.url + "/chat/completions", content=body.replace("semroute/auto", "ok").encode()
        )
        assert response.content == direct.content
        assert response.headers["content-type"] == direct.headers["content-type"]


# Which model serves -------------------------------------------------------------------------------------------


def test_a_concrete_model_passes_straight_through(router_of, fake):
    with serving(router_of("ok", "say:x", cards={"say:x": {"id": "say:by id"}})) as served:
        response = served.ask("say:x")
        assert response.json()["choices"][0]["message"]["content"] == "by id"
        assert response.headers["x-semroute-model"] == "say:x"
        assert served.ask("say:by id").status_code == 200
        assert served.ask("status:500").status_code == 404


def test_a_name_can_carry_weights_and_the_search_space(router_of, fake):
    cards = {
        "say:cheap": {"quality": 0.5, "prompt_usd_per_1m": 0.1, "completion_usd_per_1m": 0.4},
        "say:good": {"quality": 0.9, "prompt_usd_per_1m": 5, "completion_usd_per_1m": 20},
    }
    with serving(router_of("ok", "say:cheap", "say:good", billing={"model": "ok"}, cards=cards)) as served:

        def serves(name):
            return served.ask(name).headers["x-semroute-model"]

        assert serves("router@q:1|models:say:cheap,say:good") == "say:good"
        assert serves("router@q:1|c:4.65e-01|t:2.08e-05|i:2.07e-03|models:say:cheap,say:good") == "say:cheap"
        assert serves("router@models:say:cheap") == "say:cheap"
        assert serves("router@q:1") == "ok"


def test_the_short_form_of_a_choice():
    assert catalog.parse_choice("router@models:a,b") == (None, ("a", "b"))
    weights, models = catalog.parse_choice("router@q:1|c:4.65e-03|t:2.08e-05|i:2.07e-03|models:a")
    assert (weights.quality, weights.cost, weights.ttft, weights.itl, models) == (
        1,
        4.65e-3,
        2.08e-5,
        2.07e-3,
        ("a",),
    )
    for wrong in (
        "router",
        "router@",
        "router@q",
        "router@q:1|q:2",
        "router@models:",
        "router@models:a|models:b",
    ):
        with pytest.raises(ValueError):
            catalog.parse_choice(wrong)


def test_a_candidate_that_lacks_what_is_needed_is_not_asked(router_of, fake):
    cards = {
        "ok": {"capabilities": [], "context_tokens": 100},
        "say:can": {"capabilities": ["tools", "vision", "json"], "context_tokens": 100_000},
    }
    with serving(router_of("ok", "say:can", cards=cards)) as served:
        wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}
        assert served.ask().headers["x-semroute-model"] == "ok"
        for more in ({"tools": [LOOK]}, {"response_format": wanted}, {"text": "where is my refund " * 100}):
            assert served.ask(**more).headers["x-semroute-model"] == "say:can"
        assert fake.models() == ["ok", "say:can", "say:can", "say:can"]


def test_what_was_measured_moves_weights(router_of, fake):
    cards = {"say:fast": {"ttft_ms": 900}, "slow:0.2": {"ttft_ms": 10}}
    router = router_of("say:fast", "slow:0.2", cards=cards, select={"quality": 0, "ttft": 0.001})
    with serving(router) as served:
        assert router.route("where is my refund").model == "slow:0.2"
        served.ask("slow:0.2", stream=True)
        served.ask("say:fast", stream=True)
        until = time.monotonic() + 3
        while router.route("where is my refund").model != "say:fast" and time.monotonic() < until:
            time.sleep(0.05)
        assert served.ask().headers["x-semroute-model"] == "say:fast"


# Going on where it began --------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_tool_loop_stays_with_its_model(router_of, fake, stream):
    with serving(router_of("say:default", "tool:call_77", billing={"model": "tool:call_77"})) as served:
        served.ask(tools=[LOOK], stream=stream)
        call = {"id": "call_77", "type": "function", "function": {"name": "look", "arguments": "{}"}}
        messages = [
            {"role": "user", "content": "something that no route knows"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_77", "content": "42"},
        ]
        body = {"model": "semroute/auto", "messages": messages, "tools": [LOOK]}
        assert served.post(body).headers["x-semroute-model"] == "tool:call_77"
        messages[2]["tool_call_id"] = "call_unknown"
        assert served.post(body).headers["x-semroute-model"] == "say:default"


def test_a_stored_response_goes_on_at_its_own_upstream_only(router_of, fake):
    cards = dict.fromkeys(("ok", "say:first"), ALL)
    with serving(router_of("ok", "say:first", billing={"model": "say:first"}, cards=cards)) as served:
        first = served.post({"model": "semroute/auto", "input": "where is my refund"}, "/v1/responses").json()
        assert first["id"] == "resp_say:first"
        body = {
            "model": "semroute/auto",
            "input": "and now something else",
            "previous_response_id": first["id"],
        }
        assert served.post(body, "/v1/responses").headers["x-semroute-model"] == "say:first"
        sealed = {"type": "reasoning", "id": "msg_1", "encrypted_content": "xyz", "summary": []}
        body = {"model": "semroute/auto", "input": [{"role": "user", "content": "something else"}, sealed]}
        assert served.post(body, "/v1/responses").headers["x-semroute-model"] == "say:first"


def test_a_session_keeps_its_model_where_that_is_wanted(router_of):
    settings = ServeSettings(**PATIENT, sticky_s=60)
    with serving(router_of("ok", "say:b", billing={"model": "say:b"}), settings=settings) as served:
        said = {"metadata": {"session_id": "s-1"}}
        assert served.ask(**said).headers["x-semroute-model"] == "say:b"
        assert served.ask(text="what else", **said).headers["x-semroute-model"] == "say:b"
        assert served.ask(text="what else").headers["x-semroute-model"] == "ok"


# The cascade --------------------------------------------------------------------------------------------------


def cascading(*modes, accept=None, to=("say:from above",)):
    return {"models": list(modes), "cascade": {"to": list(to)} | ({"accept": accept} if accept else {})}


@pytest.mark.parametrize(
    ("mode", "why", "more"),
    [
        ("say:I'm sorry, but I can't help with that.", "refusal", {}),
        ("say:I'm not sure about that.", "hedge", {}),
        ("say:Leider kann ich dabei nicht helfen.", "refusal", {}),
        ("say:BEKLAGER, men det går ikke.", "refusal", {}),
        ("say:", "empty", {}),
        ("finish:length:The answer is", "cut", {}),
        ("say:not json", "json", {"response_format": {"type": "json_object"}}),
        ("unsure:-2.5", "probability", {}),
    ],
)
def test_an_answer_that_is_not_good_enough_goes_up(router_of, fake, mode, why, more):
    cards = {
        mode: {"prompt_usd_per_1m": 1e6, "completion_usd_per_1m": 0},
        "say:from above": {"prompt_usd_per_1m": 2e6, "completion_usd_per_1m": 0},
    }
    accept = {"min_token_probability": 0.5, "refusals": ["beklager, men"]}
    with serving(
        router_of(mode, "say:from above", billing=cascading(mode, accept=accept), cards=cards)
    ) as served:
        response = served.ask(**more)
        assert response.json()["choices"][0]["message"]["content"] == "from above"
        assert response.headers["x-semroute-model"] == "say:from above"
        assert fake.models() == [mode, "say:from above"]
        assert served.metric("semroute_escalations_total", why=why, to="say:from above") == 1
        spent = [served.metric("semroute_cost_usd_total", model=model) for model in (mode, "say:from above")]
        assert spent == [12, 24]  # 12 tokens each, at 1 and 2 dollars


def test_a_good_answer_stays_below(router_of, fake):
    with serving(router_of("ok", "say:from above", billing=cascading("ok"))) as served:
        assert served.ask().headers["x-semroute-model"] == "ok"
        response = served.ask(stream=True)
        assert (response.headers["x-semroute-model"], fake.models()) == ("ok", ["ok", "ok"])
        assert response.text.count("[DONE]") == 1


def test_a_tool_call_is_no_empty_answer(router_of, fake):
    with serving(router_of("tool:c1", "say:from above", billing=cascading("tool:c1"))) as served:
        assert served.ask(tools=[LOOK]).headers["x-semroute-model"] == "tool:c1"


@pytest.mark.parametrize(
    ("judge", "model"), [("say:No.", "say:from above"), ("say:yes", "ok"), ("status:500", "ok")]
)
def test_a_judge_may_object(router_of, fake, judge, model):
    billing = cascading("ok", accept={"judge": judge})
    with serving(router_of("ok", "say:from above", judge, billing=billing)) as served:
        assert served.ask().headers["x-semroute-model"] == model
        asked = next(request for request in fake.requests if request.json["model"] == judge)
        assert "where is my refund" in asked.body.decode()
        assert served.metric("semroute_upstream_attempts_total", model=judge) == 1


def test_a_rejected_answer_is_better_than_none(router_of, fake):
    billing = cascading("say:I don't know.", to=["status:500", "reset"])
    with serving(router_of("say:I don't know.", "status:500", "reset", billing=billing)) as served:
        response = served.ask()
        assert (response.status_code, response.headers["x-semroute-model"]) == (200, "say:I don't know.")
        assert fake.models() == ["say:I don't know.", "status:500", "reset"]
        until = time.monotonic() + 5
        while not (live := served.get("/live").json())["recent"] and time.monotonic() < until:
            time.sleep(0.02)
        assert live["today"]["requests"] == 1
        assert live["recent"][0]["model"] == "say:I don't know."
        assert live["recent"][0]["attempts"][0].startswith("say:I don't know.: ")


def test_a_held_stream_keeps_its_client_with_comments_and_repeats_nothing(router_of, fake):
    settings = ServeSettings(**PATIENT | {"keep_alive_s": 0.05, "first_content_s": 5, "stall_s": 5})
    slow = "many:20:0.02"
    billing = cascading("say:As an AI I cannot.", slow, to=[slow, "say:never asked"])
    with serving(
        router_of("say:As an AI I cannot.", slow, "say:never asked", billing=billing), settings=settings
    ) as served:
        response = served.ask(stream=True)
        assert response.text.startswith(": waiting")
        assert "As an AI" not in response.text
        assert response.text.count('"content": "7 "') == 1
        assert response.text.rstrip().endswith("[DONE]")
        assert fake.models() == ["say:As an AI I cannot.", slow]


def test_a_wrong_base_url_is_told_the_right_one(router_of):
    hello = {"model": "semroute/auto", "messages": HELLO}
    with serving(router_of("ok")) as served:
        plain = openai.OpenAI(base_url=served.url, api_key="none", max_retries=0)
        with pytest.raises(openai.NotFoundError, match="with /v1 as their base URL"):
            plain.chat.completions.create(**hello)
        doubled = anthropic.Anthropic(base_url=served.url + "/v1", api_key="none", max_retries=0)
        with pytest.raises(anthropic.NotFoundError, match="Anthropic's the address alone"):
            doubled.messages.create(max_tokens=9, **hello)


def test_each_rise_is_recorded_so_that_the_next_prompt_goes_up_at_once(router_of, fake, tmp_path):
    cheap = "say:I'm not sure about that."
    store = {"store": f"sqlite:{tmp_path / 'outcomes.db'}"}
    billing = cascading(cheap, "say:from above")
    router = router_of(cheap, "say:from above", billing=billing, escalations=store)
    with serving(router) as served:
        for _ in range(2):
            response = served.ask()
            time.sleep(0.3)  # it is stored behind the answer
        assert response.headers["x-semroute-reason"] == "escalation"
        assert response.headers["x-semroute-model"] == "say:from above"
        assert fake.models() == [cheap, "say:from above", "say:from above"]


def test_what_a_cascade_rejected_is_not_said_of_the_answer_that_was_served(router_of, tmp_path):
    cheap, store = "say:I'm not sure about that.", f"sqlite:{tmp_path / 'semroute.db'}"
    billing = cascading(cheap, "say:from above")
    settings = {"escalations": {"store": store}, "log": {"store": store}}
    router = router_of(cheap, "say:from above", billing=billing, **settings)
    with serving(router) as served:
        identity = served.ask().headers["x-semroute-id"]
        assert served.post({"id": identity, "score": 1.0, "by": "ann"}, "/v1/feedback").status_code == 200
        assert served.post({"id": identity, "score": 0, "by": "cascade"}, "/v1/feedback").status_code == 400
    router.flush()
    with open_log(store, root=tmp_path) as log:
        (found,) = log.read()
    assert (found.answerer, found.score, found.by) == ("say:from above", 1.0, "ann")
    assert found.scores_of == {cheap: 0.0, "say:from above": 1.0}
    assert {one.model: one.by for one in found.judgements}[cheap] == "cascade"


def test_cascades_are_checked_like_everything_else(router_of):
    with pytest.raises(ConfigError) as wrong:
        router_of("ok", billing={"model": "ok", "cascade": {"to": ["nobody"], "acept": {}}})
    assert "unknown model `nobody`" in str(wrong.value)
    assert "did you mean `accept`" in str(wrong.value)
    assert (
        router_of("ok", billing={"model": "ok", "cascade": False}).index.config.route("billing").cascade
        is None
    )


def unsure(router_of, arbiter, cards, **more):
    """A router whose vote is never sure enough; `arbiter` is the model that may settle it."""
    routes = {"billing": {"model": "ok"}, "coding": {"model": "say:code"}}
    return router_of(
        "ok", arbiter, "say:code", cards=cards, vote={"min_confidence": 0.9999}, **routes, **more
    )


@pytest.mark.parametrize(
    ("answer", "reason", "model", "said"),
    [
        ('say:{"route": "coding"}', "arbiter", "say:code", "The arbiter picked 'coding'."),
        ('say:Sure! {"route": null}', "arbiter", "ok", "The arbiter picked none of the routes."),
        ('say:{"route": "nonsense"}', "low_confidence", "ok", "The arbiter's answer was of no use."),
        ("say:coding", "low_confidence", "ok", "The arbiter's answer was of no use."),
        ("slow:1", "low_confidence", "ok", "The arbiter did not answer."),
        ("status:500", "low_confidence", "ok", "The arbiter did not answer."),
    ],
)
def test_an_arbiter_decides_where_the_vote_is_unsure(router_of, fake, answer, reason, model, said):
    cards = {answer: {"capabilities": ["json"], "prompt_usd_per_1m": 1e6, "completion_usd_per_1m": 0}}
    router = unsure(router_of, answer, cards)
    chooser = {"model": answer, "min_confidence": 0.01, "max_confidence": 1.0, "patience_s": 0.3}
    with serving(router, settings=ServeSettings.model_validate(PATIENT | {"arbiter": chooser})) as served:
        text = "my invoice function has a bug"
        told = served.post({"prompt": text}, "/v1/route").json()
        assert (told["reason"], told["model"]) == (reason, model)
        assert said in told["detail"]
        assert [request.json["model"] for request in fake.requests] == [answer]
        response = served.ask(text=text)
        assert (response.headers["x-semroute-reason"], response.headers["x-semroute-model"]) == (
            reason,
            model,
        )
        asked = fake.requests[0].json
        assert (asked["model"], asked["response_format"]["type"]) == (answer, "json_schema")
        if answer.startswith("say"):
            assert served.metric("semroute_cost_usd_total") == 24  # nothing else has a price


def test_what_an_arbiter_settles_is_in_the_decision_log(router_of, fake, tmp_path):
    from semroute.decisionlog import open_log

    answer = 'say:{"route": "coding"}'
    cards = {answer: {"prompt_usd_per_1m": 1e6, "completion_usd_per_1m": 0}}
    router = unsure(router_of, answer, cards, log={"store": f"sqlite:{tmp_path / 'log.db'}"})
    chooser = {"model": answer, "min_confidence": 0.01, "max_confidence": 1.0, "patience_s": 2}
    with serving(router, settings=ServeSettings.model_validate(PATIENT | {"arbiter": chooser})) as served:
        identity = served.ask(text="my invoice function has a bug").headers["x-semroute-id"]
        asked = served.post({"prompt": "my invoice function has a bug"}, "/v1/route").json()["id"]
        time.sleep(0.2)  # the call is written behind the answer
        assert router.flush()
    with open_log(f"sqlite:{tmp_path / 'log.db'}", root=tmp_path) as log:
        found = {row.id: row for row in log.read()}
    assert found.keys() == {identity, asked}  # each once
    assert {(row.route, row.model, row.reason) for row in found.values()} == {
        ("coding", "say:code", "arbiter")
    }
    assert (found[identity].served_by, found[asked].served_by) == ("say:code", None)
    assert [row.overhead_usd for row in found.values()] == [12, 12]


# Decisions and feedback ---------------------------------------------------------------------------------------


def test_a_decision_without_a_call(router_of, fake):
    with serving(router_of("ok", "say:b", billing={"models": ["say:b", "ok"]})) as served:
        response = served.post({"prompt": "where is my refund"}, "/v1/route")
        assert response.json()["route"] == "billing"
        assert response.json()["fallbacks"] == ["ok"]
        assert response.headers["x-semroute-id"] == response.json()["id"]
        response = served.post({"messages": HELLO, "exclude": ["say:b"]}, "/v1/route")
        assert (response.json()["model"], response.json()["reason"]) == ("ok", "constraint")
        assert served.post({"prompt": ""}, "/v1/route").json()["reason"] == "empty_prompt"
        assert served.post({"question": "?"}, "/v1/route").status_code == 400
        assert fake.requests == []


def test_feedback_moves_what_serves(router_of, fake, tmp_path):
    store = {"store": f"sqlite:{tmp_path / 'outcomes.db'}", "min_support": 1.5, "quota_per_day": 6}
    keys = {"keys": {"app": "client-key"}, "feedback_keys": {"app": "feedback-key"}}
    router = router_of("ok", "say:b", escalations=store)
    with serving(router, **keys) as served:

        def ask():
            return served.post(
                {"model": "semroute/auto", "messages": HELLO}, authorization="Bearer client-key"
            )

        def tell(**body):
            return served.post(body, "/v1/feedback", authorization="Bearer feedback-key")

        first = ask()
        assert first.headers["x-semroute-model"] == "ok"
        for who in ("u-1", "u-2", "u-3"):
            told = tell(id=ask().headers["x-semroute-id"], score=0, by=who)
            assert told.status_code == 200
            assert re.fullmatch(r"[0-9A-Z]{26}", told.json()["id"])
            assert (
                tell(decision_id=ask().headers["x-semroute-id"], to="say:b", by=who, why="wrong").status_code
                == 200
            )
        assert ask().headers["x-semroute-model"] == "say:b"
        identity = first.headers["x-semroute-id"]
        assert tell(id="01J00000000000000000000000", score=1).status_code == 404
        for wrong in (
            {},
            {"id": 7, "score": 1},
            {"id": identity},
            {"id": identity, "score": 2},
            {"id": identity, "to": 1},
        ):
            assert tell(**wrong).status_code == 400
        assert [tell(id=identity, score=1, by="one").status_code for _ in range(7)][-1] == 429
        denied = served.post({"id": identity, "score": 1}, "/v1/feedback", authorization="Bearer client-key")
        assert (denied.status_code, denied.json()["error"]["message"]) == (
            403,
            "This key may not give feedback.",
        )
        wrong = served.post(
            {"model": "semroute/auto", "messages": HELLO}, authorization="Bearer feedback-key"
        )
        assert (wrong.status_code, wrong.json()["error"]["message"]) == (
            403,
            "This key may only give feedback.",
        )
        nobody = served.post({"id": identity, "score": 1}, "/v1/feedback", authorization="Bearer nobodys-key")
        assert (nobody.status_code, nobody.json()["error"]["code"]) == (401, "invalid_api_key")


def test_feedback_without_a_store_says_what_it_needs_and_that_trying_again_is_in_vain(router_of):
    with serving(router_of("ok")) as served:
        identity = served.ask().headers["x-semroute-id"]
        response = served.post({"id": identity, "score": 1}, "/v1/feedback")
        assert (response.status_code, response.json()["error"]["code"]) == (501, "no_store")
        assert "`escalations: {store: " in response.json()["error"]["message"]
        assert response.headers["x-should-retry"] == "false"
        assert "retry-after" not in response.headers


def test_feedback_on_a_request_that_named_its_model_says_why_it_is_unknown(router_of, tmp_path):
    where = f"sqlite:{tmp_path / 'outcomes.db'}"
    router = router_of("ok", escalations={"store": where}, log={"store": where})
    with serving(router) as served:
        identity = served.ask("ok").headers["x-semroute-id"]
        response = served.post({"id": identity, "score": 1}, "/v1/feedback")
        assert (response.status_code, response.json()["error"]["code"]) == (404, "unknown_decision")
        assert "names its model itself is no decision" in response.json()["error"]["message"]
        router.flush()
        with open_log(where, root=tmp_path) as log:
            assert list(log.read()) == []


def test_feedback_that_nobody_signs_is_the_keys_and_without_keys_one_principals(router_of, tmp_path):
    router = router_of("ok", escalations={"store": f"sqlite:{tmp_path / 'outcomes.db'}"})
    with serving(router) as served:
        for score in (0, 1):
            identity = served.ask().headers["x-semroute-id"]
            assert served.post({"id": identity, "score": score}, "/v1/feedback").status_code == 200
    with serving(router, feedback_keys={"app": "key-of-app"}) as served:
        identity, key = served.ask().headers["x-semroute-id"], {"authorization": "Bearer key-of-app"}
        assert served.post({"id": identity, "score": 1}, "/v1/feedback", **key).status_code == 200
    # Of the two without a name the later counts, as of anybody who says two things of one prompt.
    assert [outcome.by for outcome in router.memory.outcomes()] == ["client", "app"]


def test_feedback_is_about_the_model_that_answered(router_of, tmp_path):
    store = {"store": f"sqlite:{tmp_path / 'outcomes.db'}", "min_principals": 1}
    router = router_of("status:500", "ok", escalations=store)
    with serving(router) as served:
        identity = served.ask().headers["x-semroute-id"]
        assert served.post({"id": identity, "score": 0.5, "by": "x"}, "/v1/feedback").status_code == 200
        assert {outcome.model for outcome in router.memory.outcomes()} == {"ok"}


def test_asking_again_is_a_weak_sign_where_that_is_wanted(router_of, tmp_path):
    store = {"store": f"sqlite:{tmp_path / 'outcomes.db'}"}
    router = router_of("ok", escalations=store)
    with serving(router, settings=ServeSettings(**PATIENT, regenerate=True)) as served:
        served.ask()
        served.ask(temperature=0.5)  # another request
        served.ask()
        until = time.monotonic() + 2
        while not (found := list(router.memory.outcomes())) and time.monotonic() < until:
            time.sleep(0.02)
        assert [outcome.score for outcome in found] == [0.25]


def test_a_key_has_a_budget_and_a_cap(router_of, fake):
    cards = {
        "say:cheap": {"prompt_usd_per_1m": 1e4, "completion_usd_per_1m": 0},  # 12 tokens: 0.12 dollars
        "say:dear": {"prompt_usd_per_1m": 1e6, "completion_usd_per_1m": 0},
    }
    clients = {"app": {"usd_per_day": 0.3}, "*": {"max_usd_per_1m": 2e4}}
    options = {"keys": {"app": "key-of-app", "other": "key-of-other"}}
    router = router_of("say:dear", "say:cheap", billing=cascading("say:cheap", to=["say:dear"]), cards=cards)
    settings = ServeSettings.model_validate(PATIENT | {"clients": clients})
    with serving(router, settings=settings, **options) as served:

        def ask(key, model="semroute/auto", text="where is my refund"):
            body = {"model": model, "messages": [{"role": "user", "content": text}]}
            return served.post(body, authorization=f"Bearer {key}")

        assert [ask("key-of-app").status_code for _ in range(4)] == [200, 200, 200, 429]
        spent = ask("key-of-app")
        assert (spent.json()["error"]["code"], spent.headers["x-should-retry"]) == (
            "insufficient_quota",
            "false",
        )
        assert 1 <= int(spent.headers["retry-after"]) <= 86_400
        assert ask("key-of-other", text="what no route knows").headers["x-semroute-model"] == "say:cheap"
        refused = ask("key-of-other", model="say:dear")
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "model_too_expensive")


# Operating it -------------------------------------------------------------------------------------------------


def test_metrics_count_and_show_no_text(router_of):
    with serving(
        router_of("ok", cards={"ok": {"prompt_usd_per_1m": 1, "completion_usd_per_1m": 2}})
    ) as served:
        served.ask(text="where is my refund, dear XYZZY")
        served.ask(stream=True)
        served.get("/nowhere/XYZZY")
        text = served.get("/metrics").text
        assert "XYZZY" not in text
        assert 'semroute_requests_total{endpoint="/v1/chat/completions",status="200"} 2.0' in text
        assert 'semroute_decisions_total{model="ok",reason="match",route="billing"} 2.0' in text
        assert 'semroute_tokens_total{kind="prompt",model="ok"}' in text
        assert served.metric("semroute_cost_usd_total", model="ok") > 0
        assert served.metric("semroute_upstream_time_to_first_token_seconds_count", model="ok") == 1


def test_two_apps_share_nothing(router_of):
    with serving(router_of("ok")) as one, serving(router_of("ok")) as two:
        one.ask()
        assert one.metric("semroute_upstream_attempts_total", model="ok") == 1
        assert two.metric("semroute_upstream_attempts_total", model="ok") == 0


def test_requests_are_logged_without_what_was_said(router_of, caplog):
    caplog.set_level("INFO", logger="semroute.access")
    with serving(router_of("status:500", "ok")) as served:
        served.ask(text="where is my refund XYZZY")
        until = time.monotonic() + 1
        while not caplog.records and time.monotonic() < until:
            time.sleep(0.01)
    line = json.loads(caplog.records[0].getMessage())
    assert (line["route"], line["status"], line["path"]) == ("billing", 200, "/v1/chat/completions")
    assert [(one["model"], one["outcome"]) for one in line["attempts"]] == [
        ("status:500", "failed"),
        ("ok", "answered"),
    ]
    assert "XYZZY" not in caplog.text


def test_unknown_paths_and_methods(router_of):
    with serving(router_of("ok")) as served:
        assert served.get("/v1/nothing").status_code == 404
        assert served.get("/v1/nothing").json()["error"]["type"] == "invalid_request_error"
        assert served.get("/v1/chat/completions").status_code == 405


def write(folder, fake, *, billing, **more):
    folder.mkdir(exist_ok=True)
    models = {
        "ok": {"base_url": fake.url},
        "many:30:0.05": {"base_url": fake.url},
        "say:new": {"base_url": fake.url},
    }
    settings = {"encoder": "static", "default": {"model": "ok"}, "models": models, "serve": {"grace_s": 10}}
    settings |= more
    (folder / "semroute.yaml").write_text(json.dumps(settings))
    route = {
        "name": "billing",
        "model": billing,
        "utterances": ["where is my refund", "cancel my plan", "an invoice"],
    }
    (folder / "billing.yaml").write_text(json.dumps(route))


class Command:
    """`semroute serve` in a process of its own."""

    def __init__(self, folder, *options, port=0, **environ):
        command = [
            sys.executable,
            "-m",
            "semroute",
            "serve",
            "--index",
            str(folder / "index"),
            "--port",
            str(port),
            "--json",
            *options,
        ]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            env=os.environ | environ,
        )
        self.log: list[str] = []
        threading.Thread(target=lambda: self.log.extend(self.process.stderr), daemon=True).start()
        line = self.process.stdout.readline()
        self.url = json.loads(line)["url"] if line else ""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait(5)
        self.process.stdout.close()
        self.process.stderr.close()

    def ask(self, model="semroute/auto"):
        body = {"model": model, "messages": HELLO}
        return httpx2.post(self.url + "/v1/chat/completions", json=body, timeout=10, trust_env=False)


def test_the_command_serves_takes_a_new_index_and_keeps_the_old_when_the_new_is_bad(fake, tmp_path):
    fake.requests.clear()
    write(tmp_path / "routes", fake, billing="ok")
    build_index(tmp_path / "routes", tmp_path / "index")
    with Command(tmp_path) as command:
        assert command.ask().headers["x-semroute-model"] == "ok"
        write(tmp_path / "routes", fake, billing="say:new")
        build_index(tmp_path / "routes", tmp_path / "index")
        until = time.monotonic() + 5
        while command.ask().headers["x-semroute-model"] != "say:new":
            assert time.monotonic() < until
            time.sleep(0.1)
        manifest = tmp_path / "index" / "manifest.json"
        manifest.write_text("{")
        time.sleep(1.5)
        assert command.ask().headers["x-semroute-model"] == "say:new"
        assert any("The new index is not taken" in line for line in command.log)
        lines = [json.loads(line) for line in command.log]
        assert all(line["level"] for line in lines)
        assert "server" in {line["event"] for line in lines}
        assert not any("error" in line["event"] for line in lines)


def test_workers_share_a_port_and_what_they_learn(fake, tmp_path):
    more = {"default": {"models": ["ok", "say:new"]}, "escalations": {"store": "sqlite:outcomes.db"}}
    write(tmp_path / "routes", fake, billing="ok", **more)
    build_index(tmp_path / "routes", tmp_path / "index")
    with Command(tmp_path, "--share-port") as one:
        port = int(one.url.rpartition(":")[2])
        with Command(tmp_path, "--share-port", port=port) as two, Command(tmp_path, port=port) as alone:
            assert two.url == one.url and alone.url == ""  # one that does not share is refused
            identity = one.ask().headers["x-semroute-id"]
            for by in ("ann", "bob", "eve"):
                said = {"id": identity, "to": "say:new", "by": by}
                while httpx2.post(one.url + "/v1/feedback", json=said, trust_env=False).status_code != 200:
                    pass  # the other worker, which did not decide that
            until = time.monotonic() + 5
            models = {""}
            while models != {"say:new"} and time.monotonic() < until:
                models = {two.ask().headers["x-semroute-model"] for _ in range(20)}
            assert models == {"say:new"}


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGHUP])
def test_a_stop_is_not_ready_at_once_and_lets_streams_end(fake, tmp_path, sign):
    fake.requests.clear()
    write(tmp_path / "routes", fake, billing="ok")
    build_index(tmp_path / "routes", tmp_path / "index")
    texts = []

    def stream():
        body = {"model": "many:30:0.05", "messages": HELLO, "stream": True}
        texts.append(
            httpx2.post(command.url + "/v1/chat/completions", json=body, timeout=20, trust_env=False).text
        )

    with Command(tmp_path) as command:
        threads = [threading.Thread(target=stream) for _ in range(50)]
        for thread in threads:
            thread.start()
        until = time.monotonic() + 10
        while len(fake.requests) < 50 and time.monotonic() < until:
            time.sleep(0.05)
        assert httpx2.get(command.url + "/readyz", trust_env=False).status_code == 200
        command.process.send_signal(sign)
        time.sleep(0.3)
        with pytest.raises(httpx2.TransportError):
            httpx2.get(command.url + "/readyz", trust_env=False).raise_for_status()
        for thread in threads:
            thread.join(20)
        assert command.process.wait(10) == 0
    assert len(texts) == 50
    assert all(text.rstrip().endswith("[DONE]") and '"content": "29 "' in text for text in texts)


@pytest.fixture
def own_logging():
    """The command logs for its whole process, which here is that of the tests."""
    names = ("semroute", "semroute.access", "uvicorn.error")
    root, levels = logging.getLogger(), {name: logging.getLogger(name).level for name in names}
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)


def test_the_command_refuses_what_is_not_safe(fake, tmp_path, own_logging):
    from typer.testing import CliRunner

    write(tmp_path / "routes", fake, billing="ok")
    build_index(tmp_path / "routes", tmp_path / "index")
    run, base = CliRunner().invoke, ["serve", "--index", str(tmp_path / "index")]
    for host in ("0.0.0.0", "::", "192.168.0.7"):
        refused = run(cli, [*base, "--host", host], env={"SEMROUTE_KEYS": ""})
        assert refused.exit_code == 2
        assert "SEMROUTE_KEYS or --keys-file" in refused.stderr
    refused = run(cli, [*base, "--keys-file", str(tmp_path / "none")])
    assert refused.exit_code == 2
    assert f"{tmp_path / 'none'}: no such file or directory." in refused.stderr
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        refused = run(cli, [*base, "--port", port])
    assert refused.exit_code == 2
    assert refused.stderr.count(port) == 1
    assert "address already in use; choose another with --port" in refused.stderr
    with pytest.raises(ConfigError, match="ASCII"):
        run(cli, base, env={"SEMROUTE_KEYS": "a=short"}, catch_exceptions=False)


def test_readiness_follows_the_stop(router_of):
    with serving(router_of("ok")) as served:
        assert served.get("/readyz").json()["index"] == served.router.index.fingerprint
        served.app.state.service.draining = True
        assert served.get("/readyz").status_code == 503
        assert served.get("/healthz").status_code == 200


# The page for people ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


def quiet(browser):
    assert browser.happened("Runtime.exceptionThrown", "Runtime.consoleAPICalled") == []
    assert browser.happened("Page.javascriptDialogOpening") == []


def eventually(browser, script, seconds=20):
    until = time.monotonic() + seconds
    while not (found := browser.value(script)) and time.monotonic() < until:
        time.sleep(0.05)
    return found


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_the_page_shows_what_is_going_on(router_of, fake, browser, width, scheme):
    cards = {
        "say:dear": {"prompt_usd_per_1m": 5, "completion_usd_per_1m": 25},
        "ok": {"prompt_usd_per_1m": 0.25, "completion_usd_per_1m": 2},
    }
    models = {"models": ["status:500", "ok"]}
    with serving(router_of("say:dear", "ok", "status:500", billing=models, cards=cards)) as served:
        for text in ("where is my refund", "what no route knows", "where is my refund"):
            served.ask(text=text)
        served.ask("ok", stream=True)
        browser.open(SimpleNamespace(as_uri=lambda: served.url + "/"), width=width, scheme=scheme)
        until = time.monotonic() + 5
        while browser.value("document.getElementById('recent').rows.length") < 4 and time.monotonic() < until:
            time.sleep(0.05)
        text = browser.value("document.body.innerText")
        assert "billing" in text
        assert "where is my refund" not in text
        assert browser.value("document.getElementById('requests').textContent") == "4"
        spent, always, saved = (
            float(browser.value(f"document.getElementById('{name}').textContent").strip("$"))
            for name in ("spent", "always", "saved")
        )
        assert 0 < spent < always
        assert saved == pytest.approx(always - spent, abs=2e-5)
        assert browser.value("document.documentElement.scrollWidth") <= width
        browser.value("document.getElementById('prompt').value = 'send me an <b>invoice</b>'")
        browser.value("document.querySelector('#try button').click()")
        eventually(browser, "document.getElementById('decision').innerText.includes('invoice')")
        assert "billing → status:500" in browser.value("document.getElementById('decision').innerText")
        assert "send me an invoice" in browser.value("document.getElementById('decision').innerText")
        quiet(browser)
        if folder := os.environ.get("SEMROUTE_TESTS_PICTURES"):
            import base64

            picture = browser._ask("Page.captureScreenshot", format="png")["data"]
            (Path(folder) / f"page-{width}.png").write_bytes(base64.b64decode(picture))


EVIL = "<img src=x onerror=alert(1)> </script><script>alert(2)</script> refund"


def try_prompt(browser, prompt):
    browser.value(f"document.getElementById('prompt').value = {json.dumps(prompt)}")
    browser.value("document.querySelector('#try button').click()")


def place_of(browser, what):
    return browser.value(
        f"(() => {{ const box = document.querySelector('{what}').getBoundingClientRect();"
        " return [box.x + box.width / 2, box.y + box.height / 2] })()"
    )


@pytest.fixture
def router_with_evil(tmp_path):
    evil = {"model": "ok", "utterances": [*BILLING, EVIL], "description": EVIL}
    models = {"ok": {"base_url": "http://127.0.0.1:9/v1"}}
    router = make_router(tmp_path, models, billing=evil)
    yield router
    router.close()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (390, "light")])
def test_the_map_shows_the_utterances_and_the_prompt_as_text_only(router_with_evil, browser, width, scheme):
    with serving(router_with_evil) as served:
        browser.open(SimpleNamespace(as_uri=lambda: served.url + "/"), width=width, scheme=scheme)
        assert eventually(browser, "document.querySelectorAll('#chart path').length") == 9
        assert browser.value("document.getElementById('legend').innerText").split() == ["billing", "coding"]
        colors = (
            "new Set([...document.querySelectorAll('#chart path')].map(p => p.getAttribute('fill'))).size"
        )
        assert browser.value(colors) == 2
        try_prompt(browser, EVIL)
        assert eventually(browser, "document.querySelectorAll('#chart .prompt').length") == 1
        assert EVIL in browser.value("document.getElementById('decision').innerText")
        # The prompt is an utterance of the index: it stands beside it, and pointing at it shows the text.
        browser.value("document.getElementById('chart').scrollIntoView({block: 'center'})")
        browser.move_mouse(*place_of(browser, "#chart .prompt"))
        assert "refund" in eventually(browser, "document.querySelector('.tip').innerText")
        assert browser.value("document.querySelectorAll('img, body script').length") == 1
        assert browser.value("document.documentElement.scrollWidth") <= width
        quiet(browser)
        fetched = {one["request"]["url"] for one in browser.happened("Network.requestWillBeSent")}
        assert all(url.startswith((served.url, "data:")) for url in fetched)


def test_an_index_without_utterances_has_an_empty_map(tmp_path, browser):
    models = {name: {"base_url": "http://127.0.0.1:9/v1"} for name in ("ok", "other")}
    settings = {"encoder": "static", "default": {"models": ["ok", "other"]}, "models": models}
    (tmp_path / "semroute.yaml").write_text(json.dumps(settings))
    router = Router(index.build(load_config(tmp_path), STATIC).index, STATIC, folder=tmp_path / "index")
    with serving(router) as served:
        assert served.get("/live/map").json()["dots"] == []
        assert served.post({"prompt": "refund"}, "/live/place").json()["place"] is None
        browser.open(SimpleNamespace(as_uri=lambda: served.url + "/"))
        assert eventually(browser, "document.body.innerText.includes('The index has no utterances.')")
        try_prompt(browser, "where is my refund")
        assert eventually(browser, "document.getElementById('decision').innerText.includes('default → ok')")
        quiet(browser)


def test_the_map_follows_the_index_and_needs_the_key(router_with_evil, tmp_path):
    with serving(router_with_evil, keys={"me": "key-of-mine"}) as served:
        assert served.get("/live/map").status_code == 401
        assert served.post({"prompt": "refund"}, "/live/place").status_code == 401
        key = {"authorization": "Bearer key-of-mine"}
        first = served.get("/live/map", **key).json()
        assert first["index"] == served.get("/live", **key).json()["index"]
        assert [dot[3] for dot in first["dots"]] == [*BILLING, EVIL, *CODING]
        assert all(-1 <= value <= 1 for dot in first["dots"] for value in dot[:2])
        for body in ({}, {"prompt": 1}, {"prompt": None}):
            assert served.post(body, "/live/place", **key).status_code == 400
        place = served.post({"prompt": "\ud800" + "refund " * 10_000}, "/live/place", **key)
        assert place.status_code in (200, 400)
        # Utterance and prompt in one place: where a prompt is an utterance, it stands among its like.
        one = served.post({"prompt": CODING[0]}, "/live/place", **key).json()["place"]
        mine = {dot[3]: dot[:2] for dot in first["dots"]}
        nearest = min(mine, key=lambda text: math.dist(mine[text], one))
        assert nearest in CODING
        folder = tmp_path / "index"
        (tmp_path / "1.yaml").write_text(
            json.dumps({"name": "billing", "utterances": BILLING[:3], "model": "ok"})
        )
        index.save(index.build(load_config(tmp_path), STATIC).index, folder)
        served.router.reload()
        second = served.get("/live/map", **key).json()
        assert second["utterances"] == 7
        assert second["index"] != first["index"]


def test_the_page_says_whose_key_is_missing_and_what_became_of_each_attempt(router_of, browser):
    cards = {"ok": {"api_key_env": "NOT_SET_ANYWHERE"}}
    with serving(router_of("ok", "status:500", cards=cards)) as served:
        assert served.ask().status_code == 503
        assert {one["model"]: one["lacks_key"] for one in served.get("/live").json()["models"]} == {
            "ok": True,
            "status:500": False,
        }
        browser.open(SimpleNamespace(as_uri=lambda: served.url + "/"))
        eventually(browser, "document.getElementById('recent').innerText.includes('ok: ')")
        assert "ok: its key is not set → status:500: " in browser.value("document.body.innerText")
        assert "its key is not set" in browser.value("document.getElementById('models').innerText")
        quiet(browser)


def test_the_page_asks_for_a_key_where_there_is_one(router_of, browser):
    keys = {"keys": {"me": "key-of-mine"}, "feedback_keys": {"f": "key-of-feedback"}}
    with serving(router_of("ok"), **keys) as served:
        assert served.get("/live").status_code == 401
        browser.open(SimpleNamespace(as_uri=lambda: served.url + "/"))
        until = time.monotonic() + 5
        while "asks for a key" not in browser.value("document.body.innerText") and time.monotonic() < until:
            time.sleep(0.05)
        # Figures that are no figures, and fields that lead nowhere, are not shown.
        hidden = "document.querySelectorAll('.cards, section, #prompt').values().every(one => !one.checkVisibility())"
        assert browser.value(hidden)
        for wrong, said in (
            ("key-of-nobody", "This API key is not known."),
            ("key-of-feedback", "This key may only give feedback."),
        ):
            present(browser, wrong)
            assert eventually(browser, f"document.getElementById('refused').innerText === {json.dumps(said)}")
            assert browser.value(hidden)
        present(browser, "key-of-mine")
        assert eventually(browser, "document.body.innerText.includes('up for')")
        assert browser.value("document.getElementById('prompt').checkVisibility()")
        assert browser.value("document.getElementById('refused').checkVisibility()") is False
        assert eventually(browser, "document.querySelectorAll('#chart path').length") == 8
        quiet(browser)


def present(browser, key):
    browser.value(f"document.getElementById('secret').value = {json.dumps(key)}")
    browser.value("document.querySelector('#key button').click()")


def test_the_page_lists_refusals_and_says_why_none_answered(router_of, browser):
    cards = {"ok": {"prompt_usd_per_1m": 1e4}, "status:500": {"prompt_usd_per_1m": 1}}
    clients = {"cheap": {"max_usd_per_1m": 0.5}, "poor": {"usd_per_day": 0}}
    settings = ServeSettings.model_validate(PATIENT | {"clients": clients})
    keys = {name: f"key-of-{name}" for name in ("app", "cheap", "poor")}
    router = router_of("ok", "status:500", billing={"model": "status:500"}, cards=cards)
    hello = {"model": "semroute/auto", "messages": HELLO}
    with serving(router, settings=settings, keys=keys) as served:

        def ask(body, key, path="/v1/chat/completions"):
            return served.post(body, path, authorization=f"Bearer {key}").status_code

        assert [ask(hello, "nobodys-key-SECRET") for _ in range(3)] == [401] * 3
        assert ask(b"{", keys["app"]) == 400
        assert ask(hello, keys["cheap"]) == 403
        assert ask(hello, keys["poor"]) == 429
        assert ask({**hello, "max_tokens": 9}, keys["app"], "/v1/messages") == 404
        assert ask({"model": "status:500", "messages": HELLO}, keys["app"]) == 503
        assert ask({"model": "ok", "messages": HELLO}, keys["app"]) == 200
        assert ask(b"{", keys["app"], "/v1/messages/count_tokens") == 400  # asks for no answer
        live = served.get("/live", authorization=f"Bearer {keys['app']}").json()
        assert [(one["status"], one["key"], one["model"], one["times"]) for one in live["recent"]] == [
            (200, "app", "ok", 1),
            (503, "app", None, 1),
            (404, "app", None, 1),
            (429, "poor", None, 1),
            (403, "cheap", None, 1),
            (400, "app", None, 1),
            (401, None, None, 3),
        ]
        assert "key-of-" not in json.dumps(live) and "SECRET" not in json.dumps(live)
        assert live["today"]["requests"] == 1
        browser.open(SimpleNamespace(as_uri=lambda: served.url + "/"))
        present(browser, keys["app"])
        assert eventually(browser, "document.getElementById('recent').rows.length === 7")
        rows = browser.value(
            "[...document.getElementById('recent').rows].map(row => [...row.cells].map(one => one.innerText))"
        )
        assert [(row[1], row[3], row[7] == "–") for row in rows] == [
            ("app", "ok", False),
            ("app", "none answered (503)", True),
            ("app", "none answered (404)", True),
            ("poor", "refused (429)", True),
            ("cheap", "refused (403)", True),
            ("app", "refused (400)", True),
            ("–", "refused (401)", True),
        ]
        whys = [row[8] for row in rows]
        assert whys[1] == "status:500: status 500. The client named the model."
        assert whys[2].startswith("No model here speaks /v1/messages. ")
        assert whys[3].startswith("The budget of this key is spent")
        assert whys[0] == "The client named the model."
        assert whys[5:] == ["The body is not valid JSON.", "This API key is not known. 3 times."]
        quiet(browser)


def test_the_page_says_since_when_it_counts(router_of, browser, monkeypatch):
    with serving(router_of("ok")) as served:
        served.ask()
        live = served.get("/live").json()
        assert time.time() - 60 < live["today"]["since"] <= time.time()
        browser.open(SimpleNamespace(as_uri=lambda: served.url + "/"))
        assert eventually(browser, "/answers since [0-9]/.test(document.body.innerText)")
        now = time.time
        monkeypatch.setattr(time, "time", lambda: now() + 86_400)
        assert served.get("/live").json()["today"]["since"] is None  # the process has seen the day begin
        assert eventually(browser, "document.body.innerText.includes('answers today')")
