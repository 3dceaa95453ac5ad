"""What a served router makes of odd answers, odd clients and odd moments: over real sockets."""

from __future__ import annotations

import time

import httpx2
import pytest
from serving import HELLO, PATIENT, make_router, serving

from semroute.answers import Reading
from semroute.config import ServeSettings

ALL = {"apis": ["chat", "responses", "messages"]}
LOOK = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture
def router_of(fake, tmp_path):
    """A router over modes of the fake: `billing` is served by `billing`, everything else by the first mode."""
    fake.forget()

    def make(*modes, billing=None, cards=None, **settings):
        models = fake.models_for(modes, cards)
        return make_router(tmp_path / "routes", models, billing or {"models": list(modes)}, **settings)

    return make


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
