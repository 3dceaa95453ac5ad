"""What happens to decisions, told to whoever listens: a log, metrics, traces. Routing waits for none of them.

    router --put--> a bounded queue for each listener --its own thread--> Listener.decided, served, judged

A listener that is slow, raises or hangs costs events of its own: they are dropped and counted, and the log
says so once. It never costs a prompt. After a fork the child tells its own events, in a thread of its own.
"""

from __future__ import annotations

import atexit
import logging
import math
import os
import sys
import threading
import time
import weakref
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

from semroute.decision import Decision
from semroute.errors import OutcomeInvalid, SemrouteError
from semroute.numeric import finite
from semroute.text import storable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_log = logging.getLogger("semroute")

MAX_WAITING = 50_000  # events for one listener
MAX_WAITING_CHARS = 20_000_000  # of their prompts
_BATCH = 2_000  # events that are told before a flush
GATHER_S = 0.25  # events are told together, so that the thread does not wake for each
RETRY_S = 5.0  # between two tries to flush
CLOSE_S = 5.0  # that closing waits for a listener
_SAY_S = 600.0
_MAX_NAME = 200

MAX_TOKENS = 2**53  # every program that reads the log holds so much, and no less than that exactly
_MAX_ERROR = 2_000

_starting = threading.Lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_starting.acquire, after_in_parent=_starting.release, after_in_child=_starting.release
    )


@dataclass(frozen=True, slots=True, eq=False)
class Decided:
    """A decision was made. `time` is seconds since 1970.

    text: the prompt as it was routed, cut to some 100,000 characters; None where it could not be read. For
        hashing, and for what a listener was told to keep: it must not be in what a listener shows otherwise.
    step: as the caller gave it. vector: of the prompt, shape (dim,), where outcomes are stored, else None.
    encoder: whose vector it is.
    """

    decision: Decision
    time: float
    text: str | None = None
    step: str | None = None
    vector: NDArray[np.float32] | None = None
    encoder: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A model was called for the decision `id`, and what that took. What is not known is None.

    model: who was called; None is the decision's. purpose: None for an answer, else what the call was for,
    such as "arbiter" or "judge", which help to choose.
    prompt_tokens, completion_tokens: as the provider counted.
    usd: US dollars, by those tokens and the configured prices. latency_ms: until the answer was complete.
    ttft_ms: until its first token. error: why there is no answer, in a few words without prompt text.

    Raises OutcomeInvalid.
    """

    id: str
    time: float
    model: str | None = None
    purpose: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    usd: float | None = None
    latency_ms: float | None = None
    ttft_ms: float | None = None
    error: str | None = None

    def __post_init__(self) -> None:
        _check_name("decision", self.id)
        for name in ("model", "purpose"):
            if getattr(self, name) is not None:
                _check_name(name, getattr(self, name))
        for name in ("prompt_tokens", "completion_tokens"):
            count = getattr(self, name)
            if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 0):
                raise OutcomeInvalid(name, "must be a whole number, 0 or more")
            if count is not None and count > MAX_TOKENS:
                raise OutcomeInvalid(name, f"must be at most {MAX_TOKENS}, which no call has counted")
        for name in ("usd", "latency_ms", "ttft_ms"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _amount(name, getattr(self, name)))
        if self.error is not None:
            object.__setattr__(self, "error", storable(str(self.error))[:_MAX_ERROR] or "error")


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """Somebody said how good the answer was: `score` from 0 to 1. Raises OutcomeInvalid.

    id: of the decision. outcome: id of what was said. model: who answered, None is the decision's.
    escalated_to: the model that was needed instead. by: the principal.
    """

    id: str
    time: float
    outcome: str
    score: float
    by: str
    model: str | None = None
    escalated_to: str | None = None

    def __post_init__(self) -> None:
        for name in ("id", "by"):
            _check_name(name, getattr(self, name))
        for name in ("model", "escalated_to"):
            if getattr(self, name) is not None:
                _check_name(name, getattr(self, name))
        score = _amount("score", self.score)
        if score > 1.0:
            raise OutcomeInvalid("score", "must be from 0 to 1")
        object.__setattr__(self, "score", score)


Event: TypeAlias = Decided | Served | Judged


class Listener(Protocol):
    """Hears of events, in their order, in a thread of its own. It may raise; it must not keep prompt text."""

    def decided(self, event: Decided) -> None:
        """A decision was made."""
        ...

    def served(self, event: Served) -> None:
        """A model was called for a decision, as far as the caller said so."""
        ...

    def judged(self, event: Judged) -> None:
        """Feedback or an escalation came for a decision."""
        ...


@runtime_checkable
class Batching(Listener, Protocol):
    """A listener that gathers events and stores them together."""

    def flush(self) -> None:
        """Store what was gathered. Called after each batch of events, and again later where it raises.

        Meanwhile no more events are told: they wait in the bounded queue.
        """
        ...

    def close(self) -> None:
        """Let go of files and connections. The last call."""
        ...


class Feed:
    """The queue and the thread of one listener. Safe to use from any number of threads."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._batching = listener if isinstance(listener, Batching) else None
        self._name = type(listener).__name__
        self._dropped = 0
        self._pid: int | None = None
        self._closed = False
        self._start_anew()
        _feeds.add(self)

    @property
    def listener(self) -> Listener:
        """Who is told."""
        return self._listener

    @property
    def dropped(self) -> int:
        """How many events the listener was never told of, in this process."""
        return self._dropped

    def put(self, event: Event) -> None:
        """Tell the listener of `event` soon. Never waits and never raises; a full queue drops the event."""
        if self._closed or (self._pid != os.getpid() and not self._start()):
            self._dropped += 1
            return
        with self._lock:
            chars = _chars(event)
            full = len(self._waiting) >= MAX_WAITING or self._chars + chars > MAX_WAITING_CHARS
            if full:
                self._dropped += 1
            else:
                self._waiting.append(event)
                self._chars += chars
        if len(self._waiting) >= _BATCH:
            self._hurried.set()
        if full and self._dropped == 1:
            _log.error("%s is too slow: events for it are dropped from now on.", self._name)
        if not self._has_news.is_set():
            self._has_news.set()

    def flush(self, timeout: float = CLOSE_S) -> bool:
        """Wait until everything put so far is told and stored, at most `timeout` seconds; whether it is."""
        if self._pid != os.getpid():
            return True
        done = threading.Event()
        with self._lock:
            if not self._waiting and not self._is_busy:
                return True
            self._waiting.append(done)
        self._has_news.set()
        self._hurried.set()
        return done.wait(timeout)

    def close(self, timeout: float = CLOSE_S) -> None:
        """Tell what waits and let the listener close, for at most `timeout` seconds; then tell no more."""
        self._closed = True
        if self._pid != os.getpid():
            return  # no thread of this process
        self._is_closing.set()
        self._hurried.set()
        self._has_news.set()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def _start_anew(self) -> None:
        self._lock = threading.Lock()
        self._has_news, self._hurried, self._is_closing = (threading.Event() for _ in range(3))
        self._waiting: deque[Event | threading.Event] = deque()
        self._chars = 0
        self._is_busy = False

    def _start(self) -> bool:
        """Begin a thread in this process, at its first event: a forked child has none of its own yet."""
        with _starting:
            if self._closed or self._pid == os.getpid():
                return not self._closed
            if self._pid is not None:
                self._start_anew()  # forked: what waits is told by the parent, and a lock may be held there
                self._dropped = 0
            self._thread = threading.Thread(target=self._run, name=f"semroute-{self._name}", daemon=True)
            try:
                self._thread.start()
            except RuntimeError:  # the interpreter is about to end
                return False
            self._pid = os.getpid()
            _close_with_process()
        return True

    def _run(self) -> None:
        trouble = _Trouble(self._name)
        while not (self._is_closing.is_set() and not self._waiting):
            self._has_news.wait()
            if not self._is_closing.is_set():
                self._hurried.wait(GATHER_S)
            self._has_news.clear()
            self._hurried.clear()
            self._tell(trouble)
        if self._batching is not None:
            trouble.free(self._batching.close)

    def _tell(self, trouble: _Trouble) -> None:
        """A batch of what waits, then flush."""
        asked: list[threading.Event] = []
        with self._lock:
            batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
            self._chars -= sum(map(_chars, batch))
            self._is_busy = True
            if self._waiting:
                self._has_news.set()
                self._hurried.set()
        for event in batch:
            match event:
                case threading.Event():
                    asked.append(event)
                case Decided():
                    trouble.free(self._listener.decided, event)
                case Served():
                    trouble.free(self._listener.served, event)
                case Judged():
                    trouble.free(self._listener.judged, event)
        if self._batching is not None:
            while not trouble.free(self._batching.flush):
                if self._is_closing.wait(RETRY_S):
                    trouble.free(self._batching.flush)
                    break
        self._is_busy = False
        for done in asked:
            done.set()


class _Trouble:
    """Whether a listener fails: said when it begins to, and not more than once in ten minutes."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._said_at = -math.inf

    def free(self, call: Any, *event: Event) -> bool:
        """Do `call`; whether it did not raise."""
        try:
            call(*event)
        except Exception as error:  # noqa: BLE001 - a listener may be anyone's
            if time.monotonic() - self._said_at > _SAY_S:
                # Only our own messages are sure to hold no prompt text.
                said = f": {error}" if isinstance(error, SemrouteError) else ""
                _log.error("%s failed (%s%s); routing goes on.", self._name, type(error).__name__, said)
                self._said_at = time.monotonic()
            return False
        return True


_feeds: weakref.WeakSet[Feed] = weakref.WeakSet()


def close_all() -> None:
    """Tell what waits in every feed, for a bounded time; the last thing a process does."""
    feeds = list(_feeds)
    deadline = time.monotonic() + CLOSE_S
    for feed in feeds:
        feed.close(max(0.0, deadline - time.monotonic()))


def _close_with_process() -> None:
    """A child of `multiprocessing` ends without `atexit`, and has finalizers of its own."""
    util = sys.modules.get("multiprocessing.util")
    if util is not None:
        util.Finalize(None, close_all, exitpriority=100)


atexit.register(close_all)


def _chars(event: Event | threading.Event) -> int:
    return len(event.text) if isinstance(event, Decided) and event.text is not None else 0


def _check_name(name: str, value: object) -> None:
    if not isinstance(value, str) or not value or len(value) > _MAX_NAME:
        raise OutcomeInvalid(name, f"must be a text of 1 to {_MAX_NAME} characters")
    if value != storable(value):
        raise OutcomeInvalid(name, "must not hold NUL or half of a surrogate pair")


def _amount(name: str, value: object) -> float:
    number = finite(value)
    if number is None:
        raise OutcomeInvalid(name, "must be a finite number")
    if number < 0:
        raise OutcomeInvalid(name, "must be 0 or more")
    return number
