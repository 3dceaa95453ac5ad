"""The vote is a pure function of its neighbours, the verdict one of the vote and the limits."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semroute.vote import NO_VOTE, TEMPERATURE, Limits, count, judge

NAMES = ("alpha", "beta", "gamma")
OPEN = Limits(max_distance=2.0, min_confidence=0.0)

neighbours = st.lists(
    st.tuples(st.floats(-1, 1, width=32), st.integers(0, len(NAMES) - 1)), min_size=1, max_size=30
)


def cast(pairs):
    similarities = [round(cosine, 6) for cosine, _ in pairs]
    routes = [route for _, route in pairs]
    return count(similarities, routes, [f"text {n}" for n in range(len(pairs))], NAMES)


@given(neighbours)
def test_scores_are_shares_best_first(pairs):
    vote = cast(pairs)
    scores = list(vote.scores.values())
    assert sum(scores) == pytest.approx(1.0, abs=1e-6)
    assert scores == sorted(scores, reverse=True)
    assert vote.scores.keys() == {NAMES[route] for _, route in pairs}
    assert vote.confidence == scores[0] == vote.scores[vote.best]
    assert vote.margin == pytest.approx(scores[0] - (scores[1] if len(scores) > 1 else 0.0))


@given(neighbours)
def test_neighbours_come_nearest_first_and_the_nearest_gives_the_similarity(pairs):
    vote = cast(pairs)
    similarities = [neighbor.similarity for neighbor in vote.neighbors]
    assert similarities == sorted(similarities, reverse=True)
    assert vote.similarity == similarities[0] == pytest.approx(max(pairs)[0], abs=1e-6)
    assert all(-1.0 <= similarity <= 1.0 for similarity in similarities)


@given(neighbours, st.randoms())
def test_the_order_in_which_neighbours_are_found_changes_nothing(pairs, random):
    shuffled = pairs.copy()
    random.shuffle(shuffled)
    one, other = cast(pairs), cast(shuffled)
    assert one.scores == pytest.approx(other.scores, abs=1e-8)
    assert [(n.route, n.similarity) for n in one.neighbors] == [
        (n.route, n.similarity) for n in other.neighbors
    ]
    assert one.best == other.best


@given(neighbours)
def test_one_more_neighbour_of_the_winner_never_costs_it_the_win(pairs):
    vote = cast(pairs)
    again = cast([*pairs, (vote.similarity, NAMES.index(vote.best))])
    assert again.best == vote.best


def test_a_neighbour_nearer_by_the_temperature_weighs_e_times_as_much():
    vote = cast([(0.9, 0), (0.9 - TEMPERATURE, 1)])
    assert vote.scores["alpha"] / vote.scores["beta"] == pytest.approx(math.e, rel=1e-4)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_of_equal_votes_the_route_declared_first_wins(order):
    vote = cast([(0.7, route) for route in order])
    assert vote.best == "alpha"
    assert [neighbor.route for neighbor in vote.neighbors] == ["alpha", "beta", "gamma"]
    assert vote.margin == 0.0


def test_no_neighbour_is_no_vote():
    assert count([], [], [], NAMES) == NO_VOTE
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
    ],
)
def test_limits(limits, accepted, reason):
    verdict = judge(cast([(0.7, 0), (0.6, 1)]), limits)
    assert (verdict.accepted, verdict.reason) == (accepted, reason)


def test_a_refusal_names_the_limit_and_by_how_much_it_was_missed():
    too_far = judge(cast([(0.4, 1)]), Limits(0.5, 0.0)).detail
    assert "'beta'" in too_far and "0.600" in too_far and "0.100 beyond max_distance 0.500" in too_far
    unsure = judge(cast([(0.7, 0), (0.7, 1)]), Limits(1.0, 0.8)).detail
    assert "'alpha'" in unsure and "0.500" in unsure and "0.300 below min_confidence 0.800" in unsure


@given(neighbours, st.floats(0, 2), st.floats(0, 1))
def test_a_stricter_limit_never_accepts_more(pairs, distance, confidence):
    vote = cast(pairs)
    if judge(vote, Limits(distance, confidence)).accepted:
        assert judge(vote, Limits(min(2.0, distance + 0.1), confidence)).accepted
        assert judge(vote, Limits(distance, max(0.0, confidence - 0.1))).accepted
