"""The wire: a request read without changing a byte of it, and errors in the caller's dialect."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any

from semroute.config import Api
from semroute.text import Messages

_SPACE = re.compile(r"[ \t\n\r]*")
_SURROGATE = re.compile(rb"\\u[dD][89abAB]|\\u[dD][c-fC-F]")
_ADDRESSES = ("base_url", "api_base", "api_key")
_KINDS = {
    400: ("invalid_request_error", "invalid_request_error"),
    401: ("invalid_request_error", "authentication_error"),
    403: ("invalid_request_error", "permission_error"),
    404: ("invalid_request_error", "not_found_error"),
    405: ("invalid_request_error", "invalid_request_error"),
    408: ("invalid_request_error", "timeout_error"),
    409: ("invalid_request_error", "invalid_request_error"),
    413: ("invalid_request_error", "request_too_large"),
    422: ("invalid_request_error", "invalid_request_error"),
    429: ("rate_limit_error", "rate_limit_error"),
}


class BadRequest(Exception):  # noqa: N818 - it is what the client sent
    """A request that cannot be served as it is.

    param: the field that is wrong, if one is. retry_after: seconds until it makes sense to try again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after: int = 1,
    ) -> None:
        self.retry_after = retry_after
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        super().__init__(message)


@dataclass(frozen=True)
class Body:
    """A JSON object and where the value of its `model` stands in the text."""

    text: str
    fields: Mapping[str, Any]
    model_at: tuple[int, int] | None

    def around_model(self) -> tuple[bytes, bytes]:
        """What stands before and after the value of `model`. Raises BadRequest without one."""
        if self.model_at is None:
            raise BadRequest(400, "`model` is missing.", param="model")
        start, end = self.model_at
        return self.text[:start].encode(), self.text[end:].encode()

    @cached_property
    def metadata(self) -> dict[str, Any]:
        """The caller's `metadata`, if it is a mapping."""
        found = self.fields.get("metadata")
        return dict(found) if isinstance(found, dict) else {}


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse_constant)


def read_body(raw: bytes) -> Body:
    """The JSON object in `raw`. Raises BadRequest for anything else: never another error."""
    if not raw.strip():
        raise BadRequest(400, "The body is empty; send a JSON object.")
    try:
        text = raw.decode("utf-8")
        fields, spans = _top_level(text)
        if _SURROGATE.search(raw) is not None:
            json.dumps(fields, ensure_ascii=False).encode()  # half a surrogate pair is no text
    except UnicodeError:
        raise BadRequest(400, "The body is not valid UTF-8 text.") from None
    except (ValueError, StopIteration, IndexError):
        raise BadRequest(400, "The body is not valid JSON.") from None
    except RecursionError:
        raise BadRequest(400, "The body is nested too deeply.") from None
    models = [span for key, span in spans if key == "model"]
    if len(models) > 1:
        raise BadRequest(400, "`model` is given twice.", param="model")
    for key in _ADDRESSES:
        if key in fields:
            message = f"`{key}` is not taken from a request: models and keys are those of this server."
            raise BadRequest(404, message, code="model_not_found", param=key)
    return Body(text, fields, models[0] if models else None)


def _top_level(text: str) -> tuple[dict[str, Any], list[tuple[str, tuple[int, int]]]]:
    """The object, and where the value of each of its keys stands. Raises ValueError, StopIteration, ..."""
    place = _skip(text, 0)
    if text[place] != "{":
        raise BadRequest(400, "The body must be a JSON object.")
    fields: dict[str, Any] = {}
    spans = []
    place = _skip(text, place + 1)
    while text[place] != "}":
        if text[place] != '"':
            raise ValueError("no key")
        key, place = scanstring(text, place + 1, True)
        place = _skip(text, place)
        if text[place] != ":":
            raise ValueError("no colon")
        start = _skip(text, place + 1)
        fields[key], end = _DECODER.scan_once(text, start)  # type: ignore[attr-defined]
        spans.append((key, (start, end)))
        place = _skip(text, end)
        if text[place] == ",":
            place = _skip(text, place + 1)
            if text[place] != '"':
                raise ValueError("no key")
        elif text[place] != "}":
            raise ValueError("no comma")
    if _skip(text, place + 1) != len(text):
        raise ValueError("something after the object")
    return fields, spans


def _skip(text: str, place: int) -> int:
    found = _SPACE.match(text, place)
    return place if found is None else found.end()


# What a request asks for


def check(api: Api, fields: Mapping[str, Any]) -> None:
    """Raise BadRequest where a field that is read here is not what it must be; the rest is the upstream's."""
    model = fields.get("model")
    if not isinstance(model, str) or not model.strip():
        raise BadRequest(400, "`model` must be the name of a model.", param="model")
    if not isinstance(fields.get("stream"), bool | None):
        raise BadRequest(400, "`stream` must be true or false.", param="stream")
    if api == "responses":
        given = fields.get("input")
        continues = fields.get("previous_response_id") or fields.get("prompt")
        if not (isinstance(given, str | list) and given) and not continues:
            raise BadRequest(400, "`input` must be text or a list of items.", param="input")
        if isinstance(given, list) and not all(isinstance(item, dict) for item in given):
            raise BadRequest(400, "Each item of `input` must be an object.", param="input")
        return
    messages = fields.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadRequest(400, "`messages` must be a list of at least one message.", param="messages")
    if not all(isinstance(message, dict) for message in messages):
        raise BadRequest(400, "Each of `messages` must be an object.", param="messages")


def messages_of(api: Api, fields: Mapping[str, Any]) -> Messages:
    """The conversation as the router reads it."""
    if api != "responses":
        return [message for message in fields["messages"] if not _only_tool_results(message)]
    given = fields.get("input") or ""
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    return [item for item in given if "role" in item]


def _only_tool_results(message: Mapping[str, Any]) -> bool:
    content = message.get("content")
    parts = content if isinstance(content, list) else []
    return bool(parts) and all(_kind(part) == "tool_result" for part in parts)


def needs_of(api: Api, fields: Mapping[str, Any]) -> frozenset[str]:
    """The capabilities that the request takes for granted."""
    kinds = {_kind(part) for part in _parts(api, fields)}
    needs = {
        "tools": bool(fields.get("tools") or fields.get("functions")),
        "vision": bool(kinds & {"image_url", "input_image", "image"}),
        "audio": "input_audio" in kinds,
        "json": wants_json(api, fields),
    }
    return frozenset(need for need, is_needed in needs.items() if is_needed)


def wants_json(api: Api, fields: Mapping[str, Any]) -> bool:
    """Whether the answer must be JSON."""
    wanted = fields.get("response_format")
    if api == "responses" and isinstance(fields.get("text"), dict):
        wanted = fields["text"].get("format")
    if api == "messages" and isinstance(fields.get("output_config"), dict):
        wanted = fields["output_config"].get("format")
    return _kind(wanted) in ("json_object", "json_schema")


def wants_usage(fields: Mapping[str, Any]) -> bool:
    """Whether a stream of chat completions is to end with what it took."""
    options = fields.get("stream_options")
    return isinstance(options, dict) and options.get("include_usage") is True


def choices_of(fields: Mapping[str, Any]) -> int:
    """How many answers a chat completion asks for at once."""
    count = fields.get("n")
    return count if isinstance(count, int) and count > 1 else 1


def limit_of(api: Api, fields: Mapping[str, Any]) -> int | None:
    """How many tokens the answer may have, where the caller says so."""
    names = {"chat": ("max_completion_tokens", "max_tokens"), "responses": ("max_output_tokens",)}
    given = (fields.get(name) for name in names.get(api, ("max_tokens",)))
    return next((one for one in given if isinstance(one, int) and not isinstance(one, bool)), None)


def _parts(api: Api, fields: Mapping[str, Any]) -> Iterable[Any]:
    turns = fields.get("input") if api == "responses" else fields.get("messages")
    for turn in turns if isinstance(turns, list) else ():
        if not isinstance(turn, dict):
            continue
        for content in (turn.get("content"), turn.get("output")):  # that of a tool call may hold pictures
            for part in content if isinstance(content, list) else ():
                yield part
                inner = part.get("content") if _kind(part) == "tool_result" else None
                yield from inner if isinstance(inner, list) else ()


def _kind(part: Any) -> Any:
    kind = part.get("type") if isinstance(part, dict) else None
    return kind if isinstance(kind, str) else None


def continued(api: Api, fields: Mapping[str, Any]) -> tuple[list[str], bool]:
    """Ids that show which answer this request goes on with, and whether only its own upstream can."""
    if api == "chat":
        messages = fields["messages"]
        ids = []
        for message in reversed(messages):
            if message.get("role") != "tool":
                break
            ids.append(message.get("tool_call_id"))
        return _strings(ids), False
    if api == "messages":
        content = fields["messages"][-1].get("content")
        parts = content if isinstance(content, list) else []
        return _strings(part.get("tool_use_id") for part in parts if _kind(part) == "tool_result"), False
    previous = _strings([fields.get("previous_response_id")])
    given = fields.get("input")
    items = given if isinstance(given, list) else []
    sealed = [item.get("id") for item in items if item.get("encrypted_content")]
    calls = [item.get("call_id") for item in items if str(item.get("type", "")).endswith("_output")]
    return [*previous, *_strings(sealed), *_strings(calls)], bool(previous or sealed)


def _strings(values: Iterable[Any]) -> list[str]:
    return [value for value in values if isinstance(value, str) and value]


# Errors


def error(api: Api, status: int, message: str, *, code: str | None = None, param: str | None = None) -> bytes:
    """The body of an error as the clients of `api` read it."""
    openai, anthropic = _KINDS.get(status, ("server_error", "api_error"))
    if api == "messages":
        content: dict[str, Any] = {"type": "error", "error": {"type": anthropic, "message": message}}
    else:
        content = {"error": {"message": message, "type": openai, "param": param, "code": code}}
    return json.dumps(content).encode()


def message_of(body: bytes) -> str | None:
    """What an error in the shape of these APIs says; None for other bodies."""
    try:
        found = json.loads(body)["error"]["message"]
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        return None
    return found if isinstance(found, str) and found else None


def stream_error(api: Api, message: str) -> bytes:
    """The event that ends a stream which failed."""
    if api == "messages":
        return b"event: error\ndata: " + error(api, 503, message) + b"\n\n"
    if api == "responses":
        event = {"type": "error", "code": "upstream_error", "message": message, "param": None}
        return b"event: error\ndata: " + json.dumps(event).encode() + b"\n\n"
    return b"data: " + error(api, 503, message, code="upstream_error") + b"\n\n"
