"""What the routing saved, from a log of decisions: day by day, against always asking the default model.

Dollars are those of the log, or of its token counts and the prices in the settings. What has neither is not
guessed: it is left out and counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from semroute.config import ModelCard, Settings

_MOST_PERIODS = 120  # days that are shown one by one; more become weeks


class Logged(Protocol):
    """What is read of a decision in a log."""

    @property
    def time(self) -> float:
        """Seconds since 1970."""

    @property
    def model(self) -> str:
        """Name of the model that answered."""

    @property
    def prompt_tokens(self) -> int | None:
        """Tokens sent; None if unknown."""

    @property
    def completion_tokens(self) -> int | None:
        """Tokens received; None if unknown."""

    @property
    def usd(self) -> float | None:
        """US dollars that the call cost; None if unknown."""

    @property
    def score(self) -> float | None:
        """How good the answer was, in [0, 1]; None if nobody said."""


class Period(NamedTuple):
    """A day, or the week that begins with it (UTC): decisions, US dollars spent, and what was to be spent."""

    start: date
    decisions: int
    spent: float
    baseline: float


class Savings(NamedTuple):
    """What a log says was spent, and what the default model alone would have cost.

    spent, baseline: US dollars over all periods; baseline is what `model` had cost for the same tokens.
    counted: how many of `decisions` are behind them; the others have no known cost.
    days: length of a period. score: mean score of the `scored` decisions that have one; None without.
    """

    model: str
    decisions: int
    counted: int
    spent: float
    baseline: float
    days: int
    periods: tuple[Period, ...]
    scored: int
    score: float | None


@dataclass(slots=True)
class _Sum:
    decisions: int = 0
    spent: float = 0.0
    baseline: float = 0.0


def savings(log: Iterable[Logged], settings: Settings) -> Savings | None:
    """Add up `log`, in one pass; None where it is empty."""
    baseline = settings.default.model_names[0]
    sums: dict[date, _Sum] = {}
    decisions = scored = 0
    score = 0.0
    for one in log:
        decisions += 1
        if one.score is not None:
            scored, score = scored + 1, score + one.score
        cost = _cost(one, settings.models, baseline)
        if cost is not None:
            day = sums.setdefault(datetime.fromtimestamp(one.time, UTC).date(), _Sum())
            day.decisions, day.spent, day.baseline = (
                day.decisions + 1,
                day.spent + cost[0],
                day.baseline + cost[1],
            )
    if not decisions:
        return None
    days = 1 if not sums or (max(sums) - min(sums)).days < _MOST_PERIODS else 7
    periods = tuple(_periods(sums, days))
    return Savings(
        model=baseline,
        decisions=decisions,
        counted=sum(one.decisions for one in periods),
        spent=sum(one.spent for one in periods),
        baseline=sum(one.baseline for one in periods),
        days=days,
        periods=periods,
        scored=scored,
        score=score / scored if scored else None,
    )


def _cost(one: Logged, cards: Mapping[str, ModelCard], baseline: str) -> tuple[float, float] | None:
    """US dollars that a decision cost, and that the baseline would have; None where either is unknown."""
    always = _priced(one, cards.get(baseline))
    spent = one.usd if one.usd is not None else _priced(one, cards.get(one.model))
    return None if spent is None or always is None else (spent, always)


def _priced(one: Logged, card: ModelCard | None) -> float | None:
    return None if card is None else card.usd(one.prompt_tokens, one.completion_tokens)


def _periods(sums: Mapping[date, _Sum], days: int) -> list[Period]:
    """Every period from the first to the last, those without a decision too."""
    if not sums:
        return []
    start, last, found = min(sums), max(sums), []
    while start <= last:
        inside = [sums[day] for n in range(days) if (day := start + timedelta(days=n)) in sums]
        found.append(
            Period(
                start,
                sum(one.decisions for one in inside),
                sum(one.spent for one in inside),
                sum(one.baseline for one in inside),
            )
        )
        start += timedelta(days=days)
    return found
