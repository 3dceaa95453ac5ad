"""What the decision log holds: entries as they are written, and decisions as they are read. Data, no I/O.

An entry says one thing about one decision: that it was made, that a model was called for it, that somebody
judged the answer. They come at different times and from different processes; reading joins them by the id of
the decision.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from semroute.decision import Candidate
from semroute.errors import StoreCorrupt
from semroute.escalations import CASCADE, OPERATOR, prompt_hash
from semroute.telemetry import Decided, Event, Judged, Served
from semroute.text import storable
from semroute.ulid import new_ulid

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Kind = Literal["decided", "served", "judged"]
KINDS: tuple[Kind, ...] = ("decided", "served", "judged")
_MAX_STEP = 200
MAX_TEXT = 100_000  # characters of a prompt that are kept, as for outcomes


class Entry(NamedTuple):
    """One thing said about the decision `id`. `entry` is unique, so that writing it again changes nothing.

    time: seconds since 1970. principal: who judged. prompt_hash: of the prompt, under the key of the log.
    text, vector (little-endian float32): of the prompt, where the settings have them kept. body: the rest.
    """

    entry: str
    id: str
    kind: Kind
    time: float
    principal: str | None
    prompt_hash: bytes | None
    text: str | None
    vector: bytes | None
    body: Mapping[str, Any]


class Judgement(NamedTuple):
    """What counts of all that was said of one model's answer to a prompt: a score from 0 to 1, and by whom.

    escalated_to: the model that was needed instead, where that was said.
    """

    model: str
    score: float
    escalated_to: str | None
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedDecision:
    """A decision and what became of it, as far as the log was told. What nobody told is None.

    id, time: of the decision; seconds since 1970. text: the prompt, only where `keep_text` was set.
    route: None when the default served. best: the route with the highest score, whoever won.
    model, fallbacks, reason, rule, confidence, similarity, margin, candidates, shadow, index, elapsed_ms: as
        in `Decision`. step: as the caller gave it.

    prompt_hash: of the prompt under the log's key, in hexadecimal: equal prompts have the same.

    attempts: how often a model was called for an answer. served_by: the model that answered, or was called
        last where none did; prompt_tokens, completion_tokens, latency_ms, ttft_ms and error (None where it
        answered) are of that call.
    usd: US dollars of all calls, by real token counts and the prices that were configured then; None where a
        call that answered has no token counts, or one with token counts has no price. unpriced: the models
        without one.
    overhead_usd: how much of that went to calls that gave no answer but helped to choose: of an arbiter, or
        of a cascade's judge. None where there was none, or its cost is not known.

    judgements: what counts of what was said of each model, those whose answer a cascade rejected among them.
        Of several about one model the operator's last counts, else the last of a person, else that of a
        cascade.
    score, escalated_to, by: the judgement of the model that answered; None where nobody judged that one.
    """

    id: str
    time: float
    route: str | None
    best: str | None
    model: str
    reason: str
    rule: str | None
    confidence: float
    similarity: float | None
    margin: float | None
    candidates: tuple[Candidate, ...]
    fallbacks: tuple[str, ...]
    shadow: str | None
    index: str
    elapsed_ms: float
    step: str | None = None
    prompt_hash: str | None = None
    text: str | None = None
    attempts: int = 0
    served_by: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    usd: float | None = None
    overhead_usd: float | None = None
    unpriced: tuple[str, ...] = ()
    latency_ms: float | None = None
    ttft_ms: float | None = None
    error: str | None = None
    score: float | None = None
    escalated_to: str | None = None
    by: str | None = None
    judgements: tuple[Judgement, ...] = ()

    @property
    def answerer(self) -> str:
        """The model that answered: what `score` is about. The chosen one where nobody said, or none did."""
        return self.model if self.served_by is None or self.error is not None else self.served_by

    @property
    def scores_of(self) -> dict[str, float]:
        """The score of each model that was judged on this prompt, by its name."""
        served = {} if self.score is None else {self.answerer: self.score}
        return {one.model: one.score for one in self.judgements} | served

    def of_answerer(self) -> LoggedDecision:
        """The same, whose `model` is the one that answered."""
        return replace(self, model=self.answerer)

    def to_dict(self) -> dict[str, Any]:
        """The decision as plain JSON types; `text` only where it was kept."""
        told = {name: getattr(self, name) for name in FIELDS if name != "text"}
        told["candidates"] = [candidate._asdict() for candidate in self.candidates]
        told["judgements"] = [judgement._asdict() for judgement in self.judgements]
        told |= {"fallbacks": list(self.fallbacks), "unpriced": list(self.unpriced)}
        return told if self.text is None else {**told, "text": self.text}


FIELDS: tuple[str, ...] = tuple(LoggedDecision.__dataclass_fields__)
"""The names of what a logged decision holds, in their order."""


_SERVED = ("model", "purpose", "prompt_tokens", "completion_tokens", "usd", "latency_ms", "ttft_ms", "error")
_JUDGED = ("outcome", "score", "model", "escalated_to")
_ALWAYS = ("model", "reason", "confidence", "index", "elapsed_ms")
_OPTIONAL = ("route", "best", "rule", "similarity", "margin", "shadow", "step")


class Remembered(NamedTuple):
    """What feedback needs of a decision that another process made. Vector and features are float32.

    model: who answered, as far as that was told. Without a vector the feedback stays in the log alone.
    encoder: whose vector it is, see `encoder_name`; None in logs that did not say so yet.
    """

    route: str | None
    model: str
    prompt_hash: bytes | None
    text: str | None
    vector: NDArray[np.float32] | None
    features: NDArray[np.float32] | None
    encoder: str | None = None


def entry_of(event: Event, key: bytes, *, keep_text: bool, keep_vectors: bool) -> Entry:
    """What is written of `event`; of the prompt a hash under `key`, and no more than is to be kept."""
    match event:
        case Decided():
            return _decided_entry(event, key, keep_text=keep_text, keep_vectors=keep_vectors)
        case Served():
            return _bare(event, "served", _SERVED)
        case Judged():
            return _bare(event, "judged", _JUDGED)._replace(principal=event.by)


def _bare(event: Served | Judged, kind: Kind, names: Iterable[str]) -> Entry:
    told = {name: getattr(event, name) for name in names}
    body = {name: value for name, value in told.items() if value is not None}
    return Entry(new_ulid(), event.id, kind, event.time, None, None, None, None, body)


def _decided_entry(event: Decided, key: bytes, *, keep_text: bool, keep_vectors: bool) -> Entry:
    decision, text = event.decision, event.text
    body: dict[str, Any] = {
        "route": decision.route,
        "best": next(iter(decision.scores), None),
        "model": decision.model,
        "reason": decision.reason,
        "rule": decision.rule,
        "confidence": decision.confidence,
        "similarity": decision.similarity,
        "margin": decision.margin,
        "candidates": [list(candidate) for candidate in decision.candidates],
        "fallbacks": list(decision.fallbacks),
        "shadow": decision.shadow,
        "index": decision.index,
        "elapsed_ms": round(decision.elapsed_ms, 3),
        "step": None if event.step is None else storable(str(event.step))[:_MAX_STEP],
    }
    vector = None
    if keep_vectors and event.vector is not None and text is not None:
        from semroute.escalations.trend import features  # numpy

        vector = event.vector.astype("<f4").tobytes()
        body |= {"features": features(text).tolist(), "encoder": event.encoder}
    body = {name: value for name, value in body.items() if value is not None}
    kept = storable(text)[:MAX_TEXT] if keep_text and text is not None else None
    hashed = None if text is None else prompt_hash(text, key)
    return Entry(new_ulid(), decision.id, "decided", event.time, None, hashed, kept, vector, body)


def joined(decided: Entry, later: Sequence[Entry], where: str) -> LoggedDecision:
    """The decision of an entry, with what the `later` entries say of it, in the order of the log.

    Raises StoreCorrupt, naming `where` and the decision.
    """
    try:
        body = decided.body
        candidates = tuple(Candidate(*candidate) for candidate in body["candidates"])
        served = [entry.body for entry in later if entry.kind == "served"]
        found = LoggedDecision(
            id=decided.id,
            time=decided.time,
            text=decided.text,
            prompt_hash=None if decided.prompt_hash is None else decided.prompt_hash.hex(),
            candidates=candidates,
            fallbacks=tuple(body["fallbacks"]),
            **{name: body[name] for name in _ALWAYS},
            **_optional(body),
            **_service(served, body["model"], candidates),
        )
        return _judged(found, [entry for entry in later if entry.kind == "judged"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StoreCorrupt(
            f"{where}: what it holds of decision {decided.id} is not what semroute writes"
            f" ({type(error).__name__}); restore a backup"
        ) from error


def remembered(decided: Entry, later: Sequence[Entry]) -> Remembered:
    """What feedback needs of the decision of an entry. Raises StoreCorrupt."""
    found = joined(decided, later, "the decision log")
    vector = features = None
    if decided.vector is not None:
        import numpy as np

        vector = np.frombuffer(decided.vector, dtype="<f4").astype(np.float32)
        features = np.array(decided.body.get("features", ()), dtype=np.float32)
    encoder = decided.body.get("encoder")
    return Remembered(
        found.route, found.answerer, decided.prompt_hash, decided.text, vector, features, encoder
    )


def _optional(body: Mapping[str, Any]) -> dict[str, Any]:
    return {name: body.get(name) for name in _OPTIONAL}


def _service(
    served: Sequence[Mapping[str, Any]], model: str, candidates: Sequence[Candidate]
) -> dict[str, Any]:
    if not served:
        return {}
    answering = [call for call in served if call.get("purpose") is None]
    costs = [_usd(call, model, candidates) for call in served]
    aside = [usd for call, usd in zip(served, costs, strict=True) if call.get("purpose") is not None]
    unpriced = [
        call.get("model", model)
        for call, usd in zip(served, costs, strict=True)
        if usd is None and None not in (call.get("prompt_tokens"), call.get("completion_tokens"))
    ]
    told = {
        "attempts": len(answering),
        "usd": _sum(costs),
        "overhead_usd": _sum(aside) if aside else None,
        "unpriced": tuple(dict.fromkeys(unpriced)),
    }
    if not answering:
        return told
    answer = next((call for call in reversed(answering) if call.get("error") is None), answering[-1])
    names = ("prompt_tokens", "completion_tokens", "latency_ms", "ttft_ms", "error")
    return {
        **told,
        "served_by": answer.get("model", model),
        **{name: answer.get(name) for name in names},
    }


def _usd(call: Mapping[str, Any], model: str, candidates: Sequence[Candidate]) -> float | None:
    """What a call cost; nothing where it failed before a token was counted, None where nobody can say."""
    told: float | None = call.get("usd")
    if told is not None:
        return told
    prompt, completion = call.get("prompt_tokens"), call.get("completion_tokens")
    if call.get("error") is not None and prompt is None and completion is None:
        return 0.0
    called = call.get("model", model)
    prices = [candidate for candidate in candidates if candidate.model == called]
    return prices[0].usd(prompt, completion) if prices else None


def _sum(amounts: Sequence[float | None]) -> float | None:
    known = [amount for amount in amounts if amount is not None]
    return sum(known) if len(known) == len(amounts) else None


def _judged(found: LoggedDecision, judged: Sequence[Entry]) -> LoggedDecision:
    """`found` with what was said of it, each judgement at the model that it is about."""
    counting: dict[str, Entry] = {}
    for entry in judged:
        model = entry.body.get("model", found.model)
        if model not in counting or _rank(entry) >= _rank(counting[model]):
            counting[model] = entry
    if not counting:
        return found
    judgements = {
        model: Judgement(
            model, entry.body["score"], entry.body.get("escalated_to"), entry.principal or OPERATOR
        )
        for model, entry in counting.items()
    }
    about = judgements.get(found.answerer)
    if about is None:
        return replace(found, judgements=tuple(judgements.values()))
    return replace(
        found,
        judgements=tuple(judgements.values()),
        score=about.score,
        escalated_to=about.escalated_to,
        by=about.by,
    )


def _rank(judged: Entry) -> int:
    """Whose word counts more: the operator's, then that of people, then that of the cascade's checks."""
    return 2 if judged.principal == OPERATOR else 0 if judged.principal == CASCADE else 1


def to_line(entry: Entry) -> bytes:
    """`entry` as a line of JSON, with its line break."""
    told = {name: value for name, value in entry._asdict().items() if value is not None}
    if entry.prompt_hash is not None:
        told["prompt_hash"] = entry.prompt_hash.hex()
    told.pop("vector", None)
    return json.dumps(told, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def from_line(line: bytes) -> Entry | None:
    """The entry on a line; None where the line is none, such as one that was cut by a crash."""
    try:
        told = json.loads(line)
        hashed = told.get("prompt_hash")
        if told["kind"] not in KINDS or not isinstance(told["body"], dict):
            return None
        return Entry(
            **{name: told[name] for name in ("entry", "id", "kind", "body")},
            time=float(told["time"]),
            principal=told.get("principal"),
            prompt_hash=None if hashed is None else bytes.fromhex(hashed),
            text=told.get("text"),
            vector=None,
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
