"""Which text of a request is routed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semroute.text import PromptError, estimated_tokens, is_blank, routed_text


def test_text_is_routed_as_it_is():
    assert routed_text("  Where is\nmy refund? ") == "  Where is\nmy refund? "


def test_the_last_user_message_is_routed_and_nothing_else():
    messages = [
        {"role": "system", "content": "You are a SQL expert. Write code."},
        {"role": "user", "content": "first question"},
        {"role": "assistant", "content": "an answer", "tool_calls": [{"function": {"name": "run_sql"}}]},
        {"role": "tool", "content": "42 rows"},
        {"role": "user", "content": "translate this to French"},
        {"role": "assistant", "content": None},
    ]
    assert routed_text(messages) == "translate this to French"


def test_text_parts_are_joined_and_other_parts_left_out():
    content = [
        {"type": "text", "text": "what is in"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "text", "text": "this picture?"},
        "stray",
        {"type": "text", "text": None},
    ]
    assert routed_text([{"role": "user", "content": content}]) == "what is in\nthis picture?"


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "system", "content": "be kind"}],
        [{"role": "user"}],
        [{"role": "user", "content": None}],
        [{"role": "user", "content": 7}],
        [{"role": "user", "content": []}],
    ],
)
def test_messages_without_user_text_are_empty(messages):
    assert routed_text(messages) == ""


def test_the_size_of_a_prompt_is_a_quarter_of_the_characters_of_all_its_messages():
    assert estimated_tokens("x" * 401) == 100
    messages = [
        {"role": "system", "content": "x" * 100},
        {"role": "user", "content": [{"type": "text", "text": "x" * 99}, {"type": "image_url"}]},
        {"role": "assistant", "content": None},
        "stray",
    ]
    assert estimated_tokens(messages) == 49
    assert estimated_tokens(None) == estimated_tokens(7) == 0


@pytest.mark.parametrize("prompt", [None, 7, b"bytes", {"role": "user", "content": "x"}, ["text"], [None]])
def test_what_is_no_prompt_is_a_type_error(prompt):
    with pytest.raises(PromptError):
        routed_text(prompt)


@given(st.text())
def test_text_is_never_changed(text):
    assert routed_text(text) == text
    assert routed_text([{"role": "user", "content": text}]) == text


@pytest.mark.parametrize("text", ["", " \n\t", "\u2003" * 9, "\u200b", "\0\0", "\ufeff"])
def test_what_shows_nothing_is_blank(text):
    assert is_blank(text)


@pytest.mark.parametrize("text", ["a", "?", "\u200ba", "  .  ", "😀", "的", "1", "\u0301"])
def test_what_shows_something_is_not(text):
    assert not is_blank(text)
