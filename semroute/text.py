"""From what a caller hands over to the text that is routed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

Messages: TypeAlias = Sequence[Mapping[str, Any]]
"""OpenAI-style chat messages: {"role": ..., "content": text or a list of content parts}."""

Prompt: TypeAlias = str | Messages


class PromptError(TypeError):
    """A prompt is neither text nor messages. The message names types only, nothing of the prompt."""


def routed_text(prompt: Prompt) -> str:
    """The text that is routed: the prompt itself, or the text of the last user message.

    System prompts, tool definitions, tool results and earlier turns never steer the route. Of content parts
    the text parts count, joined by newlines. Lone surrogates, which no encoder takes, become U+FFFD.

    Raises PromptError when `prompt` is neither text nor messages.
    """
    if isinstance(prompt, str):
        return _without_surrogates(prompt)
    if not isinstance(prompt, list | tuple):
        raise PromptError(f"a prompt is text or a list of messages, not {type(prompt).__name__}")
    for message in reversed(prompt):
        if not isinstance(message, Mapping):
            raise PromptError(f"a message is a mapping with role and content, not {type(message).__name__}")
        if message.get("role") == "user":
            return _without_surrogates(_content_text(message.get("content")))
    return ""


def _content_text(content: Any) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list | tuple):
        return ""
    texts = (part.get("text") for part in content if isinstance(part, Mapping))
    return "\n".join(text for text in texts if isinstance(text, str))


def _without_surrogates(text: str) -> str:
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
