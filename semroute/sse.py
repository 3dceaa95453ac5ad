"""Server-sent events, split as they arrive: https://html.spec.whatwg.org/multipage/server-sent-events.html."""

from __future__ import annotations

import re
from typing import NamedTuple

EVENT_BYTES = 5 << 20
"""Of one event; a longer one is taken for a fault of the sender."""

# A carriage return at the end may be the first half of a line break whose other half has not come yet.
_END = re.compile(rb"(?:\r\n|\n|\r(?![\n]))(?:\r\n|\n|\r(?=[^\n]))")
_LONGEST_END = 4


class EventTooLong(ValueError):  # noqa: N818 - what it is, not that it is one
    """An event is longer than EVENT_BYTES."""


class Event(NamedTuple):
    """One event, or a comment. `raw` are its bytes with the empty line that ends it, exactly as they came.

    `data` is empty where there is none, as in comments; `name` is that of the `event:` line.
    """

    raw: bytes
    name: bytes
    data: bytes


class EventSplitter:
    """Bytes in, complete events out, wherever the bytes are cut."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._seen = 0

    def feed(self, chunk: bytes) -> list[Event]:
        """The events that `chunk` completes. Raises EventTooLong."""
        self._buffer += chunk
        events, start = [], 0
        while (end := _END.search(self._buffer, max(start, self._seen - _LONGEST_END))) is not None:
            events.append(_event(bytes(self._buffer[start : end.end()])))
            start = self._seen = end.end()
        if start:
            del self._buffer[:start]
        self._seen = len(self._buffer)
        if self._seen > EVENT_BYTES or any(len(event.raw) > EVENT_BYTES for event in events):
            raise EventTooLong(f"an event of more than {EVENT_BYTES:,} bytes")
        return events

    def end(self) -> list[Event]:
        """What is left when the stream has ended: an event that only its empty line lacks, or nothing."""
        rest, self._buffer = bytes(self._buffer), bytearray()
        return [_event(rest)] if rest.strip() and rest[-1:] in (b"\n", b"\r") else []

    @property
    def waits(self) -> bool:
        """Whether part of an event is here."""
        return bool(self._buffer)


def _event(raw: bytes) -> Event:
    if raw.startswith(b"data:") and raw.find(b"\n") >= len(raw) - 2 and b"\r" not in raw:
        return Event(raw, b"", raw[5:].strip())
    name, data = b"", []
    for line in raw.splitlines():
        field, _, value = line.partition(b":")
        if field == b"data":
            data.append(value.removeprefix(b" "))
        elif field == b"event":
            name = value.strip()
    return Event(raw, name, b"\n".join(data).strip())
