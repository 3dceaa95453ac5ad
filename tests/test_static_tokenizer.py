"""The pure Python tokenizer gives the tokens of the `tokenizers` library."""

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

import semroute.encoders
from semroute.encoders.wordpiece import WordPiece

VOCABULARY = Path(semroute.encoders.__file__).parent / "assets" / "static" / "vocab.txt"
TOKENS = VOCABULARY.read_text(encoding="utf-8").rstrip("\n").split("\n")
OURS = WordPiece(TOKENS)


def _library_tokenizer() -> Tokenizer:
    """BERT's uncased tokenizer, without special tokens: to ours they are ordinary text."""
    ids = {token: position for position, token in enumerate(TOKENS)}
    tokenizer = Tokenizer(models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


LIBRARY = _library_tokenizer()

PROMPTS = [
    "where is my refund?",
    "I can't log in - it says 'Invalid credentials (401)'...",
    "Traceback (most recent call last):\n  File \"app.py\", line 3, in <module>\nKeyError: 'user_id'",
    "SELECT name, COUNT(*) FROM orders WHERE total >= 10.50 GROUP BY 1;",
    "What's 3^2 + \\frac{1}{2}? $x_1 \\neq x_2$",
    "C++ vs. C#: which one's faster??",
    "send 1,000.00 EUR to jane.doe@example.org by 12/31",
    "Crème brûlée à la carte, s'il vous plaît",
    "Ich möchte eine Rechnung für Müller & Söhne GmbH",
    "İstanbul'da hava nasıl? ΟΔΟΣ Σίσυφος",
    "我的订单在哪里? 東京タワーへの行き方を教えて",
    "الطقس اليوم في القاهرة",
    "नमस्ते, मेरा खाता बंद हो गया",
    "สวัสดีครับ ขอเปลี่ยนรหัสผ่าน",
    "안녕하세요 환불해 주세요",
    "thanks 🙏🏽 that worked 🎉👩‍💻",
    "zero\u200bwidth soft\u00adhyphen no\u00a0break line\u2028separator byte\ufefforder",
    "tab\tnew\nline\r\nform\x0cfeed null\x00bell\x07delete\x7fnext\x85line",
    "antidisestablishmentarianism " + "x" * 100 + " " + "y" * 101,
    "ﬁne ﬂuﬀy ½ ² ™ ﷺ Ⅻ ℌ",
    "[CLS] is not special [SEP] nor is [UNK] ##ing",
    "a\u0301 e\u0300\u0323 q\u0307 A\u030a Å",
    "--- *** ___ ~~~ ``` ||| «quoted» “curly” ‘single’ … – — ―",
    "",
    "   \n\t ",
]


def is_settled(char: str) -> bool:
    """Whether the class of a character is the same in every version of Unicode since 3.2.

    The library carries tables of an older Unicode than Python does; both know these characters. Category
    Cs, half a surrogate pair, is no text.
    """
    category = unicodedata.category(char)
    return category not in {"Cs", "Cn"} and category == unicodedata.ucd_3_2_0.category(char)


SETTLED = "".join(char for char in map(chr, range(0x110000)) if is_settled(char))
TEXTS = st.text(st.sampled_from(SETTLED)) | st.text(st.characters(max_codepoint=0x24F).filter(is_settled))


@pytest.mark.parametrize("prompt", PROMPTS)
def test_prompts_have_the_tokens_of_the_library(prompt: str):
    assert OURS.encode(prompt) == LIBRARY.encode(prompt).ids


def test_every_settled_character_has_the_tokens_of_the_library():
    texts = [f"ab{char}cd {char}" for char in SETTLED]
    expected = LIBRARY.encode_batch(texts)
    wrong = [text for text, tokens in zip(texts, expected, strict=True) if OURS.encode(text) != tokens.ids]
    assert wrong == []


@given(TEXTS)
def test_any_text_has_the_tokens_of_the_library(text: str):
    assert OURS.encode(text) == LIBRARY.encode(text).ids


@given(st.text(st.characters(codec="utf-8")))
def test_any_text_at_all_has_tokens_of_the_vocabulary(text: str):
    assert all(0 <= token < len(TOKENS) for token in OURS.encode(text))


def test_more_words_than_the_cache_holds_do_not_change_the_tokens():
    tokenizer = WordPiece(TOKENS)
    before = tokenizer.encode("where is my refund")
    for number in range(60_000):
        tokenizer.encode(f"w{number}")
    assert tokenizer.encode("where is my refund") == before


def test_a_vocabulary_without_the_unknown_token_is_refused():
    with pytest.raises(KeyError):
        WordPiece(["a", "b"])
