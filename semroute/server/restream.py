"""A whole answer as the stream that the client asked for: some servers never stream."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from semroute import wire
from semroute.config import Api

_DELTA_KEYS = {"text": "text", "thinking": "thinking"}


def as_stream(api: Api, body: bytes, *, usage: bool) -> bytes:
    """The events of the answer in `body`, which was read as one of `api` before.

    usage: whether the client asked for it; only chat completions leave it out otherwise.
    """
    try:
        return b"".join(_STREAMS[api](json.loads(body), usage))
    except (ValueError, KeyError, TypeError, AttributeError):
        return wire.stream_error(api, "The model did not stream its answer.")


def _chat(answer: dict[str, Any], usage: bool) -> Iterator[bytes]:
    chunk = {key: answer[key] for key in answer if key not in ("choices", "usage")}
    chunk["object"] = "chat.completion.chunk"
    choices = [_chat_choice(place, choice) for place, choice in enumerate(answer["choices"])]
    yield _data(chunk | {"choices": choices})
    if usage and answer.get("usage"):
        yield _data(chunk | {"choices": [], "usage": answer["usage"]})
    yield b"data: [DONE]\n\n"


def _chat_choice(place: int, choice: Mapping[str, Any]) -> dict[str, Any]:
    delta = dict(choice["message"])
    if delta.get("tool_calls"):
        delta["tool_calls"] = [{"index": at, **call} for at, call in enumerate(delta["tool_calls"])]
    rest = {key: choice[key] for key in choice if key != "message"}
    return {"index": place, **rest, "delta": delta}


def _messages(answer: dict[str, Any], _: bool) -> Iterator[bytes]:
    start = answer | {"content": [], "stop_reason": None, "stop_sequence": None}
    yield _event("message_start", message=start)
    for index, block in enumerate(answer["content"]):
        yield from _block(index, block)
    told = {"stop_reason": answer.get("stop_reason"), "stop_sequence": answer.get("stop_sequence")}
    yield _event("message_delta", delta=told, usage=answer.get("usage", {}))
    yield _event("message_stop")


def _block(index: int, block: dict[str, Any]) -> Iterator[bytes]:
    kind, deltas = block.get("type"), []
    if kind in _DELTA_KEYS:
        key = _DELTA_KEYS[kind]
        deltas.append({"type": f"{kind}_delta", key: block[key]})
        if block.get("signature"):
            deltas.append({"type": "signature_delta", "signature": block["signature"]})
        start = block | {key: ""} | ({"signature": ""} if "signature" in block else {})
    elif kind == "tool_use":
        deltas.append({"type": "input_json_delta", "partial_json": json.dumps(block["input"])})
        start = block | {"input": {}}
    else:
        start = block
    yield _event("content_block_start", index=index, content_block=start)
    for delta in deltas:
        yield _event("content_block_delta", index=index, delta=delta)
    yield _event("content_block_stop", index=index)


def _responses(answer: dict[str, Any], _: bool) -> Iterator[bytes]:
    number = 0

    def event(name: str, **fields: Any) -> bytes:
        nonlocal number
        number += 1
        return _event(name, sequence_number=number - 1, **fields)

    yield event("response.created", response=answer | {"status": "in_progress", "output": []})
    for index, item in enumerate(answer.get("output") or ()):
        yield from _item(event, index, item)
    end = "incomplete" if answer.get("status") == "incomplete" else "completed"
    yield event(f"response.{end}", response=answer)


def _item(event: Callable[..., bytes], index: int, item: dict[str, Any]) -> Iterator[bytes]:
    is_message = item.get("type") == "message"
    begun = item | ({"content": [], "status": "in_progress"} if is_message else {})
    yield event("response.output_item.added", output_index=index, item=begun)
    for place, part in enumerate(item["content"] if is_message else ()):
        at = {"item_id": item.get("id"), "output_index": index, "content_index": place}
        said = part.get("type") == "output_text"
        yield event("response.content_part.added", part=part | ({"text": ""} if said else {}), **at)
        if said:
            yield event("response.output_text.delta", delta=part["text"], logprobs=[], **at)
            yield event("response.output_text.done", text=part["text"], logprobs=[], **at)
        yield event("response.content_part.done", part=part, **at)
    yield event("response.output_item.done", output_index=index, item=item)


_STREAMS: dict[Api, Callable[[dict[str, Any], bool], Iterator[bytes]]] = {
    "chat": _chat,
    "messages": _messages,
    "responses": _responses,
}


def _event(name: str, **fields: Any) -> bytes:
    return f"event: {name}\n".encode() + _data({"type": name, **fields})


def _data(payload: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(payload).encode() + b"\n\n"
