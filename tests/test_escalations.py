"""Past outcomes: what is estimated from them, what they do to decisions, and what nobody may do with them."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import multiprocessing
import os
import subprocess
import sys
import time
import tracemalloc
import warnings
from dataclasses import replace
from datetime import datetime
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_stores import Postgres

from semroute import index
from semroute.build import build_index
from semroute.config import load_config
from semroute.errors import (
    EncodingFailed,
    OutcomeInvalid,
    QuotaExceeded,
    StoreError,
    StoreUnavailable,
    UnknownDecision,
)
from semroute.escalations import CASCADE, OPERATOR, Event, Outcome, prompt_hash
from semroute.escalations.estimate import Estimator, Prompt, Trust
from semroute.escalations.importing import GradedPrompt
from semroute.escalations.memory import counting
from semroute.escalations.nearby import BLOCK
from semroute.escalations.sqlite import SqliteStore
from semroute.escalations.trend import ENOUGH, FEATURE_COUNT, Graded, Trend, features, likeness
from semroute.router import Router
from semroute.testing import HashEncoder
from semroute.ulid import ulid_of

DIM = 16
NOW = 1_800_000_000.0
DAY = 86_400.0
PRIORS = {"small": 0.6, "big": 0.9}


def unit(seed):
    vector = np.random.default_rng(seed).normal(size=DIM)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def outcome(number, score=0.0, *, at=0, by=OPERATOR, model="small", age=0.0, **more):
    defaults = {
        "id": ulid_of(hashlib.sha256(b"outcome %d" % number).digest()),
        "model": model,
        "score": score,
        "vector": unit(at),
        "features": np.zeros(FEATURE_COUNT, np.float32),
        "prompt_hash": hashlib.sha256(f"{at} {number}".encode()).digest(),
        "encoder": "hash#1",
        "by": by,
        "time": NOW - age,
        "origin": "feedback",
    }
    return Outcome(**(defaults | more))


def estimated(outcomes, at=0, model="small", trust=None, route=None):
    estimator = Estimator(outcomes, PRIORS, trust=trust)
    prompt = Prompt(unit(at), np.zeros(FEATURE_COUNT, np.float32), route)
    return estimator.estimate(prompt, [model], NOW)[model]


# Estimates


def test_without_outcomes_there_is_the_declared_quality_and_no_support():
    assert estimated([]) == (0.6, 0.0)


def test_outcomes_on_the_prompt_count_one_each_and_move_it():
    found = [estimated([outcome(n) for n in range(count)]) for count in range(5)]
    assert [each.support for each in found] == [0, 1, 2, 3, 4]
    assert all(later.quality < earlier.quality for earlier, later in pairwise(found))
    assert found[3].quality < 0.2


def test_unrelated_outcomes_say_nothing_at_all():
    across = unit(1) - (unit(1) @ unit(0)) * unit(0)
    far = [outcome(n, vector=(across / np.linalg.norm(across)).astype(np.float32)) for n in range(100)]
    assert estimated(far) == (0.6, 0.0)


def test_two_bad_ones_do_not_outweigh_a_hundred_good_ones():
    many = [outcome(n, 1.0) for n in range(60)] + [outcome(100 + n, 0.0) for n in range(2)]
    assert estimated(many).quality > 0.9


def test_age_halves_what_an_outcome_counts():
    assert estimated([outcome(1, age=90 * DAY)]).support == 0.5
    assert estimated([outcome(1, age=-90 * DAY)]).support == 1.0  # a clock that jumped


def test_the_operators_outcomes_on_a_route_move_the_prior_there():
    on_route = [outcome(n, 0.0, at=1000 + n, route="billing") for n in range(40)]
    near = [o for o in on_route if likeness(np.array([o.vector @ unit(0)]))[0] > 0]
    others = [o for o in on_route if o not in near]
    assert estimated(others, route="billing").quality < 0.35
    assert estimated(others, route="coding").quality == 0.6


def rises(count):
    """Rises of a cascade on as many prompts much like the one that is asked."""
    vectors = [beside(unit(0), 0.95, 50 + number) for number in range(count)]
    return [outcome(500 + n, 0.0, vector=vectors[n], by=CASCADE) for n in range(count)]


def test_one_rise_of_a_cascade_is_enough_for_the_next_prompt_like_it():
    found = estimated(rises(1))
    assert found.quality < 0.2 and found.support >= 3.0


def test_a_cascade_is_never_louder_than_the_others_together():
    good = [outcome(n, 1.0, at=0, by=f"user {n}") for n in range(30)]
    assert estimated([*rises(200), *good]).quality >= 0.5
    assert estimated(rises(200)).support == pytest.approx(estimated(rises(1)).support, abs=0.2)


scores = st.floats(0, 1, width=32)
rows = st.lists(
    st.tuples(
        scores, st.integers(0, 5), st.sampled_from([OPERATOR, "ann", "bob"]), st.sampled_from(list(PRIORS))
    ),
    max_size=30,
)


@settings(deadline=None)
@given(rows, st.integers(0, 5))
def test_estimates_are_probabilities_and_grow_with_each_outcome_as_if_made_anew(rows, at):
    outcomes = [
        outcome(n, score, at=place, by=by, model=model) for n, (score, place, by, model) in enumerate(rows)
    ]
    prompt = Prompt(unit(at), np.zeros(FEATURE_COUNT, np.float32), None)
    grown = Estimator([], PRIORS)
    for each in outcomes:
        grown = grown.with_more([each])
    found = grown.estimate(prompt, list(PRIORS), NOW)
    assert found == Estimator(outcomes, PRIORS).estimate(prompt, list(PRIORS), NOW)
    for each in found.values():
        assert 0.0 <= each.quality <= 1.0 and math.isfinite(each.support) and each.support >= 0.0


def many(count, seed=0):
    """Feedback of a few principals on prompts around ten points, some of it said again later."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(10, DIM))
    found = []
    for number in range(count):
        vector = centres[number % 10] + 0.3 * rng.normal(size=DIM)
        again = number % 50 == 7 and number > 100
        by, prompt = f"user {number % 7}", number - 70 if again else number
        found.append(
            outcome(
                number,
                float(rng.random() < 0.5),
                vector=(vector / np.linalg.norm(vector)).astype(np.float32),
                by=by,
                prompt_hash=hashlib.sha256(b"%d" % prompt).digest(),
            )
        )
    return found


@pytest.mark.parametrize("count", [BLOCK, 3 * BLOCK + 100, 6 * BLOCK + 5])
def test_estimates_depend_on_the_outcomes_and_not_on_how_they_came(count):
    outcomes = many(count)
    at_once = Estimator(outcomes, PRIORS)
    grown, waited = Estimator([], PRIORS), Estimator([], PRIORS)
    for start in range(0, count, 300):
        grown = grown.with_more(outcomes[start : start + 300]).settled()
        waited = waited.with_more(outcomes[start : start + 300])
    late = waited.with_merged(waited.settled())
    assert len(at_once) == len(grown) == len(late) == len(waited)
    for each in many(20, seed=1):
        prompt = Prompt(each.vector, each.features, None)
        wanted = at_once.estimate(prompt, list(PRIORS), NOW)
        assert wanted == grown.estimate(prompt, list(PRIORS), NOW) == late.estimate(prompt, list(PRIORS), NOW)
        assert at_once.nearest(prompt, "small") == grown.nearest(prompt, "small")


def test_what_comes_while_others_are_merged_is_not_lost():
    outcomes = many(2 * BLOCK + 50)
    before = Estimator([], PRIORS).with_more(outcomes[: BLOCK + 20])
    after = before.with_more(outcomes[BLOCK + 20 :]).with_merged(before.settled())
    for each in outcomes[:: BLOCK // 4]:
        prompt = Prompt(each.vector, each.features, None)
        assert after.nearest(prompt, "small") == Estimator(outcomes, PRIORS).nearest(prompt, "small")


def test_a_merge_that_comes_too_late_changes_nothing():
    outcomes = many(2 * BLOCK + 50)
    early = Estimator([], PRIORS).with_more(outcomes[: BLOCK + 20])
    settled_then = early.settled()
    now = early.with_more(outcomes[BLOCK + 20 :]).settled().with_merged(settled_then)
    assert now.waiting < BLOCK
    for each in outcomes[:: BLOCK // 4]:
        prompt = Prompt(each.vector, each.features, None)
        assert now.nearest(prompt, "small") == Estimator(outcomes, PRIORS).nearest(prompt, "small")


def test_the_nearest_of_many_are_found():
    outcomes = many(8 * BLOCK)
    estimator, vectors = Estimator(outcomes, PRIORS), np.array([each.vector for each in outcomes])
    hits = 0
    for each in outcomes[::400]:
        exact = outcomes[int(np.argmax(vectors @ each.vector))].id
        prompt = Prompt(each.vector, each.features, None)
        hits += exact in {near.id for near in estimator.nearest(prompt, "small")}
    assert hits >= 0.95 * len(outcomes[::400])


def beside(vector, similarity, seed):
    """A unit vector at a cosine similarity of another."""
    other = np.random.default_rng([7, seed]).normal(size=len(vector))
    other -= (other @ vector) * vector
    other /= np.linalg.norm(other)
    return (similarity * vector + math.sqrt(1 - similarity**2) * other).astype(np.float32)


def said_by_ten(score, similarity):
    near = [beside(unit(0), similarity, seed) for seed in range(10)]
    return [outcome(n, score, vector=near[n], by=f"honest {n}") for n in range(10)]


def merged(outcomes):
    """The estimator of `outcomes` with all of them in the index: as many others, far away, come after."""
    filler = [outcome(10_000 + n, 1.0, at=500 + n, model="big") for n in range(BLOCK)]
    far = [each for each in filler if each.vector @ unit(0) < 0.2]
    return Estimator([], PRIORS).with_more([*outcomes, *far, *many(BLOCK, seed=3)]).settled()


def quality(estimator, model="small"):
    prompt = Prompt(unit(0), np.zeros(FEATURE_COUNT, np.float32), None)
    return estimator.estimate(prompt, [model], NOW)[model].quality


@pytest.mark.parametrize("about", ["small", "big"])
@pytest.mark.parametrize("count", [70, 200, 900])
def test_nobody_crowds_out_the_others_with_prompts_that_are_nearer(about, count):
    honest = said_by_ten(0.0, 0.95)
    vectors = [beside(unit(0), 0.99, 100 + n) for n in range(count)]
    loud = [outcome(100 + n, 1.0, vector=vectors[n], by="mallory", model=about) for n in range(count)]
    if about == "big":  # nothing was said of the small model but by the ten
        assert quality(merged([*honest, *loud])) == pytest.approx(quality(merged(honest)), abs=0.01)
    else:
        assert quality(merged([*honest, *loud])) <= quality(merged([*honest, *loud[:8]])) + 0.02


def test_nobody_crowds_out_the_others_by_saying_one_thing_again_and_again():
    honest = said_by_ten(0.0, 0.95)
    same = {"vector": unit(0), "prompt_hash": bytes(32), "by": "mallory"}
    again = [outcome(100 + n, 1.0, **same) for n in range(300)]
    assert quality(merged([*honest, *again])) == pytest.approx(
        quality(merged([*honest, again[-1]])), abs=0.01
    )


def test_praise_of_another_model_does_not_bury_what_was_said_of_this_one():
    same = {"vector": unit(0), "prompt_hash": bytes(32)}
    bad = [outcome(n, 0.0, by=f"user {n}", **same) for n in range(3)]
    praise = [outcome(100 + n, 1.0, by=f"user {100 + n}", model="big", **same) for n in range(600)]
    assert quality(merged([*bad, *praise])) == quality(merged(bad))


@pytest.mark.parametrize(("similarity", "good"), [(0.90, 0), (0.90, 8)])
def test_nearer_outcomes_of_another_model_keep_nobody_out(similarity, good):
    vectors = [beside(unit(0), similarity, 900 + n) for n in range(50)]
    bad = [outcome(n, 0.0, vector=vectors[n], by=f"user {n}") for n in range(50)]
    for_it = [outcome(60 + n, 1.0, vector=beside(unit(0), 0.95, 800 + n), by=f"fan {n}") for n in range(good)]
    others = [
        outcome(100 + n, 1.0, vector=beside(unit(0), 0.97, 100 + n), by=f"other {n}", model="big")
        for n in range(200)
    ]
    alone = quality(merged([*bad, *for_it]))
    assert quality(merged([*bad, *for_it, *others])) == pytest.approx(alone, abs=0.02)


def test_on_a_prompt_that_many_asked_the_latest_are_heard():
    same = {"vector": unit(0), "prompt_hash": bytes(32)}
    before = [outcome(n, 1.0, by=f"user {n}", **same) for n in range(400)]
    after = [outcome(1_000 + n, 0.0, by=f"user {1_000 + n}", **same) for n in range(100)]
    assert quality(merged([*before, *after])) < 0.1 < 0.9 < quality(merged(before))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 90), st.integers(1, 20))
def test_merging_changes_nothing_where_many_are_equal_or_said_again(seed, places, people):
    rng = np.random.default_rng(seed)
    outcomes = [
        outcome(
            number,
            float(rng.integers(2)),
            vector=unit(0) if place % 2 else beside(unit(0), 0.9, place),
            prompt_hash=hashlib.sha256(b"%d" % place).digest(),
            by=f"user {rng.integers(people)}",
            model=str(rng.choice(list(PRIORS))),
        )
        for number, place in enumerate(rng.integers(places, size=250))
    ]
    beside_the_index, filler = Estimator(outcomes, PRIORS), many(BLOCK, seed=3)
    for model in PRIORS:
        grown = beside_the_index.with_more([])
        assert quality(grown, model) == quality(Estimator(outcomes, PRIORS), model)
    apart = Estimator([], PRIORS).with_more([*outcomes, *filler])
    for model in PRIORS:
        assert quality(apart, model) == pytest.approx(quality(apart.settled(), model), abs=1e-5)


def test_of_what_is_said_again_the_last_counts_for_the_route_as_well():
    first = [outcome(n, 1.0, at=500 + n, route="billing", prompt_hash=bytes([n]) * 32) for n in range(30)]
    last = [outcome(90 + n, 0.1, at=500 + n, route="billing", prompt_hash=bytes([n]) * 32) for n in range(30)]
    prompt = Prompt(unit(0), np.zeros(FEATURE_COUNT, np.float32), "billing")
    both = Estimator([], PRIORS).with_more(first).with_more(last)
    assert len(both) == 30
    assert both.estimate(prompt, ["big"], NOW) == Estimator(last, PRIORS).estimate(prompt, ["big"], NOW)
    assert both.estimate(prompt, ["small"], NOW) == Estimator(last, PRIORS).estimate(prompt, ["small"], NOW)


# Trust


def test_one_principal_alone_moves_nothing_and_two_do():
    alone = [outcome(n, by="ann") for n in range(1_000)]
    assert estimated(alone) == (0.6, 0.0)
    assert estimated([*alone[:3], *(outcome(2_000 + n, by="bob") for n in range(3))]).support == 6.0


def test_those_who_agree_must_be_enough_on_each_side():
    good = [outcome(n, 1.0, by="fan") for n in range(3)]
    bad = [outcome(10 + n, 0.0, by="mallory") for n in range(6)]
    assert estimated([*good, *bad]) == (0.6, 0.0)  # one of each: neither counts
    two = [*bad, outcome(20, 0.0, by="eve")]
    assert estimated([*good, *two]) == estimated(two)


@given(st.integers(1, 40), st.integers(1, 5), st.sampled_from([0.2, 0.34, 0.5]))
def test_nobody_has_more_than_his_share_of_the_weight(loud, others, share):
    said = [outcome(n, by="loud") for n in range(loud)]
    said += [outcome(100 + n, by=f"user {n}") for n in range(others)]
    support = estimated(said, trust=Trust(share, 1)).support
    quiet = estimated(said[loud:], trust=Trust(1.0, 1)).support
    assert support <= quiet / (1.0 - share) + 1e-3 or loud <= share * support + 1e-3


def test_the_operator_needs_nobody():
    assert estimated([outcome(n) for n in range(3)], trust=Trust(0.5, 5)).support == 3.0


# The trend


def graded(count, seed=0, models=2):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(count, DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    hard = vectors[:, 0] > 0
    scores = np.stack([np.where(hard, 0.0, 1.0), np.ones(count)], axis=1)[:, :models].astype(np.float32)
    return Graded(vectors, np.zeros((count, FEATURE_COUNT), np.float32), scores, np.ones(count, np.float32))


def test_a_trend_learns_where_the_weak_model_fails():
    trend, fresh = Trend(graded(600)), graded(300, seed=1)
    found = trend.predict_many(fresh.vectors, fresh.features)
    clear = np.abs(fresh.vectors[:, 0]) > 0.1
    assert ((found[clear, 0] < 0.5) == (fresh.scores[clear, 0] == 0.0)).mean() > 0.9
    assert np.abs(found[:, 1] - 1.0).max() < 0.1 and found[:, 1].mean() == pytest.approx(1.0, abs=0.01)
    one, support = trend.predict(fresh.vectors[0], fresh.features[0])
    assert np.allclose(one, found[0], atol=1e-5) and (support >= 0).all()


@pytest.mark.parametrize("kind", ["all the same prompt", "all scores equal", "one model few"])
def test_degenerate_grades_give_finite_numbers(kind):
    data = graded(300)
    if kind == "all the same prompt":
        data = data._replace(vectors=np.repeat(data.vectors[:1], 300, axis=0))
    elif kind == "all scores equal":
        data = data._replace(scores=np.full((300, 2), 0.5, np.float32))
    else:
        data.scores[10:, 1] = np.nan
    found = Trend(data).predict_many(data.vectors, data.features)
    assert np.isfinite(found[:, 0]).all()
    assert np.isnan(found[:, 1]).all() == (kind == "one model few")


def test_imports_below_enough_count_by_likeness_and_above_by_trend():
    rows = graded(ENOUGH)
    imports = [
        outcome(
            n, float(score), vector=vector, origin="import", prompt_hash=hashlib.sha256(b"%d" % n).digest()
        )
        for n, (vector, score) in enumerate(zip(rows.vectors, rows.scores[:, 0], strict=True))
    ]
    easy = np.array([-1.0] + [0.0] * (DIM - 1), np.float32)
    for known in (imports[: ENOUGH // 2], imports):
        prompt = Prompt(easy, np.zeros(FEATURE_COUNT, np.float32), None)
        assert Estimator(known, PRIORS).estimate(prompt, ["small"], NOW)["small"].quality > 0.75


@given(st.text(max_size=300))
@settings(max_examples=50)
def test_features_are_finite_numbers_of_any_text(text):
    found = features(text)
    assert found.shape == (FEATURE_COUNT,) and found.dtype == np.float32 and np.isfinite(found).all()


# What counts


def event(number, kind, **more):
    return Event(
        id=ulid_of(hashlib.sha256(b"event %d" % number).digest()), kind=kind, time=NOW, by=OPERATOR, **more
    )


def test_of_what_one_says_twice_the_last_counts_and_the_first_again_when_that_is_reverted(tmp_path):
    first, last = outcome(1, 0.0, prompt_hash=b"s" * 32), outcome(2, 1.0, prompt_hash=b"s" * 32)
    with SqliteStore(tmp_path / "log.db") as store:
        store.append([first, last])
        assert list(counting(store)) == [last]
        store.append_event(event(1, "revert", ids=(last.id,)))
        assert list(counting(store)) == [first]


# The loop


def grade_of(score, prompt="thanks a lot"):
    return [GradedPrompt(1, prompt, {"small": score}, None, None)]


def imported(router):
    return [each.score for each in router.memory.outcomes() if each.origin == "import"]


def test_an_import_can_be_corrected_and_corrected_back(project):
    router = project()
    added = [router.import_outcomes(grade_of(score)) for score in (0.0, 1.0, 1.0, 0.0)]
    assert added == [1, 1, 0, 1]
    assert imported(router) == [0.0]
    assert router.import_outcomes([*grade_of(0.5), *grade_of(0.5)]) == 1  # twice in one file


def test_an_import_can_be_repeated_after_it_was_reverted(project):
    router = project()
    router.import_outcomes(grade_of(0.5))
    ids = tuple(each.id for each in router.memory.outcomes())
    router.memory.say(Event(id=ulid_of(b"undo"), kind="revert", by=OPERATOR, time=NOW, ids=ids))
    assert imported(router) == []
    assert router.import_outcomes(grade_of(0.5)) == 1
    assert imported(router) == [0.5]


def test_a_revert_restores_the_trend_though_the_operator_spoke_of_what_was_imported(project, tmp_path):
    router = project()
    kinds = ("math", "poetry")
    rows = [
        GradedPrompt(n, f"prompt {n} about {kinds[n % 2]}", {"small": n % 2, "big": 1.0}, None, None)
        for n in range(ENOUGH + 20)
    ]
    router.import_outcomes(rows)
    for row in rows[:20]:
        router.add_outcome(row.prompt, "small", 1.0)
    before = router.route("a question about math").candidates
    assert (
        before
        == Router.load(tmp_path / "index", encoder=HashEncoder()).route("a question about math").candidates
    )
    fail_on(router, "sort a list", ("mallory",))
    router.memory.say(Event(id=ulid_of(b"undo"), kind="revert", by=OPERATOR, time=NOW, principal="mallory"))
    assert router.route("a question about math").candidates == before


def test_only_none_is_the_operator(project):
    router = project()
    with pytest.raises(OutcomeInvalid):
        router.feedback(router.route(PROMPT), 0.0, by="")
    with pytest.raises(OutcomeInvalid):
        router.add_outcome(PROMPT, "small", 0.0, by="")
    assert list(router.memory.outcomes()) == []


@pytest.mark.parametrize("name", [OPERATOR, CASCADE])
def test_nobody_may_use_a_name_of_the_routers_own(project, name):
    router = project()
    decision = router.route(PROMPT)
    for call in (
        lambda: router.feedback(decision, 0.0, by=name),
        lambda: router.escalate(decision, to="big", by=name),
        lambda: router.add_outcome(PROMPT, "small", 0.0, by=name),
    ):
        with pytest.raises(OutcomeInvalid, match="by must not be"):
            call()


def test_a_router_learns_what_another_imported_while_it_gets_feedback(project, tmp_path, monkeypatch):
    monkeypatch.setattr("semroute.escalations.memory._QUIET", 0.2)
    here, there = project(), Router.load(tmp_path / "index", encoder=HashEncoder())
    here.route(PROMPT)
    rows = [GradedPrompt(n, f"question {n}", {"small": n % 2, "big": 1}, None, None) for n in range(250)]
    there.import_outcomes(rows)
    wanted = there.route("question").candidates
    until = time.monotonic() + 10
    while here.route("question").candidates != wanted and time.monotonic() < until:
        here.add_outcome(f"hello {time.monotonic()}", "small", 1.0)
        time.sleep(0.1)
    assert here.route("question").candidates == wanted


def test_a_trend_of_fewer_imports_never_takes_the_place_of_one_of_more(project, monkeypatch):
    router = project()
    rows = [GradedPrompt(n, f"question {n}", {"small": 0.2, "big": 0.9}, None, None) for n in range(250)]
    router.import_outcomes(rows)
    router.memory.close()  # nobody else learns here
    memory, learnt = router.memory, Estimator.learnt

    def late(self):
        found = learnt(self)
        monkeypatch.setattr(Estimator, "learnt", learnt)
        router.import_outcomes([row._replace(scores={"small": 0.9, "big": 0.1}) for row in rows])
        return found

    memory._known.imports += 1  # as if more had come
    monkeypatch.setattr(Estimator, "learnt", late)
    memory._store, memory._pid = None, os.getpid()
    memory._learn()
    (small, _) = sorted(router.route("question").candidates, key=lambda each: each.model != "small")
    assert small.quality > 0.6


def test_an_import_that_fails_midway_keeps_nobody_from_learning(project, tmp_path, monkeypatch):
    monkeypatch.setattr("semroute.escalations.memory._QUIET", 0.2)
    router = project()
    rows = [GradedPrompt(n, f"question {n}", {"small": n % 2, "big": 1}, None, None) for n in range(600)]
    encode, calls = HashEncoder.encode, []

    def failing(self, texts, **more):
        calls.append(len(texts))
        if len(calls) == 2:
            raise EncodingFailed("the server is gone")
        return encode(self, texts, **more)

    monkeypatch.setattr(HashEncoder, "encode", failing)
    with pytest.raises(EncodingFailed):
        router.import_outcomes(rows)
    wanted = Router.load(tmp_path / "index", encoder=HashEncoder()).route("question").candidates
    until = time.monotonic() + 5
    while router.route("question").candidates != wanted and time.monotonic() < until:
        time.sleep(0.05)
    assert router.route("question").candidates == wanted


def test_a_store_that_was_replaced_is_opened_again(project, tmp_path, monkeypatch):
    monkeypatch.setattr("semroute.escalations.memory._RETRY", 0.05)
    router, file = project(), tmp_path / "outcomes.db"
    router.route(PROMPT)
    router.feedback(router.route("hello there"), 1.0, by="zoe")
    backup = file.read_bytes()
    fail_on(router)
    assert router.route(PROMPT).model == "big"
    (tmp_path / "restored").write_bytes(backup)
    (tmp_path / "restored").replace(file)
    until = time.monotonic() + 5
    while router.route(PROMPT).model == "big" and time.monotonic() < until:
        time.sleep(0.05)
    assert router.route(PROMPT).model == "small"
    fail_on(router)
    assert router.route(PROMPT).model == "big"
    assert len(Router.load(tmp_path / "index", encoder=HashEncoder()).memory) == 4


def test_an_outcome_needs_a_prompt_and_another_model_to_go_to(project):
    router = project()
    for prompt, to in [(" \u200b", None), (PROMPT, "small")]:
        with pytest.raises(OutcomeInvalid):
            router.add_outcome(prompt, "small", 0.0, escalated_to=to)


def test_a_long_prompt_is_forgotten_by_its_text(project):
    router = project()
    long = "where is my refund " * 8_000
    router.feedback(router.route(long), 1.0, by="ann")
    assert router.memory.forget(prompt_hash=prompt_hash(long, router.memory.key())) == 1


def test_the_last_decisions_do_not_hold_long_texts(project):
    router = project()
    fail_on(router)
    tracemalloc.start()
    decisions = [router.route(f"{PROMPT} " * 5_000 + str(number)) for number in range(50)]
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 1_500_000  # their texts are 4.5 MB
    router.feedback(decisions[0], 1.0, by="zoe")
    (stored,) = [each for each in router.memory.outcomes() if each.by == "zoe"]
    assert stored.features.any() and stored.text is None


def test_quotas_hold_by_the_day_and_no_clock_that_was_ahead_locks_anybody_out(project, monkeypatch):
    router, real = project(quota_per_day=3), time.time
    monkeypatch.setattr("time.time", lambda: real() + 400 * DAY)
    fail_on(router, users=["ann"] * 3)
    with pytest.raises(QuotaExceeded):
        fail_on(router, users=["ann"])
    monkeypatch.setattr("time.time", lambda: real() + 402 * DAY)
    fail_on(router, users=["ann"])
    monkeypatch.setattr("time.time", real)
    fail_on(router.load(router._folder, encoder=HashEncoder()), users=["ann"])


def test_feedback_beside_a_reload_is_stored(project, write_project, tmp_path):
    router = project()
    decision, former = router.route(PROMPT), router.memory

    class Reloading(type(former)):
        def add(self, outcomes):
            former.__class__ = former.__class__.__base__
            rebuild(write_project, tmp_path, half_life_days=30)
            router.reload()
            former.add(outcomes)

    former.__class__ = Reloading
    identity = router.feedback(decision, 0.0, by="ann")
    assert router.memory is not former
    assert [each.id for each in router.memory.outcomes()] == [identity]


def test_a_failure_that_comes_with_every_prompt_is_said_once_a_minute(project, caplog):
    router = project()
    fail_on(router)
    router.memory.estimates = None  # whatever fails there
    with caplog.at_level(logging.ERROR, logger="semroute"):
        assert {router.route(PROMPT).model for _ in range(50)} == {"small"}
    assert len([line for line in caplog.messages if "without outcomes" in line]) == 1
    assert router.without_outcomes == 50


def test_the_watcher_outlives_any_failure(project, tmp_path, monkeypatch):
    one = project()
    one.route(PROMPT)  # it is watched from here on
    monkeypatch.setattr("semroute.escalations.memory._RETRY", 0.05)
    store = one.memory
    follow, store._refresh = store._refresh, None
    time.sleep(1.3)
    store._refresh = follow
    fail_on(Router.load(tmp_path / "index", encoder=HashEncoder()))
    deadline = time.monotonic() + 5
    while one.route(PROMPT).model != "big" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert one.route(PROMPT).model == "big"


def test_a_decision_that_the_call_moved_and_outcomes_moved_says_both(write_project, tmp_path):
    routes = write_project(
        settings={
            "vote": {"max_distance": 2.0, "min_confidence": 0.0},
            "models": {"tiny": {}, "small": {}, "big": {}},
            "default": {"models": ["tiny", "small", "big"]},
            "escalations": {"store": "sqlite:outcomes.db"},
        },
        routes={},
    )
    build_index(routes, tmp_path / "index", encoder=HashEncoder())
    router = Router.load(tmp_path / "index", encoder=HashEncoder())
    for by in ("ann", "bob", "eve"):
        router.add_outcome(PROMPT, "small", 0.0, by=by)
    decision = router.route(PROMPT, exclude=["tiny"])
    assert (decision.model, decision.reason) == ("big", "escalation")
    assert "rules out 'tiny'" in decision.detail and "instead of 'small'" in decision.detail


def rebuild(write_project, tmp_path, **escalations):
    routes = write_project(
        settings={
            "vote": {"max_distance": 2.0, "min_confidence": 0.0},
            "escalations": {"store": "sqlite:outcomes.db", **escalations},
        }
    )
    build_index(routes, tmp_path / "index", encoder=HashEncoder())


@pytest.fixture
def project(write_project, tmp_path):
    """Build a project with a store; `open_again` loads it as another process would."""

    def make(**escalations):
        rebuild(write_project, tmp_path, **escalations)
        return Router.load(tmp_path / "index", encoder=HashEncoder())

    return make


PROMPT = "where is my refund"


def fail_on(router, prompt=PROMPT, users=("ann", "bob", "eve")):
    return [router.escalate(router.route(prompt), to="big", by=by, why="wrong") for by in users]


def test_escalations_move_the_next_prompt_and_explain_it(project, tmp_path):
    router = project()
    assert router.route(PROMPT).model == "small"
    assert not (tmp_path / "outcomes.db").exists()  # routing alone makes no store
    ids = fail_on(router)
    decision = router.route(PROMPT)
    assert (decision.route, decision.model, decision.reason) == ("billing", "big", "escalation")
    assert decision.fallbacks == ("small",)
    assert {each.id for each in decision.outcomes} == set(ids)
    (small,) = [each for each in decision.candidates if each.model == "small"]
    assert small.quality < 0.5 and small.support == 3.0
    assert json.loads(json.dumps(decision.to_dict()))["outcomes"][0]["model"] == "small"
    assert router.route("hello there").model == "small"
    another = Router.load(tmp_path / "index", encoder=HashEncoder())
    assert another.route(PROMPT).model == "big"


def test_another_process_sees_it_within_a_second(project, tmp_path):
    one = project()
    fail_on(one, "send me an invoice")  # makes the store
    other = Router.load(tmp_path / "index", encoder=HashEncoder())
    assert other.route(PROMPT).model == "small"
    fail_on(one)
    deadline = time.monotonic() + 10.0
    while other.route(PROMPT).model != "big":
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_good_outcomes_keep_it_cheap(project):
    router = project()
    for by in ("ann", "bob", "eve"):
        router.feedback(router.route(PROMPT).id, 1.0, by=by)
    decision = router.route(PROMPT)
    assert (decision.model, decision.reason) == ("small", "match")
    assert decision.candidates[0].quality > 0.8


def test_evidence_cannot_bring_in_a_model_the_call_excludes(project):
    router = project()
    fail_on(router)
    decision = router.route(PROMPT, exclude={"big"})
    assert decision.model == "small" and "big" not in decision.fallbacks


def test_where_all_models_fail_the_best_of_them_serves(project):
    router = project()
    fail_on(router)
    for by in ("ann", "bob", "eve"):
        router.feedback(router.route(PROMPT), 0.2, by=by)
    assert router.route(PROMPT).model == "big"


def test_weights_use_the_estimates(project):
    router = project()
    assert router.route(PROMPT, weights={"quality": 1, "cost": 0.001}).model == "small"
    fail_on(router)
    assert router.route(PROMPT, weights={"quality": 1, "cost": 0.001}).model == "big"
    assert router.route(PROMPT, weights={"quality": 1, "cost": 1}).model == "small"


def test_shadow_mode_changes_nothing_and_says_what_it_would(project):
    router = project(mode="shadow")
    fail_on(router)
    decision = router.route(PROMPT)
    assert (decision.model, decision.reason, decision.shadow) == ("small", "match", "big")
    assert router.route("hello there").shadow is None


def test_ten_thousand_reports_of_one_principal_meet_a_quota_and_change_nothing(project):
    router = project(quota_per_day=20)
    golden = [PROMPT, "hello there", "sort a list", "good morning"]
    before = [router.route(prompt).model for prompt in golden]
    with pytest.raises(QuotaExceeded, match="quota_per_day is 20"):
        for _ in range(10_000):
            router.escalate(router.route(PROMPT), to="big", by="mallory")
    assert [router.route(prompt).model for prompt in golden] == before


def test_reverting_a_principal_restores_the_answers_bit_for_bit(project):
    router = project(min_principals=1)
    for by in ("ann", "bob"):
        router.feedback(router.route(PROMPT), 0.3, by=by)
    prompts = [PROMPT, "hello there", "write a python function", "my refund is late"]

    def answers():
        decisions = [router.route(prompt) for prompt in prompts]
        return [(d.model, d.reason, d.candidates, d.outcomes) for d in decisions]

    before = answers()
    for _ in range(3):
        fail_on(router, users=("mallory",))
    assert answers() != before
    router.memory.say(event(1, "revert", principal="mallory"))
    assert answers() == before


def test_forgetting_what_was_never_stored_changes_nothing(project):
    router = project()
    fail_on(router)
    before = router.route(PROMPT).candidates
    assert router.memory.forget(prompt_hash=b"0" * 32) == 0
    assert router.route(PROMPT).candidates == before and len(router.memory) == 3


def test_a_decision_from_before_another_encoder_cannot_be_judged(write_project, tmp_path):
    settings = {"escalations": {"store": "sqlite:semroute.db"}, "encoder": "static"}
    build_index(write_project(settings=settings), tmp_path / "index")
    router = Router.load(tmp_path / "index")
    decision = router.route("where is my refund")
    build_index(write_project(settings=settings | {"encoder": "minilm"}), tmp_path / "index")
    router.reload()
    with pytest.raises(OutcomeInvalid, match="was made with static"):
        router.feedback(decision, 1.0)
    assert router.feedback(router.route("where is my refund"), 1.0)
    assert len(Router.load(tmp_path / "index").memory) == 1


def test_what_the_log_holds_of_another_encoder_is_not_compared(write_project, tmp_path):
    store = {"store": "sqlite:semroute.db"}
    routes = write_project(settings={"escalations": store, "log": store})
    build_index(routes, tmp_path / "index", encoder=HashEncoder())
    first = Router.load(tmp_path / "index", encoder=HashEncoder())
    identity = first.route(PROMPT).id
    first.close()
    again = Router.load(tmp_path / "index", encoder=HashEncoder())
    assert again.feedback(identity, 1.0, by="ann") and len(again.memory) == 1
    again.close()
    other = HashEncoder()
    other._identity = replace(other.identity, revision="2")  # as many numbers, of another meaning
    build_index(routes, tmp_path / "index", encoder=other)
    third = Router.load(tmp_path / "index", encoder=other)
    assert third.feedback(identity, 0.0, by="bob")  # it stays in the log
    assert len(third.memory) == 0
    third.close()


def test_a_quarantined_principal_does_not_count(project):
    router = project()
    router.memory.say(event(1, "quarantine", principal="bob"))
    fail_on(router, users=("ann", "bob"))
    fail_on(router, users=("ann", "bob"))
    assert router.route(PROMPT).model == "small"


def test_what_cannot_be_stored_is_refused_by_name(project):
    router = project()
    with pytest.raises(UnknownDecision, match="nothing like it"):
        router.feedback("nothing like it", 1.0)
    decision = router.route(PROMPT)
    with pytest.raises(OutcomeInvalid, match="'huge'"):
        router.escalate(decision, to="huge")
    with pytest.raises(OutcomeInvalid, match="score"):
        router.feedback(decision, 2.0)
    with pytest.raises(OutcomeInvalid, match="why"):
        router.escalate(decision, to="big", why="x" * 5_000)
    assert len(router.memory) == 0


def test_without_a_store_feedback_says_what_to_do(write_project):
    router = Router(index.build(load_config(write_project()), HashEncoder()).index, HashEncoder())
    with pytest.raises(StoreUnavailable, match="escalations"):
        router.feedback(router.route(PROMPT), 1.0)


def test_a_corrupt_store_stops_no_routing_and_is_said_once(project, tmp_path, caplog):
    first = project()
    fail_on(first)
    first.close()
    (tmp_path / "outcomes.db").write_bytes(b"no database, but some text" * 200)
    with caplog.at_level(logging.ERROR, logger="semroute"):
        router = Router.load(tmp_path / "index", encoder=HashEncoder())
        for _ in range(20):
            assert router.route(PROMPT).model == "small"
        time.sleep(0.2)
    assert len([r for r in caplog.records if "goes on without" in r.message]) == 1
    with pytest.raises(StoreError):
        router.feedback(router.route(PROMPT), 1.0)


def test_prompt_text_is_kept_only_when_asked_for(project, tmp_path):
    fail_on(project())
    assert PROMPT.encode() not in (tmp_path / "outcomes.db").read_bytes()
    (tmp_path / "outcomes.db").unlink()
    fail_on(project(keep_text=True))
    assert PROMPT.encode() in (tmp_path / "outcomes.db").read_bytes()


def test_replicas_on_postgresql_see_each_others_escalations_within_a_second(write_project, tmp_path):
    server = Postgres()
    try:
        routes = write_project(
            settings={
                "vote": {"max_distance": 2.0, "min_confidence": 0.0},
                "escalations": {"store": server.url()},
            }
        )
        build_index(routes, tmp_path / "index", encoder=HashEncoder())
        one, other = (Router.load(tmp_path / "index", encoder=HashEncoder()) for _ in range(2))
        other.route(PROMPT)  # begins to follow
        fail_on(one)
        since = time.monotonic()
        while other.route(PROMPT).model != "big":
            assert time.monotonic() < since + 10.0
            time.sleep(0.02)
        one.memory.close()
        other.memory.close()
    finally:
        server.remove()


def test_a_forked_child_goes_on_routing_and_writing(project, tmp_path):
    router = project()
    fail_on(router)
    assert router.route(PROMPT).model == "big"
    context = multiprocessing.get_context("fork")
    said = context.Queue()

    def child():
        said.put(router.route(PROMPT).model)
        said.put(router.feedback(router.route("hello there"), 1.0))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that the parent has threads is the point
        process = context.Process(target=child)
        process.start()
    assert said.get(timeout=30) == "big"
    assert len(said.get(timeout=30)) == 26
    process.join(30)
    assert process.exitcode == 0
    said.close()
    said.join_thread()


# The command


@pytest.fixture
def command(write_project, tmp_path):
    routes = write_project(
        settings={
            "vote": {"max_distance": 2.0, "min_confidence": 0.0},
            "escalations": {"store": "sqlite:outcomes.db"},
        }
    )
    build_index(routes, tmp_path / "index")

    def run(*arguments, stdin=""):
        done = subprocess.run(
            [sys.executable, "-m", "semroute", *map(str, arguments)],
            cwd=tmp_path, input=stdin, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert "Traceback" not in done.stderr
        return done

    return run


def test_import_keeps_good_lines_names_bad_ones_and_counts_both(command, tmp_path):
    lines = [
        '{"prompt": "where is my refund", "model": "small", "score": 0}',
        '{"prompt": "where is my refund?", "scores": {"small": 0.0, "big": 1.0}}',
        '{"prompt": "where is the refund", "model": "small", "score": 0}',
        '{"prompt": "where is my refund now", "model": "small", "score": 0}',
        '{"prompt": "bad score", "model": "small", "score": 1.5}',
        '{"prompt": "bad model", "model": "huge", "score": 1}',
        '{"prompt": "both", "model": "small", "score": 1, "scores": {"small": 1}}',
        '{"prompt": "", "model": "small", "score": 1}',
        "not json",
    ]
    (tmp_path / "graded.jsonl").write_text("\n".join(lines))
    done = command("escalations", "import", "graded.jsonl", "--json")
    counts = json.loads(done.stdout)
    assert done.returncode == 2
    assert (counts["lines"], counts["refused"], counts["outcomes"], counts["known"]) == (4, 5, 5, 0)
    assert [problem["line"] for problem in counts["problems"]] == [5, 6, 7, 8, 9]
    assert "graded.jsonl:5:" in done.stderr and "huge" in done.stderr
    again = json.loads(command("escalations", "import", "graded.jsonl", "--json").stdout)
    assert (again["outcomes"], again["known"]) == (0, 5)
    decision = json.loads(command("route", "where is my refund", "--json").stdout)
    assert (decision["model"], decision["reason"]) == ("big", "escalation")


def test_add_list_revert_forget_export(command):
    first = command("escalations", "add", "sort a list", "--model", "small", "--to", "big").stdout.strip()
    command("escalations", "add", "fix this bug", "--model", "big", "--score", "1", "--by", "ann")
    listed = [json.loads(line) for line in command("escalations", "list", "--json").stdout.splitlines()]
    assert [(row["model"], row["score"], row["by"]) for row in listed] == [
        ("small", 0, OPERATOR),
        ("big", 1, "ann"),
    ]
    assert "sort a list" not in json.dumps(listed) and "vector" not in listed[0]
    reverted = json.loads(command("escalations", "revert", "--by", "ann", "--json").stdout)
    assert reverted["fewer"] == 1
    assert [json.loads(line)["id"] for line in command("escalations", "export").stdout.splitlines()] == [
        first
    ]
    assert (
        json.loads(command("escalations", "revert", "--id", reverted["id"], "--json").stdout)["fewer"] == -1
    )
    assert json.loads(command("escalations", "forget", "sort a list", "--json").stdout)["erased"] == 1
    assert command("escalations", "revert").returncode == 2
    assert command("escalations", "add", "x", "--model", "huge").returncode == 2


def test_what_one_command_did_is_said_in_the_singular_and_a_prompt_needs_quotes(command, tmp_path):
    for words in (("add", "sort", "a", "list", "--model", "small"), ("forget", "sort", "a", "list")):
        done = command("escalations", *words)
        assert done.returncode == 2 and "put it in quotes, such as 'sort a list'" in done.stderr
    (tmp_path / "graded.jsonl").write_text('{"prompt": "x y", "model": "small", "score": 1}\nnot json\n')
    told = command("escalations", "import", "graded.jsonl").stdout
    assert told == "graded.jsonl: 1 outcome of 1 line imported, 0 known already, 1 line refused\n"
    command("escalations", "add", "sort a list", "--model", "small", "--by", "ann")
    reverted = command("escalations", "revert", "--by", "ann").stdout
    assert reverted.endswith("1 outcome counts no longer\n")
    done = command("escalations", "revert", "--id", "nonsense")
    assert done.returncode == 2 and "new_ulid" not in done.stderr
    assert command("escalations", "forget", "sort a list").stdout == "1 outcome erased\n"


def test_a_reason_makes_no_line_and_steers_no_terminal_in_the_list(command):
    why = "not\tgood\n01J0\tbig 1\t-\tadmin \x1b[2J"
    command("escalations", "add", "sort a list", "--model", "small", "--to", "big", "--why", why)
    (line,) = command("escalations", "list").stdout.splitlines()
    assert line.split("\t")[4:] == [OPERATOR, r"not good 01J0 big 1 - admin \u001b[2J"]


def test_the_list_shows_when_an_outcome_was_said_and_the_text_where_it_is_kept(write_project, tmp_path):
    kept = {"store": "sqlite:outcomes.db", "keep_text": True}
    build_index(write_project(settings={"escalations": kept}), tmp_path / "index")
    router = Router.load(tmp_path / "index")
    router.add_outcome("fix\tthis\nbug " + "x" * 500 + "\x1b[2J", "small", 0.0)
    done = subprocess.run(
        [sys.executable, "-m", "semroute", "escalations", "list"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    (line,) = done.stdout.splitlines()
    when, identity, *_, why, text = line.split("\t")
    assert datetime.strptime(when, "%Y-%m-%d %H:%M:%S") and len(identity) == 26
    assert why == "-" and text.startswith("fix this bug xxx") and text.endswith(" ...") and len(text) == 120


BAD_GRADES = [
    ('{"prompt": "x", "model": ["a"], "score": 1}', "there is no model"),
    (
        '{"prompt": "x", "model": "small", "score": 1, "why": "%s"}' % ("w" * 2_001),
        "at most 2,000 characters",
    ),
    (r'{"prompt": "x", "model": "small", "score": 1, "why": "a\u0000b"}', "must not hold U+0000"),
    (r'{"prompt": "a\ud800", "model": "small", "score": 1}', "half of a surrogate pair"),
    (r'{"prompt": "\u200b", "model": "small", "score": 1}', "not empty"),
    ('{"prompt": "x", "model": "small", "score": 1, "route": ["a"]}', "there is no route"),
    ('{"prompt": "x", "scores": ["small"]}', "at least one model"),
    ('{"prompt": "x", "model": "small", "score": "1"}', "from 0 to 1"),
    ('{"prompt": "x", "model": "small", "score": 1%s}' % ("0" * 400), "from 0 to 1"),
    ('{"prompt": "x", "model": "small", "score": 1, "by": "ann"}', "the operator's"),
    ('{"prompt": "x", "model": "small", "score": 1, "vector": [1, 0]}', "vectors are made here"),
    ('{"prompt": "x", "model": "small", "score": 1, "encoder": "other"}', "vectors are made here"),
]


def test_what_is_wrong_in_a_file_of_grades_is_named_by_line_and_the_rest_is_kept(command, tmp_path):
    good = '{"prompt": "hello world", "model": "small", "score": 1}'
    lines = [good, *(line for line, _ in BAD_GRADES), good]
    (tmp_path / "graded.jsonl").write_text("\n".join(lines))
    done = command("escalations", "import", "graded.jsonl", "--json")
    counts = json.loads(done.stdout)
    assert done.returncode == 2
    assert (counts["lines"], counts["refused"], counts["outcomes"], counts["known"]) == (2, 12, 1, 1)
    for number, (_, message) in enumerate(BAD_GRADES, 2):
        (line,) = [line for line in done.stderr.splitlines() if line.startswith(f"graded.jsonl:{number}:")]
        assert message in line


def test_what_cannot_be_reverted_or_quarantined_is_refused(command):
    command("escalations", "add", "fix this bug", "--model", "big", "--score", "1", "--by", "ann")
    unknown = str(ulid_of(b"nobody"))
    for arguments in (
        ["revert", "--id", unknown],
        ["revert", "--id", "nope"],
        ["revert", "--since", "yesterday"],
        ["quarantine", "--by", OPERATOR],
        ["add", " ", "--model", "small"],
        ["add", "x", "--model", "small", "--to", "small"],
        ["add", "x", "--model", "small", "--to", "big", "--score", "1"],
    ):
        done = command("escalations", *arguments)
        assert (done.returncode, done.stdout) == (2, ""), arguments
    assert json.loads(command("escalations", "revert", "--since", "1h", "--json").stdout)["fewer"] == 1
