"""What an upstream's answer says, in each of the three APIs: content, end, error, tokens, ids.

`Reading` follows a stream event by event, or takes a whole answer, and never raises: what cannot be read is
a fault of the answer, named in `fault`. What a cascade may ask beyond that is in `text`, `finish` and
`probability`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from semroute.config import Api
from semroute.numeric import finite
from semroute.sse import Event

# What is worth a look once content flows; in text these would stand with escaped quotes.
_NOTABLE = re.compile(
    rb'"(?:error|usage|tool_calls)"|"finish_reason"\s*:\s*"'
    rb'|"type"\s*:\s*"(?:error|message_|content_block_start|response\.(?:completed|incomplete|failed|output_item))'
)
_DELTAS = ("content", "tool_calls", "function_call", "refusal", "reasoning_content", "reasoning", "audio")
_AT_LENGTH = {"length", "max_tokens", "max_output_tokens"}
_CUT = {*_AT_LENGTH, "content_filter", "incomplete"}
_CHARS_PER_TOKEN = 4
_MOST_TOKENS = 2**53  # what every program that reads the log holds exactly


class Reading:
    """What has been seen of one answer.

    content: whether a real delta came: text, reasoning, a refusal or a tool call; not roles, pings, comments.
    ended: whether the API's own end came; finish: the reason the model gave for ending, if it gave one; said:
    whether it gave one for each of `choices`, so that only the usage and the end can be lacking.
    fault: why this is no answer, in words that quote nothing of it; None while it is one.
    model: what the answer calls the model that gave it.
    ids: of tool calls and of answers, by which a later request shows that it goes on with this one.
    deltas: content events, or a quarter of the characters of a whole answer: they stand for tokens where no
    usage is told.
    """

    def __init__(self, api: Api, *, keep_text: bool = False, choices: int = 1) -> None:
        self._api = api
        self._keep_text = keep_text
        self._texts: list[str] = []
        self._logprobs: list[float] = []
        self._chars = 0
        self._choices = choices
        self._finished: set[int] = set()
        self.content = False
        self.ended = False
        self.said = False
        self.finish: str | None = None
        self.model: str | None = None
        self.fault: str | None = None
        self.refused = False
        self.tools = False
        self.ids: list[str] = []
        self.deltas = 0
        self.prompt_tokens: int | None = None
        self.completion_tokens: int | None = None

    @property
    def text(self) -> str:
        """The text of the first choice, where it was kept."""
        return "".join(self._texts)

    @property
    def probability(self) -> float | None:
        """The geometric mean of the tokens' probabilities; None where none were told."""
        mean = sum(self._logprobs) / len(self._logprobs) if self._logprobs else None
        return None if mean is None else math.exp(min(mean, 0.0))

    @property
    def cut(self) -> bool:
        """Whether the answer ends before its end."""
        return self.finish in _CUT

    def cut_by(self, limit: int | None) -> bool:
        """Whether the answer ends where the caller's own `limit` of tokens had it end."""
        if limit is None or self.finish not in _AT_LENGTH:
            return False
        return self.completion_tokens is None or self.completion_tokens >= limit

    def event(self, event: Event) -> None:
        """Read the next event of a stream."""
        data = event.data
        if not data:
            return
        if data == b"[DONE]":
            self.ended = True
            return
        if self.content and not self._keep_text and _NOTABLE.search(data) is None:
            self.deltas += 1
            return
        payload = _object(data)
        if payload is None:
            self.fault = "an event that is no JSON"
            return
        _EVENTS[self._api](self, payload)

    def whole(self, body: bytes) -> None:
        """Read an answer that is not streamed."""
        payload = _object(body)
        if payload is None:
            self.fault = "a body that is no JSON" if body.strip() else "an empty body"
        elif payload.get("error"):
            self.fault = "an error with status 200"
        else:
            _BODIES[self._api](self, payload)
            self.deltas = math.ceil(self._chars / _CHARS_PER_TOKEN)

    def count(self, body: bytes) -> None:
        """Read the answer to a count of tokens. It is no usage: nothing is paid."""
        payload = _object(body)
        if payload is None or not isinstance(payload.get("input_tokens"), int):
            self.fault = "no count of tokens"

    def _usage(self, usage: Any) -> None:
        if not isinstance(usage, Mapping):
            return
        sent = _count(usage.get("prompt_tokens", usage.get("input_tokens")))
        if sent is not None:
            cached = [_count(usage.get(f"cache_{kind}_input_tokens")) or 0 for kind in ("read", "creation")]
            self.prompt_tokens = sent + sum(cached)
        received = _count(usage.get("completion_tokens", usage.get("output_tokens")))
        if received is not None:
            self.completion_tokens = received

    def _named(self, payload: Mapping[str, Any]) -> None:
        name = payload.get("model")
        if self.model is None and isinstance(name, str):
            self.model = name

    def _note(self, *ids: Any) -> None:
        self.ids += [each for each in ids if isinstance(each, str) and each]

    def _say(self, text: Any) -> None:
        if not isinstance(text, str):
            return
        self._chars += len(text)
        if self._keep_text:
            self._texts.append(text)

    def _believe(self, logprobs: Any) -> None:
        tokens = logprobs.get("content") if isinstance(logprobs, Mapping) else None
        for token in _objects(tokens):
            value = finite(token.get("logprob"))
            if value is not None:
                self._logprobs.append(value)

    # Chat completions

    def _chat_event(self, payload: dict[str, Any]) -> None:
        if payload.get("error"):
            self.fault = "an error inside the stream"
            return
        self._named(payload)
        self._usage(payload.get("usage"))
        for choice in _objects(payload.get("choices")):
            delta = choice.get("delta")
            if isinstance(delta, Mapping):
                self._chat_delta(delta, first=choice.get("index", 0) == 0)
            self._believe(choice.get("logprobs"))
            if isinstance(choice.get("finish_reason"), str):
                self._finish_choice(choice.get("index"), choice["finish_reason"])

    def _finish_choice(self, index: Any, reason: str) -> None:
        self.finish = reason
        self._finished.add(index if isinstance(index, int) else 0)
        self.said = len(self._finished) >= self._choices

    def _chat_delta(self, delta: Mapping[str, Any], *, first: bool) -> None:
        if any(delta.get(key) for key in _DELTAS):
            self.content = True
            self.deltas += 1
        self._chat_message(delta, first=first)

    def _chat_message(self, message: Mapping[str, Any], *, first: bool) -> None:
        if first:
            self._say(message.get("content"))
        self.refused = self.refused or bool(message.get("refusal"))
        calls = list(_objects(message.get("tool_calls")))
        self.tools = self.tools or bool(calls) or bool(message.get("function_call"))
        self._note(*(call.get("id") for call in calls))

    def _chat_body(self, payload: dict[str, Any]) -> None:
        choices = list(_objects(payload.get("choices")))
        if not choices:
            self.fault = "no choices"
            return
        for place, choice in enumerate(choices):
            message = choice.get("message")
            if isinstance(message, Mapping):
                self._chat_message(message, first=place == 0)
            self._believe(choice.get("logprobs"))
        finish = choices[0].get("finish_reason")
        self.finish = finish if isinstance(finish, str) else None
        self._named(payload)
        self._usage(payload.get("usage"))
        self.content = self.ended = True

    # Messages

    def _messages_event(self, payload: dict[str, Any]) -> None:
        kind = payload.get("type")
        if kind == "error" or payload.get("error"):
            self.fault = "an error inside the stream"
        elif kind == "message_start":
            message = payload.get("message")
            if isinstance(message, Mapping):
                self._named(message)
                self._usage(message.get("usage"))
        elif kind == "content_block_start":
            block = payload.get("content_block")
            if isinstance(block, Mapping) and block.get("type") not in ("text", "thinking"):
                self._block(block)
                self.content = True
        elif kind == "content_block_delta":
            delta = payload.get("delta")
            if isinstance(delta, Mapping):
                self._say(delta.get("text"))
            self.content = True
            self.deltas += 1
        elif kind == "message_delta":
            delta = payload.get("delta")
            stop = delta.get("stop_reason") if isinstance(delta, Mapping) else None
            self._stop(stop)
            self._usage(payload.get("usage"))
        elif kind == "message_stop":
            self.ended = True

    def _block(self, block: Mapping[str, Any]) -> None:
        self._say(block.get("text"))
        if block.get("type") == "tool_use":
            self.tools = True
            self._note(block.get("id"))

    def _stop(self, stop: Any) -> None:
        if isinstance(stop, str):
            self.finish, self.said = stop, True
            self.refused = self.refused or stop == "refusal"

    def _messages_body(self, payload: dict[str, Any]) -> None:
        if not isinstance(payload.get("content"), list):
            self.fault = "no content"
            return
        for block in _objects(payload["content"]):
            self._block(block)
        self._stop(payload.get("stop_reason"))
        self._named(payload)
        self._usage(payload.get("usage"))
        self.content = self.ended = True

    # Responses

    def _responses_event(self, payload: dict[str, Any]) -> None:
        kind = str(payload.get("type", ""))
        if kind in ("error", "response.failed"):
            self.fault = "an error inside the stream"
        elif kind.endswith(".delta"):
            if kind == "response.output_text.delta":
                self._say(payload.get("delta"))
            self.content = True
            self.deltas += 1
        elif kind in ("response.completed", "response.incomplete"):
            response = payload.get("response")
            self.ended = self.content = True
            if isinstance(response, Mapping):
                self._response(response)
        elif kind == "response.output_item.done":
            item = payload.get("item")
            self._items([item] if isinstance(item, Mapping) else [], say=False)

    def _response(self, response: Mapping[str, Any], *, say: bool = False) -> None:
        self._note(response.get("id"))
        self._named(response)
        status = response.get("status")
        self.finish = status if isinstance(status, str) else self.finish
        details = response.get("incomplete_details")
        why = details.get("reason") if isinstance(details, Mapping) else None
        if status == "incomplete" and isinstance(why, str):
            self.finish = why
        self._usage(response.get("usage"))
        self._items(_objects(response.get("output")), say=say)

    def _items(self, items: Iterable[Mapping[str, Any]], *, say: bool) -> None:
        for item in items:
            self._note(item.get("id"), item.get("call_id"))
            self.tools = self.tools or str(item.get("type", "")).endswith("_call")
            for part in _objects(item.get("content")):
                self.refused = self.refused or part.get("type") == "refusal"
                if say:
                    self._say(part.get("text"))

    def _responses_body(self, payload: dict[str, Any]) -> None:
        if "output" not in payload and "status" not in payload:
            self.fault = "no output"
        elif payload.get("status") == "failed":
            self.fault = "a failed response with status 200"
        else:
            self._response(payload, say=True)
            self.content = self.ended = True


_EVENTS = {
    "chat": Reading._chat_event,
    "messages": Reading._messages_event,
    "responses": Reading._responses_event,
}
_BODIES = {
    "chat": Reading._chat_body,
    "messages": Reading._messages_body,
    "responses": Reading._responses_body,
}


def _count(value: Any) -> int | None:
    """A number of tokens; None for what cannot be one, such as the -1 of some servers."""
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return value if is_number and 0 <= value <= _MOST_TOKENS else None


def _object(data: bytes) -> dict[str, Any] | None:
    try:
        payload = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return payload if isinstance(payload, dict) else None


def _objects(values: Any) -> Iterable[Mapping[str, Any]]:
    return (value for value in values if isinstance(value, Mapping)) if isinstance(values, list) else ()
