"""Snapshot: index, encoder, rules and outcomes as one decision needs them, never changed once made.

text -> rules -> encoder -> index -> vote -> limits -> Verdict -> models -> Decision
"""

from __future__ import annotations

import copy
import logging
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from semroute import catalog, vote
from semroute import index as route_index
from semroute.catalog import Need
from semroute.config import ModelCard, Route, Rule
from semroute.decision import Candidate, Decision, PastOutcome, Reason, Vote
from semroute.encoders import is_spec, open_encoder, open_words
from semroute.encoders.base import clip
from semroute.encoders.bundled import known_words
from semroute.errors import (
    ArtifactMismatch,
    EncoderUnavailable,
    EncodingFailed,
    NoStore,
    OutcomeInvalid,
    SemrouteError,
)
from semroute.escalations import OPERATOR, Outcome, estimate, prompt_hash, trend
from semroute.index import Found, RouteIndex
from semroute.request import PLAIN, Request
from semroute.rules import Facts, RuleBook
from semroute.text import Prompt, PromptError, estimated_tokens, is_blank, routed_text, storable
from semroute.ulid import new_ulid
from semroute.vote import NO_VOTE, Asked, Judge, Limits, head_view
from semroute.wording import PARTS, Reader

if TYPE_CHECKING:
    from semroute.decisionlog import Remembered
    from semroute.encoders.base import Encoder, Vectors
    from semroute.escalations.importing import GradedPrompt
    from semroute.escalations.memory import Memory

_log = logging.getLogger("semroute")

LONGEST_TEXT = 100_000
"""Characters that are looked at of a text; more than any encoder reads."""

_LONG_TEXT = 4_000  # characters; of more the last decisions keep what feedback needs, and not the text
_QUIET_S = 60.0  # between two lines about the same failure
_BATCH = 512  # prompts encoded at once
_LONGEST_NAME = 80  # characters of a name in a sentence


class Verdict(NamedTuple):
    """Which route serves and why, before a model is chosen. `models` is set where a rule names them."""

    route: str | None
    reason: Reason
    detail: str
    vote: Vote = NO_VOTE
    confidence: float = 0.0
    rule: str | None = None
    models: tuple[str, ...] = ()
    seen: Seen | None = None


class Seen(NamedTuple):
    """What outcomes are compared by: the text as it was routed and its vector.

    features, hashed: what is made of the text elsewhere, where another process has seen it and kept no text.
    encoder: whose vector it is, where a reload may have changed it since; see `encoder_name`.
    """

    text: str
    vector: Vectors
    features: Vectors | None = None
    hashed: bytes | None = None
    encoder: str | None = None

    def read_features(self) -> Vectors:
        """What the text is like, made of it where nobody has done so yet."""
        return trend.features(self.text) if self.features is None else self.features


class _Voted(NamedTuple):
    """The vote on a text, None where there is no usable vector; of a long one, the part it is on.

    seen: what outcomes are compared by, where any are.
    """

    vote: Vote | None
    part: str
    seen: Seen | None


class _Plan(NamedTuple):
    """The models that serve, best first, and why the preferred one does not, if it does not.

    outcomes: those that moved it, if they did. shadow: the model they would have moved it to.
    """

    models: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    moved: str
    outcomes: tuple[PastOutcome, ...] = ()
    shadow: str | None = None


class _Waiting(NamedTuple):
    """A text that no rule has decided; `rule` may restrict the routes that may win."""

    text: str
    rule: Rule | None


class Snapshot:
    """Everything one decision needs, never changed after it is made."""

    def __init__(
        self, index: RouteIndex, encoder: Encoder, words: Encoder | None, memory: Memory | None
    ) -> None:
        _check_encoder(index, encoder)
        self.index = index
        self.encoder = encoder
        self.memory = memory
        self._words = words
        self._settings = index.config.settings
        self._rules = RuleBook(self._settings.rules)
        self._names = index.route_names
        self._routes = [entry.route for entry in index.entries]
        self._texts = [entry.text for entry in index.entries]
        self._places = {name: place for place, name in enumerate(self._names)}
        self._models_of: dict[str | None, tuple[str, ...]] = {
            route.name: route.model_names for route in index.config.routes
        }
        self._models_of[None] = self._settings.default.model_names
        contexts = (card.context_tokens for card in self._settings.models.values())
        self._least_context = min((size for size in contexts if size is not None), default=None)
        self._cards = self._settings.models
        self._capabilities = {name for card in self._cards.values() for name in card.capabilities or ()}
        self._plans = {names: self._plan(names, PLAIN) for names in set(self._models_of.values())}
        self._reader = Reader(self._texts, known_words(index.manifest.encoder.name))
        self._judge = Judge(index.fitted, self._names)
        self._default_limits = _default_limits(index)
        self.limits = dict(zip(self._names, limits_of(index), strict=True))
        self.without_outcomes = _Noted("Routing goes on without outcomes")

    def measured(self, latencies: Mapping[str, tuple[float | None, float | None]]) -> Snapshot:
        """The same, with `latencies` in place of what the cards say of them."""
        found = copy.copy(self)
        found._cards = {
            name: _with_latencies(card, *latencies.get(name, (None, None)))
            for name, card in self._settings.models.items()
        }
        found._plans = {names: found._plan(names, PLAIN) for names in self._plans}
        return found

    def sized(self, prompt: Prompt, request: Request) -> Request:
        """`request` with the size of `prompt`, where that is more than some model can read."""
        if self._least_context is None or (tokens := estimated_tokens(prompt)) <= self._least_context:
            return request
        return replace(request, need=replace(request.need, tokens=tokens))

    def verdict(self, prompt: Prompt, request: Request) -> Verdict:
        """What serves one prompt: by a rule where one decides, else by the vote of its neighbours."""
        waiting = self._without_vote(prompt, request)
        if isinstance(waiting, Verdict):
            return waiting
        return self._by_vote([waiting.text], waiting.rule)[0]

    def verdicts(self, prompts: Sequence[Prompt], request: Request) -> list[Verdict]:
        """`verdict` for many prompts, those that need a vote encoded together."""
        verdicts = [self._without_vote(prompt, request) for prompt in prompts]
        groups: dict[str | None, list[int]] = {}
        for place, waiting in enumerate(verdicts):
            if isinstance(waiting, _Waiting):
                groups.setdefault(waiting.rule.name if waiting.rule else None, []).append(place)
        for places in groups.values():
            group = [waiting for place in places if isinstance(waiting := verdicts[place], _Waiting)]
            voted = self._by_vote([waiting.text for waiting in group], group[0].rule)
            for place, verdict in zip(places, voted, strict=True):
                verdicts[place] = verdict
        return [verdict for verdict in verdicts if isinstance(verdict, Verdict)]

    def decision(self, verdict: Verdict, request: Request, started: float) -> Decision:
        """Choose the model for `verdict` and write the decision; `started` by `time.perf_counter`."""
        reason, detail = verdict.reason, verdict.detail
        asked = tuple(name for name in request.need.models if name in self._settings.models)
        preferred = asked or verdict.models or self._models_of[verdict.route]
        plan = self._plans.get(preferred) if request is PLAIN else None
        plan = plan or self._plan(preferred, request)
        if verdict.seen is not None:
            plan = self._with_evidence(plan, verdict.seen, verdict.route, request)
        if request is not PLAIN:
            detail = f"{detail}{self._unknown_names(request.need)}".lstrip()
        if plan.outcomes and plan.shadow is None:
            reason, detail = "escalation", f"{plan.moved} {detail}".rstrip()
        elif plan.moved:
            reason, detail = "constraint", f"{plan.moved} {detail}".rstrip()
        return Decision(
            id=new_ulid(),
            route=verdict.route,
            model=plan.models[0],
            fallbacks=plan.models[1:],
            reason=reason,
            detail=detail,
            confidence=verdict.confidence,
            similarity=verdict.vote.similarity,
            margin=verdict.vote.margin,
            neighbors=verdict.vote.neighbors,
            candidates=plan.candidates,
            scores=verdict.vote.scores,
            outcomes=plan.outcomes,
            shadow=plan.shadow,
            rule=verdict.rule,
            index=self.index.fingerprint,
            elapsed_ms=(time.perf_counter() - started) * 1_000.0,
        )

    def _unknown_names(self, need: Need) -> str:
        """Sentences about names in the call that nothing here has, such as a misspelt one."""
        if not (need.exclude or need.capabilities or need.models):
            return ""
        models = self._settings.models
        unknown = {
            "`exclude` names {}, which is no model here": need.exclude - models.keys(),
            "`models` names {}, which is no model here": set(need.models) - models.keys(),
            "`needs` names {}, which no model declares": need.capabilities - self._capabilities,
        }
        # A name is whatever a caller hands in; of a long one the start tells.
        return "".join(
            f" {said.format(repr(name[:_LONGEST_NAME]))}."
            for said, names in unknown.items()
            for name in sorted(name for name in names if isinstance(name, str))
        )

    def _without_vote(self, prompt: Prompt, request: Request) -> Verdict | _Waiting:
        """The verdict where no vote is needed, else the text that waits for one."""
        try:
            text = routed_text(prompt)
            rule = self._rules.first_match(Facts(text, request.step, request.metadata))
        except Exception as error:  # noqa: BLE001 - prompt and metadata are whatever a caller hands in
            _log.error("The default serves 1 prompt: %s", _anonymous(error))
            said = str(error) if isinstance(error, PromptError) else f"unreadable ({type(error).__name__})"
            return Verdict(None, "error", f"The default serves: {said}.")
        if rule is not None and not rule.only:
            return Verdict(
                route=rule.route,
                reason="rule",
                detail=f"Rule {rule.name!r} holds.",
                confidence=1.0,
                rule=rule.name,
                models=rule.model_names,
            )
        # No encoder reads more than some of its start and end, and none takes half a surrogate pair.
        text = clip(text, LONGEST_TEXT)
        if is_blank(text):
            name = None if rule is None else rule.name
            return Verdict(None, "empty_prompt", "There is no text to route.", rule=name)
        return _Waiting(text, rule)

    def _by_vote(self, texts: Sequence[str], rule: Rule | None) -> list[Verdict]:
        name = None if rule is None else rule.name
        only = None
        if rule is not None and rule.only:
            only = frozenset(self._places[route] for route in rule.only)
        try:
            votes = self._votes(texts, only)
        except Exception as error:  # noqa: BLE001 - an encoder may be anyone's; the prompt must be served
            _log.error("The default serves %d prompt(s): %s", len(texts), _anonymous(error))
            detail = f"The encoder failed ({type(error).__name__})."
            return [Verdict(None, "error", detail, rule=name) for _ in texts]
        return [self._judged(voted, name) for voted in votes]

    def _votes(self, texts: Sequence[str], only: frozenset[int] | None) -> list[_Voted]:
        """The vote on each text, of several readings the surest."""
        readings = [self._reader.readings(text) for text in texts]
        votes, vectors = self._votes_as_read(readings, [self._written(text, only) for text in texts], only)
        found: list[_Voted] = []
        place = 0
        for text, group in zip(texts, readings, strict=True):
            seen = None
            if self.memory is not None and votes[place] is not None:
                seen = Seen(text, vectors[place], encoder=self.memory.encoder)
            surest, part = _surest(votes[place : place + len(group)])
            found.append(_Voted(surest, part if len(group) > 1 else "", seen))
            place += len(group)
        return found

    def _written(self, text: str, only: frozenset[int] | None) -> tuple[int, ...]:
        """The routes that may win and have `text`, word for word, as an utterance."""
        routes = dict.fromkeys(self._routes[row] for row in self._reader.written(text))
        return tuple(route for route in routes if only is None or route in only)

    def _votes_as_read(
        self,
        readings: Sequence[Sequence[str]],
        written: Sequence[tuple[int, ...]],
        only: frozenset[int] | None,
    ) -> tuple[list[Vote | None], Vectors]:
        """The votes on all readings of all texts, one after the other, and their vectors."""
        texts = list(chain.from_iterable(readings))
        vectors = self.encoder.encode(texts, kind="query")
        found = self.index.search(vectors, self._settings.vote.neighbors, only)
        if len(found) != len(texts):
            raise EncodingFailed(f"the encoder gave {len(found)} vectors for {len(texts)} texts")
        words = None if self._words is None else self._words.encode(texts, kind="query")
        of_text = [(own, len(group)) for group, own in zip(readings, written, strict=True) for _ in group]
        views = head_view(vectors, words)
        asked = {
            place: self._asked(nearest, vectors[place], views[place], *of_text[place])
            for place, nearest in enumerate(found)
            if nearest is not None
        }
        cast = dict(zip(asked, self._judge.votes(list(asked.values()), only), strict=True))
        votes = [cast.get(place) for place in range(len(texts))]
        return votes, vectors

    def _asked(
        self, nearest: Found, vector: Vectors, view: Vectors, written: tuple[int, ...], chances: int
    ) -> Asked:
        routes = [self._routes[row] for row in nearest.rows]
        texts = [self._texts[row] for row in nearest.rows]
        return Asked(nearest.similarities, routes, texts, vector, view, written, chances)

    def _judged(self, voted: _Voted, rule: str | None) -> Verdict:
        found = voted.vote
        if found is None:
            return Verdict(None, "error", "The encoder gave no usable vector for this text.", rule=rule)
        judged = vote.judge(found, self.limits.get(found.best or "", self._default_limits))
        return Verdict(
            route=found.best if judged.accepted else None,
            reason=judged.reason,
            detail=_of_part(voted.part, judged.detail, accepted=judged.accepted),
            vote=found,
            confidence=found.confidence,
            rule=rule,
            seen=voted.seen,
        )

    def remembering(self) -> Memory:
        """The outcomes. Raises NoStore when the settings name none."""
        if self.memory is None:
            cure = "name one in semroute.yaml, such as escalations: {store: sqlite:semroute.db}, and build"
            raise NoStore(f"there is no store of outcomes: {cure}")
        return self.memory

    def usd(
        self, model: str | None, prompt_tokens: int | None, completion_tokens: int | None
    ) -> float | None:
        """US dollars of so many tokens by the configured prices; None where something is not known."""
        card = self._settings.models.get(model or "")
        return None if card is None else card.usd(prompt_tokens, completion_tokens)

    def check_model(self, name: str | None) -> None:
        """Raises OutcomeInvalid for a model that is not declared."""
        models = self._settings.models
        if name is not None and name not in models:
            known = ", ".join(sorted(models))
            raise OutcomeInvalid("model", f"{name!r} is not declared; the settings have {known}")

    def seen_before(self, found: Remembered) -> Seen | None:
        """A prompt of the decision log as outcomes are compared by, if the log kept enough of it."""
        if self.memory is None:
            return None
        if found.text is not None:
            return self.seen(found.text)
        dim = self.index.manifest.encoder.dim
        if (
            found.vector is None
            or found.features is None
            or found.prompt_hash is None
            or found.encoder not in {None, self.memory.encoder}
            or len(found.vector) != dim
        ):
            return None
        return Seen("", found.vector, found.features, found.prompt_hash, self.memory.encoder)

    def kept(self, seen: Seen) -> Seen:
        """`seen` as it is remembered: of a long text what is made of it, where that is enough."""
        key = None if self.memory is None else self.memory.known_key
        keeps_text = self._settings.escalations is not None and self._settings.escalations.keep_text
        if len(seen.text) <= _LONG_TEXT or key is None or keeps_text:
            return seen
        return seen._replace(text="", features=seen.read_features(), hashed=prompt_hash(seen.text, key))

    def seen(self, prompt: str) -> Seen:
        """A prompt as outcomes are compared by. Raises EncoderError."""
        return Seen(prompt, self.vectors([prompt])[0])

    def vectors(self, prompts: Sequence[str]) -> Vectors:
        """Those of the prompts as they are read, (n, dim) float32. Raises EncoderError."""
        dim = self.index.manifest.encoder.dim
        vectors = np.empty((len(prompts), dim), np.float32)
        for start in range(0, len(prompts), _BATCH):
            read = [self._reader.readings(prompt)[0] for prompt in prompts[start : start + _BATCH]]
            encoded = self.encoder.encode(read, kind="query")
            route_index.check_array(encoded, dim)
            vectors[start : start + len(read)] = encoded
        return vectors

    def expected(
        self, prompts: Sequence[str], routes: Sequence[str | None]
    ) -> list[dict[str, estimate.Estimate]]:
        """See `Router.expected`."""
        memory, models, found = self.remembering(), tuple(self._settings.models), []
        for start in range(0, len(prompts), _BATCH):
            batch = prompts[start : start + _BATCH]
            vectors = self.vectors(batch)
            for text, vector, route in zip(batch, vectors, routes[start : start + _BATCH], strict=True):
                found.append(memory.estimates(estimate.Prompt(vector, trend.features(text), route), models))
        return found

    def outcome(self, seen: Seen, model: str, score: float, *, id: str, **said: Any) -> Outcome:  # noqa: A002
        """An outcome on `seen`. Raises OutcomeRefused or StoreError."""
        memory = self.remembering()
        settings = self._settings.escalations
        if seen.encoder not in {None, memory.encoder}:
            raise OutcomeInvalid(
                "decision", f"was made with {seen.encoder}, and the index is now one of {memory.encoder}"
            )
        return Outcome(
            id=id,
            model=model,
            score=score,
            vector=seen.vector,
            features=seen.read_features(),
            prompt_hash=prompt_hash(seen.text, memory.key()) if seen.hashed is None else seen.hashed,
            encoder=memory.encoder,
            time=time.time(),
            text=_storable(seen.text) if seen.text and settings is not None and settings.keep_text else None,
            **said,
        )

    def import_outcomes(
        self, graded: Sequence[GradedPrompt], progress: Callable[[int, int], None] | None
    ) -> int:
        """See `Router.import_outcomes`."""
        memory, added = self.remembering(), 0
        for start in range(0, len(graded), _BATCH):
            batch = graded[start : start + _BATCH]
            vectors = self.vectors([row.prompt for row in batch])
            key = memory.key()
            outcomes = [
                self.outcome(
                    seen,
                    model,
                    score,
                    id=new_ulid(),
                    by=OPERATOR,
                    origin="import",
                    route=row.route,
                    why=row.why,
                )
                for row, vector in zip(batch, vectors, strict=True)
                for seen in [
                    Seen(row.prompt, vector, trend.features(row.prompt), prompt_hash(row.prompt, key))
                ]
                for model, score in row.scores.items()
            ]
            added += memory.add_imports(outcomes, is_last=start + _BATCH >= len(graded))
            if progress is not None:
                progress(start + len(batch), len(graded))
        return added

    def _with_evidence(self, plan: _Plan, seen: Seen, route: str | None, request: Request) -> _Plan:
        """`plan` as outcomes on such prompts would have it. Where they fail, as it is."""
        try:
            return self._weighed(plan, seen, route, request)
        except Exception as error:  # noqa: BLE001 - the signal is an extra: the prompt must be served
            self.without_outcomes.note(_anonymous(error))
            return plan

    def _weighed(self, plan: _Plan, seen: Seen, route: str | None, request: Request) -> _Plan:
        memory, settings = self.memory, self._settings.escalations
        if memory is None or settings is None or memory.is_empty():
            return plan
        prompt = estimate.Prompt(seen.vector, seen.read_features(), route)
        found = memory.estimates(prompt, plan.models)
        known = {name: each for name, each in found.items() if each.support > 0.0}
        if not known:
            return plan
        models = self._settings.models
        sure = {name: each.quality for name, each in known.items() if each.support >= settings.min_support}
        weights = request.weights or self._settings.select
        if isinstance(weights, str):
            order = catalog.safest_first(plan.models, sure, settings.max_risk)
        else:
            order = catalog.rank(plan.models, self._cards, weights, sure)
        stays = order[0] == plan.models[0]
        about = plan.models[0] if plan.models[0] in sure else order[0]
        outcomes = () if stays else memory.nearest(prompt, about)
        if settings.mode == "shadow":
            shadow = None if stays else order[0]
            candidates = catalog.candidates(plan.models, models, known)
            return plan._replace(candidates=candidates, outcomes=outcomes, shadow=shadow)
        candidates = catalog.candidates(order, models, known)
        if stays:
            return plan._replace(models=order, candidates=candidates)
        quality, support = known[about]
        moved = (
            f"Outcomes on such prompts give {about!r} a quality of {quality:.2f} (support {support:.1f}): "
            f"{order[0]!r} serves instead of {plan.models[0]!r}."
        )
        return _Plan(order, candidates, f"{plan.moved} {moved}".lstrip(), outcomes)

    def _plan(self, preferred: tuple[str, ...], request: Request) -> _Plan:
        """Order the `preferred` models and hold them against what the call asks for."""
        models = self._settings.models
        ranked = catalog.rank(preferred, self._cards, request.weights or self._settings.select)
        allowed = self._allowed(ranked, request.need)
        if not allowed:
            moved = "The call rules out every model; the preferred one serves."
            allowed = self._in_order(ranked)
        elif allowed[0] != ranked[0]:
            moved = f"The call rules out {ranked[0]!r}{_size(request.need, models[ranked[0]])}."
        else:
            moved = ""
        return _Plan(allowed, catalog.candidates(allowed, models), moved)

    def _in_order(self, ranked: tuple[str, ...]) -> tuple[str, ...]:
        return ranked + tuple(name for name in self._settings.default.model_names if name not in ranked)

    def _allowed(self, ranked: tuple[str, ...], need: Need) -> tuple[str, ...]:
        """The models that may serve, best first: those of the route, then those of the default.

        Where none of them meets the need, any model of the catalogue that does.
        """
        models = self._settings.models
        meeting = tuple(name for name in self._in_order(ranked) if need.met_by(name, models[name]))
        return meeting or tuple(name for name, card in models.items() if need.met_by(name, card))


class _Noted:
    """A failure that may come with every prompt: the log says so at once, and then once a minute."""

    def __init__(self, message: str) -> None:
        self._message, self._next, self._said = message, 0.0, 0
        self.count = 0

    def note(self, error: str) -> None:
        """Count one, and write a line if it is time."""
        self.count += 1
        now = time.monotonic()
        if now < self._next:
            return
        _log.error("%s (%d prompts): %s", self._message, self.count - self._said, error)
        self._next, self._said = now + _QUIET_S, self.count


def encoder_for(index: RouteIndex, folder: Path) -> Encoder:
    """Open the encoder that made the vectors of `index`, which lies in `folder`. Raises EncoderError."""
    record = index.manifest.encoder
    if not is_spec(record.name):
        raise EncoderUnavailable(
            f"{folder}: built with an encoder {record.name!r} that no name opens; "
            "pass the object that made it: semroute.load(folder, encoder=...)"
        )
    return open_encoder(record.name, root=folder.absolute().parent, dim=record.dim)


def words_for(index: RouteIndex) -> Encoder | None:
    """The token table that the head of `index` was fitted with. Raises ArtifactMismatch."""
    wanted = index.manifest.fitted.words
    if wanted is None:
        return None
    words = open_words(index.manifest.encoder.name)
    found = None if words is None else words.identity.revision
    if words is None or found != wanted:
        raise ArtifactMismatch(
            f"The index was fitted with another token table ({wanted} -> {found}). Run `semroute build`."
        )
    head, width = index.fitted.head, index.manifest.encoder.dim + words.identity.dim
    if head is not None and head.weights.shape[1] != width:
        raise ArtifactMismatch(
            f"The head of the index is {head.weights.shape[1]} wide, not {width}. Run `semroute build`."
        )
    return words


def _check_encoder(index: RouteIndex, encoder: Encoder) -> None:
    record, identity = index.manifest.encoder, encoder.identity
    differing = [
        f"{part} {getattr(record, part)!r} -> {getattr(identity, part)!r}"
        for part in ("name", "revision", "dim", "preprocessing")
        if getattr(record, part) != getattr(identity, part)
    ]
    if differing:
        raise ArtifactMismatch(
            f"The index was built with another encoder ({'; '.join(differing)}). "
            "Run `semroute build`, or open the encoder it was built with."
        )


def remembers_alike(old: RouteIndex, new: RouteIndex) -> bool:
    """Whether the same outcomes count, in the same way."""
    before, after = old.config.settings, new.config.settings
    return (
        before.escalations == after.escalations
        and {name: card.quality for name, card in before.models.items()}
        == {name: card.quality for name, card in after.models.items()}
        and old.manifest.encoder == new.manifest.encoder
    )


def _default_limits(index: RouteIndex) -> Limits:
    settings, fitted = index.config.settings.vote, index.fitted
    return Limits(
        fitted.max_distance if settings.max_distance == "auto" else settings.max_distance,
        fitted.min_confidence if settings.min_confidence == "auto" else settings.min_confidence,
        settings.min_margin,
    )


def limits_of(index: RouteIndex) -> list[Limits]:
    """What each route of `index` must reach to win, in the order of the config."""
    routes, fitted = index.config.routes, index.fitted.route_min_confidence
    return [_own_limits(index, route, own) for route, own in zip(routes, fitted, strict=True)]


def _own_limits(index: RouteIndex, route: Route, fitted: float) -> Limits:
    """What the route says itself, else what the settings say, else what was fitted for it."""
    settings, default = index.config.settings.vote, _default_limits(index)
    confidence = fitted if settings.min_confidence == "auto" else settings.min_confidence
    return Limits(
        default.max_distance if route.max_distance is None else route.max_distance,
        confidence if route.min_confidence is None else route.min_confidence,
        default.min_margin,
    )


def _with_latencies(card: ModelCard, ttft_ms: float | None, itl_ms: float | None) -> ModelCard:
    measured = {"ttft_ms": ttft_ms, "itl_ms": itl_ms}
    return card.model_copy(update={key: value for key, value in measured.items() if value is not None})


def _size(need: Need, card: ModelCard) -> str:
    """That a prompt is too long, where it is."""
    if card.context_tokens is None or need.tokens <= card.context_tokens:
        return ""
    return f": about {need.tokens:,} tokens, and it reads {card.context_tokens:,}"


def _storable(text: str) -> str:
    """`text` without what neither UTF-8 nor PostgreSQL can hold, and no longer than a store takes."""
    return storable(text[:LONGEST_TEXT]) or " "


def _anonymous(error: Exception) -> str:
    """An error for the log, without anything that may hold prompt text: foreign messages are left out."""
    if isinstance(error, PromptError):  # names types only
        return str(error)
    if isinstance(error, SemrouteError):
        return f"{type(error).__name__}: {error}"
    frames = traceback.extract_tb(error.__traceback__)
    where = " <- ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames[-3:]))
    return f"{type(error).__name__} at {where}"


def _surest(votes: Sequence[Vote | None]) -> tuple[Vote | None, str]:
    """The vote with the highest confidence, the first of equals, and the part that it is on."""
    found = [(one, part) for one, part in zip(votes, PARTS, strict=False) if one is not None]
    return max(found, key=lambda pair: pair[0].confidence, default=(None, ""))


def _of_part(part: str, detail: str, *, accepted: bool) -> str:
    """`detail` of a decision, with the part of a long prompt that it speaks of."""
    if not part:
        return detail
    return f"The {part} of the prompt {'decided' if accepted else 'came closest'}: {detail}"
