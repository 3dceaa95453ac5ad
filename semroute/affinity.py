"""Which model an id belongs to: a tool loop or a stored response goes on where it began."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable

from semroute.health import Clock

_REMEMBERED = 50_000
_LIFETIME_S = 3_600.0


class Affinity:
    """The last ids, each with a model, for an hour or as long as is said. Nothing of it is text of a prompt.

    Ids are those of one client, by the name of its key: what another presents says nothing of its model.
    Memory of one process: of several workers, another may get the next request.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._known: OrderedDict[bytes, tuple[str, float]] = OrderedDict()

    def note(
        self, owner: str | None, ids: Iterable[str], model: str, *, seconds: float = _LIFETIME_S
    ) -> None:
        """`ids` of `owner` belong to `model` from now on."""
        until = self._clock() + seconds
        for identity in ids:
            key = _key(owner, identity)
            self._known[key] = (model, until)
            self._known.move_to_end(key)
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)

    def model_of(self, owner: str | None, ids: Iterable[str]) -> str | None:
        """The model of the first of these ids of `owner` that is known; None where none is."""
        now = self._clock()
        for identity in ids:
            model, until = self._known.get(_key(owner, identity), ("", 0.0))
            if until > now:
                return model
        return None


def _key(owner: str | None, identity: str) -> bytes:
    text = f"{owner or ''}\0{identity}"
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=12).digest()
