"""Judgement: what the neighbours of a prompt and the fitted head say, and whether that is enough. Pure.

    neighbours -> shares of the vote -+
    vector -> head ------------------+-> probability of each route -> limits -> Verdict
    how near it all is -> evidence --+

Scores first, decision second: `Judge.votes` never looks at a limit and `judge` never reorders routes.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from semroute.decision import Neighbor, Reason, Vote

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]

TEMPERATURE = 0.05
"""Of the softmax over similarities: a neighbour nearer by 0.05 weighs e times as much."""

SHARE_FLOOR = 0.02
"""Added to every share of the vote, so that a route without a neighbour stays possible."""

NEAREST = 5
"""So many of the nearest utterances say how near a prompt is."""

_SURE = 3.0
"""By how much, in logits, the route of a prompt that is an utterance leads the others: what people wrote down
outweighs what was learnt."""

_LISTED = 10
"""At most so many routes are listed in a vote: those with the highest probability."""

NO_VOTE = Vote(scores={}, neighbors=(), similarity=None, margin=None, confidence=0.0)


WORDS_WEIGHT = 0.5
"""Of the vector of a prompt's words beside the encoder's own, in what the head looks at."""


def head_view(vectors: Vectors, words: Vectors | None) -> Vectors:
    """What the head looks at, (n, dim + words) float32: the vectors, and half those of the words.

    words: (n, words) float32 unit rows of a second encoder, of the words alone; None where there is none.
    """
    return vectors if words is None else np.concatenate([vectors, np.float32(WORDS_WEIGHT) * words], axis=1)


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """A log-linear head.

    weights: (routes, width) float32, over what `head_view` gives.
    bias: (routes,) float32, minus infinity where a route had no example.
    """

    weights: Vectors
    bias: Vectors

    def scaled(self, factor: float) -> Head:
        """The same head at another temperature."""
        return Head(self.weights * np.float32(factor), self.bias * np.float32(factor))


@dataclass(frozen=True, slots=True)
class Evidence:
    """How likely a prompt belongs to any route: a logistic function of how near it is to them.

    intercept; and the slopes, never negative, of the mean similarity of the nearest utterances, of the
    similarity to the centroid of the likeliest route, and of the head's highest logit.
    """

    intercept: float
    nearness: float
    centrality: float
    logit: float

    def probability(self, nearness: Any, centrality: Any, logit: Any) -> Any:
        """In [0, 1]; of numbers or of arrays of one shape."""
        value = self.intercept + self.nearness * nearness + self.centrality * centrality + self.logit * logit
        return 0.5 * (1.0 + np.tanh(0.5 * value))


@dataclass(frozen=True, slots=True, eq=False)
class LeftOut:
    """How utterances were judged by a head and neighbours that did not know them, when these were fitted.

    Of many utterances a sample, of a single one none. Arrays have shape (m,).

    rows: int64, which utterance, in the order of the config.
    routes: int64, the best route, as an index into the routes of the config. It may be missing for a route
        that was left out with the utterance, which those close to its own never are.
    confidence: float64, in [0, 1]. similarity: float64, cosine to the nearest utterance, -1 without one.
    """

    rows: NDArray[np.int64]
    routes: NDArray[np.int64]
    confidence: NDArray[np.float64]
    similarity: NDArray[np.float64]

    @classmethod
    def none(cls) -> LeftOut:
        """No utterance."""
        numbers, values = np.empty(0, np.int64), np.empty(0)
        return cls(numbers, numbers, values, values)


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """The numbers fitted at build.

    head: already at its temperature; None where the vote alone decides.
    vote_scale: factor of the logarithm of the shares of the vote.
    centroids: (routes, dim) float32, the mean direction of each route, zero where it has no example.
    max_distance: cosine distance in [0, 2] to the nearest utterance above which the default serves.
    min_confidence: in [0, 1]; below it the default serves. route_min_confidence: the same for each route.
    left_out: how the utterances were judged that were left out in turn; says how good the routes are, and
        decides nothing.
    method, on: what was fitted, and on what, for people.
    """

    head: Head | None
    vote_scale: float
    centroids: Vectors
    evidence: Evidence
    max_distance: float
    min_confidence: float
    route_min_confidence: tuple[float, ...]
    left_out: LeftOut
    method: str
    on: str


@dataclass(frozen=True, slots=True)
class Limits:
    """What a vote must reach. `max_distance` in [0, 2], `min_confidence` and `min_margin` in [0, 1]."""

    max_distance: float
    min_confidence: float
    min_margin: float = 0.0


class Verdict(NamedTuple):
    """Whether the best route of a vote wins, and one sentence that says why or why not."""

    accepted: bool
    reason: Reason
    detail: str


class _Ranked(NamedTuple):
    """Neighbours, nearest first, and the share of the vote of each route they belong to."""

    neighbors: tuple[Neighbor, ...]
    shares: dict[int, float]


def rank(
    similarities: Sequence[float], routes: Sequence[int], utterances: Sequence[str], names: Sequence[str]
) -> _Ranked:
    """Let the neighbours of one prompt vote, each with weight exp(similarity / TEMPERATURE).

    similarities: cosines, rounded to what they mean, in any order.
    routes: the route of each neighbour, as an index into `names`.
    utterances: the text of each.
    names: every route, in the order of the config.

    Equal similarities are ordered by the route's place in the config.
    """
    # Plain Python: for the twenty numbers of one prompt it takes half the time of numpy.
    ranked = sorted(zip([-cosine for cosine in similarities], routes, utterances, strict=True))
    weights: dict[int, float] = {}
    for negative, route, _ in ranked:
        weights[route] = weights.get(route, 0.0) + math.exp((ranked[0][0] - negative) / TEMPERATURE)
    total = sum(weights.values())
    return _Ranked(
        tuple(map(Neighbor._make, [(names[route], text, -negative) for negative, route, text in ranked])),
        {route: weight / total for route, weight in weights.items()},
    )


class Asked(NamedTuple):
    """A prompt to vote on.

    similarities, routes, utterances: of its neighbours, see `rank`. vector: (dim,) float32, its own.
    view: (width,) float32, its row of `head_view`.
    written: the routes that have the prompt, word for word, as an utterance: one of them is right, and which
        of several nobody knows.
    chances: how many parts of a text are judged, of which the surest decides. As many chances to look like a
        route by accident divide the odds of belonging to one.
    """

    similarities: Sequence[float]
    routes: Sequence[int]
    utterances: Sequence[str]
    vector: Vectors
    view: Vectors
    written: Collection[int] = ()
    chances: int = 1


class Judge:
    """Turns the neighbours of a prompt into a probability for each route.

    The probability of a route is that of belonging to any route (`Evidence`) times that of the route among
    all (a softmax over head and vote). What is missing to 1 is the probability that no route is right.
    """

    def __init__(self, fitted: Fitted, names: Sequence[str]) -> None:
        """Judge with `fitted` over the routes `names`, in the order of the config."""
        self._fitted = fitted
        self._names = tuple(names)
        self._bias = np.zeros(len(self._names), np.float32) if fitted.head is None else fitted.head.bias
        self._weights = None if fitted.head is None else fitted.head.weights
        self._floor = math.log(SHARE_FLOOR)

    def vote(
        self,
        similarities: Sequence[float],
        routes: Sequence[int],
        utterances: Sequence[str],
        vector: Vectors,
        only: Collection[int] | None = None,
        view: Vectors | None = None,
        written: Collection[int] = (),
        chances: int = 1,
    ) -> Vote:
        """The vote on one prompt; `only` as for `votes`, the others as in `Asked`."""
        asked = Asked(
            similarities, routes, utterances, vector, vector if view is None else view, written, chances
        )
        return self.votes([asked], only)[0]

    def votes(self, asked: Sequence[Asked], only: Collection[int] | None = None) -> list[Vote]:
        """The votes on prompts, each the one that it would get alone.

        only: the routes that may win; None means all.

        Equal probabilities are ordered by the route's place in the config, so that the winner of a tie is
        the route declared first.
        """
        near = [one for one in asked if one.similarities]
        votes = iter(self._votes(near, only) if near else ())
        return [next(votes) if one.similarities else NO_VOTE for one in asked]

    def _votes(self, asked: Sequence[Asked], only: Collection[int] | None) -> Iterator[Vote]:
        """The votes on prompts that have neighbours: arrays have a row for each."""
        ranked = [rank(one.similarities, one.routes, one.utterances, self._names) for one in asked]
        scores = self._head_scores(asked)
        if only is not None:
            forbidden = np.ones(scores.shape[1], bool)
            forbidden[list(only)] = False
            scores[:, forbidden] = -np.inf
        belongs = self._belongs(asked, ranked, scores)
        # One entry for each route that a prompt has a neighbour of.
        rows = np.repeat(np.arange(len(asked)), [len(one.shares) for one in ranked])
        columns = list(chain.from_iterable(one.shares for one in ranked))
        shares = np.array(list(chain.from_iterable(one.shares.values() for one in ranked)))
        scores[rows, columns] += self._fitted.vote_scale * (np.log(shares + SHARE_FLOOR) - self._floor)
        for row, question in enumerate(asked):
            if question.written:
                scores[row, list(question.written)] = scores[row].max() + _SURE
                belongs[row] = max(belongs[row], 1.0 / (1.0 + math.exp(-_SURE)))
        for one, listed, chance in zip(ranked, _likeliest(scores), belongs, strict=True):
            found = {self._names[route]: round(chance * -negative, 6) for negative, route in listed}
            best, second = [*found.values(), 0.0][:2]
            yield Vote(found, one.neighbors, one.neighbors[0].similarity, best - second, best)

    def _head_scores(self, asked: Sequence[Asked]) -> Vectors:
        """The logits of the head, (n, routes) float32; zero without one."""
        scores = np.zeros((len(asked), len(self._names)), np.float32)
        if self._weights is not None:
            # A product of matrices would round a row otherwise than the product of that row alone.
            for row, one in enumerate(asked):
                np.dot(self._weights, one.view, out=scores[row])
        scores += self._bias
        return scores

    def _belongs(self, asked: Sequence[Asked], ranked: Sequence[_Ranked], scores: Vectors) -> list[float]:
        """How likely each prompt belongs to any route."""
        if self._weights is None:
            likeliest = [max(one.shares, key=one.shares.__getitem__) for one in ranked]
        else:
            likeliest = scores.argmax(1).tolist()
        near = [one.neighbors[:NEAREST] for one in ranked]
        nearness = [sum([neighbor.similarity for neighbor in five]) / len(five) for five in near]
        middles = self._fitted.centroids[likeliest]
        centrality = [float(middle @ one.vector) for middle, one in zip(middles, asked, strict=True)]
        logit = scores[np.arange(len(asked)), likeliest].astype(np.float64)
        logit[~np.isfinite(logit)] = 0.0
        belongs = self._fitted.evidence.probability(np.array(nearness), np.array(centrality), logit)
        chances = np.array([one.chances for one in asked])
        divided: list[float] = (belongs / (belongs + chances * (1.0 - belongs))).tolist()
        return divided


def _likeliest(scores: Vectors) -> Iterator[list[tuple[float, int]]]:
    """Of each row the likeliest routes as (minus probability, route), best first, if one of them is right."""
    chances = np.exp(scores - scores.max(1, keepdims=True))
    chances = np.round(chances / chances.sum(1, keepdims=True), 6)
    shown = chances > 0.0
    if chances.shape[1] > _LISTED:
        shown &= chances >= np.partition(chances, -_LISTED, axis=1)[:, -_LISTED, None]
    routes = np.nonzero(shown)[1].tolist()
    negatives = (-chances[shown]).tolist()
    start = 0
    for count in shown.sum(1).tolist():
        end = start + count
        yield sorted(zip(negatives[start:end], routes[start:end], strict=True))[:_LISTED]
        start = end


def _gap(value: float) -> str:
    """How much a limit was missed by, never as nothing."""
    return f"{value:.3f}" if value >= 0.001 else f"{value:.1g}"


def _whose(vote: Vote) -> str:
    """The route of the nearest utterance, where it is not the best one."""
    route = vote.neighbors[0].route
    return "" if route == vote.best else f", of {route!r},"


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
            f"{_gap(distance - limits.max_distance)} beyond max_distance {limits.max_distance:.3f}.",
        )
    if vote.confidence < limits.min_confidence:
        return Verdict(
            accepted=False,
            reason="low_confidence",
            detail=f"{vote.best!r} has confidence {vote.confidence:.3f}, "
            f"{_gap(limits.min_confidence - vote.confidence)} below min_confidence "
            f"{limits.min_confidence:.3f}.",
        )
    if vote.margin is not None and vote.margin < limits.min_margin:
        return Verdict(
            accepted=False,
            reason="low_confidence",
            detail=f"{vote.best!r} has confidence {vote.confidence:.3f}, {vote.margin:.3f} before the next, "
            f"{_gap(limits.min_margin - vote.margin)} below min_margin {limits.min_margin:.3f}.",
        )
    return Verdict(
        accepted=True,
        reason="match",
        detail=f"{vote.best!r} has confidence {vote.confidence:.3f}, {vote.margin:.3f} before the next; "
        f"the nearest utterance{_whose(vote)} is at distance {distance:.3f}.",
    )
