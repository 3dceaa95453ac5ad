"""Moments as people write them after an option such as --since, and as they are shown."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from semroute.cli.output import refuse

MOMENT_HELP = "2026-11-24, 2026-11-24T08:00 (UTC), or 90m, 24h, 7d ago"

_SECONDS = {"m": 60.0, "h": 3_600.0, "d": 86_400.0}
_DIGITS = 9  # a longer number of minutes, hours or days is before anything that was stored


def moment(option: str, value: str | None) -> float | None:
    """Seconds since 1970 of the `value` of `option`; what is no moment ends the command with exit code 2."""
    if value is None:
        return None
    seconds, count = _SECONDS.get(value[-1:]), value[:-1]
    if seconds is not None and count.isascii() and count.isdigit():
        return max(0.0, time.time() - int(count) * seconds) if len(count) <= _DIGITS else 0.0
    try:
        found = datetime.fromisoformat(value)
        return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        refuse(f"{option} {value!r} is no time: write 2026-11-24, 2026-11-24T08:00, or 90m, 24h, 7d.")


def told_moment(seconds: float) -> str:
    """`seconds` since 1970 as a time (UTC) for people; `-` where no calendar has it."""
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return "-"
