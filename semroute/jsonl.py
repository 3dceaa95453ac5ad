"""Files of lines, and JSON Lines among them, read so that every line that is wrong is named at once."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from semroute.errors import ConfigError, Problem
from semroute.yaml import shorten

_SPACE = re.compile(r"[ \t\r\n:,]*")


class Row(NamedTuple):
    """One JSON object of a file. `line` counts from 1; `text` is the line as written."""

    line: int
    text: str
    values: dict[str, Any]

    def column(self, key: str) -> int:
        """Where the value of `key` stands on the line, counted from 1; 1 where there is no such key."""
        return next((value + 1 for name, _, value, _ in _members(self.text) if name == key), 1)


def _members(line: str) -> Iterator[tuple[str, int, int, int]]:
    """Each key of the object on `line`, with where key and value begin, and where the value ends."""
    decoder = json.JSONDecoder()
    at = _skip(line, line.index("{") + 1)
    while line[at] != "}":
        start = at
        name, at = decoder.raw_decode(line, at)
        value = _skip(line, at)
        _, end = decoder.raw_decode(line, value)
        yield name, start, value, end
        at = _skip(line, end)


class _RepeatedKey(Exception):  # noqa: N818 - never leaves this module
    """A key stands twice in one object, of which `json` would silently keep the last."""

    def __init__(self, key: str) -> None:
        self.key = key


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _RepeatedKey(next(key for place, key in enumerate(keys) if key in keys[:place]))
    return found


def _column_of_repeated(line: str) -> int:
    """Where the second of two equal keys stands, counted from 1; or the value that holds both."""
    if not line.lstrip().startswith("{"):
        return 1
    seen: set[str] = set()
    for name, start, value, end in _members(line):
        if name in seen:
            return start + 1
        seen.add(name)
        try:
            json.loads(line[value:end], object_pairs_hook=_distinct)
        except _RepeatedKey:
            return value + 1
    return 1


def _is_text(line: str, value: Any) -> bool:
    r"""Whether UTF-8 can hold `value`, read from `line`: an escape such as \ud800 can be half of a pair."""
    if "\\u" not in line:
        return True
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _column_of_half(line: str) -> int:
    """Where the value stands in which half of a surrogate pair is, counted from 1; or its key."""
    for name, start, value, end in _members(line):
        if not _is_text(line, name):
            return start + 1
        if not _is_text(line, json.loads(line[value:end])):
            return value + 1
    return 1


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return at if match is None else match.end()


def read_lines(source: str) -> list[str]:
    """The lines of a UTF-8 file, or of stdin where `source` is "-", without a byte order mark.

    Raises ConfigError when it cannot be read or is not UTF-8.
    """
    try:
        data = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    except OSError as error:
        message = f"cannot be read: {error.strerror or error}."
        raise ConfigError((Problem(source, 0, 0, message),)) from None
    try:
        return _lines(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        # Counted in what the codec was given, which is `error.object`: without the byte order mark.
        before = error.object[: error.start].split(b"\n")
        place = len(before), len(before[-1].decode()) + 1
        message = "not UTF-8; save the file as UTF-8."
        raise ConfigError((Problem(source, *place, message),)) from None


def _lines(text: str) -> list[str]:
    # Not splitlines(): it also breaks at characters that a prompt may hold, such as U+2028.
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return lines[:-1] if lines[-1] == "" else lines


def parse_rows(source: str, lines: Iterable[str], shape: str) -> tuple[list[Row], list[Problem]]:
    """The JSON objects on `lines`, empty lines left out, and what is wrong with the other lines.

    shape: what a row is, for the message about a line that is no object.
    """
    rows: list[Row] = []
    problems: list[Problem] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            values = json.loads(line, object_pairs_hook=_distinct)
        except json.JSONDecodeError as error:
            problems.append(Problem(source, number, error.colno, f"not JSON: {error.msg}."))
        except (ValueError, RecursionError):
            problems.append(Problem(source, number, 1, "not JSON: a number too long, or nested too deeply."))
        except _RepeatedKey as repeated:
            message = f"duplicate key {shorten(repeated.key)}; keep one."
            problems.append(Problem(source, number, _column_of_repeated(line), message))
        else:
            if not isinstance(values, dict):
                problems.append(Problem(source, number, 1, f"a row is {shape}."))
            elif _is_text(line, values):
                rows.append(Row(number, line, values))
            else:
                message = "half of a surrogate pair, which is no text; write the character whole."
                problems.append(Problem(source, number, _column_of_half(line), message))
    return rows, problems


def raise_any(problems: Sequence[Problem]) -> None:
    """Raise ConfigError with `problems`, in the order of their places, if there are any."""
    if problems:
        raise ConfigError(tuple(sorted(problems)))
