"""Which model serves each prompt at every value of `max_risk` or of a weight of `select`. Pure numpy.

The same rules as `catalog.safest_first` and `catalog.rank`, for all values at once: the first model whose
risk is below the limit, a staircase; and the best by the other weights less weight times cost or time, an
upper envelope of lines.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from semroute.catalog import blended_usd, declared_quality, filled
from semroute.sweep import Ratio, Sweep

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from semroute.config import ModelCard, Weights

    Floats = NDArray[np.float64]

SCORE, COST, DEFAULT_SCORE, DEFAULT_COST, COUNT, KNOWN, TIME, DEFAULT_TIME = range(8)
"""Columns of the sums. Costs are US dollars, times milliseconds until the whole answer is there."""

MODEL_FIGURES: Mapping[str, Ratio] = {
    "saving": Ratio(COST, DEFAULT_COST, rest=True, low=-math.inf),
    "quality": Ratio(SCORE, COUNT),
    "quality_share": Ratio(SCORE, DEFAULT_SCORE, high=math.inf),
    "cost": Ratio(COST, COUNT, high=math.inf),
}
TIME_FIGURES: Mapping[str, Ratio] = {
    "time_saving": Ratio(TIME, DEFAULT_TIME, rest=True, low=-math.inf),
    "time": Ratio(TIME, COUNT, high=math.inf),
}
LOG_FIGURES: Mapping[str, Ratio] = {"known": Ratio(KNOWN, COUNT)}
"""What is measured: always, where time is to be saved, and on a log, which does not know every score."""

_COLUMNS = 8


@dataclass(frozen=True, slots=True, eq=False)
class Choices:
    """What is believed of each model on each of n prompts, what it was worth there, and what it costs.

    models: names, with their `cards`; the columns of what follows.
    believed: (n, models), estimated quality by a model that has not seen the prompt; NaN where too little is
        known to count.
    worth: (n, models), the score. known: (n, models), whether it was observed or is an estimate itself.
    usd: (n, models), US dollars. ms: (n, models), milliseconds until the whole answer is there; NaN where a
        card does not say.
    orders: lists of candidates, best first, as columns; order: (n,), which of them is the prompt's.
    default: the column of the model that is the baseline.
    weight: (n,), how often the prompt was asked.
    """

    models: tuple[str, ...]
    cards: tuple[ModelCard, ...]
    believed: Floats
    worth: Floats
    known: NDArray[np.bool_]
    usd: Floats
    ms: Floats
    orders: tuple[tuple[int, ...], ...]
    order: NDArray[np.int64]
    default: int
    weight: Floats

    def sums(self, rows: NDArray[np.int64], chosen: NDArray[np.int64]) -> Floats:
        """What the prompts `rows` (k,) add when the models `chosen` (k,) serve them, (k, columns)."""
        zeros = np.zeros(len(rows))
        columns = (
            self.worth[rows, chosen],
            self.usd[rows, chosen],
            self.worth[rows, self.default],
            self.usd[rows, self.default],
            np.ones(len(rows)),
            self.known[rows, chosen],
            *((self.ms[rows, chosen], self.ms[rows, self.default]) if self.timed else (zeros, zeros)),
        )
        return np.column_stack(columns) * self.weight[rows, None]

    @property
    def used(self) -> list[int]:
        """The columns of the models that any prompt could go to, and the default."""
        return sorted({self.default}.union(*self.orders))

    @property
    def timed(self) -> bool:
        """Whether all of those say how fast they are."""
        return not np.isnan(self.ms[:, self.used]).any()


def risk_sweep(choices: Choices) -> Sweep:
    """The sweep of `escalations.max_risk` with `select: first`."""
    return _sweep(choices, _risk_steps, 1.0, includes=True)


def weight_sweep(choices: Choices, weights: Weights, name: str) -> Sweep:
    """The sweep of one weight of `select` (quality, cost, ttft or itl), the others as they are."""

    def steps(choices: Choices, rows: NDArray[np.int64], order: Sequence[int]) -> _Steps:
        return _weight_steps(choices, rows, order, weights, name)

    return _sweep(choices, steps, math.inf, includes=False)


class _Steps(NamedTuple):
    """The model of each prompt at first, and the steps: at which values, which rows, from and to what."""

    first: NDArray[np.int64]
    taken: list[tuple[Floats, NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]


_StepsOf: TypeAlias = "Callable[[Choices, NDArray[np.int64], Sequence[int]], _Steps]"


def _sweep(choices: Choices, steps_of: _StepsOf, high: float, *, includes: bool) -> Sweep:
    count = len(choices.order)
    start = np.zeros((count, _COLUMNS))
    parts: list[tuple[Floats, NDArray[np.int64], Floats]] = []
    for place, order in enumerate(choices.orders):
        rows = np.flatnonzero(choices.order == place)
        if not len(rows):
            continue
        steps = steps_of(choices, rows, order)
        start[rows] = choices.sums(rows, steps.first)
        for at, which, before, after in steps.taken:
            change = choices.sums(rows[which], after) - choices.sums(rows[which], before)
            parts.append((at, rows[which], change))
    none = np.zeros(0), np.zeros(0, np.int64), np.zeros((0, start.shape[1]))
    at, row, change = (np.concatenate(column) for column in zip(none, *parts, strict=True))
    return Sweep(0.0, high, includes, start, at, row, change)


def _risk_steps(choices: Choices, rows: NDArray[np.int64], order: Sequence[int]) -> _Steps:
    """From the least risky at first, up the staircase of those that are less risky than all before them."""
    columns = np.array(order)
    believed = choices.believed[rows][:, columns]
    risk = np.where(
        np.isnan(believed), -np.inf, 1.0 - believed
    )  # of what too little is known, is not passed over
    current = risk.argmin(axis=1)
    first = columns[current]
    before = np.minimum.accumulate(np.column_stack([np.full(len(rows), np.inf), risk]), axis=1)[:, :-1]
    taken = []
    for place in range(len(columns) - 1, -1, -1):
        which = np.flatnonzero((risk[:, place] < before[:, place]) & (current > place))
        taken.append(
            (risk[which, place], which, columns[current[which]], np.full(len(which), columns[place]))
        )
        current[which] = place
    return _Steps(first, taken)


def _terms(choices: Choices, rows: NDArray[np.int64], order: Sequence[int]) -> dict[str, Floats]:
    """What each weight multiplies, (k, candidates) or (candidates,), more is better; see `catalog.rank`."""
    cards = [choices.cards[column] for column in order]
    believed = choices.believed[rows][:, order]
    return {
        "quality": np.where(np.isnan(believed), [declared_quality(card) for card in cards], believed),
        "cost": -np.array(filled([blended_usd(card) for card in cards])),
        "ttft": -np.array(filled([card.ttft_ms for card in cards])),
        "itl": -np.array(filled([card.itl_ms for card in cards])),
    }


def _weight_steps(
    choices: Choices, rows: NDArray[np.int64], order: Sequence[int], weights: Weights, name: str
) -> _Steps:
    """Along the upper envelope of the lines `merit + weight * gain`, from the best without `name` on."""
    columns = np.array(order)
    terms = _terms(choices, rows, order)
    gain = np.broadcast_to(terms.pop(name), (len(rows), len(columns)))
    merit = sum((getattr(weights, other) * term for other, term in terms.items()), np.zeros(gain.shape))
    current = merit.argmax(axis=1)
    first, taken = columns[current], []
    reached = np.zeros(len(rows))
    everyone = np.arange(len(rows))
    for _ in range(len(columns) - 1):
        gained = gain - gain[everyone, current][:, None]
        lost = merit[everyone, current][:, None] - merit
        at = np.divide(lost, gained, out=np.full(gained.shape, np.inf), where=gained > 0.0)
        # Of several that meet in one point the one that gains most is best behind it.
        soonest = at.min(axis=1, keepdims=True)
        following = np.where(at == soonest, gain, -np.inf).argmax(axis=1)
        which = np.flatnonzero(np.isfinite(soonest[:, 0]))
        if not len(which):
            break
        reached[which] = np.maximum(reached[which], soonest[which, 0])
        taken.append((reached[which], which, columns[current[which]], columns[following[which]]))
        current[which] = following[which]
    return _Steps(first, taken)
