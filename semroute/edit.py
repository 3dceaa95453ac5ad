"""Numbers into semroute.yaml at their marks: no other byte changes.

A value that stands there is written over. Where its key is missing, a line is put behind the last one of its
mapping, indented and ended as the file does it; inside braces, a pair behind the last pair. Comments, quotes,
line breaks and the byte order mark stay. What comes of it is read again: it must differ in these values and
in nothing else, and be valid, before it takes the place of the file in one step.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple, NoReturn

from yaml import events

from semroute.config import load_config
from semroute.errors import ConfigError, Problem
from semroute.sources import Place, Plain, plain, read_folder
from semroute.yaml import compose, events_of, plain_scalar

_BREAK = re.compile("\r\n|\r|\n")
_BOM = b"\xef\xbb\xbf"
_INDENT = 2  # columns, where the file itself shows none


class Written(NamedTuple):
    """A value that was written: where, under which dotted key, in place of what (None for nothing)."""

    place: Place
    key: str
    before: Plain
    after: float


def write_settings(folder: Path, changes: Mapping[str, float]) -> list[Written]:
    """Write numbers into the settings of `folder`.

    changes: dotted keys, such as "vote.min_confidence", and their values.

    Returns what was written; a value that stands there already is not among it, and no file is touched for
    it. Raises ConfigError when the folder is not valid, or would not be, and for what cannot be written at
    its mark.
    """
    load_config(folder)
    sources, _ = read_folder(folder)
    if sources.settings is None:  # pragma: no cover - the config would not be valid
        raise ConfigError((Problem(str(folder), 0, 0, "holds no settings"),))
    file, old = Path(sources.settings.name), sources.settings
    before = _read(file)
    after = edited(before, changes, str(file))
    if after != before:
        _check(folder, file, after)
        _replace(file, before, after)
    new = read_folder(folder)[0].settings or old
    return [
        Written(new.place(*key.split(".")), key, old.get(*key.split(".")), value)
        for key, value in changes.items()
        if old.get(*key.split(".")) != value
    ]


def edited(data: bytes, changes: Mapping[str, float], file: str) -> bytes:
    """`data`, one valid YAML file called `file`, with `changes`; see `write_settings`. Raises ConfigError."""
    mark = _BOM if data.startswith(_BOM) else b""
    text = data.removeprefix(_BOM).decode("utf-8")
    wanted = _plain(text, file)
    for key, value in changes.items():
        path = tuple(key.split("."))
        text = _edited(text, path, value, file)
        _set(wanted, path, value)
    if _plain(text, file) != wanted:
        _refuse(file, 0, 0, "an anchor repeats what would change; write the values out, or set it by hand")
    return mark + text.encode("utf-8")


def _plain(text: str, file: str) -> Plain:
    document = compose(text, file)
    if document.problems or document.root is None:
        raise ConfigError(document.problems or (Problem(file, 1, 1, "nothing in it"),))
    return plain(document.root)


def _set(data: Plain, path: tuple[str, ...], value: float) -> None:
    """Put `value` at `path` of plain `data`, and mappings where there are none."""
    for part in path[:-1]:
        if not isinstance(data, dict):
            return
        inner = data.get(part)
        data[part] = inner if isinstance(inner, dict) else {}
        data = data[part]
    if isinstance(data, dict):
        data[path[-1]] = value


# Where things stand


@dataclass(slots=True)
class _Node:
    """A value and where it stands: characters `start` to `end`, the latter behind its last visible one.

    kind: scalar, alias, sequence or mapping. flow: within brackets or braces.
    column: of a mapping, that of its keys. quoted: whether its keys stand in double quotes.
    """

    kind: str
    start: int
    end: int
    line: int
    flow: bool = False
    column: int = 0
    quoted: bool = False
    entries: dict[str, _Node] = field(default_factory=dict)


class _Reader:
    """Nodes with their ends, of which `compose` keeps only the starts."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._events = [event for event in events_of(text) if isinstance(event, _KEPT)]
        self._at = 0
        self.step = 0

    def node(self) -> _Node:
        """The next node."""
        event = self._next()
        if isinstance(event, events.MappingStartEvent):
            return self._mapping(event)
        if isinstance(event, events.SequenceStartEvent):
            return self._sequence(event)
        return self._leaf(event)

    def _leaf(self, event: events.Event) -> _Node:
        start, end = _index(event.start_mark), _index(event.end_mark)
        written = self._text[start:end]
        kind = "alias" if isinstance(event, events.AliasEvent) else "scalar"
        if kind == "scalar" and written.startswith("&"):  # the name of an anchor is not the value
            start += len(written) - len(written.partition(" ")[2].lstrip())
        # A block text ends where the next line begins.
        return _Node(kind, start, start + len(self._text[start:end].rstrip()), _line(event))

    def _sequence(self, event: events.SequenceStartEvent) -> _Node:
        found = _Node("sequence", _index(event.start_mark), _index(event.end_mark), _line(event))
        found.flow = bool(event.flow_style)
        while not isinstance(self._peek(), events.SequenceEndEvent):
            found.end = self.node().end
        return self._closed(found)

    def _mapping(self, event: events.MappingStartEvent) -> _Node:
        found = _Node("mapping", _index(event.start_mark), _index(event.end_mark), _line(event))
        found.flow = bool(event.flow_style)
        while not isinstance(self._peek(), events.MappingEndEvent):
            key = self._next()
            if isinstance(key, events.ScalarEvent):
                if not found.entries:
                    found.column = 0 if key.start_mark is None else key.start_mark.column
                    found.quoted = key.style == '"'
                value = found.entries[key.value] = self.node()
                found.end = max(_index(key.end_mark), value.end)
                if value.kind == "mapping" and not value.flow and not found.flow and not self.step:
                    self.step = value.column - found.column
        return self._closed(found)

    def _closed(self, found: _Node) -> _Node:
        end = self._next()
        if found.flow:
            found.end = _index(end.end_mark)
        return found

    def _peek(self) -> events.Event:
        return self._events[self._at]

    def _next(self) -> events.Event:
        self._at += 1
        return self._events[self._at - 1]


_KEPT = (events.NodeEvent, events.CollectionEndEvent)


def _index(mark: object) -> int:
    return int(getattr(mark, "index", 0))


def _line(event: events.Event) -> int:
    return 0 if event.start_mark is None else event.start_mark.line + 1


# Changing one value


def _edited(text: str, path: tuple[str, ...], value: float, file: str) -> str:
    reader = _Reader(text)
    node = reader.node()
    step = reader.step or _INDENT
    for depth, part in enumerate(path):
        if node.kind == "alias":
            _refuse(file, node.line, 0, "an alias stands where a number must be set; write its value out")
        if node.kind == "scalar":  # such as `first`, or nothing
            return _put(text, node, _in_braces(path[depth:], value, quoted=False))
        if node.kind == "sequence":
            _refuse(file, node.line, 0, f"a list stands where {'.'.join(path)} must be set")
        if part not in node.entries:
            return _with_pair(text, node, path[depth:], value, step)
        node = node.entries[part]
    if node.kind in ("mapping", "sequence"):
        _refuse(file, node.line, 0, f"{'.'.join(path)} is no single value")
    if node.kind == "scalar" and _is_number(text[node.start : node.end], value):
        return text
    return _put(text, node, _number(value))


def _put(text: str, node: _Node, written: str) -> str:
    """`written` in place of the value; a space before it where nothing stood."""
    gap = " " if node.start == node.end and text[node.start - 1 : node.start] in (":", "?", "-") else ""
    return text[: node.start] + gap + written + text[node.end :]


def _with_pair(text: str, node: _Node, path: tuple[str, ...], value: float, step: int) -> str:
    """The text with a pair more in the mapping `node`."""
    if node.flow:
        pair = _in_braces(path, value, quoted=node.quoted)[1:-1]
        at = max((entry.end for entry in node.entries.values()), default=node.start + 1)
        return text[:at] + (", " if node.entries else "") + pair + text[at:]
    at, newline = _line_end(text, node.end)
    lines = [
        " " * (node.column + depth * step) + f"{part}:" + (f" {_number(value)}" if part is path[-1] else "")
        for depth, part in enumerate(path)
    ]
    return text[:at] + "".join(newline + line for line in lines) + text[at:]


def _line_end(text: str, at: int) -> tuple[int, str]:
    """Where the line of `at` ends, and with what; without an end, what the first line ends with."""
    found = _BREAK.search(text, at)
    if found is not None:
        return found.start(), found.group()
    first = _BREAK.search(text)
    return len(text), "\n" if first is None else first.group()


def _in_braces(path: tuple[str, ...], value: float, *, quoted: bool) -> str:
    key = f'"{path[0]}"' if quoted else path[0]
    inner = _number(value) if len(path) == 1 else _in_braces(path[1:], value, quoted=quoted)
    return f"{{{key}: {inner}}}"


def _number(value: float) -> str:
    """As every reader of YAML takes it for a number: no exponent."""
    return format(Decimal(repr(float(value))), "f").removesuffix(".0")


def _is_number(written: str, value: float) -> bool:
    found = plain_scalar(written) if written else None
    return isinstance(found, int | float) and not isinstance(found, bool) and found == value


def _refuse(file: str, line: int, column: int, message: str) -> NoReturn:
    raise ConfigError((Problem(file, line, column, f"{message}."),))


# The file


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        _refuse(str(file), 0, 0, f"cannot be read: {error.strerror or error}")


def _check(folder: Path, file: Path, data: bytes) -> None:
    """Raise ConfigError unless the folder is valid with `data` as its settings."""
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place)
        for other in folder.iterdir():
            if other.is_file() and other.name != file.name:
                shutil.copyfile(other, copy / other.name)
        (copy / file.name).write_bytes(data)
        try:
            load_config(copy)
        except ConfigError as error:
            moved = [
                Problem(str(folder / Path(one.file).name), one.line, one.column, one.message)
                for one in error.problems
            ]
            raise ConfigError(tuple(moved)) from None


def _replace(file: Path, before: bytes, after: bytes) -> None:
    """`after` in place of `before`, in one step and on the disk; a link stays one."""
    real = file.resolve()
    passing = real.with_name(f".{real.name}.{os.getpid()}")
    try:
        with passing.open("xb") as stream:
            stream.write(after)
            stream.flush()
            os.fsync(stream.fileno())
        shutil.copymode(real, passing)
        if real.read_bytes() != before:
            _refuse(str(file), 0, 0, "somebody changed it meanwhile; nothing was written, try again")
        passing.replace(real)
    except OSError as error:
        _refuse(str(file), 0, 0, f"cannot be written: {error.strerror or error}; it is as it was")
    finally:
        with contextlib.suppress(OSError):
            passing.unlink(missing_ok=True)
