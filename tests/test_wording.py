"""Politeness, slips of the finger and long texts: what is taken off, mended and cut, and what is not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semroute.text import is_blank
from semroute.wording import LONG, Speller, marks_used, plain, views

POLITE = st.lists(
    st.sampled_from(
        ["please", "Hi, ", "hello there", "hey", "thanks", "thank you", " ", ", ", "?", "!!", ".", "\n",
         "in", "to say", "could you please", "excuse me", "refund", "i hope you are well", "word", "ß", "\ud800"]
    ),
    max_size=12,
)  # fmt: skip
TEXTS = st.one_of(st.text(), POLITE.map(" ".join), POLITE.map("".join))
KEEPS = st.sampled_from(["", "?", "?.", "!"])

UTTERANCES = [
    "where is my refund",
    "cancel the transfer from my account",
    "freeze my card, the payment failed",
    "form of the letter",
]
KNOWN = frozenset({"what", "about", "coffee", "wonder"})
SPELLER = Speller(UTTERANCES, KNOWN)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("where is my refund", "where is my refund"),
        ("  Where is my refund ?? \n", "Where is my refund"),
        ("Hi there, where is my refund", "where is my refund"),
        ("hello. good morning! please, where is my refund, thank you very much!", "where is my refund"),
        ("Could you please tell me where it is", "where it is"),
        ("sorry to bother you but where is it", "where is it"),
        ("I hope you are doing well. where is it", "where is it"),
        ("quick question: where is it", "where is it"),
        ("cancel it, please?", "cancel it"),
        ("cancel it thanks in advance", "cancel it"),
        # Such words only, or words that are meant themselves.
        ("thank you", "thank you"),
        ("Hello, please!", "Hello, please"),
        ("???", "???"),
        ("hi in french", "hi in french"),
        ("how do i say thank you", "how do i say thank you"),
        ("history of spain", "history of spain"),
        ("pleased to meet you", "pleased to meet you"),
        ("good morning america episodes", "america episodes"),
        # Other languages and the middle of a text.
        ("Wo ist meine Rückerstattung?", "Wo ist meine Rückerstattung"),
        ("fix this:\n\n  def f():\n    return 1", "fix this:\n\n  def f():\n    return 1"),
        ("do it please and then, hi, say no", "do it please and then, hi, say no"),
    ],
)
def test_plain(text, expected):
    assert plain(text) == expected


@pytest.mark.parametrize(
    ("text", "keep", "expected"),
    [
        ("where is it???", "?.", "where is it?"),
        ("where is it please?!", "?.", "where is it?"),
        ("do it. thanks.", "?.", "do it."),
        ("do it!", "?.", "do it"),
        ("do it", "?.", "do it"),
    ],
)
def test_a_mark_that_the_utterances_use_stays(text, keep, expected):
    assert plain(text, keep) == expected


def test_marks_used_are_those_of_one_utterance_in_twenty():
    assert marks_used([]) == ""
    assert marks_used(["a?"] + ["a"] * 19) == "?"
    assert marks_used(["a?"] + ["a"] * 20) == ""
    assert marks_used(["a?! ", "b."]) == "?.!"


@given(TEXTS, KEEPS)
def test_plain_takes_off_and_adds_nothing(text, keep):
    result = plain(text, keep)
    assert len(result) <= len(text)
    assert plain(result, keep) == result
    assert is_blank(result) <= is_blank(text)


@pytest.mark.parametrize(
    "unit", ["hi ", "please, ", "thanks ", "thank you ", "?", " ", "i hope you ", "hello there ", "a", "\n"]
)
def test_a_megabyte_of_anything_ends(unit):
    text = unit * (1_000_000 // len(unit))
    assert plain(plain(text)) == plain(text)
    assert len(plain("x " + text + " x")) > 900_000
    assert SPELLER.repair(text) == text
    assert all(len(view) <= LONG for view in views(text)[1:])


def test_more_politeness_than_anyone_needs_is_the_text_itself():
    text = "please " * 40 + "cancel"
    assert plain(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("where is my refnud", "where is my refund"),  # swapped
        ("where is my refuund", "where is my refund"),  # one too many
        ("wher is my refund", "where is my refund"),  # one too few
        ("where is my rdfund", "where is my refund"),  # another one
        ("(refudn), please", "(refund), please"),
        ("Cancel the tranfser", "Cancel the transfer"),
        ("WHERE IS MY REFUDN", "WHERE IS MY REFUND"),
        ("transfers accounted for", "transfers accounted for"),  # endings of known words
        ("where is Refudn", "where is Refudn"),  # a name
        ("reFudn refudn2 a.refudn refudn-x ref'udn", "reFudn refudn2 a.refudn refudn-x ref'udn"),
        ("x = refudn", "x = refudn"),  # code
        ("rfeufnd", "rfeufnd"),  # two slips
        ("wherr refumd accoumt tramsfer", "wherr refumd accoumt tramsfer"),  # nothing known: another language
        ("refünd", "refünd"),
        ("wonder what", "wonder what"),  # known, though not from the utterances
    ],
)
def test_repair(text, expected):
    assert SPELLER.repair(text) == expected


def test_a_word_with_two_candidates_is_left_alone():
    assert Speller(["coat"]).repair("the cozt") == "the coat"
    assert Speller(["coat", "cost"]).repair("the cozt") == "the cozt"


def test_only_the_first_and_last_words_are_looked_at():
    text = " ".join(["my"] * 40 + ["refudn"] + ["my"] * 40)
    assert SPELLER.repair(text) == text
    assert SPELLER.repair(text + " refudn") == text + " refund"
    assert SPELLER.repair("my refudn " * 2_000) == "my refudn " * 2_000


@given(st.lists(st.text(max_size=40), max_size=5), st.text(max_size=80))
def test_utterances_are_spelled_right(utterances, text):
    speller = Speller(utterances)
    assert [speller.repair(utterance) for utterance in utterances] == utterances
    assert speller.repair(text) == Speller(utterances).repair(text)


@given(st.text())
def test_nothing_is_mended_where_nothing_is_known(text):
    assert Speller([]).repair(text) == text
    assert Speller([], KNOWN).repair(text) == text


@given(st.lists(st.sampled_from(["refudn", "accoumt", "card", "my", "zzzz", "Refudn", "what"]), max_size=8))
def test_only_unknown_words_change(words):
    mended = SPELLER.repair(" ".join(words)).split()
    assert len(mended) == len(words)
    changed = {(one, other) for one, other in zip(words, mended, strict=True) if one != other}
    assert changed <= {("refudn", "refund"), ("accoumt", "account"), ("Refudn", "Refund")}


def test_a_short_text_is_its_only_view():
    assert views("where is it\n") == ("where is it\n",)
    assert views("x" * LONG) == ("x" * LONG,)


def test_a_long_text_has_its_first_and_its_last_sentence_as_views():
    text = (
        "Translate this into German.\n\n" + "It rains a lot here. " * 30 + "\nMake it sound formal, not stiff"
    )
    assert views(text) == (text, "Translate this into German.", "Make it sound formal, not stiff")
    text = "Hi all. Where is my refund now? " + "It rains a lot here. " * 30 + "It is late. Thank you."
    assert views(text)[1:] == (
        "Hi all. Where is my refund now?",
        "It rains a lot here. It is late. Thank you.",
    )


def test_without_sentences_views_are_cut_at_words():
    whole, start, end = views("word " * 200)
    assert whole == "word " * 200
    assert set(start.split()) == set(end.split()) == {"word"}


@given(st.text(min_size=1), st.integers(1, 400))
def test_views_are_parts_of_the_text(text, times):
    long = text * times
    whole, *parts = views(long)
    assert whole == long
    assert len(parts) == (2 if len(long.strip()) > LONG else 0)
    for part in parts:
        assert 0 < len(part) <= LONG
    if parts:
        assert long.strip().startswith(parts[0])
        assert long.strip().endswith(parts[1])


@pytest.mark.parametrize("text", ["hello there", "Hi there!", "good morning everyone", "hey again"])
def test_a_greeting_of_two_words_is_not_cut_in_two(text):
    assert plain(text).lower().split()[-1].rstrip("!") in {"there", "everyone", "again"}
    assert len(plain(text).split()) == len(text.split())
