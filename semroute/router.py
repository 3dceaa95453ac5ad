"""Router: the only place where a prompt becomes a Decision.

    prompt -> request -> snapshot (rules, encoder, index, vote, limits, models) -> Decision

Loading fails closed; routing fails open: whatever goes wrong with one prompt, the default serves it, and the
decision says so.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from semroute import index as route_index
from semroute.config import Weights
from semroute.decision import Decision, Vote
from semroute.encoders.base import clip
from semroute.errors import (
    ArtifactMismatch,
    OutcomeInvalid,
    StoreUnavailable,
    UnknownDecision,
)
from semroute.escalations import CASCADE, OPERATOR, OWN_NAMES, estimate
from semroute.escalations.memory import Memory, encoder_name
from semroute.index import RouteIndex
from semroute.request import read_request
from semroute.snapshot import LONGEST_TEXT, Seen, Snapshot, Verdict, encoder_for, remembers_alike, words_for
from semroute.telemetry import CLOSE_S, Decided, Event, Feed, Judged, Listener, Served
from semroute.text import Prompt, counted, is_blank, routed_text
from semroute.ulid import new_ulid
from semroute.vote import Limits

if TYPE_CHECKING:
    from semroute.decisionlog import Remembered
    from semroute.encoders.base import Encoder, Vectors
    from semroute.escalations.importing import GradedPrompt

_REMEMBERED = 10_000  # decisions about which feedback can be given


class _About(NamedTuple):
    """What feedback needs to know of a decision; `model` is who answered. No evidence without `seen`."""

    seen: Seen | None
    route: str | None
    model: str


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
        self._snapshot = Snapshot(index, encoder, words_for(index), self._memory_for(index))
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
        encoder = encoder or encoder_for(index, place)
        return cls(index, encoder, folder=place, listeners=listeners, log=log)

    def __repr__(self) -> str:
        counts = self.index.manifest.counts
        routes, utterances = counted(counts.routes, "route"), counted(counts.utterances, "utterance")
        return f"<Router: {routes}, {utterances}, {self._folder}>"

    @property
    def index(self) -> RouteIndex:
        """The index that answers now."""
        return self._snapshot.index

    @property
    def encoder(self) -> Encoder:
        """The encoder that answers now."""
        return self._snapshot.encoder

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
        request, fault = read_request(exclude, needs, max_usd_per_1m, weights, step, metadata, models)
        verdict = Verdict(None, "error", fault) if fault else snapshot.verdict(prompt, request)
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
        asked, _ = read_request(**request)
        verdict = Verdict(None, "error", detail)
        decision = snapshot.decision(verdict, snapshot.sized(prompt, asked), started)
        self._decided(decision, None, prompt, asked.step, tell=tell)
        return decision

    def settled(self, decision: Decision, route: str | None, prompt: Prompt, **request: Any) -> Decision:
        """`decision` with the route that an arbiter has picked instead; None is the default.

        prompt, request: what `decision` was made from. The id stays. Tells the listeners nothing, see `tell`.
        """
        started, snapshot = time.perf_counter(), self._snapshot
        asked, _ = read_request(**request)
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
        verdict = Verdict(route, "arbiter", detail, found, found.confidence, decision.rule, seen=seen)
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
        request, fault = read_request(exclude, needs, max_usd_per_1m, weights, step, metadata, models)
        faulty = [Verdict(None, "error", fault)] * len(prompts) if fault else None
        verdicts = faulty or snapshot.verdicts(prompts, request)
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
        """The outcomes this router knows. Raises NoStore when its settings name none."""
        return self._snapshot.remembering()

    def vectors(self, prompts: Sequence[str]) -> Vectors:
        """What outcomes on `prompts` are compared by, (n, dim) float32 unit rows. Raises EncoderError."""
        return self._snapshot.vectors(prompts)

    def limits(self) -> dict[str, Limits]:
        """What a vote for each route must reach: what the route or the settings say, else what was fitted."""
        return self._snapshot.limits

    def _decided(
        self, decision: Decision, seen: Seen | None, prompt: Prompt, step: str | None, *, tell: bool
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
        with open_log(settings.store, root=self.root) as log:
            return log.recall(identity)

    @property
    def root(self) -> Path:
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
        return _fed(self, LogWriter(settings.log, root=self.root, keep_vectors=shared))

    def _memory_for(self, index: RouteIndex, old: Snapshot | None = None) -> Memory | None:
        """The outcomes beside `index`; those of the `old` snapshot where nothing about them changed."""
        settings = index.config.settings
        address = settings.escalations.store if settings.escalations else None
        if settings.escalations is None or address is None:
            return None
        if old is not None and old.memory is not None and remembers_alike(old.index, index):
            return old.memory
        return Memory(
            settings.escalations,
            {name: card.quality for name, card in settings.models.items()},
            address=address,
            root=self.root,
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
            encoder = old.encoder if same_encoder else encoder_for(index, self._folder)
            memory = self._memory_for(index, old)
            self._follow_log(old.index, index)
            fresh = Snapshot(index, encoder, words_for(index), memory)
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
        return clip(routed_text(prompt), LONGEST_TEXT)
    except Exception:  # noqa: BLE001 - a prompt is whatever a caller hands in, and its decision says so
        return None
