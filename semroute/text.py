"""From what a caller hands over to the text that is routed."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

Messages: TypeAlias = Sequence[Mapping[str, Any]]
"""OpenAI-style chat messages: {"role": ..., "content": text or a list of content parts}."""

Prompt: TypeAlias = str | Messages


_CHARACTERS_PER_TOKEN = 4


class PromptError(TypeError):
    """A prompt is neither text nor messages. The message names types only, nothing of the prompt."""


def routed_text(prompt: Prompt) -> str:
    """The text that is routed: the prompt itself, or the text of the last user message.

    System prompts, tool definitions, tool results and earlier turns never steer the route. Of content parts
    the text parts count, joined by newlines.

    Raises PromptError when `prompt` is neither text nor messages.
    """
    if isinstance(prompt, str):
        return prompt
    if not isinstance(prompt, list | tuple):
        raise PromptError(f"a prompt is text or a list of messages, not {type(prompt).__name__}")
    for message in reversed(prompt):
        if not isinstance(message, Mapping):
            raise PromptError(f"a message is a mapping with role and content, not {type(message).__name__}")
        if message.get("role") == "user":
            return _content_text(message.get("content"))
    return ""


def estimated_tokens(prompt: Prompt) -> int:
    """About how many tokens all of `prompt` has, with every message: a quarter of its characters.

    Four characters a token is usual for English prose; code and other languages have fewer. Pictures and tool
    definitions are not counted. Never raises.
    """
    if isinstance(prompt, str):
        return len(prompt) // _CHARACTERS_PER_TOKEN
    if not isinstance(prompt, list | tuple):
        return 0
    contents = (message.get("content") for message in prompt if isinstance(message, Mapping))
    return sum(len(_content_text(content)) for content in contents) // _CHARACTERS_PER_TOKEN


def _content_text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list | tuple):
        return ""
    texts = (part.get("text") for part in content if isinstance(part, Mapping))
    return "\n".join(text for text in texts if isinstance(text, str))


def storable(text: str) -> str:
    """`text` without what neither UTF-8 nor PostgreSQL can hold."""
    return text.encode("utf-8", "replace").decode().replace("\0", "")


_TURNING = (0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
_STEERING = {
    code: f"\\u{code:04x}"
    for code in (*range(0x20), *range(0x7F, 0xA0), *_TURNING)
    if chr(code) not in "\t\n"
}


def visible(text: str) -> str:
    r"""`text` with an escape such as \u001b for each character that steers a terminal instead of being shown.

    Those are the control characters but tab and line end, and what turns the direction of text around. The
    escapes are those of JSON, so that JSON stays the same JSON.
    """
    return text.translate(_STEERING)


def one_line(text: str, most: int | None = None) -> str:
    """`text` on one line, cut to `most` characters where there is a limit."""
    line = " ".join(text.split())
    return line if most is None or len(line) <= most else line[: most - 4].rstrip() + " ..."


def counted(number: int, what: str) -> str:
    """`number` of `what`, which takes an s where there is not one: "1 route", "2,000 routes"."""
    return f"{number:,} {what}{'s' * (number != 1)}"


def is_blank(text: str) -> bool:
    """Whether `text` shows nothing: white space, control and formatting characters only."""
    return all(unicodedata.category(character)[0] in "ZC" for character in text)
