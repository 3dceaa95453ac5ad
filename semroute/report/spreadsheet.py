"""The cases as CSV, for a spreadsheet: what was asked, what was expected, what was decided."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from typing import TYPE_CHECKING

from semroute.report.costs import case_text

if TYPE_CHECKING:
    from semroute.evaluate import Wrong

_HEAD = (
    *("file", "line", "prompt", "expected", "found", "reason", "confidence", "nearest", "similarity"),
    *("expected_model", "model", "tags"),
)
# Some programs take the full-width forms for the others.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def wrong_csv(wrong: Iterable[Wrong]) -> str:
    """The wrong prompts, one a row below a row of names.

    An empty route is the default. A case that expects a model alone has "any" in place of the expected route,
    in brackets.
    """
    out = io.StringIO()
    write = csv.writer(out, lineterminator="\r\n").writerow
    write(_HEAD)
    for one in wrong:
        nearest = one.neighbors[0] if one.neighbors else None
        texts = (
            one.case.file,
            str(one.case.line),
            case_text(one.case),
            "(any)" if one.case.any_route else one.case.route or "",
            one.found or "",
            one.reason,
            f"{one.confidence:.4f}",
            nearest.utterance if nearest else "",
        )
        # A cosine may be negative, and a number is no formula.
        similarity = f"{nearest.similarity:.4f}" if nearest else ""
        probed = (one.case.model or "", one.model, ", ".join(one.case.tags))
        write([*map(cell, texts), similarity, *map(cell, probed)])
    return out.getvalue()


def cell(text: str) -> str:
    """`text` as a cell that is no formula: what begins like one gets a quote before it."""
    return f"'{text}" if text.startswith(_FORMULA) else text
