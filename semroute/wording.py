"""What two wordings of one wish have in common: politeness taken off, slips mended, long texts cut.

Pure functions on text; nothing here reads a file. English patterns, harmless elsewhere: a text that matches
none of them is returned as it came.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence

from semroute.text import is_blank

_EDGE = " \t\r\n\f\v?!.,;:"
_MARKS = "?.!"
_LONGEST_WRAPPER = 200  # characters; more than that of greetings is no wrapper but the text itself
_TAIL = 80  # characters at the end in which one closing is looked for

_ENDS = r"(?:\s{0,20}[,.!?:;-]{1,5}\s{0,20}|\s{1,20})"
_STOPS = r"(?:\s{0,20}[,.!?:;]{1,5}\s{0,20}|\s{1,20}-{1,2}\s{1,20})"  # "hi-fi" is one word
# "hi in french" asks for a translation of "hi": before these words a greeting is no wrapper.
_MEANT = r"(?!(?:in|into|to|is|means|from|and|or|for)\b)"
_GREETED = r" (?:there|again|all|everyone|everybody|team|folks|guys)"
_GREETING = (
    r"(?:hi|hello|hey|hiya|greetings|good (?:morning|afternoon|evening|day))"
    # "hello there" is whole. Without a possessive quantifier, which Python before 3.11.5 gets wrong.
    rf"(?:{_GREETED}|(?!{_GREETED}))"
)
_OPENING = re.compile(
    rf"(?:{_GREETING}(?:{_STOPS}|\s{{1,20}}{_MEANT})"
    rf"|(?:please|pls|plz|kindly|excuse me|pardon me){_ENDS}"
    rf"|(?:i'?m |i am )?(?:so |very )?sorry (?:to|for) (?:bother|trouble|disturb)(?:ing)? you(?: but)?{_ENDS}"
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
_QUOTING = re.compile(
    r"\b(?:say|says|said|saying|word|words|phrase|mean|means|write|spell|of|for|no|to)\W*$", re.I
)


def marks_used(utterances: Sequence[str]) -> str:
    """Which of "?", "." and "!" end at least one in twenty of `utterances`: what `plain` is to keep.

    Where the utterances write their question marks, a question mark tells routes apart; where they do not,
    it only moves the vector.
    """
    ends = [text[len(text.rstrip(_EDGE)) :] for text in utterances]
    return "".join(mark for mark in _MARKS if 20 * sum(mark in end for end in ends) >= max(len(ends), 1))


def plain(text: str, keep: str = "") -> str:
    """Return `text` without what does not change the wish: greetings, "please", thanks, final punctuation.

    White space and punctuation go from the end, white space from the start, and polite words from both, until
    nothing is left to take. Of the marks in `keep` (see `marks_used`) one stays at the end where the text had
    it there. A text that consists of polite words only keeps them ("thank you" may be an intent of its own),
    and so does one with more than 200 characters of them at one end. The middle is never touched. The result
    is never blank where `text` is not, never longer, and plain(plain(text, keep), keep) == plain(text, keep).
    """
    body = text.rstrip(_EDGE)
    tail = text[len(body) :]
    start, end = len(body) - len(body.lstrip()), len(body)
    if is_blank(text[start:end]):
        return text
    left, right = _inside(text, start, end)
    return text[left:right] + next((mark for mark in keep if mark in tail), "")


def _inside(text: str, start: int, end: int) -> tuple[int, int]:
    """Where the wish stands in text[start:end]; the whole of it where there is nothing else."""
    left, right = start, end
    while True:
        before = left, right
        left = _after_openings(text, left, right)
        right = _before_closings(text, left, right)
        if is_blank(text[left:right]) or left - start > _LONGEST_WRAPPER or end - right > _LONGEST_WRAPPER:
            return start, end
        if (left, right) == before:
            return before


def _after_openings(text: str, start: int, end: int) -> int:
    """Where the text goes on after its polite opening; gives up soon after 200 characters of it."""
    last = start + _LONGEST_WRAPPER
    place = start
    while place <= last and (match := _OPENING.match(text, place, end)):
        place = match.end()
    return place


def _before_closings(text: str, start: int, end: int) -> int:
    """Where the text ends before its polite closing; gives up soon after 200 characters of it."""
    last = end - _LONGEST_WRAPPER
    while end >= last:
        window = text[max(start, end - _TAIL) : end]
        match = _CLOSING.search(window)
        if match is None or _QUOTING.search(window[: match.start()]):
            break
        end -= len(window) - match.start()
        while end > start and text[end - 1] in _EDGE:
            end -= 1
    return end


_CODE = re.compile(r"[{}\[\]<>=\\|`_;$#@]")
_CHUNK = re.compile(r"\S+")
_BARE = "\"'(),.:!?"
_SPELLED = 30  # words looked at, from the start and from the end
_LONGEST_MENDED = 10_000  # characters
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

        Only words of 4 to 24 ASCII letters, among the first and last 30, are looked at: no names (capitals
        inside a text), no parts of addresses or compounds, and nothing in a text that looks like code or has
        more than 10,000 characters. Where more than two words and more than half are unknown, the text is in
        another language and left alone.
        """
        if not self._deletes or len(text) > _LONGEST_MENDED or self._known.issuperset(text.split()):
            return text
        if _CODE.search(text):
            return text
        for start, end, word in reversed(list(self._mends(text))):
            text = text[:start] + word + text[end:]
        return text

    def _mends(self, text: str) -> Iterator[tuple[int, int, str]]:
        """Start, end and right spelling of each word that is wrong."""
        shouted = text.isupper()
        unknown, places = [], list(_places(text))
        for start, end in places:
            chunk = text[start:end]
            begins = start == 0 and chunk[1:].islower()  # a capital that the place gives, not the word
            named = not (chunk.islower() or shouted or begins)
            if not named and _mendable(chunk.lower()) and not self._knows(chunk.lower()):
                unknown.append((start, end))
        if len(unknown) > 2 and len(unknown) * 2 > len(places):
            return
        for start, end in unknown:
            best = self._only_candidate(text[start:end].lower())
            if best is not None:
                yield start, end, _cased_like(text[start:end], best, shouted=shouted)

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


def _cased_like(word: str, right: str, *, shouted: bool) -> str:
    if shouted:
        return right.upper()
    return right.capitalize() if word[:1].isupper() else right


def _words(text: str) -> list[str]:
    return [word.strip(_BARE) for word in text.lower().split()]


def _mendable(word: str) -> bool:
    return _SHORTEST <= len(word) <= _LONGEST_WORD and word.isascii() and word.isalpha()


def _places(text: str) -> Iterator[tuple[int, int]]:
    """Where the first and last words of `text` stand, without the punctuation around them."""
    places = [match.span() for match in _CHUNK.finditer(text)]
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

PARTS = ("whole", "start", "end")
"""What the views of a long text show of it, in their order."""

_VIEW = 200
_SHORTEST_VIEW = 25  # "Hi all." alone is no view
_BORDER = re.compile(r"[.!?]['\")]{0,3}\s|\n")


def views(text: str) -> tuple[str, ...]:
    """Return the texts to encode in place of `text`: itself, and of a long one also its start and its end.

    The rule: a text of up to LONG (300) characters is one view. A longer one has three: the whole, its first
    sentence or line, and its last one; a sentence of fewer than 25 characters is taken with its neighbour,
    one of more than 200 is cut at a word. The view with the highest confidence decides.
    """
    stripped = text.strip()
    if len(stripped) <= LONG:
        return (text,)
    return text, _start_of(stripped[:_VIEW]), _end_of(stripped[-_VIEW:])


def _start_of(piece: str) -> str:
    border = _BORDER.search(piece, _SHORTEST_VIEW)
    if border:
        return piece[: border.end()].rstrip()
    return piece[: _last_space(piece)].rstrip()


def _end_of(piece: str) -> str:
    borders = [match.end() for match in _BORDER.finditer(piece, 0, len(piece) - _SHORTEST_VIEW)]
    place = borders[-1] if borders else len(piece) - _last_space(piece[::-1])
    return piece[place:].lstrip()


def _last_space(piece: str) -> int:
    """Where the last white space stands in the second half of `piece`; its end where there is none."""
    places = [place for place in range(len(piece) // 2, len(piece)) if piece[place].isspace()]
    return places[-1] if places else len(piece)


def _folded(text: str) -> str:
    """The same for texts that are equal word for word: case, white space and final marks do not count."""
    return " ".join(text.casefold().split()).rstrip(_EDGE)


class Reader:
    """Reads a prompt as one or several texts to embed, of which the one that is judged surest decides."""

    def __init__(self, utterances: Sequence[str], known: Collection[str]) -> None:
        """Read for `utterances`; without `known` words of the encoder's language no slip is mended."""
        self._keep = marks_used(utterances)
        self._speller = Speller(utterances, known) if known else None
        self._written: dict[str, list[int]] = {}
        for row, utterance in enumerate(utterances):
            self._written.setdefault(_folded(utterance), []).append(row)
        self._utterances = tuple(utterances)

    def written(self, text: str) -> list[int]:
        """The rows of the utterances that `text` is, word for word."""
        return self._written.get(_folded(text), [])

    def readings(self, text: str) -> list[str]:
        """The views of `text` (see `views`), each plain and mended; at least one, blank only if `text` is.

        A text that is an utterance is read as that is written: "hello world" is more than a greeting.
        """
        rows = self.written(text)
        return [self._utterances[rows[0]]] if rows else [self._read(view) for view in views(text)]

    def _read(self, view: str) -> str:
        wish = plain(view, self._keep)
        return wish if self._speller is None else self._speller.repair(wish)
