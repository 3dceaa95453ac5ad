"""What the router remembers: a store, and an estimator that follows it.

Routing reads a finished estimator and waits for nothing. Writing is durable when it returns, and what was
written counts from the next prompt on; what other processes write is noticed within a second. When the store
is gone, routing goes on with what was known, and the log says so once.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import threading
import time
import weakref
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from semroute.errors import OutcomeInvalid, QuotaExceeded, StoreError, StoreReplaced
from semroute.escalations import (
    OPERATOR,
    OWN_NAMES,
    Event,
    Outcome,
    Record,
    Store,
    is_there,
    open_store,
)
from semroute.escalations.estimate import Estimate, Estimator, Prompt, Trust
from semroute.escalations.nearby import BLOCK
from semroute.escalations.outcome import said_about
from semroute.escalations.replay import Hidden
from semroute.escalations.rows import batches

if TYPE_CHECKING:
    from semroute.config import EscalationSettings
    from semroute.decision import PastOutcome

_log = logging.getLogger("semroute")

_QUOTA_SECONDS = 86_400.0
_AHEAD_SECONDS = 60.0  # how far the clocks of processes may differ
_BATCH = 1_000  # records taken in at once
_OVERDUE = 16 * BLOCK  # new outcomes that are merged by who brings them, where nobody else does
_CLOSED = -1  # no process
_QUIET, _LONG = 2.0, 30.0  # seconds after the last and the first imported outcome, to learn from them
_WAIT = 1.0  # seconds that one look at the store waits for news
_RETRY = 5.0  # seconds between two tries to reach a store that is gone

_starting = threading.Lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_starting.acquire, after_in_parent=_starting.release, after_in_child=_starting.release
    )


class Memory:
    """Outcomes of one store, for the models of one router. Safe to use from any number of threads."""

    def __init__(
        self,
        settings: EscalationSettings,
        priors: Mapping[str, float | None],
        *,
        address: str,
        root: Path,
        encoder: str,
        dim: int,
    ) -> None:
        """Remember what the store at `address` holds, if it can be reached.

        priors: each model's declared quality. address, root: see `open_store`.
        encoder: name of the encoder, see `encoder_name`; outcomes with vectors of another one do not count.
        dim: numbers in a vector of it.
        """
        self._settings, self._priors = settings, dict(priors)
        self._address, self._root, self._encoder, self._dim = address, root, encoder, dim
        self._writing = threading.Lock()
        self._store: Store | None = None
        self._pid: int | None = None
        self._is_lost = False
        self._known = self._nothing_known()
        self._refresh()

    @property
    def encoder(self) -> str:
        """Name of the encoder whose vectors are compared."""
        return self._encoder

    def __len__(self) -> int:
        """How many outcomes count."""
        return len(self._known.estimator)

    def is_empty(self) -> bool:
        """Whether no outcome counts. From the first time this is asked the store is watched."""
        self._follow()
        return not len(self)

    def estimates(self, prompt: Prompt, models: Sequence[str]) -> dict[str, Estimate]:
        """What to expect of `models` on `prompt`."""
        return self._known.estimator.estimate(prompt, models, time.time())

    def nearest(self, prompt: Prompt, model: str) -> tuple[PastOutcome, ...]:
        """The outcomes of `model` on the prompts most like this one."""
        return tuple(self._known.estimator.nearest(prompt, model))

    def key(self) -> bytes:
        """The secret of prompt hashes. Raises StoreError."""
        self._follow()
        return self._opened().key

    @property
    def known_key(self) -> bytes | None:
        """The secret, where the store has been opened; asks nobody."""
        store = self._store
        return None if store is None else store.key

    def known_ids(self, ids: Sequence[str]) -> set[str]:
        """Those of `ids` that are in the store, of outcomes or events, or were. Raises StoreError."""
        return self._opened().known(ids) if self._is_there() else set()

    def outcomes(self) -> Iterator[Outcome]:
        """The outcomes of the store that count, in order, as they are now. Raises StoreError."""
        return counting(self._opened()) if self._is_there() else iter(())

    def by_principal(self, by: str) -> list[str]:
        """The ids of all that a principal stored, whether or not it counts. Raises StoreError."""
        records = self._opened().read() if self._is_there() else ()
        entries = (record.entry for record in records)
        return [entry.id for entry in entries if isinstance(entry, Outcome) and entry.by == by]

    def add(self, outcomes: Sequence[Outcome]) -> None:
        """Store outcomes, durably; they count from now on. An id that is known already is left out.

        Raises OutcomeInvalid for an unknown model or another encoder's vector, QuotaExceeded, or another
        StoreError.
        """
        self._check(outcomes)
        with self._held() as store:
            known = store.known([outcome.id for outcome in outcomes])
            fresh = [outcome for outcome in outcomes if outcome.id not in known]
            self._check_quotas(fresh)
            self._append(store, fresh)

    def add_imports(self, outcomes: Sequence[Outcome], *, is_last: bool = True) -> int:
        """Store imported outcomes, durably; returns how many were new. A trend is learnt after the last.

        One is known already where the same principal has the same score for that prompt and model, and it
        counts. Raises as `add`.
        """
        self._check(outcomes)
        with self._held() as store:
            self._catch_up(store)
            fresh = self._known.estimator.changing(outcomes)
            self._append(store, fresh)
        if is_last:
            self._learn()
        return len(fresh)

    def say(self, event: Event) -> int:
        """Store an event; returns how many outcomes fewer count now, negative for more. Raises StoreError."""
        with self._held() as store:
            self._catch_up(store)
            before = len(self._known.estimator)
            store.append_event(event)
            self._catch_up(store)
            return before - len(self._known.estimator)

    def forget(self, *, ids: Sequence[str] = (), prompt_hash: bytes | None = None) -> int:
        """Erase outcomes for ever, as the operator; returns how many there were. Raises StoreError."""
        with self._held() as store:
            erased = store.forget(by=OPERATOR, time=time.time(), ids=ids, prompt_hash=prompt_hash)
            self._read_anew(store)  # what is erased there must not be remembered here
        return erased

    def close(self) -> None:
        """Stop following, and let go of the store."""
        self._pid = _CLOSED
        if self._store is not None:
            self._store.close()

    def _is_there(self) -> bool:
        return is_there(self._address, root=self._root)

    def _check(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            for model in filter(None, (outcome.model, outcome.escalated_to)):
                if model not in self._priors:
                    known = ", ".join(sorted(self._priors))
                    raise OutcomeInvalid("model", f"{model!r} is not declared; the settings have {known}")
            if outcome.encoder != self._encoder or len(outcome.vector) != self._dim:
                raise OutcomeInvalid(
                    "vector", f"is one of {outcome.encoder}, and the index was built with {self._encoder}"
                )

    def _check_quotas(self, outcomes: Sequence[Outcome]) -> None:
        wanted: dict[str, int] = defaultdict(int)
        for outcome in outcomes:
            wanted[outcome.by] += outcome.by not in OWN_NAMES
        now, most = time.time(), self._settings.quota_per_day
        for by, count in wanted.items():
            stored = self._known.quotas.stored(by, now)
            if count and stored + count > most:
                raise QuotaExceeded(
                    f"{by!r} has stored {stored} outcomes in 24 hours; quota_per_day is {most}"
                )

    def _opened(self) -> Store:
        if self._store is None:
            self._store = open_store(self._address, root=self._root)
        return self._store

    @contextlib.contextmanager
    def _held(self, *, follow: bool = True) -> Iterator[Store]:
        """The store, for this thread alone."""
        if follow:
            self._follow()
        with self._writing:
            store = self._opened()
            try:
                yield store
            except StoreReplaced:
                self._let_go(store)
                raise

    def _let_go(self, store: Store) -> None:
        """Another file stands there now: the next one who comes opens it, and reads all of it."""
        if self._store is store:
            self._store, self._known = None, self._nothing_known()
        store.close()

    def _refresh(self) -> bool:
        """Read what is new; whether the store could be reached. Never raises for a store that is gone."""
        try:
            if not self._is_there():
                return True
            with self._held(follow=False) as store:
                self._catch_up(store)
        except StoreError as error:
            if not self._is_lost and self._pid != _CLOSED:
                _log.error("Routing goes on without new outcomes: %s", error)
            self._is_lost = True
            return False
        self._is_lost = False
        return True

    def _append(self, store: Store, outcomes: Sequence[Outcome]) -> None:
        """Store `outcomes`, and take them in; what others stored between them is read."""
        records = [Record(*pair) for pair in zip(store.append(outcomes), outcomes, strict=True)]
        start = self._known.seq
        if start and [record.seq for record in records] == list(range(start + 1, start + 1 + len(records))):
            for batch in batches(records, _BATCH):
                self._known.take(batch, most_waiting=_OVERDUE)
        else:
            self._catch_up(store)

    def _catch_up(self, store: Store) -> None:
        """Take in the records after the last one known; with the lock held."""
        if not self._known.seq:
            self._read_anew(store)
            return
        records = store.read(self._known.seq)
        while batch := list(islice(records, _BATCH)):
            if any(isinstance(record.entry, Event) for record in batch):
                self._read_anew(store)
                return
            self._known.take(batch, most_waiting=_OVERDUE)

    def _read_anew(self, store: Store) -> None:
        """Read the whole log: what its events say holds for what stands before them. Routing goes on."""
        complete = False
        while not complete:
            events = store.events()
            newest = events[-1][0] if events else 0
            known, records = self._nothing_known(events), store.read()
            complete = True
            while batch := list(islice(records, _BATCH)):
                known.take(batch, most_waiting=BLOCK)
                # One that was said while this was read changes what was read before it.
                complete &= not any(isinstance(entry, Event) and seq > newest for seq, entry in batch)
        known.learn(self._known)
        self._known = known

    def _nothing_known(self, events: Iterable[tuple[int, Event]] = ()) -> _Known:
        settings = self._settings
        trust = Trust(settings.max_principal_share, settings.min_principals)
        estimator = Estimator([], self._priors, half_life_days=settings.half_life_days, trust=trust)
        return _Known(self._encoder, self._dim, Hidden(events), estimator)

    def _merge(self) -> None:
        """Merge what waits beside the index, while others go on to route and to store."""
        known = self._known
        if known.estimator.waiting < BLOCK:
            return
        settled = known.estimator.settled()
        with self._writing:
            known.estimator = known.estimator.with_merged(settled)

    def _learn(self) -> None:
        """Learn from what was imported, while others go on to route and to store."""
        known = self._known
        imports = known.imports
        if imports == known.learnt:
            return
        learnt = known.estimator.learnt()
        with self._writing:
            if imports > known.learnt:  # unless another thread learnt from more
                known.estimator = known.estimator.with_merged(learnt).with_trend(learnt)
                known.learnt = imports

    def _follow(self) -> None:
        """Watch the store in a thread of this process; a forked child has none yet."""
        if self._pid in {os.getpid(), _CLOSED}:
            return
        with _starting:
            if self._pid in {os.getpid(), _CLOSED}:
                return
            if self._pid is not None:
                # Forked: the lock may be held by a thread that is not here, and the store is the parent's.
                self._writing, self._store = threading.Lock(), None
            self._pid = os.getpid()
            watcher = threading.Thread(
                target=_watch, args=(weakref.ref(self), self._pid), name="semroute-outcomes", daemon=True
            )
            watcher.start()

    def _look(self) -> float:
        """Take in what is new, waiting for it for a while; how many seconds to sleep before the next look."""
        reached = self._refresh()
        self._merge()
        store = self._store
        if not reached or store is None:
            return _WAIT if reached else _RETRY
        try:
            store.wait(self._known.seq, _WAIT)
        except StoreReplaced:
            with self._writing:
                self._let_go(store)
        except StoreError:
            return _RETRY
        if self._known.is_to_be_learnt(time.monotonic()):
            self._learn()
        return 0.0


def counting(store: Store) -> Iterator[Outcome]:
    """The outcomes of `store` that count: not hidden by an event, and of several by one on the same the last.

    Reads the log twice, and keeps a few bytes of each outcome.
    """
    hidden = Hidden(store.events())
    last: dict[bytes, int] = {}
    for seq, entry in store.read():
        if isinstance(entry, Outcome) and not hidden.covers(seq, entry):
            last[said_about(entry)] = seq
    kept = frozenset(last.values())
    end = max(kept, default=0)
    for seq, entry in store.read():
        if seq > end:
            return
        if seq in kept and isinstance(entry, Outcome):
            yield entry


class _Known:
    """What a memory has read of a log so far. Changed by one thread at a time; an estimator never is."""

    def __init__(self, encoder: str, dim: int, hidden: Hidden, estimator: Estimator) -> None:
        self.seq = 0
        self.estimator = estimator
        self.quotas = _Quotas()
        self._encoder, self._dim, self._hidden = encoder, dim, hidden
        self.imports = self.learnt = 0  # imported outcomes taken in, and when the trend was learnt
        self._digest = b""
        self._imported_at = self._unlearnt_at = 0.0

    def take(self, records: Sequence[Record], most_waiting: int) -> None:
        """Let the outcomes among `records` count, unless an event hides them."""
        now, more = time.time(), []
        for seq, entry in records:
            if not isinstance(entry, Outcome):
                continue
            self.quotas.add(entry, now)
            is_ours = entry.encoder == self._encoder and len(entry.vector) == self._dim
            if is_ours and not self._hidden.covers(seq, entry):
                more.append(entry)
        self._note_imports([outcome.id for outcome in more if outcome.origin == "import"])
        estimator = self.estimator.with_more(more)
        self.estimator = estimator if estimator.waiting < most_waiting else estimator.settled()
        self.seq = records[-1].seq

    def is_to_be_learnt(self, now: float) -> bool:
        """Whether an import is over, or has gone on for long, that the trend does not know of."""
        if self.imports == self.learnt:
            return False
        return now - self._imported_at > _QUIET or now - self._unlearnt_at > _LONG

    def learn(self, before: _Known) -> None:
        """Learn from what was imported, or take the trend of `before` where that is the same."""
        if not self.imports:
            return
        if self._digest == before._digest and before.learnt == before.imports:
            self.estimator = self.estimator.settled().with_trend(before.estimator)
        else:
            self.estimator = self.estimator.learnt()
        self.learnt = self.imports

    def _note_imports(self, ids: Sequence[str]) -> None:
        if not ids:
            return
        self._imported_at = time.monotonic()
        if self.imports == self.learnt:
            self._unlearnt_at = self._imported_at
        self.imports += len(ids)
        for identity in ids:  # one by one: they come in other batches when the log is read anew
            self._digest = hashlib.blake2b(self._digest + identity.encode(), digest_size=16).digest()


class _Quotas:
    """When each principal but the operator stored something, in the last 24 hours."""

    def __init__(self) -> None:
        self._times: dict[str, list[float]] = {}
        self._swept = 0.0

    def add(self, outcome: Outcome, now: float) -> None:
        """Note one. What was stored under a clock that was ahead is not held against anybody."""
        if outcome.by not in OWN_NAMES and now - _QUOTA_SECONDS <= outcome.time <= now + _AHEAD_SECONDS:
            self._times.setdefault(outcome.by, []).append(outcome.time)

    def stored(self, by: str, now: float) -> int:
        """How many of them `by` has stored."""
        if now - self._swept > _QUOTA_SECONDS:
            self._swept = now
            for name in list(self._times):
                self._recent(name, now)
        return self._recent(by, now)

    def _recent(self, by: str, now: float) -> int:
        times = [moment for moment in self._times.pop(by, ()) if moment >= now - _QUOTA_SECONDS]
        if times:
            self._times[by] = times
        return len(times)


def encoder_name(identity: Mapping[str, object]) -> str:
    """A short name for an encoder's identity: vectors of another one are never compared with it."""
    parts = "\n".join(str(identity[key]) for key in ("name", "revision", "dim", "preprocessing"))
    return f"{str(identity['name'])[:100]}#{hashlib.sha256(parts.encode()).hexdigest()[:16]}"


def _watch(memory: weakref.ref[Memory], pid: int) -> None:
    """Keep a memory up to date for as long as somebody else holds it, in the process that began."""
    failed = False
    while (held := memory()) is not None and held._pid == pid:
        try:
            seconds, failed = held._look(), False
        except Exception:  # noqa: BLE001 - whatever it is, new outcomes are to be seen again once it is over
            if not failed:
                _log.exception("Routing goes on without new outcomes")
            seconds, failed = _RETRY, True
        del held
        time.sleep(seconds)
