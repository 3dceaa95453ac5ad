"""YAML text into positioned nodes: no models, no constructors, every limit checked on the way.

PyYAML's loaders keep the last of two equal keys, read `NO` as false and expand aliases without end. Only its
event parser is used here; composing, and what a scalar means (YAML 1.2, in the JSON way), are ours.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple, NoReturn, Protocol, TypeAlias

from yaml import YAMLError, events
from yaml.error import MarkedYAMLError
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.scanner import Scanner

from semroute.errors import Problem

MAX_BYTES = 16 * 2**20
MAX_DEPTH = 32
MAX_NODES = 500_000
MAX_ALIASED_NODES = 100_000
MAX_INVISIBLE = 100  # problems of this kind a file; whoever has more has saved another kind of file


class ScalarNode(NamedTuple):
    """A single value. `line` and `column` count from 1.

    cut: it stands unquoted, and a comment follows on its line.
    swallowed: line and column of a `- ` with which a later line of it begins; an item it was meant to be.
    """

    value: str | int | float | bool | None
    line: int
    column: int
    cut: bool = False
    swallowed: tuple[int, int] | None = None


class SequenceNode(NamedTuple):
    """A list of nodes."""

    items: list[Node]
    line: int
    column: int


class Entry(NamedTuple):
    """A value of a mapping, with the position of its key."""

    value: Node
    line: int
    column: int


class MappingNode(NamedTuple):
    """Keys and values in the order of the file; of a repeated key the first."""

    entries: dict[str, Entry]
    line: int
    column: int


Node: TypeAlias = ScalarNode | SequenceNode | MappingNode


@dataclass(frozen=True, slots=True)
class Document:
    """One file as read.

    root: None when the file holds nothing, or nothing that could be read.
    complete: False when something of the file is not in `root`, so that nothing may be called missing.
    """

    file: str
    root: Node | None
    complete: bool
    problems: tuple[Problem, ...]


def read_yaml(path: Path, shown: str) -> Document:
    """Read one file; `shown` is what problems call it. What is wrong with it stands in the answer."""
    data = _read_bytes(path)
    if isinstance(data, str):
        return _unreadable(Problem(shown, 0, 0, data))
    if data.startswith((b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")):
        return _unreadable(Problem(shown, 1, 1, f"UTF-16 or UTF-32; {_SAVE_AS_UTF_8}"))
    data = data.removeprefix(b"\xef\xbb\xbf")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line, column = _position(data[: error.start].decode("utf-8"))
        return _unreadable(Problem(shown, line, column, f"not UTF-8 from here on; {_SAVE_AS_UTF_8}"))
    if b"\0" in data:
        line, column = _position(text[: text.index("\0")])
        cure = f"{_SAVE_AS_UTF_8} if it is UTF-16, else delete it"
        return _unreadable(Problem(shown, line, column, f"a NUL character; {cure}"))
    if not _has_invisible(data):
        return compose(text, shown)
    found = islice(_INVISIBLE.finditer(text), MAX_INVISIBLE)
    invisible = [_invisible_problem(text, character, shown) for character in found]
    document = compose(_INVISIBLE.sub("\ufffd", text), shown)
    return replace(document, problems=(*invisible, *document.problems))


def _unreadable(problem: Problem) -> Document:
    return Document(problem.file, None, complete=False, problems=(problem,))


def _read_bytes(path: Path) -> bytes | str:
    """The content of the file, or why there is none."""
    try:
        if path.exists() and not path.is_file():
            return "not a regular file"
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    if len(data) > MAX_BYTES:
        return f"larger than {MAX_BYTES // 2**20} MiB; split it into several route files"
    return data


_SAVE_AS_UTF_8 = "save the file as UTF-8"
_BREAK = re.compile("\r\n|\r|\n")


def _position(before: str) -> tuple[int, int]:
    """Line and column of what follows the text `before`."""
    lines = _BREAK.split(before)
    return len(lines), len(lines[-1]) + 1


# What YAML does not allow unescaped, and what only YAML 1.1 takes for a line break, which would shift lines.
_INVISIBLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
_INVISIBLE_ASCII = bytes(code for code in range(128) if _INVISIBLE.match(chr(code)))
_INVISIBLE_OTHER = re.compile(b"\xc2[\x80-\x9f]|\xe2\x80[\xa8\xa9]|\xef(?:\xbb\xbf|\xbf[\xbe\xbf])")


def _has_invisible(data: bytes) -> bool:
    """The same question of the UTF-8 bytes, a hundred times faster."""
    if len(data.translate(None, _INVISIBLE_ASCII)) != len(data):
        return True
    return not data.isascii() and _INVISIBLE_OTHER.search(data) is not None


def _invisible_problem(text: str, found: re.Match[str], file: str) -> Problem:
    code = ord(found.group())
    cure = f'delete it, or write "\\u{code:04x}" inside double quotes'
    line, column = _position(text[: found.start()])
    return Problem(file, line, column, f"invisible character U+{code:04X}; {cure}")


class _Events(Protocol):
    """What PyYAML's two parsers have in common."""

    def get_event(self) -> events.Event | None: ...


class _PythonParser(Reader, Scanner, Parser):
    """PyYAML's own parser without composer and constructor, for builds of PyYAML without libyaml."""

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)


def _open_events(text: str) -> _Events:
    """The events of libyaml where PyYAML was built with it: it is 30 times faster."""
    try:
        from yaml._yaml import CParser
    except ImportError:
        return _PythonParser(text)
    parser: _Events = CParser(text)
    return parser


def compose(text: str, file: str) -> Document:
    """Compose the nodes of one YAML document. Text holds no character that YAML does not allow."""
    pairs = _SurrogatePairs(text)
    composer = _Composer(file, pairs, pairs.text.split("\n"))
    complete = True
    try:
        composer.run(_open_events(pairs.text))
    except _Stopped as stopped:
        composer.problems.append(stopped.problem)
        complete = False
    except YAMLError as error:
        composer.problems.append(_syntax_problem(error, text, file))
        complete = False
    return Document(file, composer.root, complete and not composer.dropped, tuple(composer.problems))


def events_of(text: str) -> Iterator[events.Event]:
    """The events of a text that `compose` reads without a problem. Their marks count its characters."""
    parser = _open_events(_SurrogatePairs(text).text)
    while (event := parser.get_event()) is not None:
        yield event


class _Stopped(Exception):  # noqa: N818 - never leaves this module
    """Reading ends here, by a limit or for want of meaning."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem


@dataclass(slots=True)
class _Anchored:
    """What an alias would repeat: `node` is None while it is still open; `height` counts its levels."""

    node: Node | None = None
    weight: int = 0
    height: int = 1


@dataclass(slots=True)
class _Frame:
    """A list or mapping that is still open.

    key: in a mapping, the key whose value comes next, with its position; None where that value is dropped.
    """

    node: SequenceNode | MappingNode
    items: list[Node]
    entries: dict[str, Entry]
    anchored: _Anchored | None
    weight_before: int
    expects_key: bool
    key: tuple[str, int, int] | None = None
    height: int = 1


@dataclass(slots=True)
class _Composer:
    """Builds the nodes of one file from its events, and counts them.

    A node is attached to its parent before it is filled, so that what precedes a syntax error is kept.

    unused: anchors of the items of lists that nothing repeats yet: texts that start with &, likely.
    """

    file: str
    pairs: _SurrogatePairs
    lines: list[str]
    root: Node | None = None
    dropped: bool = False
    problems: list[Problem] = field(default_factory=list)
    stack: list[_Frame] = field(default_factory=list)
    anchors: dict[str, _Anchored] = field(default_factory=dict)
    unused: dict[str, events.ScalarEvent] = field(default_factory=dict)
    weight: int = 0
    aliased: int = 0

    def run(self, parser: _Events) -> None:
        """Take every event; raises what the parser raises, and _Stopped."""
        documents = 0
        while (event := parser.get_event()) is not None:
            if isinstance(event, events.NodeEvent):
                self._start(event)
            elif isinstance(event, events.CollectionEndEvent):
                self._close(self.stack.pop())
            elif isinstance(event, events.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    self._stop(event, "a second document begins here; write it into a file of its own")
        for anchor, event in self.unused.items():
            cure = "put it in quotes if it is part of the text"
            self._complain(event, f"`&{anchor}` names what follows, and nothing repeats it; {cure}")

    def _start(self, event: events.NodeEvent) -> None:
        self._count(1, event)
        if isinstance(event, events.ScalarEvent | events.CollectionStartEvent) and event.tag is not None:
            self._complain(event, "tags (`!`) are not read; put it in quotes if it is a text")
        if self.stack and self.stack[-1].expects_key:
            self._start_key(self.stack[-1], event)
        elif isinstance(event, events.ScalarEvent):
            value, cut = self._value(event), self._is_cut(event)
            scalar = ScalarNode(value, *_at(event), cut, self._swallowed(event))
            if event.anchor is not None:
                self.anchors[event.anchor] = _Anchored(scalar, 1)
                if self.stack and isinstance(self.stack[-1].node, SequenceNode):
                    self.unused[event.anchor] = event
            self._attach(scalar, height=1)
        elif isinstance(event, events.AliasEvent):
            self._repeat(event)
        else:
            self._open(event, attached=True)

    def _start_key(self, frame: _Frame, event: events.NodeEvent) -> None:
        frame.expects_key = False
        if not isinstance(event, events.ScalarEvent):
            self._complain(event, "a key must be text; one that starts with [, {, * or & needs quotes")
            self.dropped = True
            if isinstance(event, events.CollectionStartEvent):
                self._open(event, attached=False)
            return
        line, column = _at(event)
        key = self.pairs.restore(event)
        if key == "<<" and not event.style:
            self._complain(event, "merge keys (`<<`) are not read; write the keys out")
            self.dropped = True
        elif key in frame.entries:
            first = frame.entries[key]
            where = f"{self.file}:{first.line}:{first.column}"
            self._complain(event, f"duplicate key {shorten(key)}, which stands at {where} already; keep one")
        else:
            frame.key = (key, line, column)

    def _attach(self, node: Node, height: int) -> None:
        if not self.stack:
            self.root = node
            return
        frame = self.stack[-1]
        frame.height = max(frame.height, height + 1)
        if isinstance(frame.node, SequenceNode):
            frame.items.append(node)
            return
        if frame.key is not None:
            key, line, column = frame.key
            frame.entries[key] = Entry(node, line, column)
        frame.key = None
        frame.expects_key = True

    def _open(self, event: events.NodeEvent, *, attached: bool) -> None:
        if len(self.stack) >= MAX_DEPTH:
            self._exceed(event, f"nested deeper than {MAX_DEPTH} levels")
        items: list[Node] = []
        entries: dict[str, Entry] = {}
        node: SequenceNode | MappingNode
        if is_mapping := isinstance(event, events.MappingStartEvent):
            node = MappingNode(entries, *_at(event))
        else:
            node = SequenceNode(items, *_at(event))
        if attached:
            self._attach(node, height=1)
        anchored = None
        if event.anchor is not None:
            anchored = self.anchors[event.anchor] = _Anchored()
        self.stack.append(_Frame(node, items, entries, anchored, self.weight - 1, expects_key=is_mapping))

    def _close(self, frame: _Frame) -> None:
        if frame.anchored is not None:
            frame.anchored.node = frame.node
            frame.anchored.weight = self.weight - frame.weight_before
            frame.anchored.height = frame.height
        if self.stack:
            self.stack[-1].height = max(self.stack[-1].height, frame.height + 1)

    def _repeat(self, event: events.AliasEvent) -> None:
        anchored = self.anchors.get(str(event.anchor))
        self.unused.pop(str(event.anchor), None)
        if anchored is None:
            cure = "put it in quotes if it is a text that starts with *"
            self._stop(event, f"nothing is named `&{event.anchor}` above; {cure}")
        if anchored.node is None:
            self._stop(event, f"`*{event.anchor}` stands inside what it repeats")
        self.aliased += anchored.weight
        if self.aliased > MAX_ALIASED_NODES:
            self._exceed(event, f"aliases repeat more than {MAX_ALIASED_NODES:,} values; write fewer of them")
        self._count(anchored.weight - 1, event)
        if len(self.stack) + anchored.height > MAX_DEPTH:
            self._exceed(event, f"nested deeper than {MAX_DEPTH} levels by aliases")
        line, column = _at(event)
        self._attach(anchored.node._replace(line=line, column=column), anchored.height)

    def _count(self, weight: int, event: events.Event) -> None:
        self.weight += weight
        if self.weight > MAX_NODES:
            self._exceed(event, f"more than {MAX_NODES:,} values; split the file into several route files")

    def _value(self, event: events.ScalarEvent) -> str | int | float | bool | None:
        text = self.pairs.restore(event)
        return text if event.style or event.tag is not None else plain_scalar(text)

    def _is_cut(self, event: events.ScalarEvent) -> bool:
        mark = event.end_mark
        if event.style or mark is None or mark.line >= len(self.lines):
            return False
        rest = self.lines[mark.line][mark.column :]
        return rest[:1].isspace() and rest.lstrip().startswith("#")

    def _swallowed(self, event: events.ScalarEvent) -> tuple[int, int] | None:
        start, end = event.start_mark, event.end_mark
        if event.style in ("|", ">") or start is None or end is None:
            return None
        for number in range(start.line + 1, min(end.line + 1, len(self.lines))):
            text = self.lines[number].lstrip(" ")
            if text.startswith("- "):
                return number + 1, len(self.lines[number]) - len(text) + 1
        return None

    def _problem(self, event: events.Event, message: str) -> Problem:
        return Problem(self.file, *_at(event), message)

    def _complain(self, event: events.Event, message: str) -> None:
        self.problems.append(self._problem(event, message))

    def _exceed(self, event: events.Event, message: str) -> NoReturn:
        self.root = None  # what is too large to read is too large to check
        self._stop(event, message)

    def _stop(self, event: events.Event, message: str) -> NoReturn:
        raise _Stopped(self._problem(event, message))


def _at(event: events.Event) -> tuple[int, int]:
    mark = event.start_mark
    return (0, 0) if mark is None else (mark.line + 1, mark.column + 1)


def shorten(text: str) -> str:
    """A key or name as a problem may show it: in backquotes, printable, never long."""
    return f"`{printable(text[:60])}...`" if len(text) > 60 else f"`{printable(text)}`"


def printable(text: str) -> str:
    """The text with a question mark for each character that has no shape."""
    return "".join(character if character.isprintable() else "?" for character in text)


_WORDS: dict[str, bool | None] = {
    "": None,
    "~": None,
    **dict.fromkeys(("null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,17})", re.ASCII)
_FLOAT = re.compile(r"[-+]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?", re.ASCII)
_NOT_FINITE = re.compile(r"([-+]?)\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


def plain_scalar(text: str) -> str | int | float | bool | None:
    """What an unquoted value means: null, true, false or a number as JSON writes them, else text."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] not in "-+.0123456789":
        return text
    if _INTEGER.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    if _NOT_FINITE.fullmatch(text):
        return float(text.replace(".", ""))
    return text


_PAIR = re.compile(
    r"(?<!\\)((?:\\\\)*)(\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})",
)


class _SurrogatePairs:
    r"""JSON writes one character above U+FFFF as two escapes, such as "\ud83d\ude00", which YAML refuses.

    `text` has two stand-ins of the same length in their place, an unused character each, so that no position
    moves; `restore` puts the character back, or the escapes where they were not inside double quotes.
    """

    def __init__(self, text: str) -> None:
        self.starts: list[int] = []
        self.written: list[str] = []
        self.text = text
        if "\\u" not in text or not (found := list(_PAIR.finditer(text))):
            return
        lowered = text.lower()
        code = next(c for c in range(0xE000, 0xF900) if chr(c) not in text and f"{c:x}" not in lowered)
        self.character, self.escape = chr(code) * 2, f"\\u{code:04x}" * 2
        self.starts = [match.start(2) for match in found]
        self.written = [match[2] for match in found]
        self.text = _PAIR.sub(lambda match: match[1] + self.escape, text)

    def restore(self, event: events.ScalarEvent) -> str:
        """The text of the scalar as its author meant it."""
        value: str = event.value
        if not self.starts or event.start_mark is None or event.end_mark is None:
            return value
        first = bisect_left(self.starts, event.start_mark.index)
        last = bisect_left(self.starts, event.end_mark.index)
        for written in self.written[first:last]:
            if event.style == '"':
                value = value.replace(self.character, _character(written), 1)
            else:
                value = value.replace(self.escape, written, 1)
        return value


def _character(pair: str) -> str:
    high, low = int(pair[2:6], 16), int(pair[8:12], 16)
    return chr(0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00))


_INDENT = "indent the lines of one list or mapping alike, with spaces"
_QUOTE = "put it in quotes: a text that starts with {} needs them"
_UNCLOSED = (
    "a quote that is never closed begins here; close it, or put the whole text in quotes of the other kind"
)
_CLOSED = "text follows a closing quote; put all of it in quotes of the other kind"
_ESCAPE = "no escape that YAML knows; use single quotes, or write the character itself"
_SIGNS = "put a text that holds quotes, brackets, ` #` or `: ` in quotes"
_ADVICE = {
    # libyaml looks far ahead of what is composed, and newer ones stop at a thousand levels there.
    "maximum nesting depth": f"nested deeper than {MAX_DEPTH} levels",
    "unexpected ':'": f"a key without its `: `; write `key: value`, or {_SIGNS}",
    "mapping values are not allowed": "put it in quotes: a value with a second `: ` in it needs them",
    "expected ':'": f"a key without its `: `; write `key: value`, or {_INDENT}",
    "unknown escape character": "a backslash in double quotes starts an escape; use single quotes or `\\\\`",
    "escape": _ESCAPE,
    "hexdecimal": _ESCAPE,
    "unexpected end of stream": _UNCLOSED,
    "unexpected document indicator": _UNCLOSED,
    "',' or ']'": f"the list that begins here with [ has no `,` or `]` where one must be; {_SIGNS}",
    "',' or '}'": f"the mapping that begins here with {{ has no `,` or `}}` where one must be; {_SIGNS}",
    "alphabetic or numeric character": _QUOTE.format("* or &"),
    "tab": "a tab in the indentation; indent with spaces",
    "node content": f"no value where one must be, or a bracket above that is never closed; {_SIGNS}",
    "expected key": f"neither a key nor part of the value above; put the whole value in quotes, or {_INDENT}",
    "expected <block end>": f"not part of what began above; {_INDENT}",
    "'-' indicator": f"not an item (`- `) of the list above; {_INDENT}",
    "block sequence entries are not allowed": "a list begins on its own line, below its key",
    "<document start>": "something follows the end of the document; write it into a file of its own",
    "incompatible YAML document": "the %YAML line asks for a version that is not read; delete it",
}
_FIRST_CHARACTERS = {
    "\t": _ADVICE["tab"],
    "@": _QUOTE.format("@"),
    "`": _QUOTE.format("a backquote"),
    "%": _QUOTE.format("%"),
}
_BLAME_THE_BEGINNING = re.compile("unexpected|',' or|expected ':'|alphabetic or numeric")
_ITEM = re.compile(r" *- +(?=\S)")
_IN_AN_ITEM = re.compile("'-' indicator|<block end>|comment or|node content|expected key")
"""What the parsers say of an item that would be a text if it stood in quotes."""


def _syntax_problem(error: YAMLError, text: str, file: str) -> Problem:
    """The parser's complaint at the place that its reader must change, in our words and in the parser's."""
    if not isinstance(error, MarkedYAMLError) or error.problem_mark is None:
        return Problem(file, 0, 0, f"no YAML ({error})")
    reason, mark = str(error.problem), error.problem_mark
    if error.context_mark is not None and _BLAME_THE_BEGINNING.search(reason):
        mark = error.context_mark
    line, column = mark.line + 1, mark.column + 1
    advice = next((advice for part, advice in _ADVICE.items() if part in reason), f"no YAML; {_INDENT}")
    if "cannot start any token" in reason:
        advice = _FIRST_CHARACTERS.get(text[mark.index : mark.index + 1], advice)
    elif _IN_AN_ITEM.search(reason):
        lines = _BREAK.split(text)
        column, advice = _of_item(lines[mark.line] if mark.line < len(lines) else "", column, advice)
    return Problem(file, line, column, f"{advice} (the parser says: {reason})")


def _of_item(line: str, column: int, advice: str) -> tuple[int, str]:
    """Where in its `line` a text is at fault that only lacks quotes, and what to do; else as given."""
    if line[: column - 1].rstrip().endswith(("'", '"')):
        return column, _CLOSED
    item = _ITEM.match(line)
    if item is None or item.end() >= column or line[item.end()] not in "[]{},:|>":
        return column, advice
    return item.end() + 1, _QUOTE.format(line[item.end()])
