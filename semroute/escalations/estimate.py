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

import numpy as np

from semroute.decision import PastOutcome
from semroute.escalations import CASCADE, OPERATOR, Outcome
from semroute.escalations.nearby import NUMBERS, Nearby
from semroute.escalations.outcome import said_about
from semroute.escalations.trend import ENOUGH, Graded, Trend

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]

_PRIOR_WEIGHT = 1.0  # what is known without like prompts counts as one outcome
_ROUTE_WEIGHT = 20.0  # a model's declared quality against its mean on the route, in outcomes
_UNKNOWN_QUALITY = 0.5
_NOTICED = 0.1  # support from which a principal counts as one who says something here
_NEAREST_SHOWN = 5
_DAY = 86_400.0
_OPERATOR_NUMBER, _CASCADE_NUMBER = 0, 1
_A_RISE = 4.0  # outcomes that one rise of a cascade counts as: it is a failed test, and no opinion
_NO_ROUTE = -1
_FITTED_ON = 32_768  # graded prompts; more no longer change what a trend can say
_PARTS_OF_ONE = 1 << 40  # scores are summed as whole numbers of these, so that no order of adding matters


class Trust(NamedTuple):
    """How far others than the operator are believed.

    max_share: of the weight of what is said near a prompt, the most that one principal may have.
    min_principals: how many must agree that a model is better, or worse, than is known otherwise, before any
        of them counts.
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

        Of several by one principal on the same prompt and model the last counts.

        priors: each model's declared quality, None where nothing is declared.
        half_life_days: after which an outcome counts half.
        """
        self._priors, self._half_life, self._trust = dict(priors), half_life_days, trust or Trust()
        self._places = {model: place for place, model in enumerate(priors)}
        self._said, self._imported = (Nearby(len(self._places), keep_features=keep) for keep in (False, True))
        self._names = _Names()
        self._on_routes: dict[tuple[int, int], tuple[int, int]] = {}
        self._trend: _Learnt | None = None
        if outcomes:
            self.__dict__.update(self.with_more(outcomes).learnt().__dict__)

    def __len__(self) -> int:
        return len(self._said) + len(self._imported)

    @property
    def waiting(self) -> int:
        """How many outcomes at most stand beside an index, to be compared one by one."""
        return max(self._said.waiting, self._imported.waiting)

    def with_more(self, outcomes: Sequence[Outcome]) -> Estimator:
        """What this one knows and `outcomes`, which count at once; what is imported may wait for `learnt`.

        Only the latest of a line of estimators may be given more.
        """
        more = self._copy()
        more._on_routes = dict(self._on_routes)
        known = [outcome for outcome in outcomes if outcome.model in self._places]
        for is_import in (False, True):
            part = [outcome for outcome in known if (outcome.origin == "import") == is_import]
            if part:
                more._add(is_import, part)
        return more

    def changing(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Those of `outcomes`, all imported, that change a score which counts or add one, in their order."""
        scores: dict[int, float | None] = {}
        fresh = []
        for outcome in outcomes:
            said = _said(outcome)
            if said not in scores:
                scores[said] = self._imported.score_of(said)
            if scores[said] != outcome.score:
                scores[said] = outcome.score
                fresh.append(outcome)
        return fresh

    def learnt(self) -> Estimator:
        """With the trend of all that was imported, and everything merged."""
        other = self.settled()
        other._trend = _trend_of(other._imported, list(self._places), self._half_life)
        return other

    def settled(self) -> Estimator:
        """With new outcomes merged into the index by whole blocks, which may take seconds."""
        other = self._copy()
        other._said, other._imported = self._said.settled(), self._imported.settled()
        return other

    def with_merged(self, settled: Estimator) -> Estimator:
        """With what is merged in `settled`, which was made of an earlier one of this line."""
        other = self._copy()
        other._said = self._said.with_merged(settled._said)
        other._imported = self._imported.with_merged(settled._imported)
        return other

    def with_trend(self, learnt: Estimator) -> Estimator:
        """With the trend of `learnt`, which was made of an earlier one of this line."""
        other = self._copy()
        other._trend = learnt._trend
        return other

    def estimate(self, prompt: Prompt, models: Sequence[str], now: float) -> dict[str, Estimate]:
        """What to expect of each of `models` on `prompt`; `now` in seconds since 1970."""
        trend = self._trend_at(prompt, now)
        learnt = {self._places[model] for model in trend}
        voices = self._voices(self._said, prompt, now, frozenset())
        if self._imported.models - learnt:
            voices += self._voices(self._imported, prompt, now, frozenset(learnt))
        heard: dict[int, dict[int, list[tuple[float, float]]]] = {}
        for model, by, weight, score in voices:
            heard.setdefault(model, {}).setdefault(by, []).append((weight, score))
        return {
            model: self._of_model(model, prompt, heard.get(self._places[model], {}), trend.get(model))
            for model in models
        }

    def nearest(self, prompt: Prompt, model: str) -> list[PastOutcome]:
        """The outcomes of `model` on the prompts most like this one, nearest first."""
        rows = []
        for part in (self._said, self._imported):
            found = part.search(prompt.vector, _OPERATOR_NUMBER)
            for row, similarity in zip(part.numbers[found.rows], found.similarities.tolist(), strict=True):
                if row["model"] == self._places[model]:
                    rows.append((similarity, row["id"].decode(), float(row["score"])))
        rows.sort(key=lambda row: (-row[0], row[1]))
        return [
            PastOutcome(identity, model, score, round(similarity, 6))
            for similarity, identity, score in rows[:_NEAREST_SHOWN]
        ]

    def _copy(self) -> Estimator:
        other = object.__new__(Estimator)
        other.__dict__.update(self.__dict__)
        return other

    def _part(self, is_import: bool) -> Nearby:
        return self._imported if is_import else self._said

    def _set_part(self, is_import: bool, part: Nearby) -> None:
        if is_import:
            self._imported = part
        else:
            self._said = part

    def _add(self, is_import: bool, outcomes: Sequence[Outcome]) -> None:
        """Count `outcomes`, and no longer what they replace."""
        numbers = np.zeros(len(outcomes), NUMBERS)
        for row, outcome in zip(numbers, outcomes, strict=True):
            row["id"], row["model"] = outcome.id.encode(), self._places[outcome.model]
            row["by"] = self._names.number(outcome.by)
            row["route"] = _NO_ROUTE if outcome.route is None else self._names.number(outcome.route)
            row["score"], row["time"] = outcome.score, outcome.time
        part, replaced = self._part(is_import).with_more(outcomes, numbers, list(map(_said, outcomes)))
        self._set_part(is_import, part)
        for row in numbers:
            self._add_to_route(row, 1)
        for row in part.numbers[replaced]:
            self._add_to_route(row, -1)

    def _add_to_route(self, row: np.void, sign: int) -> None:
        """Of the operator's outcomes, the sum and the count by model and route."""
        if row["route"] == _NO_ROUTE or row["by"] != _OPERATOR_NUMBER:
            return
        at = int(row["model"]), int(row["route"])
        total, count = self._on_routes.get(at, (0, 0))
        self._on_routes[at] = total + sign * round(float(row["score"]) * _PARTS_OF_ONE), count + sign

    def _trend_at(self, prompt: Prompt, now: float) -> dict[str, Estimate]:
        if self._trend is None:
            return {}
        quality, support = self._trend.trend.predict(prompt.vector, prompt.features)
        kept = float(_freshness(now - self._trend.time, self._half_life))
        return {
            model: Estimate(float(quality[place]), float(support[place]) * kept)
            for model, place in self._places.items()
            if not math.isnan(quality[place])
        }

    def _voices(
        self, part: Nearby, prompt: Prompt, now: float, leave_out: frozenset[int]
    ) -> list[tuple[int, int, float, float]]:
        """Model, principal, weight and score of the outcomes of `part` on like prompts."""
        found = part.search(prompt.vector, _OPERATOR_NUMBER)
        rows = part.numbers[found.rows]
        weights = found.weights * _freshness(now - rows["time"], self._half_life)
        weights[rows["by"] == _CASCADE_NUMBER] *= _A_RISE
        spoken = zip(
            *(rows["model"].tolist(), rows["by"].tolist(), weights.tolist(), rows["score"].tolist()),
            strict=True,
        )
        return [voice for voice in spoken if voice[0] not in leave_out]

    def _of_model(
        self,
        model: str,
        prompt: Prompt,
        heard: Mapping[int, Sequence[tuple[float, float]]],
        trend: Estimate | None,
    ) -> Estimate:
        base = trend or Estimate(self._prior(model, prompt.route), 0.0)
        weight, total = _trusted(heard, self._trust, base.quality)
        quality = (base.quality * _PRIOR_WEIGHT + total) / (_PRIOR_WEIGHT + weight)
        return Estimate(min(1.0, max(0.0, quality)), round(base.support + weight, 4))

    def _prior(self, model: str, route: str | None) -> float:
        declared = self._priors.get(model)
        prior = _UNKNOWN_QUALITY if declared is None else declared
        at = self._places[model], self._names.known(route)
        total, count = self._on_routes.get(at, (0, 0))
        return (prior * _ROUTE_WEIGHT + total / _PARTS_OF_ONE) / (_ROUTE_WEIGHT + count)


class _Names:
    """A number for each name of a principal or route, in the order in which they came."""

    def __init__(self) -> None:
        self._numbers = {OPERATOR: _OPERATOR_NUMBER, CASCADE: _CASCADE_NUMBER}

    def number(self, name: str) -> int:
        return self._numbers.setdefault(name, len(self._numbers))

    def known(self, name: str | None) -> int:
        return _NO_ROUTE if name is None else self._numbers.get(name, _NO_ROUTE)


class _Learnt(NamedTuple):
    """A trend, and when the latest of what it was learnt from was graded."""

    trend: Trend
    time: float


def _trend_of(imported: Nearby, models: Sequence[str], half_life: float) -> _Learnt | None:
    """What was learnt from graded prompts, of the models that have enough of them."""
    alive = imported.alive
    rows = alive[(imported.counts >= ENOUGH)[imported.numbers["model"][alive]]]
    if not len(rows):
        return None
    points, first, prompts = np.unique(
        imported.numbers["point"][rows], return_index=True, return_inverse=True
    )
    order = np.arange(len(points))
    if len(order) > _FITTED_ON:
        order = np.linspace(0, len(order) - 1, _FITTED_ON).astype(np.int64)
    place = np.full(len(points), -1, np.int64)
    place[order] = np.arange(len(order))
    places = place[prompts]
    rows, earliest, kept = rows[places >= 0], rows[first[order]], places[places >= 0]
    numbers = imported.numbers[rows]
    scores = np.full((len(order), len(models)), np.nan, np.float32)
    scores[kept, numbers["model"]] = numbers["score"]
    latest = float(numbers["time"].max())
    weights = _freshness(latest - imported.numbers["time"][earliest], half_life).astype(np.float32)
    at = points[order].astype(np.int64)
    return _Learnt(Trend(Graded(imported.vectors(at), imported.features(at), scores, weights)), latest)


def _said(outcome: Outcome) -> int:
    return int.from_bytes(said_about(outcome)[:8], "little")


def _freshness(seconds: NDArray[np.float64] | float, half_life_days: float) -> NDArray[np.float64]:
    """What an outcome of that age still counts: a half after the half life.

    By whole days, so that an answer does not change from one second to the next; the future is now.
    """
    days = np.maximum(0.0, np.asarray(seconds, np.float64) // _DAY)
    kept: NDArray[np.float64] = np.exp2(-days / half_life_days)
    return kept


def _trusted(
    said: Mapping[int, Sequence[tuple[float, float]]], trust: Trust, base: float
) -> tuple[float, float]:
    """Weight, and weighted sum of scores, of what the principals said, none above his share.

    base: the quality known otherwise. Who says that it is less, or more, needs others who say so too.

    The shares are of what is left after all are cut, so that a principal gains nothing by saying it again.
    A cascade has as much as all others together, or as one rise.
    """
    weights = {by: sum(weight for weight, _ in pairs) for by, pairs in said.items()}
    operator, cascade = weights.pop(_OPERATOR_NUMBER, 0.0), weights.pop(_CASCADE_NUMBER, 0.0)
    below = {by for by in weights if sum(w * score for w, score in said[by]) < base * weights[by]}
    for side in (below, weights.keys() - below):
        if sum(weights[by] >= _NOTICED for by in side) < trust.min_principals:
            weights = {by: weight for by, weight in weights.items() if by not in side}
    most = trust.max_share * _capped_total(list(weights.values()), operator, trust.max_share)
    kept = {by: min(weight, most) for by, weight in weights.items()} | {_OPERATOR_NUMBER: operator}
    kept[_CASCADE_NUMBER] = min(cascade, max(_A_RISE, sum(kept.values())))
    weight, total = 0.0, 0.0
    for by, pairs in said.items():
        own, spoken = kept.get(by, 0.0), sum(each for each, _ in pairs)
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
