"""Which of the models that could serve a prompt do: what the caller needs first, then the order."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from semroute.config import ModelCard, Weights
from semroute.decision import Candidate

_UNKNOWN_QUALITY = 0.5
_LETTERS = {"q": "quality", "c": "cost", "t": "ttft", "i": "itl"}


@dataclass(frozen=True, slots=True)
class Need:
    """What a call asks of its model.

    exclude: models that must not serve.
    capabilities: what the model must be declared to have, such as "tools".
    max_usd_per_1m: US dollars per million prompt tokens that the model may cost at most.
    tokens: how many the prompt has, which a model's declared context must hold.
    models: the only ones that may serve, in place of those of the route and the default; empty for those.
    """

    exclude: frozenset[str] = frozenset()
    capabilities: frozenset[str] = frozenset()
    max_usd_per_1m: float | None = None
    tokens: int = 0
    models: tuple[str, ...] = ()

    def met_by(self, name: str, card: ModelCard) -> bool:
        """Whether the model may serve.

        What its card does not declare, it is taken not to have; a context that is not declared to be long
        enough.
        """
        if self.models and name not in self.models:
            return False
        if name in self.exclude or not self.capabilities <= set(card.capabilities or ()):
            return False
        if card.context_tokens is not None and card.context_tokens < self.tokens:
            return False
        if self.max_usd_per_1m is None:
            return True
        return card.prompt_usd_per_1m is not None and card.prompt_usd_per_1m <= self.max_usd_per_1m


def parse_weights(text: str) -> Weights:
    """Weights from their short form, such as "router@q:1|c:4.65e-03|t:2.08e-05|i:2.07e-03"; 0 if left out.

    Raises ValueError.
    """
    kind, at, listed = text.partition("@")
    given = [part.partition(":") for part in listed.split("|")]
    letters = [letter for letter, _, _ in given]
    if kind != "router" or not at or not set(letters) <= _LETTERS.keys() or len(set(letters)) < len(letters):
        raise ValueError("weights are written router@q:1|c:0.005|t:0|i:0, each of q, c, t, i at most once")
    values = {_LETTERS[letter]: float(value) for letter, _, value in given}
    return Weights(**{name: values.get(name, 0.0) for name in _LETTERS.values()})


def parse_choice(text: str) -> tuple[Weights | None, tuple[str, ...]]:
    """Weights and the models to choose from, as in "router@q:1|c:0.005|models:small,big".

    Either may be absent. Raises ValueError.
    """
    kind, at, listed = text.partition("@")
    parts = listed.split("|")
    named = [part.removeprefix("models:") for part in parts if part.startswith("models:")]
    if kind != "router" or not at or len(named) > 1:
        raise ValueError("a choice is written router@q:1|c:0.005|t:0|i:0|models:NAME,NAME")
    models = tuple(dict.fromkeys(name.strip() for name in named[0].split(","))) if named else ()
    if not all(models):
        raise ValueError("models: is followed by the names of models, with commas between them")
    given = [part for part in parts if not part.startswith("models:")]
    return (parse_weights(f"router@{'|'.join(given)}") if given else None), models


def rank(
    names: Collection[str],
    catalog: Mapping[str, ModelCard],
    weights: Weights | Literal["first"],
    evidence: Mapping[str, float] | None = None,
) -> tuple[str, ...]:
    """`names`, best first: as given for "first", else by quality - cost*usd - ttft*ms - itl*ms.

    `usd` is the price of a million tokens, three quarters of them prompt and one completion, as is common for
    chat. An unknown quality counts as 0.5, an unknown price or latency as the worst known among `names`: a
    model must not win by saying nothing of itself. `evidence` is quality as outcomes have it, and takes the
    place of what a card declares. Equal scores keep their order.
    """
    if isinstance(weights, str):
        return tuple(names)
    cards = [catalog[name] for name in names]
    declared = [declared_quality(card) for card in cards]
    known = evidence or {}
    qualities = [known.get(name, quality) for name, quality in zip(names, declared, strict=True)]
    usd = filled([blended_usd(card) for card in cards])
    ttft = filled([card.ttft_ms for card in cards])
    itl = filled([card.itl_ms for card in cards])
    scores = [
        weights.quality * q - weights.cost * u - weights.ttft * t - weights.itl * i
        for q, u, t, i in zip(qualities, usd, ttft, itl, strict=True)
    ]
    ranked = sorted(zip(names, scores, strict=True), key=lambda pair: -pair[1])
    return tuple(name for name, _ in ranked)


def candidates(
    names: Sequence[str],
    catalog: Mapping[str, ModelCard],
    evidence: Mapping[str, tuple[float, float]] | None = None,
) -> tuple[Candidate, ...]:
    """The models of `names` with what is known of them; `evidence` is quality and support, by model."""
    found, known = [], evidence or {}
    for name in names:
        card = catalog[name]
        quality, support = known.get(name, (None, None))
        found.append(Candidate(name, quality, support, card.prompt_usd_per_1m, card.completion_usd_per_1m))
    return tuple(found)


def safest_first(names: Sequence[str], evidence: Mapping[str, float], max_risk: float) -> tuple[str, ...]:
    """`names` in their order, those last that are estimated to fail too often.

    evidence: estimated quality of the models about which enough is known. Where all fail too often, the best.
    """
    risky = [name for name in names if 1.0 - evidence.get(name, 1.0) > max_risk]
    if len(risky) == len(names):
        risky.sort(key=lambda name: -evidence[name])
    return tuple(name for name in names if name not in risky) + tuple(risky)


def declared_quality(card: ModelCard) -> float:
    """What the card says of its quality, or 0.5."""
    return _UNKNOWN_QUALITY if card.quality is None else card.quality


def blended_usd(card: ModelCard | Candidate) -> float | None:
    """US dollars for a million tokens, three quarters prompt and one completion; None where unknown."""
    if card.prompt_usd_per_1m is None or card.completion_usd_per_1m is None:
        return card.prompt_usd_per_1m
    return 0.75 * card.prompt_usd_per_1m + 0.25 * card.completion_usd_per_1m


def filled(values: list[float | None]) -> list[float]:
    """`values` with the worst of the known ones, or 0, in place of the unknown."""
    worst = max((value for value in values if value is not None), default=0.0)
    return [worst if value is None else value for value in values]
