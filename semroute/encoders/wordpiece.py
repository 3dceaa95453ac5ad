"""BERT's uncased WordPiece tokeniser in pure Python: the same tokens as the `tokenizers` library, no import.

Special tokens have no meaning here: a prompt that spells "[SEP]" is three ordinary tokens. Characters that
were added to Unicode after the tables of `tokenizers` were made may be classified differently; both then
nearly always end as unknown.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

_MAX_WORD_CHARS = 100
_CACHED_WORDS = 50_000
_WORD = re.compile(r"[a-z0-9]+|[^\sa-z0-9]")
_ASCII_CONTROLS = {code: None for code in (*range(32), 127) if chr(code) not in "\t\n\r"}
_CJK = (
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B920, 0x2CEAF),
    (0x2F800, 0x2FA1F),
)


class WordPiece:
    """Turns text into token ids: greedy longest match over the words of the normalised text.

    `tokens` is the vocabulary in the order of the ids; it holds `[UNK]`. Safe to use from several threads.
    """

    def __init__(self, tokens: Sequence[str]) -> None:
        self._ids = {token: position for position, token in enumerate(tokens)}
        self.unknown = self._ids["[UNK]"]
        self._longest = max(map(len, tokens))
        self._cache: dict[str, tuple[int, ...]] = {}

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`, without `[CLS]` and `[SEP]`. A word that cannot be spelled is `[UNK]`."""
        ids: list[int] = []
        for word in words(text):
            pieces = self._cache.get(word)
            ids += self._remember(word) if pieces is None else pieces
        return ids

    def _remember(self, word: str) -> tuple[int, ...]:
        pieces = tuple(self._pieces(word))
        if len(word) > _MAX_WORD_CHARS:
            return pieces
        if len(self._cache) >= _CACHED_WORDS:
            self._cache = {}
        self._cache[word] = pieces
        return pieces

    def _pieces(self, word: str) -> list[int]:
        if len(word) > _MAX_WORD_CHARS:
            return [self.unknown]
        ids: list[int] = []
        start = 0
        while start < len(word):
            piece, start = self._longest_piece(word, start)
            if piece is None:
                return [self.unknown]
            ids.append(piece)
        return ids

    def _longest_piece(self, word: str, start: int) -> tuple[int | None, int]:
        prefix = "##" if start else ""
        for end in range(min(len(word), start + self._longest), start, -1):
            piece = self._ids.get(prefix + word[start:end])
            if piece is not None:
                return piece, end
        return None, start


def words(text: str) -> list[str]:
    """Lower-case words and single punctuation marks of `text`, as BERT's uncased models split it."""
    if text.isascii():
        return _WORD.findall(text.translate(_ASCII_CONTROLS).lower())
    return [word for chunk in _normalize(text).split() for word in _split_punctuation(chunk)]


def _normalize(text: str) -> str:
    spaced = "".join(map(_clean, text))
    decomposed = unicodedata.normalize("NFD", spaced)
    # One character at a time: str.lower() looks at the neighbours of a Greek sigma, BERT does not.
    return "".join(char.lower() for char in decomposed if unicodedata.category(char) != "Mn")


def _clean(char: str) -> str:
    if char in "\t\n\r":
        return " "
    if char == "\ufffd" or unicodedata.category(char) in {"Cc", "Cf", "Co", "Cs"}:
        return ""
    if char.isspace():
        return " "
    return f" {char} " if _is_cjk(ord(char)) else char


def _is_cjk(code: int) -> bool:
    return code >= _CJK[0][0] and any(first <= code <= last for first, last in _CJK)


def _split_punctuation(chunk: str) -> Iterator[str]:
    start = 0
    for position, char in enumerate(chunk):
        if _is_punctuation(char):
            if start < position:
                yield chunk[start:position]
            yield char
            start = position + 1
    if start < len(chunk):
        yield chunk[start:]


def _is_punctuation(char: str) -> bool:
    if char.isascii():
        return not char.isalnum()
    return unicodedata.category(char).startswith("P")
