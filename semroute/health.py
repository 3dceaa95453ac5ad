"""How an upstream is doing: cooldown, half-open probe, retry budget, and what was measured of it."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

Clock = Callable[[], float]

_PATIENCE = 3  # failures in a row that open the circuit; a rate limit needs one
_SMOOTHING = 0.2


@dataclass(slots=True)
class Measured:
    """Exponentially smoothed figures of one upstream; None before the first.

    ttft_ms, itl_ms: milliseconds until the first token and between tokens, of streams.
    tokens_per_s: completion tokens per second of whole answers. errors: the share of attempts that failed.
    """

    ttft_ms: float | None = None
    itl_ms: float | None = None
    tokens_per_s: float | None = None
    errors: float = 0.0
    attempts: int = 0
    rate_limited: int = 0

    def add(self, *, ttft_ms: float | None, itl_ms: float | None, tokens_per_s: float | None) -> None:
        """Count a good answer."""
        self.ttft_ms = _smoothed(self.ttft_ms, ttft_ms)
        self.itl_ms = _smoothed(self.itl_ms, itl_ms)
        self.tokens_per_s = _smoothed(self.tokens_per_s, tokens_per_s)
        self._count(0.0)

    def fail(self, *, rate_limited: bool) -> None:
        """Count an attempt that failed."""
        self.rate_limited += rate_limited
        self._count(1.0)

    def _count(self, error: float) -> None:
        self.attempts += 1
        self.errors += (error - self.errors) * max(_SMOOTHING, 1.0 / self.attempts)


def _smoothed(old: float | None, new: float | None) -> float | None:
    if new is None:
        return old
    return new if old is None else old + _SMOOTHING * (new - old)


@dataclass(slots=True)
class Health:
    """Whether an upstream may be asked now.

    After failures it rests; when the rest is over, one request probes it while others pass it by; what comes
    of the probe closes the circuit or makes the next rest twice as long.

    cooldown, longest: seconds of the first rest and of the longest. until: when the rest is over. told: until
    when it has asked itself to be left alone.
    """

    cooldown: float
    longest: float
    until: float = 0.0
    told: float = 0.0
    failures: int = 0
    measured: Measured = field(default_factory=Measured)
    _rests: int = 0
    _probing: bool = False

    def is_ready(self, now: float) -> bool:
        """Whether a request may go there: it is well, or rested and nobody probes it."""
        return now >= self.until and not self._probing

    def asked(self) -> None:
        """A request goes there now."""
        self._probing = self._rests > 0

    def released(self) -> None:
        """The request ended without a verdict: its client went away."""
        self._probing = False

    def succeeded(self) -> None:
        """It answered."""
        self._probing = False
        self.failures = self._rests = 0

    def failed(self, now: float, *, retry_after: float | None = None, at_once: bool = False) -> None:
        """It did not answer. A rest never becomes shorter by another failure.

        retry_after: seconds for which it asks to be left alone. at_once: one failure is enough.
        """
        self.failures += 1
        probed, self._probing = self._probing, False
        if retry_after is not None:
            self._rests += now >= self.until
            self.told = max(self.told, now + min(retry_after, self.longest))
            self.until = max(self.until, self.told)
        elif (probed or at_once or self.failures >= _PATIENCE) and now >= self.until:
            # What was under way when the rest began, and fails as well, makes it no longer.
            self.until = now + min(self.cooldown * 2.0 ** min(self._rests, 30), self.longest)
            self._rests += 1


class RetryBudget:
    """Of the requests of the last seconds, the share that may be tried again, and never fewer than a few.

    What is down must not be asked more often because it is down: retries <= share * requests + floor.
    """

    def __init__(self, clock: Clock, *, share: float = 0.2, floor: int = 3, window: float = 10.0) -> None:
        self._clock = clock
        self._share = share
        self._floor = floor
        self._window = window
        self._requests: deque[float] = deque()
        self._retries: deque[float] = deque()

    def request(self) -> None:
        """Count a request that a client made."""
        self._requests.append(self._clock())
        self._forget()

    def take(self) -> bool:
        """Whether one more attempt may be made; it is then counted."""
        self._forget()
        allowed = math.floor(self._share * len(self._requests) + 1e-9) + self._floor
        if len(self._retries) >= allowed:
            return False
        self._retries.append(self._clock())
        return True

    def _forget(self) -> None:
        oldest = self._clock() - self._window
        for moments in (self._requests, self._retries):
            while moments and moments[0] < oldest:
                moments.popleft()
