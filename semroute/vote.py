"""Judgement: what the neighbours of a prompt say, and whether that is enough. Pure functions.

Scores first, decision second: `count` never looks at a threshold and `judge` never reorders routes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from semroute.decision import Neighbor, Reason, Vote

TEMPERATURE = 0.05
"""Of the softmax over similarities: a neighbour nearer by 0.05 weighs e times as much."""

NO_VOTE = Vote(scores={}, neighbors=(), similarity=None, margin=None, confidence=0.0)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a vote must reach. `max_distance` in [0, 2], `min_confidence` in [0, 1]."""

    max_distance: float
    min_confidence: float


class Verdict(NamedTuple):
    """Whether the best route of a vote wins, and one sentence that says why or why not."""

    accepted: bool
    reason: Reason
    detail: str


def count(
    similarities: Sequence[float], routes: Sequence[int], utterances: Sequence[str], names: Sequence[str]
) -> Vote:
    """Let the neighbours of one prompt vote, each with weight exp(similarity / TEMPERATURE).

    similarities: cosines, rounded to what they mean, in any order.
    routes: the route of each neighbour, as an index into `names`.
    utterances: the text of each.
    names: every route, in the order of the config.

    Equal similarities, and equal scores, are ordered by the route's place in the config, so that the winner
    of a tie is the route declared first.
    """
    # Plain Python: for the twenty numbers of one prompt it takes half the time of numpy.
    ranked = sorted(zip([-cosine for cosine in similarities], routes, utterances, strict=True))
    if not ranked:
        return NO_VOTE
    nearest = ranked[0][0]
    weights: dict[int, float] = {}
    for negative, route, _ in ranked:
        weights[route] = weights.get(route, 0.0) + math.exp((nearest - negative) / TEMPERATURE)
    total = sum(weights.values())
    shares = sorted([(-round(weight / total, 9), route) for route, weight in weights.items()])
    best = -shares[0][0]
    return Vote(
        scores={names[route]: -negative for negative, route in shares},
        neighbors=tuple([Neighbor(names[route], text, -negative) for negative, route, text in ranked]),
        similarity=-nearest,
        margin=best + (shares[1][0] if len(shares) > 1 else 0.0),
        confidence=best,
    )


def judge(vote: Vote, limits: Limits) -> Verdict:
    """Accept the best route of `vote`, or say which limit it missed and by how much."""
    if vote.best is None or vote.similarity is None:
        return Verdict(accepted=False, reason="too_far", detail="There is no utterance to compare with.")
    distance = round(1.0 - vote.similarity, 6)
    if distance > limits.max_distance:
        return Verdict(
            accepted=False,
            reason="too_far",
            detail=f"The nearest utterance, of {vote.neighbors[0].route!r}, is at distance {distance:.3f}, "
            f"{distance - limits.max_distance:.3f} beyond max_distance {limits.max_distance:.3f}.",
        )
    if vote.confidence < limits.min_confidence:
        return Verdict(
            accepted=False,
            reason="low_confidence",
            detail=f"{vote.best!r} has confidence {vote.confidence:.3f}, "
            f"{limits.min_confidence - vote.confidence:.3f} below min_confidence "
            f"{limits.min_confidence:.3f}.",
        )
    return Verdict(
        accepted=True,
        reason="match",
        detail=f"{vote.best!r} has {vote.confidence:.0%} of the vote of {len(vote.neighbors)} neighbours; "
        f"the nearest utterance is at distance {distance:.3f}.",
    )
