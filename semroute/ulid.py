"""Identifiers that sort by time: ULIDs, 26 characters of base 32 (https://github.com/ulid/spec)."""

from __future__ import annotations

import os
import time

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]


def new_ulid() -> str:
    """48 bits of milliseconds since 1970, then 80 random bits."""
    return _spelt((time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10), "big"))


def ulid_of(digest: bytes) -> str:
    """The identifier that the first 16 bytes of `digest` make: the same for the same digest, in no order."""
    return _spelt(int.from_bytes(digest[:16], "big"))


def _spelt(value: int) -> str:
    return "".join([_PAIRS[value >> shift & 1023] for shift in range(120, -1, -10)])
