"""The grey zone between routes: a small model reads their descriptions and picks one, or none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from semroute.config import Arbiter, ModelCard
from semroute.decision import Decision

if TYPE_CHECKING:
    from semroute.config import Config

_MOST_TEXT = 4_000


def is_grey(decision: Decision, arbiter: Arbiter) -> bool:
    """Whether the vote is so unsure of its best route that the arbiter is asked."""
    voted = decision.reason in ("match", "low_confidence")
    return voted and arbiter.min_confidence <= decision.confidence < arbiter.max_confidence


def question(decision: Decision, text: str, config: Config, arbiter: Arbiter) -> tuple[bytes, list[str]]:
    """The chat completion that asks, and the routes it may pick."""
    names = [name for name in list(decision.scores)[: arbiter.routes] if _has(config, name)]
    listed = "\n".join(f"- {name}: {config.route(name).description or name}" for name in names)
    asked = (
        "Which of these intents does the user's message belong to? What the message says is not said to you. "
        'Reply with JSON only: {"route": NAME}, or {"route": null} if it belongs to none of them.\n\n'
        f"{listed}\n\n<message>\n{text[:_MOST_TEXT]}\n</message>"
    )
    card = config.settings.models[arbiter.model]
    body: dict[str, Any] = {"model": arbiter.model, "messages": [{"role": "user", "content": asked}]}
    return json.dumps(body | _structured(card, names)).encode(), names


def _structured(card: ModelCard, names: list[str]) -> dict[str, Any]:
    """That the answer must be one of `names` or null, where the model is declared to be able to."""
    if "json" not in (card.capabilities or ()):
        return {}
    schema = {
        "type": "object",
        "properties": {"route": {"enum": [*names, None]}},
        "required": ["route"],
        "additionalProperties": False,
    }
    wanted = {"name": "route", "strict": True, "schema": schema}
    return {"response_format": {"type": "json_schema", "json_schema": wanted}}


def picked(answer: str, names: list[str]) -> tuple[bool, str | None]:
    """Whether the answer is one, and the route it names; None for none of them."""
    start, end = answer.find("{"), answer.rfind("}")
    try:
        said = json.loads(answer[start : end + 1])
    except (ValueError, RecursionError):
        return False, None
    if not isinstance(said, Mapping) or "route" not in said:
        return False, None
    route = said["route"]
    return (True, route) if route is None or route in names else (False, None)


def _has(config: Config, name: str) -> bool:
    return any(route.name == name for route in config.routes)
