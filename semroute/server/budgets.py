"""What a client may spend."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from semroute.config import ClientLimits, ModelCard
from semroute.wire import BadRequest

_NO_LIMITS = ClientLimits()
_DAY_S = 86_400


class Budgets:
    """The limits of each client, and what it has spent today (UTC) by this process."""

    def __init__(self, clients: Mapping[str, ClientLimits]) -> None:
        self._clients = clients
        self._spent: dict[str, float] = {}
        self._day = 0

    def limits_of(self, owner: str | None) -> ClientLimits:
        """The limits of a client; raises BadRequest where the budget of the day is spent."""
        limits = self._clients.get(owner or "*", self._clients.get("*", _NO_LIMITS))
        if limits.usd_per_day is not None and self.spent_by(owner) >= limits.usd_per_day:
            wait = _DAY_S - int(time.time()) % _DAY_S
            message = "The budget of this key is spent; it begins anew at midnight, UTC."
            raise BadRequest(429, message, code="insufficient_quota", retry_after=wait)
        return limits

    def spent_by(self, owner: str | None) -> float:
        """US dollars that this client has spent today."""
        today = int(time.time()) // _DAY_S
        if today != self._day:
            self._day, self._spent = today, {}
        return self._spent.get(owner or "*", 0.0)

    def spend(self, owner: str | None, usd: float) -> None:
        """Count what an attempt has cost."""
        self._spent[owner or "*"] = self.spent_by(owner) + usd


def affordable(names: Iterable[str], cards: Mapping[str, ModelCard], limits: ClientLimits) -> tuple[str, ...]:
    """Those of `names` that a client with these limits may use."""
    most = limits.max_usd_per_1m
    if most is None:
        return tuple(names)
    prices = {name: cards[name].prompt_usd_per_1m if name in cards else None for name in names}
    return tuple(name for name, price in prices.items() if price is not None and price <= most)
