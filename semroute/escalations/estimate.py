"""Expected quality of each model on one prompt, from outcomes on prompts like it.

    many graded prompts of the operator -> trend -------------+-> base
    declared quality, outcomes of the operator on the route --+     |
    outcomes on like prompts: likeness x age x trust -------------> quality, support

Quality is in [0, 1] everywhere; support counts outcomes: one on the very prompt is 1, one on an unrelated
prompt nothing. An `Estimator` is never changed, and depends on nothing but the outcomes it was made of, in
their order: without some of them it answers as if they had never been.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import faiss
import numpy as np

from semroute.decision import PastOutcome
from semroute.escalations import OPERATOR, Outcome
from semroute.escalations.trend import ENOUGH, FEATURE_COUNT, Graded, Trend, likeness

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]

_NEIGHBORS = 64  # outcomes on like prompts that are looked at
_PRIOR_WEIGHT = 1.0  # what is known without like prompts counts as one outcome
_ROUTE_WEIGHT = 20.0  # a model's declared quality against its mean on the route, in outcomes
_UNKNOWN_QUALITY = 0.5
_NOTICED = 0.1  # support from which a principal counts as one who says something here
_NEAREST_SHOWN = 5
_DAY = 86_400.0

_FLAT_UP_TO = 4_096
_BLOCK = 1_024
"""Outcomes are merged into the index by whole blocks; those after the last stand beside it."""
_LISTS_PER_ROOT = 2.0
_PROBED = 16
_TRAINED_ON = 40  # vectors a list


class Trust(NamedTuple):
    """How far others than the operator are believed.

    max_share: of the weight of what is said near a prompt, the most that one principal may have.
    min_principals: how many must agree that there is something to say, before any of them counts.
    """

    max_share: float = 0.5
    min_principals: int = 2


class Estimate(NamedTuple):
    """quality: expected, in [0, 1]. support: effective number of outcomes behind it, 0 for none."""

    quality: float
    support: float


class Prompt(NamedTuple):
    """What is asked about: a unit vector (dim,) float32, its features, and the route that serves it."""

    vector: Vectors
    features: NDArray[np.float32]
    route: str | None


class Estimator:
    """What the outcomes that count say of any prompt."""

    def __init__(
        self,
        outcomes: Sequence[Outcome],
        priors: Mapping[str, float | None],
        *,
        half_life_days: float = 90.0,
        trust: Trust | None = None,
    ) -> None:
        """Estimate from `outcomes`, in the order of the log, for the models of `priors`.

        priors: each model's declared quality, None where nothing is declared.
        half_life_days: after which an outcome counts half.
        """
        self._priors, self._half_life, self._trust = dict(priors), half_life_days, trust or Trust()
        self._models = list(priors)
        known = [outcome for outcome in outcomes if outcome.model in self._priors]
        imported = [outcome for outcome in known if outcome.origin == "import"]
        self._trend, self._trend_time, learnt = _trend_of(imported, self._models, half_life_days)
        self._imported = _Nearby([outcome for outcome in imported if outcome.model in learnt])
        self._local = _Nearby([o for o in known if o.origin != "import" or o.model not in learnt])
        self._on_routes = _route_means(known)

    def __len__(self) -> int:
        return len(self._local) + len(self._imported)

    def with_more(self, outcomes: Sequence[Outcome]) -> Estimator:
        """What this one says, and more outcomes; none imported, all of models it knows."""
        more = object.__new__(Estimator)
        more.__dict__.update(self.__dict__)
        more._local = self._local.with_more(outcomes)
        more._on_routes = _route_means(outcomes, self._on_routes)
        return more

    def estimate(self, prompt: Prompt, models: Sequence[str], now: float) -> dict[str, Estimate]:
        """What to expect of each of `models` on `prompt`; `now` in seconds since 1970."""
        found = self._local.search(prompt.vector)
        trend = self._trend_at(prompt, now)
        return {model: self._of_model(model, prompt, found, trend, now) for model in models}

    def nearest(self, prompt: Prompt, model: str) -> list[PastOutcome]:
        """The outcomes of `model` on the prompts most like this one, nearest first."""
        rows = [
            (similarity, outcome)
            for part in (self._local, self._imported)
            for similarity, _, outcome in part.search(prompt.vector)
            if outcome.model == model
        ]
        rows.sort(key=lambda row: -row[0])
        return [
            PastOutcome(outcome.id, outcome.model, outcome.score, round(similarity, 6))
            for similarity, outcome in rows[:_NEAREST_SHOWN]
        ]

    def _trend_at(self, prompt: Prompt, now: float) -> dict[str, Estimate]:
        if self._trend is None:
            return {}
        quality, support = self._trend.predict(prompt.vector, prompt.features)
        kept = _freshness(now - self._trend_time, self._half_life)
        return {
            model: Estimate(float(quality[place]), float(support[place]) * kept)
            for place, model in enumerate(self._models)
            if not math.isnan(quality[place])
        }

    def _of_model(
        self,
        model: str,
        prompt: Prompt,
        found: Sequence[_Like],
        trend: Mapping[str, Estimate],
        now: float,
    ) -> Estimate:
        base = trend.get(model) or Estimate(self._prior(model, prompt.route), 0.0)
        said: dict[str, list[tuple[float, float]]] = {}
        for _, like, outcome in found:
            if outcome.model == model:
                weight = like * _freshness(now - outcome.time, self._half_life)
                said.setdefault(outcome.by, []).append((weight, outcome.score))
        weight, total = _trusted(said, self._trust)
        quality = (base.quality * _PRIOR_WEIGHT + total) / (_PRIOR_WEIGHT + weight)
        return Estimate(min(1.0, max(0.0, quality)), round(base.support + weight, 4))

    def _prior(self, model: str, route: str | None) -> float:
        declared = self._priors.get(model)
        prior = _UNKNOWN_QUALITY if declared is None else declared
        total, count = self._on_routes.get((model, route or ""), (0.0, 0))
        return (prior * _ROUTE_WEIGHT + total) / (_ROUTE_WEIGHT + count)


class _Like(NamedTuple):
    similarity: float
    likeness: float
    outcome: Outcome


class _Nearby:
    """Outcomes that can be searched by vector. Never changed: `with_more` makes another beside it."""

    def __init__(self, outcomes: Sequence[Outcome]) -> None:
        self._outcomes = list(outcomes)
        self._merged = len(outcomes) // _BLOCK * _BLOCK
        self._index = _index_of(self._outcomes[: self._merged])
        self._beside = [outcome.vector for outcome in self._outcomes[self._merged :]]
        self._matrix = np.array(self._beside, np.float32) if self._beside else None

    def __len__(self) -> int:
        return len(self._outcomes)

    def with_more(self, outcomes: Sequence[Outcome]) -> _Nearby:
        if len(self._beside) + len(outcomes) >= _BLOCK:
            return _Nearby([*self._outcomes, *outcomes])
        more = object.__new__(_Nearby)
        more.__dict__.update(self.__dict__)
        more._outcomes = [*self._outcomes, *outcomes]
        more._beside = [*self._beside, *(outcome.vector for outcome in outcomes)]
        more._matrix = np.array(more._beside, np.float32) if more._beside else None
        return more

    def search(self, vector: Vectors) -> list[_Like]:
        """The outcomes on like prompts, most alike first, equal ones in the order of the log."""
        rows, similarities = np.empty(0, np.int64), np.empty(0, np.float32)
        if self._index is not None:
            values, places = self._index.search(vector[None], _NEIGHBORS)
            rows, similarities = places[0], values[0]
        if self._matrix is not None:
            beside = self._matrix @ vector
            rows = np.concatenate([rows, np.arange(self._merged, self._merged + len(beside))])
            similarities = np.concatenate([similarities, beside])
        alike = likeness(np.round(similarities, 6))
        kept = np.flatnonzero((alike > 0.0) & (rows >= 0))
        order = kept[np.lexsort((rows[kept], -similarities[kept]))][:_NEIGHBORS]
        return [
            _Like(float(similarities[place]), float(alike[place]), self._outcomes[rows[place]])
            for place in order
        ]


def _index_of(outcomes: Sequence[Outcome]) -> faiss.Index | None:
    """Exhaustive for few; above, lists around centres, with vectors of 8 bits a number."""
    if not outcomes:
        return None
    vectors = np.array([outcome.vector for outcome in outcomes], np.float32)
    return vector_index(vectors)


def vector_index(vectors: Vectors) -> faiss.Index:
    """An index over unit rows (n, dim), the same for the same vectors."""
    dim = vectors.shape[1]
    if len(vectors) <= _FLAT_UP_TO:
        flat = faiss.IndexFlatIP(dim)
        flat.add(vectors)
        return flat
    lists = int(_LISTS_PER_ROOT * math.sqrt(len(vectors)))
    quantizer = faiss.IndexFlatIP(dim)
    index = faiss.IndexIVFScalarQuantizer(
        quantizer, dim, lists, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
    )
    index.cp.max_points_per_centroid = _TRAINED_ON
    index.cp.niter = 10
    index.cp.seed = 0
    index.train(vectors)
    index.add(vectors)
    index.nprobe = _PROBED
    return index


def _trend_of(
    imported: Sequence[Outcome], models: Sequence[str], half_life: float
) -> tuple[Trend | None, float, frozenset[str]]:
    """What was learnt from graded prompts, when the latest was graded, and for which models."""
    counts = dict.fromkeys(models, 0)
    for outcome in imported:
        counts[outcome.model] += 1
    learnt = frozenset(model for model, count in counts.items() if count >= ENOUGH)
    if not learnt:
        return None, 0.0, learnt
    rows = [outcome for outcome in imported if outcome.model in learnt]
    latest = max(outcome.time for outcome in rows)
    places: dict[bytes, int] = {}
    first: list[Outcome] = []
    for outcome in rows:
        if outcome.prompt_hash not in places:
            places[outcome.prompt_hash] = len(first)
            first.append(outcome)
    scores = np.full((len(first), len(models)), np.nan, np.float32)
    columns = {model: place for place, model in enumerate(models)}
    for outcome in rows:
        scores[places[outcome.prompt_hash], columns[outcome.model]] = outcome.score
    graded = Graded(
        np.array([outcome.vector for outcome in first], np.float32),
        np.array([_padded(outcome.features) for outcome in first], np.float32),
        scores,
        np.array([_freshness(latest - outcome.time, half_life) for outcome in first], np.float32),
    )
    return Trend(graded), latest, learnt


def _padded(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """The features as this version counts them, zeros where there are none."""
    return features if len(features) == FEATURE_COUNT else np.zeros(FEATURE_COUNT, np.float32)


def _route_means(
    outcomes: Sequence[Outcome], known: Mapping[tuple[str, str], tuple[float, int]] | None = None
) -> dict[tuple[str, str], tuple[float, int]]:
    """Sum and count of the operator's scores by model and route, beside those that are `known`."""
    means = dict(known or {})
    for outcome in outcomes:
        if outcome.by == OPERATOR and outcome.route is not None:
            total, count = means.get((outcome.model, outcome.route), (0.0, 0))
            means[outcome.model, outcome.route] = (total + outcome.score, count + 1)
    return means


def _freshness(seconds: float, half_life_days: float) -> float:
    """What an outcome of that age still counts: a half after the half life.

    By whole days, so that an answer does not change from one second to the next; the future is now.
    """
    return float(2.0 ** (-max(0.0, seconds // _DAY) / half_life_days))


def _trusted(said: Mapping[str, Sequence[tuple[float, float]]], trust: Trust) -> tuple[float, float]:
    """Weight, and weighted sum of scores, of what the principals said, none above his share.

    The shares are of what is left after all are cut, so that a principal gains nothing by saying it again.
    """
    weights = {by: sum(weight for weight, _ in pairs) for by, pairs in said.items()}
    operator = weights.pop(OPERATOR, 0.0)
    noticed = sum(weight >= _NOTICED for weight in weights.values())
    if noticed < trust.min_principals:
        weights = {}
    most = trust.max_share * _capped_total(list(weights.values()), operator, trust.max_share)
    weight, total = 0.0, 0.0
    for by, pairs in said.items():
        own = operator if by == OPERATOR else min(weights.get(by, 0.0), most)
        spoken = sum(each for each, _ in pairs)
        if own > 0.0 and spoken > 0.0:
            weight += own
            total += own / spoken * sum(each * score for each, score in pairs)
    return weight, total


def _capped_total(weights: Sequence[float], operator: float, share: float) -> float:
    """The largest T with T = operator + sum of min(weight, share * T)."""
    ordered = sorted(weights, reverse=True)
    rest = operator + sum(ordered)
    for cut, largest in enumerate(ordered):  # with `cut` principals at their cap
        if cut * share < 1.0:
            total = rest / (1.0 - cut * share)
            if largest <= share * total + 1e-12:
                return total
        rest -= largest
    cut = len(ordered)
    return operator / (1.0 - cut * share) if cut * share < 1.0 else 0.0
