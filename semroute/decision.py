"""What routing produces: data only, no behaviour beyond turning itself into JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from semroute.prices import usd

Reason = Literal[
    "match",
    "rule",
    "escalation",
    "too_far",
    "low_confidence",
    "empty_prompt",
    "constraint",
    "arbiter",
    "error",
]


class Neighbor(NamedTuple):
    """A nearest utterance of the prompt. `similarity` is the cosine, in [-1, 1]."""

    route: str
    utterance: str
    similarity: float


class Candidate(NamedTuple):
    """A model that may serve the prompt, with what is known of it.

    `quality` is the expected quality in [0, 1] on prompts like this one and `support` the effective number
    of outcomes behind it; both are None without evidence. Prices are US dollars per million tokens.
    """

    model: str
    quality: float | None
    support: float | None
    prompt_usd_per_1m: float | None
    completion_usd_per_1m: float | None

    def usd(self, prompt_tokens: int | None, completion_tokens: int | None) -> float | None:
        """US dollars of so many tokens at these prices; None where one of the four numbers is not known."""
        return usd(prompt_tokens, completion_tokens, self.prompt_usd_per_1m, self.completion_usd_per_1m)


class PastOutcome(NamedTuple):
    """A stored outcome on a prompt like this one: how good `model` was, and the cosine similarity."""

    id: str
    model: str
    score: float
    similarity: float


class Vote(NamedTuple):
    """What the neighbours of one prompt and the fitted head say.

    scores: the probability that a route is right, for the likeliest routes, best first; what is missing to 1
        is for the others and for none of them. Empty without neighbours.
    neighbors: the utterances that voted, nearest first, ties in the order of the routes in the config.
    similarity: cosine to the nearest utterance; None without neighbours.
    margin: score of the best route minus score of the second; None without neighbours.
    confidence: in [0, 1], the probability that the best route is right; 0 without neighbours.
    """

    scores: dict[str, float]
    neighbors: tuple[Neighbor, ...]
    similarity: float | None
    margin: float | None
    confidence: float

    @property
    def best(self) -> str | None:
        """The route with the highest score."""
        return next(iter(self.scores), None)


@dataclass(frozen=True, slots=True)
class Decision:
    """Which model serves a prompt, and why.

    `route` is None when the default serves; `confidence`, `similarity`, `margin` and `scores` then describe
    the route that came closest. `distance` is 1 - `similarity`. `fallbacks` are the models to try, in order,
    when `model` fails. `rule` names the rule that decided or restricted the decision. `index` is the
    fingerprint of the index that answered. `detail` is one sentence for people. `outcomes` are those that
    moved the decision to another model, nearest first; `shadow` is the model that they would have moved it to
    where `escalations` is in shadow mode. No field holds the prompt.
    """

    id: str
    route: str | None
    model: str
    fallbacks: tuple[str, ...]
    reason: Reason
    confidence: float
    similarity: float | None
    margin: float | None
    neighbors: tuple[Neighbor, ...]
    candidates: tuple[Candidate, ...]
    rule: str | None
    index: str
    elapsed_ms: float
    scores: dict[str, float] = field(default_factory=dict)
    detail: str = ""
    outcomes: tuple[PastOutcome, ...] = ()
    shadow: str | None = None

    @property
    def distance(self) -> float | None:
        """Cosine distance to the nearest utterance, in [0, 2]; None without neighbours."""
        return None if self.similarity is None else round(1.0 - self.similarity, 6)

    def to_dict(self) -> dict[str, Any]:
        """The decision as plain JSON types, numbers rounded to what they mean."""
        return {
            "id": self.id,
            "route": self.route,
            "model": self.model,
            "fallbacks": list(self.fallbacks),
            "reason": self.reason,
            "detail": self.detail,
            "confidence": round(self.confidence, 4),
            "similarity": _rounded(self.similarity),
            "distance": _rounded(self.distance),
            "margin": _rounded(self.margin),
            "neighbors": [
                {"route": n.route, "utterance": n.utterance, "similarity": round(n.similarity, 4)}
                for n in self.neighbors
            ],
            "scores": {route: round(score, 4) for route, score in self.scores.items()},
            "candidates": [
                {
                    "model": c.model,
                    "quality": _rounded(c.quality),
                    "support": _rounded(c.support),
                    "prompt_usd_per_1m": c.prompt_usd_per_1m,
                    "completion_usd_per_1m": c.completion_usd_per_1m,
                }
                for c in self.candidates
            ],
            "outcomes": [
                {"id": o.id, "model": o.model, "score": o.score, "similarity": round(o.similarity, 4)}
                for o in self.outcomes
            ],
            "shadow": self.shadow,
            "rule": self.rule,
            "index": self.index,
            "elapsed_ms": round(self.elapsed_ms, 3),
        }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
