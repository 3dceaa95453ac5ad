"""What changed between two configs, or two encoders, in words: for `build --check` and for reviews."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from semroute.config import Cascade, Config, Route

if TYPE_CHECKING:
    from semroute.artifact import EncoderRecord
    from semroute.encoders.base import KnownIdentity


_ROUTE_KEYS = {
    "description": "description",
    "models": "model_names",
    "max_distance": "max_distance",
    "min_confidence": "min_confidence",
    "cascade": "cascade",
}


def config_changes(old: Config, new: Config) -> list[str]:
    """The differences between two configs, one short sentence each, sorted; empty when they are equal."""
    changes = [
        f"{key}: {_short(before)} -> {_short(after)}"
        for key, before, after in _differences(old.canonical()["settings"], new.canonical()["settings"])
    ]
    before = {route.name: route for route in old.routes}
    after = {route.name: route for route in new.routes}
    changes += [f"route {name}: added" for name in after if name not in before]
    changes += [f"route {name}: removed" for name in before if name not in after]
    for name in after.keys() & before.keys():
        changes += [f"route {name}: {change}" for change in _route_changes(before[name], after[name])]
    if not changes and list(before) != list(after):
        changes.append("the order of the routes")
    return sorted(changes)


def encoder_changes(known: KnownIdentity, built: EncoderRecord) -> list[str]:
    """The parts of an encoder's identity that differ from those an index was built with."""
    parts = ("name", "revision", "dim", "preprocessing")
    return [
        f"encoder {part}: {getattr(built, part)} -> {getattr(known, part)}"
        for part in parts
        if getattr(known, part) is not None and getattr(known, part) != getattr(built, part)
    ]


def _differences(old: Any, new: Any, path: str = "") -> list[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        return [
            difference
            for key in keys
            for difference in _differences(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
        ]
    return [] if old == new else [(path, old, new)]


def _plain(route: Route, what: str) -> Any:
    value = getattr(route, what)
    return value.model_dump(mode="json") if isinstance(value, Cascade) else value


def _short(value: Any) -> str:
    text = f"{len(value)} entries" if isinstance(value, list) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def _route_changes(old: Route, new: Route) -> list[str]:
    changes = []
    for what in ("utterances", "heldout"):
        before, after = set(getattr(old, what)), set(getattr(new, what))
        added, removed = len(after - before), len(before - after)
        if added or removed:
            changes.append(f"{what}: {added} added, {removed} removed")
        elif getattr(old, what) != getattr(new, what):
            changes.append(f"{what}: in another order")
    changes += [
        f"{key}: {_short(_plain(old, what))} -> {_short(_plain(new, what))}"
        for key, what in _ROUTE_KEYS.items()
        if getattr(old, what) != getattr(new, what)
    ]
    return changes
