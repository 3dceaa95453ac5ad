"""What two wordings of one wish have in common: politeness taken off, slips of the finger mended, long texts cut.

Pure functions on text; nothing here reads a file. English patterns, harmless elsewhere: a text that matches
none of them is returned as it came.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator

_EDGE = " \t\r\n\f\v?!.,;:"
_LONGEST_WRAPPER = 200  # characters; more than that of greetings is no wrapper but the text itself
_TAIL = 80  # characters at the end in which one closing is looked for

_ENDS = r"(?:\s{0,20}[,.!?:;-]{1,5}\s{0,20}|\s{1,20})"
_STOPS = r"\s{0,20}[,.!?:;-]{1,5}\s{0,20}"
# "hi in french" asks for a translation of "hi": before these words a greeting is no wrapper.
_MEANT = r"(?!(?:in|into|to|is|means|from|and|or|for)\b)"
_GREETING = (
    r"(?:hi|hello|hey|hiya|greetings|good (?:morning|afternoon|evening|day))"
    r"(?: (?:there|again|all|everyone|everybody|team|folks|guys))?"
)
_OPENING = re.compile(
    rf"(?:{_GREETING}(?:{_STOPS}|\s{{1,20}}{_MEANT})"
    rf"|(?:please|pls|plz|kindly|excuse me|pardon me){_ENDS}"
    rf"|(?:(?:i'?m |i am )?(?:so |very )?sorry (?:to|for) (?:bother|trouble|disturb)(?:ing)? you(?: but)?){_ENDS}"
    rf"|(?:(?:i have |i've got |got )?(?:a )?(?:quick |short |small )?question(?: for you)?){_STOPS}"
    rf"|(?:i hope|hope) (?:you|all|everything|this)\b[^,.!?:;\n]{{1,50}}{_STOPS}"
    rf"|(?:could|can|would|will) you (?:please|kindly)(?: (?:tell me|let me know))?{_ENDS})",
    re.IGNORECASE,
)
_CLOSING = re.compile(
    r"(?:^|[\s,.;:!?-])(?:please|pls|plz|kindly|cheers"
    r"|(?:many |(?:and )?thanks|thank you|thx|ty)(?: thanks)?"
    r"(?: (?:so much|very much|a lot|a million|again|in advance|for your (?:help|time)))*)$",
    re.IGNORECASE,
)
# "how do I say thank you" asks for the word itself.
_QUOTING = re.compile(r"\b(?:say|says|said|saying|word|words|phrase|mean|means|write|spell|of|for|no|to)\W*$", re.I)


def plain(text: str) -> str:
    """Return `text` without what does not change the wish: greetings, "please", thanks, the final "?".

    White space and punctuation go from the end, white space from the start, and polite words from both,
    until nothing is left to take. A text that consists of such words only keeps them ("thank you" may be an
    intent of its own), and so does one with more than 200 characters of them at one end. The middle is
    never touched. The result is never blank where `text` is not, and plain(plain(text)) == plain(text).
    """
    start, end = len(text) - len(text.lstrip()), len(text.rstrip(_EDGE))
    if start >= end:
        return text
    left, right = _after_openings(text, start, end), end
    right = _before_closings(text, left, right)
    if left >= right or left - start > _LONGEST_WRAPPER or end - right > _LONGEST_WRAPPER:
        return text[start:end]
    # What a closing left bare at the end may make an opening complete, and the other way round.
    return text[left:right] if (left, right) == (start, end) else plain(text[left:right])


def _after_openings(text: str, start: int, end: int) -> int:
    last = start + _LONGEST_WRAPPER
    place = start
    while place <= last and (match := _OPENING.match(text, place, end)):
        place = match.end()
    return place


def _before_closings(text: str, start: int, end: int) -> int:
    last = end - _LONGEST_WRAPPER
    while end >= last:
        window = text[max(start, end - _TAIL) : end]
        match = _CLOSING.search(window)
        if match is None or _QUOTING.search(window[: match.start()]):
            break
        end -= len(window) - match.start()
        end = start + len(text[start:end].rstrip(_EDGE)) if end > start else start
    return end


_CODE = re.compile(r"[{}\[\]<>=\\|`_;$#@]")
_CHUNK = re.compile(r"\S+")
_BARE = "\"'(),.:!?"
_SPELLED = 30  # words looked at, from the start and from the end
_SHORTEST, _LONGEST_WORD = 4, 24
_MOST_WORDS = 50_000
_ENDINGS = ("s", "es", "ed", "er", "ing", "ly")


class Speller:
    """Mends words of a prompt that differ by one slip from exactly one word of the utterances.

    A slip is a letter too many, too few or wrong, or two neighbours swapped. Candidates are found by what is
    left of a word when one letter is deleted, as in SymSpell (Wolf Garbe, 2012): a lookup costs a few
    microseconds whatever the number of words, and a prompt of known words next to nothing. Never changed
    after it is made: safe to use from several threads.
    """

    def __init__(self, utterances: Iterable[str], known: Collection[str] = ()) -> None:
        """Learn the words of `utterances`; `known` are further words that are right as they are."""
        words = dict.fromkeys(word for text in utterances for word in _words(text))
        own = list(words)[:_MOST_WORDS]
        self._known = frozenset(own).union(known) if own else frozenset()
        self._deletes: dict[str, list[str]] = {}
        for word in own:
            if _mendable(word):
                for rest in _deletions(word):
                    self._deletes.setdefault(rest, []).append(word)

    def repair(self, text: str) -> str:
        """Return `text` with its slips mended; the same text where there is nothing to mend.

        Only words of 4 to 24 ASCII letters, among the first and last 30, are looked at; no names (capitals
        inside a text), no parts of addresses or compounds, and nothing in a text that looks like code. Where
        more than two words and more than half are unknown, the text is in another language: left alone.
        """
        if not self._deletes or self._known.issuperset(_ends(text)):
            return text
        if _CODE.search(text, 0, 10_000):
            return text
        mends = list(self._mends(text))
        for start, end, word in reversed(mends):
            text = text[:start] + word + text[end:]
        return text

    def _mends(self, text: str) -> Iterator[tuple[int, int, str]]:
        """Start, end and right spelling of each word that is wrong."""
        shouted = text.isupper()
        unknown, places = [], list(_places(text))
        for start, end in places:
            chunk = text[start:end]
            named = not (chunk.islower() or shouted)
            if not named and _mendable(chunk.lower()) and not self._knows(chunk.lower()):
                unknown.append((start, end))
        if len(unknown) > 2 and len(unknown) * 2 > len(places):
            return
        for start, end in unknown:
            best = self._only_candidate(text[start:end].lower())
            if best is not None:
                yield start, end, best.upper() if shouted else best

    def _knows(self, word: str) -> bool:
        known = self._known
        if word in known:
            return True
        stems = (word.removesuffix(ending) for ending in _ENDINGS if word.endswith(ending))
        return any(len(stem) >= _SHORTEST and (stem in known or stem + "e" in known) for stem in stems)

    def _only_candidate(self, word: str) -> str | None:
        found = {
            other
            for rest in _deletions(word)
            for other in self._deletes.get(rest, ())
            if other[0] == word[0] and _one_slip(word, other)
        }
        return found.pop() if len(found) == 1 else None


def _words(text: str) -> list[str]:
    return [word.strip(_BARE) for word in text.lower().split()]


def _mendable(word: str) -> bool:
    return _SHORTEST <= len(word) <= _LONGEST_WORD and word.isascii() and word.isalpha()


def _ends(text: str) -> list[str]:
    """The first and last words of `text`, as they stand, split at white space."""
    if len(text) <= 500:
        return text.split()
    return [*text.split(None, _SPELLED)[:_SPELLED], *text.rsplit(None, _SPELLED)[-_SPELLED:]]


def _places(text: str) -> Iterator[tuple[int, int]]:
    """Where the first and last words of `text` stand, without the punctuation around them."""
    places = [match.span() for match in _CHUNK.finditer(text, 0, 10_000)]
    if len(text) > 10_000:
        places = places[:_SPELLED] + [match.span() for match in _CHUNK.finditer(text, len(text) - 5_000)]
    if len(places) > 2 * _SPELLED:
        places = places[:_SPELLED] + places[-_SPELLED:]
    for start, end in places:
        chunk = text[start:end]
        first = start + len(chunk) - len(chunk.lstrip(_BARE))
        yield first, max(first, start + len(chunk.rstrip(_BARE)))


def _deletions(word: str) -> Iterator[str]:
    """`word` itself and what is left of it without one letter."""
    yield word
    for place in range(len(word)):
        yield word[:place] + word[place + 1 :]


def _one_slip(one: str, other: str) -> bool:
    """Whether one slip turns `one` into `other`: Damerau-Levenshtein distance 1."""
    if len(one) > len(other):
        one, other = other, one
    place = next((i for i, letter in enumerate(one) if letter != other[i]), len(one))
    if len(one) < len(other):
        return one[place:] == other[place + 1 :]
    if one[place + 1 :] == other[place + 1 :]:
        return one != other
    swapped = one[place + 1 : place + 2] + one[place : place + 1]
    return swapped == other[place : place + 2] and one[place + 2 :] == other[place + 2 :]


LONG = 300
"""Characters above which a text has more views than itself."""

_VIEW = 200
_BORDER = re.compile(r"[.!?]['\")]*\s+|\n\s*")


def views(text: str) -> tuple[str, ...]:
    """Return the texts to encode in place of `text`: itself, and of a long one also its start and its end.

    The rule: a text of up to LONG (300) characters is one view. A longer one has three: the whole, its first
    200 characters and its last 200, each cut back to a border of sentences or lines where one lies in the
    half away from the edge, else to one of words. The view with the highest confidence decides.
    """
    if len(text) <= LONG:
        return (text,)
    return text, _start_of(text[:_VIEW]), _end_of(text[-_VIEW:])


def _start_of(piece: str) -> str:
    borders = [match.start() for match in _BORDER.finditer(piece) if match.start() > _VIEW // 2]
    if borders:
        return piece[: borders[-1] + 1]
    return piece.rsplit(None, 1)[0] if len(piece.split()) > 1 else piece


def _end_of(piece: str) -> str:
    border = _BORDER.search(piece)
    if border and border.end() < _VIEW // 2:
        return piece[border.end() :]
    return piece.split(None, 1)[1] if len(piece.split()) > 1 else piece
