"""What the page for people shows: the last requests and today's dollars. No text of any prompt."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from semroute.config import Settings
from semroute.decision import Decision
from semroute.upstream import Attempt

if TYPE_CHECKING:
    from semroute.health import Health

_SHOWN = 50
_NOTHING: dict[str, Any] = {
    "id": None,
    "route": None,
    "model": None,
    "reason": None,
    "detail": "",
    "said": None,
    "confidence": None,
    "attempts": [],
    "failed": False,
    "ms": None,
    "usd": 0.0,
    "times": 1,
}
"""A row of which nothing is known but what every request has."""


class Live:
    """The last requests of this process, and what they cost today, by UTC, beside the default for all.

    What it counts begins with the process: `since` says when, where that was today.
    """

    def __init__(self) -> None:
        self._recent: deque[dict[str, Any]] = deque(maxlen=_SHOWN)
        self._began = time.time()
        self._day = 0
        self._requests = 0
        self._usd = 0.0
        self._default_usd = 0.0

    def add(
        self,
        decision: Decision | None,
        attempts: Sequence[Attempt],
        settings: Settings,
        *,
        identity: str,
        key: str | None,
        model: str | None,
        said: str | None,
        failed: bool,
        status: int,
        seconds: float,
    ) -> None:
        """Note a request for which models were asked, or would have been.

        key: the name of the client's key. model: whose answer the client has, good or not. said: what the
        client was told where no model answered. failed: whether the answer broke off.
        """
        self._turn()
        usd = sum(attempt.usd or 0.0 for attempt in attempts)
        asked = [one for one in attempts if one.purpose == "answer"]
        given = _given(asked, status)
        if given is not None:
            self._requests += 1
            self._usd += usd
            self._default_usd += _default_usd(given, settings)
        self._recent.appendleft(
            _row(status, key, said)
            | {
                "id": identity,
                "route": None if decision is None else decision.route,
                "model": model,
                "reason": None if decision is None else decision.reason,
                "detail": "The client named the model." if decision is None else decision.detail,
                "confidence": None if decision is None else round(decision.confidence, 4),
                "attempts": [f"{one.model}: {one.error or one.outcome}" for one in attempts],
                "failed": failed,
                "ms": round(seconds * 1e3, 1),
                "usd": usd,
            }
        )

    def refuse(self, status: int, said: str, key: str | None) -> None:
        """Note a request that was refused before any model was chosen; the same one again only counts."""
        row, last = _row(status, key, said), self._recent[0] if self._recent else _NOTHING
        if last | {"time": 0, "times": 1} == row | {"time": 0}:
            self._recent[0] = row | {"times": last["times"] + 1}
        else:
            self._recent.appendleft(row)

    def to_dict(
        self, health: Mapping[str, Health], resting: Mapping[str, bool], keyless: Mapping[str, bool]
    ) -> dict[str, Any]:
        """Everything, as plain JSON types."""
        self._turn()
        return {
            "recent": list(self._recent),
            "today": {
                "requests": self._requests,
                "usd": self._usd,
                "default_usd": self._default_usd,
                "since": self._began if int(self._began) // 86_400 == self._day else None,
            },
            "uptime_s": round(time.time() - self._began),
            "models": [
                {
                    "model": name,
                    "resting": resting[name],
                    "lacks_key": keyless[name],
                    "attempts": one.measured.attempts,
                    "error_ratio": round(one.measured.errors, 3),
                    "rate_limited": one.measured.rate_limited,
                    "ttft_ms": _rounded(one.measured.ttft_ms),
                    "itl_ms": _rounded(one.measured.itl_ms),
                    "tokens_per_s": _rounded(one.measured.tokens_per_s),
                }
                for name, one in health.items()
            ],
        }

    def _turn(self) -> None:
        today = int(time.time()) // 86_400
        if today != self._day:
            self._day, self._requests, self._usd, self._default_usd = today, 0, 0.0, 0.0


def _row(status: int, key: str | None, said: str | None) -> dict[str, Any]:
    return _NOTHING | {"time": round(time.time(), 3), "status": status, "key": key, "said": said}


def _given(asked: Sequence[Attempt], status: int) -> Attempt | None:
    """The attempt whose answer the client has: what a cascade rejected, where the models above failed."""
    answered = next((one for one in reversed(asked) if one.outcome == "answered"), None)
    if answered is not None or status >= 400:
        return answered
    return next((one for one in asked if one.outcome == "rejected"), None)


def _default_usd(answer: Attempt, settings: Settings) -> float:
    """What as many tokens would have cost from the default model; without its prices, what they did cost."""
    card = settings.models[settings.default.model_names[0]]
    usd = card.usd(answer.prompt_tokens, answer.completion_tokens)
    return (answer.usd or 0.0) if usd is None else usd


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 1)
