"""What the checks of `shapes` mean in JSON Schema, so that an editor marks what a build would refuse.

Only what JSON Schema can say, and never more than the model asks: that a regex compiles, that names are
known, that a text is not held out twice and that 5.0 is no whole number is said by `semroute validate` alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from semroute import shapes

if TYPE_CHECKING:
    from pydantic_core import core_schema

_SHOWN = r"[^\s\u0000-\u001f\u007f-\u009f]"  # no white space, no control character
_INNER = r"[^\u0000-\u001f\u007f-\u009f]"
_UNIQUE = {"uniqueItems": True}

_MEANING: dict[Callable[..., Any], dict[str, Any]] = {
    shapes._name: {"minLength": 1, "maxLength": 100, "pattern": f"^{_SHOWN}({_INNER}*{_SHOWN})?$"},
    shapes._text: {"pattern": r"\S"},
    shapes._distinct: _UNIQUE,
    shapes._no_cycle: _UNIQUE,
    shapes._encoder: {
        "pattern": r"^(minilm|static|(sentence-transformers|onnx|openai):\s*\S[\s\S]*)$",
    },
    shapes._base_url: {"pattern": r"^[hH][tT][tT][pP][sS]?://[^\s/?#@]+(/[^\s?#]*)?\??#?$"},
    shapes._variable_name: {"pattern": "^[A-Z_][A-Z0-9_]{0,99}$"},
    shapes._store: {"pattern": "^(sqlite:.|postgres(ql)?://.)"},
    shapes._log_store: {"pattern": "^((sqlite|jsonl):.|postgres(ql)?://.)"},
    shapes._pattern: {"maxLength": shapes._MAX_PATTERN},
}


class EditorSchema(GenerateJsonSchema):
    """Pydantic's JSON Schema with what our validators ask for."""

    def function_after_schema(self, schema: core_schema.AfterValidatorFunctionSchema) -> JsonSchemaValue:
        """The schema of what is validated, and what the validator means."""
        inner = super().function_after_schema(schema)
        return {**inner, **_MEANING.get(schema["function"]["function"], {})}

    def dict_schema(self, schema: core_schema.DictSchema) -> JsonSchemaValue:
        """A mapping, with the pattern of its keys as a condition: pydantic would let every other key pass."""
        made = super().dict_schema(schema)
        for pattern, values in made.pop("patternProperties", {}).items():
            made["additionalProperties"] = values
            made["propertyNames"] = {**made.get("propertyNames", {}), "pattern": pattern}
        return made


def with_text(route: dict[str, Any]) -> dict[str, Any]:
    """The schema of a route that also asks for an utterance, or a description that is not blank."""
    utterances = {"required": ["utterances"], "properties": {"utterances": {"minItems": 1}}}
    description = {"required": ["description"], "properties": {"description": {"pattern": r"\S"}}}
    return {**route, "allOf": [*route.get("allOf", ()), {"anyOf": [utterances, description]}]}
