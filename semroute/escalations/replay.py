"""Which outcomes count: a pure function of the log. Reads no clock and no store."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from semroute.escalations.outcome import Event, Outcome, Record


def replay(records: Iterable[Record]) -> list[Outcome]:
    """The outcomes that have effect after `records`, in the order of the log.

    `records` are a log from its beginning, in sequence order. What an event means:

    - A revert acts on what stands before it. It acts unless a later revert that acts names it by id; so
      reverting a revert brings the outcomes back, and reverting that takes them away again.
    - Of the quarantines and releases of a principal the last that acts decides, for earlier and later
      outcomes alike.
    - What is forgotten stays so.

    Only the sequence orders. Times serve the `since` and `until` of a revert and nothing else.

    Raises ValueError when the sequence numbers do not increase.
    """
    outcomes: list[tuple[int, Outcome]] = []
    events: list[tuple[int, Event]] = []
    for seq, entry in _increasing(records):
        if isinstance(entry, Outcome):
            outcomes.append((seq, entry))
        elif isinstance(entry, Event):
            events.append((seq, entry))
    hidden = Hidden(events)
    return [outcome for seq, outcome in outcomes if not hidden.covers(seq, outcome)]


def _increasing(records: Iterable[Record]) -> Iterator[Record]:
    before = 0
    for record in records:
        if record.seq <= before:
            raise ValueError(f"record {record.seq} comes after record {before}: a log is read in its order")
        before = record.seq
        yield record


def _acting(events: list[tuple[int, Event]]) -> list[tuple[int, Event]]:
    """The events that no later acting revert names, in the order of the log."""
    acting = []
    undone: set[str] = set()
    # From the last to the first: whether an event acts depends on what comes after it only.
    for seq, event in reversed(events):
        if event.id in undone and event.kind != "forget":
            continue
        if event.kind == "revert":
            undone.update(event.ids)
        acting.append((seq, event))
    acting.reverse()
    return acting


class _Span(NamedTuple):
    """A revert by time: what stands before `seq` with `since` <= time < `until`."""

    seq: int
    since: float | None
    until: float | None

    def covers(self, seq: int, time: float) -> bool:
        after_start = self.since is None or time >= self.since
        before_end = self.until is None or time < self.until
        return seq < self.seq and after_start and before_end


class Hidden:
    """What the events of a log hide, arranged so that one outcome is judged without walking over all."""

    def __init__(self, events: Iterable[tuple[int, Event]] = ()) -> None:
        """`events` are all of a log, with their sequence numbers, in order."""
        self._forgotten: set[str] = set()
        self._quarantined: set[str] = set()
        self._reverted_before: dict[str, int] = {}
        self._spans: defaultdict[str | None, list[_Span]] = defaultdict(list)
        for seq, event in _acting(list(events)):
            self._add(seq, event)

    def _add(self, seq: int, event: Event) -> None:
        if event.kind == "forget":
            self._forgotten.update(event.ids)
        elif event.kind == "revert" and event.ids:
            self._reverted_before.update(dict.fromkeys(event.ids, seq))
        elif event.kind == "revert":
            self._spans[event.principal].append(_Span(seq, event.since, event.until))
        elif event.principal is not None:
            change = self._quarantined.add if event.kind == "quarantine" else self._quarantined.discard
            change(event.principal)

    def covers(self, seq: int, outcome: Outcome) -> bool:
        """Whether `outcome`, at `seq`, has no effect."""
        if outcome.id in self._forgotten or outcome.by in self._quarantined:
            return True
        if seq < self._reverted_before.get(outcome.id, 0):
            return True
        return any(
            span.covers(seq, outcome.time)
            for principal in (outcome.by, None)
            for span in self._spans.get(principal, ())
        )
