"""Prompts worded otherwise that mean the same: slips of the keyboard, case, politeness, final marks.

Each perturbation takes a text and a source of chance, and gives the same text for the same state of that.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

Perturbation = Callable[[str, random.Random], str]

OPENINGS = (
    "please ",
    "hi, ",
    "hello, ",
    "hey there, ",
    "excuse me, ",
    "could you please tell me ",
    "good morning, ",
)
CLOSINGS = (" please", ", please", " thanks", ", thank you", " thank you very much", " thanks in advance")
LONGER_WORD = 5  # letters; a slip in a shorter word often makes another word
_KEYBOARD = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_WORD = re.compile("[A-Za-z]+")


def typo(text: str, chance: random.Random, shortest: int = 1) -> str:
    """One slip: a letter dropped, doubled, swapped with the next, or the key beside it.

    shortest: letters of ASCII that the word must have; a text without such a word stays as it is.
    """
    places = [
        place
        for word in _WORD.finditer(text)
        if len(word[0]) >= shortest
        for place in range(word.start(), word.end())
    ]
    if not places:
        return text
    place = chance.choice(places)
    letter, after = text[place], text[place + 1 :]
    slips = ["", letter * 2, _beside(letter, chance)]
    if after[:1].isalpha():
        slips.append(after[0] + letter)
    slip = chance.choice(slips)
    return text[:place] + slip + (after[1:] if len(slips) == 4 and slip == slips[3] else after)


def _beside(letter: str, chance: random.Random) -> str:
    """A letter whose key lies beside."""
    row = next(row for row in _KEYBOARD if letter.lower() in row)
    place = row.index(letter.lower())
    return chance.choice([row[near] for near in (place - 1, place + 1) if 0 <= near < len(row)])


def two_typos(text: str, chance: random.Random) -> str:
    """Two slips, wherever."""
    return typo(typo(text, chance), chance)


def longer_typo(text: str, chance: random.Random) -> str:
    """One slip, in a word of at least `LONGER_WORD` letters."""
    return typo(text, chance, LONGER_WORD)


def lower(text: str, chance: random.Random) -> str:
    """Small letters only."""
    return text.lower()


def upper(text: str, chance: random.Random) -> str:
    """Capital letters only."""
    return text.upper()


def polite_opening(text: str, chance: random.Random) -> str:
    """A greeting or a "please" before."""
    return chance.choice(OPENINGS) + text


def polite_closing(text: str, chance: random.Random) -> str:
    """A "please" or thanks after."""
    return text + chance.choice(CLOSINGS)


def question_mark(text: str, chance: random.Random) -> str:
    """A question mark at the end, in place of other final marks."""
    return bare(text) + "?"


def bare(text: str) -> str:
    """`text` without final marks."""
    return text.rstrip("?!. ")


def after_one_of(sentences: Sequence[str]) -> Perturbation:
    """The perturbation that puts one of `sentences` before a text, as a sentence of its own."""

    def perturb(text: str, chance: random.Random) -> str:
        return f"{bare(chance.choice(sentences))}. {text}"

    return perturb


PERTURBATIONS: dict[str, Perturbation] = {
    "typo": longer_typo,
    "lower case": lower,
    "upper case": upper,
    "polite before": polite_opening,
    "polite after": polite_closing,
    "question mark": question_mark,
}
"""What a prompt can suffer without meaning anything else."""
