"""Cost against quality on the cases: what the routing gives, what single models would, what outcomes would.

Quality is expected, not observed: on each case that of a model is what outcomes on like prompts say, where
enough of them do (`escalations.min_support`), and what its card declares otherwise. Cost is US dollars per
million tokens, three quarters of them prompt and one completion.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from semroute.catalog import blended_usd
from semroute.report.layout import evenly
from semroute.text import PromptError, is_blank, routed_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from semroute.decision import Decision
    from semroute.evaluate import Case
    from semroute.router import Router

_ASKED = 2_000  # cases whose outcomes are looked up
_EXAMPLES = 8


class Choice(NamedTuple):
    """A way of choosing the model, over all cases.

    usd: US dollars per million tokens. quality: expected, in [0, 1]. estimated: the share of the quality
        figures behind it that come from outcomes; the others are declared.
    """

    name: str
    usd: float
    quality: float
    estimated: float


class Costs(NamedTuple):
    """models: each model for every case, dearest last. baseline: the one that serves by default, if known.

    random, length, oracle: what the routing is held against, of `models`; None with fewer than two.
        Random: each of them as often. Length: the longer half of the cases to the baseline (where that is the
        cheapest, or not known, to the model of the best quality), the shorter half to the cheapest. Oracle:
        to each case the model with the best expected quality, of equals the cheapest: nothing can do better,
        and no router knows so much.
    routed: as the router decides. moved: as it would decide if outcomes counted (shadow mode only).
    unpriced, unrated: models that lack a price, or an expected quality on some of the cases, and are left out
        therefore. cases: how many were asked.
    """

    models: tuple[Choice, ...]
    baseline: Choice | None
    random: Choice | None
    length: Choice | None
    oracle: Choice | None
    routed: Choice | None
    moved: Choice | None
    unpriced: tuple[str, ...]
    unrated: tuple[str, ...]
    cases: int


class Move(NamedTuple):
    """Cases that outcomes would have moved from one model to another.

    Expected qualities are means over these cases, None where unknown; usd as in `Choice`.
    """

    before: str
    after: str
    cases: int
    quality_before: float | None
    quality_after: float | None
    usd_before: float | None
    usd_after: float | None


class Moves(NamedTuple):
    """What outcomes did, or in shadow mode would have done, to the decisions on the cases.

    mode: "off" where the settings name no store, else that of the settings.
    cases: how many would have moved (shadow) or moved (on). by_model: those of shadow mode, most first.
    examples: some of them: prompt, model before, model after.
    """

    mode: str
    cases: int
    by_model: tuple[Move, ...]
    examples: tuple[tuple[str, str, str], ...]


def costs(router: Router, judged: Sequence[tuple[Case, Decision]]) -> Costs | None:
    """What every choice of model costs and is expected to give on the cases; None without a case."""
    asked = [judged[row] for row in evenly(len(judged), _ASKED)]
    if not asked:
        return None
    cards = router.index.config.settings.models
    prices = {name: blended_usd(card) for name, card in cards.items()}
    quality, is_estimate = _qualities(router, asked)
    column = {name: place for place, name in enumerate(cards)}

    def choice(name: str, chosen: Sequence[str]) -> Choice | None:
        usd = [price for price in map(prices.get, chosen) if price is not None]
        places = range(len(chosen)), [column[model] for model in chosen]
        found = quality[places]
        if len(usd) < len(chosen) or np.isnan(found).any():
            return None
        return Choice(name, float(np.mean(usd)), float(found.mean()), float(is_estimate[places].mean()))

    singles = {name: choice(name, [name] * len(asked)) for name in cards}
    known = [one for one in singles.values() if one is not None]
    known.sort(key=lambda one: (one.usd, -one.quality, one.name))
    moved = [decision.shadow or decision.model for _, decision in asked]
    baseline = singles[router.index.config.settings.default.model_names[0]]
    several = len(known) > 1
    lengths = [len(case_text(case)) for case, _ in asked]
    best = quality[:, [column[one.name] for one in known]]
    return Costs(
        models=tuple(known),
        baseline=baseline,
        random=_mean_choice(known) if several else None,
        length=choice("length", _by_length(lengths, known, baseline)) if several else None,
        oracle=choice("oracle", [known[place].name for place in best.argmax(1)]) if several else None,
        routed=choice("routed", [decision.model for _, decision in asked]),
        moved=choice("moved", moved) if any(decision.shadow for _, decision in asked) else None,
        unpriced=tuple(name for name, price in prices.items() if price is None),
        unrated=tuple(name for name, place in column.items() if np.isnan(quality[:, place]).any()),
        cases=len(asked),
    )


def _mean_choice(known: Sequence[Choice]) -> Choice:
    usd, quality, estimated = (float(np.mean(column)) for column in list(zip(*known, strict=True))[1:])
    return Choice("random", usd, quality, estimated)


def _by_length(lengths: Sequence[int], known: Sequence[Choice], baseline: Choice | None) -> list[str]:
    """The model of each case where the longer half goes to the stronger; `known` from the cheapest up."""
    cheapest, best = known[0], max(known, key=lambda one: one.quality)
    strong = best if baseline is None or baseline == cheapest else baseline
    chosen = [cheapest.name] * len(lengths)
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row])[: len(lengths) // 2]:
        chosen[row] = strong.name
    return chosen


def moves(router: Router, judged: Sequence[tuple[Case, Decision]]) -> Moves:
    """What outcomes changed on the cases, or would have changed in shadow mode."""
    settings = router.index.config.settings
    if settings.escalations is None or settings.escalations.store is None:
        return Moves("off", 0, (), ())
    if settings.escalations.mode == "on":
        moved = sum(decision.reason == "escalation" for _, decision in judged)
        return Moves("on", moved, (), ())
    changed = [(case, one) for case, one in judged if one.shadow is not None]
    pairs = Counter((one.model, str(one.shadow)) for _, one in changed)
    prices = {name: blended_usd(card) for name, card in settings.models.items()}
    rows = [
        Move(
            before,
            after,
            count,
            _expected(changed, before, after, before),
            _expected(changed, before, after, after),
            prices[before],
            prices[after],
        )
        for (before, after), count in pairs.most_common()
    ]
    examples = [(case_text(case), one.model, str(one.shadow)) for case, one in changed[:_EXAMPLES]]
    return Moves("shadow", len(changed), tuple(rows), tuple(examples))


def case_text(case: Case) -> str:
    """The text of a case that is routed; empty where its prompt has none."""
    try:
        return routed_text(case.prompt)
    except PromptError:  # a case made in Python may hold anything
        return ""


def _expected(changed: Sequence[tuple[Case, Decision]], before: str, after: str, model: str) -> float | None:
    found = [
        candidate.quality
        for _, decision in changed
        if (decision.model, decision.shadow) == (before, after)
        for candidate in decision.candidates
        if candidate.model == model and candidate.quality is not None
    ]
    return sum(found) / len(found) if found else None


def _qualities(
    router: Router, asked: Sequence[tuple[Case, Decision]]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Expected quality of each model on each case, NaN where unknown, and whether outcomes say so.

    Both have shape (cases, models).
    """
    settings = router.index.config.settings
    cards = [np.nan if card.quality is None else card.quality for card in settings.models.values()]
    quality = np.tile(np.array(cards, np.float64), (len(asked), 1))
    is_estimate = np.zeros(quality.shape, np.bool_)
    if settings.escalations is None or settings.escalations.store is None:
        return quality, is_estimate
    texts = [case_text(case) for case, _ in asked]
    rows = [row for row, text in enumerate(texts) if not is_blank(text)]
    found = router.expected([texts[row] for row in rows], [asked[row][1].route for row in rows])
    for row, estimates in zip(rows, found, strict=True):
        for place, name in enumerate(settings.models):
            one = estimates.get(name)
            if one is not None and one.support > 0.0 and one.support >= settings.escalations.min_support:
                quality[row, place], is_estimate[row, place] = one.quality, True
    return quality, is_estimate
