"""Router: the only place where a prompt becomes a Decision.

    text -> rules -> encoder -> index -> vote -> limits -> models -> Decision

Loading fails closed; routing fails open: whatever goes wrong with one prompt, the default serves it, and the
decision says so.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import os
import threading
import time
import traceback
import weakref
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from pydantic import ValidationError

from semroute import catalog, vote
from semroute import index as route_index
from semroute.catalog import Need
from semroute.config import ModelCard, Route, Rule, Weights
from semroute.decision import Candidate, Decision, PastOutcome, Reason, Vote
from semroute.encoders import is_spec, open_encoder, open_words
from semroute.encoders.base import clip
from semroute.encoders.bundled import known_words
from semroute.errors import (
    ArtifactMismatch,
    EncoderUnavailable,
    EncodingFailed,
    OutcomeInvalid,
    SemrouteError,
    StoreUnavailable,
    UnknownDecision,
)
from semroute.escalations import CASCADE, OPERATOR, OWN_NAMES, Outcome, estimate, prompt_hash, trend
from semroute.escalations.memory import Memory, encoder_name
from semroute.index import Found, RouteIndex
from semroute.rules import Facts, RuleBook
from semroute.telemetry import CLOSE_S, Decided, Event, Feed, Judged, Listener, Served
from semroute.text import Prompt, PromptError, counted, estimated_tokens, is_blank, routed_text, storable
from semroute.ulid import new_ulid
from semroute.vote import NO_VOTE, Asked, Judge, Limits, head_view
from semroute.wording import PARTS, Reader

if TYPE_CHECKING:
    from semroute.decisionlog import Remembered
    from semroute.encoders.base import Encoder, Vectors
    from semroute.escalations.importing import GradedPrompt

_log = logging.getLogger("semroute")

_Parsed = TypeVar("_Parsed")
_LONG_TEXT = 4_000  # characters; of more the last decisions keep what feedback needs, and not the text
_QUIET_S = 60.0  # between two lines about the same failure
_LONGEST_TEXT = 100_000  # characters; more than any encoder reads
_REMEMBERED = 10_000  # decisions about which feedback can be given
_BATCH = 512  # prompts encoded at once
_LONGEST_NAME = 80  # characters of a name in a sentence


@dataclass(frozen=True, slots=True)
class _Request:
    """What a caller asks beside the prompt, in one form."""

    need: Need
    weights: Weights | None
    step: str | None
    metadata: Mapping[str, Any]


_RIGHT_WEIGHTS = "there are quality, cost, ttft and itl, each a number of 0 or more"
_PLAIN = _Request(Need(), None, None, {})
_NOTHING_ASKED = dict.fromkeys(("exclude", "needs", "max_usd_per_1m", "weights", "step", "metadata"))


class _Verdict(NamedTuple):
    """Which route serves and why, before a model is chosen. `models` is set where a rule names them."""

    route: str | None
    reason: Reason
    detail: str
    vote: Vote = NO_VOTE
    confidence: float = 0.0
    rule: str | None = None
    models: tuple[str, ...] = ()
    seen: _Seen | None = None


class _Seen(NamedTuple):
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


class _About(NamedTuple):
    """What feedback needs to know of a decision; `model` is who answered. No evidence without `seen`."""

    seen: _Seen | None
    route: str | None
    model: str


class _Voted(NamedTuple):
    """The vote on a text, None where there is no usable vector; of a long one, the part it is on.

    seen: what outcomes are compared by, where any are.
    """

    vote: Vote | None
    part: str
    seen: _Seen | None


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


class Router:
    """Decides which model serves a prompt. Safe to use from any number of threads.

    Each decision is made from one snapshot of index, encoder and rules; `reload` replaces the snapshot in one
    step, and decisions under way finish with the one they began with.
    """

    def __init__(
        self,
        index: RouteIndex,
        encoder: Encoder,
        *,
        folder: Path | None = None,
        listeners: Iterable[Listener] = (),
        log: bool = True,
    ) -> None:
        """Make a router over `index`; `folder` is where `reload` looks for the next one.

        listeners: are told of every decision, see `telemetry.Listener`.
        log: whether to write the decision log that the settings name. False to measure or to try.

        Raises ArtifactMismatch when `encoder` is not the one that made the vectors.
        """
        self._folder = folder
        self._snapshot = _Snapshot(index, encoder, _words_for(index), self._memory_for(index))
        self._reloading = threading.Lock()
        self._recent = _Recent()
        self._latencies: dict[str, tuple[float | None, float | None]] = {}
        self._logs = log
        self._log = self._log_for(index)
        self._feeds: tuple[Feed, ...] = () if self._log is None else (self._log,)
        for listener in listeners:
            self.listen(listener)

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike[str],
        *,
        encoder: Encoder | None = None,
        listeners: Iterable[Listener] = (),
        log: bool = True,
    ) -> Router:
        """Load the index in `folder`, verified, and open its encoder (or take the one given).

        listeners, log: as for `Router`. Raises ArtifactError or EncoderError.
        """
        place = Path(folder)
        index = route_index.load(place)
        encoder = encoder or _encoder_for(index, place)
        return cls(index, encoder, folder=place, listeners=listeners, log=log)

    def __repr__(self) -> str:
        counts = self.index.manifest.counts
        routes, utterances = counted(counts.routes, "route"), counted(counts.utterances, "utterance")
        return f"<Router: {routes}, {utterances}, {self._folder}>"

    @property
    def index(self) -> RouteIndex:
        """The index that answers now."""
        return self._snapshot.index

    def route(
        self,
        prompt: Prompt,
        *,
        exclude: Collection[str] | None = None,
        needs: Collection[str] | None = None,
        max_usd_per_1m: float | None = None,
        weights: Weights | Mapping[str, float] | str | None = None,
        step: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        models: Collection[str] | None = None,
        tell: bool = True,
    ) -> Decision:
        """Decide which model serves `prompt`. Never raises: on any fault the default serves, with the reason.

        prompt: text, or OpenAI-style messages, of which the text of the last user message is routed.
        exclude: names of models that must not serve.
        needs: capabilities the model must have declared, such as "tools" or "vision".
        max_usd_per_1m: US dollars per million prompt tokens the model may cost at most.
        weights: quality, cost, ttft and itl, or "router@q:1|c:0.005", in place of `select` of the settings.
        step, metadata: what rules may test beside the text.
        models: the only ones that may serve, in place of those of the route and the default.
        tell: False keeps the decision from the listeners, such as the decision log, until `tell` is called.
        """
        started = time.perf_counter()
        snapshot = self._snapshot
        request, fault = _request(exclude, needs, max_usd_per_1m, weights, step, metadata, models)
        verdict = fault or snapshot.verdict(prompt, request)
        decision = snapshot.decision(verdict, snapshot.sized(prompt, request), started)
        self._decided(decision, verdict.seen, prompt, request.step, tell=tell)
        return decision

    def tell(self, decision: Decision, prompt: Prompt, *, step: str | None = None, **_: Any) -> None:
        """Let the listeners hear of a decision that was made with `tell=False`, as it has become.

        prompt, step: what it was made from; other keywords of `route` may be given and change nothing.
        """
        known = self._recent.get(decision.id)
        self._decided(decision, None if known is None else known.seen, prompt, step, tell=True)

    def unrouted(self, prompt: Prompt, detail: str, *, tell: bool = True, **request: Any) -> Decision:
        """The decision for the default, because `prompt` could not be routed in time. Keywords of `route`."""
        started = time.perf_counter()
        snapshot = self._snapshot
        asked, _ = _request(**{**_NOTHING_ASKED, **request})
        verdict = _Verdict(None, "error", detail)
        decision = snapshot.decision(verdict, snapshot.sized(prompt, asked), started)
        self._decided(decision, None, prompt, asked.step, tell=tell)
        return decision

    def settled(self, decision: Decision, route: str | None, prompt: Prompt, **request: Any) -> Decision:
        """`decision` with the route that an arbiter has picked instead; None is the default.

        prompt, request: what `decision` was made from. The id stays. Tells the listeners nothing, see `tell`.
        """
        started, snapshot = time.perf_counter(), self._snapshot
        asked, _ = _request(**{**_NOTHING_ASKED, **request})
        known = self._recent.get(decision.id)
        seen = None if known is None else known.seen
        found = Vote(
            decision.scores,
            decision.neighbors,
            decision.similarity,
            decision.margin,
            decision.scores.get(route or "", decision.confidence),
        )
        detail = f"The arbiter picked {'none of the routes' if route is None else repr(route)}."
        verdict = _Verdict(route, "arbiter", detail, found, found.confidence, decision.rule, seen=seen)
        fresh = snapshot.decision(verdict, snapshot.sized(prompt, asked), started)
        settled = replace(fresh, id=decision.id, elapsed_ms=decision.elapsed_ms + fresh.elapsed_ms)
        if known is not None:
            self._recent.add(settled.id, _About(seen, settled.route, settled.model))
        return settled

    def answered(self, decision: str, model: str) -> None:
        """Let feedback on the decision of this id be about `model`, which answered in place of another."""
        known = self._recent.get(decision)
        if known is not None:
            self._recent.add(decision, known._replace(model=model))

    def measure(self, latencies: Mapping[str, tuple[float | None, float | None]]) -> None:
        """Let weights of `ttft` and `itl` count what was measured, in milliseconds, not what cards say.

        latencies: until the first token and between tokens, by model; None where nothing was measured.
        """
        with self._reloading:
            self._latencies = dict(latencies)
            self._snapshot = self._snapshot.measured(self._latencies)

    def route_many(
        self,
        prompts: Iterable[Prompt],
        *,
        exclude: Collection[str] | None = None,
        needs: Collection[str] | None = None,
        max_usd_per_1m: float | None = None,
        weights: Weights | Mapping[str, float] | str | None = None,
        step: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        models: Collection[str] | None = None,
        tell: bool = True,
    ) -> list[Decision]:
        """`route` for many prompts, in their order, encoded together; the keywords hold for all of them.

        `elapsed_ms` of each decision is its share of the time the whole took. Raises TypeError when `prompts`
        is a single text, which is a list of its letters to Python and surely not meant.
        """
        if isinstance(prompts, str):
            raise TypeError("route_many takes a list of prompts; for one prompt there is route()")
        started = time.perf_counter()
        snapshot = self._snapshot
        prompts = list(prompts)
        request, fault = _request(exclude, needs, max_usd_per_1m, weights, step, metadata, models)
        verdicts = [fault] * len(prompts) if fault else snapshot.verdicts(prompts, request)
        decisions = [
            snapshot.decision(verdict, snapshot.sized(prompt, request), started)
            for prompt, verdict in zip(prompts, verdicts, strict=True)
        ]
        share = (time.perf_counter() - started) * 1_000.0 / max(len(prompts), 1)
        decisions = [replace(decision, elapsed_ms=share) for decision in decisions]
        for decision, verdict, prompt in zip(decisions, verdicts, prompts, strict=True):
            self._decided(decision, verdict.seen, prompt, request.step, tell=tell)
        return decisions

    async def aroute(self, prompt: Prompt, **request: Any) -> Decision:
        """`route` in a worker thread, so that the event loop goes on meanwhile. Same keywords."""
        return await asyncio.to_thread(self.route, prompt, **request)

    def feedback(self, decision: Decision | str, score: float, *, by: str | None = None) -> str:
        """Store how good the model of a decision was, from 0 to 1, and return the id of the outcome.

        decision: or its id, of one of the last 10,000 decisions of this router, or any in the decision log.
        by: who says so; None is the operator, who is believed without another and has no quota.

        Durable when it returns, and counted from the next prompt on, where there is a store of outcomes and
        the prompt's vector is known; the listeners, such as the decision log, hear of it in any case. Raises
        UnknownDecision, OutcomeInvalid, QuotaExceeded or another StoreError; routing is not touched by any.
        """
        return self._store_outcome(decision, score, _named(by), origin="feedback")

    def escalate(
        self, decision: Decision | str, *, to: str, by: str | None = None, why: str | None = None
    ) -> str:
        """Store that the model of a decision was not good enough and `to` was needed; as `feedback` of 0."""
        return self._store_outcome(decision, 0.0, _named(by), origin="escalation", escalated_to=to, why=why)

    def rejected(self, decision: Decision | str, *, to: str, why: str | None = None) -> str:
        """Store that a cascade rejected the answer of a decision's model, and asked `to`. As `escalate`."""
        return self._store_outcome(decision, 0.0, CASCADE, origin="escalation", escalated_to=to, why=why)

    def served(
        self,
        decision: Decision | str,
        *,
        model: str | None = None,
        prompt_tokens: int | None = None,
        completion_tokens: int | None = None,
        latency_ms: float | None = None,
        ttft_ms: float | None = None,
        error: str | None = None,
        purpose: str | None = None,
    ) -> None:
        """Tell the listeners that a model was called for a decision, or its id, and what that took.

        Once for each call: the first model that failed, then the fallback that answered. Only what the
        provider counted belongs in prompt_tokens and completion_tokens; what is not known is left out.

        model: who was called, the decision's where left out. latency_ms, ttft_ms: milliseconds until the
        whole answer, and until its first token. error: why there was no answer, briefly, without prompt text.
        purpose: what the call was for, where it was not the answer: "arbiter", "judge", or a word of yours.

        Waits for nothing. Feedback is then about the model that answered. An id may be any: another replica
        may have made the decision. What is told of one that nobody made stands in the log beside nothing, and
        counts in nothing. Raises OutcomeInvalid for values that cannot be and models that are not declared.
        """
        identity = decision.id if isinstance(decision, Decision) else decision
        known = self._recent.get(identity)
        called = model or (decision.model if isinstance(decision, Decision) else known and known.model)
        event = Served(
            id=identity,
            time=time.time(),
            model=called,
            purpose=purpose,
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            latency_ms=latency_ms,
            ttft_ms=ttft_ms,
            error=error,
        )
        self._snapshot.check_model(model)
        if known is not None and called is not None and error is None and purpose is None:
            self._recent.add(identity, known._replace(model=called))
        self._tell(replace(event, usd=self._snapshot.usd(called, prompt_tokens, completion_tokens)))

    def listen(self, listener: Listener) -> None:
        """Tell `listener` of every decision from now on, and of what becomes of it.

        It is called in a thread of its own, and may be slow or raise: routing waits for nothing.
        """
        with self._reloading:
            self._feeds = (*self._feeds, _fed(self, listener))

    @property
    def dropped(self) -> int:
        """How many events some listener was never told of, in this process: it was too slow."""
        return sum(feed.dropped for feed in self._feeds)

    @property
    def without_outcomes(self) -> int:
        """How many prompts were routed without outcomes because asking them failed, since the last reload."""
        return self._snapshot.without_outcomes.count

    def flush(self, timeout: float = CLOSE_S) -> bool:
        """Wait until the listeners were told of everything so far, at most `timeout` seconds.

        Returns whether they were.
        """
        deadline = time.monotonic() + timeout
        told = [feed.flush(max(0.0, deadline - time.monotonic())) for feed in self._feeds]
        return all(told)

    def close(self, timeout: float = CLOSE_S) -> None:
        """Tell the listeners what waits, for at most `timeout` seconds, and let go of log and store.

        A process that ends does so by itself. The router goes on routing; nobody is told of it.
        """
        deadline = time.monotonic() + timeout
        for feed in self._feeds:
            feed.close(max(0.0, deadline - time.monotonic()))
        if self._snapshot.memory is not None:
            self._snapshot.memory.close()

    def add_outcome(
        self,
        prompt: str,
        model: str,
        score: float,
        *,
        by: str | None = None,
        escalated_to: str | None = None,
        why: str | None = None,
    ) -> str:
        """Store an outcome on a prompt that was not routed here, and return its id. Raises as `feedback`."""
        origin = "feedback" if escalated_to is None else "escalation"
        said = {"origin": origin, "escalated_to": escalated_to, "why": why}
        snapshot, memory = self._snapshot, self.memory
        if escalated_to == model:
            raise OutcomeInvalid("escalated_to", f"is {model!r}, the model that was not good enough")
        if escalated_to is not None and score:
            raise OutcomeInvalid("score", "must be 0 where another model was needed")
        if is_blank(prompt):
            raise OutcomeInvalid("prompt", "is empty: there is nothing that another prompt could be like")
        outcome = snapshot.outcome(snapshot.seen(prompt), model, score, id=new_ulid(), by=_named(by), **said)
        memory.add([outcome])
        return outcome.id

    def import_outcomes(
        self, graded: Sequence[GradedPrompt], progress: Callable[[int, int], None] | None = None
    ) -> int:
        """Store graded prompts as the operator; returns how many outcomes were new.

        One that has the score which counts already is not stored again. Raises StoreError or EncoderError.
        """
        return self._snapshot.import_outcomes(graded, progress)

    def expected(
        self, prompts: Sequence[str], routes: Sequence[str | None]
    ) -> list[dict[str, estimate.Estimate]]:
        """What outcomes say of every model on each of `prompts`, served by that one of `routes`.

        Without support where nothing was ever stored. Raises StoreUnavailable or EncoderError.
        """
        return self._snapshot.expected(prompts, routes)

    @property
    def memory(self) -> Memory:
        """The outcomes this router knows. Raises StoreUnavailable when its settings name no store."""
        return self._snapshot.remembering()

    def vectors(self, prompts: Sequence[str]) -> Vectors:
        """What outcomes on `prompts` are compared by, (n, dim) float32 unit rows. Raises EncoderError."""
        snapshot = self._snapshot
        batches = (prompts[start : start + _BATCH] for start in range(0, len(prompts), _BATCH))
        return np.concatenate([snapshot.vectors(batch) for batch in batches])

    def limits(self) -> dict[str, Limits]:
        """What a vote for each route must reach: what the route or the settings say, else what was fitted."""
        return self._snapshot.limits

    def _decided(
        self, decision: Decision, seen: _Seen | None, prompt: Prompt, step: str | None, *, tell: bool
    ) -> None:
        """Remember a decision, and tell of it."""
        if seen is not None or self._feeds:
            kept = None if seen is None else self._snapshot.kept(seen)
            self._recent.add(decision.id, _About(kept, decision.route, decision.model))
        if self._feeds and tell:
            about = (None, None) if seen is None else (seen.vector, seen.encoder)
            self._tell(Decided(decision, time.time(), _text_of(prompt), step, *about))

    def _tell(self, event: Event) -> None:
        for feed in self._feeds:
            feed.put(event)

    def _store_outcome(
        self,
        decision: Decision | str,
        score: float,
        by: str,
        *,
        origin: str,
        escalated_to: str | None = None,
        why: str | None = None,
    ) -> str:
        identity = decision.id if isinstance(decision, Decision) else decision
        snapshot = self._snapshot
        if self._log is None:
            snapshot.remembering()
        about = self._about(decision)
        event = Judged(
            id=identity,
            time=time.time(),
            outcome=new_ulid(),
            score=score,
            by=by,
            model=about.model,
            escalated_to=escalated_to,
        )
        snapshot.check_model(escalated_to)
        if about.seen is not None and snapshot.memory is not None:
            outcome = snapshot.outcome(
                about.seen,
                about.model,
                event.score,
                id=event.outcome,
                by=event.by,
                decision_id=identity,
                route=about.route,
                origin=origin,
                escalated_to=escalated_to,
                why=why,
            )
            try:
                snapshot.memory.add([outcome])
            except StoreUnavailable:
                if self._snapshot.memory is snapshot.memory:
                    raise
                # A reload closed that store meanwhile: it is for the new one.
                return self._store_outcome(
                    decision, score, by, origin=origin, escalated_to=escalated_to, why=why
                )
        self._tell(event)
        return event.outcome

    def _about(self, decision: Decision | str) -> _About:
        """What is known of a decision: here, or in the log. Raises UnknownDecision or StoreError."""
        identity = decision.id if isinstance(decision, Decision) else decision
        known = self._recent.get(identity)
        if known is None and self._log is not None:
            found = self._recall(identity)
            if found is not None:
                known = _About(self._snapshot.seen_before(found), found.route, found.model)
            elif isinstance(decision, Decision):
                known = _About(None, decision.route, decision.model)
        if known is None or (known.seen is None and self._log is None):
            raise UnknownDecision(
                "decision",
                f"{identity!r} is not among the last {_REMEMBERED:,} of this router with a vector"
                + ("" if self._log is None else ", nor in the decision log"),
            )
        return known

    def _recall(self, identity: str) -> Remembered | None:
        """What the decision log holds of a decision of another process, or of long ago."""
        from semroute.decisionlog import open_log

        settings = self.index.config.settings.log
        if settings is None:
            return None
        with open_log(settings.store, root=self._root) as log:
            return log.recall(identity)

    @property
    def _root(self) -> Path:
        """The folder that relative paths in the settings start from."""
        return (self._folder or Path("index")).absolute().parent

    def _log_for(self, index: RouteIndex) -> Feed | None:
        """The decision log that the settings of `index` name."""
        settings = index.config.settings
        if settings.log is None or not self._logs:
            return None
        from semroute.decisionlog.writer import LogWriter

        # Only there: the hash of the prompt must be under the key of the store of outcomes.
        shared = settings.escalations is not None and settings.escalations.store == settings.log.store
        return _fed(self, LogWriter(settings.log, root=self._root, keep_vectors=shared))

    def _memory_for(self, index: RouteIndex, old: _Snapshot | None = None) -> Memory | None:
        """The outcomes beside `index`; those of the `old` snapshot where nothing about them changed."""
        settings = index.config.settings
        address = settings.escalations.store if settings.escalations else None
        if settings.escalations is None or address is None:
            return None
        if old is not None and old.memory is not None and _remembers_alike(old.index, index):
            return old.memory
        return Memory(
            settings.escalations,
            {name: card.quality for name, card in settings.models.items()},
            address=address,
            root=self._root,
            encoder=encoder_name(index.manifest.encoder.model_dump()),
            dim=index.manifest.encoder.dim,
        )

    def reload(self) -> None:
        """Load the folder again and answer from what it holds now.

        Raises ArtifactError or EncoderError when the new index is bad; the old one then goes on answering.
        """
        if self._folder is None:
            raise ArtifactMismatch("This router was not loaded from a folder: there is nothing to reload.")
        with self._reloading:
            index = route_index.load(self._folder)
            old = self._snapshot
            same_encoder = index.manifest.encoder == old.index.manifest.encoder
            encoder = old.encoder if same_encoder else _encoder_for(index, self._folder)
            memory = self._memory_for(index, old)
            self._follow_log(old.index, index)
            fresh = _Snapshot(index, encoder, _words_for(index), memory)
            self._snapshot = fresh.measured(self._latencies) if self._latencies else fresh
            if old.memory is not None and old.memory is not memory:
                old.memory.close()

    def _follow_log(self, old: RouteIndex, new: RouteIndex) -> None:
        """Write to the log that the settings name now."""
        before, after = old.config.settings, new.config.settings
        if (before.log, before.escalations) == (after.log, after.escalations):
            return
        former, self._log = self._log, self._log_for(new)
        others = tuple(feed for feed in self._feeds if feed is not former)
        self._feeds = others if self._log is None else (self._log, *others)
        if former is not None:
            former.close(0.0)  # what waits there is told all the same, by its thread


class _Snapshot:
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
        self._plans = {names: self._plan(names, _PLAIN) for names in set(self._models_of.values())}
        self._reader = Reader(self._texts, known_words(index.manifest.encoder.name))
        self._judge = Judge(index.fitted, self._names)
        self._default_limits = _default_limits(index)
        self.limits = dict(zip(self._names, limits_of(index), strict=True))
        self.without_outcomes = _Noted("Routing goes on without outcomes")

    def measured(self, latencies: Mapping[str, tuple[float | None, float | None]]) -> _Snapshot:
        """The same, with `latencies` in place of what the cards say of them."""
        found = copy.copy(self)
        found._cards = {
            name: _with_latencies(card, *latencies.get(name, (None, None)))
            for name, card in self._settings.models.items()
        }
        found._plans = {names: found._plan(names, _PLAIN) for names in self._plans}
        return found

    def sized(self, prompt: Prompt, request: _Request) -> _Request:
        """`request` with the size of `prompt`, where that is more than some model can read."""
        if self._least_context is None or (tokens := estimated_tokens(prompt)) <= self._least_context:
            return request
        return replace(request, need=replace(request.need, tokens=tokens))

    def verdict(self, prompt: Prompt, request: _Request) -> _Verdict:
        """What serves one prompt: by a rule where one decides, else by the vote of its neighbours."""
        waiting = self._without_vote(prompt, request)
        if isinstance(waiting, _Verdict):
            return waiting
        return self._by_vote([waiting.text], waiting.rule)[0]

    def verdicts(self, prompts: Sequence[Prompt], request: _Request) -> list[_Verdict]:
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
        return [verdict for verdict in verdicts if isinstance(verdict, _Verdict)]

    def decision(self, verdict: _Verdict, request: _Request, started: float) -> Decision:
        """Choose the model for `verdict` and write the decision; `started` by `time.perf_counter`."""
        reason, detail = verdict.reason, verdict.detail
        asked = tuple(name for name in request.need.models if name in self._settings.models)
        preferred = asked or verdict.models or self._models_of[verdict.route]
        plan = self._plans.get(preferred) if request is _PLAIN else None
        plan = plan or self._plan(preferred, request)
        if verdict.seen is not None:
            plan = self._with_evidence(plan, verdict.seen, verdict.route, request)
        if request is not _PLAIN:
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

    def _without_vote(self, prompt: Prompt, request: _Request) -> _Verdict | _Waiting:
        """The verdict where no vote is needed, else the text that waits for one."""
        try:
            text = routed_text(prompt)
            rule = self._rules.first_match(Facts(text, request.step, request.metadata))
        except Exception as error:  # noqa: BLE001 - prompt and metadata are whatever a caller hands in
            _log.error("The default serves 1 prompt: %s", _anonymous(error))
            said = str(error) if isinstance(error, PromptError) else f"unreadable ({type(error).__name__})"
            return _Verdict(None, "error", f"The default serves: {said}.")
        if rule is not None and not rule.only:
            return _Verdict(
                route=rule.route,
                reason="rule",
                detail=f"Rule {rule.name!r} holds.",
                confidence=1.0,
                rule=rule.name,
                models=rule.model_names,
            )
        # No encoder reads more than some of its start and end, and none takes half a surrogate pair.
        text = clip(text, _LONGEST_TEXT)
        if is_blank(text):
            name = None if rule is None else rule.name
            return _Verdict(None, "empty_prompt", "There is no text to route.", rule=name)
        return _Waiting(text, rule)

    def _by_vote(self, texts: Sequence[str], rule: Rule | None) -> list[_Verdict]:
        name = None if rule is None else rule.name
        only = None
        if rule is not None and rule.only:
            only = frozenset(self._places[route] for route in rule.only)
        try:
            votes = self._votes(texts, only)
        except Exception as error:  # noqa: BLE001 - an encoder may be anyone's; the prompt must be served
            _log.error("The default serves %d prompt(s): %s", len(texts), _anonymous(error))
            detail = f"The encoder failed ({type(error).__name__})."
            return [_Verdict(None, "error", detail, rule=name) for _ in texts]
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
                seen = _Seen(text, vectors[place], encoder=self.memory.encoder)
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

    def _judged(self, voted: _Voted, rule: str | None) -> _Verdict:
        found = voted.vote
        if found is None:
            return _Verdict(None, "error", "The encoder gave no usable vector for this text.", rule=rule)
        judged = vote.judge(found, self.limits.get(found.best or "", self._default_limits))
        return _Verdict(
            route=found.best if judged.accepted else None,
            reason=judged.reason,
            detail=_of_part(voted.part, judged.detail, accepted=judged.accepted),
            vote=found,
            confidence=found.confidence,
            rule=rule,
            seen=voted.seen,
        )

    def remembering(self) -> Memory:
        """The outcomes. Raises StoreUnavailable when the settings name no store."""
        if self.memory is None:
            cure = "name one in semroute.yaml, such as escalations: {store: sqlite:semroute.db}, and build"
            raise StoreUnavailable(f"there is no store of outcomes: {cure}")
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

    def seen_before(self, found: Remembered) -> _Seen | None:
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
        return _Seen("", found.vector, found.features, found.prompt_hash, self.memory.encoder)

    def kept(self, seen: _Seen) -> _Seen:
        """`seen` as it is remembered: of a long text what is made of it, where that is enough."""
        key = None if self.memory is None else self.memory.known_key
        keeps_text = self._settings.escalations is not None and self._settings.escalations.keep_text
        if len(seen.text) <= _LONG_TEXT or key is None or keeps_text:
            return seen
        return seen._replace(text="", features=seen.read_features(), hashed=prompt_hash(seen.text, key))

    def seen(self, prompt: str) -> _Seen:
        """A prompt as outcomes are compared by. Raises EncoderError."""
        return _Seen(prompt, self.vectors([prompt])[0])

    def vectors(self, prompts: Sequence[str]) -> Vectors:
        """Those of the prompts as they are read, (n, dim) float32. Raises EncoderError."""
        vectors = self.encoder.encode([self._reader.readings(prompt)[0] for prompt in prompts], kind="query")
        route_index.check_array(vectors, self.index.manifest.encoder.dim)
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

    def outcome(self, seen: _Seen, model: str, score: float, *, id: str, **said: Any) -> Outcome:  # noqa: A002
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
                    _Seen(row.prompt, vector, trend.features(row.prompt), prompt_hash(row.prompt, key))
                ]
                for model, score in row.scores.items()
            ]
            added += memory.add_imports(outcomes, is_last=start + _BATCH >= len(graded))
            if progress is not None:
                progress(start + len(batch), len(graded))
        return added

    def _with_evidence(self, plan: _Plan, seen: _Seen, route: str | None, request: _Request) -> _Plan:
        """`plan` as outcomes on such prompts would have it. Where they fail, as it is."""
        try:
            return self._weighed(plan, seen, route, request)
        except Exception as error:  # noqa: BLE001 - the signal is an extra: the prompt must be served
            self.without_outcomes.note(_anonymous(error))
            return plan

    def _weighed(self, plan: _Plan, seen: _Seen, route: str | None, request: _Request) -> _Plan:
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

    def _plan(self, preferred: tuple[str, ...], request: _Request) -> _Plan:
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


class _Recent:
    """The last decisions, by id: what feedback needs to know of them.

    Without a lock, which a forked child might find held: each step is one of the dictionary's own.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[str, _About] = OrderedDict()

    def add(self, identity: str, about: _About) -> None:
        """Remember one, and forget the oldest of too many."""
        self._known[identity] = about
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)

    def get(self, identity: str) -> _About | None:
        """What is remembered of a decision."""
        return self._known.get(identity)


def _fed(router: Router, listener: Listener) -> Feed:
    """A feed that ends when its router is gone."""
    feed = Feed(listener)
    weakref.finalize(
        router, feed.close, 0.0
    ).atexit = False  # what a process does at its end, see `telemetry`
    return feed


def _named(by: str | None) -> str:
    """The principal; only None is the operator. Raises OutcomeInvalid for a name of the router's own."""
    if by in OWN_NAMES:
        raise OutcomeInvalid("by", f"must not be {by!r}: None is the operator, and no user has that name")
    return OPERATOR if by is None else by


def _text_of(prompt: Prompt) -> str | None:
    """The text of a prompt as outcomes hash it; None where it cannot be read."""
    try:
        return clip(routed_text(prompt), _LONGEST_TEXT)
    except Exception:  # noqa: BLE001 - a prompt is whatever a caller hands in, and its decision says so
        return None


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
    return storable(text[:_LONGEST_TEXT]) or " "


def _remembers_alike(old: RouteIndex, new: RouteIndex) -> bool:
    """Whether the same outcomes count, in the same way."""
    before, after = old.config.settings, new.config.settings
    return (
        before.escalations == after.escalations
        and {name: card.quality for name, card in before.models.items()}
        == {name: card.quality for name, card in after.models.items()}
        and old.manifest.encoder == new.manifest.encoder
    )


def _request(
    exclude: Collection[str] | None,
    needs: Collection[str] | None,
    max_usd_per_1m: float | None,
    weights: Weights | Mapping[str, float] | str | None,
    step: str | None,
    metadata: Mapping[str, Any] | None,
    models: Collection[str] | None = None,
) -> tuple[_Request, _Verdict | None]:
    """The arguments of a call in one form; and what answers it where one of them is wrong.

    The others hold all the same: a model that is excluded must not serve because a weight was misspelt.
    """
    if all(value is None for value in (exclude, needs, max_usd_per_1m, weights, metadata, models)):
        return (_PLAIN if step is None else replace(_PLAIN, step=step)), None
    faults: list[str] = []
    need = Need(
        exclude=_parsed("exclude", _names, exclude, faults) or frozenset(),
        capabilities=_parsed("needs", _names, needs, faults) or frozenset(),
        max_usd_per_1m=_parsed("max_usd_per_1m", float, max_usd_per_1m, faults),
        models=_parsed("models", tuple, models, faults) or (),
    )
    request = _Request(
        need,
        _parsed("weights", _weights, weights, faults),
        step,
        _parsed("metadata", _mapping, metadata, faults) or {},
    )
    if not faults:
        return request, None
    return request, _Verdict(None, "error", f"The default serves: {'; '.join(faults)}.")


def _parsed(name: str, parse: Callable[[Any], _Parsed], value: Any, faults: list[str]) -> _Parsed | None:
    """`value` in its one form; None, and a fault, where it cannot be had."""
    if value is None:
        return None
    try:
        return parse(value)
    except Exception as error:  # noqa: BLE001 - an argument is whatever a caller hands in
        faults.append(f"bad {name} ({_first_line(error)})")
        return None


def _weights(weights: Weights | Mapping[str, float] | str) -> Weights:
    try:
        if isinstance(weights, str):
            return catalog.parse_weights(weights)
        return weights if isinstance(weights, Weights) else Weights.model_validate(dict(weights))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{_first_line(error)}; {_RIGHT_WEIGHTS}") from error


def _mapping(metadata: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(metadata, Mapping):
        raise ValueError(f"must be a mapping such as {{'plan': 'vip'}}, not {type(metadata).__name__}")  # noqa: TRY004
    return dict(metadata)


def _names(names: Collection[str]) -> frozenset[str]:
    return frozenset((names,) if isinstance(names, str) else names)


def _first_line(error: Exception) -> str:
    """What is wrong with an argument, on one line: pydantic's errors take several."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
    return f"{kind}{error}".split("\n", 1)[0]


def _anonymous(error: Exception) -> str:
    """An error for the log, without anything that may hold prompt text: foreign messages are left out."""
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


def _default_limits(index: RouteIndex) -> Limits:
    settings, fitted = index.config.settings.vote, index.fitted
    return Limits(
        fitted.max_distance if settings.max_distance == "auto" else settings.max_distance,
        fitted.min_confidence if settings.min_confidence == "auto" else settings.min_confidence,
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
    )


def _encoder_for(index: RouteIndex, folder: Path) -> Encoder:
    record = index.manifest.encoder
    if not is_spec(record.name):
        raise EncoderUnavailable(
            f"{folder}: built with an encoder {record.name!r} that no name opens; "
            "pass the object that made it: semroute.load(folder, encoder=...)"
        )
    return open_encoder(record.name, root=folder.absolute().parent, dim=record.dim)


def _words_for(index: RouteIndex) -> Encoder | None:
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
