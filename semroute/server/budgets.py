"""What clients may spend, and what they have."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping

from semroute.config import ClientLimits, ModelCard
from semroute.errors import StoreError
from semroute.sources import did_you_mean
from semroute.spending import Spending
from semroute.wire import BadRequest
from semroute.yaml import shorten

_log = logging.getLogger("semroute.serve")
_NO_LIMITS = ClientLimits()
_DAY_S = 86_400
_SHARED_EVERY_S = 1.0


class Budgets:
    """The limits of each client, and what it has spent today (UTC), by all processes that share a store.

    What is spent here counts at once; what other processes spend, when it was shared. Where the store does
    not answer, this process goes on counting and shares later.

    clients: limits by the name of the client. open_spending: opens the store; None where there is none.
    """

    def __init__(
        self, clients: Mapping[str, ClientLimits], open_spending: Callable[[], Spending] | None = None
    ) -> None:
        self._opens = open_spending
        self._open: Callable[[], Spending] | None = None
        self._spending: Spending | None = None
        self._day = 0
        self._shared: dict[str, float] = {}  # by all, as the store had it last
        self._unshared: dict[int, dict[str, float]] = {}  # by this process, by day
        self._failing = False
        self._turn = asyncio.Lock()
        self._sharing: asyncio.Future[None] | None = None
        self.limit(clients)

    def limit(self, clients: Mapping[str, ClientLimits]) -> None:
        """Other limits from now on; what was spent is spent."""
        self._clients = clients
        if not any(limits.usd_per_day is not None for limits in clients.values()):
            return
        if self._opens is None:
            _log.warning(
                "Budgets are counted by each process alone, and begin anew with it: "
                "name a store under `log:` or `escalations:` to share them."
            )
        self._open = self._opens

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
        client = owner or "*"
        return self._unshared.get(self._today(), {}).get(client, 0.0) + self._shared.get(client, 0.0)

    def spend(self, owner: str | None, usd: float) -> None:
        """Count what an attempt has cost."""
        counts, client = self._unshared.setdefault(self._today(), {}), owner or "*"
        counts[client] = counts.get(client, 0.0) + usd

    async def keep_sharing(self) -> None:
        """Share every second, where anybody has a budget."""
        while True:
            await self.share()
            await asyncio.sleep(_SHARED_EVERY_S)

    async def share(self) -> None:
        """Let other processes know what was spent here, and learn what was spent there."""
        if self._open is not None:
            # Who gives up waiting does not stop the thread: what it adds must still be taken off here.
            self._sharing = asyncio.ensure_future(self._share())
            await asyncio.shield(self._sharing)

    async def _share(self) -> None:
        async with self._turn:
            await self._share_days()

    async def _share_days(self) -> None:
        today = self._today()
        for day in sorted({*self._unshared, today}):
            sent = dict(self._unshared.get(day, {}))
            try:
                found = await asyncio.to_thread(self._add, day, sent)
            except StoreError as error:
                if not self._failing:
                    _log.warning("What clients spend is not shared for now: %s", error)
                self._failing = True
                return
            self._failing = False
            self._settle(day, sent)
            if day == self._today():
                self._shared = found

    async def close(self) -> None:
        """Share a last time, and give the store back."""
        await self.share()
        if self._spending is not None:
            await asyncio.to_thread(self._spending.close)

    def _add(self, day: int, usd: dict[str, float]) -> dict[str, float]:
        if self._spending is None:
            assert self._open is not None  # noqa: S101 - else nothing is shared
            self._spending = self._open()
        return self._spending.add(day, usd)

    def _settle(self, day: int, sent: Mapping[str, float]) -> None:
        """Take away what the store has now; what was spent meanwhile stays."""
        counts = self._unshared.get(day, {})
        for client, usd in sent.items():
            left = counts[client] - usd
            if left > 0.0:
                counts[client] = left
            else:
                del counts[client]
        if not counts:
            self._unshared.pop(day, None)

    def _today(self) -> int:
        today = int(time.time()) // _DAY_S
        if today != self._day:
            self._day, self._shared = today, {}
            if self._open is None:
                self._unshared = {}
        return today


def strangers(clients: Mapping[str, ClientLimits], keys: Collection[str]) -> dict[str, str]:
    """Those of `clients` without a key, so that their limits hold for nobody, and what to say of each."""
    if not keys:
        cure = "this server has no keys, and without them only `*` holds"
    else:
        named = ", ".join(shorten(key) for key in list(keys)[:10])
        cure = f"the keys here are {named}; `*` is for all others"
    return {
        name: f"no key of a client is named {shorten(name)};{did_you_mean(name, keys)} {cure}"
        for name in clients
        if name != "*" and name not in keys
    }


def affordable(names: Iterable[str], cards: Mapping[str, ModelCard], limits: ClientLimits) -> tuple[str, ...]:
    """Those of `names` that a client with these limits may use."""
    most = limits.max_usd_per_1m
    if most is None:
        return tuple(names)
    prices = {name: cards[name].prompt_usd_per_1m if name in cards else None for name in names}
    return tuple(name for name, price in prices.items() if price is not None and price <= most)
