"""What the router remembers: a store, and an estimator that follows it.

Routing reads a finished estimator and waits for nothing. Writing is durable when it returns, and what was
written counts from the next prompt on; what other processes write is noticed within a second. When the store
is gone, routing goes on with what was known, and the log says so once.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
import weakref
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from semroute.errors import OutcomeInvalid, QuotaExceeded, StoreError, StoreUnavailable
from semroute.escalations import (
    OPERATOR,
    Event,
    Outcome,
    Record,
    Store,
    is_there,
    open_store,
    replay,
)
from semroute.escalations.estimate import Estimate, Estimator, Prompt, Trust

if TYPE_CHECKING:
    from semroute.config import EscalationSettings
    from semroute.decision import PastOutcome

_log = logging.getLogger("semroute")

_QUOTA_SECONDS = 86_400.0
_CLOSED = -1  # no process
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
        root: Path,
        encoder: str,
    ) -> None:
        """Remember what the store of `settings` holds, if it can be reached.

        priors: each model's declared quality. root: where the path of the store starts.
        encoder: name of the encoder, see `encoder_name`; outcomes with vectors of another one do not count.
        """
        self._settings, self._priors = settings, dict(priors)
        self._root, self._encoder = root, encoder
        self._writing = threading.Lock()
        self._store: Store | None = None
        self._pid: int | None = None
        self._is_lost = False
        self._seq = 0
        self._estimator: Estimator
        self._forget_all()
        self._refresh()

    @property
    def encoder(self) -> str:
        """Name of the encoder whose vectors are compared."""
        return self._encoder

    def __len__(self) -> int:
        """How many outcomes count."""
        return len(self._estimator)

    def estimates(self, prompt: Prompt, models: Sequence[str]) -> dict[str, Estimate]:
        """What to expect of `models` on `prompt`; empty where nothing was ever stored."""
        self._follow()
        return self._estimator.estimate(prompt, models, time.time()) if len(self._estimator) else {}

    def nearest(self, prompt: Prompt, model: str) -> tuple[PastOutcome, ...]:
        """The outcomes of `model` on the prompts most like this one."""
        return tuple(self._estimator.nearest(prompt, model))

    def key(self) -> bytes:
        """The secret of prompt hashes. Raises StoreError."""
        return self._opened().key

    def records(self) -> list[Record]:
        """The whole log, as it is now. Raises StoreError."""
        return list(self._opened().read()) if is_there(self._address, root=self._root) else []

    def add(self, outcomes: Sequence[Outcome], *, settled: bool = True) -> int:
        """Store outcomes, durably; returns how many were new. They count from now on, or once `settled`.

        An id that is known already is left out. Raises OutcomeInvalid for an unknown model or another
        encoder's vector, QuotaExceeded, or another StoreError.
        """
        self._check(outcomes)
        with self._writing:
            store = self._opened()
            fresh = [outcome for outcome in outcomes if outcome.id not in self._ids]
            self._check_quotas(fresh)
            store.append(fresh)
            self._ids.update(outcome.id for outcome in fresh)
            if settled:
                self._catch_up(store)
        return len(fresh)

    def say(self, event: Event) -> int:
        """Store an event; returns how many outcomes fewer count now, negative for more. Raises StoreError."""
        with self._writing:
            store = self._opened()
            self._catch_up(store)
            before = len(self._estimator)
            store.append_event(event)
            self._catch_up(store)
            return before - len(self._estimator)

    def forget(self, *, ids: Sequence[str] = (), prompt_hash: bytes | None = None) -> int:
        """Erase outcomes for ever, as the operator; returns how many there were. Raises StoreError."""
        with self._writing:
            store = self._opened()
            erased = store.forget(by=OPERATOR, time=time.time(), ids=ids, prompt_hash=prompt_hash)
            self._forget_all()  # what is erased there must not be remembered here
            self._catch_up(store)
        return erased

    def close(self) -> None:
        """Stop following, and let go of the store."""
        self._pid = _CLOSED
        if self._store is not None:
            self._store.close()

    @property
    def _address(self) -> str:
        return self._settings.store or ""

    def _check(self, outcomes: Sequence[Outcome]) -> None:
        for outcome in outcomes:
            for model in filter(None, (outcome.model, outcome.escalated_to)):
                if model not in self._priors:
                    known = ", ".join(sorted(self._priors))
                    raise OutcomeInvalid("model", f"{model!r} is not declared; the settings have {known}")
            if outcome.encoder != self._encoder:
                raise OutcomeInvalid(
                    "vector", f"is one of {outcome.encoder}, and the index was built with {self._encoder}"
                )

    def _check_quotas(self, outcomes: Sequence[Outcome]) -> None:
        wanted: dict[str, int] = defaultdict(int)
        for outcome in outcomes:
            wanted[outcome.by] += outcome.by != OPERATOR
        start = time.time() - _QUOTA_SECONDS
        for by, count in wanted.items():
            times = self._times[by]
            while times and times[0] < start:
                times.popleft()
            if count and len(times) + count > self._settings.quota_per_day:
                raise QuotaExceeded(
                    f"{by!r} has stored {len(times)} outcomes in 24 hours; "
                    f"quota_per_day is {self._settings.quota_per_day}"
                )

    def _opened(self) -> Store:
        if not self._address:
            cure = "name one in semroute.yaml, such as escalations: {store: sqlite:semroute.db}, and build"
            raise StoreUnavailable(f"there is no store of outcomes: {cure}")
        if self._store is None:
            self._store = open_store(self._address, root=self._root)
        return self._store

    def _refresh(self) -> bool:
        """Read what is new; whether the store could be reached. Never raises for a store that is gone."""
        try:
            if not self._address or not is_there(self._address, root=self._root):
                return True
            with self._writing:
                self._catch_up(self._opened())
        except StoreError as error:
            if not self._is_lost:
                _log.error("Routing goes on without new outcomes: %s", error)
            self._is_lost = True
            return False
        self._is_lost = False
        return True

    def _catch_up(self, store: Store) -> None:
        """Take in the records after the last one known; with the lock held."""
        news = list(store.read(self._seq))
        if not news:
            return
        self._seq = news[-1].seq
        self._records += news
        more: list[Outcome] | None = []  # None: what was known changes as well
        for record in news:
            entry = record.entry
            self._ids.add(entry.id)
            if isinstance(entry, Outcome):
                self._times[entry.by].append(entry.time)
                simple = entry.origin != "import" and entry.by not in self._held
                simple = simple and said_about(entry) not in self._said
                self._said.add(said_about(entry))
                if not self._counts(entry):
                    continue
                if simple and more is not None:
                    more.append(entry)
                else:
                    more = None
            else:
                more = None
                if isinstance(entry, Event) and entry.kind == "quarantine" and entry.principal is not None:
                    self._held.add(entry.principal)
        self._estimator = self._fresh_estimator() if more is None else self._estimator.with_more(more)

    def _forget_all(self) -> None:
        """Read the log from its start next time."""
        self._seq = 0
        self._records: list[Record] = []
        self._ids: set[str] = set()
        self._said: set[tuple[str, bytes, str]] = set()
        self._held: set[str] = set()
        self._times: dict[str, deque[float]] = defaultdict(deque)
        self._estimator = self._fresh_estimator()

    def _counts(self, outcome: Outcome) -> bool:
        return outcome.encoder == self._encoder and outcome.model in self._priors

    def _fresh_estimator(self) -> Estimator:
        settings = self._settings
        outcomes = [outcome for outcome in counting(self._records) if self._counts(outcome)]
        trust = Trust(settings.max_principal_share, settings.min_principals)
        return Estimator(outcomes, self._priors, half_life_days=settings.half_life_days, trust=trust)

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
        try:
            if not reached or self._store is None:
                return _WAIT if reached else _RETRY
            self._store.wait(self._seq, _WAIT)
        except StoreError:
            return _RETRY
        return 0.0


def said_about(outcome: Outcome) -> tuple[str, bytes, str]:
    """Who said something about which prompt and model: of several such outcomes the last counts."""
    return outcome.by, outcome.prompt_hash, outcome.model


def counting(records: Iterable[Record]) -> list[Outcome]:
    """The outcomes that count after `records`: those with effect, of several by one on the same the last."""
    effective = replay(records)
    latest = {said_about(outcome): outcome.id for outcome in effective}
    return [outcome for outcome in effective if latest[said_about(outcome)] == outcome.id]


def encoder_name(identity: Mapping[str, object]) -> str:
    """A short name for an encoder's identity: vectors of another one are never compared with it."""
    parts = "\n".join(str(identity[key]) for key in ("name", "revision", "dim", "preprocessing"))
    return f"{str(identity['name'])[:100]}#{hashlib.sha256(parts.encode()).hexdigest()[:16]}"


def _watch(memory: weakref.ref[Memory], pid: int) -> None:
    """Keep a memory up to date for as long as somebody else holds it, in the process that began."""
    while (held := memory()) is not None and held._pid == pid:
        seconds = held._look()
        del held
        time.sleep(seconds)
