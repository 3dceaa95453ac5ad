"""Graded prompts as `Choices`: what is believed of each is estimated without it.

    graded rows of a file --+
    outcomes of the store --+--> five folds --> an Estimator for each, over the other four --> Choices

The estimators are those that route, made of the outcomes outside a fold; equal prompts are in one fold.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from semroute.choices import Choices
from semroute.config import EscalationSettings
from semroute.errors import ConfigError, Problem
from semroute.escalations import OPERATOR, Outcome
from semroute.escalations.estimate import Estimate, Estimator, Prompt, Trust
from semroute.escalations.trend import features
from semroute.sweep import folds_of
from semroute.ulid import ulid_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from semroute.config import Config, ModelCard
    from semroute.escalations.importing import GradedPrompt
    from semroute.router import Router

    Floats = NDArray[np.float64]
    Progress = Callable[[int, int], None]

ANSWER_TOKENS = 200
"""Of an answer, where nobody says how long it is."""

CHARACTERS_A_TOKEN = 4.0
_PER_1M = 1e-6
_STEP = 256  # prompts between two signs of progress


@dataclass(slots=True)
class GradedSet:
    """Distinct prompts with the grades of several models, and the outcomes that an estimator learns from.

    Of each prompt: `keys`, the hash of its text, as in the outcomes; its vector, features, length and route;
    and the scores of each model that was graded on it.
    """

    outcomes: list[Outcome]
    keys: list[bytes] = field(default_factory=list)
    vectors: list[NDArray[np.float32]] = field(default_factory=list)
    features: list[NDArray[np.float32]] = field(default_factory=list)
    characters: list[float] = field(default_factory=list)
    routes: list[str | None] = field(default_factory=list)
    scores: list[dict[str, list[float]]] = field(default_factory=list)


@dataclass(frozen=True, slots=True, eq=False)
class Crossfitted:
    """Choices on the prompts that are graded by all who could have served them.

    folds: (n,), in which each was left out.
    left_out: how many prompts are not among them. ungraded: candidates that nobody graded anywhere, which are
        left out of the choice.
    """

    choices: Choices
    folds: NDArray[np.int64]
    left_out: int
    ungraded: tuple[str, ...]


def graded_rows(router: Router, rows: Sequence[GradedPrompt], source: str) -> GradedSet:
    """Graded rows of a file as `semroute escalations import` would store them, of which nothing is stored.

    A row without `route` is routed. Raises ConfigError without rows, or EncoderError.
    """
    if not rows:
        raise ConfigError((Problem(source, 1, 1, "holds no graded prompt; write one a line."),))
    of_text: dict[bytes, list[GradedPrompt]] = defaultdict(list)
    for row in rows:
        of_text[_key(row.prompt)].append(row)
    texts = [group[0].prompt for group in of_text.values()]
    vectors, routes = router.vectors(texts), _routes(router, list(of_text.values()))
    found, now = GradedSet([]), time.time()
    for place, (key, group) in enumerate(of_text.items()):
        scores: dict[str, list[float]] = defaultdict(list)
        for row in group:
            for model, score in row.scores.items():
                scores[model].append(score)
        said = next((row.route for row in group if row.route is not None), None)
        seen = features(texts[place])
        _add(found, key, vectors[place], seen, float(len(texts[place])), routes[place], scores)
        found.outcomes += [
            Outcome(
                id=ulid_of(hashlib.sha256(key + model.encode()).digest()),
                model=model,
                score=float(np.mean(values)),
                vector=vectors[place],
                features=seen,
                prompt_hash=key,
                encoder="tune",
                by=OPERATOR,
                origin="import",
                time=now,
                route=said,
            )
            for model, values in scores.items()
        ]
    return found


def stored_outcomes(router: Router) -> GradedSet:
    """What the store of the settings holds. The operator's outcomes are the grades; all are learnt from.

    Raises StoreError.
    """
    memory, known = router.memory, router.index.config.settings.models
    outcomes = [
        outcome
        for outcome in memory.outcomes()
        if outcome.encoder == memory.encoder and outcome.model in known
    ]
    of_prompt: dict[bytes, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        if outcome.by == OPERATOR:
            of_prompt[outcome.prompt_hash].append(outcome)
    found = GradedSet(outcomes)
    for key, group in of_prompt.items():
        scores: dict[str, list[float]] = defaultdict(list)
        for outcome in group:
            scores[outcome.model].append(outcome.score)
        first = group[0]
        # The first feature is the logarithm of the length; of texts nothing else is kept.
        characters = math.expm1(float(first.features[0])) if len(first.features) else 0.0
        route = next((outcome.route for outcome in group if outcome.route is not None), None)
        _add(found, key, first.vector, first.features, characters, route, scores)
    return found


def crossfit(
    router: Router, graded: GradedSet, answer_tokens: int, source: str, progress: Progress | None = None
) -> Crossfitted:
    """Estimate every candidate on every prompt by estimators that have not seen the prompt.

    answer_tokens: of every answer; the tokens of a prompt are a quarter of its characters.
    source: what problems call the grades.

    Raises ConfigError where nothing can be compared: no prompt graded by all who could have served it, no
    grade of the default model, or no price.
    """
    config = router.index.config
    models = tuple(config.settings.models)
    graded_by = {model for scores in graded.scores for model in scores}
    plans = [plan(config, route, graded_by) for route in graded.routes]
    default = config.settings.default.model_names[0]
    _check(config, graded_by, default, source)
    kept = [
        place
        for place, (whole, _) in enumerate(plans)
        if len(whole) > 0 and {*whole, default} <= graded.scores[place].keys()
    ]
    if len(kept) < 2:
        message = (
            f"fewer than two prompts are graded on all models that could serve them and on {default!r}, the "
            "default: there is nothing to compare; give `scores` of all of them."
        )
        raise ConfigError((Problem(source, 0, 0, message),))
    places = {model: column for column, model in enumerate(models)}
    groups = np.arange(len(kept))
    folds = folds_of(groups)
    estimates = _estimated(config, graded, kept, [plans[place][0] for place in kept], folds, progress)
    least = (config.settings.escalations or EscalationSettings()).min_support
    count = len(kept), len(models)
    believed, worth = np.full(count, np.nan), np.full(count, np.nan)
    cards = tuple(config.settings.models.values())
    tokens = np.array([graded.characters[place] for place in kept]) / CHARACTERS_A_TOKEN
    orders: dict[tuple[int, ...], int] = {}
    order = np.zeros(len(kept), np.int64)
    for row, place in enumerate(kept):
        whole, own = plans[place]
        found = estimates[row]
        for model, each in found.items():
            if each.support >= least:
                believed[row, places[model]] = each.quality
        for model, scores in graded.scores[place].items():
            worth[row, places[model]] = float(np.mean(scores))
        # Where nothing is known, routing goes on as if there were no outcomes, among the models of the route.
        names = whole if any(each.support > 0.0 for each in found.values()) else own or whole
        order[row] = orders.setdefault(tuple(places[name] for name in names), len(orders))
    ungraded = {name for route in set(graded.routes) for name in candidates_of(config, route)[0]} - graded_by
    choices = Choices(
        models,
        cards,
        believed,
        worth,
        ~np.isnan(worth),
        np.column_stack([usd(card, tokens, np.full(len(kept), float(answer_tokens))) for card in cards]),
        np.column_stack([milliseconds(card, np.full(len(kept), float(answer_tokens))) for card in cards]),
        tuple(orders),
        order,
        places[default],
        np.array([max(map(len, graded.scores[place].values())) for place in kept], np.float64),
    )
    return Crossfitted(choices, folds, len(graded.keys) - len(kept), tuple(sorted(ungraded)))


def _estimated(
    config: Config,
    graded: GradedSet,
    kept: Sequence[int],
    candidates: Sequence[tuple[str, ...]],
    folds: NDArray[np.int64],
    progress: Progress | None,
) -> list[Mapping[str, Estimate]]:
    """What the estimator without its fold says of the candidates of each of the prompts `kept`."""
    settings = config.settings.escalations or EscalationSettings()
    priors = {name: card.quality for name, card in config.settings.models.items()}
    trust = Trust(settings.max_principal_share, settings.min_principals)
    fold_of = {graded.keys[place]: int(fold) for place, fold in zip(kept, folds, strict=True)}
    now, done = time.time(), 0
    estimates: list[Mapping[str, Estimate]] = [{} for _ in kept]
    for fold in range(int(folds.max()) + 1):
        others = [outcome for outcome in graded.outcomes if fold_of.get(outcome.prompt_hash) != fold]
        estimator = Estimator(others, priors, half_life_days=settings.half_life_days, trust=trust)
        for row in np.flatnonzero(folds == fold).tolist():
            place = kept[row]
            prompt = Prompt(graded.vectors[place], graded.features[place], graded.routes[place])
            estimates[row] = estimator.estimate(prompt, candidates[row], now)
            done += 1
            if progress is not None and (done % _STEP == 0 or done == len(kept)):
                progress(done, len(kept))
    return estimates


def _key(prompt: str) -> bytes:
    """The same for texts that differ in white space only, as in a store."""
    return hashlib.sha256(" ".join(prompt.split()).encode("utf-8", "surrogatepass")).digest()


def _add(
    found: GradedSet,
    key: bytes,
    vector: NDArray[np.float32],
    seen: NDArray[np.float32],
    characters: float,
    route: str | None,
    scores: dict[str, list[float]],
) -> None:
    found.keys.append(key)
    found.vectors.append(vector)
    found.features.append(seen)
    found.characters.append(characters)
    found.routes.append(route)
    found.scores.append(dict(scores))


def _routes(router: Router, groups: Sequence[Sequence[GradedPrompt]]) -> list[str | None]:
    """The route of each group of rows with one text: what a row says, else what the router does."""
    routes = [next((row.route for row in group if row.route is not None), None) for group in groups]
    if not router.index.route_names:
        return routes
    open_still = [place for place, route in enumerate(routes) if route is None]
    decisions = router.route_many([groups[place][0].prompt for place in open_still])
    for place, decision in zip(open_still, decisions, strict=True):
        routes[place] = decision.route
    return routes


def candidates_of(config: Config, route: str | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The models that may serve a prompt of the route, in order, and those of them that the route names."""
    default = config.settings.default.model_names
    known = route is not None and any(one.name == route for one in config.routes)
    own = config.route(route).model_names if known and route is not None else default
    return own + tuple(name for name in default if name not in own), own


def plan(config: Config, route: str | None, graded_by: set[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The candidates of a route, and its own ones, without those that nobody graded."""
    whole, own = candidates_of(config, route)
    return tuple(name for name in whole if name in graded_by), tuple(
        name for name in own if name in graded_by
    )


def _check(config: Config, graded_by: set[str], default: str, source: str) -> None:
    """Raise ConfigError with all that keeps the grades from being compared."""
    problems = []
    if default not in graded_by:
        message = f"no grade of {default!r}, the default model, against which the saving is counted."
        problems.append(Problem(source, 0, 0, message))
    problems += price_problems(config, graded_by | {default}, source)
    if problems:
        raise ConfigError(tuple(problems))


def price_problems(config: Config, models: set[str], source: str) -> list[Problem]:
    """What is wrong with the prices of `models`, the default model among them, where costs are compared."""
    cards, default = config.settings.models, config.settings.default.model_names[0]
    unpriced = sorted(name for name in models if cards[name].prompt_usd_per_1m is None)
    if unpriced:
        message = f"no price of {', '.join(unpriced)}: give `prompt_usd_per_1m` in semroute.yaml, and build."
        return [Problem(source, 0, 0, message)]
    if not cards[default].prompt_usd_per_1m and not cards[default].completion_usd_per_1m:
        return [Problem(source, 0, 0, f"{default!r}, the default model, costs nothing: there is no saving.")]
    return []


def time_problems(config: Config, models: set[str], source: str) -> list[Problem]:
    """What is wrong with the latencies of `models`, the default among them, where times are compared."""
    cards, default = config.settings.models, config.settings.default.model_names[0]
    silent = sorted(name for name in models if cards[name].ttft_ms is None or cards[name].itl_ms is None)
    if silent:
        message = (
            f"no latency of {', '.join(silent)}: give `ttft_ms` and `itl_ms` in semroute.yaml, and build."
        )
        return [Problem(source, 0, 0, message)]
    if not cards[default].ttft_ms and not cards[default].itl_ms:
        return [Problem(source, 0, 0, f"{default!r}, the default model, takes no time: there is no saving.")]
    return []


def milliseconds(card: ModelCard, completion_tokens: Floats) -> Floats:
    """Until the last of so many tokens is there; NaN where the card does not say how fast the model is."""
    first = math.nan if card.ttft_ms is None else card.ttft_ms
    following = math.nan if card.itl_ms is None else card.itl_ms
    return first + following * completion_tokens


def usd(card: ModelCard, prompt_tokens: Floats, completion_tokens: Floats) -> Floats:
    """US dollars for calls of so many tokens; a completion of unknown price costs what the prompt does.

    NaN without a price.
    """
    prompt = math.nan if card.prompt_usd_per_1m is None else card.prompt_usd_per_1m
    completion = prompt if card.completion_usd_per_1m is None else card.completion_usd_per_1m
    return (prompt_tokens * prompt + completion_tokens * completion) * _PER_1M
