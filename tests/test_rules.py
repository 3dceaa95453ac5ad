"""Rules: deterministic, first match wins, each condition as its name says."""

from __future__ import annotations

import time

import pytest

from semroute.config import Rule, RuleCondition
from semroute.rules import LOOKED_AT, Facts, RuleBook, has_code, is_multi_step


def matches(when, text="", step=None, metadata=None):
    book = RuleBook((Rule(name="r", when=RuleCondition(**when), model="m"),))
    return book.first_match(Facts(text, step, metadata or {})) is not None


def test_first_match_wins():
    rules = (
        Rule(name="short", when=RuleCondition(max_chars=5), model="a"),
        Rule(name="refund", when=RuleCondition(any_regex=("refund",)), model="b"),
        Rule(name="any", when=RuleCondition(min_chars=0), model="c"),
    )
    book = RuleBook(rules)
    named = [book.first_match(Facts(text, None, {})).name for text in ("hi", "my refund", "something else")]
    assert named == ["short", "refund", "any"]
    assert RuleBook(rules[:2]).first_match(Facts("something else", None, {})) is None


@pytest.mark.parametrize(("length", "holds"), [(9, False), (10, True), (20, True), (21, False)])
def test_length_counts_characters_of_the_whole_text(length, holds):
    assert matches({"min_chars": 10, "max_chars": 20}, "é" * length) is holds


def test_every_condition_must_hold():
    when = {"min_chars": 3, "any_regex": ("x", "y"), "step": ("plan",), "metadata": {"tier": "free"}}
    free, paid = {"tier": "free"}, {"tier": "paid"}
    assert matches(when, "aay", "plan", free)
    assert not matches(when, "aaz", "plan", free)
    assert not matches(when, "y", "plan", free)
    assert not matches(when, "aay", None, free)
    assert not matches(when, "aay", "answer", free)
    assert not matches(when, "aay", "plan", paid)
    assert not matches(when, "aay", "plan")


def test_metadata_takes_one_value_or_several_and_tells_true_from_one():
    when = Rule(name="r", when=RuleCondition(metadata={"region": ("eu", "uk"), "beta": True}), model="m")
    book = RuleBook((when,))
    holds = [
        book.first_match(Facts("", None, metadata)) is not None
        for metadata in (
            {"region": "eu", "beta": True},
            {"region": "uk", "beta": True, "more": 1},
            {"region": "us", "beta": True},
            {"region": "eu", "beta": 1},
            {"region": "eu"},
            {"region": ["eu"], "beta": True},
        )
    ]
    assert holds == [True, True, False, False, False, False]


def test_a_regex_looks_at_the_start_and_the_end_of_a_long_text():
    middle = "a" * LOOKED_AT
    needle = {"any_regex": ("needle",)}
    assert matches(needle, "needle" + middle)
    assert matches(needle, middle + "needle")
    assert not matches(needle, middle + "needle" + middle)


@pytest.mark.parametrize(
    "text",
    [
        "fix this\n```\nx\n```",
        "def add(a, b):\n    return a + b",
        'why?\nTraceback (most recent call last):\n  File "a.py", line 3, in <module>',
        "public static void main(String[] args) {",
        "const x = await fetch(url);",
        "SELECT name FROM users WHERE id = 3",
        "#include <stdio.h>",
        "fn main() -> Result<()> {",
        "func (s *Server) Close() error {",
        "    at com.example.Main.run(Main.java:42)",
        "total += price * count;",
        '<div class="row">hello</div>',
        "$ git push --force",
        "import os",
        "import React from 'react';",
    ],
)
def test_code_is_seen(text):
    assert has_code(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "where is my refund?",
        "write a function that adds two numbers",
        "import taxes are too high in my country",
        "the class of 1998 meets again (finally)",
        "if you have time (or not), call me",
        "let me know what you think: good or bad?",
        "select the best option from the menu",
        "first do this, then that",
        "I paid $20 for it",
        "at noon we meet (downtown)",
        "return my call please",
        "x is less than y and y < z",
        "static electricity hurts; does it not?",
        "a price of 3 = too much",
    ],
)
def test_prose_is_no_code(text):
    assert not has_code(text)


@pytest.mark.parametrize(
    "text",
    [
        "first find flights, then book a hotel",
        "1. collect the data\n2. clean it\n3. plot it",
        "- eggs\n- milk\n- bread and then what",
        "explain it step by step",
        "Migrate the database, after that update the docs and finally tell the team",
    ],
)
def test_many_steps_are_seen(text):
    assert is_multi_step(text)


@pytest.mark.parametrize(
    "text", ["", "who was the first president", "what happens next", "1. April is a holiday", "then what"]
)
def test_one_step_is_not_many(text):
    assert not is_multi_step(text)


@pytest.mark.parametrize(
    "filler",
    [
        "a",
        "a ",
        "\n",
        "1.\n",
        "x = ",
        "(",
        "<a",
        "import ",
        "at a.b",
        "if (",
        "static ",
        "import a.",
        " ",
        "a.",
        "return ",
    ],
)
def test_a_long_text_costs_a_bounded_time(filler):
    text = (filler * 10_000_000)[:10_000_000]
    started = time.perf_counter()
    has_code(text)
    is_multi_step(text)
    # Generous: a pattern that backtracks over ten million characters would take minutes.
    assert time.perf_counter() - started < 1.0
