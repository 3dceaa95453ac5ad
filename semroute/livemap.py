"""The map on the page for people: where the utterances of the index stand, and a prompt among them."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from semroute.errors import EncoderError

if TYPE_CHECKING:
    from semroute.index import RouteIndex
    from semroute.report.layout import Layout
    from semroute.router import Router

_SHOWN = 3_000  # utterances: more dots would cover each other
LONGEST_TEXT = 200
"""Characters (code points) of an utterance that are sent to the page."""


@dataclass(frozen=True, slots=True)
class _Drawn:
    index: str
    layout: Layout
    page: dict[str, Any]


class LiveMap:
    """The map of the index that a router has now, drawn when it is first asked for, once for each index.

    Drawing takes a second or two for a thousand utterances or more: call from a thread. Safe for several.
    """

    def __init__(self, router: Router) -> None:
        self._router = router
        self._drawing = threading.Lock()
        self._drawn: _Drawn | None = None

    def to_dict(self) -> dict[str, Any]:
        """The map as plain JSON types.

        `dots` holds [x, y, route, text] of at most 3,000 of the `utterances`, spread evenly; x and y are in
        [-1, 1], `route` is a place in `routes`, the text is cut after `LONGEST_TEXT` characters.
        """
        return self._current().page

    def place(self, prompt: str) -> dict[str, Any]:
        """Where `prompt` stands: `place` is [x, y], or None where it has no vector or the map no dots."""
        drawn = self._current()
        try:
            vectors = self._router.vectors([prompt])
        except EncoderError:
            return {"index": drawn.index, "place": None}
        # The router may have taken another index, with another encoder, since the map was drawn.
        fits = len(drawn.layout.places) > 0 and vectors.shape[1] == drawn.layout.vectors.shape[1]
        if not fits or not vectors.any():
            return {"index": drawn.index, "place": None}
        x, y = drawn.layout.place(vectors)[0].tolist()
        return {"index": drawn.index, "place": [round(x, 4), round(y, 4)]}

    def _current(self) -> _Drawn:
        with self._drawing:
            index = self._router.index
            if self._drawn is None or self._drawn.index != index.fingerprint:
                self._drawn = _drawn(index)
            return self._drawn


def _drawn(index: RouteIndex) -> _Drawn:
    from semroute.report.layout import evenly, layout

    rows = evenly(len(index.entries), _SHOWN)
    found, places = layout(index.reconstruct(rows))
    entries = [index.entries[row] for row in rows.tolist()]
    dots = [
        [x, y, entry.route, entry.text[:LONGEST_TEXT]]
        for (x, y), entry in zip(places.round(4).tolist(), entries, strict=True)
    ]
    page = {
        "index": index.fingerprint,
        "routes": list(index.route_names),
        "utterances": len(index.entries),
        "dots": dots,
    }
    return _Drawn(index.fingerprint, found, page)
