"""What the routing saved, and what it cost in quality. Pure functions over logged decisions.

Three things that are never added up to one number:

measured    what was spent: real token counts at the prices that were configured when the call was made.
estimated   what the default model would have cost for the same tokens: an estimate, since another model
            answers with other lengths, and counts tokens its own way.
quality     mean scores of the decisions that somebody judged, beside those of the default model.

What is not known is counted, never taken as zero.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from statistics import fmean
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from semroute.config import ModelCard
    from semroute.decisionlog.record import LoggedDecision


@dataclass(frozen=True, slots=True)
class Measured:
    """What was spent. `usd` is the sum over the decisions of which it is known, `decisions` of them.

    Every call of a decision counts: those that failed, and those of an arbiter or of a cascade's judge, too;
    overhead_usd is what the latter have of `usd`. prompt_tokens, completion_tokens: sums over the same
    decisions, of the calls that answered. not_reported: decisions of which nobody said that a model was
    called. failed: no model answered, and no tokens were counted. without_tokens: token counts of a call that
    answered are not known. without_price: they are, and a price is not; unpriced says of which
    models, by decisions, of which each may lack the price of several.
    """

    decisions: int
    usd: float
    overhead_usd: float
    prompt_tokens: int
    completion_tokens: int
    not_reported: int
    failed: int
    without_tokens: int
    without_price: int
    unpriced: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Estimated:
    """What always calling the default model would have cost at the same token counts: an estimate.

    Over the `decisions` whose cost is measured, that were answered, and for which the default has a price:
    the one that was configured at the decision where it was a candidate, else today's. spent_usd: what these
    decisions cost, measured. baseline_usd: the estimate. saved_usd: their difference, negative when routing
    cost more. saved_share: of the baseline, None where that is 0. without_baseline: decisions whose cost is
    measured and that could not be compared.
    """

    default: str
    decisions: int
    spent_usd: float
    baseline_usd: float
    saved_usd: float
    saved_share: float | None
    without_baseline: int


@dataclass(frozen=True, slots=True)
class Quality:
    """Scores of one model on one route, as far as somebody judged its answers.

    route: None where the default served. decisions: those that the model answered. judged, mean: of its
    answers, those among them that a cascade rejected, so that `judged` may be more than `decisions`.
    default_mean: mean score of the default model on the same route, over default_judged answers; None where
    nobody judged one.
    """

    route: str | None
    model: str
    decisions: int
    judged: int
    mean: float | None
    default_judged: int
    default_mean: float | None


@dataclass(frozen=True, slots=True)
class Savings:
    """See the module. since, until: times of the first and last decision; None without decisions.

    quality: by route and model, most decisions first. judged, unjudged: decisions with and without a score
    of the answer that was served. mean, default_mean: these scores over all decisions, and over those that
    the default model answered; which decisions get judged is no accident, so the two may be about different
    prompts.
    """

    since: float | None
    until: float | None
    decisions: int
    measured: Measured
    estimated: Estimated
    quality: tuple[Quality, ...]
    judged: int
    unjudged: int
    mean: float | None
    default_judged: int
    default_mean: float | None

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain JSON types."""
        return {**asdict(self), "quality": [asdict(each) for each in self.quality]}


def savings(decisions: Iterable[LoggedDecision], models: Mapping[str, ModelCard], default: str) -> Savings:
    """What the routing of `decisions` cost, saved and lost.

    models: the catalogue, for the price of the default where a decision does not tell it. default: name of
    the model that serves what no route wins, the first of `default.models`.
    """
    tally = _Tally(models, default)
    for decision in decisions:
        tally.add(decision)
    return tally.result()


def savings_by_day(
    decisions: Iterable[LoggedDecision], models: Mapping[str, ModelCard], default: str
) -> dict[date, Savings]:
    """`savings` of each day (UTC) with a decision, in order."""
    return savings_with_days(decisions, models, default)[1]


def savings_with_days(
    decisions: Iterable[LoggedDecision], models: Mapping[str, ModelCard], default: str
) -> tuple[Savings, dict[date, Savings]]:
    """`savings` and `savings_by_day`, of decisions that are read once."""
    total = _Tally(models, default)
    days: dict[date, _Tally] = defaultdict(lambda: _Tally(models, default))
    for decision in decisions:
        total.add(decision)
        days[datetime.fromtimestamp(decision.time, UTC).date()].add(decision)
    return total.result(), {day: days[day].result() for day in sorted(days)}


class _Tally:
    """Sums over decisions, so that a long log is read once and held nowhere."""

    def __init__(self, models: Mapping[str, ModelCard], default: str) -> None:
        self._models, self._default = models, default
        self._times: tuple[float, float] | None = None
        self._counts: Counter[str] = Counter()
        self._unpriced: Counter[str] = Counter()
        self._usd = self._overhead = self._spent = self._baseline = 0.0
        self._groups: Counter[tuple[str | None, str]] = Counter()
        self._scores: dict[tuple[str | None, str], list[float]] = defaultdict(list)
        self._served_scores: dict[str, list[float]] = defaultdict(list)

    def add(self, decision: LoggedDecision) -> None:
        """Count one decision in."""
        first, last = self._times or (decision.time, decision.time)
        self._times = min(first, decision.time), max(last, decision.time)
        self._counts["decisions"] += 1
        self._groups[decision.route, decision.answerer] += 1
        for model, score in decision.scores_of.items():
            self._groups[decision.route, model] += 0
            self._scores[decision.route, model].append(score)
        if decision.score is not None:
            self._served_scores[decision.answerer].append(decision.score)
        if not decision.attempts:
            self._counts["not_reported"] += 1
        elif decision.usd is None and decision.unpriced:
            self._counts["without_price"] += 1
            self._unpriced.update(decision.unpriced)
        elif decision.error is not None and decision.prompt_tokens is None and not decision.usd:
            self._counts["failed"] += 1
        elif decision.usd is None or (decision.prompt_tokens is None and decision.error is None):
            self._counts["without_tokens"] += 1
        else:
            self._add_cost(decision, decision.usd)

    def result(self) -> Savings:
        """What was counted."""
        scores = [score for group in self._served_scores.values() for score in group]
        of_default = self._served_scores.get(self._default, [])
        first, last = self._times or (None, None)
        return Savings(
            since=first,
            until=last,
            decisions=self._counts["decisions"],
            measured=self._measured(),
            estimated=self._estimated(),
            quality=self._quality(),
            judged=len(scores),
            unjudged=self._counts["decisions"] - len(scores),
            mean=_mean(scores),
            default_judged=len(of_default),
            default_mean=_mean(of_default),
        )

    def _add_cost(self, decision: LoggedDecision, usd: float) -> None:
        self._counts["priced"] += 1
        self._usd += usd
        self._overhead += decision.overhead_usd or 0.0
        self._counts["prompt_tokens"] += decision.prompt_tokens or 0
        self._counts["completion_tokens"] += decision.completion_tokens or 0
        would = None if decision.error is not None else self._default_usd(decision)
        if would is None:
            self._counts["without_baseline"] += 1
        else:
            self._counts["compared"] += 1
            self._spent += usd
            self._baseline += would

    def _default_usd(self, decision: LoggedDecision) -> float | None:
        then = [candidate for candidate in decision.candidates if candidate.model == self._default]
        priced = then[0] if then else self._models.get(self._default)
        return None if priced is None else priced.usd(decision.prompt_tokens, decision.completion_tokens)

    def _measured(self) -> Measured:
        tokens, others = ("prompt_tokens", "completion_tokens"), ("without_tokens", "without_price")
        return Measured(
            decisions=self._counts["priced"],
            usd=self._usd,
            overhead_usd=self._overhead,
            unpriced=dict(sorted(self._unpriced.items())),
            **{name: self._counts[name] for name in (*tokens, "not_reported", "failed", *others)},
        )

    def _estimated(self) -> Estimated:
        saved = self._baseline - self._spent
        return Estimated(
            default=self._default,
            decisions=self._counts["compared"],
            spent_usd=self._spent,
            baseline_usd=self._baseline,
            saved_usd=saved,
            saved_share=None if self._baseline == 0.0 else saved / self._baseline,
            without_baseline=self._counts["without_baseline"],
        )

    def _quality(self) -> tuple[Quality, ...]:
        found = []
        for (route, model), count in self._groups.items():
            scores = self._scores.get((route, model), [])
            beside = self._scores.get((route, self._default), [])
            found.append(Quality(route, model, count, len(scores), _mean(scores), len(beside), _mean(beside)))
        return tuple(sorted(found, key=lambda each: (-each.decisions, each.route or "", each.model)))


def _mean(scores: list[float]) -> float | None:
    return fmean(scores) if scores else None
