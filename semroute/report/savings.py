"""What the routing saved by the log of decisions, day by day, as `semroute log savings` counts it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, NamedTuple

from semroute.decisionlog.savings import Savings, savings_with_days

if TYPE_CHECKING:
    from semroute.config import Settings
    from semroute.decisionlog import LoggedDecision

_MOST_PERIODS = 120  # days that are shown one by one; more become weeks


class Period(NamedTuple):
    """A day, or the week that begins with it (UTC), over the decisions that can be compared.

    spent: US dollars, measured. baseline: US dollars that the default model would have cost, estimated.
    """

    start: date
    decisions: int
    spent: float
    baseline: float


@dataclass(frozen=True, slots=True)
class SavedOverTime:
    """total: see `decisionlog.savings.Savings`. periods: of `days` days each, empty ones among them."""

    total: Savings
    days: int
    periods: tuple[Period, ...]


def saved_over_time(log: Iterable[LoggedDecision], settings: Settings) -> SavedOverTime | None:
    """Add up `log`, in one pass; None where it is empty."""
    total, by_day = savings_with_days(log, settings.models, settings.default.model_names[0])
    if not total.decisions:
        return None
    compared = {day: found for day, found in by_day.items() if found.estimated.decisions}
    days = 1 if not compared or (max(compared) - min(compared)).days < _MOST_PERIODS else 7
    return SavedOverTime(total, days, tuple(_periods(compared, days)))


def _periods(sums: Mapping[date, Savings], days: int) -> list[Period]:
    """Every period from the first to the last, those without a decision too."""
    if not sums:
        return []
    start, last, found = min(sums), max(sums), []
    while start <= last:
        inside = [sums[day].estimated for n in range(days) if (day := start + timedelta(days=n)) in sums]
        found.append(
            Period(
                start,
                sum(one.decisions for one in inside),
                sum(one.spent_usd for one in inside),
                sum(one.baseline_usd for one in inside),
            )
        )
        start += timedelta(days=days)
    return found
