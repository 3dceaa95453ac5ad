"""How steady the routing is when prompts are worded otherwise, or worded to reach a dearer model.

Routing is no safety boundary: the figures say how often a perturbed prompt is served by another route, by a
dearer model (upgrade) or by a cheaper one (downgrade), beside how often it is then routed right.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from semroute.catalog import blended_usd
from semroute.evaluate import Case, CaseResult, Evaluation, evaluate
from semroute.perturb import PERTURBATIONS, Perturbation, after_one_of
from semroute.text import PromptError, routed_text

if TYPE_CHECKING:
    from semroute.config import Config
    from semroute.router import Router

EXPENSIVE_FIRST = "expensive first"
"""The perturbation that puts an utterance of the most expensive route before the prompt."""


class Steadiness(NamedTuple):
    """The cases under one perturbation; shares are in [0, 1].

    texts: how many of the cases it changes at all; the others count as routed as before.
    flips: share of the cases that another route serves than unperturbed, none being that of the default.
    upgrades, downgrades: share that a dearer, a cheaper model serves; None where no model has a price, and
        models without one count as served alike.
    accuracy: as in `Evaluation`, under the perturbation; None without labelled cases.
    """

    perturbation: str
    cases: int
    texts: int
    flips: float
    upgrades: float | None
    downgrades: float | None
    accuracy: float | None

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON types, numbers rounded to six digits."""
        return {
            key: round(value, 6) if isinstance(value, float) else value
            for key, value in self._asdict().items()
        }


def perturbations_for(config: Config) -> dict[str, Perturbation]:
    """Every perturbation by its name; `EXPENSIVE_FIRST` only where a route with utterances has a price."""
    sentences = _expensive_utterances(config)
    more = {EXPENSIVE_FIRST: after_one_of(sentences)} if sentences else {}
    return {**PERTURBATIONS, **more}


def robustness(
    router: Router,
    evaluation: Evaluation,
    progress: Callable[[int, int], None] | None = None,
    *,
    seed: int = 0,
) -> tuple[Steadiness, ...]:
    """Perturb the cases of `evaluation` in every way, and route them with the `router` that it is of.

    progress: called with (cases done, cases of all perturbations). seed: of the perturbations; that of a text
    depends on nothing but the text beside, so that a case more or less changes no other.
    """
    kinds = perturbations_for(router.index.config)
    prices = {name: blended_usd(card) for name, card in router.index.config.settings.models.items()}
    total = len(kinds) * len(evaluation.results)
    routes = tuple(one.case.route for one in evaluation.results if one.case.route is not None)
    models = tuple(one.case.model for one in evaluation.results if one.case.model is not None)
    found = []
    for place, (name, perturb) in enumerate(kinds.items()):
        cases = [_perturbed(one.case, perturb, f"{seed} {name}") for one in evaluation.results]
        step = None if progress is None else _from(place * len(cases), total, progress)
        after = evaluate(router, cases, step, also=routes, also_models=models)
        found.append(_steadiness(name, evaluation, after, prices))
    return tuple(found)


def _from(done: int, total: int, progress: Callable[[int, int], None]) -> Callable[[int, int], None]:
    return lambda more, _: progress(done + more, total)


def _perturbed(case: Case, perturb: Perturbation, seed: str) -> Case:
    """The case with the text that is routed perturbed; of messages nothing else counts."""
    try:
        text = routed_text(case.prompt)
    except PromptError:  # a case made in Python may hold anything
        return case
    # A case made in Python may hold half of a surrogate pair, which Random could not encode itself.
    chance = random.Random(f"{seed} {text}".encode("utf-8", "surrogatepass"))  # noqa: S311 - no secret
    return case._replace(prompt=perturb(text, chance) if text.strip() else text)


def _steadiness(
    name: str, clean: Evaluation, perturbed: Evaluation, prices: Mapping[str, float | None]
) -> Steadiness:
    pairs = list(zip(clean.results, perturbed.results, strict=True))
    size = len(pairs)
    priced = any(price is not None for price in prices.values())
    dearer = list(_price_moves(pairs, prices))
    return Steadiness(
        name,
        size,
        sum(_text(old.case) != new.case.prompt for old, new in pairs),
        sum(old.route != new.route for old, new in pairs) / size,
        sum(move > 0 for move in dearer) / size if priced else None,
        sum(move < 0 for move in dearer) / size if priced else None,
        perturbed.accuracy,
    )


def _price_moves(
    pairs: Sequence[tuple[CaseResult, CaseResult]], prices: Mapping[str, float | None]
) -> Iterator[float]:
    for old, new in pairs:
        before, after = prices.get(old.model), prices.get(new.model)
        yield 0.0 if before is None or after is None else after - before


def _text(case: Case) -> Any:
    try:
        return routed_text(case.prompt)
    except PromptError:
        return case.prompt


def _expensive_utterances(config: Config) -> tuple[str, ...]:
    """The utterances of the routes whose preferred model costs most."""
    prices = {
        route.name: blended_usd(config.settings.models[route.model_names[0]])
        for route in config.routes
        if route.utterances
    }
    known = [price for price in prices.values() if price is not None]
    if not known:
        return ()
    dear = [route.utterances for route in config.routes if prices.get(route.name) == max(known)]
    return tuple(chain.from_iterable(dear))
