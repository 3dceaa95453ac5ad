"""Deterministic rules, asked before the vote: the first whose conditions all hold decides.

Every test looks at the prompt alone, costs a bounded time, and gives the same answer every time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from semroute.config import Rule, RuleCondition

LOOKED_AT = 4_000
"""Characters that patterns look at: half of them from the start of the text, half from its end."""

_LOOKED_AT_OF_A_LINE = 200

_FENCE = re.compile(r"^[ \t]*(?:```|~~~)", re.MULTILINE)
_CODE_LINE = re.compile(
    r"""^[ \t]*(?:
        (?:async[ ]++)?def[ ]++\w+[ ]*\(            # Python
      | class[ ]++\w+[ ]*[\(:{]                    # Python, Java, C++, ...
      | from[ ]++[\w.]++[ ]++import[ ]               # Python
      | import[ ]++(?:[\w.{*]+.*(?:;|['"])|[\w.]++$)  # Java, JavaScript, Python
      | \#include[ ]*[<"]                         # C
      | (?:(?:public|private|protected|static|final)[ ]++)+[\w<>\[\],]++(?:[ ]++[\w<>\[\],]++)*+[ ]*[({=]
      | (?:const|let|var)[ ]++\w+[ ]*[=:]          # JavaScript, Go
      | (?:export[ ]++)?(?:async[ ]++)?function\b.*\(
      | func[ ]++(?:\([^)]*\)[ ]*)?\w+[ ]*\(       # Go
      | (?:pub[ ]++)?fn[ ]++\w+.*\(                 # Rust
      | (?:if|for|while|switch)[ ]*\(.*\)[ ]*\{?[ ]*$
      | Traceback[ ]\(most[ ]recent[ ]call[ ]last\)
      | File[ ]".+",[ ]line[ ]\d+
      | at[ ][\w.$<>]+\(.*\)                      # a frame of a Java or JavaScript stack
      | (?:SELECT\b.+\bFROM|INSERT[ ]++INTO|CREATE[ ]++TABLE|UPDATE\b.+\bSET)\b
      | (?:[\w.\[\]]+[ ]*(?:[-+*/]?=|:=)[ ]*.+;|\}[;,)]*|return\b.*;)[ \t]*$
      | <\/?(?:html|div|span|body|script|table|p|a|ul|li|head)\b[^>]*>
      | \$[ ](?:git|npm|pip|docker|kubectl|cd|ls|sudo|curl)\b
    )""",
    re.VERBOSE | re.MULTILINE,
)
_STEP_ITEM = re.compile(
    r"^[ \t]*(?:\d{1,2}[.)]|step[ ]++\d{1,2}\b|[-*•])[ \t]*\S", re.MULTILINE | re.IGNORECASE
)
_STEP_WORDS = re.compile(
    r"""\b(?:first(?:ly)?|second(?:ly)?|third(?:ly)?|then|next|after[ ]that|afterwards|finally|lastly
    |once[ ]done|followed[ ]by|step[ ]by[ ]step|multi-?step|in[ ]several[ ]steps)\b""",
    re.VERBOSE | re.IGNORECASE,
)


class Facts(NamedTuple):
    """What rules may look at: the routed text and what the caller said beside it."""

    text: str
    step: str | None
    metadata: Mapping[str, Any]


class RuleBook:
    """The rules of a config, compiled once."""

    def __init__(self, rules: tuple[Rule, ...]) -> None:
        self._rules = tuple(
            (rule, tuple(re.compile(pattern) for pattern in rule.when.any_regex)) for rule in rules
        )

    def first_match(self, facts: Facts) -> Rule | None:
        """The first rule, in the order of the config, whose conditions all hold."""
        for rule, patterns in self._rules:
            if _holds(rule.when, patterns, facts):
                return rule
        return None


def has_code(text: str) -> bool:
    """Whether `text` carries code: a fenced block, or a line that reads as code, a stack frame or markup."""
    # A line of code shows itself at its start; on a hostile line of thousands the patterns would take long.
    seen = "\n".join([line[:_LOOKED_AT_OF_A_LINE] for line in looked_at(text).split("\n")])
    return bool(_FENCE.search(seen) or _CODE_LINE.search(seen))


def is_multi_step(text: str) -> bool:
    """Whether `text` asks for several steps: three listed items, or two different words that order steps."""
    seen = looked_at(text)
    if len(_STEP_ITEM.findall(seen)) >= 3:
        return True
    words = {word.lower() for word in _STEP_WORDS.findall(seen)}
    return len(words) >= 2 or bool(words & {"step by step", "multi-step", "multistep", "in several steps"})


def looked_at(text: str) -> str:
    """The part of `text` that patterns see, so that a long prompt costs no more than a short one."""
    return text if len(text) <= LOOKED_AT else text[: LOOKED_AT // 2] + "\n" + text[-LOOKED_AT // 2 :]


def _holds(when: RuleCondition, patterns: tuple[re.Pattern[str], ...], facts: Facts) -> bool:
    # Cheap tests first; a pattern runs only where all else holds.
    return (
        (when.min_chars is None or len(facts.text) >= when.min_chars)
        and (when.max_chars is None or len(facts.text) <= when.max_chars)
        and (not when.step or facts.step in when.step)
        and all(_metadata_holds(facts.metadata, key, wanted) for key, wanted in when.metadata.items())
        and (when.has_code is None or has_code(facts.text) == when.has_code)
        and (when.multi_step is None or is_multi_step(facts.text) == when.multi_step)
        and (not patterns or any(pattern.search(looked_at(facts.text)) for pattern in patterns))
    )


def _metadata_holds(metadata: Mapping[str, Any], key: str, wanted: Any) -> bool:
    """Whether `metadata[key]` is `wanted`, or one of them. 1 and True are different values."""
    if key not in metadata:
        return False
    found = metadata[key]
    choices = wanted if isinstance(wanted, list | tuple) else (wanted,)
    return any(found == choice and isinstance(found, bool) == isinstance(choice, bool) for choice in choices)
