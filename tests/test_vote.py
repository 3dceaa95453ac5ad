"""The vote is a pure function of neighbours, vector and fitted numbers; the verdict one of vote and limits."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semroute.vote import (
    NO_VOTE,
    TEMPERATURE,
    Asked,
    Evidence,
    Fitted,
    Head,
    Judge,
    LeftOut,
    Limits,
    judge,
    rank,
)

NAMES = ("alpha", "beta", "gamma")
MANY = tuple(f"route {n}" for n in range(15))
OPEN = Limits(max_distance=2.0, min_confidence=0.0)
CERTAIN = Evidence(intercept=50.0, nearness=0.0, centrality=0.0, logit=0.0)
DIM = 4
ROUNDING = 3e-6  # of three scores, each rounded twice to 6 places

neighbours = st.lists(
    st.tuples(st.floats(-1, 1, width=32), st.integers(0, len(NAMES) - 1)), min_size=1, max_size=30
)
slopes = st.floats(0, 10)
evidences = st.builds(Evidence, st.floats(-5, 5), slopes, slopes, slopes)
seeds = st.integers(0, 2**32 - 1)


def fitted(evidence=CERTAIN, head=None, count=3, centroids=None, scale=1.0):
    return Fitted(
        left_out=LeftOut.none(),
        head=head,
        vote_scale=scale,
        centroids=np.eye(count, DIM, dtype=np.float32) if centroids is None else centroids,
        evidence=evidence,
        max_distance=2.0,
        min_confidence=0.0,
        route_min_confidence=(0.0,) * count,
        method="by hand",
        on="nothing",
    )


def random_head(seed, count=3):
    rng = np.random.default_rng(seed)
    return Head(
        rng.normal(size=(count, DIM)).astype(np.float32) * 3, rng.normal(size=count).astype(np.float32)
    )


def random_vector(seed):
    vector = np.random.default_rng([seed, 1]).normal(size=DIM)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def texts(pairs):
    return [f"text {n}" for n in range(len(pairs))]


def ranked(pairs):
    return rank([round(cosine, 6) for cosine, _ in pairs], [route for _, route in pairs], texts(pairs), NAMES)


def cast(pairs, numbers=None, vector=None, only=None, names=NAMES):
    judging = Judge(fitted(count=len(names)) if numbers is None else numbers, names)
    vector = np.eye(DIM, dtype=np.float32)[0] if vector is None else vector
    return judging.vote(
        [round(cosine, 6) for cosine, _ in pairs], [route for _, route in pairs], texts(pairs), vector, only
    )


# rank


@given(neighbours)
def test_shares_are_of_the_routes_that_voted_and_sum_to_one(pairs):
    shares = ranked(pairs).shares
    assert sum(shares.values()) == pytest.approx(1.0, abs=1e-9)
    assert shares.keys() == {route for _, route in pairs}
    assert all(0.0 < share <= 1.0 for share in shares.values())


@given(neighbours)
def test_neighbours_come_nearest_first_and_none_is_lost(pairs):
    found = ranked(pairs).neighbors
    similarities = [neighbor.similarity for neighbor in found]
    assert similarities == sorted(similarities, reverse=True)
    assert {(n.utterance, n.route) for n in found} == {
        (text, NAMES[route]) for text, (_, route) in zip(texts(pairs), pairs, strict=True)
    }


def test_a_neighbour_nearer_by_the_temperature_weighs_e_times_as_much():
    shares = ranked([(0.9, 0), (0.9 - TEMPERATURE, 1)]).shares
    assert shares[0] / shares[1] == pytest.approx(math.e, rel=1e-4)


@given(neighbours, st.randoms())
def test_the_order_in_which_neighbours_are_found_changes_no_share(pairs, random):
    shuffled = pairs.copy()
    random.shuffle(shuffled)
    one, other = ranked(pairs), ranked(shuffled)
    assert one.shares == pytest.approx(other.shares, abs=1e-9)
    assert [(n.route, n.similarity) for n in one.neighbors] == [
        (n.route, n.similarity) for n in other.neighbors
    ]


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_equal_neighbours_come_in_the_order_of_the_config(order):
    found = ranked([(0.7, route) for route in order])
    assert [neighbor.route for neighbor in found.neighbors] == ["alpha", "beta", "gamma"]
    assert list(found.shares.values()) == pytest.approx([1 / 3] * 3)


# Judge


@pytest.mark.parametrize("has_head", [False, True])
@given(neighbours, evidences, seeds)
def test_scores_are_probabilities_best_first(has_head, pairs, evidence, seed):
    vote = cast(pairs, fitted(evidence, random_head(seed) if has_head else None), random_vector(seed))
    scores = list(vote.scores.values())
    assert scores and vote.scores.keys() <= set(NAMES)
    assert all(0.0 <= score <= 1.0 for score in scores)
    assert sum(scores) <= 1.0 + ROUNDING
    assert scores == sorted(scores, reverse=True)
    assert vote.confidence == scores[0] == vote.scores[vote.best]
    assert vote.margin == pytest.approx(scores[0] - (scores[1] if len(scores) > 1 else 0.0))
    assert vote.similarity == vote.neighbors[0].similarity == max(round(cosine, 6) for cosine, _ in pairs)
    assert vote.neighbors == ranked(pairs).neighbors


@given(neighbours, evidences, seeds)
def test_what_is_missing_to_one_is_the_probability_of_no_route(pairs, evidence, seed):
    pairs = [(min(cosine, 0.99), route) for cosine, route in pairs]  # no utterance, word for word
    evidence = replace(evidence, nearness=0.0, centrality=0.0, logit=0.0)
    vote = cast(pairs, fitted(evidence, random_head(seed)), random_vector(seed))
    assert sum(vote.scores.values()) == pytest.approx(1 / (1 + math.exp(-evidence.intercept)), abs=ROUNDING)


def test_of_many_routes_the_likeliest_are_listed():
    pairs = [(0.5 + 0.02 * route, route) for route in range(15)]
    scores = cast(pairs, names=MANY).scores
    assert list(scores) == [MANY[route] for route in reversed(range(5, 15))]
    assert sum(scores.values()) < 1.0


@given(neighbours, evidences, seeds, st.randoms())
def test_the_order_in_which_neighbours_are_found_changes_no_score(pairs, evidence, seed, random):
    shuffled = pairs.copy()
    random.shuffle(shuffled)
    numbers, vector = fitted(evidence, random_head(seed)), random_vector(seed)
    one, other = cast(pairs, numbers, vector), cast(shuffled, numbers, vector)
    for name in NAMES:
        assert one.scores.get(name, 0.0) == pytest.approx(other.scores.get(name, 0.0), abs=ROUNDING)


@given(neighbours)
def test_one_more_neighbour_of_the_winner_never_costs_it_the_win(pairs):
    vote = cast(pairs)
    again = cast([*pairs, (vote.similarity, NAMES.index(vote.best))])
    assert again.best == vote.best


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
@pytest.mark.parametrize("head", [None, Head(np.ones((3, DIM), np.float32), np.zeros(3, np.float32))])
def test_of_equal_votes_the_route_declared_first_wins(order, head):
    vote = cast([(0.7, route) for route in order], fitted(head=head))
    assert list(vote.scores) == list(NAMES)
    assert vote.margin == 0.0


@pytest.mark.parametrize("tied", [11, 12, 15])
def test_of_more_equal_votes_than_are_listed_the_route_declared_first_wins(tied):
    vote = cast([(0.7, route) for route in reversed(range(tied))], names=MANY)
    assert vote.best == MANY[0]
    assert vote.margin == 0.0


@pytest.mark.parametrize("has_head", [False, True])
@given(neighbours, evidences, seeds, st.sets(st.integers(0, len(NAMES) - 1), min_size=1, max_size=len(NAMES)))
def test_only_restricts(has_head, pairs, evidence, seed, only):
    pairs = [pair for pair in pairs if pair[1] in only] or [(0.5, min(only))]
    numbers = fitted(evidence, random_head(seed) if has_head else None)
    vector = random_vector(seed)
    vote, free = cast(pairs, numbers, vector, only), cast(pairs, numbers, vector)
    assert vote.scores.keys() <= {NAMES[route] for route in only}
    assert vote.neighbors == free.neighbors
    assert cast(pairs, numbers, vector, range(len(NAMES))) == free


@pytest.mark.parametrize("intercept", [-30.0, 0.0])
def test_no_forbidden_route_wins_however_unlikely_the_others_are(intercept):
    vote = cast([(0.1, 2)], fitted(Evidence(intercept, 0.0, 0.0, 0.0)), only={2})
    assert vote.scores.keys() == {"gamma"}
    assert vote.margin == vote.confidence


def test_a_route_without_an_example_never_wins_by_the_head():
    head = Head(np.zeros((3, DIM), np.float32), np.array([-np.inf, 0.0, 1.0], np.float32))
    vote = cast([(0.2, 1)], fitted(head=head))
    assert vote.scores.keys() == {"beta", "gamma"}
    assert sum(vote.scores.values()) == pytest.approx(1.0, abs=ROUNDING)


def test_the_head_may_name_a_route_without_a_neighbour():
    head = Head(np.zeros((3, DIM), np.float32), np.array([0.0, 0.0, 9.0], np.float32))
    assert cast([(0.9, 0), (0.8, 1)], fitted(head=head)).best == "gamma"
    assert cast([(0.9, 0), (0.8, 1)], fitted(head=head.scaled(0.01))).best == "alpha"


def test_the_vote_moves_what_the_head_leaves_open():
    head = Head(np.zeros((3, DIM), np.float32), np.zeros(3, np.float32))
    weak, strong = (cast([(0.9, 1)], fitted(head=head, scale=scale)) for scale in (0.3, 3.0))
    assert weak.best == strong.best == "beta"
    assert strong.confidence > weak.confidence > 1 / 3


# evidence


@given(evidences, st.tuples(*[st.floats(-3, 3)] * 3), st.tuples(*[st.floats(0, 3)] * 3))
def test_more_evidence_never_makes_a_prompt_less_likely_to_belong(evidence, values, more):
    low = evidence.probability(*values)
    high = evidence.probability(*(value + extra for value, extra in zip(values, more, strict=True)))
    assert 0.0 <= low <= 1.0 and 0.0 <= high <= 1.0
    assert high >= low - 1e-12


@given(evidences, st.lists(st.floats(-3, 3), min_size=1, max_size=5))
def test_evidence_of_arrays_is_that_of_numbers(evidence, values):
    array = np.array(values)
    assert evidence.probability(array, array, array) == pytest.approx(
        [evidence.probability(value, value, value) for value in values]
    )


def test_evidence_is_a_logistic_function():
    evidence = Evidence(intercept=-1.0, nearness=2.0, centrality=3.0, logit=0.5)
    assert evidence.probability(0.5, 0.25, 2.0) == pytest.approx(1 / (1 + math.exp(-1.75)))
    assert evidence.probability(1e6, 0.0, 0.0) == 1.0
    assert evidence.probability(-1e6, 0.0, 0.0) == 0.0


@given(neighbours, evidences, seeds, st.floats(0, 0.5))
def test_nearer_neighbours_never_lower_confidence(pairs, evidence, seed, nearer):
    numbers, vector = fitted(evidence, random_head(seed)), random_vector(seed)
    pairs = [(cosine / 2, route) for cosine, route in pairs]
    far, near = (
        cast([(cosine + extra, route) for cosine, route in pairs], numbers, vector)
        for extra in (0.0, round(nearer, 6))
    )
    assert near.confidence >= far.confidence - 1e-4  # similarities are rounded: shares move a little


@given(neighbours, evidences, seeds, st.floats(0, 2))
def test_a_nearer_centroid_never_lowers_confidence(pairs, evidence, seed, nearer):
    head, vector = random_head(seed), random_vector(seed)
    far, near = (
        cast(
            pairs,
            fitted(evidence, head, centroids=np.tile(np.float32(scale) * vector, (len(NAMES), 1))),
            vector,
        )
        for scale in (-1.0, nearer - 1.0)
    )
    assert near.confidence >= far.confidence - ROUNDING


@given(neighbours, evidences, seeds, st.floats(0, 5))
def test_a_higher_logit_of_all_routes_never_lowers_confidence(pairs, evidence, seed, more):
    head, vector = random_head(seed), random_vector(seed)
    higher = Head(head.weights, head.bias + np.float32(more))
    low, high = (cast(pairs, fitted(evidence, one), vector) for one in (head, higher))
    assert high.confidence >= low.confidence - 1e-5  # biases are float32


def test_each_kind_of_evidence_reaches_the_confidence():
    pairs = [(0.6, 0), (0.4, 1)]
    head = Head(np.zeros((3, DIM), np.float32), np.array([2.0, 0.0, 0.0], np.float32))
    plain = cast(pairs, fitted(Evidence(0.0, 0.0, 0.0, 0.0), head))
    for column, value in enumerate((0.5, 1.0, 2.0)):  # mean similarity, similarity to alpha, logit of alpha
        evidence = Evidence(0.0, *(1.0 if place == column else 0.0 for place in range(3)))
        vote = cast(pairs, fitted(evidence, head))
        factor = 2 / (1 + math.exp(-value))
        assert vote.confidence == pytest.approx(plain.confidence * factor, abs=ROUNDING)


@pytest.mark.parametrize("has_head", [False, True])
@given(neighbours, evidences, evidences, seeds)
def test_evidence_never_reorders_the_routes(has_head, pairs, evidence, other, seed):
    head, vector = random_head(seed) if has_head else None, random_vector(seed)
    one, two = (cast(pairs, fitted(each, head), vector).scores for each in (evidence, other))
    for first in NAMES:
        for second in NAMES:  # rounding makes ties, but turns nothing round
            ahead = one.get(first, 0.0) - one.get(second, 0.0)
            assert ahead <= 0.0 or two.get(first, 0.0) >= two.get(second, 0.0)


@pytest.mark.parametrize("intercept", [-30.0, -15.0, -5.0, 0.0, 5.0])
def test_the_best_route_does_not_depend_on_how_likely_it_is_that_one_is_right(intercept):
    vote = cast([(0.5, 1), (0.3, 0)], fitted(Evidence(intercept, 0.0, 0.0, 0.0)))
    assert vote.best == "beta"


# limits


def test_no_neighbour_is_no_vote():
    assert cast([]) == NO_VOTE
    verdict = judge(NO_VOTE, OPEN)
    assert (verdict.accepted, verdict.reason) == (False, "too_far")


@pytest.mark.parametrize(
    ("limits", "accepted", "reason"),
    [
        (OPEN, True, "match"),
        (Limits(0.3, 0.0), True, "match"),
        (Limits(0.29, 0.0), False, "too_far"),
        (Limits(0.3, 0.99), False, "low_confidence"),
        (Limits(0.29, 0.99), False, "too_far"),
        (Limits(0.3, 0.0, 0.3), True, "match"),
        (Limits(0.3, 0.0, 0.999), False, "low_confidence"),
        (Limits(0.29, 0.0, 0.999), False, "too_far"),
    ],
)
def test_limits(limits, accepted, reason):
    verdict = judge(cast([(0.7, 0), (0.6, 1)]), limits)
    assert (verdict.accepted, verdict.reason) == (accepted, reason)


def test_a_refusal_names_the_limit_and_by_how_much_it_was_missed():
    too_far = judge(cast([(0.4, 1)]), Limits(0.5, 0.0)).detail
    assert "'beta'" in too_far and "0.600" in too_far and "0.100 beyond max_distance 0.500" in too_far
    pair = fitted(count=2)
    unsure = judge(cast([(0.7, 0), (0.7, 1)], pair, names=NAMES[:2]), Limits(1.0, 0.8)).detail
    assert "'alpha'" in unsure and "0.500" in unsure and "0.300 below min_confidence 0.800" in unsure
    other = judge(cast([(0.7, 0), (0.69, 1), (0.69, 1)], pair, names=NAMES[:2]), Limits(1.0, 0.0))
    assert "the nearest utterance, of 'alpha', is at distance 0.300" in other.detail
    torn = judge(cast([(0.7, 0), (0.7, 1)], pair, names=NAMES[:2]), Limits(1.0, 0.2, 0.1)).detail
    assert "0.000 before the next, 0.100 below min_margin 0.100" in torn


@given(neighbours, st.floats(0, 2), st.floats(0, 1), st.floats(0, 1))
def test_a_stricter_limit_never_accepts_more(pairs, distance, confidence, margin):
    vote = cast(pairs)
    if judge(vote, Limits(distance, confidence, margin)).accepted:
        assert judge(vote, Limits(min(2.0, distance + 0.1), confidence, margin)).accepted
        assert judge(vote, Limits(distance, max(0.0, confidence - 0.1), margin)).accepted
        assert judge(vote, Limits(distance, confidence, max(0.0, margin - 0.1))).accepted
    else:
        assert not judge(vote, Limits(max(0.0, distance - 0.1), confidence, margin)).accepted
        assert not judge(vote, Limits(distance, min(1.0, confidence + 0.1), margin)).accepted
        assert not judge(vote, Limits(distance, confidence, min(1.0, margin + 0.1))).accepted


@given(neighbours, evidences, seeds, st.integers(0, len(NAMES) - 1))
def test_a_prompt_that_is_an_utterance_goes_to_its_route_whatever_was_learnt(pairs, evidence, seed, route):
    judging = Judge(fitted(evidence, random_head(seed)), NAMES)
    cosines, routes = [round(cosine, 6) for cosine, _ in pairs], [route for _, route in pairs]
    vote = judging.vote(cosines, routes, texts(pairs), random_vector(seed), written=[route])
    assert vote.best == NAMES[route] and vote.confidence > 0.8


def test_an_utterance_of_two_routes_belongs_to_either_as_likely():
    vote = Judge(fitted(), NAMES).vote([1.0, 1.0], [1, 2], ["a", "a"], random_vector(1), written=[1, 2])
    assert vote.best == "beta" and abs(vote.scores["beta"] - vote.scores["gamma"]) < 1e-6
    assert vote.confidence < 0.51


@given(neighbours, evidences, seeds)
def test_the_more_parts_of_a_text_are_judged_the_less_sure_each_is(pairs, evidence, seed):
    judging = Judge(fitted(evidence, random_head(seed)), NAMES)
    cosines, routes = [round(cosine, 6) for cosine, _ in pairs], [route for _, route in pairs]
    one, three = (
        judging.vote(cosines, routes, texts(pairs), random_vector(seed), chances=chances)
        for chances in (1, 3)
    )
    assert three.confidence <= one.confidence + ROUNDING
    assert one.best is None or three.best is None or three.best == one.best


@pytest.mark.parametrize("count", [3, 9, 40, 151])
@pytest.mark.parametrize("has_head", [True, False])
def test_prompts_voted_on_together_get_to_the_last_digit_the_votes_they_get_alone(count, has_head):
    names, rng = tuple(f"route {n}" for n in range(count)), np.random.default_rng(count)
    head = Head(
        rng.normal(size=(count, 37)).astype(np.float32) * 3, rng.normal(size=count).astype(np.float32)
    )
    evidence = Evidence(0.3, 2.0, 1.0, 0.2)
    centroids = rng.normal(size=(count, DIM)).astype(np.float32)
    judging = Judge(fitted(evidence, head if has_head else None, count, centroids), names)
    asked = []
    for place in range(101):
        near = int(rng.integers(0, 21))
        asked.append(
            Asked(
                np.round(np.sort(rng.uniform(-1, 1, near))[::-1], 6).tolist(),
                rng.integers(0, count, near).tolist(),
                [f"text {n}" for n in range(near)],
                random_vector(place),
                rng.normal(size=37).astype(np.float32),
                written=(place % count,) if place % 7 == 0 else (),
                chances=1 + place % 3,
            )
        )
    for only in (None, {0, 2}):
        assert judging.votes(asked, only) == [judging.votes([one], only)[0] for one in asked]
