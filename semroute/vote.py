"""Judgement: what the neighbours of a prompt say, and whether that is enough. Pure functions of arrays.

Scores first, decision second: `count` never looks at a threshold and `judge` never reorders routes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from semroute.decision import Neighbor, Reason, Vote

if TYPE_CHECKING:
    from numpy.typing import NDArray

TEMPERATURE = 0.05
"""Of the softmax over similarities: a neighbour nearer by 0.05 weighs e times as much."""

NO_VOTE = Vote(scores={}, neighbors=(), similarity=None, margin=None, confidence=0.0)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a vote must reach. `max_distance` in [0, 2], `min_confidence` in [0, 1]."""

    max_distance: float
    min_confidence: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the best route of a vote wins, and one sentence that says why or why not."""

    accepted: bool
    reason: Reason
    detail: str


def count(
    similarities: NDArray[np.float32],
    routes: NDArray[np.int64],
    names: Sequence[str],
    utterances: Sequence[str],
) -> Vote:
    """Let the neighbours of one prompt vote, each with weight exp(similarity / TEMPERATURE).

    similarities: (k,) cosines, in any order.
    routes: (k,) the route of each neighbour, as an index into `names`.
    names: every route, in the order of the config.
    utterances: the k texts of the neighbours.

    Similarities count to six digits, below which float32 says nothing; equal ones, and equal scores, are
    ordered by the route's place in the config, so that the winner of a tie is the route declared first.
    """
    if len(similarities) == 0:
        return NO_VOTE
    cosines = np.clip(np.round(similarities.astype(np.float64), 6), -1.0, 1.0)
    order = np.lexsort((routes, -cosines))
    cosines, routes = cosines[order], routes[order]
    weights = np.exp((cosines - cosines[0]) / TEMPERATURE)
    totals = np.bincount(routes, weights=weights, minlength=len(names))
    shares = np.round(totals / weights.sum(), 9)
    voted = np.flatnonzero(totals)
    ranked = voted[np.argsort(-shares[voted], kind="stable")]
    best = shares[ranked].tolist()
    neighbors = tuple(
        Neighbor(names[route], utterances[place], cosine)
        for route, place, cosine in zip(routes.tolist(), order.tolist(), cosines.tolist(), strict=True)
    )
    return Vote(
        scores={names[route]: share for route, share in zip(ranked.tolist(), best, strict=True)},
        neighbors=neighbors,
        similarity=neighbors[0].similarity,
        margin=best[0] - (best[1] if len(best) > 1 else 0.0),
        confidence=best[0],
    )


def judge(vote: Vote, limits: Limits) -> Verdict:
    """Accept the best route of `vote`, or say which limit it missed and by how much."""
    if vote.best is None or vote.similarity is None:
        return Verdict(accepted=False, reason="too_far", detail="No utterance may vote.")
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
