"""`Report` -> one HTML page: styles, charts and data inside it, and a policy that lets it fetch nothing.

What users wrote reaches the page in two ways only: through the template, which escapes it, and through the
block of JSON, in which no `<` is left; the scripts put it into the page as text, never as HTML.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from semroute import __version__
from semroute.report.costs import Choice, Costs
from semroute.report.coverage import Curve, Point

if TYPE_CHECKING:
    from jinja2 import Environment

    from semroute.evaluate import Bin, Evaluation, RouteResult, Wrong
    from semroute.report.gather import Map, Report, RouteCard, Square
    from semroute.report.savings import SavedOverTime

_LONGEST_TEXT = 200  # characters of a prompt or utterance that are shown
_WRONG_SHOWN, _WRONG_OPEN = 200, 12
_CARDS_OPEN = 12
_ROWS = 11  # of the table of a curve
_LOST_SHOWN = 3
# What would let a text overtake the text around it: marks that set the direction of writing.
_DIRECTION = re.compile("[\u202a-\u202e\u2066-\u2069]")


def render(report: Report) -> str:
    """The page of a report. The same report gives the same page."""
    scripts = [_asset("echarts.min.js"), _asset("page.js")]
    style = _asset("page.css")
    return (
        _environment()
        .get_template("page.html")
        .render(
            policy=_policy(scripts, style),
            scripts=scripts,
            style=style,
            data=_json_block(_chart_data(report)),
            version=__version__,
            report=report,
            found=report.evaluation,
            saved=_saved_share(report),
            wrong=_wrong_first(report.evaluation),
            wrong_open=_WRONG_OPEN,
            wrong_models=report.evaluation.wrong_models[:_WRONG_SHOWN] if report.evaluation else (),
            cards=_worst_first(report.routes),
            cards_open=_CARDS_OPEN,
            curve_rows=_spread(report.curve.points) if report.curve else (),
            utterances=sum(card.utterances for card in report.routes),
        )
    )


def shown(text: str, most: int = _LONGEST_TEXT) -> str:
    """`text` as one line of at most `most` characters, without control characters and half surrogates."""
    line = " ".join(_DIRECTION.sub("", text).split())
    plain = "".join(c if unicodedata.category(c) not in {"Cc", "Cs"} else "\ufffd" for c in line[: most + 1])
    return plain if len(plain) <= most else plain[: most - 1].rstrip() + "…"


@cache
def _asset(name: str) -> str:
    from importlib.resources import files

    return (files(__package__) / "template" / name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FunctionLoader(_asset),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "shown": shown,
        "share": _percent,
        "number": _number,
        "usd": _dollars,
        "count": _counted,
        "case_text": _wrong_text,
        "lost": _lost,
        "bar": _bar,
        "ours": Markup,  # only for the files beside this one and for `_json_block`
    }
    return environment


def _policy(scripts: Iterable[str], style: str) -> str:
    """A Content-Security-Policy: this page's own scripts and styles run, and nothing is fetched."""
    hashes = " ".join(_hash(script) for script in scripts)
    return (
        f"default-src 'none'; script-src {hashes}; style-src {_hash(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def _json_block(value: Any) -> str:
    """JSON that can stand inside a script element: ASCII, and nothing in it that HTML would read."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


# Data of the charts


def _chart_data(report: Report) -> dict[str, Any]:
    return {
        "routes": [{"name": shown(card.name, 80), "color": card.color} for card in report.routes],
        "map": _map_data(report.map),
        "square": _square_data(report.square),
        "bins": [_bin_data(one) for one in report.evaluation.calibration.bins] if report.evaluation else [],
        "curve": _curve_data(report.curve),
        "costs": _cost_data(report.costs),
        "savings": _savings_data(report.savings),
    }


def _map_data(found: Map) -> dict[str, Any]:
    dots, prompts = found.utterances, found.prompts
    return {
        "utterances": {
            "x": [round(one.x, 3) for one in dots],
            "y": [round(one.y, 3) for one in dots],
            "route": [one.route for one in dots],
            "text": [shown(one.text) for one in dots],
        },
        "prompts": {
            "x": [round(one.x, 3) for one in prompts],
            "y": [round(one.y, 3) for one in prompts],
            "label": [one.label for one in prompts],
            "found": [one.found for one in prompts],
            "confidence": [round(one.confidence, 3) for one in prompts],
            "text": [shown(one.text) for one in prompts],
        },
    }


def _square_data(found: Square) -> dict[str, Any]:
    overlap = [[round(value, 3) for value in row] for row in found.overlap]
    return {"routes": found.routes, "overlap": overlap, "confusion": found.confusion}


def _bin_data(one: Bin) -> list[float | None]:
    said, right = _rounded(one.confidence), _rounded(one.right)
    return [round(one.low, 4), round(one.high, 4), one.decisions, said, right]


def _curve_data(found: Curve | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "points": [[round(value, 4) for value in point] for point in found.points],
        "chosen": found.chosen and [round(value, 4) for value in found.chosen],
    }


def _cost_data(found: Costs | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "models": [_choice(one) for one in found.models],
        "baseline": found.baseline and found.baseline.name,
        "random": _choice(found.random),
        "length": _choice(found.length),
        "oracle": _choice(found.oracle),
        "routed": _choice(found.routed),
        "moved": _choice(found.moved),
    }


def _choice(one: Choice | None) -> dict[str, Any] | None:
    if one is None:
        return None
    return {"name": one.name, "usd": round(one.usd, 4), "quality": round(one.quality, 4)}


def _savings_data(found: SavedOverTime | None) -> dict[str, Any] | None:
    if found is None or not found.periods:
        return None
    return {
        "model": found.total.estimated.default,
        "days": found.days,
        "periods": [
            [one.start.isoformat(), one.decisions, round(one.spent, 6), round(one.baseline, 6)]
            for one in found.periods
        ],
    }


# What the template asks for


def _saved_share(report: Report) -> float | None:
    """Share of the default model's cost that the routing saves: of the log, else expected on the cases."""
    if report.savings and report.savings.total.estimated.saved_share is not None:
        return report.savings.total.estimated.saved_share
    costs = report.costs
    if costs and costs.routed and costs.baseline and costs.baseline.usd:
        return 1.0 - costs.routed.usd / costs.baseline.usd
    return None


def _wrong_first(found: Evaluation | None) -> list[Wrong]:
    """The wrong prompts, the surest first: those are the ones to look at."""
    return sorted(found.wrong if found else (), key=lambda one: -one.confidence)[:_WRONG_SHOWN]


def _worst_first(cards: Sequence[RouteCard]) -> list[RouteCard]:
    """The routes, the one that fares worst first; without cases, the one that keeps least of its own."""

    def badness(card: RouteCard) -> tuple[float, float]:
        f1 = card.result.f1 if card.result else None
        return (2.0 if f1 is None else f1), (2.0 if card.own is None else card.own)

    return sorted(cards, key=badness)


def _spread(points: Sequence[Point]) -> list[Point]:
    """Some of the points of a curve, evenly by coverage, for its table."""
    wanted = [step / (_ROWS - 1) for step in range(1, _ROWS)]
    chosen = {min(range(len(points)), key=lambda n: abs(points[n].coverage - at)) for at in wanted if points}
    return [points[n] for n in sorted(chosen)]


def _wrong_text(one: Wrong) -> str:
    from semroute.report.costs import case_text

    return shown(case_text(one.case), 400) or "(no text)"


def _lost(result: RouteResult) -> list[tuple[str, int]]:
    return list(result.lost.items())[:_LOST_SHOWN]


def _bar(result: RouteResult) -> list[tuple[str, float, float]]:
    """The parts of a bar as kind, start and width in percent."""
    lost = result.cases - result.right - result.refused
    start, parts = 0.0, []
    for kind, count in (("right", result.right), ("refused", result.refused), ("lost", lost)):
        width = 100.0 * count / result.cases if result.cases else 0.0
        if count:
            parts.append((kind, round(start, 3), round(width, 3)))
        start += width
    return parts


def _percent(share: float | None, digits: int = 0) -> str:
    return "–" if share is None else f"{100.0 * share:.{digits}f} %"


def _number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _dollars(value: float | None) -> str:
    if value is None:
        return "–"
    return f"${value:,.2f}" if value >= 0.095 or value == 0.0 else f"${value:.4f}"


def _counted(number: int, what: str, plural: str | None = None) -> str:
    return f"{number:,} {what if number == 1 else plural or what + 's'}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
