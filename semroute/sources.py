"""A configuration as written: plain data beside its places, and what can only be checked across files.

These checks look at what is there without asking that all of it is valid, so that one fault hides no other.
They run over a folder of YAML and over the canonical JSON of an index alike.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import chain
from pathlib import Path
from typing import NamedTuple, TypeAlias

from semroute.errors import Problem
from semroute.yaml import Document, MappingNode, Node, ScalarNode, SequenceNode, read_yaml, shorten

SETTINGS_STEM = "semroute"
_SUFFIXES = (".yaml", ".yml")

Plain: TypeAlias = str | int | float | bool | list["Plain"] | dict[str, "Plain"] | None
KeyPath: TypeAlias = tuple[str | int, ...]


class Place(NamedTuple):
    """Where something stands. `line` and `column` count from 1; 0 means the whole of `file`."""

    file: str
    line: int
    column: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


@dataclass(frozen=True, slots=True)
class Source:
    """The settings or one route as written.

    name: the file, or for canonical JSON what holds `data`.
    node: `data` with its positions; None for canonical JSON.
    complete: False when the file holds more than could be read, so that nothing may be called missing.
    """

    name: str
    data: Plain
    node: Node | None = None
    complete: bool = True

    def get(self, *path: str | int) -> Plain:
        """The value at `path`; None where there is none."""
        value = self.data
        for part in path:
            if isinstance(value, dict) and isinstance(part, str):
                value = value.get(part)
            elif isinstance(value, list) and isinstance(part, int) and part < len(value):
                value = value[part]
            else:
                return None
        return value

    def items(self, *path: str | int) -> Iterator[tuple[KeyPath, Plain]]:
        """The items of the list at `path`, with their paths; nothing where there is no list."""
        value = self.get(*path)
        if isinstance(value, list):
            for index, item in enumerate(value):
                yield (*path, index), item

    def keys(self, *path: str | int) -> Collection[str]:
        """The keys of the mapping at `path`; nothing where there is no mapping."""
        value = self.get(*path)
        return value.keys() if isinstance(value, dict) else ()

    def place(self, *path: str | int, key: bool = False) -> Place:
        """Where the value at `path` stands, or what encloses it; with `key`, where its key stands."""
        if self.node is None:
            dotted = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
            return Place(self.name + dotted, 0, 0)
        node: Node = self.node
        line, column = node.line, node.column
        for part in path:
            if isinstance(node, MappingNode) and part in node.entries:
                entry = node.entries[str(part)]
                line, column = (entry.line, entry.column) if key else (entry.value.line, entry.value.column)
                node = entry.value
            elif isinstance(node, SequenceNode) and isinstance(part, int) and part < len(node.items):
                node = node.items[part]
                line, column = node.line, node.column
            else:
                break
        return Place(self.name, line, column)

    def is_cut(self, *path: str | int) -> bool:
        """Whether the text at `path` stands unquoted with a comment behind it on its line."""
        node = self._scalar(*path)
        return node is not None and node.cut

    def swallowed(self, *path: str | int) -> Place | None:
        """Where a line of the text at `path` begins with `- `, as an item of its own would."""
        node = self._scalar(*path)
        return None if node is None or node.swallowed is None else Place(self.name, *node.swallowed)

    def _scalar(self, *path: str | int) -> ScalarNode | None:
        node = self.node
        for part in path:
            if isinstance(node, MappingNode) and part in node.entries:
                node = node.entries[str(part)].value
            elif isinstance(node, SequenceNode) and isinstance(part, int) and part < len(node.items):
                node = node.items[part]
            else:
                return None
        return node if isinstance(node, ScalarNode) else None

    def problem(self, message: str, *path: str | int, key: bool = False) -> Problem:
        """A problem at that place."""
        return Problem(*self.place(*path, key=key), message)


@dataclass(frozen=True, slots=True)
class Sources:
    """All of a configuration.

    settings: None when there are none that can be read.
    has_route_files: whether anything was written as a route, readable or not.
    """

    settings: Source | None
    routes: tuple[Source, ...]
    has_route_files: bool

    @property
    def complete(self) -> bool:
        """Whether everything that was written could be read."""
        return self.settings is not None and all(source.complete for source in (self.settings, *self.routes))


# Reading a folder


def read_folder(folder: Path) -> tuple[Sources, list[Problem]]:
    """Read the settings and every route of `folder`, with what is wrong with the files themselves."""
    try:
        entries = sorted(folder.iterdir(), key=lambda entry: entry.name)
        files = [entry for entry in entries if _is_yaml(entry.name) and not entry.is_dir()]
    except OSError as error:
        return Sources(None, (), False), [Problem(str(folder), 0, 0, _no_folder(error))]
    documents = [read_yaml(file, str(file)) for file in files]
    problems = [problem for document in documents for problem in document.problems]
    settings = [document for document in documents if Path(document.file).stem == SETTINGS_STEM]
    problems += _settings_problems(folder, settings)
    if settings:
        problems += [_unread_folder(entry) for entry in entries if _holds_yaml(entry)]
    routes: list[Source] = []
    for document in documents:
        if document not in settings:
            routes += _routes_of(document, problems)
    return Sources(_settings_of(settings), tuple(routes), len(documents) > len(settings)), problems


def _is_yaml(name: str) -> bool:
    """Whether a file of this name is read. Hidden files and what editors leave behind are not."""
    return name.lower().endswith(_SUFFIXES) and not name.startswith((".", "#", "~"))


def _no_folder(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such folder; `semroute init` writes one to start from"
    if isinstance(error, NotADirectoryError):
        return "not a folder; name the folder that holds semroute.yaml"
    return f"cannot be read: {error.strerror}"


def _holds_yaml(entry: Path) -> bool:
    """Whether `entry` is a folder with YAML files at any depth."""
    if entry.name.startswith(".") or not entry.is_dir():
        return False
    for _, folders, files in os.walk(entry):
        folders[:] = [folder for folder in folders if not folder.startswith(".")]
        if any(_is_yaml(file) for file in files):
            return True
    return False


def _unread_folder(entry: Path) -> Problem:
    return Problem(
        str(entry), 0, 0, "holds YAML files, and sub-folders are not read; move the files up or elsewhere"
    )


def _settings_problems(folder: Path, settings: list[Document]) -> Iterator[Problem]:
    if not settings:
        file = str(folder / f"{SETTINGS_STEM}.yaml")
        yield Problem(file, 0, 0, "missing; it names the default model, and `semroute init` writes one")
    for other in settings[1:]:
        yield Problem(other.file, 0, 0, f"the settings stand in {settings[0].file} already; keep one file")


def _settings_of(documents: list[Document]) -> Source | None:
    if not documents:
        return None
    document = documents[0]
    if document.root is None:
        # An empty file lacks its keys like any other; of an unreadable one nothing more can be said.
        return Source(document.file, {}, MappingNode({}, 1, 1)) if document.complete else None
    return Source(document.file, plain(document.root), document.root, document.complete)


def _routes_of(document: Document, problems: list[Problem]) -> Iterator[Source]:
    root = document.root
    if root is None:
        if document.complete:
            problems.append(Problem(document.file, 1, 1, "nothing in it; write a route or delete the file"))
        else:
            yield _unknown_source(document.file)
        return
    whole = Source(document.file, plain(root), root, document.complete)
    if isinstance(root, SequenceNode):
        problems.append(whole.problem("a list of routes goes under the key `routes:`"))
        yield _unknown_source(whole.name)
    elif isinstance(root, MappingNode) and "routes" in root.entries:
        yield from _listed_routes(whole, root, problems)
    else:
        yield whole


def _listed_routes(whole: Source, root: MappingNode, problems: list[Problem]) -> Iterator[Source]:
    for key in root.entries.keys() - {"routes"}:
        message = f"unknown key {shorten(key)}; a file with `routes:` has no other key"
        problems.append(whole.problem(message, key, key=True))
    listed = root.entries["routes"].value
    if isinstance(listed, SequenceNode) and listed.items:
        for item in listed.items:
            yield Source(whole.name, plain(item), item, whole.complete)
        return
    if whole.complete:
        problems.append(whole.problem("must be a list of routes, each beginning with `- name: `", "routes"))
    yield _unknown_source(whole.name)


def _unknown_source(file: str) -> Source:
    """Stands for routes that cannot be read, so that nothing counts as missing for want of them."""
    return Source(file, {}, MappingNode({}, 1, 1), complete=False)


def plain(node: Node) -> Plain:
    """The data of a node without its positions."""
    if isinstance(node, ScalarNode):
        return node.value
    if isinstance(node, SequenceNode):
        return [plain(item) for item in node.items]
    return {key: plain(entry.value) for key, entry in node.entries.items()}


# What can only be checked across files


def check_variables(sources: Sources) -> Iterator[Problem]:
    """`${NAME}` where a model, a store or an encoder is described: it would be sent as it stands."""
    if sources.settings is not None:
        for key in ("models", "escalations", "log", "encoder"):
            for path, value in _scalars(sources.settings.get(key), (key,)):
                if isinstance(value, str) and "${" in value:
                    cure = "write the value itself, and for a key the variable's name under api_key_env"
                    message = f"environment variables are not read into YAML; {cure}"
                    yield sources.settings.problem(message, *path)


def _scalars(value: Plain, path: KeyPath) -> Iterator[tuple[KeyPath, Plain]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _scalars(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _scalars(inner, (*path, index))
    else:
        yield path, value


def check_references(sources: Sources) -> Iterator[Problem]:
    """Names that nothing has, names that two things have, lists that hold nothing."""
    if sources.settings is not None:
        yield from _unknown_models(sources, sources.settings)
        yield from _unknown_routes(sources, sources.settings)
        yield from _nothing_to_decide(sources, sources.settings)
        yield from _empty_conditions(sources.settings)
        rules = [(sources.settings, (*path, "name")) for path, _ in sources.settings.items("rules")]
        yield from _repeated_names(rules, "rule")
    yield from _repeated_names([(route, ("name",)) for route in sources.routes], "route")


def _unknown_models(sources: Sources, settings: Source) -> Iterator[Problem]:
    if not settings.complete or not isinstance(settings.get("models"), dict):
        return
    known = settings.keys("models")
    rules = [path for path, _ in settings.items("rules")]
    owners = [(settings, path) for path in [("default",), *rules]] + [(route, ()) for route in sources.routes]
    for source, owner in [*owners, (settings, ("serve", "arbiter"))]:
        singles = [(*owner, "model"), (*owner, "cascade", "accept", "judge")]
        named = [(single, source.get(*single)) for single in singles]
        lists = [source.items(*owner, "models"), source.items(*owner, "cascade", "to")]
        for path, name in chain(named, *lists):
            if isinstance(name, str) and name not in known:
                cure = f"add it under `models:` in {settings.name}"
                yield source.problem(_unknown("model", name, known, cure), *path)


def _unknown_routes(sources: Sources, settings: Source) -> Iterator[Problem]:
    names = [source.get("name") for source in sources.routes]
    known = [name for name in names if isinstance(name, str)]
    if not sources.complete or len(known) < len(names):
        return
    for rule, _ in settings.items("rules"):
        single = (*rule, "route")
        for path, name in chain([(single, settings.get(*single))], settings.items(*rule, "only")):
            if isinstance(name, str) and name not in known:
                yield settings.problem(_unknown("route", name, known, "write a file for it"), *path)


def _unknown(what: str, name: str, known: Collection[str], cure: str) -> str:
    names = ", ".join(shorten(one) for one in list(known)[:10])
    others = f", or name one of {names}{', ...' if len(known) > 10 else ''}" if names else ""
    return f"unknown {what} {shorten(name)};{did_you_mean(name, known)} {cure}{others}"


def _nothing_to_decide(sources: Sources, settings: Source) -> Iterator[Problem]:
    default = settings.get("default")
    if sources.has_route_files or not sources.complete or not isinstance(default, dict):
        return
    models = default.get("models")
    if isinstance(default.get("model"), str) or (isinstance(models, list) and len(models) == 1):
        cure = "add a route file, or name several models that outcomes may choose from"
        yield settings.problem(f"no routes and one default model leave nothing to decide; {cure}", "default")


def _empty_conditions(settings: Source) -> Iterator[Problem]:
    """Lists that would hold for nothing. In canonical JSON an empty list is one that was not given."""
    if settings.node is None or not settings.complete:
        return
    for rule, _ in settings.items("rules"):
        for path in ((*rule, "only"), *((*rule, "when", key) for key in ("any_regex", "step", "metadata"))):
            if settings.get(*path) in ([], {}):
                yield settings.problem("must not be empty; fill it or delete the key", *path)


def _repeated_names(owners: Iterable[tuple[Source, KeyPath]], what: str) -> Iterator[Problem]:
    first: dict[str, Place] = {}
    for source, path in owners:
        name = source.get(*path)
        if not isinstance(name, str):
            continue
        place = source.place(*path)
        if first.setdefault(name, place) is not place:
            message = f"a {what} named {shorten(name)} stands at {first[name]} already; rename one"
            yield source.problem(message, *path)


class _Text(NamedTuple):
    """An utterance or heldout prompt; `text` is compared, never shown."""

    text: str
    source: Source
    path: KeyPath

    @property
    def place(self) -> Place:
        return self.source.place(*self.path)

    def problem(self, message: str) -> Problem:
        return self.source.problem(message, *self.path)


@dataclass(frozen=True, slots=True)
class TextComparison:
    """Texts that stand in two places, as pairs: the first place, then the other; and texts that are amiss.

    cut: by a comment. swallowing: they hold the line of the item below them.
    """

    indexed_and_held_out: list[tuple[_Text, _Text]]
    indexed_twice: list[tuple[_Text, _Text]]
    held_out_twice: list[tuple[_Text, _Text]]
    cut: list[_Text]
    swallowing: list[_Text]

    def problems(self) -> Iterator[Problem]:
        """A text that is utterance and heldout at once would make every evaluation look better than it is."""
        cure = "what is indexed cannot be held out, so delete one of the two"
        for utterance, text in self.indexed_and_held_out:
            yield text.problem(f"also an utterance, at {utterance.place}; {cure}")

    def warnings(self) -> Iterator[Problem]:
        """What is allowed, but hardly meant."""
        for first, text in self.indexed_twice:
            yield text.problem(_indexed_twice(first, text))
        for first, text in self.held_out_twice:
            yield text.problem(f"held out at {first.place} already; delete one of the two")
        for text in self.cut:
            yield text.problem(
                "what follows ` #` is a comment and no part of the text; put the text in quotes if it is"
            )
        for text in self.swallowing:
            place = text.source.swallowed(*text.path)
            if place is not None:
                message = f"this line is part of the text that begins at {text.place}; indent each `- ` alike"
                yield Problem(*place, message)


def compare_texts(sources: Sources) -> TextComparison:
    """Compare all texts, by what remains of them without case and repeated white space."""
    found = TextComparison([], [], [], [], [])
    utterances: dict[str, _Text] = {}
    heldout: dict[str, _Text] = {}
    defaults = [] if sources.settings is None else list(_texts([sources.settings], "default", "heldout"))
    indexed, held_out = list(_texts(sources.routes, "utterances")), list(_texts(sources.routes, "heldout"))
    for text in chain(defaults, indexed, held_out):
        if text.source.is_cut(*text.path):
            found.cut.append(text)
        if text.source.swallowed(*text.path) is not None:
            found.swallowing.append(text)
    for text in indexed:
        first = utterances.setdefault(text_key(text.text), text)
        if first is not text:
            found.indexed_twice.append((first, text))
    for text in chain(defaults, held_out):
        key = text_key(text.text)
        first = heldout.setdefault(key, text)
        if key in utterances:
            found.indexed_and_held_out.append((utterances[key], text))
        elif first is not text:
            found.held_out_twice.append((first, text))
    return found


def text_key(text: str) -> str:
    """What two texts share when they differ in case and white space only."""
    return " ".join(text.split()).casefold()


def _texts(sources: Iterable[Source], *path: str) -> Iterator[_Text]:
    for source in sources:
        for place, text in source.items(*path):
            if isinstance(text, str):
                yield _Text(text, source, place)


def _indexed_twice(first: _Text, text: _Text) -> str:
    if first.source is not text.source:
        owner = shorten(str(first.source.get("name")))
        return f"also an utterance of route {owner}, at {first.place}; declared first, that route wins"
    if first.text == text.text:
        return f"the same utterance as at {first.place}; it is indexed once"
    return f"but for case and white space the same utterance as at {first.place}"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A suggestion to put behind a semicolon, or nothing."""
    close = get_close_matches(name, list(known), 1)
    return f" did you mean {shorten(close[0])}?" if close else ""
