"""`load_config`: a folder in, a frozen `Config` out, or every problem as file:line:col.

`yaml` reads, `shapes` knows what one mapping may hold, `sources` what must hold across files. A `Config`
comes from a folder of YAML or from the canonical JSON inside an index, and both pass the same checks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from semroute.errors import ConfigError, Problem
from semroute.shapes import (
    Accept,
    Api,
    Arbiter,
    Cascade,
    ClientLimits,
    DefaultSettings,
    EscalationSettings,
    Floors,
    LogSettings,
    ModelCard,
    Route,
    RouteList,
    Rule,
    RuleCondition,
    ServeSettings,
    Settings,
    Shape,
    VoteSettings,
    Weights,
)
from semroute.sources import (
    Place,
    Source,
    Sources,
    check_references,
    check_variables,
    compare_texts,
    did_you_mean,
    read_folder,
)
from semroute.yaml import shorten

__all__ = [
    "Accept",
    "Api",
    "Arbiter",
    "Cascade",
    "ClientLimits",
    "Config",
    "DefaultSettings",
    "EscalationSettings",
    "Floors",
    "LogSettings",
    "ModelCard",
    "Place",
    "Route",
    "Rule",
    "RuleCondition",
    "ServeSettings",
    "Settings",
    "VoteSettings",
    "Weights",
    "json_schemas",
    "load_config",
    "schema_text",
]


@dataclass(frozen=True)
class Config:
    """Settings and routes, checked. Routes are in the order of their files' names, then as written.

    warnings: what is allowed but hardly meant; not part of what the config is.
    """

    settings: Settings
    routes: tuple[Route, ...]
    warnings: tuple[Problem, ...] = field(default=(), compare=False)
    _sources: Sources | None = field(default=None, compare=False, repr=False)

    def route(self, name: str) -> Route:
        """The route of that name. Raises KeyError when there is none."""
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> dict[str, Route]:
        return {route.name: route for route in self.routes}

    def canonical(self) -> dict[str, Any]:
        """Everything that is said, as plain JSON types with the defaults filled in."""
        canonical = self.behaviour()
        if self.settings.floors is not None:
            canonical["settings"]["floors"] = self.settings.floors.model_dump(mode="json")
        return canonical

    def behaviour(self) -> dict[str, Any]:
        """What an index depends on, as plain JSON types with the defaults filled in: all but the floors.

        Keys that came later are left out while they say nothing: an older index keeps its fingerprint.
        """
        settings = self.settings.model_dump(mode="json", exclude={"floors"})
        if settings["log"] is None:
            del settings["log"]
        for key, usual in _LATER_VOTE_KEYS.items():
            if settings["vote"][key] == usual:
                del settings["vote"][key]
        return {
            "settings": settings,
            "routes": [route.model_dump(mode="json") for route in self.routes],
        }

    @classmethod
    def from_canonical(cls, data: dict[str, Any]) -> Config:
        """The config that `canonical` described, without places and warnings, which are for writers of YAML.

        Raises ConfigError; the `file` of its problems is then the path inside `data`.
        """
        whole = isinstance(data, dict) and data.keys() == {"settings", "routes"}
        if not whole or not isinstance(data["routes"], list):
            message = "a canonical config holds `settings` and a list of `routes`, nothing else"
            raise ConfigError((Problem("config", 0, 0, message),))
        settings = Source("settings", data["settings"])
        routes = tuple(Source(f"routes[{index}]", route) for index, route in enumerate(data["routes"]))
        return replace(_config(Sources(settings, routes, bool(routes)), []), warnings=(), _sources=None)

    def place(self, route: str | None, kind: Literal["utterances", "heldout"], index: int) -> Place | None:
        """Where a text of a route stands, or of the default when `route` is None; None without YAML."""
        if self._sources is None or self._sources.settings is None:
            return None
        source, path = self._sources.settings, ["default", kind]
        if route is not None:
            names = [one.name for one in self.routes]
            if route not in names:
                return None
            source, path = self._sources.routes[names.index(route)], [kind]
        return None if source.get(*path, index) is None else source.place(*path, index)

    def route_place(self, route: str | None) -> Place | None:
        """Where the name of a route stands, or the default when `route` is None; None without YAML."""
        if self._sources is None or self._sources.settings is None:
            return None
        if route is None:
            return self._sources.settings.place("default")
        named = zip(self.routes, self._sources.routes, strict=True)
        return next((source.place("name") for one, source in named if one.name == route), None)


def load_config(folder: Path) -> Config:
    """Read `folder`: semroute.yaml with the settings, and a route or a list of routes in every other file.

    Raises ConfigError with every problem, sorted by file, line and column.
    """
    sources, problems = read_folder(Path(folder))
    return _config(sources, problems)


def _config(sources: Sources, problems: list[Problem]) -> Config:
    """The config of `sources`. Raises ConfigError with `problems` and all others."""
    problems += check_variables(sources)
    said = set(problems)
    settings = None if sources.settings is None else _parse(Settings, sources.settings, problems)
    routes = [_parse(Route, source, problems) for source in sources.routes]
    problems = _without_noise(said, problems)
    texts = compare_texts(sources)
    problems = _without_noise(set(problems), [*problems, *check_references(sources), *texts.problems()])
    if problems or settings is None:
        raise ConfigError(tuple(sorted(problems)))
    valid = tuple(route for route in routes if route is not None)
    warnings = [*texts.warnings(), *_settings_warnings(settings, sources), *_lone_texts(valid, sources)]
    return Config(settings, valid, tuple(sorted(warnings)), sources)


def _without_noise(said: set[Problem], problems: list[Problem]) -> list[Problem]:
    """`problems` without those that find something more at a place where something is `said` already."""
    places = {_place_of(problem) for problem in said if problem.line}
    return [
        problem for problem in dict.fromkeys(problems) if problem in said or _place_of(problem) not in places
    ]


def _place_of(problem: Problem) -> Place:
    return Place(problem.file, problem.line, problem.column)


def _settings_warnings(settings: Settings, sources: Sources) -> Iterator[Problem]:
    if sources.settings is None:
        return
    for key, section in (("escalations", settings.escalations), ("log", settings.log)):
        store = None if section is None else section.store
        if re.match(r"postgres(ql)?://[^/@]*:[^/@]*@", store or ""):
            message = "this password becomes part of index/; leave it to PGPASSWORD or ~/.pgpass"
            yield sources.settings.problem(message, key, "store")
    if settings.log is not None and settings.log.keep_text and settings.log.max_age_days is None:
        message = "prompts are kept for ever; give max_age_days, such as 30"
        yield sources.settings.problem(message, "log", "keep_text")


def _lone_texts(routes: tuple[Route, ...], sources: Sources) -> Iterator[Problem]:
    """Routes of which one text is indexed: it builds, and recognises hardly more than that text."""
    cure = "write ten or more, as different as can be"
    for route, source in zip(routes, sources.routes, strict=True):
        if not route.utterances:
            yield source.problem(f"no utterances, so that only the description is indexed; {cure}", "name")
        elif len(set(route.utterances)) == 1:
            yield source.problem(f"a single utterance; {cure}", "name")


def json_schemas() -> dict[str, dict[str, Any]]:
    """JSON Schemas for editors: "semroute" of semroute.yaml, "route" of every other file."""
    from semroute.editors import EditorSchema, with_text  # late: no router needs it

    settings = Settings.model_json_schema(schema_generator=EditorSchema)
    # `small:` alone, which is null to YAML, is a model of which nothing is said.
    models = settings["properties"]["models"]
    models["additionalProperties"] = {"anyOf": [models["additionalProperties"], {"type": "null"}]}
    models["minProperties"] = 1  # of which the default is one
    when = settings["$defs"]["RuleCondition"]["properties"]
    for name in ("any_regex", "step"):
        when[name]["minItems"] = 1
    when["metadata"]["minProperties"] = 1
    settings["$defs"]["Rule"]["properties"]["only"]["minItems"] = 1
    route = TypeAdapter[Any](Route | RouteList).json_schema(schema_generator=EditorSchema)
    route["$defs"]["Route"] = with_text(route["$defs"]["Route"])
    dialect = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return {
        "semroute": {**dialect, **settings, "title": "semroute.yaml"},
        "route": {
            **dialect,
            **route,
            "title": "A route file",
            "description": "One route, or a list of routes under `routes:`.",
        },
    }


def schema_text(schema: dict[str, Any]) -> str:
    """A schema as it stands in a file."""
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


# From what pydantic says to what the reader of a problem needs

_ShapeT = TypeVar("_ShapeT", bound=Shape)
_LATER_VOTE_KEYS: dict[str, float | str] = {"min_margin": 0.0, "blend": "auto"}


def _parse(shape: type[_ShapeT], source: Source, problems: list[Problem]) -> _ShapeT | None:
    """The shape, or None and its problems."""
    try:
        return shape.model_validate(source.data)
    except ValidationError as error:
        details = error.errors(include_url=False)
    misspelt = set(chain.from_iterable(_meant(shape, one) for one in details))
    problems += [_problem(shape, source, one) for one in details if _counts(source, one, misspelt)]
    problems += _under_misspelt_keys(shape, source, details)
    return None


def _counts(source: Source, details: ErrorDetails, misspelt: set[tuple[str | int, ...]]) -> bool:
    """Whether something is wrong, and not only unread or named by a `misspelt` key.

    Of a file that could not be read to its end, nothing is missing and a list or mapping may be a text.
    """
    if not source.complete and details["type"] in _WANTED and isinstance(details["input"], list | dict):
        return False
    lacks = _lacks(details)
    return not lacks or (source.complete and not lacks & misspelt)


def _under_misspelt_keys(
    shape: type[Shape], source: Source, details: list[ErrorDetails]
) -> Iterator[Problem]:
    """What is wrong with the values of unknown keys, taken for those of the keys that were meant."""
    data = deepcopy(source.data)
    written: dict[tuple[str | int, ...], tuple[str | int, ...]] = {}
    for one in details:
        for meant in _meant(shape, one):
            *owner, key = _written(one)
            mapping = Source(source.name, data).get(*owner)
            if isinstance(mapping, dict) and meant[-1] not in mapping:
                mapping[str(meant[-1])] = mapping.pop(str(key))
                written[(*owner, meant[-1])] = (*owner, key)
    if not written:
        return
    try:
        shape.model_validate(data)
    except ValidationError as error:
        for one in error.errors(include_url=False):
            path = tuple(_written(one))
            for meant, there in written.items():
                if path[: len(meant)] == meant and _counts(source, one, set()):
                    yield _problem(shape, source, one, (*there, *path[len(meant) :]))


def _lacks(details: ErrorDetails) -> set[tuple[str | int, ...]]:
    """The paths one of which would have to be there."""
    if details["type"] in ("missing", "too_short"):
        return {details["loc"]}
    return {(*details["loc"][:-1], key) for key in details.get("ctx", {}).get("absent", ())}


def _meant(shape: type[Shape], details: ErrorDetails) -> set[tuple[str | int, ...]]:
    """The path that an unknown key was probably meant to be."""
    if details["type"] != "extra_forbidden":
        return set()
    known = _shape_at(shape, _written(details)[:-1]).model_fields
    owner, key = details["loc"][:-1], str(details["loc"][-1])
    return {(*owner, close) for close in get_close_matches(key, known, 1)}


def _written(details: ErrorDetails) -> list[str | int]:
    """The path of what is wrong, without what pydantic adds to it: the chosen shape of `select`, "[key]"."""
    path = list(details["loc"])
    if path[:1] == ["select"]:
        del path[1:2]
    elif _is_about_key(details):
        del path[-1]
    return path + list(details.get("ctx", {}).get("at", ()))


def _is_about_key(details: ErrorDetails) -> bool:
    """Whether the key of a mapping breaks the rules for names."""
    return details["type"] != "extra_forbidden" and details["loc"][-1:] == ("[key]",)


def _problem(
    shape: type[Shape], source: Source, details: ErrorDetails, there: tuple[str | int, ...] | None = None
) -> Problem:
    """there: the path at which it stands, where a key of it is misspelt."""
    path = _written(details)
    there = tuple(path) if there is None else there
    key = details["type"] == "extra_forbidden" or _is_about_key(details)
    if details["type"] == "string_type" and details["input"] is None and source.is_cut(*there):
        message = "what follows `#` is a comment; put it in quotes if it is the text"
        return source.problem(message, *there)
    return source.problem(_message(shape, path, details), *there, key=key)


def _message(shape: type[Shape], path: list[str | int], details: ErrorDetails) -> str:
    kind, value, context = details["type"], details["input"], details.get("ctx", {})
    if kind == "missing":
        key = str(path[-1])
        return f"`{key}` is missing: {_shape_at(shape, path[:-1]).model_fields[key].description}"
    if kind == "extra_forbidden":
        return _unknown_key(shape, path)
    if kind in _WANTED:
        wanted, found = _WANTED[kind], _found(value)
        return f"must be {wanted}, not {found}{_CURES.get((wanted, found), '')}"
    if kind in _BOUNDS:
        return _BOUNDS[kind].format(**context)
    return str(context.get("message", details["msg"]))


_TEXT, _BOOLEAN, _NUMBER, _WHOLE = "text", "true or false", "a number", "a whole number"
_FRACTION, _NOTHING = "a number with a point or an exponent", "nothing"
_LIST, _MAPPING = "a list", "a mapping (`key: value`)"
_WANTED = {
    "string_type": _TEXT,
    "float_type": _NUMBER,
    "int_type": _WHOLE,
    "bool_type": _BOOLEAN,
    "tuple_type": _LIST,
    "dict_type": _MAPPING,
    "model_type": _MAPPING,
}
_CURES = {
    **{(wanted, _NOTHING): "; fill it or delete it" for wanted in _WANTED.values()},
    **{(_TEXT, found): "; put it in quotes" for found in (_BOOLEAN, _NUMBER, _FRACTION)},
    (_TEXT, _MAPPING): "; put it in quotes if it is a text, as one with `: ` in it or at its end must be",
    (_TEXT, _LIST): "; put it in quotes if it is a text",
    (_NUMBER, _TEXT): "; write it as in 0.5, without quotes",
    (_WHOLE, _TEXT): "; write it as in 20, without quotes",
    (_BOOLEAN, _TEXT): "; write true or false, without quotes",
    (_LIST, _TEXT): "; write `- ` before each item",
}
_BOUNDS = {
    "greater_than_equal": "must be at least {ge:g}",
    "greater_than": "must be more than {gt:g}",
    "less_than_equal": "must be at most {le:g}",
    "finite_number": "must be a finite number",
    "too_short": "must not be empty; fill it or delete the key",
}


def _found(value: object) -> str:
    """What kind of value stands there; never the value itself, which may be a secret or a prompt."""
    kinds = {bool: _BOOLEAN, int: _NUMBER, float: _FRACTION, str: _TEXT, list: _LIST, dict: _MAPPING}
    return kinds.get(type(value), _NOTHING)


_SHAPES: dict[tuple[str, ...], type[Shape]] = {
    ("default",): DefaultSettings,
    ("default", "cascade"): Cascade,
    ("default", "cascade", "accept"): Accept,
    ("vote",): VoteSettings,
    ("escalations",): EscalationSettings,
    ("floors",): Floors,
    ("log",): LogSettings,
    ("select",): Weights,
    ("models", "*"): ModelCard,
    ("rules", "*"): Rule,
    ("rules", "*", "when"): RuleCondition,
    ("serve",): ServeSettings,
    ("serve", "arbiter"): Arbiter,
    ("serve", "clients", "*"): ClientLimits,
    ("cascade",): Cascade,
    ("cascade", "accept"): Accept,
}
"""The shape of what stands at a path inside a file; `*` is any key or place in a list."""


def _shape_at(shape: type[Shape], path: list[str | int]) -> type[Shape]:
    """The shape of the mapping at `path` inside `shape`."""
    for pattern, found in _SHAPES.items():
        if len(pattern) == len(path) and all(
            want in ("*", key) for want, key in zip(pattern, path, strict=True)
        ):
            return found
    return shape


def _unknown_key(shape: type[Shape], path: list[str | int]) -> str:
    key, known = str(path[-1]), _shape_at(shape, path[:-1]).model_fields
    unknown = f"unknown key {shorten(key)};"
    if len(path) == 1 and shape is Route and key in Settings.model_fields:
        return f"{unknown} it belongs in semroute.yaml"
    if len(path) == 1 and shape is Settings and key in (*Route.model_fields, "routes"):
        return f"{unknown} it belongs in the file of a route, beside semroute.yaml"
    return f"{unknown}{did_you_mean(key, known)} known here: {', '.join(known)}"
